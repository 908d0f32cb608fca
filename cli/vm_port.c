/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/vm_port.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* ID as in --vlan. */
static bool parse_vlan(const char *text, json_t *vlan, const char *key)
{
	unsigned id;

	return parse_number(text, 4094, &id) && id && !json_object_set_new(vlan, key, json_integer(id));
}

static int set_access(struct manage *manage, json_t *changes, const char *text)
{
	json_t *vlan = json_pack("{s:s}", "mode", strcmp(text, "none") ? "access" : "untagged");

	json_object_set_new(changes, "vlan", vlan);
	if (strcmp(text, "none") && !parse_vlan(text, vlan, "id"))
		return manage_usage(manage, "--vlan %s: a VLAN is a number from 1 to 4094, or none", text);
	return 0;
}

/* "7,9" or "7,9:5", 5 being that of untagged frames. */
static int set_trunk(struct manage *manage, json_t *changes, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char *native = copy ? strchr(copy, ':') : NULL, *rest = NULL;
	json_t *vlan = json_pack("{s:s, s:[]}", "mode", "trunk", "allowed"), *one = json_object();
	bool good = copy;

	json_object_set_new(changes, "vlan", vlan);
	if (native)
		*native++ = '\0';
	if (native)
		good = parse_vlan(native, vlan, "id");
	for (char *word = copy ? strtok_r(copy, ",", &rest) : NULL; good && word; word = strtok_r(NULL, ",", &rest)) {
		good = parse_vlan(word, one, "id");
		json_array_append(json_object_get(vlan, "allowed"), json_object_get(one, "id"));
		json_object_clear(one);
	}
	json_decref(one);
	return good ? 0 : manage_usage(manage, "--trunk %s: write VLANs as 7,9, or as 7,9:5 where untagged frames are of 5", text);
}

/* "isolated:7", "promiscuous:7", "community:7:70". */
static int set_private(struct manage *manage, json_t *changes, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = NULL, *mode = copy ? strtok_r(copy, ":", &rest) : NULL, *id = strtok_r(NULL, ":", &rest), *secondary = strtok_r(NULL, ":", &rest);
	json_t *vlan = json_object();
	bool good = mode && id && (!strcmp(mode, "community") || ((!strcmp(mode, "isolated") || !strcmp(mode, "promiscuous")) && !secondary));

	json_object_set_new(changes, "vlan", vlan);
	if (good)
		json_object_set_new(vlan, "mode", json_string(mode));
	good = good && parse_vlan(id, vlan, "id") && (!secondary || parse_vlan(secondary, vlan, "secondary"));
	return good ? 0 : manage_usage(manage, "--private-vlan %s: write isolated:ID, promiscuous:ID or community:ID:SECONDARY", text);
}

static json_t *bandwidth_of(json_t *changes)
{
	if (!json_object_get(changes, "bandwidth"))
		json_object_set_new(changes, "bandwidth", json_object());
	return json_object_get(changes, "bandwidth");
}

static int set_rate(struct manage *manage, json_t *changes, const char *option, const char *key, const char *text)
{
	uint64_t rate;

	if (!parse_rate(text, &rate))
		return manage_usage(manage, "--%s %s: write bits in a second, at most 1000G, as 100M; 0: %s", option, text, strcmp(key, "minimum") ? "no limit" : "none");
	json_object_set_new(bandwidth_of(changes), key, json_integer((json_int_t)rate));
	return 0;
}

/* A minimum is the one or the other. */
static int set_minimum(struct manage *manage, json_t *changes, const char *text)
{
	json_object_set_new(bandwidth_of(changes), "weight", json_integer(0));
	return set_rate(manage, changes, "minimum", "minimum", text);
}

static int set_weight(struct manage *manage, json_t *changes, const char *text)
{
	unsigned weight;

	if (!parse_number(text, 100, &weight))
		return manage_usage(manage, "--weight %s: a weight is a number from 1 to 100; 0: none", text);
	json_object_set_new(bandwidth_of(changes), "minimum", json_integer(0));
	json_object_set_new(bandwidth_of(changes), "weight", json_integer(weight));
	return 0;
}

static int set_guard(struct manage *manage, json_t *changes, const char *option, const char *key, const char *text)
{
	if (strcmp(text, "yes") && strcmp(text, "no"))
		return manage_usage(manage, "--%s %s: write yes or no", option, text);
	json_object_set_new(changes, key, json_boolean(*text == 'y'));
	return 0;
}

/* "in:deny:10.0.0.0/8"; REMOTE may have colons of its own. */
static int add_acl(struct manage *manage, json_t *changes, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char *action = copy ? strchr(copy, ':') : NULL, *remote = action ? strchr(action + 1, ':') : NULL;

	if (!json_object_get(changes, "acls"))
		json_object_set_new(changes, "acls", json_array());
	if (!strcmp(text, "none"))
		return 0;
	if (!remote)
		return manage_usage(manage, "--acl %s: write in or out, allow, deny or meter, and whom, as in:deny:10.0.0.0/8; or none", text);
	*action++ = '\0';
	*remote++ = '\0';
	return json_array_append_new(json_object_get(changes, "acls"), json_pack("{s:s, s:s, s:s}", "direction", copy, "action", action, "remote", remote))
		   ? manage_usage(manage, "\"%s\" is no UTF-8", text) : 0;
}

int vm_port_option(struct manage *manage, json_t *changes, int option, const char *text)
{
	switch (option) {
	case OPT_VLAN:
		return set_access(manage, changes, text);
	case OPT_TRUNK:
		return set_trunk(manage, changes, text);
	case OPT_PRIVATE_VLAN:
		return set_private(manage, changes, text);
	case OPT_MAXIMUM:
		return set_rate(manage, changes, "maximum", "maximum", text);
	case OPT_MAXIMUM_IN:
		return set_rate(manage, changes, "maximum-in", "maximum_in", text);
	case OPT_MINIMUM:
		return set_minimum(manage, changes, text);
	case OPT_WEIGHT:
		return set_weight(manage, changes, text);
	case OPT_DHCP_GUARD:
		return set_guard(manage, changes, "dhcp-guard", "dhcp_guard", text);
	case OPT_ROUTER_GUARD:
		return set_guard(manage, changes, "router-guard", "router_guard", text);
	case OPT_PROTECTED:
		return set_guard(manage, changes, "protected", "protected", text);
	case OPT_MIRROR:
		return json_object_set_new(changes, "mirror", json_string(text)) ? manage_usage(manage, "\"%s\" is no UTF-8", text) : 0;
	case OPT_ACL:
		return add_acl(manage, changes, text);
	default:
		return EXIT_USAGE;
	}
}

json_t *vm_port_settings(struct manage *manage, const char *name, const char *adapter, const json_t *changes, struct error *err)
{
	json_t *vm, *one, *settings = NULL, *bandwidth;
	size_t i;

	if (vm_get(manage, name, &vm, err))
		return NULL;
	json_array_foreach(json_object_get(json_object_get(vm, "config"), "adapters"), i, one) {
		char place[24];

		snprintf(place, sizeof(place), "%zu", i);
		if (!strcasecmp(vm_text_of(one, "mac"), adapter) || !strcmp(place, adapter))
			settings = json_object_get(one, "settings") ? json_deep_copy(json_object_get(one, "settings")) : json_object();
	}
	/* What was changed meanwhile is not to be undone by what is sent. */
	client_match(manage->client, vm_text_of(vm, "etag"));
	json_decref(vm);
	if (!settings) {
		error_set(err, ENOENT, "machine \"%s\" has no network adapter %s", name, adapter);
		return NULL;
	}
	/* Of the bandwidth what is not told stays as it is. */
	bandwidth = json_incref(json_object_get(settings, "bandwidth"));
	json_object_update(settings, (json_t *)(uintptr_t)changes);
	if (bandwidth && json_object_get(changes, "bandwidth")) {
		json_object_update(bandwidth, json_object_get(changes, "bandwidth"));
		json_object_set(settings, "bandwidth", bandwidth);
	}
	json_decref(bandwidth);
	return settings;
}
