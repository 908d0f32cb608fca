// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_vector_state.c - the x87, SSE and AVX state as a whole: saving and restoring in every format, when
 * an instruction may not run, what CPUID says. Expected results are the manual's. What instructions
 * compute is compared with the host CPU by tests/diff.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/unit/test_exec_machine.h"

static struct machine m;

#define RUN(bytes)                                                                                           \
	do {                                                                                                 \
		machine_code(&m, bytes, sizeof(bytes) - 1);                                                  \
		machine_run(&m);                                                                             \
	} while (0)

#define CR0_MP      0x2u
#define CR0_EM      0x4u
#define CR0_TS      0x8u
#define CR0_NE      0x20u
#define CR4_FX      0x600u /* OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE 0x40000u

enum { UD = 6, NM = 7, GP = 13, PF = 14, MF = 16, XM = 19 };

/* 64-bit code at CPL 0 with everything enabled but AVX. RSI points at data. */
static void begin(void)
{
	machine_long(&m);
	m.r.cr0 |= CR0_NE | CR0_MP;
	m.r.cr0 &= ~(uint64_t)(CR0_TS | CR0_EM);
	m.r.cr4 |= CR4_FX | CR4_OSXSAVE;
	m.r.gpr[RSI] = DATA;
	memset(m.data, 0, 0x1000);
}

/* xcr0 = 7 */
#define ENABLE_AVX "\x31\xc9\xb8\x07\x00\x00\x00\x31\xd2\x0f\x01\xd1"
/* eax = 7, edx = 0: all components */
#define ALL "\xb8\x07\x00\x00\x00\x31\xd2"

/* Everything initial: XRSTOR of an area that has no component. */
static void reset_state(void)
{
	begin();
	le32_put(m.data + 24, 0x1f80);
	RUN(ENABLE_AVX "\x0f\xae\x2e"); /* xrstor [rsi] */
	assert_int_equal(m.fault, -1);
	begin();
}

/* --- when instructions may not run -------------------------------------------------------------- */

#define X87 "\xd9\xe8"         /* fld1 */
#define MMX "\x0f\xef\xc0"     /* pxor mm0, mm0 */
#define SSE "\x66\x0f\xef\xc0" /* pxor xmm0, xmm0 */
#define AVX "\xc5\xf9\xef\xc0" /* vpxor xmm0, xmm0, xmm0 */

static int fault_of(const char *code, size_t size, uint64_t cr0, uint64_t without_cr4)
{
	begin();
	m.r.cr0 |= cr0;
	m.r.cr4 &= ~without_cr4;
	machine_code(&m, code, (unsigned)size);
	machine_run(&m);
	return m.fault;
}

#define FAULT(code, cr0, without_cr4) fault_of(code, sizeof(code) - 1, cr0, without_cr4)

static void units_are_blocked(void **context)
{
	reset_state();
	assert_int_equal(FAULT(X87, 0, 0), -1);
	assert_int_equal(FAULT(X87, CR0_TS, 0), NM);
	assert_int_equal(FAULT(X87, CR0_EM, 0), NM);
	assert_int_equal(FAULT(MMX, 0, 0), -1);
	assert_int_equal(FAULT(MMX, CR0_TS, 0), NM);
	assert_int_equal(FAULT(MMX, CR0_EM, 0), UD);
	assert_int_equal(FAULT(MMX, CR0_EM | CR0_TS, 0), UD);
	assert_int_equal(FAULT(SSE, 0, 0), -1);
	assert_int_equal(FAULT(SSE, CR0_TS, 0), NM);
	assert_int_equal(FAULT(SSE, CR0_EM, 0), UD);
	assert_int_equal(FAULT(SSE, CR0_TS, 0x200), UD);
	assert_int_equal(FAULT(AVX, 0, 0), -1);
	assert_int_equal(FAULT(AVX, CR0_TS, 0), NM);
	assert_int_equal(FAULT(AVX, 0, CR4_OSXSAVE), UD);
	assert_int_equal(FAULT("\x9b", CR0_TS, 0), NM);         /* fwait */
	assert_int_equal(FAULT("\x0f\xae\x06", CR0_TS, 0), NM); /* fxsave [rsi] */
	assert_int_equal(FAULT("\x0f\xae\x06", CR0_EM, 0), NM);
	assert_int_equal(FAULT("\x0f\xae\x26", CR0_TS, 0), NM); /* xsave [rsi] */
	assert_int_equal(FAULT("\x0f\xae\x26", 0, CR4_OSXSAVE), UD);
	assert_int_equal(FAULT("\x0f\xae\xf0", CR0_TS | CR0_EM, 0x200), -1); /* mfence */
	assert_int_equal(FAULT("\x0f\x18\x0e", CR0_TS | CR0_EM, 0x200), -1); /* prefetcht0 [rsi] */
}

/* fwait without CR0.MP does not look at CR0.TS. */
static void fwait_looks_at_mp(void **context)
{
	reset_state();
	m.r.cr0 = (m.r.cr0 & ~(uint64_t)CR0_MP) | CR0_TS;
	RUN("\x9b");
	assert_int_equal(m.fault, -1);
}

static void avx_needs_xcr0(void **context)
{
	reset_state();
	RUN("\x31\xc9\xb8\x03\x00\x00\x00\x31\xd2\x0f\x01\xd1" AVX);
	assert_int_equal(m.fault, UD);
	reset_state();
	RUN(AVX);
	assert_int_equal(m.fault, -1);
}

/* A SIMD exception is #XM, and #UD where the system does not know of it. */
static void simd_exceptions_need_cr4(void **context)
{
	static const char divide[] =
	    "\x0f\xae\x16\x0f\x57\xc0\x0f\x5e\xc0"; /* ldmxcsr [rsi]; xorps; divps xmm0, xmm0 */

	for (unsigned i = 0; i < 2; i++) {
		reset_state();
		le32_put(m.data, 0x1f00);
		if (i)
			m.r.cr4 &= ~(uint64_t)0x400;
		machine_code(&m, divide, sizeof(divide) - 1);
		machine_run(&m);
		assert_int_equal(m.fault, i ? UD : XM);
	}
	reset_state();
}

static void x87_exceptions_wait(void **context)
{
	reset_state();
	le16_put(m.data, 0x037b); /* division by zero not masked */
	/* fldcw [rsi]; fld1; fldz; fdivp; fnstsw [rsi + 2]; nop; fld1 */
	RUN("\xd9\x2e\xd9\xe8\xd9\xee\xde\xf9\xdd\x7e\x02\x90\xd9\xe8");
	assert_int_equal(m.fault, MF);
	assert_int_equal(m.fault_rip, CODE + 12);
	assert_int_equal(le16_get(m.data + 2) & 0x8084, 0x8084);
	/* fnclex ends it. */
	m.r.rip = CODE;
	begin();
	RUN("\xdb\xe2\xd9\xe8\xdb\xe3");
	assert_int_equal(m.fault, -1);
}

/* --- the x87 environment ------------------------------------------------------------------------ */

/* fninit; fld1; fldz; fnstenv */
#define ENVIRONMENT "\xdb\xe3\xd9\xe8\xd9\xee"

static void environment_of_64_bit_code(void **context)
{
	reset_state();
	RUN(ENVIRONMENT "\xd9\x36"); /* fnstenv [rsi] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le32_get(m.data), 0xffff037f);
	assert_int_equal(le32_get(m.data + 4), 0xffff3000); /* TOP 6 */
	assert_int_equal(le32_get(m.data + 8), 0xffff1fff); /* R7 valid, R6 zero */
	assert_int_equal(le32_get(m.data + 12), CODE + 4);  /* FIP: of fldz */
	assert_int_equal(le16_get(m.data + 16), 0);         /* FCS is not kept */
	assert_int_equal(le32_get(m.data + 24), 0xffff0000);
	/* All exceptions are masked by it; fldenv takes back what was there. */
	le32_put(m.data, 0xffff0340);
	le32_put(m.data + 64, 0);
	begin();
	le32_put(m.data, 0xffff0340);
	le32_put(m.data + 4, 0xffff3800);
	le32_put(m.data + 8, 0xffffffff);
	RUN("\xd9\x26\xd9\x7e\x40\xdd\x7e\x42"); /* fldenv [rsi]; fnstcw [rsi + 64]; fnstsw [rsi + 66] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.data + 64), 0x0340);
	assert_int_equal(le16_get(m.data + 66), 0x3800);
}

static void environment_of_16_bit_code(void **context)
{
	reset_state();
	machine_real(&m);
	m.r.gpr[RSI] = 0x100;
	memset(m.data, 0, 0x200);
	RUN(ENVIRONMENT "\xd9\x34"); /* fnstenv [si]: real mode, 14 bytes */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.data + 0x100), 0x037f);
	assert_int_equal(le16_get(m.data + 0x102), 0x3000);
	assert_int_equal(le16_get(m.data + 0x104), 0x1fff);
	assert_int_equal(le16_get(m.data + 0x106), 4); /* IP; above it FOP, which needs an exception */
	assert_int_equal(le16_get(m.data + 0x108) >> 12, 0);
	assert_int_equal(le16_get(m.data + 0x10e), 0); /* nothing behind */
	machine_real(&m);
	m.r.gpr[RSI] = 0x100;
	RUN(ENVIRONMENT "\x66\xd9\x34"); /* 28 bytes */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le32_get(m.data + 0x100), 0xffff037f);
	assert_int_equal(le32_get(m.data + 0x10c), 0xffff0004);
}

/* fnsave and frstor bring back all registers, in each size; fnsave leaves an initial state. */
static void save_and_restore(void **context)
{
	for (unsigned mode = 0; mode < 3; mode++) {
		reset_state();
		if (mode == 1)
			machine_protected(&m, true);
		else if (mode == 2)
			machine_real(&m);
		m.r.gpr[RSI] = (mode == 0 ? DATA : mode == 1 ? DATA_GPA : 0) + 0x200;
		memset(m.data, 0, 0x400);
		/* fninit; fldpi; fld1; fnsave [rsi]; fnstcw [rsi - 16]; fnstsw [rsi - 14]; frstor [rsi];
		 * fstp qword [rsi - 32]; fstp qword [rsi - 24] */
		if (mode < 2)
			RUN("\xdb\xe3\xd9\xeb\xd9\xe8\xdd\x36\xd9\x7e\xf0\xdd\x7e\xf2\xdd\x26\xdd\x5e\xe0\xdd"
			    "\x5e\xe8");
		else
			RUN("\xdb\xe3\xd9\xeb\xd9\xe8\xdd\x34\xd9\x7c\xf0\xdd\x7c\xf2\xdd\x24\xdd\x5c\xe0\xdd"
			    "\x5c\xe8");
		assert_int_equal(m.fault, -1);
		assert_int_equal(le16_get(m.data + 0x1f0), 0x037f);
		assert_int_equal(le16_get(m.data + 0x1f2), 0);
		assert_true(le64_get(m.data + 0x1e0) == 0x3ff0000000000000);
		assert_true(le64_get(m.data + 0x1e8) == 0x400921fb54442d18);
	}
}

/* --- FXSAVE ------------------------------------------------------------------------------------- */

static void fxsave_in_32_bit_code(void **context)
{
	/* Fill XMM0 and XMM15 by 64-bit code, then save by 32-bit code: eight registers. */
	reset_state();
	memset(m.data + 64, 0xab, 16);
	RUN("\x0f\x10\x46\x40\x44\x0f\x10\x7e\x40"); /* movups xmm0, [rsi + 64]; movups xmm15, [rsi + 64] */
	assert_int_equal(m.fault, -1);
	machine_compatible(&m);
	m.r.cr4 |= CR4_FX;
	m.r.gpr[RSI] = DATA;
	memset(m.data, 0x11, 512);
	RUN("\x0f\xae\x06");
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.data[160], 0xab);
	assert_int_equal(m.data[160 + 8 * 16], 0x11); /* XMM8: reserved, not written */
	assert_int_equal(m.data[511], 0x11);
	assert_int_equal(le32_get(m.data + 24), 0x1f80);
	assert_int_equal(le32_get(m.data + 28), 0xffff);
}

static void fxrstor_checks_mxcsr(void **context)
{
	reset_state();
	RUN("\x0f\xae\x06"); /* fxsave [rsi] */
	assert_int_equal(m.fault, -1);
	m.r.rip = CODE;
	le32_put(m.data + 24, 0x10000);
	RUN("\x0f\xae\x0e"); /* fxrstor [rsi] */
	assert_int_equal(m.fault, GP);
	reset_state();
	m.r.gpr[RSI] = DATA + 8;
	RUN("\x0f\xae\x06");
	assert_int_equal(m.fault, GP);
	reset_state();
	le32_put(m.data, 0x10000);
	RUN("\x0f\xae\x16"); /* ldmxcsr [rsi] */
	assert_int_equal(m.fault, GP);
	reset_state();
}

/* FOP, FIP and FDP: kept from FXRSTOR to FXSAVE, whatever the host does. An instruction moves FIP, FLDCW
 * does not, an exception moves all three. */
static void pointers(void **context)
{
	bool only_exceptions;

	reset_state();
	RUN("\xb8\x07\x00\x00\x00\x31\xc9\x0f\xa2"); /* cpuid of leaf 7 */
	only_exceptions = m.r.gpr[RBX] >> 6 & 1;
	begin();
	le16_put(m.data, 0x037f);
	le16_put(m.data + 6, 0x123);
	le64_put(m.data + 8, 0x1122334455);
	le64_put(m.data + 16, 0x66778899aa);
	le32_put(m.data + 24, 0x1f80);
	le16_put(m.data + 0x400, 0x037b); /* division by zero not masked */
	/* fxrstor64 [rsi]; fxsave64 [rsi + 0x200]; fld1; fldcw [rsi + 0x400]; fxsave64 [rsi + 0x600] */
	RUN("\x48\x0f\xae\x0e\x48\x0f\xae\x86\x00\x02\x00\x00\xd9\xe8\xd9\xae\x00\x04\x00\x00\x48\x0f\xae\x86"
	    "\x00\x06\x00\x00");
	assert_int_equal(m.fault, -1);
	assert_memory_equal(m.data + 6, m.data + 0x206, 18);
	assert_int_equal(le16_get(m.data + 0x606), 0x123);
	assert_true(le64_get(m.data + 0x608) == CODE + 12);
	if (only_exceptions)
		assert_true(le64_get(m.data + 0x610) == 0x66778899aa);
	begin();
	RUN("\xda\xb6\x00\x07\x00\x00\x48\x0f\xae\x06"); /* fidiv dword [rsi + 0x700]; fxsave64 [rsi] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le16_get(m.data + 6), 0x2b6);
	assert_true(le64_get(m.data + 8) == CODE);
	assert_true(le64_get(m.data + 16) == DATA + 0x700);
	begin();
	RUN("\xdb\xe3"); /* fninit */
	reset_state();
}

/* --- XSAVE -------------------------------------------------------------------------------------- */

#define BV (m.data + 512) /* XSTATE_BV */
#define ONES_IN_YMM1                                                                                         \
	"\xc5\xf0\xc2\xc9\x0f\xc4\xe3\x75\x18\xc9\x01" /* vcmpps xmm1, true; vinsertf128 ymm1, xmm1, 1 */

static void nothing_in_use(void **context)
{
	reset_state();
	memset(m.data, 0x77, 0x400);
	memset(BV, 0, 64);
	RUN(ALL "\x48\x0f\xae\x26"); /* xsave64 [rsi] */
	assert_int_equal(m.fault, -1);
	assert_true(le64_get(BV) == 0);
	/* XSAVE writes initial components too. */
	assert_int_equal(le16_get(m.data), 0x037f);
	assert_true(le64_get(m.data + 160) == 0);
	assert_true(le64_get(m.data + 576) == 0);
	assert_int_equal(m.data[416], 0x77);
	/* XSAVEOPT does not, but for MXCSR. */
	reset_state();
	memset(m.data, 0x77, 0x400);
	memset(BV, 0, 64);
	RUN(ALL "\x48\x0f\xae\x36");
	assert_int_equal(m.fault, -1);
	assert_true(le64_get(BV) == 0);
	assert_int_equal(m.data[0], 0x77);
	assert_int_equal(m.data[160], 0x77);
	assert_int_equal(m.data[576], 0x77);
	assert_int_equal(le32_get(m.data + 24), 0x1f80);
}

static void components_are_told_apart(void **context)
{
	reset_state();
	/* ymm1 = ones; only its upper half: vpxor xmm1 would clear it, so keep both. */
	RUN(ONES_IN_YMM1 ALL "\x48\x0f\xae\x26");
	assert_int_equal(m.fault, -1);
	assert_true(le64_get(BV) == 6);
	assert_true(le64_get(m.data + 160 + 16) == ~0ull);
	assert_true(le64_get(m.data + 576 + 16) == ~0ull);
	/* Without AVX asked for, its bit in XSTATE_BV stays as it was. */
	m.r.rip = CODE;
	le64_put(BV, 4);
	memset(m.data + 576, 0x55, 256);
	m.r.gpr[RSI] = DATA;
	RUN("\xb8\x01\x00\x00\x00\x31\xd2\x48\x0f\xae\x26");
	assert_int_equal(m.fault, -1);
	assert_true(le64_get(BV) == 4);
	assert_int_equal(m.data[576], 0x55);
	/* XRSTOR makes initial what is asked for and not there. */
	begin();
	RUN(ALL "\x48\x0f\xae\x2e" ALL "\x48\x0f\xae\x66\x40"); /* xrstor64 [rsi]; xsave64 [rsi + 64] */
	assert_int_equal(m.fault, -1);
	assert_true(le64_get(BV + 64) == 0);
	reset_state();
}

static void compacted_format(void **context)
{
	reset_state();
	le32_put(m.data + 0x800, 0x3f80);
	/* ldmxcsr [rsi + 0x800] (rounding); xsavec64 [rsi] */
	RUN("\x0f\xae\x96\x00\x08\x00\x00" ALL "\x48\x0f\xc7\x26");
	assert_int_equal(m.fault, -1);
	/* MXCSR belongs to SSE here, so SSE is there though all registers are 0. */
	assert_true(le64_get(BV) == 2);
	assert_true(le64_get(BV + 8) == (1ull << 63 | 7));
	assert_int_equal(le32_get(m.data + 24), 0x3f80);
	/* Back: without the component MXCSR becomes initial. */
	m.r.rip = CODE;
	m.r.gpr[RSI] = DATA;
	le64_put(BV, 0);
	RUN(ALL "\x48\x0f\xae\x2e\x0f\xae\x9e\x00\x08\x00\x00"); /* xrstor64 [rsi]; stmxcsr [rsi + 0x800] */
	assert_int_equal(m.fault, -1);
	assert_int_equal(le32_get(m.data + 0x800), 0x1f80);
	/* In the standard format it does not. */
	reset_state();
	le32_put(m.data + 24, 0x5f80);
	RUN(ALL "\x48\x0f\xae\x2e\x0f\xae\x9e\x00\x08\x00\x00");
	assert_int_equal(m.fault, -1);
	assert_int_equal(le32_get(m.data + 0x800), 0x5f80);
	reset_state();
}

static int restore_with(uint64_t bv, uint64_t format, uint64_t reserved, uint32_t mxcsr, unsigned offset)
{
	reset_state();
	m.r.gpr[RSI] = DATA + offset;
	le64_put(BV, bv);
	le64_put(BV + 8, format);
	le64_put(BV + 16, reserved);
	le32_put(m.data + 24, mxcsr);
	RUN(ALL "\x48\x0f\xae\x2e");
	return m.fault;
}

static void bad_areas_are_refused(void **context)
{
	assert_int_equal(restore_with(7, 0, 0, 0x1f80, 0), -1);
	assert_int_equal(restore_with(8, 0, 0, 0x1f80, 0), GP);
	assert_int_equal(restore_with(0, 1, 0, 0x1f80, 0), GP);
	assert_int_equal(restore_with(0, 0, 1, 0x1f80, 0), GP);
	assert_int_equal(restore_with(0, 0, 0, 0x10000, 0), GP);
	assert_int_equal(restore_with(0, 0, 0, 0x1f80, 32), GP);
	assert_int_equal(restore_with(3, 1ull << 63 | 3, 0, 0x1f80, 0), -1);
	assert_int_equal(restore_with(4, 1ull << 63 | 3, 0, 0x1f80, 0), GP);
	assert_int_equal(restore_with(0, 1ull << 63 | 8, 0, 0x1f80, 0), GP);
	assert_int_equal(restore_with(0, 1ull << 63 | 3, 1, 0x1f80, 0), GP);
	/* A component that is absent needs no valid MXCSR in the compacted format. */
	assert_int_equal(restore_with(1, 1ull << 63 | 7, 0, 0x10000, 0), -1);
	reset_state();
}

/* XSAVE faults before it writes anything. */
static void a_fault_writes_nothing(void **context)
{
	reset_state();
	memset(m.data + DATA_SIZE - 768, 0x33, 768);
	m.r.gpr[RSI] = UNMAPPED - 768;
	RUN(ALL "\x48\x0f\xae\x26");
	assert_int_equal(m.fault, PF);
	for (unsigned i = 0; i < 768; i++)
		assert_int_equal(m.data[DATA_SIZE - 768 + i], 0x33);
	/* Without AVX it fits. */
	reset_state();
	m.r.gpr[RSI] = UNMAPPED - 768;
	RUN("\xb8\x03\x00\x00\x00\x31\xd2\x48\x0f\xae\x26");
	assert_int_equal(m.fault, -1);
}

/* --- CPUID -------------------------------------------------------------------------------------- */

static void cpuid(uint32_t leaf, uint32_t subleaf)
{
	begin();
	m.r.gpr[RAX] = leaf;
	m.r.gpr[RCX] = subleaf;
	RUN("\x0f\xa2");
	assert_int_equal(m.fault, -1);
}

static void cpuid_describes_the_area(void **context)
{
	reset_state();
	cpuid(0xd, 0);
	assert_int_equal(m.r.gpr[RAX] & 3, 3);
	assert_int_equal(m.r.gpr[RDX], 0);
	if (!(m.r.gpr[RAX] & 4))
		skip();
	assert_int_equal(m.r.gpr[RBX], 832);
	assert_int_equal(m.r.gpr[RCX], 2696); /* PKRU is the last */
	cpuid(0xd, 1);
	assert_int_equal(m.r.gpr[RAX], 7); /* XSAVEOPT, XSAVEC, XGETBV 1; no XSAVES */
	assert_int_equal(m.r.gpr[RBX], 832);
	cpuid(0xd, 2);
	assert_int_equal(m.r.gpr[RAX], 256);
	assert_int_equal(m.r.gpr[RBX], 576);
	assert_int_equal(m.r.gpr[RCX], 0);
	cpuid(0xd, 3);
	assert_int_equal(m.r.gpr[RAX] | m.r.gpr[RBX] | m.r.gpr[RCX] | m.r.gpr[RDX], 0);
	/* EBX of leaf 0 follows XCR0. */
	begin();
	RUN("\x31\xc9\xb8\x03\x00\x00\x00\x31\xd2\x0f\x01\xd1");
	cpuid(0xd, 0);
	assert_int_equal(m.r.gpr[RBX], 576);
	cpuid(7, 0);
	assert_int_equal(m.r.gpr[RBX] >> 13 & 1, 1); /* FCS and FDS are deprecated */
	reset_state();
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
	    cmocka_unit_test(units_are_blocked),
	    cmocka_unit_test(fwait_looks_at_mp),
	    cmocka_unit_test(avx_needs_xcr0),
	    cmocka_unit_test(simd_exceptions_need_cr4),
	    cmocka_unit_test(x87_exceptions_wait),
	    cmocka_unit_test(environment_of_64_bit_code),
	    cmocka_unit_test(environment_of_16_bit_code),
	    cmocka_unit_test(save_and_restore),
	    cmocka_unit_test(fxsave_in_32_bit_code),
	    cmocka_unit_test(fxrstor_checks_mxcsr),
	    cmocka_unit_test(pointers),
	    cmocka_unit_test(nothing_in_use),
	    cmocka_unit_test(components_are_told_apart),
	    cmocka_unit_test(compacted_format),
	    cmocka_unit_test(bad_areas_are_refused),
	    cmocka_unit_test(a_fault_writes_nothing),
	    cmocka_unit_test(cpuid_describes_the_area),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
