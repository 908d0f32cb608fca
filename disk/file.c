/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define ZERO_MODE (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static bool direct_aligned(const struct step *step)
{
	uint64_t bits = step->offset | step->length;

	for (int i = 0; i < step->iov_count; i++)
		bits |= (uintptr_t)step->iov[i].iov_base | step->iov[i].iov_len;
	return is_aligned_u64(bits, FILE_DIRECT_ALIGNMENT);
}

int file_descriptor(const struct file *file, const struct step *step)
{
	bool data = step->kind == STEP_READ || step->kind == STEP_WRITE;

	return data && file->direct_fd >= 0 && direct_aligned(step) ? file->direct_fd : file->fd;
}

static void tell_written(const struct file *file, const struct step *step, size_t size)
{
	uint64_t offset = step->offset;

	for (int i = 0; i < step->iov_count && size > 0; i++) {
		size_t part = min_u64(size, step->iov[i].iov_len);

		file->observer->written(file->observer->context, offset, step->iov[i].iov_base, part);
		offset += part;
		size -= part;
	}
}

int file_sync_result(struct file *file, int result)
{
	int none = 0;

	if (result < 0)
		atomic_compare_exchange_strong(&file->sync_error, &none, result);
	return atomic_load(&file->sync_error);
}

static int refused(const struct file *file, uint64_t offset, uint64_t length)
{
	const struct file_observer *observer = file->observer;

	return observer && observer->refuse ? -observer->refuse(observer->context, offset, length) : 0;
}

static int sync_refused(const struct file *file)
{
	const struct file_observer *observer = file->observer;

	return observer && observer->refuse_sync ? -observer->refuse_sync(observer->context) : 0;
}

static ssize_t perform_once(struct file *file, const struct step *step)
{
	int fd = file_descriptor(file, step);
	ssize_t n = 0;

	if (step->kind == STEP_WRITE)
		n = refused(file, step->offset, step->length);
	else if (step->kind == STEP_SYNC)
		n = sync_refused(file);
	if (n < 0)
		return n;
	switch (step->kind) {
	case STEP_READ:
		n = preadv(fd, step->iov, step->iov_count, (off_t)step->offset);
		break;
	case STEP_WRITE:
		n = pwritev(fd, step->iov, step->iov_count, (off_t)step->offset);
		break;
	case STEP_SYNC:
		n = fdatasync(fd);
		break;
	case STEP_ZERO:
		n = fallocate(fd, ZERO_MODE, (off_t)step->offset, (off_t)step->length);
		break;
	}
	return n < 0 ? -errno : n;
}

ssize_t file_perform(struct file *file, const struct step *step)
{
	ssize_t n;

	do
		n = perform_once(file, step);
	while (n == -EINTR);
	if (n < 0 || !file->observer)
		return n;
	if (step->kind == STEP_WRITE)
		tell_written(file, step, (size_t)n);
	else if (step->kind == STEP_ZERO)
		file->observer->zeroed(file->observer->context, step->offset, step->length);
	else if (step->kind == STEP_SYNC)
		file->observer->synced(file->observer->context);
	return n;
}

static int transfer(struct file *file, enum step_kind kind, uint64_t offset, void *buffer, size_t size)
{
	while (size > 0) {
		struct iovec iov = {buffer, size};
		struct step step = {kind, offset, size, &iov, 1};
		ssize_t n = file_perform(file, &step);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return kind == STEP_READ ? -ENODATA : -EIO;
		buffer = (char *)buffer + n;
		offset += (size_t)n;
		size -= (size_t)n;
	}
	return 0;
}

int file_read(struct file *file, uint64_t offset, void *buffer, size_t size)
{
	return transfer(file, STEP_READ, offset, buffer, size);
}

int file_write(struct file *file, uint64_t offset, const void *buffer, size_t size)
{
	return transfer(file, STEP_WRITE, offset, (void *)buffer, size);
}

int file_zero(struct file *file, uint64_t offset, uint64_t length)
{
	static const char zeros[65536];
	struct step step = {.kind = STEP_ZERO, .offset = offset, .length = length};
	int r = length ? (int)file_perform(file, &step) : 0;

	if (r != -EOPNOTSUPP && r != -ENODEV)
		return r;
	while (length > 0) {
		size_t part = min_u64(length, sizeof(zeros));

		r = file_write(file, offset, zeros, part);
		if (r < 0)
			return r;
		offset += part;
		length -= part;
	}
	return 0;
}

int file_resize(struct file *file, uint64_t size)
{
	int r = refused(file, size, 0);

	if (r < 0)
		return r;
	if (ftruncate(file->fd, (off_t)size) < 0)
		return -errno;
	if (file->observer)
		file->observer->resized(file->observer->context, size);
	return 0;
}

int file_sync(struct file *file)
{
	struct step step = {.kind = STEP_SYNC};

	return file_sync_result(file, (int)file_perform(file, &step));
}

uint64_t file_next_data(const struct file *file, uint64_t offset)
{
	off_t at = lseek(file->fd, (off_t)offset, SEEK_DATA);

	return at >= 0 ? (uint64_t)at : errno == ENXIO ? UINT64_MAX : offset;
}

uint64_t file_next_hole(const struct file *file, uint64_t offset)
{
	off_t at = lseek(file->fd, (off_t)offset, SEEK_HOLE);

	return at >= 0 ? (uint64_t)at : UINT64_MAX;
}

int file_size(const struct file *file, uint64_t *size)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(file->fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
	*size = (uint64_t)st.st_size;
	return 0;
}
