// SPDX-License-Identifier: GPL-2.0-or-later
/* system_calls.c - SYSCALL, SYSENTER and their returns, hypercalls. */
#include <string.h>

#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/system.h"

#define CODE64 0xa09b /* present code, readable, accessed, L, G */
#define CODE32 0xc09b
#define DATA32 0xc093

/* The fixed segments of these instructions: their descriptors are not read. */
static void set_flat(struct soft_vp *vp, uint16_t cs, uint16_t ss, uint16_t code, unsigned cpl)
{
	uint16_t dpl = (uint16_t)(cpl << 5);

	vp->seg[SEG_CS] = (struct segment){.limit = 0xffffffff, .selector = cs, .attributes = code | dpl};
	vp->seg[SEG_SS] = (struct segment){.limit = 0xffffffff, .selector = ss, .attributes = DATA32 | dpl};
	vp->cpl = (uint8_t)cpl;
	vp_mode_changed(vp);
}

static const struct op *op_syscall(struct soft_vp *vp, const struct op *op)
{
	uint16_t cs = (uint16_t)(vp->msr_star >> 32) & 0xfffc;
	bool wide = vp->mode == MODE_64;

	/* Compatibility mode has SYSCALL on AMD's processors only. */
	if (!(vp->efer & EFER_SCE) || (!wide && !(vp->amd && vp_long(vp))))
		raise_fault(vp, op, VECTOR_UD);
	vp->gpr[GPR_RCX] = op_next_rip(vp, op);
	vp->gpr[GPR_R11] = rflags_read(vp) & ~(uint64_t)FLAG_RF;
	rflags_write(vp, 0, vp->msr_sfmask | FLAG_RF);
	if (!(vp->flags_system & FLAG_TF))
		vp->no_step = true;
	set_flat(vp, cs, cs + 8, CODE64, 0);
	vp->rip = wide ? vp->msr_lstar : vp->msr_cstar;
	return NULL;
}

static const struct op *op_sysret(struct soft_vp *vp, const struct op *op)
{
	uint16_t base = (uint16_t)(vp->msr_star >> 48);
	uint64_t rip = vp->gpr[GPR_RCX];
	bool wide = op->size == 8;

	if (!(vp->efer & EFER_SCE) || vp->mode != MODE_64)
		raise_fault(vp, op, VECTOR_UD);
	require_cpl0(vp, op);
	if (wide && !is_canonical(rip))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	set_flat(vp, (uint16_t)(base + (wide ? 16 : 0)) | 3, (uint16_t)(base + 8) | 3, wide ? CODE64 : CODE32, 3);
	rflags_write(vp, vp->gpr[GPR_R11], 0x3c7fd7 & ~(uint64_t)FLAG_RF);
	vp->rip = wide ? rip : (uint32_t)rip;
	return NULL;
}

static const struct op *op_sysenter(struct soft_vp *vp, const struct op *op)
{
	uint16_t cs = (uint16_t)vp->msr_sysenter_cs & 0xfffc;
	bool wide = vp_long(vp);

	if (!(vp->cr0 & CR0_PE) || !cs)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	rflags_write(vp, 0, FLAG_VM | FLAG_IF | FLAG_RF);
	set_flat(vp, cs, cs + 8, wide ? CODE64 : CODE32, 0);
	vp->gpr[GPR_RSP] = wide ? vp->msr_sysenter_esp : (uint32_t)vp->msr_sysenter_esp;
	vp->rip = wide ? vp->msr_sysenter_eip : (uint32_t)vp->msr_sysenter_eip;
	return NULL;
}

static const struct op *op_sysexit(struct soft_vp *vp, const struct op *op)
{
	uint16_t base = (uint16_t)vp->msr_sysenter_cs & 0xfffc;
	bool wide = op->size == 8;

	if (!(vp->cr0 & CR0_PE) || !base)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	require_cpl0(vp, op);
	if (wide && (!is_canonical(vp->gpr[GPR_RCX]) || !is_canonical(vp->gpr[GPR_RDX])))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	base = (uint16_t)(base + (wide ? 32 : 16));
	set_flat(vp, base | 3, (base + 8) | 3, wide ? CODE64 : CODE32, 3);
	vp->gpr[GPR_RSP] = wide ? vp->gpr[GPR_RCX] : (uint32_t)vp->gpr[GPR_RCX];
	vp->rip = wide ? vp->gpr[GPR_RDX] : (uint32_t)vp->gpr[GPR_RDX];
	return NULL;
}

static const struct op *op_hypercall(struct soft_vp *vp, const struct op *op)
{
	struct soft_hypercall h = {
	    .rax = vp->gpr[GPR_RAX], .rbx = vp->gpr[GPR_RBX], .rcx = vp->gpr[GPR_RCX], .rdx = vp->gpr[GPR_RDX],
	    .rsi = vp->gpr[GPR_RSI], .rdi = vp->gpr[GPR_RDI], .r8 = vp->gpr[GPR_R8],
	    .long_mode = vp->mode == MODE_64, .cpl = vp->cpl,
	};
	bool known;

	for (unsigned i = 0; i < 6; i++)
		memcpy(h.xmm[i], vp->ymm[i], 16);
	host_call_begin(vp);
	known = vp->soft->host->hypercall(vp->soft->context, vp->index, &h);
	host_call_end(vp);
	if (!known)
		raise_fault(vp, op, VECTOR_UD);
	vp->gpr[GPR_RAX] = h.rax;
	vp->gpr[GPR_RBX] = h.rbx;
	vp->gpr[GPR_RCX] = h.rcx;
	vp->gpr[GPR_RDX] = h.rdx;
	vp->gpr[GPR_RSI] = h.rsi;
	vp->gpr[GPR_RDI] = h.rdi;
	vp->gpr[GPR_R8] = h.r8;
	for (unsigned i = 0; i < 6; i++)
		memcpy(vp->ymm[i], h.xmm[i], 16);
	return system_leave(vp, op);
}

bool calls_select(struct decoding *d, struct op *op)
{
	d->ends_block = true;
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
		op->fn = op_syscall;
		return true;
	case ZYDIS_MNEMONIC_SYSRET:
		op->fn = op_sysret;
		break;
	case ZYDIS_MNEMONIC_SYSENTER:
		op->fn = op_sysenter;
		return true;
	case ZYDIS_MNEMONIC_SYSEXIT:
		op->fn = op_sysexit;
		break;
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		op->fn = op_hypercall;
		return true;
	default:
		d->ends_block = false;
		return false;
	}
	/* REX.W chooses 64-bit user code. */
	op->size = d->insn->attributes & ZYDIS_ATTRIB_HAS_REX && d->insn->raw.rex.W ? 8 : 4;
	return true;
}
