/* SPDX-License-Identifier: GPL-2.0-or-later */
/* test_network_fixture.h - an adapter with the guest double before it, and the test as the network behind its port. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/double/netvsc.h"
#include "vsp/network/network.h"

#define RECEIVE_PAGES 1024u /* 4 MiB: sections of 8 KiB */
#define RING_PAGES    9u

extern const uint8_t mac[6], other[6];
extern const struct guid network_class;

struct fixture {
	struct guest *guest;
	struct vmbus *bus;
	struct network *network;
	struct network_meter *meter;
	struct port *port;
	struct guid instance;
	int peer; /* the network */
	struct netvsc n;
	struct netvsc_frame received;
};

/* An adapter whose channel is open, or that is negotiated too; for cmocka. */
int setup(void **state);
int setup_ready(void **state);
int setup_four(void **state); /* of a machine with four processors */
int teardown(void **state);

/* --- the network's side */

struct wire {
	struct virtio_net_hdr todo;
	uint8_t frame[66000];
	size_t size;
};

/* The next frame from the guest; what the adapter asks of its port is skipped. */
void take_frame(struct fixture *f, struct wire *w);
void put_frame(struct fixture *f, const struct virtio_net_hdr *todo, const void *frame, size_t size);
/* What the adapter asked its port for last. */
unsigned asked(struct fixture *f);

/* --- frames */

void addresses(uint8_t *frame, const uint8_t *to, const uint8_t *from, unsigned type);
/* An IPv4 or IPv6 packet of TCP or UDP with no checksum yet; returns the frame's size. */
size_t ip_frame(uint8_t *frame, bool ipv6, unsigned protocol, size_t payload, const uint8_t *to, const uint8_t *from);
/* Whether all checksums of a frame are right, computed the slow way. */
bool checksums_good(const uint8_t *frame, size_t size);

/* --- the guest's side */

/* How many sub-channels there are to open, UINT32_MAX: refused. */
uint32_t ask_channels(struct fixture *f, uint32_t count);
/* Opened for the processor of its own number. */
struct guest_channel *open_sub(struct fixture *f, unsigned index);
/* A number that the adapter tells of itself. */
uint64_t inspected(struct fixture *f, const char *name);

/* A page with a message of one frame, of so many bytes behind its headers; to be sent by any channel. 0, -EAGAIN: the ring is full. */
uint8_t *frame_page(struct fixture *f, size_t payload, size_t *size);
int send_page(struct fixture *f, struct guest_channel *channel, const void *page, size_t size);
/* Takes what a channel has; how many answers it was. */
unsigned take_answers(struct guest_channel *channel);
/* Bytes in a guest's ring that the adapter has not taken. */
uint32_t waiting_bytes(struct guest_channel *channel);

void set_offloads(struct fixture *f, bool checksums, bool coalesced);
