/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.c - which MSRs are saved, and the state after INIT. */
#include "hypervisor/state.h"

#include <errno.h>
#include <string.h>

#define MSR_MISC_ENABLE 0x1a0u
#define MSR_PAT         0x277u

/* RSBA and RRSBA say that a processor has a weakness; all other bits, that it has none or can be helped. */
#define WEAKNESSES (1ull << 2 | 1ull << 19)

/* Architectural, and a guest can have changed them; and one that it must not find changed. */
/* clang-format off */
const uint32_t vp_saved_msrs[] = {
    0x3b, 0x48, 0xe1, 0x10a, 0x122, 0x140, 0x174, 0x175, 0x176, 0x17a, 0x1a0, 0x1d9,
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x277, 0x2ff, 0x6e1, 0xda0,
    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103, 0xc001011f,
};
/* clang-format on */

_Static_assert(ARRAY_SIZE(vp_saved_msrs) <= VP_MSR_MAX, "all of them fit into a state");
const unsigned vp_saved_msr_count = ARRAY_SIZE(vp_saved_msrs);

static const struct {
	uint32_t first, last;
	const char *name;
} names[] = {
    {0x3b, 0x3b, "IA32_TSC_ADJUST"},
    {0x48, 0x48, "IA32_SPEC_CTRL"},
    {0xe1, 0xe1, "IA32_UMWAIT_CONTROL"},
    {VP_MSR_ARCH_CAPABILITIES, VP_MSR_ARCH_CAPABILITIES, "IA32_ARCH_CAPABILITIES"},
    {0x122, 0x122, "IA32_TSX_CTRL"},
    {0x140, 0x140, "MISC_FEATURES_ENABLES"},
    {0x174, 0x174, "IA32_SYSENTER_CS"},
    {0x175, 0x175, "IA32_SYSENTER_ESP"},
    {0x176, 0x176, "IA32_SYSENTER_EIP"},
    {0x17a, 0x17a, "IA32_MCG_STATUS"},
    {0x1a0, 0x1a0, "IA32_MISC_ENABLE"},
    {0x1d9, 0x1d9, "IA32_DEBUGCTL"},
    {0x200, 0x26f, "an MTRR"},
    {0x277, 0x277, "IA32_PAT"},
    {0x2ff, 0x2ff, "IA32_MTRR_DEF_TYPE"},
    {0x6e1, 0x6e1, "IA32_PKRS"},
    {0xda0, 0xda0, "IA32_XSS"},
    {0xc0000081, 0xc0000081, "IA32_STAR"},
    {0xc0000082, 0xc0000082, "IA32_LSTAR"},
    {0xc0000083, 0xc0000083, "IA32_CSTAR"},
    {0xc0000084, 0xc0000084, "IA32_FMASK"},
    {0xc0000102, 0xc0000102, "IA32_KERNEL_GS_BASE"},
    {0xc0000103, 0xc0000103, "IA32_TSC_AUX"},
    {0xc001011f, 0xc001011f, "VIRT_SPEC_CTRL"},
};

const char *vp_msr_name(uint32_t msr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (msr >= names[i].first && msr <= names[i].last)
			return names[i].name;
	return NULL;
}

static uint64_t reset_value(uint32_t msr)
{
	return msr == MSR_PAT ? 0x0007040600070406ull : msr == MSR_MISC_ENABLE ? 1 : 0;
}

int vp_msr_missing(uint32_t msr, uint64_t value, struct error *err)
{
	const char *name = vp_msr_name(msr);

	if (value == 0 || value == reset_value(msr))
		return 0;
	return error_set(
	    err, ENOTSUP,
	    "the guest has set MSR 0x%x (%s) to 0x%llx, which this processor does not have: continue "
	    "it on the kind of processor where it was saved",
	    msr, name ? name : "no usual one", (unsigned long long)value);
}

int vp_check_arch_capabilities(uint64_t told, uint64_t have, struct error *err)
{
	if (!((told & ~have & ~WEAKNESSES) | (have & ~told & WEAKNESSES)))
		return 0;
	return error_set(
	    err, ENOTSUP,
	    "the guest was told that the processor is safe from attacks that it is not safe from here "
	    "(IA32_ARCH_CAPABILITIES 0x%llx, here 0x%llx): continue it on a host like its own, or start it "
	    "anew with --compatible",
	    (unsigned long long)told, (unsigned long long)have);
}

uint64_t vp_state_msr(const struct vp_state *state, uint32_t msr)
{
	for (unsigned i = 0; i < state->msr_count; i++)
		if (state->msrs[i].index == msr)
			return state->msrs[i].value;
	return 0;
}

/* SDM volume 3, table 10-1. */
void vp_state_reset(struct vp_state *s)
{
	static const struct vp_segment data = {.limit = 0xffff, .attributes = 0x93};
	struct vp_registers *r = &s->registers;

	memset(r, 0, sizeof(*r));
	memset(s->pdptr, 0, sizeof(s->pdptr));
	memset(s->dr, 0, sizeof(s->dr));
	memset(s->xsave, 0, sizeof(s->xsave));
	r->rip = 0xfff0;
	r->rflags = 2;
	r->es = r->ss = r->ds = r->fs = r->gs = data;
	r->cs =
	    (struct vp_segment){.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .attributes = 0x93};
	r->ldtr = (struct vp_segment){.limit = 0xffff, .attributes = 0x82};
	r->tr = (struct vp_segment){.limit = 0xffff, .attributes = 0x8b};
	r->gdt_limit = r->idt_limit = 0xffff;
	r->cr0 = 0x60000010;
	s->dr[6] = 0xffff0ff0;
	s->dr[7] = 0x400;
	s->xcr0 = 1;
	s->xsave_size = VP_XSAVE_MIN;
	le16_put(s->xsave, 0x37f);       /* FCW as after FNINIT */
	le32_put(s->xsave + 24, 0x1f80); /* MXCSR */
	le32_put(s->xsave + 28, 0xffff); /* its valid bits */
	s->msr_count = 0;
	s->tsc = 0;
	s->activity = VP_ACTIVITY_RUNNING;
	s->pending = (struct vp_pending){0};
}
