// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * translate_run.c - around translated code: how it is entered and left, how it calls handlers, how it finds the
 * code of a computed target.
 */
#include "hypervisor/soft/translate_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/translate_host.h"

/* --- vector state: while vectors_live, the host's vector registers and MXCSR are the guest's, all exceptions masked.
 * Registers go to and fro where C code is called (emit_vectors()). ------------------------------------------------ */

static void vectors_leave(struct soft_vp *vp)
{
	uint32_t flags = mxcsr_leave(vp);

	vp->vectors_live = 0;
	vp->mxcsr |= flags;
}

static uint8_t vectors_that_run(const struct soft_vp *vp)
{
	if (vp->fp_block & (FP_BLOCK_SSE_UD | FP_BLOCK_SSE_NM) || !mxcsr_all_masked(vp))
		return 0;
	return vp->fp_block & FP_BLOCK_AVX_UD ? VECTORS_SSE : VECTORS_SSE | VECTORS_AVX;
}

static void vectors_enter(struct soft_vp *vp)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(vp->mxcsr) : "memory");
	vp->vectors_live = vectors_that_run(vp);
}

uintptr_t translated_enable_vectors(struct soft_vp *vp, uintptr_t exit)
{
	if (vp->vectors_live)
		vectors_leave(vp);
	if (!(vectors_that_run(vp) & VECTORS_SSE))
		return exit;
	vectors_enter(vp);
	return 0;
}

uintptr_t translated_enable_avx(struct soft_vp *vp, uintptr_t exit)
{
	if (vp->vectors_live)
		vectors_leave(vp);
	if (!(vectors_that_run(vp) & VECTORS_AVX))
		return exit;
	vectors_enter(vp);
	return 0;
}

/* --- return addresses on the host's stack ------------------------------------------------------------- */

/* What translated code must not be returned to: the address space, the rights, or a page with code may be others.
 * Translated code has called, so the first word is where that goes on. */
static void forget_returns(struct soft_vp *vp, uint64_t key, uint64_t asid)
{
	uint64_t *base = (uint64_t *)vp->native_stack;

	if (vp->code_key == key && vp->asid == asid)
		return;
	base[-1] = *(const uint64_t *)vp->native_rsp;
	vp->native_rsp = (uint64_t)(uintptr_t)(base - 1);
}

/* --- handlers ----------------------------------------------------------------------------------------- */

const struct op *translated_stop(struct soft_vp *vp, const struct op *op)
{
	vp->rip = op_rip(vp, op);
	vp->stopped = true;
	return NULL;
}

/* From op to the stop. Handlers that do not go on by themselves return the next one. True: the stop was reached,
 * else vp->handled is what to go on with. */
static bool run_copies(struct soft_vp *vp, const struct op *op, const struct op *stop)
{
	const struct op *next = op;

	vp->stopped = false;
	do {
		op = next;
		next = op->fn(vp, op);
		vp->handled = next;
		if (next == stop)
			return stop->fn == translated_stop; /* unless a store made it a way out */
	} while (next > op && next < stop);
	return !next && vp->stopped;
}

static const struct op *find_stop(const struct op *op)
{
	while (op->fn != translated_stop)
		op++;
	return op;
}

uintptr_t translated_call_handler(struct soft_vp *vp, uintptr_t argument)
{
	const struct op *op = (const struct op *)argument, *stop = find_stop(op);
	struct block *b = (struct block *)(uintptr_t)stop->data;
	uint64_t drops = vp->window_drops, key = vp->code_key, asid = vp->asid;
	uint8_t live = vp->vectors_live;
	bool done;

	if (live)
		vectors_leave(vp);
	vp->block = b;
	vp->run_begin = (struct op *)(uintptr_t)op;
	vp->run_end = (struct op *)(uintptr_t)stop + 1;
	done = run_copies(vp, op, stop);
	vp->run_begin = NULL;
	if (!done)
		return (uintptr_t)&vp->translator->handled;
	/* Its own store may have hit it; and who writes to a device means it now. */
	if (atomic_load_explicit(&vp->attention, memory_order_relaxed) || vp->window_drops != drops ||
	    atomic_load_explicit(b->generation, memory_order_relaxed) != b->seen ||
	    (live && vectors_that_run(vp) != live)) {
		vp->rip = op_rip(vp, stop);
		vp->handled = NULL;
		return (uintptr_t)&vp->translator->handled;
	}
	if (live)
		vectors_enter(vp);
	forget_returns(vp, key, asid);
	return 0;
}

uintptr_t translated_finish(struct soft_vp *vp, uintptr_t argument)
{
	const struct op *op = (const struct op *)argument, *stop = op + 1;
	struct block *b = (struct block *)(uintptr_t)stop->data;
	uint64_t key = vp->code_key, asid = vp->asid;
	const struct op *next;

	if (vp->vectors_live)
		vectors_leave(vp);
	vp->block = b;
	vp->stopped = false;
	vp->handled = NULL;
	next = op->fn(vp, op);
	if (next == stop)
		translated_stop(vp, stop);
	else if (next)
		vp->handled = next;
	if (vp->handled || vp->halted || vp->interrupt_shadow || vp->form != b->form ||
	    atomic_load_explicit(&vp->attention, memory_order_relaxed))
		return (uintptr_t)&vp->translator->handled;
	forget_returns(vp, key, asid);
	return 0;
}

/* --- entering and leaving -------------------------------------------------------------------------------- */

/* From now on the edge leads to `to`, which lies in the same page and is as fresh. */
static void link_edge(struct soft_vp *vp, struct native_exit *x, const struct block *to)
{
	const struct native_memory *m = &vp->translator->memory;
	uint32_t from = x->patch;
	int32_t distance;

	if (x->shortcut && to->flags_free) {
		m->writable[x->shortcut] = 0xe9;
		from = x->shortcut + 1;
	}
	distance = (int32_t)(to->native + to->native_skip - m->executable - (from + 4));
	memcpy(m->writable + from, &distance, 4);
}

/* `x` led out of translated code because its target was not known: next time it may. */
static const struct op *follow(struct soft_vp *vp, struct native_exit *x)
{
	uint64_t rip = (vp->gpr[GPR_CODE_BASE] + x->target) & vp->ip_mask;
	struct block *from = x->block, *to;
	const struct op *next;

	vp->block = from;
	next = branch_near(vp, x->slot, rip);
	if (!next)
		return NULL;
	to = vp->block;
	if (x->patch && to->host_page == from->host_page && to->native && to->seen == from->seen)
		link_edge(vp, x, to);
	return dispatch(vp, next);
}

const struct op *translated_enter(struct soft_vp *vp, const struct op *op)
{
	struct native_exit *x;

	(void)op;
	code_page_note(vp);
	x = (struct native_exit *)vp->translator->enter(vp, vp->block->native + vp->block->native_skip);
	if (vp->vectors_live)
		vectors_leave(vp);
	switch (x->kind) {
	case EXIT_OP:
		vp->block = x->block;
		if (x->op == 0)
			return x->block->first(vp, x->block->ops);
		return dispatch(vp, &x->block->ops[x->op]);
	case EXIT_EDGE:
		return follow(vp, x);
	case EXIT_RIP:
		vp->block = x->block;
		vp->rip = vp->gpr[GPR_CODE_BASE] + x->target;
		return NULL;
	case EXIT_NOWHERE:
		return NULL;
	default:
		return vp->handled ? dispatch(vp, vp->handled) : NULL;
	}
}

/* --- code that is there from the start -------------------------------------------------------------------- */

static void emit_registers(struct emitter *e, bool load)
{
	for (unsigned i = 0; i < 16; i++) {
		if (home(i) == NO_REGISTER)
			continue;
		if (load)
			emit_load(e, home(i), gpr_offset(i));
		else
			emit_store(e, home(i), gpr_offset(i));
	}
}

static const uint8_t saved_registers[] = {HOST_RBX, HOST_RBP, 12, 13, 14, 15};

/* Vector registers, if they are the guest's. The upper halves are 0 afterwards, or C code would be slow. */
static void emit_vectors(const struct translator *t, struct emitter *e, bool load)
{
	uint8_t *none;

	emit_rm(e, (struct host_opcode){.opcode = 0x80}, 7, (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER,
	    .vp = true, .disp = VP_OFFSET(vectors_live)}); /* cmp byte [vectors_live], 0 */
	emit8(e, 0);
	none = emit_jump_if_forward(e, IF_Z);
	for (unsigned n = 0; n < 16; n++)
		emit_rm(e, (struct host_opcode){.map = 1, .opcode = load ? 0x28 : 0x29, .vex = t->avx, .length = t->avx}, n,
		    (struct host_memory){.base = NO_REGISTER, .index = NO_REGISTER, .vp = true,
		    .disp = (int32_t)(VP_OFFSET(ymm) + n * 32)});
	if (t->avx && !load)
		EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
	emit_land(e, none);
}

/* Return addresses of translated calls on the host's stack: what RET pops is compared with the second word; the first
 * is what the host's CALL has pushed. */
#define RETURNS     256u
#define RETURN_SIZE 16u

/* Below the saved registers, to begin with: a return address that nobody guesses; who did would be left to the interpreter. */
#define FRAME 16u

static void emit_enter(struct translator *t, const struct soft_vp *vp, struct emitter *e)
{
	const uint8_t *nowhere = emit_run_address(e, e->at);

	emit_store(e, SCRATCH1, VP_OFFSET(rip));
	emit_constant(e, SCRATCH1, (uintptr_t)&t->nowhere);
	emit_jump(e, t->leave);
	t->enter = (uintptr_t(*)(struct soft_vp *, const uint8_t *))(uintptr_t)emit_run_address(e, e->at);
	for (unsigned i = 0; i < sizeof(saved_registers); i++)
		emit_plus(e, (struct host_opcode){.opcode = 0x50}, saved_registers[i]);
	emit_constant(e, SCRATCH1, vp->no_window + 1);
	EMIT(e, 0x41, 0x52); /* push r10 */
	emit_constant(e, SCRATCH1, (uintptr_t)nowhere);
	EMIT(e, 0x41, 0x52);
	emit_store(e, HOST_RSP, VP_OFFSET(native_stack));
	emit_lea(e, SCRATCH1, (struct host_memory){.base = HOST_RSP, .index = NO_REGISTER,
	    .disp = -(int32_t)(RETURNS * RETURN_SIZE)});
	emit_store(e, SCRATCH1, VP_OFFSET(native_limit));
	emit_move(e, SCRATCH1, HOST_RSI);
	emit_registers(e, true);
	EMIT(e, 0x41, 0xff, 0xe2);              /* jmp r10 */
}

static void emit_return(struct emitter *e)
{
	emit_load(e, HOST_RSP, VP_OFFSET(native_stack));
	EMIT(e, 0x48, 0x83, 0xc4, FRAME); /* add rsp, FRAME */
	for (unsigned i = sizeof(saved_registers); i-- > 0;)
		emit_plus(e, (struct host_opcode){.opcode = 0x58}, saved_registers[i]);
	EMIT(e, 0xc3);
}

static void emit_leave(struct translator *t, struct emitter *e)
{
	t->leave = emit_run_address(e, e->at);
	emit_registers(e, false);
	emit_vectors(t, e, false);
	emit_move(e, HOST_RAX, SCRATCH1);
	emit_return(e);
}

static void emit_call_thunk(struct translator *t, struct soft_vp *vp, struct emitter *e)
{
	uint8_t *leaves;

	t->handle = emit_run_address(e, e->at);
	emit_constant(e, SCRATCH2, (uintptr_t)translated_call_handler);
	t->call = emit_run_address(e, e->at);
	emit_registers(e, false);
	emit_vectors(t, e, false);
	emit_constant(e, HOST_RDI, (uintptr_t)vp);
	emit_move(e, HOST_RSI, SCRATCH1);
	emit_store(e, HOST_RSP, VP_OFFSET(native_rsp));
	EMIT(e, 0x48, 0x83, 0xe4, 0xf0); /* and rsp, -16 */
	EMIT(e, 0x41, 0xff, 0xd3);       /* call r11 */
	EMIT(e, 0x48, 0x85, 0xc0);       /* test rax, rax */
	leaves = emit_jump_if_forward(e, IF_NZ);
	emit_load(e, HOST_RSP, VP_OFFSET(native_rsp));
	emit_vectors(t, e, true);
	emit_registers(e, true);
	EMIT(e, 0xc3);
	emit_land(e, leaves);
	emit_return(e);
}

#define AT(register, field) \
	((struct host_memory){.base = (register), .index = NO_REGISTER, .disp = (int32_t)(field)})
#define PLAIN(code) ((struct host_opcode){.opcode = (code), .wide = true})

/* Note for go_to_computed() that SCRATCH1 leads to SCRATCH2; SCRATCH1 becomes its page. */
static void emit_remember(const struct translator *t, struct emitter *e)
{
	emit_rr(e, (struct host_opcode){.opcode = 0x8b}, HOST_RAX, SCRATCH1);
	emit_rm(e, (struct host_opcode){.opcode = 0x33}, HOST_RAX, (struct host_memory){.base = NO_REGISTER,
	    .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(code_mix)}); /* xor eax, [code_mix] */
	EMIT(e, 0x25); /* and eax, … */
	emit32(e, (t->target_count - 1) << 2);
	EMIT(e, 0xc1, 0xe0, 3); /* shl eax, 3 */
	emit_vp(e, 0x03, HOST_RAX, VP_OFFSET(native_targets));
	emit_load(e, HOST_RCX, VP_OFFSET(code_key));
	emit_rm(e, PLAIN(0x89), SCRATCH1, AT(HOST_RAX, offsetof(struct native_target, rip)));
	emit_rm(e, PLAIN(0x89), HOST_RCX, AT(HOST_RAX, offsetof(struct native_target, key)));
	emit_rm(e, PLAIN(0x89), SCRATCH2, AT(HOST_RAX, offsetof(struct native_target, native)));
	EMIT(e, 0x49, 0x81, 0xe2); /* and r10, -4096 */
	emit32(e, (uint32_t)-GUEST_PAGE_SIZE);
	emit_rm(e, PLAIN(0x89), SCRATCH1, AT(HOST_RAX, offsetof(struct native_target, code_base)));
	emit_move(e, HOST_RCX, SCRATCH1);
	EMIT(e, 0x48, 0xc1, 0xe9, GUEST_PAGE_SHIFT); /* shr rcx, 12 */
	EMIT(e, 0x81, 0xe1);                         /* and ecx, … */
	emit32(e, CODE_PAGES_BITS - 1);
	emit_rm(e, (struct host_opcode){.map = 1, .opcode = 0xab, .wide = true}, HOST_RCX, (struct host_memory){
	    .base = NO_REGISTER, .index = NO_REGISTER, .vp = true, .disp = VP_OFFSET(code_pages)}); /* bts […], rcx */
}

/* What branch_find() does, for a target in SCRATCH1, as far as the jump cache serves. */
static void emit_lookup(struct translator *t, const struct soft_vp *vp, struct emitter *e)
{
	uint8_t *misses[5];

	t->lookup = emit_run_address(e, e->at);
	emit_store(e, HOST_RAX, VP_OFFSET(native_saved));
	emit_store(e, HOST_RCX, VP_OFFSET(native_linear));
	/* The execute tag. */
	emit_move(e, HOST_RAX, SCRATCH1);
	EMIT(e, 0x48, 0xc1, 0xe8, GUEST_PAGE_SHIFT - 6); /* shr rax, 6 */
	EMIT(e, 0x25);                                   /* and eax, … */
	emit32(e, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_vp(e, 0x03, HOST_RAX, VP_OFFSET(tlb));
	emit_move(e, HOST_RCX, SCRATCH1);
	EMIT(e, 0x48, 0x81, 0xe1); /* and rcx, -4096 */
	emit32(e, (uint32_t)-GUEST_PAGE_SIZE);
	emit_move(e, SCRATCH2, HOST_RCX);
	emit_vp(e, 0x0b, HOST_RCX, VP_OFFSET(asid));
	emit_rm(e, PLAIN(0x3b), HOST_RCX, AT(HOST_RAX, offsetof(struct tlb_entry, exec)));
	misses[0] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, PLAIN(0x03), SCRATCH2, AT(HOST_RAX, offsetof(struct tlb_entry, addend)));
	emit_rm(e, PLAIN(0x8b), HOST_RCX, AT(HOST_RAX, offsetof(struct tlb_entry, private)));
	emit_vp(e, 0x09, HOST_RCX, VP_OFFSET(private_code)); /* or [private_code], rcx */
	/* The jump cache. */
	emit_move(e, HOST_RAX, SCRATCH1);
	EMIT(e, 0x48, 0xc1, 0xe8, 14); /* shr rax, 14 */
	emit_rr(e, PLAIN(0x33), HOST_RAX, SCRATCH1);
	EMIT(e, 0x25);
	emit32(e, (JUMP_ENTRIES >> vp->table_shift) - 1);
	EMIT(e, 0x48, 0xc1, 0xe0, 4); /* shl rax, 4 */
	emit_vp(e, 0x03, HOST_RAX, VP_OFFSET(jumps));
	emit_load(e, HOST_RCX, VP_OFFSET(form_tag));
	emit_rr(e, PLAIN(0x33), HOST_RCX, SCRATCH1);
	emit_rm(e, PLAIN(0x3b), HOST_RCX, AT(HOST_RAX, offsetof(struct jump_entry, tag)));
	misses[1] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, PLAIN(0x8b), HOST_RAX, AT(HOST_RAX, offsetof(struct jump_entry, block)));
	emit_rm(e, PLAIN(0x3b), SCRATCH2, AT(HOST_RAX, offsetof(struct block, host_page)));
	misses[2] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, PLAIN(0x8b), HOST_RCX, AT(HOST_RAX, offsetof(struct block, generation)));
	EMIT(e, 0x8b, 0x09); /* mov ecx, [rcx] */
	emit_rm(e, (struct host_opcode){.opcode = 0x3b}, HOST_RCX, AT(HOST_RAX, offsetof(struct block, seen)));
	misses[3] = emit_jump_if_forward(e, IF_NZ);
	emit_rm(e, PLAIN(0x8b), SCRATCH2, AT(HOST_RAX, offsetof(struct block, native)));
	EMIT(e, 0x4d, 0x85, 0xdb); /* test r11, r11 */
	misses[4] = emit_jump_if_forward(e, IF_Z);
	emit_remember(t, e);
	emit_store(e, SCRATCH1, gpr_offset(GPR_CODE_BASE));
	emit_load(e, HOST_RAX, VP_OFFSET(native_saved));
	emit_load(e, HOST_RCX, VP_OFFSET(native_linear));
	EMIT(e, 0xc3);
	for (unsigned i = 0; i < 5; i++)
		emit_land(e, misses[i]);
	EMIT(e, 0x45, 0x31, 0xdb); /* xor r11d, r11d */
	emit_load(e, HOST_RAX, VP_OFFSET(native_saved));
	emit_load(e, HOST_RCX, VP_OFFSET(native_linear));
	EMIT(e, 0xc3);
}

_Static_assert(sizeof(struct jump_entry) == 16, "emit_lookup() says so");

/* --- making and unmaking ------------------------------------------------------------------------------------ */

static void emit_fixed(struct translator *t, struct soft_vp *vp)
{
	struct emitter e = {.at = t->memory.writable, .limit = t->memory.writable + t->memory.size,
	    .to_run = t->memory.executable - t->memory.writable};

	emit_leave(t, &e);
	emit_enter(t, vp, &e);
	emit_call_thunk(t, vp, &e);
	emit_lookup(t, vp, &e);
	emit_window_fill(t, &e, false);
	emit_window_fill(t, &e, true);
	t->fixed = t->used = align_up_u64((uint64_t)(e.at - t->memory.writable), 64);
}

/* A page that is not canonical and that nobody guesses; and if someone did, it would be this scratch page. */
static int window_create(struct soft_vp *vp)
{
	uint64_t secret;

	vp->scratch_page = mmap(NULL, GUEST_PAGE_SIZE * 3, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vp->scratch_page == MAP_FAILED || getrandom(&secret, sizeof(secret), 0) != sizeof(secret)) {
		vp->scratch_page = NULL;
		return -ENOMEM;
	}
	vp->no_window = (secret >> 2 | 1ull << 62) & PAGE_MASK & ~(1ull << 63);
	vp->stack_page = 0;
	window_drop(vp);
	return 0;
}

int translator_create(struct soft_vp *vp, const struct translate_options *options, int code_file, uint64_t offset, size_t size)
{
	struct translator *t;

	if (!options->on || !translate_host_serves())
		return 0;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->target_count = NATIVE_TARGETS >> vp->table_shift;
	t->targets = calloc(t->target_count, sizeof(*t->targets));
	if (!t->targets || window_create(vp) || native_memory_create(&t->memory, code_file, offset, "bulkhead-code", size)) {
		free(t->targets);
		free(t);
		return -ENOMEM;
	}
	t->options = *options;
	t->handled.kind = EXIT_HANDLED;
	t->nowhere.kind = EXIT_NOWHERE;
	t->avx = translate_host_has_avx();
	emit_fixed(t, vp);
	vp->translator = t;
	vp->native_targets = t->targets;
	vp->code_epoch = UINT32_MAX; /* a round begins */
	translate_forget_targets(vp);
	return 0;
}

void translator_destroy(struct soft_vp *vp)
{
	if (vp->scratch_page)
		munmap(vp->scratch_page, GUEST_PAGE_SIZE * 3);
	vp->scratch_page = NULL;
	if (!vp->translator)
		return;
	native_memory_destroy(&vp->translator->memory);
	free(vp->translator->targets);
	free(vp->translator);
	vp->translator = NULL;
}

void translator_attach(struct soft_vp *vp)
{
	if (!vp->translator)
		return;
	vp->run_begin = NULL;
	vp->vectors_live = 0;
	window_drop(vp);
	translate_set_gs(vp);
}

void translator_detach(struct soft_vp *vp)
{
	if (vp->translator)
		translate_set_gs(NULL);
}
