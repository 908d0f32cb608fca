// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * meter.c - how much of what goes through an adapter goes to whom.
 *
 * The adapter's thread counts, the control thread sets and reads; without rules the first looks at one flag. Headers are our own copy,
 * and what they say of themselves has been looked at by frame_parse().
 *
 * Source: RFC 791, RFC 8200 for where addresses lie.
 */
#include <errno.h>
#include <string.h>

#include "vsp/network/nic.h"

#define IPV4_SIZE 20u
#define IPV6_SIZE 40u

struct network_meter {
	pthread_mutex_t lock; /* of all but the flag */
	atomic_bool on;
	struct network_meter_rule *rules;
	unsigned count;
	struct network_counters kept;
};

struct network_meter *network_meter_create(void)
{
	struct network_meter *meter = calloc(1, sizeof(*meter));

	if (meter)
		pthread_mutex_init(&meter->lock, NULL);
	return meter;
}

void network_meter_destroy(struct network_meter *meter)
{
	if (!meter)
		return;
	pthread_mutex_destroy(&meter->lock);
	free(meter->rules);
	free(meter);
}

static bool is_same(const struct network_meter_rule *a, const struct network_meter_rule *b)
{
	return a->inbound == b->inbound && a->kind == b->kind && a->length == b->length && !memcmp(a->address, b->address, sizeof(a->address));
}

int network_meter_set(struct network_meter *meter, const struct network_meter_rule *rules, unsigned count)
{
	struct network_meter_rule *copy = calloc(count + 1u, sizeof(*copy)), *old;

	if (!copy)
		return -ENOMEM;
	pthread_mutex_lock(&meter->lock);
	for (unsigned i = 0; i < count; i++) {
		copy[i] = rules[i];
		copy[i].bytes = 0;
		for (unsigned k = 0; k < meter->count; k++)
			if (is_same(&copy[i], &meter->rules[k]))
				copy[i].bytes = meter->rules[k].bytes;
	}
	old = meter->rules;
	meter->rules = copy;
	meter->count = count;
	atomic_store(&meter->on, count > 0);
	pthread_mutex_unlock(&meter->lock);
	free(old);
	return 0;
}

unsigned network_meter_get(struct network_meter *meter, struct network_meter_rule rules[NETWORK_METER_RULES])
{
	unsigned count;

	pthread_mutex_lock(&meter->lock);
	count = meter->count;
	for (unsigned i = 0; i < count; i++)
		rules[i] = meter->rules[i];
	pthread_mutex_unlock(&meter->lock);
	return count;
}

void network_meter_get_kept(struct network_meter *meter, struct network_counters *out)
{
	pthread_mutex_lock(&meter->lock);
	*out = meter->kept;
	pthread_mutex_unlock(&meter->lock);
}

void meter_keep(struct network_meter *meter, const struct network_counters *c)
{
	pthread_mutex_lock(&meter->lock);
	meter->kept.sent_frames += c->sent_frames;
	meter->kept.sent_bytes += c->sent_bytes;
	meter->kept.sent_dropped += c->sent_dropped;
	meter->kept.received_frames += c->received_frames;
	meter->kept.received_bytes += c->received_bytes;
	meter->kept.received_dropped += c->received_dropped;
	pthread_mutex_unlock(&meter->lock);
}

bool meter_is_on(struct network_meter *meter)
{
	return meter && atomic_load_explicit(&meter->on, memory_order_relaxed);
}

static bool has_prefix(const uint8_t *address, const uint8_t *prefix, unsigned length)
{
	unsigned rest = length % 8;

	if (memcmp(address, prefix, length / 8))
		return false;
	return rest == 0 || (address[length / 8] ^ prefix[length / 8]) >> (8 - rest) == 0;
}

/* How special the rule is of those that the frame fits; 0: it does not fit. `remote` is the IP address of the other end. */
static unsigned fit(const struct network_meter_rule *rule, const uint8_t *mac, const struct frame_layout *layout, const uint8_t *remote)
{
	switch (rule->kind) {
	case NETWORK_REMOTE_ANY:
		return 1;
	case NETWORK_REMOTE_MAC:
		return memcmp(rule->address, mac, FRAME_MAC_SIZE) ? 0 : 1000;
	case NETWORK_REMOTE_IPV4:
		return layout->ipv4 && has_prefix(remote, rule->address, rule->length) ? rule->length + 2 : 0;
	case NETWORK_REMOTE_IPV6:
		return layout->ipv6 && has_prefix(remote, rule->address, rule->length) ? rule->length + 2 : 0;
	}
	return 0;
}

void meter_count(struct network_meter *meter, bool inbound, const uint8_t *headers, const struct frame_layout *layout, size_t available, size_t bytes)
{
	struct network_meter_rule *best = NULL;
	unsigned special = 0;
	const uint8_t *mac = headers + (inbound ? FRAME_MAC_SIZE : 0), *remote;

	if ((!layout->ipv4 && !layout->ipv6) || layout->ip + (layout->ipv4 ? IPV4_SIZE : IPV6_SIZE) > available)
		return;
	remote = headers + layout->ip + (layout->ipv4 ? (inbound ? 12 : 16) : (inbound ? 8 : 24));
	pthread_mutex_lock(&meter->lock);
	for (unsigned i = 0; i < meter->count; i++) {
		unsigned n = meter->rules[i].inbound == inbound ? fit(&meter->rules[i], mac, layout, remote) : 0;

		if (n > special) {
			special = n;
			best = &meter->rules[i];
		}
	}
	if (best)
		best->bytes += bytes;
	pthread_mutex_unlock(&meter->lock);
}
