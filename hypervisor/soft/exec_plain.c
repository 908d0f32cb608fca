// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_plain.c - instructions that compute nothing: NOP and hints, fences, cache line operations, single
 * flags, BOUND, UD, and random numbers.
 */
#include <sys/random.h>

#include "hypervisor/soft/exec.h"

/* --- nothing at all ----------------------------------------------------------------------------- */

static const struct op *nop(struct soft_vp *vp, const struct op *op)
{
	return dispatch(vp, op + 1);
}

/* Loads and stores are the host's, so are the fences. */
static const struct op *fence(struct soft_vp *vp, const struct op *op)
{
	atomic_thread_fence(memory_order_seq_cst);
	return dispatch(vp, op + 1);
}

/* Caches hide behind the host's coherence; what remains is a read access that may fault. */
static const struct op *cache_line(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = ea(vp, op, 1, false);

	if (!tlb_reads(vp, tlb_entry(vp, linear), linear, 1))
		load8(vp, op, linear);
	return op + 1;
}

static const struct op *undefined(struct soft_vp *vp, const struct op *op)
{
	raise_fault(vp, op, VECTOR_UD);
}

/* --- flags -------------------------------------------------------------------------------------- */

#define DEFINE_FLAG(name, statement)                                            \
	static const struct op *name(struct soft_vp *vp, const struct op *op)   \
	{                                                                       \
		statement;                                                      \
		return dispatch(vp, op + 1);                                    \
	}

DEFINE_FLAG(clc, vp->arith &= (uint16_t)~ARITH_CF)
DEFINE_FLAG(stc, vp->arith |= ARITH_CF)
DEFINE_FLAG(cmc, vp->arith ^= ARITH_CF)
DEFINE_FLAG(cld, vp->flags_system &= ~FLAG_DF)
DEFINE_FLAG(std, vp->flags_system |= FLAG_DF)
DEFINE_FLAG(lahf, reg8_set(vp, GPR_RAX * 8 + 1, (uint8_t)(vp->arith >> 8 | ARITH_FIXED >> 8)))

static const struct op *sahf(struct soft_vp *vp, const struct op *op)
{
	uint16_t flags = (uint16_t)(reg8(vp, GPR_RAX * 8 + 1) << 8);

	flags &= ARITH_SF | ARITH_ZF | ARITH_AF | ARITH_PF | ARITH_CF;
	vp->arith = (uint16_t)((vp->arith & ARITH_OF) | ARITH_FIXED | flags);
	return dispatch(vp, op + 1);
}

/* --- BOUND -------------------------------------------------------------------------------------- */

static const struct op *bound(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = ea(vp, op, 2u * op->size, false);
	bool word = op->size == 2;
	int64_t index = word ? (int16_t)reg16(vp, op->dst) : (int32_t)reg32(vp, op->dst);

	/* The second bound is not read when the index is below the first. */
	if (index < (word ? (int16_t)load16(vp, op, linear) : (int32_t)load32(vp, op, linear)))
		raise_fault(vp, op, VECTOR_BR);
	linear = ea_part(vp, op, linear, op->size);
	if (index > (word ? (int16_t)load16(vp, op, linear) : (int32_t)load32(vp, op, linear)))
		raise_fault(vp, op, VECTOR_BR);
	return op + 1;
}

/* --- random numbers ----------------------------------------------------------------------------- */

/* Carry says that there is a number; without one the destination is 0. */
static const struct op *random_number(struct soft_vp *vp, const struct op *op)
{
	uint64_t v = 0;
	bool some = getrandom(&v, sizeof(v), GRND_NONBLOCK) == sizeof(v);

	if (!some)
		v = 0;
	if (op->size == 8)
		reg64_set(vp, op->dst, v);
	else if (op->size == 4)
		reg32_set(vp, op->dst, (uint32_t)v);
	else
		reg16_set(vp, op->dst, (uint16_t)v);
	vp->arith = (uint16_t)(ARITH_FIXED | (some ? ARITH_CF : 0));
	return op + 1;
}

/* --- selection ---------------------------------------------------------------------------------- */

static bool selected(struct op *op, op_fn fn)
{
	op->fn = fn;
	return true;
}

static bool select_random(struct decoding *d, struct op *op)
{
	take_operands(d, op);
	op->size = (uint8_t)(d->operands[0].size / 8);
	return selected(op, random_number);
}

static bool select_bound(struct decoding *d, struct op *op)
{
	take_operands(d, op);
	return selected(op, bound);
}

bool plain_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1:
		return selected(op, nop);
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
		return selected(op, fence);
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:
		return selected(op, cache_line);
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		return selected(op, undefined);
	case ZYDIS_MNEMONIC_CLC:
		return selected(op, clc);
	case ZYDIS_MNEMONIC_STC:
		return selected(op, stc);
	case ZYDIS_MNEMONIC_CMC:
		return selected(op, cmc);
	case ZYDIS_MNEMONIC_CLD:
		return selected(op, cld);
	case ZYDIS_MNEMONIC_STD:
		return selected(op, std);
	case ZYDIS_MNEMONIC_LAHF:
		return selected(op, lahf);
	case ZYDIS_MNEMONIC_SAHF:
		return selected(op, sahf);
	case ZYDIS_MNEMONIC_BOUND:
		return select_bound(d, op);
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
		return select_random(d, op);
	default:
		return false;
	}
}
