/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * api_keys.c - Idempotency-Key: a POST that is sent again, because its answer did not arrive, is answered as the first
 * was, and nothing is done twice. See store_access.h for what is kept.
 */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/store_access.h"
#include "vmms/tls.h"

#define KEY_SIZE 129

struct first {
	struct vmms *vmms;
	struct store_key key;
	bool has_job;
	char who[sizeof((struct principal){0}.who)], text[KEY_SIZE];
};

/* What the request says: route and names, query but for how long to wait, body. */
static void hash_request(struct http_request *request, char hash[65])
{
	json_t *query = json_copy(http_state(request)->query), *all;
	const char *body;
	char *text;
	char body_hash[65];
	size_t size;

	body = http_body(request, &size);
	tls_hash(body ? body : "", size, body_hash);
	json_object_del(query, "wait");
	all = json_pack("[s, s*, o, s]", http_method(request), http_path(request), query, body_hash);
	text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
	tls_hash(text ? text : "", text ? strlen(text) : 0, hash);
	free(text);
	json_decref(all);
}

static int check_key(const struct route *route, const char *key, struct error *err)
{
	size_t length = strlen(key);

	if (route->extra & ROUTE_SECRET)
		return error_set(err, EINVAL, "%s %s takes no Idempotency-Key: its answer is kept nowhere", route->method,
				 route->path);
	if (!length || length >= KEY_SIZE)
		return error_set(err, EINVAL, "Idempotency-Key has %zu bytes: it may have 1 to %d", length, KEY_SIZE - 1);
	for (const char *c = key; *c; c++)
		if (*c <= ' ' || *c > '~')
			return error_set(err, EINVAL, "Idempotency-Key has to be of visible ASCII characters");
	return 0;
}

/* The first was answered. What failed at once has done nothing, and may be tried again. */
static void answered(void *context, unsigned status, const json_t *body)
{
	struct first *first = context;
	char *text = json_dumps(body, JSON_COMPACT);
	struct error err = {0};
	int r = 0;

	if (status >= 400 && !first->has_job)
		r = store_key_forget(first->vmms->store, &first->key, &err);
	else if (status && !first->has_job)
		r = store_key_set_answer(first->vmms->store, &first->key, status, text, &err);
	if (r)
		log_write(LOG_LEVEL_ERROR, "an idempotency key: %s", err.text);
	free(text);
	free(first);
}

static int begin(struct vmms *vmms, struct http_request *request, const char *key, json_t **known, struct error *err)
{
	struct first *first = calloc(1, sizeof(*first));
	char hash[65];
	int r;

	if (!first)
		return error_set(err, ENOMEM, "no memory for an idempotency key");
	first->vmms = vmms;
	snprintf(first->who, sizeof(first->who), "%s", http_state(request)->principal.who);
	snprintf(first->text, sizeof(first->text), "%s", key);
	first->key = (struct store_key){first->who, first->text};
	hash_request(request, hash);
	r = store_key_claim(vmms->store, &first->key, hash, known, err);
	if (r) {
		free(first);
	} else {
		http_state(request)->first = first;
		http_on_answer(request, answered, first);
	}
	if (r == -EEXIST && strcmp(json_string_value(json_object_get(*known, "request")), hash))
		r = error_set(err, ENOTUNIQ, "this Idempotency-Key was used for another request: use a new one for each");
	return r;
}

static void reply_job_again(struct vmms *vmms, struct http_request *request, int64_t id)
{
	struct job *job = job_find(vmms, id);
	struct error err = {0};
	json_t *json;

	if (job) {
		job_wait(job, request, (unsigned)api_number(request, "wait"), 202);
		return;
	}
	json = job_json(vmms, id, &err);
	if (json)
		http_reply(request, 202, json);
	else
		http_fail(request, &err);
}

static void reply_again(struct vmms *vmms, struct http_request *request, const json_t *known)
{
	const json_t *job = json_object_get(known, "job"), *answer = json_object_get(known, "answer");
	json_int_t status = json_integer_value(json_object_get(known, "status"));
	struct error err;

	http_add_header(request, "Idempotency-Replayed", "true");
	if (json_is_integer(job)) {
		reply_job_again(vmms, request, json_integer_value(job));
	} else if (status > 1) {
		http_reply(request, (unsigned)status, json_loads(json_string_value(answer), JSON_DECODE_ANY, NULL));
	} else {
		error_set(&err, status ? EINPROGRESS : EBUSY,
			  status ? "the daemon ended while it was at this request: look what became of it, and use a new "
				   "Idempotency-Key"
				 : "the first request with this Idempotency-Key is still being answered");
		http_fail(request, &err);
	}
}

bool api_is_first(struct vmms *vmms, const struct route *route, struct http_request *request)
{
	const char *key = http_header(request, "Idempotency-Key");
	struct error err = {0};
	json_t *known = NULL;
	int r;

	if (!key || strcmp(route->method, "POST"))
		return true;
	r = check_key(route, key, &err);
	if (!r)
		r = begin(vmms, request, key, &known, &err);
	if (r == -EEXIST)
		reply_again(vmms, request, known);
	else if (r)
		http_fail(request, &err);
	json_decref(known);
	return !r;
}

void api_note_job(struct http_request *request, const struct job *job)
{
	struct first *first = http_state(request)->first;
	struct error err = {0};

	if (!first)
		return;
	first->has_job = true;
	if (store_key_set_job(first->vmms->store, &first->key, job->id, &err))
		log_write(LOG_LEVEL_ERROR, "an idempotency key: %s", err.text);
}
