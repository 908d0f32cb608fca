/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/gate.h"

#include <stddef.h>
#include <sys/eventfd.h>

#define GATE_CLOSED UINT64_C(1)
#define INSIDE      UINT64_C(2)

void gate_init(struct gate *gate)
{
	*gate = (struct gate){.waiters = NULL};
	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->changed, NULL);
}

void gate_destroy(struct gate *gate)
{
	pthread_cond_destroy(&gate->changed);
	pthread_mutex_destroy(&gate->lock);
}

/* [lock] The gate opens under the lock: who finds it open by now is inside. */
static bool try_locked(struct gate *gate)
{
	if (!(atomic_fetch_add(&gate->state, INSIDE) & GATE_CLOSED))
		return true;
	if (atomic_fetch_sub(&gate->state, INSIDE) - INSIDE == GATE_CLOSED)
		pthread_cond_broadcast(&gate->changed);
	return false;
}

static bool try_unlocked(struct gate *gate)
{
	if (!(atomic_fetch_add(&gate->state, INSIDE) & GATE_CLOSED))
		return true;
	gate_leave(gate);
	return false;
}

bool gate_enter(struct gate *gate, struct gate_waiter *waiter)
{
	bool entered;

	if (try_unlocked(gate))
		return true;
	pthread_mutex_lock(&gate->lock);
	entered = try_locked(gate);
	if (!entered && !waiter->waiting) {
		waiter->waiting = true;
		waiter->next = gate->waiters;
		gate->waiters = waiter;
	}
	pthread_mutex_unlock(&gate->lock);
	return entered;
}

void gate_enter_waiting(struct gate *gate)
{
	if (try_unlocked(gate))
		return;
	pthread_mutex_lock(&gate->lock);
	while (!try_locked(gate))
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

static bool try_looking(struct gate *gate)
{
	uint64_t state = atomic_load(&gate->state);

	while (state != GATE_CLOSED)
		if (atomic_compare_exchange_weak(&gate->state, &state, state + INSIDE))
			return true;
	return false;
}

void gate_enter_looking(struct gate *gate)
{
	if (try_looking(gate))
		return;
	pthread_mutex_lock(&gate->lock);
	while (!try_looking(gate))
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

void gate_leave(struct gate *gate)
{
	if (atomic_fetch_sub(&gate->state, INSIDE) - INSIDE != GATE_CLOSED)
		return;
	pthread_mutex_lock(&gate->lock);
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
}

void gate_close(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	atomic_fetch_or(&gate->state, GATE_CLOSED);
	while (atomic_load(&gate->state) != GATE_CLOSED)
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

/* Nobody gets in before all waiters are let go: then they may cease to be. */
void gate_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	while (gate->waiters) {
		struct gate_waiter *waiter = gate->waiters;

		gate->waiters = waiter->next;
		waiter->waiting = false;
		/* Fails only when the counter is full, and then it is readable anyway. */
		(void)eventfd_write(waiter->event, 1);
	}
	atomic_fetch_and(&gate->state, ~GATE_CLOSED);
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
}

bool gate_begin_change(struct gate *gate)
{
	bool begun;

	pthread_mutex_lock(&gate->lock);
	begun = !gate->changing;
	gate->changing = true;
	pthread_mutex_unlock(&gate->lock);
	return begun;
}

void gate_end_change(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->changing = false;
	pthread_mutex_unlock(&gate->lock);
}
