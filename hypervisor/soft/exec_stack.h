/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec_stack.h - the stack in any mode, for pushes, pops and near calls. Words are op->size bytes.
 * Nothing here moves the stack pointer but stack_pointer_set(): an instruction does that last.
 */
#pragma once

#include "hypervisor/soft/access.h"

/* A stack of 16 bits moves SP alone. */
static inline void stack_pointer_set(struct soft_vp *vp, uint64_t sp)
{
	vp->gpr[GPR_RSP] = (vp->gpr[GPR_RSP] & ~vp->stack_mask) | (sp & vp->stack_mask);
	if (vp->stack_mask == 0xffffffff)
		vp->gpr[GPR_RSP] &= 0xffffffff;
}

/* The word at `sp`, not necessarily the stack pointer's. */
static inline uint64_t stack_load_at(struct soft_vp *vp, const struct op *op, uint64_t sp)
{
	uint64_t linear = segment_linear(vp, op, SEG_SS, sp & vp->stack_mask, op->size, false);

	if (op->size == 8)
		return load64(vp, op, linear);
	return op->size == 4 ? load32(vp, op, linear) : load16(vp, op, linear);
}

/* The word number `index` from the top. */
static inline uint64_t stack_load(struct soft_vp *vp, const struct op *op, unsigned index)
{
	return stack_load_at(vp, op, vp->gpr[GPR_RSP] + index * (uint64_t)op->size);
}

/* Write what the push number `index` (from 1) of this instruction writes; returns the stack pointer that
 * it leaves. */
static inline uint64_t stack_store(struct soft_vp *vp, const struct op *op, unsigned index, uint64_t v)
{
	uint64_t sp = (vp->gpr[GPR_RSP] - index * (uint64_t)op->size) & vp->stack_mask;
	uint64_t linear = segment_linear(vp, op, SEG_SS, sp, op->size, true);

	if (op->size == 8)
		store64(vp, op, linear, v);
	else if (op->size == 4)
		store32(vp, op, linear, (uint32_t)v);
	else
		store16(vp, op, linear, (uint16_t)v);
	return sp;
}
