/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * needs.h - how much memory the process of a machine may ever need: what its sandbox leaves it. Private to worker/.
 */
#pragma once

#include "worker/worker.h"

/* Threads that a machine may have at most, whatever its guest opens and whatever is added to it. */
unsigned needs_threads(unsigned processors);

/* The stack of each. */
#define NEEDS_STACK (512u << 10)

/* Bytes of private memory beyond those that it has when all is open, `files` of them disks' files; and, with guest memory and
 * mappings of code, of addresses. */
uint64_t needs_memory(const struct worker_config *config, unsigned files);
uint64_t needs_addresses(const struct worker_config *config, unsigned files);
