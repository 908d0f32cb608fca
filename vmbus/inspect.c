// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * inspect.c - the live state of a bus as a tree.
 */
#include <stdio.h>

#include "vmbus/bus.h"

struct inspection {
	struct vmbus *bus;
	const struct vmbus_inspector *inspector;
	void *context;
};

static uint64_t counter(const uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

static void put(const struct inspection *in, const char *name, uint64_t value)
{
	in->inspector->number(in->context, name, value);
}

static const char *state_name(enum channel_state state)
{
	switch (state) {
	case CHANNEL_OFFERED:
		return "offered";
	case CHANNEL_OPEN:
		return "open";
	case CHANNEL_ENDED:
		return "ended";
	case CHANNEL_REMOVED:
		return "removed";
	}
	return "";
}

static void inspect_ring(const struct inspection *in, const char *name, const struct ring *ring)
{
	in->inspector->begin(in->context, name);
	put(in, "size", ring->size);
	put(in, "depth", ring_depth(ring));
	put(in, "masked", __atomic_load_n(&ring->header->interrupt_mask, __ATOMIC_RELAXED) != 0);
	put(in, "pending_send_size", __atomic_load_n(&ring->header->pending_send_size, __ATOMIC_RELAXED));
	in->inspector->end(in->context);
}

static void inspect_channel(const struct inspection *in, const struct channel *channel)
{
	char guid[GUID_TEXT_SIZE], key[16];

	snprintf(key, sizeof(key), "%u", channel->relid);
	in->inspector->begin(in->context, key);
	in->inspector->text(in->context, "name", channel->name);
	in->inspector->text(in->context, "interface", guid_format(&channel->offer.interface, guid));
	in->inspector->text(in->context, "instance", guid_format(&channel->offer.instance, guid));
	put(in, "subchannel_index", channel->offer.subchannel_index);
	in->inspector->text(in->context, "state", state_name(channel->state));
	put(in, "opens", channel->counters.opens);
	put(in, "packets_in", counter(&channel->counters.packets_in));
	put(in, "packets_out", counter(&channel->counters.packets_out));
	put(in, "ring_full", counter(&channel->counters.ring_full));
	put(in, "events_to_guest", counter(&channel->counters.events_to_guest));
	if (channel->state == CHANNEL_OPEN) {
		put(in, "target_vp", channel_target_vp(channel));
		inspect_ring(in, "in", &channel->in);
		inspect_ring(in, "out", &channel->out);
	}
	in->inspector->end(in->context);
}

static void inspect_bus(const struct inspection *in)
{
	struct vmbus *bus = in->bus;
	uint32_t version = vmbus_version(bus);
	char text[24] = "none";

	if (version)
		snprintf(text, sizeof(text), "%u.%u", version >> 16, version & 0xffff);
	in->inspector->text(in->context, "version", text);
	put(in, "messages", bus->counters.messages);
	put(in, "messages_malformed", bus->counters.malformed);
	put(in, "messages_unknown", bus->counters.unknown);
	put(in, "messages_ignored", bus->counters.ignored);
	put(in, "messages_refused_full", counter(&bus->counters.queue_full));
	put(in, "messages_sent", bus->counters.sent);
	put(in, "messages_waiting", bus->outbox_count);
	pthread_mutex_lock(&bus->lock);
	put(in, "gpadls", bus->gpadl_count);
	put(in, "gpadls_incomplete", bus->gpadl_building);
	put(in, "gpadl_pages", bus->gpadl_pages);
	pthread_mutex_unlock(&bus->lock);
}

static void inspect_on_control(void *argument)
{
	const struct inspection *in = argument;
	unsigned limit = bus_relid_limit(in->bus);

	in->inspector->begin(in->context, "vmbus");
	inspect_bus(in);
	in->inspector->begin(in->context, "channels");
	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(in->bus, relid);

		if (channel)
			inspect_channel(in, channel);
	}
	in->inspector->end(in->context);
	in->inspector->end(in->context);
}

void vmbus_inspect(struct vmbus *bus, const struct vmbus_inspector *inspector, void *context)
{
	struct inspection in = {.bus = bus, .inspector = inspector, .context = context};

	bus_call(bus, inspect_on_control, &in);
}
