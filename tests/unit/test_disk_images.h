/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_disk_images.h - images for the disk tests: in memory, so that nothing is left behind and a sync
 * costs nothing, and random numbers that are the same in each run.
 */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk/image.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

/* A new image; `options` NULL: an empty file. The descriptor is the caller's. */
static inline int image_create(const struct disk_create_options *options)
{
	struct file file = { .fd = memfd_create("image", MFD_CLOEXEC), .direct_fd = -1 };
	struct disk_create_options o = options ? *options : (struct disk_create_options){ 0 };
	struct error err = { 0 };
	int r = 0;

	assert_true(file.fd >= 0);
	if (o.logical_sector_size == 0)
		o.logical_sector_size = 512;
	if (o.physical_sector_size == 0)
		o.physical_sector_size = 4096;
	if (o.format == DISK_FORMAT_VHDX)
		r = vhdx_fill(&file, "image", &o, NULL, NULL, &err);
	else if (o.format == DISK_FORMAT_VHD)
		r = disk_fill_descriptor(file.fd, "image", options, &err);
	else
		r = file_resize(&file, o.size);
	if (r != 0)
		fail_msg("%s", err.text);
	return file.fd;
}

/* Opens it; `fd` stays the caller's. */
static inline int image_open(struct disk **disk, int fd, bool read_only, struct error *err)
{
	const struct disk_open_options options = { .read_only = read_only };

	return disk_open_descriptor(disk, dup(fd), "image", &options, NULL, err);
}

static inline struct disk *image_must_open(int fd, bool read_only)
{
	struct error err = { 0 };
	struct disk *disk;

	if (image_open(&disk, fd, read_only, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static inline void image_must_close(struct disk *disk)
{
	struct error err = { 0 };

	if (disk_close(disk, &err) != 0)
		fail_msg("%s", err.text);
}

/* A directory of its own for images that need names: in memory, where the host has such a place. */
static inline void image_directory(char *path, size_t size)
{
	snprintf(path, size, "%s/bulkhead-images-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(path));
}

struct dice {
	uint64_t state;
};

static inline uint64_t dice_roll(struct dice *dice, uint64_t sides)
{
	uint64_t v = dice->state += UINT64_C(0x9e3779b97f4a7c15);

	v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (v ^ (v >> 31)) % sides;
}

static inline void dice_fill(struct dice *dice, void *buffer, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = dice_roll(dice, UINT64_MAX);

		memcpy((char *)buffer + i, &v, min_u64(8, size - i));
	}
}
