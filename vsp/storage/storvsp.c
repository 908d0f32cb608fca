// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * storvsp.c - a channel's I/O thread: packets from the ring to the units, completions back.
 *
 * The thread sleeps on three descriptors: the guest's signal, the disk queue, and its own wake-up.
 * Each round it answers what the disks finished, takes what the ring holds, and starts all of that
 * with one system call. Data moves between the disk and the guest's pages; only the 64-byte packet is
 * copied. When the ring to the guest is full, answers wait in order and nothing more is taken.
 *
 * Source: Linux drivers/scsi/storvsc_drv.c for the order of messages and the meaning of each status.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/thread.h"
#include "vsp/storage/scsi_codes.h"
#include "vsp/storage/storvsp.h"

#define IO_BATCH    256u /* packets taken before the disks are looked after */
#define IO_NORMAL   8192u /* bytes of an operation as metering counts them */
#define IO_IOVECS   (SCSI_MAX_TRANSFER / GUEST_PAGE_SIZE + 1)

struct request {
	struct io *io;
	struct request *next;
	uint64_t transaction_id;
	bool wants_completion;
	uint32_t reply_size;
	struct vstor_packet packet; /* as received, then the answer */
	struct unit_slot *slot;     /* held while the unit works */
	uint32_t iov_count;
	uint64_t begun; /* by now_ns(), of one that moves data; else 0 */
	struct scsi_command command;
	struct iovec *iov; /* IO_IOVECS of them */
};

struct io {
	struct storage *storage;
	struct endpoint *endpoint;
	struct channel *channel;
	struct disk_queue *queue;
	pthread_t thread;
	int wake;
	atomic_bool stop, announce;

	/* The thread's own. */
	struct request *pool, *free;
	struct iovec *iovecs;                   /* of all requests; only used pages of it exist */
	struct request *waiting, **waiting_end; /* answers for which the ring has no room */
	struct request *reset;                  /* a bus reset waits until nothing else is in flight */
	unsigned in_flight;
	bool broken; /* the ring is; close follows */

	bool resting; /* under the controller's lock: while it is, the thread touches nothing */

	struct {
		atomic_ulong requests, read_bytes, written_bytes, errors, batches, ring_full;
		atomic_ulong operations, normalized, data_read, data_written, latency_ns; /* struct storage_counters */
	} count;
};

static void count_add(atomic_ulong *counter, unsigned long n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* --- requests and their answers --------------------------------------------------------------- */

static struct request *request_take(struct io *io)
{
	struct request *request = io->free;

	io->free = request->next;
	io->in_flight++;
	request->slot = NULL;
	return request;
}

static void request_free(struct request *request)
{
	struct io *io = request->io;

	io->in_flight--;
	request->next = io->free;
	io->free = request;
}

/* False: no room in the ring, try again. */
static bool request_send(struct request *request)
{
	struct io *io = request->io;
	int r = channel_send_completion(io->channel, request->transaction_id, &request->packet,
					request->reply_size);

	if (r == -EAGAIN)
		return false;
	if (r < 0)
		io->broken = true;
	request_free(request);
	return true;
}

static void request_answer(struct request *request)
{
	struct io *io = request->io;

	if (!request->wants_completion || atomic_load_explicit(&io->stop, memory_order_relaxed)) {
		request_free(request);
		return;
	}
	request->packet.operation = VSTOR_COMPLETE_IO;
	request->packet.flags = 0;
	if (!io->waiting && request_send(request))
		return;
	count_add(&io->count.ring_full, 1);
	request->next = NULL;
	*io->waiting_end = request;
	io->waiting_end = &request->next;
}

static void send_waiting(struct io *io)
{
	while (io->waiting) {
		struct request *request = io->waiting, *next = request->next;

		if (!request_send(request))
			return;
		io->waiting = next;
		if (!next)
			io->waiting_end = &io->waiting;
	}
}

static void request_answer_status(struct request *request, uint32_t status)
{
	request->packet.status = status;
	request_answer(request);
}

/* The SRB failed before it reached a unit. */
static void request_answer_srb(struct request *request, uint8_t srb_status)
{
	count_add(&request->io->count.errors, 1);
	request->packet.srb.srb_status = srb_status;
	request->packet.srb.scsi_status = 0;
	request->packet.srb.data_transfer_length = 0;
	request->packet.srb.sense_info_length = 0;
	request_answer_status(request, VSTOR_STATUS_UNSUCCESSFUL);
}

static void put_sense(struct vmscsi_request *srb, const struct scsi_command *command, uint32_t srb_flags)
{
	uint8_t size = command->sense_length;

	if (size > srb->sense_info_length)
		size = srb->sense_info_length;
	srb->srb_status = command->status == SCSI_STATUS_BUSY ? SRB_STATUS_BUSY : SRB_STATUS_ERROR;
	srb->sense_info_length = 0;
	if (size == 0 || (srb_flags & SRB_FLAG_DISABLE_AUTOSENSE))
		return;
	srb->srb_status |= SRB_STATUS_AUTOSENSE_VALID;
	srb->sense_info_length = size;
	memset(srb->sense_data, 0, sizeof(srb->sense_data));
	memcpy(srb->sense_data, command->sense, size);
}

/* Guest memory that was written may hold code that a processor has seen before. */
static void tell_processors(struct request *request)
{
	const struct scsi_command *command = &request->command;

	for (int i = 0; i < command->iov_count; i++)
		if (command->iov[i].iov_len > 0)
			partition_host_written(request->io->storage->partition, command->iov[i].iov_base,
					       command->iov[i].iov_len);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_read(uint8_t operation)
{
	return operation == SCSI_READ_6 || operation == SCSI_READ_10 || operation == SCSI_READ_12 || operation == SCSI_READ_16;
}

static bool is_write(uint8_t operation)
{
	return operation == SCSI_WRITE_6 || operation == SCSI_WRITE_10 || operation == SCSI_WRITE_12 || operation == SCSI_WRITE_16 ||
	       operation == SCSI_WRITE_AND_VERIFY_10 || operation == SCSI_WRITE_AND_VERIFY_12 || operation == SCSI_WRITE_AND_VERIFY_16;
}

/* One that moved nothing, as it failed, is an operation all the same; one that the guest is to send again is none. */
static void count_operation(struct request *request)
{
	const struct scsi_command *command = &request->command;
	struct io *io = request->io;

	if (!request->begun || command->status == SCSI_STATUS_BUSY)
		return;
	count_add(&io->count.operations, 1);
	count_add(&io->count.normalized, command->transferred > IO_NORMAL ? (command->transferred + IO_NORMAL - 1) / IO_NORMAL : 1);
	count_add(is_read(command->cdb[0]) ? &io->count.data_read : &io->count.data_written, command->transferred);
	count_add(&io->count.latency_ns, now_ns() - request->begun);
}

static void command_done(struct scsi_command *command)
{
	struct request *request = command->context;
	struct vmscsi_request *srb = &request->packet.srb;
	struct io *io = request->io;
	bool good = command->status == SCSI_STATUS_GOOD;

	if (request->slot)
		unit_release(request->slot);
	request->slot = NULL;
	if (command->stored)
		tell_processors(request);
	count_add(command->stored ? &io->count.read_bytes : &io->count.written_bytes, command->transferred);
	count_operation(request);
	srb->scsi_status = command->status;
	srb->data_transfer_length = command->transferred;
	if (good) {
		srb->srb_status = SRB_STATUS_SUCCESS;
		srb->sense_info_length = 0;
	} else {
		count_add(&io->count.errors, 1);
		put_sense(srb, command, srb->srb_flags);
	}
	request_answer_status(request, good ? VSTOR_STATUS_SUCCESS : VSTOR_STATUS_UNSUCCESSFUL);
}

/* --- SRBs ------------------------------------------------------------------------------------- */

/* No unit at the address: two commands are answered all the same, by which guests find the others. */
static void execute_absent(struct request *request, unsigned target)
{
	struct scsi_command *command = &request->command;
	uint8_t luns[STORAGE_LUNS_PER_TARGET];

	if (command->cdb[0] == SCSI_REPORT_LUNS)
		scsi_report_luns(command, luns, unit_list(request->io->storage, target, luns));
	else if (command->cdb[0] == SCSI_INQUIRY && !(command->cdb[1] & 1))
		scsi_inquiry_absent(command);
	else
		request_answer_srb(request, SRB_STATUS_INVALID_LUN);
}

static void execute_srb(struct request *request, uint64_t iov_bytes)
{
	const struct vmscsi_request *srb = &request->packet.srb;
	struct scsi_command *command = &request->command;
	struct io *io = request->io;
	struct scsi_device *device;
	/* Only path 0 exists. */
	unsigned target = srb->path_id == 0 ? srb->target_id : STORAGE_TARGETS;

	count_add(&io->count.requests, 1);
	if (!atomic_load(&io->storage->ready)) {
		request_answer_srb(request, SRB_STATUS_INVALID_REQUEST);
		return;
	}
	if (srb->cdb_length > sizeof(srb->cdb) || srb->cdb_length == 0 ||
	    srb->data_transfer_length > iov_bytes || srb->data_transfer_length > SCSI_MAX_TRANSFER) {
		request_answer_srb(request, SRB_STATUS_INVALID_REQUEST);
		return;
	}
	memset(command->cdb, 0, sizeof(command->cdb));
	memcpy(command->cdb, srb->cdb, srb->cdb_length);
	command->iov = request->iov;
	command->iov_count = (int)request->iov_count;
	command->queue = io->queue;
	command->complete = command_done;
	request->begun = is_read(command->cdb[0]) || is_write(command->cdb[0]) ? now_ns() : 0;
	command->context = request;
	scsi_trim(command, srb->data_transfer_length);
	if (unit_is_held(io->storage, target, srb->lun)) {
		scsi_busy(command);
		return;
	}
	device = command->cdb[0] == SCSI_REPORT_LUNS
		     ? NULL
		     : unit_acquire(io->storage, target, srb->lun, &request->slot);
	if (device && unit_is_held(io->storage, target, srb->lun)) {
		scsi_busy(command);
	} else if (device) {
		scsi_execute(device, command);
	} else {
		request->slot = NULL;
		execute_absent(request, target);
	}
}

/* --- negotiation ------------------------------------------------------------------------------ */

bool storvsp_version_known(uint16_t version)
{
	return version == VSTOR_VERSION_WIN6 || version == VSTOR_VERSION_WIN7 ||
	       version == VSTOR_VERSION_WIN8 || version == VSTOR_VERSION_WIN8_1 ||
	       version == VSTOR_VERSION_WIN10;
}

static uint32_t query_version(struct storage *storage, const struct vstor_packet *packet)
{
	if (!storvsp_version_known(packet->version.major_minor))
		return VSTOR_STATUS_REVISION_MISMATCH;
	atomic_store(&storage->version, packet->version.major_minor);
	return VSTOR_STATUS_SUCCESS;
}

static uint32_t query_properties(struct storage *storage, struct vstor_packet *packet)
{
	if (atomic_load(&storage->version) == 0)
		return VSTOR_STATUS_INVALID_DEVICE_STATE;
	memset(&packet->properties, 0, sizeof(packet->properties));
	packet->properties.max_transfer_bytes = SCSI_MAX_TRANSFER;
	if (atomic_load(&storage->version) >= VSTOR_VERSION_WIN8 && storage->max_sub_channels > 0) {
		packet->properties.flags = VSTOR_PROPERTY_MULTI_CHANNEL;
		packet->properties.max_channel_count = (uint16_t)storage->max_sub_channels;
	}
	return VSTOR_STATUS_SUCCESS;
}

static uint32_t create_sub_channels(struct storage *storage, const struct vstor_packet *packet)
{
	unsigned count = packet->sub_channel_count;

	if (atomic_load(&storage->version) < VSTOR_VERSION_WIN8)
		return VSTOR_STATUS_INVALID_DEVICE_STATE;
	if (count > storage->max_sub_channels)
		return VSTOR_STATUS_INVALID_PARAMETER;
	return storage_offer_sub_channels(storage, count) < 0 ? VSTOR_STATUS_UNSUCCESSFUL
							      : VSTOR_STATUS_SUCCESS;
}

/* Messages of the primary channel about the controller itself. */
static uint32_t control(struct io *io, struct vstor_packet *packet)
{
	struct storage *storage = io->storage;

	if (io->endpoint->index != 0)
		return VSTOR_STATUS_INVALID_DEVICE_STATE;
	switch (packet->operation) {
	case VSTOR_BEGIN_INITIALIZATION:
		atomic_store(&storage->ready, false);
		atomic_store(&storage->version, 0);
		return VSTOR_STATUS_SUCCESS;
	case VSTOR_QUERY_PROTOCOL_VERSION:
		return query_version(storage, packet);
	case VSTOR_QUERY_PROPERTIES:
		return query_properties(storage, packet);
	case VSTOR_CREATE_SUB_CHANNELS:
		return create_sub_channels(storage, packet);
	case VSTOR_END_INITIALIZATION:
		if (atomic_load(&storage->version) == 0)
			return VSTOR_STATUS_INVALID_DEVICE_STATE;
		/* What was attached up to now the guest finds by itself. */
		atomic_store(&io->announce, false);
		atomic_store(&storage->ready, true);
		return VSTOR_STATUS_SUCCESS;
	default: /* FC HBA data among them: this is no fibre channel adapter */
		return VSTOR_STATUS_INVALID_REQUEST;
	}
}

static void handle_packet(struct request *request, const struct channel_packet *packet)
{
	struct io *io = request->io;

	switch (request->packet.operation) {
	case VSTOR_EXECUTE_SRB:
		request->iov_count = packet->iov_count;
		execute_srb(request, packet->iov_bytes);
		break;
	case VSTOR_RESET_LUN:
	case VSTOR_RESET_ADAPTER:
	case VSTOR_RESET_BUS:
		io->reset = request; /* answered when all before it was: see finish_reset() */
		break;
	default:
		request_answer_status(request, control(io, &request->packet));
		break;
	}
}

/* True: a reset was answered, and packets behind it may be taken. */
static bool finish_reset(struct io *io)
{
	struct request *request = io->reset;

	if (!request || io->in_flight > 1)
		return false;
	io->reset = NULL;
	request_answer_status(request, VSTOR_STATUS_SUCCESS);
	return true;
}

/* --- the ring --------------------------------------------------------------------------------- */

/* A packet that is no request. Nothing that we send asks for a completion. */
static void refuse_packet(struct io *io, enum vmbus_packet_type type)
{
	char reason[64];

	snprintf(reason, sizeof(reason), "a storage packet of type %u", (unsigned)type);
	io->broken = true;
	channel_break(io->channel, reason);
}

static void take_packet(struct io *io, struct request *request, const struct channel_packet *packet,
			int result)
{
	request->transaction_id = packet->transaction_id;
	request->wants_completion = packet->completion_requested;
	request->iov_count = 0;
	if (packet->type != VMBUS_PACKET_IN_BAND && packet->type != VMBUS_PACKET_GPA_DIRECT) {
		request_free(request);
		refuse_packet(io, packet->type);
		return;
	}
	if (result == -EMSGSIZE || packet->payload_size < VSTOR_PACKET_SIZE_LEGACY) {
		memset(&request->packet, 0, sizeof(request->packet));
		request->reply_size = sizeof(request->packet);
		request_answer_srb(request, SRB_STATUS_INVALID_REQUEST);
		return;
	}
	/* The answer has the size of the request: guests check it against what they negotiated. */
	request->reply_size = (uint32_t)packet->payload_size;
	memset((uint8_t *)&request->packet + packet->payload_size, 0,
	       sizeof(request->packet) - packet->payload_size);
	if (result == -EFAULT)
		request_answer_srb(request, SRB_STATUS_INVALID_REQUEST);
	else
		handle_packet(request, packet);
}

/* Take packets until the ring is empty or there is a reason to wait. True: call again at once. */
static bool take_packets(struct io *io)
{
	for (unsigned n = 0; n < IO_BATCH; n++) {
		struct channel_packet packet;
		struct request *request;
		int r;

		if (io->broken || io->waiting || io->reset || !io->free)
			return false;
		request = request_take(io);
		packet = (struct channel_packet){
		    .payload = (uint8_t *)&request->packet,
		    .payload_capacity = sizeof(request->packet),
		    .iov = request->iov,
		    .iov_capacity = IO_IOVECS,
		};
		r = channel_receive(io->channel, &packet);
		if (r == 1 || r == -EMSGSIZE || r == -EFAULT) {
			take_packet(io, request, &packet, r);
			continue;
		}
		io->broken = r < 0;
		request_free(request);
		return false;
	}
	return true;
}

static void announce_change(struct io *io)
{
	struct vstor_packet packet = {.operation = VSTOR_ENUMERATE_BUS};
	unsigned version = atomic_load(&io->storage->version);
	size_t size = version >= VSTOR_VERSION_WIN8 ? sizeof(packet) : VSTOR_PACKET_SIZE_LEGACY;

	if (io->broken || io->waiting || !atomic_load(&io->storage->ready) ||
	    !atomic_exchange(&io->announce, false))
		return;
	if (channel_send(io->channel, 0, &packet, size, false) == -EAGAIN)
		atomic_store(&io->announce, true);
}

/* --- the thread ------------------------------------------------------------------------------- */

static void drain_event(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

static void wait_for_work(struct io *io, bool more)
{
	struct pollfd fds[3] = {
	    {.fd = disk_queue_fd(io->queue), .events = POLLIN},
	    {.fd = io->wake, .events = POLLIN},
	    {.fd = io->broken ? -1 : channel_event_fd(io->channel), .events = POLLIN},
	};

	if (poll(fds, ARRAY_SIZE(fds), more ? 0 : -1) <= 0)
		return;
	if (fds[1].revents)
		drain_event(io->wake);
	if (fds[2].revents)
		drain_event(fds[2].fd);
}

/* What the disks have begun comes to its end. */
static void drain_disks(struct io *io)
{
	while (disk_queue_in_flight(io->queue) > 0) {
		struct pollfd fd = {.fd = disk_queue_fd(io->queue), .events = POLLIN};

		disk_queue_kick(io->queue);
		poll(&fd, 1, -1);
		disk_queue_process(io->queue);
	}
}

static void rest_while_paused(struct io *io)
{
	struct storage *storage = io->storage;

	channel_hold_signal(io->channel);
	drain_disks(io);
	finish_reset(io);
	channel_release_signal(io->channel);
	pthread_mutex_lock(&storage->lock);
	io->resting = true;
	pthread_cond_broadcast(&storage->idle);
	while (atomic_load(&storage->paused) && !atomic_load(&io->stop))
		pthread_cond_wait(&storage->idle, &storage->lock);
	io->resting = false;
	pthread_mutex_unlock(&storage->lock);
}

static void *io_main(void *arg)
{
	struct io *io = arg;
	bool more = true; /* there may be packets from before we listened */
	char name[16];

	snprintf(name, sizeof(name), "%.9s/%u", io->storage->name, io->endpoint->index % 1000);
	thread_begin(THREAD_DISK, name);
	while (!atomic_load(&io->stop)) {
		if (atomic_load(&io->storage->paused)) {
			rest_while_paused(io);
			more = true;
			continue;
		}
		wait_for_work(io, more);
		channel_hold_signal(io->channel);
		disk_queue_process(io->queue);
		send_waiting(io);
		finish_reset(io);
		announce_change(io);
		more = take_packets(io);
		more |= finish_reset(io);
		disk_queue_kick(io->queue);
		channel_release_signal(io->channel);
		count_add(&io->count.batches, 1);
	}
	drain_disks(io);
	return NULL;
}

void io_wake(struct io *io)
{
	uint64_t one = 1;

	if (write(io->wake, &one, sizeof(one)) < 0)
		log_write(LOG_LEVEL_ERROR, "%s: cannot wake the I/O thread: %m", io->storage->name);
}

void io_announce(struct io *io)
{
	atomic_store(&io->announce, true);
	io_wake(io);
}

static void io_free(struct io *io)
{
	if (io->queue)
		disk_queue_destroy(io->queue);
	if (io->wake >= 0)
		close(io->wake);
	free(io->iovecs);
	free(io->pool);
	free(io);
}

static int io_allocate(struct io *io, struct error *err)
{
	io->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (io->wake < 0)
		return error_set(err, errno, "cannot make an eventfd for a storage channel: %m");
	io->pool = calloc(IO_REQUESTS, sizeof(*io->pool));
	io->iovecs = calloc((size_t)IO_REQUESTS * IO_IOVECS, sizeof(*io->iovecs));
	if (!io->pool || !io->iovecs)
		return error_set(err, ENOMEM, "no memory for a storage channel");
	for (unsigned i = 0; i < IO_REQUESTS; i++) {
		io->pool[i].io = io;
		io->pool[i].iov = io->iovecs + (size_t)i * IO_IOVECS;
		io->pool[i].next = io->free;
		io->free = &io->pool[i];
	}
	return disk_queue_create_with(&io->queue, IO_REQUESTS, io->storage->rings, err);
}

/* --- saved state ------------------------------------------------------------------------------ */

bool io_rests(const struct io *io)
{
	return io->resting;
}

static void save_answer(struct restored *out, const struct request *request, bool is_reset)
{
	struct answer *answer = &out->answers[out->count++];

	*answer = (struct answer){.transaction_id = request->transaction_id,
				  .reply_size = request->reply_size,
				  .is_reset = is_reset,
				  .wants_completion = request->wants_completion};
	memcpy(answer->packet, &request->packet, sizeof(answer->packet));
}

void io_save(const struct io *io, struct restored *out)
{
	out->announce = atomic_load(&io->announce);
	out->count = 0;
	for (const struct request *request = io->waiting; request; request = request->next)
		save_answer(out, request, false);
	if (io->reset)
		save_answer(out, io->reset, true);
}

static void restore(struct io *io, const struct restored *from)
{
	atomic_store(&io->announce, from->announce);
	for (uint32_t i = 0; i < from->count; i++) {
		const struct answer *answer = &from->answers[i];
		struct request *request = request_take(io);

		request->transaction_id = answer->transaction_id;
		request->reply_size = answer->reply_size;
		request->wants_completion = answer->wants_completion;
		request->iov_count = 0;
		request->next = NULL;
		memcpy(&request->packet, answer->packet, sizeof(answer->packet));
		if (answer->is_reset) {
			io->reset = request;
			continue;
		}
		*io->waiting_end = request;
		io->waiting_end = &request->next;
	}
}

/* --- life ------------------------------------------------------------------------------------- */

int io_start(struct io **out, struct endpoint *endpoint, struct channel *channel, struct error *err)
{
	struct io *io = calloc(1, sizeof(*io));
	int r;

	if (!io)
		return error_set(err, ENOMEM, "no memory for a storage channel");
	io->storage = endpoint->storage;
	io->endpoint = endpoint;
	io->channel = channel;
	io->waiting_end = &io->waiting;
	io->wake = -1;
	r = io_allocate(io, err);
	if (r == 0 && endpoint->restored)
		restore(io, endpoint->restored);
	if (r == 0) {
		r = -pthread_create(&io->thread, NULL, io_main, io);
		if (r < 0)
			error_set(err, -r, "cannot start the thread of a storage channel: %s", strerror(-r));
	}
	if (r < 0) {
		io_free(io);
		return r;
	}
	*out = io;
	return 0;
}

void io_stop(struct io *io)
{
	pthread_mutex_lock(&io->storage->lock);
	atomic_store(&io->stop, true);
	pthread_cond_broadcast(&io->storage->idle); /* it may rest */
	pthread_mutex_unlock(&io->storage->lock);
	io_wake(io);
	pthread_join(io->thread, NULL);
	pthread_mutex_lock(&io->storage->lock);
	if (io->storage->kept)
		io_add_counters(io, io->storage->kept);
	pthread_mutex_unlock(&io->storage->lock);
	io_free(io);
}

static uint64_t count_of(const atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void io_add_counters(const struct io *io, struct storage_counters *to)
{
	to->operations += count_of(&io->count.operations);
	to->normalized += count_of(&io->count.normalized);
	to->read_bytes += count_of(&io->count.data_read);
	to->written_bytes += count_of(&io->count.data_written);
	to->latency_ns += count_of(&io->count.latency_ns);
}

void io_inspect(struct io *io, const struct vmbus_inspector *inspector, void *context)
{
	const struct {
		const char *name;
		atomic_ulong *counter;
	} counters[] = {
	    {"requests", &io->count.requests},
	    {"read_bytes", &io->count.read_bytes},
	    {"written_bytes", &io->count.written_bytes},
	    {"errors", &io->count.errors},
	    {"batches", &io->count.batches},
	    {"ring_full", &io->count.ring_full},
	};
	char name[32];

	snprintf(name, sizeof(name), "channel %u", io->endpoint->index);
	inspector->begin(context, name);
	for (unsigned i = 0; i < ARRAY_SIZE(counters); i++)
		inspector->number(context, counters[i].name,
				  atomic_load_explicit(counters[i].counter, memory_order_relaxed));
	inspector->end(context);
}
