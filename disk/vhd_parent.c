/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_parent.c - a differencing disk and its parent: which file that is, and whether they belong together. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "disk/utf16.h"
#include "disk/vhd.h"

#define PATH_SIZE_MAX 65536u /* the longest path of Windows */
#define ADVICE        "restore the file from a backup"

static int bad_text(const struct vhd *v, const char *what, struct error *err)
{
	if (errno == ENOMEM)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	return error_set(err, EBADMSG, "%s: %s is no UTF-16; " ADVICE, v->disk->path, what);
}

static int read_path(struct vhd *v, const struct vhd_parent_locator *locator, char **path, struct error *err)
{
	uint64_t offset = be64_get(locator->platform_data_offset);
	uint32_t length = be32_get(locator->platform_data_length);
	_cleanup_free_ uint8_t *text = NULL;
	int r;

	if (length == 0 || length > PATH_SIZE_MAX || length % 2 != 0 || !range_fits_u64(offset, length, v->file_end))
		return error_set(err, EBADMSG,
				 "%s: a parent locator puts a path of %u bytes at offset %#jx of a file of %ju "
				 "bytes, where none can be; " ADVICE,
				 v->disk->path, length, (uintmax_t)offset, (uintmax_t)v->file_end);
	text = malloc(length);
	r = text ? file_read(&v->disk->file, offset, text, length) : -ENOMEM;
	if (r < 0)
		return error_set(err, -r, "%s: its parent locator cannot be read: %s", v->disk->path,
				 strerror(-r));
	free(*path);
	*path = utf16_to_utf8(text, length / 2);
	return *path ? 0 : bad_text(v, "the path of its parent locator", err);
}

/* Its data, also of kinds that are not looked at, stay where they are. The space is said in bytes, or by
 * programs that keep to the specification in sectors. */
static void note_space(struct vhd *v, const struct vhd_parent_locator *locator)
{
	uint64_t offset = be64_get(locator->platform_data_offset);
	uint64_t space = be32_get(locator->platform_data_space);
	uint64_t length = be32_get(locator->platform_data_length);
	uint64_t end = v->footer_offset != UINT64_MAX ? v->footer_offset : v->file_end;

	if (space < VHD_SECTOR_SIZE)
		space *= VHD_SECTOR_SIZE;
	if (space < length || !range_fits_u64(offset, space, end))
		space = length;
	if (be32_get(locator->platform_code) != 0 && range_fits_u64(offset, space, end))
		v->paths_end = max_u64(v->paths_end, offset + space);
}

static int read_name(struct vhd *v, char **name, struct error *err)
{
	const uint8_t *from = v->header.parent_unicode_name;
	uint8_t text[sizeof(v->header.parent_unicode_name)];
	size_t units = 0;

	for (; units < sizeof(text) / 2 && be16_get(from + 2 * units) != 0; units++)
		le16_put(text + 2 * units, be16_get(from + 2 * units));
	if (units == 0)
		return 0;
	*name = utf16_to_utf8(text, units);
	return *name ? 0 : bad_text(v, "the name of its parent", err);
}

/* The file has it as a UUID: all of it big-endian. */
static void take_identifier(struct vhd *v)
{
	struct vhd_footer footer;

	memcpy(footer.unique_id, v->header.parent_unique_id, sizeof(footer.unique_id));
	vhd_get_id(&footer, &v->link.identifier);
	v->link.stamp = be32_get(v->header.parent_time_stamp);
	v->link.stamp2 = be32_get(v->header.reserved_1);
}

int vhd_read_link(struct vhd *v, struct error *err)
{
	struct locator *paths = &v->link.paths;
	int r = 0;

	take_identifier(v);
	for (unsigned i = 0; r == 0 && i < VHD_LOCATORS; i++) {
		const struct vhd_parent_locator *locator = &v->header.parent_locators[i];

		note_space(v, locator);
		if (v->disk->parent_kind == PARENT_NEW)
			continue; /* whatever it says */
		if (be32_get(locator->platform_code) == VHD_LOCATOR_RELATIVE)
			r = read_path(v, locator, &paths->relative_path, err);
		else if (be32_get(locator->platform_code) == VHD_LOCATOR_ABSOLUTE)
			r = read_path(v, locator, &paths->absolute_path, err);
	}
	if (r == 0 && v->disk->parent_kind != PARENT_NEW)
		r = read_name(v, &paths->volume_path, err);
	if (r < 0 || v->disk->parent_kind == PARENT_NEW || paths->relative_path || paths->absolute_path ||
	    paths->volume_path)
		return r;
	return error_set(err, EBADMSG,
			 "%s: does not say which file its parent is; if you know it: bulkhead disk reparent",
			 v->disk->path);
}

static int check_given(const struct disk *disk, const char *path, struct error *err)
{
	if (disk_is_file(disk->parent, path))
		return 0;
	return error_set(err, ESTALE, "%s: its parent is %s now, not %s any more; try again", disk->path,
			 path, disk->parent->path);
}

static const char *stamp_text(uint32_t stamp, char text[32])
{
	time_t at = (time_t)stamp + VHD_EPOCH;
	struct tm tm;

	gmtime_r(&at, &tm);
	strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm);
	return text;
}

static bool stamp_fits(const struct vhd *v, const struct vhd *parent)
{
	uint32_t stamp = be32_get(parent->footer.time_stamp);
	struct stat st;

	if (v->link.stamp == 0 || v->link.stamp == stamp || (v->link.stamp2 && v->link.stamp2 == stamp))
		return true;
	/* Other programs take the time of the file. One whose footer is newer than that has been written since, be it
	 * in the same second. */
	return stamp < v->link.stamp && fstat(parent->disk->file.fd, &st) == 0 &&
	       (uint32_t)(st.st_mtime - VHD_EPOCH) == v->link.stamp;
}

int vhd_check_link(const struct vhd *v, const struct vhd *parent, struct error *err)
{
	char expected[GUID_TEXT_SIZE], found[GUID_TEXT_SIZE];
	struct guid identifier;

	vhd_get_id(&parent->footer, &identifier);
	if (!guid_equal(&identifier, &v->link.identifier))
		return error_set(
		    err, ESTALE,
		    "%s: its parent %s is another disk than it was made from (its identifier is %s, that "
		    "expected %s); name the right one by: bulkhead disk reparent",
		    v->disk->path, parent->disk->path, guid_format(&identifier, found),
		    guid_format(&v->link.identifier, expected));
	if (stamp_fits(v, parent))
		return 0;
	return error_set(
	    err, ESTALE,
	    "%s: its parent %s has been changed since (its time stamp is %s, that expected %s); restore that "
	    "file as it was, or if you know it to be the right one: bulkhead disk reparent --force",
	    v->disk->path, parent->disk->path, stamp_text(be32_get(parent->footer.time_stamp), found),
	    stamp_text(v->link.stamp, expected));
}

int vhd_open_parent(struct vhd *v, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	int r = 0;

	if (v->disk->parent_kind == PARENT_NEW)
		return 0;
	if (v->disk->parent_kind == PARENT_REFUSED)
		return error_set(err, ENOTSUP,
				 "%s: a differencing disk, whose parents cannot be opened here: name it when the "
				 "machine starts, or merge it into its parent",
				 v->disk->path);
	if (v->disk->parent_kind != PARENT_HANDED)
		r = locator_find(&v->link.paths, v->disk->path, &path, &v->link.stale, err);
	if (r == 0 && path)
		r = v->disk->parent ? check_given(v->disk, path, err) : disk_open_parent(v->disk, path, err);
	return r < 0 ? r : vhd_check_link(v, v->disk->parent->format, err);
}
