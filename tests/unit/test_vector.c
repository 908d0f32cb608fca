// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_vector.c - the pool of native functions: equal normal forms share one, and there is room for
 * every form that an encoding can have, so no guest can fill it. What the instructions compute is
 * the matter of tests/diff.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hypervisor/soft/vector_private.h"

static struct soft_vp *make_vp(void)
{
	struct soft_vp *vp = aligned_alloc(64, (sizeof(*vp) + 63) & ~(size_t)63);

	assert_non_null(vp);
	memset(vp, 0, sizeof(*vp));
	assert_int_equal(vector_pool_create(&vp->vectors, -1, NULL), 0);
	return vp;
}

static void free_vp(struct soft_vp *vp)
{
	vector_pool_destroy(vp->vectors);
	free(vp);
}

/* What decode.c does, as far as the vector part looks at it. */
static bool select_bytes(struct soft_vp *vp, const uint8_t *bytes, struct op *op, struct op_side *side)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct decoding d = {.vp = vp, .mode = MODE_64, .insn = &insn, .operands = operands, .bytes = bytes,
	    .side = side};
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &insn, operands)))
		return false;
	memset(op, 0, sizeof(*op));
	op->base = op->index = GPR_ZERO * 8;
	return vector_select(&d, op);
}

/* --- one function for one form ------------------------------------------------------------------ */

static void equal_forms_share_a_function(void **state)
{
	/* pshufb with different registers and prefixes; the last is another instruction. */
	static const uint8_t code[][15] = {{0x66, 0x0f, 0x38, 0x00, 0xca},
					   {0x66, 0x45, 0x0f, 0x38, 0x00, 0xfe},
					   {0x3e, 0x66, 0x0f, 0x38, 0x00, 0xe5},
					   {0x66, 0x0f, 0x38, 0x01, 0xca}};
	struct soft_vp *vp = make_vp();
	struct op op[4];
	struct op_side side[4];

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_true(select_bytes(vp, code[i], &op[i], &side[i]));
	assert_ptr_equal(side[0].native, side[1].native);
	assert_ptr_equal(side[0].native, side[2].native);
	assert_ptr_not_equal(side[0].native, side[3].native);
	assert_int_equal(vector_pool_count(vp->vectors), 2);
	free_vp(vp);
}

static void a_native_function_computes(void **state)
{
	static const uint8_t code[15] = {0x66, 0x44, 0x0f, 0x38, 0x1c, 0xd3}; /* pabsb xmm10, xmm3 */
	typedef __m128i (*native)(__m128i, __m128i, __m128i, __m128i, uint64_t);
	struct soft_vp *vp = make_vp();
	__m128i zero = _mm_setzero_si128(), minus = _mm_set1_epi8(-5), result;
	struct op_side side;
	struct op op;

	(void)state;
	assert_true(select_bytes(vp, code, &op, &side));
	assert_int_equal(op.dst, 10);
	result = ((native)(uintptr_t)side.native)(zero, zero, minus, zero, 0);
	assert_int_equal(_mm_movemask_epi8(_mm_cmpeq_epi8(result, _mm_set1_epi8(5))), 0xffff);
	free_vp(vp);
}

static void the_code_is_not_writable(void **state)
{
	static const uint8_t code[15] = {0x66, 0x0f, 0x38, 0x1c, 0xd3};
	struct soft_vp *vp = make_vp();
	unsigned found = 0;
	char line[512];
	struct op_side side;
	struct op op;
	FILE *maps;

	(void)state;
	assert_true(select_bytes(vp, code, &op, &side));
	maps = fopen("/proc/self/maps", "r");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long from, to;
		char rights[8];

		assert_int_equal(sscanf(line, "%lx-%lx %7s", &from, &to, rights), 3);
		assert_false(rights[1] == 'w' && rights[2] == 'x');
		if ((uintptr_t)side.native >= from && (uintptr_t)side.native < to) {
			found++;
			assert_int_equal(rights[2], 'x');
		}
	}
	fclose(maps);
	assert_int_equal(found, 1);
	free_vp(vp);
}

/* --- room for all ------------------------------------------------------------------------------- */

/* Every immediate of an instruction that has one; counts what was selected. */
static unsigned select_all_immediates(struct soft_vp *vp, uint8_t *bytes, unsigned at)
{
	struct op_side side;
	struct op op;

	if (!select_bytes(vp, bytes, &op, &side))
		return 0;
	for (unsigned i = 1; i < 256; i++) {
		unsigned before = vector_pool_count(vp->vectors);

		bytes[at] = (uint8_t)i;
		assert_true(select_bytes(vp, bytes, &op, &side));
		/* No immediate, or one that another operand is taken from. */
		if (i == 1 && vector_pool_count(vp->vectors) == before)
			break;
	}
	return 1;
}

static unsigned select_modrm(struct soft_vp *vp, uint8_t *bytes, unsigned n)
{
	unsigned selected = 0;

	for (unsigned modrm = 0; modrm < 256; modrm++) {
		unsigned mod = modrm >> 6, rm = modrm & 7;

		/* One memory operand, [rcx], and all registers of x87 groups. */
		if (mod == 1 || mod == 2 || (mod == 0 && rm != 1) ||
		    (mod == 3 && rm != 1 && bytes[0] >> 3 != 0x1b))
			continue;
		bytes[n] = (uint8_t)modrm;
		memset(bytes + n + 1, 0, 15 - n);
		selected += select_all_immediates(vp, bytes, n + 1);
	}
	return selected;
}

static unsigned select_legacy(struct soft_vp *vp, unsigned map, unsigned prefix, bool w, unsigned opcode)
{
	static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
	uint8_t bytes[32] = {0};
	unsigned n = 0;

	if (prefix)
		bytes[n++] = prefixes[prefix];
	if (w)
		bytes[n++] = 0x48;
	bytes[n++] = 0x0f;
	if (map > 1)
		bytes[n++] = map == 2 ? 0x38 : 0x3a;
	bytes[n++] = (uint8_t)opcode;
	return select_modrm(vp, bytes, n);
}

static unsigned select_vex(struct soft_vp *vp, unsigned map, unsigned prefix, bool w, unsigned opcode)
{
	unsigned selected = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned vvvv = i & 1 ? 15 : 11, l = i >> 1;
		uint8_t bytes[32] = {0xc4, (uint8_t)(0xe0 | map),
				     (uint8_t)((unsigned)w << 7 | vvvv << 3 | l << 2 | prefix),
				     (uint8_t)opcode};

		selected += select_modrm(vp, bytes, 4);
	}
	return selected;
}

static void all_forms_fit_into_the_pool(void **state)
{
	struct soft_vp *vp = make_vp();
	unsigned selected = 0;

	(void)state;
	for (unsigned opcode = 0xd8; opcode < 0xe0; opcode++) {
		uint8_t bytes[32] = {(uint8_t)opcode};

		selected += select_modrm(vp, bytes, 1);
	}
	for (unsigned i = 0; i < 3 * 4 * 2 * 256; i++) {
		unsigned map = 1 + i % 3, prefix = i / 3 % 4, opcode = i / 24;
		bool w = i / 12 % 2;

		selected += select_legacy(vp, map, prefix, w, opcode);
		selected += select_vex(vp, map, prefix, w, opcode);
	}
	print_message("%u encodings, %u native functions\n", selected, vector_pool_count(vp->vectors));
	assert_true(selected > 1000);
	/* 2^17 is the room: select_bytes() would have failed had it run out, and this says how far it is. */
	assert_true(vector_pool_count(vp->vectors) < (1u << 17) - 1024);
	free_vp(vp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(equal_forms_share_a_function),
	    cmocka_unit_test(a_native_function_computes),
	    cmocka_unit_test(the_code_is_not_writable),
	    cmocka_unit_test(all_forms_fit_into_the_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
