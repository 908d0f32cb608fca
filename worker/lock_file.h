/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_file.h - the file by which a machine runs once at most. Private to worker/.
 */
#pragma once

#include "base/base.h"

/* Takes the lock, an OFD lock on the whole file, and writes this process's id into the file, for people. Returns the
 * descriptor, closed on exec: the lock is held as long as any process has it. The file stays when the lock goes.
 * -EBUSY: another process holds it; the text names that. */
int lock_file_take(const char *path, struct error *err);
