/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * segment.h - descriptors, and loading segment registers (SDM volume 3, chapters 3, 5). Private to
 * hypervisor/soft/. All may raise on `op`; nothing has changed then.
 */
#pragma once

#include "hypervisor/soft/op.h"

struct descriptor {
	uint64_t low, high; /* high: of system descriptors in long mode */
};

/* The type field with S (bits 4-0 of the attributes), and what types say. */
static inline unsigned descriptor_type(uint64_t low)
{
	return low >> 40 & 0x1f;
}

static inline unsigned descriptor_dpl(uint64_t low)
{
	return low >> 45 & 3;
}

static inline bool descriptor_present(uint64_t low)
{
	return low >> 47 & 1;
}

static inline bool type_is_code(unsigned type)
{
	return (type & 0x18) == 0x18;
}

static inline bool type_is_conforming(unsigned type)
{
	return (type & 0x1c) == 0x1c;
}

static inline bool type_is_writable_data(unsigned type)
{
	return (type & 0x1a) == 0x12;
}

enum {
	SYSTEM_TSS16 = 1, SYSTEM_LDT = 2, SYSTEM_TSS16_BUSY = 3, SYSTEM_CALL16 = 4, SYSTEM_TASK_GATE = 5,
	SYSTEM_INTERRUPT16 = 6, SYSTEM_TRAP16 = 7, SYSTEM_TSS = 9, SYSTEM_TSS_BUSY = 11, SYSTEM_CALL = 12,
	SYSTEM_INTERRUPT = 14, SYSTEM_TRAP = 15
};

/* Whether the tables hold `selector`, and its descriptor (8 bytes). */
bool descriptor_find(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t *low);

/* The same; outside the tables raises `vector` with the selector and `ext` as error code. */
uint64_t descriptor_read(struct soft_vp *vp, const struct op *op, uint16_t selector, enum vector vector,
    unsigned ext);

/* The second 8 bytes of a system descriptor in long mode. */
uint64_t descriptor_read_high(struct soft_vp *vp, const struct op *op, uint16_t selector);

/* The linear address of a descriptor known to be in its table. */
uint64_t descriptor_address(const struct soft_vp *vp, uint16_t selector);

/* Set the accessed bit in the table when it is clear; *low follows. */
void descriptor_accessed(struct soft_vp *vp, const struct op *op, uint16_t selector, uint64_t *low);

struct segment segment_unpack(uint16_t selector, uint64_t low);

/* As in real and virtual-8086 mode. */
void segment_load_real(struct soft_vp *vp, unsigned seg, uint16_t selector);

/* MOV to or POP of ES, SS, DS, FS, GS, in any mode. Calls vp_mode_changed(). */
void segment_load(struct soft_vp *vp, const struct op *op, unsigned seg, uint16_t selector);

/* Check a selector for SS at `cpl`: raises `vector`(selector | ext) or #SS when not present. */
struct segment segment_check_stack(struct soft_vp *vp, const struct op *op, uint16_t selector, unsigned cpl,
    enum vector vector, unsigned ext);

/* A return to an outer level: data segments that it may not have become null. */
void segments_drop_inner(struct soft_vp *vp, unsigned cpl);

/* TSS of the current task: the stack for `cpl` (legacy), RSP n or IST n (long mode: `index` n, or 3 + n). */
void tss_stack(struct soft_vp *vp, const struct op *op, unsigned cpl, unsigned ext, uint16_t *ss, uint32_t *esp);
uint64_t tss_stack64(struct soft_vp *vp, const struct op *op, unsigned index, unsigned ext);

/* Whether the I/O permission bitmap of the TSS lets `size` ports from `port` through. */
bool tss_allows_io(struct soft_vp *vp, const struct op *op, uint16_t port, unsigned size);
