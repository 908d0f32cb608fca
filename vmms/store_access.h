/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store_access.h - host.db: tokens, and the idempotency keys of requests. Private to vmms/. As store.h.
 */
#pragma once

#include "vmms/access.h"
#include "vmms/store.h"

int64_t store_now(void); /* milliseconds since 1970 */

struct store_token {
	int64_t id, created, expires; /* milliseconds since 1970 */
	char name[101];
	enum role role;
};

/* `hash` is all that is kept of a token. Its id goes into token->id. -EEXIST: the name is taken. */
int store_token_add(struct store *store, struct store_token *token, const char *hash, struct error *err);
/* -ENOENT. */
int store_token_find(struct store *store, const char *hash, struct store_token *token, struct error *err);
/* One of a list of them. */
extern const struct form store_token_form;
/* By name, those behind `after` (NULL: all), at most `limit`. */
int store_token_list(struct store *store, const char *after, unsigned limit, json_t **list, struct error *err);
/* -ENOENT. */
int store_token_remove(struct store *store, const char *name, struct error *err);

/* An idempotency key belongs to who used it. It is kept for a day of the time that passes, not of the date. */
struct store_key {
	const char *who, *key;
};

/* 0: it is new, and kept from here on. -EEXIST: it is there; *known is an object: "request" (as it was given),
 * "job" (number or null), "status" (0: it has not been answered yet; 1: the daemon ended meanwhile) and "answer". */
int store_key_claim(struct store *store, const struct store_key *key, const char *request, json_t **known,
    struct error *err);
int store_key_set_job(struct store *store, const struct store_key *key, int64_t job, struct error *err);
int store_key_set_answer(struct store *store, const struct store_key *key, unsigned status, const char *answer,
    struct error *err);
int store_key_forget(struct store *store, const struct store_key *key, struct error *err);
/* The daemon starts: what was not answered never will be. */
int store_keys_interrupt(struct store *store, struct error *err);
