/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * access.h - who may do what: by the Unix socket's peer, by token, by client certificate. Private to vmms/.
 *
 * All on the loop's thread.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

/* Each may do what those before it may. */
enum role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMINISTRATOR };

/* "viewer", "operator", "administrator"; ROLE_NONE: "none". */
const char *role_word(enum role role);
enum role role_of_word(const char *word);

struct http_request;
struct store;
struct access;

/* What `config` (it has passed host_config_form) says. -ENOENT: a group that there is not. */
int access_open(struct access **out, const json_t *config, struct store *store, struct error *err);
void access_close(struct access *access);

/* Whether others than root and the daemon's user may be let in at the Unix socket. */
bool access_has_groups(const struct access *access);

struct principal {
	enum role role;
	char who[272]; /* "user 1000", "token backup", "certificate alice": for people, and to tell them apart */
};

/* Who asks. A token is looked at first, wherever the request came by; then the certificate, or the peer of the Unix
 * socket: root and the daemon's own user are administrators, others have the best role of their groups. 0, with
 * ROLE_NONE where nobody gave a role; -ENOKEY: neither token nor certificate; -EKEYREJECTED, -EKEYEXPIRED: it does not
 * hold. */
int access_of(struct access *access, struct http_request *request, struct principal *who, struct error *err);

/* A new token's text ("bulkhead_…"), and what is kept of it. */
#define TOKEN_TEXT_SIZE 80
int access_new_token(char text[TOKEN_TEXT_SIZE], char hash[65], struct error *err);
