/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/manage.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

#define WAIT_MAX 86400u

/* Characters are of one byte or, in UTF-8, of several: how many of them are no character but a command, or put those around it elsewhere. */
static size_t control_size(const char *c)
{
	size_t size;
	enum text_kind kind = text_kind(c, &size);

	return kind == TEXT_COMMAND || kind == TEXT_TURNS ? size : 0;
}

void manage_put(FILE *to, const char *text)
{
	for (const char *c = text; *c;) {
		size_t control = control_size(c);

		fputc(control ? '?' : *c, to);
		c += control ? control : 1;
	}
}

void manage_put_field(const char *name, const char *text)
{
	do {
		size_t length = strcspn(text, "\n");
		char *line = strndup(text, length);

		printf("%-12s ", name);
		manage_put(stdout, line ? line : "?");
		putchar('\n');
		free(line);
		name = "";
		text += length;
	} while (*text++);
}

/* Its number on standard output is all that --no-wait prints: for whoever goes on with bulkhead job. */
static int tell_left(struct manage *manage, const struct error *err)
{
	json_t *job = client_left_job(manage->client);

	if (manage->json)
		manage_print_json(manage, json_incref(job));
	else if (manage->no_wait)
		printf("%lld\n", (long long)json_integer_value(json_object_get(job, "id")));
	else
		fprintf(stderr, "bulkhead: %s\n", err->text);
	return manage->no_wait ? 0 : EXIT_GOES_ON;
}

int manage_fail(struct manage *manage, const struct error *err)
{
	json_t *error;

	if (err->code == EINPROGRESS && client_left_job(manage->client))
		return tell_left(manage, err);
	if (!manage->json) {
		fputs("bulkhead: ", stderr);
		manage_put(stderr, err->text);
		fputc('\n', stderr);
		return 1;
	}
	error = json_pack("{s:{s:s, s:s}}", "error", "code",
			  err->code == ECONNREFUSED ? "no-daemon" : client_error_code(manage->client), "message", err->text);
	manage_print_json(manage, error);
	return 1;
}

int manage_usage(struct manage *manage, const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return fail(EXIT_USAGE, "%s; usage: bulkhead %s %s %s", text, manage->noun, manage->verb->name,
		    manage->verb->arguments);
}

bool manage_print_json(struct manage *manage, json_t *value)
{
	if (manage->json) {
		json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		putchar('\n');
	}
	json_decref(value);
	return manage->json;
}

const char *manage_time_text(int64_t milliseconds, char text[32])
{
	time_t seconds = milliseconds / 1000;
	struct tm parts;

	if (!localtime_r(&seconds, &parts) || !strftime(text, 32, "%Y-%m-%d %H:%M:%S", &parts))
		snprintf(text, 32, "?");
	return text;
}

bool manage_only_names(struct manage *manage, int argc, char **argv, bool *names)
{
	*names = argc == 2 && !strcmp(argv[1], "--names");
	if (argc > 1 && !*names)
		manage_usage(manage, "it takes no arguments");
	return argc == 1 || *names;
}

void manage_print_names(const json_t *list)
{
	json_t *entry;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, entry) {
		manage_put(stdout, json_string_value(json_object_get(entry, "name")));
		putchar('\n');
	}
}

/* --- tables ------------------------------------------------------------------------------------------- */

#define TABLE_COLUMNS 16u

struct table {
	unsigned columns;
	size_t rows, room;
	char **cells;
};

struct table *table_new(unsigned columns, const char *const *titles)
{
	struct table *table = columns <= TABLE_COLUMNS ? calloc(1, sizeof(*table)) : NULL;

	if (!table)
		return NULL;
	table->columns = columns;
	table_add(table, titles);
	return table;
}

void table_add(struct table *table, const char *const *cells)
{
	if (!table)
		return;
	if (table->rows == table->room) {
		size_t room = table->room ? table->room * 2 : 32;
		char **more = realloc(table->cells, room * table->columns * sizeof(char *));

		if (!more)
			return;
		table->cells = more;
		table->room = room;
	}
	for (unsigned i = 0; i < table->columns; i++)
		table->cells[table->rows * table->columns + i] = strdup(cells[i]);
	table->rows++;
}

/* Characters, not bytes; nothing that a terminal would obey gets through. */
static size_t print_cell(const char *cell, FILE *to)
{
	size_t width = 0;

	for (const char *c = cell ? cell : "?"; *c;) {
		size_t control = control_size(c);

		width += control || ((unsigned char)*c & 0xc0) != 0x80;
		c += control ? control : 1;
	}
	if (to)
		manage_put(to, cell ? cell : "?");
	return width;
}

static size_t column_width(const struct table *table, unsigned column)
{
	size_t width = 0;

	for (size_t row = 0; row < table->rows; row++) {
		size_t w = print_cell(table->cells[row * table->columns + column], NULL);

		if (w > width)
			width = w;
	}
	return width;
}

void table_write(struct table *table, FILE *to)
{
	size_t widths[TABLE_COLUMNS];

	if (!table)
		return;
	for (unsigned i = 0; i < table->columns; i++)
		widths[i] = column_width(table, i);
	for (size_t row = 0; row < table->rows; row++) {
		for (unsigned i = 0; i < table->columns; i++) {
			size_t width = print_cell(table->cells[row * table->columns + i], to);

			if (i + 1 < table->columns)
				fprintf(to, "%*s", (int)(widths[i] + 2 - width), "");
		}
		fputc('\n', to);
	}
	for (size_t i = 0; i < table->rows * table->columns; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

void table_print(struct table *table)
{
	table_write(table, stdout);
}

/* --- verbs -------------------------------------------------------------------------------------------- */

static void print_usage(const char *noun, const char *text, const struct manage_verb *verbs, FILE *to)
{
	fprintf(to, "Usage: bulkhead %s VERB …\n\n%s\n", noun, text);
	for (; verbs->name; verbs++)
		fprintf(to, "  %-14s %s\n", verbs->name, verbs->summary);
	fprintf(to, "\nbulkhead %s VERB --help tells the rest. With --json a verb prints one JSON value.\n" STATUS_TEXT
		    ", 3 the time of --wait is over.\n", noun);
}

static const char wait_text[] = "\n"
				"  --wait[=SECONDS]       its end is waited for, which is so anyway; so long at most: the status is then 3, and it goes on\n"
				"  --no-wait              it is not: prints the number of the job (with --json the job), for bulkhead job wait\n";

static bool verb_waits(const struct manage_verb *verb)
{
	const char *at = strstr(verb->arguments, WAITS);

	return at && !at[strlen(WAITS)];
}

static char *verb_text(const struct manage_verb *verb)
{
	char *text;

	return asprintf(&text, "%s%s", verb->text, verb_waits(verb) ? wait_text : "") < 0 ? NULL : text;
}

/* False: it is none of the two, or says no time, which *wrong tells. */
static bool take_wait(struct manage *manage, const char *argument, unsigned *seconds, bool *wrong)
{
	if (!verb_waits(manage->verb))
		return false;
	if (!strcmp(argument, "--wait") || !strcmp(argument, "--no-wait")) {
		manage->no_wait = argument[2] == 'n';
		*seconds = manage->no_wait ? 0 : UINT_MAX;
		return true;
	}
	if (strncmp(argument, "--wait=", 7))
		return false;
	manage->no_wait = false;
	*wrong |= !parse_number(argument + 7, WAIT_MAX, seconds) || !*seconds;
	return true;
}

/* *seconds: UINT_MAX, as long as it takes. */
static void take_common(struct manage *manage, int *argc, char **argv, bool *help, unsigned *seconds, bool *wrong)
{
	int kept = 1;

	for (int i = 1; i < *argc; i++) {
		if (take_wait(manage, argv[i], seconds, wrong))
			continue;
		if (!strcmp(argv[i], "--json"))
			manage->json = true;
		else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			*help = true;
		else
			argv[kept++] = argv[i];
	}
	*argc = kept;
	argv[kept] = NULL;
}

static int run_verb(const char *noun, const struct manage_verb *verb, int argc, char **argv)
{
	struct manage manage = {.noun = noun, .verb = verb};
	struct error err = {0};
	_cleanup_free_ char *text = verb_text(verb);
	bool help = false, wrong = false;
	unsigned seconds = UINT_MAX;
	char name[48];
	int status;

	snprintf(name, sizeof(name), "bulkhead: %s %s", noun, verb->name);
	argv[0] = name;
	take_common(&manage, &argc, argv, &help, &seconds, &wrong);
	/* Before a name alone, as scripts write it, "--" says nothing. */
	if (argc == 3 && !strcmp(argv[1], "--") && *argv[2] != '-') {
		argv[1] = argv[2];
		argv[--argc] = NULL;
	}
	if (help) {
		printf("Usage: bulkhead %s %s %s [--json]\n\n%s", noun, verb->name, verb->arguments, text ? text : "");
		return 0;
	}
	if (wrong)
		return manage_usage(&manage, "--wait= takes seconds, 1 to %u", WAIT_MAX);
	if (client_open(&manage.client, NULL, &err))
		return manage_fail(&manage, &err);
	if (seconds != UINT_MAX)
		client_limit(manage.client, seconds);
	status = verb->run(&manage, argc, argv);
	client_close(manage.client);
	if (fflush(stdout) != 0 || ferror(stdout))
		return fail(status ? status : 1, "standard output: %s", strerror(errno));
	return status;
}

static int dump_nouns_verbs(const char *noun, const char *text, const struct manage_verb *verbs)
{
	json_t *dump = dump_new(noun, text);

	for (; verbs->name; verbs++) {
		_cleanup_free_ char *whole = verb_text(verbs);

		dump_verb(dump, verbs->name, verbs->summary, verbs->arguments, whole ? whole : "");
	}
	return dump_print(dump);
}

/* Many write "shutdown" for "shut-down". */
static bool is_nearly(const char *word, const char *verb)
{
	while (*word && *verb) {
		if (*verb == '-')
			verb++;
		if (*word == '-' || *word == '_')
			word++;
		if (*word != *verb)
			return false;
		word++;
		verb++;
	}
	return *word == *verb;
}

int manage_run(const char *noun, const char *text, const struct manage_verb *verbs, int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--dump"))
		return dump_nouns_verbs(noun, text, verbs);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_usage(noun, text, verbs, argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	for (const struct manage_verb *verb = verbs; verb->name; verb++)
		if (!strcmp(argv[1], verb->name))
			return run_verb(noun, verb, argc - 1, argv + 1);
	for (const struct manage_verb *verb = verbs; verb->name; verb++)
		if (is_nearly(argv[1], verb->name))
			return fail(EXIT_USAGE, "there is no \"%s %s\": it is called bulkhead %s %s", noun, argv[1], noun, verb->name);
	return fail(EXIT_USAGE, "there is no \"%s %s\": see bulkhead %s --help", noun, argv[1], noun);
}
