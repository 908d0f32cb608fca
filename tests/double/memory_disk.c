// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/double/memory_disk.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

/* Requests wait in `submitted` until a kick, then in `started` until they are processed, in order. */
struct disk_queue {
	int event;
	unsigned in_flight;
	struct disk_request *submitted, **submitted_end;
	struct disk_request *started, **started_end;
};

struct disk *memory_disk_create(uint64_t size, uint64_t backed)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	disk->data = calloc(1, backed ? backed : 1);
	disk->backed = backed;
	disk->info = (struct disk_info){
	    .format = DISK_FORMAT_RAW,
	    .size = size,
	    .file_size = backed,
	    .logical_sector_size = 512,
	    .physical_sector_size = 4096,
	    .can_discard = true,
	};
	for (unsigned i = 0; i < 16; i++)
		disk->info.identifier.bytes[i] = (uint8_t)(0xa0 + i);
	return disk;
}

void memory_disk_destroy(struct disk *disk)
{
	free(disk->data);
	free(disk);
}

void disk_get_info(const struct disk *disk, struct disk_info *info)
{
	*info = disk->info;
}

int disk_queue_create(struct disk_queue **out, unsigned depth, struct error *err)
{
	struct disk_queue *queue = calloc(1, sizeof(*queue));

	queue->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	queue->submitted_end = &queue->submitted;
	queue->started_end = &queue->started;
	*out = queue;
	return 0;
}

int disk_queue_create_with(struct disk_queue **out, unsigned depth, struct disk_rings *rings, struct error *err)
{
	return disk_queue_create(out, depth, err);
}

void disk_queue_destroy(struct disk_queue *queue)
{
	close(queue->event);
	free(queue);
}

void disk_queue_submit(struct disk_queue *queue, struct disk *disk, struct disk_request *request)
{
	request->queue_private[0] = NULL;
	request->queue_private[1] = disk;
	*queue->submitted_end = request;
	queue->submitted_end = (struct disk_request **)&request->queue_private[0];
	queue->in_flight++;
}

void disk_queue_kick(struct disk_queue *queue)
{
	uint64_t one = 1;

	if (!queue->submitted)
		return;
	*queue->started_end = queue->submitted;
	queue->started_end = queue->submitted_end;
	queue->submitted = NULL;
	queue->submitted_end = &queue->submitted;
	if (write(queue->event, &one, sizeof(one)) < 0)
		abort();
}

int disk_queue_fd(const struct disk_queue *queue)
{
	return queue->event;
}

unsigned disk_queue_in_flight(const struct disk_queue *queue)
{
	return queue->in_flight;
}

static int move_data(struct disk *disk, const struct disk_request *request)
{
	uint64_t at = request->offset, total = 0;

	for (int i = 0; i < request->iov_count; i++)
		total += request->iov[i].iov_len;
	if (total != request->length)
		return -EINVAL;
	for (int i = 0; i < request->iov_count; i++) {
		const struct iovec *v = &request->iov[i];

		if (request->op == DISK_OP_READ)
			memcpy(v->iov_base, disk->data + at, v->iov_len);
		else
			memcpy(disk->data + at, v->iov_base, v->iov_len);
		at += v->iov_len;
	}
	return 0;
}

static int execute(struct disk *disk, const struct disk_request *request)
{
	int fail = atomic_load(&disk->fail);

	atomic_fetch_add(&disk->count[request->op], 1);
	if (fail) {
		unsigned left = atomic_load(&disk->fail_after);

		if (left == 0)
			return -fail;
		atomic_store(&disk->fail_after, left - 1);
	}
	if (request->op == DISK_OP_FLUSH)
		return 0;
	if (request->offset % disk->info.logical_sector_size ||
	    request->length % disk->info.logical_sector_size || request->length == 0 ||
	    !range_fits_u64(request->offset, request->length, disk->info.size))
		return -EINVAL;
	if (!range_fits_u64(request->offset, request->length, disk->backed))
		return -EIO;
	if (request->op == DISK_OP_DISCARD || request->op == DISK_OP_WRITE_ZEROES) {
		memset(disk->data + request->offset, 0, request->length);
		return 0;
	}
	if (request->op == DISK_OP_WRITE && request->force_unit_access)
		atomic_fetch_add(&disk->durable_writes, 1);
	return move_data(disk, request);
}

unsigned disk_queue_process(struct disk_queue *queue)
{
	struct disk_request *request = queue->started;
	unsigned done = 0;
	uint64_t n;

	if (read(queue->event, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
	queue->started = NULL;
	queue->started_end = &queue->started;
	while (request) {
		struct disk_request *next = request->queue_private[0];
		int result = execute(request->queue_private[1], request);

		queue->in_flight--;
		request->complete(request, result);
		request = next;
		done++;
	}
	return done;
}
