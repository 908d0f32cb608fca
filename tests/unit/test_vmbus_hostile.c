// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_vmbus_hostile.c - a guest that breaks the rules: messages of wrong length, state and number,
 * GPADLs of anything, rings that lie, floods. The host must answer or ignore, and go on working.
 */
#include <errno.h>
#include <string.h>

#include "tests/double/bus_machine.h"

static int set_up_quiet(void **state)
{
	log_set_level(LOG_LEVEL_ERROR);
	return set_up(state);
}

/* After all that: does the bus still serve an honest channel? */
static void still_works(struct machine *m, struct echo *echo)
{
	struct guest_channel *channel;

	guest_flush_messages(m->guest);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 3, 3);
	for (unsigned n = 0; n < 10; n++)
		ping(channel, n, 100);
	assert_int_equal(guest_close(channel), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadl_pages"), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls_incomplete"), 0);
	if (echo->channel)
		echo_remove(echo);
}

static void post_type(struct machine *m, uint32_t type, const void *bytes, size_t size)
{
	uint8_t message[SYNIC_MESSAGE_PAYLOAD] = {0};

	memcpy(message, bytes, size);
	le32_put(message, type);
	assert_int_equal(
	    guest_post_raw(m->guest, VMBUS_MESSAGE_CONNECTION_ID, VMBUS_MESSAGE_TYPE, message, size), 0);
	guest_flush_messages(m->guest);
}

/* --- messages -------------------------------------------------------------------------------------- */

static void messages_of_every_type_and_length(void **state)
{
	struct machine *m = *state;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	for (int connected = 0; connected < 2; connected++) {
		for (uint32_t type = 0; type < 40; type++) {
			for (size_t size = 4; size <= SYNIC_MESSAGE_PAYLOAD; size += size < 50 ? 1 : 13) {
				uint8_t zeros[SYNIC_MESSAGE_PAYLOAD] = {0}, ones[SYNIC_MESSAGE_PAYLOAD];

				memset(ones, 0xff, sizeof(ones));
				post_type(m, type, zeros, size);
				post_type(m, type, ones, size);
			}
		}
		assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
		assert_int_equal(guest_request_offers(m->guest), 0);
	}
	assert_true(inspect_number(m, "vmbus.messages_malformed") > 100);
	assert_true(inspect_number(m, "vmbus.messages_unknown") > 100);
	assert_true(inspect_number(m, "vmbus.messages_ignored") > 10);
	still_works(m, &echo);
}

static void other_message_types_are_not_ours(void **state)
{
	struct machine *m = *state;
	uint8_t bytes[8] = {VMBUS_MSG_UNLOAD};
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	assert_int_equal(guest_post_raw(m->guest, VMBUS_MESSAGE_CONNECTION_ID, 2, bytes, sizeof(bytes)), 0);
	assert_int_equal(guest_post_raw(m->guest, VMBUS_MESSAGE_CONNECTION_ID_4, 1, bytes, 0), 0);
	assert_int_not_equal(guest_post_raw(m->guest, 77, 1, bytes, sizeof(bytes)), 0);
	assert_int_equal(inspect_number(m, "vmbus.messages_malformed"), 2);
	still_works(m, &echo);
}

static void nothing_works_before_contact(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_open open = {.relid = 1};
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	post_type(m, VMBUS_MSG_REQUEST_OFFERS, "\0\0\0\0\0\0\0", 8);
	post_type(m, VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open));
	assert_int_equal(inspect_number(m, "vmbus.messages_ignored"), 2);
	assert_int_equal(guest_offer_count(m->guest), 0);
	assert_false(guest_has_message(m->guest, VMBUS_MSG_OPEN_CHANNEL_RESULT));
	still_works(m, &echo);
}

static void unknown_channels_are_refused(void **state)
{
	static const uint32_t relids[] = {0, 2, 2047, 2048, 0xffff, UINT32_MAX};
	struct machine *m = *state;
	struct guest_message message;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (size_t i = 0; i < ARRAY_SIZE(relids); i++) {
		struct vmbus_message_open open = {.relid = relids[i], .open_id = 5};
		struct vmbus_message_relid relid = {.relid = relids[i]};
		struct vmbus_message_modify modify = {.relid = relids[i]};
		uint64_t pfn = 300;
		uint32_t handle;

		assert_int_equal(guest_post(m->guest, VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open)), 0);
		assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_OPEN_CHANNEL_RESULT, &message), 0);
		assert_int_not_equal(((struct vmbus_message_open_result *)message.bytes)->status, 0);
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_MODIFY_CHANNEL, &modify, sizeof(modify)), 0);
		assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_MODIFY_CHANNEL_RESPONSE, &message),
				 0);
		assert_int_not_equal(((struct vmbus_message_modify_response *)message.bytes)->status, 0);
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_CLOSE_CHANNEL, &relid, sizeof(relid)), 0);
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_RELID_RELEASED, &relid, sizeof(relid)), 0);
		assert_int_equal(guest_gpadl(m->guest, relids[i], &pfn, 1, 0, 4096, &handle), -EDQUOT);
	}
	still_works(m, &echo);
}

static void sockets_towards_the_host_are_refused(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_tl_connect connect = {.service = {{1, 2, 3}}, .endpoint = {{4, 5, 6}}};
	struct vmbus_message_tl_connect_result *result;
	struct guest_message message;

	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_TL_CONNECT_REQUEST, &connect, sizeof(connect)), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_TL_CONNECT_RESULT, &message), 0);
	result = (void *)message.bytes;
	assert_int_equal(result->status, VMBUS_STATUS_CONNECTION_REFUSED);
	assert_true(guid_equal(&result->endpoint, &connect.endpoint));
	assert_true(guid_equal(&result->service, &connect.service));
}

static void offers_are_asked_for_once(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_header again;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_REQUEST_OFFERS, &again, sizeof(again)), 0);
	assert_int_equal(inspect_number(m, "vmbus.messages_ignored"), 10);
	assert_int_equal(guest_offer_count(m->guest), 1);
	assert_int_equal(guest_unload(m->guest), 0);
	still_works(m, &echo);
}

/* A guest that asks and never listens: its queue fills up, and it is told so. */
static void a_guest_that_never_reads_is_held_back(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_tl_connect connect = {.header = {.type = VMBUS_MSG_TL_CONNECT_REQUEST}};
	uint8_t *input = guest_alloc(m->guest, 1, NULL);
	unsigned accepted = 0;
	uint64_t status = 0;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	le32_put(input, VMBUS_MESSAGE_CONNECTION_ID_4);
	le32_put(input + 8, VMBUS_MESSAGE_TYPE);
	le32_put(input + 12, sizeof(connect));
	memcpy(input + 16, &connect, sizeof(connect));
	/* Posted by hand, not through the double, which would read in between. Each full queue is a barrier's
	 * worth of time for the host to work it off, if it would. */
	for (unsigned round = 0; round < 40; round++) {
		for (status = 0; status == 0 && accepted < 100000; accepted += status == 0)
			status =
			    vp_hypercall(guest_partition(m->guest), 0, 0x5c, guest_gpa(m->guest, input), 0) &
			    0xffff;
		assert_int_equal(status, 0x13); /* HV_STATUS_INSUFFICIENT_BUFFERS */
		inspect_number(m, "vmbus.messages");
	}
	/* One in the slot, 64 in the partition's queue, 256 in ours and as many unheard, and what one
	 * burst of the control thread was ahead. */
	assert_in_range(accepted, 256, 1 + 64 + 256 + 256 + 256);
	assert_in_range(inspect_number(m, "vmbus.messages_waiting"), 1, 257);
	/* It listens at last. */
	for (unsigned i = 0; i < accepted; i++)
		assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_TL_CONNECT_RESULT, NULL), 0);
	still_works(m, &echo);
}

/* --- GPADLs ---------------------------------------------------------------------------------------- */

static uint32_t created_status(struct machine *m, const void *bytes, size_t size)
{
	struct guest_message message;
	uint8_t copy[SYNIC_MESSAGE_PAYLOAD];

	memcpy(copy, bytes, size);
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_HEADER, copy, size), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_GPADL_CREATED, &message), 0);
	return ((struct vmbus_message_gpadl_created *)message.bytes)->status;
}

struct gpadl_message {
	struct vmbus_message_gpadl_header header;
	struct vmbus_gpa_range range;
	uint64_t pfns[4];
} __attribute__((packed));

static void gpadls_that_describe_nothing_are_refused(void **state)
{
	struct machine *m = *state;
	static const struct {
		uint16_t range_buffer_length, range_count;
		uint32_t byte_count, byte_offset;
		uint64_t pfn;
	} cases[] = {
	    {16, 0, 4096, 0, 300},                                  /* no range */
	    {0, 1, 4096, 0, 300},                                   /* no bytes */
	    {8, 1, 4096, 0, 300},                                   /* no page */
	    {16, 2, 4096, 0, 300},                                  /* a second range is promised */
	    {16, 65535, 4096, 0, 300},    {16, 1, 0, 0, 300},       /* an empty range */
	    {16, 1, 4097, 0, 300},                                  /* more bytes than pages */
	    {16, 1, 4096, 1, 300},        {16, 1, 4095, 4096, 300}, /* an offset outside the first page */
	    {16, 1, UINT32_MAX, 0, 300},  {16, 1, UINT32_MAX, UINT32_MAX, 300},
	    {24, 1, 4096, 0, 300},                                      /* more pages than bytes */
	    {16, 1, 4096, 0, 1 << 20},                                  /* not RAM: 4 GiB */
	    {16, 1, 4096, 0, 32 << 8},                                  /* the first page behind it */
	    {16, 1, 4096, 0, UINT64_MAX}, {16, 1, 4096, 0, 1ull << 52}, /* wraps when made an address */
	};
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct gpadl_message message = {
		    .header = {.relid = 1,
			       .gpadl = 1000,
			       .range_buffer_length = cases[i].range_buffer_length,
			       .range_count = cases[i].range_count},
		    .range = {cases[i].byte_count, cases[i].byte_offset},
		    .pfns = {cases[i].pfn, 301, 302, 303},
		};

		assert_int_not_equal(created_status(m, &message, sizeof(message)), 0);
		assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
		assert_int_equal(inspect_number(m, "vmbus.gpadl_pages"), 0);
	}
	still_works(m, &echo);
}

static void gpadl_numbers_are_unique(void **state)
{
	struct machine *m = *state;
	struct gpadl_message message = {
	    .header = {.relid = 1, .gpadl = 1000, .range_buffer_length = 16, .range_count = 1},
	    .range = {4096, 0},
	    .pfns = {300},
	};
	struct vmbus_message_gpadl_teardown teardown = {.relid = 2, .gpadl = 1000};
	struct echo echo, other;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	echo_offer(&other, m->bus, 2, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	assert_int_equal(created_status(m, &message, 36), 0);
	assert_int_not_equal(created_status(m, &message, 36), 0);
	message.header.relid = 2;
	assert_int_not_equal(created_status(m, &message, 36), 0);
	/* Torn down by another channel: not its own to tear down. */
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_TEARDOWN, &teardown, sizeof(teardown)), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 1);
	assert_int_equal(guest_gpadl_teardown(m->guest, 1, 1000), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	/* Twice: the driver that waits is not left waiting. */
	assert_int_equal(guest_gpadl_teardown(m->guest, 1, 1000), 0);
	echo_remove(&other);
	still_works(m, &echo);
}

static void unfinished_gpadls_are_bounded(void **state)
{
	struct machine *m = *state;
	struct gpadl_message message = {
	    .header = {.relid = 1, .range_buffer_length = 65528, .range_count = 1},
	    .range = {8190 * 4096, 0},
	    .pfns = {300},
	};
	struct vmbus_message_gpadl_body body = {.gpadl = 0};
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (uint32_t i = 0; i < 64; i++) {
		message.header.gpadl = i;
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_HEADER, &message, 36), 0);
	}
	assert_int_equal(inspect_number(m, "vmbus.gpadls_incomplete"), 64);
	message.header.gpadl = 64;
	assert_int_equal(created_status(m, &message, 36), VMBUS_STATUS_INSUFFICIENT_RESOURCES);
	/* Empty bodies, bodies of nothing, half a page number. */
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_BODY, &body, sizeof(body)), 0);
	body.gpadl = 99;
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_BODY, &body, sizeof(body)), 0);
	assert_int_equal(guest_gpadl_teardown(m->guest, 1, 0), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls_incomplete"), 63);
	still_works(m, &echo);
}

static void lent_memory_is_bounded(void **state)
{
	struct machine *m = *state;
	uint64_t *pfns = calloc(8190, sizeof(*pfns));
	uint32_t handle;
	unsigned count = 0, small = 0;
	struct echo echo;

	for (unsigned i = 0; i < 8190; i++)
		pfns[i] = 300 + i % 16;
	echo_offer(&echo, m->bus, 1, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	while (guest_gpadl(m->guest, 1, pfns, 8190, 0, 8190 * 4096, &handle) == 0)
		assert_true(++count < 100);
	assert_int_equal(count, 65536 / 8190);
	while (guest_gpadl(m->guest, 1, pfns, 1, 0, 4096, &handle) == 0)
		assert_true(++small < 3000);
	assert_int_equal(count + small, 24); /* the pages ran out first: 65536 - 8 * 8190 are left */
	assert_int_equal(guest_unload(m->guest), 0);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (small = 0; guest_gpadl(m->guest, 1, pfns, 1, 0, 4096, &handle) == 0; small++)
		assert_true(small < 3000);
	assert_int_equal(small, 1024);
	free(pfns);
	still_works(m, &echo);
}

static void a_ring_outlives_its_teardown(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_gpadl_teardown teardown = {.relid = 1};
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	teardown.gpadl = guest_channel_ring_gpadl(channel);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(guest_post(m->guest, VMBUS_MSG_GPADL_TEARDOWN, &teardown, sizeof(teardown)),
				 0);
	ping(channel, 1, 100);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 1);
	assert_false(guest_has_message(m->guest, VMBUS_MSG_GPADL_TORNDOWN));
	/* It cannot be opened on again meanwhile, but once closed, the answer comes. */
	assert_int_equal(guest_post_close(channel), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_GPADL_TORNDOWN, NULL), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	guest_channel_free(channel);
	still_works(m, &echo);
}

/* --- opening --------------------------------------------------------------------------------------- */

static uint32_t open_status(struct machine *m, struct vmbus_message_open open)
{
	struct guest_message message;

	assert_int_equal(guest_post(m->guest, VMBUS_MSG_OPEN_CHANNEL, &open, sizeof(open)), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_OPEN_CHANNEL_RESULT, &message), 0);
	return ((struct vmbus_message_open_result *)message.bytes)->status;
}

static void rings_must_have_the_shape_of_rings(void **state)
{
	struct machine *m = *state;
	uint32_t good, odd, shifted, foreign;
	uint64_t pfns[4];
	volatile struct vmbus_ring_header *header;
	struct echo echo, other;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	echo_offer(&other, m->bus, 2, 0, false, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	assert_int_equal(guest_gpadl_alloc(m->guest, 1, 4, pfns, &good), 0);
	assert_int_equal(guest_gpadl(m->guest, 1, pfns, 4, 0, 4 * 4096 - 8, &odd), 0);
	assert_int_equal(guest_gpadl(m->guest, 1, pfns, 4, 8, 3 * 4096, &shifted), 0);
	assert_int_equal(guest_gpadl(m->guest, 2, pfns, 4, 0, 4 * 4096, &foreign), 0);
	for (uint32_t offset = 0; offset < 7; offset++)
		if (offset != 2)
			assert_int_not_equal(
			    open_status(m, (struct vmbus_message_open){.relid = 1,
								       .ring_gpadl = good,
								       .downstream_page_offset = offset}),
			    0);
	for (unsigned shift = 8; shift < 32; shift++)
		assert_int_not_equal(
		    open_status(m, (struct vmbus_message_open){.relid = 1,
							       .ring_gpadl = good,
							       .downstream_page_offset = (1u << shift) + 2}),
		    0);
	assert_int_not_equal(
	    open_status(m, (struct vmbus_message_open){.relid = 1,
						       .ring_gpadl = good,
						       .downstream_page_offset = UINT32_MAX}),
	    0);
	assert_int_not_equal(
	    open_status(
		m, (struct vmbus_message_open){.relid = 1, .ring_gpadl = odd, .downstream_page_offset = 2}),
	    0);
	assert_int_not_equal(open_status(m, (struct vmbus_message_open){.relid = 1,
									.ring_gpadl = shifted,
									.downstream_page_offset = 2}),
			     0);
	assert_int_not_equal(open_status(m, (struct vmbus_message_open){.relid = 1,
									.ring_gpadl = foreign,
									.downstream_page_offset = 2}),
			     0);
	assert_int_not_equal(
	    open_status(
		m, (struct vmbus_message_open){.relid = 1, .ring_gpadl = 1, .downstream_page_offset = 2}),
	    0);
	assert_int_not_equal(open_status(m, (struct vmbus_message_open){.relid = 1,
									.ring_gpadl = good,
									.downstream_page_offset = 2,
									.target_vp = 4}),
			     0);
	header = guest_at(m->guest, pfns[2] * 4096);
	header->read_index = 4096;
	assert_int_not_equal(
	    open_status(
		m, (struct vmbus_message_open){.relid = 1, .ring_gpadl = good, .downstream_page_offset = 2}),
	    0);
	header->read_index = 0;
	assert_int_equal(echo.opens, 0);
	assert_int_equal(
	    open_status(
		m, (struct vmbus_message_open){.relid = 1, .ring_gpadl = good, .downstream_page_offset = 2}),
	    0);
	/* Opening twice. */
	assert_int_not_equal(
	    open_status(
		m, (struct vmbus_message_open){.relid = 1, .ring_gpadl = good, .downstream_page_offset = 2}),
	    0);
	assert_int_equal(echo.opens, 1);
	echo_remove(&other);
	still_works(m, &echo);
}

static void a_ring_may_lie_over_itself(void **state)
{
	struct machine *m = *state;
	uint64_t pfns[8];
	uint32_t handle;
	struct vmbus_message_relid close = {.relid = 1};
	struct echo echo;

	/* All pages of both rings are one page: nonsense, but only for the guest. */
	echo_offer(&echo, m->bus, 1, 0, true, false);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	guest_alloc(m->guest, 1, &pfns[0]);
	pfns[0] /= 4096;
	for (unsigned i = 1; i < 8; i++)
		pfns[i] = pfns[0];
	assert_int_equal(guest_gpadl(m->guest, 1, pfns, 8, 0, 8 * 4096, &handle), 0);
	assert_int_equal(open_status(m, (struct vmbus_message_open){.relid = 1,
								    .ring_gpadl = handle,
								    .downstream_page_offset = 4}),
			 0);
	inspect_number(m, "vmbus.messages");
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_CLOSE_CHANNEL, &close, sizeof(close)), 0);
	still_works(m, &echo);
}

/* --- rings ----------------------------------------------------------------------------------------- */

/* Break an open channel by `lie`, see it closed from our side, and opened again. */
static void breaks(struct machine *m, bool threaded, void (*lie)(struct guest_channel *channel))
{
	const struct vmbus_message_offer *offer;
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, threaded, false);
	offer = connect_and_find(m, VMBUS_VERSION(5, 3));
	channel = open_echo(m, offer, 2, 2);
	ping(channel, 1, 8);
	lie(channel);
	assert_int_equal(guest_signal(channel), 0);
	assert_true(guest_wait(is_closed, &echo));
	inspect_number(m, "vmbus.messages");
	assert_state(m, 1, "ended");
	/* Nothing more is taken from it or put into it. */
	assert_int_equal(guest_signal(channel), 0);
	assert_int_equal(channel_send(echo.channel, 1, "x", 1, false), -ESHUTDOWN);
	assert_int_not_equal(
	    open_status(m, (struct vmbus_message_open){.relid = 1,
						       .ring_gpadl = guest_channel_ring_gpadl(channel),
						       .downstream_page_offset = 2}),
	    0);
	assert_int_equal(guest_close(channel), 0);
	channel = open_echo(m, offer, 2, 2);
	ping(channel, 2, 8);
	assert_int_equal(guest_close(channel), 0);
	assert_int_equal(guest_unload(m->guest), 0);
	echo_remove(&echo);
}

static void lie_write_index(struct guest_channel *channel)
{
	poke(&guest_in_ring(channel)->write_index, guest_in_size(channel));
}

static void lie_odd_index(struct guest_channel *channel)
{
	poke(&guest_in_ring(channel)->write_index, peek(&guest_in_ring(channel)->read_index) + 3);
}

static void lie_torn_packet(struct guest_channel *channel)
{
	poke(&guest_in_ring(channel)->write_index, peek(&guest_in_ring(channel)->read_index) + 8);
}

static void lie_read_index(struct guest_channel *channel)
{
	poke(&guest_out_ring(channel)->read_index, UINT32_MAX);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 1, "x", 1), 0);
}

static void lie_packet_length(struct guest_channel *channel)
{
	struct vmbus_packet_header header = {
	    .type = VMBUS_PACKET_IN_BAND, .data_offset8 = 2, .length8 = 1000};

	assert_int_equal(guest_send_raw(channel, &header, sizeof(header)), 0);
}

static void lie_range_count(struct guest_channel *channel)
{
	struct vmbus_gpa_range range = {.byte_count = 4096};

	assert_int_equal(guest_send_gpa_direct(channel, 0, 1, &range, sizeof(range), 1, NULL, 0), 0);
}

static void lie_many_ranges(struct guest_channel *channel)
{
	struct vmbus_gpa_range ranges[2] = {{0, 0}, {0, 0}};

	assert_int_equal(guest_send_gpa_direct(channel, 0, 1, ranges, sizeof(ranges), UINT32_MAX, NULL, 0),
			 0);
}

static void lie_range_offset(struct guest_channel *channel)
{
	uint64_t range[3] = {0xffffffff00000008ull, 300, 301};

	assert_int_equal(guest_send_gpa_direct(channel, 0, 1, range, sizeof(range), 1, NULL, 0), 0);
}

static void lie_no_room_for_ranges(struct guest_channel *channel)
{
	struct vmbus_packet_header header = {
	    .type = VMBUS_PACKET_GPA_DIRECT, .data_offset8 = 2, .length8 = 2};

	assert_int_equal(guest_send_raw(channel, &header, sizeof(header)), 0);
}

static void lie_transfer_ranges(struct guest_channel *channel)
{
	struct {
		struct vmbus_packet_header header;
		struct vmbus_transfer_page_header transfer;
	} packet = {{.type = VMBUS_PACKET_TRANSFER_PAGES, .data_offset8 = 3, .length8 = 3},
		    {.range_count = 0x20000001}};

	assert_int_equal(guest_send_raw(channel, &packet, sizeof(packet)), 0);
}

static void lies_close_the_channel(void **state)
{
	static void (*const lies[])(struct guest_channel *) = {
	    lie_write_index, lie_odd_index,   lie_torn_packet,  lie_read_index,         lie_packet_length,
	    lie_range_count, lie_many_ranges, lie_range_offset, lie_no_room_for_ranges, lie_transfer_ranges};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		breaks(*state, false, lies[i]);
		breaks(*state, true, lies[i]);
	}
}

static void a_broken_channel_may_be_removed(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	channel_break(echo.channel, "the test says so");
	assert_true(guest_wait(is_closed, &echo));
	echo_remove(&echo);
	assert_int_equal(guest_close(channel), 0);
	assert_int_equal(guest_wait_rescind(m->guest, 1), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	assert_int_equal(echo.closes, 1);
}

/* --- any order ------------------------------------------------------------------------------------- */

struct walk {
	struct machine *m;
	uint64_t random;
	struct echo echo[4];
	bool offered[4];
	struct guest_channel *channels[16];
	unsigned channel_count;
};

static unsigned choose(struct walk *walk, unsigned below)
{
	walk->random = walk->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(walk->random >> 33) % below;
}

static void forget_channels(struct walk *walk)
{
	while (walk->channel_count)
		guest_channel_free(walk->channels[--walk->channel_count]);
}

static void toggle_offer(struct walk *walk)
{
	unsigned i = choose(walk, 4);

	if (walk->offered[i])
		echo_remove(&walk->echo[i]);
	else
		echo_offer(&walk->echo[i], walk->m->bus, (uint8_t)i, 0, i % 2, i / 2);
	walk->offered[i] = !walk->offered[i];
}

static void step(struct walk *walk)
{
	struct guest *guest = walk->m->guest;
	struct vmbus_message_offer offer = {.relid = 1 + choose(walk, 6)};
	struct vmbus_message_relid relid = {.relid = offer.relid};
	struct vmbus_message_modify modify = {.relid = offer.relid, .target_vp = choose(walk, 5)};
	struct guest_channel *channel;

	offer.connection_id = 0x10000 + offer.relid;
	switch (choose(walk, 10)) {
	case 0:
		toggle_offer(walk);
		break;
	case 1:
		if (choose(walk, 8) == 0) {
			forget_channels(walk);
			guest_connect(guest, VMBUS_VERSION(5, 3));
			guest_request_offers(guest);
		}
		break;
	case 2:
	case 3:
	case 4:
		if (walk->channel_count < 16 &&
		    guest_open(guest, &offer, 2 + choose(walk, 2), 2, NULL, &channel) == 0)
			walk->channels[walk->channel_count++] = channel;
		break;
	case 5:
		if (walk->channel_count)
			guest_close(walk->channels[--walk->channel_count]);
		break;
	case 6:
		guest_post(guest, VMBUS_MSG_CLOSE_CHANNEL, &relid, sizeof(relid));
		break;
	case 7:
		guest_post(guest, VMBUS_MSG_RELID_RELEASED, &relid, sizeof(relid));
		break;
	case 8:
		guest_post(guest, VMBUS_MSG_MODIFY_CHANNEL, &modify, sizeof(modify));
		break;
	default:
		if (walk->channel_count) {
			channel = walk->channels[choose(walk, walk->channel_count)];
			guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 1, "12345678", 8);
			guest_signal(channel);
		}
		break;
	}
	guest_flush_messages(guest);
}

static void anything_in_any_order(void **state)
{
	struct machine *m = *state;

	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct walk *walk = calloc(1, sizeof(*walk));

		walk->m = m;
		walk->random = seed;
		assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
		assert_int_equal(guest_request_offers(m->guest), 0);
		for (unsigned i = 0; i < 120; i++)
			step(walk);
		forget_channels(walk);
		for (unsigned i = 0; i < 4; i++) {
			if (!walk->offered[i])
				continue;
			echo_remove(&walk->echo[i]);
			assert_int_equal(walk->echo[i].opens, walk->echo[i].closes);
		}
		assert_int_equal(guest_unload(m->guest), 0);
		assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
		free(walk);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up_quiet, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    CASE(messages_of_every_type_and_length),
	    CASE(other_message_types_are_not_ours),
	    CASE(nothing_works_before_contact),
	    CASE(unknown_channels_are_refused),
	    CASE(sockets_towards_the_host_are_refused),
	    CASE(offers_are_asked_for_once),
	    CASE(a_guest_that_never_reads_is_held_back),
	    CASE(gpadls_that_describe_nothing_are_refused),
	    CASE(gpadl_numbers_are_unique),
	    CASE(unfinished_gpadls_are_bounded),
	    CASE(lent_memory_is_bounded),
	    CASE(a_ring_outlives_its_teardown),
	    CASE(rings_must_have_the_shape_of_rings),
	    CASE(a_ring_may_lie_over_itself),
	    CASE(lies_close_the_channel),
	    CASE(a_broken_channel_may_be_removed),
	    CASE(anything_in_any_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
