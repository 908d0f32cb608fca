/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/switches_private.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "switch/host_link.h"
#include "switch/ovs_rules.h"
#include "vmms/config.h"
#include "vmms/errand.h"

#define RETRY_MS  1000u /* at first, then ever longer */
#define RETRY_MAX_MS 60000u
#define NOTE_MS   60000u

struct ovs *switches_ovs(struct vmms *vmms)
{
	return vmms->switches->ovs;
}

struct vswitch *switches_at(struct vmms *vmms, size_t i)
{
	return i < vmms->switches->count ? vmms->switches->list[i] : NULL;
}

struct vswitch *switches_find(struct vmms *vmms, const char *name)
{
	struct vswitch *s;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++)
		if (!strcmp(s->name, name))
			return s;
	return NULL;
}

int switch_store(struct vmms *vmms, const struct vswitch *s, struct error *err)
{
	struct store_switch entry = {s->number, s->name, s->phase, s->config, s->host};

	return store_switch_set(vmms->store, &entry, err);
}

/* --- the list ------------------------------------------------------------------------------------------------ */

static void switch_free(struct vswitch *s)
{
	json_decref(s->config);
	json_decref(s->host);
	free(s->name);
	free(s);
}

static struct vswitch *list_add(struct vmms *vmms, const struct store_switch *entry)
{
	struct switches *all = vmms->switches;
	struct vswitch **more = realloc(all->list, (all->count + 1) * sizeof(*more)), *s = calloc(1, sizeof(*s));
	size_t at = all->count;

	if (more)
		all->list = more;
	if (s)
		s->name = strdup(entry->name);
	if (!more || !s || !s->name) {
		free(s);
		return NULL;
	}
	s->number = entry->number;
	s->phase = entry->phase;
	s->config = json_deep_copy(entry->config);
	s->host = entry->host ? json_deep_copy(entry->host) : NULL;
	s->attach = s->phase == SWITCH_READY;
	snprintf(s->interface, sizeof(s->interface), "bs%u", s->number);
	while (at > 0 && strcmp(all->list[at - 1]->name, s->name) > 0) {
		all->list[at] = all->list[at - 1];
		at--;
	}
	all->list[at] = s;
	all->count++;
	return s;
}

static void list_remove(struct vmms *vmms, struct vswitch *s)
{
	struct switches *all = vmms->switches;
	size_t at = 0;

	while (all->list[at] != s)
		at++;
	memmove(all->list + at, all->list + at + 1, (--all->count - at) * sizeof(*all->list));
	switch_free(s);
}

/* --- what Open vSwitch is to say ---------------------------------------------------------------------------- */

/* Behind errand_leave(), when Open vSwitch was spoken to: what the loop, too, may know of it is noted. */
static void come_back(struct vmms *vmms)
{
	struct switches *all = vmms->switches;

	errand_enter(vmms);
	all->datapath = ovs_datapath_known(all->ovs) ? ovs_datapath(all->ovs) : NULL;
}

/* [errand] Of its slowest adapter; 0: none of them tells. How long a driver takes to say it is up to the driver. */
static int64_t rate_of(struct vmms *vmms, const struct vswitch *s)
{
	int64_t rate = json_integer_value(json_object_get(s->config, "bandwidth")), one;
	json_t *adapters, *adapter;
	size_t i;

	if (rate)
		return rate;
	adapters = json_deep_copy(json_object_get(s->config, "adapters"));
	errand_leave(vmms);
	json_array_foreach(adapters, i, adapter) {
		one = host_link_speed(json_string_value(adapter));
		if (one && (!rate || one < rate))
			rate = one;
	}
	errand_enter(vmms);
	json_decref(adapters);
	return rate;
}

/* [errand] What a switch is by now, for ovs_rules(). */
static json_t *describe(struct vmms *vmms, struct vswitch *s)
{
	int64_t rate = rate_of(vmms, s);
	const char *type = json_string_value(json_object_get(s->config, "type")), *mac = json_string_value(json_object_get(s->host, "mac"));
	bool external = !strcmp(type, "external"), host = !strcmp(type, "internal") || (external && json_is_true(json_object_get(s->config, "host")));
	json_t *description = json_pack("{s:s, s:s, s:b, s:b, s:O, s:O, s:o}", "name", s->interface, "datapath", ovs_datapath(vmms->switches->ovs), "host",
	    host, "must", s->phase == SWITCH_MAKING, "vlan", json_object_get(s->config, "vlan"), "team", json_object_get(s->config, "team"), "ports",
	    switches_ports_of(vmms, s));
	struct host_link link;

	/* One that has no link has had one. */
	if (rate)
		s->rate = rate;
	json_object_set_new(description, "rate", json_integer(s->rate));
	if (external && mac && *mac)
		json_object_set_new(description, "mac", json_string(mac));
	if (external && s->attach) {
		json_t *members = json_copy(json_object_get(s->config, "adapters"));

		if (s->leaving)
			json_array_extend(members, (json_t *)(uintptr_t)s->leaving);
		json_object_set_new(description, "members", members);
	}
	if (external && !host_link_get(json_string_value(json_array_get(json_object_get(s->config, "adapters"), 0)), &link, NULL))
		json_object_set_new(description, "mtu", json_integer(link.mtu));
	else if (!external)
		json_object_set_new(description, "mtu", json_integer(1500));
	return description;
}

static int make_wanted(struct vmms *vmms, json_t *bridges, struct error *err)
{
	struct vswitch *s;
	int r = 0;

	for (size_t i = 0; !r && (s = switches_at(vmms, i)); i++) {
		json_t *description;

		if (s->phase == SWITCH_DELETING && !switch_holds_host(s))
			continue;
		description = describe(vmms, s);
		r = ovs_rules(bridges, description, err);
		json_decref(description);
	}
	return r;
}

static void watch_daemons(struct vmms *vmms);

/* A daemon that ends waits for nobody: the next one finds what there is to do. */
static int check_waits(const struct vmms *vmms, struct error *err)
{
	return vmms->closing ? error_set(err, ESHUTDOWN, "the daemon ends: ask again when it is back") : 0;
}

int switches_start(struct vmms *vmms, struct error *err)
{
	int r = check_waits(vmms, err);

	if (r)
		return r;
	errand_leave(vmms);
	r = ovs_start(vmms->switches->ovs, NULL, err);
	come_back(vmms);
	return r;
}

char *switches_bridge_of(struct vmms *vmms, const char *interface)
{
	char *bridge;

	errand_leave(vmms);
	bridge = ovs_bridge_of(vmms->switches->ovs, interface);
	come_back(vmms);
	return bridge;
}

static void retry_due(uv_timer_t *timer)
{
	switches_see_to(timer->data);
}

/* What ovs_apply() has found of each: it is a problem, and tried again. */
static void take_problems(struct vmms *vmms, const json_t *bridges)
{
	uv_timer_t *retry = &vmms->switches->retry;
	json_t *bridge;
	struct vswitch *s;
	size_t k;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++) {
		s->warning = (struct error){0};
		json_array_foreach((json_t *)(uintptr_t)bridges, k, bridge) {
			const char *of = json_string_value(json_object_get(bridge, "of")), *problem = json_string_value(json_object_get(bridge, "problem"));

			if (of && problem && !strcmp(of, s->interface))
				error_set(&s->warning, EIO, "%s", problem);
		}
		if (s->warning.code && !uv_is_active((uv_handle_t *)retry))
			uv_timer_start(retry, retry_due, RETRY_MS, 0);
	}
}

int switches_apply(struct vmms *vmms, struct error *err)
{
	json_t *wanted = json_pack("{s:[]}", "bridges"), *own;
	int r = wanted ? switches_start(vmms, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = make_wanted(vmms, json_object_get(wanted, "bridges"), err);
	own = json_deep_copy(wanted);
	json_decref(wanted);
	if (!r && !own)
		r = error_set(err, ENOMEM, "no memory");
	if (!r)
		r = check_waits(vmms, err);
	if (!r) {
		errand_leave(vmms);
		r = ovs_apply(vmms->switches->ovs, own, err);
		come_back(vmms);
		take_problems(vmms, json_object_get(own, "bridges"));
	}
	json_decref(own);
	watch_daemons(vmms);
	return r;
}

/* --- the daemons ---------------------------------------------------------------------------------------------- */

static void take_down(struct vmms *vmms, struct vswitch *s);

static void set_problem(struct vswitch *s, const struct error *err)
{
	s->problem = *err;
	if (s->phase == SWITCH_DELETING)
		error_prefix(&s->problem, "it cannot be deleted yet");
}

/* As it should be: what cannot be is its problem. */
static void see_to(struct vmms *vmms, struct vswitch *s)
{
	s->problem = s->warning;
	if (s->phase == SWITCH_DELETING)
		take_down(vmms, s);
	else if (s->phase == SWITCH_READY && !switch_settle(vmms, s, &s->problem))
		switch_check_present(s, &s->problem);
}

/* From the end on, as one that goes leaves the list. What cannot be as it should is tried again. */
static void see_to_all(void *context)
{
	struct vmms *vmms = context;
	struct switches *all = vmms->switches;
	struct error err = {0};
	struct vswitch *s;
	int r;

	all->waiting = false;
	if (!all->count || vmms->closing)
		return;
	r = switches_apply(vmms, &err);
	for (size_t i = all->count; i-- > 0;)
		if (r)
			set_problem(all->list[i], &err);
		else
			see_to(vmms, all->list[i]);
	for (size_t i = 0; !err.code && (s = switches_at(vmms, i)); i++)
		err = s->problem;
	if (err.code) {
		if (!all->failing)
			vmms_event(vmms, NULL, "switch.failed", "%s", err.text);
		all->delay = !all->failing ? RETRY_MS : all->delay * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : all->delay * 2;
		uv_timer_start(&all->retry, retry_due, all->delay, 0);
	} else if (all->failing) {
		vmms_event(vmms, NULL, "switch.restored", "the switches are as they should be again");
	}
	all->failing = err.code != 0;
}

static void seen_to(void *context)
{
	(void)context;
}

void switches_see_to_soon(struct vmms *vmms)
{
	uv_timer_start(&vmms->switches->retry, retry_due, RETRY_MS, 0);
}

void switches_see_to(struct vmms *vmms)
{
	struct switches *all = vmms->switches;
	struct error err;

	if (all->waiting || vmms->closing)
		return;
	all->waiting = !errand_start(vmms, see_to_all, seen_to, vmms, &err);
	if (!all->waiting)
		uv_timer_start(&all->retry, retry_due, RETRY_MS, 0);
}

static void watch_closed(uv_handle_t *handle)
{
	struct watch *watch = handle->data;

	close(watch->fd);
	watch->fd = -1;
	watch->active = false;
	if (watch->vmms->switches->count)
		switches_see_to(watch->vmms);
}

static void watch_end(struct watch *watch)
{
	if (watch->active && !uv_is_closing((uv_handle_t *)&watch->poll))
		uv_close((uv_handle_t *)&watch->poll, watch_closed);
}

/* Whatever the end was: soon it runs again. */
static void daemon_ended(uv_poll_t *poll, int status, int events)
{
	struct watch *watch = poll->data;
	struct vmms *vmms = watch->vmms;

	(void)status;
	(void)events;
	uv_poll_stop(poll);
	watch_end(watch);
	if (!vmms->switches->count)
		return;
	vmms_event(vmms, NULL, "switch.warning", "a daemon of Open vSwitch (process %d) has ended", watch->pid);
	uv_timer_start(&vmms->switches->retry, retry_due, 0, 0);
}

static void watch_daemons(struct vmms *vmms)
{
	struct switches *all = vmms->switches;
	int pids[] = {ovs_switch_pid(all->ovs), ovs_database_pid(all->ovs)};

	for (size_t i = 0; i < ARRAY_SIZE(all->watches); i++) {
		struct watch *watch = &all->watches[i];

		/* One that watches another process yet comes here again when it is closed. */
		if (watch->active) {
			if (watch->pid != pids[i])
				watch_end(watch);
			continue;
		}
		if (pids[i] <= 1)
			continue;
		*watch = (struct watch){.vmms = vmms, .pid = pids[i], .fd = (int)syscall(SYS_pidfd_open, pids[i], 0)};
		if (watch->fd < 0)
			continue;
		watch->poll.data = watch;
		watch->active = !uv_poll_init(&vmms->loop, &watch->poll, watch->fd);
		if (watch->active)
			uv_poll_start(&watch->poll, UV_READABLE, daemon_ended);
		else
			close(watch->fd);
	}
}

/* --- made, changed, deleted ------------------------------------------------------------------------------------ */

static unsigned free_number(struct vmms *vmms)
{
	struct host_link link;
	unsigned number = 0;
	bool taken;

	do {
		struct vswitch *s;
		char name[16];

		snprintf(name, sizeof(name), "bs%u", ++number);
		taken = !host_link_get(name, &link, NULL);
		for (size_t i = 0; !taken && (s = switches_at(vmms, i)); i++)
			taken = s->number == number;
	} while (taken);
	return number;
}

/* Where nobody runs and the kernel has nothing of it there is nothing of it: the database is told by whoever starts it. */
static bool is_gone(struct vmms *vmms, const struct vswitch *s)
{
	struct host_link link;

	return ovs_is_own(vmms->switches->ovs) && !ovs_switch_pid(vmms->switches->ovs) && host_link_get(s->interface, &link, NULL) == -ENODEV;
}

/* What of it is there goes; when it was the last, so do the daemons. What does not go stays on the list until it does. */
static void take_down(struct vmms *vmms, struct vswitch *s)
{
	struct switches *all = vmms->switches;
	struct error err = {0};
	int r;

	s->phase = SWITCH_DELETING;
	if (switch_store(vmms, s, &err))
		log_write(LOG_LEVEL_ERROR, "%s", err.text);
	r = json_object_get(s->host, "adapters") ? switch_detach(vmms, s, &err) : switches_apply(vmms, &err);
	if (r && !is_gone(vmms, s)) {
		set_problem(s, &err);
		log_write(LOG_LEVEL_WARNING, "switch \"%s\": %s", s->name, s->problem.text);
		if (!uv_is_active((uv_handle_t *)&all->retry))
			uv_timer_start(&all->retry, retry_due, RETRY_MS, 0);
		return;
	}
	store_switch_remove(vmms->store, s->number, &err);
	list_remove(vmms, s);
	if (vmms->switches->count)
		return;
	errand_leave(vmms);
	ovs_stop(vmms->switches->ovs);
	come_back(vmms);
}

int switch_create(struct vmms *vmms, const json_t *config, struct vswitch **out, struct error *err)
{
	const char *name = json_string_value(json_object_get(config, "name"));
	struct store_switch entry = {.name = name, .phase = SWITCH_MAKING, .config = (json_t *)(uintptr_t)config};
	json_t *adapters = json_object_get(config, "adapters");
	struct vswitch *s;
	int r = switch_config_check(config, err);

	if (r)
		return r;
	/* What would fail first says nothing of that. */
	if (geteuid())
		return error_set(err, EPERM, "switches need root, and this daemon is a user's: use that of the host");
	if (switches_find(vmms, name))
		return error_set(err, EEXIST, "there is a switch \"%s\" already", name);
	r = switch_check_adapters(vmms, NULL, adapters, err);
	entry.number = free_number(vmms);
	if (!r)
		r = store_switch_add(vmms->store, &entry, err);
	if (r)
		return r;
	s = list_add(vmms, &entry);
	if (!s)
		return error_set(err, ENOMEM, "no memory for switch \"%s\"", name);
	r = json_array_size(adapters) ? switch_attach(vmms, s, adapters, true, err) : switches_apply(vmms, err);
	if (!r && !json_array_size(adapters))
		r = switch_settle(vmms, s, err);
	s->phase = SWITCH_READY;
	if (!r)
		r = switch_store(vmms, s, err);
	if (r) {
		take_down(vmms, s);
		return r;
	}
	vmms_event(vmms, NULL, "switch.created", "switch \"%s\", %s", name, json_string_value(json_object_get(config, "type")));
	*out = s;
	return 0;
}

/* Adapters that are not in `of`. */
static json_t *without(const json_t *list, const json_t *of)
{
	json_t *rest = json_array(), *entry, *other;
	size_t i, k;

	json_array_foreach(list, i, entry) {
		bool found = false;

		json_array_foreach(of, k, other)
			found |= json_equal(entry, other);
		if (!found)
			json_array_append(rest, entry);
	}
	return rest;
}

static void set_links(const json_t *adapters, bool up)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(adapters, i, adapter)
		host_link_set_up(json_string_value(adapter), up, NULL);
}

/* With those that go still in it. Who is killed meanwhile finds in host.db what is to be, and ends it. */
static int add_members(struct vmms *vmms, struct vswitch *s, const json_t *more, const json_t *gone, struct error *err)
{
	int r;

	s->leaving = gone;
	r = switch_attach(vmms, s, more, false, err);
	s->leaving = NULL;
	return r;
}

/* Members that come are in the team before those that go are out of it. The links of these go down first, so that whoever is at their other ends
 * sends nothing more there: with LACP that would go on for three seconds. */
static int put_into_force(struct vmms *vmms, struct vswitch *s, const json_t *before, struct error *err)
{
	json_t *now = json_object_get(s->config, "adapters"), *old = json_object_get(before, "adapters");
	json_t *more = without(now, old), *gone = without(old, now), *adapter;
	size_t i;
	int r = json_array_size(more) ? add_members(vmms, s, more, gone, err) : 0;

	if (!r && (json_array_size(gone) || !json_array_size(more))) {
		set_links(gone, false);
		r = switches_apply(vmms, err);
		if (r)
			set_links(gone, true);
	}
	if (!r)
		r = switch_settle(vmms, s, err);
	json_array_foreach(r ? more : gone, i, adapter)
		if (json_object_get(json_object_get(s->host, "adapters"), json_string_value(adapter)))
			switch_detach_one(vmms, s, json_string_value(adapter));
	json_decref(more);
	json_decref(gone);
	return r;
}

int switch_change(struct vmms *vmms, struct vswitch *s, const json_t *change, struct error *err)
{
	json_t *before = s->config, *changed = json_deep_copy(before);
	int r;

	if (s->phase != SWITCH_READY || !changed || json_object_update(changed, (json_t *)(uintptr_t)change)) {
		json_decref(changed);
		return error_set(err, s->phase != SWITCH_READY ? EALREADY : ENOMEM, "switch \"%s\" cannot be changed now", s->name);
	}
	r = switch_config_check(changed, err);
	if (!r)
		r = switch_check_adapters(vmms, s, json_object_get(changed, "adapters"), err);
	if (r) {
		json_decref(changed);
		return r;
	}
	s->config = changed;
	r = put_into_force(vmms, s, before, err);
	if (!r)
		r = switch_store(vmms, s, err);
	if (r) {
		s->config = before;
		json_decref(changed);
		/* What made it fail may keep that from being undone, too: then it is tried again. */
		if (switches_apply(vmms, NULL) || switch_settle(vmms, s, NULL))
			switches_see_to(vmms);
		switch_store(vmms, s, NULL);
		return r;
	}
	json_decref(before);
	return 0;
}

int switch_delete(struct vmms *vmms, struct vswitch *s, struct error *err)
{
	json_t *users = switches_users(vmms, s);
	size_t count = json_array_size(users);
	char text[128] = "";

	if (count)
		snprintf(text, sizeof(text), "%.100s", json_string_value(json_array_get(users, 0)));
	json_decref(users);
	if (count)
		return error_set(err, EBUSY, "switch \"%s\" has adapters of machine \"%s\"%s on it: plug them elsewhere first", s->name, text,
				 count > 1 ? " and others" : "");
	vmms_event(vmms, NULL, "switch.deleted", "switch \"%s\"", s->name);
	take_down(vmms, s);
	return 0;
}

json_t *switch_json(struct vmms *vmms, struct vswitch *s)
{
	json_t *json = json_deep_copy(s->config), *members = NULL;
	char team[24], etag[24];

	if (!json)
		return NULL;
	config_etag(s->config, etag);
	json_object_set_new(json, "etag", json_string(etag));
	json_object_set_new(json, "interface", json_string(s->interface));
	json_object_set_new(json, "vms", switches_users(vmms, s));
	json_object_set_new(json, "ports", switches_plugged(vmms, s));
	if (s->problem.code || s->warning.code)
		json_object_set_new(json, "problem", json_string(s->problem.code ? s->problem.text : s->warning.text));
	snprintf(team, sizeof(team), "%s-team", s->interface);
	if (!s->attach || !json_array_size(json_object_get(s->config, "adapters")) || vmms->closing)
		return json;
	errand_leave(vmms);
	if (ovs_port_state(vmms->switches->ovs, team, &members, NULL))
		members = NULL;
	errand_enter(vmms);
	if (members)
		json_object_set_new(json, "members", members);
	return json;
}

/* --- from start to end ------------------------------------------------------------------------------------------ */

static void add_stored(void *context, const struct store_switch *entry)
{
	if (entry->config && !list_add(context, entry))
		log_write(LOG_LEVEL_ERROR, "no memory for switch \"%s\"", entry->name);
}

static void look_around(void *context)
{
	struct vmms *vmms = context;
	struct vswitch *s;

	for (size_t i = 0; !vmms->closing && (s = switches_at(vmms, i)); i++) {
		int64_t rate = s->phase == SWITCH_READY ? rate_of(vmms, s) : 0;

		switch_note_addresses(vmms, s);
		if (!rate || rate == s->rate)
			continue;
		/* What ports have of it is others' by now. */
		if (switches_have_parts(vmms, s))
			switches_see_to(vmms);
		else
			s->rate = rate;
	}
}

static void note_due(uv_timer_t *timer)
{
	struct error err;

	if (switches_at(timer->data, 0) && !errand_at_work(timer->data))
		errand_start(timer->data, look_around, seen_to, timer->data, &err);
}

/* Those that were half made, or half deleted, go. */
static void begin(void *context)
{
	struct vmms *vmms = context;
	struct switches *all = vmms->switches;

	for (size_t i = all->count; i-- > 0;)
		if (all->list[i]->phase != SWITCH_READY)
			take_down(vmms, all->list[i]);
	see_to_all(vmms);
}

int switches_open(struct vmms *vmms, struct error *err)
{
	_cleanup_free_ char *directory = NULL;
	struct switches *all = calloc(1, sizeof(*all));
	struct ovs_place place = {.owner = vmms->options->state, .own = true};
	const char *which = json_string_value(json_object_get(vmms->config, "open_vswitch"));
	int r;

	if (!all || asprintf(&directory, "%s/switches", vmms->options->runtime) < 0) {
		free(all);
		return error_set(err, ENOMEM, "no memory");
	}
	vmms->switches = all;
	place.directory = directory;
	place.own = which && !strcmp(which, "own");
	all->ports = json_object();
	all->retry.data = all->note.data = all->links.data = vmms;
	uv_timer_init(&vmms->loop, &all->retry);
	uv_timer_init(&vmms->loop, &all->note);
	uv_timer_init(&vmms->loop, &all->links);
	uv_timer_start(&all->note, note_due, NOTE_MS, NOTE_MS);
	r = ovs_new(&all->ovs, &place, err);
	if (!r)
		r = store_switch_list(vmms->store, add_stored, vmms, err);
	if (r)
		return r;
	switches_watch_addresses(vmms);
	/* Machines that run keep their ports while others' switches go. */
	switches_plug_running(vmms);
	return errand_start(vmms, begin, seen_to, vmms, err);
}

void switches_close(struct vmms *vmms)
{
	struct switches *all = vmms->switches;

	if (!all)
		return;
	uv_close((uv_handle_t *)&all->retry, NULL);
	uv_close((uv_handle_t *)&all->note, NULL);
	uv_close((uv_handle_t *)&all->links, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(all->watches); i++)
		watch_end(&all->watches[i]);
	switches_watch_end(vmms);
}

void switches_free(struct vmms *vmms)
{
	struct switches *all = vmms->switches;

	if (!all)
		return;
	while (all->count)
		switch_free(all->list[--all->count]);
	free(all->list);
	json_decref(all->ports);
	ovs_free(all->ovs);
	free(all);
	vmms->switches = NULL;
}
