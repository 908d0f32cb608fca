/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox_filter.h - the system calls that the threads of a machine may make. Private to worker/.
 *
 * The process gets the filter of its first thread, which is the sum of all; each other kind of thread takes rights
 * away from itself when it begins.
 */
#pragma once

#include "base/base.h"

/* Before the process has another thread. `kvm`: the calls of the hardware processor too. */
int sandbox_filter_enter(bool kvm, struct error *err);
