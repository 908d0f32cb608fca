/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * resize.c - another size for an open disk, or for its file, while its gate is closed. Formats say how; that nothing
 * is lost that should not be is seen to here.
 */
#include <errno.h>
#include <string.h>

#include "disk/operation.h"
#include "disk/track.h"

#define PART (UINT64_C(1) << 20)  /* read at a time */
#define RUN  (UINT64_C(16) << 30) /* looked at at a time */

/* What is not zeros. */
struct found {
	uint64_t bytes; /* in sectors */
	uint64_t first, last;
};

static int check_size(const struct disk *disk, uint64_t size, struct error *err)
{
	const struct disk_info *info = &disk->info;

	if (info->read_only)
		return error_set(err, EROFS, "%s: open for reading only, so that its size cannot be changed",
				 disk->path);
	if (size == 0 || size > DISK_SIZE_LIMIT)
		return error_set(err, EINVAL, "%s: a size of %ju bytes; choose one from a sector to 64 TiB",
				 disk->path, (uintmax_t)size);
	if (size % info->logical_sector_size != 0)
		return error_set(err, EINVAL,
				 "%s: a size of %ju bytes is not a multiple of the %u-byte sector", disk->path,
				 (uintmax_t)size, info->logical_sector_size);
	if (!disk->ops->resize)
		return error_set(err, ENOTSUP,
				 "%s: the size of an image of this kind cannot be changed; convert it to VHDX by: "
				 "bulkhead disk convert",
				 disk->path);
	return 0;
}

static int read_part(struct disk *disk, uint64_t offset, uint64_t length, uint8_t *buffer, struct error *err)
{
	const struct iovec iov = {buffer, length};
	struct disk_request request = {
	    .op = DISK_OP_READ, .offset = offset, .length = length, .iov = &iov, .iov_count = 1};
	struct operation op;
	int r;

	operation_start(&op, disk, &request);
	r = operation_run(&op);
	if (r < 0)
		error_set(err, -r, "%s: reading %ju bytes at offset %ju failed: %s", disk->path,
			  (uintmax_t)length, (uintmax_t)offset, strerror(-r));
	return r;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static void count(struct found *found, uint64_t offset, const uint8_t *buffer, uint64_t length, uint32_t sector)
{
	for (uint64_t at = 0; at < length; at += sector) {
		if (is_zero(buffer + at, sector))
			continue;
		if (found->bytes == 0)
			found->first = offset + at;
		found->bytes += sector;
		found->last = offset + at + sector - 1;
	}
}

static int find_data(struct disk *disk, uint64_t from, struct found *found, const struct disk_progress *progress,
		     struct error *err)
{
	uint64_t size = disk->info.size, offset = from, length;
	_cleanup_free_ uint8_t *buffer = malloc(PART);
	struct disk_extent extent = {.length = 0};
	int r = buffer ? 0 : error_set(err, ENOMEM, "%s: no memory to read what would be cut off", disk->path);

	for (; r == 0 && offset < size; offset += length) {
		if (offset >= extent.offset + extent.length)
			r = disk_get_extent_inside(disk, offset, min_u64(RUN, size - offset), &extent, err);
		if (r == 0)
			r = progress_step(progress, disk->path, offset - from, size - from, err);
		length = extent.offset + extent.length - offset;
		if (r < 0 || extent.zero)
			continue;
		length = min_u64(length, PART);
		r = read_part(disk, offset, length, buffer, err);
		if (r == 0)
			count(found, offset, buffer, length, disk->info.logical_sector_size);
	}
	return r;
}

static int check_loss(struct disk *disk, uint64_t size, const struct disk_progress *progress, struct error *err)
{
	struct found found = {.bytes = 0};
	int r = find_data(disk, size, &found, progress, err);

	if (r < 0 || found.bytes == 0)
		return r;
	return error_set(err, EEXIST,
			 "%s: %ju bytes of data would be lost, the first at offset %ju and the last at %ju, past the "
			 "new end at %ju; make partitions and file systems smaller first (a GPT has its copy at the "
			 "very end), or cut it off by --force",
			 disk->path, (uintmax_t)found.bytes, (uintmax_t)found.first, (uintmax_t)found.last,
			 (uintmax_t)size);
}

/* What is cut off has changed if the disk ever is as large again: it reads as zeros then. */
static int note_loss(struct disk *disk, uint64_t size, struct error *err)
{
	int r = disk->tracker ? track_before(disk, size, disk->info.size - size) : 0;

	return r < 0 ? error_set(err, -r, "%s: its record of changes cannot be written: %s", disk->path, strerror(-r))
		     : 0;
}

static int resize(struct disk *disk, uint64_t size, bool lose_data, const struct disk_progress *progress,
		  struct error *err)
{
	int r = check_size(disk, size, err);

	if (r < 0 || size == disk->info.size)
		return r;
	if (size < disk->info.size && !lose_data)
		r = check_loss(disk, size, progress, err);
	if (r == 0 && size < disk->info.size)
		r = note_loss(disk, size, err);
	return r < 0 ? r : disk->ops->resize(disk, size, err);
}

int disk_resize(struct disk *disk, uint64_t size, bool lose_data, const struct disk_progress *progress,
		struct error *err)
{
	int r;

	if (!gate_begin_change(disk->gate))
		return error_set(err, EBUSY,
				 "%s: cannot get another size while its chain of files changes; try again when that "
				 "is done",
				 disk->path);
	gate_close(disk->gate);
	r = resize(disk, size, lose_data, progress, err);
	gate_open(disk->gate);
	gate_end_change(disk->gate);
	return r;
}

int disk_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err)
{
	int r;

	if (disk->info.read_only)
		return error_set(err, EROFS, "%s: open for reading only, so that it cannot be compacted", disk->path);
	if (!disk->ops->compact)
		return error_set(err, ENOTSUP,
				 "%s: only a VHDX or VHD that grows as it is written can be compacted; convert it by: "
				 "bulkhead disk convert, which leaves zeros out",
				 disk->path);
	if (!gate_begin_change(disk->gate))
		return error_set(err, EBUSY,
				 "%s: cannot be compacted while its chain of files changes; try again when that is done",
				 disk->path);
	gate_close(disk->gate);
	r = disk->ops->compact(disk, read, progress, err);
	gate_open(disk->gate);
	gate_end_change(disk->gate);
	return r;
}
