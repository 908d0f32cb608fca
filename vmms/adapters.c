/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/adapters.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "switch/nat.h"
#include "switch/ovs_rules.h"
#include "vmms/switches.h"

static const char *mac_of(const json_t *adapter)
{
	return json_string_value(json_object_get(adapter, "mac"));
}

static bool is_mac(const json_t *adapter, const char *mac)
{
	return mac_of(adapter) && !strcasecmp(mac_of(adapter), mac);
}

static bool has_mac(const json_t *config, const char *mac)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter)
		if (is_mac(adapter, mac))
			return true;
	return false;
}

static const struct machine *owner_of(const struct vmms *vmms, const struct machine *but, const char *mac)
{
	for (size_t i = 0; i < vmms->machine_count; i++)
		if (vmms->machines[i] != but && (has_mac(vmms->machines[i]->config, mac) || is_mac(vmms->machines[i]->coming, mac)))
			return vmms->machines[i];
	return NULL;
}

/* Microsoft's range, of which Hyper-V gives addresses to synthetic adapters. */
static void choose(const struct vmms *vmms, const json_t *config, const json_t *before, char mac[18])
{
	struct guid random;

	do {
		guid_random(&random);
		snprintf(mac, 18, "00:15:5d:%02x:%02x:%02x", random.bytes[0], random.bytes[1], random.bytes[2]);
	} while (owner_of(vmms, NULL, mac) || has_mac(config, mac) || has_mac(before, mac));
}

void adapters_complete(struct vmms *vmms, json_t *config, const json_t *before)
{
	const json_t *old = json_object_get(before, "adapters");
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter) {
		const char *kept = mac_of(json_array_get(old, i));
		char mac[18];

		if (!json_is_object(adapter) || json_object_get(adapter, "mac"))
			continue;
		if (!kept || has_mac(config, kept)) {
			choose(vmms, config, before, mac);
			kept = mac;
		}
		json_object_set_new(adapter, "mac", json_string(kept));
	}
}

void adapters_renew(struct vmms *vmms, json_t *config)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter)
		json_object_del(adapter, "mac");
	adapters_complete(vmms, config, NULL);
}

const struct machine *adapters_owner(const struct vmms *vmms, const json_t *config)
{
	const struct machine *owner = NULL;
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter)
		if (!owner)
			owner = owner_of(vmms, NULL, mac_of(adapter));
	return owner;
}

const char *adapter_port(const json_t *adapter)
{
	const char *port = json_string_value(json_object_get(adapter, "port"));

	return port ? port : "nat";
}

const char *adapter_label(const json_t *adapter, char text[ADAPTER_LABEL_SIZE])
{
	const char *port = adapter_port(adapter), *name = NULL;

	if (!strcmp(port, "tap"))
		name = json_string_value(json_object_get(adapter, "interface"));
	else if (!strcmp(port, "switch"))
		name = json_string_value(json_object_get(adapter, "switch"));
	snprintf(text, ADAPTER_LABEL_SIZE, "%s%s%s", port, name ? " " : "", name ? name : "");
	return text;
}

bool adapter_mac(const json_t *adapter, uint8_t mac[6])
{
	const char *text = mac_of(adapter);

	return text && sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) == 6;
}

json_t *adapter_forwards(const json_t *adapter, const json_t *told)
{
	json_t *list = json_array(), *forward;
	size_t i;

	json_array_foreach(json_object_get(adapter, "forwards"), i, forward) {
		json_int_t port = json_integer_value(json_array_get(told, i));
		struct nat_forward parts;

		/* The worker may be anyone's. */
		if (port < 1 || port > UINT16_MAX || nat_forward_parse(&parts, json_string_value(forward), NULL) || !parts.any)
			json_array_append(list, forward);
		else
			json_array_append_new(list, json_sprintf("%s%s:%d:%u", parts.udp ? "udp:" : "", parts.host, (int)port, parts.guest_port));
	}
	return list;
}

/* A key that goes with one kind of port is there with that, and with no other. */
static int check_key(const json_t *adapter, size_t i, const char *kind, const char *key, struct error *err)
{
	bool is = !strcmp(adapter_port(adapter), kind), has = json_object_get(adapter, key);

	if (is == has)
		return 0;
	return error_set(err, EINVAL, is ? "adapters[%zu].%s is missing: port %s needs it" : "adapters[%zu].%s has no meaning but with port %s", i, key,
			 kind);
}

static int check_port(const json_t *adapter, size_t i, struct error *err)
{
	const char *port = adapter_port(adapter);
	char where[48];
	int r = check_key(adapter, i, "tap", "interface", err);

	if (!r)
		r = check_key(adapter, i, "switch", "switch", err);
	if (!r && json_object_get(adapter, "settings")) {
		snprintf(where, sizeof(where), "adapters[%zu].settings.", i);
		r = ovs_settings_check(json_object_get(adapter, "settings"), where, err);
	}
	/* Of one that is not plugged in they wait until it is. */
	if (!r && json_array_size(json_object_get(adapter, "forwards")) && strcmp(port, "nat") && strcmp(port, "none"))
		r = error_set(err, EINVAL, "adapters[%zu].forwards are of the default switch: port %s has none", i, port);
	return r;
}

int adapters_check(struct vmms *vmms, const struct machine *own, const json_t *config, struct error *err)
{
	const json_t *list = json_object_get(config, "adapters");
	json_t *adapter;
	size_t i;

	json_array_foreach(list, i, adapter) {
		const struct machine *other = owner_of(vmms, own, mac_of(adapter));
		int r = check_port(adapter, i, err);

		if (r)
			return r;
		if (other)
			return error_set(err, EEXIST, "adapters[%zu].mac is that of machine \"%s\": leave it out, and it gets one of its own", i,
					 other->name);
		for (size_t k = 0; k < i; k++)
			if (!strcasecmp(mac_of(json_array_get(list, k)), mac_of(adapter)))
				return error_set(err, EEXIST, "adapters[%zu].mac is that of adapters[%zu]", i, k);
	}
	return 0;
}

int adapters_check_promises(struct vmms *vmms, const json_t *config, struct error *err)
{
	json_t *adapter;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter) {
		r = switches_port_check(vmms, adapter, err);
		if (r)
			return error_prefix(err, "adapters[%zu]", i);
	}
	return r;
}
