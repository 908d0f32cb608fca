/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bus_machine.h - what tests of vmbus/ share: a guest double with a bus, an echo channel, a look inside.
 * Everything asserts by cmocka.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/double/echo.h"
#include "tests/double/guest.h"
#include "vmbus/vmbus.h"

struct machine {
	struct guest *guest;
	struct vmbus *bus;
};

/* cmocka fixtures: 32 MiB, four processors. */
int set_up(void **state);
int tear_down(void **state);

/* Connect, ask for offers, find the echo provider's. */
const struct vmbus_message_offer *connect_and_find(struct machine *m, uint32_t version);
struct guest_channel *open_echo(struct machine *m, const struct vmbus_message_offer *offer, unsigned in_pages,
				unsigned out_pages);

/* One packet there and back, checked. */
void ping(struct guest_channel *channel, uint64_t id, size_t size);

/* Fields of a ring header that the host uses at the same time. */
void poke(volatile uint32_t *field, uint32_t value);
uint32_t peek(const volatile uint32_t *field);

/* Conditions for guest_wait(): a counter is not 0; an echo was closed as often as opened. */
bool no_zero(void *counter);
bool is_closed(void *echo);

/* What the bus tells of itself: "vmbus.gpadls". Also waits until the host has handled all that was
 * posted before. */
uint64_t inspect_number(struct machine *m, const char *path);
void assert_state(struct machine *m, uint32_t relid, const char *wanted);
bool has_channel(struct machine *m, uint32_t relid);
