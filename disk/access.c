/* SPDX-License-Identifier: GPL-2.0-or-later */
/* access.c - reading and writing a disk without a queue. */
#include <errno.h>
#include <string.h>

#include "disk/operation.h"

static int run(struct disk *disk, struct disk_request *request, const char *verb, struct error *err)
{
	struct operation op;
	int r;

	operation_start(&op, disk, request);
	r = operation_run(&op);
	if (r < 0)
		error_set(err, -r, "%s: %s %ju bytes at offset %ju failed: %s", disk->path, verb,
			  (uintmax_t)request->length, (uintmax_t)request->offset, strerror(-r));
	return r;
}

int disk_read(struct disk *disk, uint64_t offset, void *buffer, size_t size, struct error *err)
{
	const struct iovec iov = {buffer, size};
	struct disk_request request = {
	    .op = DISK_OP_READ, .offset = offset, .length = size, .iov = &iov, .iov_count = 1};

	return run(disk, &request, "reading", err);
}

int disk_write(struct disk *disk, uint64_t offset, const void *buffer, size_t size, struct error *err)
{
	const struct iovec iov = {(void *)buffer, size};
	struct disk_request request = {
	    .op = DISK_OP_WRITE, .offset = offset, .length = size, .iov = &iov, .iov_count = 1};

	return run(disk, &request, "writing", err);
}

int disk_flush(struct disk *disk, struct error *err)
{
	struct disk_request request = {.op = DISK_OP_FLUSH};

	return run(disk, &request, "flushing", err);
}
