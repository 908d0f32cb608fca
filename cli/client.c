/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "cli/remote.h"

#define ANSWER_MAX (64u << 20)

struct client {
	CURL *curl;
	struct remote remote;
	char *token;
	char *socket;
	char code[40], match[48];
	char *answer;
	size_t used, room;
	bool limited, at_once; /* client_job() waits until the deadline; not at all */
	int64_t deadline;      /* milliseconds of the monotonic clock */
	json_t *left;
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
	r = remote_from_environment(&client->remote, err);
	if (!r && client->remote.token_file)
		r = remote_read_token(&client->token, client->remote.token_file, err);
	if (!r && socket)
		r = (client->socket = strdup(socket)) ? 0 : error_set(err, ENOMEM, "no memory");
	else if (!r)
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
	free(client->token);
	free(client->socket);
	free(client->answer);
	json_decref(client->left);
	free(client);
}

bool client_is_remote(const struct client *client)
{
	return client->remote.host != NULL;
}

void client_match(struct client *client, const char *etag)
{
	snprintf(client->match, sizeof(client->match), "%s", etag);
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

/* A key that is known needs nobody who vouches for it. */
static void set_remote(struct client *client)
{
	const struct remote *remote = &client->remote;

	curl_easy_setopt(client->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	curl_easy_setopt(client->curl, CURLOPT_PROTOCOLS_STR, "https");
	if (remote->fingerprint) {
		curl_easy_setopt(client->curl, CURLOPT_PINNEDPUBLICKEY, remote->fingerprint);
		curl_easy_setopt(client->curl, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(client->curl, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (remote->authority)
		curl_easy_setopt(client->curl, CURLOPT_CAINFO, remote->authority);
	if (remote->certificate)
		curl_easy_setopt(client->curl, CURLOPT_SSLCERT, remote->certificate);
	if (remote->key)
		curl_easy_setopt(client->curl, CURLOPT_SSLKEY, remote->key);
	/* curl keeps it when it is told to follow to another host; it is not told so. */
	if (client->token) {
		curl_easy_setopt(client->curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
		curl_easy_setopt(client->curl, CURLOPT_XOAUTH2_BEARER, client->token);
	}
}

static int explain_curl(const struct client *client, CURLcode code, struct error *err)
{
	const char *host = client->remote.host;

	if (code == CURLE_PEER_FAILED_VERIFICATION && host)
		return error_set(err, EPERM, "nobody who is trusted here vouches for the certificate of %s: name its key by "
				 "--fingerprint (bulkhead host show, on the host, tells it), or its authority by --ca-file", host);
	if (code == CURLE_SSL_PINNEDPUBKEYNOTMATCH)
		return error_set(err, EPERM, "%s has another key than --fingerprint says: somebody else may be answering", host);
	if (code == CURLE_COULDNT_CONNECT && host)
		return error_set(err, ECONNREFUSED, "no daemon answers at %s", host);
	if (code == CURLE_COULDNT_CONNECT && access(client->socket, W_OK) && errno == EACCES)
		return error_set(err, EACCES, "%s is not open to you (%s): it is for the user whose daemon it is, or for a group that is let in", client->socket,
				 strerror(EACCES));
	if (code == CURLE_COULDNT_CONNECT)
		return error_set(err, ECONNREFUSED, "no daemon answers on %s: start bulkheadd%s", client->socket,
				 getuid() ? ", or name its socket by BULKHEAD_SOCKET" : " (systemctl start bulkhead)");
	return error_set(err, EIO, "the daemon's answer did not arrive: %s", curl_easy_strerror(code));
}

static struct curl_slist *begin(struct client *client, const char *method, const char *path, struct error *err)
{
	const char *host = client->remote.host ? client->remote.host : "http://bulkhead";
	struct curl_slist *headers;
	char *url;

	if (asprintf(&url, "%.*s%s", (int)(strlen(host) - (host[strlen(host) - 1] == '/')), host, path) < 0) {
		error_set(err, ENOMEM, "no memory");
		return NULL;
	}
	headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), "Expect:");
	if (*client->match && strcmp(method, "GET")) {
		char match[sizeof(client->match) + 16];

		snprintf(match, sizeof(match), "If-Match: %s", client->match);
		headers = curl_slist_append(headers, match);
		client->match[0] = '\0';
	}
	client->used = 0;
	curl_easy_reset(client->curl);
	if (client->remote.host)
		set_remote(client);
	else
		curl_easy_setopt(client->curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
	curl_easy_setopt(client->curl, CURLOPT_URL, url);
	curl_easy_setopt(client->curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, take_bytes);
	curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, client);
	curl_easy_setopt(client->curl, CURLOPT_NOSIGNAL, 1L);
	free(url);
	return headers;
}

static int transfer(struct client *client, const char *method, const char *path, const char *body, long *status,
		    struct error *err)
{
	struct curl_slist *headers = begin(client, method, path, err);
	CURLcode r;

	if (!headers)
		return -err->code;
	curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
	if (body)
		curl_easy_setopt(client->curl, CURLOPT_POSTFIELDS, body);
	r = curl_easy_perform(client->curl);
	curl_slist_free_all(headers);
	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, status);
	return r ? explain_curl(client, r, err) : 0;
}

/* The errno behind a status is for our own callers only; people and scripts get the code. */
static int status_errno(long status)
{
	switch (status) {
	case 400:
		return EINVAL;
	case 401:
	case 403:
		return EACCES;
	case 404:
		return ENOENT;
	case 409:
		return EALREADY;
	case 412:
		return ESTALE;
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

static int add_page(json_t *all, json_t *page, const char *name, char **cursor, struct error *err)
{
	const json_t *next = json_object_get(page, "next");

	free(*cursor);
	*cursor = json_is_string(next) ? strdup(json_string_value(next)) : NULL;
	if (json_array_extend(all, json_object_get(page, name)))
		return error_set(err, EBADMSG, "the daemon's answer is no list");
	return 0;
}

int client_list(struct client *client, const char *path, const char *name, json_t **list, struct error *err)
{
	json_t *all = json_array(), *page;
	char *cursor = NULL;
	int r = 0;

	do {
		_cleanup_free_ char *hole = NULL, *whole = NULL;

		if (asprintf(&hole, "%s?limit=1000%s", path, cursor ? "&after=%s" : "") < 0)
			hole = NULL;
		whole = hole && cursor ? client_path(client, hole, cursor) : hole ? strdup(hole) : NULL;
		r = client_call(client, "GET", whole, NULL, &page, err);
		if (!r) {
			r = add_page(all, page, name, &cursor, err);
			json_decref(page);
		}
	} while (!r && cursor);
	free(cursor);
	if (r)
		json_decref(all);
	else
		*list = all;
	return r;
}

/* --- streams ------------------------------------------------------------------------------------------ */

struct stream {
	struct client *client;
	void (*take)(void *context, const char *data);
	void *context;
	char *last;
	char data[32768], id[24];
};

static void take_line(struct stream *stream, const char *line)
{
	if (!*line) {
		snprintf(stream->last, sizeof(stream->id), "%s", stream->id);
		if (*stream->data)
			stream->take(stream->context, stream->data);
		stream->data[0] = '\0';
	} else if (!strncmp(line, "data: ", 6)) {
		snprintf(stream->data, sizeof(stream->data), "%s", line + 6);
	} else if (!strncmp(line, "id: ", 4)) {
		snprintf(stream->id, sizeof(stream->id), "%s", line + 4);
	}
}

/* An answer that is none (an error) stays in the client's buffer. */
static size_t take_part(char *bytes, size_t size, size_t count, void *context)
{
	struct stream *stream = context;
	struct client *client = stream->client;
	long status = 0;
	char *end;

	if (take_bytes(bytes, size, count, client) != size * count)
		return 0;
	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
	while (status == 200 && (end = memchr(client->answer, '\n', client->used))) {
		*end++ = '\0';
		take_line(stream, client->answer);
		client->used -= (size_t)(end - client->answer);
		memmove(client->answer, end, client->used + 1);
	}
	return size * count;
}

int client_stream(struct client *client, const char *path, char last[24], void (*take)(void *context, const char *data),
		  void *context, bool *connected, struct error *err)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	struct curl_slist *headers = path && stream ? begin(client, "GET", path, err) : NULL;
	char header[48];
	long status = 0;
	json_t *answer;
	CURLcode r;

	if (!headers) {
		free(stream);
		return error_set(err, ENOMEM, "no memory");
	}
	*stream = (struct stream){.client = client, .take = take, .context = context, .last = last};
	snprintf(stream->id, sizeof(stream->id), "%s", last);
	snprintf(header, sizeof(header), "Last-Event-ID: %.23s", last);
	if (*last)
		headers = curl_slist_append(headers, header);
	curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, take_part);
	curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, stream);
	r = curl_easy_perform(client->curl);
	curl_slist_free_all(headers);
	free(stream);
	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
	*connected |= status == 200;
	if (status == 200)
		return 0;
	if (r)
		return explain_curl(client, r, err);
	answer = json_loadb(client->answer ? client->answer : "", client->used, 0, NULL);
	explain(client, status, answer, err);
	json_decref(answer);
	return -err->code;
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

static int64_t now_milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void client_limit(struct client *client, unsigned seconds)
{
	client->limited = true;
	client->at_once = !seconds;
	client->deadline = now_milliseconds() + (int64_t)seconds * 1000;
}

json_t *client_left_job(const struct client *client)
{
	return client ? client->left : NULL;
}

static bool may_wait(const struct client *client)
{
	return !client->limited || now_milliseconds() < client->deadline;
}

/* Takes the reference. */
static int leave_job(struct client *client, json_t *job, struct error *err)
{
	long long id = json_integer_value(json_object_get(job, "id"));

	json_decref(client->left);
	client->left = job;
	return error_set(err, EINPROGRESS, "job %lld goes on: bulkhead job wait %lld waits for its end", id, id);
}

static char *with_wait(const char *path, unsigned seconds)
{
	char *whole;

	return asprintf(&whole, "%s%cwait=%u", path, strchr(path, '?') ? '&' : '?', seconds) < 0 ? NULL : whole;
}

int client_job(struct client *client, const char *method, const char *path, json_t *body, const char *label,
	       json_t **out, struct error *err)
{
	_cleanup_free_ char *first = path ? with_wait(path, may_wait(client)) : NULL, *next = NULL;
	const char *state;
	json_t *job;
	int r;

	r = client_call(client, method, first, body, &job, err);
	if (r)
		return r;
	if (asprintf(&next, "/v1/jobs/%lld?wait=1", (long long)json_integer_value(json_object_get(job, "id"))) < 0)
		next = NULL;
	while (!r && !has_ended(job) && may_wait(client)) {
		draw(label, job, false);
		json_decref(job);
		r = client_call(client, "GET", next, NULL, &job, err);
	}
	draw(label, NULL, true);
	if (r)
		return r;
	state = json_string_value(json_object_get(job, "state"));
	if (!has_ended(job) || (client->at_once && !strcmp(state, "done")))
		return leave_job(client, job, err);
	if (strcmp(state, "done"))
		r = explain(client, 500, job, err);
	if (r || !out)
		json_decref(job);
	else
		*out = job;
	return r;
}
