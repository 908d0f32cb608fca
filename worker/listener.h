/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * listener.h - a Unix socket by which others come to a running machine. Private to worker/.
 *
 * On the loop's thread. When there is no descriptor left for who comes, nobody is let in for a tenth of a second at a time:
 * he waits, and the loop serves the others. (libuv's own listeners try again at once, and for ever.)
 */
#pragma once

#include <uv.h>

#include "base/base.h"

struct listener;

/* Somebody came; `fd`, which does not block, is the callee's. */
typedef void (*listener_fn)(void *context, int fd);

/* As unix_listen(), with its errors. */
int listener_open(struct listener **out, uv_loop_t *loop, const char *path, listener_fn came, void *context, struct error *err);

/* Removes the socket. Memory goes when the loop has run once more. NULL is taken. */
void listener_close(struct listener *listener);
