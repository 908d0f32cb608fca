/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <pthread.h>

#include "chipset/chipset.h"
#include "chipset/timers.h"

/* PM1 status and enable (ACPI 6.4, tables 4.11 and 4.12), control (table 4.13). */
enum {
	PM1_TIMER = 1 << 0,
	PM1_GLOBAL = 1 << 5,
	PM1_POWER_BUTTON = 1 << 8,
	PM1_SLEEP_BUTTON = 1 << 9,
	PM1_RTC = 1 << 10
};
#define PM1_EVENTS (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)
enum { CNT_SCI_ENABLE = 1 << 0, CNT_SLEEP_TYPE_SHIFT = 10, CNT_SLEEP = 1 << 13, CNT_WRITABLE = 0x1c02 };

#define PM_TIMER_HZ        3579545u
#define PM_TIMER_HALF_BITS 31 /* the status bit follows every change of the counter's top bit */
#define REFERENCE_HZ       10000000u

/* While the partition's time stands still, look again this often. */
#define RETRY_NS 10000000

struct acpi_pm {
	struct acpi_pm_config config;
	struct partition *partition;
	pthread_mutex_t lock;
	struct timer timer;
	uint16_t status, enable, control;
	uint64_t seen; /* the counter when status was last brought up to date */
};

static uint64_t pm_counter(const struct acpi_pm *pm)
{
	unsigned __int128 ticks = (unsigned __int128)partition_reference_time(pm->partition) * PM_TIMER_HZ;

	return (uint64_t)(ticks / REFERENCE_HZ);
}

/* Bring status, interrupt line and timer up to date. */
static void pm_refresh(struct acpi_pm *pm)
{
	uint64_t now = pm_counter(pm);

	if (now >> PM_TIMER_HALF_BITS != pm->seen >> PM_TIMER_HALF_BITS)
		pm->status |= PM1_TIMER;
	pm->seen = now;
	if (pm->config.sci.set)
		pm->config.sci.set(pm->config.sci.controller, pm->config.sci.pin,
				   pm->status & pm->enable & PM1_EVENTS);
	if (pm->enable & PM1_TIMER && !(pm->status & PM1_TIMER)) {
		uint64_t left = (1ull << PM_TIMER_HALF_BITS) - (now & ((1ull << PM_TIMER_HALF_BITS) - 1));
		int64_t wait = (int64_t)(left * 1000000000ull / PM_TIMER_HZ);

		timer_arm(&pm->timer, timer_now() + (wait < RETRY_NS ? RETRY_NS : wait));
	} else {
		timer_arm(&pm->timer, TIMER_NEVER);
	}
}

static void pm_fire(void *context)
{
	struct acpi_pm *pm = context;

	pthread_mutex_lock(&pm->lock);
	pm_refresh(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* The blocks lie side by side, so any access is a slice of their image. */
static uint64_t pm_read(void *device, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = device;
	uint8_t image[ACPI_PM_PORTS + 8] = {0};

	pthread_mutex_lock(&pm->lock);
	if (offset < ACPI_PM_TMR)
		pm_refresh(pm);
	le16_put(image + ACPI_PM1_EVT, pm->status);
	le16_put(image + ACPI_PM1_EVT + 2, pm->enable);
	le16_put(image + ACPI_PM1_CNT, pm->control | CNT_SCI_ENABLE);
	le32_put(image + ACPI_PM_TMR, (uint32_t)pm_counter(pm));
	pthread_mutex_unlock(&pm->lock);
	return le64_get(image + offset) & (UINT64_MAX >> (64 - 8 * size));
}

static uint16_t set_byte(uint16_t word, unsigned byte, uint8_t value)
{
	return (uint16_t)((word & ~(0xff << (8 * byte))) | value << (8 * byte));
}

/* Returns whether the guest entered soft-off. Other sleep states are not offered and do nothing. */
static bool pm_write_byte(struct acpi_pm *pm, uint64_t offset, uint8_t value)
{
	unsigned byte = offset & 1;

	switch (offset & ~1ull) {
	case ACPI_PM1_EVT:
		pm->status &= (uint16_t) ~(value << (8 * byte));
		return false;
	case ACPI_PM1_EVT + 2:
		pm->enable = set_byte(pm->enable, byte, value) & PM1_EVENTS;
		return false;
	case ACPI_PM1_CNT:
		pm->control = set_byte(pm->control, byte, value) & CNT_WRITABLE;
		return byte == 1 && value & CNT_SLEEP >> 8 &&
		       (pm->control >> CNT_SLEEP_TYPE_SHIFT & 7) == ACPI_S5_TYPE;
	default:
		return false;
	}
}

static void pm_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = device;
	bool off = false;

	pthread_mutex_lock(&pm->lock);
	pm_refresh(pm);
	for (unsigned i = 0; i < size; i++)
		off |= pm_write_byte(pm, offset + i, (uint8_t)(value >> (8 * i)));
	pm_refresh(pm);
	pthread_mutex_unlock(&pm->lock);
	if (off && pm->config.power_off)
		pm->config.power_off(pm->config.context);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write};

int acpi_pm_create(struct acpi_pm **out, struct partition *p, const struct acpi_pm_config *config,
		   struct error *err)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	int code;

	if (!pm)
		return error_set(err, ENOMEM, "no memory for ACPI power management");
	pm->config = *config;
	pm->partition = p;
	pthread_mutex_init(&pm->lock, NULL);
	timer_add(config->timers, &pm->timer, pm_fire, pm);
	code = partition_add_ports(p, ACPI_PM_PORT, ACPI_PM_PORTS, &pm_ops, pm, "ACPI power management");
	if (code) {
		acpi_pm_destroy(pm);
		return error_set(err, -code, "ACPI power management cannot have ports %#x to %#x",
				 ACPI_PM_PORT, ACPI_PM_PORT + ACPI_PM_PORTS - 1);
	}
	*out = pm;
	return 0;
}

void acpi_pm_destroy(struct acpi_pm *pm)
{
	if (!pm)
		return;
	timer_remove(&pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

#define PM_SECTION         "acpi pm"
#define PM_SECTION_VERSION 1u

static const struct form_field pm_fields[] = {
    FORM_FIELD(struct acpi_pm, status),
    FORM_FIELD(struct acpi_pm, enable),
    FORM_FIELD(struct acpi_pm, control),
    FORM_FIELD(struct acpi_pm, seen),
};

void acpi_pm_save(struct acpi_pm *pm, struct form_writer *w)
{
	size_t section = form_section_begin(w, PM_SECTION, 0, PM_SECTION_VERSION);

	pthread_mutex_lock(&pm->lock);
	FORM_PUT(w, pm, pm_fields);
	pthread_mutex_unlock(&pm->lock);
	form_section_end(w, section);
}

void acpi_pm_load(struct acpi_pm *pm, struct form_reader *r)
{
	struct form_reader section = form_section(r, PM_SECTION, 0, PM_SECTION_VERSION);

	pthread_mutex_lock(&pm->lock);
	FORM_GET(&section, pm, pm_fields);
	if ((pm->status | pm->enable) & ~PM1_EVENTS || pm->control & ~CNT_WRITABLE)
		form_bad(&section, "no ACPI hardware can be in this state");
	form_section_done(r, &section);
	if (!r->bad)
		pm_refresh(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->status |= PM1_POWER_BUTTON;
	pm_refresh(pm);
	pthread_mutex_unlock(&pm->lock);
}
