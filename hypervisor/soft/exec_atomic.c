// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_atomic.c - XCHG with memory, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.
 *
 * With memory all are done as locked operations on the host, prefix or not: XCHG always locks, and
 * for the others that is more than what is asked for.
 */
#include "hypervisor/soft/exec.h"

/* --- XCHG, XADD --------------------------------------------------------------------------------- */

/* XADD: the sum goes to the destination last, for the case that both are one register. */
#define DEFINE_EXCHANGE(bits)                                                                   \
	static inline uint##bits##_t host_exchange##bits(ram##bits *host, uint##bits##_t v)     \
	{                                                                                       \
		__asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(*host) : : "memory");            \
		return v;                                                                       \
	}                                                                                       \
                                                                                                \
	static const struct op *xchg##bits##_m(struct soft_vp *vp, const struct op *op)         \
	{                                                                                       \
		uint64_t linear = ea(vp, op, bits / 8, true);                                   \
		ram##bits *host = update_pointer(vp, op, linear, bits / 8);                     \
		uint##bits##_t v = reg##bits(vp, op->src), old;                                 \
                                                                                                \
		if (likely(host != NULL)) {                                                     \
			old = host_exchange##bits(host, v);                                     \
			store_done(vp, op, (const void *)(uintptr_t)host, bits / 8);            \
		} else {                                                                        \
			probe_write(vp, op, linear, bits / 8);                                  \
			rmw_slow_lock(vp);                                                      \
			old = load##bits(vp, op, linear);                                       \
			store##bits(vp, op, linear, v);                                         \
			rmw_slow_unlock(vp);                                                    \
		}                                                                               \
		reg##bits##_set(vp, op->src, old);                                              \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *xadd##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t old = reg##bits(vp, op->dst), sum = old;                         \
                                                                                                \
		vp->arith = add##bits(&sum, reg##bits(vp, op->src), 0);                         \
		reg##bits##_set(vp, op->src, old);                                              \
		reg##bits##_set(vp, op->dst, sum);                                              \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOCKED_AT(xadd##bits##_m, bits, ea(vp, op, bits / 8, true),                      \
	    add##bits(&v, reg##bits(vp, op->src), arith),                                       \
	    reg##bits##_set(vp, op->src, (uint##bits##_t)(v - reg##bits(vp, op->src))))

/* --- CMPXCHG ------------------------------------------------------------------------------------ */

static const struct op *cmpxchg8_rr(struct soft_vp *vp, const struct op *op)
{
	uint8_t old = reg8(vp, op->dst), accumulator = reg8(vp, GPR_RAX * 8);

	vp->arith = cmp8(accumulator, old);
	if (old == accumulator)
		reg8_set(vp, op->dst, reg8(vp, op->src));
	else
		reg8_set(vp, GPR_RAX * 8, old);
	return dispatch(vp, op + 1);
}

/* What becomes of the upper halves differs between equal and unequal, so the host does it on whole
 * registers. If the destination is the accumulator they are equal, and the source wins. */
#define DEFINE_COMPARE_EXCHANGE_REGISTER(bits, part)                                                    \
	static const struct op *cmpxchg##bits##_rr(struct soft_vp *vp, const struct op *op)             \
	{                                                                                               \
		uint64_t rax = vp->gpr[GPR_RAX], a = reg64(vp, op->dst), b = reg64(vp, op->src);        \
                                                                                                        \
		vp->arith = cmp##bits((uint##bits##_t)rax, (uint##bits##_t)a);                          \
		__asm__("cmpxchg %" part "2, %" part "0" : "+r"(a), "+a"(rax) : "r"(b) : "cc");         \
		vp->gpr[GPR_RAX] = rax;                                                                 \
		reg64_set(vp, op->dst, a);                                                              \
		return dispatch(vp, op + 1);                                                            \
	}

DEFINE_COMPARE_EXCHANGE_REGISTER(16, "w")
DEFINE_COMPARE_EXCHANGE_REGISTER(32, "k")
DEFINE_COMPARE_EXCHANGE_REGISTER(64, "q")

/* The memory operand becomes `v` if it holds `expected`. Returns what it held. When it differs it is
 * written all the same, with its own value. */
#define DEFINE_COMPARE_EXCHANGE_MEMORY(bits)                                                            \
	static inline uint##bits##_t compare_exchange##bits(struct soft_vp *vp, const struct op *op,    \
	    uint##bits##_t expected, uint##bits##_t v)                                                  \
	{                                                                                               \
		uint64_t linear = ea(vp, op, bits / 8, true);                                           \
		ram##bits *host = update_pointer(vp, op, linear, bits / 8);                             \
		uint##bits##_t old = expected;                                                          \
                                                                                                        \
		if (likely(host != NULL)) {                                                             \
			__asm__ volatile("lock cmpxchg %2, %1"                                          \
					 : "+a"(old), "+m"(*host) : "r"(v) : "cc", "memory");           \
			store_done(vp, op, (const void *)(uintptr_t)host, bits / 8);                    \
		} else {                                                                                \
			probe_write(vp, op, linear, bits / 8);                                          \
			rmw_slow_lock(vp);                                                              \
			old = load##bits(vp, op, linear);                                               \
			store##bits(vp, op, linear, old == expected ? v : old);                         \
			rmw_slow_unlock(vp);                                                            \
		}                                                                                       \
		return old;                                                                             \
	}                                                                                               \
                                                                                                        \
	static const struct op *cmpxchg##bits##_m(struct soft_vp *vp, const struct op *op)              \
	{                                                                                               \
		uint##bits##_t expected = reg##bits(vp, GPR_RAX * 8);                                   \
		uint##bits##_t old = compare_exchange##bits(vp, op, expected, reg##bits(vp, op->src));  \
                                                                                                        \
		vp->arith = cmp##bits(expected, old);                                                   \
		if (old != expected)                                                                    \
			reg##bits##_set(vp, GPR_RAX * 8, old);                                          \
		return dispatch(vp, op + 1);                                                            \
	}

DEFINE_EXCHANGE(8)
DEFINE_EXCHANGE(16)
DEFINE_EXCHANGE(32)
DEFINE_EXCHANGE(64)
DEFINE_COMPARE_EXCHANGE_MEMORY(8)
DEFINE_COMPARE_EXCHANGE_MEMORY(16)
DEFINE_COMPARE_EXCHANGE_MEMORY(32)
DEFINE_COMPARE_EXCHANGE_MEMORY(64)

static void zero_flag_set(struct soft_vp *vp, bool zf)
{
	vp->arith = (uint16_t)((vp->arith & ~ARITH_ZF) | (zf ? ARITH_ZF : 0));
}

static const struct op *cmpxchg8b(struct soft_vp *vp, const struct op *op)
{
	uint64_t expected = reg32(vp, GPR_RAX * 8) | (uint64_t)reg32(vp, GPR_RDX * 8) << 32;
	uint64_t v = reg32(vp, GPR_RBX * 8) | (uint64_t)reg32(vp, GPR_RCX * 8) << 32;
	uint64_t old = compare_exchange64(vp, op, expected, v);

	zero_flag_set(vp, old == expected);
	if (old != expected) {
		reg32_set(vp, GPR_RAX * 8, (uint32_t)old);
		reg32_set(vp, GPR_RDX * 8, (uint32_t)(old >> 32));
	}
	return dispatch(vp, op + 1);
}

static const struct op *cmpxchg16b(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = ea(vp, op, 16, true);
	uint64_t old[2] = {vp->gpr[GPR_RAX], vp->gpr[GPR_RDX]};
	uint64_t v[2] = {vp->gpr[GPR_RBX], vp->gpr[GPR_RCX]};
	uint64_t *host;
	bool equal;

	if (linear & 15)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	host = update_pointer(vp, op, linear, 16);
	if (likely(host != NULL)) {
		__asm__ volatile("lock cmpxchg16b %1"
				 : "=@ccz"(equal), "+m"(*(volatile unsigned __int128 *)host), "+a"(old[0]),
				   "+d"(old[1])
				 : "b"(v[0]), "c"(v[1])
				 : "memory");
		store_done(vp, op, host, 16);
	} else {
		uint64_t is[2];

		probe_write(vp, op, linear, 16);
		rmw_slow_lock(vp);
		load_bytes(vp, op, linear, is, 16);
		equal = is[0] == old[0] && is[1] == old[1];
		store_bytes(vp, op, linear, equal ? v : is, 16);
		rmw_slow_unlock(vp);
		old[0] = is[0];
		old[1] = is[1];
	}
	zero_flag_set(vp, equal);
	if (!equal) {
		vp->gpr[GPR_RAX] = old[0];
		vp->gpr[GPR_RDX] = old[1];
	}
	return op + 1;
}

/* --- selection ---------------------------------------------------------------------------------- */

static const op_fn xchg_m[4] = SIZES(xchg, _m), xadd_rr[4] = SIZES(xadd, _rr), xadd_m[4] = SIZES(xadd, _m),
		   cmpxchg_rr[4] = SIZES(cmpxchg, _rr), cmpxchg_m[4] = SIZES(cmpxchg, _m);

bool atomic_select(struct decoding *d, struct op *op)
{
	unsigned i = size_index(d->operands[0].size);
	enum shape shape;

	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_XCHG:
		/* Either order of operands means the same. */
		shape = take_operands(d, op);
		if (shape == SHAPE_RM)
			op->src = op->dst;
		op->fn = xchg_m[i];
		return shape == SHAPE_RM || shape == SHAPE_MR;
	case ZYDIS_MNEMONIC_XADD:
		op->fn = take_operands(d, op) == SHAPE_RR ? xadd_rr[i] : xadd_m[i];
		return true;
	case ZYDIS_MNEMONIC_CMPXCHG:
		op->fn = take_operands(d, op) == SHAPE_RR ? cmpxchg_rr[i] : cmpxchg_m[i];
		return true;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		op->fn = cmpxchg8b;
		return true;
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		op->fn = cmpxchg16b;
		return true;
	default:
		return false;
	}
}
