/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clone.c - machines made of others: cloned, imported. They come into being like every machine (create.c): a row that says
 * "creating" first, and whoever finds that removes the directory.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/adapters.h"
#include "vmms/automatic.h"
#include "vmms/checkpoint.h"
#include "vmms/copy.h"
#include "vmms/save.h"
#include "vmms/tree.h"

static int check_name(const char *name, struct error *err)
{
	return vm_name_check(name, err);
}

static const char *const mode_words[] = {"register", "restore", "copy", NULL};
static const struct form form_name = {
    .kind = FORM_STRING, .text = "of the new machine", .min = 1, .max = 100, .check = check_name};
static const struct form form_from = {.kind = FORM_STRING, .text = "where a vm.json is", .min = 1, .max = 4095};
static const struct form form_mode = {
    .kind = FORM_WORD, .text = "where it is, or by a copy of it: the same machine, or a new one", .words = mode_words};

static const struct form form_outside = {
    .kind = FORM_BOOLEAN, .text = "it may name files of this host that are not in its directory, and has them then"};

static const struct form form_checkpoint = {
    .kind = FORM_STRING, .text = "of which it is made: its id or name", .min = 1, .max = 100};
static const struct form form_linked = {.kind = FORM_BOOLEAN, .text = "its disks continue those of the checkpoint"};

const struct form vm_clone_form = {.kind = FORM_OBJECT,
				   .fields = (const struct form_field[]){{"name", &form_name, NULL, true},
									 {"checkpoint", &form_checkpoint, NULL, false},
									 {"linked", &form_linked, "false", false},
									 {0}}};
const struct form vm_import_form = {.kind = FORM_OBJECT,
				    .fields = (const struct form_field[]){{"directory", &form_from, NULL, true},
									  {"mode", &form_mode, "\"copy\"", false},
									  {"name", &form_name, NULL, false},
									  {"outside", &form_outside, "false", false},
									  {0}}};

/* A job's context. */
struct making {
	struct copy_plan *plan; /* NULL: not yet */
	struct machine *source; /* NULL: none of ours */
	/* Of a clone of a machine that runs: that one, and what is to be made of it. */
	char id[GUID_TEXT_SIZE];
	json_t *config;
	char *directory;
	int result;
};

static void let_go(struct making *making)
{
	if (making->source)
		making->source->readers--;
	making->source = NULL;
}

static void making_free(struct making *making)
{
	let_go(making);
	copy_plan_free(making->plan);
	json_decref(making->config);
	free(making->directory);
	free(making);
}

static int make_work(struct job *job, struct error *err)
{
	struct making *making = job->context;

	return copy_carry_out(making->plan, job, err);
}

static void made(struct job *job, int result)
{
	struct making *making = job->context;

	machine_made(job, result, making->plan && making->plan->made);
	making_free(making);
	automatic_kick(job->vmms);
}

/* Whether a machine in this directory is saved. What it is that lies there is looked at when it is copied. */
static bool has_saved(const char *directory)
{
	_cleanup_free_ char *path = vm_config_path(SAVED_FILE, directory);
	struct stat st;

	return path && !lstat(path, &st);
}

/* A new machine of the configuration and the checkpoints (NULL: none), which are taken over, of a directory. */
static int make(struct vmms *vmms, enum copy_kind kind, json_t *config, json_t *tree, const char *source, struct machine *of,
    struct job **job, struct error *err)
{
	struct making *making = calloc(1, sizeof(*making));
	_cleanup_free_ char *directory = NULL;
	struct store_vm vm = {.phase = VM_CREATING, .own_directory = true};
	struct machine *machine = NULL;
	int r;

	if (!making) {
		json_decref(config);
		json_decref(tree);
		return error_set(err, ENOMEM, "no memory for a machine");
	}
	vm.name = json_string_value(json_object_get(config, "name"));
	snprintf(vm.id, sizeof(vm.id), "%s", json_string_value(json_object_get(config, "id")));
	directory = machine_directory_for(vmms, vm.name, vm.id);
	vm.directory = directory;
	if (directory) {
		making->plan = copy_plan_new(kind, config, tree, source, directory);
	} else {
		json_decref(config);
		json_decref(tree);
	}
	if (making->plan && kind == COPY_IMPORT && has_saved(source) && copy_plan_state(making->plan, SAVED_FILE)) {
		copy_plan_free(making->plan);
		making->plan = NULL;
	}
	r = making->plan ? machine_enter(vmms, &vm, &machine, err) : error_set(err, ENOMEM, "no memory for a machine");
	if (!r) {
		r = job_new(job, vmms, machine, kind == COPY_IMPORT ? "vm.import" : "vm.clone", err);
		if (r) {
			store_vm_remove(vmms->store, vm.id, NULL);
			vmms_forget(vmms, machine);
		}
	}
	if (r) {
		making_free(making);
		return r;
	}
	making->source = of;
	if (of)
		of->readers++;
	(*job)->work = make_work;
	(*job)->done = made;
	(*job)->context = making;
	job_work(*job);
	return 0;
}

static int check_name_free(struct vmms *vmms, const char *name, struct error *err)
{
	return vmms_find(vmms, name)
		   ? error_set(err, EEXIST, "there is a machine \"%s\" already: choose another name", name)
		   : 0;
}

/* `adapters`: with addresses of their own, too. */
static void make_another(struct vmms *vmms, json_t *config, bool adapters)
{
	char text[GUID_TEXT_SIZE];
	struct guid id;

	guid_random(&id);
	json_object_set_new(config, "id", json_string(guid_format(&id, text)));
	if (adapters)
		adapters_renew(vmms, config);
}

/* --- of a machine that runs ----------------------------------------------------------------------------- */

static void temporary_gone(struct job *step)
{
	struct job *job = step->then_context;
	const struct making *making = job->context;

	made(job, making->result);
}

/* What became of it is in job->error, too. The machine is free again when its checkpoint is gone, so that is waited for. */
static void copied(struct job *job, int result)
{
	struct making *making = job->context;
	struct machine *source = vmms_find(job->vmms, making->id);
	struct job *step;

	making->result = result;
	let_go(making);
	step = source ? checkpoint_drop_temporary(source) : NULL;
	if (!step || step->ended) {
		made(job, result);
		return;
	}
	step->then = temporary_gone;
	step->then_context = job;
}

static int copy_temporary(struct job *job, struct machine *source, struct error *err)
{
	struct making *making = job->context;
	const json_t *checkpoint;
	json_t *tree;
	int r = tree_load(&tree, source->directory, err);

	if (r)
		return r;
	checkpoint = tree_temporary(tree, NULL);
	if (checkpoint)
		json_object_set_new(making->config, "disks", json_deep_copy(json_object_get(json_object_get(checkpoint, "config"), "disks")));
	json_decref(tree);
	if (!checkpoint)
		return error_set(err, EIO, "the checkpoint that was made for it is not there");
	making->plan = copy_plan_new(COPY_CLONE, json_incref(making->config), NULL, source->directory, making->directory);
	if (!making->plan)
		return error_set(err, ENOMEM, "no memory for a machine");
	making->source = source;
	source->readers++;
	job->cancel = NULL;
	job->work = make_work;
	job->done = copied;
	job_work(job);
	return 0;
}

static void temporary_made(struct job *step)
{
	struct job *job = step->then_context;
	const struct making *making = job->context;
	struct machine *source = vmms_find(job->vmms, making->id);
	struct error err = step->error;
	int r = -err.code;

	if (!r && !source)
		r = error_set(&err, ENOENT, "the machine is gone");
	if (!r && job->stop)
		r = error_set(&err, ECANCELED, "cloning was stopped, as was asked");
	if (!r)
		r = copy_temporary(job, source, &err);
	if (!r)
		return;
	job->cancel = NULL;
	job->error = err;
	copied(job, r);
}

static int cancel_temporary(struct job *job, struct error *err)
{
	const struct making *making = job->context;
	struct machine *source = vmms_find(job->vmms, making->id);

	(void)err;
	if (source && source->job && source->job->then_context == job)
		source->job->stop = true;
	return 0;
}

/* Takes the configuration over. Its disks are copied as they are in a checkpoint that is made for that, and is temporary. */
static int clone_running(struct machine *source, json_t *config, struct job **job, struct error *err)
{
	struct making *making = calloc(1, sizeof(*making));
	struct store_vm vm = {.phase = VM_CREATING, .own_directory = true, .name = json_string_value(json_object_get(config, "name"))};
	struct vmms *vmms = source->vmms;
	struct machine *machine = NULL;
	struct job *step;
	int r;

	snprintf(vm.id, sizeof(vm.id), "%s", json_string_value(json_object_get(config, "id")));
	if (making)
		*making = (struct making){.config = config, .directory = machine_directory_for(vmms, vm.name, vm.id)};
	else
		json_decref(config);
	if (making)
		memcpy(making->id, source->id, sizeof(making->id));
	vm.directory = making ? making->directory : NULL;
	r = vm.directory ? machine_enter(vmms, &vm, &machine, err) : error_set(err, ENOMEM, "no memory for a machine");
	if (!r)
		r = job_new(job, vmms, machine, "vm.clone", err);
	if (!r) {
		r = checkpoint_create_temporary(source, &step, err);
		if (r)
			job_end(*job, err);
	}
	if (r) {
		if (machine) {
			store_vm_remove(vmms->store, vm.id, NULL);
			vmms_forget(vmms, machine);
		}
		if (making)
			making_free(making);
		return r;
	}
	(*job)->context = making;
	(*job)->cancel = cancel_temporary;
	step->then = temporary_made;
	step->then_context = *job;
	return 0;
}

/* --- of any ----------------------------------------------------------------------------------------------- */

/* What the clone is to be like: the machine of now, or one of its checkpoints, whose id is told. */
static int clone_config(struct machine *machine, const json_t *body, json_t **config, char id[GUID_TEXT_SIZE],
    struct error *err)
{
	const char *which = json_string_value(json_object_get(body, "checkpoint"));
	json_t *tree, *checkpoint;
	int r;

	*id = '\0';
	if (!which) {
		r = machine_check_state(machine, 1u << MACHINE_OFF | 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED, "cloned, but one of its checkpoints",
					err);
		*config = r ? NULL : json_deep_copy(machine->config);
		return r ? r : *config ? 0 : error_set(err, ENOMEM, "no memory for a machine");
	}
	r = tree_load(&tree, machine->directory, err);
	if (r)
		return r;
	checkpoint = tree_find(tree, which);
	*config = checkpoint ? json_deep_copy(json_object_get(checkpoint, "config")) : NULL;
	if (!checkpoint)
		r = error_set(err, ENOENT, "machine \"%s\" has no checkpoint \"%s\"", machine->name, which);
	else if (!*config)
		r = error_set(err, ENOMEM, "no memory for a machine");
	else
		snprintf(id, GUID_TEXT_SIZE, "%s", json_string_value(json_object_get(checkpoint, "id")));
	json_decref(tree);
	return r;
}

int machine_clone(struct machine *machine, const json_t *body, struct job **job, struct error *err)
{
	bool linked = json_is_true(json_object_get(body, "linked"));
	char checkpoint[GUID_TEXT_SIZE];
	json_t *config;
	int r;

	machine_refresh(machine);
	r = machine_check_free(machine, err);
	/* A merge that could not be ended, or that a worker is still at, takes disks away that seem to stay. */
	if (!r)
		r = machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
	if (!r)
		r = check_name_free(machine->vmms, json_string_value(json_object_get(body, "name")), err);
	if (!r && linked && !json_object_get(body, "checkpoint"))
		r = error_set(err, EINVAL, "a linked clone continues the disks of a checkpoint, which are not written any more: "
					   "name one by \"checkpoint\"");
	if (!r)
		r = clone_config(machine, body, &config, checkpoint, err);
	if (r)
		return r;
	json_object_set(config, "name", json_object_get(body, "name"));
	make_another(machine->vmms, config, true);
	if (machine->link && !json_object_get(body, "checkpoint"))
		return clone_running(machine, config, job, err);
	/* First of all: from here on the checkpoint stays. The row is nothing without the machine. */
	if (linked)
		r = store_base_add(machine->vmms->store, json_string_value(json_object_get(config, "id")), machine->id, checkpoint,
				   err);
	if (r) {
		json_decref(config);
		return r;
	}
	return make(machine->vmms, linked ? COPY_LINK : COPY_CLONE, config, NULL, machine->directory, machine, job, err);
}

int machine_check_base(const struct machine *machine, struct error *err)
{
	json_t *names;
	int r = store_base_users(machine->vmms->store, machine->id, NULL, &names, err);

	if (r)
		return r;
	if (json_array_size(names))
		r = error_set(err, EBUSY, "machine \"%s\" is a linked clone of machine \"%s\" and continues its disks: delete that first",
			      json_string_value(json_array_get(names, 0)), machine->name);
	json_decref(names);
	return r;
}

/* --- import ------------------------------------------------------------------------------------------- */

/* The address that an adapter has now which had this one; NULL: there is none such. */
static json_t *renewed(const json_t *before, const json_t *config, const json_t *mac)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(before, "adapters"), i, adapter)
		if (json_equal(json_object_get(adapter, "mac"), mac))
			return json_object_get(json_array_get(json_object_get(config, "adapters"), i), "mac");
	return NULL;
}

/* `config` was `before`: its checkpoints become that machine's too, with the addresses that it has now. The guest of one that ran
 * knows its own, which stay; it is looked at again whether another has them when the checkpoint is applied. */
static void take_checkpoints(struct vmms *vmms, const json_t *before, const json_t *config, json_t *tree)
{
	json_t *checkpoint, *adapter, *mac;
	size_t i, j;

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint) {
		json_t *of = json_object_get(checkpoint, "config");

		json_object_set(of, "id", json_object_get(config, "id"));
		if (json_object_get(checkpoint, "state") ||
		    json_equal(json_object_get(before, "adapters"), json_object_get(config, "adapters")))
			continue;
		json_array_foreach(json_object_get(of, "adapters"), j, adapter) {
			mac = renewed(before, config, json_object_get(adapter, "mac"));
			if (mac)
				json_object_set(adapter, "mac", mac);
			else
				json_object_del(adapter, "mac");
		}
		adapters_complete(vmms, of, NULL);
	}
}

/* The guest in its state goes on with its addresses: another cannot be given to it. */
static int address_in_use(struct vmms *vmms, const json_t *config, const char *directory, struct error *err)
{
	const struct machine *other = adapters_owner(vmms, config);

	return error_set(err, EEXIST,
			 "the machine in %s is saved, and its guest knows its network address, which machine \"%s\" has: take that "
			 "adapter from it first (bulkhead vm adapter remove), or take the state, " SAVED_FILE ", out of the directory, and "
			 "it is imported off, with addresses of its own", directory, other ? other->name : "?");
}

/* Links would be read too, and what is wrong with what they lead to told. */
static int check_no_link(const char *directory, const char *name, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(name, directory);
	struct stat st;

	if (!path)
		return error_set(err, ENOMEM, "no memory");
	return !lstat(path, &st) && S_ISLNK(st.st_mode) ? error_set(err, EINVAL, "%s is a link, and no plain file", path) : 0;
}

static int import_tree(json_t **tree, const json_t *config, const char *directory, bool outside, struct error *err)
{
	int r = pending_is_there(directory) ? error_set(err, EBUSY, "a change of the machine in %s is half done: register it where it is first", directory)
					    : tree_load_some(tree, directory, err);

	if (!r && *tree)
		r = tree_check(*tree, config, directory, false, err);
	return r || outside ? r : tree_check_inside(*tree, config, directory, err);
}

int machine_import(struct vmms *vmms, const json_t *body, struct job **job, struct error *err)
{
	const char *directory = json_string_value(json_object_get(body, "directory"));
	const char *mode = json_string_value(json_object_get(body, "mode"));
	const char *name = json_string_value(json_object_get(body, "name"));
	bool saved = has_saved(directory), outside = json_is_true(json_object_get(body, "outside"));
	json_t *config, *before, *tree = NULL;
	int r;

	if (*directory != '/')
		return error_set(err, EINVAL, "directory %s: name it from the root on", directory);
	r = check_no_link(directory, VM_CONFIG_FILE, err);
	if (!r)
		r = check_no_link(directory, TREE_FILE, err);
	if (!r)
		r = check_no_link(directory, PENDING_FILE, err);
	if (r)
		return r;
	if (!strcmp(mode, "register"))
		return machine_register(vmms, directory, name, outside, "vm.import", job, err);
	r = vm_config_load(&config, directory, err);
	if (r)
		return r;
	before = json_deep_copy(config);
	if (name)
		json_object_set_new(config, "name", json_string(name));
	if (!strcmp(mode, "copy"))
		make_another(vmms, config, !saved);
	r = import_tree(&tree, before, directory, outside, err);
	take_checkpoints(vmms, before, config, tree);
	json_decref(before);
	if (!r)
		r = check_name_free(vmms, json_string_value(json_object_get(config, "name")), err);
	if (!r && vmms_find(vmms, json_string_value(json_object_get(config, "id"))))
		r = error_set(err, EEXIST, "the machine in %s is here already: take a copy with an id of its own (mode copy)",
			      directory);
	if (!r) {
		r = adapters_check(vmms, NULL, config, err);
		if (r == -EEXIST && saved)
			r = address_in_use(vmms, config, directory, err);
	}
	if (r) {
		json_decref(config);
		json_decref(tree);
		return r;
	}
	return make(vmms, COPY_IMPORT, config, tree, directory, NULL, job, err);
}
