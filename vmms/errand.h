/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * errand.h - work that waits for others, as Open vSwitch, and must not hold the loop meanwhile. Private to vmms/.
 *
 * An errand is a function on a thread of its own that takes turns with the loop's: while it runs the loop's thread stands still, so that all that
 * is the loop's is its own too; between errand_leave() and errand_enter() the loop goes on, and the errand touches nothing that
 * others have. One errand is at work at a time, in the order in which they came.
 */
#pragma once

#include "base/base.h"

struct vmms;
struct errands;

int errands_open(struct vmms *vmms, struct error *err);
/* Runs what there is to its end; vmms->closing is set, whoever would wait fails. Then the loop has to run once more, before errands_free(). */
void errands_close(struct vmms *vmms);
void errands_free(struct vmms *vmms);

/* `run` as said above, then `done` on the loop's thread. Both get the context. It is not over when this returns. While no thread can be
 * started it waits.
 * -ENOMEM; -ESHUTDOWN, after errands_close(). [loop] */
int errand_start(struct vmms *vmms, void (*run)(void *context), void (*done)(void *context), void *context, struct error *err);
/* One is at work: what it is about may change. [loop] */
bool errand_at_work(const struct vmms *vmms);

/* [errand; else nothing happens] */
void errand_leave(struct vmms *vmms);
void errand_enter(struct vmms *vmms);
