/* SPDX-License-Identifier: GPL-2.0-or-later */
/* open.c - from a path to a disk and back: the file, its lock, its format. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/image.h"
#include "disk/lock.h"
#include "disk/track.h"
#include "disk/vhd_format.h"
#include "disk/vhdx.h"

/* Of a disk that is being opened: who asks for it as a parent; what it gets as a parent. */
struct relatives {
	const struct disk *child;
	struct disk *parent;
	int kind;
	const struct file_observer *observer; /* of its own file */
	bool damaged;
};

static const struct disk_open_options default_options;

static void release(struct disk *disk)
{
	if (disk->parent_kind == PARENT_OWN)
		disk_close(disk->parent, NULL);
	if (disk->file.direct_fd >= 0)
		close(disk->file.direct_fd);
	close(disk->file.fd);
	if (disk->gate)
		gate_destroy(disk->gate);
	free(disk->gate);
	track_free(disk->tracker);
	free(disk->path);
	free(disk);
}

static int check_kind(const struct disk *disk, struct error *err)
{
	struct stat st;

	if (fstat(disk->file.fd, &st) < 0)
		return error_set(err, errno, "%s: %s", disk->path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return error_set(err, EISDIR, "%s: this is a directory; name the image file in it",
				 disk->path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, EINVAL,
				 "%s: neither a file nor a block device, so no disk can be in it",
				 disk->path);
	return 0;
}

/* Whether our alignment is enough, as far as the kernel tells (Linux 6.1). */
static bool direct_serves(int fd)
{
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) < 0 || !(x.stx_mask & STATX_DIOALIGN))
		return true;
	return x.stx_dio_offset_align > 0 && x.stx_dio_offset_align <= FILE_DIRECT_ALIGNMENT &&
	       x.stx_dio_mem_align <= FILE_DIRECT_ALIGNMENT;
}

/* A second descriptor of the same file. Where the file system has no O_DIRECT, there is none. */
static void open_direct(struct disk *disk)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk->file.fd);
	fd = open(path, (disk->info.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_DIRECT);
	if (fd >= 0 && !direct_serves(fd)) {
		close(fd);
		fd = -1;
	}
	disk->file.direct_fd = fd;
}

/* Images that would be garbage as raw disks. */
static const char *foreign_format(const char start[8])
{
	if (memcmp(start, "QFI\xfb", 4) == 0)
		return "QCOW2";
	if (memcmp(start, "KDMV", 4) == 0)
		return "VMDK";
	return NULL;
}

/* AUTO: what the file begins with, or for a VHD ends with, says what it is. */
static int detect_format(struct disk *disk, enum disk_format *format, struct error *err)
{
	const char *other;
	char start[8];
	bool vhd = false;
	int r = file_read(&disk->file, 0, start, sizeof(start));

	*format = DISK_FORMAT_RAW;
	if (r == -ENODATA)
		return 0;
	if (r == 0)
		r = vhd_detect(disk, &vhd);
	if (r < 0)
		return error_set(err, -r, "%s: cannot be read: %s", disk->path, strerror(-r));
	other = foreign_format(start);
	if (other)
		return error_set(
		    err, ENOTSUP,
		    "%s: a %s image, which is not supported; convert it by: bulkhead disk convert", disk->path,
		    other);
	if (memcmp(start, VHDX_FILE_SIGNATURE, 8) == 0 || memcmp(start, DISK_VOID_SIGNATURE, 8) == 0)
		*format = DISK_FORMAT_VHDX;
	else if (vhd)
		*format = DISK_FORMAT_VHD;
	return 0;
}

static int open_format(struct disk *disk, const struct disk_open_options *options, struct error *err)
{
	enum disk_format format = options->format;
	int r = format == DISK_FORMAT_AUTO ? detect_format(disk, &format, err) : 0;

	if (r < 0)
		return r;
	switch (format) {
	case DISK_FORMAT_VHDX:
		return vhdx_open(disk, options, err);
	case DISK_FORMAT_VHD:
		return vhd_open(disk, options, err);
	default:
		return raw_open(disk, options, err);
	}
}

static int open_descriptor(struct disk **out, int fd, const char *path,
			   const struct disk_open_options *options, const struct relatives *relatives,
			   struct error *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int r;

	if (!disk) {
		close(fd);
		return error_set(err, ENOMEM, "%s: no memory to open it", path);
	}
	disk->file.fd = fd;
	disk->file.direct_fd = -1;
	disk->file.observer = relatives->observer;
	disk->info.read_only = options->read_only;
	disk->child = relatives->child;
	disk->parent = relatives->parent;
	disk->parent_kind = relatives->kind;
	disk->damaged = relatives->damaged;
	disk->path = strdup(path);
	disk->gate = malloc(sizeof(*disk->gate));
	if (disk->gate)
		gate_init(disk->gate);
	r = disk->path && disk->gate ? check_kind(disk, err)
				     : error_set(err, ENOMEM, "%s: no memory to open it", path);
	if (r == 0 && options->direct)
		open_direct(disk);
	if (r == 0)
		r = open_format(disk, options, err);
	if (r < 0) {
		release(disk);
		return r;
	}
	*out = disk;
	return 0;
}

int disk_open_descriptor(struct disk **out, int fd, const char *path, const struct disk_open_options *options,
			 const struct file_observer *observer, struct error *err)
{
	return open_descriptor(out, fd, path, options ? options : &default_options,
			       &(struct relatives){.observer = observer}, err);
}

/* A file that is in the chain already would be waited for, or read, forever. */
static int check_chain(int fd, const char *path, const struct disk *child, struct error *err)
{
	unsigned depth = 1;
	struct stat st, above;

	if (child && fstat(fd, &st) < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	for (const struct disk *d = child; d; d = d->child) {
		if (fstat(d->file.fd, &above) == 0 && above.st_dev == st.st_dev && above.st_ino == st.st_ino)
			return error_set(
			    err, ELOOP,
			    "%s: its parent is %s, whose own chain of parents it is in; name its right "
			    "parent by: bulkhead disk reparent",
			    child->path, path);
		if (++depth > DISK_CHAIN_MAX)
			return error_set(
			    err, EMLINK,
			    "%s: more than %d disks in a chain; merge some of them by: bulkhead disk merge",
			    path, DISK_CHAIN_MAX);
	}
	return 0;
}

int disk_file_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), now = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	/* Linux 6.1's io_uring fails all that it is asked of such a descriptor by -EAGAIN, again and again, where the device below cannot serve
	 * without waiting, as those of dm-crypt. */
	if (now >= 0)
		fcntl(fd, F_SETFL, now & ~O_NONBLOCK);
	return fd;
}

static int open_path(struct disk **out, const char *path, const struct disk_open_options *options,
		     const struct relatives *relatives, struct error *err)
{
	int fd, r;

	fd = disk_file_open(path, options->read_only ? O_RDONLY : O_RDWR);
	if (fd < 0) {
		const char *advice = errno == ENOENT ? "; check the path"
				     : (errno == EACCES || errno == EROFS) && !options->read_only
					 ? "; open it read-only or change its rights"
					 : "";

		return error_set(err, errno, "%s: cannot be opened: %s%s", path, strerror(errno), advice);
	}
	r = check_chain(fd, path, relatives->child, err);
	if (r == 0)
		r = lock_image(fd, path, !options->read_only, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	return open_descriptor(out, fd, path, options, relatives, err);
}

int disk_open(struct disk **out, const char *path, const struct disk_open_options *options, struct error *err)
{
	int r = open_path(out, path, options ? options : &default_options, &(struct relatives){.child = NULL},
			  err);

	if (r == 0)
		track_open(*out, NULL, NULL);
	return r;
}

static int check_mode(int fd, const char *name, bool read_only, struct error *err)
{
	int flags = fcntl(fd, F_GETFL), mode = flags & O_ACCMODE;

	if (flags < 0)
		return error_set(err, errno, "%s: %s", name, strerror(errno));
	if (flags & (O_PATH | O_APPEND) || mode == O_WRONLY || (mode != O_RDWR && !read_only))
		return error_set(err, EBADF, "%s: its descriptor is not open for reading%s", name,
				 read_only ? "" : " and writing at any place");
	return 0;
}

static int open_given(struct disk **out, int fd, const char *name, const struct disk_open_options *options,
		      const struct relatives *relatives, struct error *err)
{
	int r = check_mode(fd, name, options->read_only, err);

	if (r == 0)
		r = lock_image(fd, name, !options->read_only, err);
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	return open_descriptor(out, fd, name, options, relatives, err);
}

int disk_open_fd(struct disk **out, int fd, const char *name, const struct disk_open_options *options,
		 struct error *err)
{
	return open_given(out, fd, name, options ? options : &default_options,
			  &(struct relatives){.kind = PARENT_REFUSED}, err);
}

int disk_open_handed(struct disk **out, int fd, const char *name, const struct disk_open_options *options,
		     struct disk *parent, const struct file_observer *observer, struct error *err)
{
	const struct relatives relatives = {
	    .parent = parent, .kind = parent ? PARENT_HANDED : PARENT_REFUSED, .observer = observer};

	return open_given(out, fd, name, options, &relatives, err);
}

/* One file of a chain, over those that are open. Of a format that is the lowest one's: formats know nothing of each other. */
static int open_link(struct disk **out, int fd, const char *name, const struct disk_open_options *options, struct disk *below,
		     struct error *err)
{
	struct disk_open_options own = *options;
	int r;

	if (below && !below->ops->chain) {
		close(fd);
		return error_set(err, ENOTSUP, "%s: no VHDX or VHD, so that %s cannot continue it", below->path, name);
	}
	if (below)
		own.format = below->info.format;
	r = disk_open_handed(out, fd, name, &own, below, NULL, err);
	if (r < 0 || !below)
		return r;
	(*out)->parent_kind = PARENT_OWN;
	below->child = *out;
	return 0;
}

int disk_open_chain_fds(struct disk **out, const int *fds, const char *const *names, unsigned count,
			const struct disk_open_options *options, struct error *err)
{
	const struct disk_open_options above = options ? *options : default_options;
	const struct disk_open_options reading = {.format = above.format, .read_only = true};
	struct disk *disk = NULL, *below = NULL;
	int r = 0;

	if (count == 0 || count > DISK_CHAIN_MAX)
		r = error_set(err, EMLINK, "a chain has 1 to %d disks, not %u", DISK_CHAIN_MAX, count);
	for (unsigned i = count; i-- > 0;) {
		if (r < 0) {
			close(fds[i]);
			continue;
		}
		r = open_link(&disk, fds[i], names[i], i ? &reading : &above, below, err);
		if (r < 0)
			disk_close(below, NULL);
		below = disk;
	}
	if (r == 0)
		*out = disk;
	return r;
}

int disk_refuse_void(const struct disk *disk, struct error *err)
{
	return error_set(err, ENODATA,
			 "%s: holds nothing: a checkpoint that was never completed, or a disk that was merged into its "
			 "parent; open that one, and remove this file",
			 disk->path);
}

int disk_is_void(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct file file = {.fd = fd, .direct_fd = -1};
	static const char none[8];
	char start[8];
	int r = fd < 0 ? -errno : file_read(&file, 0, start, sizeof(start));

	if (r < 0 && r != -ENODATA)
		return error_set(err, -r, "%s: cannot be read: %s", path, strerror(-r));
	if (r == 0 && (memcmp(start, VHDX_FILE_SIGNATURE, sizeof(start)) == 0 ||
		       memcmp(start, VHD_COOKIE, sizeof(start)) == 0))
		return 0;
	if (r == 0 && memcmp(start, DISK_VOID_SIGNATURE, sizeof(start)) != 0 && memcmp(start, none, sizeof(start)) != 0)
		return error_set(err, EBADMSG, "%s: no VHDX or VHD, and none that was given up: look what it is", path);
	return 1;
}

int disk_contents(const char *path, struct guid *contents, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	_cleanup_free_ char *name = strdup(path);
	struct file file = {.fd = fd, .direct_fd = -1};
	struct stat st;
	char start[8];

	*contents = (struct guid){0};
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(err, errno, "%s: cannot be opened: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return 0;
	if (name && file_read(&file, 0, start, sizeof(start)) == 0 && memcmp(start, VHDX_FILE_SIGNATURE, sizeof(start)) == 0)
		return vhdx_read_contents(fd, name, contents, err);
	le64_put(contents->bytes, (uint64_t)st.st_size);
	le64_put(contents->bytes + 8, (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec);
	return 0;
}

int disk_open_parent(struct disk *child, const char *path, struct error *err)
{
	const struct disk_open_options options = {
	    .format = child->info.format, .read_only = true, .direct = child->file.direct_fd >= 0};

	return open_path(&child->parent, path, &options, &(struct relatives){.child = child}, err);
}

int disk_open_watched(struct disk **out, const char *path, const struct disk_open_options *options,
		      const struct file_observer *observer, struct error *err)
{
	return open_path(out, path, options, &(struct relatives){.observer = observer}, err);
}

int disk_open_damaged(struct disk **out, const char *path, const struct file_observer *observer, struct error *err)
{
	return open_path(out, path, &default_options, &(struct relatives){.observer = observer, .damaged = true}, err);
}

int disk_open_over(struct disk **out, const char *path, const struct disk_open_options *options,
		   struct disk *parent, bool is_new, const struct file_observer *observer, struct error *err)
{
	const struct relatives relatives = {
	    .parent = parent, .kind = is_new ? PARENT_NEW : PARENT_GIVEN, .observer = observer};

	return open_path(out, path, options, &relatives, err);
}

bool disk_is_file(const struct disk *disk, const char *path)
{
	struct stat open_one, named;

	return fstat(disk->file.fd, &open_one) == 0 && stat(path, &named) == 0 &&
	       open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

static void take_contents(struct disk *to, const struct disk *from)
{
	to->ops = from->ops;
	to->file.fd = from->file.fd;
	to->file.direct_fd = from->file.direct_fd;
	to->file.observer = from->file.observer;
	atomic_store(&to->file.sync_error, atomic_load(&from->file.sync_error));
	to->info = from->info;
	to->path = from->path;
	to->format = from->format;
	to->ops->chain->moved(to);
}

void disk_exchange(struct disk *a, struct disk *b)
{
	struct disk was = {.format = NULL};

	was.ops = a->ops;
	was.info = a->info;
	was.path = a->path;
	was.format = a->format;
	was.file = (struct file){.fd = a->file.fd,
				 .direct_fd = a->file.direct_fd,
				 .observer = a->file.observer,
				 .sync_error = atomic_load(&a->file.sync_error)};
	take_contents(a, b);
	take_contents(b, &was);
}

const struct disk *disk_parent(const struct disk *disk)
{
	return disk->parent;
}

const char *disk_path(const struct disk *disk)
{
	return disk->path;
}

/* A process that can open nothing by name leaves its record as a crash does: less exact, and as right. */
static int end_record(struct disk *disk, bool closed, struct error *err)
{
	struct error why = {0};
	int r = track_end(disk, closed, &why);

	if (r == -EACCES)
		log_write(LOG_LEVEL_WARNING, "%s; more of the disk counts as changed than has", why.text);
	else if (r < 0 && err)
		*err = why;
	return r == -EACCES ? 0 : r;
}

int disk_close(struct disk *disk, struct error *err)
{
	bool by_guid;
	int r = 0, tracked = 0;

	if (!disk)
		return 0;
	by_guid = disk->info.format == DISK_FORMAT_VHDX;
	if (disk->tracker && by_guid)
		tracked = end_record(disk, false, err);
	if (disk->ops->close)
		r = disk->ops->close(disk, tracked < 0 ? NULL : err);
	else if (!disk->info.read_only) {
		r = file_sync(&disk->file);
		if (r < 0)
			error_set(err, -r, "%s: what was written last may be lost: %s", disk->path,
				  strerror(-r));
	}
	if (r == 0 && tracked == 0 && disk->tracker && !by_guid)
		tracked = end_record(disk, true, err);
	release(disk);
	return tracked < 0 ? tracked : r;
}

void disk_get_info(const struct disk *disk, struct disk_info *info)
{
	struct stat st;

	gate_enter_looking(disk->gate);
	*info = disk->info;
	if (fstat(disk->file.fd, &st) == 0)
		info->file_size = S_ISBLK(st.st_mode) ? disk->info.size : (uint64_t)st.st_blocks * 512;
	gate_leave(disk->gate);
}

int disk_check(const char *path, FILE *report, struct error *err)
{
	const struct disk_open_options options = {.read_only = true};
	struct disk *disk;
	int r = disk_open(&disk, path, &options, err);

	if (r < 0)
		return r;
	/* All of the chain; what is told in the end is the image's own trouble, if it has any. */
	for (struct disk *d = disk; d; d = d->parent) {
		int damage = d->ops->check ? d->ops->check(d, report, r < 0 ? NULL : err) : 0;

		r = r < 0 ? r : damage;
	}
	disk_close(disk, NULL);
	return r;
}
