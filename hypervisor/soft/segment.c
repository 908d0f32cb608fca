// SPDX-License-Identifier: GPL-2.0-or-later
/* segment.c - descriptors and segment registers. */
#include "hypervisor/soft/segment.h"

#include "hypervisor/soft/mmu.h"

uint64_t descriptor_address(const struct soft_vp *vp, uint16_t selector)
{
	return (selector & 4 ? vp->ldtr.base : vp->gdt_base) + (selector & 0xfff8);
}

bool descriptor_find(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t *low)
{
	uint32_t limit = selector & 4 ? vp->ldtr.limit : vp->gdt_limit;

	if (selector & 4 && !(vp->ldtr.attributes & SEGMENT_P))
		return false;
	if ((selector & 0xfff8u) + 7 > limit)
		return false;
	*low = load_system(vp, op, descriptor_address(vp, selector), 8);
	return true;
}

uint64_t descriptor_read(struct soft_vp *vp, const struct op *op, uint16_t selector, enum vector vector, unsigned ext)
{
	uint64_t low;

	if (!descriptor_find(vp, op, selector, &low))
		raise_fault_code(vp, op, vector, (selector & 0xfffcu) | ext);
	return low;
}

uint64_t descriptor_read_high(struct soft_vp *vp, const struct op *op, uint16_t selector)
{
	uint32_t limit = selector & 4 ? vp->ldtr.limit : vp->gdt_limit;

	if ((selector & 0xfff8u) + 15 > limit)
		raise_fault_code(vp, op, VECTOR_GP, selector & 0xfffcu);
	return load_system(vp, op, descriptor_address(vp, selector) + 8, 8);
}

void descriptor_accessed(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t *low)
{
	uint64_t address = descriptor_address(vp, selector) + 5;

	if (*low >> 40 & 1)
		return;
	*low |= 1ull << 40;
	store_system(vp, op, address, 1, (*low >> 40 & 0xff));
}

struct segment segment_unpack(uint16_t selector, uint64_t low)
{
	uint32_t limit = (low & 0xffff) | (low >> 32 & 0xf0000);

	if (low >> 55 & 1)
		limit = limit << 12 | 0xfff;
	return (struct segment){
	    .base = (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000u),
	    .limit = limit,
	    .selector = selector,
	    .attributes = low >> 40 & 0xf0ff,
	};
}

void segment_load_real(struct soft_vp *vp, unsigned seg, uint16_t selector)
{
	struct segment *s = &vp->seg[seg];

	s->selector = selector;
	s->base = (uint64_t)selector << 4;
	if (vp_v86(vp)) {
		s->limit = 0xffff;
		s->attributes = 0xf3;
	}
}

struct segment segment_check_stack(struct soft_vp *vp, const struct op *op, uint16_t selector, unsigned cpl,
    enum vector vector, unsigned ext)
{
	uint32_t code = (selector & 0xfffcu) | ext;
	uint64_t low;

	if (!(selector & 0xfffc))
		raise_fault_code(vp, op, vector, ext);
	low = descriptor_read(vp, op, selector, vector, ext);
	if ((selector & 3) != cpl || !type_is_writable_data(descriptor_type(low)) || descriptor_dpl(low) != cpl)
		raise_fault_code(vp, op, vector, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_SS, code);
	descriptor_accessed(vp, op, selector, &low);
	return segment_unpack(selector, low);
}

/* DS, ES, FS, GS in protected mode. */
static struct segment check_data(struct soft_vp *vp, const struct op *op, uint16_t selector)
{
	uint32_t code = selector & 0xfffcu;
	uint64_t low = descriptor_read(vp, op, selector, VECTOR_GP, 0);
	unsigned type = descriptor_type(low);

	if (!(type & 0x10) || (type & 0x0a) == 0x08)
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!type_is_conforming(type) && (descriptor_dpl(low) < (selector & 3u) || descriptor_dpl(low) < vp->cpl))
		raise_fault_code(vp, op, VECTOR_GP, code);
	if (!descriptor_present(low))
		raise_fault_code(vp, op, VECTOR_NP, code);
	descriptor_accessed(vp, op, selector, &low);
	return segment_unpack(selector, low);
}

void segment_load(struct soft_vp *vp, const struct op *op, unsigned seg, uint16_t selector)
{
	if (!vp_protected(vp)) {
		segment_load_real(vp, seg, selector);
	} else if (selector & 0xfffc) {
		vp->seg[seg] = seg == SEG_SS ? segment_check_stack(vp, op, selector, vp->cpl, VECTOR_GP, 0)
		                             : check_data(vp, op, selector);
	} else {
		struct segment *s = &vp->seg[seg];

		/* A null SS is for 64-bit code below level 3 only. */
		if (seg == SEG_SS && (vp->mode != MODE_64 || vp->cpl == 3 || (selector & 3) != vp->cpl))
			raise_fault_code(vp, op, VECTOR_GP, 0);
		*s = (struct segment){.selector = selector};
		if (seg == SEG_SS)
			s->attributes = (uint16_t)(vp->cpl << 5);
	}
	vp_mode_changed(vp);
}

void segments_drop_inner(struct soft_vp *vp, unsigned cpl)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < sizeof(data); i++) {
		struct segment *s = &vp->seg[data[i]];

		if (s->selector & 0xfffc ? segment_dpl(s) < cpl && !type_is_conforming(s->attributes & 0x1f)
		                         : s->attributes & SEGMENT_P) {
			s->selector = 0;
			s->attributes = 0;
			s->limit = 0;
			/* SDM volume 2, IRET: only the selector becomes null. In long mode the base still counts. */
			if (!vp_long(vp))
				s->base = 0;
		}
	}
}

void tss_stack(struct soft_vp *vp, const struct op *op, unsigned cpl, unsigned ext, uint16_t *ss, uint32_t *esp)
{
	bool wide = vp->tr.attributes & 8;
	unsigned offset = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
	unsigned size = wide ? 4 : 2;

	if (offset + 2 * size - 1 - (wide ? 2 : 0) > vp->tr.limit)
		raise_fault_code(vp, op, VECTOR_TS, (vp->tr.selector & 0xfffcu) | ext);
	*esp = (uint32_t)load_system(vp, op, vp->tr.base + offset, size);
	*ss = (uint16_t)load_system(vp, op, vp->tr.base + offset + size, 2);
}

uint64_t tss_stack64(struct soft_vp *vp, const struct op *op, unsigned index, unsigned ext)
{
	unsigned offset = 4 + 8 * index;
	uint64_t rsp;

	if (offset + 7 > vp->tr.limit)
		raise_fault_code(vp, op, VECTOR_TS, (vp->tr.selector & 0xfffcu) | ext);
	rsp = load_system(vp, op, vp->tr.base + offset, 8);
	if (!is_canonical(rsp))
		raise_fault_code(vp, op, VECTOR_SS, ext);
	return rsp;
}

bool tss_allows_io(struct soft_vp *vp, const struct op *op, uint16_t port, unsigned size)
{
	uint32_t map, bits;

	if (!(vp->tr.attributes & SEGMENT_P) || !(vp->tr.attributes & 8) || vp->tr.limit < 103)
		return false;
	map = (uint32_t)load_system(vp, op, vp->tr.base + 102, 2) + port / 8;
	if (map + 1 > vp->tr.limit)
		return false;
	bits = (uint32_t)load_system(vp, op, vp->tr.base + map, 2) >> (port % 8);
	return !(bits & ((1u << size) - 1));
}
