/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apply_switch.c - makes Open vSwitch be the switches that standard input describes (switch/ovs_rules.h, an array of
 * them), with daemons of its own in a directory; or, where that is "[]", ends these. For tests in which a machine's port is any
 * interface.
 */
#include <errno.h>

#include "switch/ovs.h"
#include "switch/ovs_rules.h"

int main(int argc, char **argv)
{
	json_t *list = json_loadf(stdin, 0, NULL), *wanted = json_pack("{s:[]}", "bridges"), *description;
	struct ovs_place place = {.directory = argv[1], .owner = "test", .own = true};
	struct error err = {0};
	struct ovs *ovs;
	size_t i;
	int r = argc == 2 && list ? ovs_new(&ovs, &place, &err) : error_set(&err, EINVAL, "apply_switch DIRECTORY <SWITCHES");

	if (r) {
		fprintf(stderr, "apply_switch: %s\n", err.text);
		return 1;
	}
	r = ovs_start(ovs, NULL, &err);
	json_array_foreach(list, i, description) {
		json_object_set_new(description, "datapath", json_string(ovs_datapath(ovs)));
		if (!r)
			r = ovs_rules(json_object_get(wanted, "bridges"), description, &err);
	}
	if (!r)
		r = ovs_apply(ovs, wanted, &err);
	if (!json_array_size(list))
		ovs_stop(ovs);
	ovs_free(ovs);
	json_decref(wanted);
	json_decref(list);
	if (r)
		fprintf(stderr, "apply_switch: %s\n", err.text);
	return r ? 1 : 0;
}
