/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/store_sql.h"

#include <errno.h>
#include <string.h>
#include <time.h>

int64_t sql_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int sql_fail(struct store *store, struct error *err)
{
	int code = sqlite3_extended_errcode(store->db);
	const char *path = sqlite3_db_filename(store->db, "main");

	if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY)
		return error_set(err, EEXIST, "the name, the id or the directory belongs to another machine");
	switch (code & 0xff) {
	case SQLITE_FULL:
		return error_set(err, ENOSPC, "%s: the file system is full", path);
	case SQLITE_NOTADB:
	case SQLITE_CORRUPT:
		return error_set(err, EBADMSG, "%s is damaged (%s): move it away and register the machines again", path,
				 sqlite3_errmsg(store->db));
	default:
		return error_set(err, EIO, "%s: %s", path, sqlite3_errmsg(store->db));
	}
}

sqlite3_stmt *sql_prepare(struct store *store, const char *sql, const char *types, ...)
{
	sqlite3_stmt *statement;
	va_list args;

	if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL))
		return NULL;
	va_start(args, types);
	for (int i = 0; types[i]; i++) {
		if (types[i] == 's')
			sqlite3_bind_text(statement, i + 1, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
		else
			sqlite3_bind_int64(statement, i + 1, va_arg(args, int64_t));
	}
	va_end(args);
	return statement;
}

int sql_run(struct store *store, sqlite3_stmt *statement, struct error *err)
{
	int r = statement && sqlite3_step(statement) == SQLITE_DONE ? 0 : sql_fail(store, err);

	sqlite3_finalize(statement);
	return r;
}

const char *sql_text(sqlite3_stmt *statement, int i)
{
	return (const char *)sqlite3_column_text(statement, i);
}

json_t *sql_text_json(sqlite3_stmt *statement, int i)
{
	const char *text = sql_text(statement, i);
	json_t *value = text ? json_string(text) : NULL;
	char *ascii;

	if (value || !text)
		return value ? value : json_null();
	/* A sentence that was cut off within a character, or quotes bytes that are none. */
	ascii = strdup(text);
	for (char *c = ascii; c && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	value = ascii ? json_string(ascii) : json_null();
	free(ascii);
	return value;
}

json_t *sql_number_json(sqlite3_stmt *statement, int i)
{
	return sqlite3_column_type(statement, i) == SQLITE_NULL ? json_null()
								 : json_integer(sqlite3_column_int64(statement, i));
}

int sql_collect(struct store *store, sqlite3_stmt *statement, json_t *(*make)(sqlite3_stmt *), json_t **list,
    struct error *err)
{
	int r = SQLITE_ERROR;

	*list = json_array();
	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW)
		json_array_append_new(*list, make(statement));
	r = r == SQLITE_DONE ? 0 : sql_fail(store, err);
	sqlite3_finalize(statement);
	if (r) {
		json_decref(*list);
		*list = NULL;
	}
	return r;
}
