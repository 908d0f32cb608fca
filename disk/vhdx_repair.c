/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_repair.c - putting right what vhdx_check.c has found, and giving back what is nobody's. */
#include <errno.h>

#include "disk/repair.h"
#include "disk/vhdx.h"

/* Both headers are written anew, which is all that a damaged one needs. Where contents are lost, they are others from
 * now on, which those who continue them are to know. */
int vhdx_begin_repair(struct disk *disk, const struct repair *repair)
{
	struct vhdx *v = disk->format;

	return repair->lossy > 0 ? vhdx_begin_data(v) : vhdx_begin_same_data(v);
}

/* Bytes of a range that are no holes already become one. */
static int punch(struct file *file, uint64_t from, uint64_t end, uint64_t *bytes)
{
	uint64_t at = file_next_data(file, from), hole;
	int r = 0;

	for (; r == 0 && at < end; at = file_next_data(file, hole)) {
		hole = min_u64(file_next_hole(file, at), end);
		if (hole <= at)
			break;
		*bytes += hole - at;
		r = file_zero(file, at, hole - at);
		if (hole == end)
			break;
	}
	return r;
}

/* Space that nobody has is a hole or behind the end for us, but other programs leave it, and power cuts. */
int vhdx_reclaim(struct disk *disk, uint64_t *bytes)
{
	struct vhdx *v = disk->format;
	const struct space *space = &v->free.space;
	uint64_t end = space_end(space), unit = 0;
	int r = 0;

	if (!v->free.ring)
		return 0;
	*bytes = v->bat.file_end > end ? v->bat.file_end - end : 0;
	while (r == 0 && unit < end / VHDX_UNIT) {
		uint64_t first = space_find(space, unit, 1), after = first;

		if (first == UINT64_MAX || first >= end / VHDX_UNIT)
			break;
		while (after < end / VHDX_UNIT && space_find(space, after, 1) == after)
			after++;
		r = punch(&disk->file, first * VHDX_UNIT, after * VHDX_UNIT, bytes);
		unit = after;
	}
	/* It cuts off what lies behind the end. */
	if (r == 0 && *bytes > 0)
		r = vhdx_begin_file(v);
	return r < 0 ? r : file_sync(&disk->file);
}
