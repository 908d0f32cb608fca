/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_top.c - `bulkhead vm top`: what machines take of the host, by the second. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cli/manage.h"
#include "cli/screen.h"

struct top {
	struct manage *manage;
	json_t *before; /* the list of the last look */
	double time;    /* when that was, in seconds */
	double passed;  /* between it and the one before; 0: there was none */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double number(const json_t *row, const char *key)
{
	return json_number_value(json_object_get(row, key));
}

static const json_t *row_of(const json_t *list, const char *id)
{
	json_t *row;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, row)
		if (!strcmp(json_string_value(json_object_get(row, "id")), id))
			return row;
	return NULL;
}

/* A counter of the machine, or of its disks. NULL: not known. */
static const json_t *counter(const json_t *row, const char *key)
{
	const json_t *own = json_object_get(row, key);

	return own ? own : json_object_get(json_object_get(row, "disk"), key);
}

/* By how much a counter has grown in a second. Negative: that is not known, as of one that began anew. */
static double rate(const struct top *top, const json_t *row, const char *key)
{
	const json_t *old = row_of(top->before, json_string_value(json_object_get(row, "id")));

	if (!top->passed || !counter(row, key) || !counter(old, key))
		return -1;
	return (json_number_value(counter(row, key)) - json_number_value(counter(old, key))) / top->passed;
}

static void rate_text(double rate, char text[32])
{
	static const char *const units[] = {"B/s", "K/s", "M/s", "G/s"};
	unsigned unit = 0;

	for (; rate >= 1000 && unit + 1 < ARRAY_SIZE(units); unit++)
		rate /= 1024;
	if (rate < 0)
		snprintf(text, 32, "-");
	else
		snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", rate, units[unit]);
}

static void uptime_text(const json_t *row, char text[32])
{
	long long seconds = (long long)number(row, "guest_seconds");

	if (!json_object_get(row, "guest_seconds"))
		snprintf(text, 32, "-");
	else if (seconds < 86400)
		snprintf(text, 32, "%lld:%02lld:%02lld", seconds / 3600, seconds / 60 % 60, seconds % 60);
	else
		snprintf(text, 32, "%lld days %02lld:%02lld", seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
}

static void add_row(struct table *table, const struct top *top, const json_t *row)
{
	char cpu[32] = "-", memory[48], reads[32], writes[32], uptime[32];
	double busy = rate(top, row, "cpu_seconds");

	if (busy >= 0)
		snprintf(cpu, sizeof(cpu), "%.0f %%", busy * 100);
	snprintf(memory, sizeof(memory), "%.0f/%.0f MiB", number(row, "memory_resident") / (1 << 20), number(row, "memory_assigned") / (1 << 20));
	rate_text(rate(top, row, "read_bytes"), reads);
	rate_text(rate(top, row, "written_bytes"), writes);
	uptime_text(row, uptime);
	table_add(table, (const char *const[]){json_string_value(json_object_get(row, "name")),
					       json_string_value(json_object_get(row, "state")), cpu, memory, reads, writes, uptime});
}

/* The list takes the place of the one before. */
static int look(struct top *top, json_t **list, struct error *err)
{
	json_t *page;
	int r = client_call(top->manage->client, "GET", "/v1/metering", NULL, &page, err);

	if (r)
		return r;
	*list = json_incref(json_object_get(page, "vms"));
	json_decref(page);
	return 0;
}

static int draw(void *context, FILE *to)
{
	static const char *const titles[] = {"NAME", "STATE", "CPU", "MEMORY", "READ", "WRITTEN", "UP"};
	struct top *top = context;
	struct error err = {0};
	unsigned running = 0;
	struct table *table;
	json_t *list, *row;
	double time;
	size_t i;

	if (look(top, &list, &err)) {
		/* The daemon may be on its way back. */
		manage_put(to, err.text);
		fputc('\n', to);
		return 0;
	}
	time = now();
	top->passed = top->before ? time - top->time : 0;
	table = table_new(ARRAY_SIZE(titles), titles);
	json_array_foreach(list, i, row) {
		if (!json_object_get(row, "cpu_seconds"))
			continue;
		add_row(table, top, row);
		running++;
	}
	fprintf(to, "%u of %zu machines run.  q ends\n\n", running, json_array_size(list));
	table_write(table, to);
	json_decref(top->before);
	top->before = list;
	top->time = time;
	return 0;
}

int vm_top(struct manage *manage, int argc, char **argv)
{
	struct top top = {.manage = manage};
	struct error err = {0};
	json_t *list;
	int status;

	(void)argv;
	if (argc > 1)
		return manage_usage(manage, "it takes no arguments");
	/* An error that is there from the start ends it. */
	if (look(&top, &list, &err))
		return manage_fail(manage, &err);
	if (manage_print_json(manage, list))
		return 0;
	status = screen_run(1, draw, &top, &err);
	json_decref(top.before);
	return status < 0 ? manage_fail(manage, &err) : status;
}
