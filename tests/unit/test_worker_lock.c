/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lock by which a machine runs once: taken, held by either of two processes, and attacked by the one in the sandbox,
 * as a guest would that has broken out of its machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "worker/lock_file.h"
#include "worker/sandbox.h"

#define DEADLINE_S 40

static char directory[] = "/tmp/bulkhead-lock-XXXXXX", path[64];

static int set_up(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/worker.lock", directory);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(directory);
}

/* --- attacks, on each descriptor that is of a file ------------------------------------------------------------ */

static void set_lock(int fd, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};

	(void)fcntl(fd, F_OFD_SETLK, &lock);
}

static void unlock(int fd)
{
	set_lock(fd, F_UNLCK);
}

static void take_all(int fd)
{
	set_lock(fd, F_WRLCK);
	set_lock(fd, F_UNLCK);
}

static void truncate_it(int fd)
{
	(void)!ftruncate(fd, 0);
}

static void name_another(int fd)
{
	char other[] = "1\n";
	struct iovec vector = {other, 2};

	(void)!pwritev(fd, &vector, 1, 0);
}

static void close_it(int fd)
{
	close(fd);
}

static void attack_all(void (*attack)(int fd))
{
	for (int fd = STDERR_FILENO + 1; fd < 64; fd++) {
		struct stat st;

		if (!fstat(fd, &st) && S_ISREG(st.st_mode))
			attack(fd);
	}
}

/* --- a keeper and its machine ----------------------------------------------------------------------------------- */

struct pair {
	pid_t keeper;
	int ready, end; /* pipes: it has done its worst; it may end */
};

enum manner {
	AS_WORKER,  /* each has its own half of the lock, and the machine is in the sandbox */
	AS_ONE,     /* the machine has all that its keeper has, as a child has it that gives nothing up */
	OUTLIVES    /* the machine lives on when its keeper is gone */
};

static void be_machine(struct lock_file *lock, enum manner manner, void (*attack)(int fd), int ready, int end)
{
	const struct sandbox_config config = {.has_user = false};
	struct error err = {0};
	char byte = '+';

	if (manner != AS_ONE)
		lock_file_keep(lock, true);
	if (manner == AS_WORKER && sandbox_enter(&config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		_exit(1);
	}
	if (attack)
		attack_all(attack);
	if (write(ready, &byte, 1) != 1 || read(end, &byte, 1) < 0)
		_exit(1);
	_exit(0);
}

static void be_keeper(enum manner manner, void (*attack)(int fd), int ready, int end)
{
	struct lock_file lock;
	struct error err = {0};
	int null = open("/dev/null", O_WRONLY), status;
	pid_t machine;

	dup2(null, STDERR_FILENO); /* what this host refuses a sandbox is not for the test's reader */
	if (lock_file_take(&lock, path, NULL, &err))
		_exit(1);
	if (manner == AS_WORKER)
		sandbox_prepare();
	machine = fork();
	if (machine == 0)
		be_machine(&lock, manner, attack, ready, end);
	lock_file_keep(&lock, false);
	close(ready);
	close(end);
	waitpid(machine, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static struct pair start(enum manner manner, void (*attack)(int fd))
{
	struct pair p;
	int ready[2], end[2];
	char byte;

	assert_int_equal(pipe(ready) || pipe(end), 0);
	p.keeper = fork();
	if (p.keeper == 0) {
		close(ready[0]);
		close(end[1]);
		be_keeper(manner, attack, ready[1], end[0]);
	}
	close(ready[1]);
	close(end[0]);
	p.ready = ready[0];
	p.end = end[1];
	assert_int_equal(read(p.ready, &byte, 1), 1);
	return p;
}

static bool can_be_taken(void)
{
	struct lock_file lock;
	struct error err = {0};
	int r = lock_file_take(&lock, path, NULL, &err);

	assert_true(r == 0 || r == -EBUSY);
	if (r == 0) {
		close(lock.keeper);
		close(lock.machine);
	}
	return r == 0;
}

static void finish(struct pair *p)
{
	time_t start = time(NULL);
	char byte;

	close(p->end);
	waitpid(p->keeper, NULL, 0);
	/* The machine ends too when nobody has the other end any more, and the kernel closes its files one by one. */
	assert_int_equal(read(p->ready, &byte, 1), 0);
	close(p->ready);
	while (!can_be_taken()) {
		assert_true(time(NULL) - start < DEADLINE_S);
		sched_yield();
	}
}

static void require_named(pid_t pid)
{
	char text[16] = "", wanted[16];
	int fd = open(path, O_RDONLY);

	snprintf(wanted, sizeof(wanted), "  %d\n", (int)pid);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, wanted);
	close(fd);
}

/* --- tests --------------------------------------------------------------------------------------------------------- */

static void test_taken_once(void **state)
{
	struct lock_file first, second;
	struct error err = {0};

	(void)state;
	assert_int_equal(lock_file_take(&first, path, NULL, &err), 0);
	require_named(getpid());
	assert_int_equal(lock_file_take(&second, path, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, "runs this machine already"));
	close(first.keeper);
	/* Each of the two keeps others away. */
	assert_int_equal(lock_file_take(&second, path, NULL, &err), -EBUSY);
	close(first.machine);
	assert_int_equal(lock_file_take(&first, path, NULL, &err), 0);
	close(first.machine);
	assert_int_equal(lock_file_take(&second, path, NULL, &err), -EBUSY);
	close(first.keeper);
	assert_true(can_be_taken());
}

/* Nothing is written to a byte while another descriptor has it locked, nor has who is told of it to be read from there: where
 * locks are mandatory, both would fail. */
static void test_holder_is_behind_what_is_locked(void **state)
{
	struct lock_file lock, other;
	struct error err = {0};
	char named[32];

	(void)state;
	assert_int_equal(lock_file_take(&lock, path, NULL, &err), 0);
	snprintf(named, sizeof(named), "process %d ", (int)getpid());
	for (off_t byte = 0; byte < 8; byte++) {
		struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
		int fd = open(path, O_RDWR);
		char c = ' ';

		assert_int_equal(fcntl(fd, F_OFD_GETLK, &probe), 0);
		assert_int_equal(pread(fd, &c, 1, byte), 1);
		assert_int_equal(probe.l_type != F_UNLCK, byte < 2);
		assert_int_equal(c == ' ', byte < 2);
		close(fd);
		if (c == '\n')
			break;
	}
	assert_int_equal(lock_file_take(&other, path, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, named));
	close(lock.keeper);
	close(lock.machine);
}

/* Of a worker of before there were two locks. */
static void test_whole_file_is_locked(void **state)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct lock_file other;
	struct error err = {0};
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	(void)state;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite(fd, "1234\n", 5, 0), 5);
	assert_int_equal(lock_file_take(&other, path, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, "process 1234 "));
	close(fd);
	assert_true(can_be_taken());
}

static void test_links_are_refused(void **state)
{
	struct lock_file lock;
	struct error err = {0};
	char other[80];

	(void)state;
	snprintf(other, sizeof(other), "%s.other", path);
	unlink(path);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(lock_file_take(&lock, path, NULL, &err), -ELOOP);
	unlink(path);
	assert_true(can_be_taken());
	assert_int_equal(link(path, other), 0);
	assert_int_equal(lock_file_take(&lock, path, NULL, &err), -EBADMSG);
	unlink(other);
	assert_true(can_be_taken());
}

static void test_an_escaped_guest_cannot_free_it(void **state)
{
	static void (*const attacks[])(int fd) = {unlock, take_all, truncate_it, name_another, close_it};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++) {
		struct pair p = start(AS_WORKER, attacks[i]);

		require_named(p.keeper);
		assert_false(can_be_taken());
		finish(&p);
	}
}

/* Or the test above would not show anything. */
static void test_attacks_succeed_on_the_keepers_half(void **state)
{
	static void (*const attacks[])(int fd) = {unlock, take_all};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++) {
		struct pair p = start(AS_ONE, attacks[i]);

		assert_true(can_be_taken());
		finish(&p);
	}
}

static void test_a_machine_without_keeper_is_not_joined(void **state)
{
	struct pair p = start(OUTLIVES, NULL);

	(void)state;
	kill(p.keeper, SIGKILL);
	waitpid(p.keeper, NULL, 0);
	assert_false(can_be_taken());
	finish(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken_once),
	    cmocka_unit_test(test_holder_is_behind_what_is_locked), cmocka_unit_test(test_whole_file_is_locked),
	    cmocka_unit_test(test_links_are_refused), cmocka_unit_test(test_an_escaped_guest_cannot_free_it),
	    cmocka_unit_test(test_attacks_succeed_on_the_keepers_half),
	    cmocka_unit_test(test_a_machine_without_keeper_is_not_joined)};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
