// SPDX-License-Identifier: GPL-2.0-or-later
/* QEMU's tools as peers: each reads, checks and repairs what the other has written. */
#include "tests/unit/test_disk_images.h"

#include <errno.h>
#include <fcntl.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define DISK_SIZE (70 * MIB + 7 * 512)

static char directory[32];

/* Runs a command in the test's directory; its output is shown only when it was meant to succeed and did not. */
static int run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *format, ...)
{
	char command[600], line[700];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	snprintf(line, sizeof(line), "( %s ) >out 2>&1", command);
	return system(line);
}

static void must(int status)
{
	if (status != 0) {
		(void)!system("cat out >&2");
		fail_msg("the command ended with status %#x", (unsigned)status);
	}
}

static int enter(void **state)
{
	if (system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null") != 0)
		return 0;
	strcpy(directory, "/tmp/disk-XXXXXX");
	return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int leave(void **state)
{
	if (!directory[0])
		return 0;
	must(run("rm -f ./*"));
	(void)!system("rm -f out");
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

static void need_qemu(void)
{
	if (!directory[0])
		skip();
}

static struct disk *open_path(const char *path, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only, .direct = !read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void write_randomly(struct disk *disk, uint8_t *model, unsigned seed)
{
	struct dice dice = { seed };
	struct error err = { 0 };

	for (unsigned i = 0; i < 30; i++) {
		uint64_t size = 1 + dice_roll(&dice, 2 * MIB), offset = dice_roll(&dice, DISK_SIZE - size);

		dice_fill(&dice, model + offset, size);
		assert_int_equal(disk_write(disk, offset, model + offset, size, &err), 0);
		if (i % 8 == 0)
			assert_int_equal(disk_flush(disk, &err), 0);
	}
	memset(model + DISK_SIZE - 512, 0x55, 512);
	assert_int_equal(disk_write(disk, DISK_SIZE - 512, model + DISK_SIZE - 512, 512, &err), 0);
}

static void expect_contents(const char *path, const uint8_t *model)
{
	struct disk *disk = open_path(path, true);
	uint8_t *all = malloc(DISK_SIZE);
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, all, DISK_SIZE, &err), 0);
	assert_true(memcmp(all, model, DISK_SIZE) == 0);
	free(all);
	image_must_close(disk);
}

static void expect_qemu_reads(const char *path, const uint8_t *model)
{
	must(run("qemu-img check -f vhdx %s", path));
	must(run("qemu-img convert -f vhdx -O raw %s exported.raw", path));
	expect_contents("exported.raw", model);
}

static void made_by_qemu(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;

	need_qemu();
	must(run("qemu-img create -f vhdx -o %s a.vhdx %u", (const char *)*state, DISK_SIZE));
	assert_int_equal(disk_check("a.vhdx", stderr, &err), 0);
	for (unsigned round = 0; round < 2; round++) {
		disk = open_path("a.vhdx", false);
		write_randomly(disk, model, round);
		image_must_close(disk);
		expect_qemu_reads("a.vhdx", model);
		must(run("qemu-io -f vhdx -c 'write -P %u 5M 3M' -c 'write -P 7 63M 6M' a.vhdx", round + 1));
		memset(model + 5 * MIB, (int)round + 1, 3 * MIB);
		memset(model + 63 * MIB, 7, 6 * MIB);
		expect_contents("a.vhdx", model);
		assert_int_equal(disk_check("a.vhdx", stderr, &err), 0);
	}
	free(model);
	must(run("rm a.vhdx"));
}

static void made_by_us(void **state)
{
	const struct disk_create_options *create = *state;
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;

	need_qemu();
	assert_int_equal(disk_create("b.vhdx", create, &err), 0);
	expect_qemu_reads("b.vhdx", model);
	disk = open_path("b.vhdx", false);
	write_randomly(disk, model, 5);
	/* While it is open here, QEMU must not get it. */
	assert_int_not_equal(run("qemu-io -r -f vhdx -c 'read 0 512' b.vhdx"), 0);
	must(system("grep -q lock out"));
	image_must_close(disk);
	expect_qemu_reads("b.vhdx", model);
	must(run("qemu-io -f vhdx -c 'write -P 9 1M 9M' b.vhdx"));
	memset(model + MIB, 9, 9 * MIB);
	expect_contents("b.vhdx", model);
	free(model);
	must(run("rm b.vhdx"));
}

static void our_log(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;

	need_qemu();
	assert_int_equal(disk_create("c.vhdx", &create, &err), 0);
	disk = open_path("c.vhdx", false);
	write_randomly(disk, model, 11);
	assert_int_equal(disk_flush(disk, &err), 0);
	/* As a power cut would leave it, and with the table in place lost. */
	must(run("cp --sparse=always c.vhdx ours.vhdx"));
	must(run("dd if=/dev/zero of=ours.vhdx bs=4096 seek=768 count=1 conv=notrunc"));
	image_must_close(disk);
	must(run("cp --sparse=always ours.vhdx theirs.vhdx"));

	expect_contents("ours.vhdx", model);
	must(run("cmp ours.vhdx theirs.vhdx"));
	must(run("qemu-img check -f vhdx -r all theirs.vhdx"));
	expect_qemu_reads("theirs.vhdx", model);
	image_must_close(open_path("ours.vhdx", false));
	expect_qemu_reads("ours.vhdx", model);
	/* The same but for the headers, whose GUIDs are random. */
	must(run("cmp -i 196608 ours.vhdx theirs.vhdx"));
	free(model);
	must(run("rm c.vhdx ours.vhdx theirs.vhdx"));
}

/* QEMU lets go of its log after each write. This takes it up again, and loses the table in place. */
static void as_if_crashed(const char *path)
{
	static const off_t slots[] = { VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2 };
	static const uint8_t zeros[4096];
	struct disk *disk = open_path(path, true);
	const struct vhdx *v = disk->format;
	off_t table = (off_t)v->bat_region.offset, log = (off_t)v->log.offset;
	struct vhdx_log_entry entry, last = { .sequence_number = 0 };
	struct vhdx_header header;
	int fd;

	image_must_close(disk);
	fd = open(path, O_RDWR | O_CLOEXEC);
	for (off_t at = 0; at < MIB; at += VHDX_LOG_SECTOR) {
		assert_int_equal(pread(fd, &entry, sizeof(entry), log + at), sizeof(entry));
		if (memcmp(entry.signature, VHDX_LOG_ENTRY_SIGNATURE, 4) == 0)
			last = entry;
	}
	assert_true(last.sequence_number > 0);
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
		assert_int_equal(pread(fd, &header, sizeof(header), slots[i]), sizeof(header));
		header.log_guid = last.log_guid;
		header.checksum = 0;
		header.checksum = crc32c(0, &header, sizeof(header));
		assert_int_equal(pwrite(fd, &header, sizeof(header), slots[i]), sizeof(header));
	}
	assert_int_equal(pwrite(fd, zeros, sizeof(zeros), table), sizeof(zeros));
	close(fd);
}

static void their_log(void **state)
{
	uint8_t *model = calloc(1, DISK_SIZE);

	need_qemu();
	must(run("qemu-img create -f vhdx -o block_size=1M d.vhdx %u", DISK_SIZE));
	must(run("qemu-io -f vhdx -c 'write -P 3 2M 7M' -c 'write -P 4 20M 1M' d.vhdx"));
	as_if_crashed("d.vhdx");
	assert_int_not_equal(run("qemu-io -r -f vhdx -c 'read 0 512' d.vhdx"), 0);
	must(system("grep -q 'needs to be replayed' out"));
	memset(model + 2 * MIB, 3, 7 * MIB);
	memset(model + 20 * MIB, 4, MIB);
	expect_contents("d.vhdx", model);
	image_must_close(open_path("d.vhdx", false));
	expect_qemu_reads("d.vhdx", model);
	free(model);
	must(run("rm d.vhdx"));
}

static char small_blocks[] = "block_size=1M", middle_blocks[] = "block_size=8M,log_size=2M",
	    blocks[][16] = {"block_size=2M", "block_size=4M", "block_size=16M", "block_size=32M", "block_size=64M", "block_size=128M"},
	    large_blocks[] = "block_size=256M", fixed_blocks[] = "subformat=fixed", without_zero[] = "block_state_zero=off";

static struct disk_create_options ours[] = {
	{ .format = DISK_FORMAT_VHDX, .size = DISK_SIZE },
	{ .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB },
	{ .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .fixed = true },
};

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "made by QEMU, 1 MiB", made_by_qemu, NULL, NULL, small_blocks },
		{ "made by QEMU, 8 MiB", made_by_qemu, NULL, NULL, middle_blocks },
		{ "made by QEMU, 256 MiB", made_by_qemu, NULL, NULL, large_blocks },
		{ "made by QEMU, 2 MiB", made_by_qemu, NULL, NULL, blocks[0] },
		{ "made by QEMU, 4 MiB", made_by_qemu, NULL, NULL, blocks[1] },
		{ "made by QEMU, 16 MiB", made_by_qemu, NULL, NULL, blocks[2] },
		{ "made by QEMU, 32 MiB", made_by_qemu, NULL, NULL, blocks[3] },
		{ "made by QEMU, 64 MiB", made_by_qemu, NULL, NULL, blocks[4] },
		{ "made by QEMU, 128 MiB", made_by_qemu, NULL, NULL, blocks[5] },
		{ "made by QEMU, fixed", made_by_qemu, NULL, NULL, fixed_blocks },
		{ "made by QEMU, not present", made_by_qemu, NULL, NULL, without_zero },
		{ "made by us, dynamic", made_by_us, NULL, NULL, &ours[0] },
		{ "made by us, 1 MiB", made_by_us, NULL, NULL, &ours[1] },
		{ "made by us, fixed", made_by_us, NULL, NULL, &ours[2] },
		cmocka_unit_test(our_log),
		cmocka_unit_test(their_log),
	};

	return cmocka_run_group_tests(tests, enter, leave);
}
