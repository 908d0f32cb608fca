// SPDX-License-Identifier: GPL-2.0-or-later
/* Protection keys one by one: what they let pass, their registers, XSAVE. Expected results are the manual's (SDM volume 3, 4.6.2
 * and 4.7, volume 1, 13). */
#include "tests/double/soft_machine.h"

#include <string.h>

#include "base/bytes.h"

#define CR0_WP       (1ull << 16)
#define CR4_OSXSAVE  (1ull << 18)
#define CR4_PAE      (1ull << 5)
#define CR4_PSE      (1ull << 4)
#define CR4_PCIDE    (1ull << 17)
#define CR4_PKE      (1ull << 22)
#define CR4_PKS      (1ull << 24)
#define KEY(k)       ((uint64_t)(k) << 59)
#define DENY(k)      (1u << (2 * (k)))
#define READ_ONLY(k) (2u << (2 * (k)))

enum { UD = 6, GP = 13, PF = 14 };

static struct vp_registers start(struct soft_machine *m, uint64_t cr4)
{
	struct vp_registers r;

	machine_long(m, 0);
	r = machine_registers(m, 0);
	r.cr4 |= cr4;
	return r;
}

/* --- rights ------------------------------------------------------------------------------------------------------ */

#define PAGE 0x400000ull

/* RSI: an address, EDI: PKRU for the second half. */
GUEST_CODE(reads_twice, 64,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "wrpkru\n"
    "mov (%rsi), %r8\n"
    "mov %edi, %eax\n"
    "wrpkru\n"
    "mov (%rsi), %r9\n"
    "hlt");

static struct vp_registers run_code(struct soft_machine *m, struct vp_registers *r, const uint8_t *begin, const uint8_t *end)
{
	machine_put(m, MACHINE_CODE, begin, end);
	soft_memory_written(m->soft, MACHINE_CODE, (uint64_t)(end - begin));
	machine_set_registers(m, 0, r);
	return machine_run(m, 0);
}

#define RUN(m, r, name) run_code(m, r, name, name##_end)

static void assert_page_fault(struct soft_machine *m, const struct vp_registers *r, uint32_t code, uint64_t address)
{
	assert_int_equal(machine_vector(r), PF);
	assert_int_equal(machine_read32(m, r->gpr[4]), code);
	assert_int_equal(r->cr2, address);
}

/* What INVLPG takes away stays away, also where a key hid it: of a large page by the address of another part of it. */
GUEST_CODE(drops_hidden, 64,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "xor %eax, %eax\n"
    "wrpkru\n"
    "mov (%rsi), %r8\n"
    "mov $0xfffffffc, %eax\n"
    "wrpkru\n"
    "mov %rdi, (%rbx)\n"
    "invlpg 0x3000(%rsi)\n"
    "xor %eax, %eax\n"
    "wrpkru\n"
    "mov (%rsi), %r9\n"
    "hlt");

static void hidden_entries_are_dropped(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKE);
	uint64_t linear = 0x80400000, entry = MACHINE_TABLES + 0x2000 + 8 * (linear >> 21);

	(void)state;
	/* Never to be executed, so that the key hides all there is. */
	machine_write64(m, entry, KEY(5) | 1ull << 63 | PAGE | 0x87);
	machine_write64(m, PAGE, 1);
	machine_write64(m, 2 * PAGE, 2);
	r.gpr[3] = entry;
	r.gpr[6] = linear;
	r.gpr[7] = KEY(5) | 1ull << 63 | 2 * PAGE | 0x87;
	r = RUN(m, &r, drops_hidden);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[8], 1);
	assert_int_equal(r.gpr[9], 2);
	soft_machine_destroy(m);
}

/* Reads, and then writes, what key 0 lets be read only. */
GUEST_CODE(writes_by_key_0, 64,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "xor %eax, %eax\n"
    "wrpkru\n"
    "mov %rdi, (%rsi)\n"
    "mov %edi, %eax\n"
    "wrpkru\n"
    "mov (%rsi), %r8\n"
    "mov %rcx, (%rsi)\n"
    "hlt");

static void key_0_is_a_key(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKE), began = r;

	(void)state;
	for (uint64_t page = 0; page < 0x200000; page += 0x1000)
		*machine_pte(m, page) = page | 3;
	*machine_pte(m, PAGE) = PAGE | 7;
	for (unsigned wp = 0; wp < 2; wp++) {
		r = began;
		r.cr0 = (r.cr0 & ~CR0_WP) | (wp ? CR0_WP : 0);
		r.gpr[6] = PAGE;
		r.gpr[7] = READ_ONLY(0);
		r = RUN(m, &r, writes_by_key_0);
		assert_int_equal(r.gpr[8], READ_ONLY(0));
		if (wp)
			assert_page_fault(m, &r, 0x23, PAGE);
		else
			assert_int_equal(machine_vector(&r), -1);
	}
	soft_machine_destroy(m);
}

/* What one address space looked up does not outlive a change that is made in another, though both keep their entries. R14 and R15:
 * CR3 of the two; RSI: an address; EDI: PKRU; EBX: IA32_PKRS. */
GUEST_CODE(changes_elsewhere, 64,
    "mov %r14, %cr3\n"
    "mov %r8, (%rsi)\n"
    "mov (%rsi), %r8\n"
    "mov %r15, %cr3\n"
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "mov %edi, %eax\n"
    "wrpkru\n"
    "mov $0x6e1, %ecx\n"
    "mov %ebx, %eax\n"
    "wrmsr\n"
    "mov %r14, %cr3\n"
    "mov (%rsi), %r9\n"
    "mov %r9, (%rsi)\n"
    "hlt");

static void rights_change_in_another_space(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers r = start(m, CR4_PKE | CR4_PKS | CR4_PCIDE);
		uint32_t rights = i == 4 ? 0 : i & 1 ? READ_ONLY(5) : DENY(5);
		bool user = i < 2 || i == 4;

		(void)state;
		*machine_pte(m, PAGE) = KEY(5) | PAGE | (user ? 7 : 3);
		r.cr0 |= CR0_WP;
		r.gpr[3] = user ? 0 : rights;
		r.gpr[6] = PAGE;
		r.gpr[7] = user ? rights : 0;
		r.gpr[14] = 1ull << 63 | MACHINE_TABLES | 1;
		r.gpr[15] = 1ull << 63 | MACHINE_TABLES | 2;
		r = RUN(m, &r, changes_elsewhere);
		if (rights)
			assert_page_fault(m, &r, i & 1 ? 0x23 : 0x21, PAGE);
		else
			assert_int_equal(machine_vector(&r), -1);
		soft_machine_destroy(m);
	}
}

/* RSI: an address; EDI: both registers; EBX: the bit of CR4. It is on, off and on again; R8 counts what could be read. */
GUEST_CODE(switches, 64,
    "xor %r8d, %r8d\n"
    "mov %cr4, %rbp\n"
    "mov $0x6e1, %ecx\n"
    "mov %edi, %eax\n"
    "xor %edx, %edx\n"
    "wrmsr\n"
    "xor %ecx, %ecx\n"
    "wrpkru\n"
    "mov %rbp, %rax\n"
    "xor %rbx, %rax\n"
    "mov %rax, %cr4\n"
    "mov (%rsi), %r9\n"
    "inc %r8\n"
    "mov %rbp, %cr4\n"
    "mov (%rsi), %r9\n"
    "inc %r8\n"
    "hlt");

static void keys_are_switched_on(void **state)
{
	for (unsigned user = 0; user < 2; user++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers r = start(m, CR4_PKE | CR4_PKS);

		(void)state;
		*machine_pte(m, PAGE) = KEY(5) | PAGE | (user ? 7 : 3);
		r.gpr[3] = user ? CR4_PKE : CR4_PKS;
		r.gpr[6] = PAGE;
		r.gpr[7] = DENY(5);
		r = RUN(m, &r, switches);
		assert_page_fault(m, &r, 0x21, PAGE);
		assert_int_equal(r.gpr[8], 1);
		soft_machine_destroy(m);
	}
}

/* RSI: an address, EDI: PKRU. */
GUEST_CODE(copies32, 32,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "mov %edi, %eax\n"
    "wrpkru\n"
    "mov (%esi), %ebx\n"
    "mov %ebx, (%esi)\n"
    "hlt");

static struct vp_registers protected_mode(struct soft_machine *m, uint64_t cr3, uint64_t cr4)
{
	struct vp_registers r;

	machine_protected(m, 0);
	r = machine_registers(m, 0);
	r.cr0 |= cr3 ? 0x80000000 | CR0_WP : 0;
	r.cr3 = cr3;
	r.cr4 |= CR4_PKE | CR4_PKS | cr4;
	r.gpr[6] = PAGE;
	r.gpr[7] = ~0u;
	return r;
}

#define PAE_TABLES 0x200000ull
#define TABLE_32   0x300000ull

/* In compatibility mode they are there, in other paging they are not: there even the bits are none. */
static void keys_belong_to_four_level_paging(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		r = start(m, CR4_PKE);
		r.cr0 |= CR0_WP;
		*machine_pte(m, PAGE) = KEY(7) | PAGE | 7;
		r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_CODE32, .attributes = 0xc09b};
		r.gpr[6] = PAGE;
		r.gpr[7] = i == 0 ? 0 : i == 1 ? DENY(7) : READ_ONLY(7);
		r = RUN(m, &r, copies32);
		if (i == 0)
			assert_int_equal(machine_vector(&r), -1);
		else
			assert_page_fault(m, &r, i == 1 ? 0x21 : 0x23, PAGE);
	}
	for (unsigned i = 0; i < 4; i++)
		machine_write64(m, PAE_TABLES + 8 * i, (PAE_TABLES + 0x1000 + 0x1000 * i) | 1);
	for (uint64_t i = 0; i < 2048; i++)
		machine_write64(m, PAE_TABLES + 0x1000 + 8 * i, i << 21 | 0x87);
	r = protected_mode(m, PAE_TABLES, CR4_PAE);
	r = RUN(m, &r, copies32);
	assert_int_equal(machine_vector(&r), -1);
	machine_write64(m, PAE_TABLES + 0x1000 + 8 * (PAGE >> 21), KEY(3) | PAGE | 0x87);
	r = protected_mode(m, PAE_TABLES, CR4_PAE);
	r = RUN(m, &r, copies32);
	assert_page_fault(m, &r, 9, PAGE);
	for (uint32_t i = 0; i < 1024; i++)
		machine_write32(m, TABLE_32 + 4 * i, i << 22 | 0x87);
	r = protected_mode(m, TABLE_32, CR4_PSE);
	r = RUN(m, &r, copies32);
	assert_int_equal(machine_vector(&r), -1);
	r = protected_mode(m, 0, 0);
	r = RUN(m, &r, copies32);
	assert_int_equal(machine_vector(&r), -1);
	soft_machine_destroy(m);
}

/* What the processor reads and writes by itself is bound by IA32_PKRS, at each level. */
GUEST_CODE(sets_pkrs, 64, "mov $0x6e1, %ecx\nxor %edx, %edx\nwrmsr\nhlt");
GUEST_CODE(loads_segment, 64, "mov $0xf, %eax\nmov %eax, %ds\nhlt");

#define DESCRIPTORS 0x70000ull

static void implicit_access(unsigned level, uint32_t rights, uint32_t code)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKS);

	r.gpr[0] = rights;
	r = RUN(m, &r, sets_pkrs);
	assert_int_equal(machine_vector(&r), -1);
	r = start(m, CR4_PKS);
	r.cr0 |= CR0_WP;
	*machine_pte(m, PAGE) = KEY(7) | DESCRIPTORS | 3;
	machine_write64(m, DESCRIPTORS + 8, 0x00cff2000000ffffull); /* data of level 3, not accessed yet */
	r.ldtr = (struct vp_segment){.base = PAGE, .limit = 0xff, .selector = SEL_FREE, .attributes = 0x82};
	if (level == 3) {
		r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER64, .attributes = 0xa0fb};
		r.ss = r.ds = r.es = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
		r.gpr[4] = MACHINE_STACK3;
	}
	r = RUN(m, &r, loads_segment);
	if (code) {
		assert_page_fault(m, &r, code, PAGE + 8 + (r.cr2 & 7)); /* any byte of the descriptor */
	} else {
		assert_int_equal(machine_vector(&r), level == 3 ? GP : -1); /* HLT of a user */
		assert_int_equal(r.ds.selector, 0xf);
	}
	soft_machine_destroy(m);
}

static void the_processor_is_bound_too(void **state)
{
	(void)state;
	for (unsigned level = 0; level <= 3; level += 3) {
		implicit_access(level, 0, 0);
		implicit_access(level, DENY(7), 0x21);
		implicit_access(level, READ_ONLY(7), 0x23);
	}
}

/* Code needs no key. */
GUEST_CODE(calls, 64,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "mov $0xfffffffc, %eax\n"
    "wrpkru\n"
    "call *%rsi\n"
    "hlt");
GUEST_CODE(returns, 64, "mov $77, %ebx\nret");

static void code_needs_no_key(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKE);

	(void)state;
	*machine_pte(m, PAGE) = KEY(9) | PAGE | 7;
	machine_code(m, PAGE, returns);
	r.gpr[6] = PAGE;
	r = RUN(m, &r, calls);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[3], 77);
	soft_machine_destroy(m);
}

static void bits_are_ignored_without_pke(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKE), began;

	(void)state;
	*machine_pte(m, PAGE) = KEY(15) | PAGE | 7;
	began = r;
	r.gpr[6] = PAGE;
	r.gpr[7] = DENY(15);
	r = RUN(m, &r, reads_twice);
	assert_page_fault(m, &r, 0x21, PAGE);
	/* PKRU stays. */
	r = began;
	r.cr4 &= ~CR4_PKE;
	r.gpr[6] = PAGE;
	m->ram[PAGE] = 5;
	r.rip = MACHINE_CODE + 7; /* behind the first WRPKRU */
	machine_code(m, MACHINE_CODE, reads_twice);
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[8], 5);
	assert_int_equal(machine_vector(&r), UD); /* the second */
	soft_machine_destroy(m);
}

/* --- instructions and registers -------------------------------------------------------------------------------------- */

GUEST_CODE(rdpkru, 64, "rdpkru\nhlt");
GUEST_CODE(wrpkru, 64, "wrpkru\nhlt");

static void instructions_check_their_registers(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers with = start(m, CR4_PKE), r;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		r = with;
		r.cr4 &= i & 4 ? ~CR4_PKE : ~0ull;
		r.gpr[0] = 0xffffffff12345670;
		r.gpr[1] = i & 1 ? 1 : 0xffffffff00000000; /* upper halves do not count */
		r.gpr[2] = i & 2 ? 0x80000000 : 0xffffffff00000000;
		r = RUN(m, &r, wrpkru);
		assert_int_equal(machine_vector(&r), i & 4 ? UD : i & 3 ? GP : -1);
		r = with;
		r.cr4 &= i & 4 ? ~CR4_PKE : ~0ull;
		r.gpr[0] = r.gpr[2] = ~0ull;
		r.gpr[1] = i & 1;
		r = RUN(m, &r, rdpkru);
		assert_int_equal(machine_vector(&r), i & 4 ? UD : i & 1 ? GP : -1);
		if (!(i & 5)) {
			assert_int_equal(r.gpr[0], 0x12345670);
			assert_int_equal(r.gpr[2], 0);
		}
	}
	soft_machine_destroy(m);
}

GUEST_CODE(write_msr, 64, "wrmsr\nrdmsr\nhlt");
GUEST_CODE(set_xcr0, 64, "xor %ecx, %ecx\nxor %edx, %edx\nxsetbv\nhlt");
GUEST_CODE(write_cr4, 64, "mov %rax, %cr4\nhlt");

static void what_is_not_shown_is_not_there(void **state)
{
	for (unsigned shown = 0; shown < 4; shown++) {
		struct soft_machine *m = soft_machine_create(1);
		struct vp_registers with, r;
		bool user = shown & 1, supervisor = shown & 2;
		uint32_t leaf[4];

		(void)state;
		soft_vp_show_keys(soft_vp(m->soft, 0), user, supervisor);
		with = start(m, CR4_OSXSAVE);
		with.gpr[2] = 0;
		r = with;
		r.gpr[1] = 0x6e1;
		r.gpr[0] = 0xabcd0;
		r = RUN(m, &r, write_msr);
		assert_int_equal(machine_vector(&r), supervisor ? -1 : GP);
		r = with;
		r.gpr[1] = 0x6e1;
		r.gpr[2] = 1;
		r = RUN(m, &r, write_msr);
		assert_int_equal(machine_vector(&r), GP);
		for (unsigned bit = 22; bit <= 24; bit += 2) {
			r = with;
			r.gpr[0] = with.cr4 | 1u << bit;
			r = RUN(m, &r, write_cr4);
			assert_int_equal(machine_vector(&r), (bit == 22 ? user : supervisor) ? -1 : GP);
			soft_vp_cpuid(soft_vp(m->soft, 0), 7, 0, leaf);
			assert_int_equal(leaf[2] >> 4 & 1, bit == 22 && user); /* OSPKE */
		}
		r = with;
		r.gpr[0] = 0x203;
		r = RUN(m, &r, set_xcr0);
		assert_int_equal(machine_vector(&r), user ? -1 : GP);
		assert_int_equal(leaf[2] >> 3 & 1, user);
		assert_int_equal(leaf[2] >> 31, supervisor);
		soft_vp_cpuid(soft_vp(m->soft, 0), 0xd, 0, leaf);
		assert_int_equal(leaf[0] >> 9 & 1, user);
		assert_int_equal(leaf[1], user ? 2696 : 576);
		assert_true(user ? leaf[2] == 2696 : leaf[2] <= 832);
		soft_vp_cpuid(soft_vp(m->soft, 0), 0xd, 9, leaf);
		assert_int_equal(leaf[0], user ? 8 : 0);
		assert_int_equal(leaf[1], user ? 2688 : 0);
		assert_int_equal(leaf[2] | leaf[3], 0);
		soft_machine_destroy(m);
	}
}

/* --- XSAVE ------------------------------------------------------------------------------------------------------------- */

#define AREA 0x40000ull

/* EDI: XCR0, EAX: PKRU; then with EBX: the components asked for. R9: those in use. */
#define PREPARE                    \
	"mov %eax, %r8d\n"         \
	"xor %ecx, %ecx\n"         \
	"xor %edx, %edx\n"         \
	"mov %edi, %eax\n"         \
	"xsetbv\n"                 \
	"mov %r8d, %eax\n"         \
	"wrpkru\n"                 \
	"mov $1, %ecx\n"           \
	"xgetbv\n"                 \
	"mov %rax, %r9\n"          \
	"xor %edx, %edx\n"         \
	"mov %ebx, %eax\n"

GUEST_CODE(xsave, 64, PREPARE "xsave64 (%rsi)\nhlt");
GUEST_CODE(xsaveopt, 64, PREPARE "xsaveopt64 (%rsi)\nhlt");
GUEST_CODE(xsavec, 64, PREPARE "xsavec64 (%rsi)\nhlt");
GUEST_CODE(xrstor, 64, PREPARE "xrstor64 (%rsi)\nxor %ecx, %ecx\nrdpkru\nhlt");

static struct vp_registers state_registers(struct soft_machine *m, uint32_t xcr0, uint32_t pkru, uint32_t components)
{
	struct vp_registers r = start(m, CR4_PKE | CR4_OSXSAVE);

	r.gpr[0] = pkru;
	r.gpr[3] = components;
	r.gpr[6] = AREA;
	r.gpr[7] = xcr0;
	return r;
}

static bool has_avx(void)
{
	uint32_t r[4];

	soft_cpuid_features(0xd, 0, r);
	return r[0] & 4;
}

static void pkru_is_saved(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	uint32_t xcr0 = has_avx() ? 0x207 : 0x203, behind = has_avx() ? 832 : 576;
	struct vp_registers r;

	(void)state;
	memset(m->ram + AREA, 0xcc, 4096);
	memset(m->ram + AREA + 512, 0, 64);
	r = state_registers(m, xcr0, 0x5550, 0x207);
	r = RUN(m, &r, xsave);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[9] >> 9, 1);
	assert_int_equal(machine_read64(m, AREA + 2688), 0x5550);
	assert_int_equal(machine_read64(m, AREA + 2680) & machine_read64(m, AREA + 2696), 0xccccccccccccccccull);
	assert_int_equal(machine_read64(m, AREA + 512) >> 9, 1);
	/* In its initial configuration it is written by XSAVE and left out by XSAVEOPT. */
	for (unsigned opt = 0; opt < 2; opt++) {
		r = state_registers(m, xcr0, 0, 0x200);
		r = opt ? RUN(m, &r, xsaveopt) : RUN(m, &r, xsave);
		assert_int_equal(r.gpr[9] >> 9, 0);
		assert_int_equal(machine_read64(m, AREA + 512) >> 9, 0);
		assert_int_equal(machine_read64(m, AREA + 2688), opt ? 0x1234 : 0);
		machine_write64(m, AREA + 2688, 0x1234);
	}
	/* Compacted: behind AVX if that is asked for, else in its place. */
	for (unsigned alone = 0; alone < 2; alone++) {
		uint32_t at = alone ? 576 : behind, components = alone ? 0x203 : xcr0;

		memset(m->ram + AREA, 0xcc, 4096);
		r = state_registers(m, xcr0, 0x7770, components);
		r = RUN(m, &r, xsavec);
		assert_int_equal(machine_read64(m, AREA + 520), 1ull << 63 | components);
		assert_int_equal(machine_read64(m, AREA + at), 0x7770);
		assert_int_equal(machine_read64(m, AREA + at + 8), 0xccccccccccccccccull);
		memset(m->ram + AREA + 528, 0, 48);
		r = state_registers(m, xcr0, 0x1110, 0x200);
		r = RUN(m, &r, xrstor);
		assert_int_equal(machine_vector(&r), -1);
		assert_int_equal(r.gpr[0], 0x7770);
	}
	soft_machine_destroy(m);
}

static void pkru_is_restored(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	memset(m->ram + AREA, 0, 4096);
	machine_write32(m, AREA + 24, 0x1f80);
	machine_write64(m, AREA + 512, 0x200);
	machine_write64(m, AREA + 2688, 0xffffffff87654320); /* the upper half is nobody's */
	r = state_registers(m, 0x203, 0x5550, 0x203);
	r = RUN(m, &r, xrstor);
	assert_int_equal(r.gpr[0], 0x87654320);
	/* Not asked for; then not there, which is its initial configuration. */
	r = state_registers(m, 0x203, 0x5550, 3);
	r = RUN(m, &r, xrstor);
	assert_int_equal(r.gpr[0], 0x5550);
	machine_write64(m, AREA + 512, 0);
	r = state_registers(m, 0x203, 0x5550, 0x200);
	r = RUN(m, &r, xrstor);
	assert_int_equal(r.gpr[0], 0);
	/* XCR0 does not let it. */
	machine_write64(m, AREA + 512, 0x200);
	r = state_registers(m, 3, 0x5550, 0x203);
	r = RUN(m, &r, xrstor);
	assert_int_equal(machine_vector(&r), GP);
	/* It lies in a page that is not there: nothing has changed. */
	machine_write64(m, AREA + 512, 0x201);
	memmove(m->ram + AREA + 0x800, m->ram + AREA, 2048);
	r = state_registers(m, 0x203, 0x5550, 0x203);
	*machine_pte(m, AREA + 0x1000) = 0;
	r.gpr[6] = AREA + 0x800;
	r = RUN(m, &r, xrstor);
	assert_page_fault(m, &r, 0, AREA + 0x800 + 2688);
	r = state_registers(m, 0x203, 0x5550, 0x203);
	*machine_pte(m, AREA + 0x1000) = 0;
	machine_write64(m, AREA + 0x800 + 512, 0x4321);
	r.gpr[6] = AREA + 0x800;
	r = RUN(m, &r, xsave);
	assert_page_fault(m, &r, 2, AREA + 0x800 + 2688);
	assert_int_equal(machine_read64(m, AREA + 0x800 + 512), 0x4321);
	soft_machine_destroy(m);
}

/* All that is read lies within the segment, though where that ends is known only once the header has been read. */
GUEST_CODE(xrstor32, 32,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "mov $0x203, %eax\n"
    "xsetbv\n"
    "xrstor 0x40000\n"
    "hlt");

static void area_ends_with_the_segment(void **state)
{
	struct soft_machine *m = soft_machine_create(1);

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct vp_registers r;

		machine_protected(m, 0);
		machine_code(m, MACHINE_CODE, xrstor32);
		machine_write32(m, AREA + 24, 0x1f80);
		machine_write64(m, AREA + 512, i < 2 ? 0x200 : 0);
		r = machine_registers(m, 0);
		r.cr4 |= CR4_OSXSAVE;
		r.ds.limit = (uint32_t)AREA + (i == 0 ? 2695 : i == 1 ? 2694 : 575);
		machine_set_registers(m, 0, &r);
		r = machine_run(m, 0);
		assert_int_equal(machine_vector(&r), i == 1 ? GP : -1);
	}
	soft_machine_destroy(m);
}

/* --- dirty pages ------------------------------------------------------------------------------------------------------- */

GUEST_CODE(hides_and_shows, 64,
    "xor %ecx, %ecx\n"
    "xor %edx, %edx\n"
    "mov %edi, %eax\n"
    "wrpkru\n"
    "xor %eax, %eax\n"
    "wrpkru\n"
    "mov %rsi, (%rsi)\n"
    "out %al, $0x80\n" /* now they are tracked */
    "mov %edi, %eax\n"
    "wrpkru\n"
    "xor %eax, %eax\n"
    "wrpkru\n"
    "mov %rdi, (%rsi)\n"
    "hlt\n");

static uint64_t told[MACHINE_RAM >> 18];

static void begin_to_track(struct soft_machine *m, unsigned vp, uint16_t port, uint32_t value)
{
	(void)vp, (void)port, (void)value;
	assert_int_equal(soft_track_dirty(m->soft, true, NULL), 0);
}

/* The right to write goes while pages are tracked, and a key that comes and goes does not bring it back. */
static void writes_are_told(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r = start(m, CR4_PKE);

	(void)state;
	*machine_pte(m, PAGE) = KEY(3) | PAGE | 7;
	r.gpr[6] = PAGE;
	r.gpr[7] = DENY(3);
	m->on_out = begin_to_track;
	r = RUN(m, &r, hides_and_shows);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(machine_read64(m, PAGE), DENY(3));
	memset(told, 0, sizeof(told));
	soft_fetch_dirty(m->soft, 0, MACHINE_RAM >> 12, told);
	assert_true(told[(PAGE >> 12) / 64] >> ((PAGE >> 12) % 64) & 1);
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hidden_entries_are_dropped),
	    cmocka_unit_test(key_0_is_a_key),
	    cmocka_unit_test(rights_change_in_another_space),
	    cmocka_unit_test(keys_are_switched_on),
	    cmocka_unit_test(keys_belong_to_four_level_paging),
	    cmocka_unit_test(the_processor_is_bound_too),
	    cmocka_unit_test(code_needs_no_key),
	    cmocka_unit_test(bits_are_ignored_without_pke),
	    cmocka_unit_test(instructions_check_their_registers),
	    cmocka_unit_test(what_is_not_shown_is_not_there),
	    cmocka_unit_test(pkru_is_saved),
	    cmocka_unit_test(pkru_is_restored),
	    cmocka_unit_test(area_ends_with_the_segment),
	    cmocka_unit_test(writes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
