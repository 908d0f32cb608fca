/* SPDX-License-Identifier: GPL-2.0-or-later */
/* memory.c - guest RAM as KVM's memory slots, one a region, and their dirty logs. */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t words_of(const struct memory_region *r)
{
	return (r->size / GUEST_PAGE_SIZE + 63) / 64;
}

static int set_slot(struct partition *p, unsigned index, uint32_t flags)
{
	const struct memory_region *r = &p->regions[index];
	struct kvm_userspace_memory_region slot = {.slot = index,
						   .flags = flags,
						   .guest_phys_addr = r->gpa,
						   .memory_size = r->size,
						   .userspace_addr = (uintptr_t)p->base + r->offset};

	return kvm_ioctl(kvm_of(p)->vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

int kvm_map_memory(struct partition *p, struct error *err)
{
	for (unsigned i = 0; i < p->region_count; i++) {
		int r = set_slot(p, i, 0);

		if (r)
			return error_set(err, -r, "KVM does not take %llu MiB of guest memory at 0x%llx: %s",
					 (unsigned long long)(p->regions[i].size >> 20),
					 (unsigned long long)p->regions[i].gpa, strerror(-r));
	}
	return 0;
}

static void forget(struct kvm_machine *m)
{
	for (unsigned i = 0; i < PARTITION_MAX_REGIONS; i++) {
		free(m->dirty[i]);
		m->dirty[i] = NULL;
	}
}

int kvm_track_dirty(struct partition *p, bool on, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	int r = 0;

	forget(m);
	for (unsigned i = 0; i < p->region_count && !r; i++) {
		if (on)
			m->dirty[i] = calloc(words_of(&p->regions[i]), sizeof(uint64_t));
		r = on && !m->dirty[i] ? -ENOMEM : set_slot(p, i, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	}
	m->dirty_log = on && !r;
	if (r) {
		for (unsigned i = 0; i < p->region_count; i++)
			set_slot(p, i, 0);
		forget(m);
		return error_set(err, -r, "KVM does not record written pages: %s", strerror(-r));
	}
	return 0;
}

/* Move what KVM has into our bitmap. With manual protection it forgets, and write-protects anew, only what it
 * is told to, and in pieces: its lock is not held for long. */
#define CLEAR_PAGES (64u << 10)

static int collect(struct partition *p, unsigned index)
{
	struct kvm_machine *m = kvm_of(p);
	const struct memory_region *region = &p->regions[index];
	uint64_t pages = region->size / GUEST_PAGE_SIZE, words = words_of(region);
	uint64_t *bits = calloc(words, sizeof(*bits));
	struct kvm_dirty_log log = {.slot = index, .dirty_bitmap = bits};
	int r = bits ? kvm_ioctl(m->vm, KVM_GET_DIRTY_LOG, &log) : -ENOMEM;

	for (uint64_t first = 0; first < pages && !r; first += CLEAR_PAGES) {
		struct kvm_clear_dirty_log clear = {.slot = index,
						    .num_pages =
							(uint32_t)min_u64(CLEAR_PAGES, pages - first),
						    .first_page = first,
						    .dirty_bitmap = bits + first / 64};
		bool any = false;

		for (uint64_t w = first / 64; w < min_u64(words, (first + CLEAR_PAGES) / 64); w++) {
			m->dirty[index][w] |= bits[w];
			any |= bits[w] != 0;
		}
		if (any)
			r = kvm_ioctl(m->vm, KVM_CLEAR_DIRTY_LOG, &clear);
	}
	free(bits);
	return r;
}

int kvm_fetch_dirty(struct partition *p, unsigned region, uint64_t first, uint64_t pages, uint64_t *bitmap)
{
	struct kvm_machine *m = kvm_of(p);
	int r;

	if (!m->dirty_log)
		return -EAGAIN;
	r = collect(p, region);
	for (uint64_t i = 0; i < pages && !r; i++) {
		uint64_t *word = &m->dirty[region][(first + i) / 64], bit = 1ull << ((first + i) % 64);

		/* Whole empty words are most of it. */
		if (!*word && !((first + i) % 64)) {
			i += 63;
			continue;
		}
		if (*word & bit)
			bitmap[i / 64] |= 1ull << (i % 64);
		*word &= ~bit;
	}
	return r;
}
