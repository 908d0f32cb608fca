// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Images that are damaged in one way each are put right: without a word where nothing is lost, else only when that is
 * asked for, and what is lost is said. Afterwards check, QEMU's too, finds nothing, what was not damaged reads as
 * before, and the repair can be taken back. And images with random entries in their tables.
 */
#include "tests/unit/test_disk_images.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/crc32c.h"
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

static void put(const char *name, uint64_t offset, const void *data, size_t size)
{
	int fd = open(name, O_RDWR | O_CLOEXEC);

	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
	close(fd);
}

static uint64_t entry_of(const char *name, unsigned block)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_int_equal(pread(fd, &entry, 8, BAT + block * 8), 8);
	close(fd);
	return entry;
}

static void put_entry(const char *name, unsigned block, uint64_t entry)
{
	put(name, BAT + block * 8, &entry, 8);
}

static uint32_t vhd_entry_of(const char *name, unsigned block)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	uint8_t entry[4];

	assert_int_equal(pread(fd, entry, 4, VHD_BAT + block * 4), 4);
	close(fd);
	return be32_get(entry);
}

static void put_vhd_entry(const char *name, unsigned block, uint32_t entry)
{
	uint8_t bytes[4];

	be32_put(bytes, entry);
	put(name, VHD_BAT + block * 4, bytes, 4);
}

static uint64_t length_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	return (uint64_t)st.st_size;
}

/* Each MiB is full of its number and one, but the last two are zeros. */
static void make(const struct disk_create_options *options)
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

static uint8_t *read_all(const char *name)
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

static uint8_t *read_file(const char *name, uint64_t *size)
{
	uint8_t *bytes = malloc(*size = length_of(name));
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, bytes, *size), *size);
	close(fd);
	return bytes;
}

static int repair_with(bool lose, char *report, size_t size)
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

static void expect_writing(void)
{
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(disk_write(disk, 7 * MIB + 512, "new", 4, &err), 0);
	image_must_close(disk);
	assert_int_equal(disk_check(path, stderr, &err), 0);
}

static void expect_peers(const char *format)
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
static void expect_repaired(const char *text, const char *format)
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
static void expect_loss(const char *text, const char *format)
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
static void take_back(const uint8_t *before, uint64_t size)
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

static struct disk *open_for_writing(void)
{
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, NULL, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

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
		cmocka_unit_test(hostile_undo),
		cmocka_unit_test(undo_too_late),
		cmocka_unit_test(undo_again),
		cmocka_unit_test(without_room),
		cmocka_unit_test(cut_off_inside),
		cmocka_unit_test(nothing_to_repair),
	};
	char command[128];
	int r;

	has_qemu = system("command -v qemu-img >/dev/null") == 0;
	image_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/disk", directory);
	snprintf(undo, sizeof(undo), "%s.undo-1", path);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -r %s", directory);
	return system(command) == 0 ? r : 1;
}
