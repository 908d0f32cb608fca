// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main.c - diff_soft: random instruction sequences on the software processor and on the host CPU.
 *
 * When a sequence differs, its shortest beginning that differs is found and shown; the number of the
 * scenario replays it: diff_soft --seed N --count 1 (with --bits 32, if it was so). Exit status 0 when nothing
 * differed, 77 when the host runs no 32-bit code.
 */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <time.h>

#include "tests/diff/diff.h"

#define SKIPPED 77 /* to Meson */

struct settings {
	uint64_t seed, count;
	unsigned instructions, failures;
	const char *only, *options;
	bool verbose, soft_only, narrow;
};

struct statistics {
	uint64_t ran, failed, per_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1], per_vector[32];
	unsigned mnemonics;
};

static void usage(void)
{
	printf("usage: diff_soft [--seed N] [--count N] [--only MNEMONIC,…] [--instructions 1-8] [--bits 64|32]\n"
	       "                 [--failures N] [--options SOFT] [--verbose] [--soft-only]\n"
	       "  --soft-only: no host CPU and no comparison, for sanitizers, whose memory wild addresses "
	       "would hit\n");
}

static int parse(struct settings *s, int argc, char **argv)
{
	static const struct option options[] = {
	    {"seed", 1, NULL, 's'},         {"count", 1, NULL, 'c'},     {"only", 1, NULL, 'o'},
	    {"instructions", 1, NULL, 'i'}, {"failures", 1, NULL, 'f'},  {"options", 1, NULL, 'p'},
	    {"verbose", 0, NULL, 'v'},      {"soft-only", 0, NULL, 'S'}, {"bits", 1, NULL, 'b'},
	    {NULL, 0, NULL, 0}};
	unsigned long bits = 64;
	int c;

	*s = (struct settings){.seed = 1, .count = 100000, .instructions = SCENARIO_MAX, .failures = 20};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			s->seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			s->count = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			s->only = optarg;
			break;
		case 'i':
			s->instructions = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'f':
			s->failures = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'p':
			s->options = optarg;
			break;
		case 'v':
			s->verbose = true;
			break;
		case 'b':
			bits = strtoul(optarg, NULL, 0);
			break;
		case 'S':
			s->soft_only = true;
			break;
		default:
			usage();
			return -1;
		}
	}
	s->narrow = bits == 32;
	if ((bits != 32 && bits != 64) || s->instructions < 1 || s->instructions > SCENARIO_MAX || optind != argc) {
		usage();
		return -1;
	}
	return 0;
}

/* Runs both sides. Differences, or -1 with the reason in `text`. */
static int run_both(const struct scenario *s, const struct instruction *last, char *text, size_t size,
		    struct outcome *native)
{
	static struct outcome soft;
	struct error err = {.code = 0};

	native_run(s, native);
	if (!soft_side_run(s, &soft, &err)) {
		snprintf(text, size, "  %s\n", err.text);
		return -1;
	}
	return (int)outcome_compare(s, last, native, &soft, text, size);
}

/* The shortest beginning of the sequence that differs. True when the difference is none but in what
 * the manual leaves undefined, in which case nothing after it can be compared. */
static bool minimise(struct scenario *s, char *text, size_t size)
{
	static struct outcome native;
	static struct scenario whole;
	static char first[8192];

	whole = *s;
	snprintf(first, sizeof(first), "%s", text);
	for (unsigned count = 1; count <= whole.count; count++) {
		*s = whole;
		scenario_cut(s, count);
		if (run_both(s, NULL, text, size, &native) != 0)
			return run_both(s, &s->instructions[count - 1], text, size, &native) == 0;
	}
	*s = whole;
	snprintf(text, size, "  (did so once:)\n%.8000s", first);
	return false;
}

static void report(const struct scenario *s, const char *differences)
{
	static char text[8192];

	scenario_describe(s, text, sizeof(text));
	printf("differs: %s, --seed %llu --count 1%s\n%s%s\n",
	       s->count ? ZydisMnemonicGetString(s->instructions[s->count - 1].mnemonic) : "nothing",
	       (unsigned long long)s->seed, s->narrow ? " --bits 32" : "", text, differences);
	fflush(stdout);
}

static void count_coverage(struct statistics *t, const struct scenario *s, const struct outcome *native)
{
	for (unsigned i = 0; i < s->count; i++)
		if (CODE_LINEAR + s->instructions[i].offset <= native->cpu.rip)
			t->per_mnemonic[s->instructions[i].mnemonic]++;
	t->per_vector[native->vector & 31]++;
	t->ran++;
}

static void print_statistics(const struct statistics *t, const struct settings *settings, double seconds)
{
	unsigned covered = 0;

	for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
		covered += t->per_mnemonic[i] != 0;
	printf("%llu sequences in %.1f s, %u of %u mnemonics executed, %llu differ\n",
	       (unsigned long long)t->ran, seconds, covered, t->mnemonics, (unsigned long long)t->failed);
	printf("ended by:");
	for (unsigned i = 0; i < 32; i++)
		if (t->per_vector[i])
			printf(" %u: %llu", i, (unsigned long long)t->per_vector[i]);
	printf("\n");
	for (unsigned i = 0; settings->verbose && i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
		if (t->per_mnemonic[i])
			printf("  %-20s %llu\n", ZydisMnemonicGetString((ZydisMnemonic)i),
			       (unsigned long long)t->per_mnemonic[i]);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Whether it is no difference after all. Where FXSAVE stores the x87 pointers only for exceptions (open.c)
 * they are lost when the kernel lets another thread run between two instructions, so there only what happens
 * again and again counts. */
static bool is_open(struct scenario *s, const struct settings *settings, char *text, size_t size)
{
	static struct outcome native;
	uint64_t seed = s->seed;

	if (minimise(s, text, size))
		return true;
	for (unsigned tries = host_is_intel() ? 0 : 2; tries > 0; tries--) {
		scenario_roll(s, seed, settings->instructions, settings->narrow);
		if (run_both(s, NULL, text, size, &native) == 0 || minimise(s, text, size))
			return true;
	}
	return false;
}

static void run_all(const struct settings *settings, struct statistics *t)
{
	static struct scenario scenario;
	static struct outcome native;
	static char text[8192];

	for (uint64_t i = 0; i < settings->count && t->failed < settings->failures; i++) {
		scenario_roll(&scenario, settings->seed + i, settings->instructions, settings->narrow);
		if (run_both(&scenario, NULL, text, sizeof(text), &native) == 0) {
			count_coverage(t, &scenario, &native);
			continue;
		}
		count_coverage(t, &scenario, &native);
		if (is_open(&scenario, settings, text, sizeof(text)))
			continue;
		t->failed++;
		report(&scenario, text);
	}
}

static void run_soft_only(const struct settings *settings, struct statistics *t)
{
	static struct scenario scenario;
	static struct outcome soft;
	struct error err = {.code = 0};

	for (uint64_t i = 0; i < settings->count && t->failed < settings->failures; i++) {
		scenario_roll(&scenario, settings->seed + i, settings->instructions, settings->narrow);
		if (soft_side_run(&scenario, &soft, &err)) {
			count_coverage(t, &scenario, &soft);
			continue;
		}
		t->failed++;
		report(&scenario, err.text);
	}
}

int main(int argc, char **argv)
{
	static struct statistics statistics;
	struct settings settings;
	struct error err = {.code = 0};
	double start;

	if (parse(&settings, argc, argv) < 0)
		return 2;
	if (!settings.soft_only && native_open(settings.narrow, &err) < 0) {
		fprintf(stderr, "diff_soft: %s\n", err.text);
		return err.code == ENOTSUP ? SKIPPED : 2;
	}
	if (soft_side_open(settings.options, &err) < 0) {
		fprintf(stderr, "diff_soft: %s\n", err.text);
		return 2;
	}
	statistics.mnemonics = encodings_find(settings.narrow, settings.only);
	if (!statistics.mnemonics) {
		fprintf(stderr, "diff_soft: no instruction is called %s.\n", settings.only);
		return 2;
	}
	start = now();
	if (settings.soft_only)
		run_soft_only(&settings, &statistics);
	else
		run_all(&settings, &statistics);
	print_statistics(&statistics, &settings, now() - start);
	soft_side_close();
	return statistics.failed ? 1 : 0;
}
