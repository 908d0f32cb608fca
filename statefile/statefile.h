/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * statefile.h - the file of a saved machine: sections that others fill (base/form.h), and guest memory.
 *
 * Writing: begin, memory once or more often, finish. Memory goes out in blocks of up to 256 pages by several threads;
 * pages that were never used or are zeros take no room, a page that equals another is a reference to it, the rest is
 * compressed. Memory may be written while the guest runs, if what changes meanwhile is written again later (`changed`).
 * The header comes last, when all else is on disk: a file that was not finished is none.
 *
 * Reading: open checks the header and has the sections; then memory is filled by several threads. The file is not trusted:
 * whatever it holds, the result is memory or a precise error (-EBADMSG, with the place in the file).
 *
 * The form, little-endian: a header page, blocks, sections, an index of the blocks (block.h). A change to it is a
 * new version.
 *
 * Threads: one at a time uses a writer or a file; they start threads of their own and end them. Errors: negative errno
 * with the sentence in `err`; -ECANCELED when `cancel` was set.
 */
#pragma once

#include <stdatomic.h>

#include "hypervisor/hypervisor.h"

struct statefile_progress {
	_Atomic uint64_t done, total; /* bytes of guest memory; set by the file, read by anybody */
	atomic_bool cancel;           /* set by anybody: end soon */
};

/* --- writing ------------------------------------------------------------------------------------------ */

struct statefile_writer;

/* `fd` stays the caller's: a regular file, open for writing and not only for appending (else -EBADF), which is
 * emptied. The memory of `p` is what is written. */
int statefile_begin(struct statefile_writer **out, int fd, struct partition *p, struct statefile_progress *progress,
    struct error *err);

/* All of memory, or with `changed` those pages whose bit is set: bit i % 64 of changed[i / 64], pages counted through all
 * regions in their order. `still`: nobody writes memory meanwhile, nor will until finish; only then are equal pages
 * found. */
int statefile_write_memory(struct statefile_writer *w, const uint64_t *changed, bool still, struct error *err);

/* What was written so far is on disk. */
int statefile_sync(struct statefile_writer *w, struct error *err);

/* The sections, index and header, all on disk. *size is of the file. */
int statefile_finish(struct statefile_writer *w, const void *sections, size_t sections_size, uint64_t *size,
    struct error *err);

/* NULL is fine. The file is not touched: without statefile_finish() it is none. */
void statefile_end(struct statefile_writer *w);

/* --- reading ------------------------------------------------------------------------------------------ */

struct statefile;

/* `fd` stays the caller's, open until the file is closed. `name` is for messages, and not copied. */
int statefile_open(struct statefile **out, int fd, const char *name, struct error *err);
void statefile_close(struct statefile *f);

/* The sections; *at is where they lie in the file. They live as long as the file is open. */
const uint8_t *statefile_sections(const struct statefile *f, size_t *size, uint64_t *at);

/* Fill the memory of a partition that has not run, in which all of it is zeros. -EINVAL: it has more or less memory. */
int statefile_read_memory(struct statefile *f, struct partition *p, struct statefile_progress *progress, struct error *err);
