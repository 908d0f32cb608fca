/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec.h - what the integer instructions (exec_*.c) share: reading operands at decode time, and the
 * shapes that memory handlers are made in. Private to the exec_*.c files.
 *
 * A memory operand gets two handlers. The fast one serves what nearly always happens: no segment
 * checks, a TLB hit, for writes a page that holds no code. It calls nothing, so it needs no stack
 * frame and ends in a jump to the next op. (It comes twice, for any address and, named ..._based, for
 * a base and a displacement.) In every other case it leaves the whole instruction to the other one,
 * named ..._any, which uses access.h and may fault. Modes with segment checks get that from the start.
 * All are generated from one line that says what the instruction does.
 */
#pragma once

#include "hypervisor/soft/access.h"
#include "hypervisor/soft/exec_flags.h"
#include "hypervisor/soft/op.h"

/* For what handlers hand over to: kept apart, it leaves them without a stack frame. */
#define OUT_OF_LINE __attribute__((noinline))

/* --- at decode time ----------------------------------------------------------------------------- */

/* The explicit operands in order: register, memory, immediate. */
enum shape { SHAPE_OTHER, SHAPE_R, SHAPE_M, SHAPE_I, SHAPE_RR, SHAPE_RM, SHAPE_RI, SHAPE_MR, SHAPE_MI };

struct memory_handler {
	op_fn fast, any;
	op_fn based; /* fast, for an address without index and segment */
};

#define MEMORY(name) {name, name##_any, name##_based}

static inline op_fn memory_fn(const struct op *op, struct memory_handler h)
{
	if (op->flags & OP_EA_CHECKED)
		return h.any;
	return op->index == GPR_ZERO * 8 && op->seg == SEG_NONE ? h.based : h.fast;
}

/* 0 to 3 for 8 to 64 bits: the index into tables of handlers by size. */
static inline unsigned size_index(unsigned bits)
{
	return (unsigned)__builtin_ctz(bits | 64) - 3;
}

#define SIZES(name, suffix) {name##8##suffix, name##16##suffix, name##32##suffix, name##64##suffix}
#define MEMORY_SIZES(name, suffix)                                                      \
	{MEMORY(name##8##suffix), MEMORY(name##16##suffix), MEMORY(name##32##suffix),   \
	 MEMORY(name##64##suffix)}

bool is_general_register(const ZydisDecodedOperand *operand);

/* Fills dst, src and src2 from the first, second and third operand where it is a general register,
 * and imm from an immediate; the shape is that of the first two operands. */
enum shape take_operands(const struct decoding *d, struct op *op);

/* The mask of the instruction's address size. */
static inline uint64_t address_mask(const struct decoding *d)
{
	return d->insn->address_width == 64 ? ~0ull : (1ull << d->insn->address_width) - 1;
}

/* SEG_* of a memory operand, counted from 0, hidden ones included (strings, XLAT), override considered. */
uint8_t memory_segment(const struct decoding *d, unsigned nth);

/* Each knows the mnemonics of its file and answers as integer_select() does. */
bool alu_select(struct decoding *d, struct op *op);
bool move_select(struct decoding *d, struct op *op);
bool condition_select(struct decoding *d, struct op *op);
bool shift_select(struct decoding *d, struct op *op);
bool multiply_select(struct decoding *d, struct op *op);
bool bit_select(struct decoding *d, struct op *op);
bool bmi_select(struct decoding *d, struct op *op);
bool atomic_select(struct decoding *d, struct op *op);
bool stack_select(struct decoding *d, struct op *op);
bool branch_select(struct decoding *d, struct op *op);
bool string_select(struct decoding *d, struct op *op);
bool decimal_select(struct decoding *d, struct op *op);
bool plain_select(struct decoding *d, struct op *op);

/* The arithmetic that exec_fuse.c joins with a conditional jump behind it, by the names of its handlers:
 * in registers, and with a memory operand that is only read. */
#define FUSIBLE_REGISTERS(X)                                                                            \
	X(cmp, 8, rr) X(cmp, 32, rr) X(cmp, 64, rr) X(cmp, 8, ri) X(cmp, 16, ri) X(cmp, 32, ri)         \
	X(cmp, 64, ri)                                                                                  \
	X(test, 8, rr) X(test, 32, rr) X(test, 64, rr) X(test, 8, ri) X(test, 32, ri)                   \
	X(and, 32, ri) X(and, 64, rr) X(add, 64, ri) X(sub, 32, ri) X(sub, 64, ri) X(sub, 64, rr)       \
	X(inc, 32, r) X(dec, 32, r) X(dec, 64, r)
#define FUSIBLE_MEMORY(X)                                                                               \
	X(cmp, 8, mi) X(cmp, 32, mi) X(cmp, 64, mi) X(cmp, 32, rm) X(cmp, 64, rm) X(cmp, 32, mr)        \
	X(cmp, 64, mr) X(test, 8, mi) X(test, 32, mi)

#define FUSIBLE_NUMBER(name, bits, form) FUSIBLE_##name##bits##form,

enum fusible { FUSIBLE_NONE, FUSIBLE_REGISTERS(FUSIBLE_NUMBER) FUSIBLE_MEMORY(FUSIBLE_NUMBER) FUSIBLE_COUNT };

/* Which of them this is (exec_alu.c). */
enum fusible alu_fusible(const struct op *op);

/* --- at run time -------------------------------------------------------------------------------- */

/* The address of a memory operand that needs no check. */
static inline uint64_t ea_flat(const struct soft_vp *vp, const struct op *op)
{
	return vp->seg_base[op->seg] + reg64(vp, op->base) + (reg64(vp, op->index) << op->scale) +
	       (uint64_t)op->disp;
}

/* The same without index and segment. */
static inline uint64_t ea_based(const struct soft_vp *vp, const struct op *op)
{
	return reg64(vp, op->base) + (uint64_t)op->disp;
}

static inline bool tlb_reads(const struct soft_vp *vp, const struct tlb_entry *e, uint64_t linear,
    unsigned size)
{
	return likely(e->read == (((linear + size - 1) & PAGE_MASK) | vp->asid));
}

/* A hit for writing, on a page that nobody has decoded code from. */
static inline bool tlb_writes(const struct soft_vp *vp, const struct tlb_entry *e, uint64_t linear,
    unsigned size)
{
	return likely(e->write == (((linear + size - 1) & PAGE_MASK) | vp->asid)) &&
	       likely(!atomic_load_explicit(e->flags, memory_order_relaxed));
}

/* rmw_pointer(), with the TLB hit on the spot. */
static inline void *update_pointer(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (likely(e->write == (((linear + size - 1) & PAGE_MASK) | vp->asid)))
		return (void *)(uintptr_t)(linear + e->addend);
	return rmw_pointer(vp, op, linear, size);
}

/* name(vp, op): `v` is what the memory operand holds; `statement` does the rest. */
#define DEFINE_LOAD(name, bits, statement)                                                      \
	static OUT_OF_LINE const struct op *name##_any(struct soft_vp *vp, const struct op *op) \
	{                                                                                       \
		uint##bits##_t v = load##bits(vp, op, ea(vp, op, bits / 8, false));             \
                                                                                                \
		statement;                                                                      \
		return op + 1;                                                                  \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD_FAST(name, ea_flat, name##_any, bits, statement)                            \
	DEFINE_LOAD_FAST(name##_based, ea_based, name##_any, bits, statement)

#define DEFINE_LOAD_FAST(name, address, other, bits, statement)                 \
	static const struct op *name(struct soft_vp *vp, const struct op *op)   \
	{                                                                       \
		uint64_t linear = address(vp, op);                              \
		const struct tlb_entry *e = tlb_entry(vp, linear);              \
		uint##bits##_t v;                                               \
                                                                                \
		if (unlikely(!tlb_reads(vp, e, linear, bits / 8)))              \
			return other(vp, op);                                   \
		v = *(const ram##bits *)(uintptr_t)(linear + e->addend);        \
		statement;                                                      \
		return dispatch(vp, op + 1);                                    \
	}

/* name(vp, op): the memory operand becomes `value`. */
#define DEFINE_STORE(name, bits, value)                                                         \
	static OUT_OF_LINE const struct op *name##_any(struct soft_vp *vp, const struct op *op) \
	{                                                                                       \
		store##bits(vp, op, ea(vp, op, bits / 8, true), (uint##bits##_t)(value));       \
		return op + 1;                                                                  \
	}                                                                                       \
                                                                                                \
	DEFINE_STORE_FAST(name, ea_flat, name##_any, bits, value)                               \
	DEFINE_STORE_FAST(name##_based, ea_based, name##_any, bits, value)

#define DEFINE_STORE_FAST(name, address, other, bits, value)                                    \
	static const struct op *name(struct soft_vp *vp, const struct op *op)                   \
	{                                                                                       \
		uint64_t linear = address(vp, op);                                              \
		const struct tlb_entry *e = tlb_entry(vp, linear);                              \
                                                                                                \
		if (unlikely(!tlb_writes(vp, e, linear, bits / 8)))                             \
			return other(vp, op);                                                   \
		*(ram##bits *)(uintptr_t)(linear + e->addend) = (uint##bits##_t)(value);        \
		return dispatch(vp, op + 1);                                                    \
	}

/* name(vp, op): `compute` changes `v`, which holds the operand at the linear `address`, and yields the new
 * flags from the old ones, `arith`. `finish` runs when nothing can fault any more. */
#define DEFINE_UPDATE_AT(name, bits, address, compute, finish)                                  \
	static OUT_OF_LINE const struct op *name(struct soft_vp *vp, const struct op *op)       \
	{                                                                                       \
		uint64_t linear = address;                                                      \
		ram##bits *host = update_pointer(vp, op, linear, bits / 8);                     \
		uint16_t arith = vp->arith;                                                     \
		uint##bits##_t v;                                                               \
                                                                                                \
		if (host) {                                                                     \
			v = *host;                                                              \
			arith = compute;                                                        \
			*host = v;                                                              \
			store_done(vp, op, (const void *)(uintptr_t)host, bits / 8);            \
		} else {                                                                        \
			probe_write(vp, op, linear, bits / 8);                                  \
			v = load##bits(vp, op, linear);                                         \
			arith = compute;                                                        \
			store##bits(vp, op, linear, v);                                         \
		}                                                                               \
		vp->arith = arith;                                                              \
		finish;                                                                         \
		return op + 1;                                                                  \
	}

/* The same for the ModRM operand, with fast handlers. */
#define DEFINE_UPDATE(name, bits, compute)                                              \
	DEFINE_UPDATE_AT(name##_any, bits, ea(vp, op, bits / 8, true), compute, )       \
	DEFINE_UPDATE_FAST(name, ea_flat, name##_any, bits, compute)                    \
	DEFINE_UPDATE_FAST(name##_based, ea_based, name##_any, bits, compute)

#define DEFINE_UPDATE_FAST(name, address, other, bits, compute)                 \
	static const struct op *name(struct soft_vp *vp, const struct op *op)   \
	{                                                                       \
		uint64_t linear = address(vp, op);                              \
		const struct tlb_entry *e = tlb_entry(vp, linear);              \
		uint16_t arith = vp->arith;                                     \
		ram##bits *host;                                                \
		uint##bits##_t v;                                               \
                                                                                \
		if (unlikely(!tlb_writes(vp, e, linear, bits / 8)))             \
			return other(vp, op);                                   \
		host = (ram##bits *)(uintptr_t)(linear + e->addend);            \
		v = *host;                                                      \
		arith = compute;                                                \
		*host = v;                                                      \
		vp->arith = arith;                                              \
		return dispatch(vp, op + 1);                                    \
	}

/* With a LOCK prefix: computed aside and put in place by a locked compare-and-exchange on the host,
 * again until nobody came between. */
#define DEFINE_LOCKED_AT(name, bits, address, compute, finish)                          \
	static const struct op *name(struct soft_vp *vp, const struct op *op)           \
	{                                                                               \
		uint64_t linear = address;                                              \
		ram##bits *host = update_pointer(vp, op, linear, bits / 8);             \
		uint16_t arith;                                                         \
		uint##bits##_t v, old;                                                  \
                                                                                        \
		if (likely(host != NULL)) {                                             \
			do {                                                            \
				old = v = *host;                                        \
				arith = vp->arith;                                      \
				arith = compute;                                        \
			} while (!host_exchange_if##bits(host, old, v));                \
			store_done(vp, op, (const void *)(uintptr_t)host, bits / 8);    \
		} else {                                                                \
			probe_write(vp, op, linear, bits / 8);                          \
			rmw_slow_lock(vp);                                              \
			v = load##bits(vp, op, linear);                                 \
			arith = vp->arith;                                              \
			arith = compute;                                                \
			store##bits(vp, op, linear, v);                                 \
			rmw_slow_unlock(vp);                                            \
		}                                                                       \
		vp->arith = arith;                                                      \
		finish;                                                                 \
		return dispatch(vp, op + 1);                                            \
	}

#define DEFINE_LOCKED(name, bits, compute) DEFINE_LOCKED_AT(name, bits, ea(vp, op, bits / 8, true), compute, )

/* LOCK CMPXCHG on the host, which C's own builtins do not promise for unaligned operands. */
#define DEFINE_EXCHANGE_IF(bits)                                                                         \
	static inline bool host_exchange_if##bits(ram##bits *host, uint##bits##_t old, uint##bits##_t v) \
	{                                                                                                \
		bool done;                                                                               \
                                                                                                         \
		__asm__ volatile("lock cmpxchg %3, %1"                                                   \
				 : "=@ccz"(done), "+m"(*host), "+a"(old) : "r"(v) : "memory");           \
		return done;                                                                             \
	}

DEFINE_EXCHANGE_IF(8)
DEFINE_EXCHANGE_IF(16)
DEFINE_EXCHANGE_IF(32)
DEFINE_EXCHANGE_IF(64)
