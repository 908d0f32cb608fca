/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads of each kind in the sandbox: what each must be able to do, and that it is stopped at what it must not. Run under
 * strace too, by tests/guest/test_calls.py.
 */
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "base/thread.h"
#include "disk/disk.h"
#include "worker/sandbox.h"

enum { REFUSED = 0, SUCCEEDED = 1, NOT_ENTERED = 2 };

/* --- what must go on ----------------------------------------------------------------------------------------- */

static enum thread_kind kinds[] = {THREAD_VP, THREAD_DISK, THREAD_TIMER, THREAD_BUS, THREAD_NETWORK};

#define THREADS 40u
#define BLOCK   100000u /* of a heap; what is larger than M_MMAP_THRESHOLD, 128 KiB, has a mapping of its own */

static pthread_barrier_t all_here;

/* What a thread of any kind does now and then, and few runs of a guest show. So many of one kind are there at a time that the last ones
 * share heaps with others. */
static void *work(void *context)
{
	const enum thread_kind *kind = context;
	struct timespec t = {0, 1000};
	size_t size = BLOCK;
	char *much;

	thread_begin(*kind, "worker");
	much = malloc(size);
	pthread_barrier_wait(&all_here);
	while (much && size < (8u << 20)) {
		memset(much, 1, size);
		much = realloc(much, size *= 2);
	}
	free(much);
	nanosleep(&t, NULL);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	sched_yield();
	syscall(SYS_membarrier, 0, 0, 0);
	if (*kind == THREAD_VP && syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, &t))
		return NULL;
	return much ? context : NULL;
}

/* Memory of the first thread that another one gives back to the kernel: what is above it is free. */
struct shared {
	enum thread_kind kind;
	pthread_barrier_t made;
	char *blocks[16];
};

static void *give_back(void *context)
{
	struct shared *shared = context;

	thread_begin(shared->kind, "worker");
	pthread_barrier_wait(&shared->made);
	for (unsigned i = ARRAY_SIZE(shared->blocks); i--;)
		free(shared->blocks[i]);
	return NULL;
}

static void work_in_sandbox(enum thread_kind *kind)
{
	const struct sandbox_config config = {.has_user = false};
	struct shared shared = {.kind = *kind};
	pthread_t threads[THREADS];
	struct error err = {0};
	unsigned good = 0;

	/* As it is, and not what malloc() makes of it by and by. */
	mallopt(M_TRIM_THRESHOLD, 128 << 10);
	if (sandbox_enter(&config, &err) || pthread_barrier_init(&all_here, NULL, THREADS) || pthread_barrier_init(&shared.made, NULL, 2) ||
	    pthread_create(&threads[0], NULL, give_back, &shared))
		_exit(NOT_ENTERED);
	/* Not before the thread has what is its own, or that would be above. */
	for (unsigned i = 0; i < ARRAY_SIZE(shared.blocks); i++)
		shared.blocks[i] = memset(malloc(BLOCK), 1, BLOCK);
	pthread_barrier_wait(&shared.made);
	if (pthread_join(threads[0], NULL))
		_exit(NOT_ENTERED);
	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, kind))
			_exit(NOT_ENTERED);
	for (unsigned i = 0; i < THREADS; i++) {
		void *result = NULL;

		pthread_join(threads[i], &result);
		good += result != NULL;
	}
	_exit(good == THREADS ? SUCCEEDED : REFUSED);
}

static void test_what_must_go_on(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0)
			work_in_sandbox(&kinds[i]);
		waitpid(pid, &status, 0);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), SUCCEEDED);
	}
}

/* --- a disk's queues ------------------------------------------------------------------------------------------ */

#define SECTOR 4096u

struct use {
	struct disk *disk;
	struct disk_queue *queue;
	struct disk_request request;
	char bytes[SECTOR];
	int result;
	bool good;
};

static void completed(struct disk_request *request, int result)
{
	((struct use *)request->context)->result = result;
}

static bool does(struct use *use, enum disk_op op)
{
	struct iovec iov = {use->bytes, SECTOR};

	use->result = 1;
	use->request = (struct disk_request){.op = op, .length = SECTOR, .iov = &iov, .iov_count = 1, .complete = completed, .context = use};
	disk_queue_submit(use->queue, use->disk, &use->request);
	disk_queue_kick(use->queue);
	while (use->result == 1) {
		struct pollfd fd = {.fd = disk_queue_fd(use->queue), .events = POLLIN};

		poll(&fd, 1, -1);
		disk_queue_process(use->queue);
	}
	return use->result == 0;
}

static void *use_disk(void *context)
{
	struct use *use = context;

	thread_begin(THREAD_DISK, "scsi");
	memset(use->bytes, 'x', SECTOR);
	use->good = does(use, DISK_OP_WRITE) && does(use, DISK_OP_FLUSH);
	memset(use->bytes, 0, SECTOR);
	use->good = use->good && does(use, DISK_OP_READ) && use->bytes[SECTOR - 1] == 'x' && does(use, DISK_OP_DISCARD) &&
		    does(use, DISK_OP_READ) && use->bytes[0] == 0;
	return NULL;
}

struct channels {
	struct disk *disk;
	struct disk_rings *rings;
	unsigned good;
};

/* Two channels, of which one has no ring; closed and opened again, as by a guest that restarts. */
static void *open_channels(void *context)
{
	struct channels *channels = context;
	struct use uses[2];
	pthread_t threads[2];

	thread_begin(THREAD_BUS, "vmbus");
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 2; i++) {
			uses[i] = (struct use){.disk = channels->disk};
			if (disk_queue_create_with(&uses[i].queue, 4, channels->rings, NULL))
				_exit(REFUSED);
		}
		/* One after the other, as they use the same sector. */
		for (unsigned i = 0; i < 2; i++)
			if (pthread_create(&threads[i], NULL, use_disk, &uses[i]) || pthread_join(threads[i], NULL))
				_exit(REFUSED);
		for (unsigned i = 0; i < 2; i++) {
			channels->good += uses[i].good;
			disk_queue_destroy(uses[i].queue);
		}
	}
	return NULL;
}

static void queues_in_sandbox(const char *path)
{
	const struct sandbox_config config = {.has_user = false};
	struct channels channels = {.good = 0};
	struct error err = {0};
	pthread_t thread;

	if (disk_open(&channels.disk, path, NULL, &err) || disk_rings_create(&channels.rings, 1, 4, &err) < 0 || sandbox_enter(&config, &err) ||
	    pthread_create(&thread, NULL, open_channels, &channels) || pthread_join(thread, NULL))
		_exit(NOT_ENTERED);
	disk_rings_destroy(channels.rings);
	_exit(channels.good == 6 && !disk_close(channels.disk, &err) ? SUCCEEDED : REFUSED);
}

static void test_queues_with_rings_and_without(void **state)
{
	char path[] = "/tmp/bulkhead-threads-XXXXXX";
	int fd = mkstemp(path), status;
	pid_t pid;

	(void)state;
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	pid = fork();
	if (pid == 0)
		queues_in_sandbox(path);
	waitpid(pid, &status, 0);
	unlink(path);
	close(fd);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), SUCCEEDED);
}

/* --- what must not ----------------------------------------------------------------------------------------------- */

static void *forbidden(void *context)
{
	const enum thread_kind *kind = context;

	thread_begin(*kind, "worker");
	syscall(SYS_getppid);
	return NULL;
}

static void forbidden_in_sandbox(enum thread_kind *kind)
{
	const struct sandbox_config config = {.has_user = false};
	struct error err = {0};
	pthread_t thread;

	if (sandbox_enter(&config, &err) || pthread_create(&thread, NULL, forbidden, kind))
		_exit(NOT_ENTERED);
	pthread_join(thread, NULL);
	_exit(SUCCEEDED);
}

/* And says so: each may do what that takes. */
static void test_each_kind_of_thread_is_stopped(void **state)
{
	static const char *const names[] = {[THREAD_VP] = "a virtual processor's", [THREAD_DISK] = "a disk's", [THREAD_TIMER] = "a timer's",
	    [THREAD_BUS] = "the VMBus's", [THREAD_NETWORK] = "a network adapter's"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		char log[4096], line[120];
		int end[2], status;
		size_t used = 0;
		ssize_t n;
		pid_t pid;

		assert_int_equal(pipe(end), 0);
		pid = fork();
		if (pid == 0) {
			dup2(end[1], STDERR_FILENO);
			forbidden_in_sandbox(&kinds[i]);
		}
		close(end[1]);
		while (used < sizeof(log) - 1 && (n = read(end[0], log + used, sizeof(log) - 1 - used)) > 0)
			used += (size_t)n;
		log[used] = '\0';
		close(end[0]);
		waitpid(pid, &status, 0);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), SANDBOX_EXIT);
		snprintf(line, sizeof(line), "%s thread made system call %d, which", names[kinds[i]], SYS_getppid);
		if (!strstr(log, line))
			fail_msg("no \"%s\" in: %s", line, log);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_must_go_on), cmocka_unit_test(test_queues_with_rings_and_without),
	    cmocka_unit_test(test_each_kind_of_thread_is_stopped)};

#ifdef SANITIZED
	puts("a sanitizer makes system calls of its own");
	return 77;
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
