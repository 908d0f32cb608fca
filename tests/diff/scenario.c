// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scenario.c - a random state of the processor and a random sequence of instructions that has a good
 * chance to do something in it: some registers point at data, some hold small numbers.
 */
#include "tests/diff/diff.h"

#include <string.h>

uint64_t roll(struct dice *dice)
{
	/* splitmix64 */
	uint64_t z = dice->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

unsigned roll_below(struct dice *dice, unsigned limit)
{
	return (unsigned)((roll(dice) >> 32) * limit >> 32);
}

bool roll_percent(struct dice *dice, unsigned percent)
{
	return roll_below(dice, 100) < percent;
}

uint64_t roll_integer(struct dice *dice)
{
	static const uint64_t edges[] = {0,
					 1,
					 2,
					 0x7f,
					 0x80,
					 0xff,
					 0x100,
					 0x7fff,
					 0x8000,
					 0xffff,
					 0x10000,
					 0x7fffffff,
					 0x80000000,
					 0xffffffff,
					 0x100000000,
					 0x7fffffffffffffff,
					 0x8000000000000000,
					 ~0ull};

	switch (roll_below(dice, 6)) {
	case 0:
		return edges[roll_below(dice, ARRAY_SIZE(edges))];
	case 1:
		return 0 - edges[roll_below(dice, ARRAY_SIZE(edges))];
	case 2:
		return roll_below(dice, 70);
	case 3:
		return 1ull << roll_below(dice, 64);
	case 4:
		return roll(dice) >> roll_below(dice, 64);
	default:
		return roll(dice);
	}
}

/* --- floating point values ---------------------------------------------------------------------- */

static uint64_t roll_double(struct dice *dice)
{
	static const uint64_t special[] = {0,
					   0x8000000000000000,
					   0x3ff0000000000000,
					   0xbff0000000000000,
					   0x7ff0000000000000,
					   0xfff0000000000000,
					   0x7ff8000000000000,
					   0x7ff0000000000001,
					   0xfff4000000000000,
					   1,
					   0x000fffffffffffff,
					   0x800fffffffffffff,
					   0x0010000000000000,
					   0x7fefffffffffffff,
					   0xffefffffffffffff,
					   0x3fe0000000000000,
					   0x4000000000000000,
					   0x41e0000000000000,
					   0xc1e0000000000000,
					   0x43e0000000000000,
					   0x3ca0000000000000};

	switch (roll_below(dice, 4)) {
	case 0:
		return special[roll_below(dice, ARRAY_SIZE(special))];
	case 1: /* near 1, so that results are exact or not by little */
		return 0x3fe0000000000000 + (roll(dice) >> 10 & ~0ull << roll_below(dice, 54)) +
		       (roll(dice) & 1) * (1ull << 63);
	case 2:
		return (uint64_t)(roll_below(dice, 2046) + 1) << 52 | roll(dice) >> 12 |
		       (roll(dice) & 1) << 63;
	default:
		return roll(dice);
	}
}

static uint32_t roll_float(struct dice *dice)
{
	static const uint32_t special[] = {
	    0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
	    0x7f800001, 0xffa00000, 1,          0x007fffff, 0x807fffff, 0x00800000, 0x7f7fffff,
	    0xff7fffff, 0x3f000000, 0x40000000, 0x4f000000, 0xcf000000, 0x5f000000, 0x33800000};

	switch (roll_below(dice, 4)) {
	case 0:
		return special[roll_below(dice, ARRAY_SIZE(special))];
	case 1:
		return 0x3f000000 + ((uint32_t)roll(dice) >> 7 & ~0u << roll_below(dice, 25)) +
		       ((uint32_t)roll(dice) & 1u) * (1u << 31);
	case 2:
		return (roll_below(dice, 254) + 1) << 23 | (uint32_t)roll(dice) >> 9 |
		       (uint32_t)roll(dice) << 31;
	default:
		return (uint32_t)roll(dice);
	}
}

static void roll_vector(struct dice *dice, uint8_t *to, unsigned size)
{
	unsigned kind = roll_below(dice, 6);

	for (unsigned i = 0; i < size; i += 8) {
		uint64_t v;

		switch (kind) {
		case 0:
			v = roll_double(dice);
			break;
		case 1:
			v = roll_float(dice) | (uint64_t)roll_float(dice) << 32;
			break;
		case 2:
			v = roll_integer(dice);
			break;
		case 3: /* masks of bytes */
			v = 0;
			for (unsigned k = 0; k < 8; k++)
				v |= (uint64_t)(roll_percent(dice, 50) ? 0xff : 0) << (8 * k);
			break;
		case 4: /* characters */
			v = (roll(dice) & 0x0303030303030303) ^
			    (roll_percent(dice, 30) ? 0 : 0x4141414141414141);
			break;
		default:
			v = roll(dice);
			break;
		}
		le64_put(to + i, v);
	}
}

/* An 80-bit value, unnormal ones included. */
static void roll_extended(struct dice *dice, uint8_t *to)
{
	static const uint64_t significands[] = {
	    0, 0x8000000000000000, 0xc000000000000000, 0xa000000000000000,
	    1, 0x7fffffffffffffff, 0xffffffffffffffff, 0x4000000000000000};
	static const uint16_t exponents[] = {0,      1,      0x3fff, 0x3ffe, 0x4000, 0x7ffe, 0x7fff,
					     0x403e, 0x403d, 0x3f80, 0x4080, 0x3c00, 0x4400, 0x3fbf};
	uint64_t significand =
	    roll_percent(dice, 40) ? significands[roll_below(dice, ARRAY_SIZE(significands))] : roll(dice);
	unsigned exponent = roll_percent(dice, 40) ? exponents[roll_below(dice, ARRAY_SIZE(exponents))]
						   : 0x3fff - 40 + roll_below(dice, 120);

	if (exponent && roll_percent(dice, 90))
		significand |= 1ull << 63;
	le64_put(to, significand);
	le16_put(to + 8, (uint16_t)(exponent | (roll_percent(dice, 50) ? 0x8000 : 0)));
}

/* --- state -------------------------------------------------------------------------------------- */

static void roll_x87(struct dice *dice, uint8_t *area)
{
	unsigned control = 0x037f, status, tags;

	if (roll_percent(dice, 40))
		control = (control & ~0xf00u) | roll_below(dice, 16) << 8;
	if (roll_percent(dice, 15))
		control &= ~roll_below(dice, 64);
	status = roll_below(dice, 8) << 11 | (roll_percent(dice, 50) ? roll_below(dice, 8) << 8 : 0);
	if (roll_percent(dice, 20))
		status |= roll_below(dice, 64) & (roll_percent(dice, 80) ? control & 0x3f : 0x3f);
	if (roll_percent(dice, 20))
		status |= roll_percent(dice, 50) ? 0x4000 : 0x40;
	if (status & ~control & 0x3f)
		status |= 0x8080;
	tags = roll_percent(dice, 60) ? 0xff : roll_percent(dice, 50) ? 0 : roll_below(dice, 256);
	memset(area, 0, 160);
	le16_put(area, (uint16_t)control);
	le16_put(area + 2, (uint16_t)status);
	area[4] = (uint8_t)tags;
	for (unsigned i = 0; i < 8; i++)
		roll_extended(dice, area + 32 + 16 * (size_t)i);
}

static uint32_t roll_mxcsr(struct dice *dice)
{
	uint32_t v = 0x1f80;

	if (roll_percent(dice, 30))
		v |= roll_below(dice, 4) << 13;
	if (roll_percent(dice, 20))
		v |= 1u << 6;
	if (roll_percent(dice, 20))
		v |= 1u << 15;
	if (roll_percent(dice, 20))
		v |= roll_below(dice, 64);
	if (roll_percent(dice, 20))
		v &= ~(roll_below(dice, 64) << 7);
	return v;
}

static uint64_t roll_pointer(struct dice *dice)
{
	static const unsigned alignments[] = {1, 2, 4, 8, 16, 16, 16, 32, 64};
	unsigned align = alignments[roll_below(dice, ARRAY_SIZE(alignments))];
	uint64_t p;

	switch (roll_below(dice, 8)) {
	case 0: /* around a page boundary: writable to writable, to read-only, to unmapped, from unmapped */
		p = DATA_LINEAR + (uint64_t)roll_below(dice, DATA_PAGES + 1) * PAGE - 40 +
		    roll_below(dice, 80);
		break;
	case 1: /* the read-only page */
		p = DATA_LINEAR + DATA_SIZE - PAGE + roll_below(dice, PAGE);
		break;
	default:
		p = DATA_LINEAR + 256 + roll_below(dice, 2 * PAGE - 512);
		break;
	}
	return p & ~(uint64_t)(align - 1);
}

static void roll_registers(struct dice *dice, struct cpu *cpu, unsigned *pointers, unsigned *indices)
{
	*pointers = *indices = 0;
	for (unsigned i = 0; i < 16; i++) {
		bool is_string = i == 6 || i == 7, is_count = i == 1;

		if (i == 4 ? roll_percent(dice, 5)
			   : roll_percent(dice, is_string  ? 75
						: is_count ? 10
							   : 40)) {
			cpu->gpr[i] = roll_pointer(dice);
			*pointers |= 1u << i;
		} else if (roll_percent(dice, is_count ? 80 : 40)) {
			cpu->gpr[i] = roll_below(dice, 40);
			*indices |= 1u << i;
		} else {
			cpu->gpr[i] = roll_integer(dice);
		}
	}
	if (!(*pointers & 1u << 4) && roll_percent(dice, 95))
		cpu->gpr[4] =
		    STACK_LINEAR + PAGE +
		    (roll_percent(dice, 90) ? 8 * (uint64_t)roll_below(dice, 16) : roll_below(dice, 64));
}

static void roll_state(struct dice *dice, struct cpu *cpu, unsigned *pointers, unsigned *indices)
{
	memset(cpu, 0, sizeof(*cpu));
	roll_registers(dice, cpu, pointers, indices);
	cpu->rflags = 0x202 | ((roll(dice) & FLAGS_USER) & ~(uint64_t)FLAG_DF);
	if (roll_percent(dice, 20))
		cpu->rflags |= FLAG_DF;
	roll_x87(dice, cpu->area);
	le32_put(cpu->area + 24, roll_mxcsr(dice));
	le32_put(cpu->area + 28, 0xffff);
	for (unsigned i = 0; i < 16; i++) {
		roll_vector(dice, cpu->area + 160 + 16 * (size_t)i, 16);
		roll_vector(dice, cpu->area + AREA_AVX + 16 * (size_t)i, 16);
	}
	le64_put(cpu->area + AREA_HEADER, 7);
}

static void roll_memory(struct dice *dice, uint8_t *memory)
{
	/* One page of each kind of values in turns of 64 bytes, repeated from another place in each page. */
	uint8_t pattern[1024];

	for (unsigned i = 0; i < sizeof(pattern); i += 32)
		roll_vector(dice, pattern + i, 32);
	for (unsigned i = 0; i < MEMORY_SIZE; i += sizeof(pattern))
		memcpy(memory + i, pattern, sizeof(pattern));
	for (unsigned i = 0; i < MEMORY_SIZE; i += PAGE)
		le64_put(memory + i + 8 * (size_t)roll_below(dice, PAGE / 8), roll(dice));
}

/* --- sequences ---------------------------------------------------------------------------------- */

#define INT3 0xccu

static void end_after(struct scenario *s, unsigned count)
{
	unsigned end = s->entry;

	s->count = count;
	if (count)
		end = s->instructions[count - 1].offset + s->instructions[count - 1].length;
	memset(s->code + end, INT3, PAGE - end);
}

void scenario_roll(struct scenario *s, uint64_t seed, unsigned max_instructions, bool narrow)
{
	struct dice dice = {.state = seed * 0x2545f4914f6cdd1dull};
	unsigned pointers, indices, wanted = 1 + roll_below(&dice, max_instructions), offset;

	s->seed = seed;
	s->narrow = narrow;
	roll_state(&dice, &s->start, &pointers, &indices);
	for (unsigned i = 0; narrow && i < 16; i++)
		s->start.gpr[i] = i < 8 ? (uint32_t)s->start.gpr[i] : 0;
	roll_memory(&dice, s->memory);
	memset(s->code, INT3, PAGE);
	s->entry = 256 + 64 * roll_below(&dice, 32) + (roll_percent(&dice, 50) ? roll_below(&dice, 64) : 0);
	offset = s->entry;
	for (s->count = 0; s->count < wanted; s->count++) {
		struct instruction *i = &s->instructions[s->count];

		i->offset = (uint16_t)offset;
		i->length = (uint8_t)encodings_roll(&dice, s->code + offset, CODE_LINEAR + offset, pointers,
						    indices, &i->mnemonic);
		offset += i->length;
	}
	end_after(s, s->count);
	s->start.rip = CODE_LINEAR + s->entry;
}

void scenario_cut(struct scenario *s, unsigned count)
{
	end_after(s, count);
}
