// SPDX-License-Identifier: GPL-2.0-or-later
/* Interrupts, NMIs, traps, double and triple faults, HLT, and what a host asks of a VP while it runs. */
#include "tests/double/soft_machine.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "base/base.h"

/* --- interrupts ------------------------------------------------------------------------------------------------------ */

GUEST_CODE(wait_interrupt, 64,
    "xor %eax, %eax\n"
    "1: inc %rax\n"
    "out %al, $0x80\n"
    "jmp 1b");

static void raise_after_three(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	(void)port;
	if (value == 3) {
		atomic_store(&m->interrupt, 0x60);
		soft_vp_notify(soft_vp(m->soft, vp));
	}
}

static void interrupt_when_enabled(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, wait_interrupt);
	m->on_out = raise_after_three;
	r = machine_registers(m, 0);
	r.rflags |= 0x200;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x60);
	assert_int_equal(r.gpr[0], 3);
	assert_int_equal(r.rflags & 0x200, 0);
	assert_true(machine_read64(m, r.gpr[4] + 16) & 0x200);
	soft_machine_destroy(m);
}

/* STI lets one more instruction run; so does a load of SS. */
GUEST_CODE(shadows, 64,
    "sti\n"
    "inc %eax\n"
    "inc %ebx\n"
    "hlt");

static void interrupt_shadow(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;
	uint64_t place = MACHINE_CODE;

	(void)state;
	/* In one block, and with STI as the last of its page. */
	for (unsigned i = 0; i < 2; i++, place += 0xfff) {
		machine_long(m, 0);
		machine_code(m, place, shadows);
		atomic_store(&m->interrupt, 0x60);
		r = machine_registers(m, 0);
		r.rip = place;
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), 0x60);
		assert_int_equal(r.gpr[0], 1);
		assert_int_equal(machine_read64(m, r.gpr[4]), place + 3);
	}
	soft_machine_destroy(m);
}

/* An interrupt that comes at any time comes not behind a load of SS (at 5, two bytes long): R12 counts those that did. */
GUEST_CODE(loads_ss, 64,
    "mov $0x10, %eax\n"
    "1: mov %eax, %ss\n"
    "incl 0x20000\n"
    "jmp 1b");
GUEST_CODE(looks_where, 64,
    "cmpq $0x10007, (%rsp)\n"
    "jne 1f\n"
    "inc %r12d\n"
    "1: inc %r13d\n"
    "iretq");

#define INTERRUPTS 1000u

static void *run_until_stop(void *argument)
{
	struct soft_machine *m = argument;

	return (void *)(uintptr_t)soft_vp_run(soft_vp(m->soft, 0));
}

static uint32_t guest_read32(struct soft_machine *m, uint64_t gpa)
{
	return __atomic_load_n((uint32_t *)(void *)(m->ram + gpa), __ATOMIC_ACQUIRE);
}

static void shadow_at_any_time(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;
	pthread_t thread;
	void *stop;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, loads_ss);
	machine_code(m, 0x12000, looks_where);
	machine_gate64(m, 0x60, 0x8e, SEL_CODE64, 0x12000, 0);
	r = machine_registers(m, 0);
	r.rflags |= 0x200;
	machine_set_registers(m, 0, &r);
	pthread_create(&thread, NULL, run_until_stop, m);
	for (unsigned i = 0; i < INTERRUPTS; i++) {
		uint32_t before = guest_read32(m, 0x20000);

		while (guest_read32(m, 0x20000) == before)
			sched_yield();
		atomic_store(&m->interrupt, 0x60);
		soft_vp_notify(soft_vp(m->soft, 0));
		while (atomic_load(&m->interrupt) >= 0)
			sched_yield();
	}
	soft_vp_kick(soft_vp(m->soft, 0));
	pthread_join(thread, &stop);
	assert_int_equal((uintptr_t)stop, SOFT_STOP_KICK);
	r = machine_registers(m, 0);
	assert_in_range(r.gpr[13], INTERRUPTS - 1, INTERRUPTS);
	assert_int_equal(r.gpr[12], 0);
	soft_machine_destroy(m);
}

/* Every way round hears of a kick. Each counts at 0x20000. */
GUEST_CODE(round_jump, 64, "1: incl 0x20000\njmp 1b");
GUEST_CODE(round_call, 64, "1: call 2f\njmp 1b\n2: incl 0x20000\nret");
GUEST_CODE(round_register, 64, "lea 1f(%rip), %rax\n1: incl 0x20000\njmp *%rax");
GUEST_CODE(round_recursion, 64, "1: mov $0x9000, %esp\nincl 0x20000\ncall 1b");
GUEST_CODE(round_return, 64, "lea 1f(%rip), %rax\n1: incl 0x20000\npush %rax\nret");
GUEST_CODE(round_pages, 64, "1: incl 0x20000\njmp 2f\n.fill 4096, 1, 0x90\n2: jmp 1b");
GUEST_CODE(round_count, 64, "1: incl 0x20000\nxor %ecx, %ecx\njrcxz 1b");
GUEST_CODE(round_iret, 64,
    "lea 1f(%rip), %rax\n"
    "1: incl 0x20000\n"
    "mov $0x9000, %esp\n"
    "push $0x10\n"
    "push $0x9000\n"
    "push $2\n"
    "push $0x18\n"
    "push %rax\n"
    "iretq");

static void every_way_round_hears_of_a_kick(void **state)
{
	static const struct {
		const uint8_t *begin, *end;
	} ways[] = {
	    {round_jump, round_jump_end},           {round_call, round_call_end},     {round_register, round_register_end},
	    {round_recursion, round_recursion_end}, {round_return, round_return_end}, {round_pages, round_pages_end},
	    {round_count, round_count_end},         {round_iret, round_iret_end},
	};
	struct soft_machine *m = soft_machine_create(1);
	pthread_t thread;
	void *stop;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		machine_long(m, 0);
		machine_put(m, MACHINE_CODE, ways[i].begin, ways[i].end);
		for (unsigned kicks = 0; kicks < 5; kicks++) {
			uint32_t before = guest_read32(m, 0x20000);

			pthread_create(&thread, NULL, run_until_stop, m);
			while (guest_read32(m, 0x20000) - before < 200)
				sched_yield();
			soft_vp_kick(soft_vp(m->soft, 0));
			pthread_join(thread, &stop);
			assert_int_equal((uintptr_t)stop, SOFT_STOP_KICK);
		}
	}
	soft_machine_destroy(m);
}

/* The window between STI and CLI is one instruction wide. */
GUEST_CODE(window, 64,
    "sti\n"
    "nop\n"
    "cli\n"
    "inc %eax\n"
    "hlt");

static void interrupt_window(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, window);
	atomic_store(&m->interrupt, 0x60);
	r = machine_registers(m, 0);
	r.gpr[0] = 0;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x60);
	assert_int_equal(machine_read64(m, r.gpr[4]), MACHINE_CODE + 2);
	soft_machine_destroy(m);
}

GUEST_CODE(halt, 64,
    "sti\n"
    "hlt\n"
    "mov $7, %eax\n"
    "cli\n"
    "hlt");
GUEST_CODE(handler_iret, 64, "inc %ebx\niretq");

static void halt_until_interrupt(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, halt);
	machine_code(m, 0x12000, handler_iret);
	machine_gate64(m, 0x61, 0x8e, SEL_CODE64, 0x12000, 0);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0);
	assert_true(soft_vp_interruptible(soft_vp(m->soft, 0)));
	/* Run again for nothing: it stays halted. */
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0);
	soft_vp_kick(soft_vp(m->soft, 0));
	assert_int_equal(soft_vp_run(soft_vp(m->soft, 0)), SOFT_STOP_KICK);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0);
	atomic_store(&m->interrupt, 0x61);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 7);
	assert_int_equal(r.gpr[3], 1);
	assert_false(soft_vp_interruptible(soft_vp(m->soft, 0)));
	soft_machine_destroy(m);
}

GUEST_CODE(nmi_handler, 64,
    "inc %ebx\n"
    "out %al, $0x81\n" /* a second one is pended here */
    "nop\n"
    "mov %ebx, %ecx\n"
    "iretq");

static void second_nmi(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	(void)value;
	if (port == 0x81 && atomic_load(&m->out_count) == 1)
		soft_vp_nmi(soft_vp(m->soft, vp));
}

static void nmi_does_not_nest(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, halt);
	machine_code(m, 0x12000, nmi_handler);
	machine_gate64(m, 2, 0x8e, SEL_CODE64, 0x12000, 0);
	m->on_out = second_nmi;
	soft_vp_nmi(soft_vp(m->soft, 0));
	r = machine_run(m, 0);
	/* Both came, the second after the IRET of the first. */
	assert_int_equal(atomic_load(&m->out_count), 2);
	assert_int_equal(r.gpr[3], 2);
	assert_int_equal(r.gpr[4], MACHINE_STACK);
	soft_machine_destroy(m);
}

/* --- faults in faults -------------------------------------------------------------------------------------------------- */

GUEST_CODE(divide, 64, "xor %ecx, %ecx\ndiv %ecx");

static void double_and_triple_fault(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, divide);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0);
	/* #DE whose gate is not present: #NP in #DE makes a double fault, with error code 0. */
	machine_gate64(m, 0, 0x0e, SEL_CODE64, MACHINE_STOPS, 0);
	r.rip = MACHINE_CODE;
	r.gpr[4] = MACHINE_STACK;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 8);
	assert_int_equal(machine_read64(m, r.gpr[4]), 0);
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), MACHINE_CODE + 2);
	/* No gate for that one either. */
	machine_gate64(m, 8, 0x0e, SEL_CODE64, MACHINE_STOPS, 0);
	r.rip = MACHINE_CODE;
	machine_set_registers(m, 0, &r);
	assert_int_equal(soft_vp_run(soft_vp(m->soft, 0)), SOFT_STOP_TRIPLE_FAULT);
	assert_int_equal(machine_registers(m, 0).rip, MACHINE_CODE + 2);
	/* And it stays so. */
	assert_int_equal(soft_vp_run(soft_vp(m->soft, 0)), SOFT_STOP_TRIPLE_FAULT);
	soft_machine_destroy(m);
}

GUEST_CODE(bad_stack, 64, "mov $0x700000, %esp\nint3");

static void page_fault_on_the_stack(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, bad_stack);
	*machine_pte(m, 0x6ff000) = 0;
	/* #BP, then #PF on its frame, then #PF again: a double fault, which has a stack of its own. */
	machine_write64(m, MACHINE_TSS + 0x24, 0xb000);
	machine_gate64(m, 8, 0x8e, SEL_CODE64, MACHINE_STOPS + 16 * 8, 1);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 8);
	assert_int_equal(r.gpr[4], 0xb000 - 48);
	assert_in_range(r.cr2, 0x6ff000, 0x6fffff);
	/* Breakpoints are traps, but the frame never got written: RIP is that of INT3. */
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), MACHINE_CODE + 5);
	soft_machine_destroy(m);
}

/* --- single step and breakpoints ------------------------------------------------------------------------------------------ */

GUEST_CODE(stepped, 64,
    "pushf\n"
    "orl $0x100, (%rsp)\n"
    "popf\n"
    "inc %eax\n"
    "mov $3, %ecx\n"
    "lea 0x600000, %rdi\n"
    "rep stosb\n"
    "pushf\n"
    "andl $0xfffffeff, (%rsp)\n"
    "popf\n"
    "inc %eax\n"
    "hlt");
GUEST_CODE(step_handler, 64,
    "incl 0x20000\n"
    "push %rbx\n"
    "mov 0x20000, %ebx\n"
    "push %rax\n"
    "mov 16(%rsp), %rax\n"
    "mov %eax, 0x20000(,%rbx,4)\n"
    "pop %rax\n"
    "pop %rbx\n"
    "iretq");

static void single_step(void **state)
{
	/* After INC, MOV, LEA, each of three rounds of STOSB, PUSHF, AND, POPF. */
	static const uint16_t after[] = {0xb, 0x10, 0x18, 0x18, 0x18, 0x1a, 0x1b, 0x22, 0x23};
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, stepped);
	machine_code(m, 0x12000, step_handler);
	machine_gate64(m, 1, 0x8e, SEL_CODE64, 0x12000, 0);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 2);
	assert_int_equal(machine_read32(m, 0x20000), ARRAY_SIZE(after));
	for (unsigned i = 0; i < ARRAY_SIZE(after); i++)
		assert_int_equal(machine_read32(m, 0x20004 + 4 * i), MACHINE_CODE + after[i]);
	soft_machine_destroy(m);
}

/* No trap after MOV to SS, but after the instruction behind it; LSS has one of its own. */
GUEST_CODE(stepped_stack, 64,
    "mov %ss, %edx\n"
    "movl $0x30000, 0x600000\n"
    "mov %dx, 0x600004\n"
    "mov %rsp, %rbp\n"
    "pushf\n"
    "orl $0x100, (%rsp)\n"
    "popf\n"
    "mov %edx, %ss\n"        /* 0x22 */
    "inc %eax\n"             /* 0x24 */
    "lss 0x600000, %esp\n"   /* 0x26 */
    "mov %rbp, %rsp\n"       /* 0x2e */
    "pushf\n"
    "andl $0xfffffeff, (%rsp)\n"
    "popf\n"
    "hlt");

static void single_step_past_the_stack(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;
	unsigned count;
	uint32_t first;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, stepped_stack);
	machine_code(m, 0x12000, step_handler);
	machine_gate64(m, 1, 0x8e, SEL_CODE64, 0x12000, 0);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[0], 1);
	count = machine_read32(m, 0x20000);
	first = machine_read32(m, 0x20004);
	/* INC, LSS, MOV, PUSHF, AND, POPF. */
	assert_int_equal(count, 6);
	assert_memory_equal(m->ram + first - 2, "\xff\xc0", 2);
	assert_int_equal(machine_read32(m, 0x20008) - first, 8);
	soft_machine_destroy(m);
}

/* DR0 on an instruction, DR1 on a write. */
GUEST_CODE(breakpoints, 64,
    "mov $0x11000, %eax\n"
    "mov %rax, %dr0\n"
    "mov $0x600004, %eax\n"
    "mov %rax, %dr1\n"
    "mov $0x00d0000a, %eax\n" /* DR1: write, 4 bytes, global; DR0 global */
    "mov %rax, %dr7\n"
    "mov %eax, 0x600000\n"
    "mov 0x600004, %ecx\n"
    "mov %eax, 0x600002\n"
    "hlt");

static void data_and_instruction_breakpoints(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, breakpoints);
	r = machine_run(m, 0);
	/* A trap after the store that overlaps. */
	assert_int_equal(machine_vector(&r), 1);
	assert_int_equal(machine_read64(m, r.gpr[4]), MACHINE_CODE + (uint64_t)(breakpoints_end - breakpoints) - 1);
	/* The instruction breakpoint is a fault before it, and RF in its frame lets it pass. */
	machine_long(m, 0);
	m->ram[0x11000] = 0x90;
	m->ram[0x11001] = 0xf4;
	soft_memory_written(m->soft, 0x11000, 2);
	machine_code(m, MACHINE_CODE, breakpoints);
	memcpy(m->ram + MACHINE_CODE + 24, "\xb8\x00\x10\x01\x00\xff\xe0", 7); /* mov $0x11000, %eax; jmp *%rax */
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 1);
	assert_int_equal(machine_read64(m, r.gpr[4]), 0x11000);
	assert_true(machine_read64(m, r.gpr[4] + 16) & 0x10000);
	m->ram[MACHINE_STOPS + 16] = 0x48; /* the handler becomes IRETQ */
	m->ram[MACHINE_STOPS + 17] = 0xcf;
	soft_memory_written(m->soft, MACHINE_STOPS, 32);
	r.rip = MACHINE_STOPS + 16;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(r.rip, 0x11002);
	soft_machine_destroy(m);
}

/* DR0 on what SS is loaded from. */
#define LOAD_SS                        \
	"mov $0x600000, %eax\n"        \
	"mov %rax, %dr0\n"             \
	"mov $0x00070002, %eax\n"      \
	"mov %rax, %dr7\n"             \
	"mov 0x600000, %ss\n"
GUEST_CODE(breaks_at_ss, 64, LOAD_SS "inc %ecx\ninc %ecx\nhlt");
GUEST_CODE(breaks_at_ss_and_int1, 64, LOAD_SS ".byte 0xf1\nhlt");
GUEST_CODE(breaks_at_ss_and_int, 64, LOAD_SS "int $1\nhlt");
GUEST_CODE(counts_debug_exceptions, 64,
    "inc %r8d\n"
    "mov (%rsp), %r9\n"
    "mov %ecx, %r10d\n"
    "mov %dr6, %rbx\n"
    "iretq\n");

static struct vp_registers run_debugged(struct soft_machine *m, const uint8_t *begin, const uint8_t *end)
{
	struct vp_registers r;

	machine_long(m, 0);
	machine_put(m, MACHINE_CODE, begin, end);
	machine_code(m, 0x11000, counts_debug_exceptions);
	machine_gate64(m, 1, 0x8e, SEL_CODE64, 0x11000, 0);
	machine_write32(m, 0x600000, SEL_DATA);
	r = machine_registers(m, 0);
	r.gpr[1] = r.gpr[8] = 0;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	return r;
}

/* SDM volume 3, 6.8.3. */
static void breakpoint_waits_behind_a_load_of_ss(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	r = run_debugged(m, breaks_at_ss, breaks_at_ss_end);
	assert_int_equal(r.gpr[8], 1);
	assert_int_equal(r.gpr[9], MACHINE_CODE + (uint64_t)(breaks_at_ss_end - breaks_at_ss) - 3);
	assert_int_equal(r.gpr[10], 1);
	assert_int_equal(r.gpr[3] & 0xf, 1);
	/* One with INT1, another one in the handler of INT. */
	r = run_debugged(m, breaks_at_ss_and_int1, breaks_at_ss_and_int1_end);
	assert_int_equal(r.gpr[8], 1);
	assert_int_equal(r.gpr[9], MACHINE_CODE + (uint64_t)(breaks_at_ss_and_int1_end - breaks_at_ss_and_int1) - 1);
	assert_int_equal(r.gpr[3] & 0xf, 1);
	r = run_debugged(m, breaks_at_ss_and_int, breaks_at_ss_and_int_end);
	assert_int_equal(r.gpr[8], 2);
	soft_machine_destroy(m);
}

GUEST_CODE(unaligned, 64,
    "pushf\n"
    "orl $0x40000, (%rsp)\n"
    "popf\n"
    "mov 0x600008, %eax\n"
    "mov 0x600001, %al\n"
    "mov 0x600002, %eax\n"
    "hlt");

static void alignment_check(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, unaligned);
	r = machine_registers(m, 0);
	r.cr0 |= 0x40000;
	r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER64, .attributes = 0xa0fb};
	r.ss = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
	r.gpr[4] = MACHINE_STACK3;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 17);
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), MACHINE_CODE + 9 + 7 + 7);
	soft_machine_destroy(m);
}

/* --- ports, MSRs, hypercalls ------------------------------------------------------------------------------------------------- */

GUEST_CODE(user_ports, 64,
    "in $0x40, %al\n"
    "in $0x41, %al\n"
    "hlt");

static void io_permission_bitmap(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, user_ports);
	machine_write32(m, MACHINE_TSS + 100, 104 << 16);
	memset(m->ram + MACHINE_TSS + 104, 0xff, 100);
	m->ram[MACHINE_TSS + 104 + 8] = 0xfe;
	r = machine_registers(m, 0);
	r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER64, .attributes = 0xa0fb};
	r.ss = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), MACHINE_CODE + 2);
	assert_int_equal(r.gpr[0], 0x40);
	soft_machine_destroy(m);
}

GUEST_CODE(strings, 64,
    "mov $0x600000, %edi\n"
    "mov $3, %ecx\n"
    "mov $0x71, %edx\n"
    "rep insb\n"
    "mov $0x600000, %esi\n"
    "mov $2, %ecx\n"
    "mov $0x72, %edx\n"
    "rep outsw\n"
    "hlt");

static void string_ports(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, strings);
	r = machine_run(m, 0);
	assert_int_equal(machine_read32(m, 0x600000), 0x717171);
	assert_int_equal(atomic_load(&m->out_count), 2);
	assert_int_equal(m->out[0], 0x7171);
	assert_int_equal(m->out[1], 0x0071);
	assert_int_equal(m->out_port[1], 0x72);
	assert_int_equal(r.gpr[6], 0x600004);
	assert_int_equal(r.gpr[1], 0);
	soft_machine_destroy(m);
}

GUEST_CODE(machine_state, 64,
    "mov $0x40000000, %ecx\n"
    "rdmsr\n"
    "mov %eax, %ebx\n"
    "mov $0x11, %ecx\n"
    "mov $0x22, %edx\n"
    "mov $0x33, %r8d\n"
    "vmcall\n"
    "mov %rax, %rsi\n"
    "mov $9, %eax\n"
    "mov %rax, %cr8\n"
    "mov %cr8, %rdi\n"
    "mov $0xdead, %ecx\n"
    "vmcall");

static void calls_to_the_host(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, machine_state);
	r = machine_run(m, 0);
	/* The last hypercall is none: #UD. */
	assert_int_equal(machine_vector(&r), 6);
	assert_int_equal(r.gpr[3], 0x55667788);
	assert_int_equal(m->hypercall_input, 0x11);
	assert_int_equal(r.gpr[6], 0x55);
	assert_int_equal(r.gpr[7], 9);
	assert_int_equal(atomic_load(&m->cr8), 9);
	soft_machine_destroy(m);
}

GUEST_CODE(unknown_msr, 64, "mov $0x12345, %ecx\nrdmsr");

static void unknown_msr_faults(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, unknown_msr);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	soft_machine_destroy(m);
}

/* Control register bits that must not be set, and CPUID that says so. */
GUEST_CODE(reserved_cr4, 64, "mov %cr4, %rax\nbts $12, %rax\nmov %rax, %cr4");
GUEST_CODE(leave_long, 64, "mov %cr0, %rax\nbtr $31, %rax\nmov %rax, %cr0");

static void control_register_checks(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, reserved_cr4);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, leave_long);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_true(r.cr0 >> 31);
	soft_machine_destroy(m);
}

static void registers_no_processor_can_have(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers good, r;

	(void)state;
	machine_long(m, 0);
	good = machine_registers(m, 0);
	r = good;
	r.efer &= ~0x400ull;
	assert_true(soft_vp_set_registers(soft_vp(m->soft, 0), &r) < 0);
	r = good;
	r.cr4 = 0;
	assert_true(soft_vp_set_registers(soft_vp(m->soft, 0), &r) < 0);
	r = good;
	r.cr0 &= ~1ull;
	assert_true(soft_vp_set_registers(soft_vp(m->soft, 0), &r) < 0);
	r = good;
	r.rip = 1ull << 47;
	assert_true(soft_vp_set_registers(soft_vp(m->soft, 0), &r) < 0);
	assert_int_equal(soft_vp_set_registers(soft_vp(m->soft, 0), &good), 0);
	soft_machine_destroy(m);
}

static void options_and_limits(void **state)
{
	struct soft *soft;
	struct soft_host host = {0};
	struct error err = {0};

	(void)state;
	assert_true(soft_create(&soft, &host, NULL, 1, "fast", &err) < 0);
	assert_non_null(strstr(err.text, "fast"));
	assert_true(soft_create(&soft, &host, NULL, 0, NULL, &err) < 0);
	assert_true(soft_create(&soft, &host, NULL, 65, NULL, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(interrupt_when_enabled),
	    cmocka_unit_test(interrupt_shadow),
	    cmocka_unit_test(shadow_at_any_time),
	    cmocka_unit_test(every_way_round_hears_of_a_kick),
	    cmocka_unit_test(interrupt_window),
	    cmocka_unit_test(halt_until_interrupt),
	    cmocka_unit_test(nmi_does_not_nest),
	    cmocka_unit_test(double_and_triple_fault),
	    cmocka_unit_test(page_fault_on_the_stack),
	    cmocka_unit_test(single_step),
	    cmocka_unit_test(single_step_past_the_stack),
	    cmocka_unit_test(data_and_instruction_breakpoints),
	    cmocka_unit_test(breakpoint_waits_behind_a_load_of_ss),
	    cmocka_unit_test(alignment_check),
	    cmocka_unit_test(io_permission_bitmap),
	    cmocka_unit_test(string_ports),
	    cmocka_unit_test(calls_to_the_host),
	    cmocka_unit_test(unknown_msr_faults),
	    cmocka_unit_test(control_register_checks),
	    cmocka_unit_test(registers_no_processor_can_have),
	    cmocka_unit_test(options_and_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
