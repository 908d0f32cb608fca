/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec_flags.h - integer arithmetic with its flags, by the host's own instruction of the same name.
 *
 * So the results and all flags, the undefined ones included, are those of a real processor. Flags
 * come and go in the form of vp->arith (state.h): LAHF and SETO after the instruction; before it,
 * where the old ones matter, an addition that overflows if OF was set and then SAHF.
 *
 * Each function changes *a as the instruction does its destination and returns the new flags.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/soft/state.h"

#define SAVE_FLAGS "\n\tlahf\n\tseto %%al"
#define LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
#define LOAD_CARRY(arith) "btl $8, %k" arith "\n\t"

/* LAHF always finds bit 1 of RFLAGS set. */
#define ARITH_FIXED 0x0200u

/* Flags are a function of the operands alone. */
#define DEFINE_HOST_BINARY(name, bits)                                                          \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)  \
	{                                                                                       \
		uint16_t flags;                                                                 \
                                                                                                \
		(void)arith;                                                                    \
		__asm__(#name " %2, %0" SAVE_FLAGS : "+r"(*a), "=&a"(flags) : "r"(b) : "cc");   \
		return flags;                                                                   \
	}

/* The same, with the carry coming in. */
#define DEFINE_HOST_CARRY(name, bits)                                                           \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)  \
	{                                                                                       \
		uint16_t flags;                                                                 \
                                                                                                \
		__asm__(LOAD_CARRY("3") #name " %2, %0" SAVE_FLAGS                              \
			: "+r"(*a), "=&a"(flags) : "r"(b), "r"((uint32_t)arith) : "cc");        \
		return flags;                                                                   \
	}

/* Only flags result. */
#define DEFINE_HOST_COMPARE(name, bits)                                                         \
	static inline uint16_t name##bits(uint##bits##_t a, uint##bits##_t b)                   \
	{                                                                                       \
		uint16_t flags;                                                                 \
                                                                                                \
		__asm__(#name " %2, %1" SAVE_FLAGS : "=&a"(flags) : "r"(a), "r"(b) : "cc");     \
		return flags;                                                                   \
	}

/* One operand; INC and DEC keep the carry. */
#define DEFINE_HOST_UNARY(name, bits)                                                   \
	static inline uint16_t name##bits(uint##bits##_t *a, uint16_t arith)            \
	{                                                                               \
		uint16_t flags;                                                         \
                                                                                        \
		__asm__(LOAD_CARRY("2") #name " %0" SAVE_FLAGS                          \
			: "+r"(*a), "=&a"(flags) : "r"((uint32_t)arith) : "cc");        \
		return flags;                                                           \
	}

/* Shifts and rotates by any count: some keep all flags at count 0, others keep some always. */
#define DEFINE_HOST_SHIFT(name, bits)                                                           \
	static inline uint16_t name##bits(uint##bits##_t *a, uint8_t count, uint16_t arith)     \
	{                                                                                       \
		__asm__(LOAD_FLAGS #name " %%cl, %0" SAVE_FLAGS                                 \
			: "+r"(*a), "+a"(arith) : "c"(count) : "cc");                           \
		return arith;                                                                   \
	}

/* A shift by a count that is not 0 sets all flags, so the old ones need not be loaded. */
#define DEFINE_HOST_SHIFT_SOME(name, bits)                                                              \
	static inline uint16_t name##_some##bits(uint##bits##_t *a, uint8_t count)                      \
	{                                                                                               \
		uint16_t flags;                                                                         \
                                                                                                        \
		__asm__(#name " %%cl, %0" SAVE_FLAGS : "+r"(*a), "=&a"(flags) : "c"(count) : "cc");     \
		return flags;                                                                           \
	}

#define DEFINE_HOST_DOUBLE_SHIFT(name, bits)                                                    \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint8_t count,   \
	    uint16_t arith)                                                                     \
	{                                                                                       \
		__asm__(LOAD_FLAGS #name " %%cl, %2, %0" SAVE_FLAGS                             \
			: "+r"(*a), "+a"(arith) : "r"(b), "c"(count) : "cc");                   \
		return arith;                                                                   \
	}

/* BT and its kin on a register: the bit number is taken modulo the width. */
#define DEFINE_HOST_BIT(name, bits)                                                                     \
	static inline uint16_t name##bits(uint##bits##_t *a, uint##bits##_t b, uint16_t arith)          \
	{                                                                                               \
		__asm__(LOAD_FLAGS #name " %2, %0" SAVE_FLAGS : "+r"(*a), "+a"(arith) : "r"(b) : "cc"); \
		return arith;                                                                           \
	}

#define DEFINE_HOST_ARITHMETIC(bits)            \
	DEFINE_HOST_BINARY(add, bits)           \
	DEFINE_HOST_BINARY(sub, bits)           \
	DEFINE_HOST_BINARY(and, bits)           \
	DEFINE_HOST_BINARY(or, bits)            \
	DEFINE_HOST_BINARY(xor, bits)           \
	DEFINE_HOST_CARRY(adc, bits)            \
	DEFINE_HOST_CARRY(sbb, bits)            \
	DEFINE_HOST_COMPARE(cmp, bits)          \
	DEFINE_HOST_COMPARE(test, bits)         \
	DEFINE_HOST_UNARY(inc, bits)            \
	DEFINE_HOST_UNARY(dec, bits)            \
	DEFINE_HOST_UNARY(neg, bits)            \
	DEFINE_HOST_SHIFT(shl, bits)            \
	DEFINE_HOST_SHIFT(shr, bits)            \
	DEFINE_HOST_SHIFT(sar, bits)            \
	DEFINE_HOST_SHIFT_SOME(shl, bits)       \
	DEFINE_HOST_SHIFT_SOME(shr, bits)       \
	DEFINE_HOST_SHIFT_SOME(sar, bits)       \
	DEFINE_HOST_SHIFT(rol, bits)            \
	DEFINE_HOST_SHIFT(ror, bits)            \
	DEFINE_HOST_SHIFT(rcl, bits)            \
	DEFINE_HOST_SHIFT(rcr, bits)

#define DEFINE_HOST_WIDE(bits)                  \
	DEFINE_HOST_DOUBLE_SHIFT(shld, bits)    \
	DEFINE_HOST_DOUBLE_SHIFT(shrd, bits)    \
	DEFINE_HOST_BIT(bt, bits)               \
	DEFINE_HOST_BIT(bts, bits)              \
	DEFINE_HOST_BIT(btr, bits)              \
	DEFINE_HOST_BIT(btc, bits)

DEFINE_HOST_ARITHMETIC(8)
DEFINE_HOST_ARITHMETIC(16)
DEFINE_HOST_ARITHMETIC(32)
DEFINE_HOST_ARITHMETIC(64)
DEFINE_HOST_WIDE(16)
DEFINE_HOST_WIDE(32)
DEFINE_HOST_WIDE(64)

/* --- conditions --------------------------------------------------------------------------------- */

/* The sixteen conditions of Jcc, SETcc and CMOVcc in encoding order, as Zydis names them; `a` is
 * vp->arith. SF lies at bit 15 and OF at bit 0. */
#define CONDITIONS(X)                                   \
	X(O, a & ARITH_OF)                              \
	X(NO, !(a & ARITH_OF))                          \
	X(B, a & ARITH_CF)                              \
	X(NB, !(a & ARITH_CF))                          \
	X(Z, a & ARITH_ZF)                              \
	X(NZ, !(a & ARITH_ZF))                          \
	X(BE, a & (ARITH_CF | ARITH_ZF))                \
	X(NBE, !(a & (ARITH_CF | ARITH_ZF)))            \
	X(S, a & ARITH_SF)                              \
	X(NS, !(a & ARITH_SF))                          \
	X(P, a & ARITH_PF)                              \
	X(NP, !(a & ARITH_PF))                          \
	X(L, ((a >> 15) ^ a) & 1)                       \
	X(NL, !(((a >> 15) ^ a) & 1))                   \
	X(LE, (((a >> 15) ^ a) & 1) || (a & ARITH_ZF))  \
	X(NLE, !((((a >> 15) ^ a) & 1) || (a & ARITH_ZF)))

#define DEFINE_CONDITION(cc, expression)                \
	static inline bool condition_##cc(uint16_t a)   \
	{                                               \
		return expression;                      \
	}

CONDITIONS(DEFINE_CONDITION)
