/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commit.h - inside of the room: one commit of a disk runs at a time. Those who come meanwhile need the
 * next one, because the one that runs has begun without their writes; all who wait share it.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

struct commit {
	pthread_mutex_t lock; /* never held during I/O */
	pthread_cond_t over;
	uint64_t begun, done; /* how many */
	unsigned waiting;
	int result; /* of the last */
};

void commit_init(struct commit *commit);
void commit_destroy(struct commit *commit);

/* Has `run` called once after this call has begun, by this thread or another; returns what it returned. */
int commit_share(struct commit *commit, int (*run)(void *context), void *context);
