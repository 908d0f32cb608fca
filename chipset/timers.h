/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * timers.h - how parts of the chipset are called back at a time. Private to chipset/.
 *
 * One thread serves all timers of a machine and sleeps when none is armed. `fire` runs on it with no lock of
 * this file held, so it may take its part's lock and arm timers; a part may arm while it holds its
 * lock. Deadlines are CLOCK_MONOTONIC nanoseconds.
 */
#pragma once

#include "chipset/chipset.h"

struct timer {
	struct timers *owner;
	struct timer *next;
	int64_t deadline;
	void (*fire)(void *context);
	void *context;
};

#define TIMER_NEVER INT64_MAX

int64_t timer_now(void);

/* The timer is the caller's and must stay where it is until timer_remove(). */
void timer_add(struct timers *owner, struct timer *timer, void (*fire)(void *context), void *context);

/* Takes the place of what was armed before. TIMER_NEVER disarms; `fire` may be under way already. */
void timer_arm(struct timer *timer, int64_t deadline);

/* Waits until `fire` does not run and never will. Not from `fire`, and not with the part's lock held. */
void timer_remove(struct timer *timer);
