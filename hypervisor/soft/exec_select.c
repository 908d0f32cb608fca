// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_select.c - finds the handler of an integer instruction: asks each file of handlers in turn,
 * those of frequent instructions first. Runs once for each decoded instruction.
 */
#include "hypervisor/soft/exec.h"

#include "base/bytes.h"

bool is_general_register(const ZydisDecodedOperand *operand)
{
	if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	switch (ZydisRegisterGetClass(operand->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return true;
	default:
		return false;
	}
}

/* 'R', 'M', 'I', 0 where there is no such operand, '?' for a register of another kind or a far pointer. */
static char operand_letter(const struct decoding *d, unsigned i)
{
	if (i >= d->insn->operand_count_visible)
		return 0;
	switch (d->operands[i].type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return is_general_register(&d->operands[i]) ? 'R' : '?';
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return 'M';
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return 'I';
	default:
		return '?';
	}
}

static enum shape shape_of(char first, char second)
{
	static const struct {
		char first, second;
		enum shape shape;
	} shapes[] = {
	    {'R', 'R', SHAPE_RR}, {'R', 'M', SHAPE_RM}, {'R', 'I', SHAPE_RI}, {'M', 'R', SHAPE_MR},
	    {'M', 'I', SHAPE_MI}, {'R', 0, SHAPE_R},    {'M', 0, SHAPE_M},    {'I', 0, SHAPE_I},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
		if (shapes[i].first == first && shapes[i].second == second)
			return shapes[i].shape;
	return SHAPE_OTHER;
}

enum shape take_operands(const struct decoding *d, struct op *op)
{
	uint8_t *registers[] = {&op->dst, &op->src, &op->src2};

	for (unsigned i = 0; i < d->insn->operand_count_visible && i < ARRAY_SIZE(registers); i++) {
		const ZydisDecodedOperand *operand = &d->operands[i];

		if (is_general_register(operand))
			*registers[i] = register_offset(operand->reg.value);
		else if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			op->imm = operand->imm.value.u;
	}
	return shape_of(operand_letter(d, 0), operand_letter(d, 1));
}

uint8_t memory_segment(const struct decoding *d, unsigned nth)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++) {
		if (d->operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY || nth--)
			continue;
		switch (d->operands[i].mem.segment) {
		case ZYDIS_REGISTER_ES:
			return SEG_ES;
		case ZYDIS_REGISTER_CS:
			return SEG_CS;
		case ZYDIS_REGISTER_SS:
			return SEG_SS;
		case ZYDIS_REGISTER_FS:
			return SEG_FS;
		case ZYDIS_REGISTER_GS:
			return SEG_GS;
		default:
			return SEG_DS;
		}
	}
	return SEG_DS;
}

bool integer_select(struct decoding *d, struct op *op)
{
	static bool (*const selects[])(struct decoding *, struct op *) = {
	    move_select,   alu_select,   branch_select,   stack_select,  condition_select,
	    shift_select,  bit_select,   plain_select,    multiply_select, string_select,
	    atomic_select, bmi_select,   decimal_select,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(selects); i++)
		if (selects[i](d, op))
			return true;
	return false;
}
