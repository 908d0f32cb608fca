// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Checkpoints of a disk that is in use: several queues, each with a thread, write, read, flush and discard without
 * end, while others split the disk and merge its files again. What each thread has written it must read at any
 * moment; a parent has what was complete when the disk was split, and nothing that was begun after, and does not
 * change.
 */
#include "tests/unit/test_disk_images.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <sys/stat.h>
#include <time.h>

#include "disk/queue.h"
#include "disk/vhd.h"
#include "disk/vhdx_format.h"

#define THREADS   3
#define DEPTH     6
#define DISK_SIZE (6 * MIB)
#define STRIPE    (8 * KIB) /* thread t owns the stripes whose number mod THREADS is t */
#define STRIPES   (DISK_SIZE / STRIPE)
#define OWN       (STRIPES / THREADS)

static char directory[64];
static unsigned rounds = 3;

struct job {
	struct disk_request request;
	struct iovec iov;
	uint64_t *buffer;
	uint64_t stamp; /* what is written, or must be read: in all words of the stripe */
	int result;
};

/* What is used, and how. */
struct use {
	struct disk_create_options options;
	enum queue_kind kind;
	bool beforehand; /* with rings made beforehand, one too few: somebody does it by threads */
};

struct model {
	struct disk_rings *rings; /* NULL: each queue makes its own way */
	struct disk *disk;
	enum queue_kind kind;
	_Atomic bool stop;
	_Atomic uint64_t clock;            /* stamps */
	_Atomic uint64_t begun[STRIPES];   /* the newest stamp that was submitted, */
	_Atomic uint64_t done[STRIPES];    /* and that is complete */
	_Atomic uint64_t requests;
};

struct worker {
	pthread_t thread;
	struct model *model;
	struct disk_queue *queue; /* what it leaves, perhaps with an entry that watches for the gate */
	unsigned number, failures;
};

static const char *in(const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", directory, name);
	return path;
}

static void completed(struct disk_request *request, int result)
{
	((struct job *)request->context)->result = result;
}

static void prepare(struct worker *worker, struct dice *dice, struct job *job, uint64_t stripe)
{
	static const enum disk_op ops[] = { DISK_OP_WRITE, DISK_OP_WRITE, DISK_OP_READ, DISK_OP_READ, DISK_OP_DISCARD,
		DISK_OP_FLUSH };
	struct model *model = worker->model;

	job->iov = (struct iovec){ job->buffer, STRIPE };
	job->result = 1;
	job->request = (struct disk_request){ .op = ops[dice_roll(dice, ARRAY_SIZE(ops))], .offset = stripe * STRIPE,
		.length = STRIPE, .iov = &job->iov, .iov_count = 1, .complete = completed, .context = job };
	job->stamp = atomic_load(&model->done[stripe]);
	if (job->request.op == DISK_OP_WRITE)
		job->stamp = atomic_fetch_add(&model->clock, 1) + 1;
	else if (job->request.op == DISK_OP_DISCARD)
		job->stamp = 0;
	for (unsigned i = 0; job->request.op == DISK_OP_WRITE && i < STRIPE / 8; i++)
		job->buffer[i] = job->stamp;
	if (job->request.op == DISK_OP_WRITE || job->request.op == DISK_OP_DISCARD)
		atomic_store(&model->begun[stripe], job->stamp);
}

static bool is_right(struct worker *worker, const struct job *job)
{
	if (job->result != 0)
		return false;
	if (job->request.op == DISK_OP_WRITE || job->request.op == DISK_OP_DISCARD)
		atomic_store(&worker->model->done[job->request.offset / STRIPE], job->stamp);
	for (unsigned i = 0; job->request.op == DISK_OP_READ && i < STRIPE / 8; i++)
		if (job->buffer[i] != job->stamp)
			return false;
	return true;
}

static struct disk_queue *new_queue(struct model *model)
{
	struct disk_queue *queue;
	struct error err;
	int r = model->rings ? disk_queue_create_with(&queue, DEPTH / 2, model->rings, &err)
			     : disk_queue_create_kind(&queue, DEPTH / 2, model->kind, &err);

	return r < 0 ? NULL : queue;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct model *model = worker->model;
	struct dice dice = { worker->number + 1 };
	struct job jobs[DEPTH];
	struct disk_queue *queue = new_queue(model);

	worker->failures = !queue;
	for (unsigned i = 0; i < DEPTH; i++)
		jobs[i].buffer = malloc(STRIPE);
	while (!atomic_load(&model->stop) && worker->failures == 0) {
		/* Each job of a round has a stripe of its own. */
		uint64_t first = dice_roll(&dice, OWN);

		for (unsigned i = 0; i < DEPTH; i++) {
			prepare(worker, &dice, &jobs[i], (first + i * (OWN / DEPTH)) % OWN * THREADS + worker->number);
			disk_queue_submit(queue, model->disk, &jobs[i].request);
		}
		disk_queue_kick(queue);
		while (disk_queue_in_flight(queue) > 0) {
			struct pollfd fd = { .fd = disk_queue_fd(queue), .events = POLLIN };

			poll(&fd, 1, -1);
			disk_queue_process(queue);
		}
		for (unsigned i = 0; i < DEPTH; i++)
			worker->failures += !is_right(worker, &jobs[i]);
		atomic_fetch_add(&model->requests, DEPTH);
		/* Another one goes on with its ring, in which it may be watching for the gate. */
		if (model->rings && !dice_roll(&dice, 8)) {
			disk_queue_destroy(queue);
			queue = new_queue(model);
			worker->failures += !queue;
		}
	}
	for (unsigned i = 0; i < DEPTH; i++)
		free(jobs[i].buffer);
	worker->queue = queue;
	return NULL;
}

static void wait_for_requests(struct model *model, uint64_t count)
{
	uint64_t wanted = atomic_load(&model->requests) + count;
	struct disk_info info;

	while (atomic_load(&model->requests) < wanted) {
		disk_get_info(model->disk, &info);
		assert_int_equal(info.size, DISK_SIZE);
		sched_yield();
	}
}

static void stamps_of(struct disk *disk, uint64_t *stamps)
{
	uint64_t *all = malloc(DISK_SIZE);
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, all, DISK_SIZE, &err), 0);
	for (unsigned i = 0; i < STRIPES; i++) {
		stamps[i] = all[i * (STRIPE / 8)];
		for (unsigned word = 0; word < STRIPE / 8; word++)
			assert_int_equal(all[i * (STRIPE / 8) + word], stamps[i]);
	}
	free(all);
}

static void stamps_in(const char *name, uint64_t *stamps)
{
	const struct disk_open_options reading = { .read_only = true };
	struct error err = { 0 };
	struct disk *disk;
	char path[128];

	if (disk_open(&disk, in(name, path), &reading, &err) != 0)
		fail_msg("%s", err.text);
	stamps_of(disk, stamps);
	image_must_close(disk);
}

/* Splits it and looks at the parent, as another program would. */
static void split(struct model *model, const char *parent, const char *child)
{
	static uint64_t before[STRIPES], here[STRIPES], later[STRIPES];
	struct error err = { 0 };
	uint64_t newest;
	char path[128];

	for (unsigned i = 0; i < STRIPES; i++)
		before[i] = atomic_load(&model->done[i]);
	if (disk_split(model->disk, in(child, path), &err) != 0)
		fail_msg("%s", err.text);
	newest = atomic_load(&model->clock);
	assert_string_equal(disk_path(model->disk), path);
	stamps_in(parent, here);
	for (unsigned i = 0; i < STRIPES; i++) {
		/* 0 was a discard, at some moment. */
		assert_true(here[i] == 0 || here[i] >= before[i]);
		assert_true(here[i] <= newest);
	}
	wait_for_requests(model, 200);
	stamps_in(parent, later);
	assert_memory_equal(here, later, sizeof(here));
}

static void merge(struct model *model, const char *name)
{
	struct error err = { 0 };
	char path[128];

	if (disk_merge_live(model->disk, in(name, path), NULL, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(access(path, F_OK), -1);
	wait_for_requests(model, 200);
}

static const struct disk_create_options vhdx = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };

static void create(const char *name, const struct disk_create_options *options)
{
	struct error err = { 0 };
	char path[128];

	if (disk_create(in(name, path), options, &err) != 0)
		fail_msg("%s", err.text);
}

static void start(struct model *model, struct worker *workers, const struct use *use)
{
	struct error err = { 0 };
	char path[128];

	model->kind = use->kind;
	if (use->beforehand)
		assert_true(disk_rings_create(&model->rings, THREADS - 1, DEPTH / 2, &err) >= 0);
	create("disk", &use->options);
	if (disk_open(&model->disk, in("disk", path), NULL, &err) != 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .model = model, .number = i };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	wait_for_requests(model, 200);
}

static void stop(struct model *model, struct worker *workers, const char *name)
{
	static uint64_t here[STRIPES];
	char path[128];

	atomic_store(&model->stop, true);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failures, 0);
		disk_queue_destroy(workers[i].queue);
	}
	disk_rings_destroy(model->rings);
	image_must_close(model->disk);
	stamps_in(name, here);
	for (unsigned i = 0; i < STRIPES; i++)
		assert_int_equal(here[i], atomic_load(&model->done[i]));
	assert_int_equal(disk_check(in(name, path), stderr, NULL), 0);
}

static void in_use(void **state)
{
	struct model *model = calloc(1, sizeof(*model));
	struct worker workers[THREADS];
	char path[128];

	start(model, workers, *state);
	for (unsigned i = 0; i < rounds; i++) {
		split(model, "disk", "1");
		split(model, "1", "2");
		split(model, "2", "3");
		merge(model, i % 2 ? "1" : "2"); /* in the middle, or into the lowest below two others */
		merge(model, i % 2 ? "2" : "1");
		split(model, "3", "4");
		merge(model, "4"); /* the uppermost */
		merge(model, "3");
	}
	stop(model, workers, "disk");
	unlink(in("disk", path));
	free(model);
}

/* --- what ends it early, and what is refused --- */

struct stopper {
	struct model *model;
	unsigned left;
};

static bool count_down(void *context, uint64_t done, uint64_t total)
{
	struct stopper *stopper = context;

	assert_true(done <= total);
	wait_for_requests(stopper->model, 20);
	return stopper->left-- > 0;
}

static void stopped(void **state)
{
	struct model *model = calloc(1, sizeof(*model));
	struct worker workers[THREADS];
	char path[128];

	start(model, workers, *state);
	split(model, "disk", "1");
	split(model, "1", "2");
	for (unsigned i = 0; i < 6; i++) {
		struct stopper stopper = { model, i / 2 };
		const struct disk_progress progress = { count_down, &stopper };
		struct error err = { 0 };

		assert_int_equal(disk_merge_live(model->disk, in(i % 2 ? "1" : "2", path), &progress, &err), -ECANCELED);
		wait_for_requests(model, 50);
	}
	merge(model, "2");
	merge(model, "1");
	stop(model, workers, "disk");
	unlink(in("disk", path));
	free(model);
}

/* --- who knows whom in the end --- */

static struct disk *open_named(const char *name)
{
	struct error err = { 0 };
	struct disk *disk;
	char path[128];

	if (disk_open(&disk, in(name, path), NULL, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

/* disk, 1, 2 and so on, each with something of its own; the uppermost is open. */
static struct disk *make_chain(const struct use *use, unsigned above)
{
	struct error err = { 0 };
	struct disk *disk;
	char path[128], name[2] = "0";

	create("disk", &use->options);
	disk = open_named("disk");
	for (unsigned i = 0; i <= above; i++) {
		uint64_t mark = i + 1;

		assert_int_equal(disk_write(disk, i * MIB, &mark, sizeof(mark), &err), 0);
		name[0] = (char)('1' + i);
		if (i < above && disk_split(disk, in(name, path), &err) != 0)
			fail_msg("%s", err.text);
	}
	return disk;
}

static void expect_chain(struct disk *disk, unsigned above)
{
	struct error err = { 0 };

	for (unsigned i = 0; i <= above; i++) {
		uint64_t mark;

		assert_int_equal(disk_read(disk, i * MIB, &mark, sizeof(mark), &err), 0);
		assert_int_equal(mark, i + 1);
	}
}

static bool stop_at_once(void *context, uint64_t done, uint64_t total)
{
	return false;
}

static int merge_named(struct disk *disk, const char *name, bool stop)
{
	const struct disk_progress progress = { stop_at_once, NULL };
	struct error err = { 0 };
	char path[128];

	return disk_merge_live(disk, in(name, path), stop ? &progress : NULL, &err);
}

/* What continues the one that continues the merged one still does. */
static void below_two_others(void **state)
{
	struct disk *disk = make_chain(*state, 3);
	char path[128];

	assert_int_equal(merge_named(disk, "1", true), -ECANCELED);
	image_must_close(disk);
	disk = open_named("3");
	assert_int_equal(merge_named(disk, "1", false), 0);
	image_must_close(disk);
	assert_int_equal(disk_check(in("3", path), stderr, NULL), 0);
	disk = open_named("3");
	expect_chain(disk, 3);
	assert_int_equal(merge_named(disk, "3", false), 0);
	assert_int_equal(merge_named(disk, "2", false), 0);
	expect_chain(disk, 3);
	image_must_close(disk);
	unlink(in("disk", path));
}

/* As other programs write it: `name` knows its parent by the time at which that file was changed. */
static void know_by_time(const char *top, const char *name, const char *parent)
{
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = time(NULL) + 100 } };
	uint32_t stamp = (uint32_t)(times[1].tv_sec - VHD_EPOCH);
	struct vhd_dynamic_header header;
	struct error err = { 0 };
	struct disk *disk;
	char path[128];
	uint64_t at;
	int fd;

	assert_int_equal(utimensat(AT_FDCWD, in(parent, path), times, 0), 0);
	disk = open_named(name);
	at = ((struct vhd *)disk->format)->header_offset;
	image_must_close(disk);
	fd = open(in(name, path), O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, &header, sizeof(header), (off_t)at), sizeof(header));
	be32_put(header.parent_time_stamp, stamp);
	be32_put(header.checksum, vhd_checksum(&header, sizeof(header), offsetof(struct vhd_dynamic_header, checksum)));
	assert_int_equal(pwrite(fd, &header, sizeof(header), (off_t)at), sizeof(header));
	close(fd);
	if (disk_open(&disk, in(top, path), &(struct disk_open_options){ .read_only = true }, &err) != 0)
		fail_msg("%s", err.text);
	image_must_close(disk);
}

static void known_by_time(void **state)
{
	struct disk *disk = make_chain(*state, 4);
	char path[128];

	image_must_close(disk);
	know_by_time("4", "3", "2");
	/* 2 would be written, and 3 cannot be told. */
	disk = open_named("4");
	assert_int_equal(merge_named(disk, "1", false), -ENOTSUP);
	image_must_close(disk);
	disk = open_named("4");
	assert_int_equal(merge_named(disk, "2", true), -ECANCELED);
	image_must_close(disk);
	disk = open_named("4");
	assert_int_equal(merge_named(disk, "2", false), 0);
	assert_int_equal(merge_named(disk, "1", false), 0);
	image_must_close(disk);
	disk = open_named("4");
	expect_chain(disk, 4);
	assert_int_equal(merge_named(disk, "4", false), 0);
	assert_int_equal(merge_named(disk, "3", false), 0);
	expect_chain(disk, 4);
	image_must_close(disk);
	unlink(in("disk", path));
}

static int try_lock(const char *name, int how)
{
	char path[128];
	int fd = open(in(name, path), O_RDWR | O_CLOEXEC), r = flock(fd, how | LOCK_NB);

	close(fd);
	return r;
}

static void refused(void **state)
{
	const struct disk_open_options reading = { .read_only = true };
	struct disk *disk, *other;
	char path[128], second[128];
	struct error err = { 0 };

	create("disk", &vhdx);
	in("disk", path);
	assert_int_equal(disk_open(&disk, path, &reading, &err), 0);
	assert_int_equal(disk_split(disk, in("1", second), &err), -EROFS);
	assert_int_equal(disk_merge_live(disk, path, NULL, &err), -EINVAL);
	image_must_close(disk);

	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	assert_int_equal(disk_split(disk, path, &err), -EEXIST);
	assert_int_equal(disk_split(disk, "/nowhere/1", &err), -ENOENT);
	assert_int_equal(disk_write(disk, 0, "old", 4, &err), 0);
	assert_int_equal(try_lock("disk", LOCK_SH), -1);
	assert_int_equal(disk_split(disk, second, &err), 0);
	/* Others may read the parent, and not write it; the new one is ours. */
	assert_int_equal(try_lock("disk", LOCK_SH), 0);
	assert_int_equal(try_lock("disk", LOCK_EX), -1);
	assert_int_equal(try_lock("1", LOCK_SH), -1);
	assert_int_equal(disk_merge_live(disk, "/nowhere/1", NULL, &err), -ENOENT);
	assert_int_equal(disk_merge_live(disk, path, NULL, &err), -EINVAL);
	/* A parent that somebody reads is not written. */
	assert_int_equal(disk_open(&other, path, &reading, &err), 0);
	assert_int_equal(disk_merge_live(disk, second, NULL, &err), -EBUSY);
	image_must_close(other);
	assert_int_equal(try_lock("disk", LOCK_EX), -1);
	assert_int_equal(disk_write(disk, 8192, "new", 4, &err), 0);
	assert_int_equal(disk_merge_live(disk, second, NULL, &err), 0);
	assert_int_equal(try_lock("disk", LOCK_SH), -1);
	assert_null(disk_parent(disk));
	assert_string_equal(disk_path(disk), path);
	image_must_close(disk);
	unlink(path);
}

/* A name that cannot be made durable is none: the disk goes on as it was. */
static int fail_sync(void *context)
{
	unsigned *left = context;

	return *left > 0 && --*left == 0 ? EIO : 0;
}

static void nothing(void *context)
{
}

static void nothing_written(void *context, uint64_t offset, const void *data, size_t size)
{
}

static void nothing_zeroed(void *context, uint64_t offset, uint64_t length)
{
}

static void nothing_resized(void *context, uint64_t size)
{
}

static void name_not_durable(void **state)
{
	unsigned left = 1;
	const struct file_observer observer = { .context = &left, .refuse_sync = fail_sync, .synced = nothing,
		.written = nothing_written, .zeroed = nothing_zeroed, .resized = nothing_resized };
	char path[128], child[128];
	struct error err = { 0 };
	struct disk *disk;

	create("disk", &vhdx);
	in("disk", path);
	in("1", child);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	assert_int_equal(disk_split_watched(disk, child, &observer, &err), -EIO);
	assert_non_null(strstr(err.text, "its name cannot be made durable"));
	assert_int_equal(access(child, F_OK), -1);
	assert_null(disk_parent(disk));
	assert_int_equal(disk_write(disk, 0, "on", 3, &err), 0);
	assert_int_equal(disk_split_watched(disk, child, &observer, &err), 0);
	/* Nor is the end of a merged one kept back. */
	left = 0;
	assert_int_equal(disk_merge_live(disk, child, NULL, &err), 0);
	image_must_close(disk);
	unlink(path);
}

/* One who knows nothing of our locks waits for the file, gets it while it changes hands, and keeps it. */
static void foreign_lock(void **state)
{
	char path[128], child[128];
	struct error err = { 0 };
	struct disk *disk;
	pid_t pid;

	create("disk", &vhdx);
	in("disk", path);
	assert_int_equal(disk_open(&disk, path, NULL, &err), 0);
	pid = fork();
	if (pid == 0) {
		int fd = open(path, O_RDWR | O_CLOEXEC);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		flock(fd, LOCK_EX);
		for (;;)
			pause();
	}
	/* It waits, which the kernel tells of. */
	for (bool waits = false; !waits; sched_yield()) {
		FILE *locks = fopen("/proc/locks", "re");
		char line[200], wanted[32];

		snprintf(wanted, sizeof(wanted), " %d ", (int)pid);
		while (fgets(line, sizeof(line), locks))
			waits |= strstr(line, "->") && strstr(line, wanted);
		fclose(locks);
	}
	assert_int_equal(disk_split(disk, in("1", child), &err), 0);
	assert_int_equal(disk_write(disk, 0, "on", 3, &err), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	image_must_close(disk);
	unlink(path);
	unlink(child);
}

static void *split_elsewhere(void *context)
{
	struct disk *disk = context;
	char path[128];
	struct error err = { 0 };

	return disk_split(disk, in("1", path), &err) == 0 ? disk : NULL;
}

/* A thread with requests on their way asks how large the disk is, while another waits for those. */
static void look_while_it_closes(void **state)
{
	static uint8_t data[4096];
	struct iovec iov = { data, sizeof(data) };
	struct job job = { .result = 1 };
	struct disk_queue *queue;
	struct disk_info info;
	struct error err = { 0 };
	struct disk *disk;
	char path[128];
	pthread_t thread;
	void *result;

	create("disk", &vhdx);
	assert_int_equal(disk_open(&disk, in("disk", path), NULL, &err), 0);
	assert_int_equal(disk_queue_create(&queue, 4, &err), 0);
	job.request = (struct disk_request){ .op = DISK_OP_WRITE, .length = sizeof(data), .iov = &iov, .iov_count = 1,
		.complete = completed, .context = &job };
	disk_queue_submit(queue, disk, &job.request);
	disk_queue_kick(queue);
	assert_int_equal(pthread_create(&thread, NULL, split_elsewhere, disk), 0);
	while (!(atomic_load(&disk->gate->state) & 1))
		sched_yield();
	disk_get_info(disk, &info);
	assert_int_equal(info.size, DISK_SIZE);
	while (disk_queue_in_flight(queue) > 0)
		disk_queue_wait(queue);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_ptr_equal(result, disk);
	assert_int_equal(job.result, 0);
	disk_queue_destroy(queue);
	image_must_close(disk);
	unlink(path);
	unlink(in("1", path));
}

/* What is nobody's disk, and what may be somebody's. */
static void void_or_not(void **state)
{
	static const struct {
		const char *bytes;
		size_t size;
		int is_void;
	} cases[] = { { "", 0, 1 }, { "vhdx", 4, 1 }, { "\0\0\0\0\0\0\0\0", 8, 1 }, { DISK_VOID_SIGNATURE, 8, 1 },
		{ VHDX_FILE_SIGNATURE, 8, 0 }, { "conectix", 8, 0 }, { "a letter", 8, -EBADMSG } };
	char path[128];
	struct error err = { 0 };

	snprintf(path, sizeof(path), "%s/void-or-not", directory);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		FILE *file = fopen(path, "w");

		assert_int_equal(fwrite(cases[i].bytes, 1, cases[i].size, file), cases[i].size);
		fclose(file);
		assert_int_equal(disk_is_void(path, &err), cases[i].is_void);
	}
	unlink(path);
	assert_int_equal(disk_is_void(path, &err), -ENOENT);
}

int main(int argc, char **argv)
{
	static struct use uses[] = { { { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }, QUEUE_AUTO, false },
		{ { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }, QUEUE_THREADS, false },
		{ { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB }, QUEUE_AUTO, false },
		{ { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB }, QUEUE_THREADS, false },
		{ { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true }, QUEUE_AUTO, false },
		{ { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB }, QUEUE_AUTO, true } };
	const struct CMUnitTest tests[] = {
		{ "in use, by io_uring", in_use, NULL, NULL, &uses[0] },
		{ "in use, by rings made beforehand", in_use, NULL, NULL, &uses[5] },
		{ "in use, by threads", in_use, NULL, NULL, &uses[1] },
		{ "VHD in use, by io_uring", in_use, NULL, NULL, &uses[2] },
		{ "VHD in use, by threads", in_use, NULL, NULL, &uses[3] },
		{ "fixed VHD in use", in_use, NULL, NULL, &uses[4] },
		{ "stopped", stopped, NULL, NULL, &uses[0] },
		{ "VHD, stopped", stopped, NULL, NULL, &uses[2] },
		{ "below two others", below_two_others, NULL, NULL, &uses[0] },
		{ "VHD, below two others", below_two_others, NULL, NULL, &uses[2] },
		{ "VHD, known by time", known_by_time, NULL, NULL, &uses[2] },
		cmocka_unit_test(refused),
		cmocka_unit_test(name_not_durable),
		cmocka_unit_test(foreign_lock),
		cmocka_unit_test(look_while_it_closes),
		cmocka_unit_test(void_or_not),
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
