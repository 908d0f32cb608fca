/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Configurations, forms, files and host.db of the manager, with no daemon around them. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "vmms/config.h"
#include "vmms/files.h"
#include "disk/disk.h"
#include "vmms/limits.h"
#include "vmms/resources.h"
#include "vmms/saved_disks.h"
#include "vmms/store.h"
#include "vmms/tree.h"

#define ID "0f8fad5b-d9cb-469f-a165-70867728950e"

static char directory[64];

static int make_directory(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/bulkhead-vmms-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	_cleanup_free_ char *command = NULL;

	(void)state;
	return asprintf(&command, "rm -rf %s", directory) < 0 ? -1 : system(command);
}

static char *in_directory(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static json_t *parse(const char *text)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(json);
	return json;
}

/* A configuration that is refused, with these words in the sentence. */
static void refused(const char *text, const char *words)
{
	json_t *json = parse(text);
	struct error err = {0};

	assert_int_equal(form_check(&vm_config_form, json, &err), -EINVAL);
	if (!strstr(err.text, words))
		fail_msg("%s: \"%s\" is not in \"%s\"", text, words, err.text);
	json_decref(json);
}

#define WITH(rest) "{\"version\":1,\"id\":\"" ID "\",\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"}" rest "}"

static void test_form_names_what_is_wrong(void **state)
{
	(void)state;
	refused("[]", "the value has to be an object");
	refused("{}", "version is missing");
	refused(WITH(",\"hat\":1"), "hat is no key");
	refused(WITH(",\"memory\":\"1G\""), "memory has to be a whole number");
	refused(WITH(",\"memory\":33554431"), "memory is 33554431");
	refused(WITH(",\"disks\":[{\"path\":\"a\"},{\"path\":\"b\",\"kind\":\"tape\"}]"), "disks[1].kind is \"tape\": it may be disk, dvd");
	refused(WITH(",\"disks\":[{}]"), "disks[0].path is missing");
	refused(WITH(",\"disks\":[{\"kind\":\"dvd\"},{\"kind\":\"disk\"}]"), "disks[1].path is missing");
	refused(WITH(",\"disks\":[{\"path\":\"\"}]"), "disks[0].path has 0 bytes");
	refused(WITH(",\"tags\":[\"a\",3]"), "tags[1] has to be a string");
	refused("{\"version\":1,\"id\":\"not-a-guid-but-of-the-right-length-xx\",\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"}}", "id");
	refused("{\"version\":1,\"id\":\"" ID "\",\"name\":\"a/b\",\"boot\":{\"kernel\":\"/k\"}}", "name may not have a slash");
	refused("{\"version\":1,\"id\":\"" ID "\",\"name\":\"" ID "\",\"boot\":{\"kernel\":\"/k\"}}", "may not look like an id");
}

static void test_form_fills_in(void **state)
{
	json_t *json = parse(WITH(",\"processors\":{\"kind\":\"soft\"}"));
	const json_t *processors;
	struct error err = {0};

	(void)state;
	assert_int_equal(form_check(&vm_config_form, json, &err), 0);
	processors = json_object_get(json, "processors");
	assert_int_equal(json_integer_value(json_object_get(processors, "count")), 1);
	assert_string_equal(json_string_value(json_object_get(processors, "kind")), "soft");
	assert_int_equal(json_integer_value(json_object_get(json, "memory")), 1 << 30);
	assert_int_equal(json_array_size(json_object_get(json, "disks")), 0);
	assert_string_equal(json_string_value(json_object_get(json_object_get(json, "automatic"), "stop")), "shut-down");
	json_decref(json);
}

/* What is published says the same as the check: every key, and which have to be there. */
static void test_schema_has_every_key(void **state)
{
	json_t *schema = form_schema(&vm_config_form, NULL), *json = parse(WITH(""));
	const json_t *properties = json_object_get(schema, "properties");
	const char *key;
	json_t *value;

	(void)state;
	assert_int_equal(form_check(&vm_config_form, json, NULL), 0);
	json_object_foreach(json, key, value)
		assert_non_null(json_object_get(properties, key));
	assert_int_equal(json_array_size(json_object_get(schema, "required")), 4);
	assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
	json_decref(schema);
	json_decref(json);
}

static bool fits(const struct form *form, const char *text)
{
	struct error err = {0};
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
	int r;

	assert_non_null(json);
	r = form_check(form, json, &err);
	assert_true(!r || (r == -EINVAL && *err.text));
	json_decref(json);
	return !r;
}

static const struct form form_short = {.kind = FORM_STRING, .max = 3, .name = "Short"};
static const struct form form_either = {.kind = FORM_EITHER, .either = (const struct form *const[]){&form_short, &answer_flag, NULL}};
static const struct form form_whatever = {.kind = FORM_ANY};
static const struct form form_some = {.kind = FORM_LIST, .max = INT64_MAX, .items = &form_whatever};
static const struct form form_open = {
    .kind = FORM_OBJECT,
    .rest = &form_some,
    .fields = (const struct form_field[]){{"a", &form_either, NULL, true}, {"n", &answer_moment_or_null, NULL, false}, {"s", &answer_seconds, NULL, false}, {0}}};

/* What answers have beside what requests have: null, other numbers, one of several forms, and keys of any name. */
static void test_forms_of_answers(void **state)
{
	json_t *schemas = json_object(), *schema = form_schema(&form_open, schemas);

	(void)state;
	assert_true(fits(&form_open, "{\"a\": \"x\", \"n\": null, \"s\": 1.5, \"other\": [{}]}"));
	assert_true(fits(&form_open, "{\"a\": true, \"n\": 3, \"s\": 1}"));
	assert_false(fits(&form_open, "{\"a\": \"long\"}"));
	assert_false(fits(&form_open, "{\"a\": null}"));
	assert_false(fits(&form_open, "{\"a\": true, \"n\": -1}"));
	assert_false(fits(&form_open, "{\"a\": true, \"s\": \"1\"}"));
	assert_false(fits(&form_open, "{\"a\": true, \"other\": {}}"));
	assert_false(fits(&form_open, "{\"a\": true, \"other\": null}"));
	assert_non_null(json_object_get(schemas, "Short"));
	assert_int_equal(json_object_size(schemas), 1);
	json_decref(schema);
	json_decref(schemas);
}

static void write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void load_fails(const char *text, int code, const char *words)
{
	struct error err = {0};
	json_t *config;

	write_text(in_directory(VM_CONFIG_FILE), text);
	assert_int_equal(vm_config_load(&config, directory, &err), -code);
	if (!strstr(err.text, words) || !strstr(err.text, VM_CONFIG_FILE))
		fail_msg("\"%s\" is not in \"%s\"", words, err.text);
}

static void test_file_is_checked(void **state)
{
	struct error err = {0};
	json_t *config;

	(void)state;
	assert_int_equal(vm_config_load(&config, directory, &err), -ENOENT);
	load_fails("", EBADMSG, "line");
	load_fails("{\n\n\"version\": 1,\n,}", EBADMSG, "line 4");
	load_fails("{\"version\":1,\"version\":1}", EBADMSG, "duplicate");
	load_fails("{\"version\":2}", ENOTSUP, "version 2");
	load_fails("{\"version\":0}", EINVAL, "version is 0");
	unlink(in_directory(VM_CONFIG_FILE));
	assert_int_equal(mkfifo(in_directory(VM_CONFIG_FILE), 0600), 0);
	assert_int_equal(vm_config_load(&config, directory, &err), -EBADMSG);
}

static void test_file_is_written_and_read(void **state)
{
	json_t *request = parse("{\"name\":\"caf\\u00e9\",\"boot\":{\"kernel\":\"/k\"},\"memory\":67108864,\"adapters\":[]}");
	json_t *config, *again, *change, *changed;
	struct error err = {0};

	(void)state;
	assert_int_equal(form_check(&vm_create_form, request, &err), 0);
	config = vm_config_new(request);
	assert_int_equal(form_check(&vm_config_form, config, &err), 0);
	assert_int_equal(vm_config_save(config, directory, &err), 0);
	assert_int_equal(vm_config_load(&again, directory, &err), 0);
	assert_true(json_equal(config, again));

	change = parse("{\"processors\":{\"count\":3},\"notes\":\"n\"}");
	assert_int_equal(vm_config_changed(&changed, config, change, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(changed, "processors"), "count")), 3);
	assert_string_equal(json_string_value(json_object_get(json_object_get(changed, "processors"), "kind")), "auto");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(config, "processors"), "count")), 1);

	/* What could not be read again is not written, and what is there stays. */
	json_object_set_new(changed, "notes", json_sprintf("%*d", 1 << 20, 1));
	assert_int_equal(vm_config_save(changed, directory, &err), -EFBIG);
	json_decref(again);
	assert_int_equal(vm_config_load(&again, directory, &err), 0);
	assert_true(json_equal(config, again));
	json_decref(request);
	json_decref(config);
	json_decref(again);
	json_decref(change);
	json_decref(changed);
}

/* Of before names had to be seen; nobody could even rename a machine that is not read. */
static void test_machines_that_are_there_keep_their_names(void **state)
{
	static const char *const names[] = {"web\\u00a0server", "\\u2764\\ufe0f"};
	json_t *request, *config, *again;
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char text[200];

		snprintf(text, sizeof(text), "{\"name\":\"%s\",\"boot\":{\"kernel\":\"/k\"}}", names[i]);
		request = parse(text);
		assert_int_equal(form_check(&vm_create_form, request, &err), -EINVAL);
		config = vm_config_new(request);
		assert_int_equal(form_check(&vm_config_form, config, &err), 0);
		assert_int_equal(vm_config_save(config, directory, &err), 0);
		assert_int_equal(vm_config_load(&again, directory, &err), 0);
		assert_true(json_equal(config, again));
		json_decref(request);
		json_decref(config);
		json_decref(again);
	}
}

static void test_worker_gets_absolute_paths(void **state)
{
	json_t *config = parse(WITH(",\"disks\":[{\"path\":\"disk.vhdx\"},{\"path\":\"/d/x.iso\",\"kind\":\"dvd\"},"
				    "{\"kind\":\"dvd\",\"controller\":2}]"));
	json_t *worker, *disks;

	(void)state;
	assert_int_equal(form_check(&vm_config_form, config, NULL), 0);
	worker = vm_config_for_worker(config, "/machines/a", "/run/a");
	disks = json_object_get(worker, "disks");
	assert_string_equal(json_string_value(json_object_get(json_array_get(disks, 0), "path")), "/machines/a/disk.vhdx");
	assert_string_equal(json_string_value(json_object_get(json_array_get(disks, 1), "path")), "/d/x.iso");
	assert_true(json_is_true(json_object_get(json_array_get(disks, 1), "dvd")));
	assert_true(json_is_true(json_object_get(json_array_get(disks, 2), "dvd")));
	assert_int_equal(json_integer_value(json_object_get(json_array_get(disks, 2), "controller")), 2);
	assert_null(json_object_get(json_array_get(disks, 2), "path"));
	assert_string_equal(json_string_value(json_object_get(worker, "lock")), "/machines/a/worker.lock");
	assert_null(json_object_get(json_object_get(worker, "boot"), "initrd"));
	json_decref(worker);
	json_decref(config);
}

/* --- files -------------------------------------------------------------------------------------------- */

#define COPY_SIZE 300001u

static void assert_copied(const char *from)
{
	_cleanup_close_ int to = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
	_cleanup_close_ int in = file_open_plain(from, true, NULL);
	_cleanup_free_ char *bytes = malloc(COPY_SIZE + 1);
	struct error err = {0};

	if (file_copy(in, to, "copy", NULL, &err))
		fail_msg("%s", err.text);
	fd = openat(to, "copy", O_RDONLY | O_CLOEXEC);
	assert_non_null(bytes);
	assert_int_equal(read(fd, bytes, COPY_SIZE + 1), COPY_SIZE);
	for (size_t i = 0; i < COPY_SIZE; i++)
		assert_int_equal((uint8_t)bytes[i], i * 7 & 0xff);
	assert_int_equal(file_copy(in, to, "copy", NULL, &err), -EEXIST);
	assert_int_equal(unlinkat(to, "copy", 0), 0);
}

static void write_pattern(const char *path)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	for (size_t i = 0; i < COPY_SIZE; i++)
		putc((int)(i * 7 & 0xff), file);
	assert_int_equal(fclose(file), 0);
}

/* Also between file systems, and never from what is no file. */
static void test_file_is_copied(void **state)
{
	_cleanup_close_ int to = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char elsewhere[64];
	struct error err = {0};

	(void)state;
	write_pattern(in_directory("file"));
	assert_copied(in_directory("file"));
	snprintf(elsewhere, sizeof(elsewhere), "/dev/shm/bulkhead-vmms-%d", getpid());
	write_pattern(elsewhere);
	assert_copied(elsewhere);
	unlink(elsewhere);
	assert_int_equal(mkfifo(in_directory("pipe"), 0600), 0);
	assert_int_equal(file_open_plain(in_directory("pipe"), false, &err), -EINVAL);
	assert_int_equal(file_open_below(to, "pipe", &err), -EINVAL);
	assert_int_equal(symlinkat("file", to, "link"), 0);
	assert_int_equal(file_open_below(to, "link", &err), -ELOOP);
	assert_int_equal(file_open_plain(in_directory("link"), true, &err), -ELOOP);
	assert_true(file_open_below(to, "../file", &err) < 0);
	assert_true(file_open_below(to, "/etc/passwd", &err) < 0);
}

static bool stop_it(void *context, uint64_t done, uint64_t total)
{
	unsigned *steps = context;

	assert_true(done < total);
	return ++*steps < 2;
}

static void test_copying_leaves_holes_and_stops(void **state)
{
	_cleanup_close_ int to = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int file = openat(to, "sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	unsigned steps = 0;
	struct disk_progress progress = {stop_it, &steps};
	struct error err = {0};
	struct stat st;

	(void)state;
	assert_int_equal(ftruncate(file, 1ll << 30), 0);
	assert_int_equal(pwrite(file, "x", 1, 512 << 20), 1);
	assert_int_equal(pwrite(file, "y", 1, 768 << 20), 1);
	assert_int_equal(file_copy(file, to, "copy", NULL, &err), 0);
	assert_int_equal(fstatat(to, "copy", &st, 0), 0);
	assert_int_equal(st.st_size, 1ll << 30);
	assert_true(st.st_blocks < 4096);
	assert_int_equal(unlinkat(to, "copy", 0), 0);
	assert_int_equal(file_copy(file, to, "copy", &progress, &err), -ECANCELED);
	assert_int_equal(faccessat(to, "copy", F_OK, 0), -1);
}

static void test_names_inside(void **state)
{
	static const char *const inside[] = {"a", "a/b", "..a", "a..", ".a"};
	static const char *const outside[] = {"", "/", "/a", "a/", "a//b", "..", ".", "../a", "a/../b", "a/..", "./a"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(inside); i++)
		assert_true(name_is_inside(inside[i]));
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++)
		assert_false(name_is_inside(outside[i]));
}

static void test_directory_goes_and_links_stay(void **state)
{
	_cleanup_close_ int all = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), inner = -1;
	_cleanup_free_ char *path = NULL;

	(void)state;
	assert_int_equal(mkdirat(all, "kept", 0700), 0);
	inner = directory_new(in_directory("gone"), NULL);
	assert_true(inner >= 0);
	assert_int_equal(file_make_parents(inner, "a/b/c", NULL), 0);
	assert_int_equal(symlinkat("../kept", inner, "a/b/link"), 0);
	assert_true(asprintf(&path, "%s/gone", directory) > 0);
	directory_remove(path);
	assert_int_equal(faccessat(all, "gone", F_OK, 0), -1);
	assert_int_equal(faccessat(all, "kept", F_OK, 0), 0);
}

static void write_file(const char *name, const char *text)
{
	FILE *file = fopen(in_directory(name), "we");

	assert_non_null(file);
	assert_int_equal(fputs(text, file) >= 0, 1);
	assert_int_equal(fclose(file), 0);
}

static void test_file_is_removed_aside(void **state)
{
	_cleanup_close_ int all = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), file = -1, next = -1;
	struct stat st;
	uv_loop_t loop;

	(void)state;
	uv_loop_init(&loop);
	write_file("big", "much");
	assert_int_equal(symlinkat("nowhere", all, "link"), 0);
	file = openat(all, "big", O_RDONLY | O_CLOEXEC);
	next = dup(file); /* the number that is free now */
	close(next);
	assert_int_equal(file_unlink_aside(&loop, all, "big"), 0);
	/* Its name is gone; somebody holds it as long as the loop has not run. */
	assert_int_equal(fstat(file, &st) || st.st_nlink, 0);
	assert_true(uv_loop_alive(&loop));
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(fcntl(next, F_GETFD), -1);
	next = -1;
	assert_int_equal(file_unlink_aside(&loop, all, "link"), 0);
	assert_int_equal(file_unlink_aside(&loop, all, "link"), -ENOENT);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
}

/* --- host.db ------------------------------------------------------------------------------------------ */

static void count_vm(void *context, const struct store_vm *vm)
{
	unsigned *seen = context;

	assert_string_equal(vm->id, ID);
	assert_string_equal(vm->name, "new name");
	assert_int_equal(vm->phase, VM_READY);
	assert_true(vm->wanted && vm->own_directory);
	++*seen;
}

static void test_store_keeps_machines(void **state)
{
	struct store_vm vm = {.id = ID, .name = "a", .directory = "/a", .phase = VM_CREATING, .own_directory = true};
	struct error err = {0};
	struct store *store;
	unsigned seen = 0;

	(void)state;
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_vm_add(store, &vm, &err), 0);
	assert_int_equal(store_vm_add(store, &vm, &err), -EEXIST);
	strcpy(vm.id, "1f8fad5b-d9cb-469f-a165-70867728950e");
	assert_int_equal(store_vm_add(store, &vm, &err), -EEXIST);
	assert_int_equal(store_vm_rename(store, ID, "new name", &err), 0);
	assert_int_equal(store_vm_set_phase(store, ID, VM_READY, &err), 0);
	assert_int_equal(store_vm_set_wanted(store, ID, true, &err), 0);
	store_close(store);
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_vm_list(store, count_vm, &seen, &err), 0);
	assert_int_equal(seen, 1);
	assert_int_equal(store_vm_remove(store, ID, &err), 0);
	assert_int_equal(store_vm_list(store, count_vm, &seen, &err), 0);
	assert_int_equal(seen, 1);
	store_close(store);
}

struct names {
	struct store *store;
	char seen[64];
};

static void rename_vm(void *context, const struct store_vm *vm)
{
	struct names *names = context;

	strcat(strcat(names->seen, vm->name), " ");
	if (!strcmp(vm->name, "a"))
		assert_int_equal(store_vm_rename(names->store, vm->id, "z", NULL), 0);
}

static void test_store_lists_each_machine_once(void **state)
{
	struct store_vm vm = {.id = ID, .name = "a", .directory = "/a"};
	struct names names = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(store_open(&names.store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_vm_add(names.store, &vm, &err), 0);
	strcpy(vm.id, "1f8fad5b-d9cb-469f-a165-70867728950e");
	vm.name = vm.directory = "m";
	assert_int_equal(store_vm_add(names.store, &vm, &err), 0);
	assert_int_equal(store_vm_list(names.store, rename_vm, &names, &err), 0);
	assert_string_equal(names.seen, "a m ");
	store_close(names.store);
}

static const char *job_state(struct store *store, int64_t id, json_t **list)
{
	assert_int_equal(store_job_list(store, id, 0, 1, list, NULL), 0);
	return json_string_value(json_object_get(json_array_get(*list, 0), "state"));
}

static void test_store_keeps_jobs(void **state)
{
	struct error err = {0};
	struct store *store;
	int64_t one, two;
	unsigned count;
	json_t *list;

	(void)state;
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_job_add(store, "vm.start", ID, "a", &one, &err), 0);
	assert_int_equal(store_job_add(store, "vm.start", ID, "b", &two, &err), 0);
	assert_int_equal(store_job_end(store, one, "done", NULL, NULL, &err), 0);
	store_close(store); /* as if it were killed now */
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_jobs_abandon(store, &count, &err), 0);
	assert_int_equal(count, 1);
	assert_string_equal(job_state(store, one, &list), "done");
	json_decref(list);
	assert_string_equal(job_state(store, two, &list), "failed");
	json_decref(list);
	assert_int_equal(store_job_list(store, 0, two, 10, &list, &err), 0);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
	store_close(store);
}

static void test_store_keeps_events(void **state)
{
	struct error err = {0};
	struct store *store;
	json_t *list;

	(void)state;
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(store_event_add(store, "vm.off", i % 2 ? ID : NULL, i % 2 ? "a" : NULL, "text", NULL, &err), 0);
	assert_int_equal(store_event_list(store, 3, NULL, 10, &list, &err), 0);
	assert_int_equal(json_array_size(list), 2);
	json_decref(list);
	assert_int_equal(store_event_tail(store, ID, 1, &list, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "id")), 4);
	json_decref(list);
	store_close(store);
}

static size_t events_seen(struct store *store)
{
	json_t *list;
	size_t count;

	assert_int_equal(store_event_list(store, 0, NULL, 10, &list, NULL), 0);
	count = json_array_size(list);
	json_decref(list);
	return count;
}

/* Another connection sees what is stored for good. */
static void test_store_keeps_a_group_at_once(void **state)
{
	struct store *store, *other;
	struct error err;
	int64_t job;

	(void)state;
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), 0);
	assert_int_equal(store_open(&other, in_directory("host.db"), &err), 0);
	assert_int_equal(store_group_end(store, &err), 0);
	store_group_begin(store);
	assert_int_equal(store_job_add(store, "vm.start", ID, "a", &job, &err), 0);
	assert_int_equal(store_event_add(store, "vm.running", ID, "a", "it runs", NULL, &err), 0);
	assert_int_equal(store_event_add(store, "vm.running", ID, "b", "it runs", NULL, &err), 0);
	assert_int_equal(events_seen(store), 2);
	assert_int_equal(events_seen(other), 0);
	assert_int_equal(store_group_end(store, &err), 0);
	assert_int_equal(events_seen(other), 2);
	assert_int_equal(store_event_add(store, "vm.off", ID, "a", "it is off", NULL, &err), 0);
	assert_int_equal(events_seen(other), 3);
	/* What was not brought to its end is not there. */
	store_group_begin(store);
	assert_int_equal(store_event_add(store, "vm.off", ID, "b", "it is off", NULL, &err), 0);
	store_close(store);
	assert_int_equal(events_seen(other), 3);
	store_close(other);
}

static void test_store_refuses_what_it_cannot_read(void **state)
{
	struct error err = {0};
	struct store *store;

	(void)state;
	write_text(in_directory("host.db"), "this is no database, whatever its name may say; it has some more text, though");
	assert_int_equal(store_open(&store, in_directory("host.db"), &err), -EBADMSG);
	assert_non_null(strstr(err.text, "host.db"));
	unlink(in_directory("host.db"));
	assert_int_equal(store_open(&store, in_directory("nowhere/host.db"), &err), -ENOENT);
}

/* --- limits -------------------------------------------------------------------------------------------- */

static void file_is(const char *name, const char *wanted)
{
	char text[64] = "";
	FILE *file = fopen(in_directory(name), "re");

	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text) - 1, file) > 0, 1);
	fclose(file);
	assert_string_equal(text, wanted);
}

static json_t *with_limits(const char *limits)
{
	json_t *config = json_pack("{s:i, s:s, s:s, s:I, s:{s:i}, s:{s:s}, s:o}", "version", 1, "id", ID, "name", "web", "memory",
				   (json_int_t)(64 << 20), "processors", "count", 4, "boot", "kernel", "/k", "limits", parse(limits));
	struct error err = {0};

	assert_int_equal(form_check(&vm_config_form, config, &err), 0);
	return config;
}

/* What cgroup v2's files are to be told; files stand in for a group. */
static void test_limits_become_files(void **state)
{
	static const char *const files[] = {"cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max"};
	json_t *none = with_limits("{\"memory_extra\": 0}"), *usual = with_limits("{}"), *some;
	struct error err = {0};

	(void)state;
	some = with_limits("{\"processor_weight\": 250, \"processor_maximum\": 30, \"memory_extra\": 67108864}");
	assert_false(limits_are_set(none));
	assert_false(limits_are_set(usual));
	assert_true(limits_are_set(some));
	/* No controllers: fine as long as nothing is limited. */
	assert_int_equal(limits_apply(directory, none, &err), 0);
	assert_int_equal(limits_apply(directory, usual, &err), 0);
	assert_int_equal(limits_apply(directory, some, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "limits.processor_weight"));
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		write_file(files[i], "");
	assert_int_equal(limits_apply(directory, some, &err), 0);
	file_is("cpu.weight", "250\n");
	file_is("cpu.max", "120000 100000\n");
	file_is("memory.max", "134217728\n");
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		write_file(files[i], "");
	assert_int_equal(limits_apply(directory, none, &err), 0);
	file_is("cpu.weight", "100\n");
	file_is("cpu.max", "max 100000\n");
	file_is("memory.max", "max\n");
	file_is("memory.swap.max", "max\n");
	/* What is not set is bounded all the same, memory by what such a machine may need. */
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		write_file(files[i], "");
	assert_int_equal(limits_apply(directory, usual, &err), 0);
	file_is("memory.max", "1277165568\n");
	file_is("memory.swap.max", "1277165568\n");
	file_is("memory.oom.group", "1\n");
	file_is("pids.max", "4352\n");
	/* One controller that is not there does not keep the others. */
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		write_file(files[i], "");
	unlink(in_directory("cpu.weight"));
	assert_int_equal(limits_apply(directory, some, &err), -ENOTSUP);
	file_is("memory.max", "134217728\n");
	json_decref(none);
	json_decref(usual);
	json_decref(some);
}

/* Reserves come first, the rest goes by weight: of two machines and four processors, and so on. */
static void test_shares_of_processors(void **state)
{
	struct share shares[3] = {{.weight = 100}, {.weight = 250}, {.weight = 10000}};

	(void)state;
	share_out(shares, 3, 4);
	assert_int_equal(shares[0].result, 100);
	assert_int_equal(shares[1].result, 250);
	assert_int_equal(shares[2].result, 10000);
	/* Of four processors the first has three for sure and half of the fourth: 350 percent to 50. */
	shares[0] = (struct share){.weight = 100, .reserve = 300};
	shares[1] = (struct share){.weight = 100};
	share_out(shares, 2, 4);
	assert_int_equal(shares[0].result, 10000);
	assert_int_equal(shares[1].result, 10000 / 7);
	/* All of them are reserved: who has reserved nothing has the least there is. */
	shares[0].reserve = 400;
	share_out(shares, 2, 4);
	assert_int_equal(shares[0].result, 10000);
	assert_int_equal(shares[1].result, 1);
	/* More than there are, of machines that were there before: by what each has. */
	shares[1].reserve = 200;
	share_out(shares, 2, 4);
	assert_int_equal(shares[1].result, 5000);
	/* Each has its reserve, whatever the weights are. */
	shares[0] = (struct share){.weight = 1, .reserve = 100};
	shares[1] = (struct share){.weight = 10000, .reserve = 100};
	shares[2] = (struct share){.weight = 10000};
	share_out(shares, 3, 4);
	assert_true(shares[0].result * 4 >= shares[0].result + shares[1].result + shares[2].result);
}

static void test_limits_that_do_not_fit_together(void **state)
{
	json_t *config = with_limits("{\"processor_reserve\": 40, \"processor_maximum\": 40}"), *changed = NULL;
	json_t *request = parse("{\"limits\": {\"processor_maximum\": 39}}"), *odd = parse("{\"memory\": 68157440}");
	struct error err = {0};

	(void)state;
	assert_int_equal(vm_config_changed(&changed, config, request, &err), -EINVAL);
	assert_non_null(strstr(err.text, "processor_reserve of 40"));
	/* In steps of 2 MiB; but a machine that was made with others is read. */
	assert_int_equal(form_check(&vm_change_form, odd, &err), -EINVAL);
	assert_non_null(strstr(err.text, "multiple of 2097152"));
	json_object_set_new(config, "memory", json_integer(68157440));
	assert_int_equal(form_check(&vm_config_form, config, &err), 0);
	json_decref(config);
	json_decref(request);
	json_decref(odd);
}

static void kernel_says(unsigned oom, unsigned oom_kill)
{
	char text[128];

	snprintf(text, sizeof(text), "low 0\nhigh 0\nmax 7\noom %u\noom_kill %u\noom_group_kill 0\n", oom, oom_kill);
	write_file("memory.events", text);
}

static void test_limits_blame_what_the_kernel_says(void **state)
{
	struct error err = {0};

	(void)state;
	assert_string_equal(limits_blame(NULL, directory), "");
	assert_string_equal(limits_blame(directory, directory), "");
	kernel_says(3, 0);
	assert_string_equal(limits_blame(directory, directory), "");
	kernel_says(3, 1);
	assert_non_null(strstr(limits_blame(directory, directory), "limits.memory_extra"));
	/* A limit further up. */
	kernel_says(0, 1);
	assert_non_null(strstr(limits_blame(directory, directory), "no memory for it"));
	/* What an earlier run in the same group met is not this one's. */
	kernel_says(3, 2);
	assert_int_equal(limits_note_kills(directory, directory, &err), 0);
	assert_string_equal(limits_blame(directory, directory), "");
	kernel_says(3, 3);
	assert_non_null(strstr(limits_blame(directory, directory), "no memory for it"));
	kernel_says(4, 3);
	assert_non_null(strstr(limits_blame(directory, directory), "limits.memory_extra"));
	/* And a new group begins anew. */
	kernel_says(0, 0);
	assert_int_equal(limits_note_kills(directory, directory, &err), 0);
	kernel_says(1, 1);
	assert_non_null(strstr(limits_blame(directory, directory), "limits.memory_extra"));
	assert_int_equal(limits_note_kills(NULL, directory, &err), 0);
}

/* --- a change of both files, and a merge, that did not come to their end -------------------------------------- */

static void test_pending_is_what_counts(void **state)
{
	json_t *config = parse("{\"version\":1,\"id\":\"" ID "\",\"name\":\"n\",\"boot\":{\"kernel\":\"/k\"}}");
	json_t *tree = parse("{\"version\":1,\"disks\":[{\"path\":\"a\",\"parent\":\"b\"}]}"), *gone = parse("[\"gone\",\"a\",\"../a\"]"), *pending, *read;
	struct error err = {0};

	(void)state;
	write_file("a", "named");
	write_file("gone", "");
	assert_false(pending_is_there(directory));
	assert_int_equal(pending_load(&read, directory, &err), -ENOENT);
	assert_int_equal(form_check(&vm_config_form, config, &err), 0);
	assert_int_equal(form_check(&tree_form, tree, &err), 0);
	assert_int_equal(pending_save(&pending, config, tree, NULL, gone, directory, &err), 0);
	json_decref(pending);
	assert_true(pending_is_there(directory));
	assert_int_equal(pending_load(&pending, directory, &err), 0);
	assert_int_equal(pending_finish(pending, directory, &err), 0);
	assert_false(pending_is_there(directory));
	assert_int_equal(access(in_directory("gone"), F_OK), -1);
	assert_int_equal(access(in_directory("a"), F_OK), 0);
	assert_int_equal(vm_config_load(&read, directory, &err), 0);
	assert_true(json_equal(read, config));
	json_decref(read);
	assert_int_equal(tree_load(&read, directory, &err), 0);
	assert_true(json_equal(read, tree));
	json_decref(read);
	/* Once more, as by one who died before the file went. */
	assert_int_equal(pending_finish(pending, directory, &err), 0);
	json_decref(pending);
	/* A state that is none of its own. */
	assert_int_equal(pending_save(&pending, config, tree, "../state", NULL, directory, &err), 0);
	assert_int_equal(pending_finish(pending, directory, &err), -EINVAL);
	json_decref(pending);
	write_file(PENDING_FILE, "{\"version\":1,\"vm\":{},\"checkpoints\":{}}");
	assert_int_equal(pending_load(&pending, directory, &err), -EINVAL);
	json_decref(gone);
	json_decref(config);
	json_decref(tree);
}

static void test_void_disks_are_taken_out(void **state)
{
	json_t *config = parse("{\"disks\":[{\"path\":\"c\"}]}"), *merged = json_array();
	json_t *tree = parse("{\"checkpoints\":[],\"disks\":[{\"path\":\"c\",\"parent\":\"p\"},{\"path\":\"a\",\"parent\":\"c\"},"
			     "{\"path\":\"../o\",\"parent\":\"p\"}]}");
	struct error err = {0};
	const char *path;

	(void)state;
	write_file("c", "vhdxfile, and what is in it");
	assert_int_equal(tree_settle(tree, config, directory, merged, &err), 0);
	assert_int_equal(json_array_size(merged), 0);
	write_file("c", "");
	assert_int_equal(tree_settle(tree, config, directory, merged, &err), 0);
	assert_int_equal(json_array_size(merged), 1);
	assert_string_equal(tree_path(json_array_get(json_object_get(config, "disks"), 0)), "p");
	assert_null(tree_parent(tree, "c"));
	assert_string_equal(tree_parent(tree, "a"), "p");
	assert_int_equal(json_array_size(json_object_get(json_array_get(merged, 0), "above")), 1);
	path = in_directory("c");
	tree_settle_remove(merged, directory);
	assert_int_equal(access(path, F_OK), -1);
	json_decref(config);
	json_decref(tree);
	json_decref(merged);
}

/* --- checkpoints that somebody else has made ------------------------------------------------------------- */

#define ID_2      "1f8fad5b-d9cb-469f-a165-70867728950e"
#define CONFIG(p) "{\"version\":1,\"id\":\"" ID "\",\"name\":\"n\",\"boot\":{\"kernel\":\"/k\"},\"disks\":[{\"path\":\"" p "\"}]}"
#define CHECKPOINT(id, name, parent, path, more)                                                                      \
	"{\"id\":\"" id "\",\"name\":\"" name "\",\"created\":1,\"parent\":\"" parent "\",\"config\":" CONFIG(path) more "}"
#define TREE(now, checkpoints, disks) "{\"version\":1,\"now\":\"" now "\",\"checkpoints\":[" checkpoints "],\"disks\":[" disks "]}"
#define DISK(path, parent) "{\"path\":\"" path "\",\"parent\":\"" parent "\"}"

static int check_tree(const char *text, bool in_place, struct error *err)
{
	json_t *tree, *config = parse(CONFIG("now"));
	int r;

	write_text(in_directory("s"), "");
	write_text(in_directory(TREE_FILE), text);
	r = tree_load(&tree, directory, err);
	if (!r)
		r = tree_check(tree, config, directory, in_place, err);
	json_decref(tree);
	json_decref(config);
	return r;
}

static void tree_refused(const char *text, bool in_place_too, int code, const char *words)
{
	for (unsigned in_place = 0; in_place < 2; in_place++) {
		struct error err = {0};
		int r = check_tree(text, in_place, &err);

		if (in_place && !in_place_too) {
			assert_int_equal(r, 0);
			continue;
		}
		assert_int_equal(r, -code);
		if (!strstr(err.text, words) || !strstr(err.text, TREE_FILE))
			fail_msg("\"%s\" is not in \"%s\"", words, err.text);
	}
}

static void test_tree_is_checked(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(check_tree(TREE(ID, CHECKPOINT(ID, "a", "", "a", ",\"state\":\"s\""), DISK("c", "b") "," DISK("b", "a")), false, &err), 0);
	/* Names of other places; where it is registered, only the lowest may have one. */
	tree_refused(TREE("", "", DISK("/c", "a")), true, EINVAL, "/c");
	tree_refused(TREE("", "", DISK("../c", "a")), true, EINVAL, "../c");
	tree_refused(TREE("", "", DISK("d/c", "a")), true, EINVAL, "d/c");
	tree_refused(TREE("", "", DISK("..", "a")), true, EINVAL, "..");
	tree_refused(TREE("", "", DISK("c", "/a")), false, EINVAL, "/a");
	tree_refused(TREE("", "", DISK("c", "d/a")), false, EINVAL, "d/a");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "/a", ""), ""), false, EINVAL, "/a");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "a", ",\"state\":\"/s\""), ""), true, EINVAL, "/s");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "a", ",\"state\":\"d/s\""), ""), true, EINVAL, "d/s");
	/* Of a disk that the tree does not name a directory may be on the way. */
	assert_int_equal(check_tree(TREE("", CHECKPOINT(ID, "a", "", "d/a", ""), ""), false, &err), 0);
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "d/a", ""), DISK("c", "d/a")), false, EINVAL, "d/a");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "a", ",\"state\":\"nothing\""), ""), true, ENOENT, "nothing");
	/* What is written and may not be. */
	tree_refused(TREE("", "", DISK("c", "now")), true, EINVAL, "now");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "now", ""), ""), true, EINVAL, "now");
	/* Rings, and what is there twice or not at all. */
	tree_refused(TREE("", "", DISK("a", "a")), true, ELOOP, "ring");
	tree_refused(TREE("", "", DISK("a", "b") "," DISK("b", "c") "," DISK("c", "a")), true, ELOOP, "ring");
	tree_refused(TREE("", "", DISK("b", "a") "," DISK("b", "c")), true, EINVAL, "twice");
	tree_refused(TREE("", CHECKPOINT(ID, "a", ID, "a", ""), ""), true, ELOOP, "ring");
	tree_refused(TREE("", CHECKPOINT(ID, "a", ID_2, "a", "") "," CHECKPOINT(ID_2, "b", ID, "a", ""), ""), true, ELOOP, "ring");
	tree_refused(TREE("", CHECKPOINT(ID, "a", "", "a", "") "," CHECKPOINT(ID, "b", "", "a", ""), ""), true, EINVAL, "twice");
	tree_refused(TREE("", CHECKPOINT("0f8fad5b-d9cb-469f-a165-70867728950a", "a", "", "a", "") ","
				      CHECKPOINT("0F8FAD5B-D9CB-469F-A165-70867728950A", "b", "", "a", ""), ""), true, EINVAL, "twice");
	tree_refused(TREE("", CHECKPOINT(ID, "a", ID_2, "a", ""), ""), true, EINVAL, ID_2);
	tree_refused(TREE(ID_2, CHECKPOINT(ID, "a", "", "a", ""), ""), true, EINVAL, ID_2);
}

static void change_disk(const char *name)
{
	struct error err = {0};
	struct disk *disk;

	assert_int_equal(disk_open(&disk, in_directory(name), NULL, &err), 0);
	assert_int_equal(disk_write(disk, 4096, "other", 5, &err), 0);
	assert_int_equal(disk_close(disk, &err), 0);
}

static void test_saved_disks_are_compared(void **state)
{
	static const char *const names[] = {"a.vhdx", "b.vhd", "c.img"};
	static const enum disk_format formats[] = {DISK_FORMAT_VHDX, DISK_FORMAT_VHD, DISK_FORMAT_RAW};
	json_t *config = parse("{\"disks\":[{\"path\":\"a.vhdx\",\"kind\":\"disk\"},{\"path\":\"dvd.iso\",\"kind\":\"dvd\"},"
			       "{\"path\":\"b.vhd\",\"kind\":\"disk\"},{\"path\":\"c.img\",\"kind\":\"disk\"}]}");
	struct error err = {0};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct disk_create_options options = {.format = formats[i], .size = 1 << 20};

		assert_int_equal(disk_create(in_directory(names[i]), &options, &err), 0);
	}
	/* Nothing was noted: nothing is compared. */
	assert_int_equal(saved_disks_check(config, directory, &err), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(saved_disks_note(config, directory, &err), 0);
		assert_int_equal(saved_disks_check(config, directory, &err), 0);
		change_disk(names[i]);
		assert_int_equal(saved_disks_check(config, directory, &err), -ESTALE);
		assert_non_null(strstr(err.text, names[i]));
	}
	unlink(in_directory("a.vhdx"));
	assert_int_equal(saved_disks_check(config, directory, &err), -ENOENT);
	/* What cannot be noted leaves nothing that could be wrong. */
	assert_int_equal(saved_disks_note(config, directory, &err), -ENOENT);
	assert_int_equal(saved_disks_check(config, directory, &err), 0);
	write_text(in_directory(SAVED_DISKS), "{\"version\":2,\"disks\":[]}");
	assert_int_equal(saved_disks_check(config, directory, &err), -ENOTSUP);
	write_text(in_directory(SAVED_DISKS), "{\"version\":1,\"disks\":[{\"path\":\"a\",\"contents\":\"x\"}]}");
	assert_int_equal(saved_disks_check(config, directory, &err), -EINVAL);
	write_text(in_directory(SAVED_DISKS), "{");
	assert_int_equal(saved_disks_check(config, directory, &err), -EBADMSG);
	json_decref(config);
}

int main(void)
{
#define IN_DIRECTORY(f) cmocka_unit_test_setup_teardown(f, make_directory, remove_directory)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_form_names_what_is_wrong),
	    cmocka_unit_test(test_form_fills_in),
	    cmocka_unit_test(test_schema_has_every_key),
	    cmocka_unit_test(test_forms_of_answers),
	    IN_DIRECTORY(test_file_is_checked),
	    IN_DIRECTORY(test_file_is_written_and_read),
	    IN_DIRECTORY(test_machines_that_are_there_keep_their_names),
	    cmocka_unit_test(test_worker_gets_absolute_paths),
	    IN_DIRECTORY(test_file_is_copied),
	    IN_DIRECTORY(test_copying_leaves_holes_and_stops),
	    cmocka_unit_test(test_names_inside),
	    IN_DIRECTORY(test_tree_is_checked),
	    IN_DIRECTORY(test_saved_disks_are_compared),
	    IN_DIRECTORY(test_directory_goes_and_links_stay),
	    IN_DIRECTORY(test_store_keeps_machines),
	    IN_DIRECTORY(test_store_lists_each_machine_once),
	    IN_DIRECTORY(test_store_keeps_jobs),
	    IN_DIRECTORY(test_store_keeps_events),
	    IN_DIRECTORY(test_store_keeps_a_group_at_once),
	    IN_DIRECTORY(test_store_refuses_what_it_cannot_read),
	    IN_DIRECTORY(test_limits_become_files),
	    IN_DIRECTORY(test_pending_is_what_counts),
	    IN_DIRECTORY(test_void_disks_are_taken_out),
	    cmocka_unit_test(test_shares_of_processors),
	    cmocka_unit_test(test_limits_that_do_not_fit_together),
	    IN_DIRECTORY(test_limits_blame_what_the_kernel_says),
	    IN_DIRECTORY(test_file_is_removed_aside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
