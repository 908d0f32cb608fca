/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rndis_protocol.h - Remote NDIS messages and the NDIS structures and object ids in them.
 *
 * All fields are little-endian. Source: [MS-RNDIS]; Linux include/linux/rndis.h and
 * drivers/net/hyperv/hyperv_net.h for NDIS 6 objects and per-packet information.
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

enum rndis_type {
	RNDIS_PACKET = 1,
	RNDIS_INITIALIZE = 2,
	RNDIS_HALT = 3,
	RNDIS_QUERY = 4,
	RNDIS_SET = 5,
	RNDIS_RESET = 6,
	RNDIS_INDICATE_STATUS = 7,
	RNDIS_KEEPALIVE = 8,
};

#define RNDIS_COMPLETE 0x80000000u /* added to the type of an answer */

#define RNDIS_STATUS_SUCCESS          0x00000000u
#define RNDIS_STATUS_MEDIA_CONNECT    0x4001000bu
#define RNDIS_STATUS_MEDIA_DISCONNECT 0x4001000cu
#define RNDIS_STATUS_FAILURE          0xc0000001u
#define RNDIS_STATUS_NOT_SUPPORTED    0xc00000bbu
#define RNDIS_STATUS_INVALID_LENGTH   0xc0010014u
#define RNDIS_STATUS_INVALID_DATA     0xc0010015u
#define RNDIS_STATUS_NOT_ACCEPTED     0xc0010003u

struct rndis_header {
	uint32_t type;
	uint32_t length; /* of the message, this header included */
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_header) == 8, "wire layout");

/* Offsets in a message count from behind its header. */
struct rndis_packet {
	struct rndis_header header;
	uint32_t data_offset;
	uint32_t data_length;
	uint32_t oob_offset, oob_length, oob_count;
	uint32_t info_offset;
	uint32_t info_length;
	uint32_t vc_handle;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_packet) == 44, "wire layout");

struct rndis_initialize {
	struct rndis_header header;
	uint32_t request_id;
	uint32_t major, minor;
	uint32_t max_transfer;
} __attribute__((packed));

struct rndis_initialize_complete {
	struct rndis_header header;
	uint32_t request_id;
	uint32_t status;
	uint32_t major, minor;
	uint32_t device_flags; /* 1: connectionless */
	uint32_t medium;       /* 0: 802.3 */
	uint32_t max_packets;  /* in one message */
	uint32_t max_transfer;
	uint32_t alignment; /* of packets in one message, as a power of two */
	uint32_t reserved[2];
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_initialize_complete) == 52, "wire layout");

/* QUERY and SET */
struct rndis_request {
	struct rndis_header header;
	uint32_t request_id;
	uint32_t oid;
	uint32_t info_length;
	uint32_t info_offset;
	uint32_t vc_handle;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_request) == 28, "wire layout");

struct rndis_query_complete {
	struct rndis_header header;
	uint32_t request_id;
	uint32_t status;
	uint32_t info_length;
	uint32_t info_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_query_complete) == 24, "wire layout");

/* SET and KEEPALIVE; RESET has the status in place of the request id, and then whether addresses are to be set anew. */
struct rndis_complete {
	struct rndis_header header;
	uint32_t request_id;
	uint32_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_complete) == 16, "wire layout");

struct rndis_indicate {
	struct rndis_header header;
	uint32_t status;
	uint32_t buffer_length, buffer_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_indicate) == 20, "wire layout");

/* --- per-packet information ------------------------------------------------------------------- */

enum rndis_info_type {
	RNDIS_INFO_CHECKSUM = 0,
	RNDIS_INFO_LARGE_SEND = 2,
	RNDIS_INFO_VLAN = 6,
};

#define RNDIS_INFO_INTERNAL  0x80000000u /* in the type: a number of its own */
#define RNDIS_INFO_PACKET_ID (RNDIS_INFO_INTERNAL | 1u)

struct rndis_info {
	uint32_t size; /* of this, with the value */
	uint32_t type;
	uint32_t offset; /* of the value, from here */
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_info) == 12, "wire layout");

/* Checksum, to the host: what it shall compute. */
#define RNDIS_CHECKSUM_IPV4      (1u << 0)
#define RNDIS_CHECKSUM_IPV6      (1u << 1)
#define RNDIS_CHECKSUM_TCP       (1u << 2)
#define RNDIS_CHECKSUM_UDP       (1u << 3)
#define RNDIS_CHECKSUM_IP_HEADER (1u << 4)

/* Checksum, to the guest: what was found right. */
#define RNDIS_CHECKSUM_TCP_GOOD (1u << 3)
#define RNDIS_CHECKSUM_UDP_GOOD (1u << 4)
#define RNDIS_CHECKSUM_IP_GOOD  (1u << 5)

/* Large send, version 2. */
#define RNDIS_LSO_MSS(value)     ((value)&0xfffffu)
#define RNDIS_LSO_IPV6(value)    ((value) >> 31)
#define RNDIS_LSO_VERSION_2(value) ((value) >> 30 & 1)

/* VLAN: priority in bits 0 to 2, CFI in 3, id in 4 to 15. */
#define RNDIS_VLAN_PRIORITY(value) ((value)&7u)
#define RNDIS_VLAN_CFI(value)      ((value) >> 3 & 1u)
#define RNDIS_VLAN_ID(value)       ((value) >> 4 & 0xfffu)

/* Pieces of one coalesced packet in several sub-allocations. */
#define RNDIS_PACKET_ID_VERSION 1u
#define RNDIS_PACKET_ID_PIECES  1u
#define RNDIS_PACKET_ID_FIRST   2u
#define RNDIS_PACKET_ID_LAST    4u

/* --- object ids --------------------------------------------------------------------------------- */

#define OID_GEN_SUPPORTED_LIST                0x00010101u
#define OID_GEN_HARDWARE_STATUS               0x00010102u
#define OID_GEN_MEDIA_SUPPORTED               0x00010103u
#define OID_GEN_MEDIA_IN_USE                  0x00010104u
#define OID_GEN_MAXIMUM_LOOKAHEAD             0x00010105u
#define OID_GEN_MAXIMUM_FRAME_SIZE            0x00010106u
#define OID_GEN_LINK_SPEED                    0x00010107u
#define OID_GEN_TRANSMIT_BUFFER_SPACE         0x00010108u
#define OID_GEN_RECEIVE_BUFFER_SPACE          0x00010109u
#define OID_GEN_TRANSMIT_BLOCK_SIZE           0x0001010au
#define OID_GEN_RECEIVE_BLOCK_SIZE            0x0001010bu
#define OID_GEN_VENDOR_ID                     0x0001010cu
#define OID_GEN_VENDOR_DESCRIPTION            0x0001010du
#define OID_GEN_CURRENT_PACKET_FILTER         0x0001010eu
#define OID_GEN_CURRENT_LOOKAHEAD             0x0001010fu
#define OID_GEN_DRIVER_VERSION                0x00010110u
#define OID_GEN_MAXIMUM_TOTAL_SIZE            0x00010111u
#define OID_GEN_MAC_OPTIONS                   0x00010113u
#define OID_GEN_MEDIA_CONNECT_STATUS          0x00010114u
#define OID_GEN_MAXIMUM_SEND_PACKETS          0x00010115u
#define OID_GEN_VENDOR_DRIVER_VERSION         0x00010116u
#define OID_GEN_NETWORK_LAYER_ADDRESSES       0x00010118u
#define OID_GEN_RECEIVE_SCALE_CAPABILITIES    0x00010203u
#define OID_GEN_RECEIVE_SCALE_PARAMETERS      0x00010204u
#define OID_GEN_RNDIS_CONFIG_PARAMETER        0x0001021bu
#define OID_GEN_XMIT_OK                       0x00020101u
#define OID_GEN_RCV_OK                        0x00020102u
#define OID_GEN_XMIT_ERROR                    0x00020103u
#define OID_GEN_RCV_ERROR                     0x00020104u
#define OID_GEN_RCV_NO_BUFFER                 0x00020105u
#define OID_802_3_PERMANENT_ADDRESS           0x01010101u
#define OID_802_3_CURRENT_ADDRESS             0x01010102u
#define OID_802_3_MULTICAST_LIST              0x01010103u
#define OID_802_3_MAXIMUM_LIST_SIZE           0x01010104u
#define OID_OFFLOAD_ENCAPSULATION             0x0101010au
#define OID_802_3_RCV_ERROR_ALIGNMENT         0x01020101u
#define OID_802_3_XMIT_ONE_COLLISION          0x01020102u
#define OID_802_3_XMIT_MORE_COLLISIONS        0x01020103u
#define OID_TCP_OFFLOAD_CURRENT_CONFIG        0xfc01020bu
#define OID_TCP_OFFLOAD_PARAMETERS            0xfc01020cu
#define OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES 0xfc01020du

/* Of OID_GEN_CURRENT_PACKET_FILTER. */
#define NDIS_FILTER_DIRECTED      0x01u
#define NDIS_FILTER_MULTICAST     0x02u
#define NDIS_FILTER_ALL_MULTICAST 0x04u
#define NDIS_FILTER_BROADCAST     0x08u
#define NDIS_FILTER_PROMISCUOUS   0x20u

/* --- offloads ------------------------------------------------------------------------------------- */

#define NDIS_OBJECT_OFFLOAD 0xa7u

#define NDIS_ENCAPSULATION_8023     0x2u
#define NDIS_ENCAPSULATION_VLAN_OOB 0x8u

#define NDIS_CHECKSUM_IP4_OPTIONS  0x001u
#define NDIS_CHECKSUM_IP6_EXTENDED 0x001u
#define NDIS_CHECKSUM_TCP_OPTIONS  0x004u
#define NDIS_CHECKSUM_TCP          0x010u
#define NDIS_CHECKSUM_UDP          0x040u
#define NDIS_CHECKSUM_IP4          0x100u

#define NDIS_LSO6_EXTENDED    0x1u
#define NDIS_LSO6_TCP_OPTIONS 0x4u

struct ndis_offload {
	uint8_t type;
	uint8_t revision;
	uint16_t size;
	uint32_t ip4_tx_encapsulation, ip4_tx_checksum;
	uint32_t ip4_rx_encapsulation, ip4_rx_checksum;
	uint32_t ip6_tx_encapsulation, ip6_tx_checksum;
	uint32_t ip6_rx_encapsulation, ip6_rx_checksum;
	uint32_t lso1[4];
	uint32_t ipsec1[7];
	uint32_t lso4_encapsulation, lso4_max_size, lso4_min_segments;
	uint32_t lso6_encapsulation, lso6_max_size, lso6_min_segments, lso6_options;
	uint32_t flags;
	/* From 6.1 on. */
	uint8_t ipsec2[32];
	/* From 6.30 on. */
	uint8_t rsc4, rsc6;
	uint8_t padding[2];
	uint32_t encapsulated_flags, encapsulated_max_header;
} __attribute__((packed));
_Static_assert(sizeof(struct ndis_offload) == 156, "wire layout");

#define NDIS_OFFLOAD_SIZE_6_0 112u
#define NDIS_OFFLOAD_SIZE_6_1 144u

#define NDIS_OFFLOAD_DISABLED 1u /* of a checksum: in both directions; of large send and RSC: off */
#define NDIS_OFFLOAD_ENABLED  2u /* of large send and RSC */
#define NDIS_CHECKSUM_RX      3u
#define NDIS_CHECKSUM_BOTH    4u

/* What a guest sets; 0 leaves a value as it is. Guests of 6.1 send the first 22 bytes. */
struct ndis_offload_parameters {
	uint8_t type;
	uint8_t revision;
	uint16_t size;
	uint8_t ip4_checksum, tcp4_checksum, udp4_checksum, tcp6_checksum, udp6_checksum;
	uint8_t lso1, ipsec1, lso4, lso6, connection4, connection6;
	uint8_t padding;
	uint32_t flags;
	uint8_t ipsec2, ipsec2_4;
	uint8_t rsc4, rsc6;
	uint8_t encapsulated, encapsulated_types;
} __attribute__((packed));
_Static_assert(sizeof(struct ndis_offload_parameters) == 26, "wire layout");

#define NDIS_OFFLOAD_PARAMETERS_MIN 13u /* up to lso6 */

/* --- OID_GEN_RECEIVE_SCALE_…: receive-side scaling ------------------------------------------------- */

#define NDIS_OBJECT_RSS_CAPABILITIES 0x88u
#define NDIS_OBJECT_RSS_PARAMETERS   0x89u

#define NDIS_RSS_CAPABILITY_TOEPLITZ 0x00000001u
#define NDIS_RSS_CAPABILITY_TCP4     0x00000100u
#define NDIS_RSS_CAPABILITY_TCP6     0x00000200u

/* Of struct ndis_rss_parameters. */
#define NDIS_RSS_DISABLE       0x0010u
#define NDIS_RSS_KEEP_HASH     0x0002u
#define NDIS_RSS_KEEP_TABLE    0x0004u
#define NDIS_RSS_KEEP_KEY      0x0008u
#define NDIS_HASH_FUNCTION     0x000000ffu
#define NDIS_HASH_TOEPLITZ     0x00000001u
#define NDIS_HASH_IP4          0x00000100u
#define NDIS_HASH_TCP4         0x00000200u
#define NDIS_HASH_IP6          0x00000400u
#define NDIS_HASH_TCP6         0x00001000u

struct ndis_rss_capabilities {
	uint8_t type, revision;
	uint16_t size;
	uint32_t flags;
	uint32_t interrupts;
	uint32_t queues;
	uint16_t table_entries; /* no padding behind it: a longer answer is refused */
} __attribute__((packed));
_Static_assert(sizeof(struct ndis_rss_capabilities) == 18, "wire layout");

struct ndis_rss_parameters {
	uint8_t type, revision;
	uint16_t size;
	uint16_t flags;
	uint16_t base_processor;
	uint32_t hash; /* function, and what it is of */
	uint16_t table_size; /* bytes: four for each entry, a channel's number */
	uint16_t reserved;
	uint32_t table_offset; /* from the beginning of this structure */
	uint16_t key_size;
	uint16_t reserved2;
	uint32_t key_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct ndis_rss_parameters) == 28, "wire layout");

/* --- OID_GEN_RNDIS_CONFIG_PARAMETER ------------------------------------------------------------- */

#define RNDIS_PARAMETER_STRING 2u

struct rndis_config_parameter {
	uint32_t name_offset, name_length; /* from here, in bytes; UTF-16 */
	uint32_t type;
	uint32_t value_offset, value_length;
} __attribute__((packed));
_Static_assert(sizeof(struct rndis_config_parameter) == 20, "wire layout");
