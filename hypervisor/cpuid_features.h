/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cpuid_features.h - which CPUID bits are features, and their names. Private to hypervisor/. */
#pragma once

#include "hypervisor/partition.h"

/* A register of feature bits. Those outside `mask` are no features: they describe (topology, what is not
 * supported any more), or follow from other registers. */
struct cpuid_word {
	uint32_t leaf;
	uint8_t subleaf, number; /* of the register: 0 EAX, 1 EBX, 2 ECX, 3 EDX */
	uint32_t mask;
	const char *const *names; /* of the bits, as Linux and QEMU call them; NULL: none has one */
};

#define LEAF7_ECX_PKU (1u << 3)
#define LEAF7_ECX_PKS (1u << 31)

/* Ends with a mask of 0 (cpuid_names.c). */
extern const struct cpuid_word cpuid_words[];
