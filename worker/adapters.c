/* SPDX-License-Identifier: GPL-2.0-or-later */
/* adapters.c - the machine's network adapters and what they are plugged into; they come and go while it runs. */
#include <errno.h>
#include <string.h>

#include "worker/control.h"
#include "worker/metering.h"
#include "worker/vm.h"

static int open_port(struct port **out, const struct worker_adapter *a, struct error *err)
{
	*out = NULL;
	switch (a->kind) {
	case WORKER_PORT_SOCKET:
		return port_open_socket(out, a->fd, err);
	case WORKER_PORT_TAP:
		return port_open_tap(out, a->tap, err);
	case WORKER_PORT_DESCRIPTOR:
		return port_open_fd(out, a->fd, err);
	case WORKER_PORT_NONE:
		break;
	}
	return 0;
}

int vm_open_ports(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < vm->config->adapter_count && !r; i++) {
		struct vm_adapter *a = &vm->adapters[vm->adapter_count++];

		a->config = vm->config->adapters[i];
		a->number = i;
		a->meter = network_meter_create();
		r = a->meter ? open_port(&a->port, &a->config, err) : error_set(err, ENOMEM, "no memory for a network adapter");
	}
	return r;
}

void vm_close_ports(struct vm *vm)
{
	for (unsigned i = 0; i < vm->adapter_count; i++) {
		port_close(vm->adapters[i].port);
		network_meter_destroy(vm->adapters[i].meter);
	}
	vm->adapter_count = 0;
}

/* The address tells adapters apart for the guest's whole life, and so does the instance, which follows from it. */
static struct guid instance_of(const struct worker_adapter *a)
{
	struct guid instance = GUID_INIT(0x6d2f9b50u, 0x7a41, 0x4c0e, 0x91, 0x5b, 0, 0, 0, 0, 0, 0);

	memcpy(instance.bytes + 10, a->mac, sizeof(a->mac));
	return instance;
}

static int build(struct vm *vm, struct vm_adapter *a, struct error *err)
{
	char name[24];
	struct network_config config = {.name = name, .instance = instance_of(&a->config), .any_mac = a->config.any_mac, .port = a->port, .meter = a->meter};

	snprintf(name, sizeof(name), "network%u", a->number);
	memcpy(config.mac, a->config.mac, sizeof(config.mac));
	return network_create(&a->network, vm->bus, &config, err);
}

int vm_build_adapters(struct vm *vm, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < vm->adapter_count && !r; i++)
		r = build(vm, &vm->adapters[i], err);
	return r;
}

void vm_take_down_adapters(struct vm *vm)
{
	for (unsigned i = 0; i < vm->adapter_count; i++) {
		network_destroy(vm->adapters[i].network);
		vm->adapters[i].network = NULL;
	}
}

void vm_tell_adapters(struct vm *vm)
{
	uint8_t macs[WORKER_MAX_ADAPTERS][GUEST_MAC_SIZE];

	for (unsigned i = 0; i < vm->adapter_count; i++)
		memcpy(macs[i], vm->adapters[i].config.mac, sizeof(macs[i]));
	if (vm->integration)
		integration_set_adapters(vm->integration, macs, vm->adapter_count);
}

/* --- while it runs ------------------------------------------------------------------------------------ */

static struct vm_adapter *find(struct vm *vm, const uint8_t *mac)
{
	for (unsigned i = 0; i < vm->adapter_count; i++)
		if (!memcmp(vm->adapters[i].config.mac, mac, sizeof(vm->adapters[i].config.mac)))
			return &vm->adapters[i];
	return NULL;
}

static int not_there(struct error *err)
{
	return error_set(err, ENOENT, "the machine has no network adapter with that address");
}

static unsigned free_number(const struct vm *vm)
{
	unsigned taken = 0, number = 0;

	for (unsigned i = 0; i < vm->adapter_count; i++)
		taken |= 1u << vm->adapters[i].number;
	while (taken >> number & 1)
		number++;
	return number;
}

int vm_add_adapter(struct vm *vm, const struct worker_adapter *adapter, struct error *err)
{
	struct vm_adapter *a = &vm->adapters[vm->adapter_count];
	struct port *port;
	int r = open_port(&port, adapter, err);

	if (r)
		return r;
	if (!vm->running)
		r = error_set(err, EAGAIN, "the machine is restarting: try again");
	else if (find(vm, adapter->mac))
		r = error_set(err, EEXIST, "the machine has a network adapter with that address already");
	else if (vm->adapter_count == WORKER_MAX_ADAPTERS)
		r = error_set(err, EINVAL, "the machine has %u network adapters: that is as many as there may be", WORKER_MAX_ADAPTERS);
	if (!r) {
		*a = (struct vm_adapter){.config = *adapter, .number = free_number(vm), .port = port, .meter = network_meter_create()};
		r = a->meter ? build(vm, a, err) : error_set(err, ENOMEM, "no memory for a network adapter");
		if (r)
			network_meter_destroy(a->meter);
	}
	if (r) {
		port_close(port);
		return r;
	}
	vm->adapter_count++;
	vm_tell_adapters(vm);
	return 0;
}

int vm_remove_adapter(struct vm *vm, const uint8_t *mac, struct error *err)
{
	struct vm_adapter *a = find(vm, mac);

	if (!a)
		return not_there(err);
	network_destroy(a->network);
	port_close(a->port);
	vm_keep_meter(vm, a->meter);
	network_meter_destroy(a->meter);
	vm->adapter_count--;
	/* The others stay in their order, which is that of a saved machine. */
	memmove(a, a + 1, (size_t)(vm->adapters + vm->adapter_count - a) * sizeof(*a));
	vm_tell_adapters(vm);
	return 0;
}

int vm_plug_adapter(struct vm *vm, const struct worker_adapter *to, struct error *err)
{
	struct vm_adapter *a = find(vm, to->mac);
	struct port *port;
	int r = open_port(&port, to, err);

	if (r)
		return r;
	if (!a) {
		port_close(port);
		return not_there(err);
	}
	port_close(a->network ? network_plug(a->network, port) : a->port);
	a->port = port;
	a->config.kind = to->kind;
	memcpy(a->config.label, to->label, sizeof(a->config.label));
	memcpy(a->config.forwarded, to->forwarded, sizeof(a->config.forwarded));
	a->config.forwarded_count = to->forwarded_count;
	return 0;
}

/* --- inspection --------------------------------------------------------------------------------------- */

static void append(json_t *list, const char *address)
{
	json_t *each;
	size_t i;

	json_array_foreach(list, i, each)
		if (!strcmp(json_string_value(each), address))
			return;
	json_array_append_new(list, json_string(address));
}

/* What the guest tells counts, and what it was seen to use since it was asked, which may be new; else all that it was seen to use. */
static json_t *addresses_of(const struct vm *vm, const struct vm_adapter *a, const char **source)
{
	char told[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];
	struct network_seen seen[NETWORK_ADDRESSES];
	unsigned count = a->network ? network_addresses(a->network, seen, NETWORK_ADDRESSES) : 0;
	uint64_t asked_ms = 0;
	json_t *list = json_array();
	int n = vm->integration ? integration_addresses(vm->integration, a->config.mac, told, &asked_ms) : -1;

	for (int i = 0; i < n; i++)
		append(list, told[i]);
	for (unsigned i = 0; i < count; i++)
		if (n <= 0 || seen[i].seen_ms > asked_ms)
			append(list, seen[i].address);
	*source = n > 0 ? "guest" : "traffic";
	return list;
}

static json_t *counters_of(struct network *network)
{
	struct network_counters c = {0};

	if (network)
		network_get_counters(network, &c);
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "sent_frames", (json_int_t)c.sent_frames, "sent_bytes", (json_int_t)c.sent_bytes,
	    "sent_dropped", (json_int_t)c.sent_dropped, "received_frames", (json_int_t)c.received_frames, "received_bytes",
	    (json_int_t)c.received_bytes, "received_dropped", (json_int_t)c.received_dropped);
}

static json_t *ports_of(const struct worker_adapter *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->forwarded_count; i++)
		json_array_append_new(list, json_integer(a->forwarded[i]));
	return list;
}

json_t *vm_inspect_adapters(struct vm *vm)
{
	static const char *const kinds[] = {[WORKER_PORT_NONE] = "none", [WORKER_PORT_SOCKET] = "nat", [WORKER_PORT_TAP] = "tap",
	    [WORKER_PORT_DESCRIPTOR] = "descriptor"};
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->adapter_count; i++) {
		const struct worker_adapter *a = &vm->adapters[i].config;
		const char *source;
		json_t *addresses = addresses_of(vm, &vm->adapters[i], &source);
		json_t *adapter = json_pack("{s:o,s:s,s:o,s:s,s:o}", "mac",
		    json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a->mac[0], a->mac[1], a->mac[2], a->mac[3], a->mac[4], a->mac[5]), "port",
		    kinds[a->kind], "addresses", addresses, "addresses_from", source, "counters", counters_of(vm->adapters[i].network));

		if (a->label[0])
			json_object_set_new(adapter, "label", control_text(a->label));
		if (a->forwarded_count)
			json_object_set_new(adapter, "forwarded", ports_of(a));
		json_array_append_new(list, adapter);
	}
	return list;
}
