// SPDX-License-Identifier: GPL-2.0-or-later
/* Logs written by hand, as other programs may leave them: long runs, wrapped, with zeros, hostile. */
#include "tests/unit/test_disk_images.h"

#include <errno.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define LOG       (1 * (uint64_t)MIB)
#define BAT       (3 * (uint64_t)MIB)
#define FILE_SIZE (7 * MIB)
#define FAR_BLOCK 600u /* its entry is in the table's second page */

static const struct guid log_guid = { "the log's guid.." };

/* A change: `data` NULL zeroes `length` bytes. */
struct change {
	uint64_t offset, length;
	const uint8_t *data;
};

static void put(int fd, uint64_t offset, const void *data, size_t size)
{
	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
}

/* Writes an entry at `position` of the log, around its end where need be; returns where it ends. */
static uint32_t add_entry(int fd, uint32_t position, uint32_t tail, uint64_t sequence, const struct change *changes,
    uint32_t count, uint64_t last_file_offset)
{
	uint8_t bytes[8 * VHDX_LOG_SECTOR] = { 0 };
	struct vhdx_log_entry *entry = (struct vhdx_log_entry *)bytes;
	struct vhdx_log_desc *desc = (struct vhdx_log_desc *)(entry + 1);
	uint32_t size = VHDX_LOG_SECTOR;

	memcpy(entry->signature, VHDX_LOG_ENTRY_SIGNATURE, 4);
	entry->tail = tail;
	entry->sequence_number = sequence;
	entry->descriptor_count = count;
	entry->log_guid = log_guid;
	entry->flushed_file_offset = FILE_SIZE;
	entry->last_file_offset = last_file_offset;
	for (uint32_t i = 0; i < count; i++, desc++) {
		struct vhdx_log_data *data = (struct vhdx_log_data *)(bytes + size);
		struct vhdx_log_zero zero = { .zero_length = changes[i].length };

		memcpy(zero.signature, VHDX_LOG_ZERO_SIGNATURE, 4);
		memcpy(desc, &zero, sizeof(zero));
		desc->file_offset = changes[i].offset;
		desc->sequence_number = sequence;
		if (!changes[i].data)
			continue;
		memcpy(desc->signature, VHDX_LOG_DESC_SIGNATURE, 4);
		memcpy(desc->leading_bytes, changes[i].data, 8);
		memcpy(desc->trailing_bytes, changes[i].data + VHDX_LOG_SECTOR - 4, 4);
		memcpy(data->signature, VHDX_LOG_DATA_SIGNATURE, 4);
		memcpy(data->data, changes[i].data + 8, sizeof(data->data));
		data->sequence_high = (uint32_t)(sequence >> 32);
		data->sequence_low = (uint32_t)sequence;
		size += VHDX_LOG_SECTOR;
	}
	entry->entry_length = size;
	entry->checksum = crc32c(0, bytes, size);
	for (uint32_t at = 0; at < size; at += VHDX_LOG_SECTOR)
		put(fd, LOG + (position + at) % MIB, bytes + at, VHDX_LOG_SECTOR);
	return (position + size) % MIB;
}

/* A disk with the blocks 0 and FAR_BLOCK, whose headers name a log that is still empty. */
static int image_with_log(void)
{
	static const uint64_t slots[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = UINT64_C(1) << 30,
		.block_size = MIB };
	const uint64_t near = 4 * MIB | VHDX_BLOCK_FULLY_PRESENT, far = 5 * MIB | VHDX_BLOCK_FULLY_PRESENT;
	int fd = image_create(&create);
	uint8_t *payload = malloc(MIB);
	struct vhdx_header header;

	for (unsigned block = 0; block < 3; block++) {
		memset(payload, 'A' + (int)block, MIB);
		put(fd, (4 + block) * (uint64_t)MIB, payload, MIB);
	}
	free(payload);
	put(fd, BAT, &near, 8);
	put(fd, BAT + 8 * FAR_BLOCK, &far, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
		assert_int_equal(pread(fd, &header, sizeof(header), (off_t)slots[i]), sizeof(header));
		header.log_guid = log_guid;
		header.checksum = 0;
		header.checksum = crc32c(0, &header, sizeof(header));
		put(fd, slots[i], &header, sizeof(header));
	}
	return fd;
}

static uint8_t byte_at(struct disk *disk, uint64_t offset)
{
	struct error err = { 0 };
	uint8_t byte;

	assert_int_equal(disk_read(disk, offset, &byte, 1, &err), 0);
	return byte;
}

static void without_entries(void **state)
{
	int fd = image_with_log();

	for (int read_only = 1; read_only >= 0; read_only--) {
		struct disk *disk = image_must_open(fd, read_only);

		assert_int_equal(byte_at(disk, 0), 'A');
		assert_int_equal(byte_at(disk, FAR_BLOCK * (uint64_t)MIB), 'B');
		image_must_close(disk);
	}
	close(fd);
}

static void check_run(struct disk *disk, const uint8_t *pattern)
{
	uint8_t *bytes = malloc(5 * VHDX_LOG_SECTOR);
	struct error err = { 0 };

	/* Block 0 is the third one now, with a sector of zeros and one of the pattern in it. */
	assert_int_equal(disk_read(disk, 100, bytes, 5 * VHDX_LOG_SECTOR, &err), 0);
	for (unsigned i = 0; i < 5 * VHDX_LOG_SECTOR; i++) {
		unsigned at = 100 + i, sector = at / VHDX_LOG_SECTOR;

		assert_int_equal(bytes[i], sector == 2 ? 0 : sector == 3 ? pattern[at % VHDX_LOG_SECTOR] : 'C');
	}
	assert_int_equal(byte_at(disk, MIB - 1), 'C');
	assert_int_equal(byte_at(disk, FAR_BLOCK * (uint64_t)MIB), 0);
	free(bytes);
}

static void long_run(void **state)
{
	uint64_t page[BAT_PAGE_ENTRIES] = { 6 * MIB | VHDX_BLOCK_FULLY_PRESENT };
	uint8_t pattern[VHDX_LOG_SECTOR], other[VHDX_LOG_SECTOR];
	const uint32_t tail = MIB - VHDX_LOG_SECTOR;
	struct dice dice = { 3 };
	int fd = image_with_log();
	struct vhdx_header header;
	struct disk *disk;
	uint32_t end;

	dice_fill(&dice, pattern, sizeof(pattern));
	dice_fill(&dice, other, sizeof(other));
	/* Across the end of the log; what the second entry says of a sector counts. */
	end = add_entry(fd, tail, tail, 7,
	    (struct change[]){ { BAT, 0, (uint8_t *)page }, { 6 * MIB + 3 * VHDX_LOG_SECTOR, 0, other } }, 2, FILE_SIZE);
	end = add_entry(fd, end, tail, 8,
	    (struct change[]){ { BAT + BAT_PAGE_SIZE, BAT_PAGE_SIZE, NULL },
		{ 6 * MIB + 2 * VHDX_LOG_SECTOR, VHDX_LOG_SECTOR, NULL },
		{ 6 * MIB + 3 * VHDX_LOG_SECTOR, 0, pattern } }, 3, FILE_SIZE + 3 * MIB);
	/* Not of the run: a number is missing; older than the run; torn. */
	end = add_entry(fd, end, tail, 10, (struct change[]){ { BAT, BAT_PAGE_SIZE, NULL } }, 1, FILE_SIZE);
	add_entry(fd, 40 * VHDX_LOG_SECTOR, 40 * VHDX_LOG_SECTOR, 5, (struct change[]){ { BAT, BAT_PAGE_SIZE, NULL } }, 1,
	    FILE_SIZE);
	add_entry(fd, 50 * VHDX_LOG_SECTOR, 50 * VHDX_LOG_SECTOR, 11, (struct change[]){ { BAT, BAT_PAGE_SIZE, NULL } }, 1,
	    FILE_SIZE);
	put(fd, LOG + 50 * VHDX_LOG_SECTOR + 4000, "torn", 4);

	disk = image_must_open(fd, true);
	check_run(disk, pattern);
	image_must_close(disk);
	/* Reading has changed nothing. */
	assert_int_equal(lseek(fd, 0, SEEK_END), FILE_SIZE);
	assert_int_equal(pread(fd, &header, sizeof(header), VHDX_HEADER_OFFSET_1), sizeof(header));
	assert_true(guid_equal(&header.log_guid, &log_guid));
	for (unsigned i = 0; i < 2; i++) {
		disk = image_must_open(fd, false);
		check_run(disk, pattern);
		image_must_close(disk);
		assert_int_equal(lseek(fd, 0, SEEK_END), FILE_SIZE + 3 * MIB);
		assert_int_equal(pread(fd, &header, sizeof(header), VHDX_HEADER_OFFSET_1), sizeof(header));
		assert_true(guid_is_zero(&header.log_guid));
	}
	close(fd);
}

struct hostile {
	const char *name;
	uint64_t offset, length, last_file_offset;
	const char *says;
};

static struct hostile hostiles[] = {
	{ "over a header", VHDX_HEADER_OFFSET_2, 4096, FILE_SIZE, "where it must not, at 0x20000" },
	{ "over itself", 0, 3 * MIB, FILE_SIZE, "where it must not, at 0" },
	{ "over its end", 2 * MIB - 4096, 8192, FILE_SIZE, "where it must not, at 0x1ff000" },
	{ "unaligned place", 3 * MIB + 512, 4096, FILE_SIZE, "where it must not, at 0x300200" },
	{ "unaligned length", 3 * MIB, 512, FILE_SIZE, "where it must not, at 0x300000" },
	{ "past the end", FILE_SIZE - 4096, 8192, FILE_SIZE, "where it must not, at 0x6ff000" },
	{ "past everything", UINT64_MAX - 4095, 8192, FILE_SIZE, "where it must not, at 0xfffffffffffff000" },
	{ "huge file", 3 * MIB, 4096, UINT64_C(1) << 60, "impossible file length 0x1000000000000000" },
};

static void hostile_entry(void **state)
{
	const struct hostile *hostile = *state;
	/* The first change is a good one; it must not be made when the second is refused. */
	const struct change changes[] = { { BAT, BAT_PAGE_SIZE, NULL }, { hostile->offset, hostile->length, NULL } };
	uint64_t first;
	int fd = image_with_log();
	struct error err = { 0 };
	struct disk *disk;

	add_entry(fd, 0, 0, 1, changes, 2, hostile->last_file_offset);
	for (int read_only = 1; read_only >= 0; read_only--) {
		assert_int_equal(image_open(&disk, fd, read_only, &err), -EBADMSG);
		if (!strstr(err.text, hostile->says))
			fail_msg("%s", err.text);
	}
	assert_int_equal(pread(fd, &first, 8, BAT), 8);
	assert_int_equal(first, 4 * MIB | VHDX_BLOCK_FULLY_PRESENT);
	assert_int_equal(lseek(fd, 0, SEEK_END), FILE_SIZE);
	close(fd);
}

int main(void)
{
	struct CMUnitTest hostile_tests[ARRAY_SIZE(hostiles)];
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_entries),
		cmocka_unit_test(long_run),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(hostiles); i++)
		hostile_tests[i] = (struct CMUnitTest){ hostiles[i].name, hostile_entry, NULL, NULL, &hostiles[i] };
	return failed + cmocka_run_group_tests(hostile_tests, NULL, NULL);
}
