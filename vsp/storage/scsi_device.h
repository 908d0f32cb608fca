/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scsi_device.h - what the logical units (scsi_disk.c, scsi_dvd.c) share; private to vsp/storage.
 */
#pragma once

#include <stdatomic.h>

#include "vsp/storage/scsi.h"
#include "vsp/storage/scsi_codes.h"

struct scsi_device_ops {
	void (*execute)(struct scsi_device *device, struct scsi_command *command);
	/* The part of a condition that is a drive's. NULL: there is none. */
	void (*get_drive)(struct scsi_device *device, struct scsi_drive_condition *condition);
	void (*set_drive)(struct scsi_device *device, const struct scsi_drive_condition *condition);
};

struct scsi_device {
	const struct scsi_device_ops *ops;
	struct disk *disk; /* NULL: a drive without a medium */
	struct disk_info info;
	uint32_t block_size;
	_Atomic uint64_t block_count;
	_Atomic bool changed; /* its size, or its medium, and the guest has not been told */
};

/* Complete a command: with data from `data` cut to `allocation` (the CDB's word) and to the buffer;
 * with a sense; with nothing. */
void scsi_complete_data(struct scsi_command *command, const void *data, size_t size, size_t allocation);
void scsi_complete_sense(struct scsi_command *command, uint32_t sense);
void scsi_complete_good(struct scsi_command *command, uint32_t transferred);

/* Complete with the sense that a disk's error stands for. */
void scsi_complete_error(struct scsi_command *command, enum disk_op op, int error);

/* The logical block address and count of any READ, WRITE, VERIFY or SYNCHRONIZE CACHE (6 to 16). */
void scsi_cdb_range(const uint8_t *cdb, uint64_t *lba, uint32_t *count);

/* Whether blocks [lba, lba + count) exist. */
bool scsi_range_exists(const struct scsi_device *device, uint64_t lba, uint64_t count);

/* READ of any length: moves count blocks from lba into the buffer and completes the command. */
void scsi_read_blocks(struct scsi_device *device, struct scsi_command *command);

/* Submit the command's disk request; `done` gets it back. */
void scsi_submit(struct scsi_command *command, enum disk_op op, uint64_t offset, uint64_t length,
		 void (*done)(struct disk_request *request, int result));
struct scsi_command *scsi_command_of(struct disk_request *request);

/* Standard INQUIRY data (SPC-4 6.4.2) and VPD pages that every unit has. */
struct scsi_identity {
	uint8_t device_type;
	bool removable;
	const char *product;      /* 16 characters */
	const uint8_t *vpd_pages; /* that `vpd_page` serves beyond 00h, 80h, 83h; ascending */
	unsigned vpd_count;
	uint16_t command_set; /* version descriptor, SPC-4 table 144 */
	/* Fill `page` (64 bytes, zeroed) from byte 4 on; returns how many bytes. */
	size_t (*vpd_page)(const struct scsi_device *device, uint8_t code, uint8_t *page);
};

void scsi_inquiry(const struct scsi_device *device, struct scsi_command *command,
		  const struct scsi_identity *id);
void scsi_request_sense(struct scsi_command *command);

/* MODE SENSE (6) and (10), SPC-4 6.11 and 6.12: header, optional block descriptor, pages. */
struct scsi_mode_page {
	uint8_t code;
	uint8_t size;        /* of data, without the two header bytes */
	const uint8_t *data; /* current and default values */
};

void scsi_mode_sense(const struct scsi_device *device, struct scsi_command *command, uint8_t medium_type,
		     uint8_t device_specific, const struct scsi_mode_page *pages, unsigned count);
