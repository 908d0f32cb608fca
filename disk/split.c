/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * split.c - a checkpoint of an open disk: from one moment on it continues on a new differencing disk.
 *
 * Between that moment's requests the disk's gate is closed. The old file is made whole and clean; the new one
 * gets its name when it is whole and synced; then the two change places. A power cut before leaves the old
 * file, which nobody has written since, and perhaps the new one, empty, which reads the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "disk/lock.h"
#include "disk/new_file.h"
#include "disk/track.h"
#include "disk/vhdx_locator.h"

static int check_disk(const struct disk *disk, const char *path, struct error *err)
{
	unsigned depth = 2;

	if (!disk->ops->chain)
		return error_set(err, ENOTSUP,
				 "%s: no VHDX or VHD, and nothing else can be a parent; convert it by: bulkhead disk convert",
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

static struct disk_create_options options_of(const struct disk *disk)
{
	return (struct disk_create_options){.format = disk->info.format,
					    .size = disk->info.size,
					    .parent = disk->path,
					    .logical_sector_size = disk->info.logical_sector_size,
					    .physical_sector_size = disk->info.physical_sector_size};
}

static int create_child(const struct disk *disk, const char *path, const struct file_observer *observer,
			struct error *err)
{
	const struct disk_create_options options = options_of(disk);
	struct new_file new;
	struct file file;
	int r = new_file_begin(&new, path, false, err);

	if (r < 0)
		return r;
	new.observer = observer;
	file = (struct file){.fd = new.fd, .direct_fd = -1, .observer = observer};
	r = disk->ops->chain->fill(&file, path, &options, disk, NULL, err);
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

static int sync_after(struct file *file, int r)
{
	return r < 0 ? r : file_sync(file);
}

/* An empty file that has its name becomes the new disk by one sector, when all the rest of it is durable. */
static int fill_child(const struct disk *disk, struct file *file, const struct disk_split_files *files,
		      struct error *err)
{
	const struct disk_create_options options = options_of(disk);
	_cleanup_free_ char *way = NULL;
	uint64_t size = 0;
	int r = file_size(file, &size);

	if (r == 0 && size > 0)
		return error_set(err, EEXIST, "%s: is not empty, so that it cannot become a new disk",
				 files->child_name);
	if (r == 0)
		r = sync_after(file, disk->ops->chain->mark(file, false));
	if (r < 0)
		return error_set(err, -r, "%s: cannot be written: %s", files->child_name, strerror(-r));
	r = locator_way(files->child_name, files->parent_name, &way, err);
	if (r == 0)
		r = disk->ops->chain->fill(file, files->child_name, &options, disk, way, err);
	if (r < 0)
		return r;
	r = sync_after(file, 0);
	if (r == 0)
		r = sync_after(file, disk->ops->chain->mark(file, true));
	if (r < 0) {
		(void)sync_after(file, disk->ops->chain->mark(file, false));
		return error_set(err, -r, "%s: cannot be written: %s", files->child_name, strerror(-r));
	}
	return 0;
}

static int open_child(struct disk **below, struct disk *disk, const struct disk_split_files *files,
		      const struct file_observer *observer, struct error *err)
{
	const struct disk_open_options options = {.format = disk->info.format};
	struct file file = {.fd = files->child, .direct_fd = -1, .observer = observer};
	int fd, r = fill_child(disk, &file, files, err);

	if (r < 0)
		return r;
	fd = fcntl(files->child, F_DUPFD_CLOEXEC, 0);
	r = disk_open_handed(below, fd, files->child_name, &options, disk, observer, err);
	if (r < 0)
		(void)sync_after(&file, disk->ops->chain->mark(&file, false));
	return r;
}

static int split_files(struct disk *disk, struct disk_split_files *files, const struct file_observer *observer,
		       struct error *err)
{
	struct disk *below;
	int r = check_disk(disk, files->child_name, err);

	/* A record of changes stays as it is, which is right, if not as exact as it might be. */
	if (r == 0)
		r = disk->ops->chain->rest(disk, err);
	if (r == 0)
		r = open_child(&below, disk, files, observer, err);
	if (r < 0)
		return r;
	change_places(disk, below);
	track_move_given(disk, files->record);
	files->record = -1;
	return 0;
}

static int split(struct disk *disk, const char *path, const struct file_observer *observer, struct error *err)
{
	const struct disk_open_options options = {.format = disk->info.format,
						  .direct = disk->file.direct_fd >= 0};
	struct disk *below;
	int r = check_disk(disk, path, err);

	if (r == 0 && disk->tracker)
		r = track_end(disk, false, err);
	if (r == 0)
		r = disk->ops->chain->rest(disk, err);
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

static int busy(const char *path, struct error *err)
{
	return error_set(err, EBUSY, "%s: cannot continue the disk while its chain of files changes; "
			 "try again when that is done", path);
}

int disk_split_watched(struct disk *disk, const char *path, const struct file_observer *observer,
		       struct error *err)
{
	int r;

	if (!gate_begin_change(disk->gate))
		return busy(path, err);
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

int disk_split_files_watched(struct disk *disk, const struct disk_split_files *files,
			     const struct file_observer *observer, struct error *err)
{
	struct disk_split_files left = *files;
	int r;

	if (gate_begin_change(disk->gate)) {
		gate_close(disk->gate);
		r = split_files(disk, &left, observer, err);
		gate_open(disk->gate);
		gate_end_change(disk->gate);
	} else {
		r = busy(files->child_name, err);
	}
	if (left.record >= 0)
		close(left.record);
	if (left.child >= 0)
		close(left.child);
	return r;
}

int disk_split_files(struct disk *disk, const struct disk_split_files *files, struct error *err)
{
	return disk_split_files_watched(disk, files, NULL, err);
}
