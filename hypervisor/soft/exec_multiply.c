// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_multiply.c - MUL, IMUL with one, two and three operands, DIV, IDIV.
 *
 * The host multiplies, so the undefined flags are a real processor's too: Intel's sets them by the
 * product, AMD's leaves SF, ZF, AF and PF as they were, so it gets to see the guest's. Division leaves
 * the flags, all undefined after it, as they are.
 */
#include "hypervisor/soft/exec.h"

/* --- products as wide as their factor ----------------------------------------------------------- */

/* OF needs no loading: a product always sets it, and CF. */
#define LOAD_FLAGS_BUT_OF "sahf\n\t"

#define DEFINE_HOST_IMUL(bits)                                                                          \
	static inline uint16_t imul##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)          \
	{                                                                                               \
		__asm__(LOAD_FLAGS_BUT_OF "imul %2, %0" SAVE_FLAGS                                      \
			: "+r"(*a), "+a"(arith) : "r"(b) : "cc");                                       \
		return arith;                                                                           \
	}

DEFINE_HOST_IMUL(16)
DEFINE_HOST_IMUL(32)
DEFINE_HOST_IMUL(64)

#define DEFINE_IMUL(bits)                                                                       \
	static const struct op *imul##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = imul##bits(&a, reg##bits(vp, op->src), vp->arith);                  \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *imul##bits##_rri(struct soft_vp *vp, const struct op *op)       \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->src);                                      \
                                                                                                \
		vp->arith = imul##bits(&a, (uint##bits##_t)op->imm, vp->arith);                 \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(imul##bits##_rm, bits, {                                                    \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
		vp->arith = imul##bits(&a, v, vp->arith);                                       \
		reg##bits##_set(vp, op->dst, a);                                                \
	})                                                                                      \
	DEFINE_LOAD(imul##bits##_rmi, bits, {                                                   \
		vp->arith = imul##bits(&v, (uint##bits##_t)op->imm, vp->arith);                 \
		reg##bits##_set(vp, op->dst, v);                                                \
	})

DEFINE_IMUL(16)
DEFINE_IMUL(32)
DEFINE_IMUL(64)

/* --- products twice as wide: AX, DX:AX, EDX:EAX, RDX:RAX ---------------------------------------- */

struct product {
	uint64_t low, high;
	uint16_t flags;
};

#define DEFINE_HOST_PRODUCT(name, mnemonic, bits)                                                               \
	static inline struct product name##bits(uint##bits##_t a, uint##bits##_t b, uint16_t arith)             \
	{                                                                                                       \
		uint64_t rax = arith, low, high = 0;                                                            \
                                                                                                                \
		__asm__(LOAD_FLAGS_BUT_OF "mov %4, %%rax\n\t" #mnemonic " %3\n\tmov %%rax, %1" SAVE_FLAGS       \
			: "+&a"(rax), "=&r"(low), "+d"(high) : "r"(b), "r"((uint64_t)a) : "cc");                \
		return (struct product){low, high, (uint16_t)rax};                                              \
	}

static inline void product8_set(struct soft_vp *vp, struct product p)
{
	reg16_set(vp, GPR_RAX * 8, (uint16_t)p.low);
	vp->arith = p.flags;
}

#define DEFINE_PRODUCT_SET(bits)                                                        \
	static inline void product##bits##_set(struct soft_vp *vp, struct product p)    \
	{                                                                               \
		reg##bits##_set(vp, GPR_RAX * 8, (uint##bits##_t)p.low);                \
		reg##bits##_set(vp, GPR_RDX * 8, (uint##bits##_t)p.high);               \
		vp->arith = p.flags;                                                    \
	}

DEFINE_PRODUCT_SET(16)
DEFINE_PRODUCT_SET(32)
DEFINE_PRODUCT_SET(64)

#define DEFINE_WIDE_MULTIPLY(name, mnemonic, bits)                                                      \
	DEFINE_HOST_PRODUCT(name, mnemonic, bits)                                                       \
                                                                                                        \
	static const struct op *name##bits##_r(struct soft_vp *vp, const struct op *op)                 \
	{                                                                                               \
		product##bits##_set(vp,                                                                 \
		    name##bits(reg##bits(vp, GPR_RAX * 8), reg##bits(vp, op->dst), vp->arith));         \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	DEFINE_LOAD(name##bits##_m, bits,                                                               \
	    product##bits##_set(vp, name##bits(reg##bits(vp, GPR_RAX * 8), v, vp->arith)))

DEFINE_WIDE_MULTIPLY(mul_wide, mul, 8)
DEFINE_WIDE_MULTIPLY(mul_wide, mul, 16)
DEFINE_WIDE_MULTIPLY(mul_wide, mul, 32)
DEFINE_WIDE_MULTIPLY(mul_wide, mul, 64)
DEFINE_WIDE_MULTIPLY(imul_wide, imul, 8)
DEFINE_WIDE_MULTIPLY(imul_wide, imul, 16)
DEFINE_WIDE_MULTIPLY(imul_wide, imul, 32)
DEFINE_WIDE_MULTIPLY(imul_wide, imul, 64)

/* --- division ----------------------------------------------------------------------------------- */

/* What is divided, sign-extended or zero-extended where it is narrower; the quotient is `bits` wide. */
static inline uint64_t dividend(const struct soft_vp *vp, unsigned bits)
{
	uint64_t low = vp->gpr[GPR_RAX], high = vp->gpr[GPR_RDX];

	if (bits == 8)
		return (uint16_t)low;
	if (bits == 16)
		return (uint16_t)low | (high & 0xffff) << 16;
	return (uint32_t)low | high << 32;
}

static inline void quotient_set(struct soft_vp *vp, unsigned bits, uint64_t quotient, uint64_t remainder)
{
	if (bits == 8) {
		reg16_set(vp, GPR_RAX * 8, (uint16_t)((quotient & 0xff) | remainder << 8));
	} else if (bits == 16) {
		reg16_set(vp, GPR_RAX * 8, (uint16_t)quotient);
		reg16_set(vp, GPR_RDX * 8, (uint16_t)remainder);
	} else {
		reg32_set(vp, GPR_RAX * 8, (uint32_t)quotient);
		reg32_set(vp, GPR_RDX * 8, (uint32_t)remainder);
	}
}

#define DEFINE_DIVIDE(bits, wide)                                                                       \
	static inline void div##bits(struct soft_vp *vp, const struct op *op, uint##bits##_t b)         \
	{                                                                                               \
		uint64_t a = dividend(vp, bits);                                                        \
                                                                                                        \
		if (unlikely(!b || a >> bits >= b))                                                     \
			raise_fault(vp, op, VECTOR_DE);                                                 \
		quotient_set(vp, bits, a / b, a % b);                                                   \
	}                                                                                               \
                                                                                                        \
	static inline void idiv##bits(struct soft_vp *vp, const struct op *op, uint##bits##_t divisor)  \
	{                                                                                               \
		int64_t a = (int##wide##_t)dividend(vp, bits), b = (int##bits##_t)divisor;              \
                                                                                                        \
		if (unlikely(!b || (b == -1 && a == INT64_MIN) || a / b != (int##bits##_t)(a / b)))     \
			raise_fault(vp, op, VECTOR_DE);                                                 \
		quotient_set(vp, bits, (uint64_t)(a / b), (uint64_t)(a % b));                           \
	}

DEFINE_DIVIDE(8, 16)
DEFINE_DIVIDE(16, 32)
DEFINE_DIVIDE(32, 64)

static inline void div64(struct soft_vp *vp, const struct op *op, uint64_t b)
{
	uint64_t quotient = vp->gpr[GPR_RAX], remainder = vp->gpr[GPR_RDX];

	if (unlikely(remainder >= b)) /* b == 0 included */
		raise_fault(vp, op, VECTOR_DE);
	__asm__("div %2" : "+a"(quotient), "+d"(remainder) : "r"(b) : "cc");
	vp->gpr[GPR_RAX] = quotient;
	vp->gpr[GPR_RDX] = remainder;
}

/* By magnitudes; the remainder takes the sign of the dividend. */
static inline void idiv64(struct soft_vp *vp, const struct op *op, uint64_t b)
{
	uint64_t quotient = vp->gpr[GPR_RAX], remainder = vp->gpr[GPR_RDX];
	bool negative = remainder >> 63, unlike = negative != (b >> 63);
	uint64_t magnitude = b >> 63 ? -b : b;

	if (negative) {
		remainder = ~remainder + !quotient;
		quotient = -quotient;
	}
	if (unlikely(remainder >= magnitude))
		raise_fault(vp, op, VECTOR_DE);
	__asm__("div %2" : "+a"(quotient), "+d"(remainder) : "r"(magnitude) : "cc");
	if (unlikely(quotient > (1ull << 63) - !unlike))
		raise_fault(vp, op, VECTOR_DE);
	vp->gpr[GPR_RAX] = unlike ? -quotient : quotient;
	vp->gpr[GPR_RDX] = negative ? -remainder : remainder;
}

#define DEFINE_DIVISION(name, bits)                                                     \
	static const struct op *name##bits##_r(struct soft_vp *vp, const struct op *op) \
	{                                                                               \
		name##bits(vp, op, reg##bits(vp, op->dst));                             \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	DEFINE_LOAD(name##bits##_m, bits, name##bits(vp, op, v))

DEFINE_DIVISION(div, 8)
DEFINE_DIVISION(div, 16)
DEFINE_DIVISION(div, 32)
DEFINE_DIVISION(div, 64)
DEFINE_DIVISION(idiv, 8)
DEFINE_DIVISION(idiv, 16)
DEFINE_DIVISION(idiv, 32)
DEFINE_DIVISION(idiv, 64)

/* --- selection ---------------------------------------------------------------------------------- */

static const op_fn imul_rr[4] = {NULL, imul16_rr, imul32_rr, imul64_rr};
static const op_fn imul_rri[4] = {NULL, imul16_rri, imul32_rri, imul64_rri};
static const struct memory_handler imul_rm[4] = {
    {0}, MEMORY(imul16_rm), MEMORY(imul32_rm), MEMORY(imul64_rm)};
static const struct memory_handler imul_rmi[4] = {
    {0}, MEMORY(imul16_rmi), MEMORY(imul32_rmi), MEMORY(imul64_rmi)};

struct accumulating {
	op_fn r[4];
	struct memory_handler m[4];
};

static const struct accumulating mul_table = {SIZES(mul_wide, _r), MEMORY_SIZES(mul_wide, _m)},
				 imul_table = {SIZES(imul_wide, _r), MEMORY_SIZES(imul_wide, _m)},
				 div_table = {SIZES(div, _r), MEMORY_SIZES(div, _m)},
				 idiv_table = {SIZES(idiv, _r), MEMORY_SIZES(idiv, _m)};

static bool select_accumulating(struct decoding *d, struct op *op, const struct accumulating *t)
{
	unsigned i = size_index(d->operands[0].size);

	op->fn = take_operands(d, op) == SHAPE_R ? t->r[i] : memory_fn(op, t->m[i]);
	return true;
}

static bool select_imul(struct decoding *d, struct op *op)
{
	unsigned i = size_index(d->operands[0].size);
	bool three = d->insn->operand_count_visible == 3;

	if (d->insn->operand_count_visible == 1)
		return select_accumulating(d, op, &imul_table);
	if (take_operands(d, op) == SHAPE_RR)
		op->fn = three ? imul_rri[i] : imul_rr[i];
	else
		op->fn = memory_fn(op, three ? imul_rmi[i] : imul_rm[i]);
	return op->fn;
}

bool multiply_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_IMUL:
		return select_imul(d, op);
	case ZYDIS_MNEMONIC_MUL:
		return select_accumulating(d, op, &mul_table);
	case ZYDIS_MNEMONIC_DIV:
		return select_accumulating(d, op, &div_table);
	case ZYDIS_MNEMONIC_IDIV:
		return select_accumulating(d, op, &idiv_table);
	default:
		return false;
	}
}
