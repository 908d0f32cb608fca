// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * saved.c - a bus out of its state and into another: the connection with what waits on it, GPADLs, channels.
 *
 * Providers have their state apart. Theirs are the offers of the new bus too: a channel of the saved one is found
 * there by its two GUIDs and sub-channel index, and gets the number by which the guest knows it.
 */
#include <errno.h>
#include <string.h>

#include "vmbus/bus.h"

#define CONNECTION_SECTION "vmbus"
#define GPADLS_SECTION     "gpadls"
#define CHANNELS_SECTION   "channels"
#define SECTION_VERSION    1u

#define OUTBOX_MAX 4096u /* of what is loaded: handling one message answers with few */

struct saved_connection {
	uint32_t version, message_vp, message_sint;
	uint64_t interrupt_page, monitor_page; /* guest physical; 0: none */
	bool offers_requested;
};

static const struct form_field connection_fields[] = {
    FORM_FIELD(struct saved_connection, version),
    FORM_FIELD(struct saved_connection, message_vp),
    FORM_FIELD(struct saved_connection, message_sint),
    FORM_FIELD(struct saved_connection, interrupt_page),
    FORM_FIELD(struct saved_connection, monitor_page),
    FORM_FLAG(struct saved_connection, offers_requested),
};

/* Each is followed by as many bytes. */
static const struct form_field incoming_fields[] = {
    FORM_FIELD(struct message, type),
    FORM_FIELD(struct message, size),
};

static const struct form_field outgoing_fields[] = {
    FORM_FIELD(struct outgoing, vp),
    FORM_FIELD(struct outgoing, sint),
    FORM_FIELD(struct outgoing, size),
};

struct saved_channel {
	uint32_t relid, state;
	struct guid interface, instance;
	uint16_t subchannel_index;
	bool announced, broken;
	int32_t monitor_id;
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE];
	struct channel_reopen open;
	struct channel *channel; /* of the bus that is loaded */
};

#define SAVED_CHANNEL_LEAST 64u

static const struct form_field channel_fields[] = {
    FORM_FIELD(struct saved_channel, relid),
    FORM_FIELD(struct saved_channel, state),
    FORM_ARRAY(struct saved_channel, interface.bytes),
    FORM_ARRAY(struct saved_channel, instance.bytes),
    FORM_FIELD(struct saved_channel, subchannel_index),
    FORM_FLAG(struct saved_channel, announced),
    FORM_FLAG(struct saved_channel, broken),
    FORM_FIELD(struct saved_channel, monitor_id),
    FORM_ARRAY(struct saved_channel, user_defined),
    FORM_FIELD(struct saved_channel, open.target_vp),
    FORM_FIELD(struct saved_channel, open.ring_gpadl),
    FORM_FIELD(struct saved_channel, open.downstream),
    FORM_FIELD(struct saved_channel, open.in_index),
    FORM_FIELD(struct saved_channel, open.out_index),
};

/* --- saving --------------------------------------------------------------------------------------- */

static uint64_t page_address(struct vmbus *bus, const void *page)
{
	return page ? partition_memory_gpa(bus->partition, page) : 0;
}

static void save_messages(struct vmbus *bus, struct form_writer *w)
{
	pthread_mutex_lock(&bus->inbox_lock);
	form_put32(w, bus->inbox_count);
	for (unsigned i = 0; i < bus->inbox_count; i++) {
		const struct message *message = &bus->inbox[(bus->inbox_head + i) % BUS_INBOX_SIZE];

		FORM_PUT(w, message, incoming_fields);
		form_put(w, message->bytes, message->size);
	}
	pthread_mutex_unlock(&bus->inbox_lock);
	form_put32(w, bus->outbox_count);
	for (const struct outgoing *o = bus->outbox_first; o; o = o->next) {
		FORM_PUT(w, o, outgoing_fields);
		form_put(w, o->bytes, o->size);
	}
}

static void save_connection(struct vmbus *bus, struct form_writer *w)
{
	const struct connection *connection = &bus->connection;
	struct saved_connection saved = {.version = vmbus_version(bus),
					 .message_vp = connection->message_vp,
					 .message_sint = connection->message_sint,
					 .interrupt_page = page_address(bus, connection->interrupt_page),
					 .monitor_page = page_address(bus, connection->monitor_page),
					 .offers_requested = connection->offers_requested};
	size_t section = form_section_begin(w, CONNECTION_SECTION, 0, SECTION_VERSION);

	FORM_PUT(w, &saved, connection_fields);
	save_messages(bus, w);
	form_section_end(w, section);
}

static void save_channel(const struct channel *channel, struct form_writer *w)
{
	struct saved_channel saved = {.relid = channel->relid,
				      .state = channel->state,
				      .interface = channel->offer.interface,
				      .instance = channel->offer.instance,
				      .subchannel_index = channel->offer.subchannel_index,
				      .announced = channel->announced,
				      .broken = __atomic_load_n(&channel->broken, __ATOMIC_ACQUIRE),
				      .monitor_id = channel->monitor_id};

	memcpy(saved.user_defined, channel->user_defined, sizeof(saved.user_defined));
	if (channel->state == CHANNEL_OPEN)
		saved.open = (struct channel_reopen){.target_vp = channel_target_vp(channel),
						     .ring_gpadl = channel->ring_gpadl->handle,
						     .downstream = channel->in.size / GUEST_PAGE_SIZE + 1,
						     .in_index = channel->in.index,
						     .out_index = channel->out.index};
	FORM_PUT(w, &saved, channel_fields);
}

void vmbus_save(struct vmbus *bus, struct form_writer *w)
{
	unsigned limit = bus_relid_limit(bus), count = 0;
	size_t section;

	save_connection(bus, w);
	section = form_section_begin(w, GPADLS_SECTION, 0, SECTION_VERSION);
	gpadl_save_all(bus, w);
	form_section_end(w, section);
	for (uint32_t relid = 1; relid < limit; relid++)
		count += bus_channel(bus, relid) != NULL;
	section = form_section_begin(w, CHANNELS_SECTION, 0, SECTION_VERSION);
	form_put32(w, count);
	for (uint32_t relid = 1; relid < limit; relid++)
		if (bus_channel(bus, relid))
			save_channel(bus_channel(bus, relid), w);
	form_section_end(w, section);
}

/* --- loading: the connection ----------------------------------------------------------------------- */

static void load_incoming(struct vmbus *bus, struct form_reader *r)
{
	uint32_t count = form_get_count(r, BUS_INBOX_SIZE, 8, "there are too many messages from the guest");

	pthread_mutex_lock(&bus->inbox_lock);
	for (uint32_t i = 0; i < count && !r->bad; i++) {
		struct message *message = &bus->inbox[i];
		const uint8_t *bytes;

		FORM_GET(r, message, incoming_fields);
		if (message->size > sizeof(message->bytes))
			form_bad(r, "a message is too long");
		bytes = form_take(r, message->size);
		if (bytes)
			memcpy(message->bytes, bytes, message->size);
	}
	bus->inbox_head = 0;
	bus->inbox_count = r->bad ? 0 : count;
	pthread_mutex_unlock(&bus->inbox_lock);
}

static int load_outgoing(struct vmbus *bus, struct form_reader *r)
{
	uint32_t count = form_get_count(r, OUTBOX_MAX, 12, "there are too many messages for the guest");

	for (uint32_t i = 0; i < count && !r->bad; i++) {
		struct outgoing *o = calloc(1, sizeof(*o));
		const uint8_t *bytes;

		if (!o)
			return -ENOMEM;
		FORM_GET(r, o, outgoing_fields);
		if (o->size > sizeof(o->bytes) || o->vp >= partition_vp_count(bus->partition) ||
		    o->sint >= SYNIC_SINT_COUNT)
			form_bad(r, "a message is too long or for nobody");
		bytes = form_take(r, o->size);
		if (!bytes && r->bad) {
			free(o);
			return 0;
		}
		if (bytes)
			memcpy(o->bytes, bytes, o->size);
		*bus->outbox_last = o;
		bus->outbox_last = &o->next;
		bus->outbox_count++;
	}
	return 0;
}

/* NULL and an error unless it is a page of RAM, or none at all. */
static void *page_at(struct vmbus *bus, struct form_reader *r, uint64_t gpa)
{
	void *page;

	if (!gpa)
		return NULL;
	page = is_aligned_u64(gpa, GUEST_PAGE_SIZE) ? partition_memory(bus->partition, gpa, GUEST_PAGE_SIZE) : NULL;
	if (!page)
		form_bad(r, "a page of the connection is no RAM");
	return page;
}

static int load_connection(struct vmbus *bus, struct form_reader *whole)
{
	struct form_reader r = form_section(whole, CONNECTION_SECTION, 0, SECTION_VERSION);
	struct saved_connection saved = {0};
	int result;

	FORM_GET(&r, &saved, connection_fields);
	if (saved.version && !bus_version_known(saved.version))
		form_bad(&r, "no such version of VMBus");
	if (saved.message_vp >= partition_vp_count(bus->partition) || saved.message_sint >= SYNIC_SINT_COUNT)
		form_bad(&r, "messages go to a virtual processor or SINT that does not exist");
	if (!saved.version && (saved.offers_requested || saved.interrupt_page || saved.monitor_page))
		form_bad(&r, "a bus without a connection has what only one gives it");
	bus->connection = (struct connection){.message_vp = saved.message_vp,
					      .message_sint = saved.message_sint,
					      .offers_requested = saved.offers_requested,
					      .interrupt_page = page_at(bus, &r, saved.interrupt_page),
					      .monitor_page = page_at(bus, &r, saved.monitor_page)};
	load_incoming(bus, &r);
	result = load_outgoing(bus, &r);
	form_section_done(whole, &r);
	if (!whole->bad)
		__atomic_store_n(&bus->version, saved.version, __ATOMIC_RELEASE);
	return result;
}

/* --- loading: channels ----------------------------------------------------------------------------- */

/* The channels that the providers of this machine have offered, with no numbers. */
struct offers {
	struct channel *list[BUS_MAX_RELID];
	unsigned count;
};

static void take_offers(struct vmbus *bus, struct offers *offers)
{
	unsigned limit = bus_relid_limit(bus);

	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(bus, relid);

		if (!channel)
			continue;
		channel_leave(channel);
		offers->list[offers->count++] = channel;
	}
}

static struct channel *take_offer(struct offers *offers, const struct saved_channel *saved)
{
	for (unsigned i = 0; i < offers->count; i++) {
		struct channel *channel = offers->list[i];

		if (!channel || channel->offer.subchannel_index != saved->subchannel_index ||
		    !guid_equal(&channel->offer.interface, &saved->interface) ||
		    !guid_equal(&channel->offer.instance, &saved->instance))
			continue;
		offers->list[i] = NULL;
		return channel;
	}
	return NULL;
}

static int missing_channel(const struct saved_channel *saved, struct error *err)
{
	char interface[GUID_TEXT_SIZE], instance[GUID_TEXT_SIZE];

	return error_set(err, EINVAL,
			 "the guest was given a VMBus device that this machine has not: %s, instance %s, channel %u: "
			 "give the machine the same devices",
			 guid_format(&saved->interface, interface), guid_format(&saved->instance, instance),
			 saved->subchannel_index);
}

/* It is nobody's, if a channel is lost on the way: then it waits here for the end of the bus. */
static void keep(struct vmbus *bus, struct offers *offers)
{
	for (unsigned i = 0; i < offers->count; i++)
		if (offers->list[i] && channel_place(offers->list[i], 0) < 0)
			log_write(LOG_LEVEL_ERROR, "vmbus: there is no number for channel %s",
				  offers->list[i]->name);
	__atomic_store_n(&bus->work_announce, true, __ATOMIC_RELEASE);
}

static void set_monitor_id(struct vmbus *bus, struct saved_channel *saved, struct form_reader *r)
{
	int32_t id = saved->monitor_id;

	if (id < 0)
		return;
	if (id >= (int32_t)VMBUS_MONITOR_IDS || bus->monitored[id]) {
		form_bad(r, "a monitor id that does not exist or is taken");
		return;
	}
	pthread_mutex_lock(&bus->lock);
	bus->monitored[id] = saved->channel;
	saved->channel->monitor_id = id;
	pthread_mutex_unlock(&bus->lock);
}

static int place(struct vmbus *bus, struct saved_channel *saved, struct offers *offers, struct form_reader *r,
		 struct error *err)
{
	int result;

	if (saved->relid < 1 || saved->relid > BUS_MAX_RELID || bus_channel(bus, saved->relid) ||
	    saved->state > CHANNEL_REMOVED || (saved->state != CHANNEL_OFFERED && !saved->announced) ||
	    (saved->announced && !vmbus_version(bus))) {
		form_bad(r, "a channel has a number or a state that cannot be");
		return 0;
	}
	if (saved->state == CHANNEL_REMOVED) {
		const struct channel_offer offer = {.name = "removed", .interface = saved->interface, .instance = saved->instance,
		    .subchannel_index = saved->subchannel_index};

		result = channel_place_removed(bus, saved->relid, &offer);
		return result ? error_set(err, ENOMEM, "no memory for a VMBus channel") : 0;
	}
	saved->channel = take_offer(offers, saved);
	if (!saved->channel)
		return missing_channel(saved, err);
	result = channel_place(saved->channel, saved->relid);
	if (result)
		return error_set(err, -result, "the VMBus channel %s cannot have its number: %s",
				 saved->channel->name, strerror(-result));
	saved->channel->announced = saved->announced;
	memcpy(saved->channel->user_defined, saved->user_defined, sizeof(saved->user_defined));
	set_monitor_id(bus, saved, r);
	return 0;
}

/* The channels' numbers first: GPADLs are lent to them, and rings lie in GPADLs. */
static int load_channels(struct vmbus *bus, struct form_reader *whole, struct saved_channel *saved, uint32_t *count,
			 struct error *err)
{
	struct form_reader r = form_section(whole, CHANNELS_SECTION, 0, SECTION_VERSION);
	struct offers *offers = calloc(1, sizeof(*offers));
	int result = 0;

	if (!offers)
		return error_set(err, ENOMEM, "no memory for the VMBus");
	take_offers(bus, offers);
	*count = form_get_count(&r, BUS_MAX_RELID, SAVED_CHANNEL_LEAST, "there are too many channels");
	for (uint32_t i = 0; i < *count && !r.bad && !result; i++) {
		FORM_GET(&r, &saved[i], channel_fields);
		if (!r.bad)
			result = place(bus, &saved[i], offers, &r, err);
	}
	keep(bus, offers);
	free(offers);
	if (!result)
		form_section_done(whole, &r);
	return result;
}

static int reopen(struct vmbus *bus, const struct saved_channel *saved, struct error *err)
{
	struct channel *channel = saved->channel;
	int r;

	if (!channel || saved->state == CHANNEL_OFFERED)
		return 0;
	if (saved->state == CHANNEL_ENDED) {
		channel->state = CHANNEL_ENDED;
		return 0;
	}
	r = channel_reopen(channel, &saved->open);
	if (r == -EBADMSG)
		return error_set(err, EBADMSG,
				 "the saved machine is damaged or foreign: the rings of VMBus channel %s are not in its memory",
				 channel->name);
	if (r < 0)
		return error_set(err, -r, "the VMBus channel %s cannot be opened again: %s", channel->name, strerror(-r));
	if (saved->broken) {
		__atomic_store_n(&channel->broken, true, __ATOMIC_RELEASE);
		__atomic_store_n(&bus->work_broken, true, __ATOMIC_RELEASE);
	}
	channel_kick(channel);
	return 0;
}

static void wake_all(struct vmbus *bus)
{
	static const uint64_t one = 1;

	__atomic_store_n(&bus->work_reap, true, __ATOMIC_RELEASE);
	/* Signals that the guest gave by its interrupt page, and that nobody has looked at. */
	while (write(bus->shared_event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	bus_wake(bus);
}

/* Channels are written last, so the reader of the sections is used twice. */
static int load(struct vmbus *bus, struct form_reader *r, struct saved_channel *saved, struct error *err)
{
	struct form_reader gpadls;
	uint32_t count = 0;
	int result = load_connection(bus, r);

	if (result)
		return error_set(err, -result, "no memory for the VMBus");
	gpadls = form_section(r, GPADLS_SECTION, 0, SECTION_VERSION);
	result = load_channels(bus, r, saved, &count, err);
	if (result)
		return result;
	if (!r->bad)
		gpadl_load_all(bus, &gpadls);
	form_section_done(r, &gpadls);
	for (uint32_t i = 0; i < count && !r->bad && !result; i++)
		result = reopen(bus, &saved[i], err);
	if (!result && !r->bad)
		wake_all(bus);
	return result;
}

int vmbus_load(struct vmbus *bus, struct form_reader *r, struct error *err)
{
	struct saved_channel *saved = calloc(BUS_MAX_RELID, sizeof(*saved));
	int result;

	if (!saved)
		return error_set(err, ENOMEM, "no memory for the VMBus");
	result = load(bus, r, saved, err);
	free(saved);
	return result;
}
