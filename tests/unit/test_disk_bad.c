// SPDX-License-Identifier: GPL-2.0-or-later
/* Damaged, truncated, foreign and locked images: each gets its sentence, and no file is changed. */
#include "tests/unit/test_disk_images.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define METADATA (2 * VHDX_UNIT)
#define BAT      (3 * VHDX_UNIT)
#define ITEMS    (METADATA + VHDX_TABLE_SIZE)

static void put(int fd, uint64_t offset, const void *data, size_t size)
{
	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
}

static void put32(int fd, uint64_t offset, uint32_t value)
{
	put(fd, offset, &value, sizeof(value));
}

static void put64(int fd, uint64_t offset, uint64_t value)
{
	put(fd, offset, &value, sizeof(value));
}

/* Sets the checksum, at bytes 4 to 7 of a structure, right again. */
static void seal(int fd, uint64_t offset, size_t size)
{
	uint8_t *bytes = malloc(size);

	put32(fd, offset + 4, 0);
	assert_int_equal(pread(fd, bytes, size, (off_t)offset), size);
	put32(fd, offset + 4, crc32c(0, bytes, size));
	free(bytes);
}

static void seal_headers(int fd)
{
	seal(fd, VHDX_HEADER_OFFSET_1, 4096);
	seal(fd, VHDX_HEADER_OFFSET_2, 4096);
}

static void seal_tables(int fd)
{
	seal(fd, VHDX_REGION_TABLE_OFFSET_1, VHDX_TABLE_SIZE);
	seal(fd, VHDX_REGION_TABLE_OFFSET_2, VHDX_TABLE_SIZE);
}

/* In both headers. */
static void header_put(int fd, size_t field, const void *data, size_t size)
{
	put(fd, VHDX_HEADER_OFFSET_1 + field, data, size);
	put(fd, VHDX_HEADER_OFFSET_2 + field, data, size);
	seal_headers(fd);
}

/* In entry `index` of both region tables. */
static void region_put(int fd, unsigned index, size_t field, const void *data, size_t size)
{
	uint64_t at = sizeof(struct vhdx_region_table) + index * sizeof(struct vhdx_region_entry) + field;

	put(fd, VHDX_REGION_TABLE_OFFSET_1 + at, data, size);
	put(fd, VHDX_REGION_TABLE_OFFSET_2 + at, data, size);
	seal_tables(fd);
}

static void no_signature(int fd)
{
	put(fd, 0, "vhdxfil_", 8);
}

static void bad_headers(int fd)
{
	put(fd, VHDX_HEADER_OFFSET_1 + 100, "x", 1);
	put(fd, VHDX_HEADER_OFFSET_2 + 100, "x", 1);
}

static void rival_headers(int fd)
{
	put64(fd, VHDX_HEADER_OFFSET_1 + offsetof(struct vhdx_header, sequence_number), 9);
	put64(fd, VHDX_HEADER_OFFSET_2 + offsetof(struct vhdx_header, sequence_number), 9);
	put(fd, VHDX_HEADER_OFFSET_1 + offsetof(struct vhdx_header, file_write_guid), "x", 1);
	put(fd, VHDX_HEADER_OFFSET_2 + offsetof(struct vhdx_header, file_write_guid), "y", 1);
	seal_headers(fd);
}

static void log_version(int fd)
{
	header_put(fd, offsetof(struct vhdx_header, log_version), "\7", 2);
	header_put(fd, offsetof(struct vhdx_header, log_guid), "x", 1);
}

static void log_place(int fd)
{
	uint64_t place = 12345;

	header_put(fd, offsetof(struct vhdx_header, log_offset), &place, 8);
}

static void log_outside(int fd)
{
	uint64_t place = 1000 * VHDX_UNIT;

	header_put(fd, offsetof(struct vhdx_header, log_offset), &place, 8);
}

static void log_over_bat(int fd)
{
	uint64_t place = BAT;

	header_put(fd, offsetof(struct vhdx_header, log_offset), &place, 8);
}

static void bad_tables(int fd)
{
	put(fd, VHDX_REGION_TABLE_OFFSET_1 + 100, "x", 1);
	put(fd, VHDX_REGION_TABLE_OFFSET_2 + 100, "x", 1);
}

static void unknown_region(int fd)
{
	static const struct vhdx_region_entry entry = { { { 0x11, 0x22 } }, 9 * VHDX_UNIT, VHDX_UNIT, 1 };

	put32(fd, VHDX_REGION_TABLE_OFFSET_1 + 8, 3);
	put32(fd, VHDX_REGION_TABLE_OFFSET_2 + 8, 3);
	region_put(fd, 2, 0, &entry, sizeof(entry));
}

static void region_twice(int fd)
{
	static const struct guid bat = VHDX_REGION_BAT;

	region_put(fd, 1, 0, &bat, sizeof(bat));
}

static void region_missing(int fd)
{
	put32(fd, VHDX_REGION_TABLE_OFFSET_1 + 8, 1);
	put32(fd, VHDX_REGION_TABLE_OFFSET_2 + 8, 1);
	seal_tables(fd);
}

static void region_outside(int fd)
{
	uint64_t place = 1 << 30;

	region_put(fd, 0, offsetof(struct vhdx_region_entry, file_offset), &place, 8);
}

static void cut_in_bat(int fd)
{
	assert_int_equal(ftruncate(fd, BAT + 100), 0);
	assert_int_equal(ftruncate(fd, BAT - 100), 0);
}

static void cut_in_headers(int fd)
{
	assert_int_equal(ftruncate(fd, 70000), 0);
}

static void bad_metadata(int fd)
{
	put(fd, METADATA, "x", 1);
}

static void metadata_count(int fd)
{
	put(fd, METADATA + offsetof(struct vhdx_metadata_table, entry_count), "\xff\xff", 2);
}

static uint64_t item_entry(unsigned index)
{
	return METADATA + sizeof(struct vhdx_metadata_table) + index * sizeof(struct vhdx_metadata_entry);
}

static void item_missing(int fd)
{
	put(fd, METADATA + offsetof(struct vhdx_metadata_table, entry_count), "\4", 1);
}

static void item_unknown(int fd)
{
	put(fd, item_entry(2), "x", 1);
}

static void item_outside(int fd)
{
	put32(fd, item_entry(1) + offsetof(struct vhdx_metadata_entry, offset), VHDX_UNIT - 4);
}

static void item_twice(int fd)
{
	static const struct guid size = VHDX_ITEM_VIRTUAL_DISK_SIZE;

	put(fd, item_entry(0), &size, sizeof(size));
	put(fd, item_entry(0) + offsetof(struct vhdx_metadata_entry, length), "\x8", 1);
}

static void with_parent(int fd)
{
	put32(fd, ITEMS + 4, VHDX_HAS_PARENT);
}

static void block_size(int fd)
{
	put32(fd, ITEMS, 3 * MIB);
}

static void disk_too_large(int fd)
{
	put64(fd, ITEMS + 8, (UINT64_C(64) << 40) + 512);
}

static void disk_unaligned(int fd)
{
	put64(fd, ITEMS + 8, 1000);
}

static void logical_size(int fd)
{
	put32(fd, ITEMS + 32, 1024);
}

static void physical_size(int fd)
{
	put32(fd, ITEMS + 36, 0);
}

static void bat_too_short(int fd)
{
	put64(fd, ITEMS + 8, UINT64_C(32) << 40);
}

struct damage {
	const char *name;
	void (*make)(int fd);
	int code;
	const char *says;
};

static struct damage damages[] = {
	{ "no signature", no_signature, EBADMSG, "does not begin with" },
	{ "both headers damaged", bad_headers, EBADMSG, "both VHDX headers" },
	{ "headers contradict", rival_headers, EBADMSG, "same sequence number 9" },
	{ "log version", log_version, ENOTSUP, "log has version 7" },
	{ "log place", log_place, EBADMSG, "the log at offset 0x3039" },
	{ "log outside", log_outside, EBADMSG, "ends before or inside its log" },
	{ "log over BAT", log_over_bat, EBADMSG, "overlap" },
	{ "both region tables damaged", bad_tables, EBADMSG, "both region tables" },
	{ "unknown region", unknown_region, ENOTSUP, "00002211-0000" },
	{ "region twice", region_twice, EBADMSG, "block allocation table twice" },
	{ "region missing", region_missing, EBADMSG, "no metadata region" },
	{ "region outside", region_outside, EBADMSG, "cut short" },
	{ "cut before the BAT", cut_in_bat, EBADMSG, "cut short" },
	{ "cut in the headers", cut_in_headers, EBADMSG, "cut short: it has 70000 bytes" },
	{ "metadata damaged", bad_metadata, EBADMSG, "metadata table" },
	{ "metadata count", metadata_count, EBADMSG, "metadata table" },
	{ "item missing", item_missing, EBADMSG, "lacks the item \"physical sector size\"" },
	{ "item unknown", item_unknown, ENOTSUP, "needs metadata item beca1278" },
	{ "item outside", item_outside, EBADMSG, "\"virtual disk size\"" },
	{ "item twice", item_twice, EBADMSG, "\"virtual disk size\" twice" },
	{ "differencing without locator", with_parent, EBADMSG, "without parent locator" },
	{ "block size", block_size, EBADMSG, "block size of 3145728" },
	{ "disk too large", disk_too_large, EBADMSG, "virtual size" },
	{ "disk unaligned", disk_unaligned, EBADMSG, "virtual size of 1000" },
	{ "logical sector size", logical_size, EBADMSG, "logical sector size of 1024" },
	{ "physical sector size", physical_size, EBADMSG, "physical sector size of 0" },
	{ "BAT too short", bat_too_short, EBADMSG, "block allocation table has" },
};

static int small_image(void)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB, .block_size = MIB };

	return image_create(&create);
}

static int open_as_vhdx(struct disk **disk, int fd, bool read_only, struct error *err)
{
	const struct disk_open_options options = { .format = DISK_FORMAT_VHDX, .read_only = read_only };

	return disk_open_descriptor(disk, dup(fd), "image", &options, NULL, err);
}

static void damaged_file(void **state)
{
	const struct damage *damage = *state;
	uint8_t *before = malloc(5 * MIB), *after = malloc(5 * MIB);
	int fd = small_image();
	struct error err = { 0 };
	struct disk *disk;
	ssize_t size;

	/* Sound before, so that it is the damage that is found. */
	image_must_close(image_must_open(fd, false));
	damage->make(fd);
	size = pread(fd, before, 5 * MIB, 0);
	for (int read_only = 0; read_only < 2; read_only++) {
		assert_int_equal(open_as_vhdx(&disk, fd, read_only, &err), -damage->code);
		assert_int_equal(err.code, damage->code);
		if (!strstr(err.text, damage->says) || strncmp(err.text, "image: ", 7) != 0)
			fail_msg("%s", err.text);
	}
	assert_int_equal(pread(fd, after, 5 * MIB, 0), size);
	assert_memory_equal(before, after, (size_t)size);
	free(before);
	free(after);
	close(fd);
}

/* One structure of a pair is enough, and Disk2VHD writes two equal headers. */
static void tolerated_damage(void **state)
{
	int fd = small_image();

	put(fd, VHDX_HEADER_OFFSET_1 + 10, "x", 1);
	put(fd, VHDX_REGION_TABLE_OFFSET_1 + 100, "x", 1);
	image_must_close(image_must_open(fd, true));
	image_must_close(image_must_open(fd, false));
	close(fd);

	fd = small_image();
	put(fd, VHDX_REGION_TABLE_OFFSET_2 + 100, "x", 1);
	put64(fd, VHDX_HEADER_OFFSET_1 + offsetof(struct vhdx_header, sequence_number), 2);
	put(fd, VHDX_HEADER_OFFSET_1 + offsetof(struct vhdx_header, file_write_guid), "0123456789abcdef0123456789abcdef", 32);
	put(fd, VHDX_HEADER_OFFSET_2 + offsetof(struct vhdx_header, file_write_guid), "0123456789abcdef0123456789abcdef", 32);
	seal_headers(fd);
	image_must_close(image_must_open(fd, false));
	close(fd);
}

/* The next header would have a lower number, and the old one would count. */
static void last_sequence(void **state)
{
	int fd = small_image();
	struct error err = { 0 };
	struct disk *disk;

	put64(fd, VHDX_HEADER_OFFSET_2 + offsetof(struct vhdx_header, sequence_number), UINT64_MAX);
	seal_headers(fd);
	assert_int_equal(image_open(&disk, fd, false, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "sequence number 0xffffffffffffffff"));
	image_must_close(image_must_open(fd, true));
	close(fd);
}

struct bad_entry {
	const char *name;
	uint64_t entry;
	int result;
};

static struct bad_entry bad_entries[] = {
	{ "unmapped as of version 0.95", 5, 0 },
	{ "undefined", 1, 0 },
	{ "zero, with a leftover place", (4 << 20) | 2, 0 },
	{ "partially present", (4 << 20) | 7, -EBADMSG },
	{ "no state", 4, -EBADMSG },
	{ "over the headers", 6, -EBADMSG },
	{ "over the log", (1 << 20) | 6, -EBADMSG },
	{ "over the metadata", (2 << 20) | 6, -EBADMSG },
	{ "over the table", (3 << 20) | 6, -EBADMSG },
	{ "past the end", (UINT64_C(77) << 20) | 6, -EBADMSG },
	{ "past everything", UINT64_C(0xfffffffffff00000) | 6, -EBADMSG },
};

static void bat_entry(void **state)
{
	const struct bad_entry *bad = *state;
	uint8_t sector[512], before[512];
	int fd = small_image();
	struct error err = { 0 };
	struct disk *disk;
	char *text = NULL;
	size_t size;
	FILE *report = open_memstream(&text, &size);

	put64(fd, BAT + 8 * 3, bad->entry);
	log_set_stream(report);
	disk = image_must_open(fd, true);
	assert_int_equal(disk_read(disk, 3 * MIB, sector, 512, &err), bad->result);
	assert_int_equal(disk->ops->check(disk, report, &err), bad->result);
	image_must_close(disk);
	assert_int_equal(pread(fd, before, 512, METADATA), 512);
	assert_int_equal(image_open(&disk, fd, false, &err), bad->result);
	if (bad->result == 0) {
		assert_int_equal(disk_write(disk, 3 * MIB, sector, 512, &err), 0);
		image_must_close(disk);
	} else if (!strstr(err.text, "block 3 ")) {
		fail_msg("%s", err.text);
	}
	log_set_stream(NULL);
	fclose(report);
	assert_true(bad->result == 0 || strstr(text, "block 3"));
	assert_int_equal(pread(fd, sector, 512, METADATA), 512);
	assert_memory_equal(sector, before, 512);
	free(text);
	close(fd);
}

static void one_place_for_two(void **state)
{
	int fd = small_image();
	struct disk *disk;
	char *text = NULL;
	size_t size;
	struct error err = { 0 };
	FILE *report = open_memstream(&text, &size);

	assert_int_equal(ftruncate(fd, 5 * MIB), 0);
	put64(fd, BAT, (4 << 20) | 6);
	put64(fd, BAT + 8, (4 << 20) | 6);
	assert_int_equal(image_open(&disk, fd, false, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "block 1 lies at offset 4194304, over another block"));
	disk = image_must_open(fd, true);
	assert_int_equal(disk->ops->check(disk, report, &err), -EBADMSG);
	fclose(report);
	assert_non_null(strstr(text, "block 1: its place at offset 0x400000 belongs to another block too"));
	image_must_close(disk);
	free(text);
	close(fd);
}

/* A file that lost its last blocks: a new block would get the place that an old one still names. */
static void cut_blocks(void **state)
{
	uint8_t *block = malloc(MIB);
	int fd = small_image();
	struct disk *disk = image_must_open(fd, false);
	struct error err = { 0 };
	char *text = NULL;
	size_t size;
	FILE *report = open_memstream(&text, &size);

	for (unsigned i = 0; i < 4; i++) {
		memset(block, 'A' + (int)i, MIB);
		assert_int_equal(disk_write(disk, i * MIB, block, MIB, &err), 0);
	}
	image_must_close(disk);
	for (unsigned cut = 1; cut <= 2; cut++) {
		/* First one sector of the last block, then two blocks. */
		assert_int_equal(ftruncate(fd, cut == 1 ? 8 * MIB - 512 : 6 * MIB), 0);
		assert_int_equal(image_open(&disk, fd, false, &err), -EBADMSG);
		if (!strstr(err.text, cut == 1 ? "block 3 lies at offset 7340032, past the end of the file, which has 8388096" :
						 "block 2 lies at offset 6291456, past the end of the file, which has 6291456"))
			fail_msg("%s", err.text);
	}
	log_set_stream(report);
	disk = image_must_open(fd, true);
	assert_int_equal(disk_read(disk, MIB, block, MIB, &err), 0);
	assert_int_equal(block[0], 'B');
	assert_int_equal(disk_read(disk, 2 * MIB, block, 512, &err), -EBADMSG);
	image_must_close(disk);
	log_set_stream(NULL);
	fclose(report);
	assert_non_null(strstr(text, "block 2 has the impossible state 6 or place 6291456"));
	assert_non_null(strstr(text, "a file of 6291456 bytes"));
	free(text);
	free(block);
	close(fd);
}

/* What lies behind the last block was never used: the next block takes its place, and reads as zeros. */
static void leftovers(void **state)
{
	uint8_t *block = malloc(MIB), *zeros = calloc(1, MIB);
	int fd = small_image();
	struct disk *disk = image_must_open(fd, false);
	struct error err = { 0 };
	uint64_t length;

	memset(block, 'A', MIB);
	assert_int_equal(disk_write(disk, 0, block, MIB, &err), 0);
	image_must_close(disk);
	length = (uint64_t)lseek(fd, 0, SEEK_END);
	for (unsigned i = 0; i < 3; i++)
		put(fd, length + i * MIB, block, MIB - i);
	disk = image_must_open(fd, false);
	assert_int_equal(lseek(fd, 0, SEEK_END), length + 3 * MIB - 2); /* opening changes nothing */
	assert_int_equal(disk_write(disk, 5 * MIB, block, 512, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), length + MIB);
	assert_int_equal(disk_read(disk, 5 * MIB + 512, block, MIB - 512, &err), 0);
	assert_memory_equal(block, zeros, MIB - 512);
	image_must_close(disk);
	disk = image_must_open(fd, false);
	assert_int_equal(disk->ops->check(disk, stderr, &err), 0);
	image_must_close(disk);
	free(block);
	free(zeros);
	close(fd);
}

/* Wherever a file ends: opening says that it was cut, or every byte that can be read is right. */
static void cut_anywhere(void **state)
{
	uint8_t *model = calloc(1, 8 * MIB), *all = malloc(8 * MIB), *read = malloc(MIB);
	int fd = small_image(), copy = memfd_create("copy", MFD_CLOEXEC);
	struct disk *disk = image_must_open(fd, false);
	struct dice dice = { 1 };
	ssize_t size;

	for (unsigned i = 0; i < 3; i++) {
		dice_fill(&dice, model + 2 * i * MIB, MIB);
		assert_int_equal(disk_write(disk, 2 * i * MIB, model + 2 * i * MIB, MIB, NULL), 0);
	}
	image_must_close(disk);
	size = pread(fd, all, 8 * MIB, 0);
	assert_int_equal(size, 7 * MIB);
	log_set_stream(fopen("/dev/null", "w"));
	assert_int_equal(pwrite(copy, all, (size_t)size, 0), size);
	for (uint64_t length = (uint64_t)size; length-- > 0;) {
		struct error err = { 0 };
		uint64_t near = length % 65536;

		if (length > 1024 && near > 1 && near < 65535)
			continue;
		assert_int_equal(ftruncate(copy, (off_t)length), 0);
		for (int read_only = 0; read_only < 2; read_only++) {
			if (image_open(&disk, copy, read_only, &err) != 0) {
				if (!strstr(err.text, length < 8 ? "too few" : "cut short") && !strstr(err.text, "ends before"))
					fail_msg("%ju bytes: %s", (uintmax_t)length, err.text);
				continue;
			}
			assert_true(read_only && length > BAT);
			for (unsigned i = 0; i < 8; i++)
				if (disk_read(disk, i * MIB, read, MIB, &err) == 0)
					assert_memory_equal(read, model + i * MIB, MIB);
				else
					assert_true(4 * MIB + (i / 2 + 1) * MIB > length);
			image_must_close(disk);
		}
		assert_int_equal(lseek(copy, 0, SEEK_END), length);
	}
	log_set_stream(NULL);
	free(model);
	free(all);
	free(read);
	close(copy);
	close(fd);
}

/* A log written when the file was longer. */
static void cut_with_log(void **state)
{
	int fd = small_image();
	struct disk *disk = image_must_open(fd, false);
	int copy = memfd_create("copy", MFD_CLOEXEC);
	struct error err = { 0 };
	uint8_t *all = malloc(5 * MIB);

	assert_int_equal(disk_write(disk, 0, all, 512, &err), 0);
	assert_int_equal(disk_flush(disk, &err), 0);
	assert_int_equal(pread(fd, all, 5 * MIB, 0), 5 * MIB);
	put(copy, 0, all, 5 * MIB);
	image_must_close(disk);
	image_must_close(image_must_open(copy, true));
	assert_int_equal(ftruncate(copy, 5 * MIB - 512), 0);
	for (int read_only = 0; read_only < 2; read_only++) {
		assert_int_equal(image_open(&disk, copy, read_only, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "has been cut short: its log was written when it had 5242880 bytes"));
	}
	free(all);
	close(copy);
	close(fd);
}

/* An entry with one descriptor, for a sector of zeros at `target`. */
static void put_log_entry(int fd, unsigned position, uint64_t sequence, uint64_t target, uint64_t last_offset)
{
	struct {
		struct vhdx_log_entry entry;
		struct vhdx_log_desc descriptor;
		uint8_t rest[VHDX_LOG_SECTOR - sizeof(struct vhdx_log_entry) - sizeof(struct vhdx_log_desc)];
		struct vhdx_log_data data;
	} *e = calloc(1, sizeof(*e));
	uint64_t place = VHDX_UNIT + position * sizeof(*e);

	memcpy(e->entry.signature, VHDX_LOG_ENTRY_SIGNATURE, 4);
	e->entry.entry_length = sizeof(*e);
	e->entry.sequence_number = sequence;
	e->entry.descriptor_count = 1;
	e->entry.log_guid.bytes[0] = 'x';
	e->entry.flushed_file_offset = 4 * MIB;
	e->entry.last_file_offset = last_offset;
	memcpy(e->descriptor.signature, VHDX_LOG_DESC_SIGNATURE, 4);
	e->descriptor.file_offset = target;
	e->descriptor.sequence_number = sequence;
	memcpy(e->data.signature, VHDX_LOG_DATA_SIGNATURE, 4);
	e->data.sequence_low = (uint32_t)sequence;
	put(fd, place, e, sizeof(*e));
	seal(fd, place, sizeof(*e));
	free(e);
}

/* Three entries in one sequence, of which the last would change what it must not. */
static void bad_last_entry(void **state)
{
	static const struct {
		uint64_t target, last_offset;
	} last[] = {
		{ 5 * MIB, 4 * MIB },             /* past the end */
		{ VHDX_HEADER_OFFSET_2, 4 * MIB },
		{ MIB + 65536, 4 * MIB },         /* the log */
		{ BAT + 512, 4 * MIB },           /* unaligned */
		{ UINT64_MAX - 4095, 4 * MIB },
		{ BAT, UINT64_C(1) << 60 },       /* a file as long as that */
	};
	uint8_t *before = malloc(8 * MIB), *after = malloc(8 * MIB);
	struct error err = { 0 };
	struct disk *disk;
	ssize_t size;

	for (size_t i = 0; i < ARRAY_SIZE(last); i++) {
		int fd = small_image();

		put64(fd, BAT + 8 * 4, 0x5a);
		put_log_entry(fd, 0, 7, BAT, 5 * MIB);
		put_log_entry(fd, 1, 8, BAT + 4096, 5 * MIB);
		put_log_entry(fd, 2, 9, last[i].target, last[i].last_offset);
		header_put(fd, offsetof(struct vhdx_header, log_guid), "x", 1);
		size = pread(fd, before, 8 * MIB, 0);
		for (int read_only = 0; read_only < 2; read_only++) {
			assert_int_equal(image_open(&disk, fd, read_only, &err), -EBADMSG);
			if (!strstr(err.text, "its log "))
				fail_msg("%s", err.text);
		}
		assert_int_equal(pread(fd, after, 8 * MIB, 0), size);
		assert_memory_equal(before, after, (size_t)size);
		/* With a sound last entry all of it is replayed, and the file grows as the log asks. */
		put_log_entry(fd, 2, 9, BAT + 8192, 4 * MIB);
		image_must_close(image_must_open(fd, false));
		assert_int_equal(pread(fd, after, 8 * MIB, 0), 5 * MIB);
		assert_int_equal(after[BAT + 8 * 4], 0);
		close(fd);
	}
	free(before);
	free(after);
}

static void in_new_directory(char *path)
{
	strcpy(path, "/tmp/disk-XXXXXX");
	assert_non_null(mkdtemp(path));
	assert_int_equal(chdir(path), 0);
}

static void remove_directory(const char *path)
{
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(rmdir(path), 0);
}

static void locked_file(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB };
	const struct disk_open_options reading = { .read_only = true };
	struct disk *disk, *second;
	struct error err = { 0 };
	char directory[32], pid[32];

	in_new_directory(directory);
	snprintf(pid, sizeof(pid), "process %d (", getpid());
	assert_int_equal(disk_create("a.vhdx", &create, &err), 0);
	assert_int_equal(disk_open(&disk, "a.vhdx", NULL, &err), 0);
	assert_int_equal(disk_open(&second, "a.vhdx", NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, pid));
	assert_int_equal(disk_open(&second, "a.vhdx", &reading, &err), -EBUSY);
	assert_non_null(strstr(err.text, pid));
	assert_int_equal(disk_check("a.vhdx", stderr, &err), -EBUSY);
	assert_int_equal(disk_close(disk, &err), 0);

	assert_int_equal(disk_open(&disk, "a.vhdx", &reading, &err), 0);
	assert_int_equal(disk_open(&second, "a.vhdx", &reading, &err), 0);
	assert_int_equal(disk_close(second, &err), 0);
	assert_int_equal(disk_open(&second, "a.vhdx", NULL, &err), -EBUSY);
	assert_int_equal(disk_close(disk, &err), 0);
	assert_int_equal(disk_check("a.vhdx", stderr, &err), 0);
	assert_int_equal(unlink("a.vhdx"), 0);
	remove_directory(directory);
}

/* Opens the image, says so by a byte, and holds it until there is something to read. */
static void hold(const char *path, bool read_only, int tell, int wait_for)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct disk *disk;
	char byte = 0;

	if (disk_open(&disk, path, &options, NULL) < 0 || write(tell, &byte, 1) != 1 || read(wait_for, &byte, 1) < 0)
		_exit(1);
	_exit(0);
}

static void held_by_another(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB };
	struct error err = { 0 };
	struct disk *disk;
	char directory[32], sentence[100], byte;

	in_new_directory(directory);
	assert_int_equal(disk_create("a.vhdx", &create, &err), 0);
	for (int read_only = 0; read_only < 2; read_only++) {
		int up[2], down[2], status;
		pid_t pid;

		assert_true(pipe(up) == 0 && pipe(down) == 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			close(down[1]);
			hold("a.vhdx", read_only, up[1], down[0]);
		}
		close(up[1]);
		close(down[0]);
		assert_int_equal(read(up[0], &byte, 1), 1);
		snprintf(sentence, sizeof(sentence), "a.vhdx: process %d (test_disk_bad) has it open; end that process "
		    "first", pid);
		assert_int_equal(disk_open(&disk, "a.vhdx", NULL, &err), -EBUSY);
		assert_string_equal(err.text, sentence);
		close(down[1]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		close(up[0]);
		assert_int_equal(disk_open(&disk, "a.vhdx", NULL, &err), 0);
		assert_int_equal(disk_close(disk, &err), 0);
	}
	assert_int_equal(unlink("a.vhdx"), 0);
	remove_directory(directory);
}

static void paths(void **state)
{
	struct error err = { 0 };
	struct disk *disk;
	char directory[32];
	int fd;

	in_new_directory(directory);
	assert_int_equal(disk_open(&disk, "missing.vhdx", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "missing.vhdx: cannot be opened"));
	assert_int_equal(disk_open(&disk, "/", &(struct disk_open_options){ .read_only = true }, &err), -EISDIR);
	assert_int_equal(disk_open(&disk, "/dev/null", NULL, &err), -EINVAL);
	fd = open("b", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	put(fd, 0, "QFI\xfb and more", 12);
	assert_int_equal(disk_open(&disk, "b", NULL, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "QCOW2"));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(disk_open(&disk, "b", NULL, &err), -EINVAL);
	close(fd);
	assert_int_equal(unlink("b"), 0);
	remove_directory(directory);
}

static void creation(void **state)
{
	struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB, .fixed = true };
	struct disk_info info;
	struct error err = { 0 };
	struct disk *disk;
	char directory[32];

	in_new_directory(directory);
	assert_int_equal(disk_create("c", &create, &err), 0);
	assert_int_equal(disk_create("c", &create, &err), -EEXIST);
	create.replace = true;
	create.size = 16 * MIB;
	create.logical_sector_size = 4096;
	assert_int_equal(disk_create("c", &create, &err), 0);
	assert_int_equal(disk_open(&disk, "c", NULL, &err), 0);
	disk_get_info(disk, &info);
	assert_int_equal(info.size, 16 * MIB);
	assert_int_equal(info.block_size, 32 * MIB);
	assert_int_equal(info.logical_sector_size, 4096);
	assert_int_equal(info.physical_sector_size, 4096);
	assert_false(info.dynamic);
	assert_true(info.file_size >= 16 * MIB);
	assert_int_equal(disk_close(disk, &err), 0);
	assert_int_equal(unlink("c"), 0);

	create.size = 512;
	assert_int_equal(disk_create("d", &create, &err), -EINVAL);
	create.size = (UINT64_C(64) << 40) + 4096;
	assert_int_equal(disk_create("d", &create, &err), -EINVAL);
	create.size = 4096;
	create.block_size = 3 * MIB;
	assert_int_equal(disk_create("d", &create, &err), -EINVAL);
	create.block_size = MIB;
	create.logical_sector_size = 1024;
	assert_int_equal(disk_create("d", &create, &err), -EINVAL);
	create.logical_sector_size = 512;
	assert_int_equal(disk_create("nowhere/d", &create, &err), -ENOENT);
	/* Too much for any host: nothing may be left behind, which the removal below shows. */
	create.size = UINT64_C(64) << 40;
	assert_true(disk_create("d", &create, &err) < 0);
	remove_directory(directory);
}

#define DAMAGES ARRAY_SIZE(damages)
#define ENTRIES ARRAY_SIZE(bad_entries)

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(tolerated_damage), cmocka_unit_test(one_place_for_two), cmocka_unit_test(cut_with_log),
		cmocka_unit_test(cut_blocks), cmocka_unit_test(cut_anywhere), cmocka_unit_test(last_sequence), cmocka_unit_test(leftovers), cmocka_unit_test(bad_last_entry),
		cmocka_unit_test(locked_file), cmocka_unit_test(held_by_another),
		cmocka_unit_test(paths), cmocka_unit_test(creation),
	};
	struct CMUnitTest damage_tests[ARRAY_SIZE(damages)], entry_tests[ARRAY_SIZE(bad_entries)];
	int failed;

	for (size_t i = 0; i < DAMAGES; i++)
		damage_tests[i] = (struct CMUnitTest){ damages[i].name, damaged_file, NULL, NULL, &damages[i] };
	for (size_t i = 0; i < ENTRIES; i++)
		entry_tests[i] = (struct CMUnitTest){ bad_entries[i].name, bat_entry, NULL, NULL, &bad_entries[i] };
	failed = cmocka_run_group_tests(plain, NULL, NULL);
	failed += cmocka_run_group_tests(damage_tests, NULL, NULL);
	return failed + cmocka_run_group_tests(entry_tests, NULL, NULL);
}
