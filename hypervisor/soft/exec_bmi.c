// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_bmi.c - BMI1 and BMI2 on general registers, ADCX, ADOX.
 *
 * The host executes them; what it does not know the guest is not shown, and gets #UD for.
 */
#include "hypervisor/soft/exec.h"

/* --- two sources ------------------------------------------------------------------------------- */

/* dst = first name second. Forms: rrr; rrm with the second in memory; rmr with the first. */
#define DEFINE_HOST_THREE(name, bits)                                                                     \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t first, uint##bits##_t second, \
	    uint16_t arith)                                                                               \
	{                                                                                                 \
		__asm__(LOAD_FLAGS #name " %3, %2, %0" SAVE_FLAGS                                         \
			: "=&r"(*a), "+a"(arith) : "r"(first), "r"(second) : "cc");                       \
		return arith;                                                                             \
	}                                                                                                 \
                                                                                                          \
	static const struct op *name##bits##_rrr(struct soft_vp *vp, const struct op *op)                 \
	{                                                                                                 \
		uint##bits##_t a;                                                                         \
                                                                                                          \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), reg##bits(vp, op->src2), vp->arith);   \
		reg##bits##_set(vp, op->dst, a);                                                          \
		return dispatch(vp, op + 1);                                                              \
	}

#define DEFINE_SECOND_MEMORY(name, bits)                                                \
	DEFINE_HOST_THREE(name, bits)                                                   \
	DEFINE_LOAD(name##bits##_rrm, bits, {                                           \
		vp->arith = name##bits(&v, reg##bits(vp, op->src), v, vp->arith);       \
		reg##bits##_set(vp, op->dst, v);                                        \
	})

#define DEFINE_FIRST_MEMORY(name, bits)                                                 \
	DEFINE_HOST_THREE(name, bits)                                                   \
	DEFINE_LOAD(name##bits##_rmr, bits, {                                           \
		vp->arith = name##bits(&v, v, reg##bits(vp, op->src2), vp->arith);      \
		reg##bits##_set(vp, op->dst, v);                                        \
	})

/* --- one source -------------------------------------------------------------------------------- */

#define DEFINE_HOST_TWO(name, bits)                                                                      \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)           \
	{                                                                                                \
		__asm__(LOAD_FLAGS #name " %2, %0" SAVE_FLAGS : "=&r"(*a), "+a"(arith) : "r"(b) : "cc"); \
		return arith;                                                                            \
	}                                                                                                \
	DEFINE_TWO(name, bits)

/* ADCX and ADOX carry in and out by one flag and leave the others; not every host has them. */
#define DEFINE_CHAIN(name, flag, bits)                                                          \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)  \
	{                                                                                       \
		uint##bits##_t sum;                                                             \
		bool carry = __builtin_add_overflow(*a, b, &sum);                               \
                                                                                                \
		carry |= __builtin_add_overflow(sum, (uint##bits##_t)((arith & flag) != 0), a); \
		return (uint16_t)((arith & ~flag) | (carry ? flag : 0));                        \
	}                                                                                       \
	DEFINE_TWO(name, bits)

#define DEFINE_TWO(name, bits)                                                                  \
	static const struct op *name##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), vp->arith);                  \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(name##bits##_rm, bits, {                                                    \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
		vp->arith = name##bits(&a, v, vp->arith);                                       \
		reg##bits##_set(vp, op->dst, a);                                                \
	})

/* --- RORX and MULX, which touch no flag --------------------------------------------------------- */

/* The high half goes last: it stays when both destinations are one register. */
#define DEFINE_FLAGLESS(bits, wide)                                                                         \
	static inline uint##bits##_t rorx##bits(uint##bits##_t a, unsigned count)                           \
	{                                                                                                   \
		count &= bits - 1;                                                                          \
		return a >> count | a << ((bits - count) & (bits - 1));                                     \
	}                                                                                                   \
                                                                                                            \
	static const struct op *rorx##bits##_rri(struct soft_vp *vp, const struct op *op)                   \
	{                                                                                                   \
		reg##bits##_set(vp, op->dst, rorx##bits(reg##bits(vp, op->src), (unsigned)op->imm));        \
		return dispatch(vp, op + 1);                                                                \
	}                                                                                                   \
                                                                                                            \
	DEFINE_LOAD(rorx##bits##_rmi, bits, reg##bits##_set(vp, op->dst, rorx##bits(v, (unsigned)op->imm))) \
                                                                                                            \
	static inline void mulx##bits(struct soft_vp *vp, const struct op *op, uint##bits##_t b)            \
	{                                                                                                   \
		wide product = (wide)reg##bits(vp, GPR_RDX * 8) * b;                                        \
                                                                                                            \
		reg##bits##_set(vp, op->src, (uint##bits##_t)product);                                      \
		reg##bits##_set(vp, op->dst, (uint##bits##_t)(product >> bits));                            \
	}                                                                                                   \
                                                                                                            \
	static const struct op *mulx##bits##_rrr(struct soft_vp *vp, const struct op *op)                   \
	{                                                                                                   \
		mulx##bits(vp, op, reg##bits(vp, op->src2));                                                \
		return dispatch(vp, op + 1);                                                                \
	}                                                                                                   \
                                                                                                            \
	DEFINE_LOAD(mulx##bits##_rrm, bits, mulx##bits(vp, op, v))

#define DEFINE_ALL(bits)                        \
	DEFINE_SECOND_MEMORY(andn, bits)        \
	DEFINE_SECOND_MEMORY(pdep, bits)        \
	DEFINE_SECOND_MEMORY(pext, bits)        \
	DEFINE_FIRST_MEMORY(bextr, bits)        \
	DEFINE_FIRST_MEMORY(bzhi, bits)         \
	DEFINE_FIRST_MEMORY(sarx, bits)         \
	DEFINE_FIRST_MEMORY(shlx, bits)         \
	DEFINE_FIRST_MEMORY(shrx, bits)         \
	DEFINE_HOST_TWO(blsi, bits)             \
	DEFINE_HOST_TWO(blsmsk, bits)           \
	DEFINE_HOST_TWO(blsr, bits)             \
	DEFINE_CHAIN(adcx, ARITH_CF, bits)      \
	DEFINE_CHAIN(adox, ARITH_OF, bits)

DEFINE_ALL(32)
DEFINE_ALL(64)
DEFINE_FLAGLESS(32, uint64_t)
DEFINE_FLAGLESS(64, unsigned __int128)

/* --- selection ---------------------------------------------------------------------------------- */

/* For 32 and 64 bits: all in registers, or one source in memory. */
struct bmi {
	op_fn registers[2];
	struct memory_handler memory[2];
};

#define BMI_TABLE(name, registers, memory)              \
	{{name##32##registers, name##64##registers},    \
	 {MEMORY(name##32##memory), MEMORY(name##64##memory)}}

static bool select_bmi(struct decoding *d, struct op *op, const struct bmi *t, bool known)
{
	unsigned i = d->operands[0].size == 64;

	if (!known)
		return false;
	take_operands(d, op);
	op->fn = op->flags & OP_MEMORY ? memory_fn(op, t->memory[i]) : t->registers[i];
	return true;
}

#define SELECT_BMI(mnemonic, name, registers, memory, known)                            \
	case ZYDIS_MNEMONIC_##mnemonic: {                                               \
		static const struct bmi table = BMI_TABLE(name, registers, memory);     \
                                                                                        \
		return select_bmi(d, op, &table, known);                                \
	}

bool bmi_select(struct decoding *d, struct op *op)
{
	bool bmi1 = __builtin_cpu_supports("bmi"), bmi2 = __builtin_cpu_supports("bmi2");

	switch (d->insn->mnemonic) {
		SELECT_BMI(ANDN, andn, _rrr, _rrm, bmi1)
		SELECT_BMI(BEXTR, bextr, _rrr, _rmr, bmi1)
		SELECT_BMI(BLSI, blsi, _rr, _rm, bmi1)
		SELECT_BMI(BLSMSK, blsmsk, _rr, _rm, bmi1)
		SELECT_BMI(BLSR, blsr, _rr, _rm, bmi1)
		SELECT_BMI(BZHI, bzhi, _rrr, _rmr, bmi2)
		SELECT_BMI(PDEP, pdep, _rrr, _rrm, bmi2)
		SELECT_BMI(PEXT, pext, _rrr, _rrm, bmi2)
		SELECT_BMI(SARX, sarx, _rrr, _rmr, bmi2)
		SELECT_BMI(SHLX, shlx, _rrr, _rmr, bmi2)
		SELECT_BMI(SHRX, shrx, _rrr, _rmr, bmi2)
		SELECT_BMI(RORX, rorx, _rri, _rmi, bmi2)
		SELECT_BMI(MULX, mulx, _rrr, _rrm, bmi2)
		SELECT_BMI(ADCX, adcx, _rr, _rm, true)
		SELECT_BMI(ADOX, adox, _rr, _rm, true)
	default:
		return false;
	}
}
