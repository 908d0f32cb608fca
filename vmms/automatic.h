/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * automatic.h - what machines do by themselves (vm.json's "automatic"): start with the host, stop with it, start again
 * when they have crashed. Private to vmms/. All on the loop's thread.
 *
 * The host has started when the daemon comes up for the first time since the host's boot, or since the host's machines
 * were stopped. A daemon that comes up again in between starts nothing but what has crashed meanwhile.
 */
#pragma once

#include "vmms/daemon.h"

struct automatic;

/* Looks whether the host has started since a daemon was here; before the machines are looked for. */
int automatic_open(struct vmms *vmms, struct error *err);
void automatic_close(struct vmms *vmms);

/* Whether machines are being stopped with the host: what was running then is wanted at its next start. */
bool automatic_stopping(const struct vmms *vmms);

/* Whether the host has booted since a daemon was here, so that what was not synced may be lost. */
bool automatic_booted(const struct vmms *vmms);

/* When all machines are known: those that start with the host do so, in their order, each after its delay. */
void automatic_start(struct vmms *vmms);

/* A machine has crashed and is off: it may have to start again. Not if it has done that too often lately; then it
 * stays off, and that is told. */
void automatic_crashed(struct machine *machine);

/* A machine that was found running, and is off now, because a daemon before this one was stopping it with the host. */
void automatic_ended(struct machine *machine);

/* A job has ended, or a machine went off: whatever waited for that may go on. Does its work from the loop. */
void automatic_kick(struct vmms *vmms);

/* A job: each machine that runs does what its "automatic.stop" says; one that does not manage has its power cut after
 * so many seconds. It ends when all are off. -EALREADY: that is under way. */
int automatic_stop(struct vmms *vmms, unsigned seconds, struct job **job, struct error *err);

/* Somebody has started a machine: the host is in use again. */
void automatic_in_use(struct vmms *vmms);
