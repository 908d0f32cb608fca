/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_child.c - blocks of a differencing disk, [MS-VHDX] 2.4 and 2.5: a sector bitmap says which sectors of
 * a partially present block are here; all others are the parent's.
 *
 * A write does not change what a reader sees before its bytes are in the file: the block is partially present
 * from the start, and its sectors' bits are set by child_settle(). When all are, the block is fully present.
 * A block that was zeroed as a whole is "zero", which hides the parent, and gives its place up; one that is
 * written later is fully present, because what was not written reads as zeros.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

#define SECTORS_IN_PAGE (BAT_PAGE_SIZE * 8)

/* Sectors of a chunk, counted from its start. */
struct sectors {
	uint64_t bitmap; /* where the chunk's bitmap is in the file */
	uint64_t first, end;
};

static struct sectors sectors_of(const struct vhdx *v, uint64_t bitmap, uint64_t block, uint64_t from,
				 uint64_t to)
{
	uint64_t start = (block % v->chunk_ratio) << v->block_shift;
	uint32_t size = v->disk->info.logical_sector_size;

	return (struct sectors){bitmap, (start + from) / size, (start + to) / size};
}

/* How many of the bits from `bit` on are as it is, at most `max`. */
static uint64_t run_length(const uint64_t *words, uint64_t bit, uint64_t max, bool *set)
{
	uint64_t n = 0;

	*set = words[bit / 64] >> (bit % 64) & 1;
	while (n < max) {
		uint64_t at = bit + n, differing = (words[at / 64] ^ (*set ? UINT64_MAX : 0)) >> (at % 64);

		if (differing)
			return min_u64(max, n + (uint64_t)__builtin_ctzll(differing));
		n += 64 - at % 64;
	}
	return max;
}

static void put_bits(uint64_t *words, uint64_t bit, uint64_t count, bool set)
{
	while (count > 0) {
		uint64_t part = min_u64(count, 64 - bit % 64);
		uint64_t mask = (part == 64 ? UINT64_MAX : (UINT64_C(1) << part) - 1) << (bit % 64);

		if (set)
			words[bit / 64] |= mask;
		else
			words[bit / 64] &= ~mask;
		bit += part;
		count -= part;
	}
}

/* The page with the bit of a sector. */
static int find_bits(struct vhdx *v, const struct sectors *sectors, uint64_t sector, struct bat_page **page)
{
	return bat_find_page(v, sectors->bitmap + sector / SECTORS_IN_PAGE * BAT_PAGE_SIZE, page);
}

/* How many sectors from the first one on are in the same file. */
static int look_up(struct vhdx *v, const struct sectors *sectors, uint64_t *count, bool *here)
{
	uint64_t n = 0;

	while (sectors->first + n < sectors->end) {
		uint64_t sector = sectors->first + n, bit = sector % SECTORS_IN_PAGE, run;
		uint64_t max = min_u64(sectors->end - sector, SECTORS_IN_PAGE - bit);
		struct bat_page *page;
		bool set;
		int r = find_bits(v, sectors, sector, &page);

		if (r < 0)
			return r;
		run = run_length(page->entries, bit, max, &set);
		if (n > 0 && set != *here)
			break;
		*here = set;
		n += run;
		if (run < max)
			break;
	}
	*count = n;
	return 0;
}

/* Makes all their bits equal. A change that others rely on leads. */
static int put_sectors(struct vhdx *v, const struct sectors *sectors, bool set, bool leads)
{
	uint64_t sector = sectors->first;

	while (sector < sectors->end) {
		uint64_t bit = sector % SECTORS_IN_PAGE;
		uint64_t count = min_u64(sectors->end - sector, SECTORS_IN_PAGE - bit);
		struct bat_page *page;
		bool is_set;
		int r = find_bits(v, sectors, sector, &page);

		if (r < 0)
			return r;
		if (run_length(page->entries, bit, count, &is_set) < count || is_set != set) {
			put_bits(page->entries, bit, count, set);
			bat_mark_dirty(&v->bat, page);
			page->leads |= leads;
		}
		sector += count;
	}
	return 0;
}

/* Whether a commit has to come before these bits may be relied on. */
static int are_on_their_way(struct vhdx *v, const struct sectors *sectors, bool *on_their_way)
{
	*on_their_way = false;
	for (uint64_t s = sectors->first; s < sectors->end; s += SECTORS_IN_PAGE) {
		struct bat_page *page;
		int r = find_bits(v, sectors, s, &page);

		if (r < 0)
			return r;
		*on_their_way |= page->leads || page->leading;
	}
	return 0;
}

/* The chunk's bitmap, or 0 if it has none. */
static int find_bitmap(struct vhdx *v, uint64_t block, struct bat_page **page, uint64_t **entry,
		       uint64_t *bitmap)
{
	int r = bat_find_entry(v, bat_bitmap_index(v, block), page, entry);

	if (r < 0)
		return r;
	*bitmap = 0;
	if ((**entry & VHDX_BAT_STATE_MASK) != VHDX_BITMAP_PRESENT)
		return 0;
	*bitmap = **entry & VHDX_BAT_OFFSET_MASK;
	if (!vhdx_place_is_sane(v, *bitmap, VHDX_BITMAP_SIZE, v->bat.file_end))
		return bat_complain(v, block, **entry);
	return 0;
}

/* Before a block becomes partially present: its chunk has a bitmap, in which its sectors' bits are clear,
 * also after a power cut. */
static int prepare_bitmap(struct vhdx *v, uint64_t block, const struct bat_page *block_page)
{
	struct bat_page *page;
	struct sectors all;
	uint64_t *entry, bitmap;
	bool wait = false;
	int r = find_bitmap(v, block, &page, &entry, &bitmap);

	if (r < 0)
		return r;
	if (bitmap == 0) {
		page->pinned = true;
		r = bat_allocate(v, VHDX_BITMAP_SIZE, &bitmap);
		page->pinned = false;
		if (r < 0)
			return r;
		*entry = bitmap | VHDX_BITMAP_PRESENT;
		bat_mark_dirty(&v->bat, page);
		page->leads = true;
	}
	if (page != block_page && (page->leads || page->leading))
		wait = true;
	all = sectors_of(v, bitmap, block, 0, v->block_size);
	r = put_sectors(v, &all, false, true);
	if (r == 0 && !wait)
		r = are_on_their_way(v, &all, &wait);
	return r < 0 ? r : wait ? -EAGAIN : 0;
}

static int begin_block(struct vhdx *v, uint64_t block, struct bat_page *page, uint64_t *entry)
{
	uint64_t place;
	int r = prepare_bitmap(v, block, page);

	if (r == 0)
		r = bat_allocate(v, v->block_size, &place);
	if (r < 0)
		return r;
	*entry = place | VHDX_BLOCK_PARTIALLY_PRESENT;
	bat_mark_dirty(&v->bat, page);
	return 0;
}

static int map_absent(struct vhdx *v, enum map_purpose purpose, const struct block_range *range,
		      struct bat_page *page, uint64_t *entry, struct extent *extent)
{
	int r;

	if (purpose == MAP_READ) {
		extent->kind = EXTENT_PARENT;
		return 0;
	}
	if (purpose == MAP_ZERO && range->in_block == 0 &&
	    range->length >= vhdx_block_used(v, range->block)) {
		extent->kind = EXTENT_ZERO;
		*entry = VHDX_BLOCK_ZERO;
		bat_mark_dirty(&v->bat, page);
		return 0;
	}
	r = begin_block(v, range->block, page, entry);
	extent->kind = EXTENT_FILE;
	extent->file_offset = (*entry & VHDX_BAT_OFFSET_MASK) + range->in_block;
	extent->settle = true;
	return r;
}

static int map_partial(struct vhdx *v, enum map_purpose purpose, const struct block_range *range,
		       uint64_t entry, struct extent *extent)
{
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK, bitmap, count = 0, *bitmap_entry;
	uint32_t size = v->disk->info.logical_sector_size;
	struct sectors sectors;
	struct bat_page *page;
	bool here = false;
	int r = find_bitmap(v, range->block, &page, &bitmap_entry, &bitmap);

	if (r < 0)
		return r;
	if (bitmap == 0 || !vhdx_place_is_sane(v, place, vhdx_block_used(v, range->block), v->bat.file_end))
		return bat_complain(v, range->block, entry);
	sectors =
	    sectors_of(v, bitmap, range->block, range->in_block, range->in_block + range->length + size - 1);
	r = look_up(v, &sectors, &count, &here);
	if (r < 0)
		return r;
	count = min_u64(count * size - range->in_block % size, range->length);
	extent->kind = EXTENT_FILE;
	extent->file_offset = place + range->in_block;
	if (purpose != MAP_READ) {
		extent->settle = !here || count < range->length;
		return 0;
	}
	extent->length = count;
	if (!here)
		extent->kind = EXTENT_PARENT;
	return 0;
}

int child_map(struct vhdx *v, enum map_purpose purpose, const struct block_range *range,
	      struct bat_page *page, uint64_t *entry, struct extent *extent)
{
	int r = 0;

	page->pinned = true;
	if ((*entry & VHDX_BAT_STATE_MASK) == VHDX_BLOCK_NOT_PRESENT)
		r = map_absent(v, purpose, range, page, entry, extent);
	else if (purpose == MAP_ZERO && bat_give_up(v, range, page, entry))
		extent->kind = EXTENT_ZERO;
	else
		r = map_partial(v, purpose, range, *entry, extent);
	page->pinned = false;
	return r;
}

/* [bat.lock] */
static int settle(struct vhdx *v, uint64_t block, uint64_t from, uint64_t to, uint64_t place)
{
	const uint64_t known = VHDX_BAT_STATE_MASK | VHDX_BAT_OFFSET_MASK;
	uint64_t *entry, *bitmap_entry, bitmap, count;
	struct bat_page *page, *bitmap_page;
	struct sectors sectors;
	bool here;
	int r = bat_find_entry(v, bat_entry_index(v, block), &page, &entry);

	/* Otherwise fully present: another write has completed it. */
	if (r < 0 || (*entry & known) != (place | VHDX_BLOCK_PARTIALLY_PRESENT))
		return r;
	page->pinned = true;
	r = find_bitmap(v, block, &bitmap_page, &bitmap_entry, &bitmap);
	if (r == 0) {
		sectors = sectors_of(v, bitmap, block, from, to);
		r = put_sectors(v, &sectors, true, false);
	}
	if (r == 0) {
		sectors = sectors_of(v, bitmap, block, 0, vhdx_block_used(v, block));
		r = look_up(v, &sectors, &count, &here);
	}
	page->pinned = false;
	if (r == 0 && here && count == sectors.end - sectors.first) {
		*entry = place | VHDX_BLOCK_FULLY_PRESENT;
		bat_mark_dirty(&v->bat, page);
	}
	return r;
}

int child_settle(struct disk *disk, uint64_t offset, uint64_t length, uint64_t file_offset)
{
	struct vhdx *v = disk->format;
	uint64_t in_block = offset & (v->block_size - 1);
	bool crowded;
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = settle(v, offset >> v->block_shift, in_block, in_block + length, file_offset - in_block);
	crowded = v->bat.dirty_count >= BAT_DIRTY_MAX;
	pthread_mutex_unlock(&v->bat.lock);
	return r == 0 && crowded ? vhdx_commit(disk) : r;
}
