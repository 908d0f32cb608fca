/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 32-bit protected mode with all that came before long mode: segments, gates, tasks, 16-bit code, rings. */
#include "bare.h"

/* Slots of the GDT that tests use. */
enum { FREE = SEL_FREE, FREE2 = SEL_FREE + 8, FREE3 = SEL_FREE + 16 };

static void set_segment(uint16_t selector, uint32_t base, uint32_t limit, uint16_t attributes)
{
	gdt[selector / 8] = descriptor(base, limit, attributes);
}

static void load_fs(uint16_t selector)
{
	asm volatile("mov %0, %%fs" : : "r"(selector) : "memory");
}

static uint8_t fs_read8(uint32_t offset)
{
	uint8_t value;
	asm volatile("movb %%fs:(%1), %0" : "=q"(value) : "r"(offset) : "memory");
	return value;
}

static uint32_t fs_read32(uint32_t offset)
{
	uint32_t value;
	asm volatile("movl %%fs:(%1), %0" : "=r"(value) : "r"(offset) : "memory");
	return value;
}

static void fs_write8(uint32_t offset, uint8_t value)
{
	asm volatile("movb %0, %%fs:(%1)" : : "q"(value), "r"(offset) : "memory");
}

/* --- exceptions that 64-bit mode does not have -------------------------------------------------- */

extern char into_after[], bound_at[];

static void into_and_bound(void)
{
	static const int32_t bounds[2] = {-5, 10};

	EXPECT_FAULT(VEC_OF, 0,
		     asm volatile("mov $0x7fffffff, %%eax; inc %%eax; into; into_after:"
				  :
				  :
				  : "eax", "cc"));
	CHECK_EQ(fault.ip, (unsigned long)into_after);
	EXPECT_NO_FAULT(asm volatile("xor %%eax, %%eax; into" : : : "eax", "cc"));
	EXPECT_NO_FAULT(asm volatile("bound %0, %1" : : "r"(10), "m"(bounds)));
	EXPECT_NO_FAULT(asm volatile("bound %0, %1" : : "r"(-5), "m"(bounds)));
	EXPECT_FAULT(VEC_BR, 0, asm volatile("bound_at: bound %0, %1" : : "r"(11), "m"(bounds)));
	CHECK_EQ(fault.ip, (unsigned long)bound_at);
	EXPECT_FAULT(VEC_BR, 0, asm volatile("bound %0, %1" : : "r"(-6), "m"(bounds)));
}

/* --- limits and types --------------------------------------------------------------------------- */

static void limits(void)
{
	uint8_t *page = page_alloc();

	set_segment(FREE, (uint32_t)page, 0x7ff, 0x4093);
	load_fs(FREE);
	EXPECT_NO_FAULT(fs_read8(0x7ff));
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0x800));
	EXPECT_NO_FAULT(fs_read32(0x7fc));
	EXPECT_FAULT(VEC_GP, 0, fs_read32(0x7fd));
	EXPECT_FAULT(VEC_GP, 0, fs_write8(0xffffffff, 1));
	page[0x7ff] = 0x31;
	CHECK_EQ(fs_read8(0x7ff), 0x31);                     /* the base counts */
	set_segment(FREE, (uint32_t)page - 4096, 1, 0xc093); /* 8 KiB, in pages */
	load_fs(FREE);
	EXPECT_NO_FAULT(fs_read8(0x1fff));
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0x2000));
	set_segment(FREE, (uint32_t)page - 4096, 0xfff, 0x4097); /* expands down: from 0x1000 up */
	load_fs(FREE);
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0xfff));
	EXPECT_NO_FAULT(fs_read8(0x1000));
	EXPECT_FAULT(VEC_GP, 0, fs_read32(0xffe));
	set_segment(FREE, (uint32_t)page - 4096, 0xfff, 0x0097); /* and at most 64 KiB */
	load_fs(FREE);
	EXPECT_NO_FAULT(fs_read8(0xffff));
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0x10000));
	EXPECT_FAULT(VEC_GP, 0, fs_read32(0xfffd));
	load_fs(SEL_DATA);
}

static void stack_limit(void)
{
	uint32_t sp;

	/* A stack segment whose limit the access is above; the handler still runs on it. */
	asm volatile("mov %%esp, %0" : "=r"(sp));
	set_segment(FREE, 0, sp >> 12, 0xc093);
	EXPECT_FAULT(VEC_SS, 0,
		     asm volatile("mov %0, %%ss; push %%ebp; mov %1, %%ebp; mov (%%ebp), %%eax"
				  :
				  : "r"(FREE), "r"((sp | 0xfff) + 1)
				  : "eax", "memory"));
	EXPECT_FAULT(VEC_SS, 0,
		     asm volatile("mov %0, %%ss; mov %%ss:(%1), %%eax"
				  :
				  : "r"(FREE), "r"((sp | 0xfff) - 2)
				  : "eax", "memory"));
	asm volatile("mov %0, %%ss" : : "r"(SEL_DATA));
}

static void types(void)
{
	uint8_t *page = page_alloc();

	set_segment(FREE, (uint32_t)page, 0xfff, 0x4091); /* read only */
	load_fs(FREE);
	EXPECT_NO_FAULT(fs_read8(0));
	EXPECT_FAULT(VEC_GP, 0, fs_write8(0, 1));
	EXPECT_FAULT(VEC_GP, FREE, asm volatile("mov %0, %%ss" : : "r"(FREE)));
	set_segment(FREE, 0, 0xfffff, 0xc099); /* execute only */
	EXPECT_FAULT(VEC_GP, FREE, load_fs(FREE));
	set_segment(FREE, 0, 0xfffff, 0xc09b);
	load_fs(FREE);
	EXPECT_NO_FAULT(fs_read8((uint32_t)page));
	EXPECT_FAULT(VEC_GP, 0, fs_write8((uint32_t)page, 1));
	EXPECT_FAULT(VEC_GP, 0, asm volatile("movb $0, %%cs:(%0)" : : "r"(page) : "memory"));
	load_fs(0);
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0)); /* a null selector may be loaded, not used */
	set_segment(FREE, 0, 0xfffff, 0xc092);
	load_fs(FREE);
	CHECK_EQ(gdt[FREE / 8] >> 40 & 1, 1); /* accessed */
	set_segment(FREE, 0, 0xfffff, 0xc012);
	EXPECT_FAULT(VEC_NP, FREE, load_fs(FREE));
	load_fs(SEL_DATA);
}

static void inspections(void)
{
	uint32_t value;
	uint8_t zero;

	set_segment(FREE, 0, 0x12345, 0xc091);
	asm volatile("lsl %2, %0; setz %1" : "=r"(value), "=q"(zero) : "r"(FREE) : "cc");
	CHECK_EQ(zero, 1);
	CHECK_EQ(value, 0x12345fff);
	asm volatile("lar %2, %0; setz %1" : "=r"(value), "=q"(zero) : "r"(FREE) : "cc");
	CHECK_EQ(zero, 1);
	CHECK_EQ(value & 0xf0ff00, 0xc09100);
	asm volatile("verr %w1; setz %0" : "=q"(zero) : "r"(FREE) : "cc");
	CHECK_EQ(zero, 1);
	asm volatile("verw %w1; setz %0" : "=q"(zero) : "r"(FREE) : "cc");
	CHECK_EQ(zero, 0);
	asm volatile("lar %2, %0; setz %1" : "=r"(value), "=q"(zero) : "r"(SEL_LIMIT + 1) : "cc");
	CHECK_EQ(zero, 0);
	value = 0x10;
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(value), "=q"(zero) : "r"(3) : "cc");
	CHECK_EQ(value, 0x13);
	CHECK_EQ(zero, 1);
}

static void local_table(void)
{
	static uint64_t ldt[2];
	uint8_t *page = page_alloc();

	page[7] = 0x5c;
	ldt[1] = descriptor((uint32_t)page, 0xff, 0x4093);
	set_segment(FREE, (uint32_t)ldt, sizeof(ldt) - 1, 0x0082);
	asm volatile("lldt %w0" : : "r"(FREE));
	load_fs(8 | 4);
	CHECK_EQ(fs_read8(7), 0x5c);
	EXPECT_FAULT(VEC_GP, 0, fs_read8(0x100));
	EXPECT_FAULT(VEC_GP, 16 | 4, load_fs(16 | 4));
	EXPECT_FAULT(VEC_GP, SEL_DATA, asm volatile("lldt %w0" : : "r"(SEL_DATA)));
	load_fs(SEL_DATA);
	asm volatile("lldt %w0" : : "r"(0));
	EXPECT_FAULT(VEC_GP, 8 | 4, load_fs(8 | 4));
	load_fs(SEL_DATA);
}

static void code_limit(void)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = {0x1000, FREE};
	uint8_t *page = page_alloc();

	set_segment(FREE, (uint32_t)page, 0xfff, 0x409b);
	EXPECT_FAULT(VEC_GP, 0, asm volatile("lcall *%0" : : "m"(target) : "memory"));
	target.offset = 0xffe;
	page[0xffe] = 0x90; /* two nops, and then the end */
	page[0xfff] = 0x90;
	EXPECT_FAULT(VEC_GP, 0, asm volatile("lcall *%0" : : "m"(target) : "memory"));
	CHECK_EQ(fault.ip, 0x1000);
	target.selector = SEL_DATA;
	EXPECT_FAULT(VEC_GP, SEL_DATA, asm volatile("ljmp *%0" : : "m"(target) : "memory"));
	set_segment(FREE, (uint32_t)page, 0xfff, 0x401b);
	target.selector = FREE;
	EXPECT_FAULT(VEC_NP, FREE, asm volatile("ljmp *%0" : : "m"(target) : "memory"));
}

/* --- 16-bit code in protected mode -------------------------------------------------------------- */

extern char code16[], code16_int[], handler16[], code16_end[];
extern volatile uint16_t code16_count;
asm(".pushsection .data; .balign 16; .code16\n"
    "code16:\n"
    "	mov $0xffff, %ax; add $1, %ax\n" /* 16 bits: AX is 0, CF is set */
    "	sbb %dx, %dx\n"                  /* DX is 0xffff */
    "	mov $0x12345678, %ecx\n"
    "	push %cx; pop %bx\n" /* two bytes */
    "	call 1f\n"
    "	jmp 2f\n"
    "1:	add $0x10, %ax; ret\n"
    "2:	lretl\n"
    "code16_int:\n"
    "	int $0x41\n"
    "	lretl\n"
    "handler16:\n"
    "	incw %cs:(code16_count - code16)\n" /* CS cannot be written */
    "	iretw\n"
    "code16_count: .word 0\n"
    "code16_end:\n"
    ".code32; .popsection");

static void far_call(uint16_t selector, uint32_t offset, uint32_t *ax, uint32_t *bx, uint32_t *dx)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = {offset, selector};

	asm volatile("lcall *%3" : "=a"(*ax), "=b"(*bx), "=d"(*dx) : "m"(target) : "ecx", "memory", "cc");
}

static void code_16bit(void)
{
	uint32_t ax, bx, dx;

	set_segment(FREE, (uint32_t)code16, 0xffff, 0x009b);
	far_call(FREE, 0, &ax, &bx, &dx);
	CHECK_EQ(ax & 0xffff, 0x10);
	CHECK_EQ(bx & 0xffff, 0x5678);
	CHECK_EQ(dx & 0xffff, 0xffff);
}

static volatile unsigned long seen_ip, seen_cs;
static volatile unsigned seen;

static void note(struct frame *frame)
{
	seen++;
	seen_ip = frame->ip;
	seen_cs = frame->cs;
}

/* An interrupt from 16-bit code, by a 32-bit gate, and by a 16-bit one (type 6), which pushes words. */
static void gates_16bit(void)
{
	uint32_t ax, bx, dx;

	set_segment(FREE, (uint32_t)code16, 0xffff, 0x009b);
	seen = 0;
	set_handler(0x41, note);
	far_call(FREE, (uint32_t)(code16_int - code16), &ax, &bx, &dx);
	CHECK_EQ(seen, 1);
	CHECK_EQ(seen_cs, FREE);
	CHECK_EQ(seen_ip, (unsigned long)(code16_int - code16) + 2);
	set_handler(0x41, NULL);
	set_gate(&idt[0x41], (unsigned long)(handler16 - code16), FREE, 0x86);
	EXPECT_FAULT(VEC_GP, 0,
		     far_call(FREE, (uint32_t)(code16_int - code16), &ax, &bx, &dx)); /* it writes to CS */
	CHECK_EQ(fault.ip, (unsigned long)(handler16 - code16));
	CHECK_EQ(fault.cs, FREE);
	memset(handler16, 0x90, 5); /* that instruction */
	EXPECT_NO_FAULT(far_call(FREE, (uint32_t)(code16_int - code16), &ax, &bx, &dx));
	reset_gate(0x41);
}

/* --- ring 3 ------------------------------------------------------------------------------------- */

extern uint32_t run_user(void (*code)(void));
extern char user_returned[], user_stack_top[];
extern uint32_t user_saved_sp;
asm(".pushsection .bss; .balign 16; .skip 8192; user_stack_top: user_saved_sp: .skip 4; .popsection\n"
    ".pushsection .text\n"
    "run_user:\n"
    "	mov 4(%esp), %eax\n"
    "	push %ebx; push %ebp; push %esi; push %edi\n"
    "	mov %esp, user_saved_sp\n"
    "	push $0x23; push $user_stack_top; pushf; push $0x1b; push %eax\n"
    "	iretl\n"
    "user_returned:\n"
    "	mov $0x10, %edx; mov %edx, %ds; mov %edx, %es; mov user_saved_sp, %esp\n"
    "	pop %edi; pop %esi; pop %ebp; pop %ebx\n"
    "	ret\n"
    ".popsection");

static volatile unsigned long entry_cs, entry_ss, entry_sp, handler_sp;

static void user_return(struct frame *frame)
{
	entry_cs = frame->cs & 0xffff;
	entry_ss = frame->ss & 0xffff;
	entry_sp = frame->sp;
	handler_sp = (unsigned long)(&frame->ss + 1);
	frame->ip = (unsigned long)user_returned;
	frame->cs = SEL_CODE;
	frame->flags = 2;
}

#define USER(name, code)                                                                                     \
	extern void name(void);                                                                              \
	asm(".pushsection .text; " #name ": " code "; int $0x80; .popsection")

USER(user_nothing, "mov $0x1234, %eax");
USER(user_cli, "cli");
USER(user_in, "in $0x80, %al");
USER(user_kernel_selector, "mov $0x10, %eax; mov %eax, %ds");
USER(user_call_gate, "push $0x22222222; push $0x11111111; lcall $0x5b, $0; mov %esp, %ebx");
USER(user_sysenter, "sysenter");
USER(user_fs, "movb %fs:0, %al");
USER(user_data_null, "xor %eax, %eax; mov %eax, %fs; movb %fs:0, %al");

static void ring3(void)
{
	CHECK_EQ(run_user(user_nothing), 0x1234);
	CHECK_EQ(entry_cs, SEL_USER_CODE32 | 3);
	CHECK_EQ(entry_ss, SEL_USER_DATA | 3);
	CHECK_EQ(entry_sp, (unsigned long)user_stack_top);
	CHECK_EQ(handler_sp, tss.esp0);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_cli));
	CHECK_EQ(fault.cs, SEL_USER_CODE32 | 3);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_in));
	EXPECT_FAULT(VEC_GP, SEL_DATA, run_user(user_kernel_selector));
	EXPECT_FAULT(VEC_GP, 0, run_user(user_data_null));
	load_fs(SEL_DATA);
	/* On return to an outer ring, segments of the inner one become null. */
	EXPECT_FAULT(VEC_GP, 0, run_user(user_fs));
	load_fs(SEL_DATA);
}

extern char gate_entry[];
extern volatile uint32_t gate_first, gate_second, gate_cs, gate_sp;
asm(".pushsection .text\n"
    "gate_entry:\n"
    "	mov %cs, %ss:gate_cs; mov %esp, %ss:gate_sp\n"
    "	mov 8(%esp), %eax; mov %eax, %ss:gate_first\n"
    "	mov 12(%esp), %eax; mov %eax, %ss:gate_second\n"
    "	lret $8\n"
    ".popsection");
volatile uint32_t gate_first, gate_second, gate_cs, gate_sp;

/* Through a call gate into ring 0: two parameters are copied to the inner stack, and dropped from both. */
static void call_gate(void)
{
	uint32_t entry = (uint32_t)gate_entry;

	gdt[FREE / 8] = (entry & 0xffff) | (uint64_t)SEL_CODE << 16 | 2ull << 32 | 0xecull << 40 |
			(uint64_t)(entry >> 16) << 48;
	run_user(user_call_gate);
	CHECK_EQ(gate_cs, SEL_CODE);
	CHECK_EQ(gate_first, 0x11111111);
	CHECK_EQ(gate_second, 0x22222222);
	CHECK_EQ(gate_sp, tss.esp0 - 24); /* SS, ESP, two parameters, CS, EIP */
	CHECK_EQ(entry_sp, (unsigned long)user_stack_top);
	gdt[FREE / 8] &= ~(3ull << 45);
	EXPECT_FAULT(VEC_GP, FREE, run_user(user_call_gate));
}

extern char sysenter_entry32[];
extern volatile uint32_t sysenter_cs, sysenter_ss, sysenter_sp;
asm(".pushsection .text\n"
    "sysenter_entry32:\n"
    "	mov %cs, %ss:sysenter_cs; mov %ss, %ss:sysenter_ss; mov %esp, %ss:sysenter_sp\n"
    "	mov $user_nothing, %edx; mov $user_stack_top, %ecx\n"
    "	sysexit\n"
    ".popsection");
volatile uint32_t sysenter_cs, sysenter_ss, sysenter_sp;

static void sysenter(void)
{
	uint8_t *stack = page_alloc();

	wrmsr(MSR_SYSENTER_CS, 0);
	EXPECT_FAULT(VEC_GP, 0, run_user(user_sysenter));
	wrmsr(MSR_SYSENTER_CS, SEL_CODE);
	wrmsr(MSR_SYSENTER_ESP, (uint32_t)stack + 4096);
	wrmsr(MSR_SYSENTER_EIP, (uint32_t)sysenter_entry32);
	CHECK_EQ(run_user(user_sysenter), 0x1234);
	CHECK_EQ(sysenter_cs & 0xffff, SEL_CODE);
	CHECK_EQ(sysenter_ss & 0xffff, SEL_CODE + 8);
	CHECK_EQ(sysenter_sp, (uint32_t)stack + 4096);
	CHECK_EQ(entry_cs, (SEL_CODE + 16) | 3);
	CHECK_EQ(entry_ss, (SEL_CODE + 24) | 3);
}

/* --- tasks -------------------------------------------------------------------------------------- */

static struct tss task __attribute__((aligned(128)));
static volatile uint32_t task_runs, task_flags, task_cr0, task_ebx, task_error, task_vector_ip;

extern char task_entry[], task_with_error[];
void task_body(void);
void task_error_body(uint32_t error);

/* A task that goes back by IRET, and goes on after it when it is switched to again. */
asm(".pushsection .text\n"
    "task_entry:\n"
    "	call task_body\n"
    "	iretl\n"
    "	jmp task_entry\n"
    "task_with_error:\n" /* the error code is on its stack */
    "	call task_error_body\n"
    "	add $4, %esp\n"
    "	iretl\n"
    "	jmp task_with_error\n"
    ".popsection");

void task_body(void)
{
	asm volatile("mov %%ebx, %0" : "=m"(task_ebx));
	task_runs++;
	task_flags = read_flags();
	task_cr0 = read_cr0();
	asm volatile("clts");
}

void task_error_body(uint32_t error)
{
	task_runs++;
	task_error = error;
	task_vector_ip = tss.eip;
	tss.eip = (uint32_t)catch_point.ip; /* where the old task goes on: as a caught fault */
	tss.esp = (uint32_t)catch_point.sp;
	tss.ebp = (uint32_t)catch_point.bp;
	tss.ebx = (uint32_t)catch_point.bx;
	tss.esi = (uint32_t)catch_point.r12;
	tss.edi = (uint32_t)catch_point.r13;
	tss.ss = SEL_DATA;
	tss.eax = 1;
	catch_point.armed = false;
	asm volatile("clts");
}

static void make_task(const char *entry)
{
	uint8_t *stack = page_alloc();

	task = (struct tss){.esp0 = (uint32_t)stack + 4096,
			    .ss0 = SEL_DATA,
			    .cr3 = read_cr3(),
			    .eip = (uint32_t)entry,
			    .eflags = 2,
			    .ebx = 0x1b1b1b1b,
			    .esp = (uint32_t)stack + 4096,
			    .es = SEL_DATA,
			    .cs = SEL_CODE,
			    .ss = SEL_DATA,
			    .ds = SEL_DATA,
			    .fs = SEL_DATA,
			    .gs = SEL_DATA,
			    .io_map = sizeof(task)};
	set_segment(FREE, (uint32_t)&task, sizeof(task) - 1, 0x0089);
	task_runs = 0;
}

static void task_call(void)
{
	make_task(task_entry);
	tss.cr3 = read_cr3();
	asm volatile("lcall %0, $0" : : "i"(FREE) : "memory", "cc");
	CHECK_EQ(task_runs, 1);
	CHECK_EQ(task_ebx, 0x1b1b1b1b);
	CHECK_EQ(task_flags & EFLAGS_NT, EFLAGS_NT);
	CHECK_EQ(task_cr0 & CR0_TS, CR0_TS);
	CHECK_EQ(task.link, SEL_TSS);
	CHECK_EQ(gdt[FREE / 8] >> 40 & 0xff, 0x89); /* free again */
	CHECK_EQ(gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
	CHECK_EQ(task.eflags & EFLAGS_NT, 0); /* IRET took it from what was saved */
	CHECK_EQ(read_cr0() & CR0_TS, CR0_TS);
	asm volatile("clts");
	asm volatile("lcall %0, $0" : : "i"(FREE) : "memory", "cc"); /* goes on after its IRET */
	CHECK_EQ(task_runs, 2);
	asm volatile("clts");
	EXPECT_FAULT(VEC_GP, SEL_TSS,
		     asm volatile("ljmp %0, $0"
				  :
				  : "i"(SEL_TSS))); /* busy: it is this one */
	gdt[FREE / 8] &= ~(0x80ull << 40);
	CATCH(asm volatile("ljmp %0, $0" : : "i"(FREE)));
	/* KVM switches tasks in software, which takes it for a bad TSS where the processor leaves the check
	 * to it. */
	CHECK(fault.vector == VEC_NP || (fault.vector == VEC_TS && is_amd()));
	CHECK_EQ(fault.error, FREE);
	set_segment(FREE, (uint32_t)&task, 0x66, 0x0089);
	EXPECT_FAULT(VEC_TS, FREE, asm volatile("ljmp %0, $0" : : "i"(FREE)));
}

/* A fault that is served by a task: its error code is on the new stack. */
static void task_gate(void)
{
	make_task(task_with_error);
	tss.cr3 = read_cr3();
	set_gate(&idt[VEC_GP], 0, FREE, 0x85);
	fault = (struct fault){0};
	if (!catch_begin(&catch_point)) {
		catch_point.armed = true;
		asm volatile("mov %0, %%fs" : : "r"(SEL_LIMIT + 1));
		CHECK(false);
	}
	reset_gate(VEC_GP);
	CHECK_EQ(task_runs, 1);
	CHECK_EQ(task_error, SEL_LIMIT + 1);
	asm volatile("clts");
	load_fs(SEL_DATA);
}

/* No stack to push on: a double fault, which only a task can serve. */
static void double_fault_task(void)
{
	make_task(task_with_error);
	tss.cr3 = read_cr3();
	set_gate(&idt[VEC_DF], 0, FREE, 0x85);
	set_segment(FREE2, 0, 0xfff, 0x4093); /* ESP is far above */
	if (!catch_begin(&catch_point)) {
		catch_point.armed = true;
		asm volatile("mov %0, %%ss; push %%eax" : : "r"(FREE2));
		CHECK(false);
	}
	reset_gate(VEC_DF);
	CHECK_EQ(task_runs, 1);
	CHECK_EQ(task_error, 0);
	asm volatile("clts");
	gdt[FREE2 / 8] = 0;
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"into-bound", into_and_bound},
	    {"limits", limits},
	    {"stack-limit", stack_limit},
	    {"types", types},
	    {"inspections", inspections},
	    {"local-table", local_table},
	    {"code-limit", code_limit},
	    {"code-16bit", code_16bit},
	    {"gates-16bit", gates_16bit},
	    {"ring3", ring3},
	    {"call-gate", call_gate},
	    {"sysenter", sysenter},
	    {"task-call", task_call},
	    {"task-gate", task_gate},
	    {"double-fault-task", double_fault_task},
	};

	set_handler(0x80, user_return);
	idt[0x80].type = 0xee;
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
