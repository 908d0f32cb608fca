// SPDX-License-Identifier: GPL-2.0-or-later
/* decode.c - instruction bytes to ops: Zydis reads the bytes, the select functions choose the handlers. */
#include "hypervisor/soft/decode.h"

#include <string.h>

#include "hypervisor/soft/block.h"

static void decoder_init(ZydisDecoder *decoder, enum code_mode mode)
{
	static const ZydisMachineMode machine[] = {
	    [MODE_16] = ZYDIS_MACHINE_MODE_LEGACY_16,
	    [MODE_32] = ZYDIS_MACHINE_MODE_LEGACY_32,
	    [MODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
	};
	static const ZydisStackWidth stack[] = {
	    [MODE_16] = ZYDIS_STACK_WIDTH_16,
	    [MODE_32] = ZYDIS_STACK_WIDTH_32,
	    [MODE_64] = ZYDIS_STACK_WIDTH_64,
	};

	ZydisDecoderInit(decoder, machine[mode], stack[mode]);
	/* What CPUID does not show runs as the NOP that older processors take it for. */
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
}

uint8_t register_offset(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
		return (uint8_t)((reg - ZYDIS_REGISTER_AL) * 8);
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return (uint8_t)((reg - ZYDIS_REGISTER_AH) * 8 + 1);
	if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
		return (uint8_t)((reg - ZYDIS_REGISTER_SPL + GPR_RSP) * 8);
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return (uint8_t)((reg - ZYDIS_REGISTER_AX) * 8);
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return (uint8_t)((reg - ZYDIS_REGISTER_EAX) * 8);
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return (uint8_t)((reg - ZYDIS_REGISTER_RAX) * 8);
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP || reg == ZYDIS_REGISTER_IP)
		return GPR_CODE_BASE * 8;
	return GPR_ZERO * 8;
}

static uint8_t segment_index(ZydisRegister reg, enum code_mode mode)
{
	uint8_t seg;

	switch (reg) {
	case ZYDIS_REGISTER_ES:
		seg = SEG_ES;
		break;
	case ZYDIS_REGISTER_CS:
		seg = SEG_CS;
		break;
	case ZYDIS_REGISTER_SS:
		seg = SEG_SS;
		break;
	case ZYDIS_REGISTER_DS:
		seg = SEG_DS;
		break;
	case ZYDIS_REGISTER_FS:
		return SEG_FS;
	case ZYDIS_REGISTER_GS:
		return SEG_GS;
	default:
		return SEG_NONE;
	}
	return mode == MODE_64 ? SEG_NONE : seg;
}

/* An operand of a string instruction (or XLAT, MASKMOVQ): its segment is all that can vary. */
static bool is_string_source(const ZydisDecodedOperandMem *m)
{
	if (m->segment == ZYDIS_REGISTER_ES)
		return false;
	return register_offset(m->base) != GPR_RSP * 8 && register_offset(m->base) != GPR_RBP * 8;
}

/* A SIB byte that says "no base, displacement of 32 bits", whatever REX.B (SDM volume 2, table 2-3).
 * Zydis 4.0 takes R13D for the base when the address size is 32 bits. */
static bool has_no_base(const ZydisDecodedInstruction *insn)
{
	return insn->attributes & ZYDIS_ATTRIB_HAS_SIB && insn->raw.modrm.mod == 0 && insn->raw.sib.base == 5;
}

void decode_displacement(struct op *op, int64_t disp)
{
	int64_t counted = op->base == GPR_CODE_BASE * 8 ? disp + op->offset + op->length : disp;

	/* A shorter address is cut anyway. */
	op->disp = (int32_t)counted;
	if (op->disp == counted || op->flags & (OP_ADDRESS_32 | OP_ADDRESS_16))
		return;
	op->flags |= OP_EA_CHECKED;
	op->disp = op->base == GPR_CODE_BASE * 8 ? (int32_t)disp : 0;
	if (op->base != GPR_CODE_BASE * 8)
		op->imm = (uint64_t)disp;
}

static void fill_memory(const struct decoding *d, struct op *op)
{
	op->base = op->index = GPR_ZERO * 8;
	op->seg = SEG_NONE;
	for (unsigned i = 0; i < d->insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &d->operands[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE) {
			if (is_string_source(&o->mem))
				op->seg = segment_index(o->mem.segment, d->mode);
			continue;
		}
		op->flags |= OP_MEMORY;
		op->seg = segment_index(o->mem.segment, d->mode);
		op->base = register_offset(o->mem.base);
		if (o->mem.index != ZYDIS_REGISTER_NONE && o->mem.type != ZYDIS_MEMOP_TYPE_MIB)
			op->index = register_offset(o->mem.index);
		if (o->mem.scale)
			op->scale = (uint8_t)__builtin_ctz(o->mem.scale);
		if (has_no_base(d->insn)) {
			op->base = GPR_ZERO * 8;
			decode_displacement(op, d->insn->raw.disp.value);
		} else if (o->mem.disp.has_displacement) {
			decode_displacement(op, o->mem.disp.value);
		}
		break;
	}
}

static void fill_flags(const struct decoding *d, struct op *op)
{
	ZydisInstructionAttributes a = d->insn->attributes;

	if (a & ZYDIS_ATTRIB_HAS_LOCK)
		op->flags |= OP_LOCK;
	if (a & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		op->flags |= OP_REP;
	if (a & ZYDIS_ATTRIB_HAS_REPNE)
		op->flags |= OP_REPNE;
	if (d->insn->address_width == 32)
		op->flags |= OP_ADDRESS_32;
	else if (d->insn->address_width == 16)
		op->flags |= OP_ADDRESS_16;
	if (op->flags & (OP_ADDRESS_32 | OP_ADDRESS_16))
		op->flags |= OP_EA_CHECKED;
}

static const struct op *op_undefined(struct soft_vp *vp, const struct op *op)
{
	raise_fault(vp, op, VECTOR_UD);
}

static const struct op *op_too_long(struct soft_vp *vp, const struct op *op)
{
	raise_fault_code(vp, op, VECTOR_GP, 0);
}

static const struct op *op_block_end(struct soft_vp *vp, const struct op *op)
{
	return branch_dispatch(vp, BEHIND, op_rip(vp, op));
}

void decode_end(struct op *op, unsigned offset)
{
	*op = (struct op){.fn = op_block_end, .offset = (uint16_t)offset};
}

static enum decode_result select_op(struct decoding *d, struct op *op)
{
	op->length = d->insn->length;
	op->size = d->insn->operand_width / 8;
	fill_flags(d, op);
	fill_memory(d, op);
	if (integer_select(d, op) || vector_select(d, op))
		return d->ends_block ? DECODE_ENDS : DECODE_OK;
	op->flags &= (uint8_t)~OP_SIDE; /* one that was begun and given up */
	if (!system_select(d, op)) {
		op->fn = op_undefined;
		return DECODE_ENDS;
	}
	return d->ends_block ? DECODE_ENDS : DECODE_OK;
}

enum decode_result decode_instruction(struct soft_vp *vp, enum code_mode mode, const uint8_t *bytes, unsigned size,
    unsigned offset, struct decoded *out)
{
	struct decoding d = {.vp = vp, .mode = mode, .insn = &out->insn, .operands = out->operands, .bytes = bytes,
	    .side = &out->side};
	struct op *op = &out->op;
	ZydisDecoder decoder;
	ZyanStatus status;

	*op = (struct op){.offset = (uint16_t)offset, .base = GPR_ZERO * 8, .index = GPR_ZERO * 8, .seg = SEG_NONE};
	out->side = (struct op_side){0};
	decoder_init(&decoder, mode);
	status = ZydisDecoderDecodeFull(&decoder, bytes, size, &out->insn, out->operands);
	out->valid = ZYAN_SUCCESS(status);
	if (status == ZYDIS_STATUS_NO_MORE_DATA && size < INSTRUCTION_MAX)
		return DECODE_TRUNCATED;
	if (!out->valid) {
		op->length = 1;
		op->fn = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA
		    ? op_too_long : op_undefined;
		return DECODE_ENDS;
	}
	return select_op(&d, op);
}

enum decode_result decode_op(struct soft_vp *vp, enum code_mode mode, const uint8_t *bytes, unsigned size,
    unsigned offset, struct op *op, struct op_side *side)
{
	struct decoded decoded;
	enum decode_result r = decode_instruction(vp, mode, bytes, size, offset, &decoded);

	*op = decoded.op;
	if (op->flags & OP_SIDE) {
		*side = decoded.side;
		op->side = side;
	}
	return r;
}
