/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state_guest.h - a guest of a few pages for tests of saved state: any processor, any mode, no operating
 * system.
 *
 * A test makes a partition (guest_create), puts code and VPs into it, runs it, takes its state and RAM away
 * (guest_take) and gives them to a new partition (guest_give), of the same or of another processor. In
 * between it may change what was taken: that is how a VP gets into a state that cannot be had by waiting for
 * it. All bytes go through partition_save_state() and partition_load_state().
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hypervisor/saved_state.h"

/* 16-, 32- or 64-bit code as bytes `name` to `name##_end`. Absolute addresses are to be written as numbers.
 */
#define STATE_CODE(name, bits, text)                                                                         \
	__asm__(".pushsection .rodata\n.code" #bits "\n.globl " #name "\n.globl " #name "_end\n" #name       \
		":\n" text "\n" #name "_end:\n.code64\n.popsection\n");                                      \
	extern const uint8_t name[], name##_end[]

#define GUEST_RAM    (2ull << 20)
#define GUEST_HIGH   0x100000000ull /* a second region of RAM, one page */
#define GUEST_IDT    0x1000ull
#define GUEST_GDT    0x2000ull
#define GUEST_TSS    0x3000ull
#define GUEST_STACK  0x9000ull /* of VP 0; each further one has its own 0x400 bytes below */
#define GUEST_CODE   0x10000ull
#define GUEST_AREA   0x20000ull /* what code notes; 0x1000 bytes a VP */
#define GUEST_PAGES  0x30000ull /* hypercall, message and reference TSC page: this, and the next two */
#define GUEST_TABLES 0x100000ull

enum guest_mode { GUEST_REAL, GUEST_PROTECTED, GUEST_PAE, GUEST_LONG, GUEST_MODES };

/* Which processor, with what stands after its name on the command line, and whether only with what all have.
 */
struct guest_processor {
	enum processor_kind kind;
	const char *options;
	bool compatibility;
};

/* What guest_take() took. */
struct guest_taken {
	struct saved_partition *state;
	uint8_t *ram, *high;
};

/* Whether there is such a processor here; if not, says why. */
bool guest_is_possible(struct guest_processor processor);

/* RAM with tables for `mode`, nothing in GUEST_CODE. */
struct partition *guest_create(struct guest_processor processor, unsigned vps, enum guest_mode mode);

void guest_put(struct partition *p, gpa_t gpa, const uint8_t *begin, const uint8_t *end);
#define guest_code(p, gpa, name) guest_put(p, gpa, name, name##_end)

/* An interrupt gate of the present mode, for GUEST_PROTECTED to GUEST_LONG. */
void guest_gate(struct partition *p, enum guest_mode mode, unsigned vector, gpa_t handler);

/* The registers with which a VP begins at `rip` in `mode`: flat segments, stack; RDI holds its GUEST_AREA. */
void guest_registers(struct vp_registers *r, unsigned vp, enum guest_mode mode, uint64_t rip);

/* Pause it if it runs, take everything, destroy it. */
void guest_take(struct guest_taken *t, struct partition *p);
void guest_free(struct guest_taken *t);

/* A partition that goes on from there, not started. */
struct partition *guest_give(struct guest_processor processor, const struct guest_taken *t);

/* The same by its parts: the result of loading `bytes`, with no partition left behind after an error. */
int guest_load(struct guest_processor processor, const struct guest_taken *t, const uint8_t *bytes,
	       size_t size, struct partition **out, struct error *err);

/* Not started, all VPs of it in `mode` at GUEST_CODE and running. */
struct partition *guest_create_running(struct guest_processor processor, unsigned vps, enum guest_mode mode,
				       const uint8_t *begin, const uint8_t *end);

uint32_t guest_read32(struct partition *p, gpa_t gpa);
void guest_write32(struct partition *p, gpa_t gpa, uint32_t value);

/* Wait, for a minute at most, until the word is not less than `wanted`. */
void guest_wait(struct partition *p, gpa_t gpa, uint32_t wanted);

/* The error must be `code`, its text one that names `word` (NULL: any). */
void guest_expect_error(int result, int code, const struct error *err, const char *word);
