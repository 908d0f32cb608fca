/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * echo.h - the smallest provider: sends back what it receives. For tests and fuzzers of vmbus/.
 *
 * On the control thread, or with a thread of its own (`threaded`). An in-band packet comes back with
 * its payload, as a completion if one was asked for; of a GPA-direct packet the memory comes back
 * inverted in place, and the completion holds the number of bytes; the payload "gpadl" and a handle
 * (little-endian, at offset 8) inverts the whole GPADL.
 */
#pragma once

#include <pthread.h>

#include "vmbus/vmbus.h"

#define ECHO_PAYLOAD 16384u
#define ECHO_IOVECS  64u

struct echo {
	struct vmbus *bus;
	struct channel *channel;
	bool threaded;
	int refuse_open; /* a negative errno for the open callback */

	/* For the test to look at; atomic. */
	unsigned opens, closes, too_large, faults, errors, full;
	struct channel_open last_open;

	/* The provider's own. */
	bool deferred; /* `reply` did not fit */
	bool reply_completion;
	uint64_t reply_id;
	size_t reply_size;
	uint8_t reply[ECHO_PAYLOAD];
	uint8_t payload[ECHO_PAYLOAD];
	struct iovec iov[ECHO_IOVECS];
	pthread_t thread;
	bool thread_running;
	int stop_fd;
};

extern const struct guid echo_interface;

/* Offer it. Aborts the test on failure. `instance` tells several apart. */
void echo_offer(struct echo *echo, struct vmbus *bus, uint8_t instance, uint16_t subchannel_index,
		bool threaded, bool monitored);
void echo_remove(struct echo *echo);
unsigned echo_count(const unsigned *counter);
