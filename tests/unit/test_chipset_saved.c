/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each part of the chipset is saved in one machine and loaded in another, which then does what the first would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "chipset/chipset.h"
#include "tests/double/board.h"
#include "tests/double/sections.h"

struct board {
	struct partition *p;
	struct timers *timers;
	struct ioapic *io;
	struct serial *serial;
	struct rtc *rtc;
	struct acpi_pm *pm;
	struct reset_control *reset;
	int64_t now;
	size_t room; /* of the serial port's sink */
	char output[64];
	size_t output_size;
	unsigned resets;
};

static size_t take_output(void *context, const uint8_t *bytes, size_t size)
{
	struct board *b = context;
	size_t n = min_u64(size, b->room);

	memcpy(b->output + b->output_size, bytes, n);
	b->output_size += n;
	b->room -= n;
	return n;
}

static int64_t tell_time(void *context)
{
	return ((struct board *)context)->now;
}

static void on_reset(void *context)
{
	((struct board *)context)->resets++;
}

static void board_start(struct board *b)
{
	*b = (struct board){.p = board_create(2), .now = 1700000000000000ll};
	assert_int_equal(timers_create(&b->timers, NULL), 0);
	assert_int_equal(ioapic_create(&b->io, b->p, NULL), 0);
	assert_int_equal(serial_create(&b->serial, b->p,
				       &(struct serial_config){.port = SERIAL_COM1,
							       .name = "COM1",
							       .irq = ioapic_line(b->io, SERIAL_COM1_IRQ),
							       .output = take_output,
							       .context = b},
				       NULL),
			 0);
	assert_int_equal(rtc_create(&b->rtc, b->p,
				    &(struct rtc_config){.timers = b->timers,
							 .irq = ioapic_line(b->io, RTC_IRQ),
							 .memory_below_4g = 64 << 20,
							 .now = tell_time,
							 .context = b},
				    NULL),
			 0);
	assert_int_equal(acpi_pm_create(&b->pm, b->p,
					&(struct acpi_pm_config){.timers = b->timers, .sci = ioapic_line(b->io, ACPI_SCI)},
					NULL),
			 0);
	assert_int_equal(reset_control_create(&b->reset, b->p, &(struct reset_config){on_reset, b}, NULL), 0);
}

static void board_end(struct board *b)
{
	reset_control_destroy(b->reset);
	acpi_pm_destroy(b->pm);
	rtc_destroy(b->rtc);
	serial_destroy(b->serial);
	ioapic_destroy(b->io);
	timers_destroy(b->timers);
	board_destroy(b->p);
}

static void save(struct board *b, struct form_writer *w)
{
	ioapic_save(b->io, w);
	serial_save(b->serial, w, 0);
	rtc_save(b->rtc, w);
	acpi_pm_save(b->pm, w);
	reset_control_save(b->reset, w);
	assert_false(w->failed);
}

static int load(struct board *b, const struct form_writer *w, struct error *err)
{
	struct form_reader r = {.bytes = w->bytes, .left = w->size};

	ioapic_load(b->io, &r);
	serial_load(b->serial, &r, 0);
	rtc_load(b->rtc, &r);
	acpi_pm_load(b->pm, &r);
	reset_control_load(b->reset, &r);
	if (!r.bad && r.left)
		form_bad(&r, "something is left");
	return form_error(&r, "the chipset", err);
}

/* Takes the first away and gives what it was to the second, which saves to the same bytes. */
static void move(struct board *from, struct board *to)
{
	struct form_writer w = {0}, again = {0};
	struct error err = {0};

	save(from, &w);
	board_start(to);
	to->now = from->now;
	if (load(to, &w, &err))
		fail_msg("%s", err.text);
	save(to, &again);
	assert_int_equal(w.size, again.size);
	assert_memory_equal(w.bytes, again.bytes, w.size);
	free(w.bytes);
	free(again.bytes);
	board_end(from);
}

static void set_pin(struct board *b, unsigned pin, uint64_t entry)
{
	board_mmio_write(b->p, IOAPIC_BASE, 4, 0x10 + 2 * pin);
	board_mmio_write(b->p, IOAPIC_BASE + 0x10, 4, (uint32_t)entry);
	board_mmio_write(b->p, IOAPIC_BASE, 4, 0x11 + 2 * pin);
	board_mmio_write(b->p, IOAPIC_BASE + 0x10, 4, entry >> 32);
}

static void test_ioapic(void **state)
{
	struct board a, b;
	unsigned seen;

	board_start(&a);
	set_pin(&a, 5, 0x01000000000080a1ull | 1 << 15); /* level, vector 0xa1 */
	set_pin(&a, 6, 0x62);
	ioapic_set_irq(a.io, 5, true);
	ioapic_set_irq(a.io, 6, true);
	assert_int_equal(board_interrupts(a.p), 2);
	move(&a, &b);
	assert_int_equal(board_mmio_read(b.p, IOAPIC_BASE, 4), 0x11 + 12);
	assert_int_equal(board_interrupts(b.p), 0);
	/* The level interrupt is outstanding and its line high: at EOI it comes again. The edge is over. */
	ioapic_set_irq(b.io, 5, true);
	ioapic_set_irq(b.io, 6, true);
	assert_int_equal(board_interrupts(b.p), 0);
	board_eoi(b.p, 0xa1);
	assert_int_equal(board_interrupts(b.p), 1);
	assert_int_equal(board_last_interrupt(b.p).vector, 0xa1);
	ioapic_set_irq(b.io, 6, false);
	seen = board_interrupts(b.p);
	ioapic_set_irq(b.io, 6, true);
	assert_int_equal(board_interrupts(b.p), seen + 1);
	assert_int_equal(board_last_interrupt(b.p).vector, 0x62);
	board_end(&b);
}

static void test_serial(void **state)
{
	struct board a, b;
	char text[21] = {0};

	board_start(&a);
	board_out(a.p, SERIAL_COM1 + 2, 1, 0xc1); /* FIFOs, trigger 14 */
	board_out(a.p, SERIAL_COM1 + 4, 1, 0x0b);
	board_out(a.p, SERIAL_COM1 + 1, 1, 0x03);
	board_out(a.p, SERIAL_COM1 + 7, 1, 0x5a);
	/* The sink takes three of six, and twenty bytes of input wait. */
	a.room = 3;
	for (unsigned i = 0; i < 6; i++)
		board_out(a.p, SERIAL_COM1, 1, "abcdef"[i]);
	assert_int_equal(serial_receive(a.serial, (const uint8_t *)"ABCDEFGHIJKLMNOPQRST", 20), 20);
	assert_int_equal(board_in(a.p, SERIAL_COM1, 1), 'A');
	move(&a, &b);
	assert_int_equal(board_in(b.p, SERIAL_COM1 + 7, 1), 0x5a);
	assert_int_equal(board_in(b.p, SERIAL_COM1 + 5, 1) & 0x60, 0); /* the transmitter is busy */
	b.room = 64;
	serial_output_ready(b.serial);
	assert_int_equal(b.output_size, 3);
	assert_memory_equal(b.output, "def", 3);
	for (unsigned i = 0; i < 19; i++)
		text[i] = (char)board_in(b.p, SERIAL_COM1, 1);
	assert_string_equal(text, "BCDEFGHIJKLMNOPQRST");
	assert_int_equal(board_in(b.p, SERIAL_COM1 + 2, 1), 0xc2); /* nothing to read any more: empty again */
	board_end(&b);
}

static uint8_t cmos(struct board *b, uint8_t index)
{
	board_out(b->p, RTC_PORT, 1, index);
	return (uint8_t)board_in(b->p, RTC_PORT + 1, 1);
}

static void set_cmos(struct board *b, uint8_t index, uint8_t value)
{
	board_out(b->p, RTC_PORT, 1, index);
	board_out(b->p, RTC_PORT + 1, 1, value);
}

static void test_rtc(void **state)
{
	struct board a, b;

	board_start(&a);
	set_pin(&a, RTC_IRQ, 0x70);
	set_cmos(&a, 0x0b, 0x06); /* binary, 24 hours */
	set_cmos(&a, 0x09, 31);   /* in the year 2031 */
	set_cmos(&a, 0x40, 0x77);
	set_cmos(&a, 0x01, cmos(&a, 0x00));
	set_cmos(&a, 0x03, 0xff);
	set_cmos(&a, 0x05, 0xff);
	cmos(&a, 0x0c);
	set_cmos(&a, 0x0b, 0x26); /* alarm */
	board_out(a.p, RTC_PORT, 1, 0x40);
	move(&a, &b);
	assert_int_equal(board_in(b.p, RTC_PORT + 1, 1), 0x77);
	assert_int_equal(cmos(&b, 0x09), 31);
	assert_int_equal(board_interrupts(b.p), 0);
	/* A minute later the alarm has gone off, whoever looks first. */
	b.now += 60000000;
	assert_int_equal(cmos(&b, 0x0c) & 0x20, 0x20);
	board_end(&b);
}

static void test_acpi_pm(void **state)
{
	struct board a, b;

	board_start(&a);
	set_pin(&a, ACPI_SCI, 0x8050 | 1 << 15);
	board_out(a.p, ACPI_PM_PORT + 2, 2, 1 << 8);
	acpi_pm_power_button(a.pm);
	assert_int_equal(board_interrupts(a.p), 1);
	board_out(a.p, ACPI_PM_PORT + ACPI_PM1_CNT, 2, 0x1400);
	move(&a, &b);
	assert_int_equal(board_in(b.p, ACPI_PM_PORT, 2) & 1 << 8, 1 << 8);
	assert_int_equal(board_in(b.p, ACPI_PM_PORT + 2, 2), 1 << 8);
	assert_int_equal(board_in(b.p, ACPI_PM_PORT + ACPI_PM1_CNT, 2), 0x1401);
	/* Served, and the line falls. */
	board_out(b.p, ACPI_PM_PORT, 2, 1 << 8);
	board_eoi(b.p, 0x50);
	assert_int_equal(board_interrupts(b.p), 0);
	board_end(&b);
}

static void test_reset(void **state)
{
	struct board a, b;

	board_start(&a);
	board_out(a.p, RESET_PORT, 1, 0x02);
	move(&a, &b);
	assert_int_equal(board_in(b.p, RESET_PORT, 1), 0x02);
	assert_int_equal(b.resets, 0);
	board_out(b.p, RESET_PORT, 1, 0x06);
	assert_int_equal(b.resets, 1);
	board_end(&b);
}

/* Every byte of every section is another, with checksums that are right. What is taken must be bearable, and can be saved. */
static void test_hostile_values(void **state)
{
	struct form_writer w = {0};
	struct board a;

	board_start(&a);
	save(&a, &w);
	board_end(&a);
	for (size_t at = 0; at < w.size; at += at % 400 < 150 ? 1 : 61) {
		struct form_writer patched = {0}, again = {0};
		struct error err = {0};
		struct board b;

		form_put(&patched, w.bytes, w.size);
		patched.bytes[at] ^= 0xff;
		sections_seal(patched.bytes, patched.size);
		board_start(&b);
		if (load(&b, &patched, &err)) {
			assert_non_null(strstr(err.text, "section \""));
		} else {
			assert_int_equal(serial_receive(b.serial, (const uint8_t *)"x", 1), 1);
			cmos(&b, 0x0c);
			for (unsigned offset = 0; offset < 8; offset++)
				board_in(b.p, SERIAL_COM1 + offset, 1);
			save(&b, &again);
		}
		board_end(&b);
		free(patched.bytes);
		free(again.bytes);
	}
	free(w.bytes);
}

/* What another version or another program has written is told from what is damaged, with its place. */
static void test_foreign_sections(void **state)
{
	static const struct {
		size_t at;
		const char *what;
	} changes[] = {{0, "at byte 0: the section is missing"},
		       {8, "at byte 0: the section is missing"},
		       {12, "of a version that this Bulkhead does not know"},
		       {20, "checksum"},
		       {SECTION_HEADER, "checksum"}};
	struct form_writer w = {0};
	struct board b;

	board_start(&b);
	save(&b, &w);
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		struct error err = {0};

		w.bytes[changes[i].at] += 1;
		if (changes[i].at < SECTION_SIZE)
			sections_seal(w.bytes, w.size);
		assert_int_equal(load(&b, &w, &err), -EBADMSG);
		if (!strstr(err.text, changes[i].what) || !strstr(err.text, "section \"ioapic"))
			fail_msg("%s", err.text);
		w.bytes[changes[i].at] -= 1;
		sections_seal(w.bytes, w.size);
	}
	/* Cut off in the middle of the second one. */
	w.size = SECTION_HEADER + le32_get(w.bytes + SECTION_SIZE) + SECTION_HEADER + 5;
	for (unsigned i = 0; i < 2; i++) {
		struct error err = {0};

		assert_int_equal(load(&b, &w, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "section \"serial"));
		w.size -= 10; /* in its header */
	}
	board_end(&b);
	free(w.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ioapic),  cmocka_unit_test(test_serial), cmocka_unit_test(test_rtc),
	    cmocka_unit_test(test_acpi_pm), cmocka_unit_test(test_reset),  cmocka_unit_test(test_hostile_values),
	    cmocka_unit_test(test_foreign_sections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
