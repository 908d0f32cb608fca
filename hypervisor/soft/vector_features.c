// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_features.c - which vector extensions there are: those that the host CPU has, its kernel has
 * enabled, and this part knows. Bits: SDM volume 2, CPUID.
 */
#include "hypervisor/soft/vector_x87.h"

#include <cpuid.h>

#define LEAF1_EDX                                                                                            \
	(1u << 0 /* FPU */ | 1u << 15 /* CMOV: FCMOV, FCOMI */ | 1u << 19 /* CLFSH */ | 1u << 23 /* MMX */ | \
	 1u << 24 /* FXSR */ | 1u << 25 /* SSE */ | 1u << 26 /* SSE2 */)
#define LEAF1_ECX                                                                                            \
	(1u << 0 /* SSE3 */ | 1u << 1 /* PCLMULQDQ */ | 1u << 9 /* SSSE3 */ | 1u << 19 /* SSE4.1 */ |        \
	 1u << 20 /* SSE4.2 */ | 1u << 25 /* AES */)
#define LEAF1_ECX_XSAVE               (1u << 26)
#define LEAF1_ECX_OSXSAVE             (1u << 27)
#define LEAF1_ECX_AVX                 (1u << 28)
#define LEAF1_ECX_AVX_FAMILY          (LEAF1_ECX_AVX | 1u << 12 /* FMA */ | 1u << 29 /* F16C */)
#define LEAF7_EBX                     (1u << 29 /* SHA */)
#define LEAF7_EBX_AVX2                (1u << 5)
#define LEAF7_EBX_FDP_ONLY_EXCEPTIONS (1u << 6)
#define LEAF7_EBX_NO_FCS_FDS          (1u << 13)
#define LEAF7_ECX                     (1u << 8 /* GFNI */)
#define LEAF7_ECX_AVX_FAMILY          (1u << 9 /* VAES */ | 1u << 10 /* VPCLMULQDQ */)

#define XCR0_X87  1u
#define XCR0_SSE  2u
#define XCR0_AVX  4u
#define XCR0_PKRU (1u << 9)

static uint64_t host_xcr0(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

void vector_features(struct vector_features *features)
{
	uint32_t a, b, c, d;
	bool avx;

	memset(features, 0, sizeof(*features));
	if (!__get_cpuid(1, &a, &b, &c, &d))
		return;
	avx = (c & LEAF1_ECX_OSXSAVE) && (c & LEAF1_ECX_AVX) &&
	      (host_xcr0() & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);
	features->leaf1_edx = d & LEAF1_EDX;
	/* XSAVE is done here, not by the host. */
	features->leaf1_ecx = (c & LEAF1_ECX) | LEAF1_ECX_XSAVE;
	features->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_PKRU; /* keys.c: no host is asked */
	if (avx) {
		features->leaf1_ecx |= c & LEAF1_ECX_AVX_FAMILY;
		features->xcr0 |= XCR0_AVX;
	}
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		b = c = 0;
	/* When FDP is updated is what the host does, if it tells; FCS and FDS are never kept. */
	features->x87_pointers = x87_host_saves_pointers();
	features->leaf7_ebx = (b & (LEAF7_EBX | LEAF7_EBX_FDP_ONLY_EXCEPTIONS)) | LEAF7_EBX_NO_FCS_FDS;
	if (!features->x87_pointers)
		features->leaf7_ebx |= LEAF7_EBX_FDP_ONLY_EXCEPTIONS;
	features->leaf7_ecx = c & LEAF7_ECX;
	if (avx) {
		features->leaf7_ebx |= b & LEAF7_EBX_AVX2;
		features->leaf7_ecx |= c & LEAF7_ECX_AVX_FAMILY;
	}
}
