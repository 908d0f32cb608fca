/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_exec_native.h - the host CPU as the reference: the same code at the same addresses, in this
 * process.
 */
#pragma once

#include "tests/unit/test_exec_machine.h"

struct native {
	uint64_t gpr[16];
	uint64_t rflags;
	int fault; /* out: the vector, -1 for none */
	uint64_t fault_rip, error_code;
};

/* Maps CODE and DATA. The host's data lies at DATA. */
void native_create(void);

/* Takes the signals from cmocka, which sets its own for each test. */
void native_catch(void);

/* `code` and a way back. */
void native_code(const void *code, unsigned size);
void native_run(struct native *n);

/* At NATIVE_CODE32, behind the jump that leads there: `code` as 32-bit code with flat segments. Of the
 * first 8 registers 32 bits each. */
#define NATIVE_CODE32 (CODE + 16)
void native_run32(struct native *n, const void *code, unsigned size);
