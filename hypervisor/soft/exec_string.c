// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_string.c - MOVS STOS LODS SCAS CMPS, alone and repeated.
 *
 * A repeated one works through runs: elements that lie in one page of RAM on every side, in one go by
 * host address. Where there is no such run (page crossing, MMIO, wrapping addresses, odd segments) a
 * run is one element. RCX, RSI and RDI are brought up to date after each run, so a fault finds them as
 * the manual says, and the instruction can be left for an interrupt and taken up again.
 *
 * Of the op: size is that of an element, src2 the segment of the source, imm the mask of the
 * address size.
 */
#include "hypervisor/soft/exec.h"

/* --- registers and addresses -------------------------------------------------------------------- */

static inline uint64_t string_register(const struct soft_vp *vp, const struct op *op, unsigned gpr)
{
	return vp->gpr[gpr] & op->imm;
}

static inline void string_register_set(struct soft_vp *vp, const struct op *op, unsigned gpr, uint64_t v)
{
	if (op->imm == 0xffff)
		reg16_set(vp, gpr * 8, (uint16_t)v);
	else
		vp->gpr[gpr] = v & op->imm;
}

static inline bool backwards(const struct soft_vp *vp)
{
	return vp->flags_system & FLAG_DF;
}

/* Move an index register over `n` elements. */
static inline void advance(struct soft_vp *vp, const struct op *op, unsigned gpr, uint64_t n)
{
	uint64_t by = n * op->size;

	string_register_set(vp, op, gpr, vp->gpr[gpr] + (backwards(vp) ? -by : by));
}

static inline uint64_t source_linear(struct soft_vp *vp, const struct op *op)
{
	return segment_linear(vp, op, op->src2, string_register(vp, op, GPR_RSI), op->size, false);
}

static inline uint64_t destination_linear(struct soft_vp *vp, const struct op *op, bool write)
{
	return segment_linear(vp, op, SEG_ES, string_register(vp, op, GPR_RDI), op->size, write);
}

static inline uint64_t element_load(struct soft_vp *vp, const struct op *op, uint64_t linear)
{
	switch (op->size) {
	case 1:
		return load8(vp, op, linear);
	case 2:
		return load16(vp, op, linear);
	case 4:
		return load32(vp, op, linear);
	default:
		return load64(vp, op, linear);
	}
}

static inline void element_store(struct soft_vp *vp, const struct op *op, uint64_t linear, uint64_t v)
{
	switch (op->size) {
	case 1:
		store8(vp, op, linear, (uint8_t)v);
		break;
	case 2:
		store16(vp, op, linear, (uint16_t)v);
		break;
	case 4:
		store32(vp, op, linear, (uint32_t)v);
		break;
	default:
		store64(vp, op, linear, v);
		break;
	}
}

static inline uint64_t element_at(const uint8_t *host, unsigned size)
{
	switch (size) {
	case 1:
		return *(const ram8 *)host;
	case 2:
		return *(const ram16 *)host;
	case 4:
		return *(const ram32 *)host;
	default:
		return *(const ram64 *)host;
	}
}

/* --- runs --------------------------------------------------------------------------------------- */

/* How many of `count` elements, the first at `offset` in `seg` and at `linear`, the register can step over
 * without leaving page, segment or address size. At least 1: the first has been checked. */
static uint64_t run_length(const struct soft_vp *vp, const struct op *op, unsigned seg, uint64_t offset,
    uint64_t linear, uint64_t count)
{
	const struct segment *s = &vp->seg[seg];
	uint64_t last = op->imm, room;

	if (backwards(vp)) {
		room = linear & (GUEST_PAGE_SIZE - 1);
		room = (room < offset ? room : offset) / op->size + 1;
		if (vp->mode != MODE_64 && (s->attributes & 0xc) == 0x4)
			room = 1; /* expand-down: the limit lies below */
	} else {
		if (vp->mode != MODE_64) {
			if ((s->attributes & 0xc) == 0x4)
				return 1;
			last = last < s->limit ? last : s->limit;
		}
		room = (GUEST_PAGE_SIZE - 1) - (linear & (GUEST_PAGE_SIZE - 1));
		if (last - offset < room)
			room = last - offset;
		room = (room + 1) / op->size;
	}
	if (room > count)
		room = count;
	return room ? room : 1;
}

/* The first element of a run lies in one page? Then so do the others. */
static inline bool in_page(const struct op *op, uint64_t linear)
{
	return (linear & (GUEST_PAGE_SIZE - 1)) + op->size <= GUEST_PAGE_SIZE;
}

/* The host address for reading, NULL without a TLB entry. */
static inline const uint8_t *read_host(const struct soft_vp *vp, const struct op *op, uint64_t linear)
{
	const struct tlb_entry *e = tlb_entry(vp, linear);

	return tlb_reads(vp, e, linear, op->size) ? (const uint8_t *)(uintptr_t)(linear + e->addend) : NULL;
}

/* Without an entry for writing each access is looked at by itself (breakpoints). */
static inline bool run_writes(const struct soft_vp *vp, const struct op *op, uint64_t linear)
{
	return likely(tlb_entry(vp, linear)->write == ((linear & PAGE_MASK) | vp->asid));
}

/* What a run of `n` elements changed on the host, for store_done(). */
static void run_written(struct soft_vp *vp, const struct op *op, const uint8_t *host, uint64_t n)
{
	unsigned size = (unsigned)n * op->size;

	store_done(vp, op, backwards(vp) ? host + op->size - size : host, size);
}

/* The host's own string instruction copies in the same order, overlapping or not. */
static void copy_run(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		break;
	}
}

static void fill_run(uint8_t *to, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(v) : "memory");
		break;
	}
}

/* One element at a time, downwards. */
static void element_put(uint8_t *host, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		*(ram8 *)host = (uint8_t)v;
		break;
	case 2:
		*(ram16 *)host = (uint16_t)v;
		break;
	case 4:
		*(ram32 *)host = (uint32_t)v;
		break;
	default:
		*(ram64 *)host = v;
		break;
	}
}

/* --- one run of each instruction ---------------------------------------------------------------- */

/* Each does up to `count` elements and moves the index registers; returns how many, at least 1. */
typedef uint64_t (*run_fn)(struct soft_vp *vp, const struct op *op, uint64_t count);

static uint64_t movs_run(struct soft_vp *vp, const struct op *op, uint64_t count)
{
	uint64_t from = source_linear(vp, op), to = destination_linear(vp, op, true), n, v = 0;
	const uint8_t *source = read_host(vp, op, from);
	uint8_t *target = NULL;

	if (!source) {
		v = element_load(vp, op, from);
		source = read_host(vp, op, from);
	}
	n = run_length(vp, op, op->src2, string_register(vp, op, GPR_RSI), from, count);
	n = run_length(vp, op, SEG_ES, string_register(vp, op, GPR_RDI), to, n);
	if (source && in_page(op, to))
		target = rmw_pointer(vp, op, to, op->size);
	if (!target || !run_writes(vp, op, to)) {
		n = 1;
		element_store(vp, op, to, source ? element_at(source, op->size) : v);
	} else if (!backwards(vp)) {
		copy_run(target, source, n, op->size);
		run_written(vp, op, target, n);
	} else {
		for (uint64_t i = 0; i < n; i++)
			element_put(target - i * op->size, op->size,
			    element_at(source - i * op->size, op->size));
		run_written(vp, op, target, n);
	}
	advance(vp, op, GPR_RSI, n);
	advance(vp, op, GPR_RDI, n);
	return n;
}

static uint64_t stos_run(struct soft_vp *vp, const struct op *op, uint64_t count)
{
	uint64_t to = destination_linear(vp, op, true), v = vp->gpr[GPR_RAX], n;
	uint8_t *target = in_page(op, to) ? rmw_pointer(vp, op, to, op->size) : NULL;

	n = run_length(vp, op, SEG_ES, string_register(vp, op, GPR_RDI), to, count);
	if (!target || !run_writes(vp, op, to)) {
		n = 1;
		element_store(vp, op, to, v);
	} else if (!backwards(vp)) {
		fill_run(target, v, n, op->size);
		run_written(vp, op, target, n);
	} else {
		for (uint64_t i = 0; i < n; i++)
			element_put(target - i * op->size, op->size, v);
		run_written(vp, op, target, n);
	}
	advance(vp, op, GPR_RDI, n);
	return n;
}

static void accumulator_set(struct soft_vp *vp, const struct op *op, uint64_t v)
{
	if (op->size == 8)
		vp->gpr[GPR_RAX] = v;
	else if (op->size == 4)
		reg32_set(vp, GPR_RAX * 8, (uint32_t)v);
	else if (op->size == 2)
		reg16_set(vp, GPR_RAX * 8, (uint16_t)v);
	else
		reg8_set(vp, GPR_RAX * 8, (uint8_t)v);
}

static uint64_t lods_run(struct soft_vp *vp, const struct op *op, uint64_t count)
{
	(void)count;
	accumulator_set(vp, op, element_load(vp, op, source_linear(vp, op)));
	advance(vp, op, GPR_RSI, 1);
	return 1;
}

static uint16_t compare(unsigned size, uint64_t a, uint64_t b)
{
	switch (size) {
	case 1:
		return cmp8((uint8_t)a, (uint8_t)b);
	case 2:
		return cmp16((uint16_t)a, (uint16_t)b);
	case 4:
		return cmp32((uint32_t)a, (uint32_t)b);
	default:
		return cmp64(a, b);
	}
}

/* Whether REPE or REPNE goes on after a comparison with this result. */
static inline bool goes_on(const struct op *op, bool equal)
{
	return equal == !(op->flags & OP_REPNE);
}

/* RAX cut to the size of an element. */
static inline uint64_t accumulator(const struct soft_vp *vp, const struct op *op)
{
	return op->size == 8 ? vp->gpr[GPR_RAX] : vp->gpr[GPR_RAX] & ((1ull << 8 * op->size) - 1);
}

static uint64_t scas_run(struct soft_vp *vp, const struct op *op, uint64_t count)
{
	uint64_t at = destination_linear(vp, op, false), a = accumulator(vp, op), n, done = 1;
	int64_t step = backwards(vp) ? -(int64_t)op->size : (int64_t)op->size;
	uint64_t v = element_load(vp, op, at);
	const uint8_t *host = read_host(vp, op, at);

	if (host) {
		n = run_length(vp, op, SEG_ES, string_register(vp, op, GPR_RDI), at, count);
		while (done < n && goes_on(op, v == a)) {
			host += step;
			v = element_at(host, op->size);
			done++;
		}
	}
	vp->arith = compare(op->size, a, v);
	advance(vp, op, GPR_RDI, done);
	return done;
}

static uint64_t cmps_run(struct soft_vp *vp, const struct op *op, uint64_t count)
{
	uint64_t first = source_linear(vp, op), second = destination_linear(vp, op, false), n, done = 1;
	int64_t step = backwards(vp) ? -(int64_t)op->size : (int64_t)op->size;
	/* In the order of the processor, as faults show it. */
	uint64_t b = element_load(vp, op, second), a = element_load(vp, op, first);
	const uint8_t *host_a = read_host(vp, op, first), *host_b = read_host(vp, op, second);

	if (host_a && host_b) {
		n = run_length(vp, op, op->src2, string_register(vp, op, GPR_RSI), first, count);
		n = run_length(vp, op, SEG_ES, string_register(vp, op, GPR_RDI), second, n);
		while (done < n && goes_on(op, a == b)) {
			a = element_at(host_a += step, op->size);
			b = element_at(host_b += step, op->size);
			done++;
		}
	}
	vp->arith = compare(op->size, a, b);
	advance(vp, op, GPR_RSI, done);
	advance(vp, op, GPR_RDI, done);
	return done;
}

/* --- repetition --------------------------------------------------------------------------------- */

/* Out of the instruction before it is done, to come back to it. With TF a trap follows each element. Code that has changed
 * is nothing to a comparison, whose flags a fault would find otherwise when it is taken up again. */
static inline bool must_leave(const struct soft_vp *vp, bool compares)
{
	uint32_t attention = atomic_load_explicit(&vp->attention, memory_order_relaxed);

	return attention & ~(compares ? ATTENTION_CODE : 0) || vp->flags_system & FLAG_TF;
}

/* With 32-bit addresses MOVS and STOS cut all their registers, and the others RCX, before the first
 * element and even when there is none. */
static inline void cut_registers(struct soft_vp *vp, const struct op *op, run_fn run)
{
	if (likely(op->imm != 0xffffffff))
		return;
	vp->gpr[GPR_RCX] &= 0xffffffff;
	if (run == movs_run)
		vp->gpr[GPR_RSI] &= 0xffffffff;
	if (run == movs_run || run == stos_run)
		vp->gpr[GPR_RDI] &= 0xffffffff;
}

static inline const struct op *repeat(struct soft_vp *vp, const struct op *op, run_fn run, bool compares)
{
	uint64_t count = string_register(vp, op, GPR_RCX);
	uint16_t before = vp->arith, after = before;

	cut_registers(vp, op, run);
	while (count) {
		uint64_t n;

		/* A fault finds the flags as they were before the instruction (SDM volume 2, REP). */
		if (compares)
			vp->arith = before;
		n = run(vp, op, vp->flags_system & FLAG_TF ? 1 : count);
		after = vp->arith;
		count -= n;
		string_register_set(vp, op, GPR_RCX, count);
		if (compares && !goes_on(op, after & ARITH_ZF))
			break;
		if (count && unlikely(must_leave(vp, compares))) {
			vp->rip = op_rip(vp, op);
			return NULL;
		}
	}
	return dispatch(vp, op + 1);
}

#define DEFINE_STRING(name, compares)                                                           \
	static const struct op *name(struct soft_vp *vp, const struct op *op)                   \
	{                                                                                       \
		name##_run(vp, op, 1);                                                          \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *name##_repeated(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		return repeat(vp, op, name##_run, compares);                                    \
	}

DEFINE_STRING(movs, false)
DEFINE_STRING(stos, false)
DEFINE_STRING(lods, false)
DEFINE_STRING(scas, true)
DEFINE_STRING(cmps, true)

/* --- selection ---------------------------------------------------------------------------------- */

static bool select_string(struct decoding *d, struct op *op, unsigned size, op_fn once, op_fn repeated)
{
	/* MOVSD and CMPSD are names of vector instructions too. */
	if (d->insn->meta.category != ZYDIS_CATEGORY_STRINGOP)
		return false;
	op->size = (uint8_t)size;
	/* MOVS names its destination first. */
	op->src2 = memory_segment(d, once == movs);
	op->seg = SEG_ES; /* not the stack, when it faults */
	op->imm = address_mask(d);
	op->fn = op->flags & (OP_REP | OP_REPNE) ? repeated : once;
	return true;
}

#define SELECT_STRING(NAME, name)                                       \
	case ZYDIS_MNEMONIC_##NAME##B:                                  \
		return select_string(d, op, 1, name, name##_repeated);  \
	case ZYDIS_MNEMONIC_##NAME##W:                                  \
		return select_string(d, op, 2, name, name##_repeated);  \
	case ZYDIS_MNEMONIC_##NAME##D:                                  \
		return select_string(d, op, 4, name, name##_repeated);  \
	case ZYDIS_MNEMONIC_##NAME##Q:                                  \
		return select_string(d, op, 8, name, name##_repeated);

bool string_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
		SELECT_STRING(MOVS, movs)
		SELECT_STRING(STOS, stos)
		SELECT_STRING(LODS, lods)
		SELECT_STRING(SCAS, scas)
		SELECT_STRING(CMPS, cmps)
	default:
		return false;
	}
}
