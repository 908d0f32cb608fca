/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.h - everything that is saved of one virtual processor, in one form for all processors.
 *
 * A processor fills a `struct vp_state` while its VP stands still and takes one before the VP runs; what it
 * looks like in a file is saved_state.c's business. All fields mean what the SDM says of them and nothing that
 * only one processor knows. Local APIC and synthetic registers are part of it, wherever they are served.
 * Private to hypervisor/.
 */
#pragma once

#include "hypervisor/apic/apic.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/tlfs/tlfs.h"

/* The XSAVE area in standard form, header included: x87, SSE, AVX and what else XCR0 may name. */
#define VP_XSAVE_MAX 4096u
#define VP_MSR_MAX   64u

enum vp_activity {
	VP_ACTIVITY_RUNNING = 0,
	VP_ACTIVITY_HALTED = 1,        /* after HLT, until an interrupt */
	VP_ACTIVITY_WAITS_FOR_SIPI = 2 /* after INIT, or not started yet */
};

struct vp_msr {
	uint32_t index;
	uint32_t reserved;
	uint64_t value;
};

/* What is on its way into the VP (SDM volume 3, 25.8.3 words it the same way). */
struct vp_pending {
	bool interrupt_shadow; /* STI or MOV SS has just run */
	bool nmi_blocked;      /* until IRET */
	bool nmi;              /* one waits */
	/* An exception or an interrupt whose delivery was cut off and is to be done again. */
	bool exception, exception_has_code;
	uint8_t exception_vector;
	uint32_t exception_code;
	bool interrupt; /* acknowledged at the local APIC already */
	uint8_t interrupt_vector;
};

struct vp_state {
	struct vp_registers registers;
	uint64_t dr[8]; /* 4 and 5 are 0 */
	uint64_t xcr0;
	uint32_t xsave_size; /* bytes used: 576 or more */
	_Alignas(64) uint8_t xsave[VP_XSAVE_MAX];
	/* Those of the list in saved_state.c that the processor has: in any order, none twice. FS, GS base and
	 * EFER are in `registers`, the TSC is below. */
	uint32_t msr_count;
	struct vp_msr msrs[VP_MSR_MAX];
	uint64_t tsc; /* as RDTSC would read now, while partition time stands still */
	enum vp_activity activity;
	struct vp_pending pending;
	struct apic_state apic;
	struct tlfs_vp_state tlfs;
};
