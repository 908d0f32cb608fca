/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nvsp_protocol.h - the messages between network driver and provider on a VMBus channel.
 *
 * All fields are little-endian. Source: Linux drivers/net/hyperv/hyperv_net.h.
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

/* f8615163-df3e-46c5-913f-f2d2f965ed0e */
#define NETWORK_CLASS GUID_INIT(0xf8615163u, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e)

#define NVSP_VERSION_1  0x00002u
#define NVSP_VERSION_2  0x30002u
#define NVSP_VERSION_4  0x40000u
#define NVSP_VERSION_5  0x50000u
#define NVSP_VERSION_6  0x60000u
#define NVSP_VERSION_61 0x60001u

enum nvsp_type {
	NVSP_INIT = 1,
	NVSP_INIT_COMPLETE = 2,
	/* version 1 */
	NVSP_SEND_NDIS_VERSION = 100,
	NVSP_SEND_RECEIVE_BUFFER = 101,
	NVSP_SEND_RECEIVE_BUFFER_COMPLETE = 102,
	NVSP_REVOKE_RECEIVE_BUFFER = 103,
	NVSP_SEND_SEND_BUFFER = 104,
	NVSP_SEND_SEND_BUFFER_COMPLETE = 105,
	NVSP_REVOKE_SEND_BUFFER = 106,
	NVSP_SEND_RNDIS_PACKET = 107,
	NVSP_SEND_RNDIS_PACKET_COMPLETE = 108,
	/* version 2 */
	NVSP_SEND_NDIS_CONFIG = 125,
	/* version 4 */
	NVSP_SWITCH_DATA_PATH = 129,
	/* version 5 */
	NVSP_SUBCHANNEL = 133,
};

enum nvsp_status {
	NVSP_STATUS_SUCCESS = 1,
	NVSP_STATUS_FAIL = 2,
	NVSP_STATUS_INVALID_RNDIS_PACKET = 5,
};

#define NVSP_CHANNEL_DATA    0u
#define NVSP_CHANNEL_CONTROL 1u
#define NVSP_NO_SECTION      0xffffffffu
#define NVSP_MDL_CHAIN_MAX   34u

#define NVSP_CAPABILITY_VLAN (1ull << 3)

struct nvsp_init {
	uint32_t min_version;
	uint32_t max_version;
} __attribute__((packed));

struct nvsp_init_complete {
	uint32_t version;
	uint32_t max_mdl_chain;
	uint32_t status;
} __attribute__((packed));

struct nvsp_ndis_version {
	uint32_t major;
	uint32_t minor;
} __attribute__((packed));

struct nvsp_buffer { /* receive or send buffer: lent, or revoked (then only `id`, at offset 0) */
	uint32_t gpadl;
	uint16_t id;
} __attribute__((packed));

struct nvsp_receive_buffer_complete {
	uint32_t status;
	uint32_t section_count; /* of the list that follows: one */
	uint32_t offset;
	uint32_t sub_size;
	uint32_t sub_count;
	uint32_t end_offset;
} __attribute__((packed));

struct nvsp_send_buffer_complete {
	uint32_t status;
	uint32_t section_size;
} __attribute__((packed));

struct nvsp_rndis_packet {
	uint32_t channel_type;
	uint32_t section_index; /* of the send buffer, NVSP_NO_SECTION: none */
	uint32_t section_size;  /* bytes used of it */
} __attribute__((packed));

struct nvsp_ndis_config {
	uint32_t mtu; /* with the Ethernet header */
	uint32_t reserved;
	uint64_t capabilities;
} __attribute__((packed));

#define NVSP_SUBCHANNEL_ALLOCATE 1u

struct nvsp_subchannel_request {
	uint32_t operation;
	uint32_t count; /* beside the primary */
} __attribute__((packed));

struct nvsp_subchannel_complete {
	uint32_t status;
	uint32_t count;
} __attribute__((packed));

struct nvsp_message {
	uint32_t type;
	union {
		struct nvsp_init init;
		struct nvsp_init_complete init_complete;
		struct nvsp_ndis_version ndis_version;
		struct nvsp_buffer buffer;
		struct nvsp_receive_buffer_complete receive_buffer_complete;
		struct nvsp_send_buffer_complete send_buffer_complete;
		struct nvsp_rndis_packet rndis;
		uint32_t rndis_status;
		struct nvsp_ndis_config ndis_config;
		struct nvsp_subchannel_request subchannel_request;
		struct nvsp_subchannel_complete subchannel_complete;
		uint8_t bytes[36]; /* of the longest message there is, a guest's buffer for any of them */
	};
} __attribute__((packed));
_Static_assert(sizeof(struct nvsp_message) == 40, "wire layout");
