/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * save.h - a machine saved to a file, from which its next start goes on. Private to vmms/. All on the loop's thread.
 *
 * The file lies in the machine's own directory, and its name says what it is:
 *
 *   saved-state.new    being written
 *   saved-state        whole: the machine is saved
 *   saved-state.used   a worker goes on from it. It is gone before anybody could go on from it twice: the disks
 *                      would not fit any more.
 */
#pragma once

#include "vmms/daemon.h"

#define SAVED_NEW  "saved-state.new"
#define SAVED_FILE "saved-state"
#define SAVED_USED "saved-state.used"

/* Whether there is one. */
bool saved_exists(const struct machine *machine);

/* -EALREADY: another program has changed a disk since it was saved, or it is not there. */
int saved_check_disks(const struct machine *machine, struct error *err);

/* -EALREADY: another program has changed a disk since it was saved. */
int saved_check_disks(const struct machine *machine, struct error *err);

/* The path that a worker is to go on from; from here on it is in use. *path (NULL: it is not saved) is the caller's. */
int saved_take(const struct machine *machine, char **path, struct error *err);
/* The worker that was given it runs the guest, or has ended without having done so. */
void saved_used(const struct machine *machine);
void saved_give_back(const struct machine *machine);

/* The worker has written it and has ended. */
int saved_complete(const struct machine *machine, struct error *err);

/* A worker that was found says that it is not at it. */
void saved_not_saving(const struct machine *machine);

/* What is left when the machine is off and nobody has seen its end; `result` is the word of that, NULL: there is none. */
void saved_settle(struct machine *machine, const char *result);
