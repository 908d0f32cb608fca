/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * http.h - HTTP on the daemon's loop: takes requests whole, gives them to one handler, sends JSON back.
 * Private to vmms/.
 *
 * All on the loop's thread. A request has at most HTTP_BODY_MAX bytes of body, 32 KiB of headers, and half a minute to
 * arrive. HTTP_PEERS connections are served at once by Unix sockets, as many by TLS; nobody but root and the daemon's
 * user can have all of them.
 */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/base.h"
#include "vmms/access.h"

#define HTTP_BODY_MAX (1u << 20)
#define HTTP_PEERS    256u

struct http;
struct http_request;

struct http_ops {
	/* Called once for each request, when its headers are here. False: it has been answered, its body is not kept. */
	bool (*admit)(void *context, struct http_request *request);
	/* Called once for each that was admitted, with its body; http_reply() or http_fail() has to follow, now or later. */
	void (*handle)(void *context, struct http_request *request);
};

int http_open(struct http **out, uv_loop_t *loop, const struct http_ops *ops, void *context, struct error *err);

/* From here on TLS 1.3 can be listened for. All are PEM texts, which have to last. `authority` NULL: clients are not
 * asked for certificates; else they may show one, which is not looked at yet. */
int http_open_tls(struct http *http, const char *certificate, const char *key, const char *authority, struct error *err);

/* Takes over a listening stream socket: a Unix socket, or TCP for TLS. */
int http_listen(struct http *http, int fd, bool tls, struct error *err);

/* A listening Unix socket at `path`, in place of one that nobody answers on. `mode` is of the file. -EADDRINUSE:
 * somebody does; -ENAMETOOLONG. Returns the descriptor. */
int http_unix_socket(const char *path, unsigned mode, struct error *err);

/* Requests still open are answered with 503. The loop has to run once more. */
void http_close(struct http *http);

const char *http_method(const struct http_request *request);
const char *http_path(const struct http_request *request);
/* Calls `each` for every parameter of the query; `text` NULL: there is no "=". */
void http_each_query(struct http_request *request, void (*each)(void *context, const char *name, const char *text),
    void *context);
/* gnutls_session_t, or NULL: it came by a Unix socket. */
void *http_tls_session(struct http_request *request);
/* The socket that it came by; it stays with http. */
int http_socket(struct http_request *request);
/* NULL: not there. */
const char *http_header(struct http_request *request, const char *name);
/* The body's bytes; 0 of them: none. */
const char *http_body(const struct http_request *request, size_t *size);

/* For whoever handles it: kept with the request. */
struct http_route_state {
	const void *route;
	const char *part[4]; /* of the path, where the route has {…} */
	json_t *json;        /* the body; goes with the request */
	json_t *query;       /* likewise */
	void *first;         /* of an Idempotency-Key */
	struct principal principal;
	char path[512];
};
struct http_route_state *http_state(struct http_request *request);

/* Added to the answer; before http_reply(). */
void http_add_header(struct http_request *request, const char *name, const char *value);

/* Answers; takes the reference to `body` (NULL: none). */
void http_reply(struct http_request *request, unsigned status, json_t *body);

/* Takes over `text`. */
void http_reply_text(struct http_request *request, unsigned status, const char *type, char *text);

/* An answer with no end. */
struct http_stream {
	/* Up to `size` bytes more; 0: nothing now, http_stream_wake() tells when there is; -1: it ends. */
	ssize_t (*more)(void *context, char *to, size_t size);
	/* Once: the request is gone. */
	void (*closed)(void *context);
};
void http_reply_stream(struct http_request *request, const char *type, const struct http_stream *stream, void *context);
void http_stream_wake(struct http_request *request);

/* Calls `answered` once: when http_reply() answers, with what it says, or with status 0 when the request goes without. */
void http_on_answer(struct http_request *request, void (*answered)(void *context, unsigned status, const json_t *body),
    void *context);

/* Answers with an error: status and code follow from err->code. */
void http_fail(struct http_request *request, const struct error *err);

/* The stable word for an errno: "not-found"; and all that there are, a list: the caller owns the reference. */
const char *http_error_code(int code);
json_t *http_error_codes(void);
