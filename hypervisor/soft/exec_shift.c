// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_shift.c - SHL SHR SAR, ROL ROR RCL RCR, SHLD SHRD, by 1, by an immediate and by CL.
 *
 * In a name, c is a count in CL and i one in the instruction. The host masks the count and keeps the
 * flags that the manual says are kept, in all cases.
 */
#include "hypervisor/soft/exec.h"

#define COUNT_CL reg8(vp, GPR_RCX * 8)
#define COUNT_IMM ((uint8_t)op->imm)

#define DEFINE_SHIFT(name, bits)                                                                \
	static const struct op *name##bits##_rc(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##bits(&a, COUNT_CL, vp->arith);                                \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *name##bits##_ri(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##bits(&a, COUNT_IMM, vp->arith);                               \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_UPDATE(name##bits##_mc, bits, name##bits(&v, COUNT_CL, arith))                   \
	DEFINE_UPDATE(name##bits##_mi, bits, name##bits(&v, COUNT_IMM, arith))

/* The frequent case: a register by an immediate that is not 0. */
#define DEFINE_SHIFT_SOME(name, bits)                                                           \
	static const struct op *name##_some##bits##_ri(struct soft_vp *vp, const struct op *op) \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##_some##bits(&a, COUNT_IMM);                                   \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}

#define DEFINE_SHIFTS(bits)             \
	DEFINE_SHIFT(shl, bits)         \
	DEFINE_SHIFT(shr, bits)         \
	DEFINE_SHIFT(sar, bits)         \
	DEFINE_SHIFT(rol, bits)         \
	DEFINE_SHIFT(ror, bits)         \
	DEFINE_SHIFT(rcl, bits)         \
	DEFINE_SHIFT(rcr, bits)         \
	DEFINE_SHIFT_SOME(shl, bits)    \
	DEFINE_SHIFT_SOME(shr, bits)    \
	DEFINE_SHIFT_SOME(sar, bits)

DEFINE_SHIFTS(8)
DEFINE_SHIFTS(16)
DEFINE_SHIFTS(32)
DEFINE_SHIFTS(64)

#define DEFINE_DOUBLE_SHIFT(name, bits)                                                                 \
	static const struct op *name##bits##_rc(struct soft_vp *vp, const struct op *op)                \
	{                                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                                              \
                                                                                                        \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), COUNT_CL, vp->arith);                \
		reg##bits##_set(vp, op->dst, a);                                                        \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	static const struct op *name##bits##_ri(struct soft_vp *vp, const struct op *op)                \
	{                                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                                              \
                                                                                                        \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), COUNT_IMM, vp->arith);               \
		reg##bits##_set(vp, op->dst, a);                                                        \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	DEFINE_UPDATE(name##bits##_mc, bits, name##bits(&v, reg##bits(vp, op->src), COUNT_CL, arith))   \
	DEFINE_UPDATE(name##bits##_mi, bits, name##bits(&v, reg##bits(vp, op->src), COUNT_IMM, arith))

DEFINE_DOUBLE_SHIFT(shld, 16)
DEFINE_DOUBLE_SHIFT(shld, 32)
DEFINE_DOUBLE_SHIFT(shld, 64)
DEFINE_DOUBLE_SHIFT(shrd, 16)
DEFINE_DOUBLE_SHIFT(shrd, 32)
DEFINE_DOUBLE_SHIFT(shrd, 64)

struct shift {
	op_fn rc[4], ri[4], ri_some[4];
	struct memory_handler mc[4], mi[4];
};

#define SHIFT_TABLE(name, some)                                                         \
	{SIZES(name, _rc), SIZES(name, _ri), SIZES(some, _ri), MEMORY_SIZES(name, _mc), \
	 MEMORY_SIZES(name, _mi)}
#define WIDE_SIZES(name, suffix) {NULL, name##16##suffix, name##32##suffix, name##64##suffix}
#define WIDE_MEMORY_SIZES(name, suffix) \
	{{0}, MEMORY(name##16##suffix), MEMORY(name##32##suffix), MEMORY(name##64##suffix)}
#define DOUBLE_SHIFT_TABLE(name)                                                \
	{WIDE_SIZES(name, _rc), WIDE_SIZES(name, _ri), WIDE_SIZES(name, _ri),   \
	 WIDE_MEMORY_SIZES(name, _mc), WIDE_MEMORY_SIZES(name, _mi)}

static const struct shift shl_table = SHIFT_TABLE(shl, shl_some), shr_table = SHIFT_TABLE(shr, shr_some),
			  sar_table = SHIFT_TABLE(sar, sar_some), rol_table = SHIFT_TABLE(rol, rol),
			  ror_table = SHIFT_TABLE(ror, ror), rcl_table = SHIFT_TABLE(rcl, rcl),
			  rcr_table = SHIFT_TABLE(rcr, rcr), shld_table = DOUBLE_SHIFT_TABLE(shld),
			  shrd_table = DOUBLE_SHIFT_TABLE(shrd);

static const struct shift *shift_table(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
		return &shl_table;
	case ZYDIS_MNEMONIC_SHR:
		return &shr_table;
	case ZYDIS_MNEMONIC_SAR:
		return &sar_table;
	case ZYDIS_MNEMONIC_ROL:
		return &rol_table;
	case ZYDIS_MNEMONIC_ROR:
		return &ror_table;
	case ZYDIS_MNEMONIC_RCL:
		return &rcl_table;
	case ZYDIS_MNEMONIC_RCR:
		return &rcr_table;
	case ZYDIS_MNEMONIC_SHLD:
		return &shld_table;
	case ZYDIS_MNEMONIC_SHRD:
		return &shrd_table;
	default:
		return NULL;
	}
}

bool shift_select(struct decoding *d, struct op *op)
{
	const struct shift *t = shift_table(d->insn->mnemonic);
	unsigned i = size_index(d->operands[0].size);
	const ZydisDecodedOperand *count;

	if (!t)
		return false;
	take_operands(d, op);
	count = &d->operands[d->insn->operand_count_visible - 1];
	if (d->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		op->fn = memory_fn(op, count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? t->mi[i] : t->mc[i]);
	else if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		op->fn = t->rc[i];
	else
		op->fn = op->imm & (i == 3 ? 63 : 31) ? t->ri_some[i] : t->ri[i];
	return op->fn;
}
