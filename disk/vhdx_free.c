/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_free.c - space inside of the file that belongs to nobody, and its way there from a block.
 *
 * A block that is zeroed as a whole gives its place up. Another may have the place when
 *
 *   1. the commit that made the BAT forget it is on stable storage: until then a power cut brings the
 *      old owner back;
 *   2. every request that was sent there before has ended: it holds its extent (see extent_release()), and a
 *      late write would hit the new owner, a late read see it.
 *
 * Such places stand in a ring, oldest first, and get through both in that order. A hold counts in one of two
 * epochs. The epoch changes when the other one has no holds left; then the holds of the old one are all that
 * were taken before, and when they are gone, what was durable at the change is nobody's.
 *
 * Whoever takes free space punches a hole into it first. What names it is committed later, behind a sync. So
 * the new owner sees zeros where it has not written, whatever happens. Memory: a bit for each MiB of the file,
 * and a ring of fixed size. When that is full, blocks are zeroed in place.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

int space_init(struct space *space, uint64_t file_end)
{
	space->units = (file_end + VHDX_UNIT - 1) / VHDX_UNIT;
	space->taken = calloc(space->units / 8 + 1, 1);
	return space->taken ? 0 : -ENOMEM;
}

static bool is_taken(const struct space *space, uint64_t unit)
{
	return space->taken[unit / 8] >> (unit % 8) & 1;
}

bool space_take(struct space *space, uint64_t offset, uint64_t length)
{
	uint64_t end = min_u64((offset + length + VHDX_UNIT - 1) / VHDX_UNIT, space->units);
	bool free_before = true;

	for (uint64_t unit = offset / VHDX_UNIT; unit < end; unit++) {
		free_before = free_before && !is_taken(space, unit);
		space->taken[unit / 8] |= (uint8_t)(1u << (unit % 8));
	}
	return free_before;
}

void space_give(struct space *space, uint64_t offset, uint64_t length)
{
	uint64_t end = min_u64((offset + length) / VHDX_UNIT, space->units);

	for (uint64_t unit = offset / VHDX_UNIT; unit < end; unit++)
		space->taken[unit / 8] &= (uint8_t)~(1u << (unit % 8));
}

int space_resize(struct space *space, uint64_t file_end)
{
	uint64_t units = (file_end + VHDX_UNIT - 1) / VHDX_UNIT;
	uint64_t had = space->units / 8 + 1, size = units / 8 + 1;
	uint8_t *taken = size > had ? realloc(space->taken, size) : space->taken;

	if (!taken)
		return -ENOMEM;
	if (size > had)
		memset(taken + had, 0, size - had);
	space->taken = taken;
	/* What was behind the end counts as free. */
	for (uint64_t unit = units; unit < min_u64(space->units, units / 8 * 8 + 8); unit++)
		taken[unit / 8] &= (uint8_t)~(1u << (unit % 8));
	space->units = units;
	return 0;
}

uint64_t space_find(const struct space *space, uint64_t from, uint64_t count)
{
	uint64_t run = 0;

	for (uint64_t unit = from; unit < space->units; unit++) {
		if (run == 0 && unit % 8 == 0 && space->taken[unit / 8] == UINT8_MAX)
			unit += 7;
		else
			run = is_taken(space, unit) ? 0 : run + 1;
		if (run == count)
			return unit + 1 - count;
	}
	return UINT64_MAX;
}

uint64_t space_end(const struct space *space)
{
	uint64_t units = space->units;

	while (units > 0 && !is_taken(space, units - 1))
		units--;
	return units * VHDX_UNIT;
}

void free_destroy(struct free_space *free_space)
{
	free(free_space->space.taken);
	free(free_space->ring);
}

int free_init(struct free_space *free, struct space *space)
{
	uint32_t *ring = calloc(FREED_MAX, sizeof(*ring));

	if (!ring)
		return -ENOMEM;
	free_destroy(free);
	*free = (struct free_space){.space = *space, .ring = ring};
	return 0;
}

void free_hold(struct vhdx *v, struct extent *extent)
{
	struct free_space *free = &v->free;

	if (!free->ring)
		return;
	extent->hold = &free->holds[free->epoch];
	atomic_fetch_add_explicit(extent->hold, 1, memory_order_relaxed);
}

/* Sees how far the places in the ring have come. [bat.lock] */
static void advance(struct free_space *free)
{
	if (atomic_load_explicit(&free->holds[!free->epoch], memory_order_acquire) != 0)
		return;
	free->ready = free->draining;
	if (free->draining == free->durable)
		return;
	free->draining = free->durable;
	free->epoch = !free->epoch;
	if (atomic_load_explicit(&free->holds[!free->epoch], memory_order_acquire) == 0)
		free->ready = free->draining;
}

static uint64_t pop(struct free_space *free)
{
	return free->ring[free->first++ % FREED_MAX] * VHDX_UNIT;
}

bool free_leave(struct vhdx *v, uint64_t place)
{
	struct free_space *free = &v->free;

	if (!free->ring || free->end - free->first == FREED_MAX)
		return false;
	free->ring[free->end++ % FREED_MAX] = (uint32_t)(place / VHDX_UNIT);
	return true;
}

static void give(struct free_space *free, uint64_t place, uint64_t length)
{
	space_give(&free->space, place, length);
	free->search_from = min_u64(free->search_from, place / VHDX_UNIT);
}

void free_region(struct vhdx *v, uint64_t offset, uint64_t length)
{
	struct step punch = {.kind = STEP_ZERO, .offset = offset, .length = length};

	give(&v->free, offset, length);
	file_perform(&v->disk->file, &punch);
}

/* A place for `length` bytes among what is free, or in the ring. */
static bool find_place(struct vhdx *v, uint64_t length, uint64_t *place)
{
	struct free_space *free = &v->free;
	uint64_t unit = space_find(&free->space, free->search_from, length / VHDX_UNIT);

	if (unit != UINT64_MAX) {
		*place = unit * VHDX_UNIT;
		space_take(&free->space, *place, length);
	}
	/* Small gaps before it are passed over by blocks, and found again when something near is given back. */
	if (length == v->block_size)
		free->search_from = unit == UINT64_MAX ? free->space.units : unit + length / VHDX_UNIT;
	if (unit != UINT64_MAX)
		return true;
	advance(free);
	if (length != v->block_size || free->first == free->ready)
		return false;
	*place = pop(free);
	return true;
}

int free_take(struct vhdx *v, uint64_t length, uint64_t *place)
{
	int r;

	if (!v->free.ring || !find_place(v, length, place))
		return -ENOENT;
	r = file_zero(&v->disk->file, *place, length);
	if (r < 0)
		give(&v->free, *place, length);
	return r;
}

int free_grow(struct vhdx *v, uint64_t end)
{
	uint64_t before = v->free.space.units * VHDX_UNIT;
	int r = v->free.ring ? space_resize(&v->free.space, end) : 0;

	if (r == 0 && v->free.ring)
		space_take(&v->free.space, before, end - before);
	return r;
}

bool free_is_crowded(const struct vhdx *v)
{
	return v->free.end - v->free.durable >= FREED_MAX / 2;
}

uint64_t free_mark(struct vhdx *v)
{
	uint64_t mark;

	pthread_mutex_lock(&v->bat.lock);
	mark = v->free.end;
	pthread_mutex_unlock(&v->bat.lock);
	return mark;
}

void free_made_durable(struct vhdx *v, uint64_t mark)
{
	struct free_space *free = &v->free;
	struct step punch = {.kind = STEP_ZERO, .length = v->block_size};

	pthread_mutex_lock(&v->bat.lock);
	free->durable = mark;
	advance(free);
	while (free->first < free->ready) {
		punch.offset = pop(free);
		/* The host gets its space back; whether it could does not matter here. */
		pthread_mutex_unlock(&v->bat.lock);
		file_perform(&v->disk->file, &punch);
		pthread_mutex_lock(&v->bat.lock);
		give(free, punch.offset, v->block_size);
	}
	pthread_mutex_unlock(&v->bat.lock);
}
