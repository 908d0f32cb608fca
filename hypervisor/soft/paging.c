// SPDX-License-Identifier: GPL-2.0-or-later
/* paging.c - walking page tables (SDM volume 3, chapter 4). */
#include "hypervisor/soft/mmu.h"

uint8_t *ram_host(const struct soft *soft, gpa_t gpa)
{
	for (unsigned i = 0; i < soft->range_count; i++) {
		const struct soft_range *r = &soft->ranges[i];

		if (gpa - r->gpa < r->size)
			return soft->ram + r->offset + (gpa - r->gpa);
	}
	return NULL;
}

/* One entry that was used on the way, so that A and D can be set once the access is known to be allowed. */
struct step {
	uint8_t *host;
	uint64_t entry;
};

struct walk {
	struct step steps[4];
	unsigned count;
	bool narrow; /* entries of 4 bytes */
};

static bool entry_read(struct soft_vp *vp, struct walk *w, gpa_t gpa, uint64_t *entry)
{
	uint8_t *host = ram_host(vp->soft, gpa);

	/* Tables in MMIO: there is nothing there to read but ones, which are reserved bits. */
	if (unlikely(!host))
		*entry = ~0ull;
	else if (w->narrow)
		*entry = __atomic_load_n((uint32_t *)host, __ATOMIC_RELAXED);
	else
		*entry = __atomic_load_n((uint64_t *)host, __ATOMIC_RELAXED);
	w->steps[w->count++] = (struct step){host, *entry};
	return *entry & PTE_P;
}

/* False when an entry changed meanwhile: walk again. */
static bool entry_mark(struct soft_vp *vp, const struct walk *w, const struct step *s, uint64_t bits)
{
	uint64_t old = s->entry;
	uint32_t old32 = (uint32_t)old;
	bool done;

	if ((old & bits) == bits)
		return true;
	if (w->narrow)
		done = __atomic_compare_exchange_n((uint32_t *)s->host, &old32, old32 | (uint32_t)bits, false,
		    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	else
		done = __atomic_compare_exchange_n((uint64_t *)s->host, &old, old | bits, false, __ATOMIC_SEQ_CST,
		    __ATOMIC_RELAXED);
	/* Also from a walk of a VP that does not count as running, for which nobody waits: only a bit that is set after the
	 * write is sure to be taken after it. */
	if (done && unlikely(dirty_is_tracked(vp->soft)))
		atomic_bitmap_set(&vp->soft->dirty, ram_page(vp->soft, s->host));
	return done;
}

enum result { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED };

/* 4-level and PAE paging from `table` at `level` down. */
static enum result walk_wide(struct soft_vp *vp, struct walk *w, uint64_t linear, gpa_t table, unsigned level,
    struct mapping *m)
{
	uint64_t reserved = ~PHYSICAL_MASK & 0x000fffffffffffffull;

	if (!(vp->efer & EFER_NXE))
		reserved |= PTE_NX;
	if (!vp_long(vp))
		reserved |= 0x7ff0000000000000ull;
	for (;; level--) {
		unsigned shift = 3 + 9 * level;
		uint64_t e;

		if (!entry_read(vp, w, table + (linear >> shift & 511) * 8, &e))
			return WALK_NOT_PRESENT;
		if (unlikely(e & reserved || (level == 4 && e & PTE_PS)))
			return WALK_RESERVED;
		m->user &= !!(e & PTE_U);
		m->writable &= !!(e & PTE_W);
		m->no_execute |= !!(e & PTE_NX);
		table = e & PHYSICAL_MASK & PAGE_MASK;
		if (level > 1 && !(e & PTE_PS))
			continue;
		m->shift = (uint8_t)shift;
		if (level > 1) {
			uint64_t inside = (1ull << shift) - 1;

			if (unlikely(e & inside & ~0x1fffull)) /* bit 12 is PAT */
				return WALK_RESERVED;
			table = (table & ~inside) | (linear & inside & PAGE_MASK);
		}
		m->gpa = table;
		m->global = e & PTE_G && vp->cr4 & CR4_PGE;
		if (vp_long(vp))
			m->key = e >> PTE_KEY_SHIFT & 15;
		return WALK_OK;
	}
}

static enum result walk_narrow(struct soft_vp *vp, struct walk *w, uint64_t linear, struct mapping *m)
{
	uint64_t e;

	w->narrow = true;
	if (!entry_read(vp, w, (vp->cr3 & 0xfffff000u) + (linear >> 22 & 1023) * 4, &e))
		return WALK_NOT_PRESENT;
	m->user = !!(e & PTE_U);
	m->writable = !!(e & PTE_W);
	if (e & PTE_PS && vp->cr4 & CR4_PSE) {
		if (e & 1u << 21)
			return WALK_RESERVED;
		m->gpa = (e & 0xffc00000u) | (e >> 13 & 0xff) << 32 | (linear & 0x3ff000);
		m->shift = 22;
		return WALK_OK;
	}
	if (!entry_read(vp, w, (e & 0xfffff000u) + (linear >> 12 & 1023) * 4, &e))
		return WALK_NOT_PRESENT;
	m->user &= !!(e & PTE_U);
	m->writable &= !!(e & PTE_W);
	m->gpa = e & 0xfffff000u;
	m->shift = 12;
	return WALK_OK;
}

/* But for the page's protection key. */
static bool tables_allow(const struct soft_vp *vp, const struct mapping *m, unsigned kind, enum access access)
{
	if (kind == TLB_USER) {
		if (!m->user)
			return false;
	} else if (m->user) {
		if (access == ACCESS_FETCH ? vp->cr4 & CR4_SMEP : vp->cr4 & CR4_SMAP && kind != TLB_SUPERVISOR_AC)
			return false;
	}
	if (access == ACCESS_FETCH)
		return !m->no_execute;
	return access == ACCESS_READ || m->writable || (kind != TLB_USER && !(vp->cr0 & CR0_WP));
}

static bool mark_all(struct soft_vp *vp, const struct walk *w, enum access access)
{
	for (unsigned i = 0; i < w->count; i++)
		if (!entry_mark(vp, w, &w->steps[i],
		        i == w->count - 1 && access == ACCESS_WRITE ? PTE_A | PTE_D : PTE_A))
			return false;
	return true;
}

static enum result walk_any(struct soft_vp *vp, struct walk *w, uint64_t linear, struct mapping *m)
{
	uint64_t e;

	if (vp_long(vp))
		return walk_wide(vp, w, linear, vp->cr3 & PHYSICAL_MASK & PAGE_MASK, 4, m);
	if (!(vp->cr4 & CR4_PAE))
		return walk_narrow(vp, w, linear, m);
	e = vp->pdptr[linear >> 30 & 3];
	if (!(e & PTE_P))
		return WALK_NOT_PRESENT;
	return walk_wide(vp, w, linear, e & PHYSICAL_MASK & PAGE_MASK, 2, m);
}

bool page_walk(struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access, struct mapping *m,
    uint32_t *code)
{
	for (;;) {
		struct walk w = {.count = 0};
		enum result r;
		bool denied;

		*m = (struct mapping){.user = true, .writable = true, .shift = 12};
		if (!(vp->cr0 & CR0_PG)) {
			m->gpa = linear & 0xfffff000u;
			m->dirty = true;
			return true;
		}
		r = walk_any(vp, &w, linear, m);
		denied = r == WALK_OK && key_denies(vp, m, kind, access);
		if (likely(r == WALK_OK && !denied && tables_allow(vp, m, kind, access))) {
			if (unlikely(!mark_all(vp, &w, access)))
				continue;
			m->dirty = access == ACCESS_WRITE || w.steps[w.count - 1].entry & PTE_D;
			return true;
		}
		*code = (r == WALK_NOT_PRESENT ? 0 : PF_P) | (r == WALK_RESERVED ? PF_RSVD : 0) |
		    (access == ACCESS_WRITE ? PF_W : 0) | (kind == TLB_USER ? PF_U : 0) | (denied ? PF_PK : 0);
		if (access == ACCESS_FETCH &&
		    (vp->cr4 & CR4_SMEP || (vp->cr4 & CR4_PAE && vp->efer & EFER_NXE)))
			*code |= PF_I;
		return false;
	}
}

bool pdptrs_load(struct soft_vp *vp, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer)
{
	uint64_t entries[4];
	const uint8_t *host;

	if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || efer & EFER_LMA)
		return true;
	host = ram_host(vp->soft, cr3 & 0xffffffe0u);
	for (unsigned i = 0; i < 4; i++) {
		entries[i] = host ? __atomic_load_n((const uint64_t *)host + i, __ATOMIC_RELAXED) : ~0ull;
		if (entries[i] & PTE_P && entries[i] & (0x1e6 | ~PHYSICAL_MASK))
			return false;
	}
	for (unsigned i = 0; i < 4; i++)
		vp->pdptr[i] = entries[i];
	return true;
}

/* --- translation ---------------------------------------------------------------------------------- */

static void fill(struct soft_vp *vp, unsigned kind, uint64_t linear, const struct mapping *m, uint8_t *host)
{
	struct tlb_entry *e = &vp->tlbs[kind][(linear >> GUEST_PAGE_SHIFT) & (TLB_ENTRIES - 1)];
	uint64_t tag = (linear & PAGE_MASK) | vp->asid;
	bool write = m->dirty && tables_allow(vp, m, kind, ACCESS_WRITE) && dirty_is_marked(vp->soft, host);

	e->addend = (uint64_t)(uintptr_t)host - (linear & PAGE_MASK);
	e->flags = &vp->page_flags[ram_page(vp->soft, host)];
	e->read = tables_allow(vp, m, kind, ACCESS_READ) ? tag : TLB_NO_TAG;
	e->write = write ? tag : TLB_NO_TAG;
	e->exec = tables_allow(vp, m, kind, ACCESS_FETCH) ? tag : TLB_NO_TAG;
	e->private = kind != TLB_USER && !m->global;
	e->keyed = TLB_NO_TAG;
	if (unlikely(m->key || (vp->pkru | vp->pkrs) & 3))
		key_note(vp, kind, e, m);
	if (m->shift > GUEST_PAGE_SHIFT)
		tlb_note_large(vp, linear, m->shift);
}

static bool tlb_hit(const struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access,
    struct place *place)
{
	const struct tlb_entry *e = &vp->tlbs[kind][(linear >> GUEST_PAGE_SHIFT) & (TLB_ENTRIES - 1)];
	uint64_t tag = access == ACCESS_READ ? e->read : access == ACCESS_WRITE ? e->write : e->exec;

	if (tag != ((linear & PAGE_MASK) | vp->asid))
		return false;
	place->host = (uint8_t *)(uintptr_t)(linear + e->addend);
	return true;
}

/* As the TLB misses: walk and fill. */
static bool resolve(struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access, struct place *place,
    uint32_t *code)
{
	struct mapping m;
	uint8_t *host;

	if (!page_walk(vp, linear, kind, access, &m, code))
		return false;
	place->gpa = m.gpa | (linear & ~PAGE_MASK);
	host = ram_host(vp->soft, m.gpa);
	place->host = host ? host + (linear & ~PAGE_MASK) : NULL;
	if (!host)
		return true;
	if (access == ACCESS_WRITE)
		dirty_mark(vp->soft, host);
	fill(vp, kind, linear, &m, host);
	return true;
}

bool translate_quietly(struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access, struct place *place)
{
	uint32_t code;

	return tlb_hit(vp, linear, kind, access, place) ||
	    (is_canonical(linear) && resolve(vp, linear, kind, access, place, &code));
}

/* An access with RSP or RBP as base, or by the stack itself, gets #SS where others get #GP. */
static _Noreturn void raise_not_canonical(struct soft_vp *vp, const struct op *op, uint64_t linear)
{
	bool stack;

	if (!op)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	/* Near the stack pointer and not the memory operand: a push or pop. Bit offsets and gathers go far
	 * from where the operand begins. */
	stack = op->seg == SEG_SS ||
	    ((op->seg == SEG_NONE || op->flags & OP_MEMORY) && linear - vp->gpr[GPR_RSP] + 64 < 128);
	if (op->flags & OP_MEMORY &&
	    (!stack || linear - (vp->seg_base[op->seg] + ea_offset(vp, op)) < 1024))
		stack = op->seg != SEG_FS && op->seg != SEG_GS &&
		    (op->base == GPR_RSP * 8 || op->base == GPR_RBP * 8);
	raise_fault_code(vp, op, stack ? VECTOR_SS : VECTOR_GP, 0);
}

struct place translate(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned kind, enum access access)
{
	struct place place = {NULL, 0};
	uint32_t code;

	if (likely(tlb_hit(vp, linear, kind, access, &place)))
		return place;
	if (unlikely(!is_canonical(linear)))
		raise_not_canonical(vp, op, linear);
	if (unlikely(!resolve(vp, linear, kind, access, &place, &code)))
		raise_page_fault(vp, op, linear, code);
	return place;
}
