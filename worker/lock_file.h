/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_file.h - the file by which a machine runs once at most. Private to worker/.
 *
 * Two OFD locks keep others away, each enough for it: byte 0 is locked for writing by the keeper, byte 1 for reading by
 * the machine's process, which may outlive the keeper for a moment. That one is not trusted: its descriptor is for reading
 * only and none of the keeper's, so that it can take nothing but its own lock back, and not write into the file. Who
 * wants to run the machine, or to know whether somebody does, asks for both bytes, for writing.
 */
#pragma once

#include "base/base.h"

struct lock_file {
	int keeper, machine; /* descriptors, closed on exec; -1: none */
};

/* Takes both locks and writes this process's id into the file, behind two spaces, and in a line of its own `control`, the socket by which
 * whoever has started it speaks to it (NULL: none), so that no other manager takes it for its own. The file stays when the locks go.
 * -EBUSY: another process holds one; the text names that. */
int lock_file_take(struct lock_file *lock, const char *path, const char *control, struct error *err);

/* Of the two processes after the fork: each gives up what is the other's. */
void lock_file_keep(struct lock_file *lock, bool in_machine);
