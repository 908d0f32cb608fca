/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control.h - the control socket of a running machine. Private to worker/.
 *
 * One JSON object a line, answered by one JSON object a line, on a Unix socket that only its owner
 * may connect to: {"version": 1, "command": "add-disk", "path": "/data/b.vhdx", "read_only": false} gives
 * {"ok": true, …} or {"ok": false, "error": "…"}. Commands: status, inspect, meter, pause, resume,
 * shutdown, power-button, reset, power-off, add-disk, resize-disk, remove-disk, add-adapter, plug-adapter, remove-adapter,
 * save, checkpoint, merge-disk, cancel.
 * Everything runs on the loop's thread. Descriptors may come with a line, by SCM_RIGHTS with its last byte or an earlier one.
 *
 * A peer may send many lines at once; each is handled when the answer to the one before has left, so a peer
 * that does not read costs no memory. A line has at most 64 KiB; 16 peers are served at once.
 *
 * What a peer has asked for that is gone when its line is read is not done: when the next manager comes, nothing that one which died had
 * sent is still to come. A peer whose line is not read before the machine ends sees the end of the connection.
 */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/base.h"

struct control;

#define CONTROL_MAX_FDS 66u

/* What comes with a command beside its arguments. */
struct control_call {
	int fds[CONTROL_MAX_FDS]; /* in their order; a handler that keeps one sets it to -1 */
	unsigned fd_count;
	uint64_t ticket; /* for control_answer() */
	bool later;      /* set by a handler that returns NULL: the answer will come by control_answer() */
};

/* Handles one command; returns the answer (a new reference). */
typedef json_t *(*control_fn)(void *context, const char *command, const json_t *arguments, struct control_call *call);

/* {"ok": false, "error": text, "code": "ENOENT"}; bytes of `text` that are no UTF-8 become question marks. */
json_t *control_refuse(int code, const char *text);

/* A string for an answer, likewise. */
json_t *control_text(const char *text);

/* The socket file is made for the owner alone and removed by control_close(), after which the handler is not
 * called; memory goes when the loop has run once more. */
int control_open(struct control **out, uv_loop_t *loop, const char *path, control_fn handler, void *context,
    struct error *err);
void control_close(struct control *control);

/* The answer to a command whose handler left it for later; takes over the reference. A peer that has gone gets none. */
void control_answer(struct control *control, uint64_t ticket, json_t *answer);
