/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What bulkhead-worker is told: taken whole, or refused with the place that is wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/configuration.h"

#define NEEDED "\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\"},\"result\":\"/r\",\"lock\":\"/l\""

static int parse(struct configuration *c, const char *text, struct error *err)
{
	/* In memory of its own size, so that a read past the end is seen. */
	_cleanup_free_ char *copy = malloc(strlen(text) + 1);

	assert_non_null(copy);
	memcpy(copy, text, strlen(text));
	return configuration_parse(c, copy, strlen(text), err);
}

static void expect_refusal(const char *text, const char *why)
{
	struct configuration c;
	struct error err = {0};

	if (parse(&c, text, &err) != -EINVAL)
		fail_msg("%s is taken", text);
	if (!strstr(err.text, why))
		fail_msg("%s is refused by \"%s\", which does not say \"%s\"", text, err.text, why);
	assert_null(c.tree);
}

static void test_everything(void **state)
{
	static const char text[] =
	    "{\"version\":1,\"name\":\"web\",\"processor\":\"soft,translate=off\",\"compatible\":true,\"cpus\":64,"
	    "\"memory\":4294967296,\"boot\":{\"kernel\":\"/k\",\"initrd\":\"/i\",\"append\":\"a b\",\"modules\":[\"/m\",\"/n\"]},"
	    "\"disks\":[{\"path\":\"/d\"},{\"path\":\"/e\",\"read_only\":true,\"dvd\":true,\"controller\":3},{\"dvd\":true}],"
	    "\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"forwards\":[\"2222:22\",\"udp:0.0.0.0:53:54\"]},"
	    "{\"mac\":\"00:15:5d:01:02:04\",\"port\":\"tap\",\"interface\":\"t0\",\"any_mac\":true},{\"mac\":\"00:15:5d:01:02:05\",\"port\":\"none\"}],"
	    "\"serial\":[{\"kind\":\"unix\",\"path\":\"/s\"},{\"kind\":\"file\",\"path\":\"/f\"}],"
	    "\"control\":\"/c\",\"result\":\"/r\",\"lock\":\"/l\",\"sandbox\":{\"uid\":1000,\"gid\":4294967294},"
	    "\"no_reboot\":true,\"debug_exit\":true}\n";
	struct configuration c;
	struct error err = {0};

	(void)state;
	if (parse(&c, text, &err))
		fail_msg("%s", err.text);
	assert_string_equal(c.worker.name, "web");
	assert_int_equal(c.worker.processor, PROCESSOR_SOFT);
	assert_string_equal(c.worker.processor_options, "translate=off");
	assert_true(c.worker.compatible && c.worker.no_reboot && c.worker.exit_port);
	assert_int_equal(c.worker.vp_count, 64);
	assert_int_equal(c.worker.memory, 4ull << 30);
	assert_string_equal(c.worker.kernel, "/k");
	assert_string_equal(c.worker.initrd, "/i");
	assert_string_equal(c.worker.append, "a b");
	assert_int_equal(c.worker.module_count, 2);
	assert_string_equal(c.worker.modules[1], "/n");
	assert_int_equal(c.worker.disk_count, 3);
	assert_string_equal(c.worker.disks[0].path, "/d");
	assert_int_equal(c.worker.adapter_count, 3);
	assert_int_equal(c.worker.adapters[0].kind, WORKER_PORT_SOCKET);
	assert_int_equal(c.worker.adapters[0].mac[5], 3);
	assert_int_equal(c.nats[0].forward_count, 2);
	assert_true(c.nats[0].forwards[1].udp && c.nats[0].forwards[1].host_port == 53 && c.nats[0].forwards[1].guest_port == 54);
	assert_string_equal(c.nats[0].forwards[0].host, "127.0.0.1");
	assert_int_equal(c.worker.adapters[1].kind, WORKER_PORT_TAP);
	assert_string_equal(c.worker.adapters[1].tap, "t0");
	assert_true(c.worker.adapters[1].any_mac);
	assert_int_equal(c.worker.adapters[2].kind, WORKER_PORT_NONE);
	assert_false(c.worker.disks[0].read_only || c.worker.disks[0].dvd || c.worker.disks[0].controller);
	assert_string_equal(c.worker.disks[1].path, "/e");
	assert_true(c.worker.disks[1].read_only && c.worker.disks[1].dvd);
	assert_true(c.worker.disks[2].dvd && !c.worker.disks[2].path);
	assert_int_equal(c.worker.disks[1].controller, 3);
	assert_int_equal(c.worker.serial[0].kind, WORKER_SERIAL_UNIX);
	assert_string_equal(c.worker.serial[0].path, "/s");
	assert_int_equal(c.worker.serial[1].kind, WORKER_SERIAL_FILE);
	assert_string_equal(c.worker.serial[1].path, "/f");
	assert_string_equal(c.worker.control_path, "/c");
	assert_string_equal(c.result, "/r");
	assert_string_equal(c.lock, "/l");
	assert_true(c.has_user);
	assert_int_equal(c.uid, 1000);
	assert_int_equal(c.gid, 4294967294u);
	configuration_free(&c);
	assert_null(c.tree);
}

static void test_defaults(void **state)
{
	struct configuration c;
	struct error err = {0};

	(void)state;
	if (parse(&c, "{" NEEDED "}", &err))
		fail_msg("%s", err.text);
	assert_int_equal(c.worker.processor, PROCESSOR_AUTO);
	assert_null(c.worker.processor_options);
	assert_false(c.worker.compatible || c.worker.no_reboot || c.worker.exit_port || c.has_user);
	assert_int_equal(c.worker.vp_count, 1);
	assert_int_equal(c.worker.memory, 1ull << 30);
	assert_null(c.worker.initrd);
	assert_null(c.worker.append);
	assert_null(c.worker.control_path);
	assert_int_equal(c.worker.module_count + c.worker.disk_count, 0);
	assert_int_equal(c.worker.serial[0].kind, WORKER_SERIAL_NONE);
	assert_int_equal(c.worker.serial[1].kind, WORKER_SERIAL_NONE);
	configuration_free(&c);
	assert_int_equal(parse(&c, "{" NEEDED ",\"sandbox\":null,\"serial\":[{\"kind\":\"none\"}]}", &err), 0);
	assert_false(c.has_user);
	configuration_free(&c);
}

static void test_no_object(void **state)
{
	(void)state;
	expect_refusal("", "line 1");
	expect_refusal("[]", "must be an object");
	expect_refusal("{" NEEDED "} {}", "line 1");
	expect_refusal("{" NEEDED, "line 1");
	expect_refusal("{" NEEDED ",\"lock\":\"/m\"}", "duplicate");
	expect_refusal("{" NEEDED ",\"control\":\"/a\\u0000b\"}", "line 1");
	expect_refusal("{" NEEDED ",\"control\":\"/\xff\"}", "line 1");
}

static void test_versions(void **state)
{
	(void)state;
	/* Another version may have other keys, so that is told first. */
	expect_refusal("{\"version\":2,\"new\":1}", "version must be 1");
	expect_refusal("{\"version\":\"1\"}", "version must be 1");
	expect_refusal("{}", "version is missing");
}

static void test_what_is_needed(void **state)
{
	(void)state;
	expect_refusal("{\"version\":1,\"boot\":{\"kernel\":\"/k\"},\"result\":\"/r\",\"lock\":\"/l\"}", "name is missing");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"result\":\"/r\",\"lock\":\"/l\"}", "boot is missing");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{},\"result\":\"/r\",\"lock\":\"/l\"}", "boot.kernel is missing");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\"},\"lock\":\"/l\"}", "result is missing");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\"},\"result\":\"/r\"}", "lock is missing");
	expect_refusal("{\"version\":1,\"name\":\"\",\"boot\":{\"kernel\":\"/k\"},\"result\":\"/r\",\"lock\":\"/l\"}",
	    "name must have 1 to 255 bytes");
	expect_refusal("{" NEEDED ",\"disks\":[{\"path\":\"/d\"},{}]}", "disks[1].path is missing");
	expect_refusal("{" NEEDED ",\"serial\":[{}]}", "serial[0].kind is missing");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"unix\"}]}", "serial[0].path is missing");
	expect_refusal("{" NEEDED ",\"sandbox\":{\"uid\":1}}", "sandbox.gid is missing");
	expect_refusal("{" NEEDED ",\"sandbox\":{}}", "sandbox.uid is missing");
}

static void test_unknown_keys(void **state)
{
	(void)state;
	expect_refusal("{" NEEDED ",\"colour\":1}", ": colour is not a key");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\",\"x\":1},\"result\":\"/r\",\"lock\":\"/l\"}",
	    "boot.x is not a key");
	expect_refusal("{" NEEDED ",\"disks\":[{\"path\":\"/d\"},{\"path\":\"/d\",\"ro\":true}]}", "disks[1].ro is not a key");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"none\",\"x\":1}]}", "serial[0].x is not a key");
	expect_refusal("{" NEEDED ",\"sandbox\":{\"uid\":1,\"gid\":1,\"x\":1}}", "sandbox.x is not a key");
}

static void test_paths(void **state)
{
	_cleanup_free_ char *text = malloc(9000);

	(void)state;
	expect_refusal("{" NEEDED ",\"disks\":[{\"path\":\"/d\"},{\"path\":\"d\"}]}", "disks[1].path must be an absolute path");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"none\"},{\"kind\":\"file\",\"path\":\"f\"}]}",
	    "serial[1].path must be an absolute path");
	expect_refusal("{" NEEDED ",\"control\":\"\"}", "control must be an absolute path");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\",\"modules\":[\"/m\",\"m\"]}}",
	    "boot.modules[1] must be an absolute path");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\",\"initrd\":\"i\"}}", "boot.initrd must be");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"k\"}}", "boot.kernel must be");
	assert_non_null(text);
	snprintf(text, 9000, "{" NEEDED ",\"control\":\"/%05000d\"}", 0);
	expect_refusal(text, "control is too long");
}

static void test_types_and_ranges(void **state)
{
	(void)state;
	expect_refusal("{" NEEDED ",\"cpus\":0}", "cpus must be a whole number from 1 to 64");
	expect_refusal("{" NEEDED ",\"cpus\":65}", "cpus must be");
	expect_refusal("{" NEEDED ",\"cpus\":1.0}", "cpus must be");
	expect_refusal("{" NEEDED ",\"cpus\":\"1\"}", "cpus must be");
	expect_refusal("{" NEEDED ",\"memory\":-1}", "memory must be");
	expect_refusal("{" NEEDED ",\"memory\":0}", "memory must be");
	expect_refusal("{" NEEDED ",\"memory\":9223372036854775808}", "line 1");
	expect_refusal("{" NEEDED ",\"compatible\":1}", "compatible must be true or false");
	expect_refusal("{" NEEDED ",\"no_reboot\":null}", "no_reboot must be true or false");
	expect_refusal("{" NEEDED ",\"debug_exit\":\"\"}", "debug_exit must be true or false");
	expect_refusal("{" NEEDED ",\"processor\":1}", "processor must be a string");
	expect_refusal("{" NEEDED ",\"processor\":\"hard\"}", "processor: hard: write auto, kvm or soft");
	expect_refusal("{" NEEDED ",\"processor\":\"\"}", "processor");
	expect_refusal("{" NEEDED ",\"control\":null}", "control must be a string");
	expect_refusal("{" NEEDED ",\"disks\":{}}", "disks must be an array");
	expect_refusal("{" NEEDED ",\"adapters\":[{}]}", "adapters[0].mac is missing");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02\"}]}", "adapters[0].mac must be");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"01:15:5d:01:02:03\"}]}", "adapters[0].mac must be");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03:\"}]}", "adapters[0].mac must be");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\"},{\"mac\":\"00:15:5D:01:02:03\"}]}",
	    "adapters[1].mac is another adapter's");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"port\":\"lan\"}]}", "adapters[0].port must be");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"port\":\"tap\"}]}",
	    "adapters[0].interface is missing");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"interface\":\"t\"}]}",
	    "adapters[0].interface has no meaning");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"forwards\":[\"22\"]}]}", "adapters[0].forwards[0]");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"port\":\"descriptor\"}]}",
	    "adapters[0].descriptor is missing");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"port\":\"descriptor\",\"descriptor\":2}]}",
	    "adapters[0].descriptor must be");
	expect_refusal("{" NEEDED ",\"adapters\":[{\"mac\":\"00:15:5d:01:02:03\",\"descriptor\":3}]}",
	    "adapters[0].descriptor has no meaning");
	expect_refusal("{" NEEDED ",\"disks\":[1]}", "disks[0] must be an object");
	expect_refusal("{" NEEDED ",\"disks\":[{\"path\":\"/d\",\"controller\":4}]}", "disks[0].controller must be");
	expect_refusal("{" NEEDED ",\"disks\":[{\"path\":\"/d\",\"dvd\":1}]}", "disks[0].dvd must be");
	expect_refusal("{" NEEDED ",\"disks\":[{\"dvd\":false}]}", "disks[0].path is missing");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"none\"},{\"kind\":\"none\"},{\"kind\":\"none\"}]}",
	    "serial has more than 2");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"stdio\"}]}", "serial[0].kind must be none, unix or file");
	expect_refusal("{" NEEDED ",\"serial\":[{\"kind\":\"none\",\"path\":\"/p\"}]}", "serial[0].path has no meaning");
	expect_refusal("{" NEEDED ",\"sandbox\":1}", "sandbox must be an object");
	expect_refusal("{" NEEDED ",\"sandbox\":{\"uid\":0,\"gid\":1}}", "sandbox.uid must be");
	expect_refusal("{" NEEDED ",\"sandbox\":{\"uid\":1,\"gid\":4294967295}}", "sandbox.gid must be");
	expect_refusal("{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\",\"modules\":[1]}}", "boot.modules[0] must be");
}

static void test_too_many(void **state)
{
	_cleanup_free_ char *text = malloc(4000);
	int n;

	(void)state;
	assert_non_null(text);
	n = sprintf(text, "{" NEEDED ",\"disks\":[{\"path\":\"/d\"}");
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		n += sprintf(text + n, ",{\"path\":\"/d\"}");
	sprintf(text + n, "]}");
	expect_refusal(text, "disks has more than 64");
	n = sprintf(text, "{\"version\":1,\"name\":\"n\",\"boot\":{\"kernel\":\"/k\",\"modules\":[\"/m\"");
	for (unsigned i = 0; i < WORKER_MAX_MODULES; i++)
		n += sprintf(text + n, ",\"/m\"");
	sprintf(text + n, "]}}");
	expect_refusal(text, "boot.modules has more than 8");
}

/* A file of `size` bytes: the smallest configuration and blanks. */
static int read_padded(struct configuration *c, size_t size, struct error *err)
{
	FILE *file = tmpfile();
	int r;

	assert_non_null(file);
	fputs("{" NEEDED "}", file);
	for (size_t i = strlen("{" NEEDED "}"); i < size; i++)
		fputc(' ', file);
	rewind(file);
	r = configuration_read(c, fileno(file), err);
	fclose(file);
	return r;
}

static void test_size(void **state)
{
	struct configuration c;
	struct error err = {0};

	(void)state;
	assert_int_equal(read_padded(&c, CONFIGURATION_MAX_BYTES, &err), 0);
	configuration_free(&c);
	assert_int_equal(read_padded(&c, CONFIGURATION_MAX_BYTES + 1, &err), -EFBIG);
	assert_null(c.tree);
	assert_int_equal(configuration_read(&c, -1, &err), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything), cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_no_object), cmocka_unit_test(test_versions), cmocka_unit_test(test_what_is_needed),
	    cmocka_unit_test(test_unknown_keys), cmocka_unit_test(test_paths), cmocka_unit_test(test_types_and_ranges),
	    cmocka_unit_test(test_too_many), cmocka_unit_test(test_size)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
