/* SPDX-License-Identifier: GPL-2.0-or-later */
/* sections.h - for those who lie about saved state (base/form.h): sections that were patched get checksums that are right. */
#pragma once

#include "base/crc32c.h"
#include "base/form.h"

#define SECTION_HEADER   24u
#define SECTION_SIZE     16u
#define SECTION_CHECKSUM 20u

static inline void sections_seal(uint8_t *bytes, size_t size)
{
	for (size_t at = 0; size - at >= SECTION_HEADER;) {
		uint32_t length = le32_get(bytes + at + SECTION_SIZE);

		if (length > size - at - SECTION_HEADER)
			return;
		le32_put(bytes + at + SECTION_CHECKSUM,
			 crc32c(crc32c(0, bytes + at, SECTION_CHECKSUM), bytes + at + SECTION_HEADER, length));
		at += SECTION_HEADER + length;
	}
}
