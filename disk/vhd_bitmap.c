/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_bitmap.c - which sectors of a block count. Virtual PC sets their bits one by one as the guest writes;
 * most other programs set all when they make the block.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

bool vhd_sector_counts(const uint8_t *bitmap, uint64_t sector)
{
	return bitmap[sector / 8] & (0x80u >> (sector % 8));
}

uint64_t vhd_run_of_sectors(const uint8_t *bitmap, uint64_t from, uint64_t end)
{
	bool counts = vhd_sector_counts(bitmap, from);
	uint8_t all = counts ? 0xff : 0;
	uint64_t at = from;

	while (at < end) {
		if (at % 8 == 0 && bitmap[at / 8] == all)
			at += 8;
		else if (vhd_sector_counts(bitmap, at) == counts)
			at++;
		else
			break;
	}
	return min_u64(at, end) - from;
}

int vhd_find_bits(struct vhd *v, uint32_t block, uint64_t place)
{
	struct vhd_bat *bat = &v->bat;
	uint64_t sectors = (vhd_block_used(v, block) + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE;
	int r;

	if (bat->bits[block] == BITS_ALL || bat->bitmap_block == block)
		return 0;
	bat->bitmap_block = VHD_NO_BLOCK;
	r = file_read(&v->disk->file, place, bat->bitmap, v->bitmap_size);
	if (r < 0)
		return r == -ENODATA ? -EBADMSG : r;
	if (vhd_sector_counts(bat->bitmap, 0) && vhd_run_of_sectors(bat->bitmap, 0, sectors) == sectors) {
		bat->bits[block] = BITS_ALL;
	} else {
		bat->bits[block] = BITS_SOME;
		bat->bitmap_block = block;
	}
	return 0;
}

int vhd_write_bitmap(struct vhd *v, uint64_t place, uint8_t byte)
{
	uint8_t bits[4096];
	int r = 0;

	memset(bits, byte, sizeof(bits));
	for (uint64_t at = 0; r == 0 && at < v->bitmap_size; at += sizeof(bits))
		r = file_write(&v->disk->file, place + at, bits,
			       min_u64(sizeof(bits), v->bitmap_size - at));
	return r;
}

static int zero_what_does_not_count(struct vhd *v, uint32_t block, uint64_t place, const uint8_t *bitmap)
{
	uint64_t sectors = vhd_block_used(v, block) / VHD_SECTOR_SIZE, run;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < sectors; at += run) {
		run = vhd_run_of_sectors(bitmap, at, sectors);
		if (!vhd_sector_counts(bitmap, at))
			r = file_zero(&v->disk->file, place + v->bitmap_size + at * VHD_SECTOR_SIZE,
				      run * VHD_SECTOR_SIZE);
	}
	return r;
}

int vhd_fill_block(struct vhd *v, uint32_t block)
{
	_cleanup_free_ uint8_t *bitmap = malloc(v->bitmap_size);
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;
	bool needed;
	int r;

	if (!bitmap)
		return -ENOMEM;
	pthread_mutex_lock(&v->fill_lock);
	pthread_mutex_lock(&v->bat.lock);
	r = vhd_find_bits(v, block, place);
	needed = r == 0 && v->bat.bits[block] != BITS_ALL;
	if (needed)
		memcpy(bitmap, v->bat.bitmap, v->bitmap_size);
	pthread_mutex_unlock(&v->bat.lock);
	if (needed) {
		r = zero_what_does_not_count(v, block, place, bitmap);
		if (r == 0)
			r = file_sync(&v->disk->file);
		if (r == 0)
			r = vhd_write_bitmap(v, place, 0xff);
	}
	if (needed && r == 0) {
		pthread_mutex_lock(&v->bat.lock);
		v->bat.bits[block] = BITS_ALL;
		if (v->bat.bitmap_block == block)
			v->bat.bitmap_block = VHD_NO_BLOCK;
		pthread_mutex_unlock(&v->bat.lock);
	}
	pthread_mutex_unlock(&v->fill_lock);
	return r;
}
