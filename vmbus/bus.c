// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus.c - a bus from create to destroy, and its control thread.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/thread.h"
#include "vmbus/bus.h"

/* What an epoll event stands for: the kind above, a relid or descriptor below. No pointers, so an
 * event of something that just went away finds nothing. */
enum source { SOURCE_WAKE, SOURCE_TIMER, SOURCE_SHARED_EVENT, SOURCE_CHANNEL, SOURCE_WATCH };

#define ROOM_POLL_NS 1000000u

static int poll_add(struct vmbus *bus, int fd, enum source source, uint32_t id)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)source << 32 | id};

	return epoll_ctl(bus->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void drain(int fd)
{
	uint64_t count;

	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bus_wake(struct vmbus *bus)
{
	static const uint64_t one = 1;

	while (write(bus->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

struct channel *bus_channel(struct vmbus *bus, uint32_t relid)
{
	struct channel *channel;

	if (relid == 0 || relid > BUS_MAX_RELID)
		return NULL;
	pthread_mutex_lock(&bus->lock);
	channel = bus->channels[relid];
	pthread_mutex_unlock(&bus->lock);
	return channel;
}

unsigned bus_relid_limit(struct vmbus *bus)
{
	unsigned limit;

	pthread_mutex_lock(&bus->lock);
	limit = bus->relid_limit;
	pthread_mutex_unlock(&bus->lock);
	return limit;
}

int bus_poll_channel(struct vmbus *bus, struct channel *channel, bool add)
{
	if (add)
		return poll_add(bus, channel->event_fd, SOURCE_CHANNEL, channel->relid);
	return epoll_ctl(bus->epoll_fd, EPOLL_CTL_DEL, channel->event_fd, NULL) < 0 ? -errno : 0;
}

/* --- calls from other threads ------------------------------------------------------------------- */

void bus_call(struct vmbus *bus, void (*function)(void *argument), void *argument)
{
	struct call call = {.function = function, .argument = argument}, **end;

	bool direct = pthread_equal(pthread_self(), bus->thread);

	pthread_mutex_lock(&bus->lock);
	if (direct || bus->held) {
		pthread_mutex_unlock(&bus->lock);
		function(argument);
		return;
	}
	for (end = &bus->calls; *end; end = &(*end)->next)
		;
	*end = &call;
	bus_wake(bus);
	while (!call.done)
		pthread_cond_wait(&bus->call_done, &bus->lock);
	pthread_mutex_unlock(&bus->lock);
}

static struct call *take_calls(struct vmbus *bus)
{
	struct call *calls;

	pthread_mutex_lock(&bus->lock);
	calls = bus->calls;
	bus->calls = NULL;
	pthread_mutex_unlock(&bus->lock);
	return calls;
}

static void run_calls(struct vmbus *bus, struct call *calls)
{
	while (calls) {
		struct call *call = calls;

		calls = call->next; /* the caller's stack is gone once it sees `done` */
		call->function(call->argument);
		pthread_mutex_lock(&bus->lock);
		call->done = true;
		pthread_cond_broadcast(&bus->call_done);
		pthread_mutex_unlock(&bus->lock);
	}
}

/* --- watches ------------------------------------------------------------------------------------ */

static struct watch **find_watch(struct vmbus *bus, int fd)
{
	struct watch **at;

	for (at = &bus->watches; *at && (*at)->fd != fd; at = &(*at)->next)
		;
	return at;
}

int vmbus_watch(struct vmbus *bus, int fd, void (*callback)(void *context), void *context)
{
	struct watch *watch = malloc(sizeof(*watch));
	int r;

	if (!watch)
		return -ENOMEM;
	*watch = (struct watch){.fd = fd, .callback = callback, .context = context};
	pthread_mutex_lock(&bus->lock);
	r = *find_watch(bus, fd) ? -EEXIST : poll_add(bus, fd, SOURCE_WATCH, (uint32_t)fd);
	if (r == 0) {
		watch->next = bus->watches;
		bus->watches = watch;
	}
	pthread_mutex_unlock(&bus->lock);
	if (r < 0)
		free(watch);
	return r;
}

struct unwatch {
	struct vmbus *bus;
	int fd;
};

static void unwatch_on_control(void *argument)
{
	struct unwatch *unwatch = argument;
	struct watch **at, *watch;

	pthread_mutex_lock(&unwatch->bus->lock);
	at = find_watch(unwatch->bus, unwatch->fd);
	watch = *at;
	if (watch) {
		*at = watch->next;
		epoll_ctl(unwatch->bus->epoll_fd, EPOLL_CTL_DEL, unwatch->fd, NULL);
	}
	pthread_mutex_unlock(&unwatch->bus->lock);
	free(watch);
}

void vmbus_unwatch(struct vmbus *bus, int fd)
{
	struct unwatch unwatch = {.bus = bus, .fd = fd};

	bus_call(bus, unwatch_on_control, &unwatch);
}

static void run_watch(struct vmbus *bus, int fd)
{
	struct watch *watch, copy = {0};

	pthread_mutex_lock(&bus->lock);
	watch = *find_watch(bus, fd);
	if (watch)
		copy = *watch;
	pthread_mutex_unlock(&bus->lock);
	if (copy.callback)
		copy.callback(copy.context);
}

/* --- the control thread ------------------------------------------------------------------------- */

static void run_channel(struct vmbus *bus, uint32_t relid)
{
	struct channel *channel = bus_channel(bus, relid);

	if (!channel || !channel->ops || !channel->ops->event)
		return;
	drain(channel->event_fd);
	if (channel->state == CHANNEL_OPEN && !__atomic_load_n(&channel->broken, __ATOMIC_ACQUIRE))
		channel->ops->event(channel->provider, channel);
}

static void kick_waiting_for_room(struct vmbus *bus)
{
	unsigned limit = bus_relid_limit(bus);

	if (!__atomic_exchange_n(&bus->work_room, false, __ATOMIC_ACQ_REL))
		return;
	for (uint32_t relid = 1; relid < limit; relid++) {
		struct channel *channel = bus_channel(bus, relid);

		if (channel && __atomic_exchange_n(&channel->waits_for_room, false, __ATOMIC_ACQ_REL))
			channel_kick(channel);
	}
}

static void run_timer(struct vmbus *bus)
{
	drain(bus->timer_fd);
	bus->timer_due_ns = 0;
	kick_waiting_for_room(bus);
	if (bus->monitor_poll_ns)
		signal_scan_monitor_page(bus);
}

static void set_timer(struct vmbus *bus)
{
	uint64_t wait = UINT64_MAX, due;
	struct itimerspec spec = {0};

	if (bus->outbox_retry_ns)
		wait = min_u64(wait, bus->outbox_retry_ns);
	if (bus->monitor_poll_ns)
		wait = min_u64(wait, bus->monitor_poll_ns);
	if (__atomic_load_n(&bus->work_room, __ATOMIC_ACQUIRE))
		wait = min_u64(wait, ROOM_POLL_NS);
	if (wait == UINT64_MAX)
		return;
	due = now_ns() + wait;
	if (bus->timer_due_ns && bus->timer_due_ns <= due)
		return;
	bus->timer_due_ns = due;
	spec.it_value.tv_sec = (time_t)(due / 1000000000u);
	spec.it_value.tv_nsec = (long)(due % 1000000000u);
	timerfd_settime(bus->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void run_source(struct vmbus *bus, uint64_t tag)
{
	uint32_t id = (uint32_t)tag;

	switch ((enum source)(tag >> 32)) {
	case SOURCE_WAKE:
		drain(bus->wake_fd);
		break;
	case SOURCE_TIMER:
		run_timer(bus);
		break;
	case SOURCE_SHARED_EVENT:
		drain(bus->shared_event_fd);
		signal_scan_interrupt_page(bus);
		break;
	case SOURCE_CHANNEL:
		run_channel(bus, id);
		break;
	case SOURCE_WATCH:
		run_watch(bus, (int)id);
		break;
	}
}

/* Calls are taken before the messages and run after them: what the guest posted before a call came
 * has happened when the call runs. */
static void run_work(struct vmbus *bus)
{
	struct call *calls = take_calls(bus);

	connection_receive(bus);
	if (__atomic_exchange_n(&bus->work_broken, false, __ATOMIC_ACQ_REL))
		channel_end_broken(bus);
	if (__atomic_exchange_n(&bus->work_announce, false, __ATOMIC_ACQ_REL))
		connection_announce(bus);
	if (__atomic_exchange_n(&bus->work_reap, false, __ATOMIC_ACQ_REL))
		gpadl_reap(bus);
	run_calls(bus, calls);
	connection_flush(bus);
}

/* Rests here while it is held. Returns whether this is the end. */
static bool rest(struct vmbus *bus)
{
	bool stopping;

	pthread_mutex_lock(&bus->lock);
	while (bus->hold_asked && !bus->stopping) {
		bus->held = true;
		pthread_cond_broadcast(&bus->call_done);
		pthread_cond_wait(&bus->call_done, &bus->lock);
	}
	bus->held = false;
	stopping = bus->stopping;
	pthread_mutex_unlock(&bus->lock);
	return stopping;
}

static void *control_thread(void *argument)
{
	struct vmbus *bus = argument;
	bool stopping = false;

	thread_begin(THREAD_BUS, "vmbus");
	while (!stopping) {
		struct epoll_event event;

		set_timer(bus);
		/* One event at a time: its callback may take away what the next one stands for. */
		if (epoll_wait(bus->epoll_fd, &event, 1, -1) == 1)
			run_source(bus, event.data.u64);
		run_work(bus);
		stopping = rest(bus);
	}
	connection_drop(bus);
	return NULL;
}

/* --- life --------------------------------------------------------------------------------------- */

static int open_descriptors(struct vmbus *bus)
{
	int r = 0;

	bus->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	bus->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bus->shared_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bus->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (bus->epoll_fd < 0 || bus->wake_fd < 0 || bus->shared_event_fd < 0 || bus->timer_fd < 0)
		return -errno;
	r = poll_add(bus, bus->wake_fd, SOURCE_WAKE, 0);
	if (r == 0)
		r = poll_add(bus, bus->timer_fd, SOURCE_TIMER, 0);
	if (r == 0)
		r = poll_add(bus, bus->shared_event_fd, SOURCE_SHARED_EVENT, 0);
	return r;
}

static const uint32_t message_ports[2] = {VMBUS_MESSAGE_CONNECTION_ID, VMBUS_MESSAGE_CONNECTION_ID_4};

static int open_ports(struct vmbus *bus)
{
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(message_ports); i++) {
		r = partition_open_message_port(bus->partition, message_ports[i], connection_message_port,
						bus);
		if (r < 0)
			return r;
		bus->message_port_open[i] = true;
	}
	r = partition_open_event_port(bus->partition, VMBUS_EVENT_CONNECTION_ID, bus->shared_event_fd);
	bus->event_port_open = r == 0;
	return r;
}

int vmbus_create(struct vmbus **out, struct partition *partition, struct error *err)
{
	struct vmbus *bus = calloc(1, sizeof(*bus));
	int r;

	*out = NULL;
	if (!bus)
		return error_set(err, ENOMEM, "no memory for the VMBus");
	bus->partition = partition;
	bus->epoll_fd = bus->wake_fd = bus->timer_fd = bus->shared_event_fd = -1;
	bus->outbox_last = &bus->outbox_first;
	pthread_mutex_init(&bus->inbox_lock, NULL);
	pthread_mutex_init(&bus->lock, NULL);
	pthread_cond_init(&bus->call_done, NULL);
	r = open_descriptors(bus);
	if (r == 0)
		r = open_ports(bus);
	if (r == 0) {
		/* The new thread compares itself with bus->thread only in bus_call(), which needs a
		 * channel or watch, which needs this function's return. */
		r = -pthread_create(&bus->thread, NULL, control_thread, bus);
		bus->thread_started = r == 0;
	}
	if (r < 0) {
		vmbus_destroy(bus);
		return error_set(err, -r, "cannot start the VMBus: %s", strerror(-r));
	}
	*out = bus;
	return 0;
}

static void stop_thread(struct vmbus *bus)
{
	pthread_mutex_lock(&bus->lock);
	bus->stopping = true;
	pthread_cond_broadcast(&bus->call_done);
	pthread_mutex_unlock(&bus->lock);
	bus_wake(bus);
	pthread_join(bus->thread, NULL);
}

static void free_leftovers(struct vmbus *bus)
{
	struct outgoing *outgoing;
	struct watch *watch;

	for (uint32_t relid = 1; relid <= BUS_MAX_RELID; relid++) {
		struct channel *channel = bus->channels[relid];

		if (!channel)
			continue;
		if (channel->state != CHANNEL_REMOVED)
			log_write(LOG_LEVEL_WARNING, "vmbus: channel %s was not removed", channel->name);
		channel_free(channel);
	}
	while ((watch = bus->watches)) {
		bus->watches = watch->next;
		free(watch);
	}
	while ((outgoing = bus->outbox_first)) {
		bus->outbox_first = outgoing->next;
		free(outgoing);
	}
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void vmbus_destroy(struct vmbus *bus)
{
	if (!bus)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(message_ports); i++)
		if (bus->message_port_open[i])
			partition_close_message_port(bus->partition, message_ports[i]);
	if (bus->event_port_open)
		partition_close_event_port(bus->partition, VMBUS_EVENT_CONNECTION_ID);
	if (bus->thread_started)
		stop_thread(bus);
	free_leftovers(bus);
	close_fd(bus->timer_fd);
	close_fd(bus->shared_event_fd);
	close_fd(bus->wake_fd);
	close_fd(bus->epoll_fd);
	pthread_cond_destroy(&bus->call_done);
	pthread_mutex_destroy(&bus->lock);
	pthread_mutex_destroy(&bus->inbox_lock);
	free(bus);
}

void vmbus_hold(struct vmbus *bus)
{
	pthread_mutex_lock(&bus->lock);
	bus->hold_asked = true;
	bus_wake(bus);
	while (!bus->held)
		pthread_cond_wait(&bus->call_done, &bus->lock);
	pthread_mutex_unlock(&bus->lock);
}

void vmbus_release(struct vmbus *bus)
{
	pthread_mutex_lock(&bus->lock);
	bus->hold_asked = false;
	/* From here on nobody stands for the thread but itself. */
	bus->held = false;
	pthread_cond_broadcast(&bus->call_done);
	pthread_mutex_unlock(&bus->lock);
	bus_wake(bus);
}

struct partition *vmbus_partition(const struct vmbus *bus)
{
	return bus->partition;
}

uint32_t vmbus_version(const struct vmbus *bus)
{
	return __atomic_load_n(&bus->version, __ATOMIC_ACQUIRE);
}

static void reset_on_control(void *argument)
{
	connection_drop(argument);
}

void vmbus_reset(struct vmbus *bus)
{
	bus_call(bus, reset_on_control, bus);
}
