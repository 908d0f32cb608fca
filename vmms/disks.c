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
#include "vmms/device_change.h"

struct disk_change {
	struct device_change change;
	json_t *disk;     /* as vm.json has it, or is to have it */
	char *path;       /* from the root on */
	json_t *parents;  /* what it continues, from the uppermost on; likewise */
	bool add;
	unsigned controller, lun; /* where a disk is that is to be removed */
};

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

/* --- as a change ---------------------------------------------------------------------------------------- */

static const struct disk_change *of(const struct device_change *change)
{
	return (const struct disk_change *)change;
}

static bool is_dvd(const json_t *disk)
{
	return !strcmp(json_string_value(json_object_get(disk, "kind")), "dvd");
}

static json_t *plan_of(const struct device_change *change)
{
	return json_pack("{s:s, s:O}", "kind", of(change)->add ? "add-disk" : "remove-disk", "disk", of(change)->disk);
}

static json_t *command_of(const struct device_change *change)
{
	const struct disk_change *disk = of(change);
	char address[32];

	snprintf(address, sizeof(address), "%u:%u", disk->controller, disk->lun);
	if (!disk->add)
		return json_pack("{s:s, s:s}", "command", "remove-disk", "address", address);
	return json_pack("{s:s, s:s, s:b, s:O, s:O, s:b, s:O}", "command", "add-disk", "path", disk->path, "fd", 1, "read_only",
			 json_object_get(disk->disk, "read_only"), "controller", json_object_get(disk->disk, "controller"), "dvd",
			 is_dvd(disk->disk), "parents", disk->parents);
}

static int open_file(struct device_change *change, const char *path, bool read_only, struct error *err)
{
	int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
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
	struct disk_open_options reading = {.read_only = true, .format = is_dvd(disk->disk) ? DISK_FORMAT_RAW : DISK_FORMAT_AUTO};
	bool read_only = is_dvd(disk->disk) || json_is_true(json_object_get(disk->disk, "read_only"));
	struct disk *opened;
	int r = open_file(change, disk->path, read_only, err);

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
			r = open_file(change, path, true, err);
	}
	disk_close(opened, NULL);
	return r;
}

static int write_change(const struct device_change *change, struct error *err)
{
	return write_config(change->machine, of(change)->disk, of(change)->add, err);
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
		   of(change)->path);
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
	struct disk_change *change = calloc(1, sizeof(*change));

	if (!change)
		return NULL;
	change->change = (struct device_change){.ops = &ops, .machine = machine};
	change->add = add;
	change->disk = json_deep_copy(disk);
	change->path = vm_config_path(json_string_value(json_object_get(disk, "path")), machine->directory);
	change->parents = json_array();
	if (change->disk && change->path && change->parents)
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
	if (find_disk(machine->config, machine->directory, path) >= 0)
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
	struct disk_change *change = context;
	struct error why;

	if (!change->change.machine->link) {
		free_change(&change->change); /* the job has ended with the machine */
	} else if (err) {
		device_change_end(&change->change, err);
	} else if (worker_has(answer, change->path, &change->controller, &change->lun)) {
		device_change_ask_worker(&change->change);
	} else {
		error_set(&why, ENOENT, "the running machine has no disk %s", change->path);
		device_change_end(&change->change, &why);
	}
}

int machine_remove_disk(struct machine *machine, const char *path, struct job **job, struct error *err)
{
	struct disk_change *change;
	ssize_t at;
	int r = device_change_check(machine, "relieved of a disk", err);

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
		return device_change_write(&change->change, "vm.remove-disk", job, err);
	r = job_new(job, machine->vmms, machine, "vm.remove-disk", err);
	if (r)
		free_change(&change->change);
	else
		worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), place_told, change);
	return r;
}

static int finish(struct machine *machine, const json_t *plan, const json_t *status, struct error *err)
{
	const char *kind = json_string_value(json_object_get(plan, "kind"));
	const json_t *disk = json_object_get(plan, "disk");
	_cleanup_free_ char *path = NULL;
	unsigned controller, lun;

	if (!kind || (strcmp(kind, "add-disk") && strcmp(kind, "remove-disk")))
		return 1;
	path = vm_config_path(json_string_value(json_object_get(disk, "path")), machine->directory);
	return path ? write_config(machine, disk, worker_has(status, path, &controller, &lun), err) : error_set(err, ENOMEM, "no memory");
}

void machine_disks_settle(struct machine *machine, const json_t *status)
{
	device_change_settle(machine, status, finish);
}
