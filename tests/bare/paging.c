/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 4-level paging: rights, page sizes, accessed and dirty bits, TLB, page-crossing accesses (SDM volume 3, 4).
 */
#include "paging.h"

#define VA (TEST_VA)

static inline uint8_t read8(unsigned long va)
{
	uint8_t value;
	asm volatile("movb (%1), %0" : "=q"(value) : "r"(va) : "memory");
	return value;
}

static inline void write8(unsigned long va, uint8_t value)
{
	asm volatile("movb %0, (%1)" : : "q"(value), "r"(va) : "memory");
}

static inline uint64_t read64(unsigned long va)
{
	uint64_t value;
	asm volatile("movq (%1), %0" : "=r"(value) : "r"(va) : "memory");
	return value;
}

static inline void write64(unsigned long va, uint64_t value)
{
	asm volatile("movq %0, (%1)" : : "r"(value), "r"(va) : "memory");
}

static void call(unsigned long va)
{
	asm volatile("call *%0" : : "r"(va) : "memory");
}

#define EXPECT_PF(code, at, statement)                                                                       \
	do {                                                                                                 \
		EXPECT_FAULT(VEC_PF, code, statement);                                                       \
		check_equal(fault.cr2, at, "CR2", __FILE__, __LINE__);                                       \
	} while (0)

static void not_present(void)
{
	uint64_t *levels[5];
	uint8_t *page = page_alloc();

	map(VA, page, PTE_P | PTE_W);
	for (int level = 1; level <= 4; level++)
		levels[level] = pte_at(read_cr3(), VA, level);
	for (int level = 1; level <= 4; level++) {
		uint64_t old = *levels[level];

		set_entry(levels[level], old & ~PTE_P, VA);
		EXPECT_PF(0, VA + 5, read8(VA + 5));
		EXPECT_PF(PF_W, VA + 5, write8(VA + 5, 1));
		EXPECT_PF(PF_I, VA, call(VA));
		set_entry(levels[level], old, VA);
		EXPECT_NO_FAULT(write8(VA, 1));
	}
	CHECK_EQ(page[5], 0);
}

static void accessed_dirty(void)
{
	uint64_t *entry = map(VA, page_alloc(), PTE_P | PTE_W);

	for (int level = 1; level <= 4; level++)
		*pte_at(read_cr3(), VA, level) &= ~(PTE_A | PTE_D);
	invlpg((void *)VA);
	write_cr3(read_cr3());
	read8(VA);
	for (int level = 1; level <= 4; level++)
		CHECK_EQ(*pte_at(read_cr3(), VA, level) & (PTE_A | (level == 1 ? PTE_D : 0)), PTE_A);
	write8(VA, 1); /* the entry is in the TLB without D */
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
	set_entry(entry, *entry & ~PTE_D, VA);
	write8(VA, 1);
	CHECK_EQ(*entry & PTE_D, PTE_D);
	set_entry(entry, *entry & ~(PTE_A | PTE_D | PTE_W), VA);
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 1));
	CHECK_EQ(*entry & PTE_D, 0);
	/* A locked operation that does not write in the end is a write all the same. */
	set_entry(entry, *entry | PTE_W, VA);
	asm volatile("lock cmpxchgb %b0, (%1)" : : "r"(7), "r"(VA), "a"(0x55) : "memory", "cc");
	CHECK_EQ(*entry & PTE_D, PTE_D);
}

static void write_protect(void)
{
	uint64_t *entry = map(VA, page_alloc(), PTE_P);

	EXPECT_NO_FAULT(read8(VA));
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 1));
	EXPECT_PF(PF_P | PF_W, VA, asm volatile("lock addl $0, (%0)" : : "r"(VA) : "memory", "cc"));
	write_cr0(read_cr0() & ~CR0_WP);
	EXPECT_NO_FAULT(write8(VA, 2));
	CHECK_EQ(*entry & PTE_D, PTE_D);
	write_cr0(read_cr0() | CR0_WP);
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 3));
	CHECK_EQ(read8(VA), 2);
	/* The right to write is the AND of all levels. */
	set_entry(entry, *entry | PTE_W, VA);
	for (int level = 2; level <= 4; level++) {
		uint64_t *upper = pte_at(read_cr3(), VA, level);

		set_entry(upper, *upper & ~PTE_W, VA);
		EXPECT_PF(PF_P | PF_W, VA, write8(VA, 3));
		set_entry(upper, *upper | PTE_W, VA);
	}
	EXPECT_NO_FAULT(write8(VA, 3));
}

static void no_execute(void)
{
	uint8_t *page = page_alloc();
	uint64_t *entry;

	page[0] = 0xc3;
	entry = map(VA, page, PTE_P | PTE_W);
	EXPECT_NO_FAULT(call(VA));
	set_entry(entry, *entry | PTE_NX, VA);
	EXPECT_PF(PF_P | PF_I, VA, call(VA));
	EXPECT_NO_FAULT(read8(VA));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
	invlpg((void *)VA);
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA)); /* now the bit is reserved */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	set_entry(entry, *entry & ~PTE_NX, VA);
	for (int level = 2; level <= 4; level++) {
		uint64_t *upper = pte_at(read_cr3(), VA, level);

		set_entry(upper, *upper | PTE_NX, VA);
		EXPECT_PF(PF_P | PF_I, VA, call(VA));
		set_entry(upper, *upper & ~PTE_NX, VA);
	}
	EXPECT_NO_FAULT(call(VA));
}

static void reserved_bits(void)
{
	unsigned width = cpuid(0x80000008, 0).a & 0xff;
	uint64_t *entry = map(VA, page_alloc(), PTE_P | PTE_W);
	uint64_t *pml4e = pte_at(read_cr3(), VA, 4), *pde = pte_at(read_cr3(), VA, 2), old;

	/* Processors look at the bits above their own width, which may be more than a virtual machine is
	 * told. */
	if (width < 52 && is_software()) {
		set_entry(entry, *entry | 1ull << 51, VA);
		EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
		EXPECT_PF(PF_P | PF_RSVD | PF_W, VA, write8(VA, 1));
		set_entry(entry, *entry & ~(1ull << 51), VA);
	}
	set_entry(pml4e, *pml4e | PTE_PS, VA);
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
	set_entry(pml4e, *pml4e & ~PTE_PS, VA);
	old = *pde;
	set_entry(pde, 1ull << 13 | PTE_PS | PTE_P | PTE_W, VA);
	EXPECT_PF(PF_P | PF_RSVD, VA, read8(VA));
	set_entry(pde, old, VA);
	EXPECT_NO_FAULT(write8(VA, 1));
}

static void large_pages(void)
{
	const unsigned long va2 = VA + (1ul << 30), va3 = VA + (4ul << 30);
	uint64_t *pde = pte_at(read_cr3(), va2, 2), *pdpte;
	uint8_t *page = page_alloc();
	unsigned long here = (unsigned long)page;

	page[9] = 0x77;
	set_entry(pde, (here & ~0x1ffffful) | PTE_PS | PTE_P | PTE_W, va2);
	CHECK_EQ(read8(va2 + (here & 0x1fffff) + 9), 0x77);
	CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A);
	write8(va2 + (here & 0x1fffff) + 9, 0x78);
	CHECK_EQ(*pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	CHECK_EQ(page[9], 0x78);
	set_entry(pde, 0, va2);
	EXPECT_PF(0, va2 + 0x1fffff, read8(va2 + 0x1fffff));
	if (!(cpuid(0x80000001, 0).d & 1 << 26))
		return;
	pdpte = pte_at(read_cr3(), va3, 3);
	set_entry(pdpte, (here & ~0x3ffffffful) | PTE_PS | PTE_P | PTE_W, va3);
	CHECK_EQ(read8(va3 + (here & 0x3fffffff) + 9), 0x78);
	write8(va3 + (here & 0x3fffffff) + 9, 0x79);
	CHECK_EQ(*pdpte & (PTE_A | PTE_D), PTE_A | PTE_D);
	set_entry(pdpte, 0, va3);
	CHECK_EQ(page[9], 0x79);
}

static void supervisor_modes(void)
{
	struct cpuid features = cpuid(7, 0);
	uint8_t *page = page_alloc();
	uint64_t *entry;

	page[0] = 0xc3;
	entry = map(VA, page, PTE_P | PTE_W | PTE_U);
	/* The stack and this code are on user pages of the identity map: make them the supervisor's. */
	for (int i = 0; i < 4; i++)
		*pte_at(read_cr3(), (unsigned long)i << 30, 3) &= ~PTE_U;
	write_cr3(read_cr3());
	if (features.b & 1 << 7) {
		EXPECT_NO_FAULT(call(VA));
		write_cr4(read_cr4() | CR4_SMEP);
		EXPECT_PF(PF_P | PF_I, VA, call(VA));
		EXPECT_NO_FAULT(read8(VA));
		set_entry(entry, *entry & ~PTE_U, VA);
		EXPECT_NO_FAULT(call(VA));
		set_entry(entry, *entry | PTE_U, VA);
		write_cr4(read_cr4() & ~CR4_SMEP);
	}
	if (features.b & 1 << 20) {
		write_cr4(read_cr4() | CR4_SMAP);
		EXPECT_PF(PF_P, VA, read8(VA));
		EXPECT_PF(PF_P | PF_W, VA, write8(VA, 1));
		EXPECT_NO_FAULT(call(VA)); /* fetches are SMEP's */
		EXPECT_NO_FAULT(asm volatile("stac; movb (%0), %%al; movb %%al, (%0); clac"
					     :
					     : "r"(VA)
					     : "eax", "memory"));
		EXPECT_PF(PF_P, VA, read8(VA));
		write_cr4(read_cr4() & ~CR4_SMAP);
	}
	for (int i = 0; i < 4; i++)
		*pte_at(read_cr3(), (unsigned long)i << 30, 3) |= PTE_U;
	write_cr3(read_cr3());
	if (!(features.b & (1 << 7 | 1 << 20)))
		skip("no SMEP and no SMAP");
}

/* --- accesses across a page boundary ------------------------------------------------------------ */

static void crossing_data(void)
{
	uint8_t *a = page_alloc(), *gap = page_alloc(), *b = page_alloc();
	unsigned long edge = VA + 4096;
	uint64_t *second;

	(void)gap;
	map(VA, a, PTE_P | PTE_W);
	second = map(edge, b, PTE_P | PTE_W);
	for (unsigned i = 1; i < 8; i++) {
		write64(edge - i, 0x8877665544332211ull);
		CHECK_EQ(read64(edge - i), 0x8877665544332211ull);
		CHECK_EQ(a[4096 - i], 0x11);
		CHECK_EQ(b[7 - i], 0x88);
		CHECK_EQ(gap[0], 0);
	}
	memset(a, 0xaa, 4096);
	memset(b, 0xbb, 4096);
	set_entry(second, 0, edge);
	EXPECT_PF(PF_W, edge, write64(edge - 3, 0)); /* nothing of it is written */
	CHECK_EQ(a[4095], 0xaa);
	EXPECT_PF(0, edge, read64(edge - 1));
	EXPECT_PF(PF_W, edge, asm volatile("addq $1, (%0)" : : "r"(edge - 4) : "memory", "cc"));
	CHECK_EQ(a[4093], 0xaa);
	set_entry(second, (unsigned long)b | PTE_P, edge);
	EXPECT_PF(PF_P | PF_W, edge, write64(edge - 7, 0));
	CHECK_EQ(a[4093], 0xaa);
	/* The first page at fault: its address, not the second's. */
	map(VA, a, 0);
	EXPECT_PF(0, edge - 2, read64(edge - 2));
	set_entry(second, (unsigned long)b | PTE_P | PTE_W, edge);
	map(VA, a, PTE_P | PTE_W);
	asm volatile("lock addq %1, (%0)" : : "r"(edge - 4), "r"(0x0101010101010101ull) : "memory", "cc");
	CHECK_EQ(read64(edge - 4), 0xbcbcbcbcabababab);
}

static void crossing_code(void)
{
	static const uint8_t code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3}; /* mov rax, imm64; ret */
	uint8_t *a = page_alloc(), *b = page_alloc();
	unsigned long edge = VA + 4096, result;
	uint64_t *second;

	map(VA, a, PTE_P | PTE_W);
	second = map(edge, b, PTE_P | PTE_W);
	for (unsigned i = 1; i < sizeof(code); i++) {
		memcpy(a + 4096 - i, code, i);
		memcpy(b, code + i, sizeof(code) - i);
		asm volatile("call *%1" : "=a"(result) : "r"(edge - i) : "memory");
		CHECK_EQ(result, 0x0807060504030201ul);
		if (i == 10)
			continue; /* the whole instruction is on the first page */
		set_entry(second, 0, edge);
		EXPECT_PF(PF_I, edge, call(edge - i));
		CHECK_EQ(fault.ip, edge - i);
		set_entry(second, (unsigned long)b | PTE_P | PTE_NX, edge);
		EXPECT_PF(PF_P | PF_I, edge, call(edge - i));
		CHECK_EQ(fault.ip, edge - i);
		set_entry(second, (unsigned long)b | PTE_P, edge);
	}
	/* The second page is another now; no instruction keeps bytes of the first. */
	memcpy(a + 4096 - 4, code, 4);
	memcpy(b, code + 4, sizeof(code) - 4);
	asm volatile("call *%1" : "=a"(result) : "r"(edge - 4) : "memory");
	CHECK_EQ(result, 0x0807060504030201ul);
	b = page_alloc();
	memset(b, 0x11, 6);
	b[6] = 0xc3;
	set_entry(second, (unsigned long)b | PTE_P, edge);
	asm volatile("call *%1" : "=a"(result) : "r"(edge - 4) : "memory");
	CHECK_EQ(result, 0x1111111111110201ul);
	/* Up to the edge and not a byte further. */
	set_entry(second, 0, edge);
	a[4095] = 0xc3;
	EXPECT_NO_FAULT(call(edge - 1));
}

static volatile unsigned filled;
static volatile unsigned long fill_cr2[4], fill_cx[4];
static uint8_t *fill_pages[4];

/* Give the page that a string instruction ran into, and let it go on. */
static void fill(struct frame *frame)
{
	unsigned long at = read_cr2();

	if (filled == 4) {
		print("FAIL page faults without end at 0x%lx\n", frame->ip);
		machine_exit(1);
	}
	fill_cr2[filled] = at;
	fill_cx[filled] = frame->cx;
	map(at & ~0xffful, fill_pages[filled], PTE_P | PTE_W);
	filled++;
}

static void string_restart(void)
{
	unsigned long from, to, count;
	uint8_t *source = page_alloc();

	(void)page_alloc(); /* 8 KiB of source */
	for (unsigned i = 0; i < 8192; i++)
		source[i] = (uint8_t)(i * 31 >> 3);
	for (unsigned i = 0; i < 4; i++) {
		fill_pages[i] = page_alloc();
		map(VA + i * 4096, NULL, 0);
	}
	filled = 0;
	set_handler(VEC_PF, fill);
	from = (unsigned long)source;
	to = VA + 100;
	count = 8000;
	asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
	set_handler(VEC_PF, NULL);
	CHECK_EQ(filled, 2);
	CHECK_EQ(fill_cr2[0], VA + 100);
	CHECK_EQ(fill_cx[0], 8000);
	CHECK_EQ(fill_cr2[1], VA + 4096);
	CHECK_EQ(fill_cx[1], 8000 - (4096 - 100));
	CHECK_EQ(count, 0);
	CHECK_EQ(to, VA + 8100);
	CHECK_EQ(memcmp((void *)(VA + 100), source, 8000), 0);
}

static volatile unsigned long seen_ax;

/* Pass over the instruction: 3 bytes for xchg, 1 for lodsb. */
static void note_ax(struct frame *frame)
{
	seen_ax = frame->ax;
	frame->ip += *(uint8_t *)frame->ip == 0xac ? 1 : 3;
}

static void precise_state(void)
{
	unsigned long sp_before;

	map(VA, page_alloc(), 0);
	/* A push whose memory operand faults has not moved the stack; a pop to bad memory neither. */
	CATCH(asm volatile("pushq (%0)" : : "r"(VA) : "memory"));
	CHECK_EQ(fault.vector, VEC_PF);
	asm volatile("mov %%rsp, %0" : "=r"(sp_before));
	CHECK_EQ(fault.sp, sp_before);
	CATCH(asm volatile("push $1; popq (%0)" : : "r"(VA) : "memory"));
	CHECK_EQ(fault.sp, sp_before - 8);
	seen_ax = 0;
	set_handler(VEC_PF, note_ax);
	asm volatile("mov $5, %%eax; xchg %%rax, (%0)"
		     :
		     : "r"(VA)
		     : "rax", "memory"); /* 3 bytes, passed over */
	CHECK_EQ(seen_ax, 5);
	asm volatile("mov $6, %%eax; lodsb" : : "S"(VA) : "rax", "memory");
	CHECK_EQ(seen_ax, 6);
	set_handler(VEC_PF, NULL);
}

/* --- TLB ---------------------------------------------------------------------------------------- */

static void tlb_flush(void)
{
	uint8_t *a = page_alloc(), *b = page_alloc();
	uint64_t *entry = map(VA, a, PTE_P | PTE_W);

	a[0] = 1;
	b[0] = 2;
	CHECK_EQ(read8(VA), 1);
	set_entry(entry, (unsigned long)b | PTE_P | PTE_W, VA);
	CHECK_EQ(read8(VA), 2);
	*entry = (unsigned long)a | PTE_P | PTE_W;
	write_cr3(read_cr3());
	CHECK_EQ(read8(VA), 1);
	/* A global page stays through CR3, and goes with CR4.PGE. */
	set_entry(entry, (unsigned long)a | PTE_P | PTE_W | PTE_G, VA);
	write_cr4(read_cr4() | CR4_PGE);
	CHECK_EQ(read8(VA), 1);
	*entry = (unsigned long)b | PTE_P | PTE_W | PTE_G;
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK_EQ(read8(VA), 2);
	write_cr4(read_cr4() | CR4_PGE);
	CHECK_EQ(read8(VA), 2);
	set_entry(entry, (unsigned long)a | PTE_P | PTE_W, VA); /* invlpg drops global pages too */
	CHECK_EQ(read8(VA), 1);
	write_cr4(read_cr4() & ~CR4_PGE);
	/* More rights need no flush: a fault looks again. */
	set_entry(entry, (unsigned long)a | PTE_P, VA);
	read8(VA);
	*entry |= PTE_W;
	EXPECT_NO_FAULT(write8(VA, 3));
	/* From not present to present needs none either. */
	set_entry(entry, 0, VA);
	EXPECT_PF(0, VA, read8(VA));
	*entry = (unsigned long)b | PTE_P;
	EXPECT_NO_FAULT(read8(VA));
	/* CR0.WP and EFER.NXE act at once, whatever the TLB holds. */
	set_entry(entry, (unsigned long)b | PTE_P, VA);
	write_cr0(read_cr0() & ~CR0_WP);
	EXPECT_NO_FAULT(write8(VA, 4));
	write_cr0(read_cr0() | CR0_WP);
	EXPECT_PF(PF_P | PF_W, VA, write8(VA, 5));
}

static void invlpg_large(void)
{
	const unsigned long va = VA + (1ul << 30);
	uint64_t *pde = pte_at(read_cr3(), va, 2);
	uint8_t *a = page_alloc();
	unsigned long base = (unsigned long)a & ~0x1ffffful;

	set_entry(pde, base | PTE_PS | PTE_P | PTE_W, va);
	a[0] = 9;
	CHECK_EQ(read8(va + (unsigned long)a - base), 9);
	set_entry(pde, 0, va + 0x123456); /* any address in it */
	EXPECT_PF(0, va + (unsigned long)a - base, read8(va + (unsigned long)a - base));
}

static void invpcid(unsigned long type, uint64_t pcid, unsigned long va)
{
	const uint64_t what[2] = {pcid, va};

	asm volatile("invpcid %0, %1" : : "m"(what), "r"(type) : "memory");
}

static void process_contexts(void)
{
	bool with_invpcid = cpuid(7, 0).b & 1 << 10;
	unsigned long cr3 = read_cr3();
	uint8_t *a = page_alloc(), *b = page_alloc(), *c = page_alloc();
	uint64_t *root = page_alloc(), *entry, *other;

	if (!(cpuid(1, 0).c & 1 << 17)) {
		skip("no PCID");
		return;
	}
	a[0] = 1;
	b[0] = 2;
	c[0] = 3;
	entry = map(VA, a, PTE_P | PTE_W);
	memcpy(root, (void *)(cr3 & PTE_FRAME), 4096);
	root[VA >> 39 & 511] = 0;
	other = pte_at((unsigned long)root, VA, 1);
	*other = (unsigned long)b | PTE_P | PTE_W;
	EXPECT_FAULT(VEC_GP, 0, ({
			     write_cr3(cr3 | 1);
			     write_cr4(read_cr4() | CR4_PCIDE);
		     })); /* PCID is not 0 */
	write_cr3(cr3);
	write_cr4(read_cr4() | CR4_PCIDE);
	for (unsigned i = 0; i < 3; i++) {
		write_cr3((cr3 & PTE_FRAME) | 1 | (i ? 1ul << 63 : 0));
		CHECK_EQ(read8(VA), 1);
		write_cr3((unsigned long)root | 2 | (i ? 1ul << 63 : 0));
		CHECK_EQ(read8(VA), 2);
	}
	CHECK_EQ(read_cr3(), (unsigned long)root | 2); /* bit 63 is not kept */
	*other = (unsigned long)c | PTE_P | PTE_W;
	write_cr3((unsigned long)root | 2); /* without bit 63 its entries go */
	CHECK_EQ(read8(VA), 3);
	if (with_invpcid) {
		*other = (unsigned long)b | PTE_P | PTE_W;
		invpcid(0, 2, VA);
		CHECK_EQ(read8(VA), 2);
		write_cr3((cr3 & PTE_FRAME) | 1 | 1ul << 63);
		*other = (unsigned long)c | PTE_P | PTE_W;
		invpcid(1, 2, 0); /* another context's, from here */
		write_cr3((unsigned long)root | 2 | 1ul << 63);
		CHECK_EQ(read8(VA), 3);
		*other = (unsigned long)b | PTE_P | PTE_W | PTE_G;
		invpcid(2, 0, 0);
		CHECK_EQ(read8(VA), 2);
		*other = (unsigned long)c | PTE_P | PTE_W;
		invpcid(2, 0, 0);
		CHECK_EQ(read8(VA), 3);
		*other = (unsigned long)b | PTE_P | PTE_W;
		invpcid(3, 0, 0);
		CHECK_EQ(read8(VA), 2);
		EXPECT_FAULT(VEC_GP, 0, invpcid(4, 0, 0));
		EXPECT_FAULT(VEC_GP, 0, invpcid(0, 1ull << 12, VA));
		EXPECT_FAULT(VEC_GP, 0, invpcid(0, 1, 1ul << 63));
	}
	write_cr3((cr3 & PTE_FRAME) | 1);
	write_cr3(cr3 & PTE_FRAME);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	CHECK_EQ(read8(VA), 1);
	(void)entry;
}

/* Two addresses for one page: what is written by one is read, and executed, by the other. */
static void aliases(void)
{
	uint8_t *page = page_alloc();
	unsigned long result;

	map(VA, page, PTE_P | PTE_W);
	map(VA + 0x5000, page, PTE_P | PTE_W);
	for (unsigned i = 0; i < 50; i++) {
		const uint8_t code[] = {0xb8, (uint8_t)i, 0, 0, 0, 0xc3};

		for (unsigned j = 0; j < sizeof(code); j++)
			write8(VA + 0x5000 + j, code[j]);
		cpuid(0, 0); /* between two linear addresses one has to serialize (SDM volume 3, 9.1.3) */
		asm volatile("call *%1" : "=a"(result) : "r"(VA) : "memory");
		CHECK_EQ(result, i);
	}
}

/* Tables that are changed through a mapping that they themselves make. */
static void self_map(void)
{
	uint8_t *a = page_alloc(), *b = page_alloc();
	uint64_t *entry = map(VA, a, PTE_P | PTE_W);
	const unsigned long window = VA + 0x7000;

	a[0] = 1;
	b[0] = 2;
	map(window, (void *)((unsigned long)entry & ~0xffful), PTE_P | PTE_W);
	CHECK_EQ(read8(VA), 1);
	write64(window + ((unsigned long)entry & 0xfff), (unsigned long)b | PTE_P | PTE_W);
	invlpg((void *)VA);
	CHECK_EQ(read8(VA), 2);
}

static void canonical_wrap(void)
{
	uint8_t *page = page_alloc();
	uint64_t value;

	/* An access that begins below the hole and ends in it. */
	map(0x00007ffffffff000ul, page, PTE_P | PTE_W);
	EXPECT_NO_FAULT(read8(0x00007ffffffffffful));
	EXPECT_FAULT(VEC_GP, 0, read64(0x00007ffffffffff9ul));
	/* Address arithmetic wraps at 2^64: from the top to 0 with a base register. */
	map(0xfffffffffffff000ul, page, PTE_P | PTE_W);
	page[4088] = 0x5a;
	asm volatile("movzbl -8(%1), %k0" : "=r"(value) : "r"(0ul) : "memory");
	CHECK_EQ(value, 0x5a);
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"not-present", not_present},
	    {"accessed-dirty", accessed_dirty},
	    {"write-protect", write_protect},
	    {"no-execute", no_execute},
	    {"reserved-bits", reserved_bits},
	    {"large-pages", large_pages},
	    {"smep-smap", supervisor_modes},
	    {"crossing-data", crossing_data},
	    {"crossing-code", crossing_code},
	    {"string-restart", string_restart},
	    {"precise-state", precise_state},
	    {"tlb-flush", tlb_flush},
	    {"invlpg-large", invlpg_large},
	    {"pcid-invpcid", process_contexts},
	    {"aliases", aliases},
	    {"self-map", self_map},
	    {"canonical", canonical_wrap},
	};

	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
