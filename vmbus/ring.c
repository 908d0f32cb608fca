// SPDX-License-Identifier: GPL-2.0-or-later
#include "vmbus/ring.h"

#include <errno.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

/* Fields of the header are the guest's to change at any time: always one atomic access. Sequentially
 * consistent, because every decision whether to signal or to sleep stores one field and then loads
 * another, while the guest does the same the other way round. */
#define shared_load(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)

static void told(const struct ring *ring, const void *at, size_t size)
{
	if (ring->partition)
		partition_host_written(ring->partition, at, size);
}

static void shared_store(const struct ring *ring, uint32_t *field, uint32_t value)
{
	__atomic_store_n(field, value, __ATOMIC_SEQ_CST);
	told(ring, field, sizeof(*field));
}

static bool index_valid(const struct ring *ring, uint32_t index)
{
	return index < ring->size && (index & 7) == 0;
}

static uint32_t distance(const struct ring *ring, uint32_t from, uint32_t to)
{
	return to >= from ? to - from : ring->size - (from - to);
}

static uint32_t advance(const struct ring *ring, uint32_t index, uint32_t by)
{
	uint64_t sum = (uint64_t)index + by;

	return (uint32_t)(sum >= ring->size ? sum - ring->size : sum);
}

int ring_open(struct ring *ring, struct partition *partition, uint8_t *const *pages, unsigned page_count,
	      bool writer)
{
	uint32_t read_index, write_index;

	if (page_count < 2 || page_count - 1 > UINT32_MAX / 2 / GUEST_PAGE_SIZE)
		return -EINVAL;
	*ring = (struct ring){
	    .partition = partition,
	    .header = (struct vmbus_ring_header *)pages[0],
	    .pages = pages + 1,
	    .size = (page_count - 1) * GUEST_PAGE_SIZE,
	};
	read_index = shared_load(ring->header->read_index);
	write_index = shared_load(ring->header->write_index);
	if (!index_valid(ring, read_index) || !index_valid(ring, write_index))
		return -EINVAL;
	ring->index = writer ? write_index : read_index;
	if (writer) {
		shared_store(ring, &ring->header->pending_send_size, 0);
		__atomic_fetch_or(&ring->header->feature_bits, VMBUS_RING_FEATURE_PENDING_SEND_SIZE,
				  __ATOMIC_SEQ_CST);
		told(ring, &ring->header->feature_bits, sizeof(ring->header->feature_bits));
	} else {
		shared_store(ring, &ring->header->interrupt_mask, 0);
	}
	return 0;
}

bool ring_set_index(struct ring *ring, uint32_t index)
{
	if (!index_valid(ring, index))
		return false;
	ring->index = index;
	return true;
}

/* Copy between a buffer and the data pages from `index` on, wrapping at the end. */
static void copy_pages(const struct ring *ring, uint32_t index, void *to, const void *from, size_t size)
{
	while (size > 0) {
		uint32_t in_page = index & (GUEST_PAGE_SIZE - 1);
		size_t chunk = min_u64(size, GUEST_PAGE_SIZE - in_page);
		uint8_t *page = ring->pages[index >> GUEST_PAGE_SHIFT] + in_page;

		if (to) {
			memcpy(to, page, chunk);
			to = (uint8_t *)to + chunk;
		} else {
			memcpy(page, from, chunk);
			told(ring, page, chunk);
			from = (const uint8_t *)from + chunk;
		}
		index = advance(ring, index, (uint32_t)chunk);
		size -= chunk;
	}
}

/* While packets are there, the guest need not signal; before we say "empty", it must, and what came
 * in between is seen here. Returns the bytes that can be read, or -EPROTO. */
static int64_t readable(struct ring *ring)
{
	uint32_t write_index = shared_load(ring->header->write_index);

	if (!index_valid(ring, write_index))
		return -EPROTO;
	if (write_index == ring->index && ring->masked) {
		ring->masked = false;
		shared_store(ring, &ring->header->interrupt_mask, 0);
		write_index = shared_load(ring->header->write_index);
		if (!index_valid(ring, write_index))
			return -EPROTO;
	}
	if (write_index != ring->index && !ring->masked) {
		ring->masked = true;
		shared_store(ring, &ring->header->interrupt_mask, 1);
	}
	return distance(ring, ring->index, write_index);
}

int ring_peek(struct ring *ring, struct vmbus_packet_header *header)
{
	int64_t available = readable(ring);
	uint32_t length, data_offset;

	if (available <= 0)
		return (int)available;
	if (available < (int64_t)(sizeof(*header) + VMBUS_PACKET_TRAILER_SIZE))
		return -EPROTO;
	copy_pages(ring, ring->index, header, NULL, sizeof(*header));
	length = header->length8 * 8u;
	data_offset = header->data_offset8 * 8u;
	if (data_offset < sizeof(*header) || data_offset > length ||
	    (int64_t)length + VMBUS_PACKET_TRAILER_SIZE > available)
		return -EPROTO;
	return 1;
}

void ring_copy_out(const struct ring *ring, uint32_t offset, void *to, size_t size)
{
	copy_pages(ring, advance(ring, ring->index, offset), to, NULL, size);
}

bool ring_consume(struct ring *ring, uint32_t length)
{
	uint32_t consumed = length + VMBUS_PACKET_TRAILER_SIZE;
	uint32_t pending, write_index, room;

	ring->index = advance(ring, ring->index, consumed);
	shared_store(ring, &ring->header->read_index, ring->index);
	if (!(shared_load(ring->header->feature_bits) & VMBUS_RING_FEATURE_PENDING_SEND_SIZE))
		return false;
	pending = shared_load(ring->header->pending_send_size);
	if (pending == 0)
		return false;
	write_index = shared_load(ring->header->write_index);
	if (!index_valid(ring, write_index))
		return false; /* the next peek reports it */
	room = ring->size - distance(ring, ring->index, write_index);
	/* Only on the way from too little to enough. Linux waits for more than `pending`, others for
	 * as much: at equality both get a signal. */
	return room >= pending && (room < consumed || room - consumed <= pending);
}

/* Room for `need` bytes, or -EAGAIN with the request for a signal left in the header. A ring that is
 * filled to the last byte would look empty, so one byte always stays free. */
static int reserve(struct ring *ring, uint32_t need)
{
	for (int attempt = 0;; attempt++) {
		uint32_t read_index = shared_load(ring->header->read_index);

		if (!index_valid(ring, read_index))
			return -EPROTO;
		if (ring->size - distance(ring, read_index, ring->index) > need)
			break;
		if (attempt > 0)
			return -EAGAIN;
		shared_store(ring, &ring->header->pending_send_size, need);
		ring->waiting = true;
	}
	if (ring->waiting) {
		shared_store(ring, &ring->header->pending_send_size, 0);
		ring->waiting = false;
	}
	return 0;
}

int ring_write(struct ring *ring, const struct iovec *parts, unsigned count, bool *signal)
{
	static const uint8_t zeros[8];
	uint32_t start = ring->index, at = start;
	uint64_t total = 0, padded, trailer = (uint64_t)start << 32;
	int r;

	*signal = false;
	for (unsigned i = 0; i < count; i++)
		total += parts[i].iov_len;
	padded = align_up_u64(total, 8);
	if (padded + sizeof(trailer) >= ring->size || padded / 8 > UINT16_MAX)
		return -EMSGSIZE;
	r = reserve(ring, (uint32_t)(padded + sizeof(trailer)));
	if (r < 0)
		return r;
	for (unsigned i = 0; i < count; i++) {
		copy_pages(ring, at, NULL, parts[i].iov_base, parts[i].iov_len);
		at = advance(ring, at, (uint32_t)parts[i].iov_len);
	}
	copy_pages(ring, at, NULL, zeros, padded - total);
	at = advance(ring, at, (uint32_t)(padded - total));
	copy_pages(ring, at, NULL, &trailer, sizeof(trailer));
	ring->index = advance(ring, at, sizeof(trailer));
	shared_store(ring, &ring->header->write_index, ring->index);
	/* The guest sleeps only after it emptied the ring and cleared the mask. */
	*signal =
	    !shared_load(ring->header->interrupt_mask) && shared_load(ring->header->read_index) == start;
	return 0;
}

bool ring_peer_signals_room(const struct ring *guest_ring)
{
	return shared_load(guest_ring->header->feature_bits) & VMBUS_RING_FEATURE_PENDING_SEND_SIZE;
}

uint32_t ring_depth(const struct ring *ring)
{
	uint32_t read_index = shared_load(ring->header->read_index);
	uint32_t write_index = shared_load(ring->header->write_index);

	if (!index_valid(ring, read_index) || !index_valid(ring, write_index))
		return 0;
	return distance(ring, read_index, write_index);
}
