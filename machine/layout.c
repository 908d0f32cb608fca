/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/layout.h"

uint64_t layout_low_memory(uint64_t memory)
{
	return min_u64(memory, MACHINE_LOW_MEMORY_MAX);
}

uint64_t layout_high_memory(uint64_t memory)
{
	return memory - layout_low_memory(memory);
}

gpa_t layout_high_mmio_base(uint64_t memory)
{
	return align_up_u64(LAYOUT_4G + layout_high_memory(memory), MACHINE_HIGH_MMIO_SIZE);
}

unsigned layout_memory_map(uint64_t memory, struct memory_range ranges[LAYOUT_MAX_RANGES])
{
	uint64_t high = layout_high_memory(memory);
	unsigned n = 0;

	ranges[n++] = (struct memory_range){0, LAYOUT_CONVENTIONAL_END, MEMORY_RAM};
	ranges[n++] = (struct memory_range){LAYOUT_FIRMWARE_BASE, LAYOUT_FIRMWARE_END - LAYOUT_FIRMWARE_BASE,
					    MEMORY_RESERVED};
	ranges[n++] = (struct memory_range){LAYOUT_FIRMWARE_END,
					    layout_low_memory(memory) - LAYOUT_FIRMWARE_END, MEMORY_RAM};
	if (high)
		ranges[n++] = (struct memory_range){LAYOUT_4G, high, MEMORY_RAM};
	return n;
}
