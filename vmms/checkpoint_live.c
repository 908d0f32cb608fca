/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * checkpoint_live.c - a checkpoint of a running machine: its worker saves its state and splits its disks in one pause.
 *
 * The worker can make no file: it is given the new ones, open and empty. Whether a disk was split its new file says itself
 * (disk_is_void()), and so does the worker, by the name that it has for the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "disk/disk.h"
#include "vmms/checkpoint_change.h"
#include "vmms/files.h"

#define ASK_SECONDS 1u

static const char *text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static bool is_at_it(const struct machine *machine)
{
	return machine->link && machine->job && !strcmp(machine->job->kind, "checkpoint.create");
}

/* --- the files ---------------------------------------------------------------------------------------- */

static int make_file(struct change *change, const char *name, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(name, change->directory);
	int fd = path ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640) : -1;

	if (fd < 0)
		return error_set(err, path ? errno : ENOMEM, "%s cannot be made: %s", name, strerror(path ? errno : ENOMEM));
	change->fds[change->fd_count++] = fd;
	return 0;
}

static int make_files(struct job *job, struct error *err)
{
	struct change *change = job->context;
	int r = make_file(change, change->state, err);
	json_t *made;
	size_t i;

	json_array_foreach(change->made, i, made)
		if (!r)
			r = make_file(change, text(made, "path"), err);
	return r ? r : directory_sync(change->directory, err);
}

/* --- the worker --------------------------------------------------------------------------------------- */

static void failed(struct machine *machine, struct change *change, const struct error *err)
{
	struct error why = *err, undoing = {0};
	json_t *plan = NULL;

	if (machine->job->stop)
		why.code = ECANCELED;
	else if (strstr(err->text, strerror(ENOSPC)))
		why.code = ENOSPC;
	if (!store_work_get(machine->vmms->store, machine->id, &plan, &undoing) && plan)
		checkpoint_live_recover(machine, plan, &undoing);
	if (undoing.code)
		vmms_event(machine->vmms, machine, "vm.failed", "%s", undoing.text);
	json_decref(plan);
	change_end(machine->job, &why);
}

struct asked {
	struct machine *machine;
	struct change *change;
};

/* False: the job is over already, with the machine, and what is left is recovered when it starts; or the worker did not
 * answer, and is asked again. */
static bool take(void *context, struct asked *asked, const struct error *err)
{
	*asked = *(struct asked *)context;
	free(context);
	if (is_at_it(asked->machine) && !(err && err->code == ECONNRESET))
		return true;
	if (is_at_it(asked->machine)) {
		asked->machine->untold = true;
		change_end(asked->machine->job, err);
	} else {
		change_free(asked->change);
	}
	return false;
}

static void done(void *context, const json_t *answer, const struct error *err)
{
	struct error why = {0};
	struct asked a;

	(void)answer;
	if (!take(context, &a, err))
		return;
	if (err) {
		failed(a.machine, a.change, err);
		return;
	}
	change_commit(a.machine, a.change, &why);
	change_end(a.machine->job, why.code ? &why : NULL);
}

static void progress_told(void *context, const json_t *answer, const struct error *err)
{
	const json_t *progress = json_object_get(answer, "progress");
	struct machine *machine = context;

	(void)err;
	if (is_at_it(machine) && progress)
		job_step(machine->job, (uint64_t)json_integer_value(json_object_get(progress, "done")),
			 (uint64_t)json_integer_value(json_object_get(progress, "total")));
}

static void ask(struct job *job)
{
	if (!job->machine->link)
		return;
	worker_link_command(job->machine->link, json_pack("{s:s}", "command", job->stop ? "cancel" : "status"), progress_told,
			    job->machine);
	job_limit(job, ASK_SECONDS, ask);
}

/* Where the worker has each disk that is to be split. */
static int find_addresses(const struct machine *machine, struct change *change, const json_t *status, struct error *err)
{
	json_t *made, *disk;
	size_t i, j;

	json_array_foreach(change->made, i, made) {
		_cleanup_free_ char *path = vm_config_path(text(made, "path"), machine->directory);
		_cleanup_free_ char *parent = vm_config_path(text(made, "parent"), machine->directory);
		bool found = false;

		json_array_foreach(json_object_get(status, "disks"), j, disk) {
			if (!path || !parent || !text(disk, "path") || strcmp(text(disk, "path"), parent))
				continue;
			found = !json_array_append_new(
			    change->split,
			    json_pack("{s:o, s:s, s:s}", "address",
				      json_sprintf("%lld:%lld", (long long)json_integer_value(json_object_get(disk, "controller")),
						   (long long)json_integer_value(json_object_get(disk, "lun"))),
				      "path", path, "parent", parent));
			break;
		}
		if (!found)
			return error_set(err, ENOENT, "the running machine has no disk %s", text(made, "parent"));
	}
	return 0;
}

static void places_told(void *context, const json_t *answer, const struct error *err)
{
	struct error why = {0};
	struct asked a, *again;
	struct job *job;
	json_t *command;
	size_t count;

	if (!take(context, &a, err))
		return;
	again = malloc(sizeof(*again));
	if (!again)
		error_set(&why, ENOMEM, "no memory");
	else if (err)
		why = *err;
	else
		find_addresses(a.machine, a.change, answer, &why);
	if (why.code) {
		free(again);
		failed(a.machine, a.change, &why);
		return;
	}
	*again = a;
	job = a.machine->job;
	count = a.change->fd_count;
	a.change->fd_count = 0;
	command = json_pack("{s:s, s:b, s:O}", "command", "checkpoint", "fd", 1, "disks", a.change->split);
	job_limit(job, ASK_SECONDS, ask);
	worker_link_command_fds(a.machine->link, command, a.change->fds, count, true, done, again);
}

static void files_made(struct job *job, int result)
{
	struct change *change = job->context;
	struct machine *machine = job->machine;
	struct asked *asked = malloc(sizeof(*asked));
	struct error err = job->error;

	if (!result && (!machine->link || !asked))
		result = error_set(&err, EIO, "the machine went off meanwhile");
	if (result) {
		free(asked);
		failed(machine, change, &err);
		return;
	}
	*asked = (struct asked){machine, change};
	worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), places_told, asked);
}

int checkpoint_live_begin(struct machine *machine, struct change *change, struct job **job, struct error *err)
{
	json_t *plan = NULL;
	int r = 0;

	change->split = json_array();
	if (asprintf(&change->state, "checkpoint-%.8s.state", text(change->checkpoint, "id")) < 0)
		change->state = NULL;
	if (json_array_size(change->made) + 1 > WORKER_FDS_MAX)
		r = error_set(err, ENOTSUP, "machine \"%s\" has more disks than can be split at once while it runs", machine->name);
	else if (!change->split || !change->state ||
		 json_object_set_new(change->checkpoint, "state", json_string(change->state)))
		r = error_set(err, ENOMEM, "no memory");
	if (!r)
		r = job_new(job, machine->vmms, machine, "checkpoint.create", err);
	if (!r)
		plan = json_pack("{s:s, s:O, s:O, s:O, s:s}", "kind", "checkpoint-live", "made", change->made, "tree", change->tree,
				 "config", change->config, "state", change->state);
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
	(*job)->work = make_files;
	(*job)->done = files_made;
	(*job)->context = change;
	job_work(*job);
	return 0;
}

/* --- after a death ------------------------------------------------------------------------------------ */

static json_t *names_of(const json_t *plan)
{
	json_t *names = json_array(), *made;
	size_t i;

	json_array_foreach(json_object_get(plan, "made"), i, made)
		json_array_append(names, json_object_get(made, "path"));
	json_array_append(names, json_object_get(plan, "state"));
	return names;
}

static bool was_split(const struct machine *machine, const json_t *made)
{
	_cleanup_free_ char *path = vm_config_path(text(made, "path"), machine->directory);

	return path && disk_is_void(path, NULL) == 0;
}

/* Some of the disks were split, and others not: no checkpoint, but each disk is the file that has its contents. */
static int keep_some(struct machine *machine, const json_t *plan, json_t *names, struct error *err)
{
	json_t *config = json_deep_copy(machine->config), *tree = NULL, *made, *disk;
	size_t i, j;
	int r = tree_load(&tree, machine->directory, err);

	json_array_foreach(json_object_get(plan, "made"), i, made) {
		if (r || !was_split(machine, made))
			continue;
		tree_set_parent(tree, text(made, "path"), text(made, "parent"));
		json_array_foreach(json_object_get(config, "disks"), j, disk)
			if (!strcmp(tree_path(disk), text(made, "parent")))
				json_object_set(disk, "path", json_object_get(made, "path"));
		for (j = json_array_size(names); j-- > 0;)
			if (json_equal(json_array_get(names, j), json_object_get(made, "path")))
				json_array_remove(names, j);
	}
	if (!r)
		r = change_write(machine, tree, config, names, NULL, err);
	json_decref(config);
	json_decref(tree);
	return r;
}

int checkpoint_live_recover(struct machine *machine, const json_t *plan, struct error *err)
{
	json_t *names = names_of(plan), *made;
	size_t i, split = 0, count = json_array_size(json_object_get(plan, "made"));
	int r;

	json_array_foreach(json_object_get(plan, "made"), i, made)
		split += was_split(machine, made);
	if (count && split == count)
		r = change_write(machine, json_object_get(plan, "tree"), json_object_get(plan, "config"), NULL, NULL, err);
	else
		r = keep_some(machine, plan, names, err);
	json_decref(names);
	return r;
}

bool checkpoint_settle(struct machine *machine, const json_t *status)
{
	struct error err = {0};
	json_t *plan = NULL;
	const char *kind;
	bool later;

	if (!machine->job && checkpoint_end_pending(machine, &err)) {
		machine_tell_unsettled(machine, &err);
		return true;
	}
	if (store_work_get(machine->vmms->store, machine->id, &plan, &err) || !plan) {
		machine->unsettled = (struct error){0};
		return false;
	}
	/* The worker, or a job of ours, is still at it. */
	later = machine->job || json_object_get(status, "progress") || json_object_get(status, "merging");
	kind = text(plan, "kind");
	if (later || !kind) {
		json_decref(plan);
		return later;
	}
	if (!strcmp(kind, "checkpoint-written"))
		change_write(machine, json_object_get(plan, "tree"), json_object_get(plan, "config"),
			     json_object_get(plan, "remove"), text(plan, "link"), &err);
	else if (!strcmp(kind, "checkpoint-live"))
		checkpoint_live_recover(machine, plan, &err);
	else if (!strcmp(kind, "checkpoint-merge"))
		merge_recover(machine, plan, &err);
	machine_tell_unsettled(machine, &err);
	json_decref(plan);
	/* What could not be written is tried again; a job that was begun ends by itself. */
	return !machine->job && checkpoint_check_settled(machine, NULL);
}

int checkpoint_check_settled(const struct machine *machine, struct error *err)
{
	json_t *plan = NULL;
	int r = store_work_get(machine->vmms->store, machine->id, &plan, err);

	if (!r && (plan || pending_is_there(machine->directory)))
		r = error_set(err, EBUSY, "a change of machine \"%s\" that was begun by the daemon before this one is not at its end yet",
			      machine->name);
	json_decref(plan);
	return r;
}
