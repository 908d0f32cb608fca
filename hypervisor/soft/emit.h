/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * emit.h - writes host instructions, byte by byte. Private to the translator.
 *
 * Code is written through one mapping and runs in another, `to_run` bytes away; addresses that code itself
 * needs are computed for where it runs. When the room is used up, what is emitted goes nowhere and `full` says
 * so: whoever emits looks once, at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct emitter {
	uint8_t *at, *limit;
	intptr_t to_run;
	bool full;
};

/* A memory operand. Registers are host numbers, NO_REGISTER for none. */
#define NO_REGISTER 0xffu

struct host_memory {
	uint8_t base, index, scale; /* scale: the shift */
	bool vp;                    /* GS segment: `disp` is an offset into struct soft_vp */
	int32_t disp;
};

/* What makes an instruction beside its operands. */
struct host_opcode {
	uint8_t prefixes[3]; /* 66, F2, F3, F0 in order; 0 for none */
	uint8_t map;         /* 0: none, 1: 0F, 2: 0F38, 3: 0F3A */
	uint8_t opcode;
	bool wide;           /* REX.W */
	bool rex;            /* REX even if empty: SPL, BPL, SIL, DIL */
	bool vex;            /* VEX: */
	uint8_t length;      /* L */
	uint8_t vvvv;        /* the register, 0 for none */
};

static inline void emit_bytes(struct emitter *e, const void *bytes, size_t count)
{
	if ((size_t)(e->limit - e->at) < count) {
		e->full = true;
		return;
	}
	memcpy(e->at, bytes, count);
	e->at += count;
}

static inline void emit8(struct emitter *e, unsigned v)
{
	emit_bytes(e, &(uint8_t){(uint8_t)v}, 1);
}

static inline void emit32(struct emitter *e, uint32_t v)
{
	emit_bytes(e, &v, 4);
}

static inline void emit64(struct emitter *e, uint64_t v)
{
	emit_bytes(e, &v, 8);
}

#define EMIT(e, ...) emit_bytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static inline const uint8_t *emit_run_address(const struct emitter *e, const uint8_t *at)
{
	return at + e->to_run;
}

/* Opcode, ModRM with a register or memory operand; immediates follow by emit8() and emit32(). */
void emit_rr(struct emitter *e, struct host_opcode o, unsigned reg, unsigned rm);
void emit_rm(struct emitter *e, struct host_opcode o, unsigned reg, struct host_memory m);
/* The register is in the opcode. */
void emit_plus(struct emitter *e, struct host_opcode o, unsigned reg);

/* 64-bit moves between a register and struct soft_vp, and some plain ones. */
void emit_load(struct emitter *e, unsigned reg, size_t vp_offset);
void emit_store(struct emitter *e, unsigned reg, size_t vp_offset);
void emit_vp(struct emitter *e, unsigned opcode, unsigned reg, size_t vp_offset); /* any op r64, [vp] */
void emit_move(struct emitter *e, unsigned to, unsigned from);
void emit_lea(struct emitter *e, unsigned reg, struct host_memory m);
void emit_constant(struct emitter *e, unsigned reg, uint64_t v);

/* Jumps with a distance of 32 bits. _forward: returns where the distance lies, for emit_land(). */
enum host_condition { IF_O, IF_NO, IF_B, IF_NB, IF_Z, IF_NZ, IF_BE, IF_NBE };

uint8_t *emit_jump_forward(struct emitter *e);
uint8_t *emit_jump_if_forward(struct emitter *e, unsigned condition);
void emit_land(struct emitter *e, uint8_t *distance); /* the jump leads to here */
void emit_jump(struct emitter *e, const uint8_t *run_target);
void emit_call(struct emitter *e, const uint8_t *run_target);
