/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/smbios.h"

#include <errno.h>
#include <string.h>

#include "machine/smbios_format.h"

#define TABLE_OFFSET 0x20u /* after the entry point, on a 16 byte boundary */

enum {
	CHARACTERISTICS_UNKNOWN = 1 << 3,
	EXTENSION_VIRTUAL_MACHINE = 1 << 4,
	WAKE_UP_POWER_SWITCH = 6,
	STATE_SAFE = 3,
	SECURITY_NONE = 3,
	CHASSIS_DESKTOP = 3
};

struct smbios_image {
	uint8_t bytes[LAYOUT_SMBIOS_END - LAYOUT_SMBIOS_BASE];
	uint32_t used;
	uint16_t structures;
	uint16_t largest;
};

/* Append a structure with its strings (NULL ends the list), and the zero that ends them. */
static void add_structure(struct smbios_image *image, struct smbios_header *header, uint8_t type,
			  uint8_t length, const char *const *strings)
{
	uint32_t start = image->used, size;

	header->type = type;
	header->length = length;
	header->handle = image->structures++;
	memcpy(image->bytes + image->used, header, length);
	image->used += length;
	if (!*strings)
		image->used++; /* no string at all: two zeros */
	for (; *strings; strings++) {
		memcpy(image->bytes + image->used, *strings, strlen(*strings) + 1);
		image->used += (uint32_t)strlen(*strings) + 1;
	}
	image->used++;
	size = image->used - start;
	if (size > image->largest)
		image->largest = (uint16_t)size;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
	uint8_t total = 0;

	while (size--)
		total = (uint8_t)(total + *bytes++);
	return total;
}

static void write_entry_point(struct smbios_image *image)
{
	struct smbios_entry_point entry = {
	    .anchor = {'_', 'S', 'M', '_'},
	    .length = sizeof(entry),
	    .major = 2,
	    .minor = 8,
	    .max_structure_size = image->largest,
	    .intermediate_anchor = {'_', 'D', 'M', 'I', '_'},
	    .table_length = (uint16_t)(image->used - TABLE_OFFSET),
	    .table_address = LAYOUT_SMBIOS_BASE + TABLE_OFFSET,
	    .structure_count = image->structures,
	    .bcd_revision = 0x28,
	};
	const size_t intermediate = offsetof(struct smbios_entry_point, intermediate_anchor);

	entry.intermediate_checksum =
	    (uint8_t)-sum((const uint8_t *)&entry + intermediate, sizeof(entry) - intermediate);
	entry.checksum = (uint8_t)-sum((const uint8_t *)&entry, sizeof(entry));
	memcpy(image->bytes, &entry, sizeof(entry));
}

int smbios_write_tables(struct partition *p, const struct guid *uuid, struct error *err)
{
	static const char *const bios_strings[] = {"Bulkhead", "Direct boot", "01/01/2025", NULL};
	static const char *const system_strings[] = {"Microsoft Corporation", "Virtual Machine", "Bulkhead",
						     NULL};
	static const char *const chassis_strings[] = {"Microsoft Corporation", NULL};
	static const char *const no_strings[] = {NULL};
	struct smbios_bios bios = {.vendor = 1,
				   .version = 2,
				   .release_date = 3,
				   .starting_segment = LAYOUT_SMBIOS_BASE >> 4,
				   .characteristics = CHARACTERISTICS_UNKNOWN,
				   .extension = {0, EXTENSION_VIRTUAL_MACHINE},
				   .controller_major = 0xff,
				   .controller_minor = 0xff};
	struct smbios_system system = {
	    .manufacturer = 1, .product = 2, .version = 3, .wake_up = WAKE_UP_POWER_SWITCH};
	struct smbios_chassis chassis = {.manufacturer = 1,
					 .type = CHASSIS_DESKTOP,
					 .boot_state = STATE_SAFE,
					 .power_state = STATE_SAFE,
					 .thermal_state = STATE_SAFE,
					 .security = SECURITY_NONE};
	struct smbios_header end;
	struct smbios_image image = {.used = TABLE_OFFSET};
	int code;

	memcpy(system.uuid, uuid->bytes, sizeof(system.uuid));
	add_structure(&image, &bios.header, SMBIOS_BIOS, sizeof(bios), bios_strings);
	add_structure(&image, &system.header, SMBIOS_SYSTEM, sizeof(system), system_strings);
	add_structure(&image, &chassis.header, SMBIOS_CHASSIS, sizeof(chassis), chassis_strings);
	add_structure(&image, &end, SMBIOS_END, sizeof(end), no_strings);
	write_entry_point(&image);
	code = partition_write(p, LAYOUT_SMBIOS_BASE, image.bytes, image.used);
	if (code)
		return error_set(err, -code, "cannot write the SMBIOS tables to guest memory at %#x",
				 LAYOUT_SMBIOS_BASE);
	return 0;
}
