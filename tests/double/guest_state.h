/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest_state.h - the double's own state, shared by its two files. Tests include guest.h.
 */
#pragma once

#include "tests/double/guest.h"

#define GUEST_KEPT_MESSAGES 512u
#define GUEST_MAX_OFFERS    2048u

struct guest_offer {
	struct vmbus_message_offer message;
	bool rescinded;
};

struct guest {
	struct partition *partition;
	unsigned vp_count;
	uint64_t memory_size;
	gpa_t heap; /* next free */
	bool scatter;

	gpa_t hypercall_input;
	gpa_t message_page[PARTITION_MAX_VPS], event_page[PARTITION_MAX_VPS];
	gpa_t interrupt_page, monitor_page[2];

	uint32_t version, message_connection;
	unsigned message_vp;
	uint32_t open_status;
	uint32_t next_gpadl, next_open;

	struct guest_message kept[GUEST_KEPT_MESSAGES];
	unsigned kept_count;
	struct guest_offer *offers[GUEST_MAX_OFFERS];
	unsigned offer_count;
	struct guest_channel *channels;
};

struct guest_ring {
	struct vmbus_ring_header *header;
	uint8_t **pages; /* of the data */
	uint32_t size;
};

struct guest_channel {
	struct guest_channel *next;
	struct guest *guest;
	struct vmbus_message_offer offer;
	uint32_t gpadl;
	unsigned target_vp;
	uint8_t **pages;
	struct guest_ring in, out; /* guest to host, host to guest */
};

/* Ten seconds from now, and whether they are over; sleeps a little in between. */
struct guest_deadline {
	int64_t end_ns;
};

struct guest_deadline guest_deadline(void);
bool guest_patience(struct guest_deadline *deadline);
