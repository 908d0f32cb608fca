// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scaling.c - receive-side scaling: the guest spreads flows over its channels, and so over its processors.
 *
 * Source: "Introduction to Receive Side Scaling", NDIS_RECEIVE_SCALE_PARAMETERS (NDIS); Linux drivers/net/hyperv/{rndis_filter.c,hyperv_net.h}.
 */
#include <string.h>

#include "vsp/network/nic.h"

#define HASHED_MAX 36u /* two IPv6 addresses and ports */

uint32_t scaling_toeplitz(const uint8_t key[SCALING_KEY_SIZE], const uint8_t *bytes, size_t size)
{
	uint64_t window = (uint64_t)be32_get(key) << 32 | be32_get(key + 4);
	uint32_t hash = 0;

	for (size_t i = 0; i < size; i++) {
		for (unsigned bit = 8; bit-- > 0;) {
			hash ^= (uint32_t)(window >> 32) & -(uint32_t)(bytes[i] >> bit & 1);
			window <<= 1;
		}
		/* Eight bits of the key have gone out at the top; the next come in below. */
		if (i + 8 < SCALING_KEY_SIZE)
			window |= key[i + 8];
	}
	return hash;
}

/* What is hashed of a frame; 0: nothing. */
static size_t hashed_bytes(const struct scaling *s, const uint8_t *headers, const struct frame_layout *layout, uint8_t bytes[HASHED_MAX])
{
	bool tcp = layout->protocol == FRAME_PROTOCOL_TCP && layout->transport;
	size_t size = layout->ipv4 ? 8 : 32;

	if (layout->ipv4)
		memcpy(bytes, headers + layout->ip + 12, size);
	else if (layout->ipv6)
		memcpy(bytes, headers + layout->ip + 8, size);
	else
		return 0;
	if (tcp && s->hash & (layout->ipv4 ? NDIS_HASH_TCP4 : NDIS_HASH_TCP6)) {
		memcpy(bytes + size, headers + layout->transport, 4);
		return size + 4;
	}
	return s->hash & (layout->ipv4 ? NDIS_HASH_IP4 : NDIS_HASH_IP6) ? size : 0;
}

unsigned scaling_channel(const struct scaling *s, const uint8_t *headers, const struct frame_layout *layout)
{
	uint8_t bytes[HASHED_MAX];
	size_t size;

	if (!s->on)
		return 0;
	size = hashed_bytes(s, headers, layout, bytes);
	return size ? s->table[scaling_toeplitz(s->key, bytes, size) % s->table_size] : 0;
}

static bool read_table(struct scaling *s, const struct ndis_rss_parameters *p, const uint8_t *value, size_t size)
{
	if (p->table_size < 4 || p->table_size > SCALING_TABLE_MAX * 4 || p->table_size % 4 || !range_fits_u64(p->table_offset, p->table_size, size))
		return false;
	for (size_t i = 0; i < p->table_size / 4u; i++) {
		uint32_t channel = le32_get(value + p->table_offset + i * 4);

		if (channel >= NIC_CHANNELS_MAX)
			return false;
		s->table[i] = (uint8_t)channel;
	}
	s->table_size = p->table_size / 4u;
	return true;
}

static bool read_key(struct scaling *s, const struct ndis_rss_parameters *p, const uint8_t *value, size_t size)
{
	if (p->key_size != SCALING_KEY_SIZE || !range_fits_u64(p->key_offset, p->key_size, size))
		return false;
	memcpy(s->key, value + p->key_offset, SCALING_KEY_SIZE);
	return true;
}

/* What a flag keeps, or switching it off leaves alone, is not looked at: it may be anything. */
uint32_t scaling_set(struct scaling *scaling, const uint8_t *value, size_t size)
{
	struct scaling new = *scaling;
	struct ndis_rss_parameters p;

	if (size < sizeof(p))
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, value, sizeof(p));
	if (p.type != NDIS_OBJECT_RSS_PARAMETERS)
		return RNDIS_STATUS_INVALID_DATA;
	if (!(p.flags & NDIS_RSS_KEEP_HASH))
		new.hash = p.hash;
	if (p.flags & NDIS_RSS_DISABLE || !(new.hash & NDIS_HASH_FUNCTION)) {
		scaling->on = false;
		return RNDIS_STATUS_SUCCESS;
	}
	if ((new.hash & NDIS_HASH_FUNCTION) != NDIS_HASH_TOEPLITZ)
		return RNDIS_STATUS_NOT_SUPPORTED;
	if (!(p.flags & NDIS_RSS_KEEP_TABLE) && !read_table(&new, &p, value, size))
		return RNDIS_STATUS_INVALID_DATA;
	if (!(p.flags & NDIS_RSS_KEEP_KEY) && !read_key(&new, &p, value, size))
		return RNDIS_STATUS_INVALID_DATA;
	if (!new.table_size) /* it keeps one that it never had */
		return RNDIS_STATUS_INVALID_DATA;
	new.on = true;
	*scaling = new;
	return RNDIS_STATUS_SUCCESS;
}
