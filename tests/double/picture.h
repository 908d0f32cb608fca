/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * picture.h - what a file holds, in pages that pictures share: a copy costs little, and two that have much in
 * common are told apart quickly. For tests that rebuild a file thousands of times.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PICTURE_PAGE  4096u
#define PICTURE_PAGES 8192u /* 32 MiB */

struct picture_page;

struct picture {
	bool exists;
	uint64_t size;
	struct picture_page *pages[PICTURE_PAGES]; /* NULL: zeros; past `size` all are */
};

void picture_copy(struct picture *to, const struct picture *from);
void picture_clear(struct picture *picture);

/* What lies past the end is lost. `data` NULL: zeros. */
void picture_write(struct picture *picture, uint64_t offset, const void *data, uint64_t length);
void picture_resize(struct picture *picture, uint64_t size);

/* The file at `path`, which need not exist. */
void picture_take(struct picture *picture, const char *path);

/* Makes the file at `path` what `wanted` is. `there` is what it holds now, and becomes the same; pages that
 * were given to picture_forget() are written in any case. */
void picture_hang(struct picture *there, const struct picture *wanted, const char *path);

/* What the range of the file holds is not known any more. */
void picture_forget(struct picture *there, uint64_t offset, uint64_t length);
