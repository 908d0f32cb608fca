// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * connection.c - channel messages: queued on a virtual processor's thread, handled on the control
 * thread, answered through an outbox that waits while the guest's message slot is full.
 *
 * Source: Linux drivers/hv/connection.c (contact, message connection ids), channel_mgmt.c (offers).
 */
#include <errno.h>
#include <string.h>

#include "vmbus/bus.h"

#define OUTBOX_RETRY_FIRST_NS 1000000u
#define OUTBOX_RETRY_LAST_NS  50000000u

static const uint32_t known_versions[] = {
    VMBUS_VERSION_WS2008,     VMBUS_VERSION_WIN7,       VMBUS_VERSION_WIN8,     VMBUS_VERSION_WIN8_1,
    VMBUS_VERSION_WIN10,      VMBUS_VERSION_WIN10_V4_1, VMBUS_VERSION_WIN10_V5, VMBUS_VERSION_WIN10_V5_1,
    VMBUS_VERSION_WIN10_V5_2, VMBUS_VERSION_WIN10_V5_3,
};

/* --- messages to the guest ---------------------------------------------------------------------- */

static void send_to(struct vmbus *bus, unsigned vp, unsigned sint, const void *message, size_t size)
{
	struct outgoing *outgoing = malloc(sizeof(*outgoing));

	if (!outgoing) {
		log_write(LOG_LEVEL_ERROR, "vmbus: no memory for a message to the guest");
		return;
	}
	outgoing->next = NULL;
	outgoing->vp = vp;
	outgoing->sint = sint;
	outgoing->size = (uint32_t)size;
	memcpy(outgoing->bytes, message, size);
	*bus->outbox_last = outgoing;
	bus->outbox_last = &outgoing->next;
	bus->outbox_count++;
}

void connection_send(struct vmbus *bus, void *message, uint32_t type, size_t size)
{
	struct vmbus_message_header *header = message;

	header->type = type;
	header->padding = 0;
	send_to(bus, bus->connection.message_vp, bus->connection.message_sint, message, size);
}

static void pop_outgoing(struct vmbus *bus)
{
	struct outgoing *first = bus->outbox_first;

	bus->outbox_first = first->next;
	if (!bus->outbox_first)
		bus->outbox_last = &bus->outbox_first;
	bus->outbox_count--;
	free(first);
}

/* The partition queues 64 messages a slot. A guest that does not take them is asked again, ever more
 * rarely; meanwhile its own messages wait (connection_receive). */
void connection_flush(struct vmbus *bus)
{
	while (bus->outbox_first) {
		struct outgoing *first = bus->outbox_first;
		int r = partition_post_message(bus->partition, first->vp, first->sint, VMBUS_MESSAGE_TYPE,
					       first->bytes, first->size);

		if (r == -ENOBUFS || r == -EAGAIN) {
			bus->outbox_retry_ns = bus->outbox_retry_ns
						   ? min_u64(bus->outbox_retry_ns * 2, OUTBOX_RETRY_LAST_NS)
						   : OUTBOX_RETRY_FIRST_NS;
			return;
		}
		if (r == 0)
			bus->counters.sent++;
		else if (log_limit_pass(&bus->log_limit, 3))
			log_write(LOG_LEVEL_WARNING, "vmbus: a message to VP %u SINT %u was refused: %s",
				  first->vp, first->sint, strerror(-r));
		pop_outgoing(bus);
	}
	bus->outbox_retry_ns = 0;
}

/* --- offers ------------------------------------------------------------------------------------- */

static void send_offer(struct vmbus *bus, struct channel *channel)
{
	const struct channel_offer *offer = &channel->offer;
	struct vmbus_message_offer message = {
	    .interface_type = offer->interface,
	    .interface_instance = offer->instance,
	    .flags = VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE,
	    .mmio_megabytes = offer->mmio_megabytes,
	    .subchannel_index = offer->subchannel_index,
	    .relid = channel->relid,
	    .is_dedicated_interrupt = 1,
	    .connection_id = BUS_CONNECTION_BASE + channel->relid,
	};

	memcpy(message.user_defined, offer->user_defined, sizeof(message.user_defined));
	if (offer->pipe) {
		message.flags |= VMBUS_OFFER_NAMED_PIPE_MODE;
		le32_put(message.user_defined, VMBUS_PIPE_TYPE_MESSAGE);
	}
	if (channel->monitor_id >= 0 && bus->connection.monitor_page) {
		message.monitor_id = (uint8_t)channel->monitor_id;
		message.monitor_allocated = 1;
	}
	if (vmbus_version(bus) < VMBUS_VERSION_WIN7) {
		/* These bytes were padding: all channels share the interrupt page and connection 2. */
		message.is_dedicated_interrupt = 0;
		message.connection_id = 0;
	}
	channel->announced = true;
	connection_send(bus, &message, VMBUS_MSG_OFFER_CHANNEL, sizeof(message));
}

/* A guest that still knows the device by the number that was rescinded takes no other one for it: Linux passes over the offer, or
 * gives the new number to the device that it is about to forget, and releases that in place of the old one. A guest asks for
 * sub-channels itself, when it has none. */
static bool waits_for_release(struct vmbus *bus, const struct channel *channel)
{
	return !channel->offer.subchannel_index && channel_has_removed_twin(bus, channel);
}

void connection_announce(struct vmbus *bus)
{
	unsigned limit = bus_relid_limit(bus);

	if (!vmbus_version(bus) || !bus->connection.offers_requested)
		return;
	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(bus, relid);

		if (channel && channel->state == CHANNEL_OFFERED && !channel->announced && !waits_for_release(bus, channel))
			send_offer(bus, channel);
	}
}

static void on_request_offers(struct vmbus *bus)
{
	struct vmbus_message_header done;

	if (bus->connection.offers_requested) {
		bus->counters.ignored++;
		return;
	}
	bus->connection.offers_requested = true;
	connection_announce(bus);
	connection_send(bus, &done, VMBUS_MSG_ALL_OFFERS_DELIVERED, sizeof(done));
}

/* --- contact and unload ------------------------------------------------------------------------- */

/* Back to the state before contact: all channels closed, all memory given back, nothing to send. */
void connection_drop(struct vmbus *bus)
{
	unsigned limit = bus_relid_limit(bus);

	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(bus, relid);

		if (!channel)
			continue;
		channel->announced = false;
		if (channel->state == CHANNEL_REMOVED)
			channel_free(channel);
		else
			channel_end(channel, CHANNEL_OFFERED);
	}
	gpadl_drop_all(bus, 0);
	while (bus->outbox_first)
		pop_outgoing(bus);
	__atomic_store_n(&bus->version, 0, __ATOMIC_RELEASE);
	bus->connection = (struct connection){.message_sint = VMBUS_MESSAGE_SINT};
}

static void *guest_page(struct vmbus *bus, gpa_t gpa)
{
	if (gpa == 0 || !is_aligned_u64(gpa, GUEST_PAGE_SIZE))
		return NULL;
	return partition_memory(bus->partition, gpa, GUEST_PAGE_SIZE);
}

bool bus_version_known(uint32_t version)
{
	for (size_t i = 0; i < ARRAY_SIZE(known_versions); i++)
		if (known_versions[i] == version)
			return true;
	return false;
}

/* Where the guest wants its messages. False: nowhere that exists. */
static bool message_target(struct vmbus *bus, const struct vmbus_message_initiate_contact *contact,
			   struct connection *connection)
{
	connection->message_sint = VMBUS_MESSAGE_SINT;
	/* Before 3.0 messages always went to VP 0. */
	if (contact->version >= VMBUS_VERSION_WIN8_1)
		connection->message_vp = contact->target_vp;
	if (contact->version >= VMBUS_VERSION_WIN10_V5)
		connection->message_sint = contact->message_target.sint;
	if (connection->message_vp < partition_vp_count(bus->partition) && connection->message_sint > 0 &&
	    connection->message_sint < SYNIC_SINT_COUNT)
		return true;
	connection->message_vp = 0;
	connection->message_sint = VMBUS_MESSAGE_SINT;
	return false;
}

static void on_initiate_contact(struct vmbus *bus, const struct vmbus_message_initiate_contact *contact)
{
	struct vmbus_message_version_response response = {0};
	struct connection connection = {0};
	bool accept = message_target(bus, contact, &connection) && bus_version_known(contact->version);

	connection_drop(bus);
	if (accept && contact->version >= VMBUS_VERSION_WIN10_V5) {
		accept = contact->message_target.vtl == 0;
		response.message_connection_id = VMBUS_MESSAGE_CONNECTION_ID_4;
	} else if (accept) {
		connection.interrupt_page = guest_page(bus, contact->interrupt_page);
		/* These versions hear of their channels through nothing else. */
		accept = connection.interrupt_page || contact->version >= VMBUS_VERSION_WIN8;
	}
	if (accept) {
		connection.monitor_page = guest_page(bus, contact->monitor_page_child_to_parent);
		bus->connection = connection;
		__atomic_store_n(&bus->version, contact->version, __ATOMIC_RELEASE);
		response.supported = 1;
	} else {
		bus->connection.message_vp = connection.message_vp;
		bus->connection.message_sint = connection.message_sint;
		response.message_connection_id = 0;
	}
	connection_send(bus, &response, VMBUS_MSG_VERSION_RESPONSE, sizeof(response));
}

static void on_unload(struct vmbus *bus)
{
	struct connection last = bus->connection;
	struct vmbus_message_header done;

	connection_drop(bus);
	bus->connection.message_vp = last.message_vp;
	bus->connection.message_sint = last.message_sint;
	connection_send(bus, &done, VMBUS_MSG_UNLOAD_RESPONSE, sizeof(done));
}

/* Hyper-V sockets towards the host: there is no listener for any service. */
static void on_tl_connect(struct vmbus *bus, const struct vmbus_message_tl_connect *connect)
{
	struct vmbus_message_tl_connect_result result = {
	    .endpoint = connect->endpoint,
	    .service = connect->service,
	    .status = VMBUS_STATUS_CONNECTION_REFUSED,
	};

	connection_send(bus, &result, VMBUS_MSG_TL_CONNECT_RESULT, sizeof(result));
}

/* --- messages from the guest -------------------------------------------------------------------- */

int connection_message_port(void *context, unsigned vp_index, uint32_t type, const void *payload, size_t size)
{
	struct vmbus *bus = context;
	struct message *message;
	int r = 0;

	if (size > SYNIC_MESSAGE_PAYLOAD)
		return 0;
	pthread_mutex_lock(&bus->inbox_lock);
	if (bus->inbox_count == BUS_INBOX_SIZE) {
		__atomic_fetch_add(&bus->counters.queue_full, 1, __ATOMIC_RELAXED);
		r = -ENOBUFS;
	} else {
		message = &bus->inbox[(bus->inbox_head + bus->inbox_count++) % BUS_INBOX_SIZE];
		message->type = type;
		message->size = (uint32_t)size;
		memcpy(message->bytes, payload, size);
	}
	pthread_mutex_unlock(&bus->inbox_lock);
	if (r == 0)
		bus_wake(bus);
	return r;
}

static bool take_message(struct vmbus *bus, struct message *message)
{
	bool some;

	pthread_mutex_lock(&bus->inbox_lock);
	some = bus->inbox_count > 0;
	if (some) {
		*message = bus->inbox[bus->inbox_head];
		bus->inbox_head = (bus->inbox_head + 1) % BUS_INBOX_SIZE;
		bus->inbox_count--;
	}
	pthread_mutex_unlock(&bus->inbox_lock);
	return some;
}

/* The least a message must hold; 0: no such message from a guest. */
static size_t least_size(uint32_t type)
{
	switch (type) {
	case VMBUS_MSG_REQUEST_OFFERS:
	case VMBUS_MSG_UNLOAD:
		return sizeof(struct vmbus_message_header);
	case VMBUS_MSG_OPEN_CHANNEL:
		return sizeof(struct vmbus_message_open);
	case VMBUS_MSG_CLOSE_CHANNEL:
	case VMBUS_MSG_RELID_RELEASED:
		return sizeof(struct vmbus_message_relid);
	case VMBUS_MSG_GPADL_HEADER:
		return sizeof(struct vmbus_message_gpadl_header);
	case VMBUS_MSG_GPADL_BODY:
		return sizeof(struct vmbus_message_gpadl_body);
	case VMBUS_MSG_GPADL_TEARDOWN:
		return sizeof(struct vmbus_message_gpadl_teardown);
	case VMBUS_MSG_INITIATE_CONTACT:
		return sizeof(struct vmbus_message_initiate_contact);
	case VMBUS_MSG_TL_CONNECT_REQUEST:
		return sizeof(struct vmbus_message_tl_connect);
	case VMBUS_MSG_MODIFY_CHANNEL:
		return sizeof(struct vmbus_message_modify);
	default:
		return 0;
	}
}

static void dispatch(struct vmbus *bus, uint32_t type, const struct message *message)
{
	const void *bytes = message->bytes;

	switch (type) {
	case VMBUS_MSG_REQUEST_OFFERS:
		on_request_offers(bus);
		break;
	case VMBUS_MSG_UNLOAD:
		on_unload(bus);
		break;
	case VMBUS_MSG_OPEN_CHANNEL:
		channel_on_open(bus, bytes);
		break;
	case VMBUS_MSG_CLOSE_CHANNEL:
		channel_on_close(bus, ((const struct vmbus_message_relid *)bytes)->relid);
		break;
	case VMBUS_MSG_RELID_RELEASED:
		channel_on_relid_released(bus, ((const struct vmbus_message_relid *)bytes)->relid);
		break;
	case VMBUS_MSG_GPADL_HEADER:
		gpadl_on_header(bus, bytes, message->size);
		break;
	case VMBUS_MSG_GPADL_BODY:
		gpadl_on_body(bus, bytes, message->size);
		break;
	case VMBUS_MSG_GPADL_TEARDOWN:
		gpadl_on_teardown(bus, bytes);
		break;
	case VMBUS_MSG_INITIATE_CONTACT:
		on_initiate_contact(bus, bytes);
		break;
	case VMBUS_MSG_TL_CONNECT_REQUEST:
		on_tl_connect(bus, bytes);
		break;
	case VMBUS_MSG_MODIFY_CHANNEL:
		channel_on_modify(bus, bytes);
		break;
	default:
		break;
	}
}

static void handle(struct vmbus *bus, const struct message *message)
{
	uint32_t type;
	size_t least;

	bus->counters.messages++;
	if (message->type != VMBUS_MESSAGE_TYPE || message->size < sizeof(struct vmbus_message_header)) {
		bus->counters.malformed++;
		return;
	}
	type = le32_get(message->bytes);
	least = least_size(type);
	if (least == 0) {
		bus->counters.unknown++;
		return;
	}
	if (message->size < least) {
		bus->counters.malformed++;
		return;
	}
	if (!vmbus_version(bus) && type != VMBUS_MSG_INITIATE_CONTACT && type != VMBUS_MSG_UNLOAD) {
		bus->counters.ignored++;
		return;
	}
	dispatch(bus, type, message);
}

void connection_receive(struct vmbus *bus)
{
	struct message message;

	/* A guest that asks and never reads the answers is not listened to until it does. No more than
	 * a full queue at once: who posts more wakes us again. */
	for (unsigned i = 0; i < BUS_INBOX_SIZE; i++) {
		if (bus->outbox_count >= BUS_OUTBOX_HIGH || !take_message(bus, &message))
			return;
		handle(bus, &message);
		connection_flush(bus);
	}
}
