// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The synthetic interrupt controller: message slots, event flags, SINTs (TLFS 11).
 *
 * A slot belongs to the guest while its type is not 0. Only this file writes into slots, under the
 * VP's lock; the guest frees one by writing type 0 and, where the pending flag is set, writes EOM.
 */
#include "hypervisor/tlfs/internal.h"

static bool sint_takes(const struct tlfs_vp_state *state, unsigned sint)
{
	uint64_t value = state->sint[sint];

	return state->scontrol & 1 && (!(value & HV_SINT_MASKED) || value & HV_SINT_POLLING);
}

static uint8_t sint_vector(const struct tlfs_vp_state *state, unsigned sint)
{
	uint64_t value = state->sint[sint];

	return value & (HV_SINT_POLLING | HV_SINT_MASKED) ? 0 : (uint8_t)(value & HV_SINT_VECTOR);
}

static struct hv_message *usable_slot(struct tlfs *t, unsigned vp, unsigned sint)
{
	const struct tlfs_vp_state *state = &t->vps[vp].state;
	struct hv_message *slots;

	if (!sint_takes(state, sint))
		return NULL;
	slots = tlfs_enabled_page(t, state->simp);
	return slots ? &slots[sint] : NULL;
}

static bool slot_is_free(struct hv_message *slot)
{
	return __atomic_load_n(&slot->type, __ATOMIC_SEQ_CST) == HV_MESSAGE_NONE;
}

static void set_pending(struct tlfs *t, struct hv_message *slot)
{
	__atomic_fetch_or(&slot->flags, HV_MESSAGE_PENDING, __ATOMIC_SEQ_CST);
	tlfs_written(t, &slot->flags, sizeof(slot->flags));
}

/* Whether another message is kept back for this slot, of a timer or of who was told "busy". */
static bool others_wait(const struct tlfs_vp *vp, unsigned sint)
{
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++)
		if (vp->state.timers[i].message_waits && HV_STIMER_SINT(vp->state.timers[i].config) == sint)
			return true;
	return vp->waiting >> sint & 1;
}

enum tlfs_post tlfs_deliver_message(struct tlfs *t, unsigned vp, unsigned sint, uint32_t type,
				    const void *payload, size_t size, uint8_t *vector)
{
	struct hv_message *slot = usable_slot(t, vp, sint);

	*vector = 0;
	if (!slot)
		return TLFS_BUSY;
	if (!slot_is_free(slot)) {
		set_pending(t, slot);
		/* The guest may have freed it before it could see the flag. */
		if (!slot_is_free(slot))
			return TLFS_BUSY;
	}
	slot->payload_size = (uint8_t)size;
	/* Between freeing the slot and reading its flags the guest may find this message there instead:
	 * so the flag must still say that others wait. */
	__atomic_store_n(&slot->flags, others_wait(&t->vps[vp], sint) ? HV_MESSAGE_PENDING : 0,
			 __ATOMIC_RELAXED);
	slot->reserved = 0;
	slot->origin = 0;
	if (size)
		__builtin_memcpy(slot->payload, payload, size);
	__atomic_store_n(&slot->type, type, __ATOMIC_SEQ_CST);
	tlfs_written(t, slot, sizeof(*slot));
	*vector = sint_vector(&t->vps[vp].state, sint);
	return TLFS_POSTED;
}

enum tlfs_post tlfs_post_message(struct tlfs *t, unsigned vp, unsigned sint, uint32_t type,
				 const void *payload, size_t size)
{
	enum tlfs_post result;
	uint8_t vector;

	if (vp >= t->config.vp_count || sint >= TLFS_SINT_COUNT || size > TLFS_MESSAGE_PAYLOAD ||
	    type == HV_MESSAGE_NONE)
		return TLFS_INVALID;
	tlfs_lock(t, vp);
	result = tlfs_deliver_message(t, vp, sint, type, payload, size, &vector);
	if (result == TLFS_BUSY)
		t->vps[vp].waiting |= 1u << sint;
	tlfs_unlock(t, vp);
	if (vector)
		t->ops->request_interrupt(t->context, vp, vector);
	return result;
}

enum tlfs_signal tlfs_signal_event(struct tlfs *t, unsigned vp, unsigned sint, unsigned flag)
{
	const struct tlfs_vp_state *state;
	struct hv_event_flags *sets;
	enum tlfs_signal result = TLFS_SIGNAL_DROPPED;
	uint64_t bit = 1ull << (flag & 63);
	uint8_t vector = 0;

	if (vp >= t->config.vp_count || sint >= TLFS_SINT_COUNT || flag >= TLFS_EVENT_FLAGS)
		return TLFS_SIGNAL_INVALID;
	state = &t->vps[vp].state;
	tlfs_lock(t, vp);
	sets = sint_takes(state, sint) ? tlfs_enabled_page(t, state->siefp) : NULL;
	if (sets) {
		if (__atomic_fetch_or(&sets[sint].words[flag >> 6], bit, __ATOMIC_SEQ_CST) & bit) {
			result = TLFS_ALREADY_SET;
		} else {
			result = TLFS_SIGNALLED;
			vector = sint_vector(state, sint);
		}
		tlfs_written(t, &sets[sint].words[flag >> 6], sizeof(uint64_t));
	}
	tlfs_unlock(t, vp);
	if (vector)
		t->ops->request_interrupt(t->context, vp, vector);
	return result;
}

void tlfs_synic_retry(struct tlfs *t, unsigned vp)
{
	uint32_t ready = 0;

	/* The timers' own messages go first: there is at most one each. */
	tlfs_run_timers(t, vp);
	tlfs_lock(t, vp);
	for (unsigned sint = 0; sint < TLFS_SINT_COUNT; sint++) {
		struct hv_message *slot;

		if (!(t->vps[vp].waiting >> sint & 1))
			continue;
		slot = usable_slot(t, vp, sint);
		if (!slot)
			continue;
		if (!slot_is_free(slot))
			set_pending(t, slot);
		/* Looked at once more: freed just then, the guest may not have seen the flag. */
		if (slot_is_free(slot))
			ready |= 1u << sint;
	}
	t->vps[vp].waiting &= ~ready;
	tlfs_unlock(t, vp);
	for (; ready; ready &= ready - 1)
		t->ops->message_slot_free(t->context, vp, (unsigned)__builtin_ctz(ready));
}

/* --- registers -------------------------------------------------------------------------------- */

void tlfs_publish_auto_eoi(struct tlfs *t, unsigned vp)
{
	uint64_t vectors[4] = {0};

	for (unsigned i = 0; i < TLFS_SINT_COUNT; i++) {
		uint64_t value = t->vps[vp].state.sint[i];
		unsigned vector = value & HV_SINT_VECTOR;

		if (value & HV_SINT_AUTO_EOI && !(value & HV_SINT_MASKED))
			vectors[vector >> 6] |= 1ull << (vector & 63);
	}
	t->ops->set_auto_eoi(t->context, vp, vectors);
}

bool tlfs_write_sint(struct tlfs *t, unsigned vp, unsigned sint, uint64_t value)
{
	if ((value & HV_SINT_VECTOR) < 16 && !(value & (HV_SINT_MASKED | HV_SINT_POLLING)))
		return false;
	tlfs_lock(t, vp);
	t->vps[vp].state.sint[sint] = value;
	tlfs_unlock(t, vp);
	tlfs_publish_auto_eoi(t, vp);
	tlfs_synic_retry(t, vp);
	return true;
}

bool tlfs_write_synic_page(struct tlfs *t, unsigned vp, uint64_t *msr, uint64_t value)
{
	void *page = NULL;

	if (value & HV_PAGE_ENABLE) {
		page = t->ops->page(t->context, value & HV_PAGE_MASK);
		if (!page)
			return false;
	}
	tlfs_lock(t, vp);
	/* A page that the guest has not seen before begins empty; what lies there is not for it. */
	if (page && (!(*msr & HV_PAGE_ENABLE) || (*msr ^ value) & HV_PAGE_MASK)) {
		__builtin_memset(page, 0, 4096);
		tlfs_written(t, page, 4096);
	}
	*msr = value;
	tlfs_unlock(t, vp);
	tlfs_synic_retry(t, vp);
	return true;
}
