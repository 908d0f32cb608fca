// SPDX-License-Identifier: GPL-2.0-or-later
/* system_segments.c - segment registers, far pointers, FS and GS bases. */
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

/* What follows from MOV and POP: new modes and, for SS, the shadow. LSS, which loads RSP too, has none. */
static const struct op *loaded(struct soft_vp *vp, const struct op *op, unsigned seg)
{
	if (seg != SEG_SS)
		return system_next(vp, op);
	/* SDM volume 3, 6.8.3: debug exceptions wait as well. */
	vp->no_step = true;
	if (unlikely(vp->slow)) {
		vp->breakpoints_held = vp->breakpoints;
		vp->breakpoints = 0;
	}
	return system_shadow(vp, op);
}

static const struct op *op_mov_to_seg(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector = op->flags & OP_MEMORY ? load16(vp, op, ea(vp, op, 2, false)) : reg16(vp, op->src);

	segment_load(vp, op, op->dst, selector);
	return loaded(vp, op, op->dst);
}

static const struct op *op_mov_from_seg(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector = vp->seg[op->src].selector;

	if (op->flags & OP_MEMORY)
		store16(vp, op, ea(vp, op, 2, true), selector);
	else
		reg_size_set(vp, op->dst, op->size, selector);
	return dispatch(vp, op + 1);
}

static const struct op *op_push_seg(struct soft_vp *vp, const struct op *op)
{
	/* With a wide operand only 16 bits need be written; we write zeros above. */
	stack_store(vp, op, -(int)op->size, op->size, vp->seg[op->src].selector);
	stack_move(vp, -(int)op->size);
	return dispatch(vp, op + 1);
}

static const struct op *op_pop_seg(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector = (uint16_t)stack_load(vp, op, 0, op->size);
	uint64_t mask = vp->stack_mask;

	/* SP moves by the width that the old SS had. */
	segment_load(vp, op, op->dst, selector);
	if (mask == 0xffff)
		reg16_set(vp, GPR_RSP * 8, (uint16_t)(vp->gpr[GPR_RSP] + op->size));
	else
		vp->gpr[GPR_RSP] = (vp->gpr[GPR_RSP] + op->size) & mask;
	return loaded(vp, op, op->dst);
}

/* LES, LDS, LSS, LFS, LGS: the segment in src, the register in dst. */
static const struct op *op_load_pointer(struct soft_vp *vp, const struct op *op)
{
	uint64_t at = ea(vp, op, op->size + 2u, false);
	uint64_t offset = load_size(vp, op, at, op->size);
	uint16_t selector = load16(vp, op, ea_part(vp, op, at, op->size));

	segment_load(vp, op, op->src, selector);
	reg_size_set(vp, op->dst, op->size, offset);
	return system_next(vp, op);
}

/* --- FS and GS bases ------------------------------------------------------------------------------------------------ */

static void require_fsgsbase(struct soft_vp *vp, const struct op *op)
{
	if (!(vp->cr4 & CR4_FSGSBASE))
		raise_fault(vp, op, VECTOR_UD);
}

static const struct op *op_read_base(struct soft_vp *vp, const struct op *op)
{
	require_fsgsbase(vp, op);
	reg_size_set(vp, op->dst, op->size, vp->seg[op->src2].base);
	return dispatch(vp, op + 1);
}

static const struct op *op_write_base(struct soft_vp *vp, const struct op *op)
{
	uint64_t base = reg_size(vp, op->dst, op->size);

	require_fsgsbase(vp, op);
	if (!is_canonical(base))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	vp->seg[op->src2].base = vp->seg_base[op->src2] = base;
	return dispatch(vp, op + 1);
}

static const struct op *op_swapgs(struct soft_vp *vp, const struct op *op)
{
	uint64_t base = vp->msr_kernel_gs_base;

	require_cpl0(vp, op);
	vp->msr_kernel_gs_base = vp->seg[SEG_GS].base;
	vp->seg[SEG_GS].base = vp->seg_base[SEG_GS] = base;
	return dispatch(vp, op + 1);
}

/* --- selection -------------------------------------------------------------------------------------------------------- */

static bool is_segment(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

/* ES CS SS DS FS GS: Zydis counts as the encoding does, and so do we. */
static uint8_t segment_number(const ZydisDecodedOperand *o)
{
	return (uint8_t)ZydisRegisterGetId(o->reg.value);
}

static bool mov_select(struct decoding *d, struct op *op)
{
	if (is_segment(&d->operands[0])) {
		op->dst = segment_number(&d->operands[0]);
		if (op->dst == SEG_CS)
			return false;
		if (d->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
			op->src = register_offset(d->operands[1].reg.value);
		op->fn = op_mov_to_seg;
		return true;
	}
	if (is_segment(&d->operands[1])) {
		op->src = segment_number(&d->operands[1]);
		if (d->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			op->dst = register_offset(d->operands[0].reg.value);
			op->size = (uint8_t)(d->operands[0].size / 8);
		}
		op->fn = op_mov_from_seg;
		return true;
	}
	return false;
}

static bool pointer_select(struct decoding *d, struct op *op, unsigned seg)
{
	op->dst = register_offset(d->operands[0].reg.value);
	op->src = (uint8_t)seg;
	op->fn = op_load_pointer;
	return true;
}

static bool base_select(struct decoding *d, struct op *op, op_fn fn, unsigned seg)
{
	op->dst = register_offset(d->operands[0].reg.value);
	op->src2 = (uint8_t)seg;
	op->fn = fn;
	return true;
}

bool segments_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return mov_select(d, op);
	case ZYDIS_MNEMONIC_PUSH:
		if (!is_segment(&d->operands[0]))
			return false;
		op->src = segment_number(&d->operands[0]);
		op->fn = op_push_seg;
		return true;
	case ZYDIS_MNEMONIC_POP:
		if (!is_segment(&d->operands[0]))
			return false;
		op->dst = segment_number(&d->operands[0]);
		op->fn = op_pop_seg;
		return true;
	case ZYDIS_MNEMONIC_LES:
		return pointer_select(d, op, SEG_ES);
	case ZYDIS_MNEMONIC_LDS:
		return pointer_select(d, op, SEG_DS);
	case ZYDIS_MNEMONIC_LSS:
		return pointer_select(d, op, SEG_SS);
	case ZYDIS_MNEMONIC_LFS:
		return pointer_select(d, op, SEG_FS);
	case ZYDIS_MNEMONIC_LGS:
		return pointer_select(d, op, SEG_GS);
	case ZYDIS_MNEMONIC_RDFSBASE:
		return base_select(d, op, op_read_base, SEG_FS);
	case ZYDIS_MNEMONIC_RDGSBASE:
		return base_select(d, op, op_read_base, SEG_GS);
	case ZYDIS_MNEMONIC_WRFSBASE:
		return base_select(d, op, op_write_base, SEG_FS);
	case ZYDIS_MNEMONIC_WRGSBASE:
		return base_select(d, op, op_write_base, SEG_GS);
	case ZYDIS_MNEMONIC_SWAPGS:
		op->fn = op_swapgs;
		return true;
	default:
		return false;
	}
}
