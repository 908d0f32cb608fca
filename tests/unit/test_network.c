// SPDX-License-Identifier: GPL-2.0-or-later
/* The synthetic network adapter, driven over VMBus by the guest double; the test is the network behind its port. */
#include <arpa/inet.h>
#include "tests/unit/test_network_fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* --- negotiation --------------------------------------------------------------------------------------- */

static void test_versions(void **state)
{
	static const uint32_t versions[] = {NVSP_VERSION_1, NVSP_VERSION_2, NVSP_VERSION_4, NVSP_VERSION_5, NVSP_VERSION_6,
	    NVSP_VERSION_61};
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[64];
	size_t size;

	assert_int_equal(netvsc_version(&f->n, 0x70000), -EPROTONOSUPPORT);
	assert_int_equal(netvsc_version(&f->n, 3), -EPROTONOSUPPORT);
	for (unsigned i = 0; i < ARRAY_SIZE(versions); i++) {
		if (i > 0)
			assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
		assert_int_equal(netvsc_negotiate(&f->n, versions[i], 1500, 128), 0);
		assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
		size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 10, other, mac);
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
		take_frame(f, w);
		assert_int_equal(w->size, size);
		assert_memory_equal(w->frame, frame, size);
		memcpy(frame, mac, 6);
		memcpy(frame + 6, other, 6);
		put_frame(f, NULL, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
		assert_memory_equal(f->received.bytes, frame, size);
		assert_int_equal(f->received.checksum, 0xffffffff);
		assert_false(netvsc_poll(&f->n));
		assert_int_equal(guest_close(f->n.channel), 0);
	}
	assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
	free(w);
}

/* A driver may want to hear that what only tells something has come, and may give up what it has sent. */
static void test_answers_asked_for(void **state)
{
	static const uint32_t types[] = {NVSP_SEND_NDIS_VERSION, NVSP_SEND_NDIS_CONFIG, NVSP_REVOKE_RECEIVE_BUFFER, NVSP_REVOKE_SEND_BUFFER};
	struct fixture *f = *state;

	assert_int_equal(netvsc_version(&f->n, NVSP_VERSION_2), 0);
	assert_int_equal(netvsc_buffers(&f->n, 128), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		struct nvsp_message m = {.type = types[i], .ndis_version = {6, 1}};

		assert_int_equal(guest_send(f->n.channel, VMBUS_PACKET_CANCEL, 0, 1, "", 0), 0);
		assert_int_equal(netvsc_exchange(&f->n, &m), 0);
		assert_int_equal(m.type, types[i]);
	}
}

static void test_queries(void **state)
{
	static const uint32_t oids[] = {OID_GEN_HARDWARE_STATUS, OID_GEN_MEDIA_IN_USE, OID_GEN_VENDOR_DESCRIPTION, OID_GEN_XMIT_OK,
	    OID_GEN_MAC_OPTIONS, OID_802_3_MAXIMUM_LIST_SIZE, OID_GEN_RECEIVE_BUFFER_SPACE};
	struct fixture *f = *state;
	struct ndis_offload offload;
	uint8_t value[512];
	uint32_t number;
	size_t size;

	size = sizeof(value);
	assert_int_equal(netvsc_query(&f->n, OID_802_3_PERMANENT_ADDRESS, value, &size), 0);
	assert_int_equal(size, 6);
	assert_memory_equal(value, mac, 6);
	size = sizeof(number);
	assert_int_equal(netvsc_query(&f->n, OID_GEN_MAXIMUM_FRAME_SIZE, &number, &size), 0);
	assert_int_equal(number, 1500);
	size = sizeof(number);
	assert_int_equal(netvsc_query(&f->n, OID_GEN_MEDIA_CONNECT_STATUS, &number, &size), 0);
	assert_int_equal(number, 0);
	size = sizeof(offload);
	assert_int_equal(netvsc_query(&f->n, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, &offload, &size), 0);
	assert_int_equal(size, sizeof(offload));
	assert_int_equal(offload.type, NDIS_OBJECT_OFFLOAD);
	assert_int_equal(offload.size, sizeof(offload));
	assert_int_equal(offload.ip4_tx_checksum, 0x155);
	assert_true(offload.lso4_max_size > 60000 && offload.rsc4 && offload.rsc6);
	for (unsigned i = 0; i < ARRAY_SIZE(oids); i++) {
		size = sizeof(value);
		assert_int_equal(netvsc_query(&f->n, oids[i], value, &size), 0);
		assert_true(size >= 4);
	}
	size = sizeof(value);
	assert_int_equal(netvsc_query(&f->n, 0x12345678, value, &size), RNDIS_STATUS_NOT_SUPPORTED);
	assert_int_equal(size, 0);
	assert_int_equal(netvsc_set(&f->n, 0x12345678, value, 4), RNDIS_STATUS_NOT_SUPPORTED);
	assert_int_equal(netvsc_set(&f->n, OID_GEN_CURRENT_PACKET_FILTER, value, 2), RNDIS_STATUS_INVALID_LENGTH);
}

/* Each object that it tells of can be asked for, or set. */
static void test_supported(void **state)
{
	static const uint32_t only_set[] = {OID_GEN_NETWORK_LAYER_ADDRESSES, OID_GEN_RECEIVE_SCALE_PARAMETERS, OID_GEN_RNDIS_CONFIG_PARAMETER,
	    OID_OFFLOAD_ENCAPSULATION, OID_TCP_OFFLOAD_PARAMETERS};
	struct fixture *f = *state;
	uint32_t oids[128];
	size_t count = sizeof(oids);

	assert_int_equal(netvsc_query(&f->n, OID_GEN_SUPPORTED_LIST, oids, &count), 0);
	count /= sizeof(oids[0]);
	assert_true(count > 40);
	for (size_t i = 0; i < count; i++) {
		bool set = false;
		uint8_t value[512];
		size_t size = sizeof(value);

		for (unsigned k = 0; k < ARRAY_SIZE(only_set); k++)
			set |= oids[i] == only_set[k];
		assert_int_equal(netvsc_query(&f->n, oids[i], value, &size), set ? RNDIS_STATUS_NOT_SUPPORTED : 0);
	}
}

static uint64_t counter_of(struct fixture *f, uint32_t oid)
{
	uint8_t value[8] = {0};
	size_t size = sizeof(value);

	assert_int_equal(netvsc_query(&f->n, oid, value, &size), 0);
	assert_true(size == 4 || size == 8);
	return le64_get(value);
}

static void test_statistics(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[9000];
	size_t size;

	for (unsigned i = 0; i < 3; i++) {
		size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 30 + i, other, mac);
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	}
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 30, other, other); /* not its own address */
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 8500, mac, other); /* more than its sections take */
	put_frame(f, NULL, frame, size);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 40, other, other); /* for somebody else */
	put_frame(f, NULL, frame, size);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 50, mac, other);
	for (unsigned i = 0; i < 2; i++) {
		put_frame(f, NULL, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
	}
	assert_int_equal(counter_of(f, OID_GEN_XMIT_OK), 3);
	assert_int_equal(counter_of(f, OID_GEN_XMIT_ERROR), 1);
	assert_int_equal(counter_of(f, OID_GEN_RCV_OK), 2);
	assert_int_equal(counter_of(f, OID_GEN_RCV_NO_BUFFER), 1);
	assert_int_equal(counter_of(f, OID_GEN_RCV_ERROR), 0);
}

/* A driver before 6.1 does not know pieces. */
static void test_old_offloads(void **state)
{
	struct fixture *f = *state;
	struct ndis_offload_parameters p = {.rsc4 = NDIS_OFFLOAD_ENABLED};
	struct ndis_offload offload = {0};
	size_t size = sizeof(offload);

	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_5, 1500, 128), 0);
	assert_int_equal(netvsc_query(&f->n, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, &offload, &size), 0);
	assert_int_equal(offload.rsc4, 0);
	assert_int_equal(netvsc_set(&f->n, OID_TCP_OFFLOAD_PARAMETERS, &p, sizeof(p)), RNDIS_STATUS_NOT_SUPPORTED);
}

static void test_mtu(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[9100];
	uint32_t number;
	size_t size = sizeof(number);

	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 9000, RECEIVE_PAGES), 0);
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED), 0);
	assert_int_equal(netvsc_query(&f->n, OID_GEN_MAXIMUM_FRAME_SIZE, &number, &size), 0);
	assert_int_equal(number, 9000);
	assert_true(f->n.receive_section > 9014);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 9000 - 28, other, mac);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	assert_int_equal(w->size, size);
	assert_memory_equal(w->frame, frame, size);
	addresses(frame, mac, other, 0x0800);
	put_frame(f, NULL, frame, size);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size);
	assert_int_equal(f->received.pieces, 1);
	assert_memory_equal(f->received.bytes, frame, size);
	free(w);
}

/* --- from the guest ------------------------------------------------------------------------------------- */

/* Eight frames in one section, one begun in a section and ended in pages. */
static void test_sections(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {NVSP_CHANNEL_DATA, 3, 0}};
	uint8_t bytes[6144], frame[1514];
	size_t size = 0, whole;

	for (unsigned i = 0; i < 8; i++)
		size += netvsc_message(bytes + size, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 100 + i, other, mac), NULL, 0);
	assert_int_equal(netvsc_send_section(&f->n, 5, bytes, size), 0);
	assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
	assert_int_equal(f->n.last_status, NVSP_STATUS_SUCCESS);
	for (unsigned i = 0; i < 8; i++) {
		take_frame(f, w);
		assert_int_equal(w->size, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 100 + i, other, mac));
		assert_memory_equal(w->frame, frame, w->size);
	}
	whole = ip_frame(frame, true, FRAME_PROTOCOL_UDP, 1400, other, mac);
	size = netvsc_message(bytes, frame, whole, NULL, 0);
	memcpy(f->n.send_buffer + (size_t)3 * f->n.section_size, bytes, 60);
	memcpy(f->n.page + 40, bytes + 60, size - 60);
	m.rndis.section_size = 60;
	assert_int_equal(guest_send_buffer(f->n.channel, 77, f->n.page + 40, (uint32_t)(size - 60), &m, sizeof(m)), 0);
	assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
	take_frame(f, w);
	assert_int_equal(w->size, whole);
	assert_memory_equal(w->frame, frame, whole);
	free(w);
}

/* A question that is begun in a section and ends in a page, at each byte. */
static void test_split_question(void **state)
{
	struct fixture *f = *state;
	struct rndis_complete question = {.header = {RNDIS_KEEPALIVE, sizeof(question)}}, answer;
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {NVSP_CHANNEL_CONTROL, 2, 0}};
	uint8_t *message;
	size_t size;

	for (uint32_t n = 1; n < sizeof(question); n++) {
		question.request_id = 1000 + n;
		memcpy(f->n.send_buffer + (size_t)2 * f->n.section_size, &question, n);
		memcpy(f->n.page + 4096 - n, (uint8_t *)&question + n, sizeof(question) - n); /* which may go over two */
		m.rndis.section_size = n;
		assert_int_equal(guest_send_buffer(f->n.channel, 77, f->n.page + 4096 - n, (uint32_t)sizeof(question) - n, &m, sizeof(m)), 0);
		assert_int_equal(netvsc_receive(&f->n, &message, &size), 0);
		memcpy(&answer, message, sizeof(answer));
		assert_int_equal(answer.header.type, RNDIS_KEEPALIVE | RNDIS_COMPLETE);
		assert_int_equal(answer.request_id, 1000 + n);
	}
}

static bool has_signalled(void *context)
{
	return guest_take_event(context);
}

/* Frames in sections, each sent when the one before it has come out: how many interrupts were seen meanwhile. */
static unsigned interrupts_of(struct fixture *f, struct wire *w, unsigned frames)
{
	uint8_t bytes[6144], frame[1514];
	uint32_t before = f->n.completed;
	unsigned seen = 0;

	guest_take_event(f->n.channel);
	for (unsigned i = 0; i < frames; i++) {
		size_t size = netvsc_message(bytes, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 100, other, mac), NULL, 0);

		assert_int_equal(netvsc_send_section(&f->n, i, bytes, size), 0);
		take_frame(f, w);
		if (i == frames - 1)
			break;
		seen += guest_take_event(f->n.channel);
		netvsc_poll(&f->n); /* only a ring that was empty is worth an interrupt */
	}
	/* It is told of the last, though nothing else comes. */
	assert_true(guest_wait(has_signalled, f->n.channel));
	assert_int_equal(netvsc_wait_completed(&f->n, before + frames), 0);
	return seen;
}

/* A guest that copied its frames is not interrupted for each: told of each at once it would see one for every second at least. */
static void test_interrupts(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	unsigned least = 16;

	for (unsigned i = 0; i < 200 && least > 2; i++)
		least = (unsigned)min_u64(least, interrupts_of(f, w, 16));
	assert_in_range(least, 0, 2);
	free(w);
}

static void test_transmit_checksum(void **state)
{
	static const unsigned protocols[] = {FRAME_PROTOCOL_TCP, FRAME_PROTOCOL_UDP};
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[1600], info[16];

	for (unsigned i = 0; i < 8; i++) {
		bool ipv6 = i & 1;
		unsigned protocol = protocols[i >> 1 & 1];
		size_t size = ip_frame(frame, ipv6, protocol, 301 + i, other, mac);

		netvsc_info(info, RNDIS_INFO_CHECKSUM,
		    (ipv6 ? RNDIS_CHECKSUM_IPV6 : RNDIS_CHECKSUM_IPV4 | RNDIS_CHECKSUM_IP_HEADER) |
			(protocol == FRAME_PROTOCOL_TCP ? RNDIS_CHECKSUM_TCP : RNDIS_CHECKSUM_UDP));
		if (!ipv6)
			le16_put(frame + 14 + 10, 0x5555);
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, sizeof(info)), NVSP_STATUS_SUCCESS);
		take_frame(f, w);
		assert_int_equal(w->size, size);
		assert_int_equal(w->todo.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		assert_false(checksums_good(w->frame, size));
		assert_true(frame_complete(w->frame, size, &w->todo));
		assert_true(checksums_good(w->frame, size));
	}
	free(w);
}

/* Guests zero the length and the checksum of the IP header; what goes out has both. */
static void test_transmit_large(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t *frame = malloc(66000), info[16];

	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		size_t size = ip_frame(frame, ipv6, FRAME_PROTOCOL_TCP, 60000, other, mac);

		netvsc_info(info, RNDIS_INFO_LARGE_SEND, 1448 | 1u << 30 | ipv6 << 31);
		if (ipv6) {
			be16_put(frame + 14 + 4, 0);
		} else {
			be16_put(frame + 14 + 2, 0);
			be16_put(frame + 14 + 10, 0);
		}
		assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, sizeof(info)), NVSP_STATUS_SUCCESS);
		take_frame(f, w);
		assert_int_equal(w->size, size);
		assert_int_equal(w->todo.gso_type, ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4);
		assert_int_equal(w->todo.gso_size, 1448);
		assert_int_equal(w->todo.hdr_len, ipv6 ? 74 : 54);
		assert_true(frame_complete(w->frame, size, &w->todo));
		assert_true(checksums_good(w->frame, size));
		assert_memory_equal(w->frame + w->todo.hdr_len, frame + w->todo.hdr_len, size - w->todo.hdr_len);
	}
	free(frame);
	free(w);
}

static void test_transmit_vlan(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[1514], info[32];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 200, other, mac), n;

	n = netvsc_info(info, RNDIS_INFO_VLAN, 5 | 100 << 4);
	n += netvsc_info(info + n, RNDIS_INFO_CHECKSUM, RNDIS_CHECKSUM_IPV4 | RNDIS_CHECKSUM_TCP);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, info, n), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	assert_int_equal(w->size, size + 4);
	assert_int_equal(be16_get(w->frame + 12), 0x8100);
	assert_int_equal(be16_get(w->frame + 14), 5 << 13 | 100);
	assert_int_equal(be16_get(w->frame + 16), 0x0800);
	assert_true(frame_complete(w->frame, w->size, &w->todo));
	assert_true(checksums_good(w->frame, w->size));
	free(w);
}

/* Another sender's address, a frame longer than the link carries, or shorter than a header: lost, and nothing else. */
static void test_transmit_lost(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[2000], good[100];
	size_t size = ip_frame(good, false, FRAME_PROTOCOL_UDP, 30, other, mac);

	ip_frame(frame, false, FRAME_PROTOCOL_UDP, 30, other, other);
	assert_int_equal(netvsc_send_frame(&f->n, frame, 72, NULL, 0), NVSP_STATUS_SUCCESS);
	ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1900, other, mac);
	assert_int_equal(netvsc_send_frame(&f->n, frame, 1900, NULL, 0), NVSP_STATUS_SUCCESS);
	assert_int_equal(netvsc_send_frame(&f->n, frame, 13, NULL, 0), NVSP_STATUS_SUCCESS);
	assert_int_equal(netvsc_send_frame(&f->n, good, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	assert_memory_equal(w->frame, good, size);
	free(w);
}

/* The network takes nothing for a while: nothing is lost, and the guest gets its buffers back when it does. */
static void test_transmit_full(void **state)
{
	enum { FRAMES = 2000 };
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[1514], bytes[1600];
	int room = 16384;
	unsigned sent = 0, taken = 0, before = f->n.completed;

	setsockopt(port_fd(f->port), SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	while (taken < FRAMES) {
		size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1400, other, mac);
		unsigned sent_before = sent;

		be16_put(frame + 42, (uint16_t)sent);
		size = netvsc_message(bytes, frame, size, NULL, 0);
		while (sent < FRAMES && sent - (f->n.completed - before) < NETVSC_SECTIONS &&
		        !netvsc_send_section(&f->n, sent % NETVSC_SECTIONS, bytes, size)) {
			sent++;
			ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1400, other, mac);
			be16_put(frame + 42, (uint16_t)sent);
			netvsc_message(bytes, frame, 1442, NULL, 0);
		}
		if (sent == sent_before && sent == taken) { /* the answers come behind the frames */
			assert_int_equal(netvsc_wait_completed(&f->n, f->n.completed + 1), 0);
		} else if (sent == sent_before) {
			take_frame(f, w);
			assert_int_equal(be16_get(w->frame + 42), taken);
			taken++;
		}
		netvsc_poll(&f->n);
	}
	free(w);
}

/* --- to the guest ----------------------------------------------------------------------------------------- */

static void test_receive_checksum(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1514];

	set_offloads(f, true, false);
	for (unsigned i = 0; i < 4; i++) {
		bool ipv6 = i & 1;
		unsigned protocol = i & 2 ? FRAME_PROTOCOL_TCP : FRAME_PROTOCOL_UDP;
		size_t size = ip_frame(frame, ipv6, protocol, 333, mac, other);
		struct virtio_net_hdr todo = {0};
		struct frame_layout layout;

		frame_parse(frame, size, &layout);
		assert_int_equal(frame_defer_checksum(frame, &layout, size, &todo), 0);
		put_frame(f, &todo, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
		assert_true(checksums_good(f->received.bytes, size));
		assert_int_equal(f->received.checksum & (RNDIS_CHECKSUM_TCP_GOOD | RNDIS_CHECKSUM_UDP_GOOD),
		    protocol == FRAME_PROTOCOL_TCP ? RNDIS_CHECKSUM_TCP_GOOD : RNDIS_CHECKSUM_UDP_GOOD);
		/* Of a frame of which nobody knows, nothing is said. */
		put_frame(f, NULL, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.checksum, 0xffffffff);
	}
	/* A guest that did not ask is not told, and still gets the checksum. */
	set_offloads(f, false, false);
	{
		size_t size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 99, mac, other);
		struct virtio_net_hdr todo = {0};
		struct frame_layout layout;

		frame_parse(frame, size, &layout);
		frame_defer_checksum(frame, &layout, size, &todo);
		put_frame(f, &todo, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.checksum, 0xffffffff);
		assert_true(checksums_good(f->received.bytes, size));
	}
}

static void test_receive_large(void **state)
{
	struct fixture *f = *state;
	uint8_t *frame = malloc(66000);

	assert_int_equal(asked(f) & PORT_LARGE, 0);
	set_offloads(f, true, true);
	assert_int_equal(asked(f), PORT_CHECKSUM | PORT_LARGE);
	for (unsigned round = 0; round < 20; round++) {
		size_t size = ip_frame(frame, round & 1, FRAME_PROTOCOL_TCP, 1000 + round * 3300, mac, other);
		struct virtio_net_hdr todo = {.flags = VIRTIO_NET_HDR_F_DATA_VALID, .gso_size = 1448,
		    .gso_type = round & 1 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4};

		put_frame(f, &todo, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
		assert_int_equal(f->received.pieces, (size + f->n.receive_section - 129) / (f->n.receive_section - 128));
		assert_memory_equal(f->received.bytes, frame, size);
		assert_true(f->received.checksum & RNDIS_CHECKSUM_TCP_GOOD);
	}
	/* Off again: what comes so all the same is lost, and what comes behind it is not. */
	set_offloads(f, true, false);
	assert_int_equal(asked(f), PORT_CHECKSUM);
	{
		size_t size = ip_frame(frame, false, FRAME_PROTOCOL_TCP, 5000, mac, other);
		struct virtio_net_hdr todo = {.gso_size = 1448, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4};

		put_frame(f, &todo, frame, size);
		size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 50, mac, other);
		put_frame(f, NULL, frame, size);
		assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
		assert_int_equal(f->received.size, size);
	}
	free(frame);
}

static void test_receive_vlan(void **state)
{
	struct fixture *f = *state;
	struct nvsp_message m = {.type = NVSP_SEND_NDIS_CONFIG, .ndis_config = {1514, 0, 0}};
	uint8_t frame[200], tagged[204];
	size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 60, mac, other);

	memcpy(tagged, frame, 12);
	be16_put(tagged + 12, 0x8100);
	be16_put(tagged + 14, 3 << 13 | 1 << 12 | 0xabc);
	memcpy(tagged + 16, frame + 12, size - 12);
	put_frame(f, NULL, tagged, size + 4);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size);
	assert_memory_equal(f->received.bytes, frame, size);
	assert_int_equal(f->received.vlan, 3 | 1 << 3 | 0xabc << 4);
	/* A driver that does not take tags apart gets the frame as it came. */
	assert_int_equal(netvsc_exchange(&f->n, &m), 0);
	put_frame(f, NULL, tagged, size + 4);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, size + 4);
	assert_memory_equal(f->received.bytes, tagged, size + 4);
	assert_int_equal(f->received.vlan, 0xffffffff);
}

static void test_filters(void **state)
{
	static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, group[6] = {1, 0, 0x5e, 1, 1, 1},
			     group2[6] = {1, 0, 0x5e, 2, 2, 2};
	static const struct {
		uint32_t filter;
		bool own, other, all, listed, unlisted;
	} rows[] = {
	    {NDIS_FILTER_DIRECTED, true, false, false, false, false},
	    {NDIS_FILTER_BROADCAST, false, false, true, false, false},
	    {NDIS_FILTER_MULTICAST, false, false, false, true, false},
	    {NDIS_FILTER_ALL_MULTICAST | NDIS_FILTER_DIRECTED, true, false, false, true, true},
	    {NDIS_FILTER_PROMISCUOUS, true, true, true, true, true},
	};
	struct fixture *f = *state;
	uint8_t frame[100], list[33 * 6] = {0};
	size_t list_size = sizeof(list);

	assert_int_equal(netvsc_set(&f->n, OID_802_3_MULTICAST_LIST, group, 6), 0);
	assert_int_equal(netvsc_set(&f->n, OID_802_3_MULTICAST_LIST, list, 7), RNDIS_STATUS_INVALID_LENGTH);
	assert_int_equal(netvsc_set(&f->n, OID_802_3_MULTICAST_LIST, list, sizeof(list)), RNDIS_STATUS_INVALID_LENGTH);
	assert_int_equal(netvsc_query(&f->n, OID_802_3_MULTICAST_LIST, list, &list_size), 0);
	assert_int_equal(list_size, 6);
	assert_memory_equal(list, group, 6);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct {
			const uint8_t *to;
			bool wanted;
		} cases[] = {{mac, rows[i].own}, {other, rows[i].other}, {everybody, rows[i].all}, {group, rows[i].listed},
		    {group2, rows[i].unlisted}};

		assert_int_equal(netvsc_set_filter(&f->n, rows[i].filter), 0);
		for (unsigned k = 0; k < ARRAY_SIZE(cases); k++) {
			size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, k + 1, cases[k].to, other);

			put_frame(f, NULL, frame, size);
		}
		for (unsigned k = 0; k < ARRAY_SIZE(cases); k++) {
			if (!cases[k].wanted)
				continue;
			assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
			assert_memory_equal(f->received.bytes, cases[k].to, 6);
		}
	}
	/* What comes while nobody listens is not kept for later. */
	assert_int_equal(netvsc_set_filter(&f->n, 0), 0);
	put_frame(f, NULL, frame, 60);
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_PROMISCUOUS), 0);
	put_frame(f, NULL, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 20, mac, other));
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	assert_int_equal(f->received.size, 62);
}

/* The guest keeps what it gets: when its buffer is full the rest waits, and comes when it gives some back. */
static void test_receive_full(void **state)
{
	enum { FRAMES = 1200 };
	struct fixture *f = *state;
	struct timeval limit = {.tv_sec = 10};
	uint8_t frame[1514];
	unsigned put = 0, got = 0;

	setsockopt(f->peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	f->n.keep = true;
	while (got < FRAMES) {
		for (unsigned i = 0; i < 50 && put < FRAMES; i++) {
			size_t size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 1000, mac, other);

			be16_put(frame + 42, (uint16_t)put++);
			put_frame(f, NULL, frame, size);
		}
		while (got < put) {
			if (f->n.kept_count > 20)
				assert_int_equal(netvsc_complete(&f->n, f->n.kept[--f->n.kept_count]), 0);
			assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
			assert_int_equal(be16_get(f->received.bytes + 42), got);
			got++;
		}
	}
}

/* --- the link ------------------------------------------------------------------------------------------------ */

static uint32_t next_status(struct fixture *f)
{
	struct rndis_indicate indicate;
	uint8_t *message;
	size_t size;

	assert_int_equal(netvsc_receive(&f->n, &message, &size), 0);
	memcpy(&indicate, message, sizeof(indicate));
	assert_int_equal(indicate.header.type, RNDIS_INDICATE_STATUS);
	return indicate.status;
}

static void test_plug(void **state)
{
	struct fixture *f = *state;
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[100];
	uint32_t number;
	size_t size = sizeof(number);

	assert_ptr_equal(network_plug(f->network, NULL), f->port);
	assert_int_equal(next_status(f), RNDIS_STATUS_MEDIA_DISCONNECT);
	assert_int_equal(netvsc_query(&f->n, OID_GEN_MEDIA_CONNECT_STATUS, &number, &size), 0);
	assert_int_equal(number, 1);
	size = ip_frame(frame, false, FRAME_PROTOCOL_UDP, 30, other, mac);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS); /* into the void */
	assert_null(network_plug(f->network, f->port));
	assert_int_equal(next_status(f), RNDIS_STATUS_MEDIA_CONNECT);
	be16_put(frame + 42, 4711);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	assert_int_equal(be16_get(w->frame + 42), 4711);
	/* Whoever is behind the port goes. */
	close(f->peer);
	f->peer = -1;
	assert_int_equal(next_status(f), RNDIS_STATUS_MEDIA_DISCONNECT);
	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	free(w);
}

static void test_addresses(void **state)
{
	struct fixture *f = *state;
	struct network_seen seen[4];
	uint8_t arp[60] = {0}, nd[14 + 40 + 24] = {0};

	assert_int_equal(network_addresses(f->network, seen, 4), 0);
	addresses(arp, other, mac, 0x0806);
	memcpy(arp + 14, (const uint8_t[]){0, 1, 8, 0, 6, 4, 0, 1}, 8);
	memcpy(arp + 22, mac, 6);
	assert_int_equal(netvsc_send_frame(&f->n, arp, sizeof(arp), NULL, 0), NVSP_STATUS_SUCCESS); /* a probe: nobody's yet */
	assert_int_equal(network_addresses(f->network, seen, 4), 0);
	be32_put(arp + 28, 0x0a00020f);
	assert_int_equal(netvsc_send_frame(&f->n, arp, sizeof(arp), NULL, 0), NVSP_STATUS_SUCCESS);
	addresses(nd, other, mac, 0x86dd);
	nd[14] = 0x60;
	be16_put(nd + 18, 24);
	nd[20] = 58;
	nd[14 + 8] = 0xfe;
	nd[14 + 9] = 0x80;
	nd[14 + 23] = 5;
	nd[54] = 135;
	assert_int_equal(netvsc_send_frame(&f->n, nd, sizeof(nd), NULL, 0), NVSP_STATUS_SUCCESS);
	assert_int_equal(network_addresses(f->network, seen, 4), 2);
	assert_string_equal(seen[0].address, "fe80::5");
	assert_string_equal(seen[1].address, "10.0.2.15");
	assert_true(seen[1].seen_ms && seen[0].seen_ms >= seen[1].seen_ms);
	/* Seen again it is the newest, and there is still one of it. */
	assert_int_equal(netvsc_send_frame(&f->n, arp, sizeof(arp), NULL, 0), NVSP_STATUS_SUCCESS);
	assert_int_equal(network_addresses(f->network, seen, 4), 2);
	assert_string_equal(seen[0].address, "10.0.2.15");
}

static void test_mac_change(void **state)
{
	struct fixture *f = *state;
	struct rndis_config_parameter p = {.name_offset = 20, .name_length = 28, .type = RNDIS_PARAMETER_STRING, .value_offset = 48,
	    .value_length = 24};
	const char *name = "NetworkAddress", *value = "00155d010204";
	uint8_t bytes[72] = {0};

	memcpy(bytes, &p, sizeof(p));
	for (unsigned i = 0; i < 14; i++)
		bytes[20 + i * 2] = (uint8_t)name[i];
	for (unsigned i = 0; i < 12; i++)
		bytes[48 + i * 2] = (uint8_t)value[i];
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RNDIS_CONFIG_PARAMETER, bytes, sizeof(bytes)), RNDIS_STATUS_NOT_ACCEPTED);
	bytes[48 + 22] = '3'; /* its own */
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RNDIS_CONFIG_PARAMETER, bytes, sizeof(bytes)), RNDIS_STATUS_SUCCESS);
	bytes[48] = 'x';
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RNDIS_CONFIG_PARAMETER, bytes, sizeof(bytes)), RNDIS_STATUS_INVALID_DATA);
	p.value_length = 0xfffffff0;
	memcpy(bytes, &p, sizeof(p));
	assert_int_equal(netvsc_set(&f->n, OID_GEN_RNDIS_CONFIG_PARAMETER, bytes, sizeof(bytes)), RNDIS_STATUS_INVALID_DATA);
}

/* A driver waits for its answers also when the adapter is taken away; here for one that it would have been told of a bit later. */
static void test_removed_and_told(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[200], message[300];
	size_t size = netvsc_message(message, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, 60, other, mac), NULL, 0);

	take_answers(f->n.channel);
	guest_take_event(f->n.channel);
	assert_int_equal(netvsc_send_section(&f->n, 0, message, size), 0);
	network_destroy(f->network);
	f->network = NULL;
	assert_true(guest_take_event(f->n.channel));
	assert_int_equal(take_answers(f->n.channel), 1);
}

/* And for those to frames that wait for the port, and to packets that nobody has looked at. */
static void test_removed_while_full(void **state)
{
	struct fixture *f = *state;
	struct guest_channel *channels[2] = {f->n.channel};
	size_t size;
	const uint8_t *page = frame_page(f, 1000, &size);

	assert_int_equal(ask_channels(f, 1), 1);
	channels[1] = open_sub(f, 1);
	take_answers(channels[0]);
	for (unsigned i = 0; i < 400; i++)
		assert_int_equal(send_page(f, channels[i % 2], page, size), 0);
	network_destroy(f->network);
	f->network = NULL;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(take_answers(channels[i]), 200);
	guest_channel_free(channels[1]);
}

static struct network_meter_rule rule(bool inbound, enum network_remote kind, const char *address, unsigned length)
{
	struct network_meter_rule rule = {.inbound = inbound, .kind = kind, .length = length};

	if (kind == NETWORK_REMOTE_MAC)
		memcpy(rule.address, other, sizeof(other));
	else if (address)
		inet_pton(kind == NETWORK_REMOTE_IPV6 ? AF_INET6 : AF_INET, address, rule.address);
	return rule;
}

static void require_bytes(struct fixture *f, unsigned count, const uint64_t *bytes)
{
	struct network_meter_rule rules[NETWORK_METER_RULES];

	assert_int_equal(network_meter_get(f->meter, rules), count);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(rules[i].bytes, bytes[i]);
}

/* The guest sends so much, and gets as much back: 10.0.0.1 and fd00::1 are who it comes from, …2 whom it is for, both ways. */
static void pass_both_ways(struct fixture *f, bool ipv6, size_t payload)
{
	struct wire *w = calloc(1, sizeof(*w));
	uint8_t frame[1514];
	size_t size = ip_frame(frame, ipv6, FRAME_PROTOCOL_UDP, payload, other, mac);

	assert_int_equal(netvsc_send_frame(&f->n, frame, size, NULL, 0), NVSP_STATUS_SUCCESS);
	take_frame(f, w);
	size = ip_frame(frame, ipv6, FRAME_PROTOCOL_UDP, payload, mac, other);
	put_frame(f, NULL, frame, size);
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	free(w);
}

/* The most special rule of the direction has all of a frame, the others nothing. */
static void test_meter(void **state)
{
	struct fixture *f = *state;
	struct network_meter_rule rules[] = {rule(true, NETWORK_REMOTE_ANY, NULL, 0), rule(false, NETWORK_REMOTE_ANY, NULL, 0),
	    rule(false, NETWORK_REMOTE_IPV4, "10.0.0.0", 31), rule(false, NETWORK_REMOTE_IPV4, "10.0.0.2", 31), rule(true, NETWORK_REMOTE_IPV4, "10.0.0.1", 32),
	    rule(true, NETWORK_REMOTE_IPV4, "10.0.0.9", 29), rule(false, NETWORK_REMOTE_IPV6, "fd00::", 8), rule(false, NETWORK_REMOTE_IPV6, "fd00::2", 127)};
	const uint64_t none[ARRAY_SIZE(rules)] = {0}, four[] = {0, 0, 0, 142, 142, 0, 0, 0}, six[] = {162, 0, 0, 142, 142, 0, 0, 162};
	struct network_meter_rule mac_rule = rule(true, NETWORK_REMOTE_MAC, NULL, 0), kept = rules[4];
	struct network_counters counters;
	uint8_t arp[60] = {0};

	pass_both_ways(f, false, 100);
	require_bytes(f, 0, none);
	assert_int_equal(network_meter_set(f->meter, rules, ARRAY_SIZE(rules)), 0);
	require_bytes(f, ARRAY_SIZE(rules), none);
	pass_both_ways(f, false, 100);
	require_bytes(f, ARRAY_SIZE(rules), four);
	pass_both_ways(f, true, 100);
	require_bytes(f, ARRAY_SIZE(rules), six);
	/* What is not IP is nobody's. */
	addresses(arp, mac, other, 0x0806);
	put_frame(f, NULL, arp, sizeof(arp));
	assert_int_equal(netvsc_receive_frame(&f->n, &f->received), 0);
	require_bytes(f, ARRAY_SIZE(rules), six);
	/* A rule that stays keeps what it has; an adapter's address goes before all of IP. */
	assert_int_equal(network_meter_set(f->meter, (struct network_meter_rule[]){mac_rule, kept}, 2), 0);
	require_bytes(f, 2, (const uint64_t[]){0, 142});
	pass_both_ways(f, false, 100);
	require_bytes(f, 2, (const uint64_t[]){142, 142});
	/* The adapter goes, and what it has counted stays. */
	network_destroy(f->network);
	f->network = NULL;
	require_bytes(f, 2, (const uint64_t[]){142, 142});
	network_meter_get_kept(f->meter, &counters);
	assert_int_equal(counters.sent_frames, 4);
	assert_int_equal(counters.sent_bytes, 3 * 142 + 162);
	assert_int_equal(counters.received_bytes, 3 * 142 + 162 + sizeof(arp));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_answers_asked_for, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_queries, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_supported, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_statistics, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_old_offloads, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_mtu, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_sections, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_split_question, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_interrupts, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_transmit_checksum, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_transmit_large, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_transmit_vlan, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_transmit_lost, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_transmit_full, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_receive_checksum, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_receive_large, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_receive_vlan, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_filters, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_receive_full, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_plug, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_addresses, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_mac_change, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_removed_and_told, setup_ready, teardown),
	    cmocka_unit_test_setup_teardown(test_removed_while_full, setup_four, teardown),
	    cmocka_unit_test_setup_teardown(test_meter, setup_ready, teardown),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
