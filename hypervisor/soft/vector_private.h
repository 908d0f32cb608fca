/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vector_private.h - what the vector_*.c files share and nobody else uses.
 *
 * The way of one instruction: vector_select.c looks at what Zydis says of its operands; vector_form.c
 * writes the normal form and puts it into the pool (vector_pool.c); vector_run.c (SSE, AVX),
 * vector_mmx.c and vector_x87.c hold the handlers that fetch operands, call the native function and
 * put the results away. The commonest instructions have handlers of their own (vector_fast.c); what
 * is no arithmetic is in vector_lanes.c (gathers and masked moves) and vector_xsave.c.
 *
 * Normal form: ModRM.reg is register 0, VEX.vvvv 1, ModRM.rm 2, is4 3; a memory operand is [rdi]; a
 * general register is edi or rdi as a source and eax or rax as a destination. Where register 0 is
 * read implicitly (BLENDVPS, SHA256RNDS2), ModRM.reg is register 1. A native function is therefore
 * an ordinary C function: four vectors and one integer in, a vector or an integer back.
 */
#pragma once

#include <emmintrin.h>
#include <string.h>

#include "hypervisor/soft/access.h"
#include "hypervisor/soft/vector.h"

/* For what keeps arrays on the stack: inlined, they would keep the handler from its jump to the next. */
#define own_frame     static __attribute__((noinline))
#define always_inline static inline __attribute__((always_inline))

/* --- vector_pool.c ------------------------------------------------------------------------------ */

#define NATIVE_SIZE 32u /* room for one native function */

struct native_code {
	uint8_t bytes[NATIVE_SIZE]; /* the rest is int3 */
	unsigned length;
};

/* The address of a function with these bytes: one that is there, or a new one. NULL when the pool is
 * full, which no guest can bring about: it has room for all normal forms there are. Any thread. */
const void *vector_pool_get(struct vector_pool *pool, const struct native_code *code);

/* How many are in use. */
unsigned vector_pool_count(struct vector_pool *pool);

/* --- vector_form.c ------------------------------------------------------------------------------ */

enum form_result { FORM_VECTOR, FORM_GENERAL, FORM_FLAGS, FORM_MEMORY, FORM_COUNT };
enum form_source { FORM_REGISTERS, FORM_LOAD, FORM_STORE, FORM_GPR };

/* What an instruction reads and writes, in terms of the normal form. */
struct form {
	enum form_source source;
	enum form_result result;
	bool implicit0;         /* register 0 is read or written implicitly */
	bool string;            /* PCMPxSTRx */
	unsigned result_number; /* which register holds a vector result: 0 to 2 */
	uint8_t registers[4];   /* the guest's register behind 0 to 3 */
	uint8_t general;        /* offset of the general register that is read or written */
	const ZydisDecodedOperand *memory;
};

/* False: not an instruction of a shape that is known here. */
bool form_analyse(const struct decoding *d, struct form *form);

/* The native function; NULL when it does not fit or the pool is full. form_native_x87 is for opcodes
 * D8 to DF, form_native for the others. */
const void *form_native(const struct decoding *d, const struct form *form);
const void *form_native_x87(const struct decoding *d);

/* --- handlers by file; each select returns false for what it does not know ---------------------- */

/* What the generic handlers of vector_run.c and vector_mmx.c keep in op->side->extra[0]. */
struct vector_operands {
	uint8_t registers[4]; /* as in struct form */
	uint8_t align;        /* the bits of the address that must be 0 */
	uint8_t element;      /* 4 or 8: the result has floating point elements of that size */
	uint8_t count;        /* how many of them this instruction computes */
	uint8_t general;      /* offset of a general register that is read */
};
_Static_assert(sizeof(struct vector_operands) == 8, "it must fit into op->side->extra[0]");

static inline struct vector_operands vector_operands(const struct op *op)
{
	struct vector_operands v;

	memcpy(&v, &op->side->extra[0], sizeof(v));
	return v;
}

bool vector_fast_select(struct decoding *d, struct op *op, const struct form *form);
bool vector_run_select(struct decoding *d, struct op *op, const struct form *form);
bool vector_mmx_select(struct decoding *d, struct op *op, const struct form *form);
bool vector_x87_select(struct decoding *d, struct op *op);
bool vector_x87_control_select(struct decoding *d, struct op *op);
bool vector_xsave_select(struct decoding *d, struct op *op);
bool vector_mmx_special_select(struct decoding *d, struct op *op);
bool vector_lanes_select(struct decoding *d, struct op *op);

/* Store those of `size` (8 or 16) bytes whose mask byte has its top bit set; all or none (vector_lanes.c). */
void vector_store_masked_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, const void *value,
			       const void *mask, unsigned size);

/* Makes the implicit operand of MASKMOVQ and MASKMOVDQU, [rDI], the op's memory operand. */
void vector_select_rdi_operand(const struct decoding *d, struct op *op);

/* The bits that a memory address of this instruction must have clear, and whether it may raise
 * SIMD floating point exceptions (vector_select.c). */
uint8_t vector_alignment(const struct decoding *d, const struct form *form);
bool vector_may_except(const struct decoding *d);

/* --- checks before an instruction (vector_checks.c) --------------------------------------------- */

enum vector_unit { UNIT_SSE, UNIT_AVX, UNIT_MMX, UNIT_X87 };

_Noreturn void vector_blocked(struct soft_vp *vp, const struct op *op, enum vector_unit unit);
_Noreturn void vector_misaligned(struct soft_vp *vp, const struct op *op);

/* #MF for an unmasked exception that an earlier x87 instruction left. */
void x87_check_pending(struct soft_vp *vp, const struct op *op);

always_inline void sse_check(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & (FP_BLOCK_SSE_UD | FP_BLOCK_SSE_NM)))
		vector_blocked(vp, op, UNIT_SSE);
}

always_inline void avx_check(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & (FP_BLOCK_AVX_UD | FP_BLOCK_SSE_NM)))
		vector_blocked(vp, op, UNIT_AVX);
}

/* --- memory operands ---------------------------------------------------------------------------- */

/* Where the `size` bytes at `linear` can be read: in guest memory itself when they lie in one page of
 * RAM, else copied to vp->vector_scratch. Whoever reads them must do so once. */
always_inline const void *vector_source_at(struct soft_vp *vp, const struct op *op, uint64_t linear,
					   unsigned size)
{
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (likely(e->read == (((linear + size - 1) & PAGE_MASK) | vp->asid)))
		return (const void *)(uintptr_t)(linear + e->addend);
	load_bytes(vp, op, linear, vp->vector_scratch, size);
	return vp->vector_scratch;
}

always_inline uint64_t vector_ea(struct soft_vp *vp, const struct op *op, unsigned size, unsigned align,
				 bool write)
{
	uint64_t linear = ea(vp, op, size, write);

	if (unlikely(linear & align))
		vector_misaligned(vp, op);
	return linear;
}

/* The processor looks at the last byte of large operands first, so that is the address a page fault
 * names when both ends are bad. */
static inline void vector_probe_end(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size,
				    bool write)
{
	uint64_t last = ea_part(vp, op, linear, size - 1);

	if (write)
		probe_write(vp, op, last, 1);
	else
		(void)load8(vp, op, last);
}

always_inline void store128(struct soft_vp *vp, const struct op *op, uint64_t linear, __m128i value)
{
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (likely(e->write == (((linear + 15) & PAGE_MASK) | vp->asid))) {
		void *host = (void *)(uintptr_t)(linear + e->addend);

		_mm_storeu_si128(host, value);
		store_done(vp, op, host, 16);
		return;
	}
	_mm_store_si128((__m128i *)vp->vector_scratch, value);
	store_bytes(vp, op, linear, vp->vector_scratch, 16);
}

/* --- registers ---------------------------------------------------------------------------------- */

always_inline __m128i xmm_get(const struct soft_vp *vp, unsigned n)
{
	return _mm_load_si128((const __m128i *)vp->ymm[n]);
}

/* As SSE instructions do: bits 128 and up stay. */
always_inline void xmm_set(struct soft_vp *vp, unsigned n, __m128i v)
{
	_mm_store_si128((__m128i *)vp->ymm[n], v);
}

/* As VEX.128 instructions do: bits 128 and up become 0. */
always_inline void xmm_set_zero_upper(struct soft_vp *vp, unsigned n, __m128i v)
{
	_mm_store_si128((__m128i *)vp->ymm[n], v);
	_mm_store_si128((__m128i *)(vp->ymm[n] + 16), _mm_setzero_si128());
}

/* --- MXCSR (vector_mxcsr.c) --------------------------------------------------------------------- */

#define MXCSR_FLAGS   0x003fu
#define MXCSR_IE      0x0001u
#define MXCSR_DE      0x0002u
#define MXCSR_ZE      0x0004u
#define MXCSR_OE      0x0008u
#define MXCSR_UE      0x0010u
#define MXCSR_PE      0x0020u
#define MXCSR_DAZ     0x0040u
#define MXCSR_MASKS   0x1f80u
#define MXCSR_UM      0x0800u
#define MXCSR_FTZ     0x8000u
#define MXCSR_VALID   0xffffu
#define MXCSR_DEFAULT 0x1f80u

/* From here to mxcsr_leave() the host computes with the guest's rounding, DAZ and FTZ, all exceptions
 * masked and no flag set. Nothing between the two may fault or leave. An unmasked underflow is not
 * flushed to zero (SDM volume 1, 10.2.3.3), and mxcsr_raised() needs to see the result. */
always_inline void mxcsr_enter(struct soft_vp *vp)
{
	uint32_t v = (vp->mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS;

	if (unlikely(!(vp->mxcsr & MXCSR_UM)))
		v &= ~MXCSR_FTZ;
	vp->vector_mxcsr = v;
	__asm__ volatile("ldmxcsr %0" : : "m"(vp->vector_mxcsr) : "memory");
}

/* Back to the host's MXCSR; returns the flags that were raised. */
always_inline uint32_t mxcsr_leave(struct soft_vp *vp)
{
	static const uint32_t standard = MXCSR_DEFAULT;
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(vp->vector_mxcsr) : : "memory");
	v = vp->vector_mxcsr;
	if (unlikely((v & ~MXCSR_FLAGS) != MXCSR_DEFAULT))
		__asm__ volatile("ldmxcsr %0" : : "m"(standard) : "memory");
	return v & MXCSR_FLAGS;
}

/* Take the flags of an instruction into the guest's MXCSR; #XM, or #UD without CR4.OSXMMEXCPT, for one
 * that is not masked. vp->vector_scratch holds what the masked response computed. Before any result
 * is stored. */
void mxcsr_raised(struct soft_vp *vp, const struct op *op, uint32_t flags);

static inline bool mxcsr_all_masked(const struct soft_vp *vp)
{
	return (vp->mxcsr & MXCSR_MASKS) == MXCSR_MASKS;
}
