/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block.h - the form of the file, and what writer and reader share. Private to statefile/.
 *
 *   header      HEADER_SIZE bytes at 0: magic, version, CRC-32C of the used part but itself, places and sizes
 *   blocks      anywhere behind it, in any order
 *   sections    as they were given
 *   index       an entry for each block: place, size, CRC-32C, chunk, pass
 *
 * A chunk is up to 256 pages of one region of RAM. A block brings pages of one chunk: how its payload is packed, then
 * what each page of the chunk is, then the page that each duplicate equals, then the payload: the stored pages in
 * order. Blocks of a later pass replace what an earlier one brought; duplicates are filled when all else is there.
 */
#pragma once

#include <pthread.h>

#include "statefile/statefile.h"

#define STATEFILE_MAGIC   "BulkVMrs"
#define STATEFILE_VERSION 1u

#define HEADER_SIZE        4096u
#define HEADER_VERSION     8u
#define HEADER_CHECKSUM    12u
#define HEADER_FILE_SIZE   16u
#define HEADER_SECTIONS_AT 24u
#define HEADER_SECTIONS    32u /* bytes */
#define HEADER_INDEX_AT    40u
#define HEADER_BLOCKS      48u /* entries of the index */
#define HEADER_INDEX_CRC   56u
#define HEADER_PAGES       64u /* of guest memory */
#define HEADER_USED        72u

#define SECTIONS_MAX (256u << 20)
#define PASSES_MAX   16u

#define ENTRY_AT       0u
#define ENTRY_BYTES    8u
#define ENTRY_CHECKSUM 12u
#define ENTRY_CHUNK    16u
#define ENTRY_PASS     20u
#define ENTRY_SIZE     24u

#define CHUNK_PAGES 256u
#define CHUNK_SIZE  (CHUNK_PAGES * GUEST_PAGE_SIZE)

#define BLOCK_PACKING    0u /* enum packing */
#define BLOCK_STORED     4u /* pages */
#define BLOCK_DUPLICATES 8u
#define BLOCK_PAYLOAD    12u /* bytes */
#define BLOCK_MAP        16u /* a byte for each page of the chunk: enum page_kind */
#define BLOCK_REFERENCES (BLOCK_MAP + CHUNK_PAGES)
#define BLOCK_MAX        (BLOCK_REFERENCES + 4 * CHUNK_PAGES + CHUNK_SIZE)

enum packing { PACKING_NONE, PACKING_LZ4 };

enum page_kind { PAGE_ABSENT, PAGE_ZERO, PAGE_STORED, PAGE_DUPLICATE };

struct chunk {
	uint8_t *host;
	gpa_t gpa;
	uint64_t first; /* its number among all pages */
	uint32_t pages;
};

struct chunks {
	struct chunk *list;
	uint32_t count;
	uint64_t pages;
};

int chunks_of(struct chunks *out, struct partition *p, struct error *err);

/* Calls work(argument) on as many threads as there are processors, up to four, one of which is the caller's; returns when
 * all have returned. */
void team_run(void (*work)(void *argument), void *argument);

/* What threads of a team share: the next piece of work, and the first error. */
struct team {
	_Atomic uint32_t next;
	atomic_bool failed;
	pthread_mutex_t lock;
	struct error err; /* [lock] */
};

void team_fail(struct team *team, const struct error *err);
