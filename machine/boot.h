/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * boot.h - reading kernel files, and the loaders behind machine_load(). Private to machine/.
 *
 * Files are hostile: what a header says is checked against the file's size and the guest's memory before it
 * is used, and sums are made in 64 bits from 32-bit fields so that they cannot wrap.
 */
#pragma once

#include "machine/layout.h"

/* Where a loader puts things: the RAM below 4 GiB, known to be there from 0 to `low_memory`. */
struct boot_target {
	struct partition *partition;
	uint64_t memory;
	uint64_t low_memory;
	gpa_t rsdp;
};

/* Copy [offset, offset + size) of the file to `buffer`; -EIO when the file ends before, or fails. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *buffer, uint64_t size,
		   struct error *err);

/* The same into guest memory below `low_memory`; -ENOMEM when it does not fit there. */
int boot_file_load(const struct boot_file *file, uint64_t offset, const struct boot_target *target, gpa_t gpa,
		   uint64_t size, struct error *err);

/* Whether the file is of this loader's kind. Reads only; a file too short to tell is not. */
bool linux_recognise(const struct boot_file *kernel);
bool multiboot_recognise(const struct boot_file *kernel);

/* Load, and set the registers with which VP 0 begins. */
int linux_load(const struct boot_target *target, const struct boot_config *boot, struct error *err);
int multiboot_load(const struct boot_target *target, const struct boot_config *boot, struct error *err);

/* Flat segments as both protocols want them; the descriptors of GDT entries 2 and 3. */
#define BOOT_SELECTOR_CODE 0x10u
#define BOOT_SELECTOR_DATA 0x18u

/* Flat code (64- or 32-bit) and data segments, interrupts off, no paging, nothing else set. */
void boot_flat_registers(struct vp_registers *registers, bool code64);
