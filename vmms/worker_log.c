/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/worker_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static int open_plain(const char *path, int flags, struct error *err)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0640);
	struct stat st;

	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_nlink == 1)
		return fd;
	close(fd);
	return error_set(err, EBADMSG, "%s is no plain file of its own: remove it", path);
}

int worker_log_open(const char *path, struct error *err)
{
	worker_log_cut(path);
	return open_plain(path, O_WRONLY | O_CREAT | O_APPEND, err);
}

void worker_log_tail(const char *path, char *text, size_t size)
{
	_cleanup_close_ int fd = open_plain(path, O_RDONLY, NULL);
	char *start = text;
	struct stat st;
	ssize_t n = -1;

	if (fd >= 0 && !fstat(fd, &st))
		n = pread(fd, text, size - 1, st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0);
	text[n > 0 ? n : 0] = '\0';
	if (n == (ssize_t)size - 1) /* it begins within a line */
		start = strchr(text, '\n') ? strchr(text, '\n') + 1 : text;
	memmove(text, start, strlen(start) + 1);
	for (char *c = text; *c; c++)
		if (*c == '\n')
			*c = c[1] ? ';' : '\0';
}

void worker_log_cut(const char *path)
{
	_cleanup_close_ int fd = open_plain(path, O_RDWR, NULL);
	_cleanup_free_ char *half = malloc(WORKER_LOG_MAX / 2);
	struct stat st;
	ssize_t n;

	if (fd < 0 || !half || fstat(fd, &st) || st.st_size <= WORKER_LOG_MAX)
		return;
	/* In place: the worker appends to this very file. What it says just now may be lost. */
	n = pread(fd, half, WORKER_LOG_MAX / 2, st.st_size - WORKER_LOG_MAX / 2);
	if (n > 0 && !ftruncate(fd, 0))
		n = pwrite(fd, half, (size_t)n, 0);
}
