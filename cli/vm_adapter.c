/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_adapter.c - `bulkhead vm adapter`: a machine's network adapters, also while it runs. */
#include <string.h>

#include "cli/vm_port.h"

enum { OPT_NETWORK = 256, OPT_FORWARD, OPT_MAC, OPT_ANY_MAC, OPT_SETTINGS };

static const struct option options[] = {{"network", required_argument, NULL, OPT_NETWORK},
					{"forward", required_argument, NULL, OPT_FORWARD},
					{"mac", required_argument, NULL, OPT_MAC},
					{"any-mac", required_argument, NULL, OPT_ANY_MAC},
					{"settings", required_argument, NULL, OPT_SETTINGS},
					{"vlan", required_argument, NULL, OPT_VLAN},
					{"trunk", required_argument, NULL, OPT_TRUNK},
					{"private-vlan", required_argument, NULL, OPT_PRIVATE_VLAN},
					{"maximum", required_argument, NULL, OPT_MAXIMUM},
					{"maximum-in", required_argument, NULL, OPT_MAXIMUM_IN},
					{"minimum", required_argument, NULL, OPT_MINIMUM},
					{"weight", required_argument, NULL, OPT_WEIGHT},
					{"dhcp-guard", required_argument, NULL, OPT_DHCP_GUARD},
					{"protected", required_argument, NULL, OPT_PROTECTED},
					{"router-guard", required_argument, NULL, OPT_ROUTER_GUARD},
					{"mirror", required_argument, NULL, OPT_MIRROR},
					{"acl", required_argument, NULL, OPT_ACL},
					{NULL, 0, NULL, 0}};

/* --- list --------------------------------------------------------------------------------------------- */

static json_t *addresses_text(const json_t *adapter)
{
	json_t *address, *text = json_string("");
	size_t i;

	json_array_foreach(json_object_get(adapter, "addresses"), i, address) {
		json_t *longer = json_sprintf("%s%s%s", json_string_value(text), i ? " " : "", json_string_value(address));

		json_decref(text);
		text = longer;
	}
	return text;
}

static int list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"", "ADDRESS", "AT", "GUEST'S ADDRESSES"};
	struct error err = {0};
	struct table *table;
	json_t *all, *adapter;
	size_t i;

	if (argc != 1)
		return manage_usage(manage, "list takes one machine");
	all = vm_adapters(manage, argv[0], &err);
	if (!all)
		return manage_fail(manage, &err);
	if (!manage->json && !json_array_size(all))
		puts("no network adapters: bulkhead vm adapter add gives it one");
	table = manage->json || !json_array_size(all) ? NULL : table_new(4, titles);
	json_array_foreach(all, i, adapter) {
		json_t *place = json_sprintf("%zu", i), *at = vm_adapter_place(adapter), *addresses = addresses_text(adapter);

		table_add(table, (const char *const[]){json_string_value(place), vm_text_of(adapter, "mac"), json_string_value(at),
						       json_string_value(addresses)});
		json_decref(place);
		json_decref(at);
		json_decref(addresses);
	}
	if (table)
		table_print(table);
	manage_print_json(manage, all);
	return 0;
}

/* --- changes ------------------------------------------------------------------------------------------ */

static int send_change(struct manage *manage, const char *method, const char *format, char **names, json_t *body, const char *text)
{
	_cleanup_free_ char *path = names[1] ? vm_path(manage, format, names[0], names[1]) : client_path(manage->client, format, names[0]);
	struct error err = {0};

	if (client_job(manage->client, method, path, body, "changing", NULL, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, names[0], text);
}

/* What options say of the port: on their own for a new adapter, else in what it has by now. Takes `changes`. */
static int put_settings(struct manage *manage, char **argv, bool new, json_t *body, json_t *changes)
{
	struct error err = {0};
	json_t *settings = changes;

	if (!json_object_size(changes)) {
		json_decref(changes);
		return 0;
	}
	if (json_object_get(body, "settings")) {
		json_decref(changes);
		return manage_usage(manage, "--settings is all of them: leave the options for single ones out");
	}
	if (!new) {
		settings = vm_port_settings(manage, argv[0], argv[1], changes, &err);
		json_decref(changes);
	}
	if (!settings)
		return manage_fail(manage, &err);
	json_object_set_new(body, "settings", settings);
	return 0;
}

static int add(struct manage *manage, int argc, char **argv, json_t *body, json_t *changes)
{
	int status;

	if (argc != 1) {
		json_decref(body);
		json_decref(changes);
		return manage_usage(manage, "add takes one machine");
	}
	status = put_settings(manage, argv, true, body, changes);
	if (status) {
		json_decref(body);
		return status;
	}
	return send_change(manage, "POST", "/v1/vms/%s/adapters", (char *[]){argv[0], NULL}, body, "has a network adapter more");
}

static int set(struct manage *manage, int argc, char **argv, json_t *body, json_t *changes)
{
	int status;

	if (argc != 2 || (!json_object_size(body) && !json_object_size(changes))) {
		json_decref(body);
		json_decref(changes);
		return manage_usage(manage, argc == 2 ? "what is to change?" : "set takes a machine and an adapter");
	}
	status = put_settings(manage, argv, false, body, changes);
	if (status) {
		json_decref(body);
		return status;
	}
	return send_change(manage, "PATCH", "/v1/vms/%s/adapters/%s", argv, body, "has other settings of a network adapter");
}

static int remove_adapter(struct manage *manage, int argc, char **argv)
{
	if (argc != 2)
		return manage_usage(manage, "remove takes a machine and an adapter");
	return send_change(manage, "DELETE", "/v1/vms/%s/adapters/%s", argv, NULL, "has a network adapter less");
}

static int plug(struct manage *manage, char **argv, const char *what, const char *text)
{
	json_t *body = json_object();
	int status = vm_parse_network(manage, body, what);

	if (status) {
		json_decref(body);
		return status;
	}
	return send_change(manage, "PATCH", "/v1/vms/%s/adapters/%s", argv, body, text);
}

static int connect_adapter(struct manage *manage, int argc, char **argv)
{
	if (argc != 3)
		return manage_usage(manage, "connect takes a machine, an adapter, and nat, tap:NAME or switch:NAME");
	return plug(manage, argv, argv[2], "has an adapter that is connected");
}

static int disconnect(struct manage *manage, int argc, char **argv)
{
	if (argc != 2)
		return manage_usage(manage, "disconnect takes a machine and an adapter");
	return plug(manage, argv, "none", "has an adapter that is disconnected");
}

/* An exit status. */
static int take_option(struct manage *manage, json_t *body, int option)
{
	json_t *forwards = json_object_get(body, "forwards");

	switch (option) {
	case OPT_NETWORK:
		return vm_parse_network(manage, body, optarg);
	case OPT_FORWARD:
		if (!forwards) {
			forwards = json_array();
			json_object_set_new(body, "forwards", forwards);
		}
		if (!strcmp(optarg, "none"))
			return 0;
		return json_array_append_new(forwards, json_string(optarg)) ? manage_usage(manage, "\"%s\" is no UTF-8", optarg) : 0;
	case OPT_MAC:
		return json_object_set_new(body, "mac", json_string(optarg)) ? manage_usage(manage, "\"%s\" is no UTF-8", optarg) : 0;
	case OPT_ANY_MAC:
		if (strcmp(optarg, "yes") && strcmp(optarg, "no"))
			return manage_usage(manage, "--any-mac %s: write yes or no", optarg);
		json_object_set_new(body, "any_mac", json_boolean(*optarg == 'y'));
		return 0;
	case OPT_SETTINGS:
		return json_object_set_new(body, "settings", json_loads(optarg, JSON_REJECT_DUPLICATES, NULL))
			   ? manage_usage(manage, "--settings: \"%s\" is no JSON", optarg) : 0;
	default:
		return EXIT_USAGE;
	}
}

int vm_adapter(struct manage *manage, int argc, char **argv)
{
	json_t *body = json_object(), *changes = json_object();
	int c, status = 0;
	const char *what;

	while (!status && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
		status = c >= OPT_VLAN ? vm_port_option(manage, changes, c, optarg) : take_option(manage, body, c);
	what = optind < argc ? argv[optind] : "";
	argc -= optind + 1;
	argv += optind + 1;
	if (!status && !strcmp(what, "add"))
		return add(manage, argc, argv, body, changes);
	if (!status && !strcmp(what, "set"))
		return set(manage, argc, argv, body, changes);
	if (!status && (json_object_size(body) || json_object_size(changes)))
		status = manage_usage(manage, "options are for add and set");
	json_decref(body);
	json_decref(changes);
	if (status)
		return status;
	if (!strcmp(what, "list"))
		return list(manage, argc, argv);
	if (!strcmp(what, "remove"))
		return remove_adapter(manage, argc, argv);
	if (!strcmp(what, "connect"))
		return connect_adapter(manage, argc, argv);
	if (!strcmp(what, "disconnect"))
		return disconnect(manage, argc, argv);
	return manage_usage(manage, *what ? "\"%s\" is nothing that can be done with adapters" : "what is to be done%s?", what);
}
