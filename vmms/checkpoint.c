/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/checkpoint_change.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "disk/disk.h"
#include "vmms/adapters.h"
#include "vmms/automatic.h"
#include "vmms/files.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"

static int check_name(const char *name, struct error *err)
{
	return vm_name_check(name, err);
}

static const struct form form_name = {
    .kind = FORM_STRING, .text = "no other checkpoint of the machine has it", .min = 1, .max = 100, .check = check_name};
const struct form checkpoint_create_form = {
    .kind = FORM_OBJECT, .fields = (const struct form_field[]){{"name", &form_name, NULL, false}, {0}}};
const struct form checkpoint_change_form = {
    .kind = FORM_OBJECT, .fields = (const struct form_field[]){{"name", &form_name, NULL, true}, {0}}};

void change_free(struct change *change)
{
	if (!change)
		return;
	for (size_t i = 0; i < change->fd_count; i++)
		close(change->fds[i]);
	json_decref(change->tree);
	json_decref(change->config);
	json_decref(change->made);
	json_decref(change->remove);
	json_decref(change->split);
	free(change->directory);
	free(change->child);
	free(change->parent);
	free(change->above);
	free(change->top);
	free(change->name);
	free(change->state);
	free(change);
}

int change_new(struct change **out, const struct machine *machine, const char *event, struct error *err)
{
	struct change *change = calloc(1, sizeof(*change));
	int r;

	if (!change)
		return error_set(err, ENOMEM, "no memory");
	r = tree_load(&change->tree, machine->directory, err);
	change->config = json_deep_copy(machine->config);
	change->made = json_array();
	change->remove = json_array();
	change->directory = strdup(machine->directory);
	change->event = event;
	if (!r && (!change->config || !change->made || !change->remove || !change->directory))
		r = error_set(err, ENOMEM, "no memory");
	if (r)
		change_free(change);
	else
		*out = change;
	return r;
}

static const char *text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* With the record of changes that a disk may have beside it. */
static void remove_disk(int directory, const char *name)
{
	_cleanup_free_ char *record = NULL;

	if (asprintf(&record, "%s.cbt", name) > 0)
		file_remove_below(directory, record);
	file_remove_below(directory, name);
}

void change_remove_files(const char *directory, const json_t *names)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		if (fd >= 0 && name_is_inside(json_string_value(name)))
			remove_disk(fd, json_string_value(name));
}

json_t *change_made_names(const struct change *change)
{
	json_t *names = json_array(), *made;
	size_t i;

	json_array_foreach(change->made, i, made)
		json_array_append(names, json_object_get(made, "path"));
	return names;
}

/* --- the steps ---------------------------------------------------------------------------------------- */

void change_end(struct job *job, const struct error *err)
{
	struct change *change = job->context;
	struct machine *machine = job->machine;
	struct error noting = {0};

	if (!err)
		vmms_event(job->vmms, machine, change->event, "%s", change->name ? change->name : "");
	if (change->disks_fit && saved_exists(machine) && saved_disks_note(machine->config, machine->directory, &noting))
		log_write(LOG_LEVEL_WARNING, "machine \"%s\": %s", machine->name, noting.text);
	/* What is done and could not be written down is written when the machine is looked at next, and its worker has told what it has. */
	if (err && machine->link && checkpoint_check_settled(machine, NULL))
		machine->untold = true;
	job_end(job, err);
	change_free(change);
	machine_refresh(machine);
	/* What was in the way of that is over; what failed would fail again. */
	if (!err && machine->temporary)
		checkpoint_drop_temporary(machine);
}

static int make_disks(struct job *job, struct error *err)
{
	const struct change *change = job->context;
	json_t *made;
	size_t i;

	json_array_foreach(change->made, i, made) {
		_cleanup_free_ char *path = vm_config_path(text(made, "path"), change->directory);
		_cleanup_free_ char *parent = vm_config_path(text(made, "parent"), change->directory);
		struct disk_open_options reading = {.read_only = true};
		struct disk_create_options options = {.parent = parent};
		struct disk_info info;
		struct disk *disk;
		int r = path && parent ? disk_open(&disk, parent, &reading, err) : error_set(err, ENOMEM, "no memory");

		if (r)
			return r;
		disk_get_info(disk, &info);
		disk_close(disk, NULL);
		options.format = info.format;
		if (info.format == DISK_FORMAT_RAW)
			return error_set(err, ENOTSUP, "%s: a raw disk can have no checkpoints: convert it to VHDX by bulkhead "
					 "disk convert", parent);
		r = disk_create(path, &options, err);
		if (r)
			return r;
		/* Nobody is to write it any more; the daemon knows, others see it by its mode. */
		if (name_is_inside(text(made, "parent")))
			chmod(parent, 0440);
	}
	return directory_sync(change->directory, err);
}

static void disks_made(struct job *job, int result)
{
	struct change *change = job->context;
	struct machine *machine = job->machine;
	struct error err = job->error;

	if (result) {
		json_t *names = change_made_names(change);

		change_remove_files(machine->directory, names);
		json_decref(names);
		store_work_set(machine->vmms->store, machine->id, NULL, NULL);
		change_end(job, &err);
		return;
	}
	if (change_commit(machine, change, &err))
		change_end(job, &err);
	else
		merge_go_on(job);
}

static int begin(struct machine *machine, struct change *change, const char *kind, struct job **job, struct error *err)
{
	json_t *plan = json_pack("{s:s, s:o}", "kind", "checkpoint", "made", change_made_names(change));
	int r = job_new(job, machine->vmms, machine, kind, err);

	if (!r && (!plan || store_work_set(machine->vmms->store, machine->id, plan, err))) {
		if (!plan)
			error_set(err, ENOMEM, "no memory");
		job_end(*job, err);
		r = -err->code;
	}
	json_decref(plan);
	if (r) {
		change_free(change);
		return r;
	}
	(*job)->work = make_disks;
	(*job)->done = disks_made;
	(*job)->context = change;
	job_work(*job);
	return 0;
}

/* --- the verbs ---------------------------------------------------------------------------------------- */

static int check(struct machine *machine, unsigned states, const char *what, struct error *err)
{
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, states, what, err);
	if (!r)
		r = machine_check_free(machine, err);
	return r ? r : checkpoint_check_start(machine, err);
}

static bool runs(const struct machine *machine)
{
	return machine->state == MACHINE_RUNNING || machine->state == MACHINE_PAUSED;
}

static int check_running(struct machine *machine, struct error *err)
{
	int r = machine_check_free(machine, err);

	machine_refresh(machine);
	return r ? r : checkpoint_check_settled(machine, err);
}

/* A saved state knows its disks by their identifiers, which stay in whatever file their contents are. */
static int check_merge(struct machine *machine, const char *what, struct error *err)
{
	return runs(machine) ? check_running(machine, err) : check(machine, 1u << MACHINE_OFF | 1u << MACHINE_SAVED, what, err);
}

/* What is done to a saved machine's disks from here on is our own doing. Should the daemon die in between, nothing is compared. */
static void take_disks(const struct machine *machine, struct change *change)
{
	change->disks_fit = saved_exists(machine) && !saved_disks_check(machine->config, machine->directory, NULL);
	if (change->disks_fit)
		saved_disks_forget(machine->directory);
}

static json_t *find(const struct change *change, const struct machine *machine, const char *which, struct error *err)
{
	json_t *checkpoint = tree_find(change->tree, which);

	if (!checkpoint)
		error_set(err, ENOENT, "machine \"%s\" has no checkpoint \"%.100s\": bulkhead checkpoint list shows them",
			  machine->name, which);
	return checkpoint;
}

/* "disk-1a2b3c4d.vhdx": of its first ancestor's name and of what it is made for. */
static json_t *child_name(const char *path, const char *id)
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *dot = strrchr(base, '.');
	size_t stem = dot ? (size_t)(dot - base) : strlen(base);

	if (stem > 9 && base[stem - 9] == '-' && strspn(base + stem - 8, "0123456789abcdef") >= 8)
		stem -= 9;
	return json_sprintf("%.*s-%.8s%s", (int)stem, base, id, dot ? dot : ".vhdx");
}

/* Each disk of the configuration continues on a new one. */
static int plan_children(struct change *change, json_t *config, struct error *err)
{
	char id[GUID_TEXT_SIZE];
	struct guid guid;
	json_t *disk;
	size_t i;

	guid_random(&guid);
	guid_format(&guid, id);
	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		json_t *name = tree_is_disk(disk) ? child_name(text(disk, "path"), id) : NULL;
		json_t *made = name ? json_pack("{s:o, s:O}", "path", name, "parent", json_object_get(disk, "path")) : NULL;

		if (!tree_is_disk(disk))
			continue;
		if (!made)
			return error_set(err, ENOMEM, "no memory");
		/* Two disks of one name in different places. */
		for (size_t j = 0; j < json_array_size(change->made); j++)
			if (!strcmp(text(json_array_get(change->made, j), "path"), json_string_value(name))) {
				name = json_sprintf("%zu-%s", i, json_string_value(name));
				json_object_set_new(made, "path", name);
				break;
			}
		tree_set_parent(change->tree, text(made, "path"), text(made, "parent"));
		json_array_append_new(change->made, made);
		json_object_set(disk, "path", json_object_get(made, "path"));
	}
	return 0;
}

static int plan_create(struct change *change, const json_t *body, struct error *err)
{
	json_t *list = json_object_get(change->tree, "checkpoints"), *checkpoint;
	const char *given = text(body, "name");
	char id[GUID_TEXT_SIZE], name[64];
	time_t seconds = vmms_now() / 1000;
	struct guid guid;
	struct tm parts;

	localtime_r(&seconds, &parts);
	strftime(name, sizeof(name), "%Y-%m-%d %H:%M:%S", &parts);
	if (tree_find(change->tree, given ? given : name))
		return error_set(err, EEXIST, "there is a checkpoint \"%s\" already: choose another name", given ? given : name);
	if (json_array_size(list) >= TREE_MAX)
		return error_set(err, EINVAL, "there are %d checkpoints: that is as many as there may be; delete one", TREE_MAX);
	guid_random(&guid);
	checkpoint = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", guid_format(&guid, id), "name", given ? given : name,
			       "created", (json_int_t)vmms_now(), "parent", tree_now(change->tree), "config",
			       json_deep_copy(change->config));
	if (!checkpoint || json_array_append_new(list, checkpoint))
		return error_set(err, ENOMEM, "no memory");
	json_object_set_new(change->tree, "now", json_string(id));
	change->name = strdup(given ? given : name);
	change->checkpoint = checkpoint;
	return plan_children(change, change->config, err);
}

static int begin_create(struct machine *machine, const json_t *body, bool temporary, struct job **job, struct error *err)
{
	struct change *change;
	bool live = runs(machine);
	int r = live ? check_running(machine, err) : check(machine, 1u << MACHINE_OFF, "given a checkpoint", err);

	if (!r)
		r = change_new(&change, machine, "checkpoint.created", err);
	if (r)
		return r;
	r = plan_create(change, body, err);
	if (!r && temporary && json_object_set_new(change->checkpoint, "temporary", json_true()))
		r = error_set(err, ENOMEM, "no memory");
	if (r) {
		change_free(change);
		return r;
	}
	if (live)
		return checkpoint_live_begin(machine, change, job, err);
	return begin(machine, change, "checkpoint.create", job, err);
}

int checkpoint_create(struct machine *machine, const json_t *body, struct job **job, struct error *err)
{
	return begin_create(machine, body, false, job, err);
}

int checkpoint_create_temporary(struct machine *machine, struct job **job, struct error *err)
{
	char id[GUID_TEXT_SIZE];
	struct guid guid;
	json_t *body;
	int r;

	guid_random(&guid);
	body = json_pack("{s:o}", "name", json_sprintf("export %.8s", guid_format(&guid, id)));
	r = body ? begin_create(machine, body, true, job, err) : error_set(err, ENOMEM, "no memory");
	json_decref(body);
	machine->temporary |= !r;
	return r;
}

struct job *checkpoint_drop_temporary(struct machine *machine)
{
	const json_t *checkpoint;
	struct error err = {0};
	struct job *job = NULL;
	bool told = machine->temporary;
	json_t *tree;
	size_t count;

	machine->temporary |= machine->job || machine->readers;
	if (machine->vmms->closing || machine->job || machine->readers || tree_load(&tree, machine->directory, &err))
		return NULL;
	checkpoint = tree_temporary(tree, &count);
	/* The end of this one's job tries the next. */
	machine->temporary = count > 1;
	if (checkpoint && checkpoint_delete(machine, text(checkpoint, "id"), &job, &err)) {
		log_write(told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "machine \"%s\": checkpoint \"%s\" cannot go yet: %s", machine->name,
			  text(checkpoint, "name"), err.text);
		machine->temporary = true;
		job = NULL;
	}
	if (job)
		job->yields = true;
	json_decref(tree);
	return job;
}

/* The configuration of the checkpoint, with what is the machine's own and no setting of it. */
static int plan_apply(struct change *change, const json_t *checkpoint, struct error *err)
{
	static const char *const kept[] = {"id", "name", "notes", "tags", "groups", "automatic"};
	json_t *config = json_deep_copy(json_object_get(checkpoint, "config")), *disk;
	size_t i;

	if (!config)
		return error_set(err, ENOMEM, "no memory");
	for (i = 0; i < ARRAY_SIZE(kept); i++)
		json_object_set(config, kept[i], json_object_get(change->config, kept[i]));
	/* The disks of now go, if they came with a checkpoint and no other has them, as one that is only read, or continues
	 * them. */
	json_array_foreach(json_object_get(change->config, "disks"), i, disk) {
		const char *path = tree_path(disk);

		if (tree_parent(change->tree, path) && !tree_children(change->tree, path, NULL) &&
		    !tree_uses(change->tree, config, path)) {
			json_array_append_new(change->remove, json_string(path));
			tree_forget(change->tree, path);
		}
	}
	json_decref(change->config);
	change->config = config;
	json_object_set(change->tree, "now", json_object_get(checkpoint, "id"));
	change->name = strdup(text(checkpoint, "name"));
	change->link = text(checkpoint, "state");
	return plan_children(change, config, err);
}

int checkpoint_apply(struct machine *machine, const char *which, struct job **job, struct error *err)
{
	struct change *change;
	json_t *checkpoint;
	int r = check(machine, 1u << MACHINE_OFF, "set back to a checkpoint", err);

	if (!r)
		r = change_new(&change, machine, "checkpoint.applied", err);
	if (r)
		return r;
	checkpoint = find(change, machine, which, err);
	r = checkpoint ? adapters_check(machine->vmms, machine, json_object_get(checkpoint, "config"), err) : -err->code;
	if (!r)
		r = plan_apply(change, checkpoint, err);
	if (r) {
		change_free(change);
		return r;
	}
	change->disks_fit = true;
	return begin(machine, change, "checkpoint.apply", job, err);
}

int checkpoint_delete(struct machine *machine, const char *which, struct job **job, struct error *err)
{
	struct change *change;
	json_t *checkpoint;
	int r = check_merge(machine, "relieved of a checkpoint", err);

	if (!r)
		r = machine_check_base(machine, err);
	if (!r)
		r = change_new(&change, machine, "checkpoint.deleted", err);
	if (r)
		return r;
	checkpoint = find(change, machine, which, err);
	r = checkpoint ? 0 : -err->code;
	if (!r) {
		change->name = strdup(text(checkpoint, "name"));
		if (text(checkpoint, "state"))
			json_array_append(change->remove, json_object_get(checkpoint, "state"));
		tree_remove(change->tree, text(checkpoint, "id"));
		r = job_new(job, machine->vmms, machine, "checkpoint.delete", err);
	}
	if (r) {
		change_free(change);
		return r;
	}
	(*job)->context = change;
	take_disks(machine, change);
	if (change_commit(machine, change, err))
		change_end(*job, err);
	else
		merge_go_on(*job);
	return 0;
}

int checkpoint_merge(struct machine *machine, struct job **job, struct error *err)
{
	struct change *change;
	int r = check_merge(machine, "relieved of what its checkpoints have left", err);

	if (!r)
		r = change_new(&change, machine, "checkpoint.merged", err);
	if (r)
		return r;
	r = job_new(job, machine->vmms, machine, "checkpoint.merge", err);
	if (r) {
		change_free(change);
		return r;
	}
	(*job)->context = change;
	take_disks(machine, change);
	merge_go_on(*job);
	return 0;
}

/* --- what was left ------------------------------------------------------------------------------------ */

/* A guest that runs would have no room any more for what it writes: nobody has asked for the merge now. */
static bool has_room(const struct machine *machine, const char *parent, const char *child)
{
	_cleanup_free_ char *to = vm_config_path(parent, machine->directory), *from = child ? vm_config_path(child, machine->directory) : NULL;
	struct statvfs there;
	struct stat st;

	return !machine->link || !from || !to || stat(from, &st) || statvfs(to, &there) ||
	       (uint64_t)there.f_bavail * there.f_frsize >= (uint64_t)st.st_blocks * 512 + ROOM_LEFT;
}

/* A linked clone continues what seems to be left. */
static bool has_left(const struct machine *machine)
{
	const char *path, *child;
	json_t *tree;
	bool has;

	if (machine_check_base(machine, NULL) || tree_load(&tree, machine->directory, NULL))
		return false;
	has = tree_loose(tree, machine->config, &path, &child) && has_room(machine, path, child);
	json_decref(tree);
	return has;
}

static void merge_later(struct machine *machine)
{
	machine->merge_waits = machine->vmms->merges_wait = true;
}

static bool is_free_to_merge(const struct machine *machine)
{
	return machine->phase == VM_READY && machine->config && !machine->job && !machine->readers && !machine->untold &&
	       (machine_is_off(machine) || runs(machine));
}

static void merge_left(struct machine *machine)
{
	struct error err = {0};
	struct job *job;

	machine->merge_waits = false;
	if (!has_left(machine))
		return;
	if (!checkpoint_merge(machine, &job, &err))
		job->yields = true;
	else if (err.code != EBUSY) /* what was half done is being ended first */
		log_write(LOG_LEVEL_WARNING, "machine \"%s\": %s", machine->name, err.text);
}

void checkpoint_take_up(struct vmms *vmms)
{
	bool some = false;

	/* What is left when the host's machines are stopped is merged when the daemon starts. */
	if (!vmms->merges_wait || vmms->closing || automatic_stopping(vmms))
		return;
	for (size_t i = 0; i < vmms->machine_count; i++) {
		struct machine *machine = vmms->machines[i];

		if (machine->merge_waits && is_free_to_merge(machine))
			merge_left(machine);
		some |= machine->merge_waits;
	}
	vmms->merges_wait = some;
}

/* Where a worker is at it that is told at once, not when it is asked next how far it is. */
void checkpoint_stop_job(struct job *job)
{
	job->stop = true;
	if (job->late && !job->ended)
		job_limit(job, 0, job->late);
}

bool checkpoint_make_way(struct machine *machine)
{
	if (!machine->job || !machine->job->yields)
		return false;
	checkpoint_stop_job(machine->job);
	merge_later(machine);
	return true;
}

/* One that ends what was half done, or deletes a checkpoint, merges all that is left. */
static bool merges(const struct job *job)
{
	return job && (!strcmp(job->kind, "checkpoint.merge") || !strcmp(job->kind, "checkpoint.delete"));
}

void checkpoint_end_left(struct machine *machine)
{
	checkpoint_drop_temporary(machine);
	if (!merges(machine->job))
		merge_later(machine);
}

void checkpoint_stopped(struct machine *machine)
{
	checkpoint_recover(machine);
	checkpoint_end_left(machine);
}

int checkpoint_rename(struct machine *machine, const char *which, const char *name, struct error *err)
{
	struct change *change;
	json_t *checkpoint;
	int r = machine_check_free(machine, err);

	/* What is half done has names of its own. */
	if (!r)
		r = machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
	if (!r)
		r = change_new(&change, machine, "", err);
	if (r)
		return r;
	checkpoint = find(change, machine, which, err);
	r = checkpoint ? 0 : -err->code;
	if (!r && tree_find(change->tree, name) && tree_find(change->tree, name) != checkpoint)
		r = error_set(err, EEXIST, "there is a checkpoint \"%s\" already: choose another name", name);
	if (!r && json_object_set_new(checkpoint, "name", json_string(name)))
		r = error_set(err, ENOMEM, "no memory");
	if (!r)
		r = tree_save(change->tree, machine->directory, err);
	change_free(change);
	return r;
}

static const struct form form_parent = {.kind = FORM_STRING, .text = "the id of the one that it comes from; empty: none", .max = 36};
static const struct form form_now = {.kind = FORM_BOOLEAN, .text = "the machine goes on from it"};
static const struct form form_has_state = {.kind = FORM_BOOLEAN, .text = "with what ran"};
const struct form checkpoint_form = {.kind = FORM_OBJECT,
				     .name = "Checkpoint",
				     .text = "what a machine was",
				     .fields = (const struct form_field[]){
					 {"id", &answer_id, NULL, true},
					 {"name", &answer_text, NULL, true},
					 {"created", &answer_moment, NULL, true},
					 {"parent", &form_parent, NULL, true},
					 {"now", &form_now, NULL, true},
					 {"state", &form_has_state, NULL, true},
					 {0},
				     }};

int checkpoint_list(struct machine *machine, json_t **list, struct error *err)
{
	json_t *tree, *checkpoint;
	size_t i;
	int r = tree_load(&tree, machine->directory, err);

	if (r)
		return r;
	*list = json_array();
	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		json_array_append_new(*list,
				      json_pack("{s:O, s:O, s:O, s:O, s:b, s:b}", "id", json_object_get(checkpoint, "id"), "name",
						json_object_get(checkpoint, "name"), "created",
						json_object_get(checkpoint, "created"), "parent",
						json_object_get(checkpoint, "parent"), "now",
						!strcmp(tree_now(tree), text(checkpoint, "id")), "state",
						text(checkpoint, "state") != NULL));
	json_decref(tree);
	return 0;
}

/* --- after a death ------------------------------------------------------------------------------------ */

static int recover(struct machine *machine, const json_t *plan, struct error *err)
{
	const char *kind = text(plan, "kind");

	if (!strcmp(kind, "checkpoint-merge"))
		return merge_recover(machine, plan, err);
	/* Of a daemon of an earlier version. */
	if (!strcmp(kind, "checkpoint-written"))
		return change_write(machine, json_object_get(plan, "tree"), json_object_get(plan, "config"),
				    json_object_get(plan, "remove"), text(plan, "link"), err);
	if (!strcmp(kind, "checkpoint-live"))
		return checkpoint_live_recover(machine, plan, err);
	if (!strcmp(kind, "checkpoint"))
		return change_remove_left(machine, json_object_get(plan, "made"), err);
	/* A disk that was being added or removed: vm.json says what is. */
	return store_work_set(machine->vmms->store, machine->id, NULL, err);
}

void checkpoint_recover(struct machine *machine)
{
	struct error err = {0};
	json_t *plan = NULL;

	if (machine->job || machine->link)
		return;
	if (checkpoint_end_pending(machine, &err)) {
		machine_tell_unsettled(machine, &err);
		return;
	}
	if (store_work_get(machine->vmms->store, machine->id, &plan, &err) || !plan)
		return;
	if (!text(plan, "kind") || !machine->config)
		error_set(&err, EBADMSG, "what is half done cannot be ended: %s",
			  machine->problem.code ? machine->problem.text : "host.db says nothing sensible of it");
	else
		recover(machine, plan, &err);
	if (err.code)
		vmms_event(machine->vmms, machine, "vm.failed", "%s", err.text);
	json_decref(plan);
}

static int check_disks(const json_t *tree, const json_t *had, const json_t *disks, struct error *err)
{
	json_t *disk, *other;
	size_t i, j;

	json_array_foreach(had, i, disk) {
		bool stays = !tree_parent(tree, tree_path(disk));

		json_array_foreach(disks, j, other)
			stays |= !strcmp(tree_path(other), tree_path(disk));
		if (!stays)
			return error_set(err, EALREADY, "disk %s continues one of a checkpoint, and is part of it: delete the machine's "
					 "checkpoints first", tree_path(disk));
	}
	json_array_foreach(disks, i, disk) {
		const char *path = text(disk, "path");

		if (tree_is_disk(disk) && (tree_children(tree, path, NULL) || tree_uses(tree, NULL, path)))
			return error_set(err, EALREADY, "disk %s is of a checkpoint, and may not be written any more", path);
	}
	return 0;
}

int checkpoint_check_disks(const struct machine *machine, const json_t *disks, struct error *err)
{
	json_t *tree;
	int r = tree_load(&tree, machine->directory, err);

	if (!r)
		r = check_disks(tree, json_object_get(machine->config, "disks"), disks, err);
	json_decref(tree);
	return r;
}

int checkpoint_check_start(struct machine *machine, struct error *err)
{
	json_t *plan = NULL;
	int r;

	checkpoint_recover(machine);
	r = machine_check_free(machine, err);
	if (!r)
		r = store_work_get(machine->vmms->store, machine->id, &plan, err);
	if (!r && (plan || pending_is_there(machine->directory)))
		r = error_set(err, EBUSY, "a change of machine \"%s\" is half done and cannot be ended: its events say why",
			      machine->name);
	json_decref(plan);
	return r;
}
