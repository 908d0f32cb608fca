/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest.h - the guest double: a small VMBus client over shared memory, for tests and fuzzers.
 *
 * It drives a partition that has no processor (PROCESSOR_NONE) as a guest kernel would: enables the
 * SynIC by MSR, posts messages and signals by hypercall, reads its message and event pages, lends
 * memory by GPADL, opens channels and exchanges packets over rings. It can also do all that wrongly:
 * every layer is open, down to raw messages and ring words.
 *
 * One thread uses a guest. Functions that wait for the host do so for at most ten seconds, and return
 * -ETIMEDOUT then. Errors are negative errno. All memory comes from a heap in the partition's RAM and
 * is given back only by guest_destroy().
 *
 *	struct guest *guest = guest_create(16);                    // 16 MiB, one VP
 *	... create a vmbus and providers on guest_partition(guest) ...
 *	guest_connect(guest, VMBUS_VERSION_WIN10_V5_3);
 *	guest_request_offers(guest);
 *	const struct vmbus_message_offer *offer = guest_find_offer(guest, &interface, 0);
 *	guest_open(guest, offer, 4, 4, NULL, &channel);            // pages of each ring, header included
 *	guest_send(channel, VMBUS_PACKET_IN_BAND, 1, 7, request, sizeof(request));
 *	size = guest_receive(channel, &header, buffer, sizeof(buffer));
 */
#pragma once

#include "hypervisor/hypervisor.h"
#include "vmbus/protocol.h"

struct guest;
struct guest_channel;

/* --- the machine -------------------------------------------------------------------------------- */

/* A started partition with `megabytes` of RAM at 0 and `vp_count` processors that do not exist, SynIC
 * on, SINT 2 unmasked, the double inside. NULL on failure (said on standard error). */
struct guest *guest_create_vps(unsigned megabytes, unsigned vp_count);
struct guest *guest_create(unsigned megabytes);

/* After everything on the partition is gone. */
void guest_destroy(struct guest *guest);

struct partition *guest_partition(struct guest *guest);

/* --- memory ------------------------------------------------------------------------------------- */

/* `pages` of zeroed, contiguous guest memory, its guest physical address in *gpa (may be NULL). The
 * double stops the test (abort) when the heap is exhausted. */
void *guest_alloc(struct guest *guest, unsigned pages, gpa_t *gpa);
void *guest_at(struct guest *guest, gpa_t gpa);
gpa_t guest_gpa(struct guest *guest, const void *memory);

/* With `scatter`, rings and GPADL buffers that the double allocates use pages in reverse order with
 * holes between them: nothing is contiguous. Off by default. */
void guest_set_scatter(struct guest *guest, bool scatter);

/* --- messages ----------------------------------------------------------------------------------- */

struct guest_message {
	uint32_t type; /* VMBUS_MSG_… */
	uint32_t size;
	uint8_t bytes[SYNIC_MESSAGE_PAYLOAD];
};

/* Post raw bytes; retries while the host's queue is full. Returns the hypercall's status (0 is well,
 * 0x12 invalid connection id), or -ETIMEDOUT. */
int guest_post_raw(struct guest *guest, uint32_t connection_id, uint32_t synic_type, const void *bytes,
		   size_t size);

/* Post a channel message on the connection id that was agreed; fills the header's type. */
int guest_post(struct guest *guest, uint32_t type, void *message, size_t size);

/* Take the message out of the slot of the VP that was named at contact, if there is one. Offers and
 * rescinds are noted on the way (see guest_find_offer). False: none. */
bool guest_poll_message(struct guest *guest, struct guest_message *message);

/* Wait for the next message of `type`; others that come before it are kept for later calls. */
int guest_wait_message(struct guest *guest, uint32_t type, struct guest_message *message);

/* Whether a message of that type is here, without waiting. */
bool guest_has_message(struct guest *guest, uint32_t type);

/* Forget all kept messages and drain the slot. */
void guest_flush_messages(struct guest *guest);

/* --- contact ------------------------------------------------------------------------------------ */

/* 0, -ECONNREFUSED when the host does not know the version, -ETIMEDOUT. The target VP is 0. */
int guest_connect(struct guest *guest, uint32_t version);
int guest_connect_vp(struct guest *guest, uint32_t version, unsigned target_vp);
uint32_t guest_version(const struct guest *guest);
uint32_t guest_message_connection(const struct guest *guest);

/* Up to ALLOFFERS_DELIVERED. */
int guest_request_offers(struct guest *guest);
int guest_unload(struct guest *guest);

/* The offer of that interface and sub-channel index, waiting for it. NULL after ten seconds. Valid until
 * it is rescinded and released, or unload. */
const struct vmbus_message_offer *guest_find_offer(struct guest *guest, const struct guid *interface,
						   unsigned subchannel_index);
/* The same, telling devices of one class apart by instance (NULL: any). */
const struct vmbus_message_offer *guest_find_instance(struct guest *guest, const struct guid *interface,
						      const struct guid *instance, unsigned subchannel_index);

/* How many offers there are now, with no waiting (after draining the slot). */
unsigned guest_offer_count(struct guest *guest);

/* Wait until the host rescinds `relid`, then release it. The offer is gone. */
int guest_wait_rescind(struct guest *guest, uint32_t relid);
int guest_release_relid(struct guest *guest, uint32_t relid);

/* --- GPADLs ------------------------------------------------------------------------------------- */

/* Describe `pages` page numbers as one range of size bytes from `byte_offset`. 0 and *handle, or -EDQUOT when
 * the host refused. */
int guest_gpadl(struct guest *guest, uint32_t relid, const uint64_t *pfns, unsigned pages,
		uint32_t byte_offset, uint32_t size, uint32_t *handle);

/* Allocate `pages` pages (scattered if asked for) and lend them. pfns (may be NULL) receives the numbers. */
int guest_gpadl_alloc(struct guest *guest, uint32_t relid, unsigned pages, uint64_t *pfns, uint32_t *handle);
int guest_gpadl_teardown(struct guest *guest, uint32_t relid, uint32_t handle);

/* --- channels ----------------------------------------------------------------------------------- */

struct guest_open_options {
	uint32_t target_vp;
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE];
	bool no_pending_send_size; /* leave the feature bit off, as guests before Windows 8 */
};

/* Lend rings of in_pages (guest to host) and out_pages, and open. -ECONNREFUSED with the host's status
 * in guest_open_status(). `options` may be NULL. */
int guest_open(struct guest *guest, const struct vmbus_message_offer *offer, unsigned in_pages,
	       unsigned out_pages, const struct guest_open_options *options, struct guest_channel **out);
uint32_t guest_open_status(const struct guest *guest);

/* CLOSECHANNEL and teardown of the rings; frees `channel`. */
int guest_close(struct guest_channel *channel);

/* CLOSECHANNEL alone, and freeing the double's side alone (guest_destroy() frees what is left). */
int guest_post_close(struct guest_channel *channel);
void guest_channel_free(struct guest_channel *channel);

uint32_t guest_channel_relid(const struct guest_channel *channel);
uint32_t guest_channel_ring_gpadl(const struct guest_channel *channel);
int guest_modify(struct guest_channel *channel, uint32_t target_vp);

/* Send a packet, signalling as Linux does (the ring was empty and the mask clear). -EAGAIN: full. */
int guest_send(struct guest_channel *channel, uint16_t type, uint16_t flags, uint64_t transaction_id,
	       const void *payload, size_t size);

/* The same with the payload behind GPA ranges: `ranges_size` bytes as they go on the wire after the range
 * count (byte count, byte offset, page numbers, again). */
int guest_send_gpa_direct(struct guest_channel *channel, uint16_t flags, uint64_t transaction_id,
			  const void *ranges, size_t ranges_size, uint32_t range_count, const void *payload,
			  size_t size);

/* For the usual case: one range over `size` bytes of guest memory at `memory` (contiguous). */
int guest_send_buffer(struct guest_channel *channel, uint64_t transaction_id, const void *memory,
		      uint32_t memory_size, const void *payload, size_t size);

/* A packet whose bytes are all the caller's, header included; the trailer is added. */
int guest_send_raw(struct guest_channel *channel, const void *packet, size_t size);

/* Wait for the next packet: its header, and its payload in buffer. Returns the payload's size, -EMSGSIZE,
 * -ETIMEDOUT. */
int guest_receive(struct guest_channel *channel, struct vmbus_packet_header *header, void *buffer,
		  size_t capacity);

/* The same without waiting: -EAGAIN when there is none. The header counts from the packet's start, so the
 * bytes between header and payload (transfer-page ranges) can be had by guest_receive_raw(). */
int guest_try_receive(struct guest_channel *channel, struct vmbus_packet_header *header, void *buffer,
		      size_t capacity);
int guest_receive_raw(struct guest_channel *channel, void *packet, size_t capacity);

/* Whether the host signalled this channel since the last call (event flag, or interrupt page bit). */
bool guest_take_event(struct guest_channel *channel);

/* Signal the host: the channel's connection id, or, before 1.1, the interrupt page and id 2. */
int guest_signal(struct guest_channel *channel);
/* Signal through the interrupt page (versions before 5.0), as iPXE does; through the monitor page. */
int guest_signal_interrupt_page(struct guest_channel *channel);
void guest_signal_monitor(struct guest_channel *channel);

/* The ring headers, to lie in: the guest's (guest to host) and the host's. */
volatile struct vmbus_ring_header *guest_in_ring(struct guest_channel *channel);
volatile struct vmbus_ring_header *guest_out_ring(struct guest_channel *channel);
uint32_t guest_in_size(const struct guest_channel *channel);
uint32_t guest_out_size(const struct guest_channel *channel);
void guest_ring_poke(struct guest_channel *channel, uint32_t index, const void *bytes, size_t size);

/* --- waiting ------------------------------------------------------------------------------------ */

/* Wait until condition(context) or ten seconds; false then. */
bool guest_wait(bool (*condition)(void *context), void *context);
