// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * saved.c - an adapter at rest, out of its state and into another.
 *
 * Frames on their way are lost, as on any network: what is saved is what driver and provider have agreed on, which parts of the
 * receive buffer the guest still holds, and answers that it waits for.
 */
#include <errno.h>
#include <string.h>

#include "vsp/network/nic.h"

#define NETWORK_SECTION         "network"
#define NETWORK_SECTION_VERSION 2u

static const struct form_field network_fields[] = {
    FORM_ARRAY(struct saved_nic, permanent_mac),
    FORM_FLAG(struct saved_nic, open),
    FORM_FIELD(struct saved_nic, version),
    FORM_FIELD(struct saved_nic, ndis_minor),
    FORM_FIELD(struct saved_nic, mtu),
    FORM_FLAG(struct saved_nic, vlan),
    FORM_FLAG(struct saved_nic, link),
    FORM_FLAG(struct saved_nic, rndis.initialized),
    FORM_FIELD(struct saved_nic, rndis.filter),
    FORM_ARRAY(struct saved_nic, rndis.mac),
    FORM_FIELD(struct saved_nic, rndis.multicast_count),
    FORM_FLAG(struct saved_nic, rndis.tcp4),
    FORM_FLAG(struct saved_nic, rndis.udp4),
    FORM_FLAG(struct saved_nic, rndis.tcp6),
    FORM_FLAG(struct saved_nic, rndis.udp6),
    FORM_FLAG(struct saved_nic, rndis.rsc4),
    FORM_FLAG(struct saved_nic, rndis.rsc6),
    FORM_FLAG(struct saved_nic, has_receive_buffer),
    FORM_FIELD(struct saved_nic, receive_handle),
    FORM_FIELD(struct saved_nic, receive_id),
    FORM_FIELD(struct saved_nic, section_size),
    FORM_FIELD(struct saved_nic, packet_id),
    FORM_FLAG(struct saved_nic, has_send_buffer),
    FORM_FIELD(struct saved_nic, send_handle),
    FORM_FIELD(struct saved_nic, send_id),
};

struct saved_completion {
	uint64_t transaction_id;
	uint32_t status;
};

static const struct form_field completion_fields[] = {
    FORM_FIELD(struct saved_completion, transaction_id),
    FORM_FIELD(struct saved_completion, status),
};

/* From version 2 on, behind all that was there before. */
static const struct form_field scaling_fields[] = {
    FORM_FIELD(struct saved_nic, sub_count),
    FORM_FLAG(struct saved_nic, scaling.on),
    FORM_FIELD(struct saved_nic, scaling.hash),
    FORM_FIELD(struct saved_nic, scaling.table_size),
    FORM_ARRAY(struct saved_nic, scaling.table),
    FORM_ARRAY(struct saved_nic, scaling.key),
};

#define SAVED_COMPLETION_SIZE 12u
#define SAVED_HEAD            0x10000u /* a section that begins a packet */

/* --- rest --------------------------------------------------------------------------------------- */

void network_pause(struct network *network)
{
	pthread_mutex_lock(&network->lock);
	atomic_store(&network->paused, true);
	if (network->nic)
		nic_wake(network->nic);
	while (network->nic && !network->nic->rests)
		pthread_cond_wait(&network->plugged, &network->lock);
	pthread_mutex_unlock(&network->lock);
}

void network_resume(struct network *network)
{
	pthread_mutex_lock(&network->lock);
	atomic_store(&network->paused, false);
	pthread_cond_broadcast(&network->plugged);
	pthread_mutex_unlock(&network->lock);
}

/* --- saving --------------------------------------------------------------------------------------- */

static void take_fields(const struct nic *nic, struct saved_nic *s)
{
	s->open = true;
	s->version = atomic_load(&nic->version);
	s->ndis_minor = nic->ndis_minor;
	s->mtu = nic->mtu;
	s->vlan = nic->vlan;
	s->link = nic->link;
	s->rndis = nic->rndis;
	s->scaling = nic->scaling;
	s->sub_count = network_sub_count(nic->network);
	s->has_receive_buffer = nic->rx.gpadl;
	s->receive_handle = nic->rx.handle;
	s->receive_id = nic->rx.set_id;
	s->section_size = nic->rx.section_size;
	s->packet_id = nic->rx.packet_id;
	s->has_send_buffer = nic->tx.gpadl;
	s->send_handle = nic->tx.handle;
	s->send_id = nic->tx.id;
}

/* Sections that the guest has, packet by packet. */
static void save_sections(const struct receive *rx, struct form_writer *w)
{
	uint32_t count = rx->section_count - rx->free_count;

	form_put32(w, count);
	for (unsigned i = 0; i < rx->section_count; i++) {
		if (!rx->head[i])
			continue;
		form_put32(w, i | SAVED_HEAD);
		for (unsigned k = rx->next[i]; k != RX_NO_SECTION; k = rx->next[k])
			form_put32(w, k);
	}
}

static void save_answers(const struct nic *nic, struct form_writer *w)
{
	const struct transmit *tx = &nic->tx;
	uint32_t count = 0;

	for (unsigned i = tx->packet_first; i < tx->packet_count; i++)
		count += tx->packets[i].wanted;
	form_put32(w, count);
	for (unsigned i = tx->packet_first; i < tx->packet_count; i++) {
		struct saved_completion c = {tx->packets[i].transaction_id, tx->packets[i].status};

		if (tx->packets[i].wanted)
			FORM_PUT(w, &c, completion_fields);
	}
	form_put32(w, nic->reply_count);
	for (unsigned i = 0; i < nic->reply_count; i++) {
		unsigned k = (nic->reply_first + i) % NIC_REPLIES;

		form_put32(w, nic->replies[k].size);
		form_put(w, nic->replies[k].bytes, nic->replies[k].size);
	}
}

/* With the channel of each answer that waits. */
static void save_scaling(const struct nic *nic, const struct saved_nic *saved, struct form_writer *w)
{
	const struct transmit *tx = &nic->tx;

	FORM_PUT(w, saved, scaling_fields);
	for (unsigned i = tx->packet_first; i < tx->packet_count; i++)
		if (tx->packets[i].wanted)
			form_put32(w, tx->packets[i].channel);
}

void network_save(struct network *network, struct form_writer *w, unsigned number)
{
	size_t section = form_section_begin(w, NETWORK_SECTION, number, NETWORK_SECTION_VERSION);
	struct saved_nic saved = {.open = false};
	const struct nic *nic;

	pthread_mutex_lock(&network->lock);
	nic = network->nic;
	memcpy(saved.permanent_mac, network->mac, sizeof(saved.permanent_mac));
	if (nic)
		take_fields(nic, &saved);
	FORM_PUT(w, &saved, network_fields);
	if (nic) {
		form_put(w, nic->rndis.multicast, (size_t)nic->rndis.multicast_count * FRAME_MAC_SIZE);
		save_sections(&nic->rx, w);
		save_answers(nic, w);
		save_scaling(nic, &saved, w);
	}
	pthread_mutex_unlock(&network->lock);
	form_section_end(w, section);
}

/* --- loading ---------------------------------------------------------------------------------------- */

static void load_answers(struct form_reader *r, struct saved_nic *s)
{
	s->completion_count = form_get_count(r, TX_PACKETS, SAVED_COMPLETION_SIZE, "it has more answers than can wait");
	for (uint32_t i = 0; i < s->completion_count; i++) {
		struct saved_completion c = {0};

		FORM_GET(r, &c, completion_fields);
		s->completions[i].transaction_id = c.transaction_id;
		s->completions[i].status = c.status;
	}
	s->reply_count = form_get_count(r, NIC_REPLIES, 4, "it has more messages than can wait");
	for (uint32_t i = 0; i < s->reply_count; i++) {
		const uint8_t *bytes;

		s->replies[i].size = form_get32(r);
		if (s->replies[i].size > NIC_REPLY_MAX)
			form_bad(r, "a message that waits is too long");
		bytes = r->bad ? NULL : form_take(r, s->replies[i].size);
		if (bytes)
			memcpy(s->replies[i].bytes, bytes, s->replies[i].size);
	}
}

static void load_scaling(struct form_reader *r, struct saved_nic *s)
{
	FORM_GET(r, s, scaling_fields);
	for (uint32_t i = 0; i < s->completion_count; i++) {
		s->completions[i].channel = form_get32(r);
		if (s->completions[i].channel >= NIC_CHANNELS_MAX)
			form_bad(r, "an answer waits for a channel that cannot be");
	}
	if (s->sub_count >= NIC_CHANNELS_MAX || s->scaling.table_size > SCALING_TABLE_MAX || (s->scaling.on && !s->scaling.table_size))
		form_bad(r, "it has more channels than there can be, or a wrong table of them");
	for (unsigned i = 0; i < SCALING_TABLE_MAX; i++)
		if (s->scaling.table[i] >= NIC_CHANNELS_MAX)
			form_bad(r, "its table has a channel that cannot be");
}

static void load_channel(struct form_reader *r, struct saved_nic *s)
{
	const uint8_t *multicast;

	if (s->rndis.multicast_count > NIC_MULTICAST_MAX)
		form_bad(r, "it has too many multicast addresses");
	multicast = r->bad ? NULL : form_take(r, (size_t)s->rndis.multicast_count * FRAME_MAC_SIZE);
	if (multicast)
		memcpy(s->rndis.multicast, multicast, (size_t)s->rndis.multicast_count * FRAME_MAC_SIZE);
	s->held_count = form_get_count(r, RX_NO_SECTION - 1, 4, "the guest holds more sections than there can be");
	s->held = calloc(s->held_count ? s->held_count : 1, sizeof(*s->held));
	if (!s->held)
		form_bad(r, "no memory for it");
	for (uint32_t i = 0; i < s->held_count && !r->bad; i++)
		s->held[i] = form_get32(r);
	if (!r->bad)
		load_answers(r, s);
	if (!r->bad && r->version >= 2)
		load_scaling(r, s);
}

static void check(struct form_reader *r, const struct saved_nic *s)
{
	if (s->version && !nvsp_version_known(s->version))
		form_bad(r, "no such version of the network protocol");
	if (s->mtu < NETWORK_MTU || s->mtu > NETWORK_MTU_MAX)
		form_bad(r, "no such length of frames");
	if (s->has_receive_buffer && !receive_section_size_good(s->section_size, s->mtu))
		form_bad(r, "no such size of sections of the receive buffer");
	if (!s->has_receive_buffer && s->held_count)
		form_bad(r, "sections are in use of a receive buffer that is not there");
}

int network_load(struct network *network, struct form_reader *whole, unsigned number, struct error *err)
{
	struct form_reader r = form_section(whole, NETWORK_SECTION, number, NETWORK_SECTION_VERSION);
	struct saved_nic *s = calloc(1, sizeof(*s));
	bool same;

	if (!s)
		return error_set(err, ENOMEM, "no memory for a network adapter");
	FORM_GET(&r, s, network_fields);
	if (s->open && !r.bad)
		load_channel(&r, s);
	if (s->open && !r.bad)
		check(&r, s);
	same = !memcmp(s->permanent_mac, network->mac, sizeof(s->permanent_mac));
	form_section_done(whole, &r);
	if (r.bad || whole->bad || !same || !s->open) {
		saved_nic_free(s);
		return whole->bad || same ? 0
					  : error_set(err, EINVAL, "%s: the guest knows another address: give the machine the adapters that it had",
						network->name);
	}
	network->restored = s;
	if (s->sub_count >= network->channel_max)
		return error_set(err, EINVAL, "%s: the guest knows %u channels and there can be %u: give the machine as many processors as it had",
		    network->name, s->sub_count + 1, network->channel_max);
	if (network_offer_subs(network, s->sub_count) < s->sub_count)
		return error_set(err, ENOSPC, "%s: its channels cannot be offered again", network->name);
	return 0;
}

void saved_nic_free(struct saved_nic *s)
{
	if (s)
		free(s->held);
	free(s);
}

/* --- into an open channel --------------------------------------------------------------------------------- */

/* Sections go to the guest in the order of the list; what is not in it is free. False: they cannot be. */
static bool hold_sections(struct receive *rx, const struct saved_nic *s)
{
	bool *taken = calloc(rx->section_count, sizeof(*taken));
	unsigned last = RX_NO_SECTION;
	bool good = taken;

	for (uint32_t i = 0; i < s->held_count && good; i++) {
		uint32_t section = s->held[i] & (SAVED_HEAD - 1);
		bool head = s->held[i] & SAVED_HEAD;

		good = section < rx->section_count && !taken[section] && (head || last != RX_NO_SECTION);
		if (!good)
			break;
		taken[section] = true;
		rx->head[section] = head;
		rx->next[section] = RX_NO_SECTION;
		if (!head)
			rx->next[last] = (uint16_t)section;
		last = section;
	}
	rx->free_count = 0;
	for (unsigned i = rx->section_count; i-- > 0 && good;)
		if (!taken[i])
			rx->free[rx->free_count++] = (uint16_t)i;
	free(taken);
	return good;
}

/* A buffer that the guest is taking back is not lent any more: then it is as if that had been done before. */
static int restore_buffers(struct nic *nic, const struct saved_nic *s)
{
	struct gpadl *gpadl = s->has_receive_buffer ? channel_gpadl(nic->channels[0], s->receive_handle) : NULL;
	int r = 0;

	if (gpadl) {
		r = receive_set_buffer(&nic->rx, gpadl, s->receive_handle, s->receive_id, s->section_size);
		if (r)
			gpadl_release(gpadl);
		else if (!hold_sections(&nic->rx, s))
			r = -EBADMSG;
	}
	gpadl = s->has_send_buffer ? channel_gpadl(nic->channels[0], s->send_handle) : NULL;
	if (gpadl && !r)
		transmit_set_buffer(&nic->tx, gpadl, s->send_handle, s->send_id);
	else if (gpadl)
		gpadl_release(gpadl);
	return r;
}

int nic_restore(struct nic *nic, const struct saved_nic *s)
{
	atomic_store(&nic->version, s->version);
	nic->ndis_minor = s->ndis_minor;
	nic->mtu = s->mtu;
	nic->vlan = s->vlan;
	nic->link = s->link;
	nic->rndis = s->rndis;
	nic->scaling = s->scaling;
	nic->rx.packet_id = s->packet_id;
	for (uint32_t i = 0; i < s->completion_count; i++) {
		nic->tx.packets[i].transaction_id = s->completions[i].transaction_id;
		nic->tx.packets[i].status = s->completions[i].status;
		nic->tx.packets[i].wanted = true;
		nic->tx.packets[i].channel = (uint8_t)s->completions[i].channel;
	}
	nic->tx.packet_count = s->completion_count;
	for (uint32_t i = 0; i < s->reply_count; i++) {
		nic->replies[i].size = s->replies[i].size;
		memcpy(nic->replies[i].bytes, s->replies[i].bytes, s->replies[i].size);
	}
	nic->reply_count = s->reply_count;
	return restore_buffers(nic, s);
}
