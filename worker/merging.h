/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merging.h - a link of a disk's chain of parents is merged while the machine runs. Private to worker/.
 *
 * A thread of its own does it; when it has ended, `done` is called on the loop's thread. The disk stays open until then.
 */
#pragma once

#include <uv.h>

#include "base/base.h"
#include "disk/disk.h"

struct merging;

struct merging_ops {
	/* `result`: 0, or a negative errno with its sentence in `err`. The merging is over and freed. */
	void (*done)(void *context, int result, const struct error *err);
	void *context;
};

/* Descriptors are taken over in any case, names are copied. When this fails, `done` is not called. */
int merging_start(struct merging **out, uv_loop_t *loop, struct disk *disk, const struct disk_merge_files *files,
    const struct merging_ops *ops, struct error *err);

/* In bytes of the disk. */
void merging_progress(const struct merging *merging, uint64_t *done, uint64_t *total);

/* It ends soon, by -ECANCELED, unless all was done by then. */
void merging_cancel(struct merging *merging);

/* End it here and now; `done` is not called. NULL is fine. */
void merging_abandon(struct merging *merging);
