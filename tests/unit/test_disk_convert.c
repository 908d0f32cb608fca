// SPDX-License-Identifier: GPL-2.0-or-later
/* New images with the contents of others: equal, sparse, whole or not there. */
#include "tests/unit/test_disk_images.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define DISK_SIZE (40 * MIB + 3 * 4096)

static char directory[] = "/tmp/convert-XXXXXX";
static uint8_t *model;

static int enter(void **state)
{
	model = calloc(1, DISK_SIZE + MIB);
	return model && mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static unsigned count_files(bool removing)
{
	DIR *d = opendir(".");
	struct dirent *entry;
	unsigned count = 0;

	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		count++;
		if (removing)
			unlink(entry->d_name);
	}
	closedir(d);
	return count;
}

static int leave(void **state)
{
	free(model);
	count_files(true);
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

static struct disk *open_path(const char *path, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void make_source(const struct disk_create_options *options, unsigned seed)
{
	struct disk_create_options o = *options;
	struct dice dice = { seed };
	struct error err = { 0 };
	struct disk *disk;

	o.size = DISK_SIZE;
	o.replace = true;
	if (disk_create("from", &o, &err) != 0)
		fail_msg("%s", err.text);
	memset(model, 0, DISK_SIZE + MIB);
	disk = open_path("from", false);
	for (unsigned i = 0; i < 12; i++) {
		uint64_t size = 1 + dice_roll(&dice, MIB), offset = dice_roll(&dice, DISK_SIZE - size);

		/* Some of what is written is zeros. */
		if (i % 4 == 3)
			memset(model + offset, 0, size);
		else
			dice_fill(&dice, model + offset, size);
		assert_int_equal(disk_write(disk, offset, model + offset, size, &err), 0);
	}
	memset(model + DISK_SIZE - 4096, 0x77, 4096);
	assert_int_equal(disk_write(disk, DISK_SIZE - 4096, model + DISK_SIZE - 4096, 4096, &err), 0);
	image_must_close(disk);
}

static void expect_contents(const char *path, uint64_t size)
{
	struct disk *disk = open_path(path, true);
	uint8_t *all = malloc(size);
	struct disk_info info;
	struct error err = { 0 };

	disk_get_info(disk, &info);
	assert_int_equal(info.size, size);
	assert_int_equal(disk_read(disk, 0, all, size, &err), 0);
	assert_true(memcmp(all, model, size) == 0);
	free(all);
	image_must_close(disk);
	assert_int_equal(disk_check(path, stderr, &err), 0);
}

static const struct disk_create_options kinds[] = {
	{ .format = DISK_FORMAT_RAW },
	{ .format = DISK_FORMAT_VHDX },
	{ .format = DISK_FORMAT_VHDX, .block_size = MIB, .logical_sector_size = 4096 },
	{ .format = DISK_FORMAT_VHDX, .fixed = true },
};

static void any_to_any(void **state)
{
	struct error err = { 0 };

	for (unsigned from = 0; from < ARRAY_SIZE(kinds); from++) {
		make_source(&kinds[from], from);
		for (unsigned to = 0; to < ARRAY_SIZE(kinds); to++) {
			struct disk_create_options o = kinds[to];
			struct stat st;

			o.replace = true;
			if (disk_convert("from", NULL, "to", &o, NULL, &err) != 0)
				fail_msg("%s", err.text);
			expect_contents("to", DISK_SIZE);
			assert_int_equal(stat("to", &st), 0);
			/* At most 8 MiB of it are data. */
			if (kinds[to].format == DISK_FORMAT_RAW || (kinds[to].block_size == MIB && from != 3))
				assert_in_range(st.st_blocks * 512, MIB, 24 * MIB);
			assert_int_equal(count_files(false), 2);
		}
	}
	count_files(true);
}

static void larger_and_in_place(void **state)
{
	struct disk_create_options o = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE + MIB, .replace = true };
	struct error err = { 0 };

	make_source(&kinds[2], 9);
	assert_int_equal(disk_convert("from", NULL, "from", &o, NULL, &err), 0);
	expect_contents("from", DISK_SIZE + MIB);
	o.size = DISK_SIZE;
	assert_int_equal(disk_convert("from", NULL, "from", &o, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too small"));
	expect_contents("from", DISK_SIZE + MIB);
	o = (struct disk_create_options){ .format = DISK_FORMAT_RAW };
	assert_int_equal(disk_convert("from", NULL, "from", &o, NULL, &err), -EEXIST);
	count_files(true);
}

static void tail(void **state)
{
	struct disk_create_options o = { .format = DISK_FORMAT_VHDX };
	struct error err = { 0 };

	make_source(&kinds[0], 3);
	assert_int_equal(truncate("from", DISK_SIZE - 100), 0);
	assert_int_equal(disk_convert("from", NULL, "to", &o, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "last 412 bytes"));
	assert_int_equal(count_files(false), 1);
	count_files(true);
}

struct stopper {
	unsigned steps, stop_at;
	uint64_t last, total;
};

static bool stop(void *context, uint64_t done, uint64_t total)
{
	struct stopper *s = context;

	assert_true(done >= s->last && done <= total);
	s->last = done;
	s->total = total;
	return ++s->steps != s->stop_at;
}

static void stopped(void **state)
{
	struct disk_create_options o = { .format = DISK_FORMAT_VHDX, .replace = true };
	struct stopper stopper = { 0 };
	const struct disk_progress progress = { stop, &stopper };
	struct error err = { 0 };

	make_source(&kinds[1], 4);
	assert_int_equal(disk_convert("from", NULL, "to", &o, &progress, &err), 0);
	assert_int_equal(stopper.last, stopper.total);
	for (unsigned i = 1; i < stopper.steps; i++) {
		struct stopper early = { .stop_at = i };
		const struct disk_progress p = { stop, &early };
		struct disk_create_options raw = { .format = DISK_FORMAT_RAW, .replace = true };

		/* How many steps there are depends on the host's speed. */
		if (disk_convert("from", NULL, "to", &raw, &p, &err) == 0)
			break;
		assert_int_equal(err.code, ECANCELED);
		expect_contents("to", DISK_SIZE);
		assert_int_equal(count_files(false), 2);
	}
	count_files(true);
}

struct elsewhere {
	unsigned reads, fail_at;
};

static int source_extent(void *context, uint64_t offset, uint64_t *length, bool *zero, struct error *err)
{
	*length = 100000 - offset % 100000; /* a source knows nothing of our borders */
	*zero = offset / 100000 % 3 == 0;
	return 0;
}

static int source_read(void *context, uint64_t offset, void *buffer, size_t size, struct error *err)
{
	struct elsewhere *elsewhere = context;

	if (++elsewhere->reads == elsewhere->fail_at)
		return error_set(err, EIO, "the source is gone");
	memcpy(buffer, model + offset, size);
	return 0;
}

static void imported(void **state)
{
	struct elsewhere elsewhere = { 0 };
	const struct disk_source source = { DISK_SIZE, source_extent, source_read, &elsewhere };
	struct disk_create_options o = { .format = DISK_FORMAT_VHDX };
	struct dice dice = { 5 };
	struct error err = { 0 };

	dice_fill(&dice, model, DISK_SIZE);
	for (uint64_t at = 0; at < DISK_SIZE; at++)
		if (at / 100000 % 3 == 0)
			model[at] = 0;
	if (disk_import(&source, "to", &o, NULL, &err) != 0)
		fail_msg("%s", err.text);
	expect_contents("to", DISK_SIZE);
	o.replace = true;
	elsewhere.fail_at = elsewhere.reads + 20;
	assert_int_equal(disk_import(&source, "to", &o, NULL, &err), -EIO);
	assert_string_equal(err.text, "the source is gone");
	expect_contents("to", DISK_SIZE);
	assert_int_equal(count_files(false), 1);
	count_files(true);
}

/* How much of a file the host has in its cache, in parts of a hundred. */
static unsigned cached(const char *path)
{
	static unsigned char pages[(DISK_SIZE + 4 * MIB) / 4096];
	size_t count, there = 0;
	struct stat st;
	int fd = open(path, O_RDWR);
	void *at;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	count = ((size_t)st.st_size + 4095) / 4096;
	assert_in_range(count, 1, sizeof(pages));
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(at != MAP_FAILED && mincore(at, (size_t)st.st_size, pages) == 0);
	for (size_t i = 0; i < count; i++)
		there += pages[i] & 1;
	munmap(at, (size_t)st.st_size);
	close(fd);
	return (unsigned)(there * 100 / count);
}

static void drop(const char *path)
{
	int fd = open(path, O_RDWR);

	assert_true(fd >= 0 && fdatasync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	close(fd);
}

/* Neither the new image nor a source that was not in the host's cache is there afterwards. */
static void past_the_cache(void **state)
{
	struct disk_create_options o = { .format = DISK_FORMAT_RAW, .size = DISK_SIZE, .replace = true };
	struct dice dice = { 6 };
	struct error err = { 0 };
	struct disk *disk;
	uint8_t *page = aligned_alloc(4096, 4096);
	int fd = open("to", O_RDWR | O_CREAT | O_DIRECT, 0600);

	dice_fill(&dice, model, DISK_SIZE);
	memcpy(page, model, 4096);
	if (fd < 0 || pwrite(fd, page, 4096, 0) != 4096 || cached("to") > 0) {
		print_message("the file system has no O_DIRECT, or in name only\n");
		skip();
	}
	close(fd);
	free(page);
	assert_int_equal(disk_create("from", &o, &err), 0);
	disk = open_path("from", false);
	assert_int_equal(disk_write(disk, 0, model, DISK_SIZE, &err), 0);
	image_must_close(disk);
	for (unsigned from_cache = 0; from_cache < 2; from_cache++) {
		if (from_cache)
			expect_contents("from", DISK_SIZE);
		else
			drop("from");
		if (disk_convert("from", NULL, "to", &o, NULL, &err) != 0)
			fail_msg("%s", err.text);
		assert_in_range(cached("to"), 0, 20);
		assert_in_range(cached("from"), from_cache ? 80 : 0, from_cache ? 100 : 20);
		expect_contents("to", DISK_SIZE);
	}
	count_files(true);
}

/* Every byte is in exactly one extent, and where one is said to be zeros, it is. */
static void extents(void **state)
{
	static const uint8_t zeros[4096];
	struct error err = { 0 };

	for (unsigned kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		struct disk *disk;
		uint64_t at = 0, data = 0;
		struct disk_extent e;

		make_source(&kinds[kind], 20 + kind);
		disk = open_path("from", true);
		for (; at < DISK_SIZE; at += e.length) {
			assert_int_equal(disk_get_extent(disk, at, DISK_SIZE - at, &e, &err), 0);
			assert_int_equal(e.offset, at);
			assert_true(e.length > 0 && e.length <= DISK_SIZE - at);
			for (uint64_t i = 0; e.zero && i < e.length; i += 4096)
				assert_memory_equal(model + at + i, zeros, min_u64(4096, e.length - i));
			data += e.zero ? 0 : e.length;
		}
		assert_in_range(data, MIB, 14 * MIB);
		assert_int_equal(disk_get_extent(disk, DISK_SIZE, 512, &e, &err), -EINVAL);
		assert_int_equal(disk_get_extent(disk, 0, 0, &e, &err), -EINVAL);
		image_must_close(disk);
	}
	count_files(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_to_any), cmocka_unit_test(larger_and_in_place), cmocka_unit_test(tail),
		cmocka_unit_test(stopped), cmocka_unit_test(imported), cmocka_unit_test(past_the_cache),
		cmocka_unit_test(extents),
	};

	return cmocka_run_group_tests(tests, enter, leave);
}
