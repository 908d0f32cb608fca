/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * linux_format.h - the setup header of a Linux kernel and the "zero page" that it is entered with: fields in
 * the words of Linux Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#pragma once

#include <stdint.h>

#define LINUX_SECTOR       512u
#define LINUX_BOOT_FLAG    0xaa55u
#define LINUX_HEADER_MAGIC 0x53726448u /* "HdrS" */
#define LINUX_ENTRY_64     0x200u      /* from the start of the protected-mode kernel */

/* At offset 0x1f1 of the file and of the zero page. How much of it a kernel has is told by `jump`. */
struct linux_setup_header {
	uint8_t setup_sects;
	uint16_t root_flags;
	uint32_t syssize; /* in 16 byte paragraphs */
	uint16_t ram_size;
	uint16_t vid_mode;
	uint16_t root_dev;
	uint16_t boot_flag;
	uint16_t jump; /* a short jump: the header ends at 0x202 + its second byte */
	uint32_t header;
	uint16_t version;
	uint32_t realmode_swtch;
	uint16_t start_sys_seg;
	uint16_t kernel_version;
	uint8_t type_of_loader;
	uint8_t loadflags;
	uint16_t setup_move_size;
	uint32_t code32_start;
	uint32_t ramdisk_image;
	uint32_t ramdisk_size;
	uint32_t bootsect_kludge;
	uint16_t heap_end_ptr;
	uint8_t ext_loader_ver;
	uint8_t ext_loader_type;
	uint32_t cmd_line_ptr;
	uint32_t initrd_addr_max;
	uint32_t kernel_alignment;
	uint8_t relocatable_kernel;
	uint8_t min_alignment;
	uint16_t xloadflags;
	uint32_t cmdline_size; /* without the final zero */
	uint32_t hardware_subarch;
	uint64_t hardware_subarch_data;
	uint32_t payload_offset;
	uint32_t payload_length;
	uint64_t setup_data;
	uint64_t pref_address;
	uint32_t init_size;
	uint32_t handover_offset;
	uint32_t kernel_info_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct linux_setup_header) == 0x26c - 0x1f1, "setup header");

#define LINUX_HEADER_OFFSET 0x1f1u
#define LINUX_HEADER_JUMP   0x202u /* where the jump's distance counts from */
#define LINUX_VERSION_MIN   0x20cu /* xloadflags and the 64-bit entry */

enum { LINUX_LOADED_HIGH = 1 << 0 };   /* loadflags */
enum { LINUX_XLF_KERNEL_64 = 1 << 0 }; /* xloadflags */
enum { LINUX_LOADER_UNDEFINED = 0xff };

struct linux_e820_entry {
	uint64_t address, size;
	uint32_t type;
} __attribute__((packed));
_Static_assert(sizeof(struct linux_e820_entry) == 20, "e820 entry");

#define LINUX_E820_ENTRIES 128u

/* The zero page, struct boot_params; what a loader of ours leaves 0 is not named. */
struct linux_boot_params {
	uint8_t unused0[0x070];
	uint64_t acpi_rsdp_addr;
	uint8_t unused1[0x1e0 - 0x078];
	uint32_t alt_mem_k; /* memory from 1 MiB, in KiB */
	uint8_t unused2[4];
	uint8_t e820_entries;
	uint8_t unused3[LINUX_HEADER_OFFSET - 0x1e9];
	struct linux_setup_header header;
	uint8_t unused4[0x2d0 - LINUX_HEADER_OFFSET - sizeof(struct linux_setup_header)];
	struct linux_e820_entry e820_table[LINUX_E820_ENTRIES];
	uint8_t unused5[0x1000 - 0xcd0];
} __attribute__((packed));
_Static_assert(sizeof(struct linux_boot_params) == 4096, "zero page");
_Static_assert(__builtin_offsetof(struct linux_boot_params, e820_table) == 0x2d0, "zero page");
_Static_assert(__builtin_offsetof(struct linux_boot_params, e820_entries) == 0x1e8, "zero page");
