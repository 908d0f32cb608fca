/* SPDX-License-Identifier: GPL-2.0-or-later */
/* adapters.c - the machine's network adapters and what they are plugged into. */
#include <errno.h>
#include <string.h>

#include "worker/vm.h"

int vm_open_ports(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < vm->config->adapter_count && !r; i++) {
		const struct worker_adapter *a = &vm->config->adapters[i];

		if (a->kind == WORKER_PORT_SOCKET)
			r = port_open_socket(&vm->ports[i], a->fd, err);
		else if (a->kind == WORKER_PORT_TAP)
			r = port_open_tap(&vm->ports[i], a->tap, err);
	}
	return r;
}

void vm_close_ports(struct vm *vm)
{
	for (unsigned i = 0; i < WORKER_MAX_ADAPTERS; i++) {
		port_close(vm->ports[i]);
		vm->ports[i] = NULL;
	}
}

/* The address tells adapters apart for the guest's whole life, and so does the instance, which follows from it. */
static struct guid instance_of(const struct worker_adapter *a)
{
	struct guid instance = GUID_INIT(0x6d2f9b50u, 0x7a41, 0x4c0e, 0x91, 0x5b, 0, 0, 0, 0, 0, 0);

	memcpy(instance.bytes + 10, a->mac, sizeof(a->mac));
	return instance;
}

int vm_add_adapters(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < vm->config->adapter_count && !r; i++) {
		const struct worker_adapter *a = &vm->config->adapters[i];
		char name[24];
		struct network_config config = {.name = name, .instance = instance_of(a), .any_mac = a->any_mac, .port = vm->ports[i]};

		snprintf(name, sizeof(name), "network%u", i);
		memcpy(config.mac, a->mac, sizeof(config.mac));
		r = network_create(&vm->networks[i], vm->bus, &config, err);
	}
	return r;
}

void vm_remove_adapters(struct vm *vm)
{
	for (unsigned i = 0; i < WORKER_MAX_ADAPTERS; i++) {
		network_destroy(vm->networks[i]);
		vm->networks[i] = NULL;
	}
}

static struct json_t *addresses_of(struct network *network)
{
	char text[NETWORK_ADDRESSES][NETWORK_ADDRESS_MAX];
	json_t *list = json_array();
	unsigned count = network ? network_addresses(network, text, NETWORK_ADDRESSES) : 0;

	for (unsigned i = 0; i < count; i++)
		json_array_append_new(list, json_string(text[i]));
	return list;
}

json_t *vm_inspect_adapters(struct vm *vm)
{
	static const char *const kinds[] = {[WORKER_PORT_NONE] = "none", [WORKER_PORT_SOCKET] = "nat", [WORKER_PORT_TAP] = "tap"};
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->config->adapter_count; i++) {
		const struct worker_adapter *a = &vm->config->adapters[i];

		json_array_append_new(list,
		    json_pack("{s:o,s:s,s:o}", "mac",
			json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a->mac[0], a->mac[1], a->mac[2], a->mac[3], a->mac[4], a->mac[5]),
			"port", kinds[a->kind], "addresses", addresses_of(vm->networks[i])));
	}
	return list;
}
