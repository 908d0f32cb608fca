/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli.h - the `bulkhead` command line: a noun or verb, then its options. Private to cli/.
 *
 * Each command gets its own argc and argv (argv[0] is its name) and returns the exit status of the
 * program: 0 done, 1 failed, 2 the command line was wrong, 3 the time of --wait is over; `run` has others (worker.h).
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

#define EXIT_USAGE   2
#define EXIT_GOES_ON 3

/* What the --help of each noun ends with. */
#define STATUS_TEXT "Exit status: 0 done, 1 failed, 2 the command line was wrong"

int command_run(int argc, char **argv);
int command_control(int argc, char **argv);
int command_disk(int argc, char **argv);
int command_image(int argc, char **argv);

/* Runs bulkhead-manage: does not return when that is there. */
int command_manage(int argc, char **argv);

/* What a command and its verbs are called and take, as one line of JSON: manual pages and completion are made from it.
 * `text` is what --help says (of a command with verbs: above their list). Each verb is added by its own call. */
json_t *dump_new(const char *name, const char *text);
void dump_verb(json_t *dump, const char *name, const char *summary, const char *arguments, const char *text);
/* Prints and frees it; returns the exit status. */
int dump_print(json_t *dump);

/* "512M", "4G", "1T", or bytes. */
int parse_size(const char *text, uint64_t *bytes, struct error *err);

/* A decimal number up to `max` and nothing else; false otherwise. */
bool parse_number(const char *text, unsigned max, unsigned *number);

/* Bits in a second, as 100M: the units are those of a thousand; at most RATE_MAX. */
#define RATE_MAX 1000000000000ull
bool parse_rate(const char *text, uint64_t *rate);

/* Print "bulkhead: text" and return `status`. */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
