/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#define ANSWER_MAX (64u << 20)

struct client {
	CURL *curl;
	char *socket;
	char code[40];
	char *answer;
	size_t used, room;
};

static int default_socket(char **path, struct error *err)
{
	const char *named = getenv("BULKHEAD_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (named && *named)
		n = asprintf(path, "%s", named);
	else if (getuid() == 0)
		n = asprintf(path, "/run/bulkhead/api");
	else if (runtime && *runtime == '/')
		n = asprintf(path, "%s/bulkhead/api", runtime);
	else
		n = asprintf(path, "/run/user/%u/bulkhead/api", getuid());
	return n < 0 ? error_set(err, ENOMEM, "no memory") : 0;
}

int client_open(struct client **out, const char *socket, struct error *err)
{
	struct client *client = calloc(1, sizeof(*client));
	int r;

	if (!client)
		return error_set(err, ENOMEM, "no memory");
	if (socket)
		r = (client->socket = strdup(socket)) ? 0 : error_set(err, ENOMEM, "no memory");
	else
		r = default_socket(&client->socket, err);
	client->curl = curl_easy_init();
	if (!r && !client->curl)
		r = error_set(err, ENOMEM, "libcurl cannot be started");
	if (r)
		client_close(client);
	else
		*out = client;
	return r;
}

void client_close(struct client *client)
{
	if (!client)
		return;
	if (client->curl)
		curl_easy_cleanup(client->curl);
	free(client->socket);
	free(client->answer);
	free(client);
}

const char *client_error_code(const struct client *client)
{
	return client && *client->code ? client->code : "failed";
}

char *client_path(struct client *client, const char *format, const char *name)
{
	char *escaped = curl_easy_escape(client->curl, name, 0), *path = NULL;
	const char *hole = strstr(format, "%s");

	if (escaped && hole && asprintf(&path, "%.*s%s%s", (int)(hole - format), format, escaped, hole + 2) < 0)
		path = NULL;
	curl_free(escaped);
	return path;
}

static size_t take_bytes(char *bytes, size_t size, size_t count, void *context)
{
	struct client *client = context;

	size *= count;
	if (client->used + size + 1 > ANSWER_MAX)
		return 0;
	if (client->used + size + 1 > client->room) {
		size_t room = (client->used + size + 1) * 2;
		char *more = realloc(client->answer, room);

		if (!more)
			return 0;
		client->answer = more;
		client->room = room;
	}
	memcpy(client->answer + client->used, bytes, size);
	client->used += size;
	client->answer[client->used] = '\0';
	return size;
}

static int transfer(struct client *client, const char *method, const char *path, const char *body, long *status,
		    struct error *err)
{
	_cleanup_free_ char *url = NULL;
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURLcode r;

	if (asprintf(&url, "http://bulkhead%s", path) < 0)
		return error_set(err, ENOMEM, "no memory");
	headers = curl_slist_append(headers, "Expect:");
	client->used = 0;
	curl_easy_reset(client->curl);
	curl_easy_setopt(client->curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
	curl_easy_setopt(client->curl, CURLOPT_URL, url);
	curl_easy_setopt(client->curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, take_bytes);
	curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, client);
	curl_easy_setopt(client->curl, CURLOPT_NOSIGNAL, 1L);
	if (body)
		curl_easy_setopt(client->curl, CURLOPT_POSTFIELDS, body);
	r = curl_easy_perform(client->curl);
	curl_slist_free_all(headers);
	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, status);
	if (r == CURLE_COULDNT_CONNECT)
		return error_set(err, ECONNREFUSED, "no daemon answers on %s: start bulkheadd%s", client->socket,
				 getuid() ? ", or name its socket by BULKHEAD_SOCKET" : " (systemctl start bulkhead)");
	if (r)
		return error_set(err, EIO, "the daemon's answer did not arrive: %s", curl_easy_strerror(r));
	return 0;
}

/* The errno behind a status is for our own callers only; people and scripts get the code. */
static int status_errno(long status)
{
	switch (status) {
	case 400:
		return EINVAL;
	case 404:
		return ENOENT;
	case 409:
		return EALREADY;
	case 412:
		return ESTALE;
	case 501:
		return ENOTSUP;
	case 504:
		return ETIMEDOUT;
	default:
		return EIO;
	}
}

static int explain(struct client *client, long status, const json_t *answer, struct error *err)
{
	const json_t *error = json_object_get(answer, "error");
	const char *text = json_string_value(json_object_get(error, "message"));
	const char *code = json_string_value(json_object_get(error, "code"));

	snprintf(client->code, sizeof(client->code), "%s", code ? code : "failed");
	return error_set(err, status_errno(status), "%s", text ? text : "the daemon failed and did not say why");
}

int client_call(struct client *client, const char *method, const char *path, json_t *body, json_t **answer,
		struct error *err)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	json_t *json;
	long status = 0;
	int r;

	if (answer)
		*answer = NULL;
	client->code[0] = '\0';
	if (body && !text) {
		json_decref(body);
		return error_set(err, ENOMEM, "no memory");
	}
	json_decref(body);
	r = path ? transfer(client, method, path, text, &status, err) : error_set(err, ENOMEM, "no memory");
	if (r)
		return r;
	json = json_loadb(client->answer ? client->answer : "", client->used, JSON_DECODE_ANY, NULL);
	if (status >= 300)
		r = explain(client, status, json, err);
	else if (answer && !json)
		r = error_set(err, EBADMSG, "the daemon's answer is no JSON");
	if (!r && answer)
		*answer = json;
	else
		json_decref(json);
	return r;
}

/* --- jobs --------------------------------------------------------------------------------------------- */

static bool has_ended(const json_t *job)
{
	const char *state = json_string_value(json_object_get(job, "state"));

	return state && strcmp(state, "running");
}

static void draw(const char *label, const json_t *job, bool last)
{
	const json_t *progress = json_object_get(job, "progress");

	if (!isatty(STDERR_FILENO))
		return;
	if (last)
		fprintf(stderr, "\r\033[K");
	else if (progress)
		fprintf(stderr, "\r\033[K%s %3.0f %%", label, json_real_value(progress) * 100);
	else
		fprintf(stderr, "\r\033[K%s …", label);
}

static char *with_wait(const char *path, unsigned seconds)
{
	char *whole;

	return asprintf(&whole, "%s%cwait=%u", path, strchr(path, '?') ? '&' : '?', seconds) < 0 ? NULL : whole;
}

int client_job(struct client *client, const char *method, const char *path, json_t *body, const char *label,
	       json_t **out, struct error *err)
{
	_cleanup_free_ char *first = path ? with_wait(path, 1) : NULL, *next = NULL;
	json_t *job;
	int r;

	r = client_call(client, method, first, body, &job, err);
	if (r)
		return r;
	if (asprintf(&next, "/v1/jobs/%lld?wait=1", (long long)json_integer_value(json_object_get(job, "id"))) < 0)
		next = NULL;
	while (!r && !has_ended(job)) {
		draw(label, job, false);
		json_decref(job);
		r = client_call(client, "GET", next, NULL, &job, err);
	}
	draw(label, NULL, true);
	if (r)
		return r;
	if (strcmp(json_string_value(json_object_get(job, "state")), "done"))
		r = explain(client, 500, job, err);
	if (r || !out)
		json_decref(job);
	else
		*out = job;
	return r;
}
