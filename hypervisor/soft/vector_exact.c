// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_exact.c - the flags of SIMD arithmetic when exceptions are not masked. With overflow or
 * underflow unmasked, PE does not say whether the result is inexact, but whether it would be with an
 * exponent of any size (SDM volume 1, 4.9.1.4 and 4.9.1.5), and DPPS and DPPD stop at the first step
 * that raises one. So each element is computed again by itself, and what PE should be is found in
 * integers: a number is inexact when it has more significant bits than the format.
 *
 * This runs only for instructions with an exception unmasked in MXCSR that raised a flag or have a
 * tiny result: it need not be fast.
 */
#include "hypervisor/soft/vector_exact.h"

/* --- what kind of arithmetic -------------------------------------------------------------------- */

enum kind {
	OTHER,
	ADD,
	SUBTRACT,
	MULTIPLY,
	DIVIDE,
	ADD_SUBTRACT,
	HORIZONTAL,
	NARROW,
	NARROW_HALF,
	FUSED,
	DOT
};

#define NEGATE_PRODUCT 1u
#define NEGATE_ADDEND  2u /* also: SUBTRACT for HORIZONTAL */
#define ALTERNATE      4u /* the other sign in odd elements */

/* In op->side->extra[1]. */
struct arithmetic {
	uint8_t kind;
	uint8_t signs;
	uint8_t element; /* size of the operands' elements */
	uint8_t count;
	uint8_t a, b,
	    c; /* normal register numbers: a op b, a * b + c; 2 is the memory operand if there is one */
	uint8_t imm;
};
_Static_assert(sizeof(struct arithmetic) == 8, "it must fit into op->side->extra[1]");

static bool starts(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

static bool parse_fused(const char *name, struct arithmetic *m)
{
	static const struct {
		const char *name;
		uint8_t signs;
	} families[] = {{"fmaddsub", NEGATE_ADDEND | ALTERNATE},
			{"fmsubadd", ALTERNATE},
			{"fmadd", 0},
			{"fmsub", NEGATE_ADDEND},
			{"fnmadd", NEGATE_PRODUCT},
			{"fnmsub", NEGATE_PRODUCT | NEGATE_ADDEND}};

	for (unsigned i = 0; i < ARRAY_SIZE(families); i++) {
		const char *order = name + strlen(families[i].name);

		if (!starts(name, families[i].name))
			continue;
		m->kind = FUSED;
		m->signs = families[i].signs;
		/* The digits: which operands are multiplied, which is added (SDM volume 2, VFMADD…). */
		m->a = starts(order, "231") ? 1 : 0;
		m->b = starts(order, "213") ? 1 : 2;
		m->c = starts(order, "132") ? 1 : starts(order, "213") ? 2 : 0;
		return true;
	}
	return false;
}

static bool parse_name(const char *name, struct arithmetic *m)
{
	static const struct {
		const char *name;
		uint8_t kind, signs;
	} names[] = {{"addsubp", ADD_SUBTRACT, 0},
		     {"addp", ADD, 0},
		     {"adds", ADD, 0},
		     {"subp", SUBTRACT, 0},
		     {"subs", SUBTRACT, 0},
		     {"mulp", MULTIPLY, 0},
		     {"muls", MULTIPLY, 0},
		     {"divp", DIVIDE, 0},
		     {"divs", DIVIDE, 0},
		     {"haddp", HORIZONTAL, 0},
		     {"hsubp", HORIZONTAL, NEGATE_ADDEND},
		     {"cvtsd2ss", NARROW, 0},
		     {"cvtpd2ps", NARROW, 0},
		     {"cvtps2ph", NARROW_HALF, 0},
		     {"dpp", DOT, 0}};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (!starts(name, names[i].name))
			continue;
		m->kind = names[i].kind;
		m->signs = names[i].signs;
		return true;
	}
	return parse_fused(name, m);
}

static const ZydisDecodedOperand *operand_encoded(const struct decoding *d, ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if (d->operands[i].encoding == encoding)
			return &d->operands[i];
	return NULL;
}

void vector_exact_describe(const struct decoding *d, struct op *op)
{
	const char *name = ZydisMnemonicGetString(d->insn->mnemonic);
	bool vex = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	ZydisExceptionClass class = d->insn->meta.exception_class;
	bool scalar = class == ZYDIS_EXCEPTION_CLASS_SSE3 || class == ZYDIS_EXCEPTION_CLASS_AVX3;
	bool half = d->insn->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH;
	const ZydisDecodedOperand *operand =
	    operand_encoded(d, half ? ZYDIS_OPERAND_ENCODING_MODRM_REG : ZYDIS_OPERAND_ENCODING_MODRM_RM);
	struct arithmetic m = {.kind = OTHER, .a = vex ? 1 : 0, .b = 2};

	/* The last letter tells the format of the operands, but for conversions. */
	if (operand && parse_name(name + (*name == 'v'), &m)) {
		m.element = name[strlen(name) - 1] == 'd' ? 8 : 4;
		if (half) {
			m.element = 4;
			m.a = 0;
		} else if (m.kind == NARROW) {
			m.element = 8;
			m.a = 2;
		}
		m.count = scalar ? 1 : (uint8_t)(operand->size / 8 / m.element);
		m.imm = (uint8_t)d->insn->raw.imm[0].value.u;
	}
	memcpy(&op_take_side(d, op)->extra[1], &m, sizeof(m));
}

/* --- one operation on one element, as the host does it with all exceptions masked ---------------- */

#define SCALAR(size, single, twofold)                                                                        \
	do {                                                                                                 \
		if ((size) == 4)                                                                             \
			__asm__ volatile(single " %1, %0" : "+x"(r) : "x"(second));                          \
		else                                                                                         \
			__asm__ volatile(twofold " %1, %0" : "+x"(r) : "x"(second));                         \
	} while (0)

struct step {
	enum kind kind; /* ADD, SUBTRACT, MULTIPLY, DIVIDE, NARROW, NARROW_HALF, FUSED */
	unsigned size;
	uint64_t a, b, c;
	unsigned imm; /* of VCVTPS2PH */
};

static void host_step(const struct step *s, uint64_t *result)
{
	__m128i r = _mm_cvtsi64_si128((int64_t)s->a), second = _mm_cvtsi64_si128((int64_t)s->b);
	__m128i third = _mm_cvtsi64_si128((int64_t)s->c);

	switch (s->kind) {
	case ADD:
		SCALAR(s->size, "addss", "addsd");
		break;
	case SUBTRACT:
		SCALAR(s->size, "subss", "subsd");
		break;
	case MULTIPLY:
		SCALAR(s->size, "mulss", "mulsd");
		break;
	case DIVIDE:
		SCALAR(s->size, "divss", "divsd");
		break;
	case NARROW:
		__asm__ volatile("cvtsd2ss %0, %0" : "+x"(r));
		break;
	case NARROW_HALF:
		if (s->imm & 4)
			__asm__ volatile("vcvtps2ph $4, %0, %0" : "+x"(r));
		else if ((s->imm & 3) == 0)
			__asm__ volatile("vcvtps2ph $0, %0, %0" : "+x"(r));
		else if ((s->imm & 3) == 1)
			__asm__ volatile("vcvtps2ph $1, %0, %0" : "+x"(r));
		else if ((s->imm & 3) == 2)
			__asm__ volatile("vcvtps2ph $2, %0, %0" : "+x"(r));
		else
			__asm__ volatile("vcvtps2ph $3, %0, %0" : "+x"(r));
		break;
	default:
		if (s->size == 4)
			__asm__ volatile("vfmadd213ss %2, %1, %0" : "+x"(r) : "x"(second), "x"(third));
		else
			__asm__ volatile("vfmadd213sd %2, %1, %0" : "+x"(r) : "x"(second), "x"(third));
		break;
	}
	*result = (uint64_t)_mm_cvtsi128_si64(r);
}

/* --- exactness ---------------------------------------------------------------------------------- */

/* A finite number: mantissa times 2^exponent, mantissa odd or 0. */
struct number {
	unsigned __int128 mantissa;
	int exponent;
	bool negative;
};

static unsigned bit_length(unsigned __int128 v)
{
	uint64_t high = (uint64_t)(v >> 64), low = (uint64_t)v;

	return high ? 128u - (unsigned)__builtin_clzll(high) : low ? 64u - (unsigned)__builtin_clzll(low) : 0;
}

static void make_odd(struct number *n)
{
	while (n->mantissa && !(n->mantissa & 1)) {
		n->mantissa >>= 1;
		n->exponent++;
	}
}

static struct number number_from(uint64_t bits, unsigned size, bool denormals_are_zero)
{
	unsigned fraction_bits = size == 8 ? 52 : 23, exponent_mask = size == 8 ? 0x7ff : 0xff;
	uint64_t fraction = bits & ((1ull << fraction_bits) - 1);
	unsigned exponent = (unsigned)(bits >> fraction_bits) & exponent_mask;
	struct number n = {.negative = bits >> (size * 8 - 1) & 1};

	if (exponent)
		n.mantissa = fraction | 1ull << fraction_bits;
	else if (!denormals_are_zero)
		n.mantissa = fraction;
	n.exponent = (int)(exponent ? exponent : 1) - (int)(exponent_mask / 2 + fraction_bits);
	make_odd(&n);
	return n;
}

/* 256 bits, least significant word first. */
struct wide {
	uint64_t word[4];
};

static struct wide wide_shifted(unsigned __int128 v, unsigned by)
{
	const uint64_t from[2] = {(uint64_t)v, (uint64_t)(v >> 64)};
	struct wide w = {{0}};

	for (unsigned i = 0; i < 2; i++) {
		unsigned at = i + by / 64, bits = by % 64;

		if (at < 4)
			w.word[at] |= from[i] << bits;
		if (bits && at + 1 < 4)
			w.word[at + 1] |= from[i] >> (64 - bits);
	}
	return w;
}

static int wide_compare(const struct wide *a, const struct wide *b)
{
	for (unsigned i = 4; i-- > 0;)
		if (a->word[i] != b->word[i])
			return a->word[i] < b->word[i] ? -1 : 1;
	return 0;
}

static struct wide wide_add(const struct wide *a, const struct wide *b)
{
	unsigned __int128 carry = 0;
	struct wide r;

	for (unsigned i = 0; i < 4; i++) {
		carry += (unsigned __int128)a->word[i] + b->word[i];
		r.word[i] = (uint64_t)carry;
		carry >>= 64;
	}
	return r;
}

/* a is not less than b. */
static struct wide wide_subtract(const struct wide *a, const struct wide *b)
{
	struct wide r;
	uint64_t borrow = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned __int128 v = (unsigned __int128)a->word[i] - b->word[i] - borrow;

		r.word[i] = (uint64_t)v;
		borrow = (uint64_t)(v >> 64) & 1;
	}
	return r;
}

/* From the lowest bit that is set to the highest. */
static unsigned wide_significant(const struct wide *w)
{
	int low = -1, high = -1;

	for (int i = 0; i < 256; i++) {
		if (!(w->word[i / 64] >> (i % 64) & 1))
			continue;
		if (low < 0)
			low = i;
		high = i;
	}
	return low < 0 ? 0 : (unsigned)(high - low + 1);
}

static unsigned sum_significant(const struct number *a, const struct number *b)
{
	const struct number *high = a->exponent > b->exponent ? a : b, *low = high == a ? b : a;
	unsigned apart = (unsigned)(high->exponent - low->exponent);
	struct wide x, y, sum;

	if (!a->mantissa || !b->mantissa)
		return bit_length(a->mantissa | b->mantissa);
	/* `low` is odd: its lowest bit stays, far below what `high` has. */
	if (apart > 144)
		return apart - 1;
	x = wide_shifted(high->mantissa, apart);
	y = wide_shifted(low->mantissa, 0);
	if (high->negative == low->negative)
		sum = wide_add(&x, &y);
	else if (wide_compare(&x, &y) >= 0)
		sum = wide_subtract(&x, &y);
	else
		sum = wide_subtract(&y, &x);
	return wide_significant(&sum);
}

static bool is_inexact(const struct step *s, bool denormals_are_zero)
{
	struct number a = number_from(s->a, s->size, denormals_are_zero);
	struct number b = number_from(s->b, s->size, denormals_are_zero);
	struct number c = number_from(s->c, s->size, denormals_are_zero);
	unsigned precision = s->size == 8 ? 53 : 24;

	switch (s->kind) {
	case SUBTRACT:
		b.negative = !b.negative;
		return sum_significant(&a, &b) > precision;
	case ADD:
		return sum_significant(&a, &b) > precision;
	case MULTIPLY:
		return bit_length(a.mantissa * b.mantissa) > precision;
	case DIVIDE:
		return b.mantissa && a.mantissa % b.mantissa != 0;
	case NARROW:
		return bit_length(a.mantissa) > 24;
	case NARROW_HALF: /* as processors do it */
		return bit_length(a.mantissa) > 11 || vector_is_denormal(s->a, s->size);
	default:
		a.mantissa *= b.mantissa;
		a.exponent += b.exponent;
		a.negative ^= b.negative;
		return sum_significant(&a, &c) > precision;
	}
}

/* --- flags -------------------------------------------------------------------------------------- */

#define BEFORE (MXCSR_IE | MXCSR_DE | MXCSR_ZE) /* found in the operands */

static uint32_t unmasked_flags(const struct soft_vp *vp)
{
	return ~(vp->mxcsr >> 7) & MXCSR_FLAGS;
}

/* The flags of one step; its result as if masked. */
static uint32_t step_flags(struct soft_vp *vp, const struct step *s, uint64_t *result)
{
	unsigned result_size = s->kind == NARROW || s->kind == NARROW_HALF ? s->size / 2 : s->size;
	uint32_t flags, unmasked = unmasked_flags(vp);

	mxcsr_enter(vp);
	host_step(s, result);
	flags = mxcsr_leave(vp);
	if ((unmasked & MXCSR_UE) && vector_is_denormal(*result, result_size))
		flags |= MXCSR_UE;
	if (flags & unmasked & (MXCSR_OE | MXCSR_UE)) {
		flags &= ~MXCSR_PE;
		if (is_inexact(s, vp->mxcsr & MXCSR_DAZ))
			flags |= MXCSR_PE;
	}
	return flags;
}

/* What stops the instruction in the operands keeps it from what it would find in results. */
static uint32_t raised(const struct soft_vp *vp, uint32_t flags)
{
	return flags & BEFORE & unmasked_flags(vp) ? flags & BEFORE : flags;
}

struct sources {
	const uint8_t *of[3]; /* by normal register number */
};

static uint64_t element(const uint8_t *vector, unsigned size, unsigned i)
{
	return size == 8 ? le64_get(vector + 8 * (size_t)i) : le32_get(vector + 4 * (size_t)i);
}

static uint64_t negated(uint64_t v, unsigned size)
{
	return v ^ 1ull << (size * 8 - 1);
}

static struct step vertical_step(const struct arithmetic *m, const struct sources *s, unsigned i)
{
	struct step step = {.kind = (enum kind)m->kind, .size = m->element, .imm = m->imm};
	bool odd = i & 1;

	step.a = element(s->of[m->a], m->element, i);
	if (m->kind != NARROW && m->kind != NARROW_HALF)
		step.b = element(s->of[m->b], m->element, i);
	if (m->kind == ADD_SUBTRACT)
		step.kind = odd ? ADD : SUBTRACT;
	if (m->kind == FUSED) {
		bool negate = m->signs & NEGATE_ADDEND;

		step.c = element(s->of[m->c], m->element, i);
		if (m->signs & ALTERNATE && odd)
			negate = !negate;
		if (negate)
			step.c = negated(step.c, m->element);
		if (m->signs & NEGATE_PRODUCT)
			step.a = negated(step.a, m->element);
	}
	return step;
}

/* The pairs of the first operand, then of the second, in each 128 bits. */
static struct step horizontal_step(const struct arithmetic *m, const struct sources *s, unsigned i)
{
	unsigned in_lane = 16u / m->element, lane = i / in_lane, k = i % in_lane;
	const uint8_t *from = s->of[k < in_lane / 2 ? m->a : m->b];
	unsigned at = lane * in_lane + k % (in_lane / 2) * 2;

	return (struct step){.kind = m->signs & NEGATE_ADDEND ? SUBTRACT : ADD,
			     .size = m->element,
			     .a = element(from, m->element, at),
			     .b = element(from, m->element, at + 1)};
}

/* DPPS, DPPD: products, sums of two, in DPPS the sum of those. Stops after the step that raises. */
static uint32_t dot_flags(struct soft_vp *vp, const struct arithmetic *m, const struct sources *s)
{
	unsigned in_lane = 16u / m->element;
	uint32_t flags = 0, now = 0;
	uint64_t values[8];

	for (unsigned i = 0; i < m->count; i++) {
		struct step step = {.kind = MULTIPLY,
				    .size = m->element,
				    .a = element(s->of[m->a], m->element, i),
				    .b = element(s->of[m->b], m->element, i)};

		values[i] = 0;
		if (m->imm >> (4 + i % in_lane) & 1)
			now |= step_flags(vp, &step, &values[i]);
	}
	for (unsigned width = in_lane / 2;; width /= 2) {
		flags |= raised(vp, now);
		if (!width || now & unmasked_flags(vp))
			return flags;
		now = 0;
		for (unsigned i = 0; i < m->count * width / in_lane; i++) {
			struct step step = {
			    .kind = ADD, .size = m->element, .a = values[2 * i], .b = values[2 * i + 1]};

			now |= step_flags(vp, &step, &values[i]);
		}
	}
}

bool vector_exact_hides(const struct op *op)
{
	struct arithmetic m;

	memcpy(&m, &op->side->extra[1], sizeof(m));
	return m.kind == DOT;
}

uint32_t vector_exact_flags(struct soft_vp *vp, const struct op *op, uint32_t flags)
{
	struct vector_operands o = vector_operands(op);
	struct sources s = {{vp->ymm[o.registers[0]], vp->ymm[o.registers[1]], vp->ymm[o.registers[2]]}};
	uint8_t memory[32];
	struct arithmetic m;
	uint32_t exact = 0;
	uint64_t result;

	memcpy(&m, &op->side->extra[1], sizeof(m));
	if (m.kind == OTHER)
		return raised(vp, flags);
	if (op->flags & OP_MEMORY && (m.a == 2 || m.b == 2 || m.c == 2) && m.kind != NARROW_HALF) {
		load_bytes(vp, op, ea(vp, op, op->size, false), memory, op->size);
		s.of[2] = memory;
	}
	if (m.kind == DOT)
		return dot_flags(vp, &m, &s);
	for (unsigned i = 0; i < m.count; i++) {
		struct step step =
		    m.kind == HORIZONTAL ? horizontal_step(&m, &s, i) : vertical_step(&m, &s, i);

		exact |= step_flags(vp, &step, &result);
	}
	return raised(vp, exact);
}
