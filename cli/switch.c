/* SPDX-License-Identifier: GPL-2.0-or-later */
/* switch.c - `bulkhead switch`: virtual switches. */
#include <string.h>

#include "cli/manage.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* "eth1, eth2"; what does not fit is left out. */
static const char *joined(const json_t *list, char text[200])
{
	size_t used = 0, i;
	json_t *entry;

	*text = '\0';
	json_array_foreach(list, i, entry) {
		int n = snprintf(text + used, 200 - used, "%s%s", i ? ", " : "", json_string_value(entry));

		if (n < 0 || used + (size_t)n >= 200)
			break;
		used += (size_t)n;
	}
	return text;
}

static void print_members(const json_t *members)
{
	json_t *member;
	size_t i;

	json_array_foreach(members, i, member) {
		char text[100];

		snprintf(text, sizeof(text), "%.20s: link %s%s%s", text_of(member, "name"), json_is_true(json_object_get(member, "link")) ? "up" : "down",
		    json_is_true(json_object_get(member, "active")) ? ", active" : "",
		    !json_object_get(member, "lacp") ? "" : json_is_true(json_object_get(member, "lacp")) ? ", LACP agrees" : ", no LACP partner");
		manage_put_field(i ? "" : "members", text);
	}
}

static void print_switch(const json_t *s)
{
	bool external = !strcmp(text_of(s, "type"), "external");
	char text[200];

	manage_put_field("name", text_of(s, "name"));
	manage_put_field("type", text_of(s, "type"));
	manage_put_field("interface", text_of(s, "interface"));
	if (external) {
		manage_put_field("adapters", joined(json_object_get(s, "adapters"), text));
		manage_put_field("team", text_of(s, "team"));
		manage_put_field("host", json_is_true(json_object_get(s, "host")) ? "uses them too" : "does not use them");
	}
	if (json_array_size(json_object_get(s, "addresses")))
		manage_put_field("addresses", joined(json_object_get(s, "addresses"), text));
	if (json_integer_value(json_object_get(s, "vlan")))
		printf("%-12s %lld (of the host)\n", "vlan", (long long)json_integer_value(json_object_get(s, "vlan")));
	print_members(json_object_get(s, "members"));
	if (json_array_size(json_object_get(s, "vms")))
		manage_put_field("machines", joined(json_object_get(s, "vms"), text));
	if (json_integer_value(json_object_get(s, "bandwidth")))
		printf("%-12s %lld bits in a second (of an adapter)\n", "bandwidth", (long long)json_integer_value(json_object_get(s, "bandwidth")));
	if (*text_of(s, "notes"))
		manage_put_field("notes", text_of(s, "notes"));
	if (*text_of(s, "problem"))
		manage_put_field("problem", text_of(s, "problem"));
}

/* --- verbs ------------------------------------------------------------------------------------------------ */

enum { OPTION_TYPE = 1, OPTION_ADAPTER, OPTION_TEAM, OPTION_NO_HOST, OPTION_VLAN, OPTION_ADDRESS, OPTION_NOTES, OPTION_BANDWIDTH, OPTION_ADD, OPTION_REMOVE, OPTION_MODE };

static const struct option options[] = {{"type", required_argument, NULL, OPTION_TYPE},
					{"adapter", required_argument, NULL, OPTION_ADAPTER},
					{"team", required_argument, NULL, OPTION_TEAM},
					{"no-host", no_argument, NULL, OPTION_NO_HOST},
					{"vlan", required_argument, NULL, OPTION_VLAN},
					{"address", required_argument, NULL, OPTION_ADDRESS},
					{"bandwidth", required_argument, NULL, OPTION_BANDWIDTH},
					{"notes", required_argument, NULL, OPTION_NOTES},
					{0}};

static int is_no_text(struct manage *manage, const char *text)
{
	return manage_usage(manage, "\"%s\" is no UTF-8", text);
}

/* Returns an exit status, -1: go on; as the next. */
static int put_text(struct manage *manage, json_t *body, const char *key, const char *text)
{
	return json_object_set_new(body, key, json_string(text)) ? is_no_text(manage, text) : -1;
}

static int append(struct manage *manage, json_t *body, const char *key, const char *text)
{
	if (!json_object_get(body, key))
		json_object_set_new(body, key, json_array());
	return *text && json_array_append_new(json_object_get(body, key), json_string(text)) ? is_no_text(manage, text) : -1;
}

/* Returns an exit status, -1: go on. */
static int take_option(struct manage *manage, json_t *body, int option)
{
	unsigned vlan;
	uint64_t rate;

	switch (option) {
	case OPTION_TYPE:
		return put_text(manage, body, "type", optarg);
	case OPTION_ADAPTER:
		return append(manage, body, "adapters", optarg);
	case OPTION_TEAM:
		return put_text(manage, body, "team", optarg);
	case OPTION_NO_HOST:
		json_object_set_new(body, "host", json_false());
		return -1;
	case OPTION_VLAN:
		if (!parse_number(optarg, 4094, &vlan))
			return manage_usage(manage, "--vlan: a VLAN is a number from 1 to 4094, 0 is none");
		json_object_set_new(body, "vlan", json_integer(vlan));
		return -1;
	case OPTION_ADDRESS:
		return append(manage, body, "addresses", strcmp(optarg, "none") ? optarg : "");
	case OPTION_BANDWIDTH:
		if (!parse_rate(optarg, &rate))
			return manage_usage(manage, "--bandwidth %s: write bits in a second, at most 1000G, as 100M; 0: what the adapters tell", optarg);
		json_object_set_new(body, "bandwidth", json_integer((json_int_t)rate));
		return -1;
	case OPTION_NOTES:
		return put_text(manage, body, "notes", optarg);
	default:
		return EXIT_USAGE;
	}
}

/* The body of a request from the options, and the only name; NULL: *status is the exit status. */
static json_t *take_options(struct manage *manage, int argc, char **argv, int *status)
{
	json_t *body = json_object();
	int c;

	*status = -1;
	while (*status < 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
		*status = take_option(manage, body, c);
	if (*status < 0 && optind + 1 != argc)
		*status = manage_usage(manage, "it takes one switch");
	if (*status < 0)
		return body;
	json_decref(body);
	return NULL;
}

static int switch_create(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	json_t *body, *made;
	int status;

	body = take_options(manage, argc, argv, &status);
	if (!body)
		return status;
	status = put_text(manage, body, "name", argv[optind]);
	if (status < 0 && !json_object_get(body, "type"))
		status = manage_usage(manage, "--type is missing: external, internal or private");
	if (status >= 0) {
		json_decref(body);
		return status;
	}
	if (client_call(manage->client, "POST", "/v1/switches", body, &made, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is there, its interface is %s\n", argv[optind], text_of(made, "interface"));
	manage_print_json(manage, made);
	return 0;
}

static int switch_list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"NAME", "TYPE", "INTERFACE", "ADAPTERS", "MACHINES"};
	struct error err = {0};
	struct table *table;
	json_t *all, *s;
	bool names;
	size_t i;

	if (!manage_only_names(manage, argc, argv, &names))
		return EXIT_USAGE;
	if (client_list(manage->client, "/v1/switches", "switches", &all, &err))
		return manage_fail(manage, &err);
	if (names) {
		manage_print_names(all);
	} else if (!manage->json) {
		table = table_new(ARRAY_SIZE(titles), titles);
		json_array_foreach(all, i, s) {
			char adapters[200], machines[200];

			table_add(table, (const char *const[]){text_of(s, "name"), text_of(s, "type"), text_of(s, "interface"),
							       joined(json_object_get(s, "adapters"), adapters), joined(json_object_get(s, "vms"), machines)});
		}
		table_print(table);
	}
	manage_print_json(manage, all);
	return 0;
}

static int switch_show(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *s;

	if (argc != 2)
		return manage_usage(manage, "it takes one switch");
	path = client_path(manage->client, "/v1/switches/%s", argv[1]);
	if (client_call(manage->client, "GET", path, NULL, &s, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		print_switch(s);
	manage_print_json(manage, s);
	return 0;
}

static int patch(struct manage *manage, const char *name, json_t *body)
{
	_cleanup_free_ char *path = client_path(manage->client, "/v1/switches/%s", name);
	struct error err = {0};
	json_t *s;

	if (client_call(manage->client, "PATCH", path, body, &s, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		print_switch(s);
	manage_print_json(manage, s);
	return 0;
}

static int switch_set(struct manage *manage, int argc, char **argv)
{
	json_t *body;
	int status;

	body = take_options(manage, argc, argv, &status);
	if (!body)
		return status;
	if (json_object_get(body, "type") || json_object_get(body, "host"))
		status = manage_usage(manage, "what a switch is, and whether the host is on it, is told when it is made");
	else if (!json_object_size(body))
		status = manage_usage(manage, "what is to change?");
	if (status < 0)
		return patch(manage, argv[optind], body);
	json_decref(body);
	return status;
}

/* Takes an adapter out of the list, or puts it at its end. Returns an exit status, -1: go on. */
static int change_list(struct manage *manage, json_t *list, const char *adapter, bool more)
{
	json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
		if (!strcmp(json_string_value(entry), adapter)) {
			if (!more)
				json_array_remove(list, i);
			return -1;
		}
	if (more)
		return json_array_append_new(list, json_string(adapter)) ? is_no_text(manage, adapter) : -1;
	return manage_usage(manage, "--remove %s: it is not in the team", adapter);
}

static int switch_team(struct manage *manage, int argc, char **argv)
{
	static const struct option team_options[] = {
	    {"add", required_argument, NULL, OPTION_ADD}, {"remove", required_argument, NULL, OPTION_REMOVE}, {"mode", required_argument, NULL, OPTION_MODE}, {0}};
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *s, *body, *list;
	int c, status = -1;

	/* The name comes first: what is to change depends on what it has. */
	if (argc < 2 || *argv[1] == '-')
		return manage_usage(manage, "it takes one switch");
	path = client_path(manage->client, "/v1/switches/%s", argv[1]);
	if (client_call(manage->client, "GET", path, NULL, &s, &err))
		return manage_fail(manage, &err);
	list = json_deep_copy(json_object_get(s, "adapters"));
	client_match(manage->client, text_of(s, "etag"));
	json_decref(s);
	body = json_object();
	optind = 2;
	while (status < 0 && (c = getopt_long(argc, argv, "", team_options, NULL)) != -1) {
		if (c == OPTION_ADD || c == OPTION_REMOVE)
			status = change_list(manage, list, optarg, c == OPTION_ADD);
		else if (c == OPTION_MODE)
			status = put_text(manage, body, "team", optarg);
		else
			status = EXIT_USAGE;
	}
	json_object_set_new(body, "adapters", list);
	if (status < 0 && optind < argc)
		status = manage_usage(manage, "it takes one switch");
	else if (status < 0 && argc == 2)
		status = manage_usage(manage, "what is to change?");
	if (status < 0)
		return patch(manage, argv[1], body);
	json_decref(body);
	return status;
}

static int switch_delete(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 2)
		return manage_usage(manage, "it takes one switch");
	path = client_path(manage->client, "/v1/switches/%s", argv[1]);
	if (client_call(manage->client, "DELETE", path, NULL, NULL, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is deleted\n", argv[1]);
	manage_print_json(manage, json_object());
	return 0;
}

#define SETTINGS_TEXT                                                                                        \
	"  --adapter NAME         an adapter of the host; several times: a team\n"                           \
	"  --team MODE            active-backup, balance-slb or lacp (active-backup)\n"                      \
	"  --vlan N               in which VLAN the host is (none)\n"                                        \
	"  --address ADDR/LEN     of the host on an internal switch; several times; or none\n"               \
	"  --bandwidth RATE       bits in a second that an adapter can send, of which machines may be promised parts\n"      \
	"                         (what the adapters tell)\n"                                               \
	"  --notes TEXT           for people\n"

int command_switch(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"create", "make one", "NAME --type external|internal|private [--adapter NAME]… [OPTION …]",
	     "On an external switch machines reach what is behind the host's adapters, as if they were plugged in beside the\n"
	     "host, whose addresses and routes move to the switch's interface; deleting it moves them back. On an internal one\n"
	     "they reach the host and one another, on a private one only one another.\n\n"
	     "  --type TYPE            external, internal or private\n" SETTINGS_TEXT
	     "  --no-host              the host does not use the adapters itself any more\n",
	     switch_create},
	    {"list", "all of them", "[--names]", "--names prints the names alone, one a line.\n", switch_list},
	    {"show", "one of them", "SWITCH", "What it is, and which machines are on it.\n", switch_show},
	    {"set", "change one", "SWITCH [OPTION …]", "Adapters and addresses that are named replace all that there are.\n\n" SETTINGS_TEXT, switch_set},
	    {"team", "change its team of adapters", "SWITCH [--add NAME]… [--remove NAME]… [--mode MODE]",
	     "Adapters come and go while there is traffic.\n\n"
	     "  --add NAME             one adapter of the host more\n"
	     "  --remove NAME          one less\n"
	     "  --mode MODE            active-backup: one at a time; balance-slb: each by where frames come from; lacp:\n"
	     "                         as agreed with the switch at the other end\n",
	     switch_team},
	    {"delete", "delete one", "SWITCH", "No machine may have an adapter on it.\n", switch_delete},
	    {0}};

	return manage_run("switch", "Virtual switches that machines are plugged into.\n", verbs, argc, argv);
}
