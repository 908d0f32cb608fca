// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Power cuts. A recorder stands under the image and knows what is durable: what was written before the
 * last sync. After each change to the file the power is cut: of what came after that sync all, nothing
 * or a random part, torn by sectors, has reached the file. The image must then open, both for reading
 * and for writing, and each sector must hold what was flushed last or something written since. While a
 * log is replayed the power is cut again.
 */
#include "tests/unit/test_disk_images.h"

#include "disk/operation.h"
#include "disk/vhdx.h"

#define DISK_SIZE   (3 * MIB)
#define SECTORS     (DISK_SIZE / 512)
#define FILE_MAX    (8 * MIB)
#define PENDING_MAX 64

/* Where a differencing disk looks for its parent: in the directory of this path. */
static char directory[64], image_path[96] = "image";

struct change {
	enum { WRITTEN, ZEROED, RESIZED } kind;
	uint64_t offset, length;
	uint8_t *data;
};

/* What each sector may hold: its tag as of the last flush, and those of the writes since. */
struct expectation {
	uint32_t flushed[SECTORS];
	uint32_t since[SECTORS][8];
	uint8_t since_count[SECTORS];
};

struct recorder {
	struct file_observer observer;
	const struct expectation *expectation;
	struct dice *dice;
	unsigned depth; /* 0: the running image; 1: one that is being replayed */
	unsigned cuts, replays;
	uint64_t durable_size;
	uint8_t durable[FILE_MAX];
	struct change pending[PENDING_MAX];
	unsigned pending_count;
};

enum survival { ALL, NOTHING, TORN };

static bool survives(struct recorder *recorder, enum survival survival)
{
	return survival == ALL || (survival == TORN && dice_roll(recorder->dice, 2));
}

/* Applies a change to an image in memory, as far as it survives. What lies past the end is lost. */
static void apply(struct recorder *recorder, const struct change *change, uint8_t *image, uint64_t *size,
    enum survival survival)
{
	if (change->kind == RESIZED) {
		if (survives(recorder, survival)) {
			assert_true(change->length <= FILE_MAX);
			if (change->length < *size)
				memset(image + change->length, 0, *size - change->length);
			*size = change->length;
		}
		return;
	}
	for (uint64_t at = 0; at < change->length;) {
		uint64_t offset = change->offset + at;
		uint64_t part = min_u64(change->length - at, 512 - offset % 512);

		if (survives(recorder, survival) && offset + part <= *size) {
			if (change->kind == WRITTEN)
				memcpy(image + offset, change->data + at, part);
			else
				memset(image + offset, 0, part);
		}
		at += part;
	}
}

static bool sector_is_allowed(const struct expectation *e, unsigned sector, const uint8_t *bytes)
{
	uint32_t tag = le32_get(bytes);

	for (unsigned i = 4; i < 512; i += 4)
		if (le32_get(bytes + i) != tag)
			return false;
	if (tag == e->flushed[sector])
		return true;
	for (unsigned i = 0; i < e->since_count[sector]; i++)
		if (tag == e->since[sector][i])
			return true;
	return false;
}

static struct disk *must_open(int fd, bool read_only, const struct file_observer *observer)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open_descriptor(&disk, dup(fd), image_path, &options, observer, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void check_contents(const struct recorder *recorder, struct disk *disk, uint8_t *contents)
{
	struct error err = { 0 };

	if (disk_read(disk, 0, contents, DISK_SIZE, &err) != 0)
		fail_msg("%s", err.text);
	for (unsigned sector = 0; sector < SECTORS; sector++)
		if (!sector_is_allowed(recorder->expectation, sector, contents + sector * 512))
			fail_msg("sector %u holds %#x, flushed was %#x", sector, le32_get(contents + sector * 512),
			    recorder->expectation->flushed[sector]);
}

static struct recorder *recorder_create(const struct expectation *expectation, struct dice *dice, unsigned depth);
static void recorder_destroy(struct recorder *recorder);

/* Every block gets a sector: new ones must be zeros otherwise, also where the cut left something behind. */
static void write_after_cut(struct disk *disk, uint8_t *expected, uint8_t *contents)
{
	struct error err = { 0 };

	for (uint64_t at = 4096; at < DISK_SIZE; at += MIB) {
		memset(expected + at, 0xee, 512);
		assert_int_equal(disk_write(disk, at, expected + at, 512, &err), 0);
	}
	assert_int_equal(disk_read(disk, 0, contents, DISK_SIZE, &err), 0);
	assert_memory_equal(contents, expected, DISK_SIZE);
}

static void open_after_cut(struct recorder *recorder, const uint8_t *image, uint64_t size)
{
	static const uint8_t zeros[65536];
	int fd = memfd_create("cut", MFD_CLOEXEC);
	uint8_t *by_reading = malloc(DISK_SIZE), *by_writing = malloc(DISK_SIZE);
	struct recorder *inner = NULL;
	struct error err = { 0 };
	struct disk *disk;

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (uint64_t at = 0; at < size; at += 65536) {
		size_t part = min_u64(65536, size - at);

		if (memcmp(image + at, zeros, part) != 0)
			assert_int_equal(pwrite(fd, image + at, part, (off_t)at), part);
	}
	disk = must_open(fd, true, NULL);
	check_contents(recorder, disk, by_reading);
	if (disk->ops->check(disk, stderr, &err) != 0)
		fail_msg("%s", err.text);
	image_must_close(disk);

	if (recorder->depth == 0 && dice_roll(recorder->dice, 2)) {
		inner = recorder_create(recorder->expectation, recorder->dice, 1);
		memcpy(inner->durable, image, size);
		inner->durable_size = size;
	}
	disk = must_open(fd, false, inner ? &inner->observer : NULL);
	check_contents(recorder, disk, by_writing);
	assert_memory_equal(by_reading, by_writing, DISK_SIZE);
	if (!inner)
		write_after_cut(disk, by_reading, by_writing);
	image_must_close(disk);
	if (inner) {
		recorder->replays += inner->cuts > 0;
		recorder_destroy(inner);
	}
	free(by_reading);
	free(by_writing);
	close(fd);
}

static void cut_power(struct recorder *recorder)
{
	enum survival survival = (enum survival)dice_roll(recorder->dice, 3);
	uint8_t *image = calloc(1, FILE_MAX);
	uint64_t size = recorder->durable_size;

	memcpy(image, recorder->durable, size);
	for (unsigned i = 0; i < recorder->pending_count; i++)
		apply(recorder, &recorder->pending[i], image, &size, survival);
	recorder->cuts++;
	open_after_cut(recorder, image, size);
	free(image);
}

static void add(struct recorder *recorder, struct change change, const void *data)
{
	assert_true(recorder->pending_count < PENDING_MAX);
	if (data) {
		change.data = malloc(change.length);
		memcpy(change.data, data, change.length);
	}
	recorder->pending[recorder->pending_count++] = change;
	cut_power(recorder);
}

static void on_written(void *context, uint64_t offset, const void *data, size_t size)
{
	add(context, (struct change){ .kind = WRITTEN, .offset = offset, .length = size }, data);
}

static void on_zeroed(void *context, uint64_t offset, uint64_t length)
{
	add(context, (struct change){ .kind = ZEROED, .offset = offset, .length = length }, NULL);
}

static void on_resized(void *context, uint64_t size)
{
	add(context, (struct change){ .kind = RESIZED, .length = size }, NULL);
}

static void on_synced(void *context)
{
	struct recorder *recorder = context;

	for (unsigned i = 0; i < recorder->pending_count; i++) {
		apply(recorder, &recorder->pending[i], recorder->durable, &recorder->durable_size, ALL);
		free(recorder->pending[i].data);
	}
	recorder->pending_count = 0;
}

static struct recorder *recorder_create(const struct expectation *expectation, struct dice *dice, unsigned depth)
{
	struct recorder *recorder = calloc(1, sizeof(*recorder));

	recorder->observer = (struct file_observer){ .context = recorder, .written = on_written, .zeroed = on_zeroed,
		.resized = on_resized, .synced = on_synced };
	recorder->expectation = expectation;
	recorder->dice = dice;
	recorder->depth = depth;
	return recorder;
}

static void recorder_destroy(struct recorder *recorder)
{
	for (unsigned i = 0; i < recorder->pending_count; i++)
		free(recorder->pending[i].data);
	free(recorder);
}

static void expect(struct expectation *e, uint64_t offset, uint64_t length, uint32_t tag)
{
	for (uint64_t sector = offset / 512; sector < (offset + length) / 512; sector++) {
		assert_true(e->since_count[sector] < ARRAY_SIZE(e->since[0]));
		e->since[sector][e->since_count[sector]++] = tag;
	}
}

static void expect_flushed(struct expectation *e)
{
	for (unsigned sector = 0; sector < SECTORS; sector++) {
		if (e->since_count[sector] > 0)
			e->flushed[sector] = e->since[sector][e->since_count[sector] - 1];
		e->since_count[sector] = 0;
	}
}

struct scenario {
	struct disk_create_options create;
	unsigned operations;
	unsigned flush_in; /* one of so many operations is a flush */
	bool reopen;
	bool child; /* of a disk that is full; some operations are discards then */
};

static struct disk *open_recorded(int fd, struct recorder *recorder)
{
	struct disk *disk = must_open(fd, false, &recorder->observer);

	/* The log begins near its end, so that few commits fill and wrap it. */
	((struct vhdx *)disk->format)->log_position = MIB - 3 * VHDX_LOG_SECTOR;
	return disk;
}

static int discard(struct disk *disk, struct dice *dice, struct expectation *e)
{
	uint64_t offset = 512 * dice_roll(dice, SECTORS - 16), length = 8 * KIB;
	struct disk_request request = { .op = DISK_OP_DISCARD };
	struct operation operation;

	if (dice_roll(dice, 2) == 0) {
		offset = offset / MIB * MIB;
		length = MIB;
	}
	request.offset = offset;
	request.length = length;
	expect(e, offset, length, 0);
	operation_start(&operation, disk, &request);
	return operation_run(&operation);
}

static int change_disk(struct disk *disk, struct dice *dice, struct expectation *e, uint32_t tag)
{
	static uint32_t data[8 * KIB / 4];
	uint64_t length = 512 * (1 + dice_roll(dice, sizeof(data) / 512));
	uint64_t offset = dice_roll(dice, (DISK_SIZE - length) / 512) * 512;
	struct error err = { 0 };

	/* Every fourth lies across two blocks. */
	if (dice_roll(dice, 4) == 0)
		offset = MIB * (1 + dice_roll(dice, DISK_SIZE / MIB - 1)) - 512;
	if (offset + length > DISK_SIZE)
		length = DISK_SIZE - offset;
	for (unsigned i = 0; i < length / 4; i++)
		data[i] = tag;
	expect(e, offset, length, tag);
	return disk_write(disk, offset, data, length, &err);
}

/* A parent whose sectors have tags of their own. */
static int create_family(const struct scenario *scenario, struct expectation *e)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .block_size = MIB };
	uint32_t *data = malloc(DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;
	char parent[96];
	int fd;

	if (!scenario->child) {
		free(data);
		return image_create(&scenario->create);
	}
	for (unsigned i = 0; i < DISK_SIZE / 4; i++)
		data[i] = 0x80000000 + i / 128;
	for (unsigned sector = 0; sector < SECTORS; sector++)
		e->flushed[sector] = 0x80000000 + sector;
	snprintf(parent, sizeof(parent), "%s/parent", directory);
	assert_int_equal(disk_create(parent, &scenario->create, &err), 0);
	assert_int_equal(disk_open(&disk, parent, NULL, &err), 0);
	assert_int_equal(disk_write(disk, 0, data, DISK_SIZE, &err), 0);
	image_must_close(disk);
	free(data);
	options.parent = parent;
	fd = memfd_create("child", MFD_CLOEXEC);
	if (disk_fill_descriptor(fd, image_path, &options, &err) != 0)
		fail_msg("%s", err.text);
	return fd;
}

static void cuts(void **state)
{
	const struct scenario *scenario = *state;
	struct dice dice = { scenario->operations };
	struct expectation *expectation = calloc(1, sizeof(*expectation));
	struct recorder *recorder = recorder_create(expectation, &dice, 0);
	int fd = create_family(scenario, expectation);
	char parent[96];
	unsigned unflushed = 0;
	struct error err = { 0 };
	struct disk *disk;

	recorder->durable_size = (uint64_t)lseek(fd, 0, SEEK_END);
	assert_true(recorder->durable_size <= FILE_MAX);
	assert_int_equal(pread(fd, recorder->durable, recorder->durable_size, 0), recorder->durable_size);
	disk = open_recorded(fd, recorder);
	for (uint32_t i = 1; i <= scenario->operations; i++) {
		if (unflushed == 6 || dice_roll(&dice, scenario->flush_in) == 0) {
			assert_int_equal(disk_flush(disk, &err), 0);
			expect_flushed(expectation);
			unflushed = 0;
			cut_power(recorder);
		} else {
			if (scenario->child && dice_roll(&dice, 5) == 0)
				assert_int_equal(discard(disk, &dice, expectation), 0);
			else
				assert_int_equal(change_disk(disk, &dice, expectation, i), 0);
			unflushed++;
		}
		if (scenario->reopen && i % 16 == 0) {
			image_must_close(disk);
			expect_flushed(expectation);
			disk = open_recorded(fd, recorder);
			unflushed = 0;
		}
	}
	image_must_close(disk);
	expect_flushed(expectation);
	cut_power(recorder);
	snprintf(parent, sizeof(parent), "%s/parent", directory);
	print_message("%u power cuts, %u of them with a log to replay\n", recorder->cuts, recorder->replays);
	if (scenario->create.format == DISK_FORMAT_VHDX && !scenario->create.fixed)
		assert_true(recorder->replays > 0);
	if (scenario->child)
		unlink(parent);
	recorder_destroy(recorder);
	free(expectation);
	close(fd);
}

#define DYNAMIC { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }
#define FIXED   { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB, .fixed = true }

static struct scenario often = { DYNAMIC, 40, 3, false, false };
static struct scenario seldom = { DYNAMIC, 28, 10, false, false };
static struct scenario reopened = { DYNAMIC, 40, 4, true, false };
static struct scenario child = { DYNAMIC, 40, 3, true, true };
static struct scenario child_seldom = { DYNAMIC, 28, 8, false, true };
static struct scenario fixed = { FIXED, 20, 4, true, false };

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "flushed often", cuts, NULL, NULL, &often },
		{ "flushed seldom", cuts, NULL, NULL, &seldom },
		{ "closed and opened", cuts, NULL, NULL, &reopened },
		{ "fixed", cuts, NULL, NULL, &fixed },
		{ "differencing", cuts, NULL, NULL, &child },
		{ "differencing, flushed seldom", cuts, NULL, NULL, &child_seldom },
	};
	int r;

	image_directory(directory, sizeof(directory));
	snprintf(image_path, sizeof(image_path), "%s/image", directory);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
