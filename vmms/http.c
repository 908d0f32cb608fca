/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "vmms/http_private.h"

/* --- errors ------------------------------------------------------------------------------------------- */

static const struct {
	int code;
	unsigned status;
	const char *word;
} error_words[] = {
    {EINVAL, 400, "invalid"},        {EBADMSG, 422, "damaged"},       {EACCES, 403, "denied"},
    {EPERM, 403, "denied"},          {ENOENT, 404, "not-found"},      {EEXIST, 409, "exists"},
    {EBUSY, 409, "busy"},            {ESTALE, 412, "conflict"},       {EALREADY, 409, "wrong-state"},
    {ENOSPC, 507, "no-space"},       {EDQUOT, 507, "no-space"},       {ENOTSUP, 422, "not-supported"},
    {ETIMEDOUT, 504, "timed-out"},   {EFBIG, 413, "too-large"},       {ECANCELED, 409, "cancelled"},
    {ESHUTDOWN, 503, "shutting-down"}, {EOPNOTSUPP, 422, "not-supported"}, {EPROTOTYPE, 405, "wrong-method"},
    {ENOKEY, 401, "no-token"},       {EKEYREJECTED, 401, "unknown-token"}, {EKEYEXPIRED, 401, "expired-token"},
    {ENAMETOOLONG, 400, "invalid"},  {ENOTDIR, 400, "invalid"},       {ELOOP, 400, "invalid"},
    {EISDIR, 400, "invalid"},        {EROFS, 403, "denied"},          {ECONNRESET, 409, "wrong-state"},
    {EUSERS, 429, "too-many"},        {ENOTUNIQ, 409, "key-reused"},   {EINPROGRESS, 409, "interrupted"},
    {ENOBUFS, 409, "no-memory"},     {EXFULL, 409, "no-processors"},
};

const char *http_error_code(int code)
{
	for (size_t i = 0; i < ARRAY_SIZE(error_words); i++)
		if (error_words[i].code == code)
			return error_words[i].word;
	return "failed";
}

json_t *http_error_codes(void)
{
	json_t *seen = json_object(), *list = json_pack("[s]", http_error_code(0));

	for (size_t i = 0; i < ARRAY_SIZE(error_words); i++) {
		if (!json_object_get(seen, error_words[i].word))
			json_array_append_new(list, json_string(error_words[i].word));
		json_object_set_new(seen, error_words[i].word, json_true());
	}
	json_decref(seen);
	return list;
}

static unsigned error_status(int code)
{
	for (size_t i = 0; i < ARRAY_SIZE(error_words); i++)
		if (error_words[i].code == code)
			return error_words[i].status;
	return 500;
}

/* Text of an error may quote bytes that are no UTF-8. */
static json_t *any_text(const char *text)
{
	json_t *string = json_string(text);
	char ascii[512];
	size_t i;

	if (string)
		return string;
	for (i = 0; text[i] && i < sizeof(ascii) - 1; i++)
		ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	ascii[i] = '\0';
	return json_string(ascii);
}

void http_fail(struct http_request *request, const struct error *err)
{
	if (error_status(err->code) == 401)
		http_add_header(request, "WWW-Authenticate", "Bearer");
	http_reply(request, error_status(err->code),
		   json_pack("{s:{s:s, s:o}}", "error", "code", http_error_code(err->code), "message", any_text(err->text)));
}

/* --- requests ----------------------------------------------------------------------------------------- */

const char *http_method(const struct http_request *request)
{
	return request->method;
}

const char *http_path(const struct http_request *request)
{
	return request->path;
}

struct query_walk {
	void (*each)(void *context, const char *name, const char *text);
	void *context;
};

static enum MHD_Result query_step(void *context, enum MHD_ValueKind kind, const char *name, const char *text)
{
	const struct query_walk *walk = context;

	(void)kind;
	walk->each(walk->context, name, text);
	return MHD_YES;
}

void http_each_query(struct http_request *request, void (*each)(void *context, const char *name, const char *text),
    void *context)
{
	struct query_walk walk = {each, context};

	MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, query_step, &walk);
}

void *http_tls_session(struct http_request *request)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

	return info ? info->tls_session : NULL;
}

int http_socket(struct http_request *request)
{
	return MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

const char *http_header(struct http_request *request, const char *name)
{
	return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *http_body(const struct http_request *request, size_t *size)
{
	*size = request->body_size;
	return request->body;
}

struct http_route_state *http_state(struct http_request *request)
{
	return &request->state;
}

static struct http_request *request_new(struct http *http, struct MHD_Connection *connection, const char *method,
    const char *path)
{
	struct http_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->http = http;
	request->connection = connection;
	request->method = strdup(method);
	request->path = strdup(path);
	request->headers = json_object();
	request->next = http->requests;
	if (request->next)
		request->next->previous = request;
	http->requests = request;
	return request;
}

static void request_free(struct http_request *request)
{
	if (request->next)
		request->next->previous = request->previous;
	if (request->previous)
		request->previous->next = request->next;
	else
		request->http->requests = request->next;
	if (request->response)
		MHD_destroy_response(request->response);
	if (request->stream)
		request->stream->closed(request->stream_context);
	if (request->answered)
		request->answered(request->answered_context, 0, NULL);
	json_decref(request->state.json);
	json_decref(request->state.query);
	json_decref(request->headers);
	free(request->method);
	free(request->path);
	free(request->body);
	free(request);
}

static bool keep_body(struct http_request *request, const char *bytes, size_t size)
{
	if (size > HTTP_BODY_MAX - request->body_size)
		return false;
	if (request->handled) {
		request->body_size += size;
		return true;
	}
	if (request->body_size + size > request->body_room) {
		size_t room = request->body_room ? request->body_room * 2 : 4096;
		char *more;

		while (room < request->body_size + size)
			room *= 2;
		more = realloc(request->body, room);
		if (!more)
			return false;
		request->body = more;
		request->body_room = room;
	}
	memcpy(request->body + request->body_size, bytes, size);
	request->body_size += size;
	return true;
}

static enum MHD_Result send_response(struct http_request *request)
{
	enum MHD_Result r = MHD_queue_response(request->connection, request->status, request->response);

	http_set_stage(request, request->stream ? STAGE_STREAM : STAGE_ANSWER);
	MHD_destroy_response(request->response);
	request->response = NULL;
	return r;
}

static void set_response(struct http_request *request, unsigned status, struct MHD_Response *response)
{
	const char *name;
	json_t *value;

	json_object_foreach(request->headers, name, value)
		MHD_add_response_header(response, name, json_string_value(value));
	request->response = response;
	request->status = status;
	if (request->suspended) {
		request->suspended = false;
		MHD_resume_connection(request->connection);
	}
}

void http_add_header(struct http_request *request, const char *name, const char *value)
{
	json_object_set_new(request->headers, name, json_string(value));
}

static void set_text(struct http_request *request, unsigned status, const char *type, char *text)
{
	if (*text)
		http_add_header(request, "Content-Type", type);
	set_response(request, status, MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE));
}

void http_reply_text(struct http_request *request, unsigned status, const char *type, char *text)
{
	set_text(request, status, type, text ? text : strdup(""));
}

void http_on_answer(struct http_request *request, void (*answered)(void *context, unsigned status, const json_t *body),
    void *context)
{
	request->answered = answered;
	request->answered_context = context;
}

void http_reply(struct http_request *request, unsigned status, json_t *body)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : strdup("");

	if (request->answered)
		request->answered(request->answered_context, status, body);
	request->answered = NULL;
	json_decref(body);
	set_text(request, status, "application/json", text ? text : strdup("{}"));
}

/* --- answers with no end ------------------------------------------------------------------------------ */

static ssize_t stream_part(void *context, uint64_t at, char *to, size_t size)
{
	struct http_request *request = context;
	bool over = request->http->closing || request->stream_over;
	ssize_t n = over ? -1 : request->stream->more(request->stream_context, to, size);

	(void)at;
	if (n > 0)
		return n;
	if (n < 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	request->suspended = true;
	MHD_suspend_connection(request->connection);
	return 0;
}

void http_reply_stream(struct http_request *request, const char *type, const struct http_stream *stream, void *context)
{
	http_add_header(request, "Content-Type", type);
	http_add_header(request, "Cache-Control", "no-store");
	/* Of an answer with no length libmicrohttpd sends the end all the same, and whoever asked for the headers alone takes
	 * that for the beginning of the next. */
	if (!strcmp(request->method, "HEAD")) {
		stream->closed(context);
		set_response(request, 200, MHD_create_response_from_buffer(0, (void *)(uintptr_t)"", MHD_RESPMEM_PERSISTENT));
		return;
	}
	request->stream = stream;
	request->stream_context = context;
	set_response(request, 200, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, stream_part, request, NULL));
}

void http_stream_wake(struct http_request *request)
{
	if (!request->suspended)
		return;
	request->suspended = false;
	MHD_resume_connection(request->connection);
}

/* --- a request, part by part -------------------------------------------------------------------------- */

static bool too_long(struct MHD_Connection *connection)
{
	const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");

	return length && strtoull(length, NULL, 10) > HTTP_BODY_MAX;
}

static void refuse_length(struct http_request *request)
{
	struct error err;

	error_set(&err, EFBIG, "the request's body has over %u KiB: nothing that is asked for here needs that",
		  HTTP_BODY_MAX >> 10);
	request->handled = true;
	http_fail(request, &err);
}

/* What libmicrohttpd calls: for the headers, for each part of the body, for the end, and when a request goes on
 * that was put aside. */
enum MHD_Result http_take_part(void *context, struct MHD_Connection *connection, const char *url, const char *method,
    const char *version, const char *data, size_t *size, void **state)
{
	struct http *http = ((struct server *)context)->http;
	struct http_request *request = *state;

	(void)version;
	if (!request) {
		request = *state = request_new(http, connection, method, url);
		if (!request)
			return MHD_NO;
		if (too_long(connection)) {
			refuse_length(request);
			return send_response(request);
		}
		if (http->closing)
			return MHD_NO;
		/* What is refused by then is told behind the body all the same: a client in the middle of sending it would
		 * see a broken connection only. It is not kept. */
		request->handled = !http->ops->admit(http->context, request);
		return MHD_YES;
	}
	if (*size) {
		bool kept = keep_body(request, data, *size);

		*size = 0;
		return kept ? MHD_YES : MHD_NO;
	}
	if (!request->handled) {
		request->handled = true;
		if (http->closing)
			return MHD_NO;
		http_set_stage(request, STAGE_WORK);
		http->ops->handle(http->context, request);
	}
	if (request->response)
		return send_response(request);
	request->suspended = true;
	MHD_suspend_connection(connection);
	return MHD_YES;
}

void http_completed(void *context, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode reason)
{
	(void)context;
	(void)connection;
	(void)reason;
	if (!*state)
		return;
	/* The next one on this connection has its own time. */
	http_set_stage(*state, STAGE_REQUEST);
	request_free(*state);
	*state = NULL;
}
