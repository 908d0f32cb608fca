/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/needs.h"

#include "worker/sandbox.h"

#define MIB (1ull << 20)

/* One virtual processor, any number of adapters and disks: the software processor's 96 MiB, what is packed and unpacked of a saved
 * machine, the log of a disk that is added (64 MiB and as much again), and as much as a reserve. */
#define BASE (384 * MIB)
/* Tables of guest pages: what is code (13 bytes a page), what is dirty, what was saved (40). A page has 4096 bytes, so this is 64. */
#define PAGES_SHARE 64u
/* The requests of a channel with their lists of pages (vsp/storage). */
#define CHANNEL (4 * MIB)
/* An adapter's packets under way, and a disk file's cache of its allocation table (disk/vhdx_bat.c). */
#define ADAPTER (8 * MIB)
#define FILE_CACHE (8 * MIB)
/* The kernel's view of a virtual processor, and translated code, which is mapped twice. */
#define CODE (64 * MIB)
/* Addresses of a heap of malloc(), which sets aside twice as many at first. */
#define HEAP (64 * MIB)

unsigned needs_threads(unsigned processors)
{
	/* Timers, the bus, who packs; processors; channels to disks, each with up to 8 helpers; channels of adapters. */
	return 32 + processors + 9 * WORKER_MAX_CONTROLLERS * processors + WORKER_MAX_ADAPTERS * processors;
}

uint64_t needs_memory(const struct worker_config *config, unsigned files)
{
	return BASE + config->memory / PAGES_SHARE + (uint64_t)config->vp_count * WORKER_MAX_CONTROLLERS * CHANNEL +
	       WORKER_MAX_ADAPTERS * ADAPTER + (WORKER_MAX_DISKS + files) * FILE_CACHE +
	       (uint64_t)needs_threads(config->vp_count) * NEEDS_STACK;
}

uint64_t needs_addresses(const struct worker_config *config, unsigned files)
{
	/* The guest's memory is aligned to huge pages. */
	return needs_memory(config, files) + config->memory + 4 * MIB + CODE + (SANDBOX_HEAPS + 1) * HEAP;
}
