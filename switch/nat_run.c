/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>

#include "switch/nat_frames.h"

#define HEADER sizeof(struct virtio_net_hdr)

#define IPV4_LENGTH   2u
#define IPV4_ID       4u
#define IPV4_CHECKSUM 10u
#define IPV6_LENGTH   4u
#define IPV6_SIZE     40u
#define TCP_SEQUENCE  4u
#define TCP_FLAGS     13u
#define TCP_CHECKSUM  16u
#define MSS_MIN       48u /* what a large segment may consist of, in frame.c */
#define FLAG_PUSH     0x08u
#define FLAG_ACK      0x10u

/* Where a TCP segment without padding has its headers, of which nothing but the acknowledgement is told, and what it carries. False: it is something else. */
static bool is_plain_segment(const uint8_t *frame, size_t size, struct frame_layout *layout)
{
	const uint8_t *ip = frame + FRAME_ETHERNET_SIZE;
	size_t told;

	if (!frame_parse(frame, min_u64(size, FRAME_HEADERS_MAX), layout) || layout->protocol != FRAME_PROTOCOL_TCP || layout->ip != FRAME_ETHERNET_SIZE)
		return false;
	if (layout->transport - layout->ip != (layout->ipv4 ? 20 : IPV6_SIZE))
		return false;
	told = layout->ipv4 ? be16_get(ip + IPV4_LENGTH) : be16_get(ip + IPV6_LENGTH) + (size_t)IPV6_SIZE;
	return layout->ip + told == size && size > layout->payload && (frame[layout->transport + TCP_FLAGS] & ~FLAG_PUSH) == FLAG_ACK;
}

bool nat_run_begin(struct nat_run *run, const uint8_t *frame, size_t size)
{
	const uint8_t *tcp;

	memset(run, 0, sizeof(*run));
	if (!is_plain_segment(frame, size, &run->layout))
		return false;
	tcp = frame + run->layout.transport;
	run->mss = (unsigned)(size - run->layout.payload);
	run->next = be32_get(tcp + TCP_SEQUENCE) + run->mss;
	run->size = size;
	run->head_size = HEADER + run->layout.payload;
	memcpy(run->head + HEADER, frame, run->layout.payload);
	return run->mss >= MSS_MIN && !(tcp[TCP_FLAGS] & FLAG_PUSH);
}

/* But for what differs from one segment to the next. */
static bool headers_alike(const uint8_t *a, const uint8_t *b, const struct frame_layout *layout)
{
	uint8_t heads[2][FRAME_HEADERS_MAX];

	memcpy(heads[0], a, layout->payload);
	memcpy(heads[1], b, layout->payload);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *ip = heads[i] + layout->ip, *tcp = heads[i] + layout->transport;

		if (layout->ipv4) {
			memset(ip + IPV4_LENGTH, 0, 2);
			memset(ip + IPV4_ID, 0, 2);
			memset(ip + IPV4_CHECKSUM, 0, 2);
		} else {
			memset(ip + IPV6_LENGTH, 0, 2);
		}
		memset(tcp + TCP_SEQUENCE, 0, 4);
		memset(tcp + TCP_CHECKSUM, 0, 2);
		tcp[TCP_FLAGS] &= (uint8_t)~FLAG_PUSH;
	}
	return !memcmp(heads[0], heads[1], layout->payload);
}

bool nat_run_add(struct nat_run *run, const uint8_t *frame, size_t size, size_t *offset)
{
	uint8_t *head = run->head + HEADER;
	struct frame_layout layout;
	size_t payload;

	if (run->ended || !is_plain_segment(frame, size, &layout) || layout.payload != run->layout.payload || layout.ipv4 != run->layout.ipv4)
		return false;
	payload = size - layout.payload;
	if (payload > run->mss || run->size + payload > FRAME_ETHERNET_SIZE + 65535u ||
	    be32_get(frame + layout.transport + TCP_SEQUENCE) != run->next || !headers_alike(head, frame, &layout))
		return false;
	run->ended = payload < run->mss || frame[layout.transport + TCP_FLAGS] & FLAG_PUSH;
	head[layout.transport + TCP_FLAGS] |= frame[layout.transport + TCP_FLAGS];
	run->next += (uint32_t)payload;
	run->size += payload;
	*offset = layout.payload;
	return true;
}

void nat_run_end(struct nat_run *run)
{
	struct virtio_net_hdr todo = {0};

	/* Its lengths are those that it was begun and continued with, so it cannot be refused. */
	if (!frame_defer_segmentation(run->head + HEADER, &run->layout, run->size, run->mss, &todo))
		memcpy(run->head, &todo, HEADER);
}
