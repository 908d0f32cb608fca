// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_exec.c - integer instructions of the software processor against the host CPU: each mnemonic in
 * each operand form and size, over a table of interesting values and both states of the flags.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>

#include "base/bytes.h"
#include "tests/unit/test_exec_native.h"

#define OPERAND    (DATA + 0x800) /* where memory operands are */
#define FLAGS_NONE 0u
#define OF_FLAG    0x800u

static struct machine machine;

static const uint64_t values[] = {
    0,
    1,
    2,
    7,
    0x1f,
    0x20,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x10001,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xffffffffffffffff,
    0x0123456789abcdef,
    0xfedcba9876543210,
};
#define VALUES ARRAY_SIZE(values)

static uint64_t value(unsigned i)
{
	return values[i % VALUES];
}

/* --- one comparison ----------------------------------------------------------------------------- */

struct state {
	uint64_t gpr[16];
	uint64_t rflags;
	uint64_t memory[8]; /* at OPERAND - 32 */
};

static void report(const struct state *in, const struct native *want, const char *what)
{
	for (unsigned i = 0; i < 16; i++)
		print_error("r%-2u in %016llx native %016llx soft %016llx%s\n", i,
			    (unsigned long long)in->gpr[i], (unsigned long long)want->gpr[i],
			    (unsigned long long)machine.r.gpr[i],
			    want->gpr[i] != machine.r.gpr[i] ? " <--" : "");
	print_error("flags in %llx native %llx soft %llx\n", (unsigned long long)in->rflags,
		    (unsigned long long)want->rflags, (unsigned long long)machine.r.rflags);
	print_error("fault native %d (%llx) soft %d (%llx)\n", want->fault,
		    (unsigned long long)want->error_code, machine.fault,
		    (unsigned long long)machine.error_code);
	fail_msg("%s", what);
}

/* Runs what native_code() and machine_code() were given on both. `flags`: those that are defined. */
static void compare(const struct state *in, uint64_t flags, const char *what)
{
	struct native n = {.rflags = in->rflags};
	bool same;

	memcpy(n.gpr, in->gpr, sizeof(n.gpr));
	memset((void *)DATA, 0, 0x2000);
	memcpy((void *)(OPERAND - 32), in->memory, sizeof(in->memory));
	memcpy(machine.data, (void *)DATA, 0x2000);
	machine_long(&machine);
	memcpy(machine.r.gpr, in->gpr, sizeof(in->gpr));
	machine.r.rflags = in->rflags | 2;
	native_run(&n);
	machine_run(&machine);
	/* The handler's frame lies below the stack pointer, and its flags are those of the fault but for RF.
	 */
	same = n.fault == machine.fault;
	if (same && n.fault >= 0)
		same = n.fault_rip == machine.fault_rip;
	for (unsigned i = 0; i < 16; i++)
		same &= n.gpr[i] == (i == RSP && n.fault >= 0 ? machine.fault_rsp : machine.r.gpr[i]);
	if (n.fault < 0)
		same &= ((n.rflags ^ machine.r.rflags) & (flags | DF_FLAG)) == 0;
	same &= !memcmp((void *)DATA, machine.data, n.fault < 0 ? 0x2000 : 0x1f00);
	if (!same)
		report(in, &n, what);
}

static void give_code(const void *code, unsigned size)
{
	native_code(code, size);
	machine_long(&machine);
	machine_code(&machine, code, size);
}

/* --- the table ---------------------------------------------------------------------------------- */

/* Forms by letters: r register, m memory, i immediate, b 8-bit immediate, c CL. */
struct row {
	ZydisMnemonic mnemonic;
	const char *forms;  /* separated by spaces */
	const char *sizes;  /* of 1 2 4 8 */
	uint64_t undefined; /* flags that need not agree, by the manual */
	unsigned source;    /* size of the second operand where it is not the first's */
};

#define BINARY "rr ri rm mr mi"
#define CONDITIONAL(cc)                                                                                      \
	{ZYDIS_MNEMONIC_CMOV##cc, "rr rm", "248", 0, 0},                                                     \
	{                                                                                                    \
		ZYDIS_MNEMONIC_SET##cc, "r m", "1", 0, 0                                                     \
	}

static const struct row rows[] = {
    {ZYDIS_MNEMONIC_ADD, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_OR, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_ADC, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_SBB, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_AND, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_SUB, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_XOR, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_CMP, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_TEST, "rr ri mr mi", "1248", 0, 0},
    {ZYDIS_MNEMONIC_INC, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_DEC, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_NEG, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_NOT, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_SHL, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_SHR, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_SAR, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_ROL, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_ROR, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_RCL, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_RCR, "rb mb rc mc", "1248", 0, 0},
    {ZYDIS_MNEMONIC_SHLD, "rrb mrb rrc mrc", "248", 0, 0},
    {ZYDIS_MNEMONIC_SHRD, "rrb mrb rrc mrc", "248", 0, 0},
    {ZYDIS_MNEMONIC_MUL, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_IMUL, "r m", "1248", 0, 0},
    {ZYDIS_MNEMONIC_IMUL, "rr rm rri rmi", "248", 0, 0},
    {ZYDIS_MNEMONIC_DIV, "r m", "1248", ARITHMETIC_FLAGS, 0},
    {ZYDIS_MNEMONIC_IDIV, "r m", "1248", ARITHMETIC_FLAGS, 0},
    {ZYDIS_MNEMONIC_BT, "rr rb mb mr", "248", 0, 0},
    {ZYDIS_MNEMONIC_BTS, "rr rb mb mr", "248", 0, 0},
    {ZYDIS_MNEMONIC_BTR, "rr rb mb mr", "248", 0, 0},
    {ZYDIS_MNEMONIC_BTC, "rr rb mb mr", "248", 0, 0},
    {ZYDIS_MNEMONIC_BSF, "rr rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_BSR, "rr rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_TZCNT, "rr rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_LZCNT, "rr rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_POPCNT, "rr rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_CRC32, "rr rm", "48", 0, 1},
    {ZYDIS_MNEMONIC_CRC32, "rr rm", "4", 0, 2},
    {ZYDIS_MNEMONIC_CRC32, "rr rm", "4", 0, 4},
    {ZYDIS_MNEMONIC_CRC32, "rr rm", "8", 0, 8},
    {ZYDIS_MNEMONIC_ANDN, "rrr rrm", "48", 0, 0},
    {ZYDIS_MNEMONIC_BEXTR, "rrr rmr", "48", 0, 0},
    {ZYDIS_MNEMONIC_BLSI, "rr rm", "48", 0, 0},
    {ZYDIS_MNEMONIC_BLSMSK, "rr rm", "48", 0, 0},
    {ZYDIS_MNEMONIC_BLSR, "rr rm", "48", 0, 0},
    {ZYDIS_MNEMONIC_BZHI, "rrr rmr", "48", 0, 0},
    {ZYDIS_MNEMONIC_PDEP, "rrr rrm", "48", 0, 0},
    {ZYDIS_MNEMONIC_PEXT, "rrr rrm", "48", 0, 0},
    {ZYDIS_MNEMONIC_MULX, "rrr rrm", "48", 0, 0},
    {ZYDIS_MNEMONIC_RORX, "rrb rmb", "48", 0, 0},
    {ZYDIS_MNEMONIC_SARX, "rrr rmr", "48", 0, 0},
    {ZYDIS_MNEMONIC_SHLX, "rrr rmr", "48", 0, 0},
    {ZYDIS_MNEMONIC_SHRX, "rrr rmr", "48", 0, 0},
    {ZYDIS_MNEMONIC_ADCX, "rr rm", "48", 0, 0},
    {ZYDIS_MNEMONIC_ADOX, "rr rm", "48", 0, 0},
    {ZYDIS_MNEMONIC_MOV, BINARY, "1248", 0, 0},
    {ZYDIS_MNEMONIC_MOVNTI, "mr", "48", 0, 0},
    {ZYDIS_MNEMONIC_MOVBE, "rm mr", "248", 0, 0},
    {ZYDIS_MNEMONIC_MOVZX, "rr rm", "248", 0, 1},
    {ZYDIS_MNEMONIC_MOVZX, "rr rm", "48", 0, 2},
    {ZYDIS_MNEMONIC_MOVSX, "rr rm", "248", 0, 1},
    {ZYDIS_MNEMONIC_MOVSX, "rr rm", "48", 0, 2},
    {ZYDIS_MNEMONIC_MOVSXD, "rr rm", "8", 0, 4},
    {ZYDIS_MNEMONIC_LEA, "rm", "248", 0, 0},
    {ZYDIS_MNEMONIC_XCHG, "rr mr", "1248", 0, 0},
    {ZYDIS_MNEMONIC_XADD, "rr mr", "1248", 0, 0},
    {ZYDIS_MNEMONIC_CMPXCHG, "rr mr", "1248", 0, 0},
    {ZYDIS_MNEMONIC_CMPXCHG8B, "m", "8", 0, 0},
    {ZYDIS_MNEMONIC_BSWAP, "r", "48", 0, 0},
    {ZYDIS_MNEMONIC_PUSH, "r m i", "8", 0, 0},
    {ZYDIS_MNEMONIC_PUSH, "r m", "2", 0, 0},
    {ZYDIS_MNEMONIC_POP, "r m", "28", 0, 0},
    CONDITIONAL(O),
    CONDITIONAL(NO),
    CONDITIONAL(B),
    CONDITIONAL(NB),
    CONDITIONAL(Z),
    CONDITIONAL(NZ),
    CONDITIONAL(BE),
    CONDITIONAL(NBE),
    CONDITIONAL(S),
    CONDITIONAL(NS),
    CONDITIONAL(P),
    CONDITIONAL(NP),
    CONDITIONAL(L),
    CONDITIONAL(NL),
    CONDITIONAL(LE),
    CONDITIONAL(NLE),
};

static ZydisRegister general_register(unsigned number, unsigned size)
{
	static const ZydisRegister first[] = {[1] = ZYDIS_REGISTER_AL,
					      [2] = ZYDIS_REGISTER_AX,
					      [4] = ZYDIS_REGISTER_EAX,
					      [8] = ZYDIS_REGISTER_RAX};

	if (size == 1 && number >= 4)
		return ZYDIS_REGISTER_SPL + number - 4;
	return first[size] + number;
}

/* The registers of the operands, by choice: distinct ones, one twice, high bytes. */
static const uint8_t choices[][3] = {{RDX, RSI, R9}, {RSI, RSI, RSI}, {R8, RAX, RDX}, {RAX, RDX, RSI}};

struct subject {
	const struct row *row;
	const char *form; /* letters up to a space or the end */
	unsigned size, choice;
	uint64_t immediate;
	bool lock;
};

static void fill_operand(ZydisEncoderOperand *o, const struct subject *s, unsigned i)
{
	unsigned size = i == 1 && s->row->source ? s->row->source : s->size;

	switch (s->form[i]) {
	case 'r':
		o->type = ZYDIS_OPERAND_TYPE_REGISTER;
		o->reg.value = general_register(choices[s->choice][i], size);
		if (size == 1 && s->choice == 3 && s->size == 1)
			o->reg.value = i ? ZYDIS_REGISTER_DH : ZYDIS_REGISTER_AH;
		break;
	case 'c':
		o->type = ZYDIS_OPERAND_TYPE_REGISTER;
		o->reg.value = ZYDIS_REGISTER_CL;
		break;
	case 'm':
		o->type = ZYDIS_OPERAND_TYPE_MEMORY;
		/* Both lead to OPERAND. */
		o->mem.base = ZYDIS_REGISTER_RBX;
		if (!(s->choice & 1)) {
			o->mem.index = ZYDIS_REGISTER_RBP;
			o->mem.scale = 4;
			o->mem.displacement = -8;
		}
		o->mem.size = (ZyanU16)size;
		break;
	case 'b':
		o->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
		o->imm.u = s->immediate & 0xff;
		if (s->row->mnemonic == ZYDIS_MNEMONIC_BT || s->row->mnemonic == ZYDIS_MNEMONIC_BTS ||
		    s->row->mnemonic == ZYDIS_MNEMONIC_BTR || s->row->mnemonic == ZYDIS_MNEMONIC_BTC)
			o->imm.u &= 63;
		break;
	default:
		o->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
		o->imm.s = s->size == 1   ? (int8_t)s->immediate
			   : s->size == 2 ? (int16_t)s->immediate
					  : (int32_t)s->immediate;
		break;
	}
}

/* False where there is no such instruction. */
static bool encode(const struct subject *s, uint8_t *code, ZyanUSize *size)
{
	ZydisEncoderRequest request = {.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
				       .mnemonic = s->row->mnemonic};
	unsigned n = 0;

	while (s->form[n] && s->form[n] != ' ') {
		fill_operand(&request.operands[n], s, n);
		n++;
	}
	request.operand_count = (ZyanU8)n;
	if (s->lock)
		request.prefixes = ZYDIS_ATTRIB_HAS_LOCK;
	return ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&request, code, size));
}

/* Shifts and rotates by more than 1 leave OF undefined (SDM volume 2B, SAL and RCL), and a processor's
 * forms with CL and with an immediate do differ. */
static uint64_t undefined_flags(const struct subject *s, const struct state *in)
{
	const char *count = strpbrk(s->form, "bc");
	bool shift =
	    s->row->mnemonic != ZYDIS_MNEMONIC_RORX && count && count < s->form + strcspn(s->form, " ");
	unsigned by =
	    (unsigned)(shift && *count == 'b' ? s->immediate : in->gpr[RCX]) & (s->size == 8 ? 63 : 31);

	return s->row->undefined | (shift && by > 1 ? OF_FLAG : 0);
}

/* A bit number in a register reaches memory far away, where this process may have something. */
static bool is_bit_string(const struct subject *s)
{
	return s->form[0] == 'm' && s->form[1] == 'r' &&
	       !strncmp(ZydisMnemonicGetString(s->row->mnemonic), "bt", 2);
}

/* Every pair of values, each with all flags clear or all set. */
static void compare_values(const struct subject *s, const char *what)
{
	struct state in = {0};

	for (unsigned i = 0; i < VALUES; i++) {
		for (unsigned k = 0; k < VALUES; k++) {
			uint64_t a = value(i), b = value(k);

			in.gpr[RAX] = (i ^ k) & 1 ? a : b ^ (a << 3);
			in.gpr[RDX] = a;
			in.gpr[RSI] = in.gpr[RCX] = b;
			in.gpr[R8] = a + b;
			in.gpr[R9] = value(i + k);
			in.gpr[RBX] = OPERAND;
			in.gpr[RBP] = 2;
			in.gpr[RSP] = STACK - 64;
			in.gpr[R15] = 0x5555aaaa5555aaaa;
			for (unsigned r = 0; is_bit_string(s) && r < 16; r++)
				if (r != RBX && r != RBP && r != RSP)
					in.gpr[r] = (uint64_t)((int64_t)(int8_t)in.gpr[r] * 101);
			for (unsigned w = 0; w < 8; w++)
				in.memory[w] = value(i + w - 4) ^ (w << 20);
			in.memory[4] = s->form[0] == 'm' ? a : b;
			in.rflags = (i + k) & 1 ? ARITHMETIC_FLAGS : FLAGS_NONE;
			compare(&in, ARITHMETIC_FLAGS & ~undefined_flags(s, &in), what);
			in.rflags ^= ARITHMETIC_FLAGS;
			if (k % 4 == 0)
				compare(&in, ARITHMETIC_FLAGS & ~undefined_flags(s, &in), what);
		}
	}
}

static unsigned compare_subject(struct subject *s)
{
	static const uint64_t immediates[] = {0, 1, 7, 0x1f, 0x80, 0xff, 0x7fffffff, 0x89abcdef};
	bool immediate =
	    memchr(s->form, 'b', strcspn(s->form, " ")) || memchr(s->form, 'i', strcspn(s->form, " "));
	unsigned count = 0;

	for (unsigned i = 0; i < (immediate ? ARRAY_SIZE(immediates) : 1); i++) {
		uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
		ZyanUSize size = sizeof(code);
		char what[128];

		s->immediate = immediates[i];
		if (!encode(s, code, &size))
			continue;
		snprintf(what, sizeof(what), "%s%s form %.3s size %u registers %u immediate %llx",
			 s->lock ? "lock " : "", ZydisMnemonicGetString(s->row->mnemonic), s->form, s->size,
			 s->choice, (unsigned long long)s->immediate);
		give_code(code, (unsigned)size);
		compare_values(s, what);
		count++;
	}
	return count;
}

static unsigned compare_row(const struct row *row, unsigned (*compare_one)(struct subject *))
{
	unsigned count = 0;

	for (const char *size = row->sizes; *size; size++) {
		for (const char *form = row->forms; *form; form += strcspn(form, " "), form += *form == ' ') {
			for (unsigned choice = 0; choice < ARRAY_SIZE(choices); choice++) {
				struct subject s = {row, form, (unsigned)*size - '0', choice, 0, false};

				count += compare_one(&s);
				s.lock = true;
				if (form[0] == 'm' && choice == 0)
					count += compare_one(&s);
			}
		}
	}
	return count;
}

static void test_table(void **context)
{
	native_catch();
	unsigned total = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		unsigned count = compare_row(&rows[i], compare_subject);

		if (!count)
			fail_msg("no encoding of %s", ZydisMnemonicGetString(rows[i].mnemonic));
		total += count;
	}
	print_message("%u instructions\n", total);
}

/* Arithmetic with every conditional jump behind it, which may run as one. */
static unsigned compare_pairs(struct subject *s)
{
	uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH + 6];
	ZyanUSize size = ZYDIS_MAX_INSTRUCTION_LENGTH;
	char what[128];

	s->immediate = 0x7f;
	if (!encode(s, code, &size))
		return 0;
	for (unsigned cc = 0; cc < 16; cc++) {
		const uint8_t jump[] = {
		    (uint8_t)(0x70 + cc), 4, 0x48, 0x8d, 0x52, 1}; /* jcc +4; lea rdx, [rdx + 1] */

		memcpy(code + size, jump, sizeof(jump));
		snprintf(what, sizeof(what), "%s form %.2s size %u registers %u, condition %u",
			 ZydisMnemonicGetString(s->row->mnemonic), s->form, s->size, s->choice, cc);
		give_code(code, (unsigned)size + sizeof(jump));
		compare_values(s, what);
	}
	return 1;
}

static void test_pairs(void **context)
{
	static const struct row pairs[] = {
	    {ZYDIS_MNEMONIC_CMP, BINARY, "1248", 0, 0}, {ZYDIS_MNEMONIC_TEST, "rr ri mi", "1248", 0, 0},
	    {ZYDIS_MNEMONIC_AND, "rr ri", "48", 0, 0},  {ZYDIS_MNEMONIC_ADD, "ri mr", "8", 0, 0},
	    {ZYDIS_MNEMONIC_SUB, "rr ri", "48", 0, 0},  {ZYDIS_MNEMONIC_INC, "r", "48", 0, 0},
	    {ZYDIS_MNEMONIC_DEC, "r m", "48", 0, 0},
	};

	native_catch();
	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++)
		assert_int_not_equal(compare_row(&pairs[i], compare_pairs), 0);
}

/* --- code that the table has no form for -------------------------------------------------------- */

struct sequence {
	const char *name;
	const char *bytes;
	unsigned size;
	uint64_t undefined;
};

#define SEQUENCE(name, bytes)                                                                                \
	{                                                                                                    \
		name, bytes, sizeof(bytes) - 1, 0                                                            \
	}

static const struct sequence sequences[] = {
    SEQUENCE("cbw", "\x66\x98"),
    SEQUENCE("cwde", "\x98"),
    SEQUENCE("cdqe", "\x48\x98"),
    SEQUENCE("cwd", "\x66\x99"),
    SEQUENCE("cdq", "\x99"),
    SEQUENCE("cqo", "\x48\x99"),
    SEQUENCE("lahf", "\x9f"),
    SEQUENCE("sahf", "\x9e"),
    SEQUENCE("clc", "\xf8"),
    SEQUENCE("stc", "\xf9"),
    SEQUENCE("cmc", "\xf5"),
    SEQUENCE("cld", "\xfc"),
    SEQUENCE("std", "\xfd"),
    SEQUENCE("xchg rax, rdx", "\x48\x92"),
    SEQUENCE("xchg r8, rax", "\x49\x90"),
    SEQUENCE("nop", "\x90\x66\x90\x0f\x1f\x00\x0f\x1f\x84\x00\x00\x00\x00\x00"),
    SEQUENCE("endbr64, prefetch", "\xf3\x0f\x1e\xfa\x0f\x18\x0b\x0f\x18\x03\x0f\x0d\x0b"),
    SEQUENCE("mov eax, imm; mov r8, imm64", "\xb8\x11\x22\x33\x84\x49\xb8\x11\x22\x33\x44\x55\x66\x77\x88"),
    SEQUENCE("mov al, moffs", "\xa0\x00\x08\x10\x10\x00\x00\x00\x00"),
    SEQUENCE("mov moffs, rax", "\x48\xa3\x00\x08\x10\x10\x00\x00\x00\x00"),
    SEQUENCE("mov eax, [ebx]", "\x67\x8b\x03"),
    SEQUENCE("lea rax, [ebx + esi * 2 - 1]", "\x67\x48\x8d\x44\x73\xff"),
    SEQUENCE("lea rax, [rip - 7]", "\x48\x8d\x05\xf9\xff\xff\xff"),
    SEQUENCE("mov eax, [rip - 6]", "\x8b\x05\xfa\xff\xff\xff"),
    SEQUENCE("xor eax, eax; sub edx, edx", "\x31\xc0\x29\xd2"),
    SEQUENCE("xor edx, edx", "\x31\xd2"),
    SEQUENCE("movsxd edx, esi", "\x63\xd6"),
    SEQUENCE("movsxd dx, esi", "\x66\x63\xd6"),
    SEQUENCE("lock inc dword [rbx]; lock not byte [rbx]", "\xf0\xff\x03\xf0\xf6\x13"),
    SEQUENCE("push 0x7f; push -1; push 0x80000000", "\x6a\x7f\x6a\xff\x68\x00\x00\x00\x80"),
    SEQUENCE("push imm16", "\x66\x68\x34\x82\x66\x6a\x80"),
    SEQUENCE("push rsp; pop rax", "\x54\x58"),
    SEQUENCE("push rbx; pop rsp; push rbx", "\x53\x5c\x53"),
    SEQUENCE("push [rsp + 8]; pop [rsp + 16]", "\xff\x74\x24\x08\x8f\x44\x24\x10"),
    SEQUENCE("push rdx; pop [rsp]", "\x52\x8f\x04\x24"),
    SEQUENCE("push dx; pop [rsp]", "\x66\x52\x66\x8f\x04\x24"),
    SEQUENCE("mov rbp, rsp; enter 32, 0; leave", "\x48\x89\xe5\xc8\x20\x00\x00\xc9"),
    SEQUENCE("mov rbp, rsp; enter 32, 3", "\x48\x89\xe5\xc8\x20\x00\x03"),
    SEQUENCE("mov rbp, rsp; enter16 32, 1", "\x48\x89\xe5\x66\xc8\x20\x00\x01"),
    SEQUENCE("xlat", "\xd7"),
    SEQUENCE("mov edi, ebx; mov esi, esp; rep movsb", "\x89\xdf\x89\xe6\x0f\xb6\xc9\xf3\xa4"),
    SEQUENCE("loop +3; lea rdx, [rdx + 1]; loopne; loope",
	     "\xe2\x04\x48\x8d\x52\x01\xe0\x04\x48\x8d\x52\x01\xe1\x04\x48\x8d\x52\x01"),
    SEQUENCE("loop32", "\x67\xe2\x04\x48\x8d\x52\x01"),
    SEQUENCE("jrcxz, jecxz", "\xe3\x04\x48\x8d\x52\x01\x67\xe3\x04\x48\x8d\x52\x01"),
    SEQUENCE("jmp short, near", "\xeb\x04\x48\x8d\x52\x01\xe9\x04\x00\x00\x00\x48\x8d\x52\x01"),
    SEQUENCE("call, ret", "\xe8\x02\x00\x00\x00\xeb\x05\x48\x8d\x52\x01\xc3"),
    SEQUENCE("call, ret 16", "\xe8\x02\x00\x00\x00\xeb\x07\x48\x8d\x52\x01\xc2\x10\x00"),
    SEQUENCE("lea; jmp rax", "\x48\x8d\x05\x06\x00\x00\x00\xff\xe0\x48\x8d\x52\x01"),
    SEQUENCE("lea; call rax", "\x48\x8d\x05\x06\x00\x00\x00\xff\xd0\x48\x8d\x52\x01"),
    SEQUENCE("lea; mov [rbx]; jmp [rbx]", "\x48\x8d\x05\x09\x00\x00\x00\x48\x89\x03\xff\x23\x48\x8d\x52\x01"),
    SEQUENCE("lea; push; call [rsp]", "\x48\x8d\x05\x08\x00\x00\x00\x50\xff\x14\x24\x48\x8d\x52\x01"),
    SEQUENCE("jmp rsi", "\xff\xe6"),
    SEQUENCE("call rsi", "\xff\xd6"),
    SEQUENCE("push rsi; ret", "\x56\xc3"),
    SEQUENCE("ud2", "\x0f\x0b"),
    SEQUENCE("cmpxchg16b", "\x48\x0f\xc7\x0b"),
    SEQUENCE("lock cmpxchg16b, equal", "\x48\x8b\x03\x48\x8b\x53\x08\xf0\x48\x0f\xc7\x0b"),
    SEQUENCE("cmpxchg16b, unaligned", "\x48\x0f\xc7\x4b\x01"),
    SEQUENCE("clflush", "\x0f\xae\x3b"),
    SEQUENCE("mfence, lfence, sfence, pause", "\x0f\xae\xf0\x0f\xae\xe8\x0f\xae\xf8\xf3\x90"),
    SEQUENCE("mov ah, dh; movzx esi, ah", "\x88\xf4\x0f\xb6\xf4"),
};

static void compare_sequence(const struct sequence *s)
{
	struct state in = {0};

	give_code(s->bytes, s->size);
	for (unsigned i = 0; i < VALUES * VALUES; i++) {
		uint64_t a = value(i / VALUES), b = value(i);

		in.gpr[RAX] = a;
		in.gpr[RDX] = b;
		in.gpr[RSI] = in.gpr[RCX] = a + b;
		in.gpr[R8] = b;
		in.gpr[RBX] = OPERAND;
		in.gpr[RSP] = STACK - 64;
		for (unsigned w = 0; w < 8; w++)
			in.memory[w] = value(i + w) ^ (w << 20);
		in.rflags = i & 1 ? ARITHMETIC_FLAGS : FLAGS_NONE;
		compare(&in, ARITHMETIC_FLAGS & ~s->undefined, s->name);
	}
}

static void test_sequences(void **context)
{
	native_catch();
	for (unsigned i = 0; i < ARRAY_SIZE(sequences); i++)
		compare_sequence(&sequences[i]);
}

static void test_conditional_jumps(void **context)
{
	native_catch();
	for (unsigned cc = 0; cc < 16; cc++) {
		const char shorter[] = {(char)(0x70 + cc), 4, 0x48, (char)0x8d, 0x52, 1};
		const char longer[] = {0x0f, (char)(0x80 + cc), 4, 0, 0, 0, 0x48, (char)0x8d, 0x52, 1};
		struct state in = {.gpr = {[RSP] = STACK}};

		for (unsigned form = 0; form < 2; form++) {
			if (form)
				give_code(longer, sizeof(longer));
			else
				give_code(shorter, sizeof(shorter));
			/* Every combination of CF, PF, AF, ZF, SF and OF. */
			for (unsigned i = 0; i < 64; i++) {
				in.rflags = (i & 1) | (i & 2) << 1 | (i & 4) << 2 | (i & 8) << 3 |
					    (i & 16) << 3 | (i & 32) << 6;
				compare(&in, ARITHMETIC_FLAGS, "conditional jump");
			}
		}
	}
}

/* --- strings ------------------------------------------------------------------------------------ */

static void compare_string(const char *code, unsigned size, const char *what)
{
	static const struct {
		uint64_t source, destination, count;
	} cases[] = {
	    {0x100, 0x900, 0},  {0x100, 0x900, 1},     {0x100, 0x900, 37},    {0x100, 0x101, 50},
	    {0x104, 0x100, 50}, {0x100, 0x108, 50},    {0x0ff1, 0x1603, 40},  {0x0101, 0x0ffb, 40},
	    {0x100, 0x100, 9},  {0x0ff8, 0x0ff9, 100}, {0x1004, 0x0802, 120}, {0x0ffc, 0x1000, 3},
	};

	give_code(code, size);
	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 8; i++) {
		struct state in = {0};
		uint8_t fill = (i & 2) ? 0x11 : 0x5a;
		uint64_t reverse = (i & 1) ? 0x200 : 0;

		in.gpr[RSI] = DATA + cases[i / 8].source + reverse;
		in.gpr[RDI] = DATA + cases[i / 8].destination + reverse;
		in.gpr[RCX] = cases[i / 8].count;
		in.gpr[RAX] = 0x1111111111111111ull * (fill & 15);
		in.gpr[RSP] = STACK - 64;
		in.rflags = ((i & 1) ? DF_FLAG : 0) | ((i & 4) ? ARITHMETIC_FLAGS : 0);
		/* Mostly equal bytes, so that comparisons run for a while. */
		for (unsigned w = 0; w < 8; w++)
			in.memory[w] = 0x1111111111111111ull * (w < 6 ? 1 : w);
		compare(&in, ARITHMETIC_FLAGS, what);
	}
}

static void test_strings(void **context)
{
	native_catch();
	static const uint8_t opcodes[] = {0xa4, 0xaa, 0xac, 0xae, 0xa6};
	static const char *const prefixes[] = {"", "\xf3", "\xf2", "\x67", "\xf3\x67"};

	for (unsigned o = 0; o < ARRAY_SIZE(opcodes); o++) {
		for (unsigned p = 0; p < ARRAY_SIZE(prefixes); p++) {
			for (unsigned size = 0; size < 4; size++) {
				char code[8], what[64];
				int n = snprintf(code, sizeof(code), "%s%s%c", prefixes[p],
						 size == 1   ? "\x66"
						 : size == 3 ? "\x48"
							     : "",
						 opcodes[o] + (size ? 1 : 0));

				snprintf(what, sizeof(what), "string opcode %x, prefix %u, size %u",
					 opcodes[o], p, 1u << size);
				compare_string(code, (unsigned)n, what);
			}
		}
	}
}

/* --- 32-bit code -------------------------------------------------------------------------------- */

/* Both run the bytes as 32-bit code, soft in compatibility mode; addresses are the same as before. */
static void compare32(const char *code, unsigned size, const struct state *in, uint64_t undefined,
		      const char *what)
{
	struct native n = {.rflags = in->rflags};
	uint64_t flags = ARITHMETIC_FLAGS & ~undefined;
	bool same;

	memcpy(n.gpr, in->gpr, sizeof(n.gpr));
	memset((void *)DATA, 0, 0x2000);
	memcpy((void *)(OPERAND - 32), in->memory, sizeof(in->memory));
	memcpy(machine.data, (void *)DATA, 0x2000);
	machine_compatible(&machine);
	machine.r.rip = NATIVE_CODE32;
	machine_code(&machine, code, size);
	memcpy(machine.r.gpr, in->gpr, sizeof(in->gpr));
	machine.r.rflags = in->rflags | 2;
	machine_run(&machine);
	native_run32(&n, code, size);
	same = n.fault == machine.fault;
	for (unsigned i = 0; i < 8; i++)
		same &= (uint32_t)n.gpr[i] ==
			(uint32_t)(i == RSP && n.fault >= 0 ? machine.fault_rsp : machine.r.gpr[i]);
	if (n.fault < 0)
		same &= !((n.rflags ^ machine.r.rflags) & (flags | DF_FLAG));
	same &= !memcmp((void *)DATA, machine.data, n.fault < 0 ? 0x2000 : 0x1f00);
	if (!same)
		report(in, &n, what);
}

static void test_decimal(void **context)
{
	native_catch();
	/* Undefined by the manual: OF; for AAA and AAS SF, ZF and PF as well; for AAM and AAD CF and AF. */
	static const struct sequence decimal[] = {
	    {"daa", "\x27", 1, 0x800},       {"das", "\x2f", 1, 0x800},     {"aaa", "\x37", 1, 0x8c4},
	    {"aas", "\x3f", 1, 0x8c4},       {"aam", "\xd4\x0a", 2, 0x811}, {"aam 0", "\xd4\x00", 2, 0x811},
	    {"aam 7", "\xd4\x07", 2, 0x811}, {"aad", "\xd5\x0a", 2, 0x811}, {"aad 3", "\xd5\x03", 2, 0x811},
	    {"salc", "\xd6", 1, 0},
	};
	struct state in = {.gpr = {[RSP] = STACK}};

	for (unsigned i = 0; i < ARRAY_SIZE(decimal); i++) {
		for (unsigned ax = 0; ax < 0x10000; ax += ax % 256 == 255 ? 0x1d01 - 255 : 1) {
			for (unsigned flags = 0; flags < 4; flags++) {
				in.gpr[RAX] = 0x12340000 | ax;
				in.rflags = (flags & 1) | (flags & 2) << 3;
				compare32(decimal[i].bytes, decimal[i].size, &in, decimal[i].undefined,
					  decimal[i].name);
			}
		}
	}
}

static const struct sequence sequences32[] = {
    SEQUENCE("inc eax; dec ecx", "\x40\x49"),
    SEQUENCE("pusha", "\x60"),
    SEQUENCE("pushaw", "\x66\x60"),
    SEQUENCE("popa", "\x61"),
    SEQUENCE("popaw", "\x66\x61"),
    SEQUENCE("push esp; pop eax; push ax; pop dx; pop [esp + 4]", "\x54\x58\x66\x50\x66\x5a\x8f\x44\x24\x04"),
    SEQUENCE("push imm", "\x6a\xff\x68\x00\x00\x00\x80\x66\x6a\x80"),
    SEQUENCE("mov ebp, esp; enter 32, 0; leave", "\x89\xe5\xc8\x20\x00\x00\xc9"),
    SEQUENCE("mov ebp, esp; enter 32, 4", "\x89\xe5\xc8\x20\x00\x04"),
    SEQUENCE("bound eax, [ebx]", "\x62\x03"),
    SEQUENCE("bound ax, [ebx]", "\x66\x62\x03"),
    SEQUENCE("mov [ebx + esi * 8 - 4], eax within reach", "\x83\xe6\x07\x89\x44\xf3\xfc"),
    SEQUENCE("mov eax, [ebx]; add [ebx], eax; lock xadd [ebx], edx", "\x8b\x03\x01\x03\xf0\x0f\xc1\x13"),
    SEQUENCE("mov al, moffs; mov moffs, eax", "\xa0\x00\x08\x10\x10\xa3\x04\x08\x10\x10"),
    SEQUENCE("lea ax, [bx + si - 2]; lea eax, [di]", "\x66\x67\x8d\x40\xfe\x67\x8d\x05"),
    SEQUENCE("bt [ebx], -5; bts [ebx], 40",
	     "\xb9\xfb\xff\xff\xff\x0f\xa3\x0b\xb9\x28\x00\x00\x00\x0f\xab\x0b"),
    SEQUENCE("cmpxchg8b", "\x0f\xc7\x0b"),
    SEQUENCE("xlat", "\xd7"),
    SEQUENCE("call, ret 8", "\xe8\x02\x00\x00\x00\xeb\x06\x8d\x52\x01\xc2\x08\x00"),
    SEQUENCE("loop; loopw; jecxz; jcxz",
	     "\xe2\x03\x8d\x52\x01\x67\xe2\x03\x8d\x52\x01\xe3\x03\x8d\x52\x01\x67\xe3\x03\x8d\x52\x01"),
    SEQUENCE("movzx ecx, cl; mov edi, esp; mov esi, ebx; rep movsd", "\x0f\xb6\xc9\x89\xe7\x89\xde\xf3\xa5"),
    SEQUENCE("movzx ecx, cl; mov edi, ebx; repne scasb", "\x0f\xb6\xc9\x89\xdf\xf2\xae"),
    SEQUENCE("mov edi, ebx; lea esi, [ebx + 8]; mov cl, 6; repe cmpsb",
	     "\x89\xdf\x8d\x73\x08\x31\xc9\xb1\x06\xf3\xa6"),
    SEQUENCE("imul eax, edx, -3; mul ecx; shld eax, edx, 5", "\x6b\xc2\xfd\xf7\xe1\x0f\xa4\xd0\x05"),
    SEQUENCE("div ecx", "\xf7\xf1"),
    SEQUENCE("idiv word [ebx]", "\x66\xf7\x3b"),
    SEQUENCE("rcl byte [ebx], cl; adc ah, dl", "\xd2\x13\x10\xd4"),
};

static void test_sequences32(void **context)
{
	native_catch();
	for (unsigned s = 0; s < ARRAY_SIZE(sequences32); s++) {
		uint64_t undefined = strstr(sequences32[s].name, "div") ? ARITHMETIC_FLAGS : 0;

		for (unsigned i = 0; i < VALUES * VALUES; i++) {
			uint64_t a = (uint32_t)value(i / VALUES), b = (uint32_t)value(i);
			struct state in = {
			    .gpr = {a, (uint32_t)(a + b), b, OPERAND, STACK - 64, b, (uint32_t)(a ^ b), a}};

			for (unsigned w = 0; w < 8; w++)
				in.memory[w] = value(i + w) ^ (w << 20);
			in.rflags = i & 1 ? ARITHMETIC_FLAGS : FLAGS_NONE;
			compare32(sequences32[s].bytes, sequences32[s].size, &in, undefined,
				  sequences32[s].name);
		}
	}
}

static int set_up(void **context)
{
	native_create();
	machine_create(&machine, 1);
	return 0;
}

static int tear_down(void **context)
{
	machine_destroy(&machine);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sequences),
	    cmocka_unit_test(test_table),
	    cmocka_unit_test(test_conditional_jumps),
	    cmocka_unit_test(test_strings),
	    cmocka_unit_test(test_pairs),
	    cmocka_unit_test(test_decimal),
	    cmocka_unit_test(test_sequences32),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
