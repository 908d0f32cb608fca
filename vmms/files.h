/* SPDX-License-Identifier: GPL-2.0-or-later */
/* files.h - files copied and directories made. Private to vmms/. Any thread. Errors: negative errno and a
 * sentence. */
#pragma once

#include "base/base.h"

/* A new file in a directory with the contents of another, synced. Shares blocks where the file system can. */
int file_copy(const char *from, int directory, const char *name, struct error *err);
