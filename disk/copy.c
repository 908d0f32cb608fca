/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/copy.h"

#include <string.h>
#include <sys/mman.h>

#include "disk/queue.h"

#define CHUNK       (1024u * 1024u)
#define GRAIN       (64u * 1024u) /* zeros in data are left out in this unit */
#define SLOTS       16u
#define HUGE_PAGE   (2u * 1024u * 1024u)
#define RUNS        (CHUNK / GRAIN / 2)
#define EXTENT_MAX  (UINT64_C(1) << 30) /* so that there is a step now and then in an empty disk */

_Static_assert((SLOTS & (SLOTS - 1)) == 0, "slots are used in turn");

struct slot {
	struct copy *copy;
	enum { SLOT_FREE, SLOT_READING, SLOT_READ, SLOT_WRITING } state;
	uint64_t offset, length;
	uint8_t *buffer;
	unsigned pending;
	struct disk_request requests[RUNS];
	struct iovec iov[RUNS];
};

struct copy {
	struct disk *from; /* NULL: a source */
	const struct disk_source *source;
	struct disk *to;
	const struct disk_progress *progress;
	struct disk_queue *queue;
	uint64_t size, position; /* read or skipped up to here */
	uint64_t data_end;       /* what is known to be data ends here */
	uint64_t done;
	unsigned next_read, next_write; /* slots, counted on and on */
	uint8_t *buffers;
	struct slot slots[SLOTS];
	int result;
	struct error *err;
};

static void give_up(struct copy *copy, int result, const char *path, const char *verb, uint64_t offset)
{
	if (copy->result == 0)
		copy->result = error_set(copy->err, -result, "%s: %s at offset %ju failed: %s", path, verb,
					 (uintmax_t)offset, strerror(-result));
}

static void on_read(struct disk_request *request, int result)
{
	struct slot *slot = request->context;

	slot->state = SLOT_READ;
	if (result < 0)
		give_up(slot->copy, result, slot->copy->from->path, "reading", request->offset);
}

static void on_written(struct disk_request *request, int result)
{
	struct slot *slot = request->context;

	if (result < 0)
		give_up(slot->copy, result, slot->copy->to->path, "writing", request->offset);
	if (--slot->pending > 0)
		return;
	slot->state = SLOT_FREE;
	slot->copy->done += slot->length;
}

/* Finds what lies at the position; zeros are stepped over. */
static int look_ahead(struct copy *copy)
{
	uint64_t length = min_u64(copy->size - copy->position, EXTENT_MAX);
	bool zero;
	int r;

	if (copy->from) {
		struct disk_extent extent;

		r = disk_get_extent(copy->from, copy->position, length, &extent, copy->err);
		length = extent.length;
		zero = extent.zero;
	} else {
		r = copy->source->extent(copy->source->context, copy->position, &length, &zero, copy->err);
		length = min_u64(length, copy->size - copy->position);
	}
	if (r < 0)
		return r;
	if (zero) {
		copy->position += length;
		copy->done += length;
	} else {
		copy->data_end = copy->position + length;
	}
	return 0;
}

static void begin_read(struct copy *copy)
{
	struct slot *slot = &copy->slots[copy->next_read++ % SLOTS];
	uint64_t room = CHUNK - copy->position % CHUNK;

	slot->offset = copy->position;
	slot->length = min_u64(copy->data_end - copy->position, room);
	copy->position += slot->length;
	if (!copy->from) {
		copy->result = copy->source->read(copy->source->context, slot->offset, slot->buffer,
						  slot->length, copy->err);
		slot->state = SLOT_READ;
		return;
	}
	slot->state = SLOT_READING;
	slot->iov[0] = (struct iovec){slot->buffer, slot->length};
	slot->requests[0] = (struct disk_request){.op = DISK_OP_READ,
						  .offset = slot->offset,
						  .length = slot->length,
						  .iov = &slot->iov[0],
						  .iov_count = 1,
						  .complete = on_read,
						  .context = slot};
	disk_queue_submit(copy->queue, copy->from, &slot->requests[0]);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static void add_run(struct slot *slot, uint64_t start, uint64_t end)
{
	unsigned i = slot->pending++;

	slot->iov[i] = (struct iovec){slot->buffer + start, end - start};
	slot->requests[i] = (struct disk_request){.op = DISK_OP_WRITE,
						  .offset = slot->offset + start,
						  .length = end - start,
						  .iov = &slot->iov[i],
						  .iov_count = 1,
						  .complete = on_written,
						  .context = slot};
}

/* Writes what is not zeros. */
static void begin_write(struct copy *copy, struct slot *slot)
{
	uint64_t start = 0, at = 0;

	slot->pending = 0;
	while (at < slot->length) {
		uint64_t end = min_u64(slot->length, at + GRAIN - (slot->offset + at) % GRAIN);

		if (is_zero(slot->buffer + at, end - at)) {
			if (at > start)
				add_run(slot, start, at);
			start = end;
		}
		at = end;
	}
	if (at > start)
		add_run(slot, start, at);
	if (slot->pending == 0) {
		slot->state = SLOT_FREE;
		copy->done += slot->length;
		return;
	}
	slot->state = SLOT_WRITING;
	for (unsigned i = 0, count = slot->pending; i < count; i++)
		disk_queue_submit(copy->queue, copy->to, &slot->requests[i]);
}

static bool can_read(const struct copy *copy)
{
	return copy->result == 0 && copy->position < copy->size &&
	       copy->slots[copy->next_read % SLOTS].state == SLOT_FREE;
}

/* What can begin now, but one look ahead at most, which may take long. */
static void begin(struct copy *copy)
{
	while (copy->result == 0 && copy->next_write != copy->next_read &&
	       copy->slots[copy->next_write % SLOTS].state == SLOT_READ)
		begin_write(copy, &copy->slots[copy->next_write++ % SLOTS]);
	if (can_read(copy) && copy->position >= copy->data_end)
		copy->result = look_ahead(copy);
	while (can_read(copy) && copy->position < copy->data_end) {
		begin_read(copy);
		if (!copy->from)
			break;
	}
}

/* A signal ends the wait, so that it is answered at once. */
static void process(struct copy *copy, bool wait)
{
	if (wait) {
		disk_queue_wait(copy->queue);
		return;
	}
	disk_queue_kick(copy->queue);
	disk_queue_process(copy->queue);
}

static bool is_over(const struct copy *copy)
{
	return copy->position == copy->size && copy->next_write == copy->next_read &&
	       disk_queue_in_flight(copy->queue) == 0;
}

static int run(struct copy *copy, struct error *err)
{
	while (copy->result == 0 && !is_over(copy)) {
		begin(copy);
		process(copy, !can_read(copy));
		if (copy->result == 0)
			copy->result =
			    progress_step(copy->progress, copy->to->path, copy->done, copy->size, err);
	}
	while (disk_queue_in_flight(copy->queue) > 0)
		process(copy, true);
	return copy->result;
}

static int start(struct copy *copy, struct error *err)
{
	int r = disk_queue_create(&copy->queue, SLOTS * 2, err);

	if (r < 0)
		return r;
	copy->err = err;
	copy->buffers = aligned_alloc(HUGE_PAGE, SLOTS * CHUNK);
	if (!copy->buffers)
		r = error_set(err, ENOMEM, "%s: no memory to copy into it", copy->to->path);
	else /* Fewer pages for the kernel to find and to hold, for each piece; where there are none, so be it. */
		madvise(copy->buffers, SLOTS * CHUNK, MADV_HUGEPAGE);
	for (unsigned i = 0; i < SLOTS; i++) {
		copy->slots[i].copy = copy;
		copy->slots[i].buffer = copy->buffers + i * CHUNK;
	}
	if (r == 0)
		r = run(copy, err);
	disk_queue_destroy(copy->queue);
	free(copy->buffers);
	return r;
}

int copy_disk(struct disk *from, struct disk *to, const struct disk_progress *progress, struct error *err)
{
	struct copy copy = {.from = from, .to = to, .progress = progress, .size = from->info.size};

	return start(&copy, err);
}

int copy_source(const struct disk_source *from, struct disk *to, const struct disk_progress *progress,
		struct error *err)
{
	struct copy copy = {.source = from, .to = to, .progress = progress, .size = from->size};

	return start(&copy, err);
}
