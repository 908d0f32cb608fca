/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * new_file.h - a file that gets its name when it is whole and synced, never before.
 *
 * Until then it has no name at all, so that nothing is left of it even when the program is killed; where
 * the file system cannot do that, it is called PATH.new-XXXXXX.
 */
#pragma once

#include <stdbool.h>

#include "base/base.h"
#include "disk/file.h"

struct new_file {
	int fd;
	const struct file_observer *observer; /* may be set after new_file_begin(); told of the name too */
	char *temporary; /* NULL: it has no name yet */
};

/* EEXIST when `path` exists and is not to be replaced. */
int new_file_begin(struct new_file *file, const char *path, bool replace, struct error *err);

/* The file is synced and gets its name, durably. Or nothing of it is left, but when it has replaced another. Closes the descriptor. */
int new_file_finish(struct new_file *file, const char *path, bool replace, struct error *err);

/* The file at `path` is no more, durably. 0 or a negative errno. `observer` may be NULL. */
int new_file_remove(const char *path, const struct file_observer *observer);

/* Nothing is left of it. */
void new_file_abandon(struct new_file *file);
