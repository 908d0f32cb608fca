// SPDX-License-Identifier: GPL-2.0-or-later
/* task.c - hardware task switches, 32- and 16-bit (SDM volume 3, chapter 8). */
#include "hypervisor/soft/interrupt.h"
#include "hypervisor/soft/segment.h"
#include "hypervisor/soft/system.h"

/* What a TSS holds, whatever its width. */
struct task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t segments[6]; /* ES CS SS DS FS GS */
	uint16_t ldt;
	bool trap;
};

static bool is_wide(uint16_t attributes)
{
	return attributes & 8;
}

static void tss_save(struct soft_vp *vp, const struct op *op, uint64_t eip, uint64_t flags)
{
	bool wide = is_wide(vp->tr.attributes);
	unsigned size = wide ? 4 : 2, at = wide ? 0x20 : 0x0e;

	store_system(vp, op, vp->tr.base + at, size, eip);
	store_system(vp, op, vp->tr.base + at + size, size, flags);
	at += 2 * size;
	for (unsigned i = 0; i < 8; i++, at += size)
		store_system(vp, op, vp->tr.base + at, size, vp->gpr[i]);
	for (unsigned i = 0; i < (wide ? 6 : 4); i++, at += size)
		store_system(vp, op, vp->tr.base + at, 2, vp->seg[i].selector);
}

static struct task tss_load(struct soft_vp *vp, const struct op *op, const struct segment *tss)
{
	bool wide = is_wide(tss->attributes);
	unsigned size = wide ? 4 : 2, at = wide ? 0x20 : 0x0e;
	struct task t = {.cr3 = (uint32_t)vp->cr3};

	if (wide) {
		t.cr3 = (uint32_t)load_system(vp, op, tss->base + 0x1c, 4);
		t.trap = load_system(vp, op, tss->base + 0x64, 2) & 1;
	}
	t.eip = (uint32_t)load_system(vp, op, tss->base + at, size);
	t.eflags = (uint32_t)load_system(vp, op, tss->base + at + size, size);
	at += 2 * size;
	for (unsigned i = 0; i < 8; i++, at += size)
		t.gpr[i] = (uint32_t)load_system(vp, op, tss->base + at, size) | (wide ? 0 : 0xffff0000u);
	for (unsigned i = 0; i < (wide ? 6 : 4); i++, at += size)
		t.segments[i] = (uint16_t)load_system(vp, op, tss->base + at, 2);
	t.ldt = (uint16_t)load_system(vp, op, tss->base + (wide ? 0x60 : 0x2a), 2);
	return t;
}

static void set_busy(struct soft_vp *vp, const struct op *op, uint16_t selector, bool busy)
{
	uint64_t at = descriptor_address(vp, selector) + 5;
	uint64_t byte = load_system(vp, op, at, 1);

	store_system(vp, op, at, 1, busy ? byte | 2 : byte & ~2ull);
}

/* The TSS a switch goes to. A return goes to a busy one, all else to one that is not. */
static struct segment check_tss(struct soft_vp *vp, const struct op *op, uint16_t selector, int reason)
{
	enum vector vector = reason == TASK_IRET ? VECTOR_TS : VECTOR_GP;
	uint32_t code = selector & 0xfffcu;
	struct segment s;
	uint64_t low;
	unsigned type;

	if (!code || selector & 4)
		raise_fault_code(vp, op, vector, code);
	low = descriptor_read(vp, op, selector, vector, 0);
	type = descriptor_type(low);
	if ((type & ~0xau) != SYSTEM_TSS16 || !!(type & 2) != (reason == TASK_IRET))
		raise_fault_code(vp, op, vector, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	s = segment_unpack(selector, low);
	if (s.limit < (is_wide(s.attributes) ? 0x67u : 0x2bu))
		raise_fault_code(vp, op, VECTOR_TS, code);
	return s;
}

/* From here on faults belong to the new task: they come as #TS on its first instruction. */
static void load_ldt(struct soft_vp *vp, uint16_t selector)
{
	uint64_t low;

	vp->ldtr = (struct segment){.selector = selector};
	if (!(selector & 0xfffc))
		return;
	if (selector & 4 || !descriptor_find(vp, NULL, selector, &low) || descriptor_type(low) != SYSTEM_LDT ||
	    !descriptor_present(low))
		raise_fault_code(vp, NULL, VECTOR_TS, selector & 0xfffcu);
	vp->ldtr = segment_unpack(selector, low);
}

static void load_code(struct soft_vp *vp, uint16_t selector)
{
	uint32_t code = selector & 0xfffcu;
	unsigned rpl = selector & 3, type;
	uint64_t low;

	if (!code)
		raise_fault_code(vp, NULL, VECTOR_TS, 0);
	low = descriptor_read(vp, NULL, selector, VECTOR_TS, 0);
	type = descriptor_type(low);
	if (!type_is_code(type) || (type_is_conforming(type) ? descriptor_dpl(low) > rpl : descriptor_dpl(low) != rpl))
		raise_fault_code(vp, NULL, VECTOR_TS, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, NULL, VECTOR_NP, code);
	descriptor_accessed(vp, NULL, selector, &low);
	vp->seg[SEG_CS] = segment_unpack(selector, low);
}

static void load_data(struct soft_vp *vp, unsigned seg, uint16_t selector)
{
	uint32_t code = selector & 0xfffcu;
	unsigned type;
	uint64_t low;

	vp->seg[seg] = (struct segment){.selector = selector};
	if (!code)
		return;
	low = descriptor_read(vp, NULL, selector, VECTOR_TS, 0);
	type = descriptor_type(low);
	if (!(type & 0x10) || (type & 0x0a) == 0x08 ||
	    (!type_is_conforming(type) && (descriptor_dpl(low) < vp->cpl || descriptor_dpl(low) < (selector & 3u))))
		raise_fault_code(vp, NULL, VECTOR_TS, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, NULL, VECTOR_NP, code);
	descriptor_accessed(vp, NULL, selector, &low);
	vp->seg[seg] = segment_unpack(selector, low);
}

static void load_segments(struct soft_vp *vp, const struct task *t)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	if (vp_v86(vp)) {
		vp->cpl = 3;
		for (unsigned i = 0; i < 6; i++)
			segment_load_real(vp, i, t->segments[i]);
		return;
	}
	vp->cpl = t->segments[SEG_CS] & 3;
	load_code(vp, t->segments[SEG_CS]);
	vp->seg[SEG_SS] = segment_check_stack(vp, NULL, t->segments[SEG_SS], vp->cpl, VECTOR_TS, 0);
	for (unsigned i = 0; i < sizeof(data); i++)
		load_data(vp, data[i], t->segments[data[i]]);
}

/* The new task's registers, before any of its selectors is looked at. */
static void enter(struct soft_vp *vp, const struct task *t, bool nested)
{
	vp->cr0 |= CR0_TS;
	if (vp->cr0 & CR0_PG && t->cr3 != vp->cr3) {
		vp->cr3 = t->cr3;
		pdptrs_load(vp, vp->cr0, vp->cr3, vp->cr4, vp->efer);
		tlb_flush_all(vp);
	}
	for (unsigned i = 0; i < 8; i++)
		vp->gpr[i] = t->gpr[i];
	vp->rip = t->eip;
	vp->dr[7] &= ~0x155ull;
	rflags_write(vp, t->eflags | (nested ? FLAG_NT : 0), ~0ull);
	for (unsigned i = 0; i < 6; i++)
		vp->seg[i] = (struct segment){.selector = t->segments[i]};
}

void task_switch(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t return_rip, int reason,
    bool has_code, uint32_t code)
{
	struct segment tss = check_tss(vp, op, selector, reason);
	bool nested = reason == TASK_CALL || reason == TASK_EVENT;
	uint64_t flags = rflags_read(vp);
	uint16_t previous = vp->tr.selector;
	struct task t;

	/* All of both that is touched must be there. */
	t = tss_load(vp, op, &tss);
	probe_write_as(vp, op, TLB_SUPERVISOR, vp->tr.base, is_wide(vp->tr.attributes) ? 0x68 : 0x2c);
	probe_write_as(vp, op, TLB_SUPERVISOR, tss.base, 2);
	if (reason == TASK_IRET)
		flags &= ~(uint64_t)FLAG_NT;
	tss_save(vp, op, return_rip, flags);
	if (!nested)
		set_busy(vp, op, previous, false);
	if (reason != TASK_IRET)
		set_busy(vp, op, selector, true);
	if (nested)
		store_system(vp, op, tss.base, 2, previous);
	tss.attributes |= 2;
	vp->tr = tss;
	enter(vp, &t, nested);
	load_ldt(vp, t.ldt);
	load_segments(vp, &t);
	vp_mode_changed(vp);
	if (has_code) {
		unsigned size = is_wide(tss.attributes) ? 4 : 2;

		stack_store(vp, NULL, -(int)size, size, code);
		stack_move(vp, -(int)size);
	}
	if (vp->rip > vp->seg[SEG_CS].limit)
		raise_fault_code(vp, NULL, VECTOR_GP, 0);
	if (t.trap)
		debug_trap(vp, DR6_BT);
}
