/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_compact.c - the same contents in less space. Blocks that are zeros lose their place (in a differencing disk they
 * hide the parent, and stay); the others move from the end of the file into gaps before them, and so do header and
 * table, when they lie behind; then the file is cut off.
 *
 * A gap is free as of the last commit. What moves into it is copied; the commit syncs the copy before the table names
 * it, sector by sector in one piece, and only then the old place is a gap. So a power cut leaves each block at one of
 * two places that have the same.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "disk/operation.h"
#include "disk/vhd.h"

#define PART       (UINT64_C(1) << 20)
#define BATCH      64u /* moves in one commit */
#define STRUCTURE  UINT32_MAX

/* What has a place in the file; in the order of the places. */
struct piece {
	uint64_t offset, length;
	uint32_t block; /* or STRUCTURE */
};

struct compact {
	struct vhd *v;
	const struct disk_progress *progress;
	struct error *err;
	struct piece *pieces;
	size_t count;
	uint8_t *buffer;
};

static uint64_t stride_of(const struct vhd *v)
{
	return v->bitmap_size + (uint64_t)v->block_size;
}

static uint64_t place_of(const struct vhd *v, uint32_t block)
{
	return (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;
}

static uint64_t table_size(const struct vhd *v)
{
	return align_up_u64((uint64_t)v->table_entries * VHD_BAT_ENTRY_SIZE, VHD_SECTOR_SIZE);
}

static int by_offset(const void *a, const void *b)
{
	const struct piece *left = a, *right = b;

	return (left->offset > right->offset) - (left->offset < right->offset);
}

static void add(struct compact *c, uint64_t offset, uint64_t length, uint32_t block)
{
	if (length > 0)
		c->pieces[c->count++] = (struct piece){offset, length, block};
}

/* All that the file names. */
static void look(struct compact *c)
{
	const struct vhd *v = c->v;

	c->count = 0;
	add(c, 0, VHD_SECTOR_SIZE, STRUCTURE);
	add(c, v->header_offset, sizeof(v->header), STRUCTURE);
	add(c, v->table_offset, table_size(v), STRUCTURE);
	for (unsigned i = 0; v->has_parent && i < VHD_LOCATORS; i++) {
		const struct vhd_parent_locator *locator = &v->header.parent_locators[i];
		uint64_t offset = be64_get(locator->platform_data_offset);

		if (be32_get(locator->platform_code) != 0 && offset < v->paths_end)
			add(c, offset, max_u64(be32_get(locator->platform_data_space), be32_get(locator->platform_data_length)),
			    STRUCTURE);
	}
	for (uint32_t i = 0; i < v->table_entries; i++)
		if (vhd_entry(v, i) != VHD_BAT_UNUSED)
			add(c, place_of(v, i), stride_of(v), i < v->block_count ? i : STRUCTURE);
	qsort(c->pieces, c->count, sizeof(*c->pieces), by_offset);
}

static void put_entry(struct vhd *v, uint32_t block, uint32_t entry)
{
	pthread_mutex_lock(&v->bat.lock);
	be32_put(v->bat.table + (size_t)block * VHD_BAT_ENTRY_SIZE, entry);
	vhd_mark_dirty(&v->bat, block / VHD_BAT_SECTOR_ENTRIES);
	v->bat.bits[block] = BITS_UNKNOWN;
	v->bat.bitmap_block = VHD_NO_BLOCK;
	pthread_mutex_unlock(&v->bat.lock);
}

static int step(const struct compact *c, uint64_t done)
{
	uint64_t total = 2 * (uint64_t)c->v->block_count;

	if (!c->progress || c->progress->step(c->progress->context, min_u64(done, total), total))
		return 0;
	return error_set(c->err, ECANCELED,
			 "%s: compacting was stopped, as was asked; what has been done stays, and compacting it again goes "
			 "on",
			 c->v->disk->path);
}

static int tell(struct compact *c, int r, const char *what)
{
	return error_set(c->err, -r, "%s: %s: %s", c->v->disk->path, what, strerror(-r));
}

/* Pages of bitmaps are known by their places, which change. */
static int commit(struct compact *c)
{
	struct vhd *v = c->v;
	int r = vhd_commit(v->disk);

	if (r < 0)
		return tell(c, r, "its block allocation table cannot be written");
	pthread_mutex_lock(&v->bat.lock);
	vhd_free_pages(&v->pages);
	v->pages = (struct vhd_pages){.count = 0};
	pthread_mutex_unlock(&v->bat.lock);
	return 0;
}

/* --- zeros --- */

static int part_is_zero(struct compact *c, uint64_t offset, uint64_t length, bool *zero)
{
	const struct iovec iov = {c->buffer, length};
	struct disk_request request = {.op = DISK_OP_READ, .offset = offset, .length = length, .iov = &iov, .iov_count = 1};
	struct operation op;
	int r;

	operation_start(&op, c->v->disk, &request);
	r = operation_run(&op);
	*zero = r == 0 && c->buffer[0] == 0 && memcmp(c->buffer, c->buffer + 1, length - 1) == 0;
	return r;
}

static int block_is_zero(struct compact *c, uint32_t block, bool read, bool *zero)
{
	struct vhd *v = c->v;
	uint64_t data = place_of(v, block) + v->bitmap_size, used = vhd_block_used(v, block);
	int r = 0;

	*zero = file_next_data(&v->disk->file, data) >= data + used;
	if (*zero || !read)
		return 0;
	*zero = true;
	for (uint64_t at = 0, part; r == 0 && *zero && at < used; at += part) {
		part = min_u64(PART, used - at);
		r = part_is_zero(c, ((uint64_t)block << v->block_shift) + at, part, zero);
	}
	return r;
}

static int free_zeros(struct compact *c, bool read)
{
	struct vhd *v = c->v;
	int r = 0;

	for (uint32_t i = 0; r == 0 && !v->has_parent && i < v->block_count; i++) {
		bool zero;

		if (vhd_entry(v, i) == VHD_BAT_UNUSED)
			continue;
		r = step(c, i);
		if (r < 0)
			return r;
		r = block_is_zero(c, i, read, &zero);
		if (r < 0)
			return tell(c, r, "a block cannot be read");
		if (zero)
			put_entry(v, i, VHD_BAT_UNUSED);
	}
	return commit(c);
}

/* --- moving --- */

/* The lowest gap for so much, so that what begins `before` bytes behind its start is aligned. */
static uint64_t find_gap(const struct compact *c, uint64_t length, uint64_t before, uint64_t below)
{
	uint64_t end = 0;

	for (size_t i = 0; i < c->count; i++) {
		uint64_t place = align_up_u64(end + before, before ? VHD_DATA_ALIGNMENT : VHD_SECTOR_SIZE) - before;

		if (place >= below)
			break;
		if (place + length <= c->pieces[i].offset)
			return place;
		end = max_u64(end, align_up_u64(c->pieces[i].offset + c->pieces[i].length, VHD_SECTOR_SIZE));
	}
	return UINT64_MAX;
}

static int copy(struct compact *c, uint64_t from, uint64_t to, uint64_t length)
{
	struct file *file = &c->v->disk->file;
	int r = file_zero(file, to, length);

	for (uint64_t at = 0, part; r == 0 && at < length; at += part) {
		uint64_t data = file_next_data(file, from + at);

		if (data >= from + length)
			break;
		at = max_u64(at, data - from);
		part = min_u64(PART, length - at);
		r = file_read(file, from + at, c->buffer, part);
		if (r == 0)
			r = file_write(file, to + at, c->buffer, part);
	}
	return r;
}

/* Puts a place into the order, so that nobody else takes it. */
static void insert(struct compact *c, uint64_t offset, uint64_t length, uint32_t block)
{
	size_t i = c->count++;

	for (; i > 0 && c->pieces[i - 1].offset > offset; i--)
		c->pieces[i] = c->pieces[i - 1];
	c->pieces[i] = (struct piece){offset, length, block};
}

/* The last blocks go into the first gaps; at most BATCH, or 0: none does. */
static int move_some(struct compact *c, unsigned *moved)
{
	struct vhd *v = c->v;
	uint64_t stride = stride_of(v);
	int r = 0;

	look(c);
	*moved = 0;
	for (size_t left = c->count; r == 0 && left > 0 && *moved < BATCH;) {
		struct piece piece = c->pieces[--left];
		uint64_t to;

		if (piece.block == STRUCTURE)
			continue;
		to = find_gap(c, stride, v->bitmap_size, piece.offset);
		if (to == UINT64_MAX)
			break;
		r = copy(c, piece.offset, to, stride);
		if (r < 0)
			return tell(c, r, "a block cannot be moved");
		put_entry(v, piece.block, (uint32_t)(to / VHD_SECTOR_SIZE));
		insert(c, to, stride, STRUCTURE);
		left++; /* everything before it is one further */
		++*moved;
	}
	return *moved > 0 ? commit(c) : 0;
}

/* Header and table as one piece, if there is a gap for them. */
static int move_structures(struct compact *c)
{
	struct vhd *v = c->v;
	struct vhd_dynamic_header header = v->header;
	struct vhd_footer footer = v->footer;
	uint64_t length = sizeof(header) + table_size(v), place;
	int r;

	look(c);
	place = find_gap(c, length, 0, min_u64(v->header_offset, v->table_offset));
	if (place == UINT64_MAX)
		return 0;
	be64_put(header.table_offset, place + sizeof(header));
	be32_put(header.checksum, vhd_checksum(&header, sizeof(header), offsetof(struct vhd_dynamic_header, checksum)));
	r = file_write(&v->disk->file, place, &header, sizeof(header));
	if (r == 0)
		r = file_write(&v->disk->file, place + sizeof(header), v->bat.table, table_size(v));
	if (r == 0)
		r = file_sync(&v->disk->file);
	be64_put(footer.data_offset, place);
	if (r == 0)
		r = vhd_change_footers(v, &footer);
	if (r < 0)
		return tell(c, r, "its header cannot be moved");
	v->header = header;
	v->header_offset = place;
	v->table_offset = place + sizeof(header);
	return 0;
}

static int cut_off(struct compact *c)
{
	struct vhd *v = c->v;
	uint64_t end = 0;
	int r = 0;

	look(c);
	for (size_t i = 0; i < c->count; i++)
		end = max_u64(end, align_up_u64(c->pieces[i].offset + c->pieces[i].length, VHD_SECTOR_SIZE));
	pthread_mutex_lock(&v->bat.lock);
	if (end < v->bat.next_place) {
		v->bat.next_place = end;
		r = vhd_put_end(v);
	}
	pthread_mutex_unlock(&v->bat.lock);
	if (r == 0)
		r = file_sync(&v->disk->file);
	return r < 0 ? tell(c, r, "its end cannot be cut off") : 0;
}

static int run(struct compact *c, bool read)
{
	struct vhd *v = c->v;
	unsigned moved = 1;
	uint64_t done = 0;
	int r = vhd_mend(v);

	if (r < 0)
		return tell(c, r, "its footers cannot be written");
	r = commit(c);
	if (r == 0)
		r = free_zeros(c, read);
	for (; r == 0 && moved > 0; done += moved) {
		r = step(c, v->block_count + done);
		if (r == 0)
			r = move_some(c, &moved);
	}
	if (r == 0)
		r = move_structures(c);
	return r < 0 ? r : cut_off(c);
}

int vhd_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err)
{
	struct vhd *v = disk->format;
	struct compact c = {.v = v, .progress = progress, .err = err};
	int r;

	if (memcmp(v->footer.creator_application, "tap", 4) == 0)
		return error_set(err, ENOTSUP,
				 "%s: XenServer keeps more in it than is known here; convert it by: bulkhead disk convert, "
				 "which leaves zeros out",
				 disk->path);
	c.pieces = calloc((size_t)v->table_entries + 3 + VHD_LOCATORS + BATCH, sizeof(*c.pieces));
	c.buffer = malloc(PART);
	r = c.pieces && c.buffer ? run(&c, read) : error_set(err, ENOMEM, "%s: no memory to compact it", disk->path);
	free(c.pieces);
	free(c.buffer);
	return r;
}
