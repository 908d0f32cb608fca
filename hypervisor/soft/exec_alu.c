// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_alu.c - ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT, in every size and operand form.
 *
 * The handlers are generated: name, size in bits and form (rr: register, register; rm: register,
 * memory; mi: memory, immediate …) make a handler's name.
 */
#include "hypervisor/soft/exec.h"

#include "base/bytes.h"

#define DEFINE_BINARY(name, bits)                                                                       \
	static const struct op *name##bits##_rr(struct soft_vp *vp, const struct op *op)                \
	{                                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                                              \
                                                                                                        \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), vp->arith);                          \
		reg##bits##_set(vp, op->dst, a);                                                        \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	static const struct op *name##bits##_ri(struct soft_vp *vp, const struct op *op)                \
	{                                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                                              \
                                                                                                        \
		vp->arith = name##bits(&a, (uint##bits##_t)op->imm, vp->arith);                         \
		reg##bits##_set(vp, op->dst, a);                                                        \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	DEFINE_LOAD(name##bits##_rm, bits, {                                                            \
		uint##bits##_t a = reg##bits(vp, op->dst);                                              \
		vp->arith = name##bits(&a, v, vp->arith);                                               \
		reg##bits##_set(vp, op->dst, a);                                                        \
	})                                                                                              \
	DEFINE_UPDATE(name##bits##_mr, bits, name##bits(&v, reg##bits(vp, op->src), arith))             \
	DEFINE_UPDATE(name##bits##_mi, bits, name##bits(&v, (uint##bits##_t)op->imm, arith))            \
	DEFINE_LOCKED(name##bits##_mr_lock, bits, name##bits(&v, reg##bits(vp, op->src), arith))        \
	DEFINE_LOCKED(name##bits##_mi_lock, bits, name##bits(&v, (uint##bits##_t)op->imm, arith))

#define DEFINE_COMPARE(name, bits)                                                              \
	static const struct op *name##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		vp->arith = name##bits(reg##bits(vp, op->dst), reg##bits(vp, op->src));         \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *name##bits##_ri(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		vp->arith = name##bits(reg##bits(vp, op->dst), (uint##bits##_t)op->imm);        \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(name##bits##_rm, bits, vp->arith = name##bits(reg##bits(vp, op->dst), v))   \
	DEFINE_LOAD(name##bits##_mr, bits, vp->arith = name##bits(v, reg##bits(vp, op->src)))   \
	DEFINE_LOAD(name##bits##_mi, bits, vp->arith = name##bits(v, (uint##bits##_t)op->imm))

#define DEFINE_UNARY(name, bits)                                                        \
	static const struct op *name##bits##_r(struct soft_vp *vp, const struct op *op) \
	{                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                              \
                                                                                        \
		vp->arith = name##bits(&a, vp->arith);                                  \
		reg##bits##_set(vp, op->dst, a);                                        \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	DEFINE_UPDATE(name##bits##_m, bits, name##bits(&v, arith))                      \
	DEFINE_LOCKED(name##bits##_m_lock, bits, name##bits(&v, arith))

/* NOT leaves the flags alone. */
#define DEFINE_HOST_NOT(bits)                                                   \
	static inline uint16_t not##bits(uint##bits##_t *a, uint16_t arith)     \
	{                                                                       \
		*a = (uint##bits##_t)~*a;                                       \
		return arith;                                                   \
	}

#define DEFINE_ALL(bits)                \
	DEFINE_HOST_NOT(bits)           \
	DEFINE_BINARY(add, bits)        \
	DEFINE_BINARY(or, bits)         \
	DEFINE_BINARY(adc, bits)        \
	DEFINE_BINARY(sbb, bits)        \
	DEFINE_BINARY(and, bits)        \
	DEFINE_BINARY(sub, bits)        \
	DEFINE_BINARY(xor, bits)        \
	DEFINE_COMPARE(cmp, bits)       \
	DEFINE_COMPARE(test, bits)      \
	DEFINE_UNARY(inc, bits)         \
	DEFINE_UNARY(dec, bits)         \
	DEFINE_UNARY(neg, bits)         \
	DEFINE_UNARY(not, bits)

DEFINE_ALL(8)
DEFINE_ALL(16)
DEFINE_ALL(32)
DEFINE_ALL(64)

/* XOR or SUB of a register with itself: 0, whatever it held. */
static const struct op *clear_register(struct soft_vp *vp, const struct op *op)
{
	reg64_set(vp, op->dst, 0);
	vp->arith = ARITH_FIXED | ARITH_ZF | ARITH_PF;
	return dispatch(vp, op + 1);
}

struct binary {
	op_fn rr[4], ri[4], mr_lock[4], mi_lock[4];
	struct memory_handler rm[4], mr[4], mi[4];
};

struct unary {
	op_fn r[4], m_lock[4];
	struct memory_handler m[4];
};

#define COMPARE_TABLE(name)                                                             \
	.rr = SIZES(name, _rr), .ri = SIZES(name, _ri), .rm = MEMORY_SIZES(name, _rm),  \
	.mr = MEMORY_SIZES(name, _mr), .mi = MEMORY_SIZES(name, _mi)
#define BINARY_TABLE(name) \
	COMPARE_TABLE(name), .mr_lock = SIZES(name, _mr_lock), .mi_lock = SIZES(name, _mi_lock)
#define UNARY_TABLE(name) \
	{.r = SIZES(name, _r), .m = MEMORY_SIZES(name, _m), .m_lock = SIZES(name, _m_lock)}

static const struct binary add_table = {BINARY_TABLE(add)}, or_table = {BINARY_TABLE(or)},
			   adc_table = {BINARY_TABLE(adc)}, sbb_table = {BINARY_TABLE(sbb)},
			   and_table = {BINARY_TABLE(and)}, sub_table = {BINARY_TABLE(sub)},
			   xor_table = {BINARY_TABLE(xor)}, cmp_table = {COMPARE_TABLE(cmp)},
			   test_table = {COMPARE_TABLE(test)};
static const struct unary inc_table = UNARY_TABLE(inc), dec_table = UNARY_TABLE(dec),
			  neg_table = UNARY_TABLE(neg), not_table = UNARY_TABLE(not);

static const struct binary *binary_table(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		return &add_table;
	case ZYDIS_MNEMONIC_OR:
		return &or_table;
	case ZYDIS_MNEMONIC_ADC:
		return &adc_table;
	case ZYDIS_MNEMONIC_SBB:
		return &sbb_table;
	case ZYDIS_MNEMONIC_AND:
		return &and_table;
	case ZYDIS_MNEMONIC_SUB:
		return &sub_table;
	case ZYDIS_MNEMONIC_XOR:
		return &xor_table;
	case ZYDIS_MNEMONIC_CMP:
		return &cmp_table;
	case ZYDIS_MNEMONIC_TEST:
		return &test_table;
	default:
		return NULL;
	}
}

static const struct unary *unary_table(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_INC:
		return &inc_table;
	case ZYDIS_MNEMONIC_DEC:
		return &dec_table;
	case ZYDIS_MNEMONIC_NEG:
		return &neg_table;
	case ZYDIS_MNEMONIC_NOT:
		return &not_table;
	default:
		return NULL;
	}
}

static bool clears_register(const struct decoding *d, const struct op *op)
{
	return (d->insn->mnemonic == ZYDIS_MNEMONIC_XOR || d->insn->mnemonic == ZYDIS_MNEMONIC_SUB) &&
	       op->dst == op->src && d->operands[0].size >= 32;
}

bool alu_select(struct decoding *d, struct op *op)
{
	const struct binary *binary = binary_table(d->insn->mnemonic);
	const struct unary *unary = binary ? NULL : unary_table(d->insn->mnemonic);
	unsigned i = size_index(d->operands[0].size);
	bool lock = op->flags & OP_LOCK;

	if (!binary && !unary)
		return false;
	switch (take_operands(d, op)) {
	case SHAPE_RR:
		op->fn = clears_register(d, op) ? clear_register : binary->rr[i];
		return true;
	case SHAPE_RI:
		op->fn = binary->ri[i];
		return true;
	case SHAPE_RM:
		op->fn = memory_fn(op, binary->rm[i]);
		return true;
	case SHAPE_MR:
		op->fn = lock ? binary->mr_lock[i] : memory_fn(op, binary->mr[i]);
		return true;
	case SHAPE_MI:
		op->fn = lock ? binary->mi_lock[i] : memory_fn(op, binary->mi[i]);
		return true;
	case SHAPE_R:
		op->fn = unary->r[i];
		return true;
	case SHAPE_M:
		op->fn = lock ? unary->m_lock[i] : memory_fn(op, unary->m[i]);
		return true;
	default:
		return false;
	}
}

#define FUSIBLE_REGISTER(name, bits, form) {name##bits##_##form, FUSIBLE_##name##bits##form},
#define FUSIBLE_BASED(name, bits, form)    {name##bits##_##form##_based, FUSIBLE_##name##bits##form},

enum fusible alu_fusible(const struct op *op)
{
	static const struct {
		op_fn fn;
		enum fusible number;
	} table[] = {FUSIBLE_REGISTERS(FUSIBLE_REGISTER) FUSIBLE_MEMORY(FUSIBLE_BASED)};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (op->fn == table[i].fn)
			return table[i].number;
	return FUSIBLE_NONE;
}
