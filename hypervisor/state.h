/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.h - everything that is saved of one virtual processor, in one form for all processors.
 *
 * A processor fills a `struct vp_state` while its VP stands still and takes one before the VP runs; what it
 * looks like in a file is saved_form.c's business. All fields mean what the SDM says of them and nothing that
 * only one processor knows. Local APIC and synthetic registers are part of it, wherever they are served.
 * Private to hypervisor/.
 */
#pragma once

#include "hypervisor/apic/apic.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/tlfs/tlfs.h"

/* The XSAVE area in standard form, header included: x87, SSE, AVX and what else XCR0 may name. */
#define VP_XSAVE_MAX    4096u
#define VP_XSAVE_LEGACY 512u /* where the header lies */
#define VP_XSAVE_MIN    576u
#define VP_MSR_MAX      64u

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
	uint64_t pdptr[4]; /* PAE paging outside long mode: as CR3 loaded them; else 0 */
	uint64_t dr[8];    /* 4 and 5 are 0 */
	uint64_t xcr0;
	uint32_t xsave_size; /* bytes used: VP_XSAVE_MIN or more */
	_Alignas(64) uint8_t xsave[VP_XSAVE_MAX];
	/* Those of vp_saved_msrs that the processor has: in any order, none twice. FS, GS base and EFER are
	 * in `registers`, the TSC is below. */
	uint32_t msr_count;
	struct vp_msr msrs[VP_MSR_MAX];
	/* As RDTSC would read now, while partition time stands still. Less IA32_TSC_ADJUST it is the same on
	 * all VPs; where it is not, VP 0 counts. */
	uint64_t tsc;
	enum vp_activity activity;
	struct vp_pending pending;
	struct apic_state apic;
	struct tlfs_vp_state tlfs;
};

/* --- the registers that are saved as MSRs (state.c) --------------------------------------------- */

extern const uint32_t vp_saved_msrs[];
extern const unsigned vp_saved_msr_count; /* at most VP_MSR_MAX */

/* "IA32_SPEC_CTRL" for those of the list, else NULL. */
const char *vp_msr_name(uint32_t msr);

/* For an MSR of a saved state that the processor does not have: 0 when it holds what it holds after reset,
 * for then nothing is lost; else -ENOTSUP and a sentence. */
int vp_msr_missing(uint32_t msr, uint64_t value, struct error *err);

/* IA32_ARCH_CAPABILITIES tells a guest what it need not defend itself against, so it must not change under
 * it: a processor goes on showing what was saved (`told`), and refuses it by this function where its own
 * value promises less. It is not in the state of a guest whose CPUID does not show that there is such a
 * register. */
#define VP_MSR_ARCH_CAPABILITIES 0x10au
int vp_check_arch_capabilities(uint64_t told, uint64_t have, struct error *err);

/* IA32_PKRS is in a state only where it is not 0: who does not know it reads the state of a guest that does not use it. */
#define VP_MSR_PKRS 0x6e1u

/* The value in a state, 0 when it is not there. */
uint64_t vp_state_msr(const struct vp_state *state, uint32_t msr);

/* A processor after power-up and INIT. `apic` and `tlfs` are left alone. */
void vp_state_reset(struct vp_state *state);

/* --- CPUID (cpuid.c) ----------------------------------------------------------------------------- */

struct cpuid_entry {
	uint32_t leaf, subleaf;
	bool has_subleaf; /* ECX chooses among several; else `subleaf` is 0 and any ECX gives this */
	uint32_t r[4];    /* EAX, EBX, ECX, EDX */
};

#define CPUID_TABLE_MAX 256u

/* What a guest was shown: basic, extended and hypervisor leaves. What belongs to one VP (APIC id) is VP 0's;
 * what follows from other registers (OSXSAVE, OSPKE, EBX of leaf 0xd for subleaves 0 and 1) is 0. */
struct cpuid_table {
	unsigned count;
	struct cpuid_entry entries[CPUID_TABLE_MAX];
};

/* NULL when the guest was shown no such leaf: it then reads zeros. */
const struct cpuid_entry *cpuid_table_find(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf);

/* One register of it, 0 when it is not there. */
uint32_t cpuid_table_register(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf,
			      unsigned number);

/* --- checks (state_check.c) ---------------------------------------------------------------------- */

/* -EBADMSG and a sentence for a state that no processor with this CPUID can be in. What only the processor
 * can know (which values an MSR takes) it checks itself; local APIC and synthetic registers theirs. */
int vp_state_check(const struct vp_state *state, const struct cpuid_table *cpuid, struct error *err);
