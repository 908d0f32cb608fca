// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_kvp.c - what the guest tells of itself, by the guest double: honest, with no daemon, with one that dies and returns, hostile; and
 * out of one bus into another with a question under way.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/double/kvp_guest.h"
#include "tests/double/sections.h"
#include "vsp/integration/integration.h"
#include "vsp/integration/kvp_read.h"

static const uint8_t macs[][GUEST_MAC_SIZE] = {{0, 0x15, 0x5d, 0xa, 0xb, 0xc}, {0, 0x15, 0x5d, 1, 2, 3}, {0, 0x15, 0x5d, 4, 5, 6}};

static const struct kvp_pair debian[] = {{"FullyQualifiedDomainName", "web.example.org"},
					 {"IntegrationServicesVersion", "3.1"},
					 {"NetworkAddressIPv4", "192.0.2.7"},
					 {"NetworkAddressIPv6", "2001:db8::7;fe80::215:5dff:fe01:203"},
					 {"OSName", "Debian GNU/Linux"},
					 {"OSMajorVersion", "12"},
					 {"OSMinorVersion", ""},
					 {"SomethingNew", "of which nobody knows"},
					 {"OSVersion", "6.1.0"},
					 {NULL, NULL}};
static const struct kvp_pair moved[] = {{"FullyQualifiedDomainName", "web.example.org"}, {"NetworkAddressIPv4", "192.0.2.8"}, {NULL, NULL}};
static const struct kvp_pair adapters[] = {{"00:15:5D:0A:0B:0C", "192.0.2.7"},
					   {"00:15:5D:01:02:03", "2001:DB8::7; ;2001:db8:0:0::7;fe80::215:5dff:fe01:203%eth1;127.0.0.1;::1;0.0.0.0;x;ff02::1;224.0.0.1;::ffff:10.0.0.1;"},
					   {NULL, NULL}};
static const struct kvp_pair elsewhere[] = {{"00:15:5D:0A:0B:0C", "192.0.2.8"}, {"00:15:5D:04:05:06", ""}, {NULL, NULL}};

struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct integration *integration;
	struct kvp_guest g;

	/* Of until(). */
	enum guest_item item;
	const char *text; /* NULL: nothing is said */
	unsigned adapter;
	int count; /* of its addresses */
	unsigned asked;
};

static void create_services(struct machine *m, unsigned timeout_ms, bool no_kvp)
{
	struct integration_options options = {
	    .no_heartbeat = true, .no_shutdown = true, .no_timesync = true, .no_kvp = no_kvp, .kvp_ms = 5, .kvp_timeout_ms = timeout_ms};

	assert_int_equal(integration_create(&m->integration, m->bus, &options, NULL), 0);
	integration_set_adapters(m->integration, macs, 2);
}

static int begin(void **state, unsigned timeout_ms)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return -1;
	m->guest = guest_create(16);
	if (!m->guest || vmbus_create(&m->bus, guest_partition(m->guest), NULL) < 0)
		return -1;
	*state = m;
	create_services(m, timeout_ms, false);
	m->g.items = debian;
	m->g.adapters = adapters;
	return guest_connect(m->guest, VMBUS_VERSION(5, 3)) || guest_request_offers(m->guest);
}

static int set_up(void **state)
{
	return begin(state, 0);
}

/* Whoever answers soon is told from whoever does not, also where the two threads wait for a processor. */
static int set_up_impatient(void **state)
{
	return begin(state, 1000);
}

static int tear_down(void **state)
{
	struct machine *m = *state;

	integration_destroy(m->integration);
	vmbus_destroy(m->bus);
	guest_destroy(m->guest);
	free(m);
	return 0;
}

static void open_service(struct machine *m)
{
	assert_int_equal(kvp_guest_open(&m->g, m->guest), 0);
}

/* --- until ------------------------------------------------------------------------------------------- */

static bool is_said(void *context)
{
	struct machine *m = context;
	char text[GUEST_TEXT_MAX];
	bool known;

	assert_true(kvp_guest_serve(&m->g));
	known = integration_item(m->integration, m->item, text);
	return m->text ? known && !strcmp(text, m->text) : !known;
}

static void until_said(struct machine *m, enum guest_item item, const char *text)
{
	m->item = item;
	m->text = text;
	assert_true(guest_wait(is_said, m));
}

static int addresses_of(struct machine *m, unsigned adapter, char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX])
{
	uint64_t asked_ms;

	return integration_addresses(m->integration, macs[adapter], addresses, &asked_ms);
}

static bool has_addresses(void *context)
{
	struct machine *m = context;
	char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];

	assert_true(kvp_guest_serve(&m->g));
	return addresses_of(m, m->adapter, addresses) == m->count;
}

static void until_addresses(struct machine *m, unsigned adapter, int count)
{
	m->adapter = adapter;
	m->count = count;
	assert_true(guest_wait(has_addresses, m));
}

static bool was_asked(void *context)
{
	struct machine *m = context;

	assert_true(kvp_guest_serve(&m->g));
	return m->g.items_asked >= m->asked;
}

static void until_asked(struct machine *m, unsigned more)
{
	m->asked = m->g.items_asked + more;
	assert_true(guest_wait(was_asked, m));
}

/* --- honest guests --------------------------------------------------------------------------------------- */

static void what_it_says_is_known(void **state)
{
	struct machine *m = *state;
	char text[GUEST_TEXT_MAX], addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];

	assert_int_equal(addresses_of(m, 0, addresses), -1);
	open_service(m);
	until_said(m, GUEST_SYSTEM_VERSION, "6.1.0");
	assert_true(integration_item(m->integration, GUEST_NAME, text));
	assert_string_equal(text, "web.example.org");
	assert_true(integration_item(m->integration, GUEST_SYSTEM_MINOR, text));
	assert_string_equal(text, "");
	assert_false(integration_item(m->integration, GUEST_PROCESSOR, text));
	assert_string_equal(integration_item_key(GUEST_SYSTEM), "OSName");
	until_addresses(m, 1, 2);
	assert_int_equal(addresses_of(m, 1, addresses), 2);
	assert_string_equal(addresses[0], "2001:db8::7");
	assert_string_equal(addresses[1], "fe80::215:5dff:fe01:203");
	assert_int_equal(addresses_of(m, 0, addresses), 1);
	assert_string_equal(addresses[0], "192.0.2.7");
	assert_int_equal(addresses_of(m, 2, addresses), -1);
	assert_int_equal(guest_close(m->g.channel), 0);
	m->g.dead = true;
	until_said(m, GUEST_NAME, NULL);
	assert_int_equal(addresses_of(m, 0, addresses), -1);
}

/* A Linux guest starts programs to find out what addresses an adapter has. */
static void addresses_are_asked_for_when_something_changed(void **state)
{
	struct machine *m = *state;

	open_service(m);
	until_addresses(m, 1, 2);
	/* All of it once, and then rounds of items only. */
	until_asked(m, 5 * ARRAY_SIZE(debian));
	assert_int_equal(m->g.addresses_asked, 2);
	m->g.items = moved;
	m->g.adapters = elsewhere;
	until_addresses(m, 1, -1);
	until_said(m, GUEST_SYSTEM, NULL);
	assert_int_equal(m->g.addresses_asked, 4);
}

static void adapters_come_and_go(void **state)
{
	struct machine *m = *state;
	char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];

	open_service(m);
	until_addresses(m, 0, 1);
	until_addresses(m, 1, 2);
	m->g.adapters = elsewhere;
	integration_set_adapters(m->integration, macs, 3);
	/* What is known of the others stays until the guest has been asked. */
	assert_int_equal(addresses_of(m, 0, addresses), 1);
	until_addresses(m, 2, 0);
	assert_int_equal(addresses_of(m, 0, addresses), 1);
	assert_string_equal(addresses[0], "192.0.2.8");
	integration_set_adapters(m->integration, macs + 1, 2);
	assert_int_equal(addresses_of(m, 0, addresses), -1);
	integration_set_adapters(m->integration, macs, 0);
	until_asked(m, 2 * ARRAY_SIZE(debian));
	until_said(m, GUEST_SYSTEM, "Debian GNU/Linux");
}

static void an_old_driver_knows_no_adapters(void **state)
{
	struct machine *m = *state;

	m->g.version = (struct ic_version){3, 0};
	open_service(m);
	until_said(m, GUEST_SYSTEM, "Debian GNU/Linux");
	until_asked(m, 3 * ARRAY_SIZE(debian));
	assert_int_equal(m->g.addresses_asked, 0);
}

static bool was_negotiated(void *context)
{
	struct machine *m = context;

	assert_true(kvp_guest_serve(&m->g));
	return m->g.negotiations > 0;
}

static void a_driver_of_another_version_is_left_alone(void **state)
{
	struct machine *m = *state;

	m->g.version = (struct ic_version){9, 0};
	open_service(m);
	assert_true(guest_wait(was_negotiated, m));
	assert_int_equal(guest_close(m->g.channel), 0);
	assert_int_equal(m->g.items_asked, 0);
	m->g.version = (struct ic_version){4, 0};
	open_service(m);
	until_said(m, GUEST_SYSTEM, "Debian GNU/Linux");
}

/* --- guests that cannot say ------------------------------------------------------------------------------ */

static void a_guest_without_a_daemon_is_asked_again(void **state)
{
	struct machine *m = *state;
	char text[GUEST_TEXT_MAX];

	m->g.status = KVP_GUEST_FAILED;
	open_service(m);
	until_asked(m, 3);
	assert_false(integration_item(m->integration, GUEST_NAME, text));
	m->g.status = 0;
	until_said(m, GUEST_NAME, "web.example.org");
	until_addresses(m, 0, 1);
	/* It ends while the guest goes on. */
	m->g.status = KVP_GUEST_FAILED;
	until_said(m, GUEST_NAME, NULL);
	until_addresses(m, 0, -1);
	m->g.status = 0;
	until_addresses(m, 0, 1);
}

/* Linux leaves what it is asked in the ring until there is a daemon again. */
static void a_guest_that_does_not_answer_is_forgotten(void **state)
{
	struct machine *m = *state;

	open_service(m);
	until_said(m, GUEST_NAME, "web.example.org");
	until_addresses(m, 0, 1);
	m->g.dead = true;
	until_said(m, GUEST_NAME, NULL);
	until_addresses(m, 0, -1);
	m->g.dead = false;
	until_said(m, GUEST_NAME, "web.example.org");
	until_addresses(m, 0, 1);
}

static void a_pause_is_no_silence(void **state)
{
	struct machine *m = *state;

	open_service(m);
	until_said(m, GUEST_NAME, "web.example.org");
	integration_paused(m->integration);
	integration_resumed(m->integration);
	until_asked(m, 3 * ARRAY_SIZE(debian));
	until_said(m, GUEST_NAME, "web.example.org");
}

/* --- texts --------------------------------------------------------------------------------------------- */

static const char *text_of(const uint16_t *units, size_t count, char *text, size_t room)
{
	uint8_t bytes[128];

	for (size_t i = 0; i < count; i++)
		le16_put(bytes + 2 * i, units[i]);
	kvp_text(text, room, bytes, count);
	return text;
}

#define TEXT(room, ...) \
	text_of((const uint16_t[]){__VA_ARGS__}, ARRAY_SIZE(((const uint16_t[]){__VA_ARGS__})), text, room)

static void texts_are_made_harmless(void **state)
{
	char text[64];

	assert_string_equal(TEXT(64, 'a', 0xe9, 0x20ac, 0xd83d, 0xde00, 'z', 0, 'x'), "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z");
	assert_string_equal(TEXT(64, 'n', 'o', ' ', 'e', 'n', 'd'), "no end");
	/* Halves of characters. */
	assert_string_equal(TEXT(64, 0xd83d), "\xef\xbf\xbd");
	assert_string_equal(TEXT(64, 0xd83d, 'x', 0xde00), "\xef\xbf\xbdx\xef\xbf\xbd");
	/* A screen would obey these. */
	assert_string_equal(TEXT(64, 'a', 0x1b, '[', '2', 'J', '\n', 0x9b, 0x202e, 0x2028, 0xfeff, 0x7f, 'b'),
			    "a\xef\xbf\xbd[2J\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "b");
	assert_string_equal(TEXT(64, 'x', '\n', ' ', '\r', '\n', 0), "x");
	assert_string_equal(TEXT(64, 0), "");
	assert_string_equal(TEXT(64, ' '), "");
	/* No half of a character at the end. */
	assert_string_equal(TEXT(4, 'a', 'b', 'c', 'd'), "abc");
	assert_string_equal(TEXT(4, 'a', 'b', 0x20ac), "ab");
	assert_string_equal(TEXT(1, 'a'), "");
}

/* --- nonsense ------------------------------------------------------------------------------------------ */

static void lie_about_items(struct kvp_guest *g, struct kvp_message *m, size_t *size)
{
	struct kvp_value *item = &m->item.item;

	if (m->header.type != IC_KVP_EXCHANGE || m->item.operation != KVP_ENUMERATE)
		return;
	m->header.status = 0;
	item->type = KVP_VALUE_STRING;
	item->key_size = kvp_guest_text(item->key, sizeof(item->key), "OSName");
	item->value_size = kvp_guest_text(item->value, sizeof(item->value), "a lie");
	switch (m->item.index) {
	case 0:
		item->key_size = UINT32_MAX;
		break;
	case 1:
		item->value_size = sizeof(item->value) + 1;
		break;
	case 2:
		item->type = 99;
		break;
	case 3:
		item->type = KVP_VALUE_U32;
		item->value_size = 8;
		break;
	case 4:
		*size -= 1;
		m->pipe.size -= 1;
		break;
	case 5:
		item->key_size = 0;
		break;
	case 6:
		kvp_guest_text(item->key, sizeof(item->key), "FullyQualifiedDomainName");
		item->key_size = sizeof(item->key);
		kvp_guest_text(item->value, sizeof(item->value), "getaddrinfo failed\n");
		item->value_size = 2 * sizeof("getaddrinfo failed\n");
		break;
	case 7:
		kvp_guest_text(item->key, sizeof(item->key), "OSBuildNumber");
		item->key_size = sizeof(item->key);
		item->type = KVP_VALUE_U32;
		le32_put(item->value, 20348);
		item->value_size = 4;
		break;
	case 8:
		kvp_guest_text(item->key, sizeof(item->key), "SuiteMask");
		item->key_size = sizeof(item->key);
		item->type = KVP_VALUE_U64;
		le64_put(item->value, UINT64_MAX);
		item->value_size = 8;
		break;
	case 9:
		kvp_guest_text(item->key, sizeof(item->key), "OSVersion");
		item->key_size = sizeof(item->key);
		memset(item->value, 0xac, sizeof(item->value)); /* three bytes each in UTF-8 */
		item->value_size = sizeof(item->value);
		break;
	default: /* without an end */
		item->key_size = kvp_guest_text(item->key, sizeof(item->key), "Something");
		break;
	}
}

static void nonsense_is_no_item(void **state)
{
	struct machine *m = *state;
	char text[GUEST_TEXT_MAX];

	m->g.lie = lie_about_items;
	open_service(m);
	until_said(m, GUEST_SYSTEM_BUILD, "20348");
	assert_false(integration_item(m->integration, GUEST_SYSTEM, text));
	assert_false(integration_item(m->integration, GUEST_NAME, text));
	assert_true(integration_item(m->integration, GUEST_SYSTEM_SUITES, text));
	assert_string_equal(text, "18446744073709551615");
	assert_true(integration_item(m->integration, GUEST_SYSTEM_VERSION, text));
	assert_int_equal(strlen(text), (GUEST_TEXT_MAX - 1) / 3 * 3);
	/* A round ends, though items do not. */
	until_addresses(m, 1, 2);
	m->g.lie = NULL;
	until_said(m, GUEST_SYSTEM, "Debian GNU/Linux");
}

static void lie_about_addresses(struct kvp_guest *g, struct kvp_message *m, size_t *size)
{
	char list[1200] = "";

	if (m->header.type != IC_KVP_EXCHANGE || m->item.operation != KVP_GET_IP_INFO)
		return;
	m->header.status = 0;
	if (m->addresses.adapter[2 * 10] == '1') {
		*size = sizeof(m->pipe) + sizeof(m->header) + 2;
		m->pipe.size = sizeof(m->header) + 2;
		return;
	}
	/* More than are taken, to the last unit, with no end. */
	for (unsigned i = 0; i < 95; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "10.0.%u.%u;", i, 100 + i);
	memset(m->addresses.addresses, 'x', sizeof(m->addresses.addresses));
	kvp_guest_text(m->addresses.addresses, 2 * strlen(list), list);
}

static void nonsense_is_no_address(void **state)
{
	struct machine *m = *state;
	char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];

	m->g.lie = lie_about_addresses;
	open_service(m);
	until_addresses(m, 0, GUEST_ADDRESSES);
	addresses_of(m, 0, addresses);
	assert_string_equal(addresses[GUEST_ADDRESSES - 1], "10.0.15.115");
	until_asked(m, 2 * ARRAY_SIZE(debian));
	assert_int_equal(addresses_of(m, 1, addresses), -1);
}

/* --- into another bus ------------------------------------------------------------------------------------ */

static bool is_asked(void *context)
{
	volatile struct vmbus_ring_header *ring = guest_out_ring(((struct machine *)context)->g.channel);

	return __atomic_load_n(&ring->write_index, __ATOMIC_ACQUIRE) != ring->read_index;
}

static void save(struct machine *m, struct form_writer *bus, struct form_writer *services)
{
	integration_paused(m->integration);
	vmbus_hold(m->bus);
	integration_save(m->integration, services);
	vmbus_save(m->bus, bus);
	assert_false(bus->failed || services->failed);
	integration_destroy(m->integration);
	vmbus_destroy(m->bus);
}

static void restore(struct machine *m, struct form_writer *bus, struct form_writer *services)
{
	struct form_reader r = {.bytes = bus->bytes, .left = bus->size}, s = {.bytes = services->bytes, .left = services->size};
	struct error err = {0};

	assert_int_equal(vmbus_create(&m->bus, guest_partition(m->guest), NULL), 0);
	create_services(m, 0, false);
	vmbus_hold(m->bus);
	assert_int_equal(vmbus_load(m->bus, &r, &err), 0);
	assert_int_equal(form_error(&r, "the bus", &err), 0);
	integration_load(m->integration, &s);
	assert_int_equal(form_error(&s, "the services", &err), 0);
	vmbus_release(m->bus);
	integration_resumed(m->integration);
	free(bus->bytes);
	free(services->bytes);
}

static void a_question_goes_on_in_another_bus(void **state)
{
	struct form_writer bus = {0}, services = {0};
	struct machine *m = *state;

	open_service(m);
	until_addresses(m, 1, 2);
	assert_true(guest_wait(is_asked, m));
	save(m, &bus, &services);
	restore(m, &bus, &services);
	until_said(m, GUEST_NAME, "web.example.org");
	until_addresses(m, 1, 2);
	assert_int_equal(m->g.negotiations, 1);
	/* And with none under way, as when the guest is quick. */
	bus = services = (struct form_writer){0};
	save(m, &bus, &services);
	restore(m, &bus, &services);
	until_said(m, GUEST_NAME, "web.example.org");
	until_addresses(m, 1, 2);
}

/* As it was before there was this service: the section ends with the one for time. The guest hears of a new device. */
static void a_state_without_it_is_restored(void **state)
{
	const size_t own = 4 + 15; /* whether it is there, and what all services have */
	struct form_writer bus = {0}, services = {0};
	struct machine *m = *state;
	uint32_t length;

	integration_destroy(m->integration);
	assert_int_equal(guest_unload(m->guest), 0);
	create_services(m, 0, true);
	assert_int_equal(guest_connect(m->guest, VMBUS_VERSION(5, 3)) || guest_request_offers(m->guest), 0);
	assert_int_equal(guest_offer_count(m->guest), 0);
	save(m, &bus, &services);
	length = le32_get(services.bytes + SECTION_SIZE);
	le32_put(services.bytes + SECTION_SIZE, length - (uint32_t)own);
	services.size -= own;
	le32_put(services.bytes + 12, 1);
	sections_seal(services.bytes, services.size);
	restore(m, &bus, &services);
	open_service(m);
	until_said(m, GUEST_NAME, "web.example.org");
}

#define CASE(name)      cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define IMPATIENT(name) cmocka_unit_test_setup_teardown(name, set_up_impatient, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    CASE(what_it_says_is_known),
	    CASE(addresses_are_asked_for_when_something_changed),
	    CASE(adapters_come_and_go),
	    CASE(an_old_driver_knows_no_adapters),
	    CASE(a_driver_of_another_version_is_left_alone),
	    CASE(a_guest_without_a_daemon_is_asked_again),
	    IMPATIENT(a_guest_that_does_not_answer_is_forgotten),
	    CASE(a_pause_is_no_silence),
	    cmocka_unit_test(texts_are_made_harmless),
	    CASE(nonsense_is_no_item),
	    CASE(nonsense_is_no_address),
	    CASE(a_question_goes_on_in_another_bus),
	    CASE(a_state_without_it_is_restored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
