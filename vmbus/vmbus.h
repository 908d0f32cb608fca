/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmbus.h - the host side of VMBus: what service providers (VSPs) build on.
 *
 * A provider offers a channel (a device the guest sees, named by two GUIDs). The guest's driver opens
 * it with two rings in its own memory; from then on provider and driver exchange packets. This room
 * speaks the channel protocol, checks all that the guest writes, and hands packets over as copies.
 *
 * Threads. A bus has one control thread: it runs every callback (open, close, event, watch), one at a
 * time. Packets are received and sent on whatever single thread the provider chooses:
 *  - storage, network: a thread of its own polls channel_event_fd() and calls channel_receive() until
 *    it returns 0. `close` must not return before that thread has stopped using the channel.
 *  - small services: give an `event` callback and do everything on the control thread.
 * Receiving and sending may be two threads; two threads must not send at once (the provider locks).
 *
 * Guests are hostile. A packet that lies about itself, or a ring index outside the ring, breaks the
 * channel: channel_receive() says -EPROTO, one line is logged, and `close` follows on the control
 * thread. The guest may close and open the channel again; nothing else is disturbed.
 *
 * Bounds: 2047 channels, 1024 GPADLs and 256 MiB of guest memory under GPADLs per bus; 256 messages
 * wait in the queue, then the guest is told HV_STATUS_INSUFFICIENT_BUFFERS and tries again.
 *
 * Errors: negative errno; `err` gets the sentence for a person. Functions marked [any] may be called
 * from any thread that is not a virtual processor's.
 *
 * Source: Linux drivers/hv/{connection,channel,channel_mgmt,ring_buffer}.c, include/linux/hyperv.h.
 */
#pragma once

#include <sys/uio.h>

#include "base/form.h"
#include "hypervisor/hypervisor.h"
#include "vmbus/protocol.h"

struct vmbus;
struct channel;
struct gpadl;

/* --- the bus ---------------------------------------------------------------------------------- */

/* Before partition_start(): opens connection ids 1, 2 and 4 and starts the control thread. The
 * partition must outlive the bus. */
int vmbus_create(struct vmbus **out, struct partition *partition, struct error *err);

/* After partition_stop(), and after every provider removed its channels and watches. NULL is fine. */
void vmbus_destroy(struct vmbus *bus);

/* [any] The guest was reset: forget its connection, closing every channel, as if it had unloaded. Waits
 * for the control thread. */
void vmbus_reset(struct vmbus *bus);

/* [one thread] Hold the control thread between two of its steps, and let it go on: in between no callback runs, no
 * message is handled, and what waits for the control thread runs at once on the caller's. Calls do not nest. */
void vmbus_hold(struct vmbus *bus);
void vmbus_release(struct vmbus *bus);

/* --- saved state ------------------------------------------------------------------------------- */

/* The connection, what the guest lends, channels, and messages that wait either way, as sections. Only while
 * held, with no VP running and no provider that sends or receives. */
void vmbus_save(struct vmbus *bus, struct form_writer *w);

/* Give them to a bus whose guest has not run, and which is held: providers have offered what they had offered
 * (sub-channels too), in any order; RAM and the partition's state are there. Channels get their old numbers, `open`
 * runs for those that were open, and at release each has an event. What was not offered then is hot-added. What is
 * wrong with the bytes is the reader's error; -EINVAL: a channel that the guest knows is missing, -ENOMEM, or
 * what `open` returned. After either the bus must be destroyed. */
int vmbus_load(struct vmbus *bus, struct form_reader *r, struct error *err);

struct partition *vmbus_partition(const struct vmbus *bus);

/* [any] The version agreed with the guest, VMBUS_VERSION(major, minor); 0 while not connected. */
uint32_t vmbus_version(const struct vmbus *bus);

/* --- offering --------------------------------------------------------------------------------- */

/* What the guest asked for when it opened the channel. Valid during the callback. */
struct channel_open {
	uint32_t version; /* of the bus: VMBUS_VERSION_… */
	unsigned target_vp;
	size_t in_size, out_size; /* bytes of ring data: guest to host, host to guest */
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE];
};

/* All run on the control thread. */
struct channel_ops {
	/* The guest opens: the channel may be used from now on. A negative errno refuses, then nothing
	 * of the channel may be used. */
	int (*open)(void *provider, struct channel *channel, const struct channel_open *open);
	/* The channel ends (closed, removed, broken, guest reset): stop using its rings before
	 * returning, wait for I/O that still touches the guest memory of its packets, and release its
	 * GPADLs. Sub-channels that were offered for this primary are removed here: Linux asks for
	 * them anew when it opens the primary again. */
	void (*close)(void *provider, struct channel *channel);
	/* NULL, or: the guest signalled (packets to read, or room to send). Comes once after every open,
	 * when the guest has been told; so does the event descriptor of other channels. */
	void (*event)(void *provider, struct channel *channel);
};

struct channel_offer {
	struct guid interface;     /* device class, contract: the driver looks for it */
	struct guid instance;      /* this device, for its whole life */
	const char *name;          /* for logs and inspection, copied */
	uint16_t subchannel_index; /* 0: the primary channel; sub-channels repeat both GUIDs */
	bool pipe;                 /* VMBUS_OFFER_NAMED_PIPE_MODE with messages */
	bool monitored;            /* let the guest signal by monitor page: batches at the price of latency */
	uint16_t mmio_megabytes;
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE]; /* `pipe` overwrites the first four bytes */
};

/* [any] Offer a channel, before or while the guest runs (hot add). Does not wait for the control
 * thread, so a channel's own I/O thread may offer sub-channels. `ops` must outlive the channel.
 * A guest that has not released the number that the same device had is told of it when it has.
 * -EEXIST: same instance and sub-channel index; -ENOSPC: 2047 channels. */
int vmbus_offer(struct vmbus *bus, const struct channel_offer *offer, const struct channel_ops *ops,
		void *provider, struct channel **out, struct error *err);

/* [any] Rescind (hot remove). Runs `close` if the channel is open and returns after it; `channel` is
 * then gone. Off the control thread it waits for that thread: do not call it from a thread that a
 * close callback waits for. */
void channel_remove(struct channel *channel);

/* --- using an open channel -------------------------------------------------------------------- */

/* Becomes readable (eventfd, non-blocking) when the guest signals; the reader resets it by reading.
 * Only for channels with no `event` callback. The same descriptor from offer to remove. */
int channel_event_fd(const struct channel *channel);

/* A packet as the guest sent it. The caller owns it and the buffers, which may be reused when the
 * request is done; `payload` is a copy, `iov` points into guest memory that the guest can still
 * change. */
struct channel_packet {
	/* Set by the caller before channel_receive(). */
	uint8_t *payload;
	size_t payload_capacity;
	struct iovec *iov;
	unsigned iov_capacity;

	/* Set by channel_receive(). */
	enum vmbus_packet_type type;
	bool completion_requested;
	uint64_t transaction_id;
	size_t payload_size; /* a multiple of 8: senders pad */
	/* GPA-direct: the memory of all ranges in order, neighbours joined. Transfer pages: iov[i] has
	 * base = offset into the set and length of range i, and no memory. Else 0. */
	unsigned iov_count;
	uint64_t iov_bytes;
	unsigned range_count;
	uint16_t transfer_set; /* transfer pages only */
};

/* Take the next packet out of the ring. Returns
 *  1            a packet
 *  0            the ring is empty; the guest will signal when it is not
 *  -EMSGSIZE    the packet does not fit the caller's buffers; it is consumed, type, flags and
 *               transaction_id are set
 *  -EFAULT      a page of it is not guest RAM; it is consumed, all but iov is set
 *  -EPROTO      the guest broke the ring; `close` follows
 *  -ESHUTDOWN   it was broken before, or is not open
 * Between the first packet and the 0 the guest is asked not to signal. */
int channel_receive(struct channel *channel, struct channel_packet *packet);

/* Send a packet; all or nothing. -EAGAIN: no room; the event follows when there is (one size is
 * remembered: the last that did not fit). -EMSGSIZE: larger than the ring. -EPROTO, -ESHUTDOWN as
 * above. The guest is signalled when the ring was empty and it did not mask its interrupt.
 * Completions carry the transaction id of the request. */
int channel_send(struct channel *channel, uint64_t transaction_id, const void *payload, size_t size,
		 bool request_completion);
int channel_send_completion(struct channel *channel, uint64_t transaction_id, const void *payload,
			    size_t size);
int channel_send_transfer_pages(struct channel *channel, uint64_t transaction_id, uint16_t set_id,
				const struct vmbus_transfer_page_range *ranges, unsigned range_count,
				const void *payload, size_t size, bool request_completion);

/* For the thread that sends: between hold and release the guest is not signalled, at release it is, once,
 * if one of the packets would have. A batch of completions is then one interrupt. Nothing may wait for
 * the guest in between; a send that finds no room signals at once. */
void channel_hold_signal(struct channel *channel);
void channel_release_signal(struct channel *channel);

/* Break the channel off from the provider's side, as a hostile index would: one line with `reason` is
 * logged and `close` follows on the control thread. For packets that no honest driver sends. */
void channel_break(struct channel *channel, const char *reason);

/* The virtual processor that the guest wants interrupted; it may change (MODIFYCHANNEL). */
unsigned channel_target_vp(const struct channel *channel);

/* --- memory that the guest lends a channel ------------------------------------------------------ */

/* A GPADL (guest physical address descriptor list) of this channel by the handle that a provider
 * protocol carries, held until gpadl_release(): the guest's teardown waits for that. NULL: no such
 * GPADL. Only while the channel is open. */
struct gpadl *channel_gpadl(struct channel *channel, uint32_t handle);
void gpadl_release(struct gpadl *gpadl);
size_t gpadl_size(const struct gpadl *gpadl);

/* Bytes [offset, offset + size) as iovecs into guest memory, neighbours joined. Returns their number,
 * -EINVAL outside the GPADL, -EMSGSIZE if more than `capacity`. */
int gpadl_iovec(const struct gpadl *gpadl, size_t offset, size_t size, struct iovec *iov, unsigned capacity);

/* --- the control thread, for small services ------------------------------------------------------ */

/* [any] Run `callback` on the control thread whenever `fd` (an eventfd or timerfd: the callback reads
 * it) is readable. -EEXIST when it is watched. */
int vmbus_watch(struct vmbus *bus, int fd, void (*callback)(void *context), void *context);

/* [any] After this the callback does not run and is not running (unless called from itself). */
void vmbus_unwatch(struct vmbus *bus, int fd);

/* --- inspection --------------------------------------------------------------------------------- */

/* A tree: objects hold values and objects. Maps to JSON one to one. */
struct vmbus_inspector {
	void (*begin)(void *context, const char *name);
	void (*end)(void *context);
	void (*text)(void *context, const char *name, const char *value);
	void (*number)(void *context, const char *name, uint64_t value);
};

/* [any] Live state: version, queue, counters, every channel with its rings. Waits for the control
 * thread, which runs the callbacks. */
void vmbus_inspect(struct vmbus *bus, const struct vmbus_inspector *inspector, void *context);
