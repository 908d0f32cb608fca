/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_scan.c - every entry of the BAT, looked at once before the file may be written. A new block goes
 * behind the last one, so an entry that points there, in a file that was cut short, would share it.
 * Holes of the file are skipped: the table of a large and empty disk is one.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"
#include "disk/vhdx_metadata.h"

#define BATCH  8192u /* entries */
#define ADVICE "restore the file from a backup, or open it read-only and copy what can be read"

struct scan {
	struct vhdx *v;
	struct space space;
	uint64_t end;                  /* of the last thing that has a place */
	uint64_t chunk, partial_block; /* the chunk in hand, and a block of it that needs the bitmap, if */
	bool partial;
	bool kept, keeping; /* places are kept for blocks that do not need them; they are being noted */
};

static bool has_place(uint64_t entry)
{
	switch (entry & VHDX_BAT_STATE_MASK) {
	case VHDX_BLOCK_UNDEFINED:
	case VHDX_BLOCK_ZERO:
	case VHDX_BLOCK_UNMAPPED:
	case VHDX_BLOCK_UNMAPPED_V095:
	case VHDX_BLOCK_FULLY_PRESENT:
		return (entry & VHDX_BAT_OFFSET_MASK) != 0;
	default:
		return false;
	}
}

/* A place that is kept for something whose contents do not count: not to be given to another. It may lie over
 * anything, so it is noted only when all that counts has been. */
static void keep(struct scan *scan, uint64_t entry, uint64_t length)
{
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK;

	if (!has_place(entry) || !range_fits_u64(place, length, scan->v->bat.file_end))
		return;
	scan->end = max_u64(scan->end, place + length);
	scan->kept = true;
	if (scan->keeping)
		space_take(&scan->space, place, length);
}

static int scan_block(struct scan *scan, uint64_t block, uint64_t entry, struct error *err)
{
	struct vhdx *v = scan->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK, used = vhdx_block_used(v, block);
	unsigned state = entry & VHDX_BAT_STATE_MASK;
	const char *path = v->disk->path;

	if (state == 4 || (state == VHDX_BLOCK_PARTIALLY_PRESENT && !v->has_parent))
		return error_set(err, EBADMSG,
				 "%s: block %ju has the state %u in the block allocation table (entry %#jx), "
				 "impossible in a disk %s parent; " ADVICE,
				 path, (uintmax_t)block, state, (uintmax_t)entry,
				 v->has_parent ? "with" : "without");
	if (state == VHDX_BLOCK_PARTIALLY_PRESENT) {
		scan->partial = true;
		scan->partial_block = block;
	} else if (state != VHDX_BLOCK_FULLY_PRESENT) {
		keep(scan, entry, v->block_size);
		return 0;
	}
	if (!range_fits_u64(place, used, v->bat.file_end))
		return error_set(err, EBADMSG,
				 "%s: block %ju lies at offset %ju, past the end of the file, which has %ju "
				 "bytes: it has been cut "
				 "short; " ADVICE,
				 path, (uintmax_t)block, (uintmax_t)place, (uintmax_t)v->bat.file_end);
	if (!vhdx_place_is_sane(v, place, v->block_size, UINT64_MAX))
		return error_set(err, EBADMSG,
				 "%s: block %ju lies at offset %ju, over the file's own structures; " ADVICE,
				 path, (uintmax_t)block, (uintmax_t)place);
	if (!space_take(&scan->space, place, v->block_size) && !scan->keeping)
		return error_set(err, EBADMSG,
				 "%s: block %ju lies at offset %ju, over another block; " ADVICE, path,
				 (uintmax_t)block, (uintmax_t)place);
	scan->end = max_u64(scan->end, place + v->block_size);
	return 0;
}

/* The entry of a chunk's bitmap; 0 also when it lies in a hole. */
static int scan_bitmap(struct scan *scan, uint64_t entry, struct error *err)
{
	struct vhdx *v = scan->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK;
	unsigned state = entry & VHDX_BAT_STATE_MASK;
	bool needed = scan->partial;

	scan->partial = false;
	if (!v->has_parent) {
		keep(scan, entry, VHDX_BITMAP_SIZE);
		return 0;
	}
	if (state != VHDX_BITMAP_PRESENT && needed)
		return error_set(
		    err, EBADMSG,
		    "%s: block %ju is partially present, but its chunk %ju has no sector bitmap (entry "
		    "%#jx in the block allocation table); " ADVICE,
		    v->disk->path, (uintmax_t)scan->partial_block, (uintmax_t)scan->chunk, (uintmax_t)entry);
	if (state != VHDX_BITMAP_PRESENT)
		return 0;
	if (!vhdx_place_is_sane(v, place, VHDX_BITMAP_SIZE, v->bat.file_end))
		return error_set(
		    err, EBADMSG,
		    "%s: the sector bitmap of chunk %ju lies at offset %ju, outside the file of %ju bytes "
		    "or over its own structures; " ADVICE,
		    v->disk->path, (uintmax_t)scan->chunk, (uintmax_t)place, (uintmax_t)v->bat.file_end);
	if (!space_take(&scan->space, place, VHDX_BITMAP_SIZE) && !scan->keeping)
		return error_set(
		    err, EBADMSG,
		    "%s: the sector bitmap of chunk %ju lies at offset %ju, over a block; " ADVICE,
		    v->disk->path, (uintmax_t)scan->chunk, (uintmax_t)place);
	scan->end = max_u64(scan->end, place + VHDX_BITMAP_SIZE);
	return 0;
}

static int scan_entries(struct scan *scan, uint64_t first, const uint64_t *entries, size_t count,
			struct error *err)
{
	uint64_t ratio = scan->v->chunk_ratio;
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		uint64_t chunk = (first + i) / (ratio + 1), within = (first + i) % (ratio + 1);

		if (entries[i] == 0 && !scan->partial)
			continue;
		if (scan->partial && chunk != scan->chunk)
			r = scan_bitmap(scan, 0, err);
		scan->chunk = chunk;
		if (r == 0 && within == ratio)
			r = scan_bitmap(scan, entries[i], err);
		else if (r == 0 && entries[i] != 0)
			r = scan_block(scan, chunk * ratio + within, entries[i], err);
	}
	return r;
}

static int scan_table(struct scan *scan, struct error *err)
{
	struct vhdx *v = scan->v;
	uint64_t at = v->bat_region.offset, end = at + v->bat_entries * 8;
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof(*entries));

	if (!entries)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	while (at < end) {
		uint64_t size, data = file_next_data(&v->disk->file, at) & ~(uint64_t)(BAT_PAGE_SIZE - 1);
		int r;

		at = max_u64(at, data);
		if (at >= end)
			break;
		size = min_u64(BATCH * sizeof(*entries), end - at);
		r = vhdx_read(v, at, entries, size);
		if (r == -ENODATA)
			return error_set(err, EBADMSG,
					 "%s: the file ends inside its block allocation table, at %ju bytes: "
					 "it has been cut short; "
					 "restore it from a backup",
					 v->disk->path, (uintmax_t)v->bat.file_end);
		if (r < 0)
			return error_set(err, -r, "%s: its block allocation table cannot be read: %s",
					 v->disk->path, strerror(-r));
		r = scan_entries(scan, (at - v->bat_region.offset) / 8, entries, size / 8, err);
		if (r < 0)
			return r;
		at += size;
	}
	return scan->partial ? scan_bitmap(scan, 0, err) : 0;
}

/* All regions, also those of which nothing is known. */
static int take_regions(struct scan *scan)
{
	struct vhdx *v = scan->v;
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);
	int r = table ? vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_1, table) : -ENOMEM;

	if (r == -EBADMSG || r == -EIO)
		r = vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_2, table);
	space_take(&scan->space, 0, VHDX_HEADER_SECTION);
	space_take(&scan->space, v->log.offset, v->log.length);
	for (uint32_t i = 0; r == 0 && i < le32_get(table + 8); i++) {
		struct vhdx_region_entry entry;

		memcpy(&entry, table + sizeof(struct vhdx_region_table) + i * sizeof(entry), sizeof(entry));
		if (range_fits_u64(entry.file_offset, entry.length, align_up_u64(v->bat.file_end, VHDX_UNIT)))
			space_take(&scan->space, entry.file_offset, entry.length);
	}
	return r;
}

/* What is free is remembered, unless the disk has all its blocks from the start: what lies behind them is left
 * alone. */
static int note_free_space(struct scan *scan, struct error *err)
{
	struct vhdx *v = scan->v;
	uint64_t units = scan->space.units, end;
	int r = take_regions(scan);

	scan->keeping = true;
	if (r == 0 && scan->kept)
		r = scan_table(scan, err);
	end = align_up_u64(scan->end, VHDX_UNIT);
	if (r == 0)
		r = space_resize(&scan->space, end);
	/* The last block may end behind the file. */
	if (r == 0 && scan->space.units > units)
		space_take(&scan->space, units * VHDX_UNIT, end - units * VHDX_UNIT);
	if (r == 0)
		r = free_init(&v->free, &scan->space);
	if (r < 0)
		return error_set(err, -r, "%s: what is free in it cannot be found: %s", v->disk->path,
				 strerror(-r));
	/* Together with the map of what is free before it, or not at all. */
	v->bat.used_end = v->bat.next_place = end;
	scan->space.taken = NULL;
	return 0;
}

int vhdx_scan(struct vhdx *v, struct error *err)
{
	struct scan scan = {.v = v};
	const struct region *regions[] = {&v->log, &v->bat_region, &v->metadata};
	int r;

	if (v->bat.file_end > VHDX_FILE_SIZE_MAX)
		return error_set(err, EFBIG,
				 "%s: a file of %ju bytes is longer than any VHDX; check the path",
				 v->disk->path, (uintmax_t)v->bat.file_end);
	if (space_init(&scan.space, v->bat.file_end) < 0)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	scan.end = v->other_regions_end;
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
		scan.end = max_u64(scan.end, regions[i]->offset + regions[i]->length);
	r = scan_table(&scan, err);
	v->bat.used_end = align_up_u64(scan.end, VHDX_UNIT);
	v->bat.next_place = align_up_u64(max_u64(scan.end, v->bat.file_end), VHDX_UNIT);
	if (r == 0 && v->disk->info.dynamic)
		r = note_free_space(&scan, err);
	free(scan.space.taken);
	return r;
}
