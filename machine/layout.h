/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * layout.h - where things lie in the memory of the direct-boot machine. Private to machine/.
 */
#pragma once

#include "machine/machine.h"

/* Tables live where a BIOS would have its ROM, so that guests find them by scanning. The DSDT knows the
 * address of the machine block; SMBIOS must be above 0xf0000. */
#define LAYOUT_FIRMWARE_BASE 0xe0000u
#define LAYOUT_FIRMWARE_END  0x100000u
#define LAYOUT_ACPI_BASE     0xe0000u
#define LAYOUT_ACPI_END      0xef000u
#define LAYOUT_MACHINE_BLOCK 0xef000u
#define LAYOUT_SMBIOS_BASE   0xf0000u
#define LAYOUT_SMBIOS_END    0xf1000u

#define LAYOUT_CONVENTIONAL_END 0xa0000u
#define LAYOUT_4G               0x100000000ull

/* Ranges of the memory map as a guest gets it: types of the BIOS call e820 (ACPI 6.4, table 15.4). */
enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2 };

struct memory_range {
	gpa_t base;
	uint64_t size;
	enum memory_type type;
};

#define LAYOUT_MAX_RANGES 8u

uint64_t layout_low_memory(uint64_t memory);
uint64_t layout_high_memory(uint64_t memory);

/* First address after all RAM and address space below 4 GiB, rounded for the high MMIO window. */
gpa_t layout_high_mmio_base(uint64_t memory);

/* Fills the map in ascending order, returns how many ranges it has. */
unsigned layout_memory_map(uint64_t memory, struct memory_range ranges[LAYOUT_MAX_RANGES]);
