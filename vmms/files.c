/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PART      (1u << 24) /* copied between two looks at whether to stop */
#define DEPTH_MAX 16u        /* of directories that are removed */

/* --- opening ------------------------------------------------------------------------------------------ */

static int check_plain(int fd, const char *name, struct error *err)
{
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		int code = errno;

		if (fd >= 0)
			close(fd);
		return error_set(err, code, "%s: %s", name, strerror(code));
	}
	if (S_ISREG(st.st_mode))
		return fd;
	close(fd);
	return error_set(err, EINVAL, "%s is no plain file", name);
}

int file_open_below(int directory, const char *name, struct error *err)
{
	const struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
				     .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};

	return check_plain((int)syscall(SYS_openat2, directory, name, &how, sizeof(how)), name, err);
}

int file_open_plain(const char *path, bool no_link, struct error *err)
{
	return check_plain(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (no_link ? O_NOFOLLOW : 0)), path, err);
}

bool name_is_inside(const char *name)
{
	for (const char *part = name;; part++) {
		size_t length = strcspn(part, "/");

		if (!length || (length == 1 && *part == '.') || (length == 2 && !strncmp(part, "..", 2)))
			return false;
		part += length;
		if (!*part)
			return true;
	}
}

/* --- copying ------------------------------------------------------------------------------------------ */

static int copy_through_memory(int from, int to, off_t offset, size_t size)
{
	char bytes[65536];

	while (size) {
		ssize_t n = pread(from, bytes, size < sizeof(bytes) ? size : sizeof(bytes), offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t written = pwrite(to, bytes + done, (size_t)(n - done), offset + done);

			if (written < 0 && errno != EINTR)
				return -errno;
			done += written > 0 ? written : 0;
		}
		offset += n;
		size -= (size_t)n;
	}
	return 0;
}

/* Not every pair of file systems can copy, and some say so only by copying nothing. */
static int copy_part(int from, int to, off_t offset, size_t size)
{
	while (size) {
		off_t in = offset, out = offset;
		ssize_t n = copy_file_range(from, &in, to, &out, size, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS)))
			return copy_through_memory(from, to, offset, size);
		if (n < 0)
			return -errno;
		offset += n;
		size -= (size_t)n;
	}
	return 0;
}

static int copy_data(int from, int to, off_t size, const struct disk_progress *progress)
{
	off_t offset = 0, end;
	int r = 0;

	while (!r && offset < size) {
		off_t data = lseek(from, offset, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			break;
		/* Who cannot tell where holes are has none. */
		offset = data < 0 ? offset : data;
		end = data < 0 ? size : lseek(from, offset, SEEK_HOLE);
		if (end < 0 || end > size)
			end = size;
		while (!r && offset < end) {
			size_t part = (size_t)(end - offset) < PART ? (size_t)(end - offset) : PART;

			if (progress && !progress->step(progress->context, (uint64_t)offset, (uint64_t)size))
				return -ECANCELED;
			r = copy_part(from, to, offset, part);
			offset += (off_t)part;
		}
	}
	return r;
}

int file_copy(int from, int directory, const char *name, const struct disk_progress *progress, struct error *err)
{
	_cleanup_close_ int to = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
	struct stat st;
	int r;

	if (to < 0)
		return error_set(err, errno, "%s cannot be made: %s", name, strerror(errno));
	r = fstat(from, &st) || ftruncate(to, st.st_size) ? -errno : 0;
	if (!r)
		r = copy_data(from, to, st.st_size, progress);
	/* Some disks know what they continue by its time. */
	if (!r && futimens(to, (const struct timespec[]){st.st_atim, st.st_mtim}))
		r = -errno;
	if (!r && fsync(to))
		r = -errno;
	if (!r)
		return 0;
	unlinkat(directory, name, 0);
	return r == -ECANCELED ? error_set(err, ECANCELED, "copying was stopped, as was asked")
			       : error_set(err, -r, "%s cannot be copied: %s", name, strerror(-r));
}

/* --- directories -------------------------------------------------------------------------------------- */

int file_make_parents(int directory, const char *name, struct error *err)
{
	_cleanup_free_ char *copy = strdup(name);

	if (!copy)
		return error_set(err, ENOMEM, "no memory");
	for (char *c = copy; *c; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		if (mkdirat(directory, copy, 0750) && errno != EEXIST)
			return error_set(err, errno, "%s cannot be made: %s", copy, strerror(errno));
		*c = '/';
	}
	return 0;
}

int directory_new(const char *path, struct error *err)
{
	int fd;

	if (mkdir(path, 0750))
		return error_set(err, errno, "%s cannot be made: %s", path, strerror(errno));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : fd;
}

int directory_sync(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
}

static void remove_name(int directory, const char *name)
{
	if (unlinkat(directory, name, 0) && errno == EISDIR)
		unlinkat(directory, name, AT_REMOVEDIR);
}

void file_remove_below(int directory, const char *name)
{
	const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				     .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	_cleanup_free_ char *above = strdup(name);
	_cleanup_close_ int inner = -1;
	char *last = above ? strrchr(above, '/') : NULL;

	if (above && !last) {
		remove_name(directory, name);
	} else if (last && name_is_inside(name)) {
		*last = '\0';
		inner = (int)syscall(SYS_openat2, directory, above, &how, sizeof(how));
		if (inner >= 0)
			remove_name(inner, last + 1);
	}
}

struct aside {
	uv_work_t request;
	int fd; /* the last that holds the file */
};

static void close_aside(uv_work_t *request)
{
	close(((struct aside *)request->data)->fd);
}

static void closed_aside(uv_work_t *request, int status)
{
	(void)status;
	free(request->data);
}

int file_unlink_aside(uv_loop_t *loop, int directory, const char *name)
{
	int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int r = unlinkat(directory, name, 0) ? -errno : 0;
	struct aside *aside = r || fd < 0 ? NULL : malloc(sizeof(*aside));

	if (aside) {
		aside->request.data = aside;
		aside->fd = fd;
		if (!uv_queue_work(loop, &aside->request, close_aside, closed_aside))
			return 0;
		free(aside);
	}
	if (fd >= 0)
		close(fd);
	return r;
}

static void empty(int directory, unsigned depth)
{
	DIR *all = fdopendir(directory);
	const struct dirent *entry;

	if (!all) {
		close(directory);
		return;
	}
	while ((entry = readdir(all))) {
		int inner;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || !unlinkat(dirfd(all), entry->d_name, 0))
			continue;
		inner = openat(dirfd(all), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (inner < 0)
			continue;
		if (depth < DEPTH_MAX)
			empty(inner, depth + 1);
		else
			close(inner);
		unlinkat(dirfd(all), entry->d_name, AT_REMOVEDIR);
	}
	closedir(all);
}

void directory_remove(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return;
	empty(fd, 0);
	rmdir(path);
}
