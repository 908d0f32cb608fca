// SPDX-License-Identifier: GPL-2.0-or-later
/* Random operations on every kind of image, against an array that says what must be there. */
#include "tests/unit/test_disk_images.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

#include "disk/queue.h"

#define SLICES       6 /* requests in flight at once, each in its part of the disk, so none overlap */
#define REQUEST_MAX  (3 * MIB)
#define IOV_PIECES   90

struct kind {
	struct disk_create_options create;
	enum queue_kind queue;
	bool direct;
};

struct slice {
	struct disk_request request;
	struct iovec iov[IOV_PIECES];
	uint8_t *buffer;
	const uint8_t *expected; /* in the model, for reads */
	int result;
	unsigned completions;
};

struct world {
	const struct kind *kind;
	struct dice dice;
	int fd;
	struct disk *disk;
	struct disk_info info;
	struct disk_queue *queue;
	uint8_t *model;
	struct slice slices[SLICES];
};

static void completed(struct disk_request *request, int result)
{
	struct slice *slice = request->context;

	slice->result = result;
	slice->completions++;
}

/* In turn by the descriptor and without. */
static void run_queue(struct disk_queue *queue)
{
	static unsigned turn;

	while (turn % 2 && disk_queue_in_flight(queue) > 0)
		disk_queue_wait(queue);
	turn++;
	disk_queue_kick(queue);
	while (disk_queue_in_flight(queue) > 0) {
		struct pollfd fd = { .fd = disk_queue_fd(queue), .events = POLLIN };

		assert_int_equal(poll(&fd, 1, 20000), 1);
		disk_queue_process(queue);
	}
}

/* Cuts the buffer into elements of any size, some of them empty. */
static int cut(struct dice *dice, struct iovec *iov, uint8_t *buffer, uint64_t length)
{
	int count = 0;

	if (dice_roll(dice, 2)) {
		iov[0] = (struct iovec){ buffer, length };
		return 1;
	}
	while (count < IOV_PIECES - 1) {
		uint64_t part = min_u64(length, dice_roll(dice, 3) ? dice_roll(dice, 70000) : 0);

		iov[count++] = (struct iovec){ buffer, part };
		buffer += part;
		length -= part;
	}
	iov[count++] = (struct iovec){ buffer, length };
	return count;
}

static enum disk_op choose_op(struct dice *dice)
{
	static const enum disk_op ops[] = { DISK_OP_READ, DISK_OP_READ, DISK_OP_READ, DISK_OP_WRITE,
		DISK_OP_WRITE, DISK_OP_WRITE, DISK_OP_FLUSH, DISK_OP_DISCARD, DISK_OP_WRITE_ZEROES };

	return ops[dice_roll(dice, ARRAY_SIZE(ops))];
}

static void submit(struct world *world, unsigned index)
{
	struct slice *slice = &world->slices[index];
	struct disk_request *request = &slice->request;
	uint32_t sector = world->info.logical_sector_size;
	uint64_t sectors = world->info.size / sector;
	uint64_t first = sectors * index / SLICES, end = sectors * (index + 1) / SLICES;
	uint64_t start = first + dice_roll(&world->dice, end - first);
	uint64_t most = dice_roll(&world->dice, 4) ? 64 * KIB : REQUEST_MAX;
	uint64_t count = min_u64(end - start, dice_roll(&world->dice, most / sector + 1));
	uint8_t *at = world->model + start * sector;

	slice->completions = 0;
	slice->expected = at;
	*request = (struct disk_request){ .op = choose_op(&world->dice), .offset = start * sector,
		.length = count * sector, .iov = slice->iov, .complete = completed, .context = slice };
	request->force_unit_access = dice_roll(&world->dice, 8) == 0;
	request->iov_count = cut(&world->dice, slice->iov, slice->buffer, request->length);
	if (request->op == DISK_OP_WRITE) {
		dice_fill(&world->dice, slice->buffer, request->length);
		memcpy(at, slice->buffer, request->length);
	} else if (request->op == DISK_OP_READ) {
		memset(slice->buffer, 0xee, request->length);
	} else if (request->op != DISK_OP_FLUSH) {
		memset(at, 0, request->length);
	}
	disk_queue_submit(world->queue, world->disk, request);
	assert_int_equal(slice->completions, 0);
}

static void check_slice(const struct slice *slice)
{
	assert_int_equal(slice->completions, 1);
	assert_int_equal(slice->result, 0);
	if (slice->request.op == DISK_OP_READ)
		assert_memory_equal(slice->buffer, slice->expected, slice->request.length);
}

static void check_all(struct world *world)
{
	uint8_t *all = malloc(world->info.size);
	struct error err;

	assert_int_equal(disk_read(world->disk, 0, all, world->info.size, &err), 0);
	assert_true(memcmp(all, world->model, world->info.size) == 0);
	free(all);
}

static void open_world(struct world *world)
{
	const struct disk_open_options options = { .direct = world->kind->direct };
	struct error err = { 0 };

	assert_int_equal(disk_open_descriptor(&world->disk, dup(world->fd), "image", &options, NULL, &err), 0);
	disk_get_info(world->disk, &world->info);
}

static void random_operations(void **state)
{
	struct world world = { .kind = *state, .dice = { 7 } };
	struct error err = { 0 };

	world.fd = image_create(&world.kind->create);
	open_world(&world);
	if (disk_queue_create_kind(&world.queue, 4, world.kind->queue, &err) < 0)
		skip();
	world.model = calloc(1, world.info.size);
	for (unsigned i = 0; i < SLICES; i++)
		world.slices[i].buffer = malloc(REQUEST_MAX);
	for (unsigned round = 0; round < 150; round++) {
		unsigned count = 1 + (unsigned)dice_roll(&world.dice, SLICES);

		for (unsigned i = 0; i < count; i++)
			submit(&world, i);
		run_queue(world.queue);
		for (unsigned i = 0; i < count; i++)
			check_slice(&world.slices[i]);
		if (round % 40 == 39) {
			check_all(&world);
			image_must_close(world.disk);
			open_world(&world);
			check_all(&world);
		}
	}
	image_must_close(world.disk);
	disk_queue_destroy(world.queue);
	for (unsigned i = 0; i < SLICES; i++)
		free(world.slices[i].buffer);
	free(world.model);
	close(world.fd);
}

static int run_one(struct disk_queue *queue, struct disk *disk, enum disk_op op, uint64_t offset, uint64_t length,
    void *buffer)
{
	struct slice slice = { 0 };
	struct iovec iov = { buffer, length };

	slice.request = (struct disk_request){ .op = op, .offset = offset, .length = length, .iov = &iov,
		.iov_count = 1, .complete = completed, .context = &slice };
	disk_queue_submit(queue, disk, &slice.request);
	run_queue(queue);
	assert_int_equal(slice.completions, 1);
	return slice.result;
}

static void refused_requests(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 4 * MIB };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, true);
	struct disk_queue *queue;
	uint8_t sector[512];
	struct error err;

	assert_int_equal(disk_queue_create(&queue, 1, &err), 0);
	assert_int_equal(run_one(queue, disk, DISK_OP_READ, 4 * MIB, 512, sector), -EINVAL);
	assert_int_equal(run_one(queue, disk, DISK_OP_READ, UINT64_MAX - 511, 512, sector), -EINVAL);
	assert_int_equal(run_one(queue, disk, DISK_OP_WRITE, 0, 512, sector), -EROFS);
	assert_int_equal(run_one(queue, disk, DISK_OP_DISCARD, 0, 512, NULL), -EROFS);
	assert_int_equal(run_one(queue, disk, DISK_OP_READ, 0, 512, sector), 0);
	assert_int_equal(run_one(queue, disk, DISK_OP_FLUSH, 0, 0, NULL), 0);
	disk_queue_destroy(queue);
	image_must_close(disk);
	close(fd);
}

/* Rings that were made beforehand: a queue's goes to the next one, and who comes when all are in use does without. */
static void rings_made_beforehand(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 4 * MIB };
	int fd = image_create(&create), first = -1, made;
	struct disk *disk = image_must_open(fd, false);
	struct disk_queue *queues[2];
	struct disk_rings *rings;
	uint8_t sector[512] = "beforehand";
	struct error err;

	made = disk_rings_create(&rings, 1, 4, &err);
	assert_in_range(made, 0, 1);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(disk_queue_create_with(&queues[i], 4, rings, &err), 0);
			assert_int_equal(run_one(queues[i], disk, DISK_OP_WRITE, 512 * i, 512, sector), 0);
			assert_int_equal(run_one(queues[i], disk, DISK_OP_FLUSH, 0, 0, NULL), 0);
			assert_int_equal(run_one(queues[i], disk, DISK_OP_READ, 512 * i, 512, sector), 0);
			assert_string_equal((char *)sector, "beforehand");
		}
		if (round == 0)
			first = disk_queue_fd(queues[0]);
		if (made)
			assert_int_equal(disk_queue_fd(queues[0]), first);
		disk_queue_destroy(queues[0]);
		disk_queue_destroy(queues[1]);
	}
	disk_rings_destroy(rings);
	image_must_close(disk);
	close(fd);
}

static void discard_frees_space(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 64 * MIB };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	struct disk_info before, full, after;
	uint8_t *data = malloc(8 * MIB);
	struct disk_queue *queue;
	struct error err;

	memset(data, 1, 8 * MIB);
	assert_int_equal(disk_queue_create(&queue, 1, &err), 0);
	disk_get_info(disk, &before);
	assert_true(before.can_discard && before.dynamic);
	assert_int_equal(run_one(queue, disk, DISK_OP_WRITE, 3 * MIB, 8 * MIB, data), 0);
	disk_get_info(disk, &full);
	assert_true(full.file_size >= before.file_size + 8 * MIB);
	assert_int_equal(run_one(queue, disk, DISK_OP_DISCARD, 3 * MIB, 8 * MIB, NULL), 0);
	/* Zeroing what was never written allocates nothing. */
	assert_int_equal(run_one(queue, disk, DISK_OP_WRITE_ZEROES, 32 * MIB, 32 * MIB, NULL), 0);
	/* A block's place stays its own until the table that says otherwise is on the disk. */
	assert_int_equal(run_one(queue, disk, DISK_OP_FLUSH, 0, 0, NULL), 0);
	disk_get_info(disk, &after);
	assert_true(after.file_size + 7 * MIB <= full.file_size);
	assert_int_equal(run_one(queue, disk, DISK_OP_READ, 3 * MIB, 8 * MIB, data), 0);
	for (unsigned i = 0; i < 8 * MIB; i++)
		assert_int_equal(data[i], 0);
	disk_queue_destroy(queue);
	image_must_close(disk);
	free(data);
	close(fd);
}

/* The largest disk opens without its table being read, and works at its very end. */
static void largest_disk(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = UINT64_C(64) << 40,
		.block_size = *(const uint32_t *)*state };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	struct disk_info info;
	uint64_t last = create.size - 512;
	struct error err = { 0 };
	char in[512], out[512];

	memset(in, 'x', sizeof(in));
	assert_int_equal(disk_write(disk, last, in, sizeof(in), &err), 0);
	/* More pages of the table than are kept, so that they are dropped and committed on the way. */
	for (uint64_t i = 0; i < 3000; i++) {
		memcpy(in, &i, sizeof(i));
		assert_int_equal(disk_write(disk, i * UINT64_C(512) * create.block_size % last / 512 * 512, in, 512, &err), 0);
		if (create.block_size > MIB)
			break;
	}
	image_must_close(disk);
	disk = image_must_open(fd, true);
	disk_get_info(disk, &info);
	assert_int_equal(info.size, create.size);
	for (uint64_t i = 0; i < 3000 && create.block_size == MIB; i++) {
		memcpy(in, &i, sizeof(i));
		assert_int_equal(disk_read(disk, i * UINT64_C(512) * MIB, out, 512, &err), 0);
		assert_memory_equal(in, out, 512);
	}
	assert_int_equal(disk_read(disk, last, out, 512, &err), 0);
	assert_int_equal(out[511], 'x');
	image_must_close(disk);
	close(fd);
}

static void raw_of_odd_length(void **state)
{
	int fd = image_create(NULL);
	struct disk *disk;
	struct disk_info info;
	char byte;
	struct error err = { 0 };

	assert_int_equal(image_open(&disk, fd, true, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too few"));
	assert_int_equal(ftruncate(fd, 1500), 0);
	disk = image_must_open(fd, false);
	disk_get_info(disk, &info);
	assert_int_equal(info.size, 1024);
	assert_int_equal(info.format, DISK_FORMAT_RAW);
	assert_int_equal(disk_read(disk, 1023, &byte, 1, &err), 0);
	assert_int_equal(disk_read(disk, 1024, &byte, 1, &err), -EINVAL);
	image_must_close(disk);
	close(fd);
}

static int open_again(const char *path, int mode)
{
	int fd = open(path, mode | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void expect_refused_descriptor(int fd, bool read_only, int code, const char *text)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	assert_int_equal(disk_open_fd(&disk, fd, "given", &options, &err), -code);
	assert_non_null(strstr(err.text, "given"));
	assert_non_null(strstr(err.text, text));
	/* It was taken over. */
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* A file that another process has opened; messages have the name that comes with it. */
static unsigned flags_of(int fd)
{
	char path[64], line[100];
	unsigned flags = O_NONBLOCK;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	assert_non_null(info);
	while (fgets(line, sizeof(line), info) && sscanf(line, "flags: %o", &flags) != 1)
		;
	fclose(info);
	return flags;
}

/* As io_uring of Linux 6.1 serves a descriptor that does not wait by -EAGAIN alone, where the device below waits. */
static void descriptors_wait(void **state)
{
	struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB };
	char directory[64], path[100], pipe[100];
	struct error err = { 0 };
	struct disk *disk;
	int fd;

	(void)state;
	image_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/image", directory);
	snprintf(pipe, sizeof(pipe), "%s/pipe", directory);
	assert_int_equal(disk_create(path, &create, &err), 0);
	fd = disk_file_open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(flags_of(fd) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
	/* The number that is free next is what a disk has. */
	close(fd);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	assert_int_equal(flags_of(fd) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
	image_must_close(disk);

	/* Nobody writes there, and it is open all the same. */
	assert_int_equal(mkfifo(pipe, 0600), 0);
	fd = disk_file_open(pipe, O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(disk_open(&disk, pipe, &(struct disk_open_options){ .read_only = true }, &err), -EINVAL);
	assert_int_equal(unlink(pipe), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(directory), 0);
}

static void opened_by_descriptor(void **state)
{
	struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 8 * MIB };
	char directory[64], path[100], child[100];
	struct error err = { 0 };
	struct disk *disk;
	char byte = 'x';

	(void)state;
	image_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/image", directory);
	snprintf(child, sizeof(child), "%s/child", directory);
	assert_int_equal(disk_create(path, &create, &err), 0);
	create = (struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = path };
	assert_int_equal(disk_create(child, &create, &err), 0);

	expect_refused_descriptor(open_again(path, O_RDONLY), false, EBADF, "writing");
	expect_refused_descriptor(open_again(path, O_WRONLY), true, EBADF, "reading");
	expect_refused_descriptor(open_again(path, O_RDWR | O_APPEND), false, EBADF, "at any place");
	expect_refused_descriptor(open_again(path, O_PATH), true, EBADF, "reading");
	expect_refused_descriptor(open_again(directory, O_RDONLY), true, EISDIR, "directory");
	expect_refused_descriptor(open_again(child, O_RDWR), false, ENOTSUP, "differencing");
	assert_int_equal(disk_open_fd(&disk, -1, "given", NULL, &err), -EBADF);

	assert_int_equal(disk_open_fd(&disk, open_again(path, O_RDWR), "given", NULL, &err), 0);
	assert_string_equal(disk_path(disk), "given");
	assert_int_equal(disk_write(disk, 4711, &byte, 1, &err), 0);
	/* It is locked as any other. */
	expect_refused_descriptor(open_again(path, O_RDWR), false, EBUSY, "open");
	image_must_close(disk);
	assert_int_equal(disk_open_fd(&disk, open_again(path, O_RDONLY), "given", &(struct disk_open_options){ .read_only = true }, &err), 0);
	byte = 0;
	assert_int_equal(disk_read(disk, 4711, &byte, 1, &err), 0);
	assert_int_equal(byte, 'x');
	image_must_close(disk);
	unlink(path);
	unlink(child);
	rmdir(directory);
}

#define DYNAMIC { .format = DISK_FORMAT_VHDX, .size = 21 * MIB + 3 * 4096, .block_size = MIB }
#define FIXED   { .format = DISK_FORMAT_VHDX, .size = 21 * MIB + 3 * 4096, .block_size = 2 * MIB, .fixed = true }
#define RAW     { .format = DISK_FORMAT_RAW, .size = 21 * MIB + 3 * 4096 }
#define SECTORS_4096 { .format = DISK_FORMAT_VHDX, .size = 21 * MIB + 3 * 4096, .block_size = 4 * MIB, \
	.logical_sector_size = 4096 }

static struct kind kinds[] = {
	{ DYNAMIC, QUEUE_RING, false }, { DYNAMIC, QUEUE_THREADS, false }, { DYNAMIC, QUEUE_RING, true },
	{ FIXED, QUEUE_RING, false }, { FIXED, QUEUE_THREADS, false },
	{ RAW, QUEUE_RING, false }, { RAW, QUEUE_THREADS, false },
	{ SECTORS_4096, QUEUE_RING, false }, { SECTORS_4096, QUEUE_THREADS, false },
};

static uint32_t smallest_block = MIB, largest_block = 256 * MIB;

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "dynamic, ring", random_operations, NULL, NULL, &kinds[0] },
		{ "dynamic, threads", random_operations, NULL, NULL, &kinds[1] },
		{ "dynamic, direct", random_operations, NULL, NULL, &kinds[2] },
		{ "fixed, ring", random_operations, NULL, NULL, &kinds[3] },
		{ "fixed, threads", random_operations, NULL, NULL, &kinds[4] },
		{ "raw, ring", random_operations, NULL, NULL, &kinds[5] },
		{ "raw, threads", random_operations, NULL, NULL, &kinds[6] },
		{ "sectors of 4096, ring", random_operations, NULL, NULL, &kinds[7] },
		{ "sectors of 4096, threads", random_operations, NULL, NULL, &kinds[8] },
		cmocka_unit_test(refused_requests),
		cmocka_unit_test(rings_made_beforehand),
		cmocka_unit_test(discard_frees_space),
		{ "largest disk, smallest blocks", largest_disk, NULL, NULL, &smallest_block },
		{ "largest disk, largest blocks", largest_disk, NULL, NULL, &largest_block },
		cmocka_unit_test(raw_of_odd_length),
		cmocka_unit_test(descriptors_wait),
		cmocka_unit_test(opened_by_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
