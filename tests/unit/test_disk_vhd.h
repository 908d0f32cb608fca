/* SPDX-License-Identifier: GPL-2.0-or-later */
/* test_disk_vhd.h - what the tests of VHD files have in common: bytes of the file, and how it is judged. */
#pragma once

#include "tests/unit/test_disk_images.h"

#include <errno.h>

#include "disk/vhd.h"

#define GIB (UINT64_C(1) << 30)

static inline uint64_t file_length(int fd)
{
	return (uint64_t)lseek(fd, 0, SEEK_END);
}

static inline void get(int fd, uint64_t offset, void *data, size_t size)
{
	assert_int_equal(pread(fd, data, size, (off_t)offset), size);
}

static inline void put(int fd, uint64_t offset, const void *data, size_t size)
{
	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
}

static inline void put_header(int fd, uint64_t offset, struct vhd_dynamic_header *header)
{
	be32_put(header->checksum,
	    vhd_checksum(header, sizeof(*header), offsetof(struct vhd_dynamic_header, checksum)));
	put(fd, offset, header, sizeof(*header));
}

/* Of an empty dynamic disk: any block size, as other programs choose it. */
static inline void change_block_size(int fd, uint32_t block_size)
{
	struct vhd_dynamic_header header;
	struct vhd_footer footer;
	uint64_t entries, size;
	uint8_t *table;

	get(fd, 0, &footer, sizeof(footer));
	get(fd, 512, &header, sizeof(header));
	entries = (be64_get(footer.current_size) + block_size - 1) / block_size;
	size = align_up_u64(entries * 4, 512);
	be32_put(header.block_size, block_size);
	be32_put(header.max_table_entries, (uint32_t)entries);
	put_header(fd, 512, &header);
	table = malloc(size);
	memset(table, 0xff, size);
	put(fd, 1536, table, size);
	free(table);
	put(fd, 1536 + size, &footer, sizeof(footer));
	assert_int_equal(ftruncate(fd, (off_t)(1536 + size + 512)), 0);
}

static inline void expect_contents(struct disk *disk, const uint8_t *model, uint64_t size)
{
	uint8_t *all = malloc(size);
	struct error err = { 0 };

	if (disk_read(disk, 0, all, size, &err) != 0)
		fail_msg("%s", err.text);
	for (uint64_t at = 0; at < size; at += 512)
		if (memcmp(all + at, model + at, min_u64(512, size - at)) != 0)
			fail_msg("the sector at %ju is another", (uintmax_t)at);
	free(all);
}

/* What a check says of the file, at most `size` bytes of it. */
static inline int check_image(int fd, char *report, size_t size)
{
	struct disk *disk = image_must_open(fd, true);
	FILE *to = fmemopen(report, size, "w");
	struct error err = { 0 };
	int r = disk->ops->check(disk, to, &err);

	fclose(to);
	image_must_close(disk);
	return r;
}

static inline void expect_sound(int fd)
{
	char report[1000] = "";

	if (check_image(fd, report, sizeof(report)) != 0 || report[0])
		fail_msg("%s", report);
}

/* Nothing is wrong, but something is to tell. */
static inline void expect_told(int fd, const char *text)
{
	char report[1000] = "";

	assert_int_equal(check_image(fd, report, sizeof(report)), 0);
	if (!strstr(report, text))
		fail_msg("%s", report);
}

static inline void expect_finding(int fd, const char *text)
{
	char report[1000] = "";

	assert_int_equal(check_image(fd, report, sizeof(report)), -EBADMSG);
	if (!strstr(report, text))
		fail_msg("%s", report);
}

/* Opening it for writing fails, with this in the sentence. */
static inline void expect_refused(int fd, int code, const char *text)
{
	struct error err = { 0 };
	struct disk *disk;

	assert_int_equal(image_open(&disk, fd, false, &err), -code);
	if (!strstr(err.text, text))
		fail_msg("%s", err.text);
}
