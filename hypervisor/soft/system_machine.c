// SPDX-License-Identifier: GPL-2.0-or-later
/* system_machine.c - MSRs, CPUID, the time stamp counter. */
#include "hypervisor/soft/system.h"

static void edx_eax_set(struct soft_vp *vp, uint64_t value)
{
	vp->gpr[GPR_RAX] = (uint32_t)value;
	vp->gpr[GPR_RDX] = value >> 32;
}

static const struct op *op_rdmsr(struct soft_vp *vp, const struct op *op)
{
	uint64_t value = 0;

	require_cpl0(vp, op);
	if (!msr_read(vp, (uint32_t)vp->gpr[GPR_RCX], &value))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	edx_eax_set(vp, value);
	return system_leave(vp, op);
}

static const struct op *op_wrmsr(struct soft_vp *vp, const struct op *op)
{
	require_cpl0(vp, op);
	if (!msr_write(vp, (uint32_t)vp->gpr[GPR_RCX], (uint32_t)vp->gpr[GPR_RAX] | vp->gpr[GPR_RDX] << 32))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	return system_leave(vp, op);
}

static const struct op *op_cpuid(struct soft_vp *vp, const struct op *op)
{
	uint32_t leaf = (uint32_t)vp->gpr[GPR_RAX], subleaf = (uint32_t)vp->gpr[GPR_RCX], r[4];
	const struct soft_host *host = vp->soft->host;

	cpuid_model(vp, leaf, subleaf, r);
	if (host->cpuid) {
		host_call_begin(vp);
		host->cpuid(vp->soft->context, vp->index, leaf, subleaf, r);
		host_call_end(vp);
	}
	vp->gpr[GPR_RAX] = r[0];
	vp->gpr[GPR_RBX] = r[1];
	vp->gpr[GPR_RCX] = r[2];
	vp->gpr[GPR_RDX] = r[3];
	return system_leave(vp, op);
}

static void require_tsc(struct soft_vp *vp, const struct op *op)
{
	if (vp->cpl && vp->cr4 & CR4_TSD)
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

static const struct op *op_rdtsc(struct soft_vp *vp, const struct op *op)
{
	require_tsc(vp, op);
	edx_eax_set(vp, tsc_read(vp));
	return dispatch(vp, op + 1);
}

static const struct op *op_rdtscp(struct soft_vp *vp, const struct op *op)
{
	require_tsc(vp, op);
	edx_eax_set(vp, tsc_read(vp));
	vp->gpr[GPR_RCX] = (uint32_t)vp->msr_tsc_aux;
	return dispatch(vp, op + 1);
}

static const struct op *op_rdpid(struct soft_vp *vp, const struct op *op)
{
	reg64_set(vp, op->dst, vp->msr_tsc_aux);
	return dispatch(vp, op + 1);
}

static void require_pkru(struct soft_vp *vp, const struct op *op, uint64_t zero)
{
	if (!(vp->cr4 & CR4_PKE))
		raise_fault(vp, op, VECTOR_UD);
	if ((uint32_t)zero)
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

static const struct op *op_rdpkru(struct soft_vp *vp, const struct op *op)
{
	require_pkru(vp, op, vp->gpr[GPR_RCX]);
	edx_eax_set(vp, vp->pkru);
	return dispatch(vp, op + 1);
}

/* Translated code that was called from sees by `window_drops` that what it looked up may be denied now. */
static const struct op *op_wrpkru(struct soft_vp *vp, const struct op *op)
{
	require_pkru(vp, op, vp->gpr[GPR_RCX] | vp->gpr[GPR_RDX]);
	pkru_set(vp, (uint32_t)vp->gpr[GPR_RAX]);
	return dispatch(vp, op + 1);
}

/* There are no performance counters. */
static const struct op *op_rdpmc(struct soft_vp *vp, const struct op *op)
{
	raise_fault_code(vp, op, VECTOR_GP, 0);
}

bool machine_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_RDMSR:
		op->fn = op_rdmsr;
		d->ends_block = true;
		return true;
	case ZYDIS_MNEMONIC_WRMSR:
		op->fn = op_wrmsr;
		d->ends_block = true;
		return true;
	case ZYDIS_MNEMONIC_CPUID:
		op->fn = op_cpuid;
		d->ends_block = true;
		return true;
	case ZYDIS_MNEMONIC_RDTSC:
		op->fn = op_rdtsc;
		return true;
	case ZYDIS_MNEMONIC_RDTSCP:
		op->fn = op_rdtscp;
		return true;
	case ZYDIS_MNEMONIC_RDPID:
		op->dst = register_offset(d->operands[0].reg.value);
		op->fn = op_rdpid;
		return true;
	case ZYDIS_MNEMONIC_RDPKRU:
		op->fn = op_rdpkru;
		return true;
	case ZYDIS_MNEMONIC_WRPKRU:
		op->fn = op_wrpkru;
		return true;
	case ZYDIS_MNEMONIC_RDPMC:
		op->fn = op_rdpmc;
		return true;
	default:
		return false;
	}
}
