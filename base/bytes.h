/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bytes.h - little-endian fields of wire and file formats, read and written by explicit width.
 *
 * Freestanding: needs no library, so the hypervisor's tlfs/ and apic/ may use it too. The pointer
 * may have any alignment. Only x86-64 hosts are supported, whose byte order is the formats' own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline uint16_t le16_get(const void *p)
{
	uint16_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t le32_get(const void *p)
{
	uint32_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t le64_get(const void *p)
{
	uint64_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static inline void le16_put(void *p, uint16_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

static inline void le32_put(void *p, uint32_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

static inline void le64_put(void *p, uint64_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}

/* SCSI's fields are big-endian. */
static inline uint16_t be16_get(const void *p)
{
	return __builtin_bswap16(le16_get(p));
}

static inline uint32_t be32_get(const void *p)
{
	return __builtin_bswap32(le32_get(p));
}

static inline uint64_t be64_get(const void *p)
{
	return __builtin_bswap64(le64_get(p));
}

static inline void be16_put(void *p, uint16_t v)
{
	le16_put(p, __builtin_bswap16(v));
}

static inline void be32_put(void *p, uint32_t v)
{
	le32_put(p, __builtin_bswap32(v));
}

static inline void be64_put(void *p, uint64_t v)
{
	le64_put(p, __builtin_bswap64(v));
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* `alignment` is a power of two; the result wraps to 0 past the top, so check the input first. */
static inline uint64_t align_up_u64(uint64_t v, uint64_t alignment)
{
	return (v + alignment - 1) & ~(alignment - 1);
}

static inline bool is_aligned_u64(uint64_t v, uint64_t alignment)
{
	return (v & (alignment - 1)) == 0;
}

/* Whether [offset, offset + length) lies inside [0, size), with no overflow on the way. */
static inline bool range_fits_u64(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}
