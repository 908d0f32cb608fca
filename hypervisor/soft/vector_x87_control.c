// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_x87_control.c - x87 instructions that move the environment and do no arithmetic. The ones
 * without a wait (FN…) look at no pending exception. Layouts: SDM volume 1, figures 8-9 to 8-12.
 */
#include "hypervisor/soft/vector_x87.h"

static void check(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & FP_BLOCK_X87_NM))
		vector_blocked(vp, op, UNIT_X87);
}

/* --- tags --------------------------------------------------------------------------------------- */

enum x87_tag { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static enum x87_tag classify(const uint8_t *reg)
{
	uint64_t significand = le64_get(reg);
	unsigned exponent = le16_get(reg + 8) & 0x7fffu;

	if (exponent == 0)
		return significand ? TAG_SPECIAL : TAG_ZERO;
	return exponent == 0x7fff || !(significand >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static uint16_t tag_word(const uint8_t *fx)
{
	unsigned top = x87_top(fx), word = 0;

	for (unsigned i = 0; i < 8; i++) {
		enum x87_tag tag =
		    fx[FX_TAGS] >> i & 1 ? classify(x87_register(fx, (i - top) & 7)) : TAG_EMPTY;

		word |= (unsigned)tag << (2 * i);
	}
	return (uint16_t)word;
}

static uint8_t short_tags(uint16_t word)
{
	unsigned tags = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((word >> (2 * i) & 3) != TAG_EMPTY)
			tags |= 1u << i;
	return (uint8_t)tags;
}

/* --- environment -------------------------------------------------------------------------------- */

#define ENVIRONMENT_MAX 28u
#define SAVE_MAX        (ENVIRONMENT_MAX + 80u)

/* In op->src. */
#define LAYOUT_32   1u
#define LAYOUT_REAL 2u /* real and virtual-8086 mode */

static unsigned layout(const struct soft_vp *vp, const struct op *op)
{
	bool real = !(vp->cr0 & CR0_PE) || (vp->flags_system & FLAG_VM);

	return (op->src & LAYOUT_32) | (real ? LAYOUT_REAL : 0);
}

static unsigned environment_size(const struct op *op)
{
	return op->src & LAYOUT_32 ? 28 : 14;
}

/* Seven fields: FCW, FSW, FTW, FIP, FCS (or FIP high and FOP), FDP, FDS (or FDP high). */
static void environment_fields(const struct soft_vp *vp, unsigned kind, uint32_t field[7])
{
	uint64_t fip = le64_get(vp->fx + FX_FIP), fdp = le64_get(vp->fx + FX_FDP);
	uint32_t fop = le16_get(vp->fx + FX_OPCODE);
	const uint32_t fill = 0xffff0000u; /* reserved halves */

	field[0] = fill | le16_get(vp->fx + FX_CONTROL);
	field[1] = fill | le16_get(vp->fx + FX_STATUS);
	field[2] = fill | tag_word(vp->fx);
	field[3] = (uint32_t)fip;
	field[5] = (uint32_t)fdp;
	if (kind & LAYOUT_REAL) {
		unsigned high_bits = kind & LAYOUT_32 ? 0xffffu : 0xfu;

		if (kind & LAYOUT_32) {
			field[3] = fill | (uint16_t)fip;
			field[5] = fill | (uint16_t)fdp;
		}
		field[4] = (uint32_t)(fip >> 16 & high_bits) << 12 | fop;
		field[6] = (uint32_t)(fdp >> 16 & high_bits) << 12;
	} else {
		field[4] = fop << 16;
		field[6] = fill;
	}
}

static void environment_write(const struct soft_vp *vp, const struct op *op, uint8_t *bytes)
{
	unsigned kind = layout(vp, op);
	uint32_t field[7];

	environment_fields(vp, kind, field);
	for (unsigned i = 0; i < 7; i++) {
		if (kind & LAYOUT_32)
			le32_put(bytes + 4 * (size_t)i, field[i]);
		else
			le16_put(bytes + 2 * (size_t)i, (uint16_t)field[i]);
	}
}

static void environment_read(const struct soft_vp *vp, const struct op *op, const uint8_t *bytes, uint8_t *fx)
{
	unsigned kind = layout(vp, op);
	uint64_t fip, fdp;
	uint32_t field[7], fop;

	for (unsigned i = 0; i < 7; i++)
		field[i] =
		    kind & LAYOUT_32 ? le32_get(bytes + 4 * (size_t)i) : le16_get(bytes + 2 * (size_t)i);
	if (kind & LAYOUT_REAL) {
		fip = (field[3] & 0xffffu) | (uint64_t)(field[4] >> 12 & 0xffffu) << 16;
		fdp = (field[5] & 0xffffu) | (uint64_t)(field[6] >> 12 & 0xffffu) << 16;
		fop = field[4];
	} else {
		fip = field[3];
		fdp = field[5];
		/* The 16-bit protected layout has no FOP. */
		fop = kind & LAYOUT_32 ? field[4] >> 16 : 0;
	}
	le16_put(fx + FX_CONTROL, (uint16_t)field[0]);
	le16_put(fx + FX_STATUS, (uint16_t)field[1]);
	le16_put(fx + FX_TAGS, short_tags((uint16_t)field[2]));
	le16_put(fx + FX_OPCODE, fop & 0x7ffu);
	le64_put(fx + FX_FIP, fip);
	le64_put(fx + FX_FDP, fdp);
}

/* The first field, then the last byte: so a page fault names the last byte where only the second page is bad.
 */
static void probe_ends(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned size, bool write)
{
	if (write)
		probe_write(vp, op, linear, op->src & LAYOUT_32 ? 4 : 2);
	else if (op->src & LAYOUT_32)
		(void)load32(vp, op, linear);
	else
		(void)load16(vp, op, linear);
	vector_probe_end(vp, op, linear, size, write);
}

static const struct op *fnstenv(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear;

	check(vp, op);
	linear = ea(vp, op, environment_size(op), true);
	probe_ends(vp, op, linear, environment_size(op), true);
	environment_write(vp, op, vp->vector_scratch);
	store_parts(vp, op, linear, 0, vp->vector_scratch, environment_size(op));
	/* All exceptions are masked afterwards, so none is pending. */
	le16_put(vp->fx + FX_CONTROL, le16_get(vp->fx + FX_CONTROL) | 0x3f);
	le16_put(vp->fx + FX_STATUS,
		 le16_get(vp->fx + FX_STATUS) & (uint16_t) ~(X87_STATUS_ES | X87_STATUS_BUSY));
	return dispatch(vp, op + 1);
}

static const struct op *fldenv(struct soft_vp *vp, const struct op *op)
{
	uint64_t linear;

	check(vp, op);
	x87_check_pending(vp, op);
	linear = ea(vp, op, environment_size(op), false);
	probe_ends(vp, op, linear, environment_size(op), false);
	load_parts(vp, op, linear, 0, vp->vector_scratch, environment_size(op));
	x87_set_top(vp->fx, le16_get(vp->vector_scratch + environment_size(op) / 7) >> 11 & 7);
	environment_read(vp, op, vp->vector_scratch, vp->fx);
	x87_normalise(vp);
	return dispatch(vp, op + 1);
}

/* What FNINIT does; the registers are empty but keep their bits. */
static void initialise(uint8_t *fx)
{
	x87_set_top(fx, 0);
	memset(fx, 0, FX_MXCSR);
	le16_put(fx + FX_CONTROL, X87_CONTROL_INITIAL);
}

own_frame void save(struct soft_vp *vp, const struct op *op)
{
	unsigned size = environment_size(op);
	uint64_t linear = ea(vp, op, size + 80, true);
	uint8_t bytes[SAVE_MAX];

	probe_ends(vp, op, linear, size + 80, true);
	environment_write(vp, op, bytes);
	for (unsigned i = 0; i < 8; i++)
		memcpy(bytes + size + 10 * (size_t)i, x87_register(vp->fx, i), 10);
	store_parts(vp, op, linear, 0, bytes, size + 80);
	initialise(vp->fx);
}

static const struct op *fnsave(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	save(vp, op);
	return dispatch(vp, op + 1);
}

own_frame void restore(struct soft_vp *vp, const struct op *op)
{
	unsigned size = environment_size(op);
	uint64_t linear = ea(vp, op, size + 80, false);
	uint8_t bytes[SAVE_MAX];

	probe_ends(vp, op, linear, size + 80, false);
	load_parts(vp, op, linear, 0, bytes, size + 80);
	environment_read(vp, op, bytes, vp->fx);
	for (unsigned i = 0; i < 8; i++) {
		memset(x87_register(vp->fx, i), 0, 16);
		memcpy(x87_register(vp->fx, i), bytes + size + 10 * (size_t)i, 10);
	}
	x87_normalise(vp);
}

static const struct op *frstor(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	x87_check_pending(vp, op);
	restore(vp, op);
	return dispatch(vp, op + 1);
}

/* --- status and control word -------------------------------------------------------------------- */

static const struct op *fninit(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	initialise(vp->fx);
	return dispatch(vp, op + 1);
}

static const struct op *fnclex(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	le16_put(vp->fx + FX_STATUS, le16_get(vp->fx + FX_STATUS) & 0x7f00);
	return dispatch(vp, op + 1);
}

static const struct op *fnstsw_ax(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	reg16_set(vp, GPR_RAX * 8, le16_get(vp->fx + FX_STATUS));
	return dispatch(vp, op + 1);
}

static const struct op *fnstsw(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	store16(vp, op, ea(vp, op, 2, true), le16_get(vp->fx + FX_STATUS));
	return dispatch(vp, op + 1);
}

static const struct op *fnstcw(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	store16(vp, op, ea(vp, op, 2, true), le16_get(vp->fx + FX_CONTROL));
	return dispatch(vp, op + 1);
}

static const struct op *fwait(struct soft_vp *vp, const struct op *op)
{
	if (unlikely((vp->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)))
		raise_fault(vp, op, VECTOR_NM);
	x87_check_pending(vp, op);
	return dispatch(vp, op + 1);
}

/* FNENI, FNDISI, FNSETPM: did something up to the 80387. */
static const struct op *obsolete(struct soft_vp *vp, const struct op *op)
{
	check(vp, op);
	return dispatch(vp, op + 1);
}

bool vector_x87_control_select(struct decoding *d, struct op *op)
{
	const ZydisDecodedInstruction *insn = d->insn;
	const ZydisDecodedOperand *operand = &d->operands[0];
	bool memory = insn->operand_count && operand->type == ZYDIS_OPERAND_TYPE_MEMORY;
	unsigned size = memory ? operand->size / 8u : 0;

	op->src = size == 28 || size == 108 ? LAYOUT_32 : 0;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
		op->fn = fnstenv;
		return true;
	case ZYDIS_MNEMONIC_FLDENV:
		op->fn = fldenv;
		return true;
	case ZYDIS_MNEMONIC_FNSAVE:
		op->fn = fnsave;
		return true;
	case ZYDIS_MNEMONIC_FRSTOR:
		op->fn = frstor;
		return true;
	case ZYDIS_MNEMONIC_FNINIT:
		op->fn = fninit;
		return true;
	case ZYDIS_MNEMONIC_FNCLEX:
		op->fn = fnclex;
		return true;
	case ZYDIS_MNEMONIC_FNSTSW:
		op->fn = memory ? fnstsw : fnstsw_ax;
		return true;
	case ZYDIS_MNEMONIC_FNSTCW:
		op->fn = fnstcw;
		return true;
	case ZYDIS_MNEMONIC_FWAIT:
		op->fn = fwait;
		return true;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		op->fn = obsolete;
		return true;
	default:
		return false;
	}
}
