// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The local APIC under a fake caller: a clock that the test turns, four VPs, recorded callbacks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/apic/apic.h"

#define VPS   4
#define MHZ   1000000ull
#define X2(r) (0x800u + ((r) >> 4))

struct fake {
	struct apic_bus bus;
	struct apic apics[VPS];
	unsigned kicks[VPS];
	unsigned events[VPS][5];
	uint8_t event_vector;
	unsigned eois;
	uint8_t eoi_vector;
	unsigned base_changes;
	uint64_t deadline[VPS];
	uint64_t now, tsc;
	int locked[VPS];
};

static struct fake fake;

static void check_unlocked(void)
{
	for (unsigned vp = 0; vp < VPS; vp++)
		assert_int_equal(fake.locked[vp], 0);
}

static void on_kick(void *context, unsigned vp)
{
	check_unlocked();
	fake.kicks[vp]++;
}

static void on_event(void *context, unsigned vp, enum apic_event event, uint8_t vector)
{
	check_unlocked();
	fake.events[vp][event]++;
	fake.event_vector = vector;
}

static void on_eoi(void *context, uint8_t vector)
{
	check_unlocked();
	fake.eois++;
	fake.eoi_vector = vector;
}

static void on_base(void *context, unsigned vp, uint64_t base)
{
	fake.base_changes++;
}

static void on_arm(void *context, unsigned vp, uint64_t deadline)
{
	assert_int_equal(fake.locked[vp], 1);
	fake.deadline[vp] = deadline;
}

static uint64_t on_now(void *context)
{
	return fake.now;
}

static uint64_t on_tsc(void *context, unsigned vp)
{
	return fake.tsc;
}

static void on_lock(void *context, unsigned vp)
{
	assert_int_equal(fake.locked[vp], 0);
	fake.locked[vp] = 1;
}

static void on_unlock(void *context, unsigned vp)
{
	assert_int_equal(fake.locked[vp], 1);
	fake.locked[vp] = 0;
}

static const struct apic_ops ops = {
    .kick = on_kick,
    .event = on_event,
    .broadcast_eoi = on_eoi,
    .base_changed = on_base,
    .arm_timer = on_arm,
    .now = on_now,
    .tsc = on_tsc,
    .lock = on_lock,
    .unlock = on_unlock,
};

static uint32_t mmio_read(unsigned vp, uint32_t reg)
{
	return (uint32_t)apic_mmio_read(&fake.apics[vp], reg, 4);
}

static void mmio_write(unsigned vp, uint32_t reg, uint32_t value)
{
	apic_mmio_write(&fake.apics[vp], reg, 4, value);
}

static bool msr_write(unsigned vp, uint32_t msr, uint64_t value)
{
	return apic_write_msr(&fake.apics[vp], msr, value);
}

static uint64_t msr_read(unsigned vp, uint32_t msr)
{
	uint64_t value;

	assert_true(apic_read_msr(&fake.apics[vp], msr, &value));
	return value;
}

static void to_x2apic(unsigned vp)
{
	assert_true(msr_write(vp, APIC_MSR_BASE, msr_read(vp, APIC_MSR_BASE) | APIC_BASE_X2APIC));
}

/* The vectors that a VP takes in turn, ended one by one; the number of them. */
static int take(unsigned vp)
{
	int vector = apic_acknowledge(&fake.apics[vp]);

	if (vector >= 0)
		apic_eoi(&fake.apics[vp]);
	return vector;
}

/* Which VPs have exactly one interrupt, with this vector: a mask. Takes them. */
static unsigned who_has(int vector)
{
	unsigned mask = 0;

	for (unsigned vp = 0; vp < VPS; vp++) {
		int got = take(vp);

		if (got < 0)
			continue;
		assert_int_equal(got, vector);
		assert_int_equal(take(vp), -1);
		mask |= 1u << vp;
	}
	return mask;
}

static int setup_with(bool x2apic, bool tsc_deadline)
{
	struct apic_config config = {
	    .vp_count = VPS,
	    .timer_frequency = 200 * MHZ,
	    .tsc_frequency = 1000 * MHZ,
	    .physical_address_bits = 40,
	    .x2apic = x2apic,
	    .tsc_deadline = tsc_deadline,
	};

	memset(&fake, 0, sizeof(fake));
	fake.now = 1000000;
	apic_init(&fake.bus, fake.apics, &config, &ops, &fake);
	for (unsigned vp = 0; vp < VPS; vp++)
		mmio_write(vp, 0xf0, 0x1ff);
	return 0;
}

static int setup(void **state)
{
	return setup_with(true, true);
}

static void test_reset_values(void **state)
{
	apic_reset(&fake.apics[1], false);
	assert_int_equal(mmio_read(1, 0x20), 1u << 24);
	assert_int_equal(mmio_read(1, 0x30), 0x00050014);
	assert_int_equal(mmio_read(1, 0x80), 0);
	assert_int_equal(mmio_read(1, 0xd0), 0);
	assert_int_equal(mmio_read(1, 0xe0), 0xffffffff);
	assert_int_equal(mmio_read(1, 0xf0), 0xff);
	for (uint32_t reg = 0x320; reg <= 0x370; reg += 0x10)
		assert_int_equal(mmio_read(1, reg), 0x10000);
	assert_int_equal(msr_read(1, APIC_MSR_BASE), 0xfee00800);
	assert_int_equal(msr_read(0, APIC_MSR_BASE), 0xfee00900);
	assert_int_equal(apic_mmio_base(&fake.apics[1]), 0xfee00000);
	/* Software-disabled: fixed interrupts are refused, LVT masks stick, NMI passes. */
	assert_false(apic_request(&fake.apics[1], 0x40));
	mmio_write(1, 0x350, 0x40);
	assert_int_equal(mmio_read(1, 0x350), 0x10040);
	assert_true(apic_deliver(&fake.bus, &(struct apic_message){.delivery = APIC_NMI, .destination = 1}));
	assert_int_equal(fake.events[1][APIC_EVENT_NMI], 1);
}

static void test_priorities(void **state)
{
	struct apic *apic = &fake.apics[0];

	assert_int_equal(apic_pending_vector(apic), -1);
	assert_false(apic_has_attention(apic));
	assert_true(apic_request(apic, 0x31));
	assert_true(apic_has_attention(apic));
	assert_true(apic_request(apic, 0x35));
	assert_int_equal(fake.kicks[0], 2);
	assert_true(apic_request(apic, 0x35));
	assert_int_equal(fake.kicks[0], 2);
	assert_int_equal(apic_pending_vector(apic), 0x35);
	assert_int_equal(apic_acknowledge(apic), 0x35);
	assert_int_equal(mmio_read(0, 0x110), 1u << (0x35 - 0x20));
	assert_int_equal(mmio_read(0, 0x210), 1u << (0x31 - 0x20));
	assert_int_equal(mmio_read(0, 0xa0), 0x30);
	/* Same class waits, higher class nests. */
	assert_int_equal(apic_pending_vector(apic), -1);
	assert_false(apic_has_attention(apic));
	apic_request(apic, 0xfe);
	assert_int_equal(apic_acknowledge(apic), 0xfe);
	assert_int_equal(apic_pending_vector(apic), -1);
	apic_eoi(apic);
	assert_int_equal(apic_pending_vector(apic), -1);
	mmio_write(0, 0xb0, 0);
	assert_int_equal(apic_acknowledge(apic), 0x31);
	apic_eoi(apic);
	apic_eoi(apic);
	assert_int_equal(mmio_read(0, 0xa0), 0);
	assert_int_equal(fake.eois, 0);
}

static void test_tpr(void **state)
{
	struct apic *apic = &fake.apics[0];

	apic_set_cr8(apic, 5);
	assert_int_equal(mmio_read(0, 0x80), 0x50);
	mmio_write(0, 0x80, 0x6f);
	assert_int_equal(apic_get_cr8(apic), 6);
	assert_int_equal(apic_get_tpr(apic), 0x6f);
	assert_int_equal(mmio_read(0, 0xa0), 0x6f);
	apic_request(apic, 0x6f);
	assert_int_equal(apic_pending_vector(apic), -1);
	apic_request(apic, 0x70);
	assert_int_equal(apic_acknowledge(apic), 0x70);
	assert_int_equal(mmio_read(0, 0xa0), 0x70);
	apic_eoi(apic);
	assert_int_equal(apic_pending_vector(apic), -1);
	apic_set_tpr(apic, 0x5f);
	assert_int_equal(apic_acknowledge(apic), 0x6f);
	assert_false(apic_request(apic, 0x0f));
	apic_eoi(apic);
	apic_set_tpr(apic, 0);
	/* The lowest vector there is; it outranks a priority of zero. */
	assert_true(apic_request(apic, 0x10));
	assert_int_equal(take(0), 0x10);
	/* Equal classes: the TPR's low bits show. */
	apic_request(apic, 0x31);
	assert_int_equal(apic_acknowledge(apic), 0x31);
	apic_set_tpr(apic, 0x35);
	assert_int_equal(mmio_read(0, 0xa0), 0x35);
	apic_set_tpr(apic, 0x25);
	assert_int_equal(mmio_read(0, 0xa0), 0x30);
}

static void test_level_and_auto_eoi(void **state)
{
	struct apic *apic = &fake.apics[2];
	struct apic_message message = {.vector = 0x51, .level = true, .destination = 2};
	uint64_t auto_eoi[4] = {0, 1ull << (0x52 - 64)};

	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(mmio_read(2, 0x180 + 0x20), 1u << 0x11);
	assert_int_equal(take(2), 0x51);
	assert_int_equal(fake.eois, 1);
	assert_int_equal(fake.eoi_vector, 0x51);
	message.level = false;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(mmio_read(2, 0x180 + 0x20), 0);
	assert_int_equal(take(2), 0x51);
	assert_int_equal(fake.eois, 1);

	apic_set_auto_eoi(apic, auto_eoi);
	apic_request(apic, 0x52);
	apic_request(apic, 0x50);
	assert_int_equal(apic_acknowledge(apic), 0x52);
	assert_int_equal(mmio_read(2, 0x120), 0);
	/* Nothing is in service, so the next follows at once. */
	assert_int_equal(apic_acknowledge(apic), 0x50);
	assert_int_equal(mmio_read(2, 0x120), 1u << 0x10);
}

static void test_ipi_xapic(void **state)
{
	mmio_write(0, 0x310, 2u << 24);
	mmio_write(0, 0x300, 0x4061);
	assert_int_equal(who_has(0x61), 1u << 2);
	assert_int_equal(mmio_read(0, 0x310), 2u << 24);
	assert_int_equal(mmio_read(0, 0x300), 0x4061);
	mmio_write(0, 0x310, 0xffu << 24);
	mmio_write(0, 0x300, 0x4061);
	assert_int_equal(who_has(0x61), 0xf);
	mmio_write(0, 0x310, 9u << 24);
	mmio_write(0, 0x300, 0x4061);
	assert_int_equal(who_has(0x61), 0);
	/* One past the last VP; read-only and reserved bits do not stick. */
	mmio_write(0, 0x310, (uint32_t)VPS << 24);
	mmio_write(0, 0x300, 0xfff33061);
	assert_int_equal(who_has(0x61), 0);
	assert_int_equal(mmio_read(0, 0x300), 0x61);
	mmio_write(1, 0x300, 1 << 18 | 0x10);
	assert_int_equal(who_has(0x10), 1u << 1);
	mmio_write(1, 0x300, 1 << 18 | 0x62);
	assert_int_equal(who_has(0x62), 1u << 1);
	mmio_write(1, 0x300, 2 << 18 | 0x62);
	assert_int_equal(who_has(0x62), 0xf);
	mmio_write(1, 0x300, 3 << 18 | 0x62);
	assert_int_equal(who_has(0x62), 0xf & ~(1u << 1));
	/* INIT, its de-assert (nothing), SIPI, NMI. */
	mmio_write(0, 0x310, 3u << 24);
	mmio_write(0, 0x300, 0xc500);
	assert_int_equal(fake.events[3][APIC_EVENT_INIT], 1);
	mmio_write(0, 0x300, 0x8500);
	assert_int_equal(fake.events[3][APIC_EVENT_INIT], 1);
	mmio_write(0, 0x300, 0x4699);
	assert_int_equal(fake.events[3][APIC_EVENT_SIPI], 1);
	assert_int_equal(fake.event_vector, 0x99);
	mmio_write(0, 0x300, 3 << 18 | 0x400);
	for (unsigned vp = 0; vp < VPS; vp++)
		assert_int_equal(fake.events[vp][APIC_EVENT_NMI], vp != 0);
	mmio_write(0, 0x300, 0x4200);
	assert_int_equal(fake.events[3][APIC_EVENT_SMI], 1);
	/* Reserved modes send nothing. */
	mmio_write(0, 0x300, 0x4361);
	mmio_write(0, 0x300, 0x4761);
	assert_int_equal(who_has(0x61), 0);
	assert_int_equal(fake.events[3][APIC_EVENT_EXTINT], 0);
}

static void test_logical_flat_and_cluster(void **state)
{
	struct apic_message message = {.vector = 0x71, .logical = true};

	for (unsigned vp = 0; vp < VPS; vp++)
		mmio_write(vp, 0xd0, 1u << (24 + vp) | 0xffff);
	assert_int_equal(mmio_read(1, 0xd0), 2u << 24);
	message.destination = 0x5;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x71), 0x5);
	message.destination = 0xff;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x71), 0xf);
	message.destination = 0x10;
	assert_false(apic_deliver(&fake.bus, &message));
	message.destination = 0x1ff;
	assert_false(apic_deliver(&fake.bus, &message));
	mmio_write(0, 0x310, 0x0au << 24);
	mmio_write(0, 0x300, 0x4871);
	assert_int_equal(who_has(0x71), 0xa);
	/* Clusters: VP 0 and 1 in cluster 0, VP 2 and 3 in cluster 1. */
	for (unsigned vp = 0; vp < VPS; vp++) {
		mmio_write(vp, 0xe0, 0);
		mmio_write(vp, 0xd0, (vp / 2) << 28 | 1u << (24 + vp % 2));
	}
	assert_int_equal(mmio_read(0, 0xe0), 0x0fffffff);
	message.destination = 0x12;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x71), 1u << 3);
	message.destination = 0x03;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x71), 0x3);
	message.destination = 0xf1;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x71), 0x5);
	for (unsigned vp = 0; vp < VPS; vp++)
		mmio_write(vp, 0xe0, 0x10000000);
	assert_false(apic_deliver(&fake.bus, &message));
}

static void test_lowest_priority(void **state)
{
	struct apic_message message = {
	    .vector = 0x81, .delivery = APIC_LOWEST_PRIORITY, .logical = true, .destination = 0xff};
	unsigned seen = 0;

	for (unsigned vp = 0; vp < VPS; vp++)
		mmio_write(vp, 0xd0, 1u << (24 + vp));
	apic_set_tpr(&fake.apics[0], 0x20);
	for (int i = 0; i < 12; i++) {
		unsigned one;

		assert_true(apic_deliver(&fake.bus, &message));
		one = who_has(0x81);
		assert_int_equal(__builtin_popcount(one), 1);
		seen |= one;
	}
	/* All take turns but the one that is busier. */
	assert_int_equal(seen, 0xe);
	message.destination = 1;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x81), 1);
	message.logical = false;
	message.destination = 2;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(who_has(0x81), 1u << 2);
	message.destination = 0xff;
	assert_true(apic_deliver(&fake.bus, &message));
	assert_int_equal(__builtin_popcount(who_has(0x81)), 1);
	message.destination = 77;
	assert_false(apic_deliver(&fake.bus, &message));
}

static void test_base_transitions(void **state)
{
	uint64_t base = 0xfee00000 | APIC_BASE_ENABLE, value;

	assert_false(msr_write(1, APIC_MSR_BASE, 0xfee00000 | APIC_BASE_X2APIC));
	assert_false(msr_write(1, APIC_MSR_BASE, base | 1));
	assert_false(msr_write(1, APIC_MSR_BASE, base | 0x200));
	assert_false(msr_write(1, APIC_MSR_BASE, base | 1ull << 40));
	assert_true(msr_write(1, APIC_MSR_BASE, 0xfed00000 | APIC_BASE_ENABLE));
	assert_int_equal(apic_mmio_base(&fake.apics[1]), 0xfed00000);
	assert_int_equal(fake.base_changes, 1);
	assert_false(apic_read_msr(&fake.apics[1], X2(0x20), &value));
	assert_false(msr_write(1, X2(0xb0), 0));
	to_x2apic(1);
	assert_int_equal(apic_mmio_base(&fake.apics[1]), 0);
	assert_int_equal(msr_read(1, X2(0x20)), 1);
	/* Back to xAPIC only through off; the BSP flag cannot be set. */
	assert_false(msr_write(1, APIC_MSR_BASE, base));
	assert_true(msr_write(1, APIC_MSR_BASE, 0xfee00100));
	assert_int_equal(msr_read(1, APIC_MSR_BASE), 0xfee00000);
	assert_false(apic_enabled(&fake.apics[1]));
	assert_false(apic_request(&fake.apics[1], 0x40));
	assert_false(apic_deliver(&fake.bus, &(struct apic_message){.delivery = APIC_NMI, .destination = 1}));
	assert_false(msr_write(1, APIC_MSR_BASE, base | APIC_BASE_X2APIC));
	assert_true(msr_write(1, APIC_MSR_BASE, base));
	assert_int_equal(mmio_read(1, 0xf0), 0xff);
	/* INIT keeps the mode. */
	to_x2apic(1);
	apic_reset(&fake.apics[1], true);
	assert_int_equal(msr_read(1, X2(0xd0)), 2);
	assert_false(apic_read_msr(&fake.apics[1], 0x840, &value));
	assert_false(apic_read_msr(&fake.apics[1], 0x8ff, &value));
	assert_false(msr_write(1, 0x8ff, 0));
	assert_true(apic_owns_msr(0x8ff) && apic_owns_msr(0x1b) && apic_owns_msr(0x6e0) &&
		    !apic_owns_msr(0x900));

	setup_with(false, false);
	assert_false(msr_write(0, APIC_MSR_BASE, base | APIC_BASE_X2APIC));
	assert_false(apic_read_msr(&fake.apics[0], APIC_MSR_TSC_DEADLINE, &value));
	assert_false(msr_write(0, APIC_MSR_TSC_DEADLINE, 5));
	mmio_write(0, 0x320, 0x40030);
	assert_int_equal(mmio_read(0, 0x320), 0x30);
}

static void test_x2apic_registers(void **state)
{
	static const uint32_t readable[] = {0x20,  0x30,  0x80,  0xa0,  0xd0,  0xf0,  0x280, 0x300, 0x320,
					    0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0};
	uint64_t value;

	to_x2apic(0);
	for (uint32_t reg = 0; reg < 0x400; reg += 0x10) {
		bool expected = reg >= 0x100 && reg < 0x280;

		for (size_t i = 0; i < sizeof(readable) / sizeof(readable[0]); i++)
			expected |= readable[i] == reg;
		assert_int_equal(apic_read_msr(&fake.apics[0], X2(reg), &value), expected);
	}
	for (uint32_t reg = 0x320; reg <= 0x380; reg += 0x10)
		assert_false(msr_write(0, X2(reg), 1ull << 32));
	assert_true(msr_write(0, X2(0x350), 0x10700));
	assert_int_equal(msr_read(0, X2(0x350)), 0x10700);
	assert_false(msr_write(0, X2(0xb0), 1));
	assert_false(msr_write(0, X2(0x280), 1));
	assert_true(msr_write(0, X2(0x280), 0));
	assert_false(msr_write(0, X2(0x80), 0x100));
	assert_true(msr_write(0, X2(0x80), 0x20));
	assert_false(msr_write(0, X2(0x20), 0));
	assert_false(msr_write(0, X2(0xd0), 0));
	assert_false(msr_write(0, X2(0xe0), 0));
	assert_false(msr_write(0, X2(0x310), 0));
	assert_false(msr_write(0, X2(0x390), 0));
	assert_false(msr_write(0, X2(0x3f0), 0x100));
	assert_true(msr_write(0, X2(0x3f0), 0x55));
	assert_int_equal(who_has(0x55), 1);
	assert_true(msr_write(0, X2(0xb0), 0));
}

static void test_x2apic_ipi(void **state)
{
	for (unsigned vp = 0; vp < VPS; vp++) {
		to_x2apic(vp);
		assert_int_equal(msr_read(vp, X2(0xd0)), 1u << vp);
	}
	assert_false(msr_write(0, X2(0x300), 1u << 12));
	assert_false(msr_write(0, X2(0x300), 1u << 20));
	assert_true(msr_write(0, X2(0x300), 3ull << 32 | 0x4044));
	assert_int_equal(who_has(0x44), 1u << 3);
	assert_int_equal(msr_read(0, X2(0x300)), 3ull << 32 | 0x4044);
	/* 0xff names one APIC here, not all. */
	assert_true(msr_write(0, X2(0x300), 0xffull << 32 | 0x4044));
	assert_int_equal(who_has(0x44), 0);
	assert_true(msr_write(0, X2(0x300), 0xffffffffull << 32 | 0x4044));
	assert_int_equal(who_has(0x44), 0xf);
	assert_true(msr_write(0, X2(0x300), 0x0006ull << 32 | 0x4844));
	assert_int_equal(who_has(0x44), 0x6);
	assert_true(msr_write(0, X2(0x300), 0x10006ull << 32 | 0x4844));
	assert_int_equal(who_has(0x44), 0);
	assert_true(msr_write(0, X2(0x300), 0xffffffffull << 32 | 0x4844));
	assert_int_equal(who_has(0x44), 0xf);
	assert_true(msr_write(2, X2(0x300), 3u << 18 | 0x44));
	assert_int_equal(who_has(0x44), 0xb);
	/* A device's broadcast is 8 bits wide. */
	assert_true(apic_deliver(&fake.bus, &(struct apic_message){.vector = 0x45, .destination = 0xff}));
	assert_int_equal(who_has(0x45), 0xf);
	/* The synthetic ICR keeps the xAPIC layout. */
	assert_true(apic_set_icr(&fake.apics[0], 2ull << 56 | 0x4046));
	assert_int_equal(who_has(0x46), 1u << 2);
	assert_int_equal(apic_get_icr(&fake.apics[0]), 2ull << 56 | 0x4046);
	assert_true(apic_set_icr(&fake.apics[0], 0xffull << 56 | 0x4046));
	assert_int_equal(who_has(0x46), 0xf);
	assert_false(apic_set_icr(&fake.apics[0], 1ull << 40));
}

static void test_errors(void **state)
{
	mmio_write(0, 0x370, 0xe0);
	mmio_write(0, 0x300, 1 << 18 | 0x05);
	assert_int_equal(mmio_read(0, 0x280), 0);
	mmio_write(0, 0x280, 0);
	assert_int_equal(mmio_read(0, 0x280), 0x20);
	assert_int_equal(who_has(0xe0), 1);
	assert_false(apic_deliver(&fake.bus, &(struct apic_message){.vector = 3, .destination = 0}));
	assert_false(apic_deliver(&fake.bus, &(struct apic_message){.vector = 3, .destination = 0}));
	assert_int_equal(who_has(0xe0), 1);
	mmio_write(0, 0x280, 0);
	assert_int_equal(mmio_read(0, 0x280), 0x40);
	mmio_write(0, 0x280, 0);
	assert_int_equal(mmio_read(0, 0x280), 0);
	/* An error vector that is illegal itself goes nowhere. */
	mmio_write(0, 0x370, 0x02);
	mmio_write(0, 0x300, 1 << 18 | 0x05);
	assert_int_equal(who_has(0), 0);
}

static void test_odd_mmio(void **state)
{
	mmio_write(0, 0x80, 0xab);
	assert_int_equal(apic_mmio_read(&fake.apics[0], 0x80, 1), 0xab);
	assert_int_equal(apic_mmio_read(&fake.apics[1], 0x22, 2), 0x100);
	assert_int_equal(apic_mmio_read(&fake.apics[1], 0x23, 1), 0x1);
	assert_int_equal(apic_mmio_read(&fake.apics[0], 0x84, 4), 0);
	assert_int_equal(apic_mmio_read(&fake.apics[0], 0x80, 8), 0xab);
	assert_int_equal(apic_mmio_read(&fake.apics[0], 0x1000, 4), 0);
	apic_mmio_write(&fake.apics[0], 0x80, 1, 0x10);
	apic_mmio_write(&fake.apics[0], 0x84, 4, 0x10);
	apic_mmio_write(&fake.apics[0], 0x20, 4, 0x77000000);
	apic_mmio_write(&fake.apics[0], 0x1080, 4, 0x10);
	assert_int_equal(mmio_read(0, 0x80), 0xab);
	assert_int_equal(mmio_read(0, 0x20), 0);
	assert_int_equal(mmio_read(0, 0x90), 0);
	assert_int_equal(mmio_read(0, 0xff0), 0);
}

static void test_lint(void **state)
{
	struct apic *apic = &fake.apics[0];

	apic_set_lint(apic, 0, true);
	assert_int_equal(fake.events[0][APIC_EVENT_EXTINT], 0);
	assert_false(apic_accepts_extint(apic));
	mmio_write(0, 0x350, 0x700);
	assert_true(apic_accepts_extint(apic));
	assert_int_equal(fake.events[0][APIC_EVENT_EXTINT], 1);
	apic_set_lint(apic, 0, true);
	assert_int_equal(fake.events[0][APIC_EVENT_EXTINT], 1);
	apic_set_lint(apic, 0, false);
	apic_set_lint(apic, 0, true);
	assert_int_equal(fake.events[0][APIC_EVENT_EXTINT], 2);
	mmio_write(0, 0x360, 0x400);
	apic_set_lint(apic, 1, true);
	assert_int_equal(fake.events[0][APIC_EVENT_NMI], 1);
	mmio_write(0, 0x360, 0x33);
	apic_set_lint(apic, 1, false);
	apic_set_lint(apic, 1, true);
	assert_int_equal(who_has(0x33), 1);
	/* With the APIC off the pin is the processor's. */
	assert_true(msr_write(0, APIC_MSR_BASE, 0xfee00000));
	assert_true(apic_accepts_extint(apic));
	apic_set_lint(apic, 0, false);
	apic_set_lint(apic, 0, true);
	assert_int_equal(fake.events[0][APIC_EVENT_EXTINT], 3);
}

static void expire(unsigned vp)
{
	assert_true(fake.deadline[vp] != APIC_NEVER);
	fake.now = fake.deadline[vp];
	apic_timer_expired(&fake.apics[vp], fake.now);
}

static void test_timer_one_shot(void **state)
{
	struct apic *apic = &fake.apics[0];

	mmio_write(0, 0x320, 0xec);
	mmio_write(0, 0x3e0, 0xb); /* divide by 1: 5 ns a tick */
	mmio_write(0, 0x380, 1000);
	assert_int_equal(fake.deadline[0], fake.now + 5000);
	fake.now += 2500;
	assert_int_equal(mmio_read(0, 0x390), 500);
	apic_timer_expired(apic, fake.now);
	assert_int_equal(take(0), -1);
	/* Half as fast from here on. */
	mmio_write(0, 0x3e0, 0);
	assert_int_equal(fake.deadline[0], fake.now + 5000);
	assert_int_equal(mmio_read(0, 0x390), 500);
	expire(0);
	assert_int_equal(take(0), 0xec);
	assert_int_equal(mmio_read(0, 0x390), 0);
	apic_timer_expired(apic, fake.now);
	assert_int_equal(take(0), -1);
	mmio_write(0, 0x380, 1000);
	mmio_write(0, 0x380, 0);
	assert_int_equal(fake.deadline[0], APIC_NEVER);
	/* Masked: no interrupt. */
	mmio_write(0, 0x320, 0x100ec);
	mmio_write(0, 0x380, 10);
	expire(0);
	assert_int_equal(take(0), -1);
}

/* Called early, with the alarm spent: it is set again. */
static void test_timer_early(void **state)
{
	uint64_t due;

	mmio_write(0, 0x320, 0xec);
	mmio_write(0, 0x380, 1000);
	due = fake.deadline[0];
	fake.deadline[0] = APIC_NEVER;
	apic_timer_expired(&fake.apics[0], due - 1);
	assert_int_equal(fake.deadline[0], due);
	assert_int_equal(take(0), -1);
	apic_timer_expired(&fake.apics[0], due);
	assert_int_equal(take(0), 0xec);
}

static void test_timer_periodic(void **state)
{
	static const struct {
		uint32_t code, divisor;
	} divide[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
	uint64_t begin;

	mmio_write(0, 0x320, 0x200ec);
	for (size_t i = 0; i < sizeof(divide) / sizeof(divide[0]); i++) {
		mmio_write(0, 0x380, 0);
		mmio_write(0, 0x3e0, divide[i].code);
		mmio_write(0, 0x380, 200);
		assert_int_equal(fake.deadline[0], fake.now + 1000 * divide[i].divisor);
	}
	begin = fake.now;
	for (int i = 1; i <= 3; i++) {
		expire(0);
		assert_int_equal(fake.now, begin + 1000u * (unsigned)i);
		assert_int_equal(take(0), 0xec);
	}
	fake.now += 300;
	assert_int_equal(mmio_read(0, 0x390), 140);
	/* Ten periods late: one interrupt, and on in step. */
	fake.now = begin + 13500;
	apic_timer_expired(&fake.apics[0], fake.now);
	assert_int_equal(take(0), 0xec);
	assert_int_equal(take(0), -1);
	assert_int_equal(fake.deadline[0], begin + 14000);
	apic_reset(&fake.apics[0], true);
	assert_int_equal(fake.deadline[0], APIC_NEVER);
	apic_timer_expired(&fake.apics[0], fake.now + 1000000);
	assert_int_equal(take(0), -1);
}

/* One-shot to periodic: a count that has ended stays ended, whether its alarm has come already or not. */
static void test_timer_mode_after_end(void **state)
{
	for (unsigned alarm = 0; alarm < 2; alarm++) {
		mmio_write(0, 0x320, 0xec);
		mmio_write(0, 0x380, 1000);
		fake.now = fake.deadline[0];
		if (alarm) {
			apic_timer_expired(&fake.apics[0], fake.now);
			assert_int_equal(take(0), 0xec);
		}
		mmio_write(0, 0x320, 0x200ec);
		if (!alarm) {
			assert_int_equal(take(0), 0xec);
			assert_int_equal(fake.deadline[0], APIC_NEVER);
		}
		fake.now += 100;
		assert_int_equal(mmio_read(0, 0x390), 0);
	}
}

/* Periodic to one-shot: the period that runs comes to its end. */
static void test_timer_last_period(void **state)
{
	uint64_t begin = fake.now;

	mmio_write(0, 0x3e0, 11);
	mmio_write(0, 0x320, 0x200ec);
	mmio_write(0, 0x380, 200);
	for (unsigned i = 0; i < 3; i++) {
		expire(0);
		assert_int_equal(take(0), 0xec);
	}
	fake.now += 300;
	mmio_write(0, 0x320, 0xec);
	assert_int_equal(mmio_read(0, 0x390), 140);
	expire(0);
	assert_int_equal(fake.now, begin + 4000);
	assert_int_equal(take(0), 0xec);
	assert_int_equal(mmio_read(0, 0x390), 0);
}

static void test_tsc_deadline(void **state)
{
	struct apic *apic = &fake.apics[0];

	fake.tsc = 5000;
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 6000));
	assert_int_equal(msr_read(0, APIC_MSR_TSC_DEADLINE), 0);
	mmio_write(0, 0x320, 0x400ec);
	mmio_write(0, 0x380, 1000);
	assert_int_equal(mmio_read(0, 0x380), 0);
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 6000));
	assert_int_equal(msr_read(0, APIC_MSR_TSC_DEADLINE), 6000);
	assert_int_equal(fake.deadline[0], fake.now + 1000);
	assert_int_equal(mmio_read(0, 0x390), 0);
	fake.tsc = 5900;
	apic_tsc_changed(apic);
	assert_int_equal(fake.deadline[0], fake.now + 100);
	expire(0);
	assert_int_equal(take(0), 0xec);
	assert_int_equal(msr_read(0, APIC_MSR_TSC_DEADLINE), 0);
	/* In the past: at once. */
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 1));
	assert_int_equal(take(0), 0xec);
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, UINT64_MAX));
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 0));
	assert_int_equal(fake.deadline[0], APIC_NEVER);
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 7000));
	fake.tsc = 8000;
	apic_tsc_changed(apic);
	assert_int_equal(take(0), 0xec);
	assert_true(msr_write(0, APIC_MSR_TSC_DEADLINE, 9000));
	mmio_write(0, 0x320, 0xec);
	assert_int_equal(fake.deadline[0], APIC_NEVER);
	assert_int_equal(msr_read(0, APIC_MSR_TSC_DEADLINE), 0);
}

static void test_software_disable_masks(void **state)
{
	mmio_write(0, 0x320, 0xec);
	mmio_write(0, 0x350, 0x700);
	mmio_write(0, 0xf0, 0x0ff);
	assert_int_equal(mmio_read(0, 0x320), 0x100ec);
	assert_int_equal(mmio_read(0, 0x350), 0x10700);
	mmio_write(0, 0xf0, 0xffff01ff);
	assert_int_equal(mmio_read(0, 0xf0), 0x1ff);
	mmio_write(0, 0x320, 0xffffffff);
	assert_int_equal(mmio_read(0, 0x320), 0x700ff);
	mmio_write(0, 0x340, 0xffffffff);
	assert_int_equal(mmio_read(0, 0x340), 0x107ff);
	mmio_write(0, 0x360, 0xffffffff);
	assert_int_equal(mmio_read(0, 0x360), 0x1a7ff);
	mmio_write(0, 0x370, 0xffffffff);
	assert_int_equal(mmio_read(0, 0x370), 0x100ff);
}

static void test_save_and_load(void **state)
{
	struct apic_state saved, again;

	to_x2apic(0);
	apic_request(&fake.apics[0], 0x41);
	apic_request(&fake.apics[0], 0x91);
	assert_int_equal(apic_acknowledge(&fake.apics[0]), 0x91);
	assert_true(msr_write(0, X2(0x320), 0x200ec));
	assert_true(msr_write(0, X2(0x3e0), 0xb));
	assert_true(msr_write(0, X2(0x380), 8000));
	apic_set_tpr(&fake.apics[0], 0x30);
	apic_save(&fake.apics[0], &saved);
	apic_reset(&fake.apics[0], false);
	assert_int_equal(fake.deadline[0], APIC_NEVER);
	assert_true(apic_load(&fake.apics[0], &saved));
	apic_save(&fake.apics[0], &again);
	assert_memory_equal(&saved, &again, sizeof(saved));
	assert_int_equal(fake.deadline[0], fake.now + 40000);
	apic_eoi(&fake.apics[0]);
	assert_int_equal(take(0), 0x41);

	again.base = 0xfee00000 | APIC_BASE_X2APIC;
	assert_false(apic_load(&fake.apics[0], &again));
	again = saved;
	again.irr[0] = 1;
	assert_false(apic_load(&fake.apics[0], &again));
	again = saved;
	again.divide = 4;
	assert_false(apic_load(&fake.apics[0], &again));
	again = saved;
	again.id = 7;
	assert_false(apic_load(&fake.apics[0], &again));
	again = saved;
	again.ldr = 7;
	assert_false(apic_load(&fake.apics[0], &again));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_reset_values, setup),
	    cmocka_unit_test_setup(test_priorities, setup),
	    cmocka_unit_test_setup(test_tpr, setup),
	    cmocka_unit_test_setup(test_level_and_auto_eoi, setup),
	    cmocka_unit_test_setup(test_ipi_xapic, setup),
	    cmocka_unit_test_setup(test_logical_flat_and_cluster, setup),
	    cmocka_unit_test_setup(test_lowest_priority, setup),
	    cmocka_unit_test_setup(test_base_transitions, setup),
	    cmocka_unit_test_setup(test_x2apic_registers, setup),
	    cmocka_unit_test_setup(test_x2apic_ipi, setup),
	    cmocka_unit_test_setup(test_errors, setup),
	    cmocka_unit_test_setup(test_odd_mmio, setup),
	    cmocka_unit_test_setup(test_lint, setup),
	    cmocka_unit_test_setup(test_timer_one_shot, setup),
	    cmocka_unit_test_setup(test_timer_early, setup),
	    cmocka_unit_test_setup(test_timer_periodic, setup),
	    cmocka_unit_test_setup(test_timer_mode_after_end, setup),
	    cmocka_unit_test_setup(test_timer_last_period, setup),
	    cmocka_unit_test_setup(test_tsc_deadline, setup),
	    cmocka_unit_test_setup(test_software_disable_masks, setup),
	    cmocka_unit_test_setup(test_save_and_load, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
