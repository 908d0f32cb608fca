/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block.h - the cache of decoded instructions, and how a branch gets from one block to the next.
 * Private to hypervisor/soft/.
 *
 * A block is a run of instructions in one page of guest RAM, entered at its first instruction only.
 * It is found by where its bytes lie in RAM and by mode, so it serves every address space. Each VP
 * has a cache of its own, bounded, emptied as a whole when full (only from the run loop, when no
 * block runs). A block is stale when its page's generation (code.h) moved on; that is looked at each
 * time it is entered.
 */
#pragma once

#include "hypervisor/soft/access.h"

#define BLOCK_MAX_OPS 64u

struct block {
	struct block *next;                  /* in its hash bucket */
	uint64_t key;                        /* RAM offset of its first byte, and form: block_key() */
	const _Atomic uint32_t *generation;  /* of its page … */
	const _Atomic uint32_t *generation2; /* … and of the page that its only instruction reaches into, or NULL */
	uint32_t seen, seen2;                /* the values when it was decoded */
	uint8_t *host_page;
	uint8_t *host_page2;
	uint16_t count;                      /* instructions */
	uint16_t capacity;                   /* ops there is room for */
	uint16_t byte_capacity;
	uint8_t form;                        /* enum code_form */
	/* Translation (translate.h). */
	uint32_t heat;                       /* entries so far */
	op_fn first;                         /* what ops[0].fn is in the interpreter */
	uint8_t *bytes;                      /* of the instructions, as they were decoded */
	const uint8_t *native;               /* its code, with a look at `attention` first; NULL: none */
	const uint8_t *native_body;          /* … and without */
	const uint8_t *twin;                 /* the same with no use of the stack window (translate_stack.c) */
	uint32_t twin_heat;
	bool flags_free;                     /* it sets all flags before anything could see those it began with */
	struct op ops[];                     /* count of them, then one that goes on behind the block */
};

/* By linear address of the branch target. An entry holds until the cache is emptied; what it says is
 * checked against the TLB. */
#define JUMP_ENTRIES 16384u /* jump_mask + 1 of a VP are fewer where VPs are many */

struct jump_entry {
	uint64_t tag; /* linear address ^ form << 56, which no two forms have in common */
	struct block *block;
};

static inline bool block_ready(const struct soft_vp *vp, const struct block *b)
{
	return likely(!(atomic_load_explicit(&vp->attention, memory_order_relaxed) |
	                (atomic_load_explicit(b->generation, memory_order_relaxed) ^ b->seen)));
}

static inline const struct op *block_enter(struct soft_vp *vp, struct block *b)
{
	vp->block = b;
	vp->instructions += b->count;
	return b->ops;
}

/* branch_near() where the link does not serve. */
const struct op *branch_find(struct soft_vp *vp, const struct op *op, int slot, uint64_t rip);

/* Go to `rip` from a near branch (already masked to the operand size): checks the CS limit or
 * canonical form, then finds the next block; NULL when the run loop has to look, with vp->rip set. `slot`
 * is 0 or 1 for a target that is always the same (it is remembered in op->link), -1 for one that
 * is computed. State must be complete but for RIP: nothing may fault after. A target that is not
 * canonical or beyond the limit faults there, at the target (call branch_check() first where the
 * fault must come from the branch itself: all near branches). */
static inline __attribute__((always_inline)) const struct op *branch_near(struct soft_vp *vp, const struct op *op, int slot, uint64_t rip)
{
	/* Within the page it is the same target whatever address the page has now. */
	if (slot >= 0 && likely(op->link[slot] && rip - vp->gpr[GPR_CODE_BASE] < GUEST_PAGE_SIZE) &&
	    block_ready(vp, op->link[slot]))
		return block_enter(vp, op->link[slot]);
	return branch_find(vp, op, slot, rip);
}

/* The end of a branch handler: return branch_dispatch(vp, op, slot, rip); */
static inline __attribute__((always_inline)) const struct op *branch_dispatch(struct soft_vp *vp, const struct op *op, int slot, uint64_t rip)
{
	const struct op *next = branch_near(vp, op, slot, rip);

	return likely(next) ? dispatch(vp, next) : NULL;
}

/* #GP(0) on `op` when `rip` cannot be branched to; to be called before the state changes (before a
 * CALL pushes, before a RET pops). Cheap. */
static inline void branch_check(struct soft_vp *vp, const struct op *op, uint64_t rip)
{
	if (unlikely(vp->mode == MODE_64 ? (uint64_t)((int64_t)(rip << 16) >> 16) != rip
	                                 : rip > vp->seg[SEG_CS].limit))
		raise_fault_code(vp, op, VECTOR_GP, 0);
}
