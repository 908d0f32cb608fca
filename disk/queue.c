/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * queue.c - requests of one thread, carried out by io_uring, one step of each in the ring at a time; or
 * where the host has no io_uring, each as a whole by a thread of its own.
 */
#include "disk/queue.h"

#include <errno.h>
#include <linux/falloc.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "disk/operation.h"
#include "disk/rings.h"
#include "disk/workers.h"

#define EARLY_SUBMIT 8u /* entries */
#define DEPTH_MAX   4096u
#define WORKERS_MAX 8u

struct disk_queue {
	bool has_ring;
	struct io_uring ring;
	struct disk_rings *rings; /* where it goes back to; NULL: it is our own */
	unsigned entries;        /* of the ring that have not come back */
	struct workers *workers; /* where there is no ring */
	int event;               /* by which workers and gates wake the queue's thread */
	bool event_watched;      /* the ring has an entry that comes back with the next event, */
	bool woken;              /* or one that comes back at once */
	unsigned in_flight;
	struct gate_waiter at_gate; /* of the disk of the first that waits */
	struct disk_request *waiting, **waiting_end; /* not started; linked by queue_private[0] */
	struct operation *idle;
	struct operation *over, **over_end; /* to be completed by disk_queue_process() */
	struct operation operations[];
};

static void signal_self(struct disk_queue *queue)
{
	const uint64_t one = 1;
	ssize_t n = write(queue->event, &one, sizeof(one));

	(void)n; /* fails only when the counter is full, and then it is readable anyway */
}

static int create_way(struct disk_queue *queue, unsigned depth, enum queue_kind kind, struct error *err)
{
	int r = kind == QUEUE_THREADS ? -ENOSYS : queue->rings ? rings_take(queue->rings, &queue->ring) : ring_create(&queue->ring, depth);

	queue->has_ring = r == 0;
	if (r == 0)
		return 0;
	if (kind == QUEUE_RING)
		return error_set(err, -r, "the host refuses io_uring: %s", strerror(-r));
	queue->workers = workers_create((unsigned)min_u64(depth, WORKERS_MAX), queue->event);
	return queue->workers ? 0 : error_set(err, ENOMEM, "no memory for the threads of a disk queue");
}

static int create(struct disk_queue **out, unsigned depth, enum queue_kind kind, struct disk_rings *rings, struct error *err)
{
	struct disk_queue *queue;
	int r = 0;

	depth = depth == 0 ? 1 : depth > DEPTH_MAX ? DEPTH_MAX : depth;
	queue = calloc(1, sizeof(*queue) + depth * sizeof(queue->operations[0]));
	if (!queue)
		return error_set(err, ENOMEM, "no memory for a queue of %u disk requests", depth);
	queue->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->event < 0) {
		r = error_set(err, errno, "no event descriptor for a disk queue: %s", strerror(errno));
		free(queue);
		return r;
	}
	queue->rings = rings;
	r = create_way(queue, depth, kind, err);
	if (r < 0) {
		close(queue->event);
		free(queue);
		return r;
	}
	queue->at_gate.event = queue->event;
	queue->waiting_end = &queue->waiting;
	queue->over_end = &queue->over;
	for (unsigned i = depth; i-- > 0;) {
		queue->operations[i].next = queue->idle;
		queue->idle = &queue->operations[i];
	}
	*out = queue;
	return 0;
}

int disk_queue_create_kind(struct disk_queue **out, unsigned depth, enum queue_kind kind, struct error *err)
{
	return create(out, depth, kind, NULL, err);
}

int disk_queue_create(struct disk_queue **out, unsigned depth, struct error *err)
{
	return create(out, depth, QUEUE_AUTO, NULL, err);
}

int disk_queue_create_with(struct disk_queue **out, unsigned depth, struct disk_rings *rings, struct error *err)
{
	return create(out, depth, QUEUE_AUTO, rings, err);
}

/* What is still in it is the event that is watched, which comes, and what comes back at once. False: the kernel does not take it. */
static bool empty_ring(struct disk_queue *queue)
{
	struct io_uring_cqe *entry;

	signal_self(queue);
	while (queue->entries) {
		int r = io_uring_submit_and_wait(&queue->ring, 1);

		if (r < 0 && r != -EINTR)
			return false;
		while (io_uring_peek_cqe(&queue->ring, &entry) == 0) {
			io_uring_cqe_seen(&queue->ring, entry);
			queue->entries--;
		}
	}
	return true;
}

void disk_queue_destroy(struct disk_queue *queue)
{
	if (!queue)
		return;
	if (queue->has_ring && queue->rings && empty_ring(queue))
		rings_give(queue->rings, &queue->ring);
	else if (queue->has_ring)
		io_uring_queue_exit(&queue->ring);
	workers_destroy(queue->workers);
	close(queue->event);
	free(queue);
}

void disk_queue_submit(struct disk_queue *queue, struct disk *disk, struct disk_request *request)
{
	request->queue_private[0] = NULL;
	request->queue_private[1] = disk;
	*queue->waiting_end = request;
	queue->waiting_end = (struct disk_request **)&request->queue_private[0];
	queue->in_flight++;
}

static void prepare_entry(struct io_uring_sqe *entry, const struct operation *op)
{
	const struct step *step = &op->step;
	int fd = file_descriptor(op->file, step);

	switch (step->kind) {
	case STEP_READ:
		io_uring_prep_readv(entry, fd, step->iov, (unsigned)step->iov_count, step->offset);
		break;
	case STEP_WRITE:
		io_uring_prep_writev(entry, fd, step->iov, (unsigned)step->iov_count, step->offset);
		break;
	case STEP_SYNC:
		io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
		break;
	case STEP_ZERO:
		io_uring_prep_fallocate(entry, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, step->offset,
					step->length);
		break;
	}
	io_uring_sqe_set_data(entry, (void *)op);
}

static void finish(struct disk_queue *queue, struct operation *op)
{
	operation_end(op);
	op->next = NULL;
	*queue->over_end = op;
	queue->over_end = &op->next;
}

static void proceed(struct disk_queue *queue, struct operation *op)
{
	if (!queue->has_ring) {
		workers_submit(queue->workers, op);
		return;
	}
	if (operation_next(op)) {
		struct io_uring_sqe *entry = io_uring_get_sqe(&queue->ring);

		if (entry) {
			prepare_entry(entry, op);
			queue->entries++;
			return;
		}
		/* The ring is full of entries that the kernel has not taken. */
		operation_advance(op, file_perform(op->file, &op->step));
		operation_run(op);
	}
	finish(queue, op);
}

static void clear_event(struct disk_queue *queue)
{
	uint64_t events;
	ssize_t n = read(queue->event, &events, sizeof(events));

	(void)n; /* nothing to read: called without being woken, which is allowed */
}

/* The gate tells by the event that it is open, the ring by its own descriptor that something has happened. */
static void watch_event(struct disk_queue *queue)
{
	struct io_uring_sqe *entry =
	    queue->has_ring && !queue->event_watched ? io_uring_get_sqe(&queue->ring) : NULL;

	if (!entry)
		return; /* or the ring is full of entries that come back, after which it is tried again */
	io_uring_prep_poll_add(entry, queue->event, POLLIN);
	io_uring_sqe_set_data(entry, queue);
	queue->event_watched = true;
	queue->entries++;
}

/* What the kernel does not take, for want of memory, is tried again when another entry comes back. There
 * being none, nothing else can be done than to try again. */
static void submit_ring(struct disk_queue *queue)
{
	while (io_uring_sq_ready(&queue->ring) > 0 && io_uring_submit(&queue->ring) < 0) {
		if (queue->entries > io_uring_sq_ready(&queue->ring))
			break;
		usleep(1000);
	}
}

static void start_waiting(struct disk_queue *queue)
{
	while (queue->waiting && queue->idle) {
		struct disk_request *request = queue->waiting;
		struct disk *disk = request->queue_private[1];
		struct operation *op = queue->idle;

		if (!gate_enter(disk->gate, &queue->at_gate)) {
			watch_event(queue);
			break;
		}
		queue->waiting = request->queue_private[0];
		if (!queue->waiting)
			queue->waiting_end = &queue->waiting;
		queue->idle = op->next;
		operation_start(op, disk, request);
		proceed(queue, op);
		/* A medium that has nothing to do while all that came back is made ready again waits for us. */
		if (queue->has_ring && io_uring_sq_ready(&queue->ring) >= EARLY_SUBMIT)
			submit_ring(queue);
	}
}

/* An entry that does nothing but come back: the ring's descriptor is readable then. */
static void wake_by_ring(struct disk_queue *queue)
{
	struct io_uring_sqe *entry = queue->woken ? NULL : io_uring_get_sqe(&queue->ring);

	if (!entry)
		return; /* or it is full of others, which come back too */
	io_uring_prep_nop(entry);
	io_uring_sqe_set_data(entry, NULL);
	queue->woken = true;
	queue->entries++;
}

/* Has the work begun, and sees to it that disk_queue_process() comes again when needed. */
static void hand_over(struct disk_queue *queue)
{
	if (!queue->has_ring) {
		if (queue->over)
			signal_self(queue);
		return;
	}
	if (queue->over)
		wake_by_ring(queue);
	submit_ring(queue);
}

void disk_queue_kick(struct disk_queue *queue)
{
	start_waiting(queue);
	hand_over(queue);
}

int disk_queue_fd(const struct disk_queue *queue)
{
	return queue->has_ring ? queue->ring.ring_fd : queue->event;
}

static void reap(struct disk_queue *queue)
{
	struct io_uring_cqe *entry;

	while (io_uring_peek_cqe(&queue->ring, &entry) == 0) {
		void *data = io_uring_cqe_get_data(entry);
		int outcome = entry->res;

		io_uring_cqe_seen(&queue->ring, entry);
		queue->entries--;
		if (data == queue) {
			queue->event_watched = false;
			clear_event(queue);
		} else if (!data) {
			queue->woken = false;
		} else {
			operation_advance(data, outcome);
			proceed(queue, data);
		}
	}
}

static void collect(struct disk_queue *queue)
{
	struct operation *op;

	clear_event(queue);
	op = workers_take_done(queue->workers);

	while (op) {
		struct operation *next = op->next;

		finish(queue, op);
		op = next;
	}
}

static unsigned complete_over(struct disk_queue *queue)
{
	struct operation *op = queue->over;
	unsigned count = 0;

	queue->over = NULL;
	queue->over_end = &queue->over;
	while (op) {
		struct operation *next = op->next;
		struct disk_request *request = op->request;
		int result = op->result;

		op->next = queue->idle;
		queue->idle = op;
		queue->in_flight--;
		request->complete(request, result);
		op = next;
		count++;
	}
	return count;
}

static unsigned take_over(struct disk_queue *queue)
{
	if (queue->has_ring)
		reap(queue);
	else
		collect(queue);
	return complete_over(queue);
}

unsigned disk_queue_process(struct disk_queue *queue)
{
	unsigned count = take_over(queue);

	disk_queue_kick(queue);
	return count;
}

unsigned disk_queue_wait(struct disk_queue *queue)
{
	start_waiting(queue);
	if (queue->has_ring) {
		/* What the kernel does not take now is tried again by the next call. */
		if (!queue->over && queue->in_flight > 0 && queue->entries > 0)
			io_uring_submit_and_wait(&queue->ring, 1);
	} else if (!queue->over && queue->in_flight > 0) {
		struct pollfd fd = {.fd = queue->event, .events = POLLIN};

		poll(&fd, 1, -1);
	}
	return take_over(queue);
}

unsigned disk_queue_in_flight(const struct disk_queue *queue)
{
	return queue->in_flight;
}
