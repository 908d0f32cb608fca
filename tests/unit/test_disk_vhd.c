// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VHD, fixed and dynamic: what is in a new file; every byte against a plain array over all block sizes;
 * footers that are damaged, short or lost; sizes by creator; sector bitmaps of other programs.
 */
#include "tests/unit/test_disk_vhd.h"

#include "disk/operation.h"

#define DISK_SIZE (5 * MIB + 512)

static const struct disk_create_options dynamic_2m = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE };
static const struct disk_create_options dynamic_512k = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE,
	.block_size = 512 * KIB };
static const struct disk_create_options fixed = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true };

/* --- new files --- */

static void expect_footer(const struct vhd_footer *f, uint32_t type)
{
	assert_memory_equal(f->cookie, "conectix", 8);
	assert_int_equal(be32_get(f->checksum), vhd_checksum(f, sizeof(*f), offsetof(struct vhd_footer, checksum)));
	assert_int_equal(be32_get(f->features), 2);
	assert_int_equal(be32_get(f->version), 0x10000);
	assert_int_equal(be32_get(f->disk_type), type);
	assert_int_equal(be64_get(f->current_size), DISK_SIZE);
	assert_int_equal(be64_get(f->original_size), DISK_SIZE);
	assert_int_equal(f->saved_state, 0);
	for (size_t i = 0; i < sizeof(f->reserved); i++)
		assert_int_equal(f->reserved[i], 0);
}

static void new_fixed(void **state)
{
	int fd = image_create(&fixed);
	struct vhd_footer footer;

	assert_int_equal(file_length(fd), DISK_SIZE + 512);
	get(fd, DISK_SIZE, &footer, sizeof(footer));
	expect_footer(&footer, 2);
	assert_int_equal(be64_get(footer.data_offset), UINT64_MAX);
	close(fd);
}

static void new_dynamic(void **state)
{
	int fd = image_create(&dynamic_512k);
	struct vhd_dynamic_header header;
	struct vhd_footer footer, copy;
	uint8_t table[512];

	assert_int_equal(file_length(fd), 512 + 1024 + 512 + 512);
	get(fd, 0, &copy, sizeof(copy));
	get(fd, 2048, &footer, sizeof(footer));
	assert_memory_equal(&footer, &copy, sizeof(copy));
	expect_footer(&footer, 3);
	assert_int_equal(be64_get(footer.data_offset), 512);
	get(fd, 512, &header, sizeof(header));
	assert_memory_equal(header.cookie, "cxsparse", 8);
	assert_int_equal(be32_get(header.max_table_entries), 11);
	assert_int_equal(be32_get(header.block_size), 512 * KIB);
	assert_int_equal(be64_get(header.table_offset), 1536);
	assert_int_equal(be64_get(header.data_offset), UINT64_MAX);
	assert_int_equal(be32_get(header.checksum),
	    vhd_checksum(&header, sizeof(header), offsetof(struct vhd_dynamic_header, checksum)));
	get(fd, 1536, table, sizeof(table));
	for (unsigned i = 0; i < sizeof(table); i++)
		assert_int_equal(table[i], 0xff);
	close(fd);
}

static void geometry(void **state)
{
	/* By hand, from the specification's rules. */
	static const struct {
		uint64_t sectors;
		unsigned cylinders, heads, per_track;
	} cases[] = {
		{ 1, 0, 4, 17 },
		{ 68, 1, 4, 17 },
		{ 69632 - 1, 1023, 4, 17 },
		{ 69632, 140, 16, 31 },
		{ 69649, 819, 5, 17 },
		{ 278528 - 17, 1023, 16, 17 },
		{ 278528, 561, 16, 31 },
		{ 507904 - 1, 1023, 16, 31 },
		{ 507904, 503, 16, 63 },
		{ UINT64_C(65535) * 16 * 63 - 1, 65534, 16, 63 },
		{ UINT64_C(65535) * 16 * 63, 16191, 16, 255 },
		{ UINT64_C(65535) * 16 * 255, 65535, 16, 255 },
		{ VHD_SECTORS_MAX, 65535, 16, 255 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vhd_footer footer;

		vhd_set_geometry(&footer, cases[i].sectors);
		assert_int_equal(be16_get(footer.cylinders), cases[i].cylinders);
		assert_int_equal(footer.heads, cases[i].heads);
		assert_int_equal(footer.sectors_per_track, cases[i].per_track);
	}
}

static void refused_options(void **state)
{
	static const struct {
		struct disk_create_options options;
		const char *why;
	} cases[] = {
		{ { .size = 2 * GIB, .logical_sector_size = 4096 }, "sectors of 512 bytes" },
		{ { .size = 2 * GIB, .physical_sector_size = 4096 }, "sectors of 512 bytes" },
		{ { .size = 2040 * GIB + 512 }, "2040 GiB" },
		{ { .size = 2 * GIB, .block_size = MIB }, "512 KiB or 2 MiB" },
		{ { .size = 2 * GIB, .block_size = 2 * MIB, .fixed = true }, "no blocks" },
		{ { .size = 511 }, "not a multiple" },
	};
	int fd = memfd_create("image", MFD_CLOEXEC);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct disk_create_options options = cases[i].options;
		struct error err = { 0 };

		options.format = DISK_FORMAT_VHD;
		assert_int_equal(disk_fill_descriptor(fd, "image", &options, &err), -EINVAL);
		if (!strstr(err.text, cases[i].why))
			fail_msg("%s", err.text);
	}
	close(fd);
}

static void largest(void **state)
{
	static const struct disk_create_options options = { .format = DISK_FORMAT_VHD, .size = 2040 * GIB };
	int fd = image_create(&options);
	struct disk *disk = image_must_open(fd, false);
	struct error err = { 0 };
	uint8_t sector[512];

	assert_int_equal(disk->info.size, options.size);
	memset(sector, 0x77, sizeof(sector));
	assert_int_equal(disk_write(disk, options.size - 512, sector, 512, &err), 0);
	image_must_close(disk);
	disk = image_must_open(fd, true);
	memset(sector, 0, sizeof(sector));
	assert_int_equal(disk_read(disk, options.size - 512, sector, 512, &err), 0);
	assert_int_equal(sector[0], 0x77);
	assert_int_equal(disk_read(disk, 1000 * GIB, sector, 512, &err), 0);
	assert_int_equal(sector[511], 0);
	image_must_close(disk);
	close(fd);
}

/* --- contents --- */

struct shape {
	const struct disk_create_options *create;
	uint32_t block_size; /* other than what can be created: the header is changed */
};

static void write_something(struct disk *disk, struct dice *dice, uint8_t *model)
{
	uint64_t size = 1 + dice_roll(dice, 300 * KIB), offset = dice_roll(dice, DISK_SIZE - size);
	struct error err = { 0 };

	if (dice_roll(dice, 4) == 0) {
		struct disk_request request = { .op = DISK_OP_DISCARD, .offset = offset / 512 * 512 };

		request.length = min_u64(align_up_u64(size, 512), DISK_SIZE - request.offset);
		memset(model + request.offset, 0, request.length);
		assert_int_equal(disk_perform(disk, &request, &err), 0);
	} else {
		dice_fill(dice, model + offset, size);
		assert_int_equal(disk_write(disk, offset, model + offset, size, &err), 0);
	}
}

static void contents(void **state)
{
	const struct shape *shape = *state;
	int fd = image_create(shape->create);
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { shape->block_size };
	struct error err = { 0 };
	struct disk *disk;

	if (shape->block_size)
		change_block_size(fd, shape->block_size);
	disk = image_must_open(fd, false);
	assert_int_equal(disk->info.format, DISK_FORMAT_VHD);
	assert_int_equal(disk->info.size, DISK_SIZE);
	assert_int_equal(disk->info.dynamic, !shape->create->fixed);
	for (unsigned i = 0; i < 120; i++) {
		write_something(disk, &dice, model);
		if (i % 7 == 0)
			assert_int_equal(disk_flush(disk, &err), 0);
		if (i % 30 == 29) {
			expect_contents(disk, model, DISK_SIZE);
			image_must_close(disk);
			expect_sound(fd);
			disk = image_must_open(fd, i % 60 == 29);
			expect_contents(disk, model, DISK_SIZE);
			if (disk->info.read_only) {
				image_must_close(disk);
				disk = image_must_open(fd, false);
			}
		}
	}
	image_must_close(disk);
	free(model);
	close(fd);
}

/* Opening for writing alone changes nothing. */
static void untouched(void **state)
{
	const struct disk_create_options *create = *state;
	int fd = image_create(create);
	uint64_t size = file_length(fd);
	uint8_t *before = malloc(size), *after = malloc(size);

	get(fd, 0, before, size);
	image_must_close(image_must_open(fd, false));
	assert_int_equal(file_length(fd), size);
	get(fd, 0, after, size);
	assert_memory_equal(before, after, size);
	free(before);
	free(after);
	close(fd);
}

/* --- footers --- */

static int image_with(const struct disk_create_options *create, uint8_t byte)
{
	int fd = image_create(create);
	struct disk *disk = image_must_open(fd, false);
	uint8_t *data = malloc(MIB);
	struct error err = { 0 };

	memset(data, byte, MIB);
	assert_int_equal(disk_write(disk, MIB, data, MIB, &err), 0);
	image_must_close(disk);
	free(data);
	return fd;
}

static void expect_byte(struct disk *disk, uint64_t offset, uint8_t byte)
{
	struct error err = { 0 };
	uint8_t is;

	if (disk_read(disk, offset, &is, 1, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(is, byte);
}

/* Reads through what is left, and after a write both footers are whole again. */
static void expect_mended(int fd)
{
	struct vhd_footer footer, copy;
	struct error err = { 0 };
	struct disk *disk = image_must_open(fd, true);

	expect_byte(disk, MIB + 5, 0x11);
	image_must_close(disk);
	disk = image_must_open(fd, false);
	expect_byte(disk, MIB + 5, 0x11);
	assert_int_equal(disk_write(disk, 4 * MIB, "x", 1, &err), 0);
	image_must_close(disk);
	get(fd, 0, &copy, sizeof(copy));
	get(fd, file_length(fd) - 512, &footer, sizeof(footer));
	assert_memory_equal(&copy, &footer, sizeof(copy));
	expect_footer(&copy, 3);
	expect_sound(fd);
}

static void lost_footer(void **state)
{
	int fd = image_with(&dynamic_2m, 0x11);
	uint64_t size = file_length(fd);
	static const uint8_t zeros[512];

	put(fd, size - 512, zeros, sizeof(zeros));
	expect_told(fd, "footer at the end");
	expect_mended(fd);
	/* Cut off, and cut through. */
	assert_int_equal(ftruncate(fd, (off_t)file_length(fd) - 512), 0);
	expect_mended(fd);
	assert_int_equal(ftruncate(fd, (off_t)file_length(fd) - 100), 0);
	expect_mended(fd);
	/* Something else behind it. */
	put(fd, file_length(fd), "garbage", 7);
	expect_mended(fd);
	close(fd);
}

static void lost_copy(void **state)
{
	int fd = image_with(&dynamic_2m, 0x11);

	put(fd, 40, "\xff", 1);
	expect_told(fd, "copy of the footer");
	expect_mended(fd);
	put(fd, 0, "\0", 1);
	expect_mended(fd);
	put(fd, 0, "\0", 1);
	put(fd, file_length(fd) - 512 + 100, "\xff", 1);
	expect_refused(fd, EBADMSG, "its footer at offset 4");
	close(fd);
}

/* Programs before Virtual PC 2004 wrote one byte less. */
static void old_footers(void **state)
{
	int fd = image_with(&dynamic_2m, 0x11);
	struct disk *disk;

	assert_int_equal(ftruncate(fd, (off_t)file_length(fd) - 1), 0);
	expect_sound(fd);
	/* Nothing needs the copy then. */
	put(fd, 0, "\0", 1);
	expect_mended(fd);
	close(fd);

	fd = image_with(&fixed, 0x22);
	assert_int_equal(ftruncate(fd, DISK_SIZE + 511), 0);
	expect_sound(fd);
	disk = image_must_open(fd, false);
	assert_int_equal(disk->info.format, DISK_FORMAT_VHD);
	assert_int_equal(disk->info.size, DISK_SIZE);
	expect_byte(disk, 2 * MIB - 1, 0x22);
	image_must_close(disk);
	close(fd);
}

/* What a guest writes to the first sectors of a fixed disk is its own. */
static void footer_in_a_fixed_disk(void **state)
{
	int fd = image_with(&fixed, 0x33), other = image_with(&dynamic_2m, 0x44);
	struct vhd_footer footer;
	struct disk *disk;

	get(other, 0, &footer, sizeof(footer));
	put(fd, 0, &footer, sizeof(footer));
	disk = image_must_open(fd, false);
	assert_false(disk->info.dynamic);
	expect_byte(disk, 0, 'c');
	expect_byte(disk, MIB, 0x33);
	image_must_close(disk);
	get(fd, DISK_SIZE, &footer, sizeof(footer));
	put(fd, 0, &footer, sizeof(footer));
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	expect_refused(fd, EBADMSG, "none at the end");
	close(fd);
	close(other);
}

static void set_footer(int fd, struct vhd_footer *footer)
{
	vhd_seal_footer(footer);
	if (be32_get(footer->disk_type) != VHD_FIXED)
		put(fd, 0, footer, sizeof(*footer));
	put(fd, file_length(fd) - 512, footer, sizeof(*footer));
}

static void sizes_by_creator(void **state)
{
	static const struct {
		const char *creator;
		bool by_geometry;
	} cases[] = {
		{ "vpc ", true },
		{ "vs  ", true },
		{ "qemu", true },
		{ "qem2", false },
		{ "win ", false },
		{ "d2v ", false },
		{ "tap\0", false },
		{ "CTXS", false },
		{ "wa\0\0", false },
		{ "vbox", false },
	};
	const struct disk_create_options *kinds[] = { &fixed, &dynamic_2m };
	const uint64_t by_geometry = UINT64_C(150) * 4 * 17 * 512;

	for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		int fd = image_create(kinds[i % 2]);
		struct vhd_footer footer;
		struct disk *disk;

		get(fd, file_length(fd) - 512, &footer, sizeof(footer));
		memcpy(footer.creator_application, cases[i / 2].creator, 4);
		assert_int_equal(be16_get(footer.cylinders), 150);
		set_footer(fd, &footer);
		disk = image_must_open(fd, false);
		assert_int_equal(disk->info.size, cases[i / 2].by_geometry ? by_geometry : DISK_SIZE);
		image_must_close(disk);
		/* The largest geometry is that of all disks from 127 GiB on, and none at all is no size. */
		be16_put(footer.cylinders, 65535);
		footer.heads = 16;
		footer.sectors_per_track = 255;
		set_footer(fd, &footer);
		disk = image_must_open(fd, true);
		assert_int_equal(disk->info.size, DISK_SIZE);
		image_must_close(disk);
		footer.heads = 0;
		set_footer(fd, &footer);
		disk = image_must_open(fd, true);
		assert_int_equal(disk->info.size, DISK_SIZE);
		image_must_close(disk);
		close(fd);
	}
}

/* --- sector bitmaps of other programs --- */

static uint64_t place_of(int fd, unsigned block)
{
	uint8_t entry[4];

	get(fd, 1536 + 4 * block, entry, sizeof(entry));
	return (uint64_t)be32_get(entry) * 512;
}

static void sectors_that_do_not_count(void **state)
{
	int fd = image_with(&dynamic_2m, 0x55);
	uint8_t bitmap[512], *model = calloc(1, DISK_SIZE);
	struct disk *disk;
	struct error err = { 0 };

	memset(model + MIB, 0x55, MIB);
	get(fd, place_of(fd, 0), bitmap, sizeof(bitmap));
	for (unsigned i = 0; i < sizeof(bitmap); i++)
		assert_int_equal(bitmap[i], 0xff);
	/* Sectors 2048 to 2050, and every second from 3000 to 3100. */
	bitmap[256] = 0x1f;
	memset(model + MIB, 0, 3 * 512);
	for (unsigned s = 3000; s < 3100; s += 2) {
		bitmap[s / 8] &= (uint8_t)~(0x80u >> s % 8);
		memset(model + s * 512, 0, 512);
	}
	put(fd, place_of(fd, 0), bitmap, sizeof(bitmap));
	for (unsigned round = 0; round < 2; round++) {
		disk = image_must_open(fd, round == 0);
		expect_contents(disk, model, DISK_SIZE);
		image_must_close(disk);
	}
	disk = image_must_open(fd, false);
	/* Within a sector that counts, across both, and within one that does not. */
	memset(model + 3001 * 512 + 7, 1, 9);
	assert_int_equal(disk_write(disk, 3001 * 512 + 7, model + 3001 * 512 + 7, 9, &err), 0);
	get(fd, place_of(fd, 0), bitmap, sizeof(bitmap));
	assert_int_equal(bitmap[256], 0x1f);
	memset(model + 3003 * 512 + 100, 2, 700);
	assert_int_equal(disk_write(disk, 3003 * 512 + 100, model + 3003 * 512 + 100, 700, &err), 0);
	memset(model + MIB + 513, 3, 5);
	assert_int_equal(disk_write(disk, MIB + 513, model + MIB + 513, 5, &err), 0);
	expect_contents(disk, model, DISK_SIZE);
	image_must_close(disk);
	disk = image_must_open(fd, true);
	expect_contents(disk, model, DISK_SIZE);
	image_must_close(disk);
	close(fd);
	free(model);
}

/* --- what cannot be --- */

static void set_entry(int fd, unsigned block, uint32_t sector)
{
	uint8_t entry[4];

	be32_put(entry, sector);
	put(fd, 1536 + 4 * block, entry, sizeof(entry));
}

static void impossible_places(void **state)
{
	static const struct {
		uint32_t sector;
		const char *why;
	} cases[] = {
		{ 0, "over the file's own structures" },
		{ 2, "over the file's own structures" },
		{ 4, "over block" },
		{ 8, "over the footer" },
		{ 1000, "past the end" },
		{ 0x7fffffff, "past the end" },
		{ 0xfffffffe, "past the end" },
	};
	int fd = image_with(&dynamic_2m, 0x66);
	struct error err = { 0 };
	uint8_t sector[512];
	struct disk *disk;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		set_entry(fd, 1, cases[i].sector);
		expect_refused(fd, EBADMSG, cases[i].why);
		expect_finding(fd, "block 1");
		/* The rest can still be read. */
		disk = image_must_open(fd, true);
		expect_byte(disk, MIB, 0x66);
		if (!strstr(cases[i].why, "over block"))
			assert_int_equal(disk_read(disk, 2 * MIB, sector, 512, &err), -EBADMSG);
		image_must_close(disk);
	}
	close(fd);
}

static void bad_header(void **state)
{
	int fd = image_create(&dynamic_2m);
	struct vhd_dynamic_header good, bad;

	get(fd, 512, &good, sizeof(good));
	put(fd, 512 + 300, "x", 1);
	expect_refused(fd, EBADMSG, "its dynamic disk header at offset 0x200 is damaged");
	bad = good;
	memcpy(bad.cookie, "cxwasted", 8);
	put_header(fd, 512, &bad);
	expect_refused(fd, EBADMSG, "no dynamic disk header");
	bad = good;
	be32_put(bad.header_version, 0x20000);
	put_header(fd, 512, &bad);
	expect_refused(fd, ENOTSUP, "version 0x20000");
	for (uint32_t size = 0; size < 3000; size += 600) {
		bad = good;
		be32_put(bad.block_size, size);
		put_header(fd, 512, &bad);
		expect_refused(fd, EBADMSG, "no power of two");
	}
	bad = good;
	be32_put(bad.max_table_entries, 2);
	put_header(fd, 512, &bad);
	expect_refused(fd, EBADMSG, "has 2 entries");
	be32_put(bad.max_table_entries, UINT32_MAX);
	put_header(fd, 512, &bad);
	expect_refused(fd, ENOTSUP, "4294967295 entries");
	for (unsigned i = 0; i < 6; i++) {
		static const uint64_t places[] = { 0, 512, 1024, 1537, 2048, UINT64_MAX - 511 };

		bad = good;
		be64_put(bad.table_offset, places[i]);
		put_header(fd, 512, &bad);
		expect_refused(fd, EBADMSG, "block allocation table");
	}
	put(fd, 512, &good, sizeof(good));
	expect_sound(fd);
	close(fd);
}

static void bad_footer(void **state)
{
	int fd = image_create(&dynamic_2m);
	struct vhd_footer good, bad;

	get(fd, 0, &good, sizeof(good));
	bad = good;
	be32_put(bad.version, 0x30000);
	set_footer(fd, &bad);
	expect_refused(fd, ENOTSUP, "version 3.0");
	bad = good;
	be32_put(bad.disk_type, 5);
	set_footer(fd, &bad);
	expect_refused(fd, EBADMSG, "disk type 5");
	bad = good;
	be64_put(bad.current_size, 0);
	set_footer(fd, &bad);
	expect_refused(fd, EBADMSG, "has 0 bytes");
	be64_put(bad.current_size, 2040 * GIB + 512);
	set_footer(fd, &bad);
	expect_refused(fd, EBADMSG, "2040 GiB");
	bad = good;
	be64_put(bad.data_offset, UINT64_MAX);
	set_footer(fd, &bad);
	expect_refused(fd, EBADMSG, "dynamic disk header at offset");
	set_footer(fd, &good);
	expect_sound(fd);
	close(fd);

	fd = image_create(&fixed);
	get(fd, DISK_SIZE, &bad, sizeof(bad));
	be64_put(bad.current_size, DISK_SIZE + 512);
	set_footer(fd, &bad);
	expect_refused(fd, EBADMSG, "cut short");
	close(fd);
}

static struct shape shapes[] = {
	{ &fixed, 0 },
	{ &dynamic_2m, 0 },
	{ &dynamic_512k, 0 },
	{ &dynamic_2m, 512 },
	{ &dynamic_2m, 4 * KIB },
	{ &dynamic_2m, 64 * KIB },
	{ &dynamic_2m, 16 * MIB },
};

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_fixed),
		cmocka_unit_test(new_dynamic),
		cmocka_unit_test(geometry),
		cmocka_unit_test(refused_options),
		cmocka_unit_test(largest),
		{ "fixed", contents, NULL, NULL, &shapes[0] },
		{ "blocks of 2 MiB", contents, NULL, NULL, &shapes[1] },
		{ "blocks of 512 KiB", contents, NULL, NULL, &shapes[2] },
		{ "blocks of 512 bytes", contents, NULL, NULL, &shapes[3] },
		{ "blocks of 4 KiB", contents, NULL, NULL, &shapes[4] },
		{ "blocks of 64 KiB", contents, NULL, NULL, &shapes[5] },
		{ "blocks of 16 MiB", contents, NULL, NULL, &shapes[6] },
		{ "untouched, fixed", untouched, NULL, NULL, (void *)&fixed },
		{ "untouched, dynamic", untouched, NULL, NULL, (void *)&dynamic_2m },
		cmocka_unit_test(lost_footer),
		cmocka_unit_test(lost_copy),
		cmocka_unit_test(old_footers),
		cmocka_unit_test(footer_in_a_fixed_disk),
		cmocka_unit_test(sizes_by_creator),
		cmocka_unit_test(sectors_that_do_not_count),
		cmocka_unit_test(impossible_places),
		cmocka_unit_test(bad_header),
		cmocka_unit_test(bad_footer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
