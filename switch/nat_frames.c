/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/nat_frames.h"

#include <string.h>

#define HEADER  sizeof(struct virtio_net_hdr)
#define MSS_MIN 48u

#define IPV6_SIZE      40u
#define TCP_SEQUENCE   4u
#define TCP_FLAGS      13u
#define TCP_ONLY_LAST  0x09u /* FIN, PSH */
#define TCP_ONLY_FIRST 0x80u /* CWR */

/* A packet to 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104 belongs on no wire; libslirp would send it to the host itself. */
static bool is_to_loopback(const uint8_t *frame, const struct frame_layout *layout)
{
	static const uint8_t zero[15];
	const uint8_t *ip = frame + layout->ip;

	if (layout->ipv4)
		return ip[16] == 127 || ip[16] == 0;
	if (!layout->ipv6 || memcmp(ip + 24, zero, 10))
		return false;
	return (ip[34] == 0xff && ip[35] == 0xff) || (!memcmp(ip + 34, zero, 5) && ip[39] <= 1);
}

/* A large segment over IPv6 is cut here: libslirp takes no packet longer than its MTU there, while over IPv4 it does. */
static void take_segments(const uint8_t *frame, size_t size, const struct frame_layout *layout, unsigned mss, nat_frame_sink *give, void *context)
{
	unsigned head = layout->payload;
	uint32_t sequence = be32_get(frame + layout->transport + TCP_SEQUENCE);
	uint8_t segment[FRAME_MAX_SIZE];

	for (size_t at = head; at < size; at += mss) {
		size_t n = min_u64(mss, size - at);
		struct virtio_net_hdr todo = {0};

		memcpy(segment, frame, head);
		memcpy(segment + head, frame + at, n);
		be16_put(segment + layout->ip + 4, (uint16_t)(head + n - layout->ip - IPV6_SIZE));
		be32_put(segment + layout->transport + TCP_SEQUENCE, sequence + (uint32_t)(at - head));
		if (at + n < size)
			segment[layout->transport + TCP_FLAGS] &= (uint8_t)~TCP_ONLY_LAST;
		if (at > head)
			segment[layout->transport + TCP_FLAGS] &= (uint8_t)~TCP_ONLY_FIRST;
		if (frame_defer_checksum(segment, layout, head + n, &todo) || !frame_complete(segment, head + n, &todo))
			return;
		give(context, segment, head + n);
	}
}

void nat_take_message(uint8_t *message, size_t size, nat_frame_sink *give, void *context)
{
	struct virtio_net_hdr todo;
	struct frame_layout layout;
	uint8_t *frame = message + HEADER;
	bool cut;

	if (size < HEADER + FRAME_ETHERNET_SIZE || size > NAT_MESSAGE_MAX)
		return;
	size -= HEADER;
	memcpy(&todo, message, HEADER);
	cut = (todo.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6;
	/* Before it is looked at: where the checksum goes the message says, be it into an address. */
	if (!cut && !frame_complete(frame, size, &todo))
		return;
	if (!frame_parse(frame, size, &layout) || is_to_loopback(frame, &layout))
		return;
	if (!cut)
		give(context, frame, size);
	else if (layout.ipv6 && layout.protocol == FRAME_PROTOCOL_TCP && todo.gso_size >= MSS_MIN)
		take_segments(frame, size, &layout, todo.gso_size, give, context);
}
