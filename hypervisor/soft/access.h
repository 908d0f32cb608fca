/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * access.h - guest memory as instructions see it: effective address, then load or store at a linear
 * address through the TLB. Private to hypervisor/soft/.
 *
 * Loads and stores of 1, 2, 4 and 8 bytes that do not cross a page are single host accesses, so what
 * is atomic on the processor is atomic here, and the host's memory order (the same x86-TSO) holds.
 * All may leave by a fault. The slow paths are in mmu.c.
 */
#pragma once

#include "hypervisor/soft/op.h"

/* In page_flags. */
#define CODE_PAGE 1u
#define CODE_OPEN 2u /* whoever stores to the page has seen CODE_PAGE, so it may be read for decoding (code.c) */

/* Guest memory of any alignment, read and written by exactly one host access. */
typedef volatile uint8_t ram8;
typedef volatile uint16_t ram16 __attribute__((aligned(1)));
typedef volatile uint32_t ram32 __attribute__((aligned(1)));
typedef volatile uint64_t ram64 __attribute__((aligned(1)));

static inline struct tlb_entry *tlb_entry(const struct soft_vp *vp, uint64_t linear)
{
	return &vp->tlb[(linear >> GUEST_PAGE_SHIFT) & (TLB_ENTRIES - 1)];
}

/* Segment limit, type and address width for modes and segments that need it (mmu.c). `write`: for
 * the type check. Returns the linear address. */
uint64_t ea_checked(struct soft_vp *vp, const struct op *op, unsigned size, bool write);

/* The linear address of the memory operand; `size` bytes will be accessed. */
static inline uint64_t ea(struct soft_vp *vp, const struct op *op, unsigned size, bool write)
{
	if (unlikely(op->flags & OP_EA_CHECKED))
		return ea_checked(vp, op, size, write);
	return vp->seg_base[op->seg] + reg64(vp, op->base) + (reg64(vp, op->index) << op->scale) + (uint64_t)op->disp;
}

/* The address alone, `more` bytes on, truncated to the address size. */
static inline uint64_t ea_offset_at(const struct soft_vp *vp, const struct op *op, uint64_t more)
{
	uint64_t a = reg64(vp, op->base) + (reg64(vp, op->index) << op->scale) + (uint64_t)op->disp + more;

	if (unlikely(op->flags & (OP_ADDRESS_32 | OP_ADDRESS_16)))
		a &= op->flags & OP_ADDRESS_32 ? 0xffffffffu : 0xffffu;
	else if (unlikely(op_is_far(op)))
		a += op->base == GPR_CODE_BASE * 8 ? op->offset + (uint64_t)op->length : op->imm;
	return a;
}

static inline uint64_t ea_offset(const struct soft_vp *vp, const struct op *op)
{
	return ea_offset_at(vp, op, 0);
}

/* Where the operand's byte `n` is; it begins at `linear`. For instructions that access their operand in parts: each part has
 * an address of its own, cut to the address size. (A single access goes on beyond it.) */
static inline uint64_t ea_part(const struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned n)
{
	if (likely(!(op->flags & (OP_ADDRESS_32 | OP_ADDRESS_16))))
		return linear + n;
	return linear + (ea_offset_at(vp, op, n) - ea_offset(vp, op));
}

/* Linear address of `offset` in segment `seg` (SEG_ES … SEG_GS) with limit and type checks where the
 * mode has them: strings, stacks. */
uint64_t segment_linear(struct soft_vp *vp, const struct op *op, unsigned seg, uint64_t offset, unsigned size,
    bool write);

/* Slow paths: fill the TLB, split across pages, MMIO, faults. Bytes are little-endian in the result. Outside 64-bit code
 * linear addresses have 32 bits, whatever comes here; none with more gets into the TLB. */
uint64_t load_slow(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size);
void store_slow(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, uint64_t value);

/* After a store to a RAM page whose flags are not 0: forget what was decoded from it. `host` is the
 * address written. When the running block is hit, its following ops lead back to the run loop. */
void code_written(struct soft_vp *vp, const struct op *op, const void *host, unsigned size);

/* Any number of bytes, any alignment, any crossing; checked whole before the first byte is written
 * (store_bytes faults before it changes anything). At most 4096 bytes. */
void load_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, void *buffer, unsigned size);
void store_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, const void *buffer, unsigned size);

/* The same of `size` bytes from the operand's byte `n` on, of an operand that is accessed in parts. Storing is not checked
 * beforehand: probe_parts() does that. */
void load_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned n, void *buffer, unsigned size);
void store_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned n, const void *buffer, unsigned size);
void probe_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size);

/* Faults as a write of `size` bytes would, and changes nothing: for read-modify-write and pushes of
 * several words. After it a store to the same bytes by this instruction cannot fault. */
void probe_write(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size);

/* The host address of a naturally writable operand that lies in one page of RAM, for locked
 * operations and read-modify-write; NULL when it crosses a page or is MMIO (the caller then uses
 * load/store under rmw_slow_lock). Write permission has been checked. */
void *rmw_pointer(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size);

/* Held around a locked operation that rmw_pointer() could not serve; excludes other VPs' such ones. */
void rmw_slow_lock(struct soft_vp *vp);
void rmw_slow_unlock(struct soft_vp *vp);

/* Supervisor access whatever the CPL: descriptor tables, TSS, IDT (mmu.c). */
uint64_t load_system(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size);
void store_system(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, uint64_t value);

static inline void store_done(struct soft_vp *vp, const struct op *op, const void *host, unsigned size)
{
	uint64_t page = (uint64_t)((const uint8_t *)host - vp->ram) >> GUEST_PAGE_SHIFT;

	if (unlikely(atomic_load_explicit(&vp->page_flags[page], memory_order_relaxed)))
		code_written(vp, op, host, size);
}

#define DEFINE_ACCESS(bits)                                                                                        \
	static inline uint##bits##_t load##bits(struct soft_vp *vp, const struct op *op, uint64_t linear)          \
	{                                                                                                          \
		const struct tlb_entry *e = tlb_entry(vp, linear);                                                 \
                                                                                                                   \
		/* The last byte's page must be the first's, so a crossing misses too. */                          \
		if (likely(e->read == (((linear + bits / 8 - 1) & PAGE_MASK) | vp->asid)))                         \
			return *(const ram##bits *)(uintptr_t)(linear + e->addend);                                \
		return (uint##bits##_t)load_slow(vp, op, linear, bits / 8);                                        \
	}                                                                                                          \
                                                                                                                   \
	static inline void store##bits(struct soft_vp *vp, const struct op *op, uint64_t linear, uint##bits##_t v) \
	{                                                                                                          \
		const struct tlb_entry *e = tlb_entry(vp, linear);                                                 \
                                                                                                                   \
		if (likely(e->write == (((linear + bits / 8 - 1) & PAGE_MASK) | vp->asid))) {                      \
			ram##bits *host = (ram##bits *)(uintptr_t)(linear + e->addend);                            \
                                                                                                                   \
			*host = v;                                                                                 \
			store_done(vp, op, (const void *)(uintptr_t)host, bits / 8);                               \
			return;                                                                                    \
		}                                                                                                  \
		store_slow(vp, op, linear, bits / 8, v);                                                           \
	}

/* A macro, because four copies of the hottest lines of the product would drift apart. */
DEFINE_ACCESS(8)
DEFINE_ACCESS(16)
DEFINE_ACCESS(32)
DEFINE_ACCESS(64)
