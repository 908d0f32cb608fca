/* SPDX-License-Identifier: GPL-2.0-or-later */
/* interrupt.h - events through the IDT. Private to hypervisor/soft/. */
#pragma once

#include "hypervisor/soft/op.h"

/* What sigsetjmp(vp->leave) returns. */
enum leave { LEAVE_FAULT = 1, LEAVE_TRIPLE_FAULT, LEAVE_ERROR };

enum event {
	EVENT_FAULT,    /* an exception; what is pushed is vp->rip */
	EVENT_EXTERNAL, /* a hardware interrupt or NMI */
	EVENT_SOFTWARE, /* INT n, INT3, INTO: the gate's DPL counts */
	EVENT_ICEBP     /* INT1 */
};

/* Deliver the fault that was raised, with what double faults ask for. May raise again; does not return
 * when that makes a triple fault. */
void fault_deliver(struct soft_vp *vp);

/* Deliver an event; the handler's frame says `return_rip`. May raise: then on the instruction at vp->rip. */
void event_deliver(struct soft_vp *vp, enum event event, uint8_t vector, uint64_t return_rip);

/* #DB as a trap after the instruction before vp->rip: `dr6` has the reasons. */
void debug_trap(struct soft_vp *vp, uint32_t dr6);

/* DR6 and DR7 as #DB leaves them. */
void debug_report(struct soft_vp *vp, uint32_t reasons);

#define DR6_BS (1u << 14)
#define DR6_BD (1u << 13)
#define DR6_BT (1u << 15)
#define DR7_GD (1u << 13)

/* A task gate or TSS was met on the way of an event (task.c). */
void task_switch(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t return_rip, int reason,
    bool has_code, uint32_t code);
enum { TASK_JUMP, TASK_CALL, TASK_IRET, TASK_EVENT };

/* IRET in all modes: iret.c. */
const struct op *op_iret(struct soft_vp *vp, const struct op *op);
