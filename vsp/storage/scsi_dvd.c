// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi_dvd.c - a DVD-ROM drive: the part of MMC-6 with which Linux sr and Windows cdrom read a
 * medium, play with the tray, and see it change.
 *
 * The medium is an image file of 2048-byte blocks. A guest's eject empties the drive in its own eyes; load
 * brings the same medium back. The host changes the medium when the guest has not locked it in, or by force.
 */
#include "vsp/storage/scsi_device.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define DVD_BLOCK   2048u
#define CD_MAX_SIZE (360000ull * DVD_BLOCK) /* 80 minutes: more is no CD */

#define PROFILE_CD_ROM  0x0008
#define PROFILE_DVD_ROM 0x0010

/* Media class events, MMC-6 6.6.3.6. */
enum media_event { MEDIA_NO_CHANGE = 0, MEDIA_EJECT_REQUEST = 1, MEDIA_NEW = 2, MEDIA_REMOVAL = 3 };

struct scsi_dvd {
	struct scsi_device device;
	atomic_bool ejected;
	atomic_bool locked;
	atomic_uint event; /* told once by GET EVENT STATUS NOTIFICATION */
};

_Static_assert(MEDIA_REMOVAL + 1 == SCSI_DRIVE_EVENTS, "all events can be saved");

static struct scsi_dvd *dvd_of(struct scsi_device *device)
{
	return (struct scsi_dvd *)device;
}

static bool has_medium(struct scsi_dvd *dvd)
{
	return dvd->device.disk && dvd->device.block_count > 0 && !atomic_load(&dvd->ejected);
}

static bool is_cd(const struct scsi_dvd *dvd)
{
	return dvd->device.info.size <= CD_MAX_SIZE;
}

static uint16_t current_profile(struct scsi_dvd *dvd)
{
	if (!has_medium(dvd))
		return 0;
	return is_cd(dvd) ? PROFILE_CD_ROM : PROFILE_DVD_ROM;
}

static void inquiry(const struct scsi_device *device, struct scsi_command *command)
{
	static const struct scsi_identity identity = {
	    .device_type = 0x05,
	    .removable = true,
	    .product = "Virtual DVD-ROM ",
	    .command_set = 0x02a0, /* MMC-4 */
	};

	scsi_inquiry(device, command, &identity);
}

static void read_capacity(const struct scsi_device *device, struct scsi_command *command)
{
	uint8_t data[8];

	be32_put(data, (uint32_t)min_u64(device->block_count - 1, UINT32_MAX));
	be32_put(data + 4, DVD_BLOCK);
	scsi_complete_data(command, data, sizeof(data), sizeof(data));
}

/* --- GET CONFIGURATION (MMC-6 6.5) ------------------------------------------------------------ */

struct feature {
	uint16_t code;
	uint8_t flags; /* version << 2 | persistent << 1 | current */
	uint8_t size;
	uint8_t data[8];
};

static size_t put_feature(uint8_t *to, const struct feature *feature)
{
	be16_put(to, feature->code);
	to[2] = feature->flags;
	to[3] = feature->size;
	memcpy(to + 4, feature->data, feature->size);
	return 4u + feature->size;
}

static void get_configuration(struct scsi_dvd *dvd, struct scsi_command *command)
{
	uint16_t profile = current_profile(dvd), start = be16_get(command->cdb + 2);
	uint8_t request = command->cdb[1] & 3, readable = profile != 0;
	const struct feature features[] = {
	    {0x0000,
	     0x03,
	     8,
	     {PROFILE_DVD_ROM >> 8, PROFILE_DVD_ROM & 0xff, profile == PROFILE_DVD_ROM, 0,
	      PROFILE_CD_ROM >> 8, PROFILE_CD_ROM & 0xff, profile == PROFILE_CD_ROM, 0}},
	    {0x0001, 0x0b, 8, {0, 0, 0, 1, 1}}, /* core: SCSI; DBEvent */
	    {0x0002, 0x07, 4, {2}},             /* morphing: operational changes by polling */
	    {0x0003, 0x03, 4, {0x29}},          /* removable: tray, eject, lock */
	    {0x0010, readable, 8, {0, 0, DVD_BLOCK >> 8, 0, 0, 1}},           /* random readable */
	    {0x001e, (uint8_t)(0x08 | (profile == PROFILE_CD_ROM)), 4, {0}},  /* CD read */
	    {0x001f, (uint8_t)(0x04 | (profile == PROFILE_DVD_ROM)), 4, {0}}, /* DVD read */
	};
	uint8_t data[128] = {0};
	size_t at = 8;

	if (request == 3) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (request == 2 ? features[i].code != start : features[i].code < start)
			continue;
		if (request == 1 && !(features[i].flags & 1))
			continue;
		at += put_feature(data + at, &features[i]);
	}
	be32_put(data, (uint32_t)(at - 4));
	be16_put(data + 6, profile);
	scsi_complete_data(command, data, at, be16_get(command->cdb + 7));
}

/* --- events, tray ----------------------------------------------------------------------------- */

static void get_event_status(struct scsi_dvd *dvd, struct scsi_command *command)
{
	uint8_t data[8] = {0};
	size_t size = 4;

	if (!(command->cdb[1] & 1)) { /* only polling */
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	data[3] = 0x10; /* the media class is all there is */
	if (command->cdb[4] & 0x10) {
		size = 8;
		be16_put(data, 6);
		data[2] = 4;
		/* An answer that the guest cannot hold must not eat the event. */
		if (be16_get(command->cdb + 7) >= size && command->length >= size)
			data[4] = (uint8_t)atomic_exchange(&dvd->event, MEDIA_NO_CHANGE);
		data[5] = (uint8_t)((atomic_load(&dvd->ejected) ? 1 : 0) | (has_medium(dvd) ? 2 : 0));
	} else {
		be16_put(data, 2);
		data[2] = 0x80; /* no event available */
	}
	scsi_complete_data(command, data, size, be16_get(command->cdb + 7));
}

static void start_stop(struct scsi_dvd *dvd, struct scsi_command *command)
{
	bool eject = command->cdb[4] & 2, start = command->cdb[4] & 1;

	if (eject && !start && atomic_load(&dvd->locked)) {
		scsi_complete_sense(command, SENSE_REMOVAL_PREVENTED);
		return;
	}
	if (eject && atomic_exchange(&dvd->ejected, !start) == start && dvd->device.disk)
		atomic_store(&dvd->event, start ? MEDIA_NEW : MEDIA_REMOVAL);
	scsi_complete_good(command, 0);
}

static void mechanism_status(struct scsi_dvd *dvd, struct scsi_command *command)
{
	uint8_t data[8] = {0};

	data[1] = atomic_load(&dvd->ejected) ? 0x10 : 0; /* door open */
	data[5] = 1;                                     /* one slot, no table of slots */
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 8));
}

/* --- what is on the medium -------------------------------------------------------------------- */

static void put_address(uint8_t *to, uint64_t lba, bool msf)
{
	uint64_t frame = lba + 150;

	if (!msf) {
		be32_put(to, (uint32_t)min_u64(lba, UINT32_MAX));
		return;
	}
	to[0] = 0;
	to[1] = (uint8_t)min_u64(frame / (75 * 60), 255);
	to[2] = (uint8_t)(frame / 75 % 60);
	to[3] = (uint8_t)(frame % 75);
}

/* One data track; MMC-6 6.25. */
static void read_toc(struct scsi_dvd *dvd, struct scsi_command *command)
{
	bool msf = command->cdb[1] & 2;
	uint8_t format = command->cdb[2] & 15, track = command->cdb[6];
	uint8_t data[64] = {0};
	size_t at = 4;

	if (format == 0)
		format = command->cdb[9] >> 6; /* where SFF-8020 had it */
	if (format > 1 || (format == 0 && track > 1 && track != 0xaa)) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	data[2] = data[3] = 1; /* first and last: track, or session */
	if (format == 1 || track <= 1) {
		data[at + 1] = 0x14; /* data track, copying prohibited */
		data[at + 2] = 1;
		put_address(data + at + 4, 0, msf);
		at += 8;
	}
	if (format == 0) {
		data[at + 1] = 0x14;
		data[at + 2] = 0xaa; /* lead-out */
		put_address(data + at + 4, dvd->device.block_count, msf);
		at += 8;
	}
	be16_put(data, (uint16_t)(at - 2));
	scsi_complete_data(command, data, at, be16_get(command->cdb + 7));
}

static void read_disc_information(struct scsi_command *command)
{
	uint8_t data[34] = {0};

	if (command->cdb[1] & 7) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	be16_put(data, sizeof(data) - 2);
	data[2] = 0x0e; /* complete disc, last session complete */
	data[3] = 1;    /* first track */
	data[4] = 1;    /* sessions */
	data[5] = 1;    /* first and last track of the last session */
	data[6] = 1;
	data[7] = 0x20;             /* unrestricted use */
	memset(data + 16, 0xff, 8); /* no lead-in or lead-out that could be written */
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 7));
}

/* Track 1 of session 1, by its number or by any block in it; MMC-6 6.27. */
static void read_track_information(struct scsi_dvd *dvd, struct scsi_command *command)
{
	uint8_t type = command->cdb[1] & 3;
	uint32_t address = be32_get(command->cdb + 2);
	bool found = type == 0 ? address < dvd->device.block_count : type < 3 && address == 1;
	uint8_t data[36] = {0};

	if (!found) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	be16_put(data, sizeof(data) - 2);
	data[2] = 1;    /* track */
	data[3] = 1;    /* session */
	data[5] = 0x04; /* a data track */
	data[6] = 0x01; /* in mode 1 */
	be32_put(data + 24, (uint32_t)min_u64(dvd->device.block_count, UINT32_MAX));
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 7));
}

/* Physical format information of layer 0, MMC-6 6.22.3.2.1. */
static void read_dvd_structure(struct scsi_dvd *dvd, struct scsi_command *command)
{
	uint8_t data[4 + 2048] = {0};

	if (is_cd(dvd) || command->cdb[7] != 0 || command->cdb[6] != 0) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	be16_put(data, sizeof(data) - 2);
	data[4] = 0x01;              /* DVD-ROM, version 1 */
	data[5] = 0x0f;              /* 120 mm, no maximum rate */
	data[6] = 0x01;              /* one layer, embossed */
	be32_put(data + 8, 0x30000); /* first sector of the data area */
	be32_put(data + 12, (uint32_t)min_u64(0x30000 + dvd->device.block_count - 1, 0xffffff));
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 8));
}

static void mode_sense(struct scsi_dvd *dvd, struct scsi_command *command)
{
	static const uint8_t recovery[10] = {0x00, 5};
	/* Capabilities, MMC-3 5.5.10: reads CD-R, CD-RW, DVD-ROM, DVD-R; tray, eject, lock. */
	static const uint8_t capabilities[20] = {
	    0x1b, 0x00, 0x70, 0x00, 0x29, 0x00, [6] = 0x2b, 0x45, [10] = 0x02, 0x00, [12] = 0x2b, 0x45};
	const struct scsi_mode_page pages[] = {
	    {.code = 0x01, .size = sizeof(recovery), .data = recovery},
	    {.code = 0x2a, .size = sizeof(capabilities), .data = capabilities},
	};

	command->cdb[1] |= 0x08; /* MMC units have no block descriptor */
	scsi_mode_sense(&dvd->device, command, has_medium(dvd) ? 0x01 : 0x70, 0, pages, ARRAY_SIZE(pages));
}

/* --- dispatch --------------------------------------------------------------------------------- */

/* Commands that the drive answers whatever is in it. */
static bool execute_drive(struct scsi_dvd *dvd, struct scsi_command *command)
{
	switch (command->cdb[0]) {
	case SCSI_INQUIRY:
		inquiry(&dvd->device, command);
		break;
	case SCSI_REQUEST_SENSE:
		scsi_request_sense(command);
		break;
	case SCSI_MODE_SENSE_6:
	case SCSI_MODE_SENSE_10:
		mode_sense(dvd, command);
		break;
	case SCSI_GET_CONFIGURATION:
		get_configuration(dvd, command);
		break;
	case SCSI_GET_EVENT_STATUS_NOTIFICATION:
		get_event_status(dvd, command);
		break;
	case SCSI_START_STOP_UNIT:
		start_stop(dvd, command);
		break;
	case SCSI_PREVENT_ALLOW_MEDIUM_REMOVAL:
		atomic_store(&dvd->locked, command->cdb[4] & 1);
		scsi_complete_good(command, 0);
		break;
	case SCSI_MECHANISM_STATUS:
		mechanism_status(dvd, command);
		break;
	default:
		return false;
	}
	return true;
}

static void execute_medium(struct scsi_dvd *dvd, struct scsi_command *command)
{
	switch (command->cdb[0]) {
	case SCSI_TEST_UNIT_READY:
		scsi_complete_good(command, 0);
		break;
	case SCSI_READ_CAPACITY_10:
		read_capacity(&dvd->device, command);
		break;
	case SCSI_READ_10:
	case SCSI_READ_12:
		scsi_read_blocks(&dvd->device, command);
		break;
	case SCSI_READ_TOC:
		read_toc(dvd, command);
		break;
	case SCSI_READ_DISC_INFORMATION:
		read_disc_information(command);
		break;
	case SCSI_READ_TRACK_INFORMATION:
		read_track_information(dvd, command);
		break;
	case SCSI_READ_DVD_STRUCTURE:
		read_dvd_structure(dvd, command);
		break;
	case SCSI_SYNCHRONIZE_CACHE_10:
		scsi_complete_good(command, 0);
		break;
	default:
		scsi_complete_sense(command, SENSE_INVALID_OPERATION);
		break;
	}
}

static bool needs_medium(uint8_t operation)
{
	switch (operation) {
	case SCSI_TEST_UNIT_READY:
	case SCSI_READ_CAPACITY_10:
	case SCSI_READ_10:
	case SCSI_READ_12:
	case SCSI_READ_TOC:
	case SCSI_READ_DISC_INFORMATION:
	case SCSI_READ_TRACK_INFORMATION:
	case SCSI_READ_DVD_STRUCTURE:
		return true;
	default:
		return false;
	}
}

/* SPC-4 5.14.7, MMC-6 4.1.6.1: these are carried out, whatever there is to tell. */
static bool may_be_told(uint8_t operation)
{
	switch (operation) {
	case SCSI_INQUIRY:
	case SCSI_REQUEST_SENSE:
	case SCSI_GET_CONFIGURATION:
	case SCSI_GET_EVENT_STATUS_NOTIFICATION:
		return false;
	default:
		return true;
	}
}

static void execute(struct scsi_device *device, struct scsi_command *command)
{
	struct scsi_dvd *dvd = dvd_of(device);

	if (may_be_told(command->cdb[0]) && atomic_exchange(&device->changed, false)) {
		scsi_complete_sense(command, SENSE_MEDIUM_CHANGED);
		return;
	}
	if (execute_drive(dvd, command))
		return;
	if (needs_medium(command->cdb[0]) && !has_medium(dvd))
		scsi_complete_sense(command, SENSE_MEDIUM_NOT_PRESENT);
	else
		execute_medium(dvd, command);
}

/* --- from the host ---------------------------------------------------------------------------- */

static void take_medium(struct scsi_device *device, struct disk *disk)
{
	struct disk_info info = {0};

	if (disk)
		disk_get_info(disk, &info);
	device->disk = disk;
	device->info.size = info.size;
	atomic_store(&device->block_count, info.size / DVD_BLOCK);
}

void scsi_dvd_set_medium(struct scsi_device *device, struct disk *disk)
{
	struct scsi_dvd *dvd = dvd_of(device);

	take_medium(device, disk);
	atomic_store(&dvd->ejected, false);
	atomic_store(&dvd->locked, false);
	atomic_store(&dvd->event, disk ? MEDIA_NEW : MEDIA_REMOVAL);
	/* A drive that is not ready any more says so itself. */
	atomic_store(&device->changed, disk != NULL);
}

bool scsi_dvd_is_locked(const struct scsi_device *device)
{
	return atomic_load(&((const struct scsi_dvd *)device)->locked);
}

void scsi_dvd_request_eject(struct scsi_device *device)
{
	atomic_store(&dvd_of(device)->event, MEDIA_EJECT_REQUEST);
}

static void get_drive(struct scsi_device *device, struct scsi_drive_condition *condition)
{
	struct scsi_dvd *dvd = dvd_of(device);

	*condition = (struct scsi_drive_condition){.identifier = device->info.identifier,
						   .ejected = atomic_load(&dvd->ejected),
						   .locked = atomic_load(&dvd->locked),
						   .event = atomic_load(&dvd->event)};
}

static void set_drive(struct scsi_device *device, const struct scsi_drive_condition *condition)
{
	struct scsi_dvd *dvd = dvd_of(device);

	device->info.identifier = condition->identifier;
	atomic_store(&dvd->ejected, condition->ejected);
	atomic_store(&dvd->locked, condition->locked);
	atomic_store(&dvd->event, condition->event);
}

int scsi_dvd_create(struct scsi_device **out, struct disk *disk, struct error *err)
{
	static const struct scsi_device_ops ops = {.execute = execute, .get_drive = get_drive, .set_drive = set_drive};
	struct scsi_dvd *dvd = calloc(1, sizeof(*dvd));

	if (!dvd)
		return error_set(err, ENOMEM, "no memory for a DVD drive");
	dvd->device.ops = &ops;
	dvd->device.block_size = DVD_BLOCK;
	if (disk) {
		disk_get_info(disk, &dvd->device.info);
		dvd->event = MEDIA_NEW;
	} else {
		guid_random(&dvd->device.info.identifier);
	}
	dvd->device.info.read_only = true;
	take_medium(&dvd->device, disk);
	*out = &dvd->device;
	return 0;
}
