/* SPDX-License-Identifier: GPL-2.0-or-later */
/* follow.c - `bulkhead event follow`: what happens, as it happens. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cli/manage.h"

#define AGAIN_MILLISECONDS 500

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void print_event(void *context, const char *text)
{
	const struct manage *manage = context;
	json_t *event = json_loads(text, 0, NULL);
	char time[32];

	if (manage->json) {
		json_dumpf(event, stdout, JSON_COMPACT);
	} else {
		printf("%s  ", manage_time_text(json_integer_value(json_object_get(event, "time")), time));
		manage_put(stdout, text_of(event, "kind"));
		fputs("  ", stdout);
		manage_put(stdout, *text_of(event, "vm_name") ? text_of(event, "vm_name") : "-");
		fputs("  ", stdout);
		manage_put(stdout, text_of(event, "text"));
	}
	putchar('\n');
	fflush(stdout);
	json_decref(event);
}

/* When the daemon ends its machines go on, and so does this when it is back: with the event behind the last. */
int event_follow(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"after", required_argument, NULL, 'a'}, {0}};
	const struct timespec again = {0, AGAIN_MILLISECONDS * 1000000l};
	_cleanup_free_ char *path = NULL;
	char last[24] = "";
	struct error err = {0};
	bool connected = false;
	int c, r;

	optind = 1;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (!*optarg || strlen(optarg) >= sizeof(last) || strspn(optarg, "0123456789") != strlen(optarg))
			return manage_usage(manage, "--after: \"%s\" is no event's number", optarg);
		strcpy(last, optarg);
	}
	if (argc - optind > 1)
		return manage_usage(manage, "one machine at a time");
	path = argc > optind ? client_path(manage->client, "/v1/events/stream?vm=%s", argv[optind]) : strdup("/v1/events/stream");
	do {
		r = client_stream(manage->client, path, last, print_event, manage, &connected, &err);
		if (!r || (connected && err.code == ECONNREFUSED)) {
			nanosleep(&again, NULL);
			r = 0;
		}
	} while (!r && !ferror(stdout));
	return ferror(stdout) ? 1 : manage_fail(manage, &err);
}
