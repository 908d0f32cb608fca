/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/changes.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base.h"

int changes_init(struct changes *changes, uint64_t size)
{
	unsigned shift = (unsigned)__builtin_ctz(CHANGES_GRANULE_MIN);

	while ((size - 1) >> shift >= CHANGES_GRANULES_MAX)
		shift++;
	*changes = (struct changes){.size = size, .shift = shift, .granules = ((size - 1) >> shift) + 1};
	changes->words = calloc((changes->granules + 63) / 64, sizeof(*changes->words));
	return changes->words ? 0 : -ENOMEM;
}

void changes_clear(struct changes *changes)
{
	free(changes->words);
	changes->words = NULL;
}

/* The granules of a range, [first, end), of those that there are. */
static void granules_of(const struct changes *changes, uint64_t offset, uint64_t length, uint64_t *first,
			uint64_t *end)
{
	*first = offset >> changes->shift;
	*end = length == 0 ? *first
			   : min_u64(((offset + length - 1) >> changes->shift) + 1, changes->granules);
}

static uint64_t mask_of(uint64_t first, uint64_t end)
{
	uint64_t count = min_u64(end - first, 64 - first % 64);

	return (count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << first % 64;
}

void changes_note(struct changes *changes, uint64_t offset, uint64_t length)
{
	uint64_t first, end;

	granules_of(changes, offset, length, &first, &end);
	for (; first < end; first += 64 - first % 64) {
		_Atomic uint64_t *word = &changes->words[first / 64];
		uint64_t mask = mask_of(first, end);

		/* Most are set already, and a cache line that is only read is shared. */
		if ((atomic_load(word) & mask) != mask)
			atomic_fetch_or(word, mask);
	}
}

bool changes_has(const struct changes *changes, uint64_t offset, uint64_t length)
{
	uint64_t first, end;

	granules_of(changes, offset, length, &first, &end);
	for (; first < end; first += 64 - first % 64) {
		uint64_t mask = mask_of(first, end);

		if ((atomic_load(&changes->words[first / 64]) & mask) != mask)
			return false;
	}
	return true;
}

/* The first granule at or after `at` whose bit is `set`, or how many granules there are. */
static uint64_t find(const struct changes *changes, uint64_t at, bool set)
{
	while (at < changes->granules) {
		uint64_t word = atomic_load(&changes->words[at / 64]);

		word = (set ? word : ~word) >> at % 64;
		if (word)
			return min_u64(at + (uint64_t)__builtin_ctzll(word), changes->granules);
		at += 64 - at % 64;
	}
	return changes->granules;
}

bool changes_next(const struct changes *changes, uint64_t *offset, uint64_t *length)
{
	uint64_t first = find(changes, (*offset + (UINT64_C(1) << changes->shift) - 1) >> changes->shift, true);
	uint64_t end = find(changes, first, false);

	if (first == changes->granules)
		return false;
	*offset = first << changes->shift;
	*length = min_u64(end << changes->shift, changes->size) - *offset;
	return true;
}

bool changes_take(struct changes *changes, uint64_t *offset, uint64_t *length)
{
	uint64_t first, end;

	if (!changes_next(changes, offset, length))
		return false;
	granules_of(changes, *offset, *length, &first, &end);
	for (; first < end; first += 64 - first % 64)
		atomic_fetch_and(&changes->words[first / 64], ~mask_of(first, end));
	return true;
}

uint64_t changes_sum(const struct changes *changes)
{
	uint64_t sum = 0, offset = 0, length;

	for (; changes_next(changes, &offset, &length); offset += length)
		sum += length;
	return sum;
}
