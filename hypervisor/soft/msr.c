// SPDX-License-Identifier: GPL-2.0-or-later
/* msr.c - the MSRs that belong to the processor; all others are the host's (SDM volume 4). */
#include "hypervisor/soft/system.h"
#include "hypervisor/state.h"

enum {
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_UPDATE_TRIGGER = 0x79,
	MSR_UPDATE_SIGNATURE = 0x8b,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
	MSR_MTRR_VARIABLE = 0x200,
	MSR_MTRR_FIXED_64K = 0x250,
	MSR_MTRR_FIXED_16K = 0x258,
	MSR_MTRR_FIXED_4K = 0x268,
	MSR_PAT = 0x277,
	MSR_MTRR_DEFAULT = 0x2ff,
	MSR_EFER = 0xc0000080,
	MSR_STAR = 0xc0000081,
	MSR_LSTAR = 0xc0000082,
	MSR_CSTAR = 0xc0000083,
	MSR_SFMASK = 0xc0000084,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE = 0xc0000101,
	MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_TSC_AUX = 0xc0000103
};

#define MTRR_CAP 0x508 /* 8 variable ranges, fixed ranges, write combining */

uint64_t tsc_read(const struct soft_vp *vp)
{
	return vp->soft->host->tsc(vp->soft->context) + vp->msr_tsc_adjust;
}

static uint64_t *mtrr(struct soft_vp *vp, uint32_t msr)
{
	if (msr >= MSR_MTRR_VARIABLE && msr < MSR_MTRR_VARIABLE + ARRAY_SIZE(vp->mtrr_variable))
		return &vp->mtrr_variable[msr - MSR_MTRR_VARIABLE];
	if (msr == MSR_MTRR_FIXED_64K)
		return &vp->mtrr_fixed[0];
	if (msr == MSR_MTRR_FIXED_16K || msr == MSR_MTRR_FIXED_16K + 1)
		return &vp->mtrr_fixed[1 + msr - MSR_MTRR_FIXED_16K];
	if (msr >= MSR_MTRR_FIXED_4K && msr < MSR_MTRR_FIXED_4K + 8)
		return &vp->mtrr_fixed[3 + msr - MSR_MTRR_FIXED_4K];
	return msr == MSR_MTRR_DEFAULT ? &vp->mtrr_default : NULL;
}

/* Those that can be read and written and are nothing but storage once checked. */
static uint64_t *plain(struct soft_vp *vp, uint32_t msr)
{
	switch (msr) {
	case MSR_TSC_ADJUST:
		return &vp->msr_tsc_adjust;
	case MSR_SPEC_CTRL:
		return &vp->msr_spec_ctrl;
	case MSR_SYSENTER_CS:
		return &vp->msr_sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &vp->msr_sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &vp->msr_sysenter_eip;
	case MSR_MISC_ENABLE:
		return &vp->msr_misc_enable;
	case MSR_PAT:
		return &vp->msr_pat;
	case MSR_STAR:
		return &vp->msr_star;
	case MSR_LSTAR:
		return &vp->msr_lstar;
	case MSR_CSTAR:
		return &vp->msr_cstar;
	case MSR_SFMASK:
		return &vp->msr_sfmask;
	case MSR_FS_BASE:
		return &vp->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &vp->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &vp->msr_kernel_gs_base;
	case MSR_TSC_AUX:
		return &vp->msr_tsc_aux;
	default:
		return mtrr(vp, msr);
	}
}

bool msr_read(struct soft_vp *vp, uint32_t msr, uint64_t *value)
{
	const uint64_t *p = plain(vp, msr);
	bool known;

	if (p) {
		*value = *p;
		return true;
	}
	switch (msr) {
	case MSR_TSC:
		*value = tsc_read(vp);
		return true;
	case MSR_PLATFORM_ID:
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
		*value = 0;
		return true;
	case MSR_FEATURE_CONTROL:
		*value = 1; /* locked, no VMX */
		return true;
	case MSR_UPDATE_SIGNATURE:
		*value = 0xffffffffull << 32;
		return true;
	case MSR_MTRR_CAP:
		*value = MTRR_CAP;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = vp->msr_arch_capabilities;
		return true;
	case VP_MSR_PKRS:
		*value = vp->pkrs;
		return vp->supervisor_keys;
	case MSR_EFER:
		*value = vp->efer;
		return true;
	default:
		host_call_begin(vp);
		known = vp->soft->host->msr_read(vp->soft->context, vp->index, msr, value);
		host_call_end(vp);
		return known;
	}
}

const uint64_t efer_known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

static bool efer_write(struct soft_vp *vp, uint64_t value)
{
	if (value & ~efer_known || ((value ^ vp->efer) & EFER_LME && vp->cr0 & CR0_PG))
		return false;
	/* LMA follows from the others. */
	value = (value & ~(uint64_t)EFER_LMA) | (vp->efer & EFER_LMA);
	if ((value ^ vp->efer) & EFER_NXE)
		tlb_flush_all(vp);
	vp->efer = value;
	return true;
}

static bool pkrs_write(struct soft_vp *vp, uint64_t value)
{
	if (!vp->supervisor_keys || value >> 32)
		return false;
	pkrs_set(vp, (uint32_t)value);
	return true;
}

static bool memory_types_valid(uint64_t value, unsigned known)
{
	for (unsigned i = 0; i < 8; i++, value >>= 8)
		if ((value & 0xff) > 7 || !(known >> (value & 7) & 1))
			return false;
	return true;
}

/* Whether a plain MSR may hold `value`. */
static bool plain_valid(uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_SPEC_CTRL:
		return !(value & ~0x407ull); /* IBRS, STIBP, SSBD, BHI_DIS_S */
	case MSR_PAT:
		return memory_types_valid(value, 0xf3);
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return is_canonical(value);
	case MSR_SFMASK:
	case MSR_TSC_AUX:
		return !(value >> 32);
	case MSR_MTRR_DEFAULT:
		return !(value & ~0xcffull) && 0x73 >> (value & 7) & 1 && !(value & 0xf8);
	default:
		break;
	}
	if (msr >= MSR_MTRR_VARIABLE && msr < MSR_MTRR_VARIABLE + 16)
		return !(value & ~PHYSICAL_MASK) &&
		    (msr & 1 ? !(value & 0x7ff) : !(value & 0xf00) && (value & 0xff) < 7 && 0x73 >> (value & 7) & 1);
	if (msr >= MSR_MTRR_FIXED_64K && msr < MSR_MTRR_FIXED_4K + 8 && msr != MSR_PAT)
		return memory_types_valid(value, 0x73);
	return true;
}

bool msr_write(struct soft_vp *vp, uint32_t msr, uint64_t value)
{
	uint64_t *p = plain(vp, msr);
	bool known;

	if (p) {
		if (!plain_valid(msr, value))
			return false;
		*p = value;
		if (msr == MSR_FS_BASE || msr == MSR_GS_BASE)
			vp_mode_changed(vp);
		return true;
	}
	switch (msr) {
	case MSR_TSC:
		vp->msr_tsc_adjust += value - tsc_read(vp);
		return true;
	case MSR_PRED_CMD:
		return !(value & ~1ull);
	case MSR_UPDATE_TRIGGER:
	case MSR_DEBUGCTL: /* no branch records, no stepping by branches */
	case MSR_MCG_STATUS:
		return true;
	case MSR_PLATFORM_ID:
	case MSR_FEATURE_CONTROL:
	case MSR_MTRR_CAP:
	case MSR_ARCH_CAPABILITIES:
	case MSR_MCG_CAP:
		return false;
	case MSR_UPDATE_SIGNATURE:
		return true;
	case VP_MSR_PKRS:
		return pkrs_write(vp, value);
	case MSR_EFER:
		return efer_write(vp, value);
	default:
		host_call_begin(vp);
		known = vp->soft->host->msr_write(vp->soft->context, vp->index, msr, value);
		host_call_end(vp);
		return known;
	}
}

/* --- saved state ---------------------------------------------------------------------------------- */

bool msr_saved_read(struct soft_vp *vp, uint32_t msr, uint64_t *value)
{
	const uint64_t *p = msr == MSR_ARCH_CAPABILITIES ? &vp->msr_arch_capabilities : plain(vp, msr);

	if (msr == VP_MSR_PKRS) {
		*value = vp->pkrs;
		return vp->supervisor_keys;
	}
	if (p)
		*value = *p;
	return p;
}

bool msr_saved_write(struct soft_vp *vp, uint32_t msr, uint64_t value)
{
	uint64_t *p = plain(vp, msr), checked = value;

	if (msr == MSR_ARCH_CAPABILITIES) {
		vp->msr_arch_capabilities = value;
		return true;
	}
	if (msr == VP_MSR_PKRS)
		return pkrs_write(vp, value);
	/* Variable ranges of a guest that was shown more address bits: they are only kept here. */
	if (msr >= MSR_MTRR_VARIABLE && msr < MSR_MTRR_VARIABLE + ARRAY_SIZE(vp->mtrr_variable))
		checked &= ~(((1ull << 52) - 1) & ~PHYSICAL_MASK);
	if (!p || !plain_valid(msr, checked))
		return false;
	*p = value;
	return true;
}
