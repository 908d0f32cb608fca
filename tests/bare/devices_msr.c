/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Model-specific registers that every 64-bit processor has (SDM volume 4, chapter 2). */
#include "devices.h"

enum {
	MSR_TSC = 0x10,
	MSR_TSC_ADJUST = 0x3b,
	MSR_MTRR_CAP = 0xfe,
	MSR_MTRR_BASE0 = 0x200,
	MSR_MTRR_FIXED = 0x250,
	MSR_PAT = 0x277,
	MSR_MTRR_DEFAULT = 0x2ff
};

#define MSR_TSC_AUX   0xc0000103u
#define NOT_CANONICAL (1ull << 63)

/* Takes any of some values, and holds it; `value` that is not to be had is #GP and changes nothing. */
static void holds(uint32_t msr, uint64_t value)
{
	uint64_t old = rdmsr(msr);

	wrmsr(msr, value);
	check_equal(rdmsr(msr), value, "the MSR written", __FILE__, msr);
	wrmsr(msr, old);
}

static void refuses(uint32_t msr, uint64_t value)
{
	uint64_t old = rdmsr(msr);

	EXPECT_FAULT(VEC_GP, 0, wrmsr(msr, value));
	check_equal(rdmsr(msr), old, "the MSR refused", __FILE__, msr);
}

/* RDMSR clears the upper halves of RAX and RDX, and both look at ECX, EAX and EDX only. */
static void halves(void)
{
	uint64_t a = ~0ull, c = 0xffffffff00000000ull | MSR_LSTAR, d = ~0ull, old = rdmsr(MSR_LSTAR);

	wrmsr(MSR_LSTAR, 0x00001234abcd5678);
	asm volatile("rdmsr" : "+a"(a), "+d"(d) : "c"(c));
	CHECK_EQ(a, 0xabcd5678);
	CHECK_EQ(d, 0x1234);
	a = 0xffffffff11223344;
	d = 0xffffffff00005566;
	asm volatile("wrmsr" : : "a"(a), "c"(c), "d"(d) : "memory");
	CHECK_EQ(rdmsr(MSR_LSTAR), 0x0000556611223344);
	wrmsr(MSR_LSTAR, old);
}

void msr_time(void)
{
	const uint64_t far = 1ull << 40;
	uint64_t before, middle, after, adjust;

	for (unsigned i = 0; i < 10; i++) {
		before = rdtsc();
		asm volatile("lfence" : : : "memory");
		middle = rdmsr(MSR_TSC);
		asm volatile("lfence" : : : "memory");
		after = rdtsc();
		CHECK(before <= middle && middle <= after);
	}
	if (!(cpuid(7, 0).b & 2)) {
		skip("no TSC_ADJUST");
		return;
	}
	/* What is added shows at once, and is seen in what the counter is set to (SDM volume 3, 18.17.3). */
	adjust = rdmsr(MSR_TSC_ADJUST);
	before = rdtsc();
	wrmsr(MSR_TSC_ADJUST, adjust + far);
	CHECK_EQ(rdmsr(MSR_TSC_ADJUST), adjust + far);
	CHECK(rdtsc() - before >= far);
	wrmsr(MSR_TSC_ADJUST, adjust);
	CHECK(rdtsc() - before < far);
	wrmsr(MSR_TSC, rdtsc() + far);
	middle = rdmsr(MSR_TSC_ADJUST) - adjust;
	CHECK(middle <= far && middle > far - ticks_of(60000000));
	CHECK(rdtsc() - before >= far - ticks_of(60000000));
	wrmsr(MSR_TSC_ADJUST, adjust);
	CHECK(rdtsc() - before < far);
}

void msr_system_calls(void)
{
	holds(MSR_STAR, 0x001b000800000000);
	holds(MSR_LSTAR, 0xffffffff81000000);
	holds(MSR_CSTAR, 0x00007fffffffffff);
	holds(MSR_SFMASK, 0x47700);
	refuses(MSR_LSTAR, NOT_CANONICAL);
	refuses(MSR_CSTAR, NOT_CANONICAL);
	halves();
	holds(MSR_SYSENTER_CS, 0x10);
	holds(MSR_SYSENTER_ESP, 0x12345678);
	holds(MSR_SYSENTER_EIP, 0x87654321);
	/* AMD's have 32 bits and no check; KVM follows it on whatever processor where it serves them itself.
	 */
	if (is_software()) {
		refuses(MSR_SYSENTER_ESP, NOT_CANONICAL);
		refuses(MSR_SYSENTER_EIP, NOT_CANONICAL);
	}
}

void msr_bases(void)
{
	static const uint32_t bases[] = {MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS};
	static uint64_t word = 0x5555aaaa1234;
	uint64_t value;

	for (unsigned i = 0; i < 3; i++) {
		holds(bases[i], 0xffff800000000000);
		holds(bases[i], 0x00007fffffffffff);
		/* Not with 57 bits either: hardware that has them takes such bases whatever the guest has turned on. */
		refuses(bases[i], 0x0100000000000000);
		refuses(bases[i], 0xfeffffffffffffff);
	}
	wrmsr(MSR_FS_BASE, (unsigned long)&word - 8);
	asm volatile("movq %%fs:8, %0" : "=r"(value));
	CHECK_EQ(value, 0x5555aaaa1234);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_KERNEL_GS, (unsigned long)&word);
	asm volatile("swapgs; movq %%gs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x5555aaaa1234);
	CHECK_EQ(rdmsr(MSR_GS_BASE), (unsigned long)&word);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS), 0);
	wrmsr(MSR_GS_BASE, 0);
	if (cpuid(0x80000001, 0).d >> 27 & 1) { /* RDTSCP */
		uint32_t c;

		wrmsr(MSR_TSC_AUX, 0xdeadbeef);
		CHECK_EQ(rdmsr(MSR_TSC_AUX), 0xdeadbeef);
		asm volatile("rdtscp" : "=c"(c) : : "eax", "edx");
		CHECK_EQ(c, 0xdeadbeef);
		wrmsr(MSR_TSC_AUX, 0);
	}
}

void msr_memory_types(void)
{
	uint64_t old;

	if (cpuid(1, 0).d >> 16 & 1) {
		CHECK_EQ(rdmsr(MSR_PAT), 0x0007040600070406); /* after reset (SDM volume 3, 12.12.4) */
		holds(MSR_PAT, 0x0007010600070106);
		refuses(MSR_PAT, 0x0007040600070402); /* 2 and 3 are no types, nor is what is above 7 */
		refuses(MSR_PAT, 0x0307040600070406);
		refuses(MSR_PAT, 0x0007040600070486);
	}
	if (!(cpuid(1, 0).d >> 12 & 1)) {
		skip("no MTRRs");
		return;
	}
	refuses(MSR_MTRR_CAP, 0);
	old = rdmsr(MSR_MTRR_DEFAULT);
	holds(MSR_MTRR_DEFAULT, (old & ~0xffull) | 6);
	refuses(MSR_MTRR_DEFAULT, (old & ~0xffull) | 2);
	refuses(MSR_MTRR_DEFAULT, old | 1ull << 20);
	if (rdmsr(MSR_MTRR_CAP) & 0x100) {
		holds(MSR_MTRR_FIXED, 0x0606060606060606);
		refuses(MSR_MTRR_FIXED, 0x0606060606060602);
	}
	if (rdmsr(MSR_MTRR_CAP) & 0xff) {
		holds(MSR_MTRR_BASE0, 0x80000006);
		refuses(MSR_MTRR_BASE0, 0x80000002);
		refuses(MSR_MTRR_BASE0, 1ull << 60 | 6); /* beyond any processor's addresses */
	}
}

void msr_efer(void)
{
	uint64_t efer = rdmsr(MSR_EFER);

	CHECK_EQ(efer & (EFER_LME | 1 << 10), EFER_LME | 1 << 10); /* LMA follows */
	holds(MSR_EFER, efer ^ EFER_SCE);
	refuses(MSR_EFER, efer | 1ull << 40);
	refuses(MSR_EFER, efer & ~EFER_LME); /* paging is on */
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0x800, 0x800);
	refuses(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x200);
	refuses(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1ull << 60);
}

void msr_unknown(void)
{
	static const uint32_t none[] = {0x00001fff, 0x3fffffff, 0x400001fe,
					0x8fffffff, 0xc0001fff, 0xffffffff};

	for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		EXPECT_FAULT(VEC_GP, 0, rdmsr(none[i]));
		EXPECT_FAULT(VEC_GP, 0, wrmsr(none[i], 0));
	}
}
