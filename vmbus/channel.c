// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * channel.c - the life of a channel: offered, opened, moved, closed, broken, removed.
 *
 * Source: Linux drivers/hv/channel.c (open, close), channel_mgmt.c (rescind, relid release).
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmbus/bus.h"

/* --- offer -------------------------------------------------------------------------------------- */

static bool same_device(const struct channel_offer *a, const struct channel_offer *b)
{
	return a->subchannel_index == b->subchannel_index && guid_equal(&a->interface, &b->interface) &&
	       guid_equal(&a->instance, &b->instance);
}

/* Put the channel under the lowest free relid: guests before 2.4 have few. */
static int take_relid(struct vmbus *bus, struct channel *channel)
{
	uint32_t relid = 0;

	for (uint32_t i = 1; i < bus->relid_limit; i++) {
		const struct channel *other = bus->channels[i];

		if (!other && !relid)
			relid = i;
		/* A removed one is still known to the guest, but nobody's any more. */
		if (other && other->ops && same_device(&other->offer, &channel->offer))
			return -EEXIST;
	}
	if (!relid)
		relid = bus->relid_limit ? bus->relid_limit : 1;
	if (relid > BUS_MAX_RELID)
		return -ENOSPC;
	channel->relid = relid;
	bus->channels[relid] = channel;
	if (relid >= bus->relid_limit)
		bus->relid_limit = relid + 1;
	return 0;
}

/* Without a free id the channel works as any other. */
static void take_monitor_id(struct vmbus *bus, struct channel *channel)
{
	for (unsigned id = 0; id < VMBUS_MONITOR_IDS; id++) {
		if (!bus->monitored[id]) {
			bus->monitored[id] = channel;
			channel->monitor_id = (int)id;
			return;
		}
	}
}

/* [lock] */
static void forget(struct channel *channel)
{
	struct vmbus *bus = channel->bus;

	if (channel->relid)
		bus->channels[channel->relid] = NULL;
	if (channel->monitor_id >= 0)
		bus->monitored[channel->monitor_id] = NULL;
	channel->relid = 0;
	channel->monitor_id = -1;
}

/* Nobody hears the event any more. */
static void unlisten(struct channel *channel)
{
	partition_close_event_port(channel->bus->partition, BUS_CONNECTION_BASE + channel->relid);
	if (channel->ops && channel->ops->event)
		bus_poll_channel(channel->bus, channel, false);
}

static int listen_to(struct channel *channel)
{
	struct partition *partition = channel->bus->partition;
	int r = partition_open_event_port(partition, BUS_CONNECTION_BASE + channel->relid, channel->event_fd);

	if (r < 0)
		return r;
	r = channel->ops->event ? bus_poll_channel(channel->bus, channel, true) : 0;
	if (r < 0)
		partition_close_event_port(partition, BUS_CONNECTION_BASE + channel->relid);
	return r;
}

static void close_event(struct channel *channel)
{
	if (channel->event_fd < 0)
		return;
	if (channel->relid)
		unlisten(channel);
	close(channel->event_fd);
	channel->event_fd = -1;
}

static int open_event(struct channel *channel)
{
	int r;

	channel->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (channel->event_fd < 0)
		return -errno;
	r = listen_to(channel);
	if (r < 0) {
		close(channel->event_fd);
		channel->event_fd = -1;
	}
	return r;
}

void channel_free(struct channel *channel)
{
	close_event(channel);
	pthread_mutex_lock(&channel->bus->lock);
	forget(channel);
	pthread_mutex_unlock(&channel->bus->lock);
	free(channel->name);
	free(channel);
}

static struct channel *new_channel(struct vmbus *bus, const struct channel_offer *offer,
				   const struct channel_ops *ops, void *provider)
{
	struct channel *channel = calloc(1, sizeof(*channel));

	if (!channel)
		return NULL;
	channel->bus = bus;
	channel->offer = *offer;
	channel->name = strdup(offer->name ? offer->name : "unnamed");
	channel->offer.name = channel->name;
	channel->ops = ops;
	channel->provider = provider;
	channel->event_fd = -1;
	channel->monitor_id = -1;
	if (!channel->name) {
		free(channel);
		return NULL;
	}
	return channel;
}

int vmbus_offer(struct vmbus *bus, const struct channel_offer *offer, const struct channel_ops *ops,
		void *provider, struct channel **out, struct error *err)
{
	struct channel *channel = new_channel(bus, offer, ops, provider);
	int r;

	*out = NULL;
	if (!channel)
		return error_set(err, ENOMEM, "no memory for the VMBus channel %s", offer->name);
	pthread_mutex_lock(&bus->lock);
	r = take_relid(bus, channel);
	if (r == 0 && offer->monitored)
		take_monitor_id(bus, channel);
	/* Under the lock: once it is in the table, the control thread may announce it. */
	if (r == 0)
		r = open_event(channel);
	if (r < 0)
		forget(channel);
	pthread_mutex_unlock(&bus->lock);
	if (r < 0) {
		error_set(err, -r, "cannot offer the VMBus channel %s: %s", channel->name, strerror(-r));
		channel_free(channel);
		return r;
	}
	*out = channel;
	__atomic_store_n(&bus->work_announce, true, __ATOMIC_RELEASE);
	bus_wake(bus);
	return 0;
}

/* --- remove ------------------------------------------------------------------------------------- */

static void remove_on_control(void *argument)
{
	struct channel *channel = argument;
	struct vmbus *bus = channel->bus;
	struct vmbus_message_relid message = {.relid = channel->relid};

	channel_end(channel, CHANNEL_ENDED);
	close_event(channel);
	pthread_mutex_lock(&bus->lock);
	channel->ops = NULL;
	pthread_mutex_unlock(&bus->lock);
	channel->provider = NULL;
	if (!channel->announced) {
		channel_free(channel);
		return;
	}
	channel->state = CHANNEL_REMOVED;
	connection_send(bus, &message, VMBUS_MSG_RESCIND_CHANNEL_OFFER, sizeof(message));
}

void channel_remove(struct channel *channel)
{
	bus_call(channel->bus, remove_on_control, channel);
}

bool channel_has_removed_twin(struct vmbus *bus, const struct channel *channel)
{
	unsigned limit = bus_relid_limit(bus);

	for (uint32_t relid = 1; relid < limit; relid++) {
		const struct channel *other = bus_channel(bus, relid);

		if (other && other->state == CHANNEL_REMOVED && same_device(&other->offer, &channel->offer))
			return true;
	}
	return false;
}

void channel_on_relid_released(struct vmbus *bus, uint32_t relid)
{
	struct channel *channel = bus_channel(bus, relid);

	if (!channel || channel->state != CHANNEL_REMOVED) {
		bus->counters.ignored++;
		return;
	}
	gpadl_drop_all(bus, relid);
	channel_free(channel);
	__atomic_store_n(&bus->work_announce, true, __ATOMIC_RELEASE); /* an offer may have waited for that */
}

/* --- open and close ------------------------------------------------------------------------------ */

/* A ring GPADL is one range of whole pages: the guest's ring first, ours from `downstream` on. */
static int map_rings(struct channel *channel, const struct gpadl *gpadl, uint32_t downstream)
{
	struct partition *partition = channel->bus->partition;
	int r;

	if (gpadl->range_count != 1 || gpadl->ranges[0].byte_offset != 0 ||
	    !is_aligned_u64(gpadl->size, GUEST_PAGE_SIZE) || downstream >= gpadl->page_count)
		return -EINVAL;
	r = ring_open(&channel->in, partition, gpadl->pages, downstream, false);
	if (r < 0)
		return r;
	return ring_open(&channel->out, partition, gpadl->pages + downstream, gpadl->page_count - downstream,
			 true);
}

/* Rings are mapped: from now on the provider has it. */
static int begin(struct channel *channel, unsigned target_vp)
{
	struct vmbus *bus = channel->bus;
	struct channel_open open = {.version = vmbus_version(bus),
				    .target_vp = target_vp,
				    .in_size = channel->in.size,
				    .out_size = channel->out.size};
	int r;

	memcpy(open.user_defined, channel->user_defined, sizeof(open.user_defined));
	channel->interrupt_page = open.version < VMBUS_VERSION_WIN8 ? bus->connection.interrupt_page : NULL;
	__atomic_store_n(&channel->target_vp, open.target_vp, __ATOMIC_RELEASE);
	__atomic_store_n(&channel->broken, false, __ATOMIC_RELEASE);
	__atomic_store_n(&channel->usable, true, __ATOMIC_RELEASE);
	r = channel->ops->open(channel->provider, channel, &open);
	if (r < 0) {
		__atomic_store_n(&channel->usable, false, __ATOMIC_RELEASE);
		return r;
	}
	channel->state = CHANNEL_OPEN;
	channel->counters.opens++;
	signal_set_monitor(bus, channel, true);
	return 0;
}

static int open_channel(struct channel *channel, const struct vmbus_message_open *message)
{
	struct vmbus *bus = channel->bus;
	unsigned target_vp = vmbus_version(bus) >= VMBUS_VERSION_WIN8 ? message->target_vp : 0;
	int r;

	if (target_vp >= partition_vp_count(bus->partition))
		return -EINVAL;
	channel->ring_gpadl = gpadl_acquire(bus, channel->relid, message->ring_gpadl);
	if (!channel->ring_gpadl)
		return -EINVAL;
	memcpy(channel->user_defined, message->user_defined, sizeof(channel->user_defined));
	r = map_rings(channel, channel->ring_gpadl, message->downstream_page_offset);
	if (r == 0)
		r = begin(channel, target_vp);
	if (r < 0) {
		gpadl_release(channel->ring_gpadl);
		channel->ring_gpadl = NULL;
	}
	return r;
}

static uint32_t status_of(int r)
{
	switch (r) {
	case 0:
		return VMBUS_STATUS_SUCCESS;
	case -ENOMEM:
		return VMBUS_STATUS_INSUFFICIENT_RESOURCES;
	case -EINVAL:
		return VMBUS_STATUS_INVALID_PARAMETER;
	default:
		return VMBUS_STATUS_UNSUCCESSFUL;
	}
}

void channel_on_open(struct vmbus *bus, const struct vmbus_message_open *message)
{
	struct channel *channel = bus_channel(bus, message->relid);
	struct vmbus_message_open_result result = {.relid = message->relid, .open_id = message->open_id};
	int r = -EINVAL;

	if (channel && channel->announced && channel->state == CHANNEL_OFFERED) {
		r = open_channel(channel, message);
		if (r < 0 && log_limit_pass(&channel->log_limit, 3))
			log_write(LOG_LEVEL_WARNING, "vmbus: the guest could not open channel %s: %s",
				  channel->name, strerror(-r));
	} else {
		bus->counters.ignored++;
	}
	result.status = status_of(r);
	connection_send(bus, &result, VMBUS_MSG_OPEN_CHANNEL_RESULT, sizeof(result));
	/* Packets may have come before we listened, and their signal with them. */
	if (r == 0)
		channel_kick(channel);
}

void channel_end(struct channel *channel, enum channel_state next)
{
	if (channel->state == CHANNEL_OPEN) {
		signal_set_monitor(channel->bus, channel, false);
		channel->state = CHANNEL_ENDED;
		channel->ops->close(channel->provider, channel);
		__atomic_store_n(&channel->usable, false, __ATOMIC_RELEASE);
		__atomic_store_n(&channel->waits_for_room, false, __ATOMIC_RELEASE);
		gpadl_release(channel->ring_gpadl);
		channel->ring_gpadl = NULL;
	}
	channel->state = next;
}

void channel_on_close(struct vmbus *bus, uint32_t relid)
{
	struct channel *channel = bus_channel(bus, relid);

	if (channel && (channel->state == CHANNEL_OPEN || channel->state == CHANNEL_ENDED))
		channel_end(channel, CHANNEL_OFFERED);
	else if (!channel || channel->state != CHANNEL_REMOVED)
		bus->counters.ignored++;
}

/* --- a bus that is loaded ------------------------------------------------------------------------- */

void channel_leave(struct channel *channel)
{
	unlisten(channel);
	pthread_mutex_lock(&channel->bus->lock);
	forget(channel);
	pthread_mutex_unlock(&channel->bus->lock);
}

int channel_place(struct channel *channel, uint32_t relid)
{
	struct vmbus *bus = channel->bus;
	int r = 0;

	pthread_mutex_lock(&bus->lock);
	if (relid && bus->channels[relid]) {
		r = -EEXIST;
	} else if (relid) {
		channel->relid = relid;
		bus->channels[relid] = channel;
		bus->relid_limit = (unsigned)max_u64(bus->relid_limit, relid + 1);
	} else {
		r = take_relid(bus, channel);
	}
	if (r == 0)
		r = listen_to(channel);
	pthread_mutex_unlock(&bus->lock);
	return r;
}

int channel_place_removed(struct vmbus *bus, uint32_t relid, const struct channel_offer *offer)
{
	struct channel *channel = new_channel(bus, offer, NULL, NULL);

	if (!channel)
		return -ENOMEM;
	channel->state = CHANNEL_REMOVED;
	channel->announced = true;
	channel->relid = relid;
	pthread_mutex_lock(&bus->lock);
	bus->channels[relid] = channel;
	bus->relid_limit = (unsigned)max_u64(bus->relid_limit, relid + 1);
	pthread_mutex_unlock(&bus->lock);
	return 0;
}

int channel_reopen(struct channel *channel, const struct channel_reopen *open)
{
	struct vmbus *bus = channel->bus;
	int r = -EBADMSG;

	if (open->target_vp >= partition_vp_count(bus->partition))
		return r;
	channel->ring_gpadl = gpadl_acquire_even_torn(bus, channel->relid, open->ring_gpadl);
	if (!channel->ring_gpadl)
		return r;
	if (map_rings(channel, channel->ring_gpadl, open->downstream) == 0 &&
	    ring_set_index(&channel->in, open->in_index) && ring_set_index(&channel->out, open->out_index))
		r = begin(channel, open->target_vp);
	if (r < 0) {
		gpadl_release(channel->ring_gpadl);
		channel->ring_gpadl = NULL;
	}
	return r;
}

/* --- while open ----------------------------------------------------------------------------------- */

void channel_on_modify(struct vmbus *bus, const struct vmbus_message_modify *message)
{
	struct channel *channel = bus_channel(bus, message->relid);
	struct vmbus_message_modify_response response = {.relid = message->relid};

	if (vmbus_version(bus) < VMBUS_VERSION_WIN10_V4_1) {
		bus->counters.ignored++;
		return;
	}
	if (channel && channel->state == CHANNEL_OPEN &&
	    message->target_vp < partition_vp_count(bus->partition)) {
		__atomic_store_n(&channel->target_vp, message->target_vp, __ATOMIC_RELEASE);
	} else {
		bus->counters.ignored++;
		response.status = VMBUS_STATUS_INVALID_PARAMETER;
	}
	if (vmbus_version(bus) >= VMBUS_VERSION_WIN10_V5_3)
		connection_send(bus, &response, VMBUS_MSG_MODIFY_CHANNEL_RESPONSE, sizeof(response));
}

void channel_break(struct channel *channel, const char *reason)
{
	if (__atomic_exchange_n(&channel->broken, true, __ATOMIC_ACQ_REL))
		return;
	if (log_limit_pass(&channel->log_limit, 3))
		log_write(LOG_LEVEL_WARNING, "vmbus: channel %s is closed: %s", channel->name, reason);
	__atomic_store_n(&channel->bus->work_broken, true, __ATOMIC_RELEASE);
	bus_wake(channel->bus);
}

void channel_end_broken(struct vmbus *bus)
{
	unsigned limit = bus_relid_limit(bus);

	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(bus, relid);

		if (channel && channel->state == CHANNEL_OPEN &&
		    __atomic_load_n(&channel->broken, __ATOMIC_ACQUIRE))
			channel_end(channel, CHANNEL_ENDED);
	}
}

void channel_kick(struct channel *channel)
{
	static const uint64_t one = 1;

	/* Full (EAGAIN) means that it is readable already. */
	while (write(channel->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Before 2.4 the guest looks for the relid in its interrupt page when flag 0 of VP 0 is set; from
 * then on the relid is a flag of the VP that the channel was opened for. */
void channel_signal_guest(struct channel *channel)
{
	struct partition *partition = channel->bus->partition;
	unsigned flag = channel->relid;
	unsigned vp = __atomic_load_n(&channel->target_vp, __ATOMIC_ACQUIRE);

	if (channel->interrupt_page) {
		uint64_t *words = (uint64_t *)(channel->interrupt_page + VMBUS_INTERRUPT_PAGE_TO_GUEST);

		__atomic_fetch_or(&words[channel->relid / 64], 1ull << (channel->relid % 64),
				  __ATOMIC_SEQ_CST);
		partition_host_written(partition, &words[channel->relid / 64], sizeof(uint64_t));
		flag = 0;
		vp = 0;
	}
	__atomic_fetch_add(&channel->counters.events_to_guest, 1, __ATOMIC_RELAXED);
	partition_signal_event(partition, vp, VMBUS_MESSAGE_SINT, flag);
}

int channel_event_fd(const struct channel *channel)
{
	return channel->event_fd;
}

unsigned channel_target_vp(const struct channel *channel)
{
	return __atomic_load_n(&channel->target_vp, __ATOMIC_ACQUIRE);
}
