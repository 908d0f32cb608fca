/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * manage.h - the nouns that the daemon keeps: vm, job, event, host; what their verbs have in common. Private
 * to cli/.
 *
 * --json and --help are taken out of a verb's arguments before it runs. With --json it prints one JSON value;
 * an error is then {"error": {"code": …, "message": …}} on standard output. Exit status: 0 done, 1 failed, 2 the
 * command line was wrong.
 *
 * A verb whose arguments end with WAITS begins a job, by client_job(): --wait and --no-wait are taken out likewise, and
 * obeyed by the client. What is not waited for any more is told by manage_fail(), with status 0 or EXIT_GOES_ON.
 */
#pragma once

#include <getopt.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/client.h"

#define WAITS "[--wait[=SECONDS] | --no-wait]"

struct manage;

struct manage_verb {
	const char *name, *summary, *arguments, *text;
	int (*run)(struct manage *manage, int argc, char **argv); /* returns an exit status */
};

struct manage {
	const char *noun;
	const struct manage_verb *verb;
	struct client *client;
	bool json;
	bool no_wait; /* --no-wait was given */
};

/* Runs the verb that argv[1] names; `verbs` ends with an entry with no name. */
int manage_run(const char *noun, const char *text, const struct manage_verb *verbs, int argc, char **argv);

/* Says what went wrong and returns the exit status. */
int manage_fail(struct manage *manage, const struct error *err);
int manage_usage(struct manage *manage, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* With --json prints `value` and returns true. Takes the reference. */
bool manage_print_json(struct manage *manage, json_t *value);

/* For a list that takes no argument, only --names: names alone, one a line, as completion wants them. False: the command
 * line was wrong, which has been said. */
bool manage_only_names(struct manage *manage, int argc, char **argv, bool *names);
void manage_print_names(const json_t *list);

/* A table for people: cells are copied; widths follow from what is in it. */
struct table;
struct table *table_new(unsigned columns, const char *const *titles);
void table_add(struct table *table, const char *const *cells);
/* Prints and frees it. */
void table_print(struct table *table);
void table_write(struct table *table, FILE *to);

/* For people: what a terminal would obey is shown as "?". */
void manage_put(FILE *to, const char *text);
/* "name         web": the rest of several lines below the first. */
void manage_put_field(const char *name, const char *text);

/* "2026-11-25 21:32:00" of milliseconds since 1970, local time. */
const char *manage_time_text(int64_t milliseconds, char text[32]);

int command_vm(int argc, char **argv);
int command_job(int argc, char **argv);
int command_event(int argc, char **argv);
int command_host(int argc, char **argv);
int command_checkpoint(int argc, char **argv);
int command_library(int argc, char **argv);
int command_switch(int argc, char **argv);

/* follow.c */
int event_follow(struct manage *manage, int argc, char **argv);

/* limits.c */
#define LIMITS_TEXT                                                                                          \
	"Shows or changes it, also while it runs. What is of processors, and --memory-extra, is in force where\n" \
	"the daemon has a control group.\n\n"                                                               \
	"  --processor-weight N   of processor time against other machines, 1 to 10000 (100)\n"               \
	"  --processor-maximum N  percent of its virtual processors, 1 to 100 (100)\n"                        \
	"  --processor-reserve N  percent of them that it can always have, 0 to 100 (0): what machines that\n" \
	"                         run reserve has to be there, else it is not started\n"                      \
	"  --memory-priority N    who comes first of those that start with the host, 0 to 100 (50)\n"         \
	"  --memory-extra SIZE    that its processes may take beyond the guest's memory, or none: no limit, or default: as\n" \
	"                         much as such a machine may need (default)\n"
int vm_limits(struct manage *manage, int argc, char **argv);

/* metering.c */
#define METERING_TEXT                                                                                        \
	"Processor time, memory, disk and network traffic since it was started; and, of one whose resource\n"   \
	"metering is enabled, since that was enabled or reset, over all its runs.\n\n"                        \
	"  --all                  of all machines\n"                                                          \
	"  --enable               an account is kept from now on\n"                                           \
	"  --disable              no more; what was counted is lost\n"                                        \
	"  --reset                it begins anew\n"
int vm_metering(struct manage *manage, int argc, char **argv);

/* token.c */
int host_token(struct manage *manage, int argc, char **argv);

/* vm_inspect.c, vm_top.c: verbs with files of their own. */
int vm_inspect(struct manage *manage, int argc, char **argv);
int vm_top(struct manage *manage, int argc, char **argv);

/* vm_console.c: this terminal becomes the machine's first serial port. */
int manage_console(const char *socket, struct error *err);
