// SPDX-License-Identifier: GPL-2.0-or-later
/* Receive-side scaling: the hash, and frames that come by the channel that the guest's table names. */
#include "tests/unit/test_network_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "vsp/network/nic.h"

#define CHANNELS 4u

/* The key and values that Microsoft gives to verify an implementation by. */
static const uint8_t key[SCALING_KEY_SIZE] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static const struct known {
	const char *source, *destination;
	uint16_t source_port, destination_port;
	uint32_t of_addresses, of_tcp;
} known[] = {
    {"66.9.149.187", "161.142.100.80", 2794, 1766, 0x323e8fc2, 0x51ccc178},
    {"199.92.111.2", "65.69.140.83", 14230, 4739, 0xd718262a, 0xc626b0ea},
    {"24.19.198.95", "12.22.207.184", 12898, 38024, 0xd2d0a5de, 0x5c2b394a},
    {"38.27.205.30", "209.142.163.6", 48228, 2217, 0x82989176, 0xafc7327f},
    {"153.39.163.191", "202.188.127.2", 44251, 1303, 0x5d1809c5, 0x10e828a2},
    {"3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", 2794, 1766, 0x2cc18cd5, 0x40207d3d},
    {"3ffe:501:8::260:97ff:fe40:efab", "ff02::1", 14230, 4739, 0x0f0c461c, 0xdde51bbf},
    {"3ffe:1900:4545:3:200:f8ff:fe21:67cf", "fe80::200:f8ff:fe21:67cf", 44251, 38024, 0x4b61e985, 0x02d1feef},
};

static bool is_ipv6(const struct known *k)
{
	return strchr(k->source, ':');
}

/* Addresses and ports as they are hashed; the size of the addresses. */
static size_t put_flow(const struct known *k, uint8_t *bytes)
{
	int family = is_ipv6(k) ? AF_INET6 : AF_INET;
	size_t each = is_ipv6(k) ? 16 : 4;

	assert_int_equal(inet_pton(family, k->source, bytes), 1);
	assert_int_equal(inet_pton(family, k->destination, bytes + each), 1);
	be16_put(bytes + 2 * each, k->source_port);
	be16_put(bytes + 2 * each + 2, k->destination_port);
	return 2 * each;
}

static void test_hash(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		uint8_t bytes[36];
		size_t size = put_flow(&known[i], bytes);

		assert_int_equal(scaling_toeplitz(key, bytes, size), known[i].of_addresses);
		assert_int_equal(scaling_toeplitz(key, bytes, size + 4), known[i].of_tcp);
	}
}

/* A frame of that flow, in a VLAN or not. */
static size_t make_flow(const struct known *k, unsigned protocol, bool tagged, uint8_t *frame)
{
	size_t size = ip_frame(frame, is_ipv6(k), protocol, 50, mac, other), addresses_size;
	uint8_t bytes[36];

	addresses_size = put_flow(k, bytes);
	memcpy(frame + 14 + (is_ipv6(k) ? 8 : 12), bytes, addresses_size);
	memcpy(frame + 14 + (is_ipv6(k) ? 40 : 20), bytes + addresses_size, 4);
	if (!tagged)
		return size;
	memmove(frame + 16, frame + 12, size - 12);
	be16_put(frame + 12, 0x8100);
	be16_put(frame + 14, 5);
	return size + 4;
}

/* By which channel frames come, and what of them is hashed. */
static void test_frames(void **state)
{
	const uint32_t all = NDIS_HASH_IP4 | NDIS_HASH_TCP4 | NDIS_HASH_IP6 | NDIS_HASH_TCP6;
	struct scaling s = {.on = true, .table_size = SCALING_TABLE_MAX};
	struct frame_layout layout;
	uint8_t frame[200];

	(void)state;
	memcpy(s.key, key, sizeof(key));
	for (unsigned i = 0; i < SCALING_TABLE_MAX; i++)
		s.table[i] = (uint8_t)(i * 7 % NIC_CHANNELS_MAX);
	for (unsigned i = 0; i < 4 * ARRAY_SIZE(known); i++) {
		const struct known *k = &known[i / 4];
		bool tcp = i & 1;
		size_t size = make_flow(k, tcp ? FRAME_PROTOCOL_TCP : FRAME_PROTOCOL_UDP, i & 2, frame);

		assert_true(frame_parse(frame, size, &layout));
		s.hash = NDIS_HASH_TOEPLITZ | all;
		assert_int_equal(scaling_channel(&s, frame, &layout), s.table[(tcp ? k->of_tcp : k->of_addresses) % 128]);
		s.hash = NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4 | NDIS_HASH_IP6;
		assert_int_equal(scaling_channel(&s, frame, &layout), s.table[k->of_addresses % 128]);
		s.hash = NDIS_HASH_TOEPLITZ | (is_ipv6(k) ? NDIS_HASH_IP4 | NDIS_HASH_TCP4 : NDIS_HASH_IP6 | NDIS_HASH_TCP6);
		assert_int_equal(scaling_channel(&s, frame, &layout), 0);
		s.hash = NDIS_HASH_TOEPLITZ | all;
		if (!is_ipv6(k)) { /* the pieces of a packet stay together: only one has the ports */
			be16_put(frame + layout.ip + 6, 0x2000);
			assert_true(frame_parse(frame, size, &layout));
			assert_int_equal(scaling_channel(&s, frame, &layout), s.table[k->of_addresses % 128]);
		}
	}
	addresses(frame, mac, other, 0x0806);
	assert_true(frame_parse(frame, 60, &layout));
	assert_int_equal(scaling_channel(&s, frame, &layout), 0);
}

struct request {
	struct ndis_rss_parameters p;
	uint8_t more[12]; /* what Linux's structure has behind it */
	uint32_t table[SCALING_TABLE_MAX];
	uint8_t key[SCALING_KEY_SIZE];
};

static struct request request_for(unsigned channel)
{
	struct request r = {.p = {.type = NDIS_OBJECT_RSS_PARAMETERS, .revision = 2, .size = 40,
	    .hash = NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4 | NDIS_HASH_TCP4 | NDIS_HASH_IP6 | NDIS_HASH_TCP6, .table_size = sizeof(r.table),
	    .table_offset = offsetof(struct request, table), .key_size = sizeof(r.key), .key_offset = offsetof(struct request, key)}};

	for (unsigned i = 0; i < SCALING_TABLE_MAX; i++)
		r.table[i] = channel;
	memcpy(r.key, key, sizeof(key));
	return r;
}

static void test_parameters(void **state)
{
	struct scaling s = {.on = false};
	struct request r = request_for(1);

	(void)state;
	for (size_t size = 0; size < sizeof(r); size++)
		assert_int_not_equal(scaling_set(&s, (uint8_t *)&r, size), RNDIS_STATUS_SUCCESS);
	assert_false(s.on);
	assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
	assert_true(s.on && s.table_size == SCALING_TABLE_MAX);
	r.table[127] = NIC_CHANNELS_MAX;
	assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_INVALID_DATA);
	assert_int_equal(s.table[127], 1);
	/* Sizes and places that cannot be, and what is not of the kind. */
	for (unsigned i = 0; i < 12; i++) {
		r = request_for(2);
		switch (i) {
		case 0: r.p.table_size = 0; break;
		case 1: r.p.table_size = 3; break;
		case 2: r.p.table_size = 130 * 4; break;
		case 3: r.p.table_offset = sizeof(r) - 4; break;
		case 4: r.p.table_offset = 0xfffffff0; break;
		case 5: r.p.key_size = 0; break;
		case 6: r.p.key_size = SCALING_KEY_SIZE - 1; break;
		case 7: r.p.key_size = SCALING_KEY_SIZE + 1; break;
		case 8: r.p.key_offset += 1; break;
		case 9: r.p.key_offset = 0xffffffff; break;
		case 10: r.p.hash = 2 | NDIS_HASH_IP4; break;
		default: r.p.type = NDIS_OBJECT_OFFLOAD; break;
		}
		assert_int_not_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
		assert_true(s.on && s.table_size == SCALING_TABLE_MAX && s.table[0] == 1);
	}
	/* A small table; what is not told stays. */
	r = request_for(3);
	r.p.table_size = 4;
	r.p.flags = NDIS_RSS_KEEP_KEY;
	r.p.key_size = 0;
	assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
	assert_true(s.table_size == 1 && s.table[0] == 3 && !memcmp(s.key, key, sizeof(key)));
	r.p.flags = NDIS_RSS_DISABLE;
	assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
	assert_false(s.on);
}

/* What is kept may say anything of itself, and that it is kept is all that counts; so may all that comes with switching it off. */
static void test_kept(void **state)
{
	struct scaling none = {.on = false};
	struct request r;

	(void)state;
	for (unsigned kept = 0; kept < 8; kept++) {
		struct scaling s = {.on = false};
		bool hash = kept & 1, table = kept & 2, its_key = kept & 4;

		r = request_for(1);
		assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
		r = request_for(2);
		r.key[0] ^= 0xff;
		r.p.hash = hash ? 0 : NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4;
		r.p.flags = (hash ? NDIS_RSS_KEEP_HASH : 0) | (table ? NDIS_RSS_KEEP_TABLE : 0) | (its_key ? NDIS_RSS_KEEP_KEY : 0);
		if (table) {
			r.p.table_size = 0xffff;
			r.p.table_offset = 0xffffffff;
		}
		if (its_key) {
			r.p.key_size = 77;
			r.p.key_offset = 0xfffffff0;
		}
		assert_int_equal(scaling_set(&s, (uint8_t *)&r, table && its_key ? sizeof(r.p) : sizeof(r)), RNDIS_STATUS_SUCCESS);
		assert_true(s.on && s.table_size == SCALING_TABLE_MAX && s.table[5] == (table ? 1 : 2));
		assert_int_equal(s.key[0], its_key ? key[0] : key[0] ^ 0xff);
		assert_int_equal(s.hash, hash ? request_for(1).p.hash : NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4);
		r.p.flags |= NDIS_RSS_DISABLE;
		assert_int_equal(scaling_set(&s, (uint8_t *)&r, sizeof(r.p)), RNDIS_STATUS_SUCCESS);
		assert_false(s.on);
	}
	/* Nothing can be kept that was never there. */
	r = request_for(1);
	r.p.flags = NDIS_RSS_KEEP_TABLE;
	assert_int_equal(scaling_set(&none, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_INVALID_DATA);
	r.p.flags = NDIS_RSS_KEEP_HASH;
	assert_int_equal(scaling_set(&none, (uint8_t *)&r, sizeof(r)), RNDIS_STATUS_SUCCESS);
	assert_false(none.on);
}

static void test_channels(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[CHANNELS] = {f->n.channel};
	struct ndis_rss_capabilities capabilities;
	struct vmbus_message_offer last;
	struct wire *w = calloc(1, sizeof(*w));
	size_t size = sizeof(capabilities);
	uint32_t relids[CHANNELS];
	uint8_t frame[2000];

	assert_int_equal(netvsc_query(&f->n, OID_GEN_RECEIVE_SCALE_CAPABILITIES, &capabilities, &size), 0);
	assert_int_equal(capabilities.queues, CHANNELS);
	assert_int_equal(size, 18); /* Linux refuses more */
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(ask_channels(f, 60), CHANNELS - 1);
		assert_int_equal(ask_channels(f, 1), UINT32_MAX); /* they are there */
		for (unsigned i = 1; i < CHANNELS; i++)
			channels[i] = open_sub(f, i);
		for (unsigned i = 0; i < 4 * CHANNELS; i++) {
			struct request r = request_for(i % CHANNELS);

			assert_int_equal(netvsc_set(&f->n, OID_GEN_RECEIVE_SCALE_PARAMETERS, &r, sizeof(r)), 0);
			f->n.channel = channels[i % CHANNELS];
			size = ip_frame(frame, i & 4, FRAME_PROTOCOL_TCP, 100 + i, mac, other);
			put_frame(f, NULL, frame, size);
			assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
			assert_int_equal(f->received.size, size);
			/* And from the guest, each by any channel. */
			size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 50 + i, other, mac);
			assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
			take_frame(f, w);
			assert_int_equal(w->size, size);
			f->n.channel = channels[0];
		}
		/* As Linux does: sub-channels first, then the primary; then all anew. */
		for (unsigned i = 1; i < CHANNELS; i++) {
			relids[i] = guest_channel_relid(channels[i]);
			assert_int_equal(guest_close(channels[i]), 0);
		}
		size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 200, mac, other);
		put_frame(f, NULL, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0); /* by the one that is left */
		last = *guest_find_offer(f->guest, &network_class, 1);
		assert_int_equal(guest_close(channels[0]), 0);
		assert_int_not_equal(guest_open(f->guest, &last, RING_PAGES, RING_PAGES, NULL, &channels[1]), 0); /* it is taken back */
		for (unsigned i = 1; i < CHANNELS; i++)
			assert_int_equal(guest_wait_rescind(f->guest, relids[i]), 0);
		assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
		assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 1500, 1024), 0);
		assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
		channels[0] = f->n.channel;
	}
	free(w);
}

static bool is_closed(void *context)
{
	return inspected(context, "channels") == 0;
}

/* After whatever was done to it: closed, opened and with all its channels, it works. `relids` are of sub-channels that were offered. */
static void works_again(struct fixture *f, struct guest_channel **channels, uint32_t *relids)
{
	uint8_t frame[200];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 100, mac, other);
	struct request r = request_for(3);

	for (unsigned i = 1; i < CHANNELS; i++)
		if (channels[i])
			assert_int_equal(guest_close(channels[i]), 0);
	assert_int_equal(guest_close(channels[0]), 0);
	for (unsigned i = 1; i < CHANNELS; i++)
		assert_int_equal(guest_wait_rescind(f->guest, relids[i]), 0);
	memset(channels, 0, CHANNELS * sizeof(channels[0]));
	assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 1500, 256), 0);
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
	assert_int_equal(ask_channels(f, CHANNELS - 1), CHANNELS - 1);
	channels[0] = f->n.channel;
	for (unsigned i = 1; i < CHANNELS; i++) {
		channels[i] = open_sub(f, i);
		relids[i] = guest_channel_relid(channels[i]);
	}
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RECEIVE_SCALE_PARAMETERS, &r, sizeof(r)), 0);
	put_frame(f, NULL, frame, size);
	f->n.channel = channels[3];
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_false(netvsc_poll(&f->n));
	f->n.channel = channels[0];
}

/* What no driver does with its channels. Each costs the guest its own adapter, until it opens that anew. */
static void test_hostile_channels(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[CHANNELS] = {f->n.channel};
	struct nvsp_message m = {.type = NVSP_INIT, .init = {NVSP_VERSION_61, NVSP_VERSION_61}};
	struct rndis_complete keepalive = {.header = {RNDIS_KEEPALIVE, sizeof(keepalive)}};
	const struct vmbus_message_offer *offer;
	struct guest_channel *none;
	uint32_t relids[CHANNELS];

	assert_int_equal(ask_channels(f, 0), 0);
	assert_int_equal(ask_channels(f, UINT32_MAX), CHANNELS - 1);
	for (unsigned i = 1; i < CHANNELS; i++)
		relids[i] = guest_find_offer(f->guest, &network_class, i)->relid;
	/* Rings of one page have no room for data. */
	offer = guest_find_offer(f->guest, &network_class, 1);
	assert_int_equal(guest_open(f->guest, offer, 1, 1, NULL, &none), -ECONNREFUSED);
	assert_int_equal(guest_open(f->guest, offer, 4, 1, NULL, &none), -ECONNREFUSED);
	assert_int_equal(guest_open(f->guest, offer, 2, 2, &(struct guest_open_options){.target_vp = 4}, &none), -ECONNREFUSED);
	works_again(f, channels, relids);
	/* Messages that belong to the first channel. */
	assert_int_equal(guest_send(channels[1], VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, 1, &m, sizeof(m)), 0);
	assert_true(guest_wait(is_closed, f));
	works_again(f, channels, relids);
	f->n.channel = channels[2];
	assert_int_equal(netvsc_send_control(&f->n, &keepalive, sizeof(keepalive)), 0);
	assert_true(guest_wait(is_closed, f));
	works_again(f, channels, relids);
	/* An index outside of a ring, seen when it is read and when it is written. */
	__atomic_store_n(&guest_in_ring(channels[3])->write_index, 0x7ffffff0, __ATOMIC_SEQ_CST);
	assert_int_equal(guest_signal(channels[3]), 0);
	assert_true(guest_wait(is_closed, f));
	works_again(f, channels, relids);
	__atomic_store_n(&guest_out_ring(channels[3])->read_index, 0x7ffffff0, __ATOMIC_SEQ_CST);
	put_frame(f, NULL, f->received.bytes, f->received.size);
	assert_true(guest_wait(is_closed, f));
	works_again(f, channels, relids);
	/* A completion of a packet that it does not have. */
	f->n.channel = channels[1];
	assert_int_equal(netvsc_complete(&f->n, 77), 0);
	f->n.channel = channels[0];
	assert_true(guest_wait(is_closed, f));
	works_again(f, channels, relids);
	/* The first is closed under the others. */
	assert_int_equal(guest_post_close(channels[0]), 0);
	works_again(f, channels, relids);
}

struct sender {
	struct fixture *f;
	atomic_bool stop;
	atomic_int left; /* to send: what a channel has when it is closed is lost with its part of the receive buffer */
};

static void *send_frames(void *context)
{
	struct sender *s = context;
	uint8_t message[sizeof(struct virtio_net_hdr) + 200] = {0}, *frame = message + sizeof(struct virtio_net_hdr);

	for (unsigned i = 0; !atomic_load(&s->stop); i++) {
		size_t size = ip_frame(frame, i & 1, FRAME_PROTOCOL_TCP, 60, mac, other);
		struct pollfd fd = {.fd = s->f->peer, .events = POLLOUT};

		be16_put(frame + 14 + (i & 1 ? 40 : 20), (uint16_t)i); /* as many flows */
		if (atomic_load(&s->left) <= 0)
			poll(NULL, 0, 1);
		else if (send(s->f->peer, message, sizeof(struct virtio_net_hdr) + size, MSG_DONTWAIT) < 0)
			poll(&fd, 1, 1);
		else
			atomic_fetch_sub(&s->left, 1);
	}
	return NULL;
}

/* All that a channel has is taken and given back by that channel. */
static unsigned drain(struct fixture *f, struct guest_channel *channel)
{
	unsigned count = 0;

	f->n.channel = channel;
	while (count < 100 && netvsc_poll(&f->n)) {
		netvsc_release(&f->n);
		count++;
	}
	return count;
}

/* Channels that come and go while frames come by them all, and an adapter that goes with all of them open. */
static void test_closed_in_use(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[CHANNELS] = {f->n.channel};
	struct sender sender = {.f = f};
	struct request r = request_for(0);
	pthread_t thread;

	for (unsigned i = 0; i < SCALING_TABLE_MAX; i++)
		r.table[i] = i % CHANNELS;
	assert_int_equal(ask_channels(f, CHANNELS - 1), CHANNELS - 1);
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RECEIVE_SCALE_PARAMETERS, &r, sizeof(r)), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_frames, &sender), 0);
	for (unsigned round = 0; round < 4; round++) {
		unsigned seen[CHANNELS] = {0};

		for (unsigned i = 1; i < CHANNELS; i++)
			channels[i] = open_sub(f, i);
		while (!seen[0] || !seen[1] || !seen[2] || !seen[3]) {
			if (atomic_load(&sender.left) <= 0)
				atomic_store(&sender.left, 40); /* the adapter may not have known of the channels yet */
			for (unsigned i = 0; i < CHANNELS; i++)
				seen[i] += drain(f, channels[i]);
		}
		f->n.channel = channels[0];
		for (unsigned i = 1; i < CHANNELS; i++)
			assert_int_equal(guest_close(channels[i]), 0);
	}
	for (unsigned i = 1; i < CHANNELS; i++)
		channels[i] = open_sub(f, i);
	network_pause(f->network); /* the bus goes on */
	assert_int_equal(guest_close(channels[1]), 0);
	channels[1] = open_sub(f, 1);
	network_resume(f->network);
	assert_int_equal(inspected(f, "channels"), CHANNELS);
	network_destroy(f->network);
	f->network = NULL;
	atomic_store(&sender.stop, true);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hash),
	    cmocka_unit_test(test_frames),
	    cmocka_unit_test(test_parameters),
	    cmocka_unit_test(test_kept),
	    cmocka_unit_test_setup_teardown(test_channels, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_channels, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_closed_in_use, setup_four, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
