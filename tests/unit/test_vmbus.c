// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_vmbus.c - the bus as a guest sees it: contact, offers, GPADLs, channels, packets, signals.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/double/bus_machine.h"

/* A packet into an empty ring that nobody reads meanwhile: the guest must hear of it. */
static bool signals(struct echo *echo, struct guest_channel *channel)
{
	struct vmbus_packet_header header;
	bool signalled;

	guest_take_event(channel);
	assert_int_equal(channel_send(echo->channel, 77, NULL, 0, false), 0);
	signalled = guest_take_event(channel);
	assert_int_equal(guest_receive(channel, &header, NULL, 0), 0);
	assert_int_equal(header.transaction_id, 77);
	return signalled;
}

/* --- contact --------------------------------------------------------------------------------------- */

static const uint32_t versions[] = {
    VMBUS_VERSION(0, 13), VMBUS_VERSION(1, 1), VMBUS_VERSION(2, 4), VMBUS_VERSION(3, 0), VMBUS_VERSION(4, 0),
    VMBUS_VERSION(4, 1),  VMBUS_VERSION(5, 0), VMBUS_VERSION(5, 1), VMBUS_VERSION(5, 2), VMBUS_VERSION(5, 3),
};

static void every_version_carries_packets(void **state)
{
	struct machine *m = *state;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		const struct vmbus_message_offer *offer = connect_and_find(m, versions[i]);
		struct guest_channel *channel = open_echo(m, offer, 3, 3);

		assert_int_equal(vmbus_version(m->bus), versions[i]);
		assert_int_equal(echo.last_open.version, versions[i]);
		assert_int_equal(guest_message_connection(m->guest),
				 versions[i] >= VMBUS_VERSION(5, 0) ? 4 : 1);
		assert_int_equal(offer->is_dedicated_interrupt, versions[i] != VMBUS_VERSION(0, 13));
		for (unsigned n = 0; n < 200; n++)
			ping(channel, n, 8 + n * 5);
		assert_true(signals(&echo, channel));
		assert_int_equal(guest_close(channel), 0);
		assert_true(guest_wait(is_closed, &echo));
		assert_int_equal(guest_unload(m->guest), 0);
		assert_int_equal(vmbus_version(m->bus), 0);
	}
	echo_remove(&echo);
}

static void unknown_versions_are_refused(void **state)
{
	static const uint32_t unknown[] = {0,
					   VMBUS_VERSION(0, 12),
					   VMBUS_VERSION(1, 0),
					   VMBUS_VERSION(4, 2),
					   VMBUS_VERSION(5, 4),
					   VMBUS_VERSION(6, 0),
					   UINT32_MAX};
	struct machine *m = *state;

	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		assert_int_equal(guest_connect(m->guest, unknown[i]), -ECONNREFUSED);
		assert_int_equal(vmbus_version(m->bus), 0);
	}
	/* As Linux does it: newest first, then what the host knows. */
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
}

static void contact_names_the_message_processor(void **state)
{
	struct machine *m = *state;

	assert_int_equal(guest_connect_vp(m->guest, VMBUS_VERSION(5, 3), 3), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	assert_int_equal(guest_unload(m->guest), 0);
	/* No such processor: refused, on processor 0. */
	assert_int_equal(guest_connect_vp(m->guest, VMBUS_VERSION(5, 3), 4), -ECONNREFUSED);
}

static void contact_with_bad_targets_is_refused(void **state)
{
	struct machine *m = *state;
	struct vmbus_message_initiate_contact contact = {.version = VMBUS_VERSION(5, 2)};
	struct guest_message message;

	contact.message_target.sint = 16;
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_INITIATE_CONTACT, &contact, sizeof(contact)), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_VERSION_RESPONSE, &message), 0);
	assert_int_equal(((struct vmbus_message_version_response *)message.bytes)->supported, 0);
	contact.message_target.sint = 2;
	contact.message_target.vtl = 1;
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_INITIATE_CONTACT, &contact, sizeof(contact)), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_VERSION_RESPONSE, &message), 0);
	assert_int_equal(((struct vmbus_message_version_response *)message.bytes)->supported, 0);
	/* 1.1 cannot do without its interrupt page. */
	contact.version = VMBUS_VERSION(1, 1);
	contact.interrupt_page = 1ull << 40;
	assert_int_equal(guest_post(m->guest, VMBUS_MSG_INITIATE_CONTACT, &contact, sizeof(contact)), 0);
	assert_int_equal(guest_wait_message(m->guest, VMBUS_MSG_VERSION_RESPONSE, &message), 0);
	assert_int_equal(((struct vmbus_message_version_response *)message.bytes)->supported, 0);
}

static void contact_again_starts_over(void **state)
{
	struct machine *m = *state;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	ping(open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2), 1, 16);
	/* A kexec'd kernel: contact with no unload. The channel it does not know is closed. */
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 1)), 0);
	assert_true(guest_wait(is_closed, &echo));
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	ping(open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2), 1, 16);
	vmbus_reset(m->bus);
	assert_true(is_closed(&echo));
	assert_int_equal(vmbus_version(m->bus), 0);
	assert_int_equal(inspect_number(m, "vmbus.gpadl_pages"), 0);
	echo_remove(&echo);
}

/* --- offers ---------------------------------------------------------------------------------------- */

static void offers_come_and_go(void **state)
{
	struct machine *m = *state;
	struct echo first, second, third;
	uint32_t relid;

	echo_offer(&first, m->bus, 1, 0, false, false);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
	echo_offer(&second, m->bus, 2, 0, false, false);
	/* Nothing before it is asked for. */
	inspect_number(m, "vmbus.messages");
	assert_int_equal(guest_offer_count(m->guest), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	assert_int_equal(guest_offer_count(m->guest), 2);
	/* Hot add. */
	echo_offer(&third, m->bus, 3, 0, false, false);
	assert_non_null(guest_find_instance(m->guest, &echo_interface, &(struct guid){{3}}, 0));
	/* Hot remove: the number stays taken until the guest has let it go. */
	relid = guest_find_instance(m->guest, &echo_interface, &(struct guid){{2}}, 0)->relid;
	echo_remove(&second);
	assert_state(m, relid, "removed");
	assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
	assert_false(has_channel(m, relid));
	assert_int_equal(guest_offer_count(m->guest), 2);
	echo_remove(&first);
	echo_remove(&third);
}

static void removing_an_open_channel_closes_it(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct echo echo;
	uint32_t relid;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	ping(channel, 1, 8);
	relid = guest_channel_relid(channel);
	echo_remove(&echo);
	assert_int_equal(echo.closes, 1);
	/* As Linux does it: close, teardown, release. */
	assert_int_equal(guest_close(channel), 0);
	assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
	assert_false(has_channel(m, relid));
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	/* The same device may be offered again. */
	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2);
	ping(channel, 2, 8);
	echo_remove(&echo);
	guest_channel_free(channel);
}

static void a_guest_that_never_releases_costs_only_its_number(void **state)
{
	struct machine *m = *state;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	echo_remove(&echo);
	assert_state(m, 1, "removed");
	assert_int_equal(guest_unload(m->guest), 0);
	assert_false(has_channel(m, 1));
}

/* Linux takes no notice of a device that it has not let go of yet. */
static void an_offer_waits_for_the_release(void **state)
{
	struct machine *m = *state;
	struct echo echo, other;
	uint32_t relid, second;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	relid = connect_and_find(m, VMBUS_VERSION(5, 3))->relid;
	for (unsigned i = 0; i < 3; i++) {
		echo_remove(&echo);
		echo_offer(&echo, m->bus, 1, 0, false, false);
		echo_offer(&other, m->bus, 2, 0, false, false);
		second = guest_find_instance(m->guest, &echo_interface, &(struct guid){{2}}, 0)->relid; /* others do not wait */
		assert_int_equal(guest_offer_count(m->guest), 1);
		assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
		relid = guest_find_instance(m->guest, &echo_interface, &(struct guid){{1}}, 0)->relid;
		echo_remove(&other);
		assert_int_equal(guest_wait_rescind(m->guest, second), 0);
	}
	/* One that was never told of is forgotten without a word. */
	echo_remove(&echo);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	inspect_number(m, "vmbus.messages");
	echo_remove(&echo);
	assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
	assert_int_equal(guest_offer_count(m->guest), 0);
}

/* Whoever never releases has the device with the next connection. */
static void an_offer_that_waits_comes_with_the_next_connection(void **state)
{
	struct machine *m = *state;
	struct echo echo;
	uint32_t first;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	first = connect_and_find(m, VMBUS_VERSION(5, 3))->relid;
	echo_remove(&echo);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	assert_int_equal(guest_release_relid(m->guest, first + 1), 0); /* a lie: nothing comes of it */
	inspect_number(m, "vmbus.messages");
	assert_int_equal(guest_offer_count(m->guest), 0);
	assert_state(m, first, "removed");
	assert_int_equal(guest_unload(m->guest), 0);
	ping(open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2), 1, 8);
	echo_remove(&echo);
}

static void twins_are_refused(void **state)
{
	static const struct channel_ops none;
	struct machine *m = *state;
	struct channel_offer offer = {.interface = echo_interface, .instance = {{1}}, .name = "twin"};
	struct channel *channel;
	struct error err = {0};
	struct echo echo, sub;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	assert_int_equal(vmbus_offer(m->bus, &offer, &none, NULL, &channel, &err), -EEXIST);
	assert_null(channel);
	assert_non_null(strstr(err.text, "twin"));
	echo_offer(&sub, m->bus, 1, 1, false, false);
	echo_remove(&sub);
	echo_remove(&echo);
}

static void relids_are_bounded(void **state)
{
	static const struct channel_ops none;
	struct machine *m = *state;
	struct channel **channels = calloc(2048, sizeof(*channels));
	struct error err = {0};
	unsigned count = 0;

	for (unsigned i = 0; i < 2048; i++) {
		struct channel_offer offer = {.interface = echo_interface, .name = "many"};

		le32_put(offer.instance.bytes, i);
		if (vmbus_offer(m->bus, &offer, &none, NULL, &channels[count], &err) == 0)
			count++;
	}
	assert_int_equal(count, 2047);
	assert_int_equal(err.code, ENOSPC);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	assert_int_equal(guest_offer_count(m->guest), 2047);
	for (unsigned i = 0; i < count; i++)
		channel_remove(channels[i]);
	free(channels);
}

/* --- open, close, modify --------------------------------------------------------------------------- */

static void open_and_close_many_times(void **state)
{
	struct machine *m = *state;
	const struct vmbus_message_offer *offer;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	offer = connect_and_find(m, VMBUS_VERSION(5, 3));
	for (unsigned i = 0; i < 100; i++) {
		struct guest_channel *channel = open_echo(m, offer, 2 + i % 3, 2 + i % 2);

		ping(channel, i, 100);
		assert_int_equal(guest_close(channel), 0);
	}
	assert_int_equal(echo.opens, 100);
	assert_int_equal(echo_count(&echo.closes), 100);
	assert_int_equal(inspect_number(m, "vmbus.gpadls"), 0);
	echo_remove(&echo);
}

static void a_provider_may_refuse(void **state)
{
	struct machine *m = *state;
	const struct vmbus_message_offer *offer;
	struct guest_channel *channel;
	struct echo echo;

	log_set_level(LOG_LEVEL_ERROR);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	echo.refuse_open = -ENOMEM;
	offer = connect_and_find(m, VMBUS_VERSION(5, 3));
	assert_int_equal(guest_open(m->guest, offer, 2, 2, NULL, &channel), -ECONNREFUSED);
	assert_int_equal(guest_open_status(m->guest), VMBUS_STATUS_INSUFFICIENT_RESOURCES);
	assert_state(m, offer->relid, "offered");
	echo.refuse_open = 0;
	channel = open_echo(m, offer, 2, 2);
	ping(channel, 1, 8);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void user_data_and_target_reach_the_provider(void **state)
{
	struct machine *m = *state;
	struct guest_open_options options = {.target_vp = 2, .user_defined = "for the provider"};
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	assert_int_equal(
	    guest_open(m->guest, connect_and_find(m, VMBUS_VERSION(5, 3)), 3, 5, &options, &channel), 0);
	assert_int_equal(echo.last_open.target_vp, 2);
	assert_int_equal(echo.last_open.in_size, 2 * 4096);
	assert_int_equal(echo.last_open.out_size, 4 * 4096);
	assert_string_equal(echo.last_open.user_defined, "for the provider");
	ping(channel, 1, 8);
	assert_true(signals(&echo, channel));
	assert_int_equal(guest_modify(channel, 3), 0);
	assert_int_equal(channel_target_vp(echo.channel), 3);
	ping(channel, 2, 8);
	assert_true(signals(&echo, channel));
	assert_int_equal(guest_modify(channel, 4), -EINVAL);
	assert_int_equal(channel_target_vp(echo.channel), 3);
	assert_int_equal(guest_close(channel), 0);
	/* A closed channel cannot be moved. */
	options.target_vp = 4;
	log_set_level(LOG_LEVEL_ERROR);
	assert_int_equal(
	    guest_open(m->guest, guest_find_offer(m->guest, &echo_interface, 0), 2, 2, &options, &channel),
	    -ECONNREFUSED);
	assert_int_equal(echo.opens, 1);
	echo_remove(&echo);
}

static void modify_has_no_answer_before_5_3(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 2)), 2, 2);
	assert_int_equal(guest_modify(channel, 1), 0);
	inspect_number(m, "vmbus.messages");
	assert_int_equal(channel_target_vp(echo.channel), 1);
	assert_false(guest_has_message(m->guest, VMBUS_MSG_MODIFY_CHANNEL_RESPONSE));
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void subchannels_work_beside_their_primary(void **state)
{
	struct machine *m = *state;
	const struct vmbus_message_offer *offer = NULL;
	struct guest_channel *channels[4];
	struct echo echo, subs[3];

	echo_offer(&echo, m->bus, 1, 0, true, false);
	channels[0] = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	for (uint16_t i = 0; i < 3; i++) {
		echo_offer(&subs[i], m->bus, 1, i + 1, true, false);
		offer = guest_find_offer(m->guest, &echo_interface, i + 1);
		assert_non_null(offer);
		channels[i + 1] = open_echo(m, offer, 2, 2);
	}
	for (unsigned n = 0; n < 50; n++)
		for (unsigned i = 0; i < 4; i++)
			ping(channels[i], n * 4 + i, 64);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(guest_close(channels[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		echo_remove(&subs[i]);
	echo_remove(&echo);
}

/* --- packets --------------------------------------------------------------------------------------- */

static void packets_wrap_over_scattered_pages(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct echo echo;

	guest_set_scatter(m->guest, true);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 4, 3);
	for (unsigned n = 0; n < 3000; n++)
		ping(channel, n, n % 4000);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void many_packets_are_in_flight(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	uint64_t sent = 0, received = 0, payload[5] = {0};
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 3, 3);
	while (received < 20000) {
		int r;

		while (sent < 20000) {
			payload[0] = sent;
			r = guest_send(channel, VMBUS_PACKET_IN_BAND, 0, sent, payload, 8 + sent % 4 * 8);
			if (r == -EAGAIN)
				break;
			assert_int_equal(r, 0);
			sent++;
		}
		r = guest_receive(channel, &header, payload, sizeof(payload));
		assert_int_equal(r, 8 + received % 4 * 8);
		assert_int_equal(header.transaction_id, received);
		assert_int_equal(payload[0], received);
		received++;
	}
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void gpa_direct_reaches_guest_memory(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	uint8_t *memory = guest_alloc(m->guest, 8, NULL), reply[16];
	struct {
		struct vmbus_gpa_range range;
		uint64_t pfns[3];
	} ranges[2];
	gpa_t gpa = guest_gpa(m->guest, memory);
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	assert_int_equal(guest_send_buffer(channel, 9, memory + 100, 9000, "x", 1), 0);
	assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 8);
	assert_int_equal(le64_get(reply), 9000);
	assert_int_equal(header.transaction_id, 9);
	for (unsigned i = 0; i < 8 * 4096; i++)
		assert_int_equal(memory[i], i >= 100 && i < 9100 ? 0xff : 0);
	/* Two ranges, pages in any order. */
	memset(memory, 0, 8 * 4096);
	ranges[0].range = (struct vmbus_gpa_range){.byte_count = 2 * 4096 + 8, .byte_offset = 4088};
	ranges[1].range = (struct vmbus_gpa_range){.byte_count = 3 * 4096, .byte_offset = 0};
	for (unsigned i = 0; i < 3; i++) {
		ranges[0].pfns[i] = gpa / 4096 + 4 - 2 * i;
		ranges[1].pfns[i] = gpa / 4096 + 5 + i % 2;
	}
	assert_int_equal(guest_send_gpa_direct(channel, 1, 10, ranges, sizeof(ranges), 2, NULL, 0), 0);
	assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 8);
	assert_int_equal(le64_get(reply), 5 * 4096 + 8);
	assert_int_equal(memory[4 * 4096 + 4087], 0);
	assert_int_equal(memory[4 * 4096 + 4088], 0xff);
	assert_int_equal(memory[2 * 4096], 0xff);
	assert_int_equal(memory[0], 0xff);
	assert_int_equal(memory[4095], 0xff);
	assert_int_equal(memory[5 * 4096], 0); /* twice inverted */
	assert_int_equal(memory[6 * 4096], 0xff);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void packets_that_do_not_fit_are_consumed(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	uint8_t *big = calloc(1, 20000);
	uint64_t ranges[1 + 70];
	gpa_t gpa;
	struct echo echo;

	guest_alloc(m->guest, 2, &gpa);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 9, 2);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 1, big, 20000), 0);
	assert_true(guest_wait(no_zero, &echo.too_large));
	ping(channel, 2, 8);
	/* More pieces than the provider takes: 70 pages that do not touch. */
	le32_put(&ranges[0], 70 * 4096);
	le32_put((uint8_t *)&ranges[0] + 4, 0);
	for (unsigned i = 0; i < 70; i++)
		ranges[1 + i] = gpa / 4096;
	assert_int_equal(guest_send_gpa_direct(channel, 0, 3, ranges, sizeof(ranges), 1, NULL, 0), 0);
	ping(channel, 4, 8);
	assert_int_equal(echo_count(&echo.too_large), 2);
	/* A page that is not memory, one past every address. */
	ranges[0] = 4096;
	ranges[1] = 1ull << 40;
	assert_int_equal(guest_send_gpa_direct(channel, 0, 5, ranges, 16, 1, NULL, 0), 0);
	ranges[1] = UINT64_MAX;
	assert_int_equal(guest_send_gpa_direct(channel, 0, 5, ranges, 16, 1, NULL, 0), 0);
	ping(channel, 6, 8);
	assert_int_equal(echo_count(&echo.faults), 2);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
	free(big);
}

static void transfer_pages_go_both_ways(void **state)
{
	struct machine *m = *state;
	static const struct vmbus_transfer_page_range ranges[2] = {{100, 0}, {200, 4096}};
	struct {
		struct vmbus_packet_header header;
		struct vmbus_transfer_page_header transfer;
		struct vmbus_transfer_page_range ranges[2];
		uint64_t payload;
	} packet;
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	assert_int_equal(channel_send_transfer_pages(echo.channel, 7, 0xcafe, ranges, 2, "payload!", 8, true),
			 0);
	assert_int_equal(guest_receive_raw(channel, &packet, sizeof(packet)), sizeof(packet));
	assert_int_equal(packet.header.type, VMBUS_PACKET_TRANSFER_PAGES);
	assert_int_equal(packet.header.flags, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED);
	assert_int_equal(packet.transfer.set_id, 0xcafe);
	assert_int_equal(packet.transfer.range_count, 2);
	assert_memory_equal(packet.ranges, ranges, sizeof(ranges));
	assert_memory_equal(&packet.payload, "payload!", 8);
	/* And back: an echo sees the payload only. */
	assert_int_equal(guest_send_raw(channel, &packet, sizeof(packet)), 0);
	packet.payload = 0;
	{
		struct vmbus_packet_header header;

		assert_int_equal(guest_receive(channel, &header, &packet.payload, 8), 8);
		assert_int_equal(header.transaction_id, 7);
	}
	assert_memory_equal(&packet.payload, "payload!", 8);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void providers_use_gpadls(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	uint64_t pfns[700];
	uint8_t request[16] = "gpadl", reply[16];
	uint32_t handle;
	struct echo echo;

	guest_set_scatter(m->guest, true);
	echo_offer(&echo, m->bus, 1, 0, true, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	assert_int_equal(guest_gpadl_alloc(m->guest, guest_channel_relid(channel), 700, pfns, &handle), 0);
	le32_put(request + 8, handle);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 1, request, sizeof(request)), 0);
	assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 16);
	for (unsigned i = 0; i < 700; i++) {
		const uint8_t *page = guest_at(m->guest, pfns[i] * 4096);

		assert_int_equal(page[0], 0xff);
		assert_int_equal(page[4095], 0xff);
	}
	assert_int_equal(guest_gpadl_teardown(m->guest, guest_channel_relid(channel), handle), 0);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 1, request, sizeof(request)), 0);
	assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 16);
	assert_int_equal(echo_count(&echo.errors), 1);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

/* --- signals --------------------------------------------------------------------------------------- */

static void the_interrupt_page_is_looked_at(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	uint8_t reply[8];
	struct echo echo;

	/* iPXE: version 3.0, dedicated interrupts offered, and yet it uses the page. */
	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(3, 0)), 2, 2);
	ping(channel, 1, 8);
	poke(&guest_in_ring(channel)->interrupt_mask, 1); /* so that guest_send does not signal by itself */
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 2, "12345678", 8), 0);
	assert_int_equal(guest_signal_interrupt_page(channel), 0);
	assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 8);
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

static void monitor_triggers_are_found(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct vmbus_packet_header header;
	const struct vmbus_message_offer *offer;
	uint8_t reply[8];
	struct echo plain, echo;

	echo_offer(&plain, m->bus, 2, 0, false, false);
	echo_offer(&echo, m->bus, 1, 0, true, true);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	offer = guest_find_instance(m->guest, &echo_interface, &(struct guid){{2}}, 0);
	assert_int_equal(offer->monitor_allocated, 0);
	offer = guest_find_instance(m->guest, &echo_interface, &(struct guid){{1}}, 0);
	assert_int_equal(offer->monitor_allocated, 1);
	channel = open_echo(m, offer, 2, 2);
	ping(channel, 0, 8);
	for (unsigned n = 1; n < 20; n++) {
		poke(&guest_in_ring(channel)->interrupt_mask, 1);
		assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, n, "12345678", 8), 0);
		guest_signal_monitor(channel);
		assert_int_equal(guest_receive(channel, &header, reply, sizeof(reply)), 8);
		assert_int_equal(header.transaction_id, n);
	}
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
	echo_remove(&plain);
}

static void a_masked_guest_is_not_signalled(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, false, false);
	channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	poke(&guest_out_ring(channel)->interrupt_mask, 1);
	assert_false(signals(&echo, channel));
	poke(&guest_out_ring(channel)->interrupt_mask, 0);
	assert_true(signals(&echo, channel));
	/* Only the first packet into an empty ring signals. */
	assert_int_equal(channel_send(echo.channel, 3, NULL, 0, false), 0);
	assert_true(guest_take_event(channel));
	assert_int_equal(channel_send(echo.channel, 4, NULL, 0, false), 0);
	assert_false(guest_take_event(channel));
	assert_int_equal(guest_close(channel), 0);
	echo_remove(&echo);
}

/* --- full rings ------------------------------------------------------------------------------------ */

struct flood {
	struct guest_channel *channel;
	uint64_t sent, received;
};

/* The guest sends until both rings are full and the host has given up. */
static void fill_both(struct flood *flood, struct echo *echo)
{
	static const uint8_t payload[200];

	while (echo_count(&echo->full) == 0) {
		int r = guest_send(flood->channel, VMBUS_PACKET_IN_BAND, 0, flood->sent, payload,
				   sizeof(payload));

		if (r == 0)
			flood->sent++;
		else
			assert_int_equal(r, -EAGAIN);
	}
}

static void drain_all(struct flood *flood)
{
	struct vmbus_packet_header header;
	uint8_t payload[200];

	for (; flood->received < flood->sent; flood->received++) {
		assert_int_equal(guest_receive(flood->channel, &header, payload, sizeof(payload)), 200);
		assert_int_equal(header.transaction_id, flood->received);
	}
}

static void the_host_waits_for_room(void **state)
{
	struct machine *m = *state;
	struct echo echo;

	for (int promised = 1; promised >= 0; promised--) {
		struct guest_open_options options = {.no_pending_send_size = !promised};
		struct flood flood = {0};

		echo_offer(&echo, m->bus, 1, 0, true, false);
		assert_int_equal(guest_open(m->guest, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2,
					    &options, &flood.channel),
				 0);
		fill_both(&flood, &echo);
		assert_int_not_equal(peek(&guest_out_ring(flood.channel)->pending_send_size), 0);
		drain_all(&flood);
		assert_int_equal(peek(&guest_out_ring(flood.channel)->pending_send_size), 0);
		assert_int_equal(guest_close(flood.channel), 0);
		assert_int_equal(guest_unload(m->guest), 0);
		echo_remove(&echo);
	}
}

static bool take_event(void *context)
{
	return guest_take_event(context);
}

static void the_guest_is_told_of_room(void **state)
{
	struct machine *m = *state;
	static const uint8_t payload[200];
	struct flood flood = {0};
	struct vmbus_packet_header header;
	uint8_t reply[200];
	struct echo echo;

	echo_offer(&echo, m->bus, 1, 0, true, false);
	flood.channel = open_echo(m, connect_and_find(m, VMBUS_VERSION(5, 3)), 2, 2);
	fill_both(&flood, &echo);
	while (guest_send(flood.channel, VMBUS_PACKET_IN_BAND, 0, flood.sent, payload, sizeof(payload)) == 0)
		flood.sent++;
	/* The guest's ring is full and it says what it waits for; the host's ring is full too, masked so
	 * that only news of room can signal. */
	poke(&guest_in_ring(flood.channel)->pending_send_size, 1024);
	poke(&guest_out_ring(flood.channel)->interrupt_mask, 1);
	guest_take_event(flood.channel);
	for (; flood.received < flood.sent / 2; flood.received++)
		assert_int_equal(guest_receive(flood.channel, &header, reply, sizeof(reply)), 200);
	assert_true(guest_wait(take_event, flood.channel));
	poke(&guest_in_ring(flood.channel)->pending_send_size, 0);
	drain_all(&flood);
	assert_int_equal(guest_close(flood.channel), 0);
	echo_remove(&echo);
}

struct family {
	struct echo primary, sub;
	struct channel_ops ops;
	struct vmbus *bus;
	struct channel *channel;
};

static int family_open(void *provider, struct channel *channel, const struct channel_open *open)
{
	struct family *family = provider;

	echo_offer(&family->sub, family->bus, 1, 1, true, false);
	return 0;
}

static void family_close(void *provider, struct channel *channel)
{
	echo_remove(&((struct family *)provider)->sub);
}

static void family_event(void *provider, struct channel *channel)
{
}

static void subchannels_may_be_removed_while_their_primary_closes(void **state)
{
	struct machine *m = *state;
	struct channel_offer offer = {.interface = echo_interface, .instance = {{1}}, .name = "family"};
	struct family family = {.bus = m->bus, .ops = {family_open, family_close, family_event}};
	struct guest_channel *primary, *sub;

	assert_int_equal(vmbus_offer(m->bus, &offer, &family.ops, &family, &family.channel, NULL), 0);
	connect_and_find(m, VMBUS_VERSION(5, 3));
	for (unsigned i = 0; i < 3; i++) {
		uint32_t relid;

		primary = open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2);
		sub = open_echo(m, guest_find_offer(m->guest, &echo_interface, 1), 2, 2);
		ping(sub, 1, 8);
		relid = guest_channel_relid(sub);
		if (i == 1)
			assert_int_equal(guest_close(sub), 0);
		assert_int_equal(guest_close(primary), 0);
		if (i != 1)
			assert_int_equal(guest_close(sub), 0);
		assert_int_equal(guest_wait_rescind(m->guest, relid), 0);
	}
	primary = open_echo(m, guest_find_offer(m->guest, &echo_interface, 0), 2, 2);
	sub = open_echo(m, guest_find_offer(m->guest, &echo_interface, 1), 2, 2);
	assert_int_equal(guest_unload(m->guest), 0);
	guest_channel_free(primary);
	guest_channel_free(sub);
	channel_remove(family.channel);
}

/* --- dirty pages ------------------------------------------------------------------------------------ */

static bool page_told(struct machine *m, const uint64_t *bits, const volatile void *memory)
{
	uint64_t page = guest_gpa(m->guest, (const void *)memory) >> GUEST_PAGE_SHIFT;

	return bits[page / 64] >> (page % 64) & 1;
}

/* The double itself writes as no VP and no device does, so all that is told the bus wrote. */
static void what_the_bus_writes_is_told(void **state)
{
	struct machine *m = *state;
	struct partition *p = guest_partition(m->guest);
	const uint64_t size = partition_memory_size(p);
	static uint64_t bits[(32u << 20) / GUEST_PAGE_SIZE / 64];
	struct echo echo;

	assert_true(size <= sizeof(bits) * 8 * GUEST_PAGE_SIZE);
	echo_offer(&echo, m->bus, 1, 0, false, false);
	for (unsigned i = 0; i < 2; i++) {
		const struct vmbus_message_offer *offer =
		    connect_and_find(m, i ? VMBUS_VERSION(5, 3) : VMBUS_VERSION(0, 13));
		struct guest_channel *channel = open_echo(m, offer, 2, 2);
		const volatile uint8_t *ours = (const volatile void *)guest_out_ring(channel);

		ping(channel, 1, 8);
		assert_int_equal(partition_track_dirty(p, true, NULL), 0);
		assert_int_equal(partition_fetch_dirty(p, 0, size, bits), 0);
		for (unsigned n = 0; n < 3; n++) {
			ping(channel, n, 64);
			assert_int_equal(partition_fetch_dirty(p, 0, size, bits), 0);
			assert_true(page_told(m, bits, guest_in_ring(channel))); /* read up to here */
			assert_true(page_told(m, bits, ours));                   /* written up to here */
			assert_true(page_told(m, bits, ours + GUEST_PAGE_SIZE)); /* the packet */
		}
		assert_int_equal(partition_track_dirty(p, false, NULL), 0);
		assert_int_equal(guest_close(channel), 0);
		assert_true(guest_wait(is_closed, &echo));
		assert_int_equal(guest_unload(m->guest), 0);
	}
	echo_remove(&echo);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    CASE(every_version_carries_packets),
	    CASE(unknown_versions_are_refused),
	    CASE(contact_names_the_message_processor),
	    CASE(contact_with_bad_targets_is_refused),
	    CASE(contact_again_starts_over),
	    CASE(offers_come_and_go),
	    CASE(removing_an_open_channel_closes_it),
	    CASE(a_guest_that_never_releases_costs_only_its_number),
	    CASE(an_offer_waits_for_the_release),
	    CASE(an_offer_that_waits_comes_with_the_next_connection),
	    CASE(twins_are_refused),
	    CASE(relids_are_bounded),
	    CASE(open_and_close_many_times),
	    CASE(a_provider_may_refuse),
	    CASE(user_data_and_target_reach_the_provider),
	    CASE(modify_has_no_answer_before_5_3),
	    CASE(subchannels_work_beside_their_primary),
	    CASE(subchannels_may_be_removed_while_their_primary_closes),
	    CASE(packets_wrap_over_scattered_pages),
	    CASE(many_packets_are_in_flight),
	    CASE(gpa_direct_reaches_guest_memory),
	    CASE(packets_that_do_not_fit_are_consumed),
	    CASE(transfer_pages_go_both_ways),
	    CASE(providers_use_gpadls),
	    CASE(the_interrupt_page_is_looked_at),
	    CASE(monitor_triggers_are_found),
	    CASE(a_masked_guest_is_not_signalled),
	    CASE(the_host_waits_for_room),
	    CASE(the_guest_is_told_of_room),
	    CASE(what_the_bus_writes_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
