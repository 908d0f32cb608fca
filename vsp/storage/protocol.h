/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * protocol.h - the wire of the synthetic SCSI controller: packets between storvsc and storvsp.
 *
 * All fields are little-endian; CDBs and sense data are SCSI's own. Source: Linux
 * drivers/scsi/storvsc_drv.c (the names are its).
 */
#pragma once

#include <stdint.h>

#include "base/base.h"

/* {ba6163d9-04a1-4d29-b605-72e2ffb1dc7f} */
#define STORAGE_SCSI_CLASS                                                                                   \
	GUID_INIT(0xba6163d9, 0x04a1, 0x4d29, 0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f)

#define VSTOR_VERSION(major, minor) ((uint16_t)((major) << 8 | (minor)))
#define VSTOR_VERSION_WIN6          VSTOR_VERSION(2, 0)
#define VSTOR_VERSION_WIN7          VSTOR_VERSION(4, 2)
#define VSTOR_VERSION_WIN8          VSTOR_VERSION(5, 1)
#define VSTOR_VERSION_WIN8_1        VSTOR_VERSION(6, 0)
#define VSTOR_VERSION_WIN10         VSTOR_VERSION(6, 2)

enum vstor_operation {
	VSTOR_COMPLETE_IO = 1,
	VSTOR_REMOVE_DEVICE = 2,
	VSTOR_EXECUTE_SRB = 3,
	VSTOR_RESET_LUN = 4,
	VSTOR_RESET_ADAPTER = 5,
	VSTOR_RESET_BUS = 6,
	VSTOR_BEGIN_INITIALIZATION = 7,
	VSTOR_END_INITIALIZATION = 8,
	VSTOR_QUERY_PROTOCOL_VERSION = 9,
	VSTOR_QUERY_PROPERTIES = 10,
	VSTOR_ENUMERATE_BUS = 11,
	VSTOR_FCHBA_DATA = 12,
	VSTOR_CREATE_SUB_CHANNELS = 13
};

#define VSTOR_FLAG_COMPLETION_REQUESTED 1u

/* NTSTATUS values in vstor_packet.status. A guest only tells zero from the rest. */
#define VSTOR_STATUS_SUCCESS              0u
#define VSTOR_STATUS_UNSUCCESSFUL         0xC0000001u
#define VSTOR_STATUS_INVALID_PARAMETER    0xC000000Du
#define VSTOR_STATUS_INVALID_REQUEST      0xC0000010u
#define VSTOR_STATUS_REVISION_MISMATCH    0xC0000059u
#define VSTOR_STATUS_INVALID_DEVICE_STATE 0xC0000184u

/* SRB status, with the flags in its upper bits. */
#define SRB_STATUS_SUCCESS         0x01
#define SRB_STATUS_ABORTED         0x02
#define SRB_STATUS_ERROR           0x04
#define SRB_STATUS_BUSY            0x05
#define SRB_STATUS_INVALID_REQUEST 0x06
#define SRB_STATUS_DATA_OVERRUN    0x12
#define SRB_STATUS_INVALID_LUN     0x20
#define SRB_STATUS_QUEUE_FROZEN    0x40
#define SRB_STATUS_AUTOSENSE_VALID 0x80

#define SRB_FLAG_DISABLE_AUTOSENSE 0x00000020u

#define VSTOR_CDB_SIZE   16u
#define VSTOR_SENSE_SIZE 20u

struct vmscsi_request {
	uint16_t length; /* of this structure */
	uint8_t srb_status;
	uint8_t scsi_status;
	uint8_t port_number;
	uint8_t path_id;
	uint8_t target_id;
	uint8_t lun;
	uint8_t cdb_length;
	uint8_t sense_info_length;
	uint8_t data_in; /* 0: to the disk, 1: from the disk, 2: unknown */
	uint8_t reserved;
	uint32_t data_transfer_length;
	union {
		uint8_t cdb[VSTOR_CDB_SIZE];
		uint8_t sense_data[VSTOR_SENSE_SIZE];
	};
	/* From version 5.1 on. */
	uint16_t reserved2;
	uint8_t queue_tag;
	uint8_t queue_action;
	uint32_t srb_flags;
	uint32_t time_out_value;
	uint32_t queue_sort_key;
} __attribute__((packed));
_Static_assert(sizeof(struct vmscsi_request) == 52, "wire layout");

#define VSTOR_PROPERTY_MULTI_CHANNEL 1u

struct vmstorage_properties {
	uint32_t reserved;
	uint16_t max_channel_count; /* sub-channels that may be asked for */
	uint16_t reserved1;
	uint32_t flags;
	uint32_t max_transfer_bytes;
	uint64_t reserved2;
} __attribute__((packed));
_Static_assert(sizeof(struct vmstorage_properties) == 24, "wire layout");

struct vmstorage_protocol_version {
	uint16_t major_minor;
	uint16_t revision;
} __attribute__((packed));
_Static_assert(sizeof(struct vmstorage_protocol_version) == 4, "wire layout");

struct vstor_packet {
	uint32_t operation; /* enum vstor_operation */
	uint32_t flags;
	uint32_t status;
	union {
		struct vmscsi_request srb;
		struct vmstorage_properties properties;
		struct vmstorage_protocol_version version;
		uint16_t sub_channel_count;
	};
} __attribute__((packed));
_Static_assert(sizeof(struct vstor_packet) == 64, "wire layout");

/* What guests send that know no version above 4.2: without the fields that came with 5.1. */
#define VSTOR_PACKET_SIZE_LEGACY 48u
