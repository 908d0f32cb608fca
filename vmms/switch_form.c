/* SPDX-License-Identifier: GPL-2.0-or-later */
/* switch_form.c - what a switch, and a machine's adapter on one, may be told. */
#include <errno.h>
#include <string.h>

#include "switch/host_link.h"
#include "vmms/switches.h"

static int check_name(const char *name, struct error *err)
{
	static const char *const taken[] = {"nat", "none", "tap", "host"};

	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (!strcmp(name, taken[i]))
			return error_set(err, EINVAL, "has another meaning: choose another name");
	return vm_name_check(name, err);
}

static int check_interface(const char *name, struct error *err)
{
	for (const char *c = name; *c; c++)
		if ((unsigned char)*c <= ' ' || *c == 0x7f || *c == '/' || *c == ':')
			return error_set(err, EINVAL, "is no name of a network adapter");
	return !strcmp(name, ".") || !strcmp(name, "..") ? error_set(err, EINVAL, "is no name of a network adapter") : 0;
}

static const char *const type_words[] = {"external", "internal", "private", NULL};
static const char *const team_words[] = {"active-backup", "balance-slb", "lacp", NULL};
static const char *const mode_words[] = {"untagged", "access", "trunk", "isolated", "community", "promiscuous", NULL};
static const char *const mirror_words[] = {"none", "source", "destination", NULL};
static const char *const direction_words[] = {"in", "out", NULL};
static const char *const action_words[] = {"allow", "deny", "meter", NULL};

static const struct form form_name = {.kind = FORM_STRING, .text = "no other switch of the host has it", .min = 1, .max = 50, .check = check_name};
static const struct form form_type = {
    .kind = FORM_WORD, .text = "whom machines reach: what is behind the host's adapters too, the host, or one another", .words = type_words};
static const struct form form_interface = {.kind = FORM_STRING, .min = 1, .max = 15, .check = check_interface};
static const struct form form_adapters = {
    .kind = FORM_LIST, .text = "adapters of the host, of an external switch; several are a team", .min = 0, .max = 8, .items = &form_interface};
static const struct form form_team = {.kind = FORM_WORD, .text = "how several adapters share the traffic", .words = team_words};
static const struct form form_host = {.kind = FORM_BOOLEAN, .text = "whether the host keeps using the adapters of an external switch"};
static const struct form form_host_vlan = {.kind = FORM_INTEGER, .text = "of the host's own adapter; 0: none", .min = 0, .max = 4094};
static const struct form form_address = {.kind = FORM_STRING, .min = 3, .max = 64, .check = host_address_check};
static const struct form form_addresses = {
    .kind = FORM_LIST, .text = "of the host on an internal switch, as 192.0.2.1/24", .min = 0, .max = 16, .items = &form_address};
static const struct form form_rate = {
    .kind = FORM_INTEGER, .text = "bits in a second that an adapter can send, of which ports may have parts; 0: what the adapter tells", .min = 0, .max = 1000000000000};
static const struct form form_notes = {.kind = FORM_STRING, .text = "for people", .min = 0, .max = 65536};

const struct form switch_form = {.kind = FORM_OBJECT,
				 .text = "a virtual switch",
				 .fields = (const struct form_field[]){
				     {"name", &form_name, NULL, true},
				     {"type", &form_type, NULL, true},
				     {"adapters", &form_adapters, "[]", false},
				     {"team", &form_team, "\"active-backup\"", false},
				     {"host", &form_host, "true", false},
				     {"vlan", &form_host_vlan, "0", false},
				     {"addresses", &form_addresses, "[]", false},
				     {"bandwidth", &form_rate, "0", false},
				     {"notes", &form_notes, "\"\"", false},
				     {0},
				 }};

static const struct form form_shown_adapters = {.kind = FORM_LIST, .min = 0, .max = INT64_MAX, .items = &answer_text};
static const struct form form_vms = {.kind = FORM_LIST, .text = "machines with an adapter on it", .min = 0, .max = INT64_MAX, .items = &answer_text};
static const struct form form_plugged = {.kind = FORM_OBJECT,
					 .text = "an adapter of a machine that runs",
					 .fields = (const struct form_field[]){
					     {"interface", &answer_text, NULL, true},
					     {"vm", &answer_text, NULL, true},
					     {"mac", &answer_text, NULL, true},
					     {0},
					 }};
static const struct form form_ports = {.kind = FORM_LIST, .min = 0, .max = INT64_MAX, .items = &form_plugged};
static const struct form form_link = {.kind = FORM_BOOLEAN, .text = "it has a link"};
static const struct form form_active = {.kind = FORM_BOOLEAN, .text = "of a team: it is the active one"};
static const struct form form_lacp = {.kind = FORM_BOOLEAN, .text = "of a team with LACP: the partner agrees"};
static const struct form form_member = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){
					    {"name", &answer_text, NULL, true},
					    {"link", &form_link, NULL, true},
					    {"active", &form_active, NULL, false},
					    {"lacp", &form_lacp, NULL, false},
					    {0},
					}};
static const struct form form_members = {.kind = FORM_LIST, .text = "its adapters as they are", .min = 0, .max = INT64_MAX, .items = &form_member};
static const struct form form_problem = {.kind = FORM_STRING, .text = "what is wrong with it", .max = INT64_MAX};
const struct form switch_shown_form = {.kind = FORM_OBJECT,
				       .name = "Switch",
				       .text = "a virtual switch",
				       .fields = (const struct form_field[]){
					   {"name", &answer_text, NULL, true},
					   {"type", &form_type, NULL, true},
					   {"adapters", &form_shown_adapters, NULL, true},
					   {"team", &form_team, NULL, true},
					   {"host", &form_host, NULL, true},
					   {"vlan", &form_host_vlan, NULL, true},
					   {"addresses", &form_addresses, NULL, true},
					   {"bandwidth", &form_rate, NULL, true},
					   {"notes", &form_notes, NULL, true},
					   {"etag", &answer_text, NULL, true},
					   {"interface", &answer_text, NULL, true},
					   {"vms", &form_vms, NULL, true},
					   {"ports", &form_ports, NULL, true},
					   {"problem", &form_problem, NULL, false},
					   {"members", &form_members, NULL, false},
					   {0},
				       }};

const struct form switch_change_form = {.kind = FORM_OBJECT,
					.text = "what is to change; keys that are not there stay as they are",
					.fields = (const struct form_field[]){
					    {"adapters", &form_adapters, NULL, false},
					    {"team", &form_team, NULL, false},
					    {"vlan", &form_host_vlan, NULL, false},
					    {"addresses", &form_addresses, NULL, false},
					    {"bandwidth", &form_rate, NULL, false},
					    {"notes", &form_notes, NULL, false},
					    {0},
					}};

static const struct form form_mode = {.kind = FORM_WORD, .text = "of its VLANs", .words = mode_words};
static const struct form form_vlan_id = {
    .kind = FORM_INTEGER, .text = "access: its VLAN; trunk: that of untagged frames; isolated, community, promiscuous: the primary", .min = 1, .max = 4094};
static const struct form form_secondary = {.kind = FORM_INTEGER, .text = "of a community", .min = 1, .max = 4094};
static const struct form form_some_vlan = {.kind = FORM_INTEGER, .min = 1, .max = 4094};
static const struct form form_allowed = {.kind = FORM_LIST, .text = "VLANs of a trunk", .min = 0, .max = 4094, .items = &form_some_vlan};
static const struct form form_vlan = {.kind = FORM_OBJECT,
				      .fields = (const struct form_field[]){
					  {"mode", &form_mode, "\"untagged\"", false},
					  {"id", &form_vlan_id, NULL, false},
					  {"secondary", &form_secondary, NULL, false},
					  {"allowed", &form_allowed, NULL, false},
					  {0},
				      }};
static const struct form form_maximum = {
    .kind = FORM_INTEGER, .text = "bits in a second that it may send; 0: no limit", .min = 0, .max = 1000000000000};
static const struct form form_maximum_in = {
    .kind = FORM_INTEGER, .text = "bits in a second that it is sent; 0: no limit", .min = 0, .max = 1000000000000};
static const struct form form_minimum = {
    .kind = FORM_INTEGER, .text = "bits in a second of the switch's adapters that it always has, in the kernel's datapath; 0: none", .min = 0, .max = 1000000000000};
static const struct form form_weight = {
    .kind = FORM_INTEGER, .text = "the same, beside others' weights, of what minimums leave; 0: none", .min = 0, .max = 100};
static const struct form form_bandwidth = {.kind = FORM_OBJECT,
					   .fields = (const struct form_field[]){
					       {"maximum", &form_maximum, "0", false},
					       {"maximum_in", &form_maximum_in, "0", false},
					       {"minimum", &form_minimum, NULL, false},
					       {"weight", &form_weight, NULL, false},
					       {0},
					   }};
static const struct form form_protected = {
    .kind = FORM_BOOLEAN, .text = "that its network is lost is told, for a cluster that moves the machine to another host"};
static const struct form form_dhcp_guard = {.kind = FORM_BOOLEAN, .text = "it may not answer as a DHCP server"};
static const struct form form_router_guard = {.kind = FORM_BOOLEAN, .text = "it may neither advertise itself as a router nor redirect"};
static const struct form form_mirror = {
    .kind = FORM_WORD, .text = "source: what it sends and gets goes to each destination of the switch, which does nothing but listen", .words = mirror_words};
static const struct form form_direction = {.kind = FORM_WORD, .text = "in: to the machine", .words = direction_words};
static const struct form form_remote = {.kind = FORM_STRING, .text = "any, an address of IPv4 or IPv6 with or without /LENGTH, or of an adapter",
					.min = 2, .max = 64};
static const struct form form_action = {
    .kind = FORM_WORD, .text = "meter: resource metering tells its traffic apart, whatever the adapter is plugged into", .words = action_words};
static const struct form form_acl = {.kind = FORM_OBJECT,
				     .fields = (const struct form_field[]){
					 {"direction", &form_direction, NULL, true},
					 {"remote", &form_remote, NULL, true},
					 {"action", &form_action, NULL, true},
					 {0},
				     }};
static const struct form form_acls = {.kind = FORM_LIST, .text = "the most special one counts; what none is for passes", .min = 0, .max = 256,
				      .items = &form_acl};

const struct form adapter_settings_form = {.kind = FORM_OBJECT,
					   .text = "of its port, on a switch",
					   .fields = (const struct form_field[]){
					       {"vlan", &form_vlan, "{}", false},
					       {"bandwidth", &form_bandwidth, "{}", false},
					       {"dhcp_guard", &form_dhcp_guard, "false", false},
					       {"router_guard", &form_router_guard, "false", false},
					       {"mirror", &form_mirror, "\"none\"", false},
					       {"protected", &form_protected, "true", false},
					       {"acls", &form_acls, "[]", false},
					       {0},
					   }};

int switch_config_check(const json_t *config, struct error *err)
{
	const char *type = json_string_value(json_object_get(config, "type"));
	json_t *adapters = json_object_get(config, "adapters"), *adapter;
	size_t count = json_array_size(adapters), i;
	bool external = !strcmp(type, "external");

	if (external && !count)
		return error_set(err, EINVAL, "adapters: an external switch needs an adapter of the host");
	if (!external && count)
		return error_set(err, EINVAL, "adapters: %s switch has none of the host's adapters", !strcmp(type, "internal") ? "an internal" : "a private");
	if (strcmp(type, "internal") && json_array_size(json_object_get(config, "addresses")))
		return error_set(err, EINVAL, "addresses: only on an internal switch the host has addresses of its own choice");
	if (!strcmp(type, "private") && json_integer_value(json_object_get(config, "vlan")))
		return error_set(err, EINVAL, "vlan: the host is not on a private switch");
	if (!external && json_integer_value(json_object_get(config, "bandwidth")))
		return error_set(err, EINVAL, "bandwidth: it is that of the adapters of an external switch");
	json_array_foreach(adapters, i, adapter)
		for (size_t k = 0; k < i; k++)
			if (json_equal(adapter, json_array_get(adapters, k)))
				return error_set(err, EINVAL, "adapters[%zu] is adapters[%zu] again", i, k);
	return 0;
}
