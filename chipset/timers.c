/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "chipset/timers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"

struct timers {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a deadline moved, a timer has fired, or the end */
	pthread_t thread;
	struct timer *all;
	struct timer *firing;
	bool stop, held;
};

int64_t timer_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static struct timer *timers_first(struct timers *timers)
{
	struct timer *first = timers->all;

	for (struct timer *t = first; t; t = t->next)
		if (t->deadline < first->deadline)
			first = t;
	return first;
}

static void timers_wait(struct timers *timers, const struct timer *first)
{
	struct timespec until;

	if (!first || first->deadline == TIMER_NEVER) {
		pthread_cond_wait(&timers->changed, &timers->lock);
		return;
	}
	until.tv_sec = first->deadline / 1000000000;
	until.tv_nsec = first->deadline % 1000000000;
	pthread_cond_timedwait(&timers->changed, &timers->lock, &until);
}

static void *timers_run(void *argument)
{
	struct timers *timers = argument;

	thread_begin(THREAD_TIMER, "chipset-timers");
	pthread_mutex_lock(&timers->lock);
	while (!timers->stop) {
		struct timer *first = timers_first(timers);

		if (timers->held || !first || first->deadline > timer_now()) {
			timers_wait(timers, timers->held ? NULL : first);
			continue;
		}
		first->deadline = TIMER_NEVER;
		timers->firing = first;
		pthread_mutex_unlock(&timers->lock);
		first->fire(first->context);
		pthread_mutex_lock(&timers->lock);
		timers->firing = NULL;
		pthread_cond_broadcast(&timers->changed);
	}
	pthread_mutex_unlock(&timers->lock);
	return NULL;
}

int timers_create(struct timers **out, struct error *err)
{
	struct timers *timers = calloc(1, sizeof(*timers));
	pthread_condattr_t attributes;
	sigset_t all, old;
	int code;

	if (!timers)
		return error_set(err, ENOMEM, "no memory for the machine's timers");
	pthread_mutex_init(&timers->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&timers->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	/* Signals are for the process's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	code = pthread_create(&timers->thread, NULL, timers_run, timers);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (code) {
		pthread_cond_destroy(&timers->changed);
		pthread_mutex_destroy(&timers->lock);
		free(timers);
		return error_set(err, code, "cannot start the thread of the machine's timers: %s",
				 strerror(code));
	}
	*out = timers;
	return 0;
}

void timers_destroy(struct timers *timers)
{
	if (!timers)
		return;
	pthread_mutex_lock(&timers->lock);
	timers->stop = true;
	pthread_cond_broadcast(&timers->changed);
	pthread_mutex_unlock(&timers->lock);
	pthread_join(timers->thread, NULL);
	pthread_cond_destroy(&timers->changed);
	pthread_mutex_destroy(&timers->lock);
	free(timers);
}

void timers_hold(struct timers *timers)
{
	pthread_mutex_lock(&timers->lock);
	timers->held = true;
	while (timers->firing)
		pthread_cond_wait(&timers->changed, &timers->lock);
	pthread_mutex_unlock(&timers->lock);
}

void timers_release(struct timers *timers)
{
	pthread_mutex_lock(&timers->lock);
	timers->held = false;
	pthread_cond_broadcast(&timers->changed);
	pthread_mutex_unlock(&timers->lock);
}

void timer_add(struct timers *owner, struct timer *timer, void (*fire)(void *context), void *context)
{
	timer->owner = owner;
	timer->deadline = TIMER_NEVER;
	timer->fire = fire;
	timer->context = context;
	pthread_mutex_lock(&owner->lock);
	timer->next = owner->all;
	owner->all = timer;
	pthread_mutex_unlock(&owner->lock);
}

void timer_arm(struct timer *timer, int64_t deadline)
{
	pthread_mutex_lock(&timer->owner->lock);
	if (timer->deadline != deadline) {
		timer->deadline = deadline;
		pthread_cond_broadcast(&timer->owner->changed);
	}
	pthread_mutex_unlock(&timer->owner->lock);
}

void timer_remove(struct timer *timer)
{
	struct timers *timers = timer->owner;

	pthread_mutex_lock(&timers->lock);
	for (struct timer **link = &timers->all; *link; link = &(*link)->next) {
		if (*link == timer) {
			*link = timer->next;
			break;
		}
	}
	while (timers->firing == timer)
		pthread_cond_wait(&timers->changed, &timers->lock);
	pthread_mutex_unlock(&timers->lock);
}
