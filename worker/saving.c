/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/saving.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/thread.h"

struct saving {
	struct vm *vm;
	struct saving_ops ops;
	int fd;
	uv_async_t wake;
	pthread_t thread;
	struct statefile_progress progress;
	struct statefile_writer *writer;
	uint8_t *sections;
	size_t sections_size;

	/* Of the thread, read when it has ended. */
	int result;
	uint64_t bytes;
	struct error err;
};

static void *write_machine(void *argument)
{
	struct saving *s = argument;

	thread_begin(THREAD_DISK, "save");
	s->result = statefile_write_memory(s->writer, NULL, true, &s->err);
	if (!s->result)
		s->result = vm_flush_disks(s->vm, &s->err);
	if (!s->result)
		s->result = statefile_finish(s->writer, s->sections, s->sections_size, &s->bytes, &s->err);
	uv_async_send(&s->wake);
	return NULL;
}

static void wake_closed(uv_handle_t *handle)
{
	free(handle->data);
}

/* What is left when the thread has ended, or was never there. */
static void take_down(struct saving *s)
{
	statefile_end(s->writer);
	free(s->sections);
	close(s->fd);
	uv_close((uv_handle_t *)&s->wake, wake_closed);
}

static void thread_ended(uv_async_t *handle)
{
	struct saving *s = handle->data;
	struct saving_ops ops = s->ops;
	struct error err;
	uint64_t bytes;
	int result;

	pthread_join(s->thread, NULL);
	result = s->result;
	bytes = s->bytes;
	err = s->err;
	if (result)
		vm_release(s->vm);
	take_down(s);
	ops.done(ops.context, result, bytes, &err);
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
	return r ? error_set(err, r, "the thread that saves the machine cannot be started: %s", strerror(r)) : 0;
}

int saving_start(struct saving **out, uv_loop_t *loop, struct vm *vm, int fd, const struct saving_ops *ops, struct error *err)
{
	struct saving *s = calloc(1, sizeof(*s));
	int r;

	if (!s || uv_async_init(loop, &s->wake, thread_ended)) {
		free(s);
		close(fd);
		return error_set(err, ENOMEM, "no memory on the host to save the machine");
	}
	s->vm = vm;
	s->ops = *ops;
	s->fd = fd;
	s->wake.data = s;
	r = statefile_begin(&s->writer, fd, vm->partition, &s->progress, err);
	if (r) {
		take_down(s);
		return r;
	}
	vm_hold(vm);
	r = vm_save_state(vm, &s->sections, &s->sections_size, err);
	if (!r)
		r = start_thread(s, err);
	if (r) {
		vm_release(vm);
		take_down(s);
		return r;
	}
	*out = s;
	return 0;
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
	pthread_join(s->thread, NULL);
	vm_release(s->vm);
	take_down(s);
}
