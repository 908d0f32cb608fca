// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Delivery from several threads into one local APIC while its VP takes interrupts and sleeps: every
 * vector that a sender posts and waits for must be taken, and no wake-up may be lost.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hypervisor/apic/apic.h"

#define SENDERS 3
#define ROUNDS  4000

static struct apic_bus bus;
static struct apic apic;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Atomic unsigned taken[256];

static void on_kick(void *context, unsigned vp)
{
	pthread_mutex_lock(&sleep_lock);
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&sleep_lock);
}

static void on_event(void *context, unsigned vp, enum apic_event event, uint8_t vector)
{
}

static void on_eoi(void *context, uint8_t vector)
{
}

static void on_arm(void *context, unsigned vp, uint64_t deadline)
{
}

static uint64_t on_now(void *context)
{
	return 0;
}

static uint64_t on_tsc(void *context, unsigned vp)
{
	return 0;
}

static void on_lock(void *context, unsigned vp)
{
	pthread_mutex_lock(&lock);
}

static void on_unlock(void *context, unsigned vp)
{
	pthread_mutex_unlock(&lock);
}

static const struct apic_ops ops = {
    .kick = on_kick,
    .event = on_event,
    .broadcast_eoi = on_eoi,
    .arm_timer = on_arm,
    .now = on_now,
    .tsc = on_tsc,
    .lock = on_lock,
    .unlock = on_unlock,
};

static void *send(void *argument)
{
	uint8_t vector = (uint8_t)(0x40 + 0x31 * (uintptr_t)argument);
	struct apic_message message = {.vector = vector, .level = (uintptr_t)argument == 1};

	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned before = atomic_load(&taken[vector]);

		apic_deliver(&bus, &message);
		while (atomic_load(&taken[vector]) == before)
			sched_yield();
	}
	return NULL;
}

static void *run_vp(void *argument)
{
	for (unsigned count = 0; count < SENDERS * ROUNDS; count++) {
		int vector = apic_acknowledge(&apic);

		if (vector < 0) {
			pthread_mutex_lock(&sleep_lock);
			while (!apic_has_attention(&apic))
				pthread_cond_wait(&wake, &sleep_lock);
			pthread_mutex_unlock(&sleep_lock);
			count--;
			continue;
		}
		/* Priorities come and go meanwhile. */
		apic_set_tpr(&apic, (uint8_t)count);
		apic_eoi(&apic);
		apic_set_tpr(&apic, 0);
		atomic_fetch_add(&taken[vector], 1);
	}
	return NULL;
}

static void test_no_interrupt_is_lost(void **state)
{
	struct apic_config config = {.vp_count = 1, .timer_frequency = 1, .tsc_frequency = 1};
	pthread_t vp, senders[SENDERS];

	apic_init(&bus, &apic, &config, &ops, NULL);
	apic_mmio_write(&apic, 0xf0, 4, 0x1ff);
	assert_int_equal(pthread_create(&vp, NULL, run_vp, NULL), 0);
	for (uintptr_t i = 0; i < SENDERS; i++)
		assert_int_equal(pthread_create(&senders[i], NULL, send, (void *)i), 0);
	for (unsigned i = 0; i < SENDERS; i++)
		assert_int_equal(pthread_join(senders[i], NULL), 0);
	assert_int_equal(pthread_join(vp, NULL), 0);
	for (unsigned i = 0; i < SENDERS; i++)
		assert_int_equal(atomic_load(&taken[0x40 + 0x31 * i]), ROUNDS);
	assert_int_equal(apic_pending_vector(&apic), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_interrupt_is_lost)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
