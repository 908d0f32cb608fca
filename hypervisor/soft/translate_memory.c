// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_memory.c - memory operands in translated code: the look into the TLB, as access.h makes it.
 *
 * What misses, crosses a page, is not aligned or may be code goes to the cold way: the interpreter's handler.
 */
#include "hypervisor/soft/translate_private.h"

#define PLAIN(code) (struct host_opcode){.opcode = (code), .wide = true}

/* One with base 0 that needs no check. CS may not be written, and perhaps not read. */
bool segment_is_flat(const struct translation *t, unsigned seg)
{
	return seg == SEG_NONE || (t->narrow && (seg == SEG_ES || seg == SEG_SS || seg == SEG_DS));
}

/* 32-bit code has addresses of 32 bits anyway. */
bool address_serves(const struct translation *t, const struct op *op)
{
	return t->narrow ? !(op->flags & OP_ADDRESS_16) && op->seg != SEG_CS : !(op->flags & OP_EA_CHECKED);
}

/* Base and index are in host registers: what an address can be made of in one go. */
bool address_is_plain(const struct translation *t, const struct op *op)
{
	bool base = op->base == GPR_ZERO * 8 || home(op->base / 8) != NO_REGISTER;
	bool index = op->index == GPR_ZERO * 8 || home(op->index / 8) != NO_REGISTER;

	return base && index && segment_is_flat(t, op->seg) &&
	    (t->narrow || (op->disp >= INT32_MIN / 2 && op->disp <= INT32_MAX / 2));
}

static unsigned host_part(uint8_t offset)
{
	return offset == GPR_ZERO * 8 ? NO_REGISTER : home(offset / 8);
}

struct host_memory address_memory(const struct op *op, int32_t more)
{
	return (struct host_memory){.base = (uint8_t)host_part(op->base), .index = (uint8_t)host_part(op->index),
	    .scale = op->scale, .disp = (int32_t)((uint32_t)op->disp + (uint32_t)more)};
}

/* All registers of 32-bit code are in host registers. Upper halves do not count: the sum is cut. */
static void emit_narrow_address(struct translation *t, unsigned to, const struct op *op, int32_t more)
{
	unsigned other = to == SCRATCH1 ? SCRATCH2 : SCRATCH1;

	emit_word_lea(t, to, address_memory(op, more));
	if (segment_is_flat(t, op->seg))
		return;
	emit_load(&t->e, other, VP_OFFSET(seg_base) + op->seg * sizeof(uint64_t));
	emit_word_lea(t, to, (struct host_memory){.base = (uint8_t)to, .index = (uint8_t)other});
}

/* Changes no flag. An address that is not plain takes both scratch registers. */
void emit_address(struct translation *t, unsigned to, const struct op *op, int32_t more)
{
	struct emitter *e = &t->e;
	unsigned other = to == SCRATCH1 ? SCRATCH2 : SCRATCH1;
	struct host_memory m = {.base = (uint8_t)host_part(op->base), .index = (uint8_t)host_part(op->index),
	    .scale = op->scale};

	if (t->narrow) {
		emit_narrow_address(t, to, op, more);
		return;
	}
	if (address_is_plain(t, op)) {
		emit_lea(e, to, address_memory(op, more));
		return;
	}
	if (m.base == NO_REGISTER && op->base != GPR_ZERO * 8) {
		emit_load(e, to, gpr_offset(op->base / 8));
		m.base = (uint8_t)to;
	}
	if (m.index == NO_REGISTER && op->index != GPR_ZERO * 8) {
		emit_load(e, other, gpr_offset(op->index / 8));
		m.index = (uint8_t)other;
	}
	if (op->disp >= INT32_MIN / 2 && op->disp <= INT32_MAX / 2) {
		m.disp = (int32_t)op->disp + more;
		emit_lea(e, to, m);
	} else {
		emit_lea(e, to, m);
		emit_constant(e, other, (uint64_t)op->disp + (uint64_t)(int64_t)more);
		emit_lea(e, to, (struct host_memory){.base = (uint8_t)to, .index = (uint8_t)other});
	}
	if (op->seg != SEG_NONE) {
		emit_load(e, other, VP_OFFSET(seg_base) + op->seg * sizeof(uint64_t));
		emit_lea(e, to, (struct host_memory){.base = (uint8_t)to, .index = (uint8_t)other});
	}
}

void emit_tlb_entry(struct emitter *e, size_t tlb)
{
	EMIT(e, 0x49, 0xc1, 0xeb, GUEST_PAGE_SHIFT - 6);           /* shr r11, 6 */
	EMIT(e, 0x41, 0x81, 0xe3);                                  /* and r11d, … */
	emit32(e, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_vp(e, 0x03, SCRATCH2, tlb);                            /* add r11, […] */
}

/* A field of the entry at SCRATCH2. */
#define FIELD(name) \
	((struct host_memory){.base = SCRATCH2, .index = NO_REGISTER, .disp = offsetof(struct tlb_entry, name)})

/* SCRATCH1 holds the address of the last byte. What is to be written must be no page that code was decoded from. */
static void emit_compare(struct translation *t, struct cold *c, bool write)
{
	struct emitter *e = &t->e;
	struct host_memory tag = FIELD(read);

	if (write)
		tag = FIELD(write);
	EMIT(e, 0x49, 0x81, 0xe2); /* and r10, -4096 */
	emit32(e, (uint32_t)-GUEST_PAGE_SIZE);
	emit_vp(e, 0x0b, SCRATCH1, VP_OFFSET(asid)); /* or r10, [asid] */
	emit_rm(e, PLAIN(0x3b), SCRATCH1, tag);
	c->from[0] = emit_jump_if_forward(e, IF_NZ);
	if (write) {
		emit_rm(e, PLAIN(0x8b), SCRATCH1, FIELD(flags));
		emit_rm(e, (struct host_opcode){.opcode = 0x80}, 7,
		    (struct host_memory){.base = SCRATCH1, .index = NO_REGISTER}); /* cmp byte [r10], 0 */
		emit8(e, 0);
		c->from[1] = emit_jump_if_forward(e, IF_NZ);
	}
	emit_rm(e, PLAIN(0x8b), SCRATCH2, FIELD(addend));
}

_Static_assert(sizeof(struct tlb_entry) == 64, "emit_tlb_entry() says so");

void check_alignment(struct translation *t, struct cold *c, struct host_memory m, uint8_t bits)
{
	if (!bits)
		return;
	emit_lea(&t->e, SCRATCH1, m);
	EMIT(&t->e, 0x41, 0xf6, 0xc2, bits); /* test r10b, … */
	c->from[2] = emit_jump_if_forward(&t->e, IF_NZ);
}

/* FS and GS of 32-bit code: any base, but the limit and the type are looked at here. */
static void check_segment(struct translation *t, struct cold *c, const struct op *op, bool write)
{
	if (!t->narrow || segment_is_flat(t, op->seg))
		return;
	emit_rm(&t->e, (struct host_opcode){.opcode = 0xf6}, 0, /* test byte [flat_…], … */
	    (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true,
	    .disp = write ? VP_OFFSET(flat_write) : VP_OFFSET(flat_read)});
	emit8(&t->e, 1u << op->seg);
	c->from[3] = emit_jump_if_forward(&t->e, IF_Z);
}

void probe_range(struct translation *t, unsigned base, struct operand_group *g)
{
	struct host_memory m = {.base = (uint8_t)base, .index = NO_REGISTER, .disp = g->low};
	struct cold c = {.from = {NULL}};

	emit_lea(&t->e, SCRATCH2, m);
	emit_tlb_entry(&t->e, VP_OFFSET(tlb));
	m.disp = g->high - 1;
	emit_lea(&t->e, SCRATCH1, m);
	emit_compare(t, &c, g->write);
	g->from[0] = c.from[0];
	g->from[1] = c.from[1];
}

struct host_memory probe_operand(struct translation *t, struct cold *c, const struct op *op, struct address_want w)
{
	struct emitter *e = &t->e;
	struct host_memory m = {.base = SCRATCH2, .index = NO_REGISTER};
	bool plain = address_is_plain(t, op);

	if (window_has(t, op, w.size)) {
		m = window_operand(t, op);
		check_alignment(t, c, m, w.align);
		return m;
	}
	t->window.loaded = false;
	check_segment(t, c, op, w.write);
	if (plain) {
		emit_address(t, SCRATCH2, op, 0);
		emit_tlb_entry(e, VP_OFFSET(tlb));
		emit_address(t, SCRATCH1, op, (int32_t)w.size - 1);
	} else {
		emit_address(t, SCRATCH2, op, 0);
		emit_store(e, SCRATCH2, VP_OFFSET(native_linear));
		emit_word_lea(t, SCRATCH1, (struct host_memory){.base = SCRATCH2, .index = NO_REGISTER,
		    .disp = (int32_t)w.size - 1});
		emit_tlb_entry(e, VP_OFFSET(tlb));
	}
	emit_compare(t, c, w.write);
	if (!plain) {
		emit_vp(e, 0x03, SCRATCH2, VP_OFFSET(native_linear)); /* add r11, [linear] */
	} else if (t->narrow || op->index != GPR_ZERO * 8) {
		emit_address(t, SCRATCH1, op, 0);
		emit_lea(e, SCRATCH2, (struct host_memory){.base = SCRATCH2, .index = SCRATCH1});
	} else {
		m.index = (uint8_t)host_part(op->base);
		m.disp = (int32_t)op->disp;
	}
	check_alignment(t, c, m, w.align);
	return m;
}
