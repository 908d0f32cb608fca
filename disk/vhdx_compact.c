/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_compact.c - a VHDX that takes less space, with the same contents: also its DataWriteGuid stays, so that
 * disks that continue it still do.
 *
 *   1. Blocks that are zeros give their places up; places that are kept for blocks that do not need them are
 *      forgotten.
 *   2. What lies behind the end that the file would have without gaps moves into gaps before it. It is copied
 *      first; a commit syncs the copy, and then the BAT names it. The old place is free when that is durable.
 *   3. The log is emptied, and the file is cut off.
 *
 * So it may be stopped, or the power may fail, between any two steps. No request is in flight all the time.
 */
#include <errno.h>
#include <string.h>

#include "disk/operation.h"
#include "disk/vhdx.h"

#define PART       (UINT64_C(1) << 20)  /* read at a time */
#define BATCH      8192u                /* entries */
#define MOVED_MAX  (UINT64_C(64) << 20) /* bytes, between two commits */
#define PASSES_MAX 4u

struct compact {
	struct vhdx *v;
	bool read; /* contents, to find zeros */
	const struct disk_progress *progress;
	struct error *err;
	uint8_t *buffer;
	uint64_t done, total; /* progress: bytes of the disk looked at, then bytes of the file */
	uint64_t target;      /* the end that the file should have */
	uint64_t moved;       /* bytes since the last commit, */
	uint64_t moved_in_pass;
	uint64_t from_block, from_bitmap; /* no gap for one before */
};

static int step(const struct compact *c)
{
	const struct disk_progress *progress = c->progress;

	if (!progress || progress->step(progress->context, min_u64(c->done, c->total), c->total))
		return 0;
	return error_set(c->err, ECANCELED,
			 "%s: stopped before it was done, as was asked; what had been done stays, and the contents "
			 "are what they were",
			 c->v->disk->path);
}

static int tell(const struct compact *c, int r, const char *what)
{
	return r < 0 ? error_set(c->err, -r, "%s: %s: %s", c->v->disk->path, what, strerror(-r)) : 0;
}

/* --- zeros --- */

static bool is_zero(const uint8_t *bytes, uint64_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static int read_disk(struct compact *c, uint64_t offset, uint64_t length)
{
	const struct iovec iov = {c->buffer, length};
	struct disk_request request = {
	    .op = DISK_OP_READ, .offset = offset, .length = length, .iov = &iov, .iov_count = 1};
	struct operation op;

	operation_start(&op, c->v->disk, &request);
	return tell(c, operation_run(&op), "its contents cannot be read");
}

static int block_is_zero(struct compact *c, uint64_t offset, uint64_t end, bool *zero)
{
	struct disk_extent extent;
	int r = 0;

	*zero = true;
	for (; r == 0 && *zero && offset < end; offset += extent.length) {
		r = disk_get_extent_inside(c->v->disk, offset, end - offset, &extent, c->err);
		if (r < 0 || extent.zero)
			continue;
		extent.length = min_u64(extent.length, PART);
		*zero = c->read;
		if (!c->read)
			break;
		r = read_disk(c, offset, extent.length);
		*zero = r == 0 && is_zero(c->buffer, extent.length);
	}
	return r;
}

static int give_up(struct compact *c, uint64_t block)
{
	struct vhdx *v = c->v;
	struct block_range range = {.block = block, .length = v->block_size};
	struct bat_page *page;
	bool crowded;
	uint64_t *entry;
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = bat_find_entry(v, bat_entry_index(v, block), &page, &entry);
	if (r == 0)
		bat_give_up(v, &range, page, entry);
	crowded = v->bat.dirty_count >= BAT_DIRTY_MAX || free_is_crowded(v);
	pthread_mutex_unlock(&v->bat.lock);
	if (r == 0 && crowded)
		r = vhdx_commit(v->disk);
	return tell(c, r, "blocks of zeros cannot be freed");
}

static int free_zeros(struct compact *c)
{
	struct vhdx *v = c->v;
	uint64_t size = v->disk->info.size, end;
	int r = 0;

	for (uint64_t offset = 0; r == 0 && offset < size; offset = end) {
		struct disk_extent extent;
		bool zero;

		end = min_u64(offset + v->block_size, size);
		c->done = offset;
		r = step(c);
		if (r == 0)
			r = disk_get_extent_inside(v->disk, offset, end - offset, &extent, c->err);
		if (r == 0 && !extent.in_file && offset + extent.length >= end)
			continue;
		if (r == 0)
			r = block_is_zero(c, offset, end, &zero);
		if (r == 0 && zero)
			r = give_up(c, offset >> v->block_shift);
	}
	return r;
}

/* --- the table --- */

typedef int visit_fn(struct compact *c, uint64_t index, uint64_t entry);

/* All entries that are not 0, as they are in the file: everything is committed before. */
static int visit_entries(struct compact *c, visit_fn *visit)
{
	struct vhdx *v = c->v;
	uint64_t at = v->bat_region.offset, end = at + v->bat_entries * 8;
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof(*entries));
	int r = entries ? 0 : tell(c, -ENOMEM, "it cannot be compacted");

	while (r == 0 && at < end) {
		uint64_t data = file_next_data(&v->disk->file, at) & ~(uint64_t)(BAT_PAGE_SIZE - 1);
		uint64_t first, count;

		at = max_u64(at, data);
		if (at >= end)
			break;
		first = (at - v->bat_region.offset) / 8;
		count = min_u64(BATCH, (end - at) / 8);
		r = tell(c, vhdx_read(v, at, entries, count * 8), "its block allocation table cannot be read");
		for (uint64_t i = 0; r == 0 && i < count; i++)
			if (entries[i] != 0)
				r = visit(c, first + i, entries[i]);
		at += count * 8;
	}
	return r;
}

static bool is_bitmap(const struct vhdx *v, uint64_t index)
{
	return index % (v->chunk_ratio + 1) == v->chunk_ratio;
}

static int change_entry(struct compact *c, uint64_t index, uint64_t from, uint64_t to)
{
	struct vhdx *v = c->v;
	struct bat_page *page;
	uint64_t *entry;
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = bat_find_entry(v, index, &page, &entry);
	if (r == 0 && *entry == from) {
		*entry = to;
		bat_mark_dirty(&v->bat, page);
	}
	pthread_mutex_unlock(&v->bat.lock);
	return r;
}

static int commit(struct compact *c)
{
	struct vhdx *v = c->v;
	int r = vhdx_commit(v->disk);

	c->moved = 0;
	/* Pages of bitmaps that have moved are not to be found again. */
	pthread_mutex_lock(&v->bat.lock);
	if (r == 0)
		bat_forget(v);
	pthread_mutex_unlock(&v->bat.lock);
	return tell(c, r, "its block allocation table cannot be written");
}

/* A place that is kept for a block whose contents do not count. */
static int forget_place(struct compact *c, uint64_t index, uint64_t entry)
{
	struct vhdx *v = c->v;
	unsigned state = entry & VHDX_BAT_STATE_MASK;
	bool counts = is_bitmap(v, index) ? v->has_parent
					  : state == VHDX_BLOCK_FULLY_PRESENT || state == VHDX_BLOCK_PARTIALLY_PRESENT;
	bool crowded;
	int r;

	if (counts || (entry & VHDX_BAT_OFFSET_MASK) == 0)
		return 0;
	r = change_entry(c, index, entry, is_bitmap(v, index) ? 0 : state);
	pthread_mutex_lock(&v->bat.lock);
	crowded = v->bat.dirty_count >= BAT_DIRTY_MAX;
	pthread_mutex_unlock(&v->bat.lock);
	if (r == 0 && crowded)
		return commit(c);
	return tell(c, r, "its block allocation table cannot be changed");
}

/* --- moving --- */

static int copy(struct compact *c, uint64_t from, uint64_t to, uint64_t length)
{
	struct file *file = &c->v->disk->file;
	uint64_t at = from, end = min_u64(from + length, c->v->bat.file_end);
	int r = 0;

	while (r == 0 && at < end) {
		uint64_t part;

		at = max_u64(at, file_next_data(file, at));
		if (at >= end)
			break;
		part = min_u64(min_u64(file_next_hole(file, at), end) - at, PART);
		r = file_read(file, at, c->buffer, part);
		if (r == 0)
			r = file_write(file, to + (at - from), c->buffer, part);
		at += part;
	}
	return r;
}

/* The lowest gap, if it is before `below`. It reads as zeros. */
static int take_gap(struct compact *c, uint64_t length, uint64_t below, uint64_t *place)
{
	struct vhdx *v = c->v;
	uint64_t *from = length == v->block_size ? &c->from_block : &c->from_bitmap, unit;
	int r = -ENOENT;

	pthread_mutex_lock(&v->bat.lock);
	unit = space_find(&v->free.space, *from, length / VHDX_UNIT);
	/* Nobody looks at the same places twice. */
	*from = min_u64(unit, v->free.space.units);
	if (unit != UINT64_MAX && unit * VHDX_UNIT < below) {
		*place = unit * VHDX_UNIT;
		space_take(&v->free.space, *place, length);
		*from = unit + length / VHDX_UNIT;
		r = file_zero(&v->disk->file, *place, length);
	}
	pthread_mutex_unlock(&v->bat.lock);
	return r;
}

static void leave(struct compact *c, uint64_t place, uint64_t length)
{
	struct vhdx *v = c->v;

	/* A bitmap's place is found by the next scan; so is one that the ring has no room for. */
	pthread_mutex_lock(&v->bat.lock);
	if (length == v->block_size)
		free_leave(v, place);
	pthread_mutex_unlock(&v->bat.lock);
}

static int move(struct compact *c, uint64_t index, uint64_t entry)
{
	struct vhdx *v = c->v;
	unsigned state = entry & VHDX_BAT_STATE_MASK;
	uint64_t from = entry & VHDX_BAT_OFFSET_MASK, to;
	uint64_t length = is_bitmap(v, index) ? VHDX_BITMAP_SIZE : v->block_size;
	int r;

	if (state < VHDX_BLOCK_FULLY_PRESENT || from + length <= c->target)
		return 0;
	r = take_gap(c, length, from, &to);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = copy(c, from, to, length);
	if (r == 0)
		r = change_entry(c, index, entry, to | (entry & ~VHDX_BAT_OFFSET_MASK));
	if (r < 0)
		return tell(c, r, "a block cannot be moved");
	leave(c, from, length);
	c->done += length;
	c->moved += length;
	c->moved_in_pass += length;
	if (c->moved >= MOVED_MAX)
		r = commit(c);
	return r < 0 ? r : step(c);
}

/* Everything is committed, the log is empty, and what is free is known. */
static int look_again(struct compact *c)
{
	struct vhdx *v = c->v;
	int r = commit(c);

	if (r == 0)
		r = vhdx_rest(v->disk, c->err);
	return r < 0 ? r : vhdx_scan(v, c->err);
}

static uint64_t taken_bytes(const struct space *space)
{
	uint64_t units = 0;

	for (uint64_t i = 0; i < space->units / 8 + 1; i++)
		units += (uint64_t)__builtin_popcount(space->taken[i]);
	return units * VHDX_UNIT;
}

static int move_all(struct compact *c)
{
	struct vhdx *v = c->v;
	int r = 0;

	c->target = taken_bytes(&v->free.space);
	c->done = 0;
	c->total = space_end(&v->free.space) - c->target;
	for (unsigned pass = 0; r == 0 && pass < PASSES_MAX; pass++) {
		c->from_block = c->from_bitmap = c->moved_in_pass = 0;
		if (space_end(&v->free.space) <= c->target)
			break;
		r = vhdx_begin_same_data(v);
		if (r < 0)
			return tell(c, r, "its header cannot be written");
		r = visit_entries(c, move);
		if (r == 0)
			r = look_again(c);
		if (c->moved_in_pass == 0)
			break;
	}
	return r;
}

static int compact(struct compact *c)
{
	struct vhdx *v = c->v;
	int r = tell(c, vhdx_begin_same_data(v), "its header cannot be written");

	c->total = v->disk->info.size;
	if (r == 0)
		r = free_zeros(c);
	if (r == 0)
		r = commit(c);
	if (r == 0)
		r = visit_entries(c, forget_place);
	if (r == 0)
		r = look_again(c);
	return r < 0 ? r : move_all(c);
}

/* The file is cut off behind what is left. */
static int cut(struct compact *c)
{
	struct vhdx *v = c->v;
	int r = look_again(c);

	if (r < 0 || v->bat.file_end <= v->bat.used_end)
		return r;
	r = tell(c, file_resize(&v->disk->file, v->bat.used_end), "it cannot be made shorter");
	if (r == 0)
		v->bat.file_end = v->bat.used_end;
	return r < 0 ? r : tell(c, file_sync(&v->disk->file), "it cannot be made durable");
}

int vhdx_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err)
{
	struct compact c = {.v = disk->format, .read = read, .progress = progress, .err = err};
	int r, ended;

	if (!disk->info.dynamic)
		return error_set(err, ENOTSUP,
				 "%s: a fixed disk keeps all its blocks; convert it to one that grows, by: bulkhead disk "
				 "convert",
				 disk->path);
	c.buffer = malloc(PART);
	if (!c.buffer)
		return error_set(err, ENOMEM, "%s: no memory to compact it", disk->path);
	r = compact(&c);
	/* What had been done by then counts all the same. */
	if (r < 0)
		c.err = NULL;
	ended = cut(&c);
	free(c.buffer);
	return r < 0 ? r : ended;
}
