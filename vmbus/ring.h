/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.h - one direction of a VMBus channel: a ring of bytes in guest memory.
 *
 * Host and guest each own one index. The guest is not trusted: our index is kept here and only
 * published, theirs is checked against the size that was fixed at ring_open() each time it is read.
 * The pages may lie anywhere in guest memory, so everything is copied page by page. Nothing here
 * blocks or allocates. One thread may read, or one may write, at a time.
 *
 * Private to vmbus/.
 * Source: Linux drivers/hv/ring_buffer.c, include/linux/hyperv.h (struct hv_ring_buffer).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmbus/protocol.h"

struct partition;

struct ring {
	struct partition *partition;      /* is told what we write */
	struct vmbus_ring_header *header; /* guest memory */
	uint8_t *const *pages;            /* of the data; the array and the memory are the caller's */
	uint32_t size;                    /* bytes of data */
	uint32_t index;                   /* ours: of the next byte to read or to write */
	bool masked;                      /* reader: what we last wrote to the interrupt mask */
	bool waiting;                     /* writer: pending_send_size is set */
};

/* A ring over `page_count` pages of the partition, the header's included. -EINVAL if there is no data page or
 * an index lies outside. `writer`: the host writes this one. `partition` may be NULL: nobody is told. */
int ring_open(struct ring *ring, struct partition *partition, uint8_t *const *pages, unsigned page_count,
	      bool writer);

/* Go on at an index that was ours before, whatever the guest has put into the header since. False: it lies outside. */
bool ring_set_index(struct ring *ring, uint32_t index);

/* --- reader ------------------------------------------------------------------------------------- */

/* Copy the next packet's header. 1: there is one, and all its bytes are in the ring; 0: empty, and the
 * guest will signal; -EPROTO: an index or a length lies. */
int ring_peek(struct ring *ring, struct vmbus_packet_header *header);

/* Copy bytes of the peeked packet, counted from its header. The caller stays inside its length. */
void ring_copy_out(const struct ring *ring, uint32_t offset, void *to, size_t size);

/* Done with the peeked packet of `length` bytes. True: the guest waits for this room, signal it. */
bool ring_consume(struct ring *ring, uint32_t length);

/* --- writer ------------------------------------------------------------------------------------- */

/* Append one packet made of `parts`, padded to eight bytes, and its trailer. *signal: the guest must
 * be signalled. -EAGAIN: no room, the guest was asked to signal when there is; -EMSGSIZE: it can
 * never fit; -EPROTO: the guest's index lies. */
int ring_write(struct ring *ring, const struct iovec *parts, unsigned count, bool *signal);

/* Whether the guest promised to signal when it makes room (a bit of the ring that it writes). */
bool ring_peer_signals_room(const struct ring *guest_ring);

/* Bytes between the shared indices, for inspection; 0 when they lie. */
uint32_t ring_depth(const struct ring *ring);
