/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * limits.h - what a machine may take of the host: "limits" of vm.json, put into force by its control group (cgroup.h).
 * Private to vmms/.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

/* Whether anything is limited. `config` has passed vm_config_form. */
bool limits_are_set(const json_t *config);

/* Writes cpu.weight, cpu.max and memory.max of the group in this directory. What is not limited and cannot be either is
 * left out. -ENOTSUP: the group has no such controller; `err` says what is not in force. */
int limits_apply(const char *group, const json_t *config, struct error *err);

/* How the kernel's word on memory goes into what is said of a worker that was killed: ends in ": ", or is empty. */
const char *limits_blame(const char *group);
