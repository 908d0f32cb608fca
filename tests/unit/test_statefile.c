/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a saved machine: memory of every kind comes back, also what was written again, and nothing that is
 * wrong with a file gets through.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "statefile/block.h"

#define LOW   (5u << 20)
#define HIGH  ((3u << 20) + 3 * GUEST_PAGE_SIZE) /* ends in a chunk that is not full */
#define ABOVE 0x100000000ull
#define PAGES ((LOW + HIGH) / GUEST_PAGE_SIZE)

static struct partition *new_partition(void)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1};
	struct partition *p;

	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, LOW, NULL), 0);
	assert_int_equal(partition_add_memory(p, ABOVE, HIGH, NULL), 0);
	return p;
}

static uint8_t *page(struct partition *p, unsigned number)
{
	uint64_t at = (uint64_t)number * GUEST_PAGE_SIZE;

	return partition_memory(p, at < LOW ? at : ABOVE + at - LOW, GUEST_PAGE_SIZE);
}

static int new_file(void)
{
	int fd = memfd_create("state", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static uint32_t next_random(uint32_t *seed)
{
	return *seed = *seed * 1664525u + 1013904223u;
}

/* By its number a page is never used, zeros, the same as others, easy to pack, or nothing that packs. */
static void fill(struct partition *p, unsigned number, uint32_t seed)
{
	uint8_t *to = page(p, number);

	switch (number % 7) {
	case 0:
	case 1:
		break;
	case 2:
		memset(to, 0, GUEST_PAGE_SIZE);
		break;
	case 3:
		memset(to, (int)(1 + number % 3), GUEST_PAGE_SIZE);
		break;
	case 4:
		memset(to, 0, GUEST_PAGE_SIZE);
		le32_put(to + 100, number + seed);
		break;
	default:
		seed += number;
		for (unsigned i = 0; i < GUEST_PAGE_SIZE; i += 4)
			le32_put(to + i, next_random(&seed));
		break;
	}
}

static void assert_same(struct partition *a, struct partition *b)
{
	for (unsigned i = 0; i < PAGES; i++)
		if (memcmp(page(a, i), page(b, i), GUEST_PAGE_SIZE) != 0)
			fail_msg("page %u differs", i);
}

static uint64_t write_file(int fd, struct partition *p)
{
	struct statefile_progress progress = {0};
	struct statefile_writer *w;
	struct error err = {0};
	uint64_t size;

	assert_int_equal(statefile_begin(&w, fd, p, &progress, &err), 0);
	assert_int_equal(statefile_write_memory(w, NULL, true, &err), 0);
	assert_int_equal(progress.done, progress.total);
	assert_int_equal(progress.total, LOW + HIGH);
	assert_int_equal(statefile_finish(w, "the sections", 12, &size, &err), 0);
	statefile_end(w);
	return size;
}

static int read_file(int fd, struct partition *p, struct error *err)
{
	struct statefile_progress progress = {0};
	struct statefile *f;
	int r = statefile_open(&f, fd, "the file", err);

	if (r)
		return r;
	r = statefile_read_memory(f, p, &progress, err);
	statefile_close(f);
	return r;
}

static void test_memory_comes_back(void **state)
{
	struct partition *from = new_partition(), *to = new_partition();
	struct error err = {0};
	struct statefile *f;
	const uint8_t *sections;
	struct stat st;
	uint64_t at, size;
	size_t length;
	int fd = new_file();

	for (unsigned i = 0; i < PAGES; i++)
		fill(from, i, 1);
	size = write_file(fd, from);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, size);
	/* Two pages of seven do not pack; the others take next to nothing. */
	assert_true(size < (uint64_t)PAGES * GUEST_PAGE_SIZE * 2 / 7 + PAGES * 40);
	if (read_file(fd, to, &err))
		fail_msg("%s", err.text);
	assert_same(from, to);
	assert_int_equal(statefile_open(&f, fd, "the file", &err), 0);
	sections = statefile_sections(f, &length, &at);
	assert_int_equal(length, 12);
	assert_memory_equal(sections, "the sections", 12);
	statefile_close(f);
	/* Over it, a machine of which nothing was used. */
	partition_destroy(from);
	partition_destroy(to);
	from = new_partition();
	to = new_partition();
	assert_true(write_file(fd, from) < 2 * HEADER_SIZE);
	assert_int_equal(read_file(fd, to, &err), 0);
	assert_false(partition_memory_used(to, 0, LOW));
	partition_destroy(from);
	partition_destroy(to);
	close(fd);
}

/* As a checkpoint does: everything, then what was changed, twice; pages become zeros and others, and duplicates. */
static void test_memory_that_was_written_again(void **state)
{
	struct partition *from = new_partition(), *to = new_partition();
	struct statefile_progress progress = {0};
	uint64_t changed[PAGES / 64 + 1], size;
	struct statefile_writer *w;
	struct error err = {0};
	int fd = new_file();
	uint32_t seed = 7;

	for (unsigned i = 0; i < PAGES; i++)
		fill(from, i, 1);
	assert_int_equal(statefile_begin(&w, fd, from, &progress, &err), 0);
	assert_int_equal(statefile_write_memory(w, NULL, false, &err), 0);
	for (unsigned pass = 0; pass < 3; pass++) {
		memset(changed, 0, sizeof(changed));
		for (unsigned i = 0; i < 400; i++) {
			unsigned number = next_random(&seed) % PAGES;

			changed[number / 64] |= 1ull << (number % 64);
			memset(page(from, number), 0, GUEST_PAGE_SIZE);
			fill(from, number + next_random(&seed) % 7 < PAGES ? number : 0, seed);
			if (i % 5 == 0)
				memcpy(page(from, number), page(from, 5), GUEST_PAGE_SIZE);
		}
		changed[0] |= 1; /* fill() may have had it */
		assert_int_equal(statefile_write_memory(w, changed, pass == 2, &err), 0);
		assert_int_equal(statefile_sync(w, &err), 0);
	}
	assert_int_equal(statefile_finish(w, NULL, 0, &size, &err), 0);
	statefile_end(w);
	if (read_file(fd, to, &err))
		fail_msg("%s", err.text);
	assert_same(from, to);
	partition_destroy(from);
	partition_destroy(to);
	close(fd);
}

static void test_another_size_of_memory(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1};
	struct partition *from = new_partition(), *to;
	struct error err = {0};
	int fd = new_file();

	write_file(fd, from);
	assert_int_equal(partition_create(&to, &config, NULL), 0);
	assert_int_equal(partition_add_memory(to, 0, LOW, NULL), 0);
	assert_int_equal(read_file(fd, to, &err), -EINVAL);
	assert_non_null(strstr(err.text, "give it the same"));
	partition_destroy(from);
	partition_destroy(to);
	close(fd);
}

/* Any byte that is wrong is found out, or was of no consequence: memory is the same, or there is an error. */
static void test_no_damage_gets_through(void **state)
{
	struct partition *from = new_partition();
	uint8_t *bytes;
	uint64_t size;
	int fd = new_file();
	uint32_t seed = 3;

	for (unsigned i = 0; i < PAGES; i++)
		fill(from, i, 1);
	size = write_file(fd, from);
	bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(bytes != MAP_FAILED);
	for (unsigned i = 0; i < 120; i++) {
		struct partition *to = new_partition();
		struct error err = {0};
		size_t at = i < 72 ? i : i % 2 ? size - 1 - next_random(&seed) % 300 : next_random(&seed) % size;
		int r;

		bytes[at] ^= 0x08;
		r = read_file(fd, to, &err);
		if (r)
			assert_true(r == -EBADMSG || r == -EOVERFLOW);
		else
			assert_true(at >= HEADER_USED); /* in the rest of the header page, or in the sections */
		bytes[at] ^= 0x08;
		partition_destroy(to);
	}
	munmap(bytes, size);
	for (unsigned i = 0; i < 8; i++) {
		struct partition *to = new_partition();
		struct error err = {0};

		assert_int_equal(ftruncate(fd, (off_t)(size * (8 - i) / 8 - 1)), 0);
		assert_int_equal(read_file(fd, to, &err), -EBADMSG);
		partition_destroy(to);
	}
	partition_destroy(from);
	close(fd);
}

/* With checksums that are right. */
static void seal(int fd, uint8_t *index, uint32_t blocks)
{
	uint8_t header[HEADER_SIZE];

	assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
	assert_int_equal(pwrite(fd, index, (size_t)blocks * ENTRY_SIZE, (off_t)le64_get(header + HEADER_INDEX_AT)),
			 blocks * ENTRY_SIZE);
	le32_put(header + HEADER_INDEX_CRC, crc32c(0, index, (size_t)blocks * ENTRY_SIZE));
	le32_put(header + HEADER_CHECKSUM, 0);
	le32_put(header + HEADER_CHECKSUM, crc32c(0, header, HEADER_USED));
	assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
}

static void expect_damaged(int fd, const char *what)
{
	struct partition *to = new_partition();
	struct error err = {0};

	assert_int_equal(read_file(fd, to, &err), -EBADMSG);
	if (!strstr(err.text, what) || !strstr(err.text, "at byte"))
		fail_msg("%s", err.text);
	partition_destroy(to);
}

/* Of a file that takes no room, with an index of 96 GiB: nothing is allocated for it. */
static void test_hostile_index_size(void **state)
{
	struct partition *from = new_partition();
	uint64_t size = HEADER_SIZE + (uint64_t)UINT32_MAX * ENTRY_SIZE;
	uint8_t header[HEADER_SIZE];
	int fd = new_file();

	write_file(fd, from);
	partition_destroy(from);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
	le64_put(header + HEADER_FILE_SIZE, size);
	le64_put(header + HEADER_INDEX_AT, HEADER_SIZE);
	le64_put(header + HEADER_BLOCKS, UINT32_MAX);
	le32_put(header + HEADER_CHECKSUM, 0);
	le32_put(header + HEADER_CHECKSUM, crc32c(0, header, HEADER_USED));
	assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
	expect_damaged(fd, "more blocks of memory than there can be");
	close(fd);
}

/* A writer of files who knows how checksums are made. */
static void test_hostile_blocks(void **state)
{
	struct partition *from = new_partition();
	uint8_t header[HEADER_SIZE], block[BLOCK_MAX], sound[BLOCK_MAX], index[16 * ENTRY_SIZE], saved[16 * ENTRY_SIZE];
	uint32_t blocks, size;
	int fd = new_file();
	off_t at;
	static const struct {
		uint32_t place, value;
		const char *what;
	} lies[] = {{BLOCK_PACKING, 2, "does not hold what it says"},
		    {BLOCK_PACKING, PACKING_NONE, "cannot be unpacked"},
		    {BLOCK_STORED, 255, "does not hold what it says"},
		    {BLOCK_DUPLICATES, 0xffffffff, "does not hold what it says"},
		    {BLOCK_PAYLOAD, 0, "does not hold what it says"},
		    {BLOCK_MAP, 0x04040404, "of no kind"},
		    {BLOCK_REFERENCES, PAGES, "does not exist"},
		    {BLOCK_REFERENCES, 10, "equals another"}};

	for (unsigned i = 0; i < PAGES; i++)
		if (i % 7 == 3 || i % 7 == 4)
			fill(from, i, 1);
	write_file(fd, from);
	assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
	blocks = (uint32_t)le64_get(header + HEADER_BLOCKS);
	assert_in_range(blocks, 9, 16);
	assert_int_equal(pread(fd, index, blocks * ENTRY_SIZE, (off_t)le64_get(header + HEADER_INDEX_AT)), blocks * ENTRY_SIZE);
	memcpy(saved, index, sizeof(index));
	at = (off_t)le64_get(index + ENTRY_AT);
	size = le32_get(index + ENTRY_BYTES);
	assert_int_equal(pread(fd, sound, size, at), size);
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		memcpy(block, sound, size);
		le32_put(block + lies[i].place, lies[i].value);
		if (lies[i].place == BLOCK_REFERENCES && lies[i].value == 10 && le32_get(sound + BLOCK_DUPLICATES) == 0)
			continue;
		assert_int_equal(pwrite(fd, block, size, at), size);
		le32_put(index + ENTRY_CHECKSUM, crc32c(0, block, size));
		seal(fd, index, blocks);
		if (lies[i].value == 10) {
			/* Page 10 is of kind 3: a duplicate, or what duplicates equal; then there is no harm. */
			struct partition *to = new_partition();
			struct error err = {0};

			if (read_file(fd, to, &err))
				assert_non_null(strstr(err.text, lies[i].what));
			partition_destroy(to);
		} else {
			expect_damaged(fd, lies[i].what);
		}
	}
	assert_int_equal(pwrite(fd, sound, size, at), size);
	memcpy(index, saved, sizeof(index));
	le32_put(index + ENTRY_CHUNK, 1000);
	seal(fd, index, blocks);
	expect_damaged(fd, "no part of memory");
	memcpy(index, saved, sizeof(index));
	le32_put(index + ENTRY_CHUNK, le32_get(index + ENTRY_SIZE + ENTRY_CHUNK));
	seal(fd, index, blocks);
	expect_damaged(fd, "comes twice");
	memcpy(index, saved, sizeof(index));
	le64_put(index + ENTRY_AT, UINT64_MAX - 10);
	seal(fd, index, blocks);
	expect_damaged(fd, "outside of the file");
	memcpy(index, saved, sizeof(index));
	le32_put(index + ENTRY_BYTES, 5);
	seal(fd, index, blocks);
	expect_damaged(fd, "outside of the file");
	memcpy(index, saved, sizeof(index));
	le32_put(index + ENTRY_PASS, 77);
	seal(fd, index, blocks);
	expect_damaged(fd, "no part of memory");
	partition_destroy(from);
	close(fd);
}

static void test_cancelled_and_unfinished(void **state)
{
	struct partition *p = new_partition();
	struct statefile_progress progress = {.cancel = true};
	struct statefile_writer *w;
	struct error err = {0};
	int fd = new_file(), pair[2];

	fill(p, 4, 1);
	assert_int_equal(statefile_begin(&w, fd, p, &progress, &err), 0);
	assert_int_equal(statefile_write_memory(w, NULL, true, &err), -ECANCELED);
	statefile_end(w);
	assert_int_equal(read_file(fd, p, &err), -EBADMSG);
	atomic_store(&progress.cancel, false);
	assert_int_equal(statefile_begin(&w, fd, p, &progress, &err), 0);
	assert_int_equal(statefile_write_memory(w, NULL, true, &err), 0);
	statefile_end(w);
	assert_int_equal(read_file(fd, p, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "did not come to its end"));
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(statefile_begin(&w, pair[1], p, &progress, &err), -EBADF);
	assert_int_equal(statefile_begin(&w, pair[0], p, &progress, &err), -EBADF);
	close(pair[0]);
	close(pair[1]);
	/* A file that cannot grow. */
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), -1);
	close(fd);
	fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	assert_int_equal(statefile_begin(&w, fd, p, &progress, &err), 0);
	assert_int_equal(statefile_write_memory(w, NULL, true, &err), -EPERM);
	assert_non_null(strstr(err.text, "cannot be written"));
	statefile_end(w);
	close(fd);
	partition_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_memory_comes_back),
	    cmocka_unit_test(test_memory_that_was_written_again),
	    cmocka_unit_test(test_another_size_of_memory),
	    cmocka_unit_test(test_no_damage_gets_through),
	    cmocka_unit_test(test_hostile_index_size),
	    cmocka_unit_test(test_hostile_blocks),
	    cmocka_unit_test(test_cancelled_and_unfinished),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
