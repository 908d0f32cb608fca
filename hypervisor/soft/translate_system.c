// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_system.c - what a kernel does all the time: SWAPGS, CLI and STI, STAC and CLAC, PUSHF, fences; and
 * instructions that end a block in a handler, after which translated code goes on.
 *
 * What is not as usual (not at level 0, an interrupt that waits) goes the cold way.
 */
#include "hypervisor/soft/translate_private.h"

#include "hypervisor/soft/mmu.h"

static struct host_memory vp_field(size_t offset)
{
	return (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = (int32_t)offset};
}

/* The cold way for the instruction at hand; host flags are free from here on. */
static struct cold *begin(struct translation *t)
{
	struct cold *c;

	translation_begin_native(t);
	flags_before_clobber(t);
	c = translation_cold(t);
	c->flags = t->flags;
	c->op = translation_copy(t, &t->op);
	return c;
}

static void require_byte_zero(struct translation *t, uint8_t **jump, size_t offset)
{
	emit_rm(&t->e, (struct host_opcode){.opcode = 0x80}, 7, vp_field(offset)); /* cmp byte […], 0 */
	emit8(&t->e, 0);
	*jump = emit_jump_if_forward(&t->e, IF_NZ);
}

enum change { CHANGE_OR = 1, CHANGE_AND = 4 };

static void change_flags(struct translation *t, enum change how, uint32_t bits)
{
	emit_rm(&t->e, (struct host_opcode){.opcode = 0x81}, how, vp_field(VP_OFFSET(flags_system)));
	emit32(&t->e, bits);
}

static bool translate_swapgs(struct translation *t)
{
	struct cold *c = begin(t);
	struct emitter *e = &t->e;

	require_byte_zero(t, &c->from[0], VP_OFFSET(cpl));
	emit_load(e, SCRATCH1, VP_OFFSET(msr_kernel_gs_base));
	emit_load(e, SCRATCH2, VP_OFFSET(seg[SEG_GS].base));
	emit_store(e, SCRATCH1, VP_OFFSET(seg[SEG_GS].base));
	emit_store(e, SCRATCH1, VP_OFFSET(seg_base[SEG_GS]));
	emit_store(e, SCRATCH2, VP_OFFSET(msr_kernel_gs_base));
	c->back = e->at;
	return true;
}

static bool translate_cli(struct translation *t)
{
	struct cold *c = begin(t);

	require_byte_zero(t, &c->from[0], VP_OFFSET(cpl));
	change_flags(t, CHANGE_AND, ~FLAG_IF);
	c->back = t->e.at;
	return true;
}

/* Not the last of its block, so nothing comes between it and the next instruction; but behind a handler it would. */
static bool translate_sti(struct translation *t)
{
	struct native_exit *x = translation_exit(t, EXIT_OP);
	struct cold *c;

	translation_begin_native(t);
	flags_before_clobber(t);
	c = translation_cold(t);
	c->flags = t->flags;
	c->leaves = true;
	c->argument = (uintptr_t)x;
	require_byte_zero(t, &c->from[0], VP_OFFSET(cpl));
	require_byte_zero(t, &c->from[1], VP_OFFSET(interrupt_pending));
	change_flags(t, CHANGE_OR, FLAG_IF);
	return true;
}

/* Between the two TLBs of level 0, where the guest uses SMAP. The stack window serves both. */
_Static_assert(TLB_SUPERVISOR == 0, "it is the first of a set");

static bool translate_ac(struct translation *t, bool ac)
{
	struct cold *c = begin(t);
	struct emitter *e = &t->e;

	emit_rm(e, (struct host_opcode){.opcode = 0xf7}, 0, vp_field(VP_OFFSET(cr4))); /* test dword [cr4], … */
	emit32(e, CR4_SMAP);
	c->from[0] = emit_jump_if_forward(e, IF_Z);
	/* At level 0, and not all accesses are checked. */
	emit_load(e, SCRATCH1, VP_OFFSET(tlbs));
	emit_vp(e, 0x3b, SCRATCH1, VP_OFFSET(tlb_strict));
	c->from[1] = emit_jump_if_forward(e, IF_NZ);
	if (ac)
		emit_lea(e, SCRATCH1, (struct host_memory){.base = SCRATCH1, .index = NO_REGISTER,
		    .disp = (int32_t)(TLB_SUPERVISOR_AC * sizeof(t->vp->tlbs[0]))});
	emit_store(e, SCRATCH1, VP_OFFSET(tlb));
	emit_rm(e, (struct host_opcode){.opcode = 0xc6}, 0, vp_field(VP_OFFSET(tlb_kind))); /* mov byte […], … */
	emit8(e, ac ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR);
	change_flags(t, ac ? CHANGE_OR : CHANGE_AND, ac ? FLAG_AC : ~FLAG_AC);
	c->back = e->at;
	return true;
}

static bool translate_pushf(struct translation *t)
{
	const struct op word = {.base = GPR_RSP * 8, .index = GPR_ZERO * 8, .disp = -t->word, .seg = SEG_NONE};
	struct emitter *e = &t->e;

	if (t->op.size != t->word || !window_has(t, &word, t->word))
		return false;
	translation_begin_native(t);
	flags_to_vp(t);
	flags_before_clobber(t);
	flags_before_write(t, 1u << GPR_RSP);
	/* As rflags_read() does. */
	emit_rm(e, (struct host_opcode){.map = 1, .opcode = 0xb6}, SCRATCH1, vp_field(VP_OFFSET(arith) + 1)); /* movzx */
	emit_rm(e, (struct host_opcode){.map = 1, .opcode = 0xb6}, SCRATCH2, vp_field(VP_OFFSET(arith)));
	EMIT(e, 0x41, 0x83, 0xe3, ARITH_OF);  /* and r11d, … */
	EMIT(e, 0x41, 0xc1, 0xe3, 11);        /* shl r11d, 11 */
	EMIT(e, 0x45, 0x09, 0xda);            /* or r10d, r11d */
	emit_rm(e, (struct host_opcode){.opcode = 0x0b}, SCRATCH1, vp_field(VP_OFFSET(flags_system)));
	EMIT(e, 0x41, 0x81, 0xe2);            /* and r10d, … */
	emit32(e, ~(FLAG_RF | FLAG_VM));
	t->window.loaded = false;
	emit_rm(e, word_opcode(t, 0x89), SCRATCH1, window_operand(t, &word));
	move_rsp(t, -t->word);
	return true;
}

static bool translate_fence(struct translation *t)
{
	translation_begin_native(t);
	emit_bytes(&t->e, t->bytes, t->op.length);
	return true;
}

bool translate_system(struct translation *t)
{
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_SWAPGS:
		return translate_swapgs(t);
	case ZYDIS_MNEMONIC_CLI:
		return translate_cli(t);
	case ZYDIS_MNEMONIC_STI:
		return translate_sti(t);
	case ZYDIS_MNEMONIC_STAC:
		return translate_ac(t, true);
	case ZYDIS_MNEMONIC_CLAC:
		return translate_ac(t, false);
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
		return translate_pushf(t);
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return translate_fence(t);
	default:
		return false;
	}
}

/* --- ends -------------------------------------------------------------------------------------------- */

/* Its handler decides where to go on, or the next instruction follows: SYSCALL, IRET, WRMSR, MOV to CR3, OUT. None of
 * these runs another block by itself, as the handlers of near branches do. */
bool translate_end(struct translation *t)
{
	const struct op *copy;

	switch (t->insn->meta.branch_type) {
	case ZYDIS_BRANCH_TYPE_SHORT:
	case ZYDIS_BRANCH_TYPE_NEAR:
		return false;
	default:
		break;
	}
	copy = translation_copy(t, &t->op);
	flags_to_vp(t);
	translation_call(t, translated_finish, (uintptr_t)copy);
	emit_load(&t->e, SCRATCH1, VP_OFFSET(rip));
	go_to_computed(t, 0, &t->t->handled);
	return true;
}
