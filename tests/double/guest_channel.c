// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest_channel.c - the double's GPADLs, channels and rings.
 *
 * Written apart from vmbus/ring.c on purpose: two readings of the same protocol check each other.
 */
#include <errno.h>
#include <string.h>

#include "tests/double/guest.h"
#include "tests/double/guest_state.h"

#define CALL_SIGNAL_FAST (0x5du | 1u << 16)

/* --- GPADLs ---------------------------------------------------------------------------------------- */

static int wait_created(struct guest *guest, uint32_t handle)
{
	const struct vmbus_message_gpadl_created *created;
	struct guest_message message;
	int r;

	do {
		r = guest_wait_message(guest, VMBUS_MSG_GPADL_CREATED, &message);
		if (r < 0)
			return r;
		created = (const void *)message.bytes;
	} while (created->gpadl != handle);
	return created->status ? -EDQUOT : 0;
}

int guest_gpadl(struct guest *guest, uint32_t relid, const uint64_t *pfns, unsigned pages,
		uint32_t byte_offset, uint32_t size, uint32_t *handle)
{
	uint8_t bytes[SYNIC_MESSAGE_PAYLOAD];
	struct vmbus_message_gpadl_header *header = (void *)bytes;
	struct vmbus_gpa_range *range = (void *)(bytes + sizeof(*header));
	struct vmbus_message_gpadl_body *body = (void *)bytes;
	size_t first = sizeof(*header) + sizeof(*range), room = (sizeof(bytes) - first) / sizeof(*pfns);
	size_t count = min_u64(pages, room);
	int r;

	*handle = guest->next_gpadl++;
	memset(bytes, 0, sizeof(bytes));
	header->relid = relid;
	header->gpadl = *handle;
	header->range_count = 1;
	header->range_buffer_length = (uint16_t)(sizeof(*range) + pages * sizeof(*pfns));
	*range = (struct vmbus_gpa_range){.byte_count = size, .byte_offset = byte_offset};
	memcpy(bytes + first, pfns, count * sizeof(*pfns));
	r = guest_post(guest, VMBUS_MSG_GPADL_HEADER, bytes, first + count * sizeof(*pfns));
	room = (sizeof(bytes) - sizeof(*body)) / sizeof(*pfns);
	for (unsigned done = (unsigned)count; done < pages && r == 0; done += (unsigned)count) {
		count = min_u64(pages - done, room);
		memset(bytes, 0, sizeof(bytes));
		body->gpadl = *handle;
		memcpy(bytes + sizeof(*body), pfns + done, count * sizeof(*pfns));
		r = guest_post(guest, VMBUS_MSG_GPADL_BODY, bytes, sizeof(*body) + count * sizeof(*pfns));
	}
	return r ? r : wait_created(guest, *handle);
}

/* Page numbers for `pages` fresh pages; with scatter in falling order, every second page. */
static uint64_t *alloc_pages(struct guest *guest, unsigned pages)
{
	uint64_t *pfns = calloc(pages, sizeof(*pfns));
	gpa_t gpa;

	if (!pfns)
		abort();
	guest_alloc(guest, guest->scatter ? pages * 2 : pages, &gpa);
	for (unsigned i = 0; i < pages; i++)
		pfns[i] = (gpa >> GUEST_PAGE_SHIFT) + (guest->scatter ? (pages - 1 - i) * 2 : i);
	return pfns;
}

int guest_gpadl_alloc(struct guest *guest, uint32_t relid, unsigned pages, uint64_t *pfns, uint32_t *handle)
{
	uint64_t *fresh = alloc_pages(guest, pages);
	int r = guest_gpadl(guest, relid, fresh, pages, 0, pages * GUEST_PAGE_SIZE, handle);

	if (pfns)
		memcpy(pfns, fresh, pages * sizeof(*pfns));
	free(fresh);
	return r;
}

int guest_gpadl_teardown(struct guest *guest, uint32_t relid, uint32_t handle)
{
	struct vmbus_message_gpadl_teardown teardown = {.relid = relid, .gpadl = handle};
	const struct vmbus_message_gpadl_torndown *torndown;
	struct guest_message message;
	int r = guest_post(guest, VMBUS_MSG_GPADL_TEARDOWN, &teardown, sizeof(teardown));

	do {
		if (r == 0)
			r = guest_wait_message(guest, VMBUS_MSG_GPADL_TORNDOWN, &message);
		torndown = (const void *)message.bytes;
	} while (r == 0 && torndown->gpadl != handle);
	return r;
}

/* --- open and close -------------------------------------------------------------------------------- */

static void set_ring(struct guest_ring *ring, uint8_t **pages, unsigned count)
{
	ring->header = (struct vmbus_ring_header *)pages[0];
	ring->pages = pages + 1;
	ring->size = (count - 1) * GUEST_PAGE_SIZE;
}

static int post_open(struct guest_channel *channel, unsigned in_pages,
		     const struct guest_open_options *options)
{
	struct guest *guest = channel->guest;
	struct vmbus_message_open open = {
	    .relid = channel->offer.relid,
	    .open_id = guest->next_open++,
	    .ring_gpadl = channel->gpadl,
	    .downstream_page_offset = in_pages,
	};
	const struct vmbus_message_open_result *result;
	struct guest_message message;
	int r;

	if (options) {
		open.target_vp = options->target_vp;
		memcpy(open.user_defined, options->user_defined, sizeof(open.user_defined));
	}
	r = guest_post(guest, VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open));
	do {
		if (r == 0)
			r = guest_wait_message(guest, VMBUS_MSG_OPEN_CHANNEL_RESULT, &message);
		result = (const void *)message.bytes;
	} while (r == 0 && result->open_id != open.open_id);
	if (r < 0)
		return r;
	guest->open_status = result->status;
	return result->status ? -ECONNREFUSED : 0;
}

int guest_open(struct guest *guest, const struct vmbus_message_offer *offer, unsigned in_pages,
	       unsigned out_pages, const struct guest_open_options *options, struct guest_channel **out)
{
	struct guest_channel *channel = calloc(1, sizeof(*channel));
	uint64_t *pfns = alloc_pages(guest, in_pages + out_pages);
	int r;

	*out = NULL;
	if (!channel)
		abort();
	channel->guest = guest;
	channel->next = guest->channels;
	guest->channels = channel;
	channel->offer = *offer;
	channel->target_vp = options ? options->target_vp : 0;
	channel->pages = calloc(in_pages + out_pages, sizeof(channel->pages[0]));
	if (!channel->pages)
		abort();
	for (unsigned i = 0; i < in_pages + out_pages; i++)
		channel->pages[i] = guest_at(guest, pfns[i] << GUEST_PAGE_SHIFT);
	set_ring(&channel->in, channel->pages, in_pages);
	set_ring(&channel->out, channel->pages + in_pages, out_pages);
	if (!options || !options->no_pending_send_size) {
		channel->in.header->feature_bits = VMBUS_RING_FEATURE_PENDING_SEND_SIZE;
		channel->out.header->feature_bits = VMBUS_RING_FEATURE_PENDING_SEND_SIZE;
	}
	r = guest_gpadl(guest, offer->relid, pfns, in_pages + out_pages, 0,
			(in_pages + out_pages) * GUEST_PAGE_SIZE, &channel->gpadl);
	free(pfns);
	if (r == 0)
		r = post_open(channel, in_pages, options);
	if (r == 0)
		*out = channel;
	else
		guest_channel_free(channel);
	return r;
}

uint32_t guest_open_status(const struct guest *guest)
{
	return guest->open_status;
}

int guest_post_close(struct guest_channel *channel)
{
	struct vmbus_message_relid message = {.relid = channel->offer.relid};

	return guest_post(channel->guest, VMBUS_MSG_CLOSE_CHANNEL, &message, sizeof(message));
}

void guest_channel_free(struct guest_channel *channel)
{
	struct guest_channel **at;

	for (at = &channel->guest->channels; *at && *at != channel; at = &(*at)->next)
		;
	if (*at)
		*at = channel->next;
	free(channel->pages);
	free(channel);
}

int guest_close(struct guest_channel *channel)
{
	int r = guest_post_close(channel);

	if (r == 0)
		r = guest_gpadl_teardown(channel->guest, channel->offer.relid, channel->gpadl);
	guest_channel_free(channel);
	return r;
}

uint32_t guest_channel_relid(const struct guest_channel *channel)
{
	return channel->offer.relid;
}

uint32_t guest_channel_ring_gpadl(const struct guest_channel *channel)
{
	return channel->gpadl;
}

int guest_modify(struct guest_channel *channel, uint32_t target_vp)
{
	struct vmbus_message_modify modify = {.relid = channel->offer.relid, .target_vp = target_vp};
	struct guest_message message;
	int r = guest_post(channel->guest, VMBUS_MSG_MODIFY_CHANNEL, &modify, sizeof(modify));

	if (r == 0 && channel->guest->version >= VMBUS_VERSION_WIN10_V5_3) {
		r = guest_wait_message(channel->guest, VMBUS_MSG_MODIFY_CHANNEL_RESPONSE, &message);
		if (r == 0 && ((const struct vmbus_message_modify_response *)message.bytes)->status)
			return -EINVAL;
	}
	if (r == 0 && target_vp < channel->guest->vp_count)
		channel->target_vp = target_vp;
	return r;
}

/* --- signals --------------------------------------------------------------------------------------- */

static int signal_connection(struct guest *guest, uint32_t connection_id)
{
	uint64_t status = vp_hypercall(guest->partition, 0, CALL_SIGNAL_FAST, connection_id, 0);

	return status & 0xffff ? -EIO : 0;
}

int guest_signal_interrupt_page(struct guest_channel *channel)
{
	uint8_t *page = guest_at(channel->guest, channel->guest->interrupt_page);
	uint32_t relid = channel->offer.relid;

	__atomic_fetch_or(page + VMBUS_INTERRUPT_PAGE_TO_HOST + relid / 8, (uint8_t)(1u << relid % 8),
			  __ATOMIC_SEQ_CST);
	return signal_connection(channel->guest, VMBUS_EVENT_CONNECTION_ID);
}

void guest_signal_monitor(struct guest_channel *channel)
{
	struct vmbus_monitor_page *page = guest_at(channel->guest, channel->guest->monitor_page[1]);
	unsigned id = channel->offer.monitor_id;

	__atomic_fetch_or(&page->group[id / 32].pending, 1u << id % 32, __ATOMIC_SEQ_CST);
}

int guest_signal(struct guest_channel *channel)
{
	if (channel->guest->version < VMBUS_VERSION_WIN7)
		return guest_signal_interrupt_page(channel);
	return signal_connection(channel->guest, channel->offer.connection_id);
}

static bool take_bit(uint8_t *bits, uint32_t bit)
{
	uint8_t mask = (uint8_t)(1u << bit % 8);

	return __atomic_fetch_and(bits + bit / 8, (uint8_t)~mask, __ATOMIC_SEQ_CST) & mask;
}

bool guest_take_event(struct guest_channel *channel)
{
	struct guest *guest = channel->guest;
	uint8_t *flags = guest_at(guest, guest->event_page[channel->target_vp]);

	flags += VMBUS_MESSAGE_SINT * SYNIC_EVENT_FLAGS / 8;
	if (guest->version >= VMBUS_VERSION_WIN8)
		return take_bit(flags, channel->offer.relid);
	take_bit(flags, 0);
	return take_bit((uint8_t *)guest_at(guest, guest->interrupt_page) + VMBUS_INTERRUPT_PAGE_TO_GUEST,
			channel->offer.relid);
}

/* --- rings ----------------------------------------------------------------------------------------- */

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static uint32_t used(const struct guest_ring *ring)
{
	uint32_t from = load(&ring->header->read_index), to = load(&ring->header->write_index);

	return to >= from ? to - from : ring->size - from + to;
}

/* Byte by byte: slow, and right for any index. */
static uint32_t put_bytes(const struct guest_ring *ring, uint32_t index, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		ring->pages[index / GUEST_PAGE_SIZE][index % GUEST_PAGE_SIZE] = ((const uint8_t *)bytes)[i];
		index = (index + 1) % ring->size;
	}
	return index;
}

static uint32_t get_bytes(const struct guest_ring *ring, uint32_t index, void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		((uint8_t *)bytes)[i] = ring->pages[index / GUEST_PAGE_SIZE][index % GUEST_PAGE_SIZE];
		index = (index + 1) % ring->size;
	}
	return index;
}

void guest_ring_poke(struct guest_channel *channel, uint32_t index, const void *bytes, size_t size)
{
	put_bytes(&channel->in, index % channel->in.size, bytes, size);
}

int guest_send_raw(struct guest_channel *channel, const void *packet, size_t size)
{
	struct guest_ring *ring = &channel->in;
	uint32_t old = load(&ring->header->write_index), at;
	uint64_t trailer = (uint64_t)old << 32;

	if (ring->size - used(ring) <= size + sizeof(trailer))
		return -EAGAIN;
	at = put_bytes(ring, old, packet, size);
	at = put_bytes(ring, at, &trailer, sizeof(trailer));
	__atomic_store_n(&ring->header->write_index, at, __ATOMIC_SEQ_CST);
	if (!load(&ring->header->interrupt_mask) && load(&ring->header->read_index) == old)
		return guest_signal(channel);
	return 0;
}

static int send_with_descriptor(struct guest_channel *channel, uint16_t type, uint16_t flags,
				uint64_t transaction_id, const void *descriptor, size_t descriptor_size,
				const void *payload, size_t size)
{
	size_t offset = sizeof(struct vmbus_packet_header) + align_up_u64(descriptor_size, 8);
	size_t length = offset + align_up_u64(size, 8);
	uint8_t *packet = calloc(1, length);
	struct vmbus_packet_header header = {
	    .type = type,
	    .data_offset8 = (uint16_t)(offset / 8),
	    .length8 = (uint16_t)(length / 8),
	    .flags = flags,
	    .transaction_id = transaction_id,
	};
	int r;

	if (!packet)
		abort();
	memcpy(packet, &header, sizeof(header));
	if (descriptor_size)
		memcpy(packet + sizeof(header), descriptor, descriptor_size);
	if (size)
		memcpy(packet + offset, payload, size);
	r = guest_send_raw(channel, packet, length);
	free(packet);
	return r;
}

int guest_send(struct guest_channel *channel, uint16_t type, uint16_t flags, uint64_t transaction_id,
	       const void *payload, size_t size)
{
	return send_with_descriptor(channel, type, flags, transaction_id, NULL, 0, payload, size);
}

int guest_send_gpa_direct(struct guest_channel *channel, uint16_t flags, uint64_t transaction_id,
			  const void *ranges, size_t ranges_size, uint32_t range_count, const void *payload,
			  size_t size)
{
	struct vmbus_gpa_direct_header direct = {.range_count = range_count};
	uint8_t *descriptor = malloc(sizeof(direct) + ranges_size);
	int r;

	if (!descriptor)
		abort();
	memcpy(descriptor, &direct, sizeof(direct));
	if (ranges_size)
		memcpy(descriptor + sizeof(direct), ranges, ranges_size);
	r = send_with_descriptor(channel, VMBUS_PACKET_GPA_DIRECT, flags, transaction_id, descriptor,
				 sizeof(direct) + ranges_size, payload, size);
	free(descriptor);
	return r;
}

int guest_send_buffer(struct guest_channel *channel, uint64_t transaction_id, const void *memory,
		      uint32_t memory_size, const void *payload, size_t size)
{
	gpa_t gpa = guest_gpa(channel->guest, memory);
	uint32_t offset = gpa % GUEST_PAGE_SIZE;
	size_t pages = ((size_t)offset + memory_size + GUEST_PAGE_SIZE - 1) / GUEST_PAGE_SIZE;
	size_t ranges_size = sizeof(struct vmbus_gpa_range) + pages * sizeof(uint64_t);
	uint8_t *ranges = malloc(ranges_size);
	struct vmbus_gpa_range range = {.byte_count = memory_size, .byte_offset = offset};
	int r;

	if (!ranges)
		abort();
	memcpy(ranges, &range, sizeof(range));
	for (size_t i = 0; i < pages; i++)
		le64_put(ranges + sizeof(range) + i * sizeof(uint64_t), gpa / GUEST_PAGE_SIZE + i);
	r = guest_send_gpa_direct(channel, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, transaction_id, ranges,
				  ranges_size, 1, payload, size);
	free(ranges);
	return r;
}

/* Give the room back; tell a host that waits for it, as Linux does: on the way from too little to more
 * than it asked for. */
static void consume(struct guest_channel *channel, uint32_t bytes)
{
	struct guest_ring *ring = &channel->out;
	uint32_t read = (load(&ring->header->read_index) + bytes) % ring->size, pending, room;

	__atomic_store_n(&ring->header->read_index, read, __ATOMIC_SEQ_CST);
	if (!(load(&channel->in.header->feature_bits) & VMBUS_RING_FEATURE_PENDING_SEND_SIZE))
		return;
	pending = load(&ring->header->pending_send_size);
	room = ring->size - used(ring);
	if (pending && room > pending && room - bytes <= pending)
		guest_signal(channel);
}

int guest_receive_raw(struct guest_channel *channel, void *packet, size_t capacity)
{
	struct guest_ring *ring = &channel->out;
	struct vmbus_packet_header header;
	uint32_t available = used(ring), start = load(&ring->header->read_index), at;
	uint64_t trailer;
	size_t length;

	if (available == 0)
		return -EAGAIN;
	if (available < sizeof(header) + sizeof(trailer))
		return -EPROTO;
	get_bytes(ring, start, &header, sizeof(header));
	length = header.length8 * 8u;
	if (length < sizeof(header) || length + sizeof(trailer) > available ||
	    header.data_offset8 > header.length8)
		return -EPROTO;
	at = get_bytes(ring, (uint32_t)((start + length) % ring->size), &trailer, sizeof(trailer));
	(void)at;
	if (trailer != (uint64_t)start << 32)
		return -EPROTO;
	if (length <= capacity)
		get_bytes(ring, start, packet, length);
	consume(channel, (uint32_t)(length + sizeof(trailer)));
	return length <= capacity ? (int)length : -EMSGSIZE;
}

int guest_try_receive(struct guest_channel *channel, struct vmbus_packet_header *header, void *buffer,
		      size_t capacity)
{
	static __thread uint8_t packet[65536 * 8];
	int length = guest_receive_raw(channel, packet, sizeof(packet));
	size_t offset;

	if (length < 0)
		return length;
	memcpy(header, packet, sizeof(*header));
	offset = header->data_offset8 * 8u;
	if ((size_t)length - offset > capacity)
		return -EMSGSIZE;
	if ((size_t)length > offset)
		memcpy(buffer, packet + offset, (size_t)length - offset);
	return (int)((size_t)length - offset);
}

int guest_receive(struct guest_channel *channel, struct vmbus_packet_header *header, void *buffer,
		  size_t capacity)
{
	struct guest_deadline deadline = guest_deadline();
	int r;

	do {
		r = guest_try_receive(channel, header, buffer, capacity);
	} while (r == -EAGAIN && guest_patience(&deadline));
	return r == -EAGAIN ? -ETIMEDOUT : r;
}

volatile struct vmbus_ring_header *guest_in_ring(struct guest_channel *channel)
{
	return channel->in.header;
}

volatile struct vmbus_ring_header *guest_out_ring(struct guest_channel *channel)
{
	return channel->out.header;
}

uint32_t guest_in_size(const struct guest_channel *channel)
{
	return channel->in.size;
}

uint32_t guest_out_size(const struct guest_channel *channel)
{
	return channel->out.size;
}
