// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Images that are damaged in one way each are put right: without a word where nothing is lost, else only when that is
 * asked for, and what is lost is said. Afterwards check, QEMU's too, finds nothing, what was not damaged reads as
 * before, and the repair can be taken back. And images with random entries in their tables.
 */
#include "tests/unit/test_disk_repair.h"

/* --- VHDX, without a loss --- */

static void header_copies(void **state)
{
	static const uint64_t places[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };
	struct error err = { 0 };

	for (unsigned i = 0; i < 2; i++) {
		make(&vhdx);
		put(path, places[i] + 100, "xyz", 3);
		assert_int_equal(disk_check(path, NULL, &err), 0);
		expect_repaired(i ? "header at offset 0x20000" : "header at offset 0x10000", "vhdx");
	}
	/* Of two bad ones nothing can be made. */
	make(&vhdx);
	put(path, places[0] + 100, "xyz", 3);
	put(path, places[1] + 100, "xyz", 3);
	assert_int_equal(disk_repair(path, true, NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "both VHDX headers"));
	assert_int_equal(access(undo, F_OK), -1);
}

static void region_tables(void **state)
{
	static const uint64_t places[] = { VHDX_REGION_TABLE_OFFSET_1, VHDX_REGION_TABLE_OFFSET_2 };

	for (unsigned i = 0; i < 2; i++) {
		make(&vhdx);
		put(path, places[i] + 40, "xyz", 3);
		expect_repaired("becomes a copy of the other", "vhdx");
	}
}

static void reserved_bits(void **state)
{
	make(&vhdx);
	put_entry(path, 1, entry_of(path, 1) | 0x18);
	put_entry(path, 7, 0x10);
	expect_repaired("block 1: its reserved bits", "vhdx");
}

static void bitmap_of_nothing(void **state)
{
	struct disk_create_options options = vhdx;

	/* A chunk of blocks of 256 MiB is sixteen. */
	options.size = UINT64_C(6) << 30;
	options.block_size = 256 * MIB;
	unlink(path);
	assert_int_equal(disk_create(path, &options, NULL), 0);
	put_entry(path, 16, 6 | VHDX_UNIT * 9);
	assert_int_equal(disk_check(path, NULL, NULL), -EBADMSG);
	assert_int_equal(disk_repair(path, false, NULL, NULL), 0);
	assert_int_equal(entry_of(path, 16), 0);
	assert_int_equal(disk_check(path, NULL, NULL), 0);
}

/* Behind the end, and between blocks: as QEMU leaves it, which takes no place again. */
static void nobodys_space(void **state)
{
	uint8_t *bytes = malloc(3 * MIB);
	struct stat st;
	uint64_t size;

	make(&vhdx);
	size = length_of(path);
	memset(bytes, 0x77, 3 * MIB);
	put(path, size, bytes, 3 * MIB);
	expect_repaired("3145728 bytes of the file that were nobody's", "vhdx");
	make(&vhdx);
	put_entry(path, 2, 0);
	expect_repaired("1048576 bytes of the file that were nobody's", "vhdx");
	assert_int_equal(stat(path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < size - MIB + 64 * KIB);
	free(bytes);
}

static void a_log(void **state)
{
	struct error err = { 0 };
	char copy[128], command[300], report[1000];
	struct disk *disk;

	make(&vhdx);
	snprintf(copy, sizeof(copy), "%s/copy.vhdx", directory);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	assert_int_equal(disk_write(disk, 7 * MIB, "logged", 7, &err), 0);
	assert_int_equal(disk_flush(disk, &err), 0);
	snprintf(command, sizeof(command), "cp %s %s", path, copy);
	assert_int_equal(system(command), 0);
	image_must_close(disk);
	assert_int_equal(rename(copy, path), 0);
	disk_check(path, stderr, &err);
	assert_int_equal(repair_with(false, report, sizeof(report)), 0);
	assert_int_equal(disk_check(path, NULL, &err), 0);
	expect_peers("vhdx");
	expect_writing();
}

static void not_allocated_in_a_fixed_one(void **state)
{
	make(&fixed);
	put_entry(path, 6, 0);
	expect_loss("block 6, 1048576 bytes of the disk at offset 6291456, becomes zeros", "vhdx");
	expect_writing();
}

/* --- VHDX, with a loss --- */

static void outside(void **state)
{
	uint8_t *before, *after, *damaged;
	uint64_t size;

	make(&vhdx);
	before = read_all(path);
	put_entry(path, 2, VHDX_UNIT * 4000 | VHDX_BLOCK_FULLY_PRESENT);
	put_entry(path, 3, VHDX_UNIT * 1 | VHDX_BLOCK_FULLY_PRESENT); /* the log */
	put_entry(path, 4, entry_of(path, 4) | 4);
	damaged = read_file(path, &size);
	expect_loss("block 2, 1048576 bytes of the disk at offset 2097152, becomes zeros", "vhdx");
	after = read_all(path);
	memset(before + 2 * MIB, 0, 2 * MIB);
	assert_memory_equal(before, after, DISK_SIZE);
	free(after);
	take_back(damaged, size);
	/* And again, with the first undo kept. */
	assert_int_equal(disk_repair(path, true, NULL, NULL), 0);
	after = read_all(path);
	assert_memory_equal(before, after, DISK_SIZE);
	expect_writing();
	/* What has been written since is not undone. */
	put_entry(path, 2, VHDX_BLOCK_ZERO);
	assert_int_equal(disk_undo_repair(path, undo, NULL), -ESTALE);
	assert_int_equal(disk_undo_repair(path, path, NULL), -EBADMSG);
	free(after);
	free(before);
	free(damaged);
	snprintf(undo + strlen(undo) - 1, 2, "2");
	unlink(undo);
	undo[strlen(undo) - 1] = '1';
}

static void one_place_for_two(void **state)
{
	uint8_t *before, *after;
	struct error err = { 0 };
	struct disk *disk;

	make(&vhdx);
	put_entry(path, 4, entry_of(path, 1));
	put_entry(path, 5, entry_of(path, 1));
	before = read_all(path);
	expect_loss("block 4, 1048576 bytes of the disk at offset 4194304, gets a copy", "vhdx");
	after = read_all(path);
	assert_memory_equal(before, after, DISK_SIZE);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	assert_int_equal(disk_write(disk, 4 * MIB, "own", 4, &err), 0);
	image_must_close(disk);
	memcpy(before + 4 * MIB, "own", 4);
	free(after);
	after = read_all(path);
	assert_memory_equal(before, after, DISK_SIZE);
	free(before);
	free(after);
}

/* A child: its bitmap is lost, and then a block of it. */
static void of_a_child(void **state)
{
	struct disk_create_options options = vhdx;
	char parent[128];
	struct error err = { 0 };
	struct disk *disk;
	uint8_t *all;
	unsigned bitmap = 8192; /* 4 GiB in blocks of 1 MiB, less one entry */

	snprintf(parent, sizeof(parent), "%s/parent.vhdx", directory);
	bitmap = VHDX_CHUNK_SECTORS * 512 / MIB;
	for (unsigned i = 0; i < 2; i++) {
		make(&vhdx);
		assert_int_equal(rename(path, parent), 0);
		options.size = 0;
		options.parent = parent;
		assert_int_equal(disk_create(path, &options, &err), 0);
		assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
		assert_int_equal(disk_write(disk, MIB + 512, "child", 6, &err), 0);
		assert_int_equal(disk_write(disk, 2 * MIB, "child", 6, &err), 0);
		image_must_close(disk);
		if (i == 0)
			put_entry(path, bitmap, VHDX_UNIT * 4000 | VHDX_BITMAP_PRESENT);
		else
			put_entry(path, 1, VHDX_UNIT * 4000 | VHDX_BLOCK_FULLY_PRESENT);
		expect_loss(i == 0 ? "block 1, 1048576 bytes of the disk at offset 1048576, becomes what its parent has"
				   : "block 1, 1048576 bytes of the disk at offset 1048576, becomes zeros", NULL); /* QEMU reads none */
		all = read_all(path);
		assert_int_equal(all[MIB + 600], i == 0 ? 2 : 0);
		assert_int_equal(all[2 * MIB], i == 0 ? 3 : 'c');
		free(all);
		expect_writing();
		unlink(parent);
	}
}

/* A block of a child lies over another, and the bitmap is lost too: one entry, about which two things are noted. Taken
 * back, all is as damaged as before. */
static void twice_noted(void **state)
{
	struct disk_create_options options = vhdx;
	unsigned bitmap = VHDX_CHUNK_SECTORS * 512 / MIB;
	uint8_t *damaged;
	char parent[128];
	struct disk *disk;
	uint64_t size;

	snprintf(parent, sizeof(parent), "%s/parent.vhdx", directory);
	make(&vhdx);
	assert_int_equal(rename(path, parent), 0);
	options.size = 0;
	options.parent = parent;
	assert_int_equal(disk_create(path, &options, NULL), 0);
	assert_int_equal(disk_open(&disk, path, NULL, NULL), 0);
	assert_int_equal(disk_write(disk, MIB + 512, "child", 6, NULL), 0);
	assert_int_equal(disk_write(disk, 2 * MIB + 512, "child", 6, NULL), 0);
	image_must_close(disk);
	put_entry(path, 2, entry_of(path, 1));
	put_entry(path, bitmap, VHDX_UNIT * 4000 | VHDX_BITMAP_PRESENT);
	damaged = read_file(path, &size);
	assert_int_equal(disk_repair(path, true, NULL, NULL), 0);
	take_back(damaged, size);
	assert_int_equal(disk_repair(path, true, NULL, NULL), 0);
	expect_writing();
	free(damaged);
	unlink(parent);
	unlink(undo);
	snprintf(undo + strlen(undo) - 1, 2, "2");
	unlink(undo);
	undo[strlen(undo) - 1] = '1';
}

/* --- VHD --- */

static void vhd_footers(void **state)
{
	uint64_t size;

	for (unsigned i = 0; i < 2; i++) {
		make(&vhd);
		put(path, i ? 0 : length_of(path) - 512, "xxxxxxxx", 8);
		expect_repaired(i ? "the copy of the footer" : "the footer at the end of the file is missing", "vpc");
	}
	make(&vhd);
	assert_int_equal(truncate(path, (off_t)length_of(path) - 512), 0);
	expect_repaired("", "vpc");
	/* What lies behind the footer belongs to nobody. */
	make(&vhd);
	size = length_of(path);
	assert_int_equal(truncate(path, (off_t)size + 3 * MIB), 0);
	expect_repaired("the footer at the end of the file is missing", "vpc");
	assert_true(length_of(path) < size + MIB); /* with the block that was written then */
}

static void vhd_blocks(void **state)
{
	uint8_t *before, *after, *expected;

	make(&vhd);
	expected = read_all(path);
	put_vhd_entry(path, 2, 4000000);
	put_vhd_entry(path, 4, 1); /* the header */
	put_vhd_entry(path, 9, vhd_entry_of(path, 7));
	before = read_all(path);
	expect_loss("block 2, 524288 bytes of the disk at offset 1048576, becomes zeros", "vpc");
	after = read_all(path);
	memset(expected + MIB, 0, MIB / 2);
	memset(expected + 2 * MIB, 0, MIB / 2);
	memcpy(expected + 9 * (MIB / 2), before + 7 * (MIB / 2), MIB / 2);
	assert_memory_equal(expected, after, DISK_SIZE);
	expect_writing();
	free(before);
	free(after);
	free(expected);
}

/* --- any --- */

static void randomly(const struct disk_create_options *options, uint64_t seed)
{
	struct dice dice = { seed };
	unsigned count = 1 + (unsigned)dice_roll(&dice, 6);
	bool is_vhd = options->format == DISK_FORMAT_VHD;
	uint64_t size = length_of(path);
	char report[16384];
	int r;

	for (unsigned i = 0; i < count; i++) {
		unsigned block = (unsigned)dice_roll(&dice, is_vhd ? 16 : 8);
		uint64_t place = dice_roll(&dice, 2 * size / VHDX_UNIT) * VHDX_UNIT;

		if (is_vhd)
			put_vhd_entry(path, block, (uint32_t)dice_roll(&dice, 2 * size / 512));
		else
			put_entry(path, block, place | dice_roll(&dice, 32));
	}
	r = repair_with(true, report, sizeof(report));
	if (r != 0)
		fail_msg("seed %ju: %d\n%s", (uintmax_t)seed, r, report);
	expect_writing();
	unlink(undo);
}

static void random_entries(void **state)
{
	static const struct disk_create_options *const all[] = { &vhdx, &fixed, &vhd };
	char kept[128], command[300];

	snprintf(kept, sizeof(kept), "%s/kept", directory);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		make(all[i]);
		assert_int_equal(rename(path, kept), 0);
		for (uint64_t seed = 0; seed < 60; seed++) {
			snprintf(command, sizeof(command), "cp %s %s", kept, path);
			assert_int_equal(system(command), 0);
			randomly(all[i], seed);
		}
		unlink(kept);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_copies),
		cmocka_unit_test(region_tables),
		cmocka_unit_test(reserved_bits),
		cmocka_unit_test(bitmap_of_nothing),
		cmocka_unit_test(nobodys_space),
		cmocka_unit_test(a_log),
		cmocka_unit_test(not_allocated_in_a_fixed_one),
		cmocka_unit_test(outside),
		cmocka_unit_test(one_place_for_two),
		cmocka_unit_test(of_a_child),
		cmocka_unit_test(twice_noted),
		cmocka_unit_test(vhd_footers),
		cmocka_unit_test(vhd_blocks),
		cmocka_unit_test(random_entries),
	};

	return run_all(tests, ARRAY_SIZE(tests));
}
