// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_decimal.c - DAA DAS AAA AAS AAM AAD, SALC: 16-bit and 32-bit modes only, so not the host's.
 *
 * Source: SDM volume 2A, the operation sections. Flags called undefined there: OF is cleared; those
 * that describe a result describe AL.
 */
#include "hypervisor/soft/exec.h"

#define AL (GPR_RAX * 8)
#define AH (GPR_RAX * 8 + 1)

/* SF, ZF and PF of a byte, with what else is said. */
static uint16_t flags_of(uint8_t v, bool carry, bool adjust)
{
	uint16_t flags = test8(v, v) & (ARITH_FIXED | ARITH_SF | ARITH_ZF | ARITH_PF);

	return (uint16_t)(flags | (carry ? ARITH_CF : 0) | (adjust ? ARITH_AF : 0));
}

static const struct op *daa(struct soft_vp *vp, const struct op *op)
{
	uint8_t old = reg8(vp, AL), v = old;
	bool carry = vp->arith & ARITH_CF, adjust = (old & 15) > 9 || (vp->arith & ARITH_AF);

	if (adjust)
		v = (uint8_t)(v + 6);
	if (old > 0x99 || carry) {
		v = (uint8_t)(v + 0x60);
		carry = true;
	}
	reg8_set(vp, AL, v);
	vp->arith = flags_of(v, carry, adjust);
	return op + 1;
}

static const struct op *das(struct soft_vp *vp, const struct op *op)
{
	uint8_t old = reg8(vp, AL), v = old;
	bool adjust = (old & 15) > 9 || (vp->arith & ARITH_AF);
	bool carry_in = vp->arith & ARITH_CF, carry = false;

	if (adjust) {
		carry = carry_in || old < 6;
		v = (uint8_t)(v - 6);
	}
	if (old > 0x99 || carry_in) {
		v = (uint8_t)(v - 0x60);
		carry = true;
	}
	reg8_set(vp, AL, v);
	vp->arith = flags_of(v, carry, adjust);
	return op + 1;
}

/* AAA adds 0x106 to AX, AAS subtracts 6 from AX and 1 from AH. */
static const struct op *ascii_adjust(struct soft_vp *vp, const struct op *op, int ax, int ah)
{
	bool adjust = (reg8(vp, AL) & 15) > 9 || (vp->arith & ARITH_AF);

	if (adjust) {
		reg16_set(vp, AL, (uint16_t)(reg16(vp, AL) + ax));
		reg8_set(vp, AH, (uint8_t)(reg8(vp, AH) + ah));
	}
	reg8_set(vp, AL, reg8(vp, AL) & 15);
	vp->arith = flags_of(reg8(vp, AL), adjust, adjust);
	return op + 1;
}

static const struct op *aaa(struct soft_vp *vp, const struct op *op)
{
	return ascii_adjust(vp, op, 0x106, 0);
}

static const struct op *aas(struct soft_vp *vp, const struct op *op)
{
	return ascii_adjust(vp, op, -6, -1);
}

static const struct op *aam(struct soft_vp *vp, const struct op *op)
{
	uint8_t base = (uint8_t)op->imm, v = reg8(vp, AL);

	if (!base)
		raise_fault(vp, op, VECTOR_DE);
	reg8_set(vp, AH, v / base);
	reg8_set(vp, AL, v % base);
	vp->arith = flags_of(v % base, false, false);
	return op + 1;
}

static const struct op *aad(struct soft_vp *vp, const struct op *op)
{
	uint8_t v = (uint8_t)(reg8(vp, AL) + reg8(vp, AH) * (uint8_t)op->imm);

	reg16_set(vp, AL, v);
	vp->arith = flags_of(v, false, false);
	return op + 1;
}

static const struct op *salc(struct soft_vp *vp, const struct op *op)
{
	reg8_set(vp, AL, vp->arith & ARITH_CF ? 0xff : 0);
	return op + 1;
}

static bool selected(struct op *op, op_fn fn)
{
	op->fn = fn;
	return true;
}

bool decimal_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_DAA:
		return selected(op, daa);
	case ZYDIS_MNEMONIC_DAS:
		return selected(op, das);
	case ZYDIS_MNEMONIC_AAA:
		return selected(op, aaa);
	case ZYDIS_MNEMONIC_AAS:
		return selected(op, aas);
	case ZYDIS_MNEMONIC_AAM:
		take_operands(d, op);
		return selected(op, aam);
	case ZYDIS_MNEMONIC_AAD:
		take_operands(d, op);
		return selected(op, aad);
	case ZYDIS_MNEMONIC_SALC:
		return selected(op, salc);
	default:
		return false;
	}
}
