// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_x87.c - x87 arithmetic, executed by the host: the guest's state is loaded, the instruction
 * run with its memory operand at our address, the state saved again. The guest's own control word is
 * in force, so unmasked exceptions do what they do; they only become pending, because none of what is
 * executed here waits for an exception of an earlier instruction: #MF is raised by us.
 *
 * FIP, FDP and FOP come out as the host would set them: they are filled with values that cannot occur
 * before, and where the host has changed one, the guest's own value is put in its place. Source: SDM
 * volume 1, 8.1.8 and 8.1.9.
 *
 * AMD's processors save the three only with an exception pending, and zeros or nothing otherwise (APM
 * volume 2, "FXSAVE and FXRSTOR Instructions"). There, without one, they come out as a recent processor
 * of Intel's has them: each instruction but the control instructions sets FIP, none FDP and FOP. CPUID
 * says so (FDP_EXCPTN_ONLY).
 */
#include "hypervisor/soft/vector_x87.h"

/* Loads `image`, calls the native function, saves to `image`, and leaves the host's x87 state initial. */
uint64_t vector_x87_call(uint64_t argument, const void *native, uint8_t *image);

__asm__(".text\n"
	".type vector_x87_call, @function\n"
	".globl vector_x87_call\n"
	".hidden vector_x87_call\n"
	"vector_x87_call:\n"
	"	push %rdx\n"
	"	fxrstor64 (%rdx)\n"
	"	test %rsi, %rsi\n"
	"	jz 1f\n"
	"	call *%rsi\n"
	"1:	pop %rdx\n"
	"	fxsave64 (%rdx)\n"
	"	fninit\n"
	"	ret\n"
	".size vector_x87_call, . - vector_x87_call\n");

/* An x87 instruction to try the host with. */
void vector_x87_one(void);

__asm__(".text\n"
	".type vector_x87_one, @function\n"
	".globl vector_x87_one\n"
	".hidden vector_x87_one\n"
	"vector_x87_one:\n"
	"	fld1\n"
	"	ret\n"
	".size vector_x87_one, . - vector_x87_one\n");

/* As FOP has them. */
#define FBSTP_OPCODE  0x730u /* DF /6 */
#define FSTP80_OPCODE 0x338u /* DB /7 */

#define IMPOSSIBLE_POINTER 1u /* no instruction or operand of ours lies there */

struct x87_operands {
	uint16_t opcode;        /* FOP of the instruction in the guest */
	uint16_t native_opcode; /* … and in its normal form */
	uint8_t source;         /* enum form_source */
	bool flags;             /* reads or writes EFLAGS */
	bool control;           /* FLDCW, which leaves FIP alone */
};
_Static_assert(sizeof(struct x87_operands) <= 8, "it must fit into op->side->extra[0]");

void x87_initialise(uint8_t *fx)
{
	memset(fx, 0, FX_X87_SIZE);
	le16_put(fx + FX_CONTROL, X87_CONTROL_INITIAL);
}

void x87_set_top(uint8_t *fx, unsigned top)
{
	unsigned turn = (top - x87_top(fx)) & 7;
	uint8_t old[128];

	if (turn == 0)
		return;
	memcpy(old, fx + FX_REGISTERS, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(x87_register(fx, i), old + 16 * (size_t)((i + turn) & 7), 16);
	le16_put(fx + FX_STATUS, (uint16_t)((le16_get(fx + FX_STATUS) & ~(7u << 11)) | top << 11));
}

/* A whole FXSAVE image that is valid for the host: no XMM registers, the host's MXCSR. */
static void make_image(uint8_t image[512], const uint8_t *fx)
{
	memcpy(image, fx, FX_X87_SIZE);
	memset(image + FX_X87_SIZE, 0, 512 - FX_X87_SIZE);
	le64_put(image + FX_MXCSR, MXCSR_DEFAULT);
}

/* FOP, FIP and FDP. */
static void copy_pointers(uint8_t *to, const uint8_t *from)
{
	memcpy(to + FX_OPCODE, from + FX_OPCODE, FX_MXCSR - FX_OPCODE);
}

bool x87_host_saves_pointers(void)
{
	_Alignas(64) uint8_t image[512], fx[FX_X87_SIZE];

	x87_initialise(fx);
	make_image(image, fx);
	le64_put(image + FX_FIP, IMPOSSIBLE_POINTER);
	vector_x87_call(0, (const void *)(uintptr_t)vector_x87_one, image);
	return le64_get(image + FX_FIP) == (uintptr_t)vector_x87_one;
}

void x87_normalise(struct soft_vp *vp)
{
	_Alignas(64) uint8_t image[512];

	make_image(image, vp->fx);
	vector_x87_call(0, NULL, image);
	if (!vector_pool_features(vp->vectors)->x87_pointers)
		copy_pointers(image, vp->fx);
	memcpy(vp->fx, image, FX_X87_SIZE);
}

static uint64_t run(struct soft_vp *vp, const struct op *op, const struct x87_operands *x, uint64_t argument,
		    uint8_t image[512])
{
	make_image(image, vp->fx);
	le16_put(image + FX_OPCODE, ~x->native_opcode & 0x7ff);
	le64_put(image + FX_FIP, IMPOSSIBLE_POINTER);
	le64_put(image + FX_FDP, IMPOSSIBLE_POINTER);
	return vector_x87_call(argument, op->side->native, image);
}

static void replace_pointers(const struct soft_vp *vp, const struct op *op, const struct x87_operands *x,
			     uint8_t image[512])
{
	bool opcode = le16_get(image + FX_OPCODE) == x->native_opcode;

	le16_put(image + FX_OPCODE, opcode ? x->opcode : le16_get(vp->fx + FX_OPCODE));
	le64_put(image + FX_FIP,
		 le64_get(image + FX_FIP) == IMPOSSIBLE_POINTER ? le64_get(vp->fx + FX_FIP) : op_rip(vp, op));
	le64_put(image + FX_FDP, le64_get(image + FX_FDP) == IMPOSSIBLE_POINTER ? le64_get(vp->fx + FX_FDP)
				 : op->flags & OP_MEMORY                        ? ea_offset(vp, op)
										: 0);
}

/* Nothing that the image says of them: even with an exception it may lack what was loaded, when the host's
 * kernel saved and restored the state in between. */
static void set_pointers(const struct soft_vp *vp, const struct op *op, const struct x87_operands *x,
			 uint8_t image[512])
{
	bool pending = le16_get(image + FX_STATUS) & X87_STATUS_ES;

	copy_pointers(image, vp->fx);
	if (x->control)
		return;
	le64_put(image + FX_FIP, op_rip(vp, op));
	if (!pending)
		return;
	le16_put(image + FX_OPCODE, x->opcode);
	if (op->flags & OP_MEMORY)
		le64_put(image + FX_FDP, ea_offset(vp, op));
}

/* Whether the instruction wrote its operand: with an unmasked exception it may not have. Two runs
 * over different bytes tell it from one that writes what was there. */
static bool run_store(struct soft_vp *vp, const struct op *op, const struct x87_operands *x,
		      uint8_t image[512])
{
	static const uint8_t patterns[] = {0xa5, 0x5a};

	for (unsigned i = 0; i < ARRAY_SIZE(patterns); i++) {
		memset(vp->vector_scratch, patterns[i], op->size);
		run(vp, op, x, (uintptr_t)vp->vector_scratch, image);
		for (unsigned k = 0; k < op->size; k++)
			if (vp->vector_scratch[k] != patterns[i])
				return true;
	}
	return false;
}

/* FBSTP and FSTP m80 store eight bytes, then two: at a page boundary the first stay though the second
 * fault. */
static void store_result(struct soft_vp *vp, const struct op *op, const struct x87_operands *x,
			 uint64_t linear)
{
	unsigned opcode = x->native_opcode & 0x738u;
	unsigned first = opcode == FBSTP_OPCODE || opcode == FSTP80_OPCODE ? 8 : op->size;

	store_bytes(vp, op, linear, vp->vector_scratch, first);
	if (first < op->size)
		store_bytes(vp, op, ea_part(vp, op, linear, first), vp->vector_scratch + first, op->size - first);
}

own_frame void x87_execute(struct soft_vp *vp, const struct op *op)
{
	_Alignas(64) uint8_t image[512];
	struct x87_operands x;
	uint64_t result = 0;

	memcpy(&x, &op->side->extra[0], sizeof(x));
	if (x.source == FORM_LOAD) {
		run(vp, op, &x, (uintptr_t)vector_source_at(vp, op, ea(vp, op, op->size, false), op->size), image);
	} else if (x.source == FORM_STORE) {
		/* An unmasked exception keeps it from storing, and so from the faults of that, its segment's too. */
		if (run_store(vp, op, &x, image))
			store_result(vp, op, &x, ea(vp, op, op->size, true));
	} else {
		result = run(vp, op, &x, vp->arith, image);
	}
	if (vector_pool_features(vp->vectors)->x87_pointers)
		replace_pointers(vp, op, &x, image);
	else
		set_pointers(vp, op, &x, image);
	memcpy(vp->fx, image, FX_X87_SIZE);
	if (x.flags)
		vp->arith = (uint16_t)result;
}

static const struct op *x87(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & FP_BLOCK_X87_NM))
		vector_blocked(vp, op, UNIT_X87);
	x87_check_pending(vp, op);
	x87_execute(vp, op);
	return dispatch(vp, op + 1);
}

bool vector_x87_select(struct decoding *d, struct op *op)
{
	const ZydisDecodedInstruction *insn = d->insn;
	const uint32_t flags = insn->cpu_flags ? insn->cpu_flags->tested | insn->cpu_flags->modified : 0;
	struct x87_operands x = {
	    .source = FORM_REGISTERS, .flags = flags != 0, .control = insn->mnemonic == ZYDIS_MNEMONIC_FLDCW};

	if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT ||
	    insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || insn->opcode < 0xd8 || insn->opcode > 0xdf)
		return false;
	x.opcode = (uint16_t)((insn->opcode & 7u) << 8 | (unsigned)insn->raw.modrm.mod << 6 |
			      (unsigned)insn->raw.modrm.reg << 3 | insn->raw.modrm.rm);
	x.native_opcode = x.opcode;
	if (insn->raw.modrm.mod != 3) {
		const ZydisDecodedOperand *memory = &d->operands[0];

		if (memory->type != ZYDIS_OPERAND_TYPE_MEMORY)
			return false;
		x.native_opcode = (uint16_t)((x.opcode & 0x738u) | 7u);
		x.source = memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? FORM_STORE : FORM_LOAD;
		op->size = (uint8_t)(memory->size / 8);
	}
	memcpy(&op_take_side(d, op)->extra[0], &x, sizeof(x));
	op_take_side(d, op)->native = form_native_x87(d);
	op->fn = x87;
	return op->side->native;
}
