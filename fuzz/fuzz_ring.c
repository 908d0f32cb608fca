// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_ring.c - a ring whose header and data the guest wrote at will, and rewrites while it is used.
 *
 * Input: a seed byte, four index words, then steps: one byte chooses, the next ones are its operands.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "vmbus/ring.h"

#define PAGES 3u
#define SIZE  ((PAGES - 1) * 4096u)

struct input {
	const uint8_t *at, *end;
};

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < bytes && in->at < in->end; i++)
		v |= (uint32_t)*in->at++ << (8 * i);
	return v;
}

static _Alignas(4096) uint8_t memory[2 * PAGES][4096];

static void check(bool that)
{
	if (!that)
		abort();
}

static void read_one(struct ring *ring)
{
	static uint8_t copy[SIZE];
	struct vmbus_packet_header header;
	int r = ring_peek(ring, &header);

	if (r != 1)
		return;
	check(header.length8 * 8u + VMBUS_PACKET_TRAILER_SIZE < SIZE);
	check(header.data_offset8 <= header.length8);
	ring_copy_out(ring, 0, copy, header.length8 * 8u);
	ring_consume(ring, header.length8 * 8u);
	check(ring->index < ring->size && ring->index % 8 == 0);
}

static void write_one(struct ring *ring, uint32_t size)
{
	static const uint8_t data[2 * SIZE];
	struct iovec parts[2] = {{(void *)(uintptr_t)data, size / 2 / 8 * 8},
				 {(void *)(uintptr_t)data, size - size / 2 / 8 * 8}};
	bool signal;

	ring_write(ring, parts, 2, &signal);
	check(ring->index < ring->size && ring->index % 8 == 0);
}

static void poke(struct vmbus_ring_header *header, uint8_t *const *pages, struct input *in)
{
	uint32_t *const fields[] = {&header->write_index, &header->read_index, &header->interrupt_mask,
				    &header->pending_send_size, &header->feature_bits};
	uint32_t where = take(in, 1);

	if (where < ARRAY_SIZE(fields)) {
		*fields[where] = take(in, 4);
		return;
	}
	for (uint32_t at = take(in, 2) % SIZE, count = take(in, 1) % 32; count > 0;
	     count--, at = (at + 1) % SIZE)
		pages[1 + at / 4096][at % 4096] = (uint8_t)take(in, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	uint8_t *pages[PAGES] = {memory[4], memory[2], memory[0]};
	struct vmbus_ring_header *header = (void *)pages[0];
	struct ring reader, writer;
	bool can_read, can_write;

	memset(memory, (int)take(&in, 1), sizeof(memory));
	header->write_index = take(&in, 2);
	header->read_index = take(&in, 2);
	header->pending_send_size = take(&in, 2);
	header->feature_bits = take(&in, 1);
	can_read = ring_open(&reader, NULL, pages, PAGES, false) == 0;
	can_write = ring_open(&writer, NULL, pages, PAGES, true) == 0;
	while (in.at < in.end) {
		switch (take(&in, 1) % 4) {
		case 0:
			if (can_read)
				read_one(&reader);
			break;
		case 1:
			if (can_write)
				write_one(&writer, take(&in, 2) % (2 * SIZE));
			break;
		case 2:
			poke(header, pages, &in);
			break;
		default:
			if (can_read)
				check(ring_depth(&reader) < SIZE);
			break;
		}
	}
	return 0;
}
