/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devices.h - the parts of the devices guest, one file each: ports, memory-mapped registers, MSRs, interrupts
 * through the I/O APIC. What is asked here is the way from an instruction to a device and back, with the
 * chipset of Bulkhead (chipset/chipset.h) as the other end.
 */
#pragma once

#include "apic.h"
#include "paging.h"

#define COM1       0x3f8u
#define SCRATCH    0x3ffu /* of COM1: a byte that does nothing */
#define RTC_INDEX  0x70u
#define RTC_DATA   0x71u
#define PM_BASE    0x400u
#define PM_TIMER   0x408u
#define PM_END     0x410u
#define NO_PORT    0x5000u /* nobody's */
#define IOAPIC     0xfec00000ul
#define NO_MMIO    0xfec01000ul /* nobody's, right behind it */
#define IOAPIC_PIN 23u          /* nothing is connected to it */

static inline uint32_t ioapic_read(uint8_t index)
{
	*(volatile uint32_t *)IOAPIC = index;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static inline void ioapic_write(uint8_t index, uint32_t value)
{
	*(volatile uint32_t *)IOAPIC = index;
	*(volatile uint32_t *)(IOAPIC + 0x10) = value;
}

/* devices_ports.c */
void port_sizes(void);
void port_unclaimed(void);
void port_strings_out(void);
void port_strings_in(void);
void port_string_forms(void);
void port_string_faults(void);
void port_timer(void);

/* devices_mmio.c */
void mmio_sizes(void);
void mmio_instructions(void);
void mmio_modify(void);
void mmio_addressing(void);
void mmio_strings(void);
void mmio_unclaimed(void);
void mmio_crossing(void);
void ram_end(void);

/* devices_msr.c */
void msr_time(void);
void msr_system_calls(void);
void msr_bases(void);
void msr_memory_types(void);
void msr_efer(void);
void msr_unknown(void);

/* devices_interrupts.c */
void pin_edge(void);
void pin_masked(void);
void pin_level(void);
void pin_level_masked(void);
void pin_directed_eoi(void);
void pin_destinations(void);
void pin_nmi(void);
void clock_interrupts(void);
void power_registers(void);
