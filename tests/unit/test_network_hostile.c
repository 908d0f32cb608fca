// SPDX-License-Identifier: GPL-2.0-or-later
/* The synthetic network adapter, and guests that lie to it. */
#include "tests/unit/test_network_fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

static void ignore_name(void *context, const char *name)
{
	(void)context;
	(void)name;
}

static void ignore_end(void *context)
{
	(void)context;
}

static void ignore_number(void *context, const char *name, uint64_t value)
{
	(void)context;
	(void)name;
	(void)value;
}

static void look_at_text(void *context, const char *name, const char *value)
{
	if (!strcmp(name, "version"))
		*(bool *)context = !strcmp(value, "none");
}

/* The provider has let go of the channel. */
static bool is_broken(void *context)
{
	static const struct vmbus_inspector inspector = {ignore_name, ignore_end, look_at_text, ignore_number};
	struct fixture *f = context;
	bool closed = false;

	network_inspect(f->network, &inspector, &closed);
	return closed;
}

static void works_again(struct fixture *f)
{
	assert_int_equal(guest_close(f->n.channel), 0);
	assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 1500, 128), 0);
}

static void test_hostile_messages(void **state)
{
	struct fixture *f = *state;
	struct rndis_packet p = {.header = {RNDIS_PACKET, 200}, .data_offset = 36, .data_length = 100};
	uint8_t bytes[256] = {0}, good[64];
	const struct {
		size_t at;
		uint32_t value;
	} lies[] = {
	    {4, 7},           /* shorter than its header */
	    {4, 300},         /* longer than the packet */
	    {4, 0xffffffff},
	    {8, 0xfffffff8},  /* data before the message */
	    {8, 190},         /* data behind it */
	    {12, 0xffffffff}, {12, 170},
	    {28, 180},        /* information of 100 bytes */
	    {32, 0xffffffff}, {0, 99},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		p.info_offset = 36;
		p.info_length = 100;
		memset(bytes, 0, sizeof(bytes));
		memcpy(bytes, &p, sizeof(p));
		le32_put(bytes + 44, 100); /* one piece of information, of a kind that nobody knows */
		le32_put(bytes + 48, 77);
		le32_put(bytes + lies[i].at, lies[i].value);
		assert_int_equal(netvsc_send_section(&f->n, 0, bytes, 200), 0);
		assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
		assert_int_equal(f->n.last_status, NVSP_STATUS_INVALID_RNDIS_PACKET);
	}
	/* Pieces of information that lead nowhere. */
	for (unsigned i = 0; i < 3; i++) {
		static const uint32_t sizes[] = {0, 5, 0xfffffff0};

		memcpy(bytes, &p, sizeof(p));
		le32_put(bytes + 44, sizes[i]);
		assert_int_equal(netvsc_send_section(&f->n, 0, bytes, 200), 0);
		assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
		assert_int_equal(f->n.last_status, NVSP_STATUS_INVALID_RNDIS_PACKET);
	}
	assert_int_equal(netvsc_send_frame(&f->n, good, ip_frame(good, false, FRAME_PROTOCOL_UDP, 5, other, mac), NULL, 0),
	    NVSP_STATUS_SUCCESS);
}

static void test_hostile_sections(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET};
	static const struct nvsp_rndis_packet lies[] = {{0, NETVSC_SECTIONS, 100}, {0, 0xfffffffe, 100}, {0, 0, 6145}, {0, 0, 0xffffffff},
	    {1, 0, 0}, {1, 0, 4000}, {7, 0, 20}, {0, NVSP_NO_SECTION, 0}};

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		m.rndis = lies[i];
		assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 1, 9, &m, sizeof(m)), 0);
		assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
		assert_int_equal(f->n.last_status, NVSP_STATUS_INVALID_RNDIS_PACKET);
	}
}

static void test_hostile_offloads(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[1514], info[16];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 1000, other, mac);
	static const uint32_t segments[] = {0, 1, 47, 0xfffff};

	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		netvsc_info(info, RNDIS_INFO_LARGE_SEND, segments[i] | 1u << 30);
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, sizeof(info)), NVSP_STATUS_SUCCESS);
	}
	netvsc_info(info, RNDIS_INFO_CHECKSUM, RNDIS_CHECKSUM_IPV4 | RNDIS_CHECKSUM_TCP);
	frame[14 + 20 + 12] = 0x40; /* a TCP header of 16 bytes */
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, sizeof(info)), NVSP_STATUS_SUCCESS);
	frame[14] = 0x4f; /* IP options that reach into nothing */
	assert_int_equal(netvsc_send_frame(&f->n, frame, 60, info, sizeof(info)), NVSP_STATUS_SUCCESS);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 10, other, mac);
	be16_put(frame + 14 + 2, 2000); /* a packet longer than its frame */
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, sizeof(info)), NVSP_STATUS_SUCCESS);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 11, other, mac);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w); /* the only one that went out */
	assert_int_equal(w->size, size);
	free(w);
}

static void test_hostile_completion(void **state)
{
	static const uint64_t ids[] = {0, 1, 513, 1ull << 32, UINT64_MAX};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		assert_false(netvsc_poll(&f->n)); /* all that it has is given back */
		assert_int_equal(netvsc_complete(&f->n, ids[i]), 0);
		assert_true(guest_wait(is_broken, f));
		works_again(f);
	}
}

/* What is saved can be read again, whatever the guest did. */
static void can_be_saved(struct fixture *f)
{
	struct network_config config = {.name = "network1"};
	struct form_writer w = {0};
	struct form_reader r;
	struct network *second;

	guid_random(&config.instance);
	memcpy(config.mac, mac, sizeof(mac));
	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, &w, 0);
	network_resume(f->network);
	assert_int_equal(network_create(&second, f->bus, &config, NULL), 0);
	r = (struct form_reader){.bytes = w.bytes, .left = w.size};
	assert_int_equal(network_load(second, &r, 0, NULL), 0);
	assert_null(r.bad);
	assert_int_equal(r.left, 0);
	network_destroy(second);
	vmbus_release(f->bus);
	free(w.bytes);
}

static void test_hostile_buffers(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_SEND_RECEIVE_BUFFER, .buffer = {4711, 1}};

	assert_int_equal(netvsc_version(&f->n, NVSP_VERSION_61), 0);
	assert_int_equal(netvsc_exchange(&f->n, &m), 0);
	assert_int_equal(m.receive_buffer_complete.status, NVSP_STATUS_FAIL);
	m = (struct nvsp_message){.type = NVSP_SEND_SEND_BUFFER, .buffer = {4711, 1}};
	assert_int_equal(netvsc_exchange(&f->n, &m), 0);
	assert_int_equal(m.send_buffer_complete.status, NVSP_STATUS_FAIL);
	assert_int_equal(netvsc_buffers(&f->n, 2), -ENOBUFS); /* too small for frames */
	can_be_saved(f);
	assert_int_equal(netvsc_buffers(&f->n, 16), 0);
	assert_int_equal(netvsc_buffers(&f->n, 16), -ENOBUFS); /* there is one */
	m = (struct nvsp_message){.type = NVSP_REVOKE_RECEIVE_BUFFER};
	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)), 0);
	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)), 0);
	m = (struct nvsp_message){.type = NVSP_REVOKE_SEND_BUFFER};
	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)), 0);
	assert_int_equal(netvsc_buffers(&f->n, 16), 0);
	m = (struct nvsp_message){.type = NVSP_SUBCHANNEL};
	assert_int_equal(netvsc_exchange(&f->n, &m), 0);
	assert_int_equal(m.subchannel_complete.status, NVSP_STATUS_FAIL);
}

/* Coalesced segments were agreed on, and then the buffer becomes one that is too small for them. */
static void test_hostile_smaller_buffer(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_REVOKE_SEND_BUFFER};
	uint8_t frame[1514];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1000, mac, other);

	set_offloads(f, true, true);
	assert_int_equal(asked(f), PORT_CHECKSUM | PORT_LARGE);
	assert_int_equal(netvsc_revoke_receive_buffer(&f->n), 0);
	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)), 0);
	assert_int_equal(netvsc_buffers(&f->n, RECEIVE_PAGES / 4), 0);
	assert_int_equal(asked(f), PORT_CHECKSUM);
	assert_false(netvsc_poll(&f->n)); /* and nothing of the old one is given back into the new one */
	for (unsigned i = 0; i < 40; i++)
		put_frame(f, NULL, frame, size);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
		assert_memory_equal(f->received.bytes, frame, size);
	}
}

/* The receive buffer was made for frames of one length, and then another is told. */
static void test_hostile_mtu(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_SEND_NDIS_CONFIG, .ndis_config = {9014, 0, NVSP_CAPABILITY_VLAN}};
	uint8_t frame[1514];
	uint32_t number = 0;
	size_t size = sizeof(number);

	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)), 0);
	assert_int_equal(netvsc_query(&f->n, OID_GEN_MAXIMUM_FRAME_SIZE, &number, &size), 0);
	assert_int_equal(number, 1500);
	can_be_saved(f);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1472, mac, other);
	put_frame(f, NULL, frame, size);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size);
}

/* More questions at once than answers can wait: none is lost. */
static void test_many_questions(void **state)
{
	enum { QUESTIONS = 60 };
	struct fixture *f = *state;
	struct rndis_complete keepalive = {.header = {RNDIS_KEEPALIVE, sizeof(keepalive)}}, answer;
	uint8_t *message;
	size_t size;

	network_pause(f->network);
	for (unsigned i = 0; i < QUESTIONS; i++)
		assert_int_equal(netvsc_send_control(&f->n, &keepalive, sizeof(keepalive)), 0);
	network_resume(f->network);
	for (unsigned i = 0; i < QUESTIONS; i++) {
		assert_int_equal(netvsc_receive(&f->n, &message, &size), 0);
		memcpy(&answer, message, sizeof(answer));
		assert_int_equal(answer.header.type, RNDIS_KEEPALIVE | RNDIS_COMPLETE);
	}
}

/* Questions, and no room for the answers. */
static void test_hostile_questions(void **state)
{
	struct fixture *f = *state;
	struct rndis_complete keepalive = {.header = {RNDIS_KEEPALIVE, sizeof(keepalive)}};
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {NVSP_CHANNEL_CONTROL, NVSP_NO_SECTION, 0}};
	void *page = guest_alloc(f->guest, 1, NULL); /* written once: the adapter reads it all the time */
	unsigned sent = 0;

	memcpy(page, &keepalive, sizeof(keepalive));
	f->n.keep = true;
	while (sent < 2000 && guest_send_buffer(f->n.channel, f->n.next_id++, page, sizeof(keepalive), &m, sizeof(m)) == 0) {
		struct netvsc *n = &f->n;

		sent++;
		while (netvsc_poll(n))
			n->range_next = n->range_count;
	}
	assert_true(guest_wait(is_broken, f));
	works_again(f);
}

static bool is_refused(void *context)
{
	struct fixture *f = context;
	struct nvsp_message m = {.type = NVSP_INIT, .init = {NVSP_VERSION_61, NVSP_VERSION_61}};

	/* Nobody reads the ring of a broken channel. */
	return guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 0, 1, &m, sizeof(m)) == -EAGAIN;
}

static void test_before_version(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {1, 0, 100}};

	assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_IN_BAND, 1, 9, &m, sizeof(m)), 0);
	assert_true(guest_wait(is_refused, f));
	works_again(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_hostile_messages, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_sections, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_offloads, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_completion, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_buffers, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_smaller_buffer, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_mtu, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_many_questions, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_questions, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_before_version, setup, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
