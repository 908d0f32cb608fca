/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_parent.c - a differencing disk and its parent: whether they belong together. */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

int vhdx_check_linkage(const struct vhdx *v, const struct vhdx *parent, struct error *err)
{
	const struct guid *found = &parent->header.data_write_guid;
	char expected[GUID_TEXT_SIZE], is[GUID_TEXT_SIZE];

	if (guid_equal(found, &v->locator.linkage) ||
	    (!guid_is_zero(&v->locator.linkage2) && guid_equal(found, &v->locator.linkage2)))
		return 0;
	return error_set(
	    err, ESTALE,
	    "%s: its parent %s has been changed since (its contents are %s, those expected %s); restore "
	    "that file as it was, or if you know it to be the right one: bulkhead disk reparent --force",
	    v->disk->path, parent->disk->path, guid_format(found, is),
	    guid_format(&v->locator.linkage, expected));
}

static int compare_sectors(const struct vhdx *v, const struct vhdx *parent, struct error *err)
{
	uint32_t here = v->disk->info.logical_sector_size, there = parent->disk->info.logical_sector_size;

	if (here != there)
		return error_set(
		    err, EBADMSG,
		    "%s: its sectors have %u bytes, those of its parent %s have %u; name its right parent "
		    "by: bulkhead disk reparent",
		    v->disk->path, here, parent->disk->path, there);
	return 0;
}

static int check_given(const struct disk *disk, const char *path, struct error *err)
{
	if (disk_is_file(disk->parent, path))
		return 0;
	return error_set(err, ESTALE, "%s: its parent is %s now, not %s any more; try again", disk->path,
			 path, disk->parent->path);
}

int vhdx_open_parent(struct vhdx *v, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	int r = 0;

	if (v->disk->parent_kind == PARENT_REFUSED)
		return error_set(err, ENOTSUP,
				 "%s: a differencing disk, whose parents cannot be opened here: name it when the "
				 "machine starts, or merge it into its parent",
				 v->disk->path);
	if (v->disk->parent_kind == PARENT_NEW)
		return compare_sectors(v, v->disk->parent->format, err);
	if (v->disk->parent_kind != PARENT_HANDED)
		r = locator_find(&v->locator, v->disk->path, &path, &v->locator_stale, err);
	if (r == 0 && path)
		r = v->disk->parent ? check_given(v->disk, path, err) : disk_open_parent(v->disk, path, err);
	if (r == 0)
		r = compare_sectors(v, v->disk->parent->format, err);
	return r < 0 ? r : vhdx_check_linkage(v, v->disk->parent->format, err);
}
