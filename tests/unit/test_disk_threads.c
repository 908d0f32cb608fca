// SPDX-License-Identifier: GPL-2.0-or-later
/* Several queues, each with a thread, on one dynamic disk: they allocate, flush and discard at once. */
#include "tests/unit/test_disk_images.h"

#include <poll.h>
#include <pthread.h>

#include "disk/queue.h"

#define THREADS   4
#define DEPTH     8
#define DISK_SIZE (24 * MIB)
#define STRIPE    (16 * KIB) /* thread t owns the stripes whose number mod THREADS is t: all share blocks */
#define STRIPES   (DISK_SIZE / STRIPE / THREADS)
#define ROUNDS    200

struct job {
	struct disk_request request;
	struct iovec iov;
	uint8_t *buffer;
	int result;
};

struct worker {
	pthread_t thread;
	struct disk *disk;
	unsigned number;
	enum queue_kind kind;
	uint8_t *model; /* of the whole disk, shared: each writes only its own stripes */
	unsigned failures;
};

static void completed(struct disk_request *request, int result)
{
	((struct job *)request->context)->result = result;
}

static void prepare(struct worker *worker, struct dice *dice, struct job *job, uint64_t stripe)
{
	static const enum disk_op ops[] = { DISK_OP_WRITE, DISK_OP_WRITE, DISK_OP_WRITE, DISK_OP_READ, DISK_OP_READ,
		DISK_OP_DISCARD, DISK_OP_FLUSH };
	uint64_t offset = (stripe * THREADS + worker->number) * STRIPE;

	job->iov = (struct iovec){ job->buffer, STRIPE };
	job->result = 1;
	job->request = (struct disk_request){ .op = ops[dice_roll(dice, ARRAY_SIZE(ops))], .offset = offset,
		.length = STRIPE, .iov = &job->iov, .iov_count = 1, .complete = completed, .context = job };
	job->request.force_unit_access = dice_roll(dice, 10) == 0;
	if (job->request.op == DISK_OP_WRITE) {
		dice_fill(dice, job->buffer, STRIPE);
		memcpy(worker->model + offset, job->buffer, STRIPE);
	} else if (job->request.op == DISK_OP_DISCARD) {
		memset(worker->model + offset, 0, STRIPE);
	}
}

static void finish(struct disk_queue *queue)
{
	disk_queue_kick(queue);
	while (disk_queue_in_flight(queue) > 0) {
		struct pollfd fd = { .fd = disk_queue_fd(queue), .events = POLLIN };

		poll(&fd, 1, -1);
		disk_queue_process(queue);
	}
}

/* cmocka's assertions belong to the main thread: failures are counted here and asserted there. */
static void *work(void *argument)
{
	struct worker *worker = argument;
	struct dice dice = { worker->number + 1 };
	struct job jobs[DEPTH];
	struct disk_queue *queue;
	struct error err;

	if (disk_queue_create_kind(&queue, DEPTH / 2, worker->kind, &err) < 0) {
		worker->failures = 1;
		return NULL;
	}
	for (unsigned i = 0; i < DEPTH; i++)
		jobs[i].buffer = malloc(STRIPE);
	for (unsigned round = 0; round < ROUNDS; round++) {
		/* Neighbours never meet: each job of a round has a stripe of its own. */
		uint64_t first = dice_roll(&dice, STRIPES);

		for (unsigned i = 0; i < DEPTH; i++) {
			prepare(worker, &dice, &jobs[i], (first + i * (STRIPES / DEPTH)) % STRIPES);
			disk_queue_submit(queue, worker->disk, &jobs[i].request);
		}
		finish(queue);
		for (unsigned i = 0; i < DEPTH; i++) {
			const struct disk_request *request = &jobs[i].request;

			worker->failures += jobs[i].result != 0;
			if (request->op == DISK_OP_READ)
				worker->failures += memcmp(jobs[i].buffer, worker->model + request->offset, STRIPE) != 0;
		}
	}
	for (unsigned i = 0; i < DEPTH; i++)
		free(jobs[i].buffer);
	disk_queue_destroy(queue);
	return NULL;
}

static void several_queues(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	uint8_t *model = calloc(1, DISK_SIZE), *all = malloc(DISK_SIZE);
	struct worker workers[THREADS];
	struct error err = { 0 };

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .disk = disk, .number = i, .model = model,
			.kind = *(const enum queue_kind *)*state };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failures, 0);
	}
	image_must_close(disk);
	disk = image_must_open(fd, true);
	assert_int_equal(disk_read(disk, 0, all, DISK_SIZE, &err), 0);
	assert_true(memcmp(all, model, DISK_SIZE) == 0);
	assert_int_equal(disk->ops->check(disk, stderr, &err), 0);
	image_must_close(disk);
	free(model);
	free(all);
	close(fd);
}

static enum queue_kind automatic = QUEUE_AUTO, synchronous = QUEUE_SYNC;

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "several queues", several_queues, NULL, NULL, &automatic },
		{ "several queues, system calls", several_queues, NULL, NULL, &synchronous },
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
