/* SPDX-License-Identifier: GPL-2.0-or-later */
/* queue.h - inside of the room: a queue that is told how to work, for tests. */
#pragma once

#include "base/base.h"
#include "disk/disk.h"

enum queue_kind {
	QUEUE_AUTO,   /* io_uring, or where the host refuses it, as QUEUE_THREADS */
	QUEUE_RING,   /* io_uring or an error */
	QUEUE_THREADS /* a few threads that make plain system calls */
};

int disk_queue_create_kind(struct disk_queue **out, unsigned depth, enum queue_kind kind, struct error *err);
