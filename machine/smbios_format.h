/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * smbios_format.h - SMBIOS entry point and structures as they lie in memory: System Management BIOS
 * Reference Specification 2.8 (DSP0134), section numbers beside them.
 */
#pragma once

#include <stdint.h>

struct smbios_entry_point { /* 5.2.1 */
	char anchor[4];
	uint8_t checksum;
	uint8_t length;
	uint8_t major, minor;
	uint16_t max_structure_size;
	uint8_t revision;
	uint8_t formatted[5];
	char intermediate_anchor[5];
	uint8_t intermediate_checksum;
	uint16_t table_length;
	uint32_t table_address;
	uint16_t structure_count;
	uint8_t bcd_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct smbios_entry_point) == 0x1f, "SMBIOS entry point");

struct smbios_header { /* 6.1.2 */
	uint8_t type;
	uint8_t length;
	uint16_t handle;
} __attribute__((packed));
_Static_assert(sizeof(struct smbios_header) == 4, "SMBIOS structure header");

enum { SMBIOS_BIOS = 0, SMBIOS_SYSTEM = 1, SMBIOS_CHASSIS = 3, SMBIOS_END = 127 };

/* In all structures a string field holds the number, from 1, of a string after the structure; 0 for none. */
struct smbios_bios { /* 7.1 */
	struct smbios_header header;
	uint8_t vendor, version;
	uint16_t starting_segment;
	uint8_t release_date;
	uint8_t rom_size;
	uint64_t characteristics; /* bit 3: characteristics are not supported */
	uint8_t extension[2];     /* 7.1.2.2: byte 2 bit 4: the table describes a virtual machine */
	uint8_t major, minor, controller_major, controller_minor;
} __attribute__((packed));
_Static_assert(sizeof(struct smbios_bios) == 24, "SMBIOS type 0");

struct smbios_system { /* 7.2 */
	struct smbios_header header;
	uint8_t manufacturer, product, version, serial_number;
	uint8_t uuid[16];
	uint8_t wake_up;
	uint8_t sku, family;
} __attribute__((packed));
_Static_assert(sizeof(struct smbios_system) == 27, "SMBIOS type 1");

struct smbios_chassis { /* 7.4 */
	struct smbios_header header;
	uint8_t manufacturer;
	uint8_t type; /* 3: desktop, as Hyper-V says */
	uint8_t version, serial_number, asset_tag;
	uint8_t boot_state, power_state, thermal_state, security;
	uint32_t oem;
	uint8_t height, power_cords, element_count, element_length;
	uint8_t sku;
} __attribute__((packed));
_Static_assert(sizeof(struct smbios_chassis) == 22, "SMBIOS type 3");
