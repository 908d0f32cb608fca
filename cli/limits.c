/* SPDX-License-Identifier: GPL-2.0-or-later */
/* limits.c - `bulkhead vm limits`: what a machine may take of the host. */
#include "cli/manage.h"

#include <string.h>

static int take_number(struct manage *manage, json_t *limits, const char *key, unsigned min, unsigned max, const char *text)
{
	unsigned number;

	if (!parse_number(text, max, &number) || number < min)
		return manage_usage(manage, "\"%s\": it may be %u to %u", text, min, max);
	json_object_set_new(limits, key, json_integer(number));
	return 0;
}

static int take_size(struct manage *manage, json_t *limits, const char *text)
{
	struct error err = {0};
	uint64_t bytes = 0;

	if (strcmp(text, "none") && strcmp(text, "default") && parse_size(text, &bytes, &err))
		return manage_usage(manage, "%s", err.text);
	json_object_set_new(limits, "memory_extra", json_integer(strcmp(text, "default") ? (json_int_t)bytes : -1));
	return 0;
}

static int take_options(struct manage *manage, int argc, char **argv, json_t *limits)
{
	static const struct option options[] = {{"processor-weight", required_argument, NULL, 'w'},
						{"processor-maximum", required_argument, NULL, 'm'},
						{"processor-reserve", required_argument, NULL, 'r'},
						{"memory-priority", required_argument, NULL, 'p'},
						{"memory-extra", required_argument, NULL, 'x'},
						{0}};
	int c, status = 0;

	optind = 1;
	while (!status && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'w')
			status = take_number(manage, limits, "processor_weight", 1, 10000, optarg);
		else if (c == 'm')
			status = take_number(manage, limits, "processor_maximum", 1, 100, optarg);
		else if (c == 'r')
			status = take_number(manage, limits, "processor_reserve", 0, 100, optarg);
		else if (c == 'p')
			status = take_number(manage, limits, "memory_priority", 0, 100, optarg);
		else if (c == 'x')
			status = take_size(manage, limits, optarg);
		else
			status = EXIT_USAGE;
	}
	return status ? status : optind + 1 == argc ? 0 : manage_usage(manage, "it takes one machine");
}

static void print_limits(const json_t *vm)
{
	const json_t *limits = json_object_get(json_object_get(vm, "config"), "limits");
	json_int_t extra = json_integer_value(json_object_get(limits, "memory_extra"));
	const char *warning = json_string_value(json_object_get(vm, "limits_problem"));

	printf("%-12s weight %lld, at most %lld %% of its virtual processors, reserve %lld %%\n", "processors",
	       (long long)json_integer_value(json_object_get(limits, "processor_weight")),
	       (long long)json_integer_value(json_object_get(limits, "processor_maximum")),
	       (long long)json_integer_value(json_object_get(limits, "processor_reserve")));
	printf("%-12s priority %lld, ", "memory", (long long)json_integer_value(json_object_get(limits, "memory_priority")));
	if (extra < 0)
		puts("at most what such a machine may need beyond the guest's");
	else if (extra)
		printf("at most %lld MiB beyond the guest's\n", (long long)(extra >> 20));
	else
		puts("not limited");
	if (warning)
		manage_put_field("warning", warning);
}

int vm_limits(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	json_t *limits = json_object(), *vm = NULL;
	struct error err = {0};
	bool change;
	int r, status = take_options(manage, argc, argv, limits);

	change = json_object_size(limits) > 0;
	if (status) {
		json_decref(limits);
		return status;
	}
	path = client_path(manage->client, "/v1/vms/%s", argv[optind]);
	r = client_call(manage->client, change ? "PATCH" : "GET", path, change ? json_pack("{s:O}", "limits", limits) : NULL, &vm,
			&err);
	json_decref(limits);
	if (r)
		return manage_fail(manage, &err);
	if (!manage->json)
		print_limits(vm);
	manage_print_json(manage, vm);
	return 0;
}
