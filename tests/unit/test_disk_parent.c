// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Differencing VHDX that are wrong, or whose parent is: each is refused with a sentence that says what, and
 * what to do. And those that are odd but right.
 */
#include "tests/unit/test_disk_images.h"

#include <sys/stat.h>

#include "disk/operation.h"
#include "disk/vhdx.h"

#define DISK_SIZE (4 * MIB)

/* Where disk_create() puts things. */
#define METADATA (2 * VHDX_UNIT)
#define BAT      (3 * VHDX_UNIT)
#define LOCATOR  (METADATA + 2 * VHDX_TABLE_SIZE)
#define ENTRY(i) (LOCATOR + 20 + (i) * 12)
#define SLOT     (METADATA + 32 + 5 * 32) /* of the locator, in the metadata table */

static char directory[64], base[96], child[96];

static void setup_with(uint32_t sector)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB,
		.logical_sector_size = sector };
	struct error err = { 0 };
	struct disk *disk;
	uint8_t *data = malloc(DISK_SIZE);

	options.replace = true;
	if (disk_create(base, &options, &err) != 0)
		fail_msg("%s", err.text);
	if (disk_open(&disk, base, NULL, &err) != 0)
		fail_msg("%s", err.text);
	memset(data, 0x11, DISK_SIZE);
	assert_int_equal(disk_write(disk, 0, data, DISK_SIZE, &err), 0);
	image_must_close(disk);
	free(data);
}

/* A full base and a child of it, in which the first sector of block 1 is written. */
static int setup(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .parent = base, .block_size = MIB,
		.replace = true };
	struct error err = { 0 };
	uint8_t sector[512];
	struct disk *disk;

	setup_with(512);
	if (disk_create(child, &options, &err) != 0)
		fail_msg("%s", err.text);
	if (disk_open(&disk, child, NULL, &err) != 0)
		fail_msg("%s", err.text);
	memset(sector, 0x22, sizeof(sector));
	assert_int_equal(disk_write(disk, MIB, sector, sizeof(sector), &err), 0);
	image_must_close(disk);
	return 0;
}

static int teardown(void **state)
{
	unlink(base);
	unlink(child);
	return 0;
}

static void patch(const char *path, uint64_t offset, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
	close(fd);
}

static void patch16(uint64_t offset, uint16_t value)
{
	patch(child, offset, &value, 2);
}

static void patch32(uint64_t offset, uint32_t value)
{
	patch(child, offset, &value, 4);
}

static void patch64(uint64_t offset, uint64_t value)
{
	patch(child, offset, &value, 8);
}

static uint32_t peek32(uint64_t offset)
{
	uint32_t value;
	int fd = open(child, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, &value, 4, (off_t)offset), 4);
	close(fd);
	return value;
}

/* Both ways of opening say it. */
static void refused(const char *path, int code, const char *text)
{
	for (int read_only = 0; read_only < 2; read_only++) {
		const struct disk_open_options options = { .read_only = read_only };
		struct error err = { 0 };
		struct disk *disk;
		int r = disk_open(&disk, path, &options, &err);

		if (r != -code || !strstr(err.text, text))
			fail_msg("%d, \"%s\" instead of %d, \"%s\"", r, err.text, -code, text);
	}
}

static struct disk *must_open(const char *path, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void expect_bytes(struct disk *disk, uint64_t offset, size_t size, uint8_t byte)
{
	uint8_t *data = malloc(size);
	struct error err = { 0 };

	if (disk_read(disk, offset, data, size, &err) != 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < size; i++)
		if (data[i] != byte)
			fail_msg("byte %zu is %#x, not %#x", (size_t)offset + i, data[i], byte);
	free(data);
}

/* --- the locator --- */

static void type(void) { patch32(LOCATOR, 1); }
static void no_linkage(void) { patch16(LOCATOR + peek32(ENTRY(0)), 'q'); }
static void no_path(void) { patch16(LOCATOR + peek32(ENTRY(1)), 'q'); }
static void no_guid(void) { patch16(LOCATOR + peek32(ENTRY(0) + 4) + 4, 'q'); }
static void key_outside(void) { patch32(ENTRY(0), 4096); }
static void value_outside(void) { patch32(ENTRY(1) + 4, UINT32_MAX); }
static void key_odd(void) { patch16(ENTRY(1) + 8, 25); }
static void value_empty(void) { patch16(ENTRY(0) + 10, 0); }
static void too_many(void) { patch16(LOCATOR + 18, UINT16_MAX); }
static void surrogate(void) { patch16(LOCATOR + peek32(ENTRY(1) + 4), 0xd800); }
static void nul(void) { patch16(LOCATOR + peek32(ENTRY(1) + 4) + 2, 0); }
static void twice(void) { patch(child, ENTRY(1), (uint32_t[]){ peek32(ENTRY(0)), peek32(ENTRY(0) + 4), peek32(ENTRY(0) + 8) }, 12); }
static void item_short(void) { patch32(SLOT + 20, 19); }
static void item_early(void) { patch32(SLOT + 16, 4096); }
static void item_late(void) { patch32(SLOT + 16, METADATA - 8); }
static void item_long(void) { patch32(SLOT + 20, UINT32_MAX); }
static void item_gone(void) { patch32(METADATA + 8, 5u << 16); }

static const struct locator_case {
	const char *name;
	void (*damage)(void);
	int code;
	const char *text;
} locator_cases[] = {
	{ "type", type, ENOTSUP, "parent locator is of type" },
	{ "no linkage", no_linkage, EBADMSG, "lacks the key \"parent_linkage\"" },
	{ "no path", no_path, EBADMSG, "names no file" },
	{ "no GUID", no_guid, EBADMSG, "no GUID" },
	{ "key outside", key_outside, EBADMSG, "a text at offset 4096" },
	{ "value outside", value_outside, EBADMSG, "a text at offset 4294967295" },
	{ "odd key", key_odd, EBADMSG, "of 25 bytes" },
	{ "empty value", value_empty, EBADMSG, "of 0 bytes" },
	{ "too many entries", too_many, EBADMSG, "more entries than it can hold" },
	{ "half a character", surrogate, EBADMSG, "no UTF-16" },
	{ "NUL in a path", nul, EBADMSG, "no UTF-16" },
	{ "key twice", twice, EBADMSG, "the key \"parent_linkage\" twice" },
	{ "item too short", item_short, EBADMSG, "is too short" },
	{ "item over the table", item_early, EBADMSG, "impossible place 0x1000" },
	{ "item past the region", item_late, EBADMSG, "impossible place" },
	{ "item too long", item_long, EBADMSG, "impossible place" },
	{ "no item", item_gone, EBADMSG, "without parent locator" },
};

/* Refused, and reparenting by force mends it. */
static void bad_locator(void **state)
{
	const struct locator_case *c = *state;
	struct error err = { 0 };
	struct disk *disk;

	setup(NULL);
	c->damage();
	refused(child, c->code, c->text);
	assert_true(disk_reparent(child, base, false, &err) < 0);
	if (disk_reparent(child, base, true, &err) != 0)
		fail_msg("%s", err.text);
	disk = must_open(child, false);
	expect_bytes(disk, MIB, 512, 0x22);
	expect_bytes(disk, MIB + 512, MIB, 0x11);
	image_must_close(disk);
	assert_int_equal(disk_check(child, stderr, &err), 0);
	teardown(NULL);
}

/* --- the parent --- */

static void missing(void **state)
{
	unlink(base);
	refused(child, ENOENT, "/base.vhdx; put it there, or name it by");
}

static void changed(void **state)
{
	struct disk *disk = must_open(base, false);
	char was[GUID_TEXT_SIZE], is[GUID_TEXT_SIZE];
	struct vhdx *v = disk->format;
	struct error err = { 0 };

	guid_format(&v->header.data_write_guid, was);
	assert_int_equal(disk_write(disk, 0, "x", 1, &err), 0);
	guid_format(&v->header.data_write_guid, is);
	image_must_close(disk);
	refused(child, ESTALE, was);
	refused(child, ESTALE, is);
	refused(child, ESTALE, "base.vhdx has been changed since");
	assert_int_equal(disk_reparent(child, base, false, &err), -ESTALE);
	assert_int_equal(disk_reparent(child, base, true, &err), 0);
	image_must_close(must_open(child, true));
}

static void itself(void **state)
{
	unlink(base);
	assert_int_equal(link(child, base), 0);
	refused(child, ELOOP, "whose own chain of parents it is in");
}

static void each_other(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .parent = child };
	char third[128];
	struct error err = { 0 };

	snprintf(third, sizeof(third), "%s/third.vhdx", directory);
	assert_int_equal(disk_create(third, &options, &err), 0);
	assert_int_equal(rename(third, base), 0);
	refused(child, ELOOP, "whose own chain of parents it is in");
}

static void raw(void **state)
{
	static const uint8_t zeros[64 * KIB];

	patch(base, 0, zeros, sizeof(zeros));
	refused(child, EBADMSG, "base.vhdx: no VHDX file");
}

static void other_sectors(void **state)
{
	setup_with(4096);
	refused(child, EBADMSG, "its sectors have 512 bytes, those of its parent");
}

static void smaller(void **state)
{
	uint8_t sector[512] = { 0x33 };
	struct error err = { 0 };
	struct disk *disk;

	patch64(METADATA + VHDX_TABLE_SIZE + 8, DISK_SIZE + 3 * MIB);
	disk = must_open(child, false);
	expect_bytes(disk, DISK_SIZE - 512, 512, 0x11);
	expect_bytes(disk, DISK_SIZE, 3 * MIB, 0);
	assert_int_equal(disk_write(disk, DISK_SIZE + MIB, sector, 512, &err), 0);
	expect_bytes(disk, DISK_SIZE + MIB + 1, MIB, 0);
	image_must_close(disk);
	assert_int_equal(disk_merge(child, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "bulkhead disk convert"));
}

static void locked(void **state)
{
	struct disk *disk = must_open(base, false);

	refused(child, EBUSY, "base.vhdx");
	image_must_close(disk);
	disk = must_open(child, false);
	for (int i = 0; i < 2; i++) {
		struct error err = { 0 };
		struct disk *other;

		assert_int_equal(disk_open(&other, base, NULL, &err), -EBUSY);
	}
	image_must_close(must_open(base, true));
	image_must_close(disk);
}

static void sixty_four(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX };
	char path[128], parent[128];
	struct error err = { 0 };
	struct disk *disk;

	strcpy(parent, child);
	options.parent = parent;
	for (unsigned i = 3; i <= 65; i++) {
		snprintf(path, sizeof(path), "%s/%u", directory, i);
		if (disk_create(path, &options, &err) != 0)
			fail_msg("%s", err.text);
		strcpy(parent, path);
	}
	refused(path, EMLINK, "more than 64 disks in a chain");
	unlink(path);
	snprintf(path, sizeof(path), "%s/64", directory);
	disk = must_open(path, false);
	expect_bytes(disk, 0, MIB, 0x11);
	expect_bytes(disk, MIB, 512, 0x22);
	image_must_close(disk);
	for (unsigned i = 3; i <= 64; i++) {
		snprintf(path, sizeof(path), "%s/%u", directory, i);
		assert_int_equal(unlink(path), 0);
	}
}

/* A parent with a log to replay, which stays as it is. */
static void parent_with_a_log(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB,
		.replace = true };
	struct disk_create_options of_child = { .format = DISK_FORMAT_VHDX, .parent = base, .replace = true };
	uint8_t sector[512];
	char command[300];
	struct error err = { 0 };
	struct disk *disk;

	memset(sector, 0x66, sizeof(sector));
	assert_int_equal(disk_create(child, &options, &err), 0);
	disk = must_open(child, false);
	assert_int_equal(disk_write(disk, 2 * MIB, sector, sizeof(sector), &err), 0);
	assert_int_equal(disk_flush(disk, &err), 0);
	snprintf(command, sizeof(command), "cp --sparse=always %s %s", child, base);
	assert_int_equal(system(command), 0);
	image_must_close(disk);
	/* Of its table in place nothing is left. */
	patch(base, BAT, &(uint64_t[4]){ 0 }, 32);
	assert_int_equal(disk_create(child, &of_child, &err), 0);
	disk = must_open(child, false);
	assert_int_equal(disk_write(disk, 0, sector, sizeof(sector), &err), 0);
	expect_bytes(disk, 512, 2 * MIB - 512, 0);
	expect_bytes(disk, 2 * MIB, 512, 0x66);
	expect_bytes(disk, 2 * MIB + 512, MIB, 0);
	image_must_close(disk);
	assert_int_equal(disk_merge(child, NULL, &err), 0);
	disk = must_open(base, true);
	expect_bytes(disk, 0, 512, 0x66);
	expect_bytes(disk, 2 * MIB, 512, 0x66);
	image_must_close(disk);
}

/* Hyper-V names Windows paths too; the relative one comes first. */
static void windows_paths(void **state)
{
	struct disk *disk = must_open(child, false);
	struct vhdx *v = disk->format;
	struct locator locator = { .linkage = v->locator.linkage, .volume_path = strdup("\\\\?\\Volume{0}\\x\\no.vhdx"),
		.absolute_path = strdup("C:\\Hyper-V\\base.vhdx") };
	struct error err = { 0 };

	assert_int_equal(vhdx_relink(v, &locator, &err), 0);
	image_must_close(disk);
	disk = must_open(child, true);
	assert_string_equal(disk_path(disk_parent(disk)), base);
	assert_null(((struct vhdx *)disk->format)->locator.relative_path);
	image_must_close(disk);
	/* Opening it for writing adds the relative one, which is taken from then on. */
	image_must_close(must_open(child, false));
	disk = must_open(child, true);
	v = disk->format;
	assert_string_equal(v->locator.relative_path, ".\\base.vhdx");
	assert_string_equal(v->locator.absolute_path, "C:\\Hyper-V\\base.vhdx");
	assert_false(v->locator_stale);
	image_must_close(disk);
}

/* A locator that has no room in the old one's place, in Greek and with a character beyond 16 bits. */
static void long_name(void **state)
{
	char name[300], path[400];
	struct error err = { 0 };

	memset(name, 'n', 200);
	strcpy(name + 200, "\xce\xb1\xf0\x9f\x98\x80.vhdx");
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	assert_int_equal(rename(base, path), 0);
	for (unsigned i = 0; i < 3; i++)
		if (disk_reparent(child, path, false, &err) != 0)
			fail_msg("%s", err.text);
	image_must_close(must_open(child, false));
	assert_int_equal(rename(path, base), 0);
	assert_int_equal(disk_reparent(child, base, false, &err), 0);
	image_must_close(must_open(child, false));
	assert_int_equal(disk_check(child, stderr, &err), 0);
}

/* --- the table and the bitmaps --- */

#define BITMAP_ENTRY (BAT + UINT64_C(4096) * 8) /* of the only chunk */
#define BITMAP       (4 * VHDX_UNIT)            /* where it is, with block 1 behind it */

static void bad_bitmap_entry(uint64_t entry, const char *text, const char *finding)
{
	const struct disk_open_options reading = { .read_only = true };
	char findings[1024] = "", sector[512];
	struct error err = { 0 };
	struct disk *disk;
	FILE *to;

	setup(NULL);
	patch64(BITMAP_ENTRY, entry);
	assert_int_equal(disk_open(&disk, child, NULL, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" without \"%s\"", err.text, text);
	/* For reading all is there that does not depend on it. */
	assert_int_equal(disk_open(&disk, child, &reading, &err), 0);
	expect_bytes(disk, 0, MIB, 0x11);
	expect_bytes(disk, 2 * MIB, 2 * MIB, 0x11);
	if (entry != (5 * VHDX_UNIT | VHDX_BITMAP_PRESENT))
		assert_int_equal(disk_read(disk, MIB, sector, 512, &err), -EBADMSG);
	image_must_close(disk);
	to = fmemopen(findings, sizeof(findings), "w");
	assert_int_equal(disk_check(child, to, &err), -EBADMSG);
	fclose(to);
	if (!strstr(findings, finding))
		fail_msg("\"%s\" without \"%s\"", findings, finding);
	teardown(NULL);
}

static void bad_bitmap(void **state)
{
	log_set_level(LOG_LEVEL_ERROR - 1);
	bad_bitmap_entry(0, "block 1 is partially present, but its chunk 0 has no sector bitmap",
	    "chunk 0: has no sector bitmap, but 1 partially present");
	bad_bitmap_entry(BITMAP | 3, "has no sector bitmap", "impossible entry");
	bad_bitmap_entry(UINT64_C(1) << 40 | VHDX_BITMAP_PRESENT, "outside the file", "outside the file");
	bad_bitmap_entry(6 * VHDX_UNIT | VHDX_BITMAP_PRESENT, "outside the file", "outside the file");
	bad_bitmap_entry(BAT | VHDX_BITMAP_PRESENT, "over its own structures", "inside its own structures");
	bad_bitmap_entry(5 * VHDX_UNIT | VHDX_BITMAP_PRESENT, "over a block", "belongs to a block too");
	log_set_level(LOG_LEVEL_WARNING);
}

/* Bits that another program left for a block that is not present do not count. */
static void leftover_bits(void **state)
{
	uint8_t ones[512], sector[512];
	struct error err = { 0 };
	struct disk *disk;

	memset(ones, 0xff, sizeof(ones));
	memset(sector, 0x44, sizeof(sector));
	patch(child, BITMAP + 2 * 2048 / 8, ones, 2048 / 8);
	disk = must_open(child, false);
	expect_bytes(disk, 2 * MIB, MIB, 0x11);
	assert_int_equal(disk_write(disk, 2 * MIB + 1024, sector, 512, &err), 0);
	expect_bytes(disk, 2 * MIB, 1024, 0x11);
	expect_bytes(disk, 2 * MIB + 1024, 512, 0x44);
	expect_bytes(disk, 2 * MIB + 1536, MIB - 1536, 0x11);
	image_must_close(disk);
	disk = must_open(child, true);
	expect_bytes(disk, 2 * MIB + 1536, MIB - 1536, 0x11);
	image_must_close(disk);
}

/* The file as it is now, under another name. */
static void copy_as(const char *path)
{
	char command[300];

	snprintf(command, sizeof(command), "cp --sparse=always %s %s", child, path);
	assert_int_equal(system(command), 0);
}

/* Where a write to `offset` is about to go, as after a power cut before anybody commits. */
static struct disk *cut_when_mapped(struct disk *disk, uint64_t offset, char path[128])
{
	uint8_t sector[512] = { 0 };
	const struct iovec iov = { sector, sizeof(sector) };
	struct disk_request request = { .op = DISK_OP_WRITE, .offset = offset, .length = sizeof(sector), .iov = &iov,
		.iov_count = 1 };
	struct operation op;

	snprintf(path, 128, "%s/copy.vhdx", directory);
	operation_start(&op, disk, &request);
	assert_true(operation_next(&op));
	copy_as(path);
	operation_advance(&op, file_perform(op.file, &op.step));
	assert_int_equal(operation_run(&op), 0);
	return must_open(path, true);
}

/* The next commit may be cut off between two entries of the log, of which the first has the block. */
static void what_a_block_relies_on_is_durable_first(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = UINT64_C(8) << 30, .block_size = MIB,
		.replace = true };
	uint64_t *entry, bits[2048 / 64], ones = UINT64_MAX;
	struct error err = { 0 };
	struct disk *disk, *cut;
	struct bat_page *page;
	char path[128];

	assert_int_equal(disk_create(base, &options, &err), 0);
	options.size = 0;
	options.parent = base;
	assert_int_equal(disk_create(child, &options, &err), 0);
	disk = must_open(child, false);
	cut = cut_when_mapped(disk, 0, path);
	assert_int_equal(bat_find_entry(cut->format, 4096, &page, &entry), 0);
	assert_int_equal(*entry & VHDX_BAT_STATE_MASK, VHDX_BITMAP_PRESENT);
	image_must_close(cut);
	image_must_close(disk);

	patch(child, BITMAP + 7 * 2048 / 8, &ones, sizeof(ones));
	disk = must_open(child, false);
	cut = cut_when_mapped(disk, 7 * MIB + 512, path);
	assert_int_equal(vhdx_read(cut->format, BITMAP + 7 * 2048 / 8, bits, sizeof(bits)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		assert_int_equal(bits[i], 0);
	image_must_close(cut);
	image_must_close(disk);
	unlink(path);
}

/* What a crash has left behind the end of a file is cut off by the first write, although the log of another parent's
 * name has the file's length. */
static void leftovers_and_another_name(void **state)
{
	const struct disk_open_options reading = { .read_only = true };
	struct error err = { 0 };
	struct disk *disk, *parent, *cut;
	char path[128];

	assert_int_equal(truncate(child, 32 * MIB), 0);
	assert_int_equal(disk_open(&parent, base, &reading, &err), 0);
	if (disk_open_over(&disk, child, &(struct disk_open_options){ .format = DISK_FORMAT_VHDX }, parent, true, NULL,
		&err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(disk->ops->chain->relink(disk, ".\\base.vhdx", parent, false, &err), 0);
	cut = cut_when_mapped(disk, 3 * MIB, path);
	expect_bytes(cut, MIB, 512, 0x22);
	image_must_close(cut);
	image_must_close(disk);
	image_must_close(parent);
	unlink(path);
}

/* A commit between the mapping of a write and its bytes: the sector is still the parent's. */
static void commit_before_the_bytes(void **state)
{
	uint8_t data[1024];
	const struct iovec iov = { data, sizeof(data) };
	struct disk_request request = { .op = DISK_OP_WRITE, .offset = 3 * MIB, .length = sizeof(data), .iov = &iov,
		.iov_count = 1 };
	struct operation op;
	struct error err = { 0 };
	struct disk *disk = must_open(child, false), *cut;
	char path[128];

	memset(data, 0x55, sizeof(data));
	snprintf(path, sizeof(path), "%s/copy.vhdx", directory);
	operation_start(&op, disk, &request);
	assert_true(operation_next(&op));
	assert_int_equal(disk_flush(disk, &err), 0);
	expect_bytes(disk, 3 * MIB, MIB, 0x11);
	copy_as(path);
	cut = must_open(path, true);
	expect_bytes(cut, 3 * MIB, MIB, 0x11);
	image_must_close(cut);
	/* One and a half sectors are written at first. */
	assert_int_equal(pwrite(disk->file.fd, data, 768, (off_t)op.step.offset), 768);
	operation_advance(&op, 768);
	assert_true(operation_next(&op));
	assert_int_equal(disk_flush(disk, &err), 0);
	expect_bytes(disk, 3 * MIB, 512, 0x55);
	expect_bytes(disk, 3 * MIB + 512, 512, 0x11);
	operation_advance(&op, file_perform(op.file, &op.step));
	assert_int_equal(operation_run(&op), 0);
	expect_bytes(disk, 3 * MIB, 1024, 0x55);
	expect_bytes(disk, 3 * MIB + 1024, 1024, 0x11);
	image_must_close(disk);
	cut = must_open(child, true);
	expect_bytes(cut, 3 * MIB, 1024, 0x55);
	image_must_close(cut);
	unlink(path);
}

static void unaligned_requests(void **state)
{
	uint8_t data[512];
	const struct iovec iov = { data, 100 };
	struct disk_request request = { .op = DISK_OP_WRITE, .offset = 100, .length = 100, .iov = &iov, .iov_count = 1 };
	struct disk *disk = must_open(child, false);
	struct operation op;

	operation_start(&op, disk, &request);
	assert_int_equal(operation_run(&op), -EINVAL);
	image_must_close(disk);
}

static void refused_creations(void **state)
{
	static const struct {
		struct disk_create_options options;
		int code;
		const char *text;
	} cases[] = {
		{ { .format = DISK_FORMAT_RAW }, EINVAL, "only a VHDX or VHD that grows" },
		{ { .format = DISK_FORMAT_VHDX, .fixed = true }, EINVAL, "only a VHDX or VHD that grows" },
		{ { .format = DISK_FORMAT_VHDX, .size = MIB }, EINVAL, "are those of its parent" },
		{ { .format = DISK_FORMAT_VHDX, .logical_sector_size = 4096 }, EINVAL, "are those of its parent" },
		{ { .format = DISK_FORMAT_VHDX, .block_size = 3 * MIB }, EINVAL, "power of two" },
	};
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .parent = child, .replace = true };
	char path[128];
	struct error err = { 0 };

	snprintf(path, sizeof(path), "%s/new.vhdx", directory);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct disk_create_options o = cases[i].options;

		o.parent = base;
		assert_int_equal(disk_create(path, &o, &err), -cases[i].code);
		if (!strstr(err.text, cases[i].text))
			fail_msg("\"%s\" without \"%s\"", err.text, cases[i].text);
	}
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(disk_create(base, &options, &err), -EINVAL);
	assert_non_null(strstr(err.text, "replace one of its own parents"));
	options.parent = "/dev/null";
	assert_true(disk_create(path, &options, &err) < 0);
	assert_int_equal(disk_merge(base, NULL, &err), -EINVAL);
	assert_int_equal(disk_reparent(base, child, false, &err), -ELOOP);
	image_must_close(must_open(child, false));
}

#define WITH_FILES(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	struct CMUnitTest locators[ARRAY_SIZE(locator_cases)];
	const struct CMUnitTest tests[] = {
		WITH_FILES(missing),
		WITH_FILES(changed),
		WITH_FILES(itself),
		WITH_FILES(each_other),
		WITH_FILES(raw),
		WITH_FILES(other_sectors),
		WITH_FILES(smaller),
		WITH_FILES(locked),
		WITH_FILES(sixty_four),
		WITH_FILES(parent_with_a_log),
		WITH_FILES(windows_paths),
		WITH_FILES(long_name),
		cmocka_unit_test(bad_bitmap),
		WITH_FILES(leftover_bits),
		WITH_FILES(what_a_block_relies_on_is_durable_first),
		WITH_FILES(leftovers_and_another_name),
		WITH_FILES(commit_before_the_bytes),
		WITH_FILES(unaligned_requests),
		WITH_FILES(refused_creations),
	};
	int r;

	image_directory(directory, sizeof(directory));
	snprintf(base, sizeof(base), "%s/base.vhdx", directory);
	snprintf(child, sizeof(child), "%s/child.vhdx", directory);
	for (size_t i = 0; i < ARRAY_SIZE(locator_cases); i++)
		locators[i] = (struct CMUnitTest){ locator_cases[i].name, bad_locator, NULL, NULL, (void *)&locator_cases[i] };
	r = cmocka_run_group_tests_name("locators", locators, NULL, NULL);
	r += cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
