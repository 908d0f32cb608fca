/* SPDX-License-Identifier: GPL-2.0-or-later */
/* create.c - new images: made whole under a name of their own, then given the name that was asked for. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/image.h"

#define SIZE_MAX_BYTES (UINT64_C(64) << 40)

static int check_options(const char *path, const struct disk_create_options *o, struct error *err)
{
	uint32_t logical = o->logical_sector_size;

	if (o->format != DISK_FORMAT_RAW && o->format != DISK_FORMAT_VHDX)
		return error_set(err, EINVAL, "%s: no format for the new image; choose raw or VHDX", path);
	if (logical != 512 && logical != 4096)
		return error_set(err, EINVAL, "%s: logical sectors of %u bytes; choose 512 or 4096", path,
				 logical);
	if (o->physical_sector_size != 512 && o->physical_sector_size != 4096)
		return error_set(err, EINVAL, "%s: physical sectors of %u bytes; choose 512 or 4096", path,
				 o->physical_sector_size);
	if (o->size == 0 || o->size > SIZE_MAX_BYTES)
		return error_set(err, EINVAL, "%s: a size of %ju bytes; choose one from a sector to 64 TiB",
				 path, (uintmax_t)o->size);
	if (o->size % logical != 0)
		return error_set(err, EINVAL,
				 "%s: a size of %ju bytes is not a multiple of the %u-byte sector", path,
				 (uintmax_t)o->size, logical);
	return 0;
}

static int fill_raw(struct file *file, const char *path, const struct disk_create_options *o,
		    struct error *err)
{
	int r = file_resize(file, o->size);

	if (r < 0)
		return error_set(err, -r, "%s: cannot be made %ju bytes long: %s", path, (uintmax_t)o->size,
				 strerror(-r));
	return 0;
}

/* The name must last through a power cut too. Directories that cannot be synced are not our fault. */
static void sync_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	_cleanup_close_ int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0)
		fsync(fd);
}

static int give_name(const char *from, const char *path, bool replace, struct error *err)
{
	int r = replace ? rename(from, path) : renameat2(AT_FDCWD, from, AT_FDCWD, path, RENAME_NOREPLACE);

	if (r < 0 && !replace && errno == EINVAL) {
		/* A file system without RENAME_NOREPLACE: a hard link does not replace either. */
		r = link(from, path);
		if (r == 0)
			unlink(from);
	}
	if (r < 0 && errno == EEXIST)
		return error_set(err, EEXIST, "%s: exists already; choose another name or ask to replace it",
				 path);
	if (r < 0)
		return error_set(err, errno, "%s: the new image cannot get this name: %s", path,
				 strerror(errno));
	sync_directory(path);
	return 0;
}

static int fill_file(int fd, const char *path, const struct disk_create_options *o, struct error *err)
{
	struct file file = {.fd = fd, .direct_fd = -1};
	int r =
	    o->format == DISK_FORMAT_VHDX ? vhdx_fill(&file, path, o, err) : fill_raw(&file, path, o, err);

	if (r == 0) {
		r = file_sync(&file);
		if (r < 0)
			error_set(err, -r, "%s: cannot be written: %s", path, strerror(-r));
	}
	return r;
}

int disk_create(const char *path, const struct disk_create_options *options, struct error *err)
{
	struct disk_create_options o = *options;
	_cleanup_free_ char *temporary = NULL;
	_cleanup_close_ int fd = -1;
	int r;

	if (o.logical_sector_size == 0)
		o.logical_sector_size = 512;
	if (o.physical_sector_size == 0)
		o.physical_sector_size = 4096;
	r = check_options(path, &o, err);
	if (r < 0)
		return r;
	if (!o.replace && access(path, F_OK) == 0)
		return error_set(err, EEXIST, "%s: exists already; choose another name or ask to replace it",
				 path);
	if (asprintf(&temporary, "%s.new-XXXXXX", path) < 0) {
		temporary = NULL;
		return error_set(err, ENOMEM, "%s: no memory to create it", path);
	}
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return error_set(err, errno, "%s: cannot be created: %s", path, strerror(errno));
	r = fill_file(fd, path, &o, err);
	if (r == 0 && fchmod(fd, 0640) < 0)
		r = error_set(err, errno, "%s: its rights cannot be set: %s", path, strerror(errno));
	if (r == 0)
		r = give_name(temporary, path, o.replace, err);
	if (r < 0)
		unlink(temporary);
	return r;
}
