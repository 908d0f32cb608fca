/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/device_change.h"

#include <errno.h>

#include "vmms/checkpoint.h"

#define ON (1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED)

int device_change_check(struct machine *machine, const char *what, struct error *err)
{
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, 1u << MACHINE_OFF | ON, what, err);
	if (!r)
		r = machine_check_free(machine, err);
	if (r)
		return r;
	return machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
}

static void change_free(struct device_change *change)
{
	while (change->fd_count)
		close(change->fds[--change->fd_count]);
	change->ops->free(change);
}

void device_change_end(struct device_change *change, const struct error *err)
{
	struct job *job = change->machine->job;

	if (!err)
		change->ops->tell(change);
	if (job)
		job_end(job, err);
	change_free(change);
}

static void drop(struct device_change *change, const struct error *err)
{
	if (change->ops->dropped)
		change->ops->dropped(change);
	device_change_end(change, err);
}

int device_change_write(struct device_change *change, const char *kind, struct job **job, struct error *err)
{
	struct error why = {0};
	int r = job_new(job, change->machine->vmms, change->machine, kind, err);

	if (r) {
		change_free(change);
		return r;
	}
	r = change->ops->write(change, &why);
	device_change_end(change, r ? &why : NULL);
	return 0;
}

/* --- while it runs ------------------------------------------------------------------------------------ */

static void worker_made(struct device_change *change, const json_t *answer)
{
	struct machine *machine = change->machine;
	struct error why = {0};
	int r = change->ops->write(change, &why);

	if (change->ops->made)
		change->ops->made(change, answer, !r);
	if (!r)
		store_work_set(machine->vmms->store, machine->id, NULL, &why);
	/* What could not be written down is settled by what the worker has. */
	machine->untold |= why.code != 0;
	device_change_end(change, why.code ? &why : NULL);
}

static void worker_did(void *context, const json_t *answer, const struct error *err)
{
	struct device_change *change = context;
	struct machine *machine = change->machine;

	if (!err) {
		worker_made(change, answer);
	} else if (err->code == ECONNRESET && !machine->link) {
		/* The job has ended with the machine. */
		if (change->ops->dropped)
			change->ops->dropped(change);
		change_free(change);
	} else if (err->code == ETIMEDOUT || err->code == ECONNRESET) {
		/* No answer is no refusal: the worker is asked what became of it, and may have what was opened. */
		machine->untold = true;
		device_change_end(change, err);
	} else {
		store_work_set(machine->vmms->store, machine->id, NULL, NULL);
		drop(change, err);
	}
}

void device_change_ask_worker(struct device_change *change)
{
	struct machine *machine = change->machine;
	json_t *plan = change->ops->plan(change);
	struct error err = {0};
	size_t count = change->fd_count;
	int r = plan ? store_work_set(machine->vmms->store, machine->id, plan, &err) : error_set(&err, ENOMEM, "no memory");

	json_decref(plan);
	if (r) {
		drop(change, &err);
		return;
	}
	change->fd_count = 0;
	if (count)
		worker_link_command_fds(machine->link, change->ops->command(change), change->fds, count, false, worker_did, change);
	else
		worker_link_command(machine->link, change->ops->command(change), worker_did, change);
}

static int open_aside(struct job *job, struct error *err)
{
	struct device_change *change = job->context;

	return change->ops->open(change, err);
}

static void opened(struct job *job, int result)
{
	struct device_change *change = job->context;
	struct error err = job->error;

	job->work = NULL;
	if (result)
		device_change_end(change, &err);
	else if (change->machine->link)
		device_change_ask_worker(change);
	else {
		error_set(&err, EIO, "the machine went off meanwhile");
		drop(change, &err);
	}
}

void device_change_run(struct device_change *change, struct job *job, void (*start)(struct job *job))
{
	job->work = open_aside;
	job->done = opened;
	job->context = change;
	start(job);
}

/* --- after a daemon that died ------------------------------------------------------------------------- */

void device_change_settle(struct machine *machine, const json_t *status,
    int (*finish)(struct machine *machine, const json_t *plan, const json_t *status, struct error *err))
{
	struct error err = {0};
	json_t *plan;
	int r;

	if (machine->job || store_work_get(machine->vmms->store, machine->id, &plan, &err) || !plan)
		return;
	r = finish(machine, plan, status, &err);
	if (!r)
		store_work_set(machine->vmms->store, machine->id, NULL, &err);
	if (r <= 0)
		machine_tell_unsettled(machine, &err);
	json_decref(plan);
}
