/* SPDX-License-Identifier: GPL-2.0-or-later */
/* types.h - the types that headers for other programs use: it needs nothing else of this tree. */
#pragma once

#include <stdint.h>

struct error {
	int code; /* a positive errno, 0 when nothing was reported */
	char text[512];
};

/* A GUID in the byte order of the wire: the first three fields little-endian ([MS-DTYP] 2.3.4). */
struct guid {
	uint8_t bytes[16];
};
