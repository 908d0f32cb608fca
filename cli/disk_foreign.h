/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_foreign.h - images that are only read, and only by way of QEMU's qemu-nbd. */
#pragma once

#include "base/base.h"
#include "disk/disk.h"

/* The name by which QEMU knows the format: of what the file begins with, or of what the user says it is
 * (NULL: nothing). NULL: none of the foreign ones. */
const char *foreign_format(const char *path, const char *said);

/* As disk_import(). ENOTSUP, when qemu-nbd is not installed. */
int foreign_import(const char *from, const char *format, const char *to,
		   const struct disk_create_options *options, const struct disk_progress *progress,
		   struct error *err);
