/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * netvsc.h - a network driver of the guest double: what netvsc does, over one channel. For tests and fuzzers.
 *
 * Functions that can fail return 0 or a negative errno; those that wait do so as the double does.
 */
#pragma once

#include "tests/double/guest.h"
#include "vsp/network/nvsp_protocol.h"
#include "vsp/network/rndis_protocol.h"

#define NETVSC_SECTIONS 16u

struct netvsc {
	struct guest *guest;
	struct guest_channel *channel;
	uint32_t version;
	uint8_t *receive_buffer, *send_buffer; /* contiguous */
	uint32_t receive_gpadl, send_gpadl;
	size_t receive_size;
	uint32_t section_size;              /* of the send buffer */
	uint32_t receive_section, receive_sections;
	uint8_t *page;                      /* 32 pages for what is sent by page */
	uint64_t next_id;
	uint32_t next_request;
	uint32_t completed, last_status;    /* RNDIS packets of ours */
	bool keep;                          /* do not complete received packets */
	uint64_t kept[64];
	unsigned kept_count;

	/* The ranges of a received packet that are not looked at yet. */
	struct vmbus_transfer_page_range ranges[64];
	unsigned range_count, range_next;
	uint32_t channel_type;
	uint64_t packet_id;
};

/* Find the adapter's offer and open it. No message yet. */
int netvsc_open(struct netvsc *n, struct guest *guest, unsigned ring_pages);

/* An NVSP message and its completion, in place. */
int netvsc_exchange(struct netvsc *n, struct nvsp_message *message);

/* Version, NDIS version and configuration, both buffers, RNDIS initialisation. */
int netvsc_negotiate(struct netvsc *n, uint32_t version, unsigned mtu, unsigned receive_pages);
int netvsc_version(struct netvsc *n, uint32_t version);
int netvsc_buffers(struct netvsc *n, unsigned receive_pages);

/* Take the receive buffer back, with all packets in it done. */
int netvsc_revoke_receive_buffer(struct netvsc *n);

/* Queries and settings: the RNDIS status; *size in and out for a query. -ETIMEDOUT. */
int64_t netvsc_query(struct netvsc *n, uint32_t oid, void *value, size_t *size);
int64_t netvsc_set(struct netvsc *n, uint32_t oid, const void *value, size_t size);
int netvsc_set_filter(struct netvsc *n, uint32_t filter);

/* A control message of any content. */
int netvsc_send_control(struct netvsc *n, const void *message, size_t size);

/* An RNDIS packet message around a frame; `info` bytes go before it. Returns its size. */
size_t netvsc_message(uint8_t *to, const void *frame, size_t size, const void *info, size_t info_size);
size_t netvsc_info(uint8_t *to, uint32_t type, uint32_t value);

/* Send messages (RNDIS bytes) by a section of the send buffer, or by pages. */
int netvsc_send_section(struct netvsc *n, unsigned section, const void *bytes, size_t size);
int netvsc_send_pages(struct netvsc *n, const void *bytes, size_t size);

/* One frame with information, by pages; waits for the completion and returns its status. */
int netvsc_send_frame(struct netvsc *n, const void *frame, size_t size, const void *info, size_t info_size);

/* Take packets until `count` of our own are completed. */
int netvsc_wait_completed(struct netvsc *n, uint32_t count);

/* The next message that the host sent: its bytes, in the receive buffer. Packets are completed when all their messages were taken. */
int netvsc_receive(struct netvsc *n, uint8_t **message, size_t *size);

/* The next frame, coalesced pieces put together: its bytes, and what the information said (0xffffffff: nothing). */
struct netvsc_frame {
	uint8_t bytes[66000];
	size_t size;
	unsigned pieces;
	uint32_t checksum, vlan;
};
int netvsc_receive_frame(struct netvsc *n, struct netvsc_frame *frame);

/* Take a message if there is one; whether there was any. */
bool netvsc_poll(struct netvsc *n);

/* Give the packet back that was taken last, whatever is left of it: before another channel is looked at. */
void netvsc_release(struct netvsc *n);

int netvsc_complete(struct netvsc *n, uint64_t id);
