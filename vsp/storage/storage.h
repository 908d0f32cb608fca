/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storage.h - the synthetic SCSI controller: virtual disks as logical units behind a VMBus channel.
 *
 * A controller is one offer on the bus; a VM may have several. Each holds logical units addressed by
 * target and LUN; each unit is an open `struct disk`, shown as a hard disk or as a DVD-ROM drive.
 * Units come and go while the guest runs: it is told to scan the bus anew.
 *
 * Ownership: disks stay the caller's and must stay open while they are attached. Threads: the
 * controller runs one I/O thread for each open channel (the guest may ask for one a virtual
 * processor); the functions here belong to the VM's control thread, except where marked [any].
 *
 * Errors: negative errno; `err` gets the sentence for a person. Nothing that a guest does ends in
 * more than a failed request or a channel that is closed.
 *
 * Source: Linux drivers/scsi/storvsc_drv.c; SPC-4, SBC-4, MMC-6 for the units (scsi.h).
 */
#pragma once

#include "base/base.h"
#include "base/form.h"
#include "disk/disk.h"
#include "vmbus/vmbus.h"

struct storage;

/* What Linux looks at: targets 0 and 1. Windows uses target 0. */
#define STORAGE_TARGETS         2u
#define STORAGE_LUNS_PER_TARGET 64u
#define STORAGE_MAX_UNITS       64u /* of one controller */
#define STORAGE_DEPTH           256u /* requests of one channel at a time; more wait in the ring */

/* Of reads and writes of data. A request counts as one operation, and normalized as one for each 8 KiB that it has begun, as
 * Hyper-V's resource metering counts; its latency is from the ring to the answer. */
struct storage_counters {
	uint64_t operations, normalized, read_bytes, written_bytes, latency_ns;
};

struct storage_config {
	struct guid instance; /* of this controller, for its whole life */
	const char *name;     /* "scsi0": for logs and inspection, copied */
	/* Channels beyond the first that the guest may ask for; the number of virtual processors less
	 * one is useful, and is the bound. */
	unsigned max_sub_channels;
	/* For its channels, STORAGE_DEPTH each; NULL: each makes one. They outlive the controller. */
	struct disk_rings *rings;
	/* What its channels have counted is added here when they are closed; it outlives the controller. NULL: that is lost. */
	struct storage_counters *kept;
};

/* Offer a controller with no units on the bus, before or while the guest runs. */
int storage_create(struct storage **out, struct vmbus *bus, const struct storage_config *config,
		   struct error *err);

/* Remove the controller. Waits for requests in flight; units still attached are let go. NULL is fine. */
void storage_destroy(struct storage *storage);

enum storage_unit_kind { STORAGE_UNIT_DISK, STORAGE_UNIT_DVD };

/* [any] Show `disk` at target and LUN. A running guest is told to look. `disk` may be NULL for a DVD
 * drive with an empty tray. -EINVAL: no such address; -EEXIST: the address is taken; -ENOSPC: the
 * controller is full. */
int storage_attach(struct storage *storage, unsigned target, unsigned lun, enum storage_unit_kind kind,
		   struct disk *disk, struct error *err);

/* [any] Take the unit away. Waits for its requests in flight; then the disk is the caller's to close.
 * A running guest is told to look. -ENOENT: there is none. */
int storage_detach(struct storage *storage, unsigned target, unsigned lun, struct error *err);

/* [any] The DVD drive there has `disk` as its medium from now on, or none (NULL). Waits for its requests in flight; then
 * the medium that it had is the caller's to close. A running guest is told. -ENOENT: there is no DVD drive; -EBUSY: the guest
 * has locked the medium in; with `force` that is not looked at. */
int storage_change_medium(struct storage *storage, unsigned target, unsigned lun, struct disk *disk, bool force,
			  struct error *err);

/* [any] Whether the guest has locked in the medium of the DVD drive there. `ask`: if so it is asked to let go of it, as by the
 * button of a drive. -ENOENT: there is no DVD drive. */
int storage_medium_is_locked(struct storage *storage, unsigned target, unsigned lun, bool ask, bool *locked,
			     struct error *err);

/* [any] The disk there has another size now (disk_resize()). A running guest is told with its next request.
 * -ENOENT: there is no hard disk. */
int storage_resized(struct storage *storage, unsigned target, unsigned lun, struct error *err);

/* [one thread] Take no more packets, wait for what the disks are doing, and touch neither rings nor guest memory
 * until storage_resume(). Only while the bus is held (vmbus_hold()); units may come and go, and disks be worked on,
 * meanwhile. Calls do not nest. */
void storage_pause(struct storage *storage);
void storage_resume(struct storage *storage);

/* What the controller and its guest have agreed on, its units, and answers for which the guest's rings have no room:
 * a section. `number` tells controllers apart. Only while paused. */
void storage_save(struct storage *storage, struct form_writer *w, unsigned number);

/* Give it to a controller that was just created, has its units, and is paused; before vmbus_load(), which opens its
 * channels. What is wrong with the bytes is the reader's error; -EINVAL: the units are others than those that the guest
 * knows, or it knows more channels than there can be. After either the controller must be destroyed. */
int storage_load(struct storage *storage, struct form_reader *r, unsigned number, struct error *err);

/* [any] What its channels did, with what is kept already. It never goes back by more than what a channel that is just being closed
 * has counted. */
void storage_get_counters(struct storage *storage, struct storage_counters *out);

/* [any] Live state: units, negotiated version, and for each channel what it did and is doing. */
void storage_inspect(struct storage *storage, const struct vmbus_inspector *inspector, void *context);
