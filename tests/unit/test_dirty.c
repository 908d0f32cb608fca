/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty pages: a guest stores at random in every way an instruction can, and whatever differs from a copy that was
 * taken at the last fetch must have been told. On the software processor, and on hardware where there is some.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/partition.h"
#include "tests/double/state_guest.h"

#define FIELD_FIRST (GUEST_AREA + 0x10000) /* where VPs store: 128 pages from here */
#define FIELD_PAGES 128u
#define ROUNDS      16u
#define PAGES       (GUEST_RAM / GUEST_PAGE_SIZE)
#define WORDS       (PAGES / 64)

/* RDI: the VP's area; 0 counts. A xorshift in R8 chooses page, place and kind of the next store. */
STATE_CODE(storing, 64,
	   "	leaq	0x12345(%rdi), %r8\n"
	   "	movl	$0x30000, %ebx\n"
	   "1:	movq	%r8, %rax\n"
	   "	shlq	$13, %rax\n"
	   "	xorq	%rax, %r8\n"
	   "	movq	%r8, %rax\n"
	   "	shrq	$7, %rax\n"
	   "	xorq	%rax, %r8\n"
	   "	movq	%r8, %rax\n"
	   "	shlq	$17, %rax\n"
	   "	xorq	%rax, %r8\n"
	   "	movl	%r8d, %esi\n"
	   "	andl	$0x7efc0, %esi\n" /* a line in one of the first 127 pages */
	   "	addq	%rbx, %rsi\n"
	   "	movq	%r8, %rcx\n"
	   "	shrq	$40, %rcx\n"
	   "	andl	$7, %ecx\n"
	   "	jz	2f\n"
	   "	decl	%ecx\n"
	   "	jz	3f\n"
	   "	decl	%ecx\n"
	   "	jz	4f\n"
	   "	decl	%ecx\n"
	   "	jz	5f\n"
	   "	decl	%ecx\n"
	   "	jz	6f\n"
	   "	decl	%ecx\n"
	   "	jz	7f\n"
	   "	movq	%r8, (%rsi)\n"
	   "	jmp	9f\n"
	   "2:	lock addq %r8, 8(%rsi)\n"
	   "	jmp	9f\n"
	   "3:	orq	$0xfff, %rsi\n" /* over the end of the page */
	   "	movq	%r8, -3(%rsi)\n"
	   "	jmp	9f\n"
	   "4:	movq	%rdi, %rdx\n"
	   "	movq	%rsi, %rdi\n"
	   "	movl	$200, %ecx\n"
	   "	movl	%r8d, %eax\n"
	   "	rep stosb\n"
	   "	movq	%rdx, %rdi\n"
	   "	jmp	9f\n"
	   "5:	movq	%r8, %xmm0\n"
	   "	movdqu	%xmm0, 16(%rsi)\n"
	   "	jmp	9f\n"
	   "6:	movq	%rsp, %rdx\n"
	   "	leaq	64(%rsi), %rsp\n"
	   "	pushq	%r8\n"
	   "	movq	%rdx, %rsp\n"
	   "	jmp	9f\n"
	   "7:	movl	%r8d, %eax\n"
	   "	xchgl	%eax, 4(%rsi)\n"
	   "	andl	$0xfc0, %esi\n"
	   "	fxsave	0x30000(%rsi)\n" /* into the first page or the second */
	   "9:	incl	(%rdi)\n"
	   "	jmp	1b\n");

struct watched {
	struct partition *p;
	uint8_t *shadow;
	uint64_t told[WORDS], ever[WORDS];
};

static bool bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

static void fetch(struct watched *w)
{
	assert_int_equal(partition_fetch_dirty(w->p, 0, GUEST_RAM, w->told), 0);
	for (unsigned i = 0; i < WORDS; i++)
		w->ever[i] |= w->told[i];
}

/* The copies are made after the fetch, so what is stored meanwhile is in both or will be told next time. */
static void copy_told(struct watched *w)
{
	const uint8_t *ram = partition_memory(w->p, 0, GUEST_RAM);

	for (uint64_t page = 0; page < PAGES; page++)
		if (bit(w->told, page))
			memcpy(w->shadow + page * GUEST_PAGE_SIZE, ram + page * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
}

/* While all stand still, with everything told copied, nothing may differ. */
static void compare(struct watched *w)
{
	const uint8_t *ram = partition_memory(w->p, 0, GUEST_RAM);

	for (uint64_t page = 0; page < PAGES; page++)
		if (memcmp(w->shadow + page * GUEST_PAGE_SIZE, ram + page * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE))
			fail_msg("page 0x%llx was written and not told", (unsigned long long)page);
}

static void wait_for_stores(struct partition *p, unsigned vps, uint32_t more)
{
	for (unsigned i = 0; i < vps; i++)
		guest_wait(p, GUEST_AREA + 0x1000 * i, guest_read32(p, GUEST_AREA + 0x1000 * i) + more);
}

static void host_writes(struct watched *w, unsigned round)
{
	static const uint8_t text[] = "from the host";
	uint64_t first = GUEST_RAM - 5 * GUEST_PAGE_SIZE;
	uint8_t *at = partition_memory(w->p, first, 4 * GUEST_PAGE_SIZE);

	assert_int_equal(partition_write(w->p, first + GUEST_PAGE_SIZE - 4, text, sizeof(text)), 0);
	at[2 * GUEST_PAGE_SIZE + round] = (uint8_t)round;
	partition_memory_written(w->p, first + 2 * GUEST_PAGE_SIZE + round, 1);
	at[3 * GUEST_PAGE_SIZE + round] = (uint8_t)round;
	partition_host_written(w->p, &at[3 * GUEST_PAGE_SIZE + round], 1);
}

static void begin(struct watched *w, struct partition *p)
{
	struct error err = {0};

	memset(w, 0, sizeof(*w));
	w->p = p;
	w->shadow = malloc(GUEST_RAM);
	assert_non_null(w->shadow);
	partition_pause(p);
	if (partition_track_dirty(p, true, &err))
		fail_msg("%s", err.text);
	memcpy(w->shadow, partition_memory(p, 0, GUEST_RAM), GUEST_RAM);
	partition_resume(p);
}

static void check_rounds(struct watched *w, unsigned vps, uint32_t stores)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		wait_for_stores(w->p, vps, stores);
		host_writes(w, round);
		fetch(w);
		copy_told(w);
		if (round % 8 == 7) {
			partition_pause(w->p);
			fetch(w);
			copy_told(w);
			compare(w);
			fetch(w);
			for (unsigned i = 0; i < WORDS; i++)
				assert_true(!w->told[i]);
			partition_resume(w->p);
		}
	}
}

/* Pages that nobody writes: between the guest's tables and what the host writes. */
static void check_untouched(const struct watched *w)
{
	for (uint64_t page = (GUEST_TABLES + 0x10000) / GUEST_PAGE_SIZE; page < PAGES - 5; page++)
		if (page < FIELD_FIRST / GUEST_PAGE_SIZE || page > FIELD_FIRST / GUEST_PAGE_SIZE + FIELD_PAGES)
			assert_false(bit(w->ever, page));
	assert_true(bit(w->ever, PAGES - 3) && bit(w->ever, PAGES - 2) && bit(w->ever, PAGES - 5) && bit(w->ever, PAGES - 4));
	assert_true(bit(w->ever, FIELD_FIRST / GUEST_PAGE_SIZE));
}

static void run(struct guest_processor processor, unsigned vps)
{
	struct partition *p = guest_create_running(processor, vps, GUEST_LONG, storing, storing_end);
	uint64_t bits[WORDS];
	struct watched w;

	assert_int_equal(partition_track_dirty(p, true, NULL), -EAGAIN);
	assert_int_equal(partition_start(p, NULL), 0);
	wait_for_stores(p, vps, 100);
	assert_int_equal(partition_fetch_dirty(p, 0, GUEST_RAM, bits), -EAGAIN);
	for (unsigned times = 0; times < 2; times++) {
		begin(&w, p);
		assert_int_equal(partition_fetch_dirty(p, 0, 2 * GUEST_RAM, bits), -EFAULT);
		assert_int_equal(partition_fetch_dirty(p, 1, GUEST_PAGE_SIZE, bits), -EFAULT);
		check_rounds(&w, vps, 300);
		check_untouched(&w);
		free(w.shadow);
		assert_int_equal(partition_track_dirty(p, false, NULL), 0);
		wait_for_stores(p, vps, 100);
	}
	partition_destroy(p);
}

static const struct guest_processor soft = {PROCESSOR_SOFT, NULL, false};
static const struct guest_processor translated = {PROCESSOR_SOFT, "translate=on,threshold=1", false};
static const struct guest_processor kvm = {PROCESSOR_KVM, NULL, false};

static void test_soft_1(void **state)
{
	(void)state;
	run(soft, 1);
}

static void test_soft_2(void **state)
{
	(void)state;
	run(soft, 2);
}

static void test_soft_4(void **state)
{
	(void)state;
	run(soft, 4);
}

static void test_translated_2(void **state)
{
	(void)state;
	run(translated, 2);
}

static void test_translated_4(void **state)
{
	(void)state;
	run(translated, 4);
}

/* On and off many times while the guest runs, fetched once or not at all; then everything is told as ever. */
static void switch_often(struct guest_processor processor)
{
	struct partition *p = guest_create_running(processor, 2, GUEST_LONG, storing, storing_end);
	uint64_t bits[WORDS];
	struct watched w;

	assert_int_equal(partition_start(p, NULL), 0);
	for (unsigned times = 0; times < 24; times++) {
		wait_for_stores(p, 2, 10);
		assert_int_equal(partition_track_dirty(p, true, NULL), 0);
		wait_for_stores(p, 2, times % 20);
		if (times % 3 == 0)
			assert_int_equal(partition_fetch_dirty(p, 0, GUEST_RAM, bits), 0);
		assert_int_equal(partition_track_dirty(p, false, NULL), 0);
	}
	begin(&w, p);
	check_rounds(&w, 2, 100);
	free(w.shadow);
	partition_destroy(p);
}

static void test_switched_often(void **state)
{
	(void)state;
	switch_often(soft);
	switch_often(translated);
}

static void test_kvm_2(void **state)
{
	(void)state;
	if (!guest_is_possible(kvm))
		skip();
	run(kvm, 2);
}

/* No processor: what the host writes, in pieces of the region. */
static void test_host_only(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1};
	struct partition *p;
	uint64_t bits[2];
	uint8_t byte = 1;

	(void)state;
	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, 256 * GUEST_PAGE_SIZE, NULL), 0);
	assert_int_equal(partition_start(p, NULL), 0);
	assert_int_equal(partition_track_dirty(p, true, NULL), 0);
	assert_int_equal(partition_write(p, 70 * GUEST_PAGE_SIZE, &byte, 1), 0);
	assert_int_equal(partition_write(p, 3 * GUEST_PAGE_SIZE, &byte, 1), 0);
	assert_int_equal(partition_fetch_dirty(p, 65 * GUEST_PAGE_SIZE, 70 * GUEST_PAGE_SIZE, bits), 0);
	assert_true(bits[0] == 1ull << 5 && !bits[1]);
	assert_int_equal(partition_fetch_dirty(p, 0, 128 * GUEST_PAGE_SIZE, bits), 0);
	assert_true(bits[0] == 1ull << 3 && !bits[1]);
	partition_destroy(p);
}

/* --- what the hypervisor itself writes, one page for each of its kinds ----------------------------------- */

enum { HYPERCALL_PAGE = 16, MESSAGE_PAGE, EVENT_PAGE, ASSIST_PAGE, TSC_PAGE };

#define SINT      2
#define MESSAGE   ((gpa_t)MESSAGE_PAGE * GUEST_PAGE_SIZE + 256 * SINT)
#define ENABLED(page) ((uint64_t)(page) << GUEST_PAGE_SHIFT | 1)

static uint64_t told_now(struct partition *p)
{
	uint64_t bits;

	assert_int_equal(partition_fetch_dirty(p, 0, 64 * GUEST_PAGE_SIZE, &bits), 0);
	return bits;
}

static void put_msr(struct partition *p, uint32_t msr, uint64_t value)
{
	assert_int_equal(vp_write_msr(p, 0, msr, value), 0);
}

/* Each is told when it is enabled, and for nothing that is no write. */
static void enable_pages(struct partition *p)
{
	put_msr(p, 0x40000000, 0x8100ull << 48);
	assert_int_equal(told_now(p), 0);
	put_msr(p, 0x40000001, ENABLED(HYPERCALL_PAGE));
	assert_int_equal(told_now(p), 1 << HYPERCALL_PAGE);
	put_msr(p, 0x40000083, ENABLED(MESSAGE_PAGE));
	assert_int_equal(told_now(p), 1 << MESSAGE_PAGE);
	put_msr(p, 0x40000082, ENABLED(EVENT_PAGE));
	assert_int_equal(told_now(p), 1 << EVENT_PAGE);
	put_msr(p, 0x40000073, ENABLED(ASSIST_PAGE));
	assert_int_equal(told_now(p), 1 << ASSIST_PAGE);
	put_msr(p, 0x40000021, ENABLED(TSC_PAGE));
	assert_int_equal(told_now(p), 1 << TSC_PAGE);
	put_msr(p, 0x40000090 + SINT, 0xf3);
	put_msr(p, 0x40000080, 1);
	assert_int_equal(told_now(p), 0);
}

static void test_hypervisor_pages(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1};
	struct partition *p;
	uint32_t none = 0;

	(void)state;
	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, 64 * GUEST_PAGE_SIZE, NULL), 0);
	assert_int_equal(partition_start(p, NULL), 0);
	assert_int_equal(partition_track_dirty(p, true, NULL), 0);
	enable_pages(p);
	/* Messages: the first, one that waits for its slot, and that one when it is free. */
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "first", 5), 0);
	assert_int_equal(told_now(p), 1 << MESSAGE_PAGE);
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "second", 6), 0);
	assert_int_equal(told_now(p), 1 << MESSAGE_PAGE); /* "another one waits" */
	assert_int_equal(partition_write(p, MESSAGE, &none, sizeof(none)), 0);
	told_now(p);
	put_msr(p, 0x40000084, 0);
	assert_int_equal(told_now(p), 1 << MESSAGE_PAGE);
	assert_int_equal(partition_signal_event(p, 0, SINT, 77), 0);
	assert_int_equal(told_now(p), 1 << EVENT_PAGE);
	/* A timer whose time has come puts its message into the slot. */
	assert_int_equal(partition_write(p, MESSAGE, &none, sizeof(none)), 0);
	told_now(p);
	put_msr(p, 0x400000b1, 1);
	put_msr(p, 0x400000b0, SINT << 16 | 1);
	assert_int_equal(told_now(p), 1 << MESSAGE_PAGE);
	/* Time that stood still is told to the guest. */
	partition_pause(p);
	assert_int_equal(told_now(p), 0);
	partition_resume(p);
	assert_int_equal(told_now(p), 1 << TSC_PAGE);
	/* A disabled page is left alone. */
	put_msr(p, 0x40000073, 0);
	put_msr(p, 0x40000021, 0);
	assert_int_equal(told_now(p), 0);
	partition_destroy(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_host_only), cmocka_unit_test(test_hypervisor_pages), cmocka_unit_test(test_soft_1),
	    cmocka_unit_test(test_soft_2), cmocka_unit_test(test_soft_4), cmocka_unit_test(test_kvm_2),
	    cmocka_unit_test(test_translated_2), cmocka_unit_test(test_translated_4),
	    cmocka_unit_test(test_switched_often)};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
