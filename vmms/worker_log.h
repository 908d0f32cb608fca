/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker_log.h - what a machine's worker says, in worker.log of the machine's directory. Private to vmms/.
 *
 * The directory may be where others write: links, pipes and other names of other files are refused.
 */
#pragma once

#include "base/base.h"

/* What a log may have; what is older goes. */
#define WORKER_LOG_MAX (1u << 20)

/* For appending, made if it is not there. Returns the descriptor. */
int worker_log_open(const char *path, struct error *err);

/* Its last lines, in one, at most `size` bytes with the terminator; "" when there are none. */
void worker_log_tail(const char *path, char *text, size_t size);

/* Of a log that has become too long the later half stays. The worker may be writing it. */
void worker_log_cut(const char *path);
