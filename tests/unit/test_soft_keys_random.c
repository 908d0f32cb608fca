// SPDX-License-Identifier: GPL-2.0-or-later
/* Protection keys under way: nothing that was looked up under other rights outlives a change of them, nor of a mapping or the address
 * space. Random accesses, each with what a model of the manual's rules (SDM volume 3, 4.6.2 and 4.7) says must come of it. */
#include "tests/double/soft_machine.h"

#define CR0_WP       (1ull << 16)
#define CR4_PCIDE    (1ull << 17)
#define CR4_OSXSAVE  (1ull << 18)
#define CR4_PKE      (1ull << 22)
#define CR4_PKS      (1ull << 24)
#define CR3_KEEP     (1ull << 63)
#define KEY(k)       ((uint64_t)(k) << 59)

enum { GP = 13, PF = 14 };

static uint32_t random_state;

static uint32_t next_random(uint32_t below)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)(random_state >> 8) * below) >> 24);
}

static struct vp_registers start(struct soft_machine *m, uint64_t cr4)
{
	struct vp_registers r;

	machine_long(m, 0);
	r = machine_registers(m, 0);
	r.cr4 |= cr4;
	return r;
}

#define SCRIPT     0x30000ull
#define STEPS      4000u
#define XSAVE_AREA 0x60000ull
#define HANDLER    0x11000ull
#define FAULTED    0xfa000000ull

/* A step at RBX: what to do, an address, a value, and a place for the result. R15: where steps begin, R13: the stack. */
GUEST_CODE(perform, 64,
    "lea 1f(%rip), %r15\n"
    "mov %rsp, %r13\n"
    "1: add $32, %rbx\n"
    "mov (%rbx), %rdi\n"
    "mov 8(%rbx), %rsi\n"
    "mov 16(%rbx), %rax\n"
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "cmp $1, %edi\n"
    "jb 10f\n"
    "je 11f\n"
    "cmp $3, %edi\n"
    "jb 12f\n"
    "je 13f\n"
    "cmp $5, %edi\n"
    "jb 14f\n"
    "je 15f\n"
    "cmp $7, %edi\n"
    "jb 16f\n"
    "je 17f\n"
    "cmp $9, %edi\n"
    "jb 18f\n"
    "je 19f\n"
    "hlt\n"
    "10: mov (%rsi), %rax\n"
    "mov %rax, 24(%rbx)\n"
    "jmp 1b\n"
    "11: mov %rax, (%rsi)\n"
    "mov %rcx, 24(%rbx)\n"
    "jmp 1b\n"
    "12: wrpkru\n"
    "rdpkru\n"
    "mov %rax, 24(%rbx)\n"
    "jmp 1b\n"
    "13: mov $0x6e1, %ecx\n"
    "wrmsr\n"
    "jmp 1b\n"
    "14: mov %rax, %cr3\n"
    "jmp 1b\n"
    "15: mov %rax, (%rsi)\n"
    "mov 24(%rbx), %rsi\n"
    "invlpg (%rsi)\n"
    "jmp 1b\n"
    "16: mov %rsi, %rsp\n"
    "jmp 2f\n"
    "2: push %rax\n"
    "pop %rcx\n"
    "push %rcx\n"
    "pop %rcx\n"
    "mov %rcx, 24(%rbx)\n"
    "mov %r13, %rsp\n"
    "jmp 1b\n"
    "17: mov (%rsi), %r8\n"
    "mov 8(%rsi), %r9\n"
    "add 16(%rsi), %r8\n"
    "add %r9, %r8\n"
    "mov %r8, 24(%rbx)\n"
    "jmp 1b\n"
    "18: mov (%rsi), %r8\n"
    "mov 8(%rsi), %r9\n"
    "wrpkru\n"
    "mov 16(%rsi), %r10\n"
    "mov %r10, 24(%rbx)\n"
    "jmp 1b\n"
    "19: mov %eax, 0x60a80\n"
    "mov $0x200, %eax\n"
    "xrstor64 0x60000\n"
    "rdpkru\n"
    "mov %rax, 24(%rbx)\n"
    "jmp 1b\n");

GUEST_CODE(page_fault, 64,
    "pop %rax\n"
    "mov $0xfa000000, %ecx\n"
    "or %rcx, %rax\n"
    "mov %rax, 24(%rbx)\n"
    "mov %r15, (%rsp)\n"
    "mov %r13, 24(%rsp)\n"
    "iretq\n");

GUEST_CODE(set_xcr0, 64, "xor %ecx, %ecx\nxor %edx, %edx\nxsetbv\nhlt");

enum step_kind {
	STEP_READ, STEP_WRITE, STEP_PKRU, STEP_PKRS, STEP_SPACE, STEP_MAP, STEP_STACK, STEP_GROUP, STEP_BETWEEN, STEP_RESTORE, STEP_END
};

/* Two address spaces, with the same linear pages: some 4 MiB apart, so that they take the same place in a TLB, and the last
 * of 2 MiB. Frames are at FRAMES; those of large pages behind. */
#define SPACES 2u
#define PAGES  9u
#define LARGE  (PAGES - 1)
#define FRAMES 0x3000000ull
#define FRAME_COUNT 12u
#define LARGE_FRAMES 0x3400000ull
#define TABLES 0x2000000ull

struct page {
	bool user, writable, no_execute;
	unsigned key, frame;
};

struct world {
	struct soft_machine *m;
	struct page pages[SPACES][PAGES];
	uint64_t content[FRAME_COUNT + 2]; /* of word 0 of each frame */
	unsigned space, level, last; /* page */
	uint32_t pkru, pkrs;
	bool wp;
	uint64_t expected[STEPS];
	unsigned steps;
};

static uint64_t page_linear(unsigned page)
{
	return page == LARGE ? 0x1c00000 + 0x5000 : 0x800000 + (page & 3) * 0x400000ull + (page >> 2) * 0x3000;
}

static uint64_t frame_gpa(unsigned frame)
{
	return frame < FRAME_COUNT ? FRAMES + frame * 0x1000 : LARGE_FRAMES + (frame - FRAME_COUNT) * 0x200000 + 0x5000;
}

static uint64_t space_tables(unsigned space)
{
	return TABLES + space * 0x10000;
}

/* Its entry in the last table. */
static uint64_t pte_gpa(unsigned space, unsigned page)
{
	uint64_t linear = page_linear(page), directory = space_tables(space) + 0x2000;

	if (page == LARGE)
		return directory + (linear >> 21) * 8;
	return space_tables(space) + 0x4000 + (page & 3) * 0x1000 + (linear >> 12 & 511) * 8;
}

static uint64_t pte_of(const struct page *p, bool large)
{
	uint64_t flags = KEY(p->key) | 1 | (p->writable ? 2 : 0) | (p->user ? 4 : 0) | (uint64_t)p->no_execute << 63;

	return large ? (frame_gpa(p->frame) & ~0x1fffffull) | flags | 0x80 : frame_gpa(p->frame) | flags;
}

static struct page random_page(const struct world *w, bool large)
{
	return (struct page){.user = w->level == 3 ? next_random(8) : next_random(2),
	    .writable = next_random(4),
	    .no_execute = next_random(2),
	    .key = next_random(4) ? next_random(4) : 15,
	    .frame = large ? FRAME_COUNT + next_random(2) : next_random(FRAME_COUNT)};
}

static void build_space(struct world *w, unsigned space)
{
	uint64_t root = space_tables(space), base = w->level == 3 ? 7 : 3;

	machine_write64(w->m, root, (root + 0x1000) | 7);
	machine_write64(w->m, root + 0x1000, (root + 0x2000) | 7);
	for (uint64_t i = 0; i < 32; i++) /* one to one: code, tables, frames */
		machine_write64(w->m, root + 0x2000 + 8 * i, i << 21 | base | 0x80);
	for (uint64_t i = 0; i < 4; i++)
		machine_write64(w->m, root + 0x2000 + 8 * (4 + 2 * i), (root + 0x4000 + i * 0x1000) | 7);
	for (unsigned i = 0; i < PAGES; i++) {
		w->pages[space][i] = random_page(w, i == LARGE);
		machine_write64(w->m, pte_gpa(space, i), pte_of(&w->pages[space][i], i == LARGE));
	}
}

static bool key_denies(const struct world *w, const struct page *p, bool write)
{
	uint32_t rights = (p->user ? w->pkru : w->pkrs) >> (2 * p->key);

	return rights & 1 || (write && rights & 2 && (w->level == 3 || w->wp));
}

/* 0, or FAULTED with the error code. */
static uint64_t fault_of(const struct world *w, const struct page *p, bool write)
{
	bool key = key_denies(w, p, write);
	bool tables = (w->level == 3 && !p->user) || (write && !p->writable && (w->level == 3 || w->wp));

	if (!key && !tables)
		return 0;
	return FAULTED | 1 | (write ? 2 : 0) | (w->level == 3 ? 4 : 0) | (key ? 0x20 : 0);
}

/* Key 0 seldom; at level 3 not at all, where the program itself has it. */
static uint32_t random_rights(const struct world *w, bool user)
{
	uint32_t rights = next_random(3) ? next_random(1 << 16) << 16 | next_random(1 << 16) : 0;

	if (!user || w->level == 3 || next_random(3))
		rights &= ~3u;
	return rights;
}

static void put_step(struct world *w, enum step_kind kind, uint64_t address, uint64_t value, uint64_t third, uint64_t expected)
{
	uint64_t at = SCRIPT + 32 * w->steps;

	machine_write64(w->m, at, kind);
	machine_write64(w->m, at + 8, address);
	machine_write64(w->m, at + 16, value);
	machine_write64(w->m, at + 24, third);
	w->expected[w->steps++] = expected;
}

/* Often the same, so that it is found as it was left. */
static unsigned any_page(struct world *w)
{
	if (!next_random(3))
		w->last = next_random(PAGES);
	return w->last;
}

static void map_step(struct world *w)
{
	unsigned i = any_page(w);
	struct page *p = &w->pages[w->space][i];
	uint64_t linear;

	*p = random_page(w, i == LARGE);
	/* Any page of a large one will do. */
	linear = page_linear(i) + (i == LARGE ? next_random(2) * 0x1000 : 0);
	put_step(w, STEP_MAP, pte_gpa(w->space, i), pte_of(p, i == LARGE), linear, linear);
}

static void space_step(struct world *w)
{
	w->space = next_random(SPACES);
	put_step(w, STEP_SPACE, 0, space_tables(w->space) | (w->space + 1) | (next_random(4) ? CR3_KEEP : 0), 0, 0);
}

static void access_step(struct world *w)
{
	unsigned i = any_page(w), value = next_random(1 << 20);
	const struct page *p = &w->pages[w->space][i];
	uint64_t linear = page_linear(i), fault;

	switch (next_random(6)) {
	case 0:
	case 1:
		fault = fault_of(w, p, false);
		put_step(w, STEP_READ, linear, 0, 0, fault ? fault : w->content[p->frame]);
		break;
	case 2:
		fault = fault_of(w, p, true);
		put_step(w, STEP_WRITE, linear, value, 1, fault);
		if (!fault)
			w->content[p->frame] = value;
		break;
	case 3: /* a push, and then a pop */
		fault = fault_of(w, p, true);
		put_step(w, STEP_STACK, linear + 0x800, value, 0, fault ? fault : value);
		break;
	case 4:
		fault = fault_of(w, p, false);
		put_step(w, STEP_GROUP, linear, 0, 0, fault ? fault : w->content[p->frame] + 3 * p->frame);
		break;
	default:
		value = random_rights(w, true);
		fault = fault_of(w, p, false);
		if (!fault) {
			w->pkru = value;
			fault = fault_of(w, p, false);
		}
		put_step(w, STEP_BETWEEN, linear, value, 0, fault ? fault : 2 * p->frame);
		break;
	}
}

static void random_step(struct world *w)
{
	unsigned kind = next_random(100);

	if (kind < 20) {
		w->pkru = random_rights(w, true);
		put_step(w, kind < 15 ? STEP_PKRU : STEP_RESTORE, 0, w->pkru, 0, w->pkru);
	} else if (kind < 28 && !w->level) {
		w->pkrs = random_rights(w, false);
		put_step(w, STEP_PKRS, 0, w->pkrs, 0, 0);
	} else if (kind < 31 && !w->level) {
		space_step(w);
	} else if (kind < 36 && !w->level) {
		map_step(w);
	} else {
		access_step(w);
	}
}

static void make_world(struct world *w, unsigned level)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_OSXSAVE);

	*w = (struct world){.m = m, .level = level, .wp = next_random(2)};
	machine_code(m, MACHINE_CODE, set_xcr0);
	r.gpr[0] = 0x203;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	for (unsigned i = 0; i < FRAME_COUNT + 2; i++) {
		w->content[i] = i;
		for (unsigned word = 0; word < 3; word++)
			machine_write64(m, frame_gpa(i) + 8 * word, word ? i * word : i);
	}
	for (unsigned i = 0; i < SPACES; i++)
		build_space(w, i);
	machine_write64(m, XSAVE_AREA + 512, 1u << 9);
	while (w->steps < STEPS - 1)
		random_step(w);
	put_step(w, STEP_END, 0, 0, 0, 0);
	machine_code(m, MACHINE_CODE, perform);
	machine_code(m, HANDLER, page_fault);
	soft_memory_written(m->soft, MACHINE_CODE, 0x2000);
	machine_gate64(m, PF, 0x8e, SEL_CODE64, HANDLER, 1);
	machine_write64(m, MACHINE_TSS + 36, MACHINE_STACK - 0x800);
}

static void run_world(struct world *w, unsigned seed)
{
	struct vp_registers r = start(w->m, 0);

	machine_gate64(w->m, PF, 0x8e, SEL_CODE64, HANDLER, 1);
	machine_write64(w->m, MACHINE_TSS + 36, MACHINE_STACK - 0x800);
	r.cr4 |= CR4_PKE | CR4_PKS | CR4_PCIDE | CR4_OSXSAVE;
	r.cr3 = space_tables(0) | 1;
	r.cr0 = (r.cr0 & ~CR0_WP) | (w->wp ? CR0_WP : 0);
	r.gpr[3] = SCRIPT - 32;
	if (w->level == 3) {
		r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER64, .attributes = 0xa0fb};
		r.ss = r.ds = r.es = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
		r.gpr[4] = MACHINE_STACK3;
	}
	machine_set_registers(w->m, 0, &r);
	r = machine_run(w->m, 0);
	assert_int_equal(machine_vector(&r), w->level == 3 ? GP : -1); /* HLT of a user */
	assert_int_equal(r.gpr[3], SCRIPT + 32 * (STEPS - 1));
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t got = machine_read64(w->m, SCRIPT + 32 * i + 24);

		if (got != w->expected[i])
			fail_msg("seed %u, level %u: step %u (%u at 0x%x) gave 0x%llx, not 0x%llx", seed, w->level, i,
			    machine_read32(w->m, SCRIPT + 32 * i), machine_read32(w->m, SCRIPT + 32 * i + 8),
			    (unsigned long long)got, (unsigned long long)w->expected[i]);
	}
	for (unsigned i = 0; i < FRAME_COUNT + 2; i++)
		assert_int_equal(machine_read64(w->m, frame_gpa(i)), w->content[i]);
}

static void nothing_outlives_a_change(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 24; seed++) {
		struct world w;

		random_state = seed;
		make_world(&w, seed & 1 ? 0 : 3);
		run_world(&w, seed);
		soft_machine_destroy(w.m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_outlives_a_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
