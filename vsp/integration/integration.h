/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * integration.h - the integration services: heartbeat, guest shutdown, time synchronisation, and what the guest tells of
 * itself (Key-Value Pair Exchange).
 *
 * Four small providers on one bus. Each offers its channel, agrees on versions with the guest's
 * driver (Linux hv_utils, Windows integration services), and then asks; the guest answers. One
 * request a service is under way at a time.
 *
 * Threads: everything runs on the bus's control thread, the callbacks too, with no lock held. The
 * functions marked [any] may be called from any thread that is not a virtual processor's. Nothing
 * here blocks, except create and destroy, which wait for the control thread.
 *
 * Source: Linux drivers/hv/hv_util.c, drivers/hv/hv_kvp.c, include/linux/hyperv.h (icmsg_hdr and what follows it).
 */
#pragma once

#include "base/form.h"
#include "vmbus/vmbus.h"

struct integration;

enum heartbeat_state {
	HEARTBEAT_NO_CONTACT, /* no driver in the guest, or not yet */
	HEARTBEAT_OK,
	HEARTBEAT_LOST,  /* three beats (6 s) without an answer */
	HEARTBEAT_PAUSED /* between integration_paused() and integration_resumed() */
};

/* What the guest says of its applications; Linux leaves it unknown. */
enum heartbeat_applications {
	HEARTBEAT_APPLICATIONS_UNKNOWN = 0,
	HEARTBEAT_APPLICATIONS_HEALTHY = 1,
	HEARTBEAT_APPLICATIONS_CRITICAL = 2,
	HEARTBEAT_APPLICATIONS_STOPPED = 3
};

enum shutdown_action { SHUTDOWN_POWER_OFF, SHUTDOWN_RESTART, SHUTDOWN_HIBERNATE };

struct integration_options {
	bool no_heartbeat, no_shutdown, no_timesync, no_kvp; /* leave a service out */
	unsigned heartbeat_ms;                               /* 0: 2000 */
	unsigned timesync_ms;                                /* between samples, 0: 5000 */
	unsigned kvp_ms;         /* between rounds of questions while something changes, 0: 2000; else up to 5 times that */
	unsigned kvp_timeout_ms; /* what has no answer by then leaves nothing known of the guest, 0: 60000 */

	/* [control thread] Any of them may be NULL. */
	void (*on_heartbeat)(void *context, enum heartbeat_state state,
			     enum heartbeat_applications applications);
	/* The guest's answer to integration_request_shutdown(): 0, it has begun; -EIO, it will not;
	 * -ESHUTDOWN, the service went away before it answered. */
	void (*on_shutdown)(void *context, int result);
	void *context;
};

/* Offer the services. `options` is copied. The bus outlives them. */
int integration_create(struct integration **out, struct vmbus *bus, const struct integration_options *options,
		       struct error *err);

/* Remove them; no callback runs after this. Not from a callback. NULL is fine. */
void integration_destroy(struct integration *integration);

/* [any] */
enum heartbeat_state integration_heartbeat(struct integration *integration,
					   enum heartbeat_applications *applications);
const char *heartbeat_state_name(enum heartbeat_state state);

/* [any] Ask the guest to shut down. `reason` (UTF-8, at most 1023 UTF-16 units, NULL for none) is for its
 * log; `force` lets it end programs that refuse. 0: asked, on_shutdown follows. -ENOTCONN: the guest
 * has no shutdown service running; -EOPNOTSUPP: its driver is too old for the action; -EBUSY: it has
 * not answered the last request; -EAGAIN: its ring is full. `err` names it for a person. */
int integration_request_shutdown(struct integration *integration, enum shutdown_action action, bool force,
				 const char *reason, struct error *err);

/* [any] Whether a request could be sent now. */
bool integration_shutdown_ready(struct integration *integration);

/* [any] Around partition_pause() and partition_resume(): a paused guest has not lost its heartbeat, and a
 * resumed one sets its clock by the host's at once. */
void integration_paused(struct integration *integration);
void integration_resumed(struct integration *integration);

/* What was agreed with the guest's drivers and what is under way, as a section. Only between integration_paused() and
 * _resumed(), while the bus is held. Load it after vmbus_load(), into services that were just created, before the bus is
 * released: they are paused then, and the guest's clock is set at integration_resumed(). What is wrong is the
 * reader's error. */
void integration_save(struct integration *integration, struct form_writer *w);
void integration_load(struct integration *integration, struct form_reader *r);

/* [any] Each service's state and the versions that were agreed. */
void integration_inspect(struct integration *integration, const struct vmbus_inspector *inspector, void *context);

/* [any] Tell the guest the host's time now, to be set outright (the host's clock was changed). */
void integration_sync_time(struct integration *integration);

/* --- what the guest tells of itself -------------------------------------------------------------------- */

/* By the names that Hyper-V gives them, in its pool of what the guest's system says by itself. */
enum guest_item {
	GUEST_NAME, /* FullyQualifiedDomainName */
	GUEST_SERVICES_VERSION,
	GUEST_IPV4, /* of all adapters, with semicolons in between */
	GUEST_IPV6,
	GUEST_SYSTEM,         /* OSName */
	GUEST_SYSTEM_VERSION, /* OSVersion; of Linux the kernel's */
	GUEST_SYSTEM_MAJOR,
	GUEST_SYSTEM_MINOR,
	GUEST_SYSTEM_BUILD,
	GUEST_SYSTEM_PLATFORM,
	GUEST_SYSTEM_PRODUCT,
	GUEST_SYSTEM_SUITES,
	GUEST_SERVICE_PACK,
	GUEST_SERVICE_PACK_MAJOR,
	GUEST_SERVICE_PACK_MINOR,
	GUEST_PROCESSOR,
	GUEST_ITEMS
};

#define GUEST_TEXT_MAX      1025u /* bytes, the end counted */
#define GUEST_ADDRESS_MAX   46u   /* INET6_ADDRSTRLEN */
#define GUEST_ADDRESSES     16u
#define GUEST_ADAPTERS      8u
#define GUEST_MAC_SIZE      6u

/* "OSName". */
const char *integration_item_key(enum guest_item item);

/* [any] What it says: UTF-8 with no control characters, but nothing that is known to be true. False: it says nothing, or not by now, as with no
 * daemon in the guest that would. */
bool integration_item(struct integration *integration, enum guest_item item, char text[GUEST_TEXT_MAX]);

/* [any] The adapters of which it is asked for addresses, by theirs; all that there are, anew each time they change. More than GUEST_ADAPTERS
 * are not asked for. */
void integration_set_adapters(struct integration *integration, const uint8_t (*macs)[GUEST_MAC_SIZE], unsigned count);

/* [any] The addresses of one. Returns how many; -1: the guest does not tell. `*asked_ms` (CLOCK_MONOTONIC) is when it was asked: what was seen
 * to be used later may be newer. */
int integration_addresses(struct integration *integration, const uint8_t mac[GUEST_MAC_SIZE],
			  char addresses[GUEST_ADDRESSES][GUEST_ADDRESS_MAX], uint64_t *asked_ms);
