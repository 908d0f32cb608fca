// SPDX-License-Identifier: GPL-2.0-or-later
/* test_exec_machine.c - a processor, page tables, descriptor tables, and handlers that halt. */
#include "tests/unit/test_exec_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/bytes.h"

#define PML4     0x1000u
#define PDPT     0x2000u
#define PD       0x3000u
#define PT       0x4000u
#define GDT      0x5000u
#define IDT64    0x6000u
#define IDT32    0x7000u
#define VECTORS  32u
#define MMIO_GPA 0x10000000u

/* --- what the processor asks of its host -------------------------------------------------------- */

static uint64_t io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	return ~0ull;
}

static void io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
}

static uint64_t mmio_read(void *context, unsigned vp, gpa_t gpa, unsigned size)
{
	struct machine *m = context;

	m->mmio_reads++;
	return m->mmio_value;
}

static void mmio_write(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value)
{
	struct machine *m = context;

	m->mmio_writes++;
	m->mmio_value = value;
}

static bool msr_read(void *context, unsigned vp, uint32_t msr, uint64_t *value)
{
	return false;
}

static bool msr_write(void *context, unsigned vp, uint32_t msr, uint64_t value)
{
	return false;
}

static void cpuid(void *context, unsigned vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
}

static bool hypercall(void *context, unsigned vp, struct soft_hypercall *registers)
{
	return false;
}

static int take_interrupt(void *context, unsigned vp)
{
	return -1;
}

static uint64_t cr8_read(void *context, unsigned vp)
{
	return 0;
}

static void cr8_write(void *context, unsigned vp, uint64_t value)
{
}

static uint64_t tsc(void *context)
{
	return 0;
}

static const struct soft_host host = {
    .io_read = io_read,
    .io_write = io_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .cpuid = cpuid,
    .hypercall = hypercall,
    .take_interrupt = take_interrupt,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .tsc = tsc,
};

/* --- memory ------------------------------------------------------------------------------------- */

static void map_page(struct machine *m, uint64_t linear, uint64_t gpa, bool writable)
{
	le64_put(m->ram + PT + (linear >> 12 & 511) * 8, gpa | (writable ? 3 : 1));
}

static void fill_page_tables(struct machine *m)
{
	le64_put(m->ram + PML4, PDPT | 3);
	le64_put(m->ram + PDPT, PD | 3);
	le64_put(m->ram + PD + (CODE >> 21 & 511) * 8, PT | 3);
	for (unsigned i = 0; i < CODE_SIZE; i += 4096)
		map_page(m, CODE + i, CODE_GPA + i, true);
	for (unsigned i = 0; i < DATA_SIZE; i += 4096)
		map_page(m, DATA + i, DATA_GPA + i, true);
	map_page(m, READ_ONLY, DATA_GPA, false);
	map_page(m, MMIO, MMIO_GPA, true);
	map_page(m, HANDLERS, HANDLERS_GPA, true);
	map_page(m, HANDLERS + GDT, GDT, true);
	map_page(m, HANDLERS + IDT64, IDT64, true);
}

static void fill_descriptors(struct machine *m)
{
	uint8_t *ivt = m->ram, *gdt = m->ram + GDT;

	le64_put(gdt + 0x08, 0x00209b0000000000); /* 64-bit code */
	le64_put(gdt + 0x10, 0x00cf93000000ffff); /* flat data */
	le64_put(gdt + 0x18, 0x00cf9b000000ffff); /* 32-bit code */
	le64_put(gdt + 0x20, 0x000f9b000000ffff); /* 16-bit code, 1 MiB */
	le64_put(gdt + 0x28, 0x000f93000000ffff); /* 16-bit stack, 1 MiB */
	for (unsigned v = 0; v < VECTORS; v++) {
		uint64_t at64 = HANDLERS + v * 16, at32 = HANDLERS_GPA + v * 16;
		uint8_t *gate64 = m->ram + IDT64 + v * 16, *gate32 = m->ram + IDT32 + v * 8;

		memset(m->ram + HANDLERS_GPA + v * 16, 0xf4, 16); /* HLT */
		le64_put(gate64,
			 (at64 & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | (at64 >> 16 & 0xffff) << 48);
		le64_put(gate64 + 8, at64 >> 32);
		le64_put(gate32, (at32 & 0xffff) | 0x18 << 16 | 0x8e00ull << 32 | (at32 >> 16) << 48);
		le16_put(ivt + v * 4, v * 16);
		le16_put(ivt + v * 4 + 2, HANDLERS_GPA >> 4);
	}
}

void machine_create(struct machine *m, unsigned vps)
{
	struct soft_range range = {.gpa = 0, .size = RAM_SIZE, .offset = 0};
	struct error err = {0};

	memset(m, 0, sizeof(*m));
	m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->ram, MAP_FAILED);
	m->data = m->ram + DATA_GPA;
	fill_page_tables(m);
	fill_descriptors(m);
	assert_int_equal(soft_create(&m->soft, &host, m, vps, getenv("SOFT_OPTIONS"), &err), 0);
	assert_int_equal(soft_set_memory(m->soft, m->ram, RAM_SIZE, &range, 1, &err), 0);
	m->vp = soft_vp(m->soft, 0);
}

void machine_destroy(struct machine *m)
{
	soft_destroy(m->soft);
	munmap(m->ram, RAM_SIZE);
}

/* --- modes -------------------------------------------------------------------------------------- */

static void registers_reset(struct machine *m)
{
	soft_vp_get_registers(m->vp, &m->r);
	memset(m->r.gpr, 0, sizeof(m->r.gpr));
	m->r.rflags = 2;
	m->r.gdt_base = GDT;
	m->r.gdt_limit = 0x2f;
	m->r.cr3 = 0;
	m->r.cr4 = 0;
	m->r.efer = 0;
}

static void segments_set(struct machine *m, struct vp_segment cs, struct vp_segment data)
{
	m->r.cs = cs;
	m->r.ds = m->r.es = m->r.ss = m->r.fs = m->r.gs = data;
}

static const struct vp_segment flat_data = {.limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};

void machine_long(struct machine *m)
{
	registers_reset(m);
	segments_set(m, (struct vp_segment){.selector = 0x08, .attributes = 0x209b}, flat_data);
	m->r.cr0 = 0x80010031; /* PG WP NE ET PE: like an operating system's */
	m->r.cr3 = PML4;
	m->r.cr4 = 0x620;  /* PAE OSFXSR OSXMMEXCPT */
	m->r.efer = 0x500; /* LMA LME */
	m->r.gdt_base = HANDLERS + GDT;
	m->r.idt_base = HANDLERS + IDT64;
	m->r.idt_limit = VECTORS * 16 - 1;
	m->r.rip = CODE;
	m->r.gpr[RSP] = STACK;
}

void machine_compatible(struct machine *m)
{
	machine_long(m);
	m->r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc09b};
}

void machine_protected(struct machine *m, bool code32)
{
	registers_reset(m);
	if (code32)
		segments_set(m,
			     (struct vp_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc09b},
			     flat_data);
	else
		segments_set(m, (struct vp_segment){.limit = 0xfffff, .selector = 0x20, .attributes = 0x009b},
			     (struct vp_segment){.limit = 0xfffff, .selector = 0x28, .attributes = 0x0093});
	m->r.cr0 = 0x31;
	m->r.idt_base = IDT32;
	m->r.idt_limit = VECTORS * 8 - 1;
	m->r.rip = CODE_GPA;
	m->r.gpr[RSP] = code32 ? DATA_GPA + 0x2000 : 0x9000;
}

void machine_real(struct machine *m)
{
	registers_reset(m);
	segments_set(m,
		     (struct vp_segment){
			 .base = CODE_GPA, .limit = 0xffff, .selector = CODE_GPA >> 4, .attributes = 0x9b},
		     (struct vp_segment){
			 .base = DATA_GPA, .limit = 0xffff, .selector = DATA_GPA >> 4, .attributes = 0x93});
	m->r.cr0 = 0x30;
	m->r.idt_base = 0;
	m->r.idt_limit = 0x3ff;
	m->r.rip = 0;
	m->r.gpr[RSP] = 0x2000;
}

/* --- running ------------------------------------------------------------------------------------ */

static uint64_t code_gpa(const struct machine *m)
{
	return m->r.cr0 >> 31 ? m->r.rip - CODE + CODE_GPA : m->r.cs.base + m->r.rip;
}

void machine_code(struct machine *m, const void *code, unsigned size)
{
	uint64_t gpa = code_gpa(m);

	memcpy(m->ram + gpa, code, size);
	m->ram[gpa + size] = 0xf4;
	soft_memory_written(m->soft, gpa, size + 1);
}

static bool has_error_code(int vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* Where the handler's HLT was, and what is on its stack. */
static void look_for_fault(struct machine *m)
{
	bool paging = m->r.cr0 >> 31, real = !(m->r.cr0 & 1);
	uint64_t at =
	    real ? m->r.cs.base + m->r.rip - HANDLERS_GPA : m->r.rip - (paging ? HANDLERS : HANDLERS_GPA);
	uint64_t sp = m->r.gpr[RSP];
	const uint8_t *frame;

	m->fault = -1;
	if (at - 1 >= VECTORS * 16)
		return;
	m->fault = (int)((at - 1) / 16);
	frame = paging ? m->data + (sp - DATA) : m->ram + m->r.ss.base + sp;
	if (paging) {
		m->error_code = has_error_code(m->fault) ? le64_get(frame) : 0;
		frame += has_error_code(m->fault) ? 8 : 0;
		m->fault_rip = le64_get(frame);
		m->fault_rsp = le64_get(frame + 24);
	} else if (real) {
		m->fault_rip = le16_get(frame);
	} else {
		m->error_code = has_error_code(m->fault) ? le32_get(frame) : 0;
		m->fault_rip = le32_get(frame + (has_error_code(m->fault) ? 4 : 0));
	}
}

void machine_run(struct machine *m)
{
	enum soft_stop stop;

	assert_int_equal(soft_vp_set_registers(m->vp, &m->r), 0);
	stop = soft_vp_run(m->vp);
	if (stop == SOFT_STOP_ERROR)
		fail_msg("the processor gave up: %s", soft_vp_error(m->vp));
	soft_vp_get_registers(m->vp, &m->r);
	if (stop != SOFT_STOP_HALT)
		fail_msg("stopped for reason %d at RIP 0x%llx", stop, (unsigned long long)m->r.rip);
	look_for_fault(m);
}
