/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Console and control sockets of a process that has no descriptor left: the loop does not spin, and who waits is let in. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include <cmocka.h>

#include "worker/console.h"
#include "worker/control.h"

#define DEADLINE_S  40
#define DESCRIPTORS 128u
#define WAITED_MS   600u
#define ROUNDS_MAX  60u /* of the loop in that time; one that spins makes thousands */

struct fixture {
	uv_loop_t loop;
	struct control *control;
	struct console *console;
	char directory[32], path[64];
	int clients[2]; /* made while there are descriptors */
	int held[DESCRIPTORS];
	unsigned held_count;
	struct rlimit limit;
	int connects;
};

static json_t *on_command(void *context, const char *command, const json_t *arguments, struct control_call *call)
{
	(void)context;
	(void)command;
	(void)arguments;
	(void)call;
	return json_pack("{s:b}", "ok", 1);
}

static size_t port_input(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	(void)context;
	(void)port;
	(void)bytes;
	return size;
}

static void port_ready(void *context, unsigned port)
{
	(void)context;
	(void)port;
}

static void port_connected(void *context, unsigned port, bool connected)
{
	struct fixture *f = context;

	(void)port;
	f->connects += connected;
}

static void port_key(void *context, char key)
{
	(void)context;
	(void)key;
}

static const struct console_ops ops = {port_input, port_ready, port_connected, port_key};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(uv_loop_init(&f->loop), 0);
	strcpy(f->directory, "/tmp/bulkhead-listener-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
	for (unsigned i = 0; i < ARRAY_SIZE(f->clients); i++)
		f->clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &f->limit), 0);
	*state = f;
	return 0;
}

static void release(struct fixture *f, unsigned count)
{
	for (unsigned i = 0; i < count && f->held_count; i++)
		close(f->held[--f->held_count]);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	release(f, DESCRIPTORS);
	setrlimit(RLIMIT_NOFILE, &f->limit);
	for (unsigned i = 0; i < ARRAY_SIZE(f->clients); i++)
		close(f->clients[i]);
	control_close(f->control);
	console_close(f->console);
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	assert_int_equal(rmdir(f->directory), 0);
	free(f);
	return 0;
}

/* All that the limit allows. The loop has run, so that nothing of its own is still to be opened. */
static void take_descriptors(struct fixture *f)
{
	struct rlimit limit = {DESCRIPTORS, f->limit.rlim_max};
	int fd;

	uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while ((fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
		f->held[f->held_count++] = fd;
	assert_int_equal(errno, EMFILE);
}

static void come(struct fixture *f, unsigned client)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, f->path, strlen(f->path) + 1);
	assert_int_equal(connect(f->clients[client], (struct sockaddr *)&address, sizeof(address)), 0);
}

static void wait_over(uv_timer_t *timer)
{
	*(bool *)timer->data = true;
}

/* How often the loop runs while somebody waits who cannot be let in. */
static unsigned rounds_of_waiting(struct fixture *f)
{
	unsigned rounds = 0;
	bool over = false;
	uv_timer_t timer;

	uv_timer_init(&f->loop, &timer);
	timer.data = &over;
	uv_update_time(&f->loop);
	uv_timer_start(&timer, wait_over, WAITED_MS, 0);
	while (!over && ++rounds < 100000)
		uv_run(&f->loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&timer, NULL);
	uv_run(&f->loop, UV_RUN_NOWAIT);
	return rounds;
}

static bool is_answered(int fd)
{
	char line[64];

	return read(fd, line, sizeof(line)) > 0;
}

#define RUN_UNTIL(f, condition)                                                                              \
	do {                                                                                                 \
		time_t start_ = time(NULL);                                                                  \
		while (!(condition)) {                                                                       \
			if (time(NULL) - start_ > DEADLINE_S)                                                \
				fail_msg("waited in vain for %s", #condition);                               \
			uv_run(&(f)->loop, UV_RUN_NOWAIT);                                                   \
		}                                                                                            \
	} while (0)

static void test_control(void **state)
{
	static const char line[] = "{\"version\": 1, \"command\": \"status\"}\n";
	struct fixture *f = *state;
	struct error err = {0};

	assert_int_equal(control_open(&f->control, &f->loop, f->path, on_command, f, &err), 0);
	take_descriptors(f);
	/* More than once: whatever is in reserve is used up. */
	for (unsigned i = 0; i < ARRAY_SIZE(f->clients); i++) {
		come(f, i);
		assert_int_equal(write(f->clients[i], line, strlen(line)), strlen(line));
	}
	assert_true(rounds_of_waiting(f) < ROUNDS_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(f->clients); i++)
		assert_false(is_answered(f->clients[i]));
	release(f, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(f->clients); i++)
		RUN_UNTIL(f, is_answered(f->clients[i]));
}

static void test_console(void **state)
{
	const struct worker_serial serial = {.kind = WORKER_SERIAL_UNIX, .path = ((struct fixture *)*state)->path};
	struct fixture *f = *state;
	struct error err = {0};

	assert_int_equal(console_open(&f->console, &f->loop, 1, &serial, &ops, f, &err), 0);
	take_descriptors(f);
	come(f, 0);
	assert_true(rounds_of_waiting(f) < ROUNDS_MAX);
	assert_int_equal(f->connects, 0);
	release(f, 8);
	RUN_UNTIL(f, f->connects == 1);
}

/* And with nobody about to come any more. */
static void test_closed_while_it_waits(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};

	assert_int_equal(control_open(&f->control, &f->loop, f->path, on_command, f, &err), 0);
	take_descriptors(f);
	come(f, 0);
	assert_true(rounds_of_waiting(f) < ROUNDS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_control, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_console, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_closed_while_it_waits, set_up, tear_down)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
