/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * checkpoint.h - checkpoints made, applied and deleted. Private to vmms/. All on the loop's thread.
 *
 * Each verb makes new disks first, on the pool, then changes checkpoints.json and vm.json, then removes what nobody has any
 * more. host.db knows what was being made until the machine's directory says what both are to be (change.json), and what is to go:
 * a daemon that starts undoes the one or ends the other. A merge goes on where it was.
 */
#pragma once

#include "vmms/daemon.h"

extern const struct form checkpoint_create_form, checkpoint_change_form, checkpoint_form;

/* {"id", "name", "created", "parent", "now"}, oldest first. The caller owns the reference. */
int checkpoint_list(struct machine *machine, json_t **list, struct error *err);

/* Of a machine that runs with its state. `body` has passed checkpoint_create_form; without a name it is called by the time. */
int checkpoint_create(struct machine *machine, const json_t *body, struct job **job, struct error *err);
/* Of one that runs, for what it is made of it: it is deleted when nobody needs it any more, also by a daemon that comes later. */
int checkpoint_create_temporary(struct machine *machine, struct job **job, struct error *err);
/* Deletes one that is there, if it can, and returns the job: else machine->temporary is set, and it is tried again. */
struct job *checkpoint_drop_temporary(struct machine *machine);
/* The machine becomes what it was; what it is now is lost, unless it is a checkpoint. */
int checkpoint_apply(struct machine *machine, const char *which, struct job **job, struct error *err);
/* Its disks are merged with those of what comes from it, where that is one. */
int checkpoint_delete(struct machine *machine, const char *which, struct job **job, struct error *err);
/* What merges that did not come to their end, for want of room or because they were cancelled, have left is merged. Also of a machine
 * that runs. */
int checkpoint_merge(struct machine *machine, struct job **job, struct error *err);
/* A machine of its own of it, below the directory that `body` (it has passed vm_export_form) names. (clone.c) */
int checkpoint_export(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err);
int checkpoint_rename(struct machine *machine, const char *which, const char *name, struct error *err);

/* Of a machine that is off now: what its worker has left half done, temporary checkpoints, merges. May begin a job, which yields. */
void checkpoint_stopped(struct machine *machine);
/* Of one with nothing half done, running or not: the rest of that; as soon as the machine is free, and no linked clone continues its disks. */
void checkpoint_end_left(struct machine *machine);

/* The job, which yields, is asked to stop. */
void checkpoint_stop_job(struct job *job);
/* The same of the machine's, for something else; it is taken up again when that is over. False: it has none, or that does not yield. */
bool checkpoint_make_way(struct machine *machine);
/* Begins merges that were left, or have made way, of machines that are free for them now; as a job, which yields. From the loop, never from
 * inside other work. */
void checkpoint_take_up(struct vmms *vmms);

/* What a daemon that died has left half done; for a machine that is off. May begin a job. */
void checkpoint_recover(struct machine *machine);
/* -EALREADY: these, as vm.json has them, cannot be its disks: one is missing that continues a checkpoint's, and would be
 * taken for one that nobody has; or a checkpoint's would be written. */
int checkpoint_check_disks(const struct machine *machine, const json_t *disks, struct error *err);

/* The same for one that was found running, when its worker has told its status. True: it is still at it, and is to be
 * asked again. */
bool checkpoint_settle(struct machine *machine, const json_t *status);
/* -EBUSY: there is something half done, which another change must not push aside. */
int checkpoint_check_settled(const struct machine *machine, struct error *err);
/* -EBUSY: something is half done that could not be ended or undone: it cannot be started. */
int checkpoint_check_start(struct machine *machine, struct error *err);
