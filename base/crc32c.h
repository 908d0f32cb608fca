/* SPDX-License-Identifier: GPL-2.0-or-later */
/* crc32c.h - the checksum of VHDX structures and of saved state: CRC-32C (Castagnoli), RFC 3720 appendix B.4. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Start with 0; the result of one part is the start for the next. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
