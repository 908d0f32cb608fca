/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * operation.h - a request on its way, as a row of steps on the file.
 *
 * One step at a time: operation_next() says what to do, somebody does it, operation_advance() takes
 * the outcome. Requests that cross blocks, short reads and a flush after a write are all just further
 * steps. An operation belongs to one thread.
 */
#pragma once

#include "disk/image.h"

#define OPERATION_IOV 64

struct operation {
	struct disk *disk;
	struct disk_request *request;
	struct operation *next; /* the queue's lists */
	struct step step;
	struct file *file; /* which the step is about: the image's, or that of a parent */
	int result;
	uint64_t done;          /* bytes of the request that are finished */
	const struct iovec *at; /* where `done` lies in the request's vector, */
	size_t at_skip;         /* and in that element */
	bool synced;            /* a flush or write-through has been carried out */
	uint64_t unsettled;     /* bytes before `done` that are written and do not count yet */
	uint64_t settle_at;     /* where the first of them lies in the file */
	bool settle;            /* the step's bytes will have to be settled */
	struct extent extent;   /* which the step is about, as long as it is held */
	bool cannot_punch;      /* the file system has no holes: zeros are written */
	struct iovec iov[OPERATION_IOV];
};

void operation_start(struct operation *op, struct disk *disk, struct disk_request *request);

/* True: perform op->step. False: the operation is over, with op->result. May block for metadata. */
bool operation_next(struct operation *op);

/* What performing op->step returned: bytes moved, 0, or a negative errno. */
void operation_advance(struct operation *op, ssize_t outcome);

/* The operation is over: what else has to know of it is told, and it leaves the disk's gate, through which its
 * request must have come. */
void operation_end(struct operation *op);

/* Performs all of it here and now; returns the result. */
int operation_run(struct operation *op);
