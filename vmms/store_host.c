/* SPDX-License-Identifier: GPL-2.0-or-later */
/* store_host.c - what host.db knows of the host itself, and of what is half done on it. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

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

int store_work_get(struct store *store, const char *vm, json_t **plan, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	int r = text_of(store, sql_prepare(store, "SELECT plan FROM work WHERE vm = ?", "s", vm), &text, err);

	*plan = NULL;
	if (r || !text)
		return r;
	*plan = json_loads(text, 0, NULL);
	return *plan ? 0 : error_set(err, EBADMSG, "what is half done on machine %s cannot be read", vm);
}

int store_work_set(struct store *store, const char *vm, const json_t *plan, struct error *err)
{
	_cleanup_free_ char *text = plan ? json_dumps(plan, JSON_COMPACT) : NULL;

	if (!plan)
		return sql_run(store, sql_prepare(store, "DELETE FROM work WHERE vm = ?", "s", vm), err);
	if (!text)
		return error_set(err, ENOMEM, "no memory");
	return sql_run(store, sql_prepare(store, "INSERT OR REPLACE INTO work (vm, plan) VALUES (?,?)", "ss", vm, text), err);
}

int store_base_add(struct store *store, const char *vm, const char *of, const char *checkpoint, struct error *err)
{
	return sql_run(store,
		       sql_prepare(store, "INSERT OR REPLACE INTO base (vm, of, checkpoint) VALUES (?,?,?)", "sss", vm, of,
				   checkpoint),
		       err);
}

static json_t *first_text(sqlite3_stmt *statement)
{
	return sql_text_json(statement, 0);
}

int store_base_users(struct store *store, const char *of, const char *checkpoint, json_t **names, struct error *err)
{
	return sql_collect(store,
			   sql_prepare(store,
				       "SELECT DISTINCT vm.name FROM base JOIN vm ON vm.id = base.vm WHERE base.of = ?1"
				       " AND (?2 IS NULL OR base.checkpoint = ?2) ORDER BY vm.name",
				       "ss", of, checkpoint),
			   first_text, names, err);
}

int store_base_of(struct store *store, const char *vm, json_t **names, struct error *err)
{
	return sql_collect(store,
			   sql_prepare(store, "SELECT DISTINCT vm.name FROM base JOIN vm ON vm.id = base.of WHERE base.vm = ?", "s", vm),
			   first_text, names, err);
}

int store_leftover_add(struct store *store, const char *path, struct error *err)
{
	return sql_run(store, sql_prepare(store, "INSERT OR REPLACE INTO leftover (path) VALUES (?)", "s", path), err);
}

int store_leftover_remove(struct store *store, const char *path, struct error *err)
{
	return sql_run(store, sql_prepare(store, "DELETE FROM leftover WHERE path = ?", "s", path), err);
}

int store_leftover_list(struct store *store, json_t **paths, struct error *err)
{
	return sql_collect(store, sql_prepare(store, "SELECT path FROM leftover", ""), first_text, paths, err);
}

int store_metering_set(struct store *store, const char *vm, const json_t *account, struct error *err)
{
	_cleanup_free_ char *text = account ? json_dumps(account, JSON_COMPACT) : NULL;

	if (!account)
		return sql_run(store, sql_prepare(store, "DELETE FROM metering WHERE vm = ?", "s", vm), err);
	if (!text)
		return error_set(err, ENOMEM, "no memory");
	return sql_run(store, sql_prepare(store, "INSERT OR REPLACE INTO metering (vm, account) VALUES (?,?)", "ss", vm, text), err);
}

int store_metering_list(struct store *store, void (*each)(void *context, const char *vm, const json_t *account), void *context,
    struct error *err)
{
	sqlite3_stmt *statement = sql_prepare(store, "SELECT vm, account FROM metering", "");
	int r = SQLITE_ERROR;

	while (statement && (r = sqlite3_step(statement)) == SQLITE_ROW) {
		json_t *account = json_loads(sql_text(statement, 1), 0, NULL);

		each(context, sql_text(statement, 0), account);
		json_decref(account);
	}
	r = r == SQLITE_DONE ? 0 : sql_fail(store, err);
	sqlite3_finalize(statement);
	return r;
}

/* --- time ------------------------------------------------------------------------------------------------ */

const char *store_boot_id(void)
{
	static char id[40];
	int fd = *id ? -1 : open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, id, sizeof(id) - 1) : 0;

	if (n > 0)
		id[strcspn(id, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
	return id;
}

int64_t store_uptime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
