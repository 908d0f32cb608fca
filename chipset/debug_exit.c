/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>

#include "chipset/chipset.h"

#define DEBUG_EXIT_PORTS 4u

struct debug_exit {
	struct debug_exit_config config;
};

static uint64_t debug_exit_read(void *device, uint64_t offset, unsigned size)
{
	return UINT64_MAX;
}

static void debug_exit_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *d = device;

	if (offset == 0 && d->config.exit)
		d->config.exit(d->config.context, (uint32_t)(value << 1 | 1));
}

static const struct io_ops debug_exit_ops = {.read = debug_exit_read, .write = debug_exit_write};

static void debug_lines_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *d = device;

	(void)size;
	ioapic_set_irq(d->config.ioapic, (unsigned)offset, value != 0);
}

static const struct io_ops debug_lines_ops = {.read = debug_exit_read, .write = debug_lines_write};

int debug_exit_create(struct debug_exit **out, struct partition *p, const struct debug_exit_config *config,
		      struct error *err)
{
	struct debug_exit *d = calloc(1, sizeof(*d));
	int code;

	if (!d)
		return error_set(err, ENOMEM, "no memory for the exit port");
	d->config = *config;
	code = partition_add_ports(p, DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, &debug_exit_ops, d, "exit port");
	if (code) {
		debug_exit_destroy(d);
		return error_set(err, -code, "the exit port cannot have port %#x", DEBUG_EXIT_PORT);
	}
	if (config->ioapic)
		code = partition_add_ports(p, DEBUG_LINES_PORT, IOAPIC_PINS, &debug_lines_ops, d, "interrupt lines");
	if (code) {
		debug_exit_destroy(d);
		return error_set(err, -code, "the interrupt lines cannot have port %#x", DEBUG_LINES_PORT);
	}
	*out = d;
	return 0;
}

void debug_exit_destroy(struct debug_exit *d)
{
	free(d);
}
