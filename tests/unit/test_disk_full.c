// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * No room on the host. From its first change on, then from its second, and so on, the file refuses to
 * be written or made longer. Requests say so, what was flushed before stays, also when the power fails
 * or the disk is closed then; and with room again everything works.
 */
#include "tests/unit/test_disk_images.h"

#include <errno.h>

#define DISK_SIZE (4 * MIB)
#define BLOCKS    4
#define WRITES    (4 * BLOCKS)

struct host {
	struct file_observer observer;
	bool full;
	unsigned room; /* changes that are still possible, once it is full */
	unsigned refusals;
};

struct world {
	struct host host;
	const struct disk_create_options *create;
	int fd;
	struct disk *disk;
	uint8_t *flushed, *now, *contents;
	bool unsure[DISK_SIZE / 512]; /* a write failed: old or new */
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

static void ignore_zeroed(void *context, uint64_t offset, uint64_t length)
{
}

static void ignore_resized(void *context, uint64_t size)
{
}

static void ignore_synced(void *context)
{
}

static void compare(struct disk *disk, uint8_t *contents, const uint8_t *one, const uint8_t *other)
{
	struct error err = { 0 };

	if (disk_read(disk, 0, contents, DISK_SIZE, &err) != 0)
		fail_msg("%s", err.text);
	for (unsigned at = 0; at < DISK_SIZE; at += 512)
		if (memcmp(contents + at, one + at, 512) != 0 && memcmp(contents + at, other + at, 512) != 0)
			fail_msg("the sector at %u holds neither", at);
}

/* The file as it is now, opened by somebody else: what was flushed is there, or what came after. */
static void check_copy(struct world *world)
{
	int copy = memfd_create("copy", MFD_CLOEXEC);
	struct error err = { 0 };
	struct disk *disk;
	off_t size = lseek(world->fd, 0, SEEK_END);

	assert_int_equal(ftruncate(copy, size), 0);
	for (off_t at = 0; at < size; at += MIB) {
		ssize_t n = pread(world->fd, world->contents, MIB, at);

		if (world->contents[0] == 0 && memcmp(world->contents, world->contents + 1, (size_t)n - 1) == 0)
			continue;
		assert_int_equal(pwrite(copy, world->contents, (size_t)n, at), n);
	}
	disk = image_must_open(copy, true);
	compare(disk, world->contents, world->flushed, world->now);
	assert_int_equal(disk->ops->check(disk, stderr, &err), 0);
	image_must_close(disk);
	disk = image_must_open(copy, false);
	compare(disk, world->contents, world->flushed, world->now);
	image_must_close(disk);
	close(copy);
}

static void put_sector(struct world *world, unsigned number)
{
	uint64_t offset = (number % BLOCKS) * MIB + number * 512;
	uint8_t sector[512];
	int r;

	memset(sector, (int)(number + 1), sizeof(sector));
	memcpy(world->now + offset, sector, sizeof(sector));
	r = disk_write(world->disk, offset, sector, sizeof(sector), NULL);
	if (r != 0)
		assert_int_equal(r, -ENOSPC);
	world->unsure[offset / 512] = r != 0;
}

static void open_world(struct world *world)
{
	const struct disk_open_options options = { 0 };
	struct error err = { 0 };

	world->host.observer = (struct file_observer){ .context = &world->host, .refuse = refuse,
		.written = ignore_written, .zeroed = ignore_zeroed, .resized = ignore_resized, .synced = ignore_synced };
	world->fd = image_create(world->create);
	if (disk_open_descriptor(&world->disk, dup(world->fd), "image", &options, &world->host.observer, &err) != 0)
		fail_msg("%s", err.text);
	memset(world->flushed, 0, DISK_SIZE);
	memset(world->now, 0, DISK_SIZE);
	memset(world->unsure, 0, sizeof(world->unsure));
}

/* With room again: what failed is written once more, and everything is there. */
static void recover(struct world *world)
{
	struct error err = { 0 };

	world->host.full = false;
	assert_int_equal(disk_flush(world->disk, &err), 0);
	if (disk_read(world->disk, 0, world->contents, DISK_SIZE, &err) != 0)
		fail_msg("%s", err.text);
	for (unsigned at = 0; at < DISK_SIZE; at += 512)
		if (world->unsure[at / 512])
			assert_int_equal(disk_write(world->disk, at, world->now + at, 512, &err), 0);
		else
			assert_memory_equal(world->contents + at, world->now + at, 512);
	assert_int_equal(disk_flush(world->disk, &err), 0);
	memcpy(world->flushed, world->now, DISK_SIZE);
	check_copy(world);
	image_must_close(world->disk);
}

/* Returns whether there was too little room. */
static bool run_with_room(struct world *world, unsigned flushed_writes, unsigned room, bool close_when_full)
{
	struct error err = { 0 };
	bool met;

	open_world(world);
	for (unsigned i = 0; i < flushed_writes; i++)
		put_sector(world, i);
	assert_int_equal(disk_flush(world->disk, &err), 0);
	memcpy(world->flushed, world->now, DISK_SIZE);
	world->host.full = true;
	world->host.room = room;
	world->host.refusals = 0;
	for (unsigned i = flushed_writes; i < WRITES; i++) {
		put_sector(world, i);
		if (i % 4 == 0) {
			int r = disk_flush(world->disk, &err);

			assert_true(r == 0 || (r == -ENOSPC && strstr(err.text, "No space left")));
		}
	}
	met = world->host.refusals > 0;
	check_copy(world);
	if (!close_when_full) {
		recover(world);
	} else {
		disk_close(world->disk, &err);
		world->host.full = false;
		check_copy(world);
	}
	close(world->fd);
	return met;
}

struct variant {
	bool close_when_full;
	struct disk_create_options create;
};

static void no_room(void **state)
{
	const struct variant *variant = *state;
	struct world *world = calloc(1, sizeof(*world));
	unsigned met = 0;

	world->create = &variant->create;
	world->flushed = malloc(DISK_SIZE);
	world->now = malloc(DISK_SIZE);
	world->contents = malloc(DISK_SIZE);
	for (unsigned flushed_writes = 0; flushed_writes < 6; flushed_writes += 3)
		for (unsigned room = 0; run_with_room(world, flushed_writes, room, variant->close_when_full); room += 1 + room / 12)
			met++;
	assert_true(met > 10);
	free(world->flushed);
	free(world->now);
	free(world->contents);
	free(world);
}

#define VHDX { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }
#define VHD { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB }

static struct variant vhdx = { false, VHDX }, vhdx_closed = { true, VHDX }, vhd = { false, VHD },
	vhd_closed = { true, VHD };

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "no room for a while", no_room, NULL, NULL, &vhdx },
		{ "no room until it is closed", no_room, NULL, NULL, &vhdx_closed },
		{ "VHD, no room for a while", no_room, NULL, NULL, &vhd },
		{ "VHD, no room until it is closed", no_room, NULL, NULL, &vhd_closed },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
