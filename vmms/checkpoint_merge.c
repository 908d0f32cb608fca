/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * checkpoint_merge.c - what no checkpoint and not the machine has any more is removed, or what continues it merged into it.
 *
 * Of the disks that a running machine has, its worker does that, which is given the files open. It removes none: whether one
 * was merged it says itself (disk_is_void()).
 *
 * The merged file goes last, when checkpoints.json and vm.json do not name it any more. So the directory alone tells at any moment
 * what is the disk, to another host, too, which does not know what this one was at: a file that was merged with nobody at it reads as before as
 * long as it is there, and for one that is void checkpoints.json has what its contents are in (tree_settle.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "disk/disk.h"
#include "vmms/checkpoint_change.h"
#include "vmms/files.h"

#define ASK_SECONDS 1u
#define ROOM_TAKEN  (UINT64_C(1) << 20)
#define DYING_MILLISECONDS 20
#define DYING_TRIES        250u

static const char *text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static bool begin_merge(struct job *job, struct error *err);

void merge_go_on(struct job *job)
{
	struct error err = {0};

	if (begin_merge(job, &err))
		return;
	change_end(job, err.code ? &err : NULL);
}

/* Disks that were continued are for reading only. `name` is as the tree has it: of the machine's own directory, with no
 * link on its way, or from the root on. What cannot be changed is told by whoever opens it for writing. */
static void allow_writing(const struct change *change, const char *name)
{
	_cleanup_close_ int directory = open(change->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;

	fd = *name == '/' ? file_open_plain(name, false, NULL) : directory < 0 ? -1 : file_open_below(directory, name, NULL);
	if (fd >= 0 && fchmod(fd, 0640))
		log_write(LOG_LEVEL_WARNING, "%s: %s", name, strerror(errno));
}

/* Whether what is written down has it, and it is a disk, or was one. */
static bool is_named(const struct change *change)
{
	return tree_uses(change->tree, change->config, change->child) || tree_parent(change->tree, change->child) ||
	       tree_children(change->tree, change->child, NULL);
}

/* Once more: nothing of it is left to write down. */
static int remove_child(struct job *job, struct error *err)
{
	const struct change *change = job->context;
	_cleanup_close_ int directory = open(change->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (directory < 0)
		return error_set(err, errno, "%s: %s", change->directory, strerror(errno));
	file_remove_below(directory, change->child);
	return fstatat(directory, change->child, &st, AT_SYMLINK_NOFOLLOW)
		   ? 0
		   : error_set(err, EIO, "%s/%s cannot be removed", change->directory, change->child);
}

/* --- on files that nobody has open -------------------------------------------------------------------- */

/* What else continues the merged file. The worker has done that of its own chain, and holds the file locked. */
static int reparent(const struct change *change, const char *parent, bool all, struct error *err)
{
	json_t *disk;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(change->tree, "disks"), i, disk) {
		_cleanup_free_ char *path = vm_config_path(text(disk, "path"), change->directory);

		if (r || strcmp(text(disk, "parent"), change->child) ||
		    (!all && change->above && !strcmp(text(disk, "path"), change->above)))
			continue;
		allow_writing(change, text(disk, "path"));
		r = path ? disk_reparent_merged(path, parent, err) : error_set(err, ENOMEM, "no memory");
	}
	return r;
}

static bool is_gone(const struct change *change, const char *name)
{
	_cleanup_free_ char *path = vm_config_path(name, change->directory);

	return path && access(path, F_OK) && errno == ENOENT;
}

/* --- while there is room */

static bool is_void(const struct change *change)
{
	_cleanup_free_ char *child = vm_config_path(change->child, change->directory);

	return child && disk_is_void(child, NULL) == 1;
}

struct merging {
	struct job *job;
	const char *parent;
	uint64_t room; /* when it began */
	bool full;
};

static uint64_t room_for(const char *path)
{
	struct statvfs there;

	return statvfs(path, &there) ? UINT64_MAX : (uint64_t)there.f_bavail * there.f_frsize;
}

/* What the merge takes has to leave enough that the machine can be started when the merge is put off. One that takes nothing, because its
 * parent has those blocks, goes on in whatever room there is. */
static bool step(void *context, uint64_t done, uint64_t total)
{
	struct merging *merging = context;
	uint64_t room = room_for(merging->parent);

	merging->full = room < ROOM_LEFT && room + ROOM_TAKEN < merging->room;
	return job_step(merging->job, done, total) && !merging->full;
}

/* A worker that was killed is gone when its keeper is; its machine's process may take a moment more, and has the disks locked until then. */
static int merge_when_free(struct job *job, const char *child, const struct disk_progress *progress, struct error *err)
{
	const struct timespec moment = {0, DYING_MILLISECONDS * 1000000l};
	int r = disk_merge_keep(child, progress, err);

	for (unsigned i = 0; r == -EBUSY && i < DYING_TRIES && !job->stop; i++) {
		nanosleep(&moment, NULL);
		*err = (struct error){0};
		r = disk_merge_keep(child, progress, err);
	}
	/* It goes on when what it made way for is done. */
	return r == -EBUSY && job->stop ? error_set(err, ECANCELED, "the merge of %s was stopped", child) : r;
}

/* What was merged already when a daemon died is gone, or void. */
static int merge(struct job *job, struct error *err)
{
	struct change *change = job->context;
	_cleanup_free_ char *child = vm_config_path(change->child, change->directory);
	_cleanup_free_ char *parent = vm_config_path(change->parent, change->directory);
	struct merging merging = {.job = job, .parent = parent};
	struct disk_progress progress = {step, &merging};
	int r = 0;

	if (!child || !parent)
		return error_set(err, ENOMEM, "no memory");
	/* It would be merged into what it really continues, and the tree would be wrong for good. */
	if (is_gone(change, change->parent))
		return error_set(err, ENOENT, "%s: the disk that %s continues is not there; bring it back, and try again", parent, change->child);
	allow_writing(change, change->parent);
	allow_writing(change, change->child);
	merging.room = room_for(parent);
	if (!is_gone(change, change->child) && !is_void(change))
		r = merge_when_free(job, child, &progress, err);
	if (r == -ECANCELED && merging.full)
		r = error_set(err, ENOSPC, "%s: no room to merge %s into it: %s", parent, change->child, strerror(ENOSPC));
	return r ? r : reparent(change, parent, true, err);
}

/* Until its file is gone, or void, the child is what it was, whatever the parent has got already: the machine can be started, and the
 * merge goes on when it is asked for, with the next change, or when the daemon starts. */
static void put_off(struct job *job, const struct error *err)
{
	const struct change *change = job->context;
	bool no_room = err->code == ENOSPC || err->code == EDQUOT;

	if ((!no_room && err->code != ECANCELED) || is_gone(change, change->child) || is_void(change) ||
	    store_work_set(job->vmms->store, job->machine->id, NULL, NULL))
		return;
	if (no_room)
		vmms_event(job->vmms, job->machine, "vm.warning",
			   "%s is not merged into %s yet: make room, then bulkhead checkpoint merge \"%s\"; until then both stay, and it "
			   "can be used (%s)", change->child, change->parent, job->machine->name, err->text);
}

static void child_removed(struct job *job, int result)
{
	struct error err = job->error;

	if (!result)
		result = store_work_set(job->vmms->store, job->machine->id, NULL, &err);
	if (result)
		change_end(job, &err);
	else
		merge_go_on(job);
}

static void begin_remove_child(struct job *job)
{
	job->work = remove_child;
	job->done = child_removed;
	job_work(job);
}

static void merged(struct job *job, int result)
{
	struct change *change = job->context;
	struct error err = job->error;

	if (result)
		put_off(job, &err);
	if (!result) {
		tree_merged(change->tree, change->config, change->child, change->parent);
		result = change_write_down(job->machine, change->tree, change->config, NULL, NULL, &err);
	}
	if (result) {
		change_end(job, &err);
		return;
	}
	begin_remove_child(job);
}

/* --- on disks of a running machine -------------------------------------------------------------------- */

/* Whether the file is of a disk that the machine of now has; then which, and what continues the file in it. */
static bool find_chain(struct change *change, const char *file)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(change->config, "disks"), i, disk) {
		const char *above = NULL, *path = text(disk, "path");
		size_t steps = 0;

		for (; tree_is_disk(disk) && path && steps <= TREE_MAX; steps++, path = tree_parent(change->tree, path)) {
			if (!strcmp(path, file)) {
				free(change->above);
				free(change->top);
				change->above = above ? strdup(above) : NULL;
				change->top = strdup(text(disk, "path"));
				return true;
			}
			above = path;
		}
	}
	return false;
}

static int open_file(struct change *change, const char *name, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(name, change->directory);
	struct stat st;
	int fd;

	if (!path)
		return error_set(err, ENOMEM, "no memory");
	allow_writing(change, name);
	fd = disk_file_open(path, O_RDWR | O_NOFOLLOW);
	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	change->fds[change->fd_count++] = fd;
	return fstat(fd, &st) || !S_ISREG(st.st_mode) ? error_set(err, EINVAL, "%s is no plain file", path) : 0;
}

/* In the order in which the worker expects them. */
static int open_files(struct job *job, struct error *err)
{
	struct change *change = job->context;
	int r = change->above ? open_file(change, change->child, err) : 0;

	if (!r)
		r = open_file(change, change->parent, err);
	if (!r && change->above)
		r = open_file(change, change->above, err);
	return r;
}

/* The worker has merged the file. */
static int reparent_others(struct job *job, struct error *err)
{
	struct change *change = job->context;
	_cleanup_free_ char *parent = vm_config_path(change->parent, change->directory);

	return parent ? reparent(change, parent, false, err) : error_set(err, ENOMEM, "no memory");
}

static void begin_remove_merged(struct job *job)
{
	job->work = reparent_others;
	job->done = merged;
	job_work(job);
}

struct asked {
	struct machine *machine;
	struct change *change;
};

static bool is_at_it(const struct machine *machine, const struct change *change)
{
	return machine->link && machine->job && machine->job->context == change;
}

/* It stays as it is, and is merged with the next change. */
static void failed(struct machine *machine, const struct error *err)
{
	struct error why = *err;

	if (machine->job->stop)
		why.code = ECANCELED;
	else if (strstr(err->text, strerror(ENOSPC)))
		why.code = ENOSPC;
	put_off(machine->job, &why);
	store_work_set(machine->vmms->store, machine->id, NULL, NULL);
	change_end(machine->job, &why);
}

/* False: the job is over already, with the machine, and the merge goes on before its next start; or the worker did not
 * answer, and is asked again. */
static bool take(void *context, struct asked *asked, const struct error *err)
{
	*asked = *(struct asked *)context;
	free(context);
	if (!is_at_it(asked->machine, asked->change)) {
		change_free(asked->change);
		return false;
	}
	if (!err || err->code != ECONNRESET)
		return true;
	asked->machine->untold = true;
	change_end(asked->machine->job, err);
	return false;
}

static void done(void *context, const json_t *answer, const struct error *err)
{
	struct asked a;

	(void)answer;
	if (!take(context, &a, err))
		return;
	if (!err || is_void(a.change))
		begin_remove_merged(a.machine->job);
	else
		failed(a.machine, err);
}

static void progress_told(void *context, const json_t *answer, const struct error *err)
{
	const json_t *progress = json_object_get(answer, "merging");
	struct machine *machine = context;

	(void)err;
	if (machine->job && !strncmp(machine->job->kind, "checkpoint.", 11) && progress)
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

static json_t *merge_command(const struct change *change, const json_t *status, struct error *err)
{
	_cleanup_free_ char *top = change->top ? vm_config_path(change->top, change->directory) : NULL; /* none: not of its chains */
	_cleanup_free_ char *parent = vm_config_path(change->parent, change->directory);
	_cleanup_free_ char *above = change->above ? vm_config_path(change->above, change->directory) : NULL;
	_cleanup_free_ char *real_parent = parent ? realpath(parent, NULL) : NULL;
	_cleanup_free_ char *real_above = above ? realpath(above, NULL) : NULL;
	json_t *disk, *command;
	size_t i;

	json_array_foreach(json_object_get(status, "disks"), i, disk) {
		if (!top || !text(disk, "path") || strcmp(text(disk, "path"), top))
			continue;
		command = json_pack("{s:s, s:o, s:b}", "command", "merge-disk", "address",
				    json_sprintf("%lld:%lld", (long long)json_integer_value(json_object_get(disk, "controller")),
						 (long long)json_integer_value(json_object_get(disk, "lun"))),
				    "parent", 1);
		if (command && change->above)
			json_object_update_new(command, json_pack("{s:b, s:b, s:s, s:s}", "child", 1, "above", 1, "above_path",
								  real_above, "parent_path", real_parent));
		if (!command)
			error_set(err, ENOMEM, "no memory");
		return command;
	}
	error_set(err, ENOENT, "the running machine has no disk %s", change->top ? change->top : change->child);
	return NULL;
}

static void places_told(void *context, const json_t *answer, const struct error *err)
{
	struct error why = {0};
	struct asked a, *again;
	json_t *command = NULL;
	size_t count;

	if (!take(context, &a, err))
		return;
	again = malloc(sizeof(*again));
	if (err)
		why = *err;
	else if (!again)
		error_set(&why, ENOMEM, "no memory");
	else if (a.machine->job->stop)
		error_set(&why, ECANCELED, "merging was stopped, as was asked");
	else
		command = merge_command(a.change, answer, &why);
	if (!command) {
		free(again);
		failed(a.machine, &why);
		return;
	}
	*again = a;
	count = a.change->fd_count;
	a.change->fd_count = 0;
	job_limit(a.machine->job, ASK_SECONDS, ask);
	worker_link_command_fds(a.machine->link, command, a.change->fds, count, true, done, again);
}

static void files_opened(struct job *job, int result)
{
	struct change *change = job->context;
	struct machine *machine = job->machine;
	struct asked *asked = malloc(sizeof(*asked));
	struct error err = job->error;

	if (!machine->link) {
		free(asked);
		error_set(&err, EIO, "the machine went off meanwhile");
		change_end(job, &err);
		return;
	}
	if (!result && !asked)
		result = error_set(&err, ENOMEM, "no memory");
	if (result) {
		free(asked);
		failed(machine, &err);
		return;
	}
	*asked = (struct asked){machine, change};
	worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), places_told, asked);
}

/* --- what is to be done ------------------------------------------------------------------------------- */

static void begin_work(struct job *job)
{
	struct change *change = job->context;

	/* It was merged, and that written down: it is only to go. What is in the parent since is not to be overwritten. */
	if (!is_named(change)) {
		begin_remove_child(job);
		return;
	}
	if (job->machine->link && change->live && (is_void(change) || is_gone(change, change->child))) {
		begin_remove_merged(job);
		return;
	}
	job->work = job->machine->link && change->live ? open_files : merge;
	job->done = job->work == merge ? merged : files_opened;
	job_work(job);
}

/* `child` is to be merged into `parent`, both of the tree. */
static int plan_merge(struct job *job, const char *child, const char *parent, struct error *err)
{
	struct change *change = job->context;
	json_t *plan;
	int r;

	free(change->child);
	free(change->parent);
	change->child = strdup(child);
	change->parent = strdup(parent);
	change->live = find_chain(change, child) && job->machine->link;
	plan = json_pack("{s:s, s:s, s:s, s:b}", "kind", "checkpoint-merge", "child", child, "parent", parent, "live", change->live);
	r = plan && change->child && change->parent ? store_work_set(job->vmms->store, job->machine->id, plan, err)
						     : error_set(err, ENOMEM, "no memory");
	json_decref(plan);
	return r;
}

/* Files that are loose and continued by nobody go at once; false: there is nothing left to merge. */
static bool begin_merge(struct job *job, struct error *err)
{
	struct change *change = job->context;
	const char *path, *child;

	json_array_clear(change->remove);
	if (machine_check_base(job->machine, NULL))
		return false;
	while (tree_loose(change->tree, change->config, &path, &child)) {
		if (child && !name_is_inside(child)) {
			error_set(err, EINVAL, "%s/" TREE_FILE " says that %s continues %s: what continues another is in the directory",
				  change->directory, child, path);
			return false;
		}
		if (child) {
			if (json_array_size(change->remove) && change_commit(job->machine, change, err))
				return false;
			json_array_clear(change->remove);
			if (plan_merge(job, child, path, err))
				return false;
			begin_work(job);
			return true;
		}
		json_array_append_new(change->remove, json_string(path));
		tree_forget(change->tree, path);
	}
	if (json_array_size(change->remove))
		change_commit(job->machine, change, err);
	return false;
}

int merge_recover(struct machine *machine, const json_t *plan, struct error *err)
{
	struct change *change;
	struct job *job;
	int r = change_new(&change, machine, "checkpoint.merged", err);

	if (r)
		return r;
	change->child = strdup(text(plan, "child"));
	change->parent = strdup(text(plan, "parent"));
	change->live = json_is_true(json_object_get(plan, "live"));
	find_chain(change, text(plan, "child"));
	r = change->child && change->parent ? job_new(&job, machine->vmms, machine, "checkpoint.merge", err)
					    : error_set(err, ENOMEM, "no memory");
	if (r) {
		change_free(change);
		return r;
	}
	job->context = change;
	job->yields = true;
	begin_work(job);
	return 0;
}
