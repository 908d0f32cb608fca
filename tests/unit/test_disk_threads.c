// SPDX-License-Identifier: GPL-2.0-or-later
/* Several queues, each with a thread, on one dynamic disk: they allocate, flush and discard at once. */
#include "tests/unit/test_disk_images.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "disk/queue.h"
#include "disk/vhdx.h"

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

static void use_at_once(struct disk *disk, uint8_t *model, enum queue_kind kind)
{
	struct worker workers[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .disk = disk, .number = i, .model = model, .kind = kind };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failures, 0);
	}
}

static void must_be(struct disk *disk, const uint8_t *model)
{
	uint8_t *all = malloc(DISK_SIZE);
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, all, DISK_SIZE, &err), 0);
	assert_true(memcmp(all, model, DISK_SIZE) == 0);
	assert_int_equal(disk->ops->check(disk, stderr, &err), 0);
	free(all);
}

struct setting {
	enum queue_kind kind;
	struct disk_create_options create;
};

static void several_queues(void **state)
{
	const struct setting *setting = *state;
	const struct disk_create_options create = setting->create;
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	uint8_t *model = calloc(1, DISK_SIZE);

	use_at_once(disk, model, setting->kind);
	image_must_close(disk);
	disk = image_must_open(fd, true);
	must_be(disk, model);
	image_must_close(disk);
	free(model);
	close(fd);
}

/* A differencing disk, whose blocks are partially present, and then are not any more. */
static void over_a_parent(void **state)
{
	const struct setting *setting = *state;
	struct disk_create_options create = setting->create;
	const struct disk_open_options reading = { .read_only = true };
	char directory[64], base[96], child[96];
	uint8_t *model = malloc(DISK_SIZE);
	struct dice dice = { 77 };
	struct error err = { 0 };
	struct disk *disk;

	image_directory(directory, sizeof(directory));
	snprintf(base, sizeof(base), "%s/base.vhdx", directory);
	snprintf(child, sizeof(child), "%s/child.vhdx", directory);
	dice_fill(&dice, model, DISK_SIZE);
	assert_int_equal(disk_create(base, &create, &err), 0);
	assert_int_equal(disk_open(&disk, base, NULL, &err), 0);
	assert_int_equal(disk_write(disk, 0, model, DISK_SIZE, &err), 0);
	image_must_close(disk);
	create.size = 0;
	create.parent = base;
	assert_int_equal(disk_create(child, &create, &err), 0);
	assert_int_equal(disk_open(&disk, child, NULL, &err), 0);
	use_at_once(disk, model, setting->kind);
	image_must_close(disk);
	assert_int_equal(disk_open(&disk, child, &reading, &err), 0);
	must_be(disk, model);
	image_must_close(disk);
	unlink(base);
	unlink(child);
	rmdir(directory);
	free(model);
}

/* A file whose syncs do not end before the gate is opened. */
struct barrier {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool open;
	unsigned arrived;
};

static void at_gate(void *context)
{
	struct barrier *gate = context;

	pthread_mutex_lock(&gate->lock);
	gate->arrived++;
	pthread_cond_broadcast(&gate->changed);
	while (!gate->open)
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

static void gate_wait(struct barrier *gate)
{
	pthread_mutex_lock(&gate->lock);
	while (gate->arrived == 0)
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

static void gate_set(struct barrier *gate, bool open)
{
	pthread_mutex_lock(&gate->lock);
	gate->open = open;
	gate->arrived = 0;
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
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

static struct disk *open_gated(struct barrier *gate, struct file_observer *observer)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	struct error err = { 0 };
	struct disk *disk;

	*gate = (struct barrier){ .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .open = true };
	*observer = (struct file_observer){ .context = gate, .written = ignore_written, .zeroed = ignore_zeroed,
		.resized = ignore_resized, .synced = at_gate };
	if (disk_open_descriptor(&disk, image_create(&create), "image", NULL, observer, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

/* A flush that takes its time keeps neither the queue's thread nor other requests. */
static void slow_flush(void **state)
{
	uint8_t sector[512] = "written";
	struct job jobs[2] = { { .result = 1 }, { .result = 1 } };
	struct file_observer observer;
	struct disk_queue *queue;
	struct error err = { 0 };
	struct barrier gate;
	struct disk *disk = open_gated(&gate, &observer);

	assert_int_equal(disk_write(disk, 0, sector, sizeof(sector), &err), 0);
	memset(sector, 0, sizeof(sector));
	assert_int_equal(disk_queue_create_kind(&queue, 4, QUEUE_THREADS, &err), 0);
	gate_set(&gate, false);
	jobs[0].request = (struct disk_request){ .op = DISK_OP_FLUSH, .complete = completed, .context = &jobs[0] };
	disk_queue_submit(queue, disk, &jobs[0].request);
	disk_queue_kick(queue);
	gate_wait(&gate);
	jobs[1].iov = (struct iovec){ sector, sizeof(sector) };
	jobs[1].request = (struct disk_request){ .op = DISK_OP_READ, .length = sizeof(sector), .iov = &jobs[1].iov,
		.iov_count = 1, .complete = completed, .context = &jobs[1] };
	disk_queue_submit(queue, disk, &jobs[1].request);
	disk_queue_kick(queue);
	while (jobs[1].result == 1) {
		struct pollfd fd = { .fd = disk_queue_fd(queue), .events = POLLIN };

		assert_int_equal(poll(&fd, 1, 20000), 1);
		disk_queue_process(queue);
	}
	assert_int_equal(jobs[1].result, 0);
	assert_string_equal(sector, "written");
	assert_int_equal(jobs[0].result, 1);
	gate_set(&gate, true);
	finish(queue);
	assert_int_equal(jobs[0].result, 0);
	disk_queue_destroy(queue);
	image_must_close(disk);
}

static void *flush_once(void *context)
{
	return (void *)(intptr_t)disk_flush(context, NULL);
}

static void *write_once(void *context)
{
	uint8_t sector[512] = { 0 };

	return (void *)(intptr_t)disk_write(context, 2 * MIB, sector, sizeof(sector), NULL);
}

/* While one commit runs, others come: they all need one more, and it is the same. */
static void shared_commit(void **state)
{
	pthread_t first, writer, others[7];
	struct file_observer observer;
	struct barrier gate;
	struct disk *disk = open_gated(&gate, &observer);
	struct vhdx *v = disk->format;
	unsigned waiting = 0;
	void *result;

	write_once(disk);
	gate_set(&gate, false);
	pthread_create(&first, NULL, flush_once, disk);
	gate_wait(&gate);
	pthread_create(&writer, NULL, write_once, disk);
	pthread_join(writer, &result);
	assert_null(result);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		pthread_create(&others[i], NULL, flush_once, disk);
	while (waiting < ARRAY_SIZE(others)) {
		pthread_mutex_lock(&v->commit.lock);
		waiting = v->commit.waiting;
		pthread_mutex_unlock(&v->commit.lock);
		sched_yield();
	}
	gate_set(&gate, true);
	pthread_join(first, &result);
	assert_null(result);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		pthread_join(others[i], &result);
		assert_null(result);
	}
	assert_int_equal(v->commit.done, 2);
	assert_int_equal(v->commit.begun, 2);
	image_must_close(disk);
}

/* --- other sizes --- */

struct writer {
	struct disk *disk;
	_Atomic bool stop;
	unsigned failures;
};

static void *write_on(void *context)
{
	struct writer *writer = context;
	struct dice dice = { 8 };
	uint8_t sector[512], read[512];

	while (!writer->stop) {
		uint64_t offset = 512 * dice_roll(&dice, 4 * MIB / 512);

		memset(sector, (int)dice_roll(&dice, 256), sizeof(sector));
		writer->failures += disk_write(writer->disk, offset, sector, sizeof(sector), NULL) != 0;
		writer->failures += disk_read(writer->disk, offset, read, sizeof(read), NULL) != 0;
		writer->failures += memcmp(read, sector, sizeof(read)) != 0;
	}
	return NULL;
}

static void resized_in_use(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 4 * MIB, .block_size = MIB };
	int fd = image_create(&create);
	struct writer writer = { .disk = image_must_open(fd, false) };
	struct error err = { 0 };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_on, &writer), 0);
	for (unsigned i = 1; i < 30; i++) {
		/* A MiB of table is enough for 128 GiB in blocks of 1 MiB. */
		uint64_t size = i == 15 ? UINT64_C(130) << 30 : (4 + i % 4) * MIB;

		if (disk_resize(writer.disk, size, false, NULL, &err) != 0)
			fail_msg("%s", err.text);
	}
	writer.stop = true;
	pthread_join(thread, NULL);
	assert_int_equal(writer.failures, 0);
	image_must_close(writer.disk);
	close(fd);
}

#define VHDX { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }
#define VHD  { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB }

static struct setting automatic = { QUEUE_AUTO, VHDX }, threaded = { QUEUE_THREADS, VHDX };
static struct setting vhd_automatic = { QUEUE_AUTO, VHD }, vhd_threaded = { QUEUE_THREADS, VHD };

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "several queues", several_queues, NULL, NULL, &automatic },
		{ "several queues, threads", several_queues, NULL, NULL, &threaded },
		{ "over a parent", over_a_parent, NULL, NULL, &automatic },
		{ "over a parent, threads", over_a_parent, NULL, NULL, &threaded },
		{ "VHD, several queues", several_queues, NULL, NULL, &vhd_automatic },
		{ "VHD, several queues, threads", several_queues, NULL, NULL, &vhd_threaded },
		{ "VHD, over a parent", over_a_parent, NULL, NULL, &vhd_automatic },
		{ "VHD, over a parent, threads", over_a_parent, NULL, NULL, &vhd_threaded },
		cmocka_unit_test(slow_flush),
		cmocka_unit_test(shared_commit),
		cmocka_unit_test(resized_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
