/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/store.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>
#include <time.h>

#define STORE_VERSION 1
/* What is kept of the past. */
#define JOBS_KEPT   10000
#define EVENTS_KEPT 100000

struct store {
	sqlite3 *db;
	unsigned since_tidy;
};

static const char tables[] =
    "CREATE TABLE vm (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, directory TEXT NOT NULL UNIQUE,"
    " phase INTEGER NOT NULL, own_directory INTEGER NOT NULL, wanted INTEGER NOT NULL);"
    "CREATE TABLE job (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, vm TEXT NOT NULL, vm_name TEXT,"
    " state TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER, error_code TEXT, error_text TEXT);"
    "CREATE INDEX job_running ON job (state) WHERE state = 'running';"
    "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL,"
    " vm TEXT, vm_name TEXT, text TEXT NOT NULL);"
    "CREATE INDEX event_vm ON event (vm, id);"
    "PRAGMA user_version = 1;";

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int fail(struct store *store, struct error *err)
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

/* "s" text, "i" int64_t; text that is NULL is NULL. */
static sqlite3_stmt *prepare(struct store *store, const char *sql, const char *types, ...)
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

/* Runs a statement that gives no rows. */
static int run(struct store *store, sqlite3_stmt *statement, struct error *err)
{
	int r = statement && sqlite3_step(statement) == SQLITE_DONE ? 0 : fail(store, err);

	sqlite3_finalize(statement);
	return r;
}

static int check_version(struct store *store, struct error *err)
{
	sqlite3_stmt *statement = prepare(store, "PRAGMA user_version", "");
	int version = -1;

	if (statement && sqlite3_step(statement) == SQLITE_ROW)
		version = sqlite3_column_int(statement, 0);
	sqlite3_finalize(statement);
	if (version < 0)
		return fail(store, err);
	if (version > STORE_VERSION)
		return error_set(err, ENOTSUP, "%s is of a later bulkhead (version %d, this one knows %d): upgrade it",
				 sqlite3_db_filename(store->db, "main"), version, STORE_VERSION);
	if (version == STORE_VERSION)
		return 0;
	if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) ||
	    sqlite3_exec(store->db, tables, NULL, NULL, NULL) || sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL))
		return fail(store, err);
	return 0;
}

int store_open(struct store **out, const char *path, struct error *err)
{
	struct store *store = calloc(1, sizeof(*store));
	int r = 0;

	if (!store)
		return error_set(err, ENOMEM, "no memory for %s", path);
	if (sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL))
		r = error_set(err, EIO, "%s: %s", path, store->db ? sqlite3_errmsg(store->db) : "no memory");
	else if (sqlite3_exec(store->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;",
			      NULL, NULL, NULL))
		r = fail(store, err);
	if (!r)
		r = check_version(store, err);
	if (r)
		store_close(store);
	else
		*out = store;
	return r;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	sqlite3_close(store->db);
	free(store);
}

/* --- machines ----------------------------------------------------------------------------------------- */

int store_vm_add(struct store *store, struct store_vm *vm, struct error *err)
{
	int r = run(store,
		   prepare(store, "INSERT INTO vm (id, name, directory, phase, own_directory, wanted) VALUES (?,?,?,?,?,?)",
			   "sssiii", vm->id, vm->name, vm->directory, (int64_t)vm->phase, (int64_t)vm->own_directory,
			   (int64_t)vm->wanted),
		   err);

	vm->number = (unsigned)sqlite3_last_insert_rowid(store->db);
	return r;
}

int store_vm_rename(struct store *store, const char *id, const char *name, struct error *err)
{
	return run(store, prepare(store, "UPDATE vm SET name = ? WHERE id = ?", "ss", name, id), err);
}

int store_vm_set_phase(struct store *store, const char *id, enum vm_phase phase, struct error *err)
{
	return run(store, prepare(store, "UPDATE vm SET phase = ? WHERE id = ?", "is", (int64_t)phase, id), err);
}

int store_vm_begin_delete(struct store *store, const char *id, bool own_directory, struct error *err)
{
	return run(store,
		   prepare(store, "UPDATE vm SET phase = ?, own_directory = ? WHERE id = ?", "iis", (int64_t)VM_DELETING,
			   (int64_t)own_directory, id),
		   err);
}

int store_vm_set_wanted(struct store *store, const char *id, bool wanted, struct error *err)
{
	return run(store, prepare(store, "UPDATE vm SET wanted = ? WHERE id = ?", "is", (int64_t)wanted, id), err);
}

int store_vm_remove(struct store *store, const char *id, struct error *err)
{
	return run(store, prepare(store, "DELETE FROM vm WHERE id = ?", "s", id), err);
}

static const char *column(sqlite3_stmt *statement, int i)
{
	return (const char *)sqlite3_column_text(statement, i);
}

int store_vm_list(struct store *store, void (*each)(void *context, const struct store_vm *vm), void *context,
    struct error *err)
{
	/* The plus keeps it off the index: `each` may rename what it is given, and would see that again further on. */
	sqlite3_stmt *statement =
	    prepare(store, "SELECT id, name, directory, phase, own_directory, wanted, number FROM vm ORDER BY +name", "");
	int r = SQLITE_ERROR;

	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW) {
		struct store_vm vm = {.name = column(statement, 1),
				      .directory = column(statement, 2),
				      .phase = (enum vm_phase)sqlite3_column_int(statement, 3),
				      .own_directory = sqlite3_column_int(statement, 4),
				      .wanted = sqlite3_column_int(statement, 5),
				      .number = (unsigned)sqlite3_column_int(statement, 6)};

		snprintf(vm.id, sizeof(vm.id), "%s", column(statement, 0));
		each(context, &vm);
	}
	r = r == SQLITE_DONE ? 0 : fail(store, err);
	sqlite3_finalize(statement);
	return r;
}

/* --- jobs and events ---------------------------------------------------------------------------------- */

/* Now and then, what is too old goes. */
static void tidy(struct store *store)
{
	if (store->since_tidy++ % 1000)
		return;
	run(store, prepare(store, "DELETE FROM job WHERE id <= (SELECT max(id) FROM job) - ? AND state <> 'running'", "i",
			   (int64_t)JOBS_KEPT), NULL);
	run(store, prepare(store, "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", "i",
			   (int64_t)EVENTS_KEPT), NULL);
}

int store_job_add(struct store *store, const char *kind, const char *vm, const char *vm_name, int64_t *id,
    struct error *err)
{
	int r = run(store,
		    prepare(store, "INSERT INTO job (kind, vm, vm_name, state, started) VALUES (?,?,?,'running',?)", "sssi",
			    kind, vm, vm_name, now()),
		    err);

	*id = sqlite3_last_insert_rowid(store->db);
	tidy(store);
	return r;
}

int store_job_end(struct store *store, int64_t id, const char *state, const char *error_code, const char *error_text,
    struct error *err)
{
	return run(store,
		   prepare(store, "UPDATE job SET state = ?, ended = ?, error_code = ?, error_text = ? WHERE id = ?",
			   "sissi", state, now(), error_code, error_text, id),
		   err);
}

int store_jobs_abandon(struct store *store, unsigned *count, struct error *err)
{
	int r = run(store,
		    prepare(store,
			    "UPDATE job SET state = 'failed', ended = ?, error_code = 'failed', error_text ="
			    " 'the daemon ended meanwhile; the machine is as its state says' WHERE state = 'running'",
			    "i", now()),
		    err);

	*count = r ? 0 : (unsigned)sqlite3_changes(store->db);
	return r;
}

static json_t *text_or_null(sqlite3_stmt *statement, int i)
{
	const char *text = column(statement, i);
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

static json_t *number_or_null(sqlite3_stmt *statement, int i)
{
	return sqlite3_column_type(statement, i) == SQLITE_NULL ? json_null()
								 : json_integer(sqlite3_column_int64(statement, i));
}

static json_t *job_json(sqlite3_stmt *s)
{
	json_t *error = json_null();

	if (column(s, 7))
		error = json_pack("{s:o, s:o}", "code", text_or_null(s, 7), "message", text_or_null(s, 8));
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id", number_or_null(s, 0), "kind", text_or_null(s, 1),
			 "vm", text_or_null(s, 2), "vm_name", text_or_null(s, 3), "state", text_or_null(s, 4), "started",
			 number_or_null(s, 5), "ended", number_or_null(s, 6), "error", error);
}

static json_t *event_json(sqlite3_stmt *s)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", number_or_null(s, 0), "time", number_or_null(s, 1), "kind",
			 text_or_null(s, 2), "vm", text_or_null(s, 3), "vm_name", text_or_null(s, 4), "text",
			 text_or_null(s, 5));
}

static int collect(struct store *store, sqlite3_stmt *statement, json_t *(*make)(sqlite3_stmt *), json_t **list,
    struct error *err)
{
	int r = SQLITE_ERROR;

	*list = json_array();
	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW)
		json_array_append_new(*list, make(statement));
	r = r == SQLITE_DONE ? 0 : fail(store, err);
	sqlite3_finalize(statement);
	if (r) {
		json_decref(*list);
		*list = NULL;
	}
	return r;
}

int store_job_list(struct store *store, int64_t id, int64_t before, unsigned limit, json_t **list, struct error *err)
{
	return collect(store,
		       prepare(store,
			       "SELECT id, kind, vm, vm_name, state, started, ended, error_code, error_text FROM job"
			       " WHERE (?1 = 0 OR id = ?1) AND (?2 = 0 OR id < ?2) ORDER BY id DESC LIMIT ?3",
			       "iii", id, before, (int64_t)limit),
		       job_json, list, err);
}

int store_event_add(struct store *store, const char *kind, const char *vm, const char *vm_name, const char *text,
    int64_t *id, struct error *err)
{
	int r = run(store,
		    prepare(store, "INSERT INTO event (time, kind, vm, vm_name, text) VALUES (?,?,?,?,?)", "issss", now(),
			    kind, vm, vm_name, text),
		    err);

	if (id)
		*id = sqlite3_last_insert_rowid(store->db);
	tidy(store);
	return r;
}

int store_event_list(struct store *store, int64_t after, const char *vm, unsigned limit, json_t **list,
    struct error *err)
{
	return collect(store,
		       prepare(store,
			       "SELECT id, time, kind, vm, vm_name, text FROM event WHERE id > ?1 AND (?2 IS NULL OR vm = ?2)"
			       " ORDER BY id LIMIT ?3",
			       "isi", after, vm, (int64_t)limit),
		       event_json, list, err);
}

int store_event_tail(struct store *store, const char *vm, unsigned limit, json_t **list, struct error *err)
{
	return collect(store,
		       prepare(store,
			       "SELECT * FROM (SELECT id, time, kind, vm, vm_name, text FROM event WHERE ?1 IS NULL OR vm = ?1"
			       " ORDER BY id DESC LIMIT ?2) ORDER BY id",
			       "si", vm, (int64_t)limit),
		       event_json, list, err);
}
