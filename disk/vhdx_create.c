/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_create.c - a new VHDX: header section, log, metadata, BAT and, when fixed, all of its blocks. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define LOG_OFFSET      (1 * VHDX_UNIT)
#define LOG_LENGTH      VHDX_UNIT
#define METADATA_OFFSET (2 * VHDX_UNIT)
#define METADATA_LENGTH VHDX_UNIT
#define LOCATOR_AT      (2 * VHDX_TABLE_SIZE) /* in the metadata region */
#define BAT_OFFSET      (3 * VHDX_UNIT)
#define BAT_BATCH       8192u

struct layout {
	uint64_t block_count, chunk_ratio;
	uint64_t bat_length;
	uint64_t payload; /* where the first block of a fixed disk lies */
	uint64_t file_end;
};

static int plan(struct layout *layout, const char *path, const struct disk_create_options *o,
		struct error *err)
{
	uint64_t entries;

	if (o->block_size < VHDX_BLOCK_SIZE_MIN || o->block_size > VHDX_BLOCK_SIZE_MAX ||
	    (o->block_size & (o->block_size - 1)) != 0)
		return error_set(err, EINVAL,
				 "%s: blocks of %u bytes; choose a power of two from 1 MiB to 256 MiB", path,
				 o->block_size);
	layout->block_count = (o->size + o->block_size - 1) / o->block_size;
	layout->chunk_ratio = VHDX_CHUNK_SECTORS * o->logical_sector_size / o->block_size;
	entries = layout->block_count + (layout->block_count - 1) / layout->chunk_ratio;
	if (o->parent) /* as [MS-VHDX] 2.5 has it for differencing disks */
		entries = (layout->block_count + layout->chunk_ratio - 1) / layout->chunk_ratio *
			  (layout->chunk_ratio + 1);
	layout->bat_length = align_up_u64(entries * 8, VHDX_UNIT);
	layout->payload = BAT_OFFSET + layout->bat_length;
	layout->file_end = layout->payload + (o->fixed ? layout->block_count * o->block_size : 0);
	return 0;
}

int vhdx_mark(struct file *file, bool whole)
{
	return file_write(file, 0, whole ? VHDX_FILE_SIGNATURE : DISK_VOID_SIGNATURE, 8);
}

static int write_identifier(struct file *file, bool whole)
{
	static const char creator[] = "Bulkhead";
	struct vhdx_file_identifier id = {.creator = {0}};

	memcpy(id.signature, whole ? VHDX_FILE_SIGNATURE : DISK_VOID_SIGNATURE, sizeof(id.signature));
	for (size_t i = 0; i + 1 < sizeof(creator); i++)
		id.creator[i] = (uint16_t)creator[i];
	return file_write(file, 0, &id, sizeof(id));
}

static int write_headers(struct file *file)
{
	struct vhdx_header header = {.version = VHDX_VERSION,
				     .log_version = VHDX_LOG_VERSION,
				     .log_length = LOG_LENGTH,
				     .log_offset = LOG_OFFSET};
	int r = 0;

	memcpy(header.signature, VHDX_HEADER_SIGNATURE, 4);
	guid_random(&header.file_write_guid);
	guid_random(&header.data_write_guid);
	for (unsigned i = 0; r == 0 && i < 2; i++) {
		header.sequence_number = i + 1;
		header.checksum = 0;
		header.checksum = crc32c(0, &header, sizeof(header));
		r = file_write(file, i ? VHDX_HEADER_OFFSET_2 : VHDX_HEADER_OFFSET_1, &header,
			       sizeof(header));
	}
	return r;
}

static int write_region_tables(struct file *file, const struct layout *layout)
{
	const struct vhdx_region_entry entries[] = {
	    {VHDX_REGION_BAT, BAT_OFFSET, (uint32_t)layout->bat_length, VHDX_REGION_REQUIRED},
	    {VHDX_REGION_METADATA, METADATA_OFFSET, METADATA_LENGTH, VHDX_REGION_REQUIRED},
	};
	_cleanup_free_ uint8_t *table = calloc(1, VHDX_TABLE_SIZE);
	int r;

	if (!table)
		return -ENOMEM;
	memcpy(table, VHDX_REGION_SIGNATURE, 4);
	le32_put(table + 8, ARRAY_SIZE(entries));
	memcpy(table + sizeof(struct vhdx_region_table), entries, sizeof(entries));
	le32_put(table + 4, crc32c(0, table, VHDX_TABLE_SIZE));
	r = file_write(file, VHDX_REGION_TABLE_OFFSET_1, table, VHDX_TABLE_SIZE);
	return r < 0 ? r : file_write(file, VHDX_REGION_TABLE_OFFSET_2, table, VHDX_TABLE_SIZE);
}

static int write_metadata(struct file *file, const struct disk_create_options *o, const struct disk *parent,
			  uint32_t locator_length)
{
	const struct vhdx_file_parameters parameters = {
	    o->block_size, (o->fixed ? VHDX_LEAVE_BLOCK_ALLOCATED : 0) | (parent ? VHDX_HAS_PARENT : 0)};
	const uint32_t of_file = VHDX_METADATA_IS_REQUIRED;
	const uint32_t of_disk = VHDX_METADATA_IS_REQUIRED | VHDX_METADATA_IS_VIRTUAL_DISK;
	const uint32_t at = VHDX_TABLE_SIZE;
	struct vhdx_metadata_table head = {.entry_count = parent ? 6 : 5};
	const struct vhdx_metadata_entry entries[6] = {
	    {VHDX_ITEM_FILE_PARAMETERS, at, 8, of_file, 0},
	    {VHDX_ITEM_VIRTUAL_DISK_SIZE, at + 8, 8, of_disk, 0},
	    {VHDX_ITEM_VIRTUAL_DISK_ID, at + 16, 16, of_disk, 0},
	    {VHDX_ITEM_LOGICAL_SECTOR_SIZE, at + 32, 4, of_disk, 0},
	    {VHDX_ITEM_PHYSICAL_SECTOR_SIZE, at + 36, 4, of_disk, 0},
	    {VHDX_ITEM_PARENT_LOCATOR, LOCATOR_AT, locator_length, of_file, 0},
	};
	uint8_t items[40];
	struct guid id;
	int r;

	guid_random(&id);
	if (parent)
		id = parent->info.identifier; /* to the guest it is the same disk */
	memcpy(items, &parameters, 8);
	le64_put(items + 8, o->size);
	memcpy(items + 16, &id, 16);
	le32_put(items + 32, o->logical_sector_size);
	le32_put(items + 36, o->physical_sector_size);
	memcpy(head.signature, VHDX_METADATA_SIGNATURE, 8);
	r = file_write(file, METADATA_OFFSET, &head, sizeof(head));
	if (r == 0)
		r = file_write(file, METADATA_OFFSET + sizeof(head), entries,
			       head.entry_count * sizeof(entries[0]));
	return r < 0 ? r : file_write(file, METADATA_OFFSET + at, items, sizeof(items));
}

static int write_locator(struct file *file, const char *path, const struct disk *parent, const char *way,
			 uint32_t *length, struct error *err)
{
	struct locator locator = {.linkage = ((struct vhdx *)parent->format)->header.data_write_guid};
	_cleanup_free_ uint8_t *item = NULL;
	size_t size;
	int r = 0;

	if (!way)
		r = locator_relative_path(path, parent->path, &locator.relative_path, err);
	else if (!(locator.relative_path = strdup(way)))
		r = error_set(err, ENOMEM, "%s: no memory for the name of its parent", path);
	if (r == 0)
		r = locator_build(&locator, &item, &size, path, err);
	locator_clear(&locator);
	if (r < 0)
		return r;
	*length = (uint32_t)size;
	r = file_write(file, METADATA_OFFSET + LOCATOR_AT, item, size);
	return r < 0 ? error_set(err, -r, "%s: cannot be written: %s", path, strerror(-r)) : 0;
}

/* The BAT of a fixed disk; that of a dynamic one is zeros, which the new file has already. */
static int write_bat(struct file *file, const struct layout *layout, uint32_t block_size)
{
	_cleanup_free_ uint64_t *entries = malloc(BAT_BATCH * sizeof(*entries));
	uint64_t start = 0, block = 0;
	int r = entries ? 0 : -ENOMEM;

	while (r == 0 && block < layout->block_count) {
		size_t n = 0;

		for (; n < BAT_BATCH && block < layout->block_count; n++) {
			/* Every chunk's blocks are followed by one entry for its sector bitmap, which is not
			 * there. */
			bool bitmap = (start + n) % (layout->chunk_ratio + 1) == layout->chunk_ratio;

			entries[n] =
			    bitmap ? 0 : (layout->payload + block * block_size) | VHDX_BLOCK_FULLY_PRESENT;
			block += !bitmap;
		}
		r = file_write(file, BAT_OFFSET + start * 8, entries, n * sizeof(*entries));
		start += n;
	}
	return r;
}

static int reserve(struct file *file, const struct layout *layout, bool fixed)
{
	int r = file_resize(file, layout->file_end);

	if (r < 0 || !fixed)
		return r;
	/* Where the file system cannot promise space, the blocks are holes. */
	r = fallocate(file->fd, 0, (off_t)layout->payload, (off_t)(layout->file_end - layout->payload));
	return r < 0 && errno != EOPNOTSUPP ? -errno : 0;
}

int vhdx_fill(struct file *file, const char *path, const struct disk_create_options *options,
	      const struct disk *parent, const char *way, struct error *err)
{
	struct disk_create_options o = *options;
	struct layout layout = {0};
	uint32_t locator_length = 0;
	int r;

	if (o.block_size == 0)
		o.block_size = (o.fixed ? 32u : 2u) << 20;
	r = plan(&layout, path, &o, err);
	if (r < 0)
		return r;
	if (parent)
		r = write_locator(file, path, parent, way, &locator_length, err);
	if (r < 0)
		return r;
	r = reserve(file, &layout, o.fixed);
	if (r == 0)
		r = write_identifier(file, !way);
	if (r == 0)
		r = write_headers(file);
	if (r == 0)
		r = write_region_tables(file, &layout);
	if (r == 0)
		r = write_metadata(file, &o, parent, locator_length);
	if (r == 0 && o.fixed)
		r = write_bat(file, &layout, o.block_size);
	if (r < 0)
		return error_set(err, -r, "%s: cannot be written: %s", path, strerror(-r));
	return 0;
}
