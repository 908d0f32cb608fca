/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * privileges.h - what the sandboxes of our programs have in common.
 */
#pragma once

#include "base/base.h"

/* Give up all capabilities of the calling thread, ambient ones too (capabilities(7)). Before there are other threads. */
int privileges_drop(struct error *err);

/* Built with a sanitizer, which makes system calls of its own, looks into /proc and traces the process at its end: such
 * a program has no sandbox. */
bool program_is_instrumented(void);
