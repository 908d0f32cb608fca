// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_soft.c - a hostile guest on the software processor: the input is its registers, its memory and
 * so its code, page tables, descriptor tables and stacks, in every mode, at the highest privilege. It
 * may do what it likes to itself; the host must survive, and every run must end when it is told to.
 * 64-bit code runs a second time translated: what comes of it must be the same.
 *
 * Input: mode and options (4 bytes), CR3 and RIP (4), 16 general registers of 4 bytes, then memory,
 * repeated until it fills the RAM.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bytes.h"
#include "hypervisor/soft/soft.h"
#include "hypervisor/state.h"

#define LOW_RAM  0x40000u /* at 0 */
#define HIGH_RAM 0x10000u /* at HIGH_GPA; MMIO between */
#define HIGH_GPA 0x100000u
#define RAM      (LOW_RAM + HIGH_RAM)
#define HEAD     72u

#define PKRU_OFFSET 2688u /* in the XSAVE area */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- the world outside: answers from the input -------------------------------------------------- */

struct world {
	const uint8_t *data;
	size_t size, at;
	struct soft *soft;
	unsigned interrupts; /* that may still come */
	bool may_differ;     /* the host did what the processor sees at its next look around, sooner or later */
};

static uint64_t next(struct world *w, unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)w->data[w->at++ % w->size] << (8 * i);
	return v;
}

static uint64_t io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	return next(context, size);
}

static void io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
}

static uint64_t mmio_read(void *context, unsigned vp, gpa_t gpa, unsigned size)
{
	return next(context, size);
}

static void mmio_write(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value)
{
	struct world *w = context;

	/* Now and then the host answers by looking at the processor from outside. */
	if (gpa & 8)
		soft_vp_flush_tlb(soft_vp(w->soft, vp), soft_vp(w->soft, vp));
	if (gpa & 16) {
		soft_memory_written(w->soft, value & (LOW_RAM - 1) & ~0xfffull, 4096);
		w->may_differ = true;
	}
	if (gpa & 32) {
		soft_vp_nmi(soft_vp(w->soft, vp));
		w->may_differ = true;
	}
}

static bool msr_read(void *context, unsigned vp, uint32_t msr, uint64_t *value)
{
	*value = next(context, 8);
	return msr & 1;
}

static bool msr_write(void *context, unsigned vp, uint32_t msr, uint64_t value)
{
	return msr & 1;
}

static void cpuid(void *context, unsigned vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
}

static bool hypercall(void *context, unsigned vp, struct soft_hypercall *registers)
{
	registers->rax = next(context, 8);
	return registers->rax & 1;
}

static int take_interrupt(void *context, unsigned vp)
{
	struct world *w = context;

	return w->interrupts ? (int)(w->interrupts--, next(w, 1)) : -1;
}

static uint64_t cr8_read(void *context, unsigned vp)
{
	return next(context, 1) & 15;
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

/* --- the watchdog: tells a run to end after a while --------------------------------------------- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct soft_vp *vp; /* NULL: nothing runs */
	uint64_t run;
} watchdog = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};

#define RUN_NANOSECONDS 700000

static void *watch(void *argument)
{
	pthread_mutex_lock(&watchdog.lock);
	for (;;) {
		uint64_t run = watchdog.run;
		struct timespec until;

		if (!watchdog.vp) {
			pthread_cond_wait(&watchdog.changed, &watchdog.lock);
			continue;
		}
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += RUN_NANOSECONDS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		while (watchdog.vp && watchdog.run == run)
			if (pthread_cond_timedwait(&watchdog.changed, &watchdog.lock, &until) == ETIMEDOUT)
				break;
		if (watchdog.vp && watchdog.run == run) {
			soft_vp_kick(watchdog.vp);
			watchdog.run++;
		}
	}
	return argument;
}

static void guard(struct soft_vp *vp)
{
	static pthread_t thread;
	static bool started;

	if (!started) {
		started = true;
		if (pthread_create(&thread, NULL, watch, NULL) != 0)
			abort();
	}
	pthread_mutex_lock(&watchdog.lock);
	watchdog.vp = vp;
	watchdog.run++;
	pthread_cond_signal(&watchdog.changed);
	pthread_mutex_unlock(&watchdog.lock);
}

/* --- registers ---------------------------------------------------------------------------------- */

enum mode { REAL, PROTECTED_16, PROTECTED_32, PAGING_32, PAE, LONG, COMPATIBILITY, MODES };

static struct vp_segment segment(enum mode mode, bool code, uint16_t selector, unsigned dpl)
{
	struct vp_segment s = {.selector = selector, .limit = 0xffffffff};

	s.attributes = (uint16_t)((code ? 0x9b : 0x93) | dpl << 5);
	if (mode == REAL || mode == PROTECTED_16) {
		s.base = (uint64_t)selector << 4;
		s.limit = 0xffff;
	} else if (mode == LONG && code) {
		s.attributes |= 0xa000;
	} else {
		s.attributes |= 0xc000;
	}
	return s;
}

static void set_modes(struct vp_registers *r, enum mode mode, uint32_t options)
{
	r->cr0 = 0x30 | (options & 0x5000e); /* MP EM TS, WP AM */
	r->cr4 = options >> 8 & 0x3007b8 & ~0x20u;
	if (options & 1)
		r->cr4 |= 0x40600; /* OSXSAVE OSXMMEXCPT OSFXSR */
	if (mode != REAL)
		r->cr0 |= 1;
	if (mode >= PAGING_32)
		r->cr0 |= 0x80000000;
	if (mode >= PAE)
		r->cr4 |= 0x20;
	if (mode >= LONG)
		r->efer = 0x500;
	r->efer |= options >> 4 & 0x801;
}

static int set_registers(struct soft_vp *vp, const uint8_t *head)
{
	enum mode mode = head[0] % MODES;
	uint32_t options = (uint32_t)head[1] | (uint32_t)head[2] << 8 | (uint32_t)head[3] << 16;
	unsigned dpl = mode == REAL ? 0 : (head[1] & 0x80 ? 3 : 0);
	struct vp_registers r = {.rflags = 2 | (options & 0x200 ? 0x200 : 0)};

	set_modes(&r, mode, options);
	r.cr4 |= (head[7] & 4 ? 1u << 22 : 0) | (head[7] & 8 ? 1u << 24 : 0); /* PKE PKS */
	r.cr3 = (uint64_t)(head[4] & 0x3f) << 12;
	r.rip = (uint64_t)head[5] << 8 | head[6];
	for (unsigned i = 0; i < 16; i++)
		r.gpr[i] = le32_get(head + 8 + 4 * i) & (head[7] & 1 ? 0xffffffffu : 0x3ffffu);
	if (head[7] & 2)
		r.gpr[4] &= 0x3fff0;
	r.cs = segment(mode, true, (uint16_t)(8 | dpl), dpl);
	r.ss = r.ds = r.es = r.fs = r.gs = segment(mode, false, (uint16_t)(16 | dpl), dpl);
	r.ldtr = (struct vp_segment){.base = 0x3000, .limit = 0xff, .selector = 24, .attributes = 0x82};
	r.tr = (struct vp_segment){.base = 0x2000, .limit = 0xff, .selector = 32, .attributes = 0x8b};
	r.gdt_base = 0x1000;
	r.gdt_limit = 0xff;
	r.idt_base = 0x4000;
	r.idt_limit = 0xfff;
	return soft_vp_set_registers(vp, &r);
}

/* PKRU and IA32_PKRS as the input has them, or it would hardly ever find out how they are written. */
static int set_keys(struct soft_vp *vp, const uint8_t *head)
{
	static struct vp_state state;
	uint32_t mask = head[7] & 16 ? UINT32_MAX : ~3u; /* key 0 is what most pages have */

	soft_vp_save(vp, &state);
	state.xsave[VP_XSAVE_LEGACY + 1] |= 2;
	le32_put(state.xsave + PKRU_OFFSET, le32_get(head + 8) & mask);
	state.msrs[state.msr_count++] = (struct vp_msr){.index = VP_MSR_PKRS, .value = le32_get(head + 12) & mask};
	return soft_vp_load(vp, &state, NULL);
}

static void fill(uint8_t *ram, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < RAM; i += size)
		memcpy(ram + i, data, size < RAM - i ? size : RAM - i);
}

/* --- runs ----------------------------------------------------------------------------------------- */

struct result {
	bool whole; /* it came to its end by itself, and nothing happened that may come a little sooner or later */
	enum soft_stop stop;
	struct vp_registers registers;
	uint8_t ram[RAM];
};

static void run(struct world *world, struct result *result)
{
	struct soft_vp *vp = soft_vp(world->soft, 0);

	guard(vp);
	/* An interrupt may wake it from a halt. */
	for (unsigned i = 0; i < 4; i++) {
		result->stop = soft_vp_run(vp);
		if (result->stop != SOFT_STOP_HALT)
			break;
	}
	guard(NULL);
	soft_vp_get_registers(vp, &result->registers);
	result->whole = !world->may_differ && result->stop != SOFT_STOP_KICK;
}

static void run_with(const char *options, const uint8_t *data, size_t size, struct result *result)
{
	const struct soft_range ranges[] = {{0, LOW_RAM, 0}, {HIGH_GPA, HIGH_RAM, LOW_RAM}};
	static uint8_t *ram;
	struct world world = {.data = data, .size = size, .interrupts = 4};

	if (!ram) {
		ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (ram == MAP_FAILED)
			abort();
	}
	fill(ram, data + HEAD, size - HEAD);
	memset(result, 0, sizeof(*result));
	if (soft_create(&world.soft, &host, &world, 1, options, NULL) < 0)
		abort();
	if (soft_set_memory(world.soft, ram, RAM, ranges, 2, NULL) < 0)
		abort();
	if (set_registers(soft_vp(world.soft, 0), data) == 0 && (!(data[7] & 12) || set_keys(soft_vp(world.soft, 0), data) == 0))
		run(&world, result);
	soft_destroy(world.soft);
	memcpy(result->ram, ram, RAM);
}

static bool same(const struct result *a, const struct result *b)
{
	return a->stop == b->stop && memcmp(&a->registers, &b->registers, sizeof(a->registers)) == 0 &&
	    memcmp(a->ram, b->ram, RAM) == 0;
}

static void report(const struct result *a, const struct result *b)
{
	const uint64_t *x = a->registers.gpr, *y = b->registers.gpr;
	const uint8_t *p = (const uint8_t *)&a->registers, *q = (const uint8_t *)&b->registers;

	fprintf(stderr, "interpreted stops with %d at 0x%llx, translated with %d at 0x%llx; RFLAGS 0x%llx, 0x%llx\n", a->stop,
	    (unsigned long long)a->registers.rip, b->stop, (unsigned long long)b->registers.rip,
	    (unsigned long long)a->registers.rflags, (unsigned long long)b->registers.rflags);
	for (unsigned i = 0; i < 16; i++)
		if (x[i] != y[i])
			fprintf(stderr, "register %u: 0x%llx, 0x%llx\n", i, (unsigned long long)x[i], (unsigned long long)y[i]);
	for (unsigned i = sizeof(a->registers.gpr); i < sizeof(a->registers); i++)
		if (p[i] != q[i])
			fprintf(stderr, "byte %u of the registers: 0x%02x, 0x%02x\n", i, p[i], q[i]);
	for (unsigned i = 0; i < RAM; i++)
		if (a->ram[i] != b->ram[i])
			fprintf(stderr, "memory 0x%x: 0x%02x, 0x%02x\n", i, a->ram[i], b->ram[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct result interpreted, translated, again;

	if (size <= HEAD)
		return 0;
	run_with("translate=off", data, size, &interpreted);
	if (data[0] % MODES != LONG)
		return 0;
	run_with("translate=on,threshold=1", data, size, &translated);
	if (!interpreted.whole || !translated.whole || same(&interpreted, &translated))
		return 0;
	/* RDRAND is not the same twice. */
	run_with("translate=off", data, size, &again);
	if (same(&interpreted, &again)) {
		report(&interpreted, &translated);
		abort();
	}
	return 0;
}
