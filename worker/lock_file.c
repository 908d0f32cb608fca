/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* OFD locks do not know who holds them; the file says so. */
static int busy(int fd, const char *path, struct error *err)
{
	char text[16] = "";
	long holder = 0;

	if (pread(fd, text, sizeof(text) - 1, 0) > 0)
		holder = strtol(text, NULL, 10);
	if (holder > 0)
		return error_set(err, EBUSY, "%s: process %ld runs this machine already", path, holder);
	return error_set(err, EBUSY, "%s: another process runs this machine already", path);
}

int lock_file_take(const char *path, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW, 0600);
	struct stat st;
	char text[16];
	int size = snprintf(text, sizeof(text), "%ld\n", (long)getpid()), held;

	if (fd < 0)
		return error_set(err, errno, "%s: the lock file cannot be opened: %s", path, strerror(errno));
	/* What is in it goes: it may be no other name of another's file. */
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return error_set(err, EBADMSG, "%s: the lock file is no plain file of its own: remove it", path);
	if (fcntl(fd, F_OFD_SETLK, &lock))
		return errno == EAGAIN || errno == EACCES
			   ? busy(fd, path, err)
			   : error_set(err, errno, "%s: cannot be locked: %s", path, strerror(errno));
	if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)size, 0) != size)
		return error_set(err, errno, "%s: the process id cannot be written: %s", path, strerror(errno));
	held = fd;
	fd = -1;
	return held;
}
