// SPDX-License-Identifier: GPL-2.0-or-later
/* Code that changes while it runs, a full block cache, and several VPs on the same code and page tables. */
#include "tests/double/soft_machine.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

/* --- one VP -------------------------------------------------------------------------------------------------------- */

/* The store changes the immediate of the instruction right behind it (at 11 + 1 from the start). */
GUEST_CODE(modify_next, 64,
    "movl $0x22222222, 0x1000c\n"
    "mov $0x11111111, %eax\n"
    "hlt");

static void next_instruction_changes(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, modify_next);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0x22222222);
	soft_machine_destroy(m);
}

/* A function that is rewritten between calls, from the same page and from another. */
GUEST_CODE(modify_loop, 64,
    "xor %ebx, %ebx\n"
    "mov $1000, %ecx\n"
    "1: movl %ecx, 0x11001\n"
    "mov $0x11000, %edx\n"
    "call *%rdx\n"
    "add %rax, %rbx\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "hlt");
GUEST_CODE(modified_function, 64, "mov $0, %eax\nret");

static void function_changes(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, modify_loop);
	machine_code(m, 0x11000, modified_function);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[3], 1000 * 1001 / 2);
	soft_machine_destroy(m);
}

/* REPNE SCASB that runs into a page that is not there, just after a store into another page's code: what wants attention
 * by that must not show in the flags, which are those of before. */
GUEST_CODE(scans_off, 64,
    "mov $0x11000, %edx\n"
    "call *%rdx\n"
    "xor %ebx, %ebx\n"
    "stc\n"
    "movb $0xb8, 0x11000\n"
    "mov $0x500ff0, %edi\n"
    "mov $-1, %rcx\n"
    "mov $1, %eax\n"
    "repne scasb\n"
    "hlt");

static void comparison_behind_a_change(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, scans_off);
	machine_code(m, 0x11000, modified_function);
	memset(m->ram + 0x500ff0, 0, 16);
	*machine_pte(m, 0x501000) = 0;
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 14);
	assert_int_equal(r.gpr[7], 0x501000);
	assert_int_equal(machine_read64(m, r.gpr[4] + 24) & 0x41, 0x41); /* ZF CF */
	soft_machine_destroy(m);
}

/* Data beside code in one page: stores there must not cost a decode each, and must not be lost. */
GUEST_CODE(data_beside_code, 64,
    "mov $100000, %ecx\n"
    "1: add %rcx, 0x10800\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "mov 0x10800, %rax\n"
    "hlt");

static void data_in_a_page_of_code(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, data_beside_code);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 100000ull * 100001 / 2);
	soft_machine_destroy(m);
}

/* An instruction across two pages, the second of which is first missing, then changed, then mapped elsewhere. */
GUEST_CODE(crossing, 64, "mov $0x44332211, %eax\nhlt");

static void instruction_across_pages(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers start, r;

	(void)state;
	machine_long(m, 0);
	*machine_pte(m, 0x501000) = 0;
	machine_code(m, 0x500ffd, crossing);
	start = machine_registers(m, 0);
	start.rip = 0x500ffd;
	machine_set_registers(m, 0, &start);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 14);
	assert_int_equal(r.cr2, 0x501000);
	assert_int_equal(machine_read64(m, r.gpr[4]), 0x10); /* a fetch, with NX enabled */
	assert_int_equal(machine_read64(m, r.gpr[4] + 8), 0x500ffd);
	*machine_pte(m, 0x501000) = 0x501000 | 7;
	machine_set_registers(m, 0, &start);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0x44332211);
	m->ram[0x501000] = 0x99;
	soft_memory_written(m->soft, 0x501000, 1);
	machine_set_registers(m, 0, &start);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0x44992211);
	memcpy(m->ram + 0x700000, "\xaa\xbb\xf4", 3);
	*machine_pte(m, 0x501000) = 0x700000 | 7;
	machine_set_registers(m, 0, &start);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0xbbaa2211);
	soft_machine_destroy(m);
}

/* The same code at two addresses, with RIP-relative operands and branches. */
GUEST_CODE(relative, 64,
    "lea 0(%rip), %rax\n"
    "jmp 1f\n"
    "1: lea 0(%rip), %rbx\n"
    "hlt");

static void code_at_two_addresses(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, 0x700000, relative);
	*machine_pte(m, 0x500000) = 0x700000 | 7;
	*machine_pte(m, 0x600000) = 0x700000 | 7;
	for (unsigned i = 0; i < 6; i++) {
		uint64_t base = i & 1 ? 0x600000 : 0x500000;

		r = machine_registers(m, 0);
		r.rip = base;
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(r.gpr[0], base + 7);
		assert_int_equal(r.gpr[3], base + 7 + 2 + 7);
	}
	soft_machine_destroy(m);
}

/* More code than the cache holds: half a million instructions, and room for 75,000. */
static void more_code_than_the_cache_holds(void **state)
{
	struct soft_machine *m = soft_machine_create(8);
	const uint64_t first = 8 << 20, last = 9 << 20;
	struct vp_registers r;
	uint32_t expected = 0;

	(void)state;
	machine_long(m, 0);
	for (uint64_t at = first; at < last; at += 2, expected++)
		memcpy(m->ram + at, "\xff\xc0", 2);
	memcpy(m->ram + last, "\xf4", 1);
	for (unsigned round = 0; round < 2; round++) {
		r = machine_registers(m, 0);
		r.rip = first;
		r.gpr[0] = 0;
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(r.gpr[0], expected);
	}
	soft_machine_destroy(m);
}

/* --- several VPs ----------------------------------------------------------------------------------------------------- */

struct runner {
	struct soft_machine *m;
	unsigned vp;
	enum soft_stop stop;
};

static void *run_vp(void *argument)
{
	struct runner *r = argument;

	r->stop = soft_vp_run(soft_vp(r->m->soft, r->vp));
	return NULL;
}

/* VP 0 rewrites the function, then raises the flag; VP 1 waits for the flag, calls, and answers. */
GUEST_CODE(cross_writer, 64,
    "mov $1, %ecx\n"
    "1: movl %ecx, 0x11001\n"
    "mov %ecx, 0x20000\n"
    "2: pause\n"
    "cmp %ecx, 0x20040\n"
    "jne 2b\n"
    "inc %ecx\n"
    "cmp $1000, %ecx\n"
    "jne 1b\n"
    "hlt");
GUEST_CODE(cross_reader, 64,
    "xor %ebx, %ebx\n"
    "mov $1, %ecx\n"
    "mov $0x11000, %edx\n"
    "1: pause\n"
    "cmp %ecx, 0x20000\n"
    "jne 1b\n"
    "call *%rdx\n"
    "cmp %ecx, %eax\n"
    "setne %al\n"
    "movzbl %al, %eax\n"
    "add %eax, %ebx\n"
    "mov %ecx, 0x20040\n"
    "inc %ecx\n"
    "cmp $1000, %ecx\n"
    "jne 1b\n"
    "hlt");

static void code_changes_on_another_vp(void **state)
{
	struct soft_machine *m = soft_machine_create(2);
	struct runner runners[2];
	pthread_t threads[2];
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_long(m, 1);
	machine_code(m, MACHINE_CODE, cross_writer);
	machine_code(m, 0x12000, cross_reader);
	machine_code(m, 0x11000, modified_function);
	r = machine_registers(m, 1);
	r.rip = 0x12000;
	r.gpr[4] = 0xc000;
	machine_set_registers(m, 1, &r);
	for (unsigned i = 0; i < 2; i++) {
		runners[i] = (struct runner){.m = m, .vp = i};
		pthread_create(&threads[i], NULL, run_vp, &runners[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(runners[i].stop, SOFT_STOP_HALT);
	}
	assert_int_equal(machine_registers(m, 1).gpr[3], 0);
	soft_machine_destroy(m);
}

/* VP 1 changes the function that VP 0 calls, with nothing between them: each call is one of the two; and when VP 1 has
 * written the third and come to its end, VP 0 comes to it too. The immediate is aligned, so one store changes it. */
GUEST_CODE(flips, 64,
    "mov $20000, %ecx\n"
    "1: movl $0xaaaaaaaa, 0x11004\n"
    "movl $0xbbbbbbbb, 0x13004\n" /* 0x13000 is the same page */
    "dec %ecx\n"
    "jnz 1b\n"
    "movl $0xcccccccc, 0x11004\n"
    "hlt");
GUEST_CODE(flipped_caller, 64,
    "xor %ebx, %ebx\n"
    "xor %esi, %esi\n"
    "1: call 0x11003 - 0x12000 + flipped_caller\n"
    "inc %esi\n"
    "cmp $0xaaaaaaaa, %eax\n"
    "je 1b\n"
    "cmp $0xbbbbbbbb, %eax\n"
    "je 1b\n"
    "cmp $0xcccccccc, %eax\n"
    "je 2f\n"
    "inc %ebx\n"
    "jmp 1b\n"
    "2: hlt");
GUEST_CODE(flipped, 64, "nop\nnop\nnop\nmov $0xaaaaaaaa, %eax\nret");

static void code_changes_at_any_time(void **state)
{
	struct soft_machine *m = soft_machine_create(2);
	struct runner runners[2];
	pthread_t threads[2];
	struct vp_registers r;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		machine_long(m, i);
		r = machine_registers(m, i);
		r.rip = i ? 0x14000 : 0x12000;
		r.gpr[4] = i ? 0xc000 : 0xd000;
		machine_set_registers(m, i, &r);
	}
	machine_code(m, 0x11000, flipped);
	machine_code(m, 0x12000, flipped_caller);
	machine_code(m, 0x14000, flips);
	*machine_pte(m, 0x13000) = 0x11000 | 7;
	for (unsigned i = 0; i < 2; i++) {
		runners[i] = (struct runner){.m = m, .vp = i};
		pthread_create(&threads[i], NULL, run_vp, &runners[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(runners[i].stop, SOFT_STOP_HALT);
	}
	r = machine_registers(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[3], 0);
	assert_true(r.gpr[6] > 0);
	soft_machine_destroy(m);
}

/* VP 1 stores into the loop that VP 0 runs, without end: VP 0 goes on, and hears of a kick. */
GUEST_CODE(stored_into, 64,
    "1: mov $0, %al\n"
    "incl 0x20000\n"
    "jmp 1b");
GUEST_CODE(storing, 64,
    "1: movb %cl, 0x11001\n"
    "inc %ecx\n"
    "jmp 1b");

#define KICKS 40u

struct kicked {
	struct soft_machine *m;
	_Atomic unsigned count;
};

static void *run_until_kicked(void *argument)
{
	struct kicked *k = argument;

	while (atomic_load(&k->count) < KICKS && soft_vp_run(soft_vp(k->m->soft, 0)) == SOFT_STOP_KICK)
		atomic_fetch_add(&k->count, 1);
	return NULL;
}

static uint32_t volatile_read32(struct soft_machine *m, uint64_t gpa)
{
	return __atomic_load_n((uint32_t *)(void *)(m->ram + gpa), __ATOMIC_ACQUIRE);
}

static void code_that_never_rests(void **state)
{
	struct kicked k = {.m = soft_machine_create(2)};
	struct runner writer = {.m = k.m, .vp = 1};
	pthread_t threads[2];
	struct vp_registers r;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		machine_long(k.m, i);
		r = machine_registers(k.m, i);
		r.rip = i ? 0x12000 : 0x11000;
		machine_set_registers(k.m, i, &r);
	}
	machine_code(k.m, 0x11000, stored_into);
	machine_code(k.m, 0x12000, storing);
	pthread_create(&threads[1], NULL, run_vp, &writer);
	pthread_create(&threads[0], NULL, run_until_kicked, &k);
	for (unsigned i = 0; i < KICKS; i++) {
		uint32_t before = volatile_read32(k.m, 0x20000);

		while (volatile_read32(k.m, 0x20000) == before)
			sched_yield();
		soft_vp_kick(soft_vp(k.m->soft, 0));
		while (atomic_load(&k.count) == i)
			sched_yield();
	}
	pthread_join(threads[0], NULL);
	soft_vp_kick(soft_vp(k.m->soft, 1));
	pthread_join(threads[1], NULL);
	assert_int_equal(writer.stop, SOFT_STOP_KICK);
	assert_int_equal(atomic_load(&k.count), KICKS);
	soft_machine_destroy(k.m);
}

/* Locked increments, some across a page boundary and so under the slow lock. */
GUEST_CODE(locked, 64,
    "mov $20000, %ecx\n"
    "1: lock incl 0x20000\n"
    "lock incl 0x20ffe\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "hlt");

static void locked_operations(void **state)
{
	struct soft_machine *m = soft_machine_create(2);
	struct runner runners[2];
	pthread_t threads[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		machine_long(m, i);
		runners[i] = (struct runner){.m = m, .vp = i};
	}
	machine_code(m, MACHINE_CODE, locked);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, run_vp, &runners[i]);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(machine_read32(m, 0x20000), 40000);
	assert_int_equal(machine_read32(m, 0x20ffe), 40000);
	soft_machine_destroy(m);
}

/* The guest reads through a page whose mapping the host flips; after a flush it must see the new one. It says
 * so itself: it copies what it reads to 0x20000 for ever. */
GUEST_CODE(flush_reader, 64,
    "1: mov 0x500000, %eax\n"
    "mov %eax, 0x20000\n"
    "jmp 1b");

static void flush_from_another_thread(void **state)
{
	struct soft_machine *m = soft_machine_create(2);
	struct runner runner = {.m = m};
	uint64_t *pte;
	pthread_t thread;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, flush_reader);
	pte = machine_pte(m, 0x500000);
	machine_write32(m, 0x700000, 0x10000);
	machine_write32(m, 0x701000, 0x10001);
	__atomic_store_n(pte, 0x700000 | 7, __ATOMIC_SEQ_CST);
	pthread_create(&thread, NULL, run_vp, &runner);
	for (unsigned i = 1; i < 200; i++) {
		uint32_t old = 0x10000 | (~i & 1), now = 0x10000 | (i & 1);

		while (volatile_read32(m, 0x20000) != old)
			;
		/* The old frame gets another value after the flush: nobody may see that one. */
		__atomic_store_n(pte, (i & 1 ? 0x701000 : 0x700000) | 7, __ATOMIC_SEQ_CST);
		if (i % 3)
			soft_vp_flush_tlb_page(soft_vp(m->soft, 0), NULL, 0x500000);
		else
			soft_vp_flush_tlb(soft_vp(m->soft, 0), NULL);
		__atomic_store_n((uint32_t *)(void *)(m->ram + (i & 1 ? 0x700000 : 0x701000)), 0xdead, __ATOMIC_SEQ_CST);
		while (volatile_read32(m, 0x20000) != now)
			assert_int_not_equal(volatile_read32(m, 0x20000), 0xdead);
		__atomic_store_n((uint32_t *)(void *)(m->ram + (i & 1 ? 0x700000 : 0x701000)), old, __ATOMIC_SEQ_CST);
	}
	soft_vp_kick(soft_vp(m->soft, 0));
	pthread_join(thread, NULL);
	assert_int_equal(runner.stop, SOFT_STOP_KICK);
	/* A VP that does not run is not waited for. */
	soft_vp_flush_tlb(soft_vp(m->soft, 0), NULL);
	soft_vp_flush_tlb(soft_vp(m->soft, 1), NULL);
	soft_machine_destroy(m);
}

/* Two VPs that flush each other's TLB from within their own calls to the host. */
GUEST_CODE(flush_callers, 64,
    "mov $500, %ebx\n"
    "1: out %al, $0x90\n"
    "dec %ebx\n"
    "jnz 1b\n"
    "hlt");

static void flush_other(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	(void)port, (void)value;
	soft_vp_flush_tlb(soft_vp(m->soft, !vp), soft_vp(m->soft, vp));
	soft_vp_flush_tlb_page(soft_vp(m->soft, vp), soft_vp(m->soft, vp), 0x500000);
}

static void flush_each_other(void **state)
{
	struct soft_machine *m = soft_machine_create(2);
	struct runner runners[2];
	pthread_t threads[2];

	(void)state;
	m->on_out = flush_other;
	for (unsigned i = 0; i < 2; i++) {
		machine_long(m, i);
		runners[i] = (struct runner){.m = m, .vp = i};
	}
	machine_code(m, MACHINE_CODE, flush_callers);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, run_vp, &runners[i]);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(runners[i].stop, SOFT_STOP_HALT);
	}
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(next_instruction_changes),
	    cmocka_unit_test(function_changes),
	    cmocka_unit_test(comparison_behind_a_change),
	    cmocka_unit_test(data_in_a_page_of_code),
	    cmocka_unit_test(instruction_across_pages),
	    cmocka_unit_test(code_at_two_addresses),
	    cmocka_unit_test(more_code_than_the_cache_holds),
	    cmocka_unit_test(code_changes_on_another_vp),
	    cmocka_unit_test(code_changes_at_any_time),
	    cmocka_unit_test(code_that_never_rests),
	    cmocka_unit_test(locked_operations),
	    cmocka_unit_test(flush_from_another_thread),
	    cmocka_unit_test(flush_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
