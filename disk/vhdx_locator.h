/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_locator.h - the parent locator, [MS-VHDX] 2.6.2.6: which file a differencing disk's parent is.
 *
 * In the file it is a table of UTF-16 keys and values; here it is what they say, in UTF-8. Paths keep the
 * backslashes that they have in the file.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

#define LOCATOR_SIZE_MAX (1u << 20)

struct locator {
	struct guid linkage;  /* the parent's DataWriteGuid, */
	struct guid linkage2; /* or this one, unless it is zero: while the child is merged into its parent */
	char *relative_path, *volume_path, *absolute_path; /* NULL: not there */
};

/* Takes an item of the metadata apart; `path` is the image's, for errors. On success the locator's strings
 * are to be freed by locator_clear(). EBADMSG: it is damaged; ENOTSUP: of a type of which nothing is known.
 */
int locator_parse(struct locator *locator, const uint8_t *item, size_t size, const char *path,
		  struct error *err);

/* The item's bytes, to be freed. EINVAL: a path cannot be written in UTF-16. */
int locator_build(const struct locator *locator, uint8_t **item, size_t *size, const char *path,
		  struct error *err);

void locator_clear(struct locator *locator);

/* The parent of the image at `path`, which exists; to be freed. Tried are the relative path, then files of
 * the same name as in the other paths in the image's own directory, which makes the relative one `stale`.
 * ENOENT: the text names them. */
int locator_find(const struct locator *locator, const char *path, char **parent, bool *stale,
		 struct error *err);

/* The way from the image at `path` to the file `parent`, as a relative path with backslashes; to be freed. */
int locator_relative_path(const char *path, const char *parent, char **relative, struct error *err);

/* The same without a look at the files: both names are absolute and without links, else -EINVAL. */
int locator_way(const char *path, const char *parent, char **relative, struct error *err);
