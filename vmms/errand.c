/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/daemon.h"

#include <errno.h>
#include <string.h>

#include "vmms/errand.h"

#define RETRY_MS 100 /* milliseconds */

struct errand {
	void (*run)(void *context);
	void (*done)(void *context);
	void *context;
	struct errand *next;
};

struct errands {
	struct vmms *vmms;
	uv_async_t asks; /* it wants its turn */
	uv_mutex_t lock; /* of what follows, up to `thread` */
	uv_cond_t turned;
	bool its_turn, wants, ended;
	uv_thread_t thread;
	/* [loop] */
	uv_timer_t again; /* runs while no thread is to be had */
	struct errand *first;
	bool at_work;
};

/* --- the errand's thread ---------------------------------------------------------------------------------- */

static void give_turn(struct errands *all, bool end)
{
	uv_mutex_lock(&all->lock);
	all->its_turn = false;
	all->ended = end;
	uv_cond_broadcast(&all->turned);
	uv_mutex_unlock(&all->lock);
}

static void work(void *context)
{
	struct errands *all = context;

	/* When its number is known. */
	uv_mutex_lock(&all->lock);
	uv_mutex_unlock(&all->lock);
	all->first->run(all->first->context);
	give_turn(all, true);
}

static bool is_errand(const struct errands *all)
{
	uv_thread_t self = uv_thread_self();

	return all && all->at_work && uv_thread_equal(&self, &all->thread);
}

void errand_leave(struct vmms *vmms)
{
	if (is_errand(vmms->errands))
		give_turn(vmms->errands, false);
}

void errand_enter(struct vmms *vmms)
{
	struct errands *all = vmms->errands;

	if (!is_errand(all))
		return;
	uv_mutex_lock(&all->lock);
	all->wants = true;
	uv_cond_broadcast(&all->turned);
	uv_async_send(&all->asks);
	while (!all->its_turn)
		uv_cond_wait(&all->turned, &all->lock);
	uv_mutex_unlock(&all->lock);
}

/* --- the loop's --------------------------------------------------------------------------------------------- */

/* Until the errand leaves, or ends; the lock is held. */
static void let_it_work(struct errands *all)
{
	while (all->its_turn)
		uv_cond_wait(&all->turned, &all->lock);
}

static int begin(struct errands *all)
{
	int r;

	uv_mutex_lock(&all->lock);
	all->its_turn = true;
	all->wants = all->ended = false;
	all->at_work = true;
	r = uv_thread_create(&all->thread, work, all);
	if (r)
		all->its_turn = all->at_work = false;
	else
		let_it_work(all);
	uv_mutex_unlock(&all->lock);
	return r;
}

static void tell_done(struct errands *all)
{
	struct errand *errand = all->first;

	all->first = errand->next;
	errand->done(errand->context);
	free(errand);
}

static void finish(struct errands *all)
{
	uv_thread_join(&all->thread);
	all->at_work = false;
	tell_done(all);
}

static void try_again(uv_timer_t *again);

/* Those that have ended go, and the next ones begin, until one is on its way. */
static void go_on(struct errands *all)
{
	bool ended;

	while (all->first) {
		if (!all->at_work && begin(all)) {
			uv_timer_start(&all->again, try_again, RETRY_MS, 0);
			return;
		}
		uv_mutex_lock(&all->lock);
		ended = all->ended;
		uv_mutex_unlock(&all->lock);
		if (!ended)
			return;
		finish(all);
	}
}

static void try_again(uv_timer_t *again)
{
	go_on(again->data);
}

static void give_it_its_turn(struct errands *all)
{
	uv_mutex_lock(&all->lock);
	if (all->wants) {
		all->wants = false;
		all->its_turn = true;
		uv_cond_broadcast(&all->turned);
		let_it_work(all);
	}
	uv_mutex_unlock(&all->lock);
}

static void asked(uv_async_t *asks)
{
	give_it_its_turn(asks->data);
	go_on(asks->data);
}

bool errand_at_work(const struct vmms *vmms)
{
	return vmms->errands->at_work;
}

int errand_start(struct vmms *vmms, void (*run)(void *context), void (*done)(void *context), void *context, struct error *err)
{
	struct errands *all = vmms->errands;
	struct errand *errand, **at = &all->first;

	/* The last ones have been run: it would never be, and whoever waits for it would be gone. */
	if (uv_is_closing((uv_handle_t *)&all->asks))
		return error_set(err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	errand = malloc(sizeof(*errand));
	if (!errand)
		return error_set(err, ENOMEM, "no memory");
	*errand = (struct errand){run, done, context, NULL};
	while (*at)
		at = &(*at)->next;
	*at = errand;
	/* Not from here: whoever calls may be in the middle of something that `done` ends. */
	uv_async_send(&all->asks);
	return 0;
}

int errands_open(struct vmms *vmms, struct error *err)
{
	struct errands *all = calloc(1, sizeof(*all));

	if (!all || uv_async_init(&vmms->loop, &all->asks, asked)) {
		free(all);
		return error_set(err, ENOMEM, "no memory");
	}
	uv_timer_init(&vmms->loop, &all->again);
	all->vmms = vmms;
	all->asks.data = all->again.data = all;
	uv_mutex_init(&all->lock);
	uv_cond_init(&all->turned);
	vmms->errands = all;
	return 0;
}

void errands_close(struct vmms *vmms)
{
	struct errands *all = vmms->errands;

	if (!all)
		return;
	while (all->first) {
		/* Without a thread it is this one's, for which leaving and entering are nothing. */
		if (!all->at_work && begin(all)) {
			all->first->run(all->first->context);
			tell_done(all);
			continue;
		}
		uv_mutex_lock(&all->lock);
		while (all->at_work && !all->wants && !all->ended)
			uv_cond_wait(&all->turned, &all->lock);
		uv_mutex_unlock(&all->lock);
		give_it_its_turn(all);
		go_on(all);
	}
	uv_close((uv_handle_t *)&all->again, NULL);
	uv_close((uv_handle_t *)&all->asks, NULL);
}

void errands_free(struct vmms *vmms)
{
	if (!vmms->errands)
		return;
	uv_cond_destroy(&vmms->errands->turned);
	uv_mutex_destroy(&vmms->errands->lock);
	free(vmms->errands);
	vmms->errands = NULL;
}
