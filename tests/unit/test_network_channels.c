// SPDX-License-Identifier: GPL-2.0-or-later
/* The channels of an adapter beside each other: a slow port, rings that are full, closing at any moment. */
#include "tests/unit/test_network_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define CHANNELS 4u
#define TABLE    128u

/* The size of the next frame on the network; 0: none comes. */
static size_t next_frame(struct fixture *f, struct wire *w)
{
	struct iovec iov[2] = {{&w->todo, sizeof(w->todo)}, {w->frame, sizeof(w->frame)}};
	struct pollfd fd = {.fd = f->peer, .events = POLLIN};

	while (poll(&fd, 1, 10000) == 1) {
		ssize_t n = readv(f->peer, iov, 2);

		if (n > (ssize_t)sizeof(w->todo))
			return (size_t)n - sizeof(w->todo);
	}
	return 0;
}

static int spread_to(struct fixture *f, unsigned only, unsigned channels)
{
	struct {
		struct ndis_rss_parameters p;
		uint32_t table[TABLE];
		uint8_t key[40];
	} r = {.p = {.type = NDIS_OBJECT_RSS_PARAMETERS,
		   .revision = 2,
		   .size = sizeof(r.p),
		   .hash = NDIS_HASH_TOEPLITZ | NDIS_HASH_IP4 | NDIS_HASH_TCP4 | NDIS_HASH_IP6 | NDIS_HASH_TCP6,
		   .table_size = sizeof(r.table),
		   .table_offset = offsetof(typeof(r), table),
		   .key_size = sizeof(r.key),
		   .key_offset = offsetof(typeof(r), key)}};

	for (unsigned i = 0; i < TABLE; i++)
		r.table[i] = channels ? i % channels : only;
	for (unsigned i = 0; i < sizeof(r.key); i++)
		r.key[i] = (uint8_t)(i * 37 + 1);
	return netvsc_set(&f->n, OID_GEN_RECEIVE_SCALE_PARAMETERS, &r, sizeof(r));
}

/* Two rings that are full all the time, and a port that takes a frame now and then. */
static void test_slow_port_is_shared(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[2] = {f->n.channel};
	unsigned seen[2] = {0};
	uint8_t *pages[2];
	size_t sizes[2];
	struct wire *w = calloc(1, sizeof(*w));

	assert_int_equal(ask_channels(f, 1), 1);
	channels[1] = open_sub(f, 1);
	for (unsigned i = 0; i < 2; i++)
		pages[i] = frame_page(f, 1000 + i * 100, &sizes[i]);
	for (unsigned n = 0; n < 3000; n++) {
		size_t size;

		for (unsigned i = 0; i < 2; i++) {
			while (send_page(f, channels[i], pages[i], sizes[i]) == 0)
				;
			take_answers(channels[i]);
		}
		size = next_frame(f, w);
		assert_true(size > 0);
		seen[size > 1092]++;
	}
	assert_true(seen[0] > 750 && seen[1] > 750);
	free(w);
}

static bool ring_is_taken(void *context)
{
	return waiting_bytes(context) == 0;
}

struct answer_wait {
	struct fixture *f;
	uint64_t full; /* how often the port had no room before */
	bool answered;
};

static bool is_answered_or_stuck(void *context)
{
	struct answer_wait *wait = context;

	wait->answered = take_answers(wait->f->n.channel) > 0;
	return wait->answered || inspected(wait->f, "port_full") > wait->full;
}

/* Frames of the first channel, one after the other, until one waits for the port. */
static void fill_port(struct fixture *f, const void *page, size_t size)
{
	struct answer_wait wait = {.f = f, .answered = true};

	while (wait.answered) {
		wait.full = inspected(f, "port_full");
		assert_int_equal(send_page(f, f->n.channel, page, size), 0);
		assert_true(guest_wait(is_answered_or_stuck, &wait));
	}
}

static bool is_told(void *context)
{
	return asked(context) == (PORT_CHECKSUM | PORT_LARGE);
}

/* What the guest takes is told to a port that had no room for that, as soon as it has. */
static void test_full_port_is_told(void **state)
{
	struct fixture *f = *state;
	size_t size;
	const uint8_t *page = frame_page(f, 1000, &size);

	fill_port(f, page, size);
	set_offloads(f, true, true);
	assert_true(guest_wait(is_told, f));
}

struct rounds {
	struct fixture *f;
	uint64_t least;
};

static bool has_had_rounds(void *context)
{
	const struct rounds *rounds = context;

	return inspected(rounds->f, "rounds") >= rounds->least;
}

/* The port is looked at between the packets of several channels as often as between as many of one. */
static void test_rounds(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[CHANNELS] = {f->n.channel};
	struct rounds rounds = {.f = f};
	size_t size;
	const uint8_t *page = frame_page(f, 60, &size);

	assert_int_equal(ask_channels(f, CHANNELS - 1), CHANNELS - 1);
	for (unsigned i = 1; i < CHANNELS; i++)
		channels[i] = open_sub(f, i);
	network_plug(f->network, NULL); /* which then holds nobody up */
	network_pause(f->network);
	for (unsigned i = 0; i < 250 * CHANNELS; i++)
		assert_int_equal(send_page(f, channels[i % CHANNELS], page, size), 0);
	rounds.least = inspected(f, "rounds") + 4;
	network_resume(f->network);
	assert_true(guest_wait(has_had_rounds, &rounds));
	for (unsigned i = 0; i < CHANNELS; i++)
		assert_true(guest_wait(ring_is_taken, channels[i]));
	network_plug(f->network, f->port);
	for (unsigned i = 1; i < CHANNELS; i++)
		guest_channel_free(channels[i]);
}

struct answer {
	struct guest_channel *channel;
	struct vmbus_packet_header header;
};

static bool is_answered(void *context)
{
	struct answer *answer = context;
	struct nvsp_message message;

	return guest_try_receive(answer->channel, &answer->header, &message, sizeof(message)) >= 0;
}

/* A frame that waits for the port when its channel is closed: its memory is the guest's again. */
static void test_closed_with_a_frame_that_waits(void **state)
{
	struct fixture *f = *state;
	size_t size, fill_size, last_size, got;
	uint8_t *page, *fill, *last;
	struct guest_channel *sub;
	struct answer answer;
	struct wire *w = calloc(1, sizeof(*w));

	assert_int_equal(ask_channels(f, 1), 1);
	sub = open_sub(f, 1);
	fill = frame_page(f, 1000, &fill_size);
	page = frame_page(f, 1200, &size);
	last = frame_page(f, 100, &last_size);
	fill_port(f, fill, fill_size);
	assert_int_equal(send_page(f, sub, page, size), 0);
	assert_true(guest_wait(ring_is_taken, sub));
	assert_int_equal(guest_close(sub), 0);
	memset(page, 0xee, 4096);
	sub = open_sub(f, 1);
	assert_int_equal(send_page(f, f->n.channel, last, last_size), 0);
	do {
		got = next_frame(f, w);
		assert_true(got > 0);
		for (size_t i = 200; got > 1200 && i < got; i++)
			assert_int_not_equal(w->frame[i], 0xee);
	} while (got > 200);
	/* The first answer in the new ring is that to the first packet in it. */
	assert_int_equal(send_page(f, sub, last, last_size), 0);
	answer.channel = sub;
	assert_true(guest_wait(is_answered, &answer));
	assert_int_equal(answer.header.transaction_id, f->n.next_id - 1);
	free(w);
}

/* Frames for the guest, as many as the port takes, until a ring is full. */
static bool is_ring_full(void *context)
{
	struct fixture *f = context;
	uint8_t message[sizeof(struct virtio_net_hdr) + 200] = {0};
	size_t size = sizeof(struct virtio_net_hdr) + ip_frame(message + sizeof(struct virtio_net_hdr), false, FRAME_PROTOCOL_UDP, 60, mac, other);

	while (send(f->peer, message, size, MSG_DONTWAIT) > 0)
		;
	return inspected(f, "ring_full") > 0;
}

/* A ring that nobody reads holds up none of the first channel's answers. */
static void test_full_ring_of_another(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *sub;

	assert_int_equal(ask_channels(f, 1), 1);
	assert_int_equal(guest_open(f->guest, guest_find_offer(f->guest, &network_class, 1), 2, 2, NULL, &sub), 0);
	assert_int_equal(spread_to(f, 1, 0), 0);
	assert_true(guest_wait(is_ring_full, f));
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
	guest_channel_free(sub);
}

/* --- anything at any moment ------------------------------------------------------------------------------ */

struct sender {
	struct fixture *f;
	atomic_bool stop;
};

static void *send_frames(void *context)
{
	struct sender *sender = context;
	uint8_t message[sizeof(struct virtio_net_hdr) + 200] = {0}, *frame = message + sizeof(struct virtio_net_hdr), sink[4096];

	for (unsigned i = 0; !atomic_load(&sender->stop); i++) {
		size_t size = ip_frame(frame, i & 1, FRAME_PROTOCOL_TCP, 60, mac, other);
		struct pollfd fd = {.fd = sender->f->peer, .events = POLLOUT | POLLIN};

		be16_put(frame + 14 + (i & 1 ? 40 : 20), (uint16_t)i);
		send(sender->f->peer, message, sizeof(struct virtio_net_hdr) + size, MSG_DONTWAIT);
		while (i % 64 < 32 && recv(sender->f->peer, sink, sizeof(sink), MSG_DONTWAIT) > 0)
			;
		poll(&fd, 1, 1);
	}
	return NULL;
}

static unsigned next_random(unsigned *seed, unsigned limit)
{
	*seed = *seed * 1103515245u + 12345u;
	return (*seed >> 16) % limit;
}

static bool has_room(void *context)
{
	return waiting_bytes(context) < guest_in_size(context) / 2;
}

/* Send, whatever of it finds room, and take what there is. */
static void use(struct fixture *f, struct guest_channel *channel, const void *page, size_t size, bool read)
{
	struct guest_channel *first = f->n.channel;

	for (unsigned i = 0; i < 20; i++)
		send_page(f, channel, page, size);
	assert_true(guest_wait(has_room, channel)); /* for what is given back */
	f->n.channel = channel;
	for (unsigned i = 0; i < 100 && read && netvsc_poll(&f->n); i++)
		netvsc_release(&f->n);
	netvsc_release(&f->n);
	f->n.channel = first;
}

static void pause_and_save(struct fixture *f)
{
	struct form_writer w = {0};

	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, &w, 0);
	free(w.bytes);
	network_resume(f->network);
	vmbus_release(f->bus);
}

/* The first channel is closed with whatever is open, and all begins anew: also with all sections of the receive buffer. */
static void begin_anew(struct fixture *f, struct guest_channel **channels)
{
	uint32_t relids[CHANNELS];

	for (unsigned i = 1; i < CHANNELS; i++)
		relids[i] = guest_find_offer(f->guest, &network_class, i)->relid;
	assert_int_equal(guest_close(channels[0]), 0);
	for (unsigned i = 1; i < CHANNELS; i++) {
		if (channels[i])
			guest_channel_free(channels[i]);
		channels[i] = NULL;
		assert_int_equal(guest_wait_rescind(f->guest, relids[i]), 0);
	}
	assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
	channels[0] = f->n.channel;
	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 1500, 256), 0);
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
	assert_int_equal(ask_channels(f, CHANNELS - 1), CHANNELS - 1);
	assert_int_equal(spread_to(f, 0, CHANNELS), 0);
}

struct served {
	struct fixture *f;
	struct guest_channel **channels;
	bool seen[CHANNELS];
};

/* All that came is given back, or it would be one channel that has the whole receive buffer. */
static bool have_all_served(void *context)
{
	struct served *served = context;
	struct netvsc *n = &served->f->n;
	unsigned count = 0;

	for (unsigned i = 0; i < CHANNELS; i++) {
		n->channel = served->channels[i];
		for (unsigned k = 0; k < 100 && netvsc_poll(n); k++) {
			served->seen[i] |= n->channel_type == NVSP_CHANNEL_DATA;
			netvsc_release(n);
		}
		count += served->seen[i];
	}
	n->channel = served->channels[0];
	return count == CHANNELS;
}

/* Open all, and a frame comes by each. */
static void serves_on(struct fixture *f, struct guest_channel **channels)
{
	struct served served = {.f = f, .channels = channels};

	for (unsigned i = 1; i < CHANNELS; i++)
		channels[i] = open_sub(f, i);
	assert_true(guest_wait(have_all_served, &served));
}

static void test_anything_at_any_moment(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[CHANNELS] = {f->n.channel};
	struct sender sender = {.f = f};
	unsigned seed = 1;
	pthread_t thread;
	size_t size;
	const uint8_t *page = frame_page(f, 250, &size);

	assert_int_equal(ask_channels(f, CHANNELS - 1), CHANNELS - 1);
	assert_int_equal(spread_to(f, 0, CHANNELS), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_frames, &sender), 0);
	for (unsigned n = 0; n < 400; n++) {
		unsigned i = 1 + next_random(&seed, CHANNELS - 1), what = next_random(&seed, 40);

		if (what < 14) {
			for (unsigned k = 0; k < CHANNELS; k++)
				if (channels[k])
					use(f, channels[k], page, size, next_random(&seed, 3) > 0);
		} else if (what < 30 && channels[i]) {
			assert_int_equal(guest_close(channels[i]), 0);
			channels[i] = NULL;
		} else if (what < 30) {
			channels[i] = open_sub(f, i);
		} else if (what < 35) {
			pause_and_save(f);
		} else if (what < 37) {
			network_plug(f->network, NULL);
			network_plug(f->network, f->port);
		} else if (what < 38) {
			begin_anew(f, channels);
		} else {
			inspected(f, "channels");
		}
	}
	begin_anew(f, channels);
	serves_on(f, channels);
	atomic_store(&sender.stop, true);
	pthread_join(thread, NULL);
	for (unsigned k = 1; k < CHANNELS; k++)
		guest_channel_free(channels[k]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_slow_port_is_shared, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_full_port_is_told, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_rounds, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_closed_with_a_frame_that_waits, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_full_ring_of_another, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_anything_at_any_moment, setup_four, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
