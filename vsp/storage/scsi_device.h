/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scsi_device.h - what the logical units (scsi_disk.c, scsi_dvd.c) share; private to vsp/storage.
 */
#pragma once

#include "vsp/storage/scsi.h"

/* Operation codes (SPC-4, SBC-4, MMC-6). */
enum scsi_operation {
	SCSI_TEST_UNIT_READY = 0x00,
	SCSI_REQUEST_SENSE = 0x03,
	SCSI_READ_6 = 0x08,
	SCSI_WRITE_6 = 0x0a,
	SCSI_INQUIRY = 0x12,
	SCSI_MODE_SENSE_6 = 0x1a,
	SCSI_START_STOP_UNIT = 0x1b,
	SCSI_PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1e,
	SCSI_READ_CAPACITY_10 = 0x25,
	SCSI_READ_10 = 0x28,
	SCSI_WRITE_10 = 0x2a,
	SCSI_WRITE_AND_VERIFY_10 = 0x2e,
	SCSI_VERIFY_10 = 0x2f,
	SCSI_SYNCHRONIZE_CACHE_10 = 0x35,
	SCSI_WRITE_SAME_10 = 0x41,
	SCSI_UNMAP = 0x42,
	SCSI_READ_TOC = 0x43,
	SCSI_GET_CONFIGURATION = 0x46,
	SCSI_GET_EVENT_STATUS_NOTIFICATION = 0x4a,
	SCSI_READ_DISC_INFORMATION = 0x51,
	SCSI_MODE_SENSE_10 = 0x5a,
	SCSI_READ_16 = 0x88,
	SCSI_WRITE_16 = 0x8a,
	SCSI_WRITE_AND_VERIFY_16 = 0x8e,
	SCSI_VERIFY_16 = 0x8f,
	SCSI_SYNCHRONIZE_CACHE_16 = 0x91,
	SCSI_WRITE_SAME_16 = 0x93,
	SCSI_SERVICE_ACTION_IN_16 = 0x9e,
	SCSI_REPORT_LUNS = 0xa0,
	SCSI_READ_12 = 0xa8,
	SCSI_WRITE_12 = 0xaa,
	SCSI_READ_DVD_STRUCTURE = 0xad,
	SCSI_WRITE_AND_VERIFY_12 = 0xae,
	SCSI_VERIFY_12 = 0xaf,
	SCSI_MECHANISM_STATUS = 0xbd,
};

/* Sense key, additional sense code and its qualifier in one number (SPC-4 annex F). */
#define SCSI_SENSE(key, asc, ascq) ((uint32_t)(key) << 16 | (asc) << 8 | (ascq))

enum scsi_sense {
	SENSE_NONE = SCSI_SENSE(0x0, 0x00, 0x00),
	SENSE_MEDIUM_NOT_PRESENT = SCSI_SENSE(0x2, 0x3a, 0x00),
	SENSE_STOPPED = SCSI_SENSE(0x2, 0x04, 0x02),
	SENSE_WRITE_ERROR = SCSI_SENSE(0x3, 0x0c, 0x00),
	SENSE_READ_ERROR = SCSI_SENSE(0x3, 0x11, 0x00),
	SENSE_TARGET_FAILURE = SCSI_SENSE(0x4, 0x44, 0x00),
	SENSE_PARAMETER_LIST_LENGTH = SCSI_SENSE(0x5, 0x1a, 0x00),
	SENSE_INVALID_OPERATION = SCSI_SENSE(0x5, 0x20, 0x00),
	SENSE_LBA_OUT_OF_RANGE = SCSI_SENSE(0x5, 0x21, 0x00),
	SENSE_INVALID_FIELD_IN_CDB = SCSI_SENSE(0x5, 0x24, 0x00),
	SENSE_INVALID_FIELD_IN_PARAMETERS = SCSI_SENSE(0x5, 0x26, 0x00),
	SENSE_SAVING_NOT_SUPPORTED = SCSI_SENSE(0x5, 0x39, 0x00),
	SENSE_REMOVAL_PREVENTED = SCSI_SENSE(0x5, 0x53, 0x02),
	SENSE_WRITE_PROTECTED = SCSI_SENSE(0x7, 0x27, 0x00),
	SENSE_SPACE_ALLOCATION_FAILED = SCSI_SENSE(0x7, 0x27, 0x07),
	SENSE_ABORTED = SCSI_SENSE(0xb, 0x00, 0x00),
};

struct scsi_device_ops {
	void (*execute)(struct scsi_device *device, struct scsi_command *command);
};

struct scsi_device {
	const struct scsi_device_ops *ops;
	struct disk *disk; /* NULL: a drive without a medium */
	struct disk_info info;
	uint32_t block_size;
	uint64_t block_count;
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

/* Cut the command's iovec to `length` bytes (no more than it has). */
void scsi_trim(struct scsi_command *command, uint32_t length);

/* Submit the command's disk request; `done` gets it back. */
void scsi_submit(struct scsi_command *command, enum disk_op op, uint64_t offset, uint64_t length,
    void (*done)(struct disk_request *request, int result));
struct scsi_command *scsi_command_of(struct disk_request *request);

/* Standard INQUIRY data (SPC-4 6.4.2) and VPD pages that every unit has. */
struct scsi_identity {
	uint8_t device_type;
	bool removable;
	const char *product; /* 16 characters */
	const uint8_t *vpd_pages; /* that `vpd_page` serves beyond 00h, 80h, 83h; ascending */
	unsigned vpd_count;
	uint16_t command_set; /* version descriptor, SPC-4 table 144 */
	/* Fill `page` (64 bytes, zeroed) from byte 4 on; returns how many bytes. */
	size_t (*vpd_page)(const struct scsi_device *device, uint8_t code, uint8_t *page);
};

void scsi_inquiry(const struct scsi_device *device, struct scsi_command *command, const struct scsi_identity *id);
void scsi_request_sense(struct scsi_command *command);

/* MODE SENSE (6) and (10), SPC-4 6.11 and 6.12: header, optional block descriptor, pages. */
struct scsi_mode_page {
	uint8_t code;
	uint8_t size;              /* of data, without the two header bytes */
	const uint8_t *data;       /* current and default values */
};

void scsi_mode_sense(const struct scsi_device *device, struct scsi_command *command, uint8_t medium_type,
    uint8_t device_specific, const struct scsi_mode_page *pages, unsigned count);
