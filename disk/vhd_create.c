/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_create.c - a new VHD: its footer, and when dynamic the footer's copy, the header and an unused BAT. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "disk/vhd.h"

#define BLOCK_SIZE_SMALL   (512u << 10)
#define BLOCK_SIZE_DEFAULT (2u << 20)
#define HEADER_OFFSET      sizeof(struct vhd_footer)
#define TABLE_OFFSET       (HEADER_OFFSET + sizeof(struct vhd_dynamic_header))

static int check_options(const char *path, const struct disk_create_options *o, struct error *err)
{
	if (o->logical_sector_size != VHD_SECTOR_SIZE || o->physical_sector_size != VHD_SECTOR_SIZE)
		return error_set(err, EINVAL,
				 "%s: sectors of %u and %u bytes; a VHD has sectors of 512 bytes, logical and "
				 "physical: leave them out or choose VHDX",
				 path, o->logical_sector_size, o->physical_sector_size);
	if (o->size > VHD_SECTORS_MAX * VHD_SECTOR_SIZE)
		return error_set(err, EINVAL,
				 "%s: a size of %ju bytes; a VHD can have up to 2040 GiB: choose VHDX", path,
				 (uintmax_t)o->size);
	if (o->fixed && o->block_size != 0)
		return error_set(err, EINVAL, "%s: blocks of %u bytes; a fixed VHD has no blocks: leave that out",
				 path, o->block_size);
	if (!o->fixed && o->block_size != BLOCK_SIZE_SMALL && o->block_size != BLOCK_SIZE_DEFAULT)
		return error_set(err, EINVAL, "%s: blocks of %u bytes; choose 512 KiB or 2 MiB for a VHD", path,
				 o->block_size);
	return 0;
}

/* The creator is given as Hyper-V ("win ", 10.0), because readers choose by it whether the disk is as large
 * as "current size" says or as large as its geometry, which cannot describe every size. */
static void make_footer(struct vhd_footer *footer, const struct disk_create_options *o, bool has_parent)
{
	struct guid id;

	*footer = (struct vhd_footer){.cookie = {0}};
	memcpy(footer->cookie, VHD_COOKIE, sizeof(footer->cookie));
	be32_put(footer->features, VHD_FEATURES);
	be32_put(footer->version, VHD_VERSION);
	be64_put(footer->data_offset, o->fixed ? VHD_NO_OFFSET : HEADER_OFFSET);
	be32_put(footer->time_stamp, (uint32_t)(time(NULL) - VHD_EPOCH));
	memcpy(footer->creator_application, "win ", 4);
	be32_put(footer->creator_version, 0x000a0000);
	memcpy(footer->creator_host_os, "Wi2k", 4);
	be64_put(footer->original_size, o->size);
	be64_put(footer->current_size, o->size);
	vhd_set_geometry(footer, o->size / VHD_SECTOR_SIZE);
	be32_put(footer->disk_type, o->fixed ? VHD_FIXED : has_parent ? VHD_DIFFERENCING : VHD_DYNAMIC);
	guid_random(&id);
	vhd_set_id(footer, &id);
	vhd_seal_footer(footer);
}

static void make_header(struct vhd_dynamic_header *header, const struct disk_create_options *o, uint32_t entries)
{
	*header = (struct vhd_dynamic_header){.cookie = {0}};
	memcpy(header->cookie, VHD_DYNAMIC_COOKIE, sizeof(header->cookie));
	be64_put(header->data_offset, VHD_NO_OFFSET);
	be64_put(header->table_offset, TABLE_OFFSET);
	be32_put(header->header_version, VHD_VERSION);
	be32_put(header->max_table_entries, entries);
	be32_put(header->block_size, o->block_size);
	be32_put(header->checksum,
		 vhd_checksum(header, sizeof(*header), offsetof(struct vhd_dynamic_header, checksum)));
}

static int write_table(struct file *file, uint64_t size)
{
	uint8_t unused[65536];
	int r = 0;

	memset(unused, 0xff, sizeof(unused));
	for (uint64_t at = 0; r == 0 && at < size; at += sizeof(unused))
		r = file_write(file, TABLE_OFFSET + at, unused, min_u64(sizeof(unused), size - at));
	return r;
}

static int write_dynamic(struct file *file, const struct vhd_footer *footer,
			 const struct vhd_dynamic_header *header, uint64_t table_size, const uint8_t *paths,
			 size_t paths_size, bool is_void)
{
	uint64_t end = TABLE_OFFSET + table_size;
	struct vhd_footer copy = *footer;
	int r;

	if (is_void)
		memcpy(copy.cookie, DISK_VOID_SIGNATURE, sizeof(copy.cookie));
	r = file_write(file, 0, &copy, sizeof(copy));

	if (r == 0)
		r = file_write(file, HEADER_OFFSET, header, sizeof(*header));
	if (r == 0)
		r = write_table(file, table_size);
	if (r == 0)
		r = file_write(file, end, paths, paths_size);
	return r < 0 ? r : file_write(file, end + paths_size, footer, sizeof(*footer));
}

static int fill_dynamic(struct file *file, const char *path, const struct vhd_footer *footer,
			const struct disk_create_options *o, const struct disk *parent, const char *given,
			struct error *err)
{
	uint32_t entries = (uint32_t)((o->size + o->block_size - 1) / o->block_size);
	uint64_t table_size = align_up_u64((uint64_t)entries * VHD_BAT_ENTRY_SIZE, VHD_SECTOR_SIZE);
	_cleanup_free_ uint8_t *paths = NULL;
	_cleanup_free_ char *way = NULL;
	struct vhd_dynamic_header header;
	size_t paths_size = 0;
	int r = 0;

	make_header(&header, o, entries);
	if (parent && !given)
		r = locator_relative_path(path, parent->path, &way, err);
	if (r == 0 && parent)
		r = vhd_build_link(&header, TABLE_OFFSET + table_size, path, given ? given : way, parent->format, &paths,
				   &paths_size, err);
	if (r < 0)
		return r;
	r = write_dynamic(file, footer, &header, table_size, paths, paths_size, given != NULL);
	return r < 0 ? error_set(err, -r, "%s: cannot be written: %s", path, strerror(-r)) : 0;
}

static int fill_fixed(struct file *file, const char *path, const struct vhd_footer *footer,
		      const struct disk_create_options *o, struct error *err)
{
	int r = file_resize(file, o->size);

	/* Where the file system cannot promise space, the disk is a hole. */
	if (r == 0 && fallocate(file->fd, 0, 0, (off_t)o->size) < 0 && errno != EOPNOTSUPP)
		r = -errno;
	if (r == 0)
		r = file_write(file, o->size, footer, sizeof(*footer));
	return r < 0 ? error_set(err, -r, "%s: cannot be written: %s", path, strerror(-r)) : 0;
}

int vhd_fill(struct file *file, const char *path, const struct disk_create_options *options,
	     const struct disk *parent, const char *way, struct error *err)
{
	struct disk_create_options o = *options;
	struct vhd_footer footer;
	int r;

	if (!o.fixed && o.block_size == 0)
		o.block_size = BLOCK_SIZE_DEFAULT;
	r = check_options(path, &o, err);
	if (r < 0)
		return r;
	make_footer(&footer, &o, parent != NULL);
	return o.fixed ? fill_fixed(file, path, &footer, &o, err)
		       : fill_dynamic(file, path, &footer, &o, parent, way, err);
}
