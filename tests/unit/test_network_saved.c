// SPDX-License-Identifier: GPL-2.0-or-later
/* The synthetic network adapter saved, and gone on with, under a guest that does not notice. */
#include "tests/unit/test_network_fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

static struct network_config own_config(struct fixture *f)
{
	struct network_config config = {.name = "network0", .instance = f->instance, .port = f->port};

	memcpy(config.mac, mac, sizeof(mac));
	return config;
}

/* What version 2 has behind version 1, of an adapter that owes the guest no answers. */
#define SCALING_SIZE (4u + 1u + 4u + 4u + 128u + 40u)

/* An adapter's section in the form of version 1, or with a number of its tail changed. */
static struct form_writer rewrite(const struct form_writer *w, unsigned number, unsigned version, unsigned at, uint32_t value)
{
	struct form_reader r = {.bytes = w->bytes, .left = w->size}, section = form_section(&r, "network", number, 2);
	struct form_writer out = {0};
	size_t begin = form_section_begin(&out, "network", number, version);

	assert_null(section.bad);
	assert_true(section.left > SCALING_SIZE);
	form_put(&out, section.bytes, section.left - (version == 1 ? SCALING_SIZE : 0));
	if (version > 1)
		le32_put(out.bytes + out.size - SCALING_SIZE + at, value);
	form_section_end(&out, begin);
	assert_false(out.failed);
	return out;
}

static void save(struct fixture *f, struct form_writer *w, unsigned version)
{
	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, w, 3);
	if (version == 1) {
		struct form_writer old = rewrite(w, 3, 1, 0, 0);

		free(w->bytes);
		*w = old;
	}
	vmbus_save(f->bus, w);
	assert_false(w->failed);
}

/* Others in the place of the adapter and its bus, which are gone. */
static void load(struct fixture *f, struct form_writer *w)
{
	struct network_config config = own_config(f);
	struct form_reader r;

	assert_int_equal(vmbus_create(&f->bus, guest_partition(f->guest), NULL), 0);
	assert_int_equal(network_create(&f->network, f->bus, &config, NULL), 0);
	vmbus_hold(f->bus);
	network_pause(f->network);
	r = (struct form_reader){.bytes = w->bytes, .left = w->size};
	assert_int_equal(network_load(f->network, &r, 3, NULL), 0);
	assert_int_equal(vmbus_load(f->bus, &r, NULL), 0);
	assert_null(r.bad);
	assert_int_equal(r.left, 0);
	network_resume(f->network);
	vmbus_release(f->bus);
	free(w->bytes);
}

/* The adapter and its bus are taken from the guest; others come in their place. */
static void move_by_version(struct fixture *f, unsigned version)
{
	struct form_writer w = {0};

	save(f, &w, version);
	network_destroy(f->network);
	vmbus_destroy(f->bus);
	load(f, &w);
}

static void move(struct fixture *f)
{
	move_by_version(f, 2);
}

static void test_saved(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t *frame = malloc(66000);
	struct virtio_net_hdr todo = {.flags = VIRTIO_NET_HDR_F_DATA_VALID, .gso_size = 1448, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4};
	size_t size;

	set_offloads(f, true, true);
	f->n.keep = true;
	for (unsigned round = 0; round < 3; round++) {
		/* The guest holds a small packet and a coalesced one over many sections. */
		size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 40000, mac, other);
		put_frame(f, &todo, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		put_frame(f, NULL, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 70, mac, other));
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_false(netvsc_poll(&f->n));
		asked(f);
		move(f);
		assert_int_equal(asked(f), PORT_CHECKSUM | PORT_LARGE);
		size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 60 + round, other, mac);
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
		take_frame(f, w);
		assert_int_equal(w->size, size);
		/* What comes now is in sections that the guest does not hold. */
		for (unsigned i = 0; i < 40; i++) {
			addresses(frame, mac, other, 0x0800);
			put_frame(f, NULL, frame, size);
			assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
			assert_int_equal(f->received.size, size);
		}
		assert_false(netvsc_poll(&f->n));
		while (f->n.kept_count > 0)
			assert_int_equal(netvsc_complete(&f->n, f->n.kept[--f->n.kept_count]), 0);
	}
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
	free(frame);
	free(w);
}

struct rss {
	struct ndis_rss_parameters p;
	uint32_t table[128];
	uint8_t key[40];
};

/* All frames by that channel. */
static void choose_channel(struct fixture *f, unsigned channel)
{
	struct rss r = {.p = {.type = NDIS_OBJECT_RSS_PARAMETERS, .revision = 2, .size = sizeof(r.p), .hash = NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4,
	    .table_size = sizeof(r.table), .table_offset = offsetof(struct rss, table), .key_size = sizeof(r.key),
	    .key_offset = offsetof(struct rss, key)}};

	for (unsigned i = 0; i < ARRAY_SIZE(r.table); i++)
		r.table[i] = channel;
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RECEIVE_SCALE_PARAMETERS, &r, sizeof(r)), 0);
}

/* A frame comes by that channel, and one goes out by it. */
static void use_channel(struct fixture *f, struct guest_channel *channel, unsigned payload)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct guest_channel *first = f->n.channel;
	uint8_t frame[2000];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, payload, mac, other);

	f->n.channel = channel;
	put_frame(f, NULL, frame, size);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size);
	assert_false(netvsc_poll(&f->n));
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, payload + 1, other, mac);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	assert_int_equal(w->size, size);
	f->n.channel = first;
	free(w);
}

static void test_saved_channels(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[4] = {f->n.channel};

	assert_int_equal(ask_channels(f, 3), 3);
	move(f); /* offered, and none is open */
	assert_int_equal(inspected(f, "channels"), 1);
	assert_int_equal(ask_channels(f, 3), UINT32_MAX);
	channels[2] = open_sub(f, 2);
	for (unsigned i = 0; i < 3; i++) {
		choose_channel(f, 2);
		f->n.keep = true;
		use_channel(f, channels[2], 100 + i);
		move(f);
		assert_int_equal(inspected(f, "channels"), 2 + (i > 0));
		use_channel(f, channels[2], 200 + i);
		f->n.keep = false;
		f->n.channel = channels[2];
		while (f->n.kept_count > 0)
			assert_int_equal(netvsc_complete(&f->n, f->n.kept[--f->n.kept_count]), 0);
		f->n.channel = channels[0];
		if (i == 0)
			channels[3] = open_sub(f, 3);
		choose_channel(f, 3);
		use_channel(f, channels[3], 300 + i);
	}
}

/* What comes when the adapter has been saved is left to the next one. */
static void test_saved_and_done(void **state)
{
	struct fixture *f = *state;
	struct form_writer saved = {0};
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[200], message[300];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 100, mac, other), sent;
	uint32_t before = f->n.completed;

	asked(f);
	save(f, &saved, 2);
	put_frame(f, NULL, frame, size);
	sent = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 50, other, mac);
	assert_int_equal(netvsc_send_pages(&f->n, message, netvsc_message(message, frame, sent, NULL, 0)), 0);
	network_destroy(f->network);
	assert_true(waiting_bytes(f->n.channel) > 0);
	assert_false(netvsc_poll(&f->n));
	vmbus_destroy(f->bus);
	load(f, &saved);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size);
	assert_int_equal(netvsc_wait_completed(&f->n, before + 1), 0);
	take_frame(f, w);
	assert_int_equal(w->size, sent);
	use_channel(f, f->n.channel, 70); /* and nothing comes twice */
	free(w);
}

struct answers {
	struct guest_channel *channel;
	unsigned wanted, taken;
};

static bool are_all_there(void *context)
{
	struct answers *answers = context;

	answers->taken += take_answers(answers->channel);
	return answers->taken >= answers->wanted;
}

/* Answers that wait for room in the ring of the last channel, which is opened last. */
static void test_saved_answers(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[4] = {f->n.channel};
	struct guest_open_options options = {.target_vp = 3};
	struct answers answers = {0};
	size_t size;
	uint8_t *page = frame_page(f, 60, &size);

	assert_int_equal(ask_channels(f, 3), 3);
	for (unsigned i = 1; i < 3; i++)
		channels[i] = open_sub(f, i);
	assert_int_equal(guest_open(f->guest, guest_find_offer(f->guest, &network_class, 3), 2, 2, &options, &channels[3]), 0);
	while (!inspected(f, "ring_full")) {
		answers.wanted += send_page(f, channels[3], page, size) == 0;
		asked(f); /* and what was sent is out of the way */
	}
	for (unsigned i = 0; i < 20; i++)
		move(f);
	answers.channel = channels[3];
	assert_true(guest_wait(are_all_there, &answers));
	assert_int_equal(answers.taken, answers.wanted);
	asked(f);
	for (unsigned i = 0; i < 4; i++) {
		choose_channel(f, i);
		use_channel(f, channels[i], 100 + i);
	}
}

/* The form from before there were sub-channels. */
static void test_saved_version_1(void **state)
{
	struct fixture *f = *state;

	use_channel(f, f->n.channel, 100);
	move_by_version(f, 1);
	use_channel(f, f->n.channel, 200);
	assert_int_equal(ask_channels(f, 3), 3);
	choose_channel(f, 1);
	use_channel(f, open_sub(f, 1), 300);
}

/* More channels than this machine has processors for, and numbers that cannot be. */
static void test_saved_channels_refused(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
	} lies[] = {{0, 16}, {0, UINT32_MAX}, {4, 2}, {9, 129}, {9, 0}, {13, 0x10}, {13 + 124, 0xff000000}};
	struct fixture *f = *state;
	struct network_config config = {.name = "network1"};
	struct guest *small = guest_create_vps(64, 1);
	struct form_writer w = {0};
	struct error err = {0};
	struct form_reader r;
	struct vmbus *bus;
	struct network *n;

	assert_int_equal(ask_channels(f, 3), 3);
	choose_channel(f, 1);
	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, &w, 0);
	network_resume(f->network);
	vmbus_release(f->bus);
	memcpy(config.mac, mac, sizeof(mac));
	assert_int_equal(vmbus_create(&bus, guest_partition(small), NULL), 0);
	assert_int_equal(network_create(&n, bus, &config, NULL), 0);
	r = (struct form_reader){.bytes = w.bytes, .left = w.size};
	assert_int_equal(network_load(n, &r, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "4 channels"));
	network_destroy(n);
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct form_writer lie = rewrite(&w, 0, 2, lies[i].at, lies[i].value);

		assert_int_equal(network_create(&n, bus, &config, NULL), 0);
		r = (struct form_reader){.bytes = lie.bytes, .left = lie.size};
		assert_int_equal(network_load(n, &r, 0, NULL), 0);
		assert_non_null(r.bad);
		network_destroy(n);
		free(lie.bytes);
	}
	vmbus_destroy(bus);
	guest_destroy(small);
	free(w.bytes);
}

/* Of an adapter with another address, or cut short. */
static void test_saved_refused(void **state)
{
	struct fixture *f = *state;
	struct network_config config = own_config(f);
	struct form_writer w = {0};
	struct form_reader r;
	struct network *second;

	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, &w, 0);
	network_resume(f->network);
	config.instance.bytes[0] ^= 1;
	config.mac[5] ^= 1;
	assert_int_equal(network_create(&second, f->bus, &config, NULL), 0);
	r = (struct form_reader){.bytes = w.bytes, .left = w.size};
	assert_int_equal(network_load(second, &r, 0, NULL), -EINVAL);
	for (size_t size = 0; size < w.size; size++) {
		r = (struct form_reader){.bytes = w.bytes, .left = size};
		assert_int_equal(network_load(second, &r, 0, NULL), 0);
		assert_non_null(r.bad);
	}
	vmbus_release(f->bus);
	network_destroy(second);
	free(w.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_saved, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_channels, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_and_done, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_answers, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_version_1, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_channels_refused, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_saved_refused, setup_ready, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
