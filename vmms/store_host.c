/* SPDX-License-Identifier: GPL-2.0-or-later */
/* store_host.c - what host.db knows of the host itself. */
#include <errno.h>
#include <string.h>

#include "vmms/store_sql.h"

/* The text of a statement's only row; NULL: it has none. */
static int text_of(struct store *store, sqlite3_stmt *statement, char **text, struct error *err)
{
	int r = statement ? sqlite3_step(statement) : SQLITE_ERROR;

	*text = NULL;
	if (r == SQLITE_ROW && !(*text = strdup(sql_text(statement, 0))))
		r = error_set(err, ENOMEM, "no memory");
	else
		r = r == SQLITE_ROW || r == SQLITE_DONE ? 0 : sql_fail(store, err);
	sqlite3_finalize(statement);
	return r;
}

int store_host_get(struct store *store, const char *key, char **value, struct error *err)
{
	return text_of(store, sql_prepare(store, "SELECT value FROM host WHERE key = ?", "s", key), value, err);
}

int store_host_set(struct store *store, const char *key, const char *value, struct error *err)
{
	if (!value)
		return sql_run(store, sql_prepare(store, "DELETE FROM host WHERE key = ?", "s", key), err);
	return sql_run(store, sql_prepare(store, "INSERT OR REPLACE INTO host (key, value) VALUES (?,?)", "ss", key, value),
		       err);
}
