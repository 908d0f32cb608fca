// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_branch.c - near JMP, CALL and RET, Jcc, LOOPcc, JCXZ.
 *
 * Handlers with 64 in their name serve 64-bit mode, where
 * nothing is masked and the stack has no segment; those with any serve every mode and operand size.
 */
#include "hypervisor/soft/exec_branch.h"

#include "base/bytes.h"
#include "hypervisor/soft/exec_stack.h"

/* What a new RIP is cut to by the operand size. */
static inline uint64_t rip_masked(const struct op *op, uint64_t rip)
{
	if (op->size == 8)
		return rip;
	return op->size == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* --- JMP and conditional jumps ------------------------------------------------------------------ */

static inline const struct op *take(struct soft_vp *vp, const struct op *op, uint64_t rip)
{
	branch_check(vp, op, rip);
	return branch_dispatch(vp, TAKEN, rip);
}

static const struct op *jmp_i64(struct soft_vp *vp, const struct op *op)
{
	return take64(vp, op);
}

static const struct op *jmp_i_any(struct soft_vp *vp, const struct op *op)
{
	return take(vp, op, rip_masked(op, target64(vp, op)));
}

#define DEFINE_JCC(cc, expression)                                                      \
	static const struct op *j##cc##_64(struct soft_vp *vp, const struct op *op)     \
	{                                                                               \
		return jump_if(vp, op, condition_##cc(vp->arith));                      \
	}                                                                               \
                                                                                        \
	static const struct op *j##cc##_any(struct soft_vp *vp, const struct op *op)    \
	{                                                                               \
		if (condition_##cc(vp->arith))                                          \
			return take(vp, op, rip_masked(op, target64(vp, op)));          \
		return branch_dispatch(vp, NOT_TAKEN, op_next_rip(vp, op));         \
	}

CONDITIONS(DEFINE_JCC)

static inline uint64_t count_register(const struct soft_vp *vp, const struct op *op)
{
	if (op->src2 == 8)
		return vp->gpr[GPR_RCX];
	return op->src2 == 4 ? reg32(vp, GPR_RCX * 8) : reg16(vp, GPR_RCX * 8);
}

/* src2: the width of the count in bytes. */
static const struct op *jcxz(struct soft_vp *vp, const struct op *op)
{
	if (!count_register(vp, op))
		return take(vp, op, rip_masked(op, target64(vp, op)));
	return branch_dispatch(vp, NOT_TAKEN, op_next_rip(vp, op));
}

static inline const struct op *loop_if(struct soft_vp *vp, const struct op *op, bool condition)
{
	uint64_t rip = rip_masked(op, target64(vp, op));
	uint64_t count = count_register(vp, op) - 1;
	bool taken;

	if (op->src2 == 2)
		count = (uint16_t)count;
	else if (op->src2 == 4)
		count = (uint32_t)count;
	taken = count && condition;
	if (taken)
		branch_check(vp, op, rip);
	if (op->src2 == 2)
		reg16_set(vp, GPR_RCX * 8, (uint16_t)count);
	else
		reg64_set(vp, GPR_RCX * 8, count);
	if (taken)
		return branch_dispatch(vp, TAKEN, rip);
	return branch_dispatch(vp, NOT_TAKEN, op_next_rip(vp, op));
}

static const struct op *loop(struct soft_vp *vp, const struct op *op)
{
	return loop_if(vp, op, true);
}

static const struct op *loope(struct soft_vp *vp, const struct op *op)
{
	return loop_if(vp, op, vp->arith & ARITH_ZF);
}

static const struct op *loopne(struct soft_vp *vp, const struct op *op)
{
	return loop_if(vp, op, !(vp->arith & ARITH_ZF));
}

/* --- CALL and RET ------------------------------------------------------------------------------- */

/* The return address is written, then the target checked, as processors do; only then RSP and RIP change. */
static OUT_OF_LINE const struct op *call_any(struct soft_vp *vp, const struct op *op, int slot,
    uint64_t rip)
{
	uint64_t sp;

	sp = stack_store(vp, op, 1, op_next_rip(vp, op));
	branch_check(vp, op, rip);
	stack_pointer_set(vp, sp);
	return branch_near(vp, slot, rip);
}

static inline const struct op *call64(struct soft_vp *vp, const struct op *op, int slot, uint64_t rip,
    uint64_t next)
{
	uint64_t linear = vp->gpr[GPR_RSP] - 8;
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (unlikely(!tlb_writes(vp, e, linear, 8)))
		return call_any(vp, op, slot, rip);
	*(ram64 *)(uintptr_t)(linear + e->addend) = next;
	branch_check(vp, op, rip);
	vp->gpr[GPR_RSP] = linear;
	return branch_dispatch(vp, slot, rip);
}

static const struct op *call_i64(struct soft_vp *vp, const struct op *op)
{
	return call64(vp, op, TAKEN, target64(vp, op), next64(vp, op));
}

static const struct op *call_i_any(struct soft_vp *vp, const struct op *op)
{
	return call_any(vp, op, TAKEN, rip_masked(op, target64(vp, op)));
}

static const struct op *call_r64(struct soft_vp *vp, const struct op *op)
{
	return call64(vp, op, COMPUTED, reg64(vp, op->dst), next64(vp, op));
}

static const struct op *call_r_any(struct soft_vp *vp, const struct op *op)
{
	return call_any(vp, op, COMPUTED, rip_masked(op, reg64(vp, op->dst)));
}

static const struct op *jmp_r(struct soft_vp *vp, const struct op *op)
{
	uint64_t rip = rip_masked(op, reg64(vp, op->dst));

	branch_check(vp, op, rip);
	return branch_dispatch(vp, COMPUTED, rip);
}

static inline uint64_t load_target(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = ea(vp, op, op->size, false);

	if (op->size == 8)
		return load64(vp, op, linear);
	return op->size == 4 ? load32(vp, op, linear) : load16(vp, op, linear);
}

static const struct op *jmp_m(struct soft_vp *vp, const struct op *op)
{
	uint64_t rip = load_target(vp, op);

	branch_check(vp, op, rip);
	return branch_dispatch(vp, COMPUTED, rip);
}

static const struct op *call_m64(struct soft_vp *vp, const struct op *op)
{
	return call64(vp, op, COMPUTED, load64(vp, op, ea(vp, op, 8, false)), op_next_rip(vp, op));
}

static const struct op *call_m_any(struct soft_vp *vp, const struct op *op)
{
	return call_any(vp, op, COMPUTED, load_target(vp, op));
}

/* imm: bytes that RET drops beside the address, mostly 0. */
static OUT_OF_LINE const struct op *ret_any(struct soft_vp *vp, const struct op *op)
{
	uint64_t rip = stack_load(vp, op, 0);

	branch_check(vp, op, rip);
	stack_pointer_set(vp, vp->gpr[GPR_RSP] + op->size + op->imm);
	return branch_near(vp, COMPUTED, rip);
}

static const struct op *ret64(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear = vp->gpr[GPR_RSP], rip;
	const struct tlb_entry *e = tlb_entry(vp, linear);

	if (unlikely(!tlb_reads(vp, e, linear, 8)))
		return ret_any(vp, op);
	rip = *(const ram64 *)(uintptr_t)(linear + e->addend);
	branch_check(vp, op, rip);
	vp->gpr[GPR_RSP] = linear + 8 + op->imm;
	return branch_dispatch(vp, COMPUTED, rip);
}

/* --- selection ---------------------------------------------------------------------------------- */

static bool is_near(const struct decoding *d)
{
	return d->insn->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
}

/* One of three by the kind of operand. */
static bool select_target(struct decoding *d, struct op *op, op_fn immediate, op_fn reg, op_fn memory)
{
	if (!is_near(d))
		return false;
	switch (d->operands[0].type) {
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		op->imm += op->offset + (uint64_t)op->length;
		op->fn = immediate;
		break;
	case ZYDIS_OPERAND_TYPE_REGISTER:
		op->fn = reg;
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		op->fn = memory;
		break;
	default:
		return false;
	}
	if (op->fn != memory)
		op->disp = op->offset + (int64_t)op->length;
	d->ends_block = true;
	return true;
}

static bool select_call(struct decoding *d, struct op *op, bool fast)
{
	if (fast)
		return select_target(d, op, call_i64, call_r64, call_m64);
	return select_target(d, op, call_i_any, call_r_any, call_m_any);
}

static bool select_ret(struct decoding *d, struct op *op, bool fast)
{
	if (!is_near(d))
		return false;
	op->imm = d->insn->operand_count_visible ? d->operands[0].imm.value.u & 0xffff : 0;
	op->fn = fast ? ret64 : ret_any;
	d->ends_block = true;
	return true;
}

static bool select_counted(struct decoding *d, struct op *op, op_fn fn, unsigned width)
{
	op->src2 = (uint8_t)(width / 8);
	return select_target(d, op, fn, NULL, NULL);
}

#define JCC_64(cc, expression) j##cc##_64,

int branch_condition(const struct op *op)
{
	static const op_fn jumps[] = {CONDITIONS(JCC_64)};

	for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++)
		if (op->fn == jumps[i])
			return (int)i;
	return -1;
}

#define SELECT_JCC(cc, expression)      \
	case ZYDIS_MNEMONIC_J##cc:      \
		return select_target(d, op, fast ? j##cc##_64 : j##cc##_any, NULL, NULL);

bool branch_select(struct decoding *d, struct op *op)
{
	bool fast = d->mode == MODE_64 && op->size == 8;
	unsigned width = d->insn->address_width;

	if (d->insn->meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return false;
	take_operands(d, op);
	switch (d->insn->mnemonic) {
		CONDITIONS(SELECT_JCC)
	case ZYDIS_MNEMONIC_JMP:
		return select_target(d, op, fast ? jmp_i64 : jmp_i_any, jmp_r, jmp_m);
	case ZYDIS_MNEMONIC_CALL:
		return select_call(d, op, fast);
	case ZYDIS_MNEMONIC_RET:
		return select_ret(d, op, fast);
	case ZYDIS_MNEMONIC_JCXZ:
		return select_counted(d, op, jcxz, 16);
	case ZYDIS_MNEMONIC_JECXZ:
		return select_counted(d, op, jcxz, 32);
	case ZYDIS_MNEMONIC_JRCXZ:
		return select_counted(d, op, jcxz, 64);
	case ZYDIS_MNEMONIC_LOOP:
		return select_counted(d, op, loop, width);
	case ZYDIS_MNEMONIC_LOOPE:
		return select_counted(d, op, loope, width);
	case ZYDIS_MNEMONIC_LOOPNE:
		return select_counted(d, op, loopne, width);
	default:
		return false;
	}
}
