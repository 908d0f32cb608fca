/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * frame.h - the headers of an Ethernet frame: where they lie, their checksums, and what is left undone to a frame
 * on its way between an adapter and the port behind it.
 *
 * What is left undone is told in the words of `struct virtio_net_hdr` (virtio 1.2, 5.1.6), which Linux's tap driver
 * speaks: a checksum to be filled in, a TCP segment to be cut into several.
 *
 * Nothing here allocates, keeps state or trusts a length in a frame. Any thread.
 * Source: IEEE 802.3, 802.1Q; RFC 791, 8200, 9293, 768, 1071.
 */
#pragma once

#include <linux/virtio_net.h>
#include <sys/uio.h>

#include "base/base.h"

#define FRAME_MAC_SIZE      6u
#define FRAME_ETHERNET_SIZE 14u
#define FRAME_VLAN_SIZE     4u
#define FRAME_HEADERS_MAX   192u /* headers that offloads look at lie within the first bytes of a frame */
#define FRAME_MAX_SIZE      (FRAME_ETHERNET_SIZE + FRAME_VLAN_SIZE + 65535u)

/* As virtio calls them: Linux's header carries `flags` etc. as plain little-endian numbers on an x86 host. */
_Static_assert(sizeof(struct virtio_net_hdr) == 10, "wire layout");

#define FRAME_PROTOCOL_TCP 6u
#define FRAME_PROTOCOL_UDP 17u

struct frame_layout {
	uint16_t ethertype; /* behind VLAN tags */
	uint8_t protocol;   /* of the packet: TCP, UDP, or else 0; 0 for a fragment too */
	bool ipv4, ipv6;
	unsigned ip;        /* offset of the IP header */
	unsigned transport; /* offset of the TCP or UDP header, when protocol is set */
	unsigned payload;   /* offset behind it */
};

/* Looks at the first `available` bytes of a frame. False: not even an Ethernet header. What does not fit or is malformed is
 * left out: no IP header, or no transport header. */
bool frame_parse(const uint8_t *frame, size_t available, struct frame_layout *out);

/* Ones' complement sum of bytes, not folded into 16 bits of network order: start with 0 or another's result; `odd` tells
 * that an odd number of bytes went before. */
uint64_t frame_sum(uint64_t sum, const uint8_t *bytes, size_t size, bool odd);

/* The checksum field's value (as bytes in memory) from such a sum. */
uint16_t frame_fold(uint64_t sum);

/* Fill the IPv4 header's checksum. The layout is of these bytes. */
void frame_fill_ip4_checksum(uint8_t *headers, const struct frame_layout *layout);

/* The sum of the pseudo header of `length` bytes of TCP or UDP, header included. */
uint64_t frame_pseudo_sum(const uint8_t *headers, const struct frame_layout *layout, size_t length);

/*
 * Leave the transport checksum to whoever comes next: the pseudo header's sum goes into the field, and `todo` says where it
 * is. `size` is of the whole frame. -EINVAL: neither TCP nor UDP, or a length in a header that is not the frame's.
 */
int frame_defer_checksum(uint8_t *headers, const struct frame_layout *layout, size_t size, struct virtio_net_hdr *todo);

/* The same for a TCP segment that is to be cut into pieces with `mss` bytes of payload. The lengths in the IP header
 * are filled, which some guests zero. -EINVAL: no TCP, or a segment size that cannot be. */
int frame_defer_segmentation(uint8_t *headers, const struct frame_layout *layout, size_t size, unsigned mss,
    struct virtio_net_hdr *todo);

/* Fill in the checksum that `todo` defers, over a frame in one piece, or in several. A large segment gets the checksum of
 * itself as one packet. False: `todo` points outside the frame. */
bool frame_complete(uint8_t *frame, size_t size, const struct virtio_net_hdr *todo);
bool frame_complete_iov(const struct iovec *iov, unsigned count, size_t size, const struct virtio_net_hdr *todo);

/* Copy out of, into, scattered bytes: how many lie there. */
size_t frame_copy_out(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t size);
size_t frame_copy_in(const struct iovec *iov, unsigned count, size_t offset, const void *from, size_t size);
