// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_saved_bus.c - VMBus and its providers out of their state and into others, under a guest double that does not
 * notice: channels, GPADLs and messages that were under way, storage with answers that wait, services.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "tests/double/bus_machine.h"
#include "tests/double/memory_disk.h"
#include "vsp/integration/ic_protocol.h"
#include "vsp/integration/integration.h"
#include "vsp/storage/protocol.h"
#include "vsp/storage/storage.h"

static int load(struct vmbus *bus, const struct form_writer *w, struct error *err)
{
	struct form_reader r = {.bytes = w->bytes, .left = w->size};
	int result = vmbus_load(bus, &r, err);

	if (!result && !r.bad && r.left)
		form_bad(&r, "something is left");
	return result ? result : form_error(&r, "the bus", err);
}

/* Takes the bus away from the guest; what it was is in `w`. */
static void take_away(struct machine *m, struct form_writer *w)
{
	vmbus_hold(m->bus);
	vmbus_save(m->bus, w);
	assert_false(w->failed);
}

static void new_bus(struct machine *m)
{
	vmbus_destroy(m->bus);
	assert_int_equal(vmbus_create(&m->bus, guest_partition(m->guest), NULL), 0);
}

static void give_back(struct machine *m, struct form_writer *w)
{
	struct error err = {0};

	vmbus_hold(m->bus);
	if (load(m->bus, w, &err))
		fail_msg("%s", err.text);
	vmbus_release(m->bus);
	free(w->bytes);
	*w = (struct form_writer){0};
}

static void traffic_goes_on(struct machine *m, uint32_t version)
{
	static struct echo first, second;
	const struct vmbus_message_offer *offer;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	struct form_writer w = {0};
	uint8_t bytes[64];

	first = second = (struct echo){0};
	echo_offer(&first, m->bus, 1, 0, false, true);
	offer = connect_and_find(m, version);
	channel = open_echo(m, offer, 4, 3);
	for (unsigned i = 0; i < 300; i++) /* several times around the rings */
		ping(channel, i, 40 + i % 200);
	vmbus_hold(m->bus);
	/* It lies in the ring, and its signal in the event, when the bus is gone. */
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 1, 77, "in between", 10), 0);
	vmbus_save(m->bus, &w);
	echo_remove(&first);
	new_bus(m);
	echo_offer(&second, m->bus, 1, 0, false, true);
	give_back(m, &w);
	assert_int_equal(guest_receive(channel, &header, bytes, sizeof(bytes)), 16);
	assert_int_equal(header.transaction_id, 77);
	assert_memory_equal(bytes, "in between", 10);
	assert_int_equal(second.last_open.version, version);
	assert_int_equal(vmbus_version(m->bus), version);
	for (unsigned i = 0; i < 300; i++)
		ping(channel, i, 40 + i % 200);
	/* The life of the channel goes on too. */
	assert_int_equal(guest_close(channel), 0);
	assert_true(guest_wait(is_closed, &second));
	channel = open_echo(m, offer, 4, 3);
	ping(channel, 5, 100);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&second);
}

static void test_traffic_goes_on(void **state)
{
	traffic_goes_on(*state, VMBUS_VERSION_WIN10_V5_3);
}

static void test_traffic_goes_on_by_interrupt_page(void **state)
{
	traffic_goes_on(*state, VMBUS_VERSION_WS2008);
}

/* Offers come in another order, one is new, and one is removed but not yet let go by the guest, nor is what it lent to it. */
static void test_channels_keep_their_numbers(void **state)
{
	static struct echo old[3], new[3];
	struct machine *m = *state;
	struct vmbus_message_relid released = {0};
	struct guest_channel *channels[2];
	struct form_writer w = {0};
	uint32_t relids[3], lent;
	uint64_t pfn;

	memset(old, 0, sizeof(old));
	memset(new, 0, sizeof(new));
	for (uint8_t i = 0; i < 3; i++)
		echo_offer(&old[i], m->bus, i, i, false, false);
	connect_and_find(m, VMBUS_VERSION_WIN10_V5_3);
	for (unsigned i = 0; i < 3; i++)
		relids[i] = guest_find_offer(m->guest, &echo_interface, i)->relid;
	for (unsigned i = 0; i < 2; i++) {
		channels[i] = open_echo(m, guest_find_offer(m->guest, &echo_interface, i), 2, 2);
		ping(channels[i], i, 32);
	}
	assert_int_equal(guest_gpadl_alloc(m->guest, relids[2], 1, &pfn, &lent), 0);
	echo_remove(&old[2]);
	take_away(m, &w);
	echo_remove(&old[0]);
	echo_remove(&old[1]);
	new_bus(m);
	echo_offer(&new[2], m->bus, 7, 7, false, false);
	echo_offer(&new[1], m->bus, 1, 1, false, false);
	echo_offer(&new[0], m->bus, 0, 0, false, false);
	give_back(m, &w);
	ping(channels[0], 1, 32);
	ping(channels[1], 2, 64);
	assert_int_equal(new[0].opens, 1);
	assert_int_equal(new[1].opens, 1);
	assert_state(m, relids[2], "removed");
	assert_int_equal(guest_gpadl_teardown(m->guest, relids[2], lent), 0);
	assert_int_equal(guest_find_offer(m->guest, &echo_interface, 7)->relid, relids[2] + 1);
	released.relid = relids[2];
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_RELID_RELEASED, &released, sizeof(released)), 0);
	assert_false(has_channel(m, relids[2]));
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(guest_close(channels[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		echo_remove(&new[i]);
}

/* A device that was removed and offered again, of which the guest has not released the first number yet. */
static void test_offer_waits_on(void **state)
{
	static struct echo old, again, new;
	struct machine *m = *state;
	struct form_writer w = {0};
	uint32_t relid;

	old = again = new = (struct echo){0};
	echo_offer(&old, m->bus, 1, 0, false, false);
	relid = connect_and_find(m, VMBUS_VERSION_WIN10_V5_3)->relid;
	echo_remove(&old);
	echo_offer(&again, m->bus, 1, 0, false, false);
	take_away(m, &w);
	echo_remove(&again);
	new_bus(m);
	echo_offer(&new, m->bus, 1, 0, false, false);
	give_back(m, &w);
	assert_state(m, relid, "removed");
	assert_int_equal(guest_offer_count(m->guest), 0);
	assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
	ping(open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2), 1, 32);
	echo_remove(&new);
}

/* Half of a GPADL has come, another is being torn down while its ring is open, and a message was not looked at. */
static void test_what_is_under_way(void **state)
{
	static struct echo old, new;
	struct machine *m = *state;
	uint8_t bytes[SYNIC_MESSAGE_PAYLOAD] = {0};
	struct vmbus_message_gpadl_header *header = (void *)bytes;
	struct vmbus_message_gpadl_teardown teardown = {0};
	struct vmbus_message_gpadl_body *body = (void *)bytes;
	struct guest_message message;
	struct guest_channel *channel;
	struct form_writer w = {0};
	uint32_t relid;
	gpa_t gpa;

	old = new = (struct echo){0};
	echo_offer(&old, m->bus, 1, 0, false, false);
	relid = connect_and_find(m, VMBUS_VERSION_WIN10_V5_3)->relid;
	channel = open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2);
	guest_alloc(m->guest, 2, &gpa);
	header->relid = relid;
	header->gpadl = 4711;
	header->range_count = 1;
	header->range_buffer_length = sizeof(struct vmbus_gpa_range) + 16;
	le32_put(bytes + sizeof(*header), 8192);
	le64_put(bytes + sizeof(*header) + sizeof(struct vmbus_gpa_range), gpa >> GUEST_PAGE_SHIFT);
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_HEADER, bytes,
				    sizeof(*header) + sizeof(struct vmbus_gpa_range) + 8),
			 0);
	teardown.relid = relid;
	teardown.gpadl = guest_channel_ring_gpadl(channel);
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_TEARDOWN, &teardown, sizeof(teardown)), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 2);
	vmbus_hold(m->bus);
	memset(bytes, 0, sizeof(bytes));
	body->gpadl = 4711;
	le64_put(bytes + sizeof(*body), (gpa >> GUEST_PAGE_SHIFT) + 1);
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_BODY, bytes, sizeof(*body) + 8), 0);
	vmbus_save(m->bus, &w);
	echo_remove(&old);
	new_bus(m);
	echo_offer(&new, m->bus, 1, 0, false, false);
	give_back(m, &w);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_GPADL_CREATED, &message), 0);
	assert_int_equal(((struct vmbus_message_gpadl_created *)message.bytes)->gpadl, 4711);
	assert_int_equal(((struct vmbus_message_gpadl_created *)message.bytes)->status, 0);
	assert_false(guest_has_message(m->guest, VMBUS_MSG_GPADL_TORNDOWN));
	ping(channel, 3, 32);
	assert_int_equal(guest_post_close(channel), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_GPADL_TORNDOWN, &message), 0);
	assert_int_equal(((struct vmbus_message_gpadl_torndown *)message.bytes)->gpadl, teardown.gpadl);
	guest_channel_free(channel);
	echo_remove(&new);
}

static void test_no_connection(void **state)
{
	static struct echo old, new;
	struct machine *m = *state;
	struct form_writer w = {0};
	struct guest_channel *channel;

	old = new = (struct echo){0};
	echo_offer(&old, m->bus, 1, 0, false, false);
	take_away(m, &w);
	echo_remove(&old);
	new_bus(m);
	echo_offer(&new, m->bus, 1, 0, false, false);
	give_back(m, &w);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION_WIN10_V5_3), 2, 2);
	ping(channel, 3, 32);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&new);
}

/* A machine without the device, and bytes of which any one is wrong. */
static void test_what_does_not_fit_is_refused(void **state)
{
	static struct echo old;
	struct machine *m = *state;
	struct form_writer w = {0};
	struct error err = {0};
	struct guest_channel *channel;

	old = (struct echo){0};
	echo_offer(&old, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION_WIN10_V5_3), 2, 2);
	take_away(m, &w);
	echo_remove(&old);
	new_bus(m);
	vmbus_hold(m->bus);
	assert_int_equal(load(m->bus, &w, &err), -EINVAL);
	assert_non_null(strstr(err.text, "give the machine the same devices"));
	new_bus(m);
	for (size_t i = 0; i < w.size; i += 3) {
		struct echo *new = calloc(1, sizeof(*new));

		w.bytes[i] ^= 0x10;
		echo_offer(new, m->bus, 1, 0, false, false);
		vmbus_hold(m->bus);
		err = (struct error){0};
		assert_int_equal(load(m->bus, &w, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "section \""));
		echo_remove(new);
		new_bus(m);
		free(new);
		w.bytes[i] ^= 0x10;
	}
	for (size_t size = 0; size < w.size; size += 97) {
		struct form_writer less = {.bytes = w.bytes, .size = size};

		vmbus_hold(m->bus);
		assert_int_not_equal(load(m->bus, &less, &err), 0);
		new_bus(m);
	}
	free(w.bytes);
	guest_channel_free(channel);
}

/* --- storage -------------------------------------------------------------------------------------------- */

static const struct guid scsi_class = STORAGE_SCSI_CLASS;

#define DISK_SIZE (1u << 20)

static struct storage *add_controller(struct machine *m, struct disk *disk)
{
	struct storage_config config = {.name = "scsi0", .max_sub_channels = 3, .instance = {.bytes = {1, 2, 3}}};
	struct storage *storage;

	assert_int_equal(storage_create(&storage, m->bus, &config, NULL), 0);
	assert_int_equal(storage_attach(storage, 0, 2, STORAGE_UNIT_DISK, disk, NULL), 0);
	assert_int_equal(storage_attach(storage, 0, 5, STORAGE_UNIT_DVD, disk, NULL), 0);
	return storage;
}

static void control_packet(struct guest_channel *channel, struct vstor_packet packet)
{
	struct vmbus_packet_header header;

	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 1, 1, &packet, sizeof(packet)), 0);
	assert_int_equal(guest_receive(channel, &header, &packet, sizeof(packet)), sizeof(packet));
	assert_int_equal(packet.status, 0);
}

static void start_controller(struct guest_channel *channel)
{
	control_packet(channel, (struct vstor_packet){.operation = VSTOR_BEGIN_INITIALIZATION});
	control_packet(channel, (struct vstor_packet){.operation = VSTOR_QUERY_PROTOCOL_VERSION,
						      .version.major_minor = VSTOR_VERSION_WIN10});
	control_packet(channel, (struct vstor_packet){.operation = VSTOR_QUERY_PROPERTIES});
	control_packet(channel, (struct vstor_packet){.operation = VSTOR_END_INITIALIZATION});
	control_packet(channel, (struct vstor_packet){.operation = VSTOR_CREATE_SUB_CHANNELS, .sub_channel_count = 2});
}

static struct vstor_packet read_packet(uint8_t lba)
{
	struct vstor_packet packet = {.operation = VSTOR_EXECUTE_SRB,
				      .srb = {.length = sizeof(struct vmscsi_request),
					      .lun = 2,
					      .cdb_length = 10,
					      .data_in = 1,
					      .data_transfer_length = 512}};

	packet.srb.cdb[0] = 0x28;
	packet.srb.cdb[5] = lba;
	packet.srb.cdb[8] = 1;
	return packet;
}

static void read_block(struct machine *m, struct guest_channel *channel, uint8_t lba)
{
	struct vstor_packet packet = read_packet(lba);
	struct vmbus_packet_header header;
	uint8_t *buffer = guest_alloc(m->guest, 1, NULL);

	assert_int_equal(guest_send_buffer(channel, 5, buffer, 512, &packet, sizeof(packet)), 0);
	assert_int_equal(guest_receive(channel, &header, &packet, sizeof(packet)), sizeof(packet));
	assert_int_equal(packet.srb.srb_status, SRB_STATUS_SUCCESS);
	assert_int_equal(buffer[0], lba);
}

/* A command without data at the DVD drive; returns its sense key. */
static unsigned ask_drive(struct guest_channel *channel, uint8_t operation, uint8_t argument)
{
	struct vstor_packet packet = {.operation = VSTOR_EXECUTE_SRB,
				      .srb = {.length = sizeof(struct vmscsi_request), .lun = 5, .cdb_length = 6,
					      .sense_info_length = VSTOR_SENSE_SIZE}};
	struct vmbus_packet_header header;

	packet.srb.cdb[0] = operation;
	packet.srb.cdb[4] = argument;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 1, 6, &packet, sizeof(packet)), 0);
	assert_int_equal(guest_receive(channel, &header, &packet, sizeof(packet)), sizeof(packet));
	return packet.srb.srb_status == SRB_STATUS_SUCCESS ? 0 : packet.srb.sense_data[2] & 15u;
}

static void save_all(struct machine *m, struct storage *storage, struct form_writer *bus, struct form_writer *w)
{
	vmbus_hold(m->bus);
	storage_pause(storage);
	storage_save(storage, w, 0);
	vmbus_save(m->bus, bus);
	storage_destroy(storage);
	new_bus(m);
}

static int load_storage(struct storage *storage, struct form_writer *w, struct error *err)
{
	struct form_reader r = {.bytes = w->bytes, .left = w->size};
	int result = storage_load(storage, &r, 0, err);

	free(w->bytes);
	*w = (struct form_writer){0};
	return result ? result : form_error(&r, "storage", err);
}

static struct storage *load_all(struct machine *m, struct disk *disk, struct form_writer *bus, struct form_writer *w)
{
	struct storage *storage = add_controller(m, disk);
	struct error err = {0};

	vmbus_hold(m->bus);
	storage_pause(storage);
	if (load_storage(storage, w, &err) || load(m->bus, bus, &err))
		fail_msg("%s", err.text);
	storage_resume(storage);
	vmbus_release(m->bus);
	free(bus->bytes);
	*bus = (struct form_writer){0};
	return storage;
}

static void test_storage_goes_on(void **state)
{
	enum { FLOOD = 200 };
	struct machine *m = *state;
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct storage *storage = add_controller(m, disk);
	struct form_writer bus = {0}, w = {0};
	struct guest_channel *primary, *sub;
	struct vstor_packet reset = {.operation = VSTOR_RESET_BUS}, packet;
	struct vmbus_packet_header header;
	struct error err = {0};
	unsigned sent = 0;

	for (unsigned i = 0; i < DISK_SIZE; i++)
		disk->data[i] = (uint8_t)(i / 512);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	/* The ring to the guest holds few answers. */
	assert_int_equal(guest_open(m->guest, guest_find_offer(m->guest, &scsi_class, 0), 9, 2, NULL, &primary), 0);
	start_controller(primary);
	assert_int_equal(guest_open(m->guest, guest_find_offer(m->guest, &scsi_class, 1), 9, 9, NULL, &sub), 0);
	read_block(m, primary, 3);
	read_block(m, sub, 4);
	/* The guest opens the tray. */
	assert_int_equal(ask_drive(sub, 0x00, 0), 0);
	assert_int_equal(ask_drive(sub, 0x1b, 2), 0);
	packet = read_packet(9);
	packet.srb.cdb[0] = 0; /* TEST UNIT READY */
	packet.srb.data_transfer_length = 0;
	while (sent < FLOOD && guest_send(primary, VMBUS_PACKET_IN_BAND, 1, sent, &packet, sizeof(packet)) == 0)
		sent++;
	assert_int_equal(guest_send(primary, VMBUS_PACKET_IN_BAND, 1, sent++, &reset, sizeof(reset)), 0);
	save_all(m, storage, &bus, &w);
	storage = load_all(m, disk, &bus, &w);
	/* Every answer comes, once and in order; the reset's last. */
	for (unsigned i = 0; i < sent; i++) {
		assert_int_equal(guest_receive(primary, &header, &packet, sizeof(packet)), sizeof(packet));
		assert_int_equal(header.transaction_id, i);
		assert_int_equal(packet.status, 0);
	}
	read_block(m, sub, 5);
	read_block(m, primary, 6);
	/* The tray is still open, and can be closed. */
	assert_int_equal(ask_drive(sub, 0x00, 0), 2);
	assert_int_equal(ask_drive(sub, 0x1b, 3), 0);
	assert_int_equal(ask_drive(sub, 0x00, 0), 0);
	/* The third channel was not offered, and can be asked for. */
	control_packet(primary, (struct vstor_packet){.operation = VSTOR_CREATE_SUB_CHANNELS, .sub_channel_count = 3});
	assert_non_null(guest_find_offer(m->guest, &scsi_class, 3));
	/* A disk of another size is not the one that the guest knows. */
	save_all(m, storage, &bus, &w);
	disk->info.size += 512;
	storage = add_controller(m, disk);
	vmbus_hold(m->bus);
	storage_pause(storage);
	assert_int_equal(load_storage(storage, &w, &err), -EINVAL);
	assert_non_null(strstr(err.text, "it is another disk, or was resized"));
	free(bus.bytes);
	storage_destroy(storage);
	guest_channel_free(primary);
	guest_channel_free(sub);
	vmbus_destroy(m->bus);
	m->bus = NULL;
	memory_disk_destroy(disk);
}

/* A machine that is held goes on as if nothing had been. */
static void test_hold_and_release(void **state)
{
	struct machine *m = *state;
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct storage *storage = add_controller(m, disk);
	struct guest_channel *channel;

	for (unsigned i = 0; i < DISK_SIZE; i++)
		disk->data[i] = (uint8_t)(i / 512);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	assert_int_equal(guest_open(m->guest, guest_find_offer(m->guest, &scsi_class, 0), 9, 9, NULL, &channel), 0);
	start_controller(channel);
	for (unsigned i = 0; i < 50; i++) {
		struct vstor_packet packet = read_packet((uint8_t)i);
		struct vmbus_packet_header header;
		uint8_t *buffer = guest_alloc(m->guest, 1, NULL);

		assert_int_equal(guest_send_buffer(channel, i, buffer, 512, &packet, sizeof(packet)), 0);
		vmbus_hold(m->bus);
		storage_pause(storage);
		assert_true(inspect_number(m, "vmbus.gpadls") > 0); /* who asks meanwhile is served */
		storage_resume(storage);
		vmbus_release(m->bus);
		assert_int_equal(guest_receive(channel, &header, &packet, sizeof(packet)), sizeof(packet));
		assert_int_equal(header.transaction_id, i);
		assert_int_equal(buffer[0], i);
	}
	assert_int_equal(guest_close(channel), 0);
	storage_destroy(storage);
	memory_disk_destroy(disk);
}

/* --- integration services ------------------------------------------------------------------------------- */

static const struct guid timesync_guid =
    GUID_INIT(0x9527e630, 0xd0ae, 0x497b, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf);

struct ic_packet {
	struct vmbus_pipe_header pipe;
	struct ic_header header;
	uint8_t body[512];
} __attribute__((packed));

static int receive_ic(struct guest_channel *channel, struct ic_packet *packet)
{
	struct vmbus_packet_header header;
	int size = guest_receive(channel, &header, packet, sizeof(*packet));

	assert_true(size > 0);
	return size;
}

static void answer_ic(struct guest_channel *channel, struct ic_packet *packet, int size)
{
	packet->header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, packet, (size_t)size), 0);
}

/* The guest had not answered a sample when it was saved; it is told the time all the same, by the versions agreed. */
static void test_services_go_on(void **state)
{
	static const struct ic_version versions[] = {{3, 0}, {4, 0}};
	struct machine *m = *state;
	struct integration_options options = {.timesync_ms = 20};
	struct integration *integration;
	struct form_writer bus = {0}, w = {0};
	struct form_reader r = {0};
	struct guest_channel *channel;
	struct ic_packet packet;
	struct error err = {0};
	int size;

	assert_int_equal(integration_create(&integration, m->bus, &options, NULL), 0);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	assert_int_equal(guest_open(m->guest, guest_find_offer(m->guest, &timesync_guid, 0), 4, 4, NULL, &channel), 0);
	size = receive_ic(channel, &packet);
	((struct ic_negotiate *)packet.body)->framework_count = ((struct ic_negotiate *)packet.body)->message_count = 1;
	memcpy(packet.body + sizeof(struct ic_negotiate), versions, sizeof(versions));
	answer_ic(channel, &packet, size);
	size = receive_ic(channel, &packet);
	integration_paused(integration);
	vmbus_hold(m->bus);
	integration_save(integration, &w);
	vmbus_save(m->bus, &bus);
	integration_destroy(integration);
	new_bus(m);
	assert_int_equal(integration_create(&integration, m->bus, &options, NULL), 0);
	vmbus_hold(m->bus);
	assert_int_equal(load(m->bus, &bus, &err), 0);
	r.bytes = w.bytes;
	r.left = w.size;
	integration_load(integration, &r);
	assert_int_equal(form_error(&r, "services", &err), 0);
	vmbus_release(m->bus);
	integration_resumed(integration);
	answer_ic(channel, &packet, size);
	size = receive_ic(channel, &packet);
	assert_int_equal(packet.header.type, IC_TIMESYNC);
	assert_int_equal(packet.header.message.major, 4);
	assert_int_equal(((struct ic_timesync_reference *)packet.body)->flags, IC_TIMESYNC_SYNC);
	answer_ic(channel, &packet, size);
	receive_ic(channel, &packet);
	assert_int_equal(((struct ic_timesync_reference *)packet.body)->flags, IC_TIMESYNC_SAMPLE);
	assert_int_equal(guest_close(channel), 0);
	integration_destroy(integration);
	free(bus.bytes);
	free(w.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_traffic_goes_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_traffic_goes_on_by_interrupt_page, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_channels_keep_their_numbers, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_offer_waits_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_what_is_under_way, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_no_connection, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_what_does_not_fit_is_refused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_storage_goes_on, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_hold_and_release, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_services_go_on, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
