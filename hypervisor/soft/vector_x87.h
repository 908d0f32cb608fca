/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vector_x87.h - the x87 state as soft_vp.fx holds it: the first 160 bytes of a 64-bit FXSAVE image
 * (SDM volume 1, table 10-2, 64-bit operand size). FCS and FDS are not kept, as CPUID says.
 */
#pragma once

#include "hypervisor/soft/vector_private.h"

#define FX_CONTROL   0u
#define FX_STATUS    2u
#define FX_TAGS      4u /* one bit for each physical register: not empty */
#define FX_OPCODE    6u
#define FX_FIP       8u
#define FX_FDP       16u
#define FX_MXCSR     24u
#define FX_REGISTERS 32u /* 16 bytes each, in the order of the stack */
#define FX_X87_SIZE  160u
#define FX_XMM       160u
#define FX_WRITTEN   416u /* the rest of the 512 is reserved, and not written */

#define X87_CONTROL_INITIAL 0x037fu
#define X87_STATUS_BUSY     0x8000u
#define X87_STATUS_ES       0x0080u

static inline uint8_t *x87_register(const uint8_t *fx, unsigned st)
{
	return (uint8_t *)(uintptr_t)fx + FX_REGISTERS + (size_t)st * 16;
}

static inline unsigned x87_top(const uint8_t *fx)
{
	return (unsigned)le16_get(fx + FX_STATUS) >> 11 & 7;
}

/* As at power-up, but FCW as FNINIT leaves it. */
void x87_initialise(uint8_t *fx);

/* Set TOP; the physical registers keep what they hold, so the image turns. */
void x87_set_top(uint8_t *fx, unsigned top);

/* As the processor takes in an image: reserved bits of FCW, and ES and B as the rest says. */
void x87_normalise(struct soft_vp *vp);

/* Whether FXSAVE of the host always stores what FIP, FDP and FOP should be. */
bool x87_host_saves_pointers(void);
