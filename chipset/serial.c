/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "chipset/byte_ports.h"
#include "chipset/chipset.h"

#define FIFO_SIZE  16u
#define QUEUE_SIZE 4096u

/* Registers by offset (PC16550D data sheet, table II). */
enum {
	REG_DATA = 0,
	REG_IER = 1,
	REG_IIR = 2,
	REG_FCR = 2,
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCRATCH = 7
};

enum { IER_RECEIVE = 1, IER_TRANSMIT = 2, IER_LINE = 4, IER_MODEM = 8 };
enum {
	IIR_MODEM = 0,
	IIR_NONE = 1,
	IIR_TRANSMIT = 2,
	IIR_RECEIVE = 4,
	IIR_LINE = 6,
	IIR_TIMEOUT = 0xc,
	IIR_FIFOS = 0xc0
};
enum { FCR_ENABLE = 1, FCR_CLEAR_RECEIVE = 2, FCR_CLEAR_TRANSMIT = 4 };
enum { LCR_DIVISOR = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16, MCR_WRITABLE = 0x1f };
enum { LSR_READY = 1, LSR_OVERRUN = 2, LSR_ERRORS = 0x1e, LSR_HOLDING_EMPTY = 0x20, LSR_EMPTY = 0x40 };
enum {
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RING = 0x40,
	MSR_DCD = 0x80,
	MSR_DELTAS = 0x0f,
	MSR_RING_DELTA = 4
};

struct fifo {
	uint8_t bytes[FIFO_SIZE];
	unsigned first, count;
};

struct serial {
	struct serial_config config;
	pthread_mutex_t lock;

	uint8_t ier, fcr, lcr, mcr, msr, scratch;
	uint8_t lsr_errors;
	uint16_t divisor;
	bool transmit_interrupt; /* the holding register ran empty and nobody has been told */
	bool connected;
	bool irq;

	struct fifo receive, transmit;
	bool room_wanted; /* serial_receive() had to refuse bytes */
	unsigned queue_first, queue_count;
	uint8_t queue[QUEUE_SIZE]; /* input that has not reached the FIFO */
};

static void fifo_put(struct fifo *f, uint8_t byte)
{
	f->bytes[(f->first + f->count++) % FIFO_SIZE] = byte;
}

static uint8_t fifo_get(struct fifo *f)
{
	uint8_t byte = f->bytes[f->first];

	f->first = (f->first + 1) % FIFO_SIZE;
	f->count--;
	return byte;
}

/* How many bytes either FIFO holds: with FIFOs off there is one holding register. */
static unsigned serial_depth(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static uint8_t serial_interrupt_id(const struct serial *s)
{
	static const uint8_t triggers[4] = {1, 4, 8, 14};
	unsigned trigger = s->fcr & FCR_ENABLE ? triggers[s->fcr >> 6] : 1;

	if (s->ier & IER_LINE && s->lsr_errors)
		return IIR_LINE;
	/* No pacing: the four character times after which a FIFO below its trigger is reported are over at
	 * once. */
	if (s->ier & IER_RECEIVE && s->receive.count)
		return s->receive.count >= trigger ? IIR_RECEIVE : IIR_TIMEOUT;
	if (s->ier & IER_TRANSMIT && s->transmit_interrupt)
		return IIR_TRANSMIT;
	if (s->ier & IER_MODEM && s->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

/* OUT2 opens the way from the chip to the interrupt controller on a PC; loopback takes the pin away. */
static void serial_update_irq(struct serial *s)
{
	bool level = serial_interrupt_id(s) != IIR_NONE && (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

	if (level == s->irq)
		return;
	s->irq = level;
	if (s->config.irq.set)
		s->config.irq.set(s->config.irq.controller, s->config.irq.pin, level);
}

/* Move queued input on into the FIFO, and tell the feeder when there is room where there was none. */
static void serial_refill(struct serial *s)
{
	while (!(s->mcr & MCR_LOOP) && s->queue_count && s->receive.count < serial_depth(s)) {
		fifo_put(&s->receive, s->queue[s->queue_first]);
		s->queue_first = (s->queue_first + 1) % QUEUE_SIZE;
		s->queue_count--;
	}
	if (s->room_wanted && s->queue_count <= QUEUE_SIZE / 2) {
		s->room_wanted = false;
		if (s->config.input_room)
			s->config.input_room(s->config.context);
	}
}

static void serial_set_modem_lines(struct serial *s)
{
	uint8_t lines = 0, changed;

	if (s->mcr & MCR_LOOP) {
		lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			(s->mcr & MCR_OUT1 ? MSR_RING : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	} else if (s->connected) {
		lines = MSR_CTS | MSR_DSR | MSR_DCD;
	}
	changed = (uint8_t)((s->msr ^ lines) >> 4);
	/* Ring counts only when it ends (8.6.6, TERI). */
	if (lines & MSR_RING)
		changed &= (uint8_t)~MSR_RING_DELTA;
	s->msr = (uint8_t)(lines | (s->msr & MSR_DELTAS) | changed);
}

/* Give the transmitter's bytes to the sink. What it does not take keeps the transmitter busy. */
static void serial_push(struct serial *s)
{
	uint8_t bytes[FIFO_SIZE];
	size_t taken = s->transmit.count;

	if (!s->transmit.count)
		return;
	for (unsigned i = 0; i < s->transmit.count; i++)
		bytes[i] = s->transmit.bytes[(s->transmit.first + i) % FIFO_SIZE];
	if (s->config.output)
		taken = s->config.output(s->config.context, bytes, s->transmit.count);
	if (taken > s->transmit.count)
		taken = s->transmit.count;
	s->transmit.first = (s->transmit.first + (unsigned)taken) % FIFO_SIZE;
	s->transmit.count -= (unsigned)taken;
	if (!s->transmit.count)
		s->transmit_interrupt = true;
}

static void serial_transmit(struct serial *s, uint8_t byte)
{
	s->transmit_interrupt = false;
	serial_update_irq(s);
	if (s->mcr & MCR_LOOP) {
		if (s->receive.count < serial_depth(s))
			fifo_put(&s->receive, byte);
		else
			s->lsr_errors |= LSR_OVERRUN;
		s->transmit_interrupt = true;
		return;
	}
	/* A guest that writes without asking whether there is room loses the byte. */
	if (s->transmit.count < serial_depth(s))
		fifo_put(&s->transmit, byte);
	serial_push(s);
}

static void serial_write_fcr(struct serial *s, uint8_t value)
{
	bool switched = (value ^ s->fcr) & FCR_ENABLE;

	if (switched || value & FCR_CLEAR_RECEIVE)
		s->receive.count = 0;
	if ((switched || value & FCR_CLEAR_TRANSMIT) && s->transmit.count) {
		s->transmit.count = 0;
		s->transmit_interrupt = true;
	}
	/* The other bits do nothing while FIFOs are off (8.5). */
	s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | 0xc0) : 0;
}

static void serial_write_ier(struct serial *s, uint8_t value)
{
	uint8_t enabled = (uint8_t)(value & ~s->ier);

	s->ier = value & 0x0f;
	/* Enabling it reports an empty transmitter at once. */
	if (enabled & IER_TRANSMIT && !s->transmit.count)
		s->transmit_interrupt = true;
}

static uint8_t serial_read_iir(struct serial *s)
{
	uint8_t id = serial_interrupt_id(s);

	if (id == IIR_TRANSMIT)
		s->transmit_interrupt = false;
	return (uint8_t)(id | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0));
}

static uint8_t serial_read_lsr(struct serial *s)
{
	uint8_t value = s->lsr_errors;

	if (s->receive.count)
		value |= LSR_READY;
	if (!s->transmit.count)
		value |= LSR_HOLDING_EMPTY | LSR_EMPTY;
	s->lsr_errors = 0;
	return value;
}

static uint8_t serial_read_msr(struct serial *s)
{
	uint8_t value = s->msr;

	s->msr &= (uint8_t)~MSR_DELTAS;
	return value;
}

static uint8_t serial_read_register(struct serial *s, uint64_t offset)
{
	bool divisor = s->lcr & LCR_DIVISOR;

	switch (offset) {
	case REG_DATA:
		if (divisor)
			return (uint8_t)s->divisor;
		return s->receive.count ? fifo_get(&s->receive) : 0;
	case REG_IER:
		return divisor ? (uint8_t)(s->divisor >> 8) : s->ier;
	case REG_IIR:
		return serial_read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return serial_read_lsr(s);
	case REG_MSR:
		return serial_read_msr(s);
	default:
		return s->scratch;
	}
}

static void serial_write_register(struct serial *s, uint64_t offset, uint8_t value)
{
	bool divisor = s->lcr & LCR_DIVISOR;

	switch (offset) {
	case REG_DATA:
		if (divisor)
			s->divisor = (uint16_t)((s->divisor & 0xff00) | value);
		else
			serial_transmit(s, value);
		break;
	case REG_IER:
		if (divisor)
			s->divisor = (uint16_t)((s->divisor & 0x00ff) | value << 8);
		else
			serial_write_ier(s, value);
		break;
	case REG_FCR:
		serial_write_fcr(s, value);
		break;
	case REG_LCR:
		s->lcr = value;
		break;
	case REG_MCR:
		s->mcr = value & MCR_WRITABLE;
		serial_set_modem_lines(s);
		break;
	case REG_SCRATCH:
		s->scratch = value;
		break;
	default: /* LSR and MSR are for reading */
		break;
	}
}

static uint8_t serial_read_byte(void *device, uint64_t offset)
{
	struct serial *s = device;
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	value = serial_read_register(s, offset);
	serial_refill(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void serial_write_byte(void *device, uint64_t offset, uint8_t value)
{
	struct serial *s = device;

	pthread_mutex_lock(&s->lock);
	serial_write_register(s, offset, value);
	serial_refill(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static uint64_t serial_read(void *device, uint64_t offset, unsigned size)
{
	return bytes_read(serial_read_byte, device, offset, size);
}

static void serial_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	bytes_write(serial_write_byte, device, offset, size, value);
}

static const struct io_ops serial_ops = {.read = serial_read, .write = serial_write};

int serial_create(struct serial **out, struct partition *p, const struct serial_config *config,
		  struct error *err)
{
	struct serial *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return error_set(err, ENOMEM, "no memory for serial port %s", config->name);
	s->config = *config;
	s->divisor = 1;
	s->lcr = 3;
	s->connected = config->output != NULL;
	pthread_mutex_init(&s->lock, NULL);
	serial_set_modem_lines(s);
	s->msr &= (uint8_t)~MSR_DELTAS;
	code = partition_add_ports(p, config->port, SERIAL_PORTS, &serial_ops, s, config->name);
	if (code) {
		serial_destroy(s);
		return error_set(err, -code, "serial port %s cannot have ports %#x to %#x", config->name,
				 config->port, config->port + SERIAL_PORTS - 1);
	}
	*out = s;
	return 0;
}

void serial_destroy(struct serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* --- saved state -------------------------------------------------------------------------------- */

#define SERIAL_SECTION         "serial"
#define SERIAL_SECTION_VERSION 1u

static const struct form_field serial_fields[] = {
    FORM_FIELD(struct serial, ier),
    FORM_FIELD(struct serial, fcr),
    FORM_FIELD(struct serial, lcr),
    FORM_FIELD(struct serial, mcr),
    FORM_FIELD(struct serial, msr),
    FORM_FIELD(struct serial, scratch),
    FORM_FIELD(struct serial, lsr_errors),
    FORM_FIELD(struct serial, divisor),
    FORM_FLAG(struct serial, transmit_interrupt),
    FORM_FLAG(struct serial, irq),
    FORM_ARRAY(struct serial, receive.bytes),
    FORM_FIELD(struct serial, receive.first),
    FORM_FIELD(struct serial, receive.count),
    FORM_ARRAY(struct serial, transmit.bytes),
    FORM_FIELD(struct serial, transmit.first),
    FORM_FIELD(struct serial, transmit.count),
    FORM_FIELD(struct serial, queue_first),
    FORM_FIELD(struct serial, queue_count),
    FORM_ARRAY(struct serial, queue),
};

void serial_save(struct serial *s, struct form_writer *w, unsigned number)
{
	size_t section = form_section_begin(w, SERIAL_SECTION, number, SERIAL_SECTION_VERSION);

	pthread_mutex_lock(&s->lock);
	FORM_PUT(w, s, serial_fields);
	pthread_mutex_unlock(&s->lock);
	form_section_end(w, section);
}

static bool fifo_possible(const struct fifo *f)
{
	return f->first < FIFO_SIZE && f->count <= FIFO_SIZE;
}

static bool serial_possible(const struct serial *s)
{
	bool registers = s->ier <= 0x0f && !(s->fcr & ~(FCR_ENABLE | 0xc0)) &&
			 (s->fcr & FCR_ENABLE || !s->fcr) && !(s->mcr & ~MCR_WRITABLE) &&
			 !(s->lsr_errors & ~LSR_ERRORS);

	return registers && fifo_possible(&s->receive) && fifo_possible(&s->transmit) &&
	       s->queue_first < QUEUE_SIZE && s->queue_count <= QUEUE_SIZE;
}

void serial_load(struct serial *s, struct form_reader *r, unsigned number)
{
	struct form_reader section = form_section(r, SERIAL_SECTION, number, SERIAL_SECTION_VERSION);

	pthread_mutex_lock(&s->lock);
	FORM_GET(&section, s, serial_fields);
	if (!serial_possible(s)) {
		form_bad(&section, "no serial port can be in this state");
		s->receive = s->transmit = (struct fifo){0};
		s->queue_first = s->queue_count = 0;
		s->fcr = 0;
	}
	pthread_mutex_unlock(&s->lock);
	form_section_done(r, &section);
}

/* --- the other end ------------------------------------------------------------------------------ */

size_t serial_receive(struct serial *s, const uint8_t *bytes, size_t size)
{
	size_t taken = 0;

	pthread_mutex_lock(&s->lock);
	while (taken < size && s->queue_count < QUEUE_SIZE)
		s->queue[(s->queue_first + s->queue_count++) % QUEUE_SIZE] = bytes[taken++];
	s->room_wanted = taken < size;
	serial_refill(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return taken;
}

size_t serial_input_room(struct serial *s)
{
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = QUEUE_SIZE - s->queue_count;
	s->room_wanted = s->room_wanted || !room;
	pthread_mutex_unlock(&s->lock);
	return room;
}

void serial_output_ready(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	serial_push(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

void serial_set_connected(struct serial *s, bool connected)
{
	pthread_mutex_lock(&s->lock);
	s->connected = connected;
	serial_set_modem_lines(s);
	serial_update_irq(s);
	pthread_mutex_unlock(&s->lock);
}
