/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that writes code, on one processor: what is written is what runs next (SDM volume 3, 9.1.3). */
#include "paging.h"

static uint32_t call_code(const void *code)
{
	uint32_t result;

	asm volatile("call *%1" : "=a"(result) : "r"(code) : "memory", "ecx", "edx", "cc");
	return result;
}

static void rewritten(void)
{
	uint8_t *code = page_alloc();

	for (uint32_t i = 0; i < 1000; i++) {
		code[0] = 0xb8; /* mov eax, i; ret */
		memcpy(code + 1, &i, 4);
		code[5] = 0xc3;
		if (!CHECK_EQ(call_code(code), i))
			return;
	}
}

/* A loop that increments the immediate of its own add. */
static void own_loop(void)
{
	uint32_t sum;

	asm volatile("xor %%eax, %%eax; mov $10, %%ecx; movl $1, 1f+1(%%rip)\n"
		     "1: .byte 0x05; .long 1\n" /* add eax, imm32 */
		     "incl 1b+1(%%rip); dec %%ecx; jnz 1b"
		     : "=a"(sum)
		     :
		     : "ecx", "memory", "cc");
	CHECK_EQ(sum, 55);
}

/* The next instruction, in a straight line. */
static void next_instruction(void)
{
	uint32_t value;

	for (unsigned i = 0; i < 3; i++) {
		asm volatile("movl $0x11, 1f+1(%%rip); movl $0x22, 1f+1(%%rip); 1: .byte 0xb8; .long 0"
			     : "=a"(value)
			     :
			     : "memory");
		CHECK_EQ(value, 0x22);
	}
}

/* An instruction turned into one of another length, so that what follows begins elsewhere. */
static void other_length(void)
{
	static const uint8_t first[] = {0xb8, 1, 0, 0, 0, 0xc3},
			     second[] = {0x31, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xc3};
	uint8_t *code = page_alloc();

	for (unsigned i = 0; i < 10; i++) {
		memcpy(code, first, sizeof(first));
		CHECK_EQ(call_code(code), 1);
		memcpy(code, second, sizeof(second));
		CHECK_EQ(call_code(code), 2);
	}
}

/* Only the tail of an instruction that crosses into the next page is changed. */
static void across_pages(void)
{
	uint8_t *page = page_alloc(), *code = page + 4093;

	page_alloc();
	code[0] = 0xb8;
	memset(code + 1, 0, 4);
	code[5] = 0xc3;
	CHECK_EQ(call_code(code), 0);
	for (unsigned i = 1; i < 20; i++) {
		code[4] = (uint8_t)i; /* the top byte, on the second page */
		CHECK_EQ(call_code(code), i << 24);
		code[1] = (uint8_t)i; /* the low byte, on the first */
		CHECK_EQ(call_code(code), i << 24 | i);
		code[1] = 0;
	}
}

static void by_string_instruction(void)
{
	static const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
	uint8_t *code = page_alloc();

	for (unsigned i = 0; i < 20; i++) {
		memcpy(code, i & 1 ? one : two, 6);
		CHECK_EQ(call_code(code), i & 1 ? 1 : 2);
	}
}

/* By a vector store, a locked operation, and XCHG. */
static void by_other_stores(void)
{
	uint8_t *code = page_alloc();
	uint32_t *imm = (uint32_t *)(code + 1);
	uint32_t value = 0x300;

	memcpy(code, (const uint8_t[]){0xb8, 0, 0, 0, 0, 0xc3}, 6);
	CHECK_EQ(call_code(code), 0);
	asm volatile("lock addl $0x100, %0" : "+m"(*imm) : : "cc");
	CHECK_EQ(call_code(code), 0x100);
	asm volatile("xchg %0, %1" : "+m"(*imm), "+r"(value));
	CHECK_EQ(call_code(code), 0x300);
	asm volatile("movd %1, %%xmm0; movd %%xmm0, %0" : "=m"(*imm) : "r"(0x400) : "memory");
	CHECK_EQ(call_code(code), 0x400);
	asm volatile("push %1; pop %0" : "=m"(*(uint64_t *)(code + 8)) : "r"(0x90ul) : "memory");
	asm volatile("btsl $31, %0" : "+m"(*imm) : : "cc");
	CHECK_EQ(call_code(code), 0x80000400);
}

/* Another page under the same address. */
static void remapped(void)
{
	uint8_t *pages[2] = {page_alloc(), page_alloc()};

	for (unsigned i = 0; i < 2; i++)
		memcpy(pages[i], (const uint8_t[]){0xb8, (uint8_t)(i + 1), 0, 0, 0, 0xc3}, 6);
	for (unsigned i = 0; i < 10; i++) {
		map(TEST_VA, pages[i & 1], PTE_P | PTE_W);
		CHECK_EQ(call_code((void *)TEST_VA), (i & 1) + 1);
	}
	/* And written through another address while it is mapped. */
	pages[1][1] = 9;
	cpuid(0, 0); /* by another linear address: one has to serialize (SDM volume 3, 9.1.3) */
	CHECK_EQ(call_code((void *)TEST_VA), 9);
}

/* A jump target built just before it is jumped to, many at a time, as a compiler at run time does. */
static void many(void)
{
	uint8_t *code[16];

	for (unsigned p = 0; p < 16; p++)
		code[p] = page_alloc();
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 16 * 256; i++) {
			uint8_t *at = code[i / 256] + i % 256 * 16;
			uint32_t value = i + round * 100000;

			at[0] = 0xb8;
			memcpy(at + 1, &value, 4);
			at[5] = 0xc3;
		}
		for (unsigned i = 0; i < 16 * 256; i++)
			if (!CHECK_EQ(call_code(code[i / 256] + i % 256 * 16), i + round * 100000))
				return;
	}
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"rewritten", rewritten},
	    {"own-loop", own_loop},
	    {"next-instruction", next_instruction},
	    {"other-length", other_length},
	    {"across-pages", across_pages},
	    {"by-string-instruction", by_string_instruction},
	    {"by-other-stores", by_other_stores},
	    {"remapped", remapped},
	    {"many", many},
	};

	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
