/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker_link.h - one running worker, as the daemon holds it: started or found, spoken to, seen to end.
 * Private to vmms/. All on the loop's thread.
 */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/base.h"

struct worker_link;

struct worker_place {
	const char *program; /* bulkhead-worker */
	const char *runtime; /* the machine's runtime directory, with an absolute path */
	const char *log;     /* what the worker says goes behind what is in this file */
	const char *cgroup;  /* where the worker goes; NULL: it stays in the daemon's */
};

struct worker_link_ops {
	/* Once, for a link that was started: the guest runs (err NULL) or the worker could not start it. */
	void (*started)(void *context, const struct error *err);
	/* Before that, of one that goes on from a saved state and was told to: bytes of memory. */
	void (*restoring)(void *context, uint64_t done, uint64_t total);
	/* Once: the worker is over. `result` is what it has left (a borrowed object), NULL when it left nothing
	 * (it was killed). The link is gone afterwards. Comes behind `started`. */
	void (*ended)(void *context, const json_t *result);
	/* Behind ended(): the run has left nothing that would be told again, so that the machine may be looked at anew. */
	void (*gone)(void *context);
};

#define WORKER_FIRST_FD      3
#define WORKER_START_FDS_MAX 1024u

/* Starts a worker with a configuration (as in docs/worker.md). The descriptors it gets are its own, and it
 * lives on when the daemon ends. `fds` are handed down as WORKER_FIRST_FD and so on; they stay the caller's. */
int worker_link_start(struct worker_link **out, uv_loop_t *loop, const struct worker_place *place,
    const json_t *configuration, const int *fds, size_t fd_count, const struct worker_link_ops *ops, void *context, struct error *err);

/* The worker which holds the lock of a machine's directory. -ESRCH: nobody holds it. -EBUSY: somebody does who is
 * none, or is another daemon's, after it was looked at so many times more, 5 ms apart. */
int worker_link_adopt(struct worker_link **out, uv_loop_t *loop, const struct worker_place *place, const char *lock,
    unsigned tries, const struct worker_link_ops *ops, void *context, struct error *err);

#define WORKER_LOCK "worker.lock" /* in a machine's directory */

/* -EBUSY: somebody runs the machine, by this lock; `err` says who. `runtime` (NULL: none): a worker that is spoken to by what is in that directory is
 * as good as nobody. [any thread] */
int worker_check_lock(const char *lock, const char *runtime, struct error *err);

/* The daemon goes, the worker stays. `ended` is not called. The loop has to run once more. */
void worker_link_leave(struct worker_link *link);

/* One that goes on from a saved state, and whose guest does not run yet, does not start: `started` and `ended` tell. */
void worker_link_stop_restoring(struct worker_link *link);

/* Ends the worker at once. `ended` follows. */
void worker_link_kill(struct worker_link *link);

int worker_link_pid(const struct worker_link *link);

/* A command to the worker's control socket, its "version" is added. Takes the reference. `answered` is called
 * once, with the worker's answer (borrowed) or with NULL and an error. */
typedef void (*worker_answered)(void *context, const json_t *answer, const struct error *err);
void worker_link_command(struct worker_link *link, json_t *command, worker_answered answered, void *context);

/* The same with descriptors, which are closed in any case when they have been sent, and for what takes its time: nothing
 * is given up as late if `patient` is set. */
#define WORKER_FDS_MAX 64u
void worker_link_command_fds(struct worker_link *link, json_t *command, const int *fds, size_t count, bool patient,
    worker_answered answered, void *context);

/* Reads a `result` file; NULL: there is none that can be read. */
json_t *worker_result_read(const char *runtime);
/* When it was written, in milliseconds since 1970; 0: there is none. */
int64_t worker_result_time(const char *runtime);
/* When what it says is told. */
void worker_result_remove(const char *runtime);
