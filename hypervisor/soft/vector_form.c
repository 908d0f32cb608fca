// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_form.c - brings an instruction into its normal form (vector_private.h) and makes a native
 * function of it. Everything about encodings is here. Source: SDM volume 2, chapter 2.
 */
#include "hypervisor/soft/vector_private.h"

static void put(struct native_code *code, unsigned count, const uint8_t *bytes)
{
	if (code->length + count <= NATIVE_SIZE)
		memcpy(code->bytes + code->length, bytes, count);
	code->length += count;
}

#define PUT(code, ...)                                                                                       \
	do {                                                                                                 \
		static const uint8_t put_bytes[] = {__VA_ARGS__};                                            \
		put(code, sizeof(put_bytes), put_bytes);                                                     \
	} while (0)

static void put_byte(struct native_code *code, unsigned byte)
{
	uint8_t b = (uint8_t)byte;

	put(code, 1, &b);
}

/* The number that stands for a register operand in the normal form; -1: implicit. */
static int normal_number(const ZydisDecodedOperand *operand)
{
	switch (operand->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		return 0;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		return 1;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		return 2;
	case ZYDIS_OPERAND_ENCODING_IS4:
		return 3;
	default:
		return -1;
	}
}

static bool analyse_vector_register(struct form *form, const ZydisDecodedOperand *operand, bool writes)
{
	int number = normal_number(operand);

	if (number < 0) {
		/* An implicit XMM0: the mask of blends, the result of PCMPxSTRM. */
		form->implicit0 = true;
		if (writes)
			form->result = FORM_VECTOR;
		return true;
	}
	form->registers[number] = (uint8_t)ZydisRegisterGetId(operand->reg.value);
	if (writes) {
		form->result = FORM_VECTOR;
		form->result_number = (unsigned)number;
	}
	return true;
}

static bool analyse_register(struct form *form, const ZydisDecodedOperand *operand)
{
	bool writes = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	switch (ZydisRegisterGetClass(operand->reg.value)) {
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_MMX:
		return analyse_vector_register(form, operand, writes);
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		if (normal_number(operand) < 0)
			return form->string;
		form->general = register_offset(operand->reg.value);
		if (writes)
			form->result = FORM_GENERAL;
		else
			form->source = FORM_GPR;
		return true;
	case ZYDIS_REGCLASS_FLAGS:
		if (form->result == FORM_COUNT)
			form->result = FORM_FLAGS;
		return true;
	case ZYDIS_REGCLASS_INVALID:
		return false;
	default:
		/* MXCSR: its part is known by exception class. */
		return operand->reg.value == ZYDIS_REGISTER_MXCSR;
	}
}

static bool is_string_compare(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPISTRI:
	case ZYDIS_MNEMONIC_VPCMPISTRM:
		return true;
	default:
		return false;
	}
}

bool form_analyse(const struct decoding *d, struct form *form)
{
	const ZydisDecodedInstruction *insn = d->insn;

	memset(form, 0, sizeof(*form));
	form->result = FORM_COUNT;
	form->string = is_string_compare(insn->mnemonic);
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (insn->opcode_map < ZYDIS_OPCODE_MAP_0F || insn->opcode_map > ZYDIS_OPCODE_MAP_0F3A)
		return false;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *operand = &d->operands[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER && !analyse_register(form, operand))
			return false;
		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (form->memory || operand->mem.type != ZYDIS_MEMOP_TYPE_MEM || !operand->size)
				return false;
			form->memory = operand;
			form->source = FORM_LOAD;
			if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
				form->source = FORM_STORE;
				form->result = FORM_MEMORY;
			}
		}
	}
	if (form->implicit0) {
		/* ModRM.reg becomes register 1; the result is there too, but for PCMPxSTRM. */
		form->registers[1] = form->registers[0];
		form->registers[0] = 0;
		form->result_number = form->string ? 0 : 1;
	}
	return form->result != FORM_COUNT;
}

/* --- the instruction itself --------------------------------------------------------------------- */

static unsigned mandatory_prefix(const ZydisDecodedInstruction *insn)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			return insn->raw.prefixes[i].value;
	return 0;
}

/* Outside 64-bit mode VEX.W does not choose the width of a general register or its like. */
static bool is_w_ignored(const struct decoding *d)
{
	if (d->mode == MODE_64)
		return false;
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
		return true;
	default:
		return false;
	}
}

static bool has_operand(const struct decoding *d, ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if (d->operands[i].encoding == encoding)
			return true;
	return false;
}

static void put_legacy_prefixes(struct native_code *code, const ZydisDecodedInstruction *insn)
{
	unsigned prefix = mandatory_prefix(insn);

	if (prefix)
		put_byte(code, prefix);
	if (insn->attributes & ZYDIS_ATTRIB_HAS_REX && insn->raw.rex.W)
		put_byte(code, 0x48);
	put_byte(code, 0x0f);
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put_byte(code, 0x38);
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put_byte(code, 0x3a);
}

static void put_vex(struct native_code *code, const struct decoding *d)
{
	const ZydisDecodedInstruction *insn = d->insn;
	unsigned w = is_w_ignored(d) ? 0 : insn->raw.vex.W;
	unsigned vvvv = has_operand(d, ZYDIS_OPERAND_ENCODING_NDSNDD) ? 1 : 0;

	put_byte(code, 0xc4);
	put_byte(code, 0xe0u | (insn->raw.vex.m_mmmm & 0x1fu));
	put_byte(code,
		 (w & 1u) << 7 | (~vvvv & 15u) << 3 | (insn->raw.vex.L & 1u) << 2 | (insn->raw.vex.pp & 3u));
}

static unsigned normal_modrm(const struct decoding *d, const struct form *form)
{
	const ZydisDecodedInstruction *insn = d->insn;
	bool result_general = form->result == FORM_GENERAL;
	unsigned reg = 0, rm = 2, mod = 3;

	if (!has_operand(d, ZYDIS_OPERAND_ENCODING_MODRM_REG))
		reg = insn->raw.modrm.reg; /* a part of the opcode */
	else if (form->implicit0)
		reg = 1;
	/* Memory operands of PCMPxSTRx come in register 2: rdi is taken, and alignment is no matter. */
	if (form->memory && !form->string) {
		mod = 0;
		rm = 7;
	} else if (form->source == FORM_GPR) {
		rm = 7;
	} else if (result_general && d->operands[0].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
		rm = 0;
	}
	return mod << 6 | reg << 3 | rm;
}

static void put_instruction(struct native_code *code, const struct decoding *d, const struct form *form)
{
	const ZydisDecodedInstruction *insn = d->insn;
	bool is4 = has_operand(d, ZYDIS_OPERAND_ENCODING_IS4);

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		put_vex(code, d);
	else
		put_legacy_prefixes(code, insn);
	put_byte(code, insn->opcode);
	put_byte(code, normal_modrm(d, form));
	if (is4)
		put_byte(code, 3u << 4);
	else if (insn->raw.imm[0].size)
		put_byte(code, (unsigned)insn->raw.imm[0].value.u);
}

/* --- around the instruction --------------------------------------------------------------------- */

/* Bring a vector result from register `number` to register 0. */
static void put_result_move(struct native_code *code, const struct decoding *d, unsigned number, bool mmx)
{
	bool vex = d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

	if (number == 0)
		return;
	if (mmx) {
		PUT(code, 0x0f, 0x6f); /* movq mm0, mm… */
	} else if (vex) {
		/* vmovaps, of the width of the instruction */
		PUT(code, 0xc4, 0xe1);
		put_byte(code, 0x78u | (d->insn->raw.vex.L & 1u) << 2);
		PUT(code, 0x28);
	} else {
		PUT(code, 0x0f, 0x28); /* movaps */
	}
	put_byte(code, 0xc0u | number);
}

static const void *finish(const struct decoding *d, struct native_code *code)
{
	PUT(code, 0xc3);
	if (code->length > NATIVE_SIZE)
		return NULL;
	return vector_pool_get(d->vp->vectors, code);
}

/* rdi points at a struct string_compare: see vector_run.c. */
static const void *native_string_compare(const struct decoding *d, const struct form *form)
{
	struct native_code code = {.length = 0};

	PUT(&code, 0x48, 0x8b, 0x07);       /* mov rax, [rdi] */
	PUT(&code, 0x48, 0x8b, 0x57, 0x08); /* mov rdx, [rdi + 8] */
	put_instruction(&code, d, form);
	PUT(&code, 0x0f, 0x11, 0x47, 0x10); /* movups [rdi + 16], xmm0 */
	PUT(&code, 0x89, 0x4f, 0x08);       /* mov [rdi + 8], ecx */
	PUT(&code, 0x9f);                   /* lahf */
	PUT(&code, 0x0f, 0x90, 0xc0);       /* seto al */
	PUT(&code, 0x89, 0x07);             /* mov [rdi], eax */
	return finish(d, &code);
}

const void *form_native(const struct decoding *d, const struct form *form)
{
	struct native_code code = {.length = 0};
	bool mmx = false;

	if (form->string)
		return native_string_compare(d, form);
	put_instruction(&code, d, form);
	if (form->result == FORM_FLAGS)
		PUT(&code, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	for (unsigned i = 0; i < d->insn->operand_count; i++)
		if ((d->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			mmx |= ZydisRegisterGetClass(d->operands[i].reg.value) == ZYDIS_REGCLASS_MMX;
	if (form->result == FORM_VECTOR)
		put_result_move(&code, d, form->result_number, mmx);
	return finish(d, &code);
}

/* EFLAGS come in and go out as ARITH_* in the integer argument and result: FCMOVcc reads them, FCOMI
 * and its like write them (or, on an unmasked exception, do not). */
const void *form_native_x87(const struct decoding *d)
{
	const ZydisDecodedInstruction *insn = d->insn;
	struct native_code code = {.length = 0};
	bool flags = insn->cpu_flags && (insn->cpu_flags->tested | insn->cpu_flags->modified);
	unsigned modrm = insn->raw.modrm.mod == 3
			     ? 0xc0u | (unsigned)insn->raw.modrm.reg << 3 | insn->raw.modrm.rm
			     : (unsigned)insn->raw.modrm.reg << 3 | 7u;

	if (flags)
		PUT(&code, 0x89, 0xf8, 0x04, 0x7f, 0x9e); /* mov eax, edi; add al, 0x7f; sahf */
	put_byte(&code, insn->opcode);
	put_byte(&code, modrm);
	if (flags)
		PUT(&code, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	return finish(d, &code);
}
