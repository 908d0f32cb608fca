/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/configuration.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#define CONFIGURATION_VERSION 1
#define KEY_PATH_SIZE         80u
#define NAME_MAX_BYTES        255u
#define ID_MAX                0xfffffffeu /* -1 is no user: setresuid() would change nothing */

/* An object and its place: "" for the whole, "disks[1]." for a part, so that a key's path is `where` and its name. */
struct part {
	const json_t *object;
	char where[KEY_PATH_SIZE];
	struct error *err;
};

static int refuse(const struct part *p, const char *key, const char *why)
{
	return error_set(p->err, EINVAL, "configuration: %s%s %s", p->where, key, why);
}

/* `keys` ends with NULL. */
static int check_keys(const struct part *p, const char *const *keys)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)p->object, key, value) {
		unsigned i = 0;

		while (keys[i] && strcmp(keys[i], key) != 0)
			i++;
		if (!keys[i])
			return error_set(p->err, EINVAL, "configuration: %s%.64s is not a key that this version knows",
			    p->where, key);
	}
	return 0;
}

static int begin(struct part *p, const json_t *value, const char *where, const char *const *keys, struct error *err)
{
	p->object = value;
	p->err = err;
	if (!json_is_object(value))
		return error_set(err, EINVAL, "configuration: %s must be an object", where);
	snprintf(p->where, sizeof(p->where), "%s.", where);
	return check_keys(p, keys);
}

static int get_text(const struct part *p, const char *key, bool needed, const char **out)
{
	const json_t *value = json_object_get(p->object, key);

	if (!value)
		return needed ? refuse(p, key, "is missing") : 0;
	if (!json_is_string(value))
		return refuse(p, key, "must be a string");
	*out = json_string_value(value);
	return 0;
}

static int check_path(const struct part *p, const char *key, const char *path)
{
	if (path[0] != '/')
		return refuse(p, key, "must be an absolute path");
	return strlen(path) < PATH_MAX ? 0 : refuse(p, key, "is too long for a path");
}

static int get_path(const struct part *p, const char *key, bool needed, const char **out)
{
	int r = get_text(p, key, needed, out);

	return r || !*out ? r : check_path(p, key, *out);
}

static int get_bool(const struct part *p, const char *key, bool *out)
{
	const json_t *value = json_object_get(p->object, key);

	if (value && !json_is_boolean(value))
		return refuse(p, key, "must be true or false");
	*out = json_is_true(value);
	return 0;
}

/* *out stays as it is when the key is not there. */
static int get_number(const struct part *p, const char *key, uint64_t min, uint64_t max, uint64_t *out)
{
	const json_t *value = json_object_get(p->object, key);
	char why[80];

	if (!value)
		return 0;
	snprintf(why, sizeof(why), "must be a whole number from %llu to %llu", (unsigned long long)min,
	    (unsigned long long)max);
	if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) < min ||
	    (uint64_t)json_integer_value(value) > max)
		return refuse(p, key, why);
	*out = (uint64_t)json_integer_value(value);
	return 0;
}

/* The array at `key`; NULL when there is none. */
static int get_list(const struct part *p, const char *key, size_t max, const json_t **out)
{
	char why[64];

	*out = json_object_get(p->object, key);
	if (!*out)
		return 0;
	if (!json_is_array(*out))
		return refuse(p, key, "must be an array");
	snprintf(why, sizeof(why), "has more than %zu entries", max);
	return json_array_size(*out) <= max ? 0 : refuse(p, key, why);
}

int worker_set_processor(struct worker_config *config, const char *text, struct error *err)
{
	size_t length = strcspn(text, ",");

	config->processor_options = text[length] ? text + length + 1 : NULL;
	if (length == 4 && !strncmp(text, "auto", 4))
		config->processor = PROCESSOR_AUTO;
	else if (length == 4 && !strncmp(text, "soft", 4))
		config->processor = PROCESSOR_SOFT;
	else if (length == 3 && !strncmp(text, "kvm", 3))
		config->processor = PROCESSOR_KVM;
	else
		return error_set(err, EINVAL, "%.64s: write auto, kvm or soft", text);
	return 0;
}

static int parse_processor(const struct part *p, struct worker_config *w)
{
	const char *text = "auto";
	int r = get_text(p, "processor", false, &text);

	if (r)
		return r;
	r = worker_set_processor(w, text, p->err);
	return r ? error_prefix(p->err, "configuration: %sprocessor", p->where) : 0;
}

/* *out stays as it is when the key is not there. */
static int get_descriptor(const struct part *p, const char *key, struct configuration *c, int *out)
{
	uint64_t fd = 0;
	int r = get_number(p, key, STDERR_FILENO + 1, CONFIGURATION_DESCRIPTORS - 1, &fd);

	if (r || !fd)
		return r;
	if (c->named[fd / 64] >> fd % 64 & 1)
		return refuse(p, key, "is named twice");
	c->named[fd / 64] |= 1ull << fd % 64;
	*out = (int)fd;
	return 0;
}

/* The descriptor of a file that is named too. */
static int get_file_descriptor(const struct part *p, const char *key, const char *path, struct configuration *c, int *out)
{
	int r = get_descriptor(p, key, c, out);

	return !r && *out && !path ? refuse(p, key, "has no meaning without a path") : r;
}

static int parse_modules(const struct part *p, struct worker_config *w)
{
	const json_t *list;
	int r = get_list(p, "modules", WORKER_MAX_MODULES, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		const json_t *value = json_array_get(list, i);
		char key[40];

		snprintf(key, sizeof(key), "modules[%zu]", i);
		if (!json_is_string(value))
			return refuse(p, key, "must be a string");
		w->modules[w->module_count++] = json_string_value(value);
		r = check_path(p, key, json_string_value(value));
	}
	return r;
}

static int parse_boot(const struct part *whole, struct configuration *c)
{
	static const char *const keys[] = {"kernel", "kernel_descriptor", "initrd", "initrd_descriptor", "append", "modules", NULL};
	struct worker_config *w = &c->worker;
	const json_t *boot = json_object_get(whole->object, "boot");
	struct part p;
	int r;

	if (!boot)
		return refuse(whole, "boot", "is missing");
	r = begin(&p, boot, "boot", keys, whole->err);
	if (!r)
		r = get_path(&p, "kernel", true, &w->kernel);
	if (!r)
		r = get_file_descriptor(&p, "kernel_descriptor", w->kernel, c, &w->kernel_fd);
	if (!r)
		r = get_path(&p, "initrd", false, &w->initrd);
	if (!r)
		r = get_file_descriptor(&p, "initrd_descriptor", w->initrd, c, &w->initrd_fd);
	if (!r)
		r = get_text(&p, "append", false, &w->append);
	return r ? r : parse_modules(&p, w);
}

static int parse_parent(struct configuration *c, struct vm_files *files, const json_t *value, const char *where, struct error *err)
{
	static const char *const keys[] = {"path", "descriptor", NULL};
	const char *path = NULL;
	struct part p;
	int fd = 0, r = begin(&p, value, where, keys, err);

	if (!r)
		r = get_path(&p, "path", true, &path);
	if (!r)
		r = get_descriptor(&p, "descriptor", c, &fd);
	if (!r && !fd)
		r = refuse(&p, "descriptor", "is missing");
	if (r)
		return r;
	files->names[files->count] = path;
	files->fds[files->count++] = fd;
	return 0;
}

static int parse_parents(const struct part *p, struct configuration *c, struct vm_files *files)
{
	const json_t *list;
	int r = get_list(p, "parents", VM_FILES_MAX - 1, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		char where[KEY_PATH_SIZE - 1];

		snprintf(where, sizeof(where), "%.40sparents[%zu]", p->where, i);
		r = parse_parent(c, files, json_array_get(list, i), where, p->err);
	}
	return r;
}

/* What is open of a disk already. */
static int parse_disk_files(const struct part *p, struct configuration *c, unsigned i)
{
	struct worker_disk *d = &c->worker.disks[i];
	struct vm_files *files;
	int fd = 0, r = get_file_descriptor(p, "descriptor", d->path, c, &fd);

	if (r)
		return r;
	if (!fd) {
		if (json_object_get(p->object, "parents") || json_object_get(p->object, "record"))
			return refuse(p, "descriptor", "is missing");
		return 0;
	}
	files = c->files[i] = calloc(1, sizeof(*files));
	if (!files)
		return error_set(p->err, ENOMEM, "no memory for the configuration");
	files->fds[0] = fd;
	files->names[0] = d->path;
	files->count = 1;
	files->record = -1;
	d->files = files;
	r = parse_parents(p, c, files);
	return r ? r : get_descriptor(p, "record", c, &files->record);
}

static int parse_disk(struct configuration *c, unsigned i, const json_t *value, const char *where, struct error *err)
{
	static const char *const keys[] = {"path", "descriptor", "parents", "record", "read_only", "dvd", "controller", NULL};
	struct worker_disk *d = &c->worker.disks[i];
	uint64_t controller = 0;
	struct part p;
	int r = begin(&p, value, where, keys, err);

	if (!r)
		r = get_bool(&p, "dvd", &d->dvd);
	if (!r)
		r = get_path(&p, "path", !d->dvd, &d->path);
	if (!r)
		r = get_bool(&p, "read_only", &d->read_only);
	if (!r)
		r = get_number(&p, "controller", 0, WORKER_MAX_CONTROLLERS - 1, &controller);
	d->controller = (unsigned)controller;
	return r ? r : parse_disk_files(&p, c, i);
}

static int parse_disks(const struct part *whole, struct configuration *c)
{
	const json_t *list;
	int r = get_list(whole, "disks", WORKER_MAX_DISKS, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		char where[40];

		snprintf(where, sizeof(where), "disks[%zu]", i);
		r = parse_disk(c, c->worker.disk_count++, json_array_get(list, i), where, whole->err);
	}
	return r;
}

bool configuration_mac(const char *text, uint8_t mac[6])
{
	unsigned byte[6];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5], &end) != 6 ||
	    strlen(text) != 17 || end != 17 || byte[0] & 1)
		return false;
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)byte[i];
	return true;
}

static int parse_mac(const struct part *p, uint8_t mac[6])
{
	const char *text = NULL;
	int r = get_text(p, "mac", true, &text);

	if (r)
		return r;
	return configuration_mac(text, mac) ? 0 : refuse(p, "mac", "must be the address of one adapter, such as 00:15:5d:01:02:03");
}

static int parse_label(const struct part *p, struct worker_adapter *a)
{
	const char *label = "";
	int r = get_text(p, "label", false, &label);

	if (!r && strlen(label) >= sizeof(a->label))
		r = refuse(p, "label", "has more than 63 bytes");
	if (!r)
		strcpy(a->label, label);
	return r;
}

static int parse_forwards(const struct part *p, struct nat_config *nat)
{
	const json_t *list;
	int r = get_list(p, "forwards", NAT_FORWARDS_MAX, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		const json_t *value = json_array_get(list, i);
		char key[40];

		snprintf(key, sizeof(key), "forwards[%zu]", i);
		if (!json_is_string(value))
			return refuse(p, key, "must be a string");
		r = nat_forward_parse(&nat->forwards[nat->forward_count++], json_string_value(value), p->err);
		if (r)
			return error_prefix(p->err, "configuration: %s%s", p->where, key);
	}
	return r;
}

static int parse_descriptor(const struct part *p, struct configuration *c, struct worker_adapter *a)
{
	int fd = -1, r = get_descriptor(p, "descriptor", c, &fd);

	if (!r && (fd >= 0) != (a->kind == WORKER_PORT_DESCRIPTOR))
		r = refuse(p, "descriptor", fd < 0 ? "is missing" : "has no meaning but for a port of kind descriptor");
	if (!r)
		a->fd = fd;
	return r;
}

static int parse_port(const struct part *p, struct configuration *c, struct worker_adapter *a, struct nat_config *nat)
{
	const char *port = "nat";
	int r = get_text(p, "port", false, &port);

	if (!r)
		r = get_text(p, "interface", false, &a->tap);
	if (!r)
		r = parse_forwards(p, nat);
	if (r)
		return r;
	if (!strcmp(port, "nat"))
		a->kind = WORKER_PORT_SOCKET;
	else if (!strcmp(port, "tap"))
		a->kind = WORKER_PORT_TAP;
	else if (!strcmp(port, "descriptor"))
		a->kind = WORKER_PORT_DESCRIPTOR;
	else if (!strcmp(port, "none"))
		a->kind = WORKER_PORT_NONE;
	else
		return refuse(p, "port", "must be nat, tap, descriptor or none");
	if (nat->forward_count && a->kind != WORKER_PORT_SOCKET)
		return refuse(p, "forwards", "has no meaning but for a port of kind nat");
	if (!a->tap != (a->kind != WORKER_PORT_TAP))
		return refuse(p, "interface", a->tap ? "has no meaning but for a port of kind tap" : "is missing");
	return parse_descriptor(p, c, a);
}

static int parse_adapter(struct configuration *c, unsigned i, const json_t *value, const char *where, struct error *err)
{
	static const char *const keys[] = {"mac", "any_mac", "port", "interface", "descriptor", "forwards", "label", NULL};
	struct worker_adapter *a = &c->worker.adapters[i];
	struct part p;
	int r = begin(&p, value, where, keys, err);

	a->fd = -1;
	if (!r)
		r = parse_mac(&p, a->mac);
	if (!r)
		r = get_bool(&p, "any_mac", &a->any_mac);
	if (!r)
		r = parse_port(&p, c, a, &c->nats[i]);
	if (!r)
		r = parse_label(&p, a);
	for (unsigned k = 0; k < i && !r; k++)
		if (!memcmp(c->worker.adapters[k].mac, a->mac, sizeof(a->mac)))
			r = refuse(&p, "mac", "is another adapter's");
	return r;
}

static int parse_adapters(const struct part *whole, struct configuration *c)
{
	const json_t *list;
	int r = get_list(whole, "adapters", WORKER_MAX_ADAPTERS, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		char where[40];

		snprintf(where, sizeof(where), "adapters[%zu]", i);
		r = parse_adapter(c, c->worker.adapter_count++, json_array_get(list, i), where, whole->err);
	}
	return r;
}

static int parse_serial(struct worker_serial *s, const json_t *value, const char *where, struct error *err)
{
	static const char *const keys[] = {"kind", "path", NULL};
	const char *kind = NULL;
	struct part p;
	int r = begin(&p, value, where, keys, err);

	if (!r)
		r = get_text(&p, "kind", true, &kind);
	if (!r)
		r = get_path(&p, "path", false, &s->path);
	if (r)
		return r;
	if (!strcmp(kind, "none"))
		s->kind = WORKER_SERIAL_NONE;
	else if (!strcmp(kind, "unix"))
		s->kind = WORKER_SERIAL_UNIX;
	else if (!strcmp(kind, "file"))
		s->kind = WORKER_SERIAL_FILE;
	else
		return refuse(&p, "kind", "must be none, unix or file");
	if (s->kind == WORKER_SERIAL_NONE)
		return s->path ? refuse(&p, "path", "has no meaning for a port of kind none") : 0;
	return s->path ? 0 : refuse(&p, "path", "is missing");
}

static int parse_serials(const struct part *whole, struct worker_config *w)
{
	const json_t *list;
	int r = get_list(whole, "serial", WORKER_SERIAL_PORTS, &list);

	for (size_t i = 0; !r && i < json_array_size(list); i++) {
		char where[40];

		snprintf(where, sizeof(where), "serial[%zu]", i);
		r = parse_serial(&w->serial[i], json_array_get(list, i), where, whole->err);
	}
	return r;
}

static int parse_sandbox(const struct part *whole, struct configuration *c)
{
	static const char *const keys[] = {"uid", "gid", NULL};
	const json_t *sandbox = json_object_get(whole->object, "sandbox");
	uint64_t uid = UINT64_MAX, gid = UINT64_MAX;
	struct part p;
	int r;

	if (!sandbox || json_is_null(sandbox))
		return 0;
	r = begin(&p, sandbox, "sandbox", keys, whole->err);
	/* Root's own user and group are no place to be locked up in. */
	if (!r)
		r = get_number(&p, "uid", 1, ID_MAX, &uid);
	if (!r)
		r = get_number(&p, "gid", 1, ID_MAX, &gid);
	if (!r && (uid == UINT64_MAX || gid == UINT64_MAX))
		r = refuse(&p, uid == UINT64_MAX ? "uid" : "gid", "is missing");
	c->has_user = !r;
	c->uid = (unsigned)uid;
	c->gid = (unsigned)gid;
	return r;
}

static int parse_name(const struct part *whole, struct worker_config *w)
{
	int r = get_text(whole, "name", true, &w->name);

	if (!r && (!w->name[0] || strlen(w->name) > NAME_MAX_BYTES))
		r = refuse(whole, "name", "must have 1 to 255 bytes");
	return r;
}

static int parse_version(const struct part *whole)
{
	const json_t *version = json_object_get(whole->object, "version");

	if (!version)
		return refuse(whole, "version", "is missing");
	return json_is_integer(version) && json_integer_value(version) == CONFIGURATION_VERSION
		   ? 0
		   : refuse(whole, "version", "must be 1: this worker knows no other");
}

/* The parts in the order of docs/worker.md; the first that is wrong is told. */
static int parse_whole(const struct part *p, struct configuration *c)
{
	struct worker_config *w = &c->worker;
	uint64_t cpus = 1;
	int r = parse_name(p, w);

	w->memory = 1ull << 30;
	if (!r)
		r = parse_processor(p, w);
	if (!r)
		r = get_bool(p, "compatible", &w->compatible);
	if (!r)
		r = get_number(p, "cpus", 1, PARTITION_MAX_VPS, &cpus);
	w->vp_count = (unsigned)cpus;
	if (!r)
		r = get_number(p, "memory", 1, INT64_MAX, &w->memory);
	if (!r)
		r = parse_boot(p, c);
	if (!r)
		r = parse_disks(p, c);
	if (!r)
		r = parse_adapters(p, c);
	if (!r)
		r = parse_serials(p, w);
	if (!r)
		r = get_path(p, "control", false, &w->control_path);
	if (!r)
		r = get_path(p, "restore", false, &w->restore);
	if (!r)
		r = get_file_descriptor(p, "restore_descriptor", w->restore, c, &w->restore_fd);
	if (!r)
		r = get_bool(p, "tell_progress", &c->tell_progress);
	if (!r)
		r = get_path(p, "result", true, &c->result);
	if (!r)
		r = get_path(p, "lock", true, &c->lock);
	if (!r)
		r = parse_sandbox(p, c);
	if (!r)
		r = get_bool(p, "no_reboot", &w->no_reboot);
	return r ? r : get_bool(p, "debug_exit", &w->exit_port);
}

int configuration_parse(struct configuration *out, const char *text, size_t size, struct error *err)
{
	static const char *const keys[] = {"version", "name", "processor", "compatible", "cpus", "memory", "boot", "disks", "adapters",
	    "serial", "control", "restore", "restore_descriptor", "tell_progress", "result", "lock", "sandbox", "no_reboot", "debug_exit", NULL};
	struct part whole = {.err = err};
	json_error_t why;
	int r;

	*out = (struct configuration){.tree = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why)};
	if (!out->tree)
		return error_set(err, EINVAL, "configuration: line %d, column %d: %s", why.line, why.column, why.text);
	whole.object = out->tree;
	r = json_is_object(out->tree) ? 0 : error_set(err, EINVAL, "configuration: it must be an object");
	/* First of all: another version may have other keys. */
	if (!r)
		r = parse_version(&whole);
	if (!r)
		r = check_keys(&whole, keys);
	if (!r)
		r = parse_whole(&whole, out);
	if (r)
		configuration_free(out);
	return r;
}

int configuration_read(struct configuration *out, int fd, struct error *err)
{
	_cleanup_free_ char *text = malloc(CONFIGURATION_MAX_BYTES + 1);
	size_t used = 0;

	*out = (struct configuration){0};
	if (!text)
		return error_set(err, ENOMEM, "no memory for the configuration");
	while (used <= CONFIGURATION_MAX_BYTES) {
		ssize_t n = read(fd, text + used, CONFIGURATION_MAX_BYTES + 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, errno, "the configuration cannot be read: %s", strerror(errno));
		if (n == 0)
			return configuration_parse(out, text, used, err);
		used += (size_t)n;
	}
	return error_set(err, EFBIG, "the configuration is larger than 1 MiB");
}

void configuration_free(struct configuration *configuration)
{
	json_decref(configuration->tree);
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		free(configuration->files[i]);
	*configuration = (struct configuration){0};
}

static bool is_named(const struct configuration *c, unsigned fd)
{
	return c->named[fd / 64] >> fd % 64 & 1;
}

int configuration_close_others(const struct configuration *c, struct error *err)
{
	for (unsigned fd = STDERR_FILENO + 1; fd < CONFIGURATION_DESCRIPTORS; fd++) {
		if (!is_named(c, fd))
			close((int)fd);
		else if (fcntl((int)fd, F_SETFD, FD_CLOEXEC))
			return error_set(err, EINVAL, "configuration: descriptor %u, which it names, is not open", fd);
	}
	close_range(CONFIGURATION_DESCRIPTORS, UINT_MAX, 0);
	return 0;
}

void configuration_close_named(const struct configuration *c)
{
	for (unsigned fd = STDERR_FILENO + 1; fd < CONFIGURATION_DESCRIPTORS; fd++)
		if (is_named(c, fd))
			close((int)fd);
}
