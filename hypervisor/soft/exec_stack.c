// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_stack.c - PUSH, POP, PUSHA, POPA, ENTER, LEAVE.
 *
 * In 64-bit mode a push or pop of 8 bytes that hits the TLB is done on the spot. Everything else,
 * and every mode with stack segments, goes through stack_*() of exec_stack.h.
 */
#include "hypervisor/soft/exec_stack.h"

#include "hypervisor/soft/exec.h"

/* --- PUSH --------------------------------------------------------------------------------------- */

#define DEFINE_PUSH(name, value_any, value64)                                                   \
	static OUT_OF_LINE const struct op *name##_any(struct soft_vp *vp, const struct op *op) \
	{                                                                                       \
		uint64_t sp = stack_store(vp, op, 1, value_any);                                \
                                                                                                \
		stack_pointer_set(vp, sp);                                                      \
		return op + 1;                                                                  \
	}                                                                                       \
                                                                                                \
	static const struct op *name##64(struct soft_vp *vp, const struct op *op)               \
	{                                                                                       \
		uint64_t linear = vp->gpr[GPR_RSP] - 8;                                         \
		const struct tlb_entry *e = tlb_entry(vp, linear);                              \
                                                                                                \
		if (unlikely(!tlb_writes(vp, e, linear, 8)))                                    \
			return name##_any(vp, op);                                              \
		*(ram64 *)(uintptr_t)(linear + e->addend) = value64;                            \
		vp->gpr[GPR_RSP] = linear;                                                      \
		return dispatch(vp, op + 1);                                                    \
	}

DEFINE_PUSH(push_r, reg64(vp, op->src), reg64(vp, op->src))
DEFINE_PUSH(push_i, op->imm, op->imm)

static const struct op *push_m(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = ea(vp, op, op->size, false), v, sp;

	if (op->size == 8)
		v = load64(vp, op, linear);
	else if (op->size == 4)
		v = load32(vp, op, linear);
	else
		v = load16(vp, op, linear);
	sp = stack_store(vp, op, 1, v);
	stack_pointer_set(vp, sp);
	return dispatch(vp, op + 1);
}

/* --- POP ---------------------------------------------------------------------------------------- */

static void register_set(struct soft_vp *vp, unsigned r, unsigned size, uint64_t v)
{
	if (size == 8)
		reg64_set(vp, r, v);
	else if (size == 4)
		reg32_set(vp, r, (uint32_t)v);
	else
		reg16_set(vp, r, (uint16_t)v);
}

/* POP SP: the popped value stays, not the advanced pointer. */
static OUT_OF_LINE const struct op *pop_r_any(struct soft_vp *vp, const struct op *op)
{
	uint64_t v = stack_load(vp, op, 0);

	stack_pointer_set(vp, vp->gpr[GPR_RSP] + op->size);
	register_set(vp, op->dst, op->size, v);
	return op + 1;
}

static const struct op *pop_r64(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = vp->gpr[GPR_RSP];
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (unlikely(!tlb_reads(vp, e, linear, 8)))
		return pop_r_any(vp, op);
	vp->gpr[GPR_RSP] = linear + 8;
	reg64_set(vp, op->dst, *(const ram64 *)(uintptr_t)(linear + e->addend));
	return dispatch(vp, op + 1);
}

/* An address by way of RSP counts from the advanced pointer: stack_select() put that into disp. */
static const struct op *pop_m(struct soft_vp *vp, const struct op *op)
{
	uint64_t v = stack_load(vp, op, 0), linear = ea(vp, op, op->size, true);

	if (op->size == 8)
		store64(vp, op, linear, v);
	else if (op->size == 4)
		store32(vp, op, linear, (uint32_t)v);
	else
		store16(vp, op, linear, (uint16_t)v);
	stack_pointer_set(vp, vp->gpr[GPR_RSP] + op->size);
	return dispatch(vp, op + 1);
}

/* --- all registers at once ---------------------------------------------------------------------- */

/* A fault in the middle leaves some words below the stack pointer, as on the processor. */
static const struct op *pusha(struct soft_vp *vp, const struct op *op)
{
	uint64_t sp = 0;

	for (unsigned i = 0; i < 8; i++)
		sp = stack_store(vp, op, i + 1, vp->gpr[i]);
	stack_pointer_set(vp, sp);
	return op + 1;
}

/* When a word faults the registers of those before it have their new values, as on Intel's processors; RSP changes last. */
static const struct op *popa(struct soft_vp *vp, const struct op *op)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t v = stack_load(vp, op, i);

		if (7 - i != GPR_RSP)
			register_set(vp, (7 - i) * 8, op->size, v);
	}
	stack_pointer_set(vp, vp->gpr[GPR_RSP] + 8u * op->size);
	return op + 1;
}

/* --- frames ------------------------------------------------------------------------------------- */

/* ENTER imm16, imm8 (SDM volume 2A): imm is the size, src2 the nesting level. The frame pointers of the
 * outer levels are copied from the old frame. Registers change last. */
static const struct op *enter(struct soft_vp *vp, const struct op *op)
{
	unsigned level = op->src2, words = 1;
	uint64_t sp = stack_store(vp, op, 1, vp->gpr[GPR_RBP]);
	uint64_t frame = (vp->gpr[GPR_RSP] & ~vp->stack_mask) | sp;

	if (level) {
		for (unsigned i = 1; i < level; i++) {
			uint64_t outer = vp->gpr[GPR_RBP] - (uint64_t)i * op->size;

			stack_store(vp, op, ++words, stack_load_at(vp, op, outer));
		}
		sp = stack_store(vp, op, ++words, frame);
	}
	sp = (sp - op->imm) & vp->stack_mask;
	probe_write(vp, op, segment_linear(vp, op, SEG_SS, sp, op->size, true), op->size);
	register_set(vp, GPR_RBP * 8, op->size, frame);
	stack_pointer_set(vp, sp);
	return op + 1;
}

static const struct op *leave_any(struct soft_vp *vp, const struct op *op)
{
	uint64_t bp = vp->gpr[GPR_RBP], v = stack_load_at(vp, op, bp);

	stack_pointer_set(vp, bp + op->size);
	register_set(vp, GPR_RBP * 8, op->size, v);
	return op + 1;
}

static const struct op *leave64(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = vp->gpr[GPR_RBP];
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (unlikely(!tlb_reads(vp, e, linear, 8)))
		return leave_any(vp, op);
	vp->gpr[GPR_RSP] = linear + 8;
	vp->gpr[GPR_RBP] = *(const ram64 *)(uintptr_t)(linear + e->addend);
	return dispatch(vp, op + 1);
}

/* --- selection ---------------------------------------------------------------------------------- */

static bool select_push(struct decoding *d, struct op *op, bool fast)
{
	switch (take_operands(d, op)) {
	case SHAPE_R:
		op->src = op->dst;
		op->fn = fast ? push_r64 : push_r_any;
		return true;
	case SHAPE_I:
		op->fn = fast ? push_i64 : push_i_any;
		return true;
	case SHAPE_M:
		op->fn = push_m;
		return true;
	default:
		return false; /* segment registers */
	}
}

static bool select_pop(struct decoding *d, struct op *op, bool fast)
{
	switch (take_operands(d, op)) {
	case SHAPE_R:
		op->fn = fast ? pop_r64 : pop_r_any;
		return true;
	case SHAPE_M:
		if (op->base == GPR_RSP * 8)
			decode_displacement(op, (int64_t)op->disp + op->size);
		op->fn = pop_m;
		return true;
	default:
		return false;
	}
}

bool stack_select(struct decoding *d, struct op *op)
{
	bool fast = d->mode == MODE_64 && op->size == 8;

	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return select_push(d, op, fast);
	case ZYDIS_MNEMONIC_POP:
		return select_pop(d, op, fast);
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		op->fn = pusha;
		return true;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		op->fn = popa;
		return true;
	case ZYDIS_MNEMONIC_ENTER:
		op->imm = d->operands[0].imm.value.u & 0xffff;
		op->src2 = d->operands[1].imm.value.u & 31;
		op->seg = SEG_SS; /* whose faults are #SS */
		op->fn = enter;
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
		op->seg = SEG_SS;
		op->fn = fast ? leave64 : leave_any;
		return true;
	default:
		return false;
	}
}
