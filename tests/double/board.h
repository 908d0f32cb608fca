/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * board.h - a partition for tests of the chipset and the loaders: the functions of hypervisor.h that they
 * call, with plain memory, a table of ports, and a record of the interrupts that were asserted. No processor,
 * no thread. Link it instead of the hypervisor.
 */
#pragma once

#include "hypervisor/hypervisor.h"

struct partition *board_create(unsigned vp_count);
void board_destroy(struct partition *p);

/* What a guest does. Ports and pages that nobody claimed read as all ones. */
uint64_t board_in(struct partition *p, uint16_t port, unsigned size);
void board_out(struct partition *p, uint16_t port, unsigned size, uint64_t value);
uint64_t board_mmio_read(struct partition *p, gpa_t gpa, unsigned size);
void board_mmio_write(struct partition *p, gpa_t gpa, unsigned size, uint64_t value);
void board_eoi(struct partition *p, uint8_t vector);

/* The partition's clock, in 100 ns; stands still by itself. */
void board_set_time(struct partition *p, uint64_t time);

/* How many interrupts were asserted, and the last of them. */
unsigned board_interrupts(struct partition *p);
struct interrupt_message board_last_interrupt(struct partition *p);

/* Wait until more than `seen` interrupts were asserted; false after ten seconds. */
bool board_wait_interrupt(struct partition *p, unsigned seen);

/* What the loader set for VP 0; NULL when it did not. */
const struct vp_registers *board_registers(struct partition *p);
