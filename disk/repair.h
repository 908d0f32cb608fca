/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * repair.h - inside of the room: putting a damaged image right. A format looks through its structures and says what
 * would have to change; nothing is written before all of that is known and what is overwritten is kept in a file of
 * its own, IMAGE.undo-1 and so on, by which it can be taken back.
 *
 * Each change stands for itself and is written after what it relies on has been synced: so wherever a repair is cut
 * off, the image is as it was but for some things that are right already, and another repair goes on.
 */
#pragma once

#include "disk/image.h"

struct repair_change {
	uint64_t offset;
	uint32_t size;
	uint8_t *bytes; /* that are to be there; NULL: they are written by begin_repair() */
	size_t number;
};

/* A place for what shares one, or has none that can be: of its `length` bytes the first `there` are a copy. */
struct repair_copy {
	uint64_t from, there, to, length;
};

struct repair {
	struct disk *disk;
	FILE *report; /* may be NULL */
	struct repair_change *changes;
	struct repair_copy *copies;
	size_t change_count, change_room, copy_count, copy_room;
	uint64_t file_end; /* new places lie behind it, and move it */
	unsigned lossy;    /* changes after which something is lost */
	unsigned told;
	int error;         /* the first that came up while changes were noted */
};

/* Notes that these bytes have to be there. At most 64 KiB. */
void repair_put(struct repair *repair, uint64_t offset, const void *bytes, uint32_t size);

/* These are written by begin_repair(). */
void repair_touch(struct repair *repair, uint64_t offset, uint32_t size);

/* A new place, a multiple of `alignment`, with a copy of the `there` bytes at `from`, and zeros behind them. */
uint64_t repair_place(struct repair *repair, uint64_t from, uint64_t there, uint64_t length, uint64_t alignment);

/* Says what will be done, and whether something is lost by it. */
void repair_tell(struct repair *repair, bool lossy, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- repair_undo.c --- */

/* Keeps what is overwritten, durably; `name` is to be freed. */
int repair_keep(const struct repair *repair, char **name, struct error *err);

/* The repair of the image at `path`, whose overwritten bytes are in `name`, is done: what it has left is noted there, so
 * that what comes later is not undone with it. */
int repair_seal(const char *path, const char *name, struct error *err);
