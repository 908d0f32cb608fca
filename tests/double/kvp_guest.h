/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvp_guest.h - the guest's side of Key-Value Pair Exchange on the guest double: answers as Linux' hv_utils with its daemon does,
 * or whatever a test makes of it.
 */
#pragma once

#include "tests/double/guest.h"
#include "vsp/integration/ic_protocol.h"
#include "vsp/integration/kvp_protocol.h"

#define KVP_GUEST_FAILED 0x80004005u /* what Linux answers where its daemon does not */

struct kvp_message {
	struct vmbus_pipe_header pipe;
	struct ic_header header;
	union {
		struct kvp_enumerate item;
		struct kvp_ip_info addresses;
		uint8_t body[8164];
	};
} __attribute__((packed));

struct kvp_pair {
	const char *key, *value; /* ASCII; of an adapter its address, "00:15:5D:01:02:03", and its list of addresses. Ends with NULL */
};

struct kvp_guest {
	struct guest_channel *channel;
	struct ic_version version; /* to agree on; 0.0: 4.0 */
	const struct kvp_pair *items, *adapters;
	uint32_t status; /* of all answers; 0: as it comes */
	bool dead;       /* it does not read what it is asked */
	unsigned negotiations, items_asked, addresses_asked;
	/* Changes an answer, of `*size` bytes, before it goes; NULL: it is honest. */
	void (*lie)(struct kvp_guest *g, struct kvp_message *message, size_t *size);
	void *context;
};

/* Opens the channel that is offered; as guest_open(). */
int kvp_guest_open(struct kvp_guest *g, struct guest *guest);

/* Answers what it was asked so far. False: a question was none that there is. */
bool kvp_guest_serve(struct kvp_guest *g);

/* ASCII as UTF-16 with its end, of at most `room` bytes; returns how many. */
uint32_t kvp_guest_text(uint8_t *to, size_t room, const char *text);
