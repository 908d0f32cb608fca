/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export.c - machines, and their checkpoints, copied into directories that any host can import.
 *
 * An export is made beside its place under a name of its own, which host.db knows until it is renamed. Of a machine that
 * runs a checkpoint is made first, which is temporary: the export is what the machine was then, and afterwards it is deleted,
 * also by a daemon that finds it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/automatic.h"
#include "vmms/checkpoint.h"
#include "vmms/copy.h"
#include "vmms/files.h"
#include "vmms/save.h"
#include "vmms/tree.h"

static const struct form form_to = {.kind = FORM_STRING, .text = "where a directory of the machine's name is made", .min = 1,
				    .max = 4000};
const struct form vm_export_form = {
    .kind = FORM_OBJECT, .fields = (const struct form_field[]){{"directory", &form_to, NULL, true}, {0}}};

/* A job's context. */
struct exporting {
	struct copy_plan *plan; /* NULL: not yet */
	struct machine *source; /* NULL: it may go on its way */
	char *to, *final;       /* the place that was asked for, and the directory there */
	char id[GUID_TEXT_SIZE]; /* of a machine that runs */
};

static void exporting_free(struct exporting *exporting)
{
	if (!exporting)
		return;
	if (exporting->source)
		exporting->source->readers--;
	copy_plan_free(exporting->plan);
	free(exporting->to);
	free(exporting->final);
	free(exporting);
}

static int export_work(struct job *job, struct error *err)
{
	struct exporting *exporting = job->context;
	_cleanup_free_ char *above = NULL;
	int r = copy_carry_out(exporting->plan, job, err);

	if (r)
		return r;
	if (asprintf(&above, "%s/..", exporting->final) < 0)
		return error_set(err, ENOMEM, "no memory");
	if (renameat2(AT_FDCWD, exporting->plan->directory, AT_FDCWD, exporting->final, RENAME_NOREPLACE))
		return error_set(err, errno, "%s: %s", exporting->final,
				 errno == EEXIST ? "is there already: choose another directory" : strerror(errno));
	return directory_sync(above, err);
}

static void end(struct job *job)
{
	struct error err = job->error;

	job_end(job, err.code ? &err : NULL);
	automatic_kick(job->vmms);
}

static void temporary_gone(struct job *step)
{
	end(step->then_context);
}

/* What became of it is in job->error. The machine is free again when its checkpoint is gone, so that is waited for. */
static void end_without_temporary(struct job *job, struct machine *machine)
{
	struct job *step = checkpoint_drop_temporary(machine);

	if (!step || step->ended) {
		end(job);
		return;
	}
	step->then = temporary_gone;
	step->then_context = job;
}

static void exported(struct job *job, int result)
{
	struct exporting *exporting = job->context;
	struct machine *machine = exporting->source;
	bool ran = *exporting->id;
	struct vmms *vmms = job->vmms;

	if (result && exporting->plan->made)
		directory_remove(exporting->plan->directory);
	store_leftover_remove(vmms->store, exporting->plan->directory, NULL);
	if (!result)
		vmms_event(vmms, machine, "vm.exported", "it is in %s", exporting->final);
	exporting_free(exporting);
	if (ran)
		end_without_temporary(job, machine);
	else
		end(job);
}

/* Where it goes. */
static struct exporting *exporting_new(const struct machine *machine, const char *to)
{
	struct exporting *exporting = calloc(1, sizeof(*exporting));

	if (exporting)
		exporting->to = strdup(to);
	if (exporting && exporting->to && asprintf(&exporting->final, "%s/%s", to, machine->name) > 0)
		return exporting;
	if (exporting)
		exporting->final = NULL;
	exporting_free(exporting);
	return NULL;
}

/* Of a configuration and checkpoints (NULL: none), which are taken over, that are of the machine; `state` (NULL: none): what it goes on
 * from. */
static int plan_export(struct exporting *exporting, json_t *config, json_t *tree, const char *state, const struct machine *machine)
{
	_cleanup_free_ char *temporary = NULL;
	char text[GUID_TEXT_SIZE];
	struct guid id;

	guid_random(&id);
	if (config && asprintf(&temporary, "%s/.export-%s", exporting->to, guid_format(&id, text)) > 0) {
		exporting->plan = copy_plan_new(COPY_EXPORT, config, tree, machine->directory, temporary);
	} else {
		json_decref(config);
		json_decref(tree);
	}
	return exporting->plan && (!state || !copy_plan_state(exporting->plan, state)) ? 0 : -ENOMEM;
}

static int check_place(const struct exporting *exporting, struct error *err)
{
	struct stat st;

	if (stat(exporting->to, &st) || !S_ISDIR(st.st_mode))
		return error_set(err, ENOENT, "%s is no directory that is there: make it first", exporting->to);
	return lstat(exporting->final, &st) ? 0 : error_set(err, EEXIST, "%s is there already: choose another directory", exporting->final);
}

/* While it is carried out the machine may run, if it runs, but its checkpoints stay. */
static int carry_out(struct exporting *exporting, struct machine *machine, struct job *job, struct error *err)
{
	int r = store_leftover_add(machine->vmms->store, exporting->plan->directory, err);

	if (r)
		return r;
	exporting->source = machine;
	machine->readers++;
	job->cancel = NULL;
	job->work = export_work;
	job->done = exported;
	job->context = exporting;
	job_work(job);
	return 0;
}

/* Takes configuration and checkpoints over. */
static int export_begin(struct machine *machine, json_t *config, json_t *tree, const char *state, const char *to, const char *kind,
    struct job **job, struct error *err)
{
	struct exporting *exporting = exporting_new(machine, to);
	int r;

	if (!exporting) {
		json_decref(config);
		json_decref(tree);
		return error_set(err, ENOMEM, "no memory");
	}
	r = plan_export(exporting, config, tree, state, machine) ? error_set(err, ENOMEM, "no memory") : check_place(exporting, err);
	if (!r)
		r = job_new(job, machine->vmms, machine->link ? NULL : machine, kind, err);
	if (!r) {
		r = carry_out(exporting, machine, *job, err);
		if (r)
			job_end(*job, err);
	}
	if (r)
		exporting_free(exporting);
	return r;
}

static int check_to(const char *to, struct error *err)
{
	return *to == '/' ? 0 : error_set(err, EINVAL, "directory %s: name it from the root on", to);
}

/* --- of a machine that runs ----------------------------------------------------------------------------- */

/* The machine as it was when the checkpoint was made: with its state, and with all checkpoints but that one. */
static int plan_as_of(struct exporting *exporting, const struct machine *machine, json_t *tree, const json_t *checkpoint)
{
	json_t *config = json_deep_copy(json_object_get(checkpoint, "config")), *state = json_incref(json_object_get(checkpoint, "state")), *disk;
	bool some;
	size_t i;
	int r;

	json_object_set_new(config, "name", json_string(machine->name));
	tree_remove(tree, json_string_value(json_object_get(checkpoint, "id")));
	/* What it has written since is in disks that continue those of then. */
	json_array_foreach(json_object_get(machine->config, "disks"), i, disk) {
		const char *path = json_string_value(json_object_get(disk, "path"));

		if (path && !tree_uses(tree, config, path))
			tree_forget(tree, path);
	}
	some = json_array_size(json_object_get(tree, "checkpoints")) || json_array_size(json_object_get(tree, "disks"));
	r = plan_export(exporting, config, some ? json_incref(tree) : NULL, json_string_value(state), machine);
	json_decref(state);
	return r;
}

static int export_temporary(struct exporting *exporting, struct machine *machine, struct job *job, struct error *err)
{
	const json_t *checkpoint;
	json_t *tree;
	int r = tree_load(&tree, machine->directory, err);

	if (r)
		return r;
	/* It has just been made; that of an export before may still be there. */
	checkpoint = tree_temporary(tree, NULL);
	if (!checkpoint)
		r = error_set(err, EIO, "the checkpoint that was made for it is not there");
	else if (plan_as_of(exporting, machine, tree, checkpoint))
		r = error_set(err, ENOMEM, "no memory");
	else
		r = carry_out(exporting, machine, job, err);
	json_decref(tree);
	return r;
}

/* The export's own job is of no machine, so that the checkpoint's can be. */
static void temporary_made(struct job *step)
{
	struct job *job = step->then_context;
	struct exporting *exporting = job->context;
	struct machine *machine = vmms_find(job->vmms, exporting->id);
	struct error err = step->error;
	int r = -err.code;

	if (!r && !machine)
		r = error_set(&err, ENOENT, "the machine is gone");
	if (!r && job->stop)
		r = error_set(&err, ECANCELED, "exporting was stopped, as was asked");
	if (!r)
		r = export_temporary(exporting, machine, job, &err);
	if (!r)
		return;
	exporting_free(exporting);
	job->context = NULL;
	job->cancel = NULL;
	job->error = err;
	if (machine)
		end_without_temporary(job, machine);
	else
		end(job);
}

static int cancel_temporary(struct job *job, struct error *err)
{
	const struct exporting *exporting = job->context;
	struct machine *machine = vmms_find(job->vmms, exporting->id);

	(void)err;
	if (machine && machine->job && machine->job->then_context == job)
		machine->job->stop = true;
	return 0;
}

static int export_running(struct machine *machine, const char *to, struct job **job, struct error *err)
{
	struct exporting *exporting = exporting_new(machine, to);
	struct job *step;
	int r = exporting ? check_place(exporting, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = job_new(job, machine->vmms, NULL, "vm.export", err);
	if (r) {
		exporting_free(exporting);
		return r;
	}
	r = checkpoint_create_temporary(machine, &step, err);
	if (r) {
		job_end(*job, err);
		exporting_free(exporting);
		return r;
	}
	memcpy(exporting->id, machine->id, sizeof(exporting->id));
	(*job)->context = exporting;
	(*job)->cancel = cancel_temporary;
	step->then = temporary_made;
	step->then_context = *job;
	return 0;
}

/* --- the verbs ------------------------------------------------------------------------------------------ */

int machine_export(struct machine *machine, const json_t *body, struct job **job, struct error *err)
{
	const char *to = json_string_value(json_object_get(body, "directory"));
	unsigned off = 1u << MACHINE_OFF | 1u << MACHINE_SAVED, on = 1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED;
	json_t *tree;
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, off | on, "exported", err);
	if (!r)
		r = check_to(to, err);
	if (!r && machine->link)
		return export_running(machine, to, job, err);
	if (!r)
		r = checkpoint_check_start(machine, err);
	if (!r)
		r = tree_load_some(&tree, machine->directory, err);
	if (r)
		return r;
	return export_begin(machine, json_deep_copy(machine->config), tree, saved_exists(machine) ? SAVED_FILE : NULL, to, "vm.export",
			    job, err);
}

int checkpoint_export(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err)
{
	const char *to = json_string_value(json_object_get(body, "directory")), *state;
	json_t *tree, *checkpoint, *config;
	int r;

	machine_refresh(machine);
	r = machine_check_free(machine, err);
	if (!r)
		r = check_to(to, err);
	if (!r)
		r = machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
	if (!r)
		r = tree_load(&tree, machine->directory, err);
	if (r)
		return r;
	checkpoint = tree_find(tree, which);
	if (!checkpoint) {
		json_decref(tree);
		return error_set(err, ENOENT, "machine \"%s\" has no checkpoint \"%.100s\": bulkhead checkpoint list shows them",
				 machine->name, which);
	}
	config = json_deep_copy(json_object_get(checkpoint, "config"));
	/* The machine may have another name by now. */
	json_object_set_new(config, "name", json_string(machine->name));
	state = json_string_value(json_object_get(checkpoint, "state"));
	r = export_begin(machine, config, NULL, state, to, "checkpoint.export", job, err);
	json_decref(tree);
	return r;
}

/* Not only because what it is on is not mounted. */
static bool is_away(const char *path)
{
	_cleanup_free_ char *above = NULL;
	struct stat st;

	return lstat(path, &st) && asprintf(&above, "%.*s", (int)(strrchr(path, '/') - path), path) >= 0 && !lstat(*above ? above : "/", &st);
}

void exports_tidy(struct vmms *vmms)
{
	json_t *paths = NULL, *path;
	size_t i;

	if (store_leftover_list(vmms->store, &paths, NULL))
		return;
	json_array_foreach(paths, i, path) {
		directory_remove(json_string_value(path));
		if (is_away(json_string_value(path)))
			store_leftover_remove(vmms->store, json_string_value(path), NULL);
	}
	json_decref(paths);
}
