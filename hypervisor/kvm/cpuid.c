/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cpuid.c - what the guest is told of its processor: what KVM can give on this host, less what we do not
 * serve. */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#define ENTRIES_MAX 256u

static int ask(int device, struct kvm_cpuid2 *offered)
{
	offered->nent = ENTRIES_MAX;
	return kvm_ioctl(device, KVM_GET_SUPPORTED_CPUID, offered);
}

int kvm_cpuid_offered(struct kvm_machine *m, struct error *err)
{
	int r;

	m->offered = calloc(1, sizeof(*m->offered) + ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));
	if (!m->offered)
		return error_set(err, ENOMEM, "no memory for CPUID");
	r = ask(m->device, m->offered);
	if (r)
		return error_set(err, -r, "KVM does not tell what this host's processor offers: %s",
				 strerror(-r));
	m->physical_bits = 36;
	for (unsigned i = 0; i < m->offered->nent; i++)
		if (m->offered->entries[i].function == 0x80000008)
			m->physical_bits = m->offered->entries[i].eax & 0xff;
	return 0;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_machine *m, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < m->offered->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &m->offered->entries[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

/* Features that KVM could emulate or pass on, but which need more than this version does. */
static void withhold(uint32_t leaf, uint32_t r[4])
{
	switch (leaf) {
	case 1:
		r[2] &= ~(1u << 5 | 1u << 3 | 1u << 15); /* VMX, MONITOR, PDCM */
		break;
	case 0xa: /* performance counters are not saved with a machine */
	case 0x80000022:
	case 0x8000001e: /* topology of AMD's own kind: leaf 0xb has it */
	case 0x8000001d:
	case 0x8000000a: /* SVM */
		memset(r, 0, 4 * sizeof(*r));
		break;
	case 0x80000001:
		r[2] &= ~(1u << 2 | 1u << 22 | 1u << 23 | 1u << 28); /* SVM, TOPOEXT, performance counters */
		break;
	default:
		break;
	}
}

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

void kvm_cpuid_answer(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct kvm_cpuid_entry2 *e = find(kvm_of(vp->partition), leaf, subleaf);
	unsigned vps = vp->partition->config.vp_count;

	memset(r, 0, 4 * sizeof(*r));
	if (!e || (leaf >= 0x40000000 && leaf < 0x50000000))
		return;
	r[0] = e->eax;
	r[1] = e->ebx;
	r[2] = e->ecx;
	r[3] = e->edx;
	withhold(leaf, r);
	if (leaf == 0x80000008)
		r[2] = vps > 1 ? (vps - 1) | bits_for(vps) << 12 : 0;
	if (leaf == 0x80000001 && vps > 1)
		r[2] |= r[2] & 1 ? 1u << 1 : 0; /* CmpLegacy: the count above is of cores */
}

static void add(struct kvm_cpuid2 *t, struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t flags)
{
	struct kvm_cpuid_entry2 *e = &t->entries[t->nent];
	uint32_t r[4];

	if (t->nent == ENTRIES_MAX)
		return;
	partition_cpuid(vp, leaf, subleaf, r);
	*e = (struct kvm_cpuid_entry2){.function = leaf,
				       .index = subleaf,
				       .flags = flags,
				       .eax = r[0],
				       .ebx = r[1],
				       .ecx = r[2],
				       .edx = r[3]};
	t->nent++;
}

/* Tell KVM what this VP answers. Before it has run for the first time. */
int kvm_cpuid_apply(struct vp *vp, struct error *err)
{
	struct kvm_machine *m = kvm_of(vp->partition);
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));
	int r;

	if (!t)
		return error_set(err, ENOMEM, "no memory for CPUID");
	for (unsigned i = 0; i < m->offered->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &m->offered->entries[i];

		/* Leaf 0xb is made below; KVM's own paravirtual leaves are not for these guests. */
		if (e->function != 0xb && e->function != 0x1f &&
		    (e->function < 0x40000000 || e->function >= 0x50000000))
			add(t, vp, e->function, e->index, e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	}
	for (uint32_t subleaf = 0; subleaf < 3; subleaf++)
		add(t, vp, 0xb, subleaf, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	for (uint32_t leaf = 0x40000000; leaf <= 0x4000000a; leaf++)
		add(t, vp, leaf, 0, 0);
	r = kvm_ioctl(kvm_vp_of(vp)->fd, KVM_SET_CPUID2, t);
	free(t);
	return r ? error_set(err, -r, "KVM refuses the CPUID of virtual processor %u: %s", vp->index,
			     strerror(-r))
		 : 0;
}
