// SPDX-License-Identifier: GPL-2.0-or-later
/* translate_host.c - what translated code asks of the host CPU and its kernel. */
#include "hypervisor/soft/translate_host.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2u
#endif

/* Flags are kept by LAHF and SAHF, which the first 64-bit processors lacked. */
bool translate_host_serves(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1;
}

bool translate_host_has_avx(void)
{
	return __builtin_cpu_supports("avx");
}

/* GS is free in 64-bit programs: the C library uses FS. The kernel says in HWCAP2 whether programs may set it. */
void translate_set_gs(const void *base)
{
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)
		__asm__ volatile("wrgsbase %0" : : "r"(base));
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}
