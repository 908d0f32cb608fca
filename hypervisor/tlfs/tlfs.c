// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Life, saving, and the reference TSC page (TLFS 12.7).
 */
#include "hypervisor/tlfs/internal.h"

#define REFERENCE_FREQUENCY 10000000u

static void reset_vp(struct tlfs *t, unsigned vp)
{
	struct tlfs_vp_state *state = &t->vps[vp].state;

	__builtin_memset(state, 0, sizeof(*state));
	for (unsigned i = 0; i < TLFS_SINT_COUNT; i++)
		state->sint[i] = HV_SINT_MASKED;
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++)
		state->timers[i].deadline = TLFS_NEVER;
	t->vps[vp].waiting = 0;
}

static void reset_partition(struct tlfs *t)
{
	atomic_store(&t->guest_os_id, 0);
	atomic_store(&t->hypercall, 0);
	atomic_store(&t->reference_tsc, 0);
	for (unsigned i = 0; i < 5; i++)
		atomic_store(&t->crash[i], 0);
	atomic_store(&t->tsc_sequence, 0);
}

void tlfs_init(struct tlfs *t, struct tlfs_vp *vps, const struct tlfs_config *config,
	       const struct tlfs_ops *ops, void *context)
{
	t->vps = vps;
	t->ops = ops;
	t->context = context;
	t->config = *config;
	tlfs_set_tsc_frequency(t, config->tsc_frequency);
	reset_partition(t);
	for (unsigned vp = 0; vp < config->vp_count; vp++)
		reset_vp(t, vp);
}

void tlfs_set_tsc_frequency(struct tlfs *t, uint64_t frequency)
{
	t->config.tsc_frequency = frequency;
	t->tsc_scale = 0;
	/* Rounded up: where the frequency is a multiple of ours, page and MSR then agree to the unit. */
	if (frequency > REFERENCE_FREQUENCY && !t->config.tsc_unstable)
		t->tsc_scale =
		    (uint64_t)((((unsigned __int128)REFERENCE_FREQUENCY << 64) + frequency - 1) / frequency);
}

void tlfs_reset(struct tlfs *t)
{
	static const uint64_t none[4];

	reset_partition(t);
	for (unsigned vp = 0; vp < t->config.vp_count; vp++) {
		tlfs_lock(t, vp);
		reset_vp(t, vp);
		tlfs_arm_timers(t, vp);
		tlfs_unlock(t, vp);
		t->ops->set_auto_eoi(t->context, vp, none);
	}
}

/* --- reference TSC page ----------------------------------------------------------------------- */

static void fill_reference_tsc(struct tlfs *t, struct hv_reference_tsc *page)
{
	uint64_t tsc, reference;
	uint32_t sequence;

	/* While it is written a reader finds sequence 0 and falls back to the MSR. */
	__atomic_store_n(&page->sequence, 0, __ATOMIC_SEQ_CST);
	if (!t->tsc_scale)
		return;
	t->ops->sample_clock(t->context, &tsc, &reference);
	__atomic_store_n(&page->scale, t->tsc_scale, __ATOMIC_SEQ_CST);
	__atomic_store_n(&page->offset,
			 (int64_t)(reference - (uint64_t)((unsigned __int128)tsc * t->tsc_scale >> 64)),
			 __ATOMIC_SEQ_CST);
	/* 0 and all ones have been "invalid" in one version or another. */
	sequence = atomic_load(&t->tsc_sequence) + 1;
	if (sequence == 0 || sequence == UINT32_MAX)
		sequence = 1;
	atomic_store(&t->tsc_sequence, sequence);
	__atomic_store_n(&page->sequence, sequence, __ATOMIC_SEQ_CST);
}

void tlfs_write_reference_tsc(struct tlfs *t, uint64_t msr_value)
{
	struct hv_reference_tsc *page = tlfs_enabled_page(t, msr_value);

	if (!page)
		return;
	fill_reference_tsc(t, page);
	tlfs_written(t, page, sizeof(*page));
}

void tlfs_clock_changed(struct tlfs *t)
{
	tlfs_lock(t, 0);
	tlfs_write_reference_tsc(t, atomic_load(&t->reference_tsc));
	tlfs_unlock(t, 0);
}

/* --- saving ----------------------------------------------------------------------------------- */

void tlfs_save(struct tlfs *t, struct tlfs_state *state)
{
	__builtin_memset(state, 0, sizeof(*state));
	state->guest_os_id = atomic_load(&t->guest_os_id);
	state->hypercall = atomic_load(&t->hypercall);
	state->reference_tsc = atomic_load(&t->reference_tsc);
	for (unsigned i = 0; i < 5; i++)
		state->crash[i] = atomic_load(&t->crash[i]);
	state->tsc_sequence = atomic_load(&t->tsc_sequence);
}

static bool page_is_there(struct tlfs *t, uint64_t msr_value)
{
	return !(msr_value & HV_PAGE_ENABLE) || tlfs_enabled_page(t, msr_value);
}

bool tlfs_load(struct tlfs *t, const struct tlfs_state *state)
{
	if (!page_is_there(t, state->hypercall) || !page_is_there(t, state->reference_tsc) ||
	    (state->hypercall & HV_PAGE_ENABLE && !state->guest_os_id))
		return false;
	atomic_store(&t->guest_os_id, state->guest_os_id);
	atomic_store(&t->hypercall, state->hypercall);
	atomic_store(&t->reference_tsc, state->reference_tsc);
	for (unsigned i = 0; i < 5; i++)
		atomic_store(&t->crash[i], state->crash[i]);
	atomic_store(&t->tsc_sequence, state->tsc_sequence);
	return true;
}

void tlfs_save_vp(struct tlfs *t, unsigned vp, struct tlfs_vp_state *state)
{
	tlfs_lock(t, vp);
	*state = t->vps[vp].state;
	tlfs_unlock(t, vp);
}

static bool vp_state_is_sane(struct tlfs *t, const struct tlfs_vp_state *state)
{
	if (!page_is_there(t, state->siefp) || !page_is_there(t, state->simp) ||
	    !page_is_there(t, state->assist_page))
		return false;
	for (unsigned i = 0; i < TLFS_SINT_COUNT; i++)
		if ((state->sint[i] & HV_SINT_VECTOR) < 16 &&
		    !(state->sint[i] & (HV_SINT_MASKED | HV_SINT_POLLING)))
			return false;
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++) {
		const struct tlfs_timer_state *timer = &state->timers[i];

		if (timer->config & ~HV_STIMER_DEFINED || timer->message_waits > 1)
			return false;
		if (timer->deadline != TLFS_NEVER && (!(timer->config & HV_STIMER_ENABLE) || !timer->count))
			return false;
	}
	return true;
}

bool tlfs_load_vp(struct tlfs *t, unsigned vp, const struct tlfs_vp_state *state)
{
	if (vp >= t->config.vp_count || !vp_state_is_sane(t, state))
		return false;
	tlfs_lock(t, vp);
	t->vps[vp].state = *state;
	/* Whoever waited waits again: it is told at the next occasion. */
	t->vps[vp].waiting = (1u << TLFS_SINT_COUNT) - 1;
	tlfs_arm_timers(t, vp);
	tlfs_unlock(t, vp);
	tlfs_publish_auto_eoi(t, vp);
	return true;
}
