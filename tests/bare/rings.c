/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ring 3 in 64-bit mode: ways in and out, and what is not allowed there. */
#include "bare.h"

#define USER_RETURN 0x80

extern char user_stack_top[], syscall_entry[], sysenter_entry[], sysexit_target[];
extern unsigned long run_user(void (*code)(void));
extern unsigned long user_saved_sp;

/* run_user(code): call `code` in ring 3; it comes back by INT 0x80, and RAX is the result. A fault in ring 3
 * is caught as any other. */
asm(".pushsection .bss; .balign 16; .skip 8192; user_stack_top: user_saved_sp: .skip 8; .popsection\n"
    ".pushsection .text\n"
    "run_user:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, user_saved_sp(%rip)\n"
    "	push $0x23\n" /* SEL_USER_DATA, ring 3 */
    "	lea user_stack_top(%rip), %rax\n"
    "	push %rax\n"
    "	pushf\n"
    "	push $0x2b\n" /* SEL_USER_CODE64, ring 3 */
    "	push %rdi\n"
    "	iretq\n"
    ".globl user_returned\n"
    "user_returned:\n"
    "	mov user_saved_sp(%rip), %rsp\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n"
    "syscall_entry:\n" /* RCX: where from, R11: flags; both are the result's business */
    "	mov %rcx, syscall_rcx(%rip); mov %r11, syscall_r11(%rip)\n"
    "	pushf; pop syscall_flags(%rip)\n"
    "	mov %cs, syscall_cs(%rip); mov %ss, syscall_ss(%rip)\n"
    "	sysretq\n"
    "sysenter_entry:\n"
    "	mov %rsp, sysenter_rsp(%rip); pushf; pop syscall_flags(%rip)\n"
    "	mov %cs, syscall_cs(%rip); mov %ss, syscall_ss(%rip)\n"
    "	lea sysexit_target(%rip), %rdx; lea user_stack_top(%rip), %rcx\n"
    "	sysexitq\n"
    "sysexit_target:\n"
    "	mov %cs, %eax; shl $16, %eax; mov %ss, %ax\n"
    "	int $0x80\n"
    ".popsection");

volatile unsigned long syscall_rcx, syscall_r11, syscall_flags, sysenter_rsp;
volatile uint16_t syscall_cs, syscall_ss;
static volatile unsigned long entry_cs, entry_ss, entry_sp, handler_sp;

/* The gate that ring 3 may call: go back to who called run_user(). */
static void user_return(struct frame *frame)
{
	extern char user_returned[];

	entry_cs = frame->cs;
	entry_ss = frame->ss;
	entry_sp = frame->sp;
	handler_sp = (unsigned long)(&frame->ss + 1);
	frame->ip = (unsigned long)user_returned;
	frame->cs = SEL_CODE;
	frame->ss = SEL_DATA;
	frame->sp = user_saved_sp;
	frame->flags = 2;
}

/* Functions that run in ring 3: assembly, so that nothing else happens in them. */
#define USER(name, code)                                                                                     \
	extern void name(void);                                                                              \
	asm(".pushsection .text; " #name ": " code "; int $0x80; .popsection")

USER(user_nothing, "mov $0x1234, %eax");
USER(user_hlt, "hlt");
USER(user_cli, "cli");
USER(user_in, "in $0x80, %al");
USER(user_out, "mov $0x3f8, %edx; in %dx, %al");
USER(user_cr0, "mov %cr0, %rax");
USER(user_lgdt, "lgdt (%rsp)");
USER(user_rdmsr, "rdmsr");
USER(user_wbinvd, "wbinvd");
USER(user_int40, "int $0x40");
USER(user_int3, "int3");
USER(user_kernel_data, "mov $0x1234, %eax; mov gdt(%rip), %rbx");
USER(user_rdtsc, "rdtsc");
USER(user_sgdt, "sgdt -64(%rsp)");
USER(user_popf, "pushf; orl $0x3200, (%rsp); popf; pushf; pop %rax");
USER(user_ac, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rsp), %eax");
USER(user_ac_byte,
     "pushf; orl $0x40000, (%rsp); popf; mov 1(%rsp), %al; pushf; andl $~0x40000, (%rsp); popf");
USER(user_syscall, "lea -8(%rsp), %rsp; xor %ecx, %ecx; stc; syscall; user_syscall_after: mov %cs, %eax; shl "
		   "$16, %eax; mov %ss, %ax");
USER(user_syscall_plain, "syscall");
USER(user_sysenter, "sysenter");
USER(user_ss0, "mov $0x10, %eax; mov %eax, %ds");
USER(user_null_ss, "xor %eax, %eax; mov %eax, %ss");
USER(user_null_ds, "xor %eax, %eax; mov %eax, %ds; mov $7, %eax");
USER(user_swapgs, "swapgs");
USER(user_wrfsbase, "mov $0x12345000, %eax; wrfsbase %rax; rdfsbase %rax");
USER(user_far_call, "lcall *user_gate_target(%rip); mov %rdx, %rax");
USER(user_compat, "lcall *user_compat_target(%rip)");

struct {
	uint32_t offset;
	uint16_t selector;
} __attribute__((packed)) user_gate_target = {0, SEL_FREE | 3}, user_compat_target;

static void ring_change(void)
{
	CHECK_EQ(run_user(user_nothing), 0x1234);
	CHECK_EQ(entry_cs, SEL_USER_CODE64 | 3);
	CHECK_EQ(entry_ss, SEL_USER_DATA | 3);
	CHECK_EQ(entry_sp, (unsigned long)user_stack_top);
	CHECK_EQ(handler_sp, tss.rsp[0]); /* the stack is the TSS's */
}

static void privileged(void)
{
	EXPECT_FAULT(VEC_GP, 0, run_user(user_hlt));
	CHECK_EQ(fault.ip, (unsigned long)user_hlt);
	CHECK_EQ(fault.cs, SEL_USER_CODE64 | 3);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_cli));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_in));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_cr0));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_lgdt));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_rdmsr));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_wbinvd));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_swapgs));
	EXPECT_FAULT(VEC_GP, 0x40 * 8 + 2, run_user(user_int40)); /* the gate's DPL is 0 */
	EXPECT_FAULT(VEC_GP, 3 * 8 + 2, run_user(user_int3));
	idt[3].type = 0xee;
	EXPECT_FAULT(VEC_BP, 0, run_user(user_int3));
	reset_gate(3);
	EXPECT_FAULT(VEC_GP, SEL_DATA, run_user(user_ss0));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_null_ss));
	EXPECT_NO_FAULT(run_user(user_null_ds));
	asm volatile("mov %0, %%ds" : : "r"(SEL_DATA));
}

static void flags(void)
{
	unsigned long result = run_user(user_popf);

	CHECK_EQ(result & (EFLAGS_IF | EFLAGS_IOPL), 0); /* dropped without a word */
}

static void io_permission(void)
{
	tss.io_map = offsetof(struct tss, io_bits);
	memset(tss.io_bits, 0xff, sizeof(tss.io_bits));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_out));
	tss.io_bits[0x3f8 / 8] &= (uint8_t)~1;
	EXPECT_NO_FAULT(run_user(user_out));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_in)); /* another port */
	tss.io_map = sizeof(tss);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_out)); /* outside of the segment's limit */
	/* IOPL 3 opens all ports. */
	write_flags(read_flags() | EFLAGS_IOPL);
	EXPECT_NO_FAULT(run_user(user_out));
	write_flags(read_flags() & ~EFLAGS_IOPL);
}

static void control_bits(void)
{
	EXPECT_NO_FAULT(run_user(user_rdtsc));
	write_cr4(read_cr4() | CR4_TSD);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_rdtsc));
	EXPECT_NO_FAULT(rdtsc());
	write_cr4(read_cr4() & ~CR4_TSD);
	EXPECT_NO_FAULT(run_user(user_sgdt));
	if (cpuid(7, 0).c & 4) {
		write_cr4(read_cr4() | CR4_UMIP);
		EXPECT_FAULT(VEC_GP, 0, run_user(user_sgdt));
		write_cr4(read_cr4() & ~CR4_UMIP);
	}
	if (cpuid(7, 0).b & 1) {
		EXPECT_FAULT(VEC_UD, 0, run_user(user_wrfsbase));
		write_cr4(read_cr4() | 1 << 16);
		CHECK_EQ(run_user(user_wrfsbase), 0x12345000);
		CHECK_EQ(rdmsr(MSR_FS_BASE), 0x12345000);
		wrmsr(MSR_FS_BASE, 0);
		write_cr4(read_cr4() & ~(1ul << 16));
	}
}

static void alignment_check(void)
{
	EXPECT_NO_FAULT(run_user(user_ac)); /* CR0.AM is off */
	write_cr0(read_cr0() | CR0_AM);
	EXPECT_FAULT(VEC_AC, 0, run_user(user_ac));
	EXPECT_NO_FAULT(run_user(user_ac_byte));
	write_cr0(read_cr0() & ~CR0_AM);
}

/* A page of the supervisor, at each level of the tables. */
static void user_pages(void)
{
	extern uint64_t boot_pml4[];
	uint64_t *pd = (uint64_t *)(*(uint64_t *)(boot_pml4[0] & ~0xfffull) & ~0xfffull);
	uint64_t *entry = &pd[(unsigned long)user_stack_top >> 21];

	(void)entry;
	boot_pml4[0] &= ~4ull;
	write_cr3(read_cr3());
	EXPECT_FAULT(VEC_PF, 0x15, run_user(user_nothing)); /* a fetch, of what is there, by a user */
	CHECK_EQ(fault.cr2, (unsigned long)user_nothing);
	boot_pml4[0] |= 4;
	write_cr3(read_cr3());
	EXPECT_NO_FAULT(run_user(user_kernel_data));
}

static void fast_system_call(void)
{
	extern char user_syscall_after[];
	unsigned long result;

	wrmsr(MSR_STAR, (uint64_t)SEL_CODE << 32 | (uint64_t)(SEL_USER_CODE32 | 3) << 48);
	wrmsr(MSR_LSTAR, (unsigned long)syscall_entry);
	wrmsr(MSR_SFMASK, EFLAGS_CF | EFLAGS_IF);
	result = run_user(user_syscall);
	CHECK_EQ(result, (uint32_t)(SEL_USER_CODE64 | 3) << 16 | SEL_USER_DATA | 3);
	CHECK_EQ(syscall_rcx, (unsigned long)user_syscall_after);
	CHECK_EQ(syscall_r11 & EFLAGS_CF, EFLAGS_CF);
	CHECK_EQ(syscall_flags & EFLAGS_CF, 0);
	CHECK_EQ(syscall_cs, SEL_CODE);
	CHECK_EQ(syscall_ss, SEL_DATA);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
	EXPECT_FAULT(VEC_UD, 0, run_user(user_syscall_plain));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	EXPECT_FAULT(VEC_GP, 0,
		     asm volatile("mov $1, %%rcx; ror $1, %%rcx; mov $2, %%r11d; sysretq"
				  :
				  :
				  : "rcx", "r11", "memory"));
}

static void sysenter(void)
{
	if (is_amd()) {
		EXPECT_FAULT(VEC_UD, 0, run_user(user_sysenter));
		skip("AMD has no SYSENTER in long mode");
		return;
	}
	wrmsr(MSR_SYSENTER_CS, 0);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_sysenter));
	wrmsr(MSR_SYSENTER_CS, SEL_CODE);
	wrmsr(MSR_SYSENTER_ESP, (unsigned long)page_alloc() + 4096);
	wrmsr(MSR_SYSENTER_EIP, (unsigned long)sysenter_entry);
	EXPECT_NO_FAULT(run_user(user_sysenter));
	CHECK_EQ(syscall_cs, SEL_CODE);
	CHECK_EQ(syscall_ss, SEL_CODE + 8);
	CHECK_EQ(sysenter_rsp, rdmsr(MSR_SYSENTER_ESP));
	CHECK_EQ(entry_cs, (SEL_CODE + 32) | 3); /* as SYSEXIT makes them, whatever the GDT says */
	CHECK_EQ(entry_ss, (SEL_CODE + 40) | 3);
}

extern char gate_entry[];
asm(".pushsection .text; gate_entry: mov %cs, %edx; mov %rsp, gate_rsp(%rip); lretq; .popsection");
volatile unsigned long gate_rsp;

static void call_gate(void)
{
	unsigned long entry = (unsigned long)gate_entry;

	gdt[SEL_FREE / 8] = (entry & 0xffff) | (uint64_t)SEL_CODE << 16 | 0xecull << 40 |
			    (uint64_t)(entry >> 16 & 0xffff) << 48;
	gdt[SEL_FREE / 8 + 1] = entry >> 32;
	CHECK_EQ(run_user(user_far_call) & 0xffff, SEL_CODE); /* in ring 0 for as long as it took */
	CHECK_EQ(gate_rsp, tss.rsp[0] - 32);
	CHECK_EQ(entry_cs, SEL_USER_CODE64 | 3);
	gdt[SEL_FREE / 8] &= ~(0x60ull << 40); /* DPL 0 */
	EXPECT_FAULT(VEC_GP, SEL_FREE, run_user(user_far_call));
	gdt[SEL_FREE / 8] = (gdt[SEL_FREE / 8] | 0x60ull << 40) & ~(0x80ull << 40);
	EXPECT_FAULT(VEC_NP, SEL_FREE, run_user(user_far_call));
	gdt[SEL_FREE / 8] = gdt[SEL_FREE / 8 + 1] = 0;
}

extern char compat_user_code[];
asm(".pushsection .text; .code32; compat_user_code: mov $5, %eax; int $0x80; .code64; .popsection");

static void compatibility_ring3(void)
{
	user_compat_target.offset = (uint32_t)(unsigned long)compat_user_code;
	user_compat_target.selector = SEL_USER_CODE32 | 3;
	CHECK_EQ(run_user(user_compat), 5);
	CHECK_EQ(entry_cs, SEL_USER_CODE32 | 3);
}

static void segment_bases(void)
{
	static uint64_t words[2] = {0x1111, 0x2222};
	uint64_t value;

	wrmsr(MSR_GS_BASE, (unsigned long)&words[0]);
	wrmsr(MSR_KERNEL_GS, (unsigned long)&words[1]);
	asm volatile("mov %%gs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x1111);
	asm volatile("swapgs; mov %%gs:0, %0; swapgs" : "=r"(value));
	CHECK_EQ(value, 0x2222);
	wrmsr(MSR_FS_BASE, 1ul << 40);
	EXPECT_FAULT(VEC_PF, 0, asm volatile("mov %%fs:8, %%rax" : : : "rax"));
	CHECK_EQ(fault.cr2, (1ul << 40) + 8);
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_FS_BASE, 1ul << 63));
	asm volatile("mov %0, %%fs" : : "r"(SEL_DATA)); /* loads the base of the descriptor */
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0);
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_KERNEL_GS, 0);
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"ring-change", ring_change},
	    {"privileged-instructions", privileged},
	    {"user-flags", flags},
	    {"io-permission", io_permission},
	    {"control-bits", control_bits},
	    {"alignment-check", alignment_check},
	    {"user-pages", user_pages},
	    {"syscall", fast_system_call},
	    {"sysenter", sysenter},
	    {"call-gate", call_gate},
	    {"compatibility-ring3", compatibility_ring3},
	    {"segment-bases", segment_bases},
	};

	set_handler(USER_RETURN, user_return);
	idt[USER_RETURN].type = 0xee;
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
