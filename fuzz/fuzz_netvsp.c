// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile guest at the network adapter, and any frames from its network: messages, control, packets in sections and pages,
 * completions, on the first channel and on up to three sub-channels, which it closes and opens again; the hash key and the table of
 * channels; buffers that are taken back and lent again. Meanwhile the adapter is plugged in and out, taken away and put back, and saved:
 * what comes of whatever the guest did must be readable, and goes on as another adapter on another bus. What was saved is lied about, too:
 * it is refused, or gone on with. At the end the guest closes its channels, opens the first again and must find an adapter that works: a
 * hang or a refusal is a finding, too.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/double/netvsc.h"
#include "tests/double/sections.h"
#include "vsp/network/network.h"

#define PAGES_MAX     12000u /* of the double's memory, which is not given back: then another machine comes */
#define RING_PAGES    5u
#define SUB_PAGES     3u
#define OPENS         100u /* of sub-channels in one input */
#define RECEIVE_PAGES 64u
#define CHANNELS      4u
#define RENEWALS      4u  /* of what costs much, in one input */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t left;
};

static struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct network *network;
	struct network_meter *meter;
	struct port *port;
	struct guid instance;
	int peer;
	struct netvsc n;
	struct guest_channel *channels[CHANNELS]; /* of this input; the first one is always there */
	struct vmbus_message_offer offers[CHANNELS]; /* of sub-channels */
	unsigned offered;
	bool foreign; /* it goes on with what was not its own state */
	unsigned pages, renewals, opens;
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
	m->pages += 2 * RING_PAGES + RECEIVE_PAGES + NETVSC_SECTIONS * 6144 / 4096;
	must(netvsc_open(&m->n, m->guest, RING_PAGES) == 0);
	must(netvsc_negotiate(&m->n, NVSP_VERSION_61, 1500, RECEIVE_PAGES) == 0);
	must(netvsc_set_filter(&m->n, NDIS_FILTER_PROMISCUOUS) == 0);
	m->channels[0] = m->n.channel;
}

static void open_sub(struct machine *m, unsigned i)
{
	if (i > m->offered || m->channels[i] || m->opens == OPENS)
		return;
	m->opens++;
	m->pages += 2 * SUB_PAGES;
	/* The first may be closed by now, and this one with it. */
	if (guest_open(m->guest, &m->offers[i], SUB_PAGES, SUB_PAGES, &(struct guest_open_options){.target_vp = i}, &m->channels[i]))
		m->channels[i] = NULL;
}

static void open_subs(struct machine *m, unsigned count)
{
	static const struct guid class = NETWORK_CLASS;
	struct nvsp_message message = {.type = NVSP_SUBCHANNEL, .subchannel_request = {NVSP_SUBCHANNEL_ALLOCATE, count}};

	m->offered = count;
	if (count == 0)
		return;
	must(netvsc_exchange(&m->n, &message) == 0 && message.subchannel_complete.count == count);
	for (unsigned i = 1; i <= count; i++) {
		const struct vmbus_message_offer *offer = guest_find_offer(m->guest, &class, i);

		must(offer != NULL);
		m->offers[i] = *offer;
		open_sub(m, i);
		must(m->channels[i] != NULL);
	}
}

static void close_sub(struct machine *m, unsigned i)
{
	if (m->channels[i])
		must(guest_close(m->channels[i]) == 0);
	m->channels[i] = NULL;
}

/* Whatever was taken back, of sub-channels that a message asked for too; for what is not it means nothing. */
static void release_numbers(struct machine *m)
{
	for (uint32_t relid = 1; relid <= 4 * CHANNELS; relid++)
		must(guest_release_relid(m->guest, relid) == 0);
	m->offered = 0;
}

static void close_channels(struct machine *m)
{
	for (unsigned i = 1; i < CHANNELS; i++)
		close_sub(m, i);
	must(guest_close(m->channels[0]) == 0);
	release_numbers(m);
}

static void create_adapter(struct machine *m)
{
	const struct network_config config = {.name = "network0", .any_mac = true, .port = m->port, .instance = m->instance, .meter = m->meter};

	must(network_create(&m->network, m->bus, &config, NULL) == 0);
}

/* Of each kind, so that every frame is looked at. */
static void create_meter(struct machine *m)
{
	struct network_meter_rule rules[2 * 4] = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
		rules[i] = (struct network_meter_rule){.inbound = i & 1, .kind = (enum network_remote)(i / 2), .length = 3};
	m->meter = network_meter_create();
	must(m->meter && network_meter_set(m->meter, rules, ARRAY_SIZE(rules)) == 0);
}

static void machine_create(struct machine *m)
{
	int pair[2];

	log_set_level(LOG_LEVEL_ERROR);
	memset(m, 0, sizeof(*m));
	m->guest = guest_create_vps(64, CHANNELS);
	must(m->guest && vmbus_create(&m->bus, guest_partition(m->guest), NULL) == 0);
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	m->peer = pair[1];
	must(port_open_socket(&m->port, pair[0], NULL) == 0);
	guid_random(&m->instance);
	create_meter(m);
	create_adapter(m);
	must(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3) == 0);
	must(guest_request_offers(m->guest) == 0);
	connect_channel(m);
}

static void machine_destroy(struct machine *m)
{
	network_destroy(m->network);
	network_meter_destroy(m->meter);
	port_close(m->port);
	close(m->peer);
	guest_channel_free(m->n.channel);
	vmbus_destroy(m->bus);
	guest_destroy(m->guest);
	m->guest = NULL;
}

/* --- the adapter renewed ------------------------------------------------------------------------------- */

/* Taken from the guest, and given to it again. */
static void take_away(struct machine *m)
{
	uint32_t relid = guest_channel_relid(m->channels[0]);

	network_destroy(m->network);
	for (unsigned i = 0; i < CHANNELS; i++)
		if (m->channels[i])
			guest_channel_free(m->channels[i]);
	memset(m->channels, 0, sizeof(m->channels));
	m->n.keep = false;
	must(guest_wait_rescind(m->guest, relid) == 0);
	release_numbers(m);
	create_adapter(m);
	connect_channel(m);
}

static void remove_devices(struct machine *m)
{
	network_destroy(m->network);
	vmbus_destroy(m->bus);
}

/* Whether a new adapter on a new bus goes on with these sections; if not there is neither. */
static bool load(struct machine *m, const uint8_t *bytes, size_t size)
{
	struct form_reader r = {.bytes = bytes, .left = size};
	bool good;

	must(vmbus_create(&m->bus, guest_partition(m->guest), NULL) == 0);
	create_adapter(m);
	vmbus_hold(m->bus);
	network_pause(m->network);
	good = network_load(m->network, &r, 0, NULL) == 0 && !r.bad && vmbus_load(m->bus, &r, NULL) == 0 && !r.bad && r.left == 0;
	if (good) {
		network_resume(m->network);
		vmbus_release(m->bus);
	} else {
		remove_devices(m);
	}
	return good;
}

/* Some bytes of the adapter's section changed. */
static void patch(struct input *in, uint8_t *bytes, size_t size)
{
	size_t length = le32_get(bytes + SECTION_SIZE);

	for (unsigned n = 1 + take_number(in, 4); n > 0; n--) {
		size_t at = SECTION_HEADER + take_number(in, (unsigned)length);

		take(in, bytes + at, 1);
	}
	sections_seal(bytes, size);
}

static void move(struct machine *m, struct input *in)
{
	struct form_writer w = {0};
	uint8_t *lies = NULL;

	vmbus_hold(m->bus);
	network_pause(m->network);
	network_save(m->network, &w, 0);
	vmbus_save(m->bus, &w);
	must(!w.failed);
	remove_devices(m);
	if (take_number(in, 2) == 0) {
		lies = malloc(w.size);
		must(lies != NULL);
		memcpy(lies, w.bytes, w.size);
		patch(in, lies, w.size);
		m->foreign = load(m, lies, w.size);
	}
	if (!m->foreign)
		must(load(m, w.bytes, w.size));
	free(lies);
	free(w.bytes);
}

static void lend_again(struct machine *m, struct input *in)
{
	bool receive = take_number(in, 2);
	struct nvsp_message message = {.type = receive ? NVSP_REVOKE_RECEIVE_BUFFER : NVSP_REVOKE_SEND_BUFFER};
	uint8_t *memory = receive ? m->n.receive_buffer : m->n.send_buffer;
	unsigned pages = receive ? RECEIVE_PAGES : NETVSC_SECTIONS * 6144 / 4096;
	uint64_t pfns[RECEIVE_PAGES];
	uint32_t handle;

	for (unsigned i = 0; i < pages; i++)
		pfns[i] = (guest_gpa(m->guest, memory) >> 12) + i;
	pages = 1 + take_number(in, pages);
	guest_send(m->channels[0], VMBUS_PACKET_IN_BAND, 0, 1, &message, sizeof(message));
	m->n.kept_count = receive ? 0 : m->n.kept_count;
	if (guest_gpadl(m->guest, guest_channel_relid(m->channels[0]), pfns, pages, 0, pages * 4096, &handle))
		return;
	message = (struct nvsp_message){.type = receive ? NVSP_SEND_RECEIVE_BUFFER : NVSP_SEND_SEND_BUFFER, .buffer = {handle, 0xcafe}};
	guest_send(m->channels[0], VMBUS_PACKET_IN_BAND, 1, 2, &message, sizeof(message));
}

static void renew(struct machine *m, struct input *in)
{
	unsigned what = take_number(in, 8);

	if (m->foreign || m->renewals == RENEWALS)
		return;
	m->renewals++;
	if (what == 0) {
		take_away(m);
	} else if (what < 4) {
		move(m, in);
	} else if (what < 6) {
		must(network_plug(m->network, NULL) == m->port);
		must(network_plug(m->network, m->port) == NULL);
	} else {
		lend_again(m, in);
	}
}

/* --- what the guest does ------------------------------------------------------------------------------- */

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

/* What belongs to the first channel goes by it mostly: by another it breaks the adapter, and little happens after that. */
static void choose_channel(struct machine *m, struct input *in)
{
	if (take_number(in, 16))
		m->n.channel = m->channels[0];
}

static void send_message(struct machine *m, struct input *in)
{
	static uint8_t bytes[32 * 4096];
	unsigned way = take_number(in, 3);
	size_t size = make_message(in, bytes, way == 0 ? 6144 : sizeof(bytes));

	if (way == 0) {
		netvsc_send_section(&m->n, take_number(in, NETVSC_SECTIONS), bytes, size);
	} else if (way == 1) {
		netvsc_send_pages(&m->n, bytes, size);
	} else {
		choose_channel(m, in);
		netvsc_send_control(&m->n, bytes, size);
	}
}

static void complete(struct machine *m, struct input *in)
{
	if (take_number(in, 16) == 0)
		netvsc_complete(&m->n, take_number(in, 200));
	else if (m->n.kept_count > 0)
		netvsc_complete(&m->n, m->n.kept[--m->n.kept_count]);
}

static void send_nvsp(struct machine *m, struct input *in)
{
	struct nvsp_message message = {.type = take_number(in, 2) ? 100 + take_number(in, 40) : take_number(in, 4)};

	choose_channel(m, in);
	take(in, message.bytes, take_number(in, sizeof(message.bytes)));
	guest_send(m->n.channel, take_number(in, 16) ? VMBUS_PACKET_IN_BAND : (uint16_t)take_number(in, 16), 1, take_number(in, 300), &message,
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
	unsigned channel = take_number(in, CHANNELS), other = 1 + take_number(in, CHANNELS - 1);

	netvsc_release(&m->n);
	m->n.channel = m->channels[channel] ? m->channels[channel] : m->channels[0];
	switch (take_number(in, 10)) {
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
		complete(m, in);
		break;
	case 6:
		close_sub(m, other);
		break;
	case 7:
		open_sub(m, other);
		break;
	case 8:
		m->n.channel = m->channels[0];
		renew(m, in);
		break;
	default:
		m->n.keep = take_number(in, 2);
		drain(m);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct machine *m = &machine;

	if (m->guest && m->pages > PAGES_MAX)
		machine_destroy(m);
	if (!m->guest)
		machine_create(m);
	m->renewals = m->opens = 0;
	open_subs(m, take_number(&in, CHANNELS));
	while (in.left > 0)
		step(m, &in);
	netvsc_release(&m->n);
	m->n.keep = false;
	m->n.channel = m->channels[0];
	drain(m);
	close_channels(m);
	connect_channel(m);
	if (m->foreign)
		machine_destroy(m);
	return 0;
}
