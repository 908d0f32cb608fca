/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ovs_private.h - what the files of ovs.h share. Private to switch/. */
#pragma once

#include "switch/ovs.h"
#include "switch/ovsdb.h"

struct ovs {
	char *owner, *own_directory;
	char *directory; /* where the daemons have their sockets: ours, or the host's */
	bool own, only_own;
	const char *datapath;
	bool datapath_known;
	/* What of flows and meters was put in place, by bridge: good as long as this ovs-vswitchd lives. */
	json_t *flows;
	int flows_pid;
	/* A connection to a database that did not answer in time: until it does nobody else waits for it. */
	struct ovsdb *silent;
	/* Up to where this ovs-vswitchd had not come in time: until it has it is waited for but shortly. 0: it has. */
	json_int_t behind;
	int behind_pid;
	bool told; /* the database has what ovs_apply() was asked for last */
};

/* What bridges of ours have, as ovs_datapath(); NULL: there are none. */
const char *ovs_bridges_datapath(struct ovs *ovs);

/* Whose daemons it is about: the host's, if they run. -EIO: they did, and do not. */
int ovs_choose(struct ovs *ovs, struct error *err);

/* A connection to the database that runs. -ETIMEDOUT: it does not answer, and has not for others. To be ended by ovs_disconnect(); NULL is fine. */
int ovs_connect(struct ovs *ovs, struct ovsdb **db, struct error *err);
void ovs_disconnect(struct ovs *ovs, struct ovsdb *db);

/* ovs_flows.c: flows and meters of a wanted bridge, unless they are in place; the flows in one bundle. */
int ovs_put_flows(struct ovs *ovs, const json_t *bridge, struct error *err);

/* The environment in which programs of Open vSwitch find what is ours; ended by NULL. */
struct ovs_environment {
	char text[5][256];
	const char *list[6];
};
void ovs_environment(const struct ovs *ovs, struct ovs_environment *environment);
