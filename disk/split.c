/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * split.c - a checkpoint of an open disk: from one moment on it continues on a new differencing disk.
 *
 * Between that moment's requests the disk's gate is closed. The old file is made whole and clean; the new one
 * gets its name when it is whole and synced; then the two change places. A power cut before leaves the old
 * file, which nobody has written since, and perhaps the new one, empty, which reads the same.
 */
#include <errno.h>
#include <string.h>

#include "disk/lock.h"
#include "disk/new_file.h"
#include "disk/track.h"
#include "disk/vhdx.h"

static int check_disk(const struct disk *disk, const char *path, struct error *err)
{
	unsigned depth = 2;

	if (disk->info.format != DISK_FORMAT_VHDX)
		return error_set(err, ENOTSUP,
				 "%s: no VHDX, and nothing else can be a parent; convert it by: bulkhead disk convert",
				 disk->path);
	if (disk->info.read_only)
		return error_set(err, EROFS, "%s: open for reading only, so that nothing can continue it",
				 disk->path);
	for (const struct disk *d = disk->parent; d; d = d->parent)
		depth++;
	if (depth > DISK_CHAIN_MAX)
		return error_set(err, EMLINK, "%s: more than %d disks in a chain; merge some of them first",
				 path, DISK_CHAIN_MAX);
	return 0;
}

static int create_child(const struct disk *disk, const char *path, const struct file_observer *observer,
			struct error *err)
{
	const struct disk_create_options options = {.format = DISK_FORMAT_VHDX,
						    .size = disk->info.size,
						    .parent = disk->path,
						    .logical_sector_size = disk->info.logical_sector_size,
						    .physical_sector_size = disk->info.physical_sector_size};
	struct new_file new;
	struct file file;
	int r = new_file_begin(&new, path, false, err);

	if (r < 0)
		return r;
	new.observer = observer;
	file = (struct file){.fd = new.fd, .direct_fd = -1, .observer = observer};
	r = vhdx_fill(&file, path, &options, disk, err);
	if (r < 0) {
		new_file_abandon(&new);
		return r;
	}
	return new_file_finish(&new, path, false, err);
}

void disk_share(struct disk *disk)
{
	disk->info.read_only = true;
	disk->info.can_discard = false;
	lock_share(disk->file.fd);
}

/* `below` has the place of a new disk over `disk`: afterwards it is the parent, with the old file. */
static void change_places(struct disk *disk, struct disk *below)
{
	disk_exchange(disk, below);
	below->parent = disk->parent;
	below->parent_kind = disk->parent_kind;
	if (below->parent)
		below->parent->child = below;
	disk->parent = below;
	disk->parent_kind = PARENT_OWN;
	below->child = disk;
	disk_share(below);
}

static int split(struct disk *disk, const char *path, const struct file_observer *observer, struct error *err)
{
	const struct disk_open_options options = {.format = DISK_FORMAT_VHDX,
						  .direct = disk->file.direct_fd >= 0};
	struct disk *below;
	int r = check_disk(disk, path, err);

	if (r == 0 && disk->tracker)
		r = track_end(disk, false, err);
	if (r == 0)
		r = vhdx_rest(disk, err);
	if (r == 0)
		r = create_child(disk, path, observer, err);
	if (r < 0)
		return r;
	r = disk_open_over(&below, path, &options, disk, false, observer, err);
	if (r < 0) {
		(void)new_file_remove(path, observer);
		return r;
	}
	change_places(disk, below);
	if (disk->tracker)
		track_move(disk, false);
	return 0;
}

int disk_split_watched(struct disk *disk, const char *path, const struct file_observer *observer,
		       struct error *err)
{
	int r;

	if (!gate_begin_change(disk->gate))
		return error_set(err, EBUSY, "%s: cannot continue the disk while its chain of files changes; "
				 "try again when that is done", path);
	gate_close(disk->gate);
	r = split(disk, path, observer, err);
	gate_open(disk->gate);
	gate_end_change(disk->gate);
	return r;
}

int disk_split(struct disk *disk, const char *path, struct error *err)
{
	return disk_split_watched(disk, path, NULL, err);
}
