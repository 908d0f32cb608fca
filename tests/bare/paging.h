/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * paging.h - page tables of a test's own, beside the identity map: 4 levels, at any address from 1 TiB up.
 */
#pragma once

#include "bare.h"

#define PTE_P     (1ull << 0)
#define PTE_W     (1ull << 1)
#define PTE_U     (1ull << 2)
#define PTE_A     (1ull << 5)
#define PTE_D     (1ull << 6)
#define PTE_PS    (1ull << 7)
#define PTE_G     (1ull << 8)
#define PTE_NX    (1ull << 63)
#define PTE_FRAME 0x000ffffffffff000ull

/* Page fault error code. */
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

#define TEST_VA 0x0000010000000000ul

/* The entry that maps `va` at `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB, 4: PML4) under `root`; tables on the way
 * are made, with all rights. */
static inline uint64_t *pte_at(unsigned long root, unsigned long va, int level)
{
	uint64_t *table = (uint64_t *)(root & PTE_FRAME);

	for (int l = 4; l > level; l--) {
		uint64_t *entry = &table[va >> (12 + 9 * (l - 1)) & 511];

		if (!(*entry & PTE_P))
			*entry = (unsigned long)page_alloc() | PTE_P | PTE_W | PTE_U;
		table = (uint64_t *)(*entry & PTE_FRAME);
	}
	return &table[va >> (12 + 9 * (level - 1)) & 511];
}

/* Map a page of ours, drop what the TLB has of it, and return the entry. */
static inline uint64_t *map(unsigned long va, const void *page, uint64_t bits)
{
	uint64_t *entry = pte_at(read_cr3(), va, 1);

	*entry = (unsigned long)page | bits;
	invlpg((void *)va);
	return entry;
}

static inline void set_entry(uint64_t *entry, uint64_t value, unsigned long va)
{
	*entry = value;
	invlpg((void *)va);
}
