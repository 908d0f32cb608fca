/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

enum { USES = 100, DENIES = 200 };
#define SHARE_TRIES  500 /* of a millisecond */
#define HOLDER_LOOKS 20

enum { READ = 0, WRITE = 1, RESIZE = 3 };

/* One look through /proc/locks: the process that holds a flock on the file, or 0. */
static long look_for_holder(int fd)
{
	_cleanup_free_ char *line = NULL;
	size_t capacity = 0;
	long found = 0;
	struct stat st;
	FILE *locks;

	if (fstat(fd, &st) < 0)
		return 0;
	locks = fopen("/proc/locks", "re");
	if (!locks)
		return 0;
	while (found == 0 && getline(&line, &capacity, locks) > 0) {
		unsigned major_number, minor_number;
		unsigned long inode;
		char kind[16];
		long pid;

		if (strstr(line, "->"))
			continue;
		if (sscanf(line, "%*u: %15s %*s %*s %ld %x:%x:%lu", kind, &pid, &major_number, &minor_number,
			   &inode) == 5 &&
		    strcmp(kind, "FLOCK") == 0 && pid > 0 && inode == st.st_ino &&
		    major_number == major(st.st_dev) && minor_number == minor(st.st_dev))
			found = pid;
	}
	fclose(locks);
	return found;
}

/* /proc/locks is read a page at a time, and goes on by number: locks that others let go between two pages make it
 * pass over as many that are held. So nothing found is looked for again. */
static long find_holder(int fd)
{
	long found = 0;

	for (unsigned i = 0; found == 0 && i < HOLDER_LOOKS; i++)
		found = look_for_holder(fd);
	return found;
}

static int busy(int fd, const char *path, bool exclusive, struct error *err)
{
	const char *how = exclusive ? "" : " for writing";
	long pid = find_holder(fd);
	char name[64] = "", file[64];
	FILE *comm;

	if (pid == 0)
		return error_set(err, EBUSY, "%s: another program has it open%s; end that program first",
				 path, how);
	snprintf(file, sizeof(file), "/proc/%ld/comm", pid);
	comm = fopen(file, "re");
	if (comm) {
		if (fgets(name, sizeof(name), comm))
			name[strcspn(name, "\n")] = '\0';
		fclose(comm);
	}
	return error_set(err, EBUSY, "%s: process %ld (%s) has it open%s; end that process first", path, pid,
			 name[0] ? name : "of unknown name", how);
}

static bool set_byte(int fd, int byte)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	/* A file system without such locks cannot carry QEMU's either. */
	return fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

static bool byte_is_free(int fd, int byte)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK;
}

static bool lock_for_reading(int fd)
{
	return set_byte(fd, USES + READ) && set_byte(fd, DENIES + WRITE) && set_byte(fd, DENIES + RESIZE) &&
	       byte_is_free(fd, DENIES + READ) && byte_is_free(fd, USES + WRITE) &&
	       byte_is_free(fd, USES + RESIZE);
}

static bool lock_for_writing(int fd)
{
	static const int permissions[] = {READ, WRITE, RESIZE};

	for (size_t i = 0; i < ARRAY_SIZE(permissions); i++)
		if (!set_byte(fd, USES + permissions[i]) || !set_byte(fd, DENIES + permissions[i]))
			return false;
	for (size_t i = 0; i < ARRAY_SIZE(permissions); i++)
		if (!byte_is_free(fd, USES + permissions[i]) || !byte_is_free(fd, DENIES + permissions[i]))
			return false;
	return true;
}

/* NFS turns a flock into byte locks on the whole file, which would meet our own ones. */
static bool has_flock(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) < 0 || fs.f_type != NFS_SUPER_MAGIC;
}

int lock_image(int fd, const char *path, bool exclusive, struct error *err)
{
	if (has_flock(fd) && flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return busy(fd, path, exclusive, err);
	if (!(exclusive ? lock_for_writing(fd) : lock_for_reading(fd)))
		return busy(fd, path, exclusive, err);
	return 0;
}

static void clear_byte(int fd, int byte)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

/* A flock is let go before the other kind is taken. Who takes it between the two meets our byte locks, and lets go
 * too. A program that knows nothing of those keeps it: that is not waited for. */
void lock_share(int fd)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	bool wanted = has_flock(fd), shared = !wanted;

	for (unsigned i = 0; !shared && i < SHARE_TRIES; i++) {
		shared = flock(fd, LOCK_SH | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR);
		if (!shared)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	if (!shared)
		log_write(LOG_LEVEL_WARNING, "an image that is only read now is locked by another program, which did not "
			  "have it before; keep it from writing");
	clear_byte(fd, USES + WRITE);
	clear_byte(fd, USES + RESIZE);
	clear_byte(fd, DENIES + READ);
}

void lock_release(int fd)
{
	static const int permissions[] = {READ, WRITE, RESIZE};

	for (size_t i = 0; i < ARRAY_SIZE(permissions); i++) {
		clear_byte(fd, USES + permissions[i]);
		clear_byte(fd, DENIES + permissions[i]);
	}
	if (has_flock(fd))
		(void)flock(fd, LOCK_UN);
}
