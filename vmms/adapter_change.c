/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapter_change.c - adapters added to a machine, plugged into something else, and removed, running or not.
 *
 * A running machine's worker is given the open port. As with disks (disks.c) the worker comes first, vm.json follows, and in between
 * host.db knows of it: whoever adopts the machine asks the worker which of the two it is. The worker keeps a label of what
 * an adapter is plugged into for that.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "vmms/adapters.h"
#include "vmms/checkpoint.h"
#include "vmms/ports.h"
#include "vmms/switches.h"
#include "switch/ovs_rules.h"

struct adapter_change {
	json_t *before, *after; /* as vm.json has it, and is to have it; NULL: there is none */
	int fd;
};

static void change_free(struct adapter_change *change)
{
	if (!change)
		return;
	if (change->fd >= 0)
		close(change->fd);
	json_decref(change->before);
	json_decref(change->after);
	free(change);
}

static struct adapter_change *change_new(const json_t *before, const json_t *after)
{
	struct adapter_change *change = calloc(1, sizeof(*change));

	if (change)
		*change = (struct adapter_change){json_deep_copy(before), json_deep_copy(after), -1};
	return change;
}

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
	json_t *config;
	int r = changed_config(&config, machine, change, true, err);

	return r ? r : machine_set_config(machine, config, err);
}

/* --- while it runs ------------------------------------------------------------------------------------ */

static void end(struct machine *machine, struct adapter_change *change, const struct error *err)
{
	const char *kind = !change->before ? "vm.adapter-added" : !change->after ? "vm.adapter-removed" : "vm.adapter-changed";
	const json_t *adapter = change->after ? change->after : change->before;
	struct job *job = machine->job;
	char label[ADAPTER_LABEL_SIZE];

	machine->coming = NULL;
	if (!err)
		vmms_event(machine->vmms, machine, kind, "%s at %s", mac_of(adapter), adapter_label(adapter, label));
	if (job)
		job_end(job, err);
	change_free(change);
}

struct settling {
	struct machine *machine;
	struct adapter_change *change;
};

static void worker_did(void *context, const json_t *answer, const struct error *err)
{
	struct settling *s = context;
	struct machine *machine = s->machine;
	struct adapter_change *change = s->change;
	struct error why = {0};

	(void)answer;
	free(s);
	if (err && err->code == ECONNRESET && !machine->link) {
		if (change->after)
			port_closed(machine, change->after);
		machine->coming = NULL;
		change_free(change); /* the job has ended with the machine */
		return;
	}
	/* No answer is no refusal: the worker is asked what became of it, and may have the port. */
	if (err && (err->code == ETIMEDOUT || err->code == ECONNRESET)) {
		machine->untold = true;
		end(machine, change, err);
		return;
	}
	if (err) {
		store_work_set(machine->vmms->store, machine->id, NULL, NULL);
		if (change->after)
			port_closed(machine, change->after);
		end(machine, change, err);
		return;
	}
	if (change->before)
		port_closed(machine, change->before);
	if (!write_config(machine, change, &why))
		store_work_set(machine->vmms->store, machine->id, NULL, &why);
	end(machine, change, why.code ? &why : NULL);
}

static json_t *command_for(const struct adapter_change *change)
{
	const json_t *after = change->after;
	char label[ADAPTER_LABEL_SIZE];

	if (!after)
		return json_pack("{s:s, s:s}", "command", "remove-adapter", "mac", mac_of(change->before));
	return json_pack("{s:s, s:s, s:b, s:s, s:s}", "command", change->before ? "plug-adapter" : "add-adapter", "mac", mac_of(after), "any_mac",
			 json_is_true(json_object_get(after, "any_mac")), "port", change->fd >= 0 ? "descriptor" : "none", "label",
			 adapter_label(after, label));
}

static void ask_worker(struct machine *machine, struct adapter_change *change)
{
	struct settling *s = calloc(1, sizeof(*s));
	json_t *plan = json_pack("{s:s, s:O*, s:O*}", "kind", "adapter", "before", change->before, "after", change->after);
	struct error err = {0};
	json_t *command;
	int fd = change->fd;

	if (!s || !plan || store_work_set(machine->vmms->store, machine->id, plan, &err)) {
		if (!err.code)
			error_set(&err, ENOMEM, "no memory");
		json_decref(plan);
		free(s);
		if (change->after)
			port_closed(machine, change->after);
		end(machine, change, &err);
		return;
	}
	json_decref(plan);
	*s = (struct settling){machine, change};
	command = command_for(change);
	change->fd = -1;
	if (fd >= 0)
		worker_link_command_fds(machine->link, command, &fd, 1, false, worker_did, s);
	else
		worker_link_command(machine->link, command, worker_did, s);
}

static int open_port(struct job *job, struct error *err)
{
	struct adapter_change *change = job->context;

	return port_open(job->machine, change->after, &change->fd, err);
}

static void port_opened(struct job *job, int result)
{
	struct machine *machine = job->machine;
	struct adapter_change *change = job->context;
	struct error err = job->error;

	job->work = NULL;
	if (!result && !machine->link) {
		result = error_set(&err, EIO, "the machine went off meanwhile");
		port_closed(machine, change->after);
	}
	if (result)
		end(machine, change, &err);
	else
		ask_worker(machine, change);
}

static void change_running(struct machine *machine, struct adapter_change *change, struct job *job)
{
	if (!change->after) {
		ask_worker(machine, change);
		return;
	}
	job->work = open_port;
	job->done = port_opened;
	job->context = change;
	if (port_waits(change->after))
		job_errand(job);
	else
		job_work(job);
}

/* --- settings of a port: the worker has no part in them -------------------------------------------------- */

static int put_settings(struct job *job, struct error *err)
{
	const struct adapter_change *change = job->context;

	return switches_port_changed(job->machine, change->after, err);
}

static void settings_put(struct job *job, int result)
{
	struct machine *machine = job->machine;
	struct adapter_change *change = job->context;
	struct error err = job->error;

	job->work = NULL;
	if (!result && write_config(machine, change, &err)) {
		/* The switch has what vm.json has. */
		switches_port_noted(machine, change->before);
		result = -err.code;
	}
	end(machine, change, result ? &err : NULL);
}

/* --- the verbs ---------------------------------------------------------------------------------------- */

#define ON (1u << MACHINE_RUNNING | 1u << MACHINE_PAUSED)

static int check(struct machine *machine, const char *what, struct error *err)
{
	int r;

	machine_refresh(machine);
	r = machine_check_state(machine, 1u << MACHINE_OFF | ON, what, err);
	if (!r)
		r = machine_check_free(machine, err);
	if (r)
		return r;
	return machine->link ? checkpoint_check_settled(machine, err) : checkpoint_check_start(machine, err);
}

/* Takes the change over. Of a machine that is off, or where the worker has no part in it, it is one of vm.json, and done at once. */
static int begin(struct machine *machine, struct adapter_change *change, const char *kind, bool worker, struct job **job,
    struct error *err)
{
	struct error why = {0};
	json_t *config = NULL;
	int r = change ? changed_config(&config, machine, change, false, err) : error_set(err, ENOMEM, "no memory");

	json_decref(config);
	if (!r)
		r = job_new(job, machine->vmms, machine, kind, err);
	if (r) {
		change_free(change);
		return r;
	}
	if (machine->link && worker) {
		machine->coming = change->after;
		change_running(machine, change, *job);
		return 0;
	}
	if (machine->link && port_waits(change->after)) {
		(*job)->work = put_settings;
		(*job)->done = settings_put;
		(*job)->context = change;
		job_errand(*job);
		return 0;
	}
	r = write_config(machine, change, &why);
	end(machine, change, r ? &why : NULL);
	return 0;
}

int machine_add_adapter(struct machine *machine, const json_t *body, struct job **job, struct error *err)
{
	json_t *request;
	int r = check(machine, "given a network adapter", err);

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
		r = begin(machine, change_new(NULL, body), "vm.add-adapter", true, job, err);
	json_decref(request);
	return r;
}

int machine_remove_adapter(struct machine *machine, const char *which, struct job **job, struct error *err)
{
	json_t *adapter;
	int r = check(machine, "relieved of a network adapter", err);

	if (r)
		return r;
	adapter = find_adapter(machine, which);
	if (!adapter)
		return error_set(err, ENOENT, "machine \"%s\" has no network adapter %s", machine->name, which);
	return begin(machine, change_new(adapter, NULL), "vm.remove-adapter", true, job, err);
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
	int r = check(machine, "given other settings of a network adapter", err);

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
		r = begin(machine, change_new(before, after), "vm.set-adapter", worker, job, err);
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

void machine_adapters_settle(struct machine *machine, const json_t *status)
{
	struct adapter_change change;
	struct error err = {0};
	const char *kind;
	json_t *plan;

	if (machine->job || store_work_get(machine->vmms->store, machine->id, &plan, &err) || !plan)
		return;
	kind = json_string_value(json_object_get(plan, "kind"));
	change = (struct adapter_change){json_object_get(plan, "before"), json_object_get(plan, "after"), -1};
	if (kind && !strcmp(kind, "adapter") && (change.before || change.after)) {
		bool done = was_done(status, &change);
		const json_t *lost = done ? change.before : change.after;

		if (lost)
			port_closed(machine, lost);
		if (done && change.after)
			switches_port_adopted(machine, change.after);
		if (!done || !write_config(machine, &change, &err))
			store_work_set(machine->vmms->store, machine->id, NULL, &err);
		if (err.code)
			vmms_event(machine->vmms, machine, "vm.failed", "%s", err.text);
	}
	json_decref(plan);
}
