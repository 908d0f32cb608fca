/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disks.c - disks added to a machine and removed from it, running or not.
 *
 * A running machine's worker can open nothing: it is given the open file. The worker comes first, vm.json follows, and
 * in between host.db knows of it: whoever adopts the machine asks the worker which of the two it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/checkpoint.h"

struct disk_change {
	json_t *disk;     /* as vm.json has it, or is to have it */
	char *path;       /* from the root on */
	bool add;
	int fd;
	unsigned controller, lun; /* where a disk is that is to be removed */
};

static void change_free(struct disk_change *change)
{
	if (!change)
		return;
	if (change->fd >= 0)
		close(change->fd);
	json_decref(change->disk);
	free(change->path);
	free(change);
}

static struct disk_change *change_new(const struct machine *machine, const json_t *disk, bool add)
{
	struct disk_change *change = calloc(1, sizeof(*change));

	if (!change)
		return NULL;
	change->fd = -1;
	change->add = add;
	change->disk = json_deep_copy(disk);
	change->path = vm_config_path(json_string_value(json_object_get(disk, "path")), machine->directory);
	if (change->disk && change->path)
		return change;
	change_free(change);
	return NULL;
}

/* The place of a disk in a configuration; -1: it has none such. */
static ssize_t find_disk(const json_t *config, const char *directory, const char *path)
{
	_cleanup_free_ char *wanted = vm_config_path(path, directory);
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		_cleanup_free_ char *has = vm_config_path(json_string_value(json_object_get(disk, "path")), directory);

		if (has && wanted && !strcmp(has, wanted))
			return (ssize_t)i;
	}
	return -1;
}

/* vm.json with the disk or without it; nothing to do is no error. */
static int write_config(struct machine *machine, const json_t *disk, bool with, struct error *err)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	ssize_t at = find_disk(machine->config, machine->directory, path);
	json_t *config;

	if ((at >= 0) == with)
		return 0;
	config = json_deep_copy(machine->config);
	if (!config)
		return error_set(err, ENOMEM, "no memory");
	if (with)
		json_array_append_new(json_object_get(config, "disks"), json_deep_copy(disk));
	else
		json_array_remove(json_object_get(config, "disks"), (size_t)at);
	if (form_check(&vm_config_form, config, err)) {
		json_decref(config);
		return -err->code;
	}
	return machine_set_config(machine, config, err);
}

/* --- while it runs ------------------------------------------------------------------------------------ */

static void end(struct machine *machine, struct disk_change *change, const struct error *err)
{
	struct job *job = machine->job;

	if (!err)
		vmms_event(machine->vmms, machine, change->add ? "vm.disk-added" : "vm.disk-removed", "%s", change->path);
	if (job)
		job_end(job, err);
	change_free(change);
}

static void nothing(void *context, const json_t *answer, const struct error *err)
{
	(void)context;
	(void)answer;
	(void)err;
}

static void take_back(struct machine *machine, const json_t *answer)
{
	char address[32];

	snprintf(address, sizeof(address), "%u:%u", (unsigned)json_integer_value(json_object_get(answer, "controller")),
		 (unsigned)json_integer_value(json_object_get(answer, "lun")));
	worker_link_command(machine->link, json_pack("{s:s, s:s}", "command", "remove-disk", "address", address), nothing, NULL);
}

struct settling {
	struct machine *machine;
	struct disk_change *change;
};

static void worker_did(void *context, const json_t *answer, const struct error *err)
{
	struct settling *s = context;
	struct machine *machine = s->machine;
	struct disk_change *change = s->change;
	struct error why = {0};

	free(s);
	if (err && err->code == ECONNRESET && !machine->link) {
		change_free(change); /* the job has ended with the machine */
		return;
	}
	/* No answer is no refusal: the worker is asked what became of it. */
	if (err) {
		if (err->code != ETIMEDOUT && err->code != ECONNRESET)
			store_work_set(machine->vmms->store, machine->id, NULL, NULL);
		else
			machine->untold = true;
		end(machine, change, err);
		return;
	}
	if (write_config(machine, change->disk, change->add, &why) && change->add)
		take_back(machine, answer);
	if (!why.code)
		store_work_set(machine->vmms->store, machine->id, NULL, &why);
	end(machine, change, why.code ? &why : NULL);
}

static void ask_worker(struct machine *machine, struct disk_change *change)
{
	struct settling *s = calloc(1, sizeof(*s));
	json_t *plan = json_pack("{s:s, s:O}", "kind", change->add ? "add-disk" : "remove-disk", "disk", change->disk);
	struct error err = {0};
	json_t *command;
	char address[32];
	int fd;

	if (!s || !plan || store_work_set(machine->vmms->store, machine->id, plan, &err)) {
		if (!err.code)
			error_set(&err, ENOMEM, "no memory");
		json_decref(plan);
		free(s);
		end(machine, change, &err);
		return;
	}
	json_decref(plan);
	s->machine = machine;
	s->change = change;
	if (change->add) {
		fd = change->fd;
		change->fd = -1;
		command = json_pack("{s:s, s:s, s:b, s:O, s:O}", "command", "add-disk", "path", change->path, "fd", 1,
				    "read_only", json_object_get(change->disk, "read_only"), "controller",
				    json_object_get(change->disk, "controller"));
		worker_link_command_fds(machine->link, command, &fd, 1, false, worker_did, s);
	} else {
		snprintf(address, sizeof(address), "%u:%u", change->controller, change->lun);
		command = json_pack("{s:s, s:s}", "command", "remove-disk", "address", address);
		worker_link_command(machine->link, command, worker_did, s);
	}
}

static int open_file(struct job *job, struct error *err)
{
	struct disk_change *change = job->context;
	bool read_only = json_is_true(json_object_get(change->disk, "read_only"));
	struct stat st;

	change->fd = open(change->path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (change->fd < 0 || fstat(change->fd, &st))
		return error_set(err, errno, "%s: %s", change->path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, EINVAL, "%s is neither a file nor a block device, so no disk can be in it", change->path);
	return 0;
}

static void file_opened(struct job *job, int result)
{
	struct machine *machine = job->machine;
	struct disk_change *change = job->context;

	struct error err = job->error;

	job->work = NULL;
	if (!result && !machine->link)
		result = error_set(&err, EIO, "the machine went off meanwhile");
	if (result)
		end(machine, change, &err);
	else
		ask_worker(machine, change);
}

/* --- the verbs ---------------------------------------------------------------------------------------- */

#define ON (1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED)

static int check(struct machine *machine, const char *what, struct error *err)
{
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, 1u << MACHINE_OFF | ON, what, err);
	if (!r)
		r = machine_check_free(machine, err);
	if (r)
		return r;
	return machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
}

/* What its checkpoints say to one disk more, or to the one less that stands at `less`. */
static int check_checkpoints(const struct machine *machine, const json_t *more, size_t less, struct error *err)
{
	json_t *disks = json_copy(json_object_get(machine->config, "disks"));
	int r;

	if (more)
		json_array_append_new(disks, json_deep_copy(more));
	else
		json_array_remove(disks, less);
	r = checkpoint_check_disks(machine, disks, err);
	json_decref(disks);
	return r;
}

/* Of a machine that is off it is a change of vm.json, and done at once. */
static int change_config(struct machine *machine, struct disk_change *change, struct job **job, struct error *err)
{
	struct error why = {0};
	int r = job_new(job, machine->vmms, machine, change->add ? "vm.add-disk" : "vm.remove-disk", err);

	if (r) {
		change_free(change);
		return r;
	}
	r = write_config(machine, change->disk, change->add, &why);
	end(machine, change, r ? &why : NULL);
	return 0;
}

int machine_add_disk(struct machine *machine, const json_t *disk, struct job **job, struct error *err)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	struct disk_change *change;
	int r = check(machine, "given a disk", err);

	if (r)
		return r;
	if (find_disk(machine->config, machine->directory, path) >= 0)
		return error_set(err, EEXIST, "machine \"%s\" has disk %s already", machine->name, path);
	if (json_array_size(json_object_get(machine->config, "disks")) >= VM_DISKS_MAX)
		return error_set(err, EINVAL, "machine \"%s\" has %d disks: that is as many as there may be", machine->name,
				 VM_DISKS_MAX);
	if (machine->link && !strcmp(json_string_value(json_object_get(disk, "kind")), "dvd"))
		return error_set(err, ENOTSUP, "a DVD drive can be added while machine \"%s\" is off", machine->name);
	r = check_checkpoints(machine, disk, 0, err);
	if (r)
		return r;
	change = change_new(machine, disk, true);
	if (!change)
		return error_set(err, ENOMEM, "no memory");
	if (!machine->link)
		return change_config(machine, change, job, err);
	r = job_new(job, machine->vmms, machine, "vm.add-disk", err);
	if (r) {
		change_free(change);
		return r;
	}
	(*job)->work = open_file;
	(*job)->done = file_opened;
	(*job)->context = change;
	job_work(*job);
	return 0;
}

/* Where the worker has the disk of this path. */
static bool worker_has(const json_t *status, const char *path, unsigned *controller, unsigned *lun)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(status, "disks"), i, disk) {
		const char *has = json_string_value(json_object_get(disk, "path"));

		if (!has || strcmp(has, path))
			continue;
		*controller = (unsigned)json_integer_value(json_object_get(disk, "controller"));
		*lun = (unsigned)json_integer_value(json_object_get(disk, "lun"));
		return true;
	}
	return false;
}

static void place_told(void *context, const json_t *answer, const struct error *err)
{
	struct settling *s = context;
	struct machine *machine = s->machine;
	struct disk_change *change = s->change;
	struct error why;

	free(s);
	if (!machine->link) {
		change_free(change);
		return;
	}
	if (err) {
		end(machine, change, err);
	} else if (worker_has(answer, change->path, &change->controller, &change->lun)) {
		ask_worker(machine, change);
	} else {
		error_set(&why, ENOENT, "the running machine has no disk %s", change->path);
		end(machine, change, &why);
	}
}

int machine_remove_disk(struct machine *machine, const char *path, struct job **job, struct error *err)
{
	struct disk_change *change;
	struct settling *s;
	ssize_t at;
	int r = check(machine, "relieved of a disk", err);

	if (r)
		return r;
	at = find_disk(machine->config, machine->directory, path);
	if (at < 0)
		return error_set(err, ENOENT, "machine \"%s\" has no disk %s", machine->name, path);
	r = check_checkpoints(machine, NULL, (size_t)at, err);
	if (r)
		return r;
	change = change_new(machine, json_array_get(json_object_get(machine->config, "disks"), (size_t)at), false);
	if (!change)
		return error_set(err, ENOMEM, "no memory");
	if (!machine->link)
		return change_config(machine, change, job, err);
	s = calloc(1, sizeof(*s));
	r = s ? job_new(job, machine->vmms, machine, "vm.remove-disk", err) : error_set(err, ENOMEM, "no memory");
	if (r) {
		free(s);
		change_free(change);
		return r;
	}
	s->machine = machine;
	s->change = change;
	worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), place_told, s);
	return 0;
}

void machine_disks_settle(struct machine *machine, const json_t *status)
{
	unsigned controller, lun;
	struct error err = {0};
	const char *kind;
	json_t *plan;

	if (machine->job || store_work_get(machine->vmms->store, machine->id, &plan, &err) || !plan)
		return;
	kind = json_string_value(json_object_get(plan, "kind"));
	if (kind && (!strcmp(kind, "add-disk") || !strcmp(kind, "remove-disk"))) {
		json_t *disk = json_object_get(plan, "disk");
		_cleanup_free_ char *path =
		    vm_config_path(json_string_value(json_object_get(disk, "path")), machine->directory);

		if (path && !write_config(machine, disk, worker_has(status, path, &controller, &lun), &err))
			store_work_set(machine->vmms->store, machine->id, NULL, &err);
		if (err.code)
			vmms_event(machine->vmms, machine, "vm.failed", "%s", err.text);
	}
	json_decref(plan);
}
