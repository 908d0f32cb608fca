/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/adapters.h"
#include "vmms/automatic.h"
#include "vmms/cgroup.h"
#include "vmms/checkpoint.h"
#include "vmms/daemon.h"
#include "vmms/limits.h"
#include "vmms/ports.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"
#include "vmms/tree.h"
#include "vmms/worker_log.h"

#define ASK_AGAIN   5 /* seconds */
#define ADOPT_TRIES 200u

void machine_set_state(struct machine *machine, enum machine_state state)
{
	if (machine->state != state)
		machine->state_since = vmms_now();
	machine->state = state;
}

bool machine_is_off(const struct machine *machine)
{
	return machine->state == MACHINE_OFF || machine->state == MACHINE_SAVED;
}

/* Whoever renames a machine writes vm.json first: what that says is its name. */
static int take_name(struct machine *machine, const char *name, struct error *err)
{
	char *copy;
	int r;

	if (!strcmp(name, machine->name))
		return 0;
	copy = strdup(name);
	r = copy ? store_vm_rename(machine->vmms->store, machine->id, name, err) : error_set(err, ENOMEM, "no memory");
	if (r == -EEXIST)
		error_set(err, EEXIST, "%s/" VM_CONFIG_FILE " has name \"%s\", which another machine has: change one of them",
			  machine->directory, name);
	if (r) {
		free(copy);
		return r;
	}
	free(machine->name);
	machine->name = copy;
	return 0;
}

static void reload(struct machine *machine)
{
	json_t *config = NULL;
	const char *id;

	if (machine->link || machine->phase != VM_READY)
		return;
	memset(&machine->problem, 0, sizeof(machine->problem));
	if (!vm_config_load(&config, machine->directory, &machine->problem)) {
		id = json_string_value(json_object_get(config, "id"));
		if (strcasecmp(id, machine->id))
			error_set(&machine->problem, EINVAL, "%s/" VM_CONFIG_FILE " has id %s: machine %s is registered here",
				  machine->directory, id, machine->id);
		else
			take_name(machine, json_string_value(json_object_get(config, "name")), &machine->problem);
	}
	json_decref(machine->config);
	machine->config = config;
	if (machine->problem.code)
		machine_set_state(machine, MACHINE_BROKEN);
	else if (machine->state == MACHINE_BROKEN || machine_is_off(machine))
		machine_set_state(machine, saved_exists(machine) ? MACHINE_SAVED : MACHINE_OFF);
}

struct machine *machine_new(struct vmms *vmms, const struct store_vm *vm)
{
	struct machine *machine = calloc(1, sizeof(*machine));

	if (!machine)
		return NULL;
	machine->vmms = vmms;
	memcpy(machine->id, vm->id, sizeof(machine->id));
	machine->name = strdup(vm->name);
	machine->directory = strdup(vm->directory);
	machine->number = vm->number;
	machine->phase = vm->phase;
	machine->own_directory = vm->own_directory;
	machine->wanted = vm->wanted;
	if (asprintf(&machine->runtime, "%s/vms/%s", vmms->options->runtime, vm->id) < 0)
		machine->runtime = NULL;
	if (vmms->options->cgroup && asprintf(&machine->cgroup, "%s/vm-%s", vmms->options->cgroup, vm->id) < 0)
		machine->cgroup = NULL;
	if (!machine->name || !machine->directory || !machine->runtime) {
		machine_free(machine);
		return NULL;
	}
	machine->state_since = vmms_now();
	reload(machine);
	return machine;
}

void machine_free(struct machine *machine)
{
	worker_link_leave(machine->link);
	json_decref(machine->config);
	free(machine->name);
	free(machine->directory);
	free(machine->runtime);
	free(machine->cgroup);
	free(machine);
}

/* --- what is shown ------------------------------------------------------------------------------------ */

const char *machine_state_word(enum machine_state state)
{
	static const char *const words[] = {[MACHINE_OFF] = "off",           [MACHINE_STARTING] = "starting",
					    [MACHINE_RUNNING] = "running",   [MACHINE_PAUSED] = "paused",
					    [MACHINE_STOPPING] = "stopping", [MACHINE_BROKEN] = "broken",
					    [MACHINE_SAVING] = "saving",     [MACHINE_SAVED] = "saved"};

	return words[state];
}

void machine_etag(const struct machine *machine, char text[24])
{
	char *dump = machine->config ? json_dumps(machine->config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *c = dump; c && *c; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
	free(dump);
	snprintf(text, 24, "\"%016" PRIx64 "\"", hash);
}

json_t *machine_json_brief(const struct machine *machine)
{
	static const char *const keys[] = {"memory", "notes", "tags", "groups"};
	const json_t *processors = json_object_get(machine->config, "processors");
	const char *state = machine->phase == VM_READY ? machine_state_word(machine->state)
			    : machine->phase == VM_CREATING ? "creating" : "deleting";
	json_t *json = json_pack("{s:s, s:s, s:s, s:I}", "id", machine->id, "name", machine->name, "state", state, "state_since",
				 (json_int_t)machine->state_since);
	json_t *config;

	if (!machine->config)
		return json;
	config = json_pack("{s:{s:O}}", "processors", "count", json_object_get(processors, "count"));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		json_object_set(config, keys[i], json_object_get(machine->config, keys[i]));
	json_object_set_new(json, "config", config);
	return json;
}

json_t *machine_json(const struct machine *machine)
{
	char etag[24];
	json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b}", "id", machine->id, "name", machine->name, "state",
				 machine_state_word(machine->state), "directory", machine->directory, "state_since",
				 (json_int_t)machine->state_since, "wanted", machine->wanted);

	machine_etag(machine, etag);
	json_object_set_new(json, "etag", json_string(etag));
	if (machine->phase != VM_READY)
		json_object_set_new(json, "state", json_string(machine->phase == VM_CREATING ? "creating" : "deleting"));
	if (machine->config)
		json_object_set(json, "config", machine->config);
	if (machine->link && machine->limits_problem.code)
		json_object_set_new(json, "limits_problem", json_string(machine->limits_problem.text));
	if (machine->problem.code)
		json_object_set_new(json, "problem", json_string(machine->problem.text));
	if (machine->link) {
		json_object_set_new(json, "pid", json_integer(worker_link_pid(machine->link)));
		json_object_set_new(json, "console", json_sprintf("%s/console", machine->runtime));
	}
	if (machine->job)
		json_object_set_new(json, "job", json_integer((json_int_t)machine->job->id));
	return json;
}

static bool has_file(const struct machine *machine, const char *name)
{
	_cleanup_free_ char *path = vm_config_path(name, machine->directory);

	return path && !access(path, F_OK);
}

json_t *machine_files(const struct machine *machine)
{
	json_t *list = json_array(), *disk, *boot = json_object_get(machine->config, "boot");
	static const char *const boots[] = {"kernel", "initrd"};
	size_t i;

	json_array_append_new(list, json_string(VM_CONFIG_FILE));
	for (i = 0; i < ARRAY_SIZE(boots); i++)
		if (json_object_get(boot, boots[i]))
			json_array_append(list, json_object_get(boot, boots[i]));
	json_array_foreach(json_object_get(machine->config, "disks"), i, disk)
		json_array_append(list, json_object_get(disk, "path"));
	if (machine->state == MACHINE_SAVED)
		json_array_append_new(list, json_string(SAVED_FILE));
	if (has_file(machine, SAVED_DISKS))
		json_array_append_new(list, json_string(SAVED_DISKS));
	tree_add_files(machine->directory, list);
	return list;
}

/* --- the worker --------------------------------------------------------------------------------------- */

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

static void worker_ended(void *context, const json_t *result)
{
	struct machine *machine = context;
	struct job *job = machine->job;
	bool asked = machine->state == MACHINE_STOPPING || machine->power_cut;
	bool started = machine->state != MACHINE_STARTING;
	const char *word = json_string_value(json_object_get(result, "result"));
	struct error err;
	bool crashed, saved;

	machine->link = NULL;
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
	/* What the host's stop has turned off is wanted again at its next start. */
	if (started && !crashed && !automatic_stopping(machine->vmms) && (asked || !machine->ends_with_host))
		machine_set_wanted(machine, false);
	reload(machine);
	if (crashed)
		automatic_crashed(machine);
	else if (!asked && machine->ends_with_host)
		automatic_ended(machine);
	machine->ends_with_host = false;
	automatic_kick(machine->vmms);
	/* What is at work on files sees when it is done. */
	if (!job || job->working)
		return;
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

static void worker_restores(void *context, uint64_t done, uint64_t total)
{
	struct machine *machine = context;

	if (machine->job && !strcmp(machine->job->kind, "vm.start"))
		job_step(machine->job, done, total);
}

static const struct worker_link_ops link_ops = {.started = worker_started, .restoring = worker_restores, .ended = worker_ended};

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
	}
}

/* What the last run has left, when nobody looked. */
static void tell_unseen_end(struct machine *machine)
{
	json_t *result = worker_result_read(machine->runtime);
	const char *word = json_string_value(json_object_get(result, "result"));

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
static void apply_limits(struct machine *machine)
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
		apply_limits(machine);
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
	reload(machine);
	adopt(machine, in_the_way ? 0 : ADOPT_TRIES);
}

/* --- verbs -------------------------------------------------------------------------------------------- */

static int make_runtime(const struct machine *machine, struct error *err)
{
	if (mkdir(machine->runtime, 0700) && errno != EEXIST)
		return error_set(err, errno, "%s: %s", machine->runtime, strerror(errno));
	return 0;
}

/* How it gets into a state that is wanted. */
static const char *state_advice(enum machine_state is, unsigned wanted)
{
	bool on = is == MACHINE_RUNNING || is == MACHINE_PAUSED;

	if (on && wanted & 1u << MACHINE_OFF)
		return ": shut it down or turn it off first";
	if (is == MACHINE_PAUSED && wanted & 1u << MACHINE_RUNNING)
		return ": resume it first";
	if (is == MACHINE_SAVED && wanted & 1u << MACHINE_OFF)
		return ": start it, or discard its state, first";
	if ((is == MACHINE_OFF || is == MACHINE_SAVED) && wanted & 1u << MACHINE_RUNNING)
		return ": start it first";
	return "";
}

static int wrong_state(const struct machine *machine, unsigned wanted, const char *what, struct error *err)
{
	if (machine->phase != VM_READY)
		return error_set(err, EALREADY, "machine \"%s\" is being %s", machine->name,
				 machine->phase == VM_CREATING ? "created" : "deleted");
	if (machine->state == MACHINE_BROKEN)
		return error_set(err, EALREADY, "machine \"%s\" cannot be used: %s", machine->name, machine->problem.text);
	return error_set(err, EALREADY, "machine \"%s\" is %s: it cannot be %s%s", machine->name,
			 machine_state_word(machine->state), what, strcmp(what, "started") ? state_advice(machine->state, wanted) : "");
}

int machine_check_state(const struct machine *machine, unsigned states, const char *what, struct error *err)
{
	if (machine->phase != VM_READY || !(states & 1u << machine->state))
		return wrong_state(machine, states, what, err);
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
	int fds[VM_ADAPTERS_MAX];
	size_t count;
};

static void start_free(struct start *start)
{
	if (!start)
		return;
	while (start->count)
		close(start->fds[--start->count]);
	json_decref(start->configuration);
	free(start->log);
	free(start);
}

static int open_ports(struct job *job, struct error *err)
{
	struct start *start = job->context;

	_Static_assert(VM_ADAPTERS_MAX <= WORKER_START_FDS_MAX, "each adapter can have a descriptor");
	return ports_open(job->machine, start->fds, &start->count, err);
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
		r = worker_link_start(&machine->link, &machine->vmms->loop, &place, start->configuration, start->fds, start->count, &link_ops, machine, err);
	if (r)
		ports_closed(machine);
	return r;
}

static void not_started(struct machine *machine, struct job *job, const struct error *err)
{
	machine->link = NULL;
	saved_give_back(machine);
	machine_set_state(machine, MACHINE_OFF);
	reload(machine);
	if (err->code != ECANCELED)
		vmms_event(machine->vmms, machine, "vm.failed", "%s", err->text);
	job_end(job, err);
}

static void ports_opened(struct job *job, int result)
{
	struct machine *machine = job->machine;
	struct start *start = job->context;
	struct error err = job->error;

	job->work = NULL;
	if (!result && job->stop)
		result = error_set(&err, ECANCELED, "starting was stopped, as was asked");
	if (!result)
		result = start_worker(machine, start, &err);
	start_free(start);
	if (result)
		not_started(machine, job, &err);
	else
		apply_limits(machine);
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

static void answered(struct machine *machine, const struct error *err, enum machine_state state)
{
	if (!machine->job)
		return;
	if (!err)
		machine_set_state(machine, state);
	job_end(machine->job, err);
}

static void paused(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!err && machine->job)
		vmms_event(machine->vmms, machine, "vm.paused", "its processors are held");
	answered(machine, err, MACHINE_PAUSED);
}

static void running(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!err && machine->job && machine->state == MACHINE_PAUSED)
		vmms_event(machine->vmms, machine, "vm.resumed", "it goes on");
	answered(machine, err, MACHINE_RUNNING);
}

static int command(struct machine *machine, unsigned states, const char *kind, const char *what, const char *verb,
    worker_answered on_answer, struct job **job, struct error *err)
{
	int r = machine_check_state(machine, states, what, err);

	if (!r)
		r = job_new(job, machine->vmms, machine, kind, err);
	if (!r)
		worker_link_command(machine->link, json_pack("{s:s}", "command", verb), on_answer, machine);
	return r;
}

int machine_pause(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_RUNNING, "vm.pause", "paused", "pause", paused, job, err);
}

int machine_resume(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_PAUSED, "vm.resume", "resumed", "resume", running, job, err);
}

int machine_reset(struct machine *machine, struct job **job, struct error *err)
{
	return command(machine, 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED, "vm.reset", "reset", "reset", running, job, err);
}

/* Whether a machine is still at the job that asked for this answer, and the answer is a refusal; a job that has
 * ended, or was given up for another, is not its business. */
static bool refused(const struct machine *machine, const char *kind, const struct error *err)
{
	return err && err->code != ECONNRESET && machine->link && machine->job && !strcmp(machine->job->kind, kind);
}

/* The job ends with the worker; only a refusal ends it here. */
static void asked_to_shut_down(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (!refused(machine, "vm.shut-down", err))
		return;
	machine_set_state(machine, MACHINE_RUNNING);
	job_end(machine->job, err);
}

/* A worker that does not listen is ended all the same. */
static void asked_to_turn_off(void *context, const json_t *answer, const struct error *err)
{
	struct machine *machine = context;

	(void)answer;
	if (refused(machine, "vm.turn-off", err))
		worker_link_kill(machine->link);
}

/* Of the loop: the host's clock may be set meanwhile. */
static int64_t loop_now(const struct job *job)
{
	return (int64_t)uv_now(&job->vmms->loop);
}

static unsigned next_ask(const struct job *job)
{
	int64_t left = (job->deadline - loop_now(job) + 999) / 1000;

	return left <= 0 ? 0 : left < ASK_AGAIN ? (unsigned)left : ASK_AGAIN;
}

/* A guest that is still starting has nobody yet who listens: it is asked again until the time is over. */
static void shut_down_due(struct job *job)
{
	struct machine *machine = job->machine;
	struct error err;

	if (loop_now(job) < job->deadline) {
		worker_link_command(machine->link, json_pack("{s:s}", "command", "shutdown"), asked_to_shut_down,
				    machine);
		job_limit(job, next_ask(job), shut_down_due);
		return;
	}
	error_set(&err, ETIMEDOUT, "the guest did not shut down in time: it may have no integration service; bulkhead vm "
				   "turn-off cuts the power");
	if (machine->state == MACHINE_STOPPING)
		machine_set_state(machine, MACHINE_RUNNING);
	job_end(job, &err);
}

int machine_shut_down(struct machine *machine, unsigned seconds, struct job **job, struct error *err)
{
	int r = command(machine, 1u << MACHINE_RUNNING, "vm.shut-down", "shut down", "shutdown", asked_to_shut_down, job,
			err);

	if (!r && machine->job) {
		machine_set_state(machine, MACHINE_STOPPING);
		(*job)->deadline = loop_now(*job) + seconds * 1000ll;
		job_limit(*job, next_ask(*job), shut_down_due);
	}
	return r;
}

static void turn_off_late(struct job *job)
{
	worker_link_kill(job->machine->link);
}

int machine_turn_off(struct machine *machine, struct job **job, struct error *err)
{
	unsigned states =
	    1u << MACHINE_STARTING | 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED | 1u << MACHINE_STOPPING | 1u << MACHINE_SAVING;
	int r = machine_check_state(machine, states, "turned off", err);
	struct error given_up;

	/* Cutting the power waits neither for a guest that was asked to shut down nor for a worker that hangs. */
	if (!r && machine->job &&
	    !machine->job->working &&
	    (!strcmp(machine->job->kind, "vm.shut-down") || !strcmp(machine->job->kind, "vm.start") || !strcmp(machine->job->kind, "vm.save"))) {
		error_set(&given_up, ECANCELED, "the machine is turned off instead");
		job_end(machine->job, &given_up);
	}
	if (!r)
		r = job_new(job, machine->vmms, machine, "vm.turn-off", err);
	if (r)
		return r;
	machine->power_cut = true;
	job_limit(*job, 10, turn_off_late);
	worker_link_command(machine->link, json_pack("{s:s}", "command", "power-off"), asked_to_turn_off, machine);
	return 0;
}

/* --- settings ----------------------------------------------------------------------------------------- */

/* Of a running machine: only what its worker does not know. */
static int check_running(const struct machine *machine, const json_t *request, struct error *err)
{
	static const char *const free_keys[] = {"name", "notes", "tags", "groups", "automatic", "limits"};
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)request, key, value) {
		bool allowed = false;

		for (size_t i = 0; i < ARRAY_SIZE(free_keys); i++)
			allowed |= !strcmp(key, free_keys[i]);
		if (!allowed)
			return error_set(err, EALREADY, "%s can be changed while machine \"%s\" is off: it is %s", key,
					 machine->name, machine_state_word(machine->state));
	}
	return 0;
}

static int check_name_free(const struct machine *machine, const char *name, struct error *err)
{
	const struct machine *other = name ? vmms_find(machine->vmms, name) : NULL;

	if (other && other != machine)
		return error_set(err, EEXIST, "there is a machine \"%s\" already: choose another name", name);
	return 0;
}

int machine_check_free(const struct machine *machine, struct error *err)
{
	if (machine->readers)
		return error_set(err, EBUSY, "machine \"%s\" is being copied", machine->name);
	if (!machine->job)
		return 0;
	return error_set(err, EBUSY, "machine \"%s\" is at work: job %lld (%s) runs on it", machine->name,
			 (long long)machine->job->id, machine->job->kind);
}

int machine_set_config(struct machine *machine, json_t *config, struct error *err)
{
	int r = vm_config_save(config, machine->directory, err);

	if (r) {
		json_decref(config);
		return r;
	}
	json_decref(machine->config);
	machine->config = config;
	return 0;
}

int machine_change(struct machine *machine, const json_t *request, struct error *err)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	json_t *changed = NULL, *completed;
	int r;

	machine_refresh(machine);
	if (machine->phase != VM_READY || machine->state == MACHINE_BROKEN)
		return wrong_state(machine, 1u << MACHINE_OFF, "changed", err);
	r = machine_check_free(machine, err);
	if (!r)
		r = check_name_free(machine, name, err);
	if (!r && machine->state != MACHINE_OFF)
		r = check_running(machine, request, err);
	/* What is half done says what vm.json is to be. */
	if (!r && !machine->link)
		r = checkpoint_check_start(machine, err);
	if (!r && json_object_get(request, "disks"))
		r = checkpoint_check_disks(machine, json_object_get(request, "disks"), err);
	if (r)
		return r;
	completed = json_deep_copy(request);
	adapters_complete(machine->vmms, completed, machine->config);
	r = vm_config_changed(&changed, machine->config, completed, err);
	json_decref(completed);
	if (!r)
		r = adapters_check(machine->vmms, machine, changed, err);
	if (r) {
		json_decref(changed);
		return r;
	}
	r = machine_set_config(machine, changed, err);
	if (r)
		return r;
	apply_limits(machine);
	/* If this fails, it is done when the machine is looked at next. */
	return name ? take_name(machine, name, err) : 0;
}
