/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saving.h - a running machine goes into a file, or into a checkpoint, while the worker's loop goes on. Private to worker/.
 *
 * A save holds the machine from the start; a checkpoint writes memory while the guest runs first, and holds it for what has changed
 * meanwhile. While it is held, the loop's thread takes the state of its parts, which is quick, a thread of its own brings
 * memory to disk, and the loop's thread splits the disks. When that has ended, `done` is called on the loop's
 * thread: a machine that was saved is held for good, to be taken down; in every other case it goes on, after a failure as if
 * nothing had been asked.
 */
#pragma once

#include <uv.h>

#include "worker/vm.h"

struct saving;

/* A disk that a checkpoint splits. */
struct saving_disk {
	unsigned controller, lun;
	struct disk_split_files files; /* descriptors are taken over, names are copied */
};

struct saving_request {
	bool checkpoint;
	int fd; /* for the machine's state, taken over; -1: none is wanted, of a checkpoint only */
	struct saving_disk disks[WORKER_MAX_DISKS];
	unsigned disk_count;
};

struct saving_end {
	int result;         /* 0, or a negative errno with its sentence in `err` */
	struct error err;
	uint64_t bytes;     /* of the file */
	uint64_t pause_us;  /* how long the guest stood still */
};

struct saving_ops {
	/* Whether the guest has turned itself off or reset: then there is nothing to go on with. */
	bool (*guest_ended)(void *context);
	/* The saving is over and freed. */
	void (*done)(void *context, const struct saving_end *end);
	void *context;
};

/* Descriptors are taken over in any case. When this fails, the machine goes on and `done` is not called. */
int saving_start(struct saving **out, uv_loop_t *loop, struct vm *vm, const struct saving_request *request,
    const struct saving_ops *ops, struct error *err);

/* Whether the machine is held, or still runs. */
bool saving_holds(const struct saving *saving);

/* In bytes of guest memory. */
void saving_progress(const struct saving *saving, uint64_t *done, uint64_t *total);

/* It ends soon, by -ECANCELED, unless all was done by then. */
void saving_cancel(struct saving *saving);

/* End it here and now; `done` is not called, and the machine goes on. NULL is fine. */
void saving_abandon(struct saving *saving);
