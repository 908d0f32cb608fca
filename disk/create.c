/* SPDX-License-Identifier: GPL-2.0-or-later */
/* create.c - new images: made whole under a name of their own, then given the name that was asked for. */
#include <errno.h>
#include <string.h>

#include "disk/image.h"
#include "disk/new_file.h"

static int check_options(const char *path, const struct disk_create_options *o, struct error *err)
{
	uint32_t logical = o->logical_sector_size;

	if (o->format != DISK_FORMAT_RAW && o->format != DISK_FORMAT_VHDX && o->format != DISK_FORMAT_VHD)
		return error_set(err, EINVAL, "%s: no format for the new image; choose raw, VHDX or VHD", path);
	if (logical != 512 && logical != 4096)
		return error_set(err, EINVAL, "%s: logical sectors of %u bytes; choose 512 or 4096", path,
				 logical);
	if (o->physical_sector_size != 512 && o->physical_sector_size != 4096)
		return error_set(err, EINVAL, "%s: physical sectors of %u bytes; choose 512 or 4096", path,
				 o->physical_sector_size);
	if (o->size == 0 || o->size > DISK_SIZE_LIMIT)
		return error_set(err, EINVAL, "%s: a size of %ju bytes; choose one from a sector to 64 TiB",
				 path, (uintmax_t)o->size);
	if (o->size % logical != 0)
		return error_set(err, EINVAL,
				 "%s: a size of %ju bytes is not a multiple of the %u-byte sector", path,
				 (uintmax_t)o->size, logical);
	return 0;
}

static int fill_raw(struct file *file, const char *path, const struct disk_create_options *o,
		    struct error *err)
{
	int r = file_resize(file, o->size);

	if (r < 0)
		return error_set(err, -r, "%s: cannot be made %ju bytes long: %s", path, (uintmax_t)o->size,
				 strerror(-r));
	return 0;
}

/* All that a differencing disk has in common with its parent. */
static int take_from_parent(const struct disk *parent, const char *path, struct disk_create_options *o,
			    struct error *err)
{
	const struct disk_info *info = &parent->info;

	if (info->format != o->format)
		return error_set(err, ENOTSUP,
				 "%s: its parent %s is no %s; convert that first by: bulkhead disk convert",
				 path, parent->path, o->format == DISK_FORMAT_VHD ? "VHD" : "VHDX");
	if ((o->size != 0 && o->size != info->size) ||
	    (o->logical_sector_size != 0 && o->logical_sector_size != info->logical_sector_size))
		return error_set(
		    err, EINVAL,
		    "%s: size and sectors of a differencing disk are those of its parent, %ju bytes in "
		    "sectors of %u; leave them out",
		    path, (uintmax_t)info->size, info->logical_sector_size);
	o->size = info->size;
	o->logical_sector_size = info->logical_sector_size;
	if (o->physical_sector_size == 0)
		o->physical_sector_size = info->physical_sector_size;
	return check_options(path, o, err);
}

/* The new file must not take the name of one that it needs. */
static int check_not_replaced(const struct disk *parent, const char *path, struct error *err)
{
	for (const struct disk *d = parent; d; d = d->parent)
		if (disk_is_file(d, path))
			return error_set(err, EINVAL,
					 "%s: would replace one of its own parents; choose another name",
					 path);
	return 0;
}

static int create_child(struct file *file, const char *path, struct disk_create_options *o, struct error *err)
{
	const struct disk_open_options options = {.read_only = true};
	struct disk *parent;
	int r;

	if ((o->format != DISK_FORMAT_VHDX && o->format != DISK_FORMAT_VHD) || o->fixed)
		return error_set(err, EINVAL, "%s: only a VHDX or VHD that grows can have a parent", path);
	r = disk_open(&parent, o->parent, &options, err);
	if (r < 0)
		return r;
	r = check_not_replaced(parent, path, err);
	if (r == 0)
		r = take_from_parent(parent, path, o, err);
	if (r == 0)
		r = o->format == DISK_FORMAT_VHD ? vhd_fill(file, path, o, parent, NULL, err)
						 : vhdx_fill(file, path, o, parent, NULL, err);
	disk_close(parent, NULL);
	return r;
}

int disk_fill_descriptor(int fd, const char *path, const struct disk_create_options *options,
			 struct error *err)
{
	struct file file = {.fd = fd, .direct_fd = -1};
	struct disk_create_options o = *options;
	int r;

	if (o.parent)
		return create_child(&file, path, &o, err);
	if (o.logical_sector_size == 0)
		o.logical_sector_size = 512;
	if (o.physical_sector_size == 0)
		o.physical_sector_size = o.format == DISK_FORMAT_VHD ? 512 : 4096;
	r = check_options(path, &o, err);
	if (r < 0)
		return r;
	switch (o.format) {
	case DISK_FORMAT_VHDX:
		return vhdx_fill(&file, path, &o, NULL, NULL, err);
	case DISK_FORMAT_VHD:
		return vhd_fill(&file, path, &o, NULL, NULL, err);
	default:
		return fill_raw(&file, path, &o, err);
	}
}

int disk_create(const char *path, const struct disk_create_options *options, struct error *err)
{
	struct new_file file;
	int r = new_file_begin(&file, path, options->replace, err);

	if (r < 0)
		return r;
	r = disk_fill_descriptor(file.fd, path, options, err);
	if (r < 0) {
		new_file_abandon(&file);
		return r;
	}
	return new_file_finish(&file, path, options->replace, err);
}
