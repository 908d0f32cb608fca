/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * track.h - inside of the room: which parts of a disk have changed since named points, in a record beside the
 * image, IMAGE.cbt. Whatever happens, the record never says "unchanged" of what has changed.
 *
 * The record has a bitmap of granules for each point, as of the last time it was saved, when it became a new
 * file. What has changed since is one bitmap in memory. A crash loses that; so the record has another one, of
 * regions (at most 32768), in which a bit is set and synced before the first byte of a region is written. After
 * a crash such regions count as changed as a whole.
 *
 * The record belongs to the image's contents of one moment: to a DataWriteGuid, or where the format has none to
 * the file's number and times. When the disk is first written, the record says so before (OPEN), with the
 * DataWriteGuid that the image is about to get. Anything else that is found in the image was written by somebody
 * else: then all has changed since all points. A point is only ever made under a DataWriteGuid that no earlier
 * contents of the image had, so that a copy of those, put back, is told as well. Without a DataWriteGuid a
 * record that is OPEN after a crash means that all has changed.
 */
#pragma once

#include <pthread.h>

#include "disk/changes.h"
#include "disk/image.h"

#define TRACK_POINTS_MAX 64u
#define TRACK_REGIONS    32768u

enum { TRACK_BY_TIME = 1, TRACK_BY_GUID = 2 };

/* Little-endian, as all of the record. */
struct __attribute__((packed)) track_identity {
	uint32_t kind;
	uint32_t nanoseconds[2];
	union {
		struct guid data_write_guid;
		struct {
			uint64_t inode;
			int64_t modified, changed;
		} __attribute__((packed)) file;
	};
	uint32_t reserved;
};

/* In the first sector of the record, the only one of it that is written again. */
struct __attribute__((packed)) track_header {
	char signature[8];
	uint32_t version;
	uint32_t checksum; /* CRC-32C of the sector, with this field zero */
	uint32_t open;     /* the image is being written, or was when a crash came */
	uint32_t point_count;
	uint32_t granule_shift, region_shift;
	uint64_t disk_size;
	uint32_t table_checksum;
	uint32_t reserved;
	struct track_identity identity[2]; /* either is right */
	uint8_t zero[384];
};

struct __attribute__((packed)) track_entry {
	char name[64]; /* ends in NUL */
	uint64_t created;
	uint64_t offset; /* of its bitmap; 0: all has changed */
	uint32_t checksum;
	uint8_t reserved[44];
};

_Static_assert(sizeof(struct track_identity) == 40, "kind, times, identity");
_Static_assert(sizeof(struct track_header) == 512, "a sector");
_Static_assert(sizeof(struct track_entry) == 128, "the table is two pages");

#define TRACK_REGIONS_AT 4096u
#define TRACK_TABLE_AT   8192u
#define TRACK_BITMAPS_AT 16384u

struct tracker {
	struct disk *disk;
	char *path;
	struct file file;                            /* the record; fd -1: there is none yet */
	int given;                                   /* an empty file for the next record, or -1: one is made by name */
	const struct file_observer *of_new;          /* of a file that takes its place, for tests */
	pthread_mutex_t lock;                        /* of what follows, but `begun` and `regions` are read without */
	_Atomic bool begun;                          /* the record says OPEN for what is written now */
	_Atomic uint64_t regions[TRACK_REGIONS / 64]; /* synced in the record */
	bool must_save;                              /* before the record may be OPEN again */
	bool all_changed;                            /* since all points */
	struct track_header header;
	struct track_entry entries[TRACK_POINTS_MAX];
	unsigned region_shift;
	unsigned fresh;         /* the point that begins with the record that is saved now */
	_Atomic bool lost;      /* the record could not be written, and is no more */
	struct changes session; /* what has changed since the record was saved */
};

/* --- track_file.c --- */

/* -ENOENT: there is no record; -EBADMSG: none that can be used. */
int track_load(struct tracker *t, struct error *err);

/* Writes a new record, of the disk as it is: it must be at rest. On failure the old one stays. */
int track_save(struct tracker *t, struct error *err);

/* A point's bitmap with what has changed since; to be cleared. Of one that has lost it all is noted. */
int track_read(struct tracker *t, unsigned point, struct changes *out);

int track_write_header(struct tracker *t);
unsigned track_region_shift(uint64_t disk_size);

/* --- track.c --- */

/* Goes on with the record of a disk that was just opened, if there is one. */
void track_open(struct disk *disk, const struct file_observer *observer, const struct file_observer *of_new);

/* Before anything of the disk changes. */
int track_before(struct disk *disk, uint64_t offset, uint64_t length);

/* The record says what has changed up to now, exactly. Nothing may be in flight. `closed`: the format's part of the
 * image is closed already, as it has to be where file times count. */
int track_end(struct disk *disk, bool closed, struct error *err);

void track_free(struct tracker *t);

/* The disk goes on in another file with the same contents, at rest: so does the record. If that fails, no points
 * are left, and a warning tells. */
void track_move(struct disk *disk, bool remove_old);

/* The same by an empty file, which is taken over; -1: no points are left. The old record is the caller's. */
void track_move_given(struct disk *disk, int record);
