/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/start_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"

void start_fds_close(struct start_fds *list)
{
	while (list->count)
		close(list->fds[--list->count]);
}

/* Its number goes to `key` of `to`. */
static int add(struct start_fds *list, int fd, const char *path, json_t *to, const char *key, struct error *err)
{
	struct stat st;

	if (fd < 0)
		return error_set(err, errno, "%s: cannot be opened: %s", path, strerror(errno));
	if (list->count == WORKER_START_FDS_MAX) {
		close(fd);
		return error_set(err, EMLINK, "%s: the machine has more than %u files with all that its disks continue: merge some", path,
				 WORKER_START_FDS_MAX);
	}
	list->fds[list->count++] = fd;
	if (fstat(fd, &st))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, EINVAL, "%s: it is neither a file nor a block device", path);
	if (json_object_set_new(to, key, json_integer(WORKER_FIRST_FD + (json_int_t)list->count - 1)))
		return error_set(err, ENOMEM, "no memory");
	return 0;
}

static int add_named(struct start_fds *list, json_t *to, const char *name, const char *key, struct error *err)
{
	const char *path = json_string_value(json_object_get(to, name));

	return path ? add(list, disk_file_open(path, O_RDONLY), path, to, key, err) : 0;
}

/* Beside the file itself, not beside a link to it. There need not be any. */
static int add_record(struct start_fds *list, const char *path, json_t *disk, int mode, struct error *err)
{
	_cleanup_free_ char *real = realpath(path, NULL), *record = NULL;
	int fd;

	if (!real || asprintf(&record, "%s.cbt", real) < 0)
		return error_set(err, ENOMEM, "no memory");
	fd = disk_file_open(record, mode | O_NOFOLLOW);
	return fd < 0 ? 0 : add(list, fd, record, disk, "record", err);
}

static int add_parents(struct start_fds *list, const struct disk *disk, json_t *parents, struct error *err)
{
	int r = 0;

	for (const struct disk *parent = disk_parent(disk); parent && !r; parent = disk_parent(parent)) {
		_cleanup_free_ char *path = realpath(disk_path(parent), NULL);
		json_t *entry = path ? json_pack("{s:s}", "path", path) : NULL;

		if (!path)
			r = error_set(err, errno, "%s: %s", disk_path(parent), strerror(errno));
		else if (!entry || json_array_append_new(parents, entry))
			r = error_set(err, EINVAL, "%s: the name is no UTF-8: rename the file", path);
		else
			r = add(list, disk_file_open(path, O_RDONLY), path, entry, "descriptor", err);
	}
	return r;
}

/* Its file, and those that it continues, as it says itself. The worker locks them, and looks whether they belong together. */
static int add_disk(struct start_fds *list, json_t *disk, struct error *err)
{
	bool dvd = json_is_true(json_object_get(disk, "dvd")), read_only = dvd || json_is_true(json_object_get(disk, "read_only"));
	struct disk_open_options reading = {.read_only = true, .format = dvd ? DISK_FORMAT_RAW : DISK_FORMAT_AUTO};
	const char *path = json_string_value(json_object_get(disk, "path"));
	json_t *parents = json_array();
	struct disk *opened;
	int r;

	if (!path || !parents) {
		json_decref(parents);
		return path ? error_set(err, ENOMEM, "no memory") : 0;
	}
	r = disk_open(&opened, path, &reading, err);
	if (!r) {
		r = add(list, disk_file_open(path, read_only ? O_RDONLY : O_RDWR), path, disk, "descriptor", err);
		if (!r)
			r = add_parents(list, opened, parents, err);
		disk_close(opened, NULL);
	}
	if (!r && !dvd)
		r = add_record(list, path, disk, read_only ? O_RDONLY : O_RDWR, err);
	if (!r && json_array_size(parents))
		r = json_object_set(disk, "parents", parents) ? error_set(err, ENOMEM, "no memory") : 0;
	json_decref(parents);
	return r;
}

int start_files_open(json_t *worker, struct start_fds *list, struct error *err)
{
	json_t *boot = json_object_get(worker, "boot"), *disk;
	int r = add_named(list, boot, "kernel", "kernel_descriptor", err);
	size_t i;

	if (!r)
		r = add_named(list, boot, "initrd", "initrd_descriptor", err);
	json_array_foreach(json_object_get(worker, "disks"), i, disk)
		if (!r)
			r = add_disk(list, disk, err);
	if (!r)
		r = add_named(list, worker, "restore", "restore_descriptor", err);
	return r;
}
