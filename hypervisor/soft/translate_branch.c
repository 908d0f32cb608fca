// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_branch.c - how translated code goes from block to block.
 *
 * A direct branch within the page is an edge: it leaves to translated_enter() until the target has code too, which
 * then changes the jump to lead there. All other targets are looked up by `lookup` (translate_run.c); what that does
 * not find, the interpreter's handler does.
 */
#include "hypervisor/soft/exec_branch.h"

#include "hypervisor/soft/translate_private.h"

#define PLAIN(code) (struct host_opcode){.opcode = (code), .wide = true}

/* --- going on -------------------------------------------------------------------------------------- */

static struct native_exit *exit_op(struct translation *t)
{
	return translation_exit(t, EXIT_OP);
}

#define FIELD(name) \
	((struct host_memory){.base = SCRATCH2, .index = NO_REGISTER, .disp = offsetof(struct native_target, name)})

void go_to_computed(struct translation *t, int32_t undo, struct native_exit *exit)
{
	struct cold *c = translation_cold(t);
	struct emitter *e = &t->e;

	emit_rr(e, (struct host_opcode){.opcode = 0x8b}, SCRATCH2, SCRATCH1);
	emit_rm(e, (struct host_opcode){.opcode = 0x33}, SCRATCH2, (struct host_memory){.base = NO_REGISTER,
	    .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(code_mix)}); /* xor r11d, [code_mix] */
	EMIT(e, 0x41, 0x81, 0xe3); /* and r11d, … */
	emit32(e, (t->t->target_count - 1) << 2);
	EMIT(e, 0x41, 0xc1, 0xe3, 3); /* shl r11d, 3 */
	emit_vp(e, 0x03, SCRATCH2, VP_OFFSET(native_targets));
	emit_rm(e, PLAIN(0x3b), SCRATCH1, FIELD(rip));
	c->from[1] = emit_jump_if_forward(e, IF_NZ);
	emit_load(e, SCRATCH1, VP_OFFSET(code_key));
	emit_rm(e, PLAIN(0x3b), SCRATCH1, FIELD(key));
	c->from[0] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, PLAIN(0x8b), SCRATCH1, FIELD(code_base));
	emit_store(e, SCRATCH1, gpr_offset(GPR_CODE_BASE));
	emit_rm(e, (struct host_opcode){.opcode = 0xff}, 4, FIELD(native)); /* jmp [native] */
	c->leaves = c->looks_up = true;
	c->undo_rsp = undo;
	c->argument = (uintptr_t)exit;
}

_Static_assert(sizeof(struct native_target) == 32, "go_to_computed() says so");

static void emit_code_base(struct translation *t, uint64_t target)
{
	emit_load(&t->e, SCRATCH1, gpr_offset(GPR_CODE_BASE));
	emit_word_lea(t, SCRATCH1, (struct host_memory){.base = SCRATCH1, .index = NO_REGISTER, .disp = (int32_t)target});
}

static struct native_exit *edge(struct translation *t, int slot, uint64_t target)
{
	struct native_exit *x = translation_exit(t, EXIT_EDGE);

	x->slot = (int8_t)slot;
	x->target = (uint16_t)target;
	return x;
}

/* To a place in this page. Backwards it looks around first, so that no loop escapes attention. Flags are saved on the
 * way, but for a target that is known not to need them. */
static void go_along(struct translation *t, struct native_exit *x)
{
	uint8_t *jump;

	if (x->target <= t->op.offset) {
		struct cold *c = translation_cold(t);

		flags_before_clobber(t);
		c->leaves = true;
		c->argument = (uintptr_t)x;
		c->flags = t->flags;
		emit_attention_check(t, c);
	}
	if (!t->flags.in_vp) {
		x->shortcut = (uint32_t)(t->e.at - t->t->memory.writable);
		EMIT(&t->e, 0x0f, 0x1f, 0x44, 0x00, 0x00); /* a NOP as long as a jump */
		flags_to_vp(t);
	}
	jump = emit_jump_forward(&t->e);
	emit_land(&t->e, jump);
	x->patch = (uint32_t)(jump - t->t->memory.writable);
	translation_leave(t, x);
}

/* A direct branch to `target`, counted from byte 0 of the page. Beyond the page it may turn out not to be canonical:
 * the interpreter sees to that, on the state before the instruction. */
static void go_to(struct translation *t, int slot, uint64_t target, int32_t undo)
{
	if (target < GUEST_PAGE_SIZE) {
		go_along(t, edge(t, slot, target));
		return;
	}
	flags_to_vp(t);
	emit_code_base(t, target);
	go_to_computed(t, undo, exit_op(t));
}

void translate_fall_through(struct translation *t)
{
	struct native_exit *x;

	x = edge(t, BEHIND, t->offset);
	if (t->offset < GUEST_PAGE_SIZE) {
		go_along(t, x);
		return;
	}
	flags_to_vp(t);
	emit_code_base(t, t->offset);
	go_to_computed(t, 0, x);
}

/* Of a direct branch. EIP comes round at 4 GiB. */
static uint64_t direct_target(const struct translation *t)
{
	return t->narrow ? (uint64_t)(int64_t)(int32_t)t->op.imm : t->op.imm;
}

static bool target_is_near(const struct translation *t)
{
	return t->narrow || ((int64_t)t->op.imm > INT32_MIN / 2 && (int64_t)t->op.imm < INT32_MAX);
}

static bool translate_jump(struct translation *t)
{
	if (t->operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !target_is_near(t))
		return false;
	go_to(t, TAKEN, direct_target(t), 0);
	return true;
}

static bool translate_conditional(struct translation *t)
{
	struct flags_state flags;
	uint8_t *taken;

	if (!target_is_near(t))
		return false;
	flags_to_host(t);
	flags = t->flags;
	taken = emit_jump_if_forward(&t->e, t->insn->opcode & 15);
	go_to(t, NOT_TAKEN, (uint64_t)t->op.disp, 0);
	t->flags = flags;
	emit_land(&t->e, taken);
	go_to(t, TAKEN, direct_target(t), 0);
	return true;
}

/* The target of an indirect branch in memory into vp->native_saved[1]: the stack may need both scratch registers. */
static void take_target(struct translation *t)
{
	struct host_memory m;
	struct cold *cold;

	if (t->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return;
	cold = translation_cold(t);
	cold->leaves = true;
	cold->argument = (uintptr_t)exit_op(t);
	m = probe_operand(t, cold, &t->op, (struct address_want){.size = t->word});
	emit_rm(&t->e, word_opcode(t, 0x8b), SCRATCH1, m);
	emit_store(&t->e, SCRATCH1, VP_OFFSET(native_saved) + 8);
}

/* Into SCRATCH1. RSP may have moved by `moved` since. */
static void load_target(struct translation *t, int32_t moved)
{
	unsigned guest = t->op.dst / 8;

	if (t->operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER)
		emit_load(&t->e, SCRATCH1, VP_OFFSET(native_saved) + 8);
	else if (home(guest) == NO_REGISTER)
		emit_load(&t->e, SCRATCH1, gpr_offset(guest));
	else if (guest == GPR_RSP)
		emit_word_lea(t, SCRATCH1, (struct host_memory){.base = HOST_SP, .index = NO_REGISTER, .disp = -moved});
	else
		emit_rr(&t->e, word_opcode(t, 0x8b), SCRATCH1, home(guest));
}

static bool is_indirect(const struct translation *t)
{
	const ZydisDecodedOperand *o = &t->operands[0];

	return (o->type == ZYDIS_OPERAND_TYPE_REGISTER || o->type == ZYDIS_OPERAND_TYPE_MEMORY) &&
	    address_serves(t, &t->op);
}

static bool translate_indirect_jump(struct translation *t)
{
	if (!is_indirect(t))
		return false;
	flags_to_vp(t);
	take_target(t);
	load_target(t, 0);
	go_to_computed(t, 0, exit_op(t));
	return true;
}

/* The return address, below RSP. */
static void push_return(struct translation *t)
{
	struct op word = {.base = GPR_RSP * 8, .index = GPR_ZERO * 8, .disp = -t->word, .seg = SEG_NONE};
	struct cold *cold = translation_cold(t);
	struct host_memory m;

	cold->leaves = true;
	cold->argument = (uintptr_t)exit_op(t);
	m = probe_operand(t, cold, &word, (struct address_want){.size = t->word, .write = true});
	emit_code_base(t, t->offset);
	emit_rm(&t->e, word_opcode(t, 0x89), SCRATCH1, m);
	move_rsp(t, -t->word);
}

/* Remember where the call comes back to (SCRATCH1), by the host's own CALL, so that the host foresees the return. What
 * follows runs in the function called. */
static uint8_t *note_return(struct translation *t)
{
	struct cold *c = translation_cold(t);
	struct emitter *e = &t->e;

	emit_vp(e, 0x3b, HOST_RSP, VP_OFFSET(native_limit)); /* cmp rsp, [native_limit] */
	c->from[0] = emit_jump_if_forward(e, IF_B);
	c->back = e->at;
	c->forgets_returns = true;
	EMIT(e, 0x41, 0x52); /* push r10 */
	emit8(e, 0xe8);      /* call … */
	emit32(e, 0);
	return e->at - 4;
}

/* Where the host's RET leads: behind the call, with the address of that in SCRATCH1. */
static void come_back(struct translation *t)
{
	struct native_exit *x = edge(t, BEHIND, t->offset);
	struct emitter *e = &t->e;
	struct cold *c;

	emit_lea(e, HOST_RSP, (struct host_memory){.base = HOST_RSP, .index = NO_REGISTER, .disp = 8});
	emit_word_lea(t, SCRATCH2, (struct host_memory){.base = SCRATCH1, .index = NO_REGISTER,
	    .disp = -(int32_t)t->offset});
	emit_store(e, SCRATCH2, gpr_offset(GPR_CODE_BASE));
	if (t->offset >= GUEST_PAGE_SIZE) {
		go_to_computed(t, 0, x);
		return;
	}
	c = translation_cold(t);
	c->leaves = true;
	c->argument = (uintptr_t)x;
	emit_attention_check(t, c);
	go_along(t, x);
}

static bool translate_call(struct translation *t)
{
	bool direct = t->operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	uint8_t *function;

	if (direct ? !target_is_near(t) : !is_indirect(t))
		return false;
	flags_to_vp(t);
	if (!direct)
		take_target(t);
	push_return(t);
	function = note_return(t);
	come_back(t);
	emit_land(&t->e, function);
	if (direct) {
		go_to(t, TAKEN, direct_target(t), t->word);
		return true;
	}
	load_target(t, -t->word);
	go_to_computed(t, t->word, exit_op(t));
	return true;
}

/* If SCRATCH1 is where the last call that was noted comes back to, go there. Else that one is forgotten: of calls and
 * returns that do not match, most have their own pair. */
static void go_back(struct translation *t)
{
	const struct host_memory rip = {.base = HOST_RSP, .index = NO_REGISTER, .disp = 8};
	struct emitter *e = &t->e;
	uint8_t *miss, *none;

	emit_rm(e, PLAIN(0x3b), SCRATCH1, rip);
	miss = emit_jump_if_forward(e, IF_NZ);
	EMIT(e, 0xc3); /* ret */
	emit_land(e, miss);
	emit_vp(e, 0x3b, HOST_RSP, VP_OFFSET(native_stack)); /* cmp rsp, [native_stack] */
	none = emit_jump_if_forward(e, IF_NB);
	emit_lea(e, HOST_RSP, (struct host_memory){.base = HOST_RSP, .index = NO_REGISTER, .disp = 16});
	emit_land(e, none);
}

static bool translate_return(struct translation *t)
{
	struct op word = {.base = GPR_RSP * 8, .index = GPR_ZERO * 8, .seg = SEG_NONE};
	int32_t drop = t->word + (int32_t)t->op.imm;
	struct host_memory m;
	struct cold *cold;

	flags_to_vp(t);
	cold = translation_cold(t);
	cold->leaves = true;
	cold->argument = (uintptr_t)exit_op(t);
	m = probe_operand(t, cold, &word, (struct address_want){.size = t->word});
	emit_rm(&t->e, word_opcode(t, 0x8b), SCRATCH1, m);
	move_rsp(t, drop);
	go_back(t);
	go_to_computed(t, -drop, exit_op(t));
	return true;
}

/* Not JCXZ and LOOP, which need RCX. */
static bool is_conditional(const struct translation *t)
{
	unsigned first = t->insn->opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70;

	return t->insn->meta.category == ZYDIS_CATEGORY_COND_BR && (t->insn->opcode & 0xf0) == first;
}

bool translate_branch(struct translation *t)
{
	if (t->op.size != t->word || t->insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return false;
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return t->operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? translate_jump(t) : translate_indirect_jump(t);
	case ZYDIS_MNEMONIC_CALL:
		return translate_call(t);
	case ZYDIS_MNEMONIC_RET:
		return translate_return(t);
	default:
		return is_conditional(t) && translate_conditional(t);
	}
}
