/* SPDX-License-Identifier: GPL-2.0-or-later */
/* registers.c - a VP's registers in KVM's form and in ours. */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>

static void segment_out(struct vp_segment *to, const struct kvm_segment *s)
{
	to->base = s->base;
	to->limit = s->limit;
	to->selector = s->selector;
	to->attributes = (uint16_t)(s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 12 |
				    s->l << 13 | s->db << 14 | s->g << 15);
	/* "Unusable" is KVM's word for what others call not present. */
	if (s->unusable)
		to->attributes &= (uint16_t) ~(1u << 7);
}

static void segment_in(struct kvm_segment *to, const struct vp_segment *s)
{
	uint16_t a = s->attributes;

	*to = (struct kvm_segment){.base = s->base,
				   .limit = s->limit,
				   .selector = s->selector,
				   .type = a & 15,
				   .s = a >> 4 & 1,
				   .dpl = a >> 5 & 3,
				   .present = a >> 7 & 1,
				   .avl = a >> 12 & 1,
				   .l = a >> 13 & 1,
				   .db = a >> 14 & 1,
				   .g = a >> 15 & 1,
				   .unusable = !(a >> 7 & 1)};
}

/* Ours are in the order of the encoding. */
static void general_out(uint64_t gpr[16], const struct kvm_regs *r)
{
	const uint64_t values[16] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
				     r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	memcpy(gpr, values, sizeof(values));
}

static void general_in(struct kvm_regs *r, const uint64_t g[16])
{
	*r = (struct kvm_regs){.rax = g[0],
			       .rcx = g[1],
			       .rdx = g[2],
			       .rbx = g[3],
			       .rsp = g[4],
			       .rbp = g[5],
			       .rsi = g[6],
			       .rdi = g[7],
			       .r8 = g[8],
			       .r9 = g[9],
			       .r10 = g[10],
			       .r11 = g[11],
			       .r12 = g[12],
			       .r13 = g[13],
			       .r14 = g[14],
			       .r15 = g[15]};
}

int kvm_get_registers(struct vp *vp, struct vp_registers *to)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_regs regs;
	struct kvm_sregs s;
	int r = kvm_ioctl(k->fd, KVM_GET_REGS, &regs);

	if (!r)
		r = kvm_ioctl(k->fd, KVM_GET_SREGS, &s);
	if (r)
		return r;
	*to = (struct vp_registers){.rip = regs.rip,
				    .rflags = regs.rflags,
				    .gdt_base = s.gdt.base,
				    .gdt_limit = s.gdt.limit,
				    .idt_base = s.idt.base,
				    .idt_limit = s.idt.limit,
				    .cr0 = s.cr0,
				    .cr2 = s.cr2,
				    .cr3 = s.cr3,
				    .cr4 = s.cr4,
				    .cr8 = s.cr8,
				    .efer = s.efer};
	general_out(to->gpr, &regs);
	segment_out(&to->es, &s.es);
	segment_out(&to->cs, &s.cs);
	segment_out(&to->ss, &s.ss);
	segment_out(&to->ds, &s.ds);
	segment_out(&to->fs, &s.fs);
	segment_out(&to->gs, &s.gs);
	segment_out(&to->ldtr, &s.ldt);
	segment_out(&to->tr, &s.tr);
	return 0;
}

int kvm_set_registers(struct vp *vp, const struct vp_registers *from)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_regs regs;
	struct kvm_sregs s;
	int r = kvm_ioctl(k->fd, KVM_GET_SREGS, &s);

	if (r)
		return r;
	general_in(&regs, from->gpr);
	regs.rip = from->rip;
	regs.rflags = from->rflags | 2;
	segment_in(&s.es, &from->es);
	segment_in(&s.cs, &from->cs);
	segment_in(&s.ss, &from->ss);
	segment_in(&s.ds, &from->ds);
	segment_in(&s.fs, &from->fs);
	segment_in(&s.gs, &from->gs);
	segment_in(&s.ldt, &from->ldtr);
	segment_in(&s.tr, &from->tr);
	/* KVM refuses a TR that no processor would enter with; loaders leave it "available". */
	s.tr.type |= 2;
	s.gdt.base = from->gdt_base;
	s.gdt.limit = from->gdt_limit;
	s.idt.base = from->idt_base;
	s.idt.limit = from->idt_limit;
	s.cr0 = from->cr0;
	s.cr2 = from->cr2;
	s.cr3 = from->cr3;
	s.cr4 = from->cr4;
	s.cr8 = from->cr8;
	s.efer = from->efer;
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	r = kvm_ioctl(k->fd, KVM_SET_SREGS, &s);
	return r ? r : kvm_ioctl(k->fd, KVM_SET_REGS, &regs);
}

/* One register in the list that KVM takes. */
union one_msr {
	uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	struct kvm_msrs list;
};

int kvm_get_msr(struct kvm_vp *k, uint32_t index, uint64_t *value)
{
	union one_msr m = {0};
	int r;

	m.list.nmsrs = 1;
	m.list.entries[0].index = index;
	r = kvm_ioctl(k->fd, KVM_GET_MSRS, &m);
	*value = m.list.entries[0].data;
	return r == 1 ? 0 : r < 0 ? r : -ENOENT;
}

int kvm_set_msr(struct kvm_vp *k, uint32_t index, uint64_t value)
{
	union one_msr m = {0};
	int r;

	m.list.nmsrs = 1;
	m.list.entries[0].index = index;
	m.list.entries[0].data = value;
	r = kvm_ioctl(k->fd, KVM_SET_MSRS, &m);
	return r == 1 ? 0 : r < 0 ? r : -EINVAL;
}
