/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tls.h - the daemon's certificate, and what a client's says. Private to vmms/.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

#define TLS_FINGERPRINT_SIZE 56

/* PEM texts; tls_files_free() frees them. */
struct tls_files {
	char *certificate, *key, *authority; /* authority NULL: no client certificates */
	/* "sha256//…": SHA-256 of the public key, in base64, as curl's --pinnedpubkey has it. */
	char fingerprint[TLS_FINGERPRINT_SIZE];
};

/* What the configuration (`https` of host.json) names; where it names no certificate, DIRECTORY/tls-certificate.pem and
 * DIRECTORY/tls-key.pem, which are made if they are not there: self-signed, for this host's name and `address`. */
int tls_files_load(struct tls_files *files, const json_t *https, const char *directory, const char *address,
    struct error *err);
void tls_files_free(struct tls_files *files);

/* Revocation lists (PEM) that have to be signed by one of the authorities in a file. A list counts until there is another, whatever date it
 * says. -EBADMSG: a file holds no such thing, or a list is nobody's. */
struct tls_revoked;
int tls_revoked_load(struct tls_revoked **out, const char *path, const char *authority, struct error *err);
void tls_revoked_free(struct tls_revoked *revoked);

/* The names of the client's certificate: common name, then alternative names; the caller owns the reference. NULL with
 * err->code 0: it showed none. Else it is refused: `err` says why. `session` is a gnutls_session_t; `revoked` NULL: nothing is. */
json_t *tls_client_names(void *session, const struct tls_revoked *revoked, struct error *err);

/* SHA-256 in hexadecimal digits. */
void tls_hash(const void *bytes, size_t size, char text[65]);
/* `count` random bytes in hexadecimal digits; `text` has room for 2 * count + 1. */
int tls_random(char *text, size_t count, struct error *err);
