// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile guest at the SCSI controller. The first byte of an input chooses: commands straight at a
 * unit, or packets on the channel. After packets the guest closes the channel, opens it again and must
 * find a controller that works: a hang or a refusal is a finding, too.
 */
#include <errno.h>
#include <string.h>

#include "tests/double/guest.h"
#include "tests/double/memory_disk.h"
#include "vsp/storage/protocol.h"
#include "vsp/storage/scsi.h"
#include "vsp/storage/storage.h"

#define DISK_SIZE    (1u << 20)
#define BUFFER_PAGES 4u
#define LIVES        256u /* inputs that one machine serves: the double's memory is not given back */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t left;
};

static size_t take(struct input *in, void *to, size_t size)
{
	size_t n = size < in->left ? size : in->left;

	memset(to, 0, size);
	if (n > 0)
		memcpy(to, in->data, n);
	in->data += n;
	in->left -= n;
	return n;
}

static unsigned take_number(struct input *in, unsigned below)
{
	uint8_t bytes[2];

	take(in, bytes, sizeof(bytes));
	return le16_get(bytes) % below;
}

static void must(bool condition)
{
	if (!condition)
		abort();
}

/* --- commands at a unit ------------------------------------------------------------------------- */

static void command_done(struct scsi_command *command)
{
	*(bool *)command->context = true;
}

static void fuzz_unit(struct input *in, bool dvd)
{
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct scsi_device *device;
	struct disk_queue *queue;

	if (dvd)
		must(scsi_dvd_create(&device, disk, NULL) == 0);
	else
		must(scsi_disk_create(&device, disk, NULL) == 0);
	must(disk_queue_create(&queue, 4, NULL) == 0);
	while (in->left > 0) {
		struct scsi_command command = {.queue = queue, .complete = command_done};
		uint32_t length, first;
		struct iovec iov[2];
		uint8_t *buffer;
		bool done = false;

		take(in, command.cdb, sizeof(command.cdb));
		length = take_number(in, 8193);
		buffer = malloc(length ? length : 1);
		take(in, buffer, length < 64 ? length : 64);
		memset(buffer + (length < 64 ? length : 64), 0, length < 64 ? 0 : length - 64);
		first = length / 3;
		iov[0] = (struct iovec){buffer, first};
		iov[1] = (struct iovec){buffer + first, length - first};
		command.iov = iov;
		command.iov_count = 2;
		command.length = length;
		command.context = &done;
		scsi_execute(device, &command);
		while (!done) {
			disk_queue_kick(queue);
			must(disk_queue_process(queue) > 0);
		}
		must(command.transferred <= length);
		free(buffer);
		/* The host changes the medium, or takes it out. */
		if (dvd && (command.cdb[15] & 3) == 3)
			scsi_dvd_set_medium(device, command.cdb[15] & 4 ? NULL : disk);
	}
	disk_queue_destroy(queue);
	scsi_device_destroy(device);
	memory_disk_destroy(disk);
}

/* --- packets on the channel --------------------------------------------------------------------- */

static struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct storage *storage;
	struct disk *disk, *second;
	struct guest_channel *channel;
	uint8_t *buffer;
	bool attached;
	unsigned inputs;
} machine;

static void drain(struct machine *m)
{
	struct vmbus_packet_header header;
	uint8_t buffer[256];

	while (guest_try_receive(m->channel, &header, buffer, sizeof(buffer)) != -EAGAIN)
		;
}

/* Send and wait for the answer; others may come first. */
static struct vstor_packet exchange(struct machine *m, struct vstor_packet packet)
{
	struct vmbus_packet_header header;
	int n;

	packet.flags = VSTOR_FLAG_COMPLETION_REQUESTED;
	must(guest_send(m->channel, VMBUS_PACKET_IN_BAND, 1, 4711, &packet, sizeof(packet)) == 0);
	do {
		n = guest_receive(m->channel, &header, &packet, sizeof(packet));
		must(n >= 0);
	} while (header.transaction_id != 4711);
	return packet;
}

static void connect_channel(struct machine *m)
{
	static const struct guid class = STORAGE_SCSI_CLASS;
	const struct vmbus_message_offer *offer = guest_find_offer(m->guest, &class, 0);
	struct vstor_packet packet = {.operation = VSTOR_BEGIN_INITIALIZATION};

	must(offer && guest_open(m->guest, offer, 3, 3, NULL, &m->channel) == 0);
	must(exchange(m, packet).status == 0);
	packet = (struct vstor_packet){.operation = VSTOR_QUERY_PROTOCOL_VERSION,
				       .version.major_minor = VSTOR_VERSION_WIN10};
	must(exchange(m, packet).status == 0);
	packet = (struct vstor_packet){.operation = VSTOR_END_INITIALIZATION};
	must(exchange(m, packet).status == 0);
	packet = (struct vstor_packet){.operation = VSTOR_EXECUTE_SRB, .srb.cdb_length = 6};
	must(exchange(m, packet).srb.srb_status == SRB_STATUS_SUCCESS);
}

static void machine_create(struct machine *m)
{
	struct storage_config config = {.name = "scsi0", .max_sub_channels = 1};

	log_set_level(LOG_LEVEL_ERROR);
	m->guest = guest_create_vps(64, 2);
	must(m->guest && vmbus_create(&m->bus, guest_partition(m->guest), NULL) == 0);
	guid_random(&config.instance);
	must(storage_create(&m->storage, m->bus, &config, NULL) == 0);
	m->disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	m->second = memory_disk_create(DISK_SIZE, DISK_SIZE);
	must(storage_attach(m->storage, 0, 0, STORAGE_UNIT_DISK, m->disk, NULL) == 0);
	must(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3) == 0);
	must(guest_request_offers(m->guest) == 0);
	m->buffer = guest_alloc(m->guest, BUFFER_PAGES, NULL);
	m->attached = false;
	m->inputs = 0;
	connect_channel(m);
}

static void machine_destroy(struct machine *m)
{
	storage_destroy(m->storage);
	guest_channel_free(m->channel);
	vmbus_destroy(m->bus);
	guest_destroy(m->guest);
	memory_disk_destroy(m->disk);
	memory_disk_destroy(m->second);
	m->guest = NULL;
}

static void send_srb(struct machine *m, struct input *in)
{
	struct vstor_packet packet = {.operation = VSTOR_EXECUTE_SRB};
	uint32_t size = take_number(in, BUFFER_PAGES * 4096 + 1);

	take(in, &packet.srb, sizeof(packet.srb));
	packet.srb.lun &= 1;
	packet.srb.target_id &= 1;
	if (size == 0)
		guest_send(m->channel, VMBUS_PACKET_IN_BAND, 1, 1, &packet, sizeof(packet));
	else
		guest_send_buffer(m->channel, 1, m->buffer + BUFFER_PAGES * 4096 - size, size, &packet,
				  sizeof(packet));
}

static void send_ranges(struct machine *m, struct input *in)
{
	uint8_t ranges[64], payload[64];
	size_t ranges_size = take_number(in, sizeof(ranges) + 1);
	unsigned count = take_number(in, 8);

	take(in, ranges, ranges_size);
	take(in, payload, sizeof(payload));
	payload[0] = VSTOR_EXECUTE_SRB;
	guest_send_gpa_direct(m->channel, 1, 2, ranges, ranges_size, count, payload, sizeof(payload));
}

static void send_bytes(struct machine *m, struct input *in, bool raw)
{
	uint8_t bytes[128];
	size_t size = take_number(in, sizeof(bytes) / 8 + 1) * 8;
	unsigned type = take_number(in, 16), flags = take_number(in, 4);

	take(in, bytes, size);
	if (raw && size >= sizeof(struct vmbus_packet_header))
		guest_send_raw(m->channel, bytes, size);
	else
		guest_send(m->channel, (uint16_t)type, (uint16_t)flags, 3, bytes, size);
}

static void send_control(struct machine *m, struct input *in)
{
	struct vstor_packet packet = {.operation = take_number(in, 16)};

	take(in, &packet.version, sizeof(packet.version));
	guest_send(m->channel, VMBUS_PACKET_IN_BAND, 1, 4, &packet, sizeof(packet));
}

static void plug(struct machine *m)
{
	if (m->attached)
		must(storage_detach(m->storage, 0, 1, NULL) == 0);
	else
		must(storage_attach(m->storage, 0, 1, STORAGE_UNIT_DVD, m->second, NULL) == 0);
	m->attached = !m->attached;
}

/* False: the ring is wrecked, and the double cannot use it any more. */
static bool step(struct machine *m, struct input *in)
{
	uint8_t index[4];

	switch (take_number(in, 9)) {
	case 0:
	case 1:
		send_srb(m, in);
		break;
	case 2:
		send_ranges(m, in);
		break;
	case 3:
		send_bytes(m, in, false);
		break;
	case 4:
		send_bytes(m, in, true);
		break;
	case 5:
		send_control(m, in);
		break;
	case 6:
		drain(m);
		break;
	case 7:
		plug(m);
		break;
	default:
		take(in, index, sizeof(index));
		__atomic_store_n(&guest_in_ring(m->channel)->write_index, le32_get(index), __ATOMIC_RELEASE);
		guest_signal(m->channel);
		return false;
	}
	return true;
}

static void fuzz_channel(struct input *in)
{
	struct machine *m = &machine;

	if (m->guest && m->inputs == LIVES)
		machine_destroy(m);
	if (!m->guest)
		machine_create(m);
	m->inputs++;
	while (in->left > 0 && step(m, in))
		;
	must(guest_close(m->channel) == 0);
	connect_channel(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t mode;

	take(&in, &mode, 1);
	if (mode & 1)
		fuzz_channel(&in);
	else
		fuzz_unit(&in, mode & 2);
	return 0;
}
