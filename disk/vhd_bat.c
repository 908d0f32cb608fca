/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_bat.c - where the blocks are, and new ones. */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

static int read_table(struct vhd *v, struct error *err)
{
	size_t size = (size_t)v->bat.sectors * VHD_SECTOR_SIZE;
	int r = file_read(&v->disk->file, v->table_offset, v->bat.table, size);

	if (r == -ENODATA)
		return error_set(err, EBADMSG,
				 "%s: the file ends inside its block allocation table, at %ju bytes: it has been "
				 "cut short; restore it from a backup",
				 v->disk->path, (uintmax_t)v->file_end);
	if (r < 0)
		return error_set(err, -r, "%s: its block allocation table cannot be read: %s", v->disk->path,
				 strerror(-r));
	return 0;
}

int vhd_bat_init(struct vhd *v, struct error *err)
{
	struct vhd_bat *bat = &v->bat;

	bat->bitmap_block = VHD_NO_BLOCK;
	bat->sectors = (v->table_entries + VHD_BAT_SECTOR_ENTRIES - 1) / VHD_BAT_SECTOR_ENTRIES;
	bat->table = malloc((size_t)bat->sectors * VHD_SECTOR_SIZE);
	bat->bits = calloc(v->block_count, 1);
	bat->bitmap = malloc(v->bitmap_size);
	bat->dirty = calloc(bat->sectors / 64 + 1, sizeof(*bat->dirty));
	if (!bat->table || !bat->bits || !bat->bitmap || !bat->dirty)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	return read_table(v, err);
}

void vhd_bat_destroy(struct vhd *v)
{
	free(v->bat.table);
	free(v->bat.bits);
	free(v->bat.bitmap);
	free(v->bat.dirty);
	vhd_free_pages(&v->pages);
	pthread_mutex_destroy(&v->bat.lock);
	pthread_mutex_destroy(&v->fill_lock);
}

static bool meets(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

bool vhd_place_is_sane(const struct vhd *v, uint64_t place, uint64_t length)
{
	uint64_t end = v->footer_offset != UINT64_MAX ? v->footer_offset : v->file_end;
	uint64_t table_size = align_up_u64((uint64_t)v->table_entries * VHD_BAT_ENTRY_SIZE, VHD_SECTOR_SIZE);

	return place >= VHD_SECTOR_SIZE && range_fits_u64(place, length, end) &&
	       !meets(place, length, v->header_offset, sizeof(v->header)) &&
	       !meets(place, length, v->table_offset, table_size);
}

int vhd_complain(struct vhd *v, uint32_t block, uint64_t place)
{
	if (log_limit_pass(&v->complaints, 3))
		log_write(LOG_LEVEL_ERROR,
			  "%s: block %u has the impossible place %ju in the block allocation table of a file "
			  "of %ju bytes; requests for it fail",
			  v->disk->path, block, (uintmax_t)place, (uintmax_t)v->file_end);
	return -EBADMSG;
}

void vhd_mark_dirty(struct vhd_bat *bat, uint32_t sector)
{
	uint64_t bit = UINT64_C(1) << (sector % 64);

	bat->dirty_count += !(bat->dirty[sector / 64] & bit);
	bat->dirty[sector / 64] |= bit;
}

/* The block goes behind the footer, which stays behind in the space that aligns its data, or under its
 * bitmap: so the data are zeros. */
int vhd_allocate(struct vhd *v, uint32_t block, uint64_t *place)
{
	struct file *file = &v->disk->file;
	uint64_t before = v->bat.next_place, end;
	int r = v->bat.tidy ? 0 : vhd_put_end(v);

	*place = align_up_u64(before + v->bitmap_size, VHD_DATA_ALIGNMENT) - v->bitmap_size;
	end = *place + v->bitmap_size + v->block_size;
	if (*place / VHD_SECTOR_SIZE >= VHD_BAT_UNUSED)
		return -EFBIG;
	if (r == 0)
		r = file_resize(file, end + sizeof(v->footer));
	if (r == 0)
		r = file_write(file, end, &v->footer, sizeof(v->footer));
	if (r == 0)
		r = vhd_write_bitmap(v, *place, v->has_parent ? 0 : 0xff);
	if (r < 0) {
		/* As it was. If that fails too, the next attempt begins with it. */
		vhd_put_end(v);
		return r;
	}
	be32_put(v->bat.table + (size_t)block * VHD_BAT_ENTRY_SIZE, (uint32_t)(*place / VHD_SECTOR_SIZE));
	vhd_mark_dirty(&v->bat, block / VHD_BAT_SECTOR_ENTRIES);
	v->bat.bits[block] = v->has_parent ? BITS_SOME : BITS_ALL;
	v->bat.next_place = v->footer_offset = end;
	v->file_end = end + sizeof(v->footer);
	return 0;
}

/* 1: the block has to be filled first. [bat.lock] */
static int map_block(struct vhd *v, enum map_purpose purpose, uint32_t block, uint64_t in_block,
		     struct extent *extent)
{
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE, first = in_block / VHD_SECTOR_SIZE;
	uint64_t skip = in_block % VHD_SECTOR_SIZE, run;
	int r;

	if (v->has_parent)
		return vhd_child_map(v, purpose, block, in_block, extent);
	extent->kind = EXTENT_ZERO;
	if (vhd_entry(v, block) == VHD_BAT_UNUSED) {
		r = purpose == MAP_WRITE ? vhd_allocate(v, block, &place) : 0;
		if (r < 0 || purpose != MAP_WRITE)
			return r;
	}
	if (!vhd_place_is_sane(v, place, v->bitmap_size + vhd_block_used(v, block)))
		return vhd_complain(v, block, place);
	r = vhd_find_bits(v, block, place);
	if (r < 0)
		return r;
	if (v->bat.bits[block] != BITS_ALL) {
		run = vhd_run_of_sectors(v->bat.bitmap, first,
					 (in_block + extent->length + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE);
		extent->length = min_u64(extent->length, run * VHD_SECTOR_SIZE - skip);
		if (!vhd_sector_counts(v->bat.bitmap, first))
			return purpose == MAP_WRITE;
	}
	extent->kind = EXTENT_FILE;
	extent->file_offset = place + v->bitmap_size + in_block;
	return 0;
}

int vhd_map_here(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		 struct extent *extent)
{
	struct vhd *v = disk->format;
	uint32_t block = (uint32_t)(offset >> v->block_shift);
	uint64_t in_block = offset & (v->block_size - 1);
	int r = purpose != MAP_READ ? vhd_begin(v) : 0;

	while (r == 0) {
		*extent = (struct extent){.length = min_u64(length, v->block_size - in_block),
					  .file = &disk->file};
		pthread_mutex_lock(&v->bat.lock);
		r = map_block(v, purpose, block, in_block, extent);
		pthread_mutex_unlock(&v->bat.lock);
		if (r <= 0)
			return r;
		r = vhd_fill_block(v, block);
	}
	return r;
}

int vhd_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
	    struct extent *extent)
{
	int r = vhd_map_here(disk, purpose, offset, length, extent);

	return r == 0 && extent->kind == EXTENT_PARENT ? disk_map_parent(disk, offset, extent) : r;
}
