// SPDX-License-Identifier: GPL-2.0-or-later
/* Real, protected, compatibility, virtual-8086 and long mode of the software processor, and the ways between. */
#include "tests/double/soft_machine.h"

#include <string.h>

#include "base/base.h"

/* --- from reset to 64-bit code ---------------------------------------------------------------------------------- */

GUEST_CODE(climb_real, 16,
    "cli\n"
    "xor %ax, %ax\n"
    "mov %ax, %ds\n"
    "lgdtl 0x7000\n"
    "mov %cr0, %eax\n"
    "or $1, %eax\n"
    "mov %eax, %cr0\n"
    "ljmpl $0x08, $0x11000");

GUEST_CODE(climb_protected, 32,
    "mov $0x10, %eax\n"
    "mov %eax, %ds\n"
    "mov %eax, %es\n"
    "mov %eax, %ss\n"
    "mov $0x9000, %esp\n"
    "mov %cr4, %eax\n"
    "or $0x20, %eax\n"
    "mov %eax, %cr4\n"
    "mov $0x100000, %eax\n"
    "mov %eax, %cr3\n"
    "mov $0xc0000080, %ecx\n"
    "rdmsr\n"
    "or $0x900, %eax\n"
    "wrmsr\n"
    "mov %cr0, %eax\n"
    "or $0x80000000, %eax\n"
    "mov %eax, %cr0\n"
    "rdmsr\n"
    "mov %eax, %esi\n" /* LMA in compatibility mode */
    "ljmp $0x18, $0x12000");

GUEST_CODE(climb_long, 64,
    "movabs $0x1122334455667788, %rax\n"
    "push %rax\n"
    "pop %rbx\n"
    "lea 0x10(%rip), %rdi\n"
    "mov %cs, %ecx\n"
    "hlt");

static void reset_to_long(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0); /* builds the tables */
	machine_real(m, 0);
	m->ram[0x7000] = SEL_LAST - 1;
	machine_write32(m, 0x7002, MACHINE_GDT);
	machine_code(m, MACHINE_CODE, climb_real);
	machine_code(m, 0x11000, climb_protected);
	machine_code(m, 0x12000, climb_long);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[3], 0x1122334455667788);
	assert_int_equal(r.gpr[1], SEL_CODE64);
	assert_int_equal(r.gpr[6], 0xd00);
	assert_int_equal(r.efer, 0xd00);
	assert_int_equal(r.gpr[4], MACHINE_STACK);
	/* After movabs (10), push, pop, lea (7) comes what LEA counts from. */
	assert_int_equal(r.gpr[7], 0x12000 + 10 + 1 + 1 + 7 + 0x10);
	soft_machine_destroy(m);
}

/* --- real mode ---------------------------------------------------------------------------------------------------- */

GUEST_CODE(real_interrupt, 16,
    "mov $0x1234, %ax\n"
    "sti\n"
    "nop\n"
    "int $0x40\n"
    "hlt");

static void real_mode_interrupt(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_real(m, 0);
	machine_code(m, MACHINE_CODE, real_interrupt);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x40);
	assert_int_equal(r.gpr[4], MACHINE_STACK - 6);
	assert_int_equal(r.rflags & 0x200, 0);
	/* IP after INT, CS, FLAGS with IF. */
	assert_int_equal(machine_read32(m, MACHINE_STACK - 6), 7 | MACHINE_CODE >> 4 << 16);
	assert_int_equal(machine_read32(m, MACHINE_STACK - 2) & 0xffff, 0x202);
	soft_machine_destroy(m);
}

GUEST_CODE(real_far, 16,
    "mov $0x2000, %ax\n"
    "mov %ax, %es\n"
    "mov $0xbeef, %ax\n"
    "mov %ax, %es:0x0010\n"
    "lcall $0x1100, $0x0020\n"
    "mov $0x9abc, %cx\n"
    "hlt");
GUEST_CODE(real_far_target, 16,
    "mov %cs, %bx\n"
    "pushf\n"
    "pop %dx\n"
    "lret");

static void real_mode_far_calls(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_real(m, 0);
	machine_code(m, MACHINE_CODE, real_far);
	machine_code(m, 0x11020, real_far_target);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[3] & 0xffff, 0x1100);
	assert_int_equal(r.gpr[1] & 0xffff, 0x9abc);
	assert_int_equal(r.gpr[4], MACHINE_STACK);
	assert_int_equal(machine_read32(m, 0x20010) & 0xffff, 0xbeef);
	soft_machine_destroy(m);
}

GUEST_CODE(real_limit, 16,
    "mov $0xffff, %bx\n"
    "mov (%bx), %ax\n"
    "hlt");

static void real_mode_segment_limit(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_real(m, 0);
	machine_code(m, MACHINE_CODE, real_limit);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	/* No error code in real mode; the frame names the faulting instruction. */
	assert_int_equal(r.gpr[4], MACHINE_STACK - 6);
	assert_int_equal(machine_read32(m, MACHINE_STACK - 6) & 0xffff, 3);
	soft_machine_destroy(m);
}

/* A 32-bit segment that stays when PE is cleared: "unreal" mode. */
GUEST_CODE(unreal, 16,
    "cli\n"
    "xor %ax, %ax\n"
    "mov %ax, %ds\n"
    "lgdtl 0x7000\n"
    "mov %cr0, %eax\n"
    "or $1, %al\n"
    "mov %eax, %cr0\n"
    "mov $0x10, %bx\n"
    "mov %bx, %ds\n"
    "and $0xfe, %al\n"
    "mov %eax, %cr0\n"
    "mov $0x123456, %ebx\n"
    "movl $0xcafe, (%ebx)\n"
    "hlt");

static void unreal_mode(void **state)
{
	struct soft_machine *m = soft_machine_create(1);

	(void)state;
	machine_protected(m, 0);
	machine_real(m, 0);
	m->ram[0x7000] = SEL_LAST - 1;
	machine_write32(m, 0x7002, MACHINE_GDT);
	machine_code(m, MACHINE_CODE, unreal);
	machine_run(m, 0);
	assert_int_equal(machine_read32(m, 0x123456), 0xcafe);
	soft_machine_destroy(m);
}

/* --- protected mode: levels ------------------------------------------------------------------------------------------ */

/* To level 3 by IRET, and back by a software interrupt. */
GUEST_CODE(to_user, 32,
    "pushl $0x3b\n"
    "pushl $0xa000\n"
    "pushl $0x3202\n"
    "pushl $0x33\n"
    "pushl $0x11000\n"
    "iretl");
GUEST_CODE(user_int, 32,
    "mov %cs, %eax\n"
    "mov %ss, %ebx\n"
    "mov %ds, %ecx\n" /* the level 0 data segment is gone */
    "int $0x50\n"
    "hlt");

static void levels_by_iret_and_int(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, to_user);
	machine_code(m, 0x11000, user_int);
	machine_gate32(m, 0x50, 0xee, SEL_CODE32, (uint32_t)MACHINE_STOPS + 0x500);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x50);
	assert_int_equal(r.gpr[0], SEL_USER32);
	assert_int_equal(r.gpr[3], SEL_USER_DATA);
	assert_int_equal(r.gpr[1], 0);
	assert_int_equal(r.cs.selector, SEL_CODE32);
	/* The frame on the stack that the TSS names: EIP CS EFLAGS ESP SS. */
	assert_int_equal(r.gpr[4], MACHINE_STACK - 0x400 - 20);
	assert_int_equal(machine_read32(m, r.gpr[4]), 0x11000 + 8);
	assert_int_equal(machine_read32(m, r.gpr[4] + 4), SEL_USER32);
	assert_int_equal(machine_read32(m, r.gpr[4] + 8), 0x3202);
	assert_int_equal(machine_read32(m, r.gpr[4] + 12), 0xa000);
	assert_int_equal(machine_read32(m, r.gpr[4] + 16), SEL_USER_DATA);
	soft_machine_destroy(m);
}

GUEST_CODE(user_privileged, 32, "hlt");

static void privileged_at_level_3(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, to_user);
	machine_code(m, 0x11000, user_privileged);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_int_equal(machine_read32(m, r.gpr[4]), 0);
	assert_int_equal(machine_read32(m, r.gpr[4] + 4), 0x11000);
	/* A gate below level 3 is not for INT n: #GP with the vector. */
	m->ram[0x11000] = 0xcd;
	m->ram[0x11001] = 0x51;
	soft_memory_written(m->soft, 0x11000, 2);
	machine_protected(m, 0);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_int_equal(machine_read32(m, r.gpr[4]), 0x51 * 8 + 2);
	soft_machine_destroy(m);
}

/* A call gate with two parameters, and the far return over them. */
GUEST_CODE(user_gate, 32,
    "pushl $0x1111\n"
    "pushl $0x2222\n"
    "lcall $0x63, $0\n"
    "mov %esp, %ebp\n"
    "int $0x50");
GUEST_CODE(gate_target, 32,
    "mov 8(%esp), %eax\n"
    "mov 12(%esp), %ebx\n"
    "mov %cs, %ecx\n"
    "lret $8");

static void call_gate(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, to_user);
	machine_code(m, 0x11000, user_gate);
	machine_code(m, 0x12000, gate_target);
	machine_gate32(m, 0x50, 0xee, SEL_CODE32, (uint32_t)MACHINE_STOPS + 0x500);
	machine_write64(m, MACHINE_GDT + SEL_FREE, 0x0001ec0200082000);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x50);
	assert_int_equal(r.gpr[0], 0x2222);
	assert_int_equal(r.gpr[3], 0x1111);
	assert_int_equal(r.gpr[1], SEL_CODE32);
	assert_int_equal(r.gpr[5], MACHINE_STACK3); /* the parameters are gone from the outer stack too */
	assert_int_equal(machine_read32(m, r.gpr[4] + 4), SEL_USER32);
	soft_machine_destroy(m);
}

/* --- protected mode: segments ------------------------------------------------------------------------------------------ */

/* AX: selector of DS; EBX: offset that is read (and written when ECX is not 0). */
GUEST_CODE(touch, 32,
    "mov %eax, %ds\n"
    "mov (%ebx), %edx\n"
    "jecxz 1f\n"
    "mov %edx, (%ebx)\n"
    "1: hlt");

static struct vp_registers touch_segment(struct soft_machine *m, uint16_t selector, uint32_t offset, bool write)
{
	struct vp_registers r;

	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, touch);
	machine_write64(m, MACHINE_GDT + SEL_FREE + 8, 0);
	machine_descriptor(m, SEL_FREE, 0x20000, 0xfff, 0x93, 4);        /* data, up */
	machine_descriptor(m, SEL_FREE + 8, 0x20000, 0xfff, 0x97, 4);    /* data, down */
	machine_descriptor(m, SEL_FREE + 0x10, 0x20000, 0xfff, 0x91, 4); /* data, read only */
	machine_descriptor(m, SEL_FREE + 0x18, 0x20000, 0xfff, 0x99, 4); /* code, execute only */
	machine_descriptor(m, SEL_FREE + 0x20, 0x20000, 0xfff, 0x13, 4); /* not present */
	r = machine_registers(m, 0);
	r.gpr[0] = selector;
	r.gpr[3] = offset;
	r.gpr[1] = write;
	machine_set_registers(m, 0, &r);
	return machine_run(m, 0);
}

static void assert_fault(struct soft_machine *m, struct vp_registers r, int vector, uint32_t code)
{
	assert_int_equal(machine_vector(&r), vector);
	assert_int_equal(machine_read32(m, r.gpr[4]), code);
}

static void segment_checks(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_write32(m, 0x20ffc, 0x600d);
	r = touch_segment(m, SEL_FREE, 0xffc, true);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[2], 0x600d);
	assert_fault(m, touch_segment(m, SEL_FREE, 0xffd, false), 13, 0);
	assert_fault(m, touch_segment(m, SEL_FREE + 8, 0xffc, false), 13, 0);
	r = touch_segment(m, SEL_FREE + 8, 0x1000, true);
	assert_int_equal(machine_vector(&r), -1);
	r = touch_segment(m, SEL_FREE + 0x10, 0, false);
	assert_int_equal(machine_vector(&r), -1);
	assert_fault(m, touch_segment(m, SEL_FREE + 0x10, 0, true), 13, 0);
	assert_fault(m, touch_segment(m, SEL_FREE + 0x18, 0, false), 13, SEL_FREE + 0x18);
	assert_fault(m, touch_segment(m, SEL_FREE + 0x20, 0, false), 11, SEL_FREE + 0x20);
	assert_fault(m, touch_segment(m, SEL_LAST, 0, false), 13, SEL_LAST);
	assert_fault(m, touch_segment(m, SEL_LAST + 4, 0, false), 13, SEL_LAST + 4); /* no LDT */
	/* Null may be loaded but not used. */
	assert_fault(m, touch_segment(m, 0, 0, false), 13, 0);
	soft_machine_destroy(m);
}

GUEST_CODE(code_limit, 32,
    "ljmp $0x60, $0x00");
GUEST_CODE(code_limit_target, 32,
    "nop\nnop\nnop\nnop\nmov $1, %eax\nhlt");

static void code_segment_limit(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, code_limit);
	machine_code(m, 0x20000, code_limit_target);
	/* The MOV begins inside and ends outside. */
	machine_descriptor(m, SEL_FREE, 0x20000, 6, 0x9b, 4);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_int_equal(machine_read32(m, r.gpr[4] + 4), 4);
	soft_machine_destroy(m);
}

GUEST_CODE(queries, 32,
    "mov $0x0b, %eax\n"
    "lar %eax, %ebx\n"
    "sete %ch\n"
    "lsl %eax, %edx\n"
    "verr %ax\n"
    "sete %cl\n"
    "verw %ax\n"
    "setne %ah\n"
    "mov $0x1234, %si\n"
    "mov $0x0003, %di\n"
    "arpl %di, %si\n"
    "hlt");

static void selector_queries(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, queries);
	r = machine_run(m, 0);
	/* RPL 3 on a level 0 segment: not visible, so ZF is clear and nothing is loaded. */
	assert_int_equal(r.gpr[3], 0);
	assert_int_equal(r.gpr[1] & 0xffff, 0);
	assert_int_equal(r.gpr[6] & 0xffff, 0x1237);
	assert_true(r.rflags & 0x40);
	m->ram[MACHINE_CODE + 1] = SEL_CODE32;
	soft_memory_written(m->soft, MACHINE_CODE, 8);
	machine_protected(m, 0);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[3] & 0xfff0ff00, 0xc09b00);
	assert_int_equal(r.gpr[2], 0xffffffff);
	assert_int_equal(r.gpr[1] & 0xffff, 0x0101);
	assert_int_equal(r.gpr[0] >> 8 & 0xff, 1);
	soft_machine_destroy(m);
}

/* --- tasks --------------------------------------------------------------------------------------------------------------- */

GUEST_CODE(task_caller, 32,
    "mov $0x77, %ebp\n"
    "lcall $0x58, $0\n"
    "mov $0x88, %ecx\n"
    "hlt");
GUEST_CODE(task_callee, 32,
    "mov %cr0, %edx\n"
    "mov %edx, 0x20000\n"
    "str %edx\n"
    "mov %edx, 0x20004\n"
    "pushf\n"
    "popl 0x20008\n"
    "iret");

static void task_switch_and_return(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, task_caller);
	machine_code(m, 0x12000, task_callee);
	machine_write32(m, MACHINE_TSS2 + 0x20, 0x12000);
	machine_write32(m, MACHINE_TSS2 + 0x24, 2);
	machine_write32(m, MACHINE_TSS2 + 0x38, 0xb000);
	machine_write32(m, MACHINE_TSS2 + 0x48, SEL_DATA);
	machine_write32(m, MACHINE_TSS2 + 0x4c, SEL_CODE32);
	machine_write32(m, MACHINE_TSS2 + 0x50, SEL_DATA);
	machine_write32(m, MACHINE_TSS2 + 0x54, SEL_DATA);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[1], 0x88);
	assert_int_equal(r.gpr[5], 0x77);
	assert_int_equal(r.gpr[4], MACHINE_STACK);
	assert_int_equal(r.tr.selector, SEL_TSS);
	assert_true(machine_read32(m, 0x20000) & 8); /* TS */
	assert_int_equal(machine_read32(m, 0x20004), SEL_TSS2);
	assert_true(machine_read32(m, 0x20008) & 0x4000); /* NT */
	assert_int_equal(machine_read32(m, MACHINE_TSS2), SEL_TSS);
	/* The new task is not busy any more, the old one is. */
	assert_int_equal(m->ram[MACHINE_GDT + SEL_TSS2 + 5], 0x89);
	assert_int_equal(m->ram[MACHINE_GDT + SEL_TSS + 5], 0x8b);
	soft_machine_destroy(m);
}

/* --- virtual-8086 mode ------------------------------------------------------------------------------------------------------- */

GUEST_CODE(to_v86, 32,
    "pushl $0x5000\n" /* GS FS DS ES SS ESP EFLAGS CS EIP */
    "pushl $0x4000\n"
    "pushl $0x3000\n"
    "pushl $0x2000\n"
    "pushl $0x0000\n"
    "pushl $0xa000\n"
    "pushl $0x23002\n"
    "pushl $0x1100\n"
    "pushl $0x0010\n"
    "iretl");
GUEST_CODE(v86_code, 16,
    "mov %ds, %ax\n"
    "movw $0xface, 0x10\n"
    "mov %cs, %bx\n"
    "int $0x50");

static void virtual_8086(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, to_v86);
	machine_code(m, 0x11010, v86_code);
	machine_gate32(m, 0x50, 0xee, SEL_CODE32, (uint32_t)MACHINE_STOPS + 0x500);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 0x50);
	assert_int_equal(r.gpr[0], 0x3000);
	assert_int_equal(r.gpr[3], 0x1100);
	assert_int_equal(machine_read32(m, 0x30010) & 0xffff, 0xface);
	assert_int_equal(r.rflags & 0x20000, 0);
	assert_int_equal(r.ds.selector, 0);
	/* EIP CS EFLAGS ESP SS ES DS FS GS. */
	assert_int_equal(r.gpr[4], MACHINE_STACK - 0x400 - 36);
	assert_int_equal(machine_read32(m, r.gpr[4] + 4), 0x1100);
	assert_int_equal(machine_read32(m, r.gpr[4] + 8), 0x23002);
	assert_int_equal(machine_read32(m, r.gpr[4] + 20), 0x2000);
	assert_int_equal(machine_read32(m, r.gpr[4] + 32), 0x5000);
	soft_machine_destroy(m);
}

/* --- long mode ------------------------------------------------------------------------------------------------------------------ */

GUEST_CODE(syscalls, 64,
    "mov $0xc0000081, %ecx\n" /* STAR */
    "mov $0x00330018, %edx\n"
    "xor %eax, %eax\n"
    "wrmsr\n"
    "inc %ecx\n" /* LSTAR */
    "mov $0x12000, %eax\n"
    "xor %edx, %edx\n"
    "wrmsr\n"
    "mov $0xc0000084, %ecx\n" /* SFMASK */
    "mov $0x600, %eax\n"
    "wrmsr\n"
    "mov $0x11000, %ecx\n"
    "mov $0x202, %r11d\n"
    "sysretq");
GUEST_CODE(syscall_user, 64,
    "mov %cs, %esi\n"
    "mov %ss, %edi\n"
    "std\n"
    "syscall");
GUEST_CODE(syscall_kernel, 64,
    "mov %cs, %ebp\n"
    "mov %ss, %ebx\n"
    "pushf\n"
    "pop %rdx\n"
    "hlt");

static void syscall_and_back(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, syscalls);
	machine_code(m, 0x11000, syscall_user);
	machine_code(m, 0x12000, syscall_kernel);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[6], 0x43);
	assert_int_equal(r.gpr[7], 0x3b);
	assert_int_equal(r.gpr[5], 0x18);
	assert_int_equal(r.gpr[3], 0x20);
	assert_int_equal(r.gpr[1], 0x11000 + 4 + 1 + 2); /* RCX: after SYSCALL */
	assert_int_equal(r.gpr[11], 0x602);
	assert_int_equal(r.gpr[2], 2);
	soft_machine_destroy(m);
}

/* GS has a segment of level 0 and a base by MSR: at level 3 the selector is null, the base what it was. */
GUEST_CODE(gs_to_user, 64,
    "mov $0x10, %eax\n"
    "mov %eax, %gs\n"
    "mov $0xc0000101, %ecx\n"
    "mov $0x30000, %eax\n"
    "xor %edx, %edx\n"
    "wrmsr\n"
    "pushq $0x3b\n"
    "pushq $0xa000\n"
    "pushq $0x2\n"
    "pushq $0x43\n"
    "pushq $0x11000\n"
    "iretq");
GUEST_CODE(gs_user, 64,
    "mov %gs, %eax\n"
    "mov %gs:0, %ebx\n"
    "ud2");

static void base_survives_outer_level(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	for (unsigned i = 0; i < 3; i++)
		machine_write64(m, MACHINE_TABLES + 0x1000 * i, machine_read64(m, MACHINE_TABLES + 0x1000 * i) | 4);
	machine_code(m, MACHINE_CODE, gs_to_user);
	machine_code(m, 0x11000, gs_user);
	machine_write32(m, 0x30000, 0x1234);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 6);
	assert_int_equal(r.gpr[0], 0);
	assert_int_equal(r.gpr[3], 0x1234);
	soft_machine_destroy(m);
}

GUEST_CODE(to_compatibility, 64,
    "pushq $0x10\n"
    "pushq $0x9000\n"
    "pushq $0x2\n"
    "pushq $0x08\n"
    "pushq $0x11000\n"
    "mov $-1, %rax\n"
    "iretq");
GUEST_CODE(compatibility, 32,
    "mov $0x87654321, %eax\n"
    "lea 0x10(%eax), %ebx\n"
    "pushl %eax\n"
    "ud2");

static void compatibility_mode(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, to_compatibility);
	machine_code(m, 0x11000, compatibility);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 6);
	assert_int_equal(r.gpr[0], 0x87654321);
	assert_int_equal(r.gpr[3], 0x87654331);
	/* A 64-bit frame on an aligned stack: RIP CS RFLAGS RSP SS. */
	assert_int_equal(r.gpr[4], 0x8ff0 - 40);
	assert_int_equal(machine_read64(m, r.gpr[4]), 0x11000 + 5 + 3 + 1);
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), SEL_CODE32);
	assert_int_equal(machine_read64(m, r.gpr[4] + 24), 0x8ffc);
	soft_machine_destroy(m);
}

/* The bases of FS and GS: wide by MSR, swapped, and by FSGSBASE. */
GUEST_CODE(bases, 64,
    "mov $0xc0000100, %ecx\n"
    "mov $0x20000, %eax\n"
    "xor %edx, %edx\n"
    "wrmsr\n"
    "inc %ecx\n"
    "mov $0x30000, %eax\n"
    "wrmsr\n"
    "inc %ecx\n"
    "mov $0x40000, %eax\n"
    "wrmsr\n"
    "movl $1, %fs:0\n"
    "movl $2, %gs:0\n"
    "swapgs\n"
    "movl $3, %gs:0\n"
    "mov %cr4, %rax\n"
    "or $0x10000, %eax\n"
    "mov %rax, %cr4\n"
    "rdgsbase %rbx\n"
    "mov $0x50000, %eax\n"
    "wrfsbase %rax\n"
    "movl $4, %fs:0\n"
    "hlt");

static void segment_bases(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, bases);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	for (unsigned i = 1; i <= 4; i++)
		assert_int_equal(machine_read32(m, 0x10000 + 0x10000 * i), i);
	assert_int_equal(r.gpr[3], 0x40000);
	soft_machine_destroy(m);
}

/* FS of any base and limit in code that is flat else: touched first, so that the page is known, then beyond the limit. */
GUEST_CODE(uses_fs, 32,
    "mov %bx, %fs\n"
    "mov 0x800000, %eax\n"
    "mov 0x801ffc, %ecx\n"
    "movl $0, 0x801ffc\n"
    "mov %fs:0x10, %eax\n"
    "mov %fs:(%esi,%esi), %ecx\n"
    "mov %edx, %fs:(%edi)\n"
    "hlt");

static void other_segments_are_checked(void **state)
{
	static const struct {
		uint32_t limit, load, store;
		uint8_t access, flags;
		int vector;
	} cases[] = {
	    {0xfffff, 0x1000, 0x1ffc, 0x93, 0xc, -1},
	    {0x1fff, 0x1000, 0x1ffc, 0x93, 0x4, -1},
	    {0x1fff, 0x1000, 0x1ffd, 0x93, 0x4, 13},
	    {0x1ffe, 0x1000, 0x1ffc, 0x93, 0x4, 13},
	    {0xfff, 0x1000, 0x100, 0x93, 0x4, 13},
	    {0xfffff, 0x1000, 0x100, 0x91, 0xc, 13}, /* may only be read */
	    {0xfffff, 0x1000, 0x100, 0x9b, 0xc, 13}, /* code */
	    {0xfffff, 0x1000, 0x100, 0x99, 0xc, 13}, /* code that may not be read */
	    {0, 0x1000, 0x100, 0x97, 0xc, 13},       /* down to 0x1000 */
	    {0xfffff, 0xff800020, 0x100, 0x93, 0xc, -1}, /* comes round */
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers r;

		machine_protected(m, 0);
		machine_descriptor(m, SEL_FREE, 0x800000, cases[i].limit, cases[i].access, cases[i].flags);
		machine_code(m, MACHINE_CODE, uses_fs);
		machine_write32(m, 0x800010, 0x77);
		machine_write32(m, (uint32_t)(0x800000 + cases[i].load), 0x55);
		r = machine_registers(m, 0);
		r.gpr[3] = SEL_FREE;
		r.gpr[6] = cases[i].load / 2;
		r.gpr[7] = cases[i].store;
		r.gpr[2] = 0x99;
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), cases[i].vector);
		if (cases[i].vector < 0) {
			assert_int_equal(r.gpr[0], 0x77);
			assert_int_equal(r.gpr[1], 0x55);
			assert_int_equal(machine_read32(m, 0x800000 + cases[i].store), 0x99);
		}
		soft_machine_destroy(m);
	}
}

/* The same bytes, called by 64-bit and by 32-bit code in turn, often enough to be remembered: inc %rax there, dec %eax and
 * inc %eax here. */
GUEST_CODE(both_wide, 64, "mov $0x11000, %r8d\ncall *%r8\ncall *%r8\ncall *%r8\npushq $8\npushq $0x10200\nlretq");
GUEST_CODE(both_narrow, 32, "mov $0x11000, %edx\ncall *%edx\ncall *%edx\ncall *%edx\nljmp $0x18, $0x10100");
GUEST_CODE(both_next, 64, "dec %ecx\njz 1f\nmov $0x10000, %r8d\njmp *%r8\n1: hlt");
GUEST_CODE(both_called, 64, "inc %rax\nret");

static void same_bytes_in_both_modes(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, both_wide);
	machine_code(m, MACHINE_CODE + 0x100, both_next);
	machine_code(m, MACHINE_CODE + 0x200, both_narrow);
	machine_code(m, MACHINE_CODE + 0x1000, both_called);
	r = machine_registers(m, 0);
	r.gpr[0] = 0;
	r.gpr[1] = 500;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[1], 0);
	assert_int_equal(r.gpr[0], 1500);
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reset_to_long),
	    cmocka_unit_test(real_mode_interrupt),
	    cmocka_unit_test(real_mode_far_calls),
	    cmocka_unit_test(real_mode_segment_limit),
	    cmocka_unit_test(unreal_mode),
	    cmocka_unit_test(base_survives_outer_level),
	    cmocka_unit_test(levels_by_iret_and_int),
	    cmocka_unit_test(privileged_at_level_3),
	    cmocka_unit_test(call_gate),
	    cmocka_unit_test(segment_checks),
	    cmocka_unit_test(code_segment_limit),
	    cmocka_unit_test(selector_queries),
	    cmocka_unit_test(task_switch_and_return),
	    cmocka_unit_test(virtual_8086),
	    cmocka_unit_test(syscall_and_back),
	    cmocka_unit_test(compatibility_mode),
	    cmocka_unit_test(segment_bases),
	    cmocka_unit_test(other_segments_are_checked),
	    cmocka_unit_test(same_bytes_in_both_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
