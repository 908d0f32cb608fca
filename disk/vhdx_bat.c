/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_bat.c - where the blocks are: pages of the BAT, loaded as they are needed; new blocks. */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

void bat_init(struct bat *bat)
{
	pthread_mutex_init(&bat->lock, NULL);
	bat->dirty_end = &bat->dirty;
}

void bat_destroy(struct bat *bat)
{
	for (unsigned i = 0; i < bat->page_count; i++)
		free(bat->pages[i]);
	pthread_mutex_destroy(&bat->lock);
}

void bat_mark_dirty(struct bat *bat, struct bat_page *page)
{
	if (page->dirty)
		return;
	page->dirty = true;
	page->next_dirty = NULL;
	*bat->dirty_end = page;
	bat->dirty_end = &page->next_dirty;
	bat->dirty_count++;
}

static void leave_bucket(struct bat *bat, struct bat_page *page)
{
	struct bat_page **link = &bat->buckets[page->index % BAT_BUCKETS];

	while (*link != page)
		link = &(*link)->next_in_bucket;
	*link = page->next_in_bucket;
}

/* A page to load into: a new one, or one that nobody has used for a while. Not in any bucket. */
static struct bat_page *take_page(struct bat *bat)
{
	if (bat->page_count < BAT_PAGES_MAX) {
		struct bat_page *page = calloc(1, sizeof(*page));

		if (page) {
			bat->pages[bat->page_count++] = page;
			return page;
		}
	}
	/* Without memory those that there are do. */
	for (unsigned i = 0; i < 2 * bat->page_count; i++) {
		struct bat_page *page = bat->pages[bat->hand % bat->page_count];

		bat->hand = (bat->hand + 1) % bat->page_count;
		if (page->dirty || page->committing || page->pinned)
			continue;
		if (!page->used) {
			leave_bucket(bat, page);
			return page;
		}
		page->used = false;
	}
	return NULL;
}

static void enter_bucket(struct bat *bat, struct bat_page *page, uint64_t index)
{
	page->index = index;
	page->used = true;
	page->next_in_bucket = bat->buckets[index % BAT_BUCKETS];
	bat->buckets[index % BAT_BUCKETS] = page;
}

int bat_find_page(struct vhdx *v, uint64_t file_offset, struct bat_page **out)
{
	struct bat *bat = &v->bat;
	uint64_t index = file_offset / BAT_PAGE_SIZE;
	struct bat_page *page = bat->buckets[index % BAT_BUCKETS];
	uint64_t entries[BAT_PAGE_ENTRIES];
	int r;

	while (page && page->index != index)
		page = page->next_in_bucket;
	if (!page) {
		r = vhdx_read(v, index * BAT_PAGE_SIZE, entries, sizeof(entries));
		if (r < 0)
			return r == -ENODATA ? -EBADMSG : r;
		page = take_page(bat);
		if (!page)
			return -ENOMEM;
		memcpy(page->entries, entries, sizeof(entries));
		enter_bucket(bat, page, index);
	}
	page->used = true;
	*out = page;
	return 0;
}

int bat_find_entry(struct vhdx *v, uint64_t index, struct bat_page **page, uint64_t **entry)
{
	int r = bat_find_page(v, v->bat_region.offset + index * 8, page);

	if (r == 0)
		*entry = &(*page)->entries[index % BAT_PAGE_ENTRIES];
	return r;
}

int bat_put_bytes(struct vhdx *v, uint64_t offset, const void *bytes, size_t size)
{
	const uint8_t *from = bytes;

	while (size > 0) {
		size_t in_page = offset % BAT_PAGE_SIZE, part = min_u64(size, BAT_PAGE_SIZE - in_page);
		struct bat_page *page;
		int r = bat_find_page(v, offset, &page);

		if (r < 0)
			return r;
		memcpy((uint8_t *)page->entries + in_page, from, part);
		bat_mark_dirty(&v->bat, page);
		from += part;
		offset += part;
		size -= part;
	}
	return 0;
}

void bat_forget(struct vhdx *v)
{
	struct bat *bat = &v->bat;

	for (unsigned i = 0; i < bat->page_count; i++)
		free(bat->pages[i]);
	memset(bat->buckets, 0, sizeof(bat->buckets));
	bat->page_count = bat->hand = 0;
}

static bool meets(const struct region *region, uint64_t offset, uint64_t length)
{
	return offset < region->offset + region->length && region->offset < offset + length;
}

bool vhdx_place_is_sane(const struct vhdx *v, uint64_t file_offset, uint64_t length, uint64_t file_end)
{
	return file_offset >= VHDX_HEADER_SECTION && range_fits_u64(file_offset, length, file_end) &&
	       !meets(&v->log, file_offset, length) && !meets(&v->bat_region, file_offset, length) &&
	       !meets(&v->metadata, file_offset, length);
}

int bat_complain(struct vhdx *v, uint64_t block, uint64_t entry)
{
	if (log_limit_pass(&v->complaints, 3))
		log_write(LOG_LEVEL_ERROR,
			  "%s: block %ju has the impossible state %u or place %ju in the block allocation "
			  "table of a file of "
			  "%ju bytes; requests for it fail",
			  v->disk->path, (uintmax_t)block, (unsigned)(entry & VHDX_BAT_STATE_MASK),
			  (uintmax_t)(entry & VHDX_BAT_OFFSET_MASK), (uintmax_t)v->bat.file_end);
	return -EBADMSG;
}

/* It is free space, or what lies behind the file's end, so that it reads as zeros: vhdx_begin_data() has cut off
 * what lay behind next_place. */
int bat_allocate(struct vhdx *v, uint64_t length, uint64_t *place)
{
	uint64_t end = v->bat.next_place + length;
	int r = free_take(v, length, place);

	if (r != -ENOENT)
		return r;
	if (end > VHDX_FILE_SIZE_MAX)
		return -EFBIG;
	r = file_resize(&v->disk->file, end);
	if (r == 0)
		r = free_grow(v, end);
	if (r < 0)
		return r;
	*place = v->bat.next_place;
	v->bat.file_end = v->bat.next_place = end;
	return 0;
}

/* [bat.lock] */
static int allocate(struct vhdx *v, struct bat_page *page, uint64_t *entry)
{
	uint64_t place;
	int r = bat_allocate(v, v->block_size, &place);

	if (r < 0)
		return r;
	*entry = place | VHDX_BLOCK_FULLY_PRESENT;
	bat_mark_dirty(&v->bat, page);
	return 0;
}

bool bat_give_up(struct vhdx *v, const struct block_range *range, struct bat_page *page, uint64_t *entry)
{
	uint64_t place = *entry & VHDX_BAT_OFFSET_MASK, used = vhdx_block_used(v, range->block);
	unsigned state = *entry & VHDX_BAT_STATE_MASK;

	/* What stands in the entry of a block that is not present may be another's place. */
	if (state != VHDX_BLOCK_FULLY_PRESENT && state != VHDX_BLOCK_PARTIALLY_PRESENT)
		return false;
	if (range->in_block != 0 || range->length < used ||
	    !vhdx_place_is_sane(v, place, used, v->bat.file_end) || !free_leave(v, place))
		return false;
	*entry = VHDX_BLOCK_ZERO;
	bat_mark_dirty(&v->bat, page);
	return true;
}

/* [bat.lock] */
static int map_block(struct vhdx *v, enum map_purpose purpose, const struct block_range *range,
		     struct extent *extent)
{
	uint64_t used = vhdx_block_used(v, range->block), *entry;
	struct bat_page *page;
	unsigned state;
	int r = bat_find_entry(v, bat_entry_index(v, range->block), &page, &entry);

	if (r < 0)
		return r;
	state = *entry & VHDX_BAT_STATE_MASK;
	if (v->disk->parent && (state == VHDX_BLOCK_NOT_PRESENT || state == VHDX_BLOCK_PARTIALLY_PRESENT))
		return child_map(v, purpose, range, page, entry, extent);
	switch (state) {
	case VHDX_BLOCK_FULLY_PRESENT:
		if (purpose != MAP_ZERO || !bat_give_up(v, range, page, entry))
			break;
		extent->kind = EXTENT_ZERO;
		return 0;
	case VHDX_BLOCK_NOT_PRESENT:
	case VHDX_BLOCK_UNDEFINED:
	case VHDX_BLOCK_ZERO:
	case VHDX_BLOCK_UNMAPPED:
	case VHDX_BLOCK_UNMAPPED_V095:
		extent->kind = EXTENT_ZERO;
		if (purpose != MAP_WRITE)
			return 0;
		r = allocate(v, page, entry);
		if (r < 0)
			return r;
		break;
	default:
		return bat_complain(v, range->block, *entry);
	}
	extent->kind = EXTENT_FILE;
	extent->file_offset = (*entry & VHDX_BAT_OFFSET_MASK) + range->in_block;
	if (!vhdx_place_is_sane(v, *entry & VHDX_BAT_OFFSET_MASK, used, v->bat.file_end))
		return bat_complain(v, range->block, *entry);
	return 0;
}

int vhdx_map_here(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		  struct extent *extent)
{
	struct vhdx *v = disk->format;
	struct block_range range = {.block = offset >> v->block_shift,
				    .in_block = offset & (v->block_size - 1)};
	bool crowded;
	int r;

	if (purpose != MAP_READ) {
		r = vhdx_begin_data(v);
		if (r < 0)
			return r;
	}
	range.length = min_u64(length, v->block_size - range.in_block);
	do {
		*extent = (struct extent){.length = range.length, .file = &disk->file};
		pthread_mutex_lock(&v->bat.lock);
		r = map_block(v, purpose, &range, extent);
		if (r == 0 && extent->kind == EXTENT_FILE)
			free_hold(v, extent);
		crowded = v->bat.dirty_count >= BAT_DIRTY_MAX || free_is_crowded(v);
		pthread_mutex_unlock(&v->bat.lock);
		if (r == -EAGAIN || (r == 0 && crowded)) {
			int committed = vhdx_commit(disk);

			if (r == 0 && committed < 0)
				extent_release(extent);
			r = committed < 0 ? committed : r;
		}
	} while (r == -EAGAIN);
	if (r < 0)
		return r;
	if (extent->kind == EXTENT_FILE && v->overlay_count > 0)
		vhdx_apply_overlays(v, extent);
	return 0;
}

int vhdx_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	     struct extent *extent)
{
	int r = vhdx_map_here(disk, purpose, offset, length, extent);

	return r == 0 && extent->kind == EXTENT_PARENT ? disk_map_parent(disk, offset, extent) : r;
}
