/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * program.h - runs a program of the host to its end. Private to switch/.
 */
#pragma once

#include "base/base.h"

/* Where it is: /usr/sbin, /usr/bin and their likes. False: it is not installed. */
bool program_find(const char *name, char path[64]);

/* Runs argv[0] (found as above) with `input` (NULL: none) on its standard input and `environment` ("NAME=value", ended by NULL) as
 * all that its environment has, and waits for its end, at most `seconds`; then it is killed. -ENOENT: it is not installed;
 * -EIO: it failed, `err` has its last words; -ETIMEDOUT. Whoever it leaves in the background has none of our descriptors. */
int program_run(const char *const *argv, const char *input, const char *const *environment, unsigned seconds, struct error *err);
