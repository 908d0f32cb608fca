// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dirty.c - which pages of RAM the VPs wrote.
 *
 * A TLB entry may be used for writing only while the page's bit is set: whoever gives one out sets the bit first. To
 * take bits is therefore to take back what was given out on their strength: every VP drops its entries for writing
 * and is waited for, as with any flush. A store by an entry that is on its way to be dropped belongs to the bit that
 * was just taken, since the one who took it reads the page only after the wait. Accessed and dirty bits of page tables
 * are set by no TLB entry: there the page's bit is set after them.
 */
#include "hypervisor/soft/mmu.h"

#include <errno.h>

static void drop_writes(struct soft *soft)
{
	for (unsigned i = 0; i < soft->vp_count; i++)
		tlb_post_drop_writes(soft->vps[i]);
	for (unsigned i = 0; i < soft->vp_count; i++)
		tlb_wait_served(soft->vps[i]);
}

int soft_track_dirty(struct soft *soft, bool on, struct error *err)
{
	if (!on) {
		atomic_store(&soft->tracks_dirty, false);
		return 0;
	}
	if (!soft->dirty.words && atomic_bitmap_create(&soft->dirty, soft->ram_size >> GUEST_PAGE_SHIFT))
		return error_set(err, ENOMEM, "no memory on the host to track which pages of the guest are written");
	atomic_bitmap_clear(&soft->dirty);
	atomic_store(&soft->tracks_dirty, true);
	drop_writes(soft);
	return 0;
}

void soft_fetch_dirty(struct soft *soft, uint64_t first_page, uint64_t pages, uint64_t *bitmap)
{
	if (atomic_bitmap_take(&soft->dirty, first_page, pages, bitmap))
		drop_writes(soft);
}
