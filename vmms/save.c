/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/save.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/automatic.h"
#include "vmms/checkpoint.h"
#include "vmms/files.h"
#include "vmms/saved_disks.h"

/* How often a machine that is being saved is asked how far it is. */
#define ASK_SECONDS 1u

/* --- the file ----------------------------------------------------------------------------------------- */

static char *path_of(const struct machine *machine, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", machine->directory, name) < 0 ? NULL : path;
}

bool saved_exists(const struct machine *machine)
{
	_cleanup_free_ char *path = path_of(machine, SAVED_FILE);
	struct stat st;

	return path && !lstat(path, &st) && S_ISREG(st.st_mode);
}

static void remove_file(const struct machine *machine, const char *name)
{
	_cleanup_free_ char *path = path_of(machine, name);

	if (path)
		file_unlink_aside(&machine->vmms->loop, AT_FDCWD, path);
}

/* On the medium when it returns. */
static int rename_file(const struct machine *machine, const char *from, const char *to, struct error *err)
{
	_cleanup_free_ char *old = path_of(machine, from), *new = path_of(machine, to);

	if (!old || !new)
		return error_set(err, ENOMEM, "no memory");
	if (rename(old, new))
		return error_set(err, errno, "%s: %s", old, strerror(errno));
	return directory_sync(machine->directory, err);
}

/* A worker writes its number into its lock file before it does anything else. */
static bool lock_is_empty(const struct machine *machine)
{
	_cleanup_free_ char *path = path_of(machine, "worker.lock");
	struct stat st;

	return path && (lstat(path, &st) || !st.st_size);
}

static void empty_lock(const struct machine *machine)
{
	_cleanup_free_ char *path = path_of(machine, "worker.lock");
	_cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_nlink == 1 && ftruncate(fd, 0))
		log_write(LOG_LEVEL_WARNING, "%s: %s", path, strerror(errno));
}

int saved_check_disks(const struct machine *machine, struct error *err)
{
	int r = saved_exists(machine) ? saved_disks_check(machine->config, machine->directory, err) : 0;

	if (!r)
		return 0;
	err->code = EALREADY;
	error_prefix(err, "machine \"%s\" cannot go on from its saved state: bring the disk back as it was, or give the state up (bulkhead "
		     "vm discard), and it starts anew", machine->name);
	return -err->code;
}

int saved_take(const struct machine *machine, char **path, struct error *err)
{
	int r;

	*path = NULL;
	if (!saved_exists(machine))
		return 0;
	/* So that it can be seen whether there was a worker. The file stays: one that comes late may be about to lock it. */
	empty_lock(machine);
	r = rename_file(machine, SAVED_FILE, SAVED_USED, err);
	if (r)
		return r;
	*path = path_of(machine, SAVED_USED);
	return *path ? 0 : error_set(err, ENOMEM, "no memory");
}

void saved_used(const struct machine *machine)
{
	remove_file(machine, SAVED_USED);
	saved_disks_forget(machine->directory);
}

void saved_give_back(const struct machine *machine)
{
	rename_file(machine, SAVED_USED, SAVED_FILE, NULL);
}

int saved_complete(const struct machine *machine, struct error *err)
{
	_cleanup_free_ char *new = path_of(machine, SAVED_NEW);
	struct error noting = {0};

	/* A daemon that died then may have done it already. */
	if (new && access(new, F_OK) && saved_exists(machine))
		return 0;
	/* Before that it is not saved, and nothing else may write its disks. */
	if (machine->config && saved_disks_note(machine->config, machine->directory, &noting))
		vmms_event(machine->vmms, machine, "vm.warning", "that its disks do not change while it is saved cannot be looked at: %s",
			   noting.text);
	return rename_file(machine, SAVED_NEW, SAVED_FILE, err);
}

void saved_not_saving(const struct machine *machine)
{
	remove_file(machine, SAVED_NEW);
}

void saved_settle(struct machine *machine, const char *result)
{
	bool ran = result ? strcmp(result, "not-started") : automatic_booted(machine->vmms) || !lock_is_empty(machine);
	_cleanup_free_ char *used = path_of(machine, SAVED_USED);
	struct stat st;

	remove_file(machine, SAVED_NEW);
	if (!used || lstat(used, &st))
		return;
	if (!ran) {
		saved_give_back(machine);
		return;
	}
	saved_used(machine);
	vmms_event(machine->vmms, machine, "vm.failed",
		   "it ended after it had gone on from its saved state, which its disks may not fit any more: it starts anew");
}

/* --- saving ------------------------------------------------------------------------------------------- */

struct saving {
	int fd;
};

static bool is_at_it(const struct machine *machine)
{
	return machine->link && machine->job && !strcmp(machine->job->kind, "vm.save");
}

static void was_cancelled(void *context, const json_t *answer, const struct error *err)
{
	(void)context;
	(void)answer;
	(void)err;
}

static void ask(struct job *job);

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
	struct machine *machine = job->machine;

	if (job->stop)
		worker_link_command(machine->link, json_pack("{s:s}", "command", "cancel"), was_cancelled, NULL);
	else
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), progress_told, machine);
	job_limit(job, ASK_SECONDS, ask);
}

/* The worker's texts end with the system's own words. */
static int code_of(const struct job *job, const struct error *err)
{
	if (job->stop)
		return ECANCELED;
	return strstr(err->text, strerror(ENOSPC)) || strstr(err->text, strerror(EDQUOT)) ? ENOSPC : err->code;
}

static void saving_failed(struct machine *machine, const struct error *err)
{
	struct error why = *err;

	why.code = code_of(machine->job, err);
	remove_file(machine, SAVED_NEW);
	machine_set_state(machine, machine->was_paused ? MACHINE_PAUSED : MACHINE_RUNNING);
	if (why.code != ECANCELED)
		vmms_event(machine->vmms, machine, "vm.failed", "it could not be saved, and goes on: %s", why.text);
	job_end(machine->job, &why);
}

/* When it went well, the worker's end follows, and the job ends with that. */
static void saved(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (err && err->code != ECONNRESET && is_at_it(machine))
		saving_failed(machine, err);
}

static int make_file(struct job *job, struct error *err)
{
	struct saving *saving = job->context;
	_cleanup_free_ char *path = path_of(job->machine, SAVED_NEW);

	if (!path)
		return error_set(err, ENOMEM, "no memory");
	/* One that is there is what a daemon before this one has given the worker, until that says that it is not. */
	saving->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (saving->fd < 0 && errno == EEXIST)
		return error_set(err, EBUSY, "machine \"%s\" is being saved already", job->machine->name);
	return saving->fd < 0 ? error_set(err, errno, "%s cannot be made: %s", path, strerror(errno)) : 0;
}

static void file_made(struct job *job, int result)
{
	struct saving *saving = job->context;
	struct machine *machine = job->machine;
	struct error err = job->error;
	int fd = saving->fd;

	free(saving);
	job->context = NULL;
	if (!result && !machine->link)
		result = error_set(&err, EIO, "the machine went off meanwhile");
	if (result) {
		if (fd >= 0)
			close(fd);
		if (machine->link)
			machine_set_state(machine, machine->was_paused ? MACHINE_PAUSED : MACHINE_RUNNING);
		job_end(job, &err);
		return;
	}
	worker_link_command_fds(machine->link, json_pack("{s:s, s:b}", "command", "save", "fd", 1), &fd, 1, true, saved,
				machine);
	if (machine->job == job)
		job_limit(job, ASK_SECONDS, ask);
}

int machine_save(struct machine *machine, struct job **job, struct error *err)
{
	int r = machine_check_state(machine, 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED, "saved", err);
	struct saving *saving;

	/* What it saves and what vm.json has must be the same. */
	if (!r)
		r = checkpoint_check_settled(machine, err);
	if (r)
		return r;
	saving = malloc(sizeof(*saving));
	r = saving ? job_new(job, machine->vmms, machine, "vm.save", err) : error_set(err, ENOMEM, "no memory");
	if (r) {
		free(saving);
		return r;
	}
	saving->fd = -1;
	machine->was_paused = machine->state == MACHINE_PAUSED;
	machine_set_state(machine, MACHINE_SAVING);
	(*job)->work = make_file;
	(*job)->done = file_made;
	(*job)->context = saving;
	job_work(*job);
	return 0;
}

int machine_discard_saved(struct machine *machine, struct error *err)
{
	_cleanup_free_ char *path = path_of(machine, SAVED_FILE);
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, 1u << MACHINE_SAVED, "relieved of a saved state", err);
	if (!r)
		r = machine_check_free(machine, err);
	if (r)
		return r;
	r = path ? file_unlink_aside(&machine->vmms->loop, AT_FDCWD, path) : -ENOMEM;
	if (r)
		return error_set(err, -r, "%s: %s", path ? path : SAVED_FILE, strerror(-r));
	saved_disks_forget(machine->directory);
	r = directory_sync(machine->directory, err);
	if (r)
		return r;
	vmms_event(machine->vmms, machine, "vm.off", "its saved state is discarded");
	machine_refresh(machine);
	return 0;
}
