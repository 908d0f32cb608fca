/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The clock under a host time that the test sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <string.h>

#include "chipset/chipset.h"
#include "tests/double/board.h"

#define SECOND 1000000ll
/* 2024-02-29 23:59:58 UTC, a Thursday. */
#define START (1709251198ll * SECOND)

struct clock {
	struct partition *p;
	struct timers *timers;
	struct ioapic *io;
	struct rtc *rtc;
	_Atomic int64_t now;
	_Atomic int64_t step; /* by which each look moves time on */
};

static int64_t now(void *context)
{
	struct clock *t = context;

	return atomic_fetch_add(&t->now, atomic_load(&t->step));
}

static int set_up(void **state)
{
	struct clock *t = calloc(1, sizeof(*t));

	*state = t;
	t->now = START;
	t->p = board_create(1);
	assert_int_equal(timers_create(&t->timers, NULL), 0);
	assert_int_equal(ioapic_create(&t->io, t->p, NULL), 0);
	assert_int_equal(rtc_create(&t->rtc, t->p,
				    &(struct rtc_config){.timers = t->timers,
							 .irq = ioapic_line(t->io, RTC_IRQ),
							 .memory_below_4g = 3ull << 30,
							 .memory_above_4g = 5ull << 30,
							 .now = now,
							 .context = t},
				    NULL),
			 0);
	board_mmio_write(t->p, IOAPIC_BASE, 4, 0x20);
	board_mmio_write(t->p, IOAPIC_BASE + 0x10, 4, 0x38); /* pin 8: edge, vector 0x38 */
	return 0;
}

static int tear_down(void **state)
{
	struct clock *t = *state;

	rtc_destroy(t->rtc);
	ioapic_destroy(t->io);
	timers_destroy(t->timers);
	board_destroy(t->p);
	free(t);
	return 0;
}

static uint8_t in(struct clock *t, uint8_t reg)
{
	board_out(t->p, 0x70, 1, reg);
	return (uint8_t)board_in(t->p, 0x71, 1);
}

static void out(struct clock *t, uint8_t reg, uint8_t value)
{
	board_out(t->p, 0x70, 1, reg);
	board_out(t->p, 0x71, 1, value);
}

static void expect_time(struct clock *t, uint8_t century, uint8_t year, uint8_t month, uint8_t day,
			uint8_t hour, uint8_t minute, uint8_t second)
{
	assert_int_equal(in(t, 0x32), century);
	assert_int_equal(in(t, 9), year);
	assert_int_equal(in(t, 8), month);
	assert_int_equal(in(t, 7), day);
	assert_int_equal(in(t, 4), hour);
	assert_int_equal(in(t, 2), minute);
	assert_int_equal(in(t, 0), second);
}

static void reads_host_time(void **state)
{
	struct clock *t = *state;

	expect_time(t, 0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58);
	assert_int_equal(in(t, 6), 5);
	assert_int_equal(in(t, 13), 0x80);
	t->now = START + 2 * SECOND;
	expect_time(t, 0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00);
	out(t, 11, 6); /* binary */
	t->now = START;
	expect_time(t, 20, 24, 2, 29, 23, 59, 58);
	out(t, 11, 4); /* 12 hours */
	assert_int_equal(in(t, 4), 0x80 | 11);
	t->now = START + 2 * SECOND;
	assert_int_equal(in(t, 4), 12);
	assert_int_equal(board_in(t->p, 0x70, 1), 0xff);
}

static void update_in_progress(void **state)
{
	struct clock *t = *state;

	assert_int_equal(in(t, 10), 0x26);
	t->now = START + SECOND - 200;
	assert_int_equal(in(t, 10), 0xa6);
	out(t, 11, 0x82);
	assert_int_equal(in(t, 10), 0x26);
}

static void guest_sets_time(void **state)
{
	struct clock *t = *state;

	out(t, 11, 0x82);
	t->now += 5 * SECOND;
	expect_time(t, 0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58); /* held */
	out(t, 0x32, 0x20);
	out(t, 9, 0x30);
	out(t, 8, 0x12);
	out(t, 7, 0x31);
	out(t, 4, 0x08);
	out(t, 2, 0x30);
	out(t, 0, 0x00);
	out(t, 11, 0x02);
	t->now += 61 * SECOND;
	expect_time(t, 0x20, 0x30, 0x12, 0x31, 0x08, 0x31, 0x01);
	out(t, 4, 0x09); /* one register, clock running */
	t->now += SECOND;
	expect_time(t, 0x20, 0x30, 0x12, 0x31, 0x09, 0x31, 0x02);
}

static void nonsense_time(void **state)
{
	struct clock *t = *state;

	for (unsigned value = 0; value < 256; value += 5) {
		out(t, 11, value & 1 ? 0x80 : 0x84);
		for (uint8_t reg = 0; reg < 10; reg++)
			out(t, reg, (uint8_t)value);
		out(t, 0x32, (uint8_t)value);
		out(t, 11, 0x72);
		in(t, 0);
		in(t, 12);
	}
}

static void cmos_memory(void **state)
{
	struct clock *t = *state;

	assert_int_equal(in(t, 0x15) | in(t, 0x16) << 8, 640);
	assert_int_equal(in(t, 0x34) | in(t, 0x35) << 8, ((3 << 14) - (16 << 4)));
	assert_int_equal(in(t, 0x5b) | in(t, 0x5c) << 8 | in(t, 0x5d) << 16, 5 << 14);
	out(t, 0x40, 0x77);
	assert_int_equal(in(t, 0xc0), 0x77); /* bit 7 of the index is not the index's */
}

static void update_interrupt(void **state)
{
	struct clock *t = *state;

	out(t, 10, 0x20); /* no periodic flag */
	out(t, 5, 0x12);  /* and no alarm at midnight */
	assert_int_equal(in(t, 12), 0);
	t->now += SECOND;
	assert_int_equal(in(t, 12), 0x10); /* a flag with its interrupt off */
	assert_int_equal(in(t, 12), 0);
	t->now += SECOND - 1000;
	out(t, 11, 0x12);
	assert_int_equal(board_interrupts(t->p), 0);
	t->now += 1000;
	assert_true(board_wait_interrupt(t->p, 0));
	assert_int_equal(board_last_interrupt(t->p).vector, 0x38);
	assert_int_equal(in(t, 12), 0x90);
	t->now += 2 * SECOND - 1;
	assert_true(board_wait_interrupt(t->p, 1)); /* and again, now that it was read */
}

static void alarm_interrupt(void **state)
{
	struct clock *t = *state;

	out(t, 10, 0x20);
	out(t, 1, 0x00);
	out(t, 3, 0x00);
	out(t, 5, 0xff); /* every full hour */
	t->now += SECOND - 500;
	out(t, 11, 0x22);
	t->now += 500; /* 23:59:59 */
	assert_int_equal(in(t, 12), 0x10);
	t->now += SECOND - 500;
	out(t, 11, 0x22);
	assert_int_equal(board_interrupts(t->p), 0);
	t->now += 500;
	assert_true(board_wait_interrupt(t->p, 0));
	assert_int_equal(in(t, 12), 0xb0);
	out(t, 1, 0x99); /* never */
	t->now += 86400 * SECOND;
	assert_int_equal(in(t, 12) & 0x20, 0);
}

static void periodic_interrupt(void **state)
{
	struct clock *t = *state;

	out(t, 11, 0x42);
	for (unsigned i = 0; i < 8; i++) {
		t->now += 977; /* 1024 Hz */
		assert_true(board_wait_interrupt(t->p, i));
		assert_true(in(t, 12) & 0xc0);
	}
	out(t, 10, 0x20);
	t->now += SECOND;
	in(t, 12);
	assert_int_equal(in(t, 12), 0);
}

/* The next tick comes while the flags of the last one are read: it has an edge of its own. */
static void tick_while_flags_are_read(void **state)
{
	struct clock *t = *state;

	out(t, 11, 0x42);
	t->now += 977;
	assert_true(board_wait_interrupt(t->p, 0));
	for (unsigned i = 0; i < 8; i++) {
		unsigned before = board_interrupts(t->p);

		atomic_store(&t->step, 977);
		assert_true(in(t, 12) & 0xc0);
		atomic_store(&t->step, 0);
		assert_true(board_wait_interrupt(t->p, before));
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(reads_host_time), TEST(update_in_progress), TEST(guest_sets_time), TEST(nonsense_time),
	    TEST(cmos_memory),     TEST(update_interrupt),   TEST(alarm_interrupt), TEST(periodic_interrupt),
	    TEST(tick_while_flags_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
