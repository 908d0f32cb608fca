/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts of devices on their way through the I/O APIC (82093AA data sheet 3.2.4; SDM volume 3, 11.8.5).
 * The serial port is a line that is raised and lowered at will; the clock one that rises by itself.
 */
#include "devices.h"

#define SERIAL_PIN 4u
#define CLOCK_PIN  8u
#define VECTOR     0x48u

enum { ENTRY_LOGICAL = 0x800, ENTRY_REMOTE_IRR = 0x4000, ENTRY_LEVEL = 0x8000, ENTRY_MASKED = 0x10000 };
enum { DELIVER_LOWEST = 0x100, DELIVER_NMI = 0x400 };

static volatile unsigned count;
static volatile bool was_level, was_remote;

static void set_entry_of(unsigned pin, uint32_t low)
{
	ioapic_write((uint8_t)(0x11 + 2 * pin), apic_read(APIC_ID) & 0xff000000);
	ioapic_write((uint8_t)(0x10 + 2 * pin), low);
}

static uint32_t entry_of(unsigned pin)
{
	return ioapic_read((uint8_t)(0x10 + 2 * pin));
}

/* The transmitter is empty: enabling that interrupt raises the line, reading the identification lowers it. */
static void line_up(void)
{
	outb(COM1 + 1, 2);
}

static void line_down(void)
{
	outb(COM1 + 1, 0);
	(void)inb(COM1 + 2);
}

static void begin(interrupt_fn handler, uint32_t low)
{
	while (!(inb(COM1 + 5) & 0x40))
		cpu_relax();
	line_down();
	count = 0;
	set_handler(VECTOR, handler);
	set_entry_of(SERIAL_PIN, low);
	outb(COM1 + 4, 8); /* the way to the pin is open */
}

/* Nothing more comes; all as it was. */
static void end(unsigned expected)
{
	interrupts_on();
	spin(500);
	interrupts_off();
	CHECK_EQ(count, expected);
	line_down();
	outb(COM1 + 4, 0);
	set_entry_of(SERIAL_PIN, ENTRY_MASKED);
	set_handler(VECTOR, NULL);
	CHECK(!apic_bit(APIC_ISR, VECTOR));
	CHECK(!apic_bit(APIC_IRR, VECTOR));
}

static void expect(unsigned total)
{
	interrupts_on();
	CHECK(wait_for(&count, total));
	interrupts_off();
}

static void on_edge(struct frame *frame)
{
	count++;
	was_level = apic_bit(APIC_TMR, VECTOR);
	was_remote = entry_of(SERIAL_PIN) & ENTRY_REMOTE_IRR;
	apic_eoi();
}

/* One for each rise, however long the line is up. */
void pin_edge(void)
{
	begin(on_edge, VECTOR);
	line_up();
	expect(1);
	CHECK(!was_level && !was_remote);
	interrupts_on();
	spin(300);
	interrupts_off();
	CHECK_EQ(count, 1);
	line_down();
	line_up();
	expect(2);
	/* Two rises before anybody looks are one interrupt. */
	line_down();
	line_up();
	line_down();
	line_up();
	CHECK(apic_bit(APIC_IRR, VECTOR));
	expect(3);
	end(3);
}

/* A rise while the pin is masked is lost. */
void pin_masked(void)
{
	begin(on_edge, ENTRY_MASKED | VECTOR);
	line_up();
	interrupts_on();
	spin(300);
	interrupts_off();
	CHECK_EQ(count, 0);
	CHECK_EQ(entry_of(SERIAL_PIN) & (ENTRY_MASKED | 0xff), ENTRY_MASKED | VECTOR);
	set_entry_of(SERIAL_PIN, VECTOR);
	line_down();
	line_up();
	expect(1);
	end(1);
}

/* The first time the line stays up over the EOI, so it comes again. */
static void on_level(struct frame *frame)
{
	count++;
	was_level = apic_bit(APIC_TMR, VECTOR);
	was_remote = entry_of(SERIAL_PIN) & ENTRY_REMOTE_IRR;
	if (count == 3)
		line_down();
	apic_eoi();
}

void pin_level(void)
{
	begin(on_level, ENTRY_LEVEL | VECTOR);
	line_up();
	expect(3);
	CHECK(was_level && was_remote);
	CHECK(!(entry_of(SERIAL_PIN) & ENTRY_REMOTE_IRR));
	/* And from the start. */
	count = 2;
	line_up();
	expect(3);
	/* While it is pending or in service nothing else is sent, though the line falls and rises. */
	count = 2;
	line_up();
	line_down();
	line_up();
	expect(3);
	end(3);
}

/* As operating systems do it that serve a device later: mask, EOI, and unmask when it is quiet. */
static void on_level_masked(struct frame *frame)
{
	count++;
	ioapic_write(0x10 + 2 * SERIAL_PIN, ENTRY_MASKED | ENTRY_LEVEL | VECTOR);
	apic_eoi();
}

void pin_level_masked(void)
{
	begin(on_level_masked, ENTRY_LEVEL | VECTOR);
	line_up();
	expect(1);
	interrupts_on();
	spin(300);
	interrupts_off();
	CHECK_EQ(count, 1);
	CHECK(!(entry_of(SERIAL_PIN) & ENTRY_REMOTE_IRR));
	set_entry_of(SERIAL_PIN, ENTRY_LEVEL | VECTOR); /* it is still up */
	expect(2);
	line_down();
	set_entry_of(SERIAL_PIN, ENTRY_LEVEL | VECTOR);
	end(2);
}

static void on_directed(struct frame *frame)
{
	count++;
	line_down();
	*(volatile uint32_t *)(IOAPIC + 0x40) = VECTOR;
	was_remote = entry_of(SERIAL_PIN) & ENTRY_REMOTE_IRR;
	apic_eoi();
}

/* The I/O APIC's own EOI register. */
void pin_directed_eoi(void)
{
	if ((ioapic_read(1) & 0xff) < 0x20) {
		skip("this I/O APIC has no EOI register");
		return;
	}
	begin(on_directed, ENTRY_LEVEL | VECTOR);
	line_up();
	expect(1);
	CHECK(!was_remote);
	end(1);
}

void pin_destinations(void)
{
	begin(on_edge, DELIVER_LOWEST | VECTOR);
	line_up();
	expect(1);
	line_down();
	/* By logical address, in the flat model. */
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 2u << 24);
	ioapic_write(0x11 + 2 * SERIAL_PIN, 2u << 24);
	ioapic_write(0x10 + 2 * SERIAL_PIN, ENTRY_LOGICAL | VECTOR);
	line_up();
	expect(2);
	line_down();
	ioapic_write(0x10 + 2 * SERIAL_PIN, ENTRY_LOGICAL | DELIVER_LOWEST | VECTOR);
	line_up();
	expect(3);
	line_down();
	ioapic_write(0x11 + 2 * SERIAL_PIN, 4u << 24); /* nobody's */
	line_up();
	end(3);
}

static void on_nmi(struct frame *frame)
{
	count++;
}

void pin_nmi(void)
{
	begin(NULL, DELIVER_NMI);
	set_handler(VEC_NMI, on_nmi);
	line_up();
	CHECK(wait_for(&count, 1)); /* interrupts are off */
	spin(300);
	CHECK_EQ(count, 1);
	set_handler(VEC_NMI, NULL);
	end(1);
}

/* --- the clock: an interrupt that somebody else than this processor brings about -------------------------
 */

static uint8_t clock_read(uint8_t index)
{
	outb(RTC_INDEX, index);
	return inb(RTC_DATA);
}

static void clock_write(uint8_t index, uint8_t value)
{
	outb(RTC_INDEX, index);
	outb(RTC_DATA, value);
}

static volatile uint8_t clock_flags;

static void on_clock(struct frame *frame)
{
	clock_flags = clock_read(0x0c); /* lowers the line */
	if (clock_flags & 0x80)
		count++;
	apic_eoi();
}

static void clock_ticks(uint32_t trigger)
{
	uint8_t b = clock_read(0x0b);

	count = 0;
	set_handler(VECTOR, on_clock);
	set_entry_of(CLOCK_PIN, trigger | VECTOR);
	(void)clock_read(0x0c);
	clock_write(0x0b, (uint8_t)(b | 0x40)); /* periodic, 1024 Hz */
	while (count < 10)
		halt_once();
	CHECK_EQ(clock_flags & 0xc0, 0xc0);
	clock_write(0x0b, b);
	(void)clock_read(0x0c);
	interrupts_on(); /* take what came meanwhile */
	spin(100);
	interrupts_off();
	set_entry_of(CLOCK_PIN, ENTRY_MASKED);
	set_handler(VECTOR, NULL);
}

void clock_interrupts(void)
{
	clock_ticks(0);
	clock_ticks(ENTRY_LEVEL);
}

/* ACPI's fixed registers (ACPI 6.4, 4.8.3): status bits are cleared by writing 1, enable bits hold what they
 * are given. */
void power_registers(void)
{
	uint16_t enable = (uint16_t)(inl(PM_BASE) >> 16);

	outl(PM_BASE, 0x0100ffff); /* all status off; power button on */
	CHECK_EQ(inl(PM_BASE) >> 16, 0x0100);
	CHECK_EQ(inl(PM_BASE) & 0x0721, 0);
	outl(PM_BASE, (uint32_t)enable << 16);
	CHECK_EQ(inl(PM_BASE + 4) & 1, 1); /* SCI_EN: ACPI mode is on */
}
