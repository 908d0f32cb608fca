// SPDX-License-Identifier: GPL-2.0-or-later
/* Every hypercall: slow, fast, XMM fast, repeated, variable headers, and each way to be refused. */
#include "tests/unit/test_tlfs_caller.h"

#define INPUT       0x8000u
#define FAST        (1ull << 16)
#define REPS(n)     ((uint64_t)(n) << 32)
#define START(n)    ((uint64_t)(n) << 48)
#define VARIABLE(n) ((uint64_t)(n) << 17)

static uint64_t call_at(uint64_t input, uint64_t in, uint64_t out)
{
	struct tlfs_hypercall call = {.input = input, .in = in, .out = out};

	tlfs_hypercall(&caller.t, 2, &call);
	return call.result;
}

static uint64_t call_slow(uint64_t input, const void *block, size_t size)
{
	memcpy(caller.ram + INPUT, block, size);
	return call_at(input, INPUT, 0);
}

static uint64_t call_fast(uint64_t input, const uint64_t *words, unsigned count)
{
	struct tlfs_hypercall call = {.input = input | FAST, .in = words[0], .out = count > 1 ? words[1] : 0};

	for (unsigned i = 2; i < count; i++)
		call.xmm[i - 2] = words[i];
	tlfs_hypercall(&caller.t, 2, &call);
	return call.result;
}

static void test_unknown(void **state)
{
	static const uint16_t codes[] = {0, 1, 4, 0x50, 0x51, 0x5b, 0x5e, 0x8001, 0xffff};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		assert_int_equal(call_at(codes[i], INPUT, 0), HV_STATUS_INVALID_HYPERCALL_CODE);
		assert_int_equal(call_at(codes[i] | FAST | REPS(3), 0, 0), HV_STATUS_INVALID_HYPERCALL_CODE);
	}
}

static void test_control_word(void **state)
{
	uint64_t zero[4] = {0};

	for (unsigned bit = 27; bit < 64; bit++) {
		if (bit > 31 && bit < 44)
			continue;
		if (bit > 47 && bit < 60)
			continue;
		assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE | 1ull << bit, zero, sizeof(zero)),
				 HV_STATUS_INVALID_HYPERCALL_INPUT);
	}
	/* A simple call that repeats, a call without a variable header that has one. */
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE | REPS(1), zero, 32),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE | START(1), zero, 32),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE | VARIABLE(1), zero, 32),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	/* A repeated call that does not repeat, or begins past its end. */
	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST, zero, 32), HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST | REPS(1) | START(1), zero, 32),
			 HV_STATUS_INVALID_HYPERCALL_INPUT | REPS(1));
	/* Fast where there is no fast form. */
	assert_int_equal(call_at(HV_CALL_POST_MESSAGE | FAST, 0, 0), HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(caller.flushes + caller.posts, 0);
}

static void test_placement(void **state)
{
	uint64_t size = sizeof(struct hv_flush_input);

	for (unsigned off = 1; off < 8; off++)
		assert_int_equal(call_at(HV_CALL_FLUSH_SPACE, INPUT + off, 0), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_at(HV_CALL_FLUSH_SPACE, INPUT + 4096 - 16, 0), HV_STATUS_INVALID_ALIGNMENT);
	memset(caller.ram + INPUT, 0, 4096);
	assert_int_equal(call_at(HV_CALL_FLUSH_SPACE, INPUT + 4096 - size, 0), HV_STATUS_SUCCESS);
	assert_int_equal(call_at(HV_CALL_FLUSH_SPACE, RAM_SIZE, 0), HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_at(HV_CALL_FLUSH_SPACE, UINT64_MAX - 4095, 0),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	/* A list that does not fit a page. */
	assert_int_equal(call_at(HV_CALL_FLUSH_LIST | REPS(510), INPUT, 0), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_at(HV_CALL_FLUSH_LIST | REPS(509), INPUT, 0), REPS(509));
	assert_int_equal(call_at(HV_CALL_FLUSH_LIST | REPS(4095), INPUT, 0), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_at(HV_CALL_FLUSH_SPACE_EX | VARIABLE(1023), INPUT, 0),
			 HV_STATUS_INVALID_ALIGNMENT);
}

static void test_flush(void **state)
{
	struct hv_flush_input input = {.address_space = 0x1234000, .flags = 4, .processor_mask = ~0ull << 1};

	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE, &input, sizeof(input)), HV_STATUS_SUCCESS);
	assert_int_equal(caller.flushes, 1);
	assert_int_equal(caller.flush.vps.bits[0], 0xfe);
	assert_int_equal(caller.flush.address_space, 0x1234000);
	assert_false(caller.flush.all_address_spaces);
	assert_true(caller.flush.non_global_only);
	assert_int_equal(caller.flush.range_count, 0);
	input.flags = 3;
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE, &input, sizeof(input)), HV_STATUS_SUCCESS);
	assert_int_equal(caller.flush.vps.bits[0], 0xff);
	assert_true(caller.flush.all_address_spaces);
	assert_false(caller.flush.non_global_only);
	/* Nobody: nothing to do. */
	input = (struct hv_flush_input){.processor_mask = 1ull << 40};
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE, &input, sizeof(input)), HV_STATUS_SUCCESS);
	assert_int_equal(caller.flushes, 2);
	for (unsigned bit = 3; bit < 64; bit++) {
		input.flags = 1ull << bit;
		assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE, &input, sizeof(input)),
				 HV_STATUS_INVALID_PARAMETER);
	}
	/* XMM fast. */
	assert_int_equal(call_fast(HV_CALL_FLUSH_SPACE, (uint64_t[]){0x5000, 0, 0x21}, 3), HV_STATUS_SUCCESS);
	assert_int_equal(caller.flush.vps.bits[0], 0x21);
	assert_int_equal(caller.flush.address_space, 0x5000);
}

/* The set of all, at the edges of a bank. */
static void test_many_vps(void **state)
{
	struct hv_flush_input input = {.flags = 1};
	static struct tlfs_vp vps[TLFS_MAX_VPS];
	static const unsigned counts[] = {1, 63, 64};

	for (unsigned i = 0; i < 3; i++) {
		struct tlfs_hypercall call = {.input = HV_CALL_FLUSH_SPACE, .in = INPUT};
		struct tlfs_config config = caller.t.config;

		config.vp_count = counts[i];
		tlfs_init(&caller.t, vps, &config, &caller_ops, &caller);
		memcpy(caller.ram + INPUT, &input, sizeof(input));
		tlfs_hypercall(&caller.t, 0, &call);
		assert_int_equal(call.result, 0);
		assert_int_equal(caller.flush.vps.bits[0], UINT64_MAX >> (64 - counts[i]));
	}
}

static void test_flush_list(void **state)
{
	struct {
		struct hv_flush_input header;
		uint64_t list[4];
	} input = {{0x1000, 0, 3}, {0xa000, 0xb001, 0xc002, 0xd003}};

	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST | REPS(4), &input, sizeof(input)), REPS(4));
	assert_int_equal(caller.flush.range_count, 4);
	assert_memory_equal(caller.ranges, input.list, sizeof(input.list));
	/* Continued: only the rest. */
	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST | REPS(4) | START(3), &input, sizeof(input)), REPS(4));
	assert_int_equal(caller.flush.range_count, 1);
	assert_int_equal(caller.ranges[0], 0xd003);
	assert_int_equal(call_fast(HV_CALL_FLUSH_LIST | REPS(4), (const uint64_t *)&input, 7), REPS(4));
	assert_memory_equal(caller.ranges, input.list, sizeof(input.list));
	/* More than registers hold. */
	assert_int_equal(call_fast(HV_CALL_FLUSH_LIST | REPS(11), (const uint64_t *)&input, 7), REPS(11));
	assert_int_equal(call_fast(HV_CALL_FLUSH_LIST | REPS(12), (const uint64_t *)&input, 7),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	input.header.flags = 8;
	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST | REPS(4) | START(2), &input, sizeof(input)),
			 HV_STATUS_INVALID_PARAMETER | REPS(2));
}

static void test_flush_ex(void **state)
{
	/* Banks 0 and 5: the second holds no VP of ours. */
	struct {
		struct hv_flush_ex_input header;
		uint64_t words[5];
	} input = {{0x1000, 0, {0, 0x21}}, {0x1f4, ~0ull, 0x7000, 0x8000, 0}};

	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX | VARIABLE(2), &input, sizeof(input)), 0);
	assert_int_equal(caller.flush.vps.bits[0], 0xf4);
	assert_int_equal(call_slow(HV_CALL_FLUSH_LIST_EX | VARIABLE(2) | REPS(2), &input, sizeof(input)),
			 REPS(2));
	assert_int_equal(caller.flush.range_count, 2);
	assert_int_equal(caller.ranges[0], 0x7000);
	assert_int_equal(caller.ranges[1], 0x8000);
	assert_int_equal(
	    call_fast(HV_CALL_FLUSH_LIST_EX | VARIABLE(2) | REPS(1), (const uint64_t *)&input, 9), REPS(1));
	assert_int_equal(caller.ranges[0], 0x7000);
	/* The header's size and the mask must agree. */
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX | VARIABLE(1), &input, sizeof(input)),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX | VARIABLE(3), &input, sizeof(input)),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	input.header.vps.valid_banks = ~0ull;
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX | VARIABLE(64), &input, sizeof(input)), 0);
	input.header.vps.format = 2;
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX | VARIABLE(2), &input, sizeof(input)),
			 HV_STATUS_INVALID_PARAMETER);
	/* All: banks do not matter. */
	input.header.vps.format = 1;
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX, &input, sizeof(input)), 0);
	assert_int_equal(caller.flush.vps.bits[0], 0xff);
	/* An empty set is a set. */
	caller.flushes = 0;
	input.header.vps = (struct hv_vp_set){0, 0};
	assert_int_equal(call_slow(HV_CALL_FLUSH_SPACE_EX, &input, sizeof(input)), 0);
	assert_int_equal(caller.flushes, 0);
}

static void test_ipi(void **state)
{
	struct hv_ipi_input input = {.vector = 0xfb, .processor_mask = 0x103};
	uint64_t ex[] = {0xfc, 0, 1, 0x88, 0};

	assert_int_equal(call_slow(HV_CALL_SEND_IPI, &input, sizeof(input)), 0);
	assert_int_equal(caller.ipi_vps.bits[0], 3);
	assert_int_equal(caller.ipi_vector, 0xfb);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI, (uint64_t[]){0x40, 0x10}, 2), 0);
	assert_int_equal(caller.ipi_vps.bits[0], 0x10);
	assert_int_equal(caller.ipi_vector, 0x40);
	assert_int_equal(call_slow(HV_CALL_SEND_IPI_EX | VARIABLE(1), ex, sizeof(ex)), 0);
	assert_int_equal(caller.ipi_vps.bits[0], 0x88);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI_EX | VARIABLE(1), ex, 4), 0);
	assert_int_equal(caller.ipis, 4);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI, (uint64_t[]){0x0f, 1}, 2), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI, (uint64_t[]){0x100, 1}, 2), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI, (uint64_t[]){1ull << 32 | 0x40, 1}, 2),
			 HV_STATUS_INVALID_PARAMETER);
	ex[0] = 5;
	assert_int_equal(call_slow(HV_CALL_SEND_IPI_EX | VARIABLE(1), ex, sizeof(ex)),
			 HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(call_slow(HV_CALL_SEND_IPI_EX, ex, sizeof(ex)), HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call_fast(HV_CALL_SEND_IPI, (uint64_t[]){0x40, 0x100}, 2), 0);
	assert_int_equal(caller.ipis, 4);
}

static void test_post_message(void **state)
{
	struct hv_post_message_input input = {.connection_id = 4, .message_type = 1, .payload_size = 240};

	memset(input.payload, 0x5a, sizeof(input.payload));
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)), 0);
	assert_int_equal(caller.connection, 4);
	assert_int_equal(caller.message_type, 1);
	assert_int_equal(caller.payload_size, 240);
	assert_memory_equal(caller.payload, input.payload, 240);
	caller.status = HV_STATUS_INSUFFICIENT_BUFFERS;
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)),
			 HV_STATUS_INSUFFICIENT_BUFFERS);
	caller.posts = 0;
	input.payload_size = 241;
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)), HV_STATUS_INVALID_PARAMETER);
	input.payload_size = 0;
	input.message_type = 0;
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)), HV_STATUS_INVALID_PARAMETER);
	input.message_type = 0x80000001;
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)), HV_STATUS_INVALID_PARAMETER);
	input.message_type = 1;
	input.connection_id = 1u << 24;
	assert_int_equal(call_slow(HV_CALL_POST_MESSAGE, &input, sizeof(input)),
			 HV_STATUS_INVALID_CONNECTION_ID);
	assert_int_equal(caller.posts, 0);
}

static void test_signal_event(void **state)
{
	struct hv_signal_event_input input = {.connection_id = 0x10002, .flag = 7};
	uint64_t fast;

	assert_int_equal(call_slow(HV_CALL_SIGNAL_EVENT, &input, sizeof(input)), 0);
	assert_int_equal(caller.connection, 0x10002);
	assert_int_equal(caller.flag, 7);
	memcpy(&fast, &input, sizeof(fast));
	assert_int_equal(call_fast(HV_CALL_SIGNAL_EVENT, &fast, 1), 0);
	assert_int_equal(caller.signals, 2);
	caller.status = HV_STATUS_INVALID_CONNECTION_ID;
	assert_int_equal(call_fast(HV_CALL_SIGNAL_EVENT, &fast, 1), HV_STATUS_INVALID_CONNECTION_ID);
	fast = 2048ull << 32 | 1;
	assert_int_equal(call_fast(HV_CALL_SIGNAL_EVENT, &fast, 1), HV_STATUS_INVALID_PARAMETER);
	fast = 1ull << 24;
	assert_int_equal(call_fast(HV_CALL_SIGNAL_EVENT, &fast, 1), HV_STATUS_INVALID_CONNECTION_ID);
	assert_int_equal(caller.signals, 3);
}

static void test_spin_wait(void **state)
{
	uint64_t word = 4096;

	assert_int_equal(call_fast(HV_CALL_LONG_SPIN_WAIT, &word, 1), 0);
	assert_int_equal(caller.spins, 4096);
	caller_ops.long_spin_wait = NULL;
	assert_int_equal(call_fast(HV_CALL_LONG_SPIN_WAIT, &word, 1), HV_STATUS_INVALID_HYPERCALL_CODE);
}

static void test_start_vp(void **state)
{
	struct hv_start_vp_input input = {
	    .partition_id = HV_PARTITION_SELF, .vp_index = 3, .context.rip = 0x1000};

	assert_int_equal(call_slow(HV_CALL_START_VP, &input, sizeof(input)), 0);
	assert_int_equal(caller.started_vp, 3);
	assert_int_equal(caller.started_rip, 0x1000);
	input.vp_index = VPS;
	assert_int_equal(call_slow(HV_CALL_START_VP, &input, sizeof(input)), HV_STATUS_INVALID_VP_INDEX);
	input.vp_index = 3;
	input.target_vtl = 1;
	assert_int_equal(call_slow(HV_CALL_START_VP, &input, sizeof(input)), HV_STATUS_INVALID_PARAMETER);
	input.partition_id = 1;
	assert_int_equal(call_slow(HV_CALL_START_VP, &input, sizeof(input)), HV_STATUS_INVALID_PARTITION_ID);
	assert_int_equal(caller.starts, 1);
	caller_ops.start_vp = NULL;
	assert_int_equal(call_slow(HV_CALL_START_VP, &input, sizeof(input)),
			 HV_STATUS_INVALID_HYPERCALL_CODE);
}

static void test_vp_index(void **state)
{
	struct {
		struct hv_vp_index_input header;
		uint32_t ids[4];
	} input = {{.partition_id = HV_PARTITION_SELF}, {5, 0, 7, 0}};
	uint64_t code = HV_CALL_VP_INDEX_FROM_APIC_ID | REPS(3);
	uint32_t *out = (uint32_t *)(caller.ram + 0x9000);

	memcpy(caller.ram + INPUT, &input, sizeof(input));
	assert_int_equal(call_at(code, INPUT, 0x9000), REPS(3));
	assert_memory_equal(out, input.ids, 12);
	assert_int_equal(out[3], 0xcccccccc);
	assert_int_equal(call_at(code, INPUT, 0x9004), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_at(code, INPUT, 0x9ff8), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_at(code, INPUT, RAM_SIZE), HV_STATUS_INVALID_HYPERCALL_INPUT);
	input.ids[2] = VPS;
	memcpy(caller.ram + INPUT, &input, sizeof(input));
	assert_int_equal(call_at(code, INPUT, 0x9000), HV_STATUS_INVALID_PARAMETER);
	input.header.target_vtl = 2;
	input.ids[2] = 1;
	memcpy(caller.ram + INPUT, &input, sizeof(input));
	assert_int_equal(call_at(code, INPUT, 0x9000), HV_STATUS_INVALID_PARAMETER);
	input.header.partition_id = 0;
	memcpy(caller.ram + INPUT, &input, sizeof(input));
	assert_int_equal(call_at(code, INPUT, 0x9000), HV_STATUS_INVALID_PARTITION_ID);
}

static void test_32_bit(void **state)
{
	/* RAX RCX RDX RBX RSP RBP RSI RDI with rubbish above bit 31 */
	uint64_t gpr[8] = {0xffffffff0001000bull, 0xdead00000000fbull, 0xbeef00000000, 0x100000000, 0, 0,
			   0x7700000003ull,       0x8800000000ull};
	struct tlfs_hypercall call = {0};

	gpr[1] = 0xdead000000000fbull;
	tlfs_hypercall_load32(&call, gpr);
	assert_int_equal(call.input, 0x1000b);
	assert_int_equal(call.in, 0xfb);
	assert_int_equal(call.out, 3);
	gpr[2] = 0x0000000100000002ull;
	gpr[3] = 5;
	tlfs_hypercall_load32(&call, gpr);
	assert_int_equal(call.input, 0x20001000bull);
	assert_int_equal(call.in, 0x5000000fbull);
	call.result = REPS(7) | 5;
	tlfs_hypercall_store32(&call, gpr);
	assert_int_equal(gpr[0], 5);
	assert_int_equal(gpr[2], 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_unknown, caller_setup),
	    cmocka_unit_test_setup(test_control_word, caller_setup),
	    cmocka_unit_test_setup(test_placement, caller_setup),
	    cmocka_unit_test_setup(test_flush, caller_setup),
	    cmocka_unit_test_setup(test_many_vps, caller_setup),
	    cmocka_unit_test_setup(test_flush_list, caller_setup),
	    cmocka_unit_test_setup(test_flush_ex, caller_setup),
	    cmocka_unit_test_setup(test_ipi, caller_setup),
	    cmocka_unit_test_setup(test_post_message, caller_setup),
	    cmocka_unit_test_setup(test_signal_event, caller_setup),
	    cmocka_unit_test_setup(test_spin_wait, caller_setup),
	    cmocka_unit_test_setup(test_start_vp, caller_setup),
	    cmocka_unit_test_setup(test_vp_index, caller_setup),
	    cmocka_unit_test_setup(test_32_bit, caller_setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
