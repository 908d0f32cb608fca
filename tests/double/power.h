/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * power.h - power cuts under everything that the disks' room does to its files.
 *
 * A workload runs once, and all changes that it makes to its files are recorded, in order, with what it
 * has written to the disk and flushed. Then the power is cut after every one of them: the files are built
 * anew elsewhere, as they could look by then. What came before the last sync of a file is there; of what
 * came after it all, nothing, or some, sector by sector. Names that came or went since the last sync of the
 * directory did so up to one of them. Each time the disk is opened, for reading and for writing: what was
 * flushed is there, of what was not each sector is old or new, nothing else has changed, and `check` finds
 * nothing. What opening it writes (a replay of the log) is recorded too, and cut once more.
 *
 * A new workload is a row and a function or two: power_run() does the rest. All sectors of a write have one
 * number in all their words, by which they are told.
 */
#pragma once

#include "disk/image.h"

#define POWER_SECTORS_MAX 8192u /* of 512 bytes: of the largest disk */
#define POWER_SECTOR      512u

struct power;

struct power_workload {
	const char *name;
	void (*prepare)(struct power *power); /* creates the files, and names them by power_watch() */
	void (*work)(struct power *power);    /* is recorded */
	void (*check)(struct power *power);   /* after a cut; NULL: power_check(power, "disk") */
};

struct power_count {
	uint64_t cuts, again; /* all; of what opening after a cut writes */
};

/* Runs it and cuts, and adds how often to `count`. `seed` makes all chances. */
void power_run(const struct power_workload *workload, uint64_t seed, struct power_count *count);

/* --- for workloads --- */

/* Of this file counts what is done to it in `work`. It need not exist before. */
void power_watch(struct power *power, const char *name);

/* Likewise of a new file that takes the place of this one, NAME.new for power_observer(). */
void power_watch_new(struct power *power, const char *name);

/* Other files that are read only: the same in all worlds. */
void power_keep(struct power *power, const char *name);

/* A number below `sides`. */
uint64_t power_roll(struct power *power, uint64_t sides);

/* Where the file is: also in the world after a cut. Valid until the call after the next three. */
const char *power_path(struct power *power, const char *name);

/* To be given to whatever opens a file for writing. */
const struct file_observer *power_observer(struct power *power, const char *name);

struct disk *power_open(struct power *power, const char *name, bool read_only);
void power_close(struct power *power, struct disk *disk); /* all counts as flushed */
void power_create(struct power *power, const char *name, const struct disk_create_options *options);

/* Changes of the disk; they must not fail. */
void power_write(struct power *power, struct disk *disk, uint64_t offset, uint64_t length, bool through);
void power_zero(struct power *power, struct disk *disk, enum disk_op op, uint64_t offset, uint64_t length);
void power_flush(struct power *power, struct disk *disk);

/* A row of random ones: what most workloads do. `flush_in`: one of so many is a flush; one of `discard_in` a
 * discard, 0: none. */
void power_use(struct power *power, struct disk *disk, unsigned count, unsigned flush_in, unsigned discard_in);

/* The disk is about to have this size. Until the next flush it may have the old one. */
void power_resizing(struct power *power, uint64_t size);

/* --- for checks --- */

/* Whether the file is there after this cut. */
bool power_exists(struct power *power, const char *name);

/* Opens the disk in all ways and compares; `name` is the file. */
void power_check(struct power *power, const char *name);

/* Opens it for reading, and compares. */
void power_compare(struct power *power, const char *name);

/* Once more, with what power_check() has written to it. */
void power_compare_again(struct power *power, const char *name);

/* What to do in an own check at times: never while a cut is cut again. */
bool power_may_change(struct power *power);

/* Ends the test, and says which workload, seed and cut it was. */
void power_fail(struct power *power, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
