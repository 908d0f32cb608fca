/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_format.h - the structures of a VHDX file, in the words of [MS-VHDX]; nothing else is here.
 * All numbers are little-endian; all offsets are from the start of the file unless said otherwise.
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

/* 2.2: the header section, and the unit of everything after it */
#define VHDX_HEADER_SECTION        UINT64_C(0x100000)
#define VHDX_UNIT                  UINT64_C(0x100000)
#define VHDX_HEADER_OFFSET_1       UINT64_C(0x10000)
#define VHDX_HEADER_OFFSET_2       UINT64_C(0x20000)
#define VHDX_REGION_TABLE_OFFSET_1 UINT64_C(0x30000)
#define VHDX_REGION_TABLE_OFFSET_2 UINT64_C(0x40000)
#define VHDX_TABLE_SIZE            0x10000u
#define VHDX_TABLE_ENTRIES_MAX     2047u

/* 2.2.1 File Type Identifier */
#define VHDX_FILE_SIGNATURE "vhdxfile"

struct vhdx_file_identifier {
	char signature[8];
	uint16_t creator[256];
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_file_identifier) == 520, "2.2.1");

/* 2.2.2 Headers */
#define VHDX_HEADER_SIGNATURE "head"
#define VHDX_VERSION          1
#define VHDX_LOG_VERSION      0

struct vhdx_header {
	char signature[4];
	uint32_t checksum; /* CRC-32C of all 4 KiB, this field zero */
	uint64_t sequence_number;
	struct guid file_write_guid;
	struct guid data_write_guid;
	struct guid log_guid;
	uint16_t log_version;
	uint16_t version;
	uint32_t log_length;
	uint64_t log_offset;
	uint8_t reserved[4016];
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_header) == 4096, "2.2.2");

/* 2.2.3 Region Table */
#define VHDX_REGION_SIGNATURE "regi"
#define VHDX_REGION_REQUIRED  1u

struct vhdx_region_table {
	char signature[4];
	uint32_t checksum; /* of all 64 KiB */
	uint32_t entry_count;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_region_table) == 16, "2.2.3.1");

struct vhdx_region_entry {
	struct guid guid;
	uint64_t file_offset;
	uint32_t length;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_region_entry) == 32, "2.2.3.2");

#define VHDX_REGION_BAT GUID_INIT(0x2dc27766, 0xf623, 0x4200, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08)
#define VHDX_REGION_METADATA                                                                                 \
	GUID_INIT(0x8b7ca206, 0x4790, 0x4b9a, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e)

/* 2.3 Log */
#define VHDX_LOG_SECTOR          4096u
#define VHDX_LOG_ENTRY_SIGNATURE "loge"
#define VHDX_LOG_ZERO_SIGNATURE  "zero"
#define VHDX_LOG_DESC_SIGNATURE  "desc"
#define VHDX_LOG_DATA_SIGNATURE  "data"
#define VHDX_LOG_DESCRIPTOR_SIZE 32u

struct vhdx_log_entry {
	char signature[4];
	uint32_t checksum; /* of entry_length bytes */
	uint32_t entry_length;
	uint32_t tail; /* offset in the log of the oldest entry that is still needed */
	uint64_t sequence_number;
	uint32_t descriptor_count;
	uint32_t reserved;
	struct guid log_guid;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_entry) == 64, "2.3.1.1");

struct vhdx_log_zero {
	char signature[4];
	uint32_t reserved;
	uint64_t zero_length;
	uint64_t file_offset;
	uint64_t sequence_number;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_zero) == VHDX_LOG_DESCRIPTOR_SIZE, "2.3.1.2");

struct vhdx_log_desc {
	char signature[4];
	uint8_t trailing_bytes[4];
	uint8_t leading_bytes[8];
	uint64_t file_offset;
	uint64_t sequence_number;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_desc) == VHDX_LOG_DESCRIPTOR_SIZE, "2.3.1.3");

struct vhdx_log_data {
	char signature[4];
	uint32_t sequence_high;
	uint8_t data[4084]; /* bytes 8 to 4091 of the sector */
	uint32_t sequence_low;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_data) == VHDX_LOG_SECTOR, "2.3.1.4");

/* 2.5 BAT */
#define VHDX_BAT_STATE_MASK    UINT64_C(7)
#define VHDX_BAT_RESERVED_MASK UINT64_C(0xffff8)
#define VHDX_BAT_OFFSET_MASK   UINT64_C(0xfffffffffff00000) /* in MiB from bit 20: the offset itself */
#define VHDX_CHUNK_SECTORS     (UINT64_C(1) << 23)

enum vhdx_block_state {
	VHDX_BLOCK_NOT_PRESENT = 0,
	VHDX_BLOCK_UNDEFINED = 1,
	VHDX_BLOCK_ZERO = 2,
	VHDX_BLOCK_UNMAPPED = 3,
	VHDX_BLOCK_UNMAPPED_V095 = 5, /* as files from before version 1.0 have it */
	VHDX_BLOCK_FULLY_PRESENT = 6,
	VHDX_BLOCK_PARTIALLY_PRESENT = 7
};

/* 2.5.1.2: the states of a sector bitmap block are VHDX_BLOCK_NOT_PRESENT and */
#define VHDX_BITMAP_PRESENT 6
#define VHDX_BITMAP_SIZE    UINT64_C(0x100000)

/* 2.6 Metadata Region */
#define VHDX_METADATA_SIGNATURE       "metadata"
#define VHDX_METADATA_IS_USER         1u
#define VHDX_METADATA_IS_VIRTUAL_DISK 2u
#define VHDX_METADATA_IS_REQUIRED     4u

struct vhdx_metadata_table {
	char signature[8];
	uint16_t reserved;
	uint16_t entry_count;
	uint8_t reserved2[20];
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_metadata_table) == 32, "2.6.1.1");

struct vhdx_metadata_entry {
	struct guid item_id;
	uint32_t offset; /* in the region */
	uint32_t length;
	uint32_t flags;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_metadata_entry) == 32, "2.6.1.2");

/* 2.6.2 known items */
#define VHDX_ITEM_FILE_PARAMETERS                                                                            \
	GUID_INIT(0xcaa16737, 0xfa36, 0x4d43, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b)
#define VHDX_ITEM_VIRTUAL_DISK_SIZE                                                                          \
	GUID_INIT(0x2fa54224, 0xcd1b, 0x4876, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8)
#define VHDX_ITEM_VIRTUAL_DISK_ID                                                                            \
	GUID_INIT(0xbeca12ab, 0xb2e6, 0x4523, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46)
#define VHDX_ITEM_LOGICAL_SECTOR_SIZE                                                                        \
	GUID_INIT(0x8141bf1d, 0xa96f, 0x4709, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f)
#define VHDX_ITEM_PHYSICAL_SECTOR_SIZE                                                                       \
	GUID_INIT(0xcda348c7, 0x445d, 0x4471, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56)
#define VHDX_ITEM_PARENT_LOCATOR                                                                             \
	GUID_INIT(0xa8d35f2d, 0xb30b, 0x454d, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c)

#define VHDX_LEAVE_BLOCK_ALLOCATED 1u
#define VHDX_HAS_PARENT            2u

struct vhdx_file_parameters {
	uint32_t block_size;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_file_parameters) == 8, "2.6.2.1");

/* 2.6.2.6 Parent Locator: UTF-16 keys and values; offsets are from its start, lengths in bytes */
#define VHDX_LOCATOR_TYPE                                                                                    \
	GUID_INIT(0xb04aefb7, 0xd19e, 0x4a81, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13)

struct vhdx_locator_header {
	struct guid type;
	uint16_t reserved;
	uint16_t count;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_locator_header) == 20, "2.6.2.6.1");

struct vhdx_locator_entry {
	uint32_t key_offset;
	uint32_t value_offset;
	uint16_t key_length;
	uint16_t value_length;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_locator_entry) == 12, "2.6.2.6.2");

#define VHDX_BLOCK_SIZE_MIN (UINT32_C(1) << 20)
#define VHDX_BLOCK_SIZE_MAX (UINT32_C(256) << 20)
#define VHDX_DISK_SIZE_MAX  (UINT64_C(64) << 40)
