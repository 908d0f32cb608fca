// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * packet.c - packets between a channel's rings and its provider.
 *
 * A packet's header is copied once and checked; payload and descriptors are then copied from inside
 * the length that the header gave. Page numbers become host addresses here, one by one, each checked.
 *
 * Source: Linux include/linux/hyperv.h (vmpacket_descriptor, vmdata_gpa_direct,
 * vmtransfer_page_packet_header).
 */
#include <errno.h>
#include <string.h>

#include "vmbus/bus.h"

#define PFN_MAX (UINT64_MAX >> GUEST_PAGE_SHIFT)

static bool usable(const struct channel *channel)
{
	return __atomic_load_n(&channel->usable, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(&channel->broken, __ATOMIC_ACQUIRE);
}

static int broken(struct channel *channel, const char *reason)
{
	channel_break(channel, reason);
	return -EPROTO;
}

/* Add memory at the end of the packet's list, joined with the last piece where they touch. */
static int add_memory(struct channel_packet *packet, uint8_t *base, size_t size)
{
	struct iovec *last = packet->iov_count ? &packet->iov[packet->iov_count - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == base) {
		last->iov_len += size;
		return 0;
	}
	if (packet->iov_count == packet->iov_capacity)
		return -EMSGSIZE;
	packet->iov[packet->iov_count++] = (struct iovec){.iov_base = base, .iov_len = size};
	return 0;
}

/* One range: `size` bytes beginning `offset` bytes into the first of the pages whose numbers lie at
 * `at` in the packet. 0, -EMSGSIZE or -EFAULT. */
static int add_range(struct channel *channel, struct channel_packet *packet, uint32_t at, uint32_t offset,
		     uint64_t size)
{
	struct partition *partition = channel->bus->partition;

	while (size > 0) {
		uint64_t pfns[64];
		uint64_t pages = (offset + size + GUEST_PAGE_SIZE - 1) >> GUEST_PAGE_SHIFT;
		unsigned count = (unsigned)min_u64(pages, ARRAY_SIZE(pfns));

		ring_copy_out(&channel->in, at, pfns, count * sizeof(pfns[0]));
		at += count * (uint32_t)sizeof(pfns[0]);
		for (unsigned i = 0; i < count; i++) {
			size_t chunk = min_u64(size, GUEST_PAGE_SIZE - offset);
			uint8_t *page = NULL;
			int r;

			if (pfns[i] <= PFN_MAX)
				page =
				    partition_memory(partition, pfns[i] << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
			if (!page)
				return -EFAULT;
			r = add_memory(packet, page + offset, chunk);
			if (r < 0)
				return r;
			size -= chunk;
			offset = 0;
		}
	}
	return 0;
}

/* -EPROTO when the ranges do not fit between the packet's header and its payload. */
static int read_gpa_ranges(struct channel *channel, struct channel_packet *packet, uint32_t data_offset)
{
	struct vmbus_gpa_direct_header direct;
	uint32_t at = sizeof(struct vmbus_packet_header);
	int result = 0;

	if (data_offset - at < sizeof(direct))
		return -EPROTO;
	ring_copy_out(&channel->in, at, &direct, sizeof(direct));
	at += sizeof(direct);
	packet->range_count = direct.range_count;
	for (uint32_t i = 0; i < direct.range_count; i++) {
		struct vmbus_gpa_range range;
		uint64_t pages;

		if (data_offset - at < sizeof(range))
			return -EPROTO;
		ring_copy_out(&channel->in, at, &range, sizeof(range));
		at += sizeof(range);
		pages = ((uint64_t)range.byte_offset + range.byte_count + GUEST_PAGE_SIZE - 1) >>
			GUEST_PAGE_SHIFT;
		if (range.byte_offset >= GUEST_PAGE_SIZE || pages > (data_offset - at) / sizeof(uint64_t))
			return -EPROTO;
		packet->iov_bytes += range.byte_count;
		if (result == 0)
			result = add_range(channel, packet, at, range.byte_offset, range.byte_count);
		at += (uint32_t)(pages * sizeof(uint64_t));
	}
	return result;
}

static int read_transfer_ranges(struct channel *channel, struct channel_packet *packet, uint32_t data_offset)
{
	struct vmbus_transfer_page_header transfer;
	uint32_t at = sizeof(struct vmbus_packet_header);

	if (data_offset - at < sizeof(transfer))
		return -EPROTO;
	ring_copy_out(&channel->in, at, &transfer, sizeof(transfer));
	at += sizeof(transfer);
	packet->transfer_set = transfer.set_id;
	packet->range_count = transfer.range_count;
	if (transfer.range_count > (data_offset - at) / sizeof(struct vmbus_transfer_page_range))
		return -EPROTO;
	if (transfer.range_count > packet->iov_capacity)
		return -EMSGSIZE;
	for (uint32_t i = 0; i < transfer.range_count; i++) {
		struct vmbus_transfer_page_range range;

		ring_copy_out(&channel->in, at, &range, sizeof(range));
		at += sizeof(range);
		packet->iov[i] = (struct iovec){.iov_base = (void *)(uintptr_t)range.byte_offset,
						.iov_len = range.byte_count};
		packet->iov_bytes += range.byte_count;
	}
	packet->iov_count = transfer.range_count;
	return 0;
}

static int read_ranges(struct channel *channel, struct channel_packet *packet, uint32_t data_offset)
{
	switch (packet->type) {
	case VMBUS_PACKET_GPA_DIRECT:
		return read_gpa_ranges(channel, packet, data_offset);
	case VMBUS_PACKET_TRANSFER_PAGES:
		return read_transfer_ranges(channel, packet, data_offset);
	default:
		return 0;
	}
}

int channel_receive(struct channel *channel, struct channel_packet *packet)
{
	struct vmbus_packet_header header;
	uint32_t data_offset, length;
	int r;

	if (!usable(channel))
		return -ESHUTDOWN;
	r = ring_peek(&channel->in, &header);
	if (r < 0)
		return broken(channel, "the guest's ring has an index or a packet length that cannot be");
	if (r == 0)
		return 0;
	data_offset = header.data_offset8 * 8u;
	length = header.length8 * 8u;
	packet->type = header.type;
	packet->completion_requested = header.flags & VMBUS_PACKET_FLAG_COMPLETION_REQUESTED;
	packet->transaction_id = header.transaction_id;
	packet->payload_size = length - data_offset;
	packet->iov_count = packet->range_count = 0;
	packet->iov_bytes = 0;
	packet->transfer_set = 0;
	r = read_ranges(channel, packet, data_offset);
	if (r == -EPROTO)
		return broken(channel, "a packet describes more memory than it has room to name");
	if (r < 0)
		packet->iov_count = 0;
	if (packet->payload_size > packet->payload_capacity)
		r = -EMSGSIZE;
	else
		ring_copy_out(&channel->in, data_offset, packet->payload, packet->payload_size);
	if (ring_consume(&channel->in, length))
		channel_signal_guest(channel);
	__atomic_fetch_add(&channel->counters.packets_in, 1, __ATOMIC_RELAXED);
	return r < 0 ? r : 1;
}

/* --- sending -------------------------------------------------------------------------------------- */

/* A guest that did not promise to signal room must be asked: the control thread fires our event. */
static void wait_for_room(struct channel *channel)
{
	__atomic_fetch_add(&channel->counters.ring_full, 1, __ATOMIC_RELAXED);
	if (ring_peer_signals_room(&channel->in))
		return;
	__atomic_store_n(&channel->waits_for_room, true, __ATOMIC_RELEASE);
	__atomic_store_n(&channel->bus->work_room, true, __ATOMIC_RELEASE);
	bus_wake(channel->bus);
}

static void signal_held(struct channel *channel)
{
	if (!channel->held_signal)
		return;
	channel->held_signal = false;
	channel_signal_guest(channel);
}

static int send_parts(struct channel *channel, const struct iovec *parts, unsigned count)
{
	bool signal;
	int r;

	if (!usable(channel))
		return -ESHUTDOWN;
	r = ring_write(&channel->out, parts, count, &signal);
	if (r == -EPROTO)
		return broken(channel, "the read index of the host's ring lies outside the ring");
	if (r == -EAGAIN) {
		signal_held(channel); /* only a guest that knows of the packets makes room */
		wait_for_room(channel);
	}
	if (r < 0)
		return r;
	__atomic_fetch_add(&channel->counters.packets_out, 1, __ATOMIC_RELAXED);
	if (signal && channel->hold_signal)
		channel->held_signal = true;
	else if (signal)
		channel_signal_guest(channel);
	return 0;
}

void channel_hold_signal(struct channel *channel)
{
	channel->hold_signal = true;
}

void channel_release_signal(struct channel *channel)
{
	channel->hold_signal = false;
	if (usable(channel))
		signal_held(channel);
	channel->held_signal = false;
}

static int send_simple(struct channel *channel, enum vmbus_packet_type type, uint16_t flags,
		       uint64_t transaction_id, const void *payload, size_t size)
{
	struct vmbus_packet_header header = {
	    .type = (uint16_t)type,
	    .data_offset8 = sizeof(header) / 8,
	    .length8 = (uint16_t)((sizeof(header) + align_up_u64(size, 8)) / 8),
	    .flags = flags,
	    .transaction_id = transaction_id,
	};
	struct iovec parts[2] = {
	    {.iov_base = &header, .iov_len = sizeof(header)},
	    {.iov_base = (void *)(uintptr_t)payload, .iov_len = size},
	};

	return send_parts(channel, parts, 2);
}

int channel_send(struct channel *channel, uint64_t transaction_id, const void *payload, size_t size,
		 bool request_completion)
{
	return send_simple(channel, VMBUS_PACKET_IN_BAND,
			   request_completion ? VMBUS_PACKET_FLAG_COMPLETION_REQUESTED : 0, transaction_id,
			   payload, size);
}

int channel_send_completion(struct channel *channel, uint64_t transaction_id, const void *payload,
			    size_t size)
{
	return send_simple(channel, VMBUS_PACKET_COMPLETION, 0, transaction_id, payload, size);
}

int channel_send_transfer_pages(struct channel *channel, uint64_t transaction_id, uint16_t set_id,
				const struct vmbus_transfer_page_range *ranges, unsigned range_count,
				const void *payload, size_t size, bool request_completion)
{
	struct vmbus_transfer_page_header transfer = {.set_id = set_id, .range_count = range_count};
	size_t ranges_size = range_count * sizeof(ranges[0]);
	size_t data_offset = sizeof(struct vmbus_packet_header) + sizeof(transfer) + ranges_size;
	struct vmbus_packet_header header = {
	    .type = VMBUS_PACKET_TRANSFER_PAGES,
	    .data_offset8 = (uint16_t)(data_offset / 8),
	    .length8 = (uint16_t)((data_offset + align_up_u64(size, 8)) / 8),
	    .flags = request_completion ? VMBUS_PACKET_FLAG_COMPLETION_REQUESTED : 0,
	    .transaction_id = transaction_id,
	};
	struct iovec parts[4] = {
	    {.iov_base = &header, .iov_len = sizeof(header)},
	    {.iov_base = &transfer, .iov_len = sizeof(transfer)},
	    {.iov_base = (void *)(uintptr_t)ranges, .iov_len = ranges_size},
	    {.iov_base = (void *)(uintptr_t)payload, .iov_len = size},
	};

	return send_parts(channel, parts, 4);
}
