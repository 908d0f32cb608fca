// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * network.c - the adapter: its offer on the bus and the port it is plugged into.
 */
#include <errno.h>
#include <string.h>

#include "vsp/network/nic.h"

/* --- the channel -------------------------------------------------------------------------------- */

static int channel_opened(void *provider, struct channel *channel, const struct channel_open *open)
{
	struct network *network = provider;
	struct error err = {0};
	struct nic *nic;
	int r;

	(void)open;
	pthread_mutex_lock(&network->lock);
	r = nic_start(&nic, network, channel, &err);
	if (!r)
		network->nic = nic;
	pthread_mutex_unlock(&network->lock);
	if (r)
		log_write(LOG_LEVEL_ERROR, "%s: %s", network->name, err.text);
	return r;
}

/* With the lock held, and no thread that uses a port. */
static void swap_ports(struct network *network)
{
	struct port *old = network->port;

	network->port = network->next;
	network->next = old;
	network->replug = false;
	pthread_cond_broadcast(&network->plugged);
}

/* The sub-channels go with the primary: a guest asks for them anew. No thread uses them any more. */
static void remove_subs(struct network *network)
{
	for (unsigned i = 1; i < NIC_CHANNELS_MAX; i++) {
		struct channel *channel = network->subs[i].channel;

		if (channel)
			channel_remove(channel);
		pthread_mutex_lock(&network->lock);
		network->subs[i] = (struct sub_channel){.open = false};
		pthread_mutex_unlock(&network->lock);
	}
	atomic_store(&network->subs_changed, false);
}

static void channel_closed(void *provider, struct channel *channel)
{
	struct network *network = provider;
	struct nic *nic = network->nic;

	(void)channel;
	nic_stop(nic);
	pthread_mutex_lock(&network->lock);
	network->nic = NULL;
	network->address_count = 0;
	if (network->replug)
		swap_ports(network);
	pthread_mutex_unlock(&network->lock);
	remove_subs(network);
	nic_free(nic);
}

/* --- sub-channels ------------------------------------------------------------------------------- */

/* The thread learns of it, and of one that is closed it has let go when this returns. */
static void tell_thread(struct sub_channel *sub, bool open)
{
	struct network *network = sub->network;

	pthread_mutex_lock(&network->lock);
	sub->open = open;
	atomic_store(&network->subs_changed, true);
	if (network->nic)
		nic_wake(network->nic);
	pthread_cond_broadcast(&network->plugged); /* it may rest */
	while (!open && network->nic && atomic_load(&network->subs_changed))
		pthread_cond_wait(&network->plugged, &network->lock);
	pthread_mutex_unlock(&network->lock);
}

static int sub_opened(void *provider, struct channel *channel, const struct channel_open *open)
{
	(void)channel;
	(void)open;
	tell_thread(provider, true);
	return 0;
}

static void sub_closed(void *provider, struct channel *channel)
{
	(void)channel;
	tell_thread(provider, false);
}

unsigned network_offer_subs(struct network *network, unsigned count)
{
	static const struct channel_ops ops = {.open = sub_opened, .close = sub_closed};
	struct error err = {0};

	for (unsigned i = 1; i <= count; i++) {
		struct channel_offer offer = {.interface = NETWORK_CLASS, .instance = network->instance, .name = network->name,
		    .subchannel_index = (uint16_t)i};

		network->subs[i].network = network;
		if (vmbus_offer(network->bus, &offer, &ops, &network->subs[i], &network->subs[i].channel, &err)) {
			network->subs[i].channel = NULL;
			if (log_limit_pass(&network->log_limit, 3))
				log_write(LOG_LEVEL_WARNING, "%s: sub-channel %u: %s", network->name, i, err.text);
			return i - 1;
		}
	}
	return count;
}

unsigned network_sub_count(struct network *network)
{
	unsigned count = 0;

	while (count + 1 < NIC_CHANNELS_MAX && network->subs[count + 1].channel)
		count++;
	return count;
}

struct port *network_plug(struct network *network, struct port *port)
{
	struct port *old;

	pthread_mutex_lock(&network->lock);
	network->next = port;
	network->replug = true;
	if (network->nic)
		nic_wake(network->nic);
	else
		swap_ports(network);
	while (network->replug)
		pthread_cond_wait(&network->plugged, &network->lock);
	old = network->next;
	network->next = NULL;
	pthread_mutex_unlock(&network->lock);
	return old;
}

/* --- life ------------------------------------------------------------------------------------- */

int network_create(struct network **out, struct vmbus *bus, const struct network_config *config, struct error *err)
{
	static const struct channel_ops ops = {.open = channel_opened, .close = channel_closed};
	struct channel_offer offer = {.interface = NETWORK_CLASS, .instance = config->instance};
	struct network *network = calloc(1, sizeof(*network));
	int r;

	if (!network)
		return error_set(err, ENOMEM, "no memory for a network adapter");
	network->bus = bus;
	network->partition = vmbus_partition(bus);
	network->instance = config->instance;
	network->any_mac = config->any_mac;
	network->channel_max = partition_vp_count(network->partition);
	if (network->channel_max > NIC_CHANNELS_MAX)
		network->channel_max = NIC_CHANNELS_MAX;
	network->port = config->port;
	network->meter = config->meter;
	memcpy(network->mac, config->mac, sizeof(network->mac));
	snprintf(network->name, sizeof(network->name), "%s", config->name);
	pthread_mutex_init(&network->lock, NULL);
	pthread_cond_init(&network->plugged, NULL);
	offer.name = network->name;
	r = vmbus_offer(bus, &offer, &ops, network, &network->channel, err);
	if (r) {
		network->channel = NULL;
		network_destroy(network);
		return r;
	}
	*out = network;
	return 0;
}

void network_destroy(struct network *network)
{
	struct network_counters counters;

	if (!network)
		return;
	atomic_store(&network->removed, true);
	if (network->channel)
		channel_remove(network->channel);
	remove_subs(network); /* of an adapter that was loaded and never opened */
	network_get_counters(network, &counters);
	if (network->meter)
		meter_keep(network->meter, &counters);
	saved_nic_free(network->restored);
	pthread_cond_destroy(&network->plugged);
	pthread_mutex_destroy(&network->lock);
	free(network);
}

/* --- inspection ----------------------------------------------------------------------------------- */

/* With the lock held. */
static unsigned nic_channel_count(const struct network *network)
{
	unsigned count = 1;

	for (unsigned i = 1; i < NIC_CHANNELS_MAX; i++)
		count += network->subs[i].open;
	return count;
}

static const char *version_text(unsigned version)
{
	switch (version) {
	case NVSP_VERSION_1:
		return "1";
	case NVSP_VERSION_2:
		return "2";
	case NVSP_VERSION_4:
		return "4";
	case NVSP_VERSION_5:
		return "5";
	case NVSP_VERSION_6:
		return "6";
	case NVSP_VERSION_61:
		return "6.1";
	default:
		return "none";
	}
}

static void inspect_counters(struct network *network, const struct vmbus_inspector *inspector, void *context)
{
	const struct {
		const char *name;
		atomic_ulong *counter;
	} counters[] = {
	    {"tx_frames", &network->count.tx_frames},
	    {"tx_bytes", &network->count.tx_bytes},
	    {"tx_dropped", &network->count.tx_dropped},
	    {"tx_large", &network->count.tx_large},
	    {"tx_checksums", &network->count.tx_checksums},
	    {"tx_packets", &network->count.tx_packets},
	    {"rx_frames", &network->count.rx_frames},
	    {"rx_bytes", &network->count.rx_bytes},
	    {"rx_dropped", &network->count.rx_dropped},
	    {"rx_filtered", &network->count.rx_filtered},
	    {"rx_large", &network->count.rx_large},
	    {"rx_packets", &network->count.rx_packets},
	    {"rounds", &network->count.rounds},
	    {"port_full", &network->count.port_full},
	    {"ring_full", &network->count.ring_full},
	    {"copied_bytes", &network->count.copied_bytes},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(counters); i++)
		inspector->number(context, counters[i].name,
		    atomic_load_explicit(counters[i].counter, memory_order_relaxed));
}

static uint64_t count_of(const atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void network_get_counters(struct network *network, struct network_counters *out)
{
	*out = (struct network_counters){.sent_frames = count_of(&network->count.tx_frames),
	    .sent_bytes = count_of(&network->count.tx_bytes),
	    .sent_dropped = count_of(&network->count.tx_dropped),
	    .received_frames = count_of(&network->count.rx_frames),
	    .received_bytes = count_of(&network->count.rx_bytes),
	    .received_dropped = count_of(&network->count.rx_dropped)};
}

void network_inspect(struct network *network, const struct vmbus_inspector *inspector, void *context)
{
	struct network_seen addresses[NETWORK_ADDRESSES];
	char text[24], name[16];
	unsigned count = network_addresses(network, addresses, NETWORK_ADDRESSES);
	const uint8_t *mac = network->mac;

	inspector->begin(context, network->name);
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	inspector->text(context, "mac", text);
	pthread_mutex_lock(&network->lock);
	inspector->text(context, "version", version_text(network->nic ? atomic_load(&network->nic->version) : 0));
	inspector->text(context, "link", network->port ? "up" : "down");
	if (network->port)
		inspector->number(context, "port_calls", port_calls(network->port));
	inspector->number(context, "channels", network->nic ? nic_channel_count(network) : 0);
	pthread_mutex_unlock(&network->lock);
	inspector->begin(context, "addresses");
	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%u", i);
		inspector->text(context, name, addresses[i].address);
	}
	inspector->end(context);
	inspect_counters(network, inspector, context);
	inspector->end(context);
}
