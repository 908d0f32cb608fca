// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_fuse.c - a comparison, or other arithmetic, and the conditional jump behind it as one handler.
 *
 * It saves one way from handler to handler, and the jump need not wait for the flags to come back
 * from memory. The jump's op stays where it is: its target is used from there, and it is
 * what runs next when the first of the pair had to take its slow way.
 */
#include "hypervisor/soft/exec_branch.h"

/* --- the first of the pair: its effect, and the flags ------------------------------------------- */

#define FLAGS_OF(name, bits, form) \
	static inline uint16_t name##bits##_##form##_flags(struct soft_vp *vp, const struct op *op)

#define DEFINE_COMPARE_rr(name, bits)                                                   \
	FLAGS_OF(name, bits, rr)                                                        \
	{                                                                               \
		return name##bits(reg##bits(vp, op->dst), reg##bits(vp, op->src));      \
	}
#define DEFINE_COMPARE_ri(name, bits)                                                   \
	FLAGS_OF(name, bits, ri)                                                        \
	{                                                                               \
		return name##bits(reg##bits(vp, op->dst), (uint##bits##_t)op->imm);     \
	}
#define DEFINE_BINARY(name, bits, form, b)                      \
	FLAGS_OF(name, bits, form)                              \
	{                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);      \
		uint16_t flags = name##bits(&a, b, vp->arith);  \
                                                                \
		reg##bits##_set(vp, op->dst, a);                \
		return flags;                                   \
	}
#define DEFINE_UNARY(name, bits)                                \
	FLAGS_OF(name, bits, r)                                 \
	{                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);      \
		uint16_t flags = name##bits(&a, vp->arith);     \
                                                                \
		reg##bits##_set(vp, op->dst, a);                \
		return flags;                                   \
	}

DEFINE_COMPARE_rr(cmp, 8)
DEFINE_COMPARE_rr(cmp, 32)
DEFINE_COMPARE_rr(cmp, 64)
DEFINE_COMPARE_ri(cmp, 8)
DEFINE_COMPARE_ri(cmp, 16)
DEFINE_COMPARE_ri(cmp, 32)
DEFINE_COMPARE_ri(cmp, 64)
DEFINE_COMPARE_rr(test, 8)
DEFINE_COMPARE_rr(test, 32)
DEFINE_COMPARE_rr(test, 64)
DEFINE_COMPARE_ri(test, 8)
DEFINE_COMPARE_ri(test, 32)
DEFINE_BINARY(and, 32, ri, (uint32_t)op->imm)
DEFINE_BINARY(and, 64, rr, reg64(vp, op->src))
DEFINE_BINARY(add, 64, ri, op->imm)
DEFINE_BINARY(sub, 32, ri, (uint32_t)op->imm)
DEFINE_BINARY(sub, 64, ri, op->imm)
DEFINE_BINARY(sub, 64, rr, reg64(vp, op->src))
DEFINE_UNARY(inc, 32)
DEFINE_UNARY(dec, 32)
DEFINE_UNARY(dec, 64)

/* Memory operands: v is what was read. */
#define OPERANDS_mi(bits) v, (uint##bits##_t)op->imm
#define OPERANDS_rm(bits) reg##bits(vp, op->dst), v
#define OPERANDS_mr(bits) v, reg##bits(vp, op->src)

#define DEFINE_ALONE(name, bits, form)                                                  \
	static OUT_OF_LINE const struct op *name##bits##_##form(struct soft_vp *vp,     \
	    const struct op *op)                                                        \
	{                                                                               \
		uint##bits##_t v = load##bits(vp, op, ea(vp, op, bits / 8, false));     \
                                                                                        \
		vp->arith = name##bits(OPERANDS_##form(bits));                          \
		return op + 1;                                                          \
	}

FUSIBLE_MEMORY(DEFINE_ALONE)

/* --- pairs -------------------------------------------------------------------------------------- */

#define DEFINE_PAIR(name, bits, form, cc)                                                               \
	static const struct op *name##bits##_##form##_j##cc(struct soft_vp *vp, const struct op *op)    \
	{                                                                                               \
		uint16_t flags = name##bits##_##form##_flags(vp, op);                                   \
                                                                                                        \
		vp->arith = flags;                                                                      \
		return jump_if(vp, op + 1, condition_##cc(flags));                                      \
	}

#define DEFINE_MEMORY_PAIR(name, bits, form, cc)                                                        \
	static const struct op *name##bits##_##form##_j##cc(struct soft_vp *vp, const struct op *op)    \
	{                                                                                               \
		uint64_t linear = ea_based(vp, op);                                                     \
		const struct tlb_entry *e = tlb_entry(vp, linear);                                      \
		uint##bits##_t v;                                                                       \
		uint16_t flags;                                                                         \
                                                                                                        \
		if (unlikely(!tlb_reads(vp, e, linear, bits / 8)))                                      \
			return name##bits##_##form(vp, op);                                             \
		v = *(const ram##bits *)(uintptr_t)(linear + e->addend);                                \
		flags = name##bits(OPERANDS_##form(bits));                                              \
		vp->arith = flags;                                                                      \
		return jump_if(vp, op + 1, condition_##cc(flags));                                      \
	}

/* Those that compilers use; O, NO, P and NP are rare. */
#define FUSED_CONDITIONS(X, pair, name, bits, form)                                                     \
	X(pair, name, bits, form, B) X(pair, name, bits, form, NB) X(pair, name, bits, form, Z)         \
	X(pair, name, bits, form, NZ) X(pair, name, bits, form, BE) X(pair, name, bits, form, NBE)      \
	X(pair, name, bits, form, S) X(pair, name, bits, form, NS) X(pair, name, bits, form, L)         \
	X(pair, name, bits, form, NL) X(pair, name, bits, form, LE) X(pair, name, bits, form, NLE)

#define APPLY_PAIR(pair, name, bits, form, cc) pair(name, bits, form, cc)
#define DEFINE_PAIRS(name, bits, form) FUSED_CONDITIONS(APPLY_PAIR, DEFINE_PAIR, name, bits, form)
#define DEFINE_MEMORY_PAIRS(name, bits, form) \
	FUSED_CONDITIONS(APPLY_PAIR, DEFINE_MEMORY_PAIR, name, bits, form)

FUSIBLE_REGISTERS(DEFINE_PAIRS)
FUSIBLE_MEMORY(DEFINE_MEMORY_PAIRS)

/* --- finding them ------------------------------------------------------------------------------- */

#define CONDITION_NUMBER(cc, expression) CONDITION_##cc,

enum { CONDITIONS(CONDITION_NUMBER) CONDITION_COUNT };

#define PAIR_ENTRY(pair, name, bits, form, cc) [CONDITION_##cc] = name##bits##_##form##_j##cc,
#define PAIR_ROW(name, bits, form) \
	[FUSIBLE_##name##bits##form] = {FUSED_CONDITIONS(PAIR_ENTRY, , name, bits, form)},

void integer_fuse(struct op *first, const struct op *second)
{
	static const op_fn pairs[FUSIBLE_COUNT][CONDITION_COUNT] = {
	    FUSIBLE_REGISTERS(PAIR_ROW) FUSIBLE_MEMORY(PAIR_ROW)};
	int condition = branch_condition(second);
	op_fn fn = condition < 0 ? NULL : pairs[alu_fusible(first)][condition];

	if (fn)
		first->fn = fn;
}
