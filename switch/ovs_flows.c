/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ovs_flows.c - flows and meters, by Open vSwitch's own ovs-ofctl. */
#include <errno.h>
#include <string.h>

#include "switch/ovs_private.h"
#include "switch/program.h"

#define SECONDS 5u

static int control(const struct ovs *ovs, const char *const *argv, const char *input, struct error *err)
{
	struct ovs_environment environment;

	ovs_environment(ovs, &environment);
	return program_run(argv, input, environment.list, SECONDS, err);
}

/* There is no word for "whether it is there or not". */
static int put_meter(const struct ovs *ovs, const char *target, const char *meter, struct error *err)
{
	const char *argv[] = {"ovs-ofctl", "-O", "OpenFlow14", "mod-meter", target, meter, NULL};

	if (!control(ovs, argv, NULL, NULL))
		return 0;
	argv[3] = "add-meter";
	return control(ovs, argv, NULL, err);
}

static int put_meters(const struct ovs *ovs, const char *target, const json_t *meters, const json_t *before, struct error *err)
{
	const char *number;
	json_t *text;
	int r = 0;

	json_object_foreach((json_t *)(uintptr_t)meters, number, text) {
		_cleanup_free_ char *meter = NULL;

		if (json_equal(text, json_object_get(before, number)))
			continue;
		if (asprintf(&meter, "meter=%s,%s", number, json_string_value(text)) < 0)
			return error_set(err, ENOMEM, "no memory");
		r = put_meter(ovs, target, meter, err);
		if (r)
			break;
	}
	return r;
}

static void drop_meters(const struct ovs *ovs, const char *target, const json_t *meters, const json_t *before)
{
	const char *number;
	json_t *text;

	json_object_foreach((json_t *)(uintptr_t)before, number, text) {
		_cleanup_free_ char *meter = NULL;
		const char *argv[] = {"ovs-ofctl", "-O", "OpenFlow14", "del-meter", target, NULL, NULL};

		if (json_object_get(meters, number) || asprintf(&meter, "meter=%s", number) < 0)
			continue;
		argv[5] = meter;
		control(ovs, argv, NULL, NULL);
	}
}

int ovs_put_flows(struct ovs *ovs, const json_t *bridge, struct error *err)
{
	const char *name = json_string_value(json_object_get(bridge, "name")), *flows = json_string_value(json_object_get(bridge, "flows"));
	const json_t *meters = json_object_get(bridge, "meters"), *before;
	_cleanup_free_ char *target = NULL;
	const char *argv[] = {"ovs-ofctl", "-O", "OpenFlow14", "--bundle", "replace-flows", NULL, "-", NULL};
	/* Of a packet in pieces the first has its ports and types; else none would. */
	const char *pieces[] = {"ovs-ofctl", "-O", "OpenFlow14", "set-frags", NULL, "nx-match", NULL};
	int pid = ovs_switch_pid(ovs), r;

	if (!ovs->flows || ovs->flows_pid != pid) {
		json_decref(ovs->flows);
		ovs->flows = json_object();
		ovs->flows_pid = pid;
	}
	before = json_object_get(ovs->flows, name);
	if (before && json_equal(json_object_get(before, "flows"), json_object_get(bridge, "flows")) &&
	    json_equal(json_object_get(before, "meters"), meters))
		return 0;
	if (asprintf(&target, "unix:%s/%s.mgmt", ovs->directory, name) < 0)
		return error_set(err, ENOMEM, "no memory");
	argv[5] = target;
	pieces[4] = target;
	r = before ? 0 : control(ovs, pieces, NULL, err);
	if (!r)
		r = put_meters(ovs, target, meters, json_object_get(before, "meters"), err);
	if (!r)
		r = control(ovs, argv, flows ? flows : "", err);
	if (!r) {
		drop_meters(ovs, target, meters, json_object_get(before, "meters"));
		json_object_set_new(ovs->flows, name, json_pack("{s:O*, s:O*}", "flows", json_object_get(bridge, "flows"), "meters", meters));
	} else {
		json_object_del(ovs->flows, name);
	}
	if (r)
		error_prefix(err, "the rules of switch %s cannot be put in place", name);
	return r;
}
