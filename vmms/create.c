/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create.c - machines made and deleted: the row in host.db first and last, files in between. See docs/manage.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "image/image.h"
#include "vmms/adapters.h"
#include "vmms/checkpoint.h"
#include "vmms/daemon.h"
#include "vmms/files.h"
#include "vmms/limits.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"
#include "vmms/tree.h"

struct creation {
	json_t *config, *request;
	char *directory;
	bool made; /* the directory */
};

static void creation_free(struct creation *creation)
{
	json_decref(creation->config);
	json_decref(creation->request);
	free(creation->directory);
	free(creation);
}

/* --- files -------------------------------------------------------------------------------------------- */

static int make_seed(const struct creation *creation, struct error *err)
{
	const json_t *seed = json_object_get(creation->request, "seed");
	const char *host = json_string_value(json_object_get(seed, "hostname"));
	struct image_seed values = {.hostname = host ? host : json_string_value(json_object_get(creation->config, "name")),
				    .user = json_string_value(json_object_get(seed, "user")),
				    .password = json_string_value(json_object_get(seed, "password")),
				    .ssh_key = json_string_value(json_object_get(seed, "ssh_key"))};
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/seed.iso", creation->directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	return image_seed_write(path, &values, err);
}

/* The disk of an image is the first, the seed the last. */
static void add_image_disks(struct creation *creation, bool seed)
{
	json_t *disks = json_object_get(creation->config, "disks");

	json_array_insert_new(disks, 0, json_pack("{s:s}", "path", "disk.vhdx"));
	if (seed)
		json_array_append_new(disks, json_pack("{s:s, s:s, s:b}", "path", "seed.iso", "kind", "dvd", "read_only", 1));
}

static int copy_kernel(const char *from, int directory, const char *name, struct error *err)
{
	_cleanup_close_ int fd = file_open_plain(from, false, err);

	return fd < 0 ? fd : file_copy(fd, directory, name, NULL, err);
}

static int copy_image(struct job *job, struct creation *creation, const struct image *image, int directory,
    struct error *err)
{
	struct disk_progress progress = {job_step, job};
	struct disk_create_options options = {.format = DISK_FORMAT_VHDX};
	struct disk_open_options from = {.read_only = true};
	_cleanup_free_ char *disk = NULL;
	bool seed = json_object_get(creation->request, "seed");
	int r;

	if (asprintf(&disk, "%s/disk.vhdx", creation->directory) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = copy_kernel(image->kernel, directory, "vmlinuz", err);
	if (!r)
		r = copy_kernel(image->initrd, directory, "initrd.img", err);
	if (!r)
		r = disk_convert(image->disk, &from, disk, &options, &progress, err);
	if (!r && seed)
		r = make_seed(creation, err);
	if (r)
		return r;
	json_object_set_new(creation->config, "boot", json_pack("{s:s, s:s, s:s}", "kernel", "vmlinuz", "initrd", "initrd.img",
								"append", image->append));
	add_image_disks(creation, seed);
	return 0;
}

static int from_image(struct job *job, struct creation *creation, int directory, struct error *err)
{
	const char *name = json_string_value(json_object_get(creation->request, "image"));
	_cleanup_free_ char *path = NULL;
	struct image image = {0};
	int r;

	if (!name)
		return 0;
	if (asprintf(&path, "%s/images/%s", job->vmms->options->state, name) < 0)
		return error_set(err, ENOMEM, "no memory");
	if (access(path, F_OK) && errno == ENOENT)
		return error_set(err, ENOENT, "there is no image \"%s\" in the library: bulkhead image list shows what there is, bulkhead "
				 "image build debian-12 makes one", name);
	r = image_load(&image, path, err);
	if (r)
		return r;
	r = copy_image(job, creation, &image, directory, err);
	image_free(&image);
	return r;
}

static int create_files(struct job *job, struct error *err)
{
	struct creation *creation = job->context;
	_cleanup_close_ int directory = -1;
	int r;

	if (mkdir(creation->directory, 0750))
		return error_set(err, errno, "%s: %s", creation->directory, strerror(errno));
	creation->made = true;
	directory = open(creation->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return error_set(err, errno, "%s: %s", creation->directory, strerror(errno));
	r = from_image(job, creation, directory, err);
	if (!r)
		r = form_check(&vm_config_form, creation->config, err);
	if (!r)
		r = vm_config_save(creation->config, creation->directory, err);
	return r;
}

/* With the record of changes that a disk may have beside it (docs/disk.md), and directories above it that are empty
 * then. */
static void remove_file(int directory, const char *name)
{
	_cleanup_free_ char *record = NULL, *above = strdup(name);
	char *last;

	if (asprintf(&record, "%s.cbt", name) > 0)
		file_remove_below(directory, record);
	file_remove_below(directory, name);
	while (above && (last = strrchr(above, '/'))) {
		*last = '\0';
		file_remove_below(directory, above);
	}
}

/* Removes what is the machine's own, and the directory, if nothing else is in it. */
static void remove_files(const char *directory, const json_t *files)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *file;
	size_t i;

	if (fd < 0)
		return;
	json_array_foreach(files, i, file)
		if (name_is_inside(json_string_value(file)) && strcmp(json_string_value(file), VM_CONFIG_FILE) &&
		    strcmp(json_string_value(file), TREE_FILE))
			remove_file(fd, json_string_value(file));
	/* The configuration goes last: until then it says what else there is. */
	for (i = 0; machine_own_files[i]; i++)
		remove_file(fd, machine_own_files[i]);
	rmdir(directory);
}

static void remove_runtime(const char *runtime)
{
	static const char *const names[] = {"console", "control", "result", "result.new", LIMITS_KILLS};
	_cleanup_close_ int fd = open(runtime, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlinkat(fd, names[i], 0);
	rmdir(runtime);
}

/* --- create ------------------------------------------------------------------------------------------- */

void machine_made(struct job *job, int result, bool made_directory)
{
	struct machine *machine = job->machine;
	struct vmms *vmms = job->vmms;
	struct error err = job->error;
	json_t *config = NULL;

	/* Meanwhile another may have come with the same addresses. */
	if (!result)
		result = vm_config_load(&config, machine->directory, &err);
	if (!result)
		result = adapters_check(vmms, machine, config, &err);
	json_decref(config);
	if (!result)
		result = store_vm_set_phase(vmms->store, machine->id, VM_READY, &err);
	if (result) {
		if (made_directory)
			directory_remove(machine->directory);
		vmms_event(vmms, machine, "vm.failed", "it could not be created: %s", err.text);
		job_end(job, &err);
		store_vm_remove(vmms->store, machine->id, NULL);
		vmms_forget(vmms, machine);
	} else {
		machine->phase = VM_READY;
		vmms_event(vmms, machine, "vm.created", "it is in %s", machine->directory);
		job_end(job, NULL);
		machine_refresh(machine);
	}
}

static void create_done(struct job *job, int result)
{
	struct creation *creation = job->context;

	machine_made(job, result, creation->made);
	creation_free(creation);
}

char *machine_directory_for(const struct vmms *vmms, const char *name, const char *id)
{
	struct stat st;
	char *path;

	if (asprintf(&path, "%s/machines/%s", vmms->options->state, name) < 0)
		return NULL;
	if (lstat(path, &st))
		return path;
	free(path);
	/* An id may be one that was here before, and has left files. */
	for (unsigned i = 1;; i++) {
		char more[12] = "";

		if (i > 1)
			snprintf(more, sizeof(more), "-%u", i);
		if (asprintf(&path, "%s/machines/%s-%.8s%s", vmms->options->state, name, id, more) < 0)
			return NULL;
		if (lstat(path, &st))
			return path;
		free(path);
	}
}

static int check_request(struct vmms *vmms, const json_t *request, struct error *err)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	const char *image = json_string_value(json_object_get(request, "image"));

	if (vmms_find(vmms, name))
		return error_set(err, EEXIST, "there is a machine \"%s\" already: choose another name", name);
	if (!image && !json_object_get(request, "boot"))
		return error_set(err, EINVAL, "the machine has nothing to boot: give \"image\" (--image), or \"boot\" with a kernel (--kernel)");
	if (image && json_object_get(request, "boot"))
		return error_set(err, EINVAL, "\"image\" and \"boot\" exclude each other: an image has its kernel");
	if (!image && json_object_get(request, "seed"))
		return error_set(err, EINVAL, "\"seed\" is for the first boot of an image: give \"image\" too");
	if (image && (strchr(image, '/') || *image == '.'))
		return error_set(err, EINVAL, "image \"%s\": write the name of an image of the library", image);
	return 0;
}

int machine_enter(struct vmms *vmms, struct store_vm *vm, struct machine **out, struct error *err)
{
	struct machine *machine;
	int r = store_vm_add(vmms->store, vm, err);

	if (r)
		return r;
	machine = machine_new(vmms, vm);
	if (machine && vmms_add(vmms, machine)) {
		machine_free(machine);
		machine = NULL;
	}
	if (!machine) {
		store_vm_remove(vmms->store, vm->id, NULL);
		return error_set(err, ENOMEM, "no memory for a machine");
	}
	*out = machine;
	return 0;
}

int machine_create(struct vmms *vmms, const json_t *request, struct job **job, struct error *err)
{
	struct store_vm vm = {.name = json_string_value(json_object_get(request, "name")),
			      .phase = VM_CREATING,
			      .own_directory = true};
	struct creation *creation;
	struct machine *machine = NULL;
	int r = check_request(vmms, request, err);

	if (r)
		return r;
	creation = calloc(1, sizeof(*creation));
	if (creation) {
		creation->config = vm_config_new(request);
		creation->request = json_deep_copy(request);
		adapters_complete(vmms, creation->config, NULL);
	}
	if (!creation || !creation->config || !creation->request) {
		if (creation)
			creation_free(creation);
		return error_set(err, ENOMEM, "no memory for a machine");
	}
	r = adapters_check(vmms, NULL, creation->config, err);
	if (!r)
		r = adapters_check_promises(vmms, creation->config, err);
	if (r) {
		creation_free(creation);
		return r;
	}
	snprintf(vm.id, sizeof(vm.id), "%s", json_string_value(json_object_get(creation->config, "id")));
	creation->directory = machine_directory_for(vmms, vm.name, vm.id);
	vm.directory = creation->directory;
	r = vm.directory ? machine_enter(vmms, &vm, &machine, err) : error_set(err, ENOMEM, "no memory for a machine");
	if (!r) {
		r = job_new(job, vmms, machine, "vm.create", err);
		if (r) {
			store_vm_remove(vmms->store, vm.id, NULL);
			vmms_forget(vmms, machine);
		}
	}
	if (r) {
		creation_free(creation);
		return r;
	}
	(*job)->work = create_files;
	(*job)->done = create_done;
	(*job)->context = creation;
	job_work(*job);
	return 0;
}

/* --- delete ------------------------------------------------------------------------------------------- */

struct deletion {
	char *directory, *runtime;
	json_t *files;
	bool own_directory;
};

static void deletion_free(struct deletion *deletion)
{
	free(deletion->directory);
	free(deletion->runtime);
	json_decref(deletion->files);
	free(deletion);
}

static struct deletion *deletion_new(const struct machine *machine, bool keep_files)
{
	struct deletion *deletion = calloc(1, sizeof(*deletion));

	if (!deletion)
		return NULL;
	deletion->directory = strdup(machine->directory);
	deletion->runtime = strdup(machine->runtime);
	deletion->files = machine_files(machine);
	deletion->own_directory = machine->own_directory && !keep_files;
	return deletion;
}

static int delete_files(struct job *job, struct error *err)
{
	struct deletion *deletion = job->context;

	(void)err;
	if (deletion->own_directory)
		remove_files(deletion->directory, deletion->files);
	remove_runtime(deletion->runtime);
	return 0;
}

/* What a linked clone kept machines' checkpoints from. */
static void release(struct vmms *vmms, const json_t *bases)
{
	json_t *name;
	size_t i;

	json_array_foreach(bases, i, name) {
		struct machine *base = vmms_find(vmms, json_string_value(name));

		if (base)
			checkpoint_end_left(base);
	}
}

static void delete_done(struct job *job, int result)
{
	const struct deletion *deletion = job->context;
	struct machine *machine = job->machine;
	struct vmms *vmms = job->vmms;
	struct error err = {0};
	json_t *bases = NULL;

	(void)result;
	store_base_of(vmms->store, machine->id, &bases, NULL);
	if (store_vm_remove(vmms->store, machine->id, &err)) {
		job_end(job, &err);
	} else {
		bool left = !access(machine->directory, F_OK);

		vmms_event(vmms, machine, "vm.deleted",
			   !deletion->own_directory ? "its files stay in %s" : left ? "what was not its own stays in %s" : "it was in %s", machine->directory);
		job_end(job, NULL);
		vmms_forget(vmms, machine);
		release(vmms, bases);
	}
	json_decref(bases);
	deletion_free(job->context);
}

/* Files that were kept would not be known to continue another machine's disks, and those could go. */
static int check_whole(const struct machine *machine, struct error *err)
{
	json_t *names;
	int r = store_base_of(machine->vmms->store, machine->id, &names, err);

	if (r)
		return r;
	if (json_array_size(names))
		r = error_set(err, EALREADY, "machine \"%s\" is a linked clone: its files are nothing without those of machine \"%s\"; "
			      "export it, and delete it with its files", machine->name,
			      json_string_value(json_array_get(names, 0)));
	json_decref(names);
	return r;
}

int machine_delete(struct machine *machine, bool keep_files, struct job **job, struct error *err)
{
	struct deletion *deletion;
	int r;

	machine_refresh(machine);
	if (machine->problem.code == EBUSY)
		return error_set(err, EALREADY, "machine \"%s\" is in use elsewhere: %s", machine->name, machine->problem.text);
	if (machine->link || (!machine_is_off(machine) && machine->state != MACHINE_BROKEN))
		return error_set(err, EALREADY, "machine \"%s\" is %s: turn it off first", machine->name,
				 machine_state_word(machine->state));
	r = machine_check_free(machine, err);
	if (!r)
		r = machine_check_base(machine, err);
	if (!r && keep_files)
		r = check_whole(machine, err);
	if (r)
		return r;
	deletion = deletion_new(machine, keep_files);
	if (!deletion)
		return error_set(err, ENOMEM, "no memory");
	r = job_new(job, machine->vmms, machine, "vm.delete", err);
	if (!r) {
		/* Whoever finishes this after our death has to know which files stay. */
		r = store_vm_begin_delete(machine->vmms->store, machine->id, deletion->own_directory, err);
		if (r)
			job_end(*job, err);
	}
	if (r) {
		deletion_free(deletion);
		return r;
	}
	machine->phase = VM_DELETING;
	machine->own_directory = deletion->own_directory;
	(*job)->work = delete_files;
	(*job)->done = delete_done;
	(*job)->context = deletion;
	job_work(*job);
	return 0;
}

void machine_finish_phase(struct machine *machine)
{
	struct vmms *vmms = machine->vmms;
	bool creating = machine->phase == VM_CREATING;
	json_t *config = NULL, *files;

	if (machine->phase == VM_READY)
		return;
	vm_config_load(&config, machine->directory, NULL);
	machine->config = config;
	files = machine_files(machine);
	/* What was being made is all of our own making. */
	if (machine->own_directory && creating)
		directory_remove(machine->directory);
	else if (machine->own_directory)
		remove_files(machine->directory, files);
	remove_runtime(machine->runtime);
	json_decref(files);
	vmms_event(vmms, machine, creating ? "vm.failed" : "vm.deleted",
		   creating ? "the daemon ended while it was being created; what was there of it is removed"
			    : "the daemon ended while it was being deleted; that is finished now");
	store_vm_remove(vmms->store, machine->id, NULL);
	vmms_forget(vmms, machine);
}
