/* SPDX-License-Identifier: GPL-2.0-or-later */
/* utf16.h - the texts in images: paths of parents, as UTF-16 with the low byte first. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* To be freed. A NUL at the end is left out. NULL with errno: EINVAL when it is no text. */
char *utf16_to_utf8(const uint8_t *text, size_t units);

/* Writes `text` to `out` of `max` units; returns how many, or 0 when it is no UTF-8 or too long. */
size_t utf16_put(uint8_t *out, size_t max, const char *text);
