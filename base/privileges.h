/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * privileges.h - what the sandboxes of our programs have in common.
 */
#pragma once

#include "base/base.h"

/* Give up all capabilities of the calling thread, ambient ones too (capabilities(7)). Before there are other threads. */
int privileges_drop(struct error *err);

/* The same but for these (CAP_…, up to 63), as far as there are any; neither the process nor a program that it starts gets another
 * (no_new_privs). Only root has any to give up. */
int privileges_keep(const unsigned char *capabilities, size_t count, struct error *err);

/* Built with a sanitizer, which makes system calls of its own, looks into /proc and traces the process at its end: such
 * a program has no sandbox. */
bool program_is_instrumented(void);
