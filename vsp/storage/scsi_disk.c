// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi_disk.c - a hard disk: SBC-4 on a virtual disk.
 *
 * The cache it reports is the host's: a write is durable after SYNCHRONIZE CACHE or with FUA.
 * Provisioning is thin where the image can free space; unmapped blocks read as zeros.
 */
#include "vsp/storage/scsi_device.h"

#include <errno.h>
#include <string.h>

#define MAX_UNMAP_DESCRIPTORS 256u
#define MAX_UNMAP_BYTES       (4ull << 30) /* a command; the guest sends several */
#define MAX_WRITE_SAME_BYTES  (1ull << 30)
#define PATTERN_BYTES         (64u << 10) /* WRITE SAME of something else than zeros */
#define PATTERN_COPIES        16

#define VPD_BLOCK_LIMITS          0xb0
#define VPD_BLOCK_CHARACTERISTICS 0xb1
#define VPD_PROVISIONING          0xb2

/* --- writing ---------------------------------------------------------------------------------- */

static void write_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_WRITE, result);
	else
		scsi_complete_good(command, command->length);
}

static void write_blocks(struct scsi_device *device, struct scsi_command *command, bool fua)
{
	uint64_t lba, bytes;
	uint32_t count;

	scsi_cdb_range(command->cdb, &lba, &count);
	bytes = (uint64_t)count * device->block_size;
	if (device->info.read_only) {
		scsi_complete_sense(command, SENSE_WRITE_PROTECTED);
		return;
	}
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
	command->work.request.iov = command->iov;
	command->work.request.iov_count = command->iov_count;
	command->work.request.force_unit_access = fua;
	scsi_submit(command, DISK_OP_WRITE, lba * device->block_size, bytes, write_done);
}

static void flush_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_FLUSH, result);
	else
		scsi_complete_good(command, 0);
}

static void synchronize_cache(struct scsi_device *device, struct scsi_command *command)
{
	uint64_t lba;
	uint32_t count;

	scsi_cdb_range(command->cdb, &lba, &count);
	if (!scsi_range_exists(device, lba, count))
		scsi_complete_sense(command, SENSE_LBA_OUT_OF_RANGE);
	else if (device->info.read_only)
		scsi_complete_good(command, 0);
	else
		scsi_submit(command, DISK_OP_FLUSH, 0, 0, flush_done);
}

/* VERIFY without BYTCHK: the host's storage checks what it holds, so only the range is looked at. */
static void verify(struct scsi_device *device, struct scsi_command *command)
{
	uint64_t lba;
	uint32_t count;

	scsi_cdb_range(command->cdb, &lba, &count);
	if (command->cdb[1] & 0x06)
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
	else if (!scsi_range_exists(device, lba, count))
		scsi_complete_sense(command, SENSE_LBA_OUT_OF_RANGE);
	else
		scsi_complete_good(command, 0);
}

static void write_and_verify(struct scsi_device *device, struct scsi_command *command)
{
	if (command->cdb[1] & 0x06)
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
	else
		write_blocks(device, command, true);
}

/* --- UNMAP (SBC-4 5.35) ----------------------------------------------------------------------- */

static void unmap_next(struct scsi_command *command);

static void unmap_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_DISCARD, result);
	else
		unmap_next(command);
}

/* One descriptor after the other: the list was checked as a whole before the first. */
static void unmap_next(struct scsi_command *command)
{
	const struct scsi_device *device = command->work.device;

	while (command->work.index < command->work.count) {
		const uint8_t *descriptor = command->work.memory + 8 + 16 * command->work.index++;
		uint64_t lba = be64_get(descriptor);
		uint32_t count = be32_get(descriptor + 8);

		if (count == 0)
			continue;
		scsi_submit(command, DISK_OP_DISCARD, lba * device->block_size,
			    (uint64_t)count * device->block_size, unmap_done);
		return;
	}
	scsi_complete_good(command, command->length);
}

/* What is wrong with the list, or 0; sets the number of descriptors. */
static uint32_t unmap_check(const struct scsi_device *device, struct scsi_command *command, size_t size)
{
	const uint8_t *list = command->work.memory;
	unsigned count = be16_get(list + 2) / 16u;
	uint64_t total = 0;

	if (count > (size - 8) / 16)
		count = (unsigned)((size - 8) / 16);
	if (count > MAX_UNMAP_DESCRIPTORS)
		return SENSE_INVALID_FIELD_IN_PARAMETERS;
	for (unsigned i = 0; i < count; i++) {
		uint64_t lba = be64_get(list + 8 + 16 * i);
		uint32_t blocks = be32_get(list + 8 + 16 * i + 8);

		if (!scsi_range_exists(device, lba, blocks))
			return SENSE_LBA_OUT_OF_RANGE;
		total += blocks;
	}
	if (total > MAX_UNMAP_BYTES / device->block_size)
		return SENSE_INVALID_FIELD_IN_PARAMETERS;
	command->work.count = count;
	return 0;
}

static void unmap(struct scsi_device *device, struct scsi_command *command)
{
	size_t size = min_u64(be16_get(command->cdb + 7), command->length);
	uint32_t sense;

	if (!device->info.can_discard) {
		scsi_complete_sense(command, SENSE_INVALID_OPERATION);
		return;
	}
	if (device->info.read_only) {
		scsi_complete_sense(command, SENSE_WRITE_PROTECTED);
		return;
	}
	if (command->cdb[1] & 0x01) { /* ANCHOR */
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	if (be16_get(command->cdb + 7) == 0) {
		scsi_complete_good(command, 0);
		return;
	}
	if (size < 8) {
		scsi_complete_sense(command, SENSE_PARAMETER_LIST_LENGTH);
		return;
	}
	command->work.memory = malloc(size);
	if (!command->work.memory) {
		scsi_complete_error(command, DISK_OP_DISCARD, -ENOMEM);
		return;
	}
	size = scsi_copy_out(command, command->work.memory, size);
	sense = unmap_check(device, command, size);
	if (sense)
		scsi_complete_sense(command, sense);
	else
		unmap_next(command);
}

/* --- WRITE SAME (SBC-4 5.50, 5.52) ------------------------------------------------------------ */

static bool all_zero(const uint8_t *data, size_t size)
{
	return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

static void zeros_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_WRITE, result);
	else
		scsi_complete_good(command, command->length);
}

static void pattern_next(struct scsi_command *command);

static void pattern_done(struct disk_request *request, int result)
{
	struct scsi_command *command = scsi_command_of(request);

	if (result < 0)
		scsi_complete_error(command, DISK_OP_WRITE, result);
	else
		pattern_next(command);
}

/* Every piece of the write points many times at the same copy of the pattern. */
static void pattern_next(struct scsi_command *command)
{
	struct disk_request *request = &command->work.request;
	uint64_t left = command->work.end - command->work.position, bytes = 0;
	int n = 0;

	if (left == 0) {
		scsi_complete_good(command, command->length);
		return;
	}
	for (; n < PATTERN_COPIES && bytes < left; n++) {
		command->work.pattern[n].iov_base = command->work.memory;
		command->work.pattern[n].iov_len = min_u64(PATTERN_BYTES, left - bytes);
		bytes += command->work.pattern[n].iov_len;
	}
	request->iov = command->work.pattern;
	request->iov_count = n;
	command->work.position += bytes;
	scsi_submit(command, DISK_OP_WRITE, command->work.position - bytes, bytes, pattern_done);
}

static void pattern_start(struct scsi_device *device, struct scsi_command *command, const uint8_t *block,
			  uint64_t offset, uint64_t bytes)
{
	command->work.memory = malloc(PATTERN_BYTES);
	command->work.pattern = calloc(PATTERN_COPIES, sizeof(*command->work.pattern));
	if (!command->work.memory || !command->work.pattern) {
		scsi_complete_error(command, DISK_OP_WRITE, -ENOMEM);
		return;
	}
	for (size_t at = 0; at < PATTERN_BYTES; at += device->block_size)
		memcpy(command->work.memory + at, block, device->block_size);
	command->work.position = offset;
	command->work.end = offset + bytes;
	pattern_next(command);
}

static void write_same(struct scsi_device *device, struct scsi_command *command)
{
	bool no_data = command->cdb[0] == SCSI_WRITE_SAME_16 && (command->cdb[1] & 0x01);
	bool may_unmap = command->cdb[1] & 0x08;
	uint8_t block[4096] = {0};
	uint64_t lba;
	uint32_t count;

	scsi_cdb_range(command->cdb, &lba, &count);
	if (device->info.read_only) {
		scsi_complete_sense(command, SENSE_WRITE_PROTECTED);
		return;
	}
	/* ANCHOR, protection, and the obsolete LBDATA and PBDATA are not offered; 0 blocks would mean
	 * all the rest (WSNZ). */
	if ((command->cdb[1] & 0xf6) || (may_unmap && !device->info.can_discard) || count == 0 ||
	    count > MAX_WRITE_SAME_BYTES / device->block_size ||
	    (!no_data && command->length < device->block_size)) {
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	if (!scsi_range_exists(device, lba, count)) {
		scsi_complete_sense(command, SENSE_LBA_OUT_OF_RANGE);
		return;
	}
	scsi_trim(command, no_data ? 0 : device->block_size);
	scsi_copy_out(command, block, device->block_size);
	if (all_zero(block, device->block_size))
		scsi_submit(command, may_unmap ? DISK_OP_DISCARD : DISK_OP_WRITE_ZEROES,
			    lba * device->block_size, (uint64_t)count * device->block_size, zeros_done);
	else
		pattern_start(device, command, block, lba * device->block_size,
			      (uint64_t)count * device->block_size);
}

/* --- what the disk is ------------------------------------------------------------------------- */

/* Thin provisioning is told in units of what the image allocates. */
static uint32_t unmap_granularity(const struct scsi_device *device)
{
	uint32_t bytes = device->info.block_size;

	if (bytes < device->info.physical_sector_size)
		bytes = device->info.physical_sector_size;
	return bytes > device->block_size ? bytes / device->block_size : 1;
}

/* SBC-4 6.6.4 */
static size_t vpd_block_limits(const struct scsi_device *device, uint8_t *page)
{
	uint32_t physical = device->info.physical_sector_size / device->block_size;

	page[4] = 0x01; /* WSNZ */
	be16_put(page + 6, (uint16_t)(physical ? physical : 1));
	be32_put(page + 8, SCSI_MAX_TRANSFER / device->block_size);
	if (device->info.can_discard) {
		be32_put(page + 20, (uint32_t)(MAX_UNMAP_BYTES / device->block_size));
		be32_put(page + 24, MAX_UNMAP_DESCRIPTORS);
		be32_put(page + 28, unmap_granularity(device));
		be32_put(page + 32, 0x80000000); /* alignment 0 is valid */
	}
	be64_put(page + 36, MAX_WRITE_SAME_BYTES / device->block_size);
	return 60;
}

static size_t vpd_page(const struct scsi_device *device, uint8_t code, uint8_t *page)
{
	switch (code) {
	case VPD_BLOCK_LIMITS:
		return vpd_block_limits(device, page);
	case VPD_BLOCK_CHARACTERISTICS:
		be16_put(page + 4, 1); /* non-rotating: nothing is gained by elevators in the guest */
		return 60;
	default: /* SBC-4 6.6.6: LBPU, LBPWS, LBPWS10, LBPRZ; thin */
		page[5] = device->info.can_discard ? 0xe4 : 0;
		page[6] = device->info.can_discard ? 2 : 0;
		return 4;
	}
}

static void inquiry(const struct scsi_device *device, struct scsi_command *command)
{
	static const uint8_t pages[] = {VPD_BLOCK_LIMITS, VPD_BLOCK_CHARACTERISTICS, VPD_PROVISIONING};
	static const struct scsi_identity identity = {
	    .device_type = 0x00,
	    .product = "Virtual Disk    ",
	    .vpd_pages = pages,
	    .vpd_count = ARRAY_SIZE(pages),
	    .command_set = 0x04c0, /* SBC-3 */
	    .vpd_page = vpd_page,
	};

	scsi_inquiry(device, command, &identity);
}

static void read_capacity_10(const struct scsi_device *device, struct scsi_command *command)
{
	uint8_t data[8];

	be32_put(data, (uint32_t)min_u64(device->block_count - 1, UINT32_MAX));
	be32_put(data + 4, device->block_size);
	scsi_complete_data(command, data, sizeof(data), sizeof(data));
}

static void service_action_in(const struct scsi_device *device, struct scsi_command *command)
{
	uint32_t physical = device->info.physical_sector_size / device->block_size;
	uint8_t data[32] = {0};

	if ((command->cdb[1] & 0x1f) != 0x10) { /* READ CAPACITY (16) */
		scsi_complete_sense(command, SENSE_INVALID_FIELD_IN_CDB);
		return;
	}
	be64_put(data, device->block_count - 1);
	be32_put(data + 8, device->block_size);
	data[13] = physical > 1 ? (uint8_t)__builtin_ctz(physical) : 0;
	if (device->info.can_discard)
		data[14] = 0xc0; /* LBPME, LBPRZ */
	scsi_complete_data(command, data, sizeof(data), be32_get(command->cdb + 10));
}

static void mode_sense(const struct scsi_device *device, struct scsi_command *command)
{
	static const uint8_t recovery[10] = {0xc0};      /* AWRE, ARRE */
	static const uint8_t write_back[18] = {0x04};    /* WCE */
	static const uint8_t control[10] = {0x02, 0x10}; /* GLTSD; unrestricted reordering */
	static const uint8_t exceptions[10] = {0x08};    /* DEXCPT: no informational exceptions */
	const struct scsi_mode_page pages[] = {
	    {.code = 0x01, .size = sizeof(recovery), .data = recovery},
	    {.code = 0x08, .size = sizeof(write_back), .data = write_back},
	    {.code = 0x0a, .size = sizeof(control), .data = control},
	    {.code = 0x1c, .size = sizeof(exceptions), .data = exceptions},
	};
	uint8_t specific = 0x10; /* DPOFUA */

	if (device->info.read_only)
		specific |= 0x80; /* WP */
	scsi_mode_sense(device, command, 0, specific, pages, ARRAY_SIZE(pages));
}

/* --- dispatch --------------------------------------------------------------------------------- */

/* SPC-4 5.14.7: these are carried out, whatever there is to tell. */
static bool may_be_told(uint8_t operation)
{
	return operation != SCSI_INQUIRY && operation != SCSI_REPORT_LUNS && operation != SCSI_REQUEST_SENSE;
}

static void execute(struct scsi_device *device, struct scsi_command *command)
{
	if (may_be_told(command->cdb[0]) && atomic_exchange(&device->changed, false)) {
		scsi_complete_sense(command, SENSE_CAPACITY_CHANGED);
		return;
	}
	switch (command->cdb[0]) {
	case SCSI_TEST_UNIT_READY:
	case SCSI_START_STOP_UNIT: /* there is nothing that spins */
	case SCSI_PREVENT_ALLOW_MEDIUM_REMOVAL:
		scsi_complete_good(command, 0);
		break;
	case SCSI_REQUEST_SENSE:
		scsi_request_sense(command);
		break;
	case SCSI_INQUIRY:
		inquiry(device, command);
		break;
	case SCSI_MODE_SENSE_6:
	case SCSI_MODE_SENSE_10:
		mode_sense(device, command);
		break;
	case SCSI_READ_CAPACITY_10:
		read_capacity_10(device, command);
		break;
	case SCSI_SERVICE_ACTION_IN_16:
		service_action_in(device, command);
		break;
	case SCSI_READ_6:
	case SCSI_READ_10:
	case SCSI_READ_12:
	case SCSI_READ_16:
		scsi_read_blocks(device, command);
		break;
	case SCSI_WRITE_6:
		write_blocks(device, command, false);
		break;
	case SCSI_WRITE_10:
	case SCSI_WRITE_12:
	case SCSI_WRITE_16:
		write_blocks(device, command, command->cdb[1] & 0x08);
		break;
	case SCSI_WRITE_AND_VERIFY_10:
	case SCSI_WRITE_AND_VERIFY_12:
	case SCSI_WRITE_AND_VERIFY_16:
		write_and_verify(device, command);
		break;
	case SCSI_VERIFY_10:
	case SCSI_VERIFY_12:
	case SCSI_VERIFY_16:
		verify(device, command);
		break;
	case SCSI_SYNCHRONIZE_CACHE_10:
	case SCSI_SYNCHRONIZE_CACHE_16:
		synchronize_cache(device, command);
		break;
	case SCSI_UNMAP:
		unmap(device, command);
		break;
	case SCSI_WRITE_SAME_10:
	case SCSI_WRITE_SAME_16:
		write_same(device, command);
		break;
	default: /* PERSISTENT RESERVE IN and OUT, LOG SENSE and the like among them */
		scsi_complete_sense(command, SENSE_INVALID_OPERATION);
		break;
	}
}

void scsi_disk_resized(struct scsi_device *device)
{
	struct disk_info info;

	disk_get_info(device->disk, &info);
	atomic_store(&device->block_count, info.size / device->block_size);
	atomic_store(&device->changed, true);
}

int scsi_disk_create(struct scsi_device **out, struct disk *disk, struct error *err)
{
	static const struct scsi_device_ops ops = {.execute = execute};
	struct scsi_device *device = calloc(1, sizeof(*device));

	if (!device)
		return error_set(err, ENOMEM, "no memory for a SCSI disk");
	device->ops = &ops;
	device->disk = disk;
	disk_get_info(disk, &device->info);
	device->block_size = device->info.logical_sector_size;
	device->block_count = device->info.size / device->block_size;
	if (device->block_count == 0) {
		free(device);
		return error_set(err, EINVAL, "the disk is empty: it holds no whole sector");
	}
	*out = device;
	return 0;
}
