// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_vmbus.c - a guest that posts any messages, lends any pages, writes anything into its rings and
 * signals at any time, against a bus with echo channels that come and go.
 *
 * One partition and one bus serve all inputs; each starts with the bus reset. After every step the
 * control thread is waited for, so an input does the same every time.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/double/echo.h"
#include "tests/double/guest.h"
#include "tests/double/guest_state.h"

#define ECHOES 4u
#define POOL   24u /* pages that rings and GPADLs are made of */
#define RINGS  5u  /* pages of a channel's rings when opened as they should: 3 and 2 */

struct input {
	const uint8_t *at, *end;
};

static struct {
	struct guest *guest;
	struct vmbus *bus;
	uint8_t *pool;
	gpa_t pool_gpa;
	struct echo echo[ECHOES];
	bool offered[ECHOES];
} world;

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < bytes && in->at < in->end; i++)
		v |= (uint32_t)*in->at++ << (8 * i);
	return v;
}

static void ignore_name(void *context, const char *name)
{
}

static void ignore_end(void *context)
{
}

static void ignore_text(void *context, const char *name, const char *value)
{
}

static void ignore_number(void *context, const char *name, uint64_t value)
{
}

static void settle(void)
{
	static const struct vmbus_inspector ignore = {ignore_name, ignore_end, ignore_text, ignore_number};

	vmbus_inspect(world.bus, &ignore, NULL);
}

static void post(uint32_t type, void *message, size_t size)
{
	guest_post(world.guest, type, message, size);
}

static void post_anything(struct input *in)
{
	uint8_t message[SYNIC_MESSAGE_PAYLOAD] = {0};
	uint32_t type = take(in, 1) % 32, size = take(in, 1) % (sizeof(message) + 1);

	for (uint32_t i = 8; i < size && in->at < in->end; i++)
		message[i] = (uint8_t)take(in, 1);
	le32_put(message, type);
	guest_post_raw(world.guest,
		       take(in, 1) & 1 ? VMBUS_MESSAGE_CONNECTION_ID : VMBUS_MESSAGE_CONNECTION_ID_4,
		       VMBUS_MESSAGE_TYPE, message, size);
}

/* Mostly right, so that rings get opened. */
static void post_contact(struct input *in)
{
	static const uint32_t versions[] = {
	    VMBUS_VERSION_WS2008,     VMBUS_VERSION_WIN7,     VMBUS_VERSION_WIN8,      VMBUS_VERSION_WIN8_1,
	    VMBUS_VERSION_WIN10_V4_1, VMBUS_VERSION_WIN10_V5, VMBUS_VERSION_WIN10_V5_3};
	struct vmbus_message_initiate_contact contact = {
	    .version = versions[take(in, 1) % ARRAY_SIZE(versions)],
	    .monitor_page_child_to_parent = world.guest->monitor_page[1],
	};
	struct vmbus_message_header offers;

	if (contact.version >= VMBUS_VERSION_WIN10_V5)
		contact.message_target.sint = VMBUS_MESSAGE_SINT;
	else
		contact.interrupt_page = world.guest->interrupt_page;
	post(VMBUS_MSG_INITIATE_CONTACT, &contact, sizeof(contact));
	post(VMBUS_MSG_REQUEST_OFFERS, &offers, sizeof(offers));
}

static void post_gpadl(struct input *in)
{
	struct {
		struct vmbus_message_gpadl_header header;
		struct vmbus_gpa_range range;
		uint64_t pfns[8];
	} __attribute__((packed)) message = {0};
	unsigned pages = 1 + take(in, 1) % 8;

	message.header.relid = 1 + take(in, 1) % ECHOES;
	message.header.gpadl = take(in, 1) % 8;
	message.header.range_count = 1;
	message.header.range_buffer_length = (uint16_t)(8 + pages * 8);
	message.range.byte_count = pages * GUEST_PAGE_SIZE;
	for (unsigned i = 0; i < pages; i++)
		message.pfns[i] = world.pool_gpa / GUEST_PAGE_SIZE + take(in, 1) % (POOL + 1);
	post(VMBUS_MSG_GPADL_HEADER, &message, sizeof(message.header) + 8 + pages * 8);
}

static void post_open(struct input *in)
{
	struct vmbus_message_open open = {
	    .relid = 1 + take(in, 1) % ECHOES,
	    .ring_gpadl = take(in, 1) % 8,
	    .downstream_page_offset = take(in, 1) % 8,
	};

	post(VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open));
}

/* As an honest driver does. */
static void open_rightly(struct input *in)
{
	uint32_t relid = 1 + take(in, 1) % ECHOES;
	struct vmbus_message_open open = {.relid = relid, .ring_gpadl = relid, .downstream_page_offset = 3};
	struct {
		struct vmbus_message_gpadl_header header;
		struct vmbus_gpa_range range;
		uint64_t pfns[RINGS];
	} __attribute__((packed)) gpadl = {0};

	gpadl.header.relid = gpadl.header.gpadl = relid;
	gpadl.header.range_count = 1;
	gpadl.header.range_buffer_length = sizeof(gpadl) - sizeof(gpadl.header);
	gpadl.range.byte_count = RINGS * GUEST_PAGE_SIZE;
	for (unsigned i = 0; i < RINGS; i++)
		gpadl.pfns[i] = world.pool_gpa / GUEST_PAGE_SIZE + (relid - 1) * RINGS + i;
	memset(world.pool + (relid - 1) * RINGS * GUEST_PAGE_SIZE, 0, RINGS * GUEST_PAGE_SIZE);
	post(VMBUS_MSG_GPADL_HEADER, &gpadl, sizeof(gpadl));
	post(VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open));
}

/* A packet whose header is nearly right, behind the last one, into rings that open_rightly() made. */
static void send_packet(struct input *in)
{
	uint32_t relid = 1 + take(in, 1) % ECHOES, flags = take(in, 1);
	uint8_t *rings = world.pool + (relid - 1) * RINGS * GUEST_PAGE_SIZE;
	struct vmbus_ring_header *header = (void *)rings, *out = (void *)(rings + 3 * GUEST_PAGE_SIZE);
	uint32_t size = 2 * GUEST_PAGE_SIZE, at = header->write_index, words = 2 + take(in, 1) % 24;
	uint8_t packet[26 * 8] = {0};

	le16_put(packet, (uint16_t)(VMBUS_PACKET_IN_BAND + (flags & 7)));
	le16_put(packet + 2, (uint16_t)(flags & 8 ? take(in, 1) : 2 + take(in, 1) % (words - 1)));
	le16_put(packet + 4, (uint16_t)(flags & 16 ? take(in, 2) : words));
	le16_put(packet + 6, (flags >> 5) & 1);
	for (uint32_t i = 16; i < words * 8; i += 4)
		le32_put(packet + i, flags & 64 ? take(in, 4) : take(in, 1));
	/* Page numbers that exist are rare among all numbers. */
	if (flags & 128)
		for (uint32_t i = 32; i < words * 8; i += 8)
			le64_put(packet + i, world.pool_gpa / GUEST_PAGE_SIZE + packet[i] % POOL);
	if (flags & 4 && words > 3)
		memcpy(packet + 16, "gpadl", 5);
	for (uint32_t i = 0; at < size && i < words * 8 + 8; i++, at = (at + 1) % size)
		rings[GUEST_PAGE_SIZE + at] = i < words * 8 ? packet[i] : 0;
	__atomic_store_n(&header->write_index, at, __ATOMIC_SEQ_CST);
	vp_hypercall(world.guest->partition, 0, 0x1005d, 0x10000 + relid, 0);
	settle();
	if (flags & 2)
		__atomic_store_n(&out->read_index, __atomic_load_n(&out->write_index, __ATOMIC_SEQ_CST),
				 __ATOMIC_SEQ_CST);
}

static void post_close(struct input *in)
{
	static const uint32_t types[] = {VMBUS_MSG_CLOSE_CHANNEL, VMBUS_MSG_RELID_RELEASED,
					 VMBUS_MSG_GPADL_TEARDOWN, VMBUS_MSG_MODIFY_CHANNEL};
	struct vmbus_message_gpadl_teardown message;
	uint32_t type = types[take(in, 1) % ARRAY_SIZE(types)];

	message.relid = 1 + take(in, 1) % ECHOES;
	message.gpadl = take(in, 1) % 8;
	post(type, &message, sizeof(message));
}

static void write_pool(struct input *in)
{
	uint32_t at = take(in, 1) % POOL * GUEST_PAGE_SIZE + take(in, 1) * 4;
	uint32_t count = take(in, 1) % 64;

	for (; count > 0 && at < POOL * GUEST_PAGE_SIZE; count--, at++)
		__atomic_store_n(&world.pool[at], (uint8_t)take(in, 1), __ATOMIC_RELAXED);
}

static void signal_host(struct input *in)
{
	uint32_t relid = take(in, 1) % (ECHOES + 1);
	uint8_t *page = guest_at(world.guest, world.guest->interrupt_page);

	if (relid == 0)
		__atomic_store_n(page + VMBUS_INTERRUPT_PAGE_TO_HOST, (uint8_t)take(in, 1), __ATOMIC_SEQ_CST);
	vp_hypercall(world.guest->partition, 0, 0x1005d, relid ? 0x10000 + relid : VMBUS_EVENT_CONNECTION_ID,
		     0);
	settle();
}

static void toggle_offer(struct input *in)
{
	unsigned i = take(in, 1) % ECHOES;

	if (world.offered[i])
		echo_remove(&world.echo[i]);
	else
		echo_offer(&world.echo[i], world.bus, (uint8_t)i, 0, i == 3, i == 2);
	world.offered[i] = !world.offered[i];
}

static void step(struct input *in)
{
	switch (take(in, 1) % 16) {
	case 0:
		post_anything(in);
		break;
	case 1:
		post_contact(in);
		break;
	case 2:
	case 3:
		post_gpadl(in);
		break;
	case 4:
		post_open(in);
		break;
	case 5:
		post_close(in);
		break;
	case 6:
	case 7:
		write_pool(in);
		break;
	case 8:
		signal_host(in);
		break;
	case 9:
		toggle_offer(in);
		break;
	case 10:
	case 11:
		open_rightly(in);
		break;
	default:
		send_packet(in);
		break;
	}
}

static void build_world(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	world.guest = guest_create(4);
	if (!world.guest || vmbus_create(&world.bus, world.guest->partition, NULL) < 0)
		abort();
	world.pool = guest_alloc(world.guest, POOL, &world.pool_gpa);
	world.guest->message_connection = VMBUS_MESSAGE_CONNECTION_ID_4;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	struct guest_message message;

	if (!world.guest)
		build_world();
	memset(world.pool, 0, POOL * GUEST_PAGE_SIZE);
	for (unsigned i = 0; i < ECHOES; i++) {
		echo_offer(&world.echo[i], world.bus, (uint8_t)i, 0, i == 3, i == 2);
		world.offered[i] = true;
	}
	post_contact(&in);
	for (unsigned steps = 0; in.at < in.end && steps < 200; steps++) {
		step(&in);
		settle();
		while (guest_poll_message(world.guest, &message))
			;
	}
	for (unsigned i = 0; i < ECHOES; i++) {
		if (world.offered[i])
			echo_remove(&world.echo[i]);
		if (world.echo[i].opens != world.echo[i].closes)
			abort();
	}
	vmbus_reset(world.bus);
	while (guest_poll_message(world.guest, &message))
		;
	for (unsigned i = 0; i < world.guest->offer_count; i++)
		free(world.guest->offers[i]);
	world.guest->offer_count = 0;
	return 0;
}
