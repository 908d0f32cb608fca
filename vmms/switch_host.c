/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * switch_host.c - adapters of the host that become a switch's, with the host's addresses and routes; and the way back.
 *
 * What is undone by is in host.db before anything is done:
 *   {"mac": of the host's adapter on the switch, "network": what it had last, "home": the adapter that had it, "back": it has it again,
 *    "adapters": {NAME: {"up", "promiscuous", "ipv6", "sealed", "listens", "hook": it was not there before either of these, "network"}},
 *    "left": {NAME: the same}: no member any more, and down as long as the switch has its address}
 * Of an internal switch there is {"addresses": that the host has been given there}.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "switch/host_link.h"
#include "vmms/switches.h"

bool switch_has_host(const struct vswitch *s)
{
	const char *type = json_string_value(json_object_get(s->config, "type"));

	return !strcmp(type, "internal") || (!strcmp(type, "external") && json_is_true(json_object_get(s->config, "host")));
}

static bool is_external(const struct vswitch *s)
{
	return !strcmp(json_string_value(json_object_get(s->config, "type")), "external");
}

static json_t *record_of(const struct vswitch *s, const char *adapter)
{
	return json_object_get(json_object_get(s->host, "adapters"), adapter);
}

static bool is_netdev(struct vmms *vmms)
{
	return !strcmp(ovs_datapath(switches_ovs(vmms)), "netdev");
}

/* One that does not say is: better one hook too few in the end than one too many. */
static bool is_sealed(const json_t *record)
{
	return !json_is_false(json_object_get(record, "sealed"));
}

/* The adapter to which the host's addresses go back: the one that had them, as long as it is in the switch. */
static const char *home_of(const struct vswitch *s)
{
	const char *home = json_string_value(json_object_get(s->host, "home"));

	if (home && record_of(s, home))
		return home;
	home = json_string_value(json_array_get(json_object_get(s->config, "adapters"), 0));
	return home ? home : "";
}

bool switch_is_home(const struct vswitch *s, const char *adapter)
{
	return s->phase == SWITCH_READY && is_external(s) && switch_has_host(s) && !strcmp(home_of(s), adapter);
}

/* --- which may be ------------------------------------------------------------------------------------------ */

static const struct vswitch *user_of(struct vmms *vmms, const struct vswitch *but, const char *adapter)
{
	const struct vswitch *s;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++) {
		json_t *other;
		size_t k;

		if (s == but)
			continue;
		if (!strcmp(s->interface, adapter))
			return s;
		json_array_foreach(json_object_get(s->config, "adapters"), k, other)
			if (!strcmp(json_string_value(other), adapter))
				return s;
	}
	return NULL;
}

static int check_adapter(struct vmms *vmms, const struct vswitch *own, const char *adapter, struct error *err)
{
	const struct vswitch *user = user_of(vmms, own, adapter);
	struct host_link link;
	_cleanup_free_ char *bridge = NULL;
	char above[16];
	int r;

	if (own && record_of(own, adapter))
		return 0;
	if (user)
		return error_set(err, EBUSY, "adapter %s belongs to switch \"%s\"", adapter, user->name);
	r = host_link_get(adapter, &link, err);
	if (r)
		return r == -ENODEV ? error_set(err, ENOENT, "the host has no network adapter \"%s\"", adapter) : r;
	if (!strcmp(adapter, "ovs-netdev") || !strcmp(adapter, "ovs-system"))
		return error_set(err, EBUSY, "%s is Open vSwitch's own", adapter);
	if (link.loopback || !link.has_mac)
		return error_set(err, EINVAL, "%s is no Ethernet adapter", adapter);
	if (link.master)
		return error_set(err, EBUSY, "adapter %s is used: it belongs to a bridge, a bond or the like of the host", adapter);
	r = host_link_above(link.index, above, err);
	if (r)
		return r;
	/* It would hear nothing any more. */
	if (*above)
		return error_set(err, EBUSY, "adapter %s is used: the host's %s is made of it; remove that first, a switch has VLANs of its own", adapter, above);
	bridge = switches_bridge_of(vmms, adapter);
	return bridge ? error_set(err, EBUSY, "adapter %s is used: it is in bridge %s of Open vSwitch", adapter, bridge) : 0;
}

int switch_check_adapters(struct vmms *vmms, const struct vswitch *own, const json_t *adapters, struct error *err)
{
	json_t *adapter;
	size_t i;
	int r = 0;

	json_array_foreach(adapters, i, adapter)
		if (!r)
			r = check_adapter(vmms, own, json_string_value(adapter), err);
	return r;
}

/* One that has left and comes again: what it was before the switch had it. */
static void take_back(struct vswitch *s, const char *adapter, json_t *record)
{
	json_t *left = json_object_get(json_object_get(s->host, "left"), adapter);

	if (!left)
		return;
	json_object_set(record, "up", json_object_get(left, "up"));
	json_object_del(json_object_get(s->host, "left"), adapter);
}

/* --- there --------------------------------------------------------------------------------------------------- */

static json_t *mac_text(const struct host_link *link)
{
	const uint8_t *mac = link->mac;

	return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static int note_adapter(struct vswitch *s, const char *adapter, bool sealed, struct error *err)
{
	json_t *network = NULL, *record;
	struct host_link link;
	bool hook = false;
	int r = host_link_get(adapter, &link, err);

	if (!r)
		r = host_link_has_hook(adapter, &hook, err);
	if (!r)
		r = host_network_get(adapter, &network, err);
	if (r)
		return r;
	if (!s->host)
		s->host = json_pack("{s:s, s:{}}", "mac", "", "adapters");
	if (!*json_string_value(json_object_get(s->host, "mac")))
		json_object_set_new(s->host, "mac", mac_text(&link));
	record = json_pack("{s:b, s:b, s:b, s:b, s:b, s:o}", "up", link.up, "promiscuous", link.promiscuous, "ipv6", host_link_has_ipv6(adapter),
	    "sealed", sealed, "hook", !hook, "network", network);
	take_back(s, adapter, record);
	json_object_set_new(json_object_get(s->host, "adapters"), adapter, record);
	return 0;
}

static int note_all(struct vmms *vmms, struct vswitch *s, const json_t *adapters, bool home, struct error *err)
{
	json_t *adapter;
	size_t i;
	int r = 0;

	json_array_foreach(adapters, i, adapter)
		if (!r && !record_of(s, json_string_value(adapter)))
			r = note_adapter(s, json_string_value(adapter), is_netdev(vmms), err);
	if (!r && home && json_array_size(adapters))
		json_object_set(s->host, "home", json_array_get(adapters, 0));
	return r;
}

static const char *listener_of(const struct vswitch *s, char name[16])
{
	snprintf(name, 16, "%.9s-lease", s->interface);
	return name;
}

static void stop_listening(struct vswitch *s, const char *adapter)
{
	json_t *record = record_of(s, adapter);
	char listener[16];

	if (json_is_true(json_object_get(record, "listens")))
		host_link_end_listening(adapter, listener_of(s, listener), json_is_true(json_object_get(record, "hook")));
	json_object_del(record, "listens");
}

/* As this datapath has it; another one may have had it otherwise. */
static int seal(struct vmms *vmms, struct vswitch *s, const char *adapter, struct error *err)
{
	json_t *record = record_of(s, adapter);
	bool netdev = is_netdev(vmms), hook = false;
	int r;

	if (netdev == is_sealed(record))
		return netdev ? host_link_seal(adapter, err) : 0;
	if (netdev)
		stop_listening(s, adapter);
	else
		host_link_unseal(adapter, json_is_true(json_object_get(record, "hook")));
	r = host_link_has_hook(adapter, &hook, err);
	if (r)
		return r;
	json_object_set_new(record, "hook", json_boolean(!hook));
	json_object_set_new(record, "sealed", json_boolean(netdev));
	r = switch_store(vmms, s, err);
	return r || !netdev ? r : host_link_seal(adapter, err);
}

/* Once the host's addresses are on the switch the host has no business on the adapter itself. */
static int take_over(struct vmms *vmms, struct vswitch *s, const char *adapter, struct error *err)
{
	int r = host_link_set_ipv6(adapter, false, err);

	if (!r)
		r = seal(vmms, s, adapter, err);
	return r ? r : host_link_set_up(adapter, true, err);
}

/* The host's client of DHCP goes on with the adapter that had the host's addresses, if it hears what it is answered there; in the userspace datapath
 * the seal sees to that. Only the one that has a VLAN of its own on the switch hears nothing there that is without. */
static int listen_for_leases(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	const char *home = home_of(s), *other;
	json_t *record = record_of(s, home), *adapters = json_object_get(s->host, "adapters"), *each;
	bool hook = false;
	char name[16];
	int r = 0;

	if (!record || is_netdev(vmms) || !switch_has_host(s))
		return 0;
	json_object_foreach(adapters, other, each)
		if (each != record)
			stop_listening(s, other);
	if (!json_is_true(json_object_get(record, "listens"))) {
		r = host_link_has_hook(home, &hook, err);
		json_object_set_new(record, "hook", json_boolean(!hook));
		json_object_set_new(record, "listens", json_true());
		if (!r)
			r = switch_store(vmms, s, err);
	}
	return r ? r : host_link_listen_for_leases(home, listener_of(s, name), json_integer_value(json_object_get(s->config, "vlan")) ? NULL : s->interface, err);
}

/* A new one has IPv6 if its adapter had, and whatever else the host's administrator has set there: whether it listens to routers, say. */
static int set_home_up(struct vswitch *s, struct error *err)
{
	const json_t *ipv6 = json_object_get(record_of(s, home_of(s)), "ipv6");
	struct host_link link;
	int r = host_link_get(s->interface, &link, err);

	if (!r && !link.up)
		host_link_copy_settings(home_of(s), s->interface);
	if (!r && !link.up && ipv6)
		r = host_link_set_ipv6(s->interface, json_is_true(ipv6), err);
	return r ? r : host_link_set_up(s->interface, true, err);
}

/* With an IPv6 address of its own by each adapter's address alone, and nothing else, an adapter has no use for the host. */
static bool is_used(const json_t *network)
{
	json_t *hex;
	size_t i;

	/* The message's family is the 17th byte, its scope the 20th. */
	json_array_foreach(json_object_get(network, "addresses"), i, hex) {
		const char *text = json_string_value(hex);

		if (strlen(text) < 40 || strncmp(text + 32, "0a", 2) || strncmp(text + 38, "fd", 2))
			return true;
	}
	return false;
}

/* What keeps its client from being heard is no reason to be without the switch. Nor is that IPv6 is off on the adapter, as the host would have it there and
 * on the switch. `tell`: in an event, not in the log alone. */
static void see_to_clients(struct vmms *vmms, struct vswitch *s, bool tell)
{
	const json_t *network = json_object_get(s->host, "network");
	struct error why = {0};
	const char *home = home_of(s);

	if (listen_for_leases(vmms, s, &why) && host_network_needs_client(network, AF_INET)) {
		log_write(LOG_LEVEL_WARNING, "a DHCP client on adapter %s of switch \"%s\" hears no answer: %s", home, s->name, why.text);
		if (tell)
			vmms_event(vmms, NULL, "switch.warning", "the host's address on adapter %s is for a time: unless its DHCP client is dhclient, it hears no answer there while "
				   "switch \"%s\" has the adapter, and has to be told %s instead: %s", home, s->name, s->interface, why.text);
	}
	if (tell && switch_has_host(s) && host_network_needs_client(network, AF_INET6))
		vmms_event(vmms, NULL, "switch.warning", "the host's IPv6 address on adapter %s is for a time: unless it is the kernel that renews it, whoever does has to be told %s instead "
			   "while switch \"%s\" has the adapter, as IPv6 is off there", home, s->interface, s->name);
}

/* Where the host is not to use its adapters any more they have no addresses. */
static int move_home(struct vswitch *s, const char *adapter, struct error *err)
{
	json_t *network = NULL;
	int r;

	if (!switch_has_host(s))
		return host_network_drop(adapter, json_object_get(record_of(s, adapter), "network"), err);
	r = host_network_move(adapter, s->interface, &network, err);

	if (!r)
		json_object_set_new(s->host, "network", network);
	return r;
}

int switch_attach(struct vmms *vmms, struct vswitch *s, const json_t *adapters, bool home, struct error *err)
{
	json_t *adapter;
	size_t i;
	int r = note_all(vmms, s, adapters, home, err);

	json_array_foreach(adapters, i, adapter)
		if (!r && !(home && i == 0) && !record_of(s, json_string_value(adapter)))
			r = error_set(err, EIO, "adapter %s is not known", json_string_value(adapter));
		else if (!r && !(home && i == 0) && is_used(json_object_get(record_of(s, json_string_value(adapter)), "network")))
			r = error_set(err, EBUSY, "adapter %s has addresses of the host: of a team's adapters only the first, when the switch is made, may have such",
			    json_string_value(adapter));
	if (!r)
		r = switch_store(vmms, s, err);
	if (r)
		return r;
	/* The bridge comes first, then the adapters are in it, then the host moves. */
	r = switches_apply(vmms, err);
	if (!r && switch_has_host(s))
		r = set_home_up(s, err);
	/* The one with the host's addresses has to be heard until they are on the switch; nobody hears the others besides it. */
	json_array_foreach(adapters, i, adapter)
		if (!r)
			r = home && i == 0 ? host_link_set_up(json_string_value(adapter), true, err) : take_over(vmms, s, json_string_value(adapter), err);
	s->attach = true;
	if (!r)
		r = switches_apply(vmms, err);
	if (!r && home)
		r = move_home(s, json_string_value(json_array_get(adapters, 0)), err);
	if (!r && home && json_array_size(adapters))
		r = take_over(vmms, s, json_string_value(json_array_get(adapters, 0)), err);
	if (!r && home && json_array_size(adapters))
		see_to_clients(vmms, s, true);
	return r ? r : switch_store(vmms, s, err);
}

/* --- and back ------------------------------------------------------------------------------------------------ */

static void release(struct vswitch *s, const char *adapter)
{
	json_t *record = record_of(s, adapter);

	if (is_sealed(record))
		host_link_unseal(adapter, json_is_true(json_object_get(record, "hook")));
	stop_listening(s, adapter);
	if (json_is_true(json_object_get(record, "ipv6")))
		host_link_set_ipv6(adapter, true, NULL);
}

/* What the host has on the switch by now goes to the adapter; where the switch has lost it, what it had. */
static void move_back(struct vswitch *s, const char *adapter)
{
	json_t *record = record_of(s, adapter), *network = json_object_get(s->host, "network");
	struct error err = {0};
	json_t *now = NULL;

	if (!switch_has_host(s) || host_network_get(s->interface, &now, NULL) || !is_used(now)) {
		if (!network)
			network = json_object_get(record, "network");
		if (host_network_put(adapter, network, &err))
			log_write(LOG_LEVEL_ERROR, "%s", err.text);
	} else if (host_network_move(s->interface, adapter, NULL, &err)) {
		/* The switch's interface goes all the same: as much as can be is saved. */
		log_write(LOG_LEVEL_ERROR, "%s", err.text);
		host_network_put(adapter, now, NULL);
		host_network_put(adapter, network ? network : json_object_get(record, "network"), NULL);
	}
	json_decref(now);
}

/* Once it is in no bridge. */
static void restore_flags(const char *adapter, const json_t *record)
{
	host_link_set_promiscuous(adapter, json_is_true(json_object_get(record, "promiscuous")), NULL);
	host_link_set_up(adapter, json_is_true(json_object_get(record, "up")), NULL);
}

static bool has_mac(const char *adapter, const char *mac)
{
	json_t *text = NULL;
	struct host_link link;
	bool same;

	if (!mac || host_link_get(adapter, &link, NULL))
		return false;
	text = mac_text(&link);
	same = text && !strcasecmp(mac, json_string_value(text));
	json_decref(text);
	return same;
}

static bool has_our_mac(const struct vswitch *s, const char *adapter)
{
	return has_mac(adapter, json_string_value(json_object_get(s->host, "mac")));
}

bool switch_is_hosts_mac(const struct vswitch *s, const char *mac)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(s->config, "adapters"), i, adapter)
		if (has_mac(json_string_value(adapter), mac))
			return true;
	return switch_has_host(s) && has_mac(s->interface, mac);
}

/* One whose address the switch keeps is down as long as it does: else the host would hear there too what is for the switch. */
void switch_detach_one(struct vmms *vmms, struct vswitch *s, const char *adapter)
{
	json_t *record = record_of(s, adapter);

	(void)vmms;
	if (has_our_mac(s, adapter)) {
		host_link_set_up(adapter, false, NULL);
		if (!json_object_get(s->host, "left"))
			json_object_set_new(s->host, "left", json_object());
		json_object_set(json_object_get(s->host, "left"), adapter, record);
		release(s, adapter);
		host_link_set_promiscuous(adapter, json_is_true(json_object_get(record, "promiscuous")), NULL);
	} else {
		release(s, adapter);
		restore_flags(adapter, record);
	}
	json_object_del(json_object_get(s->host, "adapters"), adapter);
}

/* One of its adapters that is in the kernel's datapath, where Open vSwitch takes all that comes in by it; NULL: none is. */
static const char *held_adapter(const struct vswitch *s)
{
	const char *name;
	struct host_link link;
	json_t *record;

	json_object_foreach(json_object_get(s->host, "adapters"), name, record)
		if (!host_link_get(name, &link, NULL) && link.master)
			return name;
	return NULL;
}

bool switch_holds_host(const struct vswitch *s)
{
	return !json_is_true(json_object_get(s->host, "back")) && held_adapter(s);
}

/* Before the host has its addresses back on an adapter that has to hear. As long as it does not, those on the switch are what the host is reached by. */
static int free_adapters(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	const char *name;
	int r;

	s->attach = false;
	r = switches_apply(vmms, err);
	while (r && (name = held_adapter(s)))
		if (ovs_take_out(switches_ovs(vmms), name, NULL) || !strcmp(name, held_adapter(s) ? held_adapter(s) : ""))
			return r;
	return 0;
}

int switch_detach(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	json_t *record, *host = s->host;
	const char *name;
	int r = switch_holds_host(s) ? free_adapters(vmms, s, err) : 0;

	if (r)
		return r;
	/* Once: then the addresses are the adapter's, whatever becomes of them. */
	if (!json_is_true(json_object_get(host, "back"))) {
		json_object_foreach(json_object_get(host, "adapters"), name, record)
			release(s, name);
		if (record_of(s, home_of(s)))
			move_back(s, home_of(s));
		json_object_set_new(host, "back", json_true());
		switch_store(vmms, s, NULL);
	}
	s->attach = false;
	r = switches_apply(vmms, err);
	if (r)
		return r;
	json_object_foreach(json_object_get(host, "adapters"), name, record)
		restore_flags(name, record);
	json_object_foreach(json_object_get(host, "left"), name, record)
		restore_flags(name, record);
	s->host = NULL;
	switch_store(vmms, s, NULL);
	json_decref(host);
	return 0;
}

/* --- kept ----------------------------------------------------------------------------------------------------- */

static bool is_present(const char *adapter)
{
	struct host_link link;

	return host_link_get(adapter, &link, NULL) != -ENODEV;
}

int switch_check_present(const struct vswitch *s, struct error *err)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(s->config, "adapters"), i, adapter)
		if (!is_present(json_string_value(adapter)))
			return error_set(err, ENODEV, "the host has no network adapter \"%s\"", json_string_value(adapter));
	return 0;
}

/* Whoever was to let an adapter go may have been killed before. */
static int let_go(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	json_t *adapters = json_object_get(s->config, "adapters"), *record, *adapter;
	const char *name;
	bool any = false;
	void *next;
	size_t i;

	json_object_foreach_safe(json_object_get(s->host, "adapters"), next, name, record) {
		bool wanted = false;

		json_array_foreach(adapters, i, adapter)
			wanted |= !strcmp(json_string_value(adapter), name);
		any |= !wanted;
		if (!wanted)
			switch_detach_one(vmms, s, name);
	}
	return any ? switch_store(vmms, s, err) : 0;
}

/* The host may have been started anew: then its adapters have the addresses. Or Open vSwitch was: then nobody has them. */
static int settle_external(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	json_t *adapters = json_object_get(s->config, "adapters"), *adapter, *now = NULL;
	const char *home = home_of(s);
	size_t i;
	int r = 0;

	if (switch_has_host(s)) {
		r = set_home_up(s, err);
		if (!r && is_present(home))
			r = host_network_get(home, &now, err);
		if (!r && is_used(now)) {
			r = move_home(s, home, err);
			/* It may have had some there before. */
			switch_note_addresses(vmms, s);
		} else if (!r && json_object_get(s->host, "network")) {
			r = host_network_put(s->interface, json_object_get(s->host, "network"), err);
		}
		json_decref(now);
	}
	json_array_foreach(adapters, i, adapter)
		if (!r && is_present(json_string_value(adapter)))
			r = take_over(vmms, s, json_string_value(adapter), err);
	if (!r && is_present(home))
		see_to_clients(vmms, s, false);
	return r ? r : let_go(vmms, s, err);
}

static json_t *both(const json_t *a, const json_t *b)
{
	json_t *all = json_copy((json_t *)(uintptr_t)a);

	if (!all)
		all = json_array();
	json_array_extend(all, (json_t *)(uintptr_t)b);
	return all;
}

/* Of an internal switch. Which ones it has from us is in host.db before it has them, so that those, and no others, are taken away again. */
static int give_addresses(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	json_t *wanted = json_object_get(s->config, "addresses"), *given = json_incref(json_object_get(s->host, "addresses"));
	bool same = given ? json_equal(given, wanted) : !json_array_size(wanted);
	int r = 0;

	if (!s->host)
		s->host = json_object();
	if (!same) {
		json_object_set_new(s->host, "addresses", both(given, wanted));
		r = switch_store(vmms, s, err);
	}
	if (!r)
		r = host_addresses_set(s->interface, wanted, given, err);
	if (!r && !same) {
		json_object_set(s->host, "addresses", wanted);
		r = switch_store(vmms, s, err);
	}
	json_decref(given);
	return r;
}

int switch_settle(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	int r = 0;

	if (is_external(s))
		return settle_external(vmms, s, err);
	if (!switch_has_host(s))
		return 0;
	r = host_link_set_up(s->interface, true, err);
	return r ? r : give_addresses(vmms, s, err);
}

void switch_note_addresses(struct vmms *vmms, struct vswitch *s)
{
	json_t *now = NULL;

	if (s->phase != SWITCH_READY || !is_external(s) || !switch_has_host(s) || host_network_get(s->interface, &now, NULL))
		return;
	/* An interface that was made anew has none yet. */
	if (is_used(now) && !json_equal(now, json_object_get(s->host, "network"))) {
		json_object_set(s->host, "network", now);
		switch_store(vmms, s, NULL);
	}
	json_decref(now);
}
