/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The I/O APIC, power management, reset and the exit port as a guest drives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "chipset/chipset.h"
#include "chipset/timers.h"
#include "tests/double/board.h"

struct parts {
	struct partition *p;
	struct timers *timers;
	struct ioapic *io;
	struct acpi_pm *pm;
	struct reset_control *reset;
	struct debug_exit *exit;
	unsigned power_offs, resets;
	uint32_t exit_code;
};

static void on_power_off(void *context)
{
	((struct parts *)context)->power_offs++;
}

static void on_reset(void *context)
{
	((struct parts *)context)->resets++;
}

static void on_exit_port(void *context, uint32_t code)
{
	((struct parts *)context)->exit_code = code;
}

static int set_up(void **state)
{
	struct parts *t = calloc(1, sizeof(*t));

	*state = t;
	t->p = board_create(2);
	assert_int_equal(timers_create(&t->timers, NULL), 0);
	assert_int_equal(ioapic_create(&t->io, t->p, NULL), 0);
	assert_int_equal(acpi_pm_create(&t->pm, t->p,
					&(struct acpi_pm_config){.timers = t->timers,
								 .sci = ioapic_line(t->io, ACPI_SCI),
								 .power_off = on_power_off,
								 .context = t},
					NULL),
			 0);
	assert_int_equal(reset_control_create(&t->reset, t->p, &(struct reset_config){on_reset, t}, NULL), 0);
	assert_int_equal(
	    debug_exit_create(&t->exit, t->p, &(struct debug_exit_config){on_exit_port, t, t->io}, NULL), 0);
	return 0;
}

static int tear_down(void **state)
{
	struct parts *t = *state;

	debug_exit_destroy(t->exit);
	reset_control_destroy(t->reset);
	acpi_pm_destroy(t->pm);
	ioapic_destroy(t->io);
	timers_destroy(t->timers);
	board_destroy(t->p);
	free(t);
	return 0;
}

static uint32_t io_read(struct parts *t, uint8_t index)
{
	board_mmio_write(t->p, IOAPIC_BASE, 4, index);
	return (uint32_t)board_mmio_read(t->p, IOAPIC_BASE + 0x10, 4);
}

static void io_write(struct parts *t, uint8_t index, uint32_t value)
{
	board_mmio_write(t->p, IOAPIC_BASE, 4, index);
	board_mmio_write(t->p, IOAPIC_BASE + 0x10, 4, value);
}

static void route(struct parts *t, unsigned pin, uint32_t low)
{
	io_write(t, (uint8_t)(0x11 + 2 * pin), 1u << 24);
	io_write(t, (uint8_t)(0x10 + 2 * pin), low);
}

#define LEVEL  0x8000u
#define MASKED 0x10000u
#define IRR    0x4000u

static void ioapic_registers(void **state)
{
	struct parts *t = *state;

	assert_int_equal(io_read(t, 1), 0x170020);
	io_write(t, 0, 0xff000000);
	assert_int_equal(io_read(t, 0), 0x0f000000);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		assert_int_equal(io_read(t, (uint8_t)(0x10 + 2 * pin)), MASKED);
	io_write(t, 0x10, 0xffffffff);
	assert_int_equal(io_read(t, 0x10), 0x1afff); /* delivery status and remote IRR are not software's */
	assert_int_equal(io_read(t, 0x40), 0xffffffff);
	assert_int_equal(io_read(t, 3), 0xffffffff);
}

static void ioapic_edge(void **state)
{
	struct parts *t = *state;
	struct interrupt_message m;

	ioapic_set_irq(t->io, 4, true);
	assert_int_equal(board_interrupts(t->p), 0);
	ioapic_set_irq(t->io, 4, false);
	route(t, 4, 0x931);
	assert_int_equal(board_interrupts(t->p), 0); /* the edge while masked is gone */
	ioapic_set_irq(t->io, 4, true);
	ioapic_set_irq(t->io, 4, true);
	assert_int_equal(board_interrupts(t->p), 1);
	m = board_last_interrupt(t->p);
	assert_int_equal(m.vector, 0x31);
	assert_int_equal(m.delivery, INTERRUPT_LOWEST_PRIORITY);
	assert_true(m.logical);
	assert_false(m.level);
	assert_int_equal(m.destination, 1);
	ioapic_set_irq(t->io, 4, false);
	ioapic_set_irq(t->io, 4, true);
	assert_int_equal(board_interrupts(t->p), 2);
	ioapic_set_irq(t->io, IOAPIC_PINS, true);
	ioapic_set_irq(t->io, UINT32_MAX, true);
	assert_int_equal(board_interrupts(t->p), 2);
}

static void ioapic_level(void **state)
{
	struct parts *t = *state;

	ioapic_set_irq(t->io, 10, true);
	route(t, 10, 0x40 | LEVEL);
	assert_int_equal(board_interrupts(t->p), 1); /* unmasked while high */
	assert_true(board_last_interrupt(t->p).level);
	assert_true(io_read(t, 0x10 + 20) & IRR);
	ioapic_set_irq(t->io, 10, false);
	ioapic_set_irq(t->io, 10, true);
	assert_int_equal(board_interrupts(t->p), 1); /* EOI is outstanding */
	board_eoi(t->p, 0x41);
	assert_int_equal(board_interrupts(t->p), 1);
	board_eoi(t->p, 0x40);
	assert_int_equal(board_interrupts(t->p), 2); /* still high */
	ioapic_set_irq(t->io, 10, false);
	board_mmio_write(t->p, IOAPIC_BASE + 0x40, 4, 0x40);
	assert_false(io_read(t, 0x10 + 20) & IRR);
	assert_int_equal(board_interrupts(t->p), 2);
	ioapic_set_irq(t->io, 10, true);
	assert_int_equal(board_interrupts(t->p), 3);
	/* Masked, then edge: remote IRR falls; back to level it sends again. */
	route(t, 10, 0x40 | LEVEL | MASKED);
	assert_true(io_read(t, 0x10 + 20) & IRR);
	route(t, 10, 0x40 | MASKED);
	assert_false(io_read(t, 0x10 + 20) & IRR);
	route(t, 10, 0x40 | LEVEL);
	assert_int_equal(board_interrupts(t->p), 4);
}

static void *toggle(void *context)
{
	for (unsigned i = 0; i < 20000; i++)
		ioapic_set_irq(context, 5, i & 1);
	return NULL;
}

static void ioapic_threads(void **state)
{
	struct parts *t = *state;
	pthread_t threads[2];

	route(t, 5, 0x50 | LEVEL);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, toggle, t->io);
	for (unsigned i = 0; i < 20000; i++)
		board_eoi(t->p, 0x50);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ioapic_set_irq(t->io, 5, false);
	board_eoi(t->p, 0x50);
	assert_false(io_read(t, 0x10 + 10) & IRR);
}

static void pm_power_button(void **state)
{
	struct parts *t = *state;

	route(t, ACPI_SCI, 0x60 | LEVEL);
	acpi_pm_power_button(t->pm);
	assert_int_equal(board_interrupts(t->p), 0);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 0x100);
	board_out(t->p, ACPI_PM_PORT, 2, 0x100);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 0);
	board_out(t->p, ACPI_PM_PORT + 2, 2, 0x121);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 2, 2), 0x121);
	acpi_pm_power_button(t->pm);
	assert_int_equal(board_interrupts(t->p), 1);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 4), 0x01210100);
	board_out(t->p, ACPI_PM_PORT, 2, 0x0001);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 0x100);
	board_out(t->p, ACPI_PM_PORT, 2, 0x0100);
	board_eoi(t->p, 0x60);
	assert_int_equal(board_interrupts(t->p), 1); /* the line fell with the status */
}

static void pm_timer(void **state)
{
	struct parts *t = *state;

	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 8, 4), 0);
	board_set_time(t->p, 10000000);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 8, 4), 3579545);
	/* A year: nothing wraps on the way to 32 bits. */
	board_set_time(t->p, 10000000ull * 31536000);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 8, 4), (uint32_t)(3579545ull * 31536000));
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 1);
	board_out(t->p, ACPI_PM_PORT, 2, 1);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 0);
}

static void pm_timer_interrupt(void **state)
{
	struct parts *t = *state;

	route(t, ACPI_SCI, 0x60 | LEVEL);
	board_set_time(t->p, 5999290000); /* some milliseconds before 2^31 ticks */
	board_out(t->p, ACPI_PM_PORT + 2, 2, 1);
	assert_int_equal(board_interrupts(t->p), 0);
	board_set_time(t->p, 6000000000);
	assert_true(board_wait_interrupt(t->p, 0));
	assert_int_equal(board_in(t->p, ACPI_PM_PORT, 2), 1);
}

static void pm_sleep(void **state)
{
	struct parts *t = *state;

	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 4, 2), 1); /* ACPI mode is on */
	board_out(t->p, ACPI_PM_PORT + 4, 2, 1 << 10 | 1);
	board_out(t->p, ACPI_PM_PORT + 4, 2, 1 << 10 | 1 << 13);
	assert_int_equal(t->power_offs, 0); /* S1 is not there */
	board_out(t->p, ACPI_PM_PORT + 4, 2, 5 << 10);
	assert_int_equal(t->power_offs, 0);
	board_out(t->p, ACPI_PM_PORT + 4, 2, 5 << 10 | 1 << 13);
	assert_int_equal(t->power_offs, 1);
	assert_int_equal(board_in(t->p, ACPI_PM_PORT + 4, 2), 5 << 10 | 1); /* SLP_EN reads as 0 */
	board_out(t->p, ACPI_PM_PORT + 5, 1, (5 << 10 | 1 << 13) >> 8);
	assert_int_equal(t->power_offs, 2);
}

static void reset_ways(void **state)
{
	struct parts *t = *state;

	board_out(t->p, 0xcf9, 1, 2);
	assert_int_equal(board_in(t->p, 0xcf9, 1), 2);
	board_out(t->p, 0xcf8, 4, 0x80000600); /* a configuration address is no reset */
	assert_int_equal(t->resets, 0);
	assert_int_equal(board_in(t->p, 0xcf8, 4), 0xffffffff);
	assert_int_equal(board_in(t->p, 0xcfc, 4), 0xffffffff);
	board_out(t->p, 0xcf9, 1, 6);
	assert_int_equal(t->resets, 1);
	assert_int_equal(board_in(t->p, 0x64, 1), 0xff);
	board_out(t->p, 0x64, 1, 0xd1);
	assert_int_equal(t->resets, 1);
	board_out(t->p, 0x64, 1, 0xfe);
	assert_int_equal(t->resets, 2);
	assert_int_equal(board_in(t->p, 0x92, 1), 2);
	board_out(t->p, 0x92, 1, 2);
	assert_int_equal(t->resets, 2);
	board_out(t->p, 0x92, 1, 3);
	assert_int_equal(t->resets, 3);
}

static void exit_port(void **state)
{
	struct parts *t = *state;

	board_out(t->p, 0xf4, 4, 0x10);
	assert_int_equal(t->exit_code, 0x21);
}

static void interrupt_lines(void **state)
{
	struct parts *t = *state;

	route(t, 11, 0x73);
	board_out(t->p, 0x200b, 4, 1);
	assert_int_equal(board_interrupts(t->p), 1);
	assert_int_equal(board_last_interrupt(t->p).vector, 0x73);
	board_out(t->p, 0x200b, 1, 0x80); /* it is up already */
	assert_int_equal(board_interrupts(t->p), 1);
	board_out(t->p, 0x200b, 4, 0);
	board_out(t->p, 0x200b, 2, 1);
	assert_int_equal(board_interrupts(t->p), 2);
	/* The last pin, and none behind it. */
	route(t, IOAPIC_PINS - 1, 0x74 | LEVEL);
	board_out(t->p, 0x2017, 1, 1);
	board_out(t->p, 0x2018, 1, 1);
	assert_int_equal(board_interrupts(t->p), 3);
	assert_int_equal(board_last_interrupt(t->p).vector, 0x74);
	assert_int_equal(board_in(t->p, 0x2017, 1), 0xff);
}

static void ports_taken(void **state)
{
	struct parts *t = *state;
	struct debug_exit *second;
	struct error err;

	assert_int_equal(debug_exit_create(&second, t->p, &(struct debug_exit_config){0}, &err), -17);
	assert_non_null(strstr(err.text, "0xf4"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static void count(void *context)
{
	sem_post(context);
}

/* Others go on meanwhile. */
static void timers_held(void **state)
{
	struct parts *t = *state;
	struct timer held, other;
	struct timers *others;
	sem_t of_held, of_other;
	int value;

	sem_init(&of_held, 0, 0);
	sem_init(&of_other, 0, 0);
	assert_int_equal(timers_create(&others, NULL), 0);
	timer_add(t->timers, &held, count, &of_held);
	timer_add(others, &other, count, &of_other);
	timers_hold(t->timers);
	timer_arm(&held, timer_now());
	timer_arm(&other, timer_now() + 20000000);
	sem_wait(&of_other);
	sem_getvalue(&of_held, &value);
	assert_int_equal(value, 0);
	timers_release(t->timers);
	sem_wait(&of_held);
	timer_remove(&held);
	timer_remove(&other);
	timers_destroy(others);
	sem_destroy(&of_held);
	sem_destroy(&of_other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(ioapic_registers), TEST(ioapic_edge), TEST(ioapic_level),       TEST(ioapic_threads),
	    TEST(pm_power_button),  TEST(pm_timer),    TEST(pm_timer_interrupt), TEST(pm_sleep),
	    TEST(reset_ways),       TEST(exit_port),   TEST(ports_taken),  TEST(timers_held),
	    TEST(interrupt_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
