/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disk.h - virtual disks: raw files, ISO images, VHDX and VHD, read and written asynchronously.
 *
 * A `struct disk` is an open image. A `struct disk_queue` is one thread's way to it (and to others):
 * an io_uring of its own. Any number of queues may work on one disk at once; the disk keeps its own
 * metadata safe. Data moves straight between the file and the caller's buffers (guest memory).
 *
 * Promise: what was written and then flushed survives a power cut at any moment; what was not
 * flushed is old or new sector by sector; the image opens again in every case. Sources: [MS-VHDX]; for
 * VHD the "Virtual Hard Disk Image Format Specification".
 *
 * Errors: negative errno, and `err` gets the sentence for a person. EBUSY: another process has the
 * image open (the text names it); ENOTSUP: a feature of the format that is not served (the text
 * names it); EBADMSG: the file's structures are damaged (the text says what and where).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

#include "base/types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct disk;
struct disk_queue;

enum disk_format { DISK_FORMAT_AUTO, DISK_FORMAT_RAW, DISK_FORMAT_VHDX, DISK_FORMAT_VHD };

/* What an operation that may take long tells between two of its steps, and how it is stopped: when `step`
 * returns false, the operation ends with -ECANCELED, and the image is as it was before or as after, never
 * between. `done` and `total` are in units of the operation's own. Called on the operation's thread.
 * Where a `const struct disk_progress *` is asked for, NULL is allowed. */
struct disk_progress {
	bool (*step)(void *context, uint64_t done, uint64_t total);
	void *context;
};

struct disk_open_options {
	enum disk_format format; /* AUTO: VHDX or VHD by its signature, else raw */
	bool read_only; /* a VHDX whose log is not empty is replayed into memory, not into the file */
	bool direct;    /* O_DIRECT where alignment allows it */
};

struct disk_info {
	enum disk_format format;
	bool read_only;
	bool dynamic;                  /* grows as it is written */
	uint64_t size;                 /* bytes the guest sees */
	uint64_t file_size;            /* bytes allocated on the host's file system */
	uint32_t logical_sector_size;  /* 512 or 4096 */
	uint32_t physical_sector_size; /* 512 or 4096 */
	uint32_t block_size;           /* of VHDX and dynamic VHD; 0: has no blocks */
	struct guid identifier;        /* page 83 identity; derived from the file for raw */
	bool can_discard;              /* DISK_OP_DISCARD frees space */
};

/* Opens and locks the image: exclusively for writing, shared for reading. The caller owns *out. */
int disk_open(struct disk **out, const char *path, const struct disk_open_options *options,
	      struct error *err);

/* The same with a file that is open already, in a process that can open none by name. `name` is what messages call
 * it. `fd` is taken over in any case; another descriptor of the same open file keeps the lock. EBADF: not open for
 * writing, or only for appending, though the disk is to be written; ENOTSUP: a differencing disk. `direct` has no
 * effect where there is no /proc. */
int disk_open_fd(struct disk **out, int fd, const char *name, const struct disk_open_options *options,
		 struct error *err);

/* The same with a whole chain: `count` files from the one at the upper end down, each but the last a differencing disk that
 * continues the contents of the one behind it (else ESTALE); which names its parent has in it is not looked at. The
 * parents' descriptors are open for reading at least. All are taken over in any case. */
int disk_open_chain_fds(struct disk **out, const int *fds, const char *const *names, unsigned count,
			const struct disk_open_options *options, struct error *err);

/* Of what may be a disk's file, or its record: for those functions that take one. `flags` as of open(2). What is a pipe is not waited for, so
 * whoever asks looks at what it is; what is read and written later waits. -1, and errno. */
int disk_file_open(const char *path, int flags);

/* Goes on with the record of its changes (disk_track_add()) in this open file, which is taken over, as disk_open() does with the one beside
 * the image. Right after opening. What cannot be used is told by a warning. */
void disk_track_given(struct disk *disk, int fd);

/* All queues must be idle. Flushes, clears the log, unlocks. Returns the first error met. */
int disk_close(struct disk *disk, struct error *err);

/* [any thread, also one whose queue has requests in flight] */
void disk_get_info(const struct disk *disk, struct disk_info *info);

/* The disk that a differencing disk continues, or NULL; open as long as `disk` is. [any thread] */
const struct disk *disk_parent(const struct disk *disk);

/* The name by which it was opened. Valid until disk_split() or disk_merge_live(). */
const char *disk_path(const struct disk *disk);

struct disk_create_options {
	enum disk_format format; /* RAW, VHDX or VHD */
	bool fixed;              /* VHDX, VHD: all space allocated at once */
	uint64_t size;           /* a multiple of the logical sector size; up to 64 TiB (VHD: 2040 GiB) */
	const char *parent;      /* VHDX, VHD: the new disk continues this one, of the same format, from which it
				    has its size (0 here), sectors and identifier; from then on the parent must
				    not be written */
	uint32_t block_size;     /* VHDX: 1 to 256 MiB, a power of two; 0: 32 MiB fixed, 2 MiB dynamic (Linux
				    guests' ext4 spreads out). Dynamic VHD: 512 KiB or, also for 0, 2 MiB */
	uint32_t logical_sector_size;  /* 0: 512; VHD: only that */
	uint32_t physical_sector_size; /* 0: 4096; VHD: only 512 */
	bool replace; /* an existing file is replaced, by rename when the new one is whole; else EEXIST */
};

/* Leaves nothing behind when it fails. */
int disk_create(const char *path, const struct disk_create_options *options, struct error *err);

/* What is in a differencing disk goes into its parent, and its file is removed. Nobody else may have one of
 * the two open. It may be killed at any moment: until the file is removed the disk at `path` reads as before,
 * and merging it again goes on. Disks that continue the one at `path` continue the parent by disk_reparent_merged().
 * Other children of the parent are lost: it is not what they were made from any more. */
int disk_merge(const char *path, const struct disk_progress *progress, struct error *err);

/* The same, but the file stays: both read the same then. For whoever is to note first that the parent is the disk, and removes it. */
int disk_merge_keep(const char *path, const struct disk_progress *progress, struct error *err);

/* All files from the one at `path` down to the one above `into`, which is in its chain of parents, go into that, and
 * are removed: as a row of merges, each of which is as disk_merge() says. Of VHDX the one at `path` goes last, so that
 * the same call goes on with what was stopped or killed; of VHD the uppermost go first, and what is left of the chain
 * goes on. `done` and `total` are bytes of the disk, once for each file. */
int disk_merge_into(const char *path, const char *into, const struct disk_progress *progress, struct error *err);

/* The differencing disk at `path` continues the one at `parent` from now on, which may have another name or
 * place than before, but must have the same contents (else ESTALE), unless `even_if_changed` is set: then the
 * disk reads as garbage where the contents do not fit. */
int disk_reparent(const char *path, const char *parent, bool even_if_changed, struct error *err);

/* The same of a disk whose parent disk_merge() has merged into the one at `parent`. Of VHDX that is checked. Of VHD it is
 * believed: an identifier is there of a disk, not of its contents, and the merged file's went with it. What continues the
 * disk at `path` is right still, and doing it again changes nothing. */
int disk_reparent_merged(const char *path, const char *parent, struct error *err);

/* The open disk continues on a new differencing disk at `path`, and the file of now becomes its parent, for
 * reading only: a checkpoint. What was submitted before goes on and is in the old file when it completes; what
 * comes meanwhile waits and goes to the new one. The new file is whole and durable before that, so that after a
 * power cut the disk is the file at `path` if that exists, else the old one. On failure the disk goes on as it
 * was, and nothing is left at `path`. VHDX and VHD; the new disk is of the same format. Waits for requests in flight: other threads have to process
 * their completions meanwhile, so it is not called by one whose own queue has some. [any thread] */
int disk_split(struct disk *disk, const char *path, struct error *err);

/* The differencing disk in the file `path`, which is the open disk's or in its chain of parents, is merged into
 * its parent, while the disk is used; disk_merge() says what that does. It may be killed at any moment, and is
 * resumed by either of the two; stopped (-ECANCELED), the disk goes on as it was. When the uppermost file was
 * merged, the disk goes on with its parent's: after a power cut it is the one at `path` if that exists, else
 * that. The other files have to be of nobody else's chain (else -EBUSY). Blocks until it is done; the disk's
 * requests wait for short at its beginning and its end, where others have to process their completions, as with
 * disk_split(). `done` and `total` are bytes. [any thread] */
int disk_merge_live(struct disk *disk, const char *path, const struct disk_progress *progress, struct error *err);

/* --- the same in a process that can open, name and remove no file: another one does that for it ---
 * Descriptors are of regular files, open for reading and writing; they are taken over in any case. Names are those
 * that the files have, absolute and without links; nothing is looked up by them. What such a file is worth after a
 * crash or power cut is in its first sector: disk_is_void(). */

struct disk_split_files {
	int child; /* an empty file, which has its name already, durably */
	const char *child_name;
	const char *parent_name; /* of the file that the disk has now */
	int record; /* an empty file, CHILD.cbt, if the disk has points (below); -1: they are lost, with a warning */
};

/* As disk_split(). It cannot be told from a crash whether the split was done: it was when disk_is_void() says 0 of
 * the child, which then is the disk; else the old file is, and the child is to be removed; likewise after a failure.
 * Writes, syncs and locks, on the calling thread: pwritev, preadv, fdatasync, ftruncate, fstat, flock, fcntl. */
int disk_split_files(struct disk *disk, const struct disk_split_files *files, struct error *err);

/* A descriptor is -1 where the disk has one for writing itself: of its uppermost file, and of one from which
 * disk_split() or disk_split_files() went on. */
struct disk_merge_files {
	int child;  /* of the file that is merged; -1: the uppermost */
	int parent; /* of the file that it continues (-ESTALE: another), which is written */
	int above;  /* of the file that continues it, if any, which gets another parent */
	const char *above_name, *parent_name; /* if there is one above; else not looked at */
	int record; /* of the uppermost file's merge: an empty file, which the caller makes PARENT.cbt afterwards, if
		       the disk has points; -1: they are lost, with a warning */
};

/* As disk_merge_live(), but the merged file is not removed: it holds nothing any more (disk_is_void() says 1), and
 * that is durable before anything is written to its parent that it would hide. After a crash or power cut the
 * uppermost file of the chain that is not void is the disk. Also undoes disk_split_files(), when the child was
 * not written yet: it takes as long as a few syncs. */
int disk_merge_files(struct disk *disk, const struct disk_merge_files *files, const struct disk_progress *progress,
		     struct error *err);

/* Of a file that was to become a differencing disk by disk_split_files(), or was one until disk_merge_files(). 1: it
 * holds nothing, and is to be removed; 0: it is a disk; -EBADMSG: it is something else, which stays; or another negative
 * errno. */
int disk_is_void(const char *path, struct error *err);

/* What tells the contents of the image at `path` from those that it had or will have: of a VHDX its DataWriteGuid, of others the file's
 * size and time of last change; all zeros where there is no such (block devices). It says nothing of parents. The image is not opened
 * as a disk, and may be in use. */
int disk_contents(const char *path, struct guid *contents, struct error *err);

/* The disk gets another size, durably; what is new reads as zeros. After a power cut it has one of the two sizes.
 * Requests wait meanwhile; who uses the disk has to be told. -EEXIST: something else than zeros lies past the new
 * end, the text says where; with `lose_data` it is cut off. A differencing VHDX does not grow
 * below its parent's size; one that other disks continue must keep its size. Fixed VHD and block devices: -ENOTSUP. [any thread] */
int disk_resize(struct disk *disk, uint64_t size, bool lose_data, const struct disk_progress *progress,
		struct error *err);

/* A VHDX or VHD that grows takes less space, with the same contents: blocks that are zeros are freed (with `read` those
 * whose contents are, otherwise those that are holes in the host's file), the others move together, and the file is
 * cut off. Disks that continue it still do. Requests wait meanwhile, which is long. It may be killed at any moment;
 * -ECANCELED: what had been done stays. [any thread] */
int disk_compact(struct disk *disk, bool read, const struct disk_progress *progress, struct error *err);

/* --- what has changed since when ---
 * Named points of an image: of each is known which parts of the disk have changed since it was made, in granules
 * of 64 KiB (larger above 512 GiB). It is kept in a file beside the image, IMAGE.cbt, from the first point on
 * until the last is removed, and survives crashes, after which more may count as changed (of raw and VHD images:
 * all). A record that is lost, damaged or not of these contents, because another program has written the image,
 * means "all has changed", never "nothing has". Not for block devices. The first write to each part of the disk
 * after opening it (1 MiB, 2 GiB in one of 64 TiB) waits until that is on record. [any thread] */

#define DISK_TRACK_NAME_MAX 63

struct disk_track_point {
	char name[DISK_TRACK_NAME_MAX + 1];
	uint64_t created; /* seconds since 1970 */
	uint64_t changed; /* bytes since then, in whole granules */
	uint64_t granule;
};

/* From now on: what is written by requests that are submitted later. Waits as disk_split() does. At most 64. */
int disk_track_add(struct disk *disk, const char *name, struct error *err);
int disk_track_remove(struct disk *disk, const char *name, struct error *err);

/* How many there are; they are to be freed. */
int disk_track_list(struct disk *disk, struct disk_track_point **points, struct error *err);

/* Called for each run that has changed, in order; ends early with what it returns, unless that is 0. */
int disk_track_changes(struct disk *disk, const char *name,
		       int (*visit)(void *context, uint64_t offset, uint64_t length), void *context,
		       struct error *err);

/* Contents for a new image that come from elsewhere. The functions return 0 or a negative errno with its
 * sentence; they are called on the thread of disk_import(). */
struct disk_source {
	uint64_t size;
	/* Whether what follows at `offset` reads as zeros, and how much of it, at least 1 byte. */
	int (*extent)(void *context, uint64_t offset, uint64_t *length, bool *zero, struct error *err);
	int (*read)(void *context, uint64_t offset, void *buffer, size_t size, struct error *err);
	void *context;
};

/* A new image with the contents of another. The image at `from` is opened for reading (`from_options` may
 * be NULL), and `to` appears when it is whole and synced, not before; it may be `from` itself, if `replace`
 * is set. What is 0 in `options` is as in `from`: size (a larger one is filled up with zeros), sector sizes.
 * The new image has no parent: the contents of a whole chain are in it. Zeros take no space where the
 * format can leave them out. */
int disk_convert(const char *from, const struct disk_open_options *from_options, const char *to,
		 const struct disk_create_options *options, const struct disk_progress *progress,
		 struct error *err);

int disk_import(const struct disk_source *source, const char *to, const struct disk_create_options *options,
		const struct disk_progress *progress, struct error *err);

/* A run of the disk whose bytes lie together. */
struct disk_extent {
	uint64_t offset, length;
	bool zero;            /* reads as zeros, and takes no space on the host */
	bool in_file;         /* it has a place in the image's own file, not a parent's: a hole there, if `zero` is
				 set */
	uint64_t file_offset; /* if in_file */
};

/* What lies at `offset`, at most `length` bytes of it; the next extent may be of the same kind. Borders
 * are multiples of 4096 or of where the format has them. [any thread; may block] */
int disk_get_extent(struct disk *disk, uint64_t offset, uint64_t length, struct disk_extent *extent,
		    struct error *err);

enum disk_op {
	DISK_OP_READ,
	DISK_OP_WRITE,
	DISK_OP_FLUSH,   /* all writes completed before this was submitted become durable */
	DISK_OP_DISCARD, /* contents become zero; space is freed where possible */
	DISK_OP_WRITE_ZEROES
};

/* One request. The caller owns it and its iovec until `complete` is called, on the thread that calls
 * disk_queue_process(), exactly once. `offset` and `length` are bytes, multiples of the logical
 * sector size, inside the disk (else -EINVAL). A read or write moves `length` bytes = sum of iov. */
struct disk_request {
	enum disk_op op;
	bool force_unit_access; /* write-through: durable when it completes */
	uint64_t offset;
	uint64_t length;
	const struct iovec *iov;
	int iov_count;
	void (*complete)(struct disk_request *request, int result); /* 0 or negative errno */
	void *context;                                              /* the caller's */
	void *queue_private[8];                                     /* the queue's, while in flight */
};

int disk_queue_create(struct disk_queue **out, unsigned depth, struct error *err);

/* Rings of io_uring that are made beforehand, for a process that gives up its right to make any: each for one queue at a time,
 * of `depth` requests or fewer. Whatever a ring is asked for that is not a queue's work, it refuses. Returns how many there are
 * now; that it is fewer than `count`, or none, is no error, and `err` says why: the host refuses io_uring, or (before Linux 5.10)
 * knows no such rings. Destroyed when no queue is left. */
struct disk_rings;
int disk_rings_create(struct disk_rings **out, unsigned count, unsigned depth, struct error *err);
void disk_rings_destroy(struct disk_rings *rings);

/* A queue that has one of these rings, or when all are in use none, and works by threads. NULL: as disk_queue_create(). [any thread] */
int disk_queue_create_with(struct disk_queue **out, unsigned depth, struct disk_rings *rings, struct error *err);

/* No request may be in flight. */
void disk_queue_destroy(struct disk_queue *queue);

/* Hand over a request; it starts at the latest at the next disk_queue_kick(). Never blocks for
 * long, never fails: errors arrive by `complete`, which is not called from inside submit. */
void disk_queue_submit(struct disk_queue *queue, struct disk *disk, struct disk_request *request);

/* Start everything submitted: one system call for the whole batch. */
void disk_queue_kick(struct disk_queue *queue);

/* A descriptor that polls readable when disk_queue_process() has work. */
int disk_queue_fd(const struct disk_queue *queue);

/* Run the completions that are there; returns how many. */
unsigned disk_queue_process(struct disk_queue *queue);

/* For a thread that waits for nothing else: starts everything submitted, waits until something has happened
 * to a request, if any is in flight, and runs the completions that are there; returns how many, perhaps none
 * (a signal ends the wait too). What completions submit starts with the next call. */
unsigned disk_queue_wait(struct disk_queue *queue);

unsigned disk_queue_in_flight(const struct disk_queue *queue);

/* Plain synchronous access for tools and loaders: whole or an error. Any alignment, and any thread, but while the disk
 * may be split, merged or resized none whose own queue has requests in flight, for which those wait. */
int disk_read(struct disk *disk, uint64_t offset, void *buffer, size_t size, struct error *err);
int disk_write(struct disk *disk, uint64_t offset, const void *buffer, size_t size, struct error *err);
int disk_flush(struct disk *disk, struct error *err);

/* Carries out any request here and now; `complete` is not called. [any thread] */
int disk_perform(struct disk *disk, struct disk_request *request, struct error *err);

/* Opens the image for reading and examines its structures, and those of its chain of parents. 0: nothing
 * is wrong. Else what is wrong is printed to `report`, one finding a line, and the return says the kind of
 * the worst: -EBADMSG when the structures contradict each other, or why it could not be opened. */
int disk_check(const char *path, FILE *report, struct error *err);

/* Puts right what disk_check() finds in the image at `path` itself, carries out its log, and gives space back that is
 * nobody's. -EEXIST: that cannot be without a loss; `report` says which parts of the disk it is, and nothing has
 * changed; with `lose_data` they become zeros, or a copy of what another part has too, and what continues the
 * image has to be told by disk_reparent(). What is overwritten is kept before, in a file IMAGE.undo-N that is named
 * in `report` (which may be NULL). It may be killed at any moment, and done again. Returns what disk_check() says
 * afterwards. Other errors: it cannot be repaired (the text says why), and reads as before; or the repair was cut off in
 * the middle, which is said, and is to be done again. */
int disk_repair(const char *path, bool lose_data, FILE *report, struct error *err);

/* Puts back what a repair has overwritten. -ESTALE: the image was changed since, or the repair does not know that it was
 * not; nothing is put back. It may be killed at any moment, and done again. */
int disk_undo_repair(const char *path, const char *undo, struct error *err);

#ifdef __cplusplus
}
#endif
