/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/http.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LISTENERS_MAX 8u

struct http_request {
	struct http *http;
	struct http_request *next, *previous;
	struct MHD_Connection *connection;
	char *method, *path, *body;
	size_t body_size, body_room;
	bool whole, handled, suspended;
	struct http_route_state state;
	struct MHD_Response *response; /* ready to go */
	unsigned status;
	json_t *headers;
};

struct listener {
	uv_poll_t poll;
	struct http *http;
	int fd;
};

struct http {
	struct MHD_Daemon *daemon;
	uv_poll_t poll;
	uv_timer_t timer;
	uv_prepare_t prepare;
	struct listener *listeners[LISTENERS_MAX];
	unsigned listener_count;
	const struct http_ops *ops;
	void *context;
	struct http_request *requests;
	unsigned handles;
	bool closing;
};

/* --- errors ------------------------------------------------------------------------------------------- */

static const struct {
	int code;
	unsigned status;
	const char *word;
} error_words[] = {
    {EINVAL, 400, "invalid"},        {EBADMSG, 422, "damaged"},       {EACCES, 403, "denied"},
    {EPERM, 403, "denied"},          {ENOENT, 404, "not-found"},      {EEXIST, 409, "exists"},
    {EBUSY, 409, "busy"},            {ESTALE, 412, "conflict"},       {EALREADY, 409, "wrong-state"},
    {ENOSPC, 507, "no-space"},       {EDQUOT, 507, "no-space"},       {ENOTSUP, 501, "not-supported"},
    {ETIMEDOUT, 504, "timed-out"},   {EFBIG, 413, "too-large"},       {ECANCELED, 409, "cancelled"},
    {ESHUTDOWN, 503, "shutting-down"}, {EOPNOTSUPP, 501, "not-supported"}, {EPROTOTYPE, 405, "wrong-method"},
};

const char *http_error_code(int code)
{
	for (size_t i = 0; i < ARRAY_SIZE(error_words); i++)
		if (error_words[i].code == code)
			return error_words[i].word;
	return "failed";
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

void http_reply(struct http_request *request, unsigned status, json_t *body)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : strdup("");
	struct MHD_Response *response;

	json_decref(body);
	if (!text)
		text = strdup("{}");
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	if (*text)
		http_add_header(request, "Content-Type", "application/json");
	set_response(request, status, response);
}

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
static enum MHD_Result take_part(void *context, struct MHD_Connection *connection, const char *url, const char *method,
    const char *version, const char *data, size_t *size, void **state)
{
	struct http *http = context;
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
		http->ops->handle(http->context, request);
	}
	if (request->response)
		return send_response(request);
	request->suspended = true;
	MHD_suspend_connection(connection);
	return MHD_YES;
}

static void completed(void *context, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode reason)
{
	(void)context;
	(void)connection;
	(void)reason;
	if (*state)
		request_free(*state);
	*state = NULL;
}

/* --- the loop ----------------------------------------------------------------------------------------- */

static void work(struct http *http)
{
	MHD_run(http->daemon);
}

static void timer_due(uv_timer_t *timer)
{
	work(timer->data);
}

static void epoll_ready(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	work(poll->data);
}

/* Before the loop sleeps: what was answered meanwhile goes out, and it sleeps no longer than may be. */
static void before_sleep(uv_prepare_t *prepare)
{
	struct http *http = prepare->data;
	MHD_UNSIGNED_LONG_LONG timeout;

	work(http);
	if (MHD_get_timeout(http->daemon, &timeout) == MHD_YES)
		uv_timer_start(&http->timer, timer_due, timeout, 0);
	else
		uv_timer_stop(&http->timer);
}

static void accept_ready(uv_poll_t *poll, int status, int events)
{
	struct listener *listener = poll->data;

	(void)events;
	while (!status) {
		struct sockaddr_storage address = {0};
		socklen_t length = sizeof(address);
		int fd = accept4(listener->fd, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		/* It closes the descriptor when it will not have it. */
		MHD_add_connection(listener->http->daemon, fd, (struct sockaddr *)&address, length);
	}
}

static void log_daemon(void *context, const char *format, va_list args)
{
	char text[300];

	(void)context;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	log_write(LOG_LEVEL_DEBUG, "http: %s", text);
}

static void handle_closed(uv_handle_t *handle)
{
	struct http *http = handle->data;

	if (!--http->handles)
		free(http);
}

static void listener_closed(uv_handle_t *handle)
{
	struct listener *listener = handle->data;
	struct http *http = listener->http;

	close(listener->fd);
	free(listener);
	if (!--http->handles)
		free(http);
}

int http_open(struct http **out, uv_loop_t *loop, const struct http_ops *ops, void *context, struct error *err)
{
	struct http *http = calloc(1, sizeof(*http));
	const union MHD_DaemonInfo *info;

	if (!http)
		return error_set(err, ENOMEM, "no memory for HTTP");
	http->ops = ops;
	http->context = context;
	http->daemon = MHD_start_daemon(
	    MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, take_part,
	    http, MHD_OPTION_EXTERNAL_LOGGER, log_daemon, http, MHD_OPTION_NOTIFY_COMPLETED, completed, http,
	    MHD_OPTION_CONNECTION_LIMIT, HTTP_PEERS, MHD_OPTION_CONNECTION_TIMEOUT, 60u,
	    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(32 << 10), MHD_OPTION_END);
	info = http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		if (http->daemon)
			MHD_stop_daemon(http->daemon);
		free(http);
		return error_set(err, ENOMEM, "HTTP cannot be started: %s", strerror(errno));
	}
	uv_poll_init(loop, &http->poll, info->epoll_fd);
	uv_timer_init(loop, &http->timer);
	uv_prepare_init(loop, &http->prepare);
	http->poll.data = http->timer.data = http->prepare.data = http;
	http->handles = 3;
	uv_poll_start(&http->poll, UV_READABLE, epoll_ready);
	uv_prepare_start(&http->prepare, before_sleep);
	*out = http;
	return 0;
}

int http_listen(struct http *http, int fd, struct error *err)
{
	struct listener *listener;

	if (http->listener_count == LISTENERS_MAX)
		return error_set(err, EMFILE, "more than %u sockets to listen on", LISTENERS_MAX);
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		return error_set(err, ENOMEM, "no memory for a socket");
	listener->http = http;
	listener->fd = fd;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	uv_poll_init(http->poll.loop, &listener->poll, fd);
	listener->poll.data = listener;
	uv_poll_start(&listener->poll, UV_READABLE, accept_ready);
	http->listeners[http->listener_count++] = listener;
	http->handles++;
	return 0;
}

int http_unix_socket(const char *path, unsigned mode, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
				 sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (fd < 0)
		return error_set(err, errno, "no socket: %s", strerror(errno));
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return error_set(err, EADDRINUSE, "another daemon answers on %s: stop it first", path);
	if (errno == ECONNREFUSED)
		unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || chmod(path, mode) || listen(fd, 128))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	result = fd;
	fd = -1;
	return result;
}

void http_close(struct http *http)
{
	struct error err;

	if (!http)
		return;
	http->closing = true;
	error_set(&err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	for (struct http_request *r = http->requests; r; r = r->next)
		if (r->suspended)
			http_fail(r, &err);
	MHD_run(http->daemon);
	uv_poll_stop(&http->poll);
	MHD_stop_daemon(http->daemon);
	for (unsigned i = 0; i < http->listener_count; i++)
		uv_close((uv_handle_t *)&http->listeners[i]->poll, listener_closed);
	uv_close((uv_handle_t *)&http->poll, handle_closed);
	uv_close((uv_handle_t *)&http->timer, handle_closed);
	uv_close((uv_handle_t *)&http->prepare, handle_closed);
}
