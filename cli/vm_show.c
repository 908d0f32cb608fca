/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_show.c - `bulkhead vm list` and `vm show`. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli/vm.h"

static const char *size_text(json_int_t bytes, char text[32])
{
	if (bytes % (1ll << 30) == 0)
		snprintf(text, 32, "%lld GiB", (long long)(bytes >> 30));
	else
		snprintf(text, 32, "%lld MiB", (long long)(bytes >> 20));
	return text;
}

/* How long a machine has been in its state, for a table. */
static const char *since_text(json_int_t since, char text[32])
{
	struct timespec now;
	long long seconds;

	clock_gettime(CLOCK_REALTIME, &now);
	seconds = now.tv_sec - since / 1000;
	if (seconds < 0)
		seconds = 0;
	if (seconds < 120)
		snprintf(text, 32, "%llds", seconds);
	else if (seconds < 7200)
		snprintf(text, 32, "%lldm", seconds / 60);
	else if (seconds < 48 * 3600)
		snprintf(text, 32, "%lldh", seconds / 3600);
	else
		snprintf(text, 32, "%lldd", seconds / 86400);
	return text;
}

/* --- list, show --------------------------------------------------------------------------------------- */

static void add_row(struct table *table, const json_t *vm)
{
	const json_t *config = json_object_get(vm, "config");
	char cpus[16], memory[32] = "", since[32];

	snprintf(cpus, sizeof(cpus), "%lld",
		 (long long)json_integer_value(json_object_get(json_object_get(config, "processors"), "count")));
	if (config)
		size_text(json_integer_value(json_object_get(config, "memory")), memory);
	since_text(json_integer_value(json_object_get(vm, "state_since")), since);
	table_add(table, (const char *const[]){vm_text_of(vm, "name"), vm_text_of(vm, "state"), since, config ? cpus : "", memory,
					       vm_text_of(config, "notes")});
}

/* Scripts get all that is known; a table, or names, come quicker with less. */
static int fetch_all(struct manage *manage, json_t *all, struct error *err)
{
	const char *pages = manage->json ? "/v1/vms?limit=1000&after=%s" : "/v1/vms?limit=1000&view=brief&after=%s";
	_cleanup_free_ char *path = client_path(manage->client, pages, "");
	json_t *page;
	int r;

	for (;;) {
		json_t *next;

		r = client_call(manage->client, "GET", path, NULL, &page, err);
		if (r)
			return r;
		json_array_extend(all, json_object_get(page, "vms"));
		next = json_object_get(page, "next");
		free(path);
		path = json_is_string(next)
			   ? client_path(manage->client, pages, json_string_value(next))
			   : NULL;
		json_decref(page);
		if (!path)
			return 0;
	}
}

static bool has_word(const json_t *vm, const char *key, const char *word)
{
	const json_t *words = json_object_get(json_object_get(vm, "config"), key);
	const json_t *each;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)words, i, each)
		if (!strcmp(json_string_value(each), word))
			return true;
	return false;
}

/* Keeps those that are in the group and have the tag; NULL: any. */
static void keep_those(json_t *all, const char *group, const char *tag)
{
	for (size_t i = json_array_size(all); i-- > 0;) {
		const json_t *vm = json_array_get(all, i);

		if ((group && !has_word(vm, "groups", group)) || (tag && !has_word(vm, "tags", tag)))
			json_array_remove(all, i);
	}
}

int vm_list(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"group", required_argument, NULL, 'g'},
						{"tag", required_argument, NULL, 't'},
						{"names", no_argument, NULL, 'n'},
						{NULL, 0, NULL, 0}};
	static const char *const titles[] = {"NAME", "STATE", "SINCE", "CPUS", "MEMORY", "NOTES"};
	const char *group = NULL, *tag = NULL;
	json_t *all, *vm;
	struct error err = {0};
	struct table *table;
	bool names = false;
	size_t i;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (c == 'n')
			names = true;
		else
			*(c == 'g' ? &group : &tag) = optarg;
	}
	if (optind < argc)
		return manage_usage(manage, "it takes no arguments");
	all = json_array();
	if (fetch_all(manage, all, &err)) {
		json_decref(all);
		return manage_fail(manage, &err);
	}
	keep_those(all, group, tag);
	if (manage->json) {
		manage_print_json(manage, all);
		return 0;
	}
	if (names) {
		manage_print_names(all);
		json_decref(all);
		return 0;
	}
	if (!json_array_size(all))
		puts("no machines: bulkhead vm create makes one");
	table = json_array_size(all) ? table_new(ARRAY_SIZE(titles), titles) : NULL;
	json_array_foreach(all, i, vm)
		add_row(table, vm);
	table_print(table);
	json_decref(all);
	return 0;
}

static void print_disk(const json_t *disk, const char *title)
{
	_cleanup_free_ char *text = NULL;

	if (asprintf(&text, "%s on controller %lld%s: %s", vm_text_of(disk, "kind"),
		     (long long)json_integer_value(json_object_get(disk, "controller")),
		     json_is_true(json_object_get(disk, "read_only")) ? ", read only" : "",
		     json_object_get(disk, "path") ? vm_text_of(disk, "path") : "empty") < 0)
		text = NULL;
	manage_put_field(title, text ? text : "?");
}

static void print_disks(const json_t *config)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk)
		print_disk(disk, i ? "" : "disks");
}

static void print_words(const json_t *config, const char *key)
{
	json_t *word;
	size_t i;

	json_array_foreach(json_object_get(config, key), i, word)
		manage_put_field(i ? "" : key, json_string_value(word));
}

static void print_limits(const json_t *limits)
{
	printf("%-12s processors: weight %lld, maximum %lld %%, reserve %lld %%; memory: priority %lld\n", "limits",
	       (long long)json_integer_value(json_object_get(limits, "processor_weight")),
	       (long long)json_integer_value(json_object_get(limits, "processor_maximum")),
	       (long long)json_integer_value(json_object_get(limits, "processor_reserve")),
	       (long long)json_integer_value(json_object_get(limits, "memory_priority")));
}

/* In one line, as it is the guest's word and may be anything. */
static void put_guest_line(const char *title, const char *text)
{
	printf("%-12s ", title);
	manage_put(stdout, text);
	putchar('\n');
}

static char *with_comma(char *text, const char *more)
{
	char *both = NULL;

	if (asprintf(&both, "%s%s%s", text, *text && *more ? ", " : "", more) < 0)
		both = NULL;
	free(text);
	return both ? both : strdup("?");
}

/* "Debian GNU/Linux 12, 6.1.0, x86_64". */
static char *system_text(const json_t *items)
{
	const char *major = vm_text_of(items, "OSMajorVersion");
	char *text = NULL;

	/* Windows has it in the name. */
	if (asprintf(&text, "%s%s%s", vm_text_of(items, "OSName"), *major && !strstr(vm_text_of(items, "OSName"), "Windows") ? " " : "",
		     strstr(vm_text_of(items, "OSName"), "Windows") ? "" : major) < 0)
		text = strdup("?");
	text = with_comma(text, vm_text_of(items, "OSVersion"));
	return with_comma(text, vm_text_of(items, "ProcessorArchitecture"));
}

static void print_guest(const json_t *guest)
{
	const json_t *items = json_object_get(guest, "items");
	const char *title = "guest", *name = vm_text_of(items, "FullyQualifiedDomainName");
	_cleanup_free_ char *system = system_text(items);

	if (*name) {
		put_guest_line(title, name);
		title = "";
	}
	if (system && *system)
		put_guest_line(title, system);
}

static void print_vm(const json_t *vm, const json_t *adapters, const json_t *guest)
{
	const json_t *config = json_object_get(vm, "config"), *processors = json_object_get(config, "processors");
	const json_t *automatic = json_object_get(config, "automatic");
	char text[32];

	manage_put_field("name", vm_text_of(vm, "name"));
	manage_put_field("id", vm_text_of(vm, "id"));
	printf("%-12s %s since %s\n", "state", vm_text_of(vm, "state"),
	       manage_time_text(json_integer_value(json_object_get(vm, "state_since")), text));
	if (json_object_get(vm, "problem"))
		manage_put_field("problem", vm_text_of(vm, "problem"));
	manage_put_field("directory", vm_text_of(vm, "directory"));
	if (!config)
		return;
	printf("%-12s %lld, ", "processors", (long long)json_integer_value(json_object_get(processors, "count")));
	manage_put(stdout, vm_text_of(processors, "kind"));
	putchar('\n');
	printf("%-12s %s\n", "memory", size_text(json_integer_value(json_object_get(config, "memory")), text));
	print_limits(json_object_get(config, "limits"));
	print_disks(config);
	vm_print_adapters(adapters);
	print_guest(guest);
	printf("%-12s start: %s; stop: %s; after a crash: %s\n", "automatic", vm_text_of(automatic, "start"),
	       vm_text_of(automatic, "stop"), vm_text_of(automatic, "recovery"));
	print_words(config, "groups");
	print_words(config, "tags");
	if (*vm_text_of(config, "notes"))
		manage_put_field("notes", vm_text_of(config, "notes"));
}

static int fetch_guest(struct manage *manage, const char *name, json_t **guest, struct error *err)
{
	_cleanup_free_ char *path = client_path(manage->client, "/v1/vms/%s/guest", name);

	return client_call(manage->client, "GET", path, NULL, guest, err);
}

int vm_show(struct manage *manage, int argc, char **argv)
{
	const char *name = vm_only_name(manage, argc, argv);
	struct error err = {0};
	json_t *vm, *adapters, *guest = NULL;

	if (!name)
		return EXIT_USAGE;
	if (vm_get(manage, name, &vm, &err))
		return manage_fail(manage, &err);
	adapters = vm_adapters(manage, name, &err);
	if (!adapters || fetch_guest(manage, name, &guest, &err)) {
		json_decref(adapters);
		json_decref(vm);
		return manage_fail(manage, &err);
	}
	if (!manage->json)
		print_vm(vm, adapters, guest);
	json_object_set_new(vm, "guest", guest);
	json_object_set_new(vm, "adapters", adapters);
	manage_print_json(manage, vm);
	return 0;
}
