// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_lanes.c - vector instructions that touch memory element by element, under a mask: gathers,
 * masked loads and stores; and the ones that clear registers. Source: SDM volume 2.
 */
#include "hypervisor/soft/vector_private.h"

/* --- clearing ----------------------------------------------------------------------------------- */

/* Outside 64-bit mode registers 8 to 15 stay (op->dst: how many are touched). */
static const struct op *vzeroupper(struct soft_vp *vp, const struct op *op)
{
	avx_check(vp, op);
	for (unsigned i = 0; i < op->dst; i++)
		memset(vp->ymm[i] + 16, 0, 16);
	return dispatch(vp, op + 1);
}

static const struct op *vzeroall(struct soft_vp *vp, const struct op *op)
{
	avx_check(vp, op);
	memset(vp->ymm, 0, (size_t)op->dst * sizeof(vp->ymm[0]));
	return dispatch(vp, op + 1);
}

/* --- MASKMOVDQU --------------------------------------------------------------------------------- */

/* The processor checks all of the operand, whatever the mask, the upper half first (the manual leaves
 * faults under a mask of zeros to the implementation). */
void vector_store_masked_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, const void *value,
			       const void *mask, unsigned size)
{
	const uint8_t *v = value, *m = mask;

	for (unsigned i = size; i >= 8; i -= 8)
		probe_write(vp, op, ea_part(vp, op, linear, i - 8), 8);
	for (unsigned i = 0; i < size; i++)
		if (m[i] & 0x80)
			store8(vp, op, ea_part(vp, op, linear, i & 8) + (i & 7), v[i]);
}

static const struct op *maskmovdqu(struct soft_vp *vp, const struct op *op)
{
	if (op->src2)
		avx_check(vp, op);
	else
		sse_check(vp, op);
	vector_store_masked_bytes(vp, op, ea(vp, op, 16, true), vp->ymm[op->dst], vp->ymm[op->src], 16);
	return dispatch(vp, op + 1);
}

void vector_select_rdi_operand(const struct decoding *d, struct op *op)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++) {
		const ZydisDecodedOperand *operand = &d->operands[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		op->base = GPR_RDI * 8;
		op->index = GPR_ZERO * 8;
		op->scale = 0;
		op->disp = 0;
		op->seg = SEG_DS; /* base 0 in 64-bit mode; and not the stack, when it faults */
		if (operand->mem.segment == ZYDIS_REGISTER_FS)
			op->seg = SEG_FS;
		else if (operand->mem.segment == ZYDIS_REGISTER_GS)
			op->seg = SEG_GS;
		else if (d->mode != MODE_64)
			op->seg = (uint8_t)(SEG_ES + (operand->mem.segment - ZYDIS_REGISTER_ES));
		if (d->insn->address_width == 32 && d->mode == MODE_64)
			op->flags |= OP_EA_CHECKED | OP_ADDRESS_32;
		else if (d->insn->address_width == 32)
			op->flags |= OP_EA_CHECKED | OP_ADDRESS_32;
		else if (d->insn->address_width == 16)
			op->flags |= OP_EA_CHECKED | OP_ADDRESS_16;
	}
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ --------------------------------------------- */

struct lanes {
	uint8_t mask;    /* register */
	uint8_t index;   /* register: gathers */
	uint8_t bytes;   /* of the vector: 16 or 32 */
	uint8_t element; /* 4 or 8 */
	uint8_t index_element;
	uint8_t count; /* of elements: gathers */
	uint8_t scale;
};
_Static_assert(sizeof(struct lanes) <= 8, "it must fit into op->side->extra[0]");

static inline struct lanes lanes_of(const struct op *op)
{
	struct lanes l;

	memcpy(&l, &op->side->extra[0], sizeof(l));
	return l;
}

static bool is_selected(const uint8_t *mask, unsigned i, unsigned element)
{
	return mask[i * element + element - 1] & 0x80;
}

static uint64_t load_element(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned element)
{
	return element == 8 ? load64(vp, op, linear) : load32(vp, op, linear);
}

static const struct op *masked_load(struct soft_vp *vp, const struct op *op)
{
	struct lanes l = lanes_of(op);
	uint64_t linear;

	avx_check(vp, op);
	linear = ea(vp, op, l.bytes, false);
	memset(vp->vector_scratch, 0, 32);
	for (unsigned i = 0; i < l.bytes / l.element; i++) {
		uint64_t v;

		if (!is_selected(vp->ymm[l.mask], i, l.element))
			continue;
		v = load_element(vp, op, linear + (uint64_t)i * l.element, l.element);
		memcpy(vp->vector_scratch + (size_t)i * l.element, &v, l.element);
	}
	memcpy(vp->ymm[op->dst], vp->vector_scratch, 32);
	return dispatch(vp, op + 1);
}

static const struct op *masked_store(struct soft_vp *vp, const struct op *op)
{
	struct lanes l = lanes_of(op);
	uint64_t linear;

	avx_check(vp, op);
	linear = ea(vp, op, l.bytes, true);
	for (unsigned i = 0; i < l.bytes / l.element; i++)
		if (is_selected(vp->ymm[l.mask], i, l.element))
			probe_write(vp, op, linear + (uint64_t)i * l.element, l.element);
	for (unsigned i = 0; i < l.bytes / l.element; i++) {
		uint64_t at = linear + (uint64_t)i * l.element;

		if (!is_selected(vp->ymm[l.mask], i, l.element))
			continue;
		if (l.element == 8)
			store64(vp, op, at, le64_get(vp->ymm[op->dst] + (size_t)i * 8));
		else
			store32(vp, op, at, le32_get(vp->ymm[op->dst] + (size_t)i * 4));
	}
	return dispatch(vp, op + 1);
}

/* --- gathers ------------------------------------------------------------------------------------ */

static uint64_t gather_address(struct soft_vp *vp, const struct op *op, const struct lanes *l, unsigned i)
{
	const uint8_t *at = vp->ymm[l->index] + (size_t)i * l->index_element;
	int64_t index = l->index_element == 8 ? (int64_t)le64_get(at) : (int32_t)le32_get(at);

	return segment_linear(vp, op, op->seg, ea_offset_at(vp, op, (uint64_t)index << l->scale), l->element, false);
}

/* An element that faults leaves those before it done, and their masks clear: the instruction goes on
 * from there when it is run again. */
own_frame void gather_execute(struct soft_vp *vp, const struct op *op)
{
	struct lanes l = lanes_of(op);
	uint8_t *mask = vp->ymm[l.mask], *dst = vp->ymm[op->dst];
	size_t used = (size_t)l.count * l.element;

	/* What a fault leaves behind too: each element of the mask is its sign, and none is above it. */
	for (unsigned i = 0; i < l.bytes / l.element; i++)
		memset(mask + (size_t)i * l.element, is_selected(mask, i, l.element) ? 0xff : 0, l.element);
	memset(mask + l.bytes, 0, 32u - l.bytes);
	for (unsigned i = 0; i < l.count; i++) {
		uint64_t v;

		if (!is_selected(mask, i, l.element))
			continue;
		v = load_element(vp, op, gather_address(vp, op, &l, i), l.element);
		memcpy(dst + (size_t)i * l.element, &v, l.element);
		memset(mask + (size_t)i * l.element, 0, l.element);
		memset(dst + l.bytes, 0, 32u - l.bytes);
	}
	memset(mask, 0, 32);
	memset(dst + used, 0, 32 - used);
}

static const struct op *gather(struct soft_vp *vp, const struct op *op)
{
	avx_check(vp, op);
	gather_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- selection ---------------------------------------------------------------------------------- */

static unsigned register_bytes(const ZydisDecodedOperand *operand)
{
	return ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_YMM ? 32 : 16;
}

static uint8_t register_number(const ZydisDecodedOperand *operand)
{
	return (uint8_t)ZydisRegisterGetId(operand->reg.value);
}

static bool select_masked(const struct decoding *d, struct op *op, unsigned element)
{
	const ZydisDecodedOperand *o = d->operands;
	bool store = o[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	struct lanes l = {.element = (uint8_t)element, .mask = register_number(&o[1])};

	l.bytes = (uint8_t)register_bytes(&o[1]);
	op->dst = register_number(store ? &o[2] : &o[0]);
	memcpy(&op_take_side(d, op)->extra[0], &l, sizeof(l));
	op->fn = store ? masked_store : masked_load;
	return true;
}

static unsigned shift_of(unsigned scale)
{
	return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

static bool select_gather(const struct decoding *d, struct op *op, unsigned element, unsigned index_element)
{
	const ZydisDecodedOperand *o = d->operands;
	bool wide = d->insn->raw.vex.L;
	unsigned vector = wide ? 32 : 16;
	struct lanes l = {.element = (uint8_t)element, .index_element = (uint8_t)index_element};

	l.mask = register_number(&o[2]);
	l.bytes = (uint8_t)vector;
	l.index = (uint8_t)ZydisRegisterGetId(o[1].mem.index);
	l.scale = (uint8_t)shift_of(o[1].mem.scale);
	l.count = (uint8_t)(vector / (element > index_element ? element : index_element));
	op->index = GPR_ZERO * 8;
	op->scale = 0;
	op->dst = register_number(&o[0]);
	memcpy(&op_take_side(d, op)->extra[0], &l, sizeof(l));
	op->fn = gather;
	return true;
}

static bool select_maskmovdqu(const struct decoding *d, struct op *op)
{
	op->dst = register_number(&d->operands[0]);
	op->src = register_number(&d->operands[1]);
	op->src2 = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	vector_select_rdi_operand(d, op);
	op->fn = maskmovdqu;
	return true;
}

bool vector_lanes_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_VZEROUPPER:
		op->dst = d->mode == MODE_64 ? 16 : 8;
		op->fn = vzeroupper;
		return true;
	case ZYDIS_MNEMONIC_VZEROALL:
		op->dst = d->mode == MODE_64 ? 16 : 8;
		op->fn = vzeroall;
		return true;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return select_maskmovdqu(d, op);
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
		return select_masked(d, op, 4);
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return select_masked(d, op, 8);
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VPGATHERDD:
		return select_gather(d, op, 4, 4);
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD:
		return select_gather(d, op, 4, 8);
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ:
		return select_gather(d, op, 8, 4);
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
		return select_gather(d, op, 8, 8);
	default:
		return false;
	}
}
