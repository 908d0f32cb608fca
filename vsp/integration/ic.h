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

/* Linux reads at most a page of each packet. */
#define IC_MAX_MESSAGE 4096u

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

struct integration {
	struct vmbus *bus;
	struct partition *partition;
	struct integration_options options;
	pthread_mutex_t lock;
	bool paused;
	struct heartbeat heartbeat;
	struct shutdown shutdown;
	struct timesync timesync;
};

extern const struct ic_service heartbeat_service, shutdown_service, timesync_service;

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
