/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * translate_private.h - what the translate_*.c files share.
 *
 *	translate.c          a block, instruction by instruction
 *	translate_flags.c    where the arithmetic flags are
 *	translate_memory.c   addresses and the look into the TLB
 *	translate_copy.c     instructions that run as they are, with other registers
 *	translate_group.c    operands by one register, with one look
 *	translate_stack.c    the stack window, PUSH, POP and LEAVE
 *	translate_system.c   what kernels do all the time
 *	translate_branch.c   the end of a block
 *	translate_run.c      what runs around the code: entry, exits, calls of handlers
 *
 * In translated code guest registers lie in host registers of the same name, but: RSP is in R15; R10, R11 and R15
 * are in struct soft_vp; host R10 and R11 are scratch; GS has struct soft_vp as base. Host RSP is the host's stack, with
 * the return addresses of translated calls on it. Vector registers are the guest's while vp->vectors_live says so.
 */
#pragma once

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/emit.h"
#include "hypervisor/soft/native_memory.h"
#include "hypervisor/soft/translate.h"
#include "hypervisor/soft/vector_private.h"

#define HOST_RAX 0u
#define HOST_RCX 1u
#define HOST_RDX 2u
#define HOST_RBX 3u
#define HOST_RSP 4u
#define HOST_RBP 5u
#define HOST_RSI 6u
#define HOST_RDI 7u
#define HOST_SP  15u /* the guest's RSP */
#define SCRATCH1 10u
#define SCRATCH2 11u

#define VP_OFFSET(field) offsetof(struct soft_vp, field)

/* The host register of a guest register; NO_REGISTER: it is in memory. */
static inline unsigned home(unsigned guest)
{
	static const uint8_t homes[GPR_COUNT] = {0, 1, 2, 3, HOST_SP, 5, 6, 7, 8, 9, NO_REGISTER, NO_REGISTER, 12, 13, 14,
	    NO_REGISTER, NO_REGISTER, NO_REGISTER};

	return homes[guest];
}

static inline size_t gpr_offset(unsigned guest)
{
	return VP_OFFSET(gpr) + guest * sizeof(uint64_t);
}

/* --- ways out of translated code ---------------------------------------------------------------- */

enum native_exit_kind {
	EXIT_OP,     /* the interpreter goes on with `op` */
	EXIT_EDGE,   /* a direct branch whose target is not known yet, or not in this page */
	EXIT_RIP,    /* the run loop looks around, then goes on at `target` */
	EXIT_HANDLED, /* a handler said what is next: vp->handled */
	EXIT_NOWHERE  /* the run loop looks around, then goes on at vp->rip */
};

struct native_exit {
	struct block *block;
	uint8_t kind;        /* enum native_exit_kind */
	uint8_t op;          /* of the block's ops */
	int8_t slot;         /* of an edge: as in branch_near() */
	uint16_t target;     /* counted from byte 0 of the page */
	/* What follow() may change: the distance of the jump that leads to this edge's exit, and room for a jump before
	 * the flags are saved. Counted from the beginning of the code, which is no place for them. */
	uint32_t patch, shortcut;
};

/* Where computed branches have led, found by RIP without its lowest two bits (functions begin at multiples of 16) and
 * vp->code_mix (two address spaces with the same code do not drive out each other): good for one address space and one
 * set of rights, until a page loses its translation. vp->code_epoch, a part of the key, forgets them all; no key is 0. */
#define NATIVE_TARGETS 8192u /* target_count of a VP are fewer where VPs are many */

struct native_target {
	uint64_t rip;
	uint64_t key; /* vp->code_key */
	uint64_t code_base;
	const uint8_t *native;
};

struct translator {
	struct native_target *targets;
	uint32_t target_count;
	struct translate_options options;
	struct native_memory memory;
	size_t used, fixed; /* fixed: code that stays when the cache is emptied */
	bool full;
	uintptr_t (*enter)(struct soft_vp *vp, const uint8_t *code);
	const uint8_t *leave;  /* jumped to with the exit in SCRATCH1 */
	const uint8_t *call;   /* called with a C function in SCRATCH2 and its argument in SCRATCH1 */
	const uint8_t *handle; /* the same with translated_call_handler() */
	const uint8_t *lookup; /* called with RIP in SCRATCH1: code to go on at in SCRATCH2, or 0 */
	const uint8_t *window, *window32; /* emit_window_fill(), for 64- and 32-bit code */
	bool avx;              /* vector registers have 32 bytes on this host */
	struct native_exit handled, nowhere;
	uint64_t translations, refused;
	struct translator_instruction {
		struct decoded decoded;
		bool known, ends;
	} instructions[BLOCK_MAX_OPS]; /* of the block that is being translated */
};

/* The type of what `call` calls: 0 to go on, or the exit to leave by. */
typedef uintptr_t (*native_call)(struct soft_vp *vp, uintptr_t argument);

uintptr_t translated_call_handler(struct soft_vp *vp, uintptr_t op);
uintptr_t translated_enable_vectors(struct soft_vp *vp, uintptr_t exit);
uintptr_t translated_enable_avx(struct soft_vp *vp, uintptr_t exit);
uintptr_t translated_finish(struct soft_vp *vp, uintptr_t op); /* 0: go on at vp->rip */
uintptr_t translated_make_twin(struct soft_vp *vp, uintptr_t exit);
const struct op *translated_stop(struct soft_vp *vp, const struct op *op);
const struct op *translated_enter(struct soft_vp *vp, const struct op *op);

/* vp->vectors_live. */
#define VECTORS_SSE 1u /* SSE instructions run, and the host has registers and MXCSR of the guest */
#define VECTORS_AVX 2u /* so do those of AVX */

/* --- vp->code_pages: a bit is set for each page in which translated code has run since targets were forgotten, so that
 * what native_targets and the return addresses on the stack lead to is in it. Bits 12 to 24 of the address. */

#define CODE_PAGES_BITS (sizeof(((struct soft_vp *)0)->code_pages) * 8)

static inline unsigned code_page_bit(uint64_t linear)
{
	return linear >> GUEST_PAGE_SHIFT & (CODE_PAGES_BITS - 1);
}

static inline void code_page_note(struct soft_vp *vp)
{
	unsigned bit = code_page_bit(vp->gpr[GPR_CODE_BASE]);

	vp->code_pages[bit / 64] |= 1ull << (bit % 64);
}

/* --- one translation in the making -------------------------------------------------------------- */

/* How the flags can be made again from registers that have not changed since. */
struct flags_recipe {
	uint8_t bytes[24];
	uint8_t length;
	uint32_t depends; /* guest registers, a bit each */
};

struct flags_state {
	bool in_host;                /* RFLAGS are the guest's */
	bool in_vp;                  /* vp->arith is */
	struct flags_recipe recipe;  /* length 0: none */
};

/* Code that is seldom needed, emitted behind the block: the handler instead of the instruction. */
struct cold {
	uint8_t *from[4];    /* jumps that lead here */
	uint8_t *back;       /* where to go on */
	const struct op *op; /* a copy, followed by one whose handler is translated_stop() */
	native_call call;    /* translated_call_handler, or another */
	uintptr_t argument;
	struct flags_state flags;
	bool load_flags;     /* RFLAGS are the guest's where it goes on */
	int32_t undo_rsp;    /* leave by the exit `argument`, RSP changed by so much */
	bool leaves;
	bool looks_up;       /* a computed target, first */
	bool forgets_returns; /* nothing else */
};

/* Which words of the stack a block reaches through the window (translate_stack.c). */
struct stack_window {
	bool used;         /* there are such words */
	bool lost;         /* where RSP is, counted from the beginning of the block, cannot be told any more */
	bool loaded;       /* SCRATCH2 holds vp->stack_addend */
	bool touched;      /* … after the instruction at hand */
	int32_t rsp;       /* how far it has moved */
	int32_t low, high; /* the words, from RSP at the beginning */
	uint8_t *miss;
	const uint8_t *back;
};

/* Operands by one register that take one look into the TLB together (translate_group.c). */
#define GROUPS_MAX 2u

struct operand_group {
	uint8_t base;      /* guest register */
	uint8_t first;     /* instruction: it looks */
	uint8_t count;     /* of operands; 0: there is no such group */
	bool write;
	int32_t low, high; /* the bytes, from what the register is there */
	uint64_t members;  /* instructions, a bit each */
	bool looked, good; /* its look has been made; and what it found is still true */
	uint8_t *from[2];  /* where it fails; and what held there: */
	struct flags_state flags;
	struct stack_window window;
	uint8_t vectors_enabled;
};

/* For each register, on the way through the block. */
struct group_survey {
	struct operand_group group;
	int32_t moved; /* since its first */
};

#define FORMS_MAX (1 + GROUPS_MAX) /* of an instruction: in the block and in tails */
#define COLDS_MAX (BLOCK_MAX_OPS * 3u * FORMS_MAX)
#define EXITS_MAX (BLOCK_MAX_OPS + 8u)

struct translation {
	struct soft_vp *vp;
	struct translator *t;
	struct block *b;
	struct emitter e;
	bool narrow;  /* 32-bit code */
	uint8_t word; /* bytes of RIP, of an address, of a word on the stack: 8 or 4 */
	const uint8_t *entry, *body; /* where it will run: with a look around first, and without */
	bool flags_seen, flags_free; /* of those that the block begins with: something may look; nothing can any more */
	struct flags_state flags;
	uint8_t vectors_enabled; /* VECTORS_* that have been looked at */
	struct stack_window window;
	bool twin; /* without it */
	struct operand_group groups[GROUPS_MAX];
	bool tail; /* without them */
	const struct op *run; /* copies of instructions that are to run in one call, still without it */
	uint8_t *room; /* in the block cache, for copies of ops and for exits */
	size_t room_used;
	struct cold *colds; /* COLDS_MAX; nothing in those that have not been taken */
	unsigned cold_count;
	uint64_t flags_dead; /* by instruction: the flags it leaves are all set again before anything can see them */
	/* The instruction at hand. */
	unsigned index, offset;
	const uint8_t *bytes;
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands;
	struct op op;
	bool known; /* it is what was decoded for the block */
	bool ends;
};

/* translate.c */
void emit_attention_check(struct translation *t, struct cold *c);
const struct op *translation_copy(struct translation *t, const struct op *op);
void translation_begin_native(struct translation *t); /* before code for the instruction at hand */
struct cold *translation_cold(struct translation *t);
struct native_exit *translation_exit(struct translation *t, enum native_exit_kind kind);
void translation_call(struct translation *t, native_call call, uintptr_t argument);
void translation_leave(struct translation *t, struct native_exit *exit);

/* Of instructions on a word. */
static inline struct host_opcode word_opcode(const struct translation *t, unsigned opcode)
{
	return (struct host_opcode){.opcode = (uint8_t)opcode, .wide = !t->narrow};
}

/* An address, cut to its width. */
static inline void emit_word_lea(struct translation *t, unsigned reg, struct host_memory m)
{
	emit_rm(&t->e, word_opcode(t, 0x8d), reg, m);
}

/* translate_flags.c */
void flags_to_host(struct translation *t);
void flags_to_vp(struct translation *t);
void flags_before_clobber(struct translation *t); /* RFLAGS are about to be lost */
void flags_before_write(struct translation *t, uint32_t registers); /* registers are about to change */
void flags_written(struct translation *t);
bool flags_are_dead(const struct translation *t);
void flags_note(struct translation *t, bool plain); /* plain: the instruction can do nothing but compute */
uint32_t flags_read_mask(const struct translation *t);
uint32_t flags_write_mask(const struct translation *t);
bool flags_killed(const struct translation *t); /* all are set, whatever they were */
void flags_emit_load(struct emitter *e);
void flags_emit_save(struct emitter *e);

/* translate_memory.c: the address of a memory operand on the host, after a look into the TLB. */
struct address_want {
	unsigned size;
	bool write;
	uint8_t align;      /* bits that must be 0 */
};
struct host_memory probe_operand(struct translation *t, struct cold *c, const struct op *op, struct address_want w);
void check_alignment(struct translation *t, struct cold *c, struct host_memory m, uint8_t bits);
void emit_address(struct translation *t, unsigned to, const struct op *op, int32_t more);
bool address_is_plain(const struct translation *t, const struct op *op);
bool address_serves(const struct translation *t, const struct op *op); /* a look into the TLB can find it */
bool segment_is_flat(const struct translation *t, unsigned seg);
struct host_memory address_memory(const struct op *op, int32_t more); /* of a plain one: the linear address */

/* SCRATCH2: the entry of the page that the address in it lies in, in the TLB that a field of vp points at. */
void emit_tlb_entry(struct emitter *e, size_t tlb);

/* SCRATCH2: the host's distance from all bytes of the group. Where it fails: g->from. */
void probe_range(struct translation *t, unsigned base, struct operand_group *g);

/* translate_group.c */
void group_survey(struct translation *t, struct group_survey *s); /* s: one for each register */
void group_survey_end(struct translation *t, struct group_survey *s);
bool group_has(struct translation *t); /* the operand of the instruction at hand */
bool group_looks(struct translation *t);
struct host_memory group_operand(struct translation *t);
void groups_drop(struct translation *t);
void group_begin_tail(struct translation *t, struct operand_group *g);

/* translate_stack.c */
void stack_survey(struct translation *t);
void stack_follow(struct translation *t);
void emit_window_check(struct translation *t);
void emit_window_miss(struct translation *t);
void emit_window_fill(struct translator *t, struct emitter *e, bool narrow);
bool window_has(const struct translation *t, const struct op *op, unsigned size); /* bytes at a distance from RSP */
struct host_memory window_operand(struct translation *t, const struct op *op);
void move_rsp(struct translation *t, int32_t by);
bool translate_stack(struct translation *t);

/* translate_system.c */
bool translate_system(struct translation *t);
bool translate_end(struct translation *t);

/* translate_copy.c: false when it is not known. */
bool translate_copy(struct translation *t);
bool copy_is_plain(const struct translation *t);
bool copy_serves(const struct translation *t); /* it is one of these, whatever its operands' sizes */

/* translate_branch.c */
bool translate_branch(struct translation *t);
void translate_fall_through(struct translation *t);
/* Go on at SCRATCH1, or by the exit after RSP has moved back by `undo`. Flags are in vp. */
void go_to_computed(struct translation *t, int32_t undo, struct native_exit *exit);
