/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock.h - who may have an image open: many readers or one writer.
 *
 * Among our own processes by flock(2), which lets /proc/locks name the holder; towards QEMU and its
 * tools by the byte locks that they set (docs/system/images.rst and block/file-posix.c in QEMU:
 * byte 100 + n is "I use permission n", 200 + n is "nobody else may use permission n"). Both last
 * until the descriptor is closed.
 */
#pragma once

#include <stdbool.h>

#include "base/base.h"

/* The image of this descriptor, locked for writing, may be read by others from now on. */
void lock_share(int fd);

/* Lets go of it altogether. */
void lock_release(int fd);

/* EBUSY, with who holds it where that can be told, when it is open elsewhere. */
int lock_image(int fd, const char *path, bool exclusive, struct error *err);
