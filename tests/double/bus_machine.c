// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/double/bus_machine.h"

#include <string.h>

int set_up(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return -1;
	m->guest = guest_create_vps(32, 4);
	if (!m->guest || vmbus_create(&m->bus, guest_partition(m->guest), NULL) < 0)
		return -1;
	*state = m;
	return 0;
}

int tear_down(void **state)
{
	struct machine *m = *state;

	vmbus_destroy(m->bus);
	guest_destroy(m->guest);
	free(m);
	return 0;
}

const struct vmbus_message_offer *connect_and_find(struct machine *m, uint32_t version)
{
	const struct vmbus_message_offer *offer;

	assert_int_equal(guest_connect(m->guest, version), 0);
	assert_int_equal(guest_request_offers(m->guest), 0);
	offer = guest_find_offer(m->guest, &echo_interface, 0);
	assert_non_null(offer);
	return offer;
}

struct guest_channel *open_echo(struct machine *m, const struct vmbus_message_offer *offer, unsigned in_pages,
				unsigned out_pages)
{
	struct guest_channel *channel;

	assert_int_equal(guest_open(m->guest, offer, in_pages, out_pages, NULL, &channel), 0);
	return channel;
}

void ping(struct guest_channel *channel, uint64_t id, size_t size)
{
	struct vmbus_packet_header header;
	uint8_t out[4096], in[4096];

	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(i + id);
	assert_int_equal(
	    guest_send(channel, VMBUS_PACKET_IN_BAND, VMBUS_PACKET_FLAG_COMPLETION_REQUESTED, id, out, size),
	    0);
	assert_int_equal(guest_receive(channel, &header, in, sizeof(in)), align_up_u64(size, 8));
	assert_int_equal(header.type, VMBUS_PACKET_COMPLETION);
	assert_int_equal(header.transaction_id, id);
	assert_memory_equal(in, out, size);
}

void poke(volatile uint32_t *field, uint32_t value)
{
	__atomic_store_n(field, value, __ATOMIC_SEQ_CST);
}

uint32_t peek(const volatile uint32_t *field)
{
	return __atomic_load_n(field, __ATOMIC_SEQ_CST);
}

bool no_zero(void *context)
{
	return echo_count(context) > 0;
}

bool is_closed(void *context)
{
	struct echo *echo = context;

	return echo_count(&echo->closes) == echo_count(&echo->opens);
}

/* What the bus tells about itself, flat: "vmbus.channels.1.state". */
struct snapshot {
	char path[128];
	char wanted[128];
	char text[64];
	uint64_t number;
	bool found;
};

static void snap_begin(void *context, const char *name)
{
	struct snapshot *s = context;
	size_t length = strlen(s->path);

	snprintf(s->path + length, sizeof(s->path) - length, "%s.", name);
}

static void snap_end(void *context)
{
	struct snapshot *s = context;
	char *dot;

	s->path[strlen(s->path) - 1] = 0;
	dot = strrchr(s->path, '.');
	if (dot)
		dot[1] = 0;
	else
		s->path[0] = 0;
}

static bool snap_match(struct snapshot *s, const char *name)
{
	size_t length = strlen(s->path);

	if (strncmp(s->wanted, s->path, length) != 0 || strcmp(s->wanted + length, name) != 0)
		return false;
	return s->found = true;
}

static void snap_text(void *context, const char *name, const char *value)
{
	struct snapshot *s = context;

	if (snap_match(s, name))
		snprintf(s->text, sizeof(s->text), "%s", value);
}

static void snap_number(void *context, const char *name, uint64_t value)
{
	struct snapshot *s = context;

	if (snap_match(s, name))
		s->number = value;
}

static const struct vmbus_inspector snapper = {snap_begin, snap_end, snap_text, snap_number};

uint64_t inspect_number(struct machine *m, const char *path)
{
	struct snapshot s = {0};

	snprintf(s.wanted, sizeof(s.wanted), "%s", path);
	vmbus_inspect(m->bus, &snapper, &s);
	assert_true(s.found);
	return s.number;
}

void assert_state(struct machine *m, uint32_t relid, const char *wanted)
{
	struct snapshot s = {0};

	snprintf(s.wanted, sizeof(s.wanted), "vmbus.channels.%u.state", relid);
	vmbus_inspect(m->bus, &snapper, &s);
	assert_true(s.found);
	assert_string_equal(s.text, wanted);
}

bool has_channel(struct machine *m, uint32_t relid)
{
	struct snapshot s = {0};

	snprintf(s.wanted, sizeof(s.wanted), "vmbus.channels.%u.state", relid);
	vmbus_inspect(m->bus, &snapper, &s);
	return s.found;
}
