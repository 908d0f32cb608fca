/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapters.h - the addresses of machines' network adapters: each has one that no other adapter of the host's machines has,
 * and keeps it. Private to vmms/. All on the loop's thread.
 */
#pragma once

#include "vmms/daemon.h"

/* Gives an address to each adapter of `config` (or of a request for one) that has none: that of the adapter in its
 * place in `before`, which may be NULL, else a new one. Adapters that are none are left for form_check() to tell. */
void adapters_complete(struct vmms *vmms, json_t *config, const json_t *before);

/* New addresses for all: `config` becomes another machine's. */
void adapters_renew(struct vmms *vmms, json_t *config);

/* -EEXIST: an address is another adapter's, of this machine or of one that is not `own` (NULL: of none). */
int adapters_check(struct vmms *vmms, const struct machine *own, const json_t *config, struct error *err);
