/* SPDX-License-Identifier: GPL-2.0-or-later */
/* http_server.c - the sockets and the connections of http.h, and the time that each has. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "vmms/http_private.h"

/* Of one user who is neither root nor ours, and of one address: others have to get in too. */
#define PEERS_OF_ONE_USER    (HTTP_PEERS / 4)
#define PEERS_OF_ONE_ADDRESS (HTTP_PEERS / 2)
/* How often late connections are looked for, and how long nobody is let in when there are no descriptors left. */
#define WATCH_MILLISECONDS 1000u
#define PAUSE_MILLISECONDS 100u

/* --- the loop ----------------------------------------------------------------------------------------- */

static void work(struct http *http)
{
	for (unsigned i = 0; i < SERVERS; i++)
		if (http->servers[i].daemon)
			MHD_run(http->servers[i].daemon);
}

static void timer_due(uv_timer_t *timer)
{
	work(timer->data);
}

static void epoll_ready(uv_poll_t *poll, int status, int events)
{
	struct server *server = poll->data;

	(void)status;
	(void)events;
	MHD_run(server->daemon);
}

/* Before the loop sleeps: what was answered meanwhile goes out, and it sleeps no longer than may be. */
static void before_sleep(uv_prepare_t *prepare)
{
	struct http *http = prepare->data;
	MHD_UNSIGNED_LONG_LONG timeout, least = UINT64_MAX;

	work(http);
	for (unsigned i = 0; i < SERVERS; i++)
		if (http->servers[i].daemon && MHD_get_timeout(http->servers[i].daemon, &timeout) == MHD_YES && timeout < least)
			least = timeout;
	if (least != UINT64_MAX)
		uv_timer_start(&http->timer, timer_due, least, 0);
	else
		uv_timer_stop(&http->timer);
}

/* --- connections -------------------------------------------------------------------------------------- */

void http_set_stage(struct http_request *request, enum stage stage)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct connection *connection = info ? info->socket_context : NULL;

	if (!connection)
		return;
	connection->stage = stage;
	connection->request = stage == STAGE_STREAM ? request : NULL;
	connection->since = uv_now(request->http->loop);
}

static bool is_late(const struct connection *connection, uint64_t now)
{
	uint64_t seconds = (now - connection->since) / 1000;

	return (connection->stage == STAGE_REQUEST && seconds >= REQUEST_SECONDS) ||
	       (connection->stage == STAGE_ANSWER && seconds >= ANSWER_SECONDS);
}

/* libmicrohttpd looks after none that is put aside. */
static void watch_stream(struct connection *connection)
{
	struct pollfd peer = {.fd = connection->fd, .events = POLLRDHUP};

	if (poll(&peer, 1, 0) <= 0)
		return;
	connection->request->stream_over = true;
	http_stream_wake(connection->request);
}

/* One that is late is closed by way of its socket: libmicrohttpd sees that its peer is gone. */
static void watch_due(uv_timer_t *timer)
{
	struct http *http = timer->data;

	if (!http->connections)
		uv_timer_stop(timer);
	for (struct connection *c = http->connections; c; c = c->next)
		if (c->request)
			watch_stream(c);
		else if (is_late(c, uv_now(http->loop)))
			shutdown(c->fd, SHUT_RDWR);
}

static uid_t peer_user(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ? (uid_t)-1 : peer.uid;
}

static void connection_begins(struct server *server, struct MHD_Connection *mhd, void **context)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	struct http *http = server->http;

	*context = connection;
	if (!connection)
		return;
	connection->server = server;
	connection->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	connection->uid = server->kind == SERVER_PLAIN ? peer_user(connection->fd) : (uid_t)-1;
	connection->since = uv_now(http->loop);
	connection->next = http->connections;
	if (connection->next)
		connection->next->previous = connection;
	else
		uv_timer_start(&http->watch, watch_due, WATCH_MILLISECONDS, WATCH_MILLISECONDS);
	http->connections = connection;
}

static void connection_ends(struct server *server, struct connection *connection)
{
	if (!connection)
		return;
	if (connection->next)
		connection->next->previous = connection->previous;
	if (connection->previous)
		connection->previous->next = connection->next;
	else
		server->http->connections = connection->next;
	free(connection);
}

static void notify(void *context, struct MHD_Connection *connection, void **socket_context,
    enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		connection_begins(context, connection, socket_context);
	} else {
		connection_ends(context, *socket_context);
		*socket_context = NULL;
	}
}

static bool has_too_many(const struct http *http, uid_t uid)
{
	unsigned count = 0;

	if (!uid || uid == getuid())
		return false;
	for (const struct connection *c = http->connections; c; c = c->next)
		count += c->server->kind == SERVER_PLAIN && c->uid == uid;
	return count >= PEERS_OF_ONE_USER;
}

/* --- listening ---------------------------------------------------------------------------------------- */

static void accept_ready(uv_poll_t *poll, int status, int events);

static void pause_over(uv_timer_t *timer)
{
	struct http *http = timer->data;

	for (unsigned i = 0; i < http->listener_count; i++)
		uv_poll_start(&http->listeners[i]->poll, UV_READABLE, accept_ready);
}

/* Whoever waits stays ready to be let in: without a pause the loop would do nothing but fail at it. */
static void pause_listening(struct http *http, int why)
{
	static struct log_limit limit;

	if (log_limit_pass(&limit, 1))
		log_write(LOG_LEVEL_WARNING, "no connection can be taken now: %s", strerror(why));
	for (unsigned i = 0; i < http->listener_count; i++)
		uv_poll_stop(&http->listeners[i]->poll);
	uv_timer_start(&http->pause, pause_over, PAUSE_MILLISECONDS, 0);
}

static void accept_ready(uv_poll_t *poll, int status, int events)
{
	struct listener *listener = poll->data;
	struct server *server = listener->server;

	(void)events;
	while (!status) {
		struct sockaddr_storage address = {0};
		socklen_t length = sizeof(address);
		int fd = accept4(listener->fd, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
			pause_listening(server->http, errno);
		if (fd < 0)
			return;
		/* It closes the descriptor when it will not have it. */
		if (server->kind == SERVER_PLAIN && has_too_many(server->http, peer_user(fd)))
			close(fd);
		else
			MHD_add_connection(server->daemon, fd, (struct sockaddr *)&address, length);
	}
}

static void handle_closed(uv_handle_t *handle)
{
	struct http *http = handle->data;

	if (!--http->handles)
		free(http);
}

static void server_closed(uv_handle_t *handle)
{
	struct http *http = ((struct server *)handle->data)->http;

	if (!--http->handles)
		free(http);
}

static void listener_closed(uv_handle_t *handle)
{
	struct listener *listener = handle->data;
	struct http *http = listener->server->http;

	close(listener->fd);
	free(listener);
	if (!--http->handles)
		free(http);
}

int http_listen(struct http *http, int fd, bool tls, struct error *err)
{
	struct listener *listener;

	if (http->listener_count == LISTENERS_MAX)
		return error_set(err, EMFILE, "more than %u sockets to listen on", LISTENERS_MAX);
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		return error_set(err, ENOMEM, "no memory for a socket");
	listener->server = &http->servers[tls ? SERVER_TLS : SERVER_PLAIN];
	listener->fd = fd;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	uv_poll_init(http->loop, &listener->poll, fd);
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

/* --- from start to end -------------------------------------------------------------------------------- */

static void log_daemon(void *context, const char *format, va_list args)
{
	char text[300];

	(void)context;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	log_write(LOG_LEVEL_DEBUG, "http: %s", text);
}

static int open_server(struct http *http, enum server_kind kind, const struct MHD_OptionItem *more, struct error *err)
{
	struct server *server = &http->servers[kind];
	const union MHD_DaemonInfo *info;
	unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;

	server->http = http;
	server->kind = kind;
	server->daemon = MHD_start_daemon(flags | (kind == SERVER_TLS ? MHD_USE_TLS : 0), 0, NULL, NULL, http_take_part,
	    server, MHD_OPTION_EXTERNAL_LOGGER, log_daemon, http, MHD_OPTION_NOTIFY_COMPLETED, http_completed, server,
	    MHD_OPTION_NOTIFY_CONNECTION, notify, server, MHD_OPTION_CONNECTION_LIMIT, HTTP_PEERS,
	    MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(32 << 10),
	    MHD_OPTION_ARRAY, more, MHD_OPTION_END);
	info = server->daemon ? MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		if (server->daemon)
			MHD_stop_daemon(server->daemon);
		server->daemon = NULL;
		return error_set(err, EIO, "%s cannot be started",
				 kind == SERVER_TLS ? "HTTPS" : "HTTP");
	}
	uv_poll_init(http->loop, &server->poll, info->epoll_fd);
	server->poll.data = server;
	uv_poll_start(&server->poll, UV_READABLE, epoll_ready);
	http->handles++;
	return 0;
}

int http_open(struct http **out, uv_loop_t *loop, const struct http_ops *ops, void *context, struct error *err)
{
	const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
	struct http *http = calloc(1, sizeof(*http));
	int r;

	if (!http)
		return error_set(err, ENOMEM, "no memory for HTTP");
	http->loop = loop;
	http->ops = ops;
	http->context = context;
	r = open_server(http, SERVER_PLAIN, none, err);
	if (r) {
		free(http);
		return r;
	}
	uv_timer_init(loop, &http->timer);
	uv_timer_init(loop, &http->watch);
	uv_timer_init(loop, &http->pause);
	uv_prepare_init(loop, &http->prepare);
	http->timer.data = http->watch.data = http->pause.data = http->prepare.data = http;
	http->handles += 4;
	uv_prepare_start(&http->prepare, before_sleep);
	*out = http;
	return 0;
}

int http_open_tls(struct http *http, const char *certificate, const char *key, const char *authority, struct error *err)
{
	struct MHD_OptionItem more[] = {
	    {MHD_OPTION_HTTPS_MEM_CERT, 0, (char *)(uintptr_t)certificate},
	    {MHD_OPTION_HTTPS_MEM_KEY, 0, (char *)(uintptr_t)key},
	    {MHD_OPTION_HTTPS_PRIORITIES, 0, (char *)(uintptr_t)"NORMAL:-VERS-ALL:+VERS-TLS1.3"},
	    {MHD_OPTION_PER_IP_CONNECTION_LIMIT, (intptr_t)PEERS_OF_ONE_ADDRESS, NULL},
	    {authority ? MHD_OPTION_HTTPS_MEM_TRUST : MHD_OPTION_END, 0, (char *)(uintptr_t)authority},
	    {MHD_OPTION_END, 0, NULL},
	};

	return open_server(http, SERVER_TLS, more, err);
}

/* Requests that wait are told; answers with no end get one. */
static void end_requests(struct http *http)
{
	struct error err;

	error_set(&err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	for (struct http_request *r = http->requests; r; r = r->next) {
		if (!r->suspended)
			continue;
		if (r->stream)
			http_stream_wake(r);
		else
			http_fail(r, &err);
	}
}

void http_close(struct http *http)
{
	if (!http)
		return;
	http->closing = true;
	end_requests(http);
	work(http);
	for (unsigned i = 0; i < SERVERS; i++) {
		if (!http->servers[i].daemon)
			continue;
		uv_poll_stop(&http->servers[i].poll);
		MHD_stop_daemon(http->servers[i].daemon);
		http->servers[i].daemon = NULL;
		uv_close((uv_handle_t *)&http->servers[i].poll, server_closed);
	}
	for (unsigned i = 0; i < http->listener_count; i++)
		uv_close((uv_handle_t *)&http->listeners[i]->poll, listener_closed);
	uv_close((uv_handle_t *)&http->timer, handle_closed);
	uv_close((uv_handle_t *)&http->watch, handle_closed);
	uv_close((uv_handle_t *)&http->pause, handle_closed);
	uv_close((uv_handle_t *)&http->prepare, handle_closed);
}
