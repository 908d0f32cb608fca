// SPDX-License-Identifier: GPL-2.0-or-later
/* block.c - finding, decoding and forgetting blocks. */
#include "hypervisor/soft/block_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/translate.h"

#define BUCKET_BITS 15u

struct block_cache {
	struct block **buckets;
	unsigned bucket_bits;
	size_t mapped; /* bytes, from here */
	uint8_t *arena;
	size_t size, used;
	uint64_t epoch; /* grows when the cache is emptied */
	/* One instruction, decoded each time: single step. Aligned as a block is. */
	_Alignas(struct block) uint8_t single[sizeof(struct block) + 2 * sizeof(struct op)];
};

int block_cache_create(struct soft_vp *vp, size_t size)
{
	unsigned bucket_bits = BUCKET_BITS - vp->table_shift, jumps = JUMP_ENTRIES >> vp->table_shift;
	size_t head = align_up_u64(sizeof(struct block_cache), 64), buckets = sizeof(struct block *) << bucket_bits;
	size_t mapped = head + buckets + jumps * sizeof(struct jump_entry) + size;
	struct block_cache *c = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (c == MAP_FAILED)
		return -ENOMEM;
	c->bucket_bits = bucket_bits;
	c->mapped = mapped;
	c->buckets = (struct block **)(void *)((uint8_t *)c + head);
	vp->jumps = (struct jump_entry *)(void *)((uint8_t *)c->buckets + buckets);
	vp->jump_mask = jumps - 1;
	c->arena = (uint8_t *)(vp->jumps + jumps);
	c->size = size;
	vp->blocks = c;
	block_cache_flush(vp);
	return 0;
}

void block_cache_destroy(struct soft_vp *vp)
{
	if (vp->blocks)
		munmap(vp->blocks, vp->blocks->mapped);
	vp->blocks = NULL;
}

void block_cache_flush(struct soft_vp *vp)
{
	struct block_cache *c = vp->blocks;

	memset(c->buckets, 0, sizeof(struct block *) << c->bucket_bits);
	/* No linear address has this tag. */
	for (unsigned i = 0; i <= vp->jump_mask; i++)
		vp->jumps[i] = (struct jump_entry){.tag = 1ull << 62};
	c->used = 0;
	c->epoch++;
	vp->block = NULL;
	translate_flush(vp);
}

void *block_cache_reserve(struct soft_vp *vp, size_t size)
{
	struct block_cache *c = vp->blocks;

	return c->used + size > c->size ? NULL : c->arena + c->used;
}

void block_cache_keep(struct soft_vp *vp, size_t kept)
{
	vp->blocks->used += align_up_u64(kept, 16);
}

static uint64_t block_key(const struct soft_vp *vp, const uint8_t *host)
{
	return (uint64_t)(host - vp->ram) << 2 | vp->form;
}

static struct block **bucket(const struct block_cache *c, uint64_t key)
{
	return &c->buckets[key * 0x9e3779b97f4a7c15ull >> (64 - c->bucket_bits)];
}

static struct block *hash_find(const struct block_cache *c, uint64_t key)
{
	struct block *b = *bucket(c, key);

	while (b && b->key != key)
		b = b->next;
	return b;
}

/* --- decoding a block --------------------------------------------------------------------------------- */

/* The bytes of a page, marked as code before they are copied, as far as they have been asked for. */
struct window {
	struct code_pages *code;
	const uint8_t *page_host;
	uint64_t page;
	unsigned from, to; /* what has been copied */
	uint8_t bytes[GUEST_PAGE_SIZE];
};

static void window_open(struct window *w, struct soft_vp *vp, uint8_t *page_host, unsigned from)
{
	w->code = &vp->soft->code;
	w->page_host = page_host;
	w->page = (uint64_t)(page_host - vp->ram) >> GUEST_PAGE_SHIFT;
	w->from = w->to = from;
}

static void window_reach(struct window *w, unsigned end)
{
	if (end > GUEST_PAGE_SIZE)
		end = GUEST_PAGE_SIZE;
	while (w->to < end) {
		unsigned stop = (w->to | 63) + 1;

		code_mark(w->code, w->page, w->to >> 6);
		memcpy(w->bytes + w->to, w->page_host + w->to, stop - w->to);
		w->to = stop;
	}
}

/* Ops into `ops` (room for BLOCK_MAX_OPS + 1); the number of instructions, 0 when the first one reaches
 * into the next page. */
static unsigned decode_run(struct soft_vp *vp, struct window *w, unsigned offset, struct op *ops)
{
	enum decode_result r = DECODE_OK;
	unsigned n = 0;

	while (n < BLOCK_MAX_OPS && offset < GUEST_PAGE_SIZE && r == DECODE_OK) {
		window_reach(w, offset + INSTRUCTION_MAX);
		r = decode_op(vp, vp->mode, w->bytes + offset, min_u64(w->to - offset, INSTRUCTION_MAX), offset,
		    &ops[n]);
		if (r == DECODE_TRUNCATED)
			break;
		offset += ops[n++].length;
	}
	if (n >= 2)
		integer_fuse(&ops[n - 2], &ops[n - 1]);
	decode_end(&ops[n], offset);
	return n;
}

/* The one instruction at `offset` that ends in the page `next_host`. */
static unsigned decode_crossing(struct soft_vp *vp, struct window *w, unsigned offset, uint8_t *next_host,
    struct op *ops)
{
	uint8_t bytes[INSTRUCTION_MAX];
	unsigned here = GUEST_PAGE_SIZE - offset;

	window_reach(w, GUEST_PAGE_SIZE);
	memcpy(bytes, w->bytes + offset, here);
	code_mark(w->code, (uint64_t)(next_host - vp->ram) >> GUEST_PAGE_SHIFT, 0);
	memcpy(bytes + here, next_host, INSTRUCTION_MAX - here);
	decode_op(vp, vp->mode, bytes, INSTRUCTION_MAX, offset, &ops[0]);
	decode_end(&ops[1], offset + ops[0].length);
	return 1;
}

/* Room for a block of `count` instructions: in its old place when it is decoded again and fits. One that
 * reaches into a second page never takes the place of one that does not: links may lead there. */
static struct block *block_place(struct soft_vp *vp, struct block *old, uint64_t key, unsigned count, unsigned bytes,
    bool crossing)
{
	struct block_cache *c = vp->blocks;
	size_t ops = sizeof(struct block) + (count + 1) * sizeof(struct op), size = ops + bytes;
	struct block *b;

	if (old && old->capacity >= count + 1 && old->byte_capacity >= bytes && !!old->generation2 == crossing)
		return old;
	if (c->used + size > c->size) {
		block_cache_flush(vp);
		old = NULL;
	}
	/* Links and jumps may still lead to the old one; its generation stays stale. */
	if (old)
		old->key = ~0ull;
	b = (struct block *)(void *)(c->arena + c->used);
	c->used += align_up_u64(size, 16);
	b->key = key;
	b->form = key & 3;
	b->capacity = (uint16_t)(count + 1);
	b->bytes = (uint8_t *)b + ops;
	b->byte_capacity = (uint16_t)bytes;
	b->next = *bucket(c, key);
	*bucket(c, key) = b;
	return b;
}

static const _Atomic uint32_t *generation_of(const struct soft_vp *vp, const uint8_t *host)
{
	return &vp->soft->code.generations[(uint64_t)(host - vp->ram) >> GUEST_PAGE_SHIFT];
}

/* NULL: look again where the code is. */
static struct block *block_decode(struct soft_vp *vp, struct block *old, uint64_t key, uint8_t *host, uint64_t linear)
{
	struct op ops[BLOCK_MAX_OPS + 1];
	struct window w;
	unsigned offset = linear & (GUEST_PAGE_SIZE - 1), count, bytes;
	uint8_t *page_host = host - offset, *next_host = NULL;
	uint32_t seen = code_generation(&vp->soft->code, ram_page(vp->soft, page_host)), seen2 = 0;
	struct block *b;

	if (code_open(vp, (uint64_t)(page_host - vp->ram) >> GUEST_PAGE_SHIFT))
		return NULL;
	window_open(&w, vp, page_host, offset);
	count = decode_run(vp, &w, offset, ops);
	if (!count) {
		next_host = translate(vp, NULL, fetch_next_page(vp, linear), vp->tlb_kind, ACCESS_FETCH).host;
		if (!next_host)
			raise_error(vp, NULL, "instruction fetch from memory-mapped I/O at linear 0x%llx",
			    (unsigned long long)fetch_next_page(vp, linear));
		seen2 = code_generation(&vp->soft->code, ram_page(vp->soft, next_host));
		if (code_open(vp, (uint64_t)(next_host - vp->ram) >> GUEST_PAGE_SHIFT))
			return NULL;
		count = decode_crossing(vp, &w, offset, next_host, ops);
	}
	bytes = vp->translator && !next_host ? ops[count].offset - offset : 0;
	b = block_place(vp, old, key, count, bytes, next_host);
	b->generation = generation_of(vp, page_host);
	b->seen = seen;
	b->host_page = page_host;
	b->generation2 = next_host ? generation_of(vp, next_host) : NULL;
	b->seen2 = seen2;
	b->host_page2 = next_host;
	b->count = (uint16_t)count;
	memcpy(b->ops, ops, (count + 1) * sizeof(ops[0]));
	memcpy(b->bytes, w.bytes + offset, bytes);
	translate_watch(vp, b);
	return b;
}

uint64_t fetch_next_page(const struct soft_vp *vp, uint64_t linear)
{
	uint64_t next = (linear & PAGE_MASK) + GUEST_PAGE_SIZE;

	return vp->mode == MODE_64 ? next : (uint32_t)next;
}

/* --- entering blocks ------------------------------------------------------------------------------------ */

static bool block_fresh(struct soft_vp *vp, const struct block *b, uint64_t linear)
{
	if (atomic_load_explicit(b->generation, memory_order_relaxed) != b->seen)
		return false;
	if (likely(!b->generation2))
		return true;
	return translate(vp, NULL, fetch_next_page(vp, linear), vp->tlb_kind, ACCESS_FETCH).host == b->host_page2 &&
	    atomic_load(b->generation2) == b->seen2;
}

static struct jump_entry *jump_slot(struct soft_vp *vp, uint64_t linear)
{
	return &vp->jumps[(linear ^ linear >> 14) & vp->jump_mask];
}

static uint64_t jump_tag(const struct soft_vp *vp, uint64_t linear)
{
	return linear ^ vp->form_tag;
}

static uint64_t code_linear(const struct soft_vp *vp, uint64_t rip)
{
	uint64_t linear = vp->seg_base[SEG_CS] + rip;

	return vp->mode == MODE_64 ? linear : (uint32_t)linear;
}

static void jump_note(struct soft_vp *vp, uint64_t linear, struct block *b)
{
	/* One that reaches into a second page needs more checks than jumps make. */
	if (!b->generation2)
		*jump_slot(vp, linear) = (struct jump_entry){jump_tag(vp, linear), b};
}

static uint8_t *fetch_host(struct soft_vp *vp, uint64_t linear)
{
	uint8_t *host = translate(vp, NULL, linear, vp->tlb_kind, ACCESS_FETCH).host;

	if (unlikely(!host))
		raise_error(vp, NULL, "instruction fetch from memory-mapped I/O at linear 0x%llx",
		    (unsigned long long)linear);
	return host;
}

/* How often a page is opened for decoding (code_open()) before others, who store there all the while, are let be: then one
 * instruction runs as it is now, and the run loop looks around. A page that nobody stores to is open the second time. */
#define OPEN_TRIES 4u

const struct op *block_start(struct soft_vp *vp)
{
	uint64_t linear = code_linear(vp, vp->rip), key;
	struct block *b = NULL;

	if (unlikely(translate_full(vp)))
		block_cache_flush(vp);
	for (unsigned tries = 0; !b && tries < OPEN_TRIES; tries++) {
		uint8_t *host = fetch_host(vp, linear);

		key = block_key(vp, host);
		b = hash_find(vp->blocks, key);
		if (unlikely(!b || !block_fresh(vp, b, linear)))
			b = block_decode(vp, b, key, host, linear);
	}
	if (unlikely(!b))
		return block_single(vp);
	jump_note(vp, linear, b);
	vp->gpr[GPR_CODE_BASE] = vp->rip - (linear & (GUEST_PAGE_SIZE - 1));
	vp->block = b;
	vp->instructions += b->count;
	return b->ops;
}

/* Where RIP is the linear address. */
static bool code_is_flat(const struct soft_vp *vp)
{
	return vp->form == FORM_64 || vp->form == FORM_32_FLAT;
}

/* Whether what a branch remembers, or may remember, stays true: it leads into the page that the branch lies
 * in; or elsewhere, where code is flat: the target's place in its page never changes and its page is
 * compared. A block of a single step (without a page) is gone with the next one. */
static bool link_holds(const struct soft_vp *vp, const uint8_t *page_host, uint64_t rip)
{
	if (vp->block->host_page == page_host && rip - vp->gpr[GPR_CODE_BASE] < GUEST_PAGE_SIZE)
		return true;
	return code_is_flat(vp) && vp->block->host_page;
}

/* By linear address, then by RAM address; NULL when the run loop has to decode or to look around. */
static struct block *target_find(struct soft_vp *vp, uint64_t linear, uint8_t *page_host)
{
	const struct jump_entry *j = jump_slot(vp, linear);
	struct block *b = j->block;

	if (likely(j->tag == jump_tag(vp, linear) && b->host_page == page_host && block_ready(vp, b)))
		return b;
	b = hash_find(vp->blocks, block_key(vp, page_host + (linear & (GUEST_PAGE_SIZE - 1))));
	if (!b || b->generation2 || !block_ready(vp, b))
		return NULL;
	jump_note(vp, linear, b);
	return b;
}

const struct op *branch_find(struct soft_vp *vp, const struct op *op, int slot, uint64_t rip)
{
	uint64_t linear = code_linear(vp, rip);
	const struct tlb_entry *e = tlb_entry(vp, linear);
	uint8_t *page_host = (uint8_t *)(uintptr_t)((linear & PAGE_MASK) + e->addend);
	struct block *b = slot >= 0 && code_is_flat(vp) ? op->link[slot] : NULL;

	vp->rip = rip;
	if (unlikely(e->exec != ((linear & PAGE_MASK) | vp->asid)))
		return NULL;
	if (!b || unlikely(b->host_page != page_host || !block_ready(vp, b))) {
		b = target_find(vp, linear, page_host);
		if (!b)
			return NULL;
		if (slot >= 0 && link_holds(vp, page_host, rip))
			((struct op *)op)->link[slot] = b;
	}
	vp->gpr[GPR_CODE_BASE] = rip - (linear & (GUEST_PAGE_SIZE - 1));
	return block_enter(vp, b);
}

/* --- one instruction at a time --------------------------------------------------------------------------- */

const struct op *block_single(struct soft_vp *vp)
{
	uint64_t linear = code_linear(vp, vp->rip);
	unsigned offset = linear & (GUEST_PAGE_SIZE - 1);
	struct block *b = (struct block *)(void *)vp->blocks->single;
	uint8_t *host = fetch_host(vp, linear);
	uint8_t bytes[INSTRUCTION_MAX];
	unsigned size = (unsigned)min_u64(GUEST_PAGE_SIZE - offset, INSTRUCTION_MAX);

	memcpy(bytes, host, size);
	b->count = 1;
	b->host_page = b->host_page2 = NULL;
	if (decode_op(vp, vp->mode, bytes, size, offset, &b->ops[0]) == DECODE_TRUNCATED) {
		memcpy(bytes + size, fetch_host(vp, fetch_next_page(vp, linear)), INSTRUCTION_MAX - size);
		decode_op(vp, vp->mode, bytes, INSTRUCTION_MAX, offset, &b->ops[0]);
	}
	decode_end(&b->ops[1], offset + b->ops[0].length);
	/* The bytes of an instruction must lie within CS. */
	if (vp->mode != MODE_64 && vp->rip + b->ops[0].length - 1 > vp->seg[SEG_CS].limit)
		raise_fault_code(vp, NULL, VECTOR_GP, 0);
	vp->gpr[GPR_CODE_BASE] = vp->rip - offset;
	vp->block = b;
	vp->instructions++;
	return b->ops;
}
