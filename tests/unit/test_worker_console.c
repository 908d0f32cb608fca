/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Serial consoles without a guest: sockets whose peers come, leave, or do not read; a terminal with its escape
 * key, put back whatever happens; files and pipes that are shared with others.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#include <cmocka.h>

#include "worker/console.h"
#include "worker/terminal.h"
#include "worker/unix_socket.h"

#define DEADLINE_S 40

/* One console, and what stands for the guest's serial port behind it. */
struct fixture {
	uv_loop_t loop;
	struct console *console;
	char directory[32], path[64];
	int saved_in, saved_out;

	uint8_t input[65536];
	size_t input_size, takes; /* the port takes this many bytes in all */
	char keys[16];
	unsigned key_count;
	_Atomic unsigned ready;
	int connects, disconnects;
};

static size_t port_input(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	struct fixture *f = context;
	size_t n = min_u64(size, f->takes - f->input_size);

	assert_int_equal(port, 1);
	assert_true(f->input_size + n <= sizeof(f->input));
	memcpy(f->input + f->input_size, bytes, n);
	f->input_size += n;
	return n;
}

static void port_ready(void *context, unsigned port)
{
	struct fixture *f = context;

	assert_int_equal(port, 1);
	atomic_fetch_add(&f->ready, 1);
}

static void port_connected(void *context, unsigned port, bool connected)
{
	struct fixture *f = context;

	assert_int_equal(port, 1);
	if (connected)
		f->connects++;
	else
		f->disconnects++;
}

static void port_key(void *context, char key)
{
	struct fixture *f = context;

	assert_true(f->key_count < sizeof(f->keys));
	f->keys[f->key_count++] = key;
}

static const struct console_ops ops = {port_input, port_ready, port_connected, port_key};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	signal(SIGPIPE, SIG_IGN);
	assert_non_null(f);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	strcpy(f->directory, "/tmp/bulkhead-console-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
	f->saved_in = dup(STDIN_FILENO);
	f->saved_out = dup(STDOUT_FILENO);
	f->takes = sizeof(f->input);
	*state = f;
	return 0;
}

static void close_console(struct fixture *f)
{
	console_close(f->console);
	f->console = NULL;
	uv_run(&f->loop, UV_RUN_DEFAULT);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	close_console(f);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	dup2(f->saved_in, STDIN_FILENO);
	dup2(f->saved_out, STDOUT_FILENO);
	close(f->saved_in);
	close(f->saved_out);
	unlink(f->path);
	assert_int_equal(rmdir(f->directory), 0);
	free(f);
	return 0;
}

static void open_console(struct fixture *f, enum worker_serial_kind kind)
{
	struct worker_serial serial = {kind, f->path};
	struct error err = {0};

	if (console_open(&f->console, &f->loop, 1, &serial, &ops, f, &err))
		fail_msg("%s", err.text);
}

/* Runs the loop until `condition`. */
#define RUN_UNTIL(f, condition)                                                                              \
	do {                                                                                                 \
		time_t start_ = time(NULL);                                                                  \
		while (!(condition)) {                                                                       \
			if (time(NULL) - start_ > DEADLINE_S)                                                \
				fail_msg("waited in vain for %s", #condition);                               \
			uv_run(&(f)->loop, UV_RUN_NOWAIT);                                                   \
			sched_yield();                                                                       \
		}                                                                                            \
	} while (0)

/* Runs whatever is due, so that something that must not happen has had its chance. */
static void run_all(struct fixture *f)
{
	for (unsigned i = 0; i < 50; i++)
		uv_run(&f->loop, UV_RUN_NOWAIT);
}

static int join(struct fixture *f)
{
	int fd = unix_connect(f->path, NULL);

	assert_true(fd >= 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* Whether the other end of `fd` is gone; takes what is there to read. */
static bool ended(int fd)
{
	char bytes[4096];
	ssize_t n;

	while ((n = read(fd, bytes, sizeof(bytes))) > 0)
		;
	return n == 0 || errno != EAGAIN;
}

static void expect_from(struct fixture *f, int fd, const char *text)
{
	char bytes[256];
	size_t size = 0, wanted = strlen(text);

	RUN_UNTIL(f, ({
		ssize_t n = read(fd, bytes + size, wanted - size);

		size += n > 0 ? (size_t)n : 0;
		size == wanted;
	}));
	assert_memory_equal(bytes, text, wanted);
}

static size_t out(struct fixture *f, const char *text)
{
	return console_output(f->console, (const uint8_t *)text, strlen(text));
}

/* --- sockets ------------------------------------------------------------------------------------------ */

static void test_socket_carries_both_ways(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	int fd;

	open_console(f, WORKER_SERIAL_UNIX);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_false(console_is_connected(f->console));
	/* Nobody listens: the line takes it, and it is gone. */
	assert_int_equal(out(f, "lost"), 4);
	run_all(f);
	fd = join(f);
	RUN_UNTIL(f, f->connects == 1);
	assert_true(console_is_connected(f->console));
	assert_int_equal(out(f, "hello"), 5);
	expect_from(f, fd, "hello");
	f->takes = 3;
	assert_int_equal(write(fd, "abcdef\x1dx", 8), 8);
	RUN_UNTIL(f, f->input_size == 3);
	run_all(f);
	assert_int_equal(f->input_size, 3);
	f->takes = 100;
	console_input_room(f->console);
	RUN_UNTIL(f, f->input_size == 8);
	/* The escape key belongs to terminals alone. */
	assert_memory_equal(f->input, "abcdef\x1dx", 8);
	assert_int_equal(f->key_count, 0);
	close(fd);
	RUN_UNTIL(f, f->disconnects == 1);
	assert_false(console_is_connected(f->console));
	close_console(f);
	assert_int_equal(access(f->path, F_OK), -1);
}

static void test_one_peer_at_a_time(void **state)
{
	struct fixture *f = *state;
	int first, second;

	open_console(f, WORKER_SERIAL_UNIX);
	first = join(f);
	RUN_UNTIL(f, f->connects == 1);
	second = join(f);
	RUN_UNTIL(f, ended(second));
	close(second);
	out(f, "still");
	expect_from(f, first, "still");
	/* It leaves while the port takes nothing, so its end cannot be read; the next is served all the same. */
	f->takes = 0;
	assert_int_equal(write(first, "unread", 6), 6);
	run_all(f);
	close(first);
	run_all(f);
	second = join(f);
	RUN_UNTIL(f, f->connects == 2);
	assert_int_equal(f->disconnects, 1);
	out(f, "next");
	expect_from(f, second, "next");
	/* Nor does the first one's input reach the port. */
	f->takes = 100;
	console_input_room(f->console);
	assert_int_equal(write(second, "mine", 4), 4);
	RUN_UNTIL(f, f->input_size == 4);
	assert_memory_equal(f->input, "mine", 4);
	close(second);
}

static void test_peer_that_does_not_read_makes_the_guest_wait(void **state)
{
	struct fixture *f = *state;
	static uint8_t bytes[4096];
	unsigned refused = 0;
	size_t taken = 0;
	int fd;

	open_console(f, WORKER_SERIAL_UNIX);
	fd = join(f);
	RUN_UNTIL(f, f->connects == 1);
	for (unsigned i = 0; refused < 20; i++) {
		size_t n = console_output(f->console, bytes, sizeof(bytes));

		taken += n;
		assert_true(taken < 64 << 20);
		refused = n < sizeof(bytes) ? refused + 1 : 0;
		run_all(f);
	}
	assert_int_equal(atomic_load(&f->ready), 0);
	/* When it has gone, the guest must hear that there is room again. */
	close(fd);
	RUN_UNTIL(f, atomic_load(&f->ready) > 0 && f->disconnects == 1);
	assert_int_equal(console_output(f->console, bytes, sizeof(bytes)), sizeof(bytes));
}

static void test_peer_that_left_is_noticed_by_writing(void **state)
{
	struct fixture *f = *state;
	int fd;

	open_console(f, WORKER_SERIAL_UNIX);
	fd = join(f);
	RUN_UNTIL(f, f->connects == 1);
	f->takes = 0;
	assert_int_equal(write(fd, "x", 1), 1);
	run_all(f);
	close(fd);
	out(f, "y");
	RUN_UNTIL(f, f->disconnects == 1);
}

static void test_socket_path_is_treated_with_care(void **state)
{
	struct fixture *f = *state;
	char text[8] = "", long_path[300];
	struct error err = {0};
	int fd, other;

	/* A file of the user's, named by mistake, is not touched. */
	fd = open(f->path, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "data", 4), 4);
	close(fd);
	assert_int_equal(unix_listen(f->path, &err), -EEXIST);
	assert_non_null(strstr(err.text, f->path));
	fd = open(f->path, O_RDONLY);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_string_equal(text, "data");
	close(fd);
	unlink(f->path);
	assert_int_equal(symlink("/nonexistent", f->path), 0);
	assert_int_equal(unix_listen(f->path, &err), -EEXIST);
	unlink(f->path);

	fd = unix_listen(f->path, &err);
	assert_true(fd >= 0);
	assert_int_equal(unix_listen(f->path, &err), -EADDRINUSE);
	other = unix_connect(f->path, &err);
	assert_true(other >= 0);
	close(other);
	close(fd);
	/* Left behind by somebody who died. */
	assert_int_equal(unix_connect(f->path, &err), -ECONNREFUSED);
	fd = unix_listen(f->path, &err);
	assert_true(fd >= 0);
	close(fd);

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(unix_listen(long_path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_connect(long_path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_listen("", &err), -EINVAL);
	assert_int_equal(unix_listen("/nonexistent/socket", &err), -ENOENT);
}

static void test_failed_open_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct worker_serial serial = {WORKER_SERIAL_FILE, "/nonexistent/file"};
	struct error err = {0};

	assert_int_equal(console_open(&f->console, &f->loop, 1, &serial, &ops, f, &err), -ENOENT);
	serial.kind = WORKER_SERIAL_UNIX;
	assert_int_equal(console_open(&f->console, &f->loop, 1, &serial, &ops, f, &err), -ENOENT);
}

/* --- a terminal --------------------------------------------------------------------------------------- */

/* A pseudo terminal whose slave end is our standard input and output. Returns the master. */
static int become_terminal(struct termios *mode)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK), slave;

	assert_true(master >= 0);
	assert_int_equal(grantpt(master), 0);
	assert_int_equal(unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	assert_true(slave >= 0);
	assert_int_equal(tcgetattr(slave, mode), 0);
	assert_true(mode->c_lflag & ICANON);
	dup2(slave, STDIN_FILENO);
	dup2(slave, STDOUT_FILENO);
	close(slave);
	return master;
}

static bool is_raw(int fd)
{
	struct termios mode;

	assert_int_equal(tcgetattr(fd, &mode), 0);
	return !(mode.c_lflag & (ICANON | ECHO | ISIG));
}

static void type(int master, const char *keys)
{
	assert_int_equal(write(master, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static void test_terminal_is_raw_and_put_back(void **state)
{
	struct fixture *f = *state;
	struct termios before, after;
	int master = become_terminal(&before);
	int flags = fcntl(STDIN_FILENO, F_GETFL);

	open_console(f, WORKER_SERIAL_STDIO);
	assert_true(console_is_terminal(f->console));
	assert_true(console_is_connected(f->console));
	assert_true(is_raw(master));
	/* Those who share the terminal do not get EAGAIN of a sudden. */
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFL), flags);
	out(f, "\r\nlogin: ");
	expect_from(f, master, "\r\nlogin: ");
	type(master, "\x03root\x1a\r");
	RUN_UNTIL(f, f->input_size == 7);
	assert_memory_equal(f->input, "\x03root\x1a\r", 7);
	/* A second one does not take it too. */
	assert_false(terminal_raw(STDIN_FILENO));
	close_console(f);
	assert_int_equal(tcgetattr(master, &after), 0);
	assert_int_equal(after.c_lflag, before.c_lflag);
	assert_int_equal(after.c_iflag, before.c_iflag);
	assert_int_equal(after.c_oflag, before.c_oflag);
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFL), flags);
	close(master);
}

static void test_escape_key(void **state)
{
	struct fixture *f = *state;
	struct termios mode;
	int master = become_terminal(&mode);

	open_console(f, WORKER_SERIAL_STDIO);
	type(master, "a\x1dsb\x1d\x1d" "c\x1d");
	RUN_UNTIL(f, f->input_size == 4 && f->key_count == 1);
	run_all(f);
	type(master, "?d");
	RUN_UNTIL(f, f->input_size == 5 && f->key_count == 2);
	assert_memory_equal(f->input, "ab\x1d" "cd", 5);
	assert_memory_equal(f->keys, "s?", 2);
	close(master);
	/* The terminal went away: input has ended, and that is all. */
	run_all(f);
	assert_int_equal(out(f, "into nothing"), 12);
	run_all(f);
}

/* The guest reads nothing any more, and the person has typed more than anything holds. */
static void test_escape_key_works_when_the_guest_hangs(void **state)
{
	struct fixture *f = *state;
	struct termios mode;
	int master = become_terminal(&mode);
	unsigned typed = 0;

	f->takes = 2;
	open_console(f, WORKER_SERIAL_STDIO);
	while (typed < 5000) {
		ssize_t n = write(master, "0123456789", 10);

		typed += n > 0 ? (unsigned)n : 0;
		run_all(f);
	}
	type(master, "\x1dx");
	RUN_UNTIL(f, f->key_count == 1);
	assert_int_equal(f->keys[0], 'x');
	assert_int_equal(f->input_size, 2);
	/* What was kept is the first of it, in order. */
	f->takes = sizeof(f->input);
	console_input_room(f->console);
	RUN_UNTIL(f, f->input_size > 2);
	for (size_t i = 0; i < f->input_size; i++)
		assert_int_equal(f->input[i], '0' + i % 10);
	close(master);
}

static void test_terminal_survives_an_abort(void **state)
{
	static const int deaths[] = {SIGABRT, SIGSEGV, SIGBUS};
	struct fixture *f = *state;
	struct termios before, after;
	int master = become_terminal(&before);

	for (unsigned i = 0; i < ARRAY_SIZE(deaths); i++) {
		pid_t child = fork();
		int status;

		assert_true(child >= 0);
		if (!child) {
			/* No sanitizer's report of this death, and no core of it. */
			signal(deaths[i], SIG_DFL);
			if (!terminal_raw(STDIN_FILENO) || !is_raw(STDIN_FILENO))
				_exit(1);
			raise(deaths[i]);
			_exit(2);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), deaths[i]);
		assert_int_equal(tcgetattr(master, &after), 0);
		assert_int_equal(after.c_lflag, before.c_lflag);
		assert_int_equal(after.c_oflag, before.c_oflag);
	}
	(void)f;
	close(master);
}

/* --- files and pipes ---------------------------------------------------------------------------------- */

/* "bulkhead run >> log": what stands there stays. */
static void test_output_file_keeps_its_position(void **state)
{
	struct fixture *f = *state;
	char text[32] = "";
	int in = open("/dev/null", O_RDONLY), file = open(f->path, O_CREAT | O_WRONLY, 0600);

	assert_int_equal(write(file, "before ", 7), 7);
	dup2(in, STDIN_FILENO);
	dup2(file, STDOUT_FILENO);
	close(in);
	open_console(f, WORKER_SERIAL_STDIO);
	assert_false(console_is_terminal(f->console));
	out(f, "guest ");
	run_all(f);
	assert_int_equal(write(file, "after", 5), 5);
	close(file);
	close_console(f);
	file = open(f->path, O_RDONLY);
	assert_true(read(file, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "before guest after");
	close(file);
}

static void test_shared_socket_blocks_again_afterwards(void **state)
{
	struct fixture *f = *state;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	dup2(ends[1], STDIN_FILENO);
	dup2(ends[1], STDOUT_FILENO);
	open_console(f, WORKER_SERIAL_STDIO);
	assert_int_equal(write(ends[0], "in", 2), 2);
	RUN_UNTIL(f, f->input_size == 2);
	out(f, "out");
	expect_from(f, ends[0], "out");
	close_console(f);
	assert_false(fcntl(ends[1], F_GETFL) & O_NONBLOCK);
	close(ends[0]);
	close(ends[1]);
}

static void test_close_writes_what_is_left(void **state)
{
	struct fixture *f = *state;
	int ends[2];
	char text[8];

	assert_int_equal(pipe(ends), 0);
	dup2(ends[1], STDOUT_FILENO);
	close(ends[1]);
	open_console(f, WORKER_SERIAL_STDIO);
	out(f, "bye");
	close_console(f);
	assert_int_equal(read(ends[0], text, sizeof(text)), 3);
	assert_memory_equal(text, "bye", 3);
	close(ends[0]);
}

/* --- a virtual processor that writes -------------------------------------------------------------------- */

struct writer {
	struct fixture *f;
	size_t total;
	_Atomic bool stop;
};

static void *write_all(void *argument)
{
	struct writer *w = argument;
	uint8_t bytes[97];

	for (size_t done = 0; done < w->total && !atomic_load(&w->stop);) {
		size_t size = min_u64(sizeof(bytes), w->total - done), taken;
		unsigned ready = atomic_load(&w->f->ready);

		for (size_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)((done + i) % 251);
		taken = console_output(w->f->console, bytes, size);
		done += taken;
		while (taken < size && atomic_load(&w->f->ready) == ready && !atomic_load(&w->stop))
			sched_yield();
	}
	return NULL;
}

static void test_output_of_a_thread_arrives_whole(void **state)
{
	struct fixture *f = *state;
	struct writer w = {.f = f, .total = 1 << 20};
	size_t size = 0;
	pthread_t thread;
	int ends[2];

	assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
	dup2(ends[1], STDOUT_FILENO);
	close(ends[1]);
	open_console(f, WORKER_SERIAL_STDIO);
	assert_int_equal(pthread_create(&thread, NULL, write_all, &w), 0);
	RUN_UNTIL(f, ({
		uint8_t bytes[1000];
		ssize_t n = read(ends[0], bytes, sizeof(bytes));

		for (ssize_t i = 0; i < n; i++)
			assert_true(bytes[i] == (size + (size_t)i) % 251);
		size += n > 0 ? (size_t)n : 0;
		size == w.total;
	}));
	pthread_join(thread, NULL);
	close(ends[0]);
}

static void count_down(uv_timer_t *timer)
{
	--*(int *)timer->data;
}

/* A guest that never stops writing must not keep signals and commands from being heard. */
static void test_flood_leaves_time_for_others(void **state)
{
	struct fixture *f = *state;
	struct writer w = {.f = f, .total = SIZE_MAX};
	int null = open("/dev/null", O_RDWR), left = 20;
	uv_timer_t timer = {.data = &left};
	pthread_t thread;

	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	close(null);
	open_console(f, WORKER_SERIAL_STDIO);
	assert_int_equal(uv_timer_init(&f->loop, &timer), 0);
	assert_int_equal(uv_timer_start(&timer, count_down, 1, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, write_all, &w), 0);
	RUN_UNTIL(f, left <= 0);
	atomic_store(&w.stop, true);
	pthread_join(thread, NULL);
	uv_close((uv_handle_t *)&timer, NULL);
	run_all(f);
}

int main(void)
{
#define CONSOLE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {CONSOLE_TEST(test_socket_carries_both_ways),
	    CONSOLE_TEST(test_one_peer_at_a_time),
	    CONSOLE_TEST(test_peer_that_does_not_read_makes_the_guest_wait),
	    CONSOLE_TEST(test_peer_that_left_is_noticed_by_writing),
	    CONSOLE_TEST(test_socket_path_is_treated_with_care), CONSOLE_TEST(test_failed_open_leaves_nothing),
	    CONSOLE_TEST(test_terminal_is_raw_and_put_back), CONSOLE_TEST(test_escape_key),
	    CONSOLE_TEST(test_escape_key_works_when_the_guest_hangs), CONSOLE_TEST(test_terminal_survives_an_abort),
	    CONSOLE_TEST(test_output_file_keeps_its_position), CONSOLE_TEST(test_shared_socket_blocks_again_afterwards),
	    CONSOLE_TEST(test_close_writes_what_is_left), CONSOLE_TEST(test_output_of_a_thread_arrives_whole),
	    CONSOLE_TEST(test_flood_leaves_time_for_others)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
