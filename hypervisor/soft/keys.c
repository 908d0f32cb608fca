// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keys.c - protection keys (SDM volume 3, 4.6.2): PKRU for user pages, IA32_PKRS for those of the supervisor.
 *
 * An entry of the TLB holds what the registers let pass now, so hits cost nothing more, and what the tables alone would.
 * Where a register changes, the tags of entries with a key are made again from that; which these are, a bit for each slot
 * tells, so guests that have none pay for a comparison. Entries of other address spaces go: they may be dead for long.
 * Every page has a key, most have key 0. Its rights hardly ever change, and then the whole TLB goes.
 */
#include "hypervisor/soft/mmu.h"

#define DENY_ACCESS 1u
#define DENY_WRITE  2u

/* What the registers say of a key: DENY_*. */
static unsigned denied(const struct soft_vp *vp, bool user, unsigned key)
{
	bool on = vp_long(vp) && vp->cr4 & (user ? CR4_PKE : CR4_PKS);

	return on ? (user ? vp->pkru : vp->pkrs) >> (2 * key) & 3 : 0;
}

static bool denies(const struct soft_vp *vp, unsigned deny, unsigned kind, bool write)
{
	return deny & DENY_ACCESS || (write && deny & DENY_WRITE && (kind == TLB_USER || vp->cr0 & CR0_WP));
}

bool key_denies(const struct soft_vp *vp, const struct mapping *m, unsigned kind, enum access access)
{
	return access != ACCESS_FETCH && denies(vp, denied(vp, m->user, m->key), kind, access == ACCESS_WRITE);
}

static void apply(const struct soft_vp *vp, unsigned kind, struct tlb_entry *e, unsigned deny)
{
	if (denies(vp, deny, kind, false))
		e->read = TLB_NO_TAG;
	if (denies(vp, deny, kind, true))
		e->write = TLB_NO_TAG;
}

void key_note(struct soft_vp *vp, unsigned kind, struct tlb_entry *e, const struct mapping *m)
{
	unsigned set = vp_tlb_set(vp), slot = (unsigned)(e - vp->tlbs[kind]);

	if (m->key && vp_long(vp) && vp->cr4 & (m->user ? CR4_PKE : CR4_PKS)) {
		e->keyed = e->read;
		e->keyed_write = e->write != TLB_NO_TAG;
		e->key = m->key | (m->user ? KEY_OF_USER : 0);
		vp->keyed_slots[set][kind][slot / 64] |= 1ull << (slot % 64);
		vp->keyed_sets |= 1u << set;
	}
	apply(vp, kind, e, denied(vp, m->user, m->key));
}

/* --- the registers change --------------------------------------------------------------------------- */

/* False: it has no key any more. */
static bool review(const struct soft_vp *vp, unsigned kind, struct tlb_entry *e)
{
	if (e->keyed == TLB_NO_TAG)
		return false;
	if ((e->keyed & ~PAGE_MASK) != vp->asid) {
		e->read = e->write = e->keyed = TLB_NO_TAG;
		return false;
	}
	e->read = e->keyed;
	e->write = e->keyed_write ? e->keyed : TLB_NO_TAG;
	apply(vp, kind, e, denied(vp, e->key & KEY_OF_USER, e->key & 15));
	return true;
}

static bool review_table(struct soft_vp *vp, unsigned set, unsigned kind)
{
	uint64_t *slots = vp->keyed_slots[set][kind], any = 0;

	for (unsigned i = 0; i < TLB_ENTRIES / 64; i++) {
		for (uint64_t left = slots[i]; left; left &= left - 1) {
			unsigned bit = (unsigned)__builtin_ctzll(left);

			if (!review(vp, kind, &vp->tlb_sets[set][kind][i * 64 + bit]))
				slots[i] &= ~(1ull << bit);
		}
		any |= slots[i];
	}
	return any;
}

static void registers_changed(struct soft_vp *vp, uint32_t changed)
{
	if (changed & (DENY_ACCESS | DENY_WRITE)) {
		tlb_flush_all(vp);
		return;
	}
	if (!vp->keyed_sets)
		return;
	/* It may stem from an entry that is another by now. */
	window_drop(vp);
	for (unsigned set = 0; set < TLB_SETS >> vp->table_shift; set++) {
		bool any = false;

		if (!(vp->keyed_sets >> set & 1))
			continue;
		for (unsigned kind = 0; kind < TLB_CHECKED; kind++)
			any |= review_table(vp, set, kind);
		if (!any)
			vp->keyed_sets &= ~(1u << set);
	}
}

void pkru_set(struct soft_vp *vp, uint32_t value)
{
	uint32_t changed = vp->pkru ^ value;

	vp->pkru = value;
	if (changed)
		registers_changed(vp, changed);
}

void pkrs_set(struct soft_vp *vp, uint32_t value)
{
	uint32_t changed = vp->pkrs ^ value;

	vp->pkrs = value;
	if (changed)
		registers_changed(vp, changed);
}

void soft_vp_show_keys(struct soft_vp *vp, bool user, bool supervisor)
{
	vp->user_keys = user;
	vp->supervisor_keys = supervisor;
}
