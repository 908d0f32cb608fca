// SPDX-License-Identifier: GPL-2.0-or-later
/* Messages, event flags, SINTs, EOM, synthetic timers. */
#include "tests/unit/test_tlfs_caller.h"

#define SIMP            0x6000u
#define SIEFP           0x7000u
#define TIMER_CONFIG(n) (HV_X64_MSR_STIMER0_CONFIG + 2 * (n))
#define TIMER_COUNT(n)  (HV_X64_MSR_STIMER0_CONFIG + 2 * (n) + 1)

static struct hv_message *slot(unsigned sint)
{
	return (struct hv_message *)(caller.ram + SIMP) + sint;
}

static int synic_setup(void **state)
{
	caller_setup(state);
	wrmsr(1, HV_X64_MSR_SIMP, SIMP | 1);
	wrmsr(1, HV_X64_MSR_SIEFP, SIEFP | 1);
	wrmsr(1, HV_X64_MSR_SCONTROL, 1);
	for (unsigned sint = 0; sint < 16; sint++)
		wrmsr(1, HV_X64_MSR_SINT0 + sint, 0x50 + sint);
	return 0;
}

static enum tlfs_post post(unsigned sint, const char *text)
{
	return tlfs_post_message(&caller.t, 1, sint, 1, text, strlen(text));
}

/* What a guest does with a message: free the slot, end of message where asked. Whether it was asked. */
static bool consume(unsigned sint)
{
	bool pending;

	assert_int_not_equal(slot(sint)->type, 0);
	slot(sint)->type = 0;
	pending = slot(sint)->flags & 1;
	if (pending)
		wrmsr(1, HV_X64_MSR_EOM, 0);
	return pending;
}

static void test_registers(void **state)
{
	assert_int_equal(rdmsr(1, HV_X64_MSR_SIMP), SIMP | 1);
	assert_int_equal(rdmsr(1, HV_X64_MSR_SIEFP), SIEFP | 1);
	assert_int_equal(rdmsr(1, HV_X64_MSR_SCONTROL), 1);
	assert_int_equal(rdmsr(0, HV_X64_MSR_SCONTROL), 0);
	assert_int_equal(rdmsr(0, HV_X64_MSR_SINT0 + 15), 0x10000);
	assert_int_equal(rdmsr(1, HV_X64_MSR_SINT0 + 15), 0x5f);
	wrmsr_faults(1, HV_X64_MSR_SINT0, 0x0f);
	wrmsr(1, HV_X64_MSR_SINT0, 0x1000f);
	wrmsr(1, HV_X64_MSR_SINT0, 0x4000f);
	wrmsr_faults(1, HV_X64_MSR_SIMP, RAM_SIZE | 1);
	wrmsr_faults(1, HV_X64_MSR_SIEFP, RAM_SIZE | 1);
	/* Pages begin empty, and stay as they are while enabled. */
	for (unsigned i = 0; i < 8192; i++)
		assert_int_equal(caller.ram[SIMP + i], 0);
	caller.ram[SIMP] = 1;
	wrmsr(1, HV_X64_MSR_SIMP, SIMP | 1);
	assert_int_equal(caller.ram[SIMP], 1);
	/* Auto-EOI follows the SINTs. */
	wrmsr(1, HV_X64_MSR_SINT0 + 3, 0x20000 | 0xf3);
	assert_int_equal(caller.auto_eoi[1][3], 1ull << 0x33);
	wrmsr(1, HV_X64_MSR_SINT0 + 3, 0x30000 | 0xf3);
	assert_int_equal(caller.auto_eoi[1][3], 0);
}

static void test_message(void **state)
{
	assert_int_equal(post(2, "hello"), TLFS_POSTED);
	assert_int_equal(slot(2)->type, 1);
	assert_int_equal(slot(2)->payload_size, 5);
	assert_int_equal(slot(2)->flags, 0);
	assert_memory_equal(slot(2)->payload, "hello", 5);
	assert_int_equal(caller.interrupts[1][0x52], 1);
	assert_int_equal(post(2, "again"), TLFS_BUSY);
	assert_int_equal(slot(2)->flags, 1);
	assert_memory_equal(slot(2)->payload, "hello", 5);
	assert_int_equal(caller.interrupt_count, 1);
	/* Another slot is not concerned. */
	assert_int_equal(post(3, "x"), TLFS_POSTED);
	/* EOM while it is still occupied tells nobody. */
	wrmsr(1, HV_X64_MSR_EOM, 0);
	assert_int_equal(caller.slots_free[2], 0);
	assert_true(consume(2));
	assert_int_equal(caller.slots_free[2], 1);
	assert_int_equal(caller.slots_free[3], 0);
	assert_int_equal(post(2, "again"), TLFS_POSTED);
	assert_false(consume(2));
	assert_int_equal(caller.slots_free[2], 1);

	assert_int_equal(tlfs_post_message(&caller.t, VPS, 2, 1, "", 0), TLFS_INVALID);
	assert_int_equal(tlfs_post_message(&caller.t, 1, 16, 1, "", 0), TLFS_INVALID);
	assert_int_equal(tlfs_post_message(&caller.t, 1, 2, 0, "", 0), TLFS_INVALID);
	assert_int_equal(tlfs_post_message(&caller.t, 1, 2, 1, caller.payload, 241), TLFS_INVALID);
	assert_int_equal(tlfs_post_message(&caller.t, 1, 2, 1, caller.payload, 240), TLFS_POSTED);
}

/* Each of the three switches alone holds messages back, and turning it on lets them go. */
static void test_message_waits_for_enable(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t off, on;
	} switches[] = {
	    {HV_X64_MSR_SCONTROL, 0, 1},
	    {HV_X64_MSR_SIMP, SIMP, SIMP | 1},
	    {HV_X64_MSR_SINT0 + 4, 0x10054, 0x54},
	};

	for (unsigned i = 0; i < 3; i++) {
		wrmsr(1, switches[i].msr, switches[i].off);
		assert_int_equal(post(4, "x"), TLFS_BUSY);
		wrmsr(1, HV_X64_MSR_EOM, 0);
		assert_int_equal(caller.slots_free[4], i);
		wrmsr(1, switches[i].msr, switches[i].on);
		assert_int_equal(caller.slots_free[4], i + 1);
		assert_int_equal(post(4, "x"), TLFS_POSTED);
		consume(4);
	}
	assert_int_equal(caller.interrupts[1][0x54], 3);
	/* Polled: message, no interrupt. */
	wrmsr(1, HV_X64_MSR_SINT0 + 4, 0x50054);
	assert_int_equal(post(4, "x"), TLFS_POSTED);
	assert_int_equal(caller.interrupts[1][0x54], 3);
}

static void test_events(void **state)
{
	const struct hv_event_flags *flags = (const void *)(caller.ram + SIEFP);

	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 0), TLFS_SIGNALLED);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 0), TLFS_ALREADY_SET);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 2047), TLFS_SIGNALLED);
	assert_int_equal(flags[2].words[0], 1);
	assert_int_equal(flags[2].words[31], 1ull << 63);
	assert_int_equal(caller.interrupts[1][0x52], 2);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 15, 65), TLFS_SIGNALLED);
	assert_int_equal(flags[15].words[1], 2);
	assert_int_equal(tlfs_signal_event(&caller.t, VPS, 2, 0), TLFS_SIGNAL_INVALID);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 16, 0), TLFS_SIGNAL_INVALID);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 2048), TLFS_SIGNAL_INVALID);
	assert_int_equal(tlfs_signal_event(&caller.t, 0, 2, 0), TLFS_SIGNAL_DROPPED);
	wrmsr(1, HV_X64_MSR_SINT0 + 2, 0x10052);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 9), TLFS_SIGNAL_DROPPED);
	wrmsr(1, HV_X64_MSR_SINT0 + 2, 0x40052);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 2, 9), TLFS_SIGNALLED);
	assert_int_equal(caller.interrupts[1][0x52], 2);
	wrmsr(1, HV_X64_MSR_SIEFP, SIEFP);
	assert_int_equal(tlfs_signal_event(&caller.t, 1, 3, 9), TLFS_SIGNAL_DROPPED);
}

/* --- timers ------------------------------------------------------------------------------------- */

static void expire(void)
{
	assert_true(caller.deadline[1] != TLFS_NEVER);
	caller.now = caller.deadline[1];
	tlfs_timer_expired(&caller.t, 1);
}

static const struct hv_timer_message *timer_message(unsigned sint)
{
	assert_int_equal(slot(sint)->type, HV_MESSAGE_TIMER_EXPIRED);
	assert_int_equal(slot(sint)->payload_size, 24);
	return (const void *)slot(sint)->payload;
}

static void test_timer_one_shot(void **state)
{
	uint64_t due = caller.now + 1000;

	wrmsr(1, TIMER_CONFIG(2), 3 << 16 | 8); /* auto-enable, SINT 3 */
	assert_int_equal(caller.deadline[1], TLFS_NEVER);
	wrmsr(1, TIMER_COUNT(2), due);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(2)), 3 << 16 | 9);
	assert_int_equal(caller.deadline[1], due);
	caller.now = due - 1;
	caller.deadline[1] = TLFS_NEVER;
	tlfs_timer_expired(&caller.t, 1);
	assert_int_equal(caller.interrupt_count, 0);
	assert_int_equal(caller.deadline[1], due);
	caller.now = due + 5;
	tlfs_timer_expired(&caller.t, 1);
	assert_int_equal(caller.interrupts[1][0x53], 1);
	assert_int_equal(timer_message(3)->timer_index, 2);
	assert_int_equal(timer_message(3)->expiration_time, due);
	assert_int_equal(timer_message(3)->delivery_time, due + 5);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(2)), 3 << 16 | 8);
	assert_int_equal(rdmsr(1, TIMER_COUNT(2)), due);
	assert_int_equal(caller.deadline[1], TLFS_NEVER);
	consume(3);
	/* In the past: at once. */
	wrmsr(1, TIMER_COUNT(2), 1);
	assert_int_equal(caller.interrupts[1][0x53], 2);
	consume(3);
	/* Count 0 stops. */
	wrmsr(1, TIMER_COUNT(2), caller.now + 10);
	wrmsr(1, TIMER_COUNT(2), 0);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(2)), 3 << 16 | 8);
	assert_int_equal(caller.deadline[1], TLFS_NEVER);
	/* No SINT: cannot be enabled, neither way. */
	wrmsr(1, TIMER_CONFIG(0), 9);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(0)), 8);
	wrmsr(1, TIMER_COUNT(0), 5);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(0)), 8);
}

static void test_timer_periodic(void **state)
{
	uint64_t begin = caller.now;

	wrmsr(1, TIMER_COUNT(1), 100);
	wrmsr(1, TIMER_CONFIG(1), 4 << 16 | 3);
	for (unsigned i = 1; i <= 3; i++) {
		expire();
		assert_int_equal(caller.now, begin + 100 * i);
		assert_int_equal(timer_message(4)->expiration_time, begin + 100 * i);
		consume(4);
	}
	assert_int_equal(rdmsr(1, TIMER_CONFIG(1)), 4 << 16 | 3);
	/* Late by several periods: one message, and on in step. */
	caller.now = begin + 1250;
	tlfs_timer_expired(&caller.t, 1);
	assert_int_equal(caller.interrupts[1][0x54], 4);
	assert_int_equal(caller.deadline[1], begin + 1300);
	consume(4);
	wrmsr(1, TIMER_CONFIG(1), 4 << 16 | 2);
	assert_int_equal(caller.deadline[1], TLFS_NEVER);
	/* The longest period does not wrap around. */
	wrmsr(1, TIMER_COUNT(1), UINT64_MAX);
	wrmsr(1, TIMER_CONFIG(1), 4 << 16 | 3);
	assert_int_equal(caller.deadline[1], TLFS_NEVER - 1);
}

static void test_timer_direct(void **state)
{
	wrmsr_faults(1, TIMER_CONFIG(0), 0x1001 | 0x0f << 4);
	wrmsr(1, HV_X64_MSR_SCONTROL, 0);
	wrmsr(1, TIMER_CONFIG(0), 0x1008 | 0xed << 4);
	wrmsr(1, TIMER_COUNT(0), caller.now + 50);
	wrmsr(1, TIMER_COUNT(3), 20);
	wrmsr(1, TIMER_CONFIG(3), 0x1003 | 0xee << 4);
	assert_int_equal(caller.deadline[1], caller.now + 20);
	expire();
	assert_int_equal(caller.interrupts[1][0xee], 1);
	expire();
	assert_int_equal(caller.interrupts[1][0xee], 2);
	expire();
	assert_int_equal(caller.interrupts[1][0xed], 1);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(0)), 0x1008 | 0xed << 4);
	assert_int_equal(caller.interrupt_count, 3);
}

/* The timer's message is kept while the slot is occupied or the page disabled. */
static void test_timer_message_waits(void **state)
{
	uint64_t due = caller.now + 10;

	assert_int_equal(post(5, "first"), TLFS_POSTED);
	assert_int_equal(post(5, "second"), TLFS_BUSY);
	wrmsr(1, TIMER_CONFIG(0), 5 << 16 | 1);
	wrmsr(1, TIMER_COUNT(0), due);
	slot(5)->flags = 0;
	expire();
	assert_int_equal(slot(5)->type, 1);
	assert_int_equal(slot(5)->flags, 1);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(0)), 5 << 16 | 1);
	caller.now += 7;
	assert_true(consume(5));
	/* The timer was first; who waits for the slot is heard after it. */
	assert_int_equal(timer_message(5)->expiration_time, due);
	assert_int_equal(timer_message(5)->delivery_time, due + 7);
	assert_int_equal(rdmsr(1, TIMER_CONFIG(0)), 5 << 16);
	assert_int_equal(caller.slots_free[5], 0);
	assert_true(consume(5));
	assert_int_equal(caller.slots_free[5], 1);

	wrmsr(1, HV_X64_MSR_SIMP, SIMP);
	wrmsr(1, TIMER_CONFIG(0), 5 << 16 | 1);
	wrmsr(1, TIMER_COUNT(0), caller.now);
	assert_int_equal(slot(5)->type, 0);
	wrmsr(1, HV_X64_MSR_SIMP, SIMP | 1);
	timer_message(5);
	consume(5);
	/* A masked SINT likewise; setting the timer anew drops the message. */
	wrmsr(1, HV_X64_MSR_SINT0 + 5, 0x10055);
	wrmsr(1, TIMER_CONFIG(0), 5 << 16 | 9);
	wrmsr(1, TIMER_COUNT(0), caller.now);
	wrmsr(1, TIMER_COUNT(0), caller.now + 1000);
	wrmsr(1, HV_X64_MSR_SINT0 + 5, 0x55);
	assert_int_equal(slot(5)->type, 0);
	expire();
	timer_message(5);
}

/* A message that slips in after the guest freed the slot keeps asking for the EOM that others need. */
static void test_pending_survives_the_next_message(void **state)
{
	assert_int_equal(post(5, "first"), TLFS_POSTED);
	assert_int_equal(post(5, "second"), TLFS_BUSY);
	wrmsr(1, TIMER_CONFIG(0), 5 << 16 | 9);
	slot(5)->type = 0;
	wrmsr(1, TIMER_COUNT(0), caller.now);
	timer_message(5);
	assert_int_equal(slot(5)->flags, 1);
	assert_true(consume(5));
	assert_int_equal(caller.slots_free[5], 1);
	assert_int_equal(post(5, "second"), TLFS_POSTED);
	/* And the other way round: a timer waits, a message slips in. */
	wrmsr(1, TIMER_COUNT(0), caller.now);
	slot(5)->type = 0;
	assert_int_equal(post(5, "third"), TLFS_POSTED);
	assert_int_equal(slot(5)->flags, 1);
	assert_true(consume(5));
	timer_message(5);
	assert_false(consume(5));
}

static void test_timer_invalid_vp(void **state)
{
	tlfs_timer_expired(&caller.t, VPS);
	tlfs_timer_expired(&caller.t, UINT32_MAX);
	assert_int_equal(caller.interrupt_count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_registers, synic_setup),
	    cmocka_unit_test_setup(test_message, synic_setup),
	    cmocka_unit_test_setup(test_message_waits_for_enable, synic_setup),
	    cmocka_unit_test_setup(test_events, synic_setup),
	    cmocka_unit_test_setup(test_timer_one_shot, synic_setup),
	    cmocka_unit_test_setup(test_timer_periodic, synic_setup),
	    cmocka_unit_test_setup(test_timer_direct, synic_setup),
	    cmocka_unit_test_setup(test_timer_message_waits, synic_setup),
	    cmocka_unit_test_setup(test_pending_survives_the_next_message, synic_setup),
	    cmocka_unit_test_setup(test_timer_invalid_vp, synic_setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
