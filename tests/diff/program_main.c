// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * program_main.c - diff_programs: random programs interpreted and translated.
 *
 * The number of a program replays it: diff_programs --seed N --count 1 --verbose. Exit status 0 when nothing differed.
 */
#include <getopt.h>
#include <string.h>
#include <time.h>

#include "tests/diff/program.h"

#define LEGS 14u

struct settings {
	uint64_t seed, count;
	unsigned failures;
	const char *options[2];
	bool verbose;
};

struct statistics {
	uint64_t programs, legs, failed, late, per_vector[PROGRAM_HALT + 1];
};

static struct program_side *sides[2];
static struct program program;

static int parse(struct settings *s, int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'}, {"count", 1, NULL, 'c'}, {"failures", 1, NULL, 'f'},
	    {"one", 1, NULL, 'a'}, {"other", 1, NULL, 'b'}, {"verbose", 0, NULL, 'v'},
	    {NULL, 0, NULL, 0}};
	int c;

	*s = (struct settings){
	    .seed = 1, .count = 20000, .failures = 5, .options = {"translate=off", "translate=on,threshold=1"}};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			s->seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			s->count = strtoull(optarg, NULL, 0);
			break;
		case 'f':
			s->failures = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'a':
			s->options[0] = optarg;
			break;
		case 'b':
			s->options[1] = optarg;
			break;
		case 'v':
			s->verbose = true;
			break;
		default:
			printf("usage: diff_programs [--seed N] [--count N] [--failures N] [--one SOFT] [--other SOFT] [--verbose]\n");
			return -1;
		}
	}
	return optind == argc ? 0 : -1;
}

static bool is_narrow(uint64_t cs)
{
	return cs == SELECTOR_USER_CODE32 || cs == SELECTOR_KERNEL_CODE32;
}

/* The instructions from `at` on, for a person. */
static void show_code(const uint8_t *code, uint64_t linear, unsigned count, bool narrow)
{
	uint32_t at = (uint32_t)(linear - CODE_LINEAR);

	for (unsigned i = 0; i < count && at < CODE_PAGES * PAGE; i++) {
		ZydisDisassembledInstruction d;

		if (!ZYAN_SUCCESS(ZydisDisassembleIntel(narrow ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LONG_64, CODE_LINEAR + at, code + at,
			CODE_PAGES * PAGE - at, &d))) {
			printf("    %llx ?\n", (unsigned long long)CODE_LINEAR + at);
			return;
		}
		printf("    %llx %s\n", (unsigned long long)CODE_LINEAR + at, d.text);
		at += d.info.length;
	}
}

/* Somewhere in the program, with this or that changed; the same for both sides. */
static void roll_leg(struct leg *leg, struct dice *dice, const struct leg_state *state)
{
	memset(leg, 0, sizeof(*leg));
	leg->rip = CODE_LINEAR + program.units[roll_below(dice, program.unit_count)];
	if (roll_percent(dice, 20))
		leg->rip += ALIAS_LINEAR - CODE_LINEAR;
	leg->flags_clear = 0x14300; /* RF NT IF TF */
	leg->user = !program.kernel || roll_percent(dice, 20);
	/* The same bytes as other code, now and then. */
	leg->narrow = program.narrow && roll_percent(dice, 85);
	leg->rsp = STACK_LINEAR + PAGE + 8 * (uint64_t)roll_below(dice, 64);
	if (state->vector == 1 && roll_percent(dice, 85)) { /* goes on where it was */
		leg->rip = state->rip;
		leg->rsp = state->rsp;
		leg->user = state->cs & 3;
		leg->narrow = is_narrow(state->cs);
		leg->flags_set = 0x10000;
		if (state->rflags & 0x100 && roll_percent(dice, 60))
			leg->flags_clear &= ~0x100ull;
		return;
	}
	if (roll_percent(dice, 8))
		leg->flags_set |= 0x100;
	leg->all_registers = roll_percent(dice, 50);
	for (unsigned i = 0; i < 16; i++)
		leg->gpr[i] = roll_percent(dice, 50) ? program.start.gpr[i] : roll_integer(dice);
}

enum verdict { SAME, DIFFERENT, LATE, UNEVEN /* only one took too long */ };

#define PATIENCE 30u

static enum verdict print_late(const struct settings *settings)
{
	struct leg_state state;

	program_side_state(sides[0], &state);
	if (settings->verbose)
		printf("  too long: --seed %llu --count 1, at %llx\n", (unsigned long long)program.seed, (unsigned long long)state.rip);
	return LATE;
}

static enum verdict run_legs(const struct settings *settings, struct statistics *t, char *text, size_t size)
{
	struct dice dice = {.state = program.seed ^ 0xabcdef};
	struct error err[2] = {{.code = 0}, {.code = 0}};
	struct leg_state state;
	struct leg leg;

	for (unsigned i = 0; i < 2; i++)
		program_side_load(sides[i], &program);
	for (unsigned n = 0; n < LEGS; n++) {
		enum leg_end a = program_side_run(sides[0], &err[0]), b = program_side_run(sides[1], &err[1]);

		if (a == LEG_TIME && b == LEG_TIME)
			return print_late(settings);
		if (a == LEG_TIME || b == LEG_TIME)
			return UNEVEN;
		t->legs++;
		program_side_state(sides[0], &state);
		t->per_vector[state.vector]++;
		if (settings->verbose) {
			printf("  leg %u: vector %u error %llx at %llx\n", n, state.vector, (unsigned long long)state.error,
			    (unsigned long long)state.rip);
			show_code(program.code, state.rip, 3, is_narrow(state.cs));
		}
		if (a != b || program_sides_compare(sides[0], sides[1], text, size)) {
			printf("  in leg %u, which ends with %d and %d; %s; %s\n", n, a, b, err[0].text, err[1].text);
			return DIFFERENT;
		}
		if (a != LEG_EXCEPTION)
			return SAME;
		roll_leg(&leg, &dice, &state);
		if (settings->verbose) {
			printf("  goes on at %llx, level %u, %u bits, flags +%llx -%llx\n", (unsigned long long)leg.rip, leg.user ? 3 : 0, leg.narrow ? 32 : 64,
			    (unsigned long long)leg.flags_set, (unsigned long long)leg.flags_clear);
			show_code(program.code, leg.rip >= ALIAS_LINEAR ? leg.rip - ALIAS_LINEAR + CODE_LINEAR : leg.rip, 24, leg.narrow);
		}
		for (unsigned i = 0; i < 2; i++)
			program_side_next(sides[i], &leg);
	}
	return SAME;
}

/* One that needs about as long as it may is no difference. */
static enum verdict run_patiently(const struct settings *settings, struct statistics *t, char *text, size_t size)
{
	enum verdict verdict;

	for (unsigned i = 0; i < 2; i++)
		program_side_patience(sides[i], PATIENCE);
	verdict = run_legs(settings, t, text, size);
	for (unsigned i = 0; i < 2; i++)
		program_side_patience(sides[i], 1);
	if (verdict != UNEVEN)
		return verdict;
	printf("  only one of them ends within %u s\n", PATIENCE);
	return DIFFERENT;
}

static void run_all(const struct settings *settings, struct statistics *t)
{
	static char text[8192], again[8192];

	for (uint64_t i = 0; i < settings->count && t->failed < settings->failures; i++) {
		uint64_t seed = settings->seed + i;
		enum verdict verdict;

		program_roll(&program, seed, seed & 1, seed & 2);
		text[0] = 0;
		verdict = run_legs(settings, t, text, sizeof(text));
		if (verdict == UNEVEN)
			verdict = run_patiently(settings, t, text, sizeof(text));
		t->programs++;
		t->late += verdict == LATE;
		if (verdict != DIFFERENT)
			continue;
		t->failed++;
		printf("differs: --seed %llu --count 1\n%s", (unsigned long long)seed, text);
		/* Alone, or only after others? */
		if (run_legs(settings, t, again, sizeof(again)) != DIFFERENT)
			printf("  (not when it is run again)\n");
		fflush(stdout);
	}
}

static void print_statistics(const struct statistics *t)
{
	printf("%llu programs, %llu legs, %llu differ, %llu took too long on both sides\n", (unsigned long long)t->programs,
	    (unsigned long long)t->legs, (unsigned long long)t->failed, (unsigned long long)t->late);
	printf("ended by:");
	for (unsigned i = 0; i <= PROGRAM_HALT; i++)
		if (t->per_vector[i])
			printf(" %u: %llu", i, (unsigned long long)t->per_vector[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	static struct statistics statistics;
	struct settings settings;
	struct error err = {.code = 0};

	if (parse(&settings, argc, argv) < 0)
		return 2;
	if (soft_side_open(NULL, &err) < 0 || !encodings_find(true, NULL) || !encodings_find(false, NULL)) {
		fprintf(stderr, "diff_programs: %s\n", err.text);
		return 2;
	}
	soft_side_close();
	for (unsigned i = 0; i < 2; i++) {
		if (program_side_open(&sides[i], settings.options[i], &err) < 0) {
			fprintf(stderr, "diff_programs: %s\n", err.text);
			return 2;
		}
	}
	run_all(&settings, &statistics);
	print_statistics(&statistics);
	for (unsigned i = 0; i < 2; i++)
		program_side_close(sides[i]);
	/* A run in which nothing but time-outs happened shows nothing. */
	return statistics.failed || statistics.late > statistics.programs / 100 + 1 ? 1 : 0;
}
