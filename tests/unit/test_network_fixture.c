// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/test_network_fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

const uint8_t mac[6] = {0x00, 0x15, 0x5d, 1, 2, 3};
const uint8_t other[6] = {0x02, 0, 0, 0, 0, 9};
const struct guid network_class = NETWORK_CLASS;

/* --- fixture --------------------------------------------------------------------------------------- */

static int setup_vps(void **state, unsigned vps)
{
	struct network_config config = {.name = "network0"};
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	f->guest = guest_create_vps(64, vps);
	assert_non_null(f->guest);
	assert_int_equal(vmbus_create(&f->bus, guest_partition(f->guest), NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f->peer = pair[1];
	assert_int_equal(port_open_socket(&f->port, pair[0], NULL), 0);
	guid_random(&config.instance);
	memcpy(config.mac, mac, sizeof(mac));
	config.port = f->port;
	f->meter = config.meter = network_meter_create();
	assert_non_null(f->meter);
	f->instance = config.instance;
	assert_int_equal(network_create(&f->network, f->bus, &config, NULL), 0);
	assert_int_equal(guest_connect(f->guest, VMBUS_VERSION_WIN10_V5_3), 0);
	assert_int_equal(guest_request_offers(f->guest), 0);
	assert_int_equal(netvsc_open(&f->n, f->guest, RING_PAGES), 0);
	*state = f;
	return 0;
}

int setup(void **state)
{
	return setup_vps(state, 1);
}

static int make_ready(struct fixture *f)
{
	assert_int_equal(netvsc_negotiate(&f->n, NVSP_VERSION_61, 1500, RECEIVE_PAGES), 0);
	assert_int_equal(netvsc_set_filter(&f->n, NDIS_FILTER_DIRECTED | NDIS_FILTER_BROADCAST), 0);
	return 0;
}

int setup_ready(void **state)
{
	setup(state);
	return make_ready(*state);
}

int setup_four(void **state)
{
	setup_vps(state, 4);
	return make_ready(*state);
}

int teardown(void **state)
{
	struct fixture *f = *state;

	network_destroy(f->network);
	network_meter_destroy(f->meter);
	port_close(f->port);
	if (f->peer >= 0)
		close(f->peer);
	guest_channel_free(f->n.channel);
	vmbus_destroy(f->bus);
	guest_destroy(f->guest);
	free(f);
	return 0;
}

/* --- the network's side ------------------------------------------------------------------------------ */

/* The next frame from the guest; what the adapter asks of its port is skipped. */
void take_frame(struct fixture *f, struct wire *w)
{
	struct iovec iov[2] = {{&w->todo, sizeof(w->todo)}, {w->frame, sizeof(w->frame)}};
	ssize_t n;

	do {
		struct pollfd fd = {.fd = f->peer, .events = POLLIN};

		assert_int_equal(poll(&fd, 1, 10000), 1);
		n = readv(f->peer, iov, 2);
		assert_true(n >= (ssize_t)sizeof(w->todo));
	} while (n == sizeof(w->todo));
	w->size = (size_t)n - sizeof(w->todo);
}

void put_frame(struct fixture *f, const struct virtio_net_hdr *todo, const void *frame, size_t size)
{
	struct virtio_net_hdr none = {0};
	struct iovec iov[2] = {{(void *)(uintptr_t)(todo ? todo : &none), sizeof(none)}, {(void *)(uintptr_t)frame, size}};

	assert_int_equal(writev(f->peer, iov, 2), sizeof(none) + size);
}

/* What the adapter asked its port for last. */
unsigned asked(struct fixture *f)
{
	unsigned offloads = 0;
	struct wire *w = malloc(sizeof(*w));
	struct iovec iov[2] = {{&w->todo, sizeof(w->todo)}, {w->frame, sizeof(w->frame)}};
	struct pollfd fd = {.fd = f->peer, .events = POLLIN};

	while (poll(&fd, 1, 0) == 1)
		if (readv(f->peer, iov, 2) == sizeof(w->todo))
			offloads = w->todo.hdr_len;
	free(w);
	return offloads;
}

/* --- frames ------------------------------------------------------------------------------------------ */

void addresses(uint8_t *frame, const uint8_t *to, const uint8_t *from, unsigned type)
{
	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	be16_put(frame + 12, (uint16_t)type);
}

/* An IPv4 or IPv6 packet of TCP or UDP with no checksum yet; returns the frame's size. */
size_t ip_frame(uint8_t *frame, bool ipv6, unsigned protocol, size_t payload, const uint8_t *to, const uint8_t *from)
{
	unsigned head = protocol == FRAME_PROTOCOL_TCP ? 20 : 8, ip = ipv6 ? 40 : 20;
	uint8_t *p = frame + 14;

	memset(frame, 0, 14 + ip + head);
	addresses(frame, to, from, ipv6 ? 0x86dd : 0x0800);
	if (ipv6) {
		p[0] = 0x60;
		be16_put(p + 4, (uint16_t)(head + payload));
		p[6] = (uint8_t)protocol;
		p[7] = 64;
		p[8] = p[24] = 0xfd;
		p[23] = 1;
		p[39] = 2;
	} else {
		p[0] = 0x45;
		be16_put(p + 2, (uint16_t)(ip + head + payload));
		p[8] = 64;
		p[9] = (uint8_t)protocol;
		be32_put(p + 12, 0x0a000001);
		be32_put(p + 16, 0x0a000002);
		le16_put(p + 10, frame_fold(frame_sum(0, p, 20, false)));
	}
	be16_put(p + ip, 1000);
	be16_put(p + ip + 2, 2000);
	if (protocol == FRAME_PROTOCOL_TCP)
		p[ip + 12] = 0x50;
	else
		be16_put(p + ip + 4, (uint16_t)(8 + payload));
	for (size_t i = 0; i < payload; i++)
		p[ip + head + i] = (uint8_t)(i * 7 + i / 256);
	return 14 + ip + head + payload;
}

/* Whether all checksums of a frame are right, computed the slow way. */
bool checksums_good(const uint8_t *frame, size_t size)
{
	struct frame_layout l;
	uint32_t sum = 0;

	assert_true(frame_parse(frame, size, &l));
	if (l.ipv4) {
		for (unsigned i = 0; i < 20; i += 2)
			sum += be16_get(frame + l.ip + i);
		sum = (sum & 0xffff) + (sum >> 16);
		if (sum != 0xffff)
			return false;
	}
	sum = l.protocol + (uint32_t)(size - l.transport);
	for (unsigned i = 0; i < (l.ipv4 ? 8u : 32u); i += 2)
		sum += be16_get(frame + l.ip + (l.ipv4 ? 12 : 8) + i);
	for (size_t i = l.transport; i < size; i += 2)
		sum += i + 1 < size ? be16_get(frame + i) : frame[i] * 256u;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* --- the guest's side -------------------------------------------------------------------------------- */

void set_offloads(struct fixture *f, bool checksums, bool coalesced)
{
	uint8_t c = checksums ? NDIS_CHECKSUM_BOTH : NDIS_OFFLOAD_DISABLED, r = coalesced ? NDIS_OFFLOAD_ENABLED : NDIS_OFFLOAD_DISABLED;
	struct ndis_offload_parameters p = {.tcp4_checksum = c, .udp4_checksum = c, .tcp6_checksum = c, .udp6_checksum = c,
	    .rsc4 = r, .rsc6 = r};

	assert_int_equal(netvsc_set(&f->n, OID_TCP_OFFLOAD_PARAMETERS, &p, sizeof(p)), 0);
}

uint32_t ask_channels(struct fixture *f, uint32_t count)
{
	struct nvsp_message m = {.type = NVSP_SUBCHANNEL, .subchannel_request = {NVSP_SUBCHANNEL_ALLOCATE, count}};

	assert_int_equal(netvsc_exchange(&f->n, &m), 0);
	assert_int_equal(m.type, NVSP_SUBCHANNEL);
	return m.subchannel_complete.status == NVSP_STATUS_SUCCESS ? m.subchannel_complete.count : UINT32_MAX;
}

struct guest_channel *open_sub(struct fixture *f, unsigned index)
{
	const struct vmbus_message_offer *offer = guest_find_offer(f->guest, &network_class, index);
	struct guest_open_options options = {.target_vp = index};
	struct guest_channel *channel;

	assert_non_null(offer);
	assert_int_equal(guest_open(f->guest, offer, RING_PAGES, RING_PAGES, &options, &channel), 0);
	return channel;
}

uint8_t *frame_page(struct fixture *f, size_t payload, size_t *size)
{
	uint8_t *page = guest_alloc(f->guest, 1, NULL), frame[1600];

	*size = netvsc_message(page, frame, ip_frame(frame, false, FRAME_PROTOCOL_UDP, payload, other, mac), NULL, 0);
	return page;
}

int send_page(struct fixture *f, struct guest_channel *channel, const void *page, size_t size)
{
	struct nvsp_message m = {.type = NVSP_SEND_RNDIS_PACKET, .rndis = {NVSP_CHANNEL_DATA, NVSP_NO_SECTION, 0}};

	return guest_send_buffer(channel, f->n.next_id++, page, (uint32_t)size, &m, sizeof(m));
}

unsigned take_answers(struct guest_channel *channel)
{
	uint8_t packet[2048];
	unsigned count = 0;

	while (guest_receive_raw(channel, packet, sizeof(packet)) > 0) {
		struct vmbus_packet_header header;

		memcpy(&header, packet, sizeof(header));
		count += header.type == VMBUS_PACKET_COMPLETION;
	}
	return count;
}

static uint32_t index_of(const volatile uint32_t *index)
{
	return __atomic_load_n(index, __ATOMIC_SEQ_CST);
}

uint32_t waiting_bytes(struct guest_channel *channel)
{
	volatile struct vmbus_ring_header *ring = guest_in_ring(channel);
	uint32_t from = index_of(&ring->read_index), to = index_of(&ring->write_index);

	return to >= from ? to - from : guest_in_size(channel) - from + to;
}

/* --- what the adapter tells ---------------------------------------------------------------------------- */

struct inspected {
	const char *name;
	uint64_t value;
};

static void ignore_begin(void *context, const char *name)
{
	(void)context;
	(void)name;
}

static void ignore_end(void *context)
{
	(void)context;
}

static void ignore_text(void *context, const char *name, const char *value)
{
	(void)context;
	(void)name;
	(void)value;
}

static void look_at_number(void *context, const char *name, uint64_t value)
{
	struct inspected *i = context;

	if (!strcmp(name, i->name))
		i->value = value;
}

uint64_t inspected(struct fixture *f, const char *name)
{
	static const struct vmbus_inspector inspector = {ignore_begin, ignore_end, ignore_text, look_at_number};
	struct inspected i = {name, UINT64_MAX};

	network_inspect(f->network, &inspector, &i);
	assert_int_not_equal(i.value, UINT64_MAX);
	return i.value;
}
