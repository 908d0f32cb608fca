/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/operation.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "disk/track.h"

static const char zeros[65536];

static bool changes_disk(enum disk_op op)
{
	return op == DISK_OP_WRITE || op == DISK_OP_DISCARD || op == DISK_OP_WRITE_ZEROES;
}

static bool vector_has(const struct iovec *iov, int count, uint64_t length)
{
	uint64_t sum = 0;

	for (int i = 0; i < count; i++)
		if (__builtin_add_overflow(sum, iov[i].iov_len, &sum))
			return false;
	return sum == length;
}

static int check_request(const struct disk *disk, const struct disk_request *request)
{
	if (request->op == DISK_OP_FLUSH)
		return 0;
	if (!range_fits_u64(request->offset, request->length, disk->info.size))
		return -EINVAL;
	if (changes_disk(request->op) && disk->info.read_only)
		return -EROFS;
	if (disk->parent && changes_disk(request->op) &&
	    !is_aligned_u64(request->offset | request->length, disk->info.logical_sector_size))
		return -EINVAL; /* a sector is here or the parent's, as a whole */
	if ((request->op == DISK_OP_READ || request->op == DISK_OP_WRITE) &&
	    !vector_has(request->iov, request->iov_count, request->length))
		return -EINVAL;
	return 0;
}

void operation_start(struct operation *op, struct disk *disk, struct disk_request *request)
{
	op->disk = disk;
	op->request = request;
	op->next = NULL;
	op->done = 0;
	op->at = request->iov;
	op->at_skip = 0;
	op->synced = false;
	op->unsettled = 0;
	op->cannot_punch = false;
	op->extent = (struct extent){.hold = NULL};
	op->result = check_request(disk, request);
	if (op->result == 0 && disk->tracker && changes_disk(request->op))
		op->result = track_before(disk, request->offset, request->length);
}

/* Moves on by `size` bytes, which are there. */
static void pass(struct operation *op, uint64_t size)
{
	op->done += size;
	while (size > 0) {
		size_t part = min_u64(size, op->at->iov_len - op->at_skip);

		op->at_skip += part;
		size -= part;
		if (op->at_skip == op->at->iov_len) {
			op->at++;
			op->at_skip = 0;
		}
	}
}

static void fill(struct operation *op, const struct extent *extent)
{
	const uint8_t *from = extent->memory;
	uint64_t left = extent->length;

	while (left > 0) {
		char *to = (char *)op->at->iov_base + op->at_skip;
		size_t part = min_u64(left, op->at->iov_len - op->at_skip);

		if (part > 0 && extent->kind == EXTENT_MEMORY)
			memcpy(to, from + (extent->length - left), part);
		else if (part > 0)
			memset(to, 0, part);
		left -= part;
		if (part > 0)
			pass(op, part);
		else {
			op->at++;
			op->at_skip = 0;
		}
	}
}

/* The part of the request's vector from `done` on, at most `length` bytes and OPERATION_IOV elements. */
static void slice(struct operation *op, uint64_t length)
{
	const struct iovec *from = op->at;
	size_t skip = op->at_skip;
	int count = 0;

	op->step.length = 0;
	while (length > 0 && count < OPERATION_IOV) {
		size_t part = min_u64(length, from->iov_len - skip);

		if (part > 0)
			op->iov[count++] = (struct iovec){(char *)from->iov_base + skip, part};
		op->step.length += part;
		length -= part;
		from++;
		skip = 0;
	}
	op->step.iov = op->iov;
	op->step.iov_count = count;
}

static void step_data(struct operation *op, const struct extent *extent)
{
	const struct disk_request *request = op->request;

	op->step.kind = request->op == DISK_OP_READ ? STEP_READ : STEP_WRITE;
	op->file = extent->file;
	op->settle = extent->settle;
	op->step.offset = extent->file_offset;
	if (op->done == 0 && extent->length == request->length && request->iov_count <= IOV_MAX) {
		op->step.length = request->length;
		op->step.iov = request->iov;
		op->step.iov_count = request->iov_count;
	} else {
		slice(op, extent->length);
	}
}

static void step_zero(struct operation *op, const struct extent *extent)
{
	uint64_t left = extent->length;
	int count = 0;

	op->file = extent->file;
	op->settle = extent->settle;
	op->step = (struct step){.kind = STEP_ZERO, .offset = extent->file_offset, .length = left};
	if (!op->cannot_punch)
		return;
	while (left > 0 && count < OPERATION_IOV) {
		size_t part = min_u64(left, sizeof(zeros));

		op->iov[count++] = (struct iovec){(void *)zeros, part};
		left -= part;
	}
	op->step.kind = STEP_WRITE;
	op->step.length -= left;
	op->step.iov = op->iov;
	op->step.iov_count = count;
}

/* A flush that must write metadata does so here; one that need not is a step. */
static bool step_sync(struct operation *op)
{
	struct disk *disk = op->disk;

	if (op->synced || disk->info.read_only)
		return false;
	op->synced = true;
	if (disk->ops->must_commit && disk->ops->must_commit(disk)) {
		op->result = disk->ops->commit(disk);
		return false;
	}
	op->file = &disk->file;
	op->step = (struct step){.kind = STEP_SYNC};
	return true;
}

static enum map_purpose purpose_of(enum disk_op op)
{
	return op == DISK_OP_READ ? MAP_READ : op == DISK_OP_WRITE ? MAP_WRITE : MAP_ZERO;
}

/* What was written counts from now on. A step that ended inside a sector leaves that to the next. */
static void settle(struct operation *op)
{
	int r = op->disk->ops->settle(op->disk, op->request->offset + op->done - op->unsettled, op->unsettled,
				      op->settle_at);

	op->unsettled = 0;
	if (op->result == 0)
		op->result = r;
}

bool operation_next(struct operation *op)
{
	const struct disk_request *request = op->request;
	bool flush = request->op == DISK_OP_FLUSH;
	struct extent *extent = &op->extent;

	if (op->unsettled > 0)
		settle(op);
	extent_release(extent);
	while (op->result == 0 && !flush && op->done < request->length) {
		op->result = op->disk->ops->map(op->disk, purpose_of(request->op), request->offset + op->done,
						request->length - op->done, extent);
		if (op->result < 0)
			break;
		if (extent->kind == EXTENT_FILE) {
			if (purpose_of(request->op) == MAP_ZERO)
				step_zero(op, extent);
			else
				step_data(op, extent);
			return true;
		}
		if (request->op == DISK_OP_READ)
			fill(op, extent);
		else
			op->done += extent->length;
	}
	if (op->result == 0 && (flush || (request->force_unit_access && changes_disk(request->op))))
		return step_sync(op);
	return false;
}

void operation_advance(struct operation *op, ssize_t outcome)
{
	uint64_t before = op->done;

	if (op->step.kind == STEP_SYNC) {
		op->result = file_sync_result(op->file, (int)outcome);
	} else if (outcome == -EINTR || outcome == -EAGAIN) {
		return;
	} else if (op->step.kind == STEP_ZERO && (outcome == -EOPNOTSUPP || outcome == -ENODEV)) {
		op->cannot_punch = true;
	} else if (outcome < 0) {
		op->result = (int)outcome;
	} else if (op->step.kind == STEP_ZERO) {
		op->done += op->step.length;
	} else if (outcome == 0) {
		op->result = -EIO; /* the file ends inside the disk: somebody has cut it */
	} else if (purpose_of(op->request->op) == MAP_ZERO) {
		op->done += (uint64_t)outcome;
	} else {
		pass(op, (uint64_t)outcome);
	}
	if (op->done > before && op->settle) {
		op->unsettled = op->done - before;
		op->settle_at = op->step.offset;
	}
}

void operation_end(struct operation *op)
{
	struct disk *disk = op->disk;

	if (disk->changes && changes_disk(op->request->op))
		changes_note(disk->changes, op->request->offset, op->request->length);
	gate_leave(disk->gate);
}

int operation_run(struct operation *op)
{
	while (operation_next(op))
		operation_advance(op, file_perform(op->file, &op->step));
	return op->result;
}
