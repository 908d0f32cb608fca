/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chipset.h - the emulated parts of a PC that a guest meets before and beside VMBus: I/O APIC, serial
 * ports, clock with CMOS memory, ACPI power management, reset.
 *
 * Each part is an object of its own that claims its ports or pages of one partition. Which parts a
 * virtual machine is made of, and where, is for machine/ to say. There is no PIC, no PIT, no HPET,
 * no i8042 and no PCI bus here: as in a generation 2 virtual machine of Hyper-V, the ACPI tables do
 * not promise them, and their ports read as all ones, which is how a guest learns that none is there.
 *
 * Life: create all parts before partition_start(); destroy them after partition_stop(), timers and
 * I/O APIC last. A part keeps no reference to its configuration. There is no reset of single parts:
 * a machine that resets is taken down and built anew, with its partition.
 *
 * Threads: create and destroy belong to the set-up thread. Functions marked [any] may be called from
 * any thread at any time between. Callbacks marked [vp] come from a virtual processor's thread while
 * the part's own lock is held: they must be short, must not block, and must not call back into
 * the part that called them.
 *
 * Saved state: X_save() writes a part's state as a section (base/form.h), X_load() gives it to a part that was
 * just created the same way; what cannot be is the reader's error, after which the part must be destroyed. Only
 * while no VP runs, with the I/O APIC loaded before the parts that hang on it.
 *
 * Errors: negative errno, with the sentence in `err`. A guest cannot make any of this fail.
 */
#pragma once

#include "base/form.h"
#include "hypervisor/hypervisor.h"

/* --- timers: one thread that calls parts back at a time ----------------------------------------- */

struct timers;

int timers_create(struct timers **out, struct error *err);
void timers_destroy(struct timers *timers);

/* When it returns, no part is called back until the release; what is due then comes at once. Not from a callback. */
void timers_hold(struct timers *timers);
void timers_release(struct timers *timers);

/* --- I/O APIC ----------------------------------------------------------------------------------- */

/* Intel 82093AA with the EOI register of its successors (version 0x20), at 0xfec00000, 24 pins.
 * Source: 82093AA data sheet 3.0; ICH9 data sheet 13.5 (EOI register). */
struct ioapic;

#define IOAPIC_BASE 0xfec00000u
#define IOAPIC_SIZE 0x1000u
#define IOAPIC_PINS 24u

/* Takes the partition's EOI handler too. */
int ioapic_create(struct ioapic **out, struct partition *p, struct error *err);
void ioapic_destroy(struct ioapic *io);

void ioapic_save(struct ioapic *io, struct form_writer *w);
void ioapic_load(struct ioapic *io, struct form_reader *r);

/* [any] The level on pin `pin` (0 to 23; others are ignored). An edge-triggered pin sends its message when
 * the level rises, a level-triggered one while the level is high and no EOI is outstanding. */
void ioapic_set_irq(struct ioapic *io, unsigned pin, bool level);

/* Where a part sends its interrupt: a pin of an I/O APIC, or with a NULL `set` nowhere. `set` is [any]
 * and is called with the part's lock held. */
struct irq_line {
	void (*set)(void *controller, unsigned pin, bool level);
	void *controller;
	unsigned pin;
};

/* The line that ends at `pin` of `io`. */
struct irq_line ioapic_line(struct ioapic *io, unsigned pin);

/* --- serial port -------------------------------------------------------------------------------- */

/* National 16550A (FIFOs work; no pacing: a byte takes no time at any baud rate).
 * Source: PC16550D data sheet 8.0. */
struct serial;

#define SERIAL_COM1     0x3f8u
#define SERIAL_COM2     0x2f8u
#define SERIAL_PORTS    8u
#define SERIAL_COM1_IRQ 4u
#define SERIAL_COM2_IRQ 3u

struct serial_config {
	uint16_t port;
	const char *name; /* for reports; not copied */
	struct irq_line irq;
	/* [vp] or inside serial_output_ready(): the guest sends `size` bytes. Returns how many were
	 * taken. What was not taken stays in the transmitter, and the guest waits, until
	 * serial_output_ready(). NULL: nothing is connected, bytes vanish. */
	size_t (*output)(void *context, const uint8_t *bytes, size_t size);
	/* [vp] The input queue was full and has room again. May be NULL. */
	void (*input_room)(void *context);
	void *context;
};

int serial_create(struct serial **out, struct partition *p, const struct serial_config *config,
		  struct error *err);
void serial_destroy(struct serial *s);

/* `number` tells ports apart in the saved state. Whether the other end is there is not part of it. */
void serial_save(struct serial *s, struct form_writer *w, unsigned number);
void serial_load(struct serial *s, struct form_reader *r, unsigned number);

/* [any] Queue input for the guest; returns how many bytes were taken, which is less than `size` when
 * the queue (4 KiB) is full: `input_room` tells when to come again. */
size_t serial_receive(struct serial *s, const uint8_t *bytes, size_t size);

/* [any] How many bytes serial_receive() would take now. */
size_t serial_input_room(struct serial *s);

/* [any] The sink takes bytes again: pushes what is held back, through `output`. */
void serial_output_ready(struct serial *s);

/* [any] Whether the other end is there: carrier detect, clear to send, data set ready. A port begins
 * connected when it has an `output`. */
void serial_set_connected(struct serial *s, bool connected);

/* --- clock and CMOS memory ---------------------------------------------------------------------- */

/* Motorola MC146818 at ports 0x70 and 0x71 with 128 bytes; periodic, alarm and update interrupts.
 * Time of day is the host's, in UTC, plus what the guest set it apart by. Source: MC146818A data sheet. */
struct rtc;

#define RTC_PORT 0x70u
#define RTC_IRQ  8u

/* Index of the century byte, where the FADT must point. */
#define RTC_CENTURY 0x32u

struct rtc_config {
	struct timers *timers;
	struct irq_line irq;
	uint64_t memory_below_4g; /* bytes, for the size fields of CMOS memory */
	uint64_t memory_above_4g;
	/* Microseconds since 1970 UTC, [any]; NULL: the host's CLOCK_REALTIME. For tests. */
	int64_t (*now)(void *context);
	void *context;
};

int rtc_create(struct rtc **out, struct partition *p, const struct rtc_config *config, struct error *err);
void rtc_destroy(struct rtc *rtc);

/* The time of day goes on by the host's clock. */
void rtc_save(struct rtc *rtc, struct form_writer *w);
void rtc_load(struct rtc *rtc, struct form_reader *r);

/* --- ACPI power management ---------------------------------------------------------------------- */

/* The fixed hardware of ACPI: PM1a event and control blocks, PM timer (32 bits, 3.579545 MHz of partition
 * time), power button. ACPI mode is always on. Source: ACPI 6.4, 4.8.3. */
struct acpi_pm;

#define ACPI_PM_PORT  0x400u
#define ACPI_PM_PORTS 0x10u
#define ACPI_PM1_EVT  0x0u /* offsets of the blocks */
#define ACPI_PM1_CNT  0x4u
#define ACPI_PM_TMR   0x8u
#define ACPI_SCI      9u /* level triggered, active high */

/* SLP_TYP of soft-off, for the \_S5 object. */
#define ACPI_S5_TYPE 5u

struct acpi_pm_config {
	struct timers *timers;
	struct irq_line sci;
	void (*power_off)(void *context); /* [vp] The guest entered S5. Its VP runs on until it is stopped. */
	void *context;
};

int acpi_pm_create(struct acpi_pm **out, struct partition *p, const struct acpi_pm_config *config,
		   struct error *err);
void acpi_pm_destroy(struct acpi_pm *pm);

/* The partition's own state is loaded before: the PM timer counts its time. */
void acpi_pm_save(struct acpi_pm *pm, struct form_writer *w);
void acpi_pm_load(struct acpi_pm *pm, struct form_reader *r);

/* [any] Press and let go of the power button: the guest is asked to shut down. */
void acpi_pm_power_button(struct acpi_pm *pm);

/* --- reset and leftovers ------------------------------------------------------------------------ */

/* Every way in which a guest resets a PC: reset control register 0xcf9, pulse of the keyboard
 * controller (0xfe to 0x64), fast reset in port 0x92. Also the PCI configuration ports around 0xcf9 (no bus:
 * all ones). */
struct reset_control;

#define RESET_PORT  0xcf9u
#define RESET_VALUE 0x06u

struct reset_config {
	/* [vp] The guest asked for a reset. Its VP runs on until it is stopped. */
	void (*reset)(void *context);
	void *context;
};

int reset_control_create(struct reset_control **out, struct partition *p, const struct reset_config *config,
			 struct error *err);
void reset_control_destroy(struct reset_control *reset);
void reset_control_save(struct reset_control *reset, struct form_writer *w);
void reset_control_load(struct reset_control *reset, struct form_reader *r);

/* Exit port for bare test guests: a write of `v` to port 0xf4 ends the guest with code (v << 1) | 1. Beside it a port for each
 * pin of the I/O APIC, where QEMU's pc-testdev has them, sets its level: 0 or not. Never part of a machine unless it is
 * asked for. */
struct debug_exit;

#define DEBUG_EXIT_PORT  0xf4u
#define DEBUG_LINES_PORT 0x2000u

struct debug_exit_config {
	void (*exit)(void *context, uint32_t code); /* [vp] */
	void *context;
	struct ioapic *ioapic; /* NULL: no lines */
};

int debug_exit_create(struct debug_exit **out, struct partition *p, const struct debug_exit_config *config,
		      struct error *err);
void debug_exit_destroy(struct debug_exit *d);
