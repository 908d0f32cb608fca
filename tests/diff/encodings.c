// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * encodings.c - all instructions that a program may run in user mode and that depend on nothing but
 * registers and memory, found by decoding every combination of prefix, opcode and ModRM; and random
 * instances of them. Mnemonics come up evenly, whatever the number of their encodings; some instructions
 * come of random bytes, with whatever prefixes those have.
 */
#include "tests/diff/diff.h"

#include <string.h>

enum encoding_kind { KIND_LEGACY, KIND_VEX };

struct encoding {
	uint8_t kind, map, prefix, w, l, opcode, reg;
	bool modrm, memory, vsib;
};

/* The encodings of one mnemonic. */
struct family {
	struct encoding *list;
	unsigned count;
};

static struct set {
	struct family families[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	uint16_t present[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	unsigned present_count;
	ZydisDecoder decoder;
	bool narrow;
} sets[2], *set = &sets[0];

static unsigned register_count(void)
{
	return set->narrow ? 8 : 16;
}

/* --- which instructions ------------------------------------------------------------------------- */

/* CPUID bits that some instruction sets need; the others below are always there. */
static const struct {
	uint16_t isa_set;
	uint8_t reg, bit;
	uint32_t leaf;
} optional_sets[] = {
    {ZYDIS_ISA_SET_SSE3, 2, 0, 1},           {ZYDIS_ISA_SET_SSE3X87, 2, 0, 1},
    {ZYDIS_ISA_SET_PCLMULQDQ, 2, 1, 1},      {ZYDIS_ISA_SET_SSSE3, 2, 9, 1},
    {ZYDIS_ISA_SET_SSSE3MMX, 2, 9, 1},       {ZYDIS_ISA_SET_FMA, 2, 12, 1},
    {ZYDIS_ISA_SET_CMPXCHG16B, 2, 13, 1},    {ZYDIS_ISA_SET_SSE4, 2, 19, 1},
    {ZYDIS_ISA_SET_SSE42, 2, 20, 1},         {ZYDIS_ISA_SET_MOVBE, 2, 22, 1},
    {ZYDIS_ISA_SET_POPCNT, 2, 23, 1},        {ZYDIS_ISA_SET_AES, 2, 25, 1},
    {ZYDIS_ISA_SET_AVXAES, 2, 25, 1},        {ZYDIS_ISA_SET_AVX, 2, 28, 1},
    {ZYDIS_ISA_SET_F16C, 2, 29, 1},          {ZYDIS_ISA_SET_BMI1, 1, 3, 7},
    {ZYDIS_ISA_SET_AVX2, 1, 5, 7},           {ZYDIS_ISA_SET_AVX2GATHER, 1, 5, 7},
    {ZYDIS_ISA_SET_BMI2, 1, 8, 7},           {ZYDIS_ISA_SET_ADOX_ADCX, 1, 19, 7},
    {ZYDIS_ISA_SET_SHA, 1, 29, 7},           {ZYDIS_ISA_SET_GFNI, 2, 8, 7},
    {ZYDIS_ISA_SET_AVX_GFNI, 2, 8, 7},       {ZYDIS_ISA_SET_VAES, 2, 9, 7},
    {ZYDIS_ISA_SET_VPCLMULQDQ, 2, 10, 7},    {ZYDIS_ISA_SET_LAHF, 2, 0, 0x80000001},
    {ZYDIS_ISA_SET_LZCNT, 2, 5, 0x80000001},
};

static const uint16_t basic_sets[] = {
    ZYDIS_ISA_SET_I86,      ZYDIS_ISA_SET_I186,     ZYDIS_ISA_SET_I386,
    ZYDIS_ISA_SET_I486,     ZYDIS_ISA_SET_I486REAL, ZYDIS_ISA_SET_PENTIUMREAL,
    ZYDIS_ISA_SET_PPRO,     ZYDIS_ISA_SET_CMOV,     ZYDIS_ISA_SET_FAT_NOP,
    ZYDIS_ISA_SET_LONGMODE, ZYDIS_ISA_SET_PAUSE,    ZYDIS_ISA_SET_PREFETCH_NOP,
    ZYDIS_ISA_SET_X87,      ZYDIS_ISA_SET_FCMOV,    ZYDIS_ISA_SET_PENTIUMMMX,
    ZYDIS_ISA_SET_FXSAVE,   ZYDIS_ISA_SET_FXSAVE64, ZYDIS_ISA_SET_SSE,
    ZYDIS_ISA_SET_SSE2,     ZYDIS_ISA_SET_SSEMXCSR, ZYDIS_ISA_SET_SSE_PREFETCH,
    ZYDIS_ISA_SET_SSE2MMX,  ZYDIS_ISA_SET_CLFSH};

static bool is_set_offered(unsigned isa_set)
{
	/* The answers are asked for only once: every encoding comes through here. */
	static uint8_t known[ZYDIS_ISA_SET_MAX_VALUE + 1];
	bool offered = false;

	if (known[isa_set])
		return known[isa_set] == 1;
	for (unsigned i = 0; i < ARRAY_SIZE(basic_sets); i++)
		offered |= basic_sets[i] == isa_set;
	for (unsigned i = 0; i < ARRAY_SIZE(optional_sets); i++)
		if (optional_sets[i].isa_set == isa_set)
			offered =
			    soft_side_has(optional_sets[i].leaf, optional_sets[i].reg, optional_sets[i].bit);
	known[isa_set] = offered ? 1 : 2;
	return offered;
}

/* What would leave the process, or depends on the system around the processor. */
static bool is_foreign(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_POPF: /* would set TF, AC and NT at random */
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		return true;
	default:
		return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	}
}

/* What only Intel's processors read as the software processor does: near branches with an operand-size
 * prefix, which others let cut RIP to 16 bits (SDM volume 2, A.2.5: "f64"; APM volume 1, 3.7.9, table
 * 3-9); REP NOP with REX.B, which is XCHG elsewhere; and 0F 0D with a register, a no-op or #UD (APM
 * volume 3, PREFETCH). */
static bool is_intel_only(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_PAUSE:
		return insn->raw.rex.B;
	case ZYDIS_MNEMONIC_NOP:
		return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d;
	default:
		return insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
		       (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
	}
}

static bool is_allowed(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	if (is_intel_only(insn) && !host_is_intel())
		return false;
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	if (!is_set_offered(insn->meta.isa_set) || is_foreign(insn))
		return false;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return false;
		/* FS is the host's thread pointer. */
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    operands[i].mem.segment == ZYDIS_REGISTER_FS)
			return false;
	}
	return true;
}

/* --- finding ------------------------------------------------------------------------------------ */

static unsigned put_opcode(const struct encoding *e, uint8_t *bytes, unsigned n, unsigned rex, unsigned vvvv)
{
	static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};

	if (e->kind == KIND_VEX) {
		bytes[n++] = 0xc4;
		bytes[n++] = (uint8_t)((~rex & 7u) << 5 | e->map);
		bytes[n++] =
		    (uint8_t)((unsigned)e->w << 7 | (~vvvv & 15u) << 3 | (unsigned)e->l << 2 | e->prefix);
	} else {
		if (e->prefix)
			bytes[n++] = prefixes[e->prefix];
		if (e->w || rex)
			bytes[n++] = (uint8_t)(0x40u | (unsigned)e->w << 3 | rex);
		if (e->map)
			bytes[n++] = 0x0f;
		if (e->map == 2)
			bytes[n++] = 0x38;
		if (e->map == 3)
			bytes[n++] = 0x3a;
	}
	bytes[n++] = e->opcode;
	return n;
}

static bool is_listed(const char *only, const char *name)
{
	size_t length = strlen(name);

	while (only && *only) {
		size_t part = strcspn(only, ",");

		if (part == length && memcmp(only, name, part) == 0)
			return true;
		only += part + (only[part] == ',');
	}
	return false;
}

static void add(const struct encoding *e, ZydisMnemonic mnemonic)
{
	struct family *f = &set->families[mnemonic];

	if ((f->count & (f->count - 1)) == 0) {
		struct encoding *list = realloc(f->list, (f->count ? f->count * 2 : 1) * sizeof(*list));

		if (!list)
			abort();
		f->list = list;
	}
	if (f->count == 0)
		set->present[set->present_count++] = (uint16_t)mnemonic;
	f->list[f->count++] = *e;
}

/* One combination: does it decode, and is it wanted? */
static void consider(struct encoding *e, const char *only)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	for (unsigned vvvv = 0; vvvv <= (e->kind == KIND_VEX ? 7u : 0u); vvvv += 7) {
		uint8_t bytes[32] = {0};
		unsigned n = put_opcode(e, bytes, 0, 0, vvvv);

		/* Memory with a SIB byte, base RAX, index 1: right for VSIB too. */
		bytes[n++] =
		    (uint8_t)(e->memory ? 0x04u | (unsigned)e->reg << 3 : 0xc2u | (unsigned)e->reg << 3);
		bytes[n++] = 0x08;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)) ||
		    !is_allowed(&insn, operands))
			continue;
		if (only && !is_listed(only, ZydisMnemonicGetString(insn.mnemonic)))
			return;
		e->modrm = insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
		if (!e->modrm && (e->reg || e->memory))
			return;
		e->vsib = false;
		for (unsigned i = 0; i < insn.operand_count; i++)
			if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			    operands[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
				e->vsib = true;
		add(e, insn.mnemonic);
		return;
	}
}

void encodings_choose(bool narrow)
{
	set = &sets[narrow];
}

unsigned encodings_find(bool narrow, const char *only)
{
	encodings_choose(narrow);
	set->narrow = narrow;
	if (narrow)
		ZydisDecoderInit(&set->decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&set->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < 2u * 4 * 4 * 2 * 2 * 256 * 8 * 2; i++) {
		unsigned rest = i;
		struct encoding e = {.kind = rest & 1};

		rest >>= 1, e.map = rest & 3;
		rest >>= 2, e.prefix = rest & 3;
		rest >>= 2, e.w = rest & 1;
		rest >>= 1, e.l = rest & 1;
		rest >>= 1, e.memory = rest & 1;
		rest >>= 1, e.reg = rest & 7;
		rest >>= 3, e.opcode = rest & 255;
		if (e.kind == KIND_VEX ? e.map == 0 : e.l || (narrow && e.w))
			continue;
		consider(&e, only);
	}
	return set->present_count;
}

/* --- instances ---------------------------------------------------------------------------------- */

/* A random one of the registers in `mask`, or of all. */
static unsigned roll_register(struct dice *dice, unsigned mask)
{
	for (unsigned tries = 0; mask && tries < 64; tries++) {
		unsigned r = roll_below(dice, register_count());

		if (mask >> r & 1)
			return r;
	}
	return roll_below(dice, register_count());
}

struct operand_bytes {
	unsigned rex; /* R 4, X 2, B 1 */
	uint8_t bytes[6];
	unsigned length;
};

static unsigned put_displacement(struct dice *dice, struct operand_bytes *o, unsigned mod, bool absolute)
{
	int64_t v = roll_percent(dice, 40) ? 0 : (int64_t)roll_below(dice, 256) - 128;

	if (roll_percent(dice, 60))
		v &= ~15;
	if (absolute)
		v = (int64_t)(DATA_LINEAR + roll_below(dice, DATA_SIZE));
	for (unsigned i = 0; i < (mod == 1 ? 1u : 4u); i++)
		o->bytes[o->length++] = (uint8_t)(v >> (8 * i));
	return mod;
}

static void roll_memory_operand(struct dice *dice, const struct encoding *e, unsigned reg, unsigned pointers,
				unsigned indices, struct operand_bytes *o)
{
	unsigned base = roll_register(dice, roll_percent(dice, 92) ? pointers : 0);
	unsigned index =
	    e->vsib ? roll_below(dice, register_count()) : roll_register(dice, roll_percent(dice, 92) ? indices : 0);
	unsigned mod = roll_below(dice, 3), kind = e->vsib ? 50 : roll_below(dice, 100);
	unsigned head = (reg & 7) << 3;

	if (kind < 6) { /* RIP-relative; the displacement is set when the length is known */
		o->bytes[o->length++] = (uint8_t)(head | 5);
		put_displacement(dice, o, 0, true);
		return;
	}
	if (kind < 10) { /* no base */
		o->bytes[o->length++] = (uint8_t)(head | 4);
		o->bytes[o->length++] = (uint8_t)(roll_below(dice, 4) << 6 | 4 << 3 | 5);
		put_displacement(dice, o, 0, true);
		return;
	}
	o->rex |= base >> 3;
	if (mod == 0 && (base & 7) == 5)
		mod = 1;
	if (kind < 60 || (base & 7) == 4) {
		bool has_index = e->vsib || kind < 55;

		o->bytes[o->length++] = (uint8_t)(mod << 6 | head | 4);
		if (!has_index)
			index = 4;
		o->rex |= index >> 3 << 1;
		o->bytes[o->length++] = (uint8_t)(roll_below(dice, 4) << 6 | (index & 7) << 3 | (base & 7));
	} else {
		o->bytes[o->length++] = (uint8_t)(mod << 6 | head | (base & 7));
	}
	if (mod)
		put_displacement(dice, o, mod, false);
}

static unsigned put_stray_prefixes(struct dice *dice, uint8_t *bytes)
{
	static const uint8_t strays[] = {0x67, 0x67, 0x65, 0x3e, 0x2e, 0x26, 0x36,
					 0xf0, 0xf0, 0xf2, 0xf3, 0xf3, 0x66};
	unsigned n = 0;

	while (n < 3 && roll_percent(dice, 7))
		bytes[n++] = strays[roll_below(dice, sizeof(strays))];
	return n;
}

/* Branches go to the next instruction or to the int3s at the end of the page, never into others. */
static int64_t branch_distance(struct dice *dice, uint64_t next)
{
	if (roll_percent(dice, 50))
		return 0;
	return (int64_t)(CODE_LINEAR + PAGE - 64 + roll_below(dice, 32) - next);
}

static bool patch_immediates(struct dice *dice, const ZydisDecodedInstruction *insn, uint8_t *bytes,
			     uint64_t rip)
{
	for (unsigned i = 0; i < 2; i++) {
		uint64_t v;

		if (!insn->raw.imm[i].size)
			continue;
		v = roll_integer(dice);
		if (insn->raw.imm[i].is_relative) {
			int64_t distance = branch_distance(dice, rip + insn->length);

			if (insn->raw.imm[i].size == 8 && distance > 127)
				distance = 0;
			v = (uint64_t)distance;
		}
		for (unsigned k = 0; k < insn->raw.imm[i].size / 8u; k++)
			bytes[insn->raw.imm[i].offset + k] = (uint8_t)(v >> (8 * k));
	}
	return true;
}

static void patch_rip_relative(struct dice *dice, const ZydisDecodedInstruction *insn, uint8_t *bytes,
			       uint64_t rip)
{
	uint64_t target = DATA_LINEAR + roll_below(dice, DATA_SIZE);

	if (roll_percent(dice, 60))
		target &= ~31ull;
	if (roll_percent(dice, 4)) /* counted from the page it is more than a displacement holds */
		target = rip + insn->length + 0x7fffffff - roll_below(dice, 32);
	if ((insn->attributes & ZYDIS_ATTRIB_IS_RELATIVE) && insn->raw.disp.size == 32 &&
	    insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 5)
		le32_put(bytes + insn->raw.disp.offset, (uint32_t)(target - rip - insn->length));
}

/* MOV with an offset of 64 bits: here, or where nothing of the host is. */
static void patch_offset(struct dice *dice, const ZydisDecodedInstruction *insn, uint8_t *bytes)
{
	uint64_t target = DATA_LINEAR + roll_below(dice, DATA_SIZE);

	if (insn->raw.disp.size != 64)
		return;
	if (roll_percent(dice, 30))
		target |= (uint64_t)roll_below(dice, 128) << 32;
	le64_put(bytes + insn->raw.disp.offset, target);
}

static unsigned try_instance(struct dice *dice, const struct encoding *e, ZydisMnemonic mnemonic,
			     uint8_t *bytes, uint64_t rip, unsigned pointers, unsigned indices)
{
	struct operand_bytes o = {.length = 0};
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	unsigned reg = e->reg | (!set->narrow && roll_percent(dice, 50) ? 8u : 0), n;

	if (e->modrm && e->memory) {
		roll_memory_operand(dice, e, reg, pointers, indices, &o);
	} else if (e->modrm) {
		unsigned rm = roll_below(dice, register_count());

		o.bytes[o.length++] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
		o.rex |= rm >> 3;
	} else if (!set->narrow && roll_percent(dice, 40)) {
		o.rex |= roll_below(dice, 2); /* a register in the opcode */
	}
	if (e->modrm)
		o.rex |= reg >> 3 << 2;
	memset(bytes, 0, 24);
	n = e->kind == KIND_VEX ? 0 : put_stray_prefixes(dice, bytes);
	n = put_opcode(e, bytes, n, o.rex, roll_percent(dice, 80) ? roll_below(dice, register_count()) : 0);
	memcpy(bytes + n, o.bytes, o.length);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)) &&
	    e->kind == KIND_VEX) {
		/* VEX.vvvv may have to be all ones. */
		put_opcode(e, bytes, 0, o.rex, 0);
	}
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)) ||
	    insn.mnemonic != mnemonic)
		return 0;
	patch_immediates(dice, &insn, bytes, rip);
	patch_rip_relative(dice, &insn, bytes, rip);
	patch_offset(dice, &insn, bytes);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)) ||
	    insn.mnemonic != mnemonic || !is_allowed(&insn, operands))
		return 0;
	return insn.length;
}

/* Bytes with no plan at all; most are no instruction that may run here. */
static unsigned try_bytes(struct dice *dice, uint8_t *bytes, uint64_t rip, ZydisMnemonic *mnemonic)
{
	static const uint8_t starts[] = {0x0f, 0x66, 0xf3, 0xf2, 0x48, 0xc5, 0xc4, 0x41};
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	for (unsigned i = 0; i < 24; i++)
		bytes[i] = (uint8_t)roll(dice);
	if (roll_percent(dice, 60))
		bytes[0] = starts[roll_below(dice, sizeof(starts))];
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)))
		return 0;
	patch_immediates(dice, &insn, bytes, rip);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&set->decoder, bytes, 15, &insn, operands)) ||
	    !is_allowed(&insn, operands) || !set->families[insn.mnemonic].count)
		return 0;
	*mnemonic = insn.mnemonic;
	return insn.length;
}

unsigned encodings_roll(struct dice *dice, uint8_t *bytes, uint64_t rip, unsigned pointers, unsigned indices,
			ZydisMnemonic *mnemonic)
{
	for (unsigned tries = 0; tries < 200; tries++) {
		ZydisMnemonic m = (ZydisMnemonic)set->present[roll_below(dice, set->present_count)];
		const struct family *f = &set->families[m];
		uint8_t buffer[32];
		unsigned length;

		if (roll_percent(dice, 40))
			length = try_bytes(dice, buffer, rip, &m);
		else
			length = try_instance(dice, &f->list[roll_below(dice, f->count)], m, buffer, rip,
					      pointers, indices);
		if (!length)
			continue;
		memcpy(bytes, buffer, length);
		*mnemonic = m;
		return length;
	}
	*mnemonic = ZYDIS_MNEMONIC_NOP;
	bytes[0] = 0x90;
	return 1;
}
