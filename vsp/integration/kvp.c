// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvp.c - asks the guest what it says of itself: items of its system, and the addresses of each adapter.
 *
 * In rounds: all items, and the adapters' addresses if something is different than in the round before, as a Linux guest starts some
 * programs to answer that. As long as something changes a round soon follows the last one, else the guest is asked less and less often.
 * A guest with no daemon answers nothing, or that it failed: then nothing is known of it, and it is asked again.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "vsp/integration/ic.h"
#include "vsp/integration/kvp_read.h"

#define ITEMS_MAX 64u /* of one round: whatever the guest says, it comes to an end */
#define SLOWEST   5u /* times the shortest rest between rounds */

static const struct ic_version versions[] = {{3, 0}, {4, 0}};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static const struct integration_options *options_of(const struct kvp *kvp)
{
	return &kvp->ic.integration->options;
}

static void forget(struct kvp *kvp)
{
	memset(&kvp->told, 0, sizeof(kvp->told));
	for (unsigned i = 0; i < kvp->adapter_count; i++)
		kvp->adapters[i].known = false;
	kvp->adapters_changed = true;
}

static void rest(struct kvp *kvp, bool changed)
{
	unsigned shortest = options_of(kvp)->kvp_ms;

	kvp->step = KVP_RESTS;
	kvp->rest_ms = changed || kvp->rest_ms < shortest ? shortest : kvp->rest_ms * 2;
	if (kvp->rest_ms > shortest * SLOWEST)
		kvp->rest_ms = shortest * SLOWEST;
	ic_set_timer(&kvp->ic, kvp->rest_ms, 0);
}

/* --- questions --------------------------------------------------------------------------------------- */

static int ask_item(struct kvp *kvp)
{
	struct kvp_enumerate body = {.operation = KVP_ENUMERATE, .pool = KVP_POOL_AUTO, .index = kvp->index};

	return ic_request(&kvp->ic, &body, sizeof(body));
}

static int ask_addresses(struct kvp *kvp)
{
	struct kvp_ip_info body = {.operation = KVP_GET_IP_INFO, .pool = KVP_POOL_GUEST};
	const uint8_t *mac = kvp->adapters[kvp->index].mac;
	char text[3 * GUEST_MAC_SIZE];

	snprintf(text, sizeof(text), "%02X:%02X:%02X:%02X:%02X:%02X", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	for (unsigned i = 0; text[i]; i++)
		body.adapter[2 * i] = (uint8_t)text[i];
	return ic_request(&kvp->ic, &body, sizeof(body));
}

/* A ring with no room means that the guest does not read: later. */
static void ask(struct kvp *kvp)
{
	int r = kvp->step == KVP_ASKS_ITEMS ? ask_item(kvp) : ask_addresses(kvp);

	if (r)
		rest(kvp, false);
	else
		ic_set_timer(&kvp->ic, options_of(kvp)->kvp_timeout_ms, 0);
}

static void begin_round(struct kvp *kvp)
{
	memset(&kvp->coming, 0, sizeof(kvp->coming));
	kvp->round_ms = now_ms();
	kvp->step = KVP_ASKS_ITEMS;
	kvp->index = 0;
	ask(kvp);
}

/* --- answers ----------------------------------------------------------------------------------------- */

static void confirm_addresses(struct kvp *kvp)
{
	for (unsigned i = 0; i < kvp->adapter_count; i++)
		kvp->adapters[i].asked_ms = kvp->round_ms;
	rest(kvp, false);
}

static void end_items(struct kvp *kvp)
{
	bool same = !memcmp(&kvp->told, &kvp->coming, sizeof(kvp->told));

	kvp->rounds++;
	kvp->told = kvp->coming;
	if (same && !kvp->adapters_changed) {
		confirm_addresses(kvp);
		return;
	}
	kvp->adapters_changed = false;
	if (!kvp->adapter_count || !ic_version_at_least(&kvp->ic, 4, 0)) {
		rest(kvp, !same);
		return;
	}
	kvp->step = KVP_ASKS_ADDRESSES;
	kvp->index = 0;
	ask(kvp);
}

static void take_item(struct kvp *kvp, uint32_t status, const void *body, size_t size)
{
	enum guest_item item;
	char text[GUEST_TEXT_MAX];

	if (status != IC_STATUS_OK && status != KVP_STATUS_NO_MORE_ITEMS) {
		kvp->failures++;
		forget(kvp);
		rest(kvp, false);
		return;
	}
	if (status == IC_STATUS_OK && kvp_read_item(body, size, &item, text)) {
		kvp->coming.known[item] = true;
		memcpy(kvp->coming.text[item], text, strlen(text) + 1);
	}
	if (status == IC_STATUS_OK && ++kvp->index < ITEMS_MAX)
		ask(kvp);
	else
		end_items(kvp);
}

/* If the adapters are others by now the next round asks again. */
static void take_addresses(struct kvp *kvp, uint32_t status, const void *body, size_t size)
{
	struct kvp_adapter *adapter = &kvp->adapters[kvp->index];
	int count = status == IC_STATUS_OK ? kvp_read_addresses(body, size, adapter->addresses, GUEST_ADDRESSES) : -1;

	adapter->known = count >= 0;
	adapter->count = count > 0 ? (unsigned)count : 0;
	adapter->asked_ms = kvp->round_ms;
	if (++kvp->index < kvp->adapter_count)
		ask(kvp);
	else
		rest(kvp, true);
}

/* While it rests: of a question from before it was saved, or whose time was over. */
static void answer(struct ic *ic, uint32_t status, const void *body, size_t size)
{
	struct kvp *kvp = (struct kvp *)ic;

	if (kvp->step == KVP_RESTS)
		rest(kvp, true);
	else if (kvp->step == KVP_ASKS_ITEMS)
		take_item(kvp, status, body, size);
	else
		take_addresses(kvp, status, body, size);
}

/* --- life ------------------------------------------------------------------------------------------ */

static void ready(struct ic *ic)
{
	struct kvp *kvp = (struct kvp *)ic;

	kvp->rest_ms = 0;
	begin_round(kvp);
}

/* A question that was not answered stays the only one, or a guest that hangs would find a queue. */
static void tick(struct ic *ic)
{
	struct kvp *kvp = (struct kvp *)ic;

	if (ic->integration->paused)
		return;
	if (!ic->waiting) {
		begin_round(kvp);
		return;
	}
	kvp->timeouts++;
	kvp->step = KVP_RESTS;
	forget(kvp);
}

static void closed(struct ic *ic)
{
	struct kvp *kvp = (struct kvp *)ic;

	kvp->step = KVP_RESTS;
	forget(kvp);
}

static void inspect(const struct ic *ic, const struct vmbus_inspector *inspector, void *context)
{
	const struct kvp *kvp = (const struct kvp *)ic;

	inspector->number(context, "rounds", kvp->rounds);
	inspector->number(context, "failures", kvp->failures);
	inspector->number(context, "timeouts", kvp->timeouts);
}

const struct ic_service kvp_service = {
    .name = "key-value pairs",
    .interface = GUID_INIT(0xa9a0f4e7, 0x5a45, 0x4d96, 0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6),
    .instance = GUID_INIT(0x242ff919, 0x07db, 0x4180, 0x9c, 0x2e, 0xb8, 0x6c, 0xb6, 0x8c, 0x8c, 0x55),
    .type = IC_KVP_EXCHANGE,
    .versions = versions,
    .version_count = ARRAY_SIZE(versions),
    .ready = ready,
    .answer = answer,
    .tick = tick,
    .closed = closed,
    .inspect = inspect,
};

void kvp_resumed(struct kvp *kvp)
{
	if (kvp->ic.state != IC_READY)
		return;
	if (kvp->step != KVP_RESTS)
		ic_set_timer(&kvp->ic, options_of(kvp)->kvp_timeout_ms, 0);
	else if (!kvp->ic.waiting)
		rest(kvp, true);
}

/* --- what others see ----------------------------------------------------------------------------------- */

bool integration_item(struct integration *integration, enum guest_item item, char text[GUEST_TEXT_MAX])
{
	const struct kvp *kvp = &integration->kvp;
	bool known;

	pthread_mutex_lock(&integration->lock);
	known = kvp->told.known[item];
	memcpy(text, kvp->told.text[item], GUEST_TEXT_MAX);
	pthread_mutex_unlock(&integration->lock);
	return known;
}

static struct kvp_adapter *find(struct kvp_adapter *list, unsigned count, const uint8_t *mac)
{
	for (unsigned i = 0; i < count; i++)
		if (!memcmp(list[i].mac, mac, GUEST_MAC_SIZE))
			return &list[i];
	return NULL;
}

void integration_set_adapters(struct integration *integration, const uint8_t (*macs)[GUEST_MAC_SIZE], unsigned count)
{
	struct kvp_adapter before[GUEST_ADAPTERS];
	struct kvp *kvp = &integration->kvp;
	unsigned before_count;

	pthread_mutex_lock(&integration->lock);
	before_count = kvp->adapter_count;
	memcpy(before, kvp->adapters, sizeof(before));
	kvp->adapter_count = count < GUEST_ADAPTERS ? count : GUEST_ADAPTERS;
	for (unsigned i = 0; i < kvp->adapter_count; i++) {
		const struct kvp_adapter *same = find(before, before_count, macs[i]);

		kvp->adapters[i] = same ? *same : (struct kvp_adapter){0};
		memcpy(kvp->adapters[i].mac, macs[i], GUEST_MAC_SIZE);
	}
	kvp->adapters_changed = true;
	/* The answer to what is asked would be taken for another adapter's. */
	if (kvp->step == KVP_ASKS_ADDRESSES)
		kvp->step = KVP_RESTS;
	else
		kvp_resumed(kvp);
	pthread_mutex_unlock(&integration->lock);
}

int integration_addresses(struct integration *integration, const uint8_t mac[GUEST_MAC_SIZE],
			  char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX], uint64_t *asked_ms)
{
	const struct kvp_adapter *adapter;
	int count = -1;

	pthread_mutex_lock(&integration->lock);
	adapter = find(integration->kvp.adapters, integration->kvp.adapter_count, mac);
	if (adapter && adapter->known) {
		count = (int)adapter->count;
		memcpy(addresses, adapter->addresses, sizeof(adapter->addresses));
		*asked_ms = adapter->asked_ms;
	}
	pthread_mutex_unlock(&integration->lock);
	return count;
}
