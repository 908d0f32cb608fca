// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A sender's queue above tlfs_post_message() against a guest that frees slots and writes EOM at the
 * same time: every message arrives, in order; every event flag that is set is seen.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hypervisor/tlfs/protocol.h"
#include "hypervisor/tlfs/tlfs.h"

#define MESSAGES 20000u
#define EVENTS   20000u
#define QUEUE    8u

static struct tlfs tlfs;
static struct tlfs_vp vp;
static _Alignas(4096) uint8_t ram[2][4096];
static pthread_mutex_t vp_lock = PTHREAD_MUTEX_INITIALIZER;

/* The sender's queue, as the header asks for it: one lock over "post, and queue when busy". */
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t queue[QUEUE];
static unsigned queue_head, queue_count;
static _Atomic unsigned interrupts;

static void *on_page(void *context, uint64_t gpa)
{
	return gpa < sizeof(ram) ? ram[gpa / 4096] : NULL;
}

static uint64_t on_time(void *context)
{
	return 1;
}

static void on_arm(void *context, unsigned index, uint64_t deadline)
{
}

static void on_interrupt(void *context, unsigned index, uint8_t vector)
{
	atomic_fetch_add(&interrupts, 1);
}

static void on_auto_eoi(void *context, unsigned index, const uint64_t vectors[4])
{
}

static void on_lock(void *context, unsigned index)
{
	pthread_mutex_lock(&vp_lock);
}

static void on_unlock(void *context, unsigned index)
{
	pthread_mutex_unlock(&vp_lock);
}

static enum tlfs_post post(uint32_t number)
{
	return tlfs_post_message(&tlfs, 0, 2, 1, &number, sizeof(number));
}

static void on_slot_free(void *context, unsigned index, unsigned sint)
{
	pthread_mutex_lock(&queue_lock);
	while (queue_count && post(queue[queue_head]) == TLFS_POSTED) {
		queue_head = (queue_head + 1) % QUEUE;
		queue_count--;
	}
	pthread_mutex_unlock(&queue_lock);
}

static const struct tlfs_ops ops = {
    .page = on_page,
    .reference_time = on_time,
    .arm_timer = on_arm,
    .request_interrupt = on_interrupt,
    .set_auto_eoi = on_auto_eoi,
    .message_slot_free = on_slot_free,
    .lock = on_lock,
    .unlock = on_unlock,
};

static void *send_messages(void *argument)
{
	for (uint32_t number = 0; number < MESSAGES;) {
		bool full = false;

		pthread_mutex_lock(&queue_lock);
		if (!queue_count && post(number) == TLFS_POSTED) {
			number++;
		} else if (queue_count < QUEUE) {
			queue[(queue_head + queue_count++) % QUEUE] = number;
			number++;
		} else {
			full = true;
		}
		pthread_mutex_unlock(&queue_lock);
		/* Else the guest hardly ever gets the lock that it needs to make room. */
		if (full)
			sched_yield();
	}
	return NULL;
}

static void *send_events(void *argument)
{
	unsigned *signalled = argument;

	for (unsigned i = 0; i < EVENTS; i++)
		if (tlfs_signal_event(&tlfs, 0, 2, i % TLFS_EVENT_FLAGS) == TLFS_SIGNALLED)
			++*signalled;
	return NULL;
}

static unsigned take_events(struct hv_event_flags *flags)
{
	unsigned seen = 0;

	for (unsigned i = 0; i < 32; i++)
		seen += (unsigned)__builtin_popcountll(
		    __atomic_exchange_n(&flags->words[i], 0, __ATOMIC_SEQ_CST));
	return seen;
}

static void test_nothing_is_lost(void **state)
{
	struct tlfs_config config = {.vp_count = 1, .tsc_frequency = 1000000000};
	struct hv_message *slot = (struct hv_message *)ram[0] + 2;
	struct hv_event_flags *flags = (struct hv_event_flags *)ram[1] + 2;
	pthread_t messages, events;
	unsigned signalled = 0, seen = 0;

	tlfs_init(&tlfs, &vp, &config, &ops, NULL);
	assert_int_equal(tlfs_write_msr(&tlfs, 0, HV_X64_MSR_SIMP, 1), TLFS_MSR_OK);
	assert_int_equal(tlfs_write_msr(&tlfs, 0, HV_X64_MSR_SIEFP, 4097), TLFS_MSR_OK);
	assert_int_equal(tlfs_write_msr(&tlfs, 0, HV_X64_MSR_SINT0 + 2, 0x52), TLFS_MSR_OK);
	assert_int_equal(tlfs_write_msr(&tlfs, 0, HV_X64_MSR_SCONTROL, 1), TLFS_MSR_OK);
	assert_int_equal(pthread_create(&messages, NULL, send_messages, NULL), 0);
	assert_int_equal(pthread_create(&events, NULL, send_events, &signalled), 0);
	for (uint32_t number = 0; number < MESSAGES; number++) {
		uint32_t got;

		while (__atomic_load_n(&slot->type, __ATOMIC_SEQ_CST) == 0)
			sched_yield();
		__builtin_memcpy(&got, slot->payload, sizeof(got));
		assert_int_equal(got, number);
		__atomic_store_n(&slot->type, 0, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&slot->flags, __ATOMIC_SEQ_CST) & HV_MESSAGE_PENDING)
			assert_int_equal(tlfs_write_msr(&tlfs, 0, HV_X64_MSR_EOM, 0), TLFS_MSR_OK);
		seen += take_events(flags);
	}
	assert_int_equal(pthread_join(messages, NULL), 0);
	assert_int_equal(pthread_join(events, NULL), 0);
	seen += take_events(flags);
	assert_int_equal(seen, signalled);
	assert_int_equal(atomic_load(&interrupts), MESSAGES + signalled);
	assert_int_equal(queue_count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_is_lost)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
