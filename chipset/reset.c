/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdatomic.h>

#include "chipset/byte_ports.h"
#include "chipset/chipset.h"

#define PCI_CONFIG_PORT  0xcf8u
#define PCI_CONFIG_PORTS 8u
#define KEYBOARD_PORT    0x64u
#define FAST_PORT        0x92u

enum { CONTROL_RESET = 4, CONTROL_WRITABLE = 0x0e }; /* ICH9 data sheet 13.7.5 */
enum { FAST_RESET = 1, FAST_A20 = 2 };

struct reset_control {
	struct reset_config config;
	_Atomic uint8_t control; /* what 0xcf9 reads */
};

static void reset_now(const struct reset_control *r)
{
	if (r->config.reset)
		r->config.reset(r->config.context);
}

/* 0xcf8 to 0xcff: the reset control register in the middle of the PCI configuration ports, which only
 * answer accesses of their whole width, and here with "nothing there". */
static uint64_t control_read(void *device, uint64_t offset, unsigned size)
{
	struct reset_control *r = device;

	if (offset == RESET_PORT - PCI_CONFIG_PORT && size == 1)
		return atomic_load(&r->control);
	return UINT64_MAX;
}

static void control_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct reset_control *r = device;

	if (offset != RESET_PORT - PCI_CONFIG_PORT || size != 1)
		return;
	atomic_store(&r->control, (uint8_t)(value & CONTROL_WRITABLE & ~CONTROL_RESET));
	if (value & CONTROL_RESET)
		reset_now(r);
}

static uint64_t keyboard_read(void *device, uint64_t offset, unsigned size)
{
	return UINT64_MAX;
}

/* Commands 0xf0 to 0xff pulse the low output lines whose bits are 0; line 0 is the processor's reset. */
static void keyboard_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	if ((value & 0xf1) == 0xf0)
		reset_now(device);
}

static uint64_t fast_read(void *device, uint64_t offset, unsigned size)
{
	return FAST_A20;
}

static void fast_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	if (value & FAST_RESET)
		reset_now(device);
}

static const struct io_ops control_ops = {.read = control_read, .write = control_write};
static const struct io_ops keyboard_ops = {.read = keyboard_read, .write = keyboard_write};
static const struct io_ops fast_ops = {.read = fast_read, .write = fast_write};

static int claim(struct partition *p, uint16_t first, unsigned count, const struct io_ops *ops,
		 struct reset_control *r, const char *name, struct error *err)
{
	int code = partition_add_ports(p, first, count, ops, r, name);

	return code ? error_set(err, -code, "%s cannot have port %#x", name, first) : 0;
}

int reset_control_create(struct reset_control **out, struct partition *p, const struct reset_config *config,
			 struct error *err)
{
	struct reset_control *r = calloc(1, sizeof(*r));
	int code;

	if (!r)
		return error_set(err, ENOMEM, "no memory for the reset register");
	r->config = *config;
	code = claim(p, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, &control_ops, r, "reset control", err);
	if (!code)
		code = claim(p, KEYBOARD_PORT, 1, &keyboard_ops, r, "keyboard reset", err);
	if (!code)
		code = claim(p, FAST_PORT, 1, &fast_ops, r, "fast reset", err);
	if (code) {
		reset_control_destroy(r);
		return code;
	}
	*out = r;
	return 0;
}

void reset_control_destroy(struct reset_control *r)
{
	free(r);
}

#define RESET_SECTION         "reset"
#define RESET_SECTION_VERSION 1u

void reset_control_save(struct reset_control *r, struct form_writer *w)
{
	size_t section = form_section_begin(w, RESET_SECTION, 0, RESET_SECTION_VERSION);
	uint8_t control = atomic_load(&r->control);

	form_put(w, &control, sizeof(control));
	form_section_end(w, section);
}

void reset_control_load(struct reset_control *r, struct form_reader *from)
{
	struct form_reader section = form_section(from, RESET_SECTION, 0, RESET_SECTION_VERSION);
	const uint8_t *control = form_take(&section, 1);

	if (control && *control & ~(CONTROL_WRITABLE & ~CONTROL_RESET))
		form_bad(&section, "no reset register can be in this state");
	else if (control)
		atomic_store(&r->control, *control);
	form_section_done(from, &section);
}
