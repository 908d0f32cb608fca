/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/adapters.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static const char *mac_of(const json_t *adapter)
{
	return json_string_value(json_object_get(adapter, "mac"));
}

static bool has_mac(const json_t *config, const char *mac)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter)
		if (mac_of(adapter) && !strcasecmp(mac_of(adapter), mac))
			return true;
	return false;
}

static const struct machine *owner_of(const struct vmms *vmms, const struct machine *but, const char *mac)
{
	for (size_t i = 0; i < vmms->machine_count; i++)
		if (vmms->machines[i] != but && has_mac(vmms->machines[i]->config, mac))
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

int adapters_check(struct vmms *vmms, const struct machine *own, const json_t *config, struct error *err)
{
	const json_t *list = json_object_get(config, "adapters");
	json_t *adapter;
	size_t i;

	json_array_foreach(list, i, adapter) {
		const struct machine *other = owner_of(vmms, own, mac_of(adapter));

		if (other)
			return error_set(err, EEXIST, "adapters[%zu].mac is that of machine \"%s\": leave it out, and it gets one of its own", i,
					 other->name);
		for (size_t k = 0; k < i; k++)
			if (!strcasecmp(mac_of(json_array_get(list, k)), mac_of(adapter)))
				return error_set(err, EEXIST, "adapters[%zu].mac is that of adapters[%zu]", i, k);
	}
	return 0;
}
