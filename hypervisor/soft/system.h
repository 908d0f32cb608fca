/* SPDX-License-Identifier: GPL-2.0-or-later */
/* system.h - what the system_*.c files share. Private to hypervisor/soft/. */
#pragma once

#include "hypervisor/soft/block.h"
#include "hypervisor/soft/mmu.h"

/* The end of a handler that changed something the run loop may have to look at. */
static inline const struct op *system_next(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(atomic_load_explicit(&vp->attention, memory_order_relaxed))) {
		vp->rip = op_next_rip(vp, op);
		return NULL;
	}
	return dispatch(vp, op + 1);
}

/* The end of a handler that was decoded as the end of its block. */
static inline const struct op *system_leave(struct soft_vp *vp, const struct op *op)
{
	vp->rip = op_next_rip(vp, op);
	return NULL;
}

/* The end of STI, MOV SS, POP SS: no interrupt before the next instruction. Within a block there is none
 * anyway; but one that waits already is due right after that instruction. */
static inline const struct op *system_shadow(struct soft_vp *vp, const struct op *op)
{
	if (atomic_load_explicit(&vp->attention, memory_order_relaxed) || op + 1 == vp->block->ops + vp->block->count) {
		vp->interrupt_shadow = true;
		return system_leave(vp, op);
	}
	return dispatch(vp, op + 1);
}

static inline void require_cpl0(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->cpl))
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

static inline void require_protected(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(!vp_protected(vp)))
		raise_fault(vp, op, VECTOR_UD);
}

/* Around a call to the host that may take long: nobody waits for this VP meanwhile. Only in handlers that
 * end their block, since the TLB may change. */
static inline void host_call_begin(struct soft_vp *vp)
{
	vp_set_running(vp, false);
}

static inline void host_call_end(struct soft_vp *vp)
{
	vp_set_running(vp, true);
	/* The host may have slept or made an interrupt pending, and need not have said so. */
	atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
}

static inline uint64_t load_size(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size)
{
	return size == 8 ? load64(vp, op, linear) : size == 4 ? load32(vp, op, linear) :
	    size == 2 ? load16(vp, op, linear) : load8(vp, op, linear);
}

static inline void store_size(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, uint64_t value)
{
	if (size == 8)
		store64(vp, op, linear, value);
	else if (size == 4)
		store32(vp, op, linear, (uint32_t)value);
	else if (size == 2)
		store16(vp, op, linear, (uint16_t)value);
	else
		store8(vp, op, linear, (uint8_t)value);
}

static inline uint64_t reg_size(const struct soft_vp *vp, unsigned r, unsigned size)
{
	return size == 8 ? reg64(vp, r) : size == 4 ? reg32(vp, r) : size == 2 ? reg16(vp, r) : reg8(vp, r);
}

static inline void reg_size_set(struct soft_vp *vp, unsigned r, unsigned size, uint64_t value)
{
	if (size == 8)
		reg64_set(vp, r, value);
	else if (size == 4)
		reg32_set(vp, r, (uint32_t)value);
	else if (size == 2)
		reg16_set(vp, r, (uint16_t)value);
	else
		reg8_set(vp, r, (uint8_t)value);
}

/* --- the stack ---------------------------------------------------------------------------------------- */

static inline uint64_t stack_linear(struct soft_vp *vp, const struct op *op, int64_t displacement, unsigned size,
    bool write)
{
	uint64_t offset = (vp->gpr[GPR_RSP] + (uint64_t)displacement) & vp->stack_mask;

	return segment_linear(vp, op, SEG_SS, offset, size, write);
}

static inline uint64_t stack_load(struct soft_vp *vp, const struct op *op, int64_t displacement, unsigned size)
{
	return load_size(vp, op, stack_linear(vp, op, displacement, size, false), size);
}

static inline void stack_store(struct soft_vp *vp, const struct op *op, int64_t displacement, unsigned size,
    uint64_t value)
{
	store_size(vp, op, stack_linear(vp, op, displacement, size, true), size, value);
}

static inline void stack_move(struct soft_vp *vp, int64_t displacement)
{
	uint64_t rsp = vp->gpr[GPR_RSP] + (uint64_t)displacement;

	if (vp->stack_mask == 0xffff)
		reg16_set(vp, GPR_RSP * 8, (uint16_t)rsp);
	else
		vp->gpr[GPR_RSP] = rsp & vp->stack_mask;
}

/* --- by file -------------------------------------------------------------------------------------------- */

bool control_select(struct decoding *d, struct op *op);  /* system_control.c: CRs, DRs, TLB, flags, HLT */
bool tables_select(struct decoding *d, struct op *op);   /* system_tables.c: GDT, LDT, TSS, LAR … */
bool segments_select(struct decoding *d, struct op *op); /* system_segments.c: segment registers and bases */
bool far_select(struct decoding *d, struct op *op);      /* system_far.c: far branches, IRET, INT */
bool calls_select(struct decoding *d, struct op *op);    /* system_calls.c: SYSCALL … SYSEXIT, hypercalls */
bool io_select(struct decoding *d, struct op *op);       /* system_io.c */
bool machine_select(struct decoding *d, struct op *op);  /* system_machine.c: MSRs, CPUID, TSC */

/* Family, model and stepping: EAX of CPUID leaf 1, and EDX after INIT. Family 6, model 1AH (Nehalem): compilers'
 * run-time dispatch takes whatever a later model number promises (AVX-512) for there, without asking the
 * feature bits. */
#define PROCESSOR_SIGNATURE 0x000106a5u

/* Guest code never runs on the host CPU, so what can be tricked into speculation there is not here:
 * RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
 * BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. */
#define ARCH_CAPABILITIES ((1u << 0) | (1u << 1) | (1u << 3) | (1u << 4) | (1u << 5) | (1u << 6) | (1u << 8) | \
                           (1u << 13) | (1u << 14) | (1u << 15) | (1u << 20) | (1u << 24) | (1u << 26) | (1u << 27) | (1ull << 62))

/* CPUID without the host's part (cpuid.c); probe: once for each `struct soft`. */
void cpuid_probe(struct soft *soft);
void cpuid_model(const struct soft_vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);

/* All but CR8; the values have been checked (registers.c). */
void registers_take(struct soft_vp *vp, const struct vp_registers *r);

/* For saved state: false when there is no such MSR here, or when it may not hold `value` (msr.c). */
bool msr_saved_read(struct soft_vp *vp, uint32_t msr, uint64_t *value);
bool msr_saved_write(struct soft_vp *vp, uint32_t msr, uint64_t value);

/* What may be set here in CR4 (system_control.c) and EFER (msr.c). */
uint64_t cr4_known(const struct soft_vp *vp);
extern const uint64_t efer_known;

/* False: #GP (msr.c). */
bool msr_read(struct soft_vp *vp, uint32_t msr, uint64_t *value);
bool msr_write(struct soft_vp *vp, uint32_t msr, uint64_t value);
uint64_t tsc_read(const struct soft_vp *vp);
