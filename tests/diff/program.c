// SPDX-License-Identifier: GPL-2.0-or-later
/* program.c - a random program: units of some instructions that lead to one another, across pages. */
#include "tests/diff/program.h"

#include <string.h>

/* Not the same as of scenarios, which do not branch: state and memory are theirs, though. */
static void roll_start(struct program *p, struct assembly *a)
{
	static struct scenario scenario;

	encodings_choose(false);
	/* State and data come as for short sequences. */
	scenario_roll(&scenario, p->seed ^ 0x5eed, 1, false);
	p->start = scenario.start;
	memcpy(p->memory, scenario.memory, MEMORY_SIZE);
	encodings_choose(p->narrow);
	p->start.gpr[4] = STACK_LINEAR + PAGE + 8 * (uint64_t)roll_below(a->dice, 64);
	p->start.rflags &= ~(uint64_t)0x200; /* nothing interrupts */
	for (unsigned i = 0; i < (p->narrow ? 8u : 16u); i++) {
		if (p->start.gpr[i] - DATA_LINEAR < DATA_SIZE)
			a->pointers |= 1u << i;
		else if (p->start.gpr[i] < 40)
			a->indices |= 1u << i;
	}
}

/* The next unit begins behind the last one, or so that something of it lies across the end of the page. */
static void choose_place(struct assembly *a)
{
	uint32_t left = PAGE - a->at % PAGE;

	if (roll_percent(a->dice, 30) && left > 40)
		a->at += left - 1 - roll_below(a->dice, 32);
	else if (roll_percent(a->dice, 30))
		a->at += roll_below(a->dice, 48);
	else if (roll_percent(a->dice, 30))
		a->at = (a->at + 63) & ~63u;
}

static void roll_code(struct program *p, struct assembly *a)
{
	memset(p->code, 0x90, sizeof(p->code));
	/* The exit ends a leg. */
	p->exit = 0;
	p->code[0] = 0xcc;
	a->at = 16;
	p->unit_count = 1;
	p->units[0] = a->at;
	for (unsigned u = 0; u < UNITS_MAX; u++) {
		unsigned items = 1 + roll_below(a->dice, 10);
		uint32_t end = a->at;

		if (u)
			choose_place(a);
		/* Room for the longest one. */
		if (a->at > CODE_PAGES * PAGE - 1000) {
			a->at = end;
			break;
		}
		p->units[u] = a->at;
		p->unit_count = u + 1;
		/* What is in the registers depends on where it comes from. */
		a->pointers = a->indices = 0;
		for (unsigned i = 0; i < items; i++)
			assemble_item(a);
		assemble_end(a, u);
	}
	/* The last one leads nowhere. */
	assemble(a, "\xe9", 1);
	assemble32(a, p->exit - (a->at + 4));
	memset(p->code + a->at, 0xcc, CODE_PAGES * PAGE - a->at);
	for (unsigned i = 0; i < a->fixup_count; i++) {
		uint32_t at = a->fixups[i].at;
		unsigned unit = a->fixups[i].unit;

		if (at + 4 <= CODE_PAGES * PAGE)
			le32_put(p->code + at, (unit < p->unit_count ? p->units[unit] : p->exit) - (at + 4));
	}
}

/* Pages 2 and 3 in another form: the same instructions with other immediates. */
static void roll_other_form(struct program *p, struct dice *dice)
{
	memcpy(p->code + 6 * PAGE, p->code + 2 * PAGE, 2 * PAGE);
	for (unsigned i = 0; i < p->slot_count; i++) {
		uint32_t at = p->slots[i].at + p->slots[i].immediate;

		if (at >= 2 * PAGE && at + 4 <= 4 * PAGE)
			le32_put(p->code + 4 * PAGE + at, (uint32_t)roll(dice));
	}
}

static void roll_targets(struct program *p, struct dice *dice)
{
	memset(p->aux, 0, PAGE);
	le32_put(p->aux, LEG_FUEL);
	for (unsigned i = 0; i < TARGETS; i++) {
		uint64_t to = p->units[roll_below(dice, p->unit_count)];

		to += roll_percent(dice, 75) ? CODE_LINEAR : ALIAS_LINEAR;
		/* Into the middle of something. */
		if (roll_percent(dice, 4))
			to += roll_below(dice, 12);
		le64_put(p->aux + (TARGETS_AT - AUX_LINEAR) + 8 * (size_t)i, to);
	}
}

void program_roll(struct program *p, uint64_t seed, bool kernel, bool narrow)
{
	static struct assembly assembly;
	struct dice dice = {.state = seed * 0x9e3779b97f4a7c15ull + 0x1234567};

	memset(p, 0, sizeof(*p));
	memset(&assembly, 0, sizeof(assembly));
	assembly.p = p;
	assembly.dice = &dice;
	p->seed = seed;
	p->kernel = kernel;
	p->narrow = narrow;
	p->pcid = kernel && roll_percent(&dice, 50);
	p->keys = roll_percent(&dice, 40);
	p->tracked = roll_percent(&dice, 30);
	p->steady = p->pcid && roll_percent(&dice, 40);
	roll_start(p, &assembly);
	roll_code(p, &assembly);
	roll_other_form(p, &dice);
	roll_targets(p, &dice);
	p->start.rip = CODE_LINEAR + p->units[0];
}
