/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/rings.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define RINGS_MAX 4096u /* of one process, by far */

struct disk_rings {
	pthread_mutex_t lock;
	unsigned count; /* that nobody has */
	struct io_uring free[];
};

/* The thread waits for completions or looks for them: it need not be interrupted for them (Linux 5.19). */
static int create_as_can_be(struct io_uring *ring, unsigned depth, unsigned flags)
{
	int r = io_uring_queue_init(depth, ring, flags | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);

	return r == -EINVAL ? io_uring_queue_init(depth, ring, flags) : r;
}

/* To all that disk/queue.c puts into a ring. What is not named here is refused: flags of an entry, and registering anything. */
static int restrict_ring(struct io_uring *ring)
{
	static const uint8_t allowed[] = {IORING_OP_NOP, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
					  IORING_OP_POLL_ADD};
	struct io_uring_restriction restrictions[ARRAY_SIZE(allowed)] = {0};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		restrictions[i] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = allowed[i]};
	/* liburing 2.3 declares functions of its own for both, and does not export them. */
	r = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, restrictions, ARRAY_SIZE(restrictions));
	return r ? r : io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int ring_create(struct io_uring *ring, unsigned depth)
{
	return create_as_can_be(ring, depth, 0);
}

int ring_create_restricted(struct io_uring *ring, unsigned depth)
{
	int r = create_as_can_be(ring, depth, IORING_SETUP_R_DISABLED);

	if (r)
		return r;
	r = restrict_ring(ring);
	if (r)
		io_uring_queue_exit(ring);
	return r;
}

/* --- made beforehand ------------------------------------------------------------------------------------ */

int disk_rings_create(struct disk_rings **out, unsigned count, unsigned depth, struct error *err)
{
	struct disk_rings *rings;
	int r = 0;

	count = count < RINGS_MAX ? count : RINGS_MAX;
	rings = calloc(1, sizeof(*rings) + count * sizeof(rings->free[0]));
	if (!rings)
		return error_set(err, ENOMEM, "no memory for the rings of disk queues");
	pthread_mutex_init(&rings->lock, NULL);
	while (rings->count < count && !r) {
		r = ring_create_restricted(&rings->free[rings->count], depth);
		rings->count += !r;
	}
	if (r)
		error_set(err, -r, "the host makes no ring of io_uring that can be restricted: %s", strerror(-r));
	*out = rings;
	return (int)rings->count;
}

void disk_rings_destroy(struct disk_rings *rings)
{
	if (!rings)
		return;
	while (rings->count)
		io_uring_queue_exit(&rings->free[--rings->count]);
	pthread_mutex_destroy(&rings->lock);
	free(rings);
}

int rings_take(struct disk_rings *rings, struct io_uring *ring)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&rings->lock);
	if (rings->count) {
		*ring = rings->free[--rings->count];
		r = 0;
	}
	pthread_mutex_unlock(&rings->lock);
	return r;
}

void rings_give(struct disk_rings *rings, const struct io_uring *ring)
{
	pthread_mutex_lock(&rings->lock);
	rings->free[rings->count++] = *ring;
	pthread_mutex_unlock(&rings->lock);
}
