/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storvsp.h - what storage.c (the controller and its units) and storvsp.c (the channels' I/O) share;
 * private to vsp/storage.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "vsp/storage/protocol.h"
#include "vsp/storage/scsi.h"
#include "vsp/storage/storage.h"

/* An address of the controller. I/O threads look a unit up without a lock: they count themselves in,
 * then see whether it is there. */
struct unit_slot {
	_Atomic(struct scsi_device *) device;
	atomic_uint users;
	atomic_bool leaving;
	atomic_bool held; /* its medium is being changed: commands are answered BUSY */
	enum storage_unit_kind kind; /* under the controller's lock */
	struct storage *storage;
};

/* A channel that was or may be offered: 0 is the primary. */
struct endpoint {
	struct storage *storage;
	unsigned index;
	struct channel *channel; /* NULL while not offered */
	struct io *io;           /* NULL while not open; under the controller's lock */
	struct restored *restored; /* for the io that is started next; NULL: nothing */
};

/* An answer that waits for room in the guest's ring, or a reset that waits for such answers. */
struct answer {
	uint64_t transaction_id;
	uint32_t reply_size;
	bool is_reset, wants_completion;
	uint8_t packet[sizeof(struct vstor_packet)];
};

#define IO_REQUESTS STORAGE_DEPTH

/* What of a channel's I/O is saved. */
struct restored {
	bool announce; /* the guest is to scan the bus */
	uint32_t count;
	struct answer answers[IO_REQUESTS];
};

struct storage {
	struct vmbus *bus;
	struct partition *partition;
	struct guid instance;
	char name[32];
	unsigned max_sub_channels;
	struct disk_rings *rings; /* NULL: each channel makes one */
	struct storage_counters *kept; /* under the lock; NULL: nothing is */

	pthread_mutex_t lock; /* attach and detach, endpoints' io, offered sub-channels */
	pthread_cond_t idle;  /* a slot that is leaving or held has no users any more, or is held no more; a thread rests; it may go on */
	atomic_bool paused;   /* changed under the lock */
	struct unit_slot units[STORAGE_TARGETS][STORAGE_LUNS_PER_TARGET];
	unsigned unit_count;
	unsigned sub_channels; /* offered */

	/* Negotiated on the primary channel, read by all. */
	atomic_uint version; /* VSTOR_VERSION, 0 before */
	atomic_bool ready;   /* initialisation ended */

	struct endpoint endpoints[PARTITION_MAX_VPS];
};

/* The unit at an address, or NULL; release it when the command is done. */
struct scsi_device *unit_acquire(struct storage *storage, unsigned target, unsigned lun,
				 struct unit_slot **slot);
void unit_release(struct unit_slot *slot);

/* Whether no command may be begun there just now; looked at before the unit is acquired, and once it is. */
bool unit_is_held(struct storage *storage, unsigned target, unsigned lun);

/* The LUNs of a target in ascending order; returns how many. */
unsigned unit_list(struct storage *storage, unsigned target, uint8_t luns[STORAGE_LUNS_PER_TARGET]);

/* Offer sub-channels 1 to `count`, for the primary's I/O thread. */
int storage_offer_sub_channels(struct storage *storage, unsigned count);

/* --- a channel's I/O (storvsp.c) ---------------------------------------------------------------- */

bool storvsp_version_known(uint16_t version);

/* Start the thread of an open channel. */
int io_start(struct io **out, struct endpoint *endpoint, struct channel *channel, struct error *err);

/* End it: no new packets, wait for the disks, forget the answers. */
void io_stop(struct io *io);

/* [any] Look whether the controller is paused. */
void io_wake(struct io *io);

/* With the controller's lock held, and only while the controller is paused: whether the thread rests; what waits in it. */
bool io_rests(const struct io *io);
void io_save(const struct io *io, struct restored *out);

/* [any] Have the guest scan the bus. */
void io_announce(struct io *io);

/* Adds what it has counted. [any] */
void io_add_counters(const struct io *io, struct storage_counters *to);

void io_inspect(struct io *io, const struct vmbus_inspector *inspector, void *context);
