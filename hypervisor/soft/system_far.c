// SPDX-License-Identifier: GPL-2.0-or-later
/* system_far.c - far JMP, CALL, RET, call gates, INT n. */
#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

/* Where a far branch goes. */
struct target {
	uint16_t selector;
	uint64_t offset;
	uint64_t low; /* descriptor */
};

static void check_offset(struct soft_vp *vp, const struct op *op, const struct target *t)
{
	bool wide = vp_long(vp) && t->low >> 53 & 1;

	if (wide ? !is_canonical(t->offset) : t->offset > segment_unpack(0, t->low).limit)
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

/* A code segment by JMP or CALL without change of level. */
static void check_code(struct soft_vp *vp, const struct op *op, const struct target *t)
{
	uint32_t code = t->selector & 0xfffcu;
	unsigned dpl = descriptor_dpl(t->low);

	if (type_is_conforming(descriptor_type(t->low)) ? dpl > vp->cpl
	                                                : (t->selector & 3u) > vp->cpl || dpl != vp->cpl)
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (vp_long(vp) && (t->low >> 53 & 3) == 3)
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(t->low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	check_offset(vp, op, t);
}

static void set_code(struct soft_vp *vp, const struct op *op, struct target *t, unsigned cpl)
{
	descriptor_accessed(vp, op, t->selector, &t->low);
	vp->seg[SEG_CS] = segment_unpack((uint16_t)((t->selector & 0xfffc) | cpl), t->low);
	vp->cpl = (uint8_t)cpl;
	vp->rip = t->offset;
	vp_mode_changed(vp);
}

static struct target pointer_operand(struct soft_vp *vp, const struct op *op)
{
	struct target t = {0};

	if (op->flags & OP_MEMORY) {
		uint64_t at = ea(vp, op, op->size + 2u, false);

		t.offset = load_size(vp, op, at, op->size);
		t.selector = load16(vp, op, ea_part(vp, op, at, op->size));
	} else {
		t.offset = op->imm & 0xffffffff;
		t.selector = (uint16_t)(op->imm >> 32);
	}
	if (op->size == 2)
		t.offset &= 0xffff;
	return t;
}

/* --- call gates ------------------------------------------------------------------------------------------------ */

/* The gate at `selector` leads to *t; its type and counts stay in the return value. */
static uint64_t gate_read(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t low, struct target *t)
{
	uint32_t code = selector & 0xfffcu;

	if (descriptor_dpl(low) < vp->cpl || descriptor_dpl(low) < (selector & 3u))
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	t->selector = (uint16_t)(low >> 16);
	t->offset = low & 0xffff;
	if (descriptor_type(low) == SYSTEM_CALL)
		t->offset |= low >> 32 & 0xffff0000u;
	if (vp_long(vp))
		t->offset |= descriptor_read_high(vp, op, selector) << 32;
	if (!(t->selector & 0xfffc))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	t->low = descriptor_read(vp, op, t->selector, VECTOR_GP, 0);
	code = t->selector & 0xfffcu;
	if (!type_is_code(descriptor_type(t->low)) || descriptor_dpl(t->low) > vp->cpl ||
	    (vp_long(vp) && (t->low >> 53 & 3) != 1))
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(t->low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	check_offset(vp, op, t);
	return low;
}

static void push_as(struct soft_vp *vp, const struct op *op, const struct segment *ss, uint64_t *rsp, unsigned size,
    uint64_t value)
{
	uint64_t mask = vp_long(vp) ? ~0ull : ss->attributes & SEGMENT_D ? 0xffffffffu : 0xffffu;
	uint64_t linear;

	*rsp = (*rsp & ~mask) | ((*rsp - size) & mask);
	linear = (*rsp & mask) + (vp_long(vp) ? 0 : ss->base);
	store_as(vp, op, TLB_SUPERVISOR, vp_long(vp) ? linear : (uint32_t)linear, size, value);
}

/* CALL through a gate to an inner level: a new stack, with the parameters of the old one. */
static const struct op *call_inner(struct soft_vp *vp, const struct op *op, uint64_t gate, struct target *t)
{
	unsigned cpl = descriptor_dpl(t->low), count = vp_long(vp) ? 0 : gate >> 32 & 31;
	unsigned size = vp_long(vp) ? 8 : descriptor_type(gate) == SYSTEM_CALL ? 4 : 2;
	struct segment ss = {.selector = (uint16_t)cpl, .attributes = (uint16_t)(cpl << 5)};
	uint64_t parameters[31], rsp;

	if (vp_long(vp)) {
		rsp = tss_stack64(vp, op, cpl, 0);
	} else {
		uint16_t selector;
		uint32_t esp;

		tss_stack(vp, op, cpl, 0, &selector, &esp);
		ss = segment_check_stack(vp, op, selector, cpl, VECTOR_TS, 0);
		rsp = esp;
	}
	for (unsigned i = 0; i < count; i++)
		parameters[i] = stack_load(vp, op, (int64_t)i * size, size);
	push_as(vp, op, &ss, &rsp, size, vp->seg[SEG_SS].selector);
	push_as(vp, op, &ss, &rsp, size, vp->gpr[GPR_RSP]);
	for (unsigned i = count; i--;)
		push_as(vp, op, &ss, &rsp, size, parameters[i]);
	push_as(vp, op, &ss, &rsp, size, vp->seg[SEG_CS].selector);
	push_as(vp, op, &ss, &rsp, size, op_next_rip(vp, op));
	vp->seg[SEG_SS] = ss;
	vp->gpr[GPR_RSP] = rsp;
	set_code(vp, op, t, cpl);
	return NULL;
}

static const struct op *call_same(struct soft_vp *vp, const struct op *op, struct target *t, unsigned size)
{
	stack_linear(vp, op, -2 * (int)size, 2 * size, true);
	probe_write(vp, op, stack_linear(vp, op, -2 * (int)size, size, true), 2 * size);
	stack_store(vp, op, -(int)size, size, vp->seg[SEG_CS].selector);
	stack_store(vp, op, -2 * (int)size, size, op_next_rip(vp, op));
	stack_move(vp, -2 * (int)size);
	set_code(vp, op, t, vp->cpl);
	return NULL;
}

static const struct op *through_gate(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t low, bool call)
{
	struct target t;
	uint64_t gate = gate_read(vp, op, selector, low, &t);
	bool conforming = type_is_conforming(descriptor_type(t.low));
	unsigned size = vp_long(vp) ? 8 : descriptor_type(gate) == SYSTEM_CALL ? 4 : 2;

	if (call && !conforming && descriptor_dpl(t.low) < vp->cpl)
		return call_inner(vp, op, gate, &t);
	if (!conforming && descriptor_dpl(t.low) != vp->cpl)
		raise_fault_code(vp, op, VECTOR_GP, t.selector & 0xfffcu);
	if (call)
		return call_same(vp, op, &t, size);
	set_code(vp, op, &t, vp->cpl);
	return NULL;
}

/* --- JMP and CALL ------------------------------------------------------------------------------------------------ */

static const struct op *far_real(struct soft_vp *vp, const struct op *op, const struct target *t, bool call)
{
	if (t->offset > vp->seg[SEG_CS].limit)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	if (call) {
		stack_linear(vp, op, -2 * (int)op->size, op->size, true);
		stack_store(vp, op, -(int)op->size, op->size, vp->seg[SEG_CS].selector);
		stack_store(vp, op, -2 * (int)op->size, op->size, op_next_rip(vp, op));
		stack_move(vp, -2 * (int)op->size);
	}
	segment_load_real(vp, SEG_CS, t->selector);
	vp->rip = t->offset;
	vp_mode_changed(vp);
	return NULL;
}

static const struct op *far_branch(struct soft_vp *vp, const struct op *op, bool call)
{
	struct target t = pointer_operand(vp, op);
	unsigned type;

	if (!vp_protected(vp))
		return far_real(vp, op, &t, call);
	if (!(t.selector & 0xfffc))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	t.low = descriptor_read(vp, op, t.selector, VECTOR_GP, 0);
	type = descriptor_type(t.low);
	if (type_is_code(type)) {
		check_code(vp, op, &t);
		if (call)
			return call_same(vp, op, &t, op->size);
		set_code(vp, op, &t, vp->cpl);
		return NULL;
	}
	if (type == SYSTEM_CALL || (type == SYSTEM_CALL16 && !vp_long(vp)))
		return through_gate(vp, op, t.selector, t.low, call);
	if (vp_long(vp) || (type != SYSTEM_TSS && type != SYSTEM_TSS16 && type != SYSTEM_TASK_GATE) ||
	    descriptor_dpl(t.low) < vp->cpl || descriptor_dpl(t.low) < (t.selector & 3u))
		raise_fault_code(vp, op, VECTOR_GP, t.selector & 0xfffcu);
	if (!descriptor_present(t.low))
		raise_fault_code(vp, op, VECTOR_NP, t.selector & 0xfffcu);
	task_switch(vp, op, type == SYSTEM_TASK_GATE ? (uint16_t)(t.low >> 16) : t.selector, op_next_rip(vp, op),
	    call ? TASK_CALL : TASK_JUMP, false, 0);
	return NULL;
}

static const struct op *op_jmp_far(struct soft_vp *vp, const struct op *op)
{
	return far_branch(vp, op, false);
}

static const struct op *op_call_far(struct soft_vp *vp, const struct op *op)
{
	return far_branch(vp, op, true);
}

/* --- RET --------------------------------------------------------------------------------------------------------- */

static const struct op *op_ret_far(struct soft_vp *vp, const struct op *op)
{
	int size = op->size, extra = (int)op->imm;
	struct target t = {.offset = stack_load(vp, op, 0, op->size),
	    .selector = (uint16_t)stack_load(vp, op, size, op->size)};
	unsigned rpl = t.selector & 3, type;
	uint32_t code = t.selector & 0xfffcu;
	struct segment ss;
	uint64_t rsp;

	if (!vp_protected(vp)) {
		if (t.offset > vp->seg[SEG_CS].limit)
			raise_fault_code(vp, op, VECTOR_GP, 0);
		stack_move(vp, 2 * size + extra);
		return far_real(vp, op, &t, false);
	}
	if (!code)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	t.low = descriptor_read(vp, op, t.selector, VECTOR_GP, 0);
	type = descriptor_type(t.low);
	if (!type_is_code(type) || rpl < vp->cpl || (vp_long(vp) && (t.low >> 53 & 3) == 3) ||
	    (type_is_conforming(type) ? descriptor_dpl(t.low) > rpl : descriptor_dpl(t.low) != rpl))
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(t.low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	check_offset(vp, op, &t);
	if (rpl == vp->cpl) {
		stack_move(vp, 2 * size + extra);
		set_code(vp, op, &t, rpl);
		return NULL;
	}
	rsp = stack_load(vp, op, 2 * size + extra, op->size);
	ss.selector = (uint16_t)stack_load(vp, op, 3 * size + extra, op->size);
	if (!(ss.selector & 0xfffc) && vp_long(vp) && t.low >> 53 & 1 && rpl != 3)
		ss = (struct segment){.selector = ss.selector, .attributes = (uint16_t)(rpl << 5)};
	else
		ss = segment_check_stack(vp, op, ss.selector, rpl, VECTOR_GP, 0);
	vp->seg[SEG_SS] = ss;
	set_code(vp, op, &t, rpl);
	if (vp->stack_mask == 0xffff)
		reg16_set(vp, GPR_RSP * 8, (uint16_t)rsp);
	else
		vp->gpr[GPR_RSP] = rsp;
	stack_move(vp, extra);
	segments_drop_inner(vp, rpl);
	vp_mode_changed(vp);
	return NULL;
}

/* --- INT ----------------------------------------------------------------------------------------------------------- */

static const struct op *software_interrupt(struct soft_vp *vp, const struct op *op, enum event event, uint8_t vector)
{
	vp->rip = op_rip(vp, op);
	event_deliver(vp, event, vector, op_next_rip(vp, op));
	return NULL;
}

static const struct op *op_int(struct soft_vp *vp, const struct op *op)
{
	if (vp_v86(vp) && vp_iopl(vp) < 3)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	return software_interrupt(vp, op, EVENT_SOFTWARE, (uint8_t)op->imm);
}

static const struct op *op_int3(struct soft_vp *vp, const struct op *op)
{
	return software_interrupt(vp, op, EVENT_SOFTWARE, VECTOR_BP);
}

static const struct op *op_into(struct soft_vp *vp, const struct op *op)
{
	if (!(vp->arith & ARITH_OF))
		return system_leave(vp, op);
	return software_interrupt(vp, op, EVENT_SOFTWARE, VECTOR_OF);
}

static const struct op *op_int1(struct soft_vp *vp, const struct op *op)
{
	return software_interrupt(vp, op, EVENT_ICEBP, VECTOR_DB);
}

/* --- selection ------------------------------------------------------------------------------------------------------- */

static bool far_pointer(struct decoding *d, struct op *op, op_fn fn)
{
	if (d->insn->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return false;
	if (d->operands[0].type == ZYDIS_OPERAND_TYPE_POINTER)
		op->imm = d->operands[0].ptr.offset | (uint64_t)d->operands[0].ptr.segment << 32;
	op->fn = fn;
	d->ends_block = true;
	return true;
}

static bool ends(struct decoding *d, struct op *op, op_fn fn)
{
	op->fn = fn;
	d->ends_block = true;
	return true;
}

bool far_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return far_pointer(d, op, op_jmp_far);
	case ZYDIS_MNEMONIC_CALL:
		return far_pointer(d, op, op_call_far);
	case ZYDIS_MNEMONIC_RET:
		if (d->insn->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
			return false;
		if (d->operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			op->imm = d->operands[0].imm.value.u & 0xffff;
		return ends(d, op, op_ret_far);
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		return ends(d, op, op_iret);
	case ZYDIS_MNEMONIC_INT:
		op->imm = d->operands[0].imm.value.u & 0xff;
		return ends(d, op, op_int);
	case ZYDIS_MNEMONIC_INT3:
		return ends(d, op, op_int3);
	case ZYDIS_MNEMONIC_INTO:
		return ends(d, op, op_into);
	case ZYDIS_MNEMONIC_INT1:
		return ends(d, op, op_int1);
	default:
		return false;
	}
}
