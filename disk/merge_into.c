/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge_into.c - merging a row of files of a chain in one go. VHDX go from the lowest up, so that each piece of data is
 * written once, and the uppermost file, by whose name it is begun again, is the last to go. VHD go from the uppermost
 * down, because a VHD that continues a merged one would have to be told in a step of its own.
 */
#include <errno.h>
#include <string.h>

#include "disk/image.h"

/* Of one link after the other, as a whole. */
struct row {
	const struct disk_progress *progress;
	uint64_t link, links;
};

static bool step(void *context, uint64_t done, uint64_t total)
{
	const struct row *row = context;

	return row->progress->step(row->progress->context, row->link * total + done, row->links * total);
}

/* The file above `into` in the chain, and how many there are; NULL: `into` is not below the uppermost. */
static const struct disk *find_lowest(const struct disk *top, const char *into, uint64_t *links)
{
	const struct disk *child = top;

	for (*links = 1; child->parent; child = child->parent, ++*links)
		if (disk_is_file(child->parent, into))
			return child;
	return NULL;
}

static int not_below(const char *path, const char *into, struct error *err)
{
	return error_set(err, ENOENT, "%s: not in the chain of parents of %s, see: bulkhead disk info", into, path);
}

static int merge_upwards(struct disk *disk, const char *path, const char *into, struct row *row, struct error *err)
{
	const struct disk_progress whole = {step, row}, *progress = row->progress ? &whole : NULL;
	int r = 0;

	for (row->link = 0; r == 0 && row->link < row->links; row->link++) {
		uint64_t left;
		const struct disk *child = find_lowest(disk, into, &left);
		_cleanup_free_ char *name = child ? strdup(child->path) : NULL;

		if (!child)
			r = not_below(path, into, err);
		else if (!name)
			r = error_set(err, ENOMEM, "%s: no memory to merge it", path);
		else
			r = disk_merge_live(disk, name, progress, err);
	}
	return r;
}

static int merge_downwards(const char *path, const char *into, struct row *row, struct error *err)
{
	const struct disk_progress whole = {step, row}, *progress = row->progress ? &whole : NULL;
	_cleanup_free_ char *name = strdup(path);
	int r = name ? 0 : error_set(err, ENOMEM, "%s: no memory to merge it", path);

	for (row->link = 0; r == 0 && row->link < row->links; row->link++) {
		const struct disk_open_options reading = {.read_only = true};
		_cleanup_free_ char *next = NULL;
		struct disk *disk;

		r = disk_open(&disk, name, &reading, err);
		if (r < 0)
			return r;
		next = disk->parent ? strdup(disk->parent->path) : NULL;
		disk_close(disk, NULL);
		r = next ? disk_merge(name, progress, err) : not_below(path, into, err);
		free(name);
		name = next;
		next = NULL;
	}
	return r;
}

int disk_merge_into(const char *path, const char *into, const struct disk_progress *progress, struct error *err)
{
	const struct disk_open_options reading = {.read_only = true};
	struct row row = {.progress = progress};
	enum disk_format format;
	struct disk *disk;
	bool found;
	int r = disk_open(&disk, path, &reading, err), closed;

	if (r < 0)
		return r;
	format = disk->info.format;
	found = find_lowest(disk, into, &row.links) != NULL;
	disk_close(disk, NULL);
	if (!found)
		return not_below(path, into, err);
	if (format != DISK_FORMAT_VHDX)
		return merge_downwards(path, into, &row, err);
	r = disk_open(&disk, path, NULL, err);
	if (r < 0)
		return r;
	r = merge_upwards(disk, path, into, &row, err);
	closed = disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}
