// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compacting: the contents stay, the file is as short as it can be, disks that continue it still do; stopped
 * at every step; on a host without room; places that others have kept; and QEMU as a peer.
 */
#include "tests/unit/test_disk_images.h"

#include <errno.h>

#include "disk/vhdx.h"

#define BLOCKS    20
#define DISK_SIZE (BLOCKS * MIB)
#define STRUCTURE (4 * MIB)

static char directory[64], base[96], top[96];

static void must(int r, const struct error *err)
{
	if (r != 0)
		fail_msg("%s", err->text);
}

static struct disk *must_open(const char *path)
{
	struct error err = { 0 };
	struct disk *disk;

	must(disk_open(&disk, path, NULL, &err), &err);
	return disk;
}

static void must_write(struct disk *disk, uint64_t offset, const void *data, size_t size)
{
	struct error err = { 0 };

	must(disk_write(disk, offset, data, size, &err), &err);
}

static void must_be(struct disk *disk, const uint8_t *model)
{
	uint8_t *all = malloc(DISK_SIZE);
	struct error err = { 0 };

	must(disk_read(disk, 0, all, DISK_SIZE, &err), &err);
	for (uint64_t at = 0; at < DISK_SIZE; at += 512)
		if (memcmp(all + at, model + at, 512) != 0)
			fail_msg("other contents at %ju", (uintmax_t)at);
	must(disk->ops->check(disk, stderr, &err), &err);
	free(all);
}

static void discard(struct disk *disk, uint64_t offset, uint64_t length)
{
	struct disk_request request = { .op = DISK_OP_DISCARD, .offset = offset, .length = length };
	struct error err = { 0 };

	must(disk_perform(disk, &request, &err), &err);
}

/* Blocks in a random order, some of them zeros, some zeros and holes, some given up. */
static void fill(struct disk *disk, struct dice *dice, uint8_t *model)
{
	for (unsigned i = 0; i < 2 * BLOCKS; i++) {
		uint64_t block = dice_roll(dice, BLOCKS), at = block * MIB + 4 * KIB * dice_roll(dice, 200);

		switch (dice_roll(dice, 4)) {
		case 0:
			memset(model + block * MIB, 0, MIB);
			must_write(disk, block * MIB, model + block * MIB, MIB);
			break;
		case 1:
			memset(model + block * MIB, 0, MIB);
			discard(disk, block * MIB, MIB);
			break;
		case 2:
			memset(model + block * MIB, 0, MIB);
			discard(disk, block * MIB, MIB / 2);
			discard(disk, block * MIB + MIB / 2, MIB / 2);
			break;
		default:
			dice_fill(dice, model + at, 20 * KIB);
			must_write(disk, at, model + at, 20 * KIB);
		}
	}
}

static uint64_t blocks_with_data(const uint8_t *model)
{
	uint64_t n = 0;

	for (const uint8_t *block = model; block < model + DISK_SIZE; block += MIB)
		n += block[0] != 0 || memcmp(block, block + 1, MIB - 1) != 0;
	return n;
}

static uint64_t length_of(const char *path)
{
	struct file file = { .fd = open(path, O_RDONLY), .direct_fd = -1 };
	uint64_t size;

	assert_int_equal(file_size(&file, &size), 0);
	close(file.fd);
	return size;
}

static void create(void)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	const struct disk_create_options over = { .format = DISK_FORMAT_VHDX, .parent = base, .block_size = MIB };
	struct error err = { 0 };

	must(disk_create(base, &options, &err), &err);
	must(disk_create(top, &over, &err), &err);
}

static void create_base(void)
{
	create();
	unlink(top);
}

static void leave(void)
{
	unlink(base);
	unlink(top);
}

static void as_short_as_can_be(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };

	create_base();
	for (unsigned seed = 1; seed < 12; seed++) {
		struct dice dice = { seed };
		struct disk *disk = must_open(base);

		fill(disk, &dice, model);
		must(disk_compact(disk, false, NULL, &err), &err);
		must_be(disk, model);
		fill(disk, &dice, model);
		must(disk_compact(disk, true, NULL, &err), &err);
		must_be(disk, model);
		assert_int_equal(length_of(base), STRUCTURE + blocks_with_data(model) * MIB);
		fill(disk, &dice, model);
		must_be(disk, model);
		image_must_close(disk);
		disk = must_open(base);
		must_be(disk, model);
		must(disk_compact(disk, true, NULL, &err), &err);
		image_must_close(disk);
		disk = must_open(base);
		must_be(disk, model);
		image_must_close(disk);
		assert_int_equal(length_of(base), STRUCTURE + blocks_with_data(model) * MIB);
	}
	leave();
	free(model);
}

/* Blocks larger than the unit: gaps of all sizes, between blocks and bitmaps. */
static void large_blocks(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE,
		.block_size = 4 * MIB };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };

	must(disk_create(base, &options, &err), &err);
	for (unsigned seed = 1; seed < 6; seed++) {
		struct dice dice = { seed };
		struct disk *disk = must_open(base);

		fill(disk, &dice, model);
		discard(disk, 0, 8 * MIB);
		memset(model, 0, 8 * MIB);
		must(disk_compact(disk, true, NULL, &err), &err);
		must_be(disk, model);
		image_must_close(disk);
		assert_in_range(length_of(base), STRUCTURE, STRUCTURE + 12 * MIB);
	}
	leave();
	free(model);
}

/* The parent's contents are what they were, so the child knows it. */
static void chain(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct dice dice = { 77 };
	struct disk *disk;

	create_base();
	disk = must_open(base);
	fill(disk, &dice, model);
	fill(disk, &dice, model);
	image_must_close(disk);
	unlink(top);
	must(disk_create(top, &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = base,
		.block_size = MIB }, &err), &err);
	for (unsigned round = 0; round < 8; round++) {
		disk = must_open(top);
		must_be(disk, model);
		fill(disk, &dice, model);
		if (round % 2)
			must(disk_compact(disk, round % 4 == 1, NULL, &err), &err);
		must_be(disk, model);
		fill(disk, &dice, model);
		image_must_close(disk);
		disk = must_open(base);
		must(disk_compact(disk, true, NULL, &err), &err);
		image_must_close(disk);
	}
	/* A bitmap that lies behind everything moves, too. */
	disk = must_open(top);
	discard(disk, 0, DISK_SIZE - MIB);
	memset(model, 0, DISK_SIZE - MIB);
	dice_fill(&dice, model + DISK_SIZE - MIB, 512);
	must_write(disk, DISK_SIZE - MIB, model + DISK_SIZE - MIB, 512);
	must(disk_compact(disk, true, NULL, &err), &err);
	must_be(disk, model);
	image_must_close(disk);
	assert_in_range(length_of(top), STRUCTURE, STRUCTURE + 2 * MIB);
	disk = must_open(top);
	must_be(disk, model);
	image_must_close(disk);
	leave();
	free(model);
}

static const struct disk_ops *real_ops;
static unsigned maps;

static int counting_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
    struct extent *extent)
{
	maps++;
	return real_ops->map(disk, purpose, offset, length, extent);
}

/* What lies together is not looked at again and again: of many blocks the work would never end. */
static void looks_once(void **state)
{
	enum { MANY = 512 };
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = MANY * MIB, .block_size = MIB };
	uint8_t *some = calloc(1, MIB);
	struct disk_ops counting;
	struct error err = { 0 };
	struct disk *disk;

	some[MIB - 1] = 1;
	must(disk_create(base, &options, &err), &err);
	disk = must_open(base);
	for (uint64_t at = 0; at < MANY * MIB; at += MIB) {
		must_write(disk, at, "a hole after all", 16);
		discard(disk, at, 4 * KIB);
	}
	counting = *disk->ops;
	real_ops = disk->ops;
	counting.map = counting_map;
	disk->ops = &counting;
	for (uint64_t at = (MANY - 16) * MIB; at < MANY * MIB; at += MIB)
		must_write(disk, at, some, MIB);
	assert_int_equal(disk_resize(disk, (MANY - 16) * MIB, false, NULL, &err), -EEXIST);
	must(disk_compact(disk, false, NULL, &err), &err);
	disk->ops = real_ops;
	image_must_close(disk);
	assert_in_range(maps, MANY, 3 * MANY);
	leave();
	free(some);
}

struct stop {
	unsigned left;
	bool stopped;
};

static bool stop_at(void *context, uint64_t done, uint64_t total)
{
	struct stop *stop = context;

	assert_true(done <= total);
	if (stop->left-- > 0)
		return true;
	stop->stopped = true;
	return false;
}

static void interrupted(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct stop stop = { .stopped = true };

	for (unsigned at = 0; stop.stopped; at++) {
		const struct disk_progress progress = { stop_at, &stop };
		struct error err = { 0 };
		struct dice dice = { 5 };
		struct disk *disk;
		uint64_t length;
		int r;

		create_base();
		memset(model, 0, DISK_SIZE);
		disk = must_open(base);
		fill(disk, &dice, model);
		discard(disk, 0, 5 * MIB);
		memset(model, 0, 5 * MIB);
		image_must_close(disk);
		length = length_of(base);
		stop = (struct stop){ at, false };
		disk = must_open(base);
		r = disk_compact(disk, true, &progress, &err);
		assert_int_equal(r, stop.stopped ? -ECANCELED : 0);
		must_be(disk, model);
		assert_true(length_of(base) <= length);
		fill(disk, &dice, model);
		image_must_close(disk);
		disk = must_open(base);
		must_be(disk, model);
		image_must_close(disk);
		leave();
	}
	free(model);
}

/* --- VHD --- */

static bool stop_after(void *context, uint64_t done, uint64_t total)
{
	unsigned *left = context;

	assert_true(done <= total);
	return (*left)-- > 0;
}

static uint64_t vhd_blocks_with_data(const uint8_t *model)
{
	static const uint8_t zeros[512 * KIB];
	uint64_t count = 0;

	for (uint64_t at = 0; at < DISK_SIZE; at += sizeof(zeros))
		count += memcmp(model + at, zeros, sizeof(zeros)) != 0;
	return count;
}

/* Also what another size, and other places of header and table, have left behind. */
static void of_vhd(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 31 };
	struct error err = { 0 };
	struct disk *disk;
	int fd = image_create(&options);

	for (unsigned i = 0; i < 12; i++) {
		unsigned stop = i;
		const struct disk_progress progress = { stop_after, &stop };

		disk = image_must_open(fd, false);
		fill(disk, &dice, model);
		if (i % 3 == 1) {
			must(disk_resize(disk, DISK_SIZE + 3 * MIB, false, NULL, &err), &err);
			must_write(disk, DISK_SIZE, model, 2 * MIB);
			must(disk_resize(disk, DISK_SIZE, true, NULL, &err), &err);
		}
		if (i % 2)
			assert_int_equal(disk_compact(disk, true, &progress, &err), -ECANCELED);
		must_be(disk, model);
		must(disk_compact(disk, true, NULL, &err), &err);
		must_be(disk, model);
		image_must_close(disk);
		disk = image_must_open(fd, false);
		must_be(disk, model);
		/* It goes on growing. */
		must_write(disk, 512 * dice_roll(&dice, DISK_SIZE / 512), "new", 4);
		must(disk_read(disk, 0, model, DISK_SIZE, &err), &err);
		must(disk_compact(disk, true, NULL, &err), &err);
		must_be(disk, model);
		image_must_close(disk);
		assert_true((uint64_t)lseek(fd, 0, SEEK_END) <= vhd_blocks_with_data(model) * (512 * KIB + 4 * KIB) + 16 * KIB);
	}
	close(fd);
	free(model);
}

/* What continues a compacted one still does, and is compacted itself. */
static void of_vhd_chain(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 32 };
	struct error err = { 0 };
	struct disk *disk;

	must(disk_create(base, &options, &err), &err);
	disk = must_open(base);
	fill(disk, &dice, model);
	image_must_close(disk);
	options.parent = base;
	options.size = 0;
	must(disk_create(top, &options, &err), &err);
	disk = must_open(top);
	fill(disk, &dice, model);
	image_must_close(disk);
	disk = must_open(base);
	must(disk_compact(disk, true, NULL, &err), &err);
	image_must_close(disk);
	for (unsigned i = 0; i < 4; i++) {
		disk = must_open(top);
		must_be(disk, model);
		must(disk_resize(disk, DISK_SIZE - 512, true, NULL, &err), &err);
		memset(model + DISK_SIZE - 512, 0, 512);
		must(disk_compact(disk, i % 2, NULL, &err), &err);
		image_must_close(disk);
		must(disk_merge_into(top, base, NULL, &err) == -EINVAL ? 0 : -1, &err); /* of two sizes */
		unlink(top);
		must(disk_create(top, &options, &err), &err);
		disk = must_open(top);
		must_write(disk, 0, model, DISK_SIZE);
		must(disk_compact(disk, true, NULL, &err), &err);
		fill(disk, &dice, model);
		must(disk_compact(disk, true, NULL, &err), &err);
		image_must_close(disk);
	}
	leave();
	free(model);
}

static void refused(void **state)
{
	const struct disk_create_options fixed = { .format = DISK_FORMAT_VHDX, .size = MIB, .fixed = true };
	const struct disk_create_options raw = { .format = DISK_FORMAT_RAW, .size = MIB };
	const struct disk_create_options *kinds[] = { &fixed, &raw };
	struct error err = { 0 };

	for (unsigned i = 0; i < 2; i++) {
		int fd = image_create(kinds[i]);
		struct disk *disk = image_must_open(fd, false);

		assert_int_equal(disk_compact(disk, true, NULL, &err), -ENOTSUP);
		image_must_close(disk);
		disk = image_must_open(fd, true);
		assert_int_equal(disk_compact(disk, true, NULL, &err), -EROFS);
		image_must_close(disk);
		close(fd);
	}
}

/* Places of blocks that are unmapped, also over others, are forgotten. */
static void kept_places(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 1 };
	struct error err = { 0 };
	struct disk *disk;
	uint64_t entry;
	int fd;

	create_base();
	disk = must_open(base);
	for (unsigned i = 0; i < 4; i++) {
		dice_fill(&dice, model + i * MIB, MIB);
		must_write(disk, i * MIB, model + i * MIB, MIB);
	}
	image_must_close(disk);
	fd = open(base, O_RDWR);
	entry = (4 * MIB) | VHDX_BLOCK_UNMAPPED;
	assert_int_equal(pwrite(fd, &entry, 8, 3 * MIB), 8);
	entry = (5 * MIB) | VHDX_BLOCK_UNDEFINED; /* which is that of another, too */
	assert_int_equal(pwrite(fd, &entry, 8, 3 * MIB + 9 * 8), 8);
	close(fd);
	memset(model, 0, MIB);
	disk = must_open(base);
	must_be(disk, model);
	must(disk_compact(disk, false, NULL, &err), &err);
	must_be(disk, model);
	image_must_close(disk);
	assert_int_equal(length_of(base), STRUCTURE + 3 * MIB);
	leave();
	free(model);
}

/* A block that is not present has no place, whatever its entry says: here that of another. */
static void no_place(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 1 };
	struct error err = { 0 };
	struct disk *disk;
	uint64_t entry;
	int fd;

	create();
	unlink(top);
	disk = must_open(base);
	must_write(disk, 0, model, 16 * KIB);
	image_must_close(disk);
	must(disk_create(top, &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = base,
		.block_size = MIB }, &err), &err);
	disk = must_open(top);
	dice_fill(&dice, model + MIB, MIB);
	must_write(disk, MIB, model + MIB, MIB);
	image_must_close(disk);
	fd = open(top, O_RDWR);
	assert_int_equal(pread(fd, &entry, 8, 3 * MIB + 8), 8);
	assert_int_equal(entry & VHDX_BAT_STATE_MASK, VHDX_BLOCK_FULLY_PRESENT);
	entry = (entry & VHDX_BAT_OFFSET_MASK) | VHDX_BLOCK_NOT_PRESENT;
	assert_int_equal(pwrite(fd, &entry, 8, 3 * MIB), 8);
	close(fd);
	disk = must_open(top);
	must_be(disk, model);
	must(disk_compact(disk, true, NULL, &err), &err);
	must_be(disk, model);
	image_must_close(disk);
	leave();
	free(model);
}

/* --- no room ---------------------------------------------------------------------------------- */

struct host {
	unsigned room, refusals;
	bool full;
};

static int refuse(void *context, uint64_t offset, uint64_t length)
{
	struct host *host = context;

	if (!host->full)
		return 0;
	if (host->room > 0) {
		host->room--;
		return 0;
	}
	host->refusals++;
	return ENOSPC;
}

static void ignore_written(void *context, uint64_t offset, const void *data, size_t size)
{
}

static void ignore_range(void *context, uint64_t offset, uint64_t length)
{
}

static void ignore_one(void *context, uint64_t size)
{
}

static void ignore(void *context)
{
}

static bool compact_with_room(unsigned room)
{
	struct host host = { .room = room };
	const struct file_observer observer = { .context = &host, .refuse = refuse, .written = ignore_written,
		.zeroed = ignore_range, .resized = ignore_one, .synced = ignore };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 4 };
	struct error err = { 0 };
	struct disk *disk;
	int r;

	create_base();
	must(disk_open_watched(&disk, base, &(struct disk_open_options){ 0 }, &observer, &err), &err);
	fill(disk, &dice, model);
	must(disk_flush(disk, &err), &err);
	host.full = true;
	r = disk_compact(disk, true, NULL, &err);
	assert_true(r == 0 || (r == -ENOSPC && strstr(err.text, "No space left")));
	must_be(disk, model);
	host.full = false;
	fill(disk, &dice, model);
	must_be(disk, model);
	image_must_close(disk);
	disk = must_open(base);
	must_be(disk, model);
	image_must_close(disk);
	leave();
	free(model);
	return host.refusals > 0;
}

static void no_room(void **state)
{
	unsigned room = 0;

	while (compact_with_room(room))
		room += 1 + room / 8;
	assert_true(room > 10);
}

static void qemu_reads(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	char command[500], raw[96];
	struct error err = { 0 };
	struct dice dice = { 21 };
	FILE *file;

	if (system("command -v qemu-img >/dev/null") != 0)
		skip();
	create_base();
	snprintf(raw, sizeof(raw), "%s/raw", directory);
	snprintf(command, sizeof(command), "qemu-img check -f vhdx %s >/dev/null && qemu-img compare -f vhdx -F raw %s %s "
		 ">/dev/null", base, base, raw);
	for (unsigned i = 0; i < 4; i++) {
		struct disk *disk = must_open(base);

		fill(disk, &dice, model);
		must(disk_compact(disk, i % 2, NULL, &err), &err);
		image_must_close(disk);
		file = fopen(raw, "w");
		assert_int_equal(fwrite(model, 1, DISK_SIZE, file), DISK_SIZE);
		assert_int_equal(fclose(file), 0);
		assert_int_equal(system(command), 0);
	}
	unlink(raw);
	leave();
	free(model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_short_as_can_be),
		cmocka_unit_test(large_blocks),
		cmocka_unit_test(chain),
		cmocka_unit_test(looks_once),
		cmocka_unit_test(interrupted),
		cmocka_unit_test(of_vhd),
		cmocka_unit_test(of_vhd_chain),
		cmocka_unit_test(refused),
		cmocka_unit_test(kept_places),
		cmocka_unit_test(no_place),
		cmocka_unit_test(no_room),
		cmocka_unit_test(qemu_reads),
	};
	int r;

	image_directory(directory, sizeof(directory));
	snprintf(base, sizeof(base), "%s/base.vhdx", directory);
	snprintf(top, sizeof(top), "%s/top.vhdx", directory);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
