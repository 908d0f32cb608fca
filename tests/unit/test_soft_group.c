// SPDX-License-Identifier: GPL-2.0-or-later
/* Several operands by one register in a block, which translated code looks for at once: in two pages, in pages that are not there or
 * may not be written, at a device, in code, and with rights that change between them. */
#include "tests/double/soft_machine.h"

#include <string.h>

#define POINTERS 0x30000u /* ends with 0 */
#define PLAIN    0x400000u
#define CROSSING 0x500ff0u /* 16 bytes in one page, 16 in the next */
#define NEXT     0x501000u
#define ELSEWHERE 0x600000u

/* For each pointer: a = [p]; [p + 8] += a; p moves and comes back; [p + 16] = a; a = [p + 24]; rdi += a. */
GUEST_CODE(walk, 64,
    "mov $0x30000, %ebx\n"
    "xor %edi, %edi\n"
    "1: mov (%rbx), %rsi\n"
    "test %rsi, %rsi\n"
    "jz 2f\n"
    "mov (%rsi), %rax\n"
    "add %rax, 8(%rsi)\n"
    "add $0x40, %rsi\n"
    "mov %rax, -0x30(%rsi)\n"
    "mov -0x28(%rsi), %rax\n"
    "add %rax, %rdi\n"
    "add $8, %rbx\n"
    "jmp 1b\n"
    "2: hlt");
#define WALK_ADD   18u /* add %rax, 8(%rsi) */
#define WALK_STORE 26u /* mov %rax, -0x30(%rsi) */

static struct soft_machine *machine_with_pointers(unsigned plain, uint64_t last)
{
	struct soft_machine *m = soft_machine_create(1);

	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, walk);
	for (unsigned i = 0; i < plain; i++)
		machine_write64(m, POINTERS + 8 * i, PLAIN);
	machine_write64(m, POINTERS + 8 * plain, last);
	machine_write64(m, POINTERS + 8 * plain + 8, 0);
	machine_write64(m, PLAIN, 3);
	machine_write64(m, PLAIN + 8, 0);
	machine_write64(m, PLAIN + 24, 5);
	return m;
}

static void operands_in_one_page(void **state)
{
	struct soft_machine *m = machine_with_pointers(999, PLAIN);
	struct vp_registers r;

	(void)state;
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[7], 5000);
	assert_int_equal(machine_read64(m, PLAIN + 8), 3000);
	assert_int_equal(machine_read64(m, PLAIN + 16), 3);
	soft_machine_destroy(m);
}

static void operands_in_two_pages(void **state)
{
	struct soft_machine *m = machine_with_pointers(200, CROSSING);
	struct vp_registers r;

	(void)state;
	for (unsigned i = 0; i < 400; i++)
		machine_write64(m, POINTERS + 8 * (200 + i), i & 1 ? PLAIN : CROSSING);
	machine_write64(m, POINTERS + 8 * 600, 0);
	*machine_pte(m, NEXT) = ELSEWHERE | 7;
	machine_write64(m, CROSSING, 7);
	machine_write64(m, CROSSING + 8, 0);
	machine_write64(m, ELSEWHERE + 8, 11);
	machine_write64(m, NEXT, 0x1234);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[7], 400 * 5 + 200 * 11);
	assert_int_equal(machine_read64(m, CROSSING + 8), 1400);
	assert_int_equal(machine_read64(m, ELSEWHERE), 7);
	assert_int_equal(machine_read64(m, NEXT), 0x1234);
	assert_int_equal(machine_read64(m, PLAIN + 8), 1200);
	soft_machine_destroy(m);
}

static void assert_fault(struct soft_machine *m, const struct vp_registers *r, uint64_t place, uint64_t cr2, uint64_t code)
{
	uint64_t frame = r->gpr[4];

	assert_int_equal(machine_vector(r), 14);
	assert_int_equal(r->cr2, cr2);
	assert_int_equal(machine_read64(m, frame), code);
	assert_int_equal(machine_read64(m, frame + 8), MACHINE_CODE + place);
}

/* What came before the fault is done, and nothing else. */
static void second_page_is_missing(void **state)
{
	struct soft_machine *m = machine_with_pointers(200, CROSSING);
	struct vp_registers r;

	(void)state;
	*machine_pte(m, NEXT) = 0;
	machine_write64(m, CROSSING, 7);
	machine_write64(m, CROSSING + 8, 1);
	r = machine_run(m, 0);
	assert_fault(m, &r, WALK_STORE, NEXT, 2);
	assert_int_equal(r.gpr[0], 7);
	assert_int_equal(r.gpr[6], CROSSING + 0x40);
	assert_int_equal(r.gpr[7], 1000);
	assert_int_equal(machine_read64(m, CROSSING + 8), 8);
	soft_machine_destroy(m);
}

/* The group is looked for to be written, though its first operand is only read. */
static void page_may_not_be_written(void **state)
{
	for (unsigned crosses = 0; crosses < 2; crosses++) {
		uint64_t pointer = crosses ? CROSSING : NEXT;
		struct soft_machine *m = machine_with_pointers(200, pointer);
		struct vp_registers r, start;

		(void)state;
		*machine_pte(m, NEXT) = ELSEWHERE | 5;
		start = machine_registers(m, 0);
		start.cr0 |= 1u << 16; /* WP */
		machine_set_registers(m, 0, &start);
		machine_write64(m, CROSSING, 7);
		machine_write64(m, ELSEWHERE, 7);
		machine_write64(m, ELSEWHERE + 8, 0x4321);
		r = machine_run(m, 0);
		assert_fault(m, &r, crosses ? WALK_STORE : WALK_ADD, crosses ? NEXT : NEXT + 8, 3);
		assert_int_equal(r.gpr[0], 7);
		assert_int_equal(machine_read64(m, ELSEWHERE), 7);
		assert_int_equal(machine_read64(m, ELSEWHERE + 8), 0x4321);
		soft_machine_destroy(m);
	}
}

static void operands_of_a_device(void **state)
{
	struct soft_machine *m = machine_with_pointers(200, MACHINE_MMIO);
	struct vp_registers r;

	(void)state;
	m->mmio_value = 2;
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(m->mmio_reads, 3);
	assert_int_equal(m->mmio_writes, 2);
	soft_machine_destroy(m);
}

/* The group lies over the constant that a function returns. */
GUEST_CODE(rewrites, 64,
    "mov $0x11000, %esi\n"
    "xor %edi, %edi\n"
    "mov $1000, %ecx\n"
    "1: mov 0x20(%rsi), %rax\n"
    "add %ecx, 0x28(%rsi)\n"
    "mov %ecx, 1(%rsi)\n"
    "mov 0x28(%rsi), %rdx\n"
    "call *%rsi\n"
    "add %rax, %rdi\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "hlt");
GUEST_CODE(constant, 64, "mov $0, %eax\nret");

static void operands_in_code(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, rewrites);
	machine_code(m, 0x11000, constant);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[7], 1000 * 1001 / 2);
	assert_int_equal(machine_read64(m, 0x11028), 1000 * 1001 / 2);
	soft_machine_destroy(m);
}

/* A user's page at level 0 with SMAP: allowed for the first three, not for the fourth, though nothing else has changed. */
GUEST_CODE(closes, 64,
    "mov $0x400000, %esi\n"
    "mov $200, %ecx\n"
    "1: stac\n"
    "mov (%rsi), %rax\n"
    "mov 8(%rsi), %rax\n"
    "mov 16(%rsi), %rax\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "mov (%rsi), %rax\n"
    "mov 8(%rsi), %rax\n"
    "mov 16(%rsi), %rax\n"
    "clac\n"
    "mov 24(%rsi), %rax\n"
    "hlt");

static void rights_change_between(void **state)
{
	for (unsigned smap = 0; smap < 2; smap++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers r;

		(void)state;
		machine_long(m, 0);
		machine_code(m, MACHINE_CODE, closes);
		*machine_pte(m, MACHINE_CODE) = MACHINE_CODE | 3;
		for (uint64_t page = 0; page < PLAIN; page += 0x1000)
			if (page < 0x200000)
				*machine_pte(m, page) = page | 3;
		*machine_pte(m, PLAIN) = PLAIN | 7;
		r = machine_registers(m, 0);
		r.cr4 |= smap << 21;
		machine_set_registers(m, 0, &r);
		machine_write64(m, PLAIN + 24, 99);
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), smap ? 14 : -1);
		if (smap) {
			assert_int_equal(r.cr2, PLAIN + 24);
			assert_int_equal(machine_read64(m, r.gpr[4]), 1);
		} else {
			assert_int_equal(r.gpr[0], 99);
		}
		soft_machine_destroy(m);
	}
}

/* A device, when it is written to the last time, has the page be another. Nothing here uses the stack, so that there is no window to
 * be taken away. */
GUEST_CODE(asks_a_device, 64,
    "mov $0x400000, %esi\n"
    "mov $0xfed00000, %edi\n"
    "mov $200, %ecx\n"
    "xor %r8d, %r8d\n"
    "1: mov (%rsi), %rax\n"
    "mov 8(%rsi), %rax\n"
    "mov %ecx, (%rdi)\n"
    "mov 16(%rsi), %rdx\n"
    "mov %rdx, 24(%rsi)\n"
    "add %rdx, %r8\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "hlt");

static bool flush_all;

static void map_elsewhere(struct soft_machine *m, unsigned vp, uint64_t value)
{
	struct soft_vp *self = soft_vp(m->soft, vp);

	if (value != 1)
		return;
	*machine_pte(m, PLAIN) = ELSEWHERE | 7;
	if (flush_all)
		soft_vp_flush_tlb(self, self);
	else
		soft_vp_flush_tlb_page(self, self, PLAIN);
}

static void page_is_another_behind_a_device(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers r;

		(void)state;
		flush_all = i;
		machine_long(m, 0);
		machine_code(m, MACHINE_CODE, asks_a_device);
		*machine_pte(m, PLAIN) = PLAIN | 7;
		machine_write64(m, PLAIN + 16, 1);
		machine_write64(m, ELSEWHERE + 16, 1000);
		m->on_mmio_write = map_elsewhere;
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), -1);
		assert_int_equal(r.gpr[8], 199 + 1000);
		assert_int_equal(machine_read64(m, PLAIN + 24), 1);
		assert_int_equal(machine_read64(m, ELSEWHERE + 24), 1000);
		soft_machine_destroy(m);
	}
}

/* Vectors that must be aligned, and one that is not. */
GUEST_CODE(aligned, 64,
    "mov $0x30000, %ebx\n"
    "1: mov (%rbx), %rsi\n"
    "test %rsi, %rsi\n"
    "jz 2f\n"
    "movups (%rsi), %xmm0\n"
    "movaps 0x10(%rsi), %xmm1\n"
    "movaps %xmm0, 0x20(%rsi)\n"
    "movups %xmm1, 0x31(%rsi)\n"
    "add $8, %rbx\n"
    "jmp 1b\n"
    "2: hlt");

static void aligned_operands(void **state)
{
	for (unsigned askew = 0; askew < 2; askew++) {
		struct soft_machine *m = machine_with_pointers(200, PLAIN + askew * 8);
		struct vp_registers r;

		(void)state;
		machine_code(m, MACHINE_CODE, aligned);
		for (unsigned i = 0; i < 32; i++)
			m->ram[PLAIN + i] = (uint8_t)i;
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), askew ? 13 : -1);
		assert_memory_equal(m->ram + PLAIN + 0x20, m->ram + PLAIN, 16);
		assert_memory_equal(m->ram + PLAIN + 0x31, m->ram + PLAIN + 0x10, 16);
		soft_machine_destroy(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(operands_in_one_page),
	    cmocka_unit_test(operands_in_two_pages),
	    cmocka_unit_test(second_page_is_missing),
	    cmocka_unit_test(page_may_not_be_written),
	    cmocka_unit_test(operands_of_a_device),
	    cmocka_unit_test(operands_in_code),
	    cmocka_unit_test(rights_change_between),
	    cmocka_unit_test(page_is_another_behind_a_device),
	    cmocka_unit_test(aligned_operands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
