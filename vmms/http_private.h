/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * http_private.h - what http.c (requests and answers) and http_server.c (sockets, connections, time) share.
 */
#pragma once

#include <microhttpd.h>

#include "vmms/http.h"

#define LISTENERS_MAX 8u

/* How long a client may take for a request, from the first byte of its connection or the end of the one before, and
 * for taking an answer in. However it is cut into bytes. */
#define REQUEST_SECONDS 30u
#define ANSWER_SECONDS  120u
/* Between two bytes. */
#define SILENCE_SECONDS 60u

enum stage { STAGE_REQUEST, STAGE_WORK, STAGE_ANSWER, STAGE_STREAM };

/* One that libmicrohttpd has; its socket's context. */
struct connection {
	struct connection *next, *previous;
	struct server *server;
	int fd;
	uid_t uid; /* of a Unix socket's peer */
	enum stage stage;
	uint64_t since;               /* of the loop's clock */
	struct http_request *request; /* of STAGE_STREAM */
};

struct http_request {
	struct http *http;
	struct http_request *next, *previous;
	struct MHD_Connection *connection;
	char *method, *path, *body;
	size_t body_size, body_room;
	bool handled, suspended;
	struct http_route_state state;
	struct MHD_Response *response; /* ready to go */
	unsigned status;
	json_t *headers;
	const struct http_stream *stream; /* NULL: the answer has an end */
	void *stream_context;
	bool stream_over; /* nobody is there any more */
	void (*answered)(void *context, unsigned status, const json_t *body);
	void *answered_context;
};

struct listener {
	uv_poll_t poll;
	struct server *server;
	int fd;
};

/* Two of libmicrohttpd's: its TLS is on for all connections or for none. */
enum server_kind { SERVER_PLAIN, SERVER_TLS, SERVERS };

struct server {
	struct http *http;
	struct MHD_Daemon *daemon; /* NULL: it is not there */
	enum server_kind kind;
	uv_poll_t poll;
};

struct http {
	uv_loop_t *loop;
	struct server servers[SERVERS];
	uv_timer_t timer, watch, pause;
	uv_prepare_t prepare;
	struct listener *listeners[LISTENERS_MAX];
	unsigned listener_count;
	struct connection *connections;
	const struct http_ops *ops;
	void *context;
	struct http_request *requests;
	unsigned handles;
	bool closing;
};

/* libmicrohttpd's callbacks, with a struct server as context. */
enum MHD_Result http_take_part(void *context, struct MHD_Connection *connection, const char *url, const char *method,
    const char *version, const char *data, size_t *size, void **state);
void http_completed(void *context, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode reason);

void http_set_stage(struct http_request *request, enum stage stage);
