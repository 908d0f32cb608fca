/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapter_change.c - adapters added to a machine, plugged into something else, and removed, running or not (device_change.h).
 *
 * A running machine's worker is given the open port, and keeps a label of what an adapter is plugged into: that tells whether
 * it was done.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "vmms/adapters.h"
#include "vmms/device_change.h"
#include "vmms/ports.h"
#include "vmms/switches.h"
#include "switch/ovs_rules.h"

struct adapter_change {
	struct device_change change;
	json_t *before, *after; /* as vm.json has it, and is to have it; NULL: there is none */
	json_t *ports;          /* of the host, that lead to the guest once it is done */
};

static const char *mac_of(const json_t *adapter)
{
	return json_string_value(json_object_get(adapter, "mac"));
}

static ssize_t find_mac(const json_t *list, const char *mac)
{
	json_t *adapter;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, adapter)
		if (mac_of(adapter) && !strcasecmp(mac_of(adapter), mac))
			return (ssize_t)i;
	return -1;
}

/* By its address, or by its place. */
static json_t *find_adapter(const struct machine *machine, const char *which)
{
	const json_t *list = json_object_get(machine->config, "adapters");
	ssize_t at = find_mac(list, which);
	char *rest;

	if (at < 0 && *which >= '0' && *which <= '9') {
		at = strtol(which, &rest, 10);
		if (*rest)
			at = -1;
	}
	return at < 0 ? NULL : json_array_get(list, (size_t)at);
}

/* A configuration with the change in it, checked as a whole. Not anew with the other machines' when the worker has done it. */
static int changed_config(json_t **out, struct machine *machine, const struct adapter_change *change, bool done, struct error *err)
{
	json_t *config = json_deep_copy(machine->config), *list = json_object_get(config, "adapters");
	ssize_t at = change->before ? find_mac(list, mac_of(change->before)) : -1;
	int r;

	if (!config)
		return error_set(err, ENOMEM, "no memory");
	if (at >= 0 && change->after)
		json_array_set_new(list, (size_t)at, json_deep_copy(change->after));
	else if (at >= 0)
		json_array_remove(list, (size_t)at);
	else if (change->after && find_mac(list, mac_of(change->after)) < 0)
		json_array_append_new(list, json_deep_copy(change->after));
	r = form_check(&vm_config_form, config, err);
	if (!r && !done)
		r = adapters_check(machine->vmms, machine, config, err);
	if (r)
		json_decref(config);
	else
		*out = config;
	return r;
}

static int write_config(struct machine *machine, const struct adapter_change *change, struct error *err)
{
	json_t *config = NULL;
	int r = changed_config(&config, machine, change, true, err);

	return r ? r : machine_set_config(machine, config, err);
}

/* --- as a change ---------------------------------------------------------------------------------------- */

static const struct adapter_change *of(const struct device_change *change)
{
	return (const struct adapter_change *)change;
}

static json_t *plan_of(const struct device_change *change)
{
	return json_pack("{s:s, s:O*, s:O*}", "kind", "adapter", "before", of(change)->before, "after", of(change)->after);
}

static json_t *command_of(const struct device_change *change)
{
	const json_t *before = of(change)->before, *after = of(change)->after;
	const char *port = after ? adapter_port(after) : NULL;
	char label[ADAPTER_LABEL_SIZE];

	if (!after)
		return json_pack("{s:s, s:s}", "command", "remove-adapter", "mac", mac_of(before));
	return json_pack("{s:s, s:s, s:b, s:s, s:s, s:O*}", "command", before ? "plug-adapter" : "add-adapter", "mac", mac_of(after), "any_mac",
			 json_is_true(json_object_get(after, "any_mac")), "port", strcmp(port, "none") ? "descriptor" : "none", "label",
			 adapter_label(after, label), "forwarded", of(change)->ports);
}

static int open_port(struct device_change *change, struct error *err)
{
	struct adapter_change *adapter = (struct adapter_change *)change;
	int fd = -1, r;

	json_decref(adapter->ports);
	r = port_open(change->machine, adapter->after, &fd, &adapter->ports, err);

	if (fd >= 0)
		change->fds[change->fd_count++] = fd;
	return r;
}

static int write_change(const struct device_change *change, struct error *err)
{
	return write_config(change->machine, of(change), err);
}

static void made(const struct device_change *change, const json_t *answer, bool written)
{
	(void)answer;
	(void)written;
	if (of(change)->before)
		port_closed(change->machine, of(change)->before);
}

static void dropped(const struct device_change *change)
{
	if (of(change)->after)
		port_closed(change->machine, of(change)->after);
}

static void tell(const struct device_change *change)
{
	const json_t *before = of(change)->before, *after = of(change)->after;
	const char *kind = !before ? "vm.adapter-added" : !after ? "vm.adapter-removed" : "vm.adapter-changed";
	const json_t *adapter = after ? after : before;
	char label[ADAPTER_LABEL_SIZE];

	vmms_event(change->machine->vmms, change->machine, kind, "%s at %s", mac_of(adapter), adapter_label(adapter, label));
}

static void free_change(struct device_change *change)
{
	struct adapter_change *adapter = (struct adapter_change *)change;

	change->machine->coming = NULL;
	json_decref(adapter->before);
	json_decref(adapter->after);
	json_decref(adapter->ports);
	free(adapter);
}

static const struct device_change_ops ops = {
    .plan = plan_of,
    .command = command_of,
    .open = open_port,
    .write = write_change,
    .made = made,
    .dropped = dropped,
    .tell = tell,
    .free = free_change,
};

static struct adapter_change *change_new(struct machine *machine, const json_t *before, const json_t *after)
{
	struct adapter_change *change = calloc(1, sizeof(*change));

	if (change)
		*change = (struct adapter_change){{.ops = &ops, .machine = machine}, json_deep_copy(before), json_deep_copy(after), NULL};
	return change;
}

/* --- settings of a port: the worker has no part in them -------------------------------------------------- */

static int put_settings(struct job *job, struct error *err)
{
	const struct adapter_change *change = job->context;

	return switches_port_changed(job->machine, change->after, err);
}

static void settings_put(struct job *job, int result)
{
	struct adapter_change *change = job->context;
	struct error err = job->error;

	job->work = NULL;
	if (!result && write_change(&change->change, &err)) {
		/* The switch has what vm.json has. */
		switches_port_noted(job->machine, change->before);
		result = -err.code;
	}
	device_change_end(&change->change, result ? &err : NULL);
}

/* --- the verbs ---------------------------------------------------------------------------------------- */

/* Takes the change over. */
static int begin(struct adapter_change *change, const char *kind, bool worker, struct job **job, struct error *err)
{
	struct machine *machine = change ? change->change.machine : NULL;
	json_t *config = NULL;
	int r = change ? changed_config(&config, machine, change, false, err) : error_set(err, ENOMEM, "no memory");

	json_decref(config);
	if (!r && change->after)
		r = switches_port_check(machine->vmms, change->after, err);
	if (!r && !(machine->link && (worker || port_waits(change->after))))
		return device_change_write(&change->change, kind, job, err);
	if (!r)
		r = job_new(job, machine->vmms, machine, kind, err);
	if (r) {
		if (change)
			free_change(&change->change);
		return r;
	}
	if (!worker) {
		(*job)->work = put_settings;
		(*job)->done = settings_put;
		(*job)->context = change;
		job_errand(*job);
		return 0;
	}
	machine->coming = change->after;
	if (change->after)
		device_change_run(&change->change, *job, port_waits(change->after) ? job_errand : job_work);
	else
		device_change_ask_worker(&change->change);
	return 0;
}

int machine_add_adapter(struct machine *machine, const json_t *body, struct job **job, struct error *err)
{
	json_t *request;
	int r = device_change_check(machine, "given a network adapter", err);

	if (r)
		return r;
	if (json_array_size(json_object_get(machine->config, "adapters")) >= VM_ADAPTERS_MAX)
		return error_set(err, EINVAL, "machine \"%s\" has %d network adapters: that is as many as there may be", machine->name,
				 VM_ADAPTERS_MAX);
	request = json_pack("{s:[o]}", "adapters", json_deep_copy(body));
	adapters_complete(machine->vmms, request, NULL);
	body = json_array_get(json_object_get(request, "adapters"), 0);
	if (find_mac(json_object_get(machine->config, "adapters"), mac_of(body)) >= 0)
		r = error_set(err, EEXIST, "machine \"%s\" has an adapter %s already", machine->name, mac_of(body));
	else
		r = begin(change_new(machine, NULL, body), "vm.add-adapter", true, job, err);
	json_decref(request);
	return r;
}

int machine_remove_adapter(struct machine *machine, const char *which, struct job **job, struct error *err)
{
	json_t *adapter;
	int r = device_change_check(machine, "relieved of a network adapter", err);

	if (r)
		return r;
	adapter = find_adapter(machine, which);
	if (!adapter)
		return error_set(err, ENOENT, "machine \"%s\" has no network adapter %s", machine->name, which);
	return begin(change_new(machine, adapter, NULL), "vm.remove-adapter", true, job, err);
}

/* A key that neither has is no difference. */
static bool differs(const json_t *a, const json_t *b, const char *key)
{
	const json_t *one = json_object_get(a, key), *other = json_object_get(b, key);

	return (one || other) && !json_equal(one, other);
}

/* What belongs to a port that the adapter is plugged into no more goes with it; forwards wait for the default switch. */
static void drop_leftovers(json_t *after, const json_t *body)
{
	const char *port = adapter_port(after);

	if (strcmp(port, "tap"))
		json_object_del(after, "interface");
	if (strcmp(port, "switch"))
		json_object_del(after, "switch");
	if ((!strcmp(port, "tap") || !strcmp(port, "switch")) && !json_object_get(body, "forwards"))
		json_object_set_new(after, "forwards", json_array());
}

/* Of one in a running machine. */
static int check_running(const struct machine *machine, const json_t *before, const json_t *after, struct error *err)
{
	bool same_port = !strcmp(adapter_port(before), adapter_port(after));

	if (differs(before, after, "mac") || differs(before, after, "any_mac"))
		return error_set(err, EALREADY, "an adapter's address can be changed while machine \"%s\" is off", machine->name);
	if (same_port && !strcmp(adapter_port(after), "nat") && differs(before, after, "forwards"))
		return error_set(err, EALREADY, "forwards of a running machine can be changed while the adapter is disconnected: "
						"bulkhead vm adapter disconnect, then connect");
	return 0;
}

int machine_set_adapter(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err)
{
	json_t *before, *after;
	bool worker;
	int r = device_change_check(machine, "given other settings of a network adapter", err);

	if (r)
		return r;
	before = find_adapter(machine, which);
	if (!before)
		return error_set(err, ENOENT, "machine \"%s\" has no network adapter %s", machine->name, which);
	after = json_deep_copy(before);
	if (!after || json_object_update_recursive(after, (json_t *)(uintptr_t)body)) {
		json_decref(after);
		return error_set(err, ENOMEM, "no memory");
	}
	/* Of settings all are told, or none. */
	if (json_object_get(body, "settings"))
		json_object_set_new(after, "settings", json_deep_copy(json_object_get(body, "settings")));
	drop_leftovers(after, body);
	if (json_object_get(after, "settings"))
		r = ovs_settings_check(json_object_get(after, "settings"), "settings.", err);
	if (!r && machine->link)
		r = check_running(machine, before, after, err);
	worker = differs(before, after, "port") || differs(before, after, "interface") || differs(before, after, "switch");
	if (!r)
		r = begin(change_new(machine, before, after), "vm.set-adapter", worker, job, err);
	json_decref(after);
	return r;
}

/* --- after a daemon that died ------------------------------------------------------------------------- */

static json_t *worker_has(const json_t *status, const char *mac)
{
	const json_t *list = json_object_get(status, "adapters");
	ssize_t at = find_mac(list, mac);

	return at < 0 ? NULL : json_array_get(list, (size_t)at);
}

static bool was_done(const json_t *status, const struct adapter_change *change)
{
	const json_t *has = worker_has(status, mac_of(change->after ? change->after : change->before));
	const char *label = json_string_value(json_object_get(has, "label"));
	char wanted[ADAPTER_LABEL_SIZE];

	if (!change->after || !has)
		return !change->after == !has;
	return label && !strcmp(label, adapter_label(change->after, wanted));
}

static int finish(struct machine *machine, const json_t *plan, const json_t *status, struct error *err)
{
	const char *kind = json_string_value(json_object_get(plan, "kind"));
	struct adapter_change change = {.before = json_object_get(plan, "before"), .after = json_object_get(plan, "after")};
	const json_t *lost;
	bool done;

	if (!kind || strcmp(kind, "adapter") || (!change.before && !change.after))
		return 1;
	done = was_done(status, &change);
	lost = done ? change.before : change.after;
	if (lost)
		port_closed(machine, lost);
	if (done && change.after)
		switches_port_adopted(machine, change.after);
	return done ? write_config(machine, &change, err) : 0;
}

void machine_adapters_settle(struct machine *machine, const json_t *status)
{
	device_change_settle(machine, status, finish);
}
