// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * transmit.c - frames of the guest to the port.
 *
 * A packet of the guest holds one or more RNDIS messages, in a section of the send buffer, in pages that it names, or begun in
 * the one and ended in the other. A frame's headers are copied out once and looked at there, where what the guest
 * left undone is written too; the rest goes from the guest's pages to the port. A packet is answered when the port has taken its frames.
 *
 * Source: Linux drivers/net/hyperv/netvsc.c (netvsc_send()), netvsc_drv.c (netvsc_xmit()).
 */
#include <errno.h>
#include <string.h>

#include "vsp/network/nic.h"

/* What one frame says of itself. */
struct message {
	struct rndis_packet packet;
	bool has_checksum, has_lso, has_vlan;
	uint32_t checksum, lso, vlan;
};

/* The bytes of a packet: the pieces in nic->tx.raw. */
struct source {
	const struct iovec *iov;
	unsigned count;
	size_t size;
};

static void drop(struct nic *nic)
{
	nic_count(&nic->network->count.tx_dropped, 1);
}

/* --- a message ------------------------------------------------------------------------------------------ */

static bool read_info(struct message *m, const uint8_t *info, size_t size)
{
	size_t at = 0;

	while (at < size) {
		struct rndis_info head;
		uint32_t value;

		if (size - at < sizeof(head))
			return false;
		memcpy(&head, info + at, sizeof(head));
		if (head.size < sizeof(head) || head.size > size - at)
			return false;
		if (head.type == RNDIS_INFO_CHECKSUM || head.type == RNDIS_INFO_LARGE_SEND || head.type == RNDIS_INFO_VLAN) {
			if (!range_fits_u64(head.offset, sizeof(value), head.size))
				return false;
			value = le32_get(info + at + head.offset);
			if (head.type == RNDIS_INFO_CHECKSUM) {
				m->has_checksum = true;
				m->checksum = value;
			} else if (head.type == RNDIS_INFO_LARGE_SEND) {
				m->has_lso = true;
				m->lso = value;
			} else {
				m->has_vlan = true;
				m->vlan = value;
			}
		}
		at += head.size;
	}
	return true;
}

/* The message of `length` bytes at `offset`: its parts lie inside it, or it is refused. */
static bool read_message(struct message *m, const struct source *source, size_t offset, size_t length)
{
	const size_t head = sizeof(struct rndis_header);
	uint8_t info[TX_INFO_MAX];

	memset(m, 0, sizeof(*m));
	if (length < sizeof(m->packet))
		return false;
	frame_copy_out(source->iov, source->count, offset, &m->packet, sizeof(m->packet));
	if (!range_fits_u64(m->packet.data_offset + (uint64_t)head, m->packet.data_length, length))
		return false;
	if (m->packet.info_length == 0)
		return true;
	if (m->packet.info_length > sizeof(info) ||
	    !range_fits_u64(m->packet.info_offset + (uint64_t)head, m->packet.info_length, length))
		return false;
	frame_copy_out(source->iov, source->count, offset + head + m->packet.info_offset, info, m->packet.info_length);
	return read_info(m, info, m->packet.info_length);
}

/* --- a frame ---------------------------------------------------------------------------------------------- */

/* The tag goes behind the addresses. */
static size_t insert_vlan(uint8_t *headers, size_t size, uint32_t vlan)
{
	memmove(headers + 16, headers + 12, size - 12);
	be16_put(headers + 12, 0x8100);
	be16_put(headers + 14, (uint16_t)(RNDIS_VLAN_PRIORITY(vlan) << 13 | RNDIS_VLAN_CFI(vlan) << 12 | RNDIS_VLAN_ID(vlan)));
	return size + FRAME_VLAN_SIZE;
}

/* What the guest left to us, filled in or handed on. False: it cannot be done, so the frame would go out wrong. */
static bool do_offloads(struct nic *nic, const struct message *m, uint8_t *headers, const struct frame_layout *layout, size_t size,
    struct virtio_net_hdr *todo)
{
	bool checksum = m->has_checksum && m->checksum & (RNDIS_CHECKSUM_TCP | RNDIS_CHECKSUM_UDP);

	if (m->has_lso) {
		nic_count(&nic->network->count.tx_large, 1);
		return RNDIS_LSO_VERSION_2(m->lso) && !frame_defer_segmentation(headers, layout, size, RNDIS_LSO_MSS(m->lso), todo);
	}
	if (m->has_checksum && m->checksum & RNDIS_CHECKSUM_IP_HEADER && layout->ipv4)
		frame_fill_ip4_checksum(headers, layout);
	if (!checksum)
		return true;
	nic_count(&nic->network->count.tx_checksums, 1);
	return !frame_defer_checksum(headers, layout, size, todo);
}

static bool is_own_address(const struct nic *nic, const uint8_t *headers)
{
	return nic->network->any_mac || !memcmp(headers + FRAME_MAC_SIZE, nic->rndis.mac, FRAME_MAC_SIZE);
}

/* The pieces of the frame behind its headers. False: too many, and the frame is lost. */
static bool add_rest(struct transmit *tx, struct port_frame *frame, const struct source *source, size_t offset, size_t size)
{
	for (unsigned i = 0; i < source->count && size > 0; i++) {
		const struct iovec *piece = &source->iov[i];
		size_t n;

		if (offset >= piece->iov_len) {
			offset -= piece->iov_len;
			continue;
		}
		n = min_u64(piece->iov_len - offset, size);
		if (tx->iov_used == TX_IOVECS)
			return false;
		tx->iov[tx->iov_used++] = (struct iovec){(uint8_t *)piece->iov_base + offset, n};
		frame->iov_count++;
		size -= n;
		offset = 0;
	}
	return size == 0;
}

/* `m` describes a frame at `offset` of the source; it joins the batch, or is lost. */
static void add_frame(struct nic *nic, const struct message *m, const struct source *source, size_t offset, unsigned owner)
{
	struct transmit *tx = &nic->tx;
	struct port_frame *frame = &tx->frames[tx->frame_count];
	uint8_t *headers = tx->headers[tx->frame_count];
	size_t size = m->packet.data_length, copied = min_u64(size, FRAME_HEADERS_MAX), room = copied;
	size_t most = m->has_lso ? FRAME_MAX_SIZE : nic->mtu + FRAME_ETHERNET_SIZE + FRAME_VLAN_SIZE;
	unsigned iov_used = tx->iov_used;
	struct frame_layout layout;

	if (size < FRAME_ETHERNET_SIZE || size > most || !nic_port(nic)) {
		drop(nic);
		return;
	}
	frame_copy_out(source->iov, source->count, offset, headers, copied);
	nic_count(&nic->network->count.copied_bytes, copied);
	if (m->has_vlan)
		room = insert_vlan(headers, copied, m->vlan);
	frame->todo = (struct virtio_net_hdr){0};
	frame_parse(headers, room, &layout);
	if (!is_own_address(nic, headers) || !do_offloads(nic, m, headers, &layout, size + (room - copied), &frame->todo)) {
		drop(nic);
		return;
	}
	addresses_learn(nic->network, headers, room, &layout);
	frame->iov = &tx->iov[tx->iov_used];
	frame->iov_count = 2;
	frame->size = size + (room - copied);
	tx->iov_used += 2;
	frame->iov[1] = (struct iovec){headers, room};
	if (!add_rest(tx, frame, source, offset + copied, size - copied)) {
		tx->iov_used = iov_used;
		drop(nic);
		return;
	}
	tx->owner[tx->frame_count++] = (uint8_t)owner;
}

/* --- the buffer ----------------------------------------------------------------------------------------------- */

void transmit_set_buffer(struct transmit *tx, struct gpadl *gpadl, uint32_t handle, uint16_t id)
{
	tx->gpadl = gpadl;
	tx->handle = handle;
	tx->id = id;
	tx->section_count = (unsigned)min_u64(gpadl_size(gpadl) / TX_SECTION, UINT16_MAX);
}

void transmit_drop_buffer(struct transmit *tx)
{
	if (tx->gpadl)
		gpadl_release(tx->gpadl);
	tx->gpadl = NULL;
	tx->section_count = 0;
}

/* --- a packet ----------------------------------------------------------------------------------------------- */

bool transmit_ready(const struct nic *nic)
{
	const struct transmit *tx = &nic->tx;

	/* A packet of the most frames, each with its two pieces and one that is cut in two. */
	return !tx->stuck && tx->packet_count < TX_PACKETS && tx->frame_count + TX_MESSAGES <= PORT_BATCH &&
	       tx->iov_used + TX_RAW_IOVECS + 4 * TX_MESSAGES <= TX_IOVECS;
}

static void add_packet(struct nic *nic, const struct channel_packet *packet, uint32_t status, bool patient)
{
	struct transmit *tx = &nic->tx;

	tx->packets[tx->packet_count].transaction_id = packet->transaction_id;
	tx->packets[tx->packet_count].status = status;
	tx->packets[tx->packet_count].channel = (uint8_t)nic->serving;
	tx->packets[tx->packet_count].wanted = packet->completion_requested;
	tx->packets[tx->packet_count].patient = patient;
	tx->packet_count++;
}

void transmit_refuse(struct nic *nic, const struct channel_packet *packet, uint32_t status)
{
	drop(nic);
	add_packet(nic, packet, status, false);
}

static bool take_control(struct nic *nic, const struct source *source)
{
	uint8_t message[2048];

	if (source->size > sizeof(message))
		return false;
	return rndis_control(nic, message, frame_copy_out(source->iov, source->count, 0, message, source->size));
}

static bool take_messages(struct nic *nic, const struct source *source, unsigned owner)
{
	size_t offset = 0;

	for (unsigned n = 0; source->size - offset >= sizeof(struct rndis_header); n++) {
		struct rndis_header header;
		struct message m;

		frame_copy_out(source->iov, source->count, offset, &header, sizeof(header));
		if (n == TX_MESSAGES || header.type != RNDIS_PACKET || header.length > source->size - offset ||
		    !read_message(&m, source, offset, header.length))
			return false;
		add_frame(nic, &m, source, offset + sizeof(header) + m.packet.data_offset, owner);
		offset += header.length;
	}
	return offset > 0;
}

/* The section comes before the pages that the packet names, which are in nic->tx.raw already. False: no such section. */
static bool find_source(struct nic *nic, const struct channel_packet *packet, const struct nvsp_rndis_packet *rndis,
    struct source *source)
{
	struct transmit *tx = &nic->tx;
	struct iovec section[TX_SECTION / GUEST_PAGE_SIZE + 2];
	int count = 0;

	source->iov = tx->raw;
	source->count = packet->iov_count;
	source->size = packet->iov_bytes;
	if (rndis->section_index != NVSP_NO_SECTION) {
		if (rndis->section_index >= tx->section_count || rndis->section_size > TX_SECTION)
			return false;
		count = gpadl_iovec(tx->gpadl, (size_t)rndis->section_index * TX_SECTION, rndis->section_size, section,
		    ARRAY_SIZE(section));
		if (count < 0)
			return false;
		memmove(tx->raw + count, tx->raw, packet->iov_count * sizeof(tx->raw[0]));
		memcpy(tx->raw, section, (size_t)count * sizeof(section[0]));
		source->count += (unsigned)count;
		source->size += rndis->section_size;
	}
	return true;
}

void transmit_packet(struct nic *nic, const struct channel_packet *packet, const struct nvsp_rndis_packet *rndis)
{
	uint32_t status = NVSP_STATUS_SUCCESS;
	struct source source;
	bool good = find_source(nic, packet, rndis, &source);

	nic_count(&nic->network->count.tx_packets, 1);
	if (good && rndis->channel_type == NVSP_CHANNEL_CONTROL)
		good = take_control(nic, &source);
	else if (good)
		good = take_messages(nic, &source, nic->tx.packet_count);
	if (!good) {
		drop(nic);
		status = NVSP_STATUS_INVALID_RNDIS_PACKET;
	}
	add_packet(nic, packet, status, rndis->channel_type == NVSP_CHANNEL_DATA && packet->iov_count == 0);
}

/* --- sending -------------------------------------------------------------------------------------------------- */

/* False: no room in the ring. */
static bool complete(struct nic *nic, unsigned index)
{
	struct transmit *tx = &nic->tx;
	struct nvsp_message message = {.type = NVSP_SEND_RNDIS_PACKET_COMPLETE, .rndis_status = tx->packets[index].status};
	struct channel *channel = nic->channels[tx->packets[index].channel];
	int r;

	if (!tx->packets[index].wanted || !channel)
		return true;
	r = channel_send_completion(channel, tx->packets[index].transaction_id, &message, sizeof(message));
	if (r == -EAGAIN)
		return false;
	if (r < 0)
		nic_break(nic, nic_channel_lost);
	if (tx->packets[index].patient)
		nic->late++;
	else
		nic->prompt = true;
	return true;
}

static void complete_packets(struct nic *nic)
{
	struct transmit *tx = &nic->tx;
	unsigned until = tx->frame_first < tx->frame_count ? tx->owner[tx->frame_first] : tx->packet_count;

	tx->stuck = false;
	while (tx->packet_first < until && !tx->stuck) {
		if (complete(nic, tx->packet_first))
			tx->packet_first++;
		else
			tx->stuck = true;
	}
	if (tx->stuck)
		nic_count(&nic->network->count.ring_full, 1);
	if (tx->frame_first == tx->frame_count && tx->packet_first == tx->packet_count)
		tx->frame_first = tx->frame_count = tx->packet_first = tx->packet_count = tx->iov_used = 0;
}

/* Of what the guest has sent only our copy of the headers is looked at. */
static void meter_sent(struct nic *nic, unsigned count)
{
	const struct transmit *tx = &nic->tx;

	for (unsigned i = tx->frame_first; i < tx->frame_first + count; i++) {
		size_t available = min_u64(tx->frames[i].size, FRAME_HEADERS_MAX);
		struct frame_layout layout;

		if (frame_parse(tx->headers[i], available, &layout))
			meter_count(nic->network->meter, false, tx->headers[i], &layout, available, tx->frames[i].size);
	}
}

static void count_sent(struct nic *nic, unsigned count)
{
	struct transmit *tx = &nic->tx;
	unsigned long bytes = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += tx->frames[tx->frame_first + i].size;
	if (meter_is_on(nic->network->meter))
		meter_sent(nic, count);
	nic_count(&nic->network->count.tx_frames, count);
	nic_count(&nic->network->count.tx_bytes, bytes);
	tx->frame_first += count;
}

void transmit_flush(struct nic *nic)
{
	struct transmit *tx = &nic->tx;

	while (tx->frame_first < tx->frame_count && !tx->blocked) {
		struct port *port = nic_port(nic);
		int n = port ? port_send(port, tx->frames + tx->frame_first, tx->frame_count - tx->frame_first) : -EPIPE;

		if (n < 0) {
			if (port)
				nic_lose_port(nic);
			nic_count(&nic->network->count.tx_dropped, tx->frame_count - tx->frame_first);
			tx->frame_first = tx->frame_count;
		} else if (n == 0) {
			nic_count(&nic->network->count.port_full, 1);
			tx->blocked = true;
		} else {
			count_sent(nic, (unsigned)n);
		}
	}
	complete_packets(nic);
}

void transmit_abandon(struct nic *nic)
{
	struct transmit *tx = &nic->tx;

	nic_count(&nic->network->count.tx_dropped, tx->frame_count - tx->frame_first);
	tx->frame_first = tx->frame_count;
	tx->blocked = false;
	complete_packets(nic);
}

void transmit_leave(struct nic *nic, unsigned channel)
{
	struct transmit *tx = &nic->tx;

	transmit_abandon(nic);
	for (unsigned i = tx->packet_first; i < tx->packet_count; i++)
		if (tx->packets[i].channel == channel)
			tx->packets[i].wanted = false;
}
