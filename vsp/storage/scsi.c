// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi.c - what every SCSI logical unit answers alike: completion and sense data, INQUIRY, MODE
 * SENSE, REPORT LUNS, and reading blocks.
 */
#include "vsp/storage/scsi_device.h"

#include <errno.h>
#include <string.h>

#define INQUIRY_VENDOR   "Msft    " /* Linux storvsc allows WRITE SAME only for this vendor */
#define INQUIRY_REVISION "1.0 "

/* --- buffers ---------------------------------------------------------------------------------- */

size_t scsi_copy_out(const struct scsi_command *command, void *to, size_t size)
{
	size_t done = 0;

	for (int i = 0; i < command->iov_count && done < size; i++) {
		size_t n = min_u64(command->iov[i].iov_len, size - done);

		memcpy((uint8_t *)to + done, command->iov[i].iov_base, n);
		done += n;
	}
	return done;
}

static size_t copy_in(struct scsi_command *command, const void *from, size_t size)
{
	size_t done = 0;

	for (int i = 0; i < command->iov_count && done < size; i++) {
		size_t n = min_u64(command->iov[i].iov_len, size - done);

		memcpy(command->iov[i].iov_base, (const uint8_t *)from + done, n);
		done += n;
	}
	return done;
}

void scsi_trim(struct scsi_command *command, uint32_t length)
{
	uint32_t left = length;
	int i = 0;

	for (; i < command->iov_count && left > 0; i++) {
		if (command->iov[i].iov_len > left)
			command->iov[i].iov_len = left;
		left -= (uint32_t)command->iov[i].iov_len;
	}
	command->iov_count = i;
	command->length = length - left;
}

/* --- start and completion ---------------------------------------------------------------------- */

static void begin(struct scsi_command *command, struct scsi_device *device)
{
	memset(&command->work, 0, sizeof(command->work));
	command->work.device = device;
	command->stored = false;
	command->transferred = 0;
	command->sense_length = 0;
}

static void complete(struct scsi_command *command)
{
	free(command->work.memory);
	command->work.memory = NULL;
	free(command->work.pattern);
	command->work.pattern = NULL;
	command->complete(command);
}

void scsi_complete_good(struct scsi_command *command, uint32_t transferred)
{
	command->status = SCSI_STATUS_GOOD;
	command->sense_length = 0;
	command->transferred = transferred;
	complete(command);
}

void scsi_complete_data(struct scsi_command *command, const void *data, size_t size, size_t allocation)
{
	size_t n = copy_in(command, data, min_u64(min_u64(size, allocation), command->length));

	command->stored = n > 0;
	scsi_complete_good(command, (uint32_t)n);
}

void scsi_complete_sense(struct scsi_command *command, uint32_t sense)
{
	memset(command->sense, 0, sizeof(command->sense));
	command->sense[0] = 0x70; /* current error, fixed format */
	command->sense[2] = (uint8_t)(sense >> 16);
	command->sense[7] = SCSI_SENSE_SIZE - 8;
	command->sense[12] = (uint8_t)(sense >> 8);
	command->sense[13] = (uint8_t)sense;
	command->sense_length = SCSI_SENSE_SIZE;
	command->status = SCSI_STATUS_CHECK_CONDITION;
	command->transferred = 0;
	complete(command);
}

void scsi_complete_error(struct scsi_command *command, enum disk_op op, int error)
{
	switch (error < 0 ? -error : error) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		scsi_complete_sense(command, SENSE_SPACE_ALLOCATION_FAILED);
		break;
	case EROFS:
		scsi_complete_sense(command, SENSE_WRITE_PROTECTED);
		break;
	case EIO:
	case EBADMSG:
		scsi_complete_sense(command, op == DISK_OP_READ ? SENSE_READ_ERROR : SENSE_WRITE_ERROR);
		break;
	case ENOMEM:
	case EAGAIN:
	case EINTR:
	case ECANCELED:
		scsi_complete_sense(command, SENSE_ABORTED); /* a guest tries again */
		break;
	default:
		scsi_complete_sense(command, SENSE_TARGET_FAILURE);
		break;
	}
}

/* --- commands to the disk --------------------------------------------------------------------- */

struct scsi_command *scsi_command_of(struct disk_request *request)
{
	return request->context;
}

void scsi_submit(struct scsi_command *command, enum disk_op op, uint64_t offset, uint64_t length,
		 void (*done)(struct disk_request *request, int result))
{
	struct disk_request *request = &command->work.request;

	request->op = op;
	request->offset = offset;
	request->length = length;
	request->complete = done;
	request->context = command;
	disk_queue_submit(command->queue, command->work.device->disk, request);
}

void scsi_cdb_range(const uint8_t *cdb, uint64_t *lba, uint32_t *count)
{
	switch (cdb[0] >> 5) { /* the group code tells the length of the CDB, SPC-4 4.2.5.1 */
	case 0:
		*lba = be32_get(cdb) & 0x1fffff;
		*count = cdb[4] ? cdb[4] : 256;
		break;
	case 4:
		*lba = be64_get(cdb + 2);
		*count = be32_get(cdb + 10);
		break;
	case 5:
		*lba = be32_get(cdb + 2);
		*count = be32_get(cdb + 6);
		break;
	default:
		*lba = be32_get(cdb + 2);
		*count = be16_get(cdb + 7);
		break;
	}
}

bool scsi_range_exists(const struct scsi_device *device, uint64_t lba, uint64_t count)
{
	return range_fits_u64(lba, count, device->block_count);
}

static void read_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_READ, result);
	else
		scsi_complete_good(command, command->length);
}

static void read_start(struct scsi_command *command)
{
	struct disk_request *request = &command->work.request;

	request->iov = command->iov;
	request->iov_count = command->iov_count;
	request->force_unit_access = false;
	command->stored = true;
	scsi_submit(command, DISK_OP_READ, command->work.position, command->length, read_done);
}

static void flushed_before_read(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_FLUSH, result);
	else
		read_start(command);
}

void scsi_read_blocks(struct scsi_device *device, struct scsi_command *command)
{
	bool fua = command->cdb[0] != SCSI_READ_6 && (command->cdb[1] & 0x08);
	uint64_t lba, bytes;
	uint32_t count;

	scsi_cdb_range(command->cdb, &lba, &count);
	bytes = (uint64_t)count * device->block_size;
	if (!scsi_range_exists(device, lba, count)) {
		scsi_complete_sense(command, SENSE_LBA_OUT_OF_RANGE);
		return;
	}
	if (bytes > command->length || bytes > SCSI_MAX_TRANSFER) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	if (count == 0) {
		scsi_complete_good(command, 0);
		return;
	}
	scsi_trim(command, (uint32_t)bytes);
	command->work.position = lba * device->block_size;
	/* FUA: what is read is what is on the medium (SBC-4 5.8), so the cache goes there first. */
	if (fua && !device->info.read_only)
		scsi_submit(command, DISK_OP_FLUSH, 0, 0, flushed_before_read);
	else
		read_start(command);
}

/* --- INQUIRY ---------------------------------------------------------------------------------- */

static void standard_inquiry(struct scsi_command *command, const struct scsi_identity *id)
{
	uint8_t data[96] = {0};

	data[0] = id->device_type;
	data[1] = id->removable ? 0x80 : 0;
	data[2] = 5;    /* SPC-3, as Hyper-V's own disks say */
	data[3] = 0x02; /* response data format */
	data[4] = sizeof(data) - 5;
	data[7] = 0x02; /* CMDQUE */
	memcpy(data + 8, INQUIRY_VENDOR, 8);
	memcpy(data + 16, id->product, 16);
	memcpy(data + 32, INQUIRY_REVISION, 4);
	be16_put(data + 58, 0x00a0); /* SAM-5 */
	be16_put(data + 60, 0x0300); /* SPC-3 */
	be16_put(data + 62, id->command_set);
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 3));
}

static size_t identifier_text(const struct scsi_device *device, char *text)
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < 16; i++) {
		text[i * 2] = digits[device->info.identifier.bytes[i] >> 4];
		text[i * 2 + 1] = digits[device->info.identifier.bytes[i] & 15];
	}
	return 32;
}

/* Device identification (SPC-4 7.8.6): an NAA name as Hyper-V forms it, IEEE registered extended
 * with Microsoft's OUI, and the T10 vendor name that carries the whole identifier. */
static size_t vpd_identification(const struct scsi_device *device, uint8_t *page)
{
	static const uint8_t registered[4] = {0x60, 0x02, 0x24, 0x80};
	const uint8_t *identifier = device->info.identifier.bytes;
	uint8_t *p = page + 4;

	p[0] = 0x01; /* binary */
	p[1] = 0x03; /* NAA, of the logical unit */
	p[3] = 16;
	memcpy(p + 4, registered, 4);
	memcpy(p + 8, identifier, 6); /* leaves out the bytes that hold a GUID's version and variant */
	memcpy(p + 14, identifier + 10, 6);
	p += 20;
	p[0] = 0x02; /* ASCII */
	p[1] = 0x01; /* T10 vendor */
	p[3] = 8 + 32;
	memcpy(p + 4, INQUIRY_VENDOR, 8);
	identifier_text(device, (char *)p + 12);
	return 20 + 4 + 8 + 32;
}

static size_t vpd_supported(const struct scsi_identity *id, uint8_t *page)
{
	static const uint8_t always[3] = {0x00, 0x80, 0x83};

	memcpy(page + 4, always, sizeof(always));
	for (unsigned i = 0; i < id->vpd_count; i++)
		page[4 + sizeof(always) + i] = id->vpd_pages[i];
	return sizeof(always) + id->vpd_count;
}

void scsi_inquiry(const struct scsi_device *device, struct scsi_command *command,
		  const struct scsi_identity *id)
{
	uint8_t page[128] = {0}, code = command->cdb[2];
	size_t size = 0;

	if (!(command->cdb[1] & 0x01) && code == 0) {
		standard_inquiry(command, id);
		return;
	}
	if (command->cdb[1] & 0x01) {
		if (code == 0x00)
			size = vpd_supported(id, page);
		else if (code == 0x80)
			size = identifier_text(device, (char *)page + 4);
		else if (code == 0x83)
			size = vpd_identification(device, page);
		else
			for (unsigned i = 0; i < id->vpd_count; i++)
				if (id->vpd_pages[i] == code)
					size = id->vpd_page(device, code, page);
	}
	if (size == 0) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	page[0] = id->device_type;
	page[1] = code;
	be16_put(page + 2, (uint16_t)size);
	scsi_complete_data(command, page, size + 4, be16_get(command->cdb + 3));
}

void scsi_busy(struct scsi_command *command)
{
	begin(command, NULL);
	command->status = SCSI_STATUS_BUSY;
	complete(command);
}

void scsi_inquiry_absent(struct scsi_command *command)
{
	uint8_t data[36] = {0};

	begin(command, NULL);
	data[0] = 0x7f; /* not capable of a unit here */
	data[2] = 5;
	data[3] = 0x02;
	data[4] = sizeof(data) - 5;
	memset(data + 8, ' ', sizeof(data) - 8);
	memcpy(data + 8, INQUIRY_VENDOR, 8);
	scsi_complete_data(command, data, sizeof(data), be16_get(command->cdb + 3));
}

/* --- other commands of SPC -------------------------------------------------------------------- */

void scsi_report_luns(struct scsi_command *command, const uint8_t *luns, unsigned count)
{
	uint8_t data[8 + 256 * 8] = {0};

	begin(command, NULL);
	/* SELECT REPORT 1 asks for well known units, of which there is none. */
	if (command->cdb[2] > 2) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	if (command->cdb[2] == 1 || count > 256)
		count = 0;
	be32_put(data, count * 8);
	for (unsigned i = 0; i < count; i++)
		data[8 + i * 8 + 1] = luns[i]; /* peripheral device addressing, SAM-5 4.7.7.2 */
	scsi_complete_data(command, data, 8 + count * 8, be32_get(command->cdb + 6));
}

/* Errors travel with the command that met them, so there is never one left to tell. */
void scsi_request_sense(struct scsi_command *command)
{
	uint8_t data[SCSI_SENSE_SIZE] = {0x70, [7] = SCSI_SENSE_SIZE - 8};

	if (command->cdb[1] & 0x01) /* descriptor format is not offered */
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
	else
		scsi_complete_data(command, data, sizeof(data), command->cdb[4]);
}

/* The short block descriptor, SBC-4 6.5.2.2. */
static size_t block_descriptor(const struct scsi_device *device, uint8_t *to)
{
	be32_put(to, (uint32_t)min_u64(device->block_count, UINT32_MAX));
	be32_put(to + 4, device->block_size); /* 24 bits below a reserved byte */
	return 8;
}

void scsi_mode_sense(const struct scsi_device *device, struct scsi_command *command, uint8_t medium_type,
		     uint8_t device_specific, const struct scsi_mode_page *pages, unsigned count)
{
	bool ten = command->cdb[0] == SCSI_MODE_SENSE_10, found = false;
	uint8_t control = command->cdb[2] >> 6, code = command->cdb[2] & 0x3f, subpage = command->cdb[3];
	size_t header = ten ? 8 : 4, at = header;
	uint8_t data[256] = {0};

	if (control == 3) {
		scsi_complete_sense(command, SENSE_SAVING_NOT_SUPPORTED);
		return;
	}
	if (!(command->cdb[1] & 0x08))
		at += block_descriptor(device, data + at);
	data[ten ? 7 : 3] = (uint8_t)(at - header);
	for (unsigned i = 0; i < count && (subpage == 0 || subpage == 0xff); i++) {
		if (code != 0x3f && code != pages[i].code)
			continue;
		found = true;
		data[at] = pages[i].code;
		data[at + 1] = pages[i].size;
		if (control != 1) /* nothing is changeable */
			memcpy(data + at + 2, pages[i].data, pages[i].size);
		at += 2u + pages[i].size;
	}
	if (!found) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	if (ten) {
		be16_put(data, (uint16_t)(at - 2));
		data[2] = medium_type;
		data[3] = device_specific;
	} else {
		data[0] = (uint8_t)(at - 1);
		data[1] = medium_type;
		data[2] = device_specific;
	}
	scsi_complete_data(command, data, at, ten ? be16_get(command->cdb + 7) : command->cdb[4]);
}

/* --- the device ------------------------------------------------------------------------------- */

void scsi_execute(struct scsi_device *device, struct scsi_command *command)
{
	begin(command, device);
	device->ops->execute(device, command);
}

void scsi_device_destroy(struct scsi_device *device)
{
	free(device);
}

void scsi_get_condition(struct scsi_device *device, struct scsi_condition *condition)
{
	*condition = (struct scsi_condition){.block_size = device->block_size,
					     .block_count = atomic_load(&device->block_count),
					     .changed = atomic_load(&device->changed)};
	if (device->ops->get_drive)
		device->ops->get_drive(device, &condition->drive);
}

void scsi_set_condition(struct scsi_device *device, const struct scsi_condition *condition, bool with_drive)
{
	atomic_store(&device->changed, condition->changed);
	if (with_drive && device->ops->set_drive)
		device->ops->set_drive(device, &condition->drive);
}
