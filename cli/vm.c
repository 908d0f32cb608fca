/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm.c - `bulkhead vm`: machines that the daemon keeps. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli/vm.h"

const char *vm_text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

const char *vm_only_name(struct manage *manage, int argc, char **argv)
{
	if (argc == 2)
		return argv[1];
	manage_usage(manage, argc < 2 ? "the machine's name is missing" : "one machine at a time");
	return NULL;
}

int vm_get(struct manage *manage, const char *name, json_t **vm, struct error *err)
{
	_cleanup_free_ char *path = client_path(manage->client, "/v1/vms/%s", name);

	return client_call(manage->client, "GET", path, NULL, vm, err);
}

/* --- create, set -------------------------------------------------------------------------------------- */

enum { OPT_IMAGE = 256, OPT_KERNEL, OPT_INITRD, OPT_APPEND, OPT_DISK, OPT_DVD, OPT_MEMORY, OPT_CPUS, OPT_PROCESSOR,
       OPT_COMPATIBLE, OPT_HOSTNAME, OPT_USER, OPT_PASSWORD, OPT_KEY, OPT_NOTES, OPT_TAG, OPT_START, OPT_AUTO_START,
       OPT_AUTO_STOP, OPT_DELAY, OPT_ORDER, OPT_RECOVERY, OPT_GROUP, OPT_FORCE, OPT_KEEP, OPT_TIMEOUT, OPT_NETWORK, OPT_FORWARD, OPT_WEIGHT,
       OPT_MAXIMUM, OPT_RESERVE, OPT_PRIORITY };

static const struct option settings[] = {{"image", required_argument, NULL, OPT_IMAGE},
					 {"kernel", required_argument, NULL, OPT_KERNEL},
					 {"initrd", required_argument, NULL, OPT_INITRD},
					 {"append", required_argument, NULL, OPT_APPEND},
					 {"disk", required_argument, NULL, OPT_DISK},
					 {"dvd", required_argument, NULL, OPT_DVD},
					 {"network", required_argument, NULL, OPT_NETWORK},
					 {"forward", required_argument, NULL, OPT_FORWARD},
					 {"memory", required_argument, NULL, OPT_MEMORY},
					 {"cpus", required_argument, NULL, OPT_CPUS},
					 {"processor", required_argument, NULL, OPT_PROCESSOR},
					 {"processor-weight", required_argument, NULL, OPT_WEIGHT},
					 {"processor-maximum", required_argument, NULL, OPT_MAXIMUM},
					 {"processor-reserve", required_argument, NULL, OPT_RESERVE},
					 {"memory-priority", required_argument, NULL, OPT_PRIORITY},
					 {"compatible", no_argument, NULL, OPT_COMPATIBLE},
					 {"hostname", required_argument, NULL, OPT_HOSTNAME},
					 {"user", required_argument, NULL, OPT_USER},
					 {"password", required_argument, NULL, OPT_PASSWORD},
					 {"ssh-key", required_argument, NULL, OPT_KEY},
					 {"notes", required_argument, NULL, OPT_NOTES},
					 {"tag", required_argument, NULL, OPT_TAG},
					 {"start", no_argument, NULL, OPT_START},
					 {"automatic-start", required_argument, NULL, OPT_AUTO_START},
					 {"automatic-stop", required_argument, NULL, OPT_AUTO_STOP},
					 {"automatic-delay", required_argument, NULL, OPT_DELAY},
					 {"automatic-order", required_argument, NULL, OPT_ORDER},
					 {"recovery", required_argument, NULL, OPT_RECOVERY},
					 {"group", required_argument, NULL, OPT_GROUP},
					 {NULL, 0, NULL, 0}};

/* The object in `body` of this name, made if it is not there. */
static json_t *part(json_t *body, const char *name)
{
	json_t *object = json_object_get(body, name);

	if (object)
		return object;
	object = json_object();
	json_object_set_new(body, name, object);
	return object;
}

static json_t *list(json_t *body, const char *name)
{
	json_t *array = json_object_get(body, name);

	if (array)
		return array;
	array = json_array();
	json_object_set_new(body, name, array);
	return array;
}

json_t *vm_real_path(const char *path)
{
	_cleanup_free_ char *real = realpath(path, NULL);

	return json_string(real ? real : path);
}

json_t *vm_directory_path(const char *path)
{
	_cleanup_free_ char *real = realpath(path, NULL), *here = real || *path == '/' ? NULL : getcwd(NULL, 0);

	return here ? json_sprintf("%s/%s", here, path) : json_string(real ? real : path);
}

int vm_parse_disk(struct manage *manage, char *text, bool dvd, json_t **out)
{
	json_t *disk = json_object();
	char *option;
	unsigned controller;

	*out = disk;
	if (dvd)
		json_object_set_new(disk, "kind", json_string("dvd"));
	while ((option = strrchr(text, ','))) {
		if (!strcmp(option, ",ro"))
			json_object_set_new(disk, "read_only", json_true());
		else if (strncmp(option, ",controller=", 12))
			break;
		else if (parse_number(option + 12, 3, &controller))
			json_object_set_new(disk, "controller", json_integer(controller));
		else
			return manage_usage(manage, "%s: there is no such controller: choose 0 to 3", text);
		*option = '\0';
	}
	json_object_set_new(disk, "path", vm_real_path(text));
	return 0;
}

static int add_disk(struct manage *manage, json_t *body, char *text, bool dvd)
{
	json_t *disk;
	int status = vm_parse_disk(manage, text, dvd, &disk);

	json_array_append_new(list(body, "disks"), disk);
	return status;
}

static int set_size(struct manage *manage, json_t *body, const char *text)
{
	struct error err = {0};
	uint64_t bytes;

	if (parse_size(text, &bytes, &err))
		return manage_usage(manage, "%s", err.text);
	if (bytes < 1 << 20)
		return manage_usage(manage, "--memory %s is %llu bytes: say which unit, as in 512M or 4G", text, (unsigned long long)bytes);
	json_object_set_new(body, "memory", json_integer((json_int_t)bytes));
	return 0;
}

static int set_number(struct manage *manage, json_t *body, const char *object, const char *key, const char *text)
{
	unsigned number;

	if (!parse_number(text, 1000000, &number))
		return manage_usage(manage, "\"%s\" is no number", text);
	json_object_set_new(part(body, object), key, json_integer(number));
	return 0;
}

/* A key file's first line that is one. */
static int set_key(struct manage *manage, json_t *body, const char *path)
{
	FILE *file = fopen(path, "re");
	char line[16384];

	if (!file)
		return fail(1, "%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\r\n")] = '\0';
		if (!*line || *line == '#')
			continue;
		fclose(file);
		if (strstr(line, "PRIVATE KEY"))
			return manage_usage(manage, "%s is a private key: name the public one (its name ends in .pub)", path);
		json_object_set_new(part(body, "seed"), "ssh_key", json_string(line));
		return 0;
	}
	fclose(file);
	return manage_usage(manage, "%s has no key in it", path);
}

static int take_setting(struct manage *manage, json_t *body, int option)
{
	static const struct {
		int option;
		const char *object, *key;
	} texts[] = {{OPT_IMAGE, NULL, "image"},	      {OPT_APPEND, "boot", "append"},
		     {OPT_PROCESSOR, "processors", "kind"},   {OPT_HOSTNAME, "seed", "hostname"},
		     {OPT_USER, "seed", "user"},	      {OPT_PASSWORD, "seed", "password"},
		     {OPT_NOTES, NULL, "notes"},	      {OPT_AUTO_START, "automatic", "start"},
		     {OPT_AUTO_STOP, "automatic", "stop"},   {OPT_RECOVERY, "automatic", "recovery"}};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (texts[i].option != option)
			continue;
		if (json_object_set_new(texts[i].object ? part(body, texts[i].object) : body, texts[i].key, json_string(optarg)))
			return manage_usage(manage, "\"%s\" is no UTF-8", optarg);
		return 0;
	}
	switch (option) {
	case OPT_KERNEL:
		json_object_set_new(part(body, "boot"), "kernel", vm_real_path(optarg));
		return 0;
	case OPT_INITRD:
		json_object_set_new(part(body, "boot"), "initrd", vm_real_path(optarg));
		return 0;
	case OPT_DISK:
	case OPT_DVD:
		return add_disk(manage, body, optarg, option == OPT_DVD);
	case OPT_NETWORK:
		return vm_add_network(manage, body, optarg);
	case OPT_FORWARD:
		return vm_add_forward(manage, body, optarg);
	case OPT_MEMORY:
		return set_size(manage, body, optarg);
	case OPT_CPUS:
		return set_number(manage, body, "processors", "count", optarg);
	case OPT_WEIGHT:
		return set_number(manage, body, "limits", "processor_weight", optarg);
	case OPT_MAXIMUM:
		return set_number(manage, body, "limits", "processor_maximum", optarg);
	case OPT_RESERVE:
		return set_number(manage, body, "limits", "processor_reserve", optarg);
	case OPT_PRIORITY:
		return set_number(manage, body, "limits", "memory_priority", optarg);
	case OPT_DELAY:
		return set_number(manage, body, "automatic", "delay", optarg);
	case OPT_ORDER:
		return set_number(manage, body, "automatic", "order", optarg);
	case OPT_COMPATIBLE:
		json_object_set_new(part(body, "processors"), "compatible", json_true());
		return 0;
	case OPT_KEY:
		return set_key(manage, body, optarg);
	case OPT_TAG:
	case OPT_GROUP:
		if (json_array_append_new(list(body, option == OPT_TAG ? "tags" : "groups"), json_string(optarg)))
			return manage_usage(manage, "\"%s\" is no UTF-8", optarg);
		return 0;
	default:
		return EXIT_USAGE; /* getopt_long() has said what */
	}
}

/* All options into `body`; what is behind them has to be one name. */
static const char *take_settings(struct manage *manage, json_t *body, bool *start, int argc, char **argv, int *status)
{
	int c;

	*status = 0;
	while ((c = getopt_long(argc, argv, "", settings, NULL)) != -1 && !*status) {
		if (c == OPT_START && start)
			*start = true;
		else
			*status = take_setting(manage, body, c);
	}
	if (!*status && argc - optind != 1)
		*status = manage_usage(manage, argc == optind ? "the machine's name is missing" : "one machine at a time");
	return *status ? NULL : argv[optind];
}

char *vm_path(struct manage *manage, const char *format, const char *first, const char *second)
{
	/* What the first leaves has no "%s" but the other: in it they are escaped. */
	_cleanup_free_ char *half = client_path(manage->client, format, first);

	return half ? client_path(manage->client, half, second) : NULL;
}

int vm_job(struct manage *manage, const char *method, const char *format, const char *name, json_t *body,
	   const char *label, struct error *err)
{
	_cleanup_free_ char *path = client_path(manage->client, format, name);

	return client_job(manage->client, method, path, body, label, NULL, err);
}

/* What a verb leaves: with --json the machine. */
int vm_show_result(struct manage *manage, const char *name, const char *text)
{
	struct error err = {0};
	json_t *vm;

	if (!manage->json) {
		printf("%s %s\n", name, text);
		return 0;
	}
	if (vm_get(manage, name, &vm, &err))
		return manage_fail(manage, &err);
	manage_print_json(manage, vm);
	return 0;
}

/* The first file that a new machine is to have and that is not there: its path could not be made absolute, and is of no
 * directory that is there already. NULL: none. */
static const char *missing_file(const json_t *body)
{
	static const char *const keys[] = {"kernel", "initrd"};
	const json_t *boot = json_object_get(body, "boot");
	const char *path;
	json_t *disk;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		path = json_string_value(json_object_get(boot, keys[i]));
		if (path && *path != '/')
			return path;
	}
	json_array_foreach(json_object_get(body, "disks"), i, disk) {
		path = json_string_value(json_object_get(disk, "path"));
		if (path && *path != '/')
			return path;
	}
	return NULL;
}

static int vm_create(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *user = NULL;
	json_t *body = json_object();
	struct error err = {0};
	bool start = false;
	const char *name;
	int status;

	name = take_settings(manage, body, &start, argc, argv, &status);
	if (name)
		status = vm_complete_seed(manage, body);
	if (status) {
		json_decref(body);
		return status;
	}
	if (start && manage->no_wait) {
		json_decref(body);
		return manage_usage(manage, "--start waits until the machine is there: --no-wait goes with one of the two commands, create and start");
	}
	if (json_object_get(json_object_get(body, "seed"), "ssh_key"))
		user = strdup(vm_text_of(json_object_get(body, "seed"), "user"));
	if (missing_file(body)) {
		error_set(&err, ENOENT, "%s: there is no such file", missing_file(body));
		json_decref(body);
		return manage_fail(manage, &err);
	}
	json_object_set_new(body, "name", json_string(name));
	if (client_job(manage->client, "POST", "/v1/vms", body, "creating", NULL, &err))
		return manage_fail(manage, &err);
	if (start && vm_job(manage, "POST", "/v1/vms/%s/start", name, NULL, "starting", &err)) {
		error_prefix(&err, "%s is created, but not started", name);
		return manage_fail(manage, &err);
	}
	return vm_show_created(manage, name, user, start);
}

static int change(struct manage *manage, const char *name, json_t *body, const char *text)
{
	_cleanup_free_ char *path = client_path(manage->client, "/v1/vms/%s", name);
	struct error err = {0};
	json_t *vm;

	if (client_call(manage->client, "PATCH", path, body, &vm, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s %s\n", vm_text_of(vm, "name"), text);
	manage_print_json(manage, vm);
	return 0;
}

static int vm_set(struct manage *manage, int argc, char **argv)
{
	json_t *body = json_object();
	const char *name;
	int status;

	name = take_settings(manage, body, NULL, argc, argv, &status);
	if (name && !json_object_size(body))
		status = manage_usage(manage, "what is to change?");
	if (status) {
		json_decref(body);
		return status;
	}
	return change(manage, name, body, "is changed");
}

static int vm_rename(struct manage *manage, int argc, char **argv)
{
	if (argc != 3)
		return manage_usage(manage, "it takes the old name and the new one");
	return change(manage, argv[1], json_pack("{s:s}", "name", argv[2]), "is its name now");
}

static int vm_register(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	json_t *vm;

	if (argc != 2)
		return manage_usage(manage, "it takes one directory");
	if (client_call(manage->client, "POST", "/v1/vms/register", json_pack("{s:o}", "directory", vm_directory_path(argv[1])), &vm,
			&err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		manage_put(stdout, vm_text_of(vm, "name"));
		puts(" is registered");
	}
	manage_print_json(manage, vm);
	return 0;
}

/* --- power -------------------------------------------------------------------------------------------- */

static int power(struct manage *manage, int argc, char **argv, const char *format, const char *label, const char *done)
{
	const char *name = vm_only_name(manage, argc, argv);
	struct error err = {0};

	if (!name)
		return EXIT_USAGE;
	if (vm_job(manage, "POST", format, name, NULL, label, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, name, done);
}

static int vm_start(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/start", "starting", "runs");
}

static int vm_turn_off(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/turn-off", "turning off", "is off");
}

static int vm_reset(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/reset", "resetting", "is reset");
}

static int vm_pause(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/pause", "pausing", "is paused");
}

static int vm_resume(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/resume", "resuming", "runs again");
}

static int vm_save(struct manage *manage, int argc, char **argv)
{
	return power(manage, argc, argv, "/v1/vms/%s/save", "saving", "is saved");
}

static int vm_restore(struct manage *manage, int argc, char **argv)
{
	const char *name = vm_only_name(manage, argc, argv);
	struct error err = {0};
	bool saved;
	json_t *vm;

	if (!name)
		return EXIT_USAGE;
	if (vm_get(manage, name, &vm, &err))
		return manage_fail(manage, &err);
	saved = !strcmp(vm_text_of(vm, "state"), "saved");
	if (!saved)
		error_set(&err, EALREADY, "%s is %s, not saved", name, vm_text_of(vm, "state"));
	json_decref(vm);
	return saved ? power(manage, argc, argv, "/v1/vms/%s/start", "restoring", "runs") : manage_fail(manage, &err);
}

static int vm_discard(struct manage *manage, int argc, char **argv)
{
	const char *name = vm_only_name(manage, argc, argv);
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (!name)
		return EXIT_USAGE;
	path = client_path(manage->client, "/v1/vms/%s/saved-state", name);
	if (client_call(manage->client, "DELETE", path, NULL, NULL, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, name, "is off");
}

static int vm_shut_down(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, OPT_TIMEOUT}, {NULL, 0, NULL, 0}};
	_cleanup_free_ char *format = NULL;
	unsigned seconds = 120;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (c != OPT_TIMEOUT || !parse_number(optarg, 86400, &seconds))
			return c == '?' ? EXIT_USAGE : manage_usage(manage, "--timeout takes seconds, up to 86400");
	if (asprintf(&format, "/v1/vms/%%s/shut-down?timeout=%u", seconds) < 0)
		return fail(1, "no memory");
	return power(manage, argc - optind + 1, argv + optind - 1, format, "shutting down", "is off");
}

static int vm_console(struct manage *manage, int argc, char **argv)
{
	const char *name = vm_only_name(manage, argc, argv);
	struct error err = {0};
	const char *path;
	json_t *vm;
	int r;

	if (!name)
		return EXIT_USAGE;
	if (vm_get(manage, name, &vm, &err))
		return manage_fail(manage, &err);
	path = json_string_value(json_object_get(vm, "console"));
	if (client_is_remote(manage->client))
		r = error_set(&err, ENOTSUP, "a console is reached on its own host only: ssh there first");
	else if (path)
		r = manage_console(path, &err);
	else
		r = error_set(&err, EALREADY, "%s is %s: start it first", name, vm_text_of(vm, "state"));
	json_decref(vm);
	return r ? manage_fail(manage, &err) : 0;
}

/* --- delete ------------------------------------------------------------------------------------------- */

/* In the machine's directory, with which it goes. */
static bool is_inside(const char *name)
{
	return *name != '/' && strncmp(name, "../", 3) && !strstr(name, "/../") && !strstr(name, "/./") && !strstr(name, "//");
}

static void list_files(const json_t *files, bool keep)
{
	json_t *file;
	size_t i;

	if (keep || !json_is_true(json_object_get(files, "own_directory"))) {
		fputs("its files in ", stderr);
		manage_put(stderr, vm_text_of(files, "directory"));
		fputs(" stay\n", stderr);
		return;
	}
	fputs("in ", stderr);
	manage_put(stderr, vm_text_of(files, "directory"));
	fputs(":\n", stderr);
	json_array_foreach(json_object_get(files, "files"), i, file) {
		fputs("  ", stderr);
		manage_put(stderr, json_string_value(file));
		fputs(is_inside(json_string_value(file)) ? "\n" : " (stays)\n", stderr);
	}
}

static bool agreed(const char *name)
{
	char answer[16] = "";

	if (!isatty(STDIN_FILENO))
		return false;
	fprintf(stderr, "delete %s? [y/N] ", name);
	return fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
}

static int vm_delete(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"force", no_argument, NULL, OPT_FORCE},
						{"keep-files", no_argument, NULL, OPT_KEEP},
						{NULL, 0, NULL, 0}};
	_cleanup_free_ char *path = NULL;
	bool force = false, keep = false;
	struct error err = {0};
	const char *name;
	json_t *files;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		*(c == OPT_FORCE ? &force : &keep) = true;
	}
	name = vm_only_name(manage, argc - optind + 1, argv + optind - 1);
	if (!name)
		return EXIT_USAGE;
	path = client_path(manage->client, "/v1/vms/%s/files", name);
	if (client_call(manage->client, "GET", path, NULL, &files, &err))
		return manage_fail(manage, &err);
	if (!force)
		list_files(files, keep);
	json_decref(files);
	if (!force && !agreed(name))
		return fail(1, "%s is not deleted (--force does it without asking)", name);
	if (vm_job(manage, "DELETE", keep ? "/v1/vms/%s?files=keep" : "/v1/vms/%s", name, NULL, "deleting", &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is deleted\n", name);
	else
		manage_print_json(manage, json_pack("{s:s}", "deleted", name));
	return 0;
}

/* --- the table ---------------------------------------------------------------------------------------- */

#define SETTINGS                                                                                             \
	"  --memory SIZE          32M to 1T, in steps of 2M (1G)\n"                                                    \
	"  --cpus N               virtual processors, 1 to 64 (1)\n"                                         \
	"  --processor KIND       auto, kvm or soft, with options as bulkhead run has them\n"                \
	"  --processor-weight N, --processor-maximum N, --processor-reserve N, --memory-priority N\n"        \
	"                         as bulkhead vm limits has them\n"                                           \
	"  --compatible           only features that every kind of processor serves here\n"                  \
	"  --disk FILE[,ro][,controller=N], --dvd FILE   (repeatable)\n"                                     \
	"  --network WHAT         nat, tap:NAME, switch:NAME or none: what the adapter is plugged into; without it,\n" \
	"                         a new machine has one at nat (repeatable)\n"                                \
	"  --forward [udp:][ADDRESS:]PORT:GUESTPORT\n"                                                        \
	"                         a port of the host that leads to the guest behind nat; PORT may be auto, one that is\n" \
	"                         free (repeatable)\n"                                                          \
	"  --kernel FILE --initrd FILE --append TEXT     what it boots\n"                                    \
	"  --notes TEXT, --tag WORD, --group NAME        (tags and groups repeatable)\n"                     \
	"  --automatic-start nothing|if-was-running|always\n"                                                \
	"                         when the host starts (if-was-running)\n"                                   \
	"  --automatic-delay SECONDS, --automatic-order N\n"                                                 \
	"                         so long after that; when those with a lower number have started\n"         \
	"  --automatic-stop save|shut-down|turn-off      when the host stops (shut-down)\n"                  \
	"  --recovery nothing|restart                    when it has crashed (nothing)\n"

#define DRIVE_OPTIONS                                                                                        \
	"  --drive N              which of its DVD drives, in the order of bulkhead vm show (0)\n"           \
	"  --force                also if the guest has locked the medium in, as it does while that is mounted;\n" \
	"                         without it, the guest is asked to let go of the medium\n"

static const struct manage_verb verbs[] = {
    {"list", "what there is", "[--group NAME] [--tag WORD] [--names]",
     "All machines, or those of a group or with a tag, with their states.\n"
     "\n"
     "  --group NAME, --tag WORD\n"
     "                         only these\n"
     "  --names                only their names, one a line\n",
     vm_list},
    {"show", "one machine", "NAME", "Its settings and its state.\n", vm_show},
    {"create", "make one", "NAME (--image IMAGE | --kernel FILE) [OPTION …] [--start] " WAITS,
     "From an image of the library, or with a kernel and disks that are there.\n\n"
     "  --image IMAGE          its disk and kernel are copied\n"
     "  --hostname NAME --user NAME --password TEXT --ssh-key FILE\n"
     "                         set at the image's first boot; the user is you if none is named. With a key, an image\n"
     "                         behind nat also has --forward auto:22, if no forward to port 22 is named\n" SETTINGS
     "  --start                turn it on at once\n",
     vm_create},
    {"set", "change settings", "NAME [OPTION …]",
     "What is not named stays. Notes, tags, limits and automatic actions at any time, the rest while it is off; a list\n"
     "(disks, adapters with their forwards, tags) is replaced as a whole.\n\n" SETTINGS,
     vm_set},
    {"rename", "give it another name", "NAME NEW", "Its directory keeps its name.\n", vm_rename},
    {"start", "turn it on", "NAME " WAITS, "Returns when its processors run: the guest's first instruction comes next.\n", vm_start},
    {"shut-down", "ask the guest to shut down", "NAME [--timeout SECONDS] " WAITS,
     "Returns when it is off; fails when it is not by then (120).\n", vm_shut_down},
    {"turn-off", "cut the power", "NAME " WAITS, "As if the plug were pulled.\n", vm_turn_off},
    {"reset", "reset it", "NAME " WAITS, "As by a reset button.\n", vm_reset},
    {"save", "save it to a file", "NAME " WAITS,
     "All of it, memory too, into its directory; it is off then, and its next start goes on from there.\n", vm_save},
    {"restore", "let a saved one go on", "NAME " WAITS, "As start does with one that is saved.\n", vm_restore},
    {"discard", "discard its saved state", "NAME", "As if its power had been cut when it was saved.\n", vm_discard},
    {"pause", "hold its processors", "NAME " WAITS, "Until bulkhead vm resume.\n", vm_pause},
    {"resume", "let a paused one go on", "NAME " WAITS, "After bulkhead vm pause.\n", vm_resume},
    {"add-disk", "give it a disk", "NAME (FILE[,ro][,controller=N] [--dvd] | --dvd) " WAITS,
     "While it runs, too; also a disk that continues others.\n"
     "\n"
     "  --dvd                  a DVD drive, with FILE in it or, without FILE, empty\n", vm_add_disk},
    {"remove-disk", "take a disk from it", "NAME (FILE | --dvd N) " WAITS,
     "While it runs, too. The file stays.\n"
     "\n"
     "  --dvd N                DVD drive number N of its DVD drives, from 0 on: also one that is empty\n", vm_remove_disk},
    {"insert-dvd", "put a medium into a DVD drive", "NAME FILE [--drive N] [--force] " WAITS,
     "FILE, an ISO image, takes the place of what is in the drive; while the machine runs, too: the guest is told.\n"
     "\n" DRIVE_OPTIONS, vm_insert_dvd},
    {"eject-dvd", "take the medium out of a DVD drive", "NAME [--drive N] [--force] " WAITS,
     "The drive stays, empty; while the machine runs, too: the guest is told. The file stays.\n"
     "\n" DRIVE_OPTIONS, vm_eject_dvd},
    {"adapter", "its network adapters", "list|add|set|remove|connect|disconnect NAME [ADAPTER] [WHAT] [OPTION …] " WAITS,
     "What a running machine's adapters are plugged into, and adapters that come and go while it runs. ADAPTER is an\n"
     "adapter's address or its place in the list; WHAT is nat, tap:NAME or switch:NAME.\n"
     "\n"
     "  list NAME              with the addresses that the guest uses\n"
     "  add NAME               one more\n"
     "  set NAME ADAPTER       other settings\n"
     "  remove NAME ADAPTER    one less\n"
     "  connect NAME ADAPTER WHAT\n"
     "  disconnect NAME ADAPTER\n"
     "                         the guest sees a cable that is plugged in, or pulled\n"
     "\n"
     "  --network WHAT         (add, set) or none (nat)\n"
     "  --mac ADDRESS          (add, set) else it gets one; of an adapter that is there, while the machine is off\n"
     "  --forward [udp:][ADDRESS:]PORT:GUESTPORT\n"
     "                         (add, set; repeatable) a port of the host that leads to the guest behind nat, which\n"
     "                         may be auto; or none\n"
     "  --any-mac yes|no       (add, set) whether the guest may use other addresses\n"
     "\n"
     "Of its port on a switch (add, set); what is not named stays as it is:\n"
     "\n"
     "  --vlan ID              it is in this VLAN; or none\n"
     "  --trunk ID,ID…[:ID]    it gets these VLANs tagged; untagged frames are of the one behind the colon\n"
     "  --private-vlan MODE:ID[:SECONDARY]\n"
     "                         isolated:ID, promiscuous:ID or community:ID:SECONDARY\n"
     "  --maximum RATE         bits in a second that it may send, as 100M; 0: no limit\n"
     "  --maximum-in RATE      bits in a second that it is sent\n"
     "  --minimum RATE         bits in a second that it can always send by the switch's adapters; 0: none\n"
     "  --weight N             the same, 1 to 100, beside others' weights; 0: none\n"
     "  --dhcp-guard yes|no    it may not answer as a DHCP server\n"
     "  --router-guard yes|no  it may neither advertise itself as a router nor redirect\n"
     "  --protected yes|no     that its network is lost is told, in an event and here (yes)\n"
     "  --mirror MODE          source: what it sends and gets goes to each destination, which listens; or none\n"
     "  --acl DIRECTION:ACTION:REMOTE\n"
     "                         (repeatable; all of them) in or out, allow, deny or meter, and any, an address of IPv4 or\n"
     "                         IPv6 with or without /LENGTH, or of an adapter; or none. meter: metering tells it apart\n"
     "  --settings JSON        all of it at once, as vm.json has it\n", vm_adapter},
    {"limits", "what it may take of the host", "NAME [OPTION …]", LIMITS_TEXT, vm_limits},
    {"metering", "what it took of the host", "(NAME | --all) [--enable | --disable | --reset]", METERING_TEXT, vm_metering},
    {"console", "its serial console", "NAME", "Ctrl-] leaves it.\n", vm_console},
    {"ssh", "log in by ssh", "[--no-wait] [USER@]NAME [ARGUMENT …]",
     "By a port of the host that is forwarded to the guest's port 22, or else to an address that the guest has on a\n"
     "switch that the host is on; the arguments are ssh's. While the guest starts, it is waited for up to three minutes.\n"
     "\n"
     "  --no-wait              it is not\n", vm_ssh},
    {"inspect", "the insides of a running one", "NAME [--watch]",
     "Processors, memory, disks with their chains, VMBus with its channels, services: as a tree.\n"
     "\n"
     "  --watch                again every second, until q\n",
     vm_inspect},
    {"top", "what machines take", "", "Processors' time, memory, disks, by the second, until q. With --json what there is, once.\n", vm_top},
    {"clone", "make another one like it", "NAME NEW [--checkpoint CHECKPOINT [--linked]] " WAITS,
     "With copies of all its disks, as they are now, and none of its checkpoints. Of one that runs they are as if its power\n"
     "were cut at that moment (they have to be VHDX or VHD); one that is saved has to be started first.\n\n"
     "  --checkpoint CHECKPOINT    as it was then; it may run\n"
     "  --linked               its disks continue those of the checkpoint, which stays as long as the clone does\n", vm_clone},
    {"export", "copy all of it", "NAME DIRECTORY " WAITS,
     "Into a new directory DIRECTORY/NAME, from which any host can import it, with its checkpoints. One that runs goes on;\n"
     "what is exported is saved, as it was at that moment (its disks have to be VHDX or VHD).\n", vm_export},
    {"import", "take in an exported one", "DIRECTORY [--copy | --restore | --register] [--name NEW] [--outside] " WAITS,
     "  --copy                 a new machine, with an id of its own, by copying (this is the default)\n"
     "  --restore              the same machine, with its id, by copying\n"
     "  --register             the same machine, where it is\n"
     "  --name NEW             what it is called here\n"
     "  --outside              it may have files of this host that are not in DIRECTORY, which no exported one has\n", vm_import},
    {"register", "take in a directory", "DIRECTORY", "A machine whose vm.json is there, made by any host.\n", vm_register},
    {"delete", "delete it", "NAME [--force] [--keep-files] " WAITS,
     "Shows what would go, and asks. Files outside its directory stay.\n", vm_delete},
    {0}};

int command_vm(int argc, char **argv)
{
	return manage_run("vm", "Virtual machines that bulkheadd keeps.\n", verbs, argc, argv);
}
