// SPDX-License-Identifier: GPL-2.0-or-later
/* The SCSI logical units, command by command, over a disk in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "tests/double/memory_disk.h"
#include "vsp/storage/scsi.h"

#define DISK_SIZE (8u << 20)
#define BUFFER    (64u << 10)

struct bench {
	struct disk *disk;
	struct scsi_device *device;
	struct disk_queue *queue;
	struct scsi_command command;
	struct iovec iov[4];
	uint8_t *buffer;
	unsigned completed;
};

static void completed(struct scsi_command *command)
{
	struct bench *b = command->context;

	b->completed++;
}

static struct bench *bench_create(struct disk *disk, bool dvd)
{
	struct bench *b = calloc(1, sizeof(*b));

	b->disk = disk;
	b->buffer = malloc(BUFFER);
	if (dvd)
		assert_int_equal(scsi_dvd_create(&b->device, disk, NULL), 0);
	else
		assert_int_equal(scsi_disk_create(&b->device, disk, NULL), 0);
	assert_int_equal(disk_queue_create(&b->queue, 16, NULL), 0);
	return b;
}

static void bench_destroy(struct bench *b)
{
	scsi_device_destroy(b->device);
	disk_queue_destroy(b->queue);
	if (b->disk)
		memory_disk_destroy(b->disk);
	free(b->buffer);
	free(b);
}

static int setup(void **state)
{
	struct bench *b = bench_create(memory_disk_create(DISK_SIZE, DISK_SIZE), false);

	for (unsigned i = 0; i < DISK_SIZE; i++)
		b->disk->data[i] = (uint8_t)(i / 512 + i);
	*state = b;
	return 0;
}

static int setup_dvd(void **state)
{
	struct bench *b = bench_create(memory_disk_create(DISK_SIZE, DISK_SIZE), true);

	for (unsigned i = 0; i < DISK_SIZE; i++)
		b->disk->data[i] = (uint8_t)(i / 2048 + i);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bench_destroy(*state);
	return 0;
}

/* Run a command with a buffer of `length` bytes (in three pieces, the first unaligned); returns the
 * sense as key << 16 | asc << 8 | ascq, 0 when good. What lies behind the buffer must not change. */
static uint32_t run(struct bench *b, const void *cdb, size_t cdb_size, uint32_t length)
{
	struct scsi_command *c = &b->command;
	uint32_t first = length < 100 ? length : 100, second = (length - first) / 2;
	uint8_t guard[64];

	memset(c, 0, sizeof(*c));
	memcpy(c->cdb, cdb, cdb_size);
	b->iov[0] = (struct iovec){b->buffer, first};
	b->iov[1] = (struct iovec){b->buffer + first, second};
	b->iov[2] = (struct iovec){b->buffer + first + second, length - first - second};
	assert_true(length + sizeof(guard) <= BUFFER);
	memset(b->buffer + length, 0x5a, sizeof(guard));
	c->iov = b->iov;
	c->iov_count = 3;
	c->length = length;
	c->queue = b->queue;
	c->complete = completed;
	c->context = b;
	b->completed = 0;
	scsi_execute(b->device, c);
	while (b->completed == 0) {
		disk_queue_kick(b->queue);
		assert_int_not_equal(disk_queue_process(b->queue), 0);
	}
	assert_int_equal(b->completed, 1);
	assert_int_equal(disk_queue_in_flight(b->queue), 0);
	memset(guard, 0x5a, sizeof(guard));
	assert_memory_equal(b->buffer + length, guard, sizeof(guard));
	if (c->status == SCSI_STATUS_GOOD)
		return 0;
	assert_int_equal(c->status, SCSI_STATUS_CHECK_CONDITION);
	assert_int_equal(c->sense_length, 18);
	assert_int_equal(c->sense[0], 0x70);
	assert_int_equal(c->transferred, 0);
	return (uint32_t)c->sense[2] << 16 | (uint32_t)c->sense[12] << 8 | c->sense[13];
}

#define RUN(b, length, ...)                                                                                  \
	run(b, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), length)

static uint32_t run_io(struct bench *b, uint8_t op, uint8_t flags, uint64_t lba, uint32_t count,
		       uint32_t length)
{
	uint8_t cdb[16] = {op, flags};

	switch (op >> 5) {
	case 0:
		be32_put(cdb, (uint32_t)op << 24 | (uint32_t)lba);
		cdb[4] = (uint8_t)count;
		break;
	case 4:
		be64_put(cdb + 2, lba);
		be32_put(cdb + 10, count);
		break;
	case 5:
		be32_put(cdb + 2, (uint32_t)lba);
		be32_put(cdb + 6, count);
		break;
	default:
		be32_put(cdb + 2, (uint32_t)lba);
		be16_put(cdb + 7, (uint16_t)count);
		break;
	}
	return run(b, cdb, sizeof(cdb), length);
}

/* --- identity --------------------------------------------------------------------------------- */

static void test_inquiry(void **state)
{
	struct bench *b = *state;

	assert_int_equal(RUN(b, 96, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(b->command.transferred, 96);
	assert_int_equal(b->buffer[0], 0);
	assert_int_equal(b->buffer[2], 5);
	assert_int_equal(b->buffer[4], 91);
	assert_memory_equal(b->buffer + 8, "Msft    Virtual Disk    1.0 ", 28);
	/* Cut to the allocation length, and to a buffer smaller than that. */
	memset(b->buffer, 0xee, 64);
	assert_int_equal(RUN(b, 64, 0x12, 0, 0, 0, 36), 0);
	assert_int_equal(b->command.transferred, 36);
	assert_int_equal(b->buffer[36], 0xee);
	assert_int_equal(RUN(b, 20, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(b->command.transferred, 20);
	assert_int_equal(RUN(b, 0, 0x12, 0, 0, 0, 96), 0);
	assert_false(b->command.stored);
	/* A page code without EVPD; an unknown page. */
	assert_int_equal(RUN(b, 96, 0x12, 0, 0x80, 0, 96), 0x052400);
	assert_int_equal(RUN(b, 96, 0x12, 1, 0xb7, 0, 96), 0x052400);
}

static void test_vital_product_data(void **state)
{
	static const uint8_t pages[] = {0, 0x00, 0, 6, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
	static const uint8_t naa[] = {1,    3,    0,    16,   0x60, 0x02, 0x24, 0x80, 0xa0, 0xa1,
				      0xa2, 0xa3, 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
	struct bench *b = *state;

	assert_int_equal(RUN(b, 255, 0x12, 1, 0x00, 0, 255), 0);
	assert_int_equal(b->command.transferred, sizeof(pages));
	assert_memory_equal(b->buffer, pages, sizeof(pages));
	assert_int_equal(RUN(b, 255, 0x12, 1, 0x80, 0, 255), 0);
	assert_memory_equal(b->buffer + 4, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", 32);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0x83, 0, 255), 0);
	assert_memory_equal(b->buffer + 4, naa, sizeof(naa));
	assert_int_equal(be16_get(b->buffer + 2), b->command.transferred - 4);
	assert_int_equal(b->buffer[24], 2);
	assert_memory_equal(b->buffer + 28, "Msft    a0a1", 12);

	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb0, 0, 255), 0);
	assert_int_equal(be16_get(b->buffer + 2), 0x3c);
	assert_int_equal(b->buffer[4], 1);
	assert_int_equal(be32_get(b->buffer + 8), SCSI_MAX_TRANSFER / 512);
	assert_true(be32_get(b->buffer + 20) > 0);
	assert_int_equal(be32_get(b->buffer + 24), 256);
	assert_int_equal(be32_get(b->buffer + 28), 8);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb1, 0, 255), 0);
	assert_int_equal(be16_get(b->buffer + 4), 1);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb2, 0, 255), 0);
	assert_int_equal(b->buffer[5], 0xe4);
	assert_int_equal(b->buffer[6], 2);
}

static void test_no_provisioning(void **state)
{
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct bench *b;

	disk->info.can_discard = false;
	b = bench_create(disk, false);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb0, 0, 255), 0);
	assert_int_equal(be32_get(b->buffer + 20), 0);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb2, 0, 255), 0);
	assert_int_equal(b->buffer[5], 0);
	assert_int_equal(RUN(b, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 0);
	assert_int_equal(b->buffer[14], 0);
	assert_int_equal(RUN(b, 24, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), 0x052000);
	assert_int_equal(run_io(b, 0x93, 0x08, 0, 8, 512), 0x052400);
	bench_destroy(b);
}

static void test_capacity(void **state)
{
	struct bench *b = *state;

	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), DISK_SIZE / 512 - 1);
	assert_int_equal(be32_get(b->buffer + 4), 512);
	assert_int_equal(RUN(b, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 0);
	assert_int_equal(be64_get(b->buffer), DISK_SIZE / 512 - 1);
	assert_int_equal(be32_get(b->buffer + 8), 512);
	assert_int_equal(b->buffer[13], 3);
	assert_int_equal(b->buffer[14], 0xc0);
	assert_int_equal(RUN(b, 32, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 0x052400);
}

/* SPC-4 5.14: told once, by a command that may tell it, and not carried out. */
static void test_resized(void **state)
{
	struct bench *b = bench_create(memory_disk_create(DISK_SIZE, DISK_SIZE), false);

	assert_int_equal(run_io(b, 0x28, 0, DISK_SIZE / 512, 1, 512), 0x052100);
	b->disk->info.size = DISK_SIZE / 2;
	scsi_disk_resized(b->device);
	assert_int_equal(RUN(b, 255, 0x12, 1, 0xb1, 0, 255), 0);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 512), 0x062a09);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 512), 0);
	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), DISK_SIZE / 1024 - 1);
	assert_int_equal(run_io(b, 0x28, 0, DISK_SIZE / 1024, 1, 512), 0x052100);
	bench_destroy(b);
}

static void test_large_capacity(void **state)
{
	struct bench *b = bench_create(memory_disk_create(4ull << 40, 0), false);

	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), UINT32_MAX);
	assert_int_equal(RUN(b, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 0);
	assert_int_equal(be64_get(b->buffer), (4ull << 40) / 512 - 1);
	/* An address that needs 33 bits reaches the disk (which has nothing there). */
	assert_int_equal(run_io(b, 0x88, 0, 0x100000000, 1, 512), 0x031100);
	bench_destroy(b);
}

static void test_native_4k(void **state)
{
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct bench *b;

	disk->info.logical_sector_size = 4096;
	disk->data[4096 * 3] = 0x77;
	b = bench_create(disk, false);
	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), DISK_SIZE / 4096 - 1);
	assert_int_equal(be32_get(b->buffer + 4), 4096);
	assert_int_equal(run_io(b, 0x28, 0, 3, 1, 4096), 0);
	assert_int_equal(b->buffer[0], 0x77);
	assert_int_equal(run_io(b, 0x28, 0, 3, 1, 4095), 0x052400);
	bench_destroy(b);
}

/* --- reading and writing ---------------------------------------------------------------------- */

static void test_read(void **state)
{
	static const uint8_t ops[] = {0x08, 0x28, 0x88, 0xa8};
	struct bench *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		memset(b->buffer, 0, 4096);
		assert_int_equal(run_io(b, ops[i], 0, 100, 8, 4096), 0);
		assert_int_equal(b->command.transferred, 4096);
		assert_true(b->command.stored);
		assert_memory_equal(b->buffer, b->disk->data + 100 * 512, 4096);
	}
	/* A buffer longer than the command: the rest is left alone. */
	memset(b->buffer, 0xcc, 4096);
	assert_int_equal(run_io(b, 0x28, 0, 7, 1, 4096), 0);
	assert_int_equal(b->command.transferred, 512);
	assert_int_equal(b->buffer[512], 0xcc);
	/* READ (6) of 0 blocks means 256; the buffer is too short for them. */
	assert_int_equal(run_io(b, 0x08, 0, 0, 0, 512), 0x052400);
	assert_int_equal(run_io(b, 0x28, 0, 0, 0, 0), 0);
	assert_int_equal(b->command.transferred, 0);
}

static void test_write(void **state)
{
	static const uint8_t ops[] = {0x0a, 0x2a, 0x8a, 0xaa, 0x2e, 0x8e, 0xae};
	struct bench *b = *state;
	uint8_t before[512];

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		memset(b->buffer, 0x10 + (int)i, 4096);
		memcpy(before, b->disk->data + 208 * 512, 512);
		assert_int_equal(run_io(b, ops[i], 0, 200, 8, 4096), 0);
		assert_int_equal(b->command.transferred, 4096);
		assert_false(b->command.stored);
		assert_memory_equal(b->disk->data + 200 * 512, b->buffer, 4096);
		assert_memory_equal(b->disk->data + 208 * 512, before, 512);
	}
	assert_int_equal(b->disk->durable_writes, 3); /* WRITE AND VERIFY */
	assert_int_equal(run_io(b, 0x2a, 0x08, 200, 8, 4096), 0);
	assert_int_equal(b->disk->durable_writes, 4);
}

static void test_read_from_medium(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_io(b, 0x28, 0x08, 5, 1, 512), 0);
	assert_int_equal(b->disk->count[DISK_OP_FLUSH], 1);
	assert_memory_equal(b->buffer, b->disk->data + 5 * 512, 512);
	b->disk->fail = ENOSPC;
	assert_int_equal(run_io(b, 0x28, 0x08, 5, 1, 512), 0x072707);
}

static void test_bad_ranges(void **state)
{
	static const uint8_t ops[] = {0x28, 0x2a, 0x88, 0x8a, 0xa8, 0xaa, 0x2e, 0x2f, 0x35, 0x91, 0x41, 0x93};
	struct bench *b = *state;
	uint64_t end = DISK_SIZE / 512;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		assert_int_equal(run_io(b, ops[i], 0, end, 1, 4096), 0x052100);
		assert_int_equal(run_io(b, ops[i], 0, end - 1, 2, 4096), 0x052100);
	}
	assert_int_equal(run_io(b, 0x88, 0, UINT64_MAX, 1, 4096), 0x052100);
	assert_int_equal(run_io(b, 0x8a, 0, UINT64_MAX - 1, 8, 4096), 0x052100);
	assert_int_equal(run_io(b, 0x88, 0, 0, UINT32_MAX, 4096), 0x052100);
	/* More blocks than the buffer holds: nothing moves. */
	assert_int_equal(run_io(b, 0x28, 0, 0, 9, 4096), 0x052400);
	assert_int_equal(run_io(b, 0x2a, 0, 0, 9, 4096), 0x052400);
	assert_int_equal(b->disk->count[DISK_OP_READ] + b->disk->count[DISK_OP_WRITE], 0);
	/* The last block is there. */
	assert_int_equal(run_io(b, 0x28, 0, end - 1, 1, 512), 0);
	assert_memory_equal(b->buffer, b->disk->data + DISK_SIZE - 512, 512);
}

static void test_disk_errors(void **state)
{
	static const struct {
		int error;
		uint8_t op;
		uint32_t sense;
	} cases[] = {
	    {EIO, 0x28, 0x031100},     {EIO, 0x2a, 0x030c00},    {EIO, 0x35, 0x030c00},
	    {EBADMSG, 0x28, 0x031100}, {ENOSPC, 0x2a, 0x072707}, {EDQUOT, 0x2a, 0x072707},
	    {EROFS, 0x2a, 0x072700},   {ENOMEM, 0x28, 0x0b0000}, {ENODEV, 0x28, 0x044400},
	    {ENOSPC, 0x93, 0x072707},
	};
	struct bench *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		b->disk->fail = cases[i].error;
		assert_int_equal(run_io(b, cases[i].op, 0, 0, 1, 512), cases[i].sense);
	}
	b->disk->fail = 0;
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 512), 0);
}

static void test_flush(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_io(b, 0x35, 0, 0, 0, 0), 0);
	assert_int_equal(run_io(b, 0x91, 0, 0, 0, 0), 0);
	assert_int_equal(b->disk->count[DISK_OP_FLUSH], 2);
	assert_int_equal(run_io(b, 0x2f, 0, 0, 8, 0), 0);
	assert_int_equal(run_io(b, 0x2f, 2, 0, 8, 4096), 0x052400); /* BYTCHK */
}

static void test_read_only(void **state)
{
	static const uint8_t ops[] = {0x0a, 0x2a, 0x8a, 0xaa, 0x2e, 0x41, 0x93};
	struct disk *disk = memory_disk_create(DISK_SIZE, DISK_SIZE);
	struct bench *b;

	disk->info.read_only = true;
	b = bench_create(disk, false);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		assert_int_equal(run_io(b, ops[i], 0, 0, 1, 512), 0x072700);
	assert_int_equal(RUN(b, 24, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), 0x072700);
	assert_int_equal(run_io(b, 0x35, 0, 0, 0, 0), 0);
	assert_int_equal(run_io(b, 0x28, 0x08, 0, 1, 512), 0);
	assert_int_equal(RUN(b, 192, 0x1a, 0x08, 0x3f, 0, 192), 0);
	assert_int_equal(b->buffer[2], 0x90);
	assert_int_equal(disk->count[DISK_OP_WRITE] + disk->count[DISK_OP_FLUSH], 0);
	bench_destroy(b);
}

/* --- UNMAP and WRITE SAME --------------------------------------------------------------------- */

static void put_unmap(uint8_t *list, unsigned count, const uint64_t (*ranges)[2])
{
	memset(list, 0, 8 + 16 * count);
	be16_put(list, (uint16_t)(6 + 16 * count));
	be16_put(list + 2, (uint16_t)(16 * count));
	for (unsigned i = 0; i < count; i++) {
		be64_put(list + 8 + 16 * i, ranges[i][0]);
		be32_put(list + 16 + 16 * i, (uint32_t)ranges[i][1]);
	}
}

static uint32_t run_unmap(struct bench *b, unsigned count)
{
	uint8_t cdb[10] = {0x42};

	be16_put(cdb + 7, (uint16_t)(8 + 16 * count));
	return run(b, cdb, sizeof(cdb), 8 + 16 * count);
}

static void test_unmap(void **state)
{
	static const uint64_t good[][2] = {{8, 8}, {0, 0}, {64, 16}};
	static const uint64_t outside[][2] = {{0, 8}, {DISK_SIZE / 512, 1}};
	static const uint64_t huge[][2] = {{UINT64_MAX, UINT32_MAX}};
	struct bench *b = *state;
	uint8_t zeros[8192] = {0};

	put_unmap(b->buffer, 3, good);
	assert_int_equal(run_unmap(b, 3), 0);
	assert_int_equal(b->disk->count[DISK_OP_DISCARD], 2);
	assert_memory_equal(b->disk->data + 8 * 512, zeros, 8 * 512);
	assert_memory_equal(b->disk->data + 64 * 512, zeros, 16 * 512);
	assert_int_not_equal(b->disk->data[16 * 512], 0);
	/* Checked as a whole: nothing is unmapped when one range is wrong. */
	put_unmap(b->buffer, 2, outside);
	assert_int_equal(run_unmap(b, 2), 0x052100);
	put_unmap(b->buffer, 1, huge);
	assert_int_equal(run_unmap(b, 1), 0x052100);
	assert_int_equal(b->disk->count[DISK_OP_DISCARD], 2);
	/* A list that claims more than it has; none at all; too short; an error on the way. */
	put_unmap(b->buffer, 1, good);
	be16_put(b->buffer + 2, 0xfff0);
	assert_int_equal(run_unmap(b, 1), 0);
	assert_int_equal(RUN(b, 0, 0x42), 0);
	assert_int_equal(RUN(b, 4, 0x42, 0, 0, 0, 0, 0, 0, 0, 4), 0x051a00);
	assert_int_equal(RUN(b, 4, 0x42, 0, 0, 0, 0, 0, 0, 0, 24), 0x051a00);
	put_unmap(b->buffer, 3, good);
	b->disk->fail = EIO;
	b->disk->fail_after = 1;
	assert_int_equal(run_unmap(b, 3), 0x030c00);
}

static void test_unmap_limits(void **state)
{
	struct bench *b = *state;
	uint64_t ranges[257][2];

	for (unsigned i = 0; i < 257; i++) {
		ranges[i][0] = i;
		ranges[i][1] = 1;
	}
	put_unmap(b->buffer, 256, ranges);
	assert_int_equal(run_unmap(b, 256), 0);
	put_unmap(b->buffer, 257, ranges);
	assert_int_equal(run_unmap(b, 257), 0x052600);
}

static void test_write_same(void **state)
{
	struct bench *b = *state;
	uint8_t expected[512];

	memset(b->buffer, 0, 512);
	assert_int_equal(run_io(b, 0x93, 0, 32, 16, 512), 0);
	assert_int_equal(b->disk->count[DISK_OP_WRITE_ZEROES], 1);
	assert_int_equal(run_io(b, 0x93, 0x08, 64, 16, 512), 0);
	assert_int_equal(b->disk->count[DISK_OP_DISCARD], 1);
	assert_int_equal(run_io(b, 0x93, 0x09, 96, 16, 0), 0); /* no data-out buffer */
	assert_int_equal(b->disk->count[DISK_OP_DISCARD], 2);
	for (unsigned i = 0; i < 16 * 512; i++)
		assert_int_equal(b->disk->data[32 * 512 + i] | b->disk->data[64 * 512 + i] |
				     b->disk->data[96 * 512 + i],
				 0);

	/* A pattern, over more than one piece, with and without leave to unmap. */
	for (unsigned i = 0; i < 512; i++)
		expected[i] = b->buffer[i] = (uint8_t)(i * 7 + 1);
	assert_int_equal(run_io(b, 0x93, 0x08, 1, 5001, 512), 0);
	assert_int_equal(b->command.transferred, 512);
	for (unsigned i = 1; i <= 5001; i++)
		assert_memory_equal(b->disk->data + (size_t)i * 512, expected, 512);
	assert_int_not_equal(memcmp(b->disk->data, expected, 512), 0);
	assert_int_not_equal(memcmp(b->disk->data + 5002 * 512, expected, 512), 0);
	assert_int_equal(run_io(b, 0x41, 0, 6000, 10, 512), 0);
	assert_memory_equal(b->disk->data + 6009 * 512, expected, 512);

	assert_int_equal(run_io(b, 0x93, 0, 0, 0, 512), 0x052400);          /* WSNZ */
	assert_int_equal(run_io(b, 0x93, 0, 0, 8, 511), 0x052400);          /* less than a block */
	assert_int_equal(run_io(b, 0x93, 0x10, 0, 8, 512), 0x052400);       /* ANCHOR */
	assert_int_equal(run_io(b, 0x41, 0x01, 0, 8, 0), 0x052400);         /* NDOB is for (16) */
	assert_int_equal(run_io(b, 0x93, 0, 0, UINT32_MAX, 512), 0x052400); /* over the limit */
	b->disk->fail = EIO;
	b->disk->fail_after = 1;
	assert_int_equal(run_io(b, 0x93, 0, 0, 5000, 512), 0x030c00);
}

/* --- the rest --------------------------------------------------------------------------------- */

static void test_mode_sense(void **state)
{
	struct bench *b = *state;

	assert_int_equal(RUN(b, 192, 0x1a, 0x08, 0x3f, 0, 192), 0);
	assert_int_equal(b->buffer[0], b->command.transferred - 1);
	assert_int_equal(b->buffer[2], 0x10);
	assert_int_equal(b->buffer[3], 0);
	assert_int_equal(RUN(b, 192, 0x1a, 0x00, 0x08, 0, 192), 0);
	assert_int_equal(b->buffer[3], 8);
	assert_int_equal(be32_get(b->buffer + 4), DISK_SIZE / 512);
	assert_int_equal(be32_get(b->buffer + 8), 512);
	assert_int_equal(b->buffer[12], 0x08);
	assert_int_equal(b->buffer[13], 18);
	assert_int_equal(b->buffer[14], 0x04);
	assert_int_equal(RUN(b, 192, 0x1a, 0x08, 0x48, 0, 192), 0); /* changeable: nothing */
	assert_int_equal(b->buffer[6], 0);
	assert_int_equal(RUN(b, 192, 0x5a, 0x08, 0x08, 0, 0, 0, 0, 0, 192), 0);
	assert_int_equal(be16_get(b->buffer), b->command.transferred - 2);
	assert_int_equal(b->buffer[3], 0x10);
	assert_int_equal(b->buffer[8], 0x08);
	assert_int_equal(RUN(b, 192, 0x1a, 0x08, 0xc8, 0, 192), 0x053900);
	assert_int_equal(RUN(b, 192, 0x1a, 0x08, 0x19, 0, 192), 0x052400);
	assert_int_equal(RUN(b, 4, 0x1a, 0x08, 0x3f, 0, 192), 0);
	assert_int_equal(b->command.transferred, 4);
}

static void test_refused(void **state)
{
	/* PERSISTENT RESERVE IN, OUT, LOG SENSE, ATA PASS-THROUGH, MAINTENANCE IN, RESERVE, FORMAT, vendor.
	 */
	static const uint8_t ops[] = {0x5e, 0x5f, 0x4d, 0x85, 0xa1, 0xa3, 0x16, 0x04, 0xc0, 0x7f, 0xff};
	struct bench *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		assert_int_equal(RUN(b, 512, ops[i]), 0x052000);
	assert_int_equal(RUN(b, 0, 0x00), 0);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 1), 0);
	assert_int_equal(RUN(b, 18, 0x03, 0, 0, 0, 18), 0);
	assert_int_equal(b->buffer[2], 0);
}

static void test_report_luns(void **state)
{
	static const uint8_t luns[] = {0, 3, 63};
	struct bench *b = *state;
	struct scsi_command *c = &b->command;

	memset(c, 0, sizeof(*c));
	b->iov[0] = (struct iovec){b->buffer, 256};
	c->iov = b->iov;
	c->iov_count = 1;
	c->length = 256;
	c->cdb[0] = 0xa0;
	be32_put(c->cdb + 6, 256);
	c->complete = completed;
	c->context = b;
	scsi_report_luns(c, luns, 3);
	assert_int_equal(c->transferred, 32);
	assert_int_equal(be32_get(b->buffer), 24);
	assert_int_equal(be64_get(b->buffer + 8), 0);
	assert_int_equal(be64_get(b->buffer + 16), 3ull << 48);
	assert_int_equal(be64_get(b->buffer + 24), 63ull << 48);
	be32_put(c->cdb + 6, 8);
	scsi_report_luns(c, luns, 3);
	assert_int_equal(c->transferred, 8);
	memset(c->cdb, 0, sizeof(c->cdb));
	c->cdb[0] = 0x12;
	c->cdb[4] = 36;
	scsi_inquiry_absent(c);
	assert_int_equal(c->transferred, 36);
	assert_int_equal(b->buffer[0], 0x7f);
}

/* Any first bytes of a CDB, with any buffer: a completed command, nothing outside the buffer. */
static void test_any_command(void **state)
{
	struct bench *b = *state;
	uint32_t random = 12345;
	uint8_t cdb[16];

	for (unsigned i = 0; i < 200000; i++) {
		for (unsigned j = 0; j < sizeof(cdb); j++) {
			random = random * 1664525 + 1013904223;
			cdb[j] = random & 0x40000000 ? 0 : (uint8_t)(random >> 16);
		}
		cdb[0] = (uint8_t)i;
		run(b, cdb, sizeof(cdb), (random >> 8) % 3 == 0 ? 0 : (random >> 8) % 8192);
	}
}

/* --- DVD -------------------------------------------------------------------------------------- */

static void test_dvd_reads(void **state)
{
	struct bench *b = *state;

	assert_int_equal(RUN(b, 96, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(b->buffer[0], 5);
	assert_int_equal(b->buffer[1], 0x80);
	assert_memory_equal(b->buffer + 16, "Virtual DVD-ROM ", 16);
	assert_int_equal(RUN(b, 0, 0x00), 0);
	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), DISK_SIZE / 2048 - 1);
	assert_int_equal(be32_get(b->buffer + 4), 2048);
	assert_int_equal(run_io(b, 0x28, 0, 16, 2, 4096), 0);
	assert_memory_equal(b->buffer, b->disk->data + 16 * 2048, 4096);
	assert_int_equal(run_io(b, 0xa8, 0, 17, 1, 2048), 0);
	assert_memory_equal(b->buffer, b->disk->data + 17 * 2048, 2048);
	assert_int_equal(run_io(b, 0x28, 0, DISK_SIZE / 2048, 1, 2048), 0x052100);
	assert_int_equal(run_io(b, 0x28, 0, 0, 2, 2048), 0x052400);
	assert_int_equal(run_io(b, 0x2a, 0, 0, 1, 2048), 0x052000);
	assert_int_equal(b->disk->count[DISK_OP_WRITE], 0);
}

static void test_dvd_information(void **state)
{
	struct bench *b = *state;

	assert_int_equal(RUN(b, 255, 0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(be32_get(b->buffer), b->command.transferred - 4);
	assert_int_equal(be16_get(b->buffer + 6), 0x08); /* 8 MiB: a CD */
	assert_int_equal(RUN(b, 255, 0x46, 2, 0, 0x10, 0, 0, 0, 0, 255), 0);
	assert_int_equal(b->command.transferred, 8 + 12);
	assert_int_equal(be32_get(b->buffer + 12), 2048);
	assert_int_equal(RUN(b, 255, 0x43, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(be16_get(b->buffer), 18);
	assert_int_equal(b->buffer[14], 0xaa);
	assert_int_equal(be32_get(b->buffer + 16), DISK_SIZE / 2048);
	assert_int_equal(RUN(b, 255, 0x43, 2, 0, 0, 0, 0, 1, 0, 255), 0);
	assert_int_equal(be32_get(b->buffer + 8), 0x00000200); /* two seconds */
	assert_int_equal(RUN(b, 255, 0x43, 0, 1, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(b->command.transferred, 12);
	assert_int_equal(RUN(b, 255, 0x43, 0, 5, 0, 0, 0, 0, 0, 255), 0x052400);
	assert_int_equal(RUN(b, 255, 0x51, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(b->buffer[2], 0x0e);
	assert_int_equal(RUN(b, 255, 0x52, 1, 0, 0, 0, 1, 0, 0, 255), 0);
	assert_int_equal(b->buffer[5], 4);
	assert_int_equal(be32_get(b->buffer + 24), DISK_SIZE / 2048);
	assert_int_equal(RUN(b, 255, 0x52, 1, 0, 0, 0, 2, 0, 0, 255), 0x052400);
	assert_int_equal(RUN(b, 255, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(b->buffer[8], 0x2a);
	assert_int_equal(be16_get(b->buffer + 6), 0);
	assert_int_equal(RUN(b, 8, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), 0);
}

static void test_dvd_tray(void **state)
{
	struct bench *b = *state;

	/* The event of insertion is told once. */
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
	assert_int_equal(b->buffer[4], 2);
	assert_int_equal(b->buffer[5], 2);
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
	assert_int_equal(b->buffer[4], 0);
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8), 0);
	assert_int_equal(b->buffer[2], 0x80);
	assert_int_equal(RUN(b, 8, 0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8), 0x052400);
	/* Locked, then unlocked and out, then in again. */
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 1), 0);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 2), 0x055302);
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 0), 0);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 2), 0);
	assert_int_equal(RUN(b, 0, 0x00), 0x023a00);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 2048), 0x023a00);
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
	assert_int_equal(b->buffer[4], 3);
	assert_int_equal(b->buffer[5], 1);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 3), 0);
	assert_int_equal(RUN(b, 0, 0x00), 0);
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
	assert_int_equal(b->buffer[4], 2);
}

static void test_dvd_empty(void **state)
{
	struct bench *b = bench_create(NULL, true);

	assert_int_equal(RUN(b, 96, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(RUN(b, 0, 0x00), 0x023a00);
	assert_int_equal(RUN(b, 8, 0x25), 0x023a00);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 2048), 0x023a00);
	assert_int_equal(RUN(b, 255, 0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(be16_get(b->buffer + 6), 0);
	bench_destroy(b);
}

/* What GET EVENT STATUS NOTIFICATION tells: the event in the upper byte, door and medium in the lower one. */
static unsigned media_event(struct bench *b)
{
	assert_int_equal(RUN(b, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
	return (unsigned)b->buffer[4] << 8 | b->buffer[5];
}

static void test_dvd_medium_changes(void **state)
{
	struct bench *b = *state;
	struct disk *other = memory_disk_create(1 << 20, 1 << 20);
	struct scsi_condition before, after;

	memset(other->data, 0x77, 1 << 20);
	scsi_get_condition(b->device, &before);
	assert_int_equal(media_event(b), 0x0202);
	/* Out: the drive is not ready, says that the medium was removed, and answers what needs none. */
	scsi_dvd_set_medium(b->device, NULL);
	assert_int_equal(RUN(b, 0, 0x00), 0x023a00);
	assert_int_equal(media_event(b), 0x0300);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 2048), 0x023a00);
	assert_int_equal(RUN(b, 255, 0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(be16_get(b->buffer + 6), 0);
	/* Another: told once, to a command that may be told, by unit attention, and by an event. */
	scsi_dvd_set_medium(b->device, other);
	assert_int_equal(RUN(b, 96, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(RUN(b, 18, 0x03, 0, 0, 0, 18), 0);
	assert_int_equal(RUN(b, 255, 0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0);
	assert_int_equal(media_event(b), 0x0202);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 2048), 0x062800);
	assert_int_equal(run_io(b, 0x28, 0, 0, 1, 2048), 0);
	assert_memory_equal(b->buffer, other->data, 2048);
	assert_int_equal(RUN(b, 8, 0x25), 0);
	assert_int_equal(be32_get(b->buffer), (1 << 20) / 2048 - 1);
	assert_int_equal(run_io(b, 0x28, 0, (1 << 20) / 2048, 1, 2048), 0x052100);
	assert_int_equal(media_event(b), 0x0002);
	/* It is the same drive all the time. */
	scsi_get_condition(b->device, &after);
	assert_true(guid_equal(&before.drive.identifier, &after.drive.identifier));
	/* One that comes and goes before the guest looks leaves nothing to tell but that. */
	scsi_dvd_set_medium(b->device, b->disk);
	scsi_dvd_set_medium(b->device, NULL);
	assert_int_equal(RUN(b, 0, 0x00), 0x023a00);
	scsi_dvd_set_medium(b->device, b->disk);
	assert_int_equal(RUN(b, 0, 0x00), 0x062800);
	assert_int_equal(RUN(b, 0, 0x00), 0);
	memory_disk_destroy(other);
}

static void test_dvd_locked(void **state)
{
	struct bench *b = *state;

	assert_false(scsi_dvd_is_locked(b->device));
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 1), 0);
	assert_true(scsi_dvd_is_locked(b->device));
	/* The button: the guest is told once, and decides. */
	scsi_dvd_request_eject(b->device);
	assert_int_equal(media_event(b), 0x0102);
	assert_int_equal(media_event(b), 0x0002);
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 0), 0);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 2), 0);
	assert_false(scsi_dvd_is_locked(b->device));
	/* A tray that the guest has opened comes in with the new medium; by force the lock goes, too. */
	assert_int_equal(media_event(b), 0x0301);
	scsi_dvd_set_medium(b->device, b->disk);
	assert_int_equal(media_event(b), 0x0202);
	assert_int_equal(RUN(b, 0, 0x00), 0x062800);
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 1), 0);
	scsi_dvd_set_medium(b->device, NULL);
	assert_false(scsi_dvd_is_locked(b->device));
}

/* What a guest knows, and has done, goes on in another drive. */
static void test_dvd_condition(void **state)
{
	struct bench *b = *state, *other = bench_create(memory_disk_create(DISK_SIZE, DISK_SIZE), true);
	struct scsi_condition condition;

	assert_int_equal(media_event(b), 0x0202);
	assert_int_equal(RUN(b, 0, 0x1b, 0, 0, 0, 2), 0);
	assert_int_equal(RUN(b, 0, 0x1e, 0, 0, 0, 1), 0);
	scsi_get_condition(b->device, &condition);
	assert_true(condition.drive.ejected && condition.drive.locked && !condition.changed);
	scsi_set_condition(other->device, &condition, true);
	assert_int_equal(RUN(other, 0, 0x00), 0x023a00);
	assert_int_equal(media_event(other), 0x0301);
	assert_true(scsi_dvd_is_locked(other->device));
	/* A new medium that it was not told of yet. */
	scsi_dvd_set_medium(b->device, b->disk);
	scsi_get_condition(b->device, &condition);
	scsi_set_condition(other->device, &condition, true);
	assert_int_equal(RUN(other, 0, 0x00), 0x062800);
	assert_int_equal(media_event(other), 0x0202);
	bench_destroy(other);
}

static void test_empty_disk(void **state)
{
	struct disk *disk = memory_disk_create(0, 0);
	struct scsi_device *device;
	struct error err;

	assert_int_equal(scsi_disk_create(&device, disk, &err), -EINVAL);
	memory_disk_destroy(disk);
}

#define DISK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define DVD_TEST(f)  cmocka_unit_test_setup_teardown(f, setup_dvd, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    DISK_TEST(test_inquiry),
	    DISK_TEST(test_vital_product_data),
	    cmocka_unit_test(test_no_provisioning),
	    DISK_TEST(test_capacity),
	    cmocka_unit_test(test_resized),
	    cmocka_unit_test(test_large_capacity),
	    cmocka_unit_test(test_native_4k),
	    DISK_TEST(test_read),
	    DISK_TEST(test_write),
	    DISK_TEST(test_read_from_medium),
	    DISK_TEST(test_bad_ranges),
	    DISK_TEST(test_disk_errors),
	    DISK_TEST(test_flush),
	    cmocka_unit_test(test_read_only),
	    DISK_TEST(test_unmap),
	    DISK_TEST(test_unmap_limits),
	    DISK_TEST(test_write_same),
	    DISK_TEST(test_mode_sense),
	    DISK_TEST(test_refused),
	    DISK_TEST(test_report_luns),
	    DISK_TEST(test_any_command),
	    DVD_TEST(test_dvd_reads),
	    DVD_TEST(test_dvd_information),
	    DVD_TEST(test_dvd_tray),
	    DVD_TEST(test_any_command),
	    cmocka_unit_test(test_dvd_empty),
	    DVD_TEST(test_dvd_medium_changes),
	    DVD_TEST(test_dvd_locked),
	    DVD_TEST(test_dvd_condition),
	    cmocka_unit_test(test_empty_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
