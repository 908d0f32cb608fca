/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vector_exact.h - which flags an SSE or AVX instruction raises when exceptions are not masked.
 */
#pragma once

#include "hypervisor/soft/vector_private.h"

/* At decode time: keeps in op->extra[1] what vector_exact_flags() needs to know. */
void vector_exact_describe(const struct decoding *d, struct op *op);

/* The flags that the instruction raises, given those of a run with all exceptions masked, before any
 * register has changed. Reads the memory operand again. */
uint32_t vector_exact_flags(struct soft_vp *vp, const struct op *op, uint32_t flags);

/* Whether the instruction has results on the way whose underflow its final result does not show. */
bool vector_exact_hides(const struct op *op);

/* Whether `bits` are a denormal number of 2, 4 or 8 bytes (vector_mxcsr.c). */
bool vector_is_denormal(uint64_t bits, unsigned size);
