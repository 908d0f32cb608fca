/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * metering.c - what the machine did, as its manager is told: counters that begin with this process and never begin anew, whatever
 * the guest does with its adapters and controllers.
 */
#include "worker/metering.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "worker/control.h"

static void add(struct network_counters *to, const struct network_counters *more)
{
	to->sent_frames += more->sent_frames;
	to->sent_bytes += more->sent_bytes;
	to->received_frames += more->received_frames;
	to->received_bytes += more->received_bytes;
}

void vm_keep_meter(struct vm *vm, struct network_meter *meter)
{
	struct network_counters kept;

	network_meter_get_kept(meter, &kept);
	add(&vm->adapters_gone, &kept);
}

/* --- what is told --------------------------------------------------------------------------------------- */

static json_t *disk_counters(struct vm *vm)
{
	struct storage_counters sum = {0};

	for (unsigned i = 0; i < WORKER_MAX_CONTROLLERS; i++) {
		struct storage_counters one = vm->controller_kept[i];

		if (vm->controllers[i])
			storage_get_counters(vm->controllers[i], &one);
		sum.operations += one.operations;
		sum.normalized += one.normalized;
		sum.read_bytes += one.read_bytes;
		sum.written_bytes += one.written_bytes;
		sum.latency_ns += one.latency_ns;
	}
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "operations", (json_int_t)sum.operations, "normalized", (json_int_t)sum.normalized, "read_bytes",
	    (json_int_t)sum.read_bytes, "written_bytes", (json_int_t)sum.written_bytes, "latency_us", (json_int_t)(sum.latency_ns / 1000));
}

static json_t *network_totals(struct vm *vm)
{
	struct network_counters sum = vm->adapters_gone;

	for (unsigned i = 0; i < vm->adapter_count; i++) {
		struct network_counters one;

		network_meter_get_kept(vm->adapters[i].meter, &one);
		add(&sum, &one);
		if (!vm->adapters[i].network)
			continue;
		network_get_counters(vm->adapters[i].network, &one);
		add(&sum, &one);
	}
	return json_pack("{s:I,s:I,s:I,s:I}", "sent_frames", (json_int_t)sum.sent_frames, "sent_bytes", (json_int_t)sum.sent_bytes,
	    "received_frames", (json_int_t)sum.received_frames, "received_bytes", (json_int_t)sum.received_bytes);
}

/* What the hard disks may grow to, and what their files have of the host's file systems by now, with all that they continue. */
static json_t *allocation(struct vm *vm)
{
	uint64_t size = 0, taken = 0;

	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		const struct vm_disk *d = &vm->disks[i];
		struct disk_info info;

		if (!d->used || !d->disk || d->config.dvd)
			continue;
		disk_get_info(d->disk, &info);
		size += info.size;
		/* Files come and go under a disk that is being merged. */
		for (const struct disk *one = d == vm->kept ? NULL : d->disk; one; one = disk_parent(one)) {
			disk_get_info(one, &info);
			taken += info.file_size;
		}
		if (d == vm->kept) {
			json_t *file;
			size_t k;

			json_array_foreach(vm->kept_chain, k, file)
				taken += (uint64_t)json_integer_value(json_object_get(file, "file_size"));
		}
	}
	return json_pack("{s:I,s:I}", "size", (json_int_t)size, "taken", (json_int_t)taken);
}

static json_t *mac_text(const uint8_t *mac)
{
	return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static json_t *remote_text(const struct network_meter_rule *rule)
{
	char text[INET6_ADDRSTRLEN];

	if (rule->kind == NETWORK_REMOTE_ANY)
		return json_string("any");
	if (rule->kind == NETWORK_REMOTE_MAC)
		return mac_text(rule->address);
	inet_ntop(rule->kind == NETWORK_REMOTE_IPV6 ? AF_INET6 : AF_INET, rule->address, text, sizeof(text));
	return json_sprintf("%s/%u", text, rule->length);
}

static json_t *remotes(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->adapter_count; i++) {
		struct network_meter_rule rules[NETWORK_METER_RULES];
		unsigned count = network_meter_get(vm->adapters[i].meter, rules);

		for (unsigned k = 0; k < count; k++)
			json_array_append_new(list, json_pack("{s:o,s:s,s:o,s:I}", "mac", mac_text(vm->adapters[i].config.mac), "direction",
							rules[k].inbound ? "in" : "out", "remote", remote_text(&rules[k]), "bytes",
							(json_int_t)rules[k].bytes));
	}
	return list;
}

json_t *vm_metering(struct vm *vm)
{
	char run[GUID_TEXT_SIZE];

	guid_format(&vm->run, run);
	return json_pack("{s:s,s:o,s:o,s:o,s:o}", "run", run, "disk", disk_counters(vm), "network", network_totals(vm), "remotes", remotes(vm),
	    "allocation", allocation(vm));
}

/* --- what is to be told ---------------------------------------------------------------------------------- */

/* Also one of a group. */
static bool parse_mac(const char *text, uint8_t *mac)
{
	unsigned byte[FRAME_MAC_SIZE];
	char rest;

	if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5], &rest) != 6)
		return false;
	for (unsigned i = 0; i < FRAME_MAC_SIZE; i++)
		mac[i] = (uint8_t)byte[i];
	return true;
}

/* "any", an address of an adapter, or ADDRESS/LENGTH. */
static bool parse_remote(const char *text, struct network_meter_rule *rule)
{
	char host[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	unsigned max;

	rule->kind = NETWORK_REMOTE_ANY;
	if (!strcmp(text, "any"))
		return true;
	rule->kind = NETWORK_REMOTE_MAC;
	if (parse_mac(text, rule->address))
		return true;
	if (!slash || (size_t)(slash - text) >= sizeof(host))
		return false;
	snprintf(host, sizeof(host), "%.*s", (int)(slash - text), text);
	rule->kind = strchr(host, ':') ? NETWORK_REMOTE_IPV6 : NETWORK_REMOTE_IPV4;
	max = rule->kind == NETWORK_REMOTE_IPV6 ? 128 : 32;
	return sscanf(slash + 1, "%u", &rule->length) == 1 && rule->length <= max &&
	       inet_pton(rule->kind == NETWORK_REMOTE_IPV6 ? AF_INET6 : AF_INET, host, rule->address) == 1;
}

static int set_rules(struct network_meter *meter, const json_t *list, struct error *err)
{
	struct network_meter_rule rules[NETWORK_METER_RULES];
	json_t *one;
	size_t i;

	if (json_array_size(list) > NETWORK_METER_RULES)
		return error_set(err, EINVAL, "an adapter has at most %u rules", NETWORK_METER_RULES);
	json_array_foreach((json_t *)(uintptr_t)list, i, one) {
		const char *direction = json_string_value(json_object_get(one, "direction")), *remote = json_string_value(json_object_get(one, "remote"));

		rules[i] = (struct network_meter_rule){.inbound = direction && !strcmp(direction, "in")};
		if (!direction || !remote || !parse_remote(remote, &rules[i]))
			return error_set(err, EINVAL, "a rule has a \"direction\" and a \"remote\": any, an adapter's address, or ADDRESS/LENGTH");
	}
	return network_meter_set(meter, rules, (unsigned)json_array_size(list)) ? error_set(err, ENOMEM, "no memory for rules") : 0;
}

static const json_t *rules_of(const json_t *adapters, const uint8_t *mac)
{
	uint8_t other[FRAME_MAC_SIZE];
	json_t *one;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)adapters, i, one) {
		const char *text = json_string_value(json_object_get(one, "mac"));

		if (text && parse_mac(text, other) && !memcmp(other, mac, sizeof(other)))
			return json_object_get(one, "rules");
	}
	return NULL;
}

int vm_set_meters(struct vm *vm, const json_t *adapters, struct error *err)
{
	int r = json_is_array(adapters) ? 0 : error_set(err, EINVAL, "meter needs \"adapters\", a list");

	for (unsigned i = 0; i < vm->adapter_count && !r; i++)
		r = set_rules(vm->adapters[i].meter, rules_of(adapters, vm->adapters[i].config.mac), err);
	return r;
}
