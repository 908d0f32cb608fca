/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unix_socket.h - Unix sockets by path, for consoles and control. Private to worker/.
 *
 * Descriptors returned are the caller's, closed on exec. Errors: negative errno, with a sentence.
 */
#pragma once

#include "base/base.h"

/* A listening, non-blocking socket at `path` that only its owner may connect to. A socket file that
 * nobody listens on any more is replaced. -EADDRINUSE: somebody listens; -EEXIST: the path is something
 * else, which is left alone; -ENAMETOOLONG. */
int unix_listen(const char *path, struct error *err);

/* Takes what came and nobody reads any more, and drops it, one MiB at most: whoever sent it would see a socket that is closed with bytes in
 * it as a broken connection, and not as its end. `fd` does not block. */
void unix_drain(int fd);

/* A blocking connection. The error's text says what the path is and why nobody answered. */
int unix_connect(const char *path, struct error *err);
