/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * op.h - one decoded instruction, and how it is executed. Private to hypervisor/soft/.
 *
 * decode.c turns instruction bytes into an array of ops that ends with a branch or leaves the page
 * (a block, block.c). Each op names its handler. A handler does one whole instruction and returns
 * the op to go on with, NULL to go back to the run loop with vp->rip set. So decoding (decode.c and
 * the *_select functions), address translation (mmu.c, access.h) and execution (exec_*.c, vector_*.c)
 * stay apart.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "hypervisor/soft/state.h"

typedef const struct op *(*op_fn)(struct soft_vp *vp, const struct op *op);

#define OP_EA_CHECKED (1u << 0) /* the memory operand needs ea_checked(): segment limits or a short address */
#define OP_LOCK       (1u << 1)
#define OP_REP        (1u << 2)
#define OP_REPNE      (1u << 3)
#define OP_MEMORY     (1u << 4) /* the ModRM operand is memory */
#define OP_ADDRESS_32 (1u << 5) /* effective addresses are 32 bits wide */
#define OP_ADDRESS_16 (1u << 6) /* … 16 bits */
#define OP_SIDE       (1u << 7) /* it has `side` */

/* What x87, SSE and AVX instructions need beside their op: op_take_side(). */
struct op_side {
	const void *native; /* a function of the vector pool, which is there for ever */
	uint64_t extra[2];
};

/*
 * Registers are byte offsets into vp->gpr: 8 times the GPR_ index, plus 1 for AH, CH, DH, BH. So are
 * base and index of the memory operand, GPR_ZERO * 8 where there is none; a RIP-relative operand has
 * GPR_CODE_BASE as base, its disp counted from byte 0 of the page. Displacements that are too long for that: op_is_far().
 */
struct op {
	op_fn fn;
	union {
		uint64_t imm;               /* immediate, extended to 64 bits as the instruction says; of strings the mask of the address size */
		const void *data;           /* what a select function keeps for its handler, living as long as the block cache or for ever */
		const struct op_side *side; /* OP_SIDE: of the block that the op belongs to */
	};
	int32_t disp;
	uint16_t offset; /* of the instruction in its page */
	uint8_t length;  /* in bytes */
	uint8_t flags;   /* OP_* */
	uint8_t seg;     /* SEG_* of the memory operand; SEG_NONE in 64-bit mode but for FS and GS */
	uint8_t base, index, scale; /* scale: the shift, 0 to 3 */
	uint8_t dst, src, src2; /* by handler: register offsets, or vector register numbers */
	uint8_t size;    /* operand size in bytes */
};

_Static_assert(sizeof(struct op) == 32, "most of a block is ops, and how many blocks there is room for decides how often all are decoded again");

/* A displacement of more than 32 bits. With RIP as base, `disp` counts from the end of the instruction; with another, or none,
 * the displacement is in `imm`. ea_offset() knows. */
static inline bool op_is_far(const struct op *op)
{
	return (op->flags & (OP_EA_CHECKED | OP_ADDRESS_32 | OP_ADDRESS_16)) == OP_EA_CHECKED;
}

/* Optimised builds go from handler to handler by tail call; others return to the run loop each time,
 * so that the stack stays flat where the compiler makes no tail calls. */
static inline const struct op *dispatch(struct soft_vp *vp, const struct op *op)
{
#ifdef SOFT_TAIL_DISPATCH
	return op->fn(vp, op);
#else
	(void)vp;
	return op;
#endif
}

/* RIP of the instruction, and of the one after it. */
static inline uint64_t op_rip(const struct soft_vp *vp, const struct op *op)
{
	return (vp->gpr[GPR_CODE_BASE] + op->offset) & vp->ip_mask;
}

static inline uint64_t op_next_rip(const struct soft_vp *vp, const struct op *op)
{
	return (vp->gpr[GPR_CODE_BASE] + op->offset + op->length) & vp->ip_mask;
}

/* --- registers by offset ------------------------------------------------------------------------ */

static inline uint64_t reg64(const struct soft_vp *vp, unsigned r)
{
	return *(const uint64_t *)((const uint8_t *)vp->gpr + r);
}

static inline uint32_t reg32(const struct soft_vp *vp, unsigned r)
{
	return *(const uint32_t *)((const uint8_t *)vp->gpr + r);
}

static inline uint16_t reg16(const struct soft_vp *vp, unsigned r)
{
	return *(const uint16_t *)((const uint8_t *)vp->gpr + r);
}

static inline uint8_t reg8(const struct soft_vp *vp, unsigned r)
{
	return *((const uint8_t *)vp->gpr + r);
}

static inline void reg64_set(struct soft_vp *vp, unsigned r, uint64_t v)
{
	*(uint64_t *)((uint8_t *)vp->gpr + r) = v;
}

/* A 32-bit result clears the upper half. */
static inline void reg32_set(struct soft_vp *vp, unsigned r, uint32_t v)
{
	*(uint64_t *)((uint8_t *)vp->gpr + r) = v;
}

static inline void reg16_set(struct soft_vp *vp, unsigned r, uint16_t v)
{
	*(uint16_t *)((uint8_t *)vp->gpr + r) = v;
}

static inline void reg8_set(struct soft_vp *vp, unsigned r, uint8_t v)
{
	*((uint8_t *)vp->gpr + r) = v;
}

/* --- selecting handlers (at decode time) -------------------------------------------------------- */

/* What the decoder knows of an instruction beside the op it fills. */
struct decoding {
	struct soft_vp *vp;
	enum code_mode mode;
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands; /* insn->operand_count of them (visible and hidden) */
	const uint8_t *bytes;                /* the instruction, insn->length bytes */
	struct op_side *side;                /* out: of an op with OP_SIDE */
	bool ends_block;                     /* out: the instruction changes RIP, or modes that decoding depends on */
};

/* decode.c: the displacement of the memory operand; flags, offset, length and base are known. */
void decode_displacement(struct op *op, int64_t disp);

/* The op gets a side, for the select function to fill. It takes the place of an immediate. */
static inline struct op_side *op_take_side(const struct decoding *d, struct op *op)
{
	op->flags |= OP_SIDE;
	op->side = d->side;
	return d->side;
}

/*
 * Before the select functions run, decode.c has filled offset, length, flags, the memory operand
 * (seg, base, index, scale, disp) and size (insn->operand_width / 8). A select function that knows the
 * mnemonic sets fn and what its handler needs, and returns true. First match wins; when none knows
 * it, the op raises #UD. An instruction whose CPUID bit we do not show must not be selected.
 */
bool integer_select(struct decoding *d, struct op *op); /* exec_select.c: integers, strings, near branches */
bool vector_select(struct decoding *d, struct op *op);  /* vector_select.c: x87, MMX, SSE, AVX, XSAVE, BMI by thunk */
bool system_select(struct decoding *d, struct op *op);  /* system_select.c: segments, far branches, privileged, CPUID … */

/* Joins two neighbours of a block: `first` gets a handler that does both, where there is one. `second` stays
 * as it is and can be entered by itself. Not for single steps. */
void integer_fuse(struct op *first, const struct op *second);

/* Offset into vp->gpr of a general register of any width. */
uint8_t register_offset(ZydisRegister reg);

/* --- branches: branch_near() and branch_dispatch(), block.h --- */
