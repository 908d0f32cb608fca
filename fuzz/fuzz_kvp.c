// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile guest at Key-Value Pair Exchange. The input is read as an answer by itself; then it is what a guest does: it answers, late, wrongly,
 * or what it was not asked, closes and opens, while adapters come and go and the machine is paused, or saved and goes on elsewhere. What
 * is known of it afterwards is text that harms nobody, and addresses that are some. At the end the guest is honest and must be understood.
 */
#include <arpa/inet.h>
#include <sched.h>
#include <string.h>

#include "tests/double/kvp_guest.h"
#include "tests/double/sections.h"
#include "vsp/integration/integration.h"
#include "vsp/integration/kvp_read.h"

#define PAGES_MAX 3000u /* of the double's memory, which is not given back: then another machine comes */
#define STEPS     64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct kvp_pair items[] = {{"FullyQualifiedDomainName", "honest"}, {"OSName", "Fuzz"}, {NULL, NULL}};
static const struct kvp_pair adapters[] = {{"00:15:5D:00:00:00", "192.0.2.1"}, {NULL, NULL}};

struct input {
	const uint8_t *data;
	size_t left;
};

static struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct integration *integration;
	struct kvp_guest g;
	struct input *in;
	unsigned pages, moves;
} machine;

static void must(bool condition)
{
	if (!condition)
		abort();
}

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

/* --- what must be true ----------------------------------------------------------------------------------- */

/* UTF-8 of the shortest form, nothing that a screen obeys; the end is there. */
static void must_be_harmless(const char *text, size_t room)
{
	size_t size = strnlen(text, room);

	must(size < room);
	for (size_t i = 0; i < size;) {
		uint8_t c = (uint8_t)text[i];
		unsigned more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;

		must(c >= 0x20 && c != 0x7f && (c < 0x80 || (c >= 0xc2 && c < 0xf5)));
		must(c != 0xc2 || (uint8_t)text[i + 1] >= 0xa0);
		for (unsigned k = 1; k <= more; k++)
			must(((uint8_t)text[i + k] & 0xc0) == 0x80);
		must(c != 0xed || (uint8_t)text[i + 1] < 0xa0); /* no half of a pair */
		i += 1 + more;
	}
}

static void must_be_addresses(char (*addresses)[GUEST_ADDRESS_MAX], int count, int max)
{
	uint8_t bytes[16];

	must(count >= -1 && count <= max);
	for (int i = 0; i < count; i++)
		must(inet_pton(strchr(addresses[i], ':') ? AF_INET6 : AF_INET, addresses[i], bytes) == 1);
}

static void read_alone(const uint8_t *data, size_t size)
{
	static uint8_t body[sizeof(struct kvp_ip_info)];
	char text[GUEST_TEXT_MAX], addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];
	size_t room = 1 + size % 64, n = size < sizeof(body) ? size : sizeof(body);
	enum guest_item item;

	memset(body, 0, sizeof(body));
	memcpy(body, data, n);
	if (kvp_read_item(body, sizeof(body), &item, text)) {
		must(item < GUEST_ITEMS);
		must_be_harmless(text, sizeof(text));
	}
	must_be_addresses(addresses, kvp_read_addresses(body, sizeof(body), addresses, GUEST_ADDRESSES), GUEST_ADDRESSES);
	must_be_addresses(addresses, kvp_read_addresses(data, size, addresses, 1), 1);
	kvp_text(text, room, body, n / 2);
	must_be_harmless(text, room);
}

/* --- a machine ------------------------------------------------------------------------------------- */

static void lie(struct kvp_guest *g, struct kvp_message *m, size_t *size)
{
	struct input *in = ((struct machine *)g->context)->in;
	uint8_t *bytes = (uint8_t *)m;

	switch (take_number(in, 8)) {
	case 0:
		m->header.status = take_number(in, 2) ? 0 : KVP_STATUS_NO_MORE_ITEMS;
		break;
	case 1:
		*size = take_number(in, (unsigned)*size + 1);
		break;
	case 2:
		m->item.item.key_size = take_number(in, 2) ? take_number(in, 600) : UINT32_MAX;
		m->item.item.value_size = take_number(in, 2) ? take_number(in, 2200) : UINT32_MAX;
		m->item.item.type = take_number(in, 12);
		break;
	case 3:
		m->header.status = 0;
		take(in, m->addresses.addresses, take_number(in, sizeof(m->addresses.addresses)));
		break;
	case 4:
		m->header.status = 0;
		take(in, m->item.item.value, take_number(in, sizeof(m->item.item.value)));
		break;
	case 5:
		take(in, bytes + take_number(in, (unsigned)*size), 1);
		break;
	default:
		break;
	}
}

static void create_services(struct machine *m)
{
	const struct integration_options options = {
	    .no_heartbeat = true, .no_shutdown = true, .no_timesync = true, .kvp_ms = 1, .kvp_timeout_ms = 20};

	must(vmbus_create(&m->bus, guest_partition(m->guest), NULL) == 0);
	must(integration_create(&m->integration, m->bus, &options, NULL) == 0);
}

static void remove_services(struct machine *m)
{
	integration_destroy(m->integration);
	vmbus_destroy(m->bus);
}

static void machine_create(struct machine *m)
{
	log_set_level(LOG_LEVEL_ERROR);
	memset(m, 0, sizeof(*m));
	m->guest = guest_create(16);
	must(m->guest != NULL);
	create_services(m);
	must(guest_connect(m->guest, VMBUS_VERSION_WIN10_V5_3) == 0);
	must(guest_request_offers(m->guest) == 0);
}

static void machine_destroy(struct machine *m)
{
	remove_services(m);
	guest_destroy(m->guest);
	m->guest = NULL;
}

static void open_service(struct machine *m)
{
	m->pages += 8;
	must(kvp_guest_open(&m->g, m->guest) == 0);
}

/* Whether new services on a new bus go on with these sections; if not there are none. */
static bool load(struct machine *m, const uint8_t *bytes, size_t size)
{
	struct form_reader r = {.bytes = bytes, .left = size};
	bool good;

	create_services(m);
	vmbus_hold(m->bus);
	good = vmbus_load(m->bus, &r, NULL) == 0 && !r.bad;
	if (good) {
		integration_load(m->integration, &r);
		good = !r.bad && r.left == 0;
	}
	if (good) {
		vmbus_release(m->bus);
		integration_resumed(m->integration);
	} else {
		remove_services(m);
	}
	return good;
}

/* Some bytes of the services' section, which is the last, are lies: then the channel may never work again as this guest wants. */
static bool move(struct machine *m, struct input *in)
{
	struct form_writer w = {0};
	uint8_t *lies;
	size_t begin;
	bool lied;

	integration_paused(m->integration);
	vmbus_hold(m->bus);
	vmbus_save(m->bus, &w);
	begin = w.size;
	integration_save(m->integration, &w);
	must(!w.failed);
	remove_services(m);
	lies = malloc(w.size);
	must(lies != NULL);
	memcpy(lies, w.bytes, w.size);
	lied = take_number(in, 2);
	for (unsigned n = lied ? 1 + take_number(in, 4) : 0; n > 0; n--)
		take(in, lies + begin + SECTION_HEADER + take_number(in, (unsigned)(w.size - begin - SECTION_HEADER)), 1);
	sections_seal(lies, w.size);
	lied = lied && load(m, lies, w.size);
	if (!lied)
		must(load(m, w.bytes, w.size));
	free(lies);
	free(w.bytes);
	return lied;
}

static void set_adapters(struct machine *m, unsigned count)
{
	uint8_t macs[GUEST_ADAPTERS + 1][GUEST_MAC_SIZE] = {{0}};

	for (unsigned i = 0; i < count; i++)
		memcpy(macs[i], (const uint8_t[]){0, 0x15, 0x5d, 0, 0, (uint8_t)i}, GUEST_MAC_SIZE);
	integration_set_adapters(m->integration, macs, count);
}

static void look(struct machine *m)
{
	static const uint8_t mac[] = {0, 0x15, 0x5d, 0, 0, 0};
	char text[GUEST_TEXT_MAX], addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];
	uint64_t asked_ms;

	for (unsigned i = 0; i < GUEST_ITEMS; i++)
		if (integration_item(m->integration, (enum guest_item)i, text))
			must_be_harmless(text, sizeof(text));
	must_be_addresses(addresses, integration_addresses(m->integration, mac, addresses, &asked_ms), GUEST_ADDRESSES);
}

static void send_anything(struct machine *m, struct input *in)
{
	static uint8_t bytes[9000];
	size_t size = take_number(in, sizeof(bytes));

	take(in, bytes, size < 64 ? size : 64);
	guest_send(m->g.channel, take_number(in, 4) ? VMBUS_PACKET_IN_BAND : (uint16_t)take_number(in, 16), 0, 0, bytes, size);
}

static bool is_asked(void *context)
{
	volatile struct vmbus_ring_header *ring = guest_out_ring(((struct machine *)context)->g.channel);

	return __atomic_load_n(&ring->write_index, __ATOMIC_ACQUIRE) != ring->read_index;
}

/* False: nothing more comes of this machine. */
static bool step(struct machine *m, struct input *in)
{
	switch (take_number(in, 16)) {
	case 0:
		set_adapters(m, take_number(in, GUEST_ADAPTERS + 2));
		break;
	case 1:
		integration_paused(m->integration);
		integration_resumed(m->integration);
		break;
	case 2:
		send_anything(m, in);
		break;
	case 3:
		must(guest_close(m->g.channel) == 0);
		open_service(m);
		break;
	case 4:
		if (m->moves++ < 2)
			return !move(m, in);
		break;
	case 5:
		look(m);
		break;
	default:
		/* It may have been told something that makes it wait for good. */
		for (unsigned i = 0; i < 200 && !is_asked(m); i++)
			sched_yield();
		kvp_guest_serve(&m->g);
		break;
	}
	return true;
}

static bool is_understood(void *context)
{
	static const uint8_t mac[] = {0, 0x15, 0x5d, 0, 0, 0};
	struct machine *m = context;
	char text[GUEST_TEXT_MAX], addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];
	uint64_t asked_ms;

	must(kvp_guest_serve(&m->g));
	return integration_item(m->integration, GUEST_NAME, text) && !strcmp(text, "honest") &&
	       integration_addresses(m->integration, mac, addresses, &asked_ms) == 1 && !strcmp(addresses[0], "192.0.2.1");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct machine *m = &machine;
	bool going = true;

	read_alone(data, size);
	if (m->guest && m->pages > PAGES_MAX)
		machine_destroy(m);
	if (!m->guest)
		machine_create(m);
	m->in = &in;
	m->moves = 0;
	m->g = (struct kvp_guest){.items = items, .adapters = adapters, .lie = lie, .context = m};
	set_adapters(m, 1);
	open_service(m);
	for (unsigned i = 0; i < STEPS && going && in.left > 0; i++)
		going = step(m, &in);
	look(m);
	if (!going) {
		guest_channel_free(m->g.channel);
		machine_destroy(m);
		return 0;
	}
	must(guest_close(m->g.channel) == 0);
	m->g.lie = NULL;
	open_service(m);
	set_adapters(m, 1);
	must(guest_wait(is_understood, m));
	must(guest_close(m->g.channel) == 0);
	return 0;
}
