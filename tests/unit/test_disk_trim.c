// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Discards that free blocks: against a plain array, with the file opened again and again; that what is free is
 * used again, and not before its time; and many threads that write, discard and read the same blocks, in which
 * each sector says to which block it belongs.
 */
#include "tests/unit/test_disk_images.h"

#include <poll.h>
#include <pthread.h>

#include "disk/queue.h"
#include "disk/vhdx.h"

#define DISK_SIZE (16 * MIB + 3 * 512)
#define BLOCKS    17
#define STRUCTURE (4 * MIB) /* header, log, metadata, table */

static void perform(struct disk *disk, enum disk_op op, uint64_t offset, uint64_t length)
{
	struct disk_request request = { .op = op, .offset = offset, .length = length };
	struct error err = { 0 };

	if (disk_perform(disk, &request, &err) != 0)
		fail_msg("%s", err.text);
}

static void must_write(struct disk *disk, uint64_t offset, const void *data, size_t size)
{
	struct error err = { 0 };

	if (disk_write(disk, offset, data, size, &err) != 0)
		fail_msg("%s", err.text);
}

static void must_be(struct disk *disk, const uint8_t *model)
{
	uint8_t *all = malloc(DISK_SIZE);
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, all, DISK_SIZE, &err), 0);
	for (unsigned at = 0; at < DISK_SIZE; at += 512)
		if (memcmp(all + at, model + at, 512) != 0)
			fail_msg("other contents at %u", at);
	free(all);
}

static uint64_t length_of(int fd)
{
	return (uint64_t)lseek(fd, 0, SEEK_END);
}

static int create(void)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };

	return image_create(&options);
}

static void change(struct disk *disk, struct dice *dice, uint8_t *model)
{
	uint64_t offset = 512 * dice_roll(dice, DISK_SIZE / 512);
	uint64_t length = min_u64(512 * (1 + dice_roll(dice, 5000)), DISK_SIZE - offset);

	switch (dice_roll(dice, 5)) {
	case 0:
		perform(disk, DISK_OP_FLUSH, 0, 0);
		break;
	case 1:
		offset = offset / MIB * MIB;
		length = min_u64(MIB * (1 + dice_roll(dice, 6)), DISK_SIZE - offset);
		__attribute__((fallthrough));
	case 2:
		memset(model + offset, 0, length);
		perform(disk, dice_roll(dice, 2) ? DISK_OP_DISCARD : DISK_OP_WRITE_ZEROES, offset, length);
		break;
	default:
		dice_fill(dice, model + offset, length / 8 * 8);
		must_write(disk, offset, model + offset, length);
	}
}

static void as_an_array(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE + 8);
	struct dice dice = { 5 };
	struct error err = { 0 };
	struct disk *disk;
	int fd = create();

	for (unsigned round = 0; round < 25; round++) {
		disk = image_must_open(fd, false);
		for (unsigned i = 0; i < 40; i++)
			change(disk, &dice, model);
		must_be(disk, model);
		if (disk->ops->check(disk, stderr, &err) != 0)
			fail_msg("%s", err.text);
		image_must_close(disk);
		disk = image_must_open(fd, true);
		must_be(disk, model);
		if (disk->ops->check(disk, stderr, &err) != 0)
			fail_msg("%s", err.text);
		image_must_close(disk);
		/* What is freed and not yet committed has to be doubled at the worst. */
		assert_in_range(length_of(fd), STRUCTURE, STRUCTURE + 2 * BLOCKS * MIB);
	}
	disk = image_must_open(fd, false);
	perform(disk, DISK_OP_DISCARD, 0, DISK_SIZE);
	image_must_close(disk);
	assert_int_equal(length_of(fd), STRUCTURE);
	free(model);
	close(fd);
}

/* Blocks come and go all day, and the file does not grow. */
static void used_again(void **state)
{
	uint8_t sector[512];
	int fd = create();
	struct disk *disk = image_must_open(fd, false);
	uint8_t *model = calloc(1, DISK_SIZE);

	memset(sector, 0x77, sizeof(sector));
	for (unsigned i = 0; i < 60; i++) {
		uint64_t block = i % 16, old = (i + 8) % 16;

		memcpy(model + block * MIB + i * 1024, sector, sizeof(sector));
		must_write(disk, block * MIB + i * 1024, sector, sizeof(sector));
		memset(model + old * MIB, 0, MIB);
		perform(disk, DISK_OP_DISCARD, old * MIB, MIB);
		perform(disk, DISK_OP_FLUSH, 0, 0);
		must_be(disk, model);
	}
	assert_in_range(length_of(fd), STRUCTURE, STRUCTURE + 10 * MIB);
	image_must_close(disk);
	/* Also what was left before the file was opened. */
	disk = image_must_open(fd, false);
	perform(disk, DISK_OP_DISCARD, 0, 4 * MIB);
	image_must_close(disk);
	disk = image_must_open(fd, false);
	for (unsigned block = 0; block < 4; block++)
		must_write(disk, block * MIB, sector, sizeof(sector));
	image_must_close(disk);
	assert_in_range(length_of(fd), STRUCTURE, STRUCTURE + 13 * MIB);
	free(model);
	close(fd);
}

static uint64_t place_of(struct disk *disk, uint64_t offset)
{
	struct disk_extent extent;
	struct error err = { 0 };

	assert_int_equal(disk_get_extent(disk, offset, 512, &extent, &err), 0);
	return extent.in_file ? extent.file_offset : 0;
}

/* The place of a block is given to another after the commit, and after the last request that goes there. */
static void not_before_its_time(void **state)
{
	uint8_t sector[512] = "contents";
	int fd = create();
	struct disk *disk = image_must_open(fd, false);
	struct extent extent;
	uint64_t place;

	must_write(disk, 0, sector, sizeof(sector));
	must_write(disk, MIB, sector, sizeof(sector));
	place = place_of(disk, 0);
	perform(disk, DISK_OP_FLUSH, 0, 0);
	assert_int_equal(disk->ops->map(disk, MAP_WRITE, 0, 512, &extent), 0);
	assert_int_equal(extent.file_offset, place);
	perform(disk, DISK_OP_DISCARD, 0, MIB);
	must_write(disk, 2 * MIB, sector, sizeof(sector)); /* not durable */
	assert_int_not_equal(place_of(disk, 2 * MIB), place);
	for (unsigned i = 0; i < 5; i++) { /* held */
		perform(disk, DISK_OP_FLUSH, 0, 0);
		must_write(disk, (3 + i) * MIB, sector, sizeof(sector));
		assert_int_not_equal(place_of(disk, (3 + i) * MIB), place);
	}
	/* The late write that was on its way. */
	assert_int_equal(file_write(extent.file, extent.file_offset, sector, sizeof(sector)), 0);
	extent_release(&extent);
	must_write(disk, 9 * MIB + 512, sector, sizeof(sector));
	assert_int_equal(place_of(disk, 9 * MIB), place);
	assert_int_equal(disk_read(disk, 9 * MIB, sector, sizeof(sector), NULL), 0);
	assert_int_equal(sector[0], 0);
	image_must_close(disk);
	close(fd);
}

/* When too many places wait, blocks are zeroed where they are. */
static void ring_full(void **state)
{
	uint8_t sector[512] = "contents";
	int fd = create();
	struct disk *disk = image_must_open(fd, false);
	struct vhdx *v = disk->format;
	uint64_t place;

	must_write(disk, 0, sector, sizeof(sector));
	place = place_of(disk, 0);
	v->free.end += FREED_MAX;
	v->free.durable += FREED_MAX;
	perform(disk, DISK_OP_DISCARD, 0, MIB);
	assert_int_equal(place_of(disk, 0), place);
	assert_int_equal(disk_read(disk, 0, sector, sizeof(sector), NULL), 0);
	assert_int_equal(sector[0], 0);
	v->free.end -= FREED_MAX;
	v->free.durable -= FREED_MAX;
	perform(disk, DISK_OP_DISCARD, 0, MIB);
	assert_int_equal(place_of(disk, 0), 0);
	image_must_close(disk);
	close(fd);
}

/* What other programs keep for blocks that are unmapped stays theirs, also where it is nonsense. */
static void kept_places(void **state)
{
	uint8_t sector[512] = "contents";
	int fd = create();
	struct disk *disk = image_must_open(fd, false);
	uint64_t entry, first, second;

	must_write(disk, 0, sector, sizeof(sector));
	must_write(disk, MIB, sector, sizeof(sector));
	must_write(disk, 2 * MIB, sector, sizeof(sector));
	first = place_of(disk, 0);
	second = place_of(disk, MIB);
	image_must_close(disk);
	entry = first | VHDX_BLOCK_UNMAPPED;
	assert_int_equal(pwrite(fd, &entry, 8, 3 * MIB), 8);
	entry = second | VHDX_BLOCK_UNDEFINED; /* block 1 is there */
	assert_int_equal(pwrite(fd, &entry, 8, 3 * MIB + 5 * 8), 8);
	disk = image_must_open(fd, false);
	assert_int_equal(disk_read(disk, 0, sector, sizeof(sector), NULL), 0);
	assert_int_equal(sector[0], 0);
	for (unsigned i = 6; i < 12; i++) {
		must_write(disk, i * MIB, sector, sizeof(sector));
		assert_int_not_equal(place_of(disk, i * MIB), first);
		assert_int_not_equal(place_of(disk, i * MIB), second);
	}
	assert_int_equal(disk_read(disk, MIB, sector, sizeof(sector), NULL), 0);
	assert_string_equal(sector, "contents");
	image_must_close(disk);
	close(fd);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define THREADS 4
#define DEPTH   6
#define ROUNDS  120
#define SPAN    6 /* blocks */

struct job {
	struct disk_request request;
	struct iovec iov;
	uint8_t buffer[64 * KIB];
	int result;
};

struct worker {
	pthread_t thread;
	struct disk *disk;
	unsigned number;
	enum queue_kind kind;
	unsigned failures;
};

static void completed(struct disk_request *request, int result)
{
	((struct job *)request->context)->result = result;
}

static void tag(uint8_t *buffer, uint64_t offset, size_t size)
{
	for (size_t at = 0; at < size; at += 8)
		le64_put(buffer + at, 0x7a00 + (offset + at) / MIB);
}

/* Each sector is of its block, or zeros. */
static bool is_sane(const uint8_t *buffer, uint64_t offset, size_t size)
{
	for (size_t at = 0; at < size; at += 8) {
		uint64_t value = le64_get(buffer + at);

		if (value != 0 && value != 0x7a00 + (offset + at) / MIB)
			return false;
	}
	return true;
}

static void prepare(struct dice *dice, struct job *job)
{
	static const enum disk_op ops[] = { DISK_OP_WRITE, DISK_OP_WRITE, DISK_OP_READ, DISK_OP_READ, DISK_OP_DISCARD,
		DISK_OP_WRITE_ZEROES, DISK_OP_FLUSH };
	struct disk_request *request = &job->request;

	job->iov = (struct iovec){ job->buffer, sizeof(job->buffer) };
	job->result = 1;
	*request = (struct disk_request){ .op = ops[dice_roll(dice, ARRAY_SIZE(ops))], .length = sizeof(job->buffer),
		.iov = &job->iov, .iov_count = 1, .complete = completed, .context = job };
	request->offset = 4 * KIB * dice_roll(dice, (SPAN * MIB - request->length) / (4 * KIB));
	if (request->op == DISK_OP_DISCARD || request->op == DISK_OP_WRITE_ZEROES) {
		request->offset = request->offset / MIB * MIB;
		request->length = min_u64(2 * MIB, SPAN * MIB - request->offset);
	}
	tag(job->buffer, request->offset, sizeof(job->buffer));
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct dice dice = { worker->number + 1 };
	struct job *jobs = calloc(DEPTH, sizeof(*jobs));
	struct disk_queue *queue;

	if (disk_queue_create_kind(&queue, DEPTH, worker->kind, &(struct error){ 0 }) < 0) {
		worker->failures = 1;
		free(jobs);
		return NULL;
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < DEPTH; i++) {
			prepare(&dice, &jobs[i]);
			disk_queue_submit(queue, worker->disk, &jobs[i].request);
		}
		disk_queue_kick(queue);
		while (disk_queue_in_flight(queue) > 0) {
			struct pollfd fd = { .fd = disk_queue_fd(queue), .events = POLLIN };

			poll(&fd, 1, -1);
			disk_queue_process(queue);
		}
		for (unsigned i = 0; i < DEPTH; i++) {
			worker->failures += jobs[i].result != 0;
			if (jobs[i].request.op == DISK_OP_READ)
				worker->failures += !is_sane(jobs[i].buffer, jobs[i].request.offset, sizeof(jobs[i].buffer));
		}
	}
	disk_queue_destroy(queue);
	free(jobs);
	return NULL;
}

static void use_at_once(struct disk *disk, enum queue_kind kind)
{
	struct worker workers[THREADS];
	struct error err = { 0 };
	uint8_t *all = malloc(SPAN * MIB);

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .disk = disk, .number = i, .kind = kind };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failures, 0);
	}
	assert_int_equal(disk_read(disk, 0, all, SPAN * MIB, &err), 0);
	assert_true(is_sane(all, 0, SPAN * MIB));
	assert_int_equal(disk->ops->check(disk, stderr, &err), 0);
	free(all);
}

static void at_once(void **state)
{
	int fd = create();
	struct disk *disk = image_must_open(fd, false);
	const struct vhdx *v = disk->format;

	use_at_once(disk, *(const enum queue_kind *)*state);
	assert_true(v->free.first > 50); /* given up and given back */
	image_must_close(disk);
	close(fd);
}

static void at_once_over_a_parent(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	uint8_t *all = malloc(SPAN * MIB);
	char directory[64], base[96], child[96];
	struct error err = { 0 };
	struct disk *disk;

	image_directory(directory, sizeof(directory));
	snprintf(base, sizeof(base), "%s/base.vhdx", directory);
	snprintf(child, sizeof(child), "%s/child.vhdx", directory);
	assert_int_equal(disk_create(base, &options, &err), 0);
	assert_int_equal(disk_open(&disk, base, NULL, &err), 0);
	tag(all, 0, SPAN * MIB);
	must_write(disk, 0, all, SPAN * MIB);
	image_must_close(disk);
	options.size = 0;
	options.parent = base;
	assert_int_equal(disk_create(child, &options, &err), 0);
	assert_int_equal(disk_open(&disk, child, NULL, &err), 0);
	use_at_once(disk, *(const enum queue_kind *)*state);
	image_must_close(disk);
	unlink(base);
	unlink(child);
	rmdir(directory);
	free(all);
}

static enum queue_kind automatic = QUEUE_AUTO, threaded = QUEUE_THREADS;

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_an_array),
		cmocka_unit_test(used_again),
		cmocka_unit_test(not_before_its_time),
		cmocka_unit_test(ring_full),
		cmocka_unit_test(kept_places),
		{ "at once", at_once, NULL, NULL, &automatic },
		{ "at once, threads", at_once, NULL, NULL, &threaded },
		{ "at once over a parent", at_once_over_a_parent, NULL, NULL, &automatic },
		{ "at once over a parent, threads", at_once_over_a_parent, NULL, NULL, &threaded },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
