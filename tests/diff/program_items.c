// SPDX-License-Identifier: GPL-2.0-or-later
/* program_items.c - what random programs consist of. */
#include "tests/diff/program.h"

#include <string.h>

void assemble(struct assembly *a, const void *bytes, unsigned count)
{
	/* Behind the last page there is the other form of page 2, which is written when all is done. */
	if (a->at + count > CODE_PAGES * PAGE)
		return;
	memcpy(a->p->code + a->at, bytes, count);
	a->at += count;
}

void assemble32(struct assembly *a, uint64_t value)
{
	uint8_t bytes[4];

	le32_put(bytes, (uint32_t)value);
	assemble(a, bytes, 4);
}

static void assemble64(struct assembly *a, uint64_t value)
{
	assemble32(a, value);
	assemble32(a, value >> 32);
}

#define ASM(a, ...)                                             \
	do {                                                    \
		const uint8_t asm_bytes[] = {__VA_ARGS__};      \
		assemble(a, asm_bytes, sizeof(asm_bytes));      \
	} while (0)

/* REX.W, where there is such a thing. */
static void assemble_wide(struct assembly *a)
{
	if (!a->p->narrow)
		ASM(a, 0x48);
}

static void assemble_distance(struct assembly *a, uint32_t target)
{
	assemble32(a, target - (a->at + 4));
}

static void assemble_unit(struct assembly *a, unsigned unit)
{
	if (a->fixup_count < ARRAY_SIZE(a->fixups)) {
		a->fixups[a->fixup_count].at = a->at;
		a->fixups[a->fixup_count++].unit = unit;
	}
	assemble32(a, 0);
}

/* Not RSP. */
static unsigned roll_gpr8(struct dice *dice)
{
	unsigned r = roll_below(dice, 8);

	return r == 4 ? 3 : r;
}

void assemble_fuel(struct assembly *a)
{
	if (roll_percent(a->dice, 50)) {
		ASM(a, 0xff, 0x0c, 0x25); /* dec dword [FUEL] */
		assemble32(a, FUEL_AT);
		ASM(a, 0x0f, 0x8e); /* jle exit */
		assemble_distance(a, a->p->exit);
		return;
	}
	assemble_wide(a);
	ASM(a, 0x89, 0x0c, 0x25); /* mov [SAVE], rcx */
	assemble32(a, SAVE_AT);
	ASM(a, 0x8b, 0x0c, 0x25); /* mov ecx, [FUEL] */
	assemble32(a, FUEL_AT);
	ASM(a, 0x8d, 0x49, 0xff, 0x89, 0x0c, 0x25); /* lea ecx, [rcx - 1]; mov [FUEL], ecx */
	assemble32(a, FUEL_AT);
	ASM(a, 0xe3, 0x02, 0xeb, 0x05, 0xe9); /* jrcxz 1f; jmp 2f; 1: jmp exit; 2: */
	assemble_distance(a, a->p->exit);
	assemble_wide(a);
	ASM(a, 0x8b, 0x0c, 0x25); /* mov rcx, [SAVE] */
	assemble32(a, SAVE_AT);
}

/* --- instructions -------------------------------------------------------------------------------- */

/* SDM volume 2: OF after a rotation by more than 1 is undefined, and by an immediate another than by CL. */
static bool is_open(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	return (insn->mnemonic == ZYDIS_MNEMONIC_ROL || insn->mnemonic == ZYDIS_MNEMONIC_ROR) &&
	    (operands[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || operands[1].imm.value.u != 1);
}

static unsigned register_bit(ZydisRegister of)
{
	ZydisRegister r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, of);

	return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15 ? 1u << (r - ZYDIS_REGISTER_RAX) : 0;
}

/* Whether the operand's address has a chance to be one of data. */
static bool is_near(const struct assembly *a, const ZydisDecodedOperand *operand)
{
	const ZydisDecodedOperandMem *mem = &operand->mem;
	unsigned index = register_bit(mem->index);

	if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
		return true;
	/* Of 16 bits. */
	if (a->p->narrow && ZydisRegisterGetClass(mem->base) == ZYDIS_REGCLASS_GPR16)
		return false;
	if (mem->base == ZYDIS_REGISTER_NONE)
		return (uint64_t)mem->disp.value - DATA_LINEAR < DATA_SIZE;
	if (mem->base == ZYDIS_REGISTER_RIP)
		return true;
	return register_bit(mem->base) & (a->pointers | 1u << 4) && (!index || a->indices & index) &&
	    mem->disp.value >= -512 && mem->disp.value < 512;
}

/* False for a branch. Registers that it writes are no pointers any more. */
static bool take(struct assembly *a, const uint8_t *bytes, unsigned length)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	if (a->p->narrow)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &insn, operands)) ||
	    insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || is_open(&insn, operands))
		return false;
	for (unsigned i = 0; i < insn.operand_count; i++)
		if (!is_near(a, &operands[i]) && roll_percent(a->dice, 97))
			return false;
	for (unsigned i = 0; i < insn.operand_count; i++) {
		ZydisRegister r =
		    operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? operands[i].reg.value : ZYDIS_REGISTER_NONE;

		if (!(operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		a->pointers &= ~register_bit(r);
		a->indices &= ~register_bit(r);
	}
	assemble(a, bytes, length);
	return true;
}

/* Those that compilers use, so that most of a program is copied and not called. */
static bool is_common(ZydisMnemonic m)
{
	static const uint16_t common[] = {ZYDIS_MNEMONIC_MOV, ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_SUB, ZYDIS_MNEMONIC_CMP,
	    ZYDIS_MNEMONIC_TEST, ZYDIS_MNEMONIC_AND, ZYDIS_MNEMONIC_OR, ZYDIS_MNEMONIC_XOR, ZYDIS_MNEMONIC_ADC,
	    ZYDIS_MNEMONIC_SBB, ZYDIS_MNEMONIC_INC, ZYDIS_MNEMONIC_DEC, ZYDIS_MNEMONIC_NEG, ZYDIS_MNEMONIC_NOT,
	    ZYDIS_MNEMONIC_LEA, ZYDIS_MNEMONIC_MOVZX, ZYDIS_MNEMONIC_MOVSX, ZYDIS_MNEMONIC_MOVSXD, ZYDIS_MNEMONIC_SHL,
	    ZYDIS_MNEMONIC_SHR, ZYDIS_MNEMONIC_SAR, ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR, ZYDIS_MNEMONIC_IMUL,
	    ZYDIS_MNEMONIC_MUL, ZYDIS_MNEMONIC_CMOVB, ZYDIS_MNEMONIC_CMOVNZ, ZYDIS_MNEMONIC_CMOVLE, ZYDIS_MNEMONIC_SETZ,
	    ZYDIS_MNEMONIC_SETB, ZYDIS_MNEMONIC_BT, ZYDIS_MNEMONIC_BTS, ZYDIS_MNEMONIC_XCHG, ZYDIS_MNEMONIC_PUSH,
	    ZYDIS_MNEMONIC_POP, ZYDIS_MNEMONIC_MOVAPS, ZYDIS_MNEMONIC_MOVUPS, ZYDIS_MNEMONIC_MOVDQA,
	    ZYDIS_MNEMONIC_MOVDQU, ZYDIS_MNEMONIC_PADDD, ZYDIS_MNEMONIC_PXOR, ZYDIS_MNEMONIC_MULSD,
	    ZYDIS_MNEMONIC_ADDPS, ZYDIS_MNEMONIC_CVTSI2SD, ZYDIS_MNEMONIC_VMOVUPS, ZYDIS_MNEMONIC_VPADDD,
	    ZYDIS_MNEMONIC_VADDPD, ZYDIS_MNEMONIC_XADD, ZYDIS_MNEMONIC_CMPXCHG, ZYDIS_MNEMONIC_SHLX, ZYDIS_MNEMONIC_ANDN,
	    ZYDIS_MNEMONIC_CDQE, ZYDIS_MNEMONIC_CQO, ZYDIS_MNEMONIC_CWDE, ZYDIS_MNEMONIC_CDQ, ZYDIS_MNEMONIC_BSWAP, ZYDIS_MNEMONIC_LEAVE, ZYDIS_MNEMONIC_STC,
	    ZYDIS_MNEMONIC_UCOMISD, ZYDIS_MNEMONIC_POPCNT, ZYDIS_MNEMONIC_BSF, ZYDIS_MNEMONIC_SHLD};

	for (unsigned i = 0; i < ARRAY_SIZE(common); i++)
		if (common[i] == m)
			return true;
	return false;
}

static void instruction(struct assembly *a)
{
	bool common = roll_percent(a->dice, 75);
	uint8_t bytes[32];

	for (unsigned tries = 0; tries < 60; tries++) {
		ZydisMnemonic m;
		unsigned n = encodings_roll(a->dice, bytes, CODE_LINEAR + a->at, a->pointers, a->indices, &m);

		/* RSP is moved by what is meant for it, most of the time. */
		if ((common && !is_common(m)) || (m == ZYDIS_MNEMONIC_LEAVE && roll_percent(a->dice, 80)))
			continue;
		if (take(a, bytes, n))
			return;
	}
}

/* Registers that point at data and small numbers are made again now and then. */
static void pointer(struct assembly *a)
{
	unsigned r = roll_gpr8(a->dice);

	ASM(a, (uint8_t)(0xb8 + r)); /* mov r32, imm32 */
	assemble32(a, DATA_LINEAR + roll_below(a->dice, 2 * PAGE - 64) / 16 * 16);
	a->pointers |= 1u << r;
	a->indices &= ~(1u << r);
}

static void small_number(struct assembly *a)
{
	unsigned r = roll_gpr8(a->dice);

	ASM(a, (uint8_t)(0xb8 + r));
	assemble32(a, roll_below(a->dice, 40));
	a->indices |= 1u << r;
	a->pointers &= ~(1u << r);
}

/* RSP in ways that a translator must not take for an addition, often from above 4 GiB, and a use of it. */
static void odd_stack(struct assembly *a)
{
	unsigned r = roll_gpr8(a->dice);
	uint8_t distance = (uint8_t)(8 * roll_below(a->dice, 5));

	if (roll_percent(a->dice, 70)) {
		ASM(a, 0x48, 0xbc); /* mov rsp, … */
		assemble64(a, STACK_HIGH + PAGE + 8 * roll_below(a->dice, PAGE / 16));
	}
	/* push r; jmp 1f; 1: push r. A block begins with RSP as it may be, and a page of the stack that was written to. */
	ASM(a, (uint8_t)(0x50 + r), 0xeb, 0, (uint8_t)(0x50 + r));
	switch (roll_below(a->dice, 8)) {
	case 0: /* lea rsp, [esp + d] */
		ASM(a, 0x67, 0x48, 0x8d, 0x64, 0x24, distance);
		break;
	case 1: /* lea esp, [rsp + d] */
		ASM(a, 0x8d, 0x64, 0x24, distance);
		break;
	case 2: /* mov esp, esp */
		ASM(a, 0x89, 0xe4);
		break;
	case 3: /* add esp, d */
		ASM(a, 0x83, 0xc4, distance);
		break;
	case 4: /* and rsp, -16 */
		ASM(a, 0x48, 0x83, 0xe4, 0xf0);
		break;
	case 5: /* enter d, 0; leave */
		ASM(a, 0xc8, distance, 0, 0, 0xc9);
		break;
	case 6: /* push r16; pop r16; push [esp + d] */
		ASM(a, 0x66, (uint8_t)(0x50 + r), 0x66, (uint8_t)(0x58 + r), 0x67, 0xff, 0x74, 0x24, distance);
		break;
	default: /* xadd rsp, rcx, with 8 in it */
		ASM(a, 0xb9, 8, 0, 0, 0, 0x48, 0x0f, 0xc1, 0xcc);
		break;
	}
	ASM(a, 0x48, 0x8b, (uint8_t)(0x44 | r << 3), 0x24, distance); /* mov r, [rsp + d]; mov [rsp], r; push r */
	ASM(a, 0x48, 0x89, (uint8_t)(0x04 | r << 3), 0x24, (uint8_t)(0x50 + r));
}

static void stack(struct assembly *a)
{
	unsigned r = roll_gpr8(a->dice);
	int8_t distance = (int8_t)(8 * (int)roll_below(a->dice, 12));

	switch (roll_below(a->dice, a->p->narrow ? 9 : 10)) {
	case 9:
		odd_stack(a);
		return;
	case 7: /* lea rsp, [rsp + d], now and then with a short address, or a short RSP */
		if (roll_percent(a->dice, 15))
			ASM(a, 0x67);
		assemble_wide(a);
		ASM(a, 0x8d, 0x64, 0x24, (uint8_t)(roll_percent(a->dice, 50) ? distance : -distance), (uint8_t)(0x50 + r));
		return;
	case 8: /* push word; push [rsp + d]; pop word */
		ASM(a, 0x66, (uint8_t)(0x50 + r), 0xff, 0x74, 0x24, (uint8_t)distance, 0x66, (uint8_t)(0x58 + r));
		return;
	case 0:
		ASM(a, (uint8_t)(0x50 + r), (uint8_t)(0x50 + roll_gpr8(a->dice)));
		return;
	case 1:
		ASM(a, (uint8_t)(0x58 + r));
		return;
	case 2: /* mov [rsp + d], r; mov r', [rsp + d] */
		assemble_wide(a);
		ASM(a, 0x89, (uint8_t)(0x44 | r << 3), 0x24, (uint8_t)distance);
		assemble_wide(a);
		ASM(a, 0x8b, (uint8_t)(0x44 | roll_gpr8(a->dice) << 3), 0x24, (uint8_t)distance);
		return;
	case 3: /* sub rsp, n; add rsp, n */
		assemble_wide(a);
		ASM(a, 0x83, 0xec, (uint8_t)distance, 0x89, (uint8_t)(0x04 | r << 3), 0x24);
		assemble_wide(a);
		ASM(a, 0x83, 0xc4, (uint8_t)distance);
		return;
	case 4:
		ASM(a, 0x9c, (uint8_t)(0x58 + r)); /* pushf; pop */
		return;
	case 5: /* push rbp; mov rbp, rsp; …; leave */
		ASM(a, 0x55);
		assemble_wide(a);
		ASM(a, 0x89, 0xe5);
		instruction(a);
		ASM(a, 0xc9);
		return;
	default: /* RSP somewhere else, even at the edge of a page */
		ASM(a, 0xbc);
		assemble32(a, STACK_LINEAR + PAGE - 24 + roll_below(a->dice, roll_percent(a->dice, 50) ? 48 : PAGE / 2));
		return;
	}
}

/* --- code that is written to --------------------------------------------------------------------- */

static void slot(struct assembly *a)
{
	bool wide = roll_percent(a->dice, 30) && !a->p->narrow;
	unsigned r = roll_gpr8(a->dice);

	if (roll_percent(a->dice, 25))
		ASM(a, (uint8_t)(0x70 + roll_below(a->dice, 16)), wide ? 10 : 5);
	if (a->p->slot_count < SLOTS_MAX)
		a->p->slots[a->p->slot_count++] =
		    (struct slot){.at = a->at, .immediate = wide ? 2 : 1, .size = wide ? 8 : 4};
	if (wide)
		ASM(a, 0x48);
	ASM(a, (uint8_t)(0xb8 + r));
	if (wide)
		assemble64(a, roll_integer(a->dice));
	else
		assemble32(a, roll_integer(a->dice));
	a->pointers &= ~(1u << r);
	a->indices &= ~(1u << r);
}

static uint32_t code_address(struct assembly *a, uint32_t at)
{
	return (uint32_t)((roll_percent(a->dice, 60) ? CODE_LINEAR : ALIAS_LINEAR) + at);
}

static void store_into_code(struct assembly *a)
{
	const struct program *p = a->p;
	const struct slot *s;
	uint32_t to, opcode;
	unsigned r = roll_gpr8(a->dice);

	if (!p->slot_count)
		return;
	/* Often one nearby, which may be what runs next. */
	s = &p->slots[roll_percent(a->dice, 40) ? p->slot_count - 1 : roll_below(a->dice, p->slot_count)];
	to = code_address(a, s->at + s->immediate);
	opcode = code_address(a, s->at + s->immediate - 1);
	switch (roll_below(a->dice, 10)) {
	case 0: /* mov dword [to], imm32 */
		ASM(a, 0xc7, 0x04, 0x25);
		assemble32(a, to);
		assemble32(a, roll_integer(a->dice));
		return;
	case 1: /* another register: mov byte [opcode], imm8 */
		ASM(a, 0xc6, 0x04, 0x25);
		assemble32(a, opcode);
		ASM(a, (uint8_t)(0xb8 + roll_gpr8(a->dice)));
		return;
	case 2: /* add byte [to], imm8 */
		ASM(a, 0x80, 0x04, 0x25);
		assemble32(a, to);
		ASM(a, (uint8_t)roll(a->dice));
		return;
	case 3: /* lock add dword [to], imm32 */
		ASM(a, 0xf0, 0x81, 0x04, 0x25);
		assemble32(a, to);
		assemble32(a, roll_integer(a->dice));
		return;
	case 4: /* mov [rip + …], r32 */
		ASM(a, 0x89, (uint8_t)(0x05 | r << 3));
		if (a->p->narrow)
			assemble32(a, to);
		else
			assemble_distance(a, (uint32_t)(to - CODE_LINEAR));
		return;
	case 5: /* mov edi, to; mov ecx, size; rep stosb */
		ASM(a, 0xbf);
		assemble32(a, to);
		ASM(a, 0xfc, 0xb9, s->size, 0, 0, 0, 0xf3, 0xaa);
		return;
	case 6: /* xchg [to], r32 */
		ASM(a, 0x87, (uint8_t)(0x04 | r << 3), 0x25);
		assemble32(a, to);
		return;
	case 7: /* through the stack: mov r10, rsp; mov esp, to + 8; push r; mov rsp, r10 */
		if (a->p->narrow) {
			ASM(a, 0x89, 0x24, 0x25); /* mov [SAVE], esp */
			assemble32(a, SAVE_AT);
			ASM(a, 0xbc);
			assemble32(a, to + 4);
			ASM(a, (uint8_t)(0x50 + r), 0x8b, 0x24, 0x25);
			assemble32(a, SAVE_AT);
			return;
		}
		if (s->size != 8)
			break;
		ASM(a, 0x49, 0x89, 0xe2, 0xbc);
		assemble32(a, to + 8);
		ASM(a, (uint8_t)(0x50 + r), 0x4c, 0x89, 0xd4);
		return;
	case 8: /* movq [to], xmm */
		if (s->size != 8)
			break;
		ASM(a, 0x66, 0x0f, 0xd6, (uint8_t)(0x04 | r << 3), 0x25);
		assemble32(a, to);
		return;
	default:
		break;
	}
	ASM(a, 0x66, 0xc7, 0x04, 0x25); /* mov word [to], imm16 */
	assemble32(a, to);
	ASM(a, (uint8_t)roll(a->dice), (uint8_t)roll(a->dice));
}

/* --- faults -------------------------------------------------------------------------------------- */

static void fault(struct assembly *a)
{
	unsigned r = roll_gpr8(a->dice);

	switch (roll_below(a->dice, 9)) {
	case 0: /* mov r, [hole] */
		ASM(a, 0x8b, (uint8_t)(0x04 | r << 3), 0x25);
		assemble32(a, HOLE_LINEAR + roll_below(a->dice, PAGE));
		return;
	case 1: /* a non-canonical address, or one that comes round */
		if (a->p->narrow) {
			ASM(a, 0xb8);
			assemble32(a, 0u - roll_below(a->dice, 5));
			ASM(a, 0x01, 0x18);
			return;
		}
		ASM(a, 0x48, 0xb8);
		assemble64(a, 0x1234000000000000 | roll(a->dice) >> 20);
		ASM(a, 0x48, 0x01, 0x18);
		return;
	case 2: /* movaps [data + 1], xmm */
		ASM(a, 0x0f, 0x29, (uint8_t)(0x04 | r << 3), 0x25);
		assemble32(a, DATA_LINEAR + 0x101);
		return;
	case 3: /* xor ecx, ecx; idiv ecx */
		ASM(a, 0x31, 0xc9, 0xf7, 0xf9);
		return;
	case 4:
		ASM(a, 0x0f, 0x0b);
		return;
	case 5: /* a store across the end of what may be written */
		assemble_wide(a);
		ASM(a, 0x89, (uint8_t)(0x04 | r << 3), 0x25);
		assemble32(a, DATA_LINEAR + DATA_SIZE - PAGE - 1 - roll_below(a->dice, a->p->narrow ? 3 : 7));
		return;
	case 6: /* call to where nothing is */
		ASM(a, 0xe8);
		assemble_distance(a, CODE_PAGES * PAGE + roll_below(a->dice, PAGE));
		return;
	case 7: /* push with a bad stack */
		ASM(a, 0xbc);
		assemble32(a, STACK_LINEAR + roll_below(a->dice, 12));
		ASM(a, (uint8_t)(0x50 + r), (uint8_t)(0x50 + r));
		return;
	default:
		ASM(a, 0xcc);
		return;
	}
}

/* TF by POPF: the trap comes after the instruction behind it. */
static void single_step(struct assembly *a)
{
	ASM(a, 0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d); /* pushf; or dword [rsp], 0x100; popf */
}

/* Keys 1 to 3 let everything pass, be read only, or nothing. */
static void change_rights(struct assembly *a)
{
	uint32_t rights = roll_percent(a->dice, 50) ? 0 : roll_below(a->dice, 64) & (roll_percent(a->dice, 70) ? 0x2a : 0x3f);

	ASM(a, 0xb9, 0, 0, 0, 0, 0xba, 0, 0, 0, 0, 0xb8); /* mov ecx, 0; mov edx, 0; mov eax, … */
	assemble32(a, rights << 2);
	ASM(a, 0x0f, 0x01, 0xef); /* wrpkru */
	a->pointers &= ~7u;
	a->indices &= ~7u;
}

/* --- what a kernel does --------------------------------------------------------------------------- */

/* A code page gets another frame, or none. */
static void remap(struct assembly *a)
{
	unsigned page = 2 + roll_below(a->dice, 2), kind = roll_below(a->dice, 8);
	uint64_t entry = PROGRAM_CODE + (kind < 4 ? page : page + 4) * PAGE;

	ASM(a, 0xc7, 0x04, 0x25); /* mov dword [PTE], … */
	assemble32(a, (roll_percent(a->dice, 75) ? TABLE_A : TABLE_B) + 8 * page);
	assemble32(a, kind == 7 ? 0 : entry | PROGRAM_PTE);
	ASM(a, 0x0f, 0x01, 0x3c, 0x25); /* invlpg */
	assemble32(a, CODE_LINEAR + page * PAGE);
}

static void address_space(struct assembly *a)
{
	bool b = roll_percent(a->dice, 50);

	ASM(a, 0xb8); /* mov eax, … */
	assemble32(a, (b ? PROGRAM_PML4B : PROGRAM_PML4A) | (a->p->pcid ? 1u + b : 0));
	if (a->p->steady && !a->p->narrow && roll_percent(a->dice, 60))
		ASM(a, 0x48, 0x0f, 0xba, 0xe8, 0x3f); /* bts rax, 63: the TLB stays */
	ASM(a, 0x0f, 0x22, 0xd8); /* mov cr3, rax */
}

static void breakpoint(struct assembly *a)
{
	unsigned n = roll_below(a->dice, 4);
	bool data = roll_percent(a->dice, 40);
	uint32_t at = data ? (uint32_t)(DATA_LINEAR + 16 * roll_below(a->dice, 2 * PAGE / 16))
			   : (uint32_t)(CODE_LINEAR + a->p->units[roll_below(a->dice, a->p->unit_count)]);
	uint32_t control = roll_percent(a->dice, 30) ? 0 : 2u << (2 * n);

	if (data)
		control |= (0xcu | (roll_percent(a->dice, 50) ? 1u : 3u)) << (16 + 4 * n);
	ASM(a, 0xb8);
	assemble32(a, at);
	ASM(a, 0x0f, 0x23, (uint8_t)(0xc0 | n << 3), 0xb8); /* mov drN, rax; mov eax, … */
	assemble32(a, control);
	ASM(a, 0x0f, 0x23, 0xf8); /* mov dr7, rax */
}

static void kernel_instruction(struct assembly *a)
{
	static const uint8_t choices[][4] = {{1, 0xfa}, {1, 0xfb}, {3, 0x0f, 0x01, 0xf8}, {3, 0x0f, 0x20, 0xd8},
	    {3, 0x0f, 0x20, 0xc0}, {3, 0x0f, 0x21, 0xf0}, {2, 0x0f, 0x06}, {2, 0x0f, 0xa2}, {2, 0x0f, 0x31}, {1, 0xf4}};
	unsigned i = roll_below(a->dice, ARRAY_SIZE(choices));

	/* cli, sti, swapgs, mov rax <- cr3, cr0, dr6, clts, cpuid, rdtsc, hlt */
	assemble(a, choices[i] + 1, choices[i][0]);
}

static void kernel(struct assembly *a)
{
	switch (roll_below(a->dice, 8)) {
	case 0:
	case 1:
	case 2:
		if (!a->p->steady)
			remap(a);
		return;
	case 3:
	case 4:
		address_space(a);
		return;
	case 5:
		breakpoint(a);
		return;
	default:
		kernel_instruction(a);
		return;
	}
}

/* --- segments ------------------------------------------------------------------------------------- */

/* Through FS or GS, whatever they are: their base may be where the data is. */
static void through_segment(struct assembly *a)
{
	bool based = roll_percent(a->dice, 60);
	uint8_t opcode[] = {0x8b, 0x89, 0x03, 0x01, 0x39, 0x87, 0xff};
	unsigned r = roll_gpr8(a->dice);

	/* Often the TLB knows the page. */
	for (unsigned i = 0; i < 2 && roll_percent(a->dice, 70); i++) {
		ASM(a, 0x80, 0x25); /* and byte [data], 255 */
		assemble32(a, DATA_LINEAR + i * PAGE);
		ASM(a, 0xff);
	}
	ASM(a, roll_percent(a->dice, 50) ? 0x64 : 0x65);
	if (roll_percent(a->dice, 20)) { /* mov eax, [moffs], and back */
		ASM(a, (uint8_t)(0xa0 + roll_below(a->dice, 4)));
	} else if (roll_percent(a->dice, 30)) { /* [index * 4 + …] */
		ASM(a, opcode[roll_below(a->dice, 6)], (uint8_t)(r << 3 | 4), (uint8_t)(0x85 | roll_gpr8(a->dice) << 3));
	} else {
		ASM(a, opcode[roll_below(a->dice, 6)], (uint8_t)(r << 3 | 5));
	}
	assemble32(a, (based ? 0 : DATA_LINEAR) + (roll_percent(a->dice, 90) ? roll_below(a->dice, 2 * PAGE)
									     : 2 * PAGE - 8 + roll_below(a->dice, 8)));
}

static void load_segment(struct assembly *a, unsigned number, unsigned selector)
{
	if (roll_percent(a->dice, 30) && (number == 0 || number == 3)) {
		ASM(a, 0x6a, (uint8_t)selector, number ? 0x1f : 0x07); /* push; pop es, ds */
		return;
	}
	ASM(a, 0x66, 0xb8, (uint8_t)selector, 0x00, 0x8e, (uint8_t)(0xc0 | number << 3)); /* mov ax, …; mov seg, ax */
}

static void other_segment(struct assembly *a)
{
	static const uint8_t selectors[] = {SELECTOR_BASED, SELECTOR_LIMITED, SELECTOR_READ_ONLY, SELECTOR_DOWN, 0, 0x1b};
	unsigned items = roll_below(a->dice, 4), kind = roll_below(a->dice, 10);

	a->pointers &= ~1u;
	a->indices &= ~1u;
	if (kind < 6) {
		load_segment(a, 4 + roll_below(a->dice, 2), selectors[roll_below(a->dice, ARRAY_SIZE(selectors))]);
		through_segment(a);
		return;
	}
	if (kind < 8) { /* DS or ES for a while */
		unsigned number = roll_percent(a->dice, 50) ? 0 : 3;

		load_segment(a, number, selectors[roll_below(a->dice, ARRAY_SIZE(selectors))]);
		for (unsigned i = 0; i < items; i++)
			instruction(a);
		load_segment(a, number, 0x1b);
		return;
	}
	load_segment(a, 2, a->p->kernel ? SELECTOR_KERNEL16 : SELECTOR_STACK16);
	for (unsigned i = 0; i < items; i++)
		stack(a);
	load_segment(a, 2, a->p->kernel ? 0x10 : 0x1b);
}

/* A far jump to a unit, mostly of the same kind of code. */
static void far_jump(struct assembly *a, unsigned unit)
{
	unsigned kind = roll_below(a->dice, 20), to = roll_below(a->dice, a->p->unit_count);
	uint32_t target = (uint32_t)CODE_LINEAR + a->p->units[to];
	uint16_t selector = a->p->kernel ? SELECTOR_KERNEL_CODE32 : SELECTOR_USER_CODE32;

	(void)unit;
	assemble_fuel(a);
	if (kind == 0) {
		selector = a->p->kernel ? 8 : SELECTOR_USER_CODE;
	} else if (kind < 4 && !a->p->kernel) {
		selector = SELECTOR_CODE_BASED;
		target -= PAGE;
	}
	ASM(a, roll_percent(a->dice, 70) ? 0xea : 0x9a);
	assemble32(a, target);
	ASM(a, (uint8_t)selector, 0);
}

/* --- together -------------------------------------------------------------------------------------- */

void assemble_item(struct assembly *a)
{
	unsigned kind = roll_below(a->dice, 100);

	while (__builtin_popcount(a->pointers) < 2)
		pointer(a);
	if (!a->indices)
		small_number(a);
	if (a->p->narrow && roll_percent(a->dice, 7))
		through_segment(a);
	else if (a->p->narrow && roll_percent(a->dice, 5))
		other_segment(a);
	else if (a->p->keys && roll_percent(a->dice, 5))
		change_rights(a);
	else if (kind < 60)
		instruction(a);
	else if (kind < 66)
		pointer(a);
	else if (kind < 78)
		stack(a);
	else if (kind < 86)
		slot(a);
	else if (kind < 92)
		store_into_code(a);
	else if (kind < 93)
		fault(a);
	else if (kind < 95 && roll_percent(a->dice, 50))
		single_step(a);
	else if (kind < 99 && a->p->kernel)
		kernel(a);
	else
		ASM(a, 0x90);
}

/* A target from the table; the registers do not matter much. */
static void computed(struct assembly *a, unsigned reg)
{
	bool call = roll_percent(a->dice, 50);
	unsigned r = roll_gpr8(a->dice);

	assemble_fuel(a);
	ASM(a, 0x83, (uint8_t)(0xe0 | r), TARGETS - 1); /* and r32, 15 */
	if (roll_percent(a->dice, 50)) {            /* call or jmp [TARGETS + r * 8] */
		ASM(a, 0xff, (uint8_t)(call ? 0x14 : 0x24), (uint8_t)(0xc5 | r << 3));
		assemble32(a, TARGETS_AT);
	} else { /* mov reg, [TARGETS + r * 8]; call or jmp reg */
		assemble_wide(a);
		ASM(a, 0x8b, (uint8_t)(0x04 | reg << 3), (uint8_t)(0xc5 | r << 3));
		assemble32(a, TARGETS_AT);
		ASM(a, 0xff, (uint8_t)((call ? 0xd0 : 0xe0) | reg));
	}
}

/* Forward is free. */
static void direct(struct assembly *a, unsigned unit, bool call)
{
	unsigned to = roll_below(a->dice, UNITS_MAX);

	if (to <= unit)
		assemble_fuel(a);
	if (call) {
		ASM(a, 0xe8);
	} else if (roll_percent(a->dice, 70)) {
		ASM(a, 0x0f, (uint8_t)(0x80 + roll_below(a->dice, 16)));
	} else {
		ASM(a, 0xe9);
	}
	assemble_unit(a, to);
}

void assemble_end(struct assembly *a, unsigned unit)
{
	if (a->p->narrow && roll_percent(a->dice, 6)) {
		far_jump(a, unit);
		return;
	}
	switch (roll_below(a->dice, 8)) {
	case 0:
	case 1:
		direct(a, unit, true);
		return;
	case 2:
	case 3:
		direct(a, unit, false);
		return;
	case 4:
		computed(a, roll_gpr8(a->dice));
		return;
	case 5: { /* back to the beginning of this unit */
		assemble_fuel(a);
		ASM(a, 0x0f, (uint8_t)(0x80 + roll_below(a->dice, 16)));
		assemble_distance(a, a->p->units[unit]);
		return;
	}
	case 6:
		if (roll_percent(a->dice, 20)) {
			ASM(a, 0xc2, 8, 0);
		} else {
			ASM(a, 0xc3);
		}
		return;
	default:
		return; /* falls into the next one */
	}
}
