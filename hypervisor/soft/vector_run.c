// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_run.c - the handlers for SSE and AVX instructions of every shape. Each fetches the operands,
 * calls the native function (vector_private.h) and puts the result away.
 *
 * op->side->native is the function, op->side->extra[0] a struct vector_operands, op->size the size of the memory
 * operand, op->dst the vector register or offset of the general register for the result.
 *
 * One template makes them all, since they differ only in independent choices: SSE, VEX.128 or
 * VEX.256; where a source comes from; where the result goes; whether MXCSR is concerned.
 */
#include "hypervisor/soft/vector_exact.h"

#define NO_EXCEPT  false
#define MAY_EXCEPT true

/* --- 128 bits ----------------------------------------------------------------------------------- */

typedef __m128i (*native_vector_128)(__m128i, __m128i, __m128i, __m128i, uint64_t);
typedef uint64_t (*native_integer_128)(__m128i, __m128i, __m128i, __m128i, uint64_t);

always_inline const struct op *run_128(struct soft_vp *vp, const struct op *op, bool vex,
				       enum form_source source, enum form_result result, bool may_except)
{
	struct vector_operands o = vector_operands(op);
	uint64_t argument = 0, linear = 0, integer = 0;
	__m128i vector = _mm_setzero_si128();

	if (vex)
		avx_check(vp, op);
	else
		sse_check(vp, op);
	if (source == FORM_LOAD || source == FORM_STORE)
		linear = vector_ea(vp, op, op->size, o.align, source == FORM_STORE);
	if (source == FORM_LOAD)
		argument = (uintptr_t)vector_source_at(vp, op, linear, op->size);
	else if (source == FORM_STORE)
		argument = (uintptr_t)vp->vector_scratch;
	else if (source == FORM_GPR)
		argument = reg64(vp, o.general);
	if (may_except)
		mxcsr_enter(vp);
	if (result == FORM_VECTOR)
		vector = ((native_vector_128)(uintptr_t)op->side->native)(
		    xmm_get(vp, o.registers[0]), xmm_get(vp, o.registers[1]), xmm_get(vp, o.registers[2]),
		    xmm_get(vp, o.registers[3]), argument);
	else
		integer = ((native_integer_128)(uintptr_t)op->side->native)(
		    xmm_get(vp, o.registers[0]), xmm_get(vp, o.registers[1]), xmm_get(vp, o.registers[2]),
		    xmm_get(vp, o.registers[3]), argument);
	if (may_except) {
		uint32_t flags = mxcsr_leave(vp);

		if (unlikely(!mxcsr_all_masked(vp))) {
			if (result == FORM_VECTOR)
				_mm_store_si128((__m128i *)vp->vector_scratch, vector);
			mxcsr_raised(vp, op, flags);
		} else {
			vp->mxcsr |= flags;
		}
	}
	if (result == FORM_VECTOR && vex)
		xmm_set_zero_upper(vp, op->dst, vector);
	else if (result == FORM_VECTOR)
		xmm_set(vp, op->dst, vector);
	else if (result == FORM_GENERAL)
		reg64_set(vp, op->dst, integer);
	else if (result == FORM_FLAGS)
		vp->arith = (uint16_t)integer;
	else
		store_bytes(vp, op, linear, vp->vector_scratch, op->size);
	return dispatch(vp, op + 1);
}

/* --- 256 bits ----------------------------------------------------------------------------------- */

/* The compilers disagree on how a function built without AVX passes 256-bit vectors, so this is the
 * call: loads register 0 to 3, runs the function, stores register 0 to `result`. */
uint64_t vector_call_256(uint64_t argument, const void *native, const void *r0, const void *r1,
			 const void *r2, const void *r3, void *result);

__asm__(".text\n"
	".type vector_call_256, @function\n"
	".globl vector_call_256\n"
	".hidden vector_call_256\n"
	"vector_call_256:\n"
	"	vmovaps (%rdx), %ymm0\n"
	"	vmovaps (%rcx), %ymm1\n"
	"	vmovaps (%r8), %ymm2\n"
	"	vmovaps (%r9), %ymm3\n"
	"	call *%rsi\n"
	"	mov 8(%rsp), %rdx\n"
	"	vmovaps %ymm0, (%rdx)\n"
	"	vzeroupper\n"
	"	ret\n"
	".size vector_call_256, . - vector_call_256\n");

always_inline const struct op *run_256(struct soft_vp *vp, const struct op *op, enum form_source source,
				       enum form_result result, bool may_except)
{
	struct vector_operands o = vector_operands(op);
	uint8_t *to = vp->vector_scratch + (result == FORM_VECTOR ? 0 : 64);
	uint64_t argument = 0, linear = 0, integer;

	avx_check(vp, op);
	if (source == FORM_LOAD || source == FORM_STORE)
		linear = vector_ea(vp, op, op->size, o.align, source == FORM_STORE);
	if (source == FORM_LOAD)
		argument = (uintptr_t)vector_source_at(vp, op, linear, op->size);
	else if (source == FORM_STORE)
		argument = (uintptr_t)vp->vector_scratch;
	if (result == FORM_VECTOR && !may_except)
		to = vp->ymm[op->dst];
	if (may_except)
		mxcsr_enter(vp);
	integer = vector_call_256(argument, op->side->native, vp->ymm[o.registers[0]], vp->ymm[o.registers[1]],
				  vp->ymm[o.registers[2]], vp->ymm[o.registers[3]], to);
	if (may_except) {
		uint32_t flags = mxcsr_leave(vp);

		if (unlikely(!mxcsr_all_masked(vp)))
			mxcsr_raised(vp, op, flags);
		else
			vp->mxcsr |= flags;
	}
	if (result == FORM_VECTOR && may_except)
		memcpy(vp->ymm[op->dst], vp->vector_scratch, 32);
	else if (result == FORM_GENERAL)
		reg64_set(vp, op->dst, integer);
	else if (result == FORM_FLAGS)
		vp->arith = (uint16_t)integer;
	else if (result == FORM_MEMORY)
		store_bytes(vp, op, linear, vp->vector_scratch, op->size);
	return dispatch(vp, op + 1);
}

/* --- the handlers, and the table that finds them ------------------------------------------------ */

#define DEFINE(name, source, result, except)                                                                 \
	static const struct op *sse_##name(struct soft_vp *vp, const struct op *op)                          \
	{                                                                                                    \
		return run_128(vp, op, false, source, result, except);                                       \
	}                                                                                                    \
	static const struct op *vex_128_##name(struct soft_vp *vp, const struct op *op)                      \
	{                                                                                                    \
		return run_128(vp, op, true, source, result, except);                                        \
	}                                                                                                    \
	static const struct op *vex_256_##name(struct soft_vp *vp, const struct op *op)                      \
	{                                                                                                    \
		return run_256(vp, op, source, result, except);                                              \
	}

/* All that occur: name, source, result, MXCSR. */
#define HANDLERS(X)                                                                                          \
	X(registers_vector, FORM_REGISTERS, FORM_VECTOR, NO_EXCEPT)                                          \
	X(registers_vector_except, FORM_REGISTERS, FORM_VECTOR, MAY_EXCEPT)                                  \
	X(registers_general, FORM_REGISTERS, FORM_GENERAL, NO_EXCEPT)                                        \
	X(registers_general_except, FORM_REGISTERS, FORM_GENERAL, MAY_EXCEPT)                                \
	X(registers_flags, FORM_REGISTERS, FORM_FLAGS, NO_EXCEPT)                                            \
	X(registers_flags_except, FORM_REGISTERS, FORM_FLAGS, MAY_EXCEPT)                                    \
	X(load_vector, FORM_LOAD, FORM_VECTOR, NO_EXCEPT)                                                    \
	X(load_vector_except, FORM_LOAD, FORM_VECTOR, MAY_EXCEPT)                                            \
	X(load_general, FORM_LOAD, FORM_GENERAL, NO_EXCEPT)                                                  \
	X(load_general_except, FORM_LOAD, FORM_GENERAL, MAY_EXCEPT)                                          \
	X(load_flags, FORM_LOAD, FORM_FLAGS, NO_EXCEPT)                                                      \
	X(load_flags_except, FORM_LOAD, FORM_FLAGS, MAY_EXCEPT)                                              \
	X(store, FORM_STORE, FORM_MEMORY, NO_EXCEPT)                                                         \
	X(store_except, FORM_STORE, FORM_MEMORY, MAY_EXCEPT)                                                 \
	X(general_vector, FORM_GPR, FORM_VECTOR, NO_EXCEPT)                                                  \
	X(general_vector_except, FORM_GPR, FORM_VECTOR, MAY_EXCEPT)

HANDLERS(DEFINE)

#define ENTRY(name, source, result, except)                                                                  \
	{source, result, except, {sse_##name, vex_128_##name, vex_256_##name}},

static const struct {
	enum form_source source;
	enum form_result result;
	bool except;
	op_fn fn[3];
} handlers[] = {HANDLERS(ENTRY)};

static unsigned width_index(const struct decoding *d)
{
	if (d->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return 0;
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if (d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d->operands[i].reg.value) == ZYDIS_REGCLASS_YMM)
			return 2;
	return 1;
}

/* --- PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM ------------------------------------------------- */

/* The native function's argument points at this. */
struct string_compare {
	uint64_t rax; /* in; flags out */
	uint64_t rdx; /* in; ECX out */
	uint8_t xmm0[16];
};

_Static_assert(sizeof(struct string_compare) <= sizeof(((struct soft_vp *)0)->vector_scratch),
	       "it lies there");

typedef void (*native_string)(__m128i, __m128i, __m128i, __m128i, struct string_compare *);

enum string_result { STRING_INDEX, STRING_MASK, STRING_MASK_VEX };

static const struct op *string_compare(struct soft_vp *vp, const struct op *op)
{
	struct vector_operands o = vector_operands(op);
	struct string_compare *s = (struct string_compare *)vp->vector_scratch;
	__m128i second = xmm_get(vp, o.registers[2]);

	if (o.element)
		avx_check(vp, op);
	else
		sse_check(vp, op);
	if (op->flags & OP_MEMORY)
		second = _mm_loadu_si128(vector_source_at(vp, op, ea(vp, op, 16, false), 16));
	s->rax = vp->gpr[GPR_RAX];
	s->rdx = vp->gpr[GPR_RDX];
	/* The first operand is register 0 or, where XMM0 is the result, register 1. */
	((native_string)(uintptr_t)op->side->native)(xmm_get(vp, o.registers[0]), xmm_get(vp, o.registers[1]), second,
					     second, s);
	vp->arith = (uint16_t)s->rax;
	if (op->dst == STRING_INDEX)
		reg64_set(vp, GPR_RCX * 8, (uint32_t)s->rdx);
	else if (op->dst == STRING_MASK)
		xmm_set(vp, 0, _mm_loadu_si128((const __m128i *)s->xmm0));
	else
		xmm_set_zero_upper(vp, 0, _mm_loadu_si128((const __m128i *)s->xmm0));
	return dispatch(vp, op + 1);
}

static bool select_string(const struct decoding *d, struct op *op, const struct form *form)
{
	struct vector_operands o = {.element = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX};

	memcpy(o.registers, form->registers, sizeof(o.registers));
	op->dst = !form->implicit0 ? STRING_INDEX : o.element ? STRING_MASK_VEX : STRING_MASK;
	memcpy(&op_take_side(d, op)->extra[0], &o, sizeof(o));
	op_take_side(d, op)->native = form_native(d, form);
	op->fn = string_compare;
	return op->side->native;
}

/* --- selection ---------------------------------------------------------------------------------- */

static const ZydisDecodedOperand *written_operand(const struct decoding *d)
{
	for (unsigned i = 0; i < d->insn->operand_count_visible; i++)
		if (d->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			return &d->operands[i];
	return NULL;
}

/* Whether the result is one of the operands, which is no underflow when it is tiny. */
static bool is_choice(const char *mnemonic)
{
	mnemonic += *mnemonic == 'v';
	return strncmp(mnemonic, "min", 3) == 0 || strncmp(mnemonic, "max", 3) == 0;
}

/* What mxcsr_raised() must know of the result's elements. */
static void describe_elements(const struct decoding *d, struct vector_operands *o)
{
	const ZydisDecodedOperand *written = written_operand(d);
	ZydisExceptionClass class = d->insn->meta.exception_class;

	if (!written || is_choice(ZydisMnemonicGetString(d->insn->mnemonic)))
		return;
	switch (written->element_type) {
	case ZYDIS_ELEMENT_TYPE_FLOAT16:
		o->element = 2;
		break;
	case ZYDIS_ELEMENT_TYPE_FLOAT32:
		o->element = 4;
		break;
	case ZYDIS_ELEMENT_TYPE_FLOAT64:
		o->element = 8;
		break;
	default:
		return;
	}
	o->count = class == ZYDIS_EXCEPTION_CLASS_SSE3 || class == ZYDIS_EXCEPTION_CLASS_AVX3
		       ? 1
		       : (uint8_t)(written->size / 8 / o->element);
}

bool vector_run_select(struct decoding *d, struct op *op, const struct form *form)
{
	struct vector_operands o = {.align = vector_alignment(d, form), .general = form->general};
	bool except = vector_may_except(d);

	if (form->string)
		return select_string(d, op, form);
	memcpy(o.registers, form->registers, sizeof(o.registers));
	if (except) {
		describe_elements(d, &o);
		vector_exact_describe(d, op);
	}
	memcpy(&op_take_side(d, op)->extra[0], &o, sizeof(o));
	op->size = form->memory ? (uint8_t)(form->memory->size / 8) : 0;
	op->dst = form->result == FORM_VECTOR ? form->registers[form->result_number] : form->general;
	for (unsigned i = 0; i < ARRAY_SIZE(handlers); i++) {
		if (handlers[i].source != form->source || handlers[i].result != form->result ||
		    handlers[i].except != except)
			continue;
		op_take_side(d, op)->native = form_native(d, form);
		op->fn = handlers[i].fn[width_index(d)];
		return op->side->native;
	}
	return false;
}
