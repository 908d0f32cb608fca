/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox.h - where the process of a machine is locked up before its guest runs. Private to worker/.
 *
 * A guest that breaks out of its machine finds: no file by any name, no network, no other process, no privilege, a user
 * of its own where root started it, and per kind of thread only the system calls that the thread needs. A process
 * that makes another ends at once, and its log names the call. What the host does not grant is told in the log.
 * docs/worker.md has the layers. A program that was built with a sanitizer has no sandbox.
 */
#pragma once

#include "base/base.h"

/* The exit status of a process that made a system call which its sandbox forbids. */
#define SANDBOX_EXIT 159

/* So many heaps its threads share. */
#define SANDBOX_HEAPS 8u

struct sandbox_config {
	bool has_user; /* change to this one; only root can */
	unsigned uid, gid;
	bool kvm; /* the machine may run on KVM */
	/* Bytes, beyond what there is by then, of memory that is the process's own, and of addresses. 0: without limit. */
	uint64_t memory, addresses;
	size_t stack; /* of each thread that begins later; 0: as it was */
};

/* In the process that outlives the machine's, right before it forks that: the child begins in a process namespace of
 * its own where that is granted, and both may have as many descriptors as the sandbox leaves. */
void sandbox_prepare(void);

/* In the machine's process, when all that it needs is open, and before it has another thread. An error: it must
 * not go on. */
int sandbox_enter(const struct sandbox_config *config, struct error *err);
