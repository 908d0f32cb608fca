/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errands: turns with the loop, their order, and the daemon's end. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "vmms/daemon.h"
#include "vmms/errand.h"

struct test {
	struct vmms vmms;
	uv_sem_t go_on;
	uv_timer_t timer;
	char log[32]; /* written in turns: no lock */
};

struct named {
	struct test *test;
	char name;
	bool leaves;
};

static void note(struct test *test, char what)
{
	test->log[strlen(test->log)] = what;
}

/* "a", out of its turn until the loop's timer says so, "b". */
static void run(void *context)
{
	struct named *n = context;

	note(n->test, n->name);
	if (!n->leaves)
		return;
	errand_leave(&n->test->vmms);
	uv_sem_wait(&n->test->go_on);
	errand_enter(&n->test->vmms);
	note(n->test, (char)(n->name + 1));
}

static void done(void *context)
{
	struct named *n = context;

	note(n->test, '.');
}

static void begin(struct test *test)
{
	struct error err = {0};

	memset(test, 0, sizeof(*test));
	assert_int_equal(uv_loop_init(&test->vmms.loop), 0);
	assert_int_equal(uv_sem_init(&test->go_on, 0), 0);
	assert_int_equal(errands_open(&test->vmms, &err), 0);
}

static void end(struct test *test)
{
	errands_close(&test->vmms);
	uv_run(&test->vmms.loop, UV_RUN_DEFAULT);
	errands_free(&test->vmms);
	uv_sem_destroy(&test->go_on);
	assert_int_equal(uv_loop_close(&test->vmms.loop), 0);
}

static void timer_due(uv_timer_t *timer)
{
	struct test *test = timer->data;

	note(test, '!');
	uv_sem_post(&test->go_on);
	uv_close((uv_handle_t *)timer, NULL);
}

static void test_turns(void **state)
{
	struct test test;
	struct named first = {&test, 'a', true}, second = {&test, 'x', false};
	struct error err;

	(void)state;
	begin(&test);
	test.timer.data = &test;
	uv_timer_init(&test.vmms.loop, &test.timer);
	uv_timer_start(&test.timer, timer_due, 20, 0);
	assert_int_equal(errand_start(&test.vmms, run, done, &first, &err), 0);
	assert_int_equal(errand_start(&test.vmms, run, done, &second, &err), 0);
	/* Not by whoever asks for it. */
	assert_string_equal(test.log, "");
	while (strlen(test.log) < 6)
		uv_run(&test.vmms.loop, UV_RUN_ONCE);
	assert_string_equal(test.log, "a!b.x.");
	assert_false(errand_at_work(&test.vmms));
	end(&test);
}

static void test_the_end(void **state)
{
	struct test test;
	struct named first = {&test, 'a', true}, second = {&test, 'x', false};
	struct error err;

	(void)state;
	begin(&test);
	assert_int_equal(errand_start(&test.vmms, run, done, &first, &err), 0);
	assert_int_equal(errand_start(&test.vmms, run, done, &second, &err), 0);
	uv_sem_post(&test.go_on);
	errands_close(&test.vmms);
	assert_string_equal(test.log, "ab.x.");
	/* Nobody would run it. */
	assert_int_equal(errand_start(&test.vmms, run, done, &second, &err), -ESHUTDOWN);
	uv_run(&test.vmms.loop, UV_RUN_DEFAULT);
	assert_string_equal(test.log, "ab.x.");
	errands_free(&test.vmms);
	uv_sem_destroy(&test.go_on);
	assert_int_equal(uv_loop_close(&test.vmms.loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_turns),
	    cmocka_unit_test(test_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
