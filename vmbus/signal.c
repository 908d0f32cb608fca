// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * signal.c - the two indirect ways in which a guest says "look at this channel".
 *
 * Interrupt page (versions before 5.0; iPXE up to its 3.0): the guest sets the channel's bit and
 * signals connection id 2.
 *
 * Monitor page: for a channel offered with a monitor id the guest only sets a trigger bit and calls
 * nobody; the host looks every so often, and so gets work in batches. Here the control thread looks,
 * only while such a channel is open: every 0.2 ms while triggers come, backing off to 4 ms when none
 * do. Offers ask for it one by one (struct channel_offer.monitored); without one there is no cost.
 *
 * Source: Linux drivers/hv/connection.c (vmbus_set_event), channel.c (vmbus_setevent),
 * hyperv_vmbus.h (struct hv_monitor_page).
 */
#include "vmbus/bus.h"

#define MONITOR_POLL_FIRST_NS 200000u
#define MONITOR_POLL_LAST_NS  4000000u
#define MONITOR_IDLE_POLLS    16u
#define MONITOR_LATENCY       (MONITOR_POLL_FIRST_NS / 100u)

void signal_scan_interrupt_page(struct vmbus *bus)
{
	uint64_t *words;

	if (!bus->connection.interrupt_page)
		return;
	words = (uint64_t *)(bus->connection.interrupt_page + VMBUS_INTERRUPT_PAGE_TO_HOST);
	for (uint32_t word = 0; word <= BUS_MAX_RELID / 64; word++) {
		uint64_t bits = __atomic_load_n(&words[word], __ATOMIC_RELAXED);

		if (!bits)
			continue;
		bits = __atomic_exchange_n(&words[word], 0, __ATOMIC_ACQ_REL);
		partition_host_written(bus->partition, &words[word], sizeof(words[word]));
		for (; bits; bits &= bits - 1) {
			struct channel *channel =
			    bus_channel(bus, word * 64 + (uint32_t)__builtin_ctzll(bits));

			if (channel && channel->state == CHANNEL_OPEN)
				channel_kick(channel);
		}
	}
}

static struct channel *monitored_channel(struct vmbus *bus, unsigned monitor_id)
{
	struct channel *channel;

	pthread_mutex_lock(&bus->lock);
	channel = bus->monitored[monitor_id];
	pthread_mutex_unlock(&bus->lock);
	return channel;
}

void signal_scan_monitor_page(struct vmbus *bus)
{
	struct vmbus_monitor_page *page = bus->connection.monitor_page;
	bool found = false;

	if (!page)
		return;
	for (unsigned group = 0; group < VMBUS_MONITOR_GROUPS; group++) {
		uint32_t bits = __atomic_load_n(&page->group[group].pending, __ATOMIC_RELAXED);

		if (!bits)
			continue;
		bits = __atomic_exchange_n(&page->group[group].pending, 0, __ATOMIC_ACQ_REL);
		partition_host_written(bus->partition, &page->group[group], sizeof(page->group[group]));
		for (; bits; bits &= bits - 1) {
			struct channel *channel = monitored_channel(bus, group * VMBUS_MONITOR_TRIGGERS +
									     (unsigned)__builtin_ctz(bits));

			if (channel && channel->state == CHANNEL_OPEN) {
				channel_kick(channel);
				found = true;
			}
		}
	}
	if (found) {
		bus->monitor_poll_ns = MONITOR_POLL_FIRST_NS;
		bus->monitor_idle = 0;
	} else if (++bus->monitor_idle >= MONITOR_IDLE_POLLS) {
		bus->monitor_poll_ns = min_u64(bus->monitor_poll_ns * 2, MONITOR_POLL_LAST_NS);
		bus->monitor_idle = 0;
	}
}

void signal_set_monitor(struct vmbus *bus, const struct channel *channel, bool used)
{
	struct vmbus_monitor_page *page = bus->connection.monitor_page;
	unsigned group, trigger;

	if (channel->monitor_id < 0 || !page)
		return;
	group = (unsigned)channel->monitor_id / VMBUS_MONITOR_TRIGGERS;
	trigger = (unsigned)channel->monitor_id % VMBUS_MONITOR_TRIGGERS;
	if (used) {
		page->latency[group][trigger] = MONITOR_LATENCY;
		page->parameter[group][trigger].connection_id = BUS_CONNECTION_BASE + channel->relid;
		__atomic_fetch_or(&page->trigger_state, 1u << group, __ATOMIC_RELEASE);
		partition_host_written(bus->partition, page, sizeof(*page));
		bus->open_monitored++;
		bus->monitor_poll_ns = MONITOR_POLL_FIRST_NS;
		bus->monitor_idle = 0;
	} else if (--bus->open_monitored == 0) {
		bus->monitor_poll_ns = 0;
	}
}
