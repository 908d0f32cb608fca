// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_copy.c - instructions that the host runs as they are, with the registers of translated code and, for
 * memory, a host address.
 */
#include "hypervisor/soft/translate_private.h"

#include "hypervisor/soft/exec.h"

/* --- which ---------------------------------------------------------------------------------------- */

static bool is_integer(const struct translation *t)
{
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_XCHG:
		return true;
	case ZYDIS_MNEMONIC_BSWAP:
		return t->op.size != 2;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		/* With memory and a register the operand may lie far away. */
		return t->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER ||
		    t->operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	default:
		return t->insn->meta.category == ZYDIS_CATEGORY_CMOV || t->insn->meta.category == ZYDIS_CATEGORY_SETCC;
	}
}

/* Of what vector.h offers, those whose operands are vector and general registers, memory and a constant, and
 * which fault for nothing else than that operand. */
static bool is_vector(const struct translation *t)
{
	switch (t->insn->meta.isa_set) {
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA:
		break;
	default:
		return false;
	}
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_CRC32:
		return false;
	default:
		break;
	}
	for (unsigned i = 0; i < t->insn->operand_count; i++)
		if (t->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(t->operands[i].reg.value) == ZYDIS_REGCLASS_XMM)
			return true;
	return false;
}

/* VEX-encoded instructions of general registers. */
static bool is_integer_vex(const struct translation *t)
{
	return t->insn->meta.isa_set == ZYDIS_ISA_SET_BMI1 || t->insn->meta.isa_set == ZYDIS_ISA_SET_BMI2;
}

/* The same for AVX. Gathers and masked moves touch less memory than their operand says. */
static bool is_avx(const struct translation *t)
{
	switch (t->insn->meta.isa_set) {
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_AVX_GFNI:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_VAES:
	case ZYDIS_ISA_SET_VPCLMULQDQ:
		break;
	default:
		return false;
	}
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPISTRI:
	case ZYDIS_MNEMONIC_VPCMPISTRM:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
	case ZYDIS_MNEMONIC_VZEROALL:
	case ZYDIS_MNEMONIC_VZEROUPPER:
		return false;
	default:
		return t->t->avx;
	}
}

/* --- operands --------------------------------------------------------------------------------------- */

/* What an instruction has, for its copy. Host numbers; SCRATCH1 and SCRATCH2 stand for registers in memory. */
struct copy {
	const ZydisDecodedOperand *memory;
	uint8_t reg, rm;            /* of ModRM, or `rm` in the opcode */
	uint8_t vvvv;               /* of VEX */
	uint8_t in_vp[2];           /* guest registers that are loaded into the scratch registers */
	bool loaded[2], stored[2];
	bool high_byte;
	bool vectors;               /* has some */
	uint32_t written;           /* guest registers */
};

static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* A register in memory goes through a scratch register: the first that is free. One that occurs twice, once. */
static unsigned scratch_for(struct copy *c, unsigned guest, bool write)
{
	for (unsigned i = 0; i < 2; i++) {
		if (c->loaded[i] && c->in_vp[i] != guest)
			continue;
		c->loaded[i] = true;
		c->in_vp[i] = (uint8_t)guest;
		c->stored[i] |= write;
		return i ? SCRATCH2 : SCRATCH1;
	}
	return NO_REGISTER;
}

static bool take_general(struct copy *c, const ZydisDecodedOperand *o)
{
	bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	unsigned guest = register_offset(o->reg.value) / 8, host = home(guest);

	if (write)
		c->written |= 1u << guest;
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
	case ZYDIS_OPERAND_ENCODING_OPCODE:
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		break;
	default:
		return host == guest; /* where the instruction has it */
	}
	if (is_high_byte(o->reg.value)) {
		c->high_byte = true;
		host += 4;
	} else if (host == NO_REGISTER) {
		host = scratch_for(c, guest, write);
	}
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
		c->reg = (uint8_t)host;
	else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
		c->vvvv = (uint8_t)host;
	else
		c->rm = (uint8_t)host;
	return host != NO_REGISTER;
}

/* The register of a vector operand that is in an immediate is copied with it. */
static void take_vector(struct copy *c, const ZydisDecodedOperand *o)
{
	uint8_t n = (uint8_t)ZydisRegisterGetId(o->reg.value);

	c->vectors = true;
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
		c->reg = n;
	else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
		c->rm = n;
	else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
		c->vvvv = n;
}

/* MOV of the accumulator and an absolute address: 32-bit code is full of them. */
static bool is_moffs(const struct translation *t)
{
	return t->narrow && t->insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (t->insn->opcode & 0xfc) == 0xa0;
}

static bool take_operand(const struct translation *t, struct copy *c, const ZydisDecodedOperand *o)
{
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		switch (ZydisRegisterGetClass(o->reg.value)) {
		case ZYDIS_REGCLASS_GPR8:
		case ZYDIS_REGCLASS_GPR16:
		case ZYDIS_REGCLASS_GPR32:
		case ZYDIS_REGCLASS_GPR64:
			return take_general(c, o);
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
			take_vector(c, o);
			return ZydisRegisterGetId(o->reg.value) < 16;
		case ZYDIS_REGCLASS_FLAGS:
			return true;
		default:
			return false;
		}
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (c->memory || c->loaded[1] || (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM && !is_moffs(t)) || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return false;
		c->memory = o;
		/* SCRATCH2 holds its address. */
		c->loaded[1] = true;
		c->in_vp[1] = NO_REGISTER;
		return address_serves(t, &t->op);
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return !o->imm.is_relative;
	default:
		return false;
	}
}

static bool take_all(const struct translation *t, struct copy *c)
{
	*c = (struct copy){.in_vp = {NO_REGISTER, NO_REGISTER}, .reg = t->insn->raw.modrm.reg}; /* or opcode bits */
	for (unsigned i = 0; i < t->insn->operand_count; i++)
		if (!take_operand(t, c, &t->operands[i]))
			return false;
	return true;
}

/* --- the opcode ------------------------------------------------------------------------------------- */

/* INC and DEC of a register without ModRM. */
static bool is_short_count(const struct translation *t)
{
	return t->narrow && t->insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (t->insn->opcode & 0xf0) == 0x40;
}

/* What 64-bit code says otherwise, or not at all. */
static void widen_opcode(const struct translation *t, struct copy *c, struct host_opcode *o)
{
	if (o->map)
		return;
	if (is_short_count(t)) {
		c->reg = o->opcode >> 3 & 1;
		o->opcode = 0xff;
	} else if (is_moffs(t)) {
		o->opcode = 0x88 | (~o->opcode & 2u) | (o->opcode & 1u);
	} else if (o->opcode == 0x82) {
		o->opcode = 0x80;
	}
}

/* W, which is ignored in 32-bit code wherever it would make something 64 bits wide, and the fourth register's upper bit. */
static bool vex_serves(const struct translation *t)
{
	if (!t->narrow)
		return true;
	for (unsigned i = 0; i < t->insn->operand_count; i++)
		if (t->operands[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 && t->bytes[t->op.length - 1] & 0x80)
			return false;
	if (!t->insn->raw.vex.W)
		return true;
	if (is_integer_vex(t))
		return false;
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VMOVQ:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPINSRQ:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPEXTRQ:
		return false;
	default:
		return true;
	}
}

static bool take_opcode(const struct translation *t, struct copy *c, struct host_opcode *o)
{
	unsigned n = 0;

	*o = (struct host_opcode){.opcode = t->insn->opcode, .map = (uint8_t)t->insn->opcode_map};
	if (t->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};

		o->prefixes[0] = prefixes[t->insn->raw.vex.pp & 3];
		o->vex = true;
		o->wide = t->insn->raw.vex.W;
		o->length = t->insn->raw.vex.L;
		o->vvvv = c->vvvv;
		return t->insn->opcode_map >= ZYDIS_OPCODE_MAP_0F && t->insn->opcode_map <= ZYDIS_OPCODE_MAP_0F3A &&
		    vex_serves(t);
	}
	if (t->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || t->insn->opcode_map > ZYDIS_OPCODE_MAP_0F3A)
		return false;
	for (unsigned i = 0; i < t->insn->raw.prefix_count; i++) {
		uint8_t p = t->insn->raw.prefixes[i].value;

		if (p != 0x66 && p != 0xf2 && p != 0xf3 && p != 0xf0)
			continue;
		if (memchr(o->prefixes, p, sizeof(o->prefixes)))
			continue;
		if (n == sizeof(o->prefixes))
			return false;
		o->prefixes[n++] = p;
	}
	if (memchr(o->prefixes, 0xf2, sizeof(o->prefixes)) && memchr(o->prefixes, 0xf3, sizeof(o->prefixes)))
		return false;
	o->wide = t->insn->raw.rex.W;
	o->rex = t->insn->attributes & ZYDIS_ATTRIB_HAS_REX;
	if (t->narrow)
		widen_opcode(t, c, o);
	/* AH to BH cannot be said with REX. */
	return !c->high_byte || (!o->rex && !c->memory && c->reg < 8 && c->rm < 8);
}

static void emit_immediates(struct translation *t)
{
	for (unsigned i = 0; i < 2; i++)
		if (t->insn->raw.imm[i].size)
			emit_bytes(&t->e, t->bytes + t->insn->raw.imm[i].offset, t->insn->raw.imm[i].size / 8);
}

static void emit_copy(struct translation *t, const struct copy *c, struct host_opcode o, struct host_memory m)
{
	if (c->memory) {
		emit_rm(&t->e, o, c->reg, m);
	} else if (t->insn->attributes & ZYDIS_ATTRIB_HAS_MODRM || is_short_count(t)) {
		emit_rr(&t->e, o, c->reg, c->rm);
	} else {
		bool in_opcode = false;

		for (unsigned i = 0; i < t->insn->operand_count; i++)
			in_opcode |= t->operands[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE;
		o.opcode = in_opcode ? o.opcode & 0xf8 : o.opcode;
		emit_plus(&t->e, o, in_opcode ? c->rm : o.opcode & 7u);
	}
	emit_immediates(t);
}

/* --- vector registers --------------------------------------------------------------------------------- */

/* Once in a block, and after each handler: that vector instructions run here, with the guest's MXCSR. */
static void vectors_enable(struct translation *t, uint8_t want)
{
	struct native_exit *x;
	struct cold *c;

	if (t->vectors_enabled & want)
		return;
	x = translation_exit(t, EXIT_OP);
	c = translation_cold(t);
	flags_before_clobber(t);
	emit_rm(&t->e, (struct host_opcode){.opcode = 0xf6}, 0, /* test byte [vectors_live], … */
	    (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(vectors_live)});
	emit8(&t->e, want);
	c->from[0] = emit_jump_if_forward(&t->e, IF_Z);
	c->back = t->e.at;
	c->call = want == VECTORS_AVX ? translated_enable_avx : translated_enable_vectors;
	c->argument = (uintptr_t)x;
	c->flags = t->flags;
	t->vectors_enabled |= want | VECTORS_SSE;
	t->window.loaded = false; /* the cold way loses it */
}

static uint8_t vector_address_bits(const struct translation *t, const struct copy *c)
{
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
		return 0;
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
		return (uint8_t)(c->memory->size / 8 - 1);
	default:
		if (t->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			return 0;
		return c->vectors && c->memory->size >= 128 ? (uint8_t)(c->memory->size / 8 - 1) : 0;
	}
}

/* --- one instruction ---------------------------------------------------------------------------------- */

/* The operand in memory. The interpreter's handler does the whole instruction where the look fails. */
static bool reach_memory(struct translation *t, const struct copy *c, struct host_memory *m, struct cold **cold)
{
	struct address_want want = {.size = c->memory->size / 8,
	    .write = c->memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE || t->insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG};

	if (want.size == 0 || want.size > 32)
		return false;
	want.align = vector_address_bits(t, c);
	if (!want.align && window_has(t, &t->op, want.size)) {
		*m = window_operand(t, &t->op);
		return true;
	}
	if (group_has(t) && !want.align) {
		if (group_looks(t))
			flags_before_clobber(t);
		*m = group_operand(t);
		return true;
	}
	*cold = translation_cold(t);
	flags_before_clobber(t);
	(*cold)->op = translation_copy(t, &t->op);
	(*cold)->flags = t->flags;
	if (group_has(t)) {
		*m = group_operand(t);
		check_alignment(t, *cold, *m, want.align);
		return true;
	}
	*m = probe_operand(t, *cold, &t->op, want);
	return true;
}

static void load_registers(struct translation *t, const struct copy *c)
{
	for (unsigned i = 0; i < 2; i++)
		if (c->loaded[i] && c->in_vp[i] != NO_REGISTER)
			emit_load(&t->e, i ? SCRATCH2 : SCRATCH1, gpr_offset(c->in_vp[i]));
}

static void store_registers(struct translation *t, const struct copy *c)
{
	for (unsigned i = 0; i < 2; i++)
		if (c->stored[i])
			emit_store(&t->e, i ? SCRATCH2 : SCRATCH1, gpr_offset(c->in_vp[i]));
}

/* Old flags that the instruction reads, or keeps a part of. */
static bool needs_flags(const struct translation *t)
{
	return flags_read_mask(t) || (flags_write_mask(t) && !flags_killed(t) && !flags_are_dead(t));
}

static bool copy_instruction(struct translation *t, const struct copy *c, struct host_opcode o)
{
	struct host_memory m = {.base = NO_REGISTER};
	struct cold *cold = NULL;

	translation_begin_native(t);
	if (is_avx(t)) /* conversions from memory have no vector register */
		vectors_enable(t, VECTORS_AVX);
	else if (c->vectors)
		vectors_enable(t, VECTORS_SSE);
	if (!flags_write_mask(t))
		flags_before_write(t, c->written);
	if (c->memory && !reach_memory(t, c, &m, &cold))
		return false;
	if (needs_flags(t))
		flags_to_host(t);
	load_registers(t, c);
	emit_copy(t, c, o, m);
	store_registers(t, c);
	if (flags_write_mask(t))
		flags_written(t);
	if (cold) {
		cold->back = t->e.at;
		cold->load_flags = t->flags.in_host;
	}
	return true;
}

bool copy_serves(const struct translation *t)
{
	struct host_opcode o;
	struct copy c;

	return (is_integer(t) || is_vector(t) || is_integer_vex(t) || is_avx(t)) && take_all(t, &c) && take_opcode(t, &c, &o) &&
	    c.memory;
}

/* No memory, no handler, nothing that faults or looks around. */
bool copy_is_plain(const struct translation *t)
{
	struct host_opcode o;
	struct copy c;

	if (t->insn->mnemonic == ZYDIS_MNEMONIC_LEA || t->insn->mnemonic == ZYDIS_MNEMONIC_NOP)
		return address_serves(t, &t->op) && t->op.size != 2;
	return (is_integer(t) || is_integer_vex(t)) && take_all(t, &c) && take_opcode(t, &c, &o) && !c.memory &&
	    !c.vectors;
}

static bool translate_lea(struct translation *t)
{
	unsigned guest = t->op.dst / 8, to = home(guest);

	if (!address_serves(t, &t->op) || t->op.size == 2)
		return false;
	translation_begin_native(t);
	flags_before_write(t, 1u << guest);
	if (t->narrow) { /* whatever the segment */
		emit_word_lea(t, to, address_memory(&t->op, 0));
		return true;
	}
	if (to != NO_REGISTER && address_is_plain(t, &t->op)) {
		emit_rm(&t->e, (struct host_opcode){.opcode = 0x8d, .wide = t->op.size == 8}, to, address_memory(&t->op, 0));
		return true;
	}
	emit_address(t, SCRATCH1, &t->op, 0);
	if (t->op.size == 4)
		emit_rr(&t->e, (struct host_opcode){.opcode = 0x8b}, SCRATCH1, SCRATCH1);
	if (to == NO_REGISTER)
		emit_store(&t->e, SCRATCH1, gpr_offset(guest));
	else
		emit_move(&t->e, to, SCRATCH1);
	return true;
}

static bool translate_zeroupper(struct translation *t)
{
	if (!t->t->avx)
		return false;
	translation_begin_native(t);
	vectors_enable(t, VECTORS_AVX);
	if (!t->narrow) {
		EMIT(&t->e, 0xc5, 0xf8, 0x77);
		return true;
	}
	/* 32-bit code keeps its hands off the registers that it does not have: vmovaps xmmN, xmmN */
	for (unsigned n = 0; n < 8; n++)
		EMIT(&t->e, 0xc5, 0xf8, 0x28, (uint8_t)(0xc0 | n << 3 | n));
	return true;
}

bool translate_copy(struct translation *t)
{
	struct host_opcode o;
	struct copy c;

	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR64:
		return true;
	case ZYDIS_MNEMONIC_LEA:
		return translate_lea(t);
	case ZYDIS_MNEMONIC_VZEROUPPER:
		return translate_zeroupper(t);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE:
		return translate_stack(t);
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		groups_drop(t);
		return translate_system(t);
	default:
		break;
	}
	if (!is_integer(t) && !is_vector(t) && !is_integer_vex(t) && !is_avx(t))
		return false;
	return take_all(t, &c) && take_opcode(t, &c, &o) && copy_instruction(t, &c, o);
}
