// SPDX-License-Identifier: GPL-2.0-or-later
/* emit.c - encoding of host instructions. Source: SDM volume 2, chapter 2. */
#include "hypervisor/soft/emit.h"

/* The mandatory prefix as VEX.pp says it. */
static unsigned vex_prefix(const struct host_opcode *o)
{
	for (unsigned i = 0; i < sizeof(o->prefixes); i++) {
		if (o->prefixes[i] == 0x66)
			return 1;
		if (o->prefixes[i] == 0xf3)
			return 2;
		if (o->prefixes[i] == 0xf2)
			return 3;
	}
	return 0;
}

static void emit_vex(struct emitter *e, const struct host_opcode *o, unsigned reg, unsigned index, unsigned base)
{
	emit8(e, 0xc4);
	emit8(e, (~reg >> 3 & 1) << 7 | (~index >> 3 & 1) << 6 | (~base >> 3 & 1) << 5 | o->map);
	emit8(e, (o->wide ? 0x80u : 0) | (~o->vvvv & 15u) << 3 | (unsigned)o->length << 2 | vex_prefix(o));
}

static void emit_start(struct emitter *e, struct host_opcode o, unsigned reg, unsigned index, unsigned base)
{
	unsigned rex = (o.wide ? 8u : 0) | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);

	if (o.vex) {
		emit_vex(e, &o, reg, index, base);
		return;
	}
	for (unsigned i = 0; i < sizeof(o.prefixes) && o.prefixes[i]; i++)
		emit8(e, o.prefixes[i]);
	if (rex || o.rex)
		emit8(e, 0x40 | rex);
	if (o.map)
		emit8(e, 0x0f);
	if (o.map == 2)
		emit8(e, 0x38);
	if (o.map == 3)
		emit8(e, 0x3a);
}

void emit_rr(struct emitter *e, struct host_opcode o, unsigned reg, unsigned rm)
{
	emit_start(e, o, reg, 0, rm);
	emit8(e, o.opcode);
	emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_plus(struct emitter *e, struct host_opcode o, unsigned reg)
{
	emit_start(e, o, 0, 0, reg);
	emit8(e, o.opcode | (reg & 7));
}

/* No base, or one that needs a SIB byte because an index is there or its number says so. */
static void emit_sib(struct emitter *e, unsigned reg, struct host_memory m)
{
	bool index = m.index != NO_REGISTER, base = m.base != NO_REGISTER;
	unsigned sib = (unsigned)m.scale << 6 | (index ? m.index & 7u : 4u) << 3 | (base ? m.base & 7u : 5u);
	bool small = base && m.disp >= -128 && m.disp < 128;

	emit8(e, (base ? (small ? 0x40u : 0x80u) : 0) | (reg & 7) << 3 | 4);
	emit8(e, sib);
	if (small)
		emit8(e, (uint8_t)m.disp);
	else
		emit32(e, (uint32_t)m.disp);
}

void emit_rm(struct emitter *e, struct host_opcode o, unsigned reg, struct host_memory m)
{
	if (m.vp)
		emit8(e, 0x65);
	emit_start(e, o, reg, m.index == NO_REGISTER ? 0 : m.index, m.base == NO_REGISTER ? 0 : m.base);
	emit8(e, o.opcode);
	if (m.base == NO_REGISTER || m.index != NO_REGISTER || (m.base & 7) == 4) {
		emit_sib(e, reg, m);
	} else if (!m.disp && (m.base & 7) != 5) {
		emit8(e, (reg & 7) << 3 | (m.base & 7u));
	} else if (m.disp >= -128 && m.disp < 128) {
		emit8(e, 0x40 | (reg & 7) << 3 | (m.base & 7u));
		emit8(e, (uint8_t)m.disp);
	} else {
		emit8(e, 0x80 | (reg & 7) << 3 | (m.base & 7u));
		emit32(e, (uint32_t)m.disp);
	}
}

static struct host_memory vp_field(size_t offset)
{
	return (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = (int32_t)offset};
}

void emit_vp(struct emitter *e, unsigned opcode, unsigned reg, size_t vp_offset)
{
	emit_rm(e, (struct host_opcode){.opcode = (uint8_t)opcode, .wide = true}, reg, vp_field(vp_offset));
}

void emit_load(struct emitter *e, unsigned reg, size_t vp_offset)
{
	emit_vp(e, 0x8b, reg, vp_offset);
}

void emit_store(struct emitter *e, unsigned reg, size_t vp_offset)
{
	emit_vp(e, 0x89, reg, vp_offset);
}

void emit_move(struct emitter *e, unsigned to, unsigned from)
{
	emit_rr(e, (struct host_opcode){.opcode = 0x8b, .wide = true}, to, from);
}

void emit_lea(struct emitter *e, unsigned reg, struct host_memory m)
{
	emit_rm(e, (struct host_opcode){.opcode = 0x8d, .wide = true}, reg, m);
}

void emit_constant(struct emitter *e, unsigned reg, uint64_t v)
{
	if (v <= 0xffffffffu) {
		emit_plus(e, (struct host_opcode){.opcode = 0xb8}, reg);
		emit32(e, (uint32_t)v);
		return;
	}
	emit_plus(e, (struct host_opcode){.opcode = 0xb8, .wide = true}, reg);
	emit64(e, v);
}

static uint8_t *emit_distance(struct emitter *e)
{
	emit32(e, 0);
	return e->at - 4;
}

uint8_t *emit_jump_forward(struct emitter *e)
{
	emit8(e, 0xe9);
	return emit_distance(e);
}

uint8_t *emit_jump_if_forward(struct emitter *e, unsigned condition)
{
	EMIT(e, 0x0f, (uint8_t)(0x80 | condition));
	return emit_distance(e);
}

void emit_land(struct emitter *e, uint8_t *distance)
{
	int32_t d = (int32_t)(e->at - (distance + 4));

	if (!e->full)
		memcpy(distance, &d, 4);
}

void emit_jump(struct emitter *e, const uint8_t *run_target)
{
	emit8(e, 0xe9);
	emit32(e, (uint32_t)(run_target - (e->at + 4 + e->to_run)));
}

void emit_call(struct emitter *e, const uint8_t *run_target)
{
	emit8(e, 0xe8);
	emit32(e, (uint32_t)(run_target - (e->at + 4 + e->to_run)));
}
