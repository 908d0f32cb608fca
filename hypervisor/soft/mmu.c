// SPDX-License-Identifier: GPL-2.0-or-later
/* mmu.c - the accesses that the inline ones leave: TLB misses, page crossings, MMIO, checked ones. */
#include "hypervisor/soft/mmu.h"

#include <string.h>

#include "hypervisor/soft/block.h"

static unsigned page_rest(uint64_t linear)
{
	return GUEST_PAGE_SIZE - (linear & (GUEST_PAGE_SIZE - 1));
}

/* --- what each access of an instruction is checked for when the TLB is TLB_CHECKED ------------------ */

static bool breakpoint_hit(uint64_t address, unsigned kind, uint64_t linear, unsigned size, bool write, unsigned length)
{
	return (write ? kind & 1 : kind == 3) && address < linear + size && linear < address + length;
}

static void watch(struct soft_vp *vp, uint64_t linear, unsigned size, bool write)
{
	static const uint8_t lengths[] = {1, 2, 8, 4};

	for (unsigned i = 0; i < 4; i++) {
		unsigned kind = vp->dr[7] >> (16 + 4 * i) & 3;
		unsigned length = lengths[vp->dr[7] >> (18 + 4 * i) & 3];

		if (vp->dr[7] >> (2 * i) & 3 && kind != 0 && kind != 2 &&
		    breakpoint_hit(vp->dr[i] & ~(uint64_t)(length - 1), kind, linear, size, write, length))
			vp->breakpoints |= 1u << i;
	}
}

static void check_access(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, bool write)
{
	if (likely(vp->tlb != vp->tlbs[TLB_CHECKED]))
		return;
	if (vp->cpl == 3 && vp->flags_system & FLAG_AC && vp->cr0 & CR0_AM && size <= 8 && linear & (size - 1))
		raise_fault_code(vp, op, VECTOR_AC, 0);
	if (vp->dr[7] & 0xff)
		watch(vp, linear, size, write);
}

/* --- plain copies within one page ------------------------------------------------------------------- */

static uint64_t host_load(const uint8_t *host, unsigned size)
{
	uint64_t v = 0;

	switch (size) {
	case 1:
		return *(const volatile uint8_t *)host;
	case 2:
		return *(const ram16 *)host;
	case 4:
		return *(const ram32 *)host;
	case 8:
		return *(const ram64 *)host;
	default:
		memcpy(&v, host, size);
		return v;
	}
}

static void host_store(uint8_t *host, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)host = (uint8_t)value;
		break;
	case 2:
		*(ram16 *)host = (uint16_t)value;
		break;
	case 4:
		*(ram32 *)host = (uint32_t)value;
		break;
	case 8:
		*(ram64 *)host = value;
		break;
	default:
		memcpy(host, &value, size);
		break;
	}
}

/* Devices see 1, 2, 4 or 8 bytes. */
static uint64_t place_load(struct soft_vp *vp, struct place place, unsigned size)
{
	const struct soft_host *host = vp->soft->host;
	uint64_t value = 0;

	if (place.host)
		return host_load(place.host, size);
	if (!(size & (size - 1)))
		return host->mmio_read(vp->soft->context, vp->index, place.gpa, size);
	for (unsigned i = 0; i < size; i++)
		value |= (host->mmio_read(vp->soft->context, vp->index, place.gpa + i, 1) & 0xff) << (8 * i);
	return value;
}

static void place_store(struct soft_vp *vp, const struct op *op, struct place place, unsigned size, uint64_t value)
{
	const struct soft_host *host = vp->soft->host;

	if (place.host) {
		host_store(place.host, size, value);
		store_done(vp, op, place.host, size);
		return;
	}
	if (!(size & (size - 1))) {
		host->mmio_write(vp->soft->context, vp->index, place.gpa, size, value);
		return;
	}
	for (unsigned i = 0; i < size; i++)
		host->mmio_write(vp->soft->context, vp->index, place.gpa + i, 1, value >> (8 * i) & 0xff);
}

/* The bits that linear addresses of the running code have, and those of the processor's own accesses, which compatibility
 * mode does not make narrow. They wrap there. */
static uint64_t code_bits(const struct soft_vp *vp)
{
	return vp->mode == MODE_64 ? ~0ull : 0xffffffffu;
}

static uint64_t system_bits(const struct soft_vp *vp)
{
	return vp_long(vp) ? ~0ull : 0xffffffffu;
}

/* An operand that ends where addresses are not canonical faults for that, whatever its first page is. */
static void check_end(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size)
{
	uint64_t end = linear + size - 1;

	if (unlikely(vp_long(vp) && !is_canonical(end) && is_canonical(linear)))
		translate(vp, op, end, kind, ACCESS_READ);
}

static uint64_t load_within(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size,
    uint64_t bits)
{
	unsigned rest = page_rest(linear);
	struct place first, second;

	check_end(vp, op, kind, linear, size);
	first = translate(vp, op, linear, kind, ACCESS_READ);
	if (likely(size <= rest))
		return place_load(vp, first, size);
	second = translate(vp, op, (linear + rest) & bits, kind, ACCESS_READ);
	return place_load(vp, first, rest) | place_load(vp, second, size - rest) << (8 * rest);
}

static void store_within(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size,
    uint64_t value, uint64_t bits)
{
	unsigned rest = page_rest(linear);
	struct place first, second;

	check_end(vp, op, kind, linear, size);
	first = translate(vp, op, linear, kind, ACCESS_WRITE);
	if (likely(size <= rest)) {
		place_store(vp, op, first, size, value);
		return;
	}
	second = translate(vp, op, (linear + rest) & bits, kind, ACCESS_WRITE);
	place_store(vp, op, first, rest, value);
	place_store(vp, op, second, size - rest, value >> (8 * rest));
}

static void probe_within(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size,
    uint64_t bits)
{
	check_end(vp, op, kind, linear, size);
	translate(vp, op, linear, kind, ACCESS_WRITE);
	if (size > page_rest(linear))
		translate(vp, op, (linear + page_rest(linear)) & bits, kind, ACCESS_WRITE);
}

uint64_t load_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size)
{
	return load_within(vp, op, kind, linear, size, system_bits(vp));
}

void store_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size, uint64_t value)
{
	store_within(vp, op, kind, linear, size, value, system_bits(vp));
}

void probe_write_as(struct soft_vp *vp, const struct op *op, unsigned kind, uint64_t linear, unsigned size)
{
	probe_within(vp, op, kind, linear, size, system_bits(vp));
}

/* --- access.h ---------------------------------------------------------------------------------------- */

uint64_t load_slow(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	uint64_t bits = code_bits(vp);

	linear &= bits;
	check_access(vp, op, linear, size, false);
	return load_within(vp, op, vp->tlb_kind, linear, size, bits);
}

void store_slow(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, uint64_t value)
{
	uint64_t bits = code_bits(vp);

	linear &= bits;
	check_access(vp, op, linear, size, true);
	store_within(vp, op, vp->tlb_kind, linear, size, value, bits);
}

uint64_t load_system(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	return load_as(vp, op, TLB_SUPERVISOR, linear, size);
}

void store_system(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, uint64_t value)
{
	store_as(vp, op, TLB_SUPERVISOR, linear, size, value);
}

void load_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, void *buffer, unsigned size)
{
	uint64_t bits = code_bits(vp);
	uint8_t *to = buffer;

	linear &= bits;
	check_access(vp, op, linear, size, false);
	if (size)
		check_end(vp, op, vp->tlb_kind, linear, size);
	while (size) {
		unsigned part = size < page_rest(linear) ? size : page_rest(linear);
		struct place place = translate(vp, op, linear, vp->tlb_kind, ACCESS_READ);

		if (likely(place.host)) {
			memcpy(to, place.host, part);
		} else {
			for (unsigned i = 0; i < part;) {
				unsigned unit = part - i >= 8 ? 8 : part - i >= 4 ? 4 : 1;
				uint64_t v;

				v = place_load(vp, (struct place){NULL, place.gpa + i}, unit);
				memcpy(to + i, &v, unit);
				i += unit;
			}
		}
		to += part;
		size -= part;
		linear = (linear + part) & bits;
	}
}

void store_bytes(struct soft_vp *vp, const struct op *op, uint64_t linear, const void *buffer, unsigned size)
{
	uint64_t bits = code_bits(vp);
	const uint8_t *from = buffer;

	if (!size)
		return;
	linear &= bits;
	probe_write(vp, op, linear, size);
	while (size) {
		unsigned part = size < page_rest(linear) ? size : page_rest(linear);
		struct place place = translate(vp, op, linear, vp->tlb_kind, ACCESS_WRITE);

		if (likely(place.host)) {
			memcpy(place.host, from, part);
			store_done(vp, op, place.host, part);
		} else {
			for (unsigned i = 0; i < part;) {
				unsigned unit = part - i >= 8 ? 8 : part - i >= 4 ? 4 : 1;
				uint64_t v = 0;

				memcpy(&v, from + i, unit);
				place_store(vp, op, (struct place){NULL, place.gpa + i}, unit, v);
				i += unit;
			}
		}
		from += part;
		size -= part;
		linear = (linear + part) & bits;
	}
}

void probe_write(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	uint64_t bits = code_bits(vp);

	linear &= bits;
	check_access(vp, op, linear, size, true);
	probe_within(vp, op, vp->tlb_kind, linear, size, bits);
}

/* How many of `size` bytes from byte `n` of the operand on lie before its address wraps. */
static unsigned part_length(const struct soft_vp *vp, const struct op *op, unsigned n, unsigned size)
{
	uint64_t left;

	if (likely(!(op->flags & (OP_ADDRESS_32 | OP_ADDRESS_16))))
		return size;
	left = (op->flags & OP_ADDRESS_32 ? 0xffffffffu : 0xffffu) - ea_offset_at(vp, op, n);
	return left < size - 1 ? (unsigned)left + 1 : size;
}

void load_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned n, void *buffer, unsigned size)
{
	uint8_t *to = buffer;

	for (unsigned part; size; n += part, to += part, size -= part) {
		part = part_length(vp, op, n, size);
		load_bytes(vp, op, ea_part(vp, op, linear, n), to, part);
	}
}

void store_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned n, const void *buffer, unsigned size)
{
	const uint8_t *from = buffer;

	for (unsigned part; size; n += part, from += part, size -= part) {
		part = part_length(vp, op, n, size);
		store_bytes(vp, op, ea_part(vp, op, linear, n), from, part);
	}
}

void probe_parts(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	unsigned part = part_length(vp, op, 0, size);

	probe_write(vp, op, linear, part);
	if (part < size)
		probe_write(vp, op, ea_part(vp, op, linear, part), size - part);
}

void *rmw_pointer(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	uint64_t bits = code_bits(vp);

	linear &= bits;
	check_access(vp, op, linear, size, true);
	if (size > page_rest(linear)) {
		probe_within(vp, op, vp->tlb_kind, linear, size, bits);
		return NULL;
	}
	return translate(vp, op, linear, vp->tlb_kind, ACCESS_WRITE).host;
}

void rmw_slow_lock(struct soft_vp *vp)
{
	pthread_mutex_lock(&vp->soft->rmw_lock);
	vp->holds_rmw_lock = true;
}

void rmw_slow_unlock(struct soft_vp *vp)
{
	vp->holds_rmw_lock = false;
	pthread_mutex_unlock(&vp->soft->rmw_lock);
}

/* The block that runs keeps its memory, so its other ops can be turned into ways out of it. */
static const struct op *op_fetch_again(struct soft_vp *vp, const struct op *op)
{
	vp->rip = op_rip(vp, op);
	return NULL;
}

void code_written(struct soft_vp *vp, const struct op *op, const void *host, unsigned size)
{
	uint64_t offset = (uint64_t)((const uint8_t *)host - vp->ram);
	uint64_t page = offset >> GUEST_PAGE_SHIFT;
	struct block *b = vp->block;
	const uint8_t *page_host = vp->ram + (page << GUEST_PAGE_SHIFT);

	if (!code_check(&vp->soft->code, page, offset & (GUEST_PAGE_SIZE - 1), size))
		return;
	if (op && vp->run_begin && op >= vp->run_begin && op < vp->run_end && b && b->host_page == page_host)
		for (struct op *o = vp->run_begin + (op - vp->run_begin) + 1; o < vp->run_end; o++)
			o->fn = op_fetch_again;
	if (!op || !b || op < b->ops || op > b->ops + b->count ||
	    (b->host_page != page_host && !(b->crosses && block_second(b)->host_page == page_host)))
		return;
	for (struct op *o = &b->ops[op - b->ops + 1]; o <= &b->ops[b->count]; o++)
		o->fn = op_fetch_again;
}

/* --- segments of legacy modes ------------------------------------------------------------------------- */

static bool limit_ok(const struct soft_vp *vp, const struct segment *s, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	/* Expand-down: the offsets above the limit. */
	if (s->attributes & SEGMENT_S && (s->attributes & 0xc) == 0x4)
		return offset > s->limit && last <= (s->attributes & SEGMENT_D ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

static void segment_check(struct soft_vp *vp, const struct op *op, unsigned seg, uint64_t offset, unsigned size,
    bool write)
{
	const struct segment *s = &vp->seg[seg];

	if (vp->cr0 & CR0_PE) {
		if (!(s->attributes & SEGMENT_P))
			raise_segment_fault(vp, op, seg);
		if (write ? s->attributes & 8 || !(s->attributes & 2) : (s->attributes & 0xa) == 8)
			raise_segment_fault(vp, op, seg);
	}
	if (!limit_ok(vp, s, offset, size))
		raise_segment_fault(vp, op, seg);
}

uint64_t segment_linear(struct soft_vp *vp, const struct op *op, unsigned seg, uint64_t offset, unsigned size,
    bool write)
{
	if (vp->mode == MODE_64)
		return vp->seg_base[seg] + offset;
	if (unlikely(!((write ? vp->flat_write : vp->flat_read) >> seg & 1)))
		segment_check(vp, op, seg, offset, size, write);
	return (uint32_t)(vp->seg_base[seg] + offset);
}

uint64_t ea_checked(struct soft_vp *vp, const struct op *op, unsigned size, bool write)
{
	return segment_linear(vp, op, op->seg, ea_offset(vp, op), size, write);
}
