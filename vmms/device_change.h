/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * device_change.h - a disk or an adapter more, less or other, of a machine that is off or runs. Private to vmms/.
 *
 * A running machine's worker can open nothing: it is given what is open. The worker comes first, vm.json follows, and in
 * between host.db has a plan of it: whoever adopts the machine asks the worker which of the two it is. All on the loop's
 * thread, but for device_change_ops.open where that is said.
 */
#pragma once

#include "vmms/daemon.h"

struct device_change;

struct device_change_ops {
	/* What host.db has meanwhile, with "kind", and what the worker is told. New references. */
	json_t *(*plan)(const struct device_change *change);
	json_t *(*command)(const struct device_change *change);
	/* Opens what goes along, into `fds`; not on the loop's thread. */
	int (*open)(struct device_change *change, struct error *err);
	/* vm.json with the change in it. */
	int (*write)(const struct device_change *change, struct error *err);
	/* The worker has made it; vm.json says so, or could not be written. NULL: nothing is to be done about that. */
	void (*made)(const struct device_change *change, const json_t *answer, bool written);
	/* Nothing came of it after all, and what was opened for it is not needed. NULL: likewise. */
	void (*dropped)(const struct device_change *change);
	/* The event: it is done. */
	void (*tell)(const struct device_change *change);
	void (*free)(struct device_change *change);
};

/* First member of whatever a change is. */
struct device_change {
	const struct device_change_ops *ops;
	struct machine *machine;
	int fds[WORKER_FDS_MAX]; /* go along with the command */
	size_t fd_count;
};

/* Whether it may be begun at all: the machine is off or on, and nothing is at work on it. `what`: it cannot be WHAT. */
int device_change_check(struct machine *machine, const char *what, struct error *err);

/* Each takes the change over, frees it at its end, and ends the machine's job by that. */

/* Of a machine that is off, or where the worker has no part in it: done at once. Makes the job. */
int device_change_write(struct device_change *change, const char *kind, struct job **job, struct error *err);
/* Of one that runs: opens what goes along, by job_work() or job_errand(), and asks the worker. */
void device_change_run(struct device_change *change, struct job *job, void (*start)(struct job *job));
void device_change_ask_worker(struct device_change *change);
void device_change_end(struct device_change *change, const struct error *err);

/* What a daemon that died has left: `finish` makes vm.json say what the worker has, as `status` tells it. It returns 0,
 * an error, or 1: the plan is of another kind. */
void device_change_settle(struct machine *machine, const json_t *status,
    int (*finish)(struct machine *machine, const json_t *plan, const json_t *status, struct error *err));
