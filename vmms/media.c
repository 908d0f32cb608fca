/* SPDX-License-Identifier: GPL-2.0-or-later */
/* media.c - what is in a machine's DVD drives, running or not (device_change.h). */
#include <errno.h>
#include <string.h>

#include "vmms/disks.h"

struct medium_change {
	struct device_change change;
	size_t at;     /* of the drive, in vm.json */
	size_t number; /* of the drive, for people */
	json_t *before, *after; /* as vm.json has the drive, and is to have it */
	char *path;    /* of the new medium, from the root on; NULL: none */
	bool force;
	unsigned controller, lun;
};

static const struct medium_change *of(const struct device_change *change)
{
	return (const struct medium_change *)change;
}

static int write_drive(struct machine *machine, size_t at, const json_t *drive, struct error *err)
{
	json_t *config = json_deep_copy(machine->config);

	if (!config || json_array_set_new(json_object_get(config, "disks"), at, json_deep_copy(drive))) {
		json_decref(config);
		return error_set(err, ENOMEM, "no memory");
	}
	if (form_check(&vm_config_form, config, err)) {
		json_decref(config);
		return -err->code;
	}
	return machine_set_config(machine, config, err);
}

/* --- as a change ---------------------------------------------------------------------------------------- */

static json_t *plan_of(const struct device_change *change)
{
	return json_pack("{s:s, s:I, s:O, s:O}", "kind", "change-medium", "at", (json_int_t)of(change)->at, "before", of(change)->before,
			 "after", of(change)->after);
}

static json_t *command_of(const struct device_change *change)
{
	const struct medium_change *medium = of(change);
	char address[32];

	snprintf(address, sizeof(address), "%u:%u", medium->controller, medium->lun);
	return json_pack("{s:s, s:s, s:b, s:s*, s:b}", "command", "change-medium", "address", address, "force", medium->force, "path",
			 medium->path, "fd", medium->path != NULL);
}

static int open_medium(struct device_change *change, struct error *err)
{
	return of(change)->path ? disk_open_file(change, of(change)->path, true, err) : 0;
}

static int write_change(const struct device_change *change, struct error *err)
{
	return write_drive(change->machine, of(change)->at, of(change)->after, err);
}

static void tell(const struct device_change *change)
{
	const struct medium_change *medium = of(change);

	if (medium->path)
		vmms_event(change->machine->vmms, change->machine, "vm.medium-changed", "DVD drive %zu has %s in it", medium->number,
			   medium->path);
	else
		vmms_event(change->machine->vmms, change->machine, "vm.medium-changed", "DVD drive %zu is empty", medium->number);
}

static void free_change(struct device_change *change)
{
	struct medium_change *medium = (struct medium_change *)change;

	json_decref(medium->before);
	json_decref(medium->after);
	free(medium->path);
	free(medium);
}

static const struct device_change_ops ops = {
    .plan = plan_of, .command = command_of, .open = open_medium, .write = write_change, .tell = tell, .free = free_change};

static struct medium_change *change_new(struct machine *machine, size_t at, const char *path)
{
	struct medium_change *change = calloc(1, sizeof(*change));

	if (!change)
		return NULL;
	change->change = (struct device_change){.ops = &ops, .machine = machine};
	change->at = at;
	change->before = json_deep_copy(json_array_get(json_object_get(machine->config, "disks"), at));
	change->after = json_deep_copy(change->before);
	if (*path) {
		change->path = vm_config_path(path, machine->directory);
		json_object_set_new(change->after, "path", json_string(path));
	} else {
		json_object_del(change->after, "path");
	}
	if (change->before && change->after && !*path == !change->path)
		return change;
	free_change(&change->change);
	return NULL;
}

/* --- the verb ------------------------------------------------------------------------------------------- */

static void place_told(void *context, const json_t *answer, const struct error *err)
{
	struct medium_change *change = context;
	struct machine *machine = change->change.machine;
	struct error why;

	if (!machine->link) {
		free_change(&change->change); /* the job has ended with the machine */
	} else if (err) {
		device_change_end(&change->change, err);
	} else if (disk_place(machine, answer, change->at, &change->controller, &change->lun)) {
		device_change_run(&change->change, machine->job, job_work);
	} else {
		error_set(&why, ENOENT, "the running machine has no such DVD drive");
		device_change_end(&change->change, &why);
	}
}

/* A medium is in one drive at a time: by its path they are told apart. */
static int check_medium(const struct machine *machine, size_t at, const char *path, struct error *err)
{
	ssize_t other = *path ? disk_find(machine->config, machine->directory, path) : -1;

	return other < 0 || (size_t)other == at ? 0
						: error_set(err, EEXIST, "machine \"%s\" has disk %s already", machine->name, path);
}

int machine_change_medium(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err)
{
	const char *path = json_string_value(json_object_get(body, "medium"));
	struct medium_change *change;
	ssize_t at;
	int r = device_change_check(machine, "given another medium", err);

	if (r)
		return r;
	at = drive_find(machine->config, which);
	if (at < 0)
		return error_set(err, ENOENT, "machine \"%s\" has no DVD drive %s", machine->name, which);
	r = check_medium(machine, (size_t)at, path, err);
	if (r)
		return r;
	change = change_new(machine, (size_t)at, path);
	if (!change)
		return error_set(err, ENOMEM, "no memory");
	change->number = strtoul(which, NULL, 10);
	change->force = json_is_true(json_object_get(body, "force"));
	if (!machine->link)
		return device_change_write(&change->change, "vm.change-medium", job, err);
	r = job_new(job, machine->vmms, machine, "vm.change-medium", err);
	if (r)
		free_change(&change->change);
	else
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), place_told, change);
	return r;
}

/* --- after a daemon that died ------------------------------------------------------------------------- */

static bool has_path(const struct machine *machine, const json_t *drive, const json_t *status)
{
	const char *path = json_string_value(json_object_get(drive, "path"));
	_cleanup_free_ char *whole = path ? vm_config_path(path, machine->directory) : NULL;

	return whole && disk_is_with_worker(status, whole);
}

int medium_finish(struct machine *machine, const json_t *plan, const json_t *status, struct error *err)
{
	const json_t *before = json_object_get(plan, "before"), *after = json_object_get(plan, "after");
	const char *kind = json_string_value(json_object_get(plan, "kind"));
	size_t at = (size_t)json_integer_value(json_object_get(plan, "at"));
	bool done;

	if (!kind || strcmp(kind, "change-medium"))
		return 1;
	/* A drive that was to get a medium has it; one that was to lose it has it no more. */
	done = json_object_get(after, "path") ? has_path(machine, after, status) : !has_path(machine, before, status);
	if (!done || !json_equal(json_array_get(json_object_get(machine->config, "disks"), at), before))
		return 0;
	return write_drive(machine, at, after, err);
}
