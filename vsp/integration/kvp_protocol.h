/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvp_protocol.h - the wire of the Key-Value Pair Exchange service: what stands behind a struct ic_header in its messages.
 *
 * A request and its answer have the same form and the same size; the host fills what it asks by, the guest the rest. Text is
 * UTF-16, low byte first. Little-endian. Up to version 4.0; 5.0 has another form of addresses.
 * Source: Linux include/uapi/linux/hyperv.h (hv_kvp_msg, hv_kvp_ip_msg, hv_kvp_ipaddr_value), drivers/hv/hv_kvp.c,
 * tools/hv/hv_kvp_daemon.c; openvmm hyperv_ic (versions, status of what is no item).
 */
#pragma once

#include <stdint.h>

enum kvp_operation {
	KVP_GET = 0,
	KVP_SET = 1,
	KVP_DELETE = 2,
	KVP_ENUMERATE = 3,
	KVP_GET_IP_INFO = 4,
	KVP_SET_IP_INFO = 5
};

enum kvp_pool {
	KVP_POOL_EXTERNAL = 0, /* the host's items for the guest */
	KVP_POOL_GUEST = 1,    /* the guest's own for the host */
	KVP_POOL_AUTO = 2      /* what the guest's system says of itself */
};

/* Of a message's status: there is no item of that index. */
#define KVP_STATUS_NO_MORE_ITEMS 0x80070103u

enum kvp_value_type { KVP_VALUE_STRING = 1, KVP_VALUE_EXPAND_STRING = 2, KVP_VALUE_U32 = 4, KVP_VALUE_U64 = 11 };

#define KVP_KEY_SIZE   512u  /* bytes, the final 0 counted */
#define KVP_VALUE_SIZE 2048u

struct kvp_value {
	uint32_t type;
	uint32_t key_size; /* bytes, the final 0 counted */
	uint32_t value_size;
	uint8_t key[KVP_KEY_SIZE];
	uint8_t value[KVP_VALUE_SIZE];
} __attribute__((packed));
_Static_assert(sizeof(struct kvp_value) == 2572, "wire layout");

struct kvp_enumerate {
	uint8_t operation;
	uint8_t pool;
	uint16_t reserved;
	uint32_t index;
	struct kvp_value item;
} __attribute__((packed));
_Static_assert(sizeof(struct kvp_enumerate) == 2580, "wire layout");

#define KVP_ADAPTER_UNITS   128u
#define KVP_ADDRESSES_UNITS 1024u
#define KVP_GATEWAYS_UNITS  512u

/* Lists are texts with semicolons in between, each ends with a 0 or its array. */
struct kvp_ip_info {
	uint8_t operation;
	uint8_t pool;
	uint8_t adapter[2 * KVP_ADAPTER_UNITS]; /* asked by: the address of the adapter, "00:15:5D:01:02:03" */
	uint8_t family;
	uint8_t dhcp;
	uint8_t addresses[2 * KVP_ADDRESSES_UNITS];
	uint8_t subnets[2 * KVP_ADDRESSES_UNITS];
	uint8_t gateways[2 * KVP_GATEWAYS_UNITS];
	uint8_t name_servers[2 * KVP_ADDRESSES_UNITS];
} __attribute__((packed));
_Static_assert(sizeof(struct kvp_ip_info) == 7428, "wire layout");
