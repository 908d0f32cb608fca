/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* From where both stand, to the end. */
static int copy_through_memory(int from, int to)
{
	char bytes[65536];
	ssize_t n;

	while ((n = read(from, bytes, sizeof(bytes))) != 0) {
		if (n < 0 && errno != EINTR)
			return -errno;
		for (ssize_t done = 0; done < n;) {
			ssize_t written = write(to, bytes + done, (size_t)(n - done));

			if (written < 0 && errno != EINTR)
				return -errno;
			done += written > 0 ? written : 0;
		}
	}
	return 0;
}

static int copy_bytes(int from, int to)
{
	ssize_t n;

	while ((n = copy_file_range(from, NULL, to, NULL, 1u << 24, 0)) > 0)
		;
	/* Not every pair of file systems can, and some say so only by copying nothing. */
	if (n == 0 || errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS)
		n = copy_through_memory(from, to);
	else
		n = -errno;
	if (n < 0)
		return (int)n;
	return fsync(to) ? -errno : 0;
}

int file_copy(const char *from, int directory, const char *name, struct error *err)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), out = -1;
	struct stat st;
	int r;

	if (in < 0 || fstat(in, &st))
		return error_set(err, errno, "%s: %s", from, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "%s is no plain file", from);
	out = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (out < 0)
		return error_set(err, errno, "%s cannot be made there: %s", name, strerror(errno));
	r = copy_bytes(in, out);
	return r ? error_set(err, -r, "%s cannot be copied: %s", from, strerror(-r)) : 0;
}
