/* SPDX-License-Identifier: GPL-2.0-or-later */
/* switch_ports.c - machines' adapters that are plugged into switches. */
#include <errno.h>
#include <string.h>

#include "switch/host_link.h"
#include "switch/ovs_bandwidth.h"
#include "switch/ovs_rules.h"
#include "switch/port.h"
#include "vmms/switches_private.h"

/* Numbers of ports: below are those of the host's adapters. */
#define PORT_FIRST 100u
#define PORT_COUNT 61000u /* and those of queues, of which there are 61440 */

#define PORT_MTU  9000u

static bool number_taken(struct vmms *vmms, unsigned number)
{
	const char *name;
	json_t *port;

	json_object_foreach(vmms->switches->ports, name, port)
		if (json_integer_value(json_object_get(port, "number")) == number)
			return true;
	return false;
}

/* The same each time, as far as possible: then a port that is in its place stays there. */
static unsigned choose_number(struct vmms *vmms, const struct machine *machine, const json_t *adapter)
{
	unsigned slot = 0, number;
	json_t *other;
	size_t i;

	json_array_foreach(json_object_get(machine->config, "adapters"), i, other)
		if (json_equal(json_object_get(other, "mac"), json_object_get(adapter, "mac")))
			slot = (unsigned)i;
	for (number = (machine->number * VM_ADAPTERS_MAX + slot) % PORT_COUNT; number_taken(vmms, PORT_FIRST + number);)
		number = (number + 1) % PORT_COUNT;
	return PORT_FIRST + number;
}

static bool on_switch(const json_t *adapter)
{
	const char *port = json_string_value(json_object_get(adapter, "port"));

	return port && !strcmp(port, "switch") && json_object_get(adapter, "switch");
}

static json_t *plug(struct machine *machine, const json_t *adapter, const char *name)
{
	struct vmms *vmms = machine->vmms;
	json_t *port = json_pack("{s:O, s:s, s:i, s:o}", "switch", json_object_get(adapter, "switch"), "machine", machine->id, "number",
	    (int)choose_number(vmms, machine, adapter), "adapter", json_deep_copy(adapter));

	if (!port || json_object_set_new(vmms->switches->ports, name, port))
		return NULL;
	switches_look_at_links(vmms);
	return port;
}

/* A tap that is there: which of the two it is; one that is to come: the other. */
static void choose_name(char name[OVS_NAME_SIZE], const json_t *adapter, bool there)
{
	const char *mac = json_string_value(json_object_get(adapter, "mac"));
	struct host_link link;

	ovs_tap_name(name, mac, false);
	if (!host_link_get(name, &link, NULL) != there)
		ovs_tap_name(name, mac, true);
}

/* Its interface, as long as it is in this switch; NULL: it is not. */
static const char *plugged_as(struct vmms *vmms, const json_t *adapter)
{
	const char *name;
	json_t *port;

	json_object_foreach(vmms->switches->ports, name, port)
		if (json_equal(json_object_get(port, "switch"), json_object_get(adapter, "switch")) &&
		    json_equal(json_object_get(json_object_get(port, "adapter"), "mac"), json_object_get(adapter, "mac")))
			return name;
	return NULL;
}

void switches_plug_running(struct vmms *vmms)
{
	for (size_t i = 0; i < vmms->machine_count; i++) {
		struct machine *machine = vmms->machines[i];
		json_t *adapter;
		size_t k;

		if (!machine->link)
			continue;
		json_array_foreach(json_object_get(machine->config, "adapters"), k, adapter) {
			char name[OVS_NAME_SIZE];

			if (!on_switch(adapter))
				continue;
			choose_name(name, adapter, true);
			plug(machine, adapter, name);
		}
	}
}

/* The host has no part in it: neither by IPv6, which each interface would have, nor by what a guest says to the host's addresses. */
static int make_tap(struct vmms *vmms, const char *name, int *fd, struct error *err)
{
	int r = port_make_tap(fd, name, err);

	if (r)
		return r;
	r = host_link_set_ipv6(name, false, err);
	if (!r && !strcmp(ovs_datapath(vmms->switches->ovs), "netdev"))
		r = host_link_seal(name, err);
	if (!r)
		r = host_link_set_mtu(name, PORT_MTU, err);
	if (!r)
		r = host_link_set_up(name, true, err);
	if (r) {
		close(*fd);
		*fd = -1;
	}
	return r;
}

/* One that has the host's address would take what is for the host. */
static int check_mac(const struct vswitch *s, const json_t *adapter, struct error *err)
{
	const char *mac = json_string_value(json_object_get(adapter, "mac"));

	return switch_is_hosts_mac(s, mac) ? error_set(err, EEXIST, "mac %s is the host's own on switch \"%s\": choose another", mac, s->name) : 0;
}

int switches_port_open(struct machine *machine, const json_t *adapter, int *fd, struct error *err)
{
	struct vmms *vmms = machine->vmms;
	const char *wanted = json_string_value(json_object_get(adapter, "switch"));
	struct vswitch *s = wanted ? switches_find(vmms, wanted) : NULL;
	char name[OVS_NAME_SIZE];
	json_t *port;
	int r;

	if (!s || s->phase != SWITCH_READY)
		return error_set(err, ENOENT, "there is no switch \"%s\" for an adapter of machine \"%s\": make it, or choose another", wanted ? wanted : "",
				 machine->name);
	r = check_mac(s, adapter, err);
	if (r)
		return r;
	choose_name(name, adapter, false);
	r = switches_start(vmms, err);
	if (!r)
		r = make_tap(vmms, name, fd, err);
	if (r)
		return r;
	/* It may be unplugged meanwhile. */
	port = json_incref(plug(machine, adapter, name));
	if (port)
		json_object_set_new(port, "must", json_true());
	r = port ? switches_apply(vmms, err) : error_set(err, ENOMEM, "no memory");
	if (port)
		json_object_del(port, "must");
	json_decref(port);
	if (!r)
		return 0;
	close(*fd);
	*fd = -1;
	switches_port_closed(machine, adapter);
	return r;
}

void switches_port_closed(struct machine *machine, const json_t *adapter)
{
	struct vmms *vmms = machine->vmms;
	const char *name = vmms->switches ? plugged_as(vmms, adapter) : NULL;

	if (!name)
		return;
	json_object_del(vmms->switches->ports, name);
	switches_see_to(vmms);
}

void switches_port_adopted(struct machine *machine, const json_t *adapter)
{
	struct vmms *vmms = machine->vmms;
	char name[OVS_NAME_SIZE];
	struct host_link link;

	if (!vmms->switches || !on_switch(adapter) || plugged_as(vmms, adapter))
		return;
	choose_name(name, adapter, true);
	if (!host_link_get(name, &link, NULL) && plug(machine, adapter, name))
		switches_see_to(vmms);
}

/* What ovs_bandwidth_check() looks at, as known last: nobody is waited for. */
static json_t *describe_parts(struct vmms *vmms, const struct vswitch *s)
{
	json_int_t rate = json_integer_value(json_object_get(s->config, "bandwidth"));

	return json_pack("{s:s, s:I, s:O*, s:o}", "datapath", vmms->switches->datapath, "rate", rate ? rate : (json_int_t)s->rate, "members",
			 s->attach ? json_object_get(s->config, "adapters") : NULL, "ports", switches_ports_of(vmms, s));
}

int switches_port_check(struct vmms *vmms, const json_t *adapter, struct error *err)
{
	const struct vswitch *s = on_switch(adapter) ? switches_find(vmms, json_string_value(json_object_get(adapter, "switch"))) : NULL;
	json_t *description, *ports, *port, *mine;
	size_t i;
	int r;

	if (!s || s->phase != SWITCH_READY)
		return 0;
	r = check_mac(s, adapter, err);
	if (r || !vmms->switches->datapath)
		return r;
	description = describe_parts(vmms, s);
	ports = json_object_get(description, "ports");
	json_array_foreach(ports, i, port)
		if (json_equal(json_object_get(port, "mac"), json_object_get(adapter, "mac"))) {
			json_array_remove(ports, i);
			break;
		}
	mine = json_pack("{s:O*}", "settings", json_object_get(adapter, "settings"));
	json_array_append(ports, mine);
	r = ovs_bandwidth_check(description, mine, err);
	if (r)
		error_prefix(err, "switch \"%s\"", s->name);
	json_decref(mine);
	json_decref(description);
	return r;
}

int switches_port_changed(struct machine *machine, const json_t *adapter, struct error *err)
{
	struct vmms *vmms = machine->vmms;
	const char *name = plugged_as(vmms, adapter);
	json_t *port = name ? json_object_get(vmms->switches->ports, name) : NULL, *before;
	int r;

	if (!port || !on_switch(adapter))
		return 0;
	/* It may be unplugged meanwhile. */
	json_incref(port);
	before = json_incref(json_object_get(port, "adapter"));
	json_object_set_new(port, "adapter", json_deep_copy(adapter));
	json_object_set_new(port, "must", json_true());
	r = switches_apply(vmms, err);
	json_object_del(port, "must");
	if (r) {
		json_object_set(port, "adapter", before);
		switches_see_to(vmms);
	}
	json_decref(before);
	json_decref(port);
	switches_look_at_links(vmms);
	return r;
}

bool switches_port_lost(struct vmms *vmms, const json_t *adapter)
{
	const char *name = vmms->switches && on_switch(adapter) ? plugged_as(vmms, adapter) : NULL;

	return name && json_is_true(json_object_get(json_object_get(vmms->switches->ports, name), "lost"));
}

void switches_port_noted(struct machine *machine, const json_t *adapter)
{
	const char *name = plugged_as(machine->vmms, adapter);

	if (name)
		json_object_set_new(json_object_get(machine->vmms->switches->ports, name), "adapter", json_deep_copy(adapter));
	switches_look_at_links(machine->vmms);
	switches_see_to(machine->vmms);
}

json_t *switches_ports_of(struct vmms *vmms, const struct vswitch *s)
{
	json_t *list = json_array(), *port;
	const char *name;

	json_object_foreach(vmms->switches->ports, name, port) {
		const json_t *adapter = json_object_get(port, "adapter");
		json_t *described;

		if (strcmp(json_string_value(json_object_get(port, "switch")), s->name))
			continue;
		described = json_pack("{s:s, s:O, s:O, s:b, s:b}", "name", name, "number", json_object_get(port, "number"), "mac",
		    json_object_get(adapter, "mac"), "any_mac", json_is_true(json_object_get(adapter, "any_mac")), "must",
		    json_is_true(json_object_get(port, "must")));
		if (json_object_get(adapter, "settings"))
			json_object_set(described, "settings", json_object_get(adapter, "settings"));
		json_array_append_new(list, described);
	}
	return list;
}

bool switches_have_parts(struct vmms *vmms, const struct vswitch *s)
{
	const char *name;
	json_t *port;

	json_object_foreach(vmms->switches->ports, name, port)
		if (!strcmp(json_string_value(json_object_get(port, "switch")), s->name) &&
		    ovs_bandwidth_has_part(json_object_get(json_object_get(port, "adapter"), "settings")))
			return true;
	return false;
}

json_t *switches_plugged(struct vmms *vmms, const struct vswitch *s)
{
	json_t *list = json_array(), *port;
	const char *name;

	json_object_foreach(vmms->switches->ports, name, port) {
		const struct machine *machine = vmms_find(vmms, json_string_value(json_object_get(port, "machine")));

		if (!strcmp(json_string_value(json_object_get(port, "switch")), s->name))
			json_array_append_new(list, json_pack("{s:s, s:s, s:O}", "interface", name, "vm", machine ? machine->name : "", "mac",
							  json_object_get(json_object_get(port, "adapter"), "mac")));
	}
	return list;
}

static bool is_on(const json_t *adapter, const struct vswitch *s)
{
	return on_switch(adapter) && !strcmp(json_string_value(json_object_get(adapter, "switch")), s->name);
}

json_t *switches_users(struct vmms *vmms, const struct vswitch *s)
{
	json_t *names = json_array();

	for (size_t i = 0; i < vmms->machine_count; i++) {
		json_t *adapter;
		/* One that its worker is being given is not in vm.json yet. */
		bool uses = is_on(vmms->machines[i]->coming, s);
		size_t k;

		json_array_foreach(json_object_get(vmms->machines[i]->config, "adapters"), k, adapter)
			uses |= is_on(adapter, s);
		if (uses)
			json_array_append_new(names, json_string(vmms->machines[i]->name));
	}
	return names;
}
