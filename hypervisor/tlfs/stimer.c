// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Synthetic timers (TLFS 12.5): four a VP, in units of the reference time.
 *
 * A timer that expires raises its vector (direct mode) or posts a message. A message whose slot is
 * occupied or whose SINT, page or SynIC is disabled waits in the timer and is tried again whenever
 * one of these changes; setting the timer anew drops it. Expirations that a periodic timer missed
 * are not made up for, lazy or not: one message stands for all.
 */
#include "hypervisor/tlfs/internal.h"

void tlfs_arm_timers(struct tlfs *t, unsigned vp)
{
	const struct tlfs_timer_state *timers = t->vps[vp].state.timers;
	uint64_t first = TLFS_NEVER;

	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++)
		if (timers[i].deadline < first)
			first = timers[i].deadline;
	t->ops->arm_timer(t->context, vp, first);
}

static uint64_t add_clamped(uint64_t a, uint64_t b)
{
	return b >= TLFS_NEVER - a ? TLFS_NEVER - 1 : a + b;
}

/* Start over from the registers as they are. */
static void start(struct tlfs *t, struct tlfs_timer_state *timer)
{
	timer->message_waits = 0;
	if (!(timer->config & HV_STIMER_ENABLE) || !timer->count)
		timer->deadline = TLFS_NEVER;
	else if (timer->config & HV_STIMER_PERIODIC)
		timer->deadline = add_clamped(t->ops->reference_time(t->context), timer->count);
	else
		timer->deadline = timer->count < TLFS_NEVER ? timer->count : TLFS_NEVER - 1;
}

/* A timer with neither a vector nor a SINT has nowhere to go. */
static bool has_target(uint64_t config)
{
	return config & HV_STIMER_DIRECT || HV_STIMER_SINT(config) != 0;
}

static void raise(struct tlfs_vectors *vectors, uint8_t vector)
{
	if (vector >= 16)
		vectors->vectors[vectors->count++] = vector;
}

static void try_message(struct tlfs *t, unsigned vp, unsigned index, uint64_t now,
			struct tlfs_vectors *vectors)
{
	struct tlfs_timer_state *timer = &t->vps[vp].state.timers[index];
	struct hv_timer_message message = {
	    .timer_index = index,
	    .expiration_time = timer->expired_at,
	    .delivery_time = now,
	};
	uint8_t vector;

	timer->message_waits = 0;
	if (tlfs_deliver_message(t, vp, HV_STIMER_SINT(timer->config), HV_MESSAGE_TIMER_EXPIRED, &message,
				 sizeof(message), &vector) != TLFS_POSTED) {
		timer->message_waits = 1;
		return;
	}
	if (!(timer->config & HV_STIMER_PERIODIC))
		timer->config &= ~HV_STIMER_ENABLE;
	raise(vectors, vector);
}

static void expire(struct tlfs_timer_state *timer, uint64_t now, struct tlfs_vectors *vectors)
{
	uint64_t due = timer->deadline;

	if (timer->config & HV_STIMER_PERIODIC)
		timer->deadline = add_clamped(due + (now - due) / timer->count * timer->count, timer->count);
	else
		timer->deadline = TLFS_NEVER;
	if (!(timer->config & HV_STIMER_DIRECT)) {
		timer->expired_at = due;
		timer->message_waits = 1;
		return;
	}
	if (!(timer->config & HV_STIMER_PERIODIC))
		timer->config &= ~HV_STIMER_ENABLE;
	raise(vectors, HV_STIMER_VECTOR(timer->config));
}

/* Expire what is due, retry messages that wait. `arm`: the caller's alarm is spent or out of date. */
static void run(struct tlfs *t, unsigned vp, bool arm)
{
	struct tlfs_timer_state *timers = t->vps[vp].state.timers;
	struct tlfs_vectors vectors = {0};
	uint64_t now;

	tlfs_lock(t, vp);
	now = t->ops->reference_time(t->context);
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++) {
		if (timers[i].deadline <= now && timers[i].deadline != TLFS_NEVER) {
			expire(&timers[i], now, &vectors);
			arm = true;
		}
		if (timers[i].message_waits)
			try_message(t, vp, i, now, &vectors);
	}
	if (arm)
		tlfs_arm_timers(t, vp);
	tlfs_unlock(t, vp);
	for (unsigned i = 0; i < vectors.count; i++)
		t->ops->request_interrupt(t->context, vp, vectors.vectors[i]);
}

void tlfs_run_timers(struct tlfs *t, unsigned vp)
{
	run(t, vp, false);
}

void tlfs_timer_expired(struct tlfs *t, unsigned vp)
{
	if (vp < t->config.vp_count)
		run(t, vp, true);
}

bool tlfs_write_timer_config(struct tlfs *t, unsigned vp, unsigned index, uint64_t value)
{
	struct tlfs_timer_state *timer = &t->vps[vp].state.timers[index];

	value &= HV_STIMER_DEFINED;
	if (value & HV_STIMER_DIRECT && value & HV_STIMER_ENABLE && HV_STIMER_VECTOR(value) < 16)
		return false;
	if (!has_target(value))
		value &= ~HV_STIMER_ENABLE;
	tlfs_lock(t, vp);
	timer->config = value;
	start(t, timer);
	tlfs_unlock(t, vp);
	run(t, vp, true);
	return true;
}

void tlfs_write_timer_count(struct tlfs *t, unsigned vp, unsigned index, uint64_t value)
{
	struct tlfs_timer_state *timer = &t->vps[vp].state.timers[index];

	tlfs_lock(t, vp);
	timer->count = value;
	if (!value)
		timer->config &= ~HV_STIMER_ENABLE;
	else if (timer->config & HV_STIMER_AUTO_ENABLE && has_target(timer->config))
		timer->config |= HV_STIMER_ENABLE;
	start(t, timer);
	tlfs_unlock(t, vp);
	run(t, vp, true);
}
