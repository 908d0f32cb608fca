/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_format.h - the structures of a VHD file, in the words of the "Virtual Hard Disk Image Format
 * Specification" (Microsoft, version 1.0, 2006); nothing else is here. All numbers are big-endian and
 * kept as bytes; all offsets are from the start of the file.
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

#define VHD_SECTOR_SIZE  512u
#define VHD_SECTORS_MAX  UINT64_C(0xff000000) /* 2040 GiB */
#define VHD_COOKIE       "conectix"
#define VHD_VERSION      0x00010000u
#define VHD_NO_OFFSET    UINT64_MAX
#define VHD_FEATURES     2u         /* the reserved bit, always set */
#define VHD_EPOCH        946684800u /* time stamps count from 2000-01-01 00:00:00 UTC */
#define VHD_GEOMETRY_MAX (UINT64_C(65535) * 16 * 255)

enum vhd_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFFERENCING = 4 };

/* Hard Disk Footer Format */
struct vhd_footer {
	char cookie[8];
	uint8_t features[4];
	uint8_t version[4];
	uint8_t data_offset[8]; /* of the dynamic disk header */
	uint8_t time_stamp[4];
	char creator_application[4];
	uint8_t creator_version[4];
	char creator_host_os[4];
	uint8_t original_size[8];
	uint8_t current_size[8];
	uint8_t cylinders[2];
	uint8_t heads;
	uint8_t sectors_per_track;
	uint8_t disk_type[4];
	uint8_t checksum[4]; /* one's complement of the sum of all bytes, this field zero */
	uint8_t unique_id[16];
	uint8_t saved_state;
	uint8_t reserved[427];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_footer) == VHD_SECTOR_SIZE, "Hard Disk Footer Format");

/* Programs older than Virtual PC 2004 leave out the last byte. */
#define VHD_OLD_FOOTER_SIZE 511u

/* Dynamic Disk Header Format */
#define VHD_DYNAMIC_COOKIE "cxsparse"

/* Platform codes of parent locators: paths in UTF-16, low byte first. Others are not looked at. */
#define VHD_LOCATOR_RELATIVE 0x57327275u /* W2ru */
#define VHD_LOCATOR_ABSOLUTE 0x57326b75u /* W2ku */
#define VHD_LOCATORS         8u

struct vhd_parent_locator {
	uint8_t platform_code[4];
	uint8_t platform_data_space[4];
	uint8_t platform_data_length[4];
	uint8_t reserved[4];
	uint8_t platform_data_offset[8];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_parent_locator) == 24, "Parent Locator Entries");

struct vhd_dynamic_header {
	char cookie[8];
	uint8_t data_offset[8]; /* unused: all ones */
	uint8_t table_offset[8];
	uint8_t header_version[4];
	uint8_t max_table_entries[4];
	uint8_t block_size[4]; /* without the sector bitmap */
	uint8_t checksum[4];   /* as the footer's */
	uint8_t parent_unique_id[16];
	uint8_t parent_time_stamp[4];
	uint8_t reserved_1[4];
	uint8_t parent_unicode_name[512]; /* the high byte first */
	struct vhd_parent_locator parent_locators[VHD_LOCATORS];
	uint8_t reserved_2[256];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_dynamic_header) == 1024, "Dynamic Disk Header Format");

/* Block Allocation Table: the sector at which a block's sector bitmap begins; the data follows it. In the
 * bitmap the most significant bit of the first byte is the block's first sector. */
#define VHD_BAT_ENTRY_SIZE     4u
#define VHD_BAT_SECTOR_ENTRIES (VHD_SECTOR_SIZE / VHD_BAT_ENTRY_SIZE)
#define VHD_BAT_UNUSED         UINT32_MAX
