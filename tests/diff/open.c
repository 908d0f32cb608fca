// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * open.c - what the manuals leave open. Each rule says after which instruction it holds and who says
 * so; where it holds, the software processor's outcome gets the host's value, so that nothing else
 * escapes the comparison.
 *
 * The software processor says of itself that it is Intel's, and behaves so where Intel's manual leaves
 * something open but its processors agree. On their hosts this is compared; the rules under
 * "other vendors" are for hosts that are not.
 *
 * SDM: Intel 64 and IA-32 Architectures Software Developer's Manual; APM: AMD64 Architecture
 * Programmer's Manual.
 */
#include "tests/diff/diff.h"

#include <cpuid.h>
#include <string.h>

#define VECTOR_BP 3u
#define VECTOR_GP 13u
#define VECTOR_XM 19u

#define AREA_FOP   6u
#define AREA_FIP   8u
#define AREA_FDP   16u
#define AREA_MXCSR 24u
#define AREA_XMM   160u

#define MXCSR_UE         0x10u
#define MXCSR_PE         0x20u
#define MXCSR_MISALIGNED 0x20000u /* MM, bit 17: AMD's */

bool host_is_intel(void)
{
	static int known = -1;
	unsigned a, b, c, d;

	if (known < 0)
		known = __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx &&
			c == signature_INTEL_ecx && d == signature_INTEL_edx;
	return known;
}

/* --- what the rules look at --------------------------------------------------------------------- */

struct view {
	const struct scenario *scenario;
	const struct outcome *native;
	struct outcome *soft;
	uint64_t rip; /* of the last instruction */
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

static bool faulted(const struct view *v, const struct outcome *out)
{
	return out->vector != VECTOR_BP && out->cpu.rip == v->rip;
}

/* Everything as on the host: the two have taken different ways. */
static void settle_all(struct view *v)
{
	*v->soft = *v->native;
}

static void settle_exception(struct view *v)
{
	v->soft->vector = v->native->vector;
	v->soft->error = v->native->error;
	v->soft->cr2 = v->native->cr2;
}

static void settle_flags(struct view *v, uint64_t flags)
{
	v->soft->cpu.rflags = (v->soft->cpu.rflags & ~flags) | (v->native->cpu.rflags & flags);
}

static void settle_area(struct view *v, unsigned offset, unsigned size)
{
	memcpy(v->soft->cpu.area + offset, v->native->cpu.area + offset, size);
}

/* Where a linear address lies in outcome.memory; MEMORY_SIZE when nowhere. */
static unsigned memory_offset(uint64_t linear)
{
	if (linear - DATA_LINEAR < DATA_SIZE)
		return (unsigned)(linear - DATA_LINEAR);
	if (linear - STACK_LINEAR < STACK_SIZE)
		return DATA_SIZE + (unsigned)(linear - STACK_LINEAR);
	return MEMORY_SIZE;
}

static void settle_memory(struct view *v, uint64_t linear, unsigned size)
{
	static uint8_t settled[MEMORY_SIZE];

	if (v->soft->memory != settled)
		memcpy(settled, v->soft->memory, MEMORY_SIZE);
	v->soft->memory = settled;
	for (unsigned i = 0; i < size; i++) {
		unsigned at = memory_offset(linear + i);

		if (at < MEMORY_SIZE)
			settled[at] = v->native->memory[at];
	}
}

static uint32_t memory_get32(const struct outcome *out, uint64_t linear)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned at = memory_offset(linear + i);

		if (at < MEMORY_SIZE)
			value |= (uint32_t)out->memory[at] << (8 * i);
	}
	return value;
}

/* The address of the memory operand, of an instruction that has changed no register it depends on. */
static bool operand_address(const struct view *v, const struct outcome *out, uint64_t *linear)
{
	ZydisRegisterContext context = {.values = {0}};
	ZyanU64 address;

	for (unsigned i = 0; i < 16; i++) {
		context.values[ZYDIS_REGISTER_RAX + i] = out->cpu.gpr[i];
		context.values[ZYDIS_REGISTER_EAX + i] = (uint32_t)out->cpu.gpr[i];
		context.values[ZYDIS_REGISTER_AX + i] = (uint16_t)out->cpu.gpr[i];
	}
	for (unsigned i = 0; i < v->insn.operand_count; i++) {
		if (v->operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    !ZYAN_SUCCESS(
			ZydisCalcAbsoluteAddressEx(&v->insn, &v->operands[i], v->rip, &context, &address)))
			continue;
		*linear = address;
		return true;
	}
	return false;
}

static bool is_store(const struct view *v)
{
	return v->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       v->operands[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* --- all vendors -------------------------------------------------------------------------------- */

/* SDM volume 2, RCL/RCR/ROL/ROR: "The OF flag is defined only for the 1-bit rotates; it is undefined
 * in all other cases". */
static void rotate(struct view *v)
{
	settle_flags(v, FLAG_OF);
}

/* SDM volume 2, AAD and AAM: "The OF, AF, and CF flags are undefined." */
static void adjust_division(struct view *v)
{
	settle_flags(v, FLAG_OF | FLAG_AF | FLAG_CF);
}

/* SDM volume 2, AAA and AAS: "the OF, SF, ZF, and PF flags are undefined." */
static void adjust_ascii(struct view *v)
{
	settle_flags(v, FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF);
}

/* SDM volume 2, DAA and DAS: "The OF flag is undefined." */
static void adjust_decimal(struct view *v)
{
	settle_flags(v, FLAG_OF);
}

/* Stores under a mask: the manual says that CR2 gets the address that faulted, and not which one of an
 * operand of which some elements are written; processors name the first byte of an element, its last,
 * or that of another. So only the page is compared. */
static void masked_store(struct view *v)
{
	if (!((v->native->cr2 ^ v->soft->cr2) & ~(uint64_t)(PAGE - 1)))
		v->soft->cr2 = v->native->cr2;
}

/* --- other vendors: integers -------------------------------------------------------------------- */

/* SDM volume 2 and APM volume 3, DIV and IDIV: the flags are undefined. Intel's processors leave them. */
static void divide(struct view *v)
{
	settle_flags(v, FLAGS_USER);
}

static bool is_readable(uint64_t linear)
{
	return memory_offset(linear) < MEMORY_SIZE || linear - CODE_LINEAR < PAGE;
}

/* Whether both operands of CMPS fault: which is read first, no manual says. */
static bool do_both_fault(const struct view *v)
{
	uint64_t mask = v->insn.address_width == 32 ? 0xffffffff : ~0ull, last = v->operands[0].size / 8 - 1;

	for (unsigned r = 6; r <= 7; r++) {
		uint64_t linear = v->native->cpu.gpr[r] & mask;

		if (is_readable(linear) && is_readable(linear + last))
			return false;
	}
	return v->operands[0].type == v->operands[1].type;
}

/* SDM volume 2, REP: after a page fault in REPE CMPS and the like "the EFLAGS value is restored to the
 * state prior to the execution of the instruction". APM volume 3 does not say so, and there they are of
 * the last comparison. */
static void compare_string(struct view *v)
{
	if (!faulted(v, v->native) || !faulted(v, v->soft))
		return;
	settle_flags(v, FLAGS_USER);
	if (do_both_fault(v))
		settle_exception(v);
}

/* A repeated string instruction with 32-bit addresses that does no element, for a fault or a count of 0:
 * whether its registers lose their upper halves, no manual says. */
static void string_registers(struct view *v)
{
	static const uint8_t registers[] = {1, 6, 7}; /* RCX, RSI, RDI */

	if (v->insn.meta.category != ZYDIS_CATEGORY_STRINGOP || v->insn.address_width != 32)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(registers); i++) {
		uint64_t *soft = &v->soft->cpu.gpr[registers[i]], native = v->native->cpu.gpr[registers[i]];

		if ((uint32_t)*soft == *soft && (uint32_t)native == (uint32_t)*soft)
			*soft = native;
	}
}

/* SDM volume 2, MOVSXD, with a 16-bit operand: from r/m16. APM volume 3 has it from r/m32 alone, and four
 * bytes are read. */
static void extend_word(struct view *v)
{
	uint64_t linear;

	if (v->operands[0].size == 16 && faulted(v, v->native) && !faulted(v, v->soft) &&
	    operand_address(v, v->native, &linear) && !is_readable(linear + 3))
		settle_all(v);
}

/* CALL to an address that is not canonical: #GP, with the return address already written or not. RSP
 * has not changed, so nobody may rely on what lies below it. */
static void call(struct view *v)
{
	if (faulted(v, v->native) && v->native->vector == VECTOR_GP)
		settle_memory(v, v->native->cpu.gpr[4] - 8, 8);
}

/* SDM volume 2, POPA, of a fault in the middle: it does not say whether the registers popped before it have their new
 * values. On Intel's processors they have. */
static void pop_all(struct view *v)
{
	if (faulted(v, v->native) && faulted(v, v->soft) && v->native->vector == v->soft->vector &&
	    v->native->cr2 == v->soft->cr2)
		memcpy(v->soft->cpu.gpr, v->native->cpu.gpr, sizeof(v->native->cpu.gpr));
}

/* --- other vendors: vectors --------------------------------------------------------------------- */

/* SDM volume 2, MASKMOVDQU: faults of bytes that the mask leaves out are implementation-dependent. So
 * is then which of two pages faults first. */
static void masked_bytes(struct view *v)
{
	if (faulted(v, v->native) && faulted(v, v->soft))
		settle_exception(v);
}

/* SDM volume 1, 9.5.1: an MMX instruction sets TOP to 0. On Intel's processors it does also when its
 * store faults, on others it then has not happened. */
static void mmx_store(struct view *v)
{
	uint8_t *soft = v->soft->cpu.area;
	unsigned top = le16_get(v->native->cpu.area + 2) >> 11 & 7;
	uint8_t registers[128];

	if (!is_store(v) || ZydisRegisterGetClass(v->operands[1].reg.value) != ZYDIS_REGCLASS_MMX ||
	    !faulted(v, v->native) || (le16_get(soft + 2) >> 11 & 7) != 0)
		return;
	/* The physical registers are the same; the image has them in the order of the stack. */
	memcpy(registers, soft + 32, sizeof(registers));
	for (unsigned i = 0; i < 8; i++)
		memcpy(soft + 32 + 16 * (size_t)i, registers + 16 * (size_t)((i + top) & 7), 16);
	le16_put(soft + 2, (uint16_t)(le16_get(soft + 2) | top << 11));
}

/* An unmasked underflow of VCVTPS2PH: SDM volume 1, 4.9.1.5, and IEEE 754 make it exact or not by the
 * result with an unbounded exponent, to which AMD's processors keep. Intel's call all that is denormal
 * before it is converted inexact. */
static void convert_underflow(struct view *v)
{
	uint32_t native = le32_get(v->native->cpu.area + AREA_MXCSR),
		 soft = le32_get(v->soft->cpu.area + AREA_MXCSR);

	if (v->native->vector == VECTOR_XM && v->soft->vector == VECTOR_XM && native & MXCSR_UE &&
	    (native ^ soft) == MXCSR_PE)
		settle_area(v, AREA_MXCSR, 4);
}

/* VCVTPS2PH to memory can raise #PF and #XM. SDM volume 3, 7.9, and APM volume 2, 8.5 "Priorities": both
 * are of the class of execution, whose order is the implementation's; and with #PF first, whether MXCSR
 * has the flags already. */
static void convert_store(struct view *v)
{
	convert_underflow(v);
	if (!is_store(v) || !faulted(v, v->native) || !faulted(v, v->soft))
		return;
	if (v->native->vector == VECTOR_XM)
		return;
	if (v->soft->vector == VECTOR_XM)
		settle_exception(v);
	settle_area(v, AREA_MXCSR, 4);
}

static unsigned vector_offset(const ZydisDecodedOperand *operand, unsigned byte)
{
	unsigned number = (unsigned)ZydisRegisterGetId(operand->reg.value);

	return (byte < 16 ? AREA_XMM : AREA_AVX - 16) + 16 * number + byte;
}

/* SDM volume 2, VGATHERDPS: of the mask, only the top bit of each element has a meaning. The pseudocode
 * extends it to the whole element before it loads any, and a fault of AMD's processors finds it as it was.
 * So it does what lies above the elements, which the pseudocode clears. */
static void gather(struct view *v)
{
	const ZydisDecodedOperand *destination = &v->operands[0], *mask = &v->operands[2];
	unsigned element = destination->element_size / 8, used = (unsigned)v->insn.avx.vector_length / 8;

	if (!faulted(v, v->native) || !faulted(v, v->soft))
		return;
	/* With indices of 64 bits, elements of 32 fill half. */
	if (v->insn.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || v->insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD)
		used /= 2;
	for (unsigned i = 0; i < 32; i += element) {
		unsigned at = vector_offset(mask, i), top = at + element - 1;

		if (i >= used)
			settle_area(v, vector_offset(destination, i), element);
		if (i >= used || !((v->native->cpu.area[top] ^ v->soft->cpu.area[top]) & 0x80))
			settle_area(v, at, element);
	}
}

/* SDM volume 2, 2.4.4 (exceptions type 4): #GP when the memory operand of an SSE instruction is not
 * aligned. Of SHA, AMD's processors do not ask it. */
static void sha(struct view *v)
{
	uint64_t linear;

	if (faulted(v, v->soft) && v->soft->vector == VECTOR_GP && operand_address(v, v->soft, &linear) &&
	    linear & 15)
		settle_all(v);
}

/* APM volume 1, 4.2.2: bit 17 of MXCSR, MM, is AMD's, so a load may set it that raises #GP on Intel's. */
static void mxcsr_load(struct view *v)
{
	uint64_t linear;
	bool fxrstor =
	    v->insn.mnemonic == ZYDIS_MNEMONIC_FXRSTOR || v->insn.mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;

	if (faulted(v, v->soft) && v->soft->vector == VECTOR_GP && operand_address(v, v->soft, &linear) &&
	    memory_get32(v->soft, linear + (fxrstor ? AREA_MXCSR : 0)) >> 16 == MXCSR_MISALIGNED >> 16)
		settle_all(v);
}

/* --- other vendors: x87 ------------------------------------------------------------------------- */

static bool is_exception_pending(const struct outcome *out)
{
	return le16_get(out->cpu.area + 2) & 0x80;
}

static bool is_x87(const struct view *v)
{
	return v->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       v->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && v->insn.opcode >= 0xd8 &&
	       v->insn.opcode <= 0xdf;
}

/* APM volume 2, "FXSAVE and FXRSTOR Instructions": FOP, FIP and FDP are saved only with an exception
 * pending. So it is with the state we get from the kernel, too. */
static void x87_pointers(struct view *v)
{
	if (!is_exception_pending(v->native))
		settle_area(v, AREA_FOP, AREA_MXCSR - AREA_FOP);
}

/* SDM volume 1, 8.1.8: FDP is undefined after an instruction without a memory operand. */
static void x87_registers(struct view *v)
{
	if (is_x87(v) && v->insn.raw.modrm.mod == 3)
		settle_area(v, AREA_FDP, 8);
}

/* An x87 store can cause #PF and, unmasked, an exception that keeps it from storing. Both are of the
 * class of execution, as for VCVTPS2PH. */
static void x87_store(struct view *v)
{
	uint64_t linear;

	if (!is_x87(v) || !is_store(v) || !faulted(v, v->native))
		return;
	if (!faulted(v, v->soft) && is_exception_pending(v->soft))
		settle_all(v);
	/* 80 bits go in two stores; the first may be done when the second faults. */
	if (v->operands[0].size == 80 && operand_address(v, v->native, &linear))
		settle_memory(v, linear, 8);
}

/* The pointers have 64 bits in the image, and as many in the processor as its linear addresses have. */
static void pointers_load(struct view *v)
{
	static const uint8_t offsets[] = {AREA_FIP, AREA_FDP};

	for (unsigned i = 0; i < ARRAY_SIZE(offsets); i++)
		if (!((le64_get(v->native->cpu.area + offsets[i]) ^ le64_get(v->soft->cpu.area + offsets[i]))
		      << 16))
			settle_area(v, offsets[i], 8);
}

/* FLDCW makes an exception pending that was masked, and so shows FIP. FOP and FDP then are, by SDM volume 1,
 * 8.1.8 and 8.1.9, of the last exception, or of the last instruction. */
static void control_load(struct view *v)
{
	settle_area(v, AREA_FOP, 2);
	settle_area(v, AREA_FDP, 8);
	pointers_load(v);
}

static void fxsave(struct view *v)
{
	bool wide = v->insn.mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
	uint64_t linear;

	if (!operand_address(v, v->native, &linear))
		return;
	if (!is_exception_pending(v->native))
		settle_memory(v, linear + AREA_FOP, AREA_MXCSR - AREA_FOP);
	if (!wide) { /* FCS and FDS, which Intel's processors no longer have */
		settle_memory(v, linear + AREA_FIP + 4, 2);
		settle_memory(v, linear + AREA_FDP + 4, 2);
	}
	/* MXCSR_MASK has bit 17. */
	if ((memory_get32(v->native, linear + AREA_MXCSR + 4) ^
	     memory_get32(v->soft, linear + AREA_MXCSR + 4)) == MXCSR_MISALIGNED)
		settle_memory(v, linear + AREA_MXCSR + 4, 4);
}

/* FNSTENV and FNSAVE: FCS and FDS, which CPUID says the guest's processor does not keep; FOP and FDP, which
 * it says are of the last exception. SDM volume 1, figures 8-9 and 8-11. */
static void environment_store(struct view *v)
{
	bool small = v->operands[0].size / 8 == 14 || v->operands[0].size / 8 == 94;
	uint64_t linear;

	if (!operand_address(v, v->native, &linear))
		return;
	if (small)
		settle_memory(v, linear + 8, 6);
	else
		settle_memory(v, linear + 16, 10);
}

/* --- the rules ---------------------------------------------------------------------------------- */

#define OTHERS true

static const struct {
	ZydisMnemonic mnemonic;
	bool others; /* only on hosts that are not Intel's */
	void (*settle)(struct view *);
} rules[] = {
    {ZYDIS_MNEMONIC_ROL, false, rotate},
    {ZYDIS_MNEMONIC_ROR, false, rotate},
    {ZYDIS_MNEMONIC_AAD, false, adjust_division},
    {ZYDIS_MNEMONIC_AAM, false, adjust_division},
    {ZYDIS_MNEMONIC_AAA, false, adjust_ascii},
    {ZYDIS_MNEMONIC_AAS, false, adjust_ascii},
    {ZYDIS_MNEMONIC_DAA, false, adjust_decimal},
    {ZYDIS_MNEMONIC_DAS, false, adjust_decimal},
    {ZYDIS_MNEMONIC_VMASKMOVPS, false, masked_store},
    {ZYDIS_MNEMONIC_VMASKMOVPD, false, masked_store},
    {ZYDIS_MNEMONIC_VPMASKMOVD, false, masked_store},
    {ZYDIS_MNEMONIC_VPMASKMOVQ, false, masked_store},
    {ZYDIS_MNEMONIC_DIV, OTHERS, divide},
    {ZYDIS_MNEMONIC_IDIV, OTHERS, divide},
    {ZYDIS_MNEMONIC_CMPSB, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_CMPSW, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_CMPSD, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_CMPSQ, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_SCASB, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_SCASW, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_SCASD, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_SCASQ, OTHERS, compare_string},
    {ZYDIS_MNEMONIC_MOVSXD, OTHERS, extend_word},
    {ZYDIS_MNEMONIC_CALL, OTHERS, call},
    {ZYDIS_MNEMONIC_POPA, OTHERS, pop_all},
    {ZYDIS_MNEMONIC_POPAD, OTHERS, pop_all},
    {ZYDIS_MNEMONIC_MASKMOVQ, OTHERS, masked_bytes},
    {ZYDIS_MNEMONIC_MASKMOVDQU, OTHERS, masked_bytes},
    {ZYDIS_MNEMONIC_VMASKMOVDQU, OTHERS, masked_bytes},
    {ZYDIS_MNEMONIC_MOVD, OTHERS, mmx_store},
    {ZYDIS_MNEMONIC_MOVQ, OTHERS, mmx_store},
    {ZYDIS_MNEMONIC_MOVNTQ, OTHERS, mmx_store},
    {ZYDIS_MNEMONIC_VCVTPS2PH, OTHERS, convert_store},
    {ZYDIS_MNEMONIC_VGATHERDPS, OTHERS, gather},
    {ZYDIS_MNEMONIC_VGATHERQPS, OTHERS, gather},
    {ZYDIS_MNEMONIC_VGATHERDPD, OTHERS, gather},
    {ZYDIS_MNEMONIC_VGATHERQPD, OTHERS, gather},
    {ZYDIS_MNEMONIC_VPGATHERDD, OTHERS, gather},
    {ZYDIS_MNEMONIC_VPGATHERQD, OTHERS, gather},
    {ZYDIS_MNEMONIC_VPGATHERDQ, OTHERS, gather},
    {ZYDIS_MNEMONIC_VPGATHERQQ, OTHERS, gather},
    {ZYDIS_MNEMONIC_SHA1MSG1, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA1MSG2, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA1NEXTE, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA1RNDS4, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA256MSG1, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA256MSG2, OTHERS, sha},
    {ZYDIS_MNEMONIC_SHA256RNDS2, OTHERS, sha},
    {ZYDIS_MNEMONIC_LDMXCSR, OTHERS, mxcsr_load},
    {ZYDIS_MNEMONIC_VLDMXCSR, OTHERS, mxcsr_load},
    {ZYDIS_MNEMONIC_FXRSTOR, OTHERS, mxcsr_load},
    {ZYDIS_MNEMONIC_FXRSTOR64, OTHERS, mxcsr_load},
    {ZYDIS_MNEMONIC_FXRSTOR64, OTHERS, pointers_load},
    {ZYDIS_MNEMONIC_FLDCW, OTHERS, control_load},
    {ZYDIS_MNEMONIC_FXSAVE, OTHERS, fxsave},
    {ZYDIS_MNEMONIC_FXSAVE64, OTHERS, fxsave},
    {ZYDIS_MNEMONIC_FNSTENV, OTHERS, environment_store},
    {ZYDIS_MNEMONIC_FNSAVE, OTHERS, environment_store},
};

/* Of many mnemonics; on hosts that are not Intel's. */
static void (*const wide_rules[])(struct view *) = {string_registers, x87_registers, x87_store};

static bool decode(struct view *v, const struct instruction *last)
{
	ZydisDecoder decoder;

	v->rip = CODE_LINEAR + last->offset;
	if (v->scenario->narrow)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, v->scenario->code + last->offset, last->length,
						   &v->insn, v->operands));
}

void outcome_settle(const struct scenario *s, const struct instruction *last, const struct outcome *native,
		    struct outcome *soft)
{
	struct view v = {.scenario = s, .native = native, .soft = soft};

	if (!host_is_intel())
		x87_pointers(&v);
	if (!last || !decode(&v, last))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
		if (rules[i].mnemonic == last->mnemonic && !(rules[i].others && host_is_intel()))
			rules[i].settle(&v);
	for (unsigned i = 0; !host_is_intel() && i < ARRAY_SIZE(wide_rules); i++)
		wide_rules[i](&v);
}
