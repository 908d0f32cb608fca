/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames of a guest, and what it says is left undone to them: looked at as the adapter does, by the first bytes alone, and as the default switch
 * does. A checksum that was deferred and filled in must be right, in one piece and in several alike; of a large segment each
 * piece must fit, and nothing may be for the host's loopback addresses. What was cut and is put together again must be as it was.
 */
#include <string.h>

#include "switch/nat_frames.h"

#define PIECES 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What an input begins with. */
struct told {
	struct virtio_net_hdr todo;
	uint16_t mss;
	uint8_t shape;
	uint8_t cuts[PIECES - 1];
};

/* Of a frame's bytes by chance few are a packet: what is put right by the shape. */
#define SHAPE_IPV4   1u
#define SHAPE_IPV6   2u
#define SHAPE_TCP    4u
#define SHAPE_LENGTH 8u
#define SHAPE_LARGE  16u
#define SHAPE_ACK    32u

static void must(bool condition)
{
	if (!condition)
		abort();
}

/* The bytes at the end of an allocation: one too far is seen. */
static uint8_t *copy(const uint8_t *bytes, size_t size)
{
	uint8_t *to = malloc(size ? size : 1);

	must(to);
	memcpy(to, bytes, size);
	return to;
}

static void shape(uint8_t *frame, size_t size, struct told *told)
{
	bool ipv6 = told->shape & SHAPE_IPV6;
	unsigned ip = FRAME_ETHERNET_SIZE, transport = ip + (ipv6 ? 40 : 20);

	if (size < transport + 20 || !(told->shape & (SHAPE_IPV4 | SHAPE_IPV6)))
		return;
	be16_put(frame + 12, ipv6 ? 0x86dd : 0x0800);
	frame[ip] = ipv6 ? 0x60 : 0x45;
	frame[ip + (ipv6 ? 6 : 9)] = told->shape & SHAPE_TCP ? FRAME_PROTOCOL_TCP : FRAME_PROTOCOL_UDP;
	if (!ipv6)
		be16_put(frame + ip + 6, 0);
	if (told->shape & SHAPE_LENGTH)
		be16_put(frame + ip + (ipv6 ? 4 : 2), (uint16_t)(size - (ipv6 ? transport : ip)));
	if (told->shape & SHAPE_TCP)
		be16_put(frame + transport + 12, (uint16_t)(told->shape & SHAPE_ACK ? 0x5010 : 0x5000 | (be16_get(frame + transport + 12) & 0x10ff)));
	if (told->shape & SHAPE_LARGE)
		told->todo.gso_type = ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
}

/* --- the slow way ------------------------------------------------------------------------------------------ */

static uint32_t add_words(uint32_t sum, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static bool transport_checksum_good(const uint8_t *frame, size_t size, const struct frame_layout *layout)
{
	const uint8_t *ip = frame + layout->ip;
	size_t length = size - layout->transport;
	uint8_t rest[6] = {[5] = layout->protocol};
	uint32_t sum = layout->ipv4 ? add_words(0, ip + 12, 8) : add_words(0, ip + 8, 32);

	be32_put(rest, (uint32_t)length);
	return add_words(add_words(sum, rest, sizeof(rest)), frame + layout->transport, length) == 0xffff;
}

static void check_layout(const struct frame_layout *layout, size_t available)
{
	if (layout->ipv4)
		must(layout->ip + 20 <= available);
	if (layout->ipv6)
		must(layout->ip + 40 <= available);
	must(!(layout->ipv4 && layout->ipv6));
	if (layout->protocol)
		must((layout->ipv4 || layout->ipv6) && layout->transport > layout->ip && layout->payload > layout->transport && layout->payload <= available);
}

/* --- as the adapter does ------------------------------------------------------------------------------------- */

static unsigned cut(struct iovec *iov, uint8_t *bytes, size_t size, const struct told *told)
{
	unsigned count = 0;
	size_t at = 0;

	for (; count < PIECES - 1 && at < size; count++) {
		size_t n = min_u64(told->cuts[count], size - at);

		iov[count] = (struct iovec){bytes + at, n};
		at += n;
	}
	iov[count++] = (struct iovec){bytes + at, size - at};
	return count;
}

static void complete_both_ways(const uint8_t *frame, size_t size, const struct virtio_net_hdr *todo, const struct frame_layout *deferred, const struct told *told)
{
	uint8_t *whole = copy(frame, size), *pieces = copy(frame, size);
	struct iovec iov[PIECES];
	unsigned count = cut(iov, pieces, size, told);
	bool good = frame_complete(whole, size, todo);

	must(frame_complete_iov(iov, count, size, todo) == good);
	must(!memcmp(whole, pieces, size));
	if (deferred)
		must(good && transport_checksum_good(whole, size, deferred));
	free(whole);
	free(pieces);
}

static void adapter(const uint8_t *frame, size_t size, const struct told *told)
{
	size_t available = min_u64(size, FRAME_HEADERS_MAX);
	uint8_t *headers = copy(frame, available), *plain = copy(frame, size);
	struct virtio_net_hdr todo = {0};
	struct frame_layout layout;
	bool parsed = frame_parse(headers, available, &layout);

	must(parsed == (size >= FRAME_ETHERNET_SIZE));
	if (parsed) {
		check_layout(&layout, available);
		if (layout.ipv4)
			frame_fill_ip4_checksum(headers, &layout);
		if (!frame_defer_checksum(headers, &layout, size, &todo)) {
			memcpy(plain, headers, available);
			complete_both_ways(plain, size, &todo, &layout, told);
		}
		todo = (struct virtio_net_hdr){0};
		if (!frame_defer_segmentation(headers, &layout, size, told->mss, &todo)) {
			must(todo.gso_size == (todo.gso_type ? told->mss : 0) && (!todo.gso_type || size - layout.payload > told->mss));
			memcpy(plain, headers, available);
			complete_both_ways(plain, size, &todo, &layout, told);
		}
	}
	complete_both_ways(frame, size, &told->todo, NULL, told); /* whatever was said of it */
	free(headers);
	free(plain);
}

/* --- as the default switch does ------------------------------------------------------------------------------ */

static void given(void *context, const uint8_t *frame, size_t size)
{
	const struct told *told = context;
	struct frame_layout layout;
	const uint8_t *ip;

	must(size >= FRAME_ETHERNET_SIZE && size <= FRAME_MAX_SIZE && frame_parse(frame, size, &layout));
	check_layout(&layout, size);
	ip = frame + layout.ip;
	if (layout.ipv4)
		must(ip[16] != 127 && ip[16] != 0);
	if (layout.ipv6)
		must(memcmp(ip + 24, (uint8_t[16]){[15] = 1}, 16));
	if ((told->todo.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6 && layout.ipv6 && layout.protocol == FRAME_PROTOCOL_TCP)
		must(size - layout.payload <= told->todo.gso_size && transport_checksum_good(frame, size, &layout));
}

static void default_switch(const uint8_t *frame, size_t size, struct told *told)
{
	uint8_t *message = malloc(sizeof(told->todo) + size);

	must(message);
	memcpy(message, &told->todo, sizeof(told->todo));
	memcpy(message + sizeof(told->todo), frame, size);
	nat_take_message(message, sizeof(told->todo) + size, given, told);
	free(message);
}

/* Segments as libslirp would send them: one that is followed by others with the payload of the first, from its start on. */
static void put_together(const uint8_t *frame, size_t size, const struct told *told)
{
	uint8_t *next = copy(frame, size);
	size_t total = size, offset;
	struct virtio_net_hdr todo;
	struct nat_run run;

	if (!nat_run_begin(&run, frame, size)) {
		free(next);
		return;
	}
	for (unsigned i = 0; i < PIECES - 1; i++) {
		size_t cut = size - min_u64(told->cuts[i], size - run.layout.payload - 1);

		be32_put(next + run.layout.transport + 4, run.next);
		be16_put(next + run.layout.ip + (run.layout.ipv4 ? 2 : 4), (uint16_t)(cut - (run.layout.ipv4 ? run.layout.ip : run.layout.transport)));
		if (!nat_run_add(&run, next, cut, &offset))
			break;
		must(offset == run.layout.payload);
		total += cut - offset;
	}
	must(run.size == total && run.head_size == sizeof(todo) + run.layout.payload);
	if (total > size) {
		nat_run_end(&run);
		memcpy(&todo, run.head, sizeof(todo));
		must(todo.gso_size == size - run.layout.payload && todo.gso_type && todo.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
	}
	free(next);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct told told;
	uint8_t *frame;

	if (size < sizeof(told))
		return 0;
	memcpy(&told, data, sizeof(told));
	size -= sizeof(told);
	frame = copy(data + sizeof(told), size);
	shape(frame, size, &told);
	adapter(frame, size, &told);
	default_switch(frame, size, &told);
	put_together(frame, size, &told);
	free(frame);
	return 0;
}
