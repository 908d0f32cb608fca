/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* Bytes of the file, as far as they are locked. */
enum { KEEPERS = 0, MACHINES = 1, BOTH = 2 };

/* OFD locks do not know who holds them; the file says so, behind the bytes that are locked: where locks are mandatory, as on SMB,
 * those can be neither read nor written by others. */
static int busy(int fd, const char *path, struct error *err)
{
	char text[16] = "";
	long holder = 0;

	/* From the beginning, where a worker of before there were two locks has it; but where a lock keeps others from reading, what is
	 * behind it tells. */
	if (pread(fd, text, sizeof(text) - 1, 0) > 0 || pread(fd, text, sizeof(text) - 1, BOTH) > 0)
		holder = strtol(text, NULL, 10);
	if (holder > 0)
		return error_set(err, EBUSY, "%s: process %ld runs this machine already", path, holder);
	return error_set(err, EBUSY, "%s: another process runs this machine already", path);
}

static int lock_byte(int fd, short type, off_t start, off_t length)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

static int open_plain(const char *path, int flags, struct stat *st, struct error *err)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW, 0600);

	if (fd < 0)
		return error_set(err, errno, "%s: the lock file cannot be opened: %s", path, strerror(errno));
	/* What is in it goes: it may be no other name of another's file. */
	if (!fstat(fd, st) && S_ISREG(st->st_mode) && st->st_nlink == 1)
		return fd;
	close(fd);
	return error_set(err, EBADMSG, "%s: the lock file is no plain file of its own: remove it", path);
}

static int write_holder(int fd, const char *path, const char *control, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	int size = asprintf(&text, "%*s%ld\n%s%s", BOTH, "", (long)getpid(), control ? control : "", control ? "\n" : "");

	if (size < 0)
		return error_set(err, ENOMEM, "no memory to lock %s", path);
	if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)size, 0) != size)
		return error_set(err, errno, "%s: the process id cannot be written: %s", path, strerror(errno));
	return 0;
}

/* The file is written while both bytes are its writer's alone. Then nobody can come in between: byte 0 stays locked. */
static int take(const struct lock_file *lock, const char *path, const char *control, struct error *err)
{
	int r = lock_byte(lock->keeper, F_WRLCK, KEEPERS, BOTH);

	if (r == -EAGAIN || r == -EACCES)
		return busy(lock->keeper, path, err);
	if (!r && write_holder(lock->keeper, path, control, err))
		return -err->code;
	if (!r)
		r = lock_byte(lock->keeper, F_UNLCK, MACHINES, 1);
	if (!r)
		r = lock_byte(lock->machine, F_RDLCK, MACHINES, 1);
	return r ? error_set(err, -r, "%s: cannot be locked: %s", path, strerror(-r)) : 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int lock_file_take(struct lock_file *lock, const char *path, const char *control, struct error *err)
{
	struct stat first, second;
	int r = 0;

	lock->machine = -1;
	lock->keeper = open_plain(path, O_RDWR | O_CREAT, &first, err);
	if (lock->keeper < 0)
		return lock->keeper;
	lock->machine = open_plain(path, O_RDONLY, &second, err);
	if (lock->machine < 0)
		r = lock->machine;
	else if (first.st_dev != second.st_dev || first.st_ino != second.st_ino)
		r = error_set(err, EBUSY, "%s: another file took its place", path);
	if (!r)
		r = take(lock, path, control, err);
	if (r) {
		close_one(&lock->keeper);
		close_one(&lock->machine);
	}
	return r;
}

void lock_file_keep(struct lock_file *lock, bool in_machine)
{
	close_one(in_machine ? &lock->keeper : &lock->machine);
}
