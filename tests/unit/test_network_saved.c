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

/* The adapter and its bus are taken from the guest; others come in their place. */
static void move(struct fixture *f)
{
	struct network_config config = own_config(f);
	struct form_writer w = {0};
	struct form_reader r;

	vmbus_hold(f->bus);
	network_pause(f->network);
	network_save(f->network, &w, 3);
	vmbus_save(f->bus, &w);
	assert_false(w.failed);
	network_destroy(f->network);
	vmbus_destroy(f->bus);
	assert_int_equal(vmbus_create(&f->bus, guest_partition(f->guest), NULL), 0);
	assert_int_equal(network_create(&f->network, f->bus, &config, NULL), 0);
	vmbus_hold(f->bus);
	network_pause(f->network);
	r = (struct form_reader){.bytes = w.bytes, .left = w.size};
	assert_int_equal(network_load(f->network, &r, 3, NULL), 0);
	assert_int_equal(vmbus_load(f->bus, &r, NULL), 0);
	assert_null(r.bad);
	assert_int_equal(r.left, 0);
	network_resume(f->network);
	vmbus_release(f->bus);
	free(w.bytes);
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
	    cmocka_unit_test_setup_teardown(test_saved_refused, setup_ready, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
