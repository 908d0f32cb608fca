/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_resize.c - another size for a VHD with blocks. A new header with a new block allocation table goes behind all
 * blocks; when those are synced the footers, one after the other, name them together with the new size: so a power cut
 * leaves the old disk or the new one. The old table's place, and blocks that are cut off, are nobody's until the disk
 * is compacted. A fixed disk has one footer only, at the very end: no order of steps makes the file longer and has a
 * footer there at each moment, and a file that has none is taken for a raw disk.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "disk/vhd.h"

struct resize {
	struct vhd *v;
	uint64_t size;
	uint32_t block_count, sectors;
	uint8_t *table, *bits;
	uint64_t *dirty;
	struct vhd_dynamic_header header;
};

static int check(const struct resize *resize, struct error *err)
{
	const struct disk *disk = resize->v->disk, *parent = disk->parent;

	if (resize->size > VHD_SECTORS_MAX * VHD_SECTOR_SIZE)
		return error_set(err, EINVAL,
				 "%s: a size of %ju bytes; a VHD can have up to 2040 GiB: convert it to VHDX by: "
				 "bulkhead disk convert",
				 disk->path, (uintmax_t)resize->size);
	if (parent && resize->size > disk->info.size && parent->info.size > disk->info.size)
		return error_set(err, ENOTSUP,
				 "%s: its parent %s is larger than it, so that what is new would not be empty; "
				 "convert it to a disk of its own first, by: bulkhead disk convert",
				 disk->path, parent->path);
	return 0;
}

/* What the file has of the last block behind the disk's end counts from now on. */
static int clear_rest_of_last(struct vhd *v)
{
	uint32_t last = v->block_count - 1;
	uint64_t place = (uint64_t)vhd_entry(v, last) * VHD_SECTOR_SIZE, used = vhd_block_used(v, last);

	if (vhd_entry(v, last) == VHD_BAT_UNUSED)
		return 0;
	return file_zero(&v->disk->file, place + v->bitmap_size + used, v->block_size - used);
}

/* All that the new size needs in memory, so that nothing can fail later. */
static int prepare(struct resize *resize)
{
	struct vhd *v = resize->v;
	uint32_t kept = (uint32_t)min_u64(v->block_count, resize->block_count);
	size_t table_size;

	resize->sectors = (resize->block_count + VHD_BAT_SECTOR_ENTRIES - 1) / VHD_BAT_SECTOR_ENTRIES;
	table_size = (size_t)resize->sectors * VHD_SECTOR_SIZE;
	resize->table = malloc(table_size);
	resize->bits = calloc(resize->block_count, 1);
	resize->dirty = calloc(resize->sectors / 64 + 1, sizeof(*resize->dirty));
	if (!resize->table || !resize->bits || !resize->dirty)
		return -ENOMEM;
	memset(resize->table, 0xff, table_size);
	memcpy(resize->table, v->bat.table, (size_t)kept * VHD_BAT_ENTRY_SIZE);
	memcpy(resize->bits, v->bat.bits, kept);
	/* Of a block that has other sectors now. */
	resize->bits[kept - 1] = BITS_UNKNOWN;
	resize->header = v->header;
	be64_put(resize->header.table_offset, v->bat.next_place + sizeof(resize->header));
	be32_put(resize->header.max_table_entries, resize->block_count);
	be32_put(resize->header.checksum, vhd_checksum(&resize->header, sizeof(resize->header),
						       offsetof(struct vhd_dynamic_header, checksum)));
	return 0;
}

/* Header and table, as one piece, go where the next block would. */
static int append(struct resize *resize)
{
	struct vhd *v = resize->v;
	struct file *file = &v->disk->file;
	uint64_t place = v->bat.next_place;
	size_t table_size = (size_t)resize->sectors * VHD_SECTOR_SIZE;
	int r;

	v->bat.next_place += sizeof(resize->header) + table_size;
	r = vhd_put_end(v);
	if (r == 0)
		r = file_write(file, place, &resize->header, sizeof(resize->header));
	if (r == 0)
		r = file_write(file, place + sizeof(resize->header), resize->table, table_size);
	if (r == 0)
		r = file_sync(file);
	if (r < 0) {
		v->bat.next_place = place;
		vhd_put_end(v);
	}
	return r;
}

/* Where others would take the geometry for the size, or look for more behind the table (XenServer keeps a map of the
 * blocks there), the disk is one of ours from now on. */
static int write_footers(struct resize *resize, uint64_t place)
{
	struct vhd *v = resize->v;
	struct vhd_footer footer = v->footer;

	be64_put(footer.data_offset, place);
	be64_put(footer.current_size, resize->size);
	vhd_set_geometry(&footer, resize->size / VHD_SECTOR_SIZE);
	if (vhd_disk_size(&footer) != resize->size || memcmp(footer.creator_application, "tap", 4) == 0) {
		memcpy(footer.creator_application, "win ", 4);
		be32_put(footer.creator_version, 0x000a0000);
		memcpy(footer.creator_host_os, "Wi2k", 4);
	}
	return vhd_change_footers(v, &footer);
}

static void swap(void *a, void *b)
{
	void *was;

	memcpy(&was, a, sizeof(was));
	memcpy(a, b, sizeof(was));
	memcpy(b, &was, sizeof(was));
}

static void take_over(struct resize *resize, uint64_t place)
{
	struct vhd *v = resize->v;

	pthread_mutex_lock(&v->bat.lock);
	swap(&v->bat.table, &resize->table);
	swap(&v->bat.bits, &resize->bits);
	swap(&v->bat.dirty, &resize->dirty);
	v->bat.sectors = resize->sectors;
	v->bat.bitmap_block = VHD_NO_BLOCK;
	v->header = resize->header;
	v->header_offset = place;
	v->table_offset = place + sizeof(resize->header);
	v->table_entries = v->block_count = resize->block_count;
	v->disk->info.size = resize->size;
	pthread_mutex_unlock(&v->bat.lock);
}

static int resize_to(struct resize *resize)
{
	struct vhd *v = resize->v;
	uint64_t place;
	int r = vhd_begin(v);

	if (r == 0)
		r = vhd_commit(v->disk);
	if (r == 0)
		r = vhd_mend(v);
	if (r == 0 && resize->size > v->disk->info.size)
		r = clear_rest_of_last(v);
	if (r == 0)
		r = prepare(resize);
	place = v->bat.next_place;
	if (r == 0)
		r = append(resize);
	if (r == 0)
		r = write_footers(resize, place);
	if (r == 0)
		take_over(resize, place);
	return r;
}

int vhd_resize(struct disk *disk, uint64_t size, struct error *err)
{
	struct vhd *v = disk->format;
	struct resize resize = {.v = v, .size = size};
	int r = check(&resize, err);

	if (r < 0)
		return r;
	resize.block_count = (uint32_t)((size + v->block_size - 1) >> v->block_shift);
	r = resize.block_count > VHD_ENTRIES_MAX ? -EFBIG : resize_to(&resize);
	free(resize.table);
	free(resize.bits);
	free(resize.dirty);
	return r < 0 ? error_set(err, -r, "%s: its size cannot be changed to %ju bytes: %s; it is what it was", disk->path,
				 (uintmax_t)size, strerror(-r))
		     : 0;
}

int vhd_refuse_resize(struct disk *disk, uint64_t size, struct error *err)
{
	return error_set(err, ENOTSUP,
			 "%s: a fixed VHD, whose only footer is at its very end, where a power cut must not find it "
			 "missing; make a disk that grows of it, which can get another size, by: bulkhead disk convert",
			 disk->path);
}
