/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_tlfs_caller.h - a caller of hypervisor/tlfs for its tests: guest RAM of a few pages, a clock
 * that the test turns, and callbacks that record what was asked and check the rule on locks.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/tlfs/protocol.h"
#include "hypervisor/tlfs/tlfs.h"

#define VPS       8
#define RAM_PAGES 16
#define RAM_SIZE  (RAM_PAGES * 4096u)

struct caller {
	struct tlfs t;
	struct tlfs_vp vps[VPS];
	_Alignas(4096) uint8_t ram[RAM_SIZE];
	int locked[VPS];
	uint64_t now, tsc;
	uint64_t deadline[VPS];
	unsigned interrupts[VPS][256];
	unsigned interrupt_count;
	uint64_t auto_eoi[VPS][4];
	uint64_t apic[3];
	bool apic_faults;
	struct tlfs_vp_set ipi_vps;
	unsigned ipis, ipi_vector;
	struct tlfs_flush flush;
	uint64_t ranges[512];
	unsigned flushes;
	uint32_t connection, message_type;
	uint8_t payload[TLFS_MESSAGE_PAYLOAD];
	size_t payload_size;
	uint16_t flag;
	unsigned posts, signals;
	enum tlfs_status status;
	unsigned slots_free[TLFS_SINT_COUNT];
	unsigned idles, resets, crashes, starts, spins;
	unsigned started_vp;
	uint64_t started_rip;
	struct tlfs_crash crash;
	uint64_t hypercall_page;
};

static struct caller caller;

static void check_unlocked(void)
{
	for (unsigned vp = 0; vp < VPS; vp++)
		assert_int_equal(caller.locked[vp], 0);
}

static void *on_page(void *context, uint64_t gpa)
{
	assert_int_equal(gpa & 4095, 0);
	return gpa < RAM_SIZE ? caller.ram + gpa : NULL;
}

static bool on_read_memory(void *context, uint64_t gpa, void *buffer, size_t size)
{
	check_unlocked();
	assert_true((gpa & 4095) + size <= 4096);
	if (gpa >= RAM_SIZE)
		return false;
	memcpy(buffer, caller.ram + gpa, size);
	return true;
}

static void on_hypercall_page(void *context, unsigned vp, uint64_t gpa)
{
	caller.hypercall_page = gpa;
}

static uint64_t on_reference_time(void *context)
{
	return caller.now;
}

static void on_sample_clock(void *context, uint64_t *tsc, uint64_t *reference_time)
{
	*tsc = caller.tsc;
	*reference_time = caller.now;
}

static uint64_t on_vp_runtime(void *context, unsigned vp)
{
	return 1000 + vp;
}

static void on_arm(void *context, unsigned vp, uint64_t deadline)
{
	assert_int_equal(caller.locked[vp], 1);
	caller.deadline[vp] = deadline;
}

static void on_interrupt(void *context, unsigned vp, uint8_t vector)
{
	check_unlocked();
	assert_true(vector >= 16);
	caller.interrupts[vp][vector]++;
	caller.interrupt_count++;
}

static void on_auto_eoi(void *context, unsigned vp, const uint64_t vectors[4])
{
	check_unlocked();
	memcpy(caller.auto_eoi[vp], vectors, sizeof(caller.auto_eoi[vp]));
}

static bool on_read_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t *value)
{
	*value = caller.apic[which];
	return !caller.apic_faults;
}

static bool on_write_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t value)
{
	caller.apic[which] = value;
	return !caller.apic_faults;
}

static void on_ipi(void *context, unsigned vp, const struct tlfs_vp_set *vps, uint8_t vector)
{
	check_unlocked();
	caller.ipis++;
	caller.ipi_vps = *vps;
	caller.ipi_vector = vector;
}

static void on_lock(void *context, unsigned vp)
{
	assert_int_equal(caller.locked[vp], 0);
	caller.locked[vp] = 1;
}

static void on_unlock(void *context, unsigned vp)
{
	assert_int_equal(caller.locked[vp], 1);
	caller.locked[vp] = 0;
}

static void on_flush(void *context, unsigned vp, const struct tlfs_flush *flush)
{
	check_unlocked();
	caller.flushes++;
	caller.flush = *flush;
	if (flush->range_count)
		memcpy(caller.ranges, flush->ranges, flush->range_count * sizeof(uint64_t));
}

static enum tlfs_status on_post(void *context, unsigned vp, uint32_t connection, uint32_t type,
				const void *payload, size_t size)
{
	check_unlocked();
	assert_true(size <= TLFS_MESSAGE_PAYLOAD);
	caller.posts++;
	caller.connection = connection;
	caller.message_type = type;
	caller.payload_size = size;
	memcpy(caller.payload, payload, size);
	return caller.status;
}

static enum tlfs_status on_signal(void *context, unsigned vp, uint32_t connection, uint16_t flag)
{
	check_unlocked();
	caller.signals++;
	caller.connection = connection;
	caller.flag = flag;
	return caller.status;
}

static void on_slot_free(void *context, unsigned vp, unsigned sint)
{
	check_unlocked();
	caller.slots_free[sint]++;
}

static void on_spin(void *context, unsigned vp, uint32_t spins)
{
	caller.spins = spins;
}

static void on_idle(void *context, unsigned vp)
{
	check_unlocked();
	caller.idles++;
}

static void on_reset(void *context, unsigned vp)
{
	caller.resets++;
}

static void on_crash(void *context, unsigned vp, const struct tlfs_crash *crash)
{
	caller.crashes++;
	caller.crash = *crash;
}

static enum tlfs_status on_start_vp(void *context, unsigned vp, unsigned target,
				    const struct hv_initial_vp_context *start)
{
	caller.starts++;
	caller.started_vp = target;
	caller.started_rip = start->rip;
	return caller.status;
}

static struct tlfs_ops caller_ops;

static int caller_setup(void **state)
{
	struct tlfs_config config = {
	    .vp_count = VPS,
	    .tsc_frequency = 2000000000,
	    .apic_frequency = 200000000,
	    .physical_address_bits = 40,
	};

	caller_ops = (struct tlfs_ops){
	    .page = on_page,
	    .read_memory = on_read_memory,
	    .write_hypercall_page = on_hypercall_page,
	    .reference_time = on_reference_time,
	    .sample_clock = on_sample_clock,
	    .vp_runtime = on_vp_runtime,
	    .arm_timer = on_arm,
	    .request_interrupt = on_interrupt,
	    .set_auto_eoi = on_auto_eoi,
	    .read_apic = on_read_apic,
	    .write_apic = on_write_apic,
	    .send_ipi = on_ipi,
	    .lock = on_lock,
	    .unlock = on_unlock,
	    .flush_tlb = on_flush,
	    .post_message = on_post,
	    .signal_event = on_signal,
	    .message_slot_free = on_slot_free,
	    .long_spin_wait = on_spin,
	    .guest_idle = on_idle,
	    .reset = on_reset,
	    .crash = on_crash,
	    .start_vp = on_start_vp,
	};
	memset(&caller, 0, sizeof(caller));
	memset(caller.ram, 0xcc, sizeof(caller.ram));
	caller.now = 1000000;
	tlfs_init(&caller.t, caller.vps, &config, &caller_ops, &caller);
	return 0;
}

static inline uint64_t rdmsr(unsigned vp, uint32_t msr)
{
	uint64_t value;

	assert_int_equal(tlfs_read_msr(&caller.t, vp, msr, &value), TLFS_MSR_OK);
	return value;
}

static inline void wrmsr(unsigned vp, uint32_t msr, uint64_t value)
{
	assert_int_equal(tlfs_write_msr(&caller.t, vp, msr, value), TLFS_MSR_OK);
}

static inline void wrmsr_faults(unsigned vp, uint32_t msr, uint64_t value)
{
	assert_int_equal(tlfs_write_msr(&caller.t, vp, msr, value), TLFS_MSR_FAULT);
}

static inline void rdmsr_faults(unsigned vp, uint32_t msr)
{
	uint64_t value;

	assert_int_equal(tlfs_read_msr(&caller.t, vp, msr, &value), TLFS_MSR_FAULT);
}
