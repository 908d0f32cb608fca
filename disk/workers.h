/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * workers.h - threads that carry out a queue's operations by plain system calls, where the host refuses
 * io_uring (old kernels, containers). They start when there is work. All functions belong to the
 * queue's thread; an operation belongs to the workers from workers_submit() until workers_take_done().
 */
#pragma once

#include "disk/operation.h"

struct workers;

/* `event` is made readable when an operation is done; it must outlive the workers. NULL: no memory. */
struct workers *workers_create(unsigned threads_max, int event);

/* Nothing may be under way. NULL is allowed. */
void workers_destroy(struct workers *workers);

/* Where not a single thread can be started, the operation is carried out on the spot. */
void workers_submit(struct workers *workers, struct operation *op);

/* All that are done since the last call, linked by `next`, in the order in which they were done. */
struct operation *workers_take_done(struct workers *workers);
