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

/* --- a host that has no thread left ------------------------------------------------------------------------- */

int __real_uv_thread_create(uv_thread_t *thread, uv_thread_cb entry, void *context);
int __wrap_uv_thread_create(uv_thread_t *thread, uv_thread_cb entry, void *context);

static unsigned refusals, refused;

int __wrap_uv_thread_create(uv_thread_t *thread, uv_thread_cb entry, void *context)
{
	if (!refusals)
		return __real_uv_thread_create(thread, entry, context);
	refusals--;
	refused++;
	return UV_EAGAIN;
}

static void test_no_thread(void **state)
{
	struct test test;
	struct named first = {&test, 'a', false}, second = {&test, 'x', false};
	uint64_t start;
	struct error err;

	(void)state;
	begin(&test);
	refusals = 3;
	refused = 0;
	start = uv_hrtime();
	assert_int_equal(errand_start(&test.vmms, run, done, &first, &err), 0);
	assert_int_equal(errand_start(&test.vmms, run, done, &second, &err), 0);
	while (strlen(test.log) < 4)
		uv_run(&test.vmms.loop, UV_RUN_ONCE);
	assert_string_equal(test.log, "a.x.");
	assert_int_equal(refused, 3);
	/* The loop waits in between, and does not turn. */
	assert_true(uv_hrtime() - start >= 290 * 1000000ull);
	end(&test);
}

/* They are run all the same, as whoever waits for them will not be there later. */
static void test_no_thread_at_the_end(void **state)
{
	struct test test;
	struct named first = {&test, 'a', true}, second = {&test, 'x', false};
	struct error err;

	(void)state;
	begin(&test);
	refusals = 1000;
	assert_int_equal(errand_start(&test.vmms, run, done, &first, &err), 0);
	assert_int_equal(errand_start(&test.vmms, run, done, &second, &err), 0);
	uv_run(&test.vmms.loop, UV_RUN_ONCE);
	assert_string_equal(test.log, "");
	uv_sem_post(&test.go_on);
	end(&test);
	assert_string_equal(test.log, "ab.x.");
	refusals = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_turns),
	    cmocka_unit_test(test_the_end),
	    cmocka_unit_test(test_no_thread),
	    cmocka_unit_test(test_no_thread_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
