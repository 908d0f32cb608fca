// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which pages the software processor says it wrote, for every way an instruction writes. Each way is taken twice, and
 * asked about between: the second time what it needs is in the TLB already. test_dirty.c has the threads.
 */
#include "tests/double/soft_machine.h"

#include <cpuid.h>
#include <string.h>

#define PAGES  (MACHINE_RAM >> GUEST_PAGE_SHIFT)
#define TARGET 0x400000ull /* this page and the next one; at the end of the first where a way crosses */
#define SOURCE 0x500000ull

static uint64_t told[2][PAGES / 64];
static unsigned asked;

static bool bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

static void ask(struct soft_machine *m)
{
	assert_true(asked < 2);
	memset(told[asked], 0, sizeof(told[asked]));
	soft_fetch_dirty(m->soft, 0, PAGES, told[asked++]);
}

/* OUT: the VP waits in the host meanwhile. */
static void on_out(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	(void)vp;
	(void)port;
	(void)value;
	ask(m);
}

static bool is_table(uint64_t page)
{
	return page >= MACHINE_TABLES >> GUEST_PAGE_SHIFT && page < (MACHINE_TABLES >> GUEST_PAGE_SHIFT) + 16;
}

struct way {
	const char *name;
	const uint8_t *begin, *end;
	uint64_t target; /* RSI and RDI */
	unsigned pages;  /* from the target's on */
	bool (*possible)(void);
};

/* The text runs twice; RBX is another number each time. */
#define WAY(label, text)                                                                        \
	GUEST_CODE(label, 64,                                                                   \
	    "mov %rsi, %rbp\n" text "\n"                                                        \
	    "lea 0x1234567(%rbx,%rbx,2), %rbx\n out %al, $0x10\n mov %rbp, %rsi\n mov %rbp, %rdi\n" text "\n hlt")

WAY(way_mov8, "mov %bl, (%rsi)");
WAY(way_mov16, "mov %bx, (%rsi)");
WAY(way_mov32, "mov %ebx, (%rsi)");
WAY(way_mov64, "mov %rbx, (%rsi)");
WAY(way_mov_imm, "movl $0x5555, (%rsi)");
WAY(way_mov_index, "mov %ebx, (%rsi,%rcx,4)");
WAY(way_add, "add %rbx, (%rsi)");
WAY(way_inc, "incl (%rsi)");
WAY(way_shift, "shll $1, (%rsi)");
WAY(way_not, "notq (%rsi)");
WAY(way_setcc, "sete (%rsi)");
WAY(way_bts, "bts %rcx, (%rsi)");
WAY(way_lock_add, "lock add %rbx, (%rsi)");
WAY(way_lock_bts, "lock bts %rcx, (%rsi)");
WAY(way_xadd, "lock xadd %rbx, (%rsi)");
WAY(way_xchg, "xchg %rbx, (%rsi)");
WAY(way_cmpxchg, "mov (%rsi), %rax; lock cmpxchg %rbx, (%rsi)");
WAY(way_cmpxchg_fails, "mov (%rsi), %rax; inc %rax; lock cmpxchg %rbx, (%rsi)");
WAY(way_cmpxchg8b, "mov (%rsi), %eax; mov 4(%rsi), %edx; lock cmpxchg8b (%rsi)");
WAY(way_cmpxchg16b, "mov (%rsi), %rax; mov 8(%rsi), %rdx; lock cmpxchg16b (%rsi)");
WAY(way_movbe, "movbe %rbx, (%rsi)");
WAY(way_movnti, "movnti %rbx, (%rsi)");
WAY(way_push, "mov %rsp, %rdx; lea 16(%rsi), %rsp; push %rbx; mov %rdx, %rsp");
WAY(way_pop, "push %rbx; pop (%rsi)");
WAY(way_pushf, "mov %rsp, %rdx; lea 16(%rsi), %rsp; pushf; mov %rdx, %rsp");
WAY(way_call, "mov %rsp, %rdx; lea 16(%rsi), %rsp; call 1f; 1: mov %rdx, %rsp");
WAY(way_enter, "mov %rsp, %rdx; lea 16(%rsi), %rsp; mov %rbp, %r9; enter $0, $0; mov %r9, %rbp; mov %rdx, %rsp");
WAY(way_stos, "mov %ebx, %eax; stosl");
WAY(way_rep_stos, "mov $3000, %ecx; mov %ebx, %eax; rep stosb");
WAY(way_rep_stos_back, "add $3000, %rdi; mov $3000, %ecx; mov %ebx, %eax; std; rep stosb; cld");
WAY(way_rep_movs, "mov $0x500000, %esi; mov $3000, %ecx; rep movsb");
WAY(way_rep_movsq, "mov $0x500000, %esi; mov $300, %ecx; rep movsq");
WAY(way_ins, "mov $0x80, %edx; insl");
WAY(way_rep_ins, "mov $0x80, %edx; mov $800, %ecx; rep insl");
WAY(way_fst, "fninit; fldpi; fstpt (%rsi)");
WAY(way_fist, "fninit; fld1; fistpl (%rsi)");
WAY(way_fnstenv, "fnstenv (%rsi)");
WAY(way_fnsave, "fnsave (%rsi)");
WAY(way_fnstcw, "fnstcw (%rsi)");
WAY(way_fxsave, "fxsave (%rsi)");
WAY(way_xsave, "mov %cr4, %rax; or $0x40000, %rax; mov %rax, %cr4; mov $-1, %eax; mov %eax, %edx; xsave (%rsi)");
WAY(way_stmxcsr, "stmxcsr (%rsi)");
WAY(way_movd, "movd %ebx, %xmm0; movd %xmm0, (%rsi)");
WAY(way_movups, "movq %rbx, %xmm0; movups %xmm0, (%rsi)");
WAY(way_movntdq, "movq %rbx, %xmm0; movntdq %xmm0, (%rsi)");
WAY(way_maskmovdqu, "pcmpeqd %xmm1, %xmm1; movq %rbx, %xmm0; maskmovdqu %xmm1, %xmm0");
WAY(way_vmovups, "mov %cr4, %rax; or $0x40000, %rax; mov %rax, %cr4; xor %ecx, %ecx; mov $7, %eax; xor %edx, %edx; xsetbv\n"
                 "vmovups %ymm0, (%rsi)");
WAY(way_read_first, "invlpg (%rsi); mov (%rsi), %al; mov %bl, (%rsi)"); /* with D set the TLB could allow both at once */
WAY(way_sgdt, "sgdt (%rsi)");
WAY(way_smsw, "smsw (%rsi)");
WAY(way_str, "str (%rsi)");
WAY(way_interrupt, "mov %rsp, %rdx; lea 0x80(%rsi), %rsp; lea 1f(%rip), %rax; push %rax; pop 0x600000; int $0x40\n1: mov %rdx, %rsp");

static bool always(void)
{
	return true;
}

static bool has_avx(void)
{
	uint32_t a, b, c = 0, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_AVX;
}

#define AT_START(name, pages) {#name, name, name##_end, TARGET + 0x100, pages, always}
#define AT_END(name, before)  {#name, name, name##_end, TARGET + 0x1000 - (before), 2, always}

static const struct way ways[] = {
    AT_START(way_mov8, 1), AT_START(way_mov16, 1), AT_START(way_mov32, 1), AT_START(way_mov64, 1),
    AT_START(way_mov_imm, 1), AT_START(way_mov_index, 1), AT_START(way_add, 1), AT_START(way_inc, 1),
    AT_START(way_shift, 1), AT_START(way_not, 1), AT_START(way_setcc, 1), AT_START(way_bts, 1),
    AT_START(way_lock_add, 1), AT_START(way_lock_bts, 1), AT_START(way_xadd, 1), AT_START(way_xchg, 1),
    AT_START(way_cmpxchg, 1), AT_START(way_cmpxchg_fails, 1), AT_START(way_cmpxchg8b, 1),
    AT_START(way_cmpxchg16b, 1), AT_START(way_movbe, 1), AT_START(way_movnti, 1), AT_START(way_push, 1),
    AT_START(way_pushf, 1), AT_START(way_call, 1), AT_START(way_enter, 1),
    AT_START(way_stos, 1), AT_START(way_rep_stos, 1), AT_START(way_rep_stos_back, 1), AT_START(way_rep_movs, 1),
    AT_START(way_rep_movsq, 1), AT_START(way_ins, 1), AT_START(way_rep_ins, 1), AT_START(way_fst, 1),
    AT_START(way_fist, 1), AT_START(way_fnstenv, 1), AT_START(way_fnsave, 1), AT_START(way_fnstcw, 1),
    AT_START(way_fxsave, 1), AT_START(way_xsave, 1), AT_START(way_stmxcsr, 1), AT_START(way_movd, 1),
    AT_START(way_movups, 1), AT_START(way_movntdq, 1), AT_START(way_maskmovdqu, 1), AT_START(way_sgdt, 1),
    AT_START(way_smsw, 1), AT_START(way_str, 1), AT_START(way_read_first, 1),
    {"way_vmovups", way_vmovups, way_vmovups_end, TARGET + 0x100, 1, has_avx},
    AT_END(way_mov16, 1), AT_END(way_mov32, 3), AT_END(way_mov64, 5), AT_END(way_add, 4), AT_END(way_inc, 2),
    AT_END(way_lock_add, 4), AT_END(way_xadd, 7), AT_END(way_xchg, 1), AT_END(way_cmpxchg, 4),
    AT_END(way_cmpxchg8b, 4), AT_END(way_stos, 2), AT_END(way_rep_stos, 1000), AT_END(way_rep_stos_back, 1000),
    AT_END(way_rep_movs, 1000), AT_END(way_rep_movsq, 1004), AT_END(way_rep_ins, 1001), AT_END(way_fst, 5),
    AT_END(way_fnstenv, 5), AT_END(way_fnsave, 50), AT_END(way_fxsave, 256), AT_END(way_xsave, 256),
    AT_END(way_movups, 9), AT_END(way_maskmovdqu, 7), AT_END(way_sgdt, 5), AT_END(way_push, 12),
    {"way_vmovups", way_vmovups, way_vmovups_end, TARGET + 0x1000 - 17, 2, has_avx},
};

static struct soft_machine *machine(const uint8_t *begin, const uint8_t *end, uint64_t target)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	m->on_out = on_out;
	machine_long(m, 0);
	machine_put(m, MACHINE_CODE, begin, end);
	r = machine_registers(m, 0);
	r.gpr[3] = 0x0102030405060708;
	r.gpr[6] = r.gpr[7] = target;
	machine_set_registers(m, 0, &r);
	return m;
}

/* Told are the pages of the target, both times; of others only those of the page tables, and `other` if not 0. */
static void check_told(const char *name, uint64_t target, unsigned pages, uint64_t other)
{
	uint64_t first = target >> GUEST_PAGE_SHIFT;

	for (unsigned time = 0; time < 2; time++)
		for (uint64_t page = 0; page < PAGES; page++) {
			bool expected = page - first < pages, is_told = bit(told[time], page);

			if (expected != is_told && !is_table(page) && page != other >> GUEST_PAGE_SHIFT)
				fail_msg("%s at 0x%llx, time %u: page 0x%llx is %stold", name, (unsigned long long)target,
				    time + 1, (unsigned long long)page, is_told ? "" : "not ");
		}
}

static void each_way(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		const struct way *way = &ways[i];
		struct soft_machine *m;
		struct vp_registers r;

		if (!way->possible())
			continue;
		m = machine(way->begin, way->end, way->target);
		assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
		asked = 0;
		r = machine_run(m, 0);
		if (machine_vector(&r) != -1)
			fail_msg("%s at 0x%llx: exception %d", way->name, (unsigned long long)way->target,
			    machine_vector(&r));
		ask(m);
		assert_int_equal(asked, 2);
		check_told(way->name, way->target, way->pages, 0);
		soft_machine_destroy(m);
	}
}

/* Those that write to the stack besides. */
static void with_stack(void **state)
{
	static const struct way other[] = {AT_START(way_pop, 1), AT_END(way_pop, 4)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
		struct soft_machine *m = machine(other[i].begin, other[i].end, other[i].target);

		assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
		asked = 0;
		machine_run(m, 0);
		ask(m);
		check_told(other[i].name, other[i].target, other[i].pages, MACHINE_STACK - 1);
		soft_machine_destroy(m);
	}
}

/* The frame of an interrupt; the handler goes on at an address that the way left in memory. */
GUEST_CODE(back, 64, "jmp *0x600000");

static void interrupt_frames(void **state)
{
	struct soft_machine *m = machine(way_interrupt, way_interrupt_end, TARGET + 0x100);

	(void)state;
	machine_code(m, 0x7000, back);
	machine_gate64(m, 0x40, 0x8e, SEL_CODE64, 0x7000, 0);
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	asked = 0;
	machine_run(m, 0);
	ask(m);
	check_told("interrupt", TARGET + 0x100, 1, 0x600000);
	assert_true(bit(told[0], 0x600) && bit(told[1], 0x600));
	soft_machine_destroy(m);
}

/* Descriptors are written when they are used for the first time: accessed and busy bits. */
WAY(way_segment, "mov $0x60, %eax; mov %eax, %es");
WAY(way_task, "mov $0x58, %eax; ltr %ax; andb $~2, 0x205d");

static void descriptors(void **state)
{
	struct soft_machine *m = machine(way_segment, way_segment_end, 0);

	(void)state;
	machine_descriptor(m, SEL_FREE, 0, 0xfffff, 0x92, 0xc);
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	asked = 0;
	machine_run(m, 0);
	ask(m);
	assert_true(bit(told[0], MACHINE_GDT >> GUEST_PAGE_SHIFT));
	assert_false(bit(told[1], MACHINE_GDT >> GUEST_PAGE_SHIFT)); /* it is set already */
	soft_machine_destroy(m);
	m = machine(way_task, way_task_end, 0);
	machine_descriptor(m, SEL_TSS2, MACHINE_TSS2, 0x67, 0x89, 0);
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	asked = 0;
	machine_run(m, 0);
	ask(m);
	assert_true(bit(told[0], MACHINE_GDT >> GUEST_PAGE_SHIFT) && bit(told[1], MACHINE_GDT >> GUEST_PAGE_SHIFT));
	soft_machine_destroy(m);
}

/* Accessed and dirty bits of page tables are written by no instruction. */
WAY(way_walk_read, "invlpg (%rsi); mov (%rsi), %al");
WAY(way_walk_write, "invlpg (%rsi); mov (%rsi), %al; mov %bl, (%rsi)");

static uint64_t *walked;

static void forget_bits(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	on_out(m, vp, port, value);
	*walked &= ~0x60ull;
}

static void page_tables(void **state)
{
	(void)state;
	for (unsigned write = 0; write < 2; write++) {
		struct soft_machine *m = machine(write ? way_walk_write : way_walk_read,
		    write ? way_walk_write_end : way_walk_read_end, TARGET);
		uint64_t page;

		walked = machine_pte(m, TARGET);
		*walked &= ~0x60ull;
		page = (uint64_t)((uint8_t *)walked - m->ram) >> GUEST_PAGE_SHIFT;
		m->on_out = forget_bits;
		assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
		asked = 0;
		machine_run(m, 0);
		ask(m);
		assert_int_equal(*walked & 0x60, write ? 0x60 : 0x20);
		for (unsigned time = 0; time < 2; time++) {
			assert_true(bit(told[time], page));
			assert_int_equal(bit(told[time], TARGET >> GUEST_PAGE_SHIFT), write);
		}
		soft_machine_destroy(m);
	}
}

/* In ring 3, where another TLB is used. HLT ends it by #GP, whose frame is on the stack of level 0. */
static void in_ring_3(void **state)
{
	struct soft_machine *m = machine(way_mov64, way_mov64_end, TARGET + 0x100);
	struct vp_registers r = machine_registers(m, 0);

	(void)state;
	/* Pages of 4 KiB are the user's already. */
	machine_pte(m, MACHINE_CODE);
	machine_pte(m, TARGET);
	for (unsigned level = 0; level < 3; level++)
		machine_write64(m, MACHINE_TABLES + 0x1000 * level,
		    machine_read64(m, MACHINE_TABLES + 0x1000 * level) | 4);
	r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER64, .attributes = 0xa0fb};
	r.ss = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
	r.rflags |= 0x3000; /* IOPL 3 */
	machine_set_registers(m, 0, &r);
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	asked = 0;
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	ask(m);
	check_told("ring 3", TARGET + 0x100, 1, MACHINE_STACK - 0x400 - 1);
	soft_machine_destroy(m);
}

/* Off, then on: what was written meanwhile is not told, and what is in the TLB does not go on unseen. */
static void off_and_on(void **state)
{
	struct soft_machine *m = machine(way_mov64, way_mov64_end, TARGET + 0x100);
	struct vp_registers r = machine_registers(m, 0);
	uint64_t bits[PAGES / 64] = {0};

	(void)state;
	asked = 0;
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	machine_run(m, 0);
	assert_int_equal(soft_track_dirty(m->soft, false, NULL), 0);
	asked = 0;
	machine_set_registers(m, 0, &r);
	m->on_out = NULL;
	machine_run(m, 0);
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
	soft_fetch_dirty(m->soft, 0, PAGES, bits);
	for (unsigned i = 0; i < PAGES / 64; i++)
		assert_int_equal(bits[i], 0);
	machine_set_registers(m, 0, &r);
	machine_run(m, 0);
	/* In parts, not beginning at whole words. */
	memset(bits, 0, sizeof(bits));
	soft_fetch_dirty(m->soft, 0x3f0, 17, bits);
	assert_int_equal(bits[0], 1ull << 16);
	bits[0] = 0;
	soft_fetch_dirty(m->soft, 0x3f0, 17, bits);
	assert_int_equal(bits[0], 0);
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(each_way), cmocka_unit_test(with_stack),
	    cmocka_unit_test(interrupt_frames), cmocka_unit_test(descriptors), cmocka_unit_test(page_tables),
	    cmocka_unit_test(in_ring_3), cmocka_unit_test(off_and_on)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
