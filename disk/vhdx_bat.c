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

		if (page)
			bat->pages[bat->page_count++] = page;
		return page;
	}
	for (unsigned i = 0; i < 2 * BAT_PAGES_MAX; i++) {
		struct bat_page *page = bat->pages[bat->hand];

		bat->hand = (bat->hand + 1) % BAT_PAGES_MAX;
		if (page->dirty || page->committing)
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

/* [bat.lock] */
static int find_page(struct vhdx *v, uint64_t index, struct bat_page **out)
{
	struct bat *bat = &v->bat;
	struct bat_page *page = bat->buckets[index % BAT_BUCKETS];
	uint64_t entries[BAT_PAGE_ENTRIES];
	int r;

	while (page && page->index != index)
		page = page->next_in_bucket;
	if (!page) {
		r = vhdx_read(v, v->bat_region.offset + index * BAT_PAGE_SIZE, entries, sizeof(entries));
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

static int complain(struct vhdx *v, uint64_t block, uint64_t entry)
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

/* A new block is what lies behind the file's end, so that it reads as zeros: vhdx_begin_data() has cut
 * off what lay behind next_place. [bat.lock] */
static int allocate(struct vhdx *v, struct bat_page *page, unsigned slot)
{
	uint64_t place = v->bat.next_place;
	int r;

	if (place > VHDX_FILE_SIZE_MAX - v->block_size)
		return -EFBIG;
	r = file_resize(&v->disk->file, place + v->block_size);
	if (r < 0)
		return r;
	v->bat.file_end = v->bat.next_place = place + v->block_size;
	page->entries[slot] = place | VHDX_BLOCK_FULLY_PRESENT;
	bat_mark_dirty(&v->bat, page);
	return 0;
}

/* [bat.lock] */
static int map_block(struct vhdx *v, bool allocating, uint64_t block, struct extent *extent)
{
	uint64_t index = bat_entry_index(v, block), entry;
	unsigned slot = index % BAT_PAGE_ENTRIES;
	uint64_t used = vhdx_block_used(v, block);
	struct bat_page *page;
	int r = find_page(v, index / BAT_PAGE_ENTRIES, &page);

	if (r < 0)
		return r;
	entry = page->entries[slot];
	switch (entry & VHDX_BAT_STATE_MASK) {
	case VHDX_BLOCK_FULLY_PRESENT:
		break;
	case VHDX_BLOCK_NOT_PRESENT:
	case VHDX_BLOCK_UNDEFINED:
	case VHDX_BLOCK_ZERO:
	case VHDX_BLOCK_UNMAPPED:
	case VHDX_BLOCK_UNMAPPED_V095:
		extent->kind = EXTENT_ZERO;
		if (!allocating)
			return 0;
		r = allocate(v, page, slot);
		if (r < 0)
			return r;
		entry = page->entries[slot];
		break;
	default:
		return complain(v, block, entry);
	}
	extent->kind = EXTENT_FILE;
	extent->file_offset = entry & VHDX_BAT_OFFSET_MASK;
	if (!vhdx_place_is_sane(v, extent->file_offset, used, v->bat.file_end))
		return complain(v, block, entry);
	return 0;
}

int vhdx_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	     struct extent *extent)
{
	struct vhdx *v = disk->format;
	uint64_t in_block = offset & (v->block_size - 1);
	bool crowded;
	int r;

	if (purpose != MAP_READ) {
		r = vhdx_begin_data(v);
		if (r < 0)
			return r;
	}
	extent->length = min_u64(length, v->block_size - in_block);
	pthread_mutex_lock(&v->bat.lock);
	r = map_block(v, purpose == MAP_WRITE, offset >> v->block_shift, extent);
	crowded = v->bat.dirty_count >= BAT_DIRTY_MAX;
	pthread_mutex_unlock(&v->bat.lock);
	if (r == 0 && crowded)
		r = vhdx_commit(disk);
	if (r < 0 || extent->kind != EXTENT_FILE)
		return r;
	extent->file_offset += in_block;
	if (v->overlay_count > 0)
		vhdx_apply_overlays(v, extent);
	return 0;
}
