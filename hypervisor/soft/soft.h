/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * soft.h - the software processor: runs x86-64 code by interpretation, no virtualization hardware.
 *
 * It knows the instruction set, paging and exceptions, and nothing of Hyper-V, of a local APIC or
 * of devices: whatever an instruction asks of the world outside goes through `struct soft_host`.
 * So it can be driven by a partition, by a test that compares it with the host CPU, or by a fuzzer.
 *
 * A `struct soft` is what the processors of one partition share; a `struct soft_vp` is one
 * processor and is run by one thread at a time. Functions marked [any] may be called from any
 * thread while processors run. Sources: Intel SDM (325462), AMD APM (24593).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/hypervisor.h"

struct soft;
struct soft_vp;
struct vp_state; /* hypervisor/state.h */

/* The general registers of a hypercall, in and out; the host changes what the call returns. */
struct soft_hypercall {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, r8;
	uint8_t xmm[6][16];
	bool long_mode; /* the caller runs 64-bit code */
	unsigned cpl;
};

/* All run on the VP's thread unless said otherwise, and must not longjmp. */
struct soft_host {
	uint64_t (*io_read)(void *context, unsigned vp, uint16_t port, unsigned size);
	void (*io_write)(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value);
	uint64_t (*mmio_read)(void *context, unsigned vp, gpa_t gpa, unsigned size);
	void (*mmio_write)(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value);
	/* MSRs that the processor does not own itself; false: #GP. */
	bool (*msr_read)(void *context, unsigned vp, uint32_t msr, uint64_t *value);
	bool (*msr_write)(void *context, unsigned vp, uint32_t msr, uint64_t value);
	/* Called for every CPUID with the processor's own answer in eax..edx: amend or replace it. */
	void (*cpuid)(void *context, unsigned vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
	/* VMCALL or VMMCALL; false: #UD. */
	bool (*hypercall)(void *context, unsigned vp, struct soft_hypercall *registers);
	/* The highest interrupt the VP may take now, acknowledged; -1 for none. */
	int (*take_interrupt)(void *context, unsigned vp);
	/* CR8, the task priority (bits 3-0). */
	uint64_t (*cr8_read)(void *context, unsigned vp);
	void (*cr8_write)(void *context, unsigned vp, uint64_t value);
	/* [any] The time stamp counter before IA32_TSC_ADJUST, common to all VPs. */
	uint64_t (*tsc)(void *context);
	/* While the processors are made: the file of soft_code_file() that nobody else uses; NULL: they make their own. */
	int (*code_file)(void *context);
};

/* Memory for the code that up to PARTITION_MAX_VPS processors make, of a size that cannot be changed: for a process that must not make any
 * later. -errno. */
int soft_code_file(void);

enum soft_stop {
	SOFT_STOP_HALT,         /* HLT or MWAIT: run again when an interrupt is pending */
	SOFT_STOP_KICK,         /* soft_vp_kick() */
	SOFT_STOP_TRIPLE_FAULT, /* shutdown; the registers are those of the last fault */
	SOFT_STOP_ERROR         /* soft_vp_error() says why the processor cannot go on */
};

/* `options` as on the command line, after "soft,"; NULL for the defaults. Unknown ones: -EINVAL. */
int soft_create(struct soft **out, const struct soft_host *host, void *context, unsigned vp_count,
    const char *options, struct error *err);
void soft_destroy(struct soft *soft);

/* All guest RAM is one mapping of `size` bytes at `base` on the host, the caller's, living longer
 * than the processor. Ranges say which guest physical addresses its parts answer; they are page
 * aligned and do not overlap. Everything else is MMIO. Once, before any VP runs. */
struct soft_range {
	gpa_t gpa;
	uint64_t size;
	uint64_t offset; /* into the mapping */
};

int soft_set_memory(struct soft *soft, void *base, uint64_t size, const struct soft_range *ranges,
    unsigned count, struct error *err);

/* [any] The host wrote guest memory where code may lie. */
void soft_memory_written(struct soft *soft, gpa_t gpa, uint64_t size);

/* [any, one at a time] Note from now on which pages of the mapping the VPs write; or no longer. */
int soft_track_dirty(struct soft *soft, bool on, struct error *err);

/* [any, one at a time] Add those written since tracking began, or since they were asked for last, to `bitmap`, whose
 * bit 0 is `first_page` (counted from the start of the mapping). What was stored before is seen on return. */
void soft_fetch_dirty(struct soft *soft, uint64_t first_page, uint64_t pages, uint64_t *bitmap);

/* VPs exist from soft_create() on, in the state of INIT (SDM volume 3, table 10-1), not running. */
struct soft_vp *soft_vp(struct soft *soft, unsigned index);

/* Run until one of the reasons above. Only the caller's thread touches the VP meanwhile. */
enum soft_stop soft_vp_run(struct soft_vp *vp);

/* [any] An interrupt may be pending (look at take_interrupt), soon and also out of a long string
 * instruction; does not stop the run. */
void soft_vp_notify(struct soft_vp *vp);

/* [any] As notify, and soft_vp_run() returns SOFT_STOP_KICK at the next instruction boundary, also
 * when it is called only later (the request is kept until it is answered). */
void soft_vp_kick(struct soft_vp *vp);

/* [any] Pend an NMI. */
void soft_vp_nmi(struct soft_vp *vp);

/* [any] Drop TLB entries of another VP: all, or those of one linear page (all address spaces). On
 * return the VP uses no old entry, or does not run; `self` is the VP whose thread calls, or NULL. */
void soft_vp_flush_tlb(struct soft_vp *vp, struct soft_vp *self);
void soft_vp_flush_tlb_page(struct soft_vp *vp, struct soft_vp *self, uint64_t linear);

/* [any] The same for the VPs in a bitmap of 64-bit words, and for `count` linear pages (0: all entries): waits
 * once for all of them. */
void soft_flush_tlbs(struct soft *soft, struct soft_vp *self, const uint64_t *vps, const uint64_t *pages,
    unsigned count);

/* Only while the VP does not run. init: the state after INIT, then the real-mode entry of a SIPI. */
void soft_vp_init(struct soft_vp *vp);
void soft_vp_sipi(struct soft_vp *vp, uint8_t vector);
void soft_vp_get_registers(struct soft_vp *vp, struct vp_registers *registers);
int soft_vp_set_registers(struct soft_vp *vp, const struct vp_registers *registers);

/* All of a VP that is the processor's, and back: not local APIC (and so not CR8), synthetic registers, or whether
 * it waits for a SIPI. The VP does not run. load: the state has passed vp_state_check(); -EINVAL or -ENOTSUP for
 * what this processor cannot be in. Its TSC, less IA32_TSC_ADJUST, is what soft_host.tsc says. */
void soft_vp_save(struct soft_vp *vp, struct vp_state *state);
int soft_vp_load(struct soft_vp *vp, const struct vp_state *state, struct error *err);

/* The guest began on a processor of AMD: what differs for programs is done AMD's way (SYSCALL in compatibility
 * mode). */
void soft_vp_take_for_amd(struct soft_vp *vp);

/* Whether the guest is shown PKU and PKS (protection keys), as it is if nothing is said. Where it is not, they are not there. The VP
 * has not run yet. */
void soft_vp_show_keys(struct soft_vp *vp, bool user, bool supervisor);

/* CPUID without the host's part: as this VP would answer, and the most that a VP may ever answer here (XCR0
 * full, OSXSAVE clear), which needs none. [any] */
void soft_vp_cpuid(const struct soft_vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
void soft_cpuid_features(uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);

/* Whether an interrupt could be taken at once (IF set, no shadow): for deciding on HLT. */
bool soft_vp_interruptible(const struct soft_vp *vp);

const char *soft_vp_error(const struct soft_vp *vp);
uint64_t soft_vp_instructions(const struct soft_vp *vp);
