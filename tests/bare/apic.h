/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apic.h - the local APIC in xAPIC mode, and starting the other processors (SDM volume 3, chapter 11).
 */
#pragma once

#include "bare.h"

enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SPURIOUS = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INITIAL = 0x380,
	APIC_TIMER_CURRENT = 0x390,
	APIC_TIMER_DIVIDE = 0x3e0
};

enum {
	ICR_FIXED = 0,
	ICR_NMI = 0x400,
	ICR_INIT = 0x500,
	ICR_STARTUP = 0x600,
	ICR_LOGICAL = 0x800,
	ICR_ASSERT = 0x4000,
	ICR_LEVEL = 0x8000,
	ICR_SELF = 0x40000,
	ICR_ALL = 0x80000,
	ICR_OTHERS = 0xc0000
};

enum { LVT_MASKED = 0x10000, LVT_PERIODIC = 0x20000, LVT_TSC_DEADLINE = 0x40000 };

#define APIC_BASE 0xfee00000ul

static inline uint32_t apic_read(unsigned reg)
{
	return *(volatile uint32_t *)(APIC_BASE + reg);
}

static inline void apic_write(unsigned reg, uint32_t value)
{
	*(volatile uint32_t *)(APIC_BASE + reg) = value;
}

static inline bool apic_bit(unsigned reg, unsigned vector)
{
	return apic_read(reg + vector / 32 * 16) >> (vector % 32) & 1;
}

static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

static inline void apic_enable(void)
{
	apic_write(APIC_SPURIOUS, 0x1ff);
}

static inline void apic_send(uint32_t destination, uint32_t command)
{
	apic_write(APIC_ICR_HIGH, destination << 24);
	apic_write(APIC_ICR, command);
	while (apic_read(APIC_ICR) & 0x1000)
		cpu_relax();
}

#define MAX_PROCESSORS 64u

/* Start all other processors; each runs `code` with its number (APIC id), interrupts off, on a stack of its
 * own, in 64-bit mode with this processor's tables. Returns how many run, this one included. */
unsigned start_processors(void (*code)(unsigned number));
extern volatile unsigned processors_running;

/* The other processors as workers: they sleep, and run what they are given, each once. */
extern unsigned processors; /* how many there are, this one included */
void start_workers(void);
void begin_others(void (*code)(unsigned number));

/* Wait until all have done it. */
bool end_others(void);
