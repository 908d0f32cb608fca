/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.h - what the software processor knows while it runs. Private to hypervisor/soft/.
 *
 * One thread owns a `struct soft_vp` while it runs; only the fields in `shared` are touched by others.
 *
 * Faults leave an instruction by longjmp (raise_*), from any depth. Therefore an instruction makes
 * all accesses that can fault before it changes a register, and holds no lock or allocation then.
 */
#pragma once

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/soft/soft.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAGE_MASK (~0xfffull)

enum {
	GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI,
	GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15,
	GPR_ZERO,      /* always 0: an absent base or index */
	GPR_CODE_BASE, /* RIP of byte 0 of the page the current block lies in: base of RIP-relative operands */
	GPR_COUNT
};

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_NONE /* base 0, no checks */, SEG_COUNT };

enum vector {
	VECTOR_DE = 0, VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_BR = 5, VECTOR_UD = 6,
	VECTOR_NM = 7, VECTOR_DF = 8, VECTOR_TS = 10, VECTOR_NP = 11, VECTOR_SS = 12, VECTOR_GP = 13,
	VECTOR_PF = 14, VECTOR_MF = 16, VECTOR_AC = 17, VECTOR_MC = 18, VECTOR_XM = 19
};

/* RFLAGS bits that are not arithmetic, kept in `flags_system`. */
#define FLAG_TF   (1u << 8)
#define FLAG_IF   (1u << 9)
#define FLAG_DF   (1u << 10)
#define FLAG_IOPL (3u << 12)
#define FLAG_NT   (1u << 14)
#define FLAG_RF   (1u << 16)
#define FLAG_VM   (1u << 17)
#define FLAG_AC   (1u << 18)
#define FLAG_VIF  (1u << 19)
#define FLAG_VIP  (1u << 20)
#define FLAG_ID   (1u << 21)

/* The arithmetic flags are kept as LAHF and SETO leave them in AX: AH (high byte) holds SF ZF 0 AF 0
 * PF 1 CF just as the low byte of RFLAGS, AL (low byte) is 1 when OF is set. */
#define ARITH_OF 0x0001u
#define ARITH_CF 0x0100u
#define ARITH_PF 0x0400u
#define ARITH_AF 0x1000u
#define ARITH_ZF 0x4000u
#define ARITH_SF 0x8000u

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)
#define CR4_PKE        (1u << 22)
#define CR4_PKS        (1u << 24)

#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

/* A segment register with its hidden part. Attributes as in struct vp_segment. */
struct segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint16_t attributes;
};

/*
 * The TLB: direct-mapped by linear page. A tag is (linear page | asid), so that a new asid empties
 * it at once; asids begin at 1, so TLB_NO_TAG never matches. There are several sets, chosen by the asid: address spaces
 * between which the guest switches, with the same pages at the same places, would else drive out each other. The host address of a byte is linear + addend. A tag is
 * present only when the access needs nothing more than the copy: RAM, permitted, A (and for writes
 * D) set. All else takes the slow path.
 */
#define TLB_ENTRIES 1024u
#define TLB_SETS    8u
#define TLB_NO_TAG  0ull

struct tlb_entry {
	uint64_t read, write, exec;
	uint64_t addend;
	_Atomic uint8_t *flags; /* of the page, in page_flags */
	uint64_t private;       /* 1: of level 0, and not the same in all address spaces */
	/* What `read` would be, and whether `write` would be the same, if the page's protection key let them (keys.c); 0 where
	 * no key counts. */
	uint64_t keyed;
	uint8_t key;            /* KEY_OF_USER with those of user pages */
	bool keyed_write;
	uint8_t unused[6];      /* an entry is a cache line */
};

#define KEY_OF_USER 16u

/* Which TLB an access uses, since permissions differ: `tlb` in struct soft_vp points at the current. */
enum {
	TLB_SUPERVISOR,
	TLB_SUPERVISOR_AC, /* SMAP lifted by AC */
	TLB_USER,
	TLB_CHECKED,       /* always empty: every access takes the slow path (alignment, breakpoints) */
	TLB_KINDS
};

/* Modes that change how bytes decode. */
enum code_mode { MODE_16, MODE_32, MODE_64 };

/* A part of every block's key: the mode, and for 32-bit code whether it is translated (translate.h), which takes segments
 * that do nothing: CS, SS, DS and ES with base 0 and all 4 GiB, data writable, a stack of 32 bits. */
enum code_form { FORM_16 = MODE_16, FORM_32 = MODE_32, FORM_64 = MODE_64, FORM_32_FLAT };

/* Why x87/MMX, SSE or AVX instructions would fault now; 0: they run. Kept by vp_mode_changed(). */
#define FP_BLOCK_X87_NM (1u << 0) /* CR0.EM or CR0.TS: x87 instructions get #NM */
#define FP_BLOCK_MMX_UD (1u << 1) /* CR0.EM: MMX gets #UD */
#define FP_BLOCK_SSE_UD (1u << 2) /* CR0.EM or not CR4.OSFXSR */
#define FP_BLOCK_SSE_NM (1u << 3) /* CR0.TS: MMX, SSE and AVX get #NM */
#define FP_BLOCK_AVX_UD (1u << 4) /* not CR4.OSXSAVE, or XCR0 lacks SSE or AVX */

/* Why an instruction was left (interrupt.c). */
struct fault {
	uint8_t vector;
	bool has_code;
	uint32_t code;
	uint64_t linear; /* of a page fault: CR2 */
};

struct op;
struct block;
struct flush_queue; /* tlb.c */
struct jump_entry;
struct block_cache; /* decoded instructions of this VP: block.c */

struct soft_vp {
	/* --- what every instruction touches --- */
	uint64_t gpr[GPR_COUNT];
	uint16_t arith;         /* ARITH_* */
	uint8_t cpl;
	uint8_t mode;           /* enum code_mode */
	uint8_t form;           /* enum code_form */
	uint32_t flags_system;  /* FLAG_* other than the arithmetic ones, and bit 1 */
	struct tlb_entry *tlb;  /* tlbs[…] for the current CPL and AC */
	struct tlb_entry *tlb_strict; /* the same as if SMAP were never lifted */
	uint64_t asid;          /* bits 0-11 of the tags in force */
	uint8_t *ram;           /* host address of byte 0 of guest RAM */
	/* One byte for each RAM page: CODE_PAGE when some VP has decoded it. Read after each store. */
	_Atomic uint8_t *page_flags;
	uint64_t seg_base[SEG_COUNT]; /* what is added: 0 in long mode but for FS and GS */
	uint64_t stack_mask;          /* 0xffff, 0xffffffff or ~0: width of RSP for pushes and pops */
	uint64_t ip_mask;             /* the same for RIP */
	_Atomic uint32_t attention;   /* not 0: leave the blocks and look around; set by any thread */
	uint32_t fp_block;            /* FP_BLOCK_* */
	uint64_t instructions;        /* counted by block, when it is entered */
	struct block *block;          /* that runs, or ran last */
	struct jump_entry *jumps;     /* block.h */
	unsigned jump_mask;
	unsigned table_shift;         /* its tables have 1/2^n of the entries that they have where processors are few: soft.c */

	/* translated code (translate.h) */
	uint64_t native_linear, native_saved[2]; /* its own, within an instruction */
	uint64_t group_addend[2];     /* … and within a block (translate_group.c) */
	uint64_t code_key;            /* form, address space and rights in force, for native_targets: code_key_changed() */
	uint64_t form_tag;            /* the form, as jumps[] have it */
	uint32_t code_epoch;          /* translate_forget_targets() */
	uint64_t private_code;        /* 1: native_targets lead to a page that is `private` */
	uint64_t code_pages[128];     /* a filter by linear page: code_page_note() */
	uint32_t code_mix;            /* of the address space, for where native_targets has it */
	struct native_target *native_targets;
	/* The stack window (translate_stack.c): a page that may be read and written with no look into the TLB, at linear
	 * + addend on the host. Without one it is `no_window`, a page that no guest has, and an addend that does no harm. */
	uint64_t stack_page, stack_addend;
	uint64_t no_window;
	uint8_t *scratch_page;
	uint64_t window_drops;        /* how often it has been taken away, or would have been */
	uint64_t native_stack;        /* the host's RSP with no return address noted on it … */
	uint64_t native_limit;        /* … with as many as may be … */
	uint64_t native_rsp;          /* … and what it was before a call of C code */
	uint8_t vectors_live;         /* VECTORS_*: what the host's registers and MXCSR are the guest's for */
	bool stopped;                 /* translated_stop() has run */
	struct op *run_begin, *run_end; /* copies of ops that translated code has called; run_begin NULL: none */
	const struct op *handled;     /* what a handler wants to go on with */
	struct translator *translator; /* NULL: blocks are interpreted only */

	uint64_t rip;           /* valid between blocks and after op_sync(), else op_rip() */
	const struct op *op;    /* the op that raised, for reports */
	sigjmp_buf leave;       /* raise_* jump here; set with savemask 0 */

	/* --- vector and floating point state (vector_*.c) --- */
	_Alignas(64) uint8_t ymm[16][32];
	_Alignas(64) uint8_t fx[512]; /* FXSAVE image: x87/MMX registers and control; its XMM area and MXCSR are unused */
	uint32_t mxcsr;
	uint64_t xcr0;
	uint64_t xstate_in_use; /* XINUSE (SDM volume 1, 13.6) */

	/* --- system state --- */
	struct segment seg[6]; /* by SEG_* */
	struct segment ldtr, tr;
	uint64_t gdt_base, idt_base;
	uint16_t gdt_limit, idt_limit;
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t dr[8];
	uint64_t msr_star, msr_lstar, msr_cstar, msr_sfmask, msr_kernel_gs_base;
	uint64_t msr_sysenter_cs, msr_sysenter_esp, msr_sysenter_eip;
	uint64_t msr_pat, msr_tsc_aux, msr_tsc_adjust, msr_misc_enable;
	bool interrupt_shadow; /* STI, MOV SS, POP SS: no interrupt before the next instruction */
	bool nmi_blocked;      /* until IRET */
	bool amd;              /* the guest takes this for a processor of AMD: system_calls.c */

	struct soft *soft;
	unsigned index;
	struct block_cache *blocks;
	struct tlb_entry (*tlbs)[TLB_ENTRIES]; /* of the set in force: TLB_KINDS of them */
	struct tlb_entry (*tlb_sets)[TLB_KINDS][TLB_ENTRIES]; /* TLB_SETS >> table_shift */
	uint32_t tlb_sets_used;                /* bits: those that may have entries */
	bool tlb_checked;                      /* TLB_CHECKED is in force */
	char error[256];

	struct vector_pool *vectors; /* vector.h: created with the `struct soft`, one for all its VPs */
	/* vector_*.c, within one instruction: here and not on the stack, because a handler whose local
	 * variables escape cannot jump to the next one. */
	_Alignas(64) uint8_t vector_scratch[128];
	uint32_t vector_mxcsr;

	/* --- run.c, interrupt.c --- */
	bool halted;            /* HLT: until an interrupt */
	bool shut_down;         /* triple fault: until INIT */
	bool interrupt_pending; /* take_interrupt() may have one; IF or a shadow was in the way */
	bool slow;              /* one instruction at a time: TF, breakpoints, a CS limit inside the code (mode.c) */
	bool nmi_waiting;       /* an NMI came while nmi_blocked; IRET brings it back */
	bool step_rf;           /* RF was loaded by the instruction that just ran */
	bool no_step;           /* the instruction that just ran gets no single-step trap */
	uint32_t breakpoints;   /* bits for DR6 that its data accesses hit */
	uint32_t breakpoints_held; /* that a load of SS hit: told behind the next instruction */
	struct fault fault;     /* what raise_* said */
	/* A loaded state's event whose delivery was cut off elsewhere: done again before the first instruction. */
	enum { AGAIN_NOTHING, AGAIN_EXCEPTION, AGAIN_INTERRUPT } again;
	struct fault again_event; /* `linear` unused */
	int delivering;         /* the exception that is going through the IDT; 256: an interrupt; -1: nothing */
	bool holds_rmw_lock;

	/* --- paging.c, tlb.c --- */
	uint8_t tlb_kind;          /* TLB_* by CPL and AC; what `tlb` would be but for TLB_CHECKED */
	uint64_t pdptr[4];         /* PAE: loaded with CR3 */
	uint16_t asid_last;        /* the last one given out; 1 to ASID_MAX */
	uint16_t pcid_asid[4096];  /* 0: none yet */
	uint64_t large_regions[8]; /* a filter: 2 MiB and 1 GiB regions with entries that stem from large pages */

	/* --- keys.c --- */
	uint32_t pkru, pkrs;
	bool user_keys, supervisor_keys; /* the guest is shown PKU, PKS */
	uint32_t keyed_sets;             /* bits: TLB sets in which, or in the stack window from which, something may have a key */
	uint64_t keyed_slots[TLB_SETS][TLB_CHECKED][TLB_ENTRIES / 64]; /* bits: entries that may */

	struct flush_queue *flushes; /* what other threads ask of this TLB */

	unsigned pauses; /* system_control.c: PAUSE instructions since the host CPU was yielded */

	/* --- msr.c --- */
	uint64_t msr_spec_ctrl, msr_arch_capabilities;
	uint64_t mtrr_fixed[11], mtrr_variable[16], mtrr_default;

	/* --- segment.c --- */
	uint8_t flat_read, flat_write; /* by SEG_*: legacy segments that need no check */
};

/* --- faults (interrupt.c). None returns; RIP becomes that of `op`, state is as before it. ------- */
_Noreturn void raise_fault(struct soft_vp *vp, const struct op *op, enum vector vector);
_Noreturn void raise_fault_code(struct soft_vp *vp, const struct op *op, enum vector vector, uint32_t code);
_Noreturn void raise_page_fault(struct soft_vp *vp, const struct op *op, uint64_t linear, uint32_t code);
/* #GP(0), or #SS(0) when `seg` is SS. */
_Noreturn void raise_segment_fault(struct soft_vp *vp, const struct op *op, unsigned seg);
/* The interpreter met what it cannot serve: the run ends with SOFT_STOP_ERROR and this text. */
_Noreturn void raise_error(struct soft_vp *vp, const struct op *op, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* --- mode (mode.c): call after any change to CR0, CR4, EFER, XCR0, CPL, RFLAGS.AC/VM/TF or a
 * segment; brings all derived fields (tlb, mode, masks, seg_base, fp_block) up to date. */
void vp_mode_changed(struct soft_vp *vp);
void vp_choose_tlb(struct soft_vp *vp); /* the part of it that follows from the asid */

/* Bits of `attention`. */
#define ATTENTION_KICK      (1u << 0)
#define ATTENTION_INTERRUPT (1u << 1)
#define ATTENTION_NMI       (1u << 2)
#define ATTENTION_FLUSH     (1u << 3)
#define ATTENTION_SLOW      (1u << 4) /* mirrors vp->slow */
#define ATTENTION_CODE      (1u << 5) /* some page's generation has moved on; only code in that page is stale */
#define ATTENTION_FORM      (1u << 6) /* vp->form is another: blocks of the old one must not lead to their neighbours */

/* Attributes of a segment, beyond the type (bits 0-3). */
#define SEGMENT_S (1u << 4) /* code or data */
#define SEGMENT_P (1u << 7)
#define SEGMENT_L (1u << 13)
#define SEGMENT_D (1u << 14)
#define SEGMENT_G (1u << 15)

/* After `asid`, `tlb_kind`, `form` or `code_epoch` changed. Kernels have their code in global pages, so at level 0 the address space
 * does not count (tlb_select() sees to it where it does). */
static inline void code_key_changed(struct soft_vp *vp)
{
	uint64_t space = vp->tlb_kind == TLB_USER ? vp->asid | 1u << 16 : 0;

	vp->code_key = space | (uint64_t)vp->form << 20 | (uint64_t)vp->code_epoch << 32;
	vp->code_mix = (uint32_t)(space & 7) << 12;
}

/* Of the sets of TLBs: the one that the asid chooses. */
static inline unsigned vp_tlb_set(const struct soft_vp *vp)
{
	return vp->asid & ((TLB_SETS >> vp->table_shift) - 1);
}

/* The stack window is no more what the page tables say. Translated code that called what does this is left. */
static inline void window_drop(struct soft_vp *vp)
{
	vp->window_drops++; /* what else was looked up is no longer good either (translate_group.c) */
	if (vp->stack_page == vp->no_window)
		return;
	vp->stack_page = vp->no_window;
	vp->stack_addend = (uint64_t)(uintptr_t)vp->scratch_page + GUEST_PAGE_SIZE - vp->no_window;
}

/* After `tlb_strict` changed: the window stays if the page may be written all the same. */
static inline void window_review(struct soft_vp *vp)
{
	if (vp->tlb_strict[(vp->stack_page >> 12) & (TLB_ENTRIES - 1)].write != (vp->stack_page | vp->asid))
		window_drop(vp);
}

static inline bool vp_protected(const struct soft_vp *vp)
{
	return vp->cr0 & CR0_PE && !(vp->flags_system & FLAG_VM);
}

static inline bool vp_v86(const struct soft_vp *vp)
{
	return vp->flags_system & FLAG_VM;
}

static inline bool vp_long(const struct soft_vp *vp)
{
	return vp->efer & EFER_LMA;
}

static inline unsigned vp_iopl(const struct soft_vp *vp)
{
	return (vp->flags_system & FLAG_IOPL) >> 12;
}

static inline unsigned segment_dpl(const struct segment *s)
{
	return s->attributes >> 5 & 3;
}

/* RFLAGS as a whole. write changes only the bits of `mask` and sees to what follows from them. */
uint64_t rflags_read(const struct soft_vp *vp);
void rflags_write(struct soft_vp *vp, uint64_t value, uint64_t mask);
