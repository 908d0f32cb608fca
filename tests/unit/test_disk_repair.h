/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_disk_repair.h - images to be damaged and repaired, and what is expected of that. They are in a directory in
 * memory, and called `path`.
 */
#pragma once

#include "tests/unit/test_disk_images.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "disk/vhd.h"
#include "disk/vhdx.h"

#define BAT       (3 * VHDX_UNIT)
#define VHD_BAT   1536u
#define DISK_SIZE (8 * MIB)
#define BLOCKS    8u

static char directory[64], path[96], undo[112];
static bool has_qemu;

static const struct disk_create_options vhdx = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
static const struct disk_create_options fixed = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB,
	.fixed = true };
static const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB };

static inline void put(const char *name, uint64_t offset, const void *data, size_t size)
{
	int fd = open(name, O_RDWR | O_CLOEXEC);

	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
	close(fd);
}

static inline uint64_t entry_of(const char *name, unsigned block)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_int_equal(pread(fd, &entry, 8, BAT + block * 8), 8);
	close(fd);
	return entry;
}

static inline void put_entry(const char *name, unsigned block, uint64_t entry)
{
	put(name, BAT + block * 8, &entry, 8);
}

static inline uint32_t vhd_entry_of(const char *name, unsigned block)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	uint8_t entry[4];

	assert_int_equal(pread(fd, entry, 4, VHD_BAT + block * 4), 4);
	close(fd);
	return be32_get(entry);
}

static inline void put_vhd_entry(const char *name, unsigned block, uint32_t entry)
{
	uint8_t bytes[4];

	be32_put(bytes, entry);
	put(name, VHD_BAT + block * 4, bytes, 4);
}

static inline uint64_t length_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	return (uint64_t)st.st_size;
}

/* Each MiB is full of its number and one, but the last two are zeros. */
static inline void make(const struct disk_create_options *options)
{
	uint8_t *bytes = malloc(MIB);
	struct error err = { 0 };
	struct disk *disk;

	unlink(path);
	unlink(undo);
	assert_int_equal(disk_create(path, options, &err), 0);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	for (unsigned i = 0; i < BLOCKS - 2; i++) {
		memset(bytes, (int)i + 1, MIB);
		assert_int_equal(disk_write(disk, (uint64_t)i * MIB, bytes, MIB, &err), 0);
	}
	image_must_close(disk);
	free(bytes);
}

static inline uint8_t *read_all(const char *name)
{
	const struct disk_open_options reading = { .read_only = true };
	uint8_t *bytes = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;

	assert_int_equal(disk_open(&disk, name, &reading, &err), 0);
	/* A block that is nowhere cannot be read. */
	for (uint64_t at = 0; at < DISK_SIZE; at += 64 * KIB)
		if (disk_read(disk, at, bytes + at, 64 * KIB, &err) != 0)
			memset(bytes + at, 0xee, 64 * KIB);
	image_must_close(disk);
	return bytes;
}

static inline uint8_t *read_file(const char *name, uint64_t *size)
{
	uint8_t *bytes = malloc(*size = length_of(name));
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, bytes, *size), *size);
	close(fd);
	return bytes;
}

static inline int repair_with(bool lose, char *report, size_t size)
{
	FILE *to = fmemopen(report, size, "w");
	struct error err = { 0 };
	int r;

	memset(report, 0, size);
	r = disk_repair(path, lose, to, &err);
	fclose(to);
	if (r < 0 && r != -EEXIST)
		print_message("%s\n", err.text);
	return r;
}

static inline void expect_writing(void)
{
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(disk_write(disk, 7 * MIB + 512, "new", 4, &err), 0);
	image_must_close(disk);
	assert_int_equal(disk_check(path, stderr, &err), 0);
}

static inline void expect_peers(const char *format)
{
	char command[400];

	if (!has_qemu || !format)
		return;
	snprintf(command, sizeof(command), "qemu-img check -q -f %s %s >/dev/null 2>&1", format, path);
	if (strcmp(format, "vpc") == 0) /* it has no check for these: reading all is one */
		snprintf(command, sizeof(command), "qemu-img convert -f vpc -O raw %s %s.raw && rm %s.raw", path, path, path);
	assert_int_equal(system(command), 0);
}

/* Without a loss: all reads as before. */
static inline void expect_repaired(const char *text, const char *format)
{
	uint8_t *before = read_all(path), *after;
	char report[4096];

	assert_int_equal(repair_with(false, report, sizeof(report)), 0);
	if (!strstr(report, text))
		fail_msg("not told: %s\n%s", text, report);
	after = read_all(path);
	assert_memory_equal(before, after, DISK_SIZE);
	free(before);
	free(after);
	expect_peers(format);
	expect_writing();
	/* There is nothing left to do. */
	assert_int_equal(repair_with(false, report, sizeof(report)), 0);
	assert_string_equal(report, "");
}

/* With a loss: refused at first, and the file stays as it is. */
static inline void expect_loss(const char *text, const char *format)
{
	uint64_t size, size_after;
	uint8_t *before = read_file(path, &size), *after;
	char report[8192];

	assert_int_equal(repair_with(false, report, sizeof(report)), -EEXIST);
	if (!strstr(report, text))
		fail_msg("not told: %s\n%s", text, report);
	after = read_file(path, &size_after);
	assert_int_equal(size, size_after);
	assert_memory_equal(before, after, size);
	free(after);
	assert_int_equal(access(undo, F_OK), -1);
	assert_int_equal(repair_with(true, report, sizeof(report)), 0);
	assert_int_equal(access(undo, F_OK), 0);
	assert_int_equal(disk_check(path, stderr, NULL), 0);
	expect_peers(format);
	free(before);
}

/* The damage is back, and nothing else. */
static inline void take_back(const uint8_t *before, uint64_t size)
{
	struct error err = { 0 };
	uint64_t size_after;
	uint8_t *after;

	if (disk_undo_repair(path, undo, &err) != 0)
		fail_msg("%s", err.text);
	after = read_file(path, &size_after);
	assert_int_equal(size, size_after);
	/* The headers are new. */
	assert_memory_equal(before + VHDX_REGION_TABLE_OFFSET_1, after + VHDX_REGION_TABLE_OFFSET_1,
	    size - VHDX_REGION_TABLE_OFFSET_1);
	free(after);
}

static inline struct disk *open_for_writing(void)
{
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, NULL, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

/* Makes the directory, runs the tests, and removes it. */
static inline int run_all(const struct CMUnitTest *tests, size_t count)
{
	char command[128];
	int r;

	has_qemu = system("command -v qemu-img >/dev/null") == 0;
	image_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/disk", directory);
	snprintf(undo, sizeof(undo), "%s.undo-1", path);
	r = _cmocka_run_group_tests("repair", tests, count, NULL, NULL);
	snprintf(command, sizeof(command), "rm -r %s", directory);
	return system(command) == 0 ? r : 1;
}
