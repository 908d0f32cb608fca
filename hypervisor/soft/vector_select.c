// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_select.c - finds the handler of an x87, MMX, SSE or AVX instruction: whether the guest has
 * it, which of the files knows it, and what its memory operand asks for. Runs once for each decoded
 * instruction. Source: SDM volume 2, 2.4 (exception classes).
 */
#include "hypervisor/soft/vector_private.h"

/* --- what the guest has ------------------------------------------------------------------------- */

enum feature_word { WORD_ALWAYS, WORD_1_ECX, WORD_7_EBX, WORD_7_ECX };

struct requirement {
	uint16_t isa_set;
	uint8_t word;
	uint8_t bit;
	bool avx; /* and AVX */
};

static const struct requirement requirements[] = {
    {ZYDIS_ISA_SET_X87, WORD_ALWAYS, 0, false},          {ZYDIS_ISA_SET_FCMOV, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_PPRO, WORD_ALWAYS, 0, false},         {ZYDIS_ISA_SET_PENTIUMMMX, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_FXSAVE, WORD_ALWAYS, 0, false},       {ZYDIS_ISA_SET_FXSAVE64, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_SSE, WORD_ALWAYS, 0, false},          {ZYDIS_ISA_SET_SSEMXCSR, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_SSE_PREFETCH, WORD_ALWAYS, 0, false}, {ZYDIS_ISA_SET_PREFETCH_NOP, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_SSE2, WORD_ALWAYS, 0, false},         {ZYDIS_ISA_SET_SSE2MMX, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_CLFSH, WORD_ALWAYS, 0, false},        {ZYDIS_ISA_SET_XSAVE, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_XSAVEOPT, WORD_ALWAYS, 0, false},     {ZYDIS_ISA_SET_XSAVEC, WORD_ALWAYS, 0, false},
    {ZYDIS_ISA_SET_SSE3, WORD_1_ECX, 0, false},          {ZYDIS_ISA_SET_SSE3X87, WORD_1_ECX, 0, false},
    {ZYDIS_ISA_SET_PCLMULQDQ, WORD_1_ECX, 1, false},     {ZYDIS_ISA_SET_SSSE3, WORD_1_ECX, 9, false},
    {ZYDIS_ISA_SET_SSSE3MMX, WORD_1_ECX, 9, false},      {ZYDIS_ISA_SET_FMA, WORD_1_ECX, 12, true},
    {ZYDIS_ISA_SET_SSE4, WORD_1_ECX, 19, false},         {ZYDIS_ISA_SET_SSE42, WORD_1_ECX, 20, false},
    {ZYDIS_ISA_SET_AES, WORD_1_ECX, 25, false},          {ZYDIS_ISA_SET_AVXAES, WORD_1_ECX, 25, true},
    {ZYDIS_ISA_SET_AVX, WORD_1_ECX, 28, true},           {ZYDIS_ISA_SET_F16C, WORD_1_ECX, 29, true},
    {ZYDIS_ISA_SET_AVX2, WORD_7_EBX, 5, true},           {ZYDIS_ISA_SET_AVX2GATHER, WORD_7_EBX, 5, true},
    {ZYDIS_ISA_SET_SHA, WORD_7_EBX, 29, false},          {ZYDIS_ISA_SET_GFNI, WORD_7_ECX, 8, false},
    {ZYDIS_ISA_SET_AVX_GFNI, WORD_7_ECX, 8, true},       {ZYDIS_ISA_SET_VAES, WORD_7_ECX, 9, true},
    {ZYDIS_ISA_SET_VPCLMULQDQ, WORD_7_ECX, 10, true},
};

static bool is_offered(const struct decoding *d)
{
	const struct vector_features *f = vector_pool_features(d->vp->vectors);
	const uint32_t words[] = {~0u, f->leaf1_ecx, f->leaf7_ebx, f->leaf7_ecx};

	for (unsigned i = 0; i < ARRAY_SIZE(requirements); i++) {
		const struct requirement *r = &requirements[i];

		if (r->isa_set == d->insn->meta.isa_set)
			return (words[r->word] >> r->bit & 1u) && (!r->avx || (f->leaf1_ecx >> 28 & 1u));
	}
	return false;
}

/* --- memory operands and exceptions ------------------------------------------------------------- */

/* SSE instructions of the classes for aligned operands that take any address all the same. */
static bool is_unaligned(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
		return true;
	default:
		return false;
	}
}

uint8_t vector_alignment(const struct decoding *d, const struct form *form)
{
	unsigned size = form->memory ? form->memory->size / 8u : 0;

	if (size < 16 || form->string)
		return 0;
	if (d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return d->insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? (uint8_t)(size - 1) : 0;
	return is_unaligned(d->insn->mnemonic) ? 0 : (uint8_t)(size - 1);
}

bool vector_may_except(const struct decoding *d)
{
	switch (d->insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
		return true;
	default:
		break;
	}
	/* Those between MMX and XMM registers are in no class. */
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return true;
	default:
		return false;
	}
}

/* --- checks when an instruction may not run ----------------------------------------------------- */

_Noreturn void vector_blocked(struct soft_vp *vp, const struct op *op, enum vector_unit unit)
{
	static const uint32_t undefined[] = {
	    [UNIT_SSE] = FP_BLOCK_SSE_UD,
	    [UNIT_AVX] = FP_BLOCK_AVX_UD,
	    [UNIT_MMX] = FP_BLOCK_MMX_UD,
	    [UNIT_X87] = 0,
	};

	raise_fault(vp, op, vp->fp_block & undefined[unit] ? VECTOR_UD : VECTOR_NM);
}

_Noreturn void vector_misaligned(struct soft_vp *vp, const struct op *op)
{
	raise_fault_code(vp, op, VECTOR_GP, 0);
}

void x87_check_pending(struct soft_vp *vp, const struct op *op)
{
	uint16_t control = le16_get(vp->fx), status = le16_get(vp->fx + 2);

	if (unlikely(status & ~control & 0x3f))
		raise_fault(vp, op, VECTOR_MF);
}

/* --- selection ---------------------------------------------------------------------------------- */

static const struct op *nothing(struct soft_vp *vp, const struct op *op)
{
	return dispatch(vp, op + 1);
}

/* The interpreter's accesses are in program order, but the host's own buffer holds stores back. */
static const struct op *fence(struct soft_vp *vp, const struct op *op)
{
	atomic_thread_fence(memory_order_seq_cst);
	return dispatch(vp, op + 1);
}

static bool select_hint(const struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
		op->fn = nothing;
		return true;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		op->fn = fence;
		return true;
	default:
		return false;
	}
}

bool vector_select(struct decoding *d, struct op *op)
{
	struct form form;

	if (op->flags & OP_LOCK || !is_offered(d))
		return false;
	if (d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && d->mode == MODE_16)
		return false;
	if (select_hint(d, op) || vector_x87_control_select(d, op) || vector_x87_select(d, op) ||
	    vector_xsave_select(d, op) || vector_mmx_special_select(d, op) || vector_lanes_select(d, op))
		return true;
	if (!form_analyse(d, &form))
		return false;
	return vector_fast_select(d, op, &form) || vector_mmx_select(d, op, &form) ||
	       vector_run_select(d, op, &form);
}
