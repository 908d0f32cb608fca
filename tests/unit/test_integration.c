// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_integration.c - heartbeat, shutdown and time synchronisation against the guest double, which
 * answers as hv_utils does.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/double/guest.h"
#include "vsp/integration/ic_protocol.h"
#include "vsp/integration/integration.h"

#define EPOCH_DIFFERENCE 116444736000000000u

static const struct guid heartbeat_guid =
    GUID_INIT(0x57164f39, 0x9115, 0x4e78, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d);
static const struct guid shutdown_guid =
    GUID_INIT(0x0e0b6031, 0x5213, 0x4934, 0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb);
static const struct guid timesync_guid =
    GUID_INIT(0x9527e630, 0xd0ae, 0x497b, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf);

struct message {
	struct vmbus_pipe_header pipe;
	struct ic_header header;
	uint8_t body[8192];
} __attribute__((packed));

struct machine {
	struct guest *guest;
	struct vmbus *bus;
	struct integration *integration;

	/* From the callbacks; atomic. */
	int heartbeats[4], applications[4]; /* how often a state was entered */
	int shutdown_results, shutdown_result;
};

static void on_heartbeat(void *context, enum heartbeat_state state, enum heartbeat_applications applications)
{
	struct machine *m = context;

	__atomic_fetch_add(&m->heartbeats[state], 1, __ATOMIC_ACQ_REL);
	__atomic_fetch_add(&m->applications[applications], 1, __ATOMIC_ACQ_REL);
}

static void on_shutdown(void *context, int result)
{
	struct machine *m = context;

	__atomic_store_n(&m->shutdown_result, result, __ATOMIC_RELEASE);
	__atomic_fetch_add(&m->shutdown_results, 1, __ATOMIC_ACQ_REL);
}

static int set_up(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct integration_options options = {.heartbeat_ms = 20,
					      .timesync_ms = 20,
					      .on_heartbeat = on_heartbeat,
					      .on_shutdown = on_shutdown,
					      .context = m};

	if (!m)
		return -1;
	m->guest = guest_create(16);
	if (!m->guest || vmbus_create(&m->bus, guest_partition(m->guest), NULL) < 0 ||
	    integration_create(&m->integration, m->bus, &options, NULL) < 0)
		return -1;
	*state = m;
	return guest_connect(m->guest, VMBUS_VERSION(5, 3)) || guest_request_offers(m->guest);
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

static struct guest_channel *open_service(struct machine *m, const struct guid *interface)
{
	const struct vmbus_message_offer *offer = guest_find_offer(m->guest, interface, 0);
	struct guest_channel *channel;

	assert_non_null(offer);
	assert_int_equal(offer->flags, VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE | VMBUS_OFFER_NAMED_PIPE_MODE);
	assert_int_equal(offer->user_defined[0], VMBUS_PIPE_TYPE_MESSAGE);
	assert_int_equal(guest_open(m->guest, offer, 4, 4, NULL, &channel), 0);
	return channel;
}

static size_t receive(struct guest_channel *channel, struct message *message)
{
	struct vmbus_packet_header header;
	int size = guest_receive(channel, &header, message, sizeof(*message));

	assert_true(size >= (int)(sizeof(message->pipe) + sizeof(message->header)));
	assert_int_equal(header.type, VMBUS_PACKET_IN_BAND);
	assert_int_equal(message->pipe.type, VMBUS_PIPE_MESSAGE_DATA);
	assert_int_equal(message->pipe.size, sizeof(message->header) + message->header.size);
	assert_int_equal(message->header.flags, IC_FLAG_TRANSACTION | IC_FLAG_REQUEST);
	return (size_t)size;
}

/* As hv_utils: the same packet, with the flags of an answer. */
static void answer(struct guest_channel *channel, struct message *message, size_t size)
{
	message->header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, message, size), 0);
}

/* Choose versions among what is offered; false when they are not. */
static bool negotiate(struct guest_channel *channel, struct ic_version framework, struct ic_version version)
{
	struct message message;
	struct ic_negotiate *body = (void *)message.body;
	struct ic_version *versions = (void *)(message.body + sizeof(*body));
	size_t size = receive(channel, &message);
	bool found[2] = {false};

	assert_int_equal(message.header.type, IC_NEGOTIATE);
	for (unsigned i = 0; i < body->framework_count; i++)
		found[0] |= memcmp(&versions[i], &framework, sizeof(framework)) == 0;
	for (unsigned i = 0; i < body->message_count; i++)
		found[1] |= memcmp(&versions[body->framework_count + i], &version, sizeof(version)) == 0;
	body->framework_count = body->message_count = found[0] && found[1];
	versions[0] = framework;
	versions[1] = version;
	answer(channel, &message, size);
	return found[0] && found[1];
}

static void beat(struct guest_channel *channel, enum heartbeat_applications applications)
{
	struct message message;
	struct ic_heartbeat *body = (void *)message.body;
	size_t size = receive(channel, &message);

	assert_int_equal(message.header.type, IC_HEARTBEAT);
	body->sequence++;
	body->application_state = applications;
	answer(channel, &message, size);
}

/* States are passing (a slow machine misses beats), so what counts is that they were entered. */
static bool entered(void *context)
{
	return __atomic_exchange_n((int *)context, 0, __ATOMIC_ACQ_REL) > 0;
}

static void the_heart_beats(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;

	assert_int_equal(integration_heartbeat(m->integration, NULL), HEARTBEAT_NO_CONTACT);
	channel = open_service(m, &heartbeat_guid);
	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 0}));
	for (unsigned i = 0; i < 5; i++)
		beat(channel, HEARTBEAT_APPLICATIONS_HEALTHY);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_OK]));
	beat(channel, HEARTBEAT_APPLICATIONS_CRITICAL);
	assert_true(guest_wait(entered, &m->applications[HEARTBEAT_APPLICATIONS_CRITICAL]));
	/* Silence, and back. */
	entered(&m->heartbeats[HEARTBEAT_LOST]);
	assert_true(integration_heartbeat(m->integration, NULL) == HEARTBEAT_LOST ||
		    guest_wait(entered, &m->heartbeats[HEARTBEAT_LOST]));
	entered(&m->heartbeats[HEARTBEAT_OK]);
	beat(channel, HEARTBEAT_APPLICATIONS_UNKNOWN);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_OK]));
	integration_paused(m->integration);
	assert_int_equal(integration_heartbeat(m->integration, NULL), HEARTBEAT_PAUSED);
	integration_resumed(m->integration);
	assert_int_not_equal(integration_heartbeat(m->integration, NULL), HEARTBEAT_PAUSED);
	assert_int_equal(guest_close(channel), 0);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_NO_CONTACT]));
	assert_int_equal(integration_heartbeat(m->integration, NULL), HEARTBEAT_NO_CONTACT);
}

static void old_drivers_negotiate_old_versions(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &heartbeat_guid);

	assert_true(negotiate(channel, (struct ic_version){1, 0}, (struct ic_version){1, 0}));
	beat(channel, 0);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_OK]));
	assert_int_equal(guest_close(channel), 0);
	/* A driver that knows none of our versions is left alone. */
	channel = open_service(m, &heartbeat_guid);
	assert_false(negotiate(channel, (struct ic_version){9, 0}, (struct ic_version){9, 0}));
	assert_int_equal(guest_close(channel), 0);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_NO_CONTACT]));
}

static bool shutdown_is_ready(void *context)
{
	return integration_shutdown_ready(((struct machine *)context)->integration);
}

static bool shutdown_has_result(void *context)
{
	return __atomic_exchange_n(&((struct machine *)context)->shutdown_results, 0, __ATOMIC_ACQ_REL) == 1;
}

static void expect_shutdown(struct guest_channel *channel, uint32_t flags, const char *text, uint32_t status)
{
	struct message message;
	struct ic_shutdown *body = (void *)message.body;
	size_t size = receive(channel, &message);

	assert_int_equal(message.header.type, IC_SHUTDOWN);
	assert_int_equal(message.header.size, sizeof(*body));
	assert_int_equal(body->flags, flags);
	for (size_t i = 0; i <= strlen(text); i++)
		assert_int_equal(body->text[i], (uint8_t)text[i]);
	message.header.status = status;
	answer(channel, &message, size);
}

static void the_guest_shuts_down_when_asked(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel;
	struct error err = {0};

	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, false, NULL, &err),
			 -ENOTCONN);
	assert_non_null(strstr(err.text, "not running"));
	channel = open_service(m, &shutdown_guid);
	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 2}));
	assert_true(guest_wait(shutdown_is_ready, m));
	assert_int_equal(
	    integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, true, "host maintenance", &err),
	    0);
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, true, NULL, &err),
			 -EBUSY);
	expect_shutdown(channel, IC_SHUTDOWN_FORCE, "host maintenance", 0);
	assert_true(guest_wait(shutdown_has_result, m));
	assert_int_equal(m->shutdown_result, 0);
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_RESTART, false, NULL, &err),
			 0);
	expect_shutdown(channel, IC_SHUTDOWN_RESTART, "", 0x80004005);
	assert_true(guest_wait(shutdown_has_result, m));
	assert_int_equal(m->shutdown_result, -EIO);
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_HIBERNATE, false, NULL, &err),
			 0);
	assert_int_equal(guest_close(channel), 0);
	assert_true(guest_wait(shutdown_has_result, m));
	assert_int_equal(m->shutdown_result, -ESHUTDOWN);
}

static void actions_need_their_version(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &shutdown_guid);
	struct error err = {0};

	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 0}));
	assert_true(guest_wait(shutdown_is_ready, m));
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_RESTART, false, NULL, &err),
			 -EOPNOTSUPP);
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_HIBERNATE, false, NULL, &err),
			 -EOPNOTSUPP);
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, false, NULL, &err),
			 0);
	expect_shutdown(channel, 0, "", 0);
	assert_true(guest_wait(shutdown_has_result, m));
	assert_int_equal(guest_close(channel), 0);
}

static void reasons_become_utf16(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &shutdown_guid);
	static const uint16_t wanted[] = {'a', 0xe9, 0x20ac, 0xd83d, 0xde00, 0xfffd, 'z', 0};
	struct message message;
	struct ic_shutdown *body = (void *)message.body;
	char *text = malloc(5000);
	size_t size;

	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 2}));
	assert_true(guest_wait(shutdown_is_ready, m));
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, false,
						      "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xffz", NULL),
			 0);
	size = receive(channel, &message);
	assert_memory_equal(body->text, wanted, sizeof(wanted));
	answer(channel, &message, size);
	assert_true(guest_wait(shutdown_is_ready, m));
	/* Too long: cut, and ended. */
	memset(text, 'x', 4999);
	text[4999] = 0;
	assert_int_equal(integration_request_shutdown(m->integration, SHUTDOWN_POWER_OFF, false, text, NULL),
			 0);
	size = receive(channel, &message);
	assert_int_equal(body->text[1022], 'x');
	assert_int_equal(body->text[1023], 0);
	answer(channel, &message, size);
	assert_int_equal(guest_close(channel), 0);
	free(text);
}

static uint64_t host_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 10000000u + (uint64_t)now.tv_nsec / 100u + EPOCH_DIFFERENCE;
}

static uint8_t expect_time(struct machine *m, struct guest_channel *channel)
{
	struct message message;
	struct ic_timesync_reference *body = (void *)message.body;
	size_t size = receive(channel, &message);

	assert_int_equal(message.header.type, IC_TIMESYNC);
	assert_int_equal(message.header.size, sizeof(*body));
	assert_true(body->parent_time <= host_time());
	assert_true(body->parent_time > host_time() - 300000000u);
	assert_true(body->reference_time <= partition_reference_time(guest_partition(m->guest)));
	answer(channel, &message, size);
	return body->flags;
}

static void time_is_set_then_sampled(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &timesync_guid);
	uint8_t flags;

	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){4, 0}));
	assert_int_equal(expect_time(m, channel), IC_TIMESYNC_SYNC);
	assert_int_equal(expect_time(m, channel), IC_TIMESYNC_SAMPLE);
	assert_int_equal(expect_time(m, channel), IC_TIMESYNC_SAMPLE);
	/* After a pause: set again, at most one sample was under way. */
	integration_paused(m->integration);
	integration_resumed(m->integration);
	flags = expect_time(m, channel);
	if (flags == IC_TIMESYNC_SAMPLE)
		flags = expect_time(m, channel);
	assert_int_equal(flags, IC_TIMESYNC_SYNC);
	assert_int_equal(expect_time(m, channel), IC_TIMESYNC_SAMPLE);
	assert_int_equal(guest_close(channel), 0);
}

static void old_timesync_has_no_reference(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &timesync_guid);
	struct message message;
	struct ic_timesync *body = (void *)message.body;

	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 0}));
	receive(channel, &message);
	assert_int_equal(message.header.size, sizeof(*body));
	assert_int_equal(body->flags, IC_TIMESYNC_SYNC);
	assert_true(body->parent_time <= host_time());
	assert_int_equal(guest_close(channel), 0);
}

struct too_large {
	struct guest_channel *channel;
	const struct message *message;
};

/* Once there is room for it. */
static bool send_large(void *context)
{
	const struct too_large *large = context;

	return guest_send(large->channel, VMBUS_PACKET_IN_BAND, 0, 0, large->message,
			  sizeof(*large->message)) == 0;
}

/* Answers that no driver sends: all dropped, and the right one still counts. */
static void hostile_answers_are_dropped(void **state)
{
	struct machine *m = *state;
	struct guest_channel *channel = open_service(m, &heartbeat_guid);
	struct message message, lie;
	struct ic_heartbeat *body = (void *)message.body;
	size_t size;

	assert_true(negotiate(channel, (struct ic_version){3, 0}, (struct ic_version){3, 0}));
	size = receive(channel, &message);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, &message, 8), 0);
	lie = message;
	lie.header.flags = IC_FLAG_RESPONSE;
	lie.pipe.size = UINT32_MAX;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, &lie, size), 0);
	lie.pipe.size = 4;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, &lie, size), 0);
	lie = message;
	lie.header.flags = IC_FLAG_RESPONSE;
	lie.header.transaction_id++;
	assert_int_equal(guest_send(channel, VMBUS_PACKET_IN_BAND, 0, 0, &lie, size), 0);
	assert_int_equal(guest_send(channel, VMBUS_PACKET_COMPLETION, 0, 0, &message, size), 0);
	assert_int_not_equal(integration_heartbeat(m->integration, NULL), HEARTBEAT_OK);
	body->sequence++;
	body->application_state = 77;
	answer(channel, &message, size);
	assert_true(guest_wait(entered, &m->heartbeats[HEARTBEAT_OK]));
	/* More than the service reads at all. */
	for (unsigned i = 0; i < 3; i++) {
		struct too_large large = {channel, &message};

		assert_true(guest_wait(send_large, &large));
	}
	beat(channel, HEARTBEAT_APPLICATIONS_CRITICAL);
	assert_true(guest_wait(entered, &m->applications[HEARTBEAT_APPLICATIONS_CRITICAL]));
	assert_int_equal(guest_close(channel), 0);
}

static void services_can_be_left_out(void **state)
{
	struct machine *m = *state;
	struct integration_options options = {.no_heartbeat = true, .no_timesync = true, .no_shutdown = true, .no_kvp = true};
	struct integration *none;

	assert_int_equal(guest_offer_count(m->guest), 4);
	assert_int_equal(integration_create(&none, m->bus, &options, NULL), 0);
	assert_int_equal(integration_request_shutdown(none, SHUTDOWN_POWER_OFF, false, NULL, NULL),
			 -ENOTCONN);
	integration_resumed(none);
	integration_destroy(none);
	/* A second set of the same on one bus cannot be. */
	options.no_heartbeat = false;
	assert_int_equal(integration_create(&none, m->bus, &options, NULL), -EEXIST);
	assert_null(none);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    CASE(the_heart_beats),
	    CASE(old_drivers_negotiate_old_versions),
	    CASE(the_guest_shuts_down_when_asked),
	    CASE(actions_need_their_version),
	    CASE(reasons_become_utf16),
	    CASE(time_is_set_then_sampled),
	    CASE(old_timesync_has_no_reference),
	    CASE(hostile_answers_are_dropped),
	    CASE(services_can_be_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
