// SPDX-License-Identifier: GPL-2.0-or-later
/* mode.c - what follows from control registers, segments and flags. */
#include "hypervisor/soft/op.h"

/* SDM volume 1, 15.x and volume 3, 2.5: when vector instructions fault. */
static uint32_t fp_block(const struct soft_vp *vp)
{
	uint32_t block = 0;

	if (vp->cr0 & (CR0_EM | CR0_TS))
		block |= FP_BLOCK_X87_NM;
	if (vp->cr0 & CR0_EM)
		block |= FP_BLOCK_MMX_UD | FP_BLOCK_SSE_UD;
	if (vp->cr0 & CR0_TS)
		block |= FP_BLOCK_SSE_NM;
	if (!(vp->cr4 & CR4_OSFXSR))
		block |= FP_BLOCK_SSE_UD;
	if (!(vp->cr4 & CR4_OSXSAVE) || (vp->xcr0 & 6) != 6 || !vp_protected(vp))
		block |= FP_BLOCK_AVX_UD;
	return block;
}

/* Legacy data segments whose every offset may be read (written): no limit, no type to check. */
static void flat_segments(struct soft_vp *vp)
{
	vp->flat_read = vp->flat_write = 0;
	for (unsigned i = 0; i < 6; i++) {
		const struct segment *s = &vp->seg[i];

		if (s->limit != 0xffffffff)
			continue;
		if (!vp_protected(vp) && !vp_v86(vp)) {
			vp->flat_read |= 1u << i;
			vp->flat_write |= 1u << i;
			continue;
		}
		/* Expand-down data with the largest limit holds nothing. */
		if (!(s->attributes & SEGMENT_P) || (s->attributes & 0xc) == 0x4)
			continue;
		if (!(s->attributes & 8) || s->attributes & 2)
			vp->flat_read |= 1u << i;
		if (!(s->attributes & 8) && s->attributes & 2)
			vp->flat_write |= 1u << i;
	}
}

static void segments_changed(struct soft_vp *vp)
{
	const struct segment *cs = &vp->seg[SEG_CS];

	if (vp_long(vp) && cs->attributes & SEGMENT_L) {
		vp->mode = MODE_64;
		vp->ip_mask = vp->stack_mask = ~0ull;
		vp->seg_base[SEG_ES] = vp->seg_base[SEG_CS] = vp->seg_base[SEG_SS] = vp->seg_base[SEG_DS] = 0;
		vp->seg_base[SEG_FS] = vp->seg[SEG_FS].base;
		vp->seg_base[SEG_GS] = vp->seg[SEG_GS].base;
		return;
	}
	vp->mode = cs->attributes & SEGMENT_D ? MODE_32 : MODE_16;
	vp->ip_mask = vp->mode == MODE_32 ? 0xffffffffu : 0xffffu;
	vp->stack_mask = vp->seg[SEG_SS].attributes & SEGMENT_D ? 0xffffffffu : 0xffffu;
	for (unsigned i = 0; i < 6; i++)
		vp->seg_base[i] = vp->seg[i].base;
	flat_segments(vp);
}

static enum code_form code_form(const struct soft_vp *vp)
{
	const unsigned data = 1u << SEG_ES | 1u << SEG_SS | 1u << SEG_DS;
	const uint64_t *base = vp->seg_base;

	if (vp->mode != MODE_32)
		return vp->mode;
	if ((vp->flat_read & vp->flat_write & data) != data || vp->seg[SEG_CS].limit != 0xffffffff ||
	    vp->stack_mask != 0xffffffff || base[SEG_ES] | base[SEG_CS] | base[SEG_SS] | base[SEG_DS])
		return FORM_32;
	return FORM_32_FLAT;
}

/* Code of one form has the others' nowhere behind it, and they do not share the stack window. */
static void form_changed(struct soft_vp *vp)
{
	enum code_form form = code_form(vp);

	if (form == vp->form)
		return;
	vp->form = form;
	vp->form_tag = (uint64_t)form << 56;
	window_drop(vp);
	atomic_fetch_or(&vp->attention, ATTENTION_FORM);
}

/* DR7: any data breakpoint (read/write field not 0, "execute") that is enabled. */
static bool data_breakpoints(const struct soft_vp *vp)
{
	for (unsigned i = 0; i < 4; i++)
		if (vp->dr[7] >> (2 * i) & 3 && vp->dr[7] >> (16 + 4 * i) & 3)
			return true;
	return false;
}

void vp_choose_tlb(struct soft_vp *vp)
{
	unsigned set = vp_tlb_set(vp);

	vp->tlb_sets_used |= 1u << set;
	vp->tlbs = vp->tlb_sets[set];
	vp->tlb = vp->tlbs[vp->tlb_checked ? TLB_CHECKED : vp->tlb_kind];
	vp->tlb_strict = vp->tlb_checked || vp->tlb_kind != TLB_SUPERVISOR_AC ? vp->tlb : vp->tlbs[TLB_SUPERVISOR];
}

void vp_mode_changed(struct soft_vp *vp)
{
	bool checked = vp->cpl == 3 && vp->flags_system & FLAG_AC && vp->cr0 & CR0_AM;
	bool slow = vp->flags_system & FLAG_TF;

	segments_changed(vp);
	form_changed(vp);
	if (unlikely(vp->dr[7] & 0xff)) {
		slow = true;
		checked |= data_breakpoints(vp);
	}
	/* Blocks do not look at the limit of CS. */
	if (vp->mode != MODE_64 && vp->seg[SEG_CS].limit < vp->ip_mask)
		slow = true;
	if (unlikely(slow != vp->slow)) {
		vp->slow = slow;
		if (slow)
			atomic_fetch_or(&vp->attention, ATTENTION_SLOW);
		else
			atomic_fetch_and(&vp->attention, ~ATTENTION_SLOW);
	}
	vp->tlb_kind = vp->cpl == 3 ? TLB_USER
	    : vp->cr4 & CR4_SMAP && vp->flags_system & FLAG_AC ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR;
	code_key_changed(vp);
	vp->tlb_checked = checked;
	vp_choose_tlb(vp);
	window_review(vp);
	vp->fp_block = fp_block(vp);
}

uint64_t rflags_read(const struct soft_vp *vp)
{
	return vp->flags_system | 2 | vp->arith >> 8 | (vp->arith & ARITH_OF ? 1u << 11 : 0);
}

void rflags_write(struct soft_vp *vp, uint64_t value, uint64_t mask)
{
	uint64_t flags = (rflags_read(vp) & ~mask) | (value & mask);
	uint32_t system = flags & (FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC |
	                           FLAG_VIF | FLAG_VIP | FLAG_ID);
	uint32_t changed = system ^ vp->flags_system;

	vp->arith = (uint16_t)((flags & 0xd5) << 8 | (flags >> 11 & 1));
	vp->flags_system = system | 2;
	if (changed & (FLAG_TF | FLAG_VM | FLAG_AC))
		vp_mode_changed(vp);
	if (changed & system & FLAG_IF && vp->interrupt_pending)
		atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
}
