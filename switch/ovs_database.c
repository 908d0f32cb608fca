/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ovs_database.c - what the database is to say, and what it says (ovs-vswitchd.conf.db(5)). */
#include <errno.h>
#include <string.h>

#include "switch/host_link.h"
#include "switch/ovs_bandwidth.h"
#include "switch/ovs_private.h"

#define BEHIND_MS 300 /* for an ovs-vswitchd that was waited for in vain before */

/* What is there: arrays of rows, as the database gives them. */
struct view {
	json_t *bridges, *ports, *interfaces, *root;
};

/* A transaction that is being put together. */
struct plan {
	struct ovs *ovs;
	struct view view;
	json_t *operations;
	json_t *port_of; /* of the bridge at hand: port's name to a reference to its row */
	unsigned names;
	bool last; /* what is done next is all of it */
};

static void view_free(struct view *view)
{
	json_decref(view->bridges);
	json_decref(view->ports);
	json_decref(view->interfaces);
	json_decref(view->root);
}

static json_t *select_all(const char *table, json_t *columns)
{
	return json_pack("{s:s, s:s, s:[], s:o}", "op", "select", "table", table, "where", "columns", columns);
}

static json_t *rows_of(const json_t *results, size_t i)
{
	return json_incref(json_object_get(json_array_get(results, i), "rows"));
}

static int look(struct ovsdb *db, struct view *view, struct error *err)
{
	json_t *results = NULL;
	int r = ovsdb_transact(db,
	    json_pack("[o, o, o, o]", select_all("Bridge", json_pack("[s, s, s, s]", "_uuid", "name", "ports", "external_ids")),
		select_all("Port", json_pack("[s, s, s, s, s]", "_uuid", "name", "interfaces", "bond_active_slave", "qos")),
		select_all("Interface", json_pack("[s, s, s, s, s, s, s]", "_uuid", "name", "error", "link_state", "lacp_current", "mac_in_use", "statistics")),
		select_all("Open_vSwitch", json_pack("[s, s]", "_uuid", "cur_cfg"))),
	    &results, err);

	*view = (struct view){0};
	if (r)
		return r;
	*view = (struct view){rows_of(results, 0), rows_of(results, 1), rows_of(results, 2), rows_of(results, 3)};
	json_decref(results);
	if (!view->bridges || !view->ports || !view->interfaces || !json_array_size(view->root)) {
		view_free(view);
		return error_set(err, EPROTO, "Open vSwitch's database has no row of Open_vSwitch");
	}
	return 0;
}

static const char *name_of(const json_t *row)
{
	const char *name = json_string_value(json_object_get(row, "name"));

	return name ? name : "";
}

static json_t *find(const json_t *rows, const char *name)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		if (!strcmp(name_of(row), name))
			return row;
	return NULL;
}

/* The row of `rows` whose column refers to `row`. */
static json_t *referrer(const json_t *rows, const char *column, const json_t *row)
{
	json_t *candidate;
	size_t i;

	json_array_foreach(rows, i, candidate) {
		json_t *members = ovsdb_members(json_object_get(candidate, column)), *member;
		bool found = false;
		size_t k;

		json_array_foreach(members, k, member)
			found |= json_equal(member, json_object_get(row, "_uuid"));
		json_decref(members);
		if (found)
			return candidate;
	}
	return NULL;
}

static json_t *bridge_of_interface(const struct view *view, const json_t *interface)
{
	json_t *port = interface ? referrer(view->ports, "interfaces", interface) : NULL;

	return port ? referrer(view->bridges, "ports", port) : NULL;
}

static bool is_ours(const struct ovs *ovs, const json_t *bridge)
{
	const char *owner = ovsdb_map_text(json_object_get(bridge, "external_ids"), "bulkhead");

	return owner && !strcmp(owner, ovs->owner);
}

/* --- the transaction ------------------------------------------------------------------------------------- */

static json_t *reference(const json_t *row)
{
	return json_incref(json_object_get(row, "_uuid"));
}

/* Updates `row`, or inserts one where it is NULL; takes `columns`. Returns a reference to the row. */
static json_t *put_row(struct plan *plan, const char *table, const json_t *row, json_t *columns)
{
	char name[16];

	if (row) {
		json_object_del(columns, "name"); /* not to be changed, nor to be told again */
		json_array_append_new(plan->operations, json_pack("{s:s, s:s, s:o, s:o}", "op", "update", "table", table, "where",
							    ovsdb_where("_uuid", reference(row)), "row", columns));
		return reference(row);
	}
	snprintf(name, sizeof(name), "row%u", plan->names++);
	json_array_append_new(plan->operations, json_pack("{s:s, s:s, s:o, s:s}", "op", "insert", "table", table, "row", columns, "uuid-name", name));
	return ovsdb_named(name);
}

static json_t *columns_of(const json_t *wanted)
{
	json_t *columns = json_object_get(wanted, "columns") ? json_copy(json_object_get(wanted, "columns")) : json_object();

	json_object_set(columns, "name", json_object_get(wanted, "name"));
	return columns;
}

static int put_interface(struct plan *plan, const json_t *wanted, json_t *references, struct error *err)
{
	const json_t *row = find(plan->view.interfaces, name_of(wanted)), *bridge = bridge_of_interface(&plan->view, row);

	if (bridge && !is_ours(plan->ovs, bridge))
		return error_set(err, EBUSY, "%s is in bridge %s of Open vSwitch, which is not Bulkhead's", name_of(wanted), name_of(bridge));
	json_array_append_new(references, put_row(plan, "Interface", bridge ? row : NULL, columns_of(wanted)));
	return 0;
}

static json_t *owner_map(const struct ovs *ovs)
{
	json_t *owner = json_pack("{s:s}", "bulkhead", ovs->owner), *map = ovsdb_map(owner);

	json_decref(owner);
	return map;
}

/* {KEY: "bits in a second"}. */
static json_t *rate_map(const char *key, const json_t *rate)
{
	json_t *text = json_pack("{s:o}", key, json_sprintf("%lld", (long long)json_integer_value(rate))), *map = ovsdb_map(text);

	json_decref(text);
	return map;
}

static json_t *put_queue(struct plan *plan, const json_t *wanted)
{
	json_t *pairs = json_array(), *rate, *row;
	const char *number;

	json_object_foreach(json_object_get(wanted, "queues"), number, rate) {
		row = put_row(plan, "Queue", NULL, json_pack("{s:o, s:o}", "other_config", rate_map("min-rate", rate), "external_ids", owner_map(plan->ovs)));
		json_array_append_new(pairs, json_pack("[i, o]", atoi(number), row));
	}
	return put_row(plan, "QoS", NULL, json_pack("{s:s, s:o, s:[s, o], s:o}", "type", "linux-htb", "other_config", rate_map("max-rate", json_object_get(wanted, "max")),
					      "queues", "map", pairs, "external_ids", owner_map(plan->ovs)));
}

/* Rows of these tables stay when nobody refers to them: all are told anew, and nobody refers to the old ones, not even who goes with this transaction. What
 * an interface has stays as it is where that is the same. */
static void drop_queues(struct plan *plan)
{
	static const char *const tables[] = {"QoS", "Queue"};
	json_t *port, *bridge;
	size_t k;

	json_array_foreach(plan->view.ports, k, port) {
		bridge = referrer(plan->view.bridges, "ports", port);
		if (bridge && is_ours(plan->ovs, bridge) && ovsdb_uuid_text(json_object_get(port, "qos")))
			json_decref(put_row(plan, "Port", port, json_pack("{s:o}", "qos", ovsdb_set(json_array()))));
	}
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		json_array_append_new(plan->operations, json_pack("{s:s, s:s, s:[[s, s, o]]}", "op", "delete", "table", tables[i], "where", "external_ids",
							    "includes", owner_map(plan->ovs)));
}

static int put_port(struct plan *plan, const json_t *wanted, json_t *references, struct error *err)
{
	const json_t *row = find(plan->view.ports, name_of(wanted)), *bridge = row ? referrer(plan->view.bridges, "ports", row) : NULL;
	json_t *interfaces = json_array(), *interface, *columns, *port;
	size_t i;
	int r = 0;

	if (bridge && !is_ours(plan->ovs, bridge))
		r = error_set(err, EBUSY, "%s is in bridge %s of Open vSwitch, which is not Bulkhead's", name_of(wanted), name_of(bridge));
	json_array_foreach(json_object_get(wanted, "interfaces"), i, interface)
		if (!r)
			r = put_interface(plan, interface, interfaces, err);
	if (r) {
		json_decref(interfaces);
		return r;
	}
	columns = columns_of(wanted);
	json_object_set_new(columns, "interfaces", ovsdb_set(interfaces));
	if (json_object_get(wanted, "qos"))
		json_object_set_new(columns, "qos", put_queue(plan, json_object_get(wanted, "qos")));
	port = put_row(plan, "Port", bridge ? row : NULL, columns);
	json_object_set(plan->port_of, name_of(wanted), port);
	json_array_append_new(references, port);
	return 0;
}

static json_t *put_mirrors(struct plan *plan, const json_t *wanted)
{
	json_t *references = json_array(), *mirror;
	size_t i;

	json_array_foreach(json_object_get(wanted, "mirrors"), i, mirror) {
		json_t *sources = json_array(), *name;
		size_t k;

		json_array_foreach(json_object_get(mirror, "sources"), k, name)
			json_array_append(sources, json_object_get(plan->port_of, json_string_value(name)));
		json_array_append_new(references,
		    put_row(plan, "Mirror", NULL,
			json_pack("{s:O, s:o, s:o, s:O}", "name", json_object_get(mirror, "name"), "select_src_port", ovsdb_set(json_incref(sources)),
			    "select_dst_port", ovsdb_set(sources), "output_port",
			    json_object_get(plan->port_of, json_string_value(json_object_get(mirror, "target"))))));
	}
	return ovsdb_set(references);
}

static void change_bridges(struct plan *plan, const char *how, json_t *bridge)
{
	json_array_append_new(plan->operations, json_pack("{s:s, s:s, s:[], s:[[s, s, [s, [o]]]]}", "op", "mutate", "table", "Open_vSwitch", "where",
						    "mutations", "bridges", how, "set", bridge));
}

static int put_bridge(struct plan *plan, const json_t *wanted, struct error *err)
{
	const json_t *row = find(plan->view.bridges, name_of(wanted));
	json_t *ports, *port, *columns, *bridge;
	size_t i;
	int r = 0;

	if (row && !is_ours(plan->ovs, row))
		return error_set(err, EEXIST, "Open vSwitch has a bridge %s that is not Bulkhead's", name_of(wanted));
	ports = json_array();
	json_object_clear(plan->port_of);
	json_array_foreach(json_object_get(wanted, "ports"), i, port)
		if (!r)
			r = put_port(plan, port, ports, err);
	if (r) {
		json_decref(ports);
		return r;
	}
	columns = columns_of(wanted);
	json_object_set_new(columns, "ports", ovsdb_set(ports));
	json_object_set_new(columns, "external_ids", owner_map(plan->ovs));
	json_object_set_new(columns, "mirrors", put_mirrors(plan, wanted));
	bridge = put_row(plan, "Bridge", row, columns);
	if (row)
		json_decref(bridge);
	else
		change_bridges(plan, "insert", bridge);
	return 0;
}

static int make_plan(struct plan *plan, const json_t *wanted, struct error *err)
{
	json_t *bridge;
	size_t i;
	int r = 0;

	drop_queues(plan);
	json_array_foreach(plan->view.bridges, i, bridge)
		if (is_ours(plan->ovs, bridge) && !find(json_object_get(wanted, "bridges"), name_of(bridge)))
			change_bridges(plan, "delete", reference(bridge));
	json_array_foreach(json_object_get(wanted, "bridges"), i, bridge)
		if (!r)
			r = put_bridge(plan, bridge, err);
	return r;
}

/* --- done by ovs-vswitchd ---------------------------------------------------------------------------------- */

static int64_t number_in(const json_t *rows, const char *column)
{
	return json_integer_value(json_object_get(json_array_get(rows, 0), column));
}

static int hangs(struct error *err)
{
	return error_set(err, ETIMEDOUT, "Open vSwitch (ovs-vswitchd) does not do what its database says: is it stopped?");
}

/* ovs-vswitchd says in cur_cfg up to which number it has come. The database waits for the change. */
static int wait_done(struct ovs *ovs, struct ovsdb *db, json_int_t number, struct error *err)
{
	json_t *results = NULL;
	json_int_t current = 0;
	int r;

	if (ovs->behind_pid != ovs_switch_pid(ovs))
		ovs->behind = 0;
	for (;;) {
		r = ovsdb_transact(db, json_pack("[o]", select_all("Open_vSwitch", json_pack("[s]", "cur_cfg"))), &results, err);
		if (r)
			return r;
		current = number_in(json_object_get(json_array_get(results, 0), "rows"), "cur_cfg");
		json_decref(results);
		if (current >= ovs->behind)
			ovs->behind = 0;
		if (current >= number)
			return 0;
		results = NULL;
		r = ovsdb_transact(db,
		    json_pack("[{s:s, s:s, s:i, s:[], s:[s], s:s, s:[{s:I}]}]", "op", "wait", "table", "Open_vSwitch", "timeout",
			ovs->behind ? BEHIND_MS : (int)OVSDB_SECONDS * 1000 - 500, "where", "columns", "cur_cfg", "until", "!=", "rows", "cur_cfg", current),
		    NULL, err);
		if (!r)
			continue;
		ovs->behind = number;
		ovs->behind_pid = ovs_switch_pid(ovs);
		return hangs(err);
	}
}

/* What an interface of ours could not be made of, where that matters. */
static int check_interfaces(const struct view *view, const json_t *wanted, struct error *err)
{
	json_t *bridge, *port, *interface;
	size_t i, j, k;

	json_array_foreach(json_object_get(wanted, "bridges"), i, bridge)
		json_array_foreach(json_object_get(bridge, "ports"), j, port)
			json_array_foreach(json_object_get(port, "interfaces"), k, interface) {
				const char *text = json_string_value(json_object_get(find(view->interfaces, name_of(interface)), "error"));

				if (text && json_is_true(json_object_get(interface, "must")))
					return error_set(err, EIO, "Open vSwitch cannot use %s: %s", name_of(interface), text);
				if (text)
					log_write(LOG_LEVEL_WARNING, "Open vSwitch cannot use %s: %s", name_of(interface), text);
			}
	return 0;
}

static bool is_wanted(const json_t *port)
{
	json_t *interface;
	size_t i;

	json_array_foreach(json_object_get(port, "interfaces"), i, interface)
		if (json_is_true(json_object_get(interface, "must")))
			return true;
	return json_is_true(json_object_get(port, "must"));
}

/* Of a queue that the kernel refused Open vSwitch tells its log alone. */
static int check_queues(json_t *wanted, struct error *err)
{
	json_t *bridge, *port;
	size_t i, j;

	json_array_foreach(json_object_get(wanted, "bridges"), i, bridge)
		json_array_foreach(json_object_get(bridge, "ports"), j, port) {
			struct error why = {0};

			if (!ovs_bandwidth_in_force(port, &why))
				continue;
			if (is_wanted(port))
				return error_set(err, why.code, "%s", why.text);
			json_object_set_new(bridge, "problem", json_string(why.text));
		}
	return 0;
}

/* Has the plan's operations done, in one transaction, and none is left of them. */
static int commit(struct plan *plan, struct ovsdb *db, struct error *err)
{
	json_t *results = NULL, *operations = plan->operations;
	json_int_t number;
	int r;

	json_array_append_new(operations, json_pack("{s:s, s:s, s:[], s:[[s, s, i]]}", "op", "mutate", "table", "Open_vSwitch", "where", "mutations", "next_cfg",
					      "+=", 1));
	json_array_append_new(operations, select_all("Open_vSwitch", json_pack("[s]", "next_cfg")));
	plan->operations = json_array();
	r = ovsdb_transact(db, operations, &results, err);
	if (r)
		return r;
	plan->ovs->told = plan->last;
	number = number_in(json_object_get(json_array_get(results, json_array_size(results) - 1), "rows"), "next_cfg");
	json_decref(results);
	return wait_done(plan->ovs, db, number, err);
}

static bool has_interface(const json_t *wanted, const char *name)
{
	json_t *bridge, *port;
	size_t i, j;

	json_array_foreach(json_object_get(wanted, "bridges"), i, bridge)
		json_array_foreach(json_object_get(bridge, "ports"), j, port)
			if (find(json_object_get(port, "interfaces"), name))
				return true;
	return false;
}

/* An interface that leaves keeps the queue that Open vSwitch has given it: so it loses that first. One that is gone needs nothing. */
static int release_queues(struct plan *plan, struct ovsdb *db, const json_t *wanted, struct error *err)
{
	json_t *interface, *port, *bridge;
	struct host_link link;
	size_t i;

	json_array_foreach(plan->view.interfaces, i, interface) {
		port = referrer(plan->view.ports, "interfaces", interface);
		bridge = port ? referrer(plan->view.bridges, "ports", port) : NULL;
		if (bridge && is_ours(plan->ovs, bridge) && ovsdb_uuid_text(json_object_get(port, "qos")) && !has_interface(wanted, name_of(interface)) &&
		    !host_link_get(name_of(interface), &link, NULL))
			json_decref(put_row(plan, "Port", port, json_pack("{s:o}", "qos", ovsdb_set(json_array()))));
	}
	return json_array_size(plan->operations) ? commit(plan, db, err) : 0;
}

static int carry_out(struct plan *plan, struct ovsdb *db, json_t *wanted, struct error *err)
{
	struct view after;
	int r;

	plan->last = true;
	r = commit(plan, db, err);
	if (!r)
		r = look(db, &after, err);
	if (r)
		return r;
	r = check_interfaces(&after, wanted, err);
	view_free(&after);
	return r ? r : check_queues(wanted, err);
}

int ovs_apply(struct ovs *ovs, json_t *wanted, struct error *err)
{
	struct plan plan = {.ovs = ovs};
	struct ovsdb *db = NULL;
	json_t *bridge;
	size_t i;
	int r = ovs_connect(ovs, &db, err), flows;

	ovs->told = false;
	if (!r)
		r = look(db, &plan.view, err);
	if (r) {
		ovs_disconnect(ovs, db);
		return r;
	}
	plan.operations = json_array();
	plan.port_of = json_object();
	r = release_queues(&plan, db, wanted, err);
	if (!r)
		r = make_plan(&plan, wanted, err);
	if (!r)
		r = carry_out(&plan, db, wanted, err);
	json_decref(plan.operations);
	json_decref(plan.port_of);
	view_free(&plan.view);
	ovs_disconnect(ovs, db);
	/* A bridge without flows passes nothing, so these come also where one interface is missing. */
	if (r && r != -EIO)
		return r;
	json_array_foreach(json_object_get(wanted, "bridges"), i, bridge) {
		flows = ovs_put_flows(ovs, bridge, r ? NULL : err);
		r = r ? r : flows;
	}
	return r;
}

const char *ovs_bridges_datapath(struct ovs *ovs)
{
	json_t *results = NULL, *rows, *row;
	struct ovsdb *db = NULL;
	const char *type = NULL;
	size_t i;
	int r = ovs_connect(ovs, &db, NULL);

	if (!r)
		r = ovsdb_transact(db, json_pack("[o]", select_all("Bridge", json_pack("[s, s]", "datapath_type", "external_ids"))), &results, NULL);
	ovs_disconnect(ovs, db);
	rows = r ? NULL : json_object_get(json_array_get(results, 0), "rows");
	json_array_foreach(rows, i, row) {
		const char *has = json_string_value(json_object_get(row, "datapath_type"));

		if (is_ours(ovs, row) && has)
			type = strcmp(has, "netdev") ? "system" : "netdev";
	}
	json_decref(results);
	return type;
}

/* --- questions -------------------------------------------------------------------------------------------- */

char *ovs_bridge_of(struct ovs *ovs, const char *interface)
{
	struct ovsdb *db = NULL;
	struct view view;
	char *name = NULL;
	json_t *bridge;

	if (ovs_choose(ovs, NULL) || ovs_connect(ovs, &db, NULL))
		return NULL;
	if (!look(db, &view, NULL)) {
		bridge = bridge_of_interface(&view, find(view.interfaces, interface));
		if (bridge)
			name = strdup(name_of(bridge));
		view_free(&view);
	}
	ovs_disconnect(ovs, db);
	return name;
}

static json_t *member_state(const json_t *interface, const json_t *port)
{
	const char *link = json_string_value(json_object_get(interface, "link_state"));
	const char *mac = json_string_value(json_object_get(interface, "mac_in_use"));
	const char *active = json_string_value(json_object_get(port, "bond_active_slave"));
	json_t *state = json_pack("{s:s, s:b}", "name", name_of(interface), "link", link && !strcmp(link, "up"));

	if (active)
		json_object_set_new(state, "active", json_boolean(mac && !strcmp(mac, active)));
	if (json_is_boolean(json_object_get(interface, "lacp_current")))
		json_object_set(state, "lacp", json_object_get(interface, "lacp_current"));
	return state;
}

int ovs_port_state(struct ovs *ovs, const char *port, json_t **out, struct error *err)
{
	struct ovsdb *db = NULL;
	struct view view;
	json_t *row, *interface, *list;
	size_t i;
	int r = ovs_connect(ovs, &db, err);

	if (r)
		return r;
	r = look(db, &view, err);
	ovs_disconnect(ovs, db);
	if (r)
		return r;
	list = json_array();
	row = find(view.ports, port);
	json_array_foreach(view.interfaces, i, interface)
		if (row && referrer(view.ports, "interfaces", interface) == row)
			json_array_append_new(list, member_state(interface, row));
	view_free(&view);
	*out = list;
	return 0;
}

static json_t *statistics_of(const json_t *interface)
{
	json_t *pairs = json_array_get(json_object_get(interface, "statistics"), 1), *statistics = json_object(), *pair;
	size_t i;

	json_array_foreach(pairs, i, pair) {
		const char *name = json_string_value(json_array_get(pair, 0));

		if (name && json_is_integer(json_array_get(pair, 1)))
			json_object_set(statistics, name, json_array_get(pair, 1));
	}
	return statistics;
}

int ovs_figures(struct ovs *ovs, json_t **out, struct error *err)
{
	struct ovsdb *db = NULL;
	struct view view;
	json_t *interface;
	size_t i;
	int r = ovs_connect(ovs, &db, err);

	if (!r)
		r = look(db, &view, err);
	ovs_disconnect(ovs, db);
	if (r)
		return r;
	*out = json_object();
	json_array_foreach(view.interfaces, i, interface) {
		const json_t *port = referrer(view.ports, "interfaces", interface), *bridge = port ? referrer(view.bridges, "ports", port) : NULL;
		json_t *state;

		if (!bridge || !is_ours(ovs, bridge))
			continue;
		state = member_state(interface, port);
		json_object_set_new(state, "statistics", statistics_of(interface));
		json_object_set_new(*out, name_of(interface), state);
	}
	view_free(&view);
	return 0;
}
