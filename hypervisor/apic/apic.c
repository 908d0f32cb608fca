// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Life of a local APIC, priorities, taking and ending interrupts. Source: Intel SDM volume 3, "Local
 * APIC State", "Interrupt, Task, and Processor Priority", "Signaling Interrupt Servicing Completion".
 */
#include "hypervisor/apic/internal.h"

void apic_init(struct apic_bus *bus, struct apic *apics, const struct apic_config *config,
	       const struct apic_ops *ops, void *context)
{
	bus->apics = apics;
	bus->ops = ops;
	bus->context = context;
	bus->config = *config;
	atomic_init(&bus->arbitration, 0);
	for (unsigned vp = 0; vp < config->vp_count; vp++) {
		struct apic *apic = &apics[vp];

		__builtin_memset(apic, 0, sizeof(*apic));
		apic->bus = bus;
		apic->vp = vp;
		apic->id = vp;
		apic->timer_deadline = APIC_NEVER;
		apic_reset(apic, false);
	}
}

static void reset_registers(struct apic *apic)
{
	for (int i = 0; i < 4; i++) {
		atomic_store(&apic->irr[i], 0);
		atomic_store(&apic->tmr[i], 0);
		apic->isr[i] = 0;
	}
	atomic_store(&apic->tpr, 0);
	atomic_store(&apic->ldr, apic_in_x2apic(apic) ? apic_x2apic_ldr(apic->id) : 0);
	atomic_store(&apic->dfr, DFR_FLAT);
	atomic_store(&apic->svr, SVR_AT_RESET);
	atomic_store(&apic->esr_pending, 0);
	apic->esr = 0;
	apic->icr = 0;
	for (int i = 0; i < APIC_LVT_COUNT; i++)
		atomic_store(&apic->lvt[i], LVT_MASKED);
	atomic_store(&apic->attention, 0);
	apic_timer_reset(apic);
}

void apic_reset(struct apic *apic, bool init)
{
	if (!init) {
		atomic_store(&apic->base,
			     APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (apic->vp == 0 ? APIC_BASE_BSP : 0));
		atomic_store(&apic->lint_level, 0);
	}
	reset_registers(apic);
}

/* --- priorities ------------------------------------------------------------------------------- */

uint8_t apic_processor_priority(struct apic *apic)
{
	uint32_t tpr = atomic_load_explicit(&apic->tpr, memory_order_relaxed);
	int in_service = apic_highest_bit(apic->isr);
	uint32_t class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

	return (uint8_t)((tpr & 0xf0) >= class ? tpr : class);
}

/* The highest vector of the IRR if it outranks the processor priority, else -1. */
static int deliverable(struct apic *apic)
{
	uint64_t irr[4];
	int vector;

	for (int i = 0; i < 4; i++)
		irr[i] = atomic_load(&apic->irr[i]);
	vector = apic_highest_bit(irr);
	if (vector < 0 || vector >> 4 <= apic_processor_priority(apic) >> 4)
		return -1;
	return vector;
}

int apic_find_pending(struct apic *apic)
{
	int vector;

	/* Cleared before the look: a delivery after it sets it again. */
	atomic_store(&apic->attention, 0);
	vector = deliverable(apic);
	if (vector >= 0)
		atomic_store(&apic->attention, 1);
	return vector;
}

int apic_acknowledge(struct apic *apic)
{
	int vector = apic_pending_vector(apic);
	uint64_t bit;

	if (vector < 0)
		return -1;
	bit = 1ull << (vector & 63);
	if (!(atomic_load(&apic->auto_eoi[vector >> 6]) & bit))
		apic->isr[vector >> 6] |= bit;
	atomic_fetch_and(&apic->irr[vector >> 6], ~bit);
	return vector;
}

void apic_eoi(struct apic *apic)
{
	int vector = apic_highest_bit(apic->isr);
	uint64_t bit;

	if (vector < 0)
		return;
	bit = 1ull << (vector & 63);
	apic->isr[vector >> 6] &= ~bit;
	apic_reconsider(apic);
	if (atomic_load(&apic->tmr[vector >> 6]) & bit)
		apic->bus->ops->broadcast_eoi(apic->bus->context, (uint8_t)vector);
}

uint8_t apic_get_tpr(struct apic *apic)
{
	return (uint8_t)atomic_load_explicit(&apic->tpr, memory_order_relaxed);
}

void apic_set_tpr(struct apic *apic, uint8_t value)
{
	atomic_store_explicit(&apic->tpr, value, memory_order_relaxed);
	apic_reconsider(apic);
}

uint64_t apic_get_cr8(struct apic *apic)
{
	return apic_get_tpr(apic) >> 4;
}

void apic_set_cr8(struct apic *apic, uint64_t value)
{
	apic_set_tpr(apic, (uint8_t)((value & 15) << 4));
}

void apic_set_auto_eoi(struct apic *apic, const uint64_t vectors[4])
{
	for (int i = 0; i < 4; i++)
		atomic_store(&apic->auto_eoi[i], vectors[i]);
}

/* --- saving ----------------------------------------------------------------------------------- */

void apic_save(struct apic *apic, struct apic_state *state)
{
	__builtin_memset(state, 0, sizeof(*state));
	state->base = atomic_load(&apic->base);
	for (int i = 0; i < 4; i++) {
		state->irr[i] = atomic_load(&apic->irr[i]);
		state->isr[i] = apic->isr[i];
		state->tmr[i] = atomic_load(&apic->tmr[i]);
		state->auto_eoi[i] = atomic_load(&apic->auto_eoi[i]);
	}
	state->icr = apic->icr;
	state->id = apic->id;
	state->tpr = atomic_load(&apic->tpr);
	state->ldr = atomic_load(&apic->ldr);
	state->dfr = atomic_load(&apic->dfr);
	state->svr = atomic_load(&apic->svr);
	state->esr = apic->esr;
	state->esr_pending = atomic_load(&apic->esr_pending);
	for (int i = 0; i < APIC_LVT_COUNT; i++)
		state->lvt[i] = atomic_load(&apic->lvt[i]);
	state->lint_level = atomic_load(&apic->lint_level);
	apic->bus->ops->lock(apic->bus->context, apic->vp);
	state->divide = apic->divide;
	state->initial_count = apic->initial_count;
	state->timer_start = apic->timer_start;
	state->timer_deadline = apic->timer_deadline;
	state->tsc_deadline = apic->tsc_deadline;
	apic->bus->ops->unlock(apic->bus->context, apic->vp);
}

static bool state_is_sane(const struct apic *apic, const struct apic_state *state)
{
	uint64_t mode = state->base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
	uint64_t low_vectors = 0xffff; /* vectors below 16 are never accepted */
	unsigned width = apic->bus->config.physical_address_bits;

	if (state->base & (0x2ff | (width < 64 ? ~0ull << width : 0)))
		return false;
	for (int i = 0; i < APIC_LVT_COUNT; i++)
		if (state->lvt[i] & ~LVT_DEFINED)
			return false;
	if (mode == APIC_BASE_X2APIC || (mode & APIC_BASE_X2APIC && !apic->bus->config.x2apic))
		return false;
	if (state->id != apic->id || state->svr & ~SVR_WRITABLE || state->tpr > 0xff || state->lint_level > 3)
		return false;
	if (mode & APIC_BASE_X2APIC && state->ldr != apic_x2apic_ldr(apic->id))
		return false;
	if (state->lvt[APIC_LVT_TIMER] & LVT_DEADLINE && !apic->bus->config.tsc_deadline)
		return false;
	return !((state->irr[0] | state->isr[0]) & low_vectors) && !(state->divide & ~0xbu);
}

bool apic_load(struct apic *apic, const struct apic_state *state)
{
	if (!state_is_sane(apic, state))
		return false;
	atomic_store(&apic->base, state->base);
	for (int i = 0; i < 4; i++) {
		atomic_store(&apic->irr[i], state->irr[i]);
		apic->isr[i] = state->isr[i];
		atomic_store(&apic->tmr[i], state->tmr[i]);
		atomic_store(&apic->auto_eoi[i], state->auto_eoi[i]);
	}
	apic->icr = state->icr;
	atomic_store(&apic->tpr, state->tpr);
	atomic_store(&apic->ldr, state->ldr);
	atomic_store(&apic->dfr, state->dfr);
	atomic_store(&apic->svr, state->svr);
	apic->esr = state->esr;
	atomic_store(&apic->esr_pending, state->esr_pending);
	for (int i = 0; i < APIC_LVT_COUNT; i++)
		atomic_store(&apic->lvt[i], state->lvt[i]);
	atomic_store(&apic->lint_level, state->lint_level);
	apic->bus->ops->lock(apic->bus->context, apic->vp);
	apic->divide = state->divide;
	apic->initial_count = state->initial_count;
	apic->timer_start = state->timer_start;
	apic->timer_deadline = state->timer_deadline;
	apic->tsc_deadline = state->tsc_deadline;
	apic->bus->ops->arm_timer(apic->bus->context, apic->vp, apic->timer_deadline);
	apic->bus->ops->unlock(apic->bus->context, apic->vp);
	apic_reconsider(apic);
	return true;
}
