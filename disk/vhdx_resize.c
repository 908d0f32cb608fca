/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_resize.c - another size for a VHDX. What the new size needs is made ready where nothing counts yet: the
 * rest of the last block, entries behind the BAT's end, a larger BAT elsewhere, the blocks of a fixed disk. That
 * is synced. Then one entry of the log changes the size, and the place of the BAT if it has moved: a power cut
 * leaves the old disk or the new one. No request is in flight all the time.
 *
 * A differencing disk may grow when its parent has nothing there, so that what is new is zeros. It may shrink, but not
 * grow again below its parent's size, whose contents would come back.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"
#include "disk/vhdx_metadata.h"

#define BATCH 8192u /* entries */

struct resize {
	struct vhdx *v;
	uint64_t size, block_count, entries;
	struct region bat;    /* of the new size */
	uint64_t first_place; /* of the new blocks of a fixed disk */
};

/* Bytes that go into the next commit, and what they replace. */
struct patch {
	uint64_t offset;
	size_t size;
	uint8_t *old, *new;
};

static bool moves(const struct resize *r)
{
	return r->bat.offset != r->v->bat_region.offset;
}

static int check(const struct resize *resize, struct error *err)
{
	const struct disk *disk = resize->v->disk, *parent = disk->parent;

	if (!parent || resize->size < disk->info.size)
		return 0;
	if (parent->info.size > disk->info.size)
		return error_set(err, ENOTSUP,
				 "%s: its parent %s is larger than it, so that what is new would not be empty; "
				 "convert it to a disk of its own first, by: bulkhead disk convert",
				 disk->path, parent->path);
	return 0;
}

/* What the file has of the last block behind the disk's end counts from now on. */
static int clear_rest_of_last(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint64_t used = vhdx_block_used(v, v->block_count - 1), *entry;
	struct bat_page *page;
	unsigned state;
	uint64_t place;
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = bat_find_entry(v, bat_entry_index(v, v->block_count - 1), &page, &entry);
	state = r == 0 ? *entry & VHDX_BAT_STATE_MASK : 0;
	place = r == 0 ? *entry & VHDX_BAT_OFFSET_MASK : 0;
	pthread_mutex_unlock(&v->bat.lock);
	if (r < 0 || (state != VHDX_BLOCK_FULLY_PRESENT && state != VHDX_BLOCK_PARTIALLY_PRESENT))
		return r;
	return file_zero(&v->disk->file, place + used, v->block_size - used);
}

/* The table of a differencing disk goes on to the end of the last chunk: blocks that shrinking has left there are
 * nobody's, and are none of the new ones. */
static int clear_rest_of_chunk(struct vhdx *v, uint64_t block_count)
{
	uint64_t first = bat_entry_index(v, block_count - 1) + 1, end = bat_bitmap_index(v, block_count - 1);

	return v->has_parent ? file_zero(&v->disk->file, v->bat_region.offset + first * 8, (end - first) * 8) : 0;
}

static int find_bat(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint64_t length = align_up_u64(resize->entries * 8, VHDX_UNIT);
	int r;

	resize->bat = v->bat_region;
	if (length <= v->bat_region.length)
		return 0;
	resize->bat.length = length;
	pthread_mutex_lock(&v->bat.lock);
	r = bat_allocate(v, length, &resize->bat.offset);
	pthread_mutex_unlock(&v->bat.lock);
	return r;
}

/* The new table, which is zeros, becomes as the old one. */
static int copy_bat(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint64_t at = v->bat_region.offset, end = at + v->bat_entries * 8;
	_cleanup_free_ uint8_t *bytes = malloc(BATCH * 8);
	int r = bytes ? 0 : -ENOMEM;

	while (r == 0 && at < end) {
		uint64_t data = file_next_data(&v->disk->file, at) & ~(uint64_t)(BAT_PAGE_SIZE - 1), size;

		at = max_u64(at, data);
		if (at >= end)
			break;
		size = min_u64(BATCH * 8, end - at);
		r = vhdx_read(v, at, bytes, size);
		if (r == 0)
			r = file_write(&v->disk->file, resize->bat.offset + (at - v->bat_region.offset), bytes,
				       size);
		at += size;
	}
	return r;
}

/* Blocks for all that is new, behind everything else. */
static int add_blocks(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint64_t count = resize->block_count - v->block_count, end;
	int r;

	resize->first_place = v->bat.next_place;
	end = resize->first_place + count * v->block_size;
	if (end > VHDX_FILE_SIZE_MAX)
		return -EFBIG;
	r = file_resize(&v->disk->file, end);
	/* Where the file system cannot promise space, the blocks are holes. */
	if (r == 0 && fallocate(v->disk->file.fd, 0, (off_t)resize->first_place,
				(off_t)(end - resize->first_place)) < 0 && errno != EOPNOTSUPP)
		r = -errno;
	if (r < 0)
		file_resize(&v->disk->file, resize->first_place);
	else
		v->bat.file_end = v->bat.next_place = end;
	return r;
}

/* Entries that the BAT does not have yet. */
static int write_new_entries(const struct resize *resize)
{
	const struct vhdx *v = resize->v;
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof(*entries));
	uint64_t at = v->bat_entries, block = v->block_count;
	int r = entries ? 0 : -ENOMEM;

	while (r == 0 && at < resize->entries) {
		size_t n = 0;

		for (; n < BATCH && at + n < resize->entries; n++) {
			bool bitmap = (at + n) % (v->chunk_ratio + 1) == v->chunk_ratio;

			entries[n] = bitmap ? 0
					    : (resize->first_place + (block - v->block_count) * v->block_size) |
						  VHDX_BLOCK_FULLY_PRESENT;
			block += !bitmap;
		}
		r = file_write(&v->disk->file, resize->bat.offset + at * 8, entries, n * sizeof(*entries));
		at += n;
	}
	return r;
}

static int prepare_growth(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint64_t had = v->bat_entries * 8;
	bool fixed = !v->disk->info.dynamic;
	int r = clear_rest_of_last(resize);

	if (r == 0)
		r = clear_rest_of_chunk(v, v->block_count);
	if (r == 0)
		r = find_bat(resize);
	if (r == 0 && moves(resize))
		r = copy_bat(resize);
	else if (r == 0)
		r = file_zero(&v->disk->file, resize->bat.offset + had, resize->entries * 8 - had);
	if (r == 0 && fixed && resize->block_count > v->block_count)
		r = add_blocks(resize);
	if (r == 0 && fixed)
		r = write_new_entries(resize);
	return r < 0 ? r : file_sync(&v->disk->file);
}

/* The region table with the BAT's new place. */
static int build_table(const struct resize *resize, uint8_t *table)
{
	static const struct guid bat = VHDX_REGION_BAT;
	struct vhdx *v = resize->v;
	int r = vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_1, table);

	if (r < 0)
		r = vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_2, table);
	for (uint32_t i = 0; r == 0 && i < le32_get(table + 8); i++) {
		uint8_t *place = table + sizeof(struct vhdx_region_table) + i * sizeof(struct vhdx_region_entry);
		struct vhdx_region_entry entry;

		memcpy(&entry, place, sizeof(entry));
		if (!guid_equal(&entry.guid, &bat))
			continue;
		entry.file_offset = resize->bat.offset;
		entry.length = (uint32_t)resize->bat.length;
		memcpy(place, &entry, sizeof(entry));
	}
	le32_put(table + 4, 0);
	le32_put(table + 4, crc32c(0, table, VHDX_TABLE_SIZE));
	return r;
}

static int put(struct vhdx *v, const struct patch *patch, const uint8_t *bytes)
{
	int r;

	pthread_mutex_lock(&v->bat.lock);
	r = bat_put_bytes(v, patch->offset, bytes, patch->size);
	pthread_mutex_unlock(&v->bat.lock);
	return r;
}

/* All of them in one entry of the log, or none: then the bytes of before are to be written with the next. */
static int commit_patches(struct vhdx *v, const struct patch *patches, size_t count)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = vhdx_read(v, patches[i].offset, patches[i].old, patches[i].size);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = put(v, &patches[i], patches[i].new);
	if (r == 0)
		r = vhdx_commit(v->disk);
	for (size_t i = 0; r < 0 && i < count; i++)
		put(v, &patches[i], patches[i].old);
	return r;
}

static int commit_size(struct resize *resize)
{
	struct vhdx *v = resize->v;
	uint8_t size[8], old_size[8];
	_cleanup_free_ uint8_t *tables = moves(resize) ? calloc(3, VHDX_TABLE_SIZE) : NULL;
	struct patch patches[] = {
	    {v->size_at, sizeof(size), old_size, size},
	    {VHDX_REGION_TABLE_OFFSET_1, VHDX_TABLE_SIZE, tables + VHDX_TABLE_SIZE, tables},
	    {VHDX_REGION_TABLE_OFFSET_2, VHDX_TABLE_SIZE, tables + 2 * VHDX_TABLE_SIZE, tables},
	};
	int r = 0;

	_Static_assert(2 * VHDX_TABLE_SIZE / BAT_PAGE_SIZE + 2 <= COMMIT_PAGES_MAX, "they fit into one entry");
	if (moves(resize))
		r = tables ? build_table(resize, tables) : -ENOMEM;
	le64_put(size, resize->size);
	return r < 0 ? r : commit_patches(v, patches, moves(resize) ? 3 : 1);
}

/* The file has the new size: so has what is in memory. */
static void take_over(struct resize *resize)
{
	struct vhdx *v = resize->v;
	struct region left = v->bat_region;

	pthread_mutex_lock(&v->bat.lock);
	v->bat_region = resize->bat;
	v->disk->info.size = resize->size;
	v->block_count = resize->block_count;
	v->bat_entries = resize->entries;
	bat_forget(v);
	if (v->free.ring && left.offset != resize->bat.offset)
		free_region(v, left.offset, left.length);
	pthread_mutex_unlock(&v->bat.lock);
}

/* What is nobody's any more after shrinking is found by looking again; the end of the file is cut off. */
static int find_free_space(struct vhdx *v, uint64_t had, struct error *err)
{
	uint64_t has = v->bat_entries * 8;
	int r = had > has ? file_zero(&v->disk->file, v->bat_region.offset + has, had - has) : 0;

	if (r == 0)
		r = clear_rest_of_chunk(v, v->block_count);
	if (r < 0)
		return error_set(err, -r, "%s: its block allocation table cannot be written: %s", v->disk->path,
				 strerror(-r));
	/* A log that is not empty says how long the file is at least. */
	r = vhdx_rest(v->disk, err);
	if (r == 0)
		r = vhdx_scan(v, err);
	if (r < 0)
		return r;
	v->bat.next_place = v->bat.used_end;
	if (v->bat.next_place < v->bat.file_end && file_resize(&v->disk->file, v->bat.next_place) == 0)
		v->bat.file_end = v->bat.next_place;
	return 0;
}

int vhdx_resize(struct disk *disk, uint64_t size, struct error *err)
{
	struct vhdx *v = disk->format;
	struct resize resize = {.v = v, .size = size, .bat = v->bat_region};
	uint64_t had = v->bat_entries * 8;
	bool grows = size > disk->info.size;
	struct error left = {0};
	int r = check(&resize, err);

	if (r < 0)
		return r;
	resize.block_count = vhdx_block_count(v, size);
	resize.entries = vhdx_bat_entries(v, resize.block_count);
	r = vhdx_begin_data(v);
	/* All of the change has to be in one entry of the log: nothing else may be waiting. */
	if (r == 0)
		r = vhdx_commit(disk);
	if (r == 0 && grows)
		r = prepare_growth(&resize);
	if (r == 0)
		r = commit_size(&resize);
	if (r < 0)
		return error_set(err, -r, "%s: its size cannot be changed to %ju bytes: %s; it is what it was",
				 disk->path, (uintmax_t)size, strerror(-r));
	take_over(&resize);
	/* The size has changed, and those who use the disk have to be told: this is no failure any more. */
	if (!grows && find_free_space(v, had, &left) < 0)
		log_write(LOG_LEVEL_WARNING, "%s; what has become free in it is found when it is opened again",
			  left.text);
	return 0;
}
