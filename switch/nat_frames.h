/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nat_frames.h - what the guest's frames go through before libslirp sees them, and libslirp's on the way to the guest.
 *
 * A message of the guest is a `struct virtio_net_hdr` and a frame. Its length is checked, what it left undone is done, and a
 * large segment over IPv6 is cut. Left out is what would reach the host's loopback addresses, what is malformed, and what
 * says of itself what cannot be.
 *
 * Segments of a TCP connection that follow each other become one message to the guest, if it takes such.
 *
 * Nothing here allocates, or keeps state beside what the caller has.
 */
#pragma once

#include "switch/frame.h"

#define NAT_MESSAGE_MAX (sizeof(struct virtio_net_hdr) + FRAME_MAX_SIZE)

/* A frame with nothing left undone, or a large segment over IPv4 as one packet with its checksum: libslirp takes these. The bytes are the caller's. */
typedef void nat_frame_sink(void *context, const uint8_t *frame, size_t size);

/* One message, which is written to; `size` may be anything. Calls `give` for each frame that came of it. */
void nat_take_message(uint8_t *message, size_t size, nat_frame_sink *give, void *context);

/* Segments that follow each other, of which the first is a full one: what they have in common is in `head`. */
struct nat_run {
	uint8_t head[sizeof(struct virtio_net_hdr) + FRAME_HEADERS_MAX];
	size_t head_size; /* with the virtio header */
	struct frame_layout layout;
	size_t size; /* of the frame that they become */
	unsigned mss;
	uint32_t next; /* sequence number */
	bool ended;
};

/* A frame of libslirp, with its checksums. False: it is none that others could follow. */
bool nat_run_begin(struct nat_run *run, const uint8_t *frame, size_t size);

/* Whether the frame follows; then its payload, which begins at *offset, comes behind what is there. */
bool nat_run_add(struct nat_run *run, const uint8_t *frame, size_t size, size_t *offset);

/* After the last of at least two: the head is made that of a large segment, with the checksum left undone. */
void nat_run_end(struct nat_run *run);
