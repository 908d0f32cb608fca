/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper.h - the process that stays outside of a machine's sandbox. Private to worker/.
 *
 * It is the process that a manager started: it answers on standard output, passes signals on, waits for the machine's
 * process, which is its child and dies with it, and leaves the result file, also for one that was killed. It
 * takes from the child only messages of a fixed size, and believes none of them more than it must.
 */
#pragma once

#include "worker/configuration.h"
#include "worker/lock_file.h"

/* Runs `machine` in a child of its own and returns the exit status. `machine` gets the descriptor for the functions
 * below. Of `lock`, which stays the caller's, each process keeps its own half. */
int keeper_run(struct configuration *configuration, struct lock_file *lock,
    int (*machine)(const struct configuration *configuration, int keeper));

/* --- in the machine's process ------------------------------------------------------------------------------ */

/* The machine's sockets are there; they cannot be removed from inside. */
void keeper_tell_open(int keeper);

/* Bytes of memory; from any thread. */
void keeper_tell_restoring(int keeper, uint64_t done, uint64_t total);

/* The guest's first instruction comes next. An error when nobody hears of it: then it must not. */
int keeper_tell_started(int keeper, struct error *err);

/* `why`: of a machine that was not started. */
void keeper_tell_end(int keeper, enum worker_result result, const struct worker_end *end, const struct error *why);
