// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guests that would have the processor keep ever more: code without end, code entered at each of its bytes, one page at
 * thousands of addresses, more pages than the TLB has room for. What they compute must be right, and what the host has
 * given for them beside the guest's own memory stays bounded.
 */
#include "tests/double/soft_machine.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define MORE_MAX (96ull << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SHADOW 1
#else
#define HAS_SHADOW 0
#endif

/* Pages that are mapped twice count once. */
static uint64_t resident(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	unsigned long long kib = 0;
	char line[128];

	assert_non_null(f);
	while (!kib && fgets(line, sizeof(line), f))
		sscanf(line, "Pss: %llu kB", &kib);
	fclose(f);
	assert_true(kib);
	return kib << 10;
}

/* With all of the guest's memory there already. */
static struct soft_machine *begin(unsigned vps, uint64_t *before)
{
	struct soft_machine *m = soft_machine_create(vps);

	for (uint64_t at = 8 << 20; at < MACHINE_RAM; at += GUEST_PAGE_SIZE)
		m->ram[at] = 1;
	*before = resident();
	return m;
}

static void end(struct soft_machine *m, uint64_t before)
{
	uint64_t now = resident();

	if (!HAS_SHADOW && now > before + MORE_MAX)
		fail_msg("%llu MiB more than before", (unsigned long long)(now - before) >> 20);
	soft_machine_destroy(m);
}

/* --- code without end ----------------------------------------------------------------------------------- */

/* At R8, 64 bytes on each time, from 8 MiB to R12, R10 times: mov $n, %eax; add %eax, %ebx; jmp to the RET behind. What
 * was there the round before is another function. */
GUEST_CODE(writes_code, 64,
    "xor %ebx, %ebx\n"
    "xor %r9d, %r9d\n"
    "1: mov $0x800000, %r8d\n"
    "2: inc %r9d\n"
    "movb $0xb8, (%r8)\n"
    "mov %r9d, 1(%r8)\n"
    "movl $0x04ebc301, 5(%r8)\n"
    "movb $0xc3, 13(%r8)\n"
    "call *%r8\n"
    "add $64, %r8\n"
    "cmp %r12, %r8\n"
    "jb 2b\n"
    "dec %r10d\n"
    "jnz 1b\n"
    "hlt");

#define ROUNDS    2u
#define CODE_SIZE (HAS_SHADOW ? 2ull << 20 : 12ull << 20)
#define FUNCTIONS (CODE_SIZE / 64)

static void writes_code_without_end(void **state)
{
	uint64_t before, calls = ROUNDS * FUNCTIONS;
	struct soft_machine *m = begin(1, &before);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, writes_code);
	r = machine_registers(m, 0);
	r.gpr[10] = ROUNDS;
	r.gpr[12] = 0x800000 + CODE_SIZE;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal((uint32_t)r.gpr[3], (uint32_t)(calls * (calls + 1) / 2));
	end(m, before);
}

/* The same place all the time, which then has to be found stale all the time. */
GUEST_CODE(rewrites_code, 64,
    "xor %ebx, %ebx\n"
    "1: mov %r10d, 0x800001\n"
    "mov $0x800000, %r8d\n"
    "call *%r8\n"
    "dec %r10d\n"
    "jnz 1b\n"
    "hlt");
GUEST_CODE(rewritten, 64, "mov $0, %eax\nadd %eax, %ebx\nret");

static void rewrites_one_function(void **state)
{
	const uint64_t calls = HAS_SHADOW ? 5000 : 40000;
	uint64_t before;
	struct soft_machine *m = begin(1, &before);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, rewrites_code);
	machine_code(m, 0x800000, rewritten);
	r = machine_registers(m, 0);
	r.gpr[10] = calls;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal((uint32_t)r.gpr[3], (uint32_t)(calls * (calls + 1) / 2));
	end(m, before);
}

/* --- into the middle of instructions --------------------------------------------------------------------- */

/* 512 KiB of instructions that are others when entered one byte later: add $0x05050505, %eax, whatever the entry, up to
 * the RET at the end of each 64 bytes. */
GUEST_CODE(enters_all, 64,
    "xor %eax, %eax\n"
    "mov $0x800000, %r8d\n"
    "1: call *%r8\n"
    "inc %r8d\n"
    "mov %r8d, %ecx\n"
    "and $63, %ecx\n"
    "cmp $50, %ecx\n"
    "jb 2f\n"
    "or $63, %r8d\n"
    "inc %r8d\n"
    "2: cmp $0x880000, %r8d\n"
    "jb 1b\n"
    "hlt");

static void enters_at_each_byte(void **state)
{
	uint64_t before;
	struct soft_machine *m = begin(1, &before);
	struct vp_registers r;
	uint32_t sum = 0;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, enters_all);
	for (uint64_t at = 0x800000; at < 0x880000; at += 64) {
		memset(m->ram + at, 0x05, 55);
		memset(m->ram + at + 55, 0xc3, 9); /* RETs, and so also the bytes of the last ADD */
	}
	for (uint64_t at = 0x800000; at < 0x880000; at += 64)
		for (unsigned i = 0; i < 50; i++)
			for (unsigned p = i; p < 55; p += 5) {
				uint32_t v = 0;

				for (unsigned k = 0; k < 4; k++)
					v |= (uint32_t)m->ram[at + p + 1 + k] << (8 * k);
				sum += v;
			}
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal((uint32_t)r.gpr[0], sum);
	end(m, before);
}

/* --- one page at thousands of addresses -------------------------------------------------------------------- */

#define ALIAS_FIRST 0x2000000ull
#define ALIASES     4096u

GUEST_CODE(calls_aliases, 64,
    "xor %ebx, %ebx\n"
    "mov $20, %r10d\n"
    "1: mov $0x2000000, %r8d\n"
    "2: call *%r8\n"
    "add $0x1000, %r8\n"
    "cmp $0x3000000, %r8d\n"
    "jb 2b\n"
    "dec %r10d\n"
    "jnz 1b\n"
    "hlt");
GUEST_CODE(aliased, 64, "lea 0(%rip), %rax\nadd %rax, %rbx\nret");

static void one_page_at_many_addresses(void **state)
{
	uint64_t before, sum = 0;
	struct soft_machine *m = begin(1, &before);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, calls_aliases);
	machine_code(m, 0x800000, aliased);
	for (unsigned i = 0; i < ALIASES; i++) {
		*machine_pte(m, ALIAS_FIRST + i * GUEST_PAGE_SIZE) = 0x800000 | 7;
		sum += ALIAS_FIRST + i * GUEST_PAGE_SIZE + 7;
	}
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[3], 20 * sum);
	end(m, before);
}

/* --- more pages than the TLB has room for, in many address spaces ------------------------------------------ */

GUEST_CODE(fills_tlb, 64,
    "mov %cr3, %r11\n"
    "mov $40, %r10d\n"
    "1: mov %r11, %cr3\n"
    "mov $0x800000, %r8d\n"
    "2: incl (%r8)\n"
    "add (%r8), %ebx\n"
    "add $0x1000, %r8\n"
    "cmp $0x3c00000, %r8\n"
    "jb 2b\n"
    "dec %r10d\n"
    "jnz 1b\n"
    "hlt");

static void fills_the_tlb(void **state)
{
	const uint64_t pages = (0x3c00000 - 0x800000) / GUEST_PAGE_SIZE;
	uint64_t before;
	struct soft_machine *m = begin(1, &before);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, fills_tlb);
	for (uint64_t i = 0; i < pages; i++)
		machine_write32(m, 0x800000 + i * GUEST_PAGE_SIZE, 0);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal((uint32_t)r.gpr[3], (uint32_t)(pages * 40 * 41 / 2));
	end(m, before);
}

/* --- the first again, by several processors at one time ----------------------------------------------------- */

#define VPS 4u

struct attacker {
	struct soft_machine *m;
	unsigned vp;
	enum soft_stop stop;
};

static void *attack(void *argument)
{
	struct attacker *a = argument;

	a->stop = soft_vp_run(soft_vp(a->m->soft, a->vp));
	return NULL;
}

/* R8 to R12: its part of the memory. */
GUEST_CODE(writes_part, 64,
    "xor %ebx, %ebx\n"
    "xor %r9d, %r9d\n"
    "2: inc %r9d\n"
    "movb $0xb8, (%r8)\n"
    "mov %r9d, 1(%r8)\n"
    "movl $0x04ebc301, 5(%r8)\n"
    "movb $0xc3, 13(%r8)\n"
    "call *%r8\n"
    "add $256, %r8\n"
    "cmp %r12, %r8\n"
    "jb 2b\n"
    "hlt");

static void several_write_code(void **state)
{
	const uint64_t part = HAS_SHADOW ? 1 << 20 : 4 << 20, calls = part / 256;
	struct attacker attackers[VPS];
	pthread_t threads[VPS];
	uint64_t before;
	struct soft_machine *m = begin(VPS, &before);
	struct vp_registers r;

	(void)state;
	machine_code(m, MACHINE_CODE, writes_part);
	for (unsigned i = 0; i < VPS; i++) {
		machine_long(m, i);
		r = machine_registers(m, i);
		r.gpr[4] = 0x40000 + 0x1000 * i;
		r.gpr[8] = 0x800000 + i * part;
		r.gpr[12] = r.gpr[8] + part;
		machine_set_registers(m, i, &r);
		attackers[i] = (struct attacker){.m = m, .vp = i};
	}
	for (unsigned i = 0; i < VPS; i++)
		pthread_create(&threads[i], NULL, attack, &attackers[i]);
	for (unsigned i = 0; i < VPS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(attackers[i].stop, SOFT_STOP_HALT);
		r = machine_registers(m, i);
		assert_int_equal((uint32_t)r.gpr[3], (uint32_t)(calls * (calls + 1) / 2));
	}
	end(m, before);
}

/* --- as many processors as there may be, with full caches --------------------------------------------------- */

#define MANY_VPS 64u
/* 64 bytes each: mov (%rsi), %eax and add %rax, %rbx, twelve times, and RET. */
#define FILL_CODE  0x800000ull
#define FILL_PAIRS 12u
#define FILL_CALLS 60u /* enough to be translated */
#define FILL_WORD  0x7000ull
/* Pages that are reached in each address space, so that all entries of the TLB are used. */
#define FILL_PAGES  0xc00000ull
#define FILL_SPACES 8u
/* What these guests, who stay at level 0, do not use. */
#define TLB_OF_LEVEL_3 (4ull << 20)

/* Functions up to R12 are called; then all pages are read in R10 address spaces, with and without AC. */
GUEST_CODE(fills_caches, 64,
    "xor %ebx, %ebx\n"
    "mov $0x7000, %esi\n"
    "mov $0x800000, %r8d\n"
    "1: mov $60, %ecx\n"
    "2: call *%r8\n"
    "dec %ecx\n"
    "jnz 2b\n"
    "add $64, %r8\n"
    "cmp %r12, %r8\n"
    "jb 1b\n"
    "mov %cr3, %r11\n"
    "mov %cr4, %rax\n"
    "or $0x200000, %rax\n"
    "mov %rax, %r9\n"
    "3: mov %r11, %cr3\n"
    "call 4f\n"
    "stac\n"
    "mov %r9, %cr4\n"
    "call 4f\n"
    "clac\n"
    "btr $21, %r9\n"
    "mov %r9, %cr4\n"
    "bts $21, %r9\n"
    "dec %r10d\n"
    "jnz 3b\n"
    "hlt\n"
    "4: mov $0xc00000, %r8d\n"
    "5: mov (%r8), %al\n"
    "add $0x1000, %r8\n"
    "cmp $0x1000000, %r8d\n"
    "jb 5b\n"
    "ret");

static void put_functions(struct soft_machine *m, unsigned count)
{
	machine_write32(m, FILL_WORD, 3);
	for (unsigned i = 0; i < count; i++) {
		uint8_t *at = m->ram + FILL_CODE + 64ull * i;

		for (unsigned pair = 0; pair < FILL_PAIRS; pair++)
			memcpy(at + 5 * pair, "\x8b\x06\x48\x01\xc3", 5);
		at[5 * FILL_PAIRS] = 0xc3;
	}
}

struct filler {
	struct attacker a;
	pthread_barrier_t *full, *measured;
};

/* Its thread lives until all has been measured, since its stack belongs to it. */
static void *fill(void *argument)
{
	struct filler *f = argument;

	attack(&f->a);
	pthread_barrier_wait(f->full);
	pthread_barrier_wait(f->measured);
	return NULL;
}

/* What there is of code memory and has not been used: which of the two caches is full first is the guest's affair. */
static uint64_t unused_code(void)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long long kib, size = 0, unused = 0;
	bool code = false;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, " rw-s ") || strstr(line, " r-xs ") || strstr(line, " rw-p ") || strstr(line, " r-xp "))
			code = strstr(line, " rw-s ") && strstr(line, "bulkhead-code");
		if (code && sscanf(line, "Size: %llu kB", &kib) == 1)
			size = kib;
		if (code && sscanf(line, "Rss: %llu kB", &kib) == 1)
			unused += size - kib;
	}
	fclose(f);
	return unused << 10;
}

static void fill_caches(unsigned vps)
{
	const unsigned functions = (HAS_SHADOW ? 2000 : 28000) / vps;
	static struct filler fillers[MANY_VPS];
	static pthread_t threads[MANY_VPS];
	pthread_barrier_t full, measured;
	uint64_t before, now;
	struct soft_machine *m = begin(vps, &before);
	struct vp_registers r;

	pthread_barrier_init(&full, NULL, vps + 1);
	pthread_barrier_init(&measured, NULL, vps + 1);
	machine_code(m, MACHINE_CODE, fills_caches);
	put_functions(m, functions);
	for (unsigned i = 0; i < vps; i++) {
		machine_long(m, i);
		r = machine_registers(m, i);
		r.gpr[4] = 0x40000 + 0x1000 * i;
		r.gpr[10] = FILL_SPACES;
		r.gpr[12] = FILL_CODE + 64ull * functions;
		machine_set_registers(m, i, &r);
		fillers[i] = (struct filler){.a = {.m = m, .vp = i}, .full = &full, .measured = &measured};
		pthread_create(&threads[i], NULL, fill, &fillers[i]);
	}
	pthread_barrier_wait(&full);
	now = resident() + unused_code();
	pthread_barrier_wait(&measured);
	if (!HAS_SHADOW && now + TLB_OF_LEVEL_3 > before + MORE_MAX)
		fail_msg("%u processors: %llu MiB more than before", vps, (unsigned long long)(now - before) >> 20);
	for (unsigned i = 0; i < vps; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(fillers[i].a.stop, SOFT_STOP_HALT);
		r = machine_registers(m, i);
		assert_int_equal(machine_vector(&r), -1);
		assert_int_equal(r.gpr[3], 3ull * FILL_PAIRS * FILL_CALLS * functions);
	}
	pthread_barrier_destroy(&full);
	pthread_barrier_destroy(&measured);
	soft_machine_destroy(m);
}

static void full_caches_of_many(void **state)
{
	(void)state;
	fill_caches(8);
	fill_caches(9);
	fill_caches(MANY_VPS);
}

/* --- a stack that moves by 4 GiB ------------------------------------------------------------------------------- */

/* LEA with a short address cuts RSP, though it says RSP + 8. What a block reaches behind it is not where its stack was. */
GUEST_CODE(cuts_stack, 64,
    "movabs $0x100009000, %rsp\n"
    "mov $0x77, %eax\n"
    "push %rax\n"
    "jmp 1f\n"
    "1: push %rax\n"
    ".byte 0x67\n"
    "lea 8(%rsp), %rsp\n"
    "mov -16(%rsp), %rbx\n"
    "push %rbx\n"
    "mov %rsp, %rcx\n"
    "hlt");

static void stack_moves_far(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_write64(m, MACHINE_TABLES + 0x1000 + 8 * 4, (MACHINE_TABLES + 0x2000) | 7);
	machine_code(m, MACHINE_CODE, cuts_stack);
	machine_write64(m, 0x8fe8, 0x55);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[1], 0x8ff0);
	assert_int_equal(r.gpr[3], 0x55);
	assert_int_equal(machine_read64(m, 0x8ff0), 0x55);
	soft_machine_destroy(m);
}

/* 32-bit code, whose ESP comes round at both ends. Each part uses the page where it begins first, so that it is known. */
GUEST_CODE(rounds_stack, 32,
    "mov $0x18, %esp\n"
    "push %eax\n"
    "pop %eax\n"
    "jmp 1f\n"
    "1: push $0x11\n" /* at 0x14 */
    "sub $0x20, %esp\n"
    "mov 0x20(%esp), %ebx\n"
    "movl $0x22, 0x24(%esp)\n" /* at 0x18 */
    "add $0x20, %esp\n"
    "mov $0x8ff0, %esp\n"
    "jmp 2f\n"
    "2: push %eax\n"
    "pop %eax\n"
    "lea -0x100(%esp), %esp\n"
    "lea 0x100(%esp), %esp\n"
    "mov $4, %ebp\n"
    "mov 0xfffffffc(%ebp), %ecx\n" /* at 0 */
    "mov $0xfffffff0, %edi\n"
    "mov 0x10(%edi,%ebp), %edx\n" /* at 4 */
    "mov $0x40000000, %esi\n"
    "mov 0x18(,%esi,4), %esi\n" /* at 0x18 */
    "hlt");

static void stack_comes_round(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	for (unsigned upper = 0; upper < 2; upper++) {
		machine_protected(m, 0);
		machine_code(m, MACHINE_CODE, rounds_stack);
		machine_write32(m, 0, 0x33);
		machine_write32(m, 4, 0x44);
		r = machine_registers(m, 0);
		for (unsigned i = 0; i < 16; i++)
			r.gpr[i] |= (uint64_t)upper * 0x1234567ull << 32;
		r.gpr[9] = 0x99;
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), -1);
		assert_int_equal(r.gpr[3], 0x11);
		assert_int_equal(r.gpr[1], 0x33);
		assert_int_equal(r.gpr[2], 0x44);
		assert_int_equal(r.gpr[6], 0x22);
		assert_int_equal(r.gpr[4], 0x8ff0);
		assert_int_equal(r.gpr[9], 0x99);
		assert_int_equal(machine_read32(m, 0x18), 0x22);
	}
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(writes_code_without_end), cmocka_unit_test(rewrites_one_function),
	    cmocka_unit_test(enters_at_each_byte),     cmocka_unit_test(one_page_at_many_addresses),
	    cmocka_unit_test(fills_the_tlb),           cmocka_unit_test(several_write_code),
	    cmocka_unit_test(stack_moves_far),         cmocka_unit_test(stack_comes_round),
	    cmocka_unit_test(full_caches_of_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
