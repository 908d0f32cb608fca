/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * network.h - the synthetic network adapter: frames between a guest's netvsc driver and a port (switch/port.h).
 *
 * An adapter is one offer on the bus. While the guest has its channel open, one thread moves frames both ways: from the
 * guest's memory to the port and from the port into the guest's receive buffer, with no copy but the headers' in between.
 * What the port can do (checksums, large segments) is offered to the guest, and nothing else.
 *
 * Ownership: the port stays the caller's and must live as long as it is plugged in; nobody else uses it meanwhile.
 * Functions belong to the VM's control thread, except where marked [any].
 *
 * Errors: negative errno; `err` gets the sentence for a person. Nothing that a guest does ends in more than a lost frame
 * or a channel that is closed.
 *
 * Source: Linux drivers/net/hyperv/{netvsc,rndis_filter,netvsc_drv}.c; [MS-RNDIS].
 */
#pragma once

#include "base/base.h"
#include "base/form.h"
#include "switch/port.h"
#include "vmbus/vmbus.h"

struct network;

#define NETWORK_MTU         1500u
#define NETWORK_MTU_MAX     9000u
#define NETWORK_ADDRESSES   8u
#define NETWORK_ADDRESS_MAX 46u /* INET6_ADDRSTRLEN */

struct network_meter;

struct network_config {
	struct guid instance; /* of this adapter, for its whole life */
	const char *name;     /* "network0": for logs and inspection, copied */
	uint8_t mac[FRAME_MAC_SIZE];
	bool any_mac;      /* the guest may send from other addresses, and change its own */
	struct port *port; /* NULL: not plugged in */
	struct network_meter *meter; /* counts for the adapter, and outlives it; NULL: none does */
};

/* Offer an adapter on the bus, before or while the guest runs. */
int network_create(struct network **out, struct vmbus *bus, const struct network_config *config, struct error *err);

/* Remove it. The port is then unused. NULL is fine. */
void network_destroy(struct network *network);

/* Plug into another port, or NULL: unplug. The guest sees the link go down, and up again if there is one. Returns the port
 * from before, which is unused now. */
struct port *network_plug(struct network *network, struct port *port);

/* [one thread] Touch neither rings, guest memory nor the port until network_resume(). Only while the bus is held. */
void network_pause(struct network *network);
void network_resume(struct network *network);

/* What the adapter and its guest have agreed on, and what the guest has of it: a section. `number` tells adapters apart.
 * Only while paused. */
void network_save(struct network *network, struct form_writer *w, unsigned number);

/* Give it to an adapter that was just created and is paused; before vmbus_load(), which opens its channel. What is wrong with the
 * bytes is the reader's error; -EINVAL: the guest knows another address; -ENOMEM. */
int network_load(struct network *network, struct form_reader *r, unsigned number, struct error *err);

struct network_seen {
	char address[NETWORK_ADDRESS_MAX];
	uint64_t seen_ms; /* CLOCK_MONOTONIC */
};

/* [any] The IP addresses by which the guest was seen to speak lately, newest first; returns how many. */
unsigned network_addresses(struct network *network, struct network_seen *seen, unsigned capacity);

/* [any] What went through it since it was created; sent: by the guest. Bytes of frames as they went over the port. */
struct network_counters {
	uint64_t sent_frames, sent_bytes, sent_dropped, received_frames, received_bytes, received_dropped;
};
void network_get_counters(struct network *network, struct network_counters *out);

/* --- metering ------------------------------------------------------------------------------------------- */

/*
 * What went through an adapter, by who was at the other end, whatever it is plugged into. A meter outlives the adapters that the guest's
 * resets take away. A frame that has an IP packet counts, with all its bytes, for the most special of the rules of its direction that
 * it fits: an adapter's address goes before those of IP, and a longer prefix before a shorter one.
 */
enum network_remote { NETWORK_REMOTE_ANY, NETWORK_REMOTE_IPV4, NETWORK_REMOTE_IPV6, NETWORK_REMOTE_MAC };

#define NETWORK_METER_RULES 64u /* of one adapter */

struct network_meter_rule {
	bool inbound; /* to the guest */
	enum network_remote kind;
	uint8_t address[16];
	unsigned length; /* bits of an IP address that count */
	uint64_t bytes;  /* so far; not looked at by network_meter_set() */
};

/* NULL: no memory. */
struct network_meter *network_meter_create(void);
/* Of no adapter any more. NULL is fine. */
void network_meter_destroy(struct network_meter *meter);

/* [any] These rules, at most NETWORK_METER_RULES; one that was there keeps what it has counted. -ENOMEM: all is as before. */
int network_meter_set(struct network_meter *meter, const struct network_meter_rule *rules, unsigned count);
/* [any] All rules in the order in which they were set; returns how many. */
unsigned network_meter_get(struct network_meter *meter, struct network_meter_rule rules[NETWORK_METER_RULES]);
/* [any] The counters of adapters that are gone. */
void network_meter_get_kept(struct network_meter *meter, struct network_counters *out);

/* [any] Live state: negotiated versions, offloads, buffers, counters. */
void network_inspect(struct network *network, const struct vmbus_inspector *inspector, void *context);
