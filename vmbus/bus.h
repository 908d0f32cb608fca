/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bus.h - the state of one bus and its channels, shared by the files of vmbus/ and by nobody else.
 *
 * Who touches what:
 *  - the control thread owns all that is not marked; it takes `lock` only for what others share;
 *  - [lock] fields belong to whoever holds bus->lock;
 *  - [atomic] fields are read and written with __atomic builtins by anybody;
 *  - [data] fields belong to the provider's reading or writing thread between open and close.
 * No callback is ever made with a lock held.
 */
#pragma once

#include <pthread.h>

#include "vmbus/ring.h"
#include "vmbus/vmbus.h"

#define BUS_MAX_RELID       (SYNIC_EVENT_FLAGS - 1) /* a relid is an event flag; 0 is the old shared one */
#define BUS_CONNECTION_BASE 0x10000u                /* a channel signals us on this plus its relid */
#define BUS_INBOX_SIZE      256u
#define BUS_OUTBOX_HIGH     256u /* above it, the guest's messages wait */
#define BUS_MAX_GPADLS      1024u
#define BUS_MAX_GPADL_PAGES 65536u /* 256 MiB */
#define BUS_MAX_BUILDING    64u    /* GPADLs whose bodies are not all here */

struct message {
	uint32_t type; /* SynIC message type */
	uint32_t size;
	uint8_t bytes[SYNIC_MESSAGE_PAYLOAD];
};

struct outgoing {
	struct outgoing *next;
	unsigned vp, sint;
	uint32_t size;
	uint8_t bytes[SYNIC_MESSAGE_PAYLOAD];
};

struct watch {
	struct watch *next;
	int fd;
	void (*callback)(void *context);
	void *context;
};

/* Something that another thread wants done by the control thread, and waits for. */
struct call {
	struct call *next;
	void (*function)(void *argument);
	void *argument;
	bool done;
};

/* What the guest set up with INITIATE_CONTACT. */
struct connection {
	unsigned message_vp, message_sint;
	bool offers_requested;
	uint8_t *interrupt_page;                 /* guest memory, or NULL */
	struct vmbus_monitor_page *monitor_page; /* child to parent, or NULL */
};

struct bus_counters {
	uint64_t messages, malformed, unknown, ignored, sent;
	uint64_t queue_full; /* [atomic] */
};

struct vmbus {
	struct partition *partition;
	pthread_t thread;
	int epoll_fd;
	int wake_fd;
	int timer_fd;
	int shared_event_fd; /* connection id 2 */
	bool message_port_open[2], event_port_open, thread_started;

	pthread_mutex_t inbox_lock;
	struct message inbox[BUS_INBOX_SIZE]; /* inbox_lock */
	unsigned inbox_head, inbox_count;     /* inbox_lock */

	pthread_mutex_t lock;
	pthread_cond_t call_done;
	struct call *calls;                          /* [lock] oldest first */
	struct channel *channels[BUS_MAX_RELID + 1]; /* [lock], by relid; only the control thread removes */
	unsigned relid_limit;                        /* [lock] one above the highest in use */
	struct watch *watches;                       /* [lock] */
	struct gpadl *gpadls;                        /* [lock] */
	unsigned gpadl_count, gpadl_pages, gpadl_building; /* [lock] */
	struct channel *monitored[VMBUS_MONITOR_IDS];      /* [lock] by monitor id */
	bool stopping;                                     /* [lock] */
	bool hold_asked, held;                             /* [lock] */

	uint32_t version;   /* [atomic] 0: no connection */
	bool work_announce; /* [atomic] channels to offer */
	bool work_broken;   /* [atomic] channels to end */
	bool work_reap;     /* [atomic] GPADLs that wait for their last user */
	bool work_room;     /* [atomic] channels that wait for room of a guest that does not signal it */

	struct connection connection;
	struct outgoing *outbox_first, **outbox_last;
	unsigned outbox_count;
	uint64_t outbox_retry_ns; /* back-off while the guest's slot is full, 0: not waiting */
	uint64_t timer_due_ns;    /* when the timer fires, 0: it is not set */
	uint64_t monitor_poll_ns; /* 0: nobody to poll for */
	unsigned monitor_idle;    /* polls in a row that found nothing */
	unsigned open_monitored;
	struct bus_counters counters;
	struct log_limit log_limit;
};

enum channel_state {
	CHANNEL_OFFERED, /* the guest may open it */
	CHANNEL_OPEN,
	CHANNEL_ENDED,  /* open for the guest, ended by us: waits for its CLOSE_CHANNEL */
	CHANNEL_REMOVED /* no provider any more: waits for RELID_RELEASED */
};

struct channel_counters {
	uint64_t opens;                              /* control thread */
	uint64_t packets_in, packets_out, ring_full; /* [atomic] */
	uint64_t events_to_guest;                    /* [atomic] */
};

struct channel {
	struct vmbus *bus;
	uint32_t relid;
	struct channel_offer offer;
	char *name;
	const struct channel_ops *ops;
	void *provider;
	int event_fd;
	int monitor_id; /* -1: none */

	enum channel_state state;
	bool announced;
	struct gpadl *ring_gpadl;
	bool broken;             /* [atomic] */
	bool waits_for_room;     /* [atomic] */
	bool usable;             /* [atomic] between open and close */
	unsigned target_vp;      /* [atomic] */
	uint8_t *interrupt_page; /* set for versions before 2.4, fixed while open */
	uint8_t user_defined[VMBUS_USER_DEFINED_SIZE]; /* what it was opened with */
	struct ring in, out;     /* [data] */
	bool hold_signal;        /* [data] of the thread that sends */
	bool held_signal;        /* [data] one is owed at release */
	struct channel_counters counters;
	struct log_limit log_limit; /* whoever set `broken`, else the control thread */
};

struct gpadl_range {
	uint64_t start; /* bytes of all ranges before */
	uint32_t byte_count;
	uint32_t byte_offset;
	unsigned first_page;
};

struct gpadl {
	struct gpadl *next;
	struct vmbus *bus;
	uint32_t relid, handle;
	unsigned users;      /* [lock] rings and providers */
	bool teardown_asked; /* [lock] TORNDOWN is owed */
	bool orphan;         /* [lock] off the list; the last user frees it */
	bool complete;       /* [lock] */

	uint8_t *building; /* the ranges as they arrive */
	uint32_t building_size, building_filled;

	unsigned range_count, page_count;
	struct gpadl_range *ranges;
	uint8_t **pages; /* guest memory, all ranges in order */
	uint64_t size;
};

/* bus.c */
void bus_wake(struct vmbus *bus);
void bus_call(struct vmbus *bus, void (*function)(void *argument), void *argument);
struct channel *bus_channel(struct vmbus *bus, uint32_t relid); /* NULL: none */
unsigned bus_relid_limit(struct vmbus *bus);
int bus_poll_channel(struct vmbus *bus, struct channel *channel, bool add);
bool bus_version_known(uint32_t version);

/* connection.c: messages in, messages out, contact and unload */
int connection_message_port(void *context, unsigned vp_index, uint32_t type, const void *payload,
			    size_t size);
void connection_receive(struct vmbus *bus);
void connection_send(struct vmbus *bus, void *message, uint32_t type, size_t size);
void connection_flush(struct vmbus *bus);
void connection_drop(struct vmbus *bus);
void connection_announce(struct vmbus *bus);

/* channel.c */
void channel_on_open(struct vmbus *bus, const struct vmbus_message_open *message);
void channel_on_close(struct vmbus *bus, uint32_t relid);
void channel_on_modify(struct vmbus *bus, const struct vmbus_message_modify *message);
void channel_on_relid_released(struct vmbus *bus, uint32_t relid);
bool channel_has_removed_twin(struct vmbus *bus, const struct channel *channel);
void channel_end(struct channel *channel, enum channel_state next);
void channel_end_broken(struct vmbus *bus);
void channel_free(struct channel *channel);

/* For a bus that is loaded: a channel leaves its number and gets another one; a number that only the guest knows; a
 * channel is open again. `in_index` and `out_index` are the host's own in the two rings. */
struct channel_reopen {
	uint32_t target_vp, ring_gpadl, downstream, in_index, out_index;
};

void channel_leave(struct channel *channel);
int channel_place(struct channel *channel, uint32_t relid); /* 0: the lowest that is free */
int channel_place_removed(struct vmbus *bus, uint32_t relid, const struct channel_offer *offer);
int channel_reopen(struct channel *channel, const struct channel_reopen *open);
void channel_kick(struct channel *channel);         /* make its event fire */
void channel_signal_guest(struct channel *channel); /* [data] interrupt the guest */

/* gpadl.c */
void gpadl_on_header(struct vmbus *bus, const void *message, size_t size);
void gpadl_on_body(struct vmbus *bus, const void *message, size_t size);
void gpadl_on_teardown(struct vmbus *bus, const struct vmbus_message_gpadl_teardown *message);
struct gpadl *gpadl_acquire(struct vmbus *bus, uint32_t relid, uint32_t handle);
struct gpadl *gpadl_acquire_even_torn(struct vmbus *bus, uint32_t relid, uint32_t handle);
void gpadl_save_all(struct vmbus *bus, struct form_writer *w);
void gpadl_load_all(struct vmbus *bus, struct form_reader *r);
void gpadl_reap(struct vmbus *bus);
void gpadl_drop_all(struct vmbus *bus, uint32_t relid); /* 0: of every channel */

/* signal.c: the interrupt page and the monitor page */
void signal_scan_interrupt_page(struct vmbus *bus);
void signal_scan_monitor_page(struct vmbus *bus);
void signal_set_monitor(struct vmbus *bus, const struct channel *channel, bool used);
