/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saved_disks.h - what a saved machine's disks were when it was saved: saved-disks.json in its directory, beside the state.
 * Private to vmms/. Any thread.
 *
 * Of each disk that is written, in the order of vm.json, it has what tells its contents from others (disk_contents()). Where
 * there is no such file nothing is compared: the state is of an earlier version, or what became of its disks since was our own doing.
 */
#pragma once

#include "vmms/config.h"

#define SAVED_DISKS "saved-disks.json"

/* As the disks are now. On failure there is no such file. */
int saved_disks_note(const json_t *config, const char *directory, struct error *err);

/* -ESTALE: a disk was changed since, and the text says which. Other errors: what was noted, or a disk, cannot be read. */
int saved_disks_check(const json_t *config, const char *directory, struct error *err);

/* There is nothing to be compared any more. */
void saved_disks_forget(const char *directory);
