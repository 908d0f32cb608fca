/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/double/picture.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

struct picture_page {
	unsigned users;
	uint8_t bytes[PICTURE_PAGE];
};

/* Never equal to a page of a picture: of a file, not known. */
static struct picture_page unknown;

static void drop(struct picture_page **page)
{
	if (*page && *page != &unknown && --(*page)->users == 0)
		free(*page);
	*page = NULL;
}

static struct picture_page *share(struct picture_page *page)
{
	if (page && page != &unknown)
		page->users++;
	return page;
}

void picture_copy(struct picture *to, const struct picture *from)
{
	for (unsigned i = 0; i < PICTURE_PAGES; i++) {
		if (to->pages[i] == from->pages[i])
			continue;
		drop(&to->pages[i]);
		to->pages[i] = share(from->pages[i]);
	}
	to->exists = from->exists;
	to->size = from->size;
}

void picture_clear(struct picture *picture)
{
	for (unsigned i = 0; i < PICTURE_PAGES; i++)
		drop(&picture->pages[i]);
	picture->exists = false;
	picture->size = 0;
}

/* The page, for this picture alone. */
static struct picture_page *own(struct picture *picture, uint64_t index)
{
	struct picture_page *page = picture->pages[index], *copy;

	if (page && page->users == 1)
		return page;
	copy = calloc(1, sizeof(*copy));
	assert_non_null(copy);
	if (page)
		memcpy(copy->bytes, page->bytes, PICTURE_PAGE);
	copy->users = 1;
	drop(&picture->pages[index]);
	return picture->pages[index] = copy;
}

void picture_write(struct picture *picture, uint64_t offset, const void *data, uint64_t length)
{
	if (offset >= picture->size)
		return;
	length = min_u64(length, picture->size - offset);
	for (uint64_t at = 0, part; at < length; at += part) {
		uint64_t index = (offset + at) / PICTURE_PAGE, skip = (offset + at) % PICTURE_PAGE;

		part = min_u64(length - at, PICTURE_PAGE - skip);
		if (data)
			memcpy(own(picture, index)->bytes + skip, (const uint8_t *)data + at, part);
		else if (part == PICTURE_PAGE)
			drop(&picture->pages[index]);
		else if (picture->pages[index])
			memset(own(picture, index)->bytes + skip, 0, part);
	}
}

void picture_resize(struct picture *picture, uint64_t size)
{
	assert_true(size <= PICTURE_PAGES * (uint64_t)PICTURE_PAGE);
	if (size < picture->size)
		picture_write(picture, size, NULL, picture->size - size);
	picture->size = size;
}

void picture_take(struct picture *picture, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t bytes[PICTURE_PAGE];
	static const uint8_t zeros[PICTURE_PAGE];

	picture_clear(picture);
	if (fd < 0)
		return;
	picture->exists = true;
	picture_resize(picture, (uint64_t)lseek(fd, 0, SEEK_END));
	for (uint64_t at = 0; at < picture->size; at += PICTURE_PAGE) {
		ssize_t n = pread(fd, bytes, sizeof(bytes), (off_t)at);

		assert_true(n > 0);
		if (memcmp(bytes, zeros, (size_t)n) != 0)
			picture_write(picture, at, bytes, (uint64_t)n);
	}
	close(fd);
}

static void hang_page(int fd, const struct picture *wanted, uint64_t index)
{
	uint64_t at = index * PICTURE_PAGE, length = min_u64(PICTURE_PAGE, wanted->size - at);

	if (wanted->pages[index])
		assert_int_equal(pwrite(fd, wanted->pages[index]->bytes, length, (off_t)at), length);
	else
		assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
				     (off_t)length),
		    0);
}

void picture_hang(struct picture *there, const struct picture *wanted, const char *path)
{
	int fd;

	if (!wanted->exists) {
		unlink(path);
		picture_clear(there);
		return;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	if (there->size != wanted->size)
		assert_int_equal(ftruncate(fd, (off_t)wanted->size), 0);
	for (uint64_t i = 0; i * PICTURE_PAGE < wanted->size; i++)
		if (there->pages[i] != wanted->pages[i])
			hang_page(fd, wanted, i);
	close(fd);
	picture_copy(there, wanted);
}

void picture_forget(struct picture *there, uint64_t offset, uint64_t length)
{
	for (uint64_t i = offset / PICTURE_PAGE; i < PICTURE_PAGES && i * PICTURE_PAGE < offset + length; i++) {
		drop(&there->pages[i]);
		there->pages[i] = &unknown;
	}
}
