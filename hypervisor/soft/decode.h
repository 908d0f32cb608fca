/* SPDX-License-Identifier: GPL-2.0-or-later */
/* decode.h - from instruction bytes to one op. Private to hypervisor/soft/. */
#pragma once

#include "hypervisor/soft/op.h"

#define INSTRUCTION_MAX 15u

enum decode_result {
	DECODE_OK,        /* go on with the next */
	DECODE_ENDS,      /* the block ends with this op */
	DECODE_TRUNCATED  /* `size` bytes do not hold the whole instruction */
};

/* Fill `op` from the instruction at `bytes`, which is at `offset` in its page. What is no instruction,
 * or one that CPUID does not show, becomes an op that raises #UD (#GP when longer than 15 bytes). An op with OP_SIDE
 * refers to `side`. */
enum decode_result decode_op(struct soft_vp *vp, enum code_mode mode, const uint8_t *bytes, unsigned size,
    unsigned offset, struct op *op, struct op_side *side);

/* The same, with all that is known of the instruction. */
struct decoded {
	struct op op;
	struct op_side side; /* if it has OP_SIDE */
	bool valid; /* the bytes are an instruction: */
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};
enum decode_result decode_instruction(struct soft_vp *vp, enum code_mode mode, const uint8_t *bytes, unsigned size,
    unsigned offset, struct decoded *out);

/* The op behind the last of a block that does not end with a branch, at `offset`. */
void decode_end(struct op *op, unsigned offset);
