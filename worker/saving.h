/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saving.h - a running machine goes into a file while the worker's loop goes on. Private to worker/.
 *
 * The loop's thread holds the machine and takes the state of its parts, which is quick; a thread of its own writes memory
 * and brings all to disk. When that has ended, `done` is called on the loop's thread: well, and the machine is held for
 * good, to be taken down; or not, and it goes on as if nothing had been asked.
 */
#pragma once

#include <uv.h>

#include "worker/vm.h"

struct saving;

struct saving_ops {
	/* `bytes`: of the file. `result`: 0, or a negative errno with its sentence in `err`. The saving is over and freed. */
	void (*done)(void *context, int result, uint64_t bytes, const struct error *err);
	void *context;
};

/* The file is taken over in any case. When this fails, the machine goes on and `done` is not called. */
int saving_start(struct saving **out, uv_loop_t *loop, struct vm *vm, int fd, const struct saving_ops *ops, struct error *err);

/* In bytes of guest memory. */
void saving_progress(const struct saving *saving, uint64_t *done, uint64_t *total);

/* It ends soon, by -ECANCELED, unless all was done by then. */
void saving_cancel(struct saving *saving);

/* End it here and now; `done` is not called, and the machine goes on. NULL is fine. */
void saving_abandon(struct saving *saving);
