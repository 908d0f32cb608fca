/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmms.h - the host's manager: machines, jobs, events, and the REST interface to them. See docs/manage.md.
 *
 * vmms_run() is the whole of it; it returns on SIGTERM or SIGINT, and leaves the machines running.
 */
#pragma once

#include "base/base.h"

struct vmms_options {
	const char *state;   /* directory: host.db, machines, images; made if it is not there */
	const char *runtime; /* directory: sockets; made likewise */
	const char *worker;  /* the program bulkhead-worker */
	const char *config;  /* host.json; NULL: all defaults */
	bool config_may_miss; /* it need not be there: all defaults then */
	const char *cgroup;  /* a control group that was given to us, for one in it for each machine; NULL: none */
	int listener;        /* a listening socket that was handed over, or -1: RUNTIME/api is made */
	/* Called once, when requests are answered. */
	void (*ready)(void);
};

int vmms_run(const struct vmms_options *options, struct error *err);

/* Where the daemon of this user is by default: "/var/lib/bulkhead" and "/run/bulkhead", or, for a user of his
 * own, below $XDG_DATA_HOME (~/.local/share) and $XDG_RUNTIME_DIR (/run/user/UID). The caller frees them. */
int vmms_default_places(bool user, char **state, char **runtime, struct error *err);

/* /etc/bulkhead/host.json, or, for a user of his own, $XDG_CONFIG_HOME/bulkhead/host.json (~/.config); it need not be
 * there. The caller frees it. NULL: there is no such place. */
char *vmms_default_config(bool user);
