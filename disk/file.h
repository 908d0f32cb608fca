/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * file.h - the host's file under an image, and everything that is ever done to it.
 *
 * An I/O is first described as a `struct step`; a queue hands the step to io_uring or performs it on
 * the spot by file_perform(). Metadata goes by file_read() and file_write(), whole or an error. All
 * functions may be called from any thread. Returns are 0 or byte counts, else a negative errno.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Told after each change that was made through file_perform(), in order: how a test rebuilds what a
 * power cut leaves. Not told of what a ring of io_uring does. */
struct file_observer {
	void *context;
	/* May be NULL. Asked before a write or a resize: 0, or the errno with which it is to fail. */
	int (*refuse)(void *context, uint64_t offset, uint64_t length);
	/* Likewise, before a sync of the file, or of its name. */
	int (*refuse_sync)(void *context);
	void (*written)(void *context, uint64_t offset, const void *data, size_t size);
	void (*zeroed)(void *context, uint64_t offset, uint64_t length);
	void (*resized)(void *context, uint64_t size);
	void (*synced)(void *context);
	/* These two may be NULL: the file has got its name, or lost it; names in its directory last. */
	void (*named)(void *context, bool has_name);
	void (*names_synced)(void *context);
};

struct file {
	int fd;
	int direct_fd; /* the same file with O_DIRECT, or -1 */
	const struct file_observer *observer;
	/* The first error that a sync met. The kernel reports it once and then forgets the lost pages,
	 * so no later sync may claim success. */
	_Atomic int sync_error;
};

enum step_kind { STEP_READ, STEP_WRITE, STEP_SYNC, STEP_ZERO };

struct step {
	enum step_kind kind;
	uint64_t offset; /* in the file */
	uint64_t length; /* the sum of iov for reads and writes */
	const struct iovec *iov;
	int iov_count;
};

#define FILE_DIRECT_ALIGNMENT 4096u

/* The descriptor for a step: the direct one where there is one and the alignment allows it. */
int file_descriptor(const struct file *file, const struct step *step);

/* One system call: bytes moved for reads and writes (perhaps fewer than asked), else 0. */
ssize_t file_perform(struct file *file, const struct step *step);

/* All of it. -ENODATA: the file ends before. */
int file_read(struct file *file, uint64_t offset, void *buffer, size_t size);
int file_write(struct file *file, uint64_t offset, const void *buffer, size_t size);

/* Makes the range read as zeros, by a hole where the file system can, by writing otherwise. */
int file_zero(struct file *file, uint64_t offset, uint64_t length);

/* The file becomes `size` bytes long; what is new reads as zeros. */
int file_resize(struct file *file, uint64_t size);

int file_sync(struct file *file);

/* Notes what a sync returned; returns what to tell: the first error ever met stays. */
int file_sync_result(struct file *file, int result);

/* Where the next byte at or after `offset` is that is not in a hole; UINT64_MAX: only holes follow. A
 * file system that does not tell has no holes. */
uint64_t file_next_data(const struct file *file, uint64_t offset);

/* Where the next hole at or after `offset` begins: at the file's end at the latest. */
uint64_t file_next_hole(const struct file *file, uint64_t offset);

/* The length in bytes, of a block device too. */
int file_size(const struct file *file, uint64_t *size);
