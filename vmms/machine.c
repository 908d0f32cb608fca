/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vmms/adapters.h"
#include "vmms/checkpoint.h"
#include "vmms/daemon.h"
#include "vmms/measure.h"
#include "vmms/resources.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"
#include "vmms/tree.h"

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

void machine_reload(struct machine *machine)
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
	machine_reload(machine);
	return machine;
}

void machine_free(struct machine *machine)
{
	worker_link_leave(machine->link);
	json_decref(machine->config);
	measure_free(machine->measure);
	free(machine->name);
	free(machine->directory);
	free(machine->runtime);
	free(machine->cgroup);
	free(machine);
}

/* --- what is shown ------------------------------------------------------------------------------------ */

/* Behind a machine's states what one is that is being made, or deleted. */
static const char *const state_words[] = {[MACHINE_OFF] = "off",           [MACHINE_STARTING] = "starting",
					  [MACHINE_RUNNING] = "running",   [MACHINE_PAUSED] = "paused",
					  [MACHINE_STOPPING] = "stopping", [MACHINE_SAVING] = "saving",
					  [MACHINE_SAVED] = "saved",       [MACHINE_BROKEN] = "broken",
					  "creating",                      "deleting",
					  NULL};
const struct form machine_state_form = {.kind = FORM_WORD, .words = state_words};

const char *machine_state_word(enum machine_state state)
{
	return state_words[state];
}

static const char *shown_state(const struct machine *machine)
{
	return machine->phase == VM_READY ? machine_state_word(machine->state)
	       : machine->phase == VM_CREATING ? state_words[MACHINE_BROKEN + 1] : state_words[MACHINE_BROKEN + 2];
}

void machine_etag(const struct machine *machine, char text[24])
{
	config_etag(machine->config, text);
}

static const struct form form_brief_processors = {.kind = FORM_OBJECT, .fields = (const struct form_field[]){{"count", &answer_count, NULL, true}, {0}}};
static const struct form form_some_words = {.kind = FORM_LIST, .max = 64, .items = &answer_text};
static const struct form form_brief_config = {.kind = FORM_OBJECT,
					      .text = "of vm.json",
					      .fields = (const struct form_field[]){
						  {"memory", &answer_count, NULL, true},
						  {"notes", &answer_text, NULL, true},
						  {"tags", &form_some_words, NULL, true},
						  {"groups", &form_some_words, NULL, true},
						  {"processors", &form_brief_processors, NULL, true},
						  {0},
					      }};
const struct form machine_brief_form = {.kind = FORM_OBJECT,
					.name = "VmBrief",
					.text = "of a machine what a table shows",
					.fields = (const struct form_field[]){
					    {"id", &answer_id, NULL, true},
					    {"name", &answer_text, NULL, true},
					    {"state", &machine_state_form, NULL, true},
					    {"state_since", &answer_moment, NULL, true},
					    {"config", &form_brief_config, NULL, false},
					    {0},
					}};

json_t *machine_json_brief(const struct machine *machine)
{
	static const char *const keys[] = {"memory", "notes", "tags", "groups"};
	const json_t *processors = json_object_get(machine->config, "processors");
	json_t *json = json_pack("{s:s, s:s, s:s, s:I}", "id", machine->id, "name", machine->name, "state", shown_state(machine), "state_since",
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

static const struct form form_pid = {.kind = FORM_INTEGER, .text = "of its worker, if it runs", .min = 1, .max = INT32_MAX};
static const struct form form_console = {.kind = FORM_STRING, .text = "a socket, if it runs", .max = INT64_MAX};
static const struct form form_wanted = {.kind = FORM_BOOLEAN, .text = "it was running, as far as anybody asked"};
static const struct form form_its_job = {.kind = FORM_INTEGER, .text = "that is at work on it", .min = 1, .max = INT64_MAX};
static const struct form form_problem = {.kind = FORM_STRING, .text = "why it is broken", .max = INT64_MAX};
static const struct form form_limits_problem = {.kind = FORM_STRING, .text = "which limits are not in force, and why", .max = INT64_MAX};
const struct form machine_form = {.kind = FORM_OBJECT,
				  .name = "Vm",
				  .text = "a machine",
				  .fields = (const struct form_field[]){
				      {"id", &answer_id, NULL, true},
				      {"name", &answer_text, NULL, true},
				      {"state", &machine_state_form, NULL, true},
				      {"state_since", &answer_moment, NULL, true},
				      {"directory", &answer_text, NULL, true},
				      {"wanted", &form_wanted, NULL, true},
				      {"etag", &answer_text, NULL, true},
				      {"config", &vm_config_form, NULL, false},
				      {"limits_problem", &form_limits_problem, NULL, false},
				      {"problem", &form_problem, NULL, false},
				      {"pid", &form_pid, NULL, false},
				      {"console", &form_console, NULL, false},
				      {"job", &form_its_job, NULL, false},
				      {0},
				  }};

json_t *machine_json(const struct machine *machine)
{
	char etag[24];
	json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b}", "id", machine->id, "name", machine->name, "state",
				 shown_state(machine), "directory", machine->directory, "state_since",
				 (json_int_t)machine->state_since, "wanted", machine->wanted);

	machine_etag(machine, etag);
	json_object_set_new(json, "etag", json_string(etag));
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

const char *const machine_own_files[] = {"vmlinuz", "initrd.img", "disk.vhdx", "seed.iso", "worker.log", "worker.lock",
					 SAVED_FILE, SAVED_NEW, SAVED_USED, TREE_FILE, TREE_FILE ".new", PENDING_FILE, PENDING_FILE ".new", SAVED_DISKS, SAVED_DISKS ".new",
					 VM_CONFIG_FILE ".new", VM_CONFIG_FILE, NULL};

static void add_once(json_t *list, const char *name)
{
	json_t *other;
	size_t i;

	json_array_foreach(list, i, other)
		if (!strcmp(json_string_value(other), name))
			return;
	json_array_append_new(list, json_string(name));
}

/* What goes with files of the list, and what else the daemon has made there. */
static void add_other_files(const struct machine *machine, json_t *list)
{
	size_t count = json_array_size(list);

	for (size_t i = 0; i < count; i++) {
		_cleanup_free_ char *record = NULL;

		if (asprintf(&record, "%s.cbt", json_string_value(json_array_get(list, i))) > 0 && has_file(machine, record))
			add_once(list, record);
	}
	for (size_t i = 0; machine_own_files[i]; i++)
		if (has_file(machine, machine_own_files[i]))
			add_once(list, machine_own_files[i]);
}

json_t *machine_files(const struct machine *machine)
{
	json_t *list = json_array(), *disk, *boot = json_object_get(machine->config, "boot");
	static const char *const boots[] = {"kernel", "initrd"};
	size_t i;

	add_once(list, VM_CONFIG_FILE);
	for (i = 0; i < ARRAY_SIZE(boots); i++)
		if (json_object_get(boot, boots[i]))
			add_once(list, json_string_value(json_object_get(boot, boots[i])));
	json_array_foreach(json_object_get(machine->config, "disks"), i, disk)
		if (json_object_get(disk, "path"))
			add_once(list, json_string_value(json_object_get(disk, "path")));
	tree_add_files(machine->directory, list);
	add_other_files(machine, list);
	return list;
}

void machine_tell_unsettled(struct machine *machine, const struct error *err)
{
	if (err->code && strcmp(err->text, machine->unsettled.text))
		vmms_event(machine->vmms, machine, "vm.failed", "%s", err->text);
	if (err->code)
		machine->unsettled = *err;
}

/* --- what it may be in ---------------------------------------------------------------------------------- */

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
	int r = pending_is_there(machine->directory) ? error_set(err, EBUSY, "a change of machine \"%s\" is half done", machine->name)
						     : vm_config_save(config, machine->directory, err);

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
	if (!r && json_object_get(request, "adapters"))
		r = adapters_check_promises(machine->vmms, changed, err);
	if (!r && machine->link)
		r = resources_check_reserve(machine, changed, err);
	if (r) {
		json_decref(changed);
		return r;
	}
	r = machine_set_config(machine, changed, err);
	if (r)
		return r;
	machine_apply_limits(machine);
	/* If this fails, it is done when the machine is looked at next. */
	return name ? take_name(machine, name, err) : 0;
}
