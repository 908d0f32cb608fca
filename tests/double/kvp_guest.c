// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/double/kvp_guest.h"

#include <stdio.h>
#include <string.h>

static const struct guid interface = GUID_INIT(0xa9a0f4e7, 0x5a45, 0x4d96, 0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6);

int kvp_guest_open(struct kvp_guest *g, struct guest *guest)
{
	const struct vmbus_message_offer *offer = guest_find_offer(guest, &interface, 0);

	/* As many pages as Linux has. */
	return offer ? guest_open(guest, offer, 4, 4, NULL, &g->channel) : -1;
}

uint32_t kvp_guest_text(uint8_t *to, size_t room, const char *text)
{
	size_t n = strlen(text) + 1;

	if (n > room / 2)
		n = room / 2;
	for (size_t i = 0; i < n; i++) {
		to[2 * i] = (uint8_t)text[i];
		to[2 * i + 1] = 0;
	}
	return (uint32_t)(2 * n);
}

static bool negotiate(struct kvp_guest *g, struct kvp_message *m)
{
	struct ic_negotiate *body = (void *)m->body;
	struct ic_version *versions = (void *)(m->body + sizeof(*body)), wanted = g->version.major ? g->version : (struct ic_version){4, 0};
	bool found = false;

	for (unsigned i = 0; i < body->message_count; i++)
		found |= !memcmp(&versions[body->framework_count + i], &wanted, sizeof(wanted));
	g->negotiations++;
	body->framework_count = body->message_count = found;
	versions[0] = (struct ic_version){3, 0};
	versions[1] = wanted;
	return true;
}

static bool answer_item(struct kvp_guest *g, struct kvp_message *m)
{
	const struct kvp_pair *pair = g->items;

	g->items_asked++;
	if (m->header.size != sizeof(m->item) || m->item.pool != KVP_POOL_AUTO)
		return false;
	for (uint32_t i = 0; pair && pair->key && i < m->item.index; i++)
		pair++;
	if (!pair || !pair->key) {
		m->header.status = KVP_STATUS_NO_MORE_ITEMS;
		return true;
	}
	m->item.item.type = KVP_VALUE_STRING;
	m->item.item.key_size = kvp_guest_text(m->item.item.key, sizeof(m->item.item.key), pair->key);
	m->item.item.value_size = kvp_guest_text(m->item.item.value, sizeof(m->item.item.value), pair->value);
	return true;
}

static bool answer_addresses(struct kvp_guest *g, struct kvp_message *m)
{
	uint8_t wanted[2 * KVP_ADAPTER_UNITS];

	g->addresses_asked++;
	if (m->header.size != sizeof(m->addresses))
		return false;
	for (const struct kvp_pair *pair = g->adapters; pair && pair->key; pair++) {
		memset(wanted, 0, sizeof(wanted));
		kvp_guest_text(wanted, sizeof(wanted), pair->key);
		if (memcmp(wanted, m->addresses.adapter, sizeof(wanted)))
			continue;
		kvp_guest_text(m->addresses.addresses, sizeof(m->addresses.addresses), pair->value);
		return true;
	}
	m->header.status = KVP_GUEST_FAILED;
	return true;
}

static bool answer(struct kvp_guest *g, struct kvp_message *m, size_t size)
{
	bool good;

	if (m->header.type == IC_NEGOTIATE)
		good = negotiate(g, m);
	else if (m->header.type == IC_KVP_EXCHANGE && m->item.operation == KVP_ENUMERATE)
		good = answer_item(g, m);
	else if (m->header.type == IC_KVP_EXCHANGE && m->item.operation == KVP_GET_IP_INFO)
		good = answer_addresses(g, m);
	else
		good = false;
	if (g->status && m->header.type == IC_KVP_EXCHANGE)
		m->header.status = g->status;
	m->header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	if (g->lie)
		g->lie(g, m, &size);
	return size == 0 || (guest_send(g->channel, VMBUS_PACKET_IN_BAND, 0, 0, m, size) == 0 && good);
}

bool kvp_guest_serve(struct kvp_guest *g)
{
	struct vmbus_packet_header header;
	struct kvp_message m;
	int size;

	while (!g->dead && (size = guest_try_receive(g->channel, &header, &m, sizeof(m))) >= 0) {
		if (size < (int)(sizeof(m.pipe) + sizeof(m.header)) || m.header.flags != (IC_FLAG_TRANSACTION | IC_FLAG_REQUEST))
			return false;
		if (!answer(g, &m, (size_t)size))
			return false;
	}
	return true;
}
