/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx.h - an open VHDX, and what its parts ask of each other. Source: [MS-VHDX].
 *
 *   vhdx_open.c    from the signature to a usable disk; the ops table
 *   vhdx_header.c  the two headers and the rules of their GUIDs
 *   vhdx_log.c     reading the log: replay into the file, or into memory
 *   vhdx_scan.c    every BAT entry checked before the file may be written
 *   vhdx_bat.c     block to place in the file: a bounded cache of BAT pages, allocation
 *   vhdx_free.c    space in the file that nobody has, and how blocks give theirs up
 *   vhdx_locator.c (with a header of its own) which file the parent is
 *   vhdx_parent.c  finding and comparing it
 *   vhdx_relink.c  writing the parent locator of a file that is there
 *   vhdx_child.c   differencing disks: what is here and what is the parent's, by sector
 *   vhdx_chain.c   what merging and other parents need
 *   vhdx_resize.c  another size
 *   vhdx_compact.c the same contents in less space
 *   vhdx_commit.c  BAT pages through the log into the file
 *   vhdx_create.c  new files
 *   vhdx_check.c   findings for a person, and what would put them right
 *   vhdx_repair.c  doing that
 *
 * Why a power cut at any moment is safe. A new block lies past the end of the file as it was, or where a hole
 * has been punched (vhdx_free.c says when that may be), so it
 * reads as zeros, as the block did before it was allocated. Its BAT entry stays in memory until a
 * commit: (1) sync, which covers payload and the in-place writes of the commit before; (2) the BAT
 * pages go into the log as one entry, whose tail is the entry itself; (3) sync; (4) they are written
 * in place, to be synced by the next commit's (1). An entry never overlaps the one before it.
 *
 * In a differencing disk the pages of the sector bitmaps go the same way as those of the BAT. A sector's bit
 * is set when the sector has been written, not before, so that until then it is the parent's. What a new
 * BAT entry relies on, its bitmap, is committed first, unless both are in one page.
 *
 * Locks: header_lock, then bat.lock; commit.lock stands alone. Only bat.lock is on the way of data, and
 * it is never held during a sync; a page of the BAT that is not in memory is read under it, and the file
 * is made longer.
 *
 * What blocks the thread of a queue: the two header updates before the first write, a flush that has
 * metadata to commit (those that come meanwhile share one commit), and such page reads.
 */
#pragma once

#include <pthread.h>

#include "disk/commit.h"
#include "disk/image.h"
#include "disk/vhdx_format.h"
#include "disk/vhdx_locator.h"

#define VHDX_NO_SLOT       UINT32_MAX /* the metadata table has no locator */
#define BAT_PAGE_SIZE      4096u
#define BAT_PAGE_ENTRIES   512u
#define BAT_PAGES_MAX      2048u /* 8 MiB of cache: 2 TiB of disk in blocks of 2 MiB */
#define BAT_DIRTY_MAX      1024u
#define BAT_BUCKETS        1024u
#define FREED_MAX          65536u /* 256 KiB of places that wait */
#define COMMIT_PAGES_MAX   60u                   /* so that at least four entries fit into the smallest log */
#define VHDX_FILE_SIZE_MAX (UINT64_C(128) << 40) /* twice the largest disk; its space_init() takes 16 MiB */

/* A part of one block. */
struct block_range {
	uint64_t block, in_block, length;
};

struct bat_page {
	uint64_t index; /* in units of BAT_PAGE_SIZE from the start of the file */
	struct bat_page *next_in_bucket;
	struct bat_page *next_dirty;
	bool dirty;      /* newer than the log */
	bool committing; /* newer than the place in the file: must not be dropped */
	bool leads;      /* has to be in the log before an entry of another page may rely on it, */
	bool leading;    /* and is on its way there */
	bool pinned;     /* somebody has a pointer to it */
	bool used;       /* since the clock's hand passed */
	uint64_t entries[BAT_PAGE_ENTRIES];
};

struct bat {
	pthread_mutex_t lock;
	struct bat_page *buckets[BAT_BUCKETS];
	struct bat_page *pages[BAT_PAGES_MAX];
	unsigned page_count, hand;
	struct bat_page *dirty, **dirty_end; /* oldest first */
	unsigned dirty_count, committing_count;
	uint64_t file_end;   /* the file's length; with a log replayed into memory, what the log makes it */
	uint64_t next_place; /* where the next block goes: behind everything that the file names */
	uint64_t used_end;   /* likewise, when the file was scanned; of a fixed disk something may lie behind it */
};

struct region {
	uint64_t offset, length;
};

/* A bit for each MiB of the file. */
struct space {
	uint8_t *taken; /* to be freed by its user */
	uint64_t units;
};

/* Of a file that grows as it is written, and is open for writing; all zeros otherwise. [bat.lock] */
struct free_space {
	struct space space;   /* what is taken, up to next_place */
	uint64_t search_from; /* no room for a block in the MiBs before this one */
	uint32_t *ring;       /* places that blocks have left, in MiB: FREED_MAX of them, and counted for ever */
	uint64_t first;       /* from here on they are nobody's, */
	uint64_t ready;       /* from here on they wait for the holds of the other epoch, */
	uint64_t draining;    /* from here on for the next epoch, */
	uint64_t durable;     /* from here on for a commit */
	uint64_t end;
	unsigned epoch;
	_Atomic uint64_t holds[2]; /* given back without the lock */
};

/* A range of the file that the log changes, of a file that may not be written. */
struct overlay {
	uint64_t offset, length;
	const uint8_t *data; /* NULL: zeros */
};

struct vhdx {
	struct disk *disk;
	struct region log, bat_region, metadata;
	uint32_t block_size;
	unsigned block_shift;
	uint64_t chunk_ratio; /* payload blocks for each sector bitmap block */
	uint64_t block_count;
	uint64_t bat_entries; /* that mean something */
	uint64_t size_at;     /* where the file says how large the disk is */

	bool has_parent;
	struct locator locator;     /* if it has, as are the next two: */
	struct region locator_item; /* from the start of the metadata region */
	bool locator_stale;         /* its relative path leads nowhere: the parent was found by another */
	unsigned locator_slot;      /* in its table */

	pthread_mutex_t header_lock;
	struct vhdx_header header;  /* as it was written last */
	unsigned header_slot;       /* where: 0 or 1 */
	struct guid next_data_guid; /* the one for the first write after opening; zero: a random one */
	_Atomic bool data_begun;    /* DataWriteGuid is new since the file was opened, or was last at rest */
	bool rested;                /* it was written since it was opened, and then at rest */

	struct bat bat;
	struct free_space free;

	struct commit commit;
	bool
	    log_in_use; /* this and what follows belongs to the commit that runs; the header names log_guid */
	struct guid log_guid;
	uint64_t log_sequence;
	uint64_t log_position;
	uint8_t *commit_buffer; /* COMMIT_PAGES_MAX pages, then the log entry */

	struct overlay *overlays; /* later ones hide earlier ones */
	unsigned overlay_count;
	uint8_t *overlay_data;
	uint64_t other_regions_end; /* of regions that nothing is known of */
	uint64_t real_size;         /* of the file, while overlays may lie past it */

	struct log_limit complaints;
};

/* --- vhdx_open.c --- */

/* Leaves a clean file, as closing it does. What is written next is a new beginning, with a new DataWriteGuid. No
 * request may be in flight. */
int vhdx_rest(struct disk *disk, struct error *err);

/* --- vhdx_create.c --- */

/* The file is a VHDX, or holds nothing, from when that is synced: one sector is written. */
int vhdx_mark(struct file *file, bool whole);

/* --- vhdx_header.c --- */

/* Chooses the current header, or says why there is none. */
int vhdx_read_headers(struct vhdx *v, struct error *err);

/* Of a file that is not open as a disk. */
int vhdx_read_contents(int fd, char *path, struct guid *contents, struct error *err);

/* The one in this slot, 0 or 1, is whole, if perhaps older than the other. */
bool vhdx_header_is_good(struct vhdx *v, unsigned slot);

/* Writes the header twice, so that both slots agree, each time synced. [header_lock] */
int vhdx_write_headers(struct vhdx *v);

/* To be called before anything the guest can see changes. */
int vhdx_begin_data(struct vhdx *v);

/* Likewise, when what is going to change looks the same to the guest: the contents keep their GUID. */
int vhdx_begin_same_data(struct vhdx *v);

/* To be called before anything else changes. */
int vhdx_begin_file(struct vhdx *v);

/* The contents are these from now on: writes the header. */
int vhdx_set_data_guid(struct vhdx *v, const struct guid *guid);

/* The log's entries of this GUID (or none, if zero) are to be replayed from now on. */
int vhdx_name_log(struct vhdx *v, const struct guid *log_guid);

/* --- vhdx_log.c --- */

/* Replays what the log holds. Afterwards the header names no log, or the overlays are set. */
int vhdx_replay(struct vhdx *v, struct error *err);

/* Reads metadata as it is after the replay. -ENODATA: the file ends before. */
int vhdx_read(struct vhdx *v, uint64_t offset, void *buffer, size_t size);

/* Corrects where an extent's contents are, after a replay into memory. */
void vhdx_apply_overlays(const struct vhdx *v, struct extent *extent);

/* --- vhdx_commit.c --- */

bool vhdx_must_commit(struct disk *disk);
int vhdx_commit(struct disk *disk);

/* --- vhdx_bat.c --- */

void bat_init(struct bat *bat);
void bat_destroy(struct bat *bat);
/* As vhdx_map(), but what the parent has is EXTENT_PARENT. */
int vhdx_map_here(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		  struct extent *extent);
int vhdx_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	     struct extent *extent);

/* The page of the BAT or of a sector bitmap at this offset of the file. [bat.lock] */
int bat_find_page(struct vhdx *v, uint64_t file_offset, struct bat_page **out);

/* An entry of the BAT, as it is in a page. [bat.lock] */
int bat_find_entry(struct vhdx *v, uint64_t index, struct bat_page **page, uint64_t **entry);

/* Changes any bytes of the file's structures in pages that go into the next commit. [bat.lock] */
int bat_put_bytes(struct vhdx *v, uint64_t offset, const void *bytes, size_t size);

/* Pages are read from the file from now on; none may be dirty or committing. [bat.lock] */
void bat_forget(struct vhdx *v);

/* New space for a block, which reads as zeros. [bat.lock] */
int bat_allocate(struct vhdx *v, uint64_t length, uint64_t *place);

/* If the range is all of a block, which has a place and is to be zeros: it gives the place up. False: it has to be
 * zeroed where it is. [bat.lock] */
bool bat_give_up(struct vhdx *v, const struct block_range *range, struct bat_page *page, uint64_t *entry);

/* Says once in a while that an entry cannot be; returns -EBADMSG. [bat.lock] */
int bat_complain(struct vhdx *v, uint64_t block, uint64_t entry);

/* Puts the page at the end of the dirty ones, unless it is one already. [bat.lock] */
void bat_mark_dirty(struct bat *bat, struct bat_page *page);

/* Where the entry of a payload block is, counted in entries. */
static inline uint64_t bat_entry_index(const struct vhdx *v, uint64_t block)
{
	return block + block / v->chunk_ratio;
}

/* The bytes of a block that belong to the disk: fewer than all in the last one. */
static inline uint64_t vhdx_block_used(const struct vhdx *v, uint64_t block)
{
	return min_u64(v->block_size, v->disk->info.size - (block << v->block_shift));
}

static inline uint64_t vhdx_block_count(const struct vhdx *v, uint64_t disk_size)
{
	return (disk_size + v->block_size - 1) >> v->block_shift;
}

/* Whether a block may lie there: inside the file and clear of the file's own structures. */
bool vhdx_place_is_sane(const struct vhdx *v, uint64_t file_offset, uint64_t length, uint64_t file_end);

/* Where the entry of a chunk's sector bitmap is. */
static inline uint64_t bat_bitmap_index(const struct vhdx *v, uint64_t block)
{
	return (block / v->chunk_ratio + 1) * (v->chunk_ratio + 1) - 1;
}

/* How many entries the BAT needs: that of the last chunk's bitmap in a differencing disk only. */
static inline uint64_t vhdx_bat_entries(const struct vhdx *v, uint64_t block_count)
{
	return v->has_parent ? bat_bitmap_index(v, block_count - 1) + 1 : bat_entry_index(v, block_count - 1) + 1;
}

/* --- vhdx_resize.c --- */

/* No request may be in flight. */
int vhdx_resize(struct disk *disk, uint64_t size, struct error *err);

/* --- vhdx_compact.c --- */

/* No request may be in flight. */
int vhdx_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err);

/* --- vhdx_parent.c --- */

/* Finds the parent of a disk that has one, opens it for reading and compares the two. */
int vhdx_open_parent(struct vhdx *v, struct error *err);

/* ESTALE: this is not the parent that the locator says. */
int vhdx_check_linkage(const struct vhdx *v, const struct vhdx *parent, struct error *err);

/* --- vhdx_relink.c --- */

/* Makes the relative path that of the parent, if it is stale. If that fails, it stays as it is. */
void vhdx_refresh_path(struct vhdx *v);

/* Makes this the parent locator, durably and at once: after a power cut the file has it or the one before. No
 * request may be in flight. The strings of `locator` are taken over, also on failure. */
int vhdx_relink(struct vhdx *v, struct locator *locator, struct error *err);

/* --- vhdx_child.c --- */

/* The run at the range's start, in a block of a disk with a parent that is not or partially present.
 * -EAGAIN: after a commit, try again. [bat.lock] */
int child_map(struct vhdx *v, enum map_purpose purpose, const struct block_range *range,
	      struct bat_page *page, uint64_t *entry, struct extent *extent);

int child_settle(struct disk *disk, uint64_t offset, uint64_t length, uint64_t file_offset);

/* --- vhdx_chain.c --- */

extern const struct chain_ops vhdx_chain_ops;

/* --- vhdx_free.c --- */

/* -ENOMEM. `file_end` at most VHDX_FILE_SIZE_MAX. */
int space_init(struct space *space, uint64_t file_end);

/* False: some of it was taken before. What lies past the end counts as free. */
bool space_take(struct space *space, uint64_t offset, uint64_t length);
void space_give(struct space *space, uint64_t offset, uint64_t length);

/* -ENOMEM. What is new is free. */
int space_resize(struct space *space, uint64_t file_end);

/* The first of `count` free units together, at `from` or behind; UINT64_MAX: there are none. */
uint64_t space_find(const struct space *space, uint64_t from, uint64_t count);

/* Behind the last one that is taken, in bytes. */
uint64_t space_end(const struct space *space);

/* Takes `space` over, unless it fails. */
int free_init(struct free_space *free, struct space *space);
void free_destroy(struct free_space *free);

/* The extent's place stays its block's, or nobody's, until extent_release(). [bat.lock] */
void free_hold(struct vhdx *v, struct extent *extent);

/* The block that was there is not any more, as of an entry of the BAT that is dirty. False: too many wait already;
 * nothing has happened. [bat.lock] */
bool free_leave(struct vhdx *v, uint64_t place);

/* Free space, which reads as zeros. -ENOENT: there is none inside of the file. [bat.lock] */
int free_take(struct vhdx *v, uint64_t length, uint64_t *place);

/* What was a region of the file is free; that is durable. [bat.lock] */
void free_region(struct vhdx *v, uint64_t offset, uint64_t length);

/* The file grows; what is new is taken. [bat.lock] */
int free_grow(struct vhdx *v, uint64_t end);

/* So many wait for a commit that one should be made. [bat.lock] */
bool free_is_crowded(const struct vhdx *v);

/* For the one that commits: what has been left until now, and that this is durable. */
uint64_t free_mark(struct vhdx *v);
void free_made_durable(struct vhdx *v, uint64_t mark);

/* --- vhdx_scan.c --- */

/* For a file that is to be written, once its log is replayed: -EBADMSG when a block lies past the end of
 * the file, over another or over a structure, or is in an impossible state. Else finds next_place and what is
 * free before it. */
int vhdx_scan(struct vhdx *v, struct error *err);

/* --- vhdx_check.c --- */

int vhdx_check(struct disk *disk, FILE *report, struct error *err);
int vhdx_plan_repair(struct disk *disk, struct repair *repair, struct error *err);

/* --- vhdx_repair.c --- */

int vhdx_begin_repair(struct disk *disk, const struct repair *repair);
int vhdx_reclaim(struct disk *disk, uint64_t *bytes);
