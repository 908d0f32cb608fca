// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Differencing VHD: chains against a plain array, by random operations; parents of all kinds, other names and
 * places; merging; what is refused, and what it says.
 */
#include "tests/unit/test_disk_vhd.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "disk/utf16.h"

#define DISK_SIZE (5 * MIB + 512)

static char directory[64];

static const char *name_of(const char *name)
{
	static char names[4][128];
	static unsigned next;

	snprintf(names[next = (next + 1) % 4], 128, "%s/%s", directory, name);
	return names[next];
}

static struct disk *must_open(const char *name, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, name_of(name), &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void create(const char *name, const struct disk_create_options *options)
{
	struct error err = { 0 };

	if (disk_create(name_of(name), options, &err) != 0)
		fail_msg("%s", err.text);
}

static void create_base(const char *name, uint32_t block_size, bool is_fixed)
{
	create(name, &(struct disk_create_options){ .format = DISK_FORMAT_VHD, .size = DISK_SIZE,
			 .block_size = block_size, .fixed = is_fixed });
}

static void create_child(const char *name, const char *parent, uint32_t block_size)
{
	create(name, &(struct disk_create_options){ .format = DISK_FORMAT_VHD, .parent = name_of(parent),
			 .block_size = block_size });
}

static void must(int r, const struct error *err)
{
	if (r != 0)
		fail_msg("%s", err->text);
}

static void must_check(const char *name)
{
	struct error err = { 0 };

	must(disk_check(name_of(name), stderr, &err), &err);
}

static void refused(const char *name, int code, const char *why)
{
	const struct disk_open_options options = { .read_only = true };
	struct error err = { 0 };
	struct disk *disk;

	assert_int_equal(disk_open(&disk, name_of(name), &options, &err), -code);
	if (!strstr(err.text, why))
		fail_msg("%s", err.text);
}

static void fill(const char *name, uint64_t offset, size_t size, uint8_t byte)
{
	struct disk *disk = must_open(name, false);
	uint8_t *data = malloc(size);
	struct error err = { 0 };

	memset(data, byte, size);
	must(disk_write(disk, offset, data, size, &err), &err);
	image_must_close(disk);
	free(data);
}

static void expect_byte(struct disk *disk, uint64_t offset, uint8_t byte)
{
	struct error err = { 0 };
	uint8_t is;

	must(disk_read(disk, offset, &is, 1, &err), &err);
	assert_int_equal(is, byte);
}

static int remove_all(void **state)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s/*", directory);
	return system(command);
}

/* --- the model --- */

struct model {
	struct dice dice;
	uint8_t *bytes;
	struct disk *disk;
	unsigned depth;
	char name[32];
};

static void change(struct model *m)
{
	uint64_t size = 1 + dice_roll(&m->dice, 200 * KIB), offset = dice_roll(&m->dice, DISK_SIZE - size);
	struct disk_request request = { .op = DISK_OP_DISCARD };
	struct error err = { 0 };

	if (dice_roll(&m->dice, 3) == 0) {
		request.offset = offset / 512 * 512;
		request.length = min_u64(align_up_u64(size, 512), DISK_SIZE - request.offset);
		if (dice_roll(&m->dice, 3) == 0) {
			request.offset = offset / MIB * MIB;
			request.length = min_u64(2 * MIB, DISK_SIZE - request.offset);
		}
		memset(m->bytes + request.offset, 0, request.length);
		must(disk_perform(m->disk, &request, &err), &err);
		return;
	}
	dice_fill(&m->dice, m->bytes + offset, size);
	must(disk_write(m->disk, offset, m->bytes + offset, size, &err), &err);
}

static void go_deeper(struct model *m)
{
	static const uint32_t sizes[] = { 512 * KIB, 2 * MIB };
	char parent[32];

	image_must_close(m->disk);
	strcpy(parent, m->name);
	snprintf(m->name, sizeof(m->name), "%u.avhd", ++m->depth);
	create_child(m->name, parent, sizes[dice_roll(&m->dice, 2)]);
	m->disk = must_open(m->name, false);
}

/* The uppermost disk goes into its parent, which is the disk then. */
static void merge(struct model *m)
{
	struct error err = { 0 };

	image_must_close(m->disk);
	must(disk_merge(name_of(m->name), NULL, &err), &err);
	assert_int_equal(access(name_of(m->name), F_OK), -1);
	if (--m->depth == 0)
		strcpy(m->name, "base.vhd");
	else
		snprintf(m->name, sizeof(m->name), "%u.avhd", m->depth);
	must_check(m->name);
	m->disk = must_open(m->name, false);
}

static void random_operations(void **state)
{
	const struct disk_create_options *base = *state;
	struct model m = { .dice = { base->block_size + base->fixed }, .bytes = calloc(1, DISK_SIZE), .name = "base.vhd" };
	struct error err = { 0 };

	create("base.vhd", base);
	m.disk = must_open(m.name, false);
	for (unsigned i = 0; i < 300; i++) {
		change(&m);
		if (i % 5 == 0)
			must(disk_flush(m.disk, &err), &err);
		if (i % 25 == 24) {
			expect_contents(m.disk, m.bytes, DISK_SIZE);
			image_must_close(m.disk);
			must_check(m.name);
			m.disk = must_open(m.name, true);
			expect_contents(m.disk, m.bytes, DISK_SIZE);
			image_must_close(m.disk);
			m.disk = must_open(m.name, false);
			if (m.depth > 0 && dice_roll(&m.dice, 3) == 0)
				merge(&m);
			else if (m.depth < 5)
				go_deeper(&m);
		}
	}
	while (m.depth > 0)
		merge(&m);
	expect_contents(m.disk, m.bytes, DISK_SIZE);
	image_must_close(m.disk);
	free(m.bytes);
}

/* --- the file --- */

static void new_child(void **state)
{
	struct vhd_dynamic_header header;
	struct vhd_footer footer, parent;
	uint8_t text[200], expected[200];
	size_t units;
	struct disk *disk;
	int fd;

	create_base("base.vhd", 0, false);
	create_child("child.vhd", "base.vhd", 0);
	fd = open(name_of("base.vhd"), O_RDONLY | O_CLOEXEC);
	get(fd, 0, &parent, sizeof(parent));
	close(fd);
	fd = open(name_of("child.vhd"), O_RDONLY | O_CLOEXEC);
	get(fd, 0, &footer, sizeof(footer));
	get(fd, 512, &header, sizeof(header));
	assert_int_equal(be32_get(footer.disk_type), 4);
	assert_memory_not_equal(footer.unique_id, parent.unique_id, 16);
	assert_memory_equal(header.parent_unique_id, parent.unique_id, 16);
	assert_memory_equal(header.parent_time_stamp, parent.time_stamp, 4);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(be16_get(header.parent_unicode_name + 2 * i), "base.vhd"[i]);
	assert_int_equal(be32_get(header.parent_locators[0].platform_code), 0x57327275);
	units = be32_get(header.parent_locators[0].platform_data_length) / 2;
	assert_int_equal(units, 10);
	assert_int_equal(utf16_put(expected, 100, ".\\base.vhd"), units);
	get(fd, be64_get(header.parent_locators[0].platform_data_offset), text, 2 * units);
	assert_memory_equal(text, expected, 2 * units);
	assert_int_equal(be32_get(header.parent_locators[1].platform_code), 0);
	close(fd);
	/* To a guest it is the same disk. */
	disk = must_open("child.vhd", true);
	assert_true(guid_equal(&disk->info.identifier, &disk->parent->info.identifier));
	image_must_close(disk);
}

static void parent_is_written(void **state)
{
	const struct disk_create_options *base = *state;
	struct error err = { 0 };
	struct disk *disk;

	create("base.vhd", base);
	fill("base.vhd", MIB, 512, 1);
	create_child("a.vhd", "base.vhd", 0);
	create_child("b.vhd", "base.vhd", 0);
	fill("a.vhd", MIB, 512, 2);
	/* Opening it alone does nothing. */
	image_must_close(must_open("base.vhd", false));
	disk = must_open("a.vhd", true);
	expect_byte(disk, MIB, 2);
	image_must_close(disk);
	fill("base.vhd", 2 * MIB, 512, 3);
	refused("a.vhd", ESTALE, "has been changed since (its time stamp is 2");
	refused("b.vhd", ESTALE, "reparent --force");
	assert_int_equal(disk_reparent(name_of("a.vhd"), name_of("base.vhd"), false, &err), -ESTALE);
	must(disk_reparent(name_of("a.vhd"), name_of("base.vhd"), true, &err), &err);
	disk = must_open("a.vhd", true);
	expect_byte(disk, MIB, 2);
	expect_byte(disk, 2 * MIB, 3);
	image_must_close(disk);
	/* So it is when a child is merged. */
	must(disk_reparent(name_of("b.vhd"), name_of("base.vhd"), true, &err), &err);
	must(disk_merge(name_of("a.vhd"), NULL, &err), &err);
	refused("b.vhd", ESTALE, "has been changed since");
}

static uint32_t stamp_of(const char *name)
{
	struct disk *disk = must_open(name, true);
	uint32_t stamp = be32_get(((struct vhd *)disk->format)->footer.time_stamp);

	image_must_close(disk);
	return stamp;
}

/* What other programs write: the time at which the parent's file was changed last. */
static void time_of_the_file(void **state)
{
	struct vhd_dynamic_header header;
	struct timespec times[2];
	uint32_t written;
	int fd;

	create_base("base.vhd", 0, false);
	create_child("child.vhd", "base.vhd", 0);
	fd = open(name_of("child.vhd"), O_RDWR | O_CLOEXEC);
	get(fd, 512, &header, sizeof(header));
	be32_put(header.parent_time_stamp, 2000000000);
	put_header(fd, 512, &header);
	refused("child.vhd", ESTALE, "that expected 2063-05-18 03:33:20");
	times[0] = times[1] = (struct timespec){ .tv_sec = 2000000000 + VHD_EPOCH, .tv_nsec = 5 };
	assert_int_equal(utimensat(AT_FDCWD, name_of("base.vhd"), times, 0), 0);
	image_must_close(must_open("child.vhd", false));
	/* Written since, in that second. */
	fill("base.vhd", MIB, 512, 1);
	written = stamp_of("base.vhd");
	create_child("second.vhd", "base.vhd", 0);
	fill("base.vhd", MIB, 512, 2);
	times[0].tv_sec = times[1].tv_sec = (time_t)written + VHD_EPOCH;
	assert_int_equal(utimensat(AT_FDCWD, name_of("base.vhd"), times, 0), 0);
	refused("second.vhd", ESTALE, "has been changed since");
	/* Or none at all. */
	assert_int_equal(utimensat(AT_FDCWD, name_of("base.vhd"), NULL, 0), 0);
	be32_put(header.parent_time_stamp, 0);
	put_header(fd, 512, &header);
	image_must_close(must_open("child.vhd", false));
	close(fd);
}

static void another_parent(void **state)
{
	struct error err = { 0 };

	create_base("base.vhd", 0, false);
	create_base("other.vhd", 0, false);
	create_child("child.vhd", "base.vhd", 0);
	assert_int_equal(rename(name_of("other.vhd"), name_of("base.vhd")), 0);
	refused("child.vhd", ESTALE, "is another disk than it was made from (its identifier is ");
	refused("child.vhd", ESTALE, "bulkhead disk reparent");
	assert_int_equal(unlink(name_of("base.vhd")), 0);
	refused("child.vhd", ENOENT, "its parent is not there: looked for ");
	assert_int_equal(disk_reparent(name_of("child.vhd"), name_of("child.vhd"), true, &err), -ENOENT);
	create_base("new.vhd", 0, false);
	assert_int_equal(disk_reparent(name_of("child.vhd"), name_of("new.vhd"), false, &err), -ESTALE);
	assert_int_equal(disk_reparent(name_of("new.vhd"), name_of("new.vhd"), false, &err), -ELOOP);
	must(disk_reparent(name_of("child.vhd"), name_of("new.vhd"), true, &err), &err);
	must_check("child.vhd");
}

/* --- where the parent is --- */

/* In place of what the file says: paths, NULL for none, as other programs write them. */
static void set_paths(const char *child, const char *relative, const char *absolute, const char *file_name)
{
	int fd = open(name_of(child), O_RDWR | O_CLOEXEC);
	const struct {
		uint32_t code;
		const char *path;
	} locators[] = { { 0x4d616358 /* MacX */, "file://localhost/nothing" }, { 0x57326b75, absolute },
		{ 0x57327275, relative }, { 0x57693272 /* Wi2r */, "x" } };
	struct vhd_dynamic_header header;
	struct vhd_footer footer;
	uint64_t place;

	get(fd, 0, &footer, sizeof(footer));
	get(fd, be64_get(footer.data_offset), &header, sizeof(header));
	memset(header.parent_locators, 0, sizeof(header.parent_locators));
	memset(header.parent_unicode_name, 0, sizeof(header.parent_unicode_name));
	for (size_t i = 0; file_name && file_name[i]; i++)
		be16_put(header.parent_unicode_name + 2 * i, (uint16_t)file_name[i]);
	place = file_length(fd) - 512;
	for (unsigned i = 0; i < ARRAY_SIZE(locators); i++) {
		struct vhd_parent_locator *locator = &header.parent_locators[i];
		uint8_t text[512] = { 0 };

		if (!locators[i].path)
			continue;
		be32_put(locator->platform_code, locators[i].code);
		/* In sectors, as the specification says, or in bytes. */
		be32_put(locator->platform_data_space, i % 2 ? 1 : 512);
		be32_put(locator->platform_data_length, (uint32_t)(2 * utf16_put(text, 256, locators[i].path)));
		be64_put(locator->platform_data_offset, place);
		put(fd, place, text, sizeof(text));
		place += 512;
	}
	put(fd, place, &footer, sizeof(footer));
	put_header(fd, be64_get(footer.data_offset), &header);
	close(fd);
}

static void paths(void **state)
{
	static const struct {
		const char *relative, *absolute, *name;
		bool found;
	} cases[] = {
		{ ".\\below\\base.vhd", NULL, NULL, true },
		{ "below\\base.vhd", "C:\\gone\\lost.vhd", "lost.vhd", true },
		{ "..\\gone\\p\xc3\xa4rent.vhd", "D:\\vm\\beside.vhd", NULL, true },
		{ NULL, "\\\\server\\share\\beside.vhd", NULL, true },
		{ NULL, NULL, "beside.vhd", true },
		{ NULL, "C:\\below\\base.vhd", NULL, false },
		{ "C:\\gone.vhd", NULL, NULL, false },
		{ NULL, NULL, NULL, false },
	};
	struct disk *disk;

	assert_int_equal(mkdir(name_of("below"), 0700), 0);
	create_base("below/base.vhd", 0, false);
	fill("below/base.vhd", MIB, 512, 7);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		create_child("child.vhd", "below/base.vhd", 0);
		fill("child.vhd", 3 * MIB, 512, 8);
		if (link(name_of("below/base.vhd"), name_of("beside.vhd")) < 0)
			assert_int_equal(errno, EEXIST);
		set_paths("child.vhd", cases[i].relative, cases[i].absolute, cases[i].name);
		if (!cases[i].found) {
			if (cases[i].relative || cases[i].absolute)
				refused("child.vhd", ENOENT, "its parent is not there");
			else
				refused("child.vhd", EBADMSG, "does not say which file its parent is");
		} else {
			disk = must_open("child.vhd", true);
			expect_byte(disk, MIB, 7);
			image_must_close(disk);
			/* What others have written behind the blocks stays where it is. */
			fill("child.vhd", 4 * MIB, 512, 9);
			assert_int_equal(rename(name_of("below"), name_of("moved")), 0);
			if (i >= 2) {
				/* Since it was opened for writing, the path is right. */
				disk = must_open("child.vhd", false);
				assert_false(((struct vhd *)disk->format)->link.stale);
				expect_byte(disk, 3 * MIB, 8);
				expect_byte(disk, 4 * MIB, 9);
				image_must_close(disk);
				must_check("child.vhd");
			}
			assert_int_equal(rename(name_of("moved"), name_of("below")), 0);
		}
		assert_int_equal(unlink(name_of("child.vhd")), 0);
	}
}

static void bad_locators(void **state)
{
	static const struct {
		uint32_t length;
		uint64_t offset;
	} cases[] = { { 0, 2048 }, { 3, 2048 }, { 70000, 2048 }, { 16, UINT64_MAX }, { 16, 1 << 20 } };
	struct vhd_dynamic_header header;
	int fd;

	create_base("base.vhd", 0, false);
	create_child("child.vhd", "base.vhd", 0);
	fd = open(name_of("child.vhd"), O_RDWR | O_CLOEXEC);
	get(fd, 512, &header, sizeof(header));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		be32_put(header.parent_locators[0].platform_data_length, cases[i].length);
		be64_put(header.parent_locators[0].platform_data_offset, cases[i].offset);
		put_header(fd, 512, &header);
		refused("child.vhd", EBADMSG, "a parent locator puts a path of");
	}
	/* A lone half of a pair. */
	be32_put(header.parent_locators[0].platform_data_length, 4);
	be64_put(header.parent_locators[0].platform_data_offset, 2048);
	put_header(fd, 512, &header);
	put(fd, 2048, "\x00\xd8\x41\x00", 4);
	refused("child.vhd", EBADMSG, "no UTF-16");
	close(fd);
}

static void loops(void **state)
{
	struct error err = { 0 };

	create_base("base.vhd", 0, false);
	create_child("a.vhd", "base.vhd", 0);
	create_child("b.vhd", "a.vhd", 0);
	assert_int_equal(disk_reparent(name_of("a.vhd"), name_of("b.vhd"), true, &err), -ELOOP);
	set_paths("a.vhd", ".\\b.vhd", NULL, NULL);
	refused("b.vhd", ELOOP, "whose own chain of parents it is in");
	must(disk_reparent(name_of("a.vhd"), name_of("base.vhd"), false, &err), &err);
	must_check("b.vhd");
}

/* --- making and merging --- */

static void refused_children(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHD, .parent = name_of("base.vhdx") };
	struct error err = { 0 };

	create("base.vhdx", &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .size = DISK_SIZE });
	assert_int_equal(disk_create(name_of("child.vhd"), &options, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "is no VHD; convert that first"));
	create_base("base.vhd", 0, false);
	options.parent = name_of("base.vhd");
	options.fixed = true;
	assert_int_equal(disk_create(name_of("child.vhd"), &options, &err), -EINVAL);
	options.fixed = false;
	options.size = 2 * DISK_SIZE;
	assert_int_equal(disk_create(name_of("child.vhd"), &options, &err), -EINVAL);
	assert_int_equal(disk_merge(name_of("base.vhd"), NULL, &err), -EINVAL);
}

/* Where no file can be opened by name, no parent can. */
static void by_descriptor(void **state)
{
	struct error err = { 0 };
	struct disk *disk;

	create_base("base.vhd", 0, false);
	create_child("child.vhd", "base.vhd", 0);
	assert_int_equal(
	    disk_open_fd(&disk, open(name_of("child.vhd"), O_RDWR | O_CLOEXEC), "child", NULL, &err), -ENOTSUP);
	assert_int_equal(disk_open_fd(&disk, open(name_of("base.vhd"), O_RDWR | O_CLOEXEC), "base", NULL, &err), 0);
	must(disk_write(disk, MIB, "x", 1, &err), &err);
	image_must_close(disk);
}

static bool stop_late(void *context, uint64_t done, uint64_t total)
{
	return done < total / 2;
}

static void merge_is_stopped(void **state)
{
	const struct disk_progress progress = { stop_late, NULL };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 3 };
	struct error err = { 0 };
	struct disk *disk;

	create_base("base.vhd", 512 * KIB, false);
	fill("base.vhd", MIB, 3 * MIB, 1);
	memset(model + MIB, 1, 3 * MIB);
	create_child("a.vhd", "base.vhd", 0);
	disk = must_open("a.vhd", false);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t offset = 512 * dice_roll(&dice, DISK_SIZE / 512 - 90), length = 512 * (1 + dice_roll(&dice, 90));

		dice_fill(&dice, model + offset, length);
		must(disk_write(disk, offset, model + offset, length, &err), &err);
	}
	image_must_close(disk);
	create_child("b.vhd", "a.vhd", 0);
	assert_int_equal(disk_merge(name_of("a.vhd"), &progress, &err), -ECANCELED);
	disk = must_open("b.vhd", true);
	expect_contents(disk, model, DISK_SIZE);
	image_must_close(disk);
	must(disk_merge(name_of("a.vhd"), NULL, &err), &err);
	/* The identifier stays the base's: that the contents are those of the merged one has to be known. */
	assert_int_equal(disk_reparent(name_of("b.vhd"), name_of("base.vhd"), false, &err), -ESTALE);
	must(disk_reparent(name_of("b.vhd"), name_of("base.vhd"), true, &err), &err);
	disk = must_open("b.vhd", false);
	expect_contents(disk, model, DISK_SIZE);
	image_must_close(disk);
	must_check("b.vhd");
	free(model);
}

/* The same contents in one file. */
static void flattened(void **state)
{
	const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD }, vhdx = { .format = DISK_FORMAT_VHDX };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct error err = { 0 };
	struct disk *disk;

	create_base("base.vhd", 0, true);
	fill("base.vhd", 0, MIB, 1);
	create_child("a.vhd", "base.vhd", 0);
	fill("a.vhd", 512 * KIB, 4 * MIB, 2);
	create_child("b.vhd", "a.vhd", 512 * KIB);
	fill("b.vhd", DISK_SIZE - 512, 512, 3);
	memset(model, 1, 512 * KIB);
	memset(model + 512 * KIB, 2, 4 * MIB);
	memset(model + DISK_SIZE - 512, 3, 512);
	must(disk_convert(name_of("b.vhd"), NULL, name_of("flat.vhd"), &vhd, NULL, &err), &err);
	must(disk_convert(name_of("b.vhd"), NULL, name_of("flat.vhdx"), &vhdx, NULL, &err), &err);
	for (unsigned i = 0; i < 2; i++) {
		disk = must_open(i == 0 ? "flat.vhd" : "flat.vhdx", true);
		assert_null(disk->parent);
		expect_contents(disk, model, DISK_SIZE);
		image_must_close(disk);
	}
	free(model);
}

static struct disk_create_options bases[] = {
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE },
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB },
	{ .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true },
};

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "random operations over 2 MiB", random_operations, NULL, remove_all, &bases[0] },
		{ "random operations over 512 KiB", random_operations, NULL, remove_all, &bases[1] },
		{ "random operations over fixed", random_operations, NULL, remove_all, &bases[2] },
		cmocka_unit_test_teardown(new_child, remove_all),
		{ "dynamic parent is written", parent_is_written, NULL, remove_all, &bases[0] },
		{ "fixed parent is written", parent_is_written, NULL, remove_all, &bases[2] },
		cmocka_unit_test_teardown(time_of_the_file, remove_all),
		cmocka_unit_test_teardown(another_parent, remove_all),
		cmocka_unit_test_teardown(paths, remove_all),
		cmocka_unit_test_teardown(bad_locators, remove_all),
		cmocka_unit_test_teardown(loops, remove_all),
		cmocka_unit_test_teardown(refused_children, remove_all),
		cmocka_unit_test_teardown(by_descriptor, remove_all),
		cmocka_unit_test_teardown(merge_is_stopped, remove_all),
		cmocka_unit_test_teardown(flattened, remove_all),
	};
	int r;

	image_directory(directory, sizeof(directory));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
