// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_flags.c - where the guest's arithmetic flags are while translated code runs.
 *
 * They are in RFLAGS, in vp->arith, in both, or in neither: then a recipe makes them again from registers that
 * have not changed. A look into the TLB destroys RFLAGS on the straight way; only the way out, where the
 * flags may be seen, pays for making them again.
 */
#include "hypervisor/soft/translate_private.h"

#define FLAGS_ARITHMETIC                                                                                        \
	((uint32_t)(ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | \
		    ZYDIS_CPUFLAG_OF))

/* Neither changes a flag; both use SCRATCH1. The form is that of state.h. */
void flags_emit_save(struct emitter *e)
{
	emit_move(e, SCRATCH1, HOST_RAX);
	EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	emit_rm(e, (struct host_opcode){.prefixes = {0x66}, .opcode = 0x89}, HOST_RAX,
	    (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(arith)});
	emit_move(e, HOST_RAX, SCRATCH1);
}

void flags_emit_load(struct emitter *e)
{
	emit_move(e, SCRATCH1, HOST_RAX);
	emit_rm(e, (struct host_opcode){.map = 1, .opcode = 0xb7}, HOST_RAX,
	    (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(arith)});
	EMIT(e, 0x04, 0x7f, 0x9e); /* add al, 0x7f; sahf */
	emit_move(e, HOST_RAX, SCRATCH1);
}

void flags_to_host(struct translation *t)
{
	if (t->flags.in_host)
		return;
	if (t->flags.recipe.length)
		emit_bytes(&t->e, t->flags.recipe.bytes, t->flags.recipe.length);
	else
		flags_emit_load(&t->e);
	t->flags.in_host = true;
}

void flags_to_vp(struct translation *t)
{
	if (t->flags.in_vp)
		return;
	flags_to_host(t);
	flags_emit_save(&t->e);
	t->flags.in_vp = true;
}

void flags_before_clobber(struct translation *t)
{
	if (!t->flags.recipe.length)
		flags_to_vp(t);
	t->flags.in_host = false;
}

void flags_before_write(struct translation *t, uint32_t registers)
{
	if (!(t->flags.recipe.depends & registers))
		return;
	if (!t->flags.in_host)
		flags_to_vp(t);
	t->flags.recipe = (struct flags_recipe){.length = 0};
}

uint32_t flags_read_mask(const struct translation *t)
{
	return t->insn->cpu_flags ? t->insn->cpu_flags->tested & FLAGS_ARITHMETIC : 0;
}

uint32_t flags_write_mask(const struct translation *t)
{
	const ZydisAccessedFlags *f = t->insn->cpu_flags;

	return f ? (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ARITHMETIC : 0;
}

static bool counts_some(const struct translation *t)
{
	const ZydisDecodedOperand *count = &t->operands[t->insn->operand_count_visible - 1];
	unsigned mask = t->operands[0].size == 64 ? 63 : 31;

	return count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && count->imm.value.u & mask;
}

/* Only what the interpreter computes without the old flags too (exec_flags.h). */
bool flags_killed(const struct translation *t)
{
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_COMISS:
	case ZYDIS_MNEMONIC_COMISD:
	case ZYDIS_MNEMONIC_UCOMISS:
	case ZYDIS_MNEMONIC_UCOMISD:
	case ZYDIS_MNEMONIC_PTEST:
	case ZYDIS_MNEMONIC_VCOMISS:
	case ZYDIS_MNEMONIC_VCOMISD:
	case ZYDIS_MNEMONIC_VUCOMISS:
	case ZYDIS_MNEMONIC_VUCOMISD:
	case ZYDIS_MNEMONIC_VPTEST:
	case ZYDIS_MNEMONIC_VTESTPS:
	case ZYDIS_MNEMONIC_VTESTPD:
		return true;
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
		return counts_some(t);
	default:
		return false;
	}
}

bool flags_are_dead(const struct translation *t)
{
	return t->flags_dead >> t->index & 1;
}

void flags_note(struct translation *t, bool plain)
{
	if (t->flags_seen || t->flags_free)
		return;
	if (!plain || flags_read_mask(t))
		t->flags_seen = true;
	else if (flags_write_mask(t) && flags_killed(t))
		t->flags_free = true;
	else if (flags_write_mask(t))
		t->flags_seen = true;
}

/* --- recipes ------------------------------------------------------------------------------------- */

static unsigned guest_of(const ZydisDecodedOperand *o)
{
	return register_offset(o->reg.value) / 8;
}

static bool is_homed(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size >= 32 && home(guest_of(o)) != NO_REGISTER;
}

static struct host_opcode sized(unsigned opcode, const ZydisDecodedOperand *o)
{
	return (struct host_opcode){.opcode = (uint8_t)opcode, .wide = o->size == 64};
}

/* The second operand: a register, or an immediate that fits. `op`: ADD 0, OR 1, … CMP 7. */
static bool emit_binary(struct emitter *e, unsigned op, unsigned to, const ZydisDecodedOperand *a,
    const ZydisDecodedOperand *b)
{
	if (b->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		emit_rr(e, sized(op << 3 | 3, a), to, home(guest_of(b)));
		return true;
	}
	emit_rr(e, sized(0x81, a), op, to);
	emit32(e, (uint32_t)b->imm.value.u);
	return true;
}

static bool operands_serve(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	return is_homed(a) && (is_homed(b) || b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE);
}

static uint32_t bits_of(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	return 1u << guest_of(a) | (b->type == ZYDIS_OPERAND_TYPE_REGISTER ? 1u << guest_of(b) : 0);
}

/* ADD and SUB are undone in SCRATCH1 and done again. */
static bool emit_again(struct emitter *e, bool add, const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	if (b->type == ZYDIS_OPERAND_TYPE_REGISTER && guest_of(a) == guest_of(b))
		return false;
	emit_move(e, SCRATCH1, home(guest_of(a)));
	emit_binary(e, add ? 5 : 0, SCRATCH1, a, b);
	return emit_binary(e, add ? 0 : 5, SCRATCH1, a, b);
}

static bool make_recipe(struct emitter *e, const struct translation *t, uint32_t *depends)
{
	const ZydisDecodedOperand *a = &t->operands[0], *b = &t->operands[1];
	unsigned r;

	if (t->insn->operand_count_visible != 2 || !is_homed(a))
		return false;
	r = home(guest_of(a));
	*depends = 1u << guest_of(a);
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
		if (!operands_serve(a, b))
			return false;
		*depends = bits_of(a, b);
		return emit_binary(e, 7, r, a, b);
	case ZYDIS_MNEMONIC_TEST:
		if (!operands_serve(a, b))
			return false;
		*depends = bits_of(a, b);
		if (b->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			emit_rr(e, sized(0x85, a), r, home(guest_of(b)));
		} else {
			emit_rr(e, sized(0xf7, a), 0, r);
			emit32(e, (uint32_t)b->imm.value.u);
		}
		return true;
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		/* These are functions of the result. */
		emit_rr(e, sized(0x85, a), r, r);
		return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (t->insn->mnemonic == ZYDIS_MNEMONIC_SUB && b->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_homed(b) && guest_of(a) == guest_of(b)) {
			emit_rr(e, sized(0x85, a), r, r);
			return true;
		}
		if (!operands_serve(a, b))
			return false;
		*depends = bits_of(a, b);
		return emit_again(e, t->insn->mnemonic == ZYDIS_MNEMONIC_ADD, a, b);
	default:
		return false;
	}
}

/* The instruction at hand has set flags: RFLAGS are the guest's, and nothing else. */
void flags_written(struct translation *t)
{
	struct flags_recipe *r = &t->flags.recipe;
	struct emitter e = {.at = r->bytes, .limit = r->bytes + sizeof(r->bytes)};
	uint32_t depends = 0;

	if (flags_are_dead(t)) {
		t->flags = (struct flags_state){.in_vp = true}; /* as good as any */
		return;
	}
	t->flags = (struct flags_state){.in_host = true};
	if (!make_recipe(&e, t, &depends) || e.full)
		return;
	r->length = (uint8_t)(e.at - r->bytes);
	r->depends = depends;
}
