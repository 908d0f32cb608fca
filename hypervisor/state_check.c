/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state_check.c - whether a processor could be in a saved state: what the SDM reserves, and what VM entry
 * checks (volume 3, 27.3), as far as it holds for every processor. The bytes come from outside, and a
 * hardware processor that is given a state that cannot be fails in ways that are hard to read.
 */
#include "hypervisor/state.h"

#include <errno.h>
#include <string.h>

#define CR0_PE    (1ull << 0)
#define CR0_NW    (1ull << 29)
#define CR0_CD    (1ull << 30)
#define CR0_PG    (1ull << 31)
#define CR0_KNOWN 0xe005003full

#define CR4_PAE   (1ull << 5)
#define CR4_PCE   (1ull << 8)
#define CR4_PCIDE (1ull << 17)
#define CR4_LA57  (1ull << 12)

#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

#define RFLAGS_FIXED    (1ull << 1)
#define RFLAGS_VM       (1ull << 17)
#define RFLAGS_RESERVED (~0x3fffffull | 1ull << 3 | 1ull << 5 | 1ull << 15)

#define ATTRIBUTE_TYPE     0xfu
#define ATTRIBUTE_CODE     (1u << 3)
#define ATTRIBUTE_READ     (1u << 1) /* of code; of data: write */
#define ATTRIBUTE_S        (1u << 4)
#define ATTRIBUTE_P        (1u << 7)
#define ATTRIBUTE_L        (1u << 13)
#define ATTRIBUTE_D        (1u << 14)
#define ATTRIBUTE_G        (1u << 15)
#define ATTRIBUTE_RESERVED 0x0f00u

#define MXCSR_OFFSET   24u
#define MXCSR_RESERVED 0xfffd0000u /* bit 17 is AMD's */
#define XSTATE_X87     1ull
#define XSTATE_SSE     2ull
#define XSTATE_AVX     4ull
#define XSTATE_AVX512  0xe0ull

enum { EAX, EBX, ECX, EDX };

/* A control register bit that is reserved unless CPUID shows a feature. */
struct gated_bit {
	uint8_t bit;
	uint8_t number, feature; /* of the register and of the bit in it */
	uint8_t subleaf;
	uint32_t leaf;
};

static const struct gated_bit cr4_bits[] = {
    {0, EDX, 1, 0, 1},   /* VME */
    {1, EDX, 1, 0, 1},   /* PVI: VME */
    {2, EDX, 4, 0, 1},   /* TSD: TSC */
    {3, EDX, 2, 0, 1},   /* DE */
    {4, EDX, 3, 0, 1},   /* PSE */
    {5, EDX, 6, 0, 1},   /* PAE */
    {6, EDX, 7, 0, 1},   /* MCE */
    {7, EDX, 13, 0, 1},  /* PGE */
    {9, EDX, 24, 0, 1},  /* OSFXSR: FXSR */
    {10, EDX, 25, 0, 1}, /* OSXMMEXCPT: SSE */
    {11, ECX, 2, 0, 7},  /* UMIP */
    {12, ECX, 16, 0, 7}, /* LA57 */
    {16, EBX, 0, 0, 7},  /* FSGSBASE */
    {17, ECX, 17, 0, 1}, /* PCID */
    {18, ECX, 26, 0, 1}, /* OSXSAVE: XSAVE */
    {20, EBX, 7, 0, 7},  /* SMEP */
    {21, EBX, 20, 0, 7}, /* SMAP */
    {22, ECX, 3, 0, 7},  /* PKE: PKU */
    {23, ECX, 7, 0, 7},  /* CET: shadow stacks */
    {24, ECX, 31, 0, 7}, /* PKS */
    {27, EAX, 6, 1, 7},  /* LASS */
    {28, EAX, 26, 1, 7}, /* LAM */
};

static const struct gated_bit efer_bits[] = {
    {0, EDX, 11, 0, 0x80000001},  /* SCE: SYSCALL */
    {8, EDX, 29, 0, 0x80000001},  /* LME: long mode */
    {10, EDX, 29, 0, 0x80000001}, /* LMA */
    {11, EDX, 20, 0, 0x80000001}, /* NXE: NX */
    {14, EDX, 25, 0, 0x80000001}, /* FFXSR: FXSR_OPT */
    {15, ECX, 17, 0, 0x80000001}, /* TCE */
    {21, EAX, 8, 0, 0x80000021},  /* AutoIBRS */
};

static uint64_t allowed_bits(const struct cpuid_table *cpuid, const struct gated_bit *bits, unsigned count)
{
	uint64_t allowed = 0;

	for (unsigned i = 0; i < count; i++) {
		uint32_t r = cpuid_table_register(cpuid, bits[i].leaf, bits[i].subleaf, bits[i].number);

		if (r >> bits[i].feature & 1)
			allowed |= 1ull << bits[i].bit;
	}
	return allowed;
}

static uint64_t physical_mask(const struct cpuid_table *cpuid)
{
	unsigned bits = cpuid_table_register(cpuid, 0x80000008, 0, EAX) & 0xff;

	/* Without the leaf it is 36 (SDM volume 3, 4.1.4). */
	return bits == 0 ? (1ull << 36) - 1 : bits >= 52 ? (1ull << 52) - 1 : (1ull << bits) - 1;
}

static bool is_canonical(uint64_t linear, bool la57)
{
	unsigned shift = la57 ? 7 : 16;

	return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

static bool is_long(const struct vp_registers *r)
{
	return r->efer & EFER_LMA;
}

static bool is_protected(const struct vp_registers *r)
{
	return r->cr0 & CR0_PE && !(r->rflags & RFLAGS_VM);
}

/* Each of these returns what is wrong, or NULL. */

static const char *check_control(const struct vp_registers *r, const struct cpuid_table *cpuid)
{
	bool paging = r->cr0 & CR0_PG;
	uint64_t cr3 = r->cr3;

	if (r->cr0 & ~CR0_KNOWN || (paging && !(r->cr0 & CR0_PE)) || (r->cr0 & CR0_NW && !(r->cr0 & CR0_CD)))
		return "CR0 cannot have this value";
	if (r->cr4 & ~(allowed_bits(cpuid, cr4_bits, ARRAY_SIZE(cr4_bits)) | CR4_PCE))
		return "CR4 has bits that CPUID does not offer";
	if (r->efer & ~allowed_bits(cpuid, efer_bits, ARRAY_SIZE(efer_bits)))
		return "EFER has bits that CPUID does not offer";
	if (is_long(r) != (paging && r->efer & EFER_LME))
		return "EFER.LMA does not follow from CR0.PG and EFER.LME";
	if (is_long(r) && !(r->cr4 & CR4_PAE))
		return "long mode without CR4.PAE";
	if (r->cr4 & CR4_PCIDE && !is_long(r))
		return "CR4.PCIDE outside long mode";
	/* Linear address masking keeps its switches there. */
	if (cpuid_table_register(cpuid, 7, 1, EAX) >> 26 & 1)
		cr3 &= ~(3ull << 61);
	if (cr3 & ~physical_mask(cpuid))
		return "CR3 has reserved bits";
	if (r->cr8 > 15)
		return "CR8 is more than 15";
	return NULL;
}

static const char *check_pdptrs(const struct vp_state *s, const struct cpuid_table *cpuid)
{
	const struct vp_registers *r = &s->registers;
	bool used = r->cr0 & CR0_PG && r->cr4 & CR4_PAE && !is_long(r);

	for (unsigned i = 0; i < 4; i++) {
		uint64_t entry = s->pdptr[i];

		if (!used && entry)
			return "page directory pointers in a mode that has none";
		if (entry & 1 && entry & (~physical_mask(cpuid) | 0x1e6))
			return "a page directory pointer has reserved bits";
	}
	return NULL;
}

static const char *check_flags(const struct vp_registers *r)
{
	if (!(r->rflags & RFLAGS_FIXED) || r->rflags & RFLAGS_RESERVED)
		return "RFLAGS has reserved bits";
	if (r->rflags & RFLAGS_VM && (!(r->cr0 & CR0_PE) || is_long(r)))
		return "virtual-8086 mode where there is none";
	if (is_long(r) && r->cs.attributes & ATTRIBUTE_L) {
		if (!is_canonical(r->rip, r->cr4 & CR4_LA57))
			return "RIP is not canonical";
	} else if (r->rip >> 32) {
		return "RIP does not fit the mode";
	}
	return NULL;
}

/* Limit and granularity: the limit of a present segment is counted in bytes or in pages. */
static bool is_limit_possible(const struct vp_segment *s)
{
	if (!(s->attributes & ATTRIBUTE_P))
		return true;
	return s->attributes & ATTRIBUTE_G ? (s->limit & 0xfff) == 0xfff : !(s->limit >> 20);
}

static const char *check_data(const struct vp_registers *r)
{
	const struct vp_segment *data[] = {&r->es, &r->ds, &r->fs, &r->gs, &r->ss, &r->cs};

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		const struct vp_segment *s = data[i];
		bool has_base = s == &r->fs || s == &r->gs;
		uint16_t a = s->attributes;

		if (a & ATTRIBUTE_RESERVED || !is_limit_possible(s))
			return "a segment's limit and attributes do not fit together";
		if (has_base ? !is_canonical(s->base, r->cr4 & CR4_LA57) : s->base >> 32 != 0)
			return "a segment's base is out of range";
		if (!is_protected(r) || !(a & ATTRIBUTE_P))
			continue;
		if (!(a & ATTRIBUTE_S) || (i < 4 && a & ATTRIBUTE_CODE && !(a & ATTRIBUTE_READ)))
			return "a data segment is none";
	}
	return NULL;
}

static const char *check_code_and_stack(const struct vp_registers *r)
{
	uint16_t cs = r->cs.attributes, ss = r->ss.attributes;

	if (!is_protected(r))
		return NULL;
	if (!(cs & ATTRIBUTE_P))
		return "CS is not present";
	/* Right after entering protected mode CS still is what real mode had, which is data. */
	if (!(cs & ATTRIBUTE_CODE) && (cs & ATTRIBUTE_TYPE) != 3)
		return "CS is no code segment";
	if (is_long(r) && cs & ATTRIBUTE_L && cs & ATTRIBUTE_D)
		return "CS is of 64 and of 32 bits";
	if (ss & ATTRIBUTE_P) {
		if (ss & ATTRIBUTE_CODE || !(ss & ATTRIBUTE_READ))
			return "SS is no stack segment";
	} else if (!is_long(r) && r->ss.selector & 0xfffc) {
		return "SS is not present";
	}
	return NULL;
}

static const char *check_system(const struct vp_registers *r)
{
	bool la57 = r->cr4 & CR4_LA57;
	uint16_t ldtr = r->ldtr.attributes, tr = r->tr.attributes;
	unsigned type = tr & ATTRIBUTE_TYPE;

	if (ldtr & ATTRIBUTE_RESERVED || !is_limit_possible(&r->ldtr) || !is_canonical(r->ldtr.base, la57) ||
	    (ldtr & ATTRIBUTE_P && (ldtr & (ATTRIBUTE_S | ATTRIBUTE_TYPE)) != 2))
		return "LDTR is no descriptor table";
	if (tr & (ATTRIBUTE_RESERVED | ATTRIBUTE_S) || !(tr & ATTRIBUTE_P) || !is_limit_possible(&r->tr) ||
	    !is_canonical(r->tr.base, la57) || (type != 11 && (type != 3 || is_long(r))))
		return "TR is no busy task state segment";
	if (!is_canonical(r->gdt_base, la57) || !is_canonical(r->idt_base, la57))
		return "the base of GDT or IDT is not canonical";
	return NULL;
}

static const char *check_debug(const struct vp_state *s)
{
	if (s->dr[4] || s->dr[5])
		return "DR4 or DR5 has a value";
	if (s->dr[6] >> 32 || s->dr[6] & 1u << 12)
		return "DR6 has reserved bits";
	if (s->dr[7] >> 32 || !(s->dr[7] & 1u << 10) || s->dr[7] & 0xd000)
		return "DR7 has reserved bits";
	return NULL;
}

static uint64_t offered_xcr0(const struct cpuid_table *cpuid)
{
	if (!(cpuid_table_register(cpuid, 1, 0, ECX) >> 26 & 1))
		return XSTATE_X87;
	return XSTATE_X87 | cpuid_table_register(cpuid, 0xd, 0, EAX) |
	       (uint64_t)cpuid_table_register(cpuid, 0xd, 0, EDX) << 32;
}

/* Whether every component that is in the area lies in it. */
static bool components_fit(const struct vp_state *s, uint64_t present, const struct cpuid_table *cpuid)
{
	for (unsigned i = 2; i < 63; i++) {
		uint32_t size, offset;

		if (!(present >> i & 1))
			continue;
		size = cpuid_table_register(cpuid, 0xd, i, EAX);
		offset = cpuid_table_register(cpuid, 0xd, i, EBX);
		if (!size || offset < VP_XSAVE_MIN || !range_fits_u64(offset, size, s->xsave_size))
			return false;
	}
	return true;
}

static const char *check_vector(const struct vp_state *s, const struct cpuid_table *cpuid)
{
	const uint8_t *header = s->xsave + VP_XSAVE_LEGACY;
	uint64_t offered = offered_xcr0(cpuid), present = le64_get(header), avx512 = s->xcr0 & XSTATE_AVX512;

	if (!(s->xcr0 & XSTATE_X87) || s->xcr0 & ~offered ||
	    (s->xcr0 & XSTATE_AVX && !(s->xcr0 & XSTATE_SSE)) ||
	    (avx512 && (avx512 != XSTATE_AVX512 || !(s->xcr0 & XSTATE_AVX))))
		return "XCR0 cannot have this value";
	if (s->xsave_size < VP_XSAVE_MIN || s->xsave_size > VP_XSAVE_MAX)
		return "the XSAVE area has an impossible size";
	/* The registers are there whether or not XCR0 lets XSAVE see them. */
	if (present & ~(offered | XSTATE_SSE) || !components_fit(s, present, cpuid))
		return "the XSAVE area names components that CPUID does not offer";
	for (unsigned i = 8; i < VP_XSAVE_MIN - VP_XSAVE_LEGACY; i++)
		if (header[i])
			return "the XSAVE header is not that of the standard form";
	if (le32_get(s->xsave + MXCSR_OFFSET) & MXCSR_RESERVED)
		return "MXCSR has reserved bits";
	return NULL;
}

static bool is_saved(uint32_t msr)
{
	for (unsigned i = 0; i < vp_saved_msr_count; i++)
		if (vp_saved_msrs[i] == msr)
			return true;
	return false;
}

static const char *check_msrs(const struct vp_state *s)
{
	if (s->msr_count > VP_MSR_MAX)
		return "too many MSRs";
	for (unsigned i = 0; i < s->msr_count; i++) {
		if (!is_saved(s->msrs[i].index))
			return "an MSR that is none of those that are saved";
		for (unsigned j = 0; j < i; j++)
			if (s->msrs[j].index == s->msrs[i].index)
				return "an MSR stands twice";
	}
	return NULL;
}

/* SDM volume 3, table 6-1: #DF #TS #NP #SS #GP #PF #AC #CP, and AMD's #VC and #SX. */
#define VECTORS_WITH_CODE (1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21 | 1u << 29 | 1u << 30)

static const char *check_pending(const struct vp_state *s)
{
	const struct vp_pending *p = &s->pending;

	if ((unsigned)s->activity > VP_ACTIVITY_WAITS_FOR_SIPI)
		return "an activity that there is not";
	if (p->exception && p->interrupt)
		return "two events are being delivered";
	if (p->exception && (p->exception_vector > 31 || p->exception_vector == 2))
		return "no exception has this vector";
	if (p->exception && p->exception_has_code && !(VECTORS_WITH_CODE >> p->exception_vector & 1))
		return "this exception has no error code";
	if (p->interrupt_shadow && (s->activity != VP_ACTIVITY_RUNNING || p->exception || p->interrupt))
		return "an interrupt shadow with no instruction to follow";
	if (s->activity != VP_ACTIVITY_RUNNING && (p->exception || p->interrupt))
		return "an event for a processor that does not run";
	return NULL;
}

int vp_state_check(const struct vp_state *s, const struct cpuid_table *cpuid, struct error *err)
{
	const struct vp_registers *r = &s->registers;
	const char *bad = check_control(r, cpuid);

	bad = bad ? bad : check_pdptrs(s, cpuid);
	bad = bad ? bad : check_flags(r);
	bad = bad ? bad : check_data(r);
	bad = bad ? bad : check_code_and_stack(r);
	bad = bad ? bad : check_system(r);
	bad = bad ? bad : check_debug(s);
	bad = bad ? bad : check_vector(s, cpuid);
	bad = bad ? bad : check_msrs(s);
	bad = bad ? bad : check_pending(s);
	return bad ? error_set(err, EBADMSG, "no processor can be in this saved state: %s", bad) : 0;
}
