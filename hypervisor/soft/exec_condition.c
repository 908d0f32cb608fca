// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_condition.c - SETcc and CMOVcc, a handler for each condition.
 */
#include "hypervisor/soft/exec.h"

/* A 32-bit CMOV clears the upper half, and memory is read, also when the condition does not hold. */
#define DEFINE_CMOV(cc, bits)                                                                   \
	static const struct op *cmov##cc##bits##_rr(struct soft_vp *vp, const struct op *op)    \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst), b = reg##bits(vp, op->src);          \
                                                                                                \
		reg##bits##_set(vp, op->dst, condition_##cc(vp->arith) ? b : a);                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(cmov##cc##bits##_rm, bits,                                                  \
	    reg##bits##_set(vp, op->dst, condition_##cc(vp->arith) ? v : reg##bits(vp, op->dst)))

#define DEFINE_BY_CONDITION(cc, expression)                                             \
	static const struct op *set##cc##_r(struct soft_vp *vp, const struct op *op)    \
	{                                                                               \
		reg8_set(vp, op->dst, condition_##cc(vp->arith));                       \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	DEFINE_STORE(set##cc##_m, 8, condition_##cc(vp->arith))                         \
	DEFINE_CMOV(cc, 16)                                                             \
	DEFINE_CMOV(cc, 32)                                                             \
	DEFINE_CMOV(cc, 64)

CONDITIONS(DEFINE_BY_CONDITION)

#define SELECT_BY_CONDITION(cc, expression)                                                             \
	case ZYDIS_MNEMONIC_SET##cc:                                                                    \
		op->fn = shape == SHAPE_R ? set##cc##_r                                                 \
					  : memory_fn(op, (struct memory_handler)MEMORY(set##cc##_m));  \
		return true;                                                                            \
	case ZYDIS_MNEMONIC_CMOV##cc: {                                                                 \
		static const op_fn rr[4] = {NULL, cmov##cc##16_rr, cmov##cc##32_rr, cmov##cc##64_rr};   \
		static const struct memory_handler rm[4] = {                                            \
		    {0}, MEMORY(cmov##cc##16_rm), MEMORY(cmov##cc##32_rm), MEMORY(cmov##cc##64_rm)};    \
                                                                                                        \
		op->fn = shape == SHAPE_RR ? rr[i] : memory_fn(op, rm[i]);                              \
		return true;                                                                            \
	}

bool condition_select(struct decoding *d, struct op *op)
{
	enum shape shape = take_operands(d, op);
	unsigned i = size_index(d->operands[0].size);

	switch (d->insn->mnemonic) {
		CONDITIONS(SELECT_BY_CONDITION)
	default:
		return false;
	}
}
