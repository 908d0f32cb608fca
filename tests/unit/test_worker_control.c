/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket without a machine: lines good and bad, peers that are slow, many or gone, and the client. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "worker/control.h"
#include "worker/unix_socket.h"
#include "worker/worker.h"

#define DEADLINE_S 40
#define LINE_MAX_BYTES 65536u

struct fixture {
	uv_loop_t loop;
	struct control *control;
	char directory[32], path[64];
	_Atomic unsigned calls;
	size_t padding; /* of the answer to "inspect" */
	char last_path[512];
	bool last_read_only;
	_Atomic uint64_t ticket;
};

static json_t *on_command(void *context, const char *command, const json_t *arguments, struct control_call *call)
{
	struct fixture *f = context;

	atomic_fetch_add(&f->calls, 1);
	for (unsigned i = 0; i < call->fd_count; i++)
		assert_int_equal(write(call->fds[i], command, 1), 1);
	if (!strcmp(command, "later")) {
		atomic_store(&f->ticket, call->ticket);
		call->later = true;
		return NULL;
	}
	if (!strcmp(command, "now")) /* on another connection */
		control_answer(f->control, atomic_load(&f->ticket), json_pack("{s:b,s:s}", "ok", 1, "it is", "later"));
	if (!strcmp(command, "inspect")) {
		_cleanup_free_ char *text = malloc(f->padding + 1);

		memset(text, 'x', f->padding);
		text[f->padding] = '\0';
		return json_pack("{s:b,s:s,s:{s:i},s:[i,i],s:n}", "ok", 1, "padding", text, "tree", "leaf", 7, "list", 1, 2,
		    "nothing");
	}
	if (!strcmp(command, "add-disk") || !strcmp(command, "change-medium")) {
		const char *path = json_string_value(json_object_get(arguments, "path"));

		snprintf(f->last_path, sizeof(f->last_path), "%s", path ? path : "none");
		f->last_read_only = json_is_true(json_object_get(arguments, "read_only"));
	}
	if (!strcmp(command, "fail"))
		return control_refuse(EINVAL, "it f\xe4iled");
	if (!strcmp(command, "no-memory"))
		return NULL;
	return json_pack("{s:b,s:O}", "ok", 1, "n", json_object_get(arguments, "n") ?: json_null());
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = {0};

	signal(SIGPIPE, SIG_IGN);
	assert_non_null(f);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	strcpy(f->directory, "/tmp/bulkhead-control-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
	if (control_open(&f->control, &f->loop, f->path, on_command, f, &err))
		fail_msg("%s", err.text);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	control_close(f->control);
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	/* The socket is gone with it. */
	assert_int_equal(rmdir(f->directory), 0);
	free(f);
	return 0;
}

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

static void run_all(struct fixture *f)
{
	for (unsigned i = 0; i < 50; i++)
		uv_run(&f->loop, UV_RUN_NOWAIT);
}

/* --- a peer that speaks bytes ---------------------------------------------------------------------------- */

struct talker {
	struct fixture *f;
	int fd;
	char line[4 << 20];
	size_t used;
	bool ended;
};

static struct talker *join(struct fixture *f)
{
	struct talker *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->f = f;
	t->fd = unix_connect(f->path, NULL);
	assert_true(t->fd >= 0);
	fcntl(t->fd, F_SETFL, O_NONBLOCK);
	return t;
}

static void leave(struct talker *t)
{
	close(t->fd);
	free(t);
}

static void say(struct talker *t, const void *bytes, size_t size)
{
	const char *at = bytes;

	RUN_UNTIL(t->f, ({
		ssize_t n = write(t->fd, at, size);

		if (n > 0) {
			at += n;
			size -= (size_t)n;
		}
		!size;
	}));
}

static bool pull(struct talker *t)
{
	ssize_t n = read(t->fd, t->line + t->used, sizeof(t->line) - t->used);

	if (n > 0)
		t->used += (size_t)n;
	t->ended = n == 0 || (n < 0 && errno != EAGAIN);
	return memchr(t->line, '\n', t->used) || t->ended;
}

/* The next answer, NULL when the connection has ended. */
static json_t *hear(struct talker *t)
{
	json_t *answer;
	char *end;

	RUN_UNTIL(t->f, pull(t));
	end = memchr(t->line, '\n', t->used);
	if (!end)
		return NULL;
	answer = json_loadb(t->line, (size_t)(end - t->line), 0, NULL);
	assert_non_null(answer);
	t->used -= (size_t)(end + 1 - t->line);
	memmove(t->line, end + 1, t->used);
	return answer;
}

static void expect_ok(struct talker *t, json_int_t n)
{
	json_t *answer = hear(t);

	assert_non_null(answer);
	assert_true(json_is_true(json_object_get(answer, "ok")));
	assert_int_equal(json_integer_value(json_object_get(answer, "n")), n);
	json_decref(answer);
}

static void expect_refusal(struct talker *t, const char *text)
{
	json_t *answer = hear(t);

	assert_non_null(answer);
	assert_true(json_is_false(json_object_get(answer, "ok")));
	assert_non_null(strstr(json_string_value(json_object_get(answer, "error")), text));
	json_decref(answer);
}

static void ask(struct talker *t, const char *line)
{
	say(t, line, strlen(line));
}

#define GOOD(n) "{\"version\": 1, \"command\": \"status\", \"n\": " #n "}\n"

static void test_lines_are_answered(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f);
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	ask(t, GOOD(1));
	expect_ok(t, 1);
	for (const char *c = GOOD(2); *c; c++) {
		say(t, c, 1);
		run_all(f);
	}
	expect_ok(t, 2);
	ask(t, GOOD(3) GOOD(4) "{\"version\": 1, \"comm");
	expect_ok(t, 3);
	expect_ok(t, 4);
	ask(t, "and\": \"x\", \"n\": 5}\n");
	expect_ok(t, 5);
	assert_int_equal(f->calls, 5);
	leave(t);
}

static void test_bad_lines_are_refused_and_harm_nothing(void **state)
{
	static const char *const bad[] = {"\n", "{\n", "[]\n", "1\n", "null\n", "{}x\n", "{\"a\":1,\"a\":2}\n", "\xff\xfe\n",
	    "{\"version\":99999999999999999999,\"command\":\"status\"}\n", "\"\\ud800\"\n"};
	struct fixture *f = *state;
	struct talker *t = join(f);
	char *deep = malloc(60000);

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		ask(t, bad[i]);
		expect_refusal(t, "not a JSON object");
	}
	say(t, "{\0}\n", 4);
	expect_refusal(t, "not a JSON object");
	memset(deep, '[', 60000);
	deep[59999] = '\n';
	say(t, deep, 60000);
	expect_refusal(t, "not a JSON object");
	free(deep);
	ask(t, "{}\n");
	expect_refusal(t, "version");
	ask(t, "{\"version\": 2, \"command\": \"status\"}\n");
	expect_refusal(t, "version");
	ask(t, "{\"version\": 1}\n");
	expect_refusal(t, "command");
	ask(t, "{\"version\": 1, \"command\": [\"status\"]}\n");
	expect_refusal(t, "command");
	assert_int_equal(f->calls, 0);
	/* Texts that are no UTF-8 still make an answer. */
	ask(t, "{\"version\": 1, \"command\": \"fail\"}\n");
	expect_refusal(t, "it f?iled");
	ask(t, "{\"version\": 1, \"command\": \"no-memory\"}\n");
	expect_refusal(t, "no memory");
	ask(t, GOOD(1));
	expect_ok(t, 1);
	leave(t);
}

static void test_long_lines(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f), *other = join(f);
	char *line = malloc(LINE_MAX_BYTES + 1);

	memset(line, ' ', LINE_MAX_BYTES + 1);
	memcpy(line, GOOD(1), strlen(GOOD(1)) - 1);
	line[LINE_MAX_BYTES - 1] = '\n';
	say(t, line, LINE_MAX_BYTES);
	expect_ok(t, 1);
	line[LINE_MAX_BYTES - 1] = ' ';
	say(t, line, LINE_MAX_BYTES);
	expect_refusal(t, "longer than 64 KiB");
	assert_null(hear(t));
	ask(other, GOOD(2));
	expect_ok(other, 2);
	free(line);
	leave(other);
	leave(t);
}

static void test_many_lines_at_once(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f);
	char lines[2000];
	unsigned i;

	/* They fit the socket's buffer, so that nobody needs to read meanwhile. */
	memset(lines, '\n', sizeof(lines));
	say(t, lines, sizeof(lines));
	ask(t, GOOD(7));
	for (i = 0; i < sizeof(lines); i++)
		expect_refusal(t, "not a JSON object");
	expect_ok(t, 7);
	leave(t);
}

/* Sends `line` with descriptors: those of a pipe's writing end, of which the other is in `end`. */
#define MANY 60u /* libuv takes 64 at a time */

static void say_with_pipe(struct talker *t, const char *line, unsigned count, int *end)
{
	struct iovec bytes = {(void *)(uintptr_t)line, strlen(line)};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int) * MANY)];
	} control = {.header = {CMSG_LEN(sizeof(int) * count), SOL_SOCKET, SCM_RIGHTS}};
	struct msghdr message = {
	    .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	for (unsigned i = 0; i < count; i++)
		memcpy(CMSG_DATA(&control.header) + sizeof(int) * i, &ends[1], sizeof(int));
	assert_int_equal(sendmsg(t->fd, &message, 0), (int)strlen(line));
	close(ends[1]);
	*end = ends[0];
}

/* Everyone who had the other end has closed it, and nothing more was written. */
static void expect_closed(struct fixture *f, int end)
{
	char byte;

	RUN_UNTIL(f, read(end, &byte, 1) == 0);
	close(end);
}

static void test_descriptors_come_with_a_line(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f);
	char byte;
	int end;

	say_with_pipe(t, GOOD(1), 1, &end);
	expect_ok(t, 1);
	assert_int_equal(read(end, &byte, 1), 1);
	assert_int_equal(byte, 's');
	expect_closed(f, end);
	/* With a part of the line, the rest without; and the next line has none. */
	say_with_pipe(t, "{\"version\": 1, ", 1, &end);
	ask(t, "\"command\": \"x\", \"n\": 2}\n" GOOD(3));
	expect_ok(t, 2);
	assert_int_equal(read(end, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	expect_ok(t, 3);
	expect_closed(f, end);
	/* A line that is refused, and a peer that leaves in the middle of one. */
	say_with_pipe(t, "{}\n", 1, &end);
	expect_refusal(t, "version");
	expect_closed(f, end);
	say_with_pipe(t, "{\"version\": 1, ", 1, &end);
	leave(t);
	expect_closed(f, end);
}

static void test_several_descriptors(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f);
	char bytes[8];
	int end;

	say_with_pipe(t, GOOD(1), 3, &end);
	expect_ok(t, 1);
	assert_int_equal(read(end, bytes, sizeof(bytes)), 3); /* one through each */
	expect_closed(f, end);
	leave(t);
}

static void test_too_many_descriptors(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f);
	int end, another;

	say_with_pipe(t, "{", MANY, &end);
	run_all(f);
	say_with_pipe(t, "}", MANY, &another);
	assert_null(hear(t));
	expect_closed(f, end);
	expect_closed(f, another);
	leave(t);
	assert_int_equal(f->calls, 0);
}

/* It comes when it is there; other peers are served meanwhile, and one that has left is not missed. */
static void test_answer_that_comes_later(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f), *other = join(f);
	json_t *answer;
	int end;

	say_with_pipe(t, "{\"version\": 1, \"command\": \"later\"}\n" GOOD(2), 1, &end);
	RUN_UNTIL(f, f->calls == 1);
	ask(other, GOOD(1));
	expect_ok(other, 1);
	assert_false(pull(t));
	ask(other, "{\"version\": 1, \"command\": \"now\", \"n\": 3}\n");
	expect_ok(other, 3);
	answer = hear(t);
	assert_string_equal(json_string_value(json_object_get(answer, "it is")), "later");
	json_decref(answer);
	expect_ok(t, 2);
	close(end);
	ask(t, "{\"version\": 1, \"command\": \"later\"}\n");
	RUN_UNTIL(f, f->calls == 5);
	leave(t);
	run_all(f);
	ask(other, "{\"version\": 1, \"command\": \"now\", \"n\": 4}\n");
	expect_ok(other, 4);
	leave(other);
}

/* Its answers stay with it: the worker holds one, not all that it asked for. */
static void test_peer_that_does_not_read_costs_little(void **state)
{
	struct fixture *f = *state;
	struct talker *t = join(f), *other = join(f);
	unsigned calls;

	f->padding = 1 << 20;
	for (unsigned i = 0; i < 500; i++)
		ask(t, "{\"version\": 1, \"command\": \"inspect\"}\n");
	run_all(f);
	calls = f->calls;
	assert_true(calls >= 1 && calls < 10);
	ask(other, GOOD(1));
	expect_ok(other, 1);
	for (unsigned i = 0; i < 20; i++) {
		json_t *answer = hear(t);

		assert_int_equal(json_string_length(json_object_get(answer, "padding")), f->padding);
		json_decref(answer);
	}
	assert_true(f->calls > calls);
	/* It leaves with answers under way. */
	leave(t);
	run_all(f);
	ask(other, GOOD(2));
	expect_ok(other, 2);
	leave(other);
}

static void test_too_many_peers(void **state)
{
	struct fixture *f = *state;
	struct talker *peers[16], *extra;

	for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
		peers[i] = join(f);
		ask(peers[i], GOOD(1));
		expect_ok(peers[i], 1);
	}
	extra = join(f);
	assert_null(hear(extra));
	leave(extra);
	leave(peers[5]);
	run_all(f);
	peers[5] = join(f);
	for (unsigned i = 0; i < ARRAY_SIZE(peers); i++) {
		ask(peers[i], GOOD(2));
		expect_ok(peers[i], 2);
		leave(peers[i]);
	}
}

static void test_close_with_peers(void **state)
{
	struct fixture *f = *state;
	struct talker *idle = join(f), *busy = join(f);
	unsigned calls;

	f->padding = 4 << 20;
	ask(idle, "{\"version\": 1, ");
	ask(busy, "{\"version\": 1, \"command\": \"inspect\"}\n" GOOD(1));
	RUN_UNTIL(f, f->calls == 1);
	calls = f->calls;
	control_close(f->control);
	f->control = NULL;
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(f->calls, calls);
	assert_int_equal(access(f->path, F_OK), -1);
	assert_null(hear(idle));
	leave(idle);
	leave(busy);
}

/* Nothing is left of it when the next one comes. Whoever has only ended his sending waits, and is served. */
static void test_line_of_one_that_has_left(void **state)
{
	struct fixture *f = *state;
	struct talker *gone = join(f), *half = join(f), *next;
	int end;

	say_with_pipe(gone, GOOD(1), 1, &end);
	leave(gone);
	ask(half, GOOD(2));
	assert_int_equal(shutdown(half->fd, SHUT_WR), 0);
	next = join(f);
	ask(next, GOOD(3));
	expect_ok(next, 3);
	expect_ok(half, 2);
	expect_closed(f, end);
	assert_int_equal(f->calls, 2);
	leave(half);
	leave(next);
}

/* With bytes that nobody has read, or not let in yet: each sees an end, and no broken connection. */
static void test_close_before_a_line_is_read(void **state)
{
	struct fixture *f = *state;
	struct talker *talkers[2] = {join(f), NULL};
	char byte;

	ask(talkers[0], GOOD(1));
	expect_ok(talkers[0], 1);
	ask(talkers[0], GOOD(2));
	talkers[1] = join(f);
	ask(talkers[1], GOOD(3));
	control_close(f->control);
	f->control = NULL;
	uv_run(&f->loop, UV_RUN_DEFAULT);
	for (unsigned i = 0; i < ARRAY_SIZE(talkers); i++) {
		ssize_t n = read(talkers[i]->fd, &byte, 1);

		if (n)
			fail_msg("talker %u sees %zd (%s)", i, n, strerror(errno));
		leave(talkers[i]);
	}
	assert_int_equal(f->calls, 1);
}

static void test_path_in_use(void **state)
{
	struct fixture *f = *state;
	struct control *second;
	struct error err = {0};

	assert_int_equal(control_open(&second, &f->loop, f->path, on_command, f, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, f->path));
	/* The first one's socket is still there. */
	assert_int_equal(access(f->path, F_OK), 0);
}

/* --- the client ------------------------------------------------------------------------------------------ */

struct server {
	struct fixture *f;
	uv_async_t stop;
};

static void on_stop(uv_async_t *handle)
{
	uv_stop(handle->loop);
}

static void *serve(void *argument)
{
	struct server *s = argument;

	uv_run(&s->f->loop, UV_RUN_DEFAULT);
	return NULL;
}

/* Runs the client against the loop in another thread; the text it printed is in `text`. */
/* `argument`: NULL, or up to two with a space between them. */
static int client(struct fixture *f, bool json, char *text, size_t size, struct error *err, const char *verb,
    const char *argument)
{
	char first[64], second[256], *space;
	char *argv[] = {first, second, NULL, NULL};
	struct server s = {.f = f};
	FILE *out = fmemopen(text, size, "w");
	pthread_t thread;
	int r;

	snprintf(first, sizeof(first), "%s", verb);
	snprintf(second, sizeof(second), "%s", argument ? argument : "");
	space = strchr(second, ' ');
	if (space) {
		*space = '\0';
		argv[2] = space + 1;
	}
	assert_non_null(out);
	assert_int_equal(uv_async_init(&f->loop, &s.stop, on_stop), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve, &s), 0);
	r = worker_control(f->path, space ? 3 : argument ? 2 : 1, argv, json, out, err);
	uv_async_send(&s.stop);
	pthread_join(thread, NULL);
	uv_close((uv_handle_t *)&s.stop, NULL);
	run_all(f);
	fclose(out);
	return r;
}

static void test_client(void **state)
{
	struct fixture *f = *state;
	static char text[1 << 20];
	struct error err = {0};
	char file[100];

	f->padding = 300000;
	assert_int_equal(client(f, false, text, sizeof(text), &err, "inspect", NULL), 0);
	assert_non_null(strstr(text, "\ntree:\n  leaf: 7\n"));
	assert_non_null(strstr(text, "\nlist:\n  0: 1\n  1: 2\n"));
	assert_non_null(strstr(text, "\nnothing: none\n"));
	assert_null(strstr(text, "ok:"));
	assert_int_equal(client(f, true, text, sizeof(text), &err, "inspect", NULL), 0);
	assert_int_equal(text[0], '{');
	assert_int_equal(client(f, false, text, sizeof(text), &err, "fail", NULL), -EINVAL);
	assert_string_equal(err.text, "it f?iled");
	assert_int_equal(client(f, false, text, sizeof(text), &err, "status", "extra"), -EINVAL);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "add-disk", NULL), -EINVAL);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "add-disk", "/nonexistent"), -ENOENT);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "\xff", NULL), -EINVAL);
	/* The path is told as the worker can open it, wherever that runs. */
	snprintf(file, sizeof(file), "%s/../%s/socket,ro", f->directory, strrchr(f->directory, '/') + 1);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "add-disk", file), 0);
	assert_string_equal(f->last_path, f->path);
	assert_true(f->last_read_only);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "change-medium", NULL), -EINVAL);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "change-medium", "0:1"), 0);
	assert_string_equal(f->last_path, "none");
	snprintf(file, sizeof(file), "0:1 %s", f->path);
	assert_int_equal(client(f, false, text, sizeof(text), &err, "change-medium", file), 0);
	assert_string_equal(f->last_path, f->path);
}

static void test_client_alone(void **state)
{
	struct fixture *f = *state;
	char verb[] = "status", path[] = "/nonexistent/socket";
	char *argv[] = {verb, NULL};
	struct error err = {0};

	(void)f;
	assert_int_equal(worker_control(path, 1, argv, false, stdout, &err), -ENOENT);
	assert_non_null(strstr(err.text, "--control"));
}

int main(void)
{
#define CONTROL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {CONTROL_TEST(test_lines_are_answered),
	    CONTROL_TEST(test_bad_lines_are_refused_and_harm_nothing), CONTROL_TEST(test_long_lines),
	    CONTROL_TEST(test_many_lines_at_once),
	    CONTROL_TEST(test_descriptors_come_with_a_line), CONTROL_TEST(test_several_descriptors),
	    CONTROL_TEST(test_too_many_descriptors), CONTROL_TEST(test_answer_that_comes_later),
	    CONTROL_TEST(test_peer_that_does_not_read_costs_little),
	    CONTROL_TEST(test_too_many_peers), CONTROL_TEST(test_close_with_peers), CONTROL_TEST(test_line_of_one_that_has_left),
	    CONTROL_TEST(test_close_before_a_line_is_read), CONTROL_TEST(test_path_in_use),
	    CONTROL_TEST(test_client), CONTROL_TEST(test_client_alone)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
