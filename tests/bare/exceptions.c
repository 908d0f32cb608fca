/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Exceptions in 64-bit mode: which vector, which error code, at which instruction (SDM volume 3, chapter 6).
 */
#include "bare.h"

/* Labels of the assembly in tests, to compare instruction pointers with. */
extern char de_at[];
extern char de_idiv_at[];
extern char bp_after[];
extern char icebp_after[];
extern char ud_at[];
extern char gp_at[];
extern char ss_at[];

static void divide_error(void)
{
	EXPECT_FAULT(VEC_DE, 0,
		     asm volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $7, %%eax; de_at: div %%ecx"
				  :
				  :
				  : "eax", "ecx", "edx"));
	CHECK_EQ(fault.ip, (unsigned long)de_at);
	EXPECT_FAULT(VEC_DE, 0,
		     asm volatile("mov $-1, %%ecx; mov $0x80000000, %%eax; cdq; de_idiv_at: idiv %%ecx"
				  :
				  :
				  : "eax", "ecx", "edx"));
	CHECK_EQ(fault.ip, (unsigned long)de_idiv_at);
	EXPECT_FAULT(VEC_DE, 0,
		     asm volatile("mov $0x1000, %%eax; mov $2, %%cl; div %%cl"
				  :
				  :
				  : "eax", "ecx"));
}

static void breakpoint(void)
{
	EXPECT_FAULT(VEC_BP, 0, asm volatile("int3; bp_after:"));
	CHECK_EQ(fault.ip, (unsigned long)bp_after);
	EXPECT_FAULT(VEC_BP, 0, asm volatile(".byte 0xcd, 3"));
	EXPECT_FAULT(VEC_DB, 0, asm volatile(".byte 0xf1; icebp_after:"));
	CHECK_EQ(fault.ip, (unsigned long)icebp_after);
}

static void invalid_opcode(void)
{
	EXPECT_FAULT(VEC_UD, 0, asm volatile("ud_at: ud2"));
	CHECK_EQ(fault.ip, (unsigned long)ud_at);
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0x06"));                   /* push es */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0xce"));                   /* into */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0xf0, 0x89, 0xc0"));       /* lock mov eax, eax */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0xf0, 0x01, 0xc0"));       /* lock add eax, eax */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0xea, 0, 0, 0, 0, 8, 0")); /* far jump, immediate */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0x8e, 0xc8"));             /* mov cs, ax */
	EXPECT_FAULT(VEC_UD, 0, asm volatile(".byte 0x0f, 0x20, 0xc8"));       /* mov rax, cr1 */
}

/* More than 15 bytes are no instruction. */
static void too_long(void)
{
	EXPECT_FAULT(VEC_GP, 0, asm volatile(".fill 15, 1, 0x66; nop"));
	EXPECT_NO_FAULT(asm volatile(".fill 14, 1, 0x66; nop"));
}

static void device_not_available(void)
{
	write_cr0(read_cr0() | CR0_TS);
	EXPECT_FAULT(VEC_NM, 0, asm volatile("fnop"));
	EXPECT_FAULT(VEC_NM, 0, asm volatile("fwait"));
	EXPECT_FAULT(VEC_NM, 0, asm volatile("movaps %%xmm0, %%xmm0" : : : "memory"));
	asm volatile("clts");
	EXPECT_NO_FAULT(asm volatile("fnop"));
	write_cr0(read_cr0() | CR0_EM);
	EXPECT_FAULT(VEC_NM, 0, asm volatile("fnop"));
	EXPECT_FAULT(VEC_UD, 0, asm volatile("movaps %%xmm0, %%xmm0" : : : "memory"));
	EXPECT_NO_FAULT(asm volatile("fwait"));
	write_cr0(read_cr0() & ~CR0_EM);
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	EXPECT_FAULT(VEC_UD, 0, asm volatile("movaps %%xmm0, %%xmm0" : : : "memory"));
	write_cr4(read_cr4() | CR4_OSFXSR);
}

static void floating_point(void)
{
	const uint16_t unmask_zero_divide = 0x37f & ~4, defaults = 0x37f;

	asm volatile("fninit; fldcw %0" : : "m"(unmask_zero_divide));
	/* The instruction at fault completes; the next one that waits reports it. */
	EXPECT_FAULT(VEC_MF, 0, asm volatile("fld1; fldz; fdivrp %%st, %%st(1); fnop; fwait" : : : "memory"));
	asm volatile("fnclex; fninit; fldcw %0" : : "m"(defaults));
	EXPECT_NO_FAULT(asm volatile("fwait"));
}

static void simd_floating_point(void)
{
	const uint32_t unmask_zero_divide = 0x1f80 & ~0x200, defaults = 0x1f80;

	asm volatile("ldmxcsr %0" : : "m"(unmask_zero_divide));
	EXPECT_FAULT(
	    VEC_XM, 0,
	    asm volatile(
		"mov $0x3f800000, %%eax; movd %%eax, %%xmm0; xorps %%xmm1, %%xmm1; divss %%xmm1, %%xmm0"
		:
		:
		: "eax", "memory"));
	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	asm volatile("ldmxcsr %0" : : "m"(unmask_zero_divide));
	EXPECT_FAULT(
	    VEC_UD, 0,
	    asm volatile(
		"mov $0x3f800000, %%eax; movd %%eax, %%xmm0; xorps %%xmm1, %%xmm1; divss %%xmm1, %%xmm0"
		:
		:
		: "eax", "memory"));
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	asm volatile("ldmxcsr %0" : : "m"(defaults));
	EXPECT_FAULT(VEC_GP, 0, asm volatile("movaps 1(%%rsp), %%xmm0" : : : "memory")); /* not aligned */
}

static void general_protection(void)
{
	const unsigned long far = 1ul << 63;

	EXPECT_FAULT(VEC_GP, 0, asm volatile("gp_at: movb $0, (%0)" : : "r"(far)));
	CHECK_EQ(fault.ip, (unsigned long)gp_at);
	EXPECT_FAULT(VEC_SS, 0,
		     asm volatile("push %%rbp; mov %0, %%rbp; ss_at: mov (%%rbp), %%al; pop %%rbp"
				  :
				  : "r"(far)
				  : "eax"));
	CHECK_EQ(fault.ip, (unsigned long)ss_at);
	EXPECT_FAULT(VEC_GP, 0, asm volatile("jmp *%0" : : "r"(far)));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(0x3fffffff, 0));
	EXPECT_FAULT(VEC_GP, 0, rdmsr(0x3fffffff));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_LSTAR, far));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_EFER, 1ull << 20));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_LME)); /* paging is on */
	EXPECT_FAULT(VEC_GP, 0, write_cr0(read_cr0() & ~CR0_PE));
	EXPECT_FAULT(VEC_GP, 0, write_cr4(read_cr4() & ~CR4_PAE));
	EXPECT_FAULT(VEC_GP, 0, write_cr4(read_cr4() | 1ul << 30));
	EXPECT_FAULT(VEC_GP, 0, write_cr8(16));
	EXPECT_FAULT(VEC_GP, 0, write_cr3(1ul << 60));
	EXPECT_FAULT(VEC_GP, 0, asm volatile("mov %0, %%dr7" : : "r"(1ul << 32)));
}

static void segment_loads(void)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = {0, SEL_DATA};
	struct {
		uint64_t offset;
		uint16_t selector;
	} __attribute__((packed)) wide = {0, SEL_DATA};

	EXPECT_FAULT(VEC_GP, SEL_LIMIT + 1, asm volatile("mov %0, %%ds" : : "r"(SEL_LIMIT + 1)));
	EXPECT_FAULT(VEC_GP, SEL_CODE32, ({
			     gdt[SEL_FREE / 8] = 0;
			     asm volatile("mov %0, %%ss" : : "r"(SEL_CODE32));
		     }));
	gdt[SEL_FREE / 8] = descriptor(0, 0xfffff, 0xc013); /* data, not present */
	EXPECT_FAULT(VEC_NP, SEL_FREE, asm volatile("mov %0, %%ds" : : "r"(SEL_FREE)));
	EXPECT_FAULT(VEC_SS, SEL_FREE, asm volatile("mov %0, %%ss" : : "r"(SEL_FREE)));
	gdt[SEL_FREE / 8] = descriptor(0, 0xfffff, 0xc093);
	EXPECT_NO_FAULT(asm volatile("mov %0, %%es" : : "r"(SEL_FREE)));
	asm volatile("mov %0, %%es" : : "r"(SEL_DATA));
	EXPECT_FAULT(VEC_GP, SEL_FREE & ~3,
		     asm volatile("mov %0, %%ss"
				  :
				  : "r"(SEL_FREE | 3)));          /* RPL is not CPL */
	EXPECT_NO_FAULT(asm volatile("mov %0, %%ss" : : "r"(0))); /* null is a stack segment at level 0 */
	asm volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	EXPECT_FAULT(VEC_GP, SEL_DATA, asm volatile("ljmp *%0" : : "m"(target)));
	EXPECT_FAULT(VEC_GP, 0, ({
			     target.selector = 0;
			     asm volatile("ljmp *%0" : : "m"(target));
		     }));
	/* AMD has no far pointers with 64 bits of offset: there the prefix means nothing. */
	if (!is_amd())
		EXPECT_FAULT(VEC_GP, SEL_DATA, asm volatile("rex64 ljmp *%0" : : "m"(wide)));
	EXPECT_FAULT(VEC_GP, SEL_TSS, ltr(SEL_TSS)); /* busy */
	gdt[SEL_FREE / 8] = 0;
}

static void gates(void)
{
	idt[0x40].type = 0x0e; /* not present */
	EXPECT_FAULT(VEC_NP, 0x40 * 8 + 2, asm volatile("int $0x40"));
	reset_gate(0x40);
	idt[VEC_UD].type =
	    0x0e; /* an exception on the way: EXT is set too, which AMD's manual does not say */
	CATCH(asm volatile("ud2"));
	CHECK_EQ(fault.vector, VEC_NP);
	CHECK_EQ(fault.error | is_amd(), VEC_UD * 8 + 3);
	reset_gate(VEC_UD);
	idt[0x40].type = 0x82; /* an LDT is no gate */
	EXPECT_FAULT(VEC_GP, 0x40 * 8 + 2, asm volatile("int $0x40"));
	reset_gate(0x40);
	idt[0x40].selector = SEL_DATA;
	EXPECT_FAULT(VEC_GP, SEL_DATA, asm volatile("int $0x40"));
	idt[0x40].selector = SEL_CODE32; /* a gate leads to 64-bit code only */
	EXPECT_FAULT(VEC_GP, SEL_CODE32, asm volatile("int $0x40"));
	idt[0x40].selector = 0;
	EXPECT_FAULT(VEC_GP, 0, asm volatile("int $0x40"));
	reset_gate(0x40);
	lidt(&(struct table_register){0x40 * 16 - 1, (unsigned long)idt});
	EXPECT_FAULT(VEC_GP, 0x40 * 8 + 2, asm volatile("int $0x40"));
	lidt(&(struct table_register){sizeof(idt) - 1, (unsigned long)idt});
}

static volatile unsigned int_count;
static volatile unsigned long int_ip, int_vector;

static void count_interrupt(struct frame *frame)
{
	int_count++;
	int_vector = frame->vector;
	int_ip = frame->ip;
}

/* INT n through every vector that pushes no error code of its own. */
static void every_vector(void)
{
	uint8_t *code = page_alloc();

	for (unsigned v = 0; v < 256; v++) {
		if (v == 8 || (v >= 10 && v <= 14) || v == 17)
			continue;
		code[0] = 0xcd;
		code[1] = (uint8_t)v;
		code[2] = 0xc3;
		int_count = 0;
		set_handler(v, count_interrupt);
		asm volatile("call *%0" : : "r"(code) : "memory");
		set_handler(v, NULL);
		if (!CHECK_EQ(int_count, 1) || !CHECK_EQ(int_vector, v) ||
		    !CHECK_EQ(int_ip, (unsigned long)code + 2))
			return;
	}
}

static volatile unsigned long seen_sp, seen_flags;

static void note_stack(struct frame *frame)
{
	seen_sp = (unsigned long)(&frame->ss + 1);
	seen_flags = read_flags();
}

static void stack_of_handler(void)
{
	uint8_t *stack = page_alloc();

	set_handler(0x40, note_stack);
	/* The frame is pushed from a stack pointer aligned down to 16. */
	asm volatile("mov %%rsp, %%rax; lea -9(%%rsp), %%rsp; int $0x40; mov %%rax, %%rsp"
		     :
		     :
		     : "rax", "memory");
	CHECK_EQ(seen_sp & 15, 0);
	idt[0x40].ist = 3;
	tss.ist[2] = (unsigned long)stack + 4096;
	asm volatile("int $0x40");
	CHECK_EQ(seen_sp, (unsigned long)stack + 4096);
	idt[0x40].ist = 0;
	set_handler(0x40, NULL);
}

static void gate_kinds(void)
{
	set_handler(0x40, note_stack);
	interrupts_on();
	asm volatile("int $0x40");
	CHECK_EQ(seen_flags & EFLAGS_IF, 0);
	idt[0x40].type = 0x8f; /* trap gate */
	asm volatile("int $0x40");
	CHECK_EQ(seen_flags & EFLAGS_IF, EFLAGS_IF);
	interrupts_off();
	write_flags(read_flags() | EFLAGS_NT);
	asm volatile("int $0x40"); /* NT is cleared on the way in, or IRET would fault */
	CHECK_EQ(seen_flags & EFLAGS_NT, 0);
	EXPECT_FAULT(VEC_GP, 0,
		     asm volatile("mov %%rsp, %%rax; push $0x10; push %%rax; pushf; push $8; lea 1f(%%rip), "
				  "%%rax; push %%rax; iretq; 1:"
				  :
				  :
				  : "rax", "memory"));
	write_flags(read_flags() & ~EFLAGS_NT);
	reset_gate(0x40);
	set_handler(0x40, NULL);
}

static volatile unsigned depth, deepest;

static void nest(struct frame *frame)
{
	deepest = ++depth;
	if (depth < 20)
		asm volatile("ud2");
	depth--;
	frame->ip += 2;
}

static void nested(void)
{
	depth = deepest = 0;
	set_handler(VEC_UD, nest);
	asm volatile("ud2" : : : "memory");
	set_handler(VEC_UD, NULL);
	CHECK_EQ(deepest, 20);
	CHECK_EQ(depth, 0);
}

/* A second exception while one is delivered (SDM volume 3, table 6-5). */
static void double_fault(void)
{
	uint8_t *stack = page_alloc();

	tss.ist[0] = (unsigned long)stack + 4096;
	idt[VEC_DF].ist = 1;
	idt[VEC_GP].type = 0x0e; /* #GP, then #NP: both contributory */
	EXPECT_FAULT(VEC_DF, 0, asm volatile("movb $0, (%0)" : : "r"(1ul << 63)));
	reset_gate(VEC_GP);
	idt[VEC_DE].type = 0x0e;
	EXPECT_FAULT(VEC_DF, 0,
		     asm volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; div %%ecx"
				  :
				  :
				  : "eax", "ecx", "edx"));
	reset_gate(VEC_DE);
	/* The stack for #UD cannot be written: #SS is benign after #UD, so it is delivered itself. */
	tss.ist[1] = 1ul << 63;
	idt[VEC_UD].ist = 2;
	CATCH(asm volatile("ud2"));
	CHECK_EQ(fault.vector, VEC_SS);
	CHECK((fault.error & 1) ||
	      is_amd()); /* EXT; processors differ in whether the selector stands beside it */
	idt[VEC_GP].ist = 2;
	EXPECT_FAULT(VEC_DF, 0, asm volatile("movb $0, (%0)" : : "r"(1ul << 63)));
	reset_gate(VEC_UD);
	reset_gate(VEC_GP);
	reset_gate(VEC_DF);
}

/* --- debug -------------------------------------------------------------------------------------- */

static volatile unsigned db_count;
static volatile unsigned long db_ip[16], db_dr6;

static void note_debug(struct frame *frame)
{
	if (db_count < 16)
		db_ip[db_count] = frame->ip;
	db_count++;
	db_dr6 = read_dr6();
	write_dr6(0xffff0ff0);
	frame->flags |= EFLAGS_RF;
}

extern char step_1[];
extern char step_2[];
extern char step_3[];
extern char step_4[];

static void single_step(void)
{
	db_count = 0;
	set_handler(VEC_DB, note_debug);
	asm volatile(
	    "pushf; orl $0x100, (%%rsp); popf\n"
	    "nop; step_1: lea 1(%%rcx), %%rcx; step_2: pushf; step_3: andl $~0x100, (%%rsp); step_4: popf"
	    :
	    :
	    : "rcx", "memory", "cc");
	set_handler(VEC_DB, NULL);
	/* After the popf that clears TF there is one more: TF was set when it began. */
	CHECK_EQ(db_count, 5);
	CHECK_EQ(db_ip[0], (unsigned long)step_1);
	CHECK_EQ(db_ip[1], (unsigned long)step_2);
	CHECK_EQ(db_ip[2], (unsigned long)step_3);
	CHECK_EQ(db_ip[3], (unsigned long)step_4);
	CHECK_EQ(db_dr6 & 0xe00f, 0x4000);
}

extern char xbp_at[];

static void execute_breakpoint(void)
{
	volatile unsigned long ran = 0;

	db_count = 0;
	set_handler(VEC_DB, note_debug);
	write_dr1((unsigned long)xbp_at);
	write_dr7(1 << 2);
	asm volatile("xbp_at: incq %0" : "+m"(ran));
	write_dr7(0x400);
	set_handler(VEC_DB, NULL);
	CHECK_EQ(db_count, 1); /* before the instruction, and RF lets it pass */
	CHECK_EQ(db_ip[0], (unsigned long)xbp_at);
	CHECK_EQ(db_dr6 & 0xf, 2);
	CHECK_EQ(ran, 1);
}

extern char dbp_after_write[];
extern char dbp_after_read[];

static void data_breakpoint(void)
{
	static volatile uint64_t watched[2] __attribute__((aligned(16)));

	db_count = 0;
	set_handler(VEC_DB, note_debug);
	write_dr3((unsigned long)&watched[0]);
	write_dr7(1 << 6 | 1u << 28 | 3u << 30); /* L3, write, 4 bytes */
	asm volatile("movb $1, %0; dbp_after_write:" : "=m"(*((volatile uint8_t *)watched + 3)));
	CHECK_EQ(db_count, 1); /* after the instruction */
	CHECK_EQ(db_ip[0], (unsigned long)dbp_after_write);
	CHECK_EQ(db_dr6 & 0xf, 8);
	*((volatile uint8_t *)watched + 4) = 1; /* just past it */
	(void)*(volatile uint32_t *)watched;    /* a read */
	CHECK_EQ(db_count, 1);
	write_dr7(1 << 6 | 3u << 28 | 3u << 30); /* read or write */
	asm volatile("mov %0, %%eax; dbp_after_read:" : : "m"(watched[0]) : "eax");
	CHECK_EQ(db_count, 2);
	CHECK_EQ(db_ip[1], (unsigned long)dbp_after_read);
	write_dr7(1 << 6 | 1u << 28 | 2u << 30); /* 8 bytes */
	*((volatile uint8_t *)watched + 7) = 1;
	CHECK_EQ(db_count, 3);
	write_dr7(0x400);
	*((volatile uint8_t *)watched + 7) = 1;
	CHECK_EQ(db_count, 3);
	set_handler(VEC_DB, NULL);
}

static void debug_registers(void)
{
	write_dr7(0x400 | 1 << 13); /* GD */
	EXPECT_FAULT(VEC_DB, 0, read_dr0());
	CHECK_EQ(read_dr6() & 0x2000, 0x2000);
	CHECK_EQ(read_dr7() & 1 << 13, 0); /* cleared on the way in, so that the handler may look */
	write_dr6(0xffff0ff0);
	write_dr7(0x400);
	write_cr4(read_cr4() | CR4_DE);
	EXPECT_FAULT(VEC_UD, 0, asm volatile("mov %%dr4, %%rax" : : : "rax"));
	write_cr4(read_cr4() & ~CR4_DE);
	write_dr6(0);
	CHECK_EQ(read_dr6() & 0xf, 0);
	write_dr0(0x123456789abcul);
	CHECK_EQ(read_dr0(), 0x123456789abcul);
	write_dr0(0);
	write_dr6(0xffff0ff0);
}

/* --- compatibility mode ------------------------------------------------------------------------- */

extern char compat_code[];
asm(".pushsection .text; .code32\n"
    "compat_code:\n"
    "	mov $0xffffffff, %ecx; inc %ecx; lea 5(%ecx), %eax\n"
    "	push %eax; pop %edx\n"
    "	.byte 0x40\n" /* inc eax: no prefix here */
    "	add %edx, %eax\n"
    "	lret\n"
    ".code64; .popsection");

static void compatibility_mode(void)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = {(uint32_t)(unsigned long)compat_code, SEL_CODE32};
	uint32_t result;

	asm volatile("mov $-1, %%rax; lcall *%1"
		     : "=&a"(result)
		     : "m"(target)
		     : "rcx", "rdx", "memory", "cc");
	CHECK_EQ(result, 11);
}

static volatile unsigned long compat_cs;

static void note_cs(struct frame *frame)
{
	compat_cs = frame->cs;
	frame->ip += 2;
}

extern char compat_fault[];
asm(".pushsection .text; .code32; compat_fault: ud2; lret; .code64; .popsection");

static void compatibility_exception(void)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = {(uint32_t)(unsigned long)compat_fault, SEL_CODE32};

	set_handler(VEC_UD, note_cs);
	asm volatile("lcall *%0" : : "m"(target) : "memory");
	set_handler(VEC_UD, NULL);
	CHECK_EQ(compat_cs, SEL_CODE32);
}

static void iret_checks(void)
{
	/* To an address that is not canonical, with a code segment that is none, with a level above. */
	EXPECT_FAULT(VEC_GP, 0,
		     asm volatile("mov %%rsp, %%rax; push $0x10; push %%rax; pushf; push $8; mov $1, %%rax; "
				  "ror $1, %%rax; push %%rax; iretq"
				  :
				  :
				  : "rax", "memory"));
	EXPECT_FAULT(
	    VEC_GP, SEL_DATA,
	    asm volatile("mov %%rsp, %%rax; push $0x10; push %%rax; pushf; push $0x10; push $0; iretq"
			 :
			 :
			 : "rax", "memory"));
	EXPECT_FAULT(VEC_GP, 0,
		     asm volatile("mov %%rsp, %%rax; push $0x10; push %%rax; pushf; push $0; push $0; iretq"
				  :
				  :
				  : "rax", "memory"));
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"divide-error", divide_error},
	    {"breakpoint", breakpoint},
	    {"invalid-opcode", invalid_opcode},
	    {"instruction-too-long", too_long},
	    {"device-not-available", device_not_available},
	    {"x87-exception", floating_point},
	    {"simd-exception", simd_floating_point},
	    {"general-protection", general_protection},
	    {"segment-loads", segment_loads},
	    {"gates", gates},
	    {"every-vector", every_vector},
	    {"handler-stack", stack_of_handler},
	    {"gate-kinds", gate_kinds},
	    {"nested", nested},
	    {"double-fault", double_fault},
	    {"single-step", single_step},
	    {"execute-breakpoint", execute_breakpoint},
	    {"data-breakpoint", data_breakpoint},
	    {"debug-registers", debug_registers},
	    {"compatibility-mode", compatibility_mode},
	    {"compatibility-exception", compatibility_exception},
	    {"iret-checks", iret_checks},
	};

	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
