// SPDX-License-Identifier: GPL-2.0-or-later
/* registers.c - a VP's registers from outside: INIT, SIPI, and loaders that set them all. */
#include "hypervisor/soft/soft.h"

#include <errno.h>
#include <string.h>

#include "hypervisor/soft/system.h"

static struct segment real_segment(uint16_t selector, uint64_t base, uint16_t attributes)
{
	return (struct segment){.base = base, .limit = 0xffff, .selector = selector, .attributes = attributes};
}

/* SDM volume 3, table 10-1, column INIT. Kept: vector state, MSRs but those of the segments, TSC. */
void soft_vp_init(struct soft_vp *vp)
{
	memset(vp->gpr, 0, sizeof(vp->gpr));
	vp->gpr[GPR_RDX] = PROCESSOR_SIGNATURE;
	vp->rip = 0xfff0;
	vp->arith = 0;
	vp->flags_system = 2;
	vp->cpl = 0;
	for (unsigned i = 0; i < 6; i++)
		vp->seg[i] = real_segment(0, 0, 0x93);
	vp->seg[SEG_CS] = real_segment(0xf000, 0xffff0000, 0x93);
	vp->ldtr = real_segment(0, 0, 0x82);
	vp->tr = real_segment(0, 0, 0x8b);
	vp->gdt_base = vp->idt_base = 0;
	vp->gdt_limit = vp->idt_limit = 0xffff;
	vp->cr0 = CR0_ET | CR0_NW | CR0_CD;
	vp->cr2 = vp->cr3 = vp->cr4 = vp->efer = 0;
	memset(vp->dr, 0, sizeof(vp->dr));
	vp->dr[6] = 0xffff0ff0;
	vp->dr[7] = 0x400;
	if (!vp->msr_pat) {
		vp->msr_pat = 0x0007040600070406ull;
		vp->msr_misc_enable = 1;
		vp->msr_arch_capabilities = ARCH_CAPABILITIES;
		vp->mtrr_default = 0x806; /* enabled, write-back: what firmware leaves behind */
	}
	vp->interrupt_shadow = vp->nmi_blocked = vp->nmi_waiting = vp->halted = vp->shut_down = false;
	vp->breakpoints_held = 0;
	vp->delivering = -1;
	vp->again = AGAIN_NOTHING;
	atomic_fetch_and(&vp->attention, ~ATTENTION_NMI);
	tlb_flush_all(vp);
	vp_mode_changed(vp);
}

void soft_vp_sipi(struct soft_vp *vp, uint8_t vector)
{
	vp->seg[SEG_CS] = real_segment((uint16_t)(vector << 8), (uint64_t)vector << 12, 0x93);
	vp->rip = 0;
	vp_mode_changed(vp);
}

static void segment_out(struct vp_segment *out, const struct segment *s)
{
	*out = (struct vp_segment){.base = s->base, .limit = s->limit, .selector = s->selector, .attributes = s->attributes};
}

static void segment_in(struct segment *s, const struct vp_segment *in)
{
	*s = (struct segment){.base = in->base, .limit = in->limit, .selector = in->selector, .attributes = in->attributes};
}

void soft_vp_get_registers(struct soft_vp *vp, struct vp_registers *r)
{
	struct vp_segment *segments[] = {&r->es, &r->cs, &r->ss, &r->ds, &r->fs, &r->gs};

	memset(r, 0, sizeof(*r));
	memcpy(r->gpr, vp->gpr, sizeof(r->gpr));
	r->rip = vp->rip;
	r->rflags = rflags_read(vp);
	for (unsigned i = 0; i < 6; i++)
		segment_out(segments[i], &vp->seg[i]);
	segment_out(&r->ldtr, &vp->ldtr);
	segment_out(&r->tr, &vp->tr);
	r->gdt_base = vp->gdt_base;
	r->gdt_limit = vp->gdt_limit;
	r->idt_base = vp->idt_base;
	r->idt_limit = vp->idt_limit;
	r->cr0 = vp->cr0;
	r->cr2 = vp->cr2;
	r->cr3 = vp->cr3;
	r->cr4 = vp->cr4;
	r->cr8 = vp->soft->host->cr8_read ? vp->soft->host->cr8_read(vp->soft->context, vp->index) : 0;
	r->efer = vp->efer;
}

/* States that no instruction can reach. */
static bool valid(const struct vp_registers *r)
{
	bool paging = r->cr0 & CR0_PG, lma = r->efer & EFER_LMA;

	if (paging && !(r->cr0 & CR0_PE))
		return false;
	if (lma != (paging && r->efer & EFER_LME))
		return false;
	if (lma && !(r->cr4 & CR4_PAE))
		return false;
	if (r->cr4 & CR4_PCIDE && !lma)
		return false;
	if (r->cs.attributes & SEGMENT_L && lma && (r->cs.attributes & SEGMENT_D || !is_canonical(r->rip)))
		return false;
	return !(r->cr3 & ~PHYSICAL_MASK) && !(r->cr0 >> 32) && !(r->cr4 >> 32);
}

void registers_take(struct soft_vp *vp, const struct vp_registers *r)
{
	const struct vp_segment *segments[] = {&r->es, &r->cs, &r->ss, &r->ds, &r->fs, &r->gs};

	memcpy(vp->gpr, r->gpr, sizeof(r->gpr));
	vp->rip = r->rip;
	for (unsigned i = 0; i < 6; i++)
		segment_in(&vp->seg[i], segments[i]);
	segment_in(&vp->ldtr, &r->ldtr);
	segment_in(&vp->tr, &r->tr);
	vp->gdt_base = r->gdt_base;
	vp->gdt_limit = r->gdt_limit;
	vp->idt_base = r->idt_base;
	vp->idt_limit = r->idt_limit;
	vp->cr0 = r->cr0 | CR0_ET;
	vp->cr2 = r->cr2;
	vp->cr3 = r->cr3;
	vp->cr4 = r->cr4;
	vp->efer = r->efer;
	/* The level is the DPL of SS, but real mode runs at 0 and virtual-8086 mode at 3. */
	vp->cpl = !(r->cr0 & CR0_PE) ? 0 : r->rflags & FLAG_VM ? 3 : segment_dpl(&vp->seg[SEG_SS]);
	vp->halted = vp->shut_down = vp->interrupt_shadow = false;
	vp->breakpoints_held = 0;
	rflags_write(vp, r->rflags, ~0ull);
	tlb_flush_all(vp);
	vp_mode_changed(vp);
}

int soft_vp_set_registers(struct soft_vp *vp, const struct vp_registers *r)
{
	if (!valid(r) || !pdptrs_load(vp, r->cr0, r->cr3, r->cr4, r->efer))
		return -EINVAL;
	registers_take(vp, r);
	if (vp->soft->host->cr8_write)
		vp->soft->host->cr8_write(vp->soft->context, vp->index, r->cr8);
	return 0;
}
