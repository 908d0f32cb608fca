/* SPDX-License-Identifier: GPL-2.0-or-later */
/* saved_apic.c - a local APIC in KVM's form, its register page, and in ours. */
#include "hypervisor/kvm/kvm.h"

#include <string.h>

#include "base/bytes.h"

/* Offsets in the page (SDM volume 3, table 11-1). */
enum {
	REG_ID = 0x20,
	REG_TPR = 0x80,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SVR = 0xf0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR_HIGH = 0x310,
	REG_LVT_TIMER = 0x320,
	REG_INITIAL = 0x380,
	REG_CURRENT = 0x390,
	REG_DIVIDE = 0x3e0
};

#define LVT_MASKED         (1u << 16)
#define LVT_TIMER_MODE     (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)

static uint32_t get(const struct kvm_lapic_state *s, unsigned offset)
{
	return le32_get((const uint8_t *)s->regs + offset);
}

static void put(struct kvm_lapic_state *s, unsigned offset, uint32_t value)
{
	le32_put((uint8_t *)s->regs + offset, value);
}

static void get_bits(const struct kvm_lapic_state *s, unsigned offset, uint64_t bits[4])
{
	for (unsigned i = 0; i < 4; i++)
		bits[i] = get(s, offset + 32 * i) | (uint64_t)get(s, offset + 32 * i + 16) << 32;
}

static void put_bits(struct kvm_lapic_state *s, unsigned offset, const uint64_t bits[4])
{
	for (unsigned i = 0; i < 4; i++) {
		put(s, offset + 32 * i, (uint32_t)bits[i]);
		put(s, offset + 32 * i + 16, (uint32_t)(bits[i] >> 32));
	}
}

/* Nanoseconds a tick: the timer counts at 1 GHz before it is divided. */
static uint64_t tick(uint32_t divide)
{
	unsigned code = (divide & 3) | (divide >> 1 & 4);

	return 1u << ((code + 1) & 7);
}

/* Whether the timer's interrupt waits or is being served. */
static bool is_there(const struct apic_state *s)
{
	uint8_t vector = (uint8_t)s->lvt[APIC_LVT_TIMER];

	return (s->irr[vector / 64] | s->isr[vector / 64]) >> (vector % 64) & 1;
}

static void save_timer(struct partition *p, const struct kvm_lapic_state *from, struct apic_state *to)
{
	uint32_t mode = to->lvt[APIC_LVT_TIMER] & LVT_TIMER_MODE;
	uint64_t current = get(from, REG_CURRENT), now = clock_now(p), gone;

	to->divide = get(from, REG_DIVIDE) & 0xb;
	to->initial_count = mode == LVT_TIMER_DEADLINE ? 0 : get(from, REG_INITIAL);
	to->timer_deadline = APIC_NEVER;
	if (!to->initial_count || current > to->initial_count) {
		to->initial_count = 0;
		return;
	}
	if (!current && mode != LVT_TIMER_PERIODIC && !(to->lvt[APIC_LVT_TIMER] & LVT_MASKED) &&
	    !is_there(to)) {
		/* Expired while the VP stood still: KVM tells the IRR of that only when the VP runs. Or long
		 * ago and taken: then it comes once too often, which a guest can bear better than never. */
		to->timer_start = now;
		to->timer_deadline = now;
		return;
	}
	if (!current && mode != LVT_TIMER_PERIODIC) {
		/* One that is done counts no more: what it would show is zero either way. */
		to->initial_count = 0;
		return;
	}
	gone = (to->initial_count - current) * tick(to->divide);
	/* A timer that was started before partition time began: that it runs on for the right time is what
	 * counts. */
	to->timer_start = gone <= now ? now - gone : 0;
	to->timer_deadline = now + (current ? current : to->initial_count) * tick(to->divide);
}

void kvm_save_apic(struct partition *p, const struct kvm_lapic_state *from, uint64_t base,
		   struct apic_state *to)
{
	bool x2apic = base & APIC_BASE_X2APIC;

	memset(to, 0, sizeof(*to));
	to->base = base;
	get_bits(from, REG_IRR, to->irr);
	get_bits(from, REG_ISR, to->isr);
	get_bits(from, REG_TMR, to->tmr);
	to->icr = get(from, REG_ICR) | (uint64_t)get(from, REG_ICR_HIGH) << 32;
	to->id = x2apic ? get(from, REG_ID) : get(from, REG_ID) >> 24;
	to->tpr = get(from, REG_TPR) & 0xff;
	to->ldr = get(from, REG_LDR);
	to->dfr = get(from, REG_DFR);
	to->svr = get(from, REG_SVR);
	to->esr = get(from, REG_ESR);
	for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
		to->lvt[i] = get(from, REG_LVT_TIMER + 16 * i);
	save_timer(p, from, to);
}

/* `to` holds the page as it is: the version and what else is not ours stays. */
void kvm_load_apic(struct partition *p, const struct apic_state *from, struct kvm_lapic_state *to)
{
	uint64_t now = clock_now(p), left;

	put_bits(to, REG_IRR, from->irr);
	put_bits(to, REG_ISR, from->isr);
	put_bits(to, REG_TMR, from->tmr);
	put(to, REG_ICR, (uint32_t)from->icr);
	put(to, REG_ICR_HIGH, (uint32_t)(from->icr >> 32));
	put(to, REG_ID, from->base & APIC_BASE_X2APIC ? from->id : from->id << 24);
	put(to, REG_TPR, from->tpr);
	put(to, REG_LDR, from->ldr);
	put(to, REG_DFR, from->dfr);
	put(to, REG_SVR, from->svr);
	put(to, REG_ESR, from->esr);
	for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
		put(to, REG_LVT_TIMER + 16 * i, from->lvt[i]);
	put(to, REG_DIVIDE, from->divide);
	put(to, REG_INITIAL, 0);
	put(to, REG_CURRENT, 0);
	if (!from->initial_count || from->timer_deadline == APIC_NEVER)
		return;
	left = from->timer_deadline > now ? (from->timer_deadline - now) / tick(from->divide) : 0;
	put(to, REG_INITIAL, from->initial_count);
	put(to, REG_CURRENT, (uint32_t)min_u64(max_u64(left, 1), from->initial_count));
}
