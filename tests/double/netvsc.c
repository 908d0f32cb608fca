/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/double/netvsc.h"

#include <errno.h>
#include <string.h>

#define RECEIVE_ID 0xcafeu
#define PAGES      32u

static const struct guid network_class = NETWORK_CLASS;

int netvsc_open(struct netvsc *n, struct guest *guest, unsigned ring_pages)
{
	const struct vmbus_message_offer *offer = guest_find_offer(guest, &network_class, 0);

	if (!offer)
		return -ENODEV;
	n->guest = guest;
	n->next_id = 100;
	n->completed = n->kept_count = n->range_count = n->range_next = 0;
	n->receive_gpadl = n->send_gpadl = 0;
	if (!n->page)
		n->page = guest_alloc(guest, PAGES, NULL);
	return guest_open(guest, offer, ring_pages, ring_pages, NULL, &n->channel);
}

int netvsc_complete(struct netvsc *n, uint64_t id)
{
	struct nvsp_message done = {.type = NVSP_SEND_RNDIS_PACKET_COMPLETE, .rndis_status = NVSP_STATUS_SUCCESS};

	return guest_send(n->channel, VMBUS_PACKET_COMPLETION, 0, id, &done, sizeof(done));
}

/* Give the packet back that was taken last. */
static void end_packet(struct netvsc *n)
{
	if (n->range_count == 0)
		return;
	n->range_count = n->range_next = 0;
	if (!n->keep)
		netvsc_complete(n, n->packet_id);
	else if (n->kept_count < ARRAY_SIZE(n->kept))
		n->kept[n->kept_count++] = n->packet_id;
}

/* A transfer-page packet becomes the ranges that netvsc_receive() gives. */
static int take_transfer(struct netvsc *n, const uint8_t *packet, size_t size)
{
	struct vmbus_packet_header header;
	struct vmbus_transfer_page_header transfer;
	struct nvsp_message message;

	end_packet(n);
	memcpy(&header, packet, sizeof(header));
	memcpy(&transfer, packet + sizeof(header), sizeof(transfer));
	if (transfer.range_count > ARRAY_SIZE(n->ranges) || transfer.set_id != RECEIVE_ID ||
	    header.data_offset8 * 8u + sizeof(message) > size)
		return -EBADMSG;
	memcpy(n->ranges, packet + sizeof(header) + sizeof(transfer), transfer.range_count * sizeof(n->ranges[0]));
	memcpy(&message, packet + header.data_offset8 * 8u, sizeof(message));
	if (message.type != NVSP_SEND_RNDIS_PACKET)
		return -EBADMSG;
	n->range_count = transfer.range_count;
	n->range_next = 0;
	n->channel_type = message.rndis.channel_type;
	n->packet_id = header.transaction_id;
	return 0;
}

/* 1: a completion of ours was taken, its message in *reply; 2: a packet of the host's; 0: nothing there. */
static int take(struct netvsc *n, struct nvsp_message *reply, uint64_t *id)
{
	uint8_t packet[2048];
	struct vmbus_packet_header header;
	int size = guest_receive_raw(n->channel, packet, sizeof(packet)), r;

	if (size == -EAGAIN)
		return 0;
	if (size < (int)sizeof(header))
		return size < 0 ? size : -EBADMSG;
	memcpy(&header, packet, sizeof(header));
	if (header.type == VMBUS_PACKET_TRANSFER_PAGES) {
		r = take_transfer(n, packet, (size_t)size);
		return r ? r : 2;
	}
	if (header.type != VMBUS_PACKET_COMPLETION || header.data_offset8 * 8u + sizeof(*reply) > (size_t)size)
		return -EBADMSG;
	memcpy(reply, packet + header.data_offset8 * 8u, sizeof(*reply));
	*id = header.transaction_id;
	if (reply->type == NVSP_SEND_RNDIS_PACKET_COMPLETE) {
		n->completed++;
		n->last_status = reply->rndis_status;
	}
	return 1;
}

struct wait {
	struct netvsc *n;
	struct nvsp_message reply;
	uint64_t id;
	int r;
};

static bool has_taken(void *context)
{
	struct wait *w = context;

	w->r = take(w->n, &w->reply, &w->id);
	return w->r != 0;
}

int netvsc_exchange(struct netvsc *n, struct nvsp_message *message)
{
	struct wait w = {.n = n};
	uint64_t id = n->next_id++;
	int r = guest_send(n->channel, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, id, message, sizeof(*message));

	if (r)
		return r;
	do {
		if (!guest_wait(has_taken, &w))
			return -ETIMEDOUT;
		if (w.r < 0)
			return w.r;
		if (w.r == 2)
			end_packet(n);
	} while (w.r != 1 || w.id != id);
	*message = w.reply;
	return 0;
}

int netvsc_version(struct netvsc *n, uint32_t version)
{
	struct nvsp_message m = {.type = NVSP_INIT, .init = {version, version}};
	int r = netvsc_exchange(n, &m);

	if (r)
		return r;
	if (m.type != NVSP_INIT_COMPLETE || m.init_complete.status != NVSP_STATUS_SUCCESS)
		return -EPROTONOSUPPORT;
	n->version = version;
	return 0;
}

int netvsc_buffers(struct netvsc *n, unsigned receive_pages)
{
	uint32_t relid = guest_channel_relid(n->channel);
	struct nvsp_message m = {.type = NVSP_SEND_RECEIVE_BUFFER};
	uint64_t *pfns = calloc(receive_pages, sizeof(*pfns));
	uint64_t send_pfns[NETVSC_SECTIONS * 6144 / 4096];
	int r = guest_gpadl_alloc(n->guest, relid, receive_pages, pfns, &n->receive_gpadl);

	if (!r) {
		n->receive_buffer = guest_at(n->guest, pfns[0] << 12);
		n->receive_size = (size_t)receive_pages << 12;
		m.buffer = (struct nvsp_buffer){n->receive_gpadl, RECEIVE_ID};
		r = netvsc_exchange(n, &m);
	}
	free(pfns);
	if (!r && m.receive_buffer_complete.status != NVSP_STATUS_SUCCESS)
		r = -ENOBUFS;
	if (r)
		return r;
	n->receive_section = m.receive_buffer_complete.sub_size;
	n->receive_sections = m.receive_buffer_complete.sub_count;
	r = guest_gpadl_alloc(n->guest, relid, ARRAY_SIZE(send_pfns), send_pfns, &n->send_gpadl);
	if (r)
		return r;
	n->send_buffer = guest_at(n->guest, send_pfns[0] << 12);
	m = (struct nvsp_message){.type = NVSP_SEND_SEND_BUFFER, .buffer = {n->send_gpadl, 0}};
	r = netvsc_exchange(n, &m);
	if (!r && m.send_buffer_complete.status != NVSP_STATUS_SUCCESS)
		r = -ENOBUFS;
	n->section_size = m.send_buffer_complete.section_size;
	return r;
}

int netvsc_revoke_receive_buffer(struct netvsc *n)
{
	struct nvsp_message m = {.type = NVSP_REVOKE_RECEIVE_BUFFER, .buffer = {RECEIVE_ID, 0}};

	end_packet(n); /* later its number would be that of a packet in the next buffer */
	return guest_send(n->channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m));
}

static int initialize(struct netvsc *n)
{
	struct rndis_initialize request = {.header = {RNDIS_INITIALIZE, sizeof(request)}, .request_id = ++n->next_request,
	    .major = 1, .max_transfer = 0x4000};
	struct rndis_initialize_complete answer;
	uint8_t *message;
	size_t size;
	int r = netvsc_send_control(n, &request, sizeof(request));

	if (!r)
		r = netvsc_receive(n, &message, &size);
	if (r)
		return r;
	if (size < sizeof(answer))
		return -EBADMSG;
	memcpy(&answer, message, sizeof(answer));
	return answer.header.type == (RNDIS_INITIALIZE | RNDIS_COMPLETE) && answer.request_id == request.request_id && answer.status == 0
		   ? 0
		   : -EBADMSG;
}

int netvsc_negotiate(struct netvsc *n, uint32_t version, unsigned mtu, unsigned receive_pages)
{
	struct nvsp_message m = {.type = NVSP_SEND_NDIS_CONFIG, .ndis_config = {mtu + 14, 0, NVSP_CAPABILITY_VLAN}};
	int r = netvsc_version(n, version);

	if (!r && version >= NVSP_VERSION_2)
		r = guest_send(n->channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m));
	m = (struct nvsp_message){.type = NVSP_SEND_NDIS_VERSION, .ndis_version = {6, version >= NVSP_VERSION_5 ? 30 : 1}};
	if (!r)
		r = guest_send(n->channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m));
	if (!r)
		r = netvsc_buffers(n, receive_pages);
	return r ? r : initialize(n);
}

/* --- control ------------------------------------------------------------------------------------------ */

static int send_bytes(struct netvsc *n, uint32_t type, uint32_t section, uint32_t section_size, const void *memory, size_t size)
{
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {type, section, section_size}};

	if (size == 0)
		return guest_send(n->channel, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, n->next_id++, &m, sizeof(m));
	return guest_send_buffer(n->channel, n->next_id++, memory, (uint32_t)size, &m, sizeof(m));
}

int netvsc_send_control(struct netvsc *n, const void *message, size_t size)
{
	memcpy(n->page, message, size);
	return send_bytes(n, NVSP_CHANNEL_CONTROL, NVSP_NO_SECTION, 0, n->page, size);
}

static int send_request(struct netvsc *n, uint32_t type, uint32_t oid, const void *value, size_t size)
{
	uint8_t message[1024];
	struct rndis_request request = {.header = {type, (uint32_t)(sizeof(request) + size)},
	    .request_id = ++n->next_request, .oid = oid, .info_length = (uint32_t)size,
	    .info_offset = sizeof(request) - sizeof(request.header)};

	memcpy(message, &request, sizeof(request));
	if (size)
		memcpy(message + sizeof(request), value, size);
	return netvsc_send_control(n, message, sizeof(request) + size);
}

int64_t netvsc_query(struct netvsc *n, uint32_t oid, void *value, size_t *size)
{
	struct rndis_query_complete answer;
	uint8_t *message;
	size_t got;
	int r = send_request(n, RNDIS_QUERY, oid, NULL, 0);

	do {
		if (!r)
			r = netvsc_receive(n, &message, &got);
		if (r)
			return r;
		memcpy(&answer, message, sizeof(answer));
	} while (answer.header.type != (RNDIS_QUERY | RNDIS_COMPLETE));
	if (answer.request_id != n->next_request || answer.header.length > got || answer.info_length > *size ||
	    answer.info_offset + 8 + answer.info_length > answer.header.length)
		return -EBADMSG;
	memcpy(value, message + 8 + answer.info_offset, answer.info_length);
	*size = answer.info_length;
	return answer.status;
}

int64_t netvsc_set(struct netvsc *n, uint32_t oid, const void *value, size_t size)
{
	struct rndis_complete answer;
	uint8_t *message;
	size_t got;
	int r = send_request(n, RNDIS_SET, oid, value, size);

	do {
		if (!r)
			r = netvsc_receive(n, &message, &got);
		if (r)
			return r;
		memcpy(&answer, message, sizeof(answer));
	} while (answer.header.type != (RNDIS_SET | RNDIS_COMPLETE));
	return answer.request_id == n->next_request ? (int64_t)answer.status : -EBADMSG;
}

int netvsc_set_filter(struct netvsc *n, uint32_t filter)
{
	return netvsc_set(n, OID_GEN_CURRENT_PACKET_FILTER, &filter, sizeof(filter)) == 0 ? 0 : -EIO;
}

/* --- frames -------------------------------------------------------------------------------------------- */

size_t netvsc_info(uint8_t *to, uint32_t type, uint32_t value)
{
	struct rndis_info info = {.size = sizeof(info) + sizeof(value), .type = type, .offset = sizeof(info)};

	memcpy(to, &info, sizeof(info));
	le32_put(to + sizeof(info), value);
	return info.size;
}

size_t netvsc_message(uint8_t *to, const void *frame, size_t size, const void *info, size_t info_size)
{
	struct rndis_packet packet = {.header = {RNDIS_PACKET, 0},
	    .data_offset = (uint32_t)(sizeof(packet) - 8 + info_size),
	    .data_length = (uint32_t)size,
	    .info_offset = info_size ? sizeof(packet) - 8 : 0,
	    .info_length = (uint32_t)info_size};
	size_t whole = sizeof(packet) + info_size + size, padded = align_up_u64(whole, 8);

	packet.header.length = (uint32_t)padded;
	memcpy(to, &packet, sizeof(packet));
	if (info_size)
		memcpy(to + sizeof(packet), info, info_size);
	memcpy(to + sizeof(packet) + info_size, frame, size);
	memset(to + whole, 0, padded - whole);
	return padded;
}

int netvsc_send_section(struct netvsc *n, unsigned section, const void *bytes, size_t size)
{
	memcpy(n->send_buffer + (size_t)section * n->section_size, bytes, size);
	return send_bytes(n, NVSP_CHANNEL_DATA, section, (uint32_t)size, NULL, 0);
}

int netvsc_send_pages(struct netvsc *n, const void *bytes, size_t size)
{
	memcpy(n->page, bytes, size);
	return send_bytes(n, NVSP_CHANNEL_DATA, NVSP_NO_SECTION, 0, n->page, size);
}

int netvsc_wait_completed(struct netvsc *n, uint32_t count)
{
	struct wait w = {.n = n};

	while (n->completed < count) {
		if (!guest_wait(has_taken, &w))
			return -ETIMEDOUT;
		if (w.r < 0)
			return w.r;
		if (w.r == 2)
			end_packet(n);
	}
	return 0;
}

int netvsc_send_frame(struct netvsc *n, const void *frame, size_t size, const void *info, size_t info_size)
{
	uint8_t *bytes = malloc(size + info_size + 64);
	uint32_t before = n->completed;
	int r;

	size = netvsc_message(bytes, frame, size, info, info_size);
	r = netvsc_send_pages(n, bytes, size);
	free(bytes);
	if (!r)
		r = netvsc_wait_completed(n, before + 1);
	return r ? r : (int)n->last_status;
}

bool netvsc_poll(struct netvsc *n)
{
	struct nvsp_message reply;
	uint64_t id;
	int r;

	if (n->range_next < n->range_count)
		return true;
	end_packet(n);
	do
		r = take(n, &reply, &id);
	while (r == 1);
	return r == 2;
}

void netvsc_release(struct netvsc *n)
{
	end_packet(n);
}

static bool poll_wait(void *context)
{
	return netvsc_poll(context);
}

int netvsc_receive(struct netvsc *n, uint8_t **message, size_t *size)
{
	const struct vmbus_transfer_page_range *range;

	if (!guest_wait(poll_wait, n))
		return -ETIMEDOUT;
	range = &n->ranges[n->range_next++];
	if (!range_fits_u64(range->byte_offset, range->byte_count, n->receive_size) || range->byte_count < sizeof(struct rndis_header))
		return -EBADMSG;
	*message = n->receive_buffer + range->byte_offset;
	*size = range->byte_count;
	return le32_get(*message + 4) <= *size ? 0 : -EBADMSG;
}

static int add_piece(struct netvsc_frame *frame, const uint8_t *message, size_t size, uint32_t *packet_id)
{
	struct rndis_packet p;

	memcpy(&p, message, sizeof(p));
	if (p.header.type != RNDIS_PACKET || !range_fits_u64(p.data_offset + 8ull, p.data_length, size) ||
	    !range_fits_u64(p.info_offset + 8ull, p.info_length, size) || frame->size + p.data_length > sizeof(frame->bytes))
		return -EBADMSG;
	memcpy(frame->bytes + frame->size, message + 8 + p.data_offset, p.data_length);
	frame->size += p.data_length;
	frame->pieces++;
	for (uint32_t at = 0; at < p.info_length;) {
		struct rndis_info info;
		uint32_t value;

		memcpy(&info, message + 8 + p.info_offset + at, sizeof(info));
		if (info.size < sizeof(info) + 4 || info.size > p.info_length - at || info.offset != sizeof(info))
			return -EBADMSG;
		value = le32_get(message + 8 + p.info_offset + at + info.offset);
		if (info.type == RNDIS_INFO_CHECKSUM)
			frame->checksum = value;
		else if (info.type == RNDIS_INFO_VLAN)
			frame->vlan = value;
		else if (info.type == RNDIS_INFO_PACKET_ID)
			*packet_id = value;
		at += info.size;
	}
	return 0;
}

int netvsc_receive_frame(struct netvsc *n, struct netvsc_frame *frame)
{
	frame->size = frame->pieces = 0;
	frame->checksum = frame->vlan = 0xffffffff;
	for (;;) {
		uint32_t packet_id = (RNDIS_PACKET_ID_FIRST | RNDIS_PACKET_ID_LAST) << 8;
		uint8_t *message;
		size_t size;
		int r = netvsc_receive(n, &message, &size);

		if (!r)
			r = add_piece(frame, message, size, &packet_id);
		if (r)
			return r;
		if ((frame->pieces == 1) != !!(packet_id & RNDIS_PACKET_ID_FIRST << 8))
			return -EBADMSG;
		if (packet_id & RNDIS_PACKET_ID_LAST << 8)
			return 0;
		/* Pieces of one packet do not go over two of the ring's. */
		if (n->range_next >= n->range_count)
			return -EBADMSG;
	}
}
