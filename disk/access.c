/* SPDX-License-Identifier: GPL-2.0-or-later */
/* access.c - reading and writing a disk without a queue. */
#include <errno.h>
#include <string.h>

#include "disk/operation.h"

static int run(struct disk *disk, struct disk_request *request, const char *verb, struct error *err)
{
	struct operation op;
	int r;

	gate_enter_waiting(disk->gate);
	operation_start(&op, disk, request);
	r = operation_run(&op);
	if (r < 0)
		error_set(err, -r, "%s: %s %ju bytes at offset %ju failed: %s", disk->path, verb,
			  (uintmax_t)request->length, (uintmax_t)request->offset, strerror(-r));
	operation_end(&op);
	return r;
}

int disk_read(struct disk *disk, uint64_t offset, void *buffer, size_t size, struct error *err)
{
	const struct iovec iov = {buffer, size};
	struct disk_request request = {
	    .op = DISK_OP_READ, .offset = offset, .length = size, .iov = &iov, .iov_count = 1};

	return run(disk, &request, "reading", err);
}

/* Of a differencing disk only whole sectors can be written. */
static int write_unaligned(struct disk *disk, const struct disk_info *info, uint64_t offset, const void *buffer,
			   size_t size, struct error *err)
{
	uint32_t sector = info->logical_sector_size;
	uint64_t start = offset / sector * sector;
	size_t all = align_up_u64(offset + size, sector) - start;
	_cleanup_free_ char *sectors = range_fits_u64(offset, size, info->size) ? malloc(all) : NULL;
	int r;

	if (!sectors)
		return error_set(err, EINVAL, "%s: writing %zu bytes at offset %ju failed", disk->path, size,
				 (uintmax_t)offset);
	r = disk_read(disk, start, sectors, all, err);
	if (r < 0)
		return r;
	memcpy(sectors + (offset - start), buffer, size);
	return disk_write(disk, start, sectors, all, err);
}

int disk_write(struct disk *disk, uint64_t offset, const void *buffer, size_t size, struct error *err)
{
	const struct iovec iov = {(void *)buffer, size};
	struct disk_request request = {
	    .op = DISK_OP_WRITE, .offset = offset, .length = size, .iov = &iov, .iov_count = 1};

	struct disk_info info;

	if (!is_aligned_u64(offset | size, 4096)) {
		disk_get_info(disk, &info);
		/* Whether it has a parent may change at any moment. */
		if (info.format != DISK_FORMAT_RAW && size > 0 &&
		    !is_aligned_u64(offset | size, info.logical_sector_size))
			return write_unaligned(disk, &info, offset, buffer, size, err);
	}
	return run(disk, &request, "writing", err);
}

int disk_flush(struct disk *disk, struct error *err)
{
	struct disk_request request = {.op = DISK_OP_FLUSH};

	return run(disk, &request, "flushing", err);
}

int disk_perform(struct disk *disk, struct disk_request *request, struct error *err)
{
	static const char *const verbs[] = {[DISK_OP_READ] = "reading",
					    [DISK_OP_WRITE] = "writing",
					    [DISK_OP_FLUSH] = "flushing",
					    [DISK_OP_DISCARD] = "discarding",
					    [DISK_OP_WRITE_ZEROES] = "zeroing"};

	return run(disk, request, verbs[request->op], err);
}
