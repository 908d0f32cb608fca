/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that are taken from one processor and go on on another, or on another of the same kind: in the middle of
 * a computation, halted with timers, in the shadow of STI, with NMIs, with messages, waiting for a SIPI. What they
 * do must be what they would have done.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "hypervisor/tlfs/protocol.h"
#include "tests/double/state_guest.h"

struct pair {
	const char *name;
	struct guest_processor from, to;
};

static void start(struct partition *p)
{
	struct error err = {0};

	if (partition_start(p, &err))
		fail_msg("%s", err.text);
}

static void rest_ms(unsigned ms)
{
	struct timespec t = {.tv_nsec = ms * 1000000L};

	nanosleep(&t, NULL);
}

/* --- a computation in each mode --------------------------------------------------------------------------------- */

/* In the VP's area: 0 done, 4 iterations, 8 bit 0: use AVX; 0x100 what came out. */
#define RESULT      0x100u
#define RESULT_SIZE 0x500u

STATE_CODE(compute64, 64,
	   "	movl	4(%rdi), %r14d\n"
	   "	testl	$1, 8(%rdi)\n"
	   "	jz	1f\n"
	   "	movq	%cr4, %rax\n"
	   "	orl	$0x40000, %eax\n"
	   "	movq	%rax, %cr4\n"
	   "	xorl	%ecx, %ecx\n"
	   "	xorl	%edx, %edx\n"
	   "	movl	$7, %eax\n"
	   "	xsetbv\n"
	   "1:	movl	$0x00010002, %edx\n" /* registers that only look like something */
	   "	movl	$0x12345678, %eax\n"
	   "	movl	$0xc0000081, %ecx\n"
	   "2:	wrmsr\n" /* STAR, LSTAR, CSTAR */
	   "	xorl	%edx, %edx\n"
	   "	addl	$0x1111, %eax\n"
	   "	incl	%ecx\n"
	   "	cmpl	$0xc0000085, %ecx\n"
	   "	jb	2b\n"
	   "	movl	$0xc0000102, %ecx\n" /* KERNEL_GS_BASE, TSC_AUX */
	   "	wrmsr\n"
	   "	incl	%ecx\n"
	   "	movl	$0x55, %eax\n"
	   "	wrmsr\n"
	   "	movl	$0x174, %ecx\n" /* SYSENTER_* */
	   "	wrmsr\n"
	   "	incl	%ecx\n"
	   "	wrmsr\n"
	   "	incl	%ecx\n"
	   "	wrmsr\n"
	   "	movl	$0x00070106, %eax\n"
	   "	movl	$0x00070406, %edx\n"
	   "	movl	$0x277, %ecx\n"
	   "	wrmsr\n"
	   "	movq	$0x123456789a, %rax\n"
	   "	movq	%rax, %dr0\n"
	   "	movq	%rax, %dr3\n"
	   "	movq	%rax, %cr2\n"
	   "	fldpi\n"
	   "	fld1\n"
	   "	pushq	$0x27f\n"
	   "	fldcw	(%rsp)\n"
	   "	movl	$0x9fa0, (%rsp)\n"
	   "	ldmxcsr	(%rsp)\n"
	   "	popq	%rax\n"
	   "	movq	$0x9e3779b97f4a7c15, %rax\n"
	   "	movq	%rax, %rbx\n"
	   "	leaq	1(%rdi), %rcx\n"
	   "3:	addq	%rax, %rbx\n"
	   "	adcq	%rcx, %rdx\n"
	   "	rolq	$7, %rax\n"
	   "	xorq	%rbx, %rcx\n"
	   "	imulq	%rdx, %rsi\n"
	   "	leaq	1(%rsi,%rdx,2), %rsi\n"
	   "	movq	%rsi, 0x80(%rdi)\n"
	   "	addq	0x80(%rdi), %r8\n"
	   "	pushq	%r8\n"
	   "	popq	%r9\n"
	   "	sbbq	%r10, %r10\n"
	   "	pushfq\n"
	   "	popq	%r11\n"
	   "	xorq	%r11, %r12\n"
	   "	addq	%r9, %r12\n"
	   "	movq	%r12, %xmm0\n"
	   "	paddq	%xmm0, %xmm1\n"
	   "	pmuludq	%xmm1, %xmm2\n"
	   "	pxor	%xmm0, %xmm2\n"
	   "	pshufd	$0x1b, %xmm2, %xmm3\n"
	   "	paddd	%xmm3, %xmm15\n"
	   "	fsubr	%st(1), %st\n"
	   "	testl	$1, 8(%rdi)\n"
	   "	jz	4f\n"
	   "	vxorps	%ymm15, %ymm14, %ymm14\n"
	   "	vinsertf128 $1, %xmm2, %ymm14, %ymm13\n"
	   "	vperm2f128 $1, %ymm13, %ymm13, %ymm14\n"
	   "	vxorps	%ymm13, %ymm15, %ymm15\n"
	   "4:	decl	%r14d\n"
	   "	jnz	3b\n"
	   "	movq	%rax, 0x100(%rdi)\n"
	   "	movq	%rbx, 0x108(%rdi)\n"
	   "	movq	%rcx, 0x110(%rdi)\n"
	   "	movq	%rdx, 0x118(%rdi)\n"
	   "	movq	%rsi, 0x120(%rdi)\n"
	   "	movq	%r8, 0x128(%rdi)\n"
	   "	movq	%r10, 0x130(%rdi)\n"
	   "	movq	%r12, 0x138(%rdi)\n"
	   "	movq	%rsp, 0x140(%rdi)\n"
	   "	fnstcw	0x148(%rdi)\n"
	   "	stmxcsr	0x14c(%rdi)\n"
	   "	fstpt	0x150(%rdi)\n"
	   "	fstpt	0x160(%rdi)\n"
	   "	fnstsw	0x170(%rdi)\n"
	   "	movdqu	%xmm1, 0x180(%rdi)\n"
	   "	movdqu	%xmm2, 0x190(%rdi)\n"
	   "	movdqu	%xmm15, 0x1a0(%rdi)\n"
	   "	testl	$1, 8(%rdi)\n"
	   "	jz	5f\n"
	   "	vmovups	%ymm13, 0x1c0(%rdi)\n"
	   "	vmovups	%ymm14, 0x1e0(%rdi)\n"
	   "	vmovups	%ymm15, 0x200(%rdi)\n"
	   "	xorl	%ecx, %ecx\n"
	   "	xgetbv\n"
	   "	movl	%eax, 0x220(%rdi)\n"
	   "5:	movq	%cr2, %rax\n"
	   "	movq	%rax, 0x228(%rdi)\n"
	   "	movq	%dr0, %rax\n"
	   "	movq	%rax, 0x230(%rdi)\n"
	   "	movq	%dr3, %rax\n"
	   "	movq	%rax, 0x238(%rdi)\n"
	   "	leaq	0x240(%rdi), %rbx\n"
	   "	movl	$0xc0000081, %ecx\n"
	   "6:	rdmsr\n"
	   "	movl	%eax, (%rbx)\n"
	   "	movl	%edx, 4(%rbx)\n"
	   "	addq	$8, %rbx\n"
	   "	incl	%ecx\n"
	   "	cmpl	$0xc0000085, %ecx\n"
	   "	jb	6b\n"
	   "	movl	$0xc0000102, %ecx\n"
	   "	rdmsr\n"
	   "	movl	%eax, (%rbx)\n"
	   "	rdtscp\n"
	   "	movl	%ecx, 4(%rbx)\n"
	   "	movl	$0x176, %ecx\n"
	   "	rdmsr\n"
	   "	movl	%eax, 8(%rbx)\n"
	   "	movl	$0x277, %ecx\n"
	   "	rdmsr\n"
	   "	movl	%edx, 12(%rbx)\n"
	   "	movl	$1, (%rdi)\n"
	   "7:	hlt\n"
	   "	jmp	7b\n");

/* The same text for 16 and 32 bits. */
#define COMPUTE32                            \
	"	movl	4(%edi), %ebp\n"     \
	"	fldpi\n"                     \
	"	fld1\n"                      \
	"	pushl	$0x27f\n"            \
	"	fldcw	(%esp)\n"            \
	"	popl	%eax\n"              \
	"	movl	$0x9e3779b9, %eax\n" \
	"	leal	1(%edi), %ecx\n"     \
	"3:	addl	%eax, %ebx\n"        \
	"	adcl	%ecx, %edx\n"        \
	"	roll	$7, %eax\n"          \
	"	xorl	%ebx, %ecx\n"        \
	"	imull	%edx, %esi\n"        \
	"	leal	1(%esi,%edx,2), %esi\n" \
	"	movl	%esi, 0x80(%edi)\n"  \
	"	addl	0x80(%edi), %ebx\n"  \
	"	pushfl\n"                    \
	"	popl	%esi\n"              \
	"	xorl	%ecx, %esi\n"        \
	"	movd	%esi, %xmm0\n"       \
	"	paddq	%xmm0, %xmm1\n"      \
	"	pmuludq	%xmm1, %xmm2\n"      \
	"	pxor	%xmm0, %xmm2\n"      \
	"	pshufd	$0x1b, %xmm2, %xmm3\n" \
	"	paddd	%xmm3, %xmm7\n"      \
	"	fsubr	%st(1), %st\n"       \
	"	decl	%ebp\n"              \
	"	jnz	3b\n"                \
	"	movl	%eax, 0x100(%edi)\n" \
	"	movl	%ebx, 0x104(%edi)\n" \
	"	movl	%ecx, 0x108(%edi)\n" \
	"	movl	%edx, 0x10c(%edi)\n" \
	"	movl	%esi, 0x110(%edi)\n" \
	"	movl	%esp, 0x114(%edi)\n" \
	"	fnstcw	0x118(%edi)\n"       \
	"	fstpt	0x120(%edi)\n"       \
	"	fstpt	0x130(%edi)\n"       \
	"	movdqu	%xmm1, 0x140(%edi)\n" \
	"	movdqu	%xmm2, 0x150(%edi)\n" \
	"	movdqu	%xmm7, 0x160(%edi)\n" \
	"	movl	$1, (%edi)\n"        \
	"7:	hlt\n"                       \
	"	jmp	7b\n"

STATE_CODE(compute32, 32, COMPUTE32);
STATE_CODE(compute16, 16, COMPUTE32);

#define COMPUTE_VPS 2

static bool only_soft(const struct pair *pair)
{
	return pair->from.kind == PROCESSOR_SOFT && pair->to.kind == PROCESSOR_SOFT;
}

/* Long enough to be interrupted, and no longer. */
static uint32_t iterations(const struct pair *pair)
{
	return only_soft(pair) ? 150000 : 400000;
}

static struct partition *begin_computation(const struct pair *pair, enum guest_mode mode)
{
	const uint8_t *code[] = {compute16, compute32, compute32, compute64};
	const uint8_t *end[] = {compute16_end, compute32_end, compute32_end, compute64_end};
	struct partition *p = guest_create_running(pair->from, COMPUTE_VPS, mode, code[mode], end[mode]);
	uint32_t features = cpuid_table_register(p->loaded_cpuid, 1, 0, 2);

	for (unsigned vp = 0; vp < COMPUTE_VPS; vp++) {
		guest_write32(p, GUEST_AREA + 0x1000 * vp + 4, iterations(pair) + 10000 * vp);
		guest_write32(p, GUEST_AREA + 0x1000 * vp + 8, features >> 28 & features >> 26 & 1);
	}
	return p;
}

static bool is_computed(struct partition *p)
{
	for (unsigned vp = 0; vp < COMPUTE_VPS; vp++)
		if (!guest_read32(p, GUEST_AREA + 0x1000 * vp))
			return false;
	return true;
}

static void read_results(struct partition *p, uint8_t results[COMPUTE_VPS][RESULT_SIZE])
{
	for (unsigned vp = 0; vp < COMPUTE_VPS; vp++) {
		guest_wait(p, GUEST_AREA + 0x1000 * vp, 1);
		assert_int_equal(partition_read(p, GUEST_AREA + 0x1000 * vp + RESULT, results[vp], RESULT_SIZE), 0);
	}
	partition_destroy(p);
}

static void test_computation(void **state)
{
	const struct pair *pair = *state;

	for (enum guest_mode mode = 0; mode < GUEST_MODES; mode++) {
		uint8_t whole[COMPUTE_VPS][RESULT_SIZE], moved[COMPUTE_VPS][RESULT_SIZE];
		struct partition *p = begin_computation(pair, mode);
		unsigned moves = 0;

		start(p);
		read_results(p, whole);
		p = begin_computation(pair, mode);
		for (unsigned hop = 0; hop < 8; hop++) {
			struct guest_taken t;

			start(p);
			rest_ms(1 + hop % 3);
			guest_take(&t, p);
			p = guest_give(hop & 1 ? pair->from : pair->to, &t);
			guest_free(&t);
			if (is_computed(p))
				break;
			moves++;
		}
		assert_true(moves > 0 || !only_soft(pair));
		start(p);
		read_results(p, moved);
		assert_memory_equal(moved, whole, sizeof(whole));
	}
}

/* What was loaded and has not run is saved as it came, to the bit. */
static void test_a_loaded_state_is_saved_the_same(void **state)
{
	const struct pair *pair = *state;

	for (enum guest_mode mode = 0; mode < GUEST_MODES; mode++) {
		struct partition *p = begin_computation(pair, mode);
		struct guest_taken first, second;
		uint8_t *a, *b;
		size_t a_size, b_size;

		start(p);
		rest_ms(2);
		guest_take(&first, p);
		guest_take(&second, guest_give(pair->from, &first));
		assert_int_equal(saved_encode(first.state, &a, &a_size, NULL), 0);
		assert_int_equal(saved_encode(second.state, &b, &b_size, NULL), 0);
		assert_int_equal(a_size, b_size);
		if (pair->from.kind == PROCESSOR_SOFT)
			assert_memory_equal(a, b, a_size);
		free(a);
		free(b);
		guest_free(&first);
		guest_free(&second);
	}
}

/* --- timers ------------------------------------------------------------------------------------------------------ */

#define TICKS_APIC   (GUEST_AREA + 0x10)
#define TICK_ERROR   (GUEST_AREA + 0x14)
#define TICKS_STIMER (GUEST_AREA + 0x18)
#define TICK_CODE    (GUEST_CODE + 0x800)
#define STIMER_CODE  (GUEST_CODE + 0xc00)

/* x2APIC; APIC timer and synthetic timer 0, each a thousand times a second; hypercall and reference TSC page. */
STATE_CODE(timers, 64,
	   "	movl	$0x1b, %ecx\n"
	   "	rdmsr\n"
	   "	orl	$0xc00, %eax\n"
	   "	wrmsr\n"
	   "	leaq	2f(%rip), %rsi\n"
	   "1:	movl	(%rsi), %ecx\n"
	   "	movl	4(%rsi), %eax\n"
	   "	movl	8(%rsi), %edx\n"
	   "	jecxz	3f\n"
	   "	wrmsr\n"
	   "	addq	$12, %rsi\n"
	   "	jmp	1b\n"
	   "2:	.long	0x80f, 0x1ff, 0\n"
	   "	.long	0x83e, 0xb, 0\n"
	   "	.long	0x832, 0x20040, 0\n"
	   "	.long	0x838, 200000, 0\n"
	   "	.long	0x40000000, 0, 0x81000000\n"
	   "	.long	0x40000001, 0x30001, 0\n"
	   "	.long	0x40000021, 0x32001, 0\n"
	   "	.long	0x400000b0, 0x1413, 0\n" /* direct, vector 0x41, periodic, enabled */
	   "	.long	0x400000b1, 10000, 0\n"
	   "	.long	0\n"
	   "3:	sti\n"
	   "	hlt\n"
	   "	jmp	3b\n");

/* Errors: 1 TSC, 2 reference time went back; 3 the page disagrees with the MSR; 4 the hypercall failed. */
STATE_CODE(tick, 64,
	   "	incl	0x10(%rdi)\n"
	   "	movl	$1, %ebp\n"
	   "	rdtsc\n"
	   "	shlq	$32, %rdx\n"
	   "	orq	%rdx, %rax\n"
	   "	cmpq	0x20(%rdi), %rax\n"
	   "	jb	1f\n"
	   "	movq	%rax, 0x20(%rdi)\n"
	   "	mulq	0x32008\n"
	   "	addq	0x32010, %rdx\n"
	   "	movq	%rdx, %rbx\n" /* by the page */
	   "	movl	$0x40000020, %ecx\n"
	   "	rdmsr\n"
	   "	shlq	$32, %rdx\n"
	   "	orq	%rdx, %rax\n"
	   "	movl	$2, %ebp\n"
	   "	cmpq	0x28(%rdi), %rax\n"
	   "	jb	1f\n"
	   "	movq	%rax, 0x28(%rdi)\n"
	   "	movl	$3, %ebp\n"
	   "	cmpl	$0, 0x32000\n" /* the page says: ask the MSR */
	   "	je	3f\n"
	   "	leaq	10000(%rax), %rcx\n" /* 1 ms: KVM has another clock for the MSR while it renews the page */
	   "	subq	%rbx, %rcx\n"
	   "	cmpq	$50000000, %rcx\n"
	   "	ja	1f\n"
	   "3:	movl	$4, %ebp\n"
	   "	movl	$0x1005d, %ecx\n" /* HvCallSignalEvent, fast, on a connection that is not there */
	   "	movl	$0x7777, %edx\n"
	   "	movl	$0x30000, %eax\n"
	   "	call	*%rax\n"
	   "	cmpw	$0x12, %ax\n"
	   "	je	2f\n"
	   "1:	movl	%ebp, 0x14(%rdi)\n"
	   "	movq	%rax, 0x38(%rdi)\n"
	   "2:	movl	$0x80b, %ecx\n"
	   "	xorl	%eax, %eax\n"
	   "	xorl	%edx, %edx\n"
	   "	wrmsr\n"
	   "	iretq\n");

STATE_CODE(stimer_tick, 64,
	   "	incl	0x18(%rdi)\n"
	   "	movl	$0x80b, %ecx\n"
	   "	xorl	%eax, %eax\n"
	   "	xorl	%edx, %edx\n"
	   "	wrmsr\n"
	   "	iretq\n");

static struct partition *begin_timers(struct guest_processor processor)
{
	struct partition *p = guest_create_running(processor, 1, GUEST_LONG, timers, timers_end);

	guest_code(p, TICK_CODE, tick);
	guest_code(p, STIMER_CODE, stimer_tick);
	guest_gate(p, GUEST_LONG, 0x40, TICK_CODE);
	guest_gate(p, GUEST_LONG, 0x41, STIMER_CODE);
	return p;
}

static void wait_for_ticks(struct partition *p, uint32_t more)
{
	uint32_t apic = guest_read32(p, TICKS_APIC), stimer = guest_read32(p, TICKS_STIMER);

	guest_wait(p, TICKS_APIC, apic + more);
	guest_wait(p, TICKS_STIMER, stimer + more);
	if (guest_read32(p, TICK_ERROR))
		fail_msg("error %u (RAX %x); the reference TSC page holds sequence %u, scale %08x%08x, offset %08x%08x",
			 guest_read32(p, TICK_ERROR), guest_read32(p, GUEST_AREA + 0x38), guest_read32(p, 0x32000), guest_read32(p, 0x3200c),
			 guest_read32(p, 0x32008), guest_read32(p, 0x32014), guest_read32(p, 0x32010));
}

/* From processor to processor, until it was taken while halted, and a few times at least. */
static void move_timers(const struct pair *pair, struct partition *p)
{
	bool halted = false;

	/* How long a VP of KVM halts between ticks is the host's; on a slow one it may never be found so. */
	bool must_halt = pair->from.kind == PROCESSOR_SOFT || pair->to.kind == PROCESSOR_SOFT;

	for (unsigned hop = 0; hop < 4 || (must_halt && !halted && hop < 50); hop++) {
		struct guest_taken t;

		start(p);
		wait_for_ticks(p, 5);
		guest_take(&t, p);
		halted |= t.state->vps[0].state.activity == VP_ACTIVITY_HALTED;
		assert_true(t.state->vps[0].state.tlfs.timers[0].config & HV_STIMER_PERIODIC);
		assert_true(t.state->vps[0].state.apic.initial_count == 200000);
		rest_ms(20);
		p = guest_give(hop & 1 ? pair->from : pair->to, &t);
		/* Time goes on where it stood. */
		assert_true(partition_reference_time(p) == t.state->time / 100);
		guest_free(&t);
	}
	assert_true(halted || !must_halt);
	start(p);
	wait_for_ticks(p, 5);
	partition_destroy(p);
}

static void test_timers_and_time(void **state)
{
	const struct pair *pair = *state;

	move_timers(pair, begin_timers(pair->from));
}

/* A guest keeps the frequencies that it began with, where the processor can count so. */
static void test_clocks_of_another_frequency(void **state)
{
	static const uint64_t frequencies[] = {2894561000, 999999999, 3700000000};
	const struct pair *pair = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(frequencies); i++) {
		struct guest_taken t;
		struct partition *p;

		guest_take(&t, begin_timers(pair->from));
		t.state->tsc_frequency = frequencies[i];
		if (only_soft(pair))
			t.state->apic_frequency = frequencies[i] / 3;
		t.state->time = 5000000000;
		t.state->vps[0].state.tsc = 1ull << 50;
		p = guest_give(pair->to, &t);
		if (pair->to.kind == PROCESSOR_SOFT) {
			assert_true(clock_tsc(p) == 1ull << 50);
			assert_true(p->tlfs.config.tsc_frequency == frequencies[i]);
			assert_true(p->apic_bus.config.timer_frequency == t.state->apic_frequency);
			assert_true(clock_tsc_at(p, 5000000000 + 1000000000) - (1ull << 50) - frequencies[i] + 1 <= 1);
		}
		guest_free(&t);
		move_timers(pair, p);
	}
}

/* --- what is on its way in ------------------------------------------------------------------------------------------ */

#define HANDLER_CODE (GUEST_CODE + 0x800)

/* The area: 0 done, 4 what the code did, 8 what it had done when the handler came, 0x10 error code, 0x18 CR2,
 * 0x20 the handler's stack. */
STATE_CODE(counts, 64,
	   "	incl	4(%rdi)\n"
	   "	incl	4(%rdi)\n"
	   "1:	pause\n"
	   "	jmp	1b\n");

STATE_CODE(notes, 64,
	   "	movl	4(%rdi), %eax\n"
	   "	movl	%eax, 8(%rdi)\n"
	   "	movq	(%rsp), %rax\n"
	   "	movq	%rax, 0x10(%rdi)\n"
	   "	movq	%cr2, %rax\n"
	   "	movq	%rax, 0x18(%rdi)\n"
	   "	movq	%rsp, 0x20(%rdi)\n"
	   "	movl	$1, (%rdi)\n"
	   "1:	hlt\n"
	   "	jmp	1b\n");

/* An NMI handler's end: what it returns to, and what comes next. */
STATE_CODE(returns, 64,
	   "	incl	4(%rdi)\n"
	   "	movq	%rsp, %rax\n"
	   "	pushq	$0x10\n"
	   "	pushq	%rax\n"
	   "	pushq	$2\n"
	   "	pushq	$8+0x10\n"
	   "	leaq	1f(%rip), %rax\n"
	   "	pushq	%rax\n"
	   "	incl	4(%rdi)\n"
	   "	iretq\n"
	   "1:	incl	4(%rdi)\n"
	   "2:	pause\n"
	   "	jmp	2b\n");

static struct vp_state *begin_event(struct guest_taken *t, const struct pair *pair, const uint8_t *begin,
				    const uint8_t *end, unsigned vector)
{
	struct partition *p = guest_create_running(pair->from, 1, GUEST_LONG, begin, end);

	guest_code(p, HANDLER_CODE, notes);
	guest_gate(p, GUEST_LONG, vector, HANDLER_CODE);
	guest_take(t, p);
	return &t->state->vps[0].state;
}

/* What the code had done when the handler came. */
static uint32_t run_event(struct guest_taken *t, const struct pair *pair, uint64_t *error_code, uint64_t *cr2)
{
	struct partition *p = guest_give(pair->to, t);
	uint32_t done;

	start(p);
	guest_wait(p, GUEST_AREA, 1);
	done = guest_read32(p, GUEST_AREA + 8);
	if (error_code)
		*error_code = guest_read32(p, GUEST_AREA + 0x10);
	if (cr2)
		assert_int_equal(partition_read(p, GUEST_AREA + 0x18, cr2, 8), 0);
	partition_destroy(p);
	guest_free(t);
	return done;
}

static void test_interrupt_shadow(void **state)
{
	for (unsigned shadow = 0; shadow < 2; shadow++) {
		struct guest_taken t;
		struct vp_state *s = begin_event(&t, *state, counts, counts_end, 0x55);

		s->registers.rflags |= 1 << 9;
		s->apic.svr = 0x1ff;
		s->apic.irr[1] = 1ull << (0x55 - 64);
		s->pending.interrupt_shadow = shadow;
		/* One instruction, and no more, may pass before the interrupt. */
		assert_int_equal(run_event(&t, *state, NULL, NULL), shadow);
	}
}

static void test_nmi(void **state)
{
	struct guest_taken t;
	struct vp_state *s = begin_event(&t, *state, counts, counts_end, 2);

	s->pending.nmi = true;
	assert_int_equal(run_event(&t, *state, NULL, NULL), 0);
	/* Halted: it wakes. */
	s = begin_event(&t, *state, counts, counts_end, 2);
	s->pending.nmi = true;
	s->activity = VP_ACTIVITY_HALTED;
	assert_int_equal(run_event(&t, *state, NULL, NULL), 0);
	/* In a handler of another one: it comes when that returns. */
	s = begin_event(&t, *state, returns, returns_end, 2);
	s->pending.nmi = s->pending.nmi_blocked = true;
	assert_int_equal(run_event(&t, *state, NULL, NULL), 2);
}

static void test_events_that_were_cut_off(void **state)
{
	struct guest_taken t;
	struct vp_state *s = begin_event(&t, *state, counts, counts_end, 14);
	uint64_t code, cr2;

	s->pending.exception = s->pending.exception_has_code = true;
	s->pending.exception_vector = 14;
	s->pending.exception_code = 2;
	s->registers.cr2 = 0x123456789000;
	assert_int_equal(run_event(&t, *state, &code, &cr2), 0);
	assert_true(code == 2 && cr2 == 0x123456789000);
	s = begin_event(&t, *state, counts, counts_end, 6);
	s->pending.exception = true;
	s->pending.exception_vector = 6;
	assert_int_equal(run_event(&t, *state, &code, NULL), 0);
	assert_true(code == GUEST_CODE);
	s = begin_event(&t, *state, counts, counts_end, 0x77);
	s->pending.interrupt = true;
	s->pending.interrupt_vector = 0x77;
	assert_int_equal(run_event(&t, *state, &code, NULL), 0);
	assert_true(code == GUEST_CODE);
}

/* An event that was loaded and has not been delivered is saved again. */
static void test_events_wait_through_two_moves(void **state)
{
	const struct pair *pair = *state;
	struct guest_taken t, again;
	struct vp_state *s = begin_event(&t, pair, counts, counts_end, 13);

	s->pending.exception = s->pending.exception_has_code = true;
	s->pending.exception_vector = 13;
	s->pending.exception_code = 0x1230;
	guest_take(&again, guest_give(pair->from, &t));
	guest_free(&t);
	s = &again.state->vps[0].state;
	assert_true(s->pending.exception && s->pending.exception_has_code);
	assert_int_equal(s->pending.exception_vector, 13);
	assert_int_equal(s->pending.exception_code, 0x1230);
	assert_int_equal(run_event(&again, pair, NULL, NULL), 0);
}

/* --- INIT and SIPI ----------------------------------------------------------------------------------------------------- */

STATE_CODE(idles, 64, "1:	hlt\n	jmp	1b\n");
STATE_CODE(counts_starts, 16,
	   "	movw	$0x2100, %ax\n"
	   "	movw	%ax, %ds\n"
	   "	lock incl 0\n"
	   "1:	hlt\n"
	   "	jmp	1b\n");

#define STARTS     (GUEST_AREA + 0x1000)
#define START_PAGE 0x40u

static void send(struct partition *p, enum interrupt_delivery delivery, uint8_t vector)
{
	struct interrupt_message m = {.vector = vector, .delivery = delivery, .destination = 1};

	partition_assert_interrupt(p, &m);
}

static void test_a_vp_waits_for_sipi(void **state)
{
	const struct pair *pair = *state;
	struct partition *p = guest_create_running(pair->from, 2, GUEST_LONG, idles, idles_end);
	struct guest_taken t;

	guest_code(p, START_PAGE << 12, counts_starts);
	/* It never ran. */
	guest_take(&t, p);
	t.state->vps[1].state.activity = VP_ACTIVITY_WAITS_FOR_SIPI;
	vp_state_reset(&t.state->vps[1].state);
	t.state->vps[1].state.activity = VP_ACTIVITY_WAITS_FOR_SIPI;
	p = guest_give(pair->to, &t);
	guest_free(&t);
	start(p);
	send(p, INTERRUPT_SIPI, START_PAGE);
	guest_wait(p, STARTS, 1);
	/* INIT and SIPI have come, and it had no time to see them. */
	partition_pause(p);
	send(p, INTERRUPT_INIT, 0);
	send(p, INTERRUPT_SIPI, START_PAGE);
	guest_take(&t, p);
	assert_int_equal(t.state->vps[1].state.activity, VP_ACTIVITY_RUNNING);
	assert_int_equal(t.state->vps[1].state.registers.cs.base, START_PAGE << 12);
	p = guest_give(pair->from, &t);
	guest_free(&t);
	start(p);
	guest_wait(p, STARTS, 2);
	/* Only INIT has. */
	partition_pause(p);
	send(p, INTERRUPT_INIT, 0);
	guest_take(&t, p);
	assert_int_equal(t.state->vps[1].state.activity, VP_ACTIVITY_WAITS_FOR_SIPI);
	p = guest_give(pair->to, &t);
	guest_free(&t);
	start(p);
	rest_ms(5);
	assert_int_equal(guest_read32(p, STARTS), 2);
	send(p, INTERRUPT_SIPI, START_PAGE);
	guest_wait(p, STARTS, 3);
	partition_destroy(p);
}

/* --- messages ------------------------------------------------------------------------------------------------------------ */

#define SYNIC_READY (GUEST_AREA + 0x10)
#define SYNIC_GO    (GUEST_AREA + 4)
#define SYNIC_SUM   (GUEST_AREA + 0x18)
#define SYNIC_COUNT 3

/* SINT 2 without interrupts; reads three messages once it is told to. */
STATE_CODE(reads_messages, 64,
	   "	movl	$0x40000083, %ecx\n"
	   "	movl	$0x31001, %eax\n"
	   "	xorl	%edx, %edx\n"
	   "	wrmsr\n"
	   "	movl	$0x40000092, %ecx\n"
	   "	movl	$0x50, %eax\n"
	   "	wrmsr\n"
	   "	movl	$0x40000080, %ecx\n"
	   "	movl	$1, %eax\n"
	   "	wrmsr\n"
	   "	movl	$1, 0x10(%rdi)\n"
	   "1:	pause\n"
	   "	cmpl	$0, 4(%rdi)\n"
	   "	je	1b\n"
	   "	movl	$3, %ebx\n"
	   "2:	pause\n"
	   "	cmpl	$0, 0x31200\n"
	   "	je	2b\n"
	   "	shll	$8, 0x18(%rdi)\n"
	   "	movzbl	0x31210, %eax\n"
	   "	addl	%eax, 0x18(%rdi)\n"
	   "	movl	$0, 0x31200\n"
	   "	mfence\n"
	   "	movl	$0x40000084, %ecx\n"
	   "	xorl	%eax, %eax\n"
	   "	xorl	%edx, %edx\n"
	   "	wrmsr\n"
	   "	decl	%ebx\n"
	   "	jnz	2b\n"
	   "	movl	$1, (%rdi)\n"
	   "3:	hlt\n"
	   "	jmp	3b\n");

static void test_messages_wait(void **state)
{
	const struct pair *pair = *state;
	struct partition *p = guest_create_running(pair->from, 2, GUEST_LONG, reads_messages, reads_messages_end);
	struct guest_taken t;

	/* VP 1 does nothing, and has its SynIC disabled. */
	guest_take(&t, p);
	t.state->vps[1].state.activity = VP_ACTIVITY_HALTED;
	p = guest_give(pair->from, &t);
	guest_free(&t);
	start(p);
	guest_wait(p, SYNIC_READY, 1);
	for (uint8_t i = 1; i <= SYNIC_COUNT; i++)
		assert_int_equal(partition_post_message(p, 0, 2, 1, &i, 1), 0);
	assert_int_equal(partition_post_message(p, 1, 5, 7, "later", 5), 0);
	guest_take(&t, p);
	assert_int_equal(t.state->message_count, SYNIC_COUNT - 1 + 1);
	assert_int_equal(t.state->messages[0].payload[0], 2);
	p = guest_give(pair->to, &t);
	guest_free(&t);
	start(p);
	guest_write32(p, SYNIC_GO, 1);
	guest_wait(p, GUEST_AREA, 1);
	assert_int_equal(guest_read32(p, SYNIC_SUM), 0x010203);
	guest_take(&t, p);
	assert_int_equal(t.state->message_count, 1);
	assert_int_equal(t.state->messages[0].vp, 1);
	assert_int_equal(t.state->messages[0].sint, 5);
	assert_int_equal(t.state->messages[0].type, 7);
	assert_int_equal(t.state->messages[0].size, 5);
	assert_memory_equal(t.state->messages[0].payload, "later", 5);
	guest_free(&t);
}

/* --- CPUID ------------------------------------------------------------------------------------------------------------------ */

/* Leaf 0x80000002, leaf 1 and leaf 0xb of VP 1, into its area. */
STATE_CODE(asks_cpuid, 64,
	   "	movl	$0x80000002, %eax\n"
	   "	cpuid\n"
	   "	movl	%eax, 0x10(%rdi)\n"
	   "	movl	$1, %eax\n"
	   "	cpuid\n"
	   "	movl	%eax, 0x14(%rdi)\n"
	   "	movl	%ebx, 0x18(%rdi)\n"
	   "	movl	$0xb, %eax\n"
	   "	movl	$1, %ecx\n"
	   "	cpuid\n"
	   "	movl	%edx, 0x1c(%rdi)\n"
	   "	movl	$0x40000002, %eax\n"
	   "	cpuid\n"
	   "	movl	%eax, 0x20(%rdi)\n"
	   "	movl	$1, (%rdi)\n"
	   "1:	hlt\n"
	   "	jmp	1b\n");

static struct cpuid_entry *entry(struct guest_taken *t, uint32_t leaf, uint32_t subleaf)
{
	const struct cpuid_entry *e = cpuid_table_find(&t->state->cpuid, leaf, subleaf);

	assert_non_null(e);
	return &t->state->cpuid.entries[e - t->state->cpuid.entries];
}

static void test_a_guest_goes_on_seeing_its_cpuid(void **state)
{
	const struct pair *pair = *state;
	struct partition *p = guest_create_running(pair->from, 2, GUEST_LONG, asks_cpuid, asks_cpuid_end);
	const gpa_t area = GUEST_AREA + 0x1000;
	struct guest_taken t;

	guest_take(&t, p);
	entry(&t, 0x80000002, 0)->r[0] = 0x64636261;
	entry(&t, 1, 0)->r[0] = 0x00012345;
	entry(&t, 0x40000002, 0)->r[0] = 4711;
	p = guest_give(pair->to, &t);
	guest_free(&t);
	start(p);
	guest_wait(p, area, 1);
	assert_int_equal(guest_read32(p, area + 0x10), 0x64636261);
	assert_int_equal(guest_read32(p, area + 0x14), 0x00012345);
	/* What belongs to a VP is its own. */
	assert_int_equal(guest_read32(p, area + 0x18) >> 24, 1);
	assert_int_equal(guest_read32(p, area + 0x1c), 1);
	assert_int_equal(guest_read32(p, area + 0x20), 4711);
	partition_destroy(p);
}

/* A processor that lacks what the guest was shown says what that is, and leaves nothing behind. */
static void test_a_feature_that_is_missing_is_named(void **state)
{
	const struct pair *pair = *state;
	struct partition *p = guest_create_running(pair->from, 1, GUEST_LONG, asks_cpuid, asks_cpuid_end);
	struct guest_taken t;
	struct error err = {0};
	uint8_t *bytes;
	size_t size;

	guest_take(&t, p);
	entry(&t, 1, 0)->r[2] |= 1u << 5;
	assert_int_equal(saved_encode(t.state, &bytes, &size, &err), 0);
	guest_expect_error(guest_load(pair->to, &t, bytes, size, &p, &err), ENOTSUP, &err, "vmx");
	free(bytes);
	guest_free(&t);
}

/* SYSCALL from compatibility mode, which only AMD has. */
STATE_CODE(syscalls, 32,
	   "	syscall\n"
	   "1:	jmp	1b\n");

static void test_a_guest_of_amd_keeps_syscall(void **state)
{
	const struct pair *pair = *state;
	struct partition *p = guest_create_running(pair->from, 1, GUEST_LONG, syscalls, syscalls_end);
	struct guest_taken t;
	struct vp_state *s;

	if (pair->to.kind != PROCESSOR_SOFT) {
		partition_destroy(p);
		return;
	}
	guest_code(p, HANDLER_CODE, notes);
	guest_take(&t, p);
	memcpy(&entry(&t, 0, 0)->r[1], "Auth", 4);
	memcpy(&entry(&t, 0, 0)->r[3], "enti", 4);
	memcpy(&entry(&t, 0, 0)->r[2], "cAMD", 4);
	s = &t.state->vps[0].state;
	s->registers.cs.attributes = 0xc09b;
	s->registers.cs.selector = 8;
	for (unsigned i = 0; i < s->msr_count; i++) {
		if (s->msrs[i].index == 0xc0000081)
			s->msrs[i].value = 0x18ull << 32;
		if (s->msrs[i].index == 0xc0000083)
			s->msrs[i].value = HANDLER_CODE;
	}
	assert_int_equal(run_event(&t, pair, NULL, NULL), 0);
}

/* --------------------------------------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(void **state);
} tests[] = {
    {"computation", test_computation},
    {"a loaded state is saved the same", test_a_loaded_state_is_saved_the_same},
    {"timers and time", test_timers_and_time},
    {"clocks of another frequency", test_clocks_of_another_frequency},
    {"interrupt shadow", test_interrupt_shadow},
    {"NMI", test_nmi},
    {"events that were cut off", test_events_that_were_cut_off},
    {"events wait through two moves", test_events_wait_through_two_moves},
    {"a VP waits for SIPI", test_a_vp_waits_for_sipi},
    {"messages wait", test_messages_wait},
    {"a guest goes on seeing its CPUID", test_a_guest_goes_on_seeing_its_cpuid},
    {"a feature that is missing is named", test_a_feature_that_is_missing_is_named},
    {"a guest of AMD keeps SYSCALL", test_a_guest_of_amd_keeps_syscall},
};

#define SOFT {PROCESSOR_SOFT, NULL, true}
#define KVM  {PROCESSOR_KVM, NULL, true}
#define OWN  {PROCESSOR_KVM, "hyperv=own", true}

static struct pair pairs[] = {
    {"soft to soft", SOFT, SOFT}, {"soft to kvm", SOFT, KVM}, {"kvm to soft", KVM, SOFT}, {"kvm to kvm", KVM, KVM},
    {"soft to kvm, own Hyper-V", SOFT, OWN}, {"kvm, own Hyper-V, to soft", OWN, SOFT}, {"kvm to kvm, own Hyper-V", KVM, OWN},
    {"kvm, own Hyper-V, to kvm", OWN, KVM}};

/* An argument is a pattern of names, "soft to kvm*"; SKIP in the environment one of what to leave out. */
int main(int argc, char **argv)
{
	static char names[ARRAY_SIZE(pairs) * ARRAY_SIZE(tests)][96];
	static struct CMUnitTest all[ARRAY_SIZE(pairs) * ARRAY_SIZE(tests)];
	unsigned possible = guest_is_possible((struct guest_processor)KVM) ? ARRAY_SIZE(pairs) : 1, count = 0;

	if (getenv("SKIP"))
		cmocka_set_skip_filter(getenv("SKIP"));
	for (unsigned i = 0; i < possible; i++)
		for (unsigned j = 0; j < ARRAY_SIZE(tests); j++, count++) {
			snprintf(names[count], sizeof(names[count]), "%s: %s", pairs[i].name, tests[j].name);
			all[count] = (struct CMUnitTest){
			    .name = names[count], .test_func = tests[j].run, .initial_state = &pairs[i]};
		}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return _cmocka_run_group_tests("saved_state", all, count, NULL, NULL);
}
