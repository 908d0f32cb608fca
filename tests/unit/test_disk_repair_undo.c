// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a repair must not cost, and taking it back: what was written later, what cannot be kept for want of room, what
 * a cut off file still has; and a hostile file of what was overwritten.
 */
#include "tests/unit/test_disk_repair.h"

#include "base/crc32c.h"

/* A file of what was overwritten that lies, with a right checksum: refused, or it puts bytes back; no more. */
static void hostile_undo(void **state)
{
	char report[4096], liar[128];
	struct dice dice = { 77 };
	uint64_t size;
	uint8_t *bytes;

	make(&vhdx);
	put_entry(path, 2, VHDX_UNIT * 4000 | VHDX_BLOCK_FULLY_PRESENT);
	put(path, VHDX_REGION_TABLE_OFFSET_2 + 40, "xyz", 3);
	assert_int_equal(repair_with(true, report, sizeof(report)), 0);
	bytes = read_file(undo, &size);
	snprintf(liar, sizeof(liar), "%s/liar", directory);
	for (unsigned i = 0; i < 300; i++) {
		uint8_t *copy = malloc(size);
		uint64_t length = dice_roll(&dice, 4) ? size : 16 + dice_roll(&dice, size - 16);
		FILE *file;

		memcpy(copy, bytes, size);
		for (unsigned n = 0; n < 3; n++) {
			uint64_t at = 16 + dice_roll(&dice, dice_roll(&dice, 2) ? 64 : length - 16);

			copy[min_u64(at, length - 1)] ^= (uint8_t)(1u << dice_roll(&dice, 8));
		}
		le32_put(copy + 12, crc32c(0, copy + 16, length - 16));
		file = fopen(liar, "w");
		assert_int_equal(fwrite(copy, 1, length, file), length);
		fclose(file);
		disk_undo_repair(path, liar, NULL);
		assert_true(length_of(path) < UINT64_C(1) << 62);
		assert_int_equal(truncate(path, 12 * MIB), 0);
		free(copy);
	}
	free(bytes);
	unlink(liar);
	unlink(undo);
}

/* --- what a repair must not cost --- */

/* What came after a repair is not lost by taking that back: nothing of the image is touched. */
static void undo_too_late(void **state)
{
	static const struct disk_create_options *const all[] = { &vhdx, &vhd };
	uint64_t size, size_after;
	uint8_t *before, *after;
	struct disk *disk;

	for (unsigned i = 0; i < 4; i++) {
		make(all[i / 2]);
		if (i / 2 == 1)
			put_vhd_entry(path, 2, 4000000);
		else if (i % 2 == 0)
			put(path, VHDX_REGION_TABLE_OFFSET_2 + 40, "xyz", 3);
		else
			put(path, VHDX_HEADER_OFFSET_1 + 40, "xyz", 3);
		assert_int_equal(disk_repair(path, i / 2 == 1, NULL, NULL), 0);
		assert_int_equal(access(undo, F_OK), 0);
		disk = open_for_writing();
		/* In a new block, or where there is one. */
		assert_int_equal(disk_write(disk, i % 2 ? 0 : 7 * MIB, "later", 6, NULL), 0);
		image_must_close(disk);
		before = read_file(path, &size);
		assert_int_equal(disk_undo_repair(path, undo, NULL), -ESTALE);
		after = read_file(path, &size_after);
		assert_int_equal(size, size_after);
		assert_memory_equal(before, after, size);
		free(before);
		free(after);
	}
}

/* A power cut in the middle of taking it back: that is done again. */
static void undo_again(void **state)
{
	uint8_t *damaged, *repaired;
	uint64_t size, size_repaired;

	make(&vhd);
	put_vhd_entry(path, 9, vhd_entry_of(path, 7));
	damaged = read_file(path, &size);
	assert_int_equal(disk_repair(path, true, NULL, NULL), 0);
	repaired = read_file(path, &size_repaired);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t *after;
		uint64_t size_after;

		put(path, 0, repaired, size_repaired);
		if (i & 1)
			put(path, 0, damaged, 512);
		if (i & 2)
			assert_int_equal(truncate(path, (off_t)size), 0);
		assert_int_equal(disk_undo_repair(path, undo, NULL), 0);
		after = read_file(path, &size_after);
		assert_int_equal(size_after, size);
		assert_memory_equal(after, damaged, size);
		free(after);
	}
	free(damaged);
	free(repaired);
}

struct host {
	unsigned room; /* changes that are still possible */
};

static int refuse(void *context, uint64_t offset, uint64_t length)
{
	struct host *host = context;

	if (length == 0) /* a length: that is always there */
		return 0;
	if (host->room == 0)
		return ENOSPC;
	host->room--;
	return 0;
}

static void ignore_written(void *context, uint64_t offset, const void *data, size_t size)
{
}

static void ignore_two(void *context, uint64_t offset, uint64_t length)
{
}

static void ignore_size(void *context, uint64_t size)
{
}

static void ignore(void *context)
{
}

/* Two blocks need places, and the host has none: the file is no longer than before, and reads the same, however far it
 * came. With room again it is repaired. */
static void without_room(void **state)
{
	static const struct disk_create_options *const all[] = { &vhdx, &vhd };

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		bool is_vhd = all[i] == &vhd, done = false;
		uint8_t *before, *after;
		uint64_t size;

		make(all[i]);
		if (is_vhd) {
			put_vhd_entry(path, 9, vhd_entry_of(path, 7));
			put_vhd_entry(path, 8, vhd_entry_of(path, 6));
		} else {
			put_entry(path, 4, entry_of(path, 1));
			put_entry(path, 5, entry_of(path, 1));
		}
		size = length_of(path);
		before = read_all(path);
		for (unsigned room = 0; !done; room++) {
			struct host host = { room };
			const struct file_observer observer = { .context = &host, .refuse = refuse, .written = ignore_written,
				.zeroed = ignore_two, .resized = ignore_size, .synced = ignore };
			struct error err = { 0 };
			int r = disk_repair_watched(path, true, NULL, &observer, &err);

			assert_true(room < 100);
			after = read_all(path);
			assert_memory_equal(before, after, DISK_SIZE);
			free(after);
			done = r == 0;
			/* Headers or footers, and the two places, are four changes at least. */
			if (room < 4)
				assert_non_null(strstr(err.text, "cannot be repaired"));
			/* A footer may be missing, but nothing was added. */
			if (!done && strstr(err.text, "cannot be repaired")) {
				assert_int_equal(access(undo, F_OK), -1);
				assert_in_range(length_of(path), size - 512, size + 512 * (room + 1));
			}
			unlink(undo);
		}
		free(before);
		expect_writing();
	}
}

/* A file that is cut off inside of a block: what there is of it stays. */
static void cut_off_inside(void **state)
{
	static const struct disk_create_options *const all[] = { &vhdx, &fixed, &vhd };

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		uint8_t *before, *after;
		unsigned last = all[i] == &fixed ? BLOCKS - 1 : BLOCKS - 3; /* that lies behind all others */
		struct disk *disk;

		make(all[i]);
		if (all[i] == &fixed) {
			uint8_t *bytes = malloc(MIB);

			memset(bytes, 0x5a, MIB);
			disk = open_for_writing();
			assert_int_equal(disk_write(disk, (uint64_t)last * MIB, bytes, MIB, NULL), 0);
			image_must_close(disk);
			free(bytes);
		}
		before = read_all(path);
		assert_int_equal(truncate(path, (off_t)(length_of(path) / MIB * MIB - MIB + 256 * KIB)), 0);
		assert_int_equal(disk_repair(path, false, NULL, NULL), -EEXIST);
		assert_int_equal(disk_repair(path, true, NULL, NULL), 0);
		after = read_all(path);
		assert_memory_equal(before, after, (uint64_t)last * MIB + 200 * KIB);
		assert_int_equal(after[(uint64_t)(last + 1) * MIB - 1], 0);
		expect_writing();
		unlink(undo);
		free(before);
		free(after);
	}
}

/* Raw images have no structures, and nothing of them is touched. */
static void nothing_to_repair(void **state)
{
	char report[1000];

	unlink(path);
	assert_int_equal(disk_create(path, &(struct disk_create_options){ .format = DISK_FORMAT_RAW, .size = MIB }, NULL), 0);
	assert_int_equal(repair_with(true, report, sizeof(report)), 0);
	assert_string_equal(report, "");
	assert_int_equal(access(undo, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hostile_undo),
		cmocka_unit_test(undo_too_late),
		cmocka_unit_test(undo_again),
		cmocka_unit_test(without_room),
		cmocka_unit_test(cut_off_inside),
		cmocka_unit_test(nothing_to_repair),
	};

	return run_all(tests, ARRAY_SIZE(tests));
}
