// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nvsp.c - an open channel: its thread, and the messages by which driver and provider agree on a version and two buffers.
 *
 * The thread sleeps on three descriptors: the guest's signal, the port, and its own wake-up. Each round moves frames from
 * the port to the guest, then what the ring holds to the port, and ends in one signal to the guest.
 *
 * Source: Linux drivers/net/hyperv/netvsc.c for the order of messages and the meaning of each status.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/thread.h"
#include "vsp/network/nic.h"

#define TAKE_BATCH      256u /* packets taken before the port is looked at again: all channels together */
#define TAKE_LEAST      32u  /* of one channel, be there ever so many */
#define TAKE_LAST       16384u /* when the adapter is taken away: more than rings have that are not filled on */
#define RECEIVE_ROUNDS  8u
#define RECEIVE_BUFFER_MAX (32u << 20)
#define LATE_MAX        32u  /* answers that wait for something to be told of with them: of the guest's send buffer so many sections */
#define LATE_MS         1

const char nic_channel_lost[] = "one of the adapter's channels cannot be used";

void nic_break(struct nic *nic, const char *reason)
{
	if (!nic->broken)
		channel_break(nic->channels[0], reason);
	nic->broken = true;
}

struct port *nic_port(const struct nic *nic)
{
	return nic->port_gone ? NULL : nic->network->port;
}

void nic_lose_port(struct nic *nic)
{
	if (!nic->port_gone)
		log_write(LOG_LEVEL_WARNING, "%s: the network behind the adapter is gone", nic->network->name);
	nic->port_gone = true;
}

/* --- messages --------------------------------------------------------------------------------------- */

/* An answer that finds no room would leave the driver waiting for ever. */
static void answer(struct nic *nic, const struct channel_packet *packet, const struct nvsp_message *message)
{
	int r;

	if (!packet->completion_requested)
		return;
	r = channel_send_completion(nic->channels[nic->serving], packet->transaction_id, message, sizeof(*message));
	if (r == -EAGAIN)
		nic_break(nic, "no room for the answer to a network message");
	else if (r < 0)
		nic_break(nic, nic_channel_lost);
	nic->prompt = true;
}

/* Messages that tell something: a driver may ask to hear that they have come. */
static void answer_empty(struct nic *nic, const struct channel_packet *packet, uint32_t type)
{
	answer(nic, packet, &(struct nvsp_message){.type = type});
}

bool nvsp_version_known(uint32_t version)
{
	return version == NVSP_VERSION_1 || version == NVSP_VERSION_2 || version == NVSP_VERSION_4 || version == NVSP_VERSION_5 ||
	       version == NVSP_VERSION_6 || version == NVSP_VERSION_61;
}

/* The newest that both know; guests ask for one at a time. */
static void on_init(struct nic *nic, const struct channel_packet *packet, const struct nvsp_init *init)
{
	static const uint32_t versions[] = {NVSP_VERSION_61, NVSP_VERSION_6, NVSP_VERSION_5, NVSP_VERSION_4, NVSP_VERSION_2,
	    NVSP_VERSION_1};
	struct nvsp_message reply = {.type = NVSP_INIT_COMPLETE,
	    .init_complete = {.max_mdl_chain = NVSP_MDL_CHAIN_MAX, .status = NVSP_STATUS_FAIL}};

	for (unsigned i = 0; i < ARRAY_SIZE(versions) && reply.init_complete.status != NVSP_STATUS_SUCCESS; i++) {
		if (versions[i] < init->min_version || versions[i] > init->max_version)
			continue;
		reply.init_complete.version = versions[i];
		reply.init_complete.status = NVSP_STATUS_SUCCESS;
	}
	if (reply.init_complete.status == NVSP_STATUS_SUCCESS)
		atomic_store(&nic->version, reply.init_complete.version);
	answer(nic, packet, &reply);
}

static void on_ndis_config(struct nic *nic, const struct nvsp_ndis_config *config)
{
	uint32_t mtu = config->mtu;

	nic->vlan = config->capabilities & NVSP_CAPABILITY_VLAN;
	if (mtu < FRAME_ETHERNET_SIZE + NETWORK_MTU)
		mtu = FRAME_ETHERNET_SIZE + NETWORK_MTU; /* the link carries that whatever the guest uses of it */
	if (mtu > FRAME_ETHERNET_SIZE + NETWORK_MTU_MAX)
		mtu = FRAME_ETHERNET_SIZE + NETWORK_MTU_MAX;
	if (!nic->rx.gpadl) /* else its sections are made for the frames that were agreed on before */
		nic->mtu = mtu - FRAME_ETHERNET_SIZE;
}

static void on_receive_buffer(struct nic *nic, const struct channel_packet *packet, const struct nvsp_buffer *buffer)
{
	struct nvsp_message reply = {.type = NVSP_SEND_RECEIVE_BUFFER_COMPLETE,
	    .receive_buffer_complete = {.status = NVSP_STATUS_FAIL}};
	struct gpadl *gpadl = nic->rx.gpadl ? NULL : channel_gpadl(nic->channels[0], buffer->gpadl);

	if (gpadl &&
	    (gpadl_size(gpadl) > RECEIVE_BUFFER_MAX || receive_set_buffer(&nic->rx, gpadl, buffer->gpadl, buffer->id,
							   receive_section_size(gpadl_size(gpadl), nic->mtu)))) {
		gpadl_release(gpadl);
		gpadl = NULL;
	}
	if (gpadl) {
		reply.receive_buffer_complete = (struct nvsp_receive_buffer_complete){.status = NVSP_STATUS_SUCCESS,
		    .section_count = 1,
		    .sub_size = nic->rx.section_size,
		    .sub_count = nic->rx.section_count,
		    .end_offset = nic->rx.section_size * nic->rx.section_count};
		receive_choose_offloads(nic);
	}
	answer(nic, packet, &reply);
}

static void on_send_buffer(struct nic *nic, const struct channel_packet *packet, const struct nvsp_buffer *buffer)
{
	struct nvsp_message reply = {.type = NVSP_SEND_SEND_BUFFER_COMPLETE, .send_buffer_complete = {.status = NVSP_STATUS_FAIL}};
	struct gpadl *gpadl = nic->tx.gpadl ? NULL : channel_gpadl(nic->channels[0], buffer->gpadl);

	if (gpadl && gpadl_size(gpadl) < TX_SECTION) {
		gpadl_release(gpadl);
		gpadl = NULL;
	}
	if (gpadl) {
		transmit_set_buffer(&nic->tx, gpadl, buffer->gpadl, buffer->id);
		reply.send_buffer_complete = (struct nvsp_send_buffer_complete){NVSP_STATUS_SUCCESS, TX_SECTION};
	}
	answer(nic, packet, &reply);
}

/* Frames that the port has not taken yet lie in it. */
static void on_revoke_send_buffer(struct nic *nic)
{
	transmit_flush(nic);
	transmit_abandon(nic);
	transmit_drop_buffer(&nic->tx);
}

/* Once: the guest asks anew when it has opened the adapter anew. */
static void on_subchannel(struct nic *nic, const struct channel_packet *packet, const struct nvsp_subchannel_request *request)
{
	struct nvsp_message reply = {.type = NVSP_SUBCHANNEL, .subchannel_complete = {.status = NVSP_STATUS_FAIL}};
	unsigned count = (unsigned)min_u64(request->count, nic->network->channel_max - 1);

	if (request->operation == NVSP_SUBCHANNEL_ALLOCATE && atomic_load(&nic->version) >= NVSP_VERSION_5 &&
	    !network_sub_count(nic->network))
		reply.subchannel_complete =
		    (struct nvsp_subchannel_complete){NVSP_STATUS_SUCCESS, network_offer_subs(nic->network, count)};
	answer(nic, packet, &reply);
}

static void on_message(struct nic *nic, const struct channel_packet *packet, const struct nvsp_message *m)
{
	uint32_t version = atomic_load(&nic->version);

	if (m->type == NVSP_INIT) {
		on_init(nic, packet, &m->init);
		return;
	}
	if (!nvsp_version_known(version)) {
		nic_break(nic, "a network message before a version was agreed on");
		return;
	}
	switch (m->type) {
	case NVSP_SEND_NDIS_VERSION:
		nic->ndis_minor = m->ndis_version.minor;
		answer_empty(nic, packet, m->type);
		break;
	case NVSP_SEND_NDIS_CONFIG:
		on_ndis_config(nic, &m->ndis_config);
		answer_empty(nic, packet, m->type);
		break;
	case NVSP_SEND_RECEIVE_BUFFER:
		on_receive_buffer(nic, packet, &m->buffer);
		break;
	case NVSP_REVOKE_RECEIVE_BUFFER:
		receive_drop_buffer(&nic->rx);
		receive_choose_offloads(nic);
		answer_empty(nic, packet, m->type);
		break;
	case NVSP_SEND_SEND_BUFFER:
		on_send_buffer(nic, packet, &m->buffer);
		break;
	case NVSP_REVOKE_SEND_BUFFER:
		on_revoke_send_buffer(nic);
		answer_empty(nic, packet, m->type);
		break;
	case NVSP_SEND_RNDIS_PACKET:
		transmit_packet(nic, packet, &m->rndis);
		break;
	case NVSP_SUBCHANNEL:
		on_subchannel(nic, packet, &m->subchannel_request);
		break;
	case NVSP_SWITCH_DATA_PATH: /* there is no other path, and the driver waits for no answer but an empty one */
	default:
		answer_empty(nic, packet, m->type);
		break;
	}
}

/* --- the ring --------------------------------------------------------------------------------------------- */

static void take_packet(struct nic *nic, const struct channel_packet *packet, int result)
{
	struct nvsp_message message = {0};

	if (packet->type == VMBUS_PACKET_COMPLETION) {
		if (!receive_completed(nic, packet->transaction_id))
			nic_break(nic, "the guest completes a packet that it does not have");
		return;
	}
	if (packet->type == VMBUS_PACKET_CANCEL)
		return; /* of a packet that is served by now, or will be at once */
	if (packet->type != VMBUS_PACKET_IN_BAND && packet->type != VMBUS_PACKET_GPA_DIRECT) {
		nic_break(nic, "a network packet of a type that has no meaning");
		return;
	}
	if (result < 0 || packet->payload_size < sizeof(message.type)) {
		transmit_refuse(nic, packet, NVSP_STATUS_INVALID_RNDIS_PACKET);
		return;
	}
	memcpy(&message, nic->payload, min_u64(packet->payload_size, sizeof(message)));
	if (nic->serving && (message.type != NVSP_SEND_RNDIS_PACKET || message.rndis.channel_type != NVSP_CHANNEL_DATA)) {
		nic_break(nic, "a network message that belongs to the first channel");
		return;
	}
	on_message(nic, packet, &message);
}

/* Somebody waits for the thread. */
static bool is_awaited(const struct nic *nic)
{
	const struct network *network = nic->network;

	return atomic_load(&network->subs_changed) || atomic_load(&network->paused) || atomic_load(&network->replug) || atomic_load(&nic->stop);
}

/* False: the ring is empty, or there is a reason to wait. */
static bool take_next(struct nic *nic)
{
	struct channel_packet packet = {.payload = nic->payload,
	    .payload_capacity = sizeof(nic->payload),
	    .iov = nic->tx.raw,
	    .iov_capacity = TX_RAW_IOVECS - TX_SECTION / GUEST_PAGE_SIZE - 2};
	int r;

	if (nic->broken)
		return false;
	if (!transmit_ready(nic)) {
		transmit_flush(nic);
		if (!transmit_ready(nic))
			return false;
	}
	r = channel_receive(nic->channels[nic->serving], &packet);
	if (r == 0)
		return false;
	if (r == 1 || r == -EMSGSIZE || r == -EFAULT)
		take_packet(nic, &packet, r);
	else
		nic_break(nic, nic_channel_lost);
	return !nic->broken;
}

/* Take a channel's packets. True: call again at once. */
static bool take_from(struct nic *nic, unsigned index, unsigned batch)
{
	nic->serving = index;
	for (unsigned n = 0; n < batch && !is_awaited(nic); n++)
		if (!take_next(nic))
			return false;
	return true;
}

/* What each channel has of a round. */
static unsigned batch_each(const struct nic *nic)
{
	unsigned channels = 0;

	for (unsigned i = 0; i < NIC_CHANNELS_MAX; i++)
		channels += nic->channels[i] != NULL;
	return (unsigned)max_u64(TAKE_BATCH / channels, TAKE_LEAST);
}

static bool take_packets(struct nic *nic)
{
	const unsigned first = nic->turn, batch = batch_each(nic);
	bool more = false;

	if (!transmit_ready(nic)) {
		transmit_flush(nic);
		if (!transmit_ready(nic))
			return false;
	}
	/* Where the port is slow, each channel has its turn at the room that there is. */
	for (unsigned n = 0; n < NIC_CHANNELS_MAX; n++) {
		unsigned i = (first + n) % NIC_CHANNELS_MAX;

		if (!nic->channels[i])
			continue;
		more |= take_from(nic, i, batch);
		if (!transmit_ready(nic)) {
			nic->turn = (i + 1) % NIC_CHANNELS_MAX;
			break;
		}
	}
	nic->serving = 0;
	return more;
}

/* --- the thread ----------------------------------------------------------------------------------------------- */

static void drain_event(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

static void wait_for_work(struct nic *nic, bool more)
{
	const struct port *port = nic_port(nic);
	short events = 0;
	struct pollfd fds[2 + NIC_CHANNELS_MAX] = {{.fd = nic->wake, .events = POLLIN}};
	unsigned count = 2;

	if (!nic->broken && port && receive_ready(nic))
		events |= POLLIN;
	if (!nic->broken && port && (nic->tx.blocked || nic->rx.untold))
		events |= POLLOUT;
	nic->readable = false;
	fds[1] = (struct pollfd){.fd = events ? port_fd(port) : -1, .events = events};
	for (unsigned i = 0; i < NIC_CHANNELS_MAX && !nic->broken; i++)
		if (nic->channels[i])
			fds[count++] = (struct pollfd){.fd = channel_event_fd(nic->channels[i]), .events = POLLIN};
	if (poll(fds, count, more ? 0 : nic->late ? LATE_MS : -1) <= 0)
		return;
	if (fds[0].revents)
		drain_event(nic->wake);
	nic->readable = fds[1].revents & (POLLIN | POLLERR | POLLHUP);
	if (fds[1].revents & (POLLOUT | POLLERR | POLLHUP))
		nic->tx.blocked = false;
	for (unsigned i = 2; i < count; i++)
		if (fds[i].revents)
			drain_event(fds[i].fd);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void hold_signals(struct nic *nic)
{
	for (unsigned i = 0; i < NIC_CHANNELS_MAX; i++)
		if (nic->channels[i])
			channel_hold_signal(nic->channels[i]);
}

static void release_signals(struct nic *nic)
{
	for (unsigned i = 0; i < NIC_CHANNELS_MAX; i++)
		if (nic->channels[i])
			channel_release_signal(nic->channels[i]);
}

static void tell_guest(struct nic *nic)
{
	release_signals(nic);
	nic->late = 0;
	nic->late_since = 0;
	nic->prompt = false;
}

/* Each interrupt costs the guest more than a frame does, and it has sent what is answered already: that may come with something else. */
static void end_round(struct nic *nic)
{
	uint64_t now = nic->late ? now_ns() : 0;

	if (nic->late && !nic->late_since)
		nic->late_since = now;
	if (nic->prompt || nic->broken || nic->late == 0 || nic->late >= LATE_MAX || now - nic->late_since >= LATE_MS * 1000000ull)
		tell_guest(nic);
}

/* Another port, or none. */
static void replug(struct nic *nic)
{
	struct network *network = nic->network;
	struct port *old;

	if (!atomic_load(&network->replug))
		return;
	pthread_mutex_lock(&network->lock);
	old = network->port;
	network->port = network->next;
	network->next = old;
	nic->port_gone = false;
	nic->tx.blocked = false;
	/* A cable was pulled: what it was to carry is lost, and the guest sees it. */
	transmit_abandon(nic);
	if (nic->rndis.initialized && nic->link)
		rndis_indicate_link(nic, false);
	nic->link = false;
	if (nic->network->port)
		receive_choose_offloads(nic);
	atomic_store(&network->replug, false);
	pthread_cond_broadcast(&network->plugged);
	pthread_mutex_unlock(&network->lock);
}

/* Sub-channels that the guest has opened or closed. With the adapter's lock held. */
static bool take_subs(struct nic *nic)
{
	struct network *network = nic->network;

	if (!atomic_exchange(&network->subs_changed, false))
		return false;
	for (unsigned i = 1; i < NIC_CHANNELS_MAX; i++) {
		if (nic->channels[i] && !network->subs[i].open && !nic->broken)
			transmit_leave(nic, i);
		nic->channels[i] = network->subs[i].open ? network->subs[i].channel : NULL;
	}
	pthread_cond_broadcast(&network->plugged);
	return true;
}

static bool look_at_subs(struct nic *nic)
{
	bool changed;

	if (!atomic_load(&nic->network->subs_changed))
		return false;
	pthread_mutex_lock(&nic->network->lock);
	changed = take_subs(nic);
	pthread_mutex_unlock(&nic->network->lock);
	return changed;
}

/* Until it is let go on, or has to end; meanwhile the bus may close a sub-channel, and waits until it is let go of. True: there
 * may be packets. */
static bool rest(struct nic *nic)
{
	struct network *network = nic->network;

	if (!atomic_load(&network->paused))
		return false;
	/* What was restored waits for channels that are opened meanwhile. */
	if (!nic->broken && nic->began)
		transmit_abandon(nic);
	receive_abandon(nic);
	tell_guest(nic);
	pthread_mutex_lock(&network->lock);
	nic->rests = true;
	pthread_cond_broadcast(&network->plugged);
	while (atomic_load(&network->paused) && !atomic_load(&nic->stop))
		if (!take_subs(nic))
			pthread_cond_wait(&network->plugged, &network->lock);
	nic->rests = false;
	pthread_mutex_unlock(&network->lock);
	return true;
}

static void announce_link(struct nic *nic)
{
	bool up = nic_port(nic) != NULL;

	if (nic->rndis.initialized && up != nic->link) {
		rndis_indicate_link(nic, up);
		nic->link = up;
	}
}

static bool receive_round(struct nic *nic)
{
	bool more = nic->readable;

	receive_replies(nic);
	for (unsigned i = 0; i < RECEIVE_ROUNDS && more && !nic->broken; i++)
		more = receive_ready(nic) && receive_frames(nic);
	return more;
}

/* A driver whose device is taken away waits for the answers to what it has sent: Linux for ever. The frames are lost. What was
 * saved is left as it is, for whoever goes on with it. */
static void finish(struct nic *nic)
{
	bool gone = nic->port_gone;
	unsigned n = 0;

	if (!atomic_load(&nic->network->removed) || nic->broken || atomic_load(&nic->network->paused))
		return;
	look_at_subs(nic);
	nic->port_gone = true;
	transmit_abandon(nic);
	for (nic->serving = 0; nic->serving < NIC_CHANNELS_MAX; nic->serving++)
		while (nic->channels[nic->serving] && n++ < TAKE_LAST && take_next(nic))
			;
	nic->serving = 0;
	transmit_flush(nic);
	receive_replies(nic);
	tell_guest(nic);
	nic->port_gone = gone;
}

static void *nic_main(void *arg)
{
	struct nic *nic = arg;
	bool more = true, held_up; /* there may be packets from before we listened */
	char name[16];

	snprintf(name, sizeof(name), "%.15s", nic->network->name);
	thread_begin(THREAD_NETWORK, name);
	while (!atomic_load(&nic->stop)) {
		wait_for_work(nic, more);
		more = rest(nic);
		/* What was saved meanwhile is another's now. */
		if (atomic_load(&nic->stop))
			break;
		replug(nic);
		more |= look_at_subs(nic);
		nic->began = true;
		hold_signals(nic);
		if (!nic->broken) {
			if (nic->rx.untold && !nic->tx.blocked)
				receive_choose_offloads(nic);
			transmit_flush(nic);
			more |= receive_round(nic);
			more |= take_packets(nic);
			held_up = !transmit_ready(nic);
			transmit_flush(nic);
			more |= held_up && transmit_ready(nic);
			announce_link(nic); /* also of a port that was lost in this round */
			receive_replies(nic);
		}
		end_round(nic);
		nic_count(&nic->network->count.rounds, 1);
	}
	finish(nic);
	return NULL;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

void nic_wake(struct nic *nic)
{
	uint64_t one = 1;

	if (write(nic->wake, &one, sizeof(one)) < 0)
		log_write(LOG_LEVEL_ERROR, "%s: cannot wake the adapter's thread: %m", nic->network->name);
}

int nic_start(struct nic **out, struct network *network, struct channel *channel, struct error *err)
{
	struct nic *nic = calloc(1, sizeof(*nic));
	int r;

	if (!nic)
		return error_set(err, ENOMEM, "no memory for a network channel");
	nic->network = network;
	nic->channels[0] = channel;
	nic->mtu = NETWORK_MTU;
	memcpy(nic->rndis.mac, network->mac, sizeof(nic->rndis.mac));
	nic->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nic->wake < 0) {
		r = error_set(err, errno, "cannot make an eventfd for a network channel: %m");
		free(nic);
		return r;
	}
	r = network->restored ? nic_restore(nic, network->restored) : 0;
	saved_nic_free(network->restored);
	network->restored = NULL;
	if (r) {
		error_set(err, -r, "what was saved of a network channel does not fit its guest's memory");
		receive_drop_buffer(&nic->rx);
		transmit_drop_buffer(&nic->tx);
		nic_free(nic);
		return r;
	}
	receive_choose_offloads(nic);
	r = -pthread_create(&nic->thread, NULL, nic_main, nic);
	if (r < 0) {
		error_set(err, -r, "cannot start the thread of a network channel: %s", strerror(-r));
		receive_drop_buffer(&nic->rx);
		transmit_drop_buffer(&nic->tx);
		nic_free(nic);
		return r;
	}
	*out = nic;
	return 0;
}

void nic_stop(struct nic *nic)
{
	pthread_mutex_lock(&nic->network->lock);
	atomic_store(&nic->stop, true);
	pthread_cond_broadcast(&nic->network->plugged);
	pthread_mutex_unlock(&nic->network->lock);
	nic_wake(nic);
	pthread_join(nic->thread, NULL);
	receive_drop_buffer(&nic->rx);
	transmit_drop_buffer(&nic->tx);
	if (nic_port(nic))
		port_set_receive(nic_port(nic), 0);
}

void nic_free(struct nic *nic)
{
	close(nic->wake);
	free(nic);
}
