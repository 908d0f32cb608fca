/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox_rules.h - which system calls each kind of thread of a machine may make. Private to worker/.
 *
 * Each is made by some test, by a thread of each kind that may: tests/guest/test_calls.py looks, and names those that no
 * test can reach.
 */
#pragma once

#include "base/base.h"

/* An argument of a call has `value` in the bits of `mask`. */
struct sandbox_comparison {
	unsigned argument;
	uint64_t mask, value;
};

struct sandbox_rule {
	int call;
	unsigned kinds; /* bits, 1 << enum thread_kind; the first thread, which starts all others, has all rules */
	unsigned compares; /* the call is allowed when so many of the next are true; 0: always */
	struct sandbox_comparison comparisons[2];
};

#define SANDBOX_OWN_PROCESS UINT64_MAX /* as a value: stands for this process's id */

/* A call that fails with this error, which whoever makes it takes. All others end the process. */
struct sandbox_refusal {
	int call, error;
};

extern const struct sandbox_rule sandbox_rules[], sandbox_kvm_rules[];
extern const struct sandbox_refusal sandbox_refusals[];
extern const size_t sandbox_rule_count, sandbox_kvm_rule_count, sandbox_refusal_count;
