/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/merging.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "base/thread.h"

struct merging {
	struct disk *disk;
	struct disk_merge_files files;
	char *above_name, *parent_name;
	struct merging_ops ops;
	uv_async_t wake;
	pthread_t thread;
	_Atomic uint64_t done, total;
	atomic_bool cancel;

	/* Of the thread, read when it has ended. */
	int result;
	struct error err;
};

static bool step(void *context, uint64_t done, uint64_t total)
{
	struct merging *m = context;

	atomic_store(&m->done, done);
	atomic_store(&m->total, total);
	return !atomic_load(&m->cancel);
}

static void *merge(void *argument)
{
	struct merging *m = argument;
	const struct disk_progress progress = {step, m};

	thread_begin(THREAD_DISK, "merge");
	m->result = disk_merge_files(m->disk, &m->files, &progress, &m->err);
	uv_async_send(&m->wake);
	return NULL;
}

static void wake_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void take_down(struct merging *m)
{
	free(m->above_name);
	free(m->parent_name);
	uv_close((uv_handle_t *)&m->wake, wake_closed);
}

static void thread_ended(uv_async_t *handle)
{
	struct merging *m = handle->data;
	struct merging_ops ops = m->ops;
	struct error err;
	int result;

	pthread_join(m->thread, NULL);
	result = m->result;
	err = m->err;
	take_down(m);
	ops.done(ops.context, result, &err);
}

static void close_files(const struct disk_merge_files *files)
{
	const int fds[] = {files->child, files->parent, files->above, files->record};

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int start_thread(struct merging *m, struct error *err)
{
	sigset_t all, old;
	int r;

	/* Signals are for the loop's thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&m->thread, NULL, merge, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r ? error_set(err, r, "the thread that merges the disk cannot be started: %s", strerror(r)) : 0;
}

int merging_start(struct merging **out, uv_loop_t *loop, struct disk *disk, const struct disk_merge_files *files,
    const struct merging_ops *ops, struct error *err)
{
	struct merging *m = calloc(1, sizeof(*m));
	int r = 0;

	if (!m || uv_async_init(loop, &m->wake, thread_ended)) {
		free(m);
		close_files(files);
		return error_set(err, ENOMEM, "no memory to merge the disk");
	}
	m->disk = disk;
	m->files = *files;
	m->ops = *ops;
	m->wake.data = m;
	m->above_name = files->above_name ? strdup(files->above_name) : NULL;
	m->parent_name = files->parent_name ? strdup(files->parent_name) : NULL;
	if ((files->above_name && !m->above_name) || (files->parent_name && !m->parent_name))
		r = error_set(err, ENOMEM, "no memory to merge the disk");
	m->files.above_name = m->above_name;
	m->files.parent_name = m->parent_name;
	if (!r)
		r = start_thread(m, err);
	if (r) {
		close_files(files);
		take_down(m);
		return r;
	}
	*out = m;
	return 0;
}

void merging_progress(const struct merging *m, uint64_t *done, uint64_t *total)
{
	*done = atomic_load(&m->done);
	*total = atomic_load(&m->total);
}

void merging_cancel(struct merging *m)
{
	atomic_store(&m->cancel, true);
}

void merging_abandon(struct merging *m)
{
	if (!m)
		return;
	merging_cancel(m);
	pthread_join(m->thread, NULL);
	take_down(m);
}
