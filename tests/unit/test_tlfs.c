// SPDX-License-Identifier: GPL-2.0-or-later
/* CPUID leaves, partition-wide and per-VP MSRs, the reference TSC page, saving. */
#include "tests/unit/test_tlfs_caller.h"

static void test_cpuid(void **state)
{
	uint32_t r[4];

	assert_false(tlfs_cpuid(&caller.t, 0x3fffffff, r));
	assert_false(tlfs_cpuid(&caller.t, 0x40000100, r));
	assert_true(tlfs_cpuid(&caller.t, 0x40000000, r));
	assert_int_equal(r[0], 0x4000000a);
	assert_memory_equal(&r[1], "Microsoft Hv", 12);
	assert_true(tlfs_cpuid(&caller.t, 0x40000001, r));
	assert_memory_equal(r, "Hv#1", 4);
	assert_true(tlfs_cpuid(&caller.t, 0x40000002, r));
	assert_int_equal(r[0], 20348);
	assert_int_equal(r[1], 0x000a0000);
	/* What Linux looks at, by its bit numbers. */
	assert_true(tlfs_cpuid(&caller.t, 0x40000003, r));
	assert_int_equal(r[0], 0xeff);
	assert_int_equal(r[1], 1u << 4 | 1u << 5 | 1u << 21);
	assert_int_equal(r[2], 0);
	assert_int_equal(r[3], 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 17 | 1u << 18 | 1u << 19);
	assert_true(tlfs_cpuid(&caller.t, 0x40000004, r));
	assert_int_equal(r[0], 1u << 2 | 1u << 3 | 1u << 5 | 1u << 10 | 1u << 11);
	assert_int_equal(r[1], 0xfff);
	assert_int_equal(r[2], 40);
	assert_true(tlfs_cpuid(&caller.t, 0x40000005, r));
	assert_int_equal(r[0], 64);
	for (uint32_t leaf = 0x40000006; leaf < 0x40000100; leaf++) {
		assert_true(tlfs_cpuid(&caller.t, leaf, r));
		assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	}
	/* What is not given is not offered. */
	caller_ops.guest_idle = NULL;
	caller_ops.start_vp = NULL;
	caller_ops.long_spin_wait = NULL;
	caller.t.config.x2apic = true;
	caller.t.config.deprecate_auto_eoi = true;
	tlfs_cpuid(&caller.t, 0x40000003, r);
	assert_int_equal(r[0], 0xaff);
	assert_int_equal(r[1], 1u << 4 | 1u << 5);
	assert_int_equal(r[3] & 1u << 5, 0);
	tlfs_cpuid(&caller.t, 0x40000004, r);
	assert_int_equal(r[0], 1u << 2 | 1u << 5 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 11);
	assert_int_equal(r[1], UINT32_MAX);
	rdmsr_faults(0, HV_X64_MSR_GUEST_IDLE);
}

static void test_ranges_and_read_only(void **state)
{
	static const uint32_t read_only[] = {HV_X64_MSR_VP_INDEX,       HV_X64_MSR_VP_RUNTIME,
					     HV_X64_MSR_TIME_REF_COUNT, HV_X64_MSR_TSC_FREQUENCY,
					     HV_X64_MSR_APIC_FREQUENCY, HV_X64_MSR_SVERSION,
					     HV_X64_MSR_GUEST_IDLE};
	static const uint32_t absent[] = {0x40000004, 0x40000011, 0x40000024, 0x40000040,
					  0x40000074, 0x40000085, 0x400000a0, 0x400000b8,
					  0x400000f1, 0x40000106, 0x40000118, 0x400001ff};
	uint64_t value;

	assert_int_equal(tlfs_read_msr(&caller.t, 0, 0x3fffffff, &value), TLFS_MSR_UNKNOWN);
	assert_int_equal(tlfs_read_msr(&caller.t, 0, 0x40000200, &value), TLFS_MSR_UNKNOWN);
	assert_int_equal(tlfs_write_msr(&caller.t, 0, 0x10, 0), TLFS_MSR_UNKNOWN);
	for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++) {
		rdmsr(0, read_only[i]);
		wrmsr_faults(0, read_only[i], 0);
	}
	for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
		rdmsr_faults(0, absent[i]);
		wrmsr_faults(0, absent[i], 0);
	}
	assert_int_equal(caller.idles, 1);
	assert_int_equal(rdmsr(5, HV_X64_MSR_VP_INDEX), 5);
	assert_int_equal(rdmsr(5, HV_X64_MSR_VP_RUNTIME), 1005);
	assert_int_equal(rdmsr(0, HV_X64_MSR_TIME_REF_COUNT), caller.now);
	assert_int_equal(rdmsr(0, HV_X64_MSR_TSC_FREQUENCY), 2000000000);
	assert_int_equal(rdmsr(0, HV_X64_MSR_APIC_FREQUENCY), 200000000);
	assert_int_equal(rdmsr(0, HV_X64_MSR_SVERSION), 1);
	assert_int_equal(rdmsr(0, HV_X64_MSR_EOM), 0);
	wrmsr(0, HV_X64_MSR_RESET, 0);
	assert_int_equal(caller.resets, 0);
	wrmsr(0, HV_X64_MSR_RESET, 1);
	assert_int_equal(caller.resets, 1);
}

static void test_hypercall_page(void **state)
{
	/* Without an identity it cannot be enabled. */
	wrmsr(0, HV_X64_MSR_HYPERCALL, 0x3001);
	assert_int_equal(rdmsr(0, HV_X64_MSR_HYPERCALL), 0x3000);
	assert_false(tlfs_hypercall_enabled(&caller.t));
	wrmsr(0, HV_X64_MSR_GUEST_OS_ID, 0x8100000000000000);
	assert_int_equal(rdmsr(1, HV_X64_MSR_GUEST_OS_ID), 0x8100000000000000);
	wrmsr_faults(0, HV_X64_MSR_HYPERCALL, RAM_SIZE | 1);
	wrmsr_faults(0, HV_X64_MSR_HYPERCALL, UINT64_MAX);
	wrmsr(0, HV_X64_MSR_HYPERCALL, 0x3001);
	assert_int_equal(caller.hypercall_page, 0x3000);
	assert_true(tlfs_hypercall_enabled(&caller.t));
	assert_int_equal(rdmsr(3, HV_X64_MSR_HYPERCALL), 0x3001);
	wrmsr(0, HV_X64_MSR_GUEST_OS_ID, 0);
	assert_false(tlfs_hypercall_enabled(&caller.t));
	wrmsr(0, HV_X64_MSR_GUEST_OS_ID, 1);
	wrmsr(0, HV_X64_MSR_HYPERCALL, 0x4003);
	wrmsr_faults(0, HV_X64_MSR_HYPERCALL, 0x5001);
	assert_int_equal(rdmsr(0, HV_X64_MSR_HYPERCALL), 0x4003);
	tlfs_reset(&caller.t);
	assert_int_equal(rdmsr(0, HV_X64_MSR_HYPERCALL), 0);
	wrmsr(0, HV_X64_MSR_HYPERCALL, 0);
}

static uint64_t page_time(const struct hv_reference_tsc *page, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * page->scale >> 64) + (uint64_t)page->offset;
}

static void test_reference_tsc(void **state)
{
	const struct hv_reference_tsc *page = (const void *)(caller.ram + 0x2000);
	struct tlfs_config config = caller.t.config;

	caller.tsc = 123456789012;
	wrmsr_faults(0, HV_X64_MSR_REFERENCE_TSC, RAM_SIZE | 1);
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0x2001);
	assert_int_equal(rdmsr(1, HV_X64_MSR_REFERENCE_TSC), 0x2001);
	assert_int_equal(page->sequence, 1);
	assert_int_equal(page_time(page, caller.tsc), caller.now);
	/* Exact, an hour and a year later. */
	assert_int_equal(page_time(page, caller.tsc + 3600ull * 2000000000), caller.now + 36000000000);
	assert_int_equal(page_time(page, caller.tsc + 31536000ull * 2000000000),
			 caller.now + 315360000000000);
	caller.now += 77;
	tlfs_clock_changed(&caller.t);
	assert_int_equal(page->sequence, 2);
	assert_int_equal(page_time(page, caller.tsc), caller.now);
	atomic_store(&caller.t.tsc_sequence, UINT32_MAX - 1);
	tlfs_clock_changed(&caller.t);
	assert_int_equal(page->sequence, 1);
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0);
	caller.ram[0x2000] = 9;
	tlfs_clock_changed(&caller.t);
	assert_int_equal(caller.ram[0x2000], 9);
	/* A TSC too slow to be scaled: the guest is sent to the MSR. */
	config.tsc_frequency = 10000000;
	tlfs_init(&caller.t, caller.vps, &config, &caller_ops, &caller);
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0x2001);
	assert_int_equal(page->sequence, 0);
}

static void test_assist_and_apic(void **state)
{
	wrmsr_faults(2, HV_X64_MSR_VP_ASSIST_PAGE, RAM_SIZE | 1);
	wrmsr(2, HV_X64_MSR_VP_ASSIST_PAGE, 0x5001);
	assert_int_equal(rdmsr(2, HV_X64_MSR_VP_ASSIST_PAGE), 0x5001);
	assert_int_equal(rdmsr(1, HV_X64_MSR_VP_ASSIST_PAGE), 0);
	assert_int_equal(caller.ram[0x5000] | caller.ram[0x5003], 0);
	assert_int_equal(caller.ram[0x5004], 0xcc);
	rdmsr_faults(0, HV_X64_MSR_EOI);
	wrmsr(0, HV_X64_MSR_EOI, 0);
	wrmsr(0, HV_X64_MSR_ICR, 0x4444);
	assert_int_equal(rdmsr(0, HV_X64_MSR_ICR), 0x4444);
	wrmsr(0, HV_X64_MSR_TPR, 0x40);
	assert_int_equal(rdmsr(0, HV_X64_MSR_TPR), 0x40);
	wrmsr_faults(0, HV_X64_MSR_TPR, 0x100);
	caller.apic_faults = true;
	wrmsr_faults(0, HV_X64_MSR_ICR, 0);
	rdmsr_faults(0, HV_X64_MSR_TPR);
}

static void test_crash(void **state)
{
	assert_int_equal(rdmsr(0, HV_X64_MSR_CRASH_CTL), 3ull << 62);
	for (unsigned i = 0; i < 5; i++)
		wrmsr(0, HV_X64_MSR_CRASH_P0 + i, 100 + i);
	assert_int_equal(rdmsr(1, HV_X64_MSR_CRASH_P4), 104);
	wrmsr(0, HV_X64_MSR_CRASH_CTL, 0);
	assert_int_equal(caller.crashes, 0);
	wrmsr(0, HV_X64_MSR_CRASH_CTL, 1ull << 63);
	assert_int_equal(caller.crashes, 1);
	assert_false(caller.crash.has_message);
	assert_int_equal(caller.crash.parameters[2], 102);
	assert_int_equal(caller.crash.message_length, 0);
	wrmsr(0, HV_X64_MSR_CRASH_CTL, 3ull << 62);
	assert_true(caller.crash.has_message);
	assert_int_equal(caller.crash.message_gpa, 103);
	assert_int_equal(caller.crash.message_length, 104);
	wrmsr(0, HV_X64_MSR_CRASH_P4, UINT64_MAX);
	wrmsr(0, HV_X64_MSR_CRASH_CTL, 3ull << 62);
	assert_int_equal(caller.crash.message_length, 4096);
}

static void test_save_and_load(void **state)
{
	struct tlfs_state saved, state2;
	struct tlfs_vp_state vp, vp2;

	wrmsr(0, HV_X64_MSR_GUEST_OS_ID, 7);
	wrmsr(0, HV_X64_MSR_HYPERCALL, 0x1001);
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0x2001);
	wrmsr(3, HV_X64_MSR_SIMP, 0x3001);
	wrmsr(3, HV_X64_MSR_SINT0 + 2, 0x20000 | 0x41);
	wrmsr(3, HV_X64_MSR_STIMER0_CONFIG, 0x20001);
	wrmsr(3, HV_X64_MSR_STIMER0_CONFIG + 1, caller.now + 500);
	tlfs_save(&caller.t, &saved);
	tlfs_save_vp(&caller.t, 3, &vp);
	tlfs_reset(&caller.t);
	assert_int_equal(caller.deadline[3], TLFS_NEVER);
	assert_int_equal(caller.auto_eoi[3][1], 0);
	assert_int_equal(rdmsr(3, HV_X64_MSR_SINT0 + 2), 0x10000);
	assert_true(tlfs_load(&caller.t, &saved));
	assert_true(tlfs_load_vp(&caller.t, 3, &vp));
	tlfs_save(&caller.t, &state2);
	tlfs_save_vp(&caller.t, 3, &vp2);
	assert_memory_equal(&saved, &state2, sizeof(saved));
	assert_memory_equal(&vp, &vp2, sizeof(vp));
	assert_int_equal(caller.deadline[3], caller.now + 500);
	assert_int_equal(caller.auto_eoi[3][1], 2);

	saved.hypercall = RAM_SIZE | 1;
	assert_false(tlfs_load(&caller.t, &saved));
	assert_false(tlfs_load_vp(&caller.t, VPS, &vp));
	vp2.simp = RAM_SIZE | 1;
	assert_false(tlfs_load_vp(&caller.t, 3, &vp2));
	vp2 = vp;
	vp2.sint[1] = 3;
	assert_false(tlfs_load_vp(&caller.t, 3, &vp2));
	vp2 = vp;
	vp2.timers[1].deadline = 0;
	assert_false(tlfs_load_vp(&caller.t, 3, &vp2));
	vp2 = vp;
	vp2.timers[1].config = 1ull << 63;
	assert_false(tlfs_load_vp(&caller.t, 3, &vp2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_cpuid, caller_setup),
	    cmocka_unit_test_setup(test_ranges_and_read_only, caller_setup),
	    cmocka_unit_test_setup(test_hypercall_page, caller_setup),
	    cmocka_unit_test_setup(test_reference_tsc, caller_setup),
	    cmocka_unit_test_setup(test_assist_and_apic, caller_setup),
	    cmocka_unit_test_setup(test_crash, caller_setup),
	    cmocka_unit_test_setup(test_save_and_load, caller_setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
