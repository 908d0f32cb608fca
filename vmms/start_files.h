/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * start_files.h - what a machine that starts has of files, opened for its worker, which is handed them. Private to vmms/.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"
#include "vmms/worker_link.h"

/* Open ports and files, each to be the descriptor of its place in the list behind WORKER_FIRST_FD. The caller's. */
struct start_fds {
	int fds[WORKER_START_FDS_MAX];
	size_t count;
};

/* Opens what `worker`, a configuration for a worker (docs/worker.md), names: kernel, initrd, disks with all that they continue, saved state;
 * and writes the descriptors' numbers into it. Not on the loop's thread. On failure what is open stays in the list, and `err` names the
 * file. */
int start_files_open(json_t *worker, struct start_fds *list, struct error *err);

void start_fds_close(struct start_fds *list);
