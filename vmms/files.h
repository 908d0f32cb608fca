/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * files.h - files copied, directories made and removed. Private to vmms/. Any thread, but for file_unlink_aside(). Errors:
 * negative errno and a sentence.
 *
 * A directory may be of somebody else's making: names in it are opened so that they can lead nowhere else, and neither
 * links nor pipes are taken for files.
 */
#pragma once

#include <uv.h>

#include "base/base.h"
#include "disk/disk.h"

/* A plain file below an open directory, for reading: no link on its way, no way out. Returns the descriptor. */
int file_open_below(int directory, const char *name, struct error *err);

/* A plain file of any name, for reading; a link is followed unless `no_link` is set. Returns the descriptor. */
int file_open_plain(const char *path, bool no_link, struct error *err);

/* A new file below a directory with the contents and times of an open one, synced. Shares blocks where the file system can, and
 * leaves holes out. `progress` (NULL: none) is in bytes; -ECANCELED: stopped by it. Nothing is left on failure. */
int file_copy(int from, int directory, const char *name, const struct disk_progress *progress, struct error *err);

/* Those above `name`, below an open directory. */
int file_make_parents(int directory, const char *name, struct error *err);

/* Makes a directory and returns it open. -EEXIST: there is something. */
int directory_new(const char *path, struct error *err);

/* Syncs a directory, so that names in it last. */
int directory_sync(const char *path, struct error *err);

/* Removes a file of any kind, or an empty directory, below an open one: no link on its way, no way out. What is not there is gone already. */
void file_remove_below(int directory, const char *name);

/* Takes a file's name away at once, and frees its blocks, which of a big one takes its time, on the loop's pool. For the loop's
 * thread. A link is removed, not followed. Returns 0 or a negative errno. */
int file_unlink_aside(uv_loop_t *loop, int directory, const char *name);

/* Removes a directory with all that is in it; what is not there is gone already. Links are removed, not followed. */
void directory_remove(const char *path);

/* Whether a name that a configuration has can only be of a file in the machine's own directory or below. */
bool name_is_inside(const char *name);
