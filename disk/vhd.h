/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd.h - an open VHD, and what its parts ask of each other. Source: vhd_format.h names it.
 *
 *   vhd_footer.c  the footer and its copy; checksums, geometry, the size that the guest sees
 *   vhd_open.c    from a footer to a usable disk; the ops tables; fixed disks, which are little else
 *   vhd_scan.c    every BAT entry checked before the file may be written
 *   vhd_bat.c     block to place in the file: the BAT, allocation
 *   vhd_bitmap.c  the sectors of a block that count
 *   vhd_commit.c  BAT sectors into the file
 *   vhd_create.c  new files
 *   vhd_check.c   findings for a person
 *
 * Why a power cut at any moment is safe, although a VHD has no log. A new block - its sector bitmap, zeros,
 * and the footer behind it - goes past the end of the file as it was; its BAT entry stays in memory until
 * a commit: (1) sync, which makes the block durable; (2) the BAT sectors with new entries are written in
 * place; (3) sync, after which the flush completes. Such a sector differs from what it replaces only in
 * entries that were unused, so the old one, the new one and any mixture of the two name everything that was
 * flushed, and nothing that is not there. The footer at the end may be lost with the space that belongs to
 * nobody: its copy at offset 0 is never written again.
 *
 * Locks: fill_lock, then bat.lock; commit.lock stands alone. Only bat.lock is on the way of data, and
 * it is never held during a sync.
 */
#pragma once

#include <pthread.h>

#include "disk/commit.h"
#include "disk/image.h"
#include "disk/vhd_format.h"

#define VHD_ENTRIES_MAX       (UINT32_C(16) << 20) /* 64 MiB of BAT; 2040 GiB in blocks of 2 MiB need 4 */
#define VHD_NO_BLOCK          UINT64_MAX
#define VHD_DATA_ALIGNMENT    4096u                /* of the data of new blocks, for O_DIRECT */
#define COMMIT_BAT_SECTORS    256u /* a round of a commit */

/* What is known of an allocated block's sector bitmap. */
enum block_bits { BITS_UNKNOWN, BITS_SOME, BITS_ALL };

struct vhd_bat {
	pthread_mutex_t lock;
	uint8_t *table;  /* as in the file */
	uint8_t *bits;   /* enum block_bits of each block */
	uint8_t *bitmap; /* the one that was read last: */
	uint64_t bitmap_block;
	uint64_t *dirty; /* a bit for each sector of the table that is newer than the file */
	uint32_t sectors;
	uint32_t dirty_count, committing_count;
	uint64_t next_place; /* behind everything that the file names: the footer's, until a block takes it */
	bool tidy;           /* the file ends with the footer at next_place, and its copy is good */
};

struct vhd {
	struct disk *disk;
	struct vhd_footer footer;
	uint64_t file_end;
	uint64_t footer_offset; /* of the one at the end; UINT64_MAX: there is none that can be used */
	bool copy_is_good;      /* at offset 0: valid and the same */

	/* Of a dynamic disk: */
	struct vhd_dynamic_header header;
	uint64_t header_offset, table_offset;
	uint32_t block_size, bitmap_size; /* the data and what lies before it */
	unsigned block_shift;
	uint32_t block_count;
	uint32_t table_entries; /* at least block_count */
	pthread_mutex_t fill_lock;
	struct vhd_bat bat;
	struct commit commit;
	uint8_t *commit_buffer;
	struct log_limit complaints;
};

/* --- vhd_footer.c --- */

/* For the footer and the dynamic disk header: `field` is where their checksum lies. */
uint32_t vhd_checksum(const void *structure, size_t size, size_t field);
void vhd_seal_footer(struct vhd_footer *footer);

/* Cylinders, heads and sectors per track of a disk of so many sectors, by the specification. */
void vhd_set_geometry(struct vhd_footer *footer, uint64_t sectors);

/* Finds the footer that counts, or says why there is none. */
int vhd_read_footer(struct vhd *v, struct error *err);

/* In bytes; 0 or too many are for the caller to refuse. */
uint64_t vhd_disk_size(const struct vhd_footer *footer);

/* The file's, or one of ours. */
void vhd_get_id(const struct vhd_footer *footer, struct guid *id);
void vhd_set_id(struct vhd_footer *footer, const struct guid *id);

/* --- vhd_bat.c --- */

int vhd_bat_init(struct vhd *v, struct error *err);
void vhd_bat_destroy(struct vhd *v);
int vhd_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	    struct extent *extent);

/* A sector of the table, counted from its start. [bat.lock] */
void vhd_mark_dirty(struct vhd_bat *bat, uint32_t sector);

static inline uint32_t vhd_entry(const struct vhd *v, uint32_t block)
{
	return be32_get(v->bat.table + (size_t)block * VHD_BAT_ENTRY_SIZE);
}

/* The bytes of a block that belong to the disk: fewer than all in the last one. */
static inline uint64_t vhd_block_used(const struct vhd *v, uint32_t block)
{
	return min_u64(v->block_size, v->disk->info.size - ((uint64_t)block << v->block_shift));
}

/* Whether `length` bytes of a block, its bitmap included, may lie there: inside the file, clear of the
 * file's own structures. */
bool vhd_place_is_sane(const struct vhd *v, uint64_t place, uint64_t length);

/* --- vhd_bitmap.c --- */

bool vhd_sector_counts(const uint8_t *bitmap, uint64_t sector);

/* Sectors from `from` on, before `end`, that all count or all do not. */
uint64_t vhd_run_of_sectors(const uint8_t *bitmap, uint64_t from, uint64_t end);

/* Finds out which sectors of a block count; unless all do, they are in bat.bitmap afterwards. [bat.lock] */
int vhd_find_bits(struct vhd *v, uint32_t block, uint64_t place);

/* Makes all sectors of a block count, before one is written that did not. Those sectors read as zeros and
 * have to be zeros, durably, before the bitmap says that they count. */
int vhd_fill_block(struct vhd *v, uint32_t block);

/* The bitmap of a new block at `place`. */
int vhd_write_ones(struct vhd *v, uint64_t place);

/* --- vhd_commit.c --- */

bool vhd_must_commit(struct disk *disk);
int vhd_commit(struct disk *disk);

/* --- vhd_scan.c --- */

/* Calls `found` for each block that lies over the one before it, until it returns other than 0, which is
 * returned; else 0 or -ENOMEM. Blocks that are not sane do not count. */
int vhd_find_overlaps(const struct vhd *v, int (*found)(void *context, uint32_t block, uint32_t other),
		      void *context);

/* For a file that is to be written: -EBADMSG, or finds next_place. */
int vhd_scan(struct vhd *v, struct error *err);

/* --- vhd_check.c --- */

int vhd_check(struct disk *disk, FILE *report, struct error *err);
