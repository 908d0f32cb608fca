/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * byte_ports.h - wide accesses to parts that hang on an 8-bit bus: the bus splits them into bytes, lowest
 * address first. Private to chipset/.
 */
#pragma once

#include <stdint.h>

typedef uint8_t (*byte_read_fn)(void *device, uint64_t offset);
typedef void (*byte_write_fn)(void *device, uint64_t offset, uint8_t value);

static inline uint64_t bytes_read(byte_read_fn read, void *device, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read(device, offset + i) << (8 * i);
	return value;
}

static inline void bytes_write(byte_write_fn write, void *device, uint64_t offset, unsigned size,
			       uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		write(device, offset + i, (uint8_t)(value >> (8 * i)));
}
