/* SPDX-License-Identifier: GPL-2.0-or-later */
/* host.c - `bulkhead host`, `bulkhead job` and `bulkhead event`. */
#include <string.h>

#include "cli/manage.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static json_int_t number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static int host_show(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	json_t *host, *https;

	(void)argv;
	if (argc > 1)
		return manage_usage(manage, "it takes no arguments");
	if (client_call(manage->client, "GET", "/v1/host", NULL, &host, &err))
		return manage_fail(manage, &err);
	https = json_object_get(host, "https");
	if (!manage->json) {
		printf("%-12s %s\n%-12s %s\n%-12s %lld, %lld of them run\n", "version", text_of(host, "version"), "state",
		       text_of(host, "state"), "machines", (long long)number_of(host, "machines"),
		       (long long)number_of(host, "running"));
		printf("%-12s %s, %s\n", "you", text_of(json_object_get(host, "you"), "name"),
		       text_of(json_object_get(host, "you"), "role"));
		if (https)
			printf("%-12s https://%s\n%-12s %s\n", "https", text_of(https, "listen"), "fingerprint",
			       text_of(https, "fingerprint"));
		printf("%-12s %lld processors, %lld MiB of memory\n", "host", (long long)number_of(host, "processors"),
		       (long long)(number_of(host, "memory") >> 20));
	}
	manage_print_json(manage, host);
	return 0;
}

static int host_stop_machines(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *job = NULL;
	char *end = NULL;
	unsigned long seconds = 120;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c != 't')
			return EXIT_USAGE;
		seconds = strtoul(optarg, &end, 10);
		if (*optarg < '0' || *optarg > '9' || *end || seconds > 86400)
			return manage_usage(manage, "--timeout takes seconds, up to 86400");
	}
	if (optind < argc)
		return manage_usage(manage, "it takes no arguments");
	if (asprintf(&path, "/v1/host/stop-machines?timeout=%lu", seconds) < 0)
		return fail(1, "no memory");
	if (client_job(manage->client, "POST", path, NULL, "stopping", &job, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		puts("the host's machines are off");
	manage_print_json(manage, job);
	return 0;
}

static int host_reload(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	json_t *answer, *key;
	size_t i;

	(void)argv;
	if (argc > 1)
		return manage_usage(manage, "it takes no arguments");
	if (client_call(manage->client, "POST", "/v1/host/reload", NULL, &answer, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		puts("host.json is read anew");
	json_array_foreach(json_object_get(answer, "restart"), i, key)
		if (!manage->json)
			printf("%s is another by now: restart the daemon for that\n", json_string_value(key));
	manage_print_json(manage, answer);
	return 0;
}

static void print_job(struct table *table, const json_t *job)
{
	const json_t *error = json_object_get(job, "error");
	char id[24], started[32];

	snprintf(id, sizeof(id), "%lld", (long long)number_of(job, "id"));
	manage_time_text(number_of(job, "started"), started);
	table_add(table, (const char *const[]){id, text_of(job, "kind"), text_of(job, "vm_name"), text_of(job, "state"), started,
					       text_of(error, "message")});
}

static const char *const job_titles[] = {"ID", "KIND", "MACHINE", "STATE", "STARTED", "ERROR"};

static int job_list(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	struct table *table;
	json_t *page, *job;
	size_t i;

	(void)argv;
	if (argc > 1)
		return manage_usage(manage, "it takes no arguments");
	if (client_call(manage->client, "GET", "/v1/jobs", NULL, &page, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		table = table_new(ARRAY_SIZE(job_titles), job_titles);
		json_array_foreach(json_object_get(page, "jobs"), i, job)
			print_job(table, job);
		table_print(table);
	}
	manage_print_json(manage, json_incref(json_object_get(page, "jobs")));
	json_decref(page);
	return 0;
}

static int one_job(struct manage *manage, int argc, char **argv, const char *method)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	struct table *table;
	json_t *job;

	if (argc != 2)
		return manage_usage(manage, "it takes the number of one job");
	path = client_path(manage->client, "/v1/jobs/%s", argv[1]);
	if (client_call(manage->client, method, path, NULL, &job, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		table = table_new(ARRAY_SIZE(job_titles), job_titles);
		print_job(table, job);
		table_print(table);
	}
	manage_print_json(manage, job);
	return 0;
}

static int job_show(struct manage *manage, int argc, char **argv)
{
	return one_job(manage, argc, argv, "GET");
}

static int job_wait(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *job;

	if (argc != 2)
		return manage_usage(manage, "it takes the number of one job");
	path = client_path(manage->client, "/v1/jobs/%s", argv[1]);
	if (client_job(manage->client, "GET", path, NULL, "waiting", &job, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("job %s is done\n", argv[1]);
	manage_print_json(manage, job);
	return 0;
}

static int job_cancel(struct manage *manage, int argc, char **argv)
{
	return one_job(manage, argc, argv, "DELETE");
}

static int event_list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"TIME", "KIND", "MACHINE", "WHAT"};
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *page, *event;
	struct table *table;
	char time[32];
	size_t i;

	if (argc > 2)
		return manage_usage(manage, "one machine at a time");
	path = argc == 2 ? client_path(manage->client, "/v1/events?vm=%s", argv[1]) : strdup("/v1/events");
	if (client_call(manage->client, "GET", path, NULL, &page, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		table = table_new(ARRAY_SIZE(titles), titles);
		json_array_foreach(json_object_get(page, "events"), i, event)
			table_add(table, (const char *const[]){manage_time_text(number_of(event, "time"), time),
							       text_of(event, "kind"), text_of(event, "vm_name"),
							       text_of(event, "text")});
		table_print(table);
	}
	manage_print_json(manage, json_incref(json_object_get(page, "events")));
	json_decref(page);
	return 0;
}

int command_host(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"show", "this host", "", "What it has and what runs on it.\n", host_show},
	    {"stop-machines", "stop all machines, as for the host's shutdown", "[--timeout SECONDS] " WAITS,
	     "Each does what its automatic stop action says (save, shut down, turn off); what is still on by then (120)\n"
	     "has its power cut. Those that ran, and start if they were running, start when the host or its daemon does.\n",
	     host_stop_machines},
	    {"reload", "have the daemon read host.json anew", "",
	     "Who may do what is from then on as it says: a certificate or a group that is not in there any more has no role. What\n"
	     "it says of HTTPS and of Open vSwitch waits for a restart of the daemon. If it cannot be read, all stays as it was.\n",
	     host_reload},
	    {"token", "who may come in by HTTPS", "create NAME [--role ROLE] [--expires TIME] | list | revoke NAME",
	     "A token is a text that lets whoever has it in. It is printed once, when it is made: keep it in a file that only\n"
	     "you can read, and name that by bulkhead --token-file.\n\n"
	     "  --role viewer|operator|administrator\n"
	     "                         what it is good for (viewer)\n"
	     "  --expires TIME         and for how long, as 30d, 12h, 90m or 3600s (90d)\n",
	     host_token},
	    {0}};

	return manage_run("host", "The host and its daemon.\n", verbs, argc, argv);
}

int command_job(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"list", "the newest jobs", "", "The hundred newest, the newest first.\n", job_list},
	    {"show", "one job", "ID", "How far it is, or how it ended.\n", job_show},
	    {"wait", "wait for its end", "ID " WAITS,
	     "As the command that began it does, which may be interrupted: the job goes on. Fails if the job does.\n", job_wait},
	    {"cancel", "end one that runs", "ID", "What it had made goes.\n", job_cancel},
	    {0}};

	return manage_run("job", "Work that takes its time.\n", verbs, argc, argv);
}

int command_event(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"list", "what happened", "[MACHINE]", "The hundred newest events, of all machines or of one.\n", event_list},
	    {"follow", "what happens, as it happens", "[MACHINE] [--after ID]",
	     "Until it is ended. --after ID begins behind an event, else it begins now. When the daemon is away it goes on\n"
	     "as soon as that is back, and leaves nothing out. With --json each event is a line.\n",
	     event_follow},
	    {0}};

	return manage_run("event", "What happened on this host.\n", verbs, argc, argv);
}
