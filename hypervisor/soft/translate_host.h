/* SPDX-License-Identifier: GPL-2.0-or-later */
/* translate_host.h - what translated code asks of the host CPU and its kernel. Private to the translator. */
#pragma once

#include <stdbool.h>

bool translate_host_serves(void);
bool translate_host_has_avx(void); /* … and its kernel saves the registers */

/* The base of GS on this thread. */
void translate_set_gs(const void *base);
