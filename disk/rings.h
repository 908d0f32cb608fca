/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rings.h - inside of the room: the rings of queues. One that a queue makes for itself is a ring as any; what is made beforehand
 * (disk_rings_create()) can do a queue's work and nothing else.
 *
 * Source: io_uring_register(2), IORING_REGISTER_RESTRICTIONS (Linux 5.10).
 */
#pragma once

#include <liburing.h>

#include "base/base.h"
#include "disk/disk.h"

/* 0, or a negative errno: the host has no io_uring for us. */
int ring_create(struct io_uring *ring, unsigned depth);

/* Each operation that is not a queue's fails with -EACCES, and so does any that has flags; nothing can be registered. -EINVAL: the
 * kernel knows no such rings. */
int ring_create_restricted(struct io_uring *ring, unsigned depth);

/* One of those that were made before; -EAGAIN: all are in use. Given back with nothing in it. [any thread] */
int rings_take(struct disk_rings *rings, struct io_uring *ring);
void rings_give(struct disk_rings *rings, const struct io_uring *ring);
