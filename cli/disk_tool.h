/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk_tool.h - what the verbs of `bulkhead disk` have in common: help, --json, progress, interruption.
 *
 * A verb is a constant of its own file, named in the table of disk.c. --help and --json are taken out
 * of its arguments before it runs. With --json it puts what it found into `result`, which is printed when
 * it ends (an error adds "error" and "code"), and it prints nothing itself; otherwise it prints text.
 *
 * Exit status: 0 done; 1 failed; EXIT_USAGE; 128 and the number of the signal when it was interrupted
 * (130 by Ctrl-C, 143 by kill).
 */
#pragma once

#include <getopt.h>
#include <jansson.h>

#include "cli/cli.h"
#include "disk/disk.h"

struct tool;

struct disk_verb {
	const char *name;
	const char *summary;   /* half a line */
	const char *arguments; /* "FILE SIZE [--fixed]" */
	const char *text;      /* the rest of its help: whole lines */
	int (*run)(struct tool *tool, int argc, char **argv); /* returns an exit status */
};

struct tool {
	const struct disk_verb *verb;
	bool json;
	json_t *result; /* an object */
	struct bar {
		struct disk_progress progress;
		const char *label;
		int64_t start, drawn; /* milliseconds */
		bool terminal, shown;
	} bar;
};

extern const struct disk_verb disk_verb_create, disk_verb_info, disk_verb_check, disk_verb_convert, disk_verb_map,
    disk_verb_bench, disk_verb_serve;

extern const struct disk_verb disk_verb_merge, disk_verb_reparent, disk_verb_resize, disk_verb_compact,
    disk_verb_track;

/* What verbs that make images take in common: an entry of their table, the case of their switch and the
 * lines of their help. Options of these letters belong to it. */
#define TOOL_TARGET_OPTIONS                                                                                  \
	{"fixed", no_argument, NULL, 'f'}, {"format", required_argument, NULL, 't'},                         \
	    {"raw", no_argument, NULL, 'r'}, {"block-size", required_argument, NULL, 'b'},                   \
	    {"sector-size", required_argument, NULL, 's'},                                                   \
	{                                                                                                    \
		"physical-sector-size", required_argument, NULL, 'p'                                         \
	}
#define TOOL_TARGET_HELP                                                                                     \
	"  --format " TOOL_FORMATS "        the new file's kind; otherwise its ending says it: .vhdx or\n"      \
	"                               .avhdx; .vhd or .avhd; .raw, .img or .iso; any other: VHDX. --raw is\n" \
	"                               short for --format raw\n"                                              \
	"  --fixed                      all its space is taken from the start\n"                             \
	"  --block-size SIZE            what it grows by: VHDX 1M to 256M (2M; --fixed: 32M), VHD 512K or 2M\n" \
	"  --sector-size 512|4096       the guest's unit\n"                                                  \
	"  --physical-sector-size 512|4096  what the guest is told of the medium\n"
#define TOOL_FORMATS "raw|vhdx|vhd"

/* 0, or an exit status: the option was wrong, and that has been said. */
int tool_target_option(struct tool *tool, int option, struct disk_create_options *o);

/* After the options: where none has said the new file's kind, the ending of its name does, and where that
 * says nothing it is a VHDX, which is told. 0, or an exit status. */
int tool_target_format(struct tool *tool, const char *path, struct disk_create_options *o);

/* Runs a verb: argv[0] is its name. */
int tool_run(const struct disk_verb *verb, int argc, char **argv);

/* For an operation that may take long: shows a bar where standard error is a terminal, and ends the
 * operation between two steps when SIGINT or SIGTERM comes. From here on these signals are caught. The
 * label (a word or two) has to last. The units are bytes, or whatever: only the ratio is shown. */
const struct disk_progress *tool_progress(struct tool *tool, const char *label);

/* Whether a signal has asked for the end, for verbs that wait for something else than a disk operation.
 * Signals are caught from tool_progress() or tool_catch_signals() on. */
void tool_catch_signals(void);
bool tool_interrupted(void);

/* Says what went wrong and returns the exit status: that of the interruption, if it was one. */
int tool_fail(struct tool *tool, const struct error *err);

/* With --json, prints the result now and not at the end: for verbs that others wait for. */
void tool_print_now(struct tool *tool);

/* The command line was wrong. */
int tool_usage(struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For a verb that has no options: false, when there are some, which has been said. */
bool tool_no_options(int argc, char **argv);

/* "raw", "vhdx", …; false: there is none of this name. */
bool tool_parse_format(const char *text, enum disk_format *format);
const char *tool_format_name(enum disk_format format);

/* "1.5 GiB"; returns `text`. */
#define SIZE_TEXT_SIZE 32
const char *tool_size_text(uint64_t bytes, char text[SIZE_TEXT_SIZE]);

/* Numbers past 2^63 do not occur in files. */
static inline json_t *json_bytes(uint64_t value)
{
	return json_integer((json_int_t)value);
}
