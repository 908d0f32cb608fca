// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VHD at its ends: files cut off at every length, and blocks that go back to the host; and chains of fifty disks, of
 * both formats, written, read, checked, and merged in one go.
 */
#include "tests/unit/test_disk_vhd.h"

#include <sys/stat.h>

#define SIZE  (2 * MIB)
#define BLOCK (512 * KIB)
#define DEPTH 50u

static char directory[64];

static int make(uint8_t *model)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHD, .size = SIZE, .block_size = BLOCK };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	struct dice dice = { 1 };

	for (uint64_t at = 0; at < SIZE; at += 2 * BLOCK) {
		dice_fill(&dice, model + at, BLOCK);
		assert_int_equal(disk_write(disk, at, model + at, BLOCK, NULL), 0);
	}
	image_must_close(disk);
	return fd;
}

/* Opening says what is missing, or every byte that can be read is right; and a disk that can be written is whole. */
static void cut_anywhere(void **state)
{
	uint8_t *model = calloc(1, SIZE), *read = malloc(BLOCK), *all;
	int fd = make(model), copy = memfd_create("copy", MFD_CLOEXEC);
	uint64_t size = file_length(fd);
	unsigned opened[2] = { 0, 0 };

	all = malloc(size);
	get(fd, 0, all, size);
	log_set_stream(fopen("/dev/null", "w"));
	for (uint64_t length = size; length-- > 0;) {
		uint64_t near = length % 4096;

		if (length > 4096 && length < size - 2048 && near > 1 && near < 4095)
			continue;
		for (int read_only = 1; read_only >= 0; read_only--) {
			struct error err = { 0 };
			struct disk *disk;

			assert_int_equal(ftruncate(copy, 0), 0);
			put(copy, 0, all, length);
			if (image_open(&disk, copy, read_only, &err) != 0) {
				assert_true(strlen(err.text) > 20);
				assert_int_equal(file_length(copy), length);
				continue;
			}
			/* Without its first bytes nothing says that it is a VHD. */
			if (disk->info.format != DISK_FORMAT_VHD)
				assert_true(length < 512);
			opened[read_only]++;
			for (uint64_t at = 0; disk->info.format == DISK_FORMAT_VHD && at < SIZE; at += BLOCK)
				if (disk_read(disk, at, read, BLOCK, &err) == 0)
					assert_memory_equal(read, model + at, BLOCK);
				else
					assert_true(read_only && length < size - 512);
			disk_close(disk, NULL);
		}
	}
	log_set_stream(NULL);
	assert_true(opened[0] >= 512 && opened[1] > opened[0]);
	free(model);
	free(read);
	free(all);
	close(copy);
	close(fd);
}

static uint64_t on_host(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* The format knows no block without a place that was written once; but its bytes are a hole. */
static void discarded(void **state)
{
	uint8_t *model = calloc(1, SIZE);
	int fd = make(model);
	struct disk *disk = image_must_open(fd, false);
	struct disk_request request = { .op = DISK_OP_DISCARD, .length = BLOCK };
	uint64_t before = on_host(fd);
	struct error err = { 0 };

	assert_true(disk->info.can_discard);
	assert_int_equal(disk_perform(disk, &request, &err), 0);
	assert_true(on_host(fd) <= before - BLOCK + 8 * KIB);
	memset(model, 0, BLOCK);
	expect_contents(disk, model, SIZE);
	image_must_close(disk);
	expect_sound(fd);
	disk = image_must_open(fd, false);
	expect_contents(disk, model, SIZE);
	image_must_close(disk);
	free(model);
	close(fd);
}

static const char *in_chain(unsigned number, const char *ending, char path[128])
{
	snprintf(path, 128, "%s/%u.%s", directory, number, ending);
	return path;
}

static void fifty(void **state)
{
	const enum disk_format *format = *state;
	const char *ending = *format == DISK_FORMAT_VHD ? "vhd" : "vhdx";
	struct disk_create_options options = { .format = *format, .size = 8 * MIB,
		.block_size = *format == DISK_FORMAT_VHD ? BLOCK : MIB };
	uint8_t *model = calloc(1, 8 * MIB);
	char path[128], parent[128];
	struct dice dice = { 50 };
	struct error err = { 0 };
	struct disk *disk;

	for (unsigned i = 0; i < DEPTH; i++) {
		uint64_t at = dice_roll(&dice, 8 * MIB - 64 * KIB) / 512 * 512;

		if (disk_create(in_chain(i, ending, path), &options, &err) != 0)
			fail_msg("%s", err.text);
		assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
		dice_fill(&dice, model + at, 64 * KIB);
		assert_int_equal(disk_write(disk, at, model + at, 64 * KIB, &err), 0);
		image_must_close(disk);
		strcpy(parent, path);
		options.parent = parent;
		options.size = 0;
	}
	assert_int_equal(disk_check(path, stderr, &err), 0);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	expect_contents(disk, model, 8 * MIB);
	image_must_close(disk);
	in_chain(0, ending, parent);
	if (disk_merge_into(path, parent, NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(disk_open(&disk, parent, NULL, &err), 0);
	assert_null(disk_parent(disk));
	expect_contents(disk, model, 8 * MIB);
	image_must_close(disk);
	assert_int_equal(disk_check(parent, stderr, &err), 0);
	for (unsigned i = 1; i < DEPTH; i++)
		assert_int_equal(access(in_chain(i, ending, path), F_OK), -1);
	unlink(parent);
	free(model);
}

int main(void)
{
	static const enum disk_format vhd = DISK_FORMAT_VHD, vhdx = DISK_FORMAT_VHDX;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cut_anywhere),
		cmocka_unit_test(discarded),
		{ "fifty VHD", fifty, NULL, NULL, (void *)&vhd },
		{ "fifty VHDX", fifty, NULL, NULL, (void *)&vhdx },
	};
	int r;

	image_directory(directory, sizeof(directory));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
