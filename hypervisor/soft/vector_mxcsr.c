// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_mxcsr.c - SIMD floating point exceptions.
 *
 * Instructions run with all exceptions masked; what an unmasked one would have done is worked out
 * from the flags. Source: SDM volume 1, 11.5.
 */
#include "hypervisor/soft/vector_exact.h"

bool vector_is_denormal(uint64_t bits, unsigned size)
{
	uint64_t magnitude, smallest_normal;

	switch (size) {
	case 2:
		magnitude = bits & 0x7fff, smallest_normal = 0x0400;
		break;
	case 4:
		magnitude = bits & 0x7fffffff, smallest_normal = 0x00800000;
		break;
	default:
		magnitude = bits & 0x7fffffffffffffff, smallest_normal = 0x0010000000000000;
		break;
	}
	return magnitude != 0 && magnitude < smallest_normal;
}

static bool has_denormal(const struct op *op, const uint8_t *p)
{
	struct vector_operands operands = vector_operands(op);

	if (!operands.element)
		return false;
	for (unsigned i = 0; i < operands.count; i++) {
		uint64_t bits = 0;

		memcpy(&bits, p + (size_t)i * operands.element, operands.element);
		if (vector_is_denormal(bits, operands.element))
			return true;
	}
	return false;
}

void mxcsr_raised(struct soft_vp *vp, const struct op *op, uint32_t flags)
{
	uint32_t unmasked = ~(vp->mxcsr >> 7) & MXCSR_FLAGS;

	/* Masked, a tiny result is an underflow only when it is inexact too; unmasked, always (SDM
	 * volume 1, 11.5.2.5). The sum of two denormals is the usual case. */
	if ((unmasked & MXCSR_UE) && has_denormal(op, vp->vector_scratch))
		flags |= MXCSR_UE;
	if (flags & unmasked || (unmasked & MXCSR_UE && vector_exact_hides(op)))
		flags = vector_exact_flags(vp, op, flags);
	vp->mxcsr |= flags;
	if (flags & unmasked)
		raise_fault(vp, op, vp->cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
}
