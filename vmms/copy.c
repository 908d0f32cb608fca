/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "vmms/files.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"
#include "vmms/tree.h"

/* --- the plan ----------------------------------------------------------------------------------------- */

/* Names that files of other kinds have, or get for a moment. */
static const char *const taken_names[] = {VM_CONFIG_FILE, VM_CONFIG_FILE ".new", "worker.log", "worker.lock", "result",
					  SAVED_FILE, SAVED_NEW, SAVED_USED, SAVED_DISKS,
					  SAVED_DISKS ".new", TREE_FILE, TREE_FILE ".new", PENDING_FILE, PENDING_FILE ".new"};

static bool name_is_taken(const struct copy_plan *plan, const char *name)
{
	/* A directory of that name would be in the way too. */
	size_t first = strcspn(name, "/");

	for (size_t i = 0; i < ARRAY_SIZE(taken_names); i++)
		if (!strncmp(name, taken_names[i], first) && !taken_names[i][first])
			return true;
	return json_object_get(plan->by_to, name);
}

/* The file's own name, or one like it that is free. */
static json_t *free_name(const struct copy_plan *plan, const char *path)
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	json_t *name = json_string(base);

	for (unsigned i = 2; name && name_is_taken(plan, json_string_value(name)); i++) {
		json_decref(name);
		name = json_sprintf("%u-%s", i, base);
	}
	return name;
}

/* Takes the reference. */
static int plan_file(struct copy_plan *plan, json_t *file)
{
	const char *from = json_string_value(json_object_get(file, "from")), *to = json_string_value(json_object_get(file, "to"));

	if (!file || json_object_set(plan->by_from, from, file) || json_object_set(plan->by_to, to, file)) {
		json_decref(file);
		return -ENOMEM;
	}
	return json_array_append_new(plan->files, file) ? -ENOMEM : 0;
}

/* Which checkpoint brought the files that were planned since there were `count`: of one that is missing that is told. */
static int note_checkpoint(struct copy_plan *plan, size_t count, const json_t *checkpoint)
{
	for (; count < json_array_size(plan->files); count++)
		if (json_object_set(json_array_get(plan->files, count), "of", json_object_get(checkpoint, "name")))
			return -ENOMEM;
	return 0;
}

/* The same file twice is one: a disk, if it is that once. */
static json_t *planned(const struct copy_plan *plan, const char *from, bool disk, bool linked)
{
	json_t *file = json_object_get(plan->by_from, from);

	if (file && disk)
		json_object_set_new(file, "disk", json_true());
	if (file && linked)
		json_object_set_new(file, "linked", json_true());
	return json_object_get(file, "to");
}

/* Its own name, where it is of the directory and nothing else has that; else one that is free. Disks of checkpoints lie beside vm.json. */
static json_t *new_name(const struct copy_plan *plan, const char *path, bool keep)
{
	return keep && !name_is_taken(plan, path) ? json_string(path) : free_name(plan, path);
}

/* `object` has a path at `key`: it is copied, if it is to be, and the copy is named there. */
static int plan_path(struct copy_plan *plan, json_t *object, const char *key, bool written)
{
	const char *path = json_string_value(json_object_get(object, key));
	_cleanup_free_ char *whole = path ? vm_config_path(path, plan->source) : NULL;
	const char *continues = path ? json_string_value(json_object_get(plan->chain, path)) : NULL;
	bool inside = path && name_is_inside(path);
	bool clone = plan->kind == COPY_CLONE || plan->kind == COPY_LINK;
	bool flatten = written && !continues && (clone || (plan->kind == COPY_EXPORT && !inside));
	bool keep = inside && !flatten && !(continues && strchr(path, '/'));
	bool disk = continues || !strcmp(key, "path"), linked = continues && *continues;
	json_t *to, *same;
	int r;

	if (!path)
		return 0;
	if (!whole)
		return -ENOMEM;
	if (!inside && (plan->kind == COPY_IMPORT || (clone && !written)))
		return json_object_set_new(object, key, json_string(whole)) ? -ENOMEM : 0;
	same = planned(plan, inside ? path : whole, disk, linked);
	if (same)
		return json_object_set_new(object, key, json_deep_copy(same)) ? -ENOMEM : 0;
	to = new_name(plan, path, keep);
	r = to ? plan_file(plan, json_pack("{s:s, s:O, s:b, s:b, s:b}", "from", inside ? path : whole, "to", to, "flatten", flatten,
					   "disk", disk, "linked", linked))
	       : -ENOMEM;
	return json_object_set_new(object, key, to) ? -ENOMEM : r;
}

static bool is_written(const json_t *disk)
{
	return !json_is_true(json_object_get(disk, "read_only")) &&
	       strcmp(json_string_value(json_object_get(disk, "kind")), "dvd");
}

static int plan_config(struct copy_plan *plan, json_t *config)
{
	json_t *boot = json_object_get(config, "boot"), *disk;
	int r = plan_path(plan, boot, "kernel", false);
	size_t i;

	if (!r)
		r = plan_path(plan, boot, "initrd", false);
	json_array_foreach(json_object_get(config, "disks"), i, disk)
		if (!r)
			r = plan_path(plan, disk, "path", is_written(disk));
	return r;
}

/* What each disk of the tree continues. */
static int note_chain(struct copy_plan *plan)
{
	json_t *disk, *parent;
	size_t i;

	json_array_foreach(json_object_get(plan->tree, "disks"), i, disk) {
		parent = json_object_get(disk, "parent");
		if (json_object_set(plan->chain, json_string_value(json_object_get(disk, "path")), parent))
			return -ENOMEM;
		if (!json_object_get(plan->chain, json_string_value(parent)) &&
		    json_object_set_new(plan->chain, json_string_value(parent), json_string("")))
			return -ENOMEM;
	}
	return 0;
}

static int plan_state(struct copy_plan *plan, json_t *checkpoint)
{
	const char *state = json_string_value(json_object_get(checkpoint, "state"));
	json_t *to, *same;
	int r;

	if (!state)
		return 0;
	same = planned(plan, state, false, false);
	if (same)
		return json_object_set(checkpoint, "state", same) ? -ENOMEM : 0;
	to = new_name(plan, state, true);
	r = to ? copy_plan_file(plan, state, json_string_value(to)) : -ENOMEM;
	return json_object_set_new(checkpoint, "state", to) ? -ENOMEM : r;
}

static int plan_tree(struct copy_plan *plan)
{
	json_t *entry;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(plan->tree, "disks"), i, entry) {
		if (!r)
			r = plan_path(plan, entry, "path", true);
		if (!r)
			r = plan_path(plan, entry, "parent", true);
	}
	json_array_foreach(json_object_get(plan->tree, "checkpoints"), i, entry) {
		size_t count = json_array_size(plan->files);

		if (!r)
			r = plan_config(plan, json_object_get(entry, "config"));
		if (!r)
			r = plan_state(plan, entry);
		if (!r)
			r = note_checkpoint(plan, count, entry);
	}
	return r;
}

struct copy_plan *copy_plan_new(enum copy_kind kind, json_t *config, json_t *tree, const char *source, const char *directory)
{
	struct copy_plan *plan = calloc(1, sizeof(*plan));

	if (!plan) {
		json_decref(config);
		json_decref(tree);
		return NULL;
	}
	plan->kind = kind;
	plan->config = config;
	plan->tree = tree;
	plan->before = json_deep_copy(config);
	plan->chain = json_object();
	plan->files = json_array();
	plan->by_from = json_object();
	plan->by_to = json_object();
	plan->source = strdup(source);
	plan->directory = strdup(directory);
	if (plan->before && plan->chain && plan->files && plan->by_from && plan->by_to && plan->source && plan->directory && !note_chain(plan) && !plan_config(plan, config) &&
	    !plan_tree(plan))
		return plan;
	copy_plan_free(plan);
	return NULL;
}

void copy_plan_free(struct copy_plan *plan)
{
	if (!plan)
		return;
	json_decref(plan->config);
	json_decref(plan->tree);
	json_decref(plan->before);
	json_decref(plan->chain);
	json_decref(plan->by_from);
	json_decref(plan->by_to);
	json_decref(plan->files);
	free(plan->source);
	free(plan->directory);
	free(plan);
}

int copy_plan_file(struct copy_plan *plan, const char *from, const char *to)
{
	plan->saved |= !strcmp(to, SAVED_FILE);
	return plan_file(plan, json_pack("{s:s, s:s, s:b, s:b}", "from", from, "to", to, "flatten", 0, "disk", 0));
}

int copy_plan_state(struct copy_plan *plan, const char *state)
{
	_cleanup_free_ char *disks = vm_config_path(SAVED_DISKS, plan->source);
	struct stat st;
	int r = disks ? copy_plan_file(plan, state, SAVED_FILE) : -ENOMEM;

	/* What it is that lies there is looked at when it is copied. */
	return r || strcmp(state, SAVED_FILE) || lstat(disks, &st) ? r : copy_plan_file(plan, SAVED_DISKS, SAVED_DISKS);
}

/* --- carrying it out ---------------------------------------------------------------------------------- */

/* One file's part of the whole. */
struct part {
	struct copy_plan *plan;
	uint64_t bytes;
};

static bool step(void *context, uint64_t done, uint64_t total)
{
	const struct part *part = context;
	double share = total ? (double)done / (double)total : 1;

	return job_step(part->plan->job, part->plan->done + (uint64_t)(share * (double)part->bytes), part->plan->bytes);
}

static int open_source(const struct copy_plan *plan, int source, const char *from, struct error *err)
{
	int fd = *from == '/' ? file_open_plain(from, false, err) : file_open_below(source, from, err);

	return fd < 0 && *from != '/' ? error_prefix(err, "%s", plan->source) : fd;
}

static int missing(const json_t *file, struct error *err)
{
	const char *of = json_string_value(json_object_get(file, "of"));

	return of ? error_prefix(err, "checkpoint \"%s\" needs a file: bring it back, or delete that checkpoint", of) : -err->code;
}

/* How much there is to copy, for progress; what is missing is told before anything is made. */
static int measure(struct copy_plan *plan, int source, struct error *err)
{
	json_t *file;
	size_t i;

	json_array_foreach(plan->files, i, file) {
		_cleanup_close_ int fd = open_source(plan, source, json_string_value(json_object_get(file, "from")), err);
		struct stat st;

		if (fd < 0)
			return missing(file, err);
		if (fstat(fd, &st))
			return error_set(err, errno, "%s", strerror(errno));
		json_object_set_new(file, "bytes", json_integer((json_int_t)st.st_blocks * 512 + 1));
		plan->bytes += (uint64_t)st.st_blocks * 512 + 1;
	}
	return 0;
}

static int flatten(const struct copy_plan *plan, const char *from, const char *to, const struct disk_progress *progress,
    struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *source = vm_config_path(from, plan->source), *target = vm_config_path(to, plan->directory);
	struct disk_create_options options = {0};
	struct disk_info info;
	struct disk *disk;
	int r;

	if (!source || !target)
		return error_set(err, ENOMEM, "no memory");
	r = disk_open(&disk, source, &reading, err);
	if (r)
		return r;
	disk_get_info(disk, &info);
	disk_close(disk, NULL);
	options.format = info.format;
	if (plan->kind == COPY_LINK && info.format == DISK_FORMAT_RAW)
		return error_set(err, ENOTSUP, "%s: a raw disk cannot be continued by another", source);
	if (plan->kind == COPY_LINK) {
		options.parent = source;
		return disk_create(target, &options, err);
	}
	options.fixed = info.format != DISK_FORMAT_RAW && !info.dynamic;
	return disk_convert(source, &reading, target, &options, progress, err);
}

/* Whether the copy is to be whole in itself, where the file's bytes are not: it continues another disk, whose contents
 * may change or go. Of the tree only the lowest is asked. Nothing that an import finds is opened where it lies. */
static int has_parent(const struct copy_plan *plan, const json_t *file, bool *has, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *path = vm_config_path(json_string_value(json_object_get(file, "from")), plan->source);
	struct disk *disk;
	int r;

	*has = false;
	if (plan->kind == COPY_IMPORT || !json_is_true(json_object_get(file, "disk")) || json_is_true(json_object_get(file, "linked")))
		return 0;
	r = path ? disk_open(&disk, path, &reading, err) : error_set(err, ENOMEM, "no memory");
	if (r)
		return r;
	*has = disk_parent(disk) != NULL;
	disk_close(disk, NULL);
	return 0;
}

/* What was imported may continue no disk but one of its tree, which it is told next: it would be looked for wherever its maker
 * wanted. */
static int check_whole(int target, const json_t *file, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	const char *to = json_string_value(json_object_get(file, "to"));
	struct disk *disk;
	int fd, r;

	if (!json_is_true(json_object_get(file, "disk")) || json_is_true(json_object_get(file, "linked")))
		return 0;
	fd = file_open_below(target, to, err);
	if (fd < 0)
		return fd;
	r = disk_open_fd(&disk, fd, to, &reading, err);
	if (!r)
		disk_close(disk, NULL);
	if (r && r != -EBADMSG && r != -ENODATA)
		return error_prefix(err, "%s cannot be imported as it is", to);
	/* Damage of a whole one is told when it is used. */
	*err = (struct error){0};
	return 0;
}

static int copy_one(struct copy_plan *plan, int source, int target, json_t *file, struct error *err)
{
	const char *from = json_string_value(json_object_get(file, "from")), *to = json_string_value(json_object_get(file, "to"));
	struct part part = {plan, (uint64_t)json_integer_value(json_object_get(file, "bytes"))};
	struct disk_progress progress = {step, &part};
	bool flat = json_is_true(json_object_get(file, "flatten"));
	int r = flat ? 0 : has_parent(plan, file, &flat, err);

	if (!r && flat) {
		json_object_set_new(file, "flatten", json_true());
		r = file_make_parents(target, to, err);
		if (!r)
			r = flatten(plan, from, to, &progress, err);
	} else if (!r) {
		_cleanup_close_ int fd = open_source(plan, source, from, err);

		r = fd < 0 ? fd : file_make_parents(target, to, err);
		if (!r)
			r = file_copy(fd, target, to, &progress, err);
		if (!r && plan->kind == COPY_IMPORT)
			r = check_whole(target, file, err);
	}
	plan->done += part.bytes;
	return r;
}

/* Whether the copy named `to` has another identity than what it is of: it was made anew. Then so has what continues it. */
static bool is_new(const struct copy_plan *plan, const char *to)
{
	return json_is_true(json_object_get(json_object_get(plan->by_to, to), "flatten"));
}

/* From the lowest up, so that each is opened over a chain that is right already, and by no name that it has itself. */
static int link_disk(struct copy_plan *plan, const json_t *disk, json_t *new, struct error *err)
{
	const char *path = json_string_value(json_object_get(disk, "path")), *parent = json_string_value(json_object_get(disk, "parent"));
	_cleanup_free_ char *child = vm_config_path(path, plan->directory), *below = vm_config_path(parent, plan->directory);
	bool changed = is_new(plan, parent) || json_object_get(new, parent);

	if (!child || !below || (changed && json_object_set_new(new, path, json_true())))
		return error_set(err, ENOMEM, "no memory");
	return disk_reparent(child, below, changed, err);
}

static int link_disks(struct copy_plan *plan, struct error *err)
{
	json_t *disks = json_object_get(plan->tree, "disks"), *left = json_copy(disks), *new = json_object(), *waiting = json_object();
	size_t before, count = json_array_size(left);
	int r = left && new && waiting ? 0 : error_set(err, ENOMEM, "no memory");

	for (size_t i = 0; i < count && !r; i++)
		if (json_object_set_new(waiting, json_string_value(json_object_get(json_array_get(left, i), "path")), json_true()))
			r = error_set(err, ENOMEM, "no memory");

	do {
		before = count;
		for (size_t i = 0; i < json_array_size(left) && !r;) {
			json_t *disk = json_array_get(left, i);

			if (json_object_get(waiting, json_string_value(json_object_get(disk, "parent")))) {
				i++;
				continue;
			}
			r = plan->job->stop ? error_set(err, ECANCELED, "copying was stopped, as was asked")
					    : link_disk(plan, disk, new, err);
			json_object_del(waiting, json_string_value(json_object_get(disk, "path")));
			json_array_remove(left, i);
		}
		count = json_array_size(left);
	} while (!r && count && count < before);
	if (!r && count)
		r = error_set(err, ELOOP, "%s/" TREE_FILE ": disks continue each other in a ring", plan->source);
	json_decref(left);
	json_decref(new);
	json_decref(waiting);
	return r;
}

/* What others continue is not to be written any more, and shows it. */
static void protect(int target, const json_t *tree)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		const char *name = json_string_value(json_object_get(disk, "parent"));

		if (fchmodat(target, name, 0440, 0))
			log_write(LOG_LEVEL_WARNING, "%s: %s", name, strerror(errno));
	}
}

static int copy_tree(struct copy_plan *plan, int target, struct error *err)
{
	int r;

	if (!plan->tree)
		return 0;
	r = link_disks(plan, err);
	if (r)
		return r;
	protect(target, plan->tree);
	r = form_check(&tree_form, plan->tree, err);
	return r ? r : tree_save(plan->tree, plan->directory, err);
}

/* Whether a worker has the machine, here or at another host of the storage: its disks are of no one moment then. */
static int check_not_running(const struct copy_plan *plan, int source, struct error *err)
{
	_cleanup_close_ int fd = plan->kind == COPY_IMPORT ? file_open_below(source, "worker.lock", NULL) : -1;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fd < 0 || fcntl(fd, F_OFD_GETLK, &lock) || lock.l_type == F_UNLCK)
		return 0;
	return error_set(err, EBUSY, "the machine in %s runs: turn it off or save it first", plan->source);
}

int copy_carry_out(struct copy_plan *plan, struct job *job, struct error *err)
{
	_cleanup_close_ int source = open(plan->source, O_RDONLY | O_DIRECTORY | O_CLOEXEC), target = -1;
	_cleanup_free_ char *above = NULL;
	json_t *file;
	bool fits;
	size_t i;
	int r;

	plan->job = job;
	if (source < 0)
		return error_set(err, errno, "%s: %s", plan->source, strerror(errno));
	if (asprintf(&above, "%s/..", plan->directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = check_not_running(plan, source, err);
	if (!r)
		r = measure(plan, source, err);
	if (r)
		return r;
	target = directory_new(plan->directory, err);
	if (target < 0)
		return target;
	plan->made = true;
	fits = plan->kind != COPY_EXPORT || !saved_disks_check(plan->before, plan->source, NULL);
	json_array_foreach(plan->files, i, file) {
		r = copy_one(plan, source, target, file, err);
		if (r)
			return r;
	}
	/* It may have been started since. */
	r = check_not_running(plan, source, err);
	if (r)
		return r;
	/* Of what somebody else has made the copies are looked at, which have its times. */
	if (plan->kind == COPY_IMPORT)
		fits = !saved_disks_check(plan->config, plan->directory, NULL);
	r = copy_tree(plan, target, err);
	if (!r && plan->saved && fits)
		r = saved_disks_note(plan->config, plan->directory, err);
	if (!r)
		r = form_check(&vm_config_form, plan->config, err);
	if (!r)
		r = vm_config_save(plan->config, plan->directory, err);
	return r ? r : directory_sync(above, err);
}
