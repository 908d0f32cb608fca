/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scsi.h - SCSI logical units over disk/: a hard disk (SBC-4) and a DVD-ROM drive (MMC-6).
 *
 * Knows nothing of VMBus: whoever carries commands (storvsp.c here) fills a `struct scsi_command`
 * and gets it back, completed, through its callback. Data moves straight between the image and the
 * command's iovec, which is guest memory; parameter data (UNMAP lists, WRITE SAME patterns) is
 * copied once and checked in the copy.
 *
 * Threads: a logical unit may execute commands on any number of threads at once. One command
 * belongs to the thread that owns its disk queue: it is executed, processed and completed there.
 *
 * Source: SPC-4 (INQUIRY, MODE SENSE, REPORT LUNS, sense data), SBC-4, MMC-6. Section numbers
 * stand at the functions.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"
#include "disk/disk.h"

#define SCSI_CDB_SIZE   16u
#define SCSI_SENSE_SIZE 18u /* fixed format, SPC-4 4.5.3 */

/* The most bytes that one READ or WRITE moves; said to the guest in VPD page B0h and by the
 * carrier's own properties. */
#define SCSI_MAX_TRANSFER (2u << 20)

enum scsi_status {
	SCSI_STATUS_GOOD = 0x00,
	SCSI_STATUS_CHECK_CONDITION = 0x02,
	SCSI_STATUS_BUSY = 0x08,
	SCSI_STATUS_RESERVATION_CONFLICT = 0x18,
};

struct scsi_device;

/* One command. The first part is the carrier's to fill; all of it, and the memory behind `iov`,
 * stays valid and untouched by the carrier until `complete` is called, exactly once. `complete` may
 * be called from inside scsi_execute(). */
struct scsi_command {
	uint8_t cdb[SCSI_CDB_SIZE]; /* unused bytes are zero */
	struct iovec *iov;          /* the unit may shorten it */
	int iov_count;
	uint32_t length; /* bytes of iov; no unit moves more */
	struct disk_queue *queue;
	void (*complete)(struct scsi_command *command);
	void *context; /* the carrier's */

	/* The answer. */
	uint8_t status;       /* enum scsi_status */
	uint8_t sense_length; /* 0 unless CHECK CONDITION */
	uint8_t sense[SCSI_SENSE_SIZE];
	uint32_t transferred; /* bytes moved to or from iov, 0 when the command failed */
	bool stored;          /* iov may have been written, even if the command failed */

	/* The unit's, while it works on the command. */
	struct {
		struct scsi_device *device;
		struct disk_request request;
		uint8_t *memory; /* freed on completion */
		struct iovec *pattern;
		uint64_t position, end;
		unsigned index, count;
	} work;
};

/* A hard disk. The disk stays the caller's and outlives the device. -ENOMEM. */
int scsi_disk_create(struct scsi_device **out, struct disk *disk, struct error *err);

/* A DVD-ROM drive; `disk` is its medium (never written) or NULL for an empty tray. -ENOMEM. */
int scsi_dvd_create(struct scsi_device **out, struct disk *disk, struct error *err);

/* The drive's medium is `disk` now, or none (NULL), and its tray is in. The guest learns of it by an event (MMC-6
 * 6.6.3.6) and, of a new medium, by a unit attention (SPC-4 5.14). What was locked in is not any more. No command may
 * be in flight. */
void scsi_dvd_set_medium(struct scsi_device *device, struct disk *disk);

/* [any] Whether the guest keeps the medium from being taken out (PREVENT ALLOW MEDIUM REMOVAL); asking for it, as by the
 * button of a drive: an event that tells the guest. */
bool scsi_dvd_is_locked(const struct scsi_device *device);
void scsi_dvd_request_eject(struct scsi_device *device);

/* [any] The hard disk's image has another size now. The next command is told so (SPC-4 5.14, unit attention), for
 * which a guest looks again. */
void scsi_disk_resized(struct scsi_device *device);

/* What a guest has learnt of a drive, and done to it. */
struct scsi_drive_condition {
	struct guid identifier; /* that it was shown */
	bool ejected, locked;
	uint32_t event; /* that it is still to be told */
};

#define SCSI_DRIVE_EVENTS 4u /* `event` is below that */

/* What a guest has learnt of a unit, for its saved state: how many blocks of what size, and whether it must still be
 * told that these, or the medium, changed. [any] */
struct scsi_condition {
	uint32_t block_size;
	uint64_t block_count;
	bool changed;
	struct scsi_drive_condition drive; /* of a DVD drive; else zeros */
};

void scsi_get_condition(struct scsi_device *device, struct scsi_condition *condition);

/* What the guest was told and what it has done are as they were; blocks are the medium's. No command may be in flight.
 * `with_drive`: also the part that is a drive's. */
void scsi_set_condition(struct scsi_device *device, const struct scsi_condition *condition, bool with_drive);

/* No command may be in flight. */
void scsi_device_destroy(struct scsi_device *device);

/* Start a command. What needs the disk is submitted to command->queue: the caller kicks and
 * processes it. Every input, however wrong, ends in a completed command. */
void scsi_execute(struct scsi_device *device, struct scsi_command *command);

/* For a carrier that cannot pass a command on just now: it is answered BUSY (SAM-5 5.3), and the guest tries again. */
void scsi_busy(struct scsi_command *command);

/* For a carrier whose target has no such logical unit: INQUIRY says "not connected" (SPC-4 6.4.2,
 * peripheral qualifier 3), with which a guest goes on to REPORT LUNS. */
void scsi_inquiry_absent(struct scsi_command *command);

/* REPORT LUNS (SPC-4 6.33) for a target with these units, in ascending order. */
void scsi_report_luns(struct scsi_command *command, const uint8_t *luns, unsigned count);

/* Cut the command's buffer to `length` bytes, or to what it has if that is less. */
void scsi_trim(struct scsi_command *command, uint32_t length);

/* Bytes copied from the start of the command's buffer, at most `size`: for parameter lists. */
size_t scsi_copy_out(const struct scsi_command *command, void *to, size_t size);
