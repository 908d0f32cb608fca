// SPDX-License-Identifier: GPL-2.0-or-later
/* disk_writer.c - a file system image into a dynamic VHDX, without its holes and zeros. */
#include "image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "disk/disk.h"

#define CHUNK (1u << 20)
#define PIECE 4096u /* zeros are told from data in units of a file system block */

static bool is_zero(const uint8_t *data, size_t size)
{
	return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Write the runs of pieces that are not zero. */
static int write_chunk(struct disk *disk, uint64_t offset, const uint8_t *data, size_t size,
		       struct error *err)
{
	size_t at = 0;

	while (at < size) {
		size_t start, n = min_u64(PIECE, size - at);
		int r;

		if (is_zero(data + at, n)) {
			at += n;
			continue;
		}
		start = at;
		while (at < size && !is_zero(data + at, min_u64(PIECE, size - at)))
			at += min_u64(PIECE, size - at);
		r = disk_write(disk, offset + start, data + start, at - start, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_data(int fd, const char *from, uint64_t size, struct disk *disk, uint8_t *buffer,
		     struct error *err)
{
	off_t at = 0, end = 0;

	while ((uint64_t)at < size) {
		ssize_t n;
		int r;

		if (at >= end) { /* the next stretch that is no hole */
			at = lseek(fd, at, SEEK_DATA);
			if (at < 0)
				return errno == ENXIO ? 0
						      : error_set(err, errno, "cannot read %s: %s", from,
								  strerror(errno));
			at -= at % PIECE;
			end = lseek(fd, at, SEEK_HOLE);
		}
		n = pread(fd, buffer, min_u64(CHUNK - (uint64_t)at % CHUNK, size - (uint64_t)at), at);
		if (n <= 0)
			return error_set(err, n < 0 ? errno : EIO, "cannot read %s at %lld: %s", from,
					 (long long)at,
					 n < 0 ? strerror(errno) : "it is shorter than it was");
		r = write_chunk(disk, (uint64_t)at, buffer, (size_t)n, err);
		if (r < 0)
			return r;
		at += n;
	}
	return 0;
}

int write_disk(const char *from, const char *to, uint64_t size, struct error *err)
{
	const struct disk_create_options create = {.format = DISK_FORMAT_VHDX, .size = size};
	const struct disk_open_options open_options = {.format = DISK_FORMAT_VHDX};
	_cleanup_close_ int fd = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint8_t *buffer = malloc(CHUNK);
	struct disk *disk = NULL;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(err, errno, "cannot read %s: %s", from, strerror(errno));
	if (!buffer)
		return error_set(err, ENOMEM, "no memory to copy %s", from);
	if ((uint64_t)st.st_size > size)
		return error_set(err, EINVAL,
				 "a disk of %llu MiB is too small: the image needs at least %llu MiB",
				 (unsigned long long)(size >> 20),
				 (unsigned long long)(((uint64_t)st.st_size + (1 << 20) - 1) >> 20));
	r = disk_create(to, &create, err);
	if (r == 0)
		r = disk_open(&disk, to, &open_options, err);
	if (r == 0)
		r = copy_data(fd, from, (uint64_t)st.st_size, disk, buffer, err);
	if (r == 0)
		r = disk_flush(disk, err);
	if (disk) {
		int closed = disk_close(disk, r == 0 ? err : NULL);

		r = r == 0 ? closed : r;
	}
	return r;
}
