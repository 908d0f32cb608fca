/* SPDX-License-Identifier: GPL-2.0-or-later */
/* switches_private.h - what switches.c and switch_ports.c share. Private to them. */
#pragma once

#include "vmms/switches.h"

/* A daemon of Open vSwitch, seen to end. */
struct watch {
	struct vmms *vmms;
	uv_poll_t poll;
	int pid, fd;
	bool active;
};

/* Told of addresses that others give interfaces of the host. */
struct address_watch {
	uv_poll_t poll;
	int fd;
	bool active;
};

struct switches {
	struct ovs *ovs; /* [errand] */
	const char *datapath; /* ovs_datapath(), as known last; NULL: not yet, or not any more */
	struct vswitch **list;
	size_t count;
	/* What is plugged in, by interface: {"switch": name, "machine": id, "number": of its port, "adapter": as vm.json has it, "lost": its
	 * network, and it was told}. */
	json_t *ports;
	uv_timer_t retry, note, links;
	struct watch watches[2];
	struct address_watch addresses;
	bool failing; /* it has been told */
	bool waiting; /* switches_see_to() is to come */
	unsigned delay;
};

/* As it should be, all of it, as soon as it can be; what cannot be is the problem of its switch, and tried again. */
void switches_see_to(struct vmms *vmms);
/* The same in a second. */
void switches_see_to_soon(struct vmms *vmms);
/* switch_watch.c: what an adapter of a switch is given goes where the host's addresses are. Without that those are looked at when something else
 * is the matter. */
void switches_watch_addresses(struct vmms *vmms);
void switches_watch_end(struct vmms *vmms);
/* In a moment: machines whose network is lost, or back, are told of. */
void switches_look_at_links(struct vmms *vmms);
/* [errand] As ovs_start(). */
int switches_start(struct vmms *vmms, struct error *err);

/* --- switch_ports.c; lists are the caller's -------------------------------------------------------------------- */

/* Takes note of what running machines have plugged in. */
void switches_plug_running(struct vmms *vmms);
/* Its ports, for ovs_rules(). */
json_t *switches_ports_of(struct vmms *vmms, const struct vswitch *s);
/* Whether any of them has a part of what it can send. */
bool switches_have_parts(struct vmms *vmms, const struct vswitch *s);
/* For people: [{"interface", "vm", "mac"}]. */
json_t *switches_plugged(struct vmms *vmms, const struct vswitch *s);
/* Names of machines with an adapter on it, or about to be, whether they run or not. */
json_t *switches_users(struct vmms *vmms, const struct vswitch *s);
