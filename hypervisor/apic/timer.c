// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The local APIC timer: one-shot, periodic, TSC-deadline. The count is not kept, it follows from the
 * clock. Source: Intel SDM volume 3, "APIC Timer", "TSC-Deadline Mode".
 */
#include "hypervisor/apic/internal.h"

#define NANOSECONDS 1000000000u

static void lock(struct apic *apic)
{
	apic->bus->ops->lock(apic->bus->context, apic->vp);
}

static void unlock(struct apic *apic)
{
	apic->bus->ops->unlock(apic->bus->context, apic->vp);
}

static uint64_t now(struct apic *apic)
{
	return apic->bus->ops->now(apic->bus->context);
}

static void arm(struct apic *apic, uint64_t deadline)
{
	if (apic->timer_deadline == APIC_NEVER && deadline == APIC_NEVER)
		return;
	apic->timer_deadline = deadline;
	apic->bus->ops->arm_timer(apic->bus->context, apic->vp, deadline);
}

static bool is_deadline_mode(struct apic *apic)
{
	return apic_lvt_read(apic, APIC_LVT_TIMER) & LVT_DEADLINE;
}

/* base + count * scale / frequency, rounded up; just short of APIC_NEVER when it does not fit. */
static uint64_t time_after(uint64_t base, unsigned __int128 count, uint64_t scale, uint64_t frequency)
{
	unsigned __int128 sum = base + (count * scale + frequency - 1) / frequency;

	return sum >= APIC_NEVER ? APIC_NEVER - 1 : (uint64_t)sum;
}

/* Divide configuration: bits 0, 1, 3 hold log2(divisor) - 1, modulo 8. */
static unsigned divisor(const struct apic *apic)
{
	unsigned code = (apic->divide & 3) | (apic->divide >> 1 & 4);

	return 1u << ((code + 1) & 7);
}

static uint64_t after_ticks(struct apic *apic, uint64_t base, uint64_t ticks)
{
	return time_after(base, (unsigned __int128)ticks * divisor(apic), NANOSECONDS,
			  apic->bus->config.timer_frequency);
}

static uint32_t current_count(struct apic *apic, uint64_t at)
{
	unsigned __int128 ticks;

	if (apic->timer_deadline == APIC_NEVER)
		return 0;
	if (at < apic->timer_start)
		return apic->initial_count;
	ticks = (unsigned __int128)(at - apic->timer_start) * apic->bus->config.timer_frequency /
		NANOSECONDS / divisor(apic);
	if (apic_lvt_read(apic, APIC_LVT_TIMER) & LVT_PERIODIC)
		return apic->initial_count - (uint32_t)(ticks % apic->initial_count);
	return ticks >= apic->initial_count ? 0 : apic->initial_count - (uint32_t)ticks;
}

void apic_timer_reset(struct apic *apic)
{
	lock(apic);
	apic->divide = 0;
	apic->initial_count = 0;
	apic->timer_start = 0;
	apic->tsc_deadline = 0;
	arm(apic, APIC_NEVER);
	unlock(apic);
}

void apic_timer_set_initial(struct apic *apic, uint32_t value)
{
	lock(apic);
	if (!is_deadline_mode(apic)) {
		apic->initial_count = value;
		apic->timer_start = now(apic);
		arm(apic, value ? after_ticks(apic, apic->timer_start, value) : APIC_NEVER);
	}
	unlock(apic);
}

void apic_timer_set_divide(struct apic *apic, uint32_t value)
{
	uint64_t at, passed;
	uint32_t left;

	lock(apic);
	at = now(apic);
	left = current_count(apic, at);
	apic->divide = value & 0xb;
	if (apic->timer_deadline != APIC_NEVER && !is_deadline_mode(apic)) {
		/* What is left of the count goes on at the new pace. */
		passed = after_ticks(apic, 0, apic->initial_count - left);
		apic->timer_start = at > passed ? at - passed : 0;
		arm(apic, after_ticks(apic, at, left));
	}
	unlock(apic);
}

uint32_t apic_timer_current(struct apic *apic)
{
	uint32_t count;

	lock(apic);
	count = is_deadline_mode(apic) ? 0 : current_count(apic, now(apic));
	unlock(apic);
	return count;
}

/* Under the lock. True when the deadline has passed already. */
static bool start_tsc_deadline(struct apic *apic)
{
	uint64_t tsc = apic->bus->ops->tsc(apic->bus->context, apic->vp);

	if (apic->tsc_deadline <= tsc) {
		apic->tsc_deadline = 0;
		arm(apic, APIC_NEVER);
		return true;
	}
	arm(apic,
	    time_after(now(apic), apic->tsc_deadline - tsc, NANOSECONDS, apic->bus->config.tsc_frequency));
	return false;
}

static void fire(struct apic *apic)
{
	uint32_t lvt = apic_lvt_read(apic, APIC_LVT_TIMER);

	if (!(lvt & LVT_MASKED))
		apic_request(apic, (uint8_t)(lvt & LVT_VECTOR));
}

void apic_timer_set_lvt(struct apic *apic, uint32_t value)
{
	uint32_t before;
	bool due;

	lock(apic);
	before = apic_lvt_read(apic, APIC_LVT_TIMER);
	/* A count that has come to its end stays there: it ended in the old mode. */
	due = !(before & (LVT_PERIODIC | LVT_DEADLINE)) && now(apic) >= apic->timer_deadline;
	if (due)
		arm(apic, APIC_NEVER);
	/* The period that runs is the last one, and not the first. */
	if (before & LVT_PERIODIC && !(value & LVT_PERIODIC) && apic->timer_deadline != APIC_NEVER)
		apic->timer_start = apic->timer_deadline - after_ticks(apic, 0, apic->initial_count);
	atomic_store(&apic->lvt[APIC_LVT_TIMER], value);
	/* Going to or from TSC-deadline mode disarms the timer. */
	if ((before ^ value) & LVT_DEADLINE) {
		apic->initial_count = 0;
		apic->tsc_deadline = 0;
		arm(apic, APIC_NEVER);
	}
	unlock(apic);
	if (due)
		fire(apic);
}

void apic_timer_set_tsc_deadline(struct apic *apic, uint64_t value)
{
	bool due = false;

	lock(apic);
	if (is_deadline_mode(apic)) {
		apic->tsc_deadline = value;
		if (value)
			due = start_tsc_deadline(apic);
		else
			arm(apic, APIC_NEVER);
	}
	unlock(apic);
	if (due)
		fire(apic);
}

uint64_t apic_timer_get_tsc_deadline(struct apic *apic)
{
	uint64_t value;

	lock(apic);
	value = apic->tsc_deadline;
	unlock(apic);
	return value;
}

void apic_tsc_changed(struct apic *apic)
{
	bool due;

	lock(apic);
	due = apic->tsc_deadline && start_tsc_deadline(apic);
	unlock(apic);
	if (due)
		fire(apic);
}

void apic_timer_expired(struct apic *apic, uint64_t at)
{
	bool due = false;
	uint64_t period;

	lock(apic);
	if (apic->timer_deadline == APIC_NEVER) {
		/* Disarmed while the call was on its way. */
	} else if (at < apic->timer_deadline) {
		arm(apic, apic->timer_deadline);
	} else {
		due = true;
		if (apic->initial_count && apic_lvt_read(apic, APIC_LVT_TIMER) & LVT_PERIODIC) {
			/* Periods that were missed are not made up for. */
			period = after_ticks(apic, 0, apic->initial_count);
			arm(apic, apic->timer_deadline + ((at - apic->timer_deadline) / period + 1) * period);
		} else {
			apic->tsc_deadline = 0;
			apic->timer_deadline = APIC_NEVER;
		}
	}
	unlock(apic);
	if (due)
		fire(apic);
}
