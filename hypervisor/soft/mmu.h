/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mmu.h - from linear to guest physical to host addresses. Private to hypervisor/soft/.
 *
 * paging.c walks the page tables, tlb.c keeps the TLB and answers flushes, mmu.c does the accesses
 * that the inline ones of access.h leave. Functions that take an `op` may raise faults on it; op NULL
 * means that vp->rip says already where the fault belongs.
 */
#pragma once

#include <pthread.h>

#include "base/bitmap.h"
#include "hypervisor/soft/access.h"

/* Guest physical addresses have 46 bits (CPUID 0x80000008). */
#define PHYSICAL_BITS 46
#define PHYSICAL_MASK ((1ull << PHYSICAL_BITS) - 1)

#define PTE_P   (1ull << 0)
#define PTE_W   (1ull << 1)
#define PTE_U   (1ull << 2)
#define PTE_A   (1ull << 5)
#define PTE_D   (1ull << 6)
#define PTE_PS  (1ull << 7)
#define PTE_G   (1ull << 8)
#define PTE_KEY_SHIFT 59 /* bits 59 to 62 */
#define PTE_NX  (1ull << 63)

#define PF_P    (1u << 0)
#define PF_W    (1u << 1)
#define PF_U    (1u << 2)
#define PF_RSVD (1u << 3)
#define PF_I    (1u << 4)
#define PF_PK   (1u << 5)

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };

/* What the page tables say of one 4 KiB page. */
struct mapping {
	gpa_t gpa;      /* of the page */
	bool user, writable, no_execute; /* all levels together */
	bool dirty;
	bool global;    /* the same in all address spaces, as the guest says */
	uint8_t shift;  /* of the page that maps it: 12, 21, 22, 30 */
	uint8_t key;    /* protection key; 0 where the mode has none */
};

/* Walk for an access by `kind` (TLB_*): sets A, and D for a write. False: *code is the page fault's. */
bool page_walk(struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access, struct mapping *m,
    uint32_t *code);

/* Where a byte is: on the host, or `host` NULL and an MMIO address. */
struct place {
	uint8_t *host;
	gpa_t gpa;
};

/* Through the TLB of `kind`, filling it; raises #PF, or #GP/#SS when not canonical. */
struct place translate(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned kind, enum access access);

/* The same for a look that must not fault: false when it would. */
bool translate_quietly(struct soft_vp *vp, uint64_t linear, unsigned kind, enum access access, struct place *place);

/* Accesses of 1 to 8 bytes with the rights of `kind`, as load_slow and store_slow. */
uint64_t load_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size);
void store_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size, uint64_t value);
void probe_write_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size);

/* The host address of guest RAM, NULL for MMIO. `gpa` to the end of its page is all there. */
uint8_t *ram_host(const struct soft *soft, gpa_t gpa);

/* PAE: reload the PDPTRs; false when one is not valid (#GP). Does nothing in other modes. */
bool pdptrs_load(struct soft_vp *vp, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer);

static inline bool is_canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

/* --- TLB (tlb.c); own thread only --- */
void tlb_note_large(struct soft_vp *vp, uint64_t linear, unsigned shift); /* an entry from a large page */
void tlb_flush_all(struct soft_vp *vp);                     /* every address space, global pages too */
void tlb_flush_pcid(struct soft_vp *vp, unsigned pcid);     /* entries of one PCID */
void tlb_flush_page(struct soft_vp *vp, uint64_t linear);   /* in every address space */
void tlb_select(struct soft_vp *vp);                        /* after CR3 or CR4.PCIDE changed: the asid in force */

/* From another thread: drop what may be written, and wait until that (and all that was asked before) is done or the VP
 * does not run. */
void tlb_post_drop_writes(struct soft_vp *vp);
void tlb_wait_served(struct soft_vp *vp);

int flush_queue_create(struct flush_queue **out);
void flush_queue_destroy(struct flush_queue *q);
/* Serve what others asked. */
void flush_serve(struct soft_vp *vp);
/* While a VP runs, whoever flushes its TLB waits for it; else it serves before it runs again. */
void vp_set_running(struct soft_vp *vp, bool running);
/* Until each other VP has been at the end of a block. The VP itself is not waited for meanwhile, so its TLB may
 * be another when it returns. */
void vp_wait_for_others(struct soft_vp *vp);

/* --- protection keys (keys.c); own thread only --- */

/* Whether the key of a page denies a data access to it by `kind`. */
bool key_denies(const struct soft_vp *vp, const struct mapping *m, unsigned kind, enum access access);
/* An entry has just been filled for `kind`, as if there were no keys. */
void key_note(struct soft_vp *vp, unsigned kind, struct tlb_entry *e, const struct mapping *m);
/* The registers, and what the TLB lets pass from now on; no instruction's own look into it outlives them. */
void pkru_set(struct soft_vp *vp, uint32_t value);
void pkrs_set(struct soft_vp *vp, uint32_t value);

/* --- code pages (code.c) --- */
struct code_pages {
	_Atomic uint8_t *flags;        /* by RAM page: CODE_PAGE, CODE_OPEN */
	_Atomic uint32_t *generations; /* by RAM page: grows when decoded bytes changed */
	_Atomic uint64_t *lines;       /* by RAM page: one bit for each 64 bytes that hold decoded code */
	uint64_t count;
	atomic_flag lock;              /* around changes to flags and lines */
	bool shared;                   /* by more than one VP */
};

int code_pages_create(struct code_pages *c, uint64_t count, bool shared);
void code_pages_destroy(struct code_pages *c);
/* Read before the bytes are: the generation to remember. */
uint32_t code_generation(struct code_pages *c, uint64_t page);
/* Before `page` is read for decoding, and after its generation was: false when it is open already; true when
 * it was opened, which may have taken time in which the VP's TLB was flushed. */
bool code_open(struct soft_vp *vp, uint64_t page);
/* Before bytes of the 64-byte line `line` of `page` are read for decoding. */
void code_mark(struct code_pages *c, uint64_t page, unsigned line);
/* After bytes were written: true when decoded code was among them. */
bool code_check(struct code_pages *c, uint64_t page, unsigned offset, unsigned size);

/* --- what the VPs of a partition share (soft.c) --- */
#define RANGES_MAX 32

struct soft {
	const struct soft_host *host;
	void *context;
	unsigned vp_count;
	uint8_t *ram;
	uint64_t ram_size;
	struct soft_range ranges[RANGES_MAX];
	unsigned range_count;
	struct code_pages code;
	struct vector_pool *pool;
	pthread_mutex_t rmw_lock;
	_Atomic bool tracks_dirty;  /* dirty.c */
	struct atomic_bitmap dirty; /* by RAM page, while they are tracked */
	uint32_t host_leaf7_ebx, host_extended_ecx; /* cpuid.c: what the host must have */
	struct soft_vp **vps;
};

/* --- dirty pages (dirty.c) --- */
static inline bool dirty_is_tracked(const struct soft *soft)
{
	return atomic_load_explicit(&soft->tracks_dirty, memory_order_acquire);
}

static inline uint64_t ram_page(const struct soft *soft, const uint8_t *host)
{
	return (uint64_t)(host - soft->ram) >> GUEST_PAGE_SHIFT;
}

/* Before a TLB entry allows writing, or the write itself where it goes past the TLB. */
static inline void dirty_mark(struct soft *soft, const uint8_t *host)
{
	if (unlikely(dirty_is_tracked(soft)) && !atomic_bitmap_test(&soft->dirty, ram_page(soft, host)))
		atomic_bitmap_set(&soft->dirty, ram_page(soft, host));
}

static inline bool dirty_is_marked(const struct soft *soft, const uint8_t *host)
{
	return likely(!dirty_is_tracked(soft)) || atomic_bitmap_test(&soft->dirty, ram_page(soft, host));
}
