/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_open.c - from a footer to a usable disk: every structure is checked before it is used. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/vhd.h"

#define ADVICE "restore the file from a backup"

static int find_file_end(struct vhd *v, struct error *err)
{
	struct stat st;

	if (fstat(v->disk->file.fd, &st) < 0)
		return error_set(err, errno, "%s: its length cannot be found: %s", v->disk->path,
				 strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, ENOTSUP,
				 "%s: a VHD has its footer at the end of a file, and this is none; copy it to a "
				 "file, or open it as raw",
				 v->disk->path);
	v->file_end = (uint64_t)st.st_size;
	if (v->file_end > INT64_MAX - UINT32_MAX)
		return error_set(err, EFBIG, "%s: the file is too long", v->disk->path);
	return 0;
}

static int check_footer(struct vhd *v, struct error *err)
{
	uint32_t version = be32_get(v->footer.version), type = be32_get(v->footer.disk_type);
	struct disk_info *info = &v->disk->info;
	const char *path = v->disk->path;

	if (version >> 16 != VHD_VERSION >> 16)
		return error_set(err, ENOTSUP,
				 "%s: a VHD of version %u.%u, of which nothing is known; convert it with the "
				 "program that wrote it",
				 path, version >> 16, version & 0xffff);
	if (type != VHD_FIXED && type != VHD_DYNAMIC && type != VHD_DIFFERENCING)
		return error_set(err, EBADMSG, "%s: its footer says disk type %u, which does not exist; " ADVICE,
				 path, type);
	info->size = vhd_disk_size(&v->footer);
	info->dynamic = type != VHD_FIXED;
	v->has_parent = type == VHD_DIFFERENCING;
	if (info->size == 0)
		return error_set(err, EBADMSG, "%s: its footer says that the disk has %ju bytes; " ADVICE, path,
				 (uintmax_t)be64_get(v->footer.current_size));
	if (info->size > VHD_SECTORS_MAX * VHD_SECTOR_SIZE)
		return error_set(err, EBADMSG,
				 "%s: its footer says that the disk has %ju bytes, more than the 2040 GiB that a "
				 "VHD can have; " ADVICE,
				 path, (uintmax_t)info->size);
	return 0;
}

static int check_fixed(struct vhd *v, struct error *err)
{
	if (v->disk->info.size > v->footer_offset)
		return error_set(err, EBADMSG,
				 "%s: a fixed disk of %ju bytes, but only %ju lie before the footer: the file "
				 "has been cut short; " ADVICE,
				 v->disk->path, (uintmax_t)v->disk->info.size, (uintmax_t)v->footer_offset);
	return 0;
}

static int read_header(struct vhd *v, struct error *err)
{
	uint64_t offset = be64_get(v->footer.data_offset);
	const char *path = v->disk->path;
	uint32_t checksum;
	int r;

	if (offset < VHD_SECTOR_SIZE || !is_aligned_u64(offset, VHD_SECTOR_SIZE) ||
	    !range_fits_u64(offset, sizeof(v->header), v->file_end))
		return error_set(err, EBADMSG,
				 "%s: its footer puts the dynamic disk header at offset %#jx of a file of %ju "
				 "bytes, where it cannot be (the file may have been cut short); " ADVICE,
				 path, (uintmax_t)offset, (uintmax_t)v->file_end);
	v->header_offset = offset;
	r = file_read(&v->disk->file, offset, &v->header, sizeof(v->header));
	if (r < 0)
		return error_set(err, -r, "%s: its dynamic disk header cannot be read: %s", path, strerror(-r));
	if (memcmp(v->header.cookie, VHD_DYNAMIC_COOKIE, sizeof(v->header.cookie)) != 0)
		return error_set(err, EBADMSG,
				 "%s: there is no dynamic disk header at offset %#jx, where the footer puts it; "
				 ADVICE,
				 path, (uintmax_t)offset);
	checksum = vhd_checksum(&v->header, sizeof(v->header), offsetof(struct vhd_dynamic_header, checksum));
	if (checksum != be32_get(v->header.checksum))
		return error_set(err, EBADMSG,
				 "%s: its dynamic disk header at offset %#jx is damaged (the checksum is %#x and "
				 "should be %#x); " ADVICE,
				 path, (uintmax_t)offset, be32_get(v->header.checksum), checksum);
	if (be32_get(v->header.header_version) >> 16 != VHD_VERSION >> 16)
		return error_set(err, ENOTSUP,
				 "%s: its dynamic disk header has version %#x, of which nothing is known; convert "
				 "it with the program that wrote it",
				 path, be32_get(v->header.header_version));
	return 0;
}

static int take_blocks(struct vhd *v, struct error *err)
{
	uint32_t size = be32_get(v->header.block_size);
	uint64_t count;

	if (size < VHD_SECTOR_SIZE || (size & (size - 1)) != 0)
		return error_set(err, EBADMSG,
				 "%s: its blocks have %u bytes, which is no power of two from 512 on; " ADVICE,
				 v->disk->path, size);
	v->block_size = size;
	v->block_shift = (unsigned)__builtin_ctz(size);
	v->bitmap_size = (uint32_t)align_up_u64(max_u64(size / VHD_SECTOR_SIZE / 8, 1), VHD_SECTOR_SIZE);
	count = (v->disk->info.size + size - 1) >> v->block_shift;
	v->table_entries = be32_get(v->header.max_table_entries);
	if (v->table_entries < count)
		return error_set(err, EBADMSG,
				 "%s: its block allocation table has %u entries, but a disk of %ju bytes in "
				 "blocks of %u needs %ju; " ADVICE,
				 v->disk->path, v->table_entries, (uintmax_t)v->disk->info.size, size,
				 (uintmax_t)count);
	if (v->table_entries > VHD_ENTRIES_MAX)
		return error_set(err, ENOTSUP,
				 "%s: its block allocation table has %u entries, more than the %u that are "
				 "supported; convert it with the program that wrote it",
				 v->disk->path, v->table_entries, VHD_ENTRIES_MAX);
	v->block_count = (uint32_t)count;
	return 0;
}

static int place_table(struct vhd *v, struct error *err)
{
	uint64_t offset = be64_get(v->header.table_offset);
	uint64_t length = (uint64_t)v->table_entries * VHD_BAT_ENTRY_SIZE;

	if (!is_aligned_u64(offset, VHD_SECTOR_SIZE) || !range_fits_u64(offset, length, v->file_end))
		return error_set(err, EBADMSG,
				 "%s: its header puts the block allocation table at offset %#jx, length %ju, of "
				 "a file of %ju bytes, where it cannot be (the file may have been cut short); "
				 ADVICE,
				 v->disk->path, (uintmax_t)offset, (uintmax_t)length, (uintmax_t)v->file_end);
	if (offset < VHD_SECTOR_SIZE || (offset < v->header_offset + sizeof(v->header) &&
					 v->header_offset < offset + length))
		return error_set(err, EBADMSG,
				 "%s: its block allocation table at offset %#jx lies over the footer's copy or "
				 "the dynamic disk header; " ADVICE,
				 v->disk->path, (uintmax_t)offset);
	if (v->footer_offset != UINT64_MAX && offset + length > v->footer_offset)
		return error_set(err, EBADMSG,
				 "%s: its block allocation table at offset %#jx lies over the footer; " ADVICE,
				 v->disk->path, (uintmax_t)offset);
	v->table_offset = offset;
	return 0;
}

static int open_dynamic(struct vhd *v, struct error *err)
{
	int r = read_header(v, err);

	if (r == 0)
		r = take_blocks(v, err);
	if (r == 0)
		r = place_table(v, err);
	if (r == 0 && v->has_parent)
		r = vhd_read_link(v, err);
	if (r == 0)
		r = vhd_bat_init(v, err);
	if (r == 0 && v->disk->damaged)
		v->bat.next_place = v->footer_offset != UINT64_MAX ? v->footer_offset
								   : align_up_u64(v->file_end, VHD_SECTOR_SIZE);
	else if (r == 0 && !v->disk->info.read_only)
		r = vhd_scan(v, err);
	return r == 0 && v->has_parent ? vhd_open_parent(v, err) : r;
}

static int map_fixed(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		     struct extent *extent)
{
	int r = purpose != MAP_READ ? vhd_begin(disk->format) : 0;

	*extent = (struct extent){
	    .kind = EXTENT_FILE, .length = length, .file = &disk->file, .file_offset = offset};
	return r;
}

static int commit_fixed(struct disk *disk)
{
	return file_sync(&disk->file);
}

static void vhd_free(struct vhd *v)
{
	vhd_bat_destroy(v);
	locator_clear(&v->link.paths);
	pthread_mutex_destroy(&v->begin_lock);
	commit_destroy(&v->commit);
	free(v->commit_buffer);
	free(v);
}

static int vhd_close(struct disk *disk, struct error *err)
{
	struct vhd *v = disk->format;
	int r = 0;

	if (!disk->info.read_only)
		r = disk->ops->commit(disk);
	if (r < 0)
		error_set(err, -r, "%s: what was written last may be lost: %s", disk->path, strerror(-r));
	/* One of the footers may say what was given up. */
	if (r == 0 && v->begun && disk->info.dynamic && !v->copy_is_good && vhd_mend(v) < 0)
		r = error_set(err, EIO, "%s: its footers cannot be written", disk->path);
	vhd_free(v);
	return r;
}

static const struct disk_ops fixed_ops = {
    .chain = &vhd_chain_ops,
    .map = map_fixed,
    .commit = commit_fixed,
    .close = vhd_close,
    .check = vhd_check,
    .plan_repair = vhd_plan_repair,
    .begin_repair = vhd_begin_repair,
    .reclaim = vhd_reclaim,
    .resize = vhd_refuse_resize,
};

static const struct disk_ops dynamic_ops = {
    .chain = &vhd_chain_ops,
    .map = vhd_map,
    .settle = vhd_child_settle,
    .must_commit = vhd_must_commit,
    .commit = vhd_commit,
    .close = vhd_close,
    .check = vhd_check,
    .plan_repair = vhd_plan_repair,
    .begin_repair = vhd_begin_repair,
    .reclaim = vhd_reclaim,
    .resize = vhd_resize,
    .compact = vhd_compact,
};

static int open_parts(struct vhd *v, struct error *err)
{
	int r = find_file_end(v, err);

	if (r == 0)
		r = vhd_read_footer(v, err);
	if (r == 0)
		r = check_footer(v, err);
	if (r < 0)
		return r;
	return v->disk->info.dynamic ? open_dynamic(v, err) : check_fixed(v, err);
}

/* What others need who read the file: both footers, and a path that leads to the parent. If that fails, it stays
 * as it is. */
static void tidy_up(struct vhd *v)
{
	_cleanup_free_ char *real = v->link.stale ? realpath(v->disk->path, NULL) : NULL, *way = NULL;
	struct error err = {0};
	int r = 0;

	if (v->disk->info.dynamic && (v->footer_offset == UINT64_MAX || !v->copy_is_good) && vhd_mend(v) < 0)
		log_write(LOG_LEVEL_WARNING, "%s: its lost footer cannot be put back", v->disk->path);
	if (v->link.stale)
		r = locator_relative_path(real ? real : v->disk->path, v->disk->parent->path, &way, &err);
	if (r == 0 && v->link.stale)
		r = vhd_relink(v, way, v->disk->parent->format, &err);
	if (r < 0)
		log_write(LOG_LEVEL_WARNING, "%s", err.text);
}

int vhd_open(struct disk *disk, const struct disk_open_options *options, struct error *err)
{
	struct vhd *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return error_set(err, ENOMEM, "%s: no memory to open it", disk->path);
	v->disk = disk;
	pthread_mutex_init(&v->bat.lock, NULL);
	pthread_mutex_init(&v->fill_lock, NULL);
	pthread_mutex_init(&v->begin_lock, NULL);
	commit_init(&v->commit);
	disk->info.format = DISK_FORMAT_VHD;
	disk->info.logical_sector_size = VHD_SECTOR_SIZE;
	disk->info.physical_sector_size = VHD_SECTOR_SIZE;
	disk->format = v;
	r = open_parts(v, err);
	if (r == 0 && !v->has_parent && disk->parent_kind == PARENT_HANDED)
		r = error_set(err, EINVAL, "%s: no differencing disk, so that it has no parent", disk->path);
	if (r < 0) {
		vhd_free(v);
		return r;
	}
	disk->ops = disk->info.dynamic ? &dynamic_ops : &fixed_ops;
	disk->info.block_size = v->block_size;
	disk->info.can_discard = !disk->info.read_only;
	/* A guest sees the same disk when it is continued in another file. */
	if (v->has_parent)
		disk->info.identifier = disk->parent->info.identifier;
	else
		vhd_get_id(&v->footer, &disk->info.identifier);
	if (!disk->info.read_only && !disk->damaged)
		tidy_up(v);
	return 0;
}
