// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_xsave.c - FXSAVE, XSAVE and their like, LDMXCSR and STMXCSR, CPUID leaf 0xd, and the state
 * after power-up. Components: x87, SSE, AVX and PKRU; AVX lies in the compacted format (XSAVEC) where it
 * lies in the standard format, PKRU behind it or in its place. Source: SDM volume 1, chapter 13.
 *
 * A component counts as in use when it differs from its initial configuration, no sooner and no later.
 */
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/vector_x87.h"

#define COMPONENT_X87  1u
#define COMPONENT_SSE  2u
#define COMPONENT_AVX  4u
#define COMPONENT_PKRU (1u << 9)

#define HEADER_OFFSET 512u
#define HEADER_SIZE   64u
#define AVX_OFFSET    576u
#define AVX_SIZE      256u
#define PKRU_OFFSET   2688u /* where Intel's processors have it */
#define PKRU_SIZE     8u
#define COMPACTED     (1ull << 63)
#define FX_MXCSR_MASK 28u

/* --- MXCSR -------------------------------------------------------------------------------------- */

static void check_mxcsr_unit(struct soft_vp *vp, const struct op *op)
{
	if (op->src)
		avx_check(vp, op);
	else
		sse_check(vp, op);
}

static const struct op *ldmxcsr(struct soft_vp *vp, const struct op *op)
{
	uint32_t v;

	check_mxcsr_unit(vp, op);
	v = load32(vp, op, ea(vp, op, 4, false));
	if (v & ~MXCSR_VALID)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	vp->mxcsr = v;
	return dispatch(vp, op + 1);
}

static const struct op *stmxcsr(struct soft_vp *vp, const struct op *op)
{
	check_mxcsr_unit(vp, op);
	store32(vp, op, ea(vp, op, 4, true), vp->mxcsr);
	return dispatch(vp, op + 1);
}

/* --- addresses ---------------------------------------------------------------------------------- */

/* Here, unlike for SSE operands, #SS of an address that is not canonical comes before #GP of one that is
 * not aligned. */
static uint64_t area_ea(struct soft_vp *vp, const struct op *op, unsigned size, unsigned align, bool write)
{
	uint64_t linear = ea(vp, op, size, write);

	if ((int64_t)(linear << 16) >> 16 != (int64_t)linear)
		(void)load8(vp, op, linear);
	if (linear & align)
		vector_misaligned(vp, op);
	return linear;
}

/* --- components in memory ----------------------------------------------------------------------- */

static unsigned xmm_count(const struct soft_vp *vp)
{
	return vp->mode == MODE_64 ? 16 : 8;
}

/* Bytes 0 to 23 and 32 to 159. Without REX.W, FIP and FDP are 32 bits beside a selector, which is 0. */
static void x87_put(const struct soft_vp *vp, uint8_t *image, bool wide)
{
	memcpy(image, vp->fx, FX_MXCSR);
	memcpy(image + FX_REGISTERS, vp->fx + FX_REGISTERS, 128);
	if (!wide) {
		le32_put(image + FX_FIP + 4, 0);
		le32_put(image + FX_FDP + 4, 0);
	}
	image[FX_TAGS + 1] = 0;
	for (unsigned i = 0; i < 8; i++)
		memset(x87_register(image, i) + 10, 0, 6);
}

static void x87_take(struct soft_vp *vp, const uint8_t *image, bool wide)
{
	memcpy(vp->fx, image, FX_MXCSR);
	memcpy(vp->fx + FX_REGISTERS, image + FX_REGISTERS, 128);
	vp->fx[FX_TAGS + 1] = 0;
	le16_put(vp->fx + FX_OPCODE, le16_get(vp->fx + FX_OPCODE) & 0x7ff);
	for (unsigned i = 0; i < 8; i++)
		memset(x87_register(vp->fx, i) + 10, 0, 6);
	if (!wide) {
		le32_put(vp->fx + FX_FIP + 4, 0);
		le32_put(vp->fx + FX_FDP + 4, 0);
	}
	x87_normalise(vp);
}

static void mxcsr_put(const struct soft_vp *vp, uint8_t *image)
{
	le32_put(image + FX_MXCSR, vp->mxcsr);
	le32_put(image + FX_MXCSR_MASK, MXCSR_VALID);
}

static void xmm_put(const struct soft_vp *vp, uint8_t *image)
{
	for (unsigned i = 0; i < xmm_count(vp); i++)
		memcpy(image + FX_XMM + 16 * (size_t)i, vp->ymm[i], 16);
}

static void xmm_take(struct soft_vp *vp, const uint8_t *image)
{
	for (unsigned i = 0; i < xmm_count(vp); i++)
		memcpy(vp->ymm[i], image + FX_XMM + 16 * (size_t)i, 16);
}

/* --- FXSAVE, FXRSTOR ---------------------------------------------------------------------------- */

#define WIDE 1u /* in op->dst: REX.W */

static void check_fxsave(struct soft_vp *vp, const struct op *op)
{
	if (unlikely(vp->fp_block & FP_BLOCK_X87_NM))
		vector_blocked(vp, op, UNIT_X87);
}

own_frame void fxsave_execute(struct soft_vp *vp, const struct op *op)
{
	_Alignas(16) uint8_t image[512];
	uint64_t linear = area_ea(vp, op, 512, 15, true);
	unsigned size = vp->mode == MODE_64 ? FX_WRITTEN : FX_XMM + 8 * 16;

	vector_probe_end(vp, op, linear, 512, true);
	probe_parts(vp, op, linear, 512);
	x87_put(vp, image, op->dst & WIDE);
	mxcsr_put(vp, image);
	xmm_put(vp, image);
	store_parts(vp, op, linear, 0, image, size);
}

static const struct op *fxsave(struct soft_vp *vp, const struct op *op)
{
	check_fxsave(vp, op);
	fxsave_execute(vp, op);
	return dispatch(vp, op + 1);
}

own_frame void fxrstor_execute(struct soft_vp *vp, const struct op *op)
{
	_Alignas(16) uint8_t image[512];
	uint64_t linear = area_ea(vp, op, 512, 15, false);

	vector_probe_end(vp, op, linear, 512, false);
	load_parts(vp, op, linear, 0, image, 512);
	if (le32_get(image + FX_MXCSR) & ~MXCSR_VALID)
		raise_fault_code(vp, op, VECTOR_GP, 0);
	x87_take(vp, image, op->dst & WIDE);
	vp->mxcsr = le32_get(image + FX_MXCSR);
	xmm_take(vp, image);
}

static const struct op *fxrstor(struct soft_vp *vp, const struct op *op)
{
	check_fxsave(vp, op);
	fxrstor_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- XSAVE -------------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *p, unsigned size)
{
	for (unsigned i = 0; i < size; i += 8)
		if (le64_get(p + i))
			return false;
	return true;
}

static bool is_x87_initial(const uint8_t *fx)
{
	static const uint8_t initial[FX_MXCSR] = {X87_CONTROL_INITIAL & 0xff, X87_CONTROL_INITIAL >> 8};

	return memcmp(fx, initial, sizeof(initial)) == 0 && is_zero(fx + FX_REGISTERS, 128);
}

uint64_t vector_in_use(const struct soft_vp *vp)
{
	uint64_t in_use = (is_x87_initial(vp->fx) ? 0 : COMPONENT_X87) | (vp->pkru ? COMPONENT_PKRU : 0);

	for (unsigned i = 0; i < 16; i++) {
		if (!is_zero(vp->ymm[i], 16))
			in_use |= COMPONENT_SSE;
		if (!is_zero(vp->ymm[i] + 16, 16))
			in_use |= COMPONENT_AVX;
	}
	return in_use;
}

static void check_xsave(struct soft_vp *vp, const struct op *op)
{
	if (!(vp->cr4 & CR4_OSXSAVE))
		raise_fault(vp, op, VECTOR_UD);
	if (vp->cr0 & CR0_TS)
		raise_fault(vp, op, VECTOR_NM);
}

static uint64_t requested(const struct soft_vp *vp)
{
	return vp->xcr0 & ((uint64_t)(uint32_t)vp->gpr[GPR_RDX] << 32 | (uint32_t)vp->gpr[GPR_RAX]);
}

/* In op->src. */
enum xsave_kind { XSAVE, XSAVEOPT, XSAVEC };

static void avx_store(struct soft_vp *vp, const struct op *op, uint64_t linear)
{
	uint8_t area[AVX_SIZE];
	unsigned size = 16 * xmm_count(vp);

	for (unsigned i = 0; i < xmm_count(vp); i++)
		memcpy(area + 16 * (size_t)i, vp->ymm[i] + 16, 16);
	store_parts(vp, op, linear, AVX_OFFSET, area, size);
}

/* Of an area in the compacted format that has `components`. */
static unsigned pkru_offset(bool compacted, uint64_t components)
{
	return !compacted ? PKRU_OFFSET : AVX_OFFSET + (components & COMPONENT_AVX ? AVX_SIZE : 0);
}

static void pkru_store(struct soft_vp *vp, const struct op *op, uint64_t linear, unsigned offset)
{
	uint8_t area[PKRU_SIZE] = {0};

	le32_put(area, vp->pkru);
	store_parts(vp, op, linear, offset, area, PKRU_SIZE);
}

static void legacy_store(struct soft_vp *vp, const struct op *op, uint64_t linear, uint64_t save, bool mxcsr)
{
	_Alignas(16) uint8_t image[512];

	x87_put(vp, image, op->dst & WIDE);
	mxcsr_put(vp, image);
	xmm_put(vp, image);
	if (save & COMPONENT_X87) {
		store_parts(vp, op, linear, 0, image, FX_MXCSR);
		store_parts(vp, op, linear, FX_REGISTERS, image + FX_REGISTERS, 128);
	}
	if (mxcsr)
		store_parts(vp, op, linear, FX_MXCSR, image + FX_MXCSR, 8);
	if (save & COMPONENT_SSE)
		store_parts(vp, op, linear, FX_XMM, image + FX_XMM, 16 * xmm_count(vp));
}

own_frame void xsave_execute(struct soft_vp *vp, const struct op *op)
{
	uint64_t mask = requested(vp), in_use = vector_in_use(vp), save, header[2];
	unsigned size = HEADER_OFFSET + HEADER_SIZE + (mask & COMPONENT_AVX ? AVX_SIZE : 0);
	unsigned pkru = pkru_offset(op->src == XSAVEC, mask);
	uint64_t linear = area_ea(vp, op, mask & COMPONENT_PKRU ? pkru + PKRU_SIZE : size, 63, true);
	bool mxcsr = mask & (COMPONENT_SSE | COMPONENT_AVX);

	/* Nothing is written when any of it faults. */
	probe_parts(vp, op, linear, size);
	if (mask & COMPONENT_PKRU)
		probe_write(vp, op, ea_part(vp, op, linear, pkru), PKRU_SIZE);
	save = op->src == XSAVE ? mask : mask & in_use;
	if (op->src == XSAVEC) {
		if (vp->mxcsr != MXCSR_DEFAULT)
			save |= mask & COMPONENT_SSE;
		mxcsr = save & COMPONENT_SSE;
		header[0] = save;
		header[1] = mask | COMPACTED;
		store_parts(vp, op, linear, HEADER_OFFSET, header, 16);
	} else {
		header[0] = load64(vp, op, ea_part(vp, op, linear, HEADER_OFFSET));
		header[0] = (header[0] & ~mask) | (mask & in_use);
		store64(vp, op, ea_part(vp, op, linear, HEADER_OFFSET), header[0]);
	}
	legacy_store(vp, op, linear, save, mxcsr);
	if (save & COMPONENT_AVX)
		avx_store(vp, op, linear);
	if (save & COMPONENT_PKRU)
		pkru_store(vp, op, linear, pkru);
}

static const struct op *xsave(struct soft_vp *vp, const struct op *op)
{
	check_xsave(vp, op);
	xsave_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- XRSTOR ------------------------------------------------------------------------------------- */

/* SDM volume 1, 13.8: what makes XRSTOR raise #GP. */
static bool is_header_valid(const struct soft_vp *vp, const uint8_t *header)
{
	uint64_t present = le64_get(header), format = le64_get(header + 8);

	if (format & COMPACTED)
		return !(format & ~COMPACTED & ~vp->xcr0) && !(present & ~format) && is_zero(header + 16, 48);
	return format == 0 && !(present & ~vp->xcr0) && is_zero(header + 16, 8);
}

static void avx_take(struct soft_vp *vp, const uint8_t *area)
{
	for (unsigned i = 0; i < xmm_count(vp); i++)
		memcpy(vp->ymm[i] + 16, area + 16 * (size_t)i, 16);
}

own_frame void xrstor_execute(struct soft_vp *vp, const struct op *op)
{
	static const uint8_t zero[512];
	_Alignas(16) uint8_t image[512], area[AVX_SIZE];
	uint8_t header[HEADER_SIZE], pkru[PKRU_SIZE] = {0};
	uint64_t mask = requested(vp), linear = area_ea(vp, op, HEADER_OFFSET + HEADER_SIZE, 63, false),
		 present;
	bool compacted, load_mxcsr;
	unsigned pkru_at;

	load_parts(vp, op, linear, HEADER_OFFSET, header, HEADER_SIZE);
	if (!is_header_valid(vp, header))
		raise_fault_code(vp, op, VECTOR_GP, 0);
	present = le64_get(header);
	compacted = le64_get(header + 8) & COMPACTED;
	pkru_at = pkru_offset(compacted, le64_get(header + 8));
	/* How far it goes is known only now: the segment's limit. */
	if (mask & present & COMPONENT_PKRU)
		(void)ea(vp, op, pkru_at + PKRU_SIZE, false);
	else if (mask & present & COMPONENT_AVX)
		(void)ea(vp, op, AVX_OFFSET + 16 * xmm_count(vp), false);
	load_parts(vp, op, linear, 0, image, sizeof(image));
	if (mask & present & COMPONENT_AVX)
		load_parts(vp, op, linear, AVX_OFFSET, area, 16 * xmm_count(vp));
	if (mask & present & COMPONENT_PKRU)
		load_parts(vp, op, linear, pkru_at, pkru, PKRU_SIZE);
	/* In the standard format MXCSR comes from memory whether or not SSE is there (13.8.1). */
	load_mxcsr = compacted ? mask & present & COMPONENT_SSE : mask & (COMPONENT_SSE | COMPONENT_AVX);
	if (load_mxcsr && (le32_get(image + FX_MXCSR) & ~MXCSR_VALID))
		raise_fault_code(vp, op, VECTOR_GP, 0);

	if (mask & present & COMPONENT_X87)
		x87_take(vp, image, op->dst & WIDE);
	else if (mask & COMPONENT_X87)
		x87_initialise(vp->fx);
	if (load_mxcsr)
		vp->mxcsr = le32_get(image + FX_MXCSR);
	else if (compacted && (mask & COMPONENT_SSE))
		vp->mxcsr = MXCSR_DEFAULT;
	if (mask & COMPONENT_SSE)
		xmm_take(vp, present & COMPONENT_SSE ? image : zero);
	if (mask & COMPONENT_AVX)
		avx_take(vp, present & COMPONENT_AVX ? area : zero);
	if (mask & COMPONENT_PKRU)
		pkru_set(vp, le32_get(pkru));
}

static const struct op *xrstor(struct soft_vp *vp, const struct op *op)
{
	check_xsave(vp, op);
	xrstor_execute(vp, op);
	return dispatch(vp, op + 1);
}

/* --- CPUID and power-up ------------------------------------------------------------------------- */

uint64_t vector_components(const struct soft_vp *vp)
{
	return vector_pool_features(vp->vectors)->xcr0 & ~(uint64_t)(vp->user_keys ? 0 : COMPONENT_PKRU);
}

static uint32_t area_size(bool compacted, uint64_t components)
{
	if (components & COMPONENT_PKRU)
		return pkru_offset(compacted, components) + PKRU_SIZE;
	return HEADER_OFFSET + HEADER_SIZE + (components & COMPONENT_AVX ? AVX_SIZE : 0);
}

void vector_cpuid_xsave(uint64_t components, uint64_t xcr0, uint32_t subleaf, uint32_t registers[4])
{
	memset(registers, 0, 4 * sizeof(registers[0]));
	if (subleaf == 0) {
		registers[0] = (uint32_t)components;
		registers[1] = area_size(false, xcr0);
		registers[2] = area_size(false, components);
	} else if (subleaf == 1) {
		registers[0] =
		    1u << 0 /* XSAVEOPT */ | 1u << 1 /* XSAVEC */ | 1u << 2 /* XGETBV with ECX 1 */;
		registers[1] = area_size(true, xcr0);
	} else if (subleaf == 2 && (components & COMPONENT_AVX)) {
		registers[0] = AVX_SIZE;
		registers[1] = AVX_OFFSET;
	} else if (subleaf == 9 && (components & COMPONENT_PKRU)) {
		registers[0] = PKRU_SIZE;
		registers[1] = PKRU_OFFSET;
	}
}

void vector_reset(struct soft_vp *vp)
{
	memset(vp->ymm, 0, sizeof(vp->ymm));
	memset(vp->fx, 0, sizeof(vp->fx));
	x87_initialise(vp->fx);
	vp->mxcsr = MXCSR_DEFAULT;
	vp->xcr0 = COMPONENT_X87;
}

/* --- saved state ---------------------------------------------------------------------------------- */

_Static_assert(VECTOR_AREA == PKRU_OFFSET + PKRU_SIZE, "PKRU is the last component");

unsigned vector_area_put(const struct soft_vp *vp, uint8_t *area)
{
	memset(area, 0, VECTOR_AREA);
	x87_put(vp, area, true);
	mxcsr_put(vp, area);
	for (unsigned i = 0; i < 16; i++) {
		memcpy(area + FX_XMM + 16 * (size_t)i, vp->ymm[i], 16);
		memcpy(area + AVX_OFFSET + 16 * (size_t)i, vp->ymm[i] + 16, 16);
	}
	le64_put(area + HEADER_OFFSET, vector_in_use(vp));
	le32_put(area + PKRU_OFFSET, vp->pkru);
	return vp->user_keys ? VECTOR_AREA : AVX_OFFSET + AVX_SIZE;
}

void vector_area_take(struct soft_vp *vp, const uint8_t *area)
{
	uint64_t present = le64_get(area + HEADER_OFFSET);

	if (present & COMPONENT_X87) {
		x87_take(vp, area, true);
		/* Some hosts drop them on the way unless an exception is pending; ours were kept in software. */
		le16_put(vp->fx + FX_OPCODE, le16_get(area + FX_OPCODE) & 0x7ff);
		memcpy(vp->fx + FX_FIP, area + FX_FIP, 16);
	} else {
		x87_initialise(vp->fx);
	}
	vp->mxcsr = le32_get(area + FX_MXCSR);
	pkru_set(vp, present & COMPONENT_PKRU ? le32_get(area + PKRU_OFFSET) : 0);
	memset(vp->ymm, 0, sizeof(vp->ymm));
	for (unsigned i = 0; i < 16; i++) {
		if (present & COMPONENT_SSE)
			memcpy(vp->ymm[i], area + FX_XMM + 16 * (size_t)i, 16);
		if (present & COMPONENT_AVX)
			memcpy(vp->ymm[i] + 16, area + AVX_OFFSET + 16 * (size_t)i, 16);
	}
}

/* --- selection ---------------------------------------------------------------------------------- */

static bool select_as(struct op *op, op_fn fn, unsigned wide, unsigned kind)
{
	op->fn = fn;
	op->dst = (uint8_t)wide;
	op->src = (uint8_t)kind;
	return true;
}

bool vector_xsave_select(struct decoding *d, struct op *op)
{
	switch (d->insn->mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
		return select_as(op, ldmxcsr, 0, 0);
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return select_as(op, ldmxcsr, 0, 1);
	case ZYDIS_MNEMONIC_STMXCSR:
		return select_as(op, stmxcsr, 0, 0);
	case ZYDIS_MNEMONIC_VSTMXCSR:
		return select_as(op, stmxcsr, 0, 1);
	case ZYDIS_MNEMONIC_FXSAVE:
		return select_as(op, fxsave, 0, 0);
	case ZYDIS_MNEMONIC_FXSAVE64:
		return select_as(op, fxsave, WIDE, 0);
	case ZYDIS_MNEMONIC_FXRSTOR:
		return select_as(op, fxrstor, 0, 0);
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return select_as(op, fxrstor, WIDE, 0);
	case ZYDIS_MNEMONIC_XSAVE:
		return select_as(op, xsave, 0, XSAVE);
	case ZYDIS_MNEMONIC_XSAVE64:
		return select_as(op, xsave, WIDE, XSAVE);
	case ZYDIS_MNEMONIC_XSAVEOPT:
		return select_as(op, xsave, 0, XSAVEOPT);
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return select_as(op, xsave, WIDE, XSAVEOPT);
	case ZYDIS_MNEMONIC_XSAVEC:
		return select_as(op, xsave, 0, XSAVEC);
	case ZYDIS_MNEMONIC_XSAVEC64:
		return select_as(op, xsave, WIDE, XSAVEC);
	case ZYDIS_MNEMONIC_XRSTOR:
		return select_as(op, xrstor, 0, 0);
	case ZYDIS_MNEMONIC_XRSTOR64:
		return select_as(op, xrstor, WIDE, 0);
	default:
		return false;
	}
}
