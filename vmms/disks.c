/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disks.c - disks added to a machine and removed from it, running or not (device_change.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "vmms/checkpoint.h"
#include "vmms/disks.h"

struct disk_change {
	struct device_change change;
	json_t *disk;     /* as vm.json has it, or is to have it */
	char *path;       /* from the root on; NULL: a DVD drive with no medium */
	json_t *parents;  /* what it continues, from the uppermost on; likewise */
	bool add;
	size_t at; /* where vm.json has one that is to be removed */
	unsigned controller, lun; /* where a disk is that is to be removed */
};

ssize_t disk_find(const json_t *config, const char *directory, const char *path)
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

bool disk_is_dvd(const json_t *disk)
{
	return !strcmp(json_string_value(json_object_get(disk, "kind")), "dvd");
}

ssize_t drive_find(const json_t *config, const char *which)
{
	char *rest;
	unsigned long left = strtoul(which, &rest, 10);
	json_t *disk;
	size_t i;

	if (*which < '0' || *which > '9' || *rest)
		return -1;
	json_array_foreach(json_object_get(config, "disks"), i, disk)
		if (disk_is_dvd(disk) && !left--)
			return (ssize_t)i;
	return -1;
}

/* Both of vm.json and of a worker. */
static bool is_empty_drive(const json_t *disk, json_int_t controller)
{
	return !json_object_get(disk, "path") && json_integer_value(json_object_get(disk, "controller")) == controller;
}

static size_t count_empty(const json_t *disks, size_t before, json_int_t controller)
{
	size_t i, count = 0;
	json_t *disk;

	json_array_foreach((json_t *)(uintptr_t)disks, i, disk)
		count += i < before && is_empty_drive(disk, controller);
	return count;
}

/* vm.json with the disk, or without the one at `at` if that is not -1. */
static int write_config(struct machine *machine, const json_t *disk, ssize_t at, struct error *err)
{
	bool with = at < 0;
	json_t *config;

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

/* --- as a change ---------------------------------------------------------------------------------------- */

static const struct disk_change *of(const struct device_change *change)
{
	return (const struct disk_change *)change;
}

static json_t *plan_of(const struct device_change *change)
{
	return json_pack("{s:s, s:O, s:I}", "kind", of(change)->add ? "add-disk" : "remove-disk", "disk", of(change)->disk, "at",
			 (json_int_t)of(change)->at);
}

static json_t *command_of(const struct device_change *change)
{
	const struct disk_change *disk = of(change);
	char address[32];

	snprintf(address, sizeof(address), "%u:%u", disk->controller, disk->lun);
	if (!disk->add)
		return json_pack("{s:s, s:s}", "command", "remove-disk", "address", address);
	if (!disk->path)
		return json_pack("{s:s, s:O, s:b}", "command", "add-disk", "controller", json_object_get(disk->disk, "controller"),
				 "dvd", 1);
	return json_pack("{s:s, s:s, s:b, s:O, s:O, s:b, s:O}", "command", "add-disk", "path", disk->path, "fd", 1, "read_only",
			 json_object_get(disk->disk, "read_only"), "controller", json_object_get(disk->disk, "controller"), "dvd",
			 disk_is_dvd(disk->disk), "parents", disk->parents);
}

int disk_open_file(struct device_change *change, const char *path, bool read_only, struct error *err)
{
	int fd = disk_file_open(path, read_only ? O_RDONLY : O_RDWR);
	struct stat st;

	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	change->fds[change->fd_count++] = fd;
	if (fstat(fd, &st))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, EINVAL, "%s is neither a file nor a block device, so no disk can be in it", path);
	return 0;
}

/* Its file, and those that it continues, as it says itself; the worker looks whether what it was given belongs together. */
static int open_files(struct device_change *change, struct error *err)
{
	struct disk_change *disk = (struct disk_change *)change;
	struct disk_open_options reading = {.read_only = true, .format = disk_is_dvd(disk->disk) ? DISK_FORMAT_RAW : DISK_FORMAT_AUTO};
	bool read_only = disk_is_dvd(disk->disk) || json_is_true(json_object_get(disk->disk, "read_only"));
	struct disk *opened;
	int r;

	if (!disk->path)
		return 0;
	r = disk_open_file(change, disk->path, read_only, err);
	if (!r)
		r = disk_open(&opened, disk->path, &reading, err);
	if (r)
		return r;
	for (const struct disk *parent = disk_parent(opened); parent && !r; parent = disk_parent(parent)) {
		_cleanup_free_ char *path = realpath(disk_path(parent), NULL);

		if (!path)
			r = error_set(err, errno, "%s: %s", disk_path(parent), strerror(errno));
		else if (change->fd_count == WORKER_FDS_MAX)
			r = error_set(err, EMLINK, "%s: more than %u files in a chain", disk->path, WORKER_FDS_MAX);
		else if (json_array_append_new(disk->parents, json_string(path)))
			r = error_set(err, EINVAL, "%s: the name is no UTF-8: rename the file", path);
		else
			r = disk_open_file(change, path, true, err);
	}
	disk_close(opened, NULL);
	return r;
}

static int write_change(const struct device_change *change, struct error *err)
{
	return write_config(change->machine, of(change)->disk, of(change)->add ? -1 : (ssize_t)of(change)->at, err);
}

static void nothing(void *context, const json_t *answer, const struct error *err)
{
	(void)context;
	(void)answer;
	(void)err;
}

/* What vm.json cannot be told of is taken from the worker again. */
static void made(const struct device_change *change, const json_t *answer, bool written)
{
	char address[32];

	if (written || !of(change)->add)
		return;
	snprintf(address, sizeof(address), "%u:%u", (unsigned)json_integer_value(json_object_get(answer, "controller")),
		 (unsigned)json_integer_value(json_object_get(answer, "lun")));
	worker_link_command(change->machine->link, json_pack("{s:s, s:s}", "command", "remove-disk", "address", address), nothing, NULL);
}

static void tell(const struct device_change *change)
{
	vmms_event(change->machine->vmms, change->machine, of(change)->add ? "vm.disk-added" : "vm.disk-removed", "%s",
		   of(change)->path ? of(change)->path : "a DVD drive with no medium");
}

static void free_change(struct device_change *change)
{
	struct disk_change *disk = (struct disk_change *)change;

	json_decref(disk->disk);
	json_decref(disk->parents);
	free(disk->path);
	free(disk);
}

static const struct device_change_ops ops = {
    .plan = plan_of, .command = command_of, .open = open_files, .write = write_change, .made = made, .tell = tell, .free = free_change};

static struct disk_change *change_new(struct machine *machine, const json_t *disk, bool add)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	struct disk_change *change = calloc(1, sizeof(*change));

	if (!change)
		return NULL;
	change->change = (struct device_change){.ops = &ops, .machine = machine};
	change->add = add;
	change->disk = json_deep_copy(disk);
	change->path = path ? vm_config_path(path, machine->directory) : NULL;
	change->parents = json_array();
	if (change->disk && !path == !change->path && change->parents)
		return change;
	free_change(&change->change);
	return NULL;
}

/* --- the verbs ---------------------------------------------------------------------------------------- */

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

int machine_add_disk(struct machine *machine, const json_t *disk, struct job **job, struct error *err)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	struct disk_change *change;
	int r = device_change_check(machine, "given a disk", err);

	if (r)
		return r;
	if (path && disk_find(machine->config, machine->directory, path) >= 0)
		return error_set(err, EEXIST, "machine \"%s\" has disk %s already", machine->name, path);
	if (json_array_size(json_object_get(machine->config, "disks")) >= VM_DISKS_MAX)
		return error_set(err, EINVAL, "machine \"%s\" has %d disks: that is as many as there may be", machine->name,
				 VM_DISKS_MAX);
	r = check_checkpoints(machine, disk, 0, err);
	if (r)
		return r;
	change = change_new(machine, disk, true);
	if (!change)
		return error_set(err, ENOMEM, "no memory");
	if (!machine->link)
		return device_change_write(&change->change, "vm.add-disk", job, err);
	r = job_new(job, machine->vmms, machine, "vm.add-disk", err);
	if (r)
		free_change(&change->change);
	else
		device_change_run(&change->change, *job, job_work);
	return r;
}

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

bool disk_is_with_worker(const json_t *status, const char *path)
{
	unsigned controller, lun;

	return worker_has(status, path, &controller, &lun);
}

bool disk_place(const struct machine *machine, const json_t *status, size_t at, unsigned *controller, unsigned *lun)
{
	const json_t *disks = json_object_get(machine->config, "disks"), *wanted = json_array_get(disks, at);
	json_int_t on = json_integer_value(json_object_get(wanted, "controller"));
	const char *path = json_string_value(json_object_get(wanted, "path"));
	_cleanup_free_ char *whole = path ? vm_config_path(path, machine->directory) : NULL;
	size_t i, before = count_empty(disks, at, on);
	json_t *disk;

	if (path)
		return whole && worker_has(status, whole, controller, lun);
	json_array_foreach(json_object_get(status, "disks"), i, disk) {
		if (!is_empty_drive(disk, on) || before--)
			continue;
		*controller = (unsigned)on;
		*lun = (unsigned)json_integer_value(json_object_get(disk, "lun"));
		return true;
	}
	return false;
}

static void place_told(void *context, const json_t *answer, const struct error *err)
{
	struct disk_change *change = context;
	struct error why;

	if (!change->change.machine->link) {
		free_change(&change->change); /* the job has ended with the machine */
	} else if (err) {
		device_change_end(&change->change, err);
	} else if (disk_place(change->change.machine, answer, change->at, &change->controller, &change->lun)) {
		device_change_ask_worker(&change->change);
	} else {
		error_set(&why, ENOENT, "the running machine has no disk %s", change->path ? change->path : "that is a drive with no medium");
		device_change_end(&change->change, &why);
	}
}

static int remove_at(struct machine *machine, size_t at, struct job **job, struct error *err)
{
	struct disk_change *change;
	int r = check_checkpoints(machine, NULL, at, err);

	if (r)
		return r;
	change = change_new(machine, json_array_get(json_object_get(machine->config, "disks"), at), false);
	if (!change)
		return error_set(err, ENOMEM, "no memory");
	change->at = at;
	if (!machine->link)
		return device_change_write(&change->change, "vm.remove-disk", job, err);
	r = job_new(job, machine->vmms, machine, "vm.remove-disk", err);
	if (r)
		free_change(&change->change);
	else
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), place_told, change);
	return r;
}

int machine_remove_disk(struct machine *machine, const char *path, struct job **job, struct error *err)
{
	int r = device_change_check(machine, "relieved of a disk", err);
	ssize_t at = r ? -1 : disk_find(machine->config, machine->directory, path);

	if (!r && at < 0)
		r = error_set(err, ENOENT, "machine \"%s\" has no disk %s", machine->name, path);
	return r ? r : remove_at(machine, (size_t)at, job, err);
}

int machine_remove_drive(struct machine *machine, const char *which, struct job **job, struct error *err)
{
	int r = device_change_check(machine, "relieved of a DVD drive", err);
	ssize_t at = r ? -1 : drive_find(machine->config, which);

	if (!r && at < 0)
		r = error_set(err, ENOENT, "machine \"%s\" has no DVD drive %s", machine->name, which);
	return r ? r : remove_at(machine, (size_t)at, job, err);
}

/* Whether the worker has what was added, or has no more what was removed, and vm.json does not say so. Drives with no medium are
 * counted. */
static bool is_due(const struct machine *machine, const json_t *disk, const json_t *status, bool add)
{
	const json_t *had = json_object_get(machine->config, "disks"), *has = json_object_get(status, "disks");
	json_int_t on = json_integer_value(json_object_get(disk, "controller"));
	const char *path = json_string_value(json_object_get(disk, "path"));
	_cleanup_free_ char *whole = path ? vm_config_path(path, machine->directory) : NULL;
	size_t before = count_empty(had, SIZE_MAX, on), now = count_empty(has, SIZE_MAX, on);
	bool written = path && disk_find(machine->config, machine->directory, path) >= 0;
	bool with = whole && disk_is_with_worker(status, whole);

	if (!path)
		return add ? now > before : now < before;
	return whole && (add ? with && !written : !with && written);
}

static int finish(struct machine *machine, const json_t *plan, const json_t *status, struct error *err)
{
	const char *kind = json_string_value(json_object_get(plan, "kind"));
	const json_t *disk = json_object_get(plan, "disk");
	const char *path = json_string_value(json_object_get(disk, "path"));
	bool add = kind && !strcmp(kind, "add-disk");
	ssize_t at = (ssize_t)json_integer_value(json_object_get(plan, "at"));

	if (!kind || (!add && strcmp(kind, "remove-disk")))
		return medium_finish(machine, plan, status, err);
	/* A daemon of before this did not note the place. */
	if (path)
		at = disk_find(machine->config, machine->directory, path);
	return is_due(machine, disk, status, add) ? write_config(machine, disk, add ? -1 : at, err) : 0;
}

void machine_disks_settle(struct machine *machine, const json_t *status)
{
	device_change_settle(machine, status, finish);
}
