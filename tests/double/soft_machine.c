// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/double/soft_machine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"

/* --- the host --------------------------------------------------------------------------------------------------- */

static uint64_t io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	(void)context, (void)vp;
	return port * 0x01010101u & (size == 4 ? ~0u : (1u << 8 * size) - 1);
}

static void io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
	struct soft_machine *m = context;
	unsigned i = atomic_fetch_add(&m->out_count, 1);

	(void)size;
	if (i < ARRAY_SIZE(m->out)) {
		m->out[i] = (uint32_t)value;
		m->out_port[i] = port;
	}
	if (m->on_out)
		m->on_out(m, vp, port, (uint32_t)value);
}

static uint64_t mmio_read(void *context, unsigned vp, gpa_t gpa, unsigned size)
{
	struct soft_machine *m = context;

	(void)vp;
	m->mmio_reads++;
	m->mmio_gpa = gpa;
	m->mmio_size = size;
	return m->mmio_value >> 8 * (gpa & 7);
}

static void mmio_write(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value)
{
	struct soft_machine *m = context;

	m->mmio_writes++;
	m->mmio_gpa = gpa;
	m->mmio_size = size;
	m->mmio_value = value;
	if (m->on_mmio_write)
		m->on_mmio_write(m, vp, value);
}

static bool msr_read(void *context, unsigned vp, uint32_t msr, uint64_t *value)
{
	(void)context, (void)vp;
	*value = 0x1122334455667788;
	return msr == 0x40000000;
}

static bool msr_write(void *context, unsigned vp, uint32_t msr, uint64_t value)
{
	(void)context, (void)vp, (void)value;
	return msr == 0x40000000;
}

static bool hypercall(void *context, unsigned vp, struct soft_hypercall *h)
{
	struct soft_machine *m = context;

	(void)vp;
	if (h->rcx == 0xdead)
		return false;
	m->hypercall_input = h->rcx;
	h->rax = h->rdx + h->r8;
	h->xmm[5][0] = 0x5a;
	return true;
}

static int take_interrupt(void *context, unsigned vp)
{
	struct soft_machine *m = context;

	(void)vp;
	return atomic_exchange(&m->interrupt, -1);
}

static uint64_t cr8_read(void *context, unsigned vp)
{
	(void)vp;
	return atomic_load(&((struct soft_machine *)context)->cr8);
}

static void cr8_write(void *context, unsigned vp, uint64_t value)
{
	(void)vp;
	atomic_store(&((struct soft_machine *)context)->cr8, value);
}

static uint64_t tsc(void *context)
{
	return atomic_fetch_add(&((struct soft_machine *)context)->tsc, 1);
}

static const struct soft_host host = {
    .io_read = io_read,
    .io_write = io_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .hypercall = hypercall,
    .take_interrupt = take_interrupt,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .tsc = tsc,
};

struct soft_machine *soft_machine_create(unsigned vp_count)
{
	struct soft_machine *m = calloc(1, sizeof(*m));
	struct soft_range range = {.gpa = 0, .size = MACHINE_RAM, .offset = 0};

	assert_non_null(m);
	atomic_store(&m->interrupt, -1);
	m->ram = mmap(NULL, MACHINE_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(m->ram != MAP_FAILED);
	assert_int_equal(soft_create(&m->soft, &host, m, vp_count, getenv("SOFT_OPTIONS"), NULL), 0);
	assert_int_equal(soft_set_memory(m->soft, m->ram, MACHINE_RAM, &range, 1, NULL), 0);
	return m;
}

void soft_machine_destroy(struct soft_machine *m)
{
	soft_destroy(m->soft);
	munmap(m->ram, MACHINE_RAM);
	free(m);
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

void machine_put(struct soft_machine *m, uint64_t gpa, const uint8_t *begin, const uint8_t *end)
{
	memcpy(m->ram + gpa, begin, (size_t)(end - begin));
	soft_memory_written(m->soft, gpa, (uint64_t)(end - begin));
}

uint32_t machine_read32(const struct soft_machine *m, uint64_t gpa)
{
	return le32_get(m->ram + gpa);
}

uint64_t machine_read64(const struct soft_machine *m, uint64_t gpa)
{
	return le64_get(m->ram + gpa);
}

void machine_write32(struct soft_machine *m, uint64_t gpa, uint32_t value)
{
	le32_put(m->ram + gpa, value);
}

void machine_write64(struct soft_machine *m, uint64_t gpa, uint64_t value)
{
	le64_put(m->ram + gpa, value);
}

void machine_descriptor(struct soft_machine *m, uint16_t selector, uint32_t base, uint32_t limit, uint8_t access,
    uint8_t flags)
{
	uint64_t d = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	    (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;

	machine_write64(m, MACHINE_GDT + (selector & 0xfff8), d);
}

void machine_gate32(struct soft_machine *m, unsigned vector, uint8_t access, uint16_t selector, uint32_t offset)
{
	machine_write64(m, MACHINE_IDT + vector * 8,
	    (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48);
}

void machine_gate64(struct soft_machine *m, unsigned vector, uint8_t access, uint16_t selector, uint64_t offset,
    unsigned ist)
{
	machine_write64(m, MACHINE_IDT + vector * 16,
	    (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 | (uint64_t)access << 40 |
	        (offset >> 16 & 0xffff) << 48);
	machine_write64(m, MACHINE_IDT + vector * 16 + 8, offset >> 32);
}

static void build_gdt(struct soft_machine *m, bool wide)
{
	machine_descriptor(m, SEL_CODE32, 0, 0xfffff, 0x9b, 0xc);
	machine_descriptor(m, SEL_DATA, 0, 0xfffff, 0x93, 0xc);
	machine_descriptor(m, SEL_CODE64, 0, 0xfffff, 0x9b, 0xa);
	machine_descriptor(m, SEL_CODE16, 0, 0xffff, 0x9b, 0);
	machine_descriptor(m, SEL_DATA16, 0, 0xffff, 0x93, 0);
	machine_descriptor(m, SEL_USER32, 0, 0xfffff, 0xfb, 0xc);
	machine_descriptor(m, SEL_USER_DATA, 0, 0xfffff, 0xf3, 0xc);
	machine_descriptor(m, SEL_USER64, 0, 0xfffff, 0xfb, 0xa);
	machine_descriptor(m, SEL_TSS, MACHINE_TSS, 0xff, 0x8b, 0);
	if (wide)
		machine_write64(m, MACHINE_GDT + SEL_TSS + 8, 0);
	else
		machine_descriptor(m, SEL_TSS2, MACHINE_TSS2, 0x67, 0x89, 0);
}

static void build_pages(struct soft_machine *m)
{
	uint64_t pdpt = MACHINE_TABLES + 0x1000, pd = MACHINE_TABLES + 0x2000;

	machine_write64(m, MACHINE_TABLES, pdpt | 7);
	for (unsigned i = 0; i < 4; i++)
		machine_write64(m, pdpt + 8 * i, (pd + 0x1000 * i) | 7);
	for (uint64_t i = 0; i < 2048; i++)
		machine_write64(m, pd + 8 * i, i << 21 | 0x87);
}

/* Split tables lie behind the six of build_pages(), one for each 2 MiB of the first 64 MiB. */
uint64_t *machine_pte(struct soft_machine *m, uint64_t linear)
{
	uint64_t region = linear >> 21, table = MACHINE_TABLES + 0x6000 + region * 0x1000;
	uint64_t pde = MACHINE_TABLES + 0x2000 + region * 8;

	assert_true(region < 32);
	if (machine_read64(m, pde) & 0x80) {
		for (uint64_t i = 0; i < 512; i++)
			machine_write64(m, table + 8 * i, region << 21 | i << 12 | 7);
		machine_write64(m, pde, table | 7);
	}
	return (uint64_t *)(void *)(m->ram + table + (linear >> 12 & 511) * 8);
}

/* --- registers ------------------------------------------------------------------------------------------------------ */

struct vp_registers machine_registers(struct soft_machine *m, unsigned vp)
{
	struct vp_registers r;

	soft_vp_get_registers(soft_vp(m->soft, vp), &r);
	return r;
}

void machine_set_registers(struct soft_machine *m, unsigned vp, const struct vp_registers *r)
{
	assert_int_equal(soft_vp_set_registers(soft_vp(m->soft, vp), r), 0);
}

static void put_stops(struct soft_machine *m)
{
	for (unsigned i = 0; i < 256; i++)
		m->ram[MACHINE_STOPS + 16 * i] = 0xf4;
	soft_memory_written(m->soft, MACHINE_STOPS, 4096);
}

void machine_real(struct soft_machine *m, unsigned vp)
{
	struct vp_registers r;

	soft_vp_init(soft_vp(m->soft, vp));
	put_stops(m);
	for (unsigned i = 0; i < 256; i++)
		machine_write32(m, 4 * i, (uint32_t)(MACHINE_STOPS + 16 * i));
	r = machine_registers(m, vp);
	r.cs = (struct vp_segment){.base = MACHINE_CODE, .limit = 0xffff, .selector = MACHINE_CODE >> 4, .attributes = 0x93};
	r.rip = 0;
	r.gpr[4] = MACHINE_STACK;
	machine_set_registers(m, vp, &r);
}

static struct vp_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vp_segment){.limit = 0xffffffff, .selector = selector, .attributes = attributes};
}

static void common(struct soft_machine *m, unsigned vp, struct vp_registers *r)
{
	soft_vp_init(soft_vp(m->soft, vp));
	put_stops(m);
	*r = machine_registers(m, vp);
	r->ds = r->es = r->ss = r->fs = r->gs = flat(SEL_DATA, 0xc093);
	r->tr = (struct vp_segment){.base = MACHINE_TSS, .limit = 0xff, .selector = SEL_TSS, .attributes = 0x8b};
	r->ldtr = (struct vp_segment){0};
	r->gdt_base = MACHINE_GDT;
	r->gdt_limit = SEL_LAST - 1;
	r->idt_base = MACHINE_IDT;
	r->rip = MACHINE_CODE;
	r->gpr[4] = MACHINE_STACK;
	r->rflags = 2;
}

void machine_protected(struct soft_machine *m, unsigned vp)
{
	struct vp_registers r;

	common(m, vp, &r);
	build_gdt(m, false);
	for (unsigned i = 0; i < 256; i++)
		machine_gate32(m, i, 0x8e, SEL_CODE32, (uint32_t)(MACHINE_STOPS + 16 * i));
	memset(m->ram + MACHINE_TSS, 0, 0x200);
	machine_write32(m, MACHINE_TSS + 4, (uint32_t)MACHINE_STACK - 0x400);
	machine_write32(m, MACHINE_TSS + 8, SEL_DATA);
	machine_write32(m, MACHINE_TSS + 100, 0xffff0000); /* no I/O bitmap */
	r.cs = flat(SEL_CODE32, 0xc09b);
	r.cr0 = 0x31;
	r.idt_limit = 256 * 8 - 1;
	machine_set_registers(m, vp, &r);
}

void machine_long(struct soft_machine *m, unsigned vp)
{
	struct vp_registers r;

	common(m, vp, &r);
	build_gdt(m, true);
	build_pages(m);
	for (unsigned i = 0; i < 256; i++)
		machine_gate64(m, i, 0x8e, SEL_CODE64, MACHINE_STOPS + 16 * i, 0);
	memset(m->ram + MACHINE_TSS, 0, 0x100);
	machine_write64(m, MACHINE_TSS + 4, MACHINE_STACK - 0x400);
	machine_write32(m, MACHINE_TSS + 100, 0xffff0000);
	r.cs = flat(SEL_CODE64, 0xa09b);
	r.cr0 = 0x80010031;
	r.cr3 = MACHINE_TABLES;
	r.cr4 = 0x620;
	r.efer = 0xd01;
	r.idt_limit = 256 * 16 - 1;
	machine_set_registers(m, vp, &r);
}

struct vp_registers machine_run(struct soft_machine *m, unsigned vp)
{
	enum soft_stop stop = soft_vp_run(soft_vp(m->soft, vp));

	if (stop != SOFT_STOP_HALT) {
		struct vp_registers r = machine_registers(m, vp);

		fail_msg("stopped by %d (%s) at 0x%llx", (int)stop, soft_vp_error(soft_vp(m->soft, vp)),
		    (unsigned long long)r.rip);
	}
	return machine_registers(m, vp);
}

int machine_vector(const struct vp_registers *r)
{
	uint64_t linear = r->cs.base + r->rip - MACHINE_STOPS - 1;

	return linear < 4096 && !(linear & 15) ? (int)(linear / 16) : -1;
}
