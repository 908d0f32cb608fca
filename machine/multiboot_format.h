/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * multiboot_format.h - header in the kernel and information for it: Multiboot Specification 0.6.96, sections
 * 3.1 and 3.3, in its words.
 */
#pragma once

#include <stdint.h>

#define MULTIBOOT_HEADER_MAGIC 0x1badb002u
#define MULTIBOOT_LOADER_MAGIC 0x2badb002u
#define MULTIBOOT_SEARCH       8192u /* the header lies in this much of the file, on a multiple of 4 */

struct multiboot_header { /* 3.1.1 */
	uint32_t magic, flags, checksum;
	/* with MULTIBOOT_HAS_ADDRESSES */
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
} __attribute__((packed));
_Static_assert(sizeof(struct multiboot_header) == 32, "multiboot header");

enum {
	MULTIBOOT_PAGE_ALIGN = 1 << 0,
	MULTIBOOT_MEMORY_INFO = 1 << 1,
	MULTIBOOT_VIDEO_MODE = 1 << 2,
	MULTIBOOT_HAS_ADDRESSES = 1 << 16
};
#define MULTIBOOT_REQUIRED 0xffffu /* a loader that does not know one of these must not load */

struct multiboot_info { /* 3.3 */
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB from 0, KiB from 1 MiB */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
	uint32_t vbe_control_info, vbe_mode_info;
	uint16_t vbe_mode, vbe_interface_seg, vbe_interface_off, vbe_interface_len;
} __attribute__((packed));
_Static_assert(sizeof(struct multiboot_info) == 88, "multiboot information");

enum {
	INFO_MEMORY = 1 << 0,
	INFO_CMDLINE = 1 << 2,
	INFO_MODULES = 1 << 3,
	INFO_MEMORY_MAP = 1 << 6,
	INFO_LOADER_NAME = 1 << 9
};

struct multiboot_module {
	uint32_t start, end; /* the end is the first byte after it */
	uint32_t string;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct multiboot_module) == 16, "multiboot module");

struct multiboot_range {
	uint32_t size; /* of what follows */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));
_Static_assert(sizeof(struct multiboot_range) == 24, "multiboot memory range");
