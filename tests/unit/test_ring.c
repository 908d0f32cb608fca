// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring.c - one ring over pages that do not touch each other: order, wrapping, signals, and a
 * guest that lies about indices and lengths.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "vmbus/ring.h"

#define PAGES 4u
#define SIZE  ((PAGES - 1) * 4096u)

/* Host memory in the place of the guest's: pages in falling order with gaps between. */
struct pages {
	_Alignas(4096) uint8_t memory[PAGES * 2][4096];
	uint8_t *list[PAGES];
	struct vmbus_ring_header *header;
};

static struct pages *new_pages(void)
{
	struct pages *pages = aligned_alloc(4096, sizeof(*pages));

	assert_non_null(pages);
	memset(pages, 0, sizeof(*pages));
	for (unsigned i = 0; i < PAGES; i++)
		pages->list[i] = pages->memory[(PAGES - 1 - i) * 2];
	pages->header = (void *)pages->list[0];
	return pages;
}

static void put(struct pages *pages, uint32_t at, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++, at++)
		pages->list[1 + at % SIZE / 4096][at % 4096] = ((const uint8_t *)bytes)[i];
}

static int write_packet(struct ring *ring, uint64_t id, size_t payload, bool *signal)
{
	static uint8_t data[SIZE];
	struct vmbus_packet_header header = {
	    .type = VMBUS_PACKET_IN_BAND, .data_offset8 = 2, .transaction_id = id};
	struct iovec parts[2] = {{&header, sizeof(header)}, {data, payload}};

	header.length8 = (uint16_t)(2 + (payload + 7) / 8);
	for (size_t i = 0; i < payload; i++)
		data[i] = (uint8_t)(id * 7 + i);
	return ring_write(ring, parts, 2, signal);
}

static void check_packet(struct ring *ring, uint64_t id, size_t payload)
{
	static uint8_t data[SIZE];
	struct vmbus_packet_header header;

	assert_int_equal(ring_peek(ring, &header), 1);
	assert_int_equal(header.transaction_id, id);
	assert_int_equal(header.length8, 2 + (payload + 7) / 8);
	ring_copy_out(ring, sizeof(header), data, payload);
	for (size_t i = 0; i < payload; i++)
		assert_int_equal(data[i], (uint8_t)(id * 7 + i));
	ring_consume(ring, header.length8 * 8u);
}

static void packets_keep_their_order_and_bytes(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	struct vmbus_packet_header header;
	uint64_t sent = 0, received = 0;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	while (received < 5000) {
		while (sent < 5000 && write_packet(&writer, sent, sent * 37 % 3000, &signal) == 0)
			sent++;
		/* Some stay behind, so that the ring wraps at all offsets. */
		for (unsigned n = 0; n < 3 && received < sent; n++, received++)
			check_packet(&reader, received, received * 37 % 3000);
	}
	assert_int_equal(ring_peek(&reader, &header), 0);
	assert_int_equal(ring_depth(&reader), 0);
	free(pages);
}

static void trailers_say_where_packets_began(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(write_packet(&writer, 1, 9, &signal), 0);
	assert_int_equal(write_packet(&writer, 2, 8, &signal), 0);
	assert_int_equal(pages->header->write_index, 40 + 32);
	assert_int_equal(le64_get(pages->list[1] + 32), 0);
	assert_int_equal(le64_get(pages->list[1] + 40 + 24), 40ull << 32);
	assert_int_equal(pages->list[1][25], 0); /* padding is zero, not ours */
	free(pages);
}

static void a_full_ring_asks_for_room(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	bool signal;
	unsigned sent = 0;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_true(pages->header->feature_bits & VMBUS_RING_FEATURE_PENDING_SEND_SIZE);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	while (write_packet(&writer, sent, 100, &signal) == 0)
		sent++;
	/* 16 + 104 + 8 bytes each; never filled to the last byte. */
	assert_int_equal(sent, (SIZE - 1) / 128);
	assert_int_equal(pages->header->pending_send_size, 128);
	assert_int_equal(write_packet(&writer, 0, SIZE - 24, &signal), -EMSGSIZE);
	check_packet(&reader, 0, 100);
	assert_int_equal(write_packet(&writer, sent, 100, &signal), 0);
	assert_int_equal(pages->header->pending_send_size, 0);
	free(pages);
}

static void the_reader_signals_a_waiting_writer_once(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	struct vmbus_packet_header header;
	unsigned signals = 0, consumed = 0, first = 0;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	while (write_packet(&writer, 0, 100, &signal) == 0)
		;
	pages->header->pending_send_size = 1000;
	while (ring_peek(&reader, &header) == 1) {
		consumed++;
		if (ring_consume(&reader, header.length8 * 8u)) {
			signals++;
			if (!first)
				first = consumed;
		}
	}
	assert_int_equal(signals, 1);
	/* 95 packets leave 128 bytes free; with seven more gone there are more than 1000. */
	assert_int_equal(first, 7);
	/* A guest that never promised to wait is not signalled. */
	pages->header->feature_bits = 0;
	pages->header->pending_send_size = 1;
	assert_int_equal(write_packet(&writer, 0, 100, &signal), 0);
	assert_int_equal(ring_peek(&reader, &header), 1);
	assert_false(ring_consume(&reader, header.length8 * 8u));
	free(pages);
}

static void equality_signals_both_kinds_of_writer(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	struct vmbus_packet_header header;
	bool signal, got[3];

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(write_packet(&writer, 0, 104, &signal), 0);
	pages->header->pending_send_size = SIZE - 2 * 128;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ring_peek(&reader, &header), 1);
		got[i] = ring_consume(&reader, header.length8 * 8u);
	}
	assert_true(got[0]);  /* exactly as much: enough for some */
	assert_true(got[1]);  /* more: what Linux waits for */
	assert_false(got[2]); /* was enough before */
	free(pages);
}

static void only_the_first_packet_signals(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	assert_int_equal(write_packet(&writer, 1, 8, &signal), 0);
	assert_true(signal);
	assert_int_equal(write_packet(&writer, 2, 8, &signal), 0);
	assert_false(signal);
	check_packet(&reader, 1, 8);
	check_packet(&reader, 2, 8);
	pages->header->interrupt_mask = 1;
	assert_int_equal(write_packet(&writer, 3, 8, &signal), 0);
	assert_false(signal);
	free(pages);
}

static void the_reader_masks_while_it_reads(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	struct vmbus_packet_header header;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	assert_int_equal(ring_peek(&reader, &header), 0);
	assert_int_equal(pages->header->interrupt_mask, 0);
	assert_int_equal(write_packet(&writer, 1, 8, &signal), 0);
	assert_int_equal(ring_peek(&reader, &header), 1);
	assert_int_equal(pages->header->interrupt_mask, 1);
	ring_consume(&reader, header.length8 * 8u);
	assert_int_equal(ring_peek(&reader, &header), 0);
	assert_int_equal(pages->header->interrupt_mask, 0);
	free(pages);
}

static void lying_indices_are_refused(void **state)
{
	static const uint32_t lies[] = {SIZE, SIZE + 8, 1, 4, 12, UINT32_MAX, UINT32_MAX - 7, 0x80000000u};
	struct vmbus_packet_header header;
	struct ring ring;
	bool signal;

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct pages *pages = new_pages();

		pages->header->write_index = lies[i];
		assert_int_equal(ring_open(&ring, NULL, pages->list, PAGES, false), -EINVAL);
		pages->header->write_index = 0;
		pages->header->read_index = lies[i];
		assert_int_equal(ring_open(&ring, NULL, pages->list, PAGES, true), -EINVAL);
		pages->header->read_index = 0;
		assert_int_equal(ring_open(&ring, NULL, pages->list, PAGES, false), 0);
		pages->header->write_index = lies[i];
		assert_int_equal(ring_peek(&ring, &header), -EPROTO);
		assert_int_equal(ring_depth(&ring), 0);
		pages->header->write_index = 0;
		assert_int_equal(ring_open(&ring, NULL, pages->list, PAGES, true), 0);
		pages->header->read_index = lies[i];
		assert_int_equal(write_packet(&ring, 1, 8, &signal), -EPROTO);
		free(pages);
	}
}

static void our_own_index_is_not_read_back(void **state)
{
	struct pages *pages = new_pages();
	struct ring writer, reader;
	bool signal;

	assert_int_equal(ring_open(&writer, NULL, pages->list, PAGES, true), 0);
	assert_int_equal(ring_open(&reader, NULL, pages->list, PAGES, false), 0);
	assert_int_equal(write_packet(&writer, 1, 8, &signal), 0);
	pages->header->write_index = 4096;
	assert_int_equal(write_packet(&writer, 2, 8, &signal), 0);
	assert_int_equal(pages->header->write_index, 64);
	pages->header->read_index = 32;
	check_packet(&reader, 1, 8);
	assert_int_equal(pages->header->read_index, 32);
	check_packet(&reader, 2, 8);
	free(pages);
}

static void torn_packets_are_refused(void **state)
{
	struct vmbus_packet_header header, packet = {.type = VMBUS_PACKET_IN_BAND};
	static const struct {
		uint16_t offset8, length8;
		uint32_t written;
	} cases[] = {
	    {2, 2, 8},                  /* less than a header in the ring */
	    {2, 2, 16},                 /* no trailer */
	    {2, 3, 24},                 /* no trailer behind payload */
	    {2, 100, 64},               /* longer than what was written */
	    {2, 65535, 64},             /* longer than the ring */
	    {1, 4, 40},                 /* payload inside the header */
	    {0, 4, 40},     {5, 4, 40}, /* payload behind the end */
	    {65535, 4, 40}, {2, 1, 40}, /* shorter than its header */
	    {0, 0, 40},
	};
	struct ring ring;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct pages *pages = new_pages();

		packet.data_offset8 = cases[i].offset8;
		packet.length8 = cases[i].length8;
		/* Across the end of the ring too. */
		pages->header->read_index = pages->header->write_index = SIZE - 8;
		assert_int_equal(ring_open(&ring, NULL, pages->list, PAGES, false), 0);
		put(pages, SIZE - 8, &packet, sizeof(packet));
		pages->header->write_index = (SIZE - 8 + cases[i].written) % SIZE;
		assert_int_equal(ring_peek(&ring, &header), -EPROTO);
		free(pages);
	}
}

static void the_smallest_packet_and_ring_work(void **state)
{
	struct pages *pages = new_pages();
	struct vmbus_packet_header header,
	    packet = {.type = VMBUS_PACKET_IN_BAND, .data_offset8 = 2, .length8 = 2};
	struct ring ring;

	assert_int_equal(ring_open(&ring, NULL, pages->list, 0, false), -EINVAL);
	assert_int_equal(ring_open(&ring, NULL, pages->list, 1, false), -EINVAL);
	assert_int_equal(ring_open(&ring, NULL, pages->list, 2, false), 0);
	put(pages, 0, &packet, sizeof(packet));
	pages->header->write_index = 24;
	assert_int_equal(ring_peek(&ring, &header), 1);
	ring_consume(&ring, 16);
	assert_int_equal(ring_peek(&ring, &header), 0);
	free(pages);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(packets_keep_their_order_and_bytes),
	    cmocka_unit_test(trailers_say_where_packets_began),
	    cmocka_unit_test(a_full_ring_asks_for_room),
	    cmocka_unit_test(the_reader_signals_a_waiting_writer_once),
	    cmocka_unit_test(equality_signals_both_kinds_of_writer),
	    cmocka_unit_test(only_the_first_packet_signals),
	    cmocka_unit_test(the_reader_masks_while_it_reads),
	    cmocka_unit_test(lying_indices_are_refused),
	    cmocka_unit_test(our_own_index_is_not_read_back),
	    cmocka_unit_test(torn_packets_are_refused),
	    cmocka_unit_test(the_smallest_packet_and_ring_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
