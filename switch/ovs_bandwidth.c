/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/ovs_bandwidth.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "switch/host_link.h"

/* The class in which all others of an interface's htb are (Open vSwitch's choice), and that of queue N. */
#define CLASS_ALL    0xfffeu
#define CLASS_OF(n) ((n) + 1u)

static json_int_t number_in(const json_t *settings, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(settings, "bandwidth"), key));
}

bool ovs_bandwidth_has_part(const json_t *settings)
{
	return number_in(settings, "minimum") || number_in(settings, "weight");
}

/* --- what it may send -------------------------------------------------------------------------------------- */

json_int_t ovs_bandwidth_maximum(const json_t *settings)
{
	return (number_in(settings, "maximum") + 999) / 1000;
}

/* What comes in one go may be a quarter of a second's. */
json_t *ovs_bandwidth_meters(const json_t *description)
{
	json_t *meters = json_object(), *port;
	char number[16];
	size_t i;

	json_array_foreach(json_object_get(description, "ports"), i, port) {
		json_int_t rate = ovs_bandwidth_maximum(json_object_get(port, "settings"));

		if (!rate)
			continue;
		snprintf(number, sizeof(number), "%u", (unsigned)json_integer_value(json_object_get(port, "number")));
		json_object_set_new(meters, number, json_sprintf("kbps,burst,bands=type=drop,rate=%lld,burst_size=%lld", (long long)rate,
						      (long long)(rate / 4 > 200 ? rate / 4 : 200)));
	}
	return meters;
}

/* --- what it is sent ---------------------------------------------------------------------------------------- */

/* Held back by the kernel, in either datapath. Below a kilobit nothing would ever come. */
json_t *ovs_bandwidth_tap(const json_t *settings)
{
	json_int_t rate = number_in(settings, "maximum_in");

	return rate ? json_pack("{s:I, s:{}}", "max", rate < 1000 ? 1000 : rate, "queues") : NULL;
}

/* --- what it can always send --------------------------------------------------------------------------------- */

/* Of an uplink; in bits a second. A tenth is for whoever is promised nothing, the host among them. */
struct parts {
	json_int_t rate, usable, absolute, weights;
};

static struct parts parts_of(const json_t *description)
{
	struct parts parts = {.rate = json_integer_value(json_object_get(description, "rate"))};
	json_t *port;
	size_t i;

	parts.usable = parts.rate / 10 * 9;
	json_array_foreach(json_object_get(description, "ports"), i, port) {
		parts.absolute += number_in(json_object_get(port, "settings"), "minimum");
		parts.weights += number_in(json_object_get(port, "settings"), "weight");
	}
	return parts;
}

/* Where more was promised than there is by now each gets that much less. Weights have what is left. */
static json_int_t part_of(const struct parts *parts, const json_t *settings)
{
	double absolute = (double)number_in(settings, "minimum"), scale = parts->absolute > parts->usable ? (double)parts->usable / (double)parts->absolute : 1;
	double left = parts->absolute < parts->usable ? (double)(parts->usable - parts->absolute) : 0;

	return (json_int_t)(absolute > 0 ? absolute * scale : left * (double)number_in(settings, "weight") / (double)parts->weights);
}

static bool has_queues(const json_t *description)
{
	const char *datapath = json_string_value(json_object_get(description, "datapath"));

	return datapath && !strcmp(datapath, "system");
}

json_t *ovs_bandwidth_uplink(const json_t *description)
{
	struct parts parts = parts_of(description);
	json_t *queues, *port;
	json_int_t rest = parts.rate;
	char number[16];
	size_t i;

	if (!has_queues(description) || !parts.rate || (!parts.absolute && !parts.weights))
		return NULL;
	queues = json_object();
	json_array_foreach(json_object_get(description, "ports"), i, port) {
		const json_t *settings = json_object_get(port, "settings");
		json_int_t part = ovs_bandwidth_has_part(settings) ? part_of(&parts, settings) : 0;

		if (!ovs_bandwidth_has_part(settings))
			continue;
		snprintf(number, sizeof(number), "%u", (unsigned)json_integer_value(json_object_get(port, "number")));
		json_object_set_new(queues, number, json_integer(part));
		rest -= part;
	}
	json_object_set_new(queues, "0", json_integer(rest));
	return json_pack("{s:I, s:o}", "max", parts.rate, "queues", queues);
}

int ovs_bandwidth_check(const json_t *description, const json_t *port, struct error *err)
{
	const json_t *settings = json_object_get(port, "settings");
	const char *key = number_in(settings, "minimum") ? "minimum" : "weight";
	struct parts parts = parts_of(description);

	if (!ovs_bandwidth_has_part(settings))
		return 0;
	if (!json_array_size(json_object_get(description, "members")))
		return error_set(err, EINVAL, "bandwidth.%s is a part of what the adapters of an external switch can send: this switch has none", key);
	if (!has_queues(description))
		return error_set(err, ENOTSUP,
		    "bandwidth.%s cannot be promised: Open vSwitch's userspace datapath, which this host uses for want of the kernel's module openvswitch, has one "
		    "queue for all: limit what others may send (bandwidth.maximum)", key);
	if (!parts.rate)
		return error_set(err, EALREADY, "bandwidth.%s cannot be promised: the switch's adapters do not tell how much they can send: say it (bulkhead switch set "
				 "NAME --bandwidth RATE)", key);
	if (number_in(settings, "minimum") && parts.absolute > parts.usable)
		return error_set(err, EBUSY, "bandwidth.minimum cannot be promised: it would be %lld bits in a second of %lld with what others of the switch are promised, "
				 "and a tenth stays for those who are promised nothing", (long long)parts.absolute, (long long)parts.rate);
	return 0;
}

/* --- in force -------------------------------------------------------------------------------------------------- */

/* Whole bytes, as Open vSwitch tells them to the kernel. */
static bool class_has(const json_t *classes, unsigned minor, const char *key, json_int_t bits, bool exactly)
{
	char number[16];
	json_int_t rate;

	snprintf(number, sizeof(number), "%u", minor);
	rate = json_integer_value(json_object_get(json_object_get(classes, number), key));
	return exactly ? rate == bits / 8 : rate >= bits / 8;
}

static int interface_in_force(const char *name, const json_t *qos, struct error *err)
{
	json_int_t max = json_integer_value(json_object_get(qos, "max"));
	json_t *classes = NULL, *bits;
	const char *number;
	int r = host_link_classes(name, &classes, err);

	if (r)
		return r == -ENODEV ? 0 : r;
	if (!json_object_size(classes))
		r = error_set(err, EIO, "%s has no queue of %lld bits in a second: the kernel refused it (it may lack sch_htb; the log of ovs-vswitchd says more)", name,
		    (long long)max);
	else if (!class_has(classes, CLASS_ALL, "max", max, true))
		r = error_set(err, EIO, "%s has a queue of another rate than %lld bits in a second: Open vSwitch, or the kernel, cannot do that", name, (long long)max);
	json_object_foreach(json_object_get(qos, "queues"), number, bits)
		if (!r && !class_has(classes, CLASS_OF((unsigned)atoi(number)), "min", json_integer_value(bits), false))
			r = error_set(err, EIO, "%s has no queue with %lld bits in a second of its own: the kernel refused it (the log of ovs-vswitchd says more)", name,
			    (long long)json_integer_value(bits));
	json_decref(classes);
	return r;
}

int ovs_bandwidth_in_force(const json_t *port, struct error *err)
{
	const json_t *qos = json_object_get(port, "qos");
	json_t *interface;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(port, "interfaces"), i, interface)
		if (qos && !r)
			r = interface_in_force(json_string_value(json_object_get(interface, "name")), qos, err);
	return r;
}
