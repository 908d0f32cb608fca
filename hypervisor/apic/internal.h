/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * internal.h - what the files of the local APIC share: register numbers and helpers. Not for others.
 */
#pragma once

#include "hypervisor/apic/apic.h"

/* Offsets in the xAPIC page; x2APIC MSR = 0x800 + offset / 16. */
enum apic_register {
	REG_ID = 0x20,
	REG_VERSION = 0x30,
	REG_TPR = 0x80,
	REG_PPR = 0xa0,
	REG_EOI = 0xb0,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SVR = 0xf0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_IRR_END = 0x280,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR_HIGH = 0x310,
	REG_LVT_TIMER = 0x320,
	REG_LVT_ERROR = 0x370,
	REG_INITIAL_COUNT = 0x380,
	REG_CURRENT_COUNT = 0x390,
	REG_DIVIDE = 0x3e0,
	REG_SELF_IPI = 0x3f0
};

#define SVR_ENABLE     0x100u
#define SVR_WRITABLE   0x3ffu
#define SVR_AT_RESET   0xffu
#define DFR_FLAT       0xffffffffu
#define LVT_MASKED     0x10000u
#define LVT_VECTOR     0xffu
#define LVT_MODE_SHIFT 8
#define LVT_TIMER_MODE 0x60000u
#define LVT_PERIODIC   0x20000u
#define LVT_DEADLINE   0x40000u
#define LVT_DEFINED    0x7f7ffu /* in any entry; status bits too */

/* Error status register. */
#define ESR_SEND_ILLEGAL_VECTOR    0x20u
#define ESR_RECEIVE_ILLEGAL_VECTOR 0x40u
#define ESR_ILLEGAL_REGISTER       0x80u

static inline bool apic_in_x2apic(const struct apic *apic)
{
	return atomic_load_explicit(&apic->base, memory_order_relaxed) & APIC_BASE_X2APIC;
}

/* Globally and by software enabled: fixed interrupts are accepted. */
static inline bool apic_accepts(struct apic *apic)
{
	return apic_enabled(apic) && (atomic_load_explicit(&apic->svr, memory_order_relaxed) & SVR_ENABLE);
}

static inline uint32_t apic_lvt_read(struct apic *apic, enum apic_lvt which)
{
	return atomic_load_explicit(&apic->lvt[which], memory_order_relaxed);
}

/* The logical destination register that x2APIC mode derives from the id. */
static inline uint32_t apic_x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

static inline int apic_highest_bit(const uint64_t words[4])
{
	for (int i = 3; i >= 0; i--)
		if (words[i])
			return i * 64 + 63 - __builtin_clzll(words[i]);
	return -1;
}

/* Something may have become deliverable for the VP that runs here. */
static inline void apic_reconsider(struct apic *apic)
{
	atomic_store(&apic->attention, 1);
}

uint8_t apic_processor_priority(struct apic *apic);

/* Make `vector` pending; the caller has checked that the APIC accepts it. */
void apic_pend(struct apic *apic, uint8_t vector, bool level);

/* Note an error in the ESR and raise the error interrupt. */
void apic_report_error(struct apic *apic, uint32_t bit);

/* Do what a write of the interrupt command register asks for. */
void apic_send(struct apic *apic, uint32_t command, uint32_t destination);

/* Pass on what LINT0 or LINT1 signals now. */
void apic_lint_signal(struct apic *apic, unsigned pin);

/* timer.c: register accesses of the timer; reset under the lock. */
void apic_timer_reset(struct apic *apic);
void apic_timer_set_lvt(struct apic *apic, uint32_t value);
void apic_timer_set_initial(struct apic *apic, uint32_t value);
void apic_timer_set_divide(struct apic *apic, uint32_t value);
uint32_t apic_timer_current(struct apic *apic);
void apic_timer_set_tsc_deadline(struct apic *apic, uint64_t value);
uint64_t apic_timer_get_tsc_deadline(struct apic *apic);
