// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hypervisor's CPUID leaves (TLFS 2.4). We look like Windows Server 2022 (10.0.20348).
 *
 * Left out on purpose, so that guests do not look for it: invariant TSC control (a guest would prefer
 * the bare TSC to the reference page), local and address-space-switch hypercalls (they cost more than
 * the instruction), nested virtualization, isolation, extended hypercalls, debugging, XMM output.
 */
#include "hypervisor/tlfs/internal.h"

#define LEAF_FIRST 0x40000000u
#define LEAF_LAST  0x4000000au
#define LEAF_END   0x400000ffu

#define BUILD 20348u

/* How often to try a lock before HvCallNotifyLongSpinWait; all ones: never call. */
#define SPIN_RETRIES 0xfffu

static uint32_t text(const char *four)
{
	return (uint32_t)(uint8_t)four[0] | (uint32_t)(uint8_t)four[1] << 8 |
	       (uint32_t)(uint8_t)four[2] << 16 | (uint32_t)(uint8_t)four[3] << 24;
}

static void features(const struct tlfs *t, uint32_t out[4])
{
	out[0] = HV_ACCESS_VP_RUNTIME | HV_ACCESS_REFERENCE_COUNTER | HV_ACCESS_SYNIC | HV_ACCESS_STIMER |
		 HV_ACCESS_HYPERCALL_MSRS | HV_ACCESS_VP_INDEX | HV_ACCESS_RESET | HV_ACCESS_REFERENCE_TSC |
		 HV_ACCESS_FREQUENCIES;
	if (t->ops->write_apic)
		out[0] |= HV_ACCESS_APIC_MSRS;
	out[1] = HV_POST_MESSAGES | HV_SIGNAL_EVENTS;
	out[3] = HV_FEATURE_XMM_INPUT | HV_FEATURE_FREQUENCIES | HV_FEATURE_CRASH_MSRS |
		 HV_FEATURE_SINT_POLLING | HV_FEATURE_HYPERCALL_LOCK | HV_FEATURE_DIRECT_STIMER;
	if (t->ops->guest_idle) {
		out[0] |= HV_ACCESS_GUEST_IDLE;
		out[3] |= HV_FEATURE_GUEST_IDLE;
	}
	if (t->ops->start_vp)
		out[1] |= HV_START_VIRTUAL_PROCESSOR;
}

static void recommendations(const struct tlfs *t, uint32_t out[4])
{
	out[0] = HV_RECOMMEND_RELAXED_TIMING;
	if (t->ops->flush_tlb)
		out[0] |= HV_RECOMMEND_REMOTE_FLUSH | HV_RECOMMEND_EX_MASKS;
	if (t->ops->send_ipi)
		out[0] |= HV_RECOMMEND_CLUSTER_IPI | HV_RECOMMEND_EX_MASKS;
	if (t->config.x2apic)
		out[0] |= HV_RECOMMEND_X2APIC;
	else if (t->ops->write_apic)
		out[0] |= HV_RECOMMEND_APIC_MSRS;
	if (t->config.deprecate_auto_eoi)
		out[0] |= HV_RECOMMEND_NO_AUTO_EOI;
	out[1] = t->ops->long_spin_wait ? SPIN_RETRIES : UINT32_MAX;
	out[2] = t->config.physical_address_bits & 0x7f;
}

bool tlfs_cpuid(const struct tlfs *t, uint32_t leaf, uint32_t out[4])
{
	if (leaf < LEAF_FIRST || leaf > LEAF_END)
		return false;
	for (int i = 0; i < 4; i++)
		out[i] = 0;
	switch (leaf) {
	case 0x40000000:
		out[0] = LEAF_LAST;
		out[1] = text("Micr");
		out[2] = text("osof");
		out[3] = text("t Hv");
		break;
	case 0x40000001:
		out[0] = text("Hv#1");
		break;
	case 0x40000002:
		out[0] = BUILD;
		out[1] = 10u << 16;
		break;
	case 0x40000003:
		features(t, out);
		break;
	case 0x40000004:
		recommendations(t, out);
		break;
	case 0x40000005:
		out[0] = TLFS_MAX_VPS;
		out[1] = TLFS_MAX_VPS;
		break;
	default:
		/* 6: hardware features in use, 7: root only, 8: shared virtual memory, 9 and a: nested. */
		break;
	}
	return true;
}
