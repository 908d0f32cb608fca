// SPDX-License-Identifier: GPL-2.0-or-later
/* iret.c - IRET in all modes (SDM volume 2, IRET). */
#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

static void nmi_done(struct soft_vp *vp)
{
	vp->nmi_blocked = false;
	if (vp->nmi_waiting) {
		vp->nmi_waiting = false;
		atomic_fetch_or(&vp->attention, ATTENTION_NMI);
	}
}

/* The flags that level `cpl` may load; `size` is the operand's. */
static uint64_t flags_mask(const struct soft_vp *vp, unsigned cpl, unsigned size)
{
	uint64_t mask = 0x8d5 | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID;

	if (cpl == 0)
		mask |= FLAG_IOPL;
	if (cpl <= vp_iopl(vp))
		mask |= FLAG_IF;
	if (cpl == 0 && size > 2)
		mask |= FLAG_VIF | FLAG_VIP;
	return size == 2 ? mask & 0xffff : mask;
}

/* RF counts only where instruction breakpoints may hit; elsewhere nothing would clear it. */
static void load_flags(struct soft_vp *vp, uint64_t flags, uint64_t mask)
{
	if (!(vp->dr[7] & 0xff))
		flags &= ~(uint64_t)FLAG_RF;
	vp->step_rf = flags & mask & FLAG_RF;
	rflags_write(vp, flags, mask);
}

static const struct op *iret_real(struct soft_vp *vp, const struct op *op)
{
	unsigned size = op->size;
	uint64_t rip = stack_load(vp, op, 0, size), cs = stack_load(vp, op, size, size);
	uint64_t flags = stack_load(vp, op, 2 * (int)size, size);
	uint64_t mask = flags_mask(vp, 0, size) & ~(uint64_t)(FLAG_VIF | FLAG_VIP);

	if (vp_v86(vp))
		mask &= ~(uint64_t)FLAG_IOPL;
	if (rip > vp->seg[SEG_CS].limit)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	stack_move(vp, 3 * (int)size);
	segment_load_real(vp, SEG_CS, (uint16_t)cs);
	vp_mode_changed(vp);
	load_flags(vp, flags, mask);
	vp->rip = rip;
	return NULL;
}

/* To virtual-8086 mode: nine doublewords. */
static const struct op *iret_v86(struct soft_vp *vp, const struct op *op, uint64_t flags)
{
	static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint64_t rip = stack_load(vp, op, 0, 4), cs = stack_load(vp, op, 4, 4);
	uint64_t esp = stack_load(vp, op, 12, 4), ss = stack_load(vp, op, 16, 4);
	uint64_t data[4];

	for (unsigned i = 0; i < 4; i++)
		data[i] = stack_load(vp, op, 20 + 4 * (int)i, 4);
	load_flags(vp, flags, flags_mask(vp, 0, 4) | FLAG_VM);
	vp->cpl = 3;
	segment_load_real(vp, SEG_CS, (uint16_t)cs);
	segment_load_real(vp, SEG_SS, (uint16_t)ss);
	for (unsigned i = 0; i < 4; i++)
		segment_load_real(vp, order[i], (uint16_t)data[i]);
	vp->gpr[GPR_RSP] = esp;
	vp->rip = rip & 0xffff;
	vp_mode_changed(vp);
	return NULL;
}

/* The code segment of a return; `rpl` is the level it goes to. */
static struct segment check_code(struct soft_vp *vp, const struct op *op, uint16_t selector)
{
	uint32_t code = selector & 0xfffcu;
	unsigned rpl = selector & 3, type;
	uint64_t low;

	if (!code)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	low = descriptor_read(vp, op, selector, VECTOR_GP, 0);
	type = descriptor_type(low);
	if (!type_is_code(type) || rpl < vp->cpl ||
	    (type_is_conforming(type) ? descriptor_dpl(low) > rpl : descriptor_dpl(low) != rpl))
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (vp_long(vp) && (low >> 53 & 3) == 3)
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	descriptor_accessed(vp, op, selector, &low);
	return segment_unpack(selector, low);
}

static void check_target(struct soft_vp *vp, const struct op *op, const struct segment *cs, uint64_t rip)
{
	bool ok = vp_long(vp) && cs->attributes & SEGMENT_L ? is_canonical(rip) : rip <= cs->limit;

	if (!ok)
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

/* Null SS is good for 64-bit code below level 3. */
static struct segment check_outer_stack(struct soft_vp *vp, const struct op *op, uint16_t selector,
    const struct segment *cs)
{
	unsigned cpl = cs->selector & 3;

	if (!(selector & 0xfffc) && vp_long(vp) && cs->attributes & SEGMENT_L && cpl != 3)
		return (struct segment){.selector = selector, .attributes = (uint16_t)(cpl << 5)};
	return segment_check_stack(vp, op, selector, cpl, VECTOR_GP, 0);
}

static const struct op *iret_protected(struct soft_vp *vp, const struct op *op)
{
	int size = op->size;
	uint64_t rip = stack_load(vp, op, 0, op->size), flags = stack_load(vp, op, 2 * size, op->size);
	uint16_t selector = (uint16_t)stack_load(vp, op, size, op->size);
	unsigned old = vp->cpl, cpl = selector & 3;
	struct segment cs, ss = vp->seg[SEG_SS];
	uint64_t mask = flags_mask(vp, vp->cpl, op->size), rsp = 0;
	bool outer;

	if (!vp_long(vp) && op->size == 4 && flags & FLAG_VM && !vp->cpl)
		return iret_v86(vp, op, flags);
	cs = check_code(vp, op, selector);
	check_target(vp, op, &cs, rip);
	outer = cpl != old || vp->mode == MODE_64;
	if (outer) {
		rsp = stack_load(vp, op, 3 * size, op->size);
		ss = check_outer_stack(vp, op, (uint16_t)stack_load(vp, op, 4 * size, op->size), &cs);
	} else {
		stack_move(vp, 3 * size);
	}
	vp->seg[SEG_CS] = cs;
	vp->seg[SEG_SS] = ss;
	vp->cpl = (uint8_t)cpl;
	if (outer) {
		if (vp_long(vp) ? size == 2 && !(cs.attributes & SEGMENT_L) : !(ss.attributes & SEGMENT_D))
			reg16_set(vp, GPR_RSP * 8, (uint16_t)rsp);
		else
			vp->gpr[GPR_RSP] = rsp;
	}
	if (cpl != old)
		segments_drop_inner(vp, cpl);
	vp_mode_changed(vp);
	load_flags(vp, flags, mask);
	vp->rip = rip;
	return NULL;
}

const struct op *op_iret(struct soft_vp *vp, const struct op *op)
{
	if (!(vp->cr0 & CR0_PE) || (vp_v86(vp) && vp_iopl(vp) == 3)) {
		iret_real(vp, op);
	} else if (vp_v86(vp)) {
		raise_fault_code(vp, op, VECTOR_GP, 0);
	} else if (vp->flags_system & FLAG_NT) {
		if (vp_long(vp))
			raise_fault_code(vp, op, VECTOR_GP, 0);
		task_switch(vp, op, (uint16_t)load_system(vp, op, vp->tr.base, 2), op_next_rip(vp, op), TASK_IRET,
		    false, 0);
	} else {
		iret_protected(vp, op);
	}
	nmi_done(vp);
	return NULL;
}
