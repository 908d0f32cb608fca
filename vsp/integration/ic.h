/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ic.h - what all integration services share: a pipe channel, version negotiation, one request at a
 * time, a timer. Private to vsp/integration/.
 *
 * One lock guards all services of a struct integration. The service's functions run with it held.
 */
#pragma once

#include <pthread.h>

#include "vsp/integration/ic_protocol.h"
#include "vsp/integration/integration.h"

/* The longest are those of Key-Value Pair Exchange. Of other services' Linux reads a page at most. */
#define IC_MAX_MESSAGE 8192u

struct ic;

struct ic_service {
	const char *name;
	struct guid interface, instance;
	enum ic_message_type type;
	const struct ic_version *versions; /* of the messages, lowest first */
	unsigned version_count;
	unsigned (*period_ms)(const struct integration *integration); /* of its timer; NULL: it has none */
	void (*ready)(struct ic *ic); /* versions are agreed */
	void (*answer)(struct ic *ic, uint32_t status, const void *body, size_t size);
	void (*tick)(struct ic *ic); /* the timer fired */
	void (*closed)(struct ic *ic);
	void (*inspect)(const struct ic *ic, const struct vmbus_inspector *inspector, void *context); /* NULL: there is no more to see */
};

enum ic_state { IC_CLOSED, IC_NEGOTIATING, IC_READY, IC_INCOMPATIBLE };

struct ic {
	struct integration *integration;
	const struct ic_service *service;
	struct channel *channel; /* NULL: this service is left out */
	int timer_fd;
	enum ic_state state;
	struct ic_version framework, message;
	uint8_t transaction_id;
	bool waiting;         /* for an answer */
	bool negotiation_due; /* to be sent at the next event */
};

struct heartbeat {
	struct ic ic;
	uint64_t sequence;
	unsigned missed;
	enum heartbeat_state state;
	enum heartbeat_applications applications;
	bool changed; /* on_heartbeat is due */
};

struct shutdown {
	struct ic ic;
	bool asked;
	bool answered; /* on_shutdown is due */
	int result;
};

struct timesync {
	struct ic ic;
	bool sync_wanted;
};

/* What the guest told in one round of questions. */
struct kvp_texts {
	bool known[GUEST_ITEMS];
	char text[GUEST_ITEMS][GUEST_TEXT_MAX];
};

struct kvp_adapter {
	uint8_t mac[GUEST_MAC_SIZE];
	bool known;
	unsigned count;
	char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX];
	uint64_t asked_ms;
};

enum kvp_step { KVP_RESTS, KVP_ASKS_ITEMS, KVP_ASKS_ADDRESSES };

struct kvp {
	struct ic ic;
	enum kvp_step step;
	unsigned index; /* of the item, or of the adapter, that is asked for */
	unsigned rest_ms;
	uint64_t round_ms; /* when the round began, CLOCK_MONOTONIC */
	bool adapters_changed;
	struct kvp_texts coming, told; /* of the round under way; of the last one */
	struct kvp_adapter adapters[GUEST_ADAPTERS];
	unsigned adapter_count;
	uint64_t rounds, failures, timeouts;
};

struct integration {
	struct vmbus *bus;
	struct partition *partition;
	struct integration_options options;
	pthread_mutex_t lock;
	bool paused;
	struct heartbeat heartbeat;
	struct shutdown shutdown;
	struct timesync timesync;
	struct kvp kvp;
};

extern const struct ic_service heartbeat_service, shutdown_service, timesync_service, kvp_service;

/* Offer a service's channel and make its timer. */
int ic_create(struct ic *ic, struct integration *integration, const struct ic_service *service,
	      struct error *err);
void ic_destroy(struct ic *ic);

/* [lock] Send a request. -ENOTCONN, -EBUSY, or as channel_send(). */
int ic_request(struct ic *ic, const void *body, size_t size);

/* [lock] First in `first_ms`, then every `period_ms`; both 0: stop. */
void ic_set_timer(struct ic *ic, unsigned first_ms, unsigned period_ms);

/* [lock] The service is ready as it was in another bus, so its timer runs on. */
void ic_start_timer(struct ic *ic);

/* Whether these are versions that the service offers. */
bool ic_versions_offered(const struct ic *ic, const struct ic_version *framework, const struct ic_version *message);

/* [lock] Whether the agreed message version is at least that. */
bool ic_version_at_least(const struct ic *ic, uint16_t major, uint16_t minor);

/* Without the lock, on the control thread: call the callbacks that are due. */
void integration_notify(struct integration *integration);

/* [lock] Send what is wanted and could not be sent before. */
void timesync_flush(struct timesync *timesync);

/* [lock] The guest goes on after a pause, or in another bus: ask soon. */
void kvp_resumed(struct kvp *kvp);
