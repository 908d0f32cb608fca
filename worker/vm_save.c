/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vm_save.c - a machine's state out of its parts and into others, in the order in which they need each other: what the
 * machine is of, partition, chipset, controllers, bus, integration services. Memory is the file's (statefile/).
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"

#include "worker/vm.h"

#define WORKER_SECTION            "vm"
#define WORKER_SECTION_VERSION    2u
#define PARTITION_SECTION         "cpus"
#define PARTITION_SECTION_VERSION 1u

#define TELL_NANOSECONDS 50000000 /* from one time to the next that progress is told */

#define WHOLE "the saved machine"

struct saved_vm {
	struct guid uuid;
	uint32_t processors, controllers, disks, adapters;
};

static const struct form_field vm_fields[] = {
    FORM_ARRAY(struct saved_vm, uuid.bytes),
    FORM_FIELD(struct saved_vm, processors),
    FORM_FIELD(struct saved_vm, controllers),
    FORM_FIELD(struct saved_vm, disks),
};

/* What tells one disk from another. What the guest knows of it is in its controller's section. */
struct saved_disk {
	uint32_t controller, lun;
	bool dvd, read_only;
	struct guid identifier;
};

#define SAVED_DISK_SIZE 26u

static const struct form_field disk_fields[] = {
    FORM_FIELD(struct saved_disk, controller), FORM_FIELD(struct saved_disk, lun),
    FORM_FLAG(struct saved_disk, dvd),         FORM_FLAG(struct saved_disk, read_only),
    FORM_ARRAY(struct saved_disk, identifier.bytes),
};

/* --- saving --------------------------------------------------------------------------------------- */

static void save_disk(const struct vm_disk *d, struct form_writer *w)
{
	struct saved_disk saved = {.controller = d->config.controller, .lun = d->lun, .dvd = d->config.dvd};
	struct disk_info info = {.read_only = true}; /* with no medium no identifier, either */

	if (d->disk)
		disk_get_info(d->disk, &info);
	saved.read_only = info.read_only;
	saved.identifier = info.identifier;
	FORM_PUT(w, &saved, disk_fields);
}

static void save_vm(const struct vm *vm, struct form_writer *w)
{
	struct saved_vm saved = {.uuid = vm->uuid,
	    .processors = vm->config->vp_count,
	    .adapters = vm->adapter_count};
	size_t section = form_section_begin(w, WORKER_SECTION, 0, WORKER_SECTION_VERSION);

	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		saved.controllers |= vm->controllers[c] ? 1u << c : 0;
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		saved.disks += vm->disks[i].used;
	FORM_PUT(w, &saved, vm_fields);
	form_put32(w, saved.adapters); /* from version 2 on */
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		if (vm->disks[i].used)
			save_disk(&vm->disks[i], w);
	form_section_end(w, section);
}

static int save_partition(struct vm *vm, struct form_writer *w, struct error *err)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t size, section;
	int r = partition_save_state(vm->partition, &bytes, &size, err);

	if (r)
		return r;
	section = form_section_begin(w, PARTITION_SECTION, 0, PARTITION_SECTION_VERSION);
	form_put(w, bytes, size);
	form_section_end(w, section);
	return 0;
}

int vm_save_state(struct vm *vm, uint8_t **bytes, size_t *size, struct error *err)
{
	struct form_writer w = {0};
	int r;

	save_vm(vm, &w);
	r = save_partition(vm, &w, err);
	machine_save(vm->machine, &w);
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		if (vm->controllers[c])
			storage_save(vm->controllers[c], &w, c);
	for (unsigned i = 0; i < vm->adapter_count; i++)
		network_save(vm->adapters[i].network, &w, i);
	vmbus_save(vm->bus, &w);
	integration_save(vm->integration, &w);
	if (!r && w.failed)
		r = error_set(err, ENOMEM, "no memory on the host to save the machine");
	if (r) {
		free(w.bytes);
		return r;
	}
	*bytes = w.bytes;
	*size = w.size;
	return 0;
}

int vm_flush_disks(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < WORKER_MAX_DISKS && !r; i++) {
		struct disk_info info;

		if (!vm->disks[i].disk)
			continue;
		disk_get_info(vm->disks[i].disk, &info);
		if (!info.read_only)
			r = disk_flush(vm->disks[i].disk, err);
	}
	return r;
}

/* --- loading: what the machine is of ---------------------------------------------------------------- */

static bool same_identifier(const struct vm_disk *d, const struct saved_disk *saved)
{
	struct disk_info info = {0};

	if (d->disk)
		disk_get_info(d->disk, &info);
	return guid_equal(&info.identifier, &saved->identifier);
}

/* A disk of that controller that has no place yet: the one with that identifier, else the first. A raw image gets its
 * identifier from its file, so a copy has another. */
static struct vm_disk *find_disk(struct vm *vm, const struct saved_disk *saved, const bool *placed, bool by_identifier)
{
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		struct vm_disk *d = &vm->disks[i];

		if (d->used && !placed[i] && d->config.controller == saved->controller && d->config.dvd == saved->dvd &&
		    (!by_identifier || same_identifier(d, saved)))
			return d;
	}
	return NULL;
}

static void place_disks(struct vm *vm, const struct saved_disk *saved, uint32_t count)
{
	bool placed[WORKER_MAX_DISKS] = {false}, done[WORKER_MAX_DISKS] = {false};

	for (unsigned pass = 0; pass < 2; pass++) {
		for (uint32_t i = 0; i < count; i++) {
			struct vm_disk *d = done[i] ? NULL : find_disk(vm, &saved[i], placed, pass == 0);

			if (!d)
				continue;
			d->lun = saved[i].lun;
			placed[d - vm->disks] = done[i] = true;
		}
	}
}

static int load_disks(struct vm *vm, struct form_reader *r, uint32_t count, struct error *err)
{
	struct saved_disk saved[WORKER_MAX_DISKS] = {0};
	unsigned own = 0;

	for (uint32_t i = 0; i < count; i++) {
		FORM_GET(r, &saved[i], disk_fields);
		if (saved[i].controller >= WORKER_MAX_CONTROLLERS || saved[i].lun >= STORAGE_LUNS_PER_TARGET)
			form_bad(r, "a disk has an address that does not exist");
	}
	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++)
		own += vm->disks[i].used;
	if (!r->bad && own != count)
		return error_set(err, EINVAL, "the saved machine has %u disks and this one %u: give it the disks that it had", count,
		    own);
	if (!r->bad)
		place_disks(vm, saved, count);
	return 0;
}

static int load_vm(struct vm *vm, struct form_reader *whole, struct error *err)
{
	struct form_reader r = form_section(whole, WORKER_SECTION, 0, WORKER_SECTION_VERSION);
	struct saved_vm saved = {0};
	int result;

	FORM_GET(&r, &saved, vm_fields);
	if (r.version >= 2)
		saved.adapters = form_get32(&r);
	if (saved.disks > WORKER_MAX_DISKS || saved.controllers >> WORKER_MAX_CONTROLLERS)
		form_bad(&r, "it has more disks or controllers than there can be");
	result = load_disks(vm, &r, r.bad ? 0 : saved.disks, err);
	form_section_done(whole, &r);
	if (whole->bad)
		return form_error(whole, WHOLE, err);
	if (!result && saved.processors != vm->config->vp_count)
		result = error_set(err, EINVAL,
		    "the saved machine has %u virtual processors and this one %u: give it the same number", saved.processors,
		    vm->config->vp_count);
	if (!result && saved.adapters != vm->adapter_count)
		result = error_set(err, EINVAL,
		    "the saved machine has %u network adapters and this one %u: give it the adapters that it had", saved.adapters,
		    vm->adapter_count);
	vm->uuid = saved.uuid;
	vm->controllers_wanted = saved.controllers;
	return result;
}

static struct form_reader reader_of(const struct vm *vm)
{
	struct form_reader r = {0};

	r.bytes = statefile_sections(vm->saved, &r.left, &r.at);
	return r;
}

/* The file is used once: a guest that resets boots. */
int vm_restore_begin(struct vm *vm, struct error *err)
{
	struct form_reader r;
	int result = statefile_open(&vm->saved, vm->restore, vm->config->restore, err);

	if (result)
		return result;
	r = reader_of(vm);
	return load_vm(vm, &r, err);
}

/* --- loading: the parts ------------------------------------------------------------------------------ */

static int load_partition(struct vm *vm, struct form_reader *whole, struct error *err)
{
	struct form_reader r = form_section(whole, PARTITION_SECTION, 0, PARTITION_SECTION_VERSION);
	size_t size = r.left;
	const uint8_t *bytes = form_take(&r, size);
	uint64_t at = r.at - size;
	int result;

	form_section_done(whole, &r);
	if (whole->bad)
		return 0;
	result = partition_load_state(vm->partition, bytes, size, err);
	return result ? error_prefix(err, "section \"%s\", at byte %llu", PARTITION_SECTION, (unsigned long long)at) : 0;
}

static int load_controllers(struct vm *vm, struct form_reader *r, struct error *err)
{
	int result = 0;

	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS && !result && !r->bad; c++) {
		if (!vm->controllers[c])
			continue;
		storage_pause(vm->controllers[c]);
		result = storage_load(vm->controllers[c], r, c, err);
	}
	return result;
}

static int load_adapters(struct vm *vm, struct form_reader *r, struct error *err)
{
	int result = 0;

	for (unsigned i = 0; i < vm->adapter_count && !result && !r->bad; i++) {
		network_pause(vm->adapters[i].network);
		result = network_load(vm->adapters[i].network, r, i, err);
	}
	return result;
}

static int load_parts(struct vm *vm, struct form_reader *r, struct error *err)
{
	int result = load_partition(vm, r, err);

	if (!result && !r->bad)
		result = machine_load_state(vm->machine, r, err);
	if (!result && !r->bad)
		result = load_controllers(vm, r, err);
	if (!result && !r->bad)
		result = load_adapters(vm, r, err);
	if (!result && !r->bad)
		result = vmbus_load(vm->bus, r, err);
	if (!result && !r->bad)
		integration_load(vm->integration, r);
	if (!result && !r->bad && r->left)
		form_bad(r, "something follows the last section");
	return result ? result : form_error(r, WHOLE, err);
}

/* Who wants to know how far it is. */
struct watch {
	const struct worker_config *config;
	struct statefile_progress progress;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t over;
	bool runs, is_over;
};

static void *tell_progress(void *argument)
{
	struct watch *w = argument;
	struct timespec next;

	thread_begin(THREAD_DISK, "restore");
	pthread_mutex_lock(&w->lock);
	while (!w->is_over) {
		w->config->restoring(w->config->context, w->progress.done, w->progress.total);
		clock_gettime(CLOCK_REALTIME, &next);
		next.tv_nsec += TELL_NANOSECONDS;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&w->over, &w->lock, &next);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* That it cannot be told keeps nobody from restoring. */
static void watch_begin(struct watch *w, const struct worker_config *config)
{
	sigset_t all, old;

	w->config = config;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->over, NULL);
	/* Signals are for the loop's thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	w->runs = config->restoring && !pthread_create(&w->thread, NULL, tell_progress, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void watch_end(struct watch *w)
{
	pthread_mutex_lock(&w->lock);
	w->is_over = true;
	pthread_cond_signal(&w->over);
	pthread_mutex_unlock(&w->lock);
	if (w->runs)
		pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->over);
}

int vm_restore_state(struct vm *vm, struct error *err)
{
	struct watch watch = {.runs = false};
	struct form_reader r = reader_of(vm);
	struct form_reader first = form_section(&r, WORKER_SECTION, 0, WORKER_SECTION_VERSION);
	int result;

	first.left = 0; /* vm_restore_begin() has read it */
	form_section_done(&r, &first);
	vmbus_hold(vm->bus);
	watch_begin(&watch, vm->config);
	result = statefile_read_memory(vm->saved, vm->partition, &watch.progress, err);
	watch_end(&watch);
	if (!result)
		result = load_parts(vm, &r, err);
	return result ? error_prefix(err, "%s", vm->config->restore) : 0;
}

void vm_restore_end(struct vm *vm)
{
	statefile_close(vm->saved);
	vm->saved = NULL;
	close(vm->restore);
	vm->restore = -1;
	vm->controllers_wanted = 0;
	if (!vm->running)
		return;
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		if (vm->controllers[c])
			storage_resume(vm->controllers[c]);
	for (unsigned i = 0; i < vm->adapter_count; i++)
		network_resume(vm->adapters[i].network);
	vmbus_release(vm->bus);
	integration_resumed(vm->integration);
}
