// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/bitmap.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

static uint64_t word_count(const struct atomic_bitmap *b)
{
	return (b->bits + 63) / 64;
}

int atomic_bitmap_create(struct atomic_bitmap *b, uint64_t bits)
{
	void *words;

	b->bits = bits;
	words = mmap(NULL, (word_count(b) + !bits) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	b->words = words == MAP_FAILED ? NULL : words;
	return b->words ? 0 : -ENOMEM;
}

void atomic_bitmap_destroy(struct atomic_bitmap *b)
{
	if (b->words)
		munmap((void *)b->words, (word_count(b) + !b->bits) * sizeof(uint64_t));
	b->words = NULL;
}

void atomic_bitmap_clear(struct atomic_bitmap *b)
{
	/* Pages that were never written are not there, and stay so when they are only read. */
	for (uint64_t i = 0; i < word_count(b); i++)
		if (atomic_load_explicit(&b->words[i], memory_order_relaxed))
			atomic_store(&b->words[i], 0);
}

/* Those bits of word `i` that lie in [first, end). */
static uint64_t mask_of(uint64_t i, uint64_t first, uint64_t end)
{
	uint64_t mask = ~0ull;

	if (i * 64 < first)
		mask &= ~0ull << (first - i * 64);
	if (end - i * 64 < 64)
		mask &= ~(~0ull << (end - i * 64));
	return mask;
}

/* `word` holds bits from `at` on, which counts from bit 0 of `to` and may be up to 63 before it: those are 0. */
static void add_word(uint64_t *to, int64_t at, uint64_t word)
{
	if (at < 0) {
		to[0] |= word >> -at;
		return;
	}
	to[at / 64] |= word << (at % 64);
	if (at % 64 && word >> (64 - at % 64))
		to[at / 64 + 1] |= word >> (64 - at % 64);
}

bool atomic_bitmap_take(struct atomic_bitmap *b, uint64_t first, uint64_t count, uint64_t *to)
{
	uint64_t end = first + count;
	bool any = false;

	for (uint64_t i = first / 64; i * 64 < end; i++) {
		uint64_t mask = mask_of(i, first, end), taken;

		if (!(atomic_load_explicit(&b->words[i], memory_order_relaxed) & mask))
			continue;
		taken = atomic_fetch_and(&b->words[i], ~mask) & mask;
		add_word(to, (int64_t)(i * 64 - first), taken);
		any |= taken != 0;
	}
	return any;
}
