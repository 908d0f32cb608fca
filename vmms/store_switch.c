/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/store_switch.h"

#include <errno.h>

#include "vmms/store_sql.h"

int store_switch_add(struct store *store, const struct store_switch *entry, struct error *err)
{
	_cleanup_free_ char *config = json_dumps(entry->config, JSON_COMPACT);
	int r;

	if (!config)
		return error_set(err, ENOMEM, "no memory");
	r = sql_run(store, sql_prepare(store, "INSERT INTO switch (number, name, phase, config) VALUES (?,?,?,?)", "isis", (int64_t)entry->number,
			       entry->name, (int64_t)entry->phase, config), err);
	return r == -EEXIST ? error_set(err, EEXIST, "there is a switch \"%s\" already", entry->name) : r;
}

int store_switch_set(struct store *store, const struct store_switch *entry, struct error *err)
{
	_cleanup_free_ char *config = json_dumps(entry->config, JSON_COMPACT), *host = entry->host ? json_dumps(entry->host, JSON_COMPACT) : NULL;

	if (!config || (entry->host && !host))
		return error_set(err, ENOMEM, "no memory");
	return sql_run(store, sql_prepare(store, "UPDATE switch SET phase = ?, config = ?, host = ? WHERE number = ?", "issi", (int64_t)entry->phase,
				  config, host, (int64_t)entry->number), err);
}

int store_switch_remove(struct store *store, unsigned number, struct error *err)
{
	return sql_run(store, sql_prepare(store, "DELETE FROM switch WHERE number = ?", "i", (int64_t)number), err);
}

int store_switch_list(struct store *store, void (*each)(void *context, const struct store_switch *entry), void *context,
    struct error *err)
{
	sqlite3_stmt *statement = sql_prepare(store, "SELECT number, name, phase, config, host FROM switch ORDER BY name", "");
	int r = SQLITE_ERROR;

	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW) {
		struct store_switch entry = {.number = (unsigned)sqlite3_column_int(statement, 0),
					     .name = sql_text(statement, 1),
					     .phase = (enum switch_phase)sqlite3_column_int(statement, 2),
					     .config = json_loads(sql_text(statement, 3), 0, NULL),
					     .host = sql_text(statement, 4) ? json_loads(sql_text(statement, 4), 0, NULL) : NULL};

		each(context, &entry);
		json_decref(entry.config);
		json_decref(entry.host);
	}
	r = r == SQLITE_DONE ? 0 : sql_fail(store, err);
	sqlite3_finalize(statement);
	return r;
}
