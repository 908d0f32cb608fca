/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nat_sandbox.h - what bulkhead-nat gives up before it sees a frame: another user's rights, all capabilities, all files but the
 * host's resolver configuration, and every system call that sockets do not need. Private to switch/.
 */
#pragma once

#include <sys/types.h>

#include "base/base.h"

struct nat_sandbox {
	unsigned descriptors;
	bool outlives; /* its parent's end is not its own */
	bool has_user; /* root becomes this user */
	uid_t uid;
	gid_t gid;
};

/* System calls that it may make whatever their arguments are. Each is made by some test: tests/guest/test_calls.py looks, and names those that
 * no test can reach. */
extern const int nat_sandbox_calls[];
extern const size_t nat_sandbox_call_count;

/* A program that was built with a sanitizer keeps its system calls and files. */
int nat_sandbox_enter(const struct nat_sandbox *sandbox, struct error *err);
