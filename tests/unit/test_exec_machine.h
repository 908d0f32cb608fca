/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_exec_machine.h - one software processor with a little memory, for tests of single instructions.
 *
 * Code runs until HLT. Every exception vector leads to a HLT of its own, so a fault ends the run
 * too and can be looked at. In 64-bit mode the linear addresses are such that the same code and data
 * can be mapped there in the test's own process and run by the host CPU.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/soft/soft.h"

/* Linear in 64-bit mode. */
#define CODE      0x10000000ull
#define DATA      0x10100000ull
#define HANDLERS  0x10180000ull
#define CODE_SIZE 0x4000u
#define DATA_SIZE 0x4000u
#define UNMAPPED  (DATA + DATA_SIZE)
#define READ_ONLY (HANDLERS + 0x20000)
#define MMIO      (HANDLERS + 0x21000)
#define STACK     (DATA + 0x2000)

/* Guest physical, and linear in the other modes. */
#define CODE_GPA     0x10000u
#define DATA_GPA     0x20000u
#define HANDLERS_GPA 0x30000u
#define RAM_SIZE     0x100000u

#define GPR_NAMES RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15
enum { GPR_NAMES };

#define ARITHMETIC_FLAGS 0x8d5u
#define DF_FLAG          0x400u

struct machine {
	struct soft *soft;
	struct soft_vp *vp;
	struct vp_registers r; /* in: to start with; out: at the end */
	uint8_t *ram, *data;   /* data: at DATA_GPA */
	int fault;             /* out: the vector, -1 for none */
	uint64_t fault_rip, fault_rsp, error_code; /* fault_rsp: in 64-bit mode */
	uint64_t mmio_value;
	unsigned mmio_reads, mmio_writes;
};

/* `vps` processors share the memory; all functions here are for the first. */
void machine_create(struct machine *m, unsigned vps);
void machine_destroy(struct machine *m);

/* Set m->r for a mode: RIP at the code, RSP at a stack, flags clear, other registers 0. */
void machine_long(struct machine *m);
void machine_compatible(struct machine *m); /* 32-bit code under 64-bit paging, at the same addresses */
void machine_protected(struct machine *m, bool code32);
void machine_real(struct machine *m);

/* Put `code` and a HLT where m->r.rip starts. */
void machine_code(struct machine *m, const void *code, unsigned size);

/* Run from m->r to the next HLT. */
void machine_run(struct machine *m);
