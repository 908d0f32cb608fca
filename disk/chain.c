/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chain.c - differencing disks and their parents as files: merging the one into the other, another parent.
 *
 * A merge may end at any moment, by a kill or a power cut. The parent's identity changes when the first byte
 * is written to it, so that other children of it do not take it for what it was. So before that the child is
 * told of both identities, the old and the new one ([MS-VHDX] 2.6.2.6.3 has two places for that). What is in
 * the child hides what has come into the parent until then; so the child reads the same all the time, and
 * merging it again ends what was begun. In the end the parent gets the child's identity, whose contents it
 * has: disks that continue the child may continue the parent instead. Then the child is removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "disk/chain.h"
#include "disk/new_file.h"
#include "disk/operation.h"
#include "disk/vhdx_locator.h"

#define PART    (UINT64_C(1) << 20)  /* read and written at a time */
#define RUN_MAX (UINT64_C(64) << 20) /* zeroed at a time */

static int must_have_chains(const struct disk *disk, struct error *err)
{
	if (disk->ops->chain)
		return 0;
	return error_set(err, ENOTSUP, "%s: no VHDX or VHD; only those can have a parent or be one here",
			 disk->path);
}

/* Past the gate: by whoever has closed it, too. */
static int perform(struct disk *disk, enum disk_op kind, uint64_t offset, uint64_t length, void *buffer,
		   struct error *err)
{
	static const char *const verbs[] = {[DISK_OP_READ] = "reading",
					    [DISK_OP_WRITE] = "writing",
					    [DISK_OP_FLUSH] = "flushing",
					    [DISK_OP_DISCARD] = "zeroing"};
	const struct iovec iov = {buffer, length};
	struct disk_request request = {
	    .op = kind, .offset = offset, .length = length, .iov = &iov, .iov_count = 1};
	struct operation op;
	int r;

	operation_start(&op, disk, &request);
	r = operation_run(&op);
	return r < 0 ? error_set(err, -r, "%s: %s %ju bytes at offset %ju failed: %s", disk->path, verbs[kind],
				 (uintmax_t)length, (uintmax_t)offset, strerror(-r))
		     : 0;
}

/* What is the same from `offset` on, and how much of it. */
static int run_at(struct disk *child, uint64_t offset, uint64_t end, uint64_t *length, int *kind)
{
	uint64_t left = min_u64(RUN_MAX, end - offset);
	struct extent extent;
	int r = child->ops->chain->map_here(child, MAP_READ, offset, left, &extent);

	if (r < 0)
		return r;
	extent_release(&extent);
	*kind = extent.kind;
	*length = extent.length;
	while (*length < left) {
		r = child->ops->chain->map_here(child, MAP_READ, offset + *length, left - *length, &extent);
		if (r < 0)
			break;
		extent_release(&extent);
		if ((int)extent.kind != *kind)
			break;
		*length += extent.length;
	}
	return 0;
}

static int stopped(const struct disk *child, struct error *err)
{
	return error_set(
	    err, ECANCELED,
	    "%s: merging was stopped, as was asked; the disk is what it was, and merging it again goes on",
	    child->path);
}

static int copy(struct disk *child, struct disk *parent, uint64_t offset, uint64_t length, void *buffer,
		const struct disk_progress *progress, struct error *err)
{
	for (uint64_t done = 0; done < length;) {
		size_t part = min_u64(PART, length - done);
		int r;

		if (progress && !progress->step(progress->context, offset + done, child->info.size))
			return stopped(child, err);
		r = perform(child, DISK_OP_READ, offset + done, part, buffer, err);
		if (r == 0)
			r = perform(parent, DISK_OP_WRITE, offset + done, part, buffer, err);
		if (r < 0)
			return r;
		done += part;
	}
	return 0;
}

int chain_copy(struct disk *child, struct disk *parent, uint64_t offset, uint64_t end,
	       const struct disk_progress *progress, struct error *err)
{
	_cleanup_free_ void *buffer = malloc(PART);
	uint64_t length;
	int r = 0, kind;

	if (!buffer)
		return error_set(err, ENOMEM, "%s: no memory to merge it", child->path);
	while (r == 0 && offset < end) {
		if (progress && !progress->step(progress->context, offset, child->info.size))
			return stopped(child, err);
		r = run_at(child, offset, end, &length, &kind);
		if (r < 0)
			return error_set(err, -r, "%s: what is at offset %ju cannot be found: %s",
					 child->path, (uintmax_t)offset, strerror(-r));
		if (kind == EXTENT_ZERO)
			r = perform(parent, DISK_OP_DISCARD, offset, length, NULL, err);
		else if (kind != EXTENT_PARENT)
			r = copy(child, parent, offset, length, buffer, progress, err);
		offset += length;
	}
	return r;
}

int chain_begin_merge(struct disk *child, struct disk *parent, struct error *err)
{
	if (child->info.size != parent->info.size)
		return error_set(
		    err, EINVAL,
		    "%s: has %ju bytes, and its parent %s has %ju; convert the child to a disk of its own "
		    "instead, by: bulkhead disk convert",
		    child->path, (uintmax_t)child->info.size, parent->path, (uintmax_t)parent->info.size);
	return child->ops->chain->begin_merge(child, parent, err);
}

int chain_end_merge(struct disk *child, struct disk *parent, struct error *err)
{
	int r = perform(parent, DISK_OP_FLUSH, 0, 0, NULL, err);

	return r < 0 ? r : child->ops->chain->end_merge(child, parent, err);
}

static int merge(struct disk *child, struct disk *parent, const struct disk_progress *progress,
		 struct error *err)
{
	int r = chain_begin_merge(child, parent, err);

	if (r == 0)
		r = chain_copy(child, parent, 0, child->info.size, progress, err);
	return r < 0 ? r : chain_end_merge(child, parent, err);
}

/* Where the parent is, by opening the whole chain as it is. */
static int find_parent(const char *path, char **parent, enum disk_format *format, struct error *err)
{
	const struct disk_open_options options = {.read_only = true};
	struct disk *disk;
	int r = disk_open(&disk, path, &options, err);

	if (r < 0)
		return r;
	if (!disk->parent)
		r = error_set(err, EINVAL,
			      "%s: no differencing disk, so that it has no parent to be merged into", path);
	else if (!(*parent = strdup(disk->parent->path)))
		r = error_set(err, ENOMEM, "%s: no memory to merge it", path);
	*format = disk->info.format;
	disk_close(disk, NULL);
	return r;
}

/* `r` is what the work on it came to: an error of closing counts only if there was none before. */
static int close_after(struct disk *disk, int r, struct error *err)
{
	int closed = disk_close(disk, r < 0 ? NULL : err);

	return r < 0 ? r : closed;
}

static int remove_merged(const char *path, const struct file_observer *observer, struct error *err)
{
	int r = new_file_remove(path, observer);

	return r < 0 ? error_set(err, -r, "%s: merged, but cannot be removed: %s; remove it", path,
				 strerror(-r))
		     : 0;
}

static int merge_file(const char *path, bool keep, const struct disk_progress *progress, const struct file_observer *of_child,
		      const struct file_observer *of_parent, struct error *err)
{
	struct disk_open_options writing = {.read_only = false};
	_cleanup_free_ char *real = realpath(path, NULL), *parent_path = NULL;
	struct disk *parent, *child;
	int r = find_parent(path, &parent_path, &writing.format, err);

	if (r == 0 && !real)
		r = error_set(err, errno, "%s: cannot be opened: %s", path, strerror(errno));
	if (r == 0)
		r = disk_open_watched(&parent, parent_path, &writing, of_parent, err);
	if (r < 0)
		return r;
	r = disk_open_over(&child, real, &writing, parent, false, of_child, err);
	if (r < 0)
		return close_after(parent, r, err);
	r = merge(child, parent, progress, err);
	r = close_after(parent, r, err);
	/* While it is locked: nobody begins to use it meanwhile. */
	if (r == 0 && !keep)
		r = remove_merged(real, of_child, err);
	return close_after(child, r, err);
}

int disk_merge_watched(const char *path, const struct disk_progress *progress,
		       const struct file_observer *of_child, const struct file_observer *of_parent,
		       struct error *err)
{
	return merge_file(path, false, progress, of_child, of_parent, err);
}

int disk_merge(const char *path, const struct disk_progress *progress, struct error *err)
{
	return merge_file(path, false, progress, NULL, NULL, err);
}

int disk_merge_keep(const char *path, const struct disk_progress *progress, struct error *err)
{
	return merge_file(path, true, progress, NULL, NULL, err);
}

static int check_new_chain(const char *path, const struct disk *parent, struct error *err)
{
	unsigned depth = 1;

	for (const struct disk *d = parent; d; d = d->parent) {
		if (disk_is_file(d, path))
			return error_set(err, ELOOP,
					 "%s: is in the chain of parents of %s; choose another parent", path,
					 parent->path);
		if (++depth > DISK_CHAIN_MAX)
			return error_set(err, EMLINK,
					 "%s: more than %d disks in a chain; merge some of them first", path,
					 DISK_CHAIN_MAX);
	}
	return 0;
}

int chain_relink(struct disk *child, const char *way, const struct disk *parent, bool same, struct error *err)
{
	return child->ops->chain->relink(child, way, parent, same, err);
}

enum new_parent { PARENT_MUST_FIT, PARENT_CHANGED, PARENT_MERGED };

static int check_new_parent(const struct disk *child, const struct disk *parent, enum new_parent is, struct error *err)
{
	const struct chain_ops *ops = child->ops->chain;

	if (is == PARENT_CHANGED || (is == PARENT_MERGED && !ops->contents_have_names))
		return 0;
	return ops->check_parent(child, parent, err);
}

static int reparent(const char *path, const char *parent_path, enum new_parent is, const struct file_observer *observer,
		    struct error *err)
{
	const struct disk_open_options reading = {.read_only = true};
	/* Relative to the file itself, not to a link to it. */
	_cleanup_free_ char *real = realpath(path, NULL), *way = NULL;
	struct disk *parent, *child;
	int r;

	if (!real)
		return error_set(err, errno, "%s: cannot be opened: %s; check the path", path,
				 strerror(errno));
	r = disk_open(&parent, parent_path, &reading, err);
	if (r < 0)
		return r;
	r = must_have_chains(parent, err);
	if (r == 0)
		r = check_new_chain(real, parent, err);
	if (r == 0)
		r = disk_open_over(&child, real, &(struct disk_open_options){.format = parent->info.format},
				   parent, true, observer, err);
	if (r == 0) {
		r = check_new_parent(child, parent, is, err);
		if (r == 0)
			r = locator_relative_path(real, parent->path, &way, err);
		if (r == 0)
			r = chain_relink(child, way, parent, is == PARENT_MERGED, err);
		r = close_after(child, r, err);
	}
	return close_after(parent, r, err);
}

int disk_reparent_watched(const char *path, const char *parent_path, bool even_if_changed,
			  const struct file_observer *observer, struct error *err)
{
	return reparent(path, parent_path, even_if_changed ? PARENT_CHANGED : PARENT_MUST_FIT, observer, err);
}

int disk_reparent_merged(const char *path, const char *parent_path, struct error *err)
{
	return reparent(path, parent_path, PARENT_MERGED, NULL, err);
}

int disk_reparent(const char *path, const char *parent_path, bool even_if_changed, struct error *err)
{
	return disk_reparent_watched(path, parent_path, even_if_changed, NULL, err);
}
