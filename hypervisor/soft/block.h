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

/* Slots of `link`, and what a branch with a target that is computed has instead of one. */
#define TAKEN     0
#define NOT_TAKEN 1
#define BEHIND    NOT_TAKEN /* what follows a block that does not end with a branch, or a call */
#define COMPUTED  (-1)

/* Kept small: most blocks are entered a few times only, and there are as many as there is room for. Behind the ops lie the
 * sides of those that have one, then the second page if there is one, else the bytes of the instructions as they were decoded. */
struct block {
	struct block *next;                 /* in its hash bucket */
	uint64_t key;                       /* RAM offset of its first byte, and form: block_key() */
	const _Atomic uint32_t *generation; /* of its page … */
	uint8_t *host_page;
	op_fn first;                        /* what ops[0].fn is in the interpreter */
	struct block *link[2];              /* the blocks that follow, when known; slots as of branch_near() */
	uint32_t seen;                      /* … and its value when it was decoded */
	uint32_t heat;                      /* entries so far (translate.h) */
	const uint8_t *native;              /* its translation, with a look at `attention` first; NULL: none */
	const uint8_t *twin;                /* the same with no use of the stack window (translate_stack.c) */
	uint16_t capacity;                  /* units of BLOCK_UNIT that it takes */
	uint8_t count;                      /* instructions */
	uint8_t sides;
	uint8_t native_skip;                /* how far behind `native` the look at `attention` ends */
	uint8_t twin_heat;
	uint8_t form : 2;                   /* enum code_form */
	bool crosses : 1;                   /* its only instruction reaches into a second page: block_second() */
	bool flags_free : 1;                /* it sets all flags before anything could see those it began with */
	struct op ops[];                    /* count of them, then one that goes on behind the block */
};

#define BLOCK_UNIT 16u

struct block_second {
	const _Atomic uint32_t *generation;
	uint8_t *host_page;
	uint32_t seen;
};

static inline struct op_side *block_sides(struct block *b)
{
	return (struct op_side *)(void *)&b->ops[b->count + 1];
}

/* Of a block that crosses. */
static inline struct block_second *block_second(const struct block *b)
{
	return (struct block_second *)(void *)(block_sides((struct block *)b) + b->sides);
}

/* Of one that does not, if there is a translator. */
static inline uint8_t *block_bytes(const struct block *b)
{
	return (uint8_t *)(block_sides((struct block *)b) + b->sides);
}

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
const struct op *branch_find(struct soft_vp *vp, int slot, uint64_t rip);

/* Go to `rip` from a near branch (already masked to the operand size): checks the CS limit or
 * canonical form, then finds the next block; NULL when the run loop has to look, with vp->rip set. `slot`
 * is for a target that is always the same (the block remembers it), COMPUTED for others. State must be complete but for RIP: nothing may fault after. A target that is not
 * canonical or beyond the limit faults there, at the target (call branch_check() first where the
 * fault must come from the branch itself: all near branches). */
static inline __attribute__((always_inline)) const struct op *branch_near(struct soft_vp *vp, int slot, uint64_t rip)
{
	struct block *to = slot >= 0 ? vp->block->link[slot] : NULL;

	/* Within the page it is the same target whatever address the page has now. */
	if (slot >= 0 && likely(to && rip - vp->gpr[GPR_CODE_BASE] < GUEST_PAGE_SIZE) && block_ready(vp, to))
		return block_enter(vp, to);
	return branch_find(vp, slot, rip);
}

/* The end of a branch handler: return branch_dispatch(vp, slot, rip); */
static inline __attribute__((always_inline)) const struct op *branch_dispatch(struct soft_vp *vp, int slot, uint64_t rip)
{
	const struct op *next = branch_near(vp, slot, rip);

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
