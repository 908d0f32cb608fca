/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/double/state_guest.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

enum { SEL_CODE32 = 0x08, SEL_DATA = 0x10, SEL_CODE64 = 0x18, SEL_TSS = 0x28, GDT_SIZE = 0x38 };

static void put64(struct partition *p, gpa_t gpa, uint64_t value)
{
	assert_int_equal(partition_write(p, gpa, &value, sizeof(value)), 0);
}

static void build_gdt(struct partition *p)
{
	put64(p, GUEST_GDT + SEL_CODE32, 0x00cf9b000000ffff);
	put64(p, GUEST_GDT + SEL_DATA, 0x00cf93000000ffff);
	put64(p, GUEST_GDT + SEL_CODE64, 0x00af9b000000ffff);
	put64(p, GUEST_GDT + SEL_TSS, 0x00008b0000000067 | GUEST_TSS << 16);
}

/* One to one, in pages of 2 MiB: the first GiB, and GUEST_HIGH in long mode. */
static void build_tables(struct partition *p, enum guest_mode mode)
{
	uint64_t pdpt = mode == GUEST_LONG ? GUEST_TABLES + 0x1000 : GUEST_TABLES, pd = GUEST_TABLES + 0x2000;

	if (mode == GUEST_LONG)
		put64(p, GUEST_TABLES, pdpt | 3);
	put64(p, pdpt, pd | (mode == GUEST_LONG ? 3 : 1));
	for (uint64_t i = 0; i < 512; i++)
		put64(p, pd + 8 * i, i << 21 | 0x83);
	if (mode == GUEST_LONG) {
		put64(p, pdpt + 8 * (GUEST_HIGH >> 30), (pd + 0x1000) | 3);
		put64(p, pd + 0x1000, GUEST_HIGH | 0x83);
	}
}

/* A guest that comes to its end says why: the test that waits for it only sees that nothing comes. */
static void on_event(void *context, const struct partition_event *event)
{
	(void)context;
	print_message("virtual processor %u, event %d at 0x%llx: %s\n", event->vp_index, (int)event->kind,
		      (unsigned long long)event->rip, event->text);
}

static int create(struct guest_processor processor, unsigned vps, struct partition **p, struct error *err)
{
	struct partition_config config = {.processor = processor.kind,
					  .on_event = on_event,
					  .processor_options = processor.options,
					  .vp_count = vps,
					  .compatibility = processor.compatibility};
	int r = partition_create(p, &config, err);

	if (r)
		return r;
	assert_int_equal(partition_add_memory(*p, 0, GUEST_RAM, NULL), 0);
	assert_int_equal(partition_add_memory(*p, GUEST_HIGH, GUEST_PAGE_SIZE, NULL), 0);
	return 0;
}

bool guest_is_possible(struct guest_processor processor)
{
	struct error err = {0};
	struct partition *p;

	if (create(processor, 1, &p, &err)) {
		print_message("not here: %s\n", err.text);
		return false;
	}
	partition_destroy(p);
	return true;
}

struct partition *guest_create(struct guest_processor processor, unsigned vps, enum guest_mode mode)
{
	struct error err = {0};
	struct partition *p = NULL;

	if (create(processor, vps, &p, &err))
		fail_msg("%s", err.text);
	build_gdt(p);
	if (mode >= GUEST_PAE)
		build_tables(p, mode);
	return p;
}

void guest_put(struct partition *p, gpa_t gpa, const uint8_t *begin, const uint8_t *end)
{
	assert_int_equal(partition_write(p, gpa, begin, (size_t)(end - begin)), 0);
}

void guest_gate(struct partition *p, enum guest_mode mode, unsigned vector, gpa_t handler)
{
	uint64_t selector = mode == GUEST_LONG ? SEL_CODE64 : SEL_CODE32;
	uint64_t gate = (handler & 0xffff) | selector << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48;

	put64(p, GUEST_IDT + vector * (mode == GUEST_LONG ? 16 : 8), gate);
	if (mode == GUEST_LONG)
		put64(p, GUEST_IDT + vector * 16 + 8, handler >> 32);
}

static struct vp_segment flat(uint16_t selector, uint16_t attributes)
{
	return (struct vp_segment){.limit = 0xffffffff, .selector = selector, .attributes = attributes};
}

void guest_registers(struct vp_registers *r, unsigned vp, enum guest_mode mode, uint64_t rip)
{
	struct vp_state reset;

	vp_state_reset(&reset);
	*r = reset.registers;
	r->rip = rip;
	r->cr4 = 0x600; /* OSFXSR, OSXMMEXCPT */
	r->gpr[4] = GUEST_STACK - 0x400 * vp;
	r->gpr[7] = GUEST_AREA + 0x1000 * vp;
	if (mode == GUEST_REAL) {
		r->cs = (struct vp_segment){.base = rip & ~0xfull,
					    .limit = 0xffff,
					    .selector = (uint16_t)(rip >> 4),
					    .attributes = 0x93};
		r->rip = rip & 0xf;
		r->ds.base = r->gpr[7];
		r->ds.selector = (uint16_t)(r->gpr[7] >> 4);
		r->gpr[7] = 0;
		return;
	}
	r->es = r->ss = r->ds = r->fs = r->gs = flat(SEL_DATA, 0xc093);
	r->cs = mode == GUEST_LONG ? flat(SEL_CODE64, 0xa09b) : flat(SEL_CODE32, 0xc09b);
	r->ldtr = (struct vp_segment){0};
	r->tr =
	    (struct vp_segment){.base = GUEST_TSS, .limit = 0x67, .selector = SEL_TSS, .attributes = 0x8b};
	r->gdt_base = GUEST_GDT;
	r->gdt_limit = GDT_SIZE - 1;
	r->idt_base = GUEST_IDT;
	r->idt_limit = 0xfff;
	r->cr0 = mode == GUEST_PROTECTED ? 0x31 : 0x80010031;
	r->cr3 = mode == GUEST_PROTECTED ? 0 : GUEST_TABLES;
	r->cr4 |= mode == GUEST_PROTECTED ? 0 : 0x20; /* PAE */
	r->efer = mode == GUEST_LONG ? 0xd01 : 0;
}

/* --- taking and giving ------------------------------------------------------------------------------------
 */

static uint8_t *copy_of(struct partition *p, gpa_t gpa, uint64_t size)
{
	uint8_t *copy = malloc(size);

	assert_non_null(copy);
	assert_int_equal(partition_read(p, gpa, copy, size), 0);
	return copy;
}

void guest_take(struct guest_taken *t, struct partition *p)
{
	struct error err = {0};
	uint8_t *bytes;
	size_t size;

	if (p->started)
		partition_pause(p);
	if (partition_save_state(p, &bytes, &size, &err))
		fail_msg("%s", err.text);
	t->ram = copy_of(p, 0, GUEST_RAM);
	t->high = copy_of(p, GUEST_HIGH, GUEST_PAGE_SIZE);
	partition_destroy(p);
	if (saved_decode(&t->state, bytes, size, &err))
		fail_msg("%s", err.text);
	free(bytes);
}

void guest_free(struct guest_taken *t)
{
	saved_free(t->state);
	free(t->ram);
	free(t->high);
}

int guest_load(struct guest_processor processor, const struct guest_taken *t, const uint8_t *bytes,
	       size_t size, struct partition **out, struct error *err)
{
	struct partition *p;
	int r = create(processor, t->state->vp_count, &p, err);

	if (r)
		return r;
	assert_int_equal(partition_write(p, 0, t->ram, GUEST_RAM), 0);
	assert_int_equal(partition_write(p, GUEST_HIGH, t->high, GUEST_PAGE_SIZE), 0);
	r = partition_load_state(p, bytes, size, err);
	if (r)
		partition_destroy(p);
	else
		*out = p;
	return r;
}

struct partition *guest_give(struct guest_processor processor, const struct guest_taken *t)
{
	struct partition *p = NULL;
	struct error err = {0};
	uint8_t *bytes;
	size_t size;

	assert_int_equal(saved_encode(t->state, &bytes, &size, &err), 0);
	if (guest_load(processor, t, bytes, size, &p, &err))
		fail_msg("%s", err.text);
	free(bytes);
	return p;
}

struct partition *guest_create_running(struct guest_processor processor, unsigned vps, enum guest_mode mode,
				       const uint8_t *begin, const uint8_t *end)
{
	struct partition *p = guest_create(processor, vps, mode);
	struct guest_taken t;

	guest_put(p, GUEST_CODE, begin, end);
	guest_take(&t, p);
	for (unsigned i = 0; i < vps; i++) {
		struct vp_state *s = &t.state->vps[i].state;

		guest_registers(&s->registers, i, mode, GUEST_CODE);
		if (mode == GUEST_PAE)
			s->pdptr[0] = (GUEST_TABLES + 0x2000) | 1;
		s->activity = VP_ACTIVITY_RUNNING;
	}
	p = guest_give(processor, &t);
	guest_free(&t);
	return p;
}

/* --- memory
 * --------------------------------------------------------------------------------------------------- */

uint32_t guest_read32(struct partition *p, gpa_t gpa)
{
	return __atomic_load_n((uint32_t *)partition_memory(p, gpa, 4), __ATOMIC_ACQUIRE);
}

void guest_write32(struct partition *p, gpa_t gpa, uint32_t value)
{
	__atomic_store_n((uint32_t *)partition_memory(p, gpa, 4), value, __ATOMIC_RELEASE);
}

void guest_wait(struct partition *p, gpa_t gpa, uint32_t wanted)
{
	time_t start = time(NULL);

	while (guest_read32(p, gpa) < wanted) {
		if (time(NULL) - start > 60)
			fail_msg("the word at 0x%llx is %u, not %u", (unsigned long long)gpa,
				 guest_read32(p, gpa), wanted);
		sched_yield();
	}
}

void guest_expect_error(int result, int code, const struct error *err, const char *word)
{
	if (result != -code || !err->text[0] || (word && !strstr(err->text, word)))
		fail_msg("result %d, not %d; text \"%s\", which should name \"%s\"", result, -code, err->text,
			 word ? word : "");
}
