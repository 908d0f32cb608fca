// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tlb.c - emptying the TLB: asids, INVLPG, and flushes that other threads ask for.
 *
 * An asid stands for one generation of one address space. Giving an address space a new asid empties
 * it; when the numbers run out, everything is emptied. Global pages do not survive such a change
 * either: they are filled in again.
 */
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/translate.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ASID_MAX 0xfffu

static void tlb_clear(struct soft_vp *vp)
{
	for (unsigned set = 0; set < TLB_SETS >> vp->table_shift; set++)
		if (vp->tlb_sets_used >> set & 1)
			memset(vp->tlb_sets[set], 0, sizeof(vp->tlb_sets[set]));
	vp->tlb_sets_used = 0;
	memset(vp->pcid_asid, 0, sizeof(vp->pcid_asid));
	memset(vp->large_regions, 0, sizeof(vp->large_regions));
	window_drop(vp);
	vp->asid_last = 0;
	translate_forget_targets(vp);
}

static unsigned current_pcid(const struct soft_vp *vp)
{
	return vp->cr4 & CR4_PCIDE ? (unsigned)(vp->cr3 & 0xfff) : 0;
}

void tlb_select(struct soft_vp *vp)
{
	unsigned pcid = current_pcid(vp);

	if (!vp->pcid_asid[pcid]) {
		if (vp->asid_last == ASID_MAX)
			tlb_clear(vp);
		vp->pcid_asid[pcid] = ++vp->asid_last;
	}
	vp->asid = vp->pcid_asid[pcid];
	vp_choose_tlb(vp);
	window_drop(vp);
	if (vp->private_code)
		translate_forget_targets(vp);
	else
		code_key_changed(vp);
}

void tlb_flush_pcid(struct soft_vp *vp, unsigned pcid)
{
	vp->pcid_asid[pcid] = 0;
	if (pcid == current_pcid(vp))
		tlb_select(vp);
}

void tlb_flush_all(struct soft_vp *vp)
{
	memset(vp->pcid_asid, 0, sizeof(vp->pcid_asid));
	memset(vp->large_regions, 0, sizeof(vp->large_regions));
	translate_forget_targets(vp);
	tlb_select(vp);
}

/* --- single pages --------------------------------------------------------------------------------- */

static unsigned region_bit(uint64_t linear, unsigned shift)
{
	uint64_t region = linear >> shift;

	return (unsigned)((region * 0x9e3779b97f4a7c15ull + (shift == 30)) >> 55);
}

static bool region_noted(const struct soft_vp *vp, uint64_t linear, unsigned shift)
{
	unsigned bit = region_bit(linear, shift);

	return vp->large_regions[bit / 64] >> (bit % 64) & 1;
}

void tlb_note_large(struct soft_vp *vp, uint64_t linear, unsigned shift)
{
	unsigned bit = region_bit(linear, shift);

	vp->large_regions[bit / 64] |= 1ull << (bit % 64);
}

/* The tables that may have entries, one after the other; NULL: no more. *at begins at 0. */
static struct tlb_entry *next_table(struct soft_vp *vp, unsigned *at)
{
	while (*at < (TLB_SETS >> vp->table_shift) * TLB_CHECKED) {
		unsigned set = *at / TLB_CHECKED, kind = (*at)++ % TLB_CHECKED;

		if (vp->tlb_sets_used >> set & 1)
			return vp->tlb_sets[set][kind];
	}
	return NULL;
}

static void drop_entry(struct tlb_entry *e)
{
	e->read = e->write = e->exec = e->keyed = TLB_NO_TAG;
}

/* The slots of a region of up to 4 MiB are consecutive. */
static void drop_region(struct soft_vp *vp, uint64_t linear, unsigned shift)
{
	unsigned first = (linear >> shift << (shift - GUEST_PAGE_SHIFT)) & (TLB_ENTRIES - 1);
	unsigned count = shift == 21 ? 512 : TLB_ENTRIES, at = 0;
	struct tlb_entry *table;

	while ((table = next_table(vp, &at))) {
		for (unsigned i = 0; i < count; i++) {
			struct tlb_entry *e = &table[(first + i) & (TLB_ENTRIES - 1)];

			if (!((e->read ^ linear) >> shift) || !((e->write ^ linear) >> shift) ||
			    !((e->exec ^ linear) >> shift) || !((e->keyed ^ linear) >> shift))
				drop_entry(e);
		}
	}
}

void tlb_flush_page(struct soft_vp *vp, uint64_t linear)
{
	static const uint8_t shifts[] = {21, 22, 30};
	struct tlb_entry *table;
	unsigned at = 0;

	window_drop(vp);
	for (unsigned i = 0; i < sizeof(shifts); i++)
		if (region_noted(vp, linear, shifts[i])) {
			drop_region(vp, linear, shifts[i]);
			translate_forget_targets(vp);
		}
	while ((table = next_table(vp, &at)))
		drop_entry(&table[(linear >> GUEST_PAGE_SHIFT) & (TLB_ENTRIES - 1)]);
	translate_forget_page(vp, linear);
}

/* Entries of all address spaces, also of those that are not in force now. */
static void drop_writes(struct soft_vp *vp)
{
	struct tlb_entry *table;
	unsigned at = 0;

	while ((table = next_table(vp, &at)))
		for (unsigned i = 0; i < TLB_ENTRIES; i++) {
			table[i].write = TLB_NO_TAG;
			table[i].keyed_write = false;
		}
}

/* --- from other threads --------------------------------------------------------------------------- */

#define QUEUE_PAGES 64

struct flush_queue {
	pthread_mutex_t lock;
	bool all, writes; /* every entry; the right to write of every entry */
	unsigned count;
	uint64_t pages[QUEUE_PAGES];
	uint64_t posted;       /* requests so far */
	_Atomic uint64_t done;   /* … of which these have been served */
	_Atomic bool running;
};

int flush_queue_create(struct flush_queue **out)
{
	struct flush_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	pthread_mutex_init(&q->lock, NULL);
	*out = q;
	return 0;
}

void flush_queue_destroy(struct flush_queue *q)
{
	if (!q)
		return;
	pthread_mutex_destroy(&q->lock);
	free(q);
}

void flush_serve(struct soft_vp *vp)
{
	struct flush_queue *q = vp->flushes;
	uint64_t pages[QUEUE_PAGES], posted;
	unsigned count;
	bool all, writes;

	atomic_fetch_and(&vp->attention, ~ATTENTION_FLUSH);
	window_drop(vp); /* its page may hold code from now on */
	pthread_mutex_lock(&q->lock);
	count = q->count;
	all = q->all;
	writes = q->writes;
	posted = q->posted;
	memcpy(pages, q->pages, count * sizeof(pages[0]));
	q->count = 0;
	q->all = q->writes = false;
	pthread_mutex_unlock(&q->lock);
	if (writes)
		drop_writes(vp);
	if (all)
		tlb_flush_all(vp);
	else
		for (unsigned i = 0; i < count; i++)
			tlb_flush_page(vp, pages[i]);
	atomic_store(&q->done, posted);
}

/* Whoever posts sets the attention bit and then looks at `running`; here it is the other way round, both
 * sequentially consistent: either the poster sees that it must wait, or we see the request. */
void vp_set_running(struct soft_vp *vp, bool running)
{
	atomic_store(&vp->flushes->running, running);
	if (running && atomic_load(&vp->attention) & ATTENTION_FLUSH)
		flush_serve(vp);
}

/* `count` pages, 0: everything. */
static uint64_t post(struct soft_vp *vp, const uint64_t *pages, unsigned count)
{
	struct flush_queue *q = vp->flushes;
	uint64_t posted;

	pthread_mutex_lock(&q->lock);
	if (!count || q->count + count > QUEUE_PAGES) {
		q->all = true;
		q->count = 0;
	} else if (!q->all) {
		memcpy(&q->pages[q->count], pages, count * sizeof(pages[0]));
		q->count += count;
	}
	posted = ++q->posted;
	pthread_mutex_unlock(&q->lock);
	atomic_fetch_or(&vp->attention, ATTENTION_FLUSH);
	return posted;
}

/* The target answers at the end of its block, so a few rounds do unless it has lost its CPU. */
static void wait_served(struct soft_vp *vp, uint64_t posted)
{
	struct flush_queue *q = vp->flushes;

	for (unsigned round = 0; atomic_load(&q->done) < posted && atomic_load(&q->running); round++) {
		if (round < 200)
			__builtin_ia32_pause();
		else if (round < 1000)
			sched_yield();
		else
			nanosleep(&(struct timespec){0, 50000}, NULL);
	}
}

void tlb_post_drop_writes(struct soft_vp *vp)
{
	struct flush_queue *q = vp->flushes;

	pthread_mutex_lock(&q->lock);
	q->writes = true;
	q->posted++;
	pthread_mutex_unlock(&q->lock);
	atomic_fetch_or(&vp->attention, ATTENTION_FLUSH);
}

void tlb_wait_served(struct soft_vp *vp)
{
	struct flush_queue *q = vp->flushes;
	uint64_t posted;

	pthread_mutex_lock(&q->lock);
	posted = q->posted;
	pthread_mutex_unlock(&q->lock);
	wait_served(vp, posted);
}

void vp_wait_for_others(struct soft_vp *vp)
{
	struct soft *soft = vp->soft;

	vp_set_running(vp, false);
	for (unsigned i = 0; i < soft->vp_count; i++) {
		struct flush_queue *q = soft->vps[i]->flushes;

		if (soft->vps[i] == vp)
			continue;
		pthread_mutex_lock(&q->lock);
		q->posted++;
		pthread_mutex_unlock(&q->lock);
		atomic_fetch_or(&soft->vps[i]->attention, ATTENTION_FLUSH);
	}
	for (unsigned i = 0; i < soft->vp_count; i++)
		if (soft->vps[i] != vp)
			tlb_wait_served(soft->vps[i]);
	vp_set_running(vp, true);
}

static void flush_self(struct soft_vp *vp, const uint64_t *pages, unsigned count)
{
	if (!count)
		tlb_flush_all(vp);
	for (unsigned i = 0; i < count; i++)
		tlb_flush_page(vp, pages[i]);
}

/* The caller is a VP only while it is in a call to the host, where it does not count as running: nobody
 * waits for it, so VPs that flush each other's TLBs do not stop one another. */
void soft_flush_tlbs(struct soft *soft, struct soft_vp *self, const uint64_t *vps, const uint64_t *pages,
    unsigned count)
{
	uint64_t posted[PARTITION_MAX_VPS];

	for (unsigned i = 0; i < soft->vp_count; i++) {
		if (!(vps[i / 64] >> (i % 64) & 1))
			continue;
		if (soft->vps[i] == self)
			flush_self(self, pages, count);
		else
			posted[i] = post(soft->vps[i], pages, count);
	}
	for (unsigned i = 0; i < soft->vp_count; i++)
		if (vps[i / 64] >> (i % 64) & 1 && soft->vps[i] != self)
			wait_served(soft->vps[i], posted[i]);
}

static void flush_one(struct soft_vp *vp, struct soft_vp *self, const uint64_t *pages, unsigned count)
{
	if (vp == self)
		flush_self(vp, pages, count);
	else
		wait_served(vp, post(vp, pages, count));
}

void soft_vp_flush_tlb(struct soft_vp *vp, struct soft_vp *self)
{
	flush_one(vp, self, NULL, 0);
}

void soft_vp_flush_tlb_page(struct soft_vp *vp, struct soft_vp *self, uint64_t linear)
{
	flush_one(vp, self, &linear, 1);
}
