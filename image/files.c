// SPDX-License-Identifier: GPL-2.0-or-later
/* files.c - files and trees, with sentences for what goes wrong. */
#include "image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

char *format_string(const char *format, ...)
{
	va_list args;
	char *text;
	int n;

	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0)
		abort(); /* a few bytes were refused: nothing sensible is left to do */
	return text;
}

int make_directories(const char *path, struct error *err)
{
	_cleanup_free_ char *copy = format_string("%s", path);

	for (char *p = copy + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, 0777) < 0 && errno != EEXIST)
			return error_set(err, errno, "cannot make the directory %s: %s", copy,
					 strerror(errno));
		*p = c;
		if (c == '\0')
			return 0;
	}
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int remove_tree(const char *path, struct error *err)
{
	if (nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		return error_set(err, errno, "cannot remove %s: %s", path, strerror(errno));
	return 0;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

int write_file(const char *path, const void *data, size_t size, bool executable, struct error *err)
{
	_cleanup_close_ int fd =
	    open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, executable ? 0777 : 0666);
	int r = fd < 0 ? -errno : write_all(fd, data, size);

	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		return error_set(err, -r, "cannot write %s: %s", path, strerror(-r));
	return 0;
}

char *read_file(const char *path, size_t *size, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	size_t done = 0;
	char *data;

	if (fd < 0 || fstat(fd, &st) < 0) {
		error_set(err, errno, "cannot read %s: %s", path, strerror(errno));
		return NULL;
	}
	data = malloc((size_t)st.st_size + 1);
	if (!data) {
		error_set(err, ENOMEM, "no memory to read %s (%lld bytes)", path, (long long)st.st_size);
		return NULL;
	}
	while (done < (size_t)st.st_size) {
		ssize_t n = read(fd, data + done, (size_t)st.st_size - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	data[done] = '\0';
	if (size)
		*size = done;
	return data;
}

static int copy_bytes(int in, int out)
{
	for (;;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, 64u << 20, 0);

		if (n == 0)
			return 0;
		if (n < 0)
			return -errno;
	}
}

int copy_file(const char *from, const char *to, struct error *err)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = -1;
	int r;

	if (in < 0)
		return error_set(err, errno, "cannot read %s: %s", from, strerror(errno));
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (out < 0)
		return error_set(err, errno, "cannot make %s: %s", to, strerror(errno));
	if (ioctl(out, FICLONE, in) == 0)
		return 0;
	r = copy_bytes(in, out);
	if (r < 0 && (r == -EXDEV || r == -EOPNOTSUPP || r == -EINVAL || r == -ENOSYS)) {
		/* Old kernels and odd file systems do not copy for us. */
		size_t size;
		_cleanup_free_ char *data = read_file(from, &size, err);

		if (!data)
			return -EIO;
		r = ftruncate(out, 0) < 0 || lseek(out, 0, SEEK_SET) < 0 ? -errno
									 : write_all(out, data, size);
	}
	if (r == 0 && fsync(out) < 0)
		r = -errno;
	if (r < 0)
		return error_set(err, -r, "cannot copy %s to %s: %s", from, to, strerror(-r));
	return 0;
}

int check_space(const char *path, uint64_t bytes, struct error *err)
{
	struct statvfs fs;
	uint64_t there;

	if (statvfs(path, &fs) < 0)
		return error_set(err, errno, "cannot tell how much room there is in %s: %s", path,
				 strerror(errno));
	there = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (there < bytes)
		return error_set(err, ENOSPC,
				 "%s has room for %llu MiB, but %llu MiB are needed: free some, or set "
				 "XDG_CACHE_HOME to a directory on another disk",
				 path, (unsigned long long)(there >> 20), (unsigned long long)(bytes >> 20));
	return 0;
}
