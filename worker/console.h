/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * console.h - what stands behind a serial port: this terminal, a Unix socket, or a file. Private to
 * worker/.
 *
 * Output comes from VP threads into a bounded buffer and leaves on the loop's thread; a full buffer
 * makes the guest wait, nothing is lost but what nobody is there to read. Input is read only as fast as
 * the port takes it; a terminal's keys always, so that the escape key works when the guest hangs.
 */
#pragma once

#include <uv.h>

#include "worker/worker.h"

struct console;

struct console_ops {
	/* Loop thread. Input for the port: how many bytes it took. */
	size_t (*input)(void *context, unsigned port, const uint8_t *bytes, size_t size);
	/* Loop thread. Output space came free after the port was refused some. */
	void (*output_ready)(void *context, unsigned port);
	/* Loop thread. Somebody connected or left. */
	void (*connected)(void *context, unsigned port, bool connected);
	/* Loop thread. A key after the escape key (Ctrl-]) on a terminal. */
	void (*key)(void *context, char key);
};

/* Opens what `serial` names. A terminal goes into raw mode until console_close(). */
int console_open(struct console **out, uv_loop_t *loop, unsigned port, const struct worker_serial *serial,
    const struct console_ops *ops, void *context, struct error *err);

/* Writes what is buffered (waiting at most a second on a reader that does not read) and closes. */
void console_close(struct console *console);

/* [any thread] Guest output: how many bytes were taken. */
size_t console_output(struct console *console, const uint8_t *bytes, size_t size);

/* [any thread] The port has room for input again. */
void console_input_room(struct console *console);

/* Loop thread. Whether somebody is at the other end: false for a socket without a peer. */
bool console_is_connected(const struct console *console);

/* Loop thread. Whether this console is a person's terminal. */
bool console_is_terminal(const struct console *console);
