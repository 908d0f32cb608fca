/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/machine.h"

#include <errno.h>
#include <string.h>

#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/smbios.h"

struct machine_port {
	struct machine *machine;
	unsigned number;
	struct serial *serial;
};

struct machine {
	struct partition *partition;
	struct machine_config config;
	struct timers *timers;
	struct ioapic *ioapic;
	struct rtc *rtc;
	struct acpi_pm *pm;
	struct reset_control *reset;
	struct debug_exit *exit;
	struct machine_port ports[MACHINE_SERIAL_PORTS];
};

static size_t port_output(void *context, const uint8_t *bytes, size_t size)
{
	const struct machine_port *port = context;
	const struct machine_config *config = &port->machine->config;

	return config->serial[port->number].output(config->context, port->number, bytes, size);
}

static void port_input_room(void *context)
{
	const struct machine_port *port = context;
	const struct machine_config *config = &port->machine->config;

	if (config->serial[port->number].input_room)
		config->serial[port->number].input_room(config->context, port->number);
}

static int add_memory(struct machine *m, struct error *err)
{
	uint64_t memory = m->config.memory, high = layout_high_memory(memory);
	int code;

	if (memory < MACHINE_MEMORY_MIN || memory > MACHINE_MEMORY_MAX || memory % MACHINE_MEMORY_ALIGN)
		return error_set(err, EINVAL,
				 "the machine cannot have %llu bytes of memory: give it %llu MiB to %llu "
				 "GiB, in whole MiB",
				 (unsigned long long)memory, MACHINE_MEMORY_MIN >> 20,
				 MACHINE_MEMORY_MAX >> 30);
	code = partition_add_memory(m->partition, 0, layout_low_memory(memory), err);
	if (!code && high)
		code = partition_add_memory(m->partition, LAYOUT_4G, high, err);
	return code;
}

static int add_serial_port(struct machine *m, unsigned number, struct error *err)
{
	static const struct {
		uint16_t port;
		uint8_t irq;
		const char *name;
	} places[MACHINE_SERIAL_PORTS] = {{SERIAL_COM1, SERIAL_COM1_IRQ, "COM1"},
					  {SERIAL_COM2, SERIAL_COM2_IRQ, "COM2"}};
	struct machine_port *port = &m->ports[number];
	const struct serial_config config = {
	    .port = places[number].port,
	    .name = places[number].name,
	    .irq = ioapic_line(m->ioapic, places[number].irq),
	    .output = m->config.serial[number].output ? port_output : NULL,
	    .input_room = port_input_room,
	    .context = port,
	};

	if (!m->config.serial[number].present)
		return 0;
	port->machine = m;
	port->number = number;
	return serial_create(&port->serial, m->partition, &config, err);
}

static int add_devices(struct machine *m, struct error *err)
{
	const struct machine_config *c = &m->config;
	int code = timers_create(&m->timers, err);

	code = code ? code : ioapic_create(&m->ioapic, m->partition, err);
	for (unsigned i = 0; !code && i < MACHINE_SERIAL_PORTS; i++)
		code = add_serial_port(m, i, err);
	if (!code) {
		const struct rtc_config rtc = {.timers = m->timers,
					       .irq = ioapic_line(m->ioapic, RTC_IRQ),
					       .memory_below_4g = layout_low_memory(c->memory),
					       .memory_above_4g = layout_high_memory(c->memory)};

		code = rtc_create(&m->rtc, m->partition, &rtc, err);
	}
	if (!code) {
		const struct acpi_pm_config pm = {.timers = m->timers,
						  .sci = ioapic_line(m->ioapic, ACPI_SCI),
						  .power_off = c->on_power_off,
						  .context = c->context};

		code = acpi_pm_create(&m->pm, m->partition, &pm, err);
	}
	if (!code) {
		const struct reset_config reset = {.reset = c->on_reset, .context = c->context};

		code = reset_control_create(&m->reset, m->partition, &reset, err);
	}
	if (!code && c->exit_port) {
		const struct debug_exit_config debug = {.exit = c->on_exit, .context = c->context, .ioapic = m->ioapic};

		code = debug_exit_create(&m->exit, m->partition, &debug, err);
	}
	return code;
}

int machine_create(struct machine **out, struct partition *p, const struct machine_config *config,
		   struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int code;

	if (!m)
		return error_set(err, ENOMEM, "no memory for the machine");
	m->partition = p;
	m->config = *config;
	code = add_memory(m, err);
	code = code ? code : add_devices(m, err);
	if (code) {
		machine_destroy(m);
		return code;
	}
	*out = m;
	return 0;
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	debug_exit_destroy(m->exit);
	reset_control_destroy(m->reset);
	acpi_pm_destroy(m->pm);
	rtc_destroy(m->rtc);
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		serial_destroy(m->ports[i].serial);
	ioapic_destroy(m->ioapic);
	timers_destroy(m->timers);
	free(m);
}

gpa_t machine_high_mmio_base(const struct machine *m)
{
	return layout_high_mmio_base(m->config.memory);
}

/* A file that is no kernel of ours: say what it looks like, so that the reader knows what to give instead. */
static int refuse_kernel(const struct boot_file *kernel, struct error *err)
{
	uint8_t magic[4] = {0};

	if (!kernel->size)
		return error_set(err, ENOEXEC, "%s is empty: give a Linux bzImage or a multiboot kernel",
				 kernel->name);
	if (boot_file_read(kernel, 0, magic, min_u64(kernel->size, sizeof(magic)), NULL))
		return error_set(err, EIO, "cannot read %s", kernel->name);
	if (!memcmp(magic, "\177ELF", 4))
		return error_set(err, ENOEXEC,
				 "%s is an ELF file without a multiboot header: for Linux give the bzImage "
				 "(/boot/vmlinuz-…), not vmlinux",
				 kernel->name);
	if (magic[0] == 0x1f && magic[1] == 0x8b)
		return error_set(err, ENOEXEC,
				 "%s is compressed with gzip and is no kernel as it is: unpack it first",
				 kernel->name);
	return error_set(err, ENOEXEC,
			 "%s is not a kernel: it is neither a Linux bzImage (/boot/vmlinuz-…) nor has it a "
			 "multiboot header",
			 kernel->name);
}

int machine_load(struct machine *m, const struct boot_config *boot, struct error *err)
{
	struct boot_target target = {.partition = m->partition,
				     .memory = m->config.memory,
				     .low_memory = layout_low_memory(m->config.memory)};
	struct acpi_config acpi = {.processors = partition_vp_count(m->partition),
				   .high_mmio_base = layout_high_mmio_base(m->config.memory)};
	int code;

	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		acpi.serial_present[i] = m->config.serial[i].present;
	code = acpi_write_tables(m->partition, &acpi, &target.rsdp, err);
	code = code ? code : smbios_write_tables(m->partition, &m->config.uuid, err);
	if (code)
		return code;
	if (linux_recognise(&boot->kernel))
		return linux_load(&target, boot, err);
	if (multiboot_recognise(&boot->kernel))
		return multiboot_load(&target, boot, err);
	return refuse_kernel(&boot->kernel, err);
}

/* --- saved state ------------------------------------------------------------------------------------ */

#define MACHINE_SECTION         "machine"
#define MACHINE_SECTION_VERSION 1u

/* What has to be the same where the state goes on. */
struct machine_shape {
	uint64_t memory;
	bool serial_0, serial_1, exit_port;
};

static const struct form_field shape_fields[] = {
    FORM_FIELD(struct machine_shape, memory),
    FORM_FLAG(struct machine_shape, serial_0),
    FORM_FLAG(struct machine_shape, serial_1),
    FORM_FLAG(struct machine_shape, exit_port),
};
_Static_assert(MACHINE_SERIAL_PORTS == 2, "every port has its line above");

static struct machine_shape shape_of(const struct machine *m)
{
	return (struct machine_shape){.memory = m->config.memory,
				      .serial_0 = m->config.serial[0].present,
				      .serial_1 = m->config.serial[1].present,
				      .exit_port = m->config.exit_port};
}

void machine_hold(struct machine *m)
{
	timers_hold(m->timers);
}

void machine_release(struct machine *m)
{
	timers_release(m->timers);
}

void machine_save(struct machine *m, struct form_writer *w)
{
	struct machine_shape shape = shape_of(m);
	size_t section = form_section_begin(w, MACHINE_SECTION, 0, MACHINE_SECTION_VERSION);

	FORM_PUT(w, &shape, shape_fields);
	form_section_end(w, section);
	ioapic_save(m->ioapic, w);
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		if (m->ports[i].serial)
			serial_save(m->ports[i].serial, w, i);
	rtc_save(m->rtc, w);
	acpi_pm_save(m->pm, w);
	reset_control_save(m->reset, w);
}

static int check_shape(const struct machine *m, const struct machine_shape *saved, struct error *err)
{
	struct machine_shape own = shape_of(m);

	if (saved->memory != own.memory)
		return error_set(err, EINVAL,
				 "the saved machine has %llu MiB of memory and this one %llu MiB: give it the same",
				 (unsigned long long)(saved->memory >> 20),
				 (unsigned long long)(own.memory >> 20));
	if (saved->serial_0 != own.serial_0 || saved->serial_1 != own.serial_1)
		return error_set(err, EINVAL,
				 "the saved machine has other serial ports (COM1 %s, COM2 %s): give it the same",
				 saved->serial_0 ? "there" : "missing", saved->serial_1 ? "there" : "missing");
	if (saved->exit_port != own.exit_port)
		return error_set(err, EINVAL, "the saved machine was started %s the exit port of test kernels",
				 saved->exit_port ? "with" : "without");
	return 0;
}

int machine_load_state(struct machine *m, struct form_reader *r, struct error *err)
{
	struct form_reader section = form_section(r, MACHINE_SECTION, 0, MACHINE_SECTION_VERSION);
	struct machine_shape shape = {0};
	int code;

	FORM_GET(&section, &shape, shape_fields);
	form_section_done(r, &section);
	code = r->bad ? 0 : check_shape(m, &shape, err);
	if (code || r->bad)
		return code;
	ioapic_load(m->ioapic, r);
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		if (m->ports[i].serial)
			serial_load(m->ports[i].serial, r, i);
	rtc_load(m->rtc, r);
	acpi_pm_load(m->pm, r);
	reset_control_load(m->reset, r);
	return 0;
}

/* --- while it runs ---------------------------------------------------------------------------------- */

void machine_power_button(struct machine *m)
{
	acpi_pm_power_button(m->pm);
}

static struct serial *port_of(const struct machine *m, unsigned port)
{
	return port < MACHINE_SERIAL_PORTS ? m->ports[port].serial : NULL;
}

size_t machine_serial_receive(struct machine *m, unsigned port, const uint8_t *bytes, size_t size)
{
	struct serial *serial = port_of(m, port);

	return serial ? serial_receive(serial, bytes, size) : 0;
}

size_t machine_serial_input_room(struct machine *m, unsigned port)
{
	struct serial *serial = port_of(m, port);

	return serial ? serial_input_room(serial) : 0;
}

void machine_serial_output_ready(struct machine *m, unsigned port)
{
	struct serial *serial = port_of(m, port);

	if (serial)
		serial_output_ready(serial);
}

void machine_serial_set_connected(struct machine *m, unsigned port, bool connected)
{
	struct serial *serial = port_of(m, port);

	if (serial)
		serial_set_connected(serial, connected);
}
