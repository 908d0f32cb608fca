// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The synthetic MSRs (TLFS appendix C; each in its chapter). Reserved bits of registers that hold
 * page numbers are kept as written; where the TLFS asks for #GP, we fault.
 */
#include "hypervisor/tlfs/internal.h"

/* --- reading ---------------------------------------------------------------------------------- */

static enum tlfs_msr read_synic(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t *value)
{
	const struct tlfs_vp_state *state = &t->vps[vp].state;
	const struct tlfs_timer_state *timer;

	if (msr >= HV_X64_MSR_SINT0 && msr <= HV_X64_MSR_SINT15) {
		*value = state->sint[msr - HV_X64_MSR_SINT0];
		return TLFS_MSR_OK;
	}
	if (msr >= HV_X64_MSR_STIMER0_CONFIG && msr <= HV_X64_MSR_STIMER3_COUNT) {
		timer = &state->timers[(msr - HV_X64_MSR_STIMER0_CONFIG) / 2];
		/* The one-shot's enable bit falls when it expires, which another thread may see to. */
		tlfs_lock(t, vp);
		*value = msr & 1 ? timer->count : timer->config;
		tlfs_unlock(t, vp);
		return TLFS_MSR_OK;
	}
	switch (msr) {
	case HV_X64_MSR_SCONTROL:
		*value = state->scontrol;
		return TLFS_MSR_OK;
	case HV_X64_MSR_SVERSION:
		*value = HV_SYNIC_VERSION_1;
		return TLFS_MSR_OK;
	case HV_X64_MSR_SIEFP:
		*value = state->siefp;
		return TLFS_MSR_OK;
	case HV_X64_MSR_SIMP:
		*value = state->simp;
		return TLFS_MSR_OK;
	case HV_X64_MSR_EOM:
		return TLFS_MSR_OK;
	default:
		return TLFS_MSR_FAULT;
	}
}

static enum tlfs_msr read_apic(struct tlfs *t, unsigned vp, enum tlfs_apic_register which, uint64_t *value)
{
	return t->ops->read_apic && t->ops->read_apic(t->context, vp, which, value) ? TLFS_MSR_OK : TLFS_MSR_FAULT;
}

enum tlfs_msr tlfs_read_msr(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t *value)
{
	*value = 0;
	if (msr < HV_X64_MSR_FIRST || msr > HV_X64_MSR_LAST)
		return TLFS_MSR_UNKNOWN;
	if (msr >= HV_X64_MSR_CRASH_P0 && msr <= HV_X64_MSR_CRASH_P4) {
		*value = atomic_load(&t->crash[msr - HV_X64_MSR_CRASH_P0]);
		return TLFS_MSR_OK;
	}
	switch (msr) {
	case HV_X64_MSR_GUEST_OS_ID:
		*value = atomic_load(&t->guest_os_id);
		return TLFS_MSR_OK;
	case HV_X64_MSR_HYPERCALL:
		*value = atomic_load(&t->hypercall);
		return TLFS_MSR_OK;
	case HV_X64_MSR_VP_INDEX:
		*value = vp;
		return TLFS_MSR_OK;
	case HV_X64_MSR_RESET:
		return TLFS_MSR_OK;
	case HV_X64_MSR_VP_RUNTIME:
		*value = t->ops->vp_runtime(t->context, vp);
		return TLFS_MSR_OK;
	case HV_X64_MSR_TIME_REF_COUNT:
		*value = t->ops->reference_time(t->context);
		return TLFS_MSR_OK;
	case HV_X64_MSR_REFERENCE_TSC:
		*value = atomic_load(&t->reference_tsc);
		return TLFS_MSR_OK;
	case HV_X64_MSR_TSC_FREQUENCY:
		*value = t->config.tsc_frequency;
		return TLFS_MSR_OK;
	case HV_X64_MSR_APIC_FREQUENCY:
		*value = t->config.apic_frequency;
		return TLFS_MSR_OK;
	case HV_X64_MSR_ICR:
		return read_apic(t, vp, TLFS_APIC_ICR, value);
	case HV_X64_MSR_TPR:
		return read_apic(t, vp, TLFS_APIC_TPR, value);
	case HV_X64_MSR_VP_ASSIST_PAGE:
		*value = t->vps[vp].state.assist_page;
		return TLFS_MSR_OK;
	case HV_X64_MSR_GUEST_IDLE:
		if (!t->ops->guest_idle)
			return TLFS_MSR_FAULT;
		t->ops->guest_idle(t->context, vp);
		return TLFS_MSR_OK;
	case HV_X64_MSR_CRASH_CTL:
		*value = HV_CRASH_NOTIFY | HV_CRASH_MESSAGE;
		return TLFS_MSR_OK;
	default:
		return read_synic(t, vp, msr, value);
	}
}

/* --- writing ---------------------------------------------------------------------------------- */

static enum tlfs_msr write_guest_os_id(struct tlfs *t, uint64_t value)
{
	atomic_store(&t->guest_os_id, value);
	/* A guest that gives up its identity gives up the hypercall page (TLFS 3.13). */
	if (!value)
		atomic_fetch_and(&t->hypercall, ~HV_PAGE_ENABLE);
	return TLFS_MSR_OK;
}

static enum tlfs_msr write_hypercall(struct tlfs *t, unsigned vp, uint64_t value)
{
	if (atomic_load(&t->hypercall) & HV_HYPERCALL_LOCKED)
		return TLFS_MSR_FAULT;
	if (!atomic_load(&t->guest_os_id))
		value &= ~HV_PAGE_ENABLE;
	if (value & HV_PAGE_ENABLE) {
		if (!tlfs_enabled_page(t, value))
			return TLFS_MSR_FAULT;
		t->ops->write_hypercall_page(t->context, vp, value & HV_PAGE_MASK);
	}
	atomic_store(&t->hypercall, value);
	return TLFS_MSR_OK;
}

static enum tlfs_msr write_reference_tsc(struct tlfs *t, uint64_t value)
{
	if (value & HV_PAGE_ENABLE && !tlfs_enabled_page(t, value))
		return TLFS_MSR_FAULT;
	tlfs_lock(t, 0);
	atomic_store(&t->reference_tsc, value);
	tlfs_write_reference_tsc(t, value);
	tlfs_unlock(t, 0);
	return TLFS_MSR_OK;
}

static enum tlfs_msr write_assist_page(struct tlfs *t, unsigned vp, uint64_t value)
{
	uint32_t *page = tlfs_enabled_page(t, value);

	if (value & HV_PAGE_ENABLE && !page)
		return TLFS_MSR_FAULT;
	/* APIC assist: "no EOI required" is never set, so the guest always writes EOI. */
	if (page) {
		__atomic_store_n(page, 0, __ATOMIC_SEQ_CST);
		tlfs_written(t, page, sizeof(*page));
	}
	t->vps[vp].state.assist_page = value;
	return TLFS_MSR_OK;
}

static enum tlfs_msr write_crash(struct tlfs *t, unsigned vp, uint64_t value)
{
	struct tlfs_crash crash = {.has_message = value & HV_CRASH_MESSAGE};

	if (!(value & HV_CRASH_NOTIFY))
		return TLFS_MSR_OK;
	for (unsigned i = 0; i < 5; i++)
		crash.parameters[i] = atomic_load(&t->crash[i]);
	if (crash.has_message) {
		crash.message_gpa = crash.parameters[3];
		crash.message_length = crash.parameters[4] < 4096 ? crash.parameters[4] : 4096;
	}
	t->ops->crash(t->context, vp, &crash);
	return TLFS_MSR_OK;
}

static enum tlfs_msr checked(bool good)
{
	return good ? TLFS_MSR_OK : TLFS_MSR_FAULT;
}

static enum tlfs_msr write_apic(struct tlfs *t, unsigned vp, enum tlfs_apic_register which, uint64_t value)
{
	return checked(t->ops->write_apic && t->ops->write_apic(t->context, vp, which, value));
}

static enum tlfs_msr write_synic(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t value)
{
	struct tlfs_vp_state *state = &t->vps[vp].state;
	unsigned timer = (msr - HV_X64_MSR_STIMER0_CONFIG) / 2;

	if (msr >= HV_X64_MSR_SINT0 && msr <= HV_X64_MSR_SINT15)
		return checked(tlfs_write_sint(t, vp, msr - HV_X64_MSR_SINT0, value));
	if (msr >= HV_X64_MSR_STIMER0_CONFIG && msr <= HV_X64_MSR_STIMER3_COUNT) {
		if (!(msr & 1))
			return checked(tlfs_write_timer_config(t, vp, timer, value));
		tlfs_write_timer_count(t, vp, timer, value);
		return TLFS_MSR_OK;
	}
	switch (msr) {
	case HV_X64_MSR_SCONTROL:
		tlfs_lock(t, vp);
		state->scontrol = value;
		tlfs_unlock(t, vp);
		tlfs_synic_retry(t, vp);
		return TLFS_MSR_OK;
	case HV_X64_MSR_SIEFP:
		return checked(tlfs_write_synic_page(t, vp, &state->siefp, value));
	case HV_X64_MSR_SIMP:
		return checked(tlfs_write_synic_page(t, vp, &state->simp, value));
	case HV_X64_MSR_EOM:
		tlfs_synic_retry(t, vp);
		return TLFS_MSR_OK;
	default:
		return TLFS_MSR_FAULT;
	}
}

enum tlfs_msr tlfs_write_msr(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t value)
{
	if (msr < HV_X64_MSR_FIRST || msr > HV_X64_MSR_LAST)
		return TLFS_MSR_UNKNOWN;
	if (msr >= HV_X64_MSR_CRASH_P0 && msr <= HV_X64_MSR_CRASH_P4) {
		atomic_store(&t->crash[msr - HV_X64_MSR_CRASH_P0], value);
		return TLFS_MSR_OK;
	}
	switch (msr) {
	case HV_X64_MSR_GUEST_OS_ID:
		return write_guest_os_id(t, value);
	case HV_X64_MSR_HYPERCALL:
		return write_hypercall(t, vp, value);
	case HV_X64_MSR_RESET:
		if (value & 1)
			t->ops->reset(t->context, vp);
		return TLFS_MSR_OK;
	case HV_X64_MSR_REFERENCE_TSC:
		return write_reference_tsc(t, value);
	case HV_X64_MSR_EOI:
		return write_apic(t, vp, TLFS_APIC_EOI, value);
	case HV_X64_MSR_ICR:
		return write_apic(t, vp, TLFS_APIC_ICR, value);
	case HV_X64_MSR_TPR:
		return value <= 0xff ? write_apic(t, vp, TLFS_APIC_TPR, value) : TLFS_MSR_FAULT;
	case HV_X64_MSR_VP_ASSIST_PAGE:
		return write_assist_page(t, vp, value);
	case HV_X64_MSR_CRASH_CTL:
		return write_crash(t, vp, value);
	default:
		return write_synic(t, vp, msr, value);
	}
}
