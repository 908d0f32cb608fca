/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapters.h - machines' network adapters: their addresses, of which each has one that no other adapter of the host's machines
 * has, and keeps it; and changes of them while the machine runs. Private to vmms/. All on the loop's thread.
 */
#pragma once

#include "vmms/daemon.h"

/* Gives an address to each adapter of `config` (or of a request for one) that has none: that of the adapter in its
 * place in `before`, which may be NULL, else a new one. Adapters that are none are left for form_check() to tell. */
void adapters_complete(struct vmms *vmms, json_t *config, const json_t *before);

/* New addresses for all: `config` becomes another machine's. */
void adapters_renew(struct vmms *vmms, json_t *config);

/* -EEXIST: an address is another adapter's, of this machine or of one that is not `own` (NULL: of none). -EINVAL: a key that belongs to
 * another kind of port, or is missing. */
int adapters_check(struct vmms *vmms, const struct machine *own, const json_t *config, struct error *err);

/* Whether each can have what its settings promise, in the switch that it is plugged into, as far as that is known; switches_port_check(). */
int adapters_check_promises(struct vmms *vmms, const json_t *config, struct error *err);

/* The first machine that has one of its addresses; NULL: none has. */
const struct machine *adapters_owner(const struct vmms *vmms, const json_t *config);

/* The bytes of its address; false: it has none. */
bool adapter_mac(const json_t *adapter, uint8_t mac[6]);

/* Its forwards as they are in force: where one says "auto", with the port that its worker tells of (`told`, a list in the same order). */
json_t *adapter_forwards(const json_t *adapter, const json_t *told);

/* What it is plugged into: "nat", "tap", "switch" or "none". */
const char *adapter_port(const json_t *adapter);

/* The same for the worker to keep, and for people: with the name of what it is plugged into. Returns `text`. */
#define ADAPTER_LABEL_SIZE 64u
const char *adapter_label(const json_t *adapter, char text[ADAPTER_LABEL_SIZE]);

/* adapter_change.c: an adapter more, less, or with other settings, by its address or its place; while the machine runs, too. Bodies have
 * passed vm_new_adapter_form and vm_some_adapter_form. */
int machine_add_adapter(struct machine *machine, const json_t *body, struct job **job, struct error *err);
int machine_remove_adapter(struct machine *machine, const char *which, struct job **job, struct error *err);
int machine_set_adapter(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err);

/* What a daemon that died in the middle of that has left: vm.json has what the worker has, which `status` tells. */
void machine_adapters_settle(struct machine *machine, const json_t *status);
