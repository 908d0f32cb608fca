/* SPDX-License-Identifier: GPL-2.0-or-later */
/* extent.c - where the contents of a disk lie, down to the holes of the host's file. */
#include <errno.h>
#include <string.h>

#include "disk/image.h"

#define GRAIN 4096u

/* Of a run that lies in the file: the part from its start on that is all hole or all data. Borders inside
 * the run are put on multiples of GRAIN, towards more data. */
static void split_at_holes(const struct extent *run, struct disk_extent *out)
{
	uint64_t data = file_next_data(run->file, run->file_offset), hole, end;

	data = data == UINT64_MAX ? run->length : min_u64(data - run->file_offset, run->length);
	end = data == run->length ? data : data - min_u64(data, (out->offset + data) % GRAIN);
	if (end > 0) {
		out->zero = true;
		out->length = end;
		return;
	}
	hole = file_next_hole(run->file, run->file_offset + data);
	hole = min_u64(hole - run->file_offset, run->length);
	hole = align_up_u64(out->offset + hole, GRAIN) - out->offset;
	out->length = min_u64(hole, run->length);
}

int disk_map_parent(const struct disk *disk, uint64_t offset, struct extent *extent)
{
	struct disk *parent = disk->parent;

	if (offset >= parent->info.size) {
		extent->kind = EXTENT_ZERO;
		return 0;
	}
	return parent->ops->map(parent, MAP_READ, offset, min_u64(extent->length, parent->info.size - offset),
				extent);
}

static int extent_at(struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *out)
{
	struct extent run;
	int r = disk->ops->map(disk, MAP_READ, offset, length, &run);

	if (r < 0)
		return r;
	*out = (struct disk_extent){.offset = offset, .length = run.length};
	out->zero = run.kind == EXTENT_ZERO;
	out->in_file = run.kind == EXTENT_FILE && run.file == &disk->file;
	if (out->in_file)
		out->file_offset = run.file_offset;
	if (run.kind == EXTENT_FILE)
		split_at_holes(&run, out);
	extent_release(&run);
	return 0;
}

static bool continues(const struct disk_extent *a, const struct disk_extent *b)
{
	return a->zero == b->zero && a->in_file == b->in_file &&
	       (!a->in_file || a->file_offset + a->length == b->file_offset);
}

int disk_get_extent_inside(struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extent,
			   struct error *err)
{
	struct disk_extent next;
	int r;

	if (length == 0 || !range_fits_u64(offset, length, disk->info.size))
		return error_set(err, EINVAL, "%s: %ju bytes at offset %ju are not on the disk of %ju bytes",
				 disk->path, (uintmax_t)length, (uintmax_t)offset, (uintmax_t)disk->info.size);
	r = extent_at(disk, offset, length, extent);
	while (r == 0 && extent->length < length) {
		r = extent_at(disk, offset + extent->length, length - extent->length, &next);
		if (r < 0 || !continues(extent, &next))
			return 0; /* the next call tells what is wrong there */
		extent->length += next.length;
	}
	if (r < 0)
		error_set(err, -r, "%s: where the bytes at offset %ju are cannot be found: %s", disk->path,
			  (uintmax_t)offset, strerror(-r));
	return r;
}

int disk_get_extent(struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extent,
		    struct error *err)
{
	int r;

	gate_enter_waiting(disk->gate);
	r = disk_get_extent_inside(disk, offset, length, extent, err);
	gate_leave(disk->gate);
	return r;
}
