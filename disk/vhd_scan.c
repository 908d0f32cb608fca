/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_scan.c - every entry of the BAT, looked at once before the file may be written. A new block goes
 * behind the last one, so an entry that points there, in a file that was cut short, would share it.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

#define ADVICE "restore the file from a backup, or open it read-only and copy what can be read"

static uint64_t place_of(const struct vhd *v, uint32_t block)
{
	return (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;
}

static int by_place(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

int vhd_find_overlaps(const struct vhd *v, int (*found)(void *context, uint32_t block, uint32_t other),
		      void *context)
{
	uint64_t stride = (v->bitmap_size + (uint64_t)v->block_size) / VHD_SECTOR_SIZE;
	_cleanup_free_ uint64_t *places = malloc(((size_t)v->block_count + 1) * sizeof(*places));
	size_t count = 0;
	int r = 0;

	if (!places)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->block_count; i++)
		if (vhd_entry(v, i) != VHD_BAT_UNUSED &&
		    vhd_place_is_sane(v, place_of(v, i), v->bitmap_size + vhd_block_used(v, i)))
			places[count++] = (uint64_t)vhd_entry(v, i) << 32 | i;
	qsort(places, count, sizeof(*places), by_place);
	for (size_t i = 1; r == 0 && i < count; i++)
		if ((places[i] >> 32) - (places[i - 1] >> 32) < stride)
			r = found(context, (uint32_t)places[i], (uint32_t)places[i - 1]);
	return r;
}

static int scan_block(struct vhd *v, uint32_t block, struct error *err)
{
	uint64_t place = place_of(v, block), used = v->bitmap_size + vhd_block_used(v, block);
	bool has_footer = v->footer_offset != UINT64_MAX;

	if (vhd_place_is_sane(v, place, used))
		return 0;
	if (range_fits_u64(place, used, has_footer ? v->footer_offset : v->file_end))
		return error_set(err, EBADMSG,
				 "%s: block %u lies at offset %ju, over the file's own structures; " ADVICE,
				 v->disk->path, block, (uintmax_t)place);
	if (has_footer && range_fits_u64(place, used, v->file_end))
		return error_set(err, EBADMSG,
				 "%s: block %u lies at offset %ju, over the footer at the end of the file, at "
				 "offset %ju; " ADVICE,
				 v->disk->path, block, (uintmax_t)place, (uintmax_t)v->footer_offset);
	return error_set(err, EBADMSG,
			 "%s: block %u lies at offset %ju, past the end of the file, which has %ju bytes: it "
			 "has been cut short; " ADVICE,
			 v->disk->path, block, (uintmax_t)place, (uintmax_t)v->file_end);
}

struct overlap {
	uint32_t block, other;
};

static int note_overlap(void *context, uint32_t block, uint32_t other)
{
	*(struct overlap *)context = (struct overlap){block, other};
	return -EEXIST;
}

/* XenServer keeps a map of its own behind the BAT that nothing here knows of: it stays. */
static bool keeps_other_things(const struct vhd_footer *footer)
{
	return memcmp(footer->creator_application, "tap", 4) == 0;
}

static uint64_t end_of_structures(const struct vhd *v)
{
	uint64_t table_end = v->table_offset + (uint64_t)v->table_entries * VHD_BAT_ENTRY_SIZE;
	uint64_t end = max_u64(max_u64(table_end, v->paths_end), v->header_offset + sizeof(v->header));

	if (v->footer_offset != UINT64_MAX && keeps_other_things(&v->footer))
		end = max_u64(end, v->footer_offset);
	return align_up_u64(end, VHD_SECTOR_SIZE);
}

/* Blocks behind the end of the disk as the guest sees it, where the geometry makes it smaller: they too
 * keep their places. */
static uint64_t end_of_other_blocks(const struct vhd *v)
{
	uint64_t stride = v->bitmap_size + (uint64_t)v->block_size, end = 0;

	for (uint32_t i = v->block_count; i < v->table_entries; i++)
		if (vhd_entry(v, i) != VHD_BAT_UNUSED && vhd_place_is_sane(v, place_of(v, i), stride))
			end = max_u64(end, place_of(v, i) + stride);
	return end;
}

int vhd_scan(struct vhd *v, struct error *err)
{
	uint64_t end = max_u64(end_of_structures(v), end_of_other_blocks(v));
	struct overlap overlap;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < v->block_count; i++) {
		if (vhd_entry(v, i) == VHD_BAT_UNUSED)
			continue;
		r = scan_block(v, i, err);
		end = max_u64(end, place_of(v, i) + v->bitmap_size + v->block_size);
	}
	if (r < 0)
		return r;
	r = vhd_find_overlaps(v, note_overlap, &overlap);
	if (r == -EEXIST)
		return error_set(err, EBADMSG,
				 "%s: block %u lies at offset %ju, over block %u at offset %ju; " ADVICE,
				 v->disk->path, overlap.block, (uintmax_t)place_of(v, overlap.block), overlap.other,
				 (uintmax_t)place_of(v, overlap.other));
	if (r < 0)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	v->bat.next_place = end;
	v->bat.tidy = v->copy_is_good && v->footer_offset == end && v->file_end == end + sizeof(v->footer);
	return 0;
}
