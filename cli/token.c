/* SPDX-License-Identifier: GPL-2.0-or-later */
/* token.c - `bulkhead host token`: who may come in by HTTPS. */
#include <string.h>

#include "cli/manage.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* "30d", "12h", "90m", "3600" seconds. 0: none of these. */
static json_int_t seconds_of(const char *text)
{
	static const char units[] = "smhd";
	static const json_int_t sizes[] = {1, 60, 3600, 86400};
	const char *unit;
	char *end;
	long long n = strtoll(text, &end, 10);

	if (*text < '0' || *text > '9' || n <= 0 || n > 1000000000)
		return 0;
	if (!*end)
		return n;
	unit = strchr(units, *end);
	return unit && !end[1] ? n * sizes[unit - units] : 0;
}

static int token_create(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {
	    {"role", required_argument, NULL, 'r'}, {"expires", required_argument, NULL, 'e'}, {0}};
	const char *role = "viewer";
	json_int_t seconds = 90 * 86400;
	struct error err = {0};
	json_t *token;
	int c;

	optind = 1;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'r')
			role = optarg;
		else if (c == 'e' && !(seconds = seconds_of(optarg)))
			return manage_usage(manage, "--expires: \"%s\" is no time, as 30d, 12h, 90m or 3600s", optarg);
		else if (c == '?')
			return EXIT_USAGE;
	}
	if (optind + 1 != argc)
		return manage_usage(manage, "it takes one name");
	if (client_call(manage->client, "POST", "/v1/tokens",
			json_pack("{s:s, s:s, s:I}", "name", argv[optind], "role", role, "seconds", seconds), &token, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		puts(text_of(token, "token"));
	manage_print_json(manage, token);
	return 0;
}

static int token_list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"NAME", "ROLE", "CREATED", "EXPIRES"};
	struct error err = {0};
	struct table *table;
	json_t *all, *token;
	size_t i;

	(void)argv;
	if (argc > 1)
		return manage_usage(manage, "list takes no arguments");
	if (client_list(manage->client, "/v1/tokens", "tokens", &all, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		table = table_new(ARRAY_SIZE(titles), titles);
		json_array_foreach(all, i, token) {
			char created[32], expires[40];

			manage_time_text(json_integer_value(json_object_get(token, "created")), created);
			manage_time_text(json_integer_value(json_object_get(token, "expires")), expires);
			if (json_is_true(json_object_get(token, "expired")))
				strcat(expires, " (over)");
			table_add(table, (const char *const[]){text_of(token, "name"), text_of(token, "role"), created, expires});
		}
		table_print(table);
	}
	manage_print_json(manage, all);
	return 0;
}

static int token_revoke(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 2)
		return manage_usage(manage, "it takes one name");
	path = client_path(manage->client, "/v1/tokens/%s", argv[1]);
	if (client_call(manage->client, "DELETE", path, NULL, NULL, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is revoked\n", argv[1]);
	manage_print_json(manage, json_object());
	return 0;
}

int host_token(struct manage *manage, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct manage *manage, int argc, char **argv);
	} verbs[] = {{"create", token_create}, {"list", token_list}, {"revoke", token_revoke}};

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name))
			continue;
		argv[1] = argv[0];
		return verbs[i].run(manage, argc - 1, argv + 1);
	}
	return manage_usage(manage, "create, list or revoke");
}
