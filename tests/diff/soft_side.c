// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * soft_side.c - runs a scenario on the software processor, through soft.h alone: a kernel of a few
 * instructions takes the state from memory, returns to user mode, and on any exception puts the state
 * back into memory and halts. Where it halted says which exception it was.
 */
#include "tests/diff/diff.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hypervisor/soft/soft.h"

/* Guest physical memory, 1 MiB. The kernel's half of the address space maps it at KERNEL. */
#define RAM_SIZE  0x100000u
#define KERNEL    0xffffffff80000000ull
#define PML4      0x1000u
#define PDPT      0x2000u /* user */
#define PD        0x3000u
#define PT_CODE   0x4000u
#define PT_DATA   0x5000u
#define PT_STACK  0x6000u
#define PDPT_TOP  0x7000u
#define PD_TOP    0x8000u
#define GDT       0x9000u
#define IDT       0xa000u
#define TSS       0xb000u
#define STACK_TOP 0xd000u
#define STUBS     0xe000u /* one of 64 bytes for each exception */
#define ENTER     0xf000u
#define SETUP     0xf100u
#define ASK       0xf200u
#define SAVED_RAX 0xf800u
#define SAVED_RDX 0xf808u
#define AREA      0x10000u
#define CODE      0x20000u
#define MEMORY    0x30000u

#define STUB_SIZE  64u
#define EXCEPTIONS 32u

#define SELECTOR_KERNEL_CODE 0x08u
#define SELECTOR_KERNEL_DATA 0x10u
#define SELECTOR_USER_DATA   0x1bu
#define SELECTOR_USER_CODE   0x23u
#define SELECTOR_TSS         0x28u
#define SELECTOR_USER_CODE32 0x3bu

static struct {
	struct soft *soft;
	struct soft_vp *vp;
	uint8_t *ram;
	struct vp_registers kernel; /* with which every run begins */
} side;

/* --- the world outside: empty ------------------------------------------------------------------- */

static uint64_t io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	return ~0ull;
}

static void io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
}

static uint64_t mmio_read(void *context, unsigned vp, gpa_t gpa, unsigned size)
{
	return ~0ull;
}

static void mmio_write(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value)
{
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

static const struct soft_host host = {io_read, io_write,  mmio_read,      mmio_write, msr_read,  msr_write,
				      cpuid,   hypercall, take_interrupt, cr8_read,   cr8_write, tsc, NULL};

/* --- the kernel --------------------------------------------------------------------------------- */

struct writer {
	uint8_t *at;
	uint64_t linear; /* of `at` */
};

static void emit(struct writer *w, const void *bytes, unsigned count)
{
	memcpy(w->at, bytes, count);
	w->at += count;
	w->linear += count;
}

#define EMIT(w, ...)                                                                                         \
	do {                                                                                                 \
		static const uint8_t emit_bytes[] = {__VA_ARGS__};                                           \
		emit(w, emit_bytes, sizeof(emit_bytes));                                                     \
	} while (0)

/* The last four bytes of an instruction with a RIP-relative operand at guest physical `target`. */
static void emit_relative(struct writer *w, uint32_t target)
{
	uint32_t distance = (uint32_t)(KERNEL + target - (w->linear + 4));

	emit(w, &distance, 4);
}

static struct writer writer_at(uint32_t physical)
{
	return (struct writer){.at = side.ram + physical, .linear = KERNEL + physical};
}

static void write_stub(unsigned vector)
{
	struct writer w = writer_at(STUBS + vector * STUB_SIZE);

	EMIT(&w, 0x48, 0x89, 0x05); /* mov [SAVED_RAX], rax */
	emit_relative(&w, SAVED_RAX);
	EMIT(&w, 0x48, 0x89, 0x15); /* mov [SAVED_RDX], rdx */
	emit_relative(&w, SAVED_RDX);
	EMIT(&w, 0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xae,
	     0x25); /* mov eax, 7; xor edx, edx; xsave64 [AREA] */
	emit_relative(&w, AREA);
	EMIT(&w, 0xf4); /* hlt */
}

static void write_enter(void)
{
	struct writer w = writer_at(ENTER);

	EMIT(&w, 0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xae,
	     0x2d); /* mov eax, 7; xor edx, edx; xrstor64 [AREA] */
	emit_relative(&w, AREA);
	EMIT(&w, 0x48, 0x8b, 0x05); /* mov rax, [SAVED_RAX] */
	emit_relative(&w, SAVED_RAX);
	EMIT(&w, 0x48, 0x8b, 0x15); /* mov rdx, [SAVED_RDX] */
	emit_relative(&w, SAVED_RDX);
	EMIT(&w, 0x48, 0xcf); /* iretq */
	w = writer_at(SETUP);
	EMIT(&w, 0x31, 0xc9, 0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x01, 0xd1, 0xf4); /* xsetbv of 7; hlt */
	w = writer_at(ASK);
	EMIT(&w, 0x0f, 0xa2, 0xf4); /* cpuid; hlt */
}

static void put64(uint32_t physical, uint64_t value)
{
	le64_put(side.ram + physical, value);
}

#define PTE_USER     7u /* present, writable, user */
#define PTE_READONLY 5u
#define PTE_KERNEL   3u
#define PTE_LARGE    0x83u
#define PTE_NX       (1ull << 63)

static void write_tables(void)
{
	put64(PML4, PDPT | PTE_USER);
	put64(PDPT, PD | PTE_USER);
	put64(PD + 8 * (CODE_LINEAR >> 21), PT_CODE | PTE_USER);
	put64(PD + 8 * (DATA_LINEAR >> 21), PT_DATA | PTE_USER);
	put64(PD + 8 * (STACK_LINEAR >> 21), PT_STACK | PTE_USER);
	put64(PT_CODE, CODE | PTE_READONLY);
	for (unsigned i = 0; i < DATA_PAGES; i++)
		put64(PT_DATA + 8 * i,
		      (MEMORY + i * PAGE) | (i == DATA_PAGES - 1 ? PTE_READONLY : PTE_USER) | PTE_NX);
	for (unsigned i = 0; i < STACK_PAGES; i++)
		put64(PT_STACK + 8 * i, (MEMORY + DATA_SIZE + i * PAGE) | PTE_USER | PTE_NX);
	put64(PML4 + 8 * 511, PDPT_TOP | PTE_KERNEL);
	put64(PDPT_TOP + 8 * 510, PD_TOP | PTE_KERNEL);
	put64(PD_TOP, PTE_LARGE);
}

static void write_descriptors(void)
{
	uint64_t tss = KERNEL + TSS;

	put64(GDT + SELECTOR_KERNEL_CODE, 0x00af9b000000ffff);
	put64(GDT + SELECTOR_KERNEL_DATA, 0x00cf93000000ffff);
	put64(GDT + (SELECTOR_USER_DATA & ~7u), 0x00cff3000000ffff);
	put64(GDT + (SELECTOR_USER_CODE & ~7u), 0x00affb000000ffff);
	put64(GDT + (SELECTOR_USER_CODE32 & ~7u), 0x00cffb000000ffff);
	put64(GDT + SELECTOR_TSS, 0x0000890000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
	put64(GDT + SELECTOR_TSS + 8, tss >> 32);
	le64_put(side.ram + TSS + 4, KERNEL + STACK_TOP);
	le16_put(side.ram + TSS + 102, 0x68); /* no I/O bitmap */
	for (unsigned i = 0; i < EXCEPTIONS; i++) {
		uint64_t stub = KERNEL + STUBS + i * STUB_SIZE;
		unsigned dpl = i == 3 || i == 4 ? 3 : 0;

		put64(IDT + 16 * i, (stub & 0xffff) | SELECTOR_KERNEL_CODE << 16 | 0x8e00ull << 32 |
					(uint64_t)dpl << 45 | (stub >> 16 & 0xffff) << 48);
		put64(IDT + 16 * i + 8, stub >> 32);
	}
}

static void set_kernel_registers(void)
{
	const struct vp_segment code = {
	    .limit = 0xffffffff, .selector = SELECTOR_KERNEL_CODE, .attributes = 0xa09b};
	const struct vp_segment data = {
	    .limit = 0xffffffff, .selector = SELECTOR_KERNEL_DATA, .attributes = 0xc093};
	const struct vp_segment user = {
	    .limit = 0xffffffff, .selector = SELECTOR_USER_DATA, .attributes = 0xc0f3};
	struct vp_registers *r = &side.kernel;

	memset(r, 0, sizeof(*r));
	r->rflags = 2;
	r->cs = code;
	r->ss = data;
	r->ds = r->es = r->fs = r->gs = user;
	r->ldtr.attributes = 0x82;
	r->tr = (struct vp_segment){
	    .base = KERNEL + TSS, .limit = 0x67, .selector = SELECTOR_TSS, .attributes = 0x8b};
	r->gdt_base = KERNEL + GDT;
	r->gdt_limit = (SELECTOR_USER_CODE32 & ~7u) + 7;
	r->idt_base = KERNEL + IDT;
	r->idt_limit = 16 * EXCEPTIONS - 1;
	r->cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	r->cr3 = PML4;
	r->cr4 = 0x000406a0; /* OSXSAVE OSXMMEXCPT OSFXSR PGE PAE */
	r->efer = 0xd01;     /* NXE LMA LME SCE */
	r->gpr[4] = KERNEL + STACK_TOP;
}

/* --- running ------------------------------------------------------------------------------------ */

/* Runs the kernel from `physical` until it halts. */
static int run_from(uint32_t physical, struct error *err)
{
	enum soft_stop stop;

	side.kernel.rip = KERNEL + physical;
	if (soft_vp_set_registers(side.vp, &side.kernel) < 0)
		return error_set(err, EINVAL, "The software processor refuses the kernel's registers.");
	stop = soft_vp_run(side.vp);
	if (stop == SOFT_STOP_HALT)
		return 0;
	return error_set(err, EIO, "The software processor stopped: %s.",
			 stop == SOFT_STOP_ERROR          ? soft_vp_error(side.vp)
			 : stop == SOFT_STOP_TRIPLE_FAULT ? "triple fault"
							  : "kick");
}

bool soft_side_has(uint32_t leaf, unsigned reg, unsigned bit)
{
	static const uint8_t order[] = {0, 3, 1, 2}; /* EAX EBX ECX EDX among the general registers */
	struct vp_registers r;

	side.kernel.gpr[0] = leaf;
	side.kernel.gpr[1] = 0;
	if (run_from(ASK, NULL) < 0)
		return false;
	soft_vp_get_registers(side.vp, &r);
	return r.gpr[order[reg]] >> bit & 1;
}

int soft_side_open(const char *options, struct error *err)
{
	const struct soft_range range = {.gpa = 0, .size = RAM_SIZE, .offset = 0};
	int r = soft_create(&side.soft, &host, NULL, 1, options, err);

	if (r < 0)
		return r;
	side.vp = soft_vp(side.soft, 0);
	side.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (side.ram == MAP_FAILED)
		return error_set(err, errno, "Out of memory.");
	r = soft_set_memory(side.soft, side.ram, RAM_SIZE, &range, 1, err);
	if (r < 0)
		return r;
	write_tables();
	write_descriptors();
	for (unsigned i = 0; i < EXCEPTIONS; i++)
		write_stub(i);
	write_enter();
	set_kernel_registers();
	return run_from(SETUP, err);
}

void soft_side_close(void)
{
	if (side.soft)
		soft_destroy(side.soft);
	if (side.ram)
		munmap(side.ram, RAM_SIZE);
	memset(&side, 0, sizeof(side));
}

static void load_scenario(const struct scenario *s)
{
	uint64_t *frame = (uint64_t *)(side.ram + STACK_TOP - 40);

	memcpy(side.ram + CODE, s->code, PAGE);
	soft_memory_written(side.soft, CODE, PAGE);
	memcpy(side.ram + MEMORY, s->memory, MEMORY_SIZE);
	memcpy(side.ram + AREA, s->start.area, AREA_SIZE);
	put64(SAVED_RAX, s->start.gpr[0]);
	put64(SAVED_RDX, s->start.gpr[2]);
	memcpy(side.kernel.gpr, s->start.gpr, sizeof(side.kernel.gpr));
	side.kernel.gpr[4] = KERNEL + STACK_TOP - 40;
	frame[0] = s->start.rip;
	frame[1] = s->narrow ? SELECTOR_USER_CODE32 : SELECTOR_USER_CODE;
	frame[2] = s->start.rflags;
	frame[3] = s->start.gpr[4];
	frame[4] = SELECTOR_USER_DATA;
}

bool soft_side_run(const struct scenario *s, struct outcome *out, struct error *err)
{
	struct vp_registers r;
	const uint64_t *frame;

	load_scenario(s);
	if (run_from(ENTER, err) < 0)
		return false;
	soft_vp_get_registers(side.vp, &r);
	out->vector = (unsigned)((r.rip - (KERNEL + STUBS)) / STUB_SIZE);
	frame = (const uint64_t *)(side.ram + (r.gpr[4] - KERNEL));
	out->error = 0;
	/* Five words, and an error code below them for some. */
	if (r.gpr[4] == KERNEL + STACK_TOP - 48)
		out->error = (uint32_t)*frame++;
	memcpy(out->cpu.gpr, r.gpr, sizeof(r.gpr));
	memcpy(&out->cpu.gpr[0], side.ram + SAVED_RAX, 8);
	memcpy(&out->cpu.gpr[2], side.ram + SAVED_RDX, 8);
	out->cpu.rip = frame[0];
	out->cpu.rflags = frame[2];
	out->cpu.gpr[4] = frame[3];
	memcpy(out->cpu.area, side.ram + AREA, AREA_SIZE);
	out->cr2 = r.cr2;
	out->memory = side.ram + MEMORY;
	return true;
}
