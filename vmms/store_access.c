/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/store_access.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "vmms/store_sql.h"

#define KEY_MILLISECONDS 86400000ll

int64_t store_now(void)
{
	return sql_now();
}

/* --- tokens --------------------------------------------------------------------------------------------- */

int store_token_add(struct store *store, struct store_token *token, const char *hash, struct error *err)
{
	int r = sql_run(store,
			sql_prepare(store, "INSERT INTO token (name, hash, role, created, expires) VALUES (?,?,?,?,?)", "ssiii",
				    token->name, hash, (int64_t)token->role, token->created, token->expires),
			err);

	if (r == -EEXIST)
		error_set(err, EEXIST, "there is a token \"%s\" already: revoke it first, or choose another name", token->name);
	token->id = sqlite3_last_insert_rowid(store->db);
	return r;
}

int store_token_find(struct store *store, const char *hash, struct store_token *token, struct error *err)
{
	sqlite3_stmt *s =
	    sql_prepare(store, "SELECT id, name, role, created, expires FROM token WHERE hash = ?", "s", hash);
	int r = s ? sqlite3_step(s) : SQLITE_ERROR;

	if (r == SQLITE_ROW) {
		token->id = sqlite3_column_int64(s, 0);
		snprintf(token->name, sizeof(token->name), "%s", sql_text(s, 1));
		token->role = (enum role)sqlite3_column_int(s, 2);
		token->created = sqlite3_column_int64(s, 3);
		token->expires = sqlite3_column_int64(s, 4);
		r = 0;
	} else {
		r = r == SQLITE_DONE ? error_set(err, ENOENT, "there is no such token") : sql_fail(store, err);
	}
	sqlite3_finalize(s);
	return r;
}

static const struct form form_role = {.kind = FORM_STRING, .min = 1, .max = 32};
const struct form store_token_form = {.kind = FORM_OBJECT,
				      .name = "Token",
				      .text = "a token, but for itself, which is told when it is made",
				      .fields = (const struct form_field[]){
					  {"id", &answer_count, NULL, true},
					  {"name", &answer_text, NULL, true},
					  {"role", &form_role, NULL, true},
					  {"created", &answer_moment, NULL, true},
					  {"expires", &answer_moment, NULL, true},
					  {"expired", &answer_flag, NULL, true},
					  {0},
				      }};

static json_t *token_json(sqlite3_stmt *s)
{
	return json_pack("{s:o, s:o, s:s, s:o, s:o, s:b}", "id", sql_number_json(s, 0), "name", sql_text_json(s, 1), "role",
			 role_word((enum role)sqlite3_column_int(s, 2)), "created", sql_number_json(s, 3), "expires",
			 sql_number_json(s, 4), "expired", sqlite3_column_int64(s, 4) <= sql_now());
}

int store_token_list(struct store *store, const char *after, unsigned limit, json_t **list, struct error *err)
{
	return sql_collect(store,
			   sql_prepare(store,
				       "SELECT id, name, role, created, expires FROM token WHERE ?1 IS NULL OR name > ?1"
				       " ORDER BY name LIMIT ?2",
				       "si", after, (int64_t)limit),
			   token_json, list, err);
}

int store_token_remove(struct store *store, const char *name, struct error *err)
{
	int r = sql_run(store, sql_prepare(store, "DELETE FROM token WHERE name = ?", "s", name), err);

	if (!r && !sqlite3_changes(store->db))
		r = error_set(err, ENOENT, "there is no token \"%.100s\": bulkhead host token list shows what there is", name);
	return r;
}

/* --- idempotency keys ----------------------------------------------------------------------------------- */

/* How old a key is follows from the time since the host was started, as long as it is the same start: the date may be
 * set meanwhile. */
static int expire_keys(struct store *store, struct error *err)
{
	return sql_run(store,
		       sql_prepare(store,
				   "DELETE FROM idempotency WHERE (boot = ?1 AND uptime <= ?2) OR (boot <> ?1 AND time <= ?3)", "sii",
				   store_boot_id(), store_uptime() - KEY_MILLISECONDS, sql_now() - KEY_MILLISECONDS),
		       err);
}

static json_t *key_json(sqlite3_stmt *s)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "request", sql_text_json(s, 0), "job", sql_number_json(s, 1), "status",
			 sql_number_json(s, 2), "answer", sql_text_json(s, 3));
}

static int find_key(struct store *store, const struct store_key *key, json_t **known, struct error *err)
{
	json_t *list = NULL;
	int r = sql_collect(store,
			    sql_prepare(store, "SELECT request, job, status, answer FROM idempotency WHERE who = ? AND key = ?", "ss",
					key->who, key->key),
			    key_json, &list, err);

	*known = r ? NULL : json_incref(json_array_get(list, 0));
	json_decref(list);
	return r;
}

int store_key_claim(struct store *store, const struct store_key *key, const char *request, json_t **known,
    struct error *err)
{
	int r = expire_keys(store, err);

	*known = NULL;
	if (!r)
		r = find_key(store, key, known, err);
	if (r || *known)
		return r ? r : -EEXIST;
	return sql_run(store,
		       sql_prepare(store,
				   "INSERT INTO idempotency (who, key, request, time, boot, uptime, status) VALUES (?,?,?,?,?,?,0)",
				   "sssisi", key->who, key->key, request, sql_now(), store_boot_id(), store_uptime()),
		       err);
}

int store_key_set_job(struct store *store, const struct store_key *key, int64_t job, struct error *err)
{
	return sql_run(store,
		       sql_prepare(store, "UPDATE idempotency SET job = ? WHERE who = ? AND key = ?", "iss", job, key->who, key->key),
		       err);
}

int store_key_set_answer(struct store *store, const struct store_key *key, unsigned status, const char *answer,
    struct error *err)
{
	return sql_run(store,
		       sql_prepare(store, "UPDATE idempotency SET status = ?, answer = ? WHERE who = ? AND key = ?", "isss",
				   (int64_t)status, answer, key->who, key->key),
		       err);
}

int store_key_forget(struct store *store, const struct store_key *key, struct error *err)
{
	return sql_run(store, sql_prepare(store, "DELETE FROM idempotency WHERE who = ? AND key = ?", "ss", key->who, key->key),
		       err);
}

int store_keys_interrupt(struct store *store, struct error *err)
{
	return sql_run(store, sql_prepare(store, "UPDATE idempotency SET status = 1 WHERE status = 0 AND job IS NULL", ""), err);
}
