/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store_sql.h - statements on host.db, for the files that have its tables. Private to them.
 */
#pragma once

#include <sqlite3.h>

#include "vmms/store.h"

struct store {
	sqlite3 *db;
	unsigned since_tidy;
};

int64_t sql_now(void); /* milliseconds since 1970 */

/* Says what is wrong with the last call. */
int sql_fail(struct store *store, struct error *err);

/* A statement with its parameters: "s" text (NULL is NULL), "i" int64_t. NULL: see sql_fail(). */
sqlite3_stmt *sql_prepare(struct store *store, const char *sql, const char *types, ...);

/* Runs a statement that gives no rows, and frees it. It may be NULL. */
int sql_run(struct store *store, sqlite3_stmt *statement, struct error *err);

/* Runs a statement and frees it: `make` gives one entry of the list for each row. */
int sql_collect(struct store *store, sqlite3_stmt *statement, json_t *(*make)(sqlite3_stmt *), json_t **list,
    struct error *err);

/* A column of the row. */
const char *sql_text(sqlite3_stmt *statement, int i);
json_t *sql_text_json(sqlite3_stmt *statement, int i);
json_t *sql_number_json(sqlite3_stmt *statement, int i);
