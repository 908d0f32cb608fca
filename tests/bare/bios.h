/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bios.h - where bios.c and bios_code.S have things in a PC's first megabyte.
 */
#pragma once

#define BIOS_SEGMENT   0x9e00	/* bios_code.S: the end of conventional memory */
#define BIOS_BASE      0x9e000
#define BIOS_BASE_KIB  632	/* what is before it */
#define SETUP_SEGMENT  0x1000	/* the real-mode part of what is started (boot.rst, "Loading The Rest of The Kernel") */
#define SETUP_BASE     0x10000
#define TICK_VECTOR    0x20
#define BIOS_CODE_SEL  0x58	/* SEL_FREE: 16-bit code at BIOS_BASE */
