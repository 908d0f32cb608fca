/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/ovs_rules.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "switch/ovs_bandwidth.h"
#include "switch/ovsdb.h"

/* The VLAN that 802.1Q reserves, so that no machine can be in it: whoever is in it is alone. */
#define VLAN_ALONE 4095

/* Ports of a port bridge. */
#define INNER 1 /* the machine */
#define OUTER 2 /* the switch */

/* Packet marks, which go along from bridge to bridge: where a frame came in. 0: wherever all may be heard. */
#define MARK_ISOLATED  1
#define MARK_COMMUNITY 2 /* and the community's VLAN */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static unsigned number_of(const json_t *object, const char *key)
{
	return (unsigned)json_integer_value(json_object_get(object, key));
}

static bool is_set(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

static void name_from(char name[OVS_NAME_SIZE], const char *prefix, const char *mac)
{
	size_t used = (size_t)snprintf(name, OVS_NAME_SIZE, "%.2s", prefix);

	for (const char *c = mac; *c && used + 1 < OVS_NAME_SIZE; c++)
		if (*c != ':')
			name[used++] = *c >= 'A' && *c <= 'F' ? (char)(*c | 0x20) : *c;
	name[used] = '\0';
}

void ovs_tap_name(char name[OVS_NAME_SIZE], const char *mac, bool other)
{
	name_from(name, other ? "bn" : "bp", mac);
}

bool ovs_is_mac(const char *text)
{
	for (unsigned i = 0; i < 17; i++)
		if (i % 3 == 2 ? text[i] != ':' : !isxdigit((unsigned char)text[i]))
			return false;
	return !text[17];
}

static const char *vlan_mode(const json_t *settings)
{
	const char *mode = text_of(json_object_get(settings, "vlan"), "mode");

	return *mode ? mode : "untagged";
}

/* --- what is asked for -------------------------------------------------------------------------------------- */

enum remote_kind { REMOTE_ANY, REMOTE_IPV4, REMOTE_IPV6, REMOTE_MAC, REMOTE_NONE };

/* *length: how special it is, of one kind. */
static enum remote_kind remote_kind(const char *text, unsigned *length)
{
	unsigned long number = 0;
	char host[INET6_ADDRSTRLEN], *rest;
	const char *slash = strchr(text, '/');
	size_t size = slash ? (size_t)(slash - text) : strlen(text);
	uint8_t address[16];
	enum remote_kind kind;
	unsigned max;

	*length = 0;
	if (!strcmp(text, "any"))
		return REMOTE_ANY;
	*length = 48;
	if (ovs_is_mac(text))
		return REMOTE_MAC;
	if (size >= sizeof(host))
		return REMOTE_NONE;
	memcpy(host, text, size);
	host[size] = '\0';
	kind = strchr(host, ':') ? REMOTE_IPV6 : REMOTE_IPV4;
	max = kind == REMOTE_IPV6 ? 128 : 32;
	number = max;
	if (slash)
		number = slash[1] >= '0' && slash[1] <= '9' ? strtoul(slash + 1, &rest, 10) : max + 1;
	*length = number > max ? max : (unsigned)number;
	if (number > max || (slash && *rest) || inet_pton(kind == REMOTE_IPV6 ? AF_INET6 : AF_INET, host, address) != 1)
		return REMOTE_NONE;
	return kind;
}

static int check_vlan(const json_t *vlan, const char *where, struct error *err)
{
	const char *mode = text_of(vlan, "mode");
	bool id = json_object_get(vlan, "id"), allowed = json_array_size(json_object_get(vlan, "allowed")), secondary = json_object_get(vlan, "secondary");
	bool private = !strcmp(mode, "isolated") || !strcmp(mode, "community") || !strcmp(mode, "promiscuous");

	if (!strcmp(mode, "untagged") && (id || allowed || secondary))
		return error_set(err, EINVAL, "%svlan: of mode untagged it has no VLAN", where);
	if ((!strcmp(mode, "access") || private) && !id)
		return error_set(err, EINVAL, "%svlan.id is missing: mode %s needs a VLAN", where, mode);
	if (!strcmp(mode, "trunk") != allowed)
		return error_set(err, EINVAL, allowed ? "%svlan.allowed has no meaning but for mode trunk" : "%svlan.allowed is missing: a trunk is of some VLANs", where);
	if (!strcmp(mode, "community") != secondary)
		return error_set(err, EINVAL, secondary ? "%svlan.secondary has no meaning but for mode community"
							: "%svlan.secondary is missing: it says which community", where);
	return 0;
}

/* The machine's worker counts: a switch does nothing for it. */
static bool is_meter(const json_t *acl)
{
	return !strcmp(text_of(acl, "action"), "meter");
}

static int check_acls(const json_t *acls, const char *where, struct error *err)
{
	unsigned length, meters = 0;
	json_t *acl;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)acls, i, acl) {
		if (remote_kind(text_of(acl, "remote"), &length) == REMOTE_NONE)
			return error_set(err, EINVAL, "%sacls[%zu].remote is neither \"any\" nor an address of IPv4, IPv6 (with or without /LENGTH) or of an adapter",
			    where, i);
		meters += is_meter(acl);
	}
	if (meters > OVS_METERS_MAX)
		return error_set(err, EINVAL, "%sacls: %u are of action meter: at most %u can be", where, meters, OVS_METERS_MAX);
	return 0;
}

int ovs_settings_check(const json_t *settings, const char *where, struct error *err)
{
	const json_t *bandwidth = json_object_get(settings, "bandwidth");
	int r = json_object_get(settings, "vlan") ? check_vlan(json_object_get(settings, "vlan"), where, err) : 0;

	if (!r && json_integer_value(json_object_get(bandwidth, "minimum")) && json_integer_value(json_object_get(bandwidth, "weight")))
		r = error_set(err, EINVAL, "%sbandwidth: a minimum is told in bits, or as a weight, not both", where);
	return r ? r : check_acls(json_object_get(settings, "acls"), where, err);
}

/* --- flows ----------------------------------------------------------------------------------------------- */

/* Rules of one direction: `match` is where it comes in, "src" or "dst" which of its addresses is remote. The more special go before the
 * others, of two alike the one that denies. Asking for neighbours is no traffic with them. */
static void put_acls(FILE *to, unsigned table, unsigned in_port, const json_t *settings, const char *direction, const char *next)
{
	const char *side = *direction == 'o' ? "dst" : "src";
	bool any = false;
	json_t *acl;
	size_t i;

	json_array_foreach(json_object_get(settings, "acls"), i, acl) {
		const char *remote = text_of(acl, "remote"), *action = !strcmp(text_of(acl, "action"), "deny") ? "drop" : next;
		unsigned length, priority;
		enum remote_kind kind = remote_kind(remote, &length);

		if (strcmp(text_of(acl, "direction"), direction) || is_meter(acl))
			continue;
		any = true;
		priority = 1000 + length * 2 + (*action == 'd') + (kind == REMOTE_MAC ? 1000 : 0);
		if (kind == REMOTE_MAC)
			fprintf(to, "table=%u,priority=%u,in_port=%u,dl_%s=%s,actions=%s\n", table, priority, in_port, side, remote, action);
		if (kind == REMOTE_IPV4 || kind == REMOTE_ANY)
			fprintf(to, "table=%u,priority=%u,ip,in_port=%u,nw_%s=%s,actions=%s\n", table, priority, in_port, side,
			    kind == REMOTE_ANY ? "0.0.0.0/0" : remote, action);
		if (kind == REMOTE_IPV6 || kind == REMOTE_ANY)
			fprintf(to, "table=%u,priority=%u,ipv6,in_port=%u,ipv6_%s=%s,actions=%s\n", table, priority, in_port, side,
			    kind == REMOTE_ANY ? "::/0" : remote, action);
	}
	if (any)
		for (unsigned type = 135; type <= 136; type++)
			fprintf(to, "table=%u,priority=1900,icmp6,in_port=%u,icmp_type=%u,icmp_code=0,actions=%s\n", table, in_port, type, next);
}

/* What only servers and routers send. Of a packet in pieces only the first has the type or port: without it the others are
 * nothing. A router's message whose first piece ends before its ICMPv6 header gets past (RFC 6980 forbids those, and hosts that
 * keep to it drop them). */
static void put_guards(FILE *to, unsigned n, const json_t *settings)
{
	if (is_set(settings, "dhcp_guard"))
		fprintf(to, "table=0,priority=300,udp,in_port=%u,tp_src=67,actions=drop\n"
			    "table=0,priority=300,udp6,in_port=%u,tp_src=547,actions=drop\n", n, n);
	if (is_set(settings, "router_guard"))
		fprintf(to, "table=0,priority=300,icmp6,in_port=%u,icmp_type=134,actions=drop\n"
			    "table=0,priority=300,icmp6,in_port=%u,icmp_type=137,actions=drop\n"
			    "table=0,priority=300,icmp,in_port=%u,icmp_type=9,actions=drop\n"
			    "table=0,priority=300,icmp,in_port=%u,icmp_type=5,actions=drop\n", n, n, n, n);
}

/* Of a frame with two tags Open vSwitch takes the first for its VLAN, and the second for what the frame carries: what is behind it no rule would see. */
static void put_no_double_tags(FILE *to, unsigned in_port)
{
	static const unsigned types[] = {0x8100, 0x88a8};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		fprintf(to, "table=0,priority=350,in_port=%u,dl_type=0x%04x,actions=drop\n", in_port, types[i]);
}

/* Table 0: who may send what; 1: to whom; 2: how much, and by which of the uplink's queues. */
static void put_port_flows(FILE *to, const json_t *port, const json_t *queues)
{
	const json_t *settings = json_object_get(port, "settings");
	unsigned n = number_of(port, "number");
	char meter[24] = "", queue[24] = "", number[16];

	/* Open vSwitch drops that by itself as long as there is a mirror; when the mirror goes, what it has decided for frames that keep coming is looked at again
	 * for sure only if a flow goes too. */
	if (!strcmp(text_of(settings, "mirror"), "destination"))
		fprintf(to, "table=0,priority=400,in_port=%u,actions=drop\n", n);
	put_no_double_tags(to, n);
	put_guards(to, n, settings);
	if (is_set(port, "any_mac"))
		fprintf(to, "table=0,priority=200,in_port=%u,actions=resubmit(,1)\n", n);
	else
		fprintf(to, "table=0,priority=200,in_port=%u,dl_src=%s,actions=resubmit(,1)\n"
			    "table=0,priority=100,in_port=%u,actions=drop\n", n, text_of(port, "mac"), n);
	put_acls(to, 1, n, settings, "out", "resubmit(,2)");
	snprintf(number, sizeof(number), "%u", n);
	if (ovs_bandwidth_maximum(settings))
		snprintf(meter, sizeof(meter), "meter:%u,", n);
	if (json_object_get(queues, number))
		snprintf(queue, sizeof(queue), "set_queue:%u,", n);
	if (*meter || *queue)
		fprintf(to, "table=2,priority=100,in_port=%u,actions=%s%sresubmit(,3)\n", n, meter, queue);
}

static json_t *flows_of(const json_t *description, const json_t *queues)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	json_t *port, *json;
	size_t i;

	if (!to)
		return NULL;
	if (!is_set(description, "host"))
		fprintf(to, "table=0,priority=400,in_port=LOCAL,actions=drop\n");
	/* A mark is ours: what the host's own programs have put there says nothing. */
	fprintf(to, "table=0,priority=0,in_port=LOCAL,actions=set_field:0->pkt_mark,NORMAL\n");
	for (i = 1; i <= json_array_size(json_object_get(description, "members")); i++)
		fprintf(to, "table=0,priority=0,in_port=%zu,actions=set_field:0->pkt_mark,NORMAL\n", i);
	fprintf(to, "table=1,priority=0,actions=resubmit(,2)\n");
	fprintf(to, "table=2,priority=0,actions=resubmit(,3)\n");
	fprintf(to, "table=3,priority=0,actions=NORMAL\n");
	json_array_foreach(json_object_get(description, "ports"), i, port)
		put_port_flows(to, port, queues);
	fclose(to);
	json = text ? json_string(text) : NULL;
	free(text);
	return json;
}

/* --- bridges --------------------------------------------------------------------------------------------- */

/* Every column of ours is told each time, so that what is not wanted any more goes. */
static json_t *port_columns(void)
{
	static const char *const sets[] = {"tag", "trunks", "vlan_mode", "bond_mode", "lacp"};
	json_t *columns = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		json_object_set_new(columns, sets[i], ovsdb_set(json_array()));
	json_object_set_new(columns, "other_config", ovsdb_map(NULL));
	json_object_set_new(columns, "qos", ovsdb_set(json_array()));
	return columns;
}

static json_t *access_columns(unsigned vlan)
{
	json_t *columns = port_columns();

	json_object_set_new(columns, "tag", json_integer(vlan));
	json_object_set_new(columns, "vlan_mode", json_string("access"));
	return columns;
}

/* The database takes no set in which something is twice. */
static void add_once(json_t *list, json_t *value)
{
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
		if (json_equal(one, value))
			return;
	json_array_append(list, value);
}

static json_t *vlan_columns(const json_t *settings)
{
	const json_t *vlan = json_object_get(settings, "vlan");
	json_t *columns, *trunks, *one;
	size_t i;

	if (strcmp(vlan_mode(settings), "trunk"))
		return access_columns(number_of(vlan, "id"));
	columns = port_columns();
	trunks = json_array();
	json_array_foreach(json_object_get(vlan, "allowed"), i, one)
		add_once(trunks, one);
	json_object_set_new(columns, "vlan_mode", json_string(json_object_get(vlan, "id") ? "native-untagged" : "trunk"));
	if (json_object_get(vlan, "id")) {
		json_object_set(columns, "tag", json_object_get(vlan, "id"));
		add_once(trunks, json_object_get(vlan, "id"));
	}
	json_object_set_new(columns, "trunks", ovsdb_set(trunks));
	return columns;
}

static json_t *interface(const char *name, const char *type, unsigned number, bool must)
{
	json_t *columns = json_pack("{s:s, s:o}", "type", type, "options", ovsdb_map(NULL));

	if (number)
		json_object_set_new(columns, "ofport_request", json_integer(number));
	return json_pack("{s:s, s:o, s:b}", "name", name, "columns", columns, "must", must);
}

static json_t *patch(const char *name, const char *peer, unsigned number)
{
	json_t *json = interface(name, "patch", number, false), *options = json_pack("{s:s}", "peer", peer);

	json_object_set_new(json_object_get(json, "columns"), "options", ovsdb_map(options));
	json_decref(options);
	return json;
}

static json_t *single(const char *name, json_t *columns, json_t *one)
{
	return json_pack("{s:s, s:o, s:[o]}", "name", name, "columns", columns, "interfaces", one);
}

static json_t *bridge_columns(const json_t *description, const char *mac)
{
	json_t *other = json_object(), *columns;

	if (mac)
		json_object_set_new(other, "hwaddr", json_string(mac));
	columns = json_pack("{s:O, s:s, s:o}", "datapath_type", json_object_get(description, "datapath"), "fail_mode", "secure", "other_config", ovsdb_map(other));
	json_decref(other);
	return columns;
}

/* The bridge's own interface is the host's adapter; where the host is not on the switch it is there all the same, and alone. */
static json_t *local_port(const char *name, bool host, unsigned vlan, unsigned mtu)
{
	json_t *one = interface(name, "internal", 0, host);

	if (mtu)
		json_object_set_new(json_object_get(one, "columns"), "mtu_request", json_integer(mtu));
	return single(name, access_columns(host ? vlan : VLAN_ALONE), one);
}

static json_t *with_queue(json_t *port, json_t *queue)
{
	if (queue)
		json_object_set_new(port, "qos", queue);
	return port;
}

static json_t *uplink(const json_t *description, json_t *queue, bool must)
{
	const char *team = text_of(description, "team"), *name = text_of(description, "name");
	json_t *members = json_object_get(description, "members"), *interfaces = json_array(), *columns = port_columns(), *member, *other;
	bool lacp = !strcmp(team, "lacp");
	char bond[OVS_NAME_SIZE];
	size_t i;

	json_array_foreach(members, i, member)
		json_array_append_new(interfaces, interface(json_string_value(member), "", (unsigned)i + 1, is_set(description, "must")));
	snprintf(bond, sizeof(bond), "%.10s-team", name);
	if (json_array_size(members) > 1)
		json_object_set_new(columns, "bond_mode", json_string(lacp ? "balance-tcp" : team));
	if (lacp) {
		other = json_pack("{s:s}", "lacp-time", "fast");
		json_object_set_new(columns, "lacp", json_string("active"));
		json_object_set_new(columns, "other_config", ovsdb_map(other));
		json_decref(other);
	}
	return with_queue(json_pack("{s:s, s:o, s:o, s:b}", "name", bond, "columns", columns, "interfaces", interfaces, "must", must), queue);
}

/* --- port bridges: what goes to a machine ------------------------------------------------------------------- */

static bool needs_bridge(const json_t *settings)
{
	const char *mode = vlan_mode(settings);
	json_t *acl;
	size_t i;

	json_array_foreach(json_object_get(settings, "acls"), i, acl)
		if (!strcmp(text_of(acl, "direction"), "in") && !is_meter(acl))
			return true;
	return !strcmp(mode, "isolated") || !strcmp(mode, "community");
}

static json_t *inner_flows(const json_t *settings)
{
	const char *mode = vlan_mode(settings);
	bool isolated = !strcmp(mode, "isolated"), community = !strcmp(mode, "community");
	unsigned mark = isolated ? MARK_ISOLATED : community ? MARK_COMMUNITY + number_of(json_object_get(settings, "vlan"), "secondary") : 0;
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	json_t *json;

	if (!to)
		return NULL;
	if (mark)
		fprintf(to, "table=0,in_port=%d,actions=set_field:%u->pkt_mark,output:%d\n", INNER, mark, OUTER);
	else
		fprintf(to, "table=0,in_port=%d,actions=output:%d\n", INNER, OUTER);
	if (community)
		fprintf(to, "table=0,priority=200,in_port=%d,pkt_mark=%u,actions=resubmit(,1)\n", OUTER, mark);
	if (isolated || community)
		fprintf(to, "table=0,priority=200,in_port=%d,pkt_mark=0,actions=resubmit(,1)\n"
			    "table=0,priority=100,in_port=%d,actions=drop\n", OUTER, OUTER);
	else
		fprintf(to, "table=0,priority=100,in_port=%d,actions=resubmit(,1)\n", OUTER);
	put_no_double_tags(to, OUTER);
	put_acls(to, 1, OUTER, settings, "in", "output:1");
	fprintf(to, "table=1,priority=0,actions=output:%d\n", INNER);
	fclose(to);
	json = text ? json_string(text) : NULL;
	free(text);
	return json;
}

static json_t *inner_bridge(const json_t *description, const json_t *port)
{
	char name[OVS_NAME_SIZE], outer[OVS_NAME_SIZE], inner[OVS_NAME_SIZE];
	const char *mac = text_of(port, "mac");

	name_from(name, "bq", mac);
	name_from(outer, "bo", mac);
	name_from(inner, "bi", mac);
	return json_pack("{s:s, s:O, s:o, s:o, s:[o, o, o]}", "name", name, "of", json_object_get(description, "name"), "columns", bridge_columns(description, NULL), "flows",
	    inner_flows(json_object_get(port, "settings")), "ports", local_port(name, false, 0, 0),
	    with_queue(single(text_of(port, "name"), port_columns(), interface(text_of(port, "name"), "", INNER, is_set(port, "must"))),
		ovs_bandwidth_tap(json_object_get(port, "settings"))),
	    single(inner, port_columns(), patch(inner, outer, OUTER)));
}

/* The machine's port of the switch: its tap, or the way to the bridge that has it. */
static json_t *machine_port(const json_t *port, char name[OVS_NAME_SIZE])
{
	const json_t *settings = json_object_get(port, "settings");
	const char *mac = text_of(port, "mac");
	char inner[OVS_NAME_SIZE];

	if (needs_bridge(settings)) {
		name_from(name, "bo", mac);
		name_from(inner, "bi", mac);
		return single(name, vlan_columns(settings), patch(name, inner, number_of(port, "number")));
	}
	snprintf(name, OVS_NAME_SIZE, "%s", text_of(port, "name"));
	return with_queue(single(name, vlan_columns(settings), interface(name, "", number_of(port, "number"), is_set(port, "must"))),
	    ovs_bandwidth_tap(settings));
}

/* --- the switch ------------------------------------------------------------------------------------------- */

static void add_mirrors(json_t *bridge, const json_t *sources, const json_t *targets)
{
	json_t *mirrors = json_array(), *target;
	size_t i;

	json_array_foreach(targets, i, target)
		if (json_array_size(sources))
			json_array_append_new(mirrors, json_pack("{s:O, s:O, s:O}", "name", target, "sources", sources, "target", target));
	json_object_set_new(bridge, "mirrors", mirrors);
}

int ovs_rules(json_t *bridges, const json_t *description, struct error *err)
{
	const char *name = text_of(description, "name"), *mac = json_string_value(json_object_get(description, "mac"));
	json_t *ports = json_array(), *sources = json_array(), *targets = json_array(), *port, *bridge, *queue = ovs_bandwidth_uplink(description);
	bool must = false;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(description, "ports"), i, port) {
		if (!r && is_set(port, "must"))
			r = ovs_bandwidth_check(description, port, err);
		must |= is_set(port, "must") && ovs_bandwidth_has_part(json_object_get(port, "settings"));
	}
	if (r) {
		json_decref(ports);
		json_decref(sources);
		json_decref(targets);
		json_decref(queue);
		return r;
	}
	json_array_append_new(ports, local_port(name, is_set(description, "host"), number_of(description, "vlan"), number_of(description, "mtu")));
	if (json_array_size(json_object_get(description, "members")))
		json_array_append_new(ports, uplink(description, json_incref(queue), must));
	json_array_foreach(json_object_get(description, "ports"), i, port) {
		const char *mirror = text_of(json_object_get(port, "settings"), "mirror");
		char of[OVS_NAME_SIZE];

		json_array_append_new(ports, machine_port(port, of));
		if (!strcmp(mirror, "source"))
			json_array_append_new(sources, json_string(of));
		if (!strcmp(mirror, "destination"))
			json_array_append_new(targets, json_string(of));
		if (needs_bridge(json_object_get(port, "settings")))
			json_array_append_new(bridges, inner_bridge(description, port));
	}
	bridge = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "name", name, "of", name, "columns", bridge_columns(description, mac), "ports", ports, "flows",
	    flows_of(description, json_object_get(queue, "queues")), "meters", ovs_bandwidth_meters(description));
	if (bridge)
		add_mirrors(bridge, sources, targets);
	json_decref(sources);
	json_decref(targets);
	json_decref(queue);
	return bridge && !json_array_append_new(bridges, bridge) ? 0 : error_set(err, ENOMEM, "no memory for switch %s", name);
}
