/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy.h - contents into a new image: many requests in flight, zeros left out, stopped when asked.
 *
 * Reads may finish in any order; the writes begin in the order of the disk, so that an image that grows
 * gets its blocks in that order too.
 */
#pragma once

#include "disk/image.h"

/* `to` is new and reads as zeros everywhere; it is not flushed. Its size is at least that of `from`. */
int copy_disk(struct disk *from, struct disk *to, const struct disk_progress *progress, struct error *err);
int copy_source(const struct disk_source *from, struct disk *to, const struct disk_progress *progress,
		struct error *err);
