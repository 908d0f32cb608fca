/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * protocol.h - the VMBus wire: channel messages, packets, the ring header and the monitor page.
 *
 * All fields are little-endian. Source: Linux include/linux/hyperv.h and drivers/hv/hyperv_vmbus.h.
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

/* --- SynIC addresses -------------------------------------------------------------------------- */

#define VMBUS_MESSAGE_CONNECTION_ID   1u /* messages of guests before 5.0 */
#define VMBUS_EVENT_CONNECTION_ID     2u /* "look at the shared interrupt page" */
#define VMBUS_MESSAGE_CONNECTION_ID_4 4u /* messages of guests from 5.0 on */
#define VMBUS_MESSAGE_SINT            2u
#define VMBUS_MESSAGE_TYPE            1u /* the type of every channel message, both ways */

/* --- versions --------------------------------------------------------------------------------- */

#define VMBUS_VERSION(major, minor) ((uint32_t)(major) << 16 | (minor))
#define VMBUS_VERSION_WS2008        VMBUS_VERSION(0, 13)
#define VMBUS_VERSION_WIN7          VMBUS_VERSION(1, 1)
#define VMBUS_VERSION_WIN8          VMBUS_VERSION(2, 4)
#define VMBUS_VERSION_WIN8_1        VMBUS_VERSION(3, 0)
#define VMBUS_VERSION_WIN10         VMBUS_VERSION(4, 0)
#define VMBUS_VERSION_WIN10_V4_1    VMBUS_VERSION(4, 1)
#define VMBUS_VERSION_WIN10_V5      VMBUS_VERSION(5, 0)
#define VMBUS_VERSION_WIN10_V5_1    VMBUS_VERSION(5, 1)
#define VMBUS_VERSION_WIN10_V5_2    VMBUS_VERSION(5, 2)
#define VMBUS_VERSION_WIN10_V5_3    VMBUS_VERSION(5, 3)

/* --- channel messages ------------------------------------------------------------------------- */

enum vmbus_message_type {
	VMBUS_MSG_OFFER_CHANNEL = 1,
	VMBUS_MSG_RESCIND_CHANNEL_OFFER = 2,
	VMBUS_MSG_REQUEST_OFFERS = 3,
	VMBUS_MSG_ALL_OFFERS_DELIVERED = 4,
	VMBUS_MSG_OPEN_CHANNEL = 5,
	VMBUS_MSG_OPEN_CHANNEL_RESULT = 6,
	VMBUS_MSG_CLOSE_CHANNEL = 7,
	VMBUS_MSG_GPADL_HEADER = 8,
	VMBUS_MSG_GPADL_BODY = 9,
	VMBUS_MSG_GPADL_CREATED = 10,
	VMBUS_MSG_GPADL_TEARDOWN = 11,
	VMBUS_MSG_GPADL_TORNDOWN = 12,
	VMBUS_MSG_RELID_RELEASED = 13,
	VMBUS_MSG_INITIATE_CONTACT = 14,
	VMBUS_MSG_VERSION_RESPONSE = 15,
	VMBUS_MSG_UNLOAD = 16,
	VMBUS_MSG_UNLOAD_RESPONSE = 17,
	VMBUS_MSG_TL_CONNECT_REQUEST = 21,
	VMBUS_MSG_MODIFY_CHANNEL = 22,
	VMBUS_MSG_TL_CONNECT_RESULT = 23,
	VMBUS_MSG_MODIFY_CHANNEL_RESPONSE = 24
};

/* NTSTATUS values in results; the guest only tells zero from the rest. */
#define VMBUS_STATUS_SUCCESS                0u
#define VMBUS_STATUS_UNSUCCESSFUL           0xC0000001u
#define VMBUS_STATUS_INVALID_PARAMETER      0xC000000Du
#define VMBUS_STATUS_INSUFFICIENT_RESOURCES 0xC000009Au
#define VMBUS_STATUS_CONNECTION_REFUSED     0xC0000236u

#define VMBUS_USER_DEFINED_SIZE 120u

struct vmbus_message_header {
	uint32_t type;
	uint32_t padding;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_header) == 8, "wire layout");

/* Server flags of an offer. */
#define VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE 0x1u
#define VMBUS_OFFER_NAMED_PIPE_MODE            0x10u
#define VMBUS_OFFER_TLNPI_PROVIDER             0x2000u /* a Hyper-V socket */

/* First four bytes of user_defined when VMBUS_OFFER_NAMED_PIPE_MODE is set. */
#define VMBUS_PIPE_TYPE_BYTE    0u
#define VMBUS_PIPE_TYPE_MESSAGE 4u

struct vmbus_message_offer {
	struct vmbus_message_header header;
	struct guid interface_type;
	struct guid interface_instance;
	uint64_t reserved1;
	uint64_t reserved2;
	uint16_t flags;
	uint16_t mmio_megabytes;
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE];
	uint16_t subchannel_index;
	uint16_t mmio_megabytes_optional;
	uint32_t relid;
	uint8_t monitor_id;
	uint8_t monitor_allocated;       /* bit 0 */
	uint16_t is_dedicated_interrupt; /* bit 0; from 1.1 on */
	uint32_t connection_id;          /* from 1.1 on */
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_offer) == 196, "wire layout");

/* RESCIND_CHANNEL_OFFER, CLOSE_CHANNEL, RELID_RELEASED. */
struct vmbus_message_relid {
	struct vmbus_message_header header;
	uint32_t relid;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_relid) == 12, "wire layout");

struct vmbus_message_open {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t open_id;
	uint32_t ring_gpadl;
	uint32_t target_vp;              /* from 2.4 on */
	uint32_t downstream_page_offset; /* where the host-to-guest ring begins, in pages */
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE];
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_open) == 148, "wire layout");

struct vmbus_message_open_result {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t open_id;
	uint32_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_open_result) == 20, "wire layout");

/* Followed by ranges: byte count, byte offset, and the page numbers that these span. */
struct vmbus_message_gpadl_header {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t gpadl;
	uint16_t range_buffer_length; /* bytes of all ranges, the bodies' included */
	uint16_t range_count;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_gpadl_header) == 20, "wire layout");

struct vmbus_message_gpadl_body {
	struct vmbus_message_header header;
	uint32_t message_number;
	uint32_t gpadl;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_gpadl_body) == 16, "wire layout");

struct vmbus_gpa_range {
	uint32_t byte_count;
	uint32_t byte_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_gpa_range) == 8, "wire layout");

struct vmbus_message_gpadl_created {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t gpadl;
	uint32_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_gpadl_created) == 20, "wire layout");

struct vmbus_message_gpadl_teardown {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t gpadl;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_gpadl_teardown) == 16, "wire layout");

struct vmbus_message_gpadl_torndown {
	struct vmbus_message_header header;
	uint32_t gpadl;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_gpadl_torndown) == 12, "wire layout");

struct vmbus_message_initiate_contact {
	struct vmbus_message_header header;
	uint32_t version;
	uint32_t target_vp; /* where the host's messages go */
	union {
		uint64_t interrupt_page; /* before 5.0: guest physical address */
		struct {
			uint8_t sint; /* from 5.0 on: where the host's messages go */
			uint8_t vtl;
			uint8_t padding[2];
			uint32_t feature_flags;
		} __attribute__((packed)) message_target;
	} __attribute__((packed));
	uint64_t monitor_page_parent_to_child;
	uint64_t monitor_page_child_to_parent;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_initiate_contact) == 40, "wire layout");

struct vmbus_message_version_response {
	struct vmbus_message_header header;
	uint8_t supported;
	uint8_t connection_state; /* 0 unless a supported contact failed otherwise */
	uint16_t padding;
	uint32_t message_connection_id; /* from 5.0 on: use this for the next messages */
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_version_response) == 16, "wire layout");

struct vmbus_message_tl_connect {
	struct vmbus_message_header header;
	struct guid endpoint;
	struct guid service;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_tl_connect) == 40, "wire layout");

struct vmbus_message_tl_connect_result {
	struct vmbus_message_header header;
	struct guid endpoint;
	struct guid service;
	uint32_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_tl_connect_result) == 44, "wire layout");

struct vmbus_message_modify {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t target_vp;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_modify) == 16, "wire layout");

struct vmbus_message_modify_response {
	struct vmbus_message_header header;
	uint32_t relid;
	uint32_t status;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_message_modify_response) == 16, "wire layout");

/* --- rings ------------------------------------------------------------------------------------ */

#define VMBUS_RING_FEATURE_PENDING_SEND_SIZE 1u

/* The first page of each ring; data follows on the next page. Indices count from the data's start. */
struct vmbus_ring_header {
	uint32_t write_index;
	uint32_t read_index;
	uint32_t interrupt_mask;
	uint32_t pending_send_size;
	uint32_t reserved[12];
	uint32_t feature_bits;
	uint8_t padding[4028];
};
_Static_assert(sizeof(struct vmbus_ring_header) == 4096, "wire layout");

enum vmbus_packet_type {
	VMBUS_PACKET_IN_BAND = 6,
	VMBUS_PACKET_TRANSFER_PAGES = 7,
	VMBUS_PACKET_GPADL = 8,
	VMBUS_PACKET_GPA_DIRECT = 9,
	VMBUS_PACKET_CANCEL = 10,
	VMBUS_PACKET_COMPLETION = 11
};

#define VMBUS_PACKET_FLAG_COMPLETION_REQUESTED 1u

struct vmbus_packet_header {
	uint16_t type;
	uint16_t data_offset8; /* of the payload, in eight bytes from the start of this header */
	uint16_t length8;      /* of the packet in eight bytes, this header included, the trailer not */
	uint16_t flags;
	uint64_t transaction_id;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_packet_header) == 16, "wire layout");

/* Behind every packet: the index where it started, in the upper half. */
#define VMBUS_PACKET_TRAILER_SIZE 8u

/* Behind the header of a GPA-direct packet; then ranges with their page numbers. */
struct vmbus_gpa_direct_header {
	uint32_t reserved;
	uint32_t range_count;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_gpa_direct_header) == 8, "wire layout");

/* Behind the header of a transfer-page packet; then ranges. */
struct vmbus_transfer_page_header {
	uint16_t set_id;
	uint8_t sender_owns_set;
	uint8_t reserved;
	uint32_t range_count;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_transfer_page_header) == 8, "wire layout");

struct vmbus_transfer_page_range {
	uint32_t byte_count;
	uint32_t byte_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_transfer_page_range) == 8, "wire layout");

/* Before the payload of a channel in pipe mode. */
#define VMBUS_PIPE_MESSAGE_DATA 1u

struct vmbus_pipe_header {
	uint32_t type;
	uint32_t size;
} __attribute__((packed));
_Static_assert(sizeof(struct vmbus_pipe_header) == 8, "wire layout");

/* --- shared pages ----------------------------------------------------------------------------- */

/* Interrupt page of versions before 5.0: one bit a channel, by relid. */
#define VMBUS_INTERRUPT_PAGE_TO_GUEST 0u    /* byte offset of the bits that the host sets */
#define VMBUS_INTERRUPT_PAGE_TO_HOST  2048u /* byte offset of the bits that the guest sets */
#define VMBUS_INTERRUPT_PAGE_BITS     16384u

#define VMBUS_MONITOR_GROUPS   4u
#define VMBUS_MONITOR_TRIGGERS 32u /* a group */
#define VMBUS_MONITOR_IDS      (VMBUS_MONITOR_GROUPS * VMBUS_MONITOR_TRIGGERS)

struct vmbus_monitor_page {
	uint32_t trigger_state; /* bits 0-3: groups in use */
	uint32_t reserved1;
	struct {
		uint32_t pending;
		uint32_t armed;
	} group[VMBUS_MONITOR_GROUPS];
	uint64_t reserved2[3];
	int32_t next_check_time[VMBUS_MONITOR_GROUPS][VMBUS_MONITOR_TRIGGERS];
	uint16_t latency[VMBUS_MONITOR_GROUPS][VMBUS_MONITOR_TRIGGERS]; /* 100 ns units */
	uint64_t reserved3[32];
	struct {
		uint32_t connection_id;
		uint16_t flag;
		uint16_t reserved;
	} parameter[VMBUS_MONITOR_GROUPS][VMBUS_MONITOR_TRIGGERS];
	uint8_t reserved4[1984];
};
_Static_assert(sizeof(struct vmbus_monitor_page) == 4096, "wire layout");
