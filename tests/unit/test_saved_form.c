/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saved state as bytes: all of it is in them, nothing damaged gets through, and what another processor lacks
 * or no processor can be in is refused with a sentence.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "hypervisor/cpuid_features.h"
#include "hypervisor/soft/soft.h"
#include "tests/double/state_guest.h"

static const struct guest_processor soft = {.kind = PROCESSOR_SOFT}, none = {.kind = PROCESSOR_NONE};

STATE_CODE(spins, 64, "1:	incl	4(%rdi)\n	jmp	1b\n");

/* A state with something in every part. */
static void take_example(struct guest_taken *t, unsigned vps)
{
	struct partition *p = guest_create_running(soft, vps, GUEST_LONG, spins, spins_end);

	for (uint8_t i = 1; i < 4; i++)
		assert_int_equal(partition_post_message(p, vps - 1, i, i, "message", i), 0);
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, 1000);
	guest_take(t, p);
}

static void encode(const struct guest_taken *t, uint8_t **bytes, size_t *size)
{
	assert_int_equal(saved_encode(t->state, bytes, size, NULL), 0);
}

/* What loading of a state gives that was changed. */
static int load(struct guest_processor processor, const struct guest_taken *t, struct error *err)
{
	struct partition *p = NULL;
	uint8_t *bytes;
	size_t size;
	int r;

	*err = (struct error){0};
	encode(t, &bytes, &size);
	r = guest_load(processor, t, bytes, size, &p, err);
	free(bytes);
	if (!r)
		partition_destroy(p);
	return r;
}

static void fix_checksum(uint8_t *bytes, size_t size)
{
	le32_put(bytes + SAVED_CHECKSUM_AT, 0);
	le32_put(bytes + SAVED_CHECKSUM_AT, crc32c(0, bytes, size));
}

/* --- completeness
 * ---------------------------------------------------------------------------------------------- */

struct part {
	const char *name;
	size_t offset, size;
	unsigned holes; /* bytes that are no field */
};

#define PART(member, holes)                                                                                  \
	{                                                                                                    \
#member, offsetof(struct vp_state, member), sizeof(((struct vp_state *)0)->member), holes    \
	}

/* Every byte of the state but known holes makes a difference to what is written. */
static void test_every_field_is_written(void **state)
{
	static const struct part parts[] = {
	    PART(registers, 4), PART(pdptr, 0), PART(dr, 0),
	    PART(xcr0, 0),      PART(tsc, 0),   PART(activity, 0),
	    PART(pending, 4),   PART(apic, 0),  PART(tlfs, 4 * TLFS_TIMER_COUNT),
	    PART(msrs[0], 4)};
	struct guest_taken t;
	uint8_t *before, *after;
	size_t size, after_size;

	(void)state;
	take_example(&t, 1);
	encode(&t, &before, &size);
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		unsigned holes = 0;

		for (size_t at = 0; at < parts[i].size; at++) {
			uint8_t *byte = (uint8_t *)&t.state->vps[0].state + parts[i].offset + at;

			*byte ^= 1;
			encode(&t, &after, &after_size);
			assert_int_equal(size, after_size);
			holes += !memcmp(before, after, size);
			free(after);
			*byte ^= 1;
		}
		if (holes != parts[i].holes)
			fail_msg("%u bytes of %s are not saved", holes - parts[i].holes, parts[i].name);
	}
	free(before);
	guest_free(&t);
}

static void test_what_was_written_is_read(void **state)
{
	struct saved_partition *again;
	uint8_t *first, *second;
	size_t size, second_size;
	struct guest_taken t;

	(void)state;
	take_example(&t, 3);
	for (unsigned i = 0; i < 3; i++)
		memset(&t.state->vps[i].state.registers.gpr, 0x10 + (int)i, 128);
	encode(&t, &first, &size);
	assert_int_equal(saved_decode(&again, first, size, NULL), 0);
	assert_int_equal(again->vps[2].state.registers.gpr[15], 0x1212121212121212);
	assert_int_equal(again->message_count, 3);
	assert_int_equal(again->cpuid.count, t.state->cpuid.count);
	assert_int_equal(saved_encode(again, &second, &second_size, NULL), 0);
	assert_int_equal(size, second_size);
	assert_memory_equal(first, second, size);
	saved_free(again);
	free(first);
	free(second);
	guest_free(&t);
}

/* --- damage
 * ---------------------------------------------------------------------------------------------------------
 */

static void test_every_cut_is_found(void **state)
{
	struct saved_partition *s;
	struct guest_taken t;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	take_example(&t, 2);
	encode(&t, &bytes, &size);
	for (size_t cut = 0; cut < size; cut++) {
		/* Of its own, so that the address sanitizer sees who reads on. */
		uint8_t *part = malloc(cut ? cut : 1);

		memcpy(part, bytes, cut);
		guest_expect_error(saved_decode(&s, part, cut, &err), EBADMSG, &err, NULL);
		if (cut >= SAVED_HEADER) {
			le64_put(part + SAVED_SIZE_AT, cut);
			fix_checksum(part, cut);
			guest_expect_error(saved_decode(&s, part, cut, &err), EBADMSG, &err, NULL);
		}
		free(part);
	}
	free(bytes);
	guest_free(&t);
}

static void test_every_flipped_byte_is_found(void **state)
{
	struct saved_partition *s;
	struct guest_taken t;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	take_example(&t, 1);
	encode(&t, &bytes, &size);
	for (size_t i = 0; i < size; i++) {
		int r;

		bytes[i] ^= 0x41;
		err = (struct error){0};
		r = saved_decode(&s, bytes, size, &err);
		assert_true(r == -EBADMSG ||
			    (r == -EOVERFLOW && i >= SAVED_VERSION_AT && i < SAVED_CHECKSUM_AT));
		assert_true(err.text[0]);
		bytes[i] ^= 0x41;
	}
	free(bytes);
	guest_free(&t);
}

/* Loads what has a right checksum, and starts what could be loaded. */
static void try_to_run(struct guest_processor processor, const struct guest_taken *t, const uint8_t *bytes,
		       size_t size)
{
	struct partition *p = NULL;
	struct error err = {0};
	uint8_t *saved;
	size_t saved_size;

	if (guest_load(processor, t, bytes, size, &p, &err)) {
		assert_true(err.text[0]);
		return;
	}
	if (processor.kind == PROCESSOR_SOFT)
		assert_int_equal(partition_start(p, NULL), 0);
	partition_pause(p);
	if (!partition_save_state(p, &saved, &saved_size, &err))
		free(saved);
	partition_destroy(p);
}

static void test_no_byte_is_trusted(void **state)
{
	struct guest_taken t;
	uint8_t *bytes;
	size_t size;

	(void)state;
	take_example(&t, 1);
	encode(&t, &bytes, &size);
	for (size_t i = SAVED_HEADER; i < size; i++) {
		static const uint8_t flips[] = {0x01, 0x80, 0xff};
		uint8_t flip = flips[i % 3];

		bytes[i] ^= flip;
		fix_checksum(bytes, size);
		if (i % 16 == 0)
			try_to_run(none, &t, bytes, size);
		if (i % 64 == 3)
			try_to_run(soft, &t, bytes, size);
		bytes[i] ^= flip;
	}
	free(bytes);
	guest_free(&t);
}

static void test_a_later_version(void **state)
{
	struct saved_partition *s;
	struct guest_taken t;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	take_example(&t, 1);
	encode(&t, &bytes, &size);
	le32_put(bytes + SAVED_VERSION_AT, SAVED_VERSION + 1);
	guest_expect_error(saved_decode(&s, bytes, size, &err), EOVERFLOW, &err, "version 2");
	free(bytes);
	guest_free(&t);
}

/* --- states that cannot be
 * --------------------------------------------------------------------------------------------- */

struct wrong {
	const char *word;
	size_t offset;
	unsigned width;
	uint64_t value;
};

#define WRONG(word, member, value)                                                                           \
	{                                                                                                    \
		word, offsetof(struct vp_state, member), sizeof(((struct vp_state *)0)->member), value       \
	}

static const struct wrong wrongs[] = {
    WRONG("CR0", registers.cr0, 1ull << 40),
    WRONG("CR0", registers.cr0, 0x80000010),
    WRONG("CR0", registers.cr0, 0xa0000011),
    WRONG("CR4", registers.cr4, 0x620 | 1 << 13),
    WRONG("CR4", registers.cr4, 0x620ull | 1ull << 33),
    WRONG("CR4", registers.cr4, 0x620 | 1 << 23),
    WRONG("EFER", registers.efer, 0xd01 | 1 << 12),
    WRONG("EFER", registers.efer, 0x901),
    WRONG("CR4.PAE", registers.cr4, 0x600),
    WRONG("CR3", registers.cr3, 1ull << 60),
    WRONG("CR8", registers.cr8, 16),
    WRONG("page directory", pdptr[1], 1),
    WRONG("RFLAGS", registers.rflags, 0),
    WRONG("RFLAGS", registers.rflags, 2 | 1ull << 40),
    WRONG("8086", registers.rflags, 2 | 1 << 17),
    WRONG("RIP", registers.rip, 1ull << 62),
    WRONG("segment", registers.ds.limit, 0x123456),
    WRONG("segment", registers.ds.attributes, 0xc193),
    WRONG("segment", registers.ds.base, 1ull << 32),
    WRONG("segment", registers.gs.base, 1ull << 60),
    WRONG("segment", registers.es.attributes, 0xc083),
    WRONG("CS", registers.cs.attributes, 0xa01b),
    WRONG("CS", registers.cs.attributes, 0xe09b),
    WRONG("CS", registers.cs.attributes, 0xa091),
    WRONG("SS", registers.ss.attributes, 0xc09b),
    WRONG("LDTR", registers.ldtr.attributes, 0x8b),
    WRONG("TR", registers.tr.attributes, 0x89),
    WRONG("TR", registers.tr.attributes, 0x83),
    WRONG("TR", registers.tr.attributes, 0),
    WRONG("GDT", registers.gdt_base, 1ull << 55),
    WRONG("GDT", registers.idt_base, 1ull << 55),
    WRONG("DR4", dr[5], 1),
    WRONG("DR6", dr[6], 1ull << 33),
    WRONG("DR7", dr[7], 0),
    WRONG("DR7", dr[7], 0x8400),
    WRONG("XCR0", xcr0, 0),
    WRONG("XCR0", xcr0, 5),
    WRONG("XCR0", xcr0, 7 | 1ull << 40),
    WRONG("size", xsave_size, 575),
    WRONG("no processor", xsave_size, 580), /* the AVX component is beyond */
    WRONG("XSAVE", xsave[VP_XSAVE_LEGACY + 2], 1),
    WRONG("header", xsave[VP_XSAVE_LEGACY + 15], 0x80),
    WRONG("MXCSR", xsave[27], 1),
    WRONG("MSR", msrs[0].index, 0x10),
    WRONG("twice", msrs[0].index, 0x277),
    WRONG("activity", activity, 3),
    WRONG("local APIC", apic.tpr, 0x1ff),
    WRONG("local APIC", apic.tpr, 0x20), /* CR8 says 0 */
    WRONG("local APIC", apic.base, 0xfee00000 | 0x400),
    WRONG("local APIC", apic.base, 0xfee00000 | 0x802),
    WRONG("local APIC", apic.base, 1ull << 60 | 0x800),
    WRONG("local APIC", apic.id, 1),
    WRONG("local APIC", apic.irr[0], 1),
    WRONG("local APIC", apic.lvt[0], 1u << 31),
    WRONG("synthetic", tlfs.simp, 0x7ffff001),
    WRONG("synthetic", tlfs.sint[3], 5),
    WRONG("synthetic", tlfs.timers[2].config, 1ull << 50),
};

static void test_states_that_cannot_be(void **state)
{
	struct guest_taken t;
	struct vp_state *s, good;
	struct error err;

	(void)state;
	take_example(&t, 1);
	s = &t.state->vps[0].state;
	/* So that AVX is in the area. */
	if (cpuid_table_register(&t.state->cpuid, 0xd, 0, 0) & 4)
		s->xsave[VP_XSAVE_LEGACY] |= 4;
	good = *s;
	assert_int_equal(load(soft, &t, &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(wrongs); i++) {
		const struct wrong *w = &wrongs[i];

		if (w->value == 580 && !(good.xsave[VP_XSAVE_LEGACY] & 4))
			continue;
		memcpy((uint8_t *)s + w->offset, &w->value, w->width);
		guest_expect_error(load(soft, &t, &err), EBADMSG, &err, w->word);
		*s = good;
	}
	guest_free(&t);
}

static void expect_pending(struct guest_taken *t, struct vp_pending pending, enum vp_activity activity)
{
	struct error err;

	t->state->vps[0].state.pending = pending;
	t->state->vps[0].state.activity = activity;
	guest_expect_error(load(soft, t, &err), EBADMSG, &err, "virtual processor 0");
}

static void test_events_that_cannot_be(void **state)
{
	struct guest_taken t;

	(void)state;
	take_example(&t, 1);
	expect_pending(&t, (struct vp_pending){.exception = true, .exception_vector = 2},
		       VP_ACTIVITY_RUNNING);
	expect_pending(&t, (struct vp_pending){.exception = true, .exception_vector = 32},
		       VP_ACTIVITY_RUNNING);
	expect_pending(
	    &t, (struct vp_pending){.exception = true, .exception_vector = 6, .exception_has_code = true},
	    VP_ACTIVITY_RUNNING);
	expect_pending(&t, (struct vp_pending){.exception = true, .exception_vector = 6, .interrupt = true},
		       VP_ACTIVITY_RUNNING);
	expect_pending(&t, (struct vp_pending){.interrupt = true, .interrupt_vector = 0x50},
		       VP_ACTIVITY_HALTED);
	expect_pending(&t, (struct vp_pending){.interrupt_shadow = true}, VP_ACTIVITY_HALTED);
	guest_free(&t);
}

static void test_time_that_cannot_be(void **state)
{
	struct guest_taken t;
	struct error err;

	(void)state;
	take_example(&t, 1);
	t.state->tsc_frequency = 0;
	guest_expect_error(load(soft, &t, &err), EBADMSG, &err, "TSC");
	t.state->tsc_frequency = SOFT_TSC_HZ;
	t.state->apic_frequency = 999999;
	guest_expect_error(load(soft, &t, &err), EBADMSG, &err, "APIC");
	t.state->apic_frequency = APIC_TIMER_HZ;
	t.state->time = 1ull << 62;
	guest_expect_error(load(soft, &t, &err), EBADMSG, &err, "time");
	guest_free(&t);
}

/* --- MSRs
 * ---------------------------------------------------------------------------------------------------------------
 */

static void set_msr(struct guest_taken *t, uint32_t index, uint64_t value)
{
	struct vp_state *s = &t->state->vps[0].state;

	s->msrs[s->msr_count++] = (struct vp_msr){.index = index, .value = value};
}

static void change_msr(struct guest_taken *t, uint32_t index, uint64_t value)
{
	struct vp_state *s = &t->state->vps[0].state;

	for (unsigned i = 0; i < s->msr_count; i++)
		if (s->msrs[i].index == index)
			s->msrs[i].value = value;
}

static void test_msrs_that_are_not_there(void **state)
{
	struct guest_taken t;
	struct error err;

	(void)state;
	take_example(&t, 1);
	/* As after reset: nothing is lost. */
	set_msr(&t, 0xda0, 0);
	assert_int_equal(load(soft, &t, &err), 0);
	t.state->vps[0].state.msr_count--;
	set_msr(&t, 0xda0, 0x100);
	guest_expect_error(load(soft, &t, &err), ENOTSUP, &err, "IA32_XSS");
	t.state->vps[0].state.msr_count--;
	change_msr(&t, 0xc0000082, 1ull << 50);
	guest_expect_error(load(soft, &t, &err), EINVAL, &err, "IA32_LSTAR");
	change_msr(&t, 0xc0000082, 0);
	/* An MTRR of somebody with more address bits. */
	change_msr(&t, 0x201, 0xffffff0000800);
	assert_int_equal(load(soft, &t, &err), 0);
	change_msr(&t, 0x201, 1ull << 52);
	guest_expect_error(load(soft, &t, &err), EINVAL, &err, "MTRR");
	guest_free(&t);
}

static void test_safety_from_attacks_stays(void **state)
{
	struct guest_taken t;
	struct error err;
	uint64_t own;

	(void)state;
	take_example(&t, 1);
	own = vp_state_msr(&t.state->vps[0].state, VP_MSR_ARCH_CAPABILITIES);
	change_msr(&t, VP_MSR_ARCH_CAPABILITIES, own & ~1ull);
	assert_int_equal(load(soft, &t, &err), 0);
	change_msr(&t, VP_MSR_ARCH_CAPABILITIES, own | 1ull << 40);
	guest_expect_error(load(soft, &t, &err), ENOTSUP, &err, "attacks");
	guest_free(&t);
	assert_int_equal(vp_check_arch_capabilities(0, 1 << 2, &err), -ENOTSUP);
	assert_int_equal(vp_check_arch_capabilities(1 << 2, 0, &err), 0);
}

/* --- features
 * ---------------------------------------------------------------------------------------------------------------
 */

static void expect_missing(uint32_t leaf, uint32_t subleaf, unsigned number, uint32_t bits, const char *name)
{
	struct guest_taken t;
	struct cpuid_entry *e = NULL;
	struct error err;

	take_example(&t, 1);
	for (unsigned i = 0; i < t.state->cpuid.count && !e; i++)
		if (t.state->cpuid.entries[i].leaf == leaf && t.state->cpuid.entries[i].subleaf == subleaf)
			e = &t.state->cpuid.entries[i];
	if (!e) {
		e = &t.state->cpuid.entries[t.state->cpuid.count++];
		*e = (struct cpuid_entry){.leaf = leaf, .subleaf = subleaf, .has_subleaf = leaf == 7};
	}
	e->r[number] |= bits;
	guest_expect_error(load(soft, &t, &err), ENOTSUP, &err, name);
	assert_non_null(strstr(err.text, "--compatible"));
	/* Where nothing runs nothing is missing: there it can be looked at. */
	assert_int_equal(load(none, &t, &err), 0);
	guest_free(&t);
}

static void test_features_that_are_missing(void **state)
{
	(void)state;
	expect_missing(7, 0, 1, 1u << 16, "(avx512f)");
	expect_missing(7, 0, 1, 1u << 16 | 1u << 11, "rtm, avx512f");
	expect_missing(1, 0, 2, 1u << 5, "vmx");
	expect_missing(1, 0, 2, 1u << 16, "leaf 0x1 ECX bit 16");
	expect_missing(7, 1, 0, 1u << 4, "avx_vnni");
	expect_missing(7, 1, 2, 1u << 3, "leaf 0x7 subleaf 1 ECX bit 3");
	expect_missing(0xd, 0, 0, 1u << 5, "opmask state");
	expect_missing(0xd, 1, 0, 1u << 3, "xsaves");
	expect_missing(0x80000001, 0, 2, 1u << 6, "sse4a");
	expect_missing(0x80000001, 0, 3, 1u << 25, "fxsr_opt");
	expect_missing(0x80000008, 0, 1, 1u << 0, "clzero");
	expect_missing(0x40000003, 0, 3, 1u << 14, "leaf 0x40000003 EDX bit 14");
	expect_missing(0x40000003, 0, 1, 1u << 21, "hv-start-vp");
	/* More than a sentence takes. */
	expect_missing(7, 0, 2, 0xffe1ffff & ~0x10u, "…");
}

static void test_bits_that_are_no_features(void **state)
{
	struct guest_taken t;
	struct error err;

	(void)state;
	take_example(&t, 1);
	for (unsigned i = 0; i < t.state->cpuid.count; i++) {
		struct cpuid_entry *e = &t.state->cpuid.entries[i];

		if (e->leaf == 1)
			e->r[3] ^= 1u << 28;
		if (e->leaf == 0x80000001)
			e->r[3] |= 0x0183f3ff;
		if (e->leaf == 4)
			e->r[1] ^= 0x100;
	}
	assert_int_equal(load(soft, &t, &err), 0);
	guest_free(&t);
}

static void test_xsave_components_elsewhere(void **state)
{
	struct guest_taken t;
	struct error err;
	bool avx;

	(void)state;
	take_example(&t, 1);
	avx = cpuid_table_register(&t.state->cpuid, 0xd, 0, 0) & 4;
	for (unsigned i = 0; i < t.state->cpuid.count; i++)
		if (t.state->cpuid.entries[i].leaf == 0xd && t.state->cpuid.entries[i].subleaf == 2)
			t.state->cpuid.entries[i].r[1] += 64;
	if (avx)
		guest_expect_error(load(soft, &t, &err), ENOTSUP, &err, "component 2");
	guest_free(&t);
}

/* Every feature that remains was there before, and of those that every host has none is gone. */
static void test_compatibility_on_soft(void **state)
{
	static const struct guest_processor compatible = {.kind = PROCESSOR_SOFT, .compatibility = true};
	struct guest_taken all, common;
	struct error err;

	(void)state;
	guest_take(&all, guest_create(soft, 2, GUEST_REAL));
	guest_take(&common, guest_create(compatible, 2, GUEST_REAL));
	for (const struct cpuid_word *word = cpuid_words; word->mask; word++) {
		uint32_t before =
		    cpuid_table_register(&all.state->cpuid, word->leaf, word->subleaf, word->number);
		uint32_t after =
		    cpuid_table_register(&common.state->cpuid, word->leaf, word->subleaf, word->number);

		/* That auto-EOI is not recommended is no feature but the lack of one. */
		if (word->leaf == 0x40000004)
			after &= ~(1u << 9);
		assert_true((after & ~before) == 0);
		assert_true(((before ^ after) & ~word->mask) == 0);
		/* SSE2, CMPXCHG8B and PAE; long mode, NX and SYSCALL. */
		if (word->leaf == 1 && word->number == 3)
			assert_true((after & 0x4000140) == 0x4000140);
		if (word->leaf == 0x80000001 && word->number == 3)
			assert_true((after & 0x20100800) == 0x20100800);
	}
	assert_true(vp_state_msr(&all.state->vps[1].state, VP_MSR_ARCH_CAPABILITIES) != 0);
	assert_true(vp_state_msr(&common.state->vps[1].state, VP_MSR_ARCH_CAPABILITIES) == 0);
	assert_int_equal(load(soft, &common, &err), 0);
	guest_expect_error(load(compatible, &all, &err), ENOTSUP, &err, "hv-guest-idle");
	guest_free(&all);
	guest_free(&common);
}

static void test_compatibility_takes_from_others(void **state)
{
	uint32_t r[4], ours[4];

	(void)state;
	memset(r, 0xff, sizeof(r));
	cpuid_restrict(7, 0, r);
	soft_cpuid_features(7, 0, ours);
	assert_true(r[0] == UINT32_MAX); /* no features */
	assert_true(!(r[1] & ~ours[1] & ~(1u << 6 | 1u << 13)));
	assert_true(!(r[3] & 1u << 25));
	/* A wide processor: XSAVE shrinks to what is left. */
	r[0] = 0xe7;
	r[1] = r[2] = 2696;
	r[3] = 1;
	cpuid_restrict(0xd, 0, r);
	assert_true(r[0] <= 7 && r[1] <= 832 && r[2] == (r[0] & 4 ? 832 : 576) && r[3] == 0);
	memset(r, 0xff, sizeof(r));
	cpuid_restrict(0xd, 5, r);
	assert_true(!(r[0] | r[1] | r[2] | r[3]));
	/* Other leaves stay. */
	memset(r, 0xff, sizeof(r));
	cpuid_restrict(4, 0, r);
	cpuid_restrict(0x80000002, 0, r);
	cpuid_restrict(0x40000002, 0, r);
	assert_true((r[0] & r[1] & r[2] & r[3]) == UINT32_MAX);
}

/* --- where it does not fit
 * ------------------------------------------------------------------------------------------------ */

static void test_another_shape(void **state)
{
	struct guest_taken t;
	struct partition *p;
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	take_example(&t, 2);
	p = guest_create(soft, 1, GUEST_REAL);
	encode(&t, &bytes, &size);
	guest_expect_error(partition_load_state(p, bytes, size, &err), EINVAL, &err, "2 virtual processors");
	free(bytes);
	partition_destroy(p);
	t.state->regions[1].size *= 2;
	guest_expect_error(load(soft, &t, &err), EINVAL, &err, "memory");
	t.state->region_count = 1;
	guest_expect_error(load(soft, &t, &err), EINVAL, &err, "memory");
	guest_free(&t);
}

static void test_only_at_rest(void **state)
{
	struct partition *p = guest_create_running(soft, 1, GUEST_LONG, spins, spins_end);
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	guest_expect_error(partition_save_state(p, &bytes, &size, &err), EBUSY, &err, "pause");
	partition_pause(p);
	assert_int_equal(partition_save_state(p, &bytes, &size, &err), 0);
	guest_expect_error(partition_load_state(p, bytes, size, &err), EINVAL, &err, "not run");
	free(bytes);
	partition_resume(p);
	partition_stop(p);
	assert_int_equal(partition_save_state(p, &bytes, &size, &err), 0);
	free(bytes);
	partition_destroy(p);
}

STATE_CODE(faults, 64, "	lidt	2f(%rip)\n	ud2\n2:	.quad	0, 0\n");

static void test_a_dead_vp_is_not_saved(void **state)
{
	struct partition *p = guest_create_running(soft, 1, GUEST_LONG, faults, faults_end);
	struct error err;
	uint8_t *bytes;
	size_t size;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	while (!atomic_load(&p->end_reported))
		;
	partition_pause(p);
	guest_expect_error(partition_save_state(p, &bytes, &size, &err), EINVAL, &err, "virtual processor 0");
	partition_destroy(p);
}

/* --- no processor
 * ----------------------------------------------------------------------------------------------------------
 */

static void test_without_a_processor(void **state)
{
	struct guest_taken t, again;
	struct vp_registers r;
	struct partition *p;
	uint8_t *a, *b;
	size_t a_size, b_size;

	(void)state;
	/* A guest double's synthetic registers and messages go with it. */
	p = guest_create(none, 2, GUEST_REAL);
	assert_int_equal(vp_get_registers(p, 0, &r), -ENOTSUP);
	assert_int_equal(vp_write_msr(p, 1, 0x40000083, GUEST_PAGES | 1), 0);
	intercept_mmio_write(&p->vps[1], 0xfee00080, 4, 0x35);
	assert_int_equal(partition_post_message(p, 0, 2, 1, "abc", 3), 0);
	guest_take(&t, p);
	p = guest_give(none, &t);
	guest_free(&t);
	assert_int_equal(vp_read_msr(p, 1, 0x40000083, &r.rip), 0);
	assert_int_equal(r.rip, GUEST_PAGES | 1);
	assert_int_equal(apic_get_tpr(&p->apics[1]), 0x35);
	guest_take(&t, p);
	assert_int_equal(t.state->message_count, 1);
	guest_free(&t);
	/* And another processor's guest can be looked at, and goes back as it was. */
	take_example(&t, 2);
	p = guest_give(none, &t);
	assert_int_equal(vp_get_registers(p, 1, &r), 0);
	assert_int_equal(r.gpr[7], GUEST_AREA + 0x1000);
	guest_take(&again, p);
	encode(&t, &a, &a_size);
	encode(&again, &b, &b_size);
	assert_int_equal(a_size, b_size);
	assert_memory_equal(a, b, a_size);
	free(a);
	free(b);
	guest_free(&t);
	p = guest_give(soft, &again);
	guest_free(&again);
	assert_int_equal(partition_start(p, NULL), 0);
	guest_wait(p, GUEST_AREA + 4, guest_read32(p, GUEST_AREA + 4) + 1000);
	partition_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_field_is_written),
					   cmocka_unit_test(test_what_was_written_is_read),
					   cmocka_unit_test(test_every_cut_is_found),
					   cmocka_unit_test(test_every_flipped_byte_is_found),
					   cmocka_unit_test(test_no_byte_is_trusted),
					   cmocka_unit_test(test_a_later_version),
					   cmocka_unit_test(test_states_that_cannot_be),
					   cmocka_unit_test(test_events_that_cannot_be),
					   cmocka_unit_test(test_time_that_cannot_be),
					   cmocka_unit_test(test_msrs_that_are_not_there),
					   cmocka_unit_test(test_safety_from_attacks_stays),
					   cmocka_unit_test(test_features_that_are_missing),
					   cmocka_unit_test(test_bits_that_are_no_features),
					   cmocka_unit_test(test_xsave_components_elsewhere),
					   cmocka_unit_test(test_compatibility_on_soft),
					   cmocka_unit_test(test_compatibility_takes_from_others),
					   cmocka_unit_test(test_another_shape),
					   cmocka_unit_test(test_only_at_rest),
					   cmocka_unit_test(test_a_dead_vp_is_not_saved),
					   cmocka_unit_test(test_without_a_processor)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
