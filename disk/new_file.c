/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static char *directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

/* The names in the directory of `path` last through a power cut from now on. Some file systems sync no directories, and
 * say so; a directory that we may not read cannot be synced either. */
static int sync_directory(const char *path, const struct file_observer *observer)
{
	_cleanup_free_ char *directory = directory_of(path);
	_cleanup_close_ int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int r = observer && observer->refuse_sync ? -observer->refuse_sync(observer->context) : 0;

	if (!directory)
		return -ENOMEM;
	if (r < 0 || fd < 0 || fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS)
		return r;
	return -errno;
}

static int exists(const char *path, struct error *err)
{
	return error_set(err, EEXIST, "%s: exists already; choose another name, or ask to replace it (--replace)", path);
}

int new_file_begin(struct new_file *file, const char *path, bool replace, struct error *err)
{
	_cleanup_free_ char *directory = directory_of(path);

	*file = (struct new_file){.fd = -1};
	if (!replace && access(path, F_OK) == 0)
		return exists(path, err);
	if (directory)
		file->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (file->fd >= 0)
		return 0;
	if (asprintf(&file->temporary, "%s.new-XXXXXX", path) < 0) {
		file->temporary = NULL;
		return error_set(err, ENOMEM, "%s: no memory to create it", path);
	}
	file->fd = mkostemp(file->temporary, O_CLOEXEC);
	if (file->fd < 0) {
		int code = errno;

		free(file->temporary);
		file->temporary = NULL;
		return error_set(err, code, "%s: cannot be created: %s", path, strerror(code));
	}
	return 0;
}

static int link_as(int fd, const char *name)
{
	char open_file[32];

	snprintf(open_file, sizeof(open_file), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, open_file, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* A file without a name cannot take the place of one that has it: it gets a temporary one first. */
static int name_temporarily(struct new_file *file, const char *path)
{
	int r = -EEXIST;

	for (unsigned tries = 0; r == -EEXIST && tries < 100; tries++) {
		struct guid random;

		guid_random(&random);
		free(file->temporary);
		if (asprintf(&file->temporary, "%s.new-%08x", path, le32_get(random.bytes)) < 0)
			file->temporary = NULL;
		r = file->temporary ? link_as(file->fd, file->temporary) : -ENOMEM;
	}
	if (r < 0) {
		free(file->temporary);
		file->temporary = NULL;
	}
	return r;
}

static int rename_to(const char *from, const char *path, bool replace)
{
	int r = replace ? rename(from, path) : renameat2(AT_FDCWD, from, AT_FDCWD, path, RENAME_NOREPLACE);

	if (r < 0 && !replace && errno == EINVAL) {
		/* A file system without RENAME_NOREPLACE: a hard link does not replace either. */
		r = link(from, path);
		if (r == 0)
			unlink(from);
	}
	return r < 0 ? -errno : 0;
}

static int give_name(struct new_file *file, const char *path, bool replace)
{
	int r = 0;

	if (!file->temporary && !replace)
		return link_as(file->fd, path);
	if (!file->temporary)
		r = name_temporarily(file, path);
	return r < 0 ? r : rename_to(file->temporary, path, replace);
}

static void tell_named(const struct file_observer *observer, bool has_name)
{
	if (observer && observer->named)
		observer->named(observer->context, has_name);
}

static void tell_names_synced(const struct file_observer *observer)
{
	if (observer && observer->names_synced)
		observer->names_synced(observer->context);
}

int new_file_finish(struct new_file *file, const char *path, bool replace, struct error *err)
{
	int r = 0;

	if (fchmod(file->fd, 0640) < 0)
		r = error_set(err, errno, "%s: its rights cannot be set: %s", path, strerror(errno));
	else if (fsync(file->fd) < 0)
		r = error_set(err, errno, "%s: cannot be written: %s", path, strerror(errno));
	if (r == 0) {
		if (file->observer)
			file->observer->synced(file->observer->context);
		r = give_name(file, path, replace);
		if (r == -EEXIST)
			exists(path, err);
		else if (r < 0)
			error_set(err, -r, "%s: the new image cannot get this name: %s", path, strerror(-r));
	}
	if (r < 0) {
		new_file_abandon(file);
		return r;
	}
	tell_named(file->observer, true);
	r = sync_directory(path, file->observer);
	if (r < 0) {
		/* What it may have replaced is no more: then it stays. */
		if (!replace && unlink(path) == 0)
			tell_named(file->observer, false);
		error_set(err, -r, "%s: its name cannot be made durable: %s", path, strerror(-r));
		new_file_abandon(file);
		return r;
	}
	tell_names_synced(file->observer);
	close(file->fd);
	free(file->temporary);
	*file = (struct new_file){.fd = -1};
	return 0;
}

void new_file_abandon(struct new_file *file)
{
	if (file->temporary)
		unlink(file->temporary);
	if (file->fd >= 0)
		close(file->fd);
	free(file->temporary);
	*file = (struct new_file){.fd = -1};
}

int new_file_remove(const char *path, const struct file_observer *observer)
{
	int r;

	if (unlink(path) < 0)
		return -errno;
	tell_named(observer, false);
	r = sync_directory(path, observer);
	if (r == 0)
		tell_names_synced(observer);
	return r;
}
