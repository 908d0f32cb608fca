/* SPDX-License-Identifier: GPL-2.0-or-later */
/* metering.c - `bulkhead vm metering`: what machines took of the host, since they were started and since resource metering was enabled. */
#include "cli/manage.h"

#include <errno.h>
#include <string.h>

static double number_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static double mib(const json_t *object, const char *key)
{
	return number_of(object, key) / (1 << 20);
}

/* --- one machine ----------------------------------------------------------------------------------------- */

static void print_run(const json_t *meter)
{
	const json_t *disk = json_object_get(meter, "disk"), *network = json_object_get(meter, "network");

	manage_put_field("state", text_of(meter, "state"));
	if (json_object_get(meter, "cpu_seconds"))
		printf("%-12s %.2f s of processor time, by %.0f virtual processors\n", "processors", number_of(meter, "cpu_seconds"),
		       number_of(meter, "processors"));
	if (json_object_get(meter, "memory_assigned"))
		printf("%-12s %.0f MiB assigned\n", "memory", mib(meter, "memory_assigned"));
	if (json_object_get(meter, "memory_resident"))
		printf("%-12s %.1f MiB in the host's memory\n", "", mib(meter, "memory_resident"));
	if (disk)
		printf("%-12s %.0f requests, %.1f MiB read, %.1f MiB written, %.0f errors\n", "disks", number_of(disk, "requests"),
		       mib(disk, "read_bytes"), mib(disk, "written_bytes"), number_of(disk, "errors"));
	if (network)
		printf("%-12s %.1f MiB in %.0f frames sent, %.1f MiB in %.0f frames received, %.0f frames lost\n", "network",
		       mib(network, "sent_bytes"), number_of(network, "sent_frames"), mib(network, "received_bytes"),
		       number_of(network, "received_frames"), number_of(network, "dropped_frames"));
}

static void print_memory(const char *name, const char *what, const json_t *memory)
{
	printf("%-12s %.1f MiB %s on average", name, mib(memory, "average"), what);
	if (json_object_get(memory, "maximum"))
		printf(", %.1f to %.1f MiB while it ran", mib(memory, "minimum"), mib(memory, "maximum"));
	putchar('\n');
}

static void duration_text(double ms, char text[48])
{
	unsigned long long seconds = (unsigned long long)(ms / 1000);

	if (seconds < 86400)
		snprintf(text, 48, "%llu:%02llu:%02llu", seconds / 3600, seconds / 60 % 60, seconds % 60);
	else
		snprintf(text, 48, "%llu days %02llu:%02llu", seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
}

static void print_disk(const json_t *disk)
{
	printf("%-12s %.1f MiB read, %.1f MiB written, %.2f normalized operations a second on average", "disks", mib(disk, "read_bytes"),
	       mib(disk, "written_bytes"), number_of(disk, "average_normalized_iops"));
	if (json_object_get(disk, "average_latency_us"))
		printf(", %.2f ms each", number_of(disk, "average_latency_us") / 1000);
	putchar('\n');
	if (json_object_get(disk, "allocation"))
		printf("%-12s %.1f MiB may be taken by their files, %.1f MiB are\n", "", mib(disk, "allocation"), mib(disk, "taken"));
}

static void print_network(const json_t *network)
{
	json_t *remote;
	size_t i;

	printf("%-12s %.1f MiB sent, %.1f MiB received\n", "network", mib(network, "sent_bytes"), mib(network, "received_bytes"));
	json_array_foreach(json_object_get(network, "remotes"), i, remote) {
		printf("%-12s %.1f MiB %s ", "", mib(remote, "bytes"), strcmp(text_of(remote, "direction"), "in") ? "to" : "from");
		manage_put(stdout, text_of(remote, "remote"));
		fputs(" by ", stdout);
		manage_put(stdout, text_of(remote, "mac"));
		putchar('\n');
	}
}

static void print_report(const json_t *report)
{
	const json_t *processor = json_object_get(report, "processor"), *memory = json_object_get(report, "memory");
	char since[32], duration[48], ran[48];

	if (!report) {
		puts("\nResource metering is not enabled.");
		return;
	}
	duration_text(number_of(report, "duration_ms"), duration);
	duration_text(number_of(report, "ran_ms"), ran);
	printf("\nMetered since %s, for %s, of which it ran %s:\n", manage_time_text((int64_t)number_of(report, "since"), since), duration, ran);
	printf("%-12s %.2f s, %.2f %% of a processor of the host on average", "processors", number_of(processor, "seconds"),
	       number_of(processor, "average_percent"));
	if (json_object_get(processor, "average_mhz"))
		printf(", %.1f MHz", number_of(processor, "average_mhz"));
	putchar('\n');
	print_memory("memory", "assigned", memory);
	print_memory("", "in the host's memory", json_object_get(memory, "resident"));
	print_disk(json_object_get(report, "disk"));
	print_network(json_object_get(report, "network"));
}

/* --- all --------------------------------------------------------------------------------------------------- */

static void add_row(struct table *table, const json_t *meter)
{
	const json_t *report = json_object_get(meter, "report"), *disk = json_object_get(report, "disk"), *network = json_object_get(report, "network");
	char duration[48] = "-", cpu[32] = "-", memory[32] = "-", iops[32] = "-", disks[64] = "-", traffic[64] = "-";

	if (report) {
		duration_text(number_of(report, "duration_ms"), duration);
		snprintf(cpu, sizeof(cpu), "%.1f %%", number_of(json_object_get(report, "processor"), "average_percent"));
		snprintf(memory, sizeof(memory), "%.0f MiB", mib(json_object_get(report, "memory"), "average"));
		snprintf(iops, sizeof(iops), "%.1f", number_of(disk, "average_normalized_iops"));
		snprintf(disks, sizeof(disks), "%.0f/%.0f MiB", mib(disk, "read_bytes"), mib(disk, "written_bytes"));
		snprintf(traffic, sizeof(traffic), "%.0f/%.0f MiB", mib(network, "received_bytes"), mib(network, "sent_bytes"));
	}
	table_add(table, (const char *const[]){text_of(meter, "name"), text_of(meter, "state"), duration, cpu, memory, iops, disks, traffic});
}

static void print_all(const json_t *list)
{
	static const char *const titles[] = {"NAME", "STATE", "METERED", "CPU", "MEMORY", "IOPS", "READ/WRITTEN", "IN/OUT"};
	struct table *table = table_new(ARRAY_SIZE(titles), titles);
	json_t *meter;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, meter)
		add_row(table, meter);
	table_print(table);
}

/* --- what is asked for ---------------------------------------------------------------------------------------- */

/* `verb` is NULL, or the end of a route's path. */
static int one(struct manage *manage, const char *name, const char *verb, json_t **meter, struct error *err)
{
	_cleanup_free_ char *form = NULL, *path = NULL;

	if (asprintf(&form, "/v1/vms/%%s/metering%s%s", verb ? "/" : "", verb ? verb : "") < 0)
		return error_set(err, ENOMEM, "no memory");
	path = client_path(manage->client, form, name);
	return client_call(manage->client, verb ? "POST" : "GET", path, NULL, meter, err);
}

static int list_all(struct manage *manage, json_t **list, struct error *err)
{
	json_t *page;
	int r = client_call(manage->client, "GET", "/v1/metering", NULL, &page, err);

	if (r)
		return r;
	*list = json_incref(json_object_get(page, "vms"));
	json_decref(page);
	return 0;
}

/* Of those that are gone meanwhile, and, where it is reset, of those without an account, nothing is wanted. */
static int each(struct manage *manage, const char *verb, struct error *err)
{
	json_t *list, *meter;
	int r = list_all(manage, &list, err);
	size_t i;

	if (r)
		return r;
	json_array_foreach(list, i, meter) {
		json_t *answer = NULL;

		if (r || (!json_object_get(meter, "report") && strcmp(verb, "enable")))
			continue;
		r = one(manage, text_of(meter, "id"), verb, &answer, err);
		if (r == -ENOENT)
			r = 0;
		json_decref(answer);
	}
	json_decref(list);
	return r;
}

static int meter_all(struct manage *manage, const char *verb)
{
	struct error err = {0};
	json_t *list;
	int r = verb ? each(manage, verb, &err) : 0;

	if (!r)
		r = list_all(manage, &list, &err);
	if (r)
		return manage_fail(manage, &err);
	if (!manage->json)
		print_all(list);
	manage_print_json(manage, list);
	return 0;
}

static int meter_one(struct manage *manage, const char *name, const char *verb)
{
	struct error err = {0};
	json_t *meter;

	if (one(manage, name, verb, &meter, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		print_run(meter);
		print_report(json_object_get(meter, "report"));
	}
	manage_print_json(manage, meter);
	return 0;
}

int vm_metering(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"all", no_argument, NULL, 'a'},
						{"enable", no_argument, NULL, 'e'},
						{"disable", no_argument, NULL, 'd'},
						{"reset", no_argument, NULL, 'r'},
						{0}};
	const char *verb = NULL;
	bool all = false;
	int c, verbs = 0;

	optind = 1;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		all |= c == 'a';
		verbs += c != 'a';
		if (c != 'a')
			verb = c == 'e' ? "enable" : c == 'd' ? "disable" : "reset";
	}
	if (verbs > 1)
		return manage_usage(manage, "it is one of --enable, --disable and --reset");
	if (optind + !all != argc)
		return manage_usage(manage, "it takes one machine, or --all");
	return all ? meter_all(manage, verb) : meter_one(manage, argv[optind], verb);
}
