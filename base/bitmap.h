/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bitmap.h - a large set of bits that any thread puts bits into, and one thread takes them out of.
 *
 * What a thread wrote elsewhere before atomic_bitmap_set() is seen by whoever takes the bit. Takes no memory where no
 * bit was ever set. Create and destroy belong to one thread; everything else may be called from any thread between.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct atomic_bitmap {
	_Atomic uint64_t *words;
	uint64_t bits;
};

/* All bits 0. -ENOMEM. */
int atomic_bitmap_create(struct atomic_bitmap *b, uint64_t bits);
void atomic_bitmap_destroy(struct atomic_bitmap *b);

void atomic_bitmap_clear(struct atomic_bitmap *b);

/* Take the bits [first, first + count) out of `b` and add them to `to`, whose bit 0 is `first`. Returns whether
 * there were any. A bit that is put in meanwhile is taken now or stays. */
bool atomic_bitmap_take(struct atomic_bitmap *b, uint64_t first, uint64_t count, uint64_t *to);

/* A full memory barrier. */
static inline void atomic_bitmap_set(struct atomic_bitmap *b, uint64_t bit)
{
	atomic_fetch_or(&b->words[bit / 64], 1ull << (bit % 64));
}

/* A glance, no barrier. */
static inline bool atomic_bitmap_test(const struct atomic_bitmap *b, uint64_t bit)
{
	return atomic_load_explicit(&b->words[bit / 64], memory_order_relaxed) >> (bit % 64) & 1;
}
