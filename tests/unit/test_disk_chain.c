// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Differencing VHDX: chains of up to eight disks against a plain array, by random operations; what is where;
 * what is refused, and what it says. Images are files in a directory of their own.
 */
#include "tests/unit/test_disk_images.h"

#include <stdio.h>
#include <sys/stat.h>

#include "disk/vhdx.h"

#define DISK_SIZE (6 * MIB + 512)
#define DEPTH     8

static char directory[64];

static const char *name_of(unsigned index, char name[96])
{
	snprintf(name, 96, "%s/%u.vhdx", directory, index);
	return name;
}

static struct disk *must_open(const char *path, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void must_create(const char *path, const struct disk_create_options *options)
{
	struct error err = { 0 };

	if (disk_create(path, options, &err) != 0)
		fail_msg("%s", err.text);
}

static void create_base(const char *path, uint64_t size, uint32_t sector)
{
	must_create(path, &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .size = size,
			      .block_size = MIB, .logical_sector_size = sector });
}

static void create_child(const char *path, const char *parent, uint32_t block_size)
{
	must_create(path, &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = parent,
			      .block_size = block_size });
}

static void must_check(const char *path)
{
	struct error err = { 0 };

	if (disk_check(path, stderr, &err) != 0)
		fail_msg("%s", err.text);
}

static void must_write(struct disk *disk, uint64_t offset, const void *data, size_t size)
{
	struct error err = { 0 };

	if (disk_write(disk, offset, data, size, &err) != 0)
		fail_msg("%s", err.text);
}

static void fill(struct disk *disk, uint64_t offset, size_t size, uint8_t byte)
{
	uint8_t *data = malloc(size);

	memset(data, byte, size);
	must_write(disk, offset, data, size);
	free(data);
}

static void expect_bytes(struct disk *disk, uint64_t offset, size_t size, uint8_t byte)
{
	uint8_t *data = malloc(size);
	struct error err = { 0 };

	if (disk_read(disk, offset, data, size, &err) != 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < size; i++)
		if (data[i] != byte)
			fail_msg("byte %zu is %#x, not %#x", (size_t)offset + i, data[i], byte);
	free(data);
}

static void completed(struct disk_request *request, int result)
{
	*(int *)request->context = result;
}

/* By a queue, so that discards are too. */
static int perform(struct disk *disk, struct disk_request request)
{
	struct disk_queue *queue;
	struct error err = { 0 };
	int result = 1;

	request.complete = completed;
	request.context = &result;
	assert_int_equal(disk_queue_create(&queue, 4, &err), 0);
	disk_queue_submit(queue, disk, &request);
	disk_queue_kick(queue);
	while (result == 1)
		disk_queue_process(queue);
	disk_queue_destroy(queue);
	return result;
}

static void discard(struct disk *disk, uint64_t offset, uint64_t length)
{
	assert_int_equal(
	    perform(disk, (struct disk_request){ .op = DISK_OP_DISCARD, .offset = offset, .length = length }), 0);
}

static unsigned block_state(struct disk *disk, uint64_t block)
{
	struct vhdx *v = disk->format;
	struct bat_page *page;
	uint64_t *entry;

	assert_int_equal(bat_find_entry(v, bat_entry_index(v, block), &page, &entry), 0);
	return *entry & VHDX_BAT_STATE_MASK;
}

/* --- the model --- */

struct model {
	struct dice dice;
	uint8_t *bytes, *read;
	uint64_t size;
	uint32_t sector, block;
	unsigned depth;
	struct disk *disk;
};

static void check_all(struct model *m)
{
	struct error err = { 0 };

	if (disk_read(m->disk, 0, m->read, m->size, &err) != 0)
		fail_msg("%s", err.text);
	for (uint64_t i = 0; i < m->size; i += m->sector)
		if (memcmp(m->read + i, m->bytes + i, m->sector) != 0)
			fail_msg("sector at %ju differs at depth %u", (uintmax_t)i, m->depth);
}

static void reopen(struct model *m, bool deeper)
{
	char name[96], parent[96];

	image_must_close(m->disk);
	must_check(name_of(m->depth, name));
	if (deeper && m->depth + 1 < DEPTH) {
		name_of(m->depth++, parent);
		/* Blocks of other sizes than the parent's. */
		create_child(name_of(m->depth, name), parent, m->block << dice_roll(&m->dice, 3));
	}
	m->disk = must_open(name, dice_roll(&m->dice, 4) == 0);
	check_all(m);
	if (m->disk->info.read_only) {
		image_must_close(m->disk);
		m->disk = must_open(name, false);
	}
}

/* The uppermost disk, or one below it, whose child then continues its parent. */
static void merge(struct model *m)
{
	unsigned which = m->depth > 1 && dice_roll(&m->dice, 2) ? m->depth - 1 : m->depth;
	char name[96], parent[96], top[96];
	struct error err = { 0 };

	image_must_close(m->disk);
	if (disk_merge(name_of(which, name), NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(access(name, F_OK), -1);
	name_of(which - 1, parent);
	if (which < m->depth) {
		if (disk_reparent(name_of(m->depth, top), parent, false, &err) != 0)
			fail_msg("%s", err.text);
		assert_int_equal(rename(top, name), 0);
	}
	m->depth--;
	must_check(name_of(m->depth, name));
	m->disk = must_open(name, false);
	check_all(m);
}

static void change(struct model *m)
{
	uint64_t sectors = m->size / m->sector;
	uint64_t first = dice_roll(&m->dice, sectors), count = 1 + dice_roll(&m->dice, 64), offset, length;
	unsigned kind = (unsigned)dice_roll(&m->dice, 8);

	if (kind == 0) /* whole blocks and more */
		count = 3 * (uint64_t)m->block / 2 / m->sector;
	if (dice_roll(&m->dice, 8) == 0)
		first = first * m->sector / m->block * m->block / m->sector;
	if (kind == 3 && m->block > 16 * MIB) /* over the border of two pages of a bitmap */
		first = first / 32768 * 32768 + 32768 - count / 2;
	first = min_u64(first, sectors - 1);
	count = min_u64(count, sectors - first);
	offset = first * m->sector;
	length = count * m->sector;
	if (kind <= 1) {
		memset(m->bytes + offset, 0, length);
		discard(m->disk, offset, length);
		return;
	}
	if (kind == 2) { /* of any alignment */
		offset += dice_roll(&m->dice, m->sector);
		length = 1 + dice_roll(&m->dice, min_u64(3000, m->size - offset - 1) + 1);
		length = min_u64(length, m->size - offset);
	}
	for (uint64_t i = 0; i < length; i++)
		m->bytes[offset + i] = (uint8_t)dice_roll(&m->dice, 256);
	must_write(m->disk, offset, m->bytes + offset, length);
}

static void run_model(uint64_t seed, uint64_t size, uint32_t sector, uint32_t block, unsigned operations)
{
	struct model m = { .dice = { seed }, .size = size, .sector = sector, .block = block };
	struct error err = { 0 };
	char name[96];

	m.bytes = calloc(1, size);
	m.read = malloc(size);
	create_base(name_of(0, name), size, sector);
	m.disk = must_open(name, false);
	for (unsigned i = 1; i <= operations; i++) {
		change(&m);
		if (dice_roll(&m.dice, 16) == 0)
			assert_int_equal(disk_flush(m.disk, &err), 0);
		if (i % (operations / (2 * DEPTH)) == 0)
			reopen(&m, i / (operations / (2 * DEPTH)) % 2 == 0);
	}
	check_all(&m);
	assert_int_equal(m.depth, DEPTH - 1);
	while (m.depth > 0) {
		merge(&m);
		for (unsigned i = 0; i < 8; i++)
			change(&m);
	}
	image_must_close(m.disk);
	for (unsigned i = 0; i <= m.depth; i++)
		assert_int_equal(unlink(name_of(i, name)), 0);
	free(m.bytes);
	free(m.read);
}

static unsigned rounds = 3;

static void model_512(void **state)
{
	for (unsigned i = 0; i < rounds; i++)
		run_model(i, DISK_SIZE, 512, MIB, 480);
}

static void model_4096(void **state)
{
	for (unsigned i = 0; i < rounds; i++)
		run_model(100 + i, 6 * MIB + 4096, 4096, MIB, 480);
}

/* Blocks whose bits fill several pages of the bitmap. */
static void model_large_blocks(void **state)
{
	run_model(200, 100 * MIB + 512, 512, 32 * MIB, 96);
}

/* --- what is where --- */

static void a_write_leaves_the_rest_to_the_parent(void **state)
{
	char base[96], child[96];
	struct disk *disk;

	create_base(name_of(0, base), 4 * MIB, 512);
	disk = must_open(base, false);
	fill(disk, 0, 4 * MIB, 0x11);
	image_must_close(disk);
	create_child(name_of(1, child), base, MIB);
	disk = must_open(child, false);
	assert_int_equal(block_state(disk, 0), VHDX_BLOCK_NOT_PRESENT);
	fill(disk, 1024, 512, 0x22);
	assert_int_equal(block_state(disk, 0), VHDX_BLOCK_PARTIALLY_PRESENT);
	fill(disk, MIB, MIB, 0x33);
	assert_int_equal(block_state(disk, 1), VHDX_BLOCK_FULLY_PRESENT);
	discard(disk, 2 * MIB, MIB);
	assert_int_equal(block_state(disk, 2), VHDX_BLOCK_ZERO);
	discard(disk, 3 * MIB + 4096, 4096);
	assert_int_equal(block_state(disk, 3), VHDX_BLOCK_PARTIALLY_PRESENT);
	image_must_close(disk);

	disk = must_open(child, true);
	expect_bytes(disk, 0, 1024, 0x11);
	expect_bytes(disk, 1024, 512, 0x22);
	expect_bytes(disk, 1536, MIB - 1536, 0x11);
	expect_bytes(disk, MIB, MIB, 0x33);
	expect_bytes(disk, 2 * MIB, MIB, 0);
	expect_bytes(disk, 3 * MIB + 4096, 4096, 0);
	expect_bytes(disk, 3 * MIB + 8192, MIB - 8192, 0x11);
	image_must_close(disk);
	disk = must_open(child, false);
	fill(disk, 2 * MIB + 512, 512, 0x44);
	assert_int_equal(block_state(disk, 2), VHDX_BLOCK_FULLY_PRESENT);
	expect_bytes(disk, 2 * MIB, 512, 0);
	image_must_close(disk);
	must_check(child);
	unlink(base);
	unlink(child);
}

static void several_chunks(void **state)
{
	static const uint64_t places[] = { 0, (UINT64_C(4) << 30) - 512, (UINT64_C(8) << 30) - MIB - 512,
		(UINT64_C(9) << 30) - 1024 };
	char base[96], child[96];
	struct disk *disk;

	create_base(name_of(0, base), UINT64_C(9) << 30, 512);
	disk = must_open(base, false);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		fill(disk, places[i], 1024, 0x11);
	image_must_close(disk);
	create_child(name_of(1, child), base, 0);
	disk = must_open(child, false);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		fill(disk, places[i] + 512, 512, 0x22);
	image_must_close(disk);
	must_check(child);
	disk = must_open(child, true);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		expect_bytes(disk, places[i], 512, 0x11);
		expect_bytes(disk, places[i] + 512, 512, 0x22);
	}
	expect_bytes(disk, UINT64_C(4) << 30 | 512, MIB, 0);
	expect_bytes(disk, (UINT64_C(9) << 30) - MIB - 1024, MIB, 0);
	image_must_close(disk);
	assert_int_equal(disk_merge(child, NULL, NULL), 0);
	disk = must_open(base, true);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		expect_bytes(disk, places[i], 512, 0x11);
		expect_bytes(disk, places[i] + 512, 512, 0x22);
	}
	image_must_close(disk);
	unlink(base);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_leaves_the_rest_to_the_parent),
		cmocka_unit_test(model_512),
		cmocka_unit_test(model_4096),
		cmocka_unit_test(model_large_blocks),
		cmocka_unit_test(several_chunks),
	};
	int r;

	/* --count N: more rounds, by hand */
	if (argc == 3 && !strcmp(argv[1], "--count"))
		rounds = (unsigned)atoi(argv[2]);
	image_directory(directory, sizeof(directory));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
