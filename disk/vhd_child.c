/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_child.c - blocks of a differencing disk: the sectors whose bits are set in a block's bitmap are here, all
 * others, and blocks that have no place, are the parent's. There is no block of zeros without a place: one that
 * is discarded gets a place, where its zeros are a hole, unless the parent has zeros there too.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

static int find_sector(struct vhd *v, uint64_t place, uint64_t sector, struct vhd_page **page)
{
	return vhd_find_page(v, place + sector / PAGE_SECTORS * VHD_SECTOR_SIZE, page);
}

/* How many sectors from `first` on are in the same file. */
static int look_up(struct vhd *v, uint64_t place, uint64_t first, uint64_t end, uint64_t *count, bool *here)
{
	struct vhd_page *page;
	uint64_t at = first;

	while (at < end) {
		uint64_t bit = at % PAGE_SECTORS, most = min_u64(end - at, PAGE_SECTORS - bit), run;
		int r = find_sector(v, place, at, &page);

		if (r < 0)
			return r;
		if (at == first)
			*here = vhd_sector_counts(page->bits, bit);
		if (vhd_sector_counts(page->bits, bit) != *here)
			break;
		run = vhd_run_of_sectors(page->bits, bit, bit + most);
		at += run;
		if (run < most)
			break;
	}
	*count = at - first;
	return 0;
}

static int set_sectors(struct vhd *v, uint64_t place, uint64_t first, uint64_t end)
{
	for (uint64_t at = first; at < end; at++) {
		struct vhd_page *page;
		int r = find_sector(v, place, at, &page);

		if (r < 0)
			return r;
		for (uint64_t bit = at % PAGE_SECTORS;; bit++, at++) {
			if (!vhd_sector_counts(page->bits, bit)) {
				page->bits[bit / 8] |= (uint8_t)(0x80u >> bit % 8);
				vhd_mark_page(&v->pages, page);
			}
			if (bit + 1 == PAGE_SECTORS || at + 1 == end)
				break;
		}
	}
	return 0;
}

static int map_absent(struct vhd *v, enum map_purpose purpose, uint32_t block, uint64_t in_block,
		      struct extent *extent)
{
	uint64_t offset = ((uint64_t)block << v->block_shift) + in_block, place;
	struct extent below = *extent;
	int r;

	extent->kind = EXTENT_PARENT;
	if (purpose == MAP_READ)
		return 0;
	if (purpose == MAP_ZERO) {
		r = disk_map_parent(v->disk, offset, &below);
		if (r < 0)
			return r;
		extent_release(&below);
		if (below.kind == EXTENT_ZERO) {
			extent->kind = EXTENT_ZERO;
			extent->length = below.length;
			return 0;
		}
	}
	r = vhd_allocate(v, block, &place);
	extent->kind = EXTENT_FILE;
	extent->file_offset = place + v->bitmap_size + in_block;
	extent->settle = true;
	return r;
}

int vhd_child_map(struct vhd *v, enum map_purpose purpose, uint32_t block, uint64_t in_block,
		  struct extent *extent)
{
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE, first = in_block / VHD_SECTOR_SIZE;
	uint64_t end = (in_block + extent->length + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE, count = end - first;
	bool here = true;
	int r = 0;

	if (vhd_entry(v, block) == VHD_BAT_UNUSED)
		return map_absent(v, purpose, block, in_block, extent);
	if (!vhd_place_is_sane(v, place, v->bitmap_size + vhd_block_used(v, block)))
		return vhd_complain(v, block, place);
	if (v->bat.bits[block] != BITS_ALL)
		r = look_up(v, place, first, end, &count, &here);
	if (r < 0)
		return r;
	extent->kind = here || purpose != MAP_READ ? EXTENT_FILE : EXTENT_PARENT;
	extent->file_offset = place + v->bitmap_size + in_block;
	if (purpose == MAP_READ)
		extent->length = min_u64(extent->length, count * VHD_SECTOR_SIZE - in_block % VHD_SECTOR_SIZE);
	else
		extent->settle = !here || first + count < end;
	return 0;
}

/* [bat.lock] */
static int settle(struct vhd *v, uint32_t block, uint64_t from, uint64_t to)
{
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;
	uint64_t all = vhd_block_used(v, block) / VHD_SECTOR_SIZE, count;
	bool here;
	int r = set_sectors(v, place, from / VHD_SECTOR_SIZE, to / VHD_SECTOR_SIZE);

	if (r == 0)
		r = look_up(v, place, 0, all, &count, &here);
	if (r == 0 && here && count == all)
		v->bat.bits[block] = BITS_ALL;
	return r;
}

int vhd_child_settle(struct disk *disk, uint64_t offset, uint64_t length, uint64_t file_offset)
{
	struct vhd *v = disk->format;
	uint64_t in_block = offset & (v->block_size - 1);
	bool crowded;
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = settle(v, (uint32_t)(offset >> v->block_shift), in_block, in_block + length);
	crowded = v->pages.dirty_count >= PAGES_DIRTY_MAX;
	pthread_mutex_unlock(&v->bat.lock);
	return r == 0 && crowded ? vhd_commit(disk) : r;
}
