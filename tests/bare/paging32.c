/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Paging of 32-bit modes: two levels with 4 MiB pages, and PAE (SDM volume 3, 4.3 and 4.4). */
#include "bare.h"

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_A  0x20u
#define PTE_D  0x40u
#define PTE_PS 0x80u
#define PTE_G  0x100u
#define PTE_NX (1ull << 63)

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

/* Above all RAM that the guest is given. */
#define VA 0xc0000000ul

static uint8_t read8(unsigned long va)
{
	uint8_t value;
	asm volatile("movb (%1), %0" : "=q"(value) : "r"(va) : "memory");
	return value;
}

static void write8(unsigned long va, uint8_t value)
{
	asm volatile("movb %0, (%1)" : : "q"(value), "r"(va) : "memory");
}

static uint32_t read32(unsigned long va)
{
	uint32_t value;
	asm volatile("movl (%1), %0" : "=r"(value) : "r"(va) : "memory");
	return value;
}

static void write32(unsigned long va, uint32_t value)
{
	asm volatile("movl %0, (%1)" : : "r"(value), "r"(va) : "memory");
}

static void call(unsigned long va)
{
	asm volatile("call *%0" : : "r"(va) : "memory", "eax", "ecx", "edx");
}

#define EXPECT_PF(code, at, statement)                                                                       \
	do {                                                                                                 \
		EXPECT_FAULT(VEC_PF, code, statement);                                                       \
		check_equal(fault.cr2, at, "CR2", __FILE__, __LINE__);                                       \
	} while (0)

/* --- two levels --------------------------------------------------------------------------------- */

static uint32_t *directory;

static void two_levels_on(void)
{
	directory = page_alloc();
	for (unsigned i = 0; i < 256; i++)
		directory[i] = i << 22 | PTE_PS | PTE_P | PTE_W | PTE_U;
	for (unsigned i = 0x3fb; i < 0x400; i++) /* local APIC and what else is up there */
		directory[i] = i << 22 | PTE_PS | PTE_P | PTE_W;
	write_cr4(read_cr4() | CR4_PSE);
	write_cr3((unsigned long)directory);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void paging_off(void)
{
	write_cr0(read_cr0() & ~(CR0_PG | CR0_WP));
	write_cr4(read_cr4() & ~(CR4_PSE | CR4_PAE | CR4_PGE));
	write_cr3(0);
}

static uint32_t *pte32(unsigned long va)
{
	uint32_t *pde = &directory[va >> 22];

	if (!(*pde & PTE_P))
		*pde = (unsigned long)page_alloc() | PTE_P | PTE_W | PTE_U;
	return (uint32_t *)(*pde & ~0xfffu) + (va >> 12 & 1023);
}

static uint32_t *map32(unsigned long va, const void *page, uint32_t bits)
{
	uint32_t *entry = pte32(va);

	*entry = (unsigned long)page | bits;
	invlpg((void *)va);
	return entry;
}

static void legacy_rights(void)
{
	uint32_t *entry, *pde;
	uint8_t *page;

	two_levels_on();
	page = page_alloc();
	entry = map32(VA, page, PTE_P | PTE_W);
	pde = &directory[VA >> 22];
	*pde &= ~PTE_A;
	write_cr3(read_cr3());
	read8(VA);
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A);
	CHECK_EQ(*pde & PTE_A, PTE_A);
	write8(VA, 1);
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
	CHECK_EQ(page[0], 1);
	map32(VA, page, PTE_P);
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 1));
	write_cr0(read_cr0() & ~CR0_WP);
	EXPECT_NO_FAULT(write8(VA, 2));
	write_cr0(read_cr0() | CR0_WP);
	map32(VA, page, 0);
	EXPECT_PF(0, VA + 3, read8(VA + 3));
	EXPECT_PF(PF_W, VA + 3, write8(VA + 3, 1));
	EXPECT_PF(0, VA, call(VA));                        /* no I bit: neither NX nor SMEP */
	EXPECT_PF(0, VA + 0x400000, read8(VA + 0x400000)); /* no directory entry */
	paging_off();
}

static void legacy_large(void)
{
	uint32_t *pde;
	uint8_t *page;
	unsigned long base;

	two_levels_on();
	page = page_alloc();
	base = (unsigned long)page & ~0x3ffffful;
	pde = &directory[VA >> 22];
	*pde = base | PTE_PS | PTE_P | PTE_W;
	page[5] = 0x42;
	CHECK_EQ(read8(VA + (unsigned long)page - base + 5), 0x42);
	CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A);
	write8(VA + (unsigned long)page - base + 5, 0x43);
	CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	CHECK_EQ(page[5], 0x43);
	*pde |= 1u << 21; /* reserved in a 4 MiB entry */
	write_cr3(read_cr3());
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
	*pde = 0;
	write_cr3(read_cr3());
	EXPECT_PF(0, VA, read8(VA));
	paging_off();
}

static void legacy_crossing(void)
{
	uint8_t *a, *b;

	two_levels_on();
	a = page_alloc();
	page_alloc();
	b = page_alloc();
	map32(VA, a, PTE_P | PTE_W);
	map32(VA + 4096, b, PTE_P | PTE_W);
	for (unsigned i = 1; i < 4; i++) {
		write32(VA + 4096 - i, 0x44332211);
		CHECK_EQ(read32(VA + 4096 - i), 0x44332211);
		CHECK_EQ(a[4096 - i], 0x11);
		CHECK_EQ(b[3 - i], 0x44);
	}
	map32(VA + 4096, b, PTE_P);
	EXPECT_PF(PF_P | PF_W, VA + 4096, write32(VA + 4094, 0));
	a[4094] = 0x77;
	EXPECT_PF(PF_P | PF_W, VA + 4096, write32(VA + 4094, 0));
	CHECK_EQ(a[4094], 0x77);
	/* Code: mov eax, imm32; ret across the edge. */
	map32(VA + 4096, b, PTE_P | PTE_W);
	memcpy(a + 4094, (const uint8_t[]){0xb8, 1}, 2);
	memcpy(b, (const uint8_t[]){2, 3, 4, 0xc3}, 4);
	EXPECT_NO_FAULT(call(VA + 4094));
	map32(VA + 4096, b, 0);
	EXPECT_PF(0, VA + 4096, call(VA + 4094));
	CHECK_EQ(fault.ip, VA + 4094);
	paging_off();
}

static void legacy_tlb(void)
{
	uint8_t *a, *b;
	uint32_t *entry;

	two_levels_on();
	a = page_alloc();
	b = page_alloc();
	a[0] = 1;
	b[0] = 2;
	entry = map32(VA, a, PTE_P | PTE_W);
	CHECK_EQ(read8(VA), 1);
	*entry = (unsigned long)b | PTE_P | PTE_W;
	write_cr3(read_cr3());
	CHECK_EQ(read8(VA), 2);
	write_cr4(read_cr4() | CR4_PGE);
	map32(VA, a, PTE_P | PTE_W | PTE_G);
	CHECK_EQ(read8(VA), 1);
	*entry = (unsigned long)b | PTE_P | PTE_W | PTE_G;
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK_EQ(read8(VA), 2);
	/* Paging off and on again keeps nothing. */
	*entry = (unsigned long)a | PTE_P | PTE_W;
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr0(read_cr0() | CR0_PG);
	CHECK_EQ(read8(VA), 1);
	paging_off();
}

/* --- PAE ---------------------------------------------------------------------------------------- */

static uint64_t *pdpt;

static void pae_on(void)
{
	pdpt = page_alloc();
	for (unsigned i = 0; i < 4; i++) {
		uint64_t *pd = page_alloc();

		pdpt[i] = (unsigned long)pd | PTE_P;
		for (unsigned j = 0; j < 512 && i != 3; j++)
			pd[j] = (uint64_t)(i << 30 | j << 21) | PTE_PS | PTE_P | PTE_W | PTE_U;
	}
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((unsigned long)pdpt);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void pae_off(void)
{
	paging_off();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
}

static uint64_t *map64(unsigned long va, const void *page, uint64_t bits)
{
	uint64_t *pd = (uint64_t *)(unsigned long)(pdpt[va >> 30] & ~0xfffull), *entry;

	if (!(pd[va >> 21 & 511] & PTE_P))
		pd[va >> 21 & 511] = (unsigned long)page_alloc() | PTE_P | PTE_W | PTE_U;
	entry = (uint64_t *)(unsigned long)(pd[va >> 21 & 511] & ~0xfffull) + (va >> 12 & 511);
	*entry = (unsigned long)page | bits;
	invlpg((void *)va);
	return entry;
}

static void pae_rights(void)
{
	uint64_t *entry;
	uint8_t *page;

	pae_on();
	page = page_alloc();
	entry = map64(VA, page, PTE_P | PTE_W);
	read8(VA);
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A);
	write8(VA, 1);
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
	map64(VA, page, PTE_P);
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 1));
	page[0] = 0xc3;
	EXPECT_NO_FAULT(call(VA));
	map64(VA, page, PTE_P | PTE_NX);
	EXPECT_PF(PF_P | PF_I, VA, call(VA));
	EXPECT_NO_FAULT(read8(VA));
	map64(VA, page, PTE_P | 1ull << 62); /* reserved with PAE */
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
	map64(VA, page, 0);
	EXPECT_PF(PF_W, VA + 1, write8(VA + 1, 0));
	EXPECT_PF(PF_I, VA, call(VA));
	pae_off();
}

static void pae_large(void)
{
	uint64_t *pd;
	uint8_t *page;
	unsigned long base;

	pae_on();
	page = page_alloc();
	base = (unsigned long)page & ~0x1ffffful;
	pd = (uint64_t *)(unsigned long)(pdpt[3] & ~0xfffull);
	pd[0] = base | PTE_PS | PTE_P | PTE_W;
	write8(VA + (unsigned long)page - base, 0x66);
	CHECK_EQ(page[0], 0x66);
	CHECK_EQ(pd[0] & (PTE_A | PTE_D), PTE_A | PTE_D);
	pd[0] |= 1 << 13;
	write_cr3(read_cr3());
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
	pae_off();
}

static void pae_pointers(void)
{
	uint64_t old;

	pae_on();
	map64(VA, page_alloc(), PTE_P | PTE_W);
	EXPECT_NO_FAULT(read8(VA));
	old = pdpt[3];
	/* Intel's four live in the processor from one load of CR3 to the next, and are checked when loaded;
	 * AMD's are looked at when they are walked through, at the latest (APM volume 2, 15.25.10). */
	if (!is_amd()) {
		pdpt[3] = 0;
		invlpg((void *)VA);
		EXPECT_NO_FAULT(read8(VA));
		pdpt[3] = old | PTE_W; /* reserved in a PDPTE */
		EXPECT_FAULT(VEC_GP, 0, write_cr3((unsigned long)pdpt));
	}
	pdpt[3] = 0;
	write_cr3((unsigned long)pdpt);
	EXPECT_PF(0, VA, read8(VA));
	pdpt[3] = old;
	write_cr3((unsigned long)pdpt);
	EXPECT_NO_FAULT(read8(VA));
	/* A table that begins in the middle of a page. */
	memcpy((uint8_t *)pdpt + 0x7e0, pdpt, 32);
	write_cr3((unsigned long)pdpt + 0x7e0);
	EXPECT_NO_FAULT(read8(VA));
	pae_off();
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"legacy-rights", legacy_rights},     {"legacy-large", legacy_large},
	    {"legacy-crossing", legacy_crossing}, {"legacy-tlb", legacy_tlb},
	    {"pae-rights", pae_rights},           {"pae-large", pae_large},
	    {"pae-pointers", pae_pointers},
	};

	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
