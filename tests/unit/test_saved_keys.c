// SPDX-License-Identifier: GPL-2.0-or-later
/* Protection keys in saved state: they come along, and a guest that began without them, here or in a version that had none, goes on
 * without. */
#include <errno.h>
#include <string.h>

#include "tests/double/state_guest.h"

static const struct guest_processor soft = {.kind = PROCESSOR_SOFT},
				    compatible = {.kind = PROCESSOR_SOFT, .compatibility = true};

#define LEAF7_KEYS  (1u << 3 | 1u << 31)
#define MSR_PKRS    0x6e1u
#define PKRU_OFFSET 2688u
#define OLD_SIZE    832u

/* Sets both registers, then notes what they are, again and again. */
STATE_CODE(has_keys, 64,
	   "	movq	%cr4, %rax\n"
	   "	orl	$0x1400000, %eax\n" /* PKE, PKS */
	   "	movq	%rax, %cr4\n"
	   "	xorl	%ecx, %ecx\n"
	   "	xorl	%edx, %edx\n"
	   "	movl	$0x5550, %eax\n"
	   "	wrpkru\n"
	   "	movl	$0x6e1, %ecx\n"
	   "	movl	$0x7770, %eax\n"
	   "	wrmsr\n"
	   "1:	xorl	%ecx, %ecx\n"
	   "	rdpkru\n"
	   "	movl	%eax, 0x10(%rdi)\n"
	   "	movl	$0x6e1, %ecx\n"
	   "	rdmsr\n"
	   "	movl	%eax, 0x14(%rdi)\n"
	   "	incl	4(%rdi)\n"
	   "	jmp	1b\n");

/* Once it is told to, it tries what CPUID does not show. */
STATE_CODE(tries, 64,
	   "1:	incl	4(%rdi)\n"
	   "	cmpl	$0, 8(%rdi)\n"
	   "	je	1b\n"
	   "	movq	%cr4, %rax\n"
	   "	orl	$0x400000, %eax\n"
	   "	movq	%rax, %cr4\n"
	   "	movl	$1, 0x10(%rdi)\n"
	   "2:	jmp	2b\n");
STATE_CODE(refused, 64,
	   "	movl	$2, 0x10(%rdi)\n"
	   "1:	jmp	1b\n");

#define HANDLER 0x12000ull

static void test_keys_come_along(void **state)
{
	struct partition *p = guest_create_running(soft, 1, GUEST_LONG, has_keys, has_keys_end);
	struct guest_taken t;
	struct vp_state *s;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, 1000);
	for (unsigned round = 0; round < 2; round++) {
		guest_take(&t, p);
		s = &t.state->vps[0].state;
		assert_int_equal(s->xsave_size, PKRU_OFFSET + 8);
		assert_int_equal(s->xsave[VP_XSAVE_LEGACY + 1] & 2, 2);
		assert_int_equal(le64_get(s->xsave + PKRU_OFFSET), 0x5550);
		assert_int_equal(vp_state_msr(s, MSR_PKRS), 0x7770);
		p = guest_give(soft, &t);
		for (unsigned at = 4; at < 0x18; at += 4)
			guest_write32(p, GUEST_AREA + at, 0);
		assert_int_equal(partition_start(p, NULL), 0);
		guest_wait(p, GUEST_AREA + 4, 1000);
		assert_int_equal(guest_read32(p, GUEST_AREA + 0x10), 0x5550);
		assert_int_equal(guest_read32(p, GUEST_AREA + 0x14), 0x7770);
		guest_free(&t);
	}
	partition_destroy(p);
}

static struct partition *create_trying(struct guest_processor processor)
{
	struct partition *p = guest_create_running(processor, 1, GUEST_LONG, tries, tries_end);

	guest_put(p, HANDLER, refused, refused_end);
	guest_gate(p, GUEST_LONG, 13, HANDLER);
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, 1000);
	return p;
}

static void assert_without_keys(const struct guest_taken *t)
{
	const struct vp_state *s = &t->state->vps[0].state;

	assert_int_equal(cpuid_table_register(&t->state->cpuid, 7, 0, 2) & LEAF7_KEYS, 0);
	assert_int_equal(cpuid_table_register(&t->state->cpuid, 0xd, 0, 0) >> 9 & 1, 0);
	assert_int_equal(cpuid_table_register(&t->state->cpuid, 0xd, 9, 0), 0);
	assert_int_equal(s->xsave_size, OLD_SIZE);
	for (unsigned i = 0; i < s->msr_count; i++)
		assert_int_not_equal(s->msrs[i].index, MSR_PKRS);
}

static void assert_refused(struct partition *p)
{
	guest_write32(p, GUEST_AREA + 8, 1);
	guest_wait(p, GUEST_AREA + 0x10, 1);
	assert_int_equal(guest_read32(p, GUEST_AREA + 0x10), 2);
}

/* As the version before saved it. */
static void make_old(struct guest_taken *t)
{
	for (unsigned i = 0; i < t->state->cpuid.count; i++) {
		struct cpuid_entry *e = &t->state->cpuid.entries[i];

		if (e->leaf == 7 && e->subleaf == 0)
			e->r[2] &= ~LEAF7_KEYS;
		if (e->leaf == 0xd && e->subleaf == 0) {
			e->r[0] &= ~(1u << 9);
			e->r[2] = e->r[0] & 4 ? OLD_SIZE : 576;
		}
		if (e->leaf == 0xd && e->subleaf == 9)
			*e = t->state->cpuid.entries[--t->state->cpuid.count];
	}
	t->state->vps[0].state.xsave_size = OLD_SIZE;
}

static void test_an_older_machine_goes_on_without(void **state)
{
	struct partition *p = create_trying(soft);
	struct guest_taken t;

	(void)state;
	guest_take(&t, p);
	/* The version before reads it as it is, but for the features that are missing there. */
	assert_int_equal(vp_state_msr(&t.state->vps[0].state, MSR_PKRS), 0);
	make_old(&t);
	for (unsigned round = 0; round < 2; round++) {
		assert_without_keys(&t);
		p = guest_give(soft, &t);
		guest_free(&t);
		guest_write32(p, GUEST_AREA + 4, 0);
		assert_int_equal(partition_start(p, NULL), 0);
		guest_wait(p, GUEST_AREA + 4, 1000);
		if (round == 0)
			guest_take(&t, p);
	}
	assert_refused(p);
	partition_destroy(p);
}

static void test_a_guest_that_may_move_has_none(void **state)
{
	struct partition *p = create_trying(compatible);
	struct guest_taken t;

	(void)state;
	guest_take(&t, p);
	assert_without_keys(&t);
	p = guest_give(soft, &t);
	guest_free(&t);
	assert_int_equal(partition_start(p, NULL), 0);
	assert_refused(p);
	partition_destroy(p);
	p = create_trying(compatible);
	assert_refused(p);
	partition_destroy(p);
}

static void test_keys_where_none_are_shown(void **state)
{
	struct partition *p = guest_create_running(soft, 1, GUEST_LONG, has_keys, has_keys_end), *q = NULL;
	struct guest_taken t;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, 1000);
	guest_take(&t, p);
	make_old(&t);
	t.state->vps[0].state.xsave[VP_XSAVE_LEGACY + 1] = 0;
	assert_int_equal(saved_encode(t.state, &bytes, &size, NULL), 0);
	guest_expect_error(guest_load(soft, &t, bytes, size, &q, &err), EBADMSG, &err, "CR4");
	free(bytes);
	t.state->vps[0].state.registers.cr4 &= ~0x1400000ull;
	assert_int_equal(saved_encode(t.state, &bytes, &size, NULL), 0);
	guest_expect_error(guest_load(soft, &t, bytes, size, &q, &err), ENOTSUP, &err, "IA32_PKRS");
	free(bytes);
	guest_free(&t);
}

static void test_a_register_cannot_hold_it(void **state)
{
	struct partition *p = guest_create_running(soft, 1, GUEST_LONG, has_keys, has_keys_end), *q = NULL;
	struct guest_taken t;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, 1000);
	guest_take(&t, p);
	for (unsigned i = 0; i < t.state->vps[0].state.msr_count; i++)
		if (t.state->vps[0].state.msrs[i].index == MSR_PKRS)
			t.state->vps[0].state.msrs[i].value = 1ull << 32;
	assert_int_equal(saved_encode(t.state, &bytes, &size, NULL), 0);
	guest_expect_error(guest_load(soft, &t, bytes, size, &q, &err), EINVAL, &err, "cannot hold");
	free(bytes);
	guest_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_keys_come_along),
	    cmocka_unit_test(test_an_older_machine_goes_on_without),
	    cmocka_unit_test(test_a_guest_that_may_move_has_none),
	    cmocka_unit_test(test_keys_where_none_are_shown),
	    cmocka_unit_test(test_a_register_cannot_hold_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
