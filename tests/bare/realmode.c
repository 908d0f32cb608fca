/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Real mode: segments, the vector table, words on the stack (SDM volume 3, chapter 21). */
#include "bare.h"

#define REAL_BASE 0x7000ul

extern uint32_t real_call(uint32_t procedure);
extern char real_begin[], real_end[];

#define REAL(name)                                                                                           \
	real_call(({                                                                                         \
		extern char name[];                                                                          \
		(uint32_t)(name - real_begin);                                                               \
	}))

/* A byte of memory by its address alone, which compilers distrust near 0. */
static volatile uint8_t *at(unsigned long address)
{
	asm("" : "+r"(address));
	return (volatile uint8_t *)address;
}

static void arithmetic(void)
{
	CHECK_EQ(REAL(real_add), 0x00010000);
}

static void software_interrupt(void)
{
	CHECK_EQ(REAL(real_int), 0x00010006); /* IF set again; six bytes were pushed */
}

static void exceptions(void)
{
	CHECK_EQ(REAL(real_exceptions), 0xf);
}

static void idt_limit(void)
{
	CHECK_EQ(REAL(real_idt_limit), 0x1313);
}

static void segments(void)
{
	*at(0x10) = 0x11;
	CHECK_EQ(REAL(real_segments), 0x115a);
	CHECK_EQ(*at(0x100010), 0xa5);
}

static void strings(void)
{
	CHECK_EQ(REAL(real_strings), 0x00027777);
}

static void stack(void)
{
	CHECK_EQ(REAL(real_stack), 0x000a0010);
}

static void prefixes(void)
{
	CHECK_EQ(REAL(real_prefixes), 0x68ac68ac);
}

static void single_step(void)
{
	/* nop, nop, pushf, and, popf */
	CHECK_EQ(REAL(real_single_step), 5);
}

static void big_limit(void)
{
	CHECK_EQ(REAL(real_big_limit), 2 * *(volatile uint32_t *)at(0x200000));
}

static void undefined(void)
{
	CHECK_EQ(REAL(real_undefined), 3);
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"arithmetic", arithmetic},
	    {"software-interrupt", software_interrupt},
	    {"exceptions", exceptions},
	    {"idt-limit", idt_limit},
	    {"segments", segments},
	    {"strings", strings},
	    {"stack", stack},
	    {"prefixes", prefixes},
	    {"single-step", single_step},
	    {"big-limit", big_limit},
	    {"undefined", undefined},
	};

	outb(0x21, 0xff); /* a PC's old controllers, where there are any, stay silent */
	outb(0xa1, 0xff);
	memcpy((void *)at(REAL_BASE), real_begin, (size_t)(real_end - real_begin));
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
