/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate.h - inside of the room: every request of a disk goes through a gate, which is closed while the files
 * under the disk change. Closing it waits until all that went in have come out.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One who may not block, and is told by an event descriptor to try again. Ends no sooner than it has been
 * told, or has got in. */
struct gate_waiter {
	struct gate_waiter *next;
	int event;
	bool waiting;
};

struct gate {
	_Atomic uint64_t state; /* GATE_CLOSED, and twice the number of those inside */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct gate_waiter *waiters;
	bool changing; /* somebody is at work on the chain of files: see gate_begin_change() */
};

void gate_init(struct gate *gate);
void gate_destroy(struct gate *gate);

/* False: it is closed, and `waiter` will be told. Else gate_leave() has to follow, on any thread. */
bool gate_enter(struct gate *gate, struct gate_waiter *waiter);

/* Waits. */
void gate_enter_waiting(struct gate *gate);

/* For a short look by one who may have requests inside: it is let in as long as somebody is, because nothing
 * changes before all are out. Else it waits. */
void gate_enter_looking(struct gate *gate);

void gate_leave(struct gate *gate);

/* Only inside of a change. */
void gate_close(struct gate *gate);
void gate_open(struct gate *gate);

/* Changes of a chain of files come one after the other. False: there is one under way. */
bool gate_begin_change(struct gate *gate);
void gate_end_change(struct gate *gate);
