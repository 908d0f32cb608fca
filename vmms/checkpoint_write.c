/* SPDX-License-Identifier: GPL-2.0-or-later */
/* checkpoint_write.c - what vm.json and checkpoints.json are to say comes to be, with what goes then. */
#include <errno.h>
#include <string.h>

#include "vmms/checkpoint_change.h"

/* Both are written, and the machine is that. */
static int finish(struct machine *machine, const json_t *pending, struct error *err)
{
	int r = pending_finish(pending, machine->directory, err);

	if (r)
		return r;
	json_decref(machine->config);
	machine->config = json_incref(json_object_get(pending, "vm"));
	return 0;
}

int change_remove_left(const struct machine *machine, const json_t *names, struct error *err)
{
	json_t *tree;
	int r = tree_load(&tree, machine->directory, err);

	if (r)
		return r;
	tree_remove_unnamed(tree, machine->config, machine->directory, names);
	json_decref(tree);
	return store_work_set(machine->vmms->store, machine->id, NULL, err);
}

int change_write_down(struct machine *machine, json_t *tree, json_t *config, json_t *remove, const char *state, struct error *err)
{
	json_t *pending;
	int r = pending_save(&pending, config, tree, state, remove, machine->directory, err);

	if (!r)
		r = finish(machine, pending, err);
	json_decref(pending);
	return r;
}

int change_write(struct machine *machine, json_t *tree, json_t *config, json_t *remove, const char *state, struct error *err)
{
	int r = change_write_down(machine, tree, config, remove, state, err);

	return r ? r : store_work_set(machine->vmms->store, machine->id, NULL, err);
}

int change_commit(struct machine *machine, const struct change *change, struct error *err)
{
	return change_write(machine, change->tree, change->config, change->remove, change->link, err);
}

static int end_pending(struct machine *machine, struct error *err)
{
	_cleanup_free_ char *lock = vm_config_path(WORKER_LOCK, machine->directory);
	json_t *pending = NULL;
	int r = lock ? 0 : error_set(err, ENOMEM, "no memory");

	/* Whose worker runs it, that daemon is at it. */
	if (!r && !machine->link)
		r = worker_check_lock(lock, machine->runtime, err);
	if (!r)
		r = pending_load(&pending, machine->directory, err);
	if (!r)
		r = finish(machine, pending, err);
	json_decref(pending);
	return r;
}

int checkpoint_end_pending(struct machine *machine, struct error *err)
{
	return pending_is_there(machine->directory) ? end_pending(machine, err) : 0;
}
