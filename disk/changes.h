/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * changes.h - inside of the room: which parts of a disk have been changed, as a bitmap of at most 1 MiB: its
 * granules are the larger, the larger the disk. Any thread may call, unless it says otherwise.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CHANGES_GRANULE_MIN   65536u
#define CHANGES_GRANULES_MAX  (UINT64_C(1) << 23)

struct changes {
	uint64_t size;    /* of the disk */
	unsigned shift;   /* of a granule */
	uint64_t granules;
	_Atomic uint64_t *words;
};

/* -ENOMEM. One thread. */
int changes_init(struct changes *changes, uint64_t size);
void changes_clear(struct changes *changes);

void changes_note(struct changes *changes, uint64_t offset, uint64_t length);

/* Whether all of the range was noted before. */
bool changes_has(const struct changes *changes, uint64_t offset, uint64_t length);

/* The next run of what was noted, at or after `*offset`. False: there is none. */
bool changes_next(const struct changes *changes, uint64_t *offset, uint64_t *length);

/* Likewise, and it is not noted any more. */
bool changes_take(struct changes *changes, uint64_t *offset, uint64_t *length);

/* Bytes. */
uint64_t changes_sum(const struct changes *changes);
