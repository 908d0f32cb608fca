/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ic_protocol.h - the wire of the integration services: messages in packets of a pipe channel.
 *
 * Every message stands behind a struct vmbus_pipe_header. Little-endian.
 * Source: Linux include/linux/hyperv.h (icmsg_hdr, icmsg_negotiate, shutdown_msg_data,
 * heartbeat_msg_data, ictimesync_data, ictimesync_ref_data), drivers/hv/hv_util.c;
 * openvmm hyperv_ic_protocol (message types, application states, shutdown flags).
 */
#pragma once

#include <stdint.h>

enum ic_message_type {
	IC_NEGOTIATE = 0,
	IC_HEARTBEAT = 1,
	IC_KVP_EXCHANGE = 2,
	IC_SHUTDOWN = 3,
	IC_TIMESYNC = 4,
	IC_VSS = 5
};

#define IC_FLAG_TRANSACTION 1u
#define IC_FLAG_REQUEST     2u
#define IC_FLAG_RESPONSE    4u

#define IC_STATUS_OK 0u

struct ic_version {
	uint16_t major;
	uint16_t minor;
} __attribute__((packed));
_Static_assert(sizeof(struct ic_version) == 4, "wire layout");

struct ic_header {
	struct ic_version framework;
	uint16_t type;
	struct ic_version message;
	uint16_t size; /* of what follows this header */
	uint32_t status;
	uint8_t transaction_id;
	uint8_t flags;
	uint8_t reserved[2];
} __attribute__((packed));
_Static_assert(sizeof(struct ic_header) == 20, "wire layout");

/* Followed by the framework versions, then the message versions. The answer holds one of each, or
 * counts of 0 when nothing fits. */
struct ic_negotiate {
	uint16_t framework_count;
	uint16_t message_count;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct ic_negotiate) == 8, "wire layout");

struct ic_heartbeat {
	uint64_t sequence; /* the guest adds one */
	uint32_t application_state;
	uint32_t reserved[7];
} __attribute__((packed));
_Static_assert(sizeof(struct ic_heartbeat) == 40, "wire layout");

#define IC_SHUTDOWN_FORCE     1u
#define IC_SHUTDOWN_RESTART   2u /* from 3.1 on */
#define IC_SHUTDOWN_HIBERNATE 4u /* from 3.2 on */
#define IC_SHUTDOWN_PLANNED   0x80000000u

struct ic_shutdown {
	uint32_t reason;
	uint32_t timeout_seconds;
	uint32_t flags;
	uint16_t text[1024]; /* UTF-16, ends with 0 */
} __attribute__((packed));
_Static_assert(sizeof(struct ic_shutdown) == 2060, "wire layout");

#define IC_TIMESYNC_SYNC   1u /* set the clock to it */
#define IC_TIMESYNC_SAMPLE 2u /* a sample for a clock discipline */

/* Times are in 100 ns since 1601-01-01 UTC. */
struct ic_timesync {
	uint64_t parent_time;
	uint64_t child_time;
	uint64_t round_trip_time;
	uint8_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct ic_timesync) == 25, "wire layout");

/* From 4.0 on: the parent's time, and the partition reference time at that moment. */
struct ic_timesync_reference {
	uint64_t parent_time;
	uint64_t reference_time;
	uint8_t flags;
	uint8_t leap_flags;
	uint8_t stratum;
	uint8_t reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct ic_timesync_reference) == 22, "wire layout");
