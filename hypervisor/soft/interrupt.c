// SPDX-License-Identifier: GPL-2.0-or-later
/* interrupt.c - raising faults, and events through the IDT (SDM volume 3, chapter 6). */
#include "hypervisor/soft/interrupt.h"

#include <stdarg.h>
#include <stdio.h>

#include "hypervisor/soft/block.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/segment.h"

#define DELIVERING_INTERRUPT 256

/* --- raising ------------------------------------------------------------------------------------------ */

static _Noreturn void leave(struct soft_vp *vp, const struct op *op, enum leave why)
{
	if (vp->holds_rmw_lock)
		rmw_slow_unlock(vp);
	if (op) {
		vp->rip = op_rip(vp, op);
		/* The block was counted whole when it was entered. */
		if (vp->block && op >= vp->block->ops && op < vp->block->ops + vp->block->count)
			vp->instructions -= vp->block->count - (uint64_t)(op - vp->block->ops);
	}
	vp->op = op;
	siglongjmp(vp->leave, why);
}

void raise_fault(struct soft_vp *vp, const struct op *op, enum vector vector)
{
	vp->fault = (struct fault){.vector = (uint8_t)vector};
	leave(vp, op, LEAVE_FAULT);
}

void raise_fault_code(struct soft_vp *vp, const struct op *op, enum vector vector, uint32_t code)
{
	vp->fault = (struct fault){.vector = (uint8_t)vector, .has_code = true, .code = code};
	leave(vp, op, LEAVE_FAULT);
}

void raise_page_fault(struct soft_vp *vp, const struct op *op, uint64_t linear, uint32_t code)
{
	vp->fault = (struct fault){.vector = VECTOR_PF, .has_code = true, .code = code, .linear = linear};
	leave(vp, op, LEAVE_FAULT);
}

void raise_segment_fault(struct soft_vp *vp, const struct op *op, unsigned seg)
{
	raise_fault_code(vp, op, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

void raise_error(struct soft_vp *vp, const struct op *op, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(vp->error, sizeof(vp->error), format, args);
	va_end(args);
	leave(vp, op, LEAVE_ERROR);
}

/* --- the frame of an event, gathered before anything changes ------------------------------------------- */

struct delivery {
	enum event event;
	uint8_t vector;
	bool has_code;
	uint32_t code;
	uint64_t return_rip;
	uint64_t flags; /* as pushed */
	unsigned ext;   /* for error codes of faults on the way */
};

static _Noreturn void refuse(struct soft_vp *vp, const struct delivery *d, enum vector vector)
{
	raise_fault_code(vp, NULL, vector, d->vector * 8u + 2 + d->ext);
}

/* What all protected modes do last. */
static void enter_handler(struct soft_vp *vp, bool interrupt_gate)
{
	vp->flags_system &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (interrupt_gate ? FLAG_IF : 0));
	vp_mode_changed(vp);
}

/* The code segment of a gate. */
static uint64_t gate_code(struct soft_vp *vp, const struct delivery *d, uint16_t selector, unsigned *cpl)
{
	uint32_t code = (selector & 0xfffcu) | d->ext;
	uint64_t low;
	unsigned type;

	if (!(selector & 0xfffc))
		raise_fault_code(vp, NULL, VECTOR_GP, d->ext);
	low = descriptor_read(vp, NULL, selector, VECTOR_GP, d->ext);
	type = descriptor_type(low);
	if (!type_is_code(type) || descriptor_dpl(low) > vp->cpl)
		raise_fault_code(vp, NULL, VECTOR_GP, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, NULL, VECTOR_NP, code);
	*cpl = type_is_conforming(type) ? vp->cpl : descriptor_dpl(low);
	return low;
}

static void push64(struct soft_vp *vp, unsigned kind, uint64_t *rsp, uint64_t value)
{
	*rsp -= 8;
	store_as(vp, NULL, kind, *rsp, 8, value);
}

static void deliver_long(struct soft_vp *vp, const struct delivery *d)
{
	uint64_t gate, high, code, rsp, target;
	unsigned type, cpl, ist, kind;
	uint16_t selector;

	if (d->vector * 16u + 15 > vp->idt_limit)
		refuse(vp, d, VECTOR_GP);
	gate = load_system(vp, NULL, vp->idt_base + d->vector * 16u, 8);
	high = load_system(vp, NULL, vp->idt_base + d->vector * 16u + 8, 8);
	type = descriptor_type(gate);
	if ((type != SYSTEM_INTERRUPT && type != SYSTEM_TRAP) ||
	    (d->event == EVENT_SOFTWARE && descriptor_dpl(gate) < vp->cpl))
		refuse(vp, d, VECTOR_GP);
	if (!descriptor_present(gate))
		refuse(vp, d, VECTOR_NP);
	selector = (uint16_t)(gate >> 16);
	code = gate_code(vp, d, selector, &cpl);
	if ((code >> 53 & 3) != 1) /* L without D */
		raise_fault_code(vp, NULL, VECTOR_GP, (selector & 0xfffcu) | d->ext);
	ist = gate >> 32 & 7;
	if (ist)
		rsp = tss_stack64(vp, NULL, 3 + ist, d->ext);
	else if (cpl != vp->cpl)
		rsp = tss_stack64(vp, NULL, cpl, d->ext);
	else
		rsp = vp->gpr[GPR_RSP];
	target = (gate & 0xffff) | (gate >> 32 & 0xffff0000u) | high << 32;
	if (!is_canonical(target))
		raise_fault_code(vp, NULL, VECTOR_GP, d->ext);
	rsp &= ~15ull;
	kind = cpl == 3 ? TLB_USER : TLB_SUPERVISOR;
	if (!is_canonical(rsp - 48) || !is_canonical(rsp - 1))
		raise_fault_code(vp, NULL, VECTOR_SS, d->ext);
	probe_write_as(vp, NULL, kind, rsp - 48, 48);
	descriptor_accessed(vp, NULL, selector, &code);
	push64(vp, kind, &rsp, vp->seg[SEG_SS].selector);
	push64(vp, kind, &rsp, vp->gpr[GPR_RSP]);
	push64(vp, kind, &rsp, d->flags);
	push64(vp, kind, &rsp, vp->seg[SEG_CS].selector);
	push64(vp, kind, &rsp, d->return_rip);
	if (d->has_code)
		push64(vp, kind, &rsp, d->code);
	vp->seg[SEG_CS] = segment_unpack((uint16_t)((selector & 0xfffc) | cpl), code);
	if (cpl != vp->cpl)
		vp->seg[SEG_SS] = (struct segment){.selector = (uint16_t)cpl, .attributes = (uint16_t)(cpl << 5)};
	vp->cpl = (uint8_t)cpl;
	vp->gpr[GPR_RSP] = rsp;
	vp->rip = target;
	enter_handler(vp, type == SYSTEM_INTERRUPT);
}

/* --- 16- and 32-bit protected mode, from virtual-8086 mode too ------------------------------------------- */

struct stack {
	const struct segment *ss;
	uint32_t esp, mask;
	unsigned kind, size, ext;
};

static void stack_push(struct soft_vp *vp, struct stack *s, uint64_t value)
{
	uint32_t esp = (s->esp - s->size) & s->mask;

	s->esp = (s->esp & ~s->mask) | esp;
	store_as(vp, NULL, s->kind, (uint32_t)(s->ss->base + esp), s->size, value);
}

/* #SS unless `size` bytes below the stack pointer may be written, whatever pages say. */
static void stack_probe(struct soft_vp *vp, const struct stack *s, unsigned size, bool inner)
{
	uint32_t low = (s->esp - size) & s->mask, last = (s->esp - 1) & s->mask;
	bool down = (s->ss->attributes & 0xc) == 4;
	uint32_t code = (inner ? s->ss->selector & 0xfffcu : 0) | s->ext;

	if (low > last || (down ? low <= s->ss->limit : last > s->ss->limit))
		raise_fault_code(vp, NULL, VECTOR_SS, code);
	probe_write_as(vp, NULL, s->kind, (uint32_t)(s->ss->base + low), size);
}

static void push_v86_segments(struct soft_vp *vp, struct stack *s)
{
	static const uint8_t order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

	for (unsigned i = 0; i < sizeof(order); i++)
		stack_push(vp, s, vp->seg[order[i]].selector);
}

static void deliver_gate(struct soft_vp *vp, const struct delivery *d, uint64_t gate)
{
	unsigned type = descriptor_type(gate), cpl, words;
	uint16_t selector = (uint16_t)(gate >> 16), new_ss;
	bool v86 = vp_v86(vp), inner;
	struct segment ss = vp->seg[SEG_SS];
	struct stack s = {.ss = &ss, .size = type & 8 ? 4 : 2, .ext = d->ext};
	uint64_t code = gate_code(vp, d, selector, &cpl);
	uint32_t target = (uint32_t)(gate & 0xffff) | (type & 8 ? gate >> 32 & 0xffff0000u : 0);
	struct segment cs;

	if (v86 && cpl != 0)
		raise_fault_code(vp, NULL, VECTOR_GP, (selector & 0xfffcu) | d->ext);
	inner = cpl != vp->cpl;
	s.esp = (uint32_t)vp->gpr[GPR_RSP];
	if (inner) {
		tss_stack(vp, NULL, cpl, d->ext, &new_ss, &s.esp);
		ss = segment_check_stack(vp, NULL, new_ss, cpl, VECTOR_TS, d->ext);
	}
	s.mask = ss.attributes & SEGMENT_D ? 0xffffffffu : 0xffffu;
	s.kind = cpl == 3 ? TLB_USER : TLB_SUPERVISOR;
	words = (inner ? 5 : 3) + (v86 ? 4 : 0) + d->has_code;
	stack_probe(vp, &s, words * s.size, inner);
	cs = segment_unpack((uint16_t)((selector & 0xfffc) | cpl), code);
	if (target > cs.limit)
		raise_fault_code(vp, NULL, VECTOR_GP, d->ext);
	descriptor_accessed(vp, NULL, selector, &code);
	if (v86)
		push_v86_segments(vp, &s);
	if (inner) {
		stack_push(vp, &s, vp->seg[SEG_SS].selector);
		stack_push(vp, &s, vp->gpr[GPR_RSP]);
	}
	stack_push(vp, &s, d->flags);
	stack_push(vp, &s, vp->seg[SEG_CS].selector);
	stack_push(vp, &s, d->return_rip);
	if (d->has_code)
		stack_push(vp, &s, d->code);
	if (v86)
		for (unsigned i = SEG_ES; i <= SEG_GS; i++)
			if (i != SEG_CS && i != SEG_SS)
				vp->seg[i] = (struct segment){0};
	vp->seg[SEG_CS] = segment_unpack(cs.selector, code);
	vp->seg[SEG_SS] = ss;
	vp->cpl = (uint8_t)cpl;
	if (s.mask == 0xffff)
		vp->gpr[GPR_RSP] = (vp->gpr[GPR_RSP] & ~0xffffull) | (s.esp & 0xffff);
	else
		vp->gpr[GPR_RSP] = s.esp;
	vp->rip = target;
	enter_handler(vp, type == SYSTEM_INTERRUPT || type == SYSTEM_INTERRUPT16);
}

static void deliver_protected(struct soft_vp *vp, const struct delivery *d)
{
	uint64_t gate;
	unsigned type;

	if (d->vector * 8u + 7 > vp->idt_limit)
		refuse(vp, d, VECTOR_GP);
	gate = load_system(vp, NULL, vp->idt_base + d->vector * 8u, 8);
	type = descriptor_type(gate);
	if (type != SYSTEM_TASK_GATE && type != SYSTEM_INTERRUPT16 && type != SYSTEM_TRAP16 &&
	    type != SYSTEM_INTERRUPT && type != SYSTEM_TRAP)
		refuse(vp, d, VECTOR_GP);
	if (d->event == EVENT_SOFTWARE && descriptor_dpl(gate) < vp->cpl)
		refuse(vp, d, VECTOR_GP);
	if (!descriptor_present(gate))
		refuse(vp, d, VECTOR_NP);
	if (type == SYSTEM_TASK_GATE)
		task_switch(vp, NULL, (uint16_t)(gate >> 16), d->return_rip, TASK_EVENT, d->has_code, d->code);
	else
		deliver_gate(vp, d, gate);
}

static void deliver_real(struct soft_vp *vp, const struct delivery *d)
{
	const struct segment *ss = &vp->seg[SEG_SS];
	uint64_t entry;
	uint32_t sp[3];

	if (d->vector * 4u + 3 > vp->idt_limit)
		raise_fault_code(vp, NULL, VECTOR_GP, d->vector * 8u + 2 + d->ext);
	entry = load_system(vp, NULL, vp->idt_base + d->vector * 4u, 4);
	for (unsigned i = 0; i < 3; i++) {
		sp[i] = (uint32_t)(vp->gpr[GPR_RSP] - 2 - 2 * i) & (uint32_t)vp->stack_mask;
		if (sp[i] + 1 > ss->limit)
			raise_fault_code(vp, NULL, VECTOR_SS, 0);
	}
	store_as(vp, NULL, TLB_SUPERVISOR, (uint32_t)(ss->base + sp[0]), 2, d->flags);
	store_as(vp, NULL, TLB_SUPERVISOR, (uint32_t)(ss->base + sp[1]), 2, vp->seg[SEG_CS].selector);
	store_as(vp, NULL, TLB_SUPERVISOR, (uint32_t)(ss->base + sp[2]), 2, d->return_rip);
	vp->gpr[GPR_RSP] = (vp->gpr[GPR_RSP] & ~0xffffull) | (sp[2] & 0xffff);
	segment_load_real(vp, SEG_CS, (uint16_t)(entry >> 16));
	vp->rip = entry & 0xffff;
	vp->flags_system &= ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
	vp_mode_changed(vp);
}

/* --- choosing ------------------------------------------------------------------------------------------- */

static void deliver(struct soft_vp *vp, struct delivery *d)
{
	bool fault = d->event == EVENT_FAULT && d->vector != VECTOR_DB;

	d->ext = d->event != EVENT_SOFTWARE;
	d->flags = rflags_read(vp);
	if (fault)
		d->flags |= FLAG_RF;
	/* For what follows from a fault on the way, an interrupt is harmless whatever its number. */
	vp->delivering = d->event == EVENT_FAULT ? d->vector : DELIVERING_INTERRUPT;
	vp->interrupt_shadow = false;
	if (!(vp->cr0 & CR0_PE))
		deliver_real(vp, d);
	else if (vp_long(vp))
		deliver_long(vp, d);
	else
		deliver_protected(vp, d);
	vp->delivering = -1;
	vp->halted = false;
}

static bool contributory(unsigned vector)
{
	return vector == VECTOR_DE || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

/* SDM volume 3, table 6-5. */
static bool makes_double_fault(int first, unsigned second)
{
	if (first == VECTOR_PF)
		return second == VECTOR_PF || contributory(second);
	return first >= 0 && contributory((unsigned)first) && contributory(second);
}

void fault_deliver(struct soft_vp *vp)
{
	struct delivery d = {.event = EVENT_FAULT, .vector = vp->fault.vector, .return_rip = vp->rip};
	int first = vp->delivering;

	if (first == VECTOR_DF)
		siglongjmp(vp->leave, LEAVE_TRIPLE_FAULT);
	if (vp->fault.vector == VECTOR_PF)
		vp->cr2 = vp->fault.linear;
	d.has_code = vp->fault.has_code;
	d.code = vp->fault.code;
	if (makes_double_fault(first, d.vector)) {
		d.vector = VECTOR_DF;
		d.has_code = true;
		d.code = 0;
	}
	deliver(vp, &d);
}

void event_deliver(struct soft_vp *vp, enum event event, uint8_t vector, uint64_t return_rip)
{
	struct delivery d = {.event = event, .vector = vector, .return_rip = return_rip};

	if (event == EVENT_SOFTWARE || event == EVENT_ICEBP)
		vp->no_step = true;
	/* With what a load of SS before it held back it is one exception. */
	if (event == EVENT_ICEBP && vp->slow && vp->breakpoints) {
		debug_report(vp, vp->breakpoints);
		vp->breakpoints = 0;
	}
	deliver(vp, &d);
}

/* --- #DB ------------------------------------------------------------------------------------------------ */

void debug_report(struct soft_vp *vp, uint32_t reasons)
{
	vp->dr[6] = (vp->dr[6] & ~0xfull) | reasons;
	if (vp->dr[7] & DR7_GD) {
		vp->dr[7] &= ~(uint64_t)DR7_GD;
		vp_mode_changed(vp);
	}
}

void debug_trap(struct soft_vp *vp, uint32_t dr6)
{
	struct delivery d = {.event = EVENT_FAULT, .vector = VECTOR_DB, .return_rip = vp->rip};

	debug_report(vp, dr6);
	deliver(vp, &d);
}
