/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * program.h - the software processor against itself: random programs of many blocks are run interpreted and
 * translated. That the interpreter does what the host CPU does, is for diff.h.
 *
 *	program.c         makes programs from a seed
 *	program_items.c   what they consist of
 *	program_soft.c    runs them on the software processor
 *	program_main.c    the command
 *
 * A program goes in legs: each ends with an exception, after which all state is compared, and the next one begins
 * somewhere else. Every way back (loops, jumps to earlier code, computed jumps) takes from a counter, so a leg ends.
 */
#pragma once

#include "tests/diff/diff.h"

/* Linear. Code pages are writable; page CODE_PAGES is not mapped. The alias shows all code frames in order, so the
 * same code runs there too. DATA_LINEAR and STACK_LINEAR are as in diff.h. */
#define CODE_PAGES   6u
#define CODE_FRAMES  8u /* the last two are other forms of pages 2 and 3 */
#define ALIAS_LINEAR (CODE_LINEAR + 0x20000)
#define AUX_LINEAR   (CODE_LINEAR + 0x30000)
#define TABLE_A      (CODE_LINEAR + 0x31000) /* the page tables of the code, in two address spaces: not the user's */
#define TABLE_B      (CODE_LINEAR + 0x32000)
#define HOLE_LINEAR  (CODE_LINEAR + CODE_PAGES * PAGE)
#define STACK_HIGH   (STACK_LINEAR + (4ull << 30)) /* the first GiB is there once more */

/* In the AUX page. */
#define FUEL_AT    AUX_LINEAR
#define SAVE_AT    (AUX_LINEAR + 8)
#define TARGETS_AT (AUX_LINEAR + 64)
#define TARGETS    16u

#define UNITS_MAX 32u
#define SLOTS_MAX 64u
#define LEG_FUEL  300u

/* Of 32-bit code, and segments that are not flat: the user's, but for the last. */
#define SELECTOR_USER_CODE     0x23u
#define SELECTOR_USER_CODE32   0x3bu
#define SELECTOR_KERNEL_CODE32 0x40u
#define SELECTOR_BASED         0x4bu /* base DATA_LINEAR */
#define SELECTOR_LIMITED       0x53u /* the same up to the middle of the second page */
#define SELECTOR_READ_ONLY     0x5bu
#define SELECTOR_STACK16       0x63u /* base STACK_LINEAR, SP */
#define SELECTOR_DOWN          0x6bu /* all but the first page of 4 GiB */
#define SELECTOR_CODE_BASED    0x73u /* base PAGE */
#define SELECTOR_KERNEL16      0x78u /* SELECTOR_STACK16 at level 0 */

/* Guest physical. */
#define PROGRAM_RAM   0x60000u
#define PROGRAM_PML4A 0x1000u
#define PROGRAM_PML4B 0x11000u
#define PROGRAM_CODE  0x20000u
#define PROGRAM_PTE   7u

/* An instruction that may be written to: MOV of an immediate (4 or 8 bytes at `immediate`) to a register. */
struct slot {
	uint32_t at; /* from CODE_LINEAR */
	uint8_t immediate, size;
};

struct program {
	uint64_t seed;
	bool kernel; /* does what only a kernel may */
	bool narrow; /* 32-bit code */
	bool pcid;
	bool keys;   /* data and stack have protection keys, and it changes PKRU */
	bool tracked; /* dirty pages are: each that changes in a leg must be told */
	bool steady; /* page tables stay: CR3 may be loaded and keep the TLB */
	struct cpu start;
	uint8_t code[CODE_FRAMES * PAGE];
	uint8_t memory[MEMORY_SIZE]; /* data, then stack */
	uint8_t aux[PAGE];
	uint32_t units[UNITS_MAX]; /* where they begin, from CODE_LINEAR */
	unsigned unit_count;
	struct slot slots[SLOTS_MAX];
	unsigned slot_count;
	uint32_t exit;
};

void program_roll(struct program *p, uint64_t seed, bool kernel, bool narrow);

/* --- program_items.c: writes into p->code from `at` on ------------------------------------------ */

struct assembly {
	struct program *p;
	struct dice *dice;
	uint32_t at;
	unsigned pointers, indices; /* registers, as for encodings_roll() */
	struct {
		uint32_t at; /* of a 32-bit distance */
		unsigned unit;
	} fixups[512];
	unsigned fixup_count;
};

/* One thing that goes on behind itself, if it does not fault. */
void assemble_item(struct assembly *a);

/* The end of a unit, which leads to others. */
void assemble_end(struct assembly *a, unsigned unit);

/* Takes one from the counter, keeps flags and registers, and goes to the exit at 0. */
void assemble_fuel(struct assembly *a);

void assemble(struct assembly *a, const void *bytes, unsigned count);
void assemble32(struct assembly *a, uint64_t value);

/* --- the sides ----------------------------------------------------------------------------------- */

struct program_side;

int program_side_open(struct program_side **out, const char *options, struct error *err);
void program_side_close(struct program_side *side);
void program_side_load(struct program_side *side, const struct program *p);

/* Where the next leg begins. */
struct leg {
	uint64_t rip, rsp;
	uint64_t flags_set, flags_clear;
	bool user;
	bool narrow;
	bool all_registers;
	uint64_t gpr[16];
};

enum leg_end { LEG_EXCEPTION, LEG_TIME, LEG_ERROR };

/* The first leg is that of the load. After LEG_TIME or LEG_ERROR the program is over. */
enum leg_end program_side_run(struct program_side *side, struct error *err);
void program_side_next(struct program_side *side, const struct leg *leg);

/* Seconds until LEG_TIME; 1 to begin with. */
void program_side_patience(struct program_side *side, unsigned seconds);

/* The exception that ended the leg, and the state that it found. */
struct leg_state {
	unsigned vector; /* PROGRAM_HALT: HLT and not an exception */
	uint64_t error, rip, rflags, rsp, cs;
};
#define PROGRAM_HALT 256u

void program_side_state(struct program_side *side, struct leg_state *state);

/* Differences, for a person; how many. */
unsigned program_sides_compare(struct program_side *a, struct program_side *b, char *text, size_t size);
