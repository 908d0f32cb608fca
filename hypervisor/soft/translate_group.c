// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_group.c - several operands by one register, with one look into the TLB for all of them.
 *
 * Structures are reached by a register that does not change, or by constants only. So where a block has three or more such
 * operands close to each other, the first one looks for the page of all their bytes, for writing if one of them is written;
 * the others take its address on the host from struct soft_vp. Where that look fails (bytes in two pages, a page with code,
 * nothing in the TLB) the block goes on in a second form, its tail, with a look for each.
 *
 * What was looked up is good until the block ends or calls a handler on its straight way. In between C code runs on cold ways only, and
 * these do not come back when something was dropped from the TLB (window_drops) or wants attention (translated_call_handler());
 * a page that is to hold code waits until each VP has been at the end of a block (code.c). CLAC and STAC, which change rights in place,
 * end it too.
 */
#include "hypervisor/soft/translate_private.h"

#define REACH   256 /* bytes of a group: more, and too often they would lie in two pages */
#define MEMBERS 3u  /* fewer are not worth a tail */

/* A 64-bit general register that translated code has in a register and that is not the stack's. */
static bool base_serves(const struct op *op)
{
	return op->base < 16 * 8 && op->base != GPR_RSP * 8 && home(op->base / 8) != NO_REGISTER;
}

static const ZydisDecodedOperand *only_memory(const struct translation *t)
{
	const ZydisDecodedOperand *found = NULL;

	for (unsigned i = 0; i < t->insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &t->operands[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (found || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return NULL;
		found = o;
	}
	return found;
}

/* Whether the instruction at hand has an operand for a group. */
static const ZydisDecodedOperand *member_operand(const struct translation *t)
{
	const ZydisDecodedOperand *o = only_memory(t);

	if (!o || t->narrow || t->ends || !base_serves(&t->op) || t->op.index != GPR_ZERO * 8 || t->op.seg != SEG_NONE ||
	    !address_serves(t, &t->op) || t->op.disp > INT16_MAX || t->op.disp < INT16_MIN)
		return NULL;
	return o->size >= 8 && o->size <= 256 && copy_serves(t) ? o : NULL;
}

/* By how much the instruction changes a register; false: it cannot be told. */
static bool register_change(const struct translation *t, unsigned guest, int32_t *by)
{
	const ZydisDecodedOperand *o = t->operands;
	bool add = t->insn->mnemonic == ZYDIS_MNEMONIC_ADD;

	*by = 0;
	for (unsigned i = 0; i < t->insn->operand_count; i++) {
		if (o[i].type != ZYDIS_OPERAND_TYPE_REGISTER || !(o[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o[i].reg.value) !=
			(ZydisRegister)(ZYDIS_REGISTER_RAX + guest))
			continue;
		if ((!add && t->insn->mnemonic != ZYDIS_MNEMONIC_SUB) || i != 0 || o[0].size != 64 ||
		    o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || o[1].imm.value.s > REACH || o[1].imm.value.s < -REACH)
			return false;
		*by = (int32_t)(add ? o[1].imm.value.s : -o[1].imm.value.s);
		return true;
	}
	return true;
}

/* The best ones are kept. */
static void close_group(struct translation *t, struct group_survey *s)
{
	struct operand_group *worst = &t->groups[0];

	if (s->group.count >= MEMBERS) {
		for (unsigned i = 1; i < GROUPS_MAX; i++)
			if (t->groups[i].count < worst->count)
				worst = &t->groups[i];
		if (s->group.count > worst->count)
			*worst = s->group;
	}
	s->group.count = 0;
}

static void add_member(struct translation *t, struct group_survey *s, const ZydisDecodedOperand *o)
{
	struct operand_group *g = &s->group;
	int32_t low = s->moved + (int32_t)t->op.disp, high = low + o->size / 8;

	if (g->count) {
		int32_t all_low = low < g->low ? low : g->low, all_high = high > g->high ? high : g->high;

		if (all_high - all_low > REACH) {
			close_group(t, s);
		} else {
			g->low = all_low;
			g->high = all_high;
		}
	}
	if (!g->count) {
		*g = (struct operand_group){.base = t->op.base / 8, .first = (uint8_t)t->index, .low = (int32_t)t->op.disp};
		g->high = g->low + o->size / 8;
		s->moved = 0;
	}
	g->count++;
	g->members |= 1ull << t->index;
	g->write |= o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE || t->insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG;
}

void group_survey_end(struct translation *t, struct group_survey *s)
{
	for (unsigned r = 0; r < 16; r++)
		close_group(t, &s[r]);
}

void group_survey(struct translation *t, struct group_survey *s)
{
	const ZydisDecodedOperand *o = member_operand(t);

	if (o)
		add_member(t, &s[t->op.base / 8], o);
	for (unsigned r = 0; r < 16; r++) {
		int32_t by;

		if (!register_change(t, r, &by))
			close_group(t, &s[r]);
		else
			s[r].moved += by;
	}
}

/* --- code ------------------------------------------------------------------------------------------- */

static struct operand_group *group_at(struct translation *t)
{
	for (unsigned i = 0; i < GROUPS_MAX && !t->tail; i++)
		if (t->groups[i].count && t->groups[i].members >> t->index & 1)
			return &t->groups[i];
	return NULL;
}

static int32_t addend_offset(const struct translation *t, const struct operand_group *g)
{
	return (int32_t)(VP_OFFSET(group_addend) + (size_t)(g - t->groups) * sizeof(uint64_t));
}

void groups_drop(struct translation *t)
{
	for (unsigned i = 0; i < GROUPS_MAX; i++)
		t->groups[i].good = false;
}

bool group_has(struct translation *t)
{
	const struct operand_group *g = group_at(t);

	return g && (g->good || (g->first == t->index && !g->looked));
}

/* Whether it is the one that looks, so that RFLAGS are lost. */
bool group_looks(struct translation *t)
{
	return !group_at(t)->good;
}

struct host_memory group_operand(struct translation *t)
{
	struct operand_group *g = group_at(t);
	unsigned base = home(g->base);

	t->window.loaded = false;
	if (g->good) {
		emit_load(&t->e, SCRATCH2, (size_t)addend_offset(t, g));
	} else {
		probe_range(t, base, g);
		emit_store(&t->e, SCRATCH2, (size_t)addend_offset(t, g));
		g->looked = g->good = true;
		g->flags = t->flags;
		g->window = t->window;
		g->vectors_enabled = t->vectors_enabled;
	}
	return (struct host_memory){.base = SCRATCH2, .index = (uint8_t)base, .disp = (int32_t)t->op.disp};
}

/* The look of the group failed: as it was there, and no groups any more. */
void group_begin_tail(struct translation *t, struct operand_group *g)
{
	emit_land(&t->e, g->from[0]);
	if (g->from[1])
		emit_land(&t->e, g->from[1]);
	t->flags = g->flags;
	t->window = g->window;
	t->vectors_enabled = g->vectors_enabled;
	t->run = NULL;
	t->tail = true;
}
