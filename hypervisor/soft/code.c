// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * code.c - which bytes of guest RAM have been decoded, so that a write to them is noticed.
 *
 * Three parties meet here with no lock between them. A decoder takes the page's generation, marks the
 * page and the 64-byte line, then reads the bytes. A writer writes the bytes, then looks at the marks.
 * Either it finds the mark, or the decoder reads what it wrote: both order their two steps, the decoder
 * by membarrier() for the page (so that a store to a page of data costs the writer no fence), and the
 * writer by a fence for the lines. A writer that finds a mark moves the generation on and then takes the
 * marks away; whoever enters a block compares generations.
 *
 * Some look at the page's mark before they write: translated code, since after it the flags are another's, and
 * handlers that write where they read. So a decoder that marked a page waits until every other VP has been at
 * the end of a block: then none is between the look and the store. That is what CODE_OPEN says of a page.
 */
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/block.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *table_map(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int code_pages_create(struct code_pages *c, uint64_t count, bool shared)
{
	c->count = count;
	c->shared = shared;
	c->flags = table_map(count * sizeof(*c->flags));
	c->generations = table_map(count * sizeof(*c->generations));
	c->lines = table_map(count * sizeof(*c->lines));
	if (!c->flags || !c->generations || !c->lines) {
		code_pages_destroy(c);
		return -ENOMEM;
	}
	atomic_flag_clear(&c->lock);
	return 0;
}

static void table_unmap(void *p, uint64_t size)
{
	if (p)
		munmap(p, size);
}

void code_pages_destroy(struct code_pages *c)
{
	table_unmap((void *)c->flags, c->count * sizeof(*c->flags));
	table_unmap((void *)c->generations, c->count * sizeof(*c->generations));
	table_unmap((void *)c->lines, c->count * sizeof(*c->lines));
	c->flags = NULL;
	c->generations = NULL;
	c->lines = NULL;
}

static void lock(struct code_pages *c)
{
	while (atomic_flag_test_and_set_explicit(&c->lock, memory_order_acquire))
		sched_yield();
}

static void unlock(struct code_pages *c)
{
	atomic_flag_clear_explicit(&c->lock, memory_order_release);
}

/* Not between the steps of code_check(): who took a new generation for marks that are about to go would hear of no
 * write to what was decoded on their strength. */
uint32_t code_generation(struct code_pages *c, uint64_t page)
{
	uint32_t generation;

	lock(c);
	generation = atomic_load(&c->generations[page]);
	unlock(c);
	return generation;
}

/* Registered by soft_create(); where the kernel lacks it, each other CPU is interrupted by other means. */
static void barrier_everywhere(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

static uint32_t mark_page(struct code_pages *c, uint64_t page)
{
	uint32_t generation;

	lock(c);
	generation = atomic_load(&c->generations[page]);
	if (!(atomic_load(&c->flags[page]) & CODE_PAGE)) {
		atomic_fetch_or(&c->flags[page], CODE_PAGE);
		if (c->shared)
			barrier_everywhere();
	}
	unlock(c);
	return generation;
}

bool code_open(struct soft_vp *vp, uint64_t page)
{
	struct code_pages *c = &vp->soft->code;
	uint32_t generation;

	if (likely(atomic_load(&c->flags[page]) & CODE_OPEN))
		return false;
	generation = mark_page(c, page);
	window_drop(vp);
	if (c->shared)
		vp_wait_for_others(vp);
	lock(c);
	/* Else the mark that was waited for is gone. */
	if (atomic_load(&c->generations[page]) == generation)
		atomic_fetch_or(&c->flags[page], CODE_OPEN);
	unlock(c);
	return true;
}

void code_mark(struct code_pages *c, uint64_t page, unsigned line)
{
	if (atomic_load(&c->lines[page]) >> line & 1)
		return;
	lock(c);
	if (!(atomic_load(&c->flags[page]) & CODE_PAGE)) {
		atomic_fetch_or(&c->flags[page], CODE_PAGE);
		if (c->shared)
			barrier_everywhere();
	}
	/* Only now: who finds the line marked may read at once. */
	atomic_fetch_or(&c->lines[page], 1ull << line);
	unlock(c);
}

/* Translated code looks at `attention` only, once it has been entered. */
static void tell_all(struct code_pages *c)
{
	const struct soft *soft = (const struct soft *)(const void *)((const uint8_t *)c - offsetof(struct soft, code));

	for (unsigned i = 0; i < soft->vp_count; i++)
		atomic_fetch_or(&soft->vps[i]->attention, ATTENTION_CODE);
}

bool code_check(struct code_pages *c, uint64_t page, unsigned offset, unsigned size)
{
	uint64_t hit;

	/* Lines offset/64 … (offset+size-1)/64. */
	hit = (~0ull >> (63 - ((offset + size - 1) >> 6 & 63))) & (~0ull << (offset >> 6));
	if (c->shared)
		atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load_explicit(&c->lines[page], memory_order_relaxed) & hit))
		return false;
	lock(c);
	if (atomic_load(&c->lines[page]) & hit) {
		atomic_fetch_add(&c->generations[page], 1);
		/* Before anyone can decode it anew: stale translated code refers to what that overwrites. */
		tell_all(c);
		atomic_store(&c->lines[page], 0);
		atomic_store(&c->flags[page], 0);
	}
	unlock(c);
	return true;
}

void soft_memory_written(struct soft *soft, gpa_t gpa, uint64_t size)
{
	atomic_thread_fence(memory_order_seq_cst);
	while (size) {
		unsigned offset = gpa & (GUEST_PAGE_SIZE - 1);
		uint64_t part = min_u64(size, GUEST_PAGE_SIZE - offset);
		uint8_t *host = ram_host(soft, gpa);

		if (host) {
			uint64_t page = (uint64_t)(host - soft->ram) >> GUEST_PAGE_SHIFT;

			if (atomic_load(&soft->code.flags[page]))
				code_check(&soft->code, page, offset, (unsigned)part);
		}
		gpa += part;
		size -= part;
	}
}
