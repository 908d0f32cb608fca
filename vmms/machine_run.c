/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine_run.c - a machine and its worker: started, found by a daemon that comes later, seen to end.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/adapters.h"
#include "vmms/automatic.h"
#include "vmms/cgroup.h"
#include "vmms/checkpoint.h"
#include "vmms/daemon.h"
#include "vmms/limits.h"
#include "vmms/measure.h"
#include "vmms/ports.h"
#include "vmms/resources.h"
#include "vmms/save.h"
#include "vmms/start_files.h"
#include "vmms/worker_log.h"

#define ADOPT_TRIES 200u

void machine_set_wanted(struct machine *machine, bool wanted)
{
	struct error err;

	if (machine->wanted == wanted)
		return;
	machine->wanted = wanted;
	if (store_vm_set_wanted(machine->vmms->store, machine->id, wanted, &err))
		log_write(LOG_LEVEL_ERROR, "machine \"%s\": %s", machine->name, err.text);
}

static char *log_path(const struct machine *machine)
{
	char *path;

	return asprintf(&path, "%s/worker.log", machine->directory) < 0 ? NULL : path;
}

/* Whether it was a crash. */
static bool tell_end(struct machine *machine, const json_t *result)
{
	const char *word = json_string_value(json_object_get(result, "result"));
	const char *text = json_string_value(json_object_get(result, "error"));
	_cleanup_free_ char *path = log_path(machine);
	char tail[2000] = "";

	if (word && (!strcmp(word, "powered-off") || !strcmp(word, "reset"))) {
		vmms_event(machine->vmms, machine, "vm.off", "the guest turned itself off");
		return false;
	}
	if (word && !strcmp(word, "saved")) {
		vmms_event(machine->vmms, machine, "vm.saved", "its next start goes on from there");
		return false;
	}
	if (word && !strcmp(word, "power-cut")) {
		vmms_event(machine->vmms, machine, "vm.off", "the power was cut");
		return false;
	}
	if (path)
		worker_log_tail(path, tail, sizeof(tail));
	vmms_event(machine->vmms, machine, "vm.crashed", "%s%s; %s/worker.log ends with: %s", limits_blame(machine->cgroup, machine->runtime),
		   !word			  ? "the worker was killed or crashed"
		   : text			  ? text
		   : !strcmp(word, "not-started") ? "it was not started"
						  : "the guest crashed",
		   machine->directory, *tail ? tail : "nothing");
	return !word || strcmp(word, "not-started");
}

static void worker_started(void *context, const struct error *err)
{
	struct machine *machine = context;
	struct job *job = machine->job;
	struct error storing;

	if (!err) {
		saved_used(machine);
		machine_set_state(machine, MACHINE_RUNNING);
		measure_started(machine, true);
		/* Whoever starts a machine waits for this. */
		store_group_begin(machine->vmms->store);
		machine_set_wanted(machine, true);
		vmms_event(machine->vmms, machine, "vm.running", "it runs");
		if (job && !strcmp(job->kind, "vm.start"))
			job_end(job, NULL);
		if (store_group_end(machine->vmms->store, &storing))
			log_write(LOG_LEVEL_ERROR, "machine \"%s\": %s", machine->name, storing.text);
	} else {
		/* The job ends with the worker: then the machine is off, and may be changed. */
		if (!job || !job->stop)
			vmms_event(machine->vmms, machine, "vm.failed", "%s", err->text);
		machine->start_error = *err;
	}
}

/* Whether its end was that it was saved; then the file gets its name. */
static bool was_saved(struct machine *machine, const json_t *result)
{
	const char *word = json_string_value(json_object_get(result, "result"));
	struct error err;

	if (!word || strcmp(word, "saved"))
		return false;
	if (!saved_complete(machine, &err))
		return true;
	vmms_event(machine->vmms, machine, "vm.failed", "its saved state is lost: %s", err.text);
	return false;
}

/* Of a machine whose worker is over. */
static void end_job(struct machine *machine, struct job *job, bool started, bool saved)
{
	struct error err;

	if (!strcmp(job->kind, "vm.shut-down") || !strcmp(job->kind, "vm.turn-off") ||
	    (saved && !strcmp(job->kind, "vm.save"))) {
		job_end(job, NULL);
	} else if (!started) {
		if (job->stop)
			error_set(&machine->start_error, ECANCELED, "restoring was stopped, as was asked: it is saved as before");
		job_end(job, &machine->start_error);
	} else {
		error_set(&err, EIO, "the machine went off meanwhile");
		job_end(job, &err);
	}
}

static void worker_ended(void *context, const json_t *result)
{
	struct machine *machine = context;
	struct job *job = machine->job;
	bool asked = machine->state == MACHINE_STOPPING || machine->power_cut;
	bool started = machine->state != MACHINE_STARTING;
	const char *word = json_string_value(json_object_get(result, "result"));
	bool crashed, saved;

	machine->link = NULL;
	measure_ended(machine, result, 0);
	ports_closed(machine);
	machine->power_cut = false;
	machine_set_state(machine, MACHINE_OFF);
	if (!started || (word && !strcmp(word, "not-started")))
		saved_give_back(machine);
	else
		saved_used(machine);
	saved = was_saved(machine, result);
	crashed = started && tell_end(machine, result) && !asked;
	if (machine->cgroup)
		cgroup_remove(&machine->vmms->leaving, &machine->vmms->loop, machine->cgroup);
	resources_weigh(machine->vmms);
	/* What the host's stop has turned off is wanted again at its next start. */
	if (started && !crashed && !automatic_stopping(machine->vmms) && (asked || !machine->ends_with_host))
		machine_set_wanted(machine, false);
	machine_reload(machine);
	if (crashed)
		automatic_crashed(machine);
	else if (!asked && machine->ends_with_host)
		automatic_ended(machine);
	machine->ends_with_host = false;
	automatic_kick(machine->vmms);
	/* What is at work on files sees when it is done. */
	if (job && !job->working)
		end_job(machine, job, started, saved);
}

static void worker_gone(void *context)
{
	struct machine *machine = context;

	if (!automatic_stopping(machine->vmms))
		checkpoint_stopped(machine);
}

static void worker_restores(void *context, uint64_t done, uint64_t total)
{
	struct machine *machine = context;

	if (machine->job && !strcmp(machine->job->kind, "vm.start"))
		job_step(machine->job, done, total);
}

static const struct worker_link_ops link_ops = {.started = worker_started, .restoring = worker_restores, .ended = worker_ended, .gone = worker_gone};

/* A worker that was found may be paused. */
static void state_told(void *context, const json_t *answer, const struct error *err)
{
	const char *state = json_string_value(json_object_get(answer, "state"));
	struct machine *machine = context;

	(void)err;
	/* It may be about to make its socket: it is asked again when the machine is looked at. */
	machine->untold = !answer && machine->link;
	if (state && !machine->job && strcmp(state, "saving"))
		saved_not_saving(machine);
	/* A worker that was found may still be about to begin. */
	if (state && strcmp(state, "off"))
		saved_used(machine);
	if (state && (machine->state == MACHINE_RUNNING || machine->state == MACHINE_SAVING) && !machine->job) {
		machine_set_state(machine, !strcmp(state, "paused")   ? MACHINE_PAUSED
					   : !strcmp(state, "saving") ? MACHINE_SAVING
								      : MACHINE_RUNNING);
		if (machine->state == MACHINE_PAUSED)
			vmms_date_state(machine);
	}
	if (answer) {
		machine_disks_settle(machine, answer);
		machine_adapters_settle(machine, answer);
		machine->untold = checkpoint_settle(machine, answer);
		if (!machine->untold)
			checkpoint_end_left(machine);
	}
}

/* What the last run has left, when nobody looked. */
static void tell_unseen_end(struct machine *machine)
{
	json_t *result = worker_result_read(machine->runtime);
	const char *word = json_string_value(json_object_get(result, "result"));

	measure_ended(machine, result, result ? worker_result_time(machine->runtime) : 0);
	was_saved(machine, result);
	saved_settle(machine, word);
	if (result) {
		bool crashed = tell_end(machine, result);

		if (crashed)
			automatic_crashed(machine);
		else if (!automatic_stopping(machine->vmms))
			machine_set_wanted(machine, false);
		worker_result_remove(machine->runtime);
	}
	json_decref(result);
	if (machine_is_off(machine))
		machine_set_state(machine, saved_exists(machine) ? MACHINE_SAVED : MACHINE_OFF);
}

/* Told once, however often it is tried. */
void machine_apply_limits(struct machine *machine)
{
	struct error err = {0};

	if (!machine->link)
		return;
	if (machine->cgroup)
		limits_apply(machine->cgroup, machine->config, &err);
	else if (limits_are_set(machine->config))
		error_set(&err, ENOTSUP, "limits are not in force: the daemon has no control group to make others in (bulkheadd --cgroup)");
	if (err.code && strcmp(err.text, machine->limits_problem.text))
		vmms_event(machine->vmms, machine, "vm.warning", "%s", err.text);
	machine->limits_problem = err;
	resources_weigh(machine->vmms);
}

static void adopt(struct machine *machine, unsigned tries)
{
	_cleanup_free_ char *log = log_path(machine), *lock = NULL;
	struct worker_place place = {machine->vmms->options->worker, machine->runtime, log, machine->cgroup};
	struct error err = {0};
	int r;

	if (asprintf(&lock, "%s/worker.lock", machine->directory) < 0)
		return;
	r = worker_link_adopt(&machine->link, &machine->vmms->loop, &place, lock, tries, &link_ops, machine, &err);
	if (!r) {
		machine_set_state(machine, MACHINE_RUNNING);
		machine_set_wanted(machine, true);
		machine_apply_limits(machine);
		measure_started(machine, false);
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), state_told, machine);
		return;
	}
	if (r != -ESRCH) {
		machine->problem = err;
		machine_set_state(machine, MACHINE_BROKEN);
		return;
	}
	tell_unseen_end(machine);
}

void machine_adopt(struct machine *machine)
{
	adopt(machine, ADOPT_TRIES);
}

void machine_end_unseen(struct machine *machine)
{
	if (machine->state != MACHINE_OFF || !machine->wanted)
		return;
	tell_end(machine, NULL);
	automatic_crashed(machine);
}

void machine_refresh(struct machine *machine)
{
	/* A lock that was in the way for so long is there to stay: everybody else waits meanwhile. */
	bool in_the_way = machine->problem.code == EBUSY;

	/* That a save which another daemon began has failed, nobody else tells. */
	if (machine->link && (machine->state == MACHINE_SAVING || machine->untold) && !machine->job)
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), state_told, machine);
	if (machine->link || machine->job || machine->phase != VM_READY)
		return;
	machine_reload(machine);
	adopt(machine, in_the_way ? 0 : ADOPT_TRIES);
}

/* --- its start ----------------------------------------------------------------------------------------- */

static int make_runtime(const struct machine *machine, struct error *err)
{
	if (mkdir(machine->runtime, 0700) && errno != EEXIST)
		return error_set(err, errno, "%s: %s", machine->runtime, strerror(errno));
	return 0;
}

/* Of a range that no distribution gives away (systemd's containers end at 0x6fff0000 + 0xffff). */
unsigned machine_own_user(const struct machine *machine)
{
	return 0x70010000u + (machine->number & 0xffffff);
}

/* A machine that is to start: what its worker gets. */
struct start {
	char *log;
	json_t *configuration;
	struct start_fds files; /* ports first */
};

static void start_free(struct start *start)
{
	if (!start)
		return;
	start_fds_close(&start->files);
	json_decref(start->configuration);
	free(start->log);
	free(start);
}

static int open_ports(struct job *job, struct error *err)
{
	struct start *start = job->context;

	_Static_assert(VM_ADAPTERS_MAX <= WORKER_START_FDS_MAX, "each adapter can have a descriptor");
	return ports_open(job->machine, start->files.fds, &start->files.count, err);
}

static int open_files(struct job *job, struct error *err)
{
	struct start *start = job->context;

	return start_files_open(start->configuration, &start->files, err);
}

/* It becomes a process; what is handed down to it is open until then. */
static int start_worker(struct machine *machine, struct start *start, struct error *err)
{
	struct worker_place place = {machine->vmms->options->worker, machine->runtime, start->log, machine->cgroup};
	int r;

	if (machine->vmms->closing)
		r = error_set(err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	else if (automatic_stopping(machine->vmms))
		r = error_set(err, EALREADY, "the host's machines are being stopped: none can be started");
	else
		r = limits_note_kills(machine->cgroup, machine->runtime, err);
	if (!r)
		r = worker_link_start(&machine->link, &machine->vmms->loop, &place, start->configuration, start->files.fds, start->files.count,
				      &link_ops, machine, err);
	if (r)
		ports_closed(machine);
	return r;
}

static void not_started(struct machine *machine, struct job *job, const struct error *err)
{
	machine->link = NULL;
	saved_give_back(machine);
	machine_set_state(machine, MACHINE_OFF);
	machine_reload(machine);
	if (err->code != ECANCELED)
		vmms_event(machine->vmms, machine, "vm.failed", "%s", err->text);
	job_end(job, err);
}

static void end_start(struct job *job, int result, const struct error *err)
{
	struct machine *machine = job->machine;

	job->work = NULL;
	start_free(job->context);
	if (result)
		not_started(machine, job, err);
	else
		machine_apply_limits(machine);
}

static void files_opened(struct job *job, int result)
{
	struct error err = job->error;

	if (!result && job->stop)
		result = error_set(&err, ECANCELED, "starting was stopped, as was asked");
	if (result)
		ports_closed(job->machine);
	else
		result = start_worker(job->machine, job->context, &err);
	end_start(job, result, &err);
}

static void ports_opened(struct job *job, int result)
{
	if (result) {
		end_start(job, result, &job->error);
		return;
	}
	/* A file may be on storage that does not answer. */
	job->work = open_files;
	job->done = files_opened;
	job_work(job);
}

static int prepare_start(struct machine *machine, struct start *start, struct error *err)
{
	_cleanup_free_ char *saved = NULL;
	int r;

	start->log = log_path(machine);
	start->configuration = vm_config_for_worker(machine->config, machine->directory, machine->runtime);
	if (!start->configuration || !start->log)
		return error_set(err, ENOMEM, "no memory to start machine \"%s\"", machine->name);
	if (getuid() == 0)
		json_object_set_new(start->configuration, "sandbox", json_pack("{s:I, s:I}", "uid", (json_int_t)machine_own_user(machine), "gid",
									       (json_int_t)machine_own_user(machine)));
	r = make_runtime(machine, err);
	if (!r)
		r = saved_take(machine, &saved, err);
	if (!r && saved)
		json_object_update_new(start->configuration, json_pack("{s:s, s:b}", "restore", saved, "tell_progress", 1));
	return r;
}

/* One whose guest runs by now goes on, and the job ends as done. */
static int cancel_restore(struct job *job, struct error *err)
{
	struct machine *machine = job->machine;

	if (machine && !machine->link && job->working)
		return 0; /* what it does then looks whether it is to stop */
	if (!machine || !machine->link)
		return error_set(err, EALREADY, "job %lld (%s) is about to end: it cannot be cancelled any more", (long long)job->id,
				 job->kind);
	worker_link_stop_restoring(machine->link);
	return 0;
}

int machine_start(struct machine *machine, struct job **job, struct error *err)
{
	struct start *start;
	struct error why = {0};
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, 1u << MACHINE_OFF | 1u << MACHINE_SAVED, "started", err);
	if (!r && automatic_stopping(machine->vmms))
		r = error_set(err, EALREADY, "the host's machines are being stopped: none can be started");
	if (!r)
		r = checkpoint_check_start(machine, err);
	if (!r)
		r = saved_check_disks(machine, err);
	if (!r)
		r = resources_check_start(machine, err);
	if (!r)
		r = job_new(job, machine->vmms, machine, "vm.start", err);
	if (r)
		return r;
	if (machine->state == MACHINE_SAVED)
		(*job)->cancel = cancel_restore;
	automatic_in_use(machine->vmms);
	machine_set_state(machine, MACHINE_STARTING);
	machine->limits_problem = (struct error){0};
	start = calloc(1, sizeof(*start));
	r = start ? prepare_start(machine, start, &why) : error_set(&why, ENOMEM, "no memory to start machine \"%s\"", machine->name);
	if (r) {
		start_free(start);
		not_started(machine, *job, &why);
		return 0;
	}
	(*job)->context = start;
	(*job)->work = open_ports;
	(*job)->done = ports_opened;
	if (ports_are_slow(machine))
		job_errand(*job);
	else
		ports_opened(*job, 0);
	return 0;
}
