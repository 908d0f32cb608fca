/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmms/store_sql.h"

/* What is kept of the past. */
#define JOBS_KEPT   10000
#define EVENTS_KEPT 100000

/* From each version to the next; never changed, only added to. */
static const char *const steps[] = {
    "CREATE TABLE vm (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, directory TEXT NOT NULL UNIQUE,"
    " phase INTEGER NOT NULL, own_directory INTEGER NOT NULL, wanted INTEGER NOT NULL);"
    "CREATE TABLE job (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, vm TEXT NOT NULL, vm_name TEXT,"
    " state TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER, error_code TEXT, error_text TEXT);"
    "CREATE INDEX job_running ON job (state) WHERE state = 'running';"
    "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL,"
    " vm TEXT, vm_name TEXT, text TEXT NOT NULL);"
    "CREATE INDEX event_vm ON event (vm, id);"
    "PRAGMA user_version = 1;",
    "CREATE TABLE token (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, hash TEXT NOT NULL UNIQUE,"
    " role INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL);"
    "CREATE TABLE idempotency (who TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, time INTEGER NOT NULL,"
    " boot TEXT NOT NULL, uptime INTEGER NOT NULL, job INTEGER, status INTEGER NOT NULL, answer TEXT,"
    " PRIMARY KEY (who, key)) WITHOUT ROWID;"
    "PRAGMA user_version = 2;",
    "CREATE TABLE host (key TEXT PRIMARY KEY, value TEXT NOT NULL); PRAGMA user_version = 3;",
    "CREATE TABLE work (vm TEXT PRIMARY KEY, plan TEXT NOT NULL); CREATE TABLE base (vm TEXT NOT NULL, of TEXT NOT NULL,"
    " checkpoint TEXT NOT NULL, PRIMARY KEY (vm, of, checkpoint)) WITHOUT ROWID; CREATE TABLE leftover (path TEXT PRIMARY KEY);"
    " PRAGMA user_version = 4;",
    "CREATE TABLE switch (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, phase INTEGER NOT NULL, config TEXT NOT NULL, host TEXT); PRAGMA user_version = 5;",
	"CREATE TABLE metering (vm TEXT PRIMARY KEY, account TEXT NOT NULL); PRAGMA user_version = 6;",
};

static int check_version(struct store *store, struct error *err)
{
	sqlite3_stmt *statement = sql_prepare(store, "PRAGMA user_version", "");
	int version = -1;

	if (statement && sqlite3_step(statement) == SQLITE_ROW)
		version = sqlite3_column_int(statement, 0);
	sqlite3_finalize(statement);
	if (version < 0)
		return sql_fail(store, err);
	if (version > (int)ARRAY_SIZE(steps))
		return error_set(err, ENOTSUP, "%s is of a later bulkhead (version %d, this one knows %d): upgrade it",
				 sqlite3_db_filename(store->db, "main"), version, (int)ARRAY_SIZE(steps));
	for (; version < (int)ARRAY_SIZE(steps); version++)
		if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) ||
		    sqlite3_exec(store->db, steps[version], NULL, NULL, NULL) ||
		    sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL))
			return sql_fail(store, err);
	return 0;
}

/* What is in it is nobody else's business; what SQLite makes beside it gets the same mode. */
static int make_private(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 || fchmod(fd, 0600) ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
}

int store_open(struct store **out, const char *path, struct error *err)
{
	struct store *store = calloc(1, sizeof(*store));
	int r;

	if (!store)
		return error_set(err, ENOMEM, "no memory for %s", path);
	r = make_private(path, err);
	if (r) {
		free(store);
		return r;
	}
	if (sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL))
		r = error_set(err, EIO, "%s: %s", path, store->db ? sqlite3_errmsg(store->db) : "no memory");
	else if (sqlite3_exec(store->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;",
			      NULL, NULL, NULL))
		r = sql_fail(store, err);
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

/* Where it cannot begin, everything is on its own, as without it. */
void store_group_begin(struct store *store)
{
	sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
}

int store_group_end(struct store *store, struct error *err)
{
	int r;

	if (sqlite3_get_autocommit(store->db) || !sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL))
		return 0;
	r = sql_fail(store, err);
	sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

/* --- machines ----------------------------------------------------------------------------------------- */

int store_vm_add(struct store *store, struct store_vm *vm, struct error *err)
{
	int r = sql_run(store,
		   sql_prepare(store, "INSERT INTO vm (id, name, directory, phase, own_directory, wanted) VALUES (?,?,?,?,?,?)",
			   "sssiii", vm->id, vm->name, vm->directory, (int64_t)vm->phase, (int64_t)vm->own_directory,
			   (int64_t)vm->wanted),
		   err);

	vm->number = (unsigned)sqlite3_last_insert_rowid(store->db);
	return r;
}

int store_vm_rename(struct store *store, const char *id, const char *name, struct error *err)
{
	return sql_run(store, sql_prepare(store, "UPDATE vm SET name = ? WHERE id = ?", "ss", name, id), err);
}

int store_vm_set_phase(struct store *store, const char *id, enum vm_phase phase, struct error *err)
{
	return sql_run(store, sql_prepare(store, "UPDATE vm SET phase = ? WHERE id = ?", "is", (int64_t)phase, id), err);
}

int store_vm_begin_delete(struct store *store, const char *id, bool own_directory, struct error *err)
{
	return sql_run(store,
		   sql_prepare(store, "UPDATE vm SET phase = ?, own_directory = ? WHERE id = ?", "iis", (int64_t)VM_DELETING,
			   (int64_t)own_directory, id),
		   err);
}

int store_vm_set_wanted(struct store *store, const char *id, bool wanted, struct error *err)
{
	return sql_run(store, sql_prepare(store, "UPDATE vm SET wanted = ? WHERE id = ?", "is", (int64_t)wanted, id), err);
}

int store_vm_remove(struct store *store, const char *id, struct error *err)
{
	int r = sql_run(store, sql_prepare(store, "DELETE FROM work WHERE vm = ?", "s", id), err);

	if (!r)
		r = sql_run(store, sql_prepare(store, "DELETE FROM base WHERE vm = ?", "s", id), err);
	if (!r)
		r = store_metering_set(store, id, NULL, err);
	return r ? r : sql_run(store, sql_prepare(store, "DELETE FROM vm WHERE id = ?", "s", id), err);
}

int store_vm_list(struct store *store, void (*each)(void *context, const struct store_vm *vm), void *context,
    struct error *err)
{
	/* The plus keeps it off the index: `each` may rename what it is given, and would see that again further on. */
	sqlite3_stmt *statement =
	    sql_prepare(store, "SELECT id, name, directory, phase, own_directory, wanted, number FROM vm ORDER BY +name", "");
	int r = SQLITE_ERROR;

	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW) {
		struct store_vm vm = {.name = sql_text(statement, 1),
				      .directory = sql_text(statement, 2),
				      .phase = (enum vm_phase)sqlite3_column_int(statement, 3),
				      .own_directory = sqlite3_column_int(statement, 4),
				      .wanted = sqlite3_column_int(statement, 5),
				      .number = (unsigned)sqlite3_column_int(statement, 6)};

		snprintf(vm.id, sizeof(vm.id), "%s", sql_text(statement, 0));
		each(context, &vm);
	}
	r = r == SQLITE_DONE ? 0 : sql_fail(store, err);
	sqlite3_finalize(statement);
	return r;
}

/* --- jobs and events ---------------------------------------------------------------------------------- */

/* Now and then, what is too old goes. */
static void tidy(struct store *store)
{
	if (store->since_tidy++ % 1000)
		return;
	sql_run(store, sql_prepare(store, "DELETE FROM job WHERE id <= (SELECT max(id) FROM job) - ? AND state <> 'running'", "i",
			   (int64_t)JOBS_KEPT), NULL);
	sql_run(store, sql_prepare(store, "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", "i",
			   (int64_t)EVENTS_KEPT), NULL);
}

int store_job_add(struct store *store, const char *kind, const char *vm, const char *vm_name, int64_t *id,
    struct error *err)
{
	int r = sql_run(store,
		    sql_prepare(store, "INSERT INTO job (kind, vm, vm_name, state, started) VALUES (?,?,?,'running',?)", "sssi",
			    kind, vm, vm_name, sql_now()),
		    err);

	*id = sqlite3_last_insert_rowid(store->db);
	tidy(store);
	return r;
}

int store_job_end(struct store *store, int64_t id, const char *state, const char *error_code, const char *error_text,
    struct error *err)
{
	return sql_run(store,
		   sql_prepare(store, "UPDATE job SET state = ?, ended = ?, error_code = ?, error_text = ? WHERE id = ?",
			   "sissi", state, sql_now(), error_code, error_text, id),
		   err);
}

int store_jobs_abandon(struct store *store, unsigned *count, struct error *err)
{
	int r = sql_run(store,
		    sql_prepare(store,
			    "UPDATE job SET state = 'failed', ended = ?, error_code = 'failed', error_text ="
			    " 'the daemon ended meanwhile; the machine is as its state says' WHERE state = 'running'",
			    "i", sql_now()),
		    err);

	*count = r ? 0 : (unsigned)sqlite3_changes(store->db);
	return r;
}

static json_t *job_json(sqlite3_stmt *s)
{
	json_t *error = json_null();

	if (sql_text(s, 7))
		error = json_pack("{s:o, s:o}", "code", sql_text_json(s, 7), "message", sql_text_json(s, 8));
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id", sql_number_json(s, 0), "kind", sql_text_json(s, 1),
			 "vm", sql_text_json(s, 2), "vm_name", sql_text_json(s, 3), "state", sql_text_json(s, 4), "started",
			 sql_number_json(s, 5), "ended", sql_number_json(s, 6), "error", error);
}

static const struct form form_kind = {.kind = FORM_STRING, .text = "what happened, as vm.started", .min = 1, .max = STORE_KIND_SIZE};
static const struct form form_text = {.kind = FORM_STRING, .text = "for people", .max = INT64_MAX, .or_null = true};
const struct form store_event_form = {.kind = FORM_OBJECT,
				      .name = "Event",
				      .text = "something that happened",
				      .fields = (const struct form_field[]){
					  {"id", &answer_count, NULL, true},
					  {"time", &answer_moment, NULL, true},
					  {"kind", &form_kind, NULL, true},
					  {"vm", &answer_text_or_null, NULL, true},
					  {"vm_name", &answer_text_or_null, NULL, true},
					  {"text", &form_text, NULL, true},
					  {0},
				      }};

static json_t *event_json(sqlite3_stmt *s)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", sql_number_json(s, 0), "time", sql_number_json(s, 1), "kind",
			 sql_text_json(s, 2), "vm", sql_text_json(s, 3), "vm_name", sql_text_json(s, 4), "text",
			 sql_text_json(s, 5));
}

int store_job_list(struct store *store, int64_t id, int64_t before, unsigned limit, json_t **list, struct error *err)
{
	return sql_collect(store,
		       sql_prepare(store,
			       "SELECT id, kind, vm, vm_name, state, started, ended, error_code, error_text FROM job"
			       " WHERE (?1 = 0 OR id = ?1) AND (?2 = 0 OR id < ?2) ORDER BY id DESC LIMIT ?3",
			       "iii", id, before, (int64_t)limit),
		       job_json, list, err);
}

int store_event_add(struct store *store, const char *kind, const char *vm, const char *vm_name, const char *text,
    int64_t *id, struct error *err)
{
	int r = sql_run(store,
		    sql_prepare(store, "INSERT INTO event (time, kind, vm, vm_name, text) VALUES (?,?,?,?,?)", "issss", sql_now(),
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
	return sql_collect(store,
		       sql_prepare(store,
			       "SELECT id, time, kind, vm, vm_name, text FROM event WHERE id > ?1 AND (?2 IS NULL OR vm = ?2)"
			       " ORDER BY id LIMIT ?3",
			       "isi", after, vm, (int64_t)limit),
		       event_json, list, err);
}

int store_event_tail(struct store *store, const char *vm, unsigned limit, json_t **list, struct error *err)
{
	return sql_collect(store,
		       sql_prepare(store,
			       "SELECT * FROM (SELECT id, time, kind, vm, vm_name, text FROM event WHERE ?1 IS NULL OR vm = ?1"
			       " ORDER BY id DESC LIMIT ?2) ORDER BY id",
			       "si", vm, (int64_t)limit),
		       event_json, list, err);
}

int64_t store_event_state_time(struct store *store, const char *vm, char kind[STORE_KIND_SIZE])
{
	sqlite3_stmt *statement = sql_prepare(store,
	    "SELECT time, kind FROM event WHERE vm = ?1 AND kind IN ('vm.created', 'vm.registered', 'vm.running', 'vm.paused',"
	    " 'vm.resumed', 'vm.off', 'vm.saved', 'vm.crashed') ORDER BY id DESC LIMIT 1",
	    "s", vm);
	int64_t time = 0;

	*kind = '\0';
	if (statement && sqlite3_step(statement) == SQLITE_ROW) {
		time = sqlite3_column_int64(statement, 0);
		snprintf(kind, STORE_KIND_SIZE, "%s", sql_text(statement, 1));
	}
	sqlite3_finalize(statement);
	return time;
}
