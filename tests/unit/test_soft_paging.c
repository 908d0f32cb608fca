// SPDX-License-Identifier: GPL-2.0-or-later
/* The page tables of legacy modes, accesses at edges, MMIO. 64-bit paging has a bare guest (tests/bare/paging.c). */
#include "tests/double/soft_machine.h"

#include <string.h>

#define DIRECTORY 0x80000ull
#define TABLE     0x81000ull

/* EBX: address; ECX: 0 read, 1 write, 2 execute. */
GUEST_CODE(touch_linear, 32,
    "cmp $1, %ecx\n"
    "ja 2f\n"
    "je 1f\n"
    "mov (%ebx), %eax\n"
    "hlt\n"
    "1: mov %eax, (%ebx)\n"
    "hlt\n"
    "2: jmp *%ebx");

enum { READ, WRITE, EXECUTE };

static struct vp_registers run_access(struct soft_machine *m, uint32_t address, unsigned kind, uint64_t cr0,
    uint64_t cr4, uint64_t efer, bool user)
{
	struct vp_registers r;

	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, touch_linear);
	r = machine_registers(m, 0);
	r.cr0 |= 0x80000000 | cr0;
	r.cr3 = DIRECTORY;
	r.cr4 = cr4;
	r.efer = efer;
	r.gpr[3] = address;
	r.gpr[1] = kind;
	r.gpr[0] = 0xabcd;
	if (user) {
		r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER32, .attributes = 0xc0fb};
		r.ss = r.ds = (struct vp_segment){.limit = 0xffffffff, .selector = SEL_USER_DATA, .attributes = 0xc0f3};
		/* HLT is not for users: it ends in #GP. */
	}
	machine_set_registers(m, 0, &r);
	return machine_run(m, 0);
}

static void assert_page_fault(struct soft_machine *m, const struct vp_registers *r, uint32_t code, uint64_t address)
{
	assert_int_equal(machine_vector(r), 14);
	assert_int_equal(machine_read32(m, r->gpr[4]), code);
	assert_int_equal(r->cr2, address);
}

/* The first 4 MiB by a table, one to one; all but the handlers is the user's too. */
static void build_narrow(struct soft_machine *m)
{
	memset(m->ram + DIRECTORY, 0, 0x1000);
	machine_write32(m, DIRECTORY, TABLE | 7);
	for (uint32_t i = 0; i < 1024; i++)
		machine_write32(m, TABLE + 4 * i, i << 12 | (i == MACHINE_STOPS >> 12 ? 3 : 7));
}

static void narrow_tables(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	build_narrow(m);
	/* Linear 0x800000 by a table of one entry to 0x30000. */
	machine_write32(m, DIRECTORY + 8, 0x82000 | 7);
	machine_write32(m, 0x82000, 0x30000 | 5);
	machine_write32(m, 0x30000, 0x11223344);
	r = run_access(m, 0x800000, READ, 0, 0, 0, false);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[0], 0x11223344);
	/* A in both, D in none: it was read. */
	assert_int_equal(machine_read32(m, DIRECTORY + 8) & 0x60, 0x20);
	assert_int_equal(machine_read32(m, 0x82000) & 0x60, 0x20);
	/* Read only: a user faults, a supervisor faults with WP only. */
	r = run_access(m, 0x800000, WRITE, 0x10000, 0, 0, false);
	assert_page_fault(m, &r, 3, 0x800000);
	r = run_access(m, 0x800000, WRITE, 0, 0, 0, true);
	assert_page_fault(m, &r, 7, 0x800000);
	r = run_access(m, 0x800000, WRITE, 0, 0, 0, false);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(machine_read32(m, 0x30000), 0xabcd);
	assert_int_equal(machine_read32(m, 0x82000) & 0x60, 0x60);
	/* Not there at either level. */
	r = run_access(m, 0x801000, READ, 0, 0, 0, false);
	assert_page_fault(m, &r, 0, 0x801000);
	r = run_access(m, 0xc00004, WRITE, 0, 0, 0, true);
	assert_page_fault(m, &r, 6, 0xc00004);
	/* Supervisor page. */
	machine_write32(m, 0x82000, 0x30000 | 3);
	r = run_access(m, 0x800000, READ, 0, 0, 0, true);
	assert_page_fault(m, &r, 5, 0x800000);
	/* Without NX a fetch says nothing of itself. */
	r = run_access(m, 0x801000, EXECUTE, 0, 0, 0, false);
	assert_page_fault(m, &r, 0, 0x801000);
	/* With SMEP it does. */
	r = run_access(m, 0x801000, EXECUTE, 0, 0x100000, 0, true);
	assert_page_fault(m, &r, 0x14, 0x801000);
	soft_machine_destroy(m);
}

static void four_mebibyte_pages(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	build_narrow(m);
	machine_write32(m, DIRECTORY + 12, 0x400000 | 0x87);
	machine_write32(m, 0x456788, 0x5555aaaa);
	r = run_access(m, 0xc56788, READ, 0, 0x10, 0, true);
	assert_int_equal(machine_vector(&r), 13); /* HLT of a user */
	assert_int_equal(r.gpr[0], 0x5555aaaa);
	r = run_access(m, 0xc56788, WRITE, 0, 0x10, 0, false);
	assert_int_equal(machine_read32(m, 0x456788), 0xabcd);
	assert_int_equal(machine_read32(m, DIRECTORY + 12) & 0x60, 0x60);
	/* Bit 21 is reserved. */
	machine_write32(m, DIRECTORY + 12, 0x600000 | 0x87);
	r = run_access(m, 0xc56788, READ, 0, 0x10, 0, false);
	assert_page_fault(m, &r, 9, 0xc56788);
	soft_machine_destroy(m);
}

static void build_pae(struct soft_machine *m)
{
	memset(m->ram + DIRECTORY, 0, 0x2000);
	machine_write64(m, DIRECTORY, 0x81000 | 1);
	machine_write64(m, 0x81000, 0x87); /* the first 2 MiB */
	machine_write64(m, 0x81008, 0x82000 | 7);
	memset(m->ram + 0x82000, 0, 0x1000);
	machine_write64(m, 0x82000, 0x30000 | 7);
}

static void pae_tables(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	build_pae(m);
	machine_write32(m, 0x30ffc, 0x77);
	r = run_access(m, 0x200ffc, READ, 0, 0x20, 0, false);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[0], 0x77);
	/* NX is reserved until EFER.NXE. */
	machine_write64(m, 0x82000, 1ull << 63 | 0x30000 | 7);
	r = run_access(m, 0x200ffc, READ, 0, 0x20, 0, false);
	assert_page_fault(m, &r, 9, 0x200ffc);
	r = run_access(m, 0x200ffc, READ, 0, 0x20, 0x800, false);
	assert_int_equal(machine_vector(&r), -1);
	r = run_access(m, 0x200ff0, EXECUTE, 0, 0x20, 0x800, false);
	assert_page_fault(m, &r, 0x11, 0x200ff0);
	/* Reserved address bits. */
	machine_write64(m, 0x82000, 1ull << 50 | 0x30000 | 7);
	r = run_access(m, 0x200ffc, WRITE, 0, 0x20, 0x800, true);
	assert_page_fault(m, &r, 0xf, 0x200ffc);
	/* The other three gibibytes are not there. */
	r = run_access(m, 0x40000000, READ, 0, 0x20, 0, false);
	assert_page_fault(m, &r, 0, 0x40000000);
	soft_machine_destroy(m);
}

GUEST_CODE(bad_pdpte, 32, "mov %eax, %cr3\nhlt");

static void pdpte_is_checked_with_cr3(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	build_pae(m);
	machine_protected(m, 0);
	machine_code(m, MACHINE_CODE, bad_pdpte);
	r = machine_registers(m, 0);
	r.cr0 |= 0x80000000;
	r.cr3 = DIRECTORY;
	r.cr4 = 0x20;
	r.gpr[0] = 0x84000;
	machine_set_registers(m, 0, &r);
	machine_write64(m, 0x84000, 0x81000 | 3); /* bit 1 is reserved in a PDPTE */
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 13);
	assert_int_equal(r.cr3, DIRECTORY);
	soft_machine_destroy(m);
}

/* --- 64-bit: edges ---------------------------------------------------------------------------------------------------- */

GUEST_CODE(crossing, 64,
    "mov (%rbx), %rax\n"
    "movq %rcx, (%rdx)\n"
    "hlt");

static void accesses_across_pages(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, crossing);
	/* 0x500000 and 0x501000 lie apart. */
	*machine_pte(m, 0x500000) = 0x340000 | 7;
	*machine_pte(m, 0x501000) = 0x320000 | 7;
	machine_write64(m, 0x340ff8, 0x8877665544332211);
	machine_write64(m, 0x320000, 0x00ffeeddccbbaa99);
	r = machine_registers(m, 0);
	r.gpr[3] = 0x500ffb;
	r.gpr[2] = 0x500ffd;
	r.gpr[1] = 0x0102030405060708;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 0xbbaa998877665544);
	assert_int_equal(machine_read64(m, 0x340ff8), 0x0607085544332211);
	assert_int_equal(machine_read64(m, 0x320000), 0x00ffee0102030405);
	/* The second page is read only: nothing is written to the first. */
	*machine_pte(m, 0x501000) = 0x320000 | 5;
	r.gpr[1] = 0;
	r.rip = MACHINE_CODE;
	machine_set_registers(m, 0, &r);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), 14);
	assert_int_equal(r.cr2, 0x501000);
	assert_int_equal(machine_read64(m, 0x340ff8), 0x0607085544332211);
	soft_machine_destroy(m);
}

GUEST_CODE(device, 64,
    "mov $0xfed00010, %ebx\n"
    "movl $0x12345678, (%rbx)\n"
    "mov 1(%rbx), %ax\n"
    "mov $0x21, %cl\n"
    "movb %cl, 7(%rbx)\n"
    "hlt");

static void memory_mapped_io(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, device);
	r = machine_run(m, 0);
	assert_int_equal(m->mmio_writes, 2);
	assert_int_equal(m->mmio_reads, 1);
	assert_int_equal(r.gpr[0] & 0xffff, 0x3456);
	assert_int_equal(m->mmio_gpa, MACHINE_MMIO + 0x17);
	assert_int_equal(m->mmio_size, 1);
	assert_int_equal(m->mmio_value, 0x21);
	soft_machine_destroy(m);
}

GUEST_CODE(jump, 64, "jmp *%rbx");

static void fetch_from_device_memory_is_an_error(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, jump);
	r = machine_registers(m, 0);
	r.gpr[3] = MACHINE_MMIO;
	machine_set_registers(m, 0, &r);
	assert_int_equal(soft_vp_run(soft_vp(m->soft, 0)), SOFT_STOP_ERROR);
	assert_non_null(strstr(soft_vp_error(soft_vp(m->soft, 0)), "0xfed00000"));
	soft_machine_destroy(m);
}

/* Invalidation of one 4 KiB page of a 2 MiB page drops them all. */
GUEST_CODE(invlpg, 64,
    "mov 0x600000, %eax\n"
    "mov 0x601000, %ebx\n"
    "movl $0x800087, 0x102018\n" /* the page directory entry */
    "mov 0x600000, %ecx\n"
    "invlpg 0x701000\n"
    "mov 0x600000, %edx\n"
    "mov 0x601000, %esi\n"
    "hlt");

static void invlpg_of_a_large_page(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, invlpg);
	machine_write32(m, 0x600000, 1);
	machine_write32(m, 0x601000, 2);
	machine_write32(m, 0x800000, 11);
	machine_write32(m, 0x801000, 12);
	r = machine_run(m, 0);
	assert_int_equal(r.gpr[0], 1);
	assert_int_equal(r.gpr[3], 2);
	assert_int_equal(r.gpr[2], 11);
	assert_int_equal(r.gpr[6], 12);
	soft_machine_destroy(m);
}

/* Many address spaces: asids are used up and the TLB starts over. */
GUEST_CODE(many_spaces, 64,
    "xor %edx, %edx\n"
    "mov $10000, %ecx\n"
    "1: mov %cr3, %rax\n"
    "mov %rax, %cr3\n"
    "mov 0x600000, %ebx\n"
    "add %rbx, %rdx\n"
    "incl 0x600000\n"
    "dec %ecx\n"
    "jnz 1b\n"
    "hlt");

static void asids_run_out(void **state)
{
	struct soft_machine *m = soft_machine_create(1);
	struct vp_registers r;

	(void)state;
	machine_long(m, 0);
	machine_code(m, MACHINE_CODE, many_spaces);
	r = machine_run(m, 0);
	assert_int_equal(machine_vector(&r), -1);
	assert_int_equal(r.gpr[2], 10000u * 9999u / 2);
	soft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(narrow_tables),
	    cmocka_unit_test(four_mebibyte_pages),
	    cmocka_unit_test(pae_tables),
	    cmocka_unit_test(pdpte_is_checked_with_cr3),
	    cmocka_unit_test(accesses_across_pages),
	    cmocka_unit_test(memory_mapped_io),
	    cmocka_unit_test(fetch_from_device_memory_is_an_error),
	    cmocka_unit_test(invlpg_of_a_large_page),
	    cmocka_unit_test(asids_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
