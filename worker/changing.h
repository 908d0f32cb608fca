/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * changing.h - a DVD drive gets another medium, or none. Private to worker/.
 *
 * A guest that has locked the medium in is asked to let go of it, as by the button of a drive, and waited for: systems that
 * are given a medium lock it at once, so that they are asked. All on the loop's thread.
 */
#pragma once

#include <uv.h>

#include "worker/requests.h"
#include "worker/vm.h"

struct changing;

struct changing_ops {
	/* `result`: 0, or a negative errno with its sentence in `err`. It is over and freed. */
	void (*done)(void *context, int result, const struct error *err);
	void *context;
};

/* *out is NULL when it is done already, and `done` is not called then, nor when this fails. Files are taken over in any case, names are
 * copied. */
int changing_start(struct changing **out, uv_loop_t *loop, struct vm *vm, const struct medium_request *request, struct vm_files *files,
    const struct changing_ops *ops, struct error *err);

/* End it here and now; `done` is not called. NULL is fine. */
void changing_abandon(struct changing *changing);
