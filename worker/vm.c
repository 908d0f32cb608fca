/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "worker/control.h"

/* Of one boot. Linux tells one crash twice: with and without its message. */
#define CRASHES_TOLD 4u

/* --- what the parts tell us ----------------------------------------------------------------------- */

static void on_power_off(void *context)
{
	struct vm *vm = context;

	vm->events.ended(vm->events.context, VM_END_POWER_OFF, 0);
}

static void on_reset(void *context)
{
	struct vm *vm = context;

	vm->events.ended(vm->events.context, VM_END_RESET, 0);
}

static void on_exit_port(void *context, uint32_t code)
{
	struct vm *vm = context;

	vm->events.ended(vm->events.context, VM_END_EXIT_PORT, code);
}

static size_t on_output(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	struct vm *vm = context;

	return vm->events.output(vm->events.context, port, bytes, size);
}

static void on_input_room(void *context, unsigned port)
{
	struct vm *vm = context;

	vm->events.input_room(vm->events.context, port);
}

static void on_partition_event(void *context, const struct partition_event *event)
{
	struct vm *vm = context;
	char text[sizeof(event->text) + 512];

	switch (event->kind) {
	case PARTITION_EVENT_RESET:
		vm->events.ended(vm->events.context, VM_END_RESET, 0);
		return;
	case PARTITION_EVENT_CRASH:
		atomic_store(&vm->guest_crashed, true);
		if (atomic_fetch_add(&vm->crashes_told, 1) >= CRASHES_TOLD)
			return;
		snprintf(text, sizeof(text),
		    "the guest reports a crash on virtual processor %u: parameters 0x%" PRIx64 " 0x%" PRIx64 " 0x%" PRIx64
		    " 0x%" PRIx64 " 0x%" PRIx64 "%s%s",
		    event->vp_index, event->crash_parameters[0], event->crash_parameters[1], event->crash_parameters[2],
		    event->crash_parameters[3], event->crash_parameters[4], event->text[0] ? "; its message:\n" : "",
		    event->text);
		vm->events.report(vm->events.context, text);
		return;
	case PARTITION_EVENT_TRIPLE_FAULT:
		snprintf(text, sizeof(text),
		    "the guest triple-faulted on virtual processor %u and was stopped: a fault could not be delivered "
		    "through its interrupt table\n%s",
		    event->vp_index, event->text);
		break;
	case PARTITION_EVENT_PROCESSOR_ERROR:
		snprintf(text, sizeof(text), "virtual processor %u cannot go on and the machine was stopped: %s",
		    event->vp_index, event->text);
		break;
	}
	vm->events.report(vm->events.context, text);
	vm->events.ended(vm->events.context, VM_END_FAILURE, 0);
}

/* --- disks ---------------------------------------------------------------------------------------- */

void vm_close_files(struct vm_files *files)
{
	if (files->count && files->record >= 0)
		close(files->record);
	while (files->count)
		close(files->fds[--files->count]);
}

static int open_given(struct disk **out, const struct vm_files *files, const struct disk_open_options *options, struct error *err)
{
	int r = disk_open_chain_fds(out, files->fds, files->names, files->count, options, err);

	if (files->record < 0)
		return r;
	if (r)
		close(files->record);
	else
		disk_track_given(*out, files->record);
	return r;
}

static int open_disk(struct vm_disk *d, const struct worker_disk *config, struct vm_files *files, struct error *err)
{
	struct disk_open_options options = {.read_only = config->read_only || config->dvd,
	    .format = config->dvd ? DISK_FORMAT_RAW : DISK_FORMAT_AUTO};
	int r = 0;

	if (files->count)
		r = open_given(&d->disk, files, &options, err);
	else if (config->path)
		r = disk_open(&d->disk, config->path, &options, err);
	files->count = 0;
	if (r)
		return r;
	d->config = *config;
	d->used = true;
	return 0;
}

static int free_lun(const struct vm *vm, unsigned controller)
{
	bool taken[STORAGE_LUNS_PER_TARGET] = {false};

	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		if (vm->disks[i].used && vm->disks[i].config.controller == controller)
			taken[vm->disks[i].lun] = true;
	for (unsigned lun = 0; lun < STORAGE_LUNS_PER_TARGET; lun++)
		if (!taken[lun])
			return (int)lun;
	return -1;
}

static const char *disk_name(const struct worker_disk *config)
{
	return config->path ? config->path : "a DVD drive";
}

static int open_at_free_lun(struct vm *vm, const struct worker_disk *config, struct vm_files *files, unsigned *slot,
    struct error *err)
{
	int lun, r;

	if (config->controller >= WORKER_MAX_CONTROLLERS)
		return error_set(err, EINVAL, "%s: there is no controller %u: choose 0 to %u", disk_name(config),
		    config->controller, WORKER_MAX_CONTROLLERS - 1);
	lun = free_lun(vm, config->controller);
	for (*slot = 0; *slot < WORKER_MAX_DISKS && vm->disks[*slot].used; ++*slot)
		;
	if (lun < 0 || *slot == WORKER_MAX_DISKS)
		return error_set(err, EINVAL, "%s: the machine has no place for another disk (%u at most)",
		    disk_name(config), WORKER_MAX_DISKS);
	r = open_disk(&vm->disks[*slot], config, files, err);
	if (!r)
		vm->disks[*slot].lun = (unsigned)lun;
	return r;
}

static int close_disk(struct vm *vm, unsigned slot, struct error *err)
{
	int r = vm->disks[slot].disk ? disk_close(vm->disks[slot].disk, err) : 0;

	memset(&vm->disks[slot], 0, sizeof(vm->disks[slot]));
	free(vm->disk_paths[slot]);
	vm->disk_paths[slot] = NULL;
	return r;
}

static int attach(struct vm *vm, const struct vm_disk *d, struct error *err)
{
	return storage_attach(vm->controllers[d->config.controller], 0, d->lun,
	    d->config.dvd ? STORAGE_UNIT_DVD : STORAGE_UNIT_DISK, d->disk, err);
}

static int add_disk(struct vm *vm, const struct worker_disk *disk, struct vm_files *files, unsigned *lun, struct error *err)
{
	struct worker_disk config = *disk;
	unsigned slot;
	char *path;
	int r;

	if (!vm->running)
		return error_set(err, EAGAIN, "the machine is restarting: try again");
	if (config.controller < WORKER_MAX_CONTROLLERS && !vm->controllers[config.controller])
		return error_set(err, ENOENT, "%s: the machine was started without controller %u", disk_name(&config),
		    config.controller);
	path = disk->path ? strdup(disk->path) : NULL;
	if (disk->path && !path)
		return error_set(err, ENOMEM, "no memory");
	config.path = path;
	r = open_at_free_lun(vm, &config, files, &slot, err);
	if (r) {
		free(path);
		return r;
	}
	vm->disk_paths[slot] = path;
	*lun = vm->disks[slot].lun;
	r = attach(vm, &vm->disks[slot], err);
	if (r)
		close_disk(vm, slot, NULL);
	return r;
}

int vm_add_disk(struct vm *vm, const struct worker_disk *disk, struct vm_files *files, unsigned *lun, struct error *err)
{
	int r = add_disk(vm, disk, files, lun, err);

	vm_close_files(files);
	return r;
}

static struct vm_disk *dvd_at(struct vm *vm, unsigned controller, unsigned lun, struct error *err)
{
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		struct vm_disk *d = &vm->disks[i];

		if (d->used && d->config.controller == controller && d->lun == lun && d->config.dvd)
			return d;
	}
	error_set(err, ENOENT, "there is no DVD drive at controller %u, LUN %u", controller, lun);
	return NULL;
}

static struct vm_disk *running_dvd_at(struct vm *vm, unsigned controller, unsigned lun, struct error *err)
{
	struct vm_disk *d = dvd_at(vm, controller, lun, err);

	if (!d || (vm->running && vm->controllers[controller]))
		return d;
	error_set(err, EAGAIN, "the machine is restarting: try again");
	return NULL;
}

int vm_medium_is_locked(struct vm *vm, unsigned controller, unsigned lun, bool ask, bool *locked, struct error *err)
{
	const struct vm_disk *d = running_dvd_at(vm, controller, lun, err);

	return d ? storage_medium_is_locked(vm->controllers[controller], 0, lun, ask, locked, err) : -err->code;
}

static int change_medium(struct vm *vm, struct vm_disk *d, const char *path, struct vm_files *files, bool force, struct error *err)
{
	struct worker_disk config = d->config;
	struct disk *before = d->disk;
	struct vm_disk opened = {0};
	char *name = path ? strdup(path) : NULL;
	int r;

	if (path && !name)
		return error_set(err, ENOMEM, "no memory");
	config.path = name;
	r = open_disk(&opened, &config, files, err);
	if (!r)
		r = storage_change_medium(vm->controllers[config.controller], 0, d->lun, opened.disk, force, err);
	if (r) {
		if (opened.disk)
			disk_close(opened.disk, NULL);
		free(name);
		return r;
	}
	d->disk = opened.disk;
	d->config.path = name;
	free(vm->disk_paths[d - vm->disks]);
	vm->disk_paths[d - vm->disks] = name;
	/* It was only read. */
	if (before)
		disk_close(before, NULL);
	return 0;
}

int vm_change_medium(struct vm *vm, unsigned controller, unsigned lun, const char *path, struct vm_files *files, bool force,
    struct error *err)
{
	struct vm_disk *d = running_dvd_at(vm, controller, lun, err);
	int r = d ? change_medium(vm, d, path, files, force, err) : -err->code;

	vm_close_files(files);
	return r;
}

struct vm_disk *vm_disk_at(struct vm *vm, unsigned controller, unsigned lun, struct error *err)
{
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		struct vm_disk *d = &vm->disks[i];

		if (d->used && d->config.controller == controller && d->lun == lun && !d->config.dvd)
			return d;
	}
	error_set(err, ENOENT, "there is no hard disk at controller %u, LUN %u", controller, lun);
	return NULL;
}

int vm_resize_disk(struct vm *vm, unsigned controller, unsigned lun, uint64_t size, struct error *err)
{
	const struct vm_disk *d = vm_disk_at(vm, controller, lun, err);
	int r = d ? disk_resize(d->disk, size, false, NULL, err) : -ENOENT;

	return r || !vm->controllers[controller] ? r : storage_resized(vm->controllers[controller], 0, lun, err);
}

int vm_rename_disk(struct vm *vm, struct vm_disk *disk, const char *name)
{
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	free(vm->disk_paths[disk - vm->disks]);
	vm->disk_paths[disk - vm->disks] = copy;
	disk->config.path = copy;
	return 0;
}

int vm_split_disk(struct vm *vm, unsigned controller, unsigned lun, struct disk_split_files *files, struct error *err)
{
	const struct disk_split_files given = *files;
	struct vm_disk *d = vm_disk_at(vm, controller, lun, err);
	int r;

	if (!d)
		return -ENOENT;
	files->child = files->record = -1;
	r = disk_split_files(d->disk, &given, err);
	/* Without memory it keeps its old name, which only messages show. */
	if (!r)
		(void)vm_rename_disk(vm, d, given.child_name);
	return r;
}

int vm_unsplit_disk(struct vm *vm, unsigned controller, unsigned lun, const char *name, struct error *err)
{
	static const struct disk_merge_files uppermost = {.child = -1, .parent = -1, .above = -1, .record = -1};
	struct vm_disk *d = vm_disk_at(vm, controller, lun, err);
	int r = d ? disk_merge_files(d->disk, &uppermost, NULL, err) : -ENOENT;

	if (!r)
		(void)vm_rename_disk(vm, d, name);
	return r;
}

int vm_remove_disk(struct vm *vm, unsigned controller, unsigned lun, struct error *err)
{
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		struct vm_disk *d = &vm->disks[i];
		int r;

		if (!d->used || d->config.controller != controller || d->lun != lun)
			continue;
		r = vm->controllers[controller] ? storage_detach(vm->controllers[controller], 0, lun, err) : 0;
		return r ? r : close_disk(vm, i, err);
	}
	return error_set(err, ENOENT, "there is no disk at controller %u, LUN %u", controller, lun);
}

/* --- life ----------------------------------------------------------------------------------------- */

/* The first controller is always there, so that a disk can be added later; others when a disk names them. */
static bool controller_wanted(const struct vm *vm, unsigned controller)
{
	if (controller == 0 || vm->controllers_wanted >> controller & 1)
		return true;
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		if (vm->disks[i].used && vm->disks[i].config.controller == controller)
			return true;
	return false;
}

/* One for each channel that a guest can open, as none can be made in the sandbox. A saved machine may have any controller. */
static int make_rings(struct vm *vm, struct error *err)
{
	unsigned controllers = 0, count;
	struct error why;
	int made;

	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		controllers += vm->restore >= 0 || controller_wanted(vm, c);
	count = controllers * vm->config->vp_count;
	made = disk_rings_create(&vm->rings, count, STORAGE_DEPTH, &why);
	if (made < 0)
		return error_set(err, -made, "%s", why.text);
	if ((unsigned)made < count)
		log_write(LOG_LEVEL_WARNING, "%u of %u channels to disks are served by threads, not by io_uring: %s", count - (unsigned)made, count,
		    why.text);
	return 0;
}

static int add_storage(struct vm *vm, struct error *err)
{
	unsigned vps = vm->config->vp_count;
	int r = 0;

	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS && !r; c++) {
		char name[16];
		struct storage_config config = {.name = name,
		    .max_sub_channels = vps - 1,
		    .rings = vm->rings,
		    .kept = &vm->controller_kept[c],
		    .instance = GUID_INIT(0xb4a0d3c0u, 0x5c51, 0x4f6a, 0x9c, 0x1e, 0x2f, 0x60, 0x7e, 0x1d, 0x70, 0x00)};

		if (!controller_wanted(vm, c))
			continue;
		config.instance.bytes[15] = (uint8_t)c;
		snprintf(name, sizeof(name), "scsi%u", c);
		r = storage_create(&vm->controllers[c], vm->bus, &config, err);
	}
	for (unsigned i = 0; i < WORKER_MAX_DISKS && !r; i++)
		if (vm->disks[i].used)
			r = attach(vm, &vm->disks[i], err);
	return r;
}

static int add_machine(struct vm *vm, struct error *err)
{
	struct machine_config config = {.memory = vm->config->memory,
	    .uuid = vm->uuid,
	    .exit_port = vm->config->exit_port,
	    .on_power_off = on_power_off,
	    .on_reset = on_reset,
	    .on_exit = on_exit_port,
	    .context = vm};

	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS && i < WORKER_SERIAL_PORTS; i++) {
		config.serial[i].present = vm->config->serial[i].kind != WORKER_SERIAL_NONE;
		config.serial[i].output = on_output;
		config.serial[i].input_room = on_input_room;
	}
	return machine_create(&vm->machine, vm->partition, &config, err);
}

static void on_shutdown_answer(void *context, int result)
{
	struct vm *vm = context;

	if (result)
		vm->events.report(vm->events.context, "the guest refuses to shut down");
}

static int add_integration(struct vm *vm, struct error *err)
{
	struct integration_options options = {.on_shutdown = on_shutdown_answer, .context = vm};
	int r = integration_create(&vm->integration, vm->bus, &options, err);

	if (!r)
		vm_tell_adapters(vm);
	return r;
}

/* Once: a machine that restarts may have no right to open them any more. */
static int open_boot_file(struct boot_file *file, const char *path, int fd, struct error *err)
{
	return fd ? boot_file_take(file, fd, path, err) : boot_file_open(file, path, err);
}

static int open_boot_files(struct vm *vm, struct error *err)
{
	const struct worker_config *c = vm->config;
	int r = open_boot_file(&vm->kernel, c->kernel, c->kernel_fd, err);

	if (!r && c->initrd)
		r = open_boot_file(&vm->initrd, c->initrd, c->initrd_fd, err);
	for (unsigned i = 0; i < c->module_count && !r; i++)
		r = boot_file_open(&vm->modules[i].file, c->modules[i], err);
	return r;
}

static int open_restore(struct vm *vm, struct error *err)
{
	const char *path = vm->config->restore;

	if (!path)
		return 0;
	vm->restore = vm->config->restore_fd ? vm->config->restore_fd : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return vm->restore >= 0 ? 0 : error_set(err, errno, "%s: the saved machine cannot be opened: %s", path, strerror(errno));
}

static void close_boot_files(struct vm *vm)
{
	boot_file_close(&vm->kernel);
	boot_file_close(&vm->initrd);
	for (unsigned i = 0; i < WORKER_MAX_MODULES; i++)
		boot_file_close(&vm->modules[i].file);
}

static int load_kernel(struct vm *vm, struct error *err)
{
	struct boot_config boot = {.kernel = vm->kernel,
	    .initrd = vm->config->initrd ? &vm->initrd : NULL,
	    .append = vm->config->append,
	    .modules = vm->modules,
	    .module_count = vm->config->module_count};

	return machine_load(vm->machine, &boot, err);
}

/* "auto" says what it became when that is not the hardware processor; once, not at every restart. */
static void report_processor(struct vm *vm)
{
	const char *reason = partition_processor_reason(vm->partition);
	char text[600];

	if (!reason[0] || vm->processor_told)
		return;
	vm->processor_told = true;
	snprintf(text, sizeof(text), "runs on the %s processor, for %s", partition_processor_name(vm->partition), reason);
	vm->events.report(vm->events.context, text);
}

int vm_create(struct vm **out, const struct worker_config *config, const struct vm_events *events, struct error *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	unsigned slot;
	int r;

	if (!vm)
		return error_set(err, ENOMEM, "no memory for a virtual machine");
	vm->config = config;
	vm->events = *events;
	guid_random(&vm->uuid);
	guid_random(&vm->run);
	vm->kernel.fd = vm->initrd.fd = vm->restore = -1;
	for (unsigned i = 0; i < WORKER_MAX_MODULES; i++)
		vm->modules[i].file.fd = -1;
	r = open_boot_files(vm, err);
	if (!r)
		r = open_restore(vm, err);
	if (!r)
		r = partition_host_open(&vm->host, config->memory, err);
	for (unsigned i = 0; i < config->disk_count && !r; i++) {
		struct vm_files files = {.count = 0};

		if (config->disks[i].files)
			files = *config->disks[i].files;
		r = open_at_free_lun(vm, &config->disks[i], &files, &slot, err);
	}
	if (!r && config->confined)
		r = make_rings(vm, err);
	if (!r)
		r = vm_open_ports(vm, err);
	if (r) {
		vm_destroy(vm, NULL);
		return r;
	}
	*out = vm;
	return 0;
}

unsigned vm_disk_files(const struct vm *vm)
{
	unsigned count = 0;

	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		for (const struct disk *d = vm->disks[i].disk; d; d = disk_parent(d))
			count++;
	return count;
}

void vm_destroy(struct vm *vm, struct error *err)
{
	vm_power_down(vm);
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		struct error one = {0};

		if (vm->disks[i].used && close_disk(vm, i, &one) && err && !err->code)
			*err = one;
	}
	disk_rings_destroy(vm->rings);
	vm_close_ports(vm);
	close_boot_files(vm);
	if (vm->restore >= 0)
		close(vm->restore);
	partition_host_close(vm->host);
	vm_keep_chain(vm, NULL);
	free(vm);
}

int vm_power_up(struct vm *vm, struct error *err)
{
	struct partition_config config = {.processor = vm->config->processor,
	    .processor_options = vm->config->processor_options,
	    .vp_count = vm->config->vp_count,
	    .compatibility = vm->config->compatible,
	    .memory_max = min_u64(vm->config->memory, MACHINE_MEMORY_MAX),
	    .host = vm->host,
	    .on_event = on_partition_event,
	    .context = vm};
	int r;

	atomic_store(&vm->guest_crashed, false);
	atomic_store(&vm->crashes_told, 0);
	r = partition_create(&vm->partition, &config, err);
	if (!r && vm->restore >= 0)
		r = vm_restore_begin(vm, err);
	if (!r)
		r = add_machine(vm, err);
	if (!r)
		r = vmbus_create(&vm->bus, vm->partition, err);
	if (!r)
		r = add_storage(vm, err);
	if (!r)
		r = vm_build_adapters(vm, err);
	if (!r)
		r = add_integration(vm, err);
	if (!r)
		r = vm->saved ? vm_restore_state(vm, err) : load_kernel(vm, err);
	if (!r)
		r = vm->events.ready(vm->events.context, err);
	if (!r)
		r = partition_start(vm->partition, err);
	vm->running = !r;
	if (vm->saved)
		vm_restore_end(vm);
	if (r)
		vm_power_down(vm);
	else
		report_processor(vm);
	return r;
}

void vm_power_down(struct vm *vm)
{
	if (vm->partition)
		partition_stop(vm->partition);
	integration_destroy(vm->integration);
	vm->integration = NULL;
	vm_take_down_adapters(vm);
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++) {
		storage_destroy(vm->controllers[c]);
		vm->controllers[c] = NULL;
	}
	vmbus_destroy(vm->bus);
	vm->bus = NULL;
	if (vm->machine)
		machine_destroy(vm->machine);
	vm->machine = NULL;
	partition_destroy(vm->partition);
	vm->partition = NULL;
	vm->running = vm->paused = false;
}

void vm_pause(struct vm *vm)
{
	if (!vm->running || vm->paused)
		return;
	integration_paused(vm->integration);
	partition_pause(vm->partition);
	vm->paused = true;
}

void vm_resume(struct vm *vm)
{
	if (!vm->running || !vm->paused)
		return;
	partition_resume(vm->partition);
	vm->paused = false;
	integration_resumed(vm->integration);
}

void vm_hold(struct vm *vm)
{
	integration_paused(vm->integration);
	partition_pause(vm->partition);
	machine_hold(vm->machine);
	vmbus_hold(vm->bus);
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		if (vm->controllers[c])
			storage_pause(vm->controllers[c]);
	for (unsigned i = 0; i < vm->adapter_count; i++)
		network_pause(vm->adapters[i].network);
}

void vm_release(struct vm *vm)
{
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		if (vm->controllers[c])
			storage_resume(vm->controllers[c]);
	for (unsigned i = 0; i < vm->adapter_count; i++)
		network_resume(vm->adapters[i].network);
	vmbus_release(vm->bus);
	machine_release(vm->machine);
	if (vm->paused)
		return;
	partition_resume(vm->partition);
	integration_resumed(vm->integration);
}

void vm_ask_shutdown(struct vm *vm, const char **how)
{
	struct error err = {0};

	*how = "nobody, for the machine does not run";
	if (!vm->running)
		return;
	vm_resume(vm);
	if (integration_request_shutdown(vm->integration, SHUTDOWN_POWER_OFF, true, "requested by the host", &err) == 0) {
		*how = "the shutdown service";
		return;
	}
	machine_power_button(vm->machine);
	*how = "the power button";
}
