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

/* Bytes of room for each bucket: about a block. */
#define BUCKET_SHARE 256u

/* No linear address has this tag. */
#define NO_JUMP (1ull << 62)

/* With more of the room for hot blocks all are forgotten when it is full. */
#define HOT_EIGHTHS 5u

struct block_cache {
	struct block **buckets;
	unsigned bucket_bits;
	size_t mapped; /* bytes, from here */
	uint8_t *arena;
	size_t size;
	size_t hot;  /* from the beginning: blocks with a translation, and what these refer to */
	size_t cold; /* up to the end: the others */
	/* One instruction, decoded each time: single step. Aligned as a block is. */
	_Alignas(struct block) uint8_t single[sizeof(struct block) + 2 * sizeof(struct op)];
	struct op_side single_side;
};

int block_cache_create(struct soft_vp *vp, size_t size)
{
	unsigned bucket_bits = 63 - (unsigned)__builtin_clzll(size / BUCKET_SHARE | 1), jumps = JUMP_ENTRIES >> vp->table_shift;
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
	/* Cold blocks lie at its end: that has to be aligned as its beginning is. */
	c->size = size / BLOCK_UNIT * BLOCK_UNIT;
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
	for (unsigned i = 0; i <= vp->jump_mask; i++)
		vp->jumps[i] = (struct jump_entry){.tag = NO_JUMP};
	c->hot = c->cold = 0;
	vp->block = NULL;
	translate_flush(vp);
}

static bool is_hot(const struct block_cache *c, const struct block *b)
{
	return (const uint8_t *)b < c->arena + c->hot;
}

/* Only hot blocks stay, and nothing leads to another any more. Translated code and what it refers to never do. */
static void forget_cold(struct soft_vp *vp)
{
	struct block_cache *c = vp->blocks;

	for (size_t i = 0; i < (size_t)1 << c->bucket_bits; i++) {
		struct block **at = &c->buckets[i], *b;

		while ((b = *at)) {
			if (!is_hot(c, b)) {
				*at = b->next;
				continue;
			}
			for (unsigned slot = 0; slot < ARRAY_SIZE(b->link); slot++)
				if (b->link[slot] && !is_hot(c, b->link[slot]))
					b->link[slot] = NULL;
			at = &b->next;
		}
	}
	for (unsigned i = 0; i <= vp->jump_mask; i++)
		if (vp->jumps[i].tag != NO_JUMP && !is_hot(c, vp->jumps[i].block))
			vp->jumps[i] = (struct jump_entry){.tag = NO_JUMP};
	c->cold = 0;
	vp->block = NULL;
}

/* From the run loop, when no block runs. Cold blocks go first: there are more of them, and they cost less to make again. */
static void make_room(struct soft_vp *vp)
{
	struct block_cache *c = vp->blocks;

	if (translate_code_full(vp) || c->hot > c->size / 8 * HOT_EIGHTHS)
		block_cache_flush(vp);
	else
		forget_cold(vp);
	translate_has_room(vp);
}

void *block_cache_reserve(struct soft_vp *vp, size_t size)
{
	struct block_cache *c = vp->blocks;

	return c->hot + c->cold + size > c->size ? NULL : c->arena + c->hot;
}

void block_cache_keep(struct soft_vp *vp, size_t kept)
{
	vp->blocks->hot += align_up_u64(kept, BLOCK_UNIT);
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

/* What a block is made of, before its place is known. */
struct decoded_run {
	struct op ops[BLOCK_MAX_OPS + 1];
	struct op_side sides[BLOCK_MAX_OPS];
	unsigned count, side_count, bytes;
};

static enum decode_result decode_next(struct soft_vp *vp, struct decoded_run *run, const uint8_t *bytes, unsigned size,
    unsigned offset)
{
	struct op *op = &run->ops[run->count];
	enum decode_result r = decode_op(vp, vp->mode, bytes, size, offset, op, &run->sides[run->side_count]);

	if (r == DECODE_TRUNCATED)
		return r;
	run->count++;
	run->side_count += !!(op->flags & OP_SIDE);
	return r;
}

/* No instruction when the first one reaches into the next page. */
static void decode_run(struct soft_vp *vp, struct window *w, unsigned offset, struct decoded_run *run)
{
	enum decode_result r = DECODE_OK;

	while (run->count < BLOCK_MAX_OPS && offset < GUEST_PAGE_SIZE && r == DECODE_OK) {
		window_reach(w, offset + INSTRUCTION_MAX);
		r = decode_next(vp, run, w->bytes + offset, min_u64(w->to - offset, INSTRUCTION_MAX), offset);
		if (r == DECODE_TRUNCATED)
			break;
		offset += run->ops[run->count - 1].length;
	}
	if (run->count >= 2)
		integer_fuse(&run->ops[run->count - 2], &run->ops[run->count - 1]);
	decode_end(&run->ops[run->count], offset);
}

/* The one instruction at `offset` that ends in the page `next_host`. */
static void decode_crossing(struct soft_vp *vp, struct window *w, unsigned offset, uint8_t *next_host,
    struct decoded_run *run)
{
	uint8_t bytes[INSTRUCTION_MAX];
	unsigned here = GUEST_PAGE_SIZE - offset;

	window_reach(w, GUEST_PAGE_SIZE);
	memcpy(bytes, w->bytes + offset, here);
	code_mark(w->code, (uint64_t)(next_host - vp->ram) >> GUEST_PAGE_SHIFT, 0);
	memcpy(bytes + here, next_host, INSTRUCTION_MAX - here);
	decode_next(vp, run, bytes, INSTRUCTION_MAX, offset);
	decode_end(&run->ops[1], offset + run->ops[0].length);
}

/* Room for a block: in its old place when it is decoded again and fits. One that reaches into a second page never takes
 * the place of one that does not: links may lead there. */
static struct block *block_place(struct soft_vp *vp, struct block *old, uint64_t key, const struct decoded_run *run,
    bool crosses)
{
	struct block_cache *c = vp->blocks;
	size_t size = align_up_u64(sizeof(struct block) + (run->count + 1) * sizeof(struct op) +
	    run->side_count * sizeof(struct op_side) + (crosses ? sizeof(struct block_second) : run->bytes), BLOCK_UNIT);
	struct block *b;

	if (old && old->capacity * BLOCK_UNIT >= size && old->crosses == crosses)
		return old;
	if (c->hot + c->cold + size > c->size) {
		make_room(vp);
		old = hash_find(c, key);
	}
	/* Links and jumps may still lead to the old one; its generation stays stale. */
	if (old)
		old->key = ~0ull;
	c->cold += size;
	b = (struct block *)(void *)(c->arena + c->size - c->cold);
	b->key = key;
	b->capacity = (uint16_t)(size / BLOCK_UNIT);
	b->next = *bucket(c, key);
	*bucket(c, key) = b;
	return b;
}

static void block_join_sides(struct block *b)
{
	unsigned side = 0;

	for (unsigned i = 0; i < b->count; i++)
		if (b->ops[i].flags & OP_SIDE)
			b->ops[i].side = &block_sides(b)[side++];
}

/* Ops, and what they refer to. */
static void block_fill(struct block *b, const struct decoded_run *run)
{
	b->count = (uint8_t)run->count;
	b->sides = (uint8_t)run->side_count;
	b->link[TAKEN] = b->link[BEHIND] = NULL;
	memcpy(b->ops, run->ops, (run->count + 1) * sizeof(run->ops[0]));
	memcpy(block_sides(b), run->sides, run->side_count * sizeof(run->sides[0]));
	block_join_sides(b);
}

struct block *block_heat(struct soft_vp *vp, struct block *b)
{
	/* Of what has moved: no generation is both. */
	static const _Atomic uint32_t never = 0;
	struct block_cache *c = vp->blocks;
	struct block **at = bucket(c, b->key), *to;
	size_t size = b->capacity * (size_t)BLOCK_UNIT;

	if (is_hot(c, b))
		return b;
	while (*at && *at != b)
		at = &(*at)->next;
	to = *at ? block_cache_reserve(vp, size) : NULL;
	if (!to)
		return NULL;
	block_cache_keep(vp, size);
	memcpy(to, b, size);
	block_join_sides(to);
	*at = to;
	/* What leads to the old one finds it stale, and then the new one. */
	b->key = ~0ull;
	b->generation = &never;
	b->seen = 1;
	vp->block = to;
	return to;
}

static const _Atomic uint32_t *generation_of(const struct soft_vp *vp, const uint8_t *host)
{
	return &vp->soft->code.generations[(uint64_t)(host - vp->ram) >> GUEST_PAGE_SHIFT];
}

/* NULL: look again where the code is. */
static struct block *block_decode(struct soft_vp *vp, struct block *old, uint64_t key, uint8_t *host, uint64_t linear)
{
	struct decoded_run run;
	struct window w;
	unsigned offset = linear & (GUEST_PAGE_SIZE - 1);
	uint8_t *page_host = host - offset, *next_host = NULL;
	uint32_t seen = code_generation(&vp->soft->code, ram_page(vp->soft, page_host)), seen2 = 0;
	struct block *b;

	if (code_open(vp, (uint64_t)(page_host - vp->ram) >> GUEST_PAGE_SHIFT))
		return NULL;
	window_open(&w, vp, page_host, offset);
	run.count = run.side_count = run.bytes = 0;
	decode_run(vp, &w, offset, &run);
	if (!run.count) {
		next_host = translate(vp, NULL, fetch_next_page(vp, linear), vp->tlb_kind, ACCESS_FETCH).host;
		if (!next_host)
			raise_error(vp, NULL, "instruction fetch from memory-mapped I/O at linear 0x%llx",
			    (unsigned long long)fetch_next_page(vp, linear));
		seen2 = code_generation(&vp->soft->code, ram_page(vp->soft, next_host));
		if (code_open(vp, (uint64_t)(next_host - vp->ram) >> GUEST_PAGE_SHIFT))
			return NULL;
		decode_crossing(vp, &w, offset, next_host, &run);
	} else if (vp->translator) {
		run.bytes = run.ops[run.count].offset - offset;
	}
	b = block_place(vp, old, key, &run, next_host);
	b->form = key & 3;
	b->generation = generation_of(vp, page_host);
	b->seen = seen;
	b->host_page = page_host;
	b->crosses = next_host;
	block_fill(b, &run);
	if (next_host)
		*block_second(b) = (struct block_second){generation_of(vp, next_host), next_host, seen2};
	else
		memcpy(block_bytes(b), w.bytes + offset, run.bytes);
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
	const struct block_second *second;

	if (atomic_load_explicit(b->generation, memory_order_relaxed) != b->seen)
		return false;
	if (likely(!b->crosses))
		return true;
	second = block_second(b);
	return translate(vp, NULL, fetch_next_page(vp, linear), vp->tlb_kind, ACCESS_FETCH).host == second->host_page &&
	    atomic_load(second->generation) == second->seen;
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
	if (!b->crosses)
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
		make_room(vp);
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
	if (!b || b->crosses || !block_ready(vp, b))
		return NULL;
	jump_note(vp, linear, b);
	return b;
}

const struct op *branch_find(struct soft_vp *vp, int slot, uint64_t rip)
{
	uint64_t linear = code_linear(vp, rip);
	const struct tlb_entry *e = tlb_entry(vp, linear);
	uint8_t *page_host = (uint8_t *)(uintptr_t)((linear & PAGE_MASK) + e->addend);
	struct block *from = vp->block, *b = slot >= 0 && code_is_flat(vp) ? from->link[slot] : NULL;

	vp->rip = rip;
	if (unlikely(e->exec != ((linear & PAGE_MASK) | vp->asid)))
		return NULL;
	if (!b || unlikely(b->host_page != page_host || !block_ready(vp, b))) {
		b = target_find(vp, linear, page_host);
		if (!b)
			return NULL;
		if (slot >= 0 && link_holds(vp, page_host, rip))
			from->link[slot] = b;
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
	b->host_page = NULL;
	if (decode_op(vp, vp->mode, bytes, size, offset, &b->ops[0], &vp->blocks->single_side) == DECODE_TRUNCATED) {
		memcpy(bytes + size, fetch_host(vp, fetch_next_page(vp, linear)), INSTRUCTION_MAX - size);
		decode_op(vp, vp->mode, bytes, INSTRUCTION_MAX, offset, &b->ops[0], &vp->blocks->single_side);
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
