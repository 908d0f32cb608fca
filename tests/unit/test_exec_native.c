// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_exec_native.c - runs a few instructions on the host CPU with all registers set, and catches
 * what they raise.
 */
#include "tests/unit/test_exec_native.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

/* Used by the assembly below; one run at a time. */
uint64_t native_gpr[16], native_rflags, native_host_rsp, native_target = CODE;

void native_enter(void);
void native_back(void);

/* In: native_gpr, native_rflags. Control goes to CODE and comes back by a jump to native_back. */
__asm__(".text\n"
	".globl native_enter, native_back\n"
	"native_enter:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	push native_rflags(%rip)\n"
	"	popfq\n"
	"	mov %rsp, native_host_rsp(%rip)\n"
	"	mov native_gpr+0(%rip), %rax\n	mov native_gpr+8(%rip), %rcx\n"
	"	mov native_gpr+16(%rip), %rdx\n	mov native_gpr+24(%rip), %rbx\n"
	"	mov native_gpr+32(%rip), %rsp\n	mov native_gpr+40(%rip), %rbp\n"
	"	mov native_gpr+48(%rip), %rsi\n	mov native_gpr+56(%rip), %rdi\n"
	"	mov native_gpr+64(%rip), %r8\n	mov native_gpr+72(%rip), %r9\n"
	"	mov native_gpr+80(%rip), %r10\n	mov native_gpr+88(%rip), %r11\n"
	"	mov native_gpr+96(%rip), %r12\n	mov native_gpr+104(%rip), %r13\n"
	"	mov native_gpr+112(%rip), %r14\n	mov native_gpr+120(%rip), %r15\n"
	"	jmp *native_target(%rip)\n"
	"native_back:\n"
	"	mov %rax, native_gpr+0(%rip)\n	mov %rcx, native_gpr+8(%rip)\n"
	"	mov %rdx, native_gpr+16(%rip)\n	mov %rbx, native_gpr+24(%rip)\n"
	"	mov %rsp, native_gpr+32(%rip)\n	mov %rbp, native_gpr+40(%rip)\n"
	"	mov %rsi, native_gpr+48(%rip)\n	mov %rdi, native_gpr+56(%rip)\n"
	"	mov %r8, native_gpr+64(%rip)\n	mov %r9, native_gpr+72(%rip)\n"
	"	mov %r10, native_gpr+80(%rip)\n	mov %r11, native_gpr+88(%rip)\n"
	"	mov %r12, native_gpr+96(%rip)\n	mov %r13, native_gpr+104(%rip)\n"
	"	mov %r14, native_gpr+112(%rip)\n	mov %r15, native_gpr+120(%rip)\n"
	"	mov native_host_rsp(%rip), %rsp\n"
	"	pushfq\n"
	"	pop native_rflags(%rip)\n"
	"	cld\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

static sigjmp_buf leave;
static struct native *running;

static void caught(int signal, siginfo_t *info, void *context)
{
	static const int gregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	const greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	if (!running) {
		/* Not ours: the test itself is broken. */
		sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
		return;
	}
	for (unsigned i = 0; i < 16; i++)
		running->gpr[i] = (uint64_t)g[gregs[i]];
	running->rflags = (uint64_t)g[REG_EFL];
	running->fault = (int)g[REG_TRAPNO];
	running->fault_rip = (uint64_t)g[REG_RIP];
	running->error_code = (uint64_t)g[REG_ERR];
	siglongjmp(leave, 1);
}

void native_create(void)
{
	static uint8_t stack[65536];
	stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};

	assert_ptr_equal(mmap((void *)CODE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), (void *)CODE);
	assert_ptr_equal(mmap((void *)DATA, DATA_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), (void *)DATA);
	sigaltstack(&alternative, NULL);
}

void native_catch(void)
{
	struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP};

	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

/* jmp *0(%rip) with the address behind it. */
static unsigned put_jump_back(uint8_t *at)
{
	static const uint8_t jump[6] = {0xff, 0x25};
	uint64_t back = (uint64_t)(uintptr_t)native_back;

	memcpy(at, jump, sizeof(jump));
	memcpy(at + sizeof(jump), &back, sizeof(back));
	return sizeof(jump) + sizeof(back);
}

void native_code(const void *code, unsigned size)
{
	uint8_t *at = (uint8_t *)CODE;

	memcpy(at, code, size);
	put_jump_back(at + size);
}

static void run_at(struct native *n, uint64_t target)
{
	native_target = target;
	memcpy(native_gpr, n->gpr, sizeof(n->gpr));
	native_rflags = n->rflags | 0x202;
	n->fault = -1;
	n->error_code = n->fault_rip = 0;
	running = n;
	if (sigsetjmp(leave, 1)) {
		__asm__ volatile("cld");
		running = NULL;
		return;
	}
	native_enter();
	running = NULL;
	memcpy(n->gpr, native_gpr, sizeof(n->gpr));
	n->rflags = native_rflags;
}

void native_run(struct native *n)
{
	run_at(n, CODE);
}

/* From 64-bit code by a far jump to Linux's 32-bit code segment, and back by another. DS and ES, for which
 * 64-bit code has no use, get the segment that SS has. */
void native_run32(struct native *n, const void *code, unsigned size)
{
	static const uint8_t there[] = {
	    0xff, 0x2d, 0x00, 0x00, 0x00, 0x00, /* ljmp *0(%rip) */
	    0x10, 0x00, 0x00, 0x10, 0x23, 0x00, /* 0x23:NATIVE_CODE32 */
	};
	uint8_t *at = (uint8_t *)NATIVE_CODE32, back[] = {0xea, 0, 0, 0, 0, 0x33, 0x00}; /* ljmp 0x33:… */
	uint32_t target = (uint32_t)(NATIVE_CODE32 + size + sizeof(back));

	__asm__ volatile("mov %%ss, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es" : : : "eax");
	memcpy((void *)CODE, there, sizeof(there));
	memcpy(at, code, size);
	memcpy(back + 1, &target, sizeof(target));
	memcpy(at + size, back, sizeof(back));
	put_jump_back(at + size + sizeof(back));
	run_at(n, CODE);
}
