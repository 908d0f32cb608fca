/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ports.h - what adapters are plugged into, as descriptors for a worker, which can open nothing once it runs. Private to vmms/.
 *
 * A worker that starts opens tap interfaces, and starts the default switch, itself; a virtual switch's port is opened for it
 * always. One that runs is given all of them.
 */
#pragma once

#include "vmms/daemon.h"

/* Whether any of a machine that is to start gets a descriptor. */
bool ports_are_slow(const struct machine *machine);
/* Those descriptors, in the order of its adapters: the caller's. On failure there is none. As an errand. */
int ports_open(struct machine *machine, int fds[VM_ADAPTERS_MAX], size_t *count, struct error *err);
/* The machine is off, or was not started after all. */
void ports_closed(struct machine *machine);

/* Of one adapter of a machine that runs; -1 for one that is not plugged in. `*ports`, which may be NULL, becomes the caller's list of the host's
 * ports that lead to the guest, in the order of its forwards; NULL: it has none. As an errand if port_waits(), on the pool if port_is_slow(), else on the loop's thread. */
int port_open(struct machine *machine, const json_t *adapter, int *fd, json_t **ports, struct error *err);
bool port_is_slow(const json_t *adapter);
bool port_waits(const json_t *adapter);
/* It is unplugged, or gone. On the loop's thread. */
void port_closed(struct machine *machine, const json_t *adapter);

/* What came of the processes that port_open() started. On the loop's thread, now and then, and at the daemon's end. */
void ports_reap(struct vmms *vmms);
