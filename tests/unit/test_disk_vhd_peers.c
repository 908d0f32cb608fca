// SPDX-License-Identifier: GPL-2.0-or-later
/* QEMU's tools and libvhdi as peers for fixed and dynamic VHD: each reads what the other has written, and
 * agrees on how large a disk is. */
#include "tests/unit/test_disk_vhd.h"

#include <fcntl.h>
#include <libvhdi.h>
#include <sys/stat.h>

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
	(void)!system("rm -f ./*");
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
	uint64_t disk_size = disk->info.size;
	struct dice dice = { seed };
	struct error err = { 0 };

	for (unsigned i = 0; i < 30; i++) {
		uint64_t size = 1 + dice_roll(&dice, 2 * MIB), offset = dice_roll(&dice, disk_size - size);

		dice_fill(&dice, model + offset, size);
		assert_int_equal(disk_write(disk, offset, model + offset, size, &err), 0);
		if (i % 8 == 0)
			assert_int_equal(disk_flush(disk, &err), 0);
	}
	memset(model + disk_size - 512, 0x55, 512);
	assert_int_equal(disk_write(disk, disk_size - 512, model + disk_size - 512, 512, &err), 0);
}

static void we_read(const char *path, const uint8_t *model, uint64_t size)
{
	struct disk *disk = open_path(path, true);
	struct error err = { 0 };

	assert_int_equal(disk->info.format, DISK_FORMAT_VHD);
	assert_int_equal(disk->info.size, size);
	expect_contents(disk, model, size);
	image_must_close(disk);
	if (disk_check(path, stderr, &err) != 0)
		fail_msg("%s", err.text);
}

/* A raw file is what everybody understands. */
static void qemu_reads(const char *path, const uint8_t *model, uint64_t size)
{
	FILE *f = fopen("model.raw", "w");

	assert_int_equal(fwrite(model, size, 1, f), 1);
	fclose(f);
	must(run("qemu-img compare -f vpc -F raw %s model.raw && ! grep -q 'size mismatch' out", path));
	must(run("qemu-img convert -f vpc -O raw %s exported.raw && sha256sum <exported.raw >a && "
		 "sha256sum <model.raw >b && cmp a b", path));
	must(run("qemu-img info -f vpc --output=json %s && grep -q '\"virtual-size\": %ju,' out", path,
	    (uintmax_t)size));
}

static void libvhdi_reads(const char *path, const uint8_t *model, uint64_t size)
{
	libvhdi_file_t *file = NULL;
	libvhdi_error_t *err = NULL;
	uint8_t *all = malloc(size);

	assert_int_equal(libvhdi_file_initialize(&file, NULL), 1);
	if (libvhdi_file_open(file, path, LIBVHDI_OPEN_READ, &err) != 1) {
		libvhdi_error_fprint(err, stderr);
		fail_msg("libvhdi does not open %s", path);
	}
	assert_int_equal(libvhdi_file_read_buffer_at_offset(file, all, size, 0, NULL), size);
	for (uint64_t at = 0; at < size; at += 512)
		if (memcmp(all + at, model + at, 512) != 0)
			fail_msg("libvhdi reads something else at %ju", (uintmax_t)at);
	libvhdi_file_close(file, NULL);
	libvhdi_file_free(&file, NULL);
	free(all);
}

static void made_by_qemu(void **state)
{
	uint8_t *model;
	uint64_t size;
	struct disk *disk;

	need_qemu();
	must(run("qemu-img create -f vpc -o %s a.vhd %u", (const char *)*state, DISK_SIZE));
	disk = open_path("a.vhd", true);
	size = disk->info.size;
	image_must_close(disk);
	assert_true(size >= DISK_SIZE);
	model = calloc(1, size);
	for (unsigned round = 0; round < 2; round++) {
		disk = open_path("a.vhd", false);
		write_randomly(disk, model, round);
		image_must_close(disk);
		qemu_reads("a.vhd", model, size);
		libvhdi_reads("a.vhd", model, size);
		must(run("qemu-io -f vpc -c 'write -P %u 5M 3M' -c 'write -P 7 63M 6M' a.vhd", round + 1));
		memset(model + 5 * MIB, (int)round + 1, 3 * MIB);
		memset(model + 63 * MIB, 7, 6 * MIB);
		we_read("a.vhd", model, size);
	}
	free(model);
	must(run("rm a.vhd"));
}

static void made_by_us(void **state)
{
	const struct disk_create_options *create = *state;
	uint8_t *model = calloc(1, create->size);
	struct error err = { 0 };
	struct disk *disk;

	need_qemu();
	assert_int_equal(disk_create("b.vhd", create, &err), 0);
	qemu_reads("b.vhd", model, create->size);
	disk = open_path("b.vhd", false);
	write_randomly(disk, model, 5);
	/* While it is open here, QEMU must not get it. */
	assert_int_not_equal(run("qemu-io -r -f vpc -c 'read 0 512' b.vhd"), 0);
	must(system("grep -q lock out"));
	image_must_close(disk);
	qemu_reads("b.vhd", model, create->size);
	libvhdi_reads("b.vhd", model, create->size);
	must(run("qemu-io -f vpc -c 'write -P 9 1M 9M' -c 'write -P 8 30M 1M' b.vhd"));
	memset(model + MIB, 9, 9 * MIB);
	memset(model + 30 * MIB, 8, MIB);
	we_read("b.vhd", model, create->size);
	/* And on from what QEMU has left. */
	disk = open_path("b.vhd", false);
	write_randomly(disk, model, 6);
	image_must_close(disk);
	qemu_reads("b.vhd", model, create->size);
	free(model);
	must(run("rm b.vhd"));
}

/* Compacted, also after it got another size, it is the same to QEMU, which writes on; and to libvhdi. */
static void compacted(void **state)
{
	const struct disk_create_options *create = *state;
	uint8_t *model = calloc(1, create->size + 10 * MIB);
	uint64_t size = create->size, before;
	struct error err = { 0 };
	struct disk *disk;
	struct stat st;

	need_qemu();
	assert_int_equal(disk_create("d.vhd", create, &err), 0);
	for (unsigned round = 0; round < 3; round++) {
		struct disk_request discard = { .op = DISK_OP_DISCARD, .offset = round * 16 * MIB, .length = 24 * MIB };

		disk = open_path("d.vhd", false);
		write_randomly(disk, model, 20 + round);
		if (round == 1) {
			size += 10 * MIB;
			assert_int_equal(disk_resize(disk, size, false, NULL, &err), 0);
		}
		memset(model + discard.offset, 0, discard.length);
		assert_int_equal(disk_perform(disk, &discard, &err), 0);
		assert_int_equal(fstat(disk->file.fd, &st), 0);
		before = (uint64_t)st.st_size;
		if (disk_compact(disk, true, NULL, &err) != 0)
			fail_msg("%s", err.text);
		assert_int_equal(fstat(disk->file.fd, &st), 0);
		assert_true((uint64_t)st.st_size < before - 4 * MIB);
		image_must_close(disk);
		qemu_reads("d.vhd", model, size);
		/* It takes the size at which a disk was made for that of now. */
		libvhdi_reads("d.vhd", model, create->size);
		must(run("qemu-io -f vpc -c 'write -P 11 20M 3M' -c 'write -P 12 50M 1M' d.vhd"));
		memset(model + 20 * MIB, 11, 3 * MIB);
		memset(model + 50 * MIB, 12, MIB);
		we_read("d.vhd", model, size);
	}
	free(model);
	must(run("rm d.vhd"));
}

static uint64_t size_by_qemu(void)
{
	char line[200];
	uintmax_t size = 0;
	FILE *f;

	must(run("qemu-img info -f vpc --output=json c.vhd"));
	f = fopen("out", "r");
	while (fgets(line, sizeof(line), f))
		sscanf(line, " \"virtual-size\": %ju", &size);
	fclose(f);
	return size;
}

/* For each creator that QEMU knows, and for some that it does not, it finds the size that we find. */
static void sizes_by_creator(void **state)
{
	static const char creators[][4] = { "vpc ", "vs  ", "qemu", "qem2", "win ", "d2v ", "tap", "CTXS" };
	const struct disk_create_options create = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .replace = true };
	struct vhd_footer footer;
	struct error err = { 0 };
	struct disk *disk;
	uint64_t size;
	int fd;

	need_qemu();
	for (size_t i = 0; i < ARRAY_SIZE(creators); i++) {
		assert_int_equal(disk_create("c.vhd", &create, &err), 0);
		fd = open("c.vhd", O_RDWR | O_CLOEXEC);
		get(fd, 0, &footer, sizeof(footer));
		memcpy(footer.creator_application, creators[i], 4);
		vhd_seal_footer(&footer);
		put(fd, 0, &footer, sizeof(footer));
		put(fd, file_length(fd) - 512, &footer, sizeof(footer));
		close(fd);
		disk = open_path("c.vhd", true);
		size = disk->info.size;
		image_must_close(disk);
		assert_int_equal(size_by_qemu(), size);
		assert_int_equal(size == DISK_SIZE, i > 2);
	}
	must(run("rm c.vhd"));
}

/* QEMU makes the disk as large as a geometry: ours for that size is the same. */
static void same_geometry(void **state)
{
	struct dice dice = { 77 };

	need_qemu();
	for (unsigned i = 0; i < 18; i++) {
		uint64_t sectors = 1 + dice_roll(&dice, UINT64_C(1) << (11 + i));
		struct vhd_footer theirs, ours;
		int fd;

		must(run("qemu-img create -f vpc c.vhd %ju", (uintmax_t)(sectors * 512)));
		fd = open("c.vhd", O_RDONLY | O_CLOEXEC);
		get(fd, 0, &theirs, sizeof(theirs));
		close(fd);
		vhd_set_geometry(&ours, be64_get(theirs.current_size) / 512);
		assert_int_equal(be16_get(ours.cylinders), be16_get(theirs.cylinders));
		assert_int_equal(ours.heads, theirs.heads);
		assert_int_equal(ours.sectors_per_track, theirs.sectors_per_track);
	}
	must(run("rm c.vhd"));
}

/* --- chains --- */

#define CHAIN_SIZE (8 * MIB)
#define DEPTH      4

/* By eight sectors: libvhdi 20210425 takes all bits of a bitmap's byte behind a set one for set (it shifts and
 * forgets to mask). */
static void change(struct disk *disk, struct dice *dice, uint8_t *model)
{
	struct error err = { 0 };

	for (unsigned i = 0; i < 24; i++) {
		uint64_t offset = 4096 * dice_roll(dice, CHAIN_SIZE / 4096);
		uint64_t length = min_u64(4096 * (1 + dice_roll(dice, 40)), CHAIN_SIZE - offset);
		struct disk_request request = { .op = DISK_OP_DISCARD, .offset = offset / MIB * MIB, .length = MIB };

		if (i % 8 == 7) {
			memset(model + request.offset, 0, MIB);
			assert_int_equal(disk_perform(disk, &request, &err), 0);
		} else {
			dice_fill(dice, model + offset, length);
			assert_int_equal(disk_write(disk, offset, model + offset, length, &err), 0);
		}
	}
}

static const char *chain_name(unsigned index, char name[16])
{
	snprintf(name, 16, "%u.vhd", index);
	return name;
}

static void create_chain(uint8_t *model, const struct disk_create_options *base)
{
	struct disk_create_options options = *base;
	struct dice dice = { base->block_size };
	struct error err = { 0 };
	char name[16], parent[16];

	for (unsigned i = 0; i < DEPTH; i++) {
		struct disk *disk;

		if (disk_create(chain_name(i, name), &options, &err) != 0)
			fail_msg("%s", err.text);
		disk = open_path(name, false);
		change(disk, &dice, model);
		image_must_close(disk);
		options = (struct disk_create_options){ .format = DISK_FORMAT_VHD, .parent = strcpy(parent, name) };
	}
}

static void expect_parent(libvhdi_file_t *file, libvhdi_file_t *parent, unsigned index)
{
	uint8_t expected[16], named[16], path[64];
	char name[16];
	size_t size;

	assert_int_equal(libvhdi_file_get_identifier(parent, expected, 16, NULL), 1);
	assert_int_equal(libvhdi_file_get_parent_identifier(file, named, 16, NULL), 1);
	assert_memory_equal(named, expected, 16);
	assert_int_equal(libvhdi_file_get_utf8_parent_filename_size(file, &size, NULL), 1);
	assert_true(size <= sizeof(path));
	assert_int_equal(libvhdi_file_get_utf8_parent_filename(file, path, size, NULL), 1);
	assert_non_null(strstr((char *)path, chain_name(index, name)));
	assert_int_equal(libvhdi_file_set_parent_file(file, parent, NULL), 1);
}

/* Which disk continues which, and every byte. */
static void libvhdi_reads_chains(void **state)
{
	uint8_t *model = calloc(1, CHAIN_SIZE), *read = malloc(CHAIN_SIZE);
	libvhdi_file_t *files[DEPTH] = { NULL };
	char name[16];

	need_qemu();
	create_chain(model, *state);
	for (unsigned i = 0; i < DEPTH; i++) {
		assert_int_equal(libvhdi_file_initialize(&files[i], NULL), 1);
		assert_int_equal(libvhdi_file_open(files[i], chain_name(i, name), LIBVHDI_OPEN_READ, NULL), 1);
		if (i > 0)
			expect_parent(files[i], files[i - 1], i - 1);
	}
	assert_int_equal(
	    libvhdi_file_read_buffer_at_offset(files[DEPTH - 1], read, CHAIN_SIZE, 0, NULL), CHAIN_SIZE);
	for (unsigned at = 0; at < CHAIN_SIZE; at += 512)
		if (memcmp(read + at, model + at, 512) != 0)
			fail_msg("libvhdi reads something else at %u", at);
	for (unsigned i = DEPTH; i-- > 0;) {
		libvhdi_file_close(files[i], NULL);
		libvhdi_file_free(&files[i], NULL);
	}
	/* Merged down to one file, QEMU reads the same. */
	for (unsigned i = DEPTH - 1; i > 0; i--) {
		struct error err = { 0 };

		if (disk_merge(chain_name(i, name), NULL, &err) != 0)
			fail_msg("%s", err.text);
	}
	qemu_reads("0.vhd", model, CHAIN_SIZE);
	must(run("rm 0.vhd"));
	free(model);
	free(read);
}

static char dynamic_default[] = "subformat=dynamic", dynamic_exact[] = "subformat=dynamic,force_size=on",
	    fixed_default[] = "subformat=fixed", fixed_exact[] = "subformat=fixed,force_size=on";

static struct disk_create_options ours[] = {
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE },
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB },
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true },
};

static struct disk_create_options bases[] = {
	{ .format = DISK_FORMAT_VHD, .size = CHAIN_SIZE },
	{ .format = DISK_FORMAT_VHD, .size = CHAIN_SIZE, .block_size = 512 * KIB },
	{ .format = DISK_FORMAT_VHD, .size = CHAIN_SIZE, .fixed = true },
};

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "made by QEMU, dynamic", made_by_qemu, NULL, NULL, dynamic_default },
		{ "made by QEMU, dynamic, exact", made_by_qemu, NULL, NULL, dynamic_exact },
		{ "made by QEMU, fixed", made_by_qemu, NULL, NULL, fixed_default },
		{ "made by QEMU, fixed, exact", made_by_qemu, NULL, NULL, fixed_exact },
		{ "made by us, dynamic", made_by_us, NULL, NULL, &ours[0] },
		{ "made by us, 512 KiB", made_by_us, NULL, NULL, &ours[1] },
		{ "made by us, fixed", made_by_us, NULL, NULL, &ours[2] },
		{ "compacted", compacted, NULL, NULL, &ours[0] },
		{ "compacted, 512 KiB", compacted, NULL, NULL, &ours[1] },
		{ "chain over 2 MiB", libvhdi_reads_chains, NULL, NULL, &bases[0] },
		{ "chain over 512 KiB", libvhdi_reads_chains, NULL, NULL, &bases[1] },
		{ "chain over fixed", libvhdi_reads_chains, NULL, NULL, &bases[2] },
		cmocka_unit_test(sizes_by_creator),
		cmocka_unit_test(same_geometry),
	};

	return cmocka_run_group_tests(tests, enter, leave);
}
