/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_footer.c - the footer at the end of the file and its copy at offset 0, which only files of dynamic
 * disks have. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/vhd.h"

#define CHECKSUM_AT offsetof(struct vhd_footer, checksum)

uint32_t vhd_checksum(const void *structure, size_t size, size_t field)
{
	const uint8_t *bytes = structure;
	uint32_t sum = 0;

	for (size_t i = 0; i < size; i++)
		if (i < field || i >= field + 4)
			sum += bytes[i];
	return ~sum;
}

void vhd_seal_footer(struct vhd_footer *footer)
{
	be32_put(footer->checksum, vhd_checksum(footer, sizeof(*footer), CHECKSUM_AT));
}

void vhd_set_geometry(struct vhd_footer *footer, uint64_t sectors)
{
	uint64_t total = min_u64(sectors, VHD_GEOMETRY_MAX), tracks;
	unsigned per_track = 255, heads = 16;

	if (total < UINT64_C(65535) * 16 * 63) {
		per_track = 17;
		tracks = total / per_track;
		heads = (unsigned)max_u64((tracks + 1023) / 1024, 4);
		if (heads > 16 || tracks >= heads * UINT64_C(1024)) {
			per_track = 31;
			heads = 16;
			tracks = total / per_track;
		}
		if (tracks >= heads * UINT64_C(1024))
			per_track = 63;
	}
	tracks = total / per_track;
	be16_put(footer->cylinders, (uint16_t)(tracks / heads));
	footer->heads = (uint8_t)heads;
	footer->sectors_per_track = (uint8_t)per_track;
}

/* Virtual PC and Virtual Server, and QEMU in their footsteps, give the guest as many sectors as the geometry
 * has, which may be fewer than "current size" says: a guest that was given all of them would find a
 * partition table of another disk's size, and what those programs copy from here would lack its end. All
 * others mean "current size", also for disks that no geometry can describe. */
static bool goes_by_geometry(const struct vhd_footer *footer)
{
	static const char creators[][4] = {"vpc ", "vs  ", "qemu"};

	for (size_t i = 0; i < ARRAY_SIZE(creators); i++)
		if (memcmp(footer->creator_application, creators[i], 4) == 0)
			return true;
	return false;
}

uint64_t vhd_disk_size(const struct vhd_footer *footer)
{
	uint64_t sectors = be64_get(footer->current_size) / VHD_SECTOR_SIZE;
	uint64_t geometry =
	    (uint64_t)be16_get(footer->cylinders) * footer->heads * footer->sectors_per_track;

	/* QEMU up to 2.5 rounded the geometry of fixed disks up: no sector may lie behind the footer. */
	if (goes_by_geometry(footer) && geometry > 0 && geometry < VHD_GEOMETRY_MAX)
		sectors = min_u64(sectors, geometry);
	return sectors * VHD_SECTOR_SIZE;
}

/* The file has it as a UUID: all of it big-endian. */
static void swap_id(uint8_t to[16], const uint8_t from[16])
{
	be32_put(to, le32_get(from));
	be16_put(to + 4, le16_get(from + 4));
	be16_put(to + 6, le16_get(from + 6));
	memcpy(to + 8, from + 8, 8);
}

void vhd_get_id(const struct vhd_footer *footer, struct guid *id)
{
	swap_id(id->bytes, footer->unique_id);
}

void vhd_set_id(struct vhd_footer *footer, const struct guid *id)
{
	swap_id(footer->unique_id, id->bytes);
}

enum footer_state { FOOTER_NONE, FOOTER_DAMAGED, FOOTER_VALID };

static enum footer_state judge(const struct vhd_footer *footer)
{
	if (memcmp(footer->cookie, VHD_COOKIE, sizeof(footer->cookie)) != 0)
		return FOOTER_NONE;
	return be32_get(footer->checksum) == vhd_checksum(footer, sizeof(*footer), CHECKSUM_AT)
		   ? FOOTER_VALID
		   : FOOTER_DAMAGED;
}

/* At the end of the file, where it may lack its last byte; `offset` is set where there is a footer. */
static int read_end(struct vhd *v, struct vhd_footer *footer, uint64_t *offset)
{
	int r;

	memset(footer, 0, sizeof(*footer));
	*offset = UINT64_MAX;
	if (v->file_end < VHD_SECTOR_SIZE)
		return 0;
	r = file_read(&v->disk->file, v->file_end - VHD_SECTOR_SIZE, footer, sizeof(*footer));
	if (r < 0)
		return r;
	if (memcmp((char *)footer + 1, VHD_COOKIE, sizeof(footer->cookie)) == 0) {
		memmove(footer, (char *)footer + 1, VHD_OLD_FOOTER_SIZE);
		((uint8_t *)footer)[VHD_OLD_FOOTER_SIZE] = 0;
		*offset = v->file_end - VHD_OLD_FOOTER_SIZE;
	} else if (memcmp(footer->cookie, VHD_COOKIE, sizeof(footer->cookie)) == 0) {
		*offset = v->file_end - VHD_SECTOR_SIZE;
	}
	return 0;
}

int vhd_detect(struct disk *disk, bool *is_vhd)
{
	struct vhd v = {.disk = disk};
	struct vhd_footer footer;
	uint64_t offset;
	struct stat st;
	int r;

	*is_vhd = false;
	if (fstat(disk->file.fd, &st) < 0)
		return -errno;
	r = file_read(&disk->file, 0, &footer, sizeof(footer.cookie));
	if (r == 0)
		*is_vhd = memcmp(footer.cookie, VHD_COOKIE, sizeof(footer.cookie)) == 0;
	if (r < 0 || *is_vhd || !S_ISREG(st.st_mode))
		return r == -ENODATA ? 0 : r;
	v.file_end = (uint64_t)st.st_size;
	r = read_end(&v, &footer, &offset);
	*is_vhd = r == 0 && offset != UINT64_MAX;
	return r;
}

static int refuse(struct vhd *v, const struct vhd_footer *end, uint64_t end_offset,
		  const struct vhd_footer *copy, struct error *err)
{
	bool at_end = judge(end) != FOOTER_NONE;
	const struct vhd_footer *damaged = at_end ? end : copy;

	if (!at_end && judge(copy) == FOOTER_NONE)
		return error_set(err, EBADMSG,
				 "%s: no VHD file: it neither begins nor ends with \"conectix\"; check the "
				 "path or open it as raw",
				 v->disk->path);
	return error_set(err, EBADMSG,
			 "%s: its footer at offset %ju is damaged (the checksum is %#x and should be %#x), and "
			 "there is no good copy of it at %s; restore the file from a backup, or open it as raw "
			 "if it is no VHD",
			 v->disk->path, (uintmax_t)(at_end ? end_offset : 0), be32_get(damaged->checksum),
			 vhd_checksum(damaged, sizeof(*damaged), CHECKSUM_AT),
			 at_end ? "offset 0" : "the end of the file");
}

int vhd_read_footer(struct vhd *v, struct error *err)
{
	struct vhd_footer end, copy = {.cookie = {0}};
	bool copy_is_valid;
	uint64_t end_offset;
	int r = read_end(v, &end, &end_offset);

	if (r == 0)
		r = file_read(&v->disk->file, 0, &copy, sizeof(copy));
	if (r == -ENODATA) {
		memset(&copy, 0, sizeof(copy));
		r = 0;
	}
	if (r < 0)
		return error_set(err, -r, "%s: its footer cannot be read: %s", v->disk->path, strerror(-r));
	/* What a fixed disk begins with is the guest's. */
	if (memcmp(copy.cookie, DISK_VOID_SIGNATURE, sizeof(copy.cookie)) == 0 &&
	    (judge(&end) != FOOTER_VALID || be32_get(end.disk_type) != VHD_FIXED))
		return disk_refuse_void(v->disk, err);
	copy_is_valid = judge(&copy) == FOOTER_VALID;
	v->footer_offset = judge(&end) == FOOTER_VALID ? end_offset : UINT64_MAX;
	if (v->footer_offset == UINT64_MAX && !copy_is_valid)
		return refuse(v, &end, end_offset, &copy, err);
	v->footer = v->footer_offset != UINT64_MAX ? end : copy;
	v->copy_is_good = memcmp(&v->footer, &copy, sizeof(copy)) == 0;
	/* A fixed disk begins at offset 0: what looks like a copy there is the guest's. */
	if (v->footer_offset == UINT64_MAX && be32_get(copy.disk_type) != VHD_DYNAMIC &&
	    be32_get(copy.disk_type) != VHD_DIFFERENCING)
		return error_set(err, EBADMSG,
				 "%s: a VHD footer of a fixed disk at offset 0, and none at the end of the "
				 "file, where it belongs; restore the file from a backup, or open it as raw",
				 v->disk->path);
	return 0;
}
