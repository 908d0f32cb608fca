// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_mmx.c - instructions with an MMX register. The eight registers are the significands of the
 * x87 registers; every instruction but EMMS marks all of them valid and sets TOP to 0 (SDM volume 1,
 * 9.5). They lie in the FXSAVE image relative to TOP, so a TOP other than 0 turns the image first.
 */
#include "hypervisor/soft/vector_private.h"

#include "hypervisor/soft/vector_x87.h"

/* What mmx_call() loads into MM0, MM2, XMM0 and XMM2 and gets back; behind the scratch area that
 * memory operands use. */
struct mmx_frame {
	uint64_t mm0, mm2;
	__m128i xmm0, xmm2;
};

#define FRAME_OFFSET 64u
_Static_assert(FRAME_OFFSET + sizeof(struct mmx_frame) <= sizeof(((struct soft_vp *)0)->vector_scratch),
	       "the frame lies in the scratch area");

/* Runs a native function with these registers; afterwards the host's x87 state is empty again. */
uint64_t vector_mmx_call(uint64_t argument, const void *native, struct mmx_frame *frame);

__asm__(".text\n"
	".type vector_mmx_call, @function\n"
	".globl vector_mmx_call\n"
	".hidden vector_mmx_call\n"
	"vector_mmx_call:\n"
	"	push %rdx\n"
	"	movq (%rdx), %mm0\n"
	"	movq 8(%rdx), %mm2\n"
	"	movaps 16(%rdx), %xmm0\n"
	"	movaps 32(%rdx), %xmm2\n"
	"	call *%rsi\n"
	"	pop %rdx\n"
	"	movq %mm0, (%rdx)\n"
	"	movaps %xmm0, 16(%rdx)\n"
	"	emms\n"
	"	ret\n"
	".size vector_mmx_call, . - vector_mmx_call\n");

static uint64_t mm_get(const struct soft_vp *vp, unsigned n)
{
	return le64_get(x87_register(vp->fx, (n - x87_top(vp->fx)) & 7));
}

/* What every MMX instruction does to the x87 state. The host does it also when SIMD arithmetic faults,
 * and of it only the change of TOP when a store but MASKMOVQ's faults, be it for its segment. */
static void enter_mmx(struct soft_vp *vp)
{
	x87_set_top(vp->fx, 0);
	vp->fx[FX_TAGS] = 0xff;
}

/* After enter_mmx(). The exponent becomes all ones. */
static void mm_set(struct soft_vp *vp, unsigned n, uint64_t v)
{
	le64_put(x87_register(vp->fx, n), v);
	le16_put(x87_register(vp->fx, n) + 8, 0xffff);
}

static void mmx_check(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & (FP_BLOCK_MMX_UD | FP_BLOCK_SSE_NM)))
		vector_blocked(vp, op, UNIT_MMX);
	x87_check_pending(vp, op);
}

/* --- the general handler ------------------------------------------------------------------------ */

/* op->src is the enum form_source; op->src2 says what becomes of the result. */
enum mmx_result { MMX_TO_MMX, MMX_TO_XMM, MMX_TO_GENERAL, MMX_TO_MEMORY };

#define OPERATES_ON_XMM 1u /* in vector_operands.count: SSE must be there too */
#define MAY_EXCEPT      2u

static void mmx_execute(struct soft_vp *vp, const struct op *op)
{
	struct vector_operands o = vector_operands(op);
	struct mmx_frame *frame = (struct mmx_frame *)(vp->vector_scratch + FRAME_OFFSET);
	uint64_t argument = 0, integer;

	if (op->src == FORM_LOAD)
		argument = (uintptr_t)vector_source_at(vp, op, vector_ea(vp, op, op->size, o.align, false), op->size);
	else if (op->src == FORM_STORE)
		argument = (uintptr_t)vp->vector_scratch;
	else if (op->src == FORM_GPR)
		argument = reg64(vp, o.general);
	frame->mm0 = mm_get(vp, o.registers[0]);
	frame->mm2 = mm_get(vp, o.registers[2]);
	frame->xmm0 = xmm_get(vp, o.registers[0]);
	frame->xmm2 = xmm_get(vp, o.registers[2]);
	if (o.count & MAY_EXCEPT) {
		uint32_t flags;

		mxcsr_enter(vp);
		integer = vector_mmx_call(argument, op->side->native, frame);
		flags = mxcsr_leave(vp);
		enter_mmx(vp);
		mxcsr_raised(vp, op, flags);
	} else {
		integer = vector_mmx_call(argument, op->side->native, frame);
	}
	if (op->src2 == MMX_TO_MEMORY) {
		x87_set_top(vp->fx, 0);
		store_bytes(vp, op, vector_ea(vp, op, op->size, o.align, true), vp->vector_scratch, op->size);
	}
	enter_mmx(vp);
	if (op->src2 == MMX_TO_MMX)
		mm_set(vp, op->dst & 7, frame->mm0);
	else if (op->src2 == MMX_TO_XMM)
		xmm_set(vp, op->dst, frame->xmm0);
	else if (op->src2 == MMX_TO_GENERAL)
		reg64_set(vp, op->dst, integer);
}

static const struct op *mmx(struct soft_vp *vp, const struct op *op)
{
	if (vector_operands(op).count & OPERATES_ON_XMM)
		sse_check(vp, op);
	mmx_check(vp, op);
	mmx_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- EMMS, MASKMOVQ ----------------------------------------------------------------------------- */

static const struct op *emms(struct soft_vp *vp, const struct op *op)
{
	mmx_check(vp, op);
	enter_mmx(vp);
	vp->fx[FX_TAGS] = 0;
	return dispatch(vp, op + 1);
}

own_frame void maskmovq_execute(struct soft_vp *vp, const struct op *op)
{
	uint64_t value = mm_get(vp, op->dst), mask = mm_get(vp, op->src);

	enter_mmx(vp);
	vector_store_masked_bytes(vp, op, ea(vp, op, 8, true), &value, &mask, 8);
}

static const struct op *maskmovq(struct soft_vp *vp, const struct op *op)
{
	mmx_check(vp, op);
	maskmovq_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- selection ---------------------------------------------------------------------------------- */

static bool is_class(const ZydisDecodedOperand *operand, ZydisRegisterClass class)
{
	return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(operand->reg.value) == class;
}

static bool has_class(const struct decoding *d, ZydisRegisterClass class)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if (is_class(&d->operands[i], class))
			return true;
	return false;
}

bool vector_mmx_select(struct decoding *d, struct op *op, const struct form *form)
{
	struct vector_operands o = {.align = vector_alignment(d, form), .general = form->general};

	if (!has_class(d, ZYDIS_REGCLASS_MMX))
		return false;
	o.count = (has_class(d, ZYDIS_REGCLASS_XMM) ? OPERATES_ON_XMM : 0) |
		  (vector_may_except(d) ? MAY_EXCEPT : 0);
	memcpy(o.registers, form->registers, sizeof(o.registers));
	memcpy(&op_take_side(d, op)->extra[0], &o, sizeof(o));
	op_take_side(d, op)->extra[1] = 0; /* vector_exact.c: no arithmetic that it knows */
	op->size = form->memory ? (uint8_t)(form->memory->size / 8) : 0;
	op->src = form->source;
	switch (form->result) {
	case FORM_VECTOR:
		op->dst = form->registers[form->result_number];
		op->src2 = is_class(&d->operands[0], ZYDIS_REGCLASS_MMX) ? MMX_TO_MMX : MMX_TO_XMM;
		break;
	case FORM_GENERAL:
		op->dst = form->general;
		op->src2 = MMX_TO_GENERAL;
		break;
	case FORM_MEMORY:
		op->src2 = MMX_TO_MEMORY;
		break;
	default:
		return false;
	}
	op_take_side(d, op)->native = form_native(d, form);
	op->fn = mmx;
	return op->side->native;
}

bool vector_mmx_special_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_EMMS:
		op->fn = emms;
		return true;
	case ZYDIS_MNEMONIC_MASKMOVQ:
		op->dst = (uint8_t)ZydisRegisterGetId(d->operands[0].reg.value);
		op->src = (uint8_t)ZydisRegisterGetId(d->operands[1].reg.value);
		vector_select_rdi_operand(d, op);
		op->fn = maskmovq;
		return true;
	default:
		return false;
	}
}
