// SPDX-License-Identifier: GPL-2.0-or-later
/* system_tables.c - descriptor table registers, and questions about selectors. */
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

static void refuse_umip(struct soft_vp *vp, const struct op *op)
{
	if (vp->cpl && vp->cr4 & CR4_UMIP)
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

/* --- GDTR, IDTR --------------------------------------------------------------------------------------------- */

static const struct op *load_table(struct soft_vp *vp, const struct op *op, uint64_t *base, uint16_t *limit)
{
	uint64_t at, b;
	uint16_t l;

	require_cpl0(vp, op);
	at = ea(vp, op, vp->mode == MODE_64 ? 10 : 6, false);
	l = load16(vp, op, at);
	at = ea_part(vp, op, at, 2);
	b = vp->mode == MODE_64 ? load64(vp, op, at) : load32(vp, op, at);
	if (vp->mode != MODE_64 && op->size == 2)
		b &= 0xffffff;
	if (!is_canonical(b))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	*base = b;
	*limit = l;
	return dispatch(vp, op + 1);
}

static const struct op *op_lgdt(struct soft_vp *vp, const struct op *op)
{
	return load_table(vp, op, &vp->gdt_base, &vp->gdt_limit);
}

static const struct op *op_lidt(struct soft_vp *vp, const struct op *op)
{
	return load_table(vp, op, &vp->idt_base, &vp->idt_limit);
}

static const struct op *store_table(struct soft_vp *vp, const struct op *op, uint64_t base, uint16_t limit)
{
	uint8_t bytes[10];
	unsigned size = vp->mode == MODE_64 ? 10 : 6;

	refuse_umip(vp, op);
	le16_put(bytes, limit);
	le64_put(bytes + 2, base);
	store_bytes(vp, op, ea(vp, op, size, true), bytes, size);
	return dispatch(vp, op + 1);
}

static const struct op *op_sgdt(struct soft_vp *vp, const struct op *op)
{
	return store_table(vp, op, vp->gdt_base, vp->gdt_limit);
}

static const struct op *op_sidt(struct soft_vp *vp, const struct op *op)
{
	return store_table(vp, op, vp->idt_base, vp->idt_limit);
}

/* --- LDTR, TR ------------------------------------------------------------------------------------------------- */

static uint16_t selector_operand(struct soft_vp *vp, const struct op *op)
{
	return op->flags & OP_MEMORY ? load16(vp, op, ea(vp, op, 2, false)) : reg16(vp, op->src);
}

/* LDT and TSS descriptors are wide in long mode. */
static struct segment system_segment(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t low)
{
	struct segment s = segment_unpack(selector, low);

	if (vp_long(vp)) {
		uint64_t high = descriptor_read_high(vp, op, selector);

		if (high >> 40 & 0x1f)
			raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
		s.base |= high << 32;
		if (!is_canonical(s.base))
			raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	}
	return s;
}

static const struct op *op_lldt(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector;
	uint64_t low;

	require_protected(vp, op);
	require_cpl0(vp, op);
	selector = selector_operand(vp, op);
	if (!(selector & 0xfffc)) {
		vp->ldtr = (struct segment){.selector = selector};
		return dispatch(vp, op + 1);
	}
	if (selector & 4)
		raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	low = descriptor_read(vp, op, selector, VECTOR_GP, 0);
	if (descriptor_type(low) != SYSTEM_LDT)
		raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, selector & 0xfffcu);
	vp->ldtr = system_segment(vp, op, selector, low);
	return dispatch(vp, op + 1);
}

static const struct op *op_ltr(struct soft_vp *vp, const struct op *op)
{
	struct segment s;
	uint16_t selector;
	uint64_t low;
	unsigned type;

	require_protected(vp, op);
	require_cpl0(vp, op);
	selector = selector_operand(vp, op);
	if (!(selector & 0xfffc) || selector & 4)
		raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	low = descriptor_read(vp, op, selector, VECTOR_GP, 0);
	type = descriptor_type(low);
	if (type != SYSTEM_TSS && (type != SYSTEM_TSS16 || vp_long(vp)))
		raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, selector & 0xfffcu);
	s = system_segment(vp, op, selector, low);
	store_system(vp, op, descriptor_address(vp, selector) + 5, 1, (low >> 40 & 0xff) | 2);
	s.attributes |= 2;
	vp->tr = s;
	return dispatch(vp, op + 1);
}

static const struct op *store_selector(struct soft_vp *vp, const struct op *op, uint16_t selector)
{
	require_protected(vp, op);
	refuse_umip(vp, op);
	if (op->flags & OP_MEMORY)
		store16(vp, op, ea(vp, op, 2, true), selector);
	else
		reg_size_set(vp, op->dst, op->size, selector);
	return dispatch(vp, op + 1);
}

static const struct op *op_sldt(struct soft_vp *vp, const struct op *op)
{
	return store_selector(vp, op, vp->ldtr.selector);
}

static const struct op *op_str(struct soft_vp *vp, const struct op *op)
{
	return store_selector(vp, op, vp->tr.selector);
}

/* --- LAR, LSL, VERR, VERW, ARPL --------------------------------------------------------------------------------- */

static void set_zf(struct soft_vp *vp, bool zf)
{
	vp->arith = (uint16_t)((vp->arith & ~ARITH_ZF) | (zf ? ARITH_ZF : 0));
}

/* Code and data at these privileges, conforming code at any. */
static bool visible(const struct soft_vp *vp, uint16_t selector, uint64_t low)
{
	return type_is_conforming(descriptor_type(low)) ||
	    (descriptor_dpl(low) >= vp->cpl && descriptor_dpl(low) >= (selector & 3u));
}

static bool find_visible(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t *low)
{
	return selector & 0xfffc && descriptor_find(vp, op, selector, low) && visible(vp, selector, *low);
}

static const struct op *op_lar(struct soft_vp *vp, const struct op *op)
{
	/* System types that LAR knows, by bit: TSS, LDT, call and task gates; fewer in long mode. */
	uint32_t types = vp_long(vp) ? 0x1a04 : 0x1a3e;
	uint16_t selector;
	uint64_t low;
	bool ok;

	require_protected(vp, op);
	selector = selector_operand(vp, op);
	ok = find_visible(vp, op, selector, &low) &&
	    (descriptor_type(low) & 0x10 || types >> descriptor_type(low) & 1);
	if (ok)
		reg_size_set(vp, op->dst, op->size, low >> 32 & 0xffff00);
	set_zf(vp, ok);
	return dispatch(vp, op + 1);
}

static const struct op *op_lsl(struct soft_vp *vp, const struct op *op)
{
	uint32_t types = vp_long(vp) ? 0x0a04 : 0x0a0e;
	uint16_t selector;
	uint64_t low;
	bool ok;

	require_protected(vp, op);
	selector = selector_operand(vp, op);
	ok = find_visible(vp, op, selector, &low) &&
	    (descriptor_type(low) & 0x10 || types >> descriptor_type(low) & 1);
	if (ok)
		reg_size_set(vp, op->dst, op->size, segment_unpack(selector, low).limit);
	set_zf(vp, ok);
	return dispatch(vp, op + 1);
}

static const struct op *op_verr(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector;
	uint64_t low;

	require_protected(vp, op);
	selector = selector_operand(vp, op);
	set_zf(vp, find_visible(vp, op, selector, &low) && descriptor_type(low) & 0x10 &&
	               (descriptor_type(low) & 0x0a) != 0x08);
	return dispatch(vp, op + 1);
}

static const struct op *op_verw(struct soft_vp *vp, const struct op *op)
{
	uint16_t selector;
	uint64_t low;

	require_protected(vp, op);
	selector = selector_operand(vp, op);
	set_zf(vp, find_visible(vp, op, selector, &low) && type_is_writable_data(descriptor_type(low)));
	return dispatch(vp, op + 1);
}

static const struct op *op_arpl(struct soft_vp *vp, const struct op *op)
{
	uint16_t to, rpl = reg16(vp, op->src) & 3;
	uint64_t at = 0;
	bool raise;

	require_protected(vp, op);
	if (op->flags & OP_MEMORY) {
		at = ea(vp, op, 2, true);
		probe_write(vp, op, at, 2);
		to = load16(vp, op, at);
	} else {
		to = reg16(vp, op->dst);
	}
	raise = (to & 3) < rpl;
	to = (uint16_t)((to & ~3u) | rpl);
	if (raise && op->flags & OP_MEMORY)
		store16(vp, op, at, to);
	else if (raise)
		reg16_set(vp, op->dst, to);
	set_zf(vp, raise);
	return dispatch(vp, op + 1);
}

/* --- selection ----------------------------------------------------------------------------------------------------- */

static uint8_t register_of(const struct decoding *d, unsigned i)
{
	return d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? register_offset(d->operands[i].reg.value)
	                                                          : GPR_ZERO * 8;
}

bool tables_select(struct decoding *d, struct op *op)
{
	static const struct {
		ZydisMnemonic mnemonic;
		op_fn fn;
		int8_t dst, src; /* operand numbers; -1: none */
	} table[] = {
	    {ZYDIS_MNEMONIC_LGDT, op_lgdt, -1, -1},
	    {ZYDIS_MNEMONIC_LIDT, op_lidt, -1, -1},
	    {ZYDIS_MNEMONIC_SGDT, op_sgdt, -1, -1},
	    {ZYDIS_MNEMONIC_SIDT, op_sidt, -1, -1},
	    {ZYDIS_MNEMONIC_LLDT, op_lldt, -1, 0},
	    {ZYDIS_MNEMONIC_LTR, op_ltr, -1, 0},
	    {ZYDIS_MNEMONIC_SLDT, op_sldt, 0, -1},
	    {ZYDIS_MNEMONIC_STR, op_str, 0, -1},
	    {ZYDIS_MNEMONIC_LAR, op_lar, 0, 1},
	    {ZYDIS_MNEMONIC_LSL, op_lsl, 0, 1},
	    {ZYDIS_MNEMONIC_VERR, op_verr, -1, 0},
	    {ZYDIS_MNEMONIC_VERW, op_verw, -1, 0},
	    {ZYDIS_MNEMONIC_ARPL, op_arpl, 0, 1},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].mnemonic != d->insn->mnemonic)
			continue;
		if (table[i].dst >= 0)
			op->dst = register_of(d, (unsigned)table[i].dst);
		if (table[i].src >= 0)
			op->src = register_of(d, (unsigned)table[i].src);
		op->fn = table[i].fn;
		return true;
	}
	return false;
}
