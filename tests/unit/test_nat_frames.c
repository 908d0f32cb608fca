// SPDX-License-Identifier: GPL-2.0-or-later
/* What the guest's frames go through on the default switch, before libslirp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "switch/nat_frames.h"

#define HEADER   sizeof(struct virtio_net_hdr)
#define IP       FRAME_ETHERNET_SIZE
#define TCP6     (IP + 40u)
#define FLAGS    13u
#define PAYLOAD  3000u
#define SEQUENCE 0xfffffc00u

struct given {
	unsigned count;
	size_t sizes[4];
	uint8_t frames[4][2000];
};

static void keep(void *context, const uint8_t *frame, size_t size)
{
	struct given *g = context;

	assert_in_range(g->count, 0, 3);
	assert_in_range(size, 1, sizeof(g->frames[0]));
	memcpy(g->frames[g->count], frame, size);
	g->sizes[g->count++] = size;
}

static void take(struct given *g, const struct virtio_net_hdr *todo, const uint8_t *frame, size_t size)
{
	uint8_t message[HEADER + 4000];

	memset(g, 0, sizeof(*g));
	memcpy(message, todo, HEADER);
	memcpy(message + HEADER, frame, size);
	nat_take_message(message, HEADER + size, keep, g);
}

static size_t datagram(uint8_t *frame, const uint8_t *to)
{
	memset(frame, 0, 60);
	be16_put(frame + 12, 0x0800);
	frame[IP] = 0x45;
	be16_put(frame + IP + 2, 46);
	frame[IP + 9] = FRAME_PROTOCOL_UDP;
	memcpy(frame + IP + 16, to, 4);
	return 60;
}

static void test_lengths(void **state)
{
	static const uint8_t to[4] = {192, 0, 2, 1};
	struct virtio_net_hdr none = {0};
	struct given g = {0};
	uint8_t frame[60];
	size_t size = datagram(frame, to);

	(void)state;
	take(&g, &none, frame, size);
	assert_int_equal(g.count, 1);
	assert_int_equal(g.sizes[0], size);
	take(&g, &none, frame, FRAME_ETHERNET_SIZE - 1);
	assert_int_equal(g.count, 0);
	none.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	none.csum_start = 59; /* with two bytes behind it, which are not there */
	take(&g, &none, frame, size);
	assert_int_equal(g.count, 0);
}

/* Also when the address is made of a checksum that is still to be filled in. */
static void test_loopback(void **state)
{
	static const uint8_t addresses[][4] = {{127, 0, 0, 1}, {127, 200, 0, 1}, {0, 0, 0, 0}};
	static const uint8_t other[4] = {0x80, 0xff, 0, 0}; /* the sum of what lies from there on, which is all: its complement is 0x7f00 */
	struct virtio_net_hdr todo = {0};
	uint8_t frame[60];
	struct given g;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
		take(&g, &todo, frame, datagram(frame, addresses[i]));
		assert_int_equal(g.count, 0);
	}
	todo.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	todo.csum_start = IP + 16;
	take(&g, &todo, frame, datagram(frame, other));
	assert_int_equal(g.count, 0);
	todo.csum_start = IP + 20;
	todo.csum_offset = 6;
	take(&g, &todo, frame, datagram(frame, other));
	assert_int_equal(g.count, 1);
}

static uint8_t flags_of(const struct given *g, unsigned i)
{
	return g->frames[i][TCP6 + FLAGS];
}

static void check_segment(const struct given *g, unsigned i, const uint8_t *payload, size_t at, size_t size)
{
	const uint8_t *frame = g->frames[i];
	struct frame_layout layout;

	assert_int_equal(g->sizes[i], TCP6 + 20 + size);
	assert_true(frame_parse(frame, g->sizes[i], &layout));
	assert_int_equal(be16_get(frame + IP + 4), 20 + size);
	assert_int_equal(be32_get(frame + TCP6 + 4), SEQUENCE + (uint32_t)at);
	assert_memory_equal(frame + TCP6 + 20, payload + at, size);
	assert_int_equal(frame_fold(frame_sum(frame_pseudo_sum(frame, &layout, 20 + size), frame + TCP6, 20 + size, false)), 0);
}

static void test_large_segment_over_ipv6(void **state)
{
	struct virtio_net_hdr todo = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN, .gso_size = 1400};
	uint8_t frame[TCP6 + 20 + PAYLOAD] = {0}, *payload = frame + TCP6 + 20;
	struct given g;

	(void)state;
	be16_put(frame + 12, 0x86dd);
	frame[IP] = 0x60;
	frame[IP + 6] = FRAME_PROTOCOL_TCP;
	frame[IP + 8] = frame[IP + 24] = 0x20;
	be32_put(frame + TCP6 + 4, SEQUENCE);
	frame[TCP6 + 12] = 0x50;
	frame[TCP6 + FLAGS] = 0x99; /* CWR, ACK, PSH, FIN */
	for (unsigned i = 0; i < PAYLOAD; i++)
		payload[i] = (uint8_t)(i * 7);
	take(&g, &todo, frame, sizeof(frame));
	assert_int_equal(g.count, 3);
	check_segment(&g, 0, payload, 0, 1400);
	check_segment(&g, 1, payload, 1400, 1400);
	check_segment(&g, 2, payload, 2800, 200);
	assert_int_equal(flags_of(&g, 0), 0x90);
	assert_int_equal(flags_of(&g, 1), 0x10);
	assert_int_equal(flags_of(&g, 2), 0x19);
	todo.gso_size = 1; /* thousands of packets of one */
	take(&g, &todo, frame, sizeof(frame));
	assert_int_equal(g.count, 0);
}

/* --- to the guest */

/* A segment of `size` bytes at `at` of a stream. */
static size_t segment(uint8_t *frame, bool ipv6, size_t at, size_t size, uint8_t flags)
{
	unsigned transport = ipv6 ? TCP6 : IP + 20;

	memset(frame, 0, transport + 20);
	be16_put(frame + 12, ipv6 ? 0x86dd : 0x0800);
	frame[IP] = ipv6 ? 0x60 : 0x45;
	if (ipv6)
		frame[IP + 24] = 0x20;
	be16_put(frame + IP + (ipv6 ? 4 : 2), (uint16_t)(20 + size + (ipv6 ? 0 : 20)));
	if (!ipv6)
		be16_put(frame + IP + 4, (uint16_t)at); /* identification: of each its own */
	frame[IP + (ipv6 ? 6 : 9)] = FRAME_PROTOCOL_TCP;
	be32_put(frame + transport + 4, SEQUENCE + (uint32_t)at);
	frame[transport + 12] = 0x50;
	frame[transport + FLAGS] = flags;
	for (size_t i = 0; i < size; i++)
		frame[transport + 20 + i] = (uint8_t)((at + i) * 7);
	return transport + 20 + size;
}

/* What becomes one arrives as one that is cut into the same segments again. */
static void check_run(bool ipv6)
{
	uint8_t frame[2000], whole[HEADER + 5000];
	struct virtio_net_hdr todo;
	struct nat_run run;
	size_t size = segment(frame, ipv6, 0, 1400, 0x10), offset;

	assert_true(nat_run_begin(&run, frame, size));
	memcpy(whole + run.head_size, frame + run.layout.payload, 1400);
	size = segment(frame, ipv6, 1400, 1400, 0x10);
	assert_true(nat_run_add(&run, frame, size, &offset));
	memcpy(whole + run.head_size + 1400, frame + offset, 1400);
	size = segment(frame, ipv6, 2800, 200, 0x18);
	assert_true(nat_run_add(&run, frame, size, &offset));
	memcpy(whole + run.head_size + 2800, frame + offset, 200);
	size = segment(frame, ipv6, 3000, 200, 0x10);
	assert_false(nat_run_add(&run, frame, size, &offset)); /* behind a short one */
	nat_run_end(&run);
	memcpy(whole, run.head, run.head_size);
	memcpy(&todo, whole, HEADER);
	assert_int_equal(todo.gso_type, ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(todo.gso_size, 1400);
	assert_int_equal(todo.hdr_len, run.layout.payload);
	assert_int_equal(run.size, run.layout.payload + 3000);
	assert_int_equal(whole[HEADER + run.layout.transport + FLAGS], 0x18);
	if (ipv6) {
		struct given g = {0};

		nat_take_message(whole, HEADER + run.size, keep, &g);
		assert_int_equal(g.count, 3);
		for (unsigned i = 0; i < 3; i++)
			check_segment(&g, i, whole + run.head_size, i * 1400, i < 2 ? 1400 : 200);
		assert_int_equal(flags_of(&g, 2), 0x18);
	} else {
		assert_int_equal(be16_get(whole + HEADER + IP + 2), run.size - IP);
		assert_int_equal(frame_fold(frame_sum(0, whole + HEADER + IP, 20, false)), 0);
	}
}

static void test_runs(void **state)
{
	(void)state;
	check_run(false);
	check_run(true);
}

static void test_no_runs(void **state)
{
	uint8_t frame[2000];
	struct nat_run run;
	size_t size, offset;

	(void)state;
	for (unsigned i = 0; i < 8; i++) { /* another connection, byte of the stream, length, acknowledgement, window, time to live, flags */
		static const struct {
			unsigned at;
			uint8_t change;
		} changes[] = {{IP + 15, 1}, {IP + 23, 2}, {IP + 20 + 7, 1}, {IP + 20 + 9, 1}, {IP + 20 + 15, 1}, {IP + 8, 1}, {IP + 20 + FLAGS, 1}, {11, 1}};

		size = segment(frame, false, 0, 1000, 0x10);
		assert_true(nat_run_begin(&run, frame, size));
		size = segment(frame, false, 1000, 1000, 0x10);
		frame[changes[i].at] ^= changes[i].change;
		assert_false(nat_run_add(&run, frame, size, &offset));
		frame[changes[i].at] ^= changes[i].change;
		assert_true(nat_run_add(&run, frame, size, &offset));
	}
	assert_false(nat_run_begin(&run, frame, segment(frame, false, 0, 1000, 0x18)));
	assert_false(nat_run_begin(&run, frame, segment(frame, false, 0, 1000, 0x11)));
	assert_false(nat_run_begin(&run, frame, segment(frame, true, 0, 0, 0x10)));
	assert_false(nat_run_begin(&run, frame, segment(frame, true, 0, 20, 0x10)));
	assert_false(nat_run_begin(&run, frame, segment(frame, false, 0, 1000, 0x10) + 1)); /* padded */
	size = segment(frame, false, 0, 1400, 0x10);
	assert_true(nat_run_begin(&run, frame, size));
	for (unsigned i = 1; i < 46; i++) /* 64400 bytes of payload, and the headers */
		assert_true(nat_run_add(&run, frame, segment(frame, false, i * 1400, 1400, 0x10), &offset));
	assert_false(nat_run_add(&run, frame, segment(frame, false, 46u * 1400, 1400, 0x10), &offset));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lengths),
	    cmocka_unit_test(test_loopback),
	    cmocka_unit_test(test_large_segment_over_ipv6),
	    cmocka_unit_test(test_runs),
	    cmocka_unit_test(test_no_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
