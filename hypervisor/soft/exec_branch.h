/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec_branch.h - direct jumps in 64-bit mode, for exec_branch.c and for exec_fuse.c.
 *
 * A direct branch keeps its target in imm and the address behind itself in disp, both counted from
 * byte 0 of the page (GPR_CODE_BASE).
 */
#pragma once

#include "hypervisor/soft/block.h"
#include "hypervisor/soft/exec.h"

static inline uint64_t target64(const struct soft_vp *vp, const struct op *op)
{
	return vp->gpr[GPR_CODE_BASE] + op->imm;
}

static inline uint64_t next64(const struct soft_vp *vp, const struct op *op)
{
	return vp->gpr[GPR_CODE_BASE] + (uint64_t)op->disp;
}

/* A target in the page that already runs is canonical. */
static inline __attribute__((always_inline)) const struct op *take64(struct soft_vp *vp, const struct op *op)
{
	uint64_t rip = target64(vp, op);

	if (unlikely(op->imm >= GUEST_PAGE_SIZE))
		branch_check(vp, op, rip);
	return branch_dispatch(vp, TAKEN, rip);
}

static inline __attribute__((always_inline)) const struct op *jump_if(struct soft_vp *vp, const struct op *op,
    bool condition)
{
	if (condition)
		return take64(vp, op);
	return branch_dispatch(vp, NOT_TAKEN, next64(vp, op));
}

/* The condition of a conditional jump in 64-bit mode, by its place in CONDITIONS; -1 for other ops. */
int branch_condition(const struct op *op);
