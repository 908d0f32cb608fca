/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * image.h - inside of the room: what an open image is, and what a format has to provide.
 *
 * A format only answers where bytes of the disk lie in the file (`map`) and keeps its metadata
 * (`commit`); moving data is the queue's business and the same for all formats.
 */
#pragma once

#include <errno.h>

#include "base/base.h"
#include "disk/disk.h"
#include "disk/changes.h"
#include "disk/file.h"
#include "disk/gate.h"

#define DISK_SIZE_LIMIT (UINT64_C(64) << 40)
#define DISK_CHAIN_MAX 64 /* disks over each other, the uppermost and the lowest included */

/* A run of the disk that lies together. */
struct extent {
	/* ZERO: nowhere, reads as zeros. PARENT: inside of a format alone, never the answer of map() */
	enum { EXTENT_FILE, EXTENT_ZERO, EXTENT_MEMORY, EXTENT_PARENT } kind;
	uint64_t length;   /* never 0, never more than asked */
	struct file *file; /* FILE: the image's own, or that of one of its parents */
	uint64_t file_offset;
	const uint8_t *memory; /* read-only images: contents that a log replay has changed */
	bool settle;           /* once these bytes are written, `settle` makes them count */
	_Atomic uint64_t *hold; /* not NULL: the place is kept for whoever has this extent, until extent_release() */
};

/* Whoever got an extent from map() is done with the bytes in its file. Once, and before the disk is closed. [any
 * thread] */
static inline void extent_release(struct extent *extent)
{
	if (extent->hold)
		atomic_fetch_sub_explicit(extent->hold, 1, memory_order_release);
	extent->hold = NULL;
}

enum map_purpose { MAP_READ, MAP_WRITE, MAP_ZERO };

/* What a format that has differencing disks does for chains of them. Child and parent are of this format, and no
 * request may be in flight, but for map_here(). chain.c says when what is called. */
struct chain_ops {
	/* As map(), but what the parent has is EXTENT_PARENT. */
	int (*map_here)(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
			struct extent *extent);

	/* The child will know its parent also when that has been written, and nobody else will. */
	int (*begin_merge)(struct disk *child, struct disk *parent, struct error *err);

	/* The parent has the child's contents, which are flushed. */
	int (*end_merge)(struct disk *child, struct disk *parent, struct error *err);

	/* A child knows its parent by what is in it, which a merge takes along; else by which disk it is. */
	bool contents_have_names;

	/* Whether this is the parent that the child has: ESTALE; EBADMSG: it does not say. */
	int (*check_parent)(const struct disk *child, const struct disk *parent, struct error *err);

	/* This is its parent from now on, to which `way` leads from the child, as parent locators have it. `same`: it has
	 * the contents of the one before, whatever its identity, and so has the child. */
	int (*relink)(struct disk *child, const char *way, const struct disk *parent, bool same, struct error *err);

	/* The child will know its parent also when that file is written and its contents stay. NULL: it does. ENOTSUP: it
	 * would have to be written for that, and is open for reading. */
	int (*know_parent)(struct disk *child, struct error *err);

	/* Leaves a clean file, as closing does, and the disk open; the next write is as the first one after opening. */
	int (*rest)(struct disk *disk, struct error *err);

	/* The disk with this format is at another address now. */
	void (*moved)(struct disk *disk);

	/* Makes an empty file a disk; see vhdx_fill(). */
	int (*fill)(struct file *file, const char *path, const struct disk_create_options *options,
		    const struct disk *parent, const char *way, struct error *err);

	/* The file's first sector: whether it is a disk, or holds nothing. Not synced. */
	int (*mark)(struct file *file, bool whole);
};

/* What a differencing disk of any format begins with when it holds nothing: never completed, or merged. */
#define DISK_VOID_SIGNATURE "vhdxvoid"

struct repair;

struct disk_ops {
	const struct chain_ops *chain; /* NULL: the format has no differencing disks */

	/* Finds the run at `offset`; MAP_WRITE allocates it, so that it is EXTENT_FILE afterwards. The
	 * range lies inside the disk. [any thread; may block for metadata] */
	int (*map)(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		   struct extent *extent);

	/* Bytes of an extent of MAP_WRITE or MAP_ZERO with `settle` set have been written, `length` of them
	 * from `offset` of the disk on; they were mapped to `file_offset`. [any thread; may block] */
	int (*settle)(struct disk *disk, uint64_t offset, uint64_t length, uint64_t file_offset);

	/* Whether a flush needs commit(), or whether syncing the file is enough. NULL: never. */
	bool (*must_commit)(struct disk *disk);

	/* Makes all data and metadata durable. Blocks. [any thread] */
	int (*commit)(struct disk *disk);

	/* Leaves a clean file. The file itself is closed by the caller. NULL: nothing to do. */
	int (*close)(struct disk *disk, struct error *err);

	/* Prints a line for each thing that is wrong. NULL: nothing can be wrong. */
	int (*check)(struct disk *disk, FILE *report, struct error *err);

	/* What would have to change, of a disk that was opened by disk_open_damaged(). NULL: nothing can be repaired. */
	int (*plan_repair)(struct disk *disk, struct repair *repair, struct error *err);

	/* Before the first change is made; writes what was only touched. */
	int (*begin_repair)(struct disk *disk, const struct repair *repair);

	/* Space that is nobody's goes back to the host, of a disk just opened; `bytes` is how much was found. */
	int (*reclaim)(struct disk *disk, uint64_t *bytes);

	/* The disk gets this other size, durably; what is new reads as zeros. After a power cut it has the one or
	 * the other. NULL: not served. [gate closed] */
	int (*resize)(struct disk *disk, uint64_t size, struct error *err);

	/* The same contents in less space. `read`: to find blocks that are zeros. NULL: not served. [gate closed] */
	int (*compact)(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err);
};

struct disk {
	const struct disk_ops *ops;
	struct file file;
	struct disk_info info; /* file_size is asked for anew each time */
	char *path;
	struct disk *parent; /* of a differencing disk: open for reading, closed with it, unless */
	bool damaged;        /* it was opened whatever its blocks' places are, to be repaired: none may be used */
	/* The opener gave it, or can have none: see below. */
	enum { PARENT_OWN, PARENT_GIVEN, PARENT_HANDED, PARENT_NEW, PARENT_REFUSED } parent_kind;
	const struct disk *child; /* whose parent this is: NULL at the upper end of the chain */
	void *format;             /* the format's own */
	struct gate *gate;        /* of the disk, whichever its files are */
	struct tracker *tracker;  /* NULL, or what is to know of changes before: track.h; changed likewise */
	struct changes *changes;  /* NULL, or what is to know of changes when they are done; set while the gate
				     is closed */
};

/* The two have each other's file, format and contents from now on, each at its place in its chain, so that
 * who has a pointer to one has the disk still. Of one format that has chains; no request may be in flight. */
void disk_exchange(struct disk *a, struct disk *b);

/* Between two steps of a long operation: 0, or -ECANCELED with its sentence. */
static inline int progress_step(const struct disk_progress *progress, const char *path, uint64_t done,
				uint64_t total, struct error *err)
{
	if (!progress || progress->step(progress->context, done, total))
		return 0;
	return error_set(err, ECANCELED, "%s: stopped before it was done, as was asked; nothing has changed",
			 path);
}

/* Takes `fd` over in any case; no lock is taken. For tests and fuzzers too: `observer` may be NULL. */
int disk_open_descriptor(struct disk **out, int fd, const char *path, const struct disk_open_options *options,
			 const struct file_observer *observer, struct error *err);

/* Opens and locks it for writing, without a look at where its blocks are: see `damaged`. */
int disk_open_damaged(struct disk **out, const char *path, const struct file_observer *observer, struct error *err);

/* Opens a differencing disk over `parent`, which is open already and stays the caller's. GIVEN: it must be
 * the parent that the image has; NEW: it is to become that, and whatever the image says of one does not
 * count. */
int disk_open_over(struct disk **out, const char *path, const struct disk_open_options *options,
		   struct disk *parent, bool is_new, const struct file_observer *observer, struct error *err);

/* The same with a file that is open already, as disk_open_fd() has it. HANDED: the parent, NULL for a disk without
 * one, must have the contents that the image continues; under which name is not looked at. */
int disk_open_handed(struct disk **out, int fd, const char *name, const struct disk_open_options *options,
		     struct disk *parent, const struct file_observer *observer, struct error *err);

/* As disk_open(), disk_merge() and disk_reparent(), and tests look on. */
int disk_open_watched(struct disk **out, const char *path, const struct disk_open_options *options,
		      const struct file_observer *observer, struct error *err);
int disk_repair_watched(const char *path, bool lose_data, FILE *report, const struct file_observer *observer,
			struct error *err);
int disk_merge_watched(const char *path, const struct disk_progress *progress,
		       const struct file_observer *child, const struct file_observer *parent,
		       struct error *err);
int disk_reparent_watched(const char *path, const char *parent, bool even_if_changed,
			  const struct file_observer *observer, struct error *err);

int disk_split_watched(struct disk *disk, const char *path, const struct file_observer *observer,
		       struct error *err);
int disk_split_files_watched(struct disk *disk, const struct disk_split_files *files,
			     const struct file_observer *observer, struct error *err);

/* The disk, at rest, is read only from now on, and may be read by others. */
void disk_share(struct disk *disk);

/* As disk_get_extent(), for who has closed the gate or is inside. */
int disk_get_extent_inside(struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extent,
			   struct error *err);

/* Whether `path` names its file. */
bool disk_is_file(const struct disk *disk, const char *path);

/* Opens the parent of `child`, which is being opened, for reading, with a shared lock: sets its `parent`.
 * ELOOP: it is the child itself or above it in the chain. */
int disk_open_parent(struct disk *child, const char *path, struct error *err);

/* For map(): what the parent has at `offset`, at most extent->length of it. */
int disk_map_parent(const struct disk *disk, uint64_t offset, struct extent *extent);

/* Formats: fill ops, info and format of a disk whose file is open. On failure nothing is left. */
int raw_open(struct disk *disk, const struct disk_open_options *options, struct error *err);
int vhdx_open(struct disk *disk, const struct disk_open_options *options, struct error *err);
int vhd_open(struct disk *disk, const struct disk_open_options *options, struct error *err);

/* Whether a file claims to be a VHD: by its beginning or, of a regular file, its end. */
int vhd_detect(struct disk *disk, bool *is_vhd);

/* Makes an empty file an image. Defaults are filled in and the options are checked. */
int disk_fill_descriptor(int fd, const char *path, const struct disk_create_options *options,
			 struct error *err);

/* Makes an empty file a VHDX: with a parent, which is one too, a differencing disk. `way`: that from it to its
 * parent, as the parent locator has it, or NULL, when the two can be looked for by their names; if it is given, the
 * file holds nothing until it is marked (chain_ops). */
int vhdx_fill(struct file *file, const char *path, const struct disk_create_options *options,
	      const struct disk *parent, const char *way, struct error *err);

/* The same for a VHD. */
int vhd_fill(struct file *file, const char *path, const struct disk_create_options *options,
	     const struct disk *parent, const char *way, struct error *err);

/* The error of opening a file that holds nothing. */
int disk_refuse_void(const struct disk *disk, struct error *err);
