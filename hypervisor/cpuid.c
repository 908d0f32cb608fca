/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpuid.c - CPUID beyond one partition: what a guest was shown is saved, compared with what another processor
 * offers, and goes on being shown there. Bits: SDM volume 2, CPUID; APM volume 3, appendix E.
 */
#include "hypervisor/cpuid_features.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "hypervisor/soft/soft.h"
#include "hypervisor/tlfs/protocol.h"

#define LEAF1_ECX_OSXSAVE           (1u << 27)
#define LEAF7_ECX_OSPKE             (1u << 4)
#define XCR0_PKRU                   (1u << 9)
#define LEAF7_EDX_ARCH_CAPABILITIES (1u << 29)

#define LEAF80000007_EDX_INVARIANT_TSC (1u << 8)

#define BASIC_LAST_MAX      0x3fu
#define EXTENDED_FIRST      0x80000000u
#define EXTENDED_LAST_MAX   0x8000003fu
#define HYPERVISOR_FIRST    0x40000000u
#define HYPERVISOR_LAST_MAX 0x400000ffu
#define SUBLEAVES_MAX       63u

#define XSAVE_LEGACY_AND_HEADER 576u

enum { EAX, EBX, ECX, EDX };

/* --- tables --------------------------------------------------------------------------------------- */

const struct cpuid_entry *cpuid_table_find(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < table->count; i++) {
		const struct cpuid_entry *e = &table->entries[i];

		if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == subleaf))
			return e;
	}
	return NULL;
}

uint32_t cpuid_table_register(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf,
			      unsigned number)
{
	const struct cpuid_entry *e = cpuid_table_find(table, leaf, subleaf);

	return e ? e->r[number] : 0;
}

/* What VP 0 is shown now. */
static void shown(struct partition *p, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	memset(r, 0, 4 * sizeof(r[0]));
	if (p->processor->cpuid)
		p->processor->cpuid(&p->vps[0], leaf, subleaf, r);
	intercept_amend_cpuid(&p->vps[0], leaf, subleaf, r);
}

static bool has_subleaves(uint32_t leaf)
{
	switch (leaf) {
	case 4:
	case 7:
	case 0xb:
	case 0xd:
	case 0xf:
	case 0x10:
	case 0x12:
	case 0x14:
	case 0x17:
	case 0x18:
	case 0x1b:
	case 0x1d:
	case 0x1e:
	case 0x1f:
	case 0x20:
	case 0x23:
	case 0x24:
	case 0x8000001d:
	case 0x80000020:
	case 0x80000026:
		return true;
	default:
		return false;
	}
}

/* Whether there is a subleaf after `subleaf`, whose answer is `r`. Of leaves that are not listed here it is
 * not known; a few are tried, and those that say nothing are left out. */
static bool has_next(uint32_t leaf, uint32_t subleaf, const uint32_t r[4], uint32_t first_eax)
{
	switch (leaf) {
	case 4:
	case 0x8000001d:
		return r[EAX] & 0x1f;
	case 7:
	case 0x14:
	case 0x17:
	case 0x18:
	case 0x1d:
	case 0x20:
	case 0x24:
		return subleaf < first_eax;
	case 0xb:
	case 0x1f:
	case 0x80000026:
		return r[ECX] >> 8 & 0xff;
	case 0xd:
		return true;
	default:
		return subleaf < 3;
	}
}

static bool add(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, const uint32_t r[4])
{
	struct cpuid_entry *e;

	if (table->count == CPUID_TABLE_MAX)
		return false;
	e = &table->entries[table->count++];
	*e = (struct cpuid_entry){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaves(leaf)};
	memcpy(e->r, r, sizeof(e->r));
	return true;
}

/* What follows from other registers is not part of the table. */
static void forget_registers(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	if (leaf == 1)
		r[ECX] &= ~LEAF1_ECX_OSXSAVE;
	if (leaf == 7 && !subleaf)
		r[ECX] &= ~LEAF7_ECX_OSPKE;
	if (leaf == 0xd && subleaf <= 1)
		r[EBX] = 0;
}

static bool collect_leaf(struct partition *p, struct cpuid_table *table, uint32_t leaf)
{
	uint32_t r[4], first_eax = 0;

	for (uint32_t subleaf = 0; subleaf < SUBLEAVES_MAX; subleaf++) {
		shown(p, leaf, subleaf, r);
		forget_registers(leaf, subleaf, r);
		if (subleaf == 0)
			first_eax = r[EAX];
		/* What says nothing reads as zeros anyway. */
		if ((subleaf == 0 || r[EAX] || r[EBX] || r[ECX] || r[EDX]) && !add(table, leaf, subleaf, r))
			return false;
		if (!has_subleaves(leaf) || !has_next(leaf, subleaf, r, first_eax))
			break;
	}
	return true;
}

int cpuid_collect(struct partition *p, struct cpuid_table *table)
{
	static const uint32_t ranges[][2] = {{0, BASIC_LAST_MAX},
					     {HYPERVISOR_FIRST, HYPERVISOR_LAST_MAX},
					     {EXTENDED_FIRST, EXTENDED_LAST_MAX}};
	uint32_t r[4];

	table->count = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
		shown(p, ranges[i][0], 0, r);
		for (uint32_t leaf = ranges[i][0];
		     leaf <= min_u64(max_u64(r[EAX], ranges[i][0]), ranges[i][1]); leaf++)
			if (!collect_leaf(p, table, leaf))
				return -E2BIG;
	}
	return 0;
}

void cpuid_recall(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct cpuid_entry *e = cpuid_table_find(table, leaf, subleaf);
	uint32_t own[4];

	memcpy(own, r, sizeof(own));
	memset(r, 0, sizeof(own));
	if (e)
		memcpy(r, e->r, sizeof(e->r));
	switch (leaf) {
	case 1:
		r[ECX] = (r[ECX] & ~LEAF1_ECX_OSXSAVE) | (own[ECX] & LEAF1_ECX_OSXSAVE);
		break;
	case 7:
		if (!subleaf)
			r[ECX] = (r[ECX] & ~LEAF7_ECX_OSPKE) | (own[ECX] & LEAF7_ECX_OSPKE);
		break;
	case 0xd:
		/* The size of the area for what XCR0, and IA32_XSS, enable now. */
		if (subleaf <= 1)
			r[EBX] = own[EBX];
		break;
	default:
		break;
	}
}

/* --- comparing -------------------------------------------------------------------------------------- */

/* A list of features for a sentence. */
struct missing {
	char text[200];
	size_t used;
	unsigned count, left_out;
};

static void miss(struct missing *m, const char *name)
{
	size_t length = strlen(name);

	m->count++;
	if (m->left_out || m->used + length + 8 > sizeof(m->text)) {
		m->left_out++;
		return;
	}
	m->used +=
	    (size_t)snprintf(m->text + m->used, sizeof(m->text) - m->used, "%s%s", m->used ? ", " : "", name);
}

static void miss_bits(struct missing *m, const struct cpuid_word *word, uint32_t bits)
{
	char subleaf[16] = "";

	if (word->subleaf)
		snprintf(subleaf, sizeof(subleaf), " subleaf %u", word->subleaf);
	for (unsigned bit = 0; bit < 32; bit++) {
		char number[64];
		const char *name = word->names ? word->names[bit] : NULL;

		if (!(bits >> bit & 1))
			continue;
		if (!name) {
			snprintf(number, sizeof(number), "leaf 0x%x%s E%cX bit %u", word->leaf, subleaf,
				 "ABCD"[word->number], bit);
			name = number;
		}
		miss(m, name);
	}
}

/* Where a component of the XSAVE area lies is not the same on all processors, and the guest's own saved areas
 * are as the old one laid them out. */
static void compare_layout(struct partition *p, const struct cpuid_table *table, struct missing *m)
{
	uint64_t xcr0 = cpuid_table_register(table, 0xd, 0, EAX) |
			(uint64_t)cpuid_table_register(table, 0xd, 0, EDX) << 32;

	for (unsigned i = 2; i < 63; i++) {
		uint32_t r[4];

		if (!(xcr0 >> i & 1))
			continue;
		shown(p, 0xd, i, r);
		if (r[EAX] != cpuid_table_register(table, 0xd, i, EAX) ||
		    r[EBX] != cpuid_table_register(table, 0xd, i, EBX)) {
			char name[64];

			snprintf(name, sizeof(name), "the same place for XSAVE component %u", i);
			miss(m, name);
		}
	}
}

static int check_addresses(struct partition *p, struct error *err)
{
	uint32_t r[4];
	unsigned bits;

	shown(p, 0x80000008, 0, r);
	bits = r[EAX] & 0xff;
	for (unsigned i = 0; i < p->region_count; i++) {
		uint64_t last = p->regions[i].gpa + p->regions[i].size - 1;

		if (bits < 64 && last >> bits)
			return error_set(
			    err, ENOTSUP,
			    "guest memory at 0x%llx is beyond the %u address bits of this processor: give "
			    "the guest less memory, or continue it elsewhere",
			    (unsigned long long)p->regions[i].gpa, bits);
	}
	return 0;
}

int cpuid_check(struct partition *p, const struct cpuid_table *table, struct error *err)
{
	struct missing m = {0};

	if (!p->processor->cpuid)
		return 0;
	for (const struct cpuid_word *word = cpuid_words; word->mask; word++) {
		uint32_t was = cpuid_table_register(table, word->leaf, word->subleaf, word->number), r[4];

		if (!(was & word->mask))
			continue;
		shown(p, word->leaf, word->subleaf, r);
		miss_bits(&m, word, was & word->mask & ~r[word->number]);
	}
	if (!m.count)
		compare_layout(p, table, &m);
	if (m.count) {
		if (m.left_out)
			snprintf(m.text + m.used, sizeof(m.text) - m.used, " …");
		return error_set(
		    err, ENOTSUP,
		    "the guest was shown processor features that are missing here (%s): continue it where "
		    "they are, or start it anew with --compatible",
		    m.text);
	}
	return check_addresses(p, err);
}

/* --- what every processor serves ---------------------------------------------------------------------- */

static void restrict_xsave(uint32_t subleaf, uint32_t r[4])
{
	uint32_t last = XSAVE_LEGACY_AND_HEADER, avx[4];

	soft_cpuid_features(0xd, 2, avx);
	if (subleaf == 0) {
		/* The software processor's AVX is where everybody's is. */
		if (r[EAX] & 4)
			last = avx[EBX] + avx[EAX];
		r[EBX] = (uint32_t)min_u64(r[EBX], last);
		r[ECX] = last;
		r[EDX] = 0;
	} else if (subleaf == 1) {
		r[ECX] = r[EDX] = 0; /* IA32_XSS */
	} else if (subleaf != 2 || !avx[EAX]) {
		memset(r, 0, 4 * sizeof(r[0]));
	}
}

/* The host's own answers to cpuid_words, asked once: under another hypervisor CPUID is slow. */
#define WORDS_MAX 64u

static uint32_t host_words[WORDS_MAX];
static pthread_once_t host_once = PTHREAD_ONCE_INIT;

static void ask_host(void)
{
	for (unsigned i = 0; i < WORDS_MAX && cpuid_words[i].mask; i++) {
		const struct cpuid_word *word = &cpuid_words[i];
		uint32_t r[4];

		if (__get_cpuid_count(word->leaf, word->subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
			host_words[i] = r[word->number];
	}
}

/* What no guest that may move should rely on, although a processor serves it. */
static uint32_t unmovable(const struct cpuid_word *word)
{
	/* What IA32_ARCH_CAPABILITIES says of attacks is different everywhere: a guest that does not see it
	 * defends itself. */
	if (word->leaf == 7 && word->subleaf == 0 && word->number == EDX)
		return LEAF7_EDX_ARCH_CAPABILITIES;
	/* Makers do not agree where PKRU lies in the XSAVE area, and the kernel gives no guest PKS. */
	if (word->leaf == 7 && word->subleaf == 0 && word->number == ECX)
		return LEAF7_ECX_PKU | LEAF7_ECX_PKS;
	if (word->leaf == 0xd && word->subleaf == 0 && word->number == EAX)
		return XCR0_PKRU;
	/* Controls of a few models that come and go with versions of KVM. */
	if (word->leaf == 7 && word->subleaf == 2)
		return UINT32_MAX;
	/* That its TSC never changes its pace. */
	if (word->leaf == 0x80000007)
		return LEAF80000007_EDX_INVARIANT_TSC;
	return 0;
}

/* Of the TLFS, what Linux has not in its kernel; and where the worker serves Hyper-V beside KVM also not: APIC
 * registers, flushes, IPIs and auto-EOI. */
static void restrict_hypervisor(uint32_t leaf, uint32_t r[4])
{
	if (leaf == 0x40000003) {
		r[EAX] &= ~(HV_ACCESS_APIC_MSRS | HV_ACCESS_GUEST_IDLE);
		r[EDX] &= ~(HV_FEATURE_GUEST_IDLE | HV_FEATURE_SINT_POLLING | HV_FEATURE_HYPERCALL_LOCK);
	} else if (leaf == 0x40000004) {
		r[EAX] &= ~(HV_RECOMMEND_REMOTE_FLUSH | HV_RECOMMEND_APIC_MSRS | HV_RECOMMEND_CLUSTER_IPI |
			    HV_RECOMMEND_EX_MASKS);
		r[EAX] |= HV_RECOMMEND_NO_AUTO_EOI;
	}
}

void cpuid_restrict(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	uint32_t common[4];

	if (leaf >= HYPERVISOR_FIRST && leaf <= HYPERVISOR_LAST_MAX) {
		restrict_hypervisor(leaf, r);
		return;
	}
	pthread_once(&host_once, ask_host);
	soft_cpuid_features(leaf, subleaf, common);
	for (unsigned i = 0; i < WORDS_MAX && cpuid_words[i].mask; i++) {
		const struct cpuid_word *word = &cpuid_words[i];
		uint32_t *both = &common[word->number];

		if (word->leaf != leaf || word->subleaf != subleaf)
			continue;
		*both &= host_words[i] & ~unmovable(word);
		r[word->number] &= *both | ~word->mask;
	}
	if (leaf == 0xd)
		restrict_xsave(subleaf, r);
}
