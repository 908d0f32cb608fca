/* SPDX-License-Identifier: GPL-2.0-or-later */
/* listen.h - sockets to listen on by TCP. Private to vmms/. */
#pragma once

#include "base/base.h"

#define LISTEN_TEXT_SIZE 64

/* A listening socket at "ADDRESS:PORT" or "[ADDRESS]:PORT", numbers both. `address` and `whole` are what it was bound to,
 * without and with the port. Returns the descriptor. -EINVAL: no such text; -EADDRINUSE … */
int listen_tcp(const char *text, char address[LISTEN_TEXT_SIZE], char whole[LISTEN_TEXT_SIZE + 8], struct error *err);
