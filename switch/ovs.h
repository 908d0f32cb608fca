/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ovs.h - Open vSwitch as this host has it: its daemons, and what of its database and flows is ours.
 *
 * Where the host runs Open vSwitch itself (/run/openvswitch/db.sock answers), that is used, and from then on that alone: two would be at
 * odds over the kernel's datapath. Else ovsdb-server and
 * ovs-vswitchd are started here, in a directory of our own, and ended when they are of no use any more. They outlive
 * the process that started them, and are found again by it.
 *
 * What is to be is told as a whole (ovs_apply()): whatever else of ours there is goes. Bridges are known to be ours by
 * external_ids:bulkhead, which is the owner's mark; nothing else in the database is touched.
 *
 * One thread. Calls wait for Open vSwitch, some seconds at most. Errors: negative errno; -ENOTSUP: it is not installed;
 * -EIO, -ETIMEDOUT: it does not do as it is told.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

struct ovs;

struct ovs_place {
	const char *directory; /* for daemons of our own: made and removed as they come and go */
	const char *owner;     /* the mark */
	bool own;              /* never the host's own Open vSwitch */
};

int ovs_new(struct ovs **out, const struct ovs_place *place, struct error *err);
/* The daemons stay. NULL is fine. */
void ovs_free(struct ovs *ovs);

/* Makes sure that the daemons run. *started (may be NULL): ours had to be started, and know nothing yet. */
int ovs_start(struct ovs *ovs, bool *started, struct error *err);
/* The daemons are, or would be, ours. */
bool ovs_is_own(const struct ovs *ovs);
/* Ends ours, by their process ids, and removes the directory. Of the host's own nothing is ended. */
void ovs_stop(struct ovs *ovs);

/* A process whose end means that flows, and what bridges do as interfaces, are lost: ovs-vswitchd's, or 0. */
int ovs_switch_pid(const struct ovs *ovs);
/* The same of ovsdb-server; 0 also where it is not ours. */
int ovs_database_pid(const struct ovs *ovs);

/* "system" or "netdev": the kernel's datapath, or that of ovs-vswitchd itself. As long as there are bridges of ours it is what they have. */
const char *ovs_datapath(const struct ovs *ovs);

/* Whether that has been found out yet. */
bool ovs_datapath_known(const struct ovs *ovs);

/* Makes the database say this and no more of ours, waits until ovs-vswitchd has done it, and puts the flows in place.
 *
 *   {"bridges": [{"name": "bs1", "of": whatever the caller wants, "columns": {…}, "flows": "…", "meters": {"NUMBER": "…"}, "mirrors": [{…}],
 *                 "ports": [{"name": "bp00155d000001", "columns": {…}, "interfaces": [{"name": …, "columns": {…}}]}]}]}
 *
 * A port may have a "qos", a queue of its interfaces: {"max": bits in a second, "queues": {NUMBER: bits in a second that it always has}}. `columns` are of tables Bridge, Port and Interface, in RFC 7047's form; a bridge's own port is one of "ports". A mirror is
 * {"name", "sources": [ports], "target": port}. What an interface's column "error" says is an error here, and so is a queue that the kernel does not have,
 * if the interface, or the port, "must" be as it is told; the database says what it was told all the same. Where it need not, a bridge gets a "problem" for its queues. */
int ovs_apply(struct ovs *ovs, json_t *wanted, struct error *err);

/* Takes this interface out of the kernel's datapath, which ovs-vswitchd has not done: for one that hangs or is gone, and will find in its database that the interface
 * is in no bridge. -EBUSY: the database has not been told all that was asked for last, so that it would be put back. */
int ovs_take_out(struct ovs *ovs, const char *interface, struct error *err);

/* The bridge that has this interface, ours or not; the caller frees it. NULL: none, or nothing runs. */
char *ovs_bridge_of(struct ovs *ovs, const char *interface);

/* What is known of the interfaces of a port: [{"name", "link", and, of a team, "active", "lacp"}]; the caller's. */
int ovs_port_state(struct ovs *ovs, const char *port, json_t **out, struct error *err);

/* The same of all interfaces of our bridges, with what Open vSwitch counts (Interface.statistics, which it looks at every five
 * seconds): {NAME: {"link", …, "statistics": {"rx_packets": NUMBER, …}}}; the caller's. */
int ovs_figures(struct ovs *ovs, json_t **out, struct error *err);
