/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clock.c - partition time, and one thread that tells local APICs and synthetic timers that their
 * deadlines have come. Time stands still before start and while the partition is paused.
 */
#include "hypervisor/partition.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"

/* Values of frozen_at that are no time. */
#define RUNNING  (-1)
#define FREEZING (-2)

static int64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What partition time is measured by. */
static int64_t counter_ns(struct partition *p)
{
	return p->processor->counter_ns ? (int64_t)p->processor->counter_ns(p) : monotonic_ns();
}

int clock_init(struct partition *p)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&p->timer_cond, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_cond_init(&p->timer_idle, NULL);
	pthread_mutex_init(&p->timer_lock, NULL);
	for (unsigned i = 0; i < PARTITION_MAX_VPS; i++)
		p->apic_deadline[i] = p->tlfs_deadline[i] = UINT64_MAX;
	atomic_store(&p->frozen_at, 0);
	clock_set_tsc(p, SOFT_TSC_HZ, 0);
	return 0;
}

void clock_destroy(struct partition *p)
{
	pthread_cond_destroy(&p->timer_cond);
	pthread_cond_destroy(&p->timer_idle);
	pthread_mutex_destroy(&p->timer_lock);
}

uint64_t clock_now(struct partition *p)
{
	int64_t frozen = atomic_load(&p->frozen_at);

	return frozen >= 0 ? (uint64_t)frozen : clock_at(p, (uint64_t)counter_ns(p));
}

/* A reader that was interrupted by a freeze, or by a freeze and a thaw, reads again: it must not return a
 * time from inside a pause. */
uint64_t clock_at(struct partition *p, uint64_t counter)
{
	for (;; counter = (uint64_t)counter_ns(p)) {
		int64_t frozen = atomic_load(&p->frozen_at), origin, now;

		if (frozen >= 0)
			return (uint64_t)frozen;
		if (frozen == FREEZING)
			continue;
		origin = atomic_load(&p->clock_origin);
		now = (int64_t)counter - origin;
		if (atomic_load(&p->frozen_at) == RUNNING && atomic_load(&p->clock_origin) == origin)
			return (uint64_t)now;
	}
}

void clock_set(struct partition *p, uint64_t ns)
{
	atomic_store(&p->frozen_at, (int64_t)ns);
}

/* --- the TSC ------------------------------------------------------------------------------------ */

#define NANOSECONDS 1000000000ull

uint64_t clock_tsc_at(const struct partition *p, uint64_t ns)
{
	uint64_t ticks = ns;

	if (p->tsc_frequency != NANOSECONDS)
		ticks = ns * (p->tsc_frequency / NANOSECONDS) +
		    (uint64_t)((unsigned __int128)ns * p->tsc_fraction >> 64);
	return ticks + p->tsc_offset;
}

uint64_t clock_tsc(struct partition *p)
{
	return clock_tsc_at(p, clock_now(p));
}

void clock_set_tsc(struct partition *p, uint64_t frequency, uint64_t now)
{
	p->tsc_frequency = frequency;
	p->tsc_fraction = (uint64_t)(((unsigned __int128)(frequency % NANOSECONDS) << 64) / NANOSECONDS);
	p->tsc_offset = 0;
	p->tsc_offset = now - clock_tsc(p);
}

/* ------------------------------------------------------------------------------------------------- */

uint64_t partition_reference_time(struct partition *p)
{
	return clock_now(p) / 100;
}

void clock_freeze(struct partition *p)
{
	if (atomic_load(&p->frozen_at) >= 0)
		return;
	atomic_store(&p->frozen_at, FREEZING);
	atomic_store(&p->frozen_at, counter_ns(p) - atomic_load(&p->clock_origin));
	/* A timer that came due before is still told: after this nothing in the partition changes. */
	pthread_mutex_lock(&p->timer_lock);
	while (p->timer_busy)
		pthread_cond_wait(&p->timer_idle, &p->timer_lock);
	pthread_mutex_unlock(&p->timer_lock);
}

void clock_thaw(struct partition *p)
{
	int64_t frozen = atomic_load(&p->frozen_at);

	if (frozen < 0)
		return;
	if (p->processor->set_counter)
		p->processor->set_counter(p, (uint64_t)frozen);
	atomic_store(&p->clock_origin, counter_ns(p) - frozen);
	atomic_store(&p->frozen_at, RUNNING);
	pthread_mutex_lock(&p->timer_lock);
	pthread_cond_signal(&p->timer_cond);
	pthread_mutex_unlock(&p->timer_lock);
}

static void arm(struct partition *p, uint64_t *slot, uint64_t deadline)
{
	pthread_mutex_lock(&p->timer_lock);
	*slot = deadline;
	/* Guests set timers all the time, and most of them later: the thread need not hear of those. */
	if (deadline < p->timer_sleeps_until) {
		p->timer_sleeps_until = deadline;
		pthread_cond_signal(&p->timer_cond);
	}
	pthread_mutex_unlock(&p->timer_lock);
}

void clock_arm_apic(struct partition *p, unsigned vp, uint64_t deadline_ns)
{
	arm(p, &p->apic_deadline[vp], deadline_ns);
}

void clock_arm_tlfs(struct partition *p, unsigned vp, uint64_t deadline_100ns)
{
	arm(p, &p->tlfs_deadline[vp], deadline_100ns > UINT64_MAX / 100 ? UINT64_MAX : deadline_100ns * 100);
}

/* Tells everybody whose deadline is due, once each, with timer_lock dropped meanwhile: a VP with a very
 * short period takes its turn like the others. False when nobody's was. */
static bool run_due(struct partition *p, uint64_t now)
{
	bool due = false;

	for (unsigned vp = 0; vp < p->config.vp_count; vp++) {
		bool apic = p->apic_deadline[vp] <= now, tlfs = p->tlfs_deadline[vp] <= now;

		if (!apic && !tlfs)
			continue;
		due = true;
		if (apic)
			p->apic_deadline[vp] = UINT64_MAX;
		if (tlfs)
			p->tlfs_deadline[vp] = UINT64_MAX;
		pthread_mutex_unlock(&p->timer_lock);
		if (apic)
			apic_timer_expired(&p->apics[vp], now);
		if (tlfs)
			tlfs_timer_expired(&p->tlfs, vp);
		pthread_mutex_lock(&p->timer_lock);
	}
	return due;
}

static uint64_t next_deadline(const struct partition *p)
{
	uint64_t next = UINT64_MAX;

	for (unsigned vp = 0; vp < p->config.vp_count; vp++)
		next = min_u64(next, min_u64(p->apic_deadline[vp], p->tlfs_deadline[vp]));
	return next;
}

/* Sleeps until `deadline` of partition time, or until somebody signals. */
static void timer_sleep(struct partition *p, uint64_t deadline)
{
	p->timer_sleeps_until = deadline;
	if (deadline == UINT64_MAX) {
		pthread_cond_wait(&p->timer_cond, &p->timer_lock);
	} else {
		/* Deadlines further off than an hour are looked at again then: no overflow. */
		int64_t ahead = (int64_t)min_u64(deadline - min_u64(deadline, clock_now(p)), 3600000000000ull);
		int64_t at = monotonic_ns() + ahead;
		struct timespec t = {at / 1000000000, at % 1000000000};

		pthread_cond_timedwait(&p->timer_cond, &p->timer_lock, &t);
	}
	p->timer_sleeps_until = 0;
}

static void *timer_main(void *argument)
{
	struct partition *p = argument;

	thread_begin(THREAD_TIMER, "clock");
	pthread_mutex_lock(&p->timer_lock);
	while (!p->timer_stop) {
		bool frozen = atomic_load(&p->frozen_at) != RUNNING;

		p->timer_busy = !frozen;
		if (!frozen && run_due(p, clock_now(p)))
			continue;
		p->timer_busy = false;
		pthread_cond_broadcast(&p->timer_idle);
		timer_sleep(p, frozen ? UINT64_MAX : next_deadline(p));
	}
	p->timer_busy = false;
	pthread_cond_broadcast(&p->timer_idle);
	pthread_mutex_unlock(&p->timer_lock);
	return NULL;
}

int clock_start(struct partition *p, struct error *err)
{
	int r = pthread_create(&p->timer_thread, NULL, timer_main, p);

	if (r)
		return error_set(err, r, "the timer thread cannot be started: %s", strerror(r));
	p->timer_thread_started = true;
	return 0;
}

void clock_stop(struct partition *p)
{
	if (!p->timer_thread_started)
		return;
	pthread_mutex_lock(&p->timer_lock);
	p->timer_stop = true;
	pthread_cond_signal(&p->timer_cond);
	pthread_mutex_unlock(&p->timer_lock);
	pthread_join(p->timer_thread, NULL);
	p->timer_thread_started = false;
}
