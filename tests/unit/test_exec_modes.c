// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_exec_modes.c - what the host CPU cannot be asked in this process: 16-bit modes and segments, faults
 * in the middle of an instruction, device memory, interrupted strings. Expected results are the manual's.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/unit/test_exec_machine.h"

static struct machine m;

#define RUN(bytes)                                                                                           \
	do {                                                                                                 \
		machine_code(&m, bytes, sizeof(bytes) - 1);                                                  \
		machine_run(&m);                                                                             \
	} while (0)

/* --- 16-bit code -------------------------------------------------------------------------------- */

static void test_real_mode_stack_wraps(void **context)
{
	machine_real(&m);
	m.r.gpr[RSP] = 0x55550000;
	m.r.gpr[RAX] = 0x1234;
	RUN("\x50"); /* push ax */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RSP], 0x5555fffe);
	assert_int_equal(le16_get(m.data + 0xfffe), 0x1234);
	m.r.rip = 0;
	RUN("\x5b"); /* pop bx */
	assert_int_equal(m.r.gpr[RSP], 0x55550000);
	assert_int_equal(m.r.gpr[RBX], 0x1234);
	machine_real(&m);
	m.r.gpr[RSP] = 0x2000;
	RUN("\x66\x50\x66\x59"); /* push eax; pop ecx */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RSP], 0x2000);
}

static void test_real_mode_calls(void **context)
{
	machine_real(&m);
	RUN("\xe8\x02\x00\xeb\x02\x43\xc3"); /* call +2; jmp +2; (inc bx); ret … */
	assert_int_equal(m.fault, -1);
	/* Direct call over the limit of the segment wraps IP to 16 bits. */
	machine_real(&m);
	m.r.rip = 0xfff0;
	m.ram[CODE_GPA + 0x0003] = 0xf4;
	soft_memory_written(m.soft, CODE_GPA, 16);
	RUN("\xe8\x10\x00"); /* call 0x0003 */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.rip, 4);
	assert_int_equal(m.r.gpr[RSP], 0x1ffe);
	assert_int_equal(le16_get(m.data + 0x1ffe), 0xfff3);
	/* With a 32-bit operand the target is over the limit: #GP, and nothing was pushed. */
	machine_real(&m);
	le32_put(m.data + 0x1ffc, 0x11223344);
	m.r.gpr[RAX] = 0x10000;
	RUN("\x66\xff\xd0"); /* call eax */
	assert_int_equal(m.fault, 13);
	assert_int_equal(m.fault_rip, 0);
	assert_int_equal(m.r.gpr[RSP], 0x2000 - 6);
}

static void test_loops16(void **context)
{
	machine_real(&m);
	m.r.gpr[RCX] = 0xabcd0003;
	RUN("\x43\xe2\xfd"); /* inc bx; loop -3 */
	assert_int_equal(m.r.gpr[RBX], 3);
	assert_int_equal(m.r.gpr[RCX], 0xabcd0000);
	m.r.rip = 0;
	RUN("\xe3\x01\x43\x67\xe3\x01\x42"); /* jcxz +1; inc bx; jecxz +1; inc dx */
	assert_int_equal(m.r.gpr[RBX], 3);
	assert_int_equal(m.r.gpr[RDX], 1);
}

static void test_all_registers16(void **context)
{
	machine_real(&m);
	for (unsigned i = 0; i < 8; i++)
		m.r.gpr[i] = i == RSP ? 0x2000 : 0xaaaa0000u + i * 0x101;
	RUN("\x60"); /* pusha */
	assert_int_equal(m.r.gpr[RSP], 0x1ff0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(le16_get(m.data + 0x1ffe - 2 * i), i == RSP ? 0x2000 : i * 0x101);
	m.r.rip = 0;
	for (unsigned i = 0; i < 8; i++)
		m.r.gpr[i] = i == RSP ? 0x1ff0 : 0xbbbb1111;
	RUN("\x61"); /* popa */
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(m.r.gpr[i], i == RSP ? 0x2000 : 0xbbbb0000u + i * 0x101);
}

static void test_frames16(void **context)
{
	machine_real(&m);
	m.r.gpr[RBP] = 0x1234;
	RUN("\xc8\x10\x00\x00\xc9"); /* enter 16, 0; leave */
	assert_int_equal(m.r.gpr[RSP], 0x2000);
	assert_int_equal(m.r.gpr[RBP], 0x1234);
	m.r.rip = 0;
	RUN("\xc8\x10\x00\x00");
	assert_int_equal(m.r.gpr[RBP], 0x1ffe);
	assert_int_equal(m.r.gpr[RSP], 0x1fee);
}

/* Words from SI 0xfffe: the second one lies at 0. */
static void test_strings16_wrap(void **context)
{
	machine_real(&m);
	le16_put(m.data + 0xfffe, 0x1111);
	le16_put(m.data, 0x2222);
	m.r.gpr[RSI] = 0x7777fffe;
	m.r.gpr[RDI] = 0x3000;
	m.r.gpr[RCX] = 2;
	RUN("\xf3\xa5"); /* rep movsw */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RSI], 0x77770002);
	assert_int_equal(m.r.gpr[RDI], 0x3004);
	assert_int_equal(m.r.gpr[RCX], 0);
	assert_int_equal(le32_get(m.data + 0x3000), 0x22221111);
}

/* A word at offset 0xffff is beyond the segment: #GP with the registers of that moment. */
static void test_strings16_limit(void **context)
{
	machine_real(&m);
	m.r.gpr[RAX] = 0x5a5a;
	m.r.gpr[RDI] = 0xfffb;
	m.r.gpr[RCX] = 10;
	RUN("\xf3\xab"); /* rep stosw */
	assert_int_equal(m.fault, 13);
	assert_int_equal(m.fault_rip, 0);
	assert_int_equal(m.r.gpr[RDI], 0xffff);
	assert_int_equal(m.r.gpr[RCX], 8);
}

static void test_segment_override(void **context)
{
	machine_real(&m);
	m.r.es.base = DATA_GPA + 0x4000;
	m.r.es.selector = (DATA_GPA + 0x4000) >> 4;
	m.data[0x4010] = 0x77;
	m.data[0x4012] = 0x78;
	m.r.gpr[RSI] = 0x10;
	m.r.gpr[RDI] = 0x20;
	m.r.gpr[RBX] = 0x10;
	m.r.gpr[RAX] = 2;
	RUN("\x26\xa4\x26\xd7"); /* movsb from ES; xlat from ES */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.data[0x4020], 0x77);
	assert_int_equal(m.r.gpr[RAX], 0x78);
}

/* The source is in DS or what a prefix says, the destination in ES, each with a base of its own. */
static void test_string_segments(void **context)
{
	machine_real(&m);
	m.r.es.base = DATA_GPA + 0x4000;
	m.r.es.selector = (DATA_GPA + 0x4000) >> 4;
	m.r.fs.base = DATA_GPA + 0x6000;
	m.r.fs.selector = (DATA_GPA + 0x6000) >> 4;
	memcpy(m.data + 0x10, "DS", 2);
	memcpy(m.data + 0x4010, "ES", 2);
	memcpy(m.data + 0x6010, "FS", 2);
	m.r.gpr[RSI] = 0x10;
	m.r.gpr[RDI] = 0x20;
	RUN("\xa5"); /* movsw */
	assert_memory_equal(m.data + 0x4020, "DS", 2);
	m.r.rip = 0;
	m.r.gpr[RSI] = 0x10;
	m.r.gpr[RCX] = 2;
	RUN("\xf3\x64\xa4"); /* rep movsb from FS */
	assert_memory_equal(m.data + 0x4022, "FS", 2);
	m.r.rip = 0;
	m.r.gpr[RSI] = 0x10;
	RUN("\xad"); /* lodsw */
	assert_int_equal((uint16_t)m.r.gpr[RAX], 0x5344);
	m.r.rip = 0;
	m.r.gpr[RSI] = m.r.gpr[RDI] = 0x10;
	m.r.gpr[RCX] = 2;
	RUN("\xf3\x64\xa6"); /* repe cmpsb of FS with ES: the first bytes differ */
	assert_int_equal(m.r.gpr[RCX], 1);
	assert_int_equal(m.fault, -1);
}

static void test_bound(void **context)
{
	static const struct {
		int16_t index;
		int fault;
	} cases[] = {{-5, -1}, {-6, 5}, {3, -1}, {4, 5}, {0, -1}};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		machine_real(&m);
		le16_put(m.data + 0x100, (uint16_t)-5);
		le16_put(m.data + 0x102, 3);
		m.r.gpr[RBX] = 0x100;
		m.r.gpr[RDX] = (uint16_t)cases[i].index;
		RUN("\x62\x17"); /* bound dx, [bx] */
		assert_int_equal(m.fault, cases[i].fault);
		assert_int_equal(m.fault < 0 ? 0 : m.fault_rip, 0);
	}
}

/* 16-bit stack in protected mode: only SP moves, and offsets above it are not touched. */
static void test_protected16(void **context)
{
	machine_protected(&m, false);
	m.r.gpr[RSP] = 0xffff9000;
	m.r.gpr[RAX] = 0xcafe;
	RUN("\x50\x66\x50\x58\x58\x5a"); /* push ax; push eax; pop ax; pop ax; pop dx */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RSP], 0xffff9000);
	assert_int_equal(m.r.gpr[RDX], 0xcafe);
}

/* --- faults in the middle ----------------------------------------------------------------------- */

static void test_string_page_fault(void **context)
{
	machine_long(&m);
	memset(m.data, 0, DATA_SIZE);
	m.r.gpr[RDI] = UNMAPPED - 20;
	m.r.gpr[RCX] = 100;
	m.r.gpr[RAX] = 0x1122334455667788;
	RUN("\xf3\x48\xab"); /* rep stosq */
	assert_int_equal(m.fault, 14);
	assert_int_equal(m.error_code, 2);
	assert_int_equal(m.r.cr2, UNMAPPED);
	assert_int_equal(m.fault_rip, CODE);
	/* The third element reaches over the end of the page, and no byte of it is written. */
	assert_int_equal(m.r.gpr[RDI], UNMAPPED - 4);
	assert_int_equal(m.r.gpr[RCX], 98);
	assert_int_equal(le64_get(m.data + DATA_SIZE - 12), 0x1122334455667788);
	assert_int_equal(le32_get(m.data + DATA_SIZE - 4), 0);
}

static void test_copy_to_read_only(void **context)
{
	machine_long(&m);
	m.r.gpr[RSI] = DATA;
	m.r.gpr[RDI] = READ_ONLY;
	m.r.gpr[RCX] = 5;
	RUN("\xf3\xa4");
	assert_int_equal(m.fault, 14);
	assert_int_equal(m.error_code, 3);
	assert_int_equal(m.r.gpr[RCX], 5);
	assert_int_equal(m.r.gpr[RSI], DATA);
	assert_int_equal(m.r.gpr[RDI], READ_ONLY);
}

/* Reading is allowed, so what faults is the write, and the error code says so. */
static void test_update_read_only(void **context)
{
	static const struct {
		const char *bytes;
		unsigned size;
	} codes[] = {
	    {"\x01\x13", 2},         {"\xf0\x01\x13", 3}, {"\x87\x13", 2},     {"\x0f\xc1\x13", 3},
	    {"\x0f\xb1\x13", 3},     {"\x0f\xc7\x0b", 3}, {"\xd3\x23", 2},     {"\x0f\xab\x13", 3},
	    {"\x0f\xba\x2b\x05", 4}, {"\x0f\xa5\x13", 3}, {"\x8f\x03", 2},     {"\x0f\x94\x03", 3},
	    {"\xf7\x13", 2},         {"\xc6\x03\x01", 3}, {"\x0f\xc3\x13", 3}, {"\x0f\x38\xf1\x13", 4}};

	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
		machine_long(&m);
		m.r.gpr[RBX] = READ_ONLY;
		m.r.gpr[RDX] = m.r.gpr[RAX] = 3;
		m.r.rflags |= 0x41;
		machine_code(&m, codes[i].bytes, codes[i].size);
		machine_run(&m);
		assert_int_equal(m.fault, 14);
		assert_int_equal(m.error_code, 3);
		assert_int_equal(m.r.cr2, READ_ONLY);
		assert_int_equal(m.fault_rip, CODE);
		assert_int_equal(m.fault_rsp, STACK);
		assert_int_equal(m.r.gpr[RDX], 3);
		assert_int_equal(m.r.gpr[RAX], 3);
	}
}

/* --- operands across pages, and devices --------------------------------------------------------- */

static void test_crossing_pages(void **context)
{
	machine_long(&m);
	m.r.gpr[RBX] = DATA + 0xffd;
	le64_put(m.data + 0xffd, 0x00000001ffffffff);
	m.r.gpr[RDX] = 1;
	RUN("\xf0\x48\x01\x13\xf0\x48\x0f\xc1\x13\x48\x87\x13\xff\x03"); /* lock add; lock xadd; xchg; inc
									    dword */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RDX], 0x0000000200000001);
	assert_int_equal(le64_get(m.data + 0xffd), 0x0000000200000001);
}

static void test_device_memory(void **context)
{
	machine_long(&m);
	m.r.gpr[RBX] = MMIO + 0x10;
	m.mmio_value = 5;
	m.mmio_reads = m.mmio_writes = 0;
	RUN("\x83\x03\x07"); /* add dword [rbx], 7 */
	assert_int_equal(m.mmio_value, 12);
	assert_int_equal(m.mmio_reads, 1);
	assert_int_equal(m.mmio_writes, 1);
	m.r.rip = CODE;
	m.r.gpr[RDX] = 3;
	RUN("\x87\x13"); /* xchg [rbx], edx */
	assert_int_equal(m.r.gpr[RDX], 12);
	assert_int_equal(m.mmio_value, 3);
	m.r.rip = CODE;
	m.r.gpr[RDI] = MMIO;
	m.r.gpr[RSI] = DATA;
	m.r.gpr[RCX] = 3;
	m.mmio_writes = 0;
	RUN("\xf3\xa5"); /* rep movsd */
	assert_int_equal(m.mmio_writes, 3);
	m.r.rip = CODE;
	m.r.gpr[RSI] = MMIO;
	m.r.gpr[RDI] = DATA;
	m.r.gpr[RCX] = 4;
	m.mmio_reads = 0;
	m.mmio_value = 0x89abcdef;
	RUN("\xf3\xa5");
	assert_int_equal(m.mmio_reads, 4);
	assert_int_equal(le32_get(m.data + 12), 0x89abcdef);
}

/* Source and destination at the same place of the TLB. */
static void test_copy_long(void **context)
{
	machine_long(&m);
	for (unsigned i = 0; i < 0x1800; i++)
		m.data[i] = (uint8_t)(i * 7);
	m.r.gpr[RSI] = DATA + 3;
	m.r.gpr[RDI] = DATA + 0x1805;
	m.r.gpr[RCX] = 0x1700;
	RUN("\xf3\xa4");
	assert_int_equal(m.fault, -1);
	assert_memory_equal(m.data + 3, m.data + 0x1805, 0x1700);
	assert_int_equal(m.r.gpr[RSI], DATA + 0x1703);
}

/* Asked to stop, a long string stops in its middle and goes on from there. */
static void test_string_stops(void **context)
{
	uint64_t count = 0x3000;

	machine_long(&m);
	m.r.gpr[RDI] = DATA;
	m.r.gpr[RCX] = count;
	m.r.gpr[RAX] = 0x5a;
	machine_code(&m, "\xf3\xaa", 2);
	assert_int_equal(soft_vp_set_registers(m.vp, &m.r), 0);
	soft_vp_kick(m.vp);
	assert_int_equal(soft_vp_run(m.vp), SOFT_STOP_KICK);
	machine_run(&m);
	assert_int_equal(m.r.gpr[RCX], 0);
	assert_int_equal(m.r.gpr[RDI], DATA + count);
	assert_int_equal(m.data[count - 1], 0x5a);
}

/* With TF set a trap follows each element: RIP is still at the instruction until the last one. */
static void test_string_single_step(void **context)
{
	machine_long(&m);
	m.r.gpr[RDI] = DATA;
	m.r.gpr[RCX] = 3;
	m.r.rflags |= 0x100;
	RUN("\xf3\xaa");
	assert_int_equal(m.fault, 1);
	assert_int_equal(m.fault_rip, CODE);
	assert_int_equal(m.r.gpr[RCX], 2);
}

/* Code that writes over what follows it runs what it wrote. */
static void test_own_code_written(void **context)
{
	machine_long(&m);
	m.r.gpr[RDI] = CODE + 10;
	m.r.gpr[RAX] = 0x90;
	m.r.gpr[RCX] = 2;
	RUN("\xf3\xaa\x90\x90\x90\x90\x90\x90\x90\x90\xff\xc2\xff\xc2"); /* …; inc edx; inc edx */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.gpr[RDX], 1);
	machine_long(&m);
	RUN("\xc6\x05\x00\x00\x00\x00\xb8\xb9\x11\x00\x00\x00"); /* mov byte [rip], 0xb8; mov ecx, 0x11 */
	assert_int_equal(m.r.gpr[RAX], 0x11);
	assert_int_equal(m.r.gpr[RCX], 0);
}

static void test_random_numbers(void **context)
{
	machine_long(&m);
	m.r.rflags |= ARITHMETIC_FLAGS & ~1u;
	RUN("\x48\x0f\xc7\xf0\x48\x0f\xc7\xfa"); /* rdrand rax; rdseed rdx */
	assert_int_equal(m.fault, -1);
	assert_int_equal(m.r.rflags & ARITHMETIC_FLAGS, 1);
	assert_int_not_equal(m.r.gpr[RAX], m.r.gpr[RDX]);
}

/* --- two processors ----------------------------------------------------------------------------- */

static void *run_second(void *argument)
{
	return (void *)(uintptr_t)(soft_vp_run(argument) != SOFT_STOP_HALT);
}

/* Both count in the same places by every locked instruction; none of the steps may get lost. */
static void test_locked(void **context)
{
	static const char code[] = "\xf0\xff\x03"                 /* again: lock inc dword [rbx] */
				   "\xf0\x48\x83\x43\x08\x03"     /* lock add qword [rbx + 8], 3 */
				   "\xba\x05\x00\x00\x00"         /* mov edx, 5 */
				   "\xf0\x66\x0f\xc1\x53\x10"     /* lock xadd [rbx + 16], dx */
				   "\x8b\x43\x18"                 /* mov eax, [rbx + 24] */
				   "\x8d\x50\x01"                 /* retry: lea edx, [rax + 1] */
				   "\xf0\x0f\xb1\x53\x18"         /* lock cmpxchg [rbx + 24], edx */
				   "\x75\xf6"                     /* jnz retry */
				   "\xf0\x48\x0f\xba\x6b\x20\x00" /* take: lock bts qword [rbx + 32], 0 */
				   "\x72\xf7"                     /* jc take */
				   "\xff\x43\x28"                 /* inc dword [rbx + 40] */
				   "\xb2\x00"                     /* mov dl, 0 */
				   "\x86\x53\x20"                 /* xchg [rbx + 32], dl */
				   "\xff\xc9"                     /* dec ecx */
				   "\x75\xca";                    /* jnz again */
	struct soft_vp *second = soft_vp(m.soft, 1);
	const unsigned count = 100000;
	pthread_t thread;
	void *wrong;

	machine_long(&m);
	memset(m.data, 0, 64);
	m.r.gpr[RBX] = DATA;
	m.r.gpr[RCX] = count;
	machine_code(&m, code, sizeof(code) - 1);
	assert_int_equal(soft_vp_set_registers(second, &m.r), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_second, second), 0);
	machine_run(&m);
	assert_int_equal(pthread_join(thread, &wrong), 0);
	assert_null(wrong);
	assert_int_equal(m.fault, -1);
	assert_int_equal(le32_get(m.data), 2 * count);
	assert_int_equal(le64_get(m.data + 8), 6ull * count);
	assert_int_equal(le16_get(m.data + 16), (uint16_t)(10 * count));
	assert_int_equal(le32_get(m.data + 24), 2 * count);
	assert_int_equal(le32_get(m.data + 32), 0);
	assert_int_equal(le32_get(m.data + 40), 2 * count);
}

static int set_up(void **context)
{
	machine_create(&m, 2);
	return 0;
}

static int tear_down(void **context)
{
	machine_destroy(&m);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_real_mode_stack_wraps),
	    cmocka_unit_test(test_real_mode_calls),
	    cmocka_unit_test(test_loops16),
	    cmocka_unit_test(test_all_registers16),
	    cmocka_unit_test(test_frames16),
	    cmocka_unit_test(test_strings16_wrap),
	    cmocka_unit_test(test_strings16_limit),
	    cmocka_unit_test(test_segment_override),
	    cmocka_unit_test(test_string_segments),
	    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_protected16),
	    cmocka_unit_test(test_string_page_fault),
	    cmocka_unit_test(test_copy_to_read_only),
	    cmocka_unit_test(test_update_read_only),
	    cmocka_unit_test(test_crossing_pages),
	    cmocka_unit_test(test_device_memory),
	    cmocka_unit_test(test_copy_long),
	    cmocka_unit_test(test_string_stops),
	    cmocka_unit_test(test_string_single_step),
	    cmocka_unit_test(test_own_code_written),
	    cmocka_unit_test(test_random_numbers),
	    cmocka_unit_test(test_locked),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
