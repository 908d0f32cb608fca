// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * oid.c - the objects of an NDIS adapter: what can be asked and set.
 *
 * Source: Microsoft's OID reference (General, Ethernet and TCP/IP offload OIDs); Linux rndis_filter.c for what it uses.
 */
#include <string.h>

#include "vsp/network/nic.h"

#define LINK_SPEED_100BPS  100000000u /* 10 Gb/s */
#define DRIVER_VERSION     0x061eu    /* NDIS 6.30 */
#define MAC_OPTIONS        0x9u       /* data is copied, no pending transfers */
#define VLAN_MAC_OPTIONS   0xc0u      /* 802.1p priority and 802.1Q tags out of band */
#define NDIS_MINOR_6_30    30u
#define NDIS_MINOR_6_1     1u

static const uint32_t supported[] = {OID_GEN_SUPPORTED_LIST, OID_GEN_HARDWARE_STATUS, OID_GEN_MEDIA_SUPPORTED,
    OID_GEN_MEDIA_IN_USE, OID_GEN_MAXIMUM_LOOKAHEAD, OID_GEN_MAXIMUM_FRAME_SIZE, OID_GEN_LINK_SPEED,
    OID_GEN_TRANSMIT_BUFFER_SPACE, OID_GEN_RECEIVE_BUFFER_SPACE, OID_GEN_TRANSMIT_BLOCK_SIZE, OID_GEN_RECEIVE_BLOCK_SIZE,
    OID_GEN_VENDOR_ID, OID_GEN_VENDOR_DESCRIPTION, OID_GEN_CURRENT_PACKET_FILTER, OID_GEN_CURRENT_LOOKAHEAD,
    OID_GEN_DRIVER_VERSION, OID_GEN_MAXIMUM_TOTAL_SIZE, OID_GEN_MAC_OPTIONS, OID_GEN_MEDIA_CONNECT_STATUS,
    OID_GEN_MAXIMUM_SEND_PACKETS, OID_GEN_VENDOR_DRIVER_VERSION, OID_GEN_NETWORK_LAYER_ADDRESSES,
    OID_GEN_RECEIVE_SCALE_CAPABILITIES, OID_GEN_RECEIVE_SCALE_PARAMETERS, OID_GEN_RNDIS_CONFIG_PARAMETER, OID_GEN_XMIT_OK,
    OID_GEN_RCV_OK, OID_GEN_XMIT_ERROR, OID_GEN_RCV_ERROR, OID_GEN_RCV_NO_BUFFER, OID_802_3_PERMANENT_ADDRESS, OID_802_3_CURRENT_ADDRESS, OID_802_3_MULTICAST_LIST,
    OID_802_3_MAXIMUM_LIST_SIZE, OID_OFFLOAD_ENCAPSULATION, OID_802_3_RCV_ERROR_ALIGNMENT, OID_802_3_XMIT_ONE_COLLISION,
    OID_802_3_XMIT_MORE_COLLISIONS, OID_TCP_OFFLOAD_CURRENT_CONFIG, OID_TCP_OFFLOAD_PARAMETERS,
    OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES};

/* --- queries ------------------------------------------------------------------------------------------ */

static void offer_checksums(struct ndis_offload *o)
{
	const uint32_t encapsulation = NDIS_ENCAPSULATION_8023 | NDIS_ENCAPSULATION_VLAN_OOB;
	const uint32_t ip4 = NDIS_CHECKSUM_IP4 | NDIS_CHECKSUM_IP4_OPTIONS | NDIS_CHECKSUM_TCP | NDIS_CHECKSUM_TCP_OPTIONS |
	    NDIS_CHECKSUM_UDP;
	const uint32_t ip6 = NDIS_CHECKSUM_IP6_EXTENDED | NDIS_CHECKSUM_TCP | NDIS_CHECKSUM_TCP_OPTIONS | NDIS_CHECKSUM_UDP;

	o->ip4_tx_encapsulation = o->ip4_rx_encapsulation = encapsulation;
	o->ip6_tx_encapsulation = o->ip6_rx_encapsulation = encapsulation;
	o->ip4_tx_checksum = o->ip4_rx_checksum = ip4;
	o->ip6_tx_checksum = o->ip6_rx_checksum = ip6;
}

/* What the port behind the adapter can do. Large sends need its checksums: a guest that makes the one and not the other leaves
 * headers that nobody fills. */
static struct ndis_offload offload(const struct nic *nic)
{
	unsigned port = nic_port(nic) ? port_offloads(nic_port(nic)) : PORT_CHECKSUM | PORT_LSO;
	struct ndis_offload o = {.type = NDIS_OBJECT_OFFLOAD, .revision = 1, .size = NDIS_OFFLOAD_SIZE_6_0};

	if (nic->ndis_minor >= NDIS_MINOR_6_30) {
		o.revision = 3;
		o.size = sizeof(o);
	} else if (nic->ndis_minor >= NDIS_MINOR_6_1) {
		o.revision = 2;
		o.size = NDIS_OFFLOAD_SIZE_6_1;
	}
	if (!(port & PORT_CHECKSUM))
		return o;
	offer_checksums(&o);
	if (port & PORT_LSO) {
		o.lso4_encapsulation = o.lso6_encapsulation = NDIS_ENCAPSULATION_8023 | NDIS_ENCAPSULATION_VLAN_OOB;
		o.lso4_max_size = o.lso6_max_size = TX_LSO_MAX;
		o.lso4_min_segments = o.lso6_min_segments = 2;
		o.lso6_options = NDIS_LSO6_EXTENDED | NDIS_LSO6_TCP_OPTIONS;
	}
	/* Coalesced segments come in several pieces, which drivers before 6.1 do not know. */
	if (port & PORT_LARGE && atomic_load(&nic->version) >= NVSP_VERSION_61)
		o.rsc4 = o.rsc6 = 1;
	return o;
}

/* It takes several processors, and a driver that knows of sub-channels. */
static bool scaling_offered(const struct nic *nic)
{
	return nic->network->channel_max > 1 && atomic_load(&nic->version) >= NVSP_VERSION_5;
}

static struct ndis_rss_capabilities scaling_capabilities(const struct nic *nic)
{
	return (struct ndis_rss_capabilities){.type = NDIS_OBJECT_RSS_CAPABILITIES,
	    .revision = 2,
	    .size = sizeof(struct ndis_rss_capabilities),
	    .flags = NDIS_RSS_CAPABILITY_TOEPLITZ | NDIS_RSS_CAPABILITY_TCP4 | NDIS_RSS_CAPABILITY_TCP6,
	    .interrupts = nic->network->channel_max,
	    .queues = nic->network->channel_max,
	    .table_entries = SCALING_TABLE_MAX};
}

static bool query_number(const struct nic *nic, uint32_t oid, uint32_t *value)
{
	const uint32_t frame = nic->mtu + FRAME_ETHERNET_SIZE;

	switch (oid) {
	case OID_GEN_HARDWARE_STATUS: /* ready */
	case OID_GEN_MEDIA_SUPPORTED: /* 802.3 */
	case OID_GEN_MEDIA_IN_USE:
	case OID_802_3_RCV_ERROR_ALIGNMENT:
	case OID_802_3_XMIT_ONE_COLLISION:
	case OID_802_3_XMIT_MORE_COLLISIONS:
	case OID_GEN_RCV_ERROR:
		*value = 0;
		return true;
	case OID_GEN_MAXIMUM_FRAME_SIZE:
		*value = nic->mtu;
		return true;
	case OID_GEN_MAXIMUM_LOOKAHEAD:
	case OID_GEN_CURRENT_LOOKAHEAD:
	case OID_GEN_MAXIMUM_TOTAL_SIZE:
	case OID_GEN_TRANSMIT_BLOCK_SIZE:
	case OID_GEN_RECEIVE_BLOCK_SIZE:
		*value = frame;
		return true;
	case OID_GEN_LINK_SPEED:
		*value = LINK_SPEED_100BPS;
		return true;
	case OID_GEN_TRANSMIT_BUFFER_SPACE:
		*value = nic->tx.section_count * TX_SECTION;
		return true;
	case OID_GEN_RECEIVE_BUFFER_SPACE:
		*value = nic->rx.section_count * nic->rx.section_size;
		return true;
	case OID_GEN_VENDOR_ID:
		*value = 0x00155d; /* of the addresses' first three bytes */
		return true;
	case OID_GEN_CURRENT_PACKET_FILTER:
		*value = nic->rndis.filter;
		return true;
	case OID_GEN_DRIVER_VERSION:
	case OID_GEN_VENDOR_DRIVER_VERSION:
		*value = DRIVER_VERSION;
		return true;
	case OID_GEN_MAC_OPTIONS:
		*value = MAC_OPTIONS | (nic->vlan ? VLAN_MAC_OPTIONS : 0);
		return true;
	case OID_GEN_MEDIA_CONNECT_STATUS:
		*value = nic_port(nic) ? 0 : 1;
		return true;
	case OID_GEN_MAXIMUM_SEND_PACKETS:
		*value = TX_MESSAGES;
		return true;
	case OID_802_3_MAXIMUM_LIST_SIZE:
		*value = NIC_MULTICAST_MAX;
		return true;
	default:
		return false;
	}
}

static bool query_counter(const struct nic *nic, uint32_t oid, uint64_t *value)
{
	const struct network *n = nic->network;

	switch (oid) {
	case OID_GEN_XMIT_OK:
		*value = atomic_load_explicit(&n->count.tx_frames, memory_order_relaxed);
		return true;
	case OID_GEN_RCV_OK:
		*value = atomic_load_explicit(&n->count.rx_frames, memory_order_relaxed);
		return true;
	case OID_GEN_XMIT_ERROR:
		*value = atomic_load_explicit(&n->count.tx_dropped, memory_order_relaxed);
		return true;
	case OID_GEN_RCV_NO_BUFFER:
		*value = atomic_load_explicit(&n->count.rx_dropped, memory_order_relaxed);
		return true;
	default:
		return false;
	}
}

static uint32_t give(uint8_t *value, size_t capacity, size_t *size, const void *from, size_t from_size)
{
	if (from_size > capacity)
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(value, from, from_size);
	*size = from_size;
	return RNDIS_STATUS_SUCCESS;
}

uint32_t oid_query(struct nic *nic, uint32_t oid, uint8_t *value, size_t capacity, size_t *size)
{
	static const char vendor[] = "Bulkhead network adapter";
	struct ndis_rss_capabilities rss;
	struct ndis_offload o;
	uint64_t counter;
	uint32_t number;

	if (query_number(nic, oid, &number))
		return give(value, capacity, size, &number, sizeof(number));
	if (query_counter(nic, oid, &counter))
		return give(value, capacity, size, &counter, sizeof(counter));
	switch (oid) {
	case OID_GEN_SUPPORTED_LIST:
		return give(value, capacity, size, supported, sizeof(supported));
	case OID_GEN_VENDOR_DESCRIPTION:
		return give(value, capacity, size, vendor, sizeof(vendor));
	case OID_802_3_PERMANENT_ADDRESS:
		return give(value, capacity, size, nic->network->mac, FRAME_MAC_SIZE);
	case OID_802_3_CURRENT_ADDRESS:
		return give(value, capacity, size, nic->rndis.mac, FRAME_MAC_SIZE);
	case OID_802_3_MULTICAST_LIST:
		return give(value, capacity, size, nic->rndis.multicast, (size_t)nic->rndis.multicast_count * FRAME_MAC_SIZE);
	case OID_GEN_RECEIVE_SCALE_CAPABILITIES:
		if (!scaling_offered(nic))
			return RNDIS_STATUS_NOT_SUPPORTED;
		rss = scaling_capabilities(nic);
		return give(value, capacity, size, &rss, sizeof(rss));
	case OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES:
	case OID_TCP_OFFLOAD_CURRENT_CONFIG:
		o = offload(nic);
		return give(value, capacity, size, &o, o.size);
	default:
		return RNDIS_STATUS_NOT_SUPPORTED;
	}
}

/* --- settings ----------------------------------------------------------------------------------------------- */

static uint32_t set_filter(struct nic *nic, const uint8_t *value, size_t size)
{
	uint32_t filter;

	if (size < sizeof(filter))
		return RNDIS_STATUS_INVALID_LENGTH;
	filter = le32_get(value);
	if (filter && !nic->rndis.filter)
		receive_discard(nic);
	nic->rndis.filter = filter;
	return RNDIS_STATUS_SUCCESS;
}

static uint32_t set_multicast(struct nic *nic, const uint8_t *value, size_t size)
{
	if (size % FRAME_MAC_SIZE || size > sizeof(nic->rndis.multicast))
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(nic->rndis.multicast, value, size);
	nic->rndis.multicast_count = (unsigned)(size / FRAME_MAC_SIZE);
	return RNDIS_STATUS_SUCCESS;
}

static void set_checksum(uint8_t value, bool *on)
{
	if (value)
		*on = value == NDIS_CHECKSUM_RX || value == NDIS_CHECKSUM_BOTH;
}

static void set_switch(uint8_t value, bool *on)
{
	if (value)
		*on = value == NDIS_OFFLOAD_ENABLED;
}

/* Only what goes to the guest is remembered: from it, each frame says what it needs. */
static uint32_t set_offload(struct nic *nic, const uint8_t *value, size_t size)
{
	struct ndis_offload_parameters p = {0};
	const struct ndis_offload offered = offload(nic);
	struct rndis_state *s = &nic->rndis;

	if (size < NDIS_OFFLOAD_PARAMETERS_MIN)
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, value, min_u64(size, sizeof(p)));
	if ((p.rsc4 == NDIS_OFFLOAD_ENABLED && !offered.rsc4) || (p.rsc6 == NDIS_OFFLOAD_ENABLED && !offered.rsc6))
		return RNDIS_STATUS_NOT_SUPPORTED;
	set_checksum(p.tcp4_checksum, &s->tcp4);
	set_checksum(p.udp4_checksum, &s->udp4);
	set_checksum(p.tcp6_checksum, &s->tcp6);
	set_checksum(p.udp6_checksum, &s->udp6);
	set_switch(p.rsc4, &s->rsc4);
	set_switch(p.rsc6, &s->rsc6);
	receive_choose_offloads(nic);
	return RNDIS_STATUS_SUCCESS;
}

/* UTF-16 against ASCII. */
static bool name_is(const uint8_t *name, size_t size, const char *wanted)
{
	if (size != strlen(wanted) * 2)
		return false;
	for (size_t i = 0; i < size / 2; i++)
		if (le16_get(name + i * 2) != (uint8_t)wanted[i])
			return false;
	return true;
}

static int hex_digit(uint16_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t set_mac(struct nic *nic, const uint8_t *text, size_t size)
{
	uint8_t mac[FRAME_MAC_SIZE];

	if (size != sizeof(mac) * 4)
		return RNDIS_STATUS_INVALID_DATA;
	for (unsigned i = 0; i < sizeof(mac); i++) {
		int high = hex_digit(le16_get(text + i * 4)), low = hex_digit(le16_get(text + i * 4 + 2));

		if (high < 0 || low < 0)
			return RNDIS_STATUS_INVALID_DATA;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	if (mac[0] & 1)
		return RNDIS_STATUS_INVALID_DATA;
	if (!nic->network->any_mac && memcmp(mac, nic->network->mac, sizeof(mac)))
		return RNDIS_STATUS_NOT_ACCEPTED;
	memcpy(nic->rndis.mac, mac, sizeof(mac));
	return RNDIS_STATUS_SUCCESS;
}

static uint32_t set_parameter(struct nic *nic, const uint8_t *value, size_t size)
{
	struct rndis_config_parameter p;

	if (size < sizeof(p))
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, value, sizeof(p));
	if (!range_fits_u64(p.name_offset, p.name_length, size) || !range_fits_u64(p.value_offset, p.value_length, size))
		return RNDIS_STATUS_INVALID_DATA;
	if (p.type != RNDIS_PARAMETER_STRING || !name_is(value + p.name_offset, p.name_length, "NetworkAddress"))
		return RNDIS_STATUS_NOT_SUPPORTED;
	return set_mac(nic, value + p.value_offset, p.value_length);
}

uint32_t oid_set(struct nic *nic, uint32_t oid, const uint8_t *value, size_t size)
{
	switch (oid) {
	case OID_GEN_CURRENT_PACKET_FILTER:
		return set_filter(nic, value, size);
	case OID_802_3_MULTICAST_LIST:
		return set_multicast(nic, value, size);
	case OID_TCP_OFFLOAD_PARAMETERS:
		return set_offload(nic, value, size);
	case OID_GEN_RNDIS_CONFIG_PARAMETER:
		return set_parameter(nic, value, size);
	case OID_GEN_RECEIVE_SCALE_PARAMETERS:
		return scaling_offered(nic) ? scaling_set(&nic->scaling, value, size) : RNDIS_STATUS_NOT_SUPPORTED;
	case OID_GEN_CURRENT_LOOKAHEAD:       /* all of a frame is given anyway */
	case OID_GEN_NETWORK_LAYER_ADDRESSES: /* a hint */
	case OID_OFFLOAD_ENCAPSULATION:       /* Ethernet is the only one there is */
		return RNDIS_STATUS_SUCCESS;
	default:
		return RNDIS_STATUS_NOT_SUPPORTED;
	}
}
