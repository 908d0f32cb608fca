// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpuid.c - what this processor says of itself: the features that the other files serve, and no more.
 * The host adds what belongs to it: local APIC, topology, hypervisor leaves.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "hypervisor/soft/system.h"
#include "hypervisor/soft/vector.h"

#define BIT(n) (1u << (n))

/* Leaf 1 ECX. */
#define CX16    BIT(13)
#define PCID    BIT(17)
#define MOVBE   BIT(22)
#define POPCNT  BIT(23)
#define OSXSAVE BIT(27)
#define RDRAND  BIT(30)

/* Leaf 1 EDX: DE PSE TSC MSR PAE MCE CX8 SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH. */
#define LEAF1_EDX (BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(12) | BIT(13) | \
                   BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(19))

/* Leaf 7 EBX: FSGSBASE TSC_ADJUST SMEP ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB; ECX: UMIP RDPID, and by themselves
 * PKU OSPKE PKS; EDX: FSRM, SPEC_CTRL, STIBP, ARCH_CAPABILITIES, SSBD. */
#define LEAF7_EBX (BIT(0) | BIT(1) | BIT(7) | BIT(9) | BIT(10) | BIT(18) | BIT(19) | BIT(20) | BIT(23) | BIT(24))
#define LEAF7_ECX (BIT(2) | BIT(22))
#define PKU       BIT(3)
#define OSPKE     BIT(4)
#define PKS       BIT(31)
#define LEAF7_EDX (BIT(4) | BIT(26) | BIT(27) | BIT(29) | BIT(31))

/* Leaf 0x80000001 ECX: LAHF, PREFETCHW; EDX: SYSCALL NX 1GB RDTSCP LM. */
#define EXTENDED_ECX (BIT(0) | BIT(8))
#define EXTENDED_EDX (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))

/* BMI1, BMI2 and LZCNT are executed by the host's instructions, so the host must have them. */
#define LEAF7_EBX_HOST    (BIT(3) | BIT(8))
#define EXTENDED_ECX_HOST BIT(5)

#define BASIC_LAST    0xdu
#define EXTENDED_LAST 0x80000008u

/* What the answers depend on. */
struct model {
	const struct vector_features *vector;
	uint32_t host_leaf7_ebx, host_extended_ecx;
	uint64_t components, xcr0; /* what XCR0 may be, and is */
	uint32_t keys;             /* of leaf 7 ECX */
	bool osxsave;
};

static void probe(uint32_t *leaf7_ebx, uint32_t *extended_ecx)
{
	uint32_t a, b, c, d;

	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		*leaf7_ebx = b & LEAF7_EBX_HOST;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d))
		*extended_ecx = c & EXTENDED_ECX_HOST;
}

void cpuid_probe(struct soft *soft)
{
	probe(&soft->host_leaf7_ebx, &soft->host_extended_ecx);
}

static void text(uint32_t r[4], const char *s)
{
	memcpy(r, s, 16);
}

static void set(uint32_t r[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
	r[0] = a;
	r[1] = b;
	r[2] = c;
	r[3] = d;
}

/* Deterministic cache parameters: L1 data, L1 code, L2, L3 of a plain server core. */
static void caches(uint32_t subleaf, uint32_t r[4])
{
	static const uint32_t table[][4] = {
	    {0x00000121, 7u << 22 | 63, 63, 0},
	    {0x00000122, 7u << 22 | 63, 63, 0},
	    {0x00000143, 15u << 22 | 63, 1023, 0},
	    {0x00000163, 15u << 22 | 63, 16383, 0},
	};

	if (subleaf < ARRAY_SIZE(table))
		memcpy(r, table[subleaf], sizeof(table[0]));
}

static void basic(const struct model *m, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct vector_features *v = m->vector;

	switch (leaf) {
	case 0:
		set(r, BASIC_LAST, 0x756e6547, 0x6c65746e, 0x49656e69); /* GenuineIntel */
		break;
	case 1:
		set(r, PROCESSOR_SIGNATURE, 8u << 8, CX16 | PCID | MOVBE | POPCNT | RDRAND | v->leaf1_ecx,
		    LEAF1_EDX | v->leaf1_edx);
		if (m->osxsave)
			r[2] |= OSXSAVE;
		break;
	case 2:
		set(r, 0x0000ff01, 0, 0, 0); /* see leaf 4 */
		break;
	case 4:
		caches(subleaf, r);
		break;
	case 6:
		r[0] = BIT(2); /* the APIC timer never stops */
		break;
	case 7:
		if (subleaf == 2)
			r[3] = BIT(4) | BIT(5); /* BHI_CTRL, MCDT_NO */
		else if (!subleaf)
			set(r, 2, LEAF7_EBX | m->host_leaf7_ebx | v->leaf7_ebx,
			    LEAF7_ECX | v->leaf7_ecx | m->keys, LEAF7_EDX);
		break;
	case 0xd:
		vector_cpuid_xsave(m->components, m->xcr0, subleaf, r);
		break;
	default:
		break;
	}
}

static void answer(const struct model *m, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	set(r, 0, 0, 0, 0);
	switch (leaf) {
	case 0x80000000:
		r[0] = EXTENDED_LAST;
		break;
	case 0x80000001:
		set(r, 0, 0, EXTENDED_ECX | m->host_extended_ecx, EXTENDED_EDX);
		break;
	case 0x80000002:
		text(r, "Bulkhead softwar");
		break;
	case 0x80000003:
		text(r, "e processor\0\0\0\0");
		break;
	case 0x80000006:
		r[2] = 1024u << 16 | 8u << 12 | 64;
		break;
	case 0x80000007:
		r[3] = BIT(8); /* invariant TSC */
		break;
	case 0x80000008:
		r[0] = PHYSICAL_BITS | 48u << 8;
		break;
	default:
		if (leaf <= BASIC_LAST)
			basic(m, leaf, subleaf, r);
		break;
	}
}

void cpuid_model(const struct soft_vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	struct model m = {.vector = vector_pool_features(vp->vectors),
	    .host_leaf7_ebx = vp->soft->host_leaf7_ebx,
	    .host_extended_ecx = vp->soft->host_extended_ecx,
	    .components = vector_components(vp),
	    .xcr0 = vp->xcr0,
	    .keys = (vp->user_keys ? PKU : 0) | (vp->supervisor_keys ? PKS : 0) | (vp->cr4 & CR4_PKE ? OSPKE : 0),
	    .osxsave = vp->cr4 & CR4_OSXSAVE};

	answer(&m, leaf, subleaf, r);
}

void soft_vp_cpuid(const struct soft_vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	cpuid_model(vp, leaf, subleaf, r);
}

/* --- of no VP ---------------------------------------------------------------------------------------- */

static struct vector_features host_vector;
static struct model host_model;

static void make_host_model(void)
{
	vector_features(&host_vector);
	host_model.vector = &host_vector;
	host_model.components = host_model.xcr0 = host_vector.xcr0;
	host_model.keys = PKU | PKS;
	probe(&host_model.host_leaf7_ebx, &host_model.host_extended_ecx);
}

void soft_cpuid_features(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_host_model);
	answer(&host_model, leaf, subleaf, r);
}
