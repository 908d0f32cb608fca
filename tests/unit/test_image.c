// SPDX-License-Identifier: GPL-2.0-or-later
/* Image directories and seeds, without making an image. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "image/build.h"

static char directory[64];

static char *in_directory(const char *name)
{
	return format_string("%s/%s", directory, name);
}

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *path = in_directory(name);

	assert_int_equal(write_file(path, text, strlen(text), false, NULL), 0);
}

static int setup(void **state)
{
	snprintf(directory, sizeof(directory), "/tmp/test-image-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state)
{
	return remove_tree(directory, NULL);
}

static bool contains(const char *data, size_t size, const char *text)
{
	return memmem(data, size, text, strlen(text)) != NULL;
}

/* --- image.json --------------------------------------------------------------------------------- */

static void test_metadata(void **state)
{
	_cleanup_free_ char *path = in_directory("image.json");
	_cleanup_free_ char *key = NULL;
	struct error err = {0};
	struct image image;

	assert_int_equal(
	    metadata_write(path, "debian-12", "k1", 8ull << 30, "root=/dev/x ro", "a 1\nb 2:3\n", &err), 0);
	key = metadata_key(directory);
	assert_string_equal(key, "k1");
	/* The files have to be there. */
	assert_int_equal(image_load(&image, directory, &err), -ENOENT);
	assert_non_null(strstr(err.text, "disk.vhdx"));
	put("disk.vhdx", "");
	put("vmlinuz", "");
	put("initrd.img", "");
	assert_int_equal(image_load(&image, directory, &err), 0);
	assert_string_equal(image.name, "debian-12");
	assert_string_equal(image.append, "root=/dev/x ro");
	assert_int_equal(image.size, 8ull << 30);
	assert_non_null(strstr(image.kernel, "/vmlinuz"));
	image_free(&image);
}

static void expect_bad(const char *json, int error, const char *says)
{
	struct error err = {0};
	struct image image;

	put("image.json", json);
	assert_int_equal(image_load(&image, directory, &err), error);
	assert_int_equal(err.code, -error);
	assert_non_null(strstr(err.text, says));
	assert_null(image.disk);
}

static void test_bad_metadata(void **state)
{
	struct error err = {0};
	struct image image;

	assert_int_equal(image_load(&image, directory, &err), -ENOENT);
	assert_int_equal(image_load(&image, "/nonexistent/x", &err), -ENOENT);
	assert_int_equal(image_load(&image, "/nonexistent/x", NULL), -ENOENT);
	expect_bad("", -EBADMSG, "damaged");
	expect_bad("{", -EBADMSG, "line");
	expect_bad("[]", -EBADMSG, "damaged");
	expect_bad("{\"version\": 1}", -EBADMSG, "missing");
	expect_bad("{\"version\": 2, \"name\": \"x\", \"append\": \"\"}", -ENOTSUP, "newer");
	expect_bad("{\"version\": 1, \"name\": \"x\", \"append\": \"\"}", -EBADMSG, "disk");
	expect_bad("{\"version\": 1, \"name\": \"x\", \"append\": \"\", \"disk\": \"../../etc/passwd\"}",
		   -EBADMSG, "disk");
	expect_bad("{\"version\": 1, \"name\": \"x\", \"append\": \"\", \"disk\": 7}", -EBADMSG, "disk");
}

/* --- seeds -------------------------------------------------------------------------------------- */

static void test_seed(void **state)
{
	const struct image_seed seed = {"lab-1.example", "alice", "s\"ecret \\ word",
					"ssh-ed25519 AAAA alice@x"};
	_cleanup_free_ char *path = in_directory("seed.iso");
	_cleanup_free_ char *data = NULL;
	struct error err = {0};
	struct stat st;
	size_t size;

	assert_int_equal(image_seed_write(path, &seed, &err), 0);
	data = read_file(path, &size, &err);
	assert_non_null(data);
	assert_true(size > 0x8800 && size % 2048 == 0);
	assert_memory_equal(data + 0x8001, "CD001", 5);
	assert_memory_equal(data + 0x8028, "CIDATA ", 7);
	assert_true(contains(data, size, "local-hostname: lab-1.example\n"));
	assert_true(contains(data, size, "instance-id: "));
	assert_true(contains(data, size, "#cloud-config\n"));
	assert_true(contains(data, size, "user: \"alice\"\n"));
	assert_true(contains(data, size, "passwd: \"$6$"));
	assert_true(contains(data, size, "  - \"ssh-ed25519 AAAA alice@x\"\n"));
	assert_true(contains(data, size, "user-data"));
	assert_false(contains(data, size, "ecret"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 077, 0); /* a password's hash is nobody else's */
	/* It may be written anew. */
	assert_int_equal(image_seed_write(path, &seed, &err), 0);
}

static void test_bad_seed(void **state)
{
	static const struct image_seed bad[] = {
	    {.hostname = ""},
	    {.hostname = "a b"},
	    {.hostname = "-a"},
	    {.user = "Alice"},
	    {.user = "1a"},
	    {.user = "a\nb"},
	    {.password = "x"},
	    {.user = "a", .password = ""},
	    {.user = "a", .ssh_key = "two\nlines"},
	    {.user = "a", .ssh_key = "quo\"te"},
	    {.user = "a", .ssh_key = ""},
	};
	_cleanup_free_ char *path = in_directory("bad.iso");
	struct image_seed good = {.hostname = "x"};
	struct error err;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		err.code = 0;
		assert_int_equal(image_seed_write(path, &bad[i], &err), -EINVAL);
		assert_int_equal(err.code, EINVAL);
		assert_int_equal(access(path, F_OK), -1);
	}
	assert_int_equal(image_seed_write("/nonexistent/seed.iso", &good, &err), -ENOENT);
}

/* --- build: what is refused at once ------------------------------------------------------------- */

static void expect_refused(struct image_build_options options, int error)
{
	struct error err = {0};

	assert_int_equal(image_build(&options, &err), error);
	assert_int_equal(err.code, -error);
}

static void test_refused(void **state)
{
	static const char *const bad_package[] = {"fio", "x; rm -rf /", NULL};
	_cleanup_free_ char *fresh = in_directory("new");

	expect_refused((struct image_build_options){.name = "windows-3.1", .directory = fresh}, -EINVAL);
	expect_refused((struct image_build_options){.name = "debian-12", .directory = fresh, .size = 4096},
		       -EINVAL);
	expect_refused(
	    (struct image_build_options){.name = "debian-12", .directory = fresh, .size = (8ull << 30) + 1},
	    -EINVAL);
	expect_refused(
	    (struct image_build_options){.name = "debian-12", .directory = fresh, .include = bad_package},
	    -EINVAL);
	expect_refused((struct image_build_options){.name = "debian-12", .directory = fresh, .mirror = "ftp"},
		       -EINVAL);
	expect_refused((struct image_build_options){.name = "debian-12", .directory = "/proc"}, -EEXIST);
	put("a-file", "x");
	expect_refused((struct image_build_options){.name = "debian-12", .directory = directory}, -EEXIST);
	put("image.json", "{\"version\": 1, \"name\": \"debian-12\", \"append\": \"\", \"key\": \"other\"}");
	expect_refused((struct image_build_options){.name = "debian-12", .directory = directory}, -EEXIST);
	assert_int_equal(access(fresh, F_OK), -1);
}

static void test_programs(void **state)
{
	_cleanup_free_ char *out = in_directory("out");
	_cleanup_free_ char *log = in_directory("log");
	char *fails[] = {(char *)"sh", (char *)"-c", (char *)"echo out; echo err >&2; exit 3", NULL};
	char *killed[] = {(char *)"sh", (char *)"-c", (char *)"kill -TERM $$", NULL};
	char *missing[] = {(char *)"no-such-program-here", NULL};
	_cleanup_free_ char *text = NULL;
	struct error err = {0};

	assert_int_equal(find_program("sh", "dash", &err), 0);
	assert_int_equal(find_program("no-such-program-here", "no-such-package", &err), -ENOENT);
	assert_non_null(strstr(err.text, "no-such-package"));
	assert_int_equal(run_program(fails, out, log, &err), 3);
	text = read_file(out, NULL, NULL);
	assert_string_equal(text, "out\n");
	free(text);
	text = read_file(log, NULL, NULL);
	assert_string_equal(text, "err\n");
	assert_int_equal(run_program(killed, NULL, log, &err), 128 + 15);
	assert_int_equal(run_program(missing, NULL, log, &err), 127);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_metadata), TEST(test_bad_metadata), TEST(test_seed),
	    TEST(test_bad_seed), TEST(test_refused),      TEST(test_programs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
