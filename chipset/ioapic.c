/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <pthread.h>

#include "chipset/chipset.h"

/* Memory mapped registers and the indices behind them (82093AA data sheet 3.1, 3.2). */
enum { WINDOW_INDEX = 0x00, WINDOW_DATA = 0x10, WINDOW_EOI = 0x40 };
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_REDIRECTION = 0x10 };

#define IOAPIC_VERSION 0x20u /* has the EOI register */

/* A redirection entry (82093AA data sheet 3.2.4). */
#define ENTRY_VECTOR         0xffull
#define ENTRY_DELIVERY_SHIFT 8
#define ENTRY_LOGICAL        (1ull << 11)
#define ENTRY_REMOTE_IRR     (1ull << 14)
#define ENTRY_LEVEL          (1ull << 15)
#define ENTRY_MASKED         (1ull << 16)
#define ENTRY_DESTINATION    56
/* What software can write; pin polarity is kept, but lines here mean "asserted" whatever it says. */
#define ENTRY_WRITABLE 0xff0000000001afffull

struct ioapic {
	struct partition *partition;
	pthread_mutex_t lock;
	uint8_t index;
	uint32_t id;
	uint32_t lines; /* a bit for each pin: the level that its part drives */
	uint64_t entries[IOAPIC_PINS];
};

/*
 * Messages that came due while the lock was held. They are sent after it is let go, so that a local APIC may
 * call the EOI handler from wherever it likes.
 */
struct outbox {
	unsigned count;
	struct interrupt_message messages[IOAPIC_PINS];
};

static void outbox_send(const struct outbox *outbox, struct partition *p)
{
	for (unsigned i = 0; i < outbox->count; i++)
		partition_assert_interrupt(p, &outbox->messages[i]);
}

static void ioapic_queue(struct ioapic *io, unsigned pin, struct outbox *outbox)
{
	uint64_t entry = io->entries[pin];

	outbox->messages[outbox->count++] = (struct interrupt_message){
	    .vector = (uint8_t)(entry & ENTRY_VECTOR),
	    .delivery = (enum interrupt_delivery)(entry >> ENTRY_DELIVERY_SHIFT & 7),
	    .logical = entry & ENTRY_LOGICAL,
	    .level = entry & ENTRY_LEVEL,
	    .pin = (uint8_t)pin,
	    .destination = (uint32_t)(entry >> ENTRY_DESTINATION),
	};
}

/* Send for a level-triggered pin if it is due. */
static void ioapic_serve_level(struct ioapic *io, unsigned pin, struct outbox *outbox)
{
	uint64_t entry = io->entries[pin];

	if (!(entry & ENTRY_LEVEL) || entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) || !(io->lines >> pin & 1))
		return;
	io->entries[pin] |= ENTRY_REMOTE_IRR;
	ioapic_queue(io, pin, outbox);
}

void ioapic_set_irq(struct ioapic *io, unsigned pin, bool level)
{
	struct outbox outbox = {0};
	bool rises;

	if (pin >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&io->lock);
	rises = level && !(io->lines >> pin & 1);
	io->lines = (io->lines & ~(1u << pin)) | (uint32_t)level << pin;
	if (io->entries[pin] & ENTRY_LEVEL)
		ioapic_serve_level(io, pin, &outbox);
	else if (rises && !(io->entries[pin] & ENTRY_MASKED))
		ioapic_queue(io, pin, &outbox); /* an edge while masked is lost (3.2.4, bit 16) */
	pthread_mutex_unlock(&io->lock);
	outbox_send(&outbox, io->partition);
}

static void ioapic_end_of_interrupt(struct ioapic *io, uint8_t vector, struct outbox *outbox)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t entry = io->entries[pin];

		if (!(entry & ENTRY_LEVEL) || (entry & ENTRY_VECTOR) != vector)
			continue;
		io->entries[pin] &= ~ENTRY_REMOTE_IRR;
		ioapic_serve_level(io, pin, outbox);
	}
}

static void ioapic_on_eoi(void *context, uint8_t vector)
{
	struct ioapic *io = context;
	struct outbox outbox = {0};

	pthread_mutex_lock(&io->lock);
	ioapic_end_of_interrupt(io, vector, &outbox);
	pthread_mutex_unlock(&io->lock);
	outbox_send(&outbox, io->partition);
}

static uint32_t ioapic_read_index(const struct ioapic *io)
{
	unsigned half = io->index - INDEX_REDIRECTION;

	switch (io->index) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return io->id << 24;
	case INDEX_VERSION:
		return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
	default:
		if (io->index < INDEX_REDIRECTION || half >= 2 * IOAPIC_PINS)
			return UINT32_MAX;
		return (uint32_t)(io->entries[half / 2] >> (half % 2 ? 32 : 0));
	}
}

static void ioapic_write_index(struct ioapic *io, uint32_t value, struct outbox *outbox)
{
	unsigned half = io->index - INDEX_REDIRECTION, pin = half / 2;
	uint64_t entry;

	if (io->index == INDEX_ID)
		io->id = value >> 24 & 15;
	if (io->index < INDEX_REDIRECTION || half >= 2 * IOAPIC_PINS)
		return;
	entry = io->entries[pin];
	if (half % 2)
		entry = (entry & UINT32_MAX) | (uint64_t)value << 32;
	else
		entry = (entry & ~(uint64_t)UINT32_MAX) | value;
	entry = (entry & ENTRY_WRITABLE) | (io->entries[pin] & ENTRY_REMOTE_IRR);
	if (!(entry & ENTRY_LEVEL))
		entry &= ~ENTRY_REMOTE_IRR;
	io->entries[pin] = entry;
	ioapic_serve_level(io, pin, outbox);
}

static uint64_t ioapic_read(void *device, uint64_t offset, unsigned size)
{
	struct ioapic *io = device;
	uint32_t value = 0;

	pthread_mutex_lock(&io->lock);
	if (offset == WINDOW_INDEX)
		value = io->index;
	else if (offset == WINDOW_DATA)
		value = ioapic_read_index(io);
	pthread_mutex_unlock(&io->lock);
	return size == 1 ? (uint8_t)value : size == 2 ? (uint16_t)value : value;
}

static void ioapic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *io = device;
	struct outbox outbox = {0};

	pthread_mutex_lock(&io->lock);
	if (offset == WINDOW_INDEX)
		io->index = (uint8_t)value;
	else if (offset == WINDOW_DATA && size >= 4)
		ioapic_write_index(io, (uint32_t)value, &outbox);
	else if (offset == WINDOW_EOI)
		ioapic_end_of_interrupt(io, (uint8_t)value, &outbox);
	pthread_mutex_unlock(&io->lock);
	outbox_send(&outbox, io->partition);
}

static const struct io_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write};

int ioapic_create(struct ioapic **out, struct partition *p, struct error *err)
{
	struct ioapic *io = calloc(1, sizeof(*io));
	int code;

	if (!io)
		return error_set(err, ENOMEM, "no memory for the I/O APIC");
	io->partition = p;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entries[pin] = ENTRY_MASKED;
	pthread_mutex_init(&io->lock, NULL);
	code = partition_add_mmio(p, IOAPIC_BASE, IOAPIC_SIZE, &ioapic_ops, io, "I/O APIC");
	if (code) {
		ioapic_destroy(io);
		return error_set(err, -code, "the I/O APIC cannot have its page at %#x", IOAPIC_BASE);
	}
	partition_set_eoi_handler(p, ioapic_on_eoi, io);
	*out = io;
	return 0;
}

void ioapic_destroy(struct ioapic *io)
{
	if (!io)
		return;
	pthread_mutex_destroy(&io->lock);
	free(io);
}

/* --- saved state -------------------------------------------------------------------------------- */

#define IOAPIC_SECTION         "ioapic"
#define IOAPIC_SECTION_VERSION 1u

static const struct form_field ioapic_fields[] = {
    FORM_FIELD(struct ioapic, index),
    FORM_FIELD(struct ioapic, id),
    FORM_FIELD(struct ioapic, lines),
    FORM_ARRAY(struct ioapic, entries),
};

void ioapic_save(struct ioapic *io, struct form_writer *w)
{
	size_t section = form_section_begin(w, IOAPIC_SECTION, 0, IOAPIC_SECTION_VERSION);

	pthread_mutex_lock(&io->lock);
	FORM_PUT(w, io, ioapic_fields);
	pthread_mutex_unlock(&io->lock);
	form_section_end(w, section);
}

static bool entry_possible(uint64_t entry)
{
	if (entry & ENTRY_REMOTE_IRR && !(entry & ENTRY_LEVEL))
		return false;
	return !(entry & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR));
}

void ioapic_load(struct ioapic *io, struct form_reader *r)
{
	struct form_reader section = form_section(r, IOAPIC_SECTION, 0, IOAPIC_SECTION_VERSION);
	bool possible;

	pthread_mutex_lock(&io->lock);
	FORM_GET(&section, io, ioapic_fields);
	possible = io->id <= 15 && !(io->lines >> IOAPIC_PINS);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		possible = possible && entry_possible(io->entries[pin]);
	pthread_mutex_unlock(&io->lock);
	if (!possible)
		form_bad(&section, "no I/O APIC can be in this state");
	form_section_done(r, &section);
}

/* --- lines -------------------------------------------------------------------------------------- */

static void ioapic_line_set(void *controller, unsigned pin, bool level)
{
	ioapic_set_irq(controller, pin, level);
}

struct irq_line ioapic_line(struct ioapic *io, unsigned pin)
{
	return (struct irq_line){.set = ioapic_line_set, .controller = io, .pin = pin};
}
