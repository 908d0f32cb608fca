/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * client.h - the command line's way to bulkheadd: its REST interface, and nothing else. Private to cli/.
 *
 * Errors: negative errno, with the daemon's own sentence where it gave one. -ECONNREFUSED: no daemon answers.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

struct client;

/* By HTTPS where the environment names a host (remote.h); else by the Unix socket. `socket` NULL: $BULKHEAD_SOCKET, else
 * that of this user's daemon (root's: /run/bulkhead/api). */
int client_open(struct client **out, const char *socket, struct error *err);
void client_close(struct client *client);

/* One request. Takes the reference to `body` (NULL: none). *answer (may be NULL) is the caller's. */
int client_call(struct client *client, const char *method, const char *path, json_t *body, json_t **answer,
		struct error *err);

/* The next request that is not GET goes with this If-Match: it is refused if what it is about is another by then. "": nothing. */
void client_match(struct client *client, const char *etag);

/* All entries of a list, page by page; `path` has no query. The caller owns the reference. */
int client_list(struct client *client, const char *path, const char *name, json_t **list, struct error *err);

/* Calls `take` with the data of each event of a stream (text/event-stream) behind the one that `last` names ("": from now
 * on), and notes its id there. Returns 0 when the connection ended after it had begun, and sets *connected. */
int client_stream(struct client *client, const char *path, char last[24], void (*take)(void *context, const char *data),
		  void *context, bool *connected, struct error *err);

/* Whether the daemon is on another host: what it says of sockets and files is of no use here. */
bool client_is_remote(const struct client *client);

/* A request that makes a job, and waits for its end; `label` and how far it is are shown meanwhile where standard
 * error is a terminal. *job (may be NULL) is the caller's. -EINPROGRESS: it was not to wait so long, and the job goes on. */
int client_job(struct client *client, const char *method, const char *path, json_t *body, const char *label,
	       json_t **job, struct error *err);

/* How long client_job() waits in all, from now on, in seconds: without this, as long as it takes. 0: it tells of the job
 * even if that is done already. */
void client_limit(struct client *client, unsigned seconds);

/* The job of the last -EINPROGRESS; it is the client's. */
json_t *client_left_job(const struct client *client);

/* "/v1/vms/a%20b/start": what stands for each %s is made fit for a path. The caller frees it; NULL: no memory. */
char *client_path(struct client *client, const char *format, const char *name);

/* The stable word of the last error that the daemon gave, or "failed". */
const char *client_error_code(const struct client *client);
