// SPDX-License-Identifier: GPL-2.0-or-later
/* run.c - the loop that a VP's thread is in: blocks, and between them whatever wants attention. */
#include <stdio.h>
#include <string.h>

#include "hypervisor/soft/block_cache.h"
#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/translate.h"

/* Handlers that do not tail-call come back here after each instruction, the others after a block or many. */
static void run_ops(struct soft_vp *vp, const struct op *op)
{
	while (op)
		op = op->fn(vp, op);
}

/* --- single step ---------------------------------------------------------------------------------------- */

/* DR0-3 as instruction breakpoints: the bits for DR6. */
static uint32_t instruction_breakpoints(const struct soft_vp *vp)
{
	uint64_t linear = vp->seg_base[SEG_CS] + vp->rip;
	uint32_t hit = 0;

	if (vp->mode != MODE_64)
		linear = (uint32_t)linear;
	for (unsigned i = 0; i < 4; i++)
		if (vp->dr[7] >> (2 * i) & 3 && !(vp->dr[7] >> (16 + 4 * i) & 3) && vp->dr[i] == linear)
			hit |= 1u << i;
	return hit;
}

static void step(struct soft_vp *vp)
{
	bool trap = vp->flags_system & FLAG_TF, shadow = vp->interrupt_shadow;
	uint64_t rip = vp->rip;
	uint32_t hit, held = vp->breakpoints_held;

	vp->interrupt_shadow = false;
	vp->breakpoints_held = 0;
	if (vp->dr[7] & 0xff && !(vp->flags_system & FLAG_RF) && !shadow) {
		hit = instruction_breakpoints(vp);
		if (hit) {
			/* A fault: RF in the frame keeps it from hitting again. */
			vp->flags_system |= FLAG_RF;
			debug_trap(vp, hit);
			return;
		}
	}
	vp->no_step = false;
	vp->breakpoints = held;
	vp->step_rf = false;
	run_ops(vp, block_single(vp));
	/* RF lasts for one instruction, and longer only when the same one goes on (REP) or it was set just now. */
	if (vp->rip != rip && !vp->step_rf)
		vp->flags_system &= ~FLAG_RF;
	hit = vp->breakpoints | (trap && !vp->no_step ? DR6_BS : 0);
	if (hit)
		debug_trap(vp, hit);
}

/* --- attention -------------------------------------------------------------------------------------------- */

static void take_nmi(struct soft_vp *vp)
{
	atomic_fetch_and(&vp->attention, ~ATTENTION_NMI);
	vp->nmi_blocked = true;
	event_deliver(vp, EVENT_EXTERNAL, VECTOR_NMI, vp->rip);
}

static void take_interrupt(struct soft_vp *vp)
{
	int vector = vp->soft->host->take_interrupt(vp->soft->context, vp->index);

	if (vector < 0) {
		vp->interrupt_pending = false;
		return;
	}
	event_deliver(vp, EVENT_EXTERNAL, (uint8_t)vector, vp->rip);
	/* Through a trap gate another one may follow at once. */
	if (vp->flags_system & FLAG_IF)
		atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
}

/* One round of looking around; true when the run ends, *stop saying why. */
static bool attend(struct soft_vp *vp, enum soft_stop *stop)
{
	uint32_t attention = atomic_load(&vp->attention);
	bool shadow = vp->interrupt_shadow;

	if (attention & ATTENTION_KICK) {
		atomic_fetch_and(&vp->attention, ~ATTENTION_KICK);
		*stop = SOFT_STOP_KICK;
		return true;
	}
	if (attention & ATTENTION_CODE) {
		atomic_fetch_and(&vp->attention, ~ATTENTION_CODE);
		translate_forget_targets(vp);
	}
	if (attention & ATTENTION_FORM)
		atomic_fetch_and(&vp->attention, ~ATTENTION_FORM);
	if (attention & ATTENTION_FLUSH)
		flush_serve(vp);
	if (attention & ATTENTION_INTERRUPT) {
		atomic_fetch_and(&vp->attention, ~ATTENTION_INTERRUPT);
		vp->interrupt_pending = true;
	}
	if (attention & ATTENTION_NMI && !vp->nmi_blocked && !shadow)
		take_nmi(vp);
	else if (vp->interrupt_pending && vp->flags_system & FLAG_IF && !shadow)
		take_interrupt(vp);
	if (vp->halted) {
		*stop = SOFT_STOP_HALT;
		return true;
	}
	return false;
}

/* Blocked ones stay pending, but must not be looked at before each block. True when the next instruction
 * must run alone: an interrupt waits for the end of the shadow, and code may close IF again right after
 * (STI, one instruction, CLI). */
static bool rest(struct soft_vp *vp)
{
	bool shadow = vp->interrupt_shadow;

	if (vp->nmi_blocked && atomic_load(&vp->attention) & ATTENTION_NMI) {
		atomic_fetch_and(&vp->attention, ~ATTENTION_NMI);
		vp->nmi_waiting = true;
	}
	vp->interrupt_shadow = false;
	if (!shadow || !vp->interrupt_pending)
		return false;
	atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
	return true;
}

static enum soft_stop run_blocks(struct soft_vp *vp)
{
	enum soft_stop stop;

	for (;;) {
		bool alone = false;

		if (atomic_load_explicit(&vp->attention, memory_order_relaxed) || vp->halted || vp->interrupt_shadow) {
			if (attend(vp, &stop))
				return stop;
			if (vp->slow) {
				step(vp);
				continue;
			}
			alone = rest(vp);
		}
		run_ops(vp, alone ? block_single(vp) : block_start(vp));
	}
}

/* What a loaded state was about to deliver. May fault like any delivery: then that is what comes of it. */
static void deliver_again(struct soft_vp *vp)
{
	bool exception = vp->again == AGAIN_EXCEPTION;

	if (vp->again == AGAIN_NOTHING)
		return;
	vp->again = AGAIN_NOTHING;
	if (!exception) {
		event_deliver(vp, EVENT_EXTERNAL, vp->again_event.vector, vp->rip);
		return;
	}
	vp->fault = vp->again_event;
	vp->fault.linear = vp->cr2;
	fault_deliver(vp);
}

static enum soft_stop run_until_stop(struct soft_vp *vp)
{
	int left = sigsetjmp(vp->leave, 0);

	switch (left) {
	case 0:
		deliver_again(vp);
		break;
	case LEAVE_FAULT:
		fault_deliver(vp);
		break;
	case LEAVE_TRIPLE_FAULT:
		vp->shut_down = true;
		vp->delivering = -1;
		return SOFT_STOP_TRIPLE_FAULT;
	default:
		return SOFT_STOP_ERROR;
	}
	return run_blocks(vp);
}

/* The bytes at RIP, as far as they are mapped, behind the text that is there. */
static void report_code(struct soft_vp *vp)
{
	size_t used = strlen(vp->error);
	uint64_t linear = vp->seg_base[SEG_CS] + vp->rip;

	for (unsigned i = 0; i < 16; i++) {
		struct place place;

		if (!translate_quietly(vp, linear + i, TLB_SUPERVISOR_AC, ACCESS_READ, &place) || !place.host)
			break;
		used += (size_t)snprintf(vp->error + used, sizeof(vp->error) - used, "%s%02x",
		    i ? " " : "; bytes at RIP: ", *place.host);
		if (used >= sizeof(vp->error))
			break;
	}
}

enum soft_stop soft_vp_run(struct soft_vp *vp)
{
	enum soft_stop stop;

	if (vp->shut_down)
		return SOFT_STOP_TRIPLE_FAULT;
	vp->error[0] = 0;
	vp->delivering = -1;
	/* What the host did meanwhile need not have been announced. */
	atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
	translator_attach(vp);
	vp_set_running(vp, true);
	stop = run_until_stop(vp);
	vp_set_running(vp, false);
	translator_detach(vp);
	if (stop == SOFT_STOP_TRIPLE_FAULT)
		snprintf(vp->error, sizeof(vp->error), "triple fault: last exception was vector %u, error code 0x%x",
		    vp->fault.vector, vp->fault.code);
	if (stop == SOFT_STOP_TRIPLE_FAULT || stop == SOFT_STOP_ERROR)
		report_code(vp);
	return stop;
}

void soft_vp_notify(struct soft_vp *vp)
{
	atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
}

void soft_vp_kick(struct soft_vp *vp)
{
	atomic_fetch_or(&vp->attention, ATTENTION_KICK);
}

void soft_vp_nmi(struct soft_vp *vp)
{
	atomic_fetch_or(&vp->attention, ATTENTION_NMI);
}

bool soft_vp_interruptible(const struct soft_vp *vp)
{
	return vp->flags_system & FLAG_IF && !vp->interrupt_shadow;
}

const char *soft_vp_error(const struct soft_vp *vp)
{
	return vp->error;
}

uint64_t soft_vp_instructions(const struct soft_vp *vp)
{
	return vp->instructions;
}
