/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static int copy_bytes(int from, int to)
{
	ssize_t n;

	while ((n = copy_file_range(from, NULL, to, NULL, 1u << 24, 0)) > 0)
		;
	if (n < 0)
		return -errno;
	return fsync(to) ? -errno : 0;
}

int file_copy(const char *from, int directory, const char *name, struct error *err)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
	int r;

	if (in < 0)
		return error_set(err, errno, "%s: %s", from, strerror(errno));
	out = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (out < 0)
		return error_set(err, errno, "%s cannot be made there: %s", name, strerror(errno));
	r = copy_bytes(in, out);
	return r ? error_set(err, -r, "%s cannot be copied: %s", from, strerror(-r)) : 0;
}
