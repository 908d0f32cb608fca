/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_relink.c - which file is the parent, written into a file that is there. The dynamic disk header has no
 * copy and more than one sector, so it is not changed where it is: a new one goes behind all blocks, synced, and
 * then the footers name it.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "disk/utf16.h"
#include "disk/vhd.h"

#define PATH_UNITS 32767u /* the longest path of Windows */

static void put_header_checksum(struct vhd_dynamic_header *header)
{
	be32_put(header->checksum,
		 vhd_checksum(header, sizeof(*header), offsetof(struct vhd_dynamic_header, checksum)));
}

/* The last part of the path, as far as there is room. */
static void put_name(struct vhd_dynamic_header *header, const uint8_t *path, size_t units)
{
	size_t start = units, room = sizeof(header->parent_unicode_name) / 2 - 1;

	while (start > 0 && le16_get(path + 2 * (start - 1)) != '\\')
		start--;
	memset(header->parent_unicode_name, 0, sizeof(header->parent_unicode_name));
	for (size_t i = 0; i < room && start + i < units; i++)
		be16_put(header->parent_unicode_name + 2 * i, le16_get(path + 2 * (start + i)));
}

int vhd_build_link(struct vhd_dynamic_header *header, uint64_t place, const char *path, const char *way,
		   const struct vhd *parent, uint8_t **paths, size_t *size, struct error *err)
{
	struct vhd_parent_locator *locator = &header->parent_locators[0];
	size_t units;

	*paths = calloc(PATH_UNITS + 1, 2);
	if (!*paths)
		return error_set(err, ENOMEM, "%s: no memory for the name of its parent", path);
	units = utf16_put(*paths, PATH_UNITS, way);
	if (units == 0)
		return error_set(err, EINVAL,
				 "%s: the path \"%s\" of its parent is no UTF-8 or too long; rename the parent",
				 path, way);
	*size = align_up_u64(2 * units, VHD_SECTOR_SIZE);
	put_name(header, *paths, units);
	memcpy(header->parent_unique_id, parent->footer.unique_id, sizeof(header->parent_unique_id));
	memcpy(header->parent_time_stamp, parent->footer.time_stamp, sizeof(header->parent_time_stamp));
	memset(header->reserved_1, 0, sizeof(header->reserved_1));
	memset(header->parent_locators, 0, sizeof(header->parent_locators));
	be32_put(locator->platform_code, VHD_LOCATOR_RELATIVE);
	be32_put(locator->platform_data_space, (uint32_t)*size);
	be32_put(locator->platform_data_length, (uint32_t)(2 * units));
	be64_put(locator->platform_data_offset, place);
	put_header_checksum(header);
	return 0;
}

/* Header and paths, as one piece, go where the next block would. */
static int append(struct vhd *v, const struct vhd_dynamic_header *header, const uint8_t *paths, size_t size)
{
	uint64_t place = v->bat.next_place;
	struct file *file = &v->disk->file;
	int r;

	v->bat.next_place += sizeof(*header) + size;
	r = vhd_put_end(v);
	if (r == 0)
		r = file_write(file, place, header, sizeof(*header));
	if (r == 0)
		r = file_write(file, place + sizeof(*header), paths, size);
	if (r == 0)
		r = file_sync(file);
	if (r < 0) {
		v->bat.next_place = place;
		vhd_put_end(v);
	}
	return r;
}

static int write_link(struct vhd *v, struct vhd_dynamic_header *header, const uint8_t *paths, size_t size)
{
	uint64_t place = v->bat.next_place;
	struct vhd_footer footer;
	int r = append(v, header, paths, size);

	if (r < 0)
		return r;
	footer = v->footer;
	be64_put(footer.data_offset, place);
	r = vhd_change_footers(v, &footer);
	if (r < 0)
		return r;
	v->header = *header;
	v->header_offset = place;
	v->paths_end = v->bat.next_place;
	return 0;
}

int vhd_relink(struct vhd *v, const char *way, const struct vhd *parent, struct error *err)
{
	struct vhd_dynamic_header header = v->header;
	_cleanup_free_ uint8_t *paths = NULL;
	size_t size = 0;
	int r = vhd_commit(v->disk);

	if (r == 0)
		r = vhd_mend(v);
	if (r < 0)
		return error_set(err, -r, "%s: cannot be written: %s", v->disk->path, strerror(-r));
	r = vhd_build_link(&header, v->bat.next_place + sizeof(header), v->disk->path, way, parent, &paths, &size, err);
	if (r < 0)
		return r;
	r = write_link(v, &header, paths, size);
	if (r < 0)
		return error_set(err, -r, "%s: its parent locator cannot be written: %s", v->disk->path,
				 strerror(-r));
	v->link.stamp = be32_get(header.parent_time_stamp);
	v->link.stamp2 = 0;
	v->link.stale = false;
	vhd_get_id(&parent->footer, &v->link.identifier);
	return 0;
}

/* Both stamps and the checksum are in one sector, of which a power cut leaves the old or the new. */
int vhd_expect(struct vhd *v, uint32_t stamp, uint32_t stamp2, struct error *err)
{
	struct vhd_dynamic_header header = v->header;
	int r;

	be32_put(header.parent_time_stamp, stamp);
	be32_put(header.reserved_1, stamp2);
	put_header_checksum(&header);
	r = file_write(&v->disk->file, v->header_offset, &header, VHD_SECTOR_SIZE);
	if (r == 0)
		r = file_sync(&v->disk->file);
	if (r < 0)
		return error_set(err, -r, "%s: its header cannot be written: %s", v->disk->path, strerror(-r));
	v->header = header;
	v->link.stamp = stamp;
	v->link.stamp2 = stamp2;
	return 0;
}
_Static_assert(offsetof(struct vhd_dynamic_header, reserved_1) + 4 <= VHD_SECTOR_SIZE &&
		   offsetof(struct vhd_dynamic_header, checksum) + 4 <= VHD_SECTOR_SIZE,
	       "one sector");
