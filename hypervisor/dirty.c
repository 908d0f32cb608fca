// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dirty.c - which pages of RAM were written: what devices and the hypervisor wrote is noted here, what VPs wrote the
 * processor knows.
 *
 * Whoever writes from the host writes first, then looks whether tracking is on, then sets the bit. Setting is a full
 * barrier, so who takes the bit sees what was written. When tracking begins, a writer may have looked already and its
 * write may still be on its way: membarrier() brings all such writes home, so that writers need no fence.
 */
#include "hypervisor/partition.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/syscall.h>

void dirty_init(struct partition *p)
{
	pthread_mutex_init(&p->dirty_lock, NULL);
}

void dirty_destroy(struct partition *p)
{
	atomic_bitmap_destroy(&p->dirty);
	pthread_mutex_destroy(&p->dirty_lock);
}

/* --- writers ------------------------------------------------------------------------------------------ */

/* Bytes [at, at + size) of the mapping. */
static void mark(struct partition *p, uint64_t at, uint64_t size)
{
	if (!size)
		return;
	for (uint64_t page = at >> GUEST_PAGE_SHIFT; page <= (at + size - 1) >> GUEST_PAGE_SHIFT; page++)
		atomic_bitmap_set(&p->dirty, page);
}

void dirty_mark_gpa(struct partition *p, gpa_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < p->region_count; i++) {
		const struct memory_region *r = &p->regions[i];
		uint64_t first = max_u64(gpa, r->gpa), end = min_u64(gpa + size, r->gpa + r->size);

		if (first < end)
			mark(p, r->offset + (first - r->gpa), end - first);
	}
}

void dirty_mark_host(struct partition *p, const void *host, uint64_t size)
{
	uint64_t at = (uint64_t)((const uint8_t *)host - p->base);

	if (range_fits_u64(at, size, p->memory_size))
		mark(p, at, size);
}

/* --- switching on and off -------------------------------------------------------------------------------- */

/* Every other thread has made a full barrier when this returns. */
static void barrier_everywhere(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

static int start_tracking(struct partition *p, struct error *err)
{
	int r = 0;

	if (!p->dirty.words && atomic_bitmap_create(&p->dirty, p->memory_size >> GUEST_PAGE_SHIFT))
		return error_set(err, ENOMEM, "no memory on the host to track which pages of the guest are written");
	atomic_bitmap_clear(&p->dirty);
	atomic_store(&p->tracks_dirty, true);
	barrier_everywhere();
	if (p->processor->track_dirty)
		r = p->processor->track_dirty(p, true, err);
	if (r)
		atomic_store(&p->tracks_dirty, false);
	return r;
}

/* The bitmap stays: a writer may have found that tracking is on, and not have set its bit yet. */
static int stop_tracking(struct partition *p, struct error *err)
{
	atomic_store(&p->tracks_dirty, false);
	return p->processor->track_dirty ? p->processor->track_dirty(p, false, err) : 0;
}

int partition_track_dirty(struct partition *p, bool on, struct error *err)
{
	int r = 0;

	if (!p->started)
		return error_set(err, EAGAIN, "written pages can be tracked only once the virtual machine runs");
	pthread_mutex_lock(&p->dirty_lock);
	if (on != dirty_is_tracked(p))
		r = on ? start_tracking(p, err) : stop_tracking(p, err);
	pthread_mutex_unlock(&p->dirty_lock);
	return r;
}

/* --- asking ---------------------------------------------------------------------------------------------- */

static int region_of(const struct partition *p, gpa_t gpa, uint64_t size)
{
	if (!size || !is_aligned_u64(gpa | size, GUEST_PAGE_SIZE))
		return -EFAULT;
	for (unsigned i = 0; i < p->region_count; i++)
		if (gpa >= p->regions[i].gpa && range_fits_u64(gpa - p->regions[i].gpa, size, p->regions[i].size))
			return (int)i;
	return -EFAULT;
}

static int fetch(struct partition *p, unsigned region, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
	const struct memory_region *r = &p->regions[region];
	uint64_t first = (gpa - r->gpa) >> GUEST_PAGE_SHIFT, pages = size >> GUEST_PAGE_SHIFT;

	memset(bitmap, 0, (pages + 63) / 64 * sizeof(uint64_t));
	atomic_bitmap_take(&p->dirty, (r->offset >> GUEST_PAGE_SHIFT) + first, pages, bitmap);
	return p->processor->fetch_dirty ? p->processor->fetch_dirty(p, region, first, pages, bitmap) : 0;
}

int partition_fetch_dirty(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
	int region = region_of(p, gpa, size), r;

	if (region < 0)
		return region;
	pthread_mutex_lock(&p->dirty_lock);
	r = dirty_is_tracked(p) ? fetch(p, (unsigned)region, gpa, size, bitmap) : -EAGAIN;
	pthread_mutex_unlock(&p->dirty_lock);
	return r;
}
