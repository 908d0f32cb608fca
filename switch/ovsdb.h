/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ovsdb.h - a client of Open vSwitch's database (RFC 7047: JSON-RPC 1.0 over a Unix socket).
 *
 * Every call waits for its answer, and at most OVSDB_SECONDS. One thread at a time. Errors: negative errno; `err` says
 * what the server said.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

#define OVSDB_SECONDS 5u

struct ovsdb;

/* -ENOENT, -ECONNREFUSED: nobody listens at `socket`. */
int ovsdb_open(struct ovsdb **out, const char *socket, struct error *err);
/* NULL is fine. */
void ovsdb_close(struct ovsdb *db);

/* It has not answered its last request in time; and has still not: nothing comes from it, and it has ended nothing. */
bool ovsdb_is_late(const struct ovsdb *db);
bool ovsdb_is_silent(const struct ovsdb *db);

/* One request; takes the reference to `params`. *result (may be NULL) is the caller's. After -ETIMEDOUT, -EPIPE and -EPROTO
 * the connection is of no use any more. */
int ovsdb_call(struct ovsdb *db, const char *method, json_t *params, json_t **result, struct error *err);

/* Operations on the database Open_vSwitch, all or none; takes the reference to the array. *results (may be NULL) has
 * one entry for each operation, and none is an error. */
int ovsdb_transact(struct ovsdb *db, json_t *operations, json_t **results, struct error *err);

/* The forms of RFC 7047, 5.1: what is taken is the reference; NULL for want of memory. */
json_t *ovsdb_set(json_t *array);                   /* ["set", array] */
json_t *ovsdb_map(const json_t *object);            /* ["map", [[key, value], …]] of an object of strings; NULL: of none */
json_t *ovsdb_uuid(const char *uuid);               /* ["uuid", uuid] */
json_t *ovsdb_named(const char *name);              /* ["named-uuid", name] */
json_t *ovsdb_where(const char *column, json_t *value); /* [[column, "==", value]] */

/* The text in ["uuid", text]; NULL: it is none. */
const char *ovsdb_uuid_text(const json_t *value);
/* What a column of a set holds as an array, whether it is ["set", […]] or a single value. The caller's. */
json_t *ovsdb_members(const json_t *value);
/* The value of a key in ["map", …]; NULL: it is not there. */
const char *ovsdb_map_text(const json_t *value, const char *key);
