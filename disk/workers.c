/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/workers.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "base/thread.h"

struct row {
	struct operation *first, **end;
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct row todo, done;
	unsigned todo_count, idle;
	bool stopping;
	int event;
	unsigned started, max; /* the queue's thread alone */
	pthread_t threads[];
};

static void row_add(struct row *row, struct operation *op)
{
	op->next = NULL;
	*row->end = op;
	row->end = &op->next;
}

static struct operation *row_take(struct row *row)
{
	struct operation *op = row->first;

	if (op) {
		row->first = op->next;
		if (!row->first)
			row->end = &row->first;
	}
	return op;
}

static void *work(void *context)
{
	struct workers *workers = context;

	thread_begin(THREAD_DISK, "disk");
	pthread_mutex_lock(&workers->lock);
	for (;;) {
		struct operation *op = row_take(&workers->todo);

		if (!op && workers->stopping)
			break;
		if (!op) {
			workers->idle++;
			pthread_cond_wait(&workers->wake, &workers->lock);
			workers->idle--;
			continue;
		}
		workers->todo_count--;
		pthread_mutex_unlock(&workers->lock);
		operation_run(op);
		pthread_mutex_lock(&workers->lock);
		row_add(&workers->done, op);
		/* Fails only when the counter is full, and then it is readable anyway. */
		(void)eventfd_write(workers->event, 1);
	}
	pthread_mutex_unlock(&workers->lock);
	return NULL;
}

struct workers *workers_create(unsigned threads_max, int event)
{
	struct workers *workers = calloc(1, sizeof(*workers) + threads_max * sizeof(workers->threads[0]));

	if (!workers)
		return NULL;
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->wake, NULL);
	workers->todo.end = &workers->todo.first;
	workers->done.end = &workers->done.first;
	workers->event = event;
	workers->max = threads_max;
	return workers;
}

void workers_destroy(struct workers *workers)
{
	if (!workers)
		return;
	pthread_mutex_lock(&workers->lock);
	workers->stopping = true;
	pthread_cond_broadcast(&workers->wake);
	pthread_mutex_unlock(&workers->lock);
	for (unsigned i = 0; i < workers->started; i++)
		pthread_join(workers->threads[i], NULL);
	pthread_cond_destroy(&workers->wake);
	pthread_mutex_destroy(&workers->lock);
	free(workers);
}

/* Signals are for the threads that the program made for them. */
static void start_thread(struct workers *workers)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&workers->threads[workers->started], NULL, work, workers) == 0)
		workers->started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void workers_submit(struct workers *workers, struct operation *op)
{
	bool another;

	pthread_mutex_lock(&workers->lock);
	another = workers->todo_count >= workers->idle && workers->started < workers->max;
	pthread_mutex_unlock(&workers->lock);
	if (another)
		start_thread(workers);
	if (workers->started == 0)
		operation_run(op);
	pthread_mutex_lock(&workers->lock);
	if (workers->started > 0) {
		row_add(&workers->todo, op);
		workers->todo_count++;
		pthread_cond_signal(&workers->wake);
	} else {
		row_add(&workers->done, op);
		(void)eventfd_write(workers->event, 1);
	}
	pthread_mutex_unlock(&workers->lock);
}

struct operation *workers_take_done(struct workers *workers)
{
	struct operation *first;

	pthread_mutex_lock(&workers->lock);
	first = workers->done.first;
	workers->done.first = NULL;
	workers->done.end = &workers->done.first;
	pthread_mutex_unlock(&workers->lock);
	return first;
}
