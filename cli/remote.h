/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remote.h - which daemon is spoken to: options before the command, and the variables of the environment that they set
 * for the program which speaks to it. Private to cli/.
 */
#pragma once

#include "base/base.h"

struct remote {
	const char *host;        /* "https://…"; NULL: the Unix socket */
	const char *token_file;
	const char *fingerprint; /* "sha256//…" */
	const char *authority;   /* the file of a certificate that the host's is signed by, or is */
	const char *certificate, *key;
};

/* What the environment says; -EINVAL: something else than https. */
int remote_from_environment(struct remote *remote, struct error *err);

/* Takes the options off the beginning of a command line: *argc and *argv go behind them, argv[0] stays. -EINVAL. */
int remote_take_options(int *argc, char ***argv, struct error *err);

/* The first line of a file which nobody else may read; the caller frees it. */
int remote_read_token(char **token, const char *path, struct error *err);
