// SPDX-License-Identifier: GPL-2.0-or-later
/* system_io.c - IN, OUT, INS, OUTS. */
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

static void require_port(struct soft_vp *vp, const struct op *op, uint16_t port)
{
	if (!(vp->cr0 & CR0_PE) || (vp->cpl <= vp_iopl(vp) && !vp_v86(vp)))
		return;
	if (!tss_allows_io(vp, op, port, op->size))
		raise_fault_code(vp, op, VECTOR_GP, 0);
}

static uint64_t port_read(struct soft_vp *vp, const struct op *op, uint16_t port)
{
	uint64_t value;

	host_call_begin(vp);
	value = vp->soft->host->io_read(vp->soft->context, vp->index, port, op->size);
	host_call_end(vp);
	return value;
}

static void port_write(struct soft_vp *vp, const struct op *op, uint16_t port, uint64_t value)
{
	host_call_begin(vp);
	vp->soft->host->io_write(vp->soft->context, vp->index, port, op->size, value);
	host_call_end(vp);
}

/* The port is an immediate, or in DX where src2 is set. */
static uint16_t port_of(const struct soft_vp *vp, const struct op *op)
{
	return op->src2 ? (uint16_t)vp->gpr[GPR_RDX] : (uint16_t)op->imm;
}

static const struct op *op_in(struct soft_vp *vp, const struct op *op)
{
	uint16_t port = port_of(vp, op);

	require_port(vp, op, port);
	reg_size_set(vp, GPR_RAX * 8, op->size, port_read(vp, op, port));
	return system_leave(vp, op);
}

static const struct op *op_out(struct soft_vp *vp, const struct op *op)
{
	uint16_t port = port_of(vp, op);

	require_port(vp, op, port);
	port_write(vp, op, port, reg_size(vp, GPR_RAX * 8, op->size));
	return system_leave(vp, op);
}

/* --- strings ---------------------------------------------------------------------------------------------------- */

static unsigned address_size(const struct op *op)
{
	return op->flags & OP_ADDRESS_16 ? 2 : op->flags & OP_ADDRESS_32 ? 4 : 8;
}

static void advance(struct soft_vp *vp, const struct op *op, unsigned r)
{
	int64_t step = vp->flags_system & FLAG_DF ? -(int64_t)op->size : op->size;

	reg_size_set(vp, r * 8, address_size(op), vp->gpr[r] + (uint64_t)step);
}

static void ins_once(struct soft_vp *vp, const struct op *op, uint16_t port)
{
	uint64_t offset = reg_size(vp, GPR_RDI * 8, address_size(op));
	uint64_t linear = segment_linear(vp, op, SEG_ES, offset, op->size, true);

	probe_write(vp, op, linear, op->size);
	store_size(vp, op, linear, op->size, port_read(vp, op, port));
	advance(vp, op, GPR_RDI);
}

static void outs_once(struct soft_vp *vp, const struct op *op, uint16_t port)
{
	uint64_t offset = reg_size(vp, GPR_RSI * 8, address_size(op));
	uint64_t linear = segment_linear(vp, op, op->seg, offset, op->size, false);

	port_write(vp, op, port, load_size(vp, op, linear, op->size));
	advance(vp, op, GPR_RSI);
}

/* Counts down for as long as nothing wants attention; RIP stays here until the count is 0. */
static const struct op *repeat(struct soft_vp *vp, const struct op *op,
    void (*once)(struct soft_vp *, const struct op *, uint16_t))
{
	uint16_t port = (uint16_t)vp->gpr[GPR_RDX];
	unsigned width = address_size(op);
	uint64_t count;

	require_port(vp, op, port);
	if (!(op->flags & (OP_REP | OP_REPNE))) {
		once(vp, op, port);
		return system_leave(vp, op);
	}
	while ((count = reg_size(vp, GPR_RCX * 8, width)) != 0) {
		once(vp, op, port);
		reg_size_set(vp, GPR_RCX * 8, width, count - 1);
		if (count > 1 && atomic_load_explicit(&vp->attention, memory_order_relaxed)) {
			vp->rip = op_rip(vp, op);
			return NULL;
		}
	}
	return system_leave(vp, op);
}

static const struct op *op_ins(struct soft_vp *vp, const struct op *op)
{
	return repeat(vp, op, ins_once);
}

static const struct op *op_outs(struct soft_vp *vp, const struct op *op)
{
	return repeat(vp, op, outs_once);
}

/* --- selection --------------------------------------------------------------------------------------------------- */

static bool port_select(struct decoding *d, struct op *op, op_fn fn, const ZydisDecodedOperand *port, unsigned bits)
{
	op->fn = fn;
	op->size = (uint8_t)(bits / 8);
	if (port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		op->imm = port->imm.value.u & 0xff;
	else
		op->src2 = 1;
	d->ends_block = true;
	return true;
}

static bool string_select(struct decoding *d, struct op *op, op_fn fn, unsigned size)
{
	op->fn = fn;
	op->size = (uint8_t)size;
	d->ends_block = true;
	return true;
}

bool io_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_IN:
		return port_select(d, op, op_in, &d->operands[1], d->operands[0].size);
	case ZYDIS_MNEMONIC_OUT:
		return port_select(d, op, op_out, &d->operands[0], d->operands[1].size);
	case ZYDIS_MNEMONIC_INSB:
		return string_select(d, op, op_ins, 1);
	case ZYDIS_MNEMONIC_INSW:
		return string_select(d, op, op_ins, 2);
	case ZYDIS_MNEMONIC_INSD:
		return string_select(d, op, op_ins, 4);
	case ZYDIS_MNEMONIC_OUTSB:
		return string_select(d, op, op_outs, 1);
	case ZYDIS_MNEMONIC_OUTSW:
		return string_select(d, op, op_outs, 2);
	case ZYDIS_MNEMONIC_OUTSD:
		return string_select(d, op, op_outs, 4);
	default:
		return false;
	}
}
