/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_open.c - from the signature to a usable disk: every structure is checked before it is used. */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"
#include "disk/vhdx_metadata.h"

#define ADVICE "restore the file from a backup"

static int check_signature(struct disk *disk, struct error *err)
{
	char signature[8];
	uint64_t size = 0;
	int r = file_read(&disk->file, 0, signature, sizeof(signature));

	if (r < 0 && r != -ENODATA)
		return error_set(err, -r, "%s: cannot be read: %s", disk->path, strerror(-r));
	if (r == 0 && memcmp(signature, DISK_VOID_SIGNATURE, sizeof(signature)) == 0)
		return disk_refuse_void(disk, err);
	if (r < 0 || memcmp(signature, VHDX_FILE_SIGNATURE, sizeof(signature)) != 0)
		return error_set(err, EBADMSG,
				 "%s: no VHDX file: it does not begin with \"vhdxfile\"; check the path "
				 "or open it as raw",
				 disk->path);
	r = file_size(&disk->file, &size);
	if (r == 0 && size < VHDX_HEADER_SECTION)
		return error_set(err, EBADMSG,
				 "%s: it has been cut short: it has %ju bytes, but the headers and tables of a "
				 "VHDX alone take %ju; " ADVICE,
				 disk->path, (uintmax_t)size, (uintmax_t)VHDX_HEADER_SECTION);
	return 0;
}

static uint32_t table_checksum(const uint8_t *table)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(crc32c(0, table, 4), zero, 4);

	return crc32c(crc, table + 8, VHDX_TABLE_SIZE - 8);
}

int vhdx_read_region_table(struct vhdx *v, uint64_t offset, uint8_t *table)
{
	int r = vhdx_read(v, offset, table, VHDX_TABLE_SIZE);

	if (r < 0)
		return r == -ENODATA ? -EBADMSG : r;
	if (memcmp(table, VHDX_REGION_SIGNATURE, 4) != 0 || le32_get(table + 4) != table_checksum(table) ||
	    le32_get(table + 8) > VHDX_TABLE_ENTRIES_MAX)
		return -EBADMSG;
	return 0;
}

static int take_region(struct vhdx *v, const struct vhdx_region_entry *entry, struct error *err)
{
	static const struct guid bat = VHDX_REGION_BAT, metadata = VHDX_REGION_METADATA;
	bool is_bat = guid_equal(&entry->guid, &bat);
	struct region *region = is_bat ? &v->bat_region : &v->metadata;
	const char *path = v->disk->path, *name = is_bat ? "block allocation table" : "metadata region";
	char text[GUID_TEXT_SIZE];

	if (!is_bat && !guid_equal(&entry->guid, &metadata)) {
		if (!(entry->flags & VHDX_REGION_REQUIRED)) {
			if (range_fits_u64(entry->file_offset, entry->length, v->bat.file_end))
				v->other_regions_end =
				    max_u64(v->other_regions_end, entry->file_offset + entry->length);
			return 0;
		}
		return error_set(err, ENOTSUP,
				 "%s: needs region %s, a feature that is not supported; open it with the "
				 "program that wrote it",
				 path, guid_format(&entry->guid, text));
	}
	if (region->length > 0)
		return error_set(err, EBADMSG, "%s: its region table names the %s twice; " ADVICE, path,
				 name);
	if (entry->file_offset < VHDX_HEADER_SECTION || entry->length == 0 ||
	    !is_aligned_u64(entry->file_offset, VHDX_UNIT) || !is_aligned_u64(entry->length, VHDX_UNIT) ||
	    !range_fits_u64(entry->file_offset, entry->length, align_up_u64(v->bat.file_end, VHDX_UNIT)))
		return error_set(err, EBADMSG,
				 "%s: its region table puts the %s at offset %#jx, length %#x, where it "
				 "cannot be (the file may have "
				 "been cut short); " ADVICE,
				 path, name, (uintmax_t)entry->file_offset, entry->length);
	*region = (struct region){entry->file_offset, entry->length};
	return 0;
}

static bool apart(const struct region *a, const struct region *b)
{
	return a->offset + a->length <= b->offset || b->offset + b->length <= a->offset;
}

static int read_regions(struct vhdx *v, struct error *err)
{
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);
	const char *path = v->disk->path;
	int r = table ? vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_1, table) : -ENOMEM;

	if (r == -EBADMSG || r == -EIO)
		r = vhdx_read_region_table(v, VHDX_REGION_TABLE_OFFSET_2, table);
	if (r == -EBADMSG)
		return error_set(
		    err, EBADMSG,
		    "%s: both region tables, at 192 KiB and 256 KiB, are damaged or missing; " ADVICE, path);
	if (r < 0)
		return error_set(err, -r, "%s: its region table cannot be read: %s", path, strerror(-r));
	for (uint32_t i = 0; i < le32_get(table + 8); i++) {
		struct vhdx_region_entry entry;

		memcpy(&entry, table + sizeof(struct vhdx_region_table) + i * sizeof(entry), sizeof(entry));
		r = take_region(v, &entry, err);
		if (r < 0)
			return r;
	}
	if (v->bat_region.length == 0 || v->metadata.length == 0)
		return error_set(err, EBADMSG, "%s: its region table names no %s; " ADVICE, path,
				 v->metadata.length == 0 ? "metadata region" : "block allocation table");
	if (!range_fits_u64(v->log.offset, v->log.length, align_up_u64(v->bat.file_end, VHDX_UNIT)))
		return error_set(err, EBADMSG,
				 "%s: the file ends before or inside its log, at offset %#jx; " ADVICE, path,
				 (uintmax_t)v->log.offset);
	if (!apart(&v->bat_region, &v->metadata) || !apart(&v->bat_region, &v->log) ||
	    !apart(&v->metadata, &v->log))
		return error_set(err, EBADMSG,
				 "%s: its log, metadata and block allocation table overlap; " ADVICE, path);
	return 0;
}

static int check_bat_size(struct vhdx *v, struct error *err)
{
	uint64_t entries;

	v->block_shift = (unsigned)__builtin_ctz(v->block_size);
	v->chunk_ratio = VHDX_CHUNK_SECTORS * v->disk->info.logical_sector_size / v->block_size;
	v->block_count = vhdx_block_count(v, v->disk->info.size);
	entries = vhdx_bat_entries(v, v->block_count);
	v->bat_entries = entries;
	if (entries * 8 > v->bat_region.length)
		return error_set(err, EBADMSG,
				 "%s: its block allocation table has %ju bytes, but a disk of %ju bytes in "
				 "blocks of %u needs %ju; " ADVICE,
				 v->disk->path, (uintmax_t)v->bat_region.length,
				 (uintmax_t)v->disk->info.size, v->block_size, (uintmax_t)(entries * 8));
	return 0;
}

static void vhdx_free(struct vhdx *v)
{
	bat_destroy(&v->bat);
	free_destroy(&v->free);
	pthread_mutex_destroy(&v->header_lock);
	commit_destroy(&v->commit);
	free(v->commit_buffer);
	free(v->overlays);
	free(v->overlay_data);
	locator_clear(&v->locator);
	free(v);
}

int vhdx_rest(struct disk *disk, struct error *err)
{
	struct vhdx *v = disk->format;
	int r;

	if (disk->info.read_only || (!atomic_load(&v->data_begun) && !v->log_in_use))
		return 0;
	r = vhdx_commit(disk);
	/* The in-place writes of the last commit, before the log that has them is let go. */
	if (r == 0 && v->log_in_use)
		r = file_sync(&disk->file);
	if (r == 0 && v->log_in_use)
		r = vhdx_name_log(v, &(struct guid){{0}});
	if (r < 0)
		return error_set(err, -r, "%s: what was written last may be lost: %s", disk->path,
				 strerror(-r));
	v->rested = true;
	v->log_in_use = false;
	v->next_data_guid = (struct guid){{0}};
	atomic_store(&v->data_begun, false);
	return 0;
}

/* What is free at the end of the file goes back to the host. The file is right as it is, too. */
static void cut_end(struct vhdx *v)
{
	uint64_t end = v->free.ring ? space_end(&v->free.space) : UINT64_MAX;

	if (end < v->bat.file_end)
		file_resize(&v->disk->file, end);
}

static int vhdx_close(struct disk *disk, struct error *err)
{
	struct vhdx *v = disk->format;
	bool changed = !disk->info.read_only && (atomic_load(&v->data_begun) || v->rested);
	int r = vhdx_rest(disk, err);

	if (r == 0 && changed)
		cut_end(v);
	vhdx_free(v);
	return r;
}

static const struct disk_ops vhdx_ops = {
    .chain = &vhdx_chain_ops,
    .map = vhdx_map,
    .settle = child_settle,
    .must_commit = vhdx_must_commit,
    .commit = vhdx_commit,
    .close = vhdx_close,
    .check = vhdx_check,
    .plan_repair = vhdx_plan_repair,
    .begin_repair = vhdx_begin_repair,
    .reclaim = vhdx_reclaim,
    .resize = vhdx_resize,
    .compact = vhdx_compact,
};

/* The end of the file after the log has been seen to. */
static int find_file_end(struct vhdx *v, struct error *err)
{
	int r = file_size(&v->disk->file, &v->real_size);

	if (r < 0)
		return error_set(err, -r, "%s: its length cannot be found: %s", v->disk->path, strerror(-r));
	if (v->real_size > INT64_MAX - VHDX_UNIT)
		return error_set(err, EFBIG, "%s: the file is too long", v->disk->path);
	v->bat.file_end = max_u64(v->real_size, v->bat.file_end);
	return 0;
}

static int check_no_parent(const struct vhdx *v, struct error *err)
{
	if (v->disk->parent_kind == PARENT_OWN || v->disk->parent_kind == PARENT_REFUSED)
		return 0;
	return error_set(err, EINVAL, "%s: no differencing disk, so that it has no parent", v->disk->path);
}

static int open_parts(struct vhdx *v, struct error *err)
{
	int r = vhdx_read_headers(v, err);

	if (r == 0)
		r = vhdx_replay(v, err);
	if (r == 0)
		r = find_file_end(v, err);
	if (r == 0)
		r = read_regions(v, err);
	if (r == 0)
		r = vhdx_read_metadata(v, err);
	if (r == 0)
		r = check_bat_size(v, err);
	if (r == 0)
		r = v->has_parent ? vhdx_open_parent(v, err) : check_no_parent(v, err);
	if (r < 0 || v->disk->info.read_only)
		return r;
	if (v->disk->damaged) {
		v->bat.next_place = v->bat.used_end = v->bat.file_end;
		return 0;
	}
	r = vhdx_scan(v, err);
	if (r == 0 && v->disk->parent_kind == PARENT_OWN && v->locator_stale)
		vhdx_refresh_path(v);
	return r;
}

int vhdx_open(struct disk *disk, const struct disk_open_options *options, struct error *err)
{
	struct vhdx *v;
	int r = check_signature(disk, err);

	if (r < 0)
		return r;
	v = calloc(1, sizeof(*v));
	if (!v)
		return error_set(err, ENOMEM, "%s: no memory to open it", disk->path);
	v->disk = disk;
	disk->format = v;
	disk->ops = &vhdx_ops;
	disk->info.format = DISK_FORMAT_VHDX;
	pthread_mutex_init(&v->header_lock, NULL);
	commit_init(&v->commit);
	bat_init(&v->bat);
	r = open_parts(v, err);
	if (r < 0) {
		vhdx_free(v);
		return r;
	}
	disk->info.block_size = v->block_size;
	disk->info.can_discard = !disk->info.read_only;
	return 0;
}
