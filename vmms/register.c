/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * register.c - machines whose directory is there, taken in where it is. What the directory says is looked at first, on the
 * pool: how long opening all its disks takes is not up to us.
 */
#include <errno.h>
#include <string.h>

#include "vmms/adapters.h"
#include "vmms/daemon.h"
#include "vmms/tree.h"

/* A job's context. */
struct registration {
	char *directory, *name; /* from the root on, with no link in it; NULL: the name that it has */
	bool outside;
};

static void registration_free(struct registration *r)
{
	if (!r)
		return;
	free(r->directory);
	free(r->name);
	free(r);
}

/* What is no UTF-8 no JSON can tell. */
static bool is_text(const char *bytes)
{
	json_t *text = json_string(bytes);
	bool is = text != NULL;

	json_decref(text);
	return is;
}

static int check_directory(struct registration *what, struct error *err)
{
	char *path = realpath(what->directory, NULL);

	if (!path)
		return error_set(err, errno, "%s: %s", what->directory, strerror(errno));
	free(what->directory);
	what->directory = path;
	return is_text(path) ? 0 : error_set(err, EINVAL, "%s: the directory's own path is no UTF-8: rename it", path);
}

static int check_not_run(const struct registration *what, struct error *err)
{
	_cleanup_free_ char *lock = vm_config_path(WORKER_LOCK, what->directory);

	return lock ? worker_check_lock(lock, NULL, err) : error_set(err, ENOMEM, "no memory");
}

/* What another host did not come to the end of. Only where all names have been found right. */
static int settle(const struct registration *what, json_t *tree, json_t *config, const json_t *pending, const json_t *merged, struct error *err)
{
	json_t *whole = NULL;
	int r = check_not_run(what, err);

	if (!r)
		r = tree_settle_disks(merged, what->directory, err);
	if (!r)
		r = pending_save(&whole, config, tree, json_string_value(json_object_get(pending, "state")), json_object_get(pending, "remove"), what->directory, err);
	if (!r)
		r = pending_finish(whole, what->directory, err);
	if (!r)
		tree_settle_remove(merged, what->directory);
	json_decref(whole);
	return r;
}

/* What the machine is, by the one file or the other two. */
static int load(const char *directory, json_t **config, json_t **tree, json_t **pending, struct error *err)
{
	int r;

	if (!pending_is_there(directory)) {
		r = vm_config_load(config, directory, err);
		return r ? r : tree_load(tree, directory, err);
	}
	r = pending_load(pending, directory, err);
	if (r)
		return r;
	*config = json_incref(json_object_get(*pending, "vm"));
	*tree = json_incref(json_object_get(*pending, "checkpoints"));
	return 0;
}

static int look(struct job *job, struct error *err)
{
	struct registration *what = job->context;
	json_t *tree = NULL, *config = NULL, *pending = NULL, *merged = json_array();
	int r = merged ? check_directory(what, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = load(what->directory, &config, &tree, &pending, err);
	if (!r)
		r = tree_settle(tree, config, what->directory, merged, err);
	/* Before any other name in it is used. */
	if (!r)
		r = tree_check(tree, config, what->directory, true, err);
	if (!r && !what->outside)
		r = tree_check_inside(tree, config, what->directory, err);
	if (!r && (pending || json_array_size(merged)))
		r = settle(what, tree, config, pending, merged, err);
	if (!r)
		r = tree_check_disks(tree, config, what->directory, what->outside, job, err);
	json_decref(merged);
	json_decref(pending);
	json_decref(config);
	json_decref(tree);
	/* That there is none, or that a disk is in use, is no failure. */
	if (!r)
		*err = (struct error){0};
	return r;
}

/* The files may be others by now: what is taken in is looked at again, but for its disks. */
static int check_again(const struct registration *what, const json_t *config, struct error *err)
{
	json_t *tree;
	int r = tree_load(&tree, what->directory, err);

	if (!r)
		r = tree_check(tree, config, what->directory, true, err);
	if (!r && !what->outside)
		r = tree_check_inside(tree, config, what->directory, err);
	json_decref(tree);
	return r;
}

static int check_new(struct vmms *vmms, const struct store_vm *vm, const json_t *config, struct error *err)
{
	const struct machine *same = vmms_find(vmms, vm->id);

	if (same)
		return error_set(err, EEXIST, "the machine in %s is registered already, as \"%s\"", vm->directory, same->name);
	if (vmms_find(vmms, vm->name))
		return error_set(err, EEXIST, "there is a machine \"%s\" already: change the name in %s/" VM_CONFIG_FILE, vm->name,
				 vm->directory);
	return adapters_check(vmms, NULL, config, err);
}

/* One that our own daemon before this one has started is taken over; another's is not. */
static int check_lock(const struct vmms *vmms, const struct store_vm *vm, struct error *err)
{
	_cleanup_free_ char *lock = vm_config_path(WORKER_LOCK, vm->directory), *runtime = NULL;

	if (!lock || asprintf(&runtime, "%s/vms/%s", vmms->options->runtime, vm->id) < 0)
		return error_set(err, ENOMEM, "no memory");
	return worker_check_lock(lock, runtime, err);
}

static int take_in(struct vmms *vmms, const struct registration *what, struct machine **out, struct error *err)
{
	struct store_vm vm = {.phase = VM_READY, .directory = what->directory};
	json_t *config;
	int r = vm_config_load(&config, what->directory, err);

	if (r)
		return r;
	if (what->name)
		json_object_set_new(config, "name", json_string(what->name));
	snprintf(vm.id, sizeof(vm.id), "%s", json_string_value(json_object_get(config, "id")));
	vm.name = json_string_value(json_object_get(config, "name"));
	r = check_new(vmms, &vm, config, err);
	if (!r)
		r = check_again(what, config, err);
	if (!r)
		r = check_lock(vmms, &vm, err);
	/* Not before all else is well: the directory is another's until then. */
	if (!r && what->name)
		r = vm_config_save(config, what->directory, err);
	if (!r)
		r = machine_enter(vmms, &vm, out, err);
	if (!r) {
		machine_adopt(*out);
		vmms_event(vmms, *out, "vm.registered", "it is in %s", what->directory);
	}
	json_decref(config);
	return r;
}

static void looked(struct job *job, int result)
{
	struct registration *what = job->context;
	struct error why = job->error;
	struct machine *machine;

	if (!result && job->vmms->closing)
		result = error_set(&why, ESHUTDOWN, "the daemon ends: ask again when it is back");
	if (!result)
		result = take_in(job->vmms, what, &machine, &why);
	if (!result)
		memcpy(job->made, machine->id, sizeof(job->made));
	job_end(job, result ? &why : NULL);
	registration_free(what);
}

int machine_register(struct vmms *vmms, const char *directory, const char *name, bool outside, const char *kind, struct job **job,
    struct error *err)
{
	struct registration *what = calloc(1, sizeof(*what));
	int r;

	if (what) {
		what->directory = strdup(directory);
		what->name = name ? strdup(name) : NULL;
		what->outside = outside;
	}
	r = what && what->directory && (!name || what->name) ? job_new(job, vmms, NULL, kind, err)
							      : error_set(err, ENOMEM, "no memory");
	if (r) {
		registration_free(what);
		return r;
	}
	(*job)->work = look;
	(*job)->done = looked;
	(*job)->context = what;
	job_work(*job);
	return 0;
}
