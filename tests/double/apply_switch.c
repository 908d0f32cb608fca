/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apply_switch.c - makes Open vSwitch be the switches that standard input describes (switch/ovs_rules.h, an array of
 * them), with daemons of its own in a directory; or, where that is "[]", ends these. For tests in which a machine's port is any
 * interface. With "as-system" behind the directory what is told is what the kernel's datapath would be told, in whichever there is. Queues that the kernel
 * does not have, and nobody must, are told on standard output.
 */
#include <errno.h>
#include <string.h>

#include "switch/ovs.h"
#include "switch/ovs_rules.h"

/* What of it need not be in force, and is not. */
static void print_problems(const json_t *bridges)
{
	json_t *bridge;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)bridges, i, bridge)
		if (json_object_get(bridge, "problem"))
			printf("%s\n", json_string_value(json_object_get(bridge, "problem")));
}

static void set_datapath(const json_t *bridges, const char *datapath)
{
	json_t *bridge;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)bridges, i, bridge)
		json_object_set_new(json_object_get(bridge, "columns"), "datapath_type", json_string(datapath));
}

int main(int argc, char **argv)
{
	bool as_system = argc == 3 && !strcmp(argv[2], "as-system");
	json_t *list = json_loadf(stdin, 0, NULL), *wanted = json_pack("{s:[]}", "bridges"), *description;
	struct ovs_place place = {.directory = argv[1], .owner = "test", .own = true};
	struct error err = {0};
	struct ovs *ovs;
	size_t i;
	int r = (argc == 2 || as_system) && list ? ovs_new(&ovs, &place, &err) : error_set(&err, EINVAL, "apply_switch DIRECTORY [as-system] <SWITCHES");

	if (r) {
		fprintf(stderr, "apply_switch: %s\n", err.text);
		return 1;
	}
	r = ovs_start(ovs, NULL, &err);
	json_array_foreach(list, i, description) {
		json_object_set_new(description, "datapath", json_string(as_system ? "system" : ovs_datapath(ovs)));
		if (!r)
			r = ovs_rules(json_object_get(wanted, "bridges"), description, &err);
	}
	set_datapath(json_object_get(wanted, "bridges"), ovs_datapath(ovs));
	if (!r)
		r = ovs_apply(ovs, wanted, &err);
	print_problems(json_object_get(wanted, "bridges"));
	if (!json_array_size(list))
		ovs_stop(ovs);
	ovs_free(ovs);
	json_decref(wanted);
	json_decref(list);
	if (r)
		fprintf(stderr, "apply_switch: %s\n", err.text);
	return r ? 1 : 0;
}
