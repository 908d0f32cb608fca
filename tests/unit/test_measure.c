/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The account of a machine's resource metering: runs, resets, deaths of the daemon, boots of the host, lies of a worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "vmms/measure_record.h"

#define RUN_1 "00000000-0000-0000-0000-000000000001"
#define RUN_2 "00000000-0000-0000-0000-000000000002"
#define MAC   "00:15:5d:00:00:01"
#define MIB   (1 << 20)

static const char config[] = "{\"adapters\": [{\"mac\": \"00:15:5D:00:00:01\", \"settings\": {\"acls\": ["
			     "{\"direction\": \"in\", \"action\": \"meter\", \"remote\": \"10.0.0.1\"},"
			     "{\"direction\": \"out\", \"action\": \"deny\", \"remote\": \"10.0.0.2\"},"
			     "{\"direction\": \"out\", \"action\": \"meter\", \"remote\": \"FD00:0:0::/8\"}]}},"
			     "{\"mac\": \"00:15:5d:00:00:02\"}]}";

static struct measure_time at(const char *boot, int64_t up, int64_t real)
{
	struct measure_time time = {.up = up, .real = real};

	snprintf(time.boot, sizeof(time.boot), "%s", boot);
	return time;
}

static json_t *rules(void)
{
	json_t *json = json_loads(config, 0, NULL), *list = measure_rules(json);

	json_decref(json);
	return list;
}

/* What a worker of this run tells: so many bytes written, and as many to the guest from 10.0.0.1. */
static void tell(struct measure *m, const char *run, json_int_t bytes, int64_t cpu_us)
{
	json_t *list = rules(), *told = json_pack("{s:s, s:{s:I, s:I, s:I}, s:{s:I}, s:[{s:s, s:s, s:s, s:I}]}", "run", run, "disk", "written_bytes", bytes,
						  "operations", bytes / 512, "latency_us", bytes, "network", "received_bytes", bytes, "remotes", "mac", MAC,
						  "direction", "in", "remote", "10.0.0.1/32", "bytes", bytes);

	measure_note(m, told, cpu_us, list);
	json_decref(told);
	json_decref(list);
}

static int64_t number(const struct measure *m, const char *object, const char *key)
{
	json_t *report = measure_report(m, 1000), *at_object = *object ? json_object_get(report, object) : report;
	int64_t value = (int64_t)(json_number_value(json_object_get(at_object, key)) + 0.5);

	json_decref(report);
	return value;
}

static int64_t from_remote(const struct measure *m)
{
	json_t *report = measure_report(m, 0);
	const json_t *list = json_object_get(json_object_get(report, "network"), "remotes");
	int64_t bytes = json_integer_value(json_object_get(json_array_get(list, 0), "bytes"));

	assert_int_equal(json_array_size(list), 1);
	json_decref(report);
	return bytes;
}

/* What is stored and read again is the same. */
static struct measure *again(struct measure *m)
{
	json_t *saved = measure_save(m), *twice;
	char *text = json_dumps(saved, JSON_COMPACT | JSON_SORT_KEYS), *other;
	struct measure *loaded;

	json_decref(saved);
	saved = json_loads(text, 0, NULL);
	loaded = measure_load(saved);
	assert_non_null(loaded);
	twice = measure_save(loaded);
	other = json_dumps(twice, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, other);
	free(text);
	free(other);
	json_decref(saved);
	json_decref(twice);
	measure_free(m);
	return loaded;
}

static void test_rules(void **state)
{
	json_t *list = rules();
	json_t *wanted = json_loads("[{\"mac\": \"00:15:5d:00:00:01\", \"rules\": [{\"direction\": \"in\", \"remote\": \"10.0.0.1/32\"},"
				    "{\"direction\": \"out\", \"remote\": \"fd00::/8\"}]},"
				    "{\"mac\": \"00:15:5d:00:00:02\", \"rules\": [{\"direction\": \"in\", \"remote\": \"any\"},"
				    "{\"direction\": \"out\", \"remote\": \"any\"}]}]", 0, NULL);

	(void)state;
	assert_true(json_equal(list, wanted));
	json_decref(list);
	json_decref(wanted);
	list = measure_rules(NULL);
	assert_int_equal(json_array_size(list), 0);
	json_decref(list);
}

/* Sums go on over runs; the same told twice, and less than before, adds nothing. */
static void test_runs(void **state)
{
	struct measure_time time = at("a", 1000, 1000000);
	struct measure *m = measure_new(&time);

	(void)state;
	time.up = 2000;
	measure_runs(m, &time, 64 * MIB, true);
	tell(m, RUN_1, 1024, 5000000);
	tell(m, RUN_1, 1024, 5000000);
	m = again(m);
	tell(m, RUN_1, 512, 4000000);
	tell(m, RUN_1, 2048, 6000000);
	assert_int_equal(number(m, "disk", "written_bytes"), 2048);
	assert_int_equal(number(m, "disk", "operations"), 4);
	assert_int_equal(number(m, "disk", "average_latency_us"), 512);
	assert_int_equal(from_remote(m), 2048);
	assert_int_equal(number(m, "processor", "seconds"), 6);
	time.up = 12000;
	measure_stops(m, &time, 1000000 + 11000);
	tell(m, RUN_1, 2048, 6000000);
	time.up = 22000;
	measure_runs(m, &time, 128 * MIB, true);
	tell(m, RUN_2, 1024, 1000000);
	m = again(m);
	assert_int_equal(number(m, "disk", "written_bytes"), 3072);
	assert_int_equal(number(m, "network", "received_bytes"), 3072);
	assert_int_equal(from_remote(m), 3072);
	assert_int_equal(number(m, "processor", "seconds"), 7);
	time.up = 31000;
	measure_advance(m, &time);
	assert_int_equal(number(m, "", "duration_ms"), 30000);
	assert_int_equal(number(m, "", "ran_ms"), 19000);
	assert_int_equal(number(m, "processor", "average_percent"), 23);
	assert_int_equal(number(m, "processor", "average_mhz"), 233);
	/* 10 s of 64 MiB, 9 of 128, of 30. */
	assert_int_equal(number(m, "memory", "average"), (int64_t)(10 * 64 + 9 * 128) * MIB / 30);
	assert_int_equal(number(m, "memory", "minimum"), 64 * MIB);
	assert_int_equal(number(m, "memory", "maximum"), 128 * MIB);
	measure_free(m);
}

/* Of a run that goes on, what was is no part of an account that begins. */
static void test_begins(void **state)
{
	struct measure_time time = at("a", 1000, 1000000);
	struct measure *m = measure_new(&time);

	(void)state;
	measure_runs(m, &time, 64 * MIB, false);
	m->begins = true;
	m = again(m);
	tell(m, RUN_1, 1 << 30, 100000000);
	m = again(m);
	assert_int_equal(number(m, "disk", "written_bytes"), 0);
	assert_int_equal(from_remote(m), 0);
	tell(m, RUN_1, (1 << 30) + 512, 101000000);
	assert_int_equal(number(m, "disk", "written_bytes"), 512);
	assert_int_equal(number(m, "processor", "seconds"), 1);
	time.up = 5000;
	time.real = 2000000;
	measure_advance(m, &time);
	measure_reset(m, &time);
	assert_int_equal(number(m, "", "duration_ms"), 0);
	assert_int_equal(number(m, "memory", "maximum"), 64 * MIB);
	tell(m, RUN_1, (1 << 30) + 1024, 102000000);
	tell(m, RUN_1, (1 << 30) + 1536, 103000000);
	assert_int_equal(number(m, "disk", "written_bytes"), 512);
	assert_int_equal(from_remote(m), 512);
	assert_int_equal(number(m, "", "since"), 2000000);
	/* It was killed: the kernel tells its time, and nobody the rest. */
	measure_note(m, NULL, 104000000, NULL);
	assert_int_equal(number(m, "processor", "seconds"), 2);
	measure_free(m);
}

/* A rule that the worker had no more, as its adapter was away, counts from nothing again. */
static void test_rule_comes_back(void **state)
{
	struct measure_time time = at("a", 1000, 1000000);
	struct measure *m = measure_new(&time);
	json_t *list = rules(), *told = json_pack("{s:s, s:[]}", "run", RUN_1, "remotes");

	(void)state;
	measure_runs(m, &time, 64 * MIB, true);
	tell(m, RUN_1, 1024, 0);
	measure_note(m, told, 0, list);
	tell(m, RUN_1, 512, 0);
	assert_int_equal(from_remote(m), 1536);
	assert_int_equal(number(m, "disk", "written_bytes"), 1024);
	json_decref(told);
	json_decref(list);
	measure_free(m);
}

/* The host's clock may jump, as long as it is the same boot; over another it is all there is. */
static void test_time(void **state)
{
	struct measure_time time = at("a", 1000, 1000000);
	struct measure *m = measure_new(&time);

	(void)state;
	measure_runs(m, &time, 64 * MIB, true);
	time = at("a", 11000, 5);
	measure_advance(m, &time);
	assert_int_equal(number(m, "", "duration_ms"), 10000);
	time = at("a", 21000, 1010000);
	measure_advance(m, &time);
	/* When the host went down nobody knows: it ran as long as it was seen to. */
	time = at("b", 3000, 1060000);
	measure_stops(m, &time, 0);
	assert_int_equal(number(m, "", "duration_ms"), 70000);
	assert_int_equal(number(m, "", "ran_ms"), 20000);
	time = at("c", 3000, 1000000);
	measure_advance(m, &time);
	assert_int_equal(number(m, "", "duration_ms"), 70000);
	/* An end that is told lies between what is accounted for and now. */
	measure_runs(m, &time, 64 * MIB, true);
	time = at("c", 13000, 1010000);
	measure_stops(m, &time, 1004000);
	assert_int_equal(number(m, "", "ran_ms"), 24000);
	assert_int_equal(number(m, "", "duration_ms"), 80000);
	measure_free(m);
}

/* All that is remembered would be held against each of them, for seconds: it is as if nothing had been told. */
static void tell_of_too_many(struct measure *m)
{
	json_t *list = rules(), *before = measure_save(m), *after, *told = json_pack("{s:s, s:[]}", "run", RUN_1, "remotes");

	for (unsigned i = 0; i < 2000; i++)
		json_array_append_new(json_object_get(told, "remotes"), json_object());
	measure_note(m, told, 5, list);
	after = measure_save(m);
	assert_true(json_equal(before, after));
	json_decref(before);
	json_decref(after);
	json_decref(told);
	json_decref(list);
}

static void test_lies(void **state)
{
	static const char *const lies[] = {"null", "[]", "{\"run\": 5}", "{\"run\": \"" RUN_1 "\", \"disk\": [], \"remotes\": {\"a\": 1}, \"allocation\": 7}",
	    "{\"run\": \"" RUN_1 "\", \"disk\": {\"written_bytes\": -5, \"read_bytes\": 1e300}, \"allocation\": {\"size\": -1}}",
	    "{\"run\": \"" RUN_1 "\", \"remotes\": [5, {\"mac\": \"x\"}, {\"mac\": \"" MAC "\", \"direction\": \"in\", \"remote\": \"192.0.2.1/32\", \"bytes\": 5}]}"};
	struct measure_time time = at("a", 1000, 1000000);
	struct measure *m = measure_new(&time);
	json_t *list = rules();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		json_t *told = json_loads(lies[i], JSON_DECODE_ANY, NULL);

		assert_non_null(told);
		measure_note(m, told, -1, list);
		json_decref(told);
	}
	m = again(m);
	assert_int_equal(number(m, "disk", "written_bytes"), 0);
	assert_int_equal(json_object_size(m->remotes), 0);
	tell(m, RUN_1, INT64_MAX, INT64_MAX);
	tell(m, RUN_2, INT64_MAX, INT64_MAX);
	assert_int_equal(m->sum[MEASURE_WRITTEN], INT64_MAX);
	m = again(m);
	assert_int_equal(from_remote(m), INT64_MAX);
	tell_of_too_many(m);
	m = again(m);
	assert_null(measure_load(NULL));
	json_decref(list);
	list = json_pack("{s:i, s:{}}", "version", 2, "remotes");
	assert_null(measure_load(list));
	json_decref(list);
	measure_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_runs), cmocka_unit_test(test_begins), cmocka_unit_test(test_rule_comes_back),
					   cmocka_unit_test(test_time), cmocka_unit_test(test_lies)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
