// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_move.c - instructions that move data and touch no flag: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI,
 * LEA, XCHG of registers, BSWAP, CBW to CQO, XLAT.
 */
#include "hypervisor/soft/exec.h"

/* --- MOV ---------------------------------------------------------------------------------------- */

#define DEFINE_MOV(bits)                                                                        \
	static const struct op *mov##bits##_rr(struct soft_vp *vp, const struct op *op)         \
	{                                                                                       \
		reg##bits##_set(vp, op->dst, reg##bits(vp, op->src));                           \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *mov##bits##_ri(struct soft_vp *vp, const struct op *op)         \
	{                                                                                       \
		reg##bits##_set(vp, op->dst, (uint##bits##_t)op->imm);                          \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *xchg##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst), b = reg##bits(vp, op->src);          \
                                                                                                \
		reg##bits##_set(vp, op->dst, b);                                                \
		reg##bits##_set(vp, op->src, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(mov##bits##_rm, bits, reg##bits##_set(vp, op->dst, v))                      \
	DEFINE_STORE(mov##bits##_mr, bits, reg##bits(vp, op->src))                              \
	DEFINE_STORE(mov##bits##_mi, bits, op->imm)

DEFINE_MOV(8)
DEFINE_MOV(16)
DEFINE_MOV(32)
DEFINE_MOV(64)

static const op_fn mov_rr[4] = SIZES(mov, _rr), mov_ri[4] = SIZES(mov, _ri), xchg_rr[4] = SIZES(xchg, _rr);
static const struct memory_handler mov_rm[4] = MEMORY_SIZES(mov, _rm), mov_mr[4] = MEMORY_SIZES(mov, _mr),
				   mov_mi[4] = MEMORY_SIZES(mov, _mi);

static bool select_mov(struct decoding *d, struct op *op)
{
	unsigned i = size_index(d->operands[0].size);

	switch (take_operands(d, op)) {
	case SHAPE_RR:
		op->fn = mov_rr[i];
		return true;
	case SHAPE_RI:
		op->fn = mov_ri[i];
		return true;
	case SHAPE_RM:
		op->fn = memory_fn(op, mov_rm[i]);
		return true;
	case SHAPE_MR:
		op->fn = memory_fn(op, mov_mr[i]);
		return true;
	case SHAPE_MI:
		op->fn = memory_fn(op, mov_mi[i]);
		return true;
	default:
		return false; /* segment, control and debug registers */
	}
}

/* --- widening moves ----------------------------------------------------------------------------- */

#define DEFINE_WIDEN(name, from, to, type)                                              \
	static const struct op *name##_rr(struct soft_vp *vp, const struct op *op)      \
	{                                                                               \
		reg##to##_set(vp, op->dst, (uint##to##_t)(type)reg##from(vp, op->src)); \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	DEFINE_LOAD(name##_rm, from, reg##to##_set(vp, op->dst, (uint##to##_t)(type)v))

DEFINE_WIDEN(zero8_16, 8, 16, uint8_t)
DEFINE_WIDEN(zero8_64, 8, 64, uint8_t)
DEFINE_WIDEN(zero16_64, 16, 64, uint16_t)
DEFINE_WIDEN(sign8_16, 8, 16, int8_t)
DEFINE_WIDEN(sign8_32, 8, 32, int8_t)
DEFINE_WIDEN(sign8_64, 8, 64, int8_t)
DEFINE_WIDEN(sign16_32, 16, 32, int16_t)
DEFINE_WIDEN(sign16_64, 16, 64, int16_t)
DEFINE_WIDEN(sign32_64, 32, 64, int32_t)

struct widen {
	op_fn rr;
	struct memory_handler rm;
};

#define WIDEN(name) {name##_rr, MEMORY(name##_rm)}

/* By source size, then destination size. Where they are equal it is a MOV. A 32-bit result clears the
 * upper half, so zero extension to 32 and to 64 bits are one. */
static const struct widen zero_extensions[3][4] = {
    {WIDEN(mov8), WIDEN(zero8_16), WIDEN(zero8_64), WIDEN(zero8_64)},
    {{0}, WIDEN(mov16), WIDEN(zero16_64), WIDEN(zero16_64)},
    {{0}, {0}, WIDEN(mov32), WIDEN(mov32)},
};
static const struct widen sign_extensions[3][4] = {
    {WIDEN(mov8), WIDEN(sign8_16), WIDEN(sign8_32), WIDEN(sign8_64)},
    {{0}, WIDEN(mov16), WIDEN(sign16_32), WIDEN(sign16_64)},
    {{0}, {0}, WIDEN(mov32), WIDEN(sign32_64)},
};

static bool select_widen(struct decoding *d, struct op *op, const struct widen table[3][4])
{
	unsigned from = size_index(d->operands[1].size), to = size_index(d->operands[0].size);
	enum shape shape = take_operands(d, op);
	const struct widen *w;

	/* MOVSXD with a 16-bit destination reads no more than that of its source. */
	if (from > to)
		from = to;
	if (from > 2)
		return false;
	w = &table[from][to];
	if (shape == SHAPE_RR)
		op->fn = w->rr;
	else if (shape == SHAPE_RM)
		op->fn = memory_fn(op, w->rm);
	else
		return false;
	return op->fn;
}

/* --- byte order --------------------------------------------------------------------------------- */

static const struct op *bswap16_r(struct soft_vp *vp, const struct op *op)
{
	reg16_set(vp, op->dst, 0); /* undefined; this is what processors do */
	return op + 1;
}

static const struct op *bswap32_r(struct soft_vp *vp, const struct op *op)
{
	reg32_set(vp, op->dst, __builtin_bswap32(reg32(vp, op->dst)));
	return dispatch(vp, op + 1);
}

static const struct op *bswap64_r(struct soft_vp *vp, const struct op *op)
{
	reg64_set(vp, op->dst, __builtin_bswap64(reg64(vp, op->dst)));
	return dispatch(vp, op + 1);
}

#define DEFINE_MOVBE(bits)                                                                              \
	DEFINE_LOAD(movbe##bits##_rm, bits, reg##bits##_set(vp, op->dst, __builtin_bswap##bits(v)))     \
	DEFINE_STORE(movbe##bits##_mr, bits, __builtin_bswap##bits(reg##bits(vp, op->src)))

DEFINE_MOVBE(16)
DEFINE_MOVBE(32)
DEFINE_MOVBE(64)

static const op_fn bswap_r[4] = {NULL, bswap16_r, bswap32_r, bswap64_r};
static const struct memory_handler movbe_rm[4] = {
    {0}, MEMORY(movbe16_rm), MEMORY(movbe32_rm), MEMORY(movbe64_rm)};
static const struct memory_handler movbe_mr[4] = {
    {0}, MEMORY(movbe16_mr), MEMORY(movbe32_mr), MEMORY(movbe64_mr)};

static bool select_movbe(struct decoding *d, struct op *op)
{
	unsigned i = size_index(d->operands[0].size);
	enum shape shape = take_operands(d, op);

	op->fn = memory_fn(op, shape == SHAPE_RM ? movbe_rm[i] : movbe_mr[i]);
	return op->fn;
}

/* --- LEA ---------------------------------------------------------------------------------------- */

static const struct op *lea64_base(struct soft_vp *vp, const struct op *op)
{
	reg64_set(vp, op->dst, reg64(vp, op->base) + (uint64_t)op->disp);
	return dispatch(vp, op + 1);
}

static const struct op *lea64(struct soft_vp *vp, const struct op *op)
{
	reg64_set(vp, op->dst,
	    reg64(vp, op->base) + (reg64(vp, op->index) << op->scale) + (uint64_t)op->disp);
	return dispatch(vp, op + 1);
}

static const struct op *lea32(struct soft_vp *vp, const struct op *op)
{
	reg32_set(vp, op->dst,
	    (uint32_t)(reg64(vp, op->base) + (reg64(vp, op->index) << op->scale) + (uint64_t)op->disp));
	return dispatch(vp, op + 1);
}

/* Any operand and address size. */
static const struct op *lea_any(struct soft_vp *vp, const struct op *op)
{
	uint64_t a = ea_offset(vp, op);

	if (op->size == 8)
		reg64_set(vp, op->dst, a);
	else if (op->size == 4)
		reg32_set(vp, op->dst, (uint32_t)a);
	else
		reg16_set(vp, op->dst, (uint16_t)a);
	return dispatch(vp, op + 1);
}

static bool select_lea(struct decoding *d, struct op *op)
{
	take_operands(d, op);
	op->size = (uint8_t)(d->operands[0].size / 8);
	if (op->size == 2 || op_is_far(op) || (op->flags & OP_ADDRESS_16) || (op->size == 8 && (op->flags & OP_ADDRESS_32)))
		op->fn = lea_any;
	else if (op->size == 4)
		op->fn = lea32;
	else
		op->fn = op->index == GPR_ZERO * 8 ? lea64_base : lea64;
	return true;
}

/* --- sign extension of the accumulator, XLAT ---------------------------------------------------- */

#define DEFINE_ACCUMULATOR(name, statement)                                     \
	static const struct op *name(struct soft_vp *vp, const struct op *op)   \
	{                                                                       \
		uint64_t a = vp->gpr[GPR_RAX];                                  \
                                                                                \
		statement;                                                      \
		return dispatch(vp, op + 1);                                    \
	}

DEFINE_ACCUMULATOR(cbw, reg16_set(vp, GPR_RAX * 8, (uint16_t)(int8_t)a))
DEFINE_ACCUMULATOR(cwde, reg32_set(vp, GPR_RAX * 8, (uint32_t)(int16_t)a))
DEFINE_ACCUMULATOR(cdqe, reg64_set(vp, GPR_RAX * 8, (uint64_t)(int32_t)a))
DEFINE_ACCUMULATOR(cwd, reg16_set(vp, GPR_RDX * 8, (uint16_t)((int16_t)a >> 15)))
DEFINE_ACCUMULATOR(cdq, reg32_set(vp, GPR_RDX * 8, (uint32_t)((int32_t)a >> 31)))
DEFINE_ACCUMULATOR(cqo, reg64_set(vp, GPR_RDX * 8, (uint64_t)((int64_t)a >> 63)))

static bool select_accumulator(struct op *op, op_fn fn)
{
	op->fn = fn;
	return true;
}

/* src2: the segment; imm: the mask of the address size. */
static const struct op *xlat(struct soft_vp *vp, const struct op *op)
{
	uint64_t offset = (vp->gpr[GPR_RBX] + reg8(vp, GPR_RAX * 8)) & op->imm;

	reg8_set(vp, GPR_RAX * 8, load8(vp, op, segment_linear(vp, op, op->src2, offset, 1, false)));
	return op + 1;
}

static bool select_xlat(struct decoding *d, struct op *op)
{
	op->src2 = memory_segment(d, 0);
	op->seg = SEG_ES; /* not the stack, when it faults */
	op->imm = address_mask(d);
	op->fn = xlat;
	return true;
}

bool move_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVNTI:
		return select_mov(d, op);
	case ZYDIS_MNEMONIC_MOVZX:
		return select_widen(d, op, zero_extensions);
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		return select_widen(d, op, sign_extensions);
	case ZYDIS_MNEMONIC_LEA:
		return select_lea(d, op);
	case ZYDIS_MNEMONIC_XCHG:
		if (take_operands(d, op) != SHAPE_RR)
			return false;
		op->fn = xchg_rr[size_index(d->operands[0].size)];
		return true;
	case ZYDIS_MNEMONIC_BSWAP:
		take_operands(d, op);
		op->fn = bswap_r[size_index(d->operands[0].size)];
		return true;
	case ZYDIS_MNEMONIC_MOVBE:
		return select_movbe(d, op);
	case ZYDIS_MNEMONIC_CBW:
		return select_accumulator(op, cbw);
	case ZYDIS_MNEMONIC_CWDE:
		return select_accumulator(op, cwde);
	case ZYDIS_MNEMONIC_CDQE:
		return select_accumulator(op, cdqe);
	case ZYDIS_MNEMONIC_CWD:
		return select_accumulator(op, cwd);
	case ZYDIS_MNEMONIC_CDQ:
		return select_accumulator(op, cdq);
	case ZYDIS_MNEMONIC_CQO:
		return select_accumulator(op, cqo);
	case ZYDIS_MNEMONIC_XLAT:
		return select_xlat(d, op);
	default:
		return false;
	}
}
