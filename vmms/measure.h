/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * measure.h - resource metering, as Hyper-V's: an account of what a machine takes, from when that was enabled or reset, over all its
 * runs. Private to vmms/. All on the loop's thread.
 *
 * A machine's account is machine->measure, and in host.db. Running machines' workers are asked every fifteen seconds, which also tells them
 * by which remote addresses traffic is counted; accounts are stored once a minute, and when a run begins or ends. What a worker counted
 * between that and a daemon's death is in what it tells the next daemon, or leaves behind at its end.
 */
#pragma once

#include "vmms/daemon.h"
#include "vmms/measure_record.h"

/* Reads the accounts of the machines that there are; before their workers are looked for. Then: from now on they are kept up. */
int measure_open(struct vmms *vmms, struct error *err);
void measure_begin(struct vmms *vmms);
/* Stores them. The loop has to run once more. */
void measure_close(struct vmms *vmms);

/* Nothing changes for one that has an account. Of a machine that runs, what it took so far is no part of it. */
int measure_enable(struct machine *machine, struct error *err);
/* The account goes. */
int measure_disable(struct machine *machine, struct error *err);
/* It begins anew. -EALREADY: there is none. */
int measure_begin_anew(struct machine *machine, struct error *err);

/* What becomes of the machine; nothing happens without an account. `anew`: it was started, else it was found running. `end`: when that was, by the host's
 * clock; 0: just now, or, where there is no result, unknown. */
void measure_started(struct machine *machine, bool anew);
void measure_ended(struct machine *machine, const json_t *result, int64_t end);

/* Its worker told this ("metering" of docs/worker.md; may be anything), when its process had had so much time. */
void measure_heard(struct machine *machine, const json_t *told, int64_t cpu_us);

/* The report up to now, as known; the caller's. NULL: it has no account. */
json_t *measure_now(struct machine *machine);
