/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * diff.h - the software processor against the host CPU: one random user-mode instruction sequence
 * (a scenario) is run by both from the same state, and what they make of it is compared.
 *
 *	scenario.c   makes scenarios from a seed
 *	encodings.c  which instructions there are, and random instances of them
 *	native.c     runs a scenario on the host CPU, in this process
 *	soft_side.c  runs it on the software processor, through soft.h alone
 *	compare.c    what is the same
 *	open.c       what the manuals leave undefined
 *	main.c       the command
 *
 * Both sides see the same linear addresses: a page of code, data that ends in a read-only page with
 * unmapped pages around, and a stack. Everything else is unmapped. 32-bit code runs in compatibility mode at
 * level 3, with flat segments; it does not reach what this process has above 4 GiB.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "base/base.h"

#define PAGE 4096u

#define CODE_LINEAR  0x10000000ull
#define DATA_LINEAR  0x20000000ull
#define STACK_LINEAR 0x30000000ull
#define DATA_PAGES   3u /* the last one read-only */
#define STACK_PAGES  2u
#define DATA_SIZE    (DATA_PAGES * PAGE)
#define STACK_SIZE   (STACK_PAGES * PAGE)
#define MEMORY_SIZE  (DATA_SIZE + STACK_SIZE)

/* An XSAVE area in standard format with x87, SSE and AVX: 512 + 64 + 256 bytes. */
#define AREA_SIZE   832u
#define AREA_HEADER 512u
#define AREA_AVX    576u

#define FLAG_CF    0x001u
#define FLAG_PF    0x004u
#define FLAG_AF    0x010u
#define FLAG_ZF    0x040u
#define FLAG_SF    0x080u
#define FLAG_DF    0x400u
#define FLAG_OF    0x800u
#define FLAGS_USER (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_DF | FLAG_OF)

struct cpu {
	uint64_t gpr[16]; /* in the order of the encoding */
	uint64_t rip, rflags;
	_Alignas(64) uint8_t area[AREA_SIZE];
};

#define SCENARIO_MAX 8u

struct instruction {
	uint16_t offset;
	uint8_t length;
	ZydisMnemonic mnemonic;
};

struct scenario {
	uint64_t seed;
	bool narrow; /* 32-bit code; the registers of `start` then have nothing above 32 bits */
	struct cpu start;
	uint8_t code[PAGE]; /* the sequence at `entry`, int3 everywhere else */
	unsigned entry;
	unsigned count;
	struct instruction instructions[SCENARIO_MAX];
	uint8_t memory[MEMORY_SIZE]; /* data, then stack */
};

/* How a run ended: always by an exception, #BP when it reached the end. */
struct outcome {
	struct cpu cpu;
	unsigned vector;
	uint32_t error;        /* error code, where the vector has one */
	uint64_t cr2;          /* of #PF */
	const uint8_t *memory; /* MEMORY_SIZE bytes of the side that ran; valid until its next run */
};

/* --- random numbers (scenario.c): the same on every machine for a seed --------------------------- */

struct dice {
	uint64_t state;
};

uint64_t roll(struct dice *dice);
unsigned roll_below(struct dice *dice, unsigned limit);
bool roll_percent(struct dice *dice, unsigned percent);

/* Numbers that like edges: 0, -1, extremes of each width, powers of two, small ones. */
uint64_t roll_integer(struct dice *dice);

/* --- encodings.c -------------------------------------------------------------------------------- */

/* Find all encodings of the instruction sets that the software processor offers (after
 * soft_side_open()), in 64-bit code or, `narrow`, in 32-bit code. `only`: a part of the mnemonics, comma
 * separated, or NULL for all. Returns how many mnemonics there are. */
unsigned encodings_find(bool narrow, const char *only);

/* Of which code encodings_roll() rolls from now on: the last that was found, to begin with. */
void encodings_choose(bool narrow);

/* A random instruction, at most 15 bytes; its length. `pointers` and `indices` are masks of general
 * registers that hold addresses of data or small numbers; `rip` is where it will lie. */
unsigned encodings_roll(struct dice *dice, uint8_t *bytes, uint64_t rip, unsigned pointers, unsigned indices,
			ZydisMnemonic *mnemonic);

/* --- scenario.c --------------------------------------------------------------------------------- */

/* Of 64-bit code or, `narrow`, of 32-bit code; encodings_find() has found the same. */
void scenario_roll(struct scenario *s, uint64_t seed, unsigned max_instructions, bool narrow);

/* Only the first `count` instructions. */
void scenario_cut(struct scenario *s, unsigned count);

/* --- the two sides ------------------------------------------------------------------------------ */

/* `narrow`: for 32-bit code. -ENOTSUP: this host runs none. */
int native_open(bool narrow, struct error *err);
void native_run(const struct scenario *s, struct outcome *out);

int soft_side_open(const char *options, struct error *err);
void soft_side_close(void);

/* Whether the software processor offers a CPUID bit: register 0 to 3 of a leaf. */
bool soft_side_has(uint32_t leaf, unsigned reg, unsigned bit);

/* False: the processor stopped with an error; `err` says which. */
bool soft_side_run(const struct scenario *s, struct outcome *out, struct error *err);

/* --- compare.c ---------------------------------------------------------------------------------- */

/* The differences, for a person, into `text`; how many. `last` is the last instruction that ran: what
 * the manual leaves undefined after it is not compared. */
unsigned outcome_compare(const struct scenario *s, const struct instruction *last,
			 const struct outcome *native, const struct outcome *soft, char *text, size_t size);

/* --- open.c ------------------------------------------------------------------------------------- */

/* Where the manuals leave open what the last instruction does, `soft` becomes as `native` is. `last`
 * may be NULL. */
void outcome_settle(const struct scenario *s, const struct instruction *last, const struct outcome *native,
		    struct outcome *soft);

bool host_is_intel(void);

/* --- compare.c, continued ----------------------------------------------------------------------- */

/* The sequence and the start state, for a person. */
void scenario_describe(const struct scenario *s, char *text, size_t size);
