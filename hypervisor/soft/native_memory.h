/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * native_memory.h - memory for host code that we write ourselves: one memory file, mapped twice, so that no
 * mapping is both writable and executable. Private to hypervisor/soft/.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct native_memory {
	uint8_t *writable, *executable;
	size_t size;
};

/* A memory file that may be executed, of this size for ever; the caller's. -errno. */
int native_memory_file(const char *name, size_t size);

/* Zeroed memory that costs nothing until it is used; -errno. It is at `offset` (whole pages) in `file`, of native_memory_file(), where
 * nobody else has any; or, if that is -1, in a file of its own. */
int native_memory_create(struct native_memory *m, int file, uint64_t offset, const char *name, size_t size);
void native_memory_destroy(struct native_memory *m);
