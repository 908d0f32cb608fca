/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * result_file.h - what bulkhead-worker tells who started it: one line when it starts, a file when it ends. Private to
 * worker/.
 */
#pragma once

#include "worker/worker.h"

/* {"restoring":{"done":n,"total":n}} on standard output; who does not read it is no hindrance. */
void tell_restoring(uint64_t done, uint64_t total);

/* {"ok":true,"pid":n} on standard output, which is /dev/null from then on. */
int tell_started(struct error *err);


/* Writes the result to `path`: all of it, on disk, or what was there before. `error` is NULL or a sentence. */
int result_file_write(const char *path, enum worker_result result, const struct worker_end *end, const char *error,
    struct error *err);

/* Tells the log, the file `path` unless it is NULL, and standard output, by {"ok":false,"error":text,"code":name of the
 * errno}; returns WORKER_NOT_STARTED. */
int not_started(const char *path, const struct error *why);
