// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * program_soft.c - runs programs on a software processor. Its kernel is a stub for each exception: an OUT, at which the
 * host stops the processor and looks, and an IRETQ with the frame that the host has changed. All exceptions have a
 * stack of their own, so the program's may be anywhere.
 */
#include "tests/diff/program.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "hypervisor/soft/soft.h"
#include "hypervisor/state.h"

#define KERNEL    0xffffffff80000000ull
#define PDPT_A    0x2000u
#define PD_A      0x3000u
#define PT_CODE_A 0x4000u
#define PT_DATA   0x5000u
#define PT_STACK  0x6000u
#define PDPT_TOP  0x7000u
#define PD_TOP    0x8000u
#define GDT       0x9000u
#define IDT       0xa000u
#define TSS       0xb000u
#define IST_TOP   0xd000u
#define STUBS     0xe000u
#define ENTER     0xf000u
#define SETUP     0xf100u
#define SAVED_RAX 0xf800u
#define SAVED_RDX 0xf808u
#define AREA      0x10000u
#define PDPT_B    0x12000u
#define PD_B      0x13000u
#define PT_CODE_B 0x14000u
#define MEMORY    0x30000u
#define AUX       0x40000u

#define STUB_SIZE  64u
#define EXCEPTIONS 32u

#define SELECTOR_KERNEL_CODE 0x08u
#define SELECTOR_KERNEL_DATA 0x10u
#define SELECTOR_USER_DATA   0x1bu
#define SELECTOR_TSS         0x28u

#define PTE_KERNEL 3u
#define PTE_USER   7u
#define PTE_RO     5u
#define PTE_NX     (1ull << 63)
#define PTE_KEY(k) ((uint64_t)(k) << 59)
#define CR4_PKE    (1u << 22)


struct program_side {
	struct soft *soft;
	struct soft_vp *vp;
	uint8_t *ram;
	bool out; /* an exception's stub was reached */
	/* Dirty pages: as RAM was when a leg began, and which pages have changed in it and were not told. */
	bool tracked;
	uint8_t *before;
	uint64_t told[2], untold[2];
	struct vp_state state;
	struct leg_state leg;
	/* The watchdog. */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t run;
	clockid_t clock; /* of the thread that runs */
	double began;
	unsigned seconds; /* of the thread's own time, since others may have the host's processors */
	bool running, over;
};

/* --- the world outside ----------------------------------------------------------------------------- */

static uint64_t io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	return ~0ull;
}

static void io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
	struct program_side *side = context;

	side->out = true;
	soft_vp_kick(side->vp);
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
	return 12345;
}

static const struct soft_host host = {io_read, io_write,  mmio_read,      mmio_write, msr_read,  msr_write,
				      cpuid,   hypercall, take_interrupt, cr8_read,   cr8_write, tsc, NULL};

/* --- the kernel ------------------------------------------------------------------------------------ */

static void put64(struct program_side *side, uint32_t physical, uint64_t value)
{
	le64_put(side->ram + physical, value);
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void write_stubs(struct program_side *side)
{
	for (unsigned v = 0; v < EXCEPTIONS; v++) {
		uint8_t *at = side->ram + STUBS + v * STUB_SIZE;

		memcpy(at, "\xe6\x90", 2); /* out 0x90, al */
		at += 2;
		if (has_error_code(v)) {
			memcpy(at, "\x48\x83\xc4\x08", 4); /* add rsp, 8 */
			at += 4;
		}
		memcpy(at, "\x48\xcf", 2); /* iretq */
	}
}

static uint8_t *put_relative(struct program_side *side, uint8_t *at, uint32_t target)
{
	le32_put(at, target - (uint32_t)(at + 4 - side->ram));
	return at + 4;
}

static void write_enter(struct program_side *side)
{
	static const uint8_t begin[] = {0x31, 0xc0, 0x0f, 0x23, 0xf8, 0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xc8, 0x0f, 0x23, 0xd0, 0x0f,
	    0x23, 0xd8, 0xb8, 7, 2, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xae, 0x2d};
	uint8_t *at = side->ram + ENTER;

	/* DR7 and DR0-3 to 0; mov eax, 0x207; xor edx, edx; xrstor64 [AREA], which has no PKRU */
	memcpy(at, begin, sizeof(begin));
	at = put_relative(side, at + sizeof(begin), AREA);
	memcpy(at, "\x48\x8b\x05", 3);
	at = put_relative(side, at + 3, SAVED_RAX);
	memcpy(at, "\x48\x8b\x15", 3);
	at = put_relative(side, at + 3, SAVED_RDX);
	memcpy(at, "\x48\xcf", 2);
	memcpy(side->ram + SETUP, "\x31\xc9\xb8\x07\x02\x00\x00\x31\xd2\x0f\x01\xd1\xf4", 13); /* xsetbv of 0x207; hlt */
}

static void write_space(struct program_side *side, uint32_t pml4, uint32_t pdpt, uint32_t pd, uint32_t pt, bool other)
{
	put64(side, pml4, pdpt | PTE_USER);
	put64(side, pml4 + 8 * 511, PDPT_TOP | PTE_KERNEL);
	put64(side, pdpt, pd | PTE_USER);
	put64(side, pdpt + 8 * (STACK_HIGH >> 30), pd | PTE_USER);
	put64(side, pd + 8 * (CODE_LINEAR >> 21), pt | PTE_USER);
	put64(side, pd + 8 * (DATA_LINEAR >> 21), PT_DATA | PTE_USER);
	put64(side, pd + 8 * (STACK_LINEAR >> 21), PT_STACK | PTE_USER);
	for (unsigned i = 0; i < CODE_PAGES; i++) {
		unsigned frame = other && (i == 2 || i == 3) ? i + 4 : i;

		put64(side, pt + 8 * i, (PROGRAM_CODE + frame * PAGE) | PTE_USER);
	}
	for (unsigned i = 0; i < CODE_FRAMES; i++)
		put64(side, pt + 8 * (0x20 + i), (PROGRAM_CODE + i * PAGE) | PTE_USER);
	put64(side, pt + 8 * 0x30, AUX | PTE_USER | PTE_NX);
	put64(side, pt + 8 * 0x31, PT_CODE_A | PTE_KERNEL | PTE_NX);
	put64(side, pt + 8 * 0x32, PT_CODE_B | PTE_KERNEL | PTE_NX);
}

static void write_tables(struct program_side *side, bool keys)
{
	write_space(side, PROGRAM_PML4A, PDPT_A, PD_A, PT_CODE_A, false);
	write_space(side, PROGRAM_PML4B, PDPT_B, PD_B, PT_CODE_B, true);
	for (unsigned i = 0; i < DATA_PAGES; i++)
		put64(side, PT_DATA + 8 * i,
		    (MEMORY + i * PAGE) | (i == DATA_PAGES - 1 ? PTE_RO : PTE_USER) | PTE_NX | PTE_KEY(keys ? i % 3 : 0));
	for (unsigned i = 0; i < STACK_PAGES; i++)
		put64(side, PT_STACK + 8 * i, (MEMORY + DATA_SIZE + i * PAGE) | PTE_USER | PTE_NX | PTE_KEY(keys ? 3 : 0));
	put64(side, PDPT_TOP + 8 * 510, PD_TOP | PTE_KERNEL);
	put64(side, PD_TOP, 0x183); /* 2 MiB, global */
}

static void write_descriptors(struct program_side *side)
{
	uint64_t tss = KERNEL + TSS;

	put64(side, GDT + SELECTOR_KERNEL_CODE, 0x00af9b000000ffff);
	put64(side, GDT + SELECTOR_KERNEL_DATA, 0x00cf93000000ffff);
	put64(side, GDT + (SELECTOR_USER_DATA & ~7u), 0x00cff3000000ffff);
	put64(side, GDT + (SELECTOR_USER_CODE & ~7u), 0x00affb000000ffff);
	put64(side, GDT + (SELECTOR_USER_CODE32 & ~7u), 0x00cffb000000ffff);
	put64(side, GDT + SELECTOR_KERNEL_CODE32, 0x00cf9b000000ffff);
	put64(side, GDT + (SELECTOR_BASED & ~7u), 0x20cff3000000ffff);
	put64(side, GDT + (SELECTOR_LIMITED & ~7u), 0x2040f300000017ff);
	put64(side, GDT + (SELECTOR_READ_ONLY & ~7u), 0x00cff1000000ffff);
	put64(side, GDT + (SELECTOR_STACK16 & ~7u), 0x3000f3000000ffff);
	put64(side, GDT + (SELECTOR_DOWN & ~7u), 0x00c0f70000000000);
	put64(side, GDT + (SELECTOR_CODE_BASED & ~7u), 0x00cffb001000ffff);
	put64(side, GDT + SELECTOR_KERNEL16, 0x300093000000ffff);
	put64(side, GDT + SELECTOR_TSS, 0x0000890000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
	put64(side, GDT + SELECTOR_TSS + 8, tss >> 32);
	put64(side, TSS + 4, KERNEL + IST_TOP);
	put64(side, TSS + 0x24, KERNEL + IST_TOP); /* IST 1 */
	le16_put(side->ram + TSS + 102, 0x68);
	for (unsigned i = 0; i < EXCEPTIONS; i++) {
		uint64_t stub = KERNEL + STUBS + i * STUB_SIZE;
		unsigned dpl = i == 3 || i == 4 ? 3 : 0;

		put64(side, IDT + 16 * i, (stub & 0xffff) | SELECTOR_KERNEL_CODE << 16 | 0x8e01ull << 32 |
					      (uint64_t)dpl << 45 | (stub >> 16 & 0xffff) << 48);
		put64(side, IDT + 16 * i + 8, stub >> 32);
	}
}

static const struct vp_segment user_segment = {
    .limit = 0xffffffff, .selector = SELECTOR_USER_DATA, .attributes = 0xc0f3};

static int set_registers(struct program_side *side, uint32_t rip, bool pcid, bool keys)
{
	struct vp_registers r = {.rflags = 2};

	r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SELECTOR_KERNEL_CODE, .attributes = 0xa09b};
	r.ss = (struct vp_segment){.limit = 0xffffffff, .selector = SELECTOR_KERNEL_DATA, .attributes = 0xc093};
	r.ds = r.es = r.fs = r.gs = user_segment;
	r.ldtr.attributes = 0x82;
	r.tr = (struct vp_segment){.base = KERNEL + TSS, .limit = 0x67, .selector = SELECTOR_TSS, .attributes = 0x8b};
	r.gdt_base = KERNEL + GDT;
	r.gdt_limit = SELECTOR_KERNEL16 + 7;
	r.idt_base = KERNEL + IDT;
	r.idt_limit = 16 * EXCEPTIONS - 1;
	r.cr0 = 0x80050033;                           /* PG AM WP NE ET MP PE */
	r.cr3 = PROGRAM_PML4A | (pcid ? 1 : 0);
	r.cr4 = 0x000406a0 | (pcid ? 1u << 17 : 0) | (keys ? CR4_PKE : 0); /* OSXSAVE OSXMMEXCPT OSFXSR PGE PAE */
	r.efer = 0xd01;                             /* NXE LMA LME SCE */
	r.rip = KERNEL + rip;
	r.gpr[4] = KERNEL + IST_TOP - 40;
	return soft_vp_set_registers(side->vp, &r);
}

/* --- the watchdog ---------------------------------------------------------------------------------- */

static double seconds_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *watch(void *argument)
{
	struct program_side *side = argument;

	pthread_mutex_lock(&side->lock);
	while (!side->over) {
		uint64_t run = side->run;
		struct timespec until;

		if (!side->running) {
			pthread_cond_wait(&side->changed, &side->lock);
			continue;
		}
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += side->seconds;
		while (side->running && side->run == run && !side->over)
			if (pthread_cond_timedwait(&side->changed, &side->lock, &until) == ETIMEDOUT)
				break;
		if (side->running && side->run == run && !side->over &&
		    seconds_of(side->clock) - side->began >= side->seconds) {
			soft_vp_kick(side->vp);
			/* It is told once. */
			while (side->running && side->run == run)
				pthread_cond_wait(&side->changed, &side->lock);
		}
	}
	pthread_mutex_unlock(&side->lock);
	return NULL;
}

void program_side_patience(struct program_side *side, unsigned seconds)
{
	pthread_mutex_lock(&side->lock);
	side->seconds = seconds;
	pthread_mutex_unlock(&side->lock);
}

static void watchdog(struct program_side *side, bool running)
{
	pthread_mutex_lock(&side->lock);
	side->running = running;
	side->run += running;
	side->began = seconds_of(CLOCK_THREAD_CPUTIME_ID);
	pthread_cond_signal(&side->changed);
	pthread_mutex_unlock(&side->lock);
}

/* --- dirty pages ------------------------------------------------------------------------------------ */

#define PAGES (PROGRAM_RAM / PAGE)

_Static_assert(PAGES <= 128, "two words have a bit for each");

static void track(struct program_side *side, bool on)
{
	if (soft_track_dirty(side->soft, on, NULL) < 0)
		abort();
	side->tracked = on;
	memset(side->told, 0, sizeof(side->told));
	memset(side->untold, 0, sizeof(side->untold));
}

static void check_told(struct program_side *side)
{
	soft_fetch_dirty(side->soft, 0, PAGES, side->told);
	for (unsigned i = 0; i < PAGES; i++)
		if (memcmp(side->ram + i * PAGE, side->before + i * PAGE, PAGE) && !(side->told[i / 64] >> (i % 64) & 1))
			side->untold[i / 64] |= 1ull << (i % 64);
	memset(side->told, 0, sizeof(side->told));
}

/* --- opening ---------------------------------------------------------------------------------------- */

int program_side_open(struct program_side **out, const char *options, struct error *err)
{
	const struct soft_range range = {.gpa = 0, .size = PROGRAM_RAM, .offset = 0};
	struct program_side *side = aligned_alloc(64, align_up_u64(sizeof(*side), 64));
	int r;

	if (!side)
		return error_set(err, ENOMEM, "Out of memory.");
	memset(side, 0, sizeof(*side));
	pthread_mutex_init(&side->lock, NULL);
	pthread_cond_init(&side->changed, NULL);
	r = soft_create(&side->soft, &host, side, 1, options, err);
	if (r < 0)
		return r;
	side->vp = soft_vp(side->soft, 0);
	side->ram = mmap(NULL, PROGRAM_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	side->before = malloc(PROGRAM_RAM);
	if (side->ram == MAP_FAILED || !side->before)
		return error_set(err, ENOMEM, "Out of memory.");
	r = soft_set_memory(side->soft, side->ram, PROGRAM_RAM, &range, 1, err);
	if (r < 0)
		return r;
	write_tables(side, false);
	write_stubs(side);
	write_enter(side);
	if (set_registers(side, SETUP, false, false) < 0 || soft_vp_run(side->vp) != SOFT_STOP_HALT)
		return error_set(err, EIO, "The software processor does not run the kernel: %s.", soft_vp_error(side->vp));
	pthread_getcpuclockid(pthread_self(), &side->clock);
	side->seconds = 1;
	if (pthread_create(&side->thread, NULL, watch, side))
		return error_set(err, EAGAIN, "Cannot start a thread.");
	*out = side;
	return 0;
}

void program_side_close(struct program_side *side)
{
	pthread_mutex_lock(&side->lock);
	side->over = true;
	pthread_cond_signal(&side->changed);
	pthread_mutex_unlock(&side->lock);
	pthread_join(side->thread, NULL);
	soft_destroy(side->soft);
	munmap(side->ram, PROGRAM_RAM);
	free(side->before);
	free(side);
}

/* --- running ---------------------------------------------------------------------------------------- */

static unsigned code_selector(bool user, bool narrow)
{
	if (narrow)
		return user ? SELECTOR_USER_CODE32 : SELECTOR_KERNEL_CODE32;
	return user ? SELECTOR_USER_CODE : SELECTOR_KERNEL_CODE;
}

void program_side_load(struct program_side *side, const struct program *p)
{
	uint8_t *frame = side->ram + IST_TOP - 40;

	if (side->tracked != p->tracked)
		track(side, p->tracked);
	memset(side->ram, 0, PROGRAM_RAM);
	write_tables(side, p->keys);
	write_descriptors(side);
	write_stubs(side);
	write_enter(side);
	memcpy(side->ram + PROGRAM_CODE, p->code, sizeof(p->code));
	memcpy(side->ram + MEMORY, p->memory, MEMORY_SIZE);
	memcpy(side->ram + AUX, p->aux, PAGE);
	memcpy(side->ram + AREA, p->start.area, AREA_SIZE);
	put64(side, SAVED_RAX, p->start.gpr[0]);
	put64(side, SAVED_RDX, p->start.gpr[2]);
	soft_memory_written(side->soft, 0, PROGRAM_RAM);
	soft_vp_flush_tlb(side->vp, NULL);
	le64_put(frame, p->start.rip);
	le64_put(frame + 8, code_selector(!p->kernel, p->narrow));
	le64_put(frame + 16, p->start.rflags);
	le64_put(frame + 24, p->start.gpr[4]);
	le64_put(frame + 32, p->kernel ? SELECTOR_KERNEL_DATA : SELECTOR_USER_DATA);
	if (set_registers(side, ENTER, p->pcid, p->keys) < 0)
		abort();
	soft_vp_save(side->vp, &side->state);
	memcpy(side->state.registers.gpr, p->start.gpr, sizeof(p->start.gpr));
	side->state.registers.gpr[4] = KERNEL + IST_TOP - 40;
	if (soft_vp_set_registers(side->vp, &side->state.registers) < 0)
		abort();
}

static uint8_t *frame_of(struct program_side *side)
{
	uint64_t at = side->state.registers.gpr[4] - KERNEL;

	return side->leg.vector < EXCEPTIONS && at <= IST_TOP - 40 ? side->ram + at : side->ram + IST_TOP - 40;
}

static void note_leg(struct program_side *side)
{
	uint64_t at = side->state.registers.rip - (KERNEL + STUBS);
	const uint8_t *frame;

	memset(&side->leg, 0, sizeof(side->leg));
	if (!side->out || at >= STUB_SIZE * EXCEPTIONS) {
		side->leg = (struct leg_state){.vector = PROGRAM_HALT,
		    .rip = side->state.registers.rip,
		    .rflags = side->state.registers.rflags,
		    .rsp = side->state.registers.gpr[4],
		    .cs = side->state.registers.cs.selector};
		return;
	}
	side->leg.vector = (unsigned)(at / STUB_SIZE);
	frame = frame_of(side);
	if (has_error_code(side->leg.vector)) {
		side->leg.error = le64_get(frame);
		frame += 8;
	}
	side->leg.rip = le64_get(frame);
	side->leg.cs = le64_get(frame + 8);
	side->leg.rflags = le64_get(frame + 16);
	side->leg.rsp = le64_get(frame + 24);
}

enum leg_end program_side_run(struct program_side *side, struct error *err)
{
	enum soft_stop stop;

	side->out = false;
	if (side->tracked)
		memcpy(side->before, side->ram, PROGRAM_RAM);
	watchdog(side, true);
	stop = soft_vp_run(side->vp);
	watchdog(side, false);
	if (side->tracked)
		check_told(side);
	memset(&side->state, 0, sizeof(side->state));
	soft_vp_save(side->vp, &side->state);
	note_leg(side);
	if (stop == SOFT_STOP_ERROR || stop == SOFT_STOP_TRIPLE_FAULT) {
		error_set(err, EIO, "%s", soft_vp_error(side->vp));
		return LEG_ERROR;
	}
	return stop == SOFT_STOP_HALT || side->out ? LEG_EXCEPTION : LEG_TIME;
}

void program_side_state(struct program_side *side, struct leg_state *state)
{
	*state = side->leg;
}

static bool is_user(const struct vp_segment *s)
{
	return s->selector == SELECTOR_USER_DATA;
}

void program_side_next(struct program_side *side, const struct leg *leg)
{
	uint8_t *frame = frame_of(side);
	struct vp_registers r = side->state.registers;

	/* After a HLT there is no stub to go on in: what it would do is done from the beginning. */
	if (side->leg.vector == PROGRAM_HALT) {
		r.rip = KERNEL + STUBS + 2;
		r.gpr[4] = KERNEL + IST_TOP - 40;
		r.cs = (struct vp_segment){.limit = 0xffffffff, .selector = SELECTOR_KERNEL_CODE, .attributes = 0xa09b};
		r.rflags = 2;
		soft_vp_set_registers(side->vp, &r);
	} else if (has_error_code(side->leg.vector)) {
		frame += 8;
	}
	le64_put(frame, leg->rip);
	le64_put(frame + 8, code_selector(leg->user, leg->narrow));
	le64_put(frame + 16, (side->leg.rflags & ~leg->flags_clear) | leg->flags_set | 2);
	le64_put(frame + 24, leg->rsp);
	le64_put(frame + 32, leg->user ? SELECTOR_USER_DATA : SELECTOR_KERNEL_DATA);
	le32_put(side->ram + AUX, LEG_FUEL);
	soft_vp_get_registers(side->vp, &r);
	/* Registers that are loaded empty the TLB, so not each time. */
	if (!leg->all_registers && is_user(&r.ds) && is_user(&r.es) && is_user(&r.fs) && is_user(&r.gs))
		return;
	r.ds = r.es = r.fs = r.gs = user_segment;
	for (unsigned i = 0; i < 16; i++)
		if (i != 4 && leg->all_registers)
			r.gpr[i] = leg->gpr[i];
	soft_vp_set_registers(side->vp, &r);
}

/* --- comparing ---------------------------------------------------------------------------------------- */

struct text {
	char *at;
	size_t left;
	unsigned count;
};

static void differ(struct text *t, const char *what, uint64_t at, uint64_t a, uint64_t b)
{
	int n;

	if (a == b)
		return;
	if (t->count++ >= 24 || t->left < 160)
		return;
	n = snprintf(t->at, t->left, "  %-8s %5llx: %016llx, %016llx\n", what, (unsigned long long)at, (unsigned long long)a,
	    (unsigned long long)b);
	t->at += n;
	t->left -= (size_t)n;
}

static void compare_words(struct text *t, const char *what, const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;

	if (memcmp(x, y, size) == 0)
		return;
	for (size_t i = 0; i + 8 <= size; i += 8)
		differ(t, what, i, le64_get(x + i), le64_get(y + i));
}

unsigned program_sides_compare(struct program_side *a, struct program_side *b, char *text, size_t size)
{
	struct text t = {text, size, 0};
	const struct vp_registers *x = &a->state.registers, *y = &b->state.registers;

	text[0] = 0;
	differ(&t, "vector", 0, a->leg.vector, b->leg.vector);
	differ(&t, "error", 0, a->leg.error, b->leg.error);
	differ(&t, "rip", 0, a->leg.rip, b->leg.rip);
	differ(&t, "rflags", 0, a->leg.rflags, b->leg.rflags);
	differ(&t, "rsp", 0, a->leg.rsp, b->leg.rsp);
	differ(&t, "cs", 0, a->leg.cs, b->leg.cs);
	differ(&t, "cr2", 0, x->cr2, y->cr2);
	compare_words(&t, "gpr", x->gpr, y->gpr, sizeof(x->gpr));
	compare_words(&t, "other", (const uint8_t *)x + sizeof(x->gpr), (const uint8_t *)y + sizeof(y->gpr),
	    sizeof(*x) - sizeof(x->gpr));
	compare_words(&t, "dr", a->state.dr, b->state.dr, sizeof(a->state.dr));
	compare_words(&t, "xsave", a->state.xsave, b->state.xsave, a->state.xsave_size);
	compare_words(&t, "msrs", a->state.msrs, b->state.msrs, sizeof(a->state.msrs));
	compare_words(&t, "memory", a->ram, b->ram, PROGRAM_RAM);
	for (unsigned i = 0; i < 2; i++) {
		differ(&t, "not told", i, a->untold[i], 0);
		differ(&t, "not told", i, 0, b->untold[i]);
	}
	return t.count;
}
