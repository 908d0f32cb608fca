/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/saving.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/thread.h"

/* While a checkpoint's guest runs, what it changes is written again until it is this little, but not for ever. */
#define FEW_PAGES   2048u
#define ROUNDS_MAX  4u
#define PAGES_A_WORD 64u

enum step {
	STEP_LIVE, /* memory is written, the guest runs */
	STEP_HELD  /* the machine is held, what is missing is written */
};

struct saving {
	struct vm *vm;
	struct saving_request request;
	struct saving_ops ops;
	uv_async_t wake;
	pthread_t thread;
	bool thread_runs, held, tracks;
	enum step step;
	uint64_t held_at; /* uv_hrtime() */
	struct statefile_progress progress;
	struct statefile_writer *writer; /* NULL: no state is wanted */
	uint64_t *changed;               /* a bit for each page; NULL unless it tracks */
	uint8_t *sections;
	size_t sections_size;
	struct saving_end end; /* of the thread while it runs */
};

/* --- memory ---------------------------------------------------------------------------------------------- */

/* Which pages were written since the last call. Regions are whole MiB. Returns how many. */
static uint64_t fetch_changed(struct saving *s)
{
	struct partition *p = s->vm->partition;
	uint64_t *at = s->changed, count = 0, size;
	gpa_t gpa;

	for (unsigned i = 0; partition_memory_region(p, i, &gpa, &size); i++) {
		size_t words = size / GUEST_PAGE_SIZE / PAGES_A_WORD;

		/* What cannot be told counts as changed. */
		if (partition_fetch_dirty(p, gpa, size, at))
			memset(at, 0xff, words * sizeof(*at));
		for (size_t word = 0; word < words; word++)
			count += (uint64_t)__builtin_popcountll(at[word]);
		at += words;
	}
	return count;
}

/* All of memory once, then what has changed meanwhile, until that is little. The rest of it is left for when the machine is held, with
 * what changes from now on: the bits that were fetched are written before. */
static int write_live(struct saving *s)
{
	int r = statefile_write_memory(s->writer, NULL, false, &s->end.err);

	for (unsigned round = 0; !r && round < ROUNDS_MAX; round++) {
		bool few = fetch_changed(s) <= FEW_PAGES;

		r = statefile_write_memory(s->writer, s->changed, false, &s->end.err);
		if (few)
			break;
	}
	/* What is on disk now does not have to get there while the guest stands still. */
	return r ? r : statefile_sync(s->writer, &s->end.err);
}

static int write_held(struct saving *s)
{
	int r;

	if (s->tracks)
		fetch_changed(s);
	r = statefile_write_memory(s->writer, s->tracks ? s->changed : NULL, true, &s->end.err);
	if (!r)
		r = vm_flush_disks(s->vm, &s->end.err);
	return r ? r : statefile_finish(s->writer, s->sections, s->sections_size, &s->end.bytes, &s->end.err);
}

static void *write_machine(void *argument)
{
	struct saving *s = argument;

	thread_begin(THREAD_DISK, "save");
	s->end.result = s->step == STEP_LIVE ? write_live(s) : write_held(s);
	uv_async_send(&s->wake);
	return NULL;
}

static int start_thread(struct saving *s, struct error *err)
{
	sigset_t all, old;
	int r;

	/* Signals are for the loop's thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&s->thread, NULL, write_machine, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->thread_runs = !r;
	return r ? error_set(err, r, "the thread that saves the machine cannot be started: %s", strerror(r)) : 0;
}

/* --- disks ----------------------------------------------------------------------------------------------- */

static void close_descriptor(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A checkpoint is of all its disks or of none. */
static int split_disks(struct saving *s, struct error *err)
{
	for (unsigned i = 0; i < s->request.disk_count; i++) {
		struct saving_disk *d = &s->request.disks[i];
		int r = vm_split_disk(s->vm, d->controller, d->lun, &d->files, err);

		if (!r)
			continue;
		while (i--) {
			struct error undo = {0};

			d = &s->request.disks[i];
			if (vm_unsplit_disk(s->vm, d->controller, d->lun, d->files.parent_name, &undo))
				log_write(LOG_LEVEL_ERROR, "the checkpoint of a disk stays, though that of another failed: %s", undo.text);
		}
		return r;
	}
	return 0;
}

/* --- from step to step ------------------------------------------------------------------------------------- */

static void let_go(struct saving *s)
{
	if (!s->held)
		return;
	vm_release(s->vm);
	s->held = false;
	s->end.pause_us = (uv_hrtime() - s->held_at) / 1000;
}

static void wake_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void take_down(struct saving *s)
{
	if (s->tracks)
		partition_track_dirty(s->vm->partition, false, NULL);
	statefile_end(s->writer);
	free(s->sections);
	free(s->changed);
	close_descriptor(&s->request.fd);
	for (unsigned i = 0; i < s->request.disk_count; i++) {
		close_descriptor(&s->request.disks[i].files.child);
		close_descriptor(&s->request.disks[i].files.record);
		free((char *)(uintptr_t)s->request.disks[i].files.child_name);
		free((char *)(uintptr_t)s->request.disks[i].files.parent_name);
	}
	uv_close((uv_handle_t *)&s->wake, wake_closed);
}

static void finish(struct saving *s)
{
	struct saving_ops ops = s->ops;
	struct saving_end end;

	if (s->end.result || s->request.checkpoint)
		let_go(s);
	end = s->end;
	take_down(s);
	ops.done(ops.context, &end);
}

/* With a state: the machine is held and written by the thread; else its disks are split at once. */
static int hold(struct saving *s, struct error *err)
{
	int r;

	s->held_at = uv_hrtime();
	vm_hold(s->vm);
	s->held = true;
	s->step = STEP_HELD;
	if (s->ops.guest_ended(s->ops.context))
		return error_set(err, EAGAIN, "the guest has turned itself off or reset meanwhile: it cannot be saved now");
	if (!s->writer)
		return 0;
	r = vm_save_state(s->vm, &s->sections, &s->sections_size, err);
	return r ? r : start_thread(s, err);
}

static void thread_ended(uv_async_t *handle)
{
	struct saving *s = handle->data;

	if (s->thread_runs)
		pthread_join(s->thread, NULL);
	s->thread_runs = false;
	if (!s->end.result && s->step == STEP_LIVE)
		s->end.result = hold(s, &s->end.err);
	if (s->thread_runs)
		return;
	if (!s->end.result && s->request.checkpoint)
		s->end.result = split_disks(s, &s->end.err);
	finish(s);
}

/* A processor that cannot tell what its guest writes has it stand still from the start. */
static void track(struct saving *s)
{
	uint64_t pages = partition_memory_size(s->vm->partition) / GUEST_PAGE_SIZE;

	s->changed = calloc(pages / PAGES_A_WORD + 1, sizeof(*s->changed));
	s->tracks = s->changed && !s->vm->paused && !partition_track_dirty(s->vm->partition, true, NULL);
}

static int begin(struct saving *s, struct error *err)
{
	int r = s->request.fd >= 0 ? statefile_begin(&s->writer, s->request.fd, s->vm->partition, &s->progress, err) : 0;

	if (r)
		return r;
	if (s->writer && s->request.checkpoint)
		track(s);
	if (s->tracks) {
		s->step = STEP_LIVE;
		return start_thread(s, err);
	}
	r = hold(s, err);
	/* Disks alone are split when the loop comes round. */
	if (!r && !s->thread_runs)
		uv_async_send(&s->wake);
	return r;
}

static bool copy_names(struct saving *s)
{
	bool good = true;

	for (unsigned i = 0; i < s->request.disk_count; i++) {
		struct disk_split_files *files = &s->request.disks[i].files;

		files->child_name = strdup(files->child_name);
		files->parent_name = strdup(files->parent_name);
		good = good && files->child_name && files->parent_name;
	}
	return good;
}

static void close_request(const struct saving_request *request)
{
	struct saving_request copy = *request;

	close_descriptor(&copy.fd);
	for (unsigned i = 0; i < copy.disk_count; i++) {
		close_descriptor(&copy.disks[i].files.child);
		close_descriptor(&copy.disks[i].files.record);
	}
}

int saving_start(struct saving **out, uv_loop_t *loop, struct vm *vm, const struct saving_request *request,
    const struct saving_ops *ops, struct error *err)
{
	struct saving *s = calloc(1, sizeof(*s));
	int r;

	if (!s || uv_async_init(loop, &s->wake, thread_ended)) {
		free(s);
		close_request(request);
		return error_set(err, ENOMEM, "no memory on the host to save the machine");
	}
	s->vm = vm;
	s->ops = *ops;
	s->request = *request;
	s->wake.data = s;
	r = copy_names(s) ? begin(s, err) : error_set(err, ENOMEM, "no memory on the host to save the machine");
	if (r) {
		let_go(s);
		take_down(s);
		return r;
	}
	*out = s;
	return 0;
}

bool saving_holds(const struct saving *s)
{
	return s->held;
}

void saving_progress(const struct saving *s, uint64_t *done, uint64_t *total)
{
	*done = atomic_load(&s->progress.done);
	*total = atomic_load(&s->progress.total);
}

void saving_cancel(struct saving *s)
{
	atomic_store(&s->progress.cancel, true);
}

void saving_abandon(struct saving *s)
{
	if (!s)
		return;
	saving_cancel(s);
	if (s->thread_runs)
		pthread_join(s->thread, NULL);
	let_go(s);
	take_down(s);
}
