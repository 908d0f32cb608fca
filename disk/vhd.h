/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd.h - an open VHD, and what its parts ask of each other. Source: vhd_format.h names it.
 *
 *   vhd_footer.c  the footer and its copy; checksums, geometry, the size that the guest sees
 *   vhd_open.c    from a footer to a usable disk; the ops tables; fixed disks, which are little else
 *   vhd_begin.c   what comes before the first change: the file's end and its time stamp
 *   vhd_scan.c    every BAT entry checked before the file may be written
 *   vhd_bat.c     block to place in the file: the BAT, allocation
 *   vhd_bitmap.c  the sectors of a block that count, of a disk without parent
 *   vhd_child.c   differencing disks: what is here and what is the parent's, by sector
 *   vhd_pages.c   their sector bitmaps: a bounded cache
 *   vhd_parent.c  which file the parent is: reading that, and comparing
 *   vhd_relink.c  writing it
 *   vhd_chain.c   what merging, checkpoints and other parents need
 *   vhd_commit.c  bitmaps and BAT sectors into the file
 *   vhd_create.c  new files
 *   vhd_resize.c  another size
 *   vhd_compact.c the same contents in less space
 *   vhd_check.c   findings for a person
 *
 * Why a power cut at any moment is safe, although a VHD has no log. A new block - its sector bitmap, zeros,
 * and the footer behind it - goes past the end of the file as it was; its BAT entry stays in memory until
 * a commit: (1) sync, which makes the block durable; (2) the BAT sectors with new entries are written in
 * place; (3) sync, after which the flush completes. Such a sector differs from what it replaces only in
 * entries that were unused, so the old one, the new one and any mixture of the two name everything that was
 * flushed, and nothing that is not there. The footer at the end may be lost with the space that belongs to
 * nobody: its copy at offset 0 stays as it is meanwhile.
 *
 * In a differencing disk a new block's bitmap is zeros. A sector's bit is set in memory when the sector has been
 * written, until which it is the parent's; (2) writes changed bitmaps as well.
 *
 * Locks: begin_lock or fill_lock, then bat.lock; commit.lock stands alone. Only bat.lock is on the way of data,
 * and it is never held during a sync.
 */
#pragma once

#include <pthread.h>

#include "disk/commit.h"
#include "disk/image.h"
#include "disk/vhd_format.h"
#include "disk/vhdx_locator.h"

#define VHD_ENTRIES_MAX       (UINT32_C(16) << 20) /* 64 MiB of BAT; 2040 GiB in blocks of 2 MiB need 4 */
#define VHD_NO_BLOCK          UINT64_MAX
#define VHD_DATA_ALIGNMENT    4096u                /* of the data of new blocks, for O_DIRECT */
#define COMMIT_BAT_SECTORS    256u /* a round of a commit, */
#define COMMIT_PAGES          1024u /* which may have so many of both */
#define PAGES_KEPT            8192u /* 4 MiB of bitmaps: 16 GiB of disk */
#define PAGES_DIRTY_MAX       4096u
#define PAGE_BUCKETS          4096u

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

/* A sector of a block's bitmap. */
struct vhd_page {
	uint64_t offset; /* in the file */
	struct vhd_page *next_in_bucket;
	bool dirty;      /* newer than the file, and not on its way there */
	bool committing; /* on its way */
	bool used;       /* since the clock's hand passed */
	uint8_t bits[VHD_SECTOR_SIZE];
};

#define PAGE_SECTORS (VHD_SECTOR_SIZE * 8)

/* [bat.lock] */
struct vhd_pages {
	struct vhd_page *buckets[PAGE_BUCKETS];
	struct vhd_page **all;
	unsigned count, room, hand;
	unsigned dirty_count, committing_count;
};

/* Which file the parent is. */
struct vhd_link {
	struct guid identifier;
	uint32_t stamp, stamp2; /* its time stamp; 0: not known. The second one while it is merged */
	struct locator paths;   /* only their strings */
	bool stale;             /* the relative path leads nowhere: the parent was found by another */
};

struct vhd {
	struct disk *disk;
	struct vhd_footer footer;
	pthread_mutex_t begin_lock;
	_Atomic bool begun;  /* the time stamp is new since the file was opened */
	uint32_t next_stamp; /* the one for the first write after opening; 0: the time */
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
	uint64_t paths_end;     /* of the parent locators' paths in the file */
	pthread_mutex_t fill_lock;
	struct vhd_bat bat;
	bool has_parent;
	struct vhd_link link;
	struct vhd_pages pages;
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

/* --- vhd_begin.c --- */

/* To be called before anything that the guest can see changes: others who took the disk for their parent find
 * another time stamp from then on. */
int vhd_begin(struct vhd *v);

/* To be called before anything else changes: cuts off what belongs to nobody, so that what grows anew is zeros,
 * and makes both footers good. [no request in flight, or begin_lock] */
int vhd_mend(struct vhd *v);

/* The file ends at next_place, with a footer behind it. [bat.lock] */
int vhd_put_end(struct vhd *v);

/* Makes this the footer, durably, of a file that is mended. [as vhd_mend()] */
int vhd_change_footers(struct vhd *v, struct vhd_footer *footer);

/* The time, but one that it has not had yet. */
uint32_t vhd_next_stamp(const struct vhd *v);

/* --- vhd_bat.c --- */

int vhd_bat_init(struct vhd *v, struct error *err);
void vhd_bat_destroy(struct vhd *v);
int vhd_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	    struct extent *extent);

/* As that, but what the parent has is EXTENT_PARENT. */
int vhd_map_here(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		 struct extent *extent);

/* A new block; its bitmap is ones, or of a disk with a parent zeros. [bat.lock] */
int vhd_allocate(struct vhd *v, uint32_t block, uint64_t *place);

/* Says once in a while that a place cannot be; returns -EBADMSG. [bat.lock] */
int vhd_complain(struct vhd *v, uint32_t block, uint64_t place);

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

/* All of the bitmap at `place` becomes this byte. */
int vhd_write_bitmap(struct vhd *v, uint64_t place, uint8_t byte);

/* --- vhd_child.c --- */

/* The run at a place of a block, of a disk with a parent. [bat.lock] */
int vhd_child_map(struct vhd *v, enum map_purpose purpose, uint32_t block, uint64_t in_block,
		  struct extent *extent);
int vhd_child_settle(struct disk *disk, uint64_t offset, uint64_t length, uint64_t file_offset);

/* --- vhd_pages.c --- */

/* The one at this offset of the file. It may be dropped at the next call. [bat.lock] */
int vhd_find_page(struct vhd *v, uint64_t offset, struct vhd_page **page);

void vhd_mark_page(struct vhd_pages *pages, struct vhd_page *page);
void vhd_free_pages(struct vhd_pages *pages);

/* --- vhd_parent.c --- */

/* Reads which file it is. */
int vhd_read_link(struct vhd *v, struct error *err);

/* Finds the parent, opens it for reading and compares. */
int vhd_open_parent(struct vhd *v, struct error *err);

/* ESTALE: this is not the parent that the child has. */
int vhd_check_link(const struct vhd *v, const struct vhd *parent, struct error *err);

/* --- vhd_relink.c --- */

/* Puts the parent's name and identity into a header, and `way`, the relative path to it, into `paths`, to be freed,
 * whose place in the file is given. `path` is the child's, for errors. */
int vhd_build_link(struct vhd_dynamic_header *header, uint64_t place, const char *path, const char *way,
		   const struct vhd *parent, uint8_t **paths, size_t *size, struct error *err);

/* The disk continues this one from now on, durably: after a power cut, or what it did before. No request may be in
 * flight. */
int vhd_relink(struct vhd *v, const char *way, const struct vhd *parent, struct error *err);

/* The parent may also have this time stamp from now on. Durable; no request may be in flight. */
int vhd_expect(struct vhd *v, uint32_t stamp, uint32_t stamp2, struct error *err);

/* --- vhd_chain.c --- */

extern const struct chain_ops vhd_chain_ops;

/* --- vhd_commit.c --- */

bool vhd_must_commit(struct disk *disk);
int vhd_commit(struct disk *disk);

/* --- vhd_resize.c --- */

/* No request may be in flight. */
int vhd_resize(struct disk *disk, uint64_t size, struct error *err);

/* -ENOTSUP: of a fixed one. */
int vhd_refuse_resize(struct disk *disk, uint64_t size, struct error *err);

/* --- vhd_compact.c --- */

/* No request may be in flight. */
int vhd_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err);

/* --- vhd_scan.c --- */

/* Calls `found` for each block that lies over the one before it, until it returns other than 0, which is
 * returned; else 0 or -ENOMEM. Blocks that are not sane do not count. */
int vhd_find_overlaps(const struct vhd *v, int (*found)(void *context, uint32_t block, uint32_t other),
		      void *context);

/* For a file that is to be written: -EBADMSG, or finds next_place. */
int vhd_scan(struct vhd *v, struct error *err);

/* --- vhd_check.c --- */

int vhd_check(struct disk *disk, FILE *report, struct error *err);
int vhd_plan_repair(struct disk *disk, struct repair *repair, struct error *err);
int vhd_begin_repair(struct disk *disk, const struct repair *repair);
int vhd_reclaim(struct disk *disk, uint64_t *bytes);
