// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile guest at the network adapter, and any frames from its network: messages, control, packets in sections and pages,
 * completions, on the first channel and on up to three sub-channels; the hash key and the table of channels. Then the guest closes
 * them all, opens the first again and must find an adapter that works: a hang or a refusal is a finding, too.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/double/netvsc.h"
#include "vsp/network/network.h"

#define LIVES         64u /* inputs that one machine serves: the double's memory is not given back */
#define RECEIVE_PAGES 64u
#define CHANNELS      4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t left;
};

static struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct network *network;
	struct port *port;
	int peer;
	struct netvsc n;
	struct guest_channel *channels[CHANNELS]; /* of this input; the first one is always there */
	unsigned inputs;
} machine;

static void take(struct input *in, void *to, size_t size)
{
	size_t n = size < in->left ? size : in->left;

	memset(to, 0, size);
	if (n > 0)
		memcpy(to, in->data, n);
	in->data += n;
	in->left -= n;
}

static unsigned take_number(struct input *in, unsigned below)
{
	uint8_t bytes[2];

	take(in, bytes, sizeof(bytes));
	return le16_get(bytes) % below;
}

static void must(bool condition)
{
	if (!condition)
		abort();
}

static void connect_channel(struct machine *m)
{
	must(netvsc_open(&m->n, m->guest, 5) == 0);
	must(netvsc_negotiate(&m->n, NVSP_VERSION_61, 1500, RECEIVE_PAGES) == 0);
	must(netvsc_set_filter(&m->n, NDIS_FILTER_PROMISCUOUS) == 0);
	m->channels[0] = m->n.channel;
}

static void open_subs(struct machine *m, unsigned count)
{
	static const struct guid class = NETWORK_CLASS;
	struct nvsp_message message = {.type = NVSP_SUBCHANNEL, .subchannel_request = {NVSP_SUBCHANNEL_ALLOCATE, count}};

	if (count == 0)
		return;
	must(netvsc_exchange(&m->n, &message) == 0 && message.subchannel_complete.count == count);
	for (unsigned i = 1; i <= count; i++) {
		const struct vmbus_message_offer *offer = guest_find_offer(m->guest, &class, i);

		must(offer && guest_open(m->guest, offer, 3, 3, &(struct guest_open_options){.target_vp = i}, &m->channels[i]) == 0);
	}
}

static void close_channels(struct machine *m)
{
	uint32_t relids[CHANNELS] = {0};

	for (unsigned i = 1; i < CHANNELS; i++) {
		if (!m->channels[i])
			continue;
		relids[i] = guest_channel_relid(m->channels[i]);
		must(guest_close(m->channels[i]) == 0);
		m->channels[i] = NULL;
	}
	must(guest_close(m->channels[0]) == 0);
	for (unsigned i = 1; i < CHANNELS; i++)
		must(!relids[i] || guest_wait_rescind(m->guest, relids[i]) == 0);
}

static void machine_create(struct machine *m)
{
	struct network_config config = {.name = "network0", .any_mac = true};
	int pair[2];

	log_set_level(LOG_LEVEL_ERROR);
	memset(m, 0, sizeof(*m));
	m->guest = guest_create_vps(64, CHANNELS);
	must(m->guest && vmbus_create(&m->bus, guest_partition(m->guest), NULL) == 0);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	m->peer = pair[1];
	must(port_open_socket(&m->port, pair[0], NULL) == 0);
	config.port = m->port;
	guid_random(&config.instance);
	must(network_create(&m->network, m->bus, &config, NULL) == 0);
	must(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3) == 0);
	must(guest_request_offers(m->guest) == 0);
	connect_channel(m);
}

static void machine_destroy(struct machine *m)
{
	network_destroy(m->network);
	port_close(m->port);
	close(m->peer);
	guest_channel_free(m->n.channel);
	vmbus_destroy(m->bus);
	guest_destroy(m->guest);
	m->guest = NULL;
}

static void drain(struct machine *m)
{
	uint8_t bytes[256];

	while (recv(m->peer, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC) > 0)
		;
	for (unsigned i = 0; i < 64 && netvsc_poll(&m->n); i++)
		m->n.range_next = m->n.range_count;
}

/* An RNDIS message whose fields are mostly what they should be. */
static size_t make_message(struct input *in, uint8_t *to, size_t capacity)
{
	struct rndis_packet p = {.header = {RNDIS_PACKET, 0}};
	size_t size = sizeof(p) + take_number(in, (unsigned)(capacity - sizeof(p) + 1));
	uint8_t fix = 0;

	take(in, to, size < 300 ? size : 300);
	take(in, &fix, 1);
	memcpy(&p, to, sizeof(p));
	if (fix & 1)
		p.header = (struct rndis_header){fix & 2 ? fix % 10 : RNDIS_PACKET, (uint32_t)size};
	if (fix & 4) {
		p.info_offset = 36;
		p.info_length = fix & 8 ? 16 : 48;
		p.data_offset = 36 + p.info_length;
		p.data_length = (uint32_t)(size > p.data_offset + 8 ? size - 8 - p.data_offset : 0);
	}
	memcpy(to, &p, sizeof(p));
	return size;
}

static void send_message(struct machine *m, struct input *in)
{
	static uint8_t bytes[32 * 4096];
	unsigned way = take_number(in, 3);
	size_t size = make_message(in, bytes, way == 0 ? 6144 : sizeof(bytes));

	if (way == 0)
		netvsc_send_section(&m->n, take_number(in, NETVSC_SECTIONS), bytes, size);
	else if (way == 1)
		netvsc_send_pages(&m->n, bytes, size);
	else
		netvsc_send_control(&m->n, bytes, size);
}

static void send_nvsp(struct machine *m, struct input *in)
{
	struct nvsp_message message = {.type = take_number(in, 2) ? 100 + take_number(in, 40) : take_number(in, 4)};

	take(in, message.bytes, take_number(in, sizeof(message.bytes)));
	guest_send(m->n.channel, take_number(in, 4) ? VMBUS_PACKET_IN_BAND : (uint16_t)take_number(in, 16), 1, take_number(in, 300), &message,
	    take_number(in, sizeof(message) + 1));
}

static void put_frame(struct machine *m, struct input *in)
{
	uint8_t bytes[400];
	size_t size = take_number(in, sizeof(bytes) + 1);

	take(in, bytes, size);
	if (size > 0)
		send(m->peer, bytes, size, MSG_DONTWAIT);
}

/* Parameters that are mostly what they should be. */
static void set_scaling(struct machine *m, struct input *in)
{
	struct {
		struct rndis_request request;
		struct ndis_rss_parameters p;
		uint8_t rest[552];
	} message = {.request = {.header = {RNDIS_SET, 0}, .oid = OID_GEN_RECEIVE_SCALE_PARAMETERS, .info_offset = 20}};
	size_t size = take_number(in, sizeof(message) - sizeof(message.request) + 1);

	message.p = (struct ndis_rss_parameters){.type = NDIS_OBJECT_RSS_PARAMETERS, .hash = NDIS_HASH_TOEPLITZ | take_number(in, 0x2000) << 4,
	    .flags = (uint16_t)(take_number(in, 8) * 2), .table_size = (uint16_t)(take_number(in, 131) * 4), .table_offset = sizeof(message.p) + 40,
	    .key_size = take_number(in, 8) ? 40 : (uint16_t)take_number(in, 100), .key_offset = sizeof(message.p)};
	take(in, message.rest, take_number(in, sizeof(message.rest) + 1));
	if (take_number(in, 4) == 0)
		take(in, &message.p, sizeof(message.p));
	for (size_t i = 40; i < sizeof(message.rest); i++)
		message.rest[i] &= i % 4 ? 0 : take_number(in, 16) ? 3 : 0xff;
	message.request.info_length = (uint32_t)size;
	message.request.header.length = (uint32_t)(sizeof(message.request) + size);
	netvsc_send_control(&m->n, &message, sizeof(message.request) + size);
}

static void step(struct machine *m, struct input *in)
{
	unsigned channel = take_number(in, CHANNELS);

	netvsc_release(&m->n);
	m->n.channel = m->channels[channel] ? m->channels[channel] : m->channels[0];
	switch (take_number(in, 7)) {
	case 0:
	case 1:
		send_message(m, in);
		break;
	case 2:
		send_nvsp(m, in);
		break;
	case 3:
		put_frame(m, in);
		break;
	case 4:
		m->n.channel = m->channels[0];
		set_scaling(m, in);
		break;
	case 5:
		netvsc_complete(&m->n, take_number(in, 200));
		break;
	default:
		drain(m);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct machine *m = &machine;

	if (m->guest && m->inputs == LIVES)
		machine_destroy(m);
	if (!m->guest)
		machine_create(m);
	m->inputs++;
	open_subs(m, take_number(&in, CHANNELS));
	while (in.left > 0)
		step(m, &in);
	drain(m);
	close_channels(m);
	connect_channel(m);
	return 0;
}
