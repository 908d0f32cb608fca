// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * native.c - runs a scenario on the host CPU, in this thread. The registers are loaded and the code
 * is jumped to; it always ends in a signal, at the latest by the int3 behind it. The handler takes the
 * state from the signal frame and has the kernel return to native_leave. Handlers run on a stack of
 * their own, since the scenario's RSP can be anything.
 */
#include "tests/diff/diff.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Loads the state `cpu` and goes to it; returns when the signal handler has done its work. It goes by IRET because that
 * serializes: the code was written by another address of its page, so without it the CPU may still run what was there
 * (SDM 3A, "Handling Self- and Cross-Modifying Code"). */
void native_enter(const struct cpu *cpu);
void native_leave(void);
extern uint64_t native_stack, native_code, native_data; /* the last two: selectors */

__asm__(".data\n"
	".globl native_stack\n"
	"native_stack: .quad 0\n"
	".globl native_code\n"
	"native_code: .quad 0\n"
	".globl native_data\n"
	"native_data: .quad 0\n"
	".text\n"
	".globl native_enter\n"
	"native_enter:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, native_stack(%rip)\n"
	"	mov $7, %eax\n"
	"	xor %edx, %edx\n"
	"	xrstor64 192(%rdi)\n"
	"	mov native_data(%rip), %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov %eax, %gs\n"
	"	mov %ss, %eax\n"
	"	push %rax\n"
	"	push 32(%rdi)\n"
	"	push 136(%rdi)\n"
	"	push native_code(%rip)\n"
	"	push 128(%rdi)\n"
	"	mov 0(%rdi), %rax\n"
	"	mov 8(%rdi), %rcx\n"
	"	mov 16(%rdi), %rdx\n"
	"	mov 24(%rdi), %rbx\n"
	"	mov 40(%rdi), %rbp\n"
	"	mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n"
	"	mov 72(%rdi), %r9\n"
	"	mov 80(%rdi), %r10\n"
	"	mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n"
	"	mov 104(%rdi), %r13\n"
	"	mov 112(%rdi), %r14\n"
	"	mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	iretq\n"
	".globl native_leave\n"
	"native_leave:\n"
	"	xor %eax, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov %eax, %gs\n"
	"	fninit\n"
	"	vzeroupper\n"
	"	ldmxcsr native_mxcsr(%rip)\n"
	"	cld\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	"native_mxcsr: .long 0x1f80\n");

_Static_assert(offsetof(struct cpu, gpr) == 0 && offsetof(struct cpu, rip) == 128 &&
		   offsetof(struct cpu, rflags) == 136 && offsetof(struct cpu, area) == 192,
	       "native_enter knows these");

/* Linux's selectors of level 3. */
#define SELECTOR_CODE32 0x23u
#define SELECTOR_DATA   0x2bu
#define SELECTOR_CODE   0x33u

static struct {
	uint8_t *code;       /* writable */
	uint8_t *memory;     /* writable, data and stack one after the other */
	struct outcome *out; /* of the run in progress */
} native;

/* uc_mcontext.gregs in the order of struct cpu. */
static const uint8_t greg_order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				       REG_R12, REG_R13, REG_R14, REG_R15};

static void take_state(const ucontext_t *context)
{
	const greg_t *gregs = context->uc_mcontext.gregs;
	struct outcome *out = native.out;

	for (unsigned i = 0; i < 16; i++)
		out->cpu.gpr[i] = (uint64_t)gregs[greg_order[i]];
	out->cpu.rip = (uint64_t)gregs[REG_RIP];
	out->cpu.rflags = (uint64_t)gregs[REG_EFL];
	/* The kernel stores the extended state in the standard format. */
	memcpy(out->cpu.area, context->uc_mcontext.fpregs, AREA_SIZE);
	out->vector = (unsigned)gregs[REG_TRAPNO];
	out->error = (uint32_t)gregs[REG_ERR];
	out->cr2 = (uint64_t)gregs[REG_CR2];
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	(void)info;
	if (!native.out) {
		/* Not the scenario's: let the default action report it. */
		signal(number, SIG_DFL);
		return;
	}
	take_state(c);
	native.out = NULL;
	c->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)native_leave;
	c->uc_mcontext.gregs[REG_RSP] = (greg_t)native_stack;
	c->uc_mcontext.gregs[REG_CSGSFS] = (c->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffll) | SELECTOR_CODE;
	c->uc_mcontext.gregs[REG_EFL] = 0x202;
}

static void *map_at(uint64_t linear, size_t size, int protection, int fd, off_t offset)
{
	return mmap((void *)(uintptr_t)linear, size, protection,
		    MAP_SHARED | MAP_POPULATE | (linear ? MAP_FIXED_NOREPLACE : 0), fd, offset);
}

static int map_memory(struct error *err)
{
	int fd = memfd_create("diff", MFD_CLOEXEC);
	const off_t stack = PAGE + DATA_SIZE;
	uint8_t *all;
	bool failed;

	if (fd < 0 || ftruncate(fd, stack + STACK_SIZE) < 0)
		return error_set(err, errno, "Cannot make a memory file: %s.", strerror(errno));
	all = map_at(0, (size_t)stack + STACK_SIZE, PROT_READ | PROT_WRITE, fd, 0);
	failed = all == MAP_FAILED || map_at(CODE_LINEAR, PAGE, PROT_READ | PROT_EXEC, fd, 0) == MAP_FAILED ||
		 map_at(DATA_LINEAR, DATA_SIZE - PAGE, PROT_READ | PROT_WRITE, fd, PAGE) == MAP_FAILED ||
		 map_at(DATA_LINEAR + DATA_SIZE - PAGE, PAGE, PROT_READ, fd, DATA_SIZE) == MAP_FAILED ||
		 map_at(STACK_LINEAR, STACK_SIZE, PROT_READ | PROT_WRITE, fd, stack) == MAP_FAILED;
	close(fd);
	if (failed)
		return error_set(err, errno, "Cannot map the scenario's memory where it must lie: %s.",
				 strerror(errno));
	native.code = all;
	native.memory = all + PAGE;
	return 0;
}

/* Whether 32-bit code runs here: the first byte is DEC EAX there, and elsewhere a prefix. */
static int try_narrow(struct error *err)
{
	static struct scenario probe = {.code = {0x48, 0xcc}, .start = {.rip = CODE_LINEAR, .rflags = 0x202}};
	static struct outcome out;

	if ((uintptr_t)&native >> 32 == 0)
		return error_set(err, ENOTSUP, "This program lies below 4 GiB, where 32-bit code could write into it.");
	probe.start.gpr[0] = 5;
	probe.start.gpr[4] = STACK_LINEAR + PAGE;
	le16_put(probe.start.area, 0x37f);
	le32_put(probe.start.area + 24, 0x1f80);
	native_code = SELECTOR_CODE32;
	native_data = SELECTOR_DATA;
	native_run(&probe, &out);
	if (out.vector == 3 && out.cpu.gpr[0] == 4)
		return 0;
	return error_set(err, ENOTSUP, "This host runs no 32-bit code.");
}

int native_open(bool narrow, struct error *err)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t stack = {.ss_size = 1u << 20};
	int r = map_memory(err);

	if (r < 0)
		return r;
	stack.ss_sp = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) < 0)
		return error_set(err, errno, "Cannot set up a signal stack: %s.", strerror(errno));
	sigfillset(&action.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &action, NULL);
	native_code = SELECTOR_CODE;
	return narrow ? try_narrow(err) : 0;
}

void native_run(const struct scenario *s, struct outcome *out)
{
	memcpy(native.code, s->code, PAGE);
	memcpy(native.memory, s->memory, MEMORY_SIZE);
	native.out = out;
	native_enter(&s->start);
	out->memory = native.memory;
}
