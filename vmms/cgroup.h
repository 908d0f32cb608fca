/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cgroup.h - a control group for each machine, in one that was given to us (cgroup v2, "delegated"). Private to vmms/.
 *
 * So a machine is no part of the daemon's service, whose end it outlives, and the host's owner sees and limits what it
 * takes. The given group has no process of its own in it. A path is of a machine's own group; all on the loop's thread.
 */
#pragma once

#include <uv.h>

#include "base/base.h"

struct cgroup_leaving; /* a group that is removed when the last one in it has ended */

/* Makes the group, if it is not there, and opens it for cgroup_put(). Returns a descriptor, or a negative errno. */
int cgroup_open(const char *path, struct error *err);

/* Puts a process in, with what it will start. */
int cgroup_put(int group, int pid, struct error *err);

/* Removes a group, at once or, if somebody is still in it (a default switch that was plugged in is no child of its machine,
 * and may end later), when he has ended. Whoever uses it again meanwhile may do so. `all`: what waits so, at first NULL. */
void cgroup_remove(struct cgroup_leaving **all, uv_loop_t *loop, const char *path);

/* Before the loop ends. What stays is removed by the next daemon. */
void cgroup_leave_all(struct cgroup_leaving **all);

/* At the daemon's start: checks that `parent` is such a group, hands its controllers down as far as it has them, and
 * removes machines' groups in it that are empty. */
int cgroup_prepare(const char *parent, struct error *err);
