/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * soft_machine.h - the smallest world around a software processor, for tests: RAM from 0, ports and
 * pages that note what is written, interrupts on request, tables in fixed places.
 *
 * Guest code is written in assembly beside the test (GUEST_CODE). A handler in the IDT is a single HLT,
 * so a test reads which exception came from RIP and its frame from the stack.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hypervisor/soft/soft.h"

/* 16-, 32- or 64-bit code as bytes `name` to `name##_end`. Absolute addresses are to be written as numbers. */
#define GUEST_CODE(name, bits, text)                                                        \
	__asm__(".pushsection .rodata\n.code" #bits "\n.globl " #name "\n.globl " #name "_end\n" \
	        #name ":\n" text "\n" #name "_end:\n.code64\n.popsection\n");               \
	extern const uint8_t name[], name##_end[]

#define MACHINE_RAM    (64ull << 20)
#define MACHINE_MMIO   0xfed00000ull /* nothing but RAM is RAM */
#define MACHINE_IDT    0x0800ull     /* 8- or 16-byte gates, or 0 for the real-mode table */
#define MACHINE_GDT    0x2000ull
#define MACHINE_TSS    0x3000ull
#define MACHINE_TSS2   0x3100ull
#define MACHINE_STOPS  0x4000ull     /* the handler of vector n: HLT at this + 16 n */
#define MACHINE_TABLES 0x100000ull   /* page tables: 2 MiB pages, one to one, the first 4 GiB */
#define MACHINE_STACK  0x9000ull     /* level 0, from here down */
#define MACHINE_STACK3 0xa000ull     /* level 3 */
#define MACHINE_CODE   0x10000ull

/* Selectors. The TSS takes two entries. */
enum {
	SEL_CODE32 = 0x08, SEL_DATA = 0x10, SEL_CODE64 = 0x18, SEL_CODE16 = 0x20, SEL_DATA16 = 0x28,
	SEL_USER32 = 0x33, SEL_USER_DATA = 0x3b, SEL_USER64 = 0x43, SEL_TSS = 0x48, SEL_TSS2 = 0x58, SEL_FREE = 0x60,
	SEL_LAST = 0x98
};

struct soft_machine {
	struct soft *soft;
	uint8_t *ram;
	uint32_t out[64]; /* written to any port, in order */
	uint16_t out_port[64];
	_Atomic unsigned out_count;
	uint64_t mmio_value, mmio_gpa;
	unsigned mmio_size, mmio_reads, mmio_writes;
	_Atomic int interrupt; /* offered to all VPs until taken; -1: none */
	_Atomic uint64_t tsc;
	uint64_t hypercall_input;
	void (*on_out)(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value);
	void (*on_mmio_write)(struct soft_machine *m, unsigned vp, uint64_t value);
	_Atomic uint64_t cr8;
};

struct soft_machine *soft_machine_create(unsigned vp_count);
void soft_machine_destroy(struct soft_machine *m);

/* Put code at `gpa`. */
void machine_put(struct soft_machine *m, uint64_t gpa, const uint8_t *begin, const uint8_t *end);
#define machine_code(m, gpa, name) machine_put(m, gpa, name, name##_end)

/* A VP in a mode, about to run MACHINE_CODE: flat segments, stack, tables and handlers for all vectors. */
void machine_real(struct soft_machine *m, unsigned vp);
void machine_protected(struct soft_machine *m, unsigned vp); /* 32 bits, no paging */
void machine_long(struct soft_machine *m, unsigned vp);

/* Gates of the present IDT; type and DPL as in the descriptor's bits 40-47 (0x8e, 0xee, 0x85 …). */
void machine_gate32(struct soft_machine *m, unsigned vector, uint8_t access, uint16_t selector, uint32_t offset);
void machine_gate64(struct soft_machine *m, unsigned vector, uint8_t access, uint16_t selector, uint64_t offset,
    unsigned ist);

/* A descriptor from base, limit, access byte and the flags nibble. */
void machine_descriptor(struct soft_machine *m, uint16_t selector, uint32_t base, uint32_t limit, uint8_t access,
    uint8_t flags);

/* The page table entry that maps `linear` as a 4 KiB page: the 2 MiB page is split on the first call. */
uint64_t *machine_pte(struct soft_machine *m, uint64_t linear);

struct vp_registers machine_registers(struct soft_machine *m, unsigned vp);
void machine_set_registers(struct soft_machine *m, unsigned vp, const struct vp_registers *r);

/* Run and expect a HLT; the registers after it. */
struct vp_registers machine_run(struct soft_machine *m, unsigned vp);

/* The vector whose handler stopped, from the registers; -1 for another HLT. */
int machine_vector(const struct vp_registers *r);

uint32_t machine_read32(const struct soft_machine *m, uint64_t gpa);
uint64_t machine_read64(const struct soft_machine *m, uint64_t gpa);
void machine_write32(struct soft_machine *m, uint64_t gpa, uint32_t value);
void machine_write64(struct soft_machine *m, uint64_t gpa, uint64_t value);
