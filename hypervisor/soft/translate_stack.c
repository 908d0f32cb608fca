// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_stack.c - the stack in translated code: the window, PUSH, POP and LEAVE.
 *
 * Most blocks use the stack, several times and in one page. So a block that does asks once, where it is entered,
 * whether all words that it will reach at a known distance from RSP lie in the window: one page that may be read and
 * written just so. Then each of them takes two instructions. The window goes with the TLB entry that it stems from, and
 * as soon as its page may hold code; all that happens in C code, and translated_call_handler() does not return to a
 * block that has lost it. A block whose words do not lie in such a page has a second form, its twin, with a look
 * into the TLB for each.
 */
#include "hypervisor/soft/translate_private.h"

/* --- where RSP is ------------------------------------------------------------------------------------ */

/* The words that a block may reach through the window, from RSP at its beginning. Much more, and too often it would
 * cross a page. */
#define REACH 512

static bool writes_rsp(const struct translation *t)
{
	for (unsigned i = 0; i < t->insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &t->operands[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value) == ZYDIS_REGISTER_RSP)
			return true;
	}
	return false;
}

static bool is_rsp(const struct translation *t, const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	    o->reg.value == (t->narrow ? ZYDIS_REGISTER_ESP : ZYDIS_REGISTER_RSP);
}

/* The word that the instruction itself has on the stack, from RSP. */
static bool implied_word(const struct translation *t, int32_t *at)
{
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL:
		*at = -t->word;
		return t->op.size == t->word;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		*at = 0;
		return t->op.size == t->word;
	default:
		return false;
	}
}

/* How RSP changes; false: in ways that cannot be told. */
static bool rsp_change(const struct translation *t, int32_t *by)
{
	const ZydisDecodedOperand *o = t->operands;

	*by = 0;
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
		*by = -t->word;
		return t->op.size == t->word;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPFD:
		*by = t->word;
		return t->op.size == t->word && !is_rsp(t, &o[0]);
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (!is_rsp(t, &o[0]))
			break;
		if (o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || o[1].imm.value.s > REACH || o[1].imm.value.s < -REACH)
			return false;
		*by = (int32_t)(t->insn->mnemonic == ZYDIS_MNEMONIC_ADD ? o[1].imm.value.s : -o[1].imm.value.s);
		return true;
	case ZYDIS_MNEMONIC_LEA:
		if (!is_rsp(t, &o[0]))
			break;
		*by = (int32_t)t->op.disp;
		/* A short address cuts RSP. */
		return t->op.base == GPR_RSP * 8 && t->op.index == GPR_ZERO * 8 && t->op.disp <= REACH &&
		    t->op.disp >= -REACH && t->op.size == t->word && address_serves(t, &t->op);
	default:
		break;
	}
	return !writes_rsp(t);
}

/* A memory operand at a distance from RSP. */
static bool rsp_operand(const struct translation *t, int32_t *at, unsigned *size)
{
	for (unsigned i = 0; i < t->insn->operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &t->operands[i];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			continue;
		*at = (int32_t)t->op.disp;
		*size = o->size / 8;
		return t->op.base == GPR_RSP * 8 && t->op.index == GPR_ZERO * 8 && segment_is_flat(t, t->op.seg) &&
		    address_serves(t, &t->op) && t->op.disp <= REACH && t->op.disp >= -REACH && *size && *size <= 32;
	}
	return false;
}

static void widen(struct stack_window *w, int32_t at, unsigned size)
{
	int32_t low = w->used && w->low < at ? w->low : at;
	int32_t high = w->used && w->high > at + (int32_t)size ? w->high : at + (int32_t)size;

	if (high - low > REACH)
		return;
	w->low = low;
	w->high = high;
	w->used = true;
}

/* The instruction at hand, in the first pass over the block. */
void stack_survey(struct translation *t)
{
	struct stack_window *w = &t->window;
	int32_t at, by;
	unsigned size;

	if (w->lost)
		return;
	if (implied_word(t, &at))
		widen(w, w->rsp + at, t->word);
	if (t->insn->mnemonic != ZYDIS_MNEMONIC_LEA && rsp_operand(t, &at, &size))
		widen(w, w->rsp + at, size);
	w->lost = !rsp_change(t, &by);
	w->rsp += by;
}

/* The same in the second pass, after the instruction's code has been made. */
void stack_follow(struct translation *t)
{
	int32_t by;

	if (!t->window.lost)
		t->window.lost = !rsp_change(t, &by);
	if (!t->window.lost)
		t->window.rsp += by;
}

/* --- the window ---------------------------------------------------------------------------------------- */

/* Where the block is entered: no register is in use, the flags are in vp. */
void emit_window_check(struct translation *t)
{
	struct stack_window *w = &t->window;
	struct emitter *e = &t->e;

	if (!w->used)
		return;
	emit_lea(e, SCRATCH2, (struct host_memory){.base = HOST_SP, .index = NO_REGISTER, .disp = w->low});
	emit_vp(e, 0x2b, SCRATCH2, VP_OFFSET(stack_page)); /* sub r11, [stack_page] */
	EMIT(e, 0x49, 0x81, 0xfb);                         /* cmp r11, … */
	emit32(e, GUEST_PAGE_SIZE - (uint32_t)(w->high - w->low));
	w->miss = emit_jump_if_forward(e, IF_NBE);
	w->back = emit_run_address(e, e->at);
}

/* Behind the block: another page becomes the window, or the twin goes on. */
void emit_window_miss(struct translation *t)
{
	struct stack_window *w = &t->window;
	struct native_exit *x;
	struct emitter *e = &t->e;
	uint8_t *crosses, *fails;

	if (!w->miss)
		return;
	x = translation_exit(t, EXIT_OP);
	x->op = 0;
	emit_land(e, w->miss);
	emit_lea(e, SCRATCH1, (struct host_memory){.base = HOST_SP, .index = NO_REGISTER, .disp = w->low});
	emit_rr(e, (struct host_opcode){.opcode = 0x8b}, SCRATCH2, SCRATCH1); /* mov r11d, r10d */
	EMIT(e, 0x41, 0x81, 0xe3);                                            /* and r11d, 4095 */
	emit32(e, GUEST_PAGE_SIZE - 1);
	EMIT(e, 0x41, 0x81, 0xfb); /* cmp r11d, … */
	emit32(e, GUEST_PAGE_SIZE - (uint32_t)(w->high - w->low));
	crosses = emit_jump_if_forward(e, IF_NBE);
	emit_call(e, t->narrow ? t->t->window32 : t->t->window);
	EMIT(e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
	fails = emit_jump_if_forward(e, IF_Z);
	emit_jump(e, w->back);
	emit_land(e, crosses);
	emit_land(e, fails);
	emit_constant(e, SCRATCH2, (uintptr_t)&t->b->twin);
	emit_rm(e, (struct host_opcode){.opcode = 0xff}, 4, (struct host_memory){.base = SCRATCH2, .index = NO_REGISTER});
	/* Until there is a twin. */
	t->b->twin = emit_run_address(e, e->at);
	translation_call(t, translated_make_twin, (uintptr_t)x);
	emit_constant(e, SCRATCH2, (uintptr_t)&t->b->twin);
	emit_rm(e, (struct host_opcode){.opcode = 0xff}, 4, (struct host_memory){.base = SCRATCH2, .index = NO_REGISTER});
}

#define FIELD(name) \
	((struct host_memory){.base = SCRATCH2, .index = NO_REGISTER, .disp = offsetof(struct tlb_entry, name)})

/* 32-bit code: ESP is cut to 32 bits with each change, so all that a block can reach must lie far from both ends, or what
 * was compared with the window and what is reached through it would be two addresses. */
#define MARGIN_SHIFT 16

_Static_assert(BLOCK_MAX_OPS * REACH + REACH < 1 << MARGIN_SHIFT, "a block does not get there");

static uint8_t *require_middle(struct emitter *e)
{
	emit_move(e, SCRATCH2, SCRATCH1);
	EMIT(e, 0x49, 0xc1, 0xeb, MARGIN_SHIFT); /* shr r11, … */
	emit_lea(e, SCRATCH2, (struct host_memory){.base = SCRATCH2, .index = NO_REGISTER, .disp = -1});
	EMIT(e, 0x49, 0x81, 0xfb); /* cmp r11, … */
	emit32(e, (1u << (32 - MARGIN_SHIFT)) - 3);
	return emit_jump_if_forward(e, IF_NBE);
}

/* `window`: the page of the address in SCRATCH1, if the TLB lets it be written and it holds no code. SCRATCH2: whether. */
void emit_window_fill(struct translator *t, struct emitter *e, bool narrow)
{
	const uint8_t *begin = emit_run_address(e, e->at);
	uint8_t *misses[3] = {NULL};

	if (narrow) {
		t->window32 = begin;
		misses[2] = require_middle(e);
	} else {
		t->window = begin;
	}
	emit_move(e, SCRATCH2, SCRATCH1);
	emit_tlb_entry(e, VP_OFFSET(tlb_strict));
	EMIT(e, 0x49, 0x81, 0xe2); /* and r10, -4096 */
	emit32(e, (uint32_t)-GUEST_PAGE_SIZE);
	emit_store(e, SCRATCH1, VP_OFFSET(native_linear));
	emit_vp(e, 0x0b, SCRATCH1, VP_OFFSET(asid)); /* or r10, [asid] */
	emit_rm(e, (struct host_opcode){.opcode = 0x3b, .wide = true}, SCRATCH1, FIELD(write));
	misses[0] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, (struct host_opcode){.opcode = 0x8b, .wide = true}, SCRATCH1, FIELD(flags));
	emit_rm(e, (struct host_opcode){.opcode = 0x80}, 7, (struct host_memory){.base = SCRATCH1, .index = NO_REGISTER});
	emit8(e, 0);
	misses[1] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, (struct host_opcode){.opcode = 0x8b, .wide = true}, SCRATCH1, FIELD(addend));
	emit_store(e, SCRATCH1, VP_OFFSET(stack_addend));
	emit_load(e, SCRATCH1, VP_OFFSET(native_linear));
	emit_store(e, SCRATCH1, VP_OFFSET(stack_page));
	emit_constant(e, SCRATCH2, 1);
	EMIT(e, 0xc3);
	emit_land(e, misses[0]);
	emit_land(e, misses[1]);
	if (narrow)
		emit_land(e, misses[2]);
	EMIT(e, 0x45, 0x31, 0xdb, 0xc3); /* xor r11d, r11d; ret */
}

bool window_has(const struct translation *t, const struct op *op, unsigned size)
{
	const struct stack_window *w = &t->window;

	return w->used && !w->lost && !t->twin && op->base == GPR_RSP * 8 && op->index == GPR_ZERO * 8 &&
	    segment_is_flat(t, op->seg) && address_serves(t, op) && op->disp <= REACH && op->disp >= -REACH &&
	    w->rsp + op->disp >= w->low && w->rsp + op->disp + (int32_t)size <= w->high;
}

/* Changes no flag, takes SCRATCH2. */
struct host_memory window_operand(struct translation *t, const struct op *op)
{
	if (!t->window.loaded)
		emit_load(&t->e, SCRATCH2, VP_OFFSET(stack_addend));
	t->window.loaded = t->window.touched = true;
	return (struct host_memory){.base = SCRATCH2, .index = HOST_SP, .disp = (int32_t)op->disp};
}

/* --- PUSH, POP, LEAVE ------------------------------------------------------------------------------------ */

/* The word at RSP + disp (RBP + disp), for the instruction at hand. NULL: it needs no cold way. */
static struct cold *stack_word(struct translation *t, unsigned base, int64_t disp, bool write, struct host_memory *m)
{
	struct op word = {.base = (uint8_t)(base * 8), .index = GPR_ZERO * 8, .disp = disp, .seg = SEG_NONE};
	struct cold *cold;

	if (window_has(t, &word, t->word)) {
		*m = window_operand(t, &word);
		return NULL;
	}
	cold = translation_cold(t);
	flags_before_clobber(t);
	cold->flags = t->flags;
	*m = probe_operand(t, cold, &word, (struct address_want){.size = t->word, .write = write});
	return cold;
}

void move_rsp(struct translation *t, int32_t by)
{
	emit_word_lea(t, HOST_SP, (struct host_memory){.base = HOST_SP, .index = NO_REGISTER, .disp = by});
}

static void emit_push(struct translation *t, struct host_memory m)
{
	const ZydisDecodedOperand *o = &t->operands[0];
	unsigned guest, reg;

	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_rm(&t->e, word_opcode(t, 0xc7), 0, m);
		emit32(&t->e, (uint32_t)t->op.imm);
	} else {
		guest = register_offset(o->reg.value) / 8;
		reg = home(guest);
		if (reg == NO_REGISTER) {
			reg = SCRATCH1;
			emit_load(&t->e, reg, gpr_offset(guest));
		}
		emit_rm(&t->e, word_opcode(t, 0x89), reg, m);
	}
	move_rsp(t, -t->word);
}

static void emit_pop(struct translation *t, struct host_memory m, unsigned guest)
{
	unsigned reg = home(guest) == NO_REGISTER ? SCRATCH1 : home(guest);

	emit_rm(&t->e, word_opcode(t, 0x8b), reg, m);
	if (guest != GPR_RSP)
		move_rsp(t, t->word);
	if (reg == SCRATCH1)
		emit_store(&t->e, reg, gpr_offset(guest));
}

static void emit_leave(struct translation *t, struct host_memory m)
{
	emit_word_lea(t, HOST_SP, (struct host_memory){.base = HOST_RBP, .index = NO_REGISTER, .disp = t->word});
	emit_rm(&t->e, word_opcode(t, 0x8b), HOST_RBP, m);
}

static bool stack_serves(const struct translation *t)
{
	const ZydisDecodedOperand *o = &t->operands[0];

	if (t->op.size != t->word)
		return false;
	if (t->insn->mnemonic == ZYDIS_MNEMONIC_LEAVE)
		return true;
	if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return t->insn->mnemonic == ZYDIS_MNEMONIC_PUSH;
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(o->reg.value) ==
	    (t->narrow ? ZYDIS_REGCLASS_GPR32 : ZYDIS_REGCLASS_GPR64);
}

/* Of a word in memory, which must not need both scratch registers longer than it takes to read it. */
static bool push_memory(struct translation *t)
{
	const struct op word = {.base = GPR_RSP * 8, .index = GPR_ZERO * 8, .disp = -t->word, .seg = SEG_NONE};
	struct cold *cold;
	struct host_memory m;

	if (t->op.size != t->word || !address_serves(t, &t->op) || !window_has(t, &word, t->word))
		return false;
	translation_begin_native(t);
	flags_before_write(t, 1u << GPR_RSP);
	flags_before_clobber(t);
	cold = translation_cold(t);
	cold->flags = t->flags;
	cold->op = translation_copy(t, &t->op);
	m = probe_operand(t, cold, &t->op, (struct address_want){.size = t->word});
	emit_rm(&t->e, word_opcode(t, 0x8b), SCRATCH1, m);
	emit_rm(&t->e, word_opcode(t, 0x89), SCRATCH1, window_operand(t, &word));
	move_rsp(t, -t->word);
	cold->back = t->e.at;
	t->window.touched = false; /* the cold way loses it */
	return true;
}

bool translate_stack(struct translation *t)
{
	struct host_memory m;
	struct cold *cold;
	unsigned guest;

	if (t->insn->mnemonic == ZYDIS_MNEMONIC_PUSH && t->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return push_memory(t);
	if (!stack_serves(t))
		return false;
	translation_begin_native(t);
	switch (t->insn->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		flags_before_write(t, 1u << GPR_RSP);
		cold = stack_word(t, GPR_RSP, -t->word, true, &m);
		emit_push(t, m);
		break;
	case ZYDIS_MNEMONIC_POP:
		guest = register_offset(t->operands[0].reg.value) / 8;
		flags_before_write(t, 1u << GPR_RSP | 1u << guest);
		cold = stack_word(t, GPR_RSP, 0, false, &m);
		emit_pop(t, m, guest);
		break;
	default:
		flags_before_write(t, 1u << GPR_RSP | 1u << GPR_RBP);
		cold = stack_word(t, GPR_RBP, 0, false, &m);
		emit_leave(t, m);
		break;
	}
	if (cold) {
		cold->op = translation_copy(t, &t->op);
		cold->back = t->e.at;
	}
	return true;
}
