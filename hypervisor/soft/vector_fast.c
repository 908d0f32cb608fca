// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_fast.c - handlers of their own for the commonest SSE and AVX instructions, which need no
 * native function: moves, logic, integer arithmetic and comparison, interleaving.
 *
 * op->dst is ModRM.reg (for stores: the register that is stored), op->src VEX.vvvv or again ModRM.reg,
 * op->src2 ModRM.rm, op->size the bits that a memory address must have clear.
 */
#include "hypervisor/soft/vector_private.h"

/* --- whole registers ---------------------------------------------------------------------------- */

#define DEFINE_MOVES(name, check, set)                                                                       \
	static const struct op *name##_move(struct soft_vp *vp, const struct op *op)                         \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst, xmm_get(vp, op->src2));                                                     \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_load(struct soft_vp *vp, const struct op *op)                         \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst,                                                                             \
		    _mm_loadu_si128(vector_source_at(vp, op, vector_ea(vp, op, 16, op->size, false), 16)));  \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_store(struct soft_vp *vp, const struct op *op)                        \
	{                                                                                                    \
		check(vp, op);                                                                               \
		store128(vp, op, vector_ea(vp, op, 16, op->size, true), xmm_get(vp, op->dst));               \
		return dispatch(vp, op + 1);                                                                 \
	}

DEFINE_MOVES(sse, sse_check, xmm_set)
DEFINE_MOVES(vex_128, avx_check, xmm_set_zero_upper)

always_inline void ymm_copy(struct soft_vp *vp, unsigned n, const void *from)
{
	__m128i low = _mm_loadu_si128(from), high = _mm_loadu_si128((const __m128i *)from + 1);

	_mm_store_si128((__m128i *)vp->ymm[n], low);
	_mm_store_si128((__m128i *)vp->ymm[n] + 1, high);
}

static const struct op *vex_256_move(struct soft_vp *vp, const struct op *op)
{
	avx_check(vp, op);
	ymm_copy(vp, op->dst, vp->ymm[op->src2]);
	return dispatch(vp, op + 1);
}

static const struct op *vex_256_load(struct soft_vp *vp, const struct op *op)
{
	avx_check(vp, op);
	ymm_copy(vp, op->dst, vector_source_at(vp, op, vector_ea(vp, op, 32, op->size, false), 32));
	return dispatch(vp, op + 1);
}

static const struct op *vex_256_store(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear;
	const struct tlb_entry *e;

	avx_check(vp, op);
	linear = vector_ea(vp, op, 32, op->size, true);
	e = tlb_entry(vp, linear);
	if (likely(e->write == (((linear + 31) & PAGE_MASK) | vp->asid))) {
		__m128i *host = (__m128i *)(uintptr_t)(linear + e->addend);

		_mm_storeu_si128(host, xmm_get(vp, op->dst));
		_mm_storeu_si128(host + 1, _mm_load_si128((const __m128i *)vp->ymm[op->dst] + 1));
		store_done(vp, op, host, 32);
	} else {
		store_bytes(vp, op, linear, vp->ymm[op->dst], 32);
	}
	return dispatch(vp, op + 1);
}

/* --- parts of registers: MOVD, MOVQ, MOVSS, MOVSD with memory or a general register -------------- */

#define DEFINE_PARTS(name, check, set)                                                                       \
	static const struct op *name##_load_32(struct soft_vp *vp, const struct op *op)                      \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst, _mm_cvtsi32_si128((int)load32(vp, op, ea(vp, op, 4, false))));              \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_load_64(struct soft_vp *vp, const struct op *op)                      \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst, _mm_cvtsi64_si128((int64_t)load64(vp, op, ea(vp, op, 8, false))));          \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_store_32(struct soft_vp *vp, const struct op *op)                     \
	{                                                                                                    \
		check(vp, op);                                                                               \
		store32(vp, op, ea(vp, op, 4, true), le32_get(vp->ymm[op->dst]));                            \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_store_64(struct soft_vp *vp, const struct op *op)                     \
	{                                                                                                    \
		check(vp, op);                                                                               \
		store64(vp, op, ea(vp, op, 8, true), le64_get(vp->ymm[op->dst]));                            \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_from_general_32(struct soft_vp *vp, const struct op *op)              \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst, _mm_cvtsi32_si128((int)reg32(vp, op->src2)));                               \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_from_general_64(struct soft_vp *vp, const struct op *op)              \
	{                                                                                                    \
		check(vp, op);                                                                               \
		set(vp, op->dst, _mm_cvtsi64_si128((int64_t)reg64(vp, op->src2)));                           \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_to_general_32(struct soft_vp *vp, const struct op *op)                \
	{                                                                                                    \
		check(vp, op);                                                                               \
		reg32_set(vp, op->src2, le32_get(vp->ymm[op->dst]));                                         \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_to_general_64(struct soft_vp *vp, const struct op *op)                \
	{                                                                                                    \
		check(vp, op);                                                                               \
		reg64_set(vp, op->src2, le64_get(vp->ymm[op->dst]));                                         \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *name##_movmskb(struct soft_vp *vp, const struct op *op)                      \
	{                                                                                                    \
		check(vp, op);                                                                               \
		reg32_set(vp, op->dst, (uint32_t)_mm_movemask_epi8(xmm_get(vp, op->src2)));                  \
		return dispatch(vp, op + 1);                                                                 \
	}

DEFINE_PARTS(sse, sse_check, xmm_set)
DEFINE_PARTS(vex, avx_check, xmm_set_zero_upper)

/* --- two operands ------------------------------------------------------------------------------- */

#define DEFINE_BINARY(name, mnemonic, intrinsic)                                                             \
	static const struct op *sse_##name(struct soft_vp *vp, const struct op *op)                          \
	{                                                                                                    \
		sse_check(vp, op);                                                                           \
		xmm_set(vp, op->dst, intrinsic(xmm_get(vp, op->src), xmm_get(vp, op->src2)));                \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *sse_load_##name(struct soft_vp *vp, const struct op *op)                     \
	{                                                                                                    \
		const void *p;                                                                               \
                                                                                                             \
		sse_check(vp, op);                                                                           \
		p = vector_source_at(vp, op, vector_ea(vp, op, 16, 15, false), 16);                          \
		xmm_set(vp, op->dst, intrinsic(xmm_get(vp, op->src), _mm_loadu_si128(p)));                   \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *vex_##name(struct soft_vp *vp, const struct op *op)                          \
	{                                                                                                    \
		avx_check(vp, op);                                                                           \
		xmm_set_zero_upper(vp, op->dst, intrinsic(xmm_get(vp, op->src), xmm_get(vp, op->src2)));     \
		return dispatch(vp, op + 1);                                                                 \
	}                                                                                                    \
	static const struct op *vex_load_##name(struct soft_vp *vp, const struct op *op)                     \
	{                                                                                                    \
		const void *p;                                                                               \
                                                                                                             \
		avx_check(vp, op);                                                                           \
		p = vector_source_at(vp, op, ea(vp, op, 16, false), 16);                                     \
		xmm_set_zero_upper(vp, op->dst, intrinsic(xmm_get(vp, op->src), _mm_loadu_si128(p)));        \
		return dispatch(vp, op + 1);                                                                 \
	}

#define BINARY(X)                                                                                            \
	X(pxor, PXOR, _mm_xor_si128)                                                                         \
	X(por, POR, _mm_or_si128)                                                                            \
	X(pand, PAND, _mm_and_si128)                                                                         \
	X(pandn, PANDN, _mm_andnot_si128)                                                                    \
	X(paddb, PADDB, _mm_add_epi8)                                                                        \
	X(paddw, PADDW, _mm_add_epi16)                                                                       \
	X(paddd, PADDD, _mm_add_epi32)                                                                       \
	X(paddq, PADDQ, _mm_add_epi64)                                                                       \
	X(psubb, PSUBB, _mm_sub_epi8)                                                                        \
	X(psubw, PSUBW, _mm_sub_epi16)                                                                       \
	X(psubd, PSUBD, _mm_sub_epi32)                                                                       \
	X(psubq, PSUBQ, _mm_sub_epi64)                                                                       \
	X(pmuludq, PMULUDQ, _mm_mul_epu32)                                                                   \
	X(pmullw, PMULLW, _mm_mullo_epi16)                                                                   \
	X(pminub, PMINUB, _mm_min_epu8)                                                                      \
	X(pmaxub, PMAXUB, _mm_max_epu8)                                                                      \
	X(pcmpeqb, PCMPEQB, _mm_cmpeq_epi8)                                                                  \
	X(pcmpeqw, PCMPEQW, _mm_cmpeq_epi16)                                                                 \
	X(pcmpeqd, PCMPEQD, _mm_cmpeq_epi32)                                                                 \
	X(pcmpgtb, PCMPGTB, _mm_cmpgt_epi8)                                                                  \
	X(pcmpgtd, PCMPGTD, _mm_cmpgt_epi32)                                                                 \
	X(punpcklbw, PUNPCKLBW, _mm_unpacklo_epi8)                                                           \
	X(punpcklwd, PUNPCKLWD, _mm_unpacklo_epi16)                                                          \
	X(punpckldq, PUNPCKLDQ, _mm_unpacklo_epi32)                                                          \
	X(punpcklqdq, PUNPCKLQDQ, _mm_unpacklo_epi64)                                                        \
	X(punpckhbw, PUNPCKHBW, _mm_unpackhi_epi8)                                                           \
	X(punpckhwd, PUNPCKHWD, _mm_unpackhi_epi16)                                                          \
	X(punpckhdq, PUNPCKHDQ, _mm_unpackhi_epi32)                                                          \
	X(punpckhqdq, PUNPCKHQDQ, _mm_unpackhi_epi64)

BINARY(DEFINE_BINARY)

struct binary {
	uint16_t sse_mnemonic, vex_mnemonic;
	op_fn sse, sse_load, vex, vex_load;
};

#define BINARY_ENTRY(name, mnemonic, intrinsic)                                                              \
	{ZYDIS_MNEMONIC_##mnemonic,                                                                          \
	 ZYDIS_MNEMONIC_V##mnemonic,                                                                         \
	 sse_##name,                                                                                         \
	 sse_load_##name,                                                                                    \
	 vex_##name,                                                                                         \
	 vex_load_##name},

static const struct binary binaries[] = {
    BINARY(BINARY_ENTRY)
    /* Bits are bits. */
    {ZYDIS_MNEMONIC_XORPS, ZYDIS_MNEMONIC_VXORPS, sse_pxor, sse_load_pxor, vex_pxor, vex_load_pxor},
    {ZYDIS_MNEMONIC_XORPD, ZYDIS_MNEMONIC_VXORPD, sse_pxor, sse_load_pxor, vex_pxor, vex_load_pxor},
    {ZYDIS_MNEMONIC_ORPS, ZYDIS_MNEMONIC_VORPS, sse_por, sse_load_por, vex_por, vex_load_por},
    {ZYDIS_MNEMONIC_ORPD, ZYDIS_MNEMONIC_VORPD, sse_por, sse_load_por, vex_por, vex_load_por},
    {ZYDIS_MNEMONIC_ANDPS, ZYDIS_MNEMONIC_VANDPS, sse_pand, sse_load_pand, vex_pand, vex_load_pand},
    {ZYDIS_MNEMONIC_ANDPD, ZYDIS_MNEMONIC_VANDPD, sse_pand, sse_load_pand, vex_pand, vex_load_pand},
    {ZYDIS_MNEMONIC_ANDNPS, ZYDIS_MNEMONIC_VANDNPS, sse_pandn, sse_load_pandn, vex_pandn, vex_load_pandn},
    {ZYDIS_MNEMONIC_ANDNPD, ZYDIS_MNEMONIC_VANDNPD, sse_pandn, sse_load_pandn, vex_pandn, vex_load_pandn},
    {ZYDIS_MNEMONIC_UNPCKLPS, ZYDIS_MNEMONIC_VUNPCKLPS, sse_punpckldq, sse_load_punpckldq, vex_punpckldq,
     vex_load_punpckldq},
    {ZYDIS_MNEMONIC_UNPCKLPD, ZYDIS_MNEMONIC_VUNPCKLPD, sse_punpcklqdq, sse_load_punpcklqdq, vex_punpcklqdq,
     vex_load_punpcklqdq},
};

/* --- selection ---------------------------------------------------------------------------------- */

static bool has_class(const struct decoding *d, ZydisRegisterClass class)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if (d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d->operands[i].reg.value) == class)
			return true;
	return false;
}

static bool select_binary(const struct decoding *d, struct op *op, const struct form *form)
{
	for (unsigned i = 0; i < ARRAY_SIZE(binaries); i++) {
		const struct binary *b = &binaries[i];
		bool vex = b->vex_mnemonic == d->insn->mnemonic;

		if (!vex && b->sse_mnemonic != d->insn->mnemonic)
			continue;
		op->src = form->registers[vex ? 1 : 0];
		op->fn = form->memory ? (vex ? b->vex_load : b->sse_load) : (vex ? b->vex : b->sse);
		return true;
	}
	return false;
}

static bool is_whole_move(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVUPS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VLDDQU:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
		return true;
	default:
		return false;
	}
}

static bool select_whole_move(const struct decoding *d, struct op *op, const struct form *form)
{
	static const op_fn moves[3][3] = {{sse_move, sse_load, sse_store},
					  {vex_128_move, vex_128_load, vex_128_store},
					  {vex_256_move, vex_256_load, vex_256_store}};
	bool vex = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	unsigned width = !vex ? 0 : has_class(d, ZYDIS_REGCLASS_YMM) ? 2 : 1;

	if (!is_whole_move(d->insn->mnemonic))
		return false;
	op->size = vector_alignment(d, form);
	if (form->source == FORM_REGISTERS && form->result_number == 2) {
		/* The store form between registers. */
		op->dst = form->registers[2];
		op->src2 = form->registers[0];
	}
	op->fn = moves[width][form->source == FORM_LOAD ? 1 : form->source == FORM_STORE ? 2 : 0];
	return true;
}

static bool is_scalar_move(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVD:
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_MOVSS:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VMOVQ:
	case ZYDIS_MNEMONIC_VMOVSS:
	case ZYDIS_MNEMONIC_VMOVSD:
		return true;
	default:
		return false;
	}
}

static bool select_scalar_move(const struct decoding *d, struct op *op, const struct form *form)
{
	static const op_fn loads[2][2] = {{sse_load_32, sse_load_64}, {vex_load_32, vex_load_64}};
	static const op_fn stores[2][2] = {{sse_store_32, sse_store_64}, {vex_store_32, vex_store_64}};
	static const op_fn from[2][2] = {{sse_from_general_32, sse_from_general_64},
					 {vex_from_general_32, vex_from_general_64}};
	static const op_fn to[2][2] = {{sse_to_general_32, sse_to_general_64},
				       {vex_to_general_32, vex_to_general_64}};
	unsigned vex = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	unsigned wide;

	if (!is_scalar_move(d->insn->mnemonic))
		return false;
	if (form->memory) {
		wide = form->memory->size == 64;
		op->fn = form->source == FORM_LOAD ? loads[vex][wide] : stores[vex][wide];
		return true;
	}
	wide = has_class(d, ZYDIS_REGCLASS_GPR64);
	if (!wide && !has_class(d, ZYDIS_REGCLASS_GPR32))
		return false;
	op->src2 = form->general;
	op->fn = form->source == FORM_GPR ? from[vex][wide] : to[vex][wide];
	return true;
}

bool vector_fast_select(struct decoding *d, struct op *op, const struct form *form)
{
	if (has_class(d, ZYDIS_REGCLASS_MMX))
		return false;
	op->dst = form->registers[0];
	op->src2 = form->registers[2];
	if (select_whole_move(d, op, form) || select_scalar_move(d, op, form))
		return true;
	if (has_class(d, ZYDIS_REGCLASS_YMM))
		return false;
	if (d->insn->mnemonic == ZYDIS_MNEMONIC_PMOVMSKB || d->insn->mnemonic == ZYDIS_MNEMONIC_VPMOVMSKB) {
		op->dst = form->general;
		op->fn = d->insn->mnemonic == ZYDIS_MNEMONIC_PMOVMSKB ? sse_movmskb : vex_movmskb;
		return true;
	}
	return select_binary(d, op, form);
}
