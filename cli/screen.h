/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * screen.h - a picture that is drawn again and again over the whole terminal, until a key or a signal ends it.
 * Private to cli/.
 */
#pragma once

#include "base/base.h"

/* Draws on `to` what is to be seen now; nonzero: it is over, with this exit status. */
typedef int (*screen_draw)(void *context, FILE *to);

/* Once a `seconds`, and at once when a key is pressed; q, Ctrl-C, and SIGTERM end it (0). Lines and columns that the
 * terminal does not have are cut off. Standard input and output have to be a terminal: -ENOTTY. Returns an exit status. */
int screen_run(double seconds, screen_draw draw, void *context, struct error *err);
