// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exec_bit.c - BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, CRC32.
 */
#include "hypervisor/soft/exec.h"

/* --- BT and its kin ----------------------------------------------------------------------------- */

/* With memory and the bit number in a register the operand is a string of bits around the address:
 * the word that holds the bit is accessed, for a negative number one before it. */
static uint64_t bit_address(struct soft_vp *vp, const struct op *op, int64_t words, bool write)
{
	uint64_t offset = ea_offset_at(vp, op, (uint64_t)words * op->size);

	if (likely(!(op->flags & OP_EA_CHECKED)))
		return vp->seg_base[op->seg] + offset;
	if (op->seg == SEG_NONE)
		return offset;
	return segment_linear(vp, op, op->seg, offset, op->size, write);
}

#define BIT_ADDRESS(bits, write) \
	bit_address(vp, op, (int##bits##_t)reg##bits(vp, op->src) >> __builtin_ctz(bits), write)

#define DEFINE_BIT_REGISTER(name, bits)                                                         \
	static const struct op *name##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), vp->arith);                  \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	static const struct op *name##bits##_ri(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint##bits##_t a = reg##bits(vp, op->dst);                                      \
                                                                                                \
		vp->arith = name##bits(&a, (uint##bits##_t)op->imm, vp->arith);                 \
		reg##bits##_set(vp, op->dst, a);                                                \
		return dispatch(vp, op + 1);                                                    \
	}

#define DEFINE_BIT_UPDATE(name, bits)                                                                   \
	DEFINE_BIT_REGISTER(name, bits)                                                                 \
	DEFINE_UPDATE(name##bits##_mi, bits, name##bits(&v, (uint##bits##_t)op->imm, arith))            \
	DEFINE_LOCKED(name##bits##_mi_lock, bits, name##bits(&v, (uint##bits##_t)op->imm, arith))       \
	DEFINE_UPDATE_AT(name##bits##_mr, bits, BIT_ADDRESS(bits, true),                                \
	    name##bits(&v, reg##bits(vp, op->src), arith), )                                            \
	DEFINE_LOCKED_AT(name##bits##_mr_lock, bits, BIT_ADDRESS(bits, true),                           \
	    name##bits(&v, reg##bits(vp, op->src), arith), )

/* BT itself writes nothing: not even the upper half of a 32-bit register. */
#define DEFINE_BIT_TEST(bits)                                                           \
	static const struct op *bt##bits##_rr(struct soft_vp *vp, const struct op *op)  \
	{                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                              \
                                                                                        \
		vp->arith = bt##bits(&a, reg##bits(vp, op->src), vp->arith);            \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	static const struct op *bt##bits##_ri(struct soft_vp *vp, const struct op *op)  \
	{                                                                               \
		uint##bits##_t a = reg##bits(vp, op->dst);                              \
                                                                                        \
		vp->arith = bt##bits(&a, (uint##bits##_t)op->imm, vp->arith);           \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	static const struct op *bt##bits##_mr(struct soft_vp *vp, const struct op *op)  \
	{                                                                               \
		uint##bits##_t v = load##bits(vp, op, BIT_ADDRESS(bits, false));        \
                                                                                        \
		vp->arith = bt##bits(&v, reg##bits(vp, op->src), vp->arith);            \
		return dispatch(vp, op + 1);                                            \
	}                                                                               \
                                                                                        \
	DEFINE_LOAD(bt##bits##_mi, bits, vp->arith = bt##bits(&v, (uint##bits##_t)op->imm, vp->arith))

#define DEFINE_BITS(bits)               \
	DEFINE_BIT_TEST(bits)           \
	DEFINE_BIT_UPDATE(bts, bits)    \
	DEFINE_BIT_UPDATE(btr, bits)    \
	DEFINE_BIT_UPDATE(btc, bits)

DEFINE_BITS(16)
DEFINE_BITS(32)
DEFINE_BITS(64)

struct bit {
	op_fn rr[4], ri[4], mr[4], mr_lock[4], mi_lock[4];
	struct memory_handler mi[4];
};

#define WIDE_SIZES(name, suffix) {NULL, name##16##suffix, name##32##suffix, name##64##suffix}
#define WIDE_MEMORY_SIZES(name, suffix) \
	{{0}, MEMORY(name##16##suffix), MEMORY(name##32##suffix), MEMORY(name##64##suffix)}
#define BIT_TEST_TABLE(name)                                                                    \
	.rr = WIDE_SIZES(name, _rr), .ri = WIDE_SIZES(name, _ri), .mr = WIDE_SIZES(name, _mr),  \
	.mi = WIDE_MEMORY_SIZES(name, _mi)
#define BIT_TABLE(name) \
	{BIT_TEST_TABLE(name), .mr_lock = WIDE_SIZES(name, _mr_lock), .mi_lock = WIDE_SIZES(name, _mi_lock)}

static const struct bit bt_table = {BIT_TEST_TABLE(bt)}, bts_table = BIT_TABLE(bts),
			btr_table = BIT_TABLE(btr), btc_table = BIT_TABLE(btc);

static bool select_bit(struct decoding *d, struct op *op, const struct bit *t)
{
	unsigned i = size_index(d->operands[0].size);
	bool lock = op->flags & OP_LOCK;

	op->size = (uint8_t)(d->operands[0].size / 8);
	switch (take_operands(d, op)) {
	case SHAPE_RR:
		op->fn = t->rr[i];
		break;
	case SHAPE_RI:
		op->fn = t->ri[i];
		break;
	case SHAPE_MR:
		op->fn = lock ? t->mr_lock[i] : t->mr[i];
		break;
	default:
		op->fn = lock ? t->mi_lock[i] : memory_fn(op, t->mi[i]);
		break;
	}
	return op->fn;
}

/* --- counting and finding bits ------------------------------------------------------------------ */

/* The host instruction sees the whole destination, for what it keeps of it: BSF and BSR of 0 leave it
 * alone, 16-bit forms change 16 bits. `part` selects the width of the operand in the assembler. */
#define DEFINE_SCAN(name, bits, part)                                                           \
	static inline uint16_t name##bits(uint64_t *a, uint##bits##_t b, uint16_t arith)        \
	{                                                                                       \
		__asm__(LOAD_FLAGS #name " %2, %" part "0" SAVE_FLAGS                           \
			: "+r"(*a), "+a"(arith) : "r"(b) : "cc");                               \
		return arith;                                                                   \
	}                                                                                       \
                                                                                                \
	static const struct op *name##bits##_rr(struct soft_vp *vp, const struct op *op)        \
	{                                                                                       \
		uint64_t a = reg64(vp, op->dst);                                                \
                                                                                                \
		vp->arith = name##bits(&a, reg##bits(vp, op->src), vp->arith);                  \
		reg64_set(vp, op->dst, a);                                                      \
		return dispatch(vp, op + 1);                                                    \
	}                                                                                       \
                                                                                                \
	DEFINE_LOAD(name##bits##_rm, bits, {                                                    \
		uint64_t a = reg64(vp, op->dst);                                                \
		vp->arith = name##bits(&a, v, vp->arith);                                       \
		reg64_set(vp, op->dst, a);                                                      \
	})

#define DEFINE_SCANS(name)              \
	DEFINE_SCAN(name, 16, "w")      \
	DEFINE_SCAN(name, 32, "k")      \
	DEFINE_SCAN(name, 64, "q")

DEFINE_SCANS(bsf)
DEFINE_SCANS(bsr)
DEFINE_SCANS(tzcnt)
DEFINE_SCANS(lzcnt)
DEFINE_SCANS(popcnt)

/* CRC32 always clears the upper half, whatever the width of the destination. */
#define DEFINE_CRC32(bits, part)                                                                        \
	static inline uint64_t crc32_##bits(uint64_t a, uint##bits##_t b)                               \
	{                                                                                               \
		__asm__("crc32 %1, %" part "0" : "+r"(a) : "r"(b));                                     \
		return a;                                                                               \
	}                                                                                               \
                                                                                                        \
	static const struct op *crc##bits##_rr(struct soft_vp *vp, const struct op *op)                 \
	{                                                                                               \
		reg64_set(vp, op->dst, crc32_##bits(reg64(vp, op->dst), reg##bits(vp, op->src)));       \
		return dispatch(vp, op + 1);                                                            \
	}                                                                                               \
                                                                                                        \
	DEFINE_LOAD(crc##bits##_rm, bits, reg64_set(vp, op->dst, crc32_##bits(reg64(vp, op->dst), v)))

DEFINE_CRC32(8, "k")
DEFINE_CRC32(16, "k")
DEFINE_CRC32(32, "k")
DEFINE_CRC32(64, "q")

struct scan {
	op_fn rr[4];
	struct memory_handler rm[4];
};

#define SCAN_TABLE(name) {WIDE_SIZES(name, _rr), WIDE_MEMORY_SIZES(name, _rm)}

static const struct scan bsf_table = SCAN_TABLE(bsf), bsr_table = SCAN_TABLE(bsr),
			 tzcnt_table = SCAN_TABLE(tzcnt), lzcnt_table = SCAN_TABLE(lzcnt),
			 popcnt_table = SCAN_TABLE(popcnt),
			 crc_table = {SIZES(crc, _rr), MEMORY_SIZES(crc, _rm)};

/* By the size of the source, which differs from the destination's in CRC32 only. */
static bool select_scan(struct decoding *d, struct op *op, const struct scan *t, bool known)
{
	unsigned i = size_index(d->operands[1].size);

	if (!known)
		return false;
	op->fn = take_operands(d, op) == SHAPE_RR ? t->rr[i] : memory_fn(op, t->rm[i]);
	return op->fn;
}

bool bit_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
		return select_bit(d, op, &bt_table);
	case ZYDIS_MNEMONIC_BTS:
		return select_bit(d, op, &bts_table);
	case ZYDIS_MNEMONIC_BTR:
		return select_bit(d, op, &btr_table);
	case ZYDIS_MNEMONIC_BTC:
		return select_bit(d, op, &btc_table);
	case ZYDIS_MNEMONIC_BSF:
		return select_scan(d, op, &bsf_table, true);
	case ZYDIS_MNEMONIC_BSR:
		return select_scan(d, op, &bsr_table, true);
	case ZYDIS_MNEMONIC_TZCNT: /* a host without it runs BSF, and so shows the guest no BMI1 */
		return select_scan(d, op, &tzcnt_table, true);
	case ZYDIS_MNEMONIC_LZCNT:
		return select_scan(d, op, &lzcnt_table, true);
	case ZYDIS_MNEMONIC_POPCNT:
		return select_scan(d, op, &popcnt_table, __builtin_cpu_supports("popcnt"));
	case ZYDIS_MNEMONIC_CRC32:
		return select_scan(d, op, &crc_table, __builtin_cpu_supports("sse4.2"));
	default:
		return false;
	}
}
