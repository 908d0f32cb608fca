// SPDX-License-Identifier: GPL-2.0-or-later
/* The synthetic SCSI controller, driven over VMBus by the guest double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "tests/double/guest.h"
#include "tests/double/memory_disk.h"
#include "vsp/storage/protocol.h"
#include "vsp/storage/storage.h"

#define DISK_SIZE  (16u << 20)
#define RING_PAGES 9u
#define VPS        4u

static const struct guid scsi_class = STORAGE_SCSI_CLASS;

struct fixture {
	struct guest *guest;
	struct vmbus *bus;
	struct storage *storage;
	struct disk *disk;
	struct guest_channel *channel;
	uint16_t version;
	uint8_t *buffer; /* 1 MiB of contiguous guest memory */
	uint64_t next_id;
	struct storage_counters kept;
};

#define BUFFER_PAGES 256u

/* --- speaking as storvsc ------------------------------------------------------------------------ */

static size_t packet_size(const struct fixture *f)
{
	return f->version >= VSTOR_VERSION_WIN8 ? sizeof(struct vstor_packet) : VSTOR_PACKET_SIZE_LEGACY;
}

/* The completion of `id`; what else comes first would be an error. */
static void receive(struct fixture *f, struct guest_channel *channel, uint64_t id, struct vstor_packet *reply)
{
	struct vmbus_packet_header header;
	int n;

	memset(reply, 0xee, sizeof(*reply));
	n = guest_receive(channel, &header, reply, sizeof(*reply));
	assert_int_equal(n, packet_size(f));
	assert_int_equal(header.type, VMBUS_PACKET_COMPLETION);
	assert_int_equal(header.transaction_id, id);
	assert_int_equal(reply->operation, VSTOR_COMPLETE_IO);
}

static uint32_t control(struct fixture *f, struct guest_channel *channel, struct vstor_packet *packet)
{
	uint64_t id = f->next_id++;

	packet->flags = VSTOR_FLAG_COMPLETION_REQUESTED;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, id,
				    packet, packet_size(f)),
			 0);
	receive(f, channel, id, packet);
	return packet->status;
}

static uint32_t control_op(struct fixture *f, uint32_t operation)
{
	struct vstor_packet packet = {.operation = operation};

	return control(f, f->channel, &packet);
}

static uint32_t query_version(struct fixture *f, uint16_t version)
{
	struct vstor_packet packet = {.operation = VSTOR_QUERY_PROTOCOL_VERSION,
				      .version.major_minor = version};

	return control(f, f->channel, &packet);
}

static void negotiate(struct fixture *f, uint16_t version)
{
	struct vstor_packet packet = {.operation = VSTOR_QUERY_PROPERTIES};

	f->version = version;
	assert_int_equal(control_op(f, VSTOR_BEGIN_INITIALIZATION), 0);
	assert_int_equal(query_version(f, version), 0);
	assert_int_equal(control(f, f->channel, &packet), 0);
	assert_int_equal(packet.properties.max_transfer_bytes, 2u << 20);
	if (version >= VSTOR_VERSION_WIN8) {
		assert_int_equal(packet.properties.flags, VSTOR_PROPERTY_MULTI_CHANNEL);
		assert_int_equal(packet.properties.max_channel_count, VPS - 1);
	} else {
		assert_int_equal(packet.properties.flags, 0);
		assert_int_equal(packet.properties.max_channel_count, 0);
	}
	assert_int_equal(control_op(f, VSTOR_END_INITIALIZATION), 0);
}

static struct vstor_packet srb_packet(unsigned target, unsigned lun, const uint8_t *cdb, size_t cdb_size,
				      uint32_t size)
{
	struct vstor_packet packet = {
	    .operation = VSTOR_EXECUTE_SRB,
	    .flags = VSTOR_FLAG_COMPLETION_REQUESTED,
	    .srb =
		{
		    .length = sizeof(struct vmscsi_request),
		    .target_id = (uint8_t)target,
		    .lun = (uint8_t)lun,
		    .cdb_length = (uint8_t)cdb_size,
		    .sense_info_length = VSTOR_SENSE_SIZE,
		    .data_transfer_length = size,
		},
	};

	memcpy(packet.srb.cdb, cdb, cdb_size);
	return packet;
}

static void send_srb(struct fixture *f, struct guest_channel *channel, uint64_t id,
		     const struct vstor_packet *packet, void *buffer, uint32_t size)
{
	int r;

	if (size > 0)
		r = guest_send_buffer(channel, id, buffer, size, packet, packet_size(f));
	else
		r = guest_send(channel, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, id,
			       packet, packet_size(f));
	assert_int_equal(r, 0);
}

/* One command over f->buffer; returns srb_status << 8 | scsi_status. */
static unsigned execute(struct fixture *f, struct guest_channel *channel, unsigned target, unsigned lun,
			const uint8_t *cdb, size_t cdb_size, uint32_t size, struct vstor_packet *reply)
{
	struct vstor_packet packet = srb_packet(target, lun, cdb, cdb_size, size);
	uint64_t id = f->next_id++;

	send_srb(f, channel, id, &packet, f->buffer, size);
	receive(f, channel, id, reply);
	return (unsigned)reply->srb.srb_status << 8 | reply->srb.scsi_status;
}

#define CDB(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define GOOD     (SRB_STATUS_SUCCESS << 8)

static size_t io_cdb(uint8_t cdb[16], uint8_t op, uint64_t lba, uint32_t count)
{
	memset(cdb, 0, 16);
	cdb[0] = op;
	be64_put(cdb + 2, lba);
	be32_put(cdb + 10, count);
	return 16;
}

/* --- fixture ------------------------------------------------------------------------------------ */

static void open_primary(struct fixture *f)
{
	const struct vmbus_message_offer *offer = guest_find_offer(f->guest, &scsi_class, 0);

	assert_non_null(offer);
	assert_int_equal(guest_open(f->guest, offer, RING_PAGES, RING_PAGES, NULL, &f->channel), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct storage_config config = {.name = "scsi0", .max_sub_channels = 64, .kept = &f->kept};

	f->version = VSTOR_VERSION_WIN10;
	f->next_id = 1000;
	f->guest = guest_create_vps(16, VPS);
	assert_non_null(f->guest);
	assert_int_equal(vmbus_create(&f->bus, guest_partition(f->guest), NULL), 0);
	guid_random(&config.instance);
	assert_int_equal(storage_create(&f->storage, f->bus, &config, NULL), 0);
	f->disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	for (unsigned i = 0; i < DISK_SIZE; i++)
		f->disk->data[i] = (uint8_t)(i / 512 + i);
	assert_int_equal(storage_attach(f->storage, 0, 0, STORAGE_UNIT_DISK, f->disk, NULL), 0);
	assert_int_equal(guest_connect(f->guest, VMBUS_VERSION_WIN10_V5_3), 0);
	assert_int_equal(guest_request_offers(f->guest), 0);
	f->buffer = guest_alloc(f->guest, BUFFER_PAGES, NULL);
	open_primary(f);
	*state = f;
	return 0;
}

static int setup_ready(void **state)
{
	setup(state);
	negotiate(*state, VSTOR_VERSION_WIN10);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	storage_destroy(f->storage);
	if (f->channel)
		guest_channel_free(f->channel);
	vmbus_destroy(f->bus);
	guest_destroy(f->guest);
	memory_disk_destroy(f->disk);
	free(f);
	return 0;
}

/* --- negotiation -------------------------------------------------------------------------------- */

static void test_versions(void **state)
{
	static const uint16_t versions[] = {VSTOR_VERSION_WIN6, VSTOR_VERSION_WIN7, VSTOR_VERSION_WIN8,
					    VSTOR_VERSION_WIN8_1, VSTOR_VERSION_WIN10};
	struct fixture *f = *state;
	struct vstor_packet reply;

	for (unsigned i = 0; i < ARRAY_SIZE(versions); i++) {
		negotiate(f, versions[i]);
		assert_int_equal(execute(f, f->channel, 0, 0, CDB(0x12, 0, 0, 0, 96), 96, &reply), GOOD);
		assert_int_equal(reply.status, 0);
		assert_int_equal(reply.srb.data_transfer_length, 96);
		assert_memory_equal(f->buffer + 8, "Msft    ", 8);
		/* Sense data fits the older packet, too. */
		assert_int_equal(
		    execute(f, f->channel, 0, 0, CDB(0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0), 8, &reply),
		    (SRB_STATUS_ERROR | SRB_STATUS_AUTOSENSE_VALID) << 8 | 2);
		assert_int_not_equal(reply.status, 0);
		assert_int_equal(reply.srb.sense_info_length, 18);
		assert_int_equal(reply.srb.sense_data[2], 5);
		assert_int_equal(reply.srb.sense_data[12], 0x20);
		assert_int_equal(reply.srb.data_transfer_length, 0);
	}
}

static void test_order(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet reply, sub = {.operation = VSTOR_CREATE_SUB_CHANNELS, .sub_channel_count = 1};

	/* Nothing before a version was agreed on; commands only when initialisation ended. */
	assert_int_not_equal(control_op(f, VSTOR_QUERY_PROPERTIES), 0);
	assert_int_not_equal(control_op(f, VSTOR_END_INITIALIZATION), 0);
	assert_int_not_equal(control(f, f->channel, &sub), 0);
	assert_int_equal(execute(f, f->channel, 0, 0, CDB(0, 0, 0, 0, 0, 0), 0, &reply),
			 SRB_STATUS_INVALID_REQUEST << 8);
	assert_int_equal(control_op(f, VSTOR_BEGIN_INITIALIZATION), 0);
	assert_int_not_equal(query_version(f, VSTOR_VERSION(7, 0)), 0);
	assert_int_not_equal(query_version(f, 0), 0);
	assert_int_equal(query_version(f, VSTOR_VERSION_WIN10), 0);
	assert_int_not_equal(control_op(f, VSTOR_FCHBA_DATA), 0);
	assert_int_not_equal(control_op(f, 0), 0);
	assert_int_not_equal(control_op(f, 0xffffffff), 0);
	assert_int_equal(control_op(f, VSTOR_END_INITIALIZATION), 0);
	assert_int_equal(execute(f, f->channel, 0, 0, CDB(0, 0, 0, 0, 0, 0), 0, &reply), GOOD);
}

/* --- data --------------------------------------------------------------------------------------- */

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet reply;
	uint8_t cdb[16];

	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x88, 300, 16), 8192, &reply), GOOD);
	assert_int_equal(reply.srb.data_transfer_length, 8192);
	assert_memory_equal(f->buffer, f->disk->data + 300 * 512, 8192);
	memset(f->buffer, 0x3c, 8192);
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x8a, 400, 16), 8192, &reply), GOOD);
	assert_int_equal(reply.srb.data_transfer_length, 8192);
	assert_memory_equal(f->disk->data + 400 * 512, f->buffer, 8192);
	/* A buffer longer than the data: the difference is told, the rest not touched. */
	f->buffer[512] = 0x99;
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x88, 1, 1), 4096, &reply), GOOD);
	assert_int_equal(reply.srb.data_transfer_length, 512);
	assert_int_equal(f->buffer[512], 0x99);
	/* The disk's trouble comes back as sense. */
	f->disk->fail = EIO;
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x88, 1, 1), 512, &reply),
			 (SRB_STATUS_ERROR | SRB_STATUS_AUTOSENSE_VALID) << 8 | 2);
	assert_int_equal(reply.srb.sense_data[2], 3);
	assert_int_equal(reply.srb.sense_data[12], 0x11);
}

/* Reads and writes of data, by 8 KiB that each has begun; what a channel has counted stays when it is closed, and the controller gone. */
static void test_counters(void **state)
{
	struct fixture *f = *state;
	struct storage_counters c;
	struct vstor_packet reply;
	uint8_t cdb[16] = {0};

	execute(f, f->channel, 0, 0, cdb, 6, 0, &reply);
	storage_get_counters(f->storage, &c);
	assert_int_equal(c.operations, 0);
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x88, 300, 16), 8192, &reply), GOOD);
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x88, 300, 17), 8704, &reply), GOOD);
	assert_int_equal(execute(f, f->channel, 0, 0, cdb, io_cdb(cdb, 0x8a, 400, 1), 512, &reply), GOOD);
	storage_get_counters(f->storage, &c);
	assert_int_equal(c.operations, 3);
	assert_int_equal(c.normalized, 4);
	assert_int_equal(c.read_bytes, 8192 + 8704);
	assert_int_equal(c.written_bytes, 512);
	assert_in_range(c.latency_ns, 1, 60000000000);
	assert_int_equal(f->kept.operations, 0);
	assert_int_equal(guest_close(f->channel), 0);
	f->channel = NULL;
	storage_destroy(f->storage);
	f->storage = NULL;
	assert_memory_equal(&f->kept, &c, sizeof(c));
}

/* Pages in any order, the first byte in the middle of one, up to the largest transfer. */
static void test_scattered(void **state)
{
	struct fixture *f = *state;
	uint32_t size = 2u << 20, offset = 1536, pages = size / 4096 + 1;
	uint8_t *ranges = malloc(8 + 8 * pages), cdb[16];
	uint8_t *memory = guest_alloc(f->guest, pages, NULL), *expected = malloc(pages * 4096);
	struct vstor_packet packet, reply;

	le32_put(ranges, size);
	le32_put(ranges + 4, offset);
	for (unsigned i = 0; i < pages; i++)
		le64_put(ranges + 8 + 8 * i, guest_gpa(f->guest, memory + 4096 * (pages - 1 - i)) >> 12);
	packet = srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, 77, size / 512), size);
	memset(memory, 0x44, pages * 4096);
	assert_int_equal(
	    guest_send_gpa_direct(f->channel, 1, 5, ranges, 8 + 8 * pages, 1, &packet, sizeof(packet)), 0);
	receive(f, f->channel, 5, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_SUCCESS);
	assert_int_equal(reply.srb.data_transfer_length, size);
	memset(expected, 0x44, pages * 4096);
	memcpy(expected + offset, f->disk->data + 77 * 512, size);
	for (unsigned i = 0; i < pages; i++)
		assert_memory_equal(memory + 4096 * (pages - 1 - i), expected + 4096 * i, 4096);

	/* One block more than the largest. */
	le32_put(ranges, size + 512);
	packet = srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, 77, size / 512 + 1), size + 512);
	assert_int_equal(
	    guest_send_gpa_direct(f->channel, 1, 6, ranges, 8 + 8 * pages, 1, &packet, sizeof(packet)), 0);
	receive(f, f->channel, 6, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	free(ranges);
	free(expected);
}

/* Many at once: each answer belongs to its request, whatever the order. */
static void test_queue_depth(void **state)
{
	enum { DEPTH = 64 };
	struct fixture *f = *state;
	bool seen[DEPTH] = {false};
	uint8_t cdb[16];

	for (unsigned round = 0; round < 20; round++) {
		memset(seen, 0, sizeof(seen));
		memset(f->buffer, 0, DEPTH * 4096);
		for (unsigned i = 0; i < DEPTH; i++) {
			struct vstor_packet packet =
			    srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, (i * 37 + round) * 8, 8), 4096);

			send_srb(f, f->channel, 5000 + i, &packet, f->buffer + i * 4096, 4096);
		}
		for (unsigned i = 0; i < DEPTH; i++) {
			struct vmbus_packet_header header;
			struct vstor_packet reply;

			assert_int_equal(guest_receive(f->channel, &header, &reply, sizeof(reply)),
					 sizeof(reply));
			assert_in_range(header.transaction_id, 5000, 5000 + DEPTH - 1);
			assert_false(seen[header.transaction_id - 5000]);
			seen[header.transaction_id - 5000] = true;
			assert_int_equal(reply.srb.srb_status, SRB_STATUS_SUCCESS);
		}
		for (unsigned i = 0; i < DEPTH; i++)
			assert_memory_equal(f->buffer + i * 4096, f->disk->data + (i * 37 + round) * 4096,
					    4096);
	}
}

/* A guest that does not read its answers for a while loses none, and stops nobody. */
static void test_full_ring(void **state)
{
	enum { COUNT = 300 };
	struct fixture *f = *state;
	const struct vmbus_message_offer *offer;
	unsigned sent = 0, received = 0;
	struct vstor_packet packet = srb_packet(0, 0, CDB(0, 0, 0, 0, 0, 0), 0);

	/* The ring to the guest holds 46 answers. */
	assert_int_equal(guest_close(f->channel), 0);
	offer = guest_find_offer(f->guest, &scsi_class, 0);
	assert_int_equal(guest_open(f->guest, offer, RING_PAGES, 2, NULL, &f->channel), 0);
	negotiate(f, VSTOR_VERSION_WIN10);
	while (received < COUNT) {
		struct vmbus_packet_header header;
		struct vstor_packet reply;

		while (sent < COUNT &&
		       guest_send(f->channel, VMBUS_PACKET_IN_BAND, 1, sent, &packet, sizeof(packet)) == 0)
			sent++;
		assert_true(sent > received);
		assert_int_equal(guest_receive(f->channel, &header, &reply, sizeof(reply)), sizeof(reply));
		assert_int_equal(header.transaction_id, received); /* these are answered in order */
		assert_int_equal(reply.srb.srb_status, SRB_STATUS_SUCCESS);
		received++;
	}
}

/* --- units -------------------------------------------------------------------------------------- */

static void test_absent_units(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet reply;

	assert_int_equal(execute(f, f->channel, 0, 1, CDB(0, 0, 0, 0, 0, 0), 0, &reply),
			 SRB_STATUS_INVALID_LUN << 8);
	assert_int_equal(execute(f, f->channel, 1, 0, CDB(0, 0, 0, 0, 0, 0), 0, &reply),
			 SRB_STATUS_INVALID_LUN << 8);
	assert_int_equal(execute(f, f->channel, 255, 255, CDB(0, 0, 0, 0, 0, 0), 0, &reply),
			 SRB_STATUS_INVALID_LUN << 8);
	assert_int_equal(execute(f, f->channel, 1, 0, CDB(0x12, 0, 0, 0, 36), 36, &reply), GOOD);
	assert_int_equal(f->buffer[0], 0x7f);
	assert_int_equal(execute(f, f->channel, 1, 0, CDB(0x12, 1, 0x83, 0, 36), 36, &reply),
			 SRB_STATUS_INVALID_LUN << 8);
	assert_int_equal(
	    execute(f, f->channel, 0, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), 64, &reply), GOOD);
	assert_int_equal(be32_get(f->buffer), 8);
	assert_int_equal(
	    execute(f, f->channel, 1, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), 64, &reply), GOOD);
	assert_int_equal(be32_get(f->buffer), 0);
}

static void expect_announcement(struct fixture *f)
{
	struct vmbus_packet_header header;
	struct vstor_packet packet;

	assert_int_equal(guest_receive(f->channel, &header, &packet, sizeof(packet)), sizeof(packet));
	assert_int_equal(header.type, VMBUS_PACKET_IN_BAND);
	assert_int_equal(header.transaction_id, 0);
	assert_int_equal(header.flags, 0);
	assert_int_equal(packet.operation, VSTOR_ENUMERATE_BUS);
}

static void test_hot_plug(void **state)
{
	struct fixture *f = *state;
	struct disk *second = memory_disk_create(1 << 20, 1 << 20);
	struct vstor_packet reply;
	struct error err;

	assert_int_equal(storage_attach(f->storage, 0, 5, STORAGE_UNIT_DISK, second, NULL), 0);
	expect_announcement(f);
	assert_int_equal(
	    execute(f, f->channel, 0, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), 64, &reply), GOOD);
	assert_int_equal(be32_get(f->buffer), 16);
	assert_int_equal(f->buffer[17], 5);
	assert_int_equal(execute(f, f->channel, 0, 5, CDB(0, 0, 0, 0, 0, 0), 0, &reply), GOOD);
	assert_int_equal(storage_detach(f->storage, 0, 5, NULL), 0);
	memory_disk_destroy(second);
	expect_announcement(f);
	assert_int_equal(execute(f, f->channel, 0, 5, CDB(0, 0, 0, 0, 0, 0), 0, &reply),
			 SRB_STATUS_INVALID_LUN << 8);

	assert_int_equal(storage_detach(f->storage, 0, 5, &err), -ENOENT);
	assert_int_equal(storage_attach(f->storage, 0, 0, STORAGE_UNIT_DISK, f->disk, &err), -EEXIST);
	assert_int_equal(storage_attach(f->storage, 2, 0, STORAGE_UNIT_DISK, f->disk, &err), -EINVAL);
	assert_int_equal(storage_attach(f->storage, 0, 64, STORAGE_UNIT_DISK, f->disk, &err), -EINVAL);
	assert_int_equal(storage_attach(f->storage, 0, 9, STORAGE_UNIT_DISK, NULL, &err), -EINVAL);
}

/* How a read of a medium ended that may be changed just then: with what the block of that medium is filled with, or told to try
 * again, of a new medium or that there is none. */
static void expect_read(const struct vstor_packet *reply, const uint8_t *block, uint8_t was, uint8_t is)
{
	uint32_t sense = (uint32_t)(reply->srb.sense_data[2] & 15) << 16 | reply->srb.sense_data[12] << 8 | reply->srb.sense_data[13];

	if (reply->srb.srb_status == SRB_STATUS_SUCCESS)
		assert_true((block[0] == was || block[0] == is) && !memcmp(block, block + 1, 2047));
	else if (reply->srb.scsi_status == 8)
		assert_int_equal(reply->srb.srb_status, SRB_STATUS_BUSY);
	else
		assert_true(sense == 0x062800 || sense == 0x023a00);
}

/* A medium that is taken out under load, and another: each request is answered, and then the first is free. */
static void test_medium_under_load(void **state)
{
	enum { DEPTH = 48 };
	struct fixture *f = *state;
	struct disk *disks[2];
	struct error err;
	bool locked;

	assert_int_equal(storage_attach(f->storage, 1, 7, STORAGE_UNIT_DVD, NULL, NULL), 0);
	expect_announcement(f);
	disks[0] = NULL;
	for (unsigned round = 0; round < 40; round++) {
		uint8_t cdb[12] = {0xa8, [9] = 1};
		unsigned answers = 0;

		disks[1] = round % 4 == 3 ? NULL : memory_disk_create(1 << 20, 1 << 20);
		if (disks[1])
			memset(disks[1]->data, (int)round + 1, 1 << 20);
		for (unsigned i = 0; i < DEPTH; i++) {
			struct vstor_packet packet;

			cdb[5] = (uint8_t)i;
			packet = srb_packet(1, 7, cdb, sizeof(cdb), 2048);
			send_srb(f, f->channel, 9000 + i, &packet, f->buffer + i * 2048, 2048);
		}
		assert_int_equal(storage_change_medium(f->storage, 1, 7, disks[1], false, NULL), 0);
		if (disks[0])
			memory_disk_destroy(disks[0]);
		while (answers < DEPTH) {
			struct vmbus_packet_header header;
			struct vstor_packet reply;

			assert_int_equal(guest_receive(f->channel, &header, &reply, sizeof(reply)), sizeof(reply));
			assert_int_equal(header.type, VMBUS_PACKET_COMPLETION);
			expect_read(&reply, f->buffer + (header.transaction_id - 9000) * 2048, (uint8_t)round, (uint8_t)(round + 1));
			answers++;
		}
		disks[0] = disks[1];
	}
	assert_int_equal(storage_change_medium(f->storage, 0, 0, NULL, true, &err), -ENOENT);
	assert_int_equal(storage_change_medium(f->storage, 0, 9, NULL, true, &err), -ENOENT);
	assert_int_equal(storage_change_medium(f->storage, 2, 0, NULL, true, &err), -EINVAL);
	assert_int_equal(storage_medium_is_locked(f->storage, 0, 0, true, &locked, &err), -ENOENT);
	assert_int_equal(storage_medium_is_locked(f->storage, 1, 7, true, &locked, &err), 0);
	assert_false(locked);
	assert_int_equal(storage_detach(f->storage, 1, 7, NULL), 0);
}

/* A guest that has locked the medium in keeps it, unless by force. */
static void test_medium_locked(void **state)
{
	struct fixture *f = *state;
	struct disk *disk = memory_disk_create(1 << 20, 1 << 20);
	struct vstor_packet reply;
	struct error err;
	bool locked;

	assert_int_equal(storage_attach(f->storage, 1, 7, STORAGE_UNIT_DVD, disk, NULL), 0);
	expect_announcement(f);
	assert_int_equal(execute(f, f->channel, 1, 7, CDB(0x1e, 0, 0, 0, 1, 0), 0, &reply), GOOD);
	assert_int_equal(storage_medium_is_locked(f->storage, 1, 7, true, &locked, &err), 0);
	assert_true(locked);
	assert_int_equal(execute(f, f->channel, 1, 7, CDB(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0), 8, &reply), GOOD);
	assert_int_equal(f->buffer[4], 1);
	assert_int_equal(storage_change_medium(f->storage, 1, 7, NULL, false, &err), -EBUSY);
	assert_int_equal(execute(f, f->channel, 1, 7, CDB(0, 0, 0, 0, 0, 0), 0, &reply), GOOD);
	assert_int_equal(storage_change_medium(f->storage, 1, 7, NULL, true, &err), 0);
	memory_disk_destroy(disk);
	assert_int_equal(execute(f, f->channel, 1, 7, CDB(0, 0, 0, 0, 0, 0), 0, &reply) & 0xff, 2);
	assert_int_equal(storage_detach(f->storage, 1, 7, NULL), 0);
}

/* A unit that goes away under load: each request is answered, done or refused, and then the disk is free. */
static void test_detach_under_load(void **state)
{
	enum { DEPTH = 48 };
	struct fixture *f = *state;
	uint8_t cdb[16];

	for (unsigned round = 0; round < 30; round++) {
		struct disk *disk = memory_disk_create(1 << 20, 1 << 20);
		unsigned answers = 0;

		assert_int_equal(storage_attach(f->storage, 1, 7, STORAGE_UNIT_DISK, disk, NULL), 0);
		for (unsigned i = 0; i < DEPTH; i++) {
			struct vstor_packet packet = srb_packet(1, 7, cdb, io_cdb(cdb, 0x88, i, 8), 4096);

			send_srb(f, f->channel, 9000 + i, &packet, f->buffer + i * 4096, 4096);
		}
		assert_int_equal(storage_detach(f->storage, 1, 7, NULL), 0);
		memory_disk_destroy(disk);
		while (answers < DEPTH) {
			struct vmbus_packet_header header;
			struct vstor_packet reply;

			assert_int_equal(guest_receive(f->channel, &header, &reply, sizeof(reply)),
					 sizeof(reply));
			if (header.type != VMBUS_PACKET_COMPLETION)
				continue;
			assert_true(reply.srb.srb_status == SRB_STATUS_SUCCESS ||
				    reply.srb.srb_status == SRB_STATUS_INVALID_LUN);
			answers++;
		}
	}
}

static void test_many_units(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet reply;
	struct error err;

	for (unsigned lun = 1; lun < 64; lun++)
		assert_int_equal(storage_attach(f->storage, 0, lun, STORAGE_UNIT_DVD, NULL, NULL), 0);
	assert_int_equal(storage_attach(f->storage, 1, 0, STORAGE_UNIT_DVD, NULL, &err), -ENOSPC);
	assert_int_equal(guest_close(f->channel), 0);
	open_primary(f);
	negotiate(f, VSTOR_VERSION_WIN10);
	assert_int_equal(
	    execute(f, f->channel, 0, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0), 1024, &reply), GOOD);
	assert_int_equal(be32_get(f->buffer), 64 * 8);
	assert_int_equal(execute(f, f->channel, 0, 63, CDB(0x12, 0, 0, 0, 36), 36, &reply), GOOD);
	assert_int_equal(f->buffer[0], 5);
}

/* --- sub-channels ------------------------------------------------------------------------------- */

static uint32_t create_sub_channels(struct fixture *f, unsigned count)
{
	struct vstor_packet packet = {.operation = VSTOR_CREATE_SUB_CHANNELS,
				      .sub_channel_count = (uint16_t)count};

	return control(f, f->channel, &packet);
}

static void test_sub_channels(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *sub[VPS];
	struct vstor_packet reply, begin = {.operation = VSTOR_BEGIN_INITIALIZATION};
	uint32_t relids[VPS] = {0};
	uint8_t cdb[16];

	assert_int_equal(create_sub_channels(f, VPS), VSTOR_STATUS_INVALID_PARAMETER);
	for (unsigned life = 0; life < 2; life++) {
		assert_int_equal(create_sub_channels(f, VPS - 1), 0);
		assert_int_equal(create_sub_channels(f, VPS - 1), 0); /* they are there already */
		sub[0] = f->channel;
		for (unsigned i = 1; i < VPS; i++) {
			const struct vmbus_message_offer *offer = guest_find_offer(f->guest, &scsi_class, i);
			struct guest_open_options options = {.target_vp = i};

			assert_non_null(offer);
			relids[i] = offer->relid;
			assert_int_equal(
			    guest_open(f->guest, offer, RING_PAGES, RING_PAGES, &options, &sub[i]), 0);
		}
		assert_int_equal(control(f, sub[1], &begin), VSTOR_STATUS_INVALID_DEVICE_STATE);
		for (unsigned round = 0; round < 50; round++) {
			for (unsigned i = 0; i < 16 * VPS; i++) {
				struct vstor_packet packet =
				    srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, i * 8, 8), 4096);

				send_srb(f, sub[i % VPS], i, &packet, f->buffer + i * 4096, 4096);
			}
			for (unsigned i = 0; i < 16 * VPS; i++) {
				receive(f, sub[i % VPS], i, &reply);
				assert_int_equal(reply.srb.srb_status, SRB_STATUS_SUCCESS);
			}
			assert_memory_equal(f->buffer, f->disk->data, 16 * VPS * 4096);
		}
		/* As Linux does: sub-channels first, then the primary; then all anew. */
		for (unsigned i = VPS; i-- > 0;)
			assert_int_equal(guest_close(sub[i]), 0);
		for (unsigned i = 1; i < VPS; i++)
			assert_int_equal(guest_wait_rescind(f->guest, relids[i]), 0);
		open_primary(f);
		negotiate(f, VSTOR_VERSION_WIN10);
	}
	/* Removing the controller under an open sub-channel is the teardown's test. */
	assert_int_equal(create_sub_channels(f, 1), 0);
	assert_non_null(guest_find_offer(f->guest, &scsi_class, 1));
}

static void test_old_version_has_no_sub_channels(void **state)
{
	struct fixture *f = *state;

	negotiate(f, VSTOR_VERSION_WIN7);
	assert_int_equal(create_sub_channels(f, 1), VSTOR_STATUS_INVALID_DEVICE_STATE);
}

/* --- resets ------------------------------------------------------------------------------------- */

static void test_reset(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet packet, reply, reset = {.operation = VSTOR_RESET_BUS};
	uint8_t cdb[16];

	for (unsigned i = 0; i < 32; i++) {
		packet = srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, i, 8), 4096);
		send_srb(f, f->channel, i, &packet, f->buffer + i * 4096, 4096);
	}
	send_srb(f, f->channel, 100, &reset, NULL, 0);
	packet = srb_packet(0, 0, CDB(0, 0, 0, 0, 0, 0), 0);
	send_srb(f, f->channel, 101, &packet, NULL, 0);
	for (unsigned i = 0; i < 32; i++)
		receive(f, f->channel, i, &reply);
	receive(f, f->channel, 100, &reply);
	assert_int_equal(reply.status, 0);
	receive(f, f->channel, 101, &reply);
	/* With nothing in flight: what lies behind the reset must not wait for another signal. */
	for (unsigned i = 0; i < 500; i++) {
		send_srb(f, f->channel, 200, &reset, NULL, 0);
		send_srb(f, f->channel, 201, &packet, NULL, 0);
		receive(f, f->channel, 200, &reply);
		receive(f, f->channel, 201, &reply);
	}
}

/* --- hostile guests ----------------------------------------------------------------------------- */

static unsigned send_ranges(struct fixture *f, uint32_t byte_count, uint32_t offset, uint64_t pfn,
			    unsigned pages, uint32_t declared)
{
	uint8_t ranges[8 + 8 * 16], cdb[16];
	struct vstor_packet packet = srb_packet(0, 0, cdb, io_cdb(cdb, 0x88, 0, declared / 512), declared),
			    reply;

	le32_put(ranges, byte_count);
	le32_put(ranges + 4, offset);
	for (unsigned i = 0; i < pages; i++)
		le64_put(ranges + 8 + 8 * i, pfn + i);
	assert_int_equal(
	    guest_send_gpa_direct(f->channel, 1, 77, ranges, 8 + 8 * pages, 1, &packet, sizeof(packet)), 0);
	receive(f, f->channel, 77, &reply);
	return reply.srb.srb_status;
}

static void test_bad_buffers(void **state)
{
	struct fixture *f = *state;
	uint64_t pfn = guest_gpa(f->guest, f->buffer) >> 12;

	assert_int_equal(send_ranges(f, 4096, 0, pfn, 1, 4096), SRB_STATUS_SUCCESS);
	assert_int_equal(send_ranges(f, 4096, 0, pfn, 1, 8192),
			 SRB_STATUS_INVALID_REQUEST); /* longer than lent */
	assert_int_equal(send_ranges(f, 4096, 0, 1ull << 40, 1, 4096),
			 SRB_STATUS_INVALID_REQUEST); /* no RAM */
	assert_int_equal(send_ranges(f, 8192, 0, (16u << 20 >> 12) - 1, 2, 8192), SRB_STATUS_INVALID_REQUEST);
	assert_int_equal(send_ranges(f, 4096, 0, UINT64_MAX, 1, 4096), SRB_STATUS_INVALID_REQUEST);
}

static void test_bad_packets(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet packet = srb_packet(0, 0, CDB(0, 0, 0, 0, 0, 0), 0), reply;
	uint8_t big[256] = {VSTOR_EXECUTE_SRB};

	/* Too long a CDB, none, too short and too long a packet. */
	packet.srb.cdb_length = 17;
	send_srb(f, f->channel, 1, &packet, NULL, 0);
	receive(f, f->channel, 1, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	packet.srb.cdb_length = 0;
	send_srb(f, f->channel, 2, &packet, NULL, 0);
	receive(f, f->channel, 2, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	assert_int_equal(guest_send(f->channel, VMBUS_PACKET_IN_BAND, 1, 3, &packet, 8), 0);
	receive(f, f->channel, 3, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	assert_int_equal(guest_send(f->channel, VMBUS_PACKET_IN_BAND, 1, 4, big, sizeof(big)), 0);
	receive(f, f->channel, 4, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	/* Data promised, no buffer with it. */
	packet = srb_packet(0, 0, CDB(0x12, 0, 0, 0, 36), 36);
	assert_int_equal(guest_send(f->channel, VMBUS_PACKET_IN_BAND, 1, 5, &packet, sizeof(packet)), 0);
	receive(f, f->channel, 5, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_INVALID_REQUEST);
	/* A request that wants no answer gets none, and is done. */
	packet = srb_packet(0, 0, CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0);
	assert_int_equal(guest_send(f->channel, VMBUS_PACKET_IN_BAND, 0, 6, &packet, sizeof(packet)), 0);
	assert_int_equal(execute(f, f->channel, 0, 0, CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, &reply), GOOD);
	assert_int_equal(f->disk->count[DISK_OP_FLUSH], 2);
}

/* No sense in the packet when the guest does not want it. */
static void test_no_autosense(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet packet = srb_packet(0, 0, CDB(0x5e, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0), reply;

	packet.srb.srb_flags = SRB_FLAG_DISABLE_AUTOSENSE;
	send_srb(f, f->channel, 1, &packet, NULL, 0);
	receive(f, f->channel, 1, &reply);
	assert_int_equal(reply.srb.srb_status, SRB_STATUS_ERROR);
	assert_int_equal(reply.srb.scsi_status, 2);
	assert_int_equal(reply.srb.sense_info_length, 0);
	packet.srb.srb_flags = 0;
	packet.srb.sense_info_length = 8;
	send_srb(f, f->channel, 2, &packet, NULL, 0);
	receive(f, f->channel, 2, &reply);
	assert_int_equal(reply.srb.sense_info_length, 8);
	assert_int_equal(reply.srb.sense_data[12], 0);
}

static bool broken(void *context)
{
	struct fixture *f = context;
	struct vstor_packet packet = srb_packet(0, 0, CDB(0, 0, 0, 0, 0, 0), 0);
	struct vmbus_packet_header header;

	guest_send(f->channel, VMBUS_PACKET_IN_BAND, 1, 1, &packet, sizeof(packet));
	return guest_try_receive(f->channel, &header, &packet, sizeof(packet)) == -EAGAIN;
}

/* What no driver sends ends the channel; the guest can open it again. */
static void test_broken_channel(void **state)
{
	struct fixture *f = *state;
	struct vstor_packet packet = srb_packet(0, 0, CDB(0, 0, 0, 0, 0, 0), 0), reply;

	assert_int_equal(guest_send(f->channel, VMBUS_PACKET_COMPLETION, 0, 9, &packet, sizeof(packet)), 0);
	assert_true(guest_wait(broken, f));
	assert_int_equal(guest_close(f->channel), 0);
	open_primary(f);
	negotiate(f, VSTOR_VERSION_WIN10);
	assert_int_equal(execute(f, f->channel, 0, 0, CDB(0, 0, 0, 0, 0, 0), 0, &reply), GOOD);

	__atomic_store_n(&guest_in_ring(f->channel)->write_index, 0xfffffff0, __ATOMIC_RELEASE);
	guest_signal(f->channel);
	assert_int_equal(guest_close(f->channel), 0);
	open_primary(f);
	negotiate(f, VSTOR_VERSION_WIN10);
}

/* --- several controllers, inspection ------------------------------------------------------------ */

static void test_two_controllers(void **state)
{
	struct fixture *f = *state;
	struct storage_config config = {.name = "scsi1"};
	struct guest_channel *first = f->channel;
	struct disk *disk = memory_disk_create(1 << 20, 1 << 20);
	const struct vmbus_message_offer *offer;
	struct storage *second;
	struct vstor_packet packet = {.operation = VSTOR_QUERY_PROPERTIES};

	guid_random(&config.instance);
	assert_int_equal(storage_create(&second, f->bus, &config, NULL), 0);
	assert_int_equal(storage_attach(second, 0, 0, STORAGE_UNIT_DISK, disk, NULL), 0);
	offer = guest_find_instance(f->guest, &scsi_class, &config.instance, 0);
	assert_non_null(offer);
	assert_int_equal(guest_open(f->guest, offer, RING_PAGES, RING_PAGES, NULL, &f->channel), 0);
	assert_int_equal(control_op(f, VSTOR_BEGIN_INITIALIZATION), 0);
	assert_int_equal(query_version(f, VSTOR_VERSION_WIN10), 0);
	assert_int_equal(control(f, f->channel, &packet), 0);
	assert_int_equal(packet.properties.max_channel_count, 0); /* as configured */
	assert_int_equal(control_op(f, VSTOR_END_INITIALIZATION), 0);
	assert_int_equal(execute(f, f->channel, 0, 0, CDB(0x25), 8, &packet), GOOD);
	assert_int_equal(be32_get(f->buffer), (1 << 20) / 512 - 1);
	assert_int_equal(execute(f, first, 0, 0, CDB(0x25), 8, &packet), GOOD);
	assert_int_equal(be32_get(f->buffer), DISK_SIZE / 512 - 1);
	storage_destroy(second);
	guest_channel_free(f->channel);
	memory_disk_destroy(disk);
	f->channel = first;
	assert_int_equal(execute(f, first, 0, 0, CDB(0, 0, 0, 0, 0, 0), 0, &packet), GOOD);
}

struct seen {
	char version[16];
	uint64_t requests;
	int depth;
};

static void seen_begin(void *context, const char *name)
{
	((struct seen *)context)->depth++;
}

static void seen_end(void *context)
{
	((struct seen *)context)->depth--;
}

static void seen_text(void *context, const char *name, const char *value)
{
	if (strcmp(name, "version") == 0)
		snprintf(((struct seen *)context)->version, 16, "%s", value);
}

static void seen_number(void *context, const char *name, uint64_t value)
{
	if (strcmp(name, "requests") == 0)
		((struct seen *)context)->requests += value;
}

static void test_inspect(void **state)
{
	static const struct vmbus_inspector inspector = {seen_begin, seen_end, seen_text, seen_number};
	struct fixture *f = *state;
	struct vstor_packet reply;
	struct seen seen = {.depth = 0};

	execute(f, f->channel, 0, 0, CDB(0, 0, 0, 0, 0, 0), 0, &reply);
	storage_inspect(f->storage, &inspector, &seen);
	assert_string_equal(seen.version, "6.2");
	assert_int_equal(seen.requests, 1);
	assert_int_equal(seen.depth, 0);
}

#define NEW_TEST(f)   cmocka_unit_test_setup_teardown(f, setup, teardown)
#define READY_TEST(f) cmocka_unit_test_setup_teardown(f, setup_ready, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    NEW_TEST(test_versions),
	    NEW_TEST(test_order),
	    READY_TEST(test_read_write),
	    READY_TEST(test_counters),
	    READY_TEST(test_scattered),
	    READY_TEST(test_queue_depth),
	    READY_TEST(test_full_ring),
	    READY_TEST(test_absent_units),
	    READY_TEST(test_hot_plug),
	    READY_TEST(test_detach_under_load),
	    READY_TEST(test_medium_under_load),
	    READY_TEST(test_medium_locked),
	    READY_TEST(test_many_units),
	    READY_TEST(test_sub_channels),
	    NEW_TEST(test_old_version_has_no_sub_channels),
	    READY_TEST(test_reset),
	    READY_TEST(test_bad_buffers),
	    READY_TEST(test_bad_packets),
	    READY_TEST(test_no_autosense),
	    READY_TEST(test_broken_channel),
	    READY_TEST(test_two_controllers),
	    READY_TEST(test_inspect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
