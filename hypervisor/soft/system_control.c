// SPDX-License-Identifier: GPL-2.0-or-later
/* system_control.c - control and debug registers, TLB, flags, HLT. */
#include <sched.h>

#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/system.h"
#include "hypervisor/soft/vector.h"

#define CR0_BITS (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR4_BITS (CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | \
                  CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS)

uint64_t cr4_known(const struct soft_vp *vp)
{
	return CR4_BITS & ~(uint64_t)((vp->user_keys ? 0 : CR4_PKE) | (vp->supervisor_keys ? 0 : CR4_PKS));
}

static _Noreturn void refuse(struct soft_vp *vp, const struct op *op)
{
	raise_fault_code(vp, op, VECTOR_GP, 0);
}

/* --- control registers ----------------------------------------------------------------------------------- */

static void cr0_write(struct soft_vp *vp, const struct op *op, uint64_t value)
{
	uint64_t old = vp->cr0, efer = vp->efer;

	if (value >> 32 || (value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD)))
		refuse(vp, op);
	value = (value & CR0_BITS) | CR0_ET;
	if (value & CR0_PG && !(old & CR0_PG) && efer & EFER_LME) {
		if (!(vp->cr4 & CR4_PAE) || vp->seg[SEG_CS].attributes & SEGMENT_L)
			refuse(vp, op);
		efer |= EFER_LMA;
	}
	if (!(value & CR0_PG) && old & CR0_PG) {
		if (vp->mode == MODE_64 || vp->cr4 & CR4_PCIDE)
			refuse(vp, op);
		efer &= ~(uint64_t)EFER_LMA;
	}
	if ((value ^ old) & (CR0_PG | CR0_CD | CR0_NW) && !pdptrs_load(vp, value, vp->cr3, vp->cr4, efer))
		refuse(vp, op);
	vp->cr0 = value;
	vp->efer = efer;
	if ((value ^ old) & (CR0_PG | CR0_PE | CR0_WP))
		tlb_flush_all(vp);
	vp_mode_changed(vp);
}

static void cr3_write(struct soft_vp *vp, const struct op *op, uint64_t value)
{
	bool keep = false;

	if (vp->mode == MODE_64 && vp->cr4 & CR4_PCIDE) {
		keep = value >> 63;
		value &= ~(1ull << 63);
	}
	if (vp_long(vp) && value & ~PHYSICAL_MASK)
		refuse(vp, op);
	if (!pdptrs_load(vp, vp->cr0, value, vp->cr4, vp->efer))
		refuse(vp, op);
	vp->cr3 = value;
	if (keep)
		tlb_select(vp);
	else
		tlb_flush_pcid(vp, vp->cr4 & CR4_PCIDE ? value & 0xfff : 0);
}

static void cr4_write(struct soft_vp *vp, const struct op *op, uint64_t value)
{
	uint64_t changed = value ^ vp->cr4;

	if (value & ~cr4_known(vp) || (vp_long(vp) && !(value & CR4_PAE)))
		refuse(vp, op);
	if (changed & value & CR4_PCIDE && (!vp_long(vp) || vp->cr3 & 0xfff))
		refuse(vp, op);
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) && !pdptrs_load(vp, vp->cr0, vp->cr3, value, vp->efer))
		refuse(vp, op);
	vp->cr4 = value;
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PCIDE | CR4_PKE | CR4_PKS))
		tlb_flush_all(vp);
	vp_mode_changed(vp);
}

static const struct op *op_mov_to_cr(struct soft_vp *vp, const struct op *op)
{
	uint64_t value = reg_size(vp, op->src, op->size);
	const struct soft_host *host = vp->soft->host;

	require_cpl0(vp, op);
	switch (op->dst) {
	case 0:
		cr0_write(vp, op, value);
		break;
	case 2:
		vp->cr2 = value;
		break;
	case 3:
		cr3_write(vp, op, value);
		break;
	case 4:
		cr4_write(vp, op, value);
		break;
	default:
		if (value & ~0xfull)
			refuse(vp, op);
		host_call_begin(vp);
		host->cr8_write(vp->soft->context, vp->index, value);
		host_call_end(vp);
		break;
	}
	return system_leave(vp, op);
}

static const struct op *op_mov_from_cr(struct soft_vp *vp, const struct op *op)
{
	uint64_t value;

	require_cpl0(vp, op);
	switch (op->src) {
	case 0:
		value = vp->cr0;
		break;
	case 2:
		value = vp->cr2;
		break;
	case 3:
		value = vp->cr3;
		break;
	case 4:
		value = vp->cr4;
		break;
	default:
		value = vp->soft->host->cr8_read(vp->soft->context, vp->index);
		break;
	}
	reg_size_set(vp, op->dst, op->size, value);
	return dispatch(vp, op + 1);
}

static const struct op *op_clts(struct soft_vp *vp, const struct op *op)
{
	require_cpl0(vp, op);
	vp->cr0 &= ~(uint64_t)CR0_TS;
	vp_mode_changed(vp);
	return dispatch(vp, op + 1);
}

static const struct op *op_lmsw(struct soft_vp *vp, const struct op *op)
{
	uint64_t value;

	require_cpl0(vp, op);
	value = op->flags & OP_MEMORY ? load16(vp, op, ea(vp, op, 2, false)) : reg16(vp, op->src);
	/* PE can be set this way but not cleared. */
	cr0_write(vp, op, (vp->cr0 & ~0xeull) | (value & 0xf));
	return system_leave(vp, op);
}

/* SMSW; also refuses what UMIP keeps from user mode. */
static const struct op *op_smsw(struct soft_vp *vp, const struct op *op)
{
	if (vp->cpl && vp->cr4 & CR4_UMIP)
		refuse(vp, op);
	if (op->flags & OP_MEMORY)
		store16(vp, op, ea(vp, op, 2, true), (uint16_t)vp->cr0);
	else
		reg_size_set(vp, op->dst, op->size, vp->cr0);
	return dispatch(vp, op + 1);
}

/* --- debug registers -------------------------------------------------------------------------------------- */

static unsigned dr_number(struct soft_vp *vp, const struct op *op, unsigned n)
{
	if ((n == 4 || n == 5) && vp->cr4 & CR4_DE)
		raise_fault(vp, op, VECTOR_UD);
	require_cpl0(vp, op);
	if (vp->dr[7] & DR7_GD) {
		debug_report(vp, DR6_BD);
		raise_fault(vp, op, VECTOR_DB);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

static const struct op *op_mov_to_dr(struct soft_vp *vp, const struct op *op)
{
	unsigned n = dr_number(vp, op, op->dst);
	uint64_t value = reg_size(vp, op->src, op->size);

	if (n >= 6 && value >> 32)
		refuse(vp, op);
	if (n == 6)
		value = (value & 0xe00f) | 0xffff0ff0;
	else if (n == 7)
		value = (value & 0xffff23ff) | 0x400;
	vp->dr[n] = value;
	vp_mode_changed(vp);
	return system_leave(vp, op);
}

static const struct op *op_mov_from_dr(struct soft_vp *vp, const struct op *op)
{
	reg_size_set(vp, op->dst, op->size, vp->dr[dr_number(vp, op, op->src)]);
	return dispatch(vp, op + 1);
}

/* --- TLB and caches --------------------------------------------------------------------------------------- */

static const struct op *op_invlpg(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear;

	require_cpl0(vp, op);
	linear = vp->seg_base[op->seg] + ea_offset(vp, op);
	if (vp->mode != MODE_64)
		linear = (uint32_t)linear;
	if (is_canonical(linear))
		tlb_flush_page(vp, linear);
	return system_leave(vp, op);
}

static const struct op *op_invpcid(struct soft_vp *vp, const struct op *op)
{
	uint64_t type, pcid, linear, at;

	require_cpl0(vp, op);
	type = reg_size(vp, op->src, op->size);
	at = ea(vp, op, 16, false);
	pcid = load64(vp, op, at);
	linear = load64(vp, op, ea_part(vp, op, at, 8));
	if (type > 3 || (type < 2 && pcid >> 12) || (type < 2 && pcid && !(vp->cr4 & CR4_PCIDE)) ||
	    (type == 0 && !is_canonical(linear)))
		refuse(vp, op);
	if (type == 0)
		tlb_flush_page(vp, linear);
	else if (type == 1)
		tlb_flush_pcid(vp, (unsigned)pcid);
	else
		tlb_flush_all(vp);
	return system_leave(vp, op);
}

/* WBINVD, INVD: memory is always coherent. */
static const struct op *op_cache(struct soft_vp *vp, const struct op *op)
{
	require_cpl0(vp, op);
	return dispatch(vp, op + 1);
}

/* A guest that spins may wait for a VP that has no host CPU now. */
#define PAUSES_TO_YIELD 16

static const struct op *op_pause(struct soft_vp *vp, const struct op *op)
{
	__builtin_ia32_pause();
	if (++vp->pauses >= PAUSES_TO_YIELD) {
		vp->pauses = 0;
		sched_yield();
	}
	return dispatch(vp, op + 1);
}

static const struct op *op_hlt(struct soft_vp *vp, const struct op *op)
{
	require_cpl0(vp, op);
	vp->halted = true;
	return system_leave(vp, op);
}

/* --- flags -------------------------------------------------------------------------------------------------- */

static void require_iopl(struct soft_vp *vp, const struct op *op)
{
	if (vp->cr0 & CR0_PE && vp->cpl > vp_iopl(vp))
		refuse(vp, op);
}

static const struct op *op_cli(struct soft_vp *vp, const struct op *op)
{
	require_iopl(vp, op);
	vp->flags_system &= ~FLAG_IF;
	return dispatch(vp, op + 1);
}

static const struct op *op_sti(struct soft_vp *vp, const struct op *op)
{
	require_iopl(vp, op);
	if (vp->flags_system & FLAG_IF)
		return dispatch(vp, op + 1);
	vp->flags_system |= FLAG_IF;
	if (vp->interrupt_pending)
		atomic_fetch_or(&vp->attention, ATTENTION_INTERRUPT);
	return system_shadow(vp, op);
}

static const struct op *ac_write(struct soft_vp *vp, const struct op *op, bool ac)
{
	if (vp->cpl)
		raise_fault(vp, op, VECTOR_UD);
	vp->flags_system = (vp->flags_system & ~FLAG_AC) | (ac ? FLAG_AC : 0);
	/* vp_mode_changed(), as far as AC matters at level 0. */
	vp->tlb_kind = ac && vp->cr4 & CR4_SMAP ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR;
	if (likely(vp->tlb != vp->tlbs[TLB_CHECKED]))
		vp->tlb = vp->tlbs[vp->tlb_kind];
	return dispatch(vp, op + 1);
}

static const struct op *op_clac(struct soft_vp *vp, const struct op *op)
{
	return ac_write(vp, op, false);
}

static const struct op *op_stac(struct soft_vp *vp, const struct op *op)
{
	return ac_write(vp, op, true);
}

static const struct op *op_pushf(struct soft_vp *vp, const struct op *op)
{
	if (vp_v86(vp) && vp_iopl(vp) < 3)
		refuse(vp, op);
	stack_store(vp, op, -(int)op->size, op->size, rflags_read(vp) & ~(uint64_t)(FLAG_RF | FLAG_VM));
	stack_move(vp, -(int)op->size);
	return dispatch(vp, op + 1);
}

static const struct op *op_popf(struct soft_vp *vp, const struct op *op)
{
	uint64_t mask = 0x8d5 | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID | FLAG_RF, value;

	if (vp_v86(vp) && vp_iopl(vp) < 3)
		refuse(vp, op);
	value = stack_load(vp, op, 0, op->size) & ~(uint64_t)FLAG_RF;
	if (!vp->cpl)
		mask |= FLAG_IOPL;
	if (vp->cpl <= vp_iopl(vp))
		mask |= FLAG_IF;
	if (op->size == 2)
		mask &= 0xffff;
	stack_move(vp, op->size);
	rflags_write(vp, value, mask);
	return system_next(vp, op);
}

/* --- XCR0 --------------------------------------------------------------------------------------------------- */

static const struct op *op_xgetbv(struct soft_vp *vp, const struct op *op)
{
	uint32_t index = (uint32_t)vp->gpr[GPR_RCX];
	uint64_t value;

	if (!(vp->cr4 & CR4_OSXSAVE))
		raise_fault(vp, op, VECTOR_UD);
	if (index > 1)
		refuse(vp, op);
	value = index ? vp->xcr0 & vector_in_use(vp) : vp->xcr0;
	vp->gpr[GPR_RAX] = (uint32_t)value;
	vp->gpr[GPR_RDX] = value >> 32;
	return dispatch(vp, op + 1);
}

static const struct op *op_xsetbv(struct soft_vp *vp, const struct op *op)
{
	uint64_t value = (uint32_t)vp->gpr[GPR_RAX] | vp->gpr[GPR_RDX] << 32;

	if (!(vp->cr4 & CR4_OSXSAVE))
		raise_fault(vp, op, VECTOR_UD);
	require_cpl0(vp, op);
	if ((uint32_t)vp->gpr[GPR_RCX] || !(value & 1) || value & ~vector_components(vp) || (value & 6) == 4)
		refuse(vp, op);
	vp->xcr0 = value;
	vp_mode_changed(vp);
	return system_leave(vp, op);
}

/* --- selection ---------------------------------------------------------------------------------------------- */

static bool mov_select(struct decoding *d, struct op *op)
{
	const ZydisDecodedOperand *to = &d->operands[0], *from = &d->operands[1];
	ZydisRegister special;

	if (to->type != ZYDIS_OPERAND_TYPE_REGISTER || from->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	op->size = d->mode == MODE_64 ? 8 : 4;
	special = to->reg.value;
	if (ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_CONTROL ||
	    ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_DEBUG) {
		op->dst = (uint8_t)ZydisRegisterGetId(special);
		op->src = register_offset(from->reg.value);
		op->fn = ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_DEBUG ? op_mov_to_dr : op_mov_to_cr;
		d->ends_block = true;
		return true;
	}
	special = from->reg.value;
	if (ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_CONTROL ||
	    ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_DEBUG) {
		op->src = (uint8_t)ZydisRegisterGetId(special);
		op->dst = register_offset(to->reg.value);
		op->fn = ZydisRegisterGetClass(special) == ZYDIS_REGCLASS_DEBUG ? op_mov_from_dr : op_mov_from_cr;
		return true;
	}
	return false;
}

static bool take(struct decoding *d, struct op *op, op_fn fn, bool ends)
{
	op->fn = fn;
	d->ends_block = ends;
	return true;
}

static void register_operand(struct decoding *d, struct op *op, unsigned i, uint8_t *field)
{
	(void)op;
	if (d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
		*field = register_offset(d->operands[i].reg.value);
}

bool control_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return mov_select(d, op);
	case ZYDIS_MNEMONIC_CLTS:
		return take(d, op, op_clts, false);
	case ZYDIS_MNEMONIC_LMSW:
		register_operand(d, op, 0, &op->src);
		return take(d, op, op_lmsw, true);
	case ZYDIS_MNEMONIC_SMSW:
		register_operand(d, op, 0, &op->dst);
		return take(d, op, op_smsw, false);
	case ZYDIS_MNEMONIC_INVLPG:
		return take(d, op, op_invlpg, true);
	case ZYDIS_MNEMONIC_INVPCID:
		register_operand(d, op, 0, &op->src);
		op->size = d->mode == MODE_64 ? 8 : 4;
		return take(d, op, op_invpcid, true);
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_INVD:
		return take(d, op, op_cache, false);
	case ZYDIS_MNEMONIC_PAUSE:
		return take(d, op, op_pause, false);
	case ZYDIS_MNEMONIC_HLT:
		return take(d, op, op_hlt, true);
	case ZYDIS_MNEMONIC_CLI:
		return take(d, op, op_cli, false);
	case ZYDIS_MNEMONIC_STI:
		return take(d, op, op_sti, false);
	case ZYDIS_MNEMONIC_CLAC:
		return take(d, op, op_clac, false);
	case ZYDIS_MNEMONIC_STAC:
		return take(d, op, op_stac, false);
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return take(d, op, op_pushf, false);
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		return take(d, op, op_popf, false);
	case ZYDIS_MNEMONIC_XGETBV:
		return take(d, op, op_xgetbv, false);
	case ZYDIS_MNEMONIC_XSETBV:
		return take(d, op, op_xsetbv, true);
	default:
		return false;
	}
}
