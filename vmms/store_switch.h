/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store_switch.h - host.db: virtual switches. Private to vmms/. As store.h.
 */
#pragma once

#include "vmms/store.h"

enum switch_phase { SWITCH_MAKING, SWITCH_READY, SWITCH_DELETING };

struct store_switch {
	unsigned number; /* its bridge is bsNUMBER */
	const char *name;
	enum switch_phase phase;
	json_t *config; /* as switch_form has it */
	json_t *host;   /* what of the host has changed for it, and how that was: to be undone by. NULL: nothing */
};

/* -EEXIST: the name or the number is taken. */
int store_switch_add(struct store *store, const struct store_switch *entry, struct error *err);
/* All but name and number. */
int store_switch_set(struct store *store, const struct store_switch *entry, struct error *err);
int store_switch_remove(struct store *store, unsigned number, struct error *err);
/* Calls `each` for every switch, by name; what it is given lasts until it returns. */
int store_switch_list(struct store *store, void (*each)(void *context, const struct store_switch *entry), void *context,
    struct error *err);
