/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk_turns: what a request of 4 KiB costs beside the same one to the bare file, by short turns in one thread.
 *
 * Usage: disk_turns read|write DEPTH COUNT BYTES {IMAGE FILE OFFSET}...
 *
 * The disk in IMAGE is reached by the library's queue; FILE from OFFSET on, where the disk's BYTES are, by io_uring
 * alone: all that came back is sent anew, with one system call, which waits for the next. Both past the page cache, at
 * random places, DEPTH at once, 8 for each of these in a turn. Turns as short as these have the same machine, whoever
 * else uses it; of two programs one after the other that cannot be said. Prints for each image a line: the lower
 * quartile and the median of the microseconds a request, the bare file's and the disk's; then the bare file's
 * mean of the lower half over the disk's. Writing loses the contents. bench/disk.py builds and runs it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "disk/disk.h"

#define BLOCK     4096u
#define TURN      8u
#define DEPTH_MAX 256u

/* Of turns, in nanoseconds a request. */
struct times {
	double *of;
	size_t count;
};

struct bare {
	int fd;
	uint64_t offset;
	struct io_uring ring;
};

struct run {
	bool write;
	unsigned depth;
	size_t turns;
	uint64_t blocks;
	void *buffer; /* of all requests */
	struct iovec iov;
	uint64_t random;
};

/* A turn of requests to a disk. */
struct lanes {
	struct disk_request requests[DEPTH_MAX];
	struct disk_request *idle[DEPTH_MAX];
	unsigned idle_count;
};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "disk_turns: %s: %s\n", what, why);
	exit(1);
}

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Knuth's MMIX generator. */
static uint64_t next_offset(struct run *run)
{
	run->random = run->random * 6364136223846793005u + 1442695040888963407u;
	return (run->random >> 20) % run->blocks * BLOCK;
}

static void bare_send(struct bare *bare, struct run *run)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&bare->ring);
	uint64_t offset = bare->offset + next_offset(run);

	if (run->write)
		io_uring_prep_write(entry, bare->fd, run->buffer, BLOCK, offset);
	else
		io_uring_prep_read(entry, bare->fd, run->buffer, BLOCK, offset);
}

static void bare_turn(struct bare *bare, struct run *run)
{
	unsigned sent = 0, done = 0, count = TURN * run->depth;
	struct io_uring_cqe *entry;

	while (done < count) {
		for (; sent < count && sent - done < run->depth; sent++)
			bare_send(bare, run);
		if (io_uring_submit_and_wait(&bare->ring, 1) < 0)
			fail("the bare file", "io_uring failed");
		for (; io_uring_peek_cqe(&bare->ring, &entry) == 0; done++) {
			if (entry->res != (int)BLOCK)
				fail("the bare file", "a request failed");
			io_uring_cqe_seen(&bare->ring, entry);
		}
	}
}

static void complete(struct disk_request *request, int result)
{
	struct lanes *lanes = request->context;

	if (result < 0)
		fail("a request to the disk", strerror(-result));
	lanes->idle[lanes->idle_count++] = request;
}

static void disk_turn(struct disk *disk, struct disk_queue *queue, struct lanes *lanes, struct run *run)
{
	unsigned sent = 0, count = TURN * run->depth;

	while (sent < count || lanes->idle_count < run->depth) {
		for (; sent < count && lanes->idle_count > 0; sent++) {
			struct disk_request *request = lanes->idle[--lanes->idle_count];

			request->offset = next_offset(run);
			disk_queue_submit(queue, disk, request);
		}
		disk_queue_wait(queue);
	}
}

static void prepare_lanes(struct lanes *lanes, const struct run *run)
{
	lanes->idle_count = 0;
	for (unsigned i = 0; i < run->depth; i++) {
		lanes->requests[i] = (struct disk_request){.op = run->write ? DISK_OP_WRITE : DISK_OP_READ,
							   .length = BLOCK,
							   .iov = &run->iov,
							   .iov_count = 1,
							   .complete = complete,
							   .context = lanes};
		lanes->idle[lanes->idle_count++] = &lanes->requests[i];
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void add(struct times *times, const struct run *run, uint64_t start)
{
	times->of[times->count++] = (double)(nanoseconds() - start) / (TURN * run->depth);
}

static double lower_mean(const struct times *times)
{
	size_t count = (times->count + 1) / 2;
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += times->of[i];
	return sum / (double)count;
}

static void show(struct times *bare, struct times *ours)
{
	qsort(bare->of, bare->count, sizeof(double), compare);
	qsort(ours->of, ours->count, sizeof(double), compare);
	printf("%.2f %.2f %.2f %.2f %.3f\n", bare->of[bare->count / 4] / 1e3, bare->of[bare->count / 2] / 1e3,
	       ours->of[ours->count / 4] / 1e3, ours->of[ours->count / 2] / 1e3,
	       lower_mean(bare) / lower_mean(ours));
}

static void measure(struct run *run, const char *image, struct bare *bare)
{
	const struct disk_open_options options = {.read_only = !run->write, .direct = true};
	struct times plain = {calloc(run->turns, sizeof(double)), 0};
	struct times ours = {calloc(run->turns, sizeof(double)), 0};
	static struct lanes lanes;
	struct disk_queue *queue;
	struct error err = {0};
	struct disk *disk;

	if (!plain.of || !ours.of)
		fail(image, "no memory for so many turns");
	if (disk_open(&disk, image, &options, &err) < 0 || disk_queue_create(&queue, run->depth, &err) < 0)
		fail(image, err.text);
	prepare_lanes(&lanes, run);
	while (ours.count < run->turns) {
		uint64_t start = nanoseconds();

		bare_turn(bare, run);
		add(&plain, run, start);
		start = nanoseconds();
		disk_turn(disk, queue, &lanes, run);
		add(&ours, run, start);
	}
	show(&plain, &ours);
	disk_queue_destroy(queue);
	if (disk_close(disk, &err) < 0)
		fail(image, err.text);
	free(plain.of);
	free(ours.of);
}

int main(int argc, char **argv)
{
	struct run run = {.random = 1};

	if (argc < 8 || (argc - 5) % 3 != 0)
		return 2;
	run.write = strcmp(argv[1], "write") == 0;
	run.depth = (unsigned)strtoul(argv[2], NULL, 10);
	if (run.depth == 0 || run.depth > DEPTH_MAX)
		return 2;
	run.turns = (strtoul(argv[3], NULL, 10) + TURN * run.depth - 1) / (TURN * run.depth);
	run.blocks = strtoull(argv[4], NULL, 10) / BLOCK;
	run.buffer = aligned_alloc(BLOCK, BLOCK);
	if (!run.buffer || run.turns == 0 || run.blocks == 0)
		return 2;
	memset(run.buffer, 0xa5, BLOCK);
	run.iov = (struct iovec){run.buffer, BLOCK};
	for (int i = 5; i < argc; i += 3) {
		struct bare bare = {.fd = open(argv[i + 1], O_RDWR | O_DIRECT | O_CLOEXEC),
				    .offset = strtoull(argv[i + 2], NULL, 10)};

		if (bare.fd < 0)
			fail(argv[i + 1], strerror(errno));
		if (io_uring_queue_init(run.depth, &bare.ring, IORING_SETUP_COOP_TASKRUN) < 0)
			fail("io_uring", "refused");
		measure(&run, argv[i], &bare);
		io_uring_queue_exit(&bare.ring);
		close(bare.fd);
	}
	return 0;
}
