// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_exec_wrap.c - 32-bit code whose operands reach over the end of its addresses, and what is left when an
 * instruction of several parts faults. Expected results are those of an Intel processor, where the manual is silent.
 *
 * In compatibility mode, since what lies above 4 GiB is there as well: it must not be touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/unit/test_exec_machine.h"

static struct machine m;

enum { BR = 5, GP = 13, PF = 14, MF = 16 };

/* Guest physical; the pages hold these bytes. */
#define TABLES    0x40000u
#define PAGE_0    0x50000u /* 0x00 … at linear 0: 22 */
#define PAGE_F    0x51000u /* at 0xf000: 11 */
#define PAGE_10   0x52000u /* at 0x10000: 33 */
#define PAGE_LAST 0x53000u /* at 0xfffff000: 11 */
#define PAGE_OVER 0x54000u /* at 4 GiB: 33 */

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u

static void entry(uint32_t table, unsigned index, uint64_t value)
{
	le64_put(m.ram + table + 8 * (size_t)index, value);
}

static void map_ends(bool page_0)
{
	static const struct {
		uint32_t gpa;
		uint8_t byte;
	} pages[] = {{PAGE_0, 0x22}, {PAGE_F, 0x11}, {PAGE_10, 0x33}, {PAGE_LAST, 0x11}, {PAGE_OVER, 0x33}};

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		memset(m.ram + pages[i].gpa, pages[i].byte, 4096);
	entry(PD, 0, (TABLES + 0x1000) | 3);
	entry(TABLES + 0x1000, 0, page_0 ? PAGE_0 | 3 : 0);
	entry(TABLES + 0x1000, 0xf, PAGE_F | 3);
	entry(TABLES + 0x1000, 0x10, PAGE_10 | 3);
	entry(PDPT, 3, (TABLES + 0x2000) | 3);
	entry(TABLES + 0x2000, 511, (TABLES + 0x3000) | 3);
	entry(TABLES + 0x3000, 511, PAGE_LAST | 3);
	entry(PDPT, 4, (TABLES + 0x4000) | 3);
	entry(TABLES + 0x4000, 0, (TABLES + 0x5000) | 3);
	entry(TABLES + 0x5000, 0, PAGE_OVER | 3);
}

/* 32-bit code; ESI and EDI hold `at`, EAX and ECX are 0x0badcafe, MM1 and XMM1 all ones, XCR0 has everything. */
static void run(bool page_0, uint32_t at, const char *code, size_t size)
{
	/* mov ecx, 0; mov eax, 7; xor edx, edx; xsetbv; fninit; pcmpeqd mm1, mm1; pcmpeqd xmm1, xmm1; emms */
	static const char first[] = "\x31\xc9\xb8\x07\x00\x00\x00\x31\xd2\x0f\x01\xd1\xdb\xe3\x0f\x76\xc9\x66\x0f\x76\xc9\x0f\x77";

	machine_compatible(&m);
	m.r.cr0 = (m.r.cr0 | 0x22) & ~0xcull; /* NE MP, not TS, not EM */
	m.r.cr4 |= 0x40600;
	machine_code(&m, first, sizeof(first) - 1);
	machine_run(&m);
	assert_int_equal(m.fault, -1);
	map_ends(page_0);
	m.r.rip = CODE;
	m.r.gpr[RAX] = m.r.gpr[RCX] = 0x0badcafe;
	m.r.gpr[RSI] = m.r.gpr[RDI] = at;
	machine_code(&m, code, (unsigned)size);
	machine_run(&m);
}

#define RUN(page_0, at, code) run(page_0, at, code, sizeof(code) - 1)

static void assert_page_fault(uint64_t cr2, uint64_t code)
{
	assert_int_equal(m.fault, PF);
	assert_int_equal(m.r.cr2, cr2);
	assert_int_equal(m.error_code, code);
	assert_int_equal(m.fault_rip, CODE);
}

static void assert_untouched(uint32_t gpa)
{
	for (unsigned i = 1; i < 4096; i++)
		assert_int_equal(m.ram[gpa + i], m.ram[gpa]);
}

/* --- one access ----------------------------------------------------------------------------------- */

static void test_accesses_wrap(void **context)
{
	RUN(true, 0xfffffffe, "\x8b\x06"); /* mov eax, [esi] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RAX], 0x22221111);
	RUN(true, 0xfffffffe, "\x0f\x10\x06\x66\x0f\x73\xd8\x04\x66\x0f\x7e\xc0"); /* movups xmm0, [esi]; psrldq; movd eax, xmm0 */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RAX], 0x22222222);
	RUN(true, 0xfffffffe, "\x89\x06"); /* mov [esi], eax */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.ram + PAGE_LAST + 0xffe), 0xcafe);
	assert_int_equal(le16_get(m.ram + PAGE_0), 0x0bad);
	RUN(true, 0xfffffffe, "\xf0\x01\x06"); /* lock add [esi], eax */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.ram + PAGE_LAST + 0xffe), 0xdc0f);
	assert_int_equal(le16_get(m.ram + PAGE_0), 0x2dcf);
	RUN(true, 0xfffffffe, "\x89\xf4\x58\x89\xc1\xbc\x00\x20\x10\x10"); /* mov esp, esi; pop eax; mov ecx, eax; mov esp, STACK */
	assert_int_equal(m.r.gpr[RCX], 0x22221111);
	assert_untouched(PAGE_OVER);
}

static void test_second_page_of_access_faults(void **context)
{
	RUN(false, 0xfffffffe, "\x8b\x06"); /* mov eax, [esi] */
	assert_page_fault(0, 0);
	RUN(false, 0xfffffffe, "\x01\x06"); /* add [esi], eax */
	assert_page_fault(0, 2);
	RUN(false, 0xfffffff8, "\x0f\x11\x06"); /* movups [esi], xmm0 */
	assert_page_fault(0, 2);
	assert_untouched(PAGE_LAST);
	assert_untouched(PAGE_OVER);
}

/* A single access with a 16-bit address goes on behind 64 KiB. */
static void test_access_of_16_bit_address_goes_on(void **context)
{
	RUN(true, 0xfffe, "\x67\x8b\x04"); /* mov eax, [si] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RAX], 0x33331111);
}

/* --- several parts -------------------------------------------------------------------------------- */

static void test_elements_wrap(void **context)
{
	/* vmaskmovps xmm0, xmm1, [esi]; psrldq xmm0, 8; movd eax, xmm0 */
	RUN(true, 0xfffffff8, "\xc4\xe2\x71\x2c\x06\x66\x0f\x73\xd8\x08\x66\x0f\x7e\xc0");
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RAX], 0x22222222);
	RUN(true, 0xfffffff8, "\xc4\xe2\x71\x2e\x0e"); /* vmaskmovps [esi], xmm1, xmm1 */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le64_get(m.ram + PAGE_LAST + 0xff8), ~0ull);
	assert_int_equal(le64_get(m.ram + PAGE_0), ~0ull);
	assert_untouched(PAGE_OVER);
	RUN(false, 0xfffffff8, "\xc4\xe2\x71\x2c\x06");
	assert_page_fault(0, 0);
	RUN(false, 0xfffffff8, "\xc4\xe2\x71\x2e\x0e");
	assert_page_fault(0, 2);
	assert_untouched(PAGE_LAST);
}

static void test_areas_wrap(void **context)
{
	RUN(false, 0xffffff00, "\x0f\xae\x06"); /* fxsave [esi] */
	assert_page_fault(0xff, 2);
	RUN(false, 0xffffff00, "\x0f\xae\x0e"); /* fxrstor [esi] */
	assert_page_fault(0xff, 0);
	RUN(false, 0xfffffff0, "\xdd\x36"); /* fnsave [esi] */
	assert_page_fault(0x5b, 2);
	RUN(false, 0xfffffff0, "\xd9\x26"); /* fldenv [esi] */
	assert_page_fault(0xb, 0);
	assert_untouched(PAGE_LAST);
	RUN(true, 0xffffff00, "\x0f\xae\x06"); /* fxsave [esi] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.ram + PAGE_LAST + 0xf00), 0x037f);
	assert_int_equal(m.ram[PAGE_0 + 160 + 8 * 16 - 257], 0); /* XMM7's last byte */
	assert_int_equal(m.ram[PAGE_0 + 160 + 8 * 16 - 256], 0x22);
	assert_untouched(PAGE_OVER);
}

/* Parts have 16-bit addresses of their own. */
static void test_parts_of_16_bit_addresses_wrap(void **context)
{
	RUN(false, 0xff00, "\x67\x0f\xae\x04"); /* fxsave [si] */
	assert_page_fault(0xff, 2);
	RUN(false, 0xff00, "\x67\x0f\xae\x0c"); /* fxrstor [si] */
	assert_page_fault(0xff, 0);
	RUN(false, 0xfff0, "\x67\xdd\x34"); /* fnsave [si] */
	assert_page_fault(0x5b, 2);
	RUN(false, 0xfff8, "\x67\x66\x0f\xf7\xc9"); /* maskmovdqu xmm1, xmm1 */
	assert_page_fault(0, 2);
	RUN(false, 0xfffc, "\x67\x66\x0f\xf7\xc9");
	assert_page_fault(4, 2);
	RUN(false, 0xfffc, "\x67\xc4\x04"); /* les eax, [si] */
	assert_page_fault(0, 0);
	assert_untouched(PAGE_F);
	assert_untouched(PAGE_10);
	RUN(true, 0xfffc, "\x67\xc4\x04");
	assert_int_equal(m.fault, GP);
	assert_int_equal(m.error_code, 0x2220);
	RUN(true, 0xfff8, "\x67\x66\x0f\xf7\xc9"); /* maskmovdqu xmm1, xmm1 */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le64_get(m.ram + PAGE_F + 0xff8), ~0ull);
	assert_int_equal(le64_get(m.ram + PAGE_0), ~0ull);
	RUN(true, 0xff00, "\x67\x0f\xae\x04"); /* fxsave [si] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.ram[PAGE_0 + 160 + 8 * 16 - 257], 0);
	assert_untouched(PAGE_10);
}

/* --- what a fault leaves -------------------------------------------------------------------------- */

static void test_registers_popped_before_a_fault(void **context)
{
	memset(m.data + DATA_SIZE - 12, 0x44, 12);
	RUN(false, UNMAPPED - 12, "\x89\xf4\x61"); /* mov esp, esi; popa */
	assert_int_equal(m.fault, PF);
	assert_int_equal(m.r.cr2, UNMAPPED);
	assert_int_equal(m.fault_rsp, UNMAPPED - 12);
	assert_int_equal(m.r.gpr[RDI], 0x44444444);
	assert_int_equal(m.r.gpr[RSI], 0x44444444);
	assert_int_equal(m.r.gpr[RBP], 0x44444444);
	assert_int_equal(m.r.gpr[RCX], 0x0badcafe);
	assert_int_equal(m.r.gpr[RAX], 0x0badcafe);
}

/* The second bound is not read when the index is below the first. */
static void test_bound_reads_what_it_needs(void **context)
{
	RUN(false, 0xfffffffc, "\x31\xd2\x62\x16"); /* xor edx, edx; bound edx, [esi] */
	assert_int_equal(m.fault, BR);
	RUN(false, 0xfffffffc, "\x62\x06"); /* bound eax, [esi] */
	assert_int_equal(m.fault, BR);
	RUN(false, 0xfffffffc, "\xba\x12\x11\x11\x11\x62\x16"); /* mov edx, 0x11111112; bound edx, [esi] */
	assert_int_equal(m.fault, PF);
	assert_int_equal(m.r.cr2, 0);
	RUN(true, 0xfffffffc, "\xba\x12\x11\x11\x11\x62\x16");
	assert_int_equal(m.fault, -1);
}

/* The x87 status and tag words, by FNSTENV of 64-bit code. */
static void look_at_x87(uint16_t *status, uint16_t *tags)
{
	uint64_t cr0 = m.r.cr0, cr4 = m.r.cr4;

	machine_long(&m);
	m.r.cr0 = cr0;
	m.r.cr4 = cr4;
	m.r.gpr[RSI] = DATA;
	machine_code(&m, "\xd9\x36", 2);
	machine_run(&m);
	assert_int_equal(m.fault, -1);
	*status = le16_get(m.data + 4);
	*tags = le16_get(m.data + 8);
}

/* CS cannot be written. TOP has become 0 by then, and the tags with MASKMOVQ. */
static void test_refused_store_of_mmx(void **context)
{
	uint16_t status, tags;

	RUN(true, DATA, "\xd9\xe8\xd9\xe8\x2e\x0f\xe7\x0e"); /* fld1; fld1; movntq cs:[esi], mm1 */
	assert_int_equal(m.fault, GP);
	assert_int_equal(m.fault_rip, CODE + 4);
	look_at_x87(&status, &tags);
	assert_int_equal(status >> 11 & 7, 0);
	assert_int_equal(tags & 0xfff, 0xfff); /* R0 to R5 empty */
	RUN(true, DATA, "\xd9\xe8\xd9\xe8\x2e\x0f\xf7\xc9"); /* fld1; fld1; maskmovq cs:[edi], mm1, mm1 */
	assert_int_equal(m.fault, GP);
	look_at_x87(&status, &tags);
	assert_int_equal(status >> 11 & 7, 0);
	assert_true(!(tags & tags >> 1 & 0x5555)); /* none empty */
}

/* There is nothing to store, and so no fault for where it would go. */
static void test_exception_before_refused_store(void **context)
{
	uint16_t status, tags;

	/* mov dword [esi], 0x37e; fldcw [esi]; fstp qword cs:[esi] */
	RUN(true, DATA, "\xc7\x06\x7e\x03\x00\x00\xd9\x2e\x2e\xdd\x1e");
	assert_int_equal(m.fault, -1);
	look_at_x87(&status, &tags);
	assert_int_equal(status & 0xc1, 0xc1); /* ES, SF, IE */
	RUN(true, DATA, "\xd9\xe8\x2e\xdd\x1e"); /* fld1; fstp qword cs:[esi] */
	assert_int_equal(m.fault, GP);
}

static int setup(void **context)
{
	machine_create(&m, 1);
	return 0;
}

static int teardown(void **context)
{
	machine_destroy(&m);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_accesses_wrap, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_second_page_of_access_faults, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_access_of_16_bit_address_goes_on, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_elements_wrap, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_areas_wrap, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_parts_of_16_bit_addresses_wrap, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_registers_popped_before_a_fault, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_bound_reads_what_it_needs, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_refused_store_of_mmx, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_exception_before_refused_store, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
