/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * switches.h - the host's virtual switches (docs/network.md), and machines' adapters that are plugged into them. Private
 * to vmms/.
 *
 * host.db says which there are; Open vSwitch's database is made to say the same, whenever one changes and whenever its
 * daemons come back. All on the loop's thread; what waits for Open vSwitch, some seconds at most, is done as an errand (errand.h) [errand].
 */
#pragma once

#include "switch/ovs.h"
#include "vmms/daemon.h"
#include "vmms/store_switch.h"

struct vswitch {
	char *name;
	unsigned number;
	char interface[16]; /* bsNUMBER: its bridge, and the host's adapter on it */
	enum switch_phase phase;
	json_t *config, *host; /* as in struct store_switch */
	struct error problem;  /* what of it is not as it should be */
	struct error warning;  /* what of its queues is not, as Open vSwitch was told last */
	int64_t rate;          /* bits in a second that one of the host's adapters can send, as known last; 0: unknown [written by errands] */
	char lost[160];        /* why machines on it have no network beyond this host, as half a sentence, if it was to have one; "": they have */
	bool attach;           /* the host's adapters are in the bridge, or go there */
	const json_t *leaving; /* adapters that are no more in `config`, and in the bridge for a moment yet; NULL: none */
};

struct switches;

/* Takes note of what host.db has, undoes what was half done, and sees to the rest. Never fails for Open vSwitch: that is tried again. */
int switches_open(struct vmms *vmms, struct error *err);
/* The loop has to run once more; then switches_free(). Switches stay. */
void switches_close(struct vmms *vmms);
void switches_free(struct vmms *vmms);

/* NULL: there is none. */
struct vswitch *switches_find(struct vmms *vmms, const char *name);
/* In the order of names: the i-th; NULL behind the last. */
struct vswitch *switches_at(struct vmms *vmms, size_t i);

/* [errand] `config` has passed switch_form; takes no reference. Made in one step: if it fails, all is as it was. -EEXIST, -EINVAL; -ENODEV: an adapter is
 * not there; -EBUSY: it is used. */
int switch_create(struct vmms *vmms, const json_t *config, struct vswitch **out, struct error *err);
/* [errand] `change` has passed switch_change_form. */
int switch_change(struct vmms *vmms, struct vswitch *s, const json_t *change, struct error *err);
/* [errand] -EBUSY: machines have adapters on it. What of it does not go at once is tried again until it does; until then it is there, and has a problem. */
int switch_delete(struct vmms *vmms, struct vswitch *s, struct error *err);
/* [errand] As REST shows it; the caller's. */
json_t *switch_json(struct vmms *vmms, struct vswitch *s);

/* Calls `told` once, in two seconds at the latest, with [{"switch", "interface", "kind": host, adapter or vm, "vm": its name or "", "state": as
 * ovs_figures()}]; NULL: there are no switches, or Open vSwitch did not say. It may have been called when this returns. */
typedef void (*switch_figures_told)(void *context, const json_t *figures);
void switches_figures(struct vmms *vmms, switch_figures_told told, void *context);

/* [errand] A tap interface for this adapter, in its switch: *fd is the caller's, and the interface goes with the last one that has it. */
int switches_port_open(struct machine *machine, const json_t *adapter, int *fd, struct error *err);
/* It is in no switch any more. Nothing happens for an adapter that was not. */
void switches_port_closed(struct machine *machine, const json_t *adapter);
/* The tap of a worker that was adopted is found again: it has been plugged in by somebody who is gone. */
void switches_port_adopted(struct machine *machine, const json_t *adapter);
/* Whether the adapter can have there what its settings promise, as far as is known by now. */
int switches_port_check(struct vmms *vmms, const json_t *adapter, struct error *err);
/* [errand] The adapter's settings are others by now: they come into force, or stay as they were. */
int switches_port_changed(struct machine *machine, const json_t *adapter, struct error *err);
/* The network of an adapter that is protected, and plugged in, is lost, and that has been told. */
bool switches_port_lost(struct vmms *vmms, const json_t *adapter);
/* The same, as soon as it can be. */
void switches_port_noted(struct machine *machine, const json_t *adapter);

/* switch_form.c */
extern const struct form switch_form, switch_change_form, adapter_settings_form;
/* What switch_json() makes. */
extern const struct form switch_shown_form;
int switch_config_check(const json_t *config, struct error *err);

/* --- between the files of switches ------------------------------------------------------------------------ */

struct ovs *switches_ovs(struct vmms *vmms);
/* [errand] As ovs_bridge_of(). */
char *switches_bridge_of(struct vmms *vmms, const char *interface);
/* [errand] Makes Open vSwitch say what is to be. */
int switches_apply(struct vmms *vmms, struct error *err);
int switch_store(struct vmms *vmms, const struct vswitch *s, struct error *err);

/* The host is on it. */
bool switch_has_host(const struct vswitch *s);
/* The host's addresses would be this adapter's, if it were not for the switch. */
bool switch_is_home(const struct vswitch *s, const char *adapter);
/* By this address the host, or an adapter of it, is known on the switch. */
bool switch_is_hosts_mac(const struct vswitch *s, const char *mac);

/* switch_host.c: host adapters of external switches, and the host's addresses. */
int switch_check_adapters(struct vmms *vmms, const struct vswitch *own, const json_t *adapters, struct error *err);
/* The adapters (strings) become the switch's; the first takes the host's addresses and routes along, if `home`. */
int switch_attach(struct vmms *vmms, struct vswitch *s, const json_t *adapters, bool home, struct error *err);
/* All that was done to the host is undone, as far as it was done. If Open vSwitch does not remove the bridge the rest is done all the
 * same, and the next call tries that alone; if the kernel's datapath still has an adapter nothing is undone yet. */
int switch_detach(struct vmms *vmms, struct vswitch *s, struct error *err);
/* The host's addresses have to stay on it, though it is to go: an adapter of it has not been let go, and would hear nothing. */
bool switch_holds_host(const struct vswitch *s);
void switch_detach_one(struct vmms *vmms, struct vswitch *s, const char *adapter);
/* -ENODEV: an adapter of its own is not there; the switch is used without it. */
int switch_check_present(const struct vswitch *s, struct error *err);
/* The host has its addresses where it should, also after its interfaces were made anew. */
int switch_settle(struct vmms *vmms, struct vswitch *s, struct error *err);
/* Takes note of the addresses that the host has on it by now. */
void switch_note_addresses(struct vmms *vmms, struct vswitch *s);
