/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * limits.h - what a machine may take of the host: "limits" of vm.json, put into force by its control group (cgroup.h).
 * Private to vmms/.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

#define LIMITS_KILLS "kills-before" /* in a machine's runtime directory */

/* Whether anything is limited. `config` has passed vm_config_form. */
bool limits_are_set(const json_t *config);

/* Writes cpu.weight, cpu.max, memory.max, memory.swap.max, memory.oom.group and pids.max of the group in this directory. What is not limited and cannot be either is
 * left out. -ENOTSUP: the group has no such controller; `err` says what is not in force. */
int limits_apply(const char *group, const json_t *config, struct error *err);

/* Before a worker is put into its group, which may be there since an earlier run: what the kernel has counted there so far goes into
 * LIMITS_KILLS, as it may be another daemon that sees the end. No group: NULL. */
int limits_note_kills(const char *group, const char *runtime, struct error *err);

/* How the kernel's word on memory goes into what is said of a worker that was killed: ends in ": ", or is empty. */
const char *limits_blame(const char *group, const char *runtime);
