// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * receive.c - frames of the port to the guest.
 *
 * The guest's receive buffer is cut into sections. The port writes a frame straight into one, behind the room for the message in
 * front of it; a coalesced segment goes over several. A packet on the ring then names up to RX_RANGES of them, and they are
 * ours again when the guest completes it.
 *
 * Source: Linux drivers/net/hyperv/netvsc.c (netvsc_receive()), rndis_filter.c (rndis_filter_receive_data()).
 */
#include <errno.h>
#include <string.h>

#include "vsp/network/nic.h"

#define SECTION_LARGE    8192u /* where the buffer has plenty of room: fewer pieces of coalesced segments */
#define SECTION_MAX      16384u
#define SECTION_ALIGN    256u
#define PLENTY           (4u << 20)
#define SECTIONS_MIN     8u
#define LARGE_FRAME      FRAME_MAX_SIZE
#define DISCARD_ROUNDS   256u
#define BATCH_MIN        4u

_Static_assert(NETWORK_MTU_MAX / GUEST_PAGE_SIZE + 4 < RX_FRAME_IOVECS, "a frame has iovecs enough");
_Static_assert(RX_ROOM >= sizeof(struct rndis_packet) + 3 * (sizeof(struct rndis_info) + 4), "all information has room");

/* --- the buffer --------------------------------------------------------------------------------------- */

static int cut(struct receive *rx)
{
	for (unsigned i = 0; i < rx->section_count; i++) {
		int n = gpadl_iovec(rx->gpadl, (size_t)i * rx->section_size, rx->section_size, rx->pieces + (size_t)i * rx->pieces_each,
		    rx->pieces_each);

		if (n < 0)
			return n;
		rx->piece_count[i] = (uint8_t)n;
		rx->free[i] = (uint16_t)(rx->section_count - 1 - i);
	}
	rx->free_count = rx->section_count;
	return 0;
}

static unsigned least_section(unsigned mtu)
{
	return (unsigned)align_up_u64(RX_ROOM + mtu + FRAME_ETHERNET_SIZE + FRAME_VLAN_SIZE, SECTION_ALIGN);
}

unsigned receive_section_size(size_t buffer, unsigned mtu)
{
	unsigned needed = least_section(mtu);

	return buffer >= PLENTY && needed < SECTION_LARGE ? SECTION_LARGE : needed;
}

bool receive_section_size_good(unsigned size, unsigned mtu)
{
	return size >= least_section(mtu) && size <= SECTION_MAX && size % SECTION_ALIGN == 0;
}

int receive_set_buffer(struct receive *rx, struct gpadl *gpadl, uint32_t handle, uint16_t id, unsigned section_size)
{
	unsigned count = (unsigned)min_u64(gpadl_size(gpadl) / section_size, RX_NO_SECTION - 1);
	int r;

	if (count < SECTIONS_MIN)
		return -EINVAL;
	rx->section_size = section_size;
	rx->section_count = count;
	rx->handle = handle;
	rx->pieces_each = rx->section_size / GUEST_PAGE_SIZE + 2;
	rx->pieces = calloc((size_t)rx->section_count * rx->pieces_each, sizeof(*rx->pieces));
	rx->piece_count = calloc(rx->section_count, sizeof(*rx->piece_count));
	rx->next = calloc(rx->section_count, sizeof(*rx->next));
	rx->head = calloc(rx->section_count, sizeof(*rx->head));
	rx->free = calloc(rx->section_count, sizeof(*rx->free));
	rx->gpadl = gpadl;
	rx->set_id = id;
	rx->batch = BATCH_MIN;
	r = rx->pieces && rx->piece_count && rx->next && rx->head && rx->free ? cut(rx) : -ENOMEM;
	if (r) {
		rx->gpadl = NULL; /* the caller's again */
		receive_drop_buffer(rx);
	}
	return r;
}

void receive_drop_buffer(struct receive *rx)
{
	if (rx->gpadl)
		gpadl_release(rx->gpadl);
	free(rx->pieces);
	free(rx->piece_count);
	free(rx->next);
	free(rx->head);
	free(rx->free);
	rx->gpadl = NULL;
	rx->pieces = NULL;
	rx->piece_count = NULL;
	rx->next = rx->free = NULL;
	rx->head = NULL;
	rx->large = false; /* another buffer may have no room for coalesced segments */
	rx->free_count = rx->section_count = rx->section_size = rx->range_count = 0;
	for (unsigned i = 0; i < NIC_CHANNELS_MAX; i++)
		rx->packets[i].count = 0;
}

static const struct iovec *section_pieces(const struct receive *rx, unsigned section)
{
	return rx->pieces + (size_t)section * rx->pieces_each;
}

static unsigned section_capacity(const struct receive *rx)
{
	return rx->section_size - RX_ROOM;
}

/* Guest memory that was written may hold code that a processor has seen before. */
static void tell_processors(struct nic *nic, unsigned section, size_t size)
{
	const struct iovec *pieces = section_pieces(&nic->rx, section);

	for (unsigned i = 0; i < nic->rx.piece_count[section] && size > 0; i++) {
		size_t n = min_u64(size, pieces[i].iov_len);

		partition_host_written(nic->network->partition, pieces[i].iov_base, n);
		size -= n;
	}
}

static void write_section(struct nic *nic, unsigned section, const void *bytes, size_t size)
{
	frame_copy_in(section_pieces(&nic->rx, section), nic->rx.piece_count[section], 0, bytes, size);
}

/* --- packets on the ring -------------------------------------------------------------------------------- */

static void add_range(struct receive *rx, unsigned channel, unsigned section, unsigned size)
{
	struct receive_packet *packet = &rx->packets[channel];

	if (packet->count == 0)
		packet->first = (uint16_t)section;
	else
		rx->next[packet->last] = (uint16_t)section;
	packet->last = (uint16_t)section;
	rx->next[section] = RX_NO_SECTION;
	packet->ranges[packet->count++] =
	    (struct vmbus_transfer_page_range){.byte_count = size, .byte_offset = section * rx->section_size};
	rx->range_count++;
}

static void empty(struct receive *rx, struct receive_packet *packet)
{
	rx->range_count -= packet->count;
	packet->count = 0;
	packet->control = false;
}

static void abandon_packet(struct nic *nic, struct receive_packet *packet)
{
	struct receive *rx = &nic->rx;

	if (packet->count == 0)
		return;
	for (unsigned section = packet->first; section != RX_NO_SECTION; section = rx->next[section])
		rx->free[rx->free_count++] = (uint16_t)section;
	if (!packet->control)
		nic_count(&nic->network->count.rx_dropped, 1);
	empty(rx, packet);
}

/* False: the ring has no room. */
static bool send_packet(struct nic *nic, unsigned index)
{
	struct receive_packet *packet = &nic->rx.packets[index];
	struct nvsp_message message = {.type = NVSP_SEND_RNDIS_PACKET,
	    .rndis = {packet->control ? NVSP_CHANNEL_CONTROL : NVSP_CHANNEL_DATA, NVSP_NO_SECTION, 0}};
	int r;

	if (packet->count == 0)
		return true;
	if (!nic->channels[index]) {
		abandon_packet(nic, packet);
		return true;
	}
	nic->rx.head[packet->first] = true;
	r = channel_send_transfer_pages(nic->channels[index], packet->first + 1u, nic->rx.set_id, packet->ranges, packet->count, &message,
	    sizeof(message), true);
	if (r == -EAGAIN) {
		nic->rx.head[packet->first] = false;
		nic_count(&nic->network->count.ring_full, 1);
		return false;
	}
	if (r < 0)
		nic_break(nic, nic_channel_lost);
	empty(&nic->rx, packet);
	nic->prompt = true;
	nic_count(&nic->network->count.rx_packets, 1);
	return true;
}

bool receive_send(struct nic *nic)
{
	bool all = true;

	for (unsigned i = 0; i < NIC_CHANNELS_MAX && nic->rx.range_count; i++)
		all &= send_packet(nic, i);
	return all;
}

void receive_abandon(struct nic *nic)
{
	for (unsigned i = 0; i < NIC_CHANNELS_MAX; i++)
		abandon_packet(nic, &nic->rx.packets[i]);
}

bool receive_completed(struct nic *nic, uint64_t transaction_id)
{
	struct receive *rx = &nic->rx;
	unsigned section = (unsigned)(transaction_id - 1);

	if (!rx->gpadl) /* of a buffer that was taken back */
		return true;
	if (transaction_id == 0 || transaction_id > rx->section_count || !rx->head[section])
		return false;
	rx->head[section] = false;
	for (;;) {
		uint16_t next = rx->next[section];

		rx->free[rx->free_count++] = (uint16_t)section;
		if (next == RX_NO_SECTION)
			return true;
		section = next;
	}
}

/* --- control messages ------------------------------------------------------------------------------------- */

void receive_replies(struct nic *nic)
{
	struct receive *rx = &nic->rx;

	receive_send(nic);
	if (rx->packets[0].count)
		return;
	while (nic->reply_count > 0 && rx->free_count > 0 && !nic->broken) {
		unsigned i = nic->reply_first, section = rx->free[--rx->free_count];

		write_section(nic, section, nic->replies[i].bytes, nic->replies[i].size);
		tell_processors(nic, section, nic->replies[i].size);
		add_range(rx, 0, section, nic->replies[i].size);
		rx->packets[0].control = true;
		if (!send_packet(nic, 0)) {
			abandon_packet(nic, &rx->packets[0]); /* the message itself waits on */
			return;
		}
		nic->reply_first = (i + 1) % NIC_REPLIES;
		nic->reply_count--;
	}
}

/* --- frames ------------------------------------------------------------------------------------------------- */

static bool is_listed(const struct rndis_state *s, const uint8_t *address)
{
	for (unsigned i = 0; i < s->multicast_count; i++)
		if (!memcmp(s->multicast[i], address, FRAME_MAC_SIZE))
			return true;
	return false;
}

static bool wanted(const struct rndis_state *s, const uint8_t *address)
{
	static const uint8_t everybody[FRAME_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (s->filter & NDIS_FILTER_PROMISCUOUS)
		return true;
	if (!memcmp(address, everybody, FRAME_MAC_SIZE))
		return s->filter & NDIS_FILTER_BROADCAST;
	if (address[0] & 1)
		return s->filter & NDIS_FILTER_ALL_MULTICAST || (s->filter & NDIS_FILTER_MULTICAST && is_listed(s, address));
	return s->filter & NDIS_FILTER_DIRECTED && !memcmp(address, s->mac, FRAME_MAC_SIZE);
}

/* What the guest may believe of the checksum, in the words of the information. */
static uint32_t checksum_verdict(const struct nic *nic, const struct port_frame *frame, const struct frame_layout *layout)
{
	const struct rndis_state *s = &nic->rndis;

	if (!(frame->todo.flags & (VIRTIO_NET_HDR_F_DATA_VALID | VIRTIO_NET_HDR_F_NEEDS_CSUM)))
		return 0;
	if (layout->protocol == FRAME_PROTOCOL_TCP && (layout->ipv4 ? s->tcp4 : s->tcp6))
		return RNDIS_CHECKSUM_TCP_GOOD | (layout->ipv4 ? RNDIS_CHECKSUM_IP_GOOD : 0);
	if (layout->protocol == FRAME_PROTOCOL_UDP && (layout->ipv4 ? s->udp4 : s->udp6))
		return RNDIS_CHECKSUM_UDP_GOOD | (layout->ipv4 ? RNDIS_CHECKSUM_IP_GOOD : 0);
	return 0;
}

struct heading {
	uint8_t bytes[RX_ROOM];
	size_t used;
};

static void add_info(struct heading *h, uint32_t type, uint32_t value)
{
	struct rndis_info info = {.size = sizeof(info) + sizeof(value), .type = type, .offset = sizeof(info)};

	memcpy(h->bytes + h->used, &info, sizeof(info));
	le32_put(h->bytes + h->used + sizeof(info), value);
	h->used += info.size;
}

/* Only what is written is copied: between it and the frame lies what was there. */
static void write_heading(struct nic *nic, struct heading *h, unsigned section, unsigned skip, unsigned length)
{
	struct rndis_packet packet = {.header = {RNDIS_PACKET, RX_ROOM + skip + length},
	    .data_offset = RX_ROOM + skip - (uint32_t)sizeof(struct rndis_header),
	    .data_length = length};

	if (h->used > sizeof(packet)) {
		packet.info_offset = sizeof(packet) - sizeof(packet.header);
		packet.info_length = (uint32_t)(h->used - sizeof(packet));
	}
	memcpy(h->bytes, &packet, sizeof(packet));
	write_section(nic, section, h->bytes, h->used);
}

/* A tag goes from the frame into the information: the addresses move up. Returns by how much. */
static unsigned take_vlan(struct nic *nic, struct port_frame *frame, uint8_t *headers, uint32_t *vlan)
{
	unsigned tag;

	if (!nic->vlan || frame->size < FRAME_ETHERNET_SIZE + FRAME_VLAN_SIZE || be16_get(headers + 12) != 0x8100)
		return 0;
	tag = be16_get(headers + 14);
	*vlan = tag >> 13 | (tag >> 12 & 1) << 3 | (tag & 0xfff) << 4;
	frame_copy_in(frame->iov + 1, frame->iov_count - 1, FRAME_VLAN_SIZE, headers, 2 * FRAME_MAC_SIZE);
	return FRAME_VLAN_SIZE;
}

/* The pieces of a frame, each with a message of its own in front. */
static void add_pieces(struct nic *nic, unsigned channel, const struct port_frame *frame, const uint16_t *sections, unsigned count, unsigned skip,
    uint32_t verdict, bool has_vlan, uint32_t vlan)
{
	struct receive *rx = &nic->rx;
	size_t left = frame->size;

	if (count > 1)
		rx->packet_id++;
	for (unsigned i = 0; i < count; i++) {
		struct heading h = {.used = sizeof(struct rndis_packet)};
		unsigned n = (unsigned)min_u64(left, section_capacity(rx));

		if (i == 0 && verdict)
			add_info(&h, RNDIS_INFO_CHECKSUM, verdict);
		if (i == 0 && has_vlan)
			add_info(&h, RNDIS_INFO_VLAN, vlan);
		if (count > 1)
			add_info(&h, RNDIS_INFO_PACKET_ID,
			    RNDIS_PACKET_ID_VERSION | (uint32_t)rx->packet_id << 16 |
				(RNDIS_PACKET_ID_PIECES | (i == 0 ? RNDIS_PACKET_ID_FIRST : 0) |
				    (i == count - 1 ? RNDIS_PACKET_ID_LAST : 0)) << 8);
		write_heading(nic, &h, sections[i], i == 0 ? skip : 0, n - (i == 0 ? skip : 0));
		tell_processors(nic, sections[i], RX_ROOM + n);
		add_range(rx, channel, sections[i], RX_ROOM + n);
		left -= n;
	}
}

/* A frame that lies in `sections`: how many of them it keeps. */
static unsigned give_frame(struct nic *nic, struct port_frame *frame, const uint16_t *sections, unsigned available)
{
	struct network *network = nic->network;
	struct receive *rx = &nic->rx;
	uint8_t headers[FRAME_HEADERS_MAX];
	bool large = frame->todo.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	unsigned count = (unsigned)((frame->size + section_capacity(rx) - 1) / section_capacity(rx)), skip;
	struct frame_layout layout;
	unsigned channel;
	uint32_t vlan = 0;
	size_t size;

	size = frame_copy_out(frame->iov + 1, frame->iov_count - 1, 0, headers, min_u64(frame->size, sizeof(headers)));
	nic_count(&network->count.copied_bytes, size);
	if (frame->size == 0 || !frame_parse(headers, size, &layout) || count > available || (large && !rx->large)) {
		nic_count(&network->count.rx_dropped, 1);
		return 0;
	}
	if (!wanted(&nic->rndis, headers)) {
		nic_count(&network->count.rx_filtered, 1);
		return 0;
	}
	/* A guest may hand the frame on as it is, so its checksum must be there; that of a coalesced segment belongs to no packet. */
	if (!large && !frame_complete_iov(frame->iov + 1, frame->iov_count - 1, frame->size, &frame->todo)) {
		nic_count(&network->count.rx_dropped, 1);
		return 0;
	}
	channel = scaling_channel(&nic->scaling, headers, &layout);
	if (!nic->channels[channel])
		channel = 0;
	if (rx->packets[channel].count + count > RX_RANGES && !send_packet(nic, channel)) {
		nic_count(&network->count.rx_dropped, 1);
		return 0;
	}
	nic_count(&network->count.rx_frames, 1);
	nic_count(&network->count.rx_bytes, frame->size);
	if (meter_is_on(network->meter))
		meter_count(network->meter, true, headers, &layout, size, frame->size);
	if (large)
		nic_count(&network->count.rx_large, 1);
	skip = take_vlan(nic, frame, headers, &vlan);
	add_pieces(nic, channel, frame, sections, count, skip, checksum_verdict(nic, frame, &layout), skip > 0, vlan);
	return count;
}

static unsigned sections_of_large(const struct receive *rx)
{
	return (LARGE_FRAME + section_capacity(rx) - 1) / section_capacity(rx);
}

/* A guest with a small buffer gets segments as they are on the wire. */
static bool has_room_for_large(const struct receive *rx)
{
	return rx->gpadl && sections_of_large(rx) <= RX_PIECES_MAX && sections_of_large(rx) * rx->pieces_each < RX_FRAME_IOVECS &&
	       rx->section_count >= RX_RESERVE + 2 * sections_of_large(rx);
}

static unsigned sections_each(const struct receive *rx)
{
	return rx->large ? sections_of_large(rx) : 1;
}

bool receive_ready(const struct nic *nic)
{
	const struct receive *rx = &nic->rx;

	return nic_port(nic) && rx->gpadl && nic->rndis.filter && rx->range_count == 0 &&
	       rx->free_count >= RX_RESERVE + sections_each(rx);
}

/* The sections of each frame, from the top of the stack, as iovecs. */
static void prepare(struct receive *rx, unsigned frames, unsigned each, uint16_t (*sections)[RX_PIECES_MAX])
{
	for (unsigned i = 0; i < frames; i++) {
		struct port_frame *frame = &rx->frames[i];

		frame->iov = rx->iov[i];
		frame->iov_count = 1;
		for (unsigned k = 0; k < each; k++) {
			unsigned section = rx->free[--rx->free_count];
			const struct iovec *pieces = section_pieces(rx, section);
			size_t skip = RX_ROOM;

			sections[i][k] = (uint16_t)section;
			for (unsigned p = 0; p < rx->piece_count[section]; p++) {
				size_t n = min_u64(skip, pieces[p].iov_len);

				skip -= n;
				if (n < pieces[p].iov_len)
					frame->iov[frame->iov_count++] =
					    (struct iovec){(uint8_t *)pieces[p].iov_base + n, pieces[p].iov_len - n};
			}
		}
	}
}

/* Making room ready costs more than a call that finds no room left. */
static void choose_batch(struct receive *rx, int received)
{
	if (received == (int)rx->batch)
		rx->batch = (unsigned)min_u64(rx->batch * 2, PORT_BATCH);
	else if (received < (int)rx->batch / 2)
		rx->batch = (unsigned)max_u64(rx->batch / 2, BATCH_MIN);
}

bool receive_frames(struct nic *nic)
{
	struct receive *rx = &nic->rx;
	uint16_t sections[PORT_BATCH][RX_PIECES_MAX];
	unsigned each = sections_each(rx), count = (rx->free_count - RX_RESERVE) / each;
	int n;

	if (count > rx->batch)
		count = rx->batch;
	prepare(rx, count, each, sections);
	n = port_receive(nic_port(nic), rx->frames, count);
	if (n < 0)
		nic_lose_port(nic);
	for (unsigned i = 0; i < count; i++) {
		unsigned kept = (int)i < n ? give_frame(nic, &rx->frames[i], sections[i], each) : 0;

		while (kept < each)
			rx->free[rx->free_count++] = sections[i][kept++];
	}
	choose_batch(rx, n);
	return receive_send(nic) && n == (int)count;
}

void receive_discard(struct nic *nic)
{
	uint8_t scratch[PORT_BATCH][2];
	int n = 1;

	for (unsigned round = 0; round < DISCARD_ROUNDS && n > 0 && nic_port(nic); round++) {
		for (unsigned i = 0; i < PORT_BATCH; i++) {
			nic->rx.frames[i].iov = nic->rx.iov[i];
			nic->rx.frames[i].iov_count = 2;
			nic->rx.iov[i][1] = (struct iovec){scratch[i], sizeof(scratch[i])};
		}
		n = port_receive(nic_port(nic), nic->rx.frames, PORT_BATCH);
		if (n < 0)
			nic_lose_port(nic);
	}
}

void receive_choose_offloads(struct nic *nic)
{
	const struct rndis_state *s = &nic->rndis;
	unsigned offloads = 0;

	int r;

	nic->rx.large = false;
	nic->rx.untold = false;
	if (!nic_port(nic))
		return;
	/* Checksums can always be left to us. */
	if (port_offloads(nic_port(nic)) & PORT_CHECKSUM)
		offloads |= PORT_CHECKSUM;
	if (s->rsc4 && s->rsc6 && port_offloads(nic_port(nic)) & PORT_LARGE && has_room_for_large(&nic->rx))
		offloads |= PORT_LARGE;
	r = port_set_receive(nic_port(nic), offloads);
	nic->rx.large = !r && offloads & PORT_LARGE;
	nic->rx.untold = r == -EAGAIN;
}
