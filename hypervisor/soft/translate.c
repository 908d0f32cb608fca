// SPDX-License-Identifier: GPL-2.0-or-later
/* translate.c - makes host code of a block: one instruction after the other, then what is seldom needed. */
#include "hypervisor/soft/translate_private.h"

#include "hypervisor/soft/block_cache.h"

/* --- parts ------------------------------------------------------------------------------------------ */

/* What ROOM says is there. */
static void *take_room(struct translation *t, size_t size)
{
	void *p = t->room + t->room_used;

	t->room_used += size;
	return p;
}

_Static_assert(sizeof(struct op) % 8 == 0 && sizeof(struct native_exit) % 8 == 0, "they lie one behind the other");

/* An op that the interpreter's handler is called with, followed by a stop. */
const struct op *translation_copy(struct translation *t, const struct op *op)
{
	struct op *copy = take_room(t, 2 * sizeof(*copy));

	copy[0] = *op;
	copy[1] = (struct op){.fn = translated_stop, .offset = (uint16_t)t->offset, .data = t->b, .src = (uint8_t)t->index};
	return copy;
}

struct cold *translation_cold(struct translation *t)
{
	struct cold *c = &t->colds[t->cold_count++];

	*c = (struct cold){.call = translated_call_handler, .flags.in_vp = true};
	return c;
}

struct native_exit *translation_exit(struct translation *t, enum native_exit_kind kind)
{
	struct native_exit *x = take_room(t, sizeof(*x));

	*x = (struct native_exit){.kind = (uint8_t)kind, .block = t->b, .op = (uint8_t)t->index};
	return x;
}

void translation_call(struct translation *t, native_call call, uintptr_t argument)
{
	emit_constant(&t->e, SCRATCH1, argument);
	if (call != translated_call_handler)
		emit_constant(&t->e, SCRATCH2, (uintptr_t)call);
	emit_call(&t->e, call == translated_call_handler ? t->t->handle : t->t->call);
}

void translation_leave(struct translation *t, struct native_exit *exit)
{
	emit_constant(&t->e, SCRATCH1, (uintptr_t)exit);
	emit_jump(&t->e, t->t->leave);
}

/* --- cold code ---------------------------------------------------------------------------------------- */

/* A target that is not in native_targets, in SCRATCH1. */
static void emit_lookup_call(struct translation *t)
{
	uint8_t *miss;

	emit_call(&t->e, t->t->lookup);
	EMIT(&t->e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
	miss = emit_jump_if_forward(&t->e, IF_Z);
	EMIT(&t->e, 0x41, 0xff, 0xe3); /* jmp r11 */
	emit_land(&t->e, miss);
}

static void emit_cold(struct translation *t, struct cold *c)
{
	struct emitter *e = &t->e;
	bool used = false;

	for (unsigned i = 0; i < 4; i++) {
		if (!c->from[i])
			continue;
		emit_land(e, c->from[i]);
		/* The first way has the target in the entry that it was compared with. */
		if (c->looks_up && i == 0)
			emit_rm(e, (struct host_opcode){.opcode = 0x8b, .wide = true}, SCRATCH1,
			    (struct host_memory){.base = SCRATCH2, .index = NO_REGISTER});
		used = true;
	}
	if (!used)
		return;
	if (c->forgets_returns) {
		emit_load(e, HOST_RSP, VP_OFFSET(native_stack));
		emit_jump(e, emit_run_address(e, c->back));
		return;
	}
	if (c->looks_up)
		emit_lookup_call(t);
	if (c->leaves) {
		t->flags = c->flags;
		flags_to_vp(t);
		if (c->undo_rsp)
			move_rsp(t, c->undo_rsp);
		translation_leave(t, (struct native_exit *)c->argument);
		return;
	}
	t->flags = c->flags;
	flags_to_vp(t);
	translation_call(t, c->call, c->op ? (uintptr_t)c->op : c->argument);
	if (c->load_flags)
		flags_emit_load(e);
	emit_jump(e, emit_run_address(e, c->back));
}

/* --- the block -------------------------------------------------------------------------------------- */

/* Once a block has been entered this does: ATTENTION_CODE tells when its page's generation moves on. */
void emit_attention_check(struct translation *t, struct cold *c)
{
	const struct host_memory attention = {.base = NO_REGISTER, .index = NO_REGISTER, .vp = true,
	    .disp = VP_OFFSET(attention)};

	emit_rm(&t->e, (struct host_opcode){.opcode = 0x83}, 7, attention); /* cmp dword [attention], 0 */
	emit8(&t->e, 0);
	c->from[0] = emit_jump_if_forward(&t->e, IF_NZ);
}

/* Entered from elsewhere it looks around first. A block that is stale is not entered: who comes from C code has looked,
 * and what is known of targets is forgotten when code changes (ATTENTION_CODE). */
static void emit_entry(struct translation *t)
{
	struct native_exit *x = translation_exit(t, EXIT_RIP);
	struct cold *c = translation_cold(t);
	struct emitter *e = &t->e;

	x->target = t->b->ops[0].offset;
	c->leaves = true;
	c->argument = (uintptr_t)x;
	t->entry = emit_run_address(e, e->at);
	emit_attention_check(t, c);
	t->body = emit_run_address(e, e->at);
	emit_window_check(t);
}

/* Read the block's instructions again, as they were decoded for it. */
static void decode_again(struct translation *t)
{
	const uint8_t *bytes = block_bytes(t->b);

	for (unsigned i = 0; i < t->b->count; i++) {
		struct translator_instruction *n = &t->t->instructions[i];
		const struct op *op = &t->b->ops[i];
		enum decode_result r = decode_instruction(t->vp, t->narrow ? MODE_32 : MODE_64, bytes, op->length,
		    op->offset, &n->decoded);

		n->ends = r == DECODE_ENDS;
		n->known = r != DECODE_TRUNCATED && n->decoded.valid && n->decoded.op.length == op->length &&
		    !((n->decoded.op.flags ^ op->flags) & OP_SIDE);
		/* Copies of it refer to the block's. */
		if (op->flags & OP_SIDE)
			n->decoded.op.side = op->side;
		bytes += op->length;
	}
}

static void take_instruction(struct translation *t, unsigned index)
{
	const struct translator_instruction *n = &t->t->instructions[index];

	t->index = index;
	t->bytes = block_bytes(t->b) + (t->b->ops[index].offset - t->b->ops[0].offset);
	t->insn = &n->decoded.insn;
	t->operands = n->decoded.operands;
	t->op = n->decoded.op;
	t->offset = t->op.offset + (unsigned)t->b->ops[index].length;
	t->known = n->known;
	t->ends = n->ends;
}

/* Instructions with no translation, one after the other, run in one call. */
static void handler_run_begin(struct translation *t)
{
	flags_to_vp(t);
	t->vectors_enabled = 0;
	t->flags = (struct flags_state){.in_vp = true};
}

static void add_to_run(struct translation *t)
{
	const struct op *copy;

	groups_drop(t);
	if (!t->run)
		handler_run_begin(t);
	else
		t->room_used -= sizeof(struct op); /* its op comes where the stop was */
	copy = translation_copy(t, &t->op);
	if (!t->run)
		t->run = copy;
}

void translation_begin_native(struct translation *t)
{
	if (t->run)
		translation_call(t, translated_call_handler, (uintptr_t)t->run);
	t->run = NULL;
}

/* The interpreter does the instruction at hand. */
static void leave_to_op(struct translation *t)
{
	struct native_exit *x = translation_exit(t, EXIT_OP);

	flags_to_vp(t);
	translation_leave(t, x);
}

_Static_assert(BLOCK_MAX_OPS <= 64, "flags_dead has a bit for each");

/* Which words of the stack are reached, and which instructions leave flags that nothing will see. */
static void survey(struct translation *t)
{
	struct {
		bool plain, reads, kills;
	} known[BLOCK_MAX_OPS];
	struct group_survey registers[16] = {0};
	bool seen = true;

	decode_again(t);
	for (unsigned i = 0; i < t->b->count; i++) {
		take_instruction(t, i);
		if (!t->known) {
			known[i] = (typeof(known[i])){.reads = true};
			t->window.lost = true;
			group_survey_end(t, registers);
			continue;
		}
		known[i].plain = !t->ends && copy_is_plain(t);
		known[i].reads = flags_read_mask(t);
		known[i].kills = flags_write_mask(t) && flags_killed(t);
		stack_survey(t);
		group_survey(t, registers);
	}
	group_survey_end(t, registers);
	t->window.rsp = 0;
	t->window.lost = false;
	for (unsigned i = t->b->count; i-- > 0;) {
		if (!seen)
			t->flags_dead |= 1ull << i;
		if (!known[i].plain || known[i].reads)
			seen = true;
		else if (known[i].kills)
			seen = false;
	}
}

/* No interrupt comes between it and the next instruction, and its handler has to run (translate_sti()). */
static bool has_shadow(const struct translation *t)
{
	if (t->insn->mnemonic == ZYDIS_MNEMONIC_STI)
		return t->index + 1 == t->b->count;
	return (t->insn->mnemonic == ZYDIS_MNEMONIC_MOV || t->insn->mnemonic == ZYDIS_MNEMONIC_POP) &&
	    t->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER && t->operands[0].reg.value == ZYDIS_REGISTER_SS;
}

/* False: it is the last, and an end has been made. */
static bool translate_instruction(struct translation *t)
{
	if (!t->known) {
		t->flags_seen = true;
		translation_begin_native(t);
		leave_to_op(t);
		return false;
	}
	flags_note(t, !t->ends && copy_is_plain(t));
	if (t->ends) {
		translation_begin_native(t);
		if (!translate_branch(t) && !translate_end(t))
			leave_to_op(t);
		return false;
	}
	/* What is called from here may be left behind each handler: the interpreter sees to it that no interrupt comes. */
	if (has_shadow(t)) {
		translation_begin_native(t);
		leave_to_op(t);
		return false;
	}
	if (!translate_copy(t))
		add_to_run(t);
	stack_follow(t);
	return true;
}

static void translate_instructions(struct translation *t, unsigned from)
{
	for (unsigned i = from; i < t->b->count; i++) {
		take_instruction(t, i);
		t->window.touched = false;
		if (!translate_instruction(t))
			return;
		t->window.loaded = t->window.touched;
	}
	translation_begin_native(t);
	translate_fall_through(t);
}

/* --- the whole -------------------------------------------------------------------------------------- */

/* A copy and its stop for each instruction and a few more, and exits. */
#define ROOM (FORMS_MAX * ((2 * BLOCK_MAX_OPS + 2) * sizeof(struct op) + EXITS_MAX * sizeof(struct native_exit)))

/* What one block may need at most, by far. */
#define CODE_ROOM (96u << 10)

static void finish(struct translation *t, struct translator *translator)
{
	translator->used = align_up_u64((uint64_t)(t->e.at - translator->memory.writable), 16);
	translator->translations++;
	block_cache_keep(t->vp, t->room_used);
	if (t->twin) {
		t->b->twin = t->body;
		return;
	}
	t->b->native = t->entry;
	t->b->native_skip = (uint8_t)(t->body - t->entry);
	t->b->flags_free = t->flags_free;
	t->b->ops[0].fn = translated_enter;
}

static bool translate(struct soft_vp *vp, struct block *b, bool twin)
{
	struct translator *translator = vp->translator;
	struct cold colds[COLDS_MAX]; /* tens of KiB that need no zeros */
	struct translation t = {.vp = vp, .t = translator, .b = b, .flags.in_vp = true, .twin = twin, .tail = twin, .colds = colds};

	t.narrow = b->form == FORM_32_FLAT;
	t.word = t.narrow ? 4 : 8;

	if (translator->full)
		return false;
	if (translate_code_full(vp) || !(t.room = block_cache_reserve(vp, ROOM))) {
		translator->full = true;
		return false;
	}
	t.e = (struct emitter){.at = translator->memory.writable + translator->used,
	    .limit = translator->memory.writable + translator->used + CODE_ROOM,
	    .to_run = translator->memory.executable - translator->memory.writable};
	survey(&t);
	if (twin)
		t.body = emit_run_address(&t.e, t.e.at);
	else
		emit_entry(&t);
	translate_instructions(&t, 0);
	for (unsigned i = 0; i < GROUPS_MAX; i++)
		if (t.groups[i].looked) {
			group_begin_tail(&t, &t.groups[i]);
			translate_instructions(&t, t.groups[i].first);
		}
	for (unsigned i = 0; i < t.cold_count; i++)
		emit_cold(&t, &t.colds[i]);
	emit_window_miss(&t);
	if (t.e.full) {
		translator->refused++;
		return false;
	}
	finish(&t, translator);
	return true;
}

/* Failures before a block gets a twin: the first ones may only be pages that have not been written yet. */
#define TWIN_THRESHOLD 16u

uintptr_t translated_make_twin(struct soft_vp *vp, uintptr_t exit)
{
	struct block *b = ((struct native_exit *)exit)->block;

	if (++b->twin_heat < TWIN_THRESHOLD && b->twin_heat < vp->translator->options.threshold)
		return exit;
	return translate(vp, b, true) ? 0 : exit;
}

/* ops[0] of a block that is not translated yet. */
static const struct op *count_entry(struct soft_vp *vp, const struct op *op)
{
	struct block *b = vp->block, *hot;

	if (likely(++b->heat < vp->translator->options.threshold))
		return b->first(vp, op);
	if (vp->translator->full || translate_code_full(vp) || !(hot = block_heat(vp, b))) {
		vp->translator->full = true;
		return b->first(vp, op);
	}
	if (!translate(vp, hot, false))
		hot->ops[0].fn = hot->first;
	return dispatch(vp, hot->ops);
}

void translate_watch(struct soft_vp *vp, struct block *b)
{
	b->heat = 0;
	b->native = b->twin = NULL;
	b->twin_heat = 0;
	b->first = b->ops[0].fn;
	if (vp->translator && (b->form == FORM_64 || b->form == FORM_32_FLAT) && !b->crosses)
		b->ops[0].fn = count_entry;
}

void translate_flush(struct soft_vp *vp)
{
	if (!vp->translator)
		return;
	vp->translator->used = vp->translator->fixed;
	vp->translator->full = false;
	vp->run_begin = NULL; /* a fault left it there; the memory will hold other things */
	translate_forget_targets(vp);
}

void translate_forget_targets(struct soft_vp *vp)
{
	if (!vp->translator)
		return;
	/* To begin with; and a key with the number of a round long ago would be taken for a new one. */
	if (!++vp->code_epoch) {
		memset(vp->translator->targets, 0, vp->translator->target_count * sizeof(struct native_target));
		vp->code_epoch = 1; /* no key is 0 */
	}
	vp->private_code = 0;
	code_key_changed(vp);
	memset(vp->code_pages, 0, sizeof(vp->code_pages));
	code_page_note(vp); /* it may be called from there */
}

void translate_forget_page(struct soft_vp *vp, uint64_t linear)
{
	unsigned bit = code_page_bit(linear);

	if (vp->code_pages[bit / 64] >> (bit % 64) & 1)
		translate_forget_targets(vp);
}

bool translate_full(const struct soft_vp *vp)
{
	return vp->translator && vp->translator->full;
}

bool translate_code_full(const struct soft_vp *vp)
{
	return vp->translator && vp->translator->memory.size - vp->translator->used < CODE_ROOM;
}

void translate_has_room(struct soft_vp *vp)
{
	if (vp->translator)
		vp->translator->full = false;
}
